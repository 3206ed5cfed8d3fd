/* The load generator's way to a namespace elsewhere: requests of its own on the forwarder's channel, on a reactor that is
 * driven turn by turn by the load's loop. So what is measured is the initiator that guests use. Called by csrc/host.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "host/perf_bridge.h"
#include "include/vhostnvme.h"

struct vn_perf_bridge {
    struct vn_perf_bridge_opts opts;
    struct vn_backend *backend;
    struct vn_reactor *reactor;
    struct vn_chan *chan;
    struct vn_req *reqs; /* by tag */
    struct iovec *iovs;
    uint32_t nr_taken; /* by the channel */
    struct vn_req *first, *last; /* those that the channel had no room for, oldest first */
};

int vn_perf_bridge_open(const struct vn_perf_bridge_opts *opts, struct vn_perf_bridge **out,
                        struct vn_perf_bridge_facts *facts, char *error, uint32_t error_size) {
    struct vn_ns_opts ns_opts = {.backend = "forward", .remote = opts->remote};
    struct vn_perf_bridge *bridge = calloc(1, sizeof(*bridge));
    int err = -ENOMEM;

    *out = NULL;
    if (!bridge)
        return vn_backend_fail(error, error_size, ENOMEM, "no memory for a load");
    bridge->opts = *opts;
    bridge->reqs = calloc(opts->nr_tags, sizeof(*bridge->reqs));
    bridge->iovs = calloc(opts->nr_tags, sizeof(*bridge->iovs));
    if (!bridge->reqs || !bridge->iovs)
        vn_backend_fail(error, error_size, ENOMEM, "no memory for %u commands", opts->nr_tags);
    else
        err = vn_backend_open(&ns_opts, &bridge->backend, error, error_size);
    if (err) {
        vn_perf_bridge_close(bridge);
        return err;
    }
    *facts = (struct vn_perf_bridge_facts){.bytes = bridge->backend->size, .block_bytes = bridge->backend->block_min};
    *out = bridge;
    return 0;
}

void vn_perf_bridge_close(struct vn_perf_bridge *bridge) {
    if (!bridge)
        return;
    if (bridge->backend)
        vn_backend_close(bridge->backend);
    free(bridge->reqs);
    free(bridge->iovs);
    free(bridge);
}

/* --- On the reactor --- */

struct visit {
    struct vn_perf_bridge *const *bridges;
    uint32_t nr;
    struct vn_reactor *reactor;
    int (*fn)(void *arg);
    void *arg;
    bool ran;
};

/* A load that failed leaves commands behind: they end soon, and touch no buffer afterwards. */
static void take_back(const struct visit *visit) {
    uint32_t nr = 0;

    for (uint32_t i = 0; i < visit->nr; i++) {
        struct vn_perf_bridge *bridge = visit->bridges[i];

        bridge->first = bridge->last = NULL;
        for (uint32_t tag = 0; bridge->nr_taken && tag < bridge->opts.nr_tags; tag++) {
            if (bridge->reqs[tag].state == VN_REQ_TAKEN)
                vn_chan_cancel(bridge->chan, &bridge->reqs[tag]);
        }
    }
    do {
        vn_reactor_turn(visit->reactor);
        nr = 0;
        for (uint32_t i = 0; i < visit->nr; i++)
            nr += visit->bridges[i]->nr_taken;
    } while (nr);
}

static void close_chans(struct visit *visit) {
    for (uint32_t i = 0; i < visit->nr; i++) {
        if (visit->bridges[i]->chan)
            vn_chan_close(visit->bridges[i]->chan);
        visit->bridges[i]->chan = NULL;
    }
}

static int visit_reactor(void *arg) {
    struct visit *visit = arg;
    int rc = 0;

    for (uint32_t i = 0; i < visit->nr && rc == 0; i++) {
        visit->bridges[i]->reactor = visit->reactor;
        rc = vn_chan_open(visit->bridges[i]->backend, visit->reactor, &visit->bridges[i]->chan);
    }
    visit->ran = rc == 0;
    if (visit->ran)
        rc = visit->fn(visit->arg);
    take_back(visit);
    close_chans(visit);
    return rc;
}

int vn_perf_bridge_run(struct vn_perf_bridge *const *bridges, uint32_t nr, int (*fn)(void *arg), void *arg, char *error,
                       uint32_t error_size) {
    struct visit visit = {.bridges = bridges, .nr = nr, .fn = fn, .arg = arg};
    int rc = vn_reactor_start(0, 0, &visit.reactor);

    if (rc < 0)
        return vn_backend_fail(error, error_size, -rc, "cannot start a reactor: %s", strerror(-rc));
    rc = vn_reactor_call(visit.reactor, visit_reactor, &visit);
    for (uint32_t i = 0; i < nr; i++) { /* waits for what is left of the channels, which needs the reactor */
        vn_backend_close(bridges[i]->backend);
        bridges[i]->backend = NULL;
    }
    vn_reactor_stop(visit.reactor);
    if (!visit.ran)
        vn_backend_fail(error, error_size, -rc, "cannot open a channel: %s", strerror(-rc));
    return rc;
}

static void on_done(struct vn_req *req, void *ctx) {
    struct vn_perf_bridge *bridge = ctx;
    uint16_t status = (uint16_t)req->status;

    bridge->nr_taken--;
    vn_req_set_state(req, VN_REQ_DONE);
    vn_req_set_state(req, VN_REQ_FREE);
    bridge->opts.done(bridge->opts.owner, bridge->opts.number, (uint32_t)(req - bridge->reqs), status);
}

static bool submit(struct vn_perf_bridge *bridge, struct vn_req *req) {
    vn_req_push(req, on_done, bridge);
    bridge->nr_taken++; /* it may complete before submit returns */
    if (vn_chan_submit(bridge->chan, req) == VN_TAKEN)
        return true;
    bridge->nr_taken--;
    vn_req_pop(req);
    return false;
}

void vn_perf_bridge_send(struct vn_perf_bridge *bridge, uint32_t tag, bool is_write, uint64_t offset, void *data,
                         uint32_t bytes) {
    struct vn_req *req = &bridge->reqs[tag];

    vn_req_set_state(req, VN_REQ_FETCHED);
    bridge->iovs[tag] = (struct iovec){.iov_base = data, .iov_len = bytes};
    req->op = is_write ? VN_OP_WRITE : VN_OP_READ;
    req->offset = offset;
    req->length = bytes;
    req->iov = &bridge->iovs[tag];
    req->nr_iov = 1;
    req->next = NULL;
    if (!bridge->first && submit(bridge, req))
        return;
    if (bridge->last)
        bridge->last->next = req;
    else
        bridge->first = req;
    bridge->last = req;
}

void vn_perf_bridge_turn(struct vn_perf_bridge *const *bridges, uint32_t nr) {
    vn_reactor_turn(bridges[0]->reactor);
    for (uint32_t i = 0; i < nr; i++) {
        struct vn_perf_bridge *bridge = bridges[i];

        while (bridge->first) {
            struct vn_req *req = bridge->first, *next = req->next;

            if (!submit(bridge, req))
                break;
            bridge->first = next;
            if (!next)
                bridge->last = NULL;
        }
    }
}
