/* The controller's life and the life of its requests: pool, execution, completion, draining.
 * Called by the doors (fetched commands), by the command files (ends), by api.c (making and freeing).
 */
#include "ctrl/ctrl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/nvme_zns.h"
#include "core/status.h"
#include "core/util.h"
#include "ctrl/bounce.h"
#include "ctrl/drive.h"
#include "ctrl/fabrics.h"
#include "ctrl/format_cmd.h"
#include "ctrl/meta_io.h"

#define NR_REQS (VN_NR_IO_REQS + VN_NR_ADMIN_REQS)
#define BACKEND_ERROR_EVENT_NS 1000000000ull /* tell Python of backend errors at most once a second */

/* One mapping holds all requests, their iovecs and their pages; pages never touched cost nothing. */
static int make_pool(struct vn_ctrl *ctrl) {
    size_t iov_bytes = VN_MAX_IOVECS * sizeof(struct iovec);
    size_t req_bytes = (sizeof(struct vn_req) + 63) & ~63ul;
    size_t bytes = VN_PAGE_SIZE + VN_BOUNCES_BYTES + NR_REQS * (VN_PAGE_SIZE + iov_bytes + req_bytes);
    uint8_t *arena = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED)
        return -errno;
    ctrl->arena = arena;
    ctrl->arena_bytes = bytes;
    ctrl->page = arena;
    vn_bounce_init(ctrl, arena + VN_PAGE_SIZE);
    uint8_t *pages = ctrl->page + VN_PAGE_SIZE + VN_BOUNCES_BYTES;
    uint8_t *reqs = pages + NR_REQS * VN_PAGE_SIZE;
    uint8_t *iovs = reqs + NR_REQS * req_bytes;
    for (size_t i = NR_REQS; i-- > 0;) { /* so that the first ones are at the head of the list */
        struct vn_req *req = (struct vn_req *)(reqs + i * req_bytes);
        req->ctrl = ctrl;
        req->buffer = pages + i * VN_PAGE_SIZE;
        req->iov = (struct iovec *)(iovs + i * iov_bytes);
        req->iov_max = VN_MAX_IOVECS;
        struct vn_req **pool = i < VN_NR_ADMIN_REQS ? &ctrl->admin_pool : &ctrl->io_pool;
        req->next = *pool;
        *pool = req;
    }
    return 0;
}

static void on_drain_timeout(struct vn_timer *timer);

static int init(struct vn_ctrl *ctrl, const struct vn_ctrl_opts *opts, struct vn_reactor *reactor,
                struct vn_event_queue *events, uint64_t id, uint32_t queues_max) {
    memset(ctrl, 0, sizeof(*ctrl));
    ctrl->id = id;
    ctrl->created_ns = vn_monotonic_ns(); /* not the reactor's: this is another thread */
    ctrl->reactor = reactor;
    ctrl->events = events;
    ctrl->max_queues = opts->max_queues ? opts->max_queues : queues_max;
    ctrl->max_entries = opts->max_entries ? opts->max_entries : 1024;
    ctrl->mdts = opts->mdts ? opts->mdts : VN_MAX_MDTS;
    ctrl->cntlid = (uint16_t)opts->cntlid;
    if (ctrl->max_queues > queues_max || ctrl->max_entries < 2 || ctrl->max_entries > 65536 ||
        ctrl->mdts > VN_MAX_MDTS || opts->cntlid > 0xffef)
        return -EINVAL;
    snprintf(ctrl->serial, sizeof(ctrl->serial), "%s", opts->serial ? opts->serial : "vn0");
    snprintf(ctrl->model, sizeof(ctrl->model), "%s", opts->model ? opts->model : "vhostnvme");
    if (opts->subnqn)
        snprintf(ctrl->subnqn, sizeof(ctrl->subnqn), "%s", opts->subnqn);
    else
        snprintf(ctrl->subnqn, sizeof(ctrl->subnqn), "nqn.2026-11.io.vhostnvme:%s", ctrl->serial);
    ctrl->drain_timer.fn = on_drain_timeout;
    vn_ns_throttle_ctrl(&ctrl->throttle, reactor, ctrl->limit_marks, &ctrl->counters.waits);
    vn_ctrl_reset_regs(ctrl);
    vn_queue_reset_all(ctrl);
    vn_feature_reset(ctrl);
    return 0;
}

