/* The layer of a zoned namespace above its backend, see zoned.h: writes move what is kept of their zone before they complete; a
 * flush, and a write that is to be durable, makes the table durable too, after the data.
 */
#include "ns/zoned.h"

#include <errno.h>
#include <stdlib.h>

#include "core/status.h"
#include "core/util.h"

struct sync_list {
    struct vn_req *head, *tail;
};

/* Owner: reactor. */
struct zoned_chan {
    struct vn_chan chan;
    struct vn_chan *next;
    struct vn_poller poller;   /* tries again when io_uring was full */
    struct sync_list to_sync;  /* for the next fdatasync of the table */
    struct sync_list syncing;  /* covered by the one in flight */
    struct vn_uring_op sync_op;
    uint64_t sync_covers;      /* zones.nr_changes when it began */
    bool sync_in_flight;
};

static struct vn_zoned *zoned_of(const struct zoned_chan *zc) {
    return (struct vn_zoned *)zc->chan.backend;
}

/* The backend has done with the request: its scratch links it now. */
static void list_add(struct sync_list *list, struct vn_req *req) {
    req->engine[0] = 0;
    if (list->head)
        list->tail->engine[0] = (uintptr_t)req;
    else
        list->head = req;
    list->tail = req;
}

static struct vn_req *list_take(struct sync_list *list) {
    struct vn_req *req = list->head;
    if (req)
        list->head = (struct vn_req *)(uintptr_t)req->engine[0];
    return req;
}

static bool list_has(const struct sync_list *list, const struct vn_req *req) {
    const struct vn_req *at = list->head;
    while (at && at != req)
        at = (const struct vn_req *)(uintptr_t)at->engine[0];
    return at;
}

static void end_all(struct sync_list *list, vn_status status) {
    struct sync_list ended = *list;
    *list = (struct sync_list){0};
    for (struct vn_req *req; (req = list_take(&ended));)
        vn_req_complete(req, status);
}

/* One at a time, and none joins one that has begun: as for the data (backend/file.c). */
static void sync_start(struct zoned_chan *zc) {
    struct vn_zoned *zoned = zoned_of(zc);
    if (zc->sync_in_flight || !zc->to_sync.head)
        return;
    struct io_uring_sqe *sqe = vn_reactor_sqe(zc->chan.reactor, &zc->sync_op);
    if (!sqe)
        return; /* the poller tries again */
    io_uring_prep_fsync(sqe, zoned->fd, IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data(sqe, &zc->sync_op);
    zc->syncing = zc->to_sync;
    zc->to_sync = (struct sync_list){0};
    zc->sync_in_flight = true;
    zc->sync_covers = zoned->zones.nr_changes;
}

/* A failure latches, as one of the data does: what is in the table now may never be durable. */
static void on_synced(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    struct zoned_chan *zc = vn_container_of(op, struct zoned_chan, sync_op);
    struct vn_zoned *zoned = zoned_of(zc);
    (void)cqe_flags;
    if (res < 0)
        vn_backend_latch(&zoned->backend, -res);
    else
        zoned->synced = vn_max_u64(zoned->synced, zc->sync_covers);
    int latched = vn_backend_latched(&zoned->backend);
    end_all(&zc->syncing, vn_status_dnr(vn_status_from_errno(latched, true)));
    zc->sync_in_flight = false;
    sync_start(zc);
}

void vn_zoned_sync(struct vn_chan *chan, struct vn_req *req) {
    struct zoned_chan *zc = (struct zoned_chan *)chan;
    const struct vn_zoned *zoned = zoned_of(zc);
    if (zoned->fd < 0 || zoned->synced == zoned->zones.nr_changes) {
        vn_req_complete(req, VN_SC_SUCCESS);
        return;
    }
    list_add(&zc->to_sync, req);
    sync_start(zc);
}

static void on_written(struct vn_req *req, void *arg) {
    struct zoned_chan *zc = arg;
    struct vn_zoned *zoned = zoned_of(zc);
    if (req->status) {
        vn_req_complete(req, req->status);
        return;
    }
    vn_zones_commit(&zoned->zones, req->offset >> zoned->block_shift, req->length >> zoned->block_shift);
    if (req->io_flags & VN_REQ_FUA)
        vn_zoned_sync(&zc->chan, req);
    else
        vn_req_complete(req, VN_SC_SUCCESS);
}

static void on_flushed(struct vn_req *req, void *arg) {
    struct zoned_chan *zc = arg;
    if (req->status)
        vn_req_complete(req, req->status);
    else
        vn_zoned_sync(&zc->chan, req);
}

static enum vn_submit zoned_submit(struct vn_chan *chan, struct vn_req *req) {
    struct zoned_chan *zc = (struct zoned_chan *)chan;
    if (req->op == VN_OP_READ || req->op == VN_OP_COMPARE || req->op == VN_OP_DEALLOCATE)
        return vn_chan_submit(zc->next, req);
    vn_req_push(req, req->op == VN_OP_FLUSH ? on_flushed : on_written, zc);
    enum vn_submit answer = vn_chan_submit(zc->next, req);
    if (answer == VN_BUSY)
        vn_req_pop(req);
    return answer;
}

/* A flush is not interrupted. */
static void zoned_cancel(struct vn_chan *chan, struct vn_req *req) {
    struct zoned_chan *zc = (struct zoned_chan *)chan;
    if (!list_has(&zc->to_sync, req) && !list_has(&zc->syncing, req))
        vn_chan_cancel(zc->next, req);
}

static bool waits_for_slot(const struct zoned_chan *zc) {
    return zc->to_sync.head && !zc->sync_in_flight;
}

static bool zoned_poll(struct vn_poller *poller) {
    struct zoned_chan *zc = vn_container_of(poller, struct zoned_chan, poller);
    if (!waits_for_slot(zc))
        return false;
    sync_start(zc);
    return true;
}

static bool zoned_before_sleep(struct vn_poller *poller) {
    return waits_for_slot(vn_container_of(poller, struct zoned_chan, poller));
}

static int zoned_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    struct zoned_chan *zc = calloc(1, sizeof(*zc));
    if (!zc)
        return -ENOMEM;
    int err = vn_chan_open(backend->next, reactor, &zc->next);
    if (err) {
        free(zc);
        return err;
    }
    zc->chan = (struct vn_chan){.backend = backend, .reactor = reactor};
    zc->sync_op.done = on_synced;
    zc->poller = (struct vn_poller){.poll = zoned_poll, .before_sleep = zoned_before_sleep};
    vn_poller_add(reactor, &zc->poller);
    *out = &zc->chan;
    return 0;
}

static void zoned_chan_close(struct vn_chan *chan) {
    struct zoned_chan *zc = (struct zoned_chan *)chan;
    assert(!zc->to_sync.head && !zc->sync_in_flight);
    vn_poller_remove(chan->reactor, &zc->poller);
    vn_chan_close(zc->next);
    free(zc);
}

static void zoned_close(struct vn_backend *backend) {
    vn_zoned_free((struct vn_zoned *)backend);
}

static int zoned_resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size) {
    (void)backend;
    (void)size;
    return vn_backend_fail(error, error_size, ENOTSUP, "it is zoned, and a zoned namespace keeps its size");
}

const struct vn_backend_ops vn_zoned_ops = {
    .name = "zoned",
    .close = zoned_close,
    .resize = zoned_resize,
    .chan_open = zoned_chan_open,
    .chan_close = zoned_chan_close,
    .submit = zoned_submit,
    .cancel = zoned_cancel,
};
