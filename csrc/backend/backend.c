/* Opens and closes a backend with its filters, and checks the contract of backend.h on every hop.
 * Called by namespaces; filters call the vn_chan_ functions for the backend below them.
 */
#include "backend/backend.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "include/vhostnvme.h"

int vn_backend_fail(char *error, uint32_t error_size, int err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error, error_size, format, args);
    va_end(args);
    return -err;
}

/* --- The stack --- */

static int open_filters(const struct vn_ns_opts *opts, struct vn_backend **top, char *error, uint32_t error_size) {
    int err = 0;
    if (opts->error_ppm)
        err = vn_filter_error_open(opts, *top, top);
    if (!err && opts->delay_us)
        err = vn_filter_delay_open(opts, *top, top);
    if (err)
        return vn_backend_fail(error, error_size, -err, "cannot add a filter: %s", strerror(-err));
    return opts->record_path ? vn_filter_record_open(opts, *top, top, error, error_size) : 0;
}

int vn_backend_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size) {
    static const struct {
        const char *name;
        int (*open)(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size);
        bool has_format; /* of its own: the block size may be left out */
    } engines[] = {{"file", vn_file_open, false},
                   {"mem", vn_mem_open, false},
                   {"null", vn_null_open, false},
                   {"forward", vn_forward_open, true},
                   {"mirror", vn_mirror_open, true}};

    if (error_size)
        error[0] = '\0';
    for (size_t i = 0; i < VN_ARRAY_SIZE(engines); i++) {
        if (!opts->backend || strcmp(opts->backend, engines[i].name) != 0)
            continue;
        if (opts->block_size != 512 && opts->block_size != 4096 && !(engines[i].has_format && !opts->block_size))
            return vn_backend_fail(error, error_size, EINVAL, "block size %u is not possible: take 512 or 4096",
                                   opts->block_size);
        if (opts->flags & VN_NS_WINDOW && engines[i].open != vn_file_open)
            return vn_backend_fail(error, error_size, EINVAL, "only a file or a block device can be served in part");
        struct vn_backend *backend = NULL;
        int err = engines[i].open(opts, &backend, error, error_size);
        if (err)
            return err;
        err = open_filters(opts, &backend, error, error_size);
        if (err) {
            vn_backend_close(backend);
            return err;
        }
        *out = backend;
        return 0;
    }
    return vn_backend_fail(error, error_size, EINVAL, "there is no backend \"%s\": take file, mem, null, forward or mirror",
                           opts->backend ? opts->backend : "");
}

void vn_backend_close(struct vn_backend *backend) {
    while (backend) {
        struct vn_backend *next = backend->next;
        backend->ops->close(backend);
        backend = next;
    }
}

int vn_backend_resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size) {
    for (struct vn_backend *at = backend; at; at = at->next) {
        if (!at->ops->resize && !at->next)
            return vn_backend_fail(error, error_size, ENOTSUP, "a namespace on %s keeps its size", at->ops->name);
        int err = at->ops->resize ? at->ops->resize(at, size, error, error_size) : 0;
        if (err)
            return err;
    }
    for (struct vn_backend *at = backend; at; at = at->next)
        __atomic_store_n(&at->size, size, __ATOMIC_RELEASE);
    return 0;
}

static const struct vn_backend *bottom_of(const struct vn_backend *backend) {
    while (backend->next)
        backend = backend->next;
    return backend;
}

uint64_t vn_backend_full_size(struct vn_backend *backend) {
    struct vn_backend *bottom = (struct vn_backend *)bottom_of(backend);
    return bottom->ops->full_size ? bottom->ops->full_size(bottom) : 0;
}