struct join_call {
    struct vn_drive *drive;
    struct vn_ctrl *ctrl;
};

static int join_on_reactor(void *arg) {
    struct join_call *call = arg;
    return vn_drive_join(call->drive, call->ctrl);
}

static int leave_on_reactor(void *ctrl) {
    vn_drive_leave(ctrl);
    return 0;
}

/* Its own drive is nobody else's yet. */
static int enter_drive(struct vn_ctrl *ctrl, struct vn_drive *drive) {
    char error[128];
    struct join_call call = {drive, ctrl};
    if (drive)
        return vn_reactor_call(ctrl->reactor, join_on_reactor, &call);
    int err = vn_drive_open(NULL, ctrl->reactor, &drive, error, sizeof(error));
    return err ? err : vn_drive_join(drive, ctrl);
}

int vn_ctrl_init(struct vn_ctrl *ctrl, const struct vn_ctrl_opts *opts, struct vn_reactor *reactor,
                 struct vn_event_queue *events, uint64_t id) {
    int err = init(ctrl, opts, reactor, events, id, VN_MAX_IO_QUEUES);
    if (err)
        return err;
    err = make_pool(ctrl);
    if (err)
        return err;
    err = enter_drive(ctrl, opts->drive);
    if (err)
        munmap(ctrl->arena, ctrl->arena_bytes);
    return err;
}

