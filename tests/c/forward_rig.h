/* Drives a forwarder's channel the way a controller does, one request at a time from the test's thread, with the events
 * that it tells. For the test_forward* programs, with fake_target.h at the other end.
 */
#ifndef FORWARD_RIG_H
#define FORWARD_RIG_H

#include "backend/forward.h"
#include "core/event.h"
#include "fake_target.h"

#define RIG_NQN "nqn.2026-11.io.vhostnvme:fake"
#define RIG_HOSTNQN "nqn.2026-11.io.vhostnvme:host"
#define RIG_BYTES (1u << 20)

struct rig {
    struct vn_reactor *reactor;
    struct vn_backend *backend;
    struct vn_chan *chan;
    struct vn_event_queue *events;
    struct vn_remote_opts remote;
    struct vn_ns_opts opts;
    pthread_mutex_t lock;
    pthread_cond_t ended;
};

/* A request with a buffer of its own, in two pieces. */
struct job {
    struct vn_req req;
    struct rig *rig;
    struct iovec iov[2];
    uint8_t *buf;
    bool started, done;
};

static inline void rig_remote(struct rig *rig, const struct fake *fake) {
    *rig = (struct rig){.remote = {.nr_paths = 1,
                                   .nsid = 1,
                                   .subnqn = RIG_NQN,
                                   .hostnqn = RIG_HOSTNQN,
                                   .kato_ms = 2000,
                                   .reconnect_ms = 10000,
                                   .paths = {{.host = "127.0.0.1", .port = fake->port}}}};
    rig->opts = (struct vn_ns_opts){.backend = "forward", .remote = &rig->remote};
}

static inline int rig_chan_open(void *arg) {
    struct rig *rig = arg;
    return vn_chan_open(rig->backend, rig->reactor, &rig->chan);
}

static inline int rig_chan_close(void *arg) {
    vn_chan_close(((struct rig *)arg)->chan);
    return 0;
}

static inline void rig_attach(struct rig *rig) {
    CHECK_EQ(vn_reactor_call(rig->reactor, rig_chan_open, rig), 0);
}

static inline void rig_detach(struct rig *rig) {
    CHECK_EQ(vn_reactor_call(rig->reactor, rig_chan_close, rig), 0);
}

static inline void rig_open(struct rig *rig) {
    char error[512] = "";
    rig->opts.remote = &rig->remote;
    pthread_mutex_init(&rig->lock, NULL);
    pthread_cond_init(&rig->ended, NULL);
    if (vn_backend_open(&rig->opts, &rig->backend, error, sizeof(error))) {
        fprintf(stderr, "%s\n", error);
        exit(1);
    }
    CHECK_EQ(vn_event_queue_create(&rig->events), 0);
    vn_backend_tell_to(rig->backend, rig->events, 42);
    CHECK_EQ(vn_reactor_start(0, 50, &rig->reactor), 0);
    rig_attach(rig);
}

static inline void rig_close(struct rig *rig) {
    rig_detach(rig);
    vn_backend_close(rig->backend);
    vn_reactor_stop(rig->reactor);
    vn_event_queue_destroy(rig->events);
    pthread_mutex_destroy(&rig->lock);
    pthread_cond_destroy(&rig->ended);
}

static inline void job_done(struct vn_req *req, void *ctx) {
    struct job *job = ctx;
    vn_req_set_state(req, VN_REQ_DONE);
    pthread_mutex_lock(&job->rig->lock);
    job->done = true;
    pthread_cond_broadcast(&job->rig->ended);
    pthread_mutex_unlock(&job->rig->lock);
}

static inline int job_submit(void *arg) {
    struct job *job = arg;
    vn_req_set_state(&job->req, VN_REQ_FETCHED);
    vn_req_push(&job->req, job_done, job);
    CHECK_EQ(vn_chan_submit(job->rig->chan, &job->req), VN_TAKEN);
    return 0;
}

static inline int job_cancel_here(void *arg) {
    struct job *job = arg;
    if (job->req.state == VN_REQ_TAKEN) {
        job->req.cancelled = true;
        vn_chan_cancel(job->rig->chan, &job->req);
    }
    return 0;
}

/* What it writes is fill, byte for byte; what it reads comes into its buffer, which is fill before. */
static inline void job_start(struct job *job, struct rig *rig, enum vn_op op, uint64_t offset, uint64_t length,
                             uint8_t fill) {
    bool data = op == VN_OP_READ || op == VN_OP_WRITE || op == VN_OP_COMPARE;
    *job = (struct job){.rig = rig, .started = true, .buf = malloc(length + 1)};
    memset(job->buf, fill, length);
    uint64_t first = length / 3 / 4 * 4;
    job->iov[0] = (struct iovec){job->buf, first};
    job->iov[1] = (struct iovec){job->buf + first, length - first};
    job->req = (struct vn_req){.op = op, .offset = offset, .length = length, .iov = job->iov, .nr_iov = data ? 2 : 0};
    CHECK_EQ(vn_reactor_call(rig->reactor, job_submit, job), 0);
}

static inline void job_cancel(struct job *job) {
    CHECK_EQ(vn_reactor_call(job->rig->reactor, job_cancel_here, job), 0);
}

static inline bool job_is_done(struct job *job) {
    pthread_mutex_lock(&job->rig->lock);
    bool done = job->done;
    pthread_mutex_unlock(&job->rig->lock);
    return done;
}

/* Its status; the buffer stays until job_free. */
static inline vn_status job_wait(struct job *job) {
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += FAKE_WAIT_S;
    pthread_mutex_lock(&job->rig->lock);
    while (!job->done) {
        if (pthread_cond_timedwait(&job->rig->ended, &job->rig->lock, &limit)) {
            fprintf(stderr, "a request (operation %d at %llu) does not end\n", job->req.op,
                    (unsigned long long)job->req.offset);
            exit(1);
        }
    }
    pthread_mutex_unlock(&job->rig->lock);
    vn_req_set_state(&job->req, VN_REQ_FREE);
    return job->req.status;
}

static inline bool job_holds(const struct job *job, uint8_t fill) {
    for (uint64_t i = 0; i < job->req.length; i++) {
        if (job->buf[i] != fill)
            return false;
    }
    return true;
}

static inline vn_status job_end(struct job *job) {
    vn_status status = job_wait(job);
    free(job->buf);
    return status;
}

static inline vn_status rig_do(struct rig *rig, enum vn_op op, uint64_t offset, uint64_t length, uint8_t fill) {
    struct job job;
    job_start(&job, rig, op, offset, length, fill);
    return job_end(&job);
}

/* Reads, and checks that all of it is fill. */
static inline void rig_check_read(struct rig *rig, uint64_t offset, uint64_t length, uint8_t fill) {
    struct job job;
    job_start(&job, rig, VN_OP_READ, offset, length, (uint8_t)~fill);
    CHECK_EQ(job_wait(&job), 0);
    CHECK(job_holds(&job, fill));
    free(job.buf);
}

/* The next event of this type; others before it are passed over. */
static inline struct vn_event rig_event(struct rig *rig, enum vn_event_type type) {
    for (int ms = 0; ms < FAKE_WAIT_S * 1000; ms++) {
        struct vn_event event;
        while (vn_event_drain(rig->events, &event, 1)) {
            CHECK_EQ(event.ctrl, 42);
            if (event.type == type)
                return event;
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    fprintf(stderr, "no event of type %d\n", type);
    exit(1);
}

/* Lets the reactor turn for so long; for what must not happen. */
static inline void rig_pause_ms(long ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

#endif
