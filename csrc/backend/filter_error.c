/* The error filter: refuses some commands before they reach the backend, at random from a seed or all after the
 * first so many, so that what is above can be tested. Nothing of a refused command has been done.
 * Put into the stack by vn_backend_open.
 */
#include <errno.h>
#include <stdlib.h>

#include "backend/backend.h"
#include "core/status.h"
#include "include/vhostnvme.h"

#define PPM 1000000u

struct error_filter {
    struct vn_backend backend;
    uint32_t ppm;   /* of the commands in ops */
    uint32_t ops;   /* mask of 1 << enum vn_op */
    uint32_t after; /* commands in ops that pass first */
    int err;
    uint64_t seed;
};

struct error_chan {
    struct vn_chan chan;
    struct vn_chan *next;
    uint64_t nr_seen; /* commands in ops, on this channel */
    uint64_t random;  /* state; every channel starts from the seed */
};

/* A xorshift generator (Marsaglia 2003, triple 13, 7, 17). */
static uint32_t draw(struct error_chan *ec, uint32_t below) {
    ec->random ^= ec->random << 13;
    ec->random ^= ec->random >> 7;
    ec->random ^= ec->random << 17;
    return (uint32_t)((ec->random >> 32) % below);
}

static enum vn_submit error_submit(struct vn_chan *chan, struct vn_req *req) {
    struct error_chan *ec = (struct error_chan *)chan;
    const struct error_filter *filter = (const struct error_filter *)chan->backend;
    if (!(filter->ops & (1u << req->op)))
        return vn_chan_submit(ec->next, req);
    uint64_t random = ec->random;
    bool fails = ec->nr_seen >= filter->after && draw(ec, PPM) < filter->ppm;
    if (!fails) {
        enum vn_submit answer = vn_chan_submit(ec->next, req);
        if (answer == VN_TAKEN)
            ec->nr_seen++;
        else
            ec->random = random; /* the same command comes again and must meet the same fate */
        return answer;
    }
    ec->nr_seen++;
    if (req->op == VN_OP_FLUSH)
        vn_backend_latch(chan->backend, filter->err);
    bool writes = req->op != VN_OP_READ && req->op != VN_OP_COMPARE;
    vn_req_complete(req, vn_status_from_errno(filter->err, writes));
    return VN_TAKEN;
}

static void error_cancel(struct vn_chan *chan, struct vn_req *req) {
    vn_chan_cancel(((struct error_chan *)chan)->next, req);
}

static int error_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    struct error_chan *ec = calloc(1, sizeof(*ec));
    if (!ec)
        return -ENOMEM;
    int err = vn_chan_open(backend->next, reactor, &ec->next);
    if (err) {
        free(ec);
        return err;
    }
    ec->chan = (struct vn_chan){.backend = backend, .reactor = reactor};
    /* the generator must not start at zero, and close seeds should differ at once */
    ec->random = (((const struct error_filter *)backend)->seed + 1) * 0x9e3779b97f4a7c15ull;
    ec->random = ec->random ? ec->random : 1;
    *out = &ec->chan;
    return 0;
}

static void error_chan_close(struct vn_chan *chan) {
    struct error_chan *ec = (struct error_chan *)chan;
    vn_chan_close(ec->next);
    free(ec);
}

static void error_close(struct vn_backend *backend) {
    free(backend);
}

static const struct vn_backend_ops error_ops = {
    .name = "error",
    .close = error_close,
    .chan_open = error_chan_open,
    .chan_close = error_chan_close,
    .submit = error_submit,
    .cancel = error_cancel,
};

int vn_filter_error_open(const struct vn_ns_opts *opts, struct vn_backend *next, struct vn_backend **out) {
    struct error_filter *filter = calloc(1, sizeof(*filter));
    if (!filter)
        return -ENOMEM;
    *filter = (struct error_filter){
        .backend = vn_backend_above(next, &error_ops),
        .ppm = opts->error_ppm,
        .ops = opts->error_ops ? opts->error_ops : (1u << VN_OP_COUNT) - 1,
        .after = opts->error_after,
        .err = opts->error_errno ? (int)opts->error_errno : EIO,
        .seed = opts->error_seed,
    };
    *out = &filter->backend;
    return 0;
}
