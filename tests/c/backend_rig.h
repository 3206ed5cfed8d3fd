/* Runs requests on a backend the way a controller does: on a reactor, several at once, offered again when BUSY.
 * For the test_backend_* programs.
 */
#ifndef BACKEND_RIG_H
#define BACKEND_RIG_H

#include <errno.h>
#include <semaphore.h>
#include <time.h>

#include "backend/backend.h"
#include "core/util.h"
#include "include/vhostnvme.h"
#include "vn_test.h"

struct rig {
    struct vn_reactor *reactor;
    struct vn_backend *backend;
    struct vn_chan *chan;
    struct vn_poller poller;
    struct vn_req **batch; /* for the reactor to pick up */
    uint32_t nr_batch;
    struct vn_req **reqs; /* owner of this and what follows: reactor */
    uint32_t nr_reqs, nr_offered, nr_done, nr_busy;
    uint64_t cancel_after_ns; /* 0: never */
    struct vn_timer cancel_timer;
    sem_t done;
};

static inline void rig_req_done(struct vn_req *req, void *ctx) {
    struct rig *rig = ctx;
    vn_req_set_state(req, VN_REQ_DONE);
    CHECK_EQ(req->nr_frames, 0);
    if (++rig->nr_done == rig->nr_reqs)
        sem_post(&rig->done);
}

static inline bool rig_poll(struct vn_poller *poller) {
    struct rig *rig = vn_container_of(poller, struct rig, poller);
    bool work = false;
    while (rig->nr_offered < rig->nr_reqs) {
        struct vn_req *req = rig->reqs[rig->nr_offered];
        if (req->state == VN_REQ_FREE) {
            vn_req_set_state(req, VN_REQ_FETCHED);
            vn_req_push(req, rig_req_done, rig);
        }
        rig->nr_offered++; /* before: it may be the last one, and complete within submit */
        if (vn_chan_submit(rig->chan, req) == VN_BUSY) {
            CHECK_EQ(req->state, VN_REQ_FETCHED);
            rig->nr_offered--;
            rig->nr_busy++; /* read by tests between batches */
            return true;
        }
        work = true;
    }
    return work;
}

static inline bool rig_before_sleep(struct vn_poller *poller) {
    struct rig *rig = vn_container_of(poller, struct rig, poller);
    return rig->nr_offered < rig->nr_reqs;
}

static inline void rig_cancel_all(struct vn_timer *timer) {
    struct rig *rig = vn_container_of(timer, struct rig, cancel_timer);
    for (uint32_t i = 0; i < rig->nr_offered; i++) {
        if (rig->reqs[i]->state == VN_REQ_TAKEN) {
            rig->reqs[i]->cancelled = true;
            vn_chan_cancel(rig->chan, rig->reqs[i]);
            CHECK_EQ(rig->reqs[i]->state, VN_REQ_TAKEN); /* cancel itself completes nothing */
        }
    }
}

static inline int rig_attach(void *arg) {
    struct rig *rig = arg;
    int err = vn_chan_open(rig->backend, rig->reactor, &rig->chan);
    if (!err)
        vn_poller_add(rig->reactor, &rig->poller);
    return err;
}

static inline int rig_detach(void *arg) {
    struct rig *rig = arg;
    vn_poller_remove(rig->reactor, &rig->poller);
    vn_chan_close(rig->chan);
    return 0;
}

static inline void rig_open(struct rig *rig, const struct vn_ns_opts *opts) {
    char error[256] = "";
    *rig = (struct rig){.poller = {.poll = rig_poll, .before_sleep = rig_before_sleep},
                        .cancel_timer.fn = rig_cancel_all};
    sem_init(&rig->done, 0, 0);
    if (vn_backend_open(opts, &rig->backend, error, sizeof(error)) != 0) {
        fprintf(stderr, "%s\n", error);
        exit(1);
    }
    CHECK_EQ(vn_reactor_start(0, 50, &rig->reactor), 0);
    CHECK_EQ(vn_reactor_call(rig->reactor, rig_attach, rig), 0);
}

static inline void rig_close(struct rig *rig) {
    CHECK_EQ(vn_reactor_call(rig->reactor, rig_detach, rig), 0);
    vn_reactor_stop(rig->reactor);
    vn_backend_close(rig->backend);
    sem_destroy(&rig->done);
}

static inline int rig_start(void *arg) {
    struct rig *rig = arg;
    rig->reqs = rig->batch;
    rig->nr_reqs = rig->nr_batch;
    rig->nr_done = 0;
    if (rig->cancel_after_ns)
        vn_timer_arm(rig->reactor, &rig->cancel_timer, rig->cancel_after_ns);
    rig_poll(&rig->poller);
    return 0;
}

static inline int rig_end(void *arg) {
    struct rig *rig = arg;
    vn_timer_disarm(rig->reactor, &rig->cancel_timer);
    rig->nr_reqs = rig->nr_offered = 0;
    return 0;
}

/* Submits all at once and waits for all; a hang fails the test after a while. */
static inline void rig_run(struct rig *rig, struct vn_req **reqs, uint32_t nr_reqs) {
    if (!nr_reqs)
        return;
    rig->batch = reqs;
    rig->nr_batch = nr_reqs;
    vn_reactor_call(rig->reactor, rig_start, rig);
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 60;
    int err;
    while ((err = sem_timedwait(&rig->done, &limit)) < 0 && errno == EINTR)
        ;
    CHECK_EQ(err, 0);
    vn_reactor_call(rig->reactor, rig_end, rig);
    for (uint32_t i = 0; i < nr_reqs; i++)
        vn_req_set_state(reqs[i], VN_REQ_FREE);
}

/* One request with one buffer (NULL for none); answers its status. */
static inline vn_status rig_io(struct rig *rig, enum vn_op op, uint64_t offset, uint64_t length, void *buf,
                               uint32_t io_flags) {
    struct iovec iov = {.iov_base = buf, .iov_len = length};
    struct vn_req req = {
        .op = op, .offset = offset, .length = length, .io_flags = io_flags, .iov = &iov, .nr_iov = buf ? 1 : 0};
    struct vn_req *reqs[] = {&req};
    rig_run(rig, reqs, 1);
    return req.status;
}

#endif
