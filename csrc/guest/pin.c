/* The guest's memory pinned for the reactor's io_uring, where that is asked for and the kernel takes it.
 * Called by vfu_dev.c when memory comes and goes, and by move.c.
 */
#include <errno.h>
#include <string.h>

#include "guest/vfu_dev.h"

#define WORTH_BYTES (1u << 20) /* smaller regions are ROMs and the like: nobody transfers data there */

static void told(void *owner, const void *base, uint64_t pinned, uint64_t len, int err) {
    const struct vn_vfu_dev *dev = owner;
    (void)base;
    if (err)
        vn_event_emit(dev->ctrl->events, VN_EVENT_MESSAGE, dev->ctrl->id, 0, 0,
                      "the kernel pins %lu MiB of %lu MiB of the client's memory, and then says: %s; the rest is served "
                      "without%s", pinned >> 20, len >> 20, strerror(-err),
                      err == -ENOMEM ? ": 'ulimit -l' sets how much may be pinned" : "");
}

void vn_vfu_dev_pin(struct vn_vfu_dev *dev, const void *base, uint64_t len) {
    int err = len < WORTH_BYTES ? 0 : vn_reactor_pin(dev->reactor, base, len, told, dev);
    if (err)
        told(dev, base, 0, len, err);
}

void vn_vfu_dev_unpin(struct vn_vfu_dev *dev, const void *base) {
    vn_reactor_unpin(dev->reactor, base);
}

void vn_vfu_dev_pin_all(struct vn_vfu_dev *dev) {
    for (uint32_t i = 0; i < dev->mem.nr; i++)
        vn_vfu_dev_pin(dev, dev->mem.regions[i].hva, dev->mem.regions[i].len);
}

void vn_vfu_dev_unpin_all(struct vn_vfu_dev *dev) {
    for (uint32_t i = 0; i < dev->mem.nr; i++)
        vn_vfu_dev_unpin(dev, dev->mem.regions[i].hva);
}
