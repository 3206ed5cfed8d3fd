/* Interrupts: one for each completion queue that has got entries since the last turn, unless the host is still at
 * those of the one before: its head will move, and then it is told only if it has left something.
 * MSI-X vectors are eventfds that libvfio-user keeps; INTx is a level, repeated when the client unmasks it.
 */
#include "core/util.h"
#include "guest/vfu_dev.h"

#define IRQ_HOLD_NS 100000ull /* for a handler that is at work */
#define BATCH_MAX 8u
#define BATCHES_TO_TRY 128u /* interrupts sent at once before one waits for a second entry */
#define BATCHES_TO_GROW 16u

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

/* A host with several commands under way sends the next one while a completion is still untold, and is better off
 * when it is told of both at once; one at depth 1 waits for it. Which it is shows only by waiting: once in so many
 * interrupts one waits for a second entry. When that comes, the next ones wait too, and after a while for more. */
static bool batch_is_full(struct vn_cq *cq, uint64_t now_ns) {
    uint32_t unseen = vn_queue_distance(cq->head, cq->tail, cq->size);
    if (cq->due_tail != cq->tail) {
        cq->due_tail = cq->tail;
        cq->due_ns = now_ns;
    }
    if (unseen >= cq->batch) {
        uint32_t many = cq->batch == 1 ? BATCHES_TO_TRY : BATCHES_TO_GROW;
        if (++cq->nr_batches >= many && cq->batch < BATCH_MAX) {
            cq->batch++;
            cq->nr_batches = 0;
        }
        return true;
    }
    if (now_ns - cq->due_ns < VN_IRQ_BATCH_NS)
        return false;
    cq->batch = unseen > 1 ? (uint8_t)unseen : 1; /* no more came */
    cq->nr_batches = 0;
    return true;
}

enum irq_answer { IRQ_SEND, IRQ_HOLD, IRQ_NONE };

/* An interrupt is due: what becomes of it. A handler takes all that it finds before it moves the head, most likely also
 * what was posted since the interrupt that it answers; so until the head moves another one is not sent. How long
 * that may take is bounded, lest a host that loses interrupts should wait for ever. */
static enum irq_answer answer_due(struct vn_ctrl *ctrl, struct vn_cq *cq, uint64_t now_ns) {
    vn_doorbell_take_head(ctrl, cq);
    if (cq->head == cq->tail)
        return IRQ_NONE; /* it has seen all */
    if (cq->head != cq->irq_head)
        cq->irq_head = VN_NO_IRQ;
    else if (now_ns - cq->irq_ns < IRQ_HOLD_NS)
        return IRQ_HOLD;
    return batch_is_full(cq, now_ns) ? IRQ_SEND : IRQ_HOLD;
}

static void flush_msix(struct vn_vfu_dev *dev) {
    struct vn_ctrl *ctrl = dev->ctrl;
    uint64_t now_ns = vn_reactor_now_ns(dev->reactor), held = 0;
    if (ctrl->admin_irq_due)
        trigger(dev, ctrl->cqs[0].vector);
    for (uint64_t mask = ctrl->irqs_due; mask; mask &= mask - 1) {
        struct vn_cq *cq = &ctrl->cqs[__builtin_ctzll(mask) + 1];
        enum irq_answer answer = answer_due(ctrl, cq, now_ns);
        if (answer == IRQ_HOLD) {
            held |= vn_queue_bit(cq->cqid);
            continue;
        }
        if (answer == IRQ_SEND) {
            cq->irq_head = cq->head;
            cq->irq_ns = now_ns;
            trigger(dev, cq->vector);
        }
    }
    ctrl->irqs_due = held;
    if (held && !dev->irq_timer.armed)
        vn_timer_arm(dev->reactor, &dev->irq_timer, VN_IRQ_BATCH_NS);
}

void vn_irq_flush(struct vn_vfu_dev *dev) {
    struct vn_ctrl *ctrl = dev->ctrl;
    if (dev->state != VN_DEV_ATTACHED || !vn_ctrl_owes_irqs(ctrl))
        return;
    if (msix_enabled(dev)) {
        flush_msix(dev);
    } else {
        ctrl->irqs_due = 0;
        if (line_is_up(ctrl))
            trigger(dev, 0);
    }
    ctrl->admin_irq_due = false;
}

void vn_irq_timeout(struct vn_timer *timer) {
    vn_irq_flush(vn_container_of(timer, struct vn_vfu_dev, irq_timer));
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
