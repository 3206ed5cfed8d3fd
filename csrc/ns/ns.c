/* Namespaces: geometry, identity, access and counters. Called by the controller for each I/O command,
 * by api.c to open and close. Holds the one place where an I/O command meets its backend.
 */
#include "ns/ns.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "core/status.h"
#include "core/util.h"
#include "ns/ns_state.h"
#include "ns/zoned.h"

static int block_shift_of(uint32_t block_size) {
    return block_size == 512 ? 9 : block_size == 4096 ? 12 : -EINVAL;
}

/* A random UUID, version 4 (RFC 4122 section 4.4). */
static int random_uuid(uint8_t uuid[16]) {
    if (getrandom(uuid, 16, 0) != 16)
        return -EIO;
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
    return 0;
}

int vn_ns_create(const struct vn_ns_opts *opts, struct vn_ns **out, char *error, uint32_t error_size) {
    struct vn_ns *ns = calloc(1, sizeof(*ns));
    if (!ns)
        return -ENOMEM;
    int err = vn_backend_open(opts, &ns->backend, error, error_size);
    if (err)
        goto out_free;
    int shift = block_shift_of(ns->backend->block_size ? ns->backend->block_size : opts->block_size);
    assert(shift > 0); /* the backend has checked it */
    if (opts->zoned && (err = vn_zoned_open(opts, &ns->backend, &ns->zoned, error, error_size)))
        goto out_close;
    ns->special = ns->zoned ? VN_NS_SPECIAL_ZONES : 0;
    ns->block_shift = (uint32_t)shift;
    ns->nr_blocks = ns->backend->size >> shift;
    ns->read_only = ns->backend->read_only;
    memcpy(ns->uuid, ns->backend->has_uuid ? ns->backend->uuid : opts->uuid, sizeof(ns->uuid));
    static const uint8_t none[16];
    if (!memcmp(ns->uuid, none, sizeof(none)) && (err = random_uuid(ns->uuid)) < 0) {
        snprintf(error, error_size, "cannot make a UUID: no random bytes from the system");
        goto out_close;
    }
    if (opts->state_path) {
        err = (ns->state_path = strdup(opts->state_path)) ? vn_ns_state_open(ns, error, error_size) : -ENOMEM;
        if (err)
            goto out_state;
    }
    *out = ns;
    return 0;

out_state:
    free(ns->state_path);
out_close:
    vn_backend_close(ns->backend);
out_free:
    free(ns);
    return err;
}

void vn_ns_free(struct vn_ns *ns) {
    vn_ns_state_close(ns);
    free(ns->state_path);
    vn_backend_close(ns->backend);
    free(ns);
}

bool vn_ns_is_attached(const struct vn_ns *ns) {
    for (size_t i = 0; i < VN_NS_MAX_CHANS; i++) {
        if (ns->chans[i])
            return true;
    }
    return false;
}

bool vn_ns_is_shared(const struct vn_ns *ns, const void *owner) {
    for (size_t i = 0; i < VN_NS_MAX_CHANS; i++) {
        if (ns->chans[i] && (!owner || ns->chans[i]->owner != owner))
            return true;
    }
    return false;
}

/* Whether some other drive has it; fabrics have no owner. */
static bool has_other_drive(const struct vn_ns *ns, const void *owner) {
    for (size_t i = 0; i < VN_NS_MAX_CHANS; i++) {
        if (ns->chans[i] && ns->chans[i]->owner && ns->chans[i]->owner != owner)
            return true;
    }
    return false;
}

void vn_ns_expect(struct vn_ns *ns, const void *owner) {
    bool many = owner && has_other_drive(ns, owner);
    for (size_t i = 0; i < VN_NS_MAX_CHANS && !many; i++)
        many = ns->chans[i] && ns->chans[i]->owner && has_other_drive(ns, ns->chans[i]->owner);
    __atomic_store_n(&ns->many_drives, many, __ATOMIC_RELEASE);
}

/* Fabrics, and drives that are not alone, hold the format. */
static void count_holds(struct vn_ns *ns) {
    vn_ns_expect(ns, NULL);
    for (size_t i = 0; i < VN_NS_MAX_CHANS; i++) {
        struct vn_ns_chan *nsc = ns->chans[i];
        bool holds = nsc && (!nsc->owner || vn_ns_is_shared(ns, nsc->owner));
        if (!nsc || nsc->holds == holds)
            continue;
        nsc->holds = holds;
        __atomic_add_fetch(&ns->nr_holds, holds ? 1 : -1u, __ATOMIC_SEQ_CST);
    }
}

int vn_ns_add_chan(struct vn_ns *ns, struct vn_ns_chan *nsc) {
    for (size_t i = 0; i < VN_NS_MAX_CHANS; i++) {
        if (!ns->chans[i]) {
            ns->chans[i] = nsc;
            count_holds(ns);
            return 0;
        }
    }
    return -ENOSPC;
}

