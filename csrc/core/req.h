/* A request: one NVMe command on its way through the program, by whichever door it came in.
 * Owner thread: the home reactor of its controller, at every moment.
 * Ownership: controller (fetched) -> backend (submit answered TAKEN) -> controller (completed) -> pool.
 */
#ifndef VN_CORE_REQ_H
#define VN_CORE_REQ_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "core/nvme.h"

struct vn_ctrl;
struct vn_ns_chan;
struct vn_meta_slot;
struct vn_sq;
struct vn_bounce;
struct vn_req;

enum vn_op {
    VN_OP_READ,
    VN_OP_WRITE,
    VN_OP_FLUSH,
    VN_OP_WRITE_ZEROES,
    VN_OP_DEALLOCATE,
    VN_OP_COMPARE,
    VN_OP_COUNT,
};

#define VN_REQ_FUA (1u << 0)       /* durable before it completes */
#define VN_REQ_MAY_UNMAP (1u << 1) /* Write Zeroes may give the space back */
#define VN_REQ_ERROR_LBA (1u << 3) /* the controller's: error_lba says where it failed */
#define VN_REQ_PREEMPTED (1u << 4) /* the controller's: its host lost its registration by Preempt and Abort */
#define VN_REQ_BELOW (1u << 2)     /* offset is the backend's: metadata, which has no block addresses (vn_ns_submit_below) */

/* FREE -> FETCHED (controller) -> TAKEN (backend) -> DONE (controller) -> FREE */
enum vn_req_state { VN_REQ_FREE, VN_REQ_FETCHED, VN_REQ_TAKEN, VN_REQ_DONE };

#define VN_REQ_LAYERS 10 /* continuations one request can hold: door, command, buffer, zone, its step, ns, zones, and filters */

/* What a layer wants to have called when the layers below it are done. */
struct vn_req_frame {
    void (*fn)(struct vn_req *req, void *ctx);
    void *ctx;
};

struct vn_req {
    /* the I/O as namespaces and backends see it */
    enum vn_op op;
    uint32_t io_flags; /* VN_REQ_FUA ... */
    uint64_t offset;   /* bytes from the start of the namespace */
    uint64_t length;   /* bytes; equals the sum of the iovecs for READ, WRITE and COMPARE */
    struct iovec *iov; /* into guest memory; valid until completion */
    uint32_t nr_iov;
    vn_status status; /* set by vn_req_complete */
    uint8_t state;    /* enum vn_req_state */
    uint8_t nr_frames;
    bool cancelled; /* the host has gone or reset: do not touch iov any more, complete soon */
    uint8_t limits; /* whether it has paid, and where it waits for tokens: ns/throttle.h */
    uint8_t ns_turn; /* of its namespace's channel, when it was passed on: ns/ns.h */
    struct vn_req_frame frames[VN_REQ_LAYERS];
    uint64_t engine[20]; /* scratch of the backend at the bottom, from submit to completion */
    uint64_t filter[12]; /* scratch of filters: four words for each of three */

    /* the command as the controller sees it */
    struct vn_sqe cmd;
    struct vn_ctrl *ctrl;
    struct vn_ns_chan *ns;
    struct vn_sq *sq;
    uint32_t result; /* CQE dword 0 */
    uint32_t result_high; /* CQE dword 1: of a property of eight bytes, on fabrics */
    uint16_t error_location; /* parameter error location for the error log, FFFFh: none */
    uint16_t iov_max;
    void *buffer;          /* one page of the controller's own: admin payloads, DSM ranges */
    uint32_t step;         /* progress of a command that takes several backend operations */
    uint32_t nr_steps;
    uint64_t start_ns;     /* when it was fetched */
    void (*resume)(struct vn_req *req); /* what goes on when it is offered again: with VN_REQ_RESUMES */
    struct vn_req *fused;     /* the other one of a pair, while both are under way */
    uint64_t error_lba;       /* for the error log, with VN_REQ_ERROR_LBA */
    struct vn_bounce *bounce; /* of a command that moves data through the device's own memory, while it runs */
    struct vn_meta_slot *slot; /* of a command with metadata, once it has one: ctrl/meta_io.c */
    struct vn_req *abort_req; /* the Abort command that waits for this one to end */
    struct vn_req *prev, *next; /* pool, or the in-flight list of its queue */
};

/* The one setter of a request's state. */
static inline void vn_req_set_state(struct vn_req *req, enum vn_req_state state) {
    uint8_t before = req->state;
    bool may_follow = state == VN_REQ_FETCHED ? before == VN_REQ_FREE || before == VN_REQ_TAKEN /* for a next step */
                      : state == VN_REQ_TAKEN ? before == VN_REQ_FETCHED
                      : state == VN_REQ_DONE  ? before == VN_REQ_TAKEN || before == VN_REQ_FETCHED
                                              : before == VN_REQ_DONE;
    assert(may_follow);
    (void)may_follow;
    req->state = (uint8_t)state;
}

/* Have fn(req, ctx) called when everything below is done; req->status then holds the outcome. */
static inline void vn_req_push(struct vn_req *req, void (*fn)(struct vn_req *, void *), void *ctx) {
    assert(req->nr_frames < VN_REQ_LAYERS);
    req->frames[req->nr_frames].fn = fn;
    req->frames[req->nr_frames++].ctx = ctx;
}

/* Undo vn_req_push when the layer below answered BUSY. */
static inline void vn_req_pop(struct vn_req *req) {
    assert(req->nr_frames > 0);
    req->nr_frames--;
}

/* The only way back. Called exactly once for each TAKEN, on the owner thread, possibly from within submit. */
static inline void vn_req_complete(struct vn_req *req, vn_status status) {
    assert(req->nr_frames > 0);
    req->status = status;
    const struct vn_req_frame *frame = &req->frames[--req->nr_frames];
    frame->fn(req, frame->ctx);
}

/* What waited before a backend had it ends: without DNR, because later it may well succeed. The layers above are told as if a
 * backend had it, so that they need not know. */
static inline void vn_req_abandon(struct vn_req *req) {
    vn_req_set_state(req, VN_REQ_TAKEN);
    vn_req_complete(req, VN_SC_ABORT_REQUESTED);
}

#endif
