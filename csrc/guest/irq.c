/* Interrupts: one for each completion queue that has got entries since the last turn.
 * MSI-X vectors are eventfds that libvfio-user keeps; INTx is a level, repeated when the client unmasks it.
 */
#include "core/util.h"
#include "guest/vfu_dev.h"

static bool msix_enabled(const struct vn_vfu_dev *dev) {
    return dev->msix_control[1] & 0x80; /* Message Control, bit 15: MSI-X Enable */
}

static void trigger(struct vn_vfu_dev *dev, uint32_t vector) {
    /* No eventfd yet is normal: early on, and for ever with a host that polls. */
    if (vfu_irq_trigger(dev->ctx, vector) == 0)
        vn_count(&dev->ctrl->counters.interrupts, 1);
}

/* Whether the INTx line is up: some queue with interrupts holds entries that the host has not consumed. */
static bool line_is_up(struct vn_ctrl *ctrl) {
    if (ctrl->intms & 1)
        return false;
    for (size_t i = 0; i < VN_NR_QUEUES; i++) {
        const struct vn_cq *cq = &ctrl->cqs[i];
        if (cq->exists && cq->ien && cq->doorbell &&
            (__atomic_load_n(cq->doorbell, __ATOMIC_RELAXED) & 0xffff) != cq->tail)
            return true;
    }
    return false;
}

void vn_irq_flush(struct vn_vfu_dev *dev) {
    struct vn_ctrl *ctrl = dev->ctrl;
    if (dev->state != VN_DEV_ATTACHED || !ctrl->irq_due)
        return;
    ctrl->irq_due = false;
    bool msix = msix_enabled(dev);
    for (size_t i = 0; i <= ctrl->features.nr_cqs; i++) {
        struct vn_cq *cq = &ctrl->cqs[i];
        if (!cq->irq_due)
            continue;
        cq->irq_due = false;
        if (msix)
            trigger(dev, cq->vector);
    }
    if (!msix && line_is_up(ctrl))
        trigger(dev, 0);
}

void vn_irq_mask_changed(struct vn_ctrl *ctrl) {
    struct vn_vfu_dev *dev = ctrl->door_ctx;
    if (dev->state == VN_DEV_ATTACHED && !msix_enabled(dev) && line_is_up(ctrl))
        trigger(dev, 0);
}

void vn_irq_unmasked(vfu_ctx_t *ctx, uint32_t start, uint32_t count, bool mask) {
    (void)start;
    (void)count;
    struct vn_vfu_dev *dev = vfu_get_private(ctx);
    if (!mask)
        vn_irq_mask_changed(dev->ctrl);
}