static void add_counters(struct vn_ns_counters *sum, const struct vn_ns_counters *counters) {
    const uint64_t *from = (const uint64_t *)counters;
    uint64_t *to = (uint64_t *)sum;
    for (size_t i = 0; i < sizeof(*sum) / sizeof(uint64_t); i++)
        to[i] += vn_counted(&from[i]);
}

void vn_ns_drop_chan(struct vn_ns *ns, struct vn_ns_chan *nsc) {
    for (size_t i = 0; i < VN_NS_MAX_CHANS; i++) {
        if (ns->chans[i] == nsc) {
            ns->chans[i] = NULL;
            add_counters(&ns->past, &nsc->counters);
        }
    }
    if (nsc->holds)
        vn_ns_unhold(ns);
    count_holds(ns);
}

void vn_ns_sum(const struct vn_ns *ns, struct vn_ns_counters *out) {
    *out = ns->past;
    for (size_t i = 0; i < VN_NS_MAX_CHANS; i++) {
        if (ns->chans[i])
            add_counters(out, &ns->chans[i]->counters);
    }
}

uint64_t vn_ns_nr_waiting(const struct vn_ns *ns) {
    uint64_t nr = 0;
    for (size_t i = 0; i < VN_NS_MAX_CHANS; i++)
        nr += ns->chans[i] ? vn_counted(&ns->chans[i]->throttle.nr_waiting) : 0;
    return nr;
}

int vn_ns_chan_open_at(struct vn_ns_chan *nsc, struct vn_reactor *reactor, struct vn_chan **out) {
    return vn_chan_open(nsc->ns->backend, reactor, out);
}

void vn_ns_chan_swap(struct vn_ns_chan *nsc, struct vn_chan *chan) {
    assert(!nsc->inflight);
    vn_chan_close(nsc->chan);
    nsc->chan = chan;
    vn_throttle_move(&nsc->throttle, chan->reactor);
}

static void count_io(struct vn_ns_chan *nsc, const struct vn_req *req) {
    struct vn_ns_counters *counters = &nsc->counters;
    switch (req->op) {
    case VN_OP_READ:
    case VN_OP_COMPARE:
        vn_count(&counters->reads, 1);
        vn_count(&counters->read_bytes, req->length);
        break;
    case VN_OP_WRITE:
        vn_count(&counters->writes, 1);
        vn_count(&counters->write_bytes, req->length);
        break;
    case VN_OP_FLUSH:
        vn_count(&counters->flushes, 1);
        break;
    case VN_OP_WRITE_ZEROES:
        vn_count(&counters->write_zeroes, 1);
        break;
    case VN_OP_DEALLOCATE:
        vn_count(&counters->deallocates, 1);
        break;
    case VN_OP_COUNT:
        break;
    }
}

static inline void leave_flight(struct vn_ns_chan *nsc, const struct vn_req *req) {
    nsc->inflight--;
    if (nsc->nr_before && req->ns_turn != nsc->turn)
        nsc->nr_before--;
}

void vn_ns_enter_flight(struct vn_ns_chan *nsc, struct vn_req *req) {
    req->ns_turn = nsc->turn;
    nsc->inflight++;
}

void vn_ns_leave_flight(struct vn_ns_chan *nsc, const struct vn_req *req) {
    leave_flight(nsc, req);
}

static void on_done_below(struct vn_req *req, void *ctx) {
    leave_flight(ctx, req);
    vn_req_complete(req, req->status);
}

static void on_done(struct vn_req *req, void *ctx) {
    struct vn_ns_chan *nsc = ctx;
    leave_flight(nsc, req);
    if (req->status)
        vn_count(&nsc->counters.errors, 1);
    else
        count_io(nsc, req);
    vn_req_complete(req, req->status);
}

/* One that is stuck for as many drains as turns have numbers is taken for a new one when it ends: then a drain waits on, and
 * says so. None ends too early. */
void vn_ns_chan_begin_drain(struct vn_ns_chan *nsc) {
    nsc->turn++;
    nsc->nr_before = nsc->inflight;
}

/* The range was checked when the command came, but it may have waited since, or be the next of several. */
static bool is_beyond(const struct vn_ns *ns, const struct vn_req *req) {
    return req->op != VN_OP_FLUSH && req->offset + req->length > vn_ns_nr_blocks(ns) << ns->block_shift;
}

static enum vn_submit refuse(struct vn_req *req, vn_status status) {
    vn_req_set_state(req, VN_REQ_TAKEN);
    vn_req_complete(req, vn_status_dnr(status));
    return VN_TAKEN;
}

static inline enum vn_submit hand_over(struct vn_ns_chan *nsc, struct vn_req *req, void (*done)(struct vn_req *, void *)) {
    vn_req_push(req, done, nsc);
    req->ns_turn = nsc->turn;
    nsc->inflight++;
    enum vn_submit answer = vn_chan_submit(nsc->chan, req);
    if (answer == VN_BUSY) {
        nsc->inflight--;
        vn_req_pop(req);
    }
    return answer;
}

