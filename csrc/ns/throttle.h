/* Where commands wait for the tokens of a limit: two queues, for what reads and what writes, and a timer that is armed
 * while either holds something. A namespace channel has one, a controller has one over all its namespaces.
 * A command that waits is FETCHED, its links are in req->filter; it waits in one place at a time. Nothing here
 * allocates: the queues are bounded by the controller's requests.
 */
#ifndef VN_THROTTLE_H
#define VN_THROTTLE_H

#include "backend/backend.h"
#include "core/limit.h"

struct vn_throttle_counters { /* one writer: the reactor */
    uint64_t throttled; /* commands that had to wait */
    uint64_t waited_ns; /* all together */
};

struct vn_waiting {
    struct vn_req *first, *last;
};

/* Owner: reactor. */
struct vn_throttle {
    struct vn_reactor *reactor;
    struct vn_limiter limiter;
    struct vn_throttle_counters *counters;
    struct vn_waiting queues[2]; /* [0]: reads, [1]: all else */
    uint64_t nr_waiting;         /* one writer; any thread may read it */
    struct vn_timer timer;
    uint8_t paid;  /* which of req->limits' bits say that a command has paid here, */
    uint8_t waits; /* ... and that it waits here */
    /* The command has paid: pass it on. BUSY: it comes again. */
    enum vn_submit (*pass)(struct vn_req *req);
};

void vn_throttle_init(struct vn_throttle *throttle, struct vn_reactor *reactor, uint64_t *marks,
                      struct vn_throttle_counters *counters);
/* Nothing waits any more. */
void vn_throttle_fini(struct vn_throttle *throttle);
/* Nothing waits: on the old reactor, the last thing there. */
void vn_throttle_move(struct vn_throttle *throttle, struct vn_reactor *reactor);
/* New rates; what waits is looked at on the next turn. */
void vn_throttle_set(struct vn_throttle *throttle, const struct vn_limiter *limiter);
/* True: the command has paid, and goes on. False: it waits, and is passed on when it is due. */
bool vn_throttle_admit(struct vn_throttle *throttle, struct vn_req *req);
/* The command, which waits here, has req->cancelled set: it ends on the next turn. */
void vn_throttle_cancel(struct vn_throttle *throttle, struct vn_req *req);
/* Ends all that has been cancelled, now. */
void vn_throttle_end_cancelled(struct vn_throttle *throttle);
/* What waits for this channel, or for any when it is NULL, goes on from the next turn on: what it takes is a debt that
 * later commands pay. Answers how many there are. */
uint32_t vn_throttle_release(struct vn_throttle *throttle, const struct vn_ns_chan *nsc);

/* What a request's limits bits say. */
#define VN_REQ_PAID_NS (1u << 0)
#define VN_REQ_PAID_CTRL (1u << 1)
#define VN_REQ_PAID (VN_REQ_PAID_NS | VN_REQ_PAID_CTRL)
#define VN_REQ_WAITS_NS (1u << 2)
#define VN_REQ_WAITS_CTRL (1u << 3)
#define VN_REQ_RELEASED (1u << 4) /* pays without waiting */
#define VN_REQ_WAITS_META (1u << 7) /* for a slot of the namespace's metadata: ctrl/meta_ops.c */
#define VN_REQ_HELD (1u << 6)     /* it waits for something of the controller's own, and goes on by itself */
#define VN_REQ_RESUMES (1u << 5)  /* on the busy list: not submitted again, but resumed (ctrl.h) */

#endif
