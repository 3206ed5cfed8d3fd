/* The delay filter: holds every command for a fixed time before it passes it on, so that what is above can be
 * tested with a slow disk. All wait equally long, so the queue is in order of deadline and one timer serves it.
 * Put into the stack by vn_backend_open.
 */
#include <errno.h>
#include <stdlib.h>

#include "backend/backend.h"
#include "core/util.h"
#include "include/vhostnvme.h"

#define BUSY_RETRY_NS 50000 /* the backend below was full: offer it again after 50 us */

/* The words of req->filter that are ours: see enum; words 0-3 and 8-11 belong to other filters. */
enum { WORD_DEADLINE = 4, WORD_NEXT, WORD_FORWARDED };

struct delay_filter {
    struct vn_backend backend;
    uint64_t delay_ns;
};

struct delay_chan {
    struct vn_chan chan;
    struct vn_chan *next;
    struct vn_timer timer;
    struct vn_req *head, *tail; /* waiting; the earliest deadline first */
};

static struct vn_req *next_of(const struct vn_req *req) {
    return (struct vn_req *)(uintptr_t)req->filter[WORD_NEXT];
}

static void set_next(struct vn_req *req, struct vn_req *next) {
    req->filter[WORD_NEXT] = (uintptr_t)next;
}

static void unlink_req(struct delay_chan *dc, struct vn_req *req) {
    struct vn_req *before = NULL;
    for (struct vn_req *at = dc->head; at != req; at = next_of(at))
        before = at;
    if (before)
        set_next(before, next_of(req));
    else
        dc->head = next_of(req);
    if (dc->tail == req)
        dc->tail = before;
}

/* Passes on what is due. Stops at the first that the backend below does not take: the order is kept. */
static void on_timer(struct vn_timer *timer) {
    struct delay_chan *dc = vn_container_of(timer, struct delay_chan, timer);
    uint64_t now = vn_reactor_now_ns(dc->chan.reactor);
    uint64_t wait_ns = 0;
    while (dc->head && dc->head->filter[WORD_DEADLINE] <= now) {
        struct vn_req *req = dc->head;
        unlink_req(dc, req);
        if (req->cancelled) {
            vn_req_complete(req, VN_SC_ABORT_REQUESTED);
            continue;
        }
        req->filter[WORD_FORWARDED] = true; /* before: it may complete, and be reused, within submit */
        if (vn_chan_submit(dc->next, req) == VN_BUSY) {
            req->filter[WORD_FORWARDED] = false;
            set_next(req, dc->head);
            dc->head = req;
            dc->tail = dc->tail ? dc->tail : req;
            wait_ns = BUSY_RETRY_NS;
            break;
        }
    }
    if (dc->head && !wait_ns)
        wait_ns = dc->head->filter[WORD_DEADLINE] - now;
    if (dc->head)
        vn_timer_arm(dc->chan.reactor, timer, wait_ns);
}

static enum vn_submit delay_submit(struct vn_chan *chan, struct vn_req *req) {
    struct delay_chan *dc = (struct delay_chan *)chan;
    uint64_t delay_ns = ((const struct delay_filter *)chan->backend)->delay_ns;
    req->filter[WORD_DEADLINE] = vn_reactor_now_ns(chan->reactor) + delay_ns;
    req->filter[WORD_FORWARDED] = false;
    set_next(req, NULL);
    if (dc->head)
        set_next(dc->tail, req);
    else
        dc->head = req;
    dc->tail = req;
    if (!dc->timer.armed)
        vn_timer_arm(chan->reactor, &dc->timer, delay_ns);
    return VN_TAKEN;
}

/* What still waits becomes due at once, and the next turn ends it. */
static void delay_cancel(struct vn_chan *chan, struct vn_req *req) {
    struct delay_chan *dc = (struct delay_chan *)chan;
    if (req->filter[WORD_FORWARDED]) {
        vn_chan_cancel(dc->next, req);
        return;
    }
    unlink_req(dc, req);
    req->cancelled = true;
    req->filter[WORD_DEADLINE] = 0;
    set_next(req, dc->head);
    dc->head = req;
    dc->tail = dc->tail ? dc->tail : req;
    vn_timer_arm(chan->reactor, &dc->timer, 0);
}

static int delay_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    struct delay_chan *dc = calloc(1, sizeof(*dc));
    if (!dc)
        return -ENOMEM;
    int err = vn_chan_open(backend->next, reactor, &dc->next);
    if (err) {
        free(dc);
        return err;
    }
    dc->chan = (struct vn_chan){.backend = backend, .reactor = reactor};
    dc->timer.fn = on_timer;
    *out = &dc->chan;
    return 0;
}

static void delay_chan_close(struct vn_chan *chan) {
    struct delay_chan *dc = (struct delay_chan *)chan;
    assert(!dc->head);
    vn_timer_disarm(chan->reactor, &dc->timer);
    vn_chan_close(dc->next);
    free(dc);
}

static void delay_close(struct vn_backend *backend) {
    free(backend);
}

static const struct vn_backend_ops delay_ops = {
    .name = "delay",
    .close = delay_close,
    .chan_open = delay_chan_open,
    .chan_close = delay_chan_close,
    .submit = delay_submit,
    .cancel = delay_cancel,
};

int vn_filter_delay_open(const struct vn_ns_opts *opts, struct vn_backend *next, struct vn_backend **out) {
    struct delay_filter *filter = calloc(1, sizeof(*filter));
    if (!filter)
        return -ENOMEM;
    *filter = (struct delay_filter){
        .backend = vn_backend_above(next, &delay_ops),
        .delay_ns = opts->delay_us * 1000ull,
    };
    *out = &filter->backend;
    return 0;
}