int vn_ctrl_init_fabrics(struct vn_ctrl *ctrl, const struct vn_ctrl_opts *opts, struct vn_reactor *reactor,
                         struct vn_event_queue *events, uint64_t id) {
    int err = init(ctrl, opts, reactor, events, id, VN_MAX_FABRICS_QUEUES);
    if (err)
        return err;
    ctrl->arena_bytes = VN_PAGE_SIZE + VN_BOUNCES_BYTES;
    uint8_t *page = mmap(NULL, ctrl->arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (page == MAP_FAILED)
        return -errno;
    ctrl->arena = ctrl->page = page;
    vn_bounce_init(ctrl, page + VN_PAGE_SIZE);
    return 0;
}

void vn_ctrl_fini(struct vn_ctrl *ctrl) {
    if (ctrl->drive && ctrl->drive->owner)
        vn_reactor_call(ctrl->drive->reactor, leave_on_reactor, ctrl);
    else if (ctrl->drive)
        vn_drive_close(ctrl->drive);
    munmap(ctrl->arena, ctrl->arena_bytes);
    ctrl->arena = NULL;
}

struct vn_req *vn_ctrl_get_req(struct vn_ctrl *ctrl, struct vn_sq *sq) {
    struct vn_req **pool = sq->sqid ? &ctrl->io_pool : &ctrl->admin_pool;
    struct vn_req *req = *pool;
    if (!req)
        return NULL;
    *pool = req->next;
    req->next = NULL;
    req->sq = sq;
    return req;
}

void vn_ctrl_put_req(struct vn_ctrl *ctrl, struct vn_req *req) {
    if (ctrl->door->put) {
        req->sq = NULL;
        ctrl->door->put(req);
        return;
    }
    bool io = (uint8_t *)req->buffer >= ctrl->page + VN_BOUNCES_BYTES + (1 + VN_NR_ADMIN_REQS) * VN_PAGE_SIZE;
    struct vn_req **pool = io ? &ctrl->io_pool : &ctrl->admin_pool;
    req->sq = NULL;
    req->next = *pool;
    *pool = req;
}

void vn_ctrl_enter_flight(struct vn_ctrl *ctrl) {
    if (ctrl->nr_inflight++ == 0)
        ctrl->busy_since_ns = vn_reactor_now_ns(ctrl->reactor);
}

void vn_ctrl_leave_flight(struct vn_ctrl *ctrl) {
    if (--ctrl->nr_inflight)
        return;
    ctrl->idle_since_ns = vn_reactor_now_ns(ctrl->reactor);
    vn_count(&ctrl->counters.busy_ns, ctrl->idle_since_ns - ctrl->busy_since_ns);
    if (ctrl->on_drained) {
        void (*on_drained)(struct vn_ctrl *) = ctrl->on_drained;
        ctrl->on_drained = NULL;
        vn_timer_disarm(ctrl->reactor, &ctrl->drain_timer);
        on_drained(ctrl);
    }
}

static void tell_of_size(struct vn_ns_chan *nsc) {
    vn_aer_ns_changed(nsc->hosts, nsc->nsid);
}

int vn_ctrl_add_ns(struct vn_ctrl *ctrl, struct vn_ns *ns, uint32_t nsid, struct vn_ns_chan **out) {
    if (ctrl->namespaces.by_nsid[nsid])
        return -EEXIST;
    int err = vn_drive_add_ns(ctrl->drive, ns, nsid);
    if (err)
        return err;
    err = vn_ns_chan_open(ns, ctrl->reactor, nsid, out);
    if (err) {
        vn_drive_drop_ns(ctrl->drive, nsid);
        return err;
    }
    struct vn_ns_chan *nsc = *out;
    nsc->ctrl_throttle = &ctrl->throttle;
    nsc->resized = tell_of_size;
    nsc->hosts = ctrl;
    nsc->owner = ctrl->drive;
    vn_ns_chan_limit(nsc, NULL);
    vn_ns_table_add(&ctrl->namespaces, nsc);
    vn_drive_count_change(ctrl);
    vn_aer_ns_changed(ctrl, nsid);
    vn_format_resume(nsc);
    return 0;
}

void vn_ctrl_drop_ns(struct vn_ctrl *ctrl, struct vn_ns_chan *nsc) {
    vn_ns_table_remove(&ctrl->namespaces, nsc->nsid);
    vn_drive_drop_ns(ctrl->drive, nsc->nsid);
    vn_ns_chan_close(nsc);
}

static void count_command(struct vn_ctrl *ctrl, const struct vn_req *req) {
    struct vn_ctrl_counters *counters = &ctrl->counters;
    if (req->sq->sqid == 0) {
        vn_count(&counters->admin_commands, 1);
        return;
    }
    vn_count(&counters->commands, 1);
    if (req->status)
        return;
    if (req->cmd.opcode == VN_IO_READ || req->cmd.opcode == VN_IO_COMPARE) { /* SMART counts them as one (NVM 4.1.4.2) */
        vn_count(&counters->reads, 1);
        vn_count(&counters->read_bytes, req->length);
    } else if (req->cmd.opcode == VN_IO_WRITE || req->cmd.opcode == VN_IO_ZONE_APPEND) {
        vn_count(&counters->writes, 1);
        vn_count(&counters->write_bytes, req->length);
    }
}

static void on_error(struct vn_ctrl *ctrl, struct vn_req *req) {
    unsigned type = VN_STATUS_CODE(req->status) >> 8;
    vn_count(&ctrl->counters.errors, 1);
    if (req->cancelled)
        return;
    vn_log_error(req, req->status);
    req->status |= VN_STATUS_MORE;
    unsigned code = VN_STATUS_CODE(req->status);
    if (req->sq->sqid == 0 || code == VN_SC_COMPARE_FAILURE || (type != 2 && code != VN_SC_CAPACITY_EXCEEDED))
        return;
    if (code >= VN_SC_GUARD_CHECK && code <= VN_SC_REF_TAG_CHECK) { /* what the host sent, or asked for, is not the SSD's fault */
        vn_count(&ctrl->counters.media_errors, req->cmd.opcode != VN_IO_WRITE);
        return;
    }
    vn_count(&ctrl->counters.media_errors, type == 2);
    if (req->io_flags & VN_REQ_ERROR_LBA) /* blocks that a host has marked as unreadable: as it wanted it */
        return;
    vn_log_check_warnings(ctrl); /* a failed flush leaves the namespace read-only */
    uint64_t now = vn_reactor_now_ns(ctrl->reactor);
    if (now - ctrl->last_backend_error_ns >= BACKEND_ERROR_EVENT_NS) {
        ctrl->last_backend_error_ns = now;
        vn_event_emit(ctrl->events, VN_EVENT_BACKEND_ERROR, ctrl->id, VN_STATUS_CODE(req->status), req->cmd.nsid,
                      "namespace %u could not %s: status %x/%02x", req->cmd.nsid,
                      req->op == VN_OP_READ ? "read" : "write", type, req->status & 0xff);
    }
}

/* How a cancelled command ends. Its iovecs were left alone since, so what it has read may not be there. */
static void settle_cancelled(struct vn_req *req) {
    if (req->sq->sqid && req->cmd.opcode == VN_IO_READ && !req->status)
        req->status = VN_SC_ABORT_REQUESTED;
    if ((req->io_flags & VN_REQ_PREEMPTED) && VN_STATUS_CODE(req->status) == VN_SC_ABORT_REQUESTED)
        req->status = VN_SC_ABORT_PREEMPTED;
    if (req->sq->deleting && VN_STATUS_CODE(req->status) == VN_SC_ABORT_REQUESTED)
        req->status = VN_SC_ABORT_SQ_DELETED;
}

/* The door's end of every command. */
static void on_command_done(struct vn_req *req, void *arg) {
    struct vn_ctrl *ctrl = arg;
    vn_req_set_state(req, VN_REQ_DONE);
    if (!req->sq) { /* given up by a reset long ago */
        ctrl->nr_orphans--;
        vn_req_set_state(req, VN_REQ_FREE);
        vn_ctrl_put_req(ctrl, req);
        return;
    }
    struct vn_sq *sq = req->sq;
    struct vn_req *abort_req = req->abort_req;
    if (req->cancelled)
        settle_cancelled(req);
    if (__builtin_expect(req->status || !sq->sqid, 0) && ctrl->drive)
        vn_recent_add(ctrl->drive, req);
    if (req->status)
        on_error(ctrl, req);
    count_command(ctrl, req);
    sq->cq->reserved--;
    /* A reset is silent; on fabrics the admin queue goes on through it, as it carries the properties. */
    if (ctrl->state != VN_CTRL_DISABLING || (ctrl->fabrics && sq->sqid == 0))
        ctrl->door->post(req);
    vn_req_set_state(req, VN_REQ_FREE);
    if (abort_req) {
        abort_req->result = VN_STATUS_CODE(req->status) != VN_SC_ABORT_REQUESTED; /* 1: not aborted (Base 5.1) */
        vn_ctrl_end(abort_req, VN_SC_SUCCESS);
    }
    vn_queue_untrack(sq, req);
    vn_ctrl_put_req(ctrl, req);
    vn_ctrl_leave_flight(ctrl);
}

static inline void begin(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    req->nr_frames = 0;
    req->result = req->result_high = 0;
    req->status = 0;
    req->cancelled = false;
    req->limits = 0;
    req->abort_req = NULL;
    req->ns = NULL;
    req->error_location = 0xffff;
    req->io_flags = 0;
    req->nr_iov = 0;
    req->length = 0;
    vn_req_set_state(req, VN_REQ_FETCHED);
    vn_req_push(req, on_command_done, ctrl);
    vn_queue_track(req->sq, req);
    vn_ctrl_enter_flight(ctrl);
}

void vn_ctrl_begin(struct vn_req *req) {
    begin(req);
}

void vn_ctrl_execute(struct vn_req *req) {
    const struct vn_ctrl *ctrl = req->ctrl;
    begin(req);
    if (ctrl->fabrics && req->cmd.opcode == VN_ADMIN_FABRICS)
        vn_fabrics_execute(req);
    else if (req->sq->sqid)
        vn_io_execute(req);
    else
        vn_admin_execute(req);
}

void vn_ctrl_end(struct vn_req *req, vn_status status) {
    vn_req_complete(req, vn_status_dnr(status));
}

void vn_ctrl_make_busy(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    req->filter[0] = 0; /* link of the busy list, while no backend has the request */
    if (ctrl->busy_last)
        ctrl->busy_last->filter[0] = (uintptr_t)req;
    else
        ctrl->busy_first = req;
    ctrl->busy_last = req;
    if (ctrl->door->busy)
        ctrl->door->busy(ctrl);
}

void vn_ctrl_resume_later(struct vn_req *req, void (*resume)(struct vn_req *req)) {
    req->resume = resume;
    req->limits |= VN_REQ_RESUMES;
    vn_ctrl_make_busy(req);
}

static struct vn_req *take_busy(struct vn_ctrl *ctrl) {
    struct vn_req *req = ctrl->busy_first;
    if (req) {
        ctrl->busy_first = (struct vn_req *)(uintptr_t)req->filter[0];
        if (!ctrl->busy_first)
            ctrl->busy_last = NULL;
    }
    return req;
}

bool vn_ctrl_has_busy(const struct vn_ctrl *ctrl, const struct vn_ns_chan *nsc) {
    for (const struct vn_req *req = ctrl->busy_first; req; req = (const struct vn_req *)(uintptr_t)req->filter[0]) {
        if (req->ns == nsc)
            return true;
    }
    return vn_meta_has_waiting(nsc);
}

bool vn_ctrl_uses_ns(const struct vn_ctrl *ctrl, const struct vn_ns_chan *nsc) {
    return vn_ctrl_has_busy(ctrl, nsc) || vn_format_uses(nsc);
}

/* True: it is on its way, or has ended. */
static bool offer_again(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    if (req->cancelled) {
        vn_req_abandon(req);
        return false;
    }
    if (req->limits & VN_REQ_RESUMES) {
        req->limits &= (uint8_t)~VN_REQ_RESUMES;
        req->resume(req);
        return ctrl->busy_last != req;
    }
    if (vn_ns_submit(req->ns, req) == VN_TAKEN)
        return true;
    vn_ctrl_make_busy(req);
    return false;
}

bool vn_ctrl_retry_busy(struct vn_ctrl *ctrl) {
    struct vn_req *last = ctrl->busy_last;
    bool work = false;
    if (ctrl->shutdown_waits)
        vn_ctrl_continue_shutdown(ctrl);
    while (ctrl->busy_first) {
        struct vn_req *req = take_busy(ctrl);
        work |= offer_again(req);
        if (req == last)
            break; /* each once a turn */
    }
    return work;
}

vn_status vn_ctrl_send(struct vn_req *req, const void *data, uint32_t bytes, uint32_t length) {
    vn_status status = req->ctrl->door->map(req, length);
    if (status)
        return status;
    const uint8_t *from = data;
    uint32_t at = 0;
    for (uint32_t i = 0; i < req->nr_iov; i++) {
        uint8_t *to = req->iov[i].iov_base;
        uint32_t n = (uint32_t)req->iov[i].iov_len;
        uint32_t copied = at < bytes ? (uint32_t)vn_min_u64(n, bytes - at) : 0;
        memcpy(to, from + (copied ? at : 0), copied);
        memset(to + copied, 0, n - copied);
        at += n;
    }
    return VN_SC_SUCCESS;
}

vn_status vn_ctrl_receive(struct vn_req *req, void *data, uint32_t length) {
    vn_status status = req->ctrl->door->map(req, length);
    if (status)
        return status;
    uint8_t *to = data;
    for (uint32_t i = 0; i < req->nr_iov; i++) {
        memcpy(to, req->iov[i].iov_base, req->iov[i].iov_len);
        to += req->iov[i].iov_len;
    }
    return VN_SC_SUCCESS;
}

void vn_ctrl_cancel(struct vn_req *req) {
    req->cancelled = true;
    if (req->limits & VN_REQ_WAITS_META)
        vn_meta_cancel(req);
    else if (req->ns) /* else it waits for something of the drive's, which ends by itself */
        vn_ns_cancel(req);
}

/* Cancel what backends hold, end what waits for a busy one or for tokens. */
void vn_ctrl_cancel_all(struct vn_ctrl *ctrl) {
    if (ctrl->drive)
        vn_decision_drop(ctrl);
    for (size_t i = 0; i < VN_NR_QUEUES; i++) {
        for (struct vn_req *req = ctrl->sqs[i].inflight; req; req = req->next)
            vn_ctrl_cancel(req);
    }
    if (ctrl->shutdown_req.state == VN_REQ_TAKEN)
        vn_ctrl_cancel(&ctrl->shutdown_req);
    vn_throttle_end_cancelled(&ctrl->throttle);
    vn_ns_table_end_cancelled(&ctrl->namespaces);
    vn_ctrl_retry_busy(ctrl);
    vn_format_drop(ctrl);
}

void vn_ctrl_release(struct vn_ctrl *ctrl) {
    for (size_t i = 0; i < VN_NR_QUEUES; i++) { /* also those that have not come to a limit yet, or come to it again */
        for (struct vn_req *req = ctrl->sqs[i].inflight; req; req = req->next)
            req->limits |= VN_REQ_RELEASED;
    }
    vn_throttle_release(&ctrl->throttle, NULL);
    vn_ns_table_release(&ctrl->namespaces);
}

/* A backend that never answers must not hold up a reset: what it has is given up, and goes back to the pool
 * whenever it comes. Its iovecs may still be written by the kernel until then; see docs/guarantees.md. */
void vn_ctrl_give_up(struct vn_ctrl *ctrl) {
    vn_event_emit(ctrl->events, VN_EVENT_MESSAGE, ctrl->id, ctrl->nr_inflight, 0,
                  "%u commands did not end within %u s and were given up: the SSD does not answer",
                  ctrl->nr_inflight, (unsigned)(VN_DRAIN_BOUND_NS / 1000000000u));
    vn_ctrl_cancel_all(ctrl);
    for (size_t i = 0; i < VN_NR_QUEUES; i++) {
        struct vn_sq *sq = &ctrl->sqs[i];
        while (sq->inflight) {
            struct vn_req *req = sq->inflight;
            sq->inflight = req->next;
            req->prev = req->next = NULL;
            req->sq = NULL;
            sq->nr_inflight--;
            sq->cq->reserved--;
            ctrl->nr_inflight--;
            ctrl->nr_orphans++;
            if (req->state == VN_REQ_FETCHED) /* a Delete I/O SQ that waited for one of the others */
                vn_ctrl_end(req, VN_SC_ABORT_REQUESTED);
        }
    }
}

static void on_drain_timeout(struct vn_timer *timer) {
    struct vn_ctrl *ctrl = vn_container_of(timer, struct vn_ctrl, drain_timer);
    vn_ctrl_give_up(ctrl);
    void (*on_drained)(struct vn_ctrl *) = ctrl->on_drained;
    ctrl->on_drained = NULL;
    if (on_drained)
        on_drained(ctrl);
}

void vn_ctrl_drain(struct vn_ctrl *ctrl, void (*on_drained)(struct vn_ctrl *ctrl)) {
    if (ctrl->state == VN_CTRL_DISABLING)
        vn_ctrl_cancel_all(ctrl);
    if (ctrl->nr_inflight == 0) {
        on_drained(ctrl);
        return;
    }
    assert(!ctrl->on_drained || ctrl->on_drained == on_drained);
    ctrl->on_drained = on_drained;
    vn_timer_arm(ctrl->reactor, &ctrl->drain_timer, VN_DRAIN_BOUND_NS);
}

void vn_ctrl_close(struct vn_ctrl *ctrl, void (*on_drained)(struct vn_ctrl *ctrl)) {
    vn_aer_drop_all(ctrl);
    ctrl->csts &= ~VN_CSTS_SHST_MASK; /* a shutdown's flushes end */
    ctrl->on_drained = NULL;          /* of a reset that was under way */
    vn_timer_disarm(ctrl->reactor, &ctrl->drain_timer);
    ctrl->state = VN_CTRL_DISABLING;
    vn_ctrl_drain(ctrl, on_drained);
}
