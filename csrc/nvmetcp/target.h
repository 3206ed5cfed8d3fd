/* The NVMe/TCP target: the second door. Listeners, connections, controllers and subsystems of one target.
 * Owner: its reactor; control calls come through vn_reactor_call.
 */
#ifndef VN_NVMETCP_TARGET_H
#define VN_NVMETCP_TARGET_H

#include "ctrl/fabrics.h"
#include "include/vhostnvme.h"

struct vn_target {
    uint64_t id;
    struct vn_reactor *reactor;
    struct vn_event_queue *events;
    vn_runtime *owner; /* whose handle it is; control thread only */
    struct vn_target_opts opts; /* with defaults put in */
};

/* Control thread. */
int vn_target_new(const struct vn_target_opts *opts, struct vn_reactor *reactor, struct vn_event_queue *events,
                  uint64_t id, struct vn_target **out);
void vn_target_free(struct vn_target *target);

#endif