enum vn_submit vn_ns_submit_below(struct vn_ns_chan *nsc, struct vn_req *req) {
    return hand_over(nsc, req, on_done_below);
}

/* The backend's turn. */
static enum vn_submit forward(struct vn_ns_chan *nsc, struct vn_req *req) {
    if (is_beyond(nsc->ns, req))
        return refuse(req, VN_SC_LBA_RANGE);
    return hand_over(nsc, req, on_done);
}

/* The namespace's limits first: what waits for them does not hold up the controller's other namespaces. */
static enum vn_submit pass(struct vn_req *req) {
    struct vn_ns_chan *nsc = req->ns;
    if (!(req->limits & VN_REQ_PAID_NS) && !vn_throttle_admit(&nsc->throttle, req))
        return VN_TAKEN;
    if (!(req->limits & VN_REQ_PAID_CTRL) && nsc->ctrl_throttle && !vn_throttle_admit(nsc->ctrl_throttle, req))
        return VN_TAKEN;
    return forward(nsc, req);
}

enum vn_submit vn_ns_submit(struct vn_ns_chan *nsc, struct vn_req *req) {
    bool writes = req->op != VN_OP_READ && req->op != VN_OP_COMPARE && req->op != VN_OP_FLUSH;
    if (nsc->ns->read_only && writes)
        return refuse(req, VN_SC_NS_WRITE_PROTECTED);
    return __builtin_expect(nsc->limited, 0) ? pass(req) : forward(nsc, req);
}

void vn_ns_sync_zones(struct vn_ns_chan *nsc, struct vn_req *req) {
    req->op = VN_OP_COUNT; /* it is none of those that are counted */
    vn_req_set_state(req, VN_REQ_TAKEN);
    vn_req_push(req, on_done, nsc);
    req->ns_turn = nsc->turn;
    nsc->inflight++;
    vn_zoned_sync(nsc->chan, req);
}

void vn_ns_cancel(struct vn_req *req) {
    if (req->limits & VN_REQ_HELD)
        return;
    if (req->limits & VN_REQ_WAITS_NS)
        vn_throttle_cancel(&req->ns->throttle, req);
    else if (req->limits & VN_REQ_WAITS_CTRL)
        vn_throttle_cancel(req->ns->ctrl_throttle, req);
    else if (req->state == VN_REQ_TAKEN)
        vn_chan_cancel(req->ns->chan, req);
}

uint32_t vn_ns_release(struct vn_ns_chan *nsc) {
    uint32_t nr = vn_throttle_release(&nsc->throttle, NULL);
    return nr + (nsc->ctrl_throttle ? vn_throttle_release(nsc->ctrl_throttle, nsc) : 0);
}

void vn_ns_throttle_ctrl(struct vn_throttle *throttle, struct vn_reactor *reactor, uint64_t *marks,
                         struct vn_throttle_counters *counters) {
    *throttle = (struct vn_throttle){.pass = pass, .paid = VN_REQ_PAID_CTRL, .waits = VN_REQ_WAITS_CTRL};
    vn_throttle_init(throttle, reactor, marks, counters);
}

void vn_ns_chan_limit(struct vn_ns_chan *nsc, const struct vn_limiter *limiter) {
    if (limiter)
        vn_throttle_set(&nsc->throttle, limiter);
    nsc->limited = nsc->throttle.limiter.any || (nsc->ctrl_throttle && nsc->ctrl_throttle->limiter.any);
}

int vn_ns_chan_open(struct vn_ns *ns, struct vn_reactor *reactor, uint32_t nsid, struct vn_ns_chan **out) {
    struct vn_ns_chan *nsc = calloc(1, sizeof(*nsc));
    if (!nsc)
        return -ENOMEM;
    nsc->ns = ns;
    nsc->nsid = nsid;
    int err = vn_chan_open(ns->backend, reactor, &nsc->chan);
    if (err) {
        free(nsc);
        return err;
    }
    if (ns->zoned && !(nsc->changed_zones = calloc(1, sizeof(*nsc->changed_zones)))) {
        vn_chan_close(nsc->chan);
        free(nsc);
        return -ENOMEM;
    }
    nsc->throttle = (struct vn_throttle){.pass = pass, .paid = VN_REQ_PAID_NS, .waits = VN_REQ_WAITS_NS};
    vn_throttle_init(&nsc->throttle, reactor, ns->marks, &nsc->counters.waits);
    struct vn_limiter limiter;
    vn_limiter_set(&limiter, &ns->limits); /* the control thread waits for us */
    vn_ns_chan_limit(nsc, &limiter);
    *out = nsc;
    return 0;
}

void vn_ns_chan_close(struct vn_ns_chan *nsc) {
    vn_throttle_fini(&nsc->throttle);
    vn_chan_close(nsc->chan);
    free(nsc->changed_zones);
    nsc->changed_zones = NULL;
    nsc->chan = NULL; /* the rest is freed by the control thread, which still sums its counters */
}
