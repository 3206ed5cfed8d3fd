/* A device changes its reactor: it stops fetching, what is in flight ends, its poll leaves the old ring.
 * Called by api.c, on the reactor that it leaves and then on the one that it comes to.
 */
#include <errno.h>

#include "guest/vfu_dev.h"

bool vn_vfu_dev_is_still(const struct vn_vfu_dev *dev) {
    const struct vn_ctrl *ctrl = dev->ctrl;
    return !dev->lost && !dev->quiesce_pending && !atomic_load_explicit(&dev->memory_lost, memory_order_relaxed) &&
           ctrl->nr_inflight == 0 && !ctrl->busy_first && !ctrl->shutdown && !ctrl->shutdown_waits &&
           !ctrl->on_drained && !vn_ctrl_owes_irqs(ctrl);
}

/* Two steps, so that the client is heard while commands end, and is out of sight for a moment only. */
int vn_vfu_dev_leave(struct vn_vfu_dev *dev) {
    assert(vn_reactor_self() == dev->reactor);
    if (dev->state == VN_DEV_CLOSING || dev->state == VN_DEV_DEAD || dev->ctrl->nr_orphans)
        return -EBUSY;
    if (!vn_vfu_dev_is_still(dev)) {
        if (dev->move == VN_MOVE_NONE)
            vn_ctrl_release(dev->ctrl); /* what waits for tokens goes on, and pays later */
        dev->move = VN_MOVE_DRAINS;
        return -EAGAIN;
    }
    dev->move = VN_MOVE_LEAVES;
    if (dev->poll_armed) {
        vn_reactor_cancel(dev->reactor, &dev->poll_op);
        return -EAGAIN;
    }
    vn_timer_disarm(dev->reactor, &dev->retry_timer);
    vn_timer_disarm(dev->reactor, &dev->irq_timer);
    vn_poller_remove(dev->reactor, &dev->poller);
    vn_vfu_dev_unpin_all(dev);
    return 0;
}

void vn_vfu_dev_stay(struct vn_vfu_dev *dev) {
    assert(vn_reactor_self() == dev->reactor);
    dev->move = VN_MOVE_NONE; /* the next turn goes on fetching, and arms the poll */
}

void vn_vfu_dev_enter(struct vn_vfu_dev *dev) {
    assert(vn_reactor_self() == dev->reactor);
    dev->move = VN_MOVE_NONE;
    dev->readable = true; /* nobody has heard the client meanwhile */
    vn_poller_add(dev->reactor, &dev->poller);
    vn_vfu_dev_pin_all(dev);
}
