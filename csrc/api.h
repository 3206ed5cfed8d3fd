/* What the files that implement include/vhostnvme.h share. Control thread only. */
#ifndef VN_API_H
#define VN_API_H

#include "core/event.h"
#include "core/reactor.h"
#include "include/vhostnvme.h"

#define VN_CLOSE_BOUND_MS 4000

struct vn_runtime {
    struct vn_reactor *reactors[VN_MAX_REACTORS];
    uint32_t nr_reactors;
    struct vn_event_queue *events;
    uint32_t nr_handles; /* controllers, namespaces and targets that are open */
    uint64_t last_id;
};

/* Leaves the sentence for vn_last_error and answers err. */
int vn_fail(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Runs fn, and again each ms for so long, until it answers other than -EAGAIN. */
int vn_retry_on_reactor(struct vn_reactor *reactor, int (*fn)(void *), void *arg, uint32_t bound_ms);

#endif