void vn_backend_latch(struct vn_backend *backend, int err) {
    struct vn_backend *bottom = (struct vn_backend *)bottom_of(backend);
    int none = 0; /* the first failure is the one that is told */
    __atomic_compare_exchange_n(&bottom->latched, &none, err, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

const int *vn_backend_latch_of(const struct vn_backend *backend) {
    return &bottom_of(backend)->latched;
}

int vn_backend_latched(const struct vn_backend *backend) {
    return __atomic_load_n(vn_backend_latch_of(backend), __ATOMIC_ACQUIRE);
}

void vn_backend_tell_to(struct vn_backend *backend, struct vn_event_queue *events, uint64_t id) {
    struct vn_backend *bottom = (struct vn_backend *)bottom_of(backend);
    bottom->events = events;
    bottom->events_id = id;
    if (bottom->ops->told)
        bottom->ops->told(bottom);
}

uint64_t vn_backend_bounced(const struct vn_backend *backend) {
    return __atomic_load_n(&bottom_of(backend)->bounced, __ATOMIC_RELAXED);
}

struct vn_backend vn_backend_above(struct vn_backend *next, const struct vn_backend_ops *ops) {
    struct vn_backend above = *next;
    above.ops = ops;
    above.next = next;
    above.bounced = 0;
    above.latched = 0;
    return above;
}

/* --- The checked hops --- */

/* Summing up the iovecs on every hop is for test builds; the other checks cost a few instructions and stay. */
static void check_iov(const struct vn_req *req) {
    if (!VN_CHECKS_ALL_HOPS)
        return;
    if (req->op != VN_OP_READ && req->op != VN_OP_WRITE && req->op != VN_OP_COMPARE)
        return;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < req->nr_iov; i++)
        sum += req->iov[i].iov_len;
    assert(sum == req->length);
}

static void check_contract(const struct vn_chan *chan, const struct vn_req *req) {
    const struct vn_backend *backend = chan->backend;
    assert(vn_reactor_is_here(chan->reactor));
    assert(req->state == VN_REQ_FETCHED || req->state == VN_REQ_TAKEN);
    assert((unsigned)req->op < VN_OP_COUNT);
    assert(req->nr_frames > 0);
    if (req->op != VN_OP_FLUSH) {
        uint64_t size = __atomic_load_n(&backend->size, __ATOMIC_RELAXED);
        assert(req->length <= size && req->offset <= size - req->length);
        assert(((req->offset | req->length) & (backend->block_min - 1)) == 0);
    }
    assert(!(req->io_flags & VN_REQ_FUA) || req->op == VN_OP_WRITE || req->op == VN_OP_WRITE_ZEROES);
    check_iov(req);
    (void)backend;
}

int vn_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    assert(vn_reactor_is_here(reactor));
    int err = backend->ops->chan_open(backend, reactor, out);
    if (err)
        return err;
    assert((*out)->backend == backend && (*out)->reactor == reactor);
    return 0;
}

void vn_chan_close(struct vn_chan *chan) {
    assert(vn_reactor_is_here(chan->reactor));
    chan->backend->ops->chan_close(chan);
}

/* What is refused in one place, whatever the stack: changes to what is read-only or has a failed flush behind it. */
static vn_status refusal(const struct vn_backend *backend, const struct vn_req *req) {
    if (req->op == VN_OP_READ || req->op == VN_OP_COMPARE)
        return VN_SC_SUCCESS;
    if (vn_backend_latched(backend))
        return vn_status_dnr(req->op == VN_OP_FLUSH ? VN_SC_WRITE_FAULT : VN_SC_NS_WRITE_PROTECTED);
    if (backend->read_only && req->op != VN_OP_FLUSH)
        return vn_status_dnr(VN_SC_NS_WRITE_PROTECTED);
    return VN_SC_SUCCESS;
}

enum vn_submit vn_chan_submit(struct vn_chan *chan, struct vn_req *req) {
    check_contract(chan, req);
    uint8_t nr_frames = req->nr_frames;
    (void)nr_frames;
    bool first_hop = req->state == VN_REQ_FETCHED;
    if (first_hop) {
        /* before the call: the request may be complete and in other use when submit returns */
        vn_req_set_state(req, VN_REQ_TAKEN);
        vn_status status = refusal(chan->backend, req);
        if (status) {
            vn_req_complete(req, status);
            return VN_TAKEN;
        }
    }
    enum vn_submit answer = chan->backend->ops->submit(chan, req);
    if (answer == VN_BUSY) {
        assert(req->state == VN_REQ_TAKEN && req->nr_frames == nr_frames);
        if (first_hop)
            vn_req_set_state(req, VN_REQ_FETCHED);
    }
    return answer;
}

void vn_chan_cancel(struct vn_chan *chan, struct vn_req *req) {
    assert(vn_reactor_is_here(chan->reactor));
    assert(req->state == VN_REQ_TAKEN);
    if (chan->backend->ops->cancel)
        chan->backend->ops->cancel(chan, req);
}
