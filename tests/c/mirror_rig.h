/* A mirror on files, driven the way a controller does from the test's thread; over each leg a switch that lets pass, fails,
 * keeps or does not take what comes. For the test_mirror* programs.
 */
#ifndef MIRROR_RIG_H
#define MIRROR_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backend/mirror.h"
#include "core/util.h"
#include "vn_test.h"

#define RIG_BYTES (2u << 20)
#define RIG_REGION (64u << 10)
#define RIG_BLOCK 4096u
#define SWITCH_MAX 2048u

/* --- A leg's switch: a filter --- */

enum switch_mode { SWITCH_PASS, SWITCH_FAIL, SWITCH_KEEP, SWITCH_BUSY };

struct switch_filter {
    struct vn_backend backend;
    int mode;       /* enum switch_mode, of the operations in ops; changed on the reactor */
    uint32_t ops;   /* mask of 1 << enum vn_op; 0: all */
    uint32_t nr_seen[VN_OP_COUNT];
    uint32_t nr_kept;
    struct vn_req *kept[SWITCH_MAX], *over[SWITCH_MAX]; /* over: cancelled, end on the next turn */
    uint32_t nr_over;
    bool stubborn;  /* what is kept cannot be cancelled */
    void (*arrived)(struct switch_filter *filter, const struct vn_req *req); /* NULL: nobody asks */
    void *ctx;
    struct vn_timer timer;
    struct vn_chan *next;
    struct vn_reactor *reactor;
};

struct switch_chan {
    struct vn_chan chan;
};

static inline void switch_on_timer(struct vn_timer *timer) {
    struct switch_filter *filter = vn_container_of(timer, struct switch_filter, timer);
    while (filter->nr_over)
        vn_req_complete(filter->over[--filter->nr_over], VN_SC_ABORT_REQUESTED);
}

static inline enum vn_submit switch_submit(struct vn_chan *chan, struct vn_req *req) {
    struct switch_filter *filter = (struct switch_filter *)chan->backend;
    filter->nr_seen[req->op]++;
    if (filter->arrived)
        filter->arrived(filter, req);
    if (filter->mode == SWITCH_PASS || !((filter->ops ? filter->ops : ~0u) & 1u << req->op))
        return vn_chan_submit(filter->next, req);
    if (filter->mode == SWITCH_BUSY)
        return VN_BUSY;
    if (filter->mode == SWITCH_FAIL) {
        vn_req_complete(req, req->op == VN_OP_READ ? VN_SC_UNRECOVERED_READ : VN_SC_WRITE_FAULT);
    } else {
        CHECK(filter->nr_kept < SWITCH_MAX);
        filter->kept[filter->nr_kept++] = req;
    }
    return VN_TAKEN;
}

static inline void switch_cancel(struct vn_chan *chan, struct vn_req *req) {
    struct switch_filter *filter = (struct switch_filter *)chan->backend;
    for (uint32_t i = 0; i < filter->nr_kept; i++) {
        if (filter->kept[i] == req && filter->stubborn)
            return;
        if (filter->kept[i] == req) {
            filter->kept[i] = filter->kept[--filter->nr_kept];
            filter->over[filter->nr_over++] = req;
            vn_timer_arm(chan->reactor, &filter->timer, 0);
            return;
        }
    }
    vn_chan_cancel(filter->next, req);
}

static inline int switch_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    struct switch_filter *filter = (struct switch_filter *)backend;
    struct switch_chan *sc = calloc(1, sizeof(*sc));
    CHECK_EQ(vn_chan_open(backend->next, reactor, &filter->next), 0);
    filter->reactor = reactor;
    filter->timer.fn = switch_on_timer;
    sc->chan = (struct vn_chan){.backend = backend, .reactor = reactor};
    *out = &sc->chan;
    return 0;
}

static inline void switch_chan_close(struct vn_chan *chan) {
    struct switch_filter *filter = (struct switch_filter *)chan->backend;
    CHECK_EQ(filter->nr_kept + filter->nr_over, 0);
    vn_timer_disarm(chan->reactor, &filter->timer);
    vn_chan_close(filter->next);
    free(chan);
}

static inline void switch_close(struct vn_backend *backend) {
    free(backend);
}

static const struct vn_backend_ops switch_ops = {
    .name = "switch",
    .close = switch_close,
    .chan_open = switch_chan_open,
    .chan_close = switch_chan_close,
    .submit = switch_submit,
    .cancel = switch_cancel,
};

static inline struct switch_filter *switch_over(struct vn_backend *next) {
    struct switch_filter *filter = calloc(1, sizeof(*filter));
    filter->backend = vn_backend_above(next, &switch_ops);
    return filter;
}

/* --- The rig --- */

struct mrig {
    char paths[VN_MIRROR_MAX_LEGS][300], bitmap[300];
    struct vn_ns_opts legs[VN_MIRROR_MAX_LEGS], opts;
    struct vn_mirror_opts mopts;
    struct vn_reactor *reactor;
    struct vn_backend *backend;
    struct vn_mirror *mirror;
    struct vn_chan *chan;
    struct vn_event_queue *events;
    struct switch_filter *switches[VN_MIRROR_MAX_LEGS];
    char error[512];
    struct vn_event told[64];
    uint32_t nr_told;
};

struct job {
    struct vn_req req;
    struct mrig *rig;
    struct iovec iov;
    struct vn_message message;
    struct vn_timer again;
    uint8_t *buf;
    bool done;
};

/* nr legs, all in sync, in files of their own; not opened yet. */
static inline void mrig_make(struct mrig *rig, uint32_t nr, const char *name) {
    *rig = (struct mrig){.mopts = {.region_bytes = RIG_REGION, .leg_timeout_ms = 60000, .clean_ms = 50, .flags = VN_MIRROR_SAME}};
    snprintf(rig->bitmap, sizeof(rig->bitmap), "%s/%s.bits", vn_test_dir(), name);
    rig->mopts.bitmap_path = rig->bitmap;
    rig->mopts.uuid[0] = 7;
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
        snprintf(rig->paths[leg], sizeof(rig->paths[leg]), "%s/%s.%u", vn_test_dir(), name, leg);
    for (uint32_t leg = 0; leg < nr; leg++) {
        rig->legs[leg] = (struct vn_ns_opts){.backend = "file", .path = rig->paths[leg], .size = RIG_BYTES,
                                             .block_size = RIG_BLOCK, .flags = VN_NS_CREATE};
        rig->mopts.legs[leg] = &rig->legs[leg];
        rig->mopts.states[leg] = VN_LEG_IN_SYNC;
    }
    rig->opts = (struct vn_ns_opts){.backend = "mirror", .mirror = &rig->mopts, .block_size = RIG_BLOCK};
}

static inline int mrig_chan_open(void *arg) {
    struct mrig *rig = arg;
    return vn_chan_open(rig->backend, rig->reactor, &rig->chan);
}

static inline int mrig_chan_close(void *arg) {
    vn_chan_close(((struct mrig *)arg)->chan);
    return 0;
}

static inline void mrig_attach(struct mrig *rig) {
    CHECK_EQ(vn_reactor_call(rig->reactor, mrig_chan_open, rig), 0);
}

/* The kernel may still be closing what a killed server had. */
static inline int mrig_open_backend(struct mrig *rig, const struct vn_ns_opts *opts, struct vn_backend **out) {
    int err = -EBUSY;
    for (int ms = 0; err == -EBUSY && ms < 5000; ms += 10) {
        err = vn_backend_open(opts, out, rig->error, sizeof(rig->error));
        if (err == -EBUSY)
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return err;
}

static inline void mrig_open(struct mrig *rig) {
    int err = mrig_open_backend(rig, &rig->opts, &rig->backend);
    if (err) {
        fprintf(stderr, "%s\n", rig->error);
        exit(1);
    }
    rig->mirror = vn_mirror_of(rig->backend);
    CHECK(rig->mirror);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        struct vn_backend **backend = &rig->mirror->legs[leg].backend;
        if (*backend)
            *backend = &(rig->switches[leg] = switch_over(*backend))->backend;
    }
    CHECK_EQ(vn_event_queue_create(&rig->events), 0);
    vn_backend_tell_to(rig->backend, rig->events, 42);
    CHECK_EQ(vn_reactor_start(0, 50, &rig->reactor), 0);
    mrig_attach(rig);
}

static inline void mrig_wait_detached(struct mrig *rig) {
    for (int ms = 0; __atomic_load_n(&rig->mirror->nr_chans, __ATOMIC_ACQUIRE); ms++) {
        CHECK(ms < 20000);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static inline void mrig_close(struct mrig *rig) {
    CHECK_EQ(vn_reactor_call(rig->reactor, mrig_chan_close, rig), 0);
    mrig_wait_detached(rig);
    vn_backend_close(rig->backend);
    vn_reactor_stop(rig->reactor);
    vn_event_queue_destroy(rig->events);
}

/* --- Commands --- */

static inline void job_done(struct vn_req *req, void *ctx) {
    struct job *job = ctx;
    vn_req_set_state(req, VN_REQ_DONE);
    __atomic_store_n(&job->done, true, __ATOMIC_RELEASE);
}

static inline void job_offer(struct job *job) {
    if (vn_chan_submit(job->rig->chan, &job->req) == VN_BUSY)
        vn_timer_arm(job->rig->reactor, &job->again, 100000);
}

static inline void job_again(struct vn_timer *timer) {
    job_offer(vn_container_of(timer, struct job, again));
}

static inline void job_start(struct vn_message *message) {
    struct job *job = vn_container_of(message, struct job, message);
    vn_req_set_state(&job->req, VN_REQ_FETCHED);
    vn_req_push(&job->req, job_done, job);
    job_offer(job);
}

/* buf NULL: none. It must stay until the job has ended. */
static inline void submit(struct mrig *rig, struct job *job, enum vn_op op, uint64_t offset, uint64_t length, void *buf,
                          uint32_t io_flags) {
    *job = (struct job){.rig = rig, .buf = buf, .message.fn = job_start, .again.fn = job_again};
    job->iov = (struct iovec){buf, length};
    job->req = (struct vn_req){.op = op, .offset = offset, .length = length, .io_flags = io_flags,
                               .iov = &job->iov, .nr_iov = buf ? 1 : 0};
    while (vn_reactor_post(rig->reactor, &job->message))
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static inline bool is_done(struct job *job) {
    return __atomic_load_n(&job->done, __ATOMIC_ACQUIRE);
}

#define UNTIL(condition)                                            \
    do {                                                            \
        for (int ms_ = 0; !(condition); ms_++) {                    \
            CHECK(ms_ < 20000 && #condition);                       \
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); \
        }                                                           \
    } while (0)

static inline vn_status wait_for(struct job *job) {
    UNTIL(is_done(job));
    return job->req.status;
}

static inline vn_status io(struct mrig *rig, enum vn_op op, uint64_t offset, uint64_t length, void *buf, uint32_t io_flags) {
    struct job job;
    submit(rig, &job, op, offset, length, buf, io_flags);
    return wait_for(&job);
}

static inline int job_cancel_on(void *arg) {
    struct job *job = arg;
    if (job->req.state == VN_REQ_TAKEN) {
        job->req.cancelled = true;
        vn_chan_cancel(job->rig->chan, &job->req);
        CHECK_EQ(job->req.state, VN_REQ_TAKEN);
    }
    return 0;
}

static inline void cancel(struct job *job) {
    vn_reactor_call(job->rig->reactor, job_cancel_on, job);
}

static inline int nothing(void *arg) {
    (void)arg;
    return 0;
}

/* What was posted before has run. */
static inline void settle(struct mrig *rig) {
    for (int i = 0; i < 4; i++)
        vn_reactor_call(rig->reactor, nothing, NULL);
}

/* --- Legs --- */

struct switch_call {
    struct switch_filter *filter;
    int mode;
    uint32_t ops;
};

static inline int set_switch_on(void *arg) {
    struct switch_call *call = arg;
    call->filter->mode = call->mode;
    call->filter->ops = call->ops;
    return 0;
}

static inline void set_switch(struct mrig *rig, uint32_t leg, int mode, uint32_t ops) {
    vn_reactor_call(rig->reactor, set_switch_on, &(struct switch_call){rig->switches[leg], mode, ops});
}

/* The last that came goes on first. */
static inline int let_go_on(void *arg) {
    struct switch_filter *filter = arg;
    filter->mode = SWITCH_PASS;
    while (filter->nr_kept)
        vn_chan_submit(filter->next, filter->kept[--filter->nr_kept]);
    return 0;
}

/* As a disk that wakes up: reads that were given up are carried out into the memory that they have named. */
static inline int wake_on(void *arg) {
    struct switch_filter *filter = arg;
    filter->mode = SWITCH_PASS;
    filter->stubborn = false;
    while (filter->nr_kept) {
        struct vn_req *req = filter->kept[--filter->nr_kept];
        bool carried_out = req->op == VN_OP_READ && req->cancelled;
        if (carried_out)
            memset(req->iov[0].iov_base, 0xee, req->iov[0].iov_len);
        vn_req_complete(req, carried_out ? VN_SC_SUCCESS : VN_SC_ABORT_REQUESTED); /* a write that is not there has no success */
    }
    return 0;
}

static inline void let_go(struct mrig *rig, uint32_t leg) {
    vn_reactor_call(rig->reactor, let_go_on, rig->switches[leg]);
}

static inline int kept_on(void *arg) {
    return (int)((struct switch_filter *)arg)->nr_kept;
}

/* Before it keeps anything. */
static inline int make_stubborn_on(void *arg) {
    struct switch_filter *filter = arg;
    filter->stubborn |= filter->nr_kept == 0;
    return 0;
}

static inline uint32_t kept(struct mrig *rig, uint32_t leg) {
    return (uint32_t)vn_reactor_call(rig->reactor, kept_on, rig->switches[leg]);
}

static inline struct vn_mirror_info info_of(struct mrig *rig) {
    struct vn_mirror_info info;
    CHECK_EQ(vn_mirror_look(rig->mirror, &info, rig->error, sizeof(rig->error)), 0);
    return info;
}

static inline uint32_t state_of(struct mrig *rig, uint32_t leg) {
    return info_of(rig).legs[leg].state;
}

/* How many such events of a leg there have been. */
static inline uint32_t told(struct mrig *rig, enum vn_event_type type, uint32_t leg) {
    uint32_t nr = 0;
    rig->nr_told += vn_event_drain(rig->events, rig->told + rig->nr_told, 64 - rig->nr_told);
    for (uint32_t i = 0; i < rig->nr_told; i++)
        nr += rig->told[i].type == (uint32_t)type && rig->told[i].a == leg && rig->told[i].ctrl == 42;
    return nr;
}

static inline int leg_out(struct mrig *rig, uint32_t leg) {
    return vn_mirror_out(rig->mirror, leg, rig->error, sizeof(rig->error));
}

/* What it has open; it may still have commands in flight. */
static inline int leg_in(struct mrig *rig, uint32_t leg, bool full) {
    int err;
    UNTIL((err = vn_mirror_in_again(rig->mirror, leg, NULL, full, rig->error, sizeof(rig->error))) != -EBUSY);
    return err;
}

/* One that is opened now, in the file paths[leg]; it gets everything. */
static inline int new_leg_in(struct mrig *rig, uint32_t leg) {
    struct vn_ns_opts opts = {.backend = "file", .path = rig->paths[leg], .size = RIG_BYTES, .block_size = RIG_BLOCK,
                              .flags = VN_NS_CREATE};
    struct vn_backend *backend;
    CHECK_EQ(mrig_open_backend(rig, &opts, &backend), 0);
    backend = &(rig->switches[leg] = switch_over(backend))->backend;
    int err = vn_mirror_in_again(rig->mirror, leg, backend, true, rig->error, sizeof(rig->error));
    if (err)
        vn_backend_close(backend);
    return err;
}

/* Takes a leg that counts out for good. */
static inline void drop_leg(struct mrig *rig, uint32_t leg) {
    int err;
    CHECK_EQ(vn_mirror_break(rig->mirror, leg, rig->error, sizeof(rig->error)), 0);
    CHECK_EQ(leg_out(rig, leg), 0);
    UNTIL((err = vn_mirror_close_leg(rig->mirror, leg, true, rig->error, sizeof(rig->error))) != -EBUSY);
    CHECK_EQ(err, 0);
}

static inline int leg_counts(struct mrig *rig, uint32_t leg) {
    return vn_mirror_count(rig->mirror, leg, rig->error, sizeof(rig->error));
}

/* --- Contents --- */

static inline void read_leg(struct mrig *rig, uint32_t leg, uint8_t *all) {
    int fd = open(rig->paths[leg], O_RDONLY);
    CHECK_EQ(pread(fd, all, RIG_BYTES, 0), RIG_BYTES);
    close(fd);
}

static inline bool same(struct mrig *rig, uint32_t a, uint32_t b) {
    uint8_t *of_a = malloc(RIG_BYTES), *of_b = malloc(RIG_BYTES);
    read_leg(rig, a, of_a);
    read_leg(rig, b, of_b);
    bool equal = memcmp(of_a, of_b, RIG_BYTES) == 0;
    free(of_a);
    free(of_b);
    return equal;
}

/* Behind the mirror's back. */
static inline void plant(struct mrig *rig, uint32_t leg, uint64_t offset, uint8_t value) {
    uint8_t block[RIG_BLOCK];
    memset(block, value, sizeof(block));
    int fd = open(rig->paths[leg], O_RDWR | O_CREAT, 0600);
    CHECK_EQ(ftruncate(fd, RIG_BYTES), 0);
    CHECK_EQ(pwrite(fd, block, sizeof(block), (off_t)offset), sizeof(block));
    CHECK_EQ(fsync(fd), 0);
    close(fd);
}

static inline uint8_t planted(struct mrig *rig, uint32_t leg, uint64_t offset) {
    uint8_t value = 0;
    int fd = open(rig->paths[leg], O_RDONLY);
    CHECK_EQ(pread(fd, &value, 1, (off_t)offset), 1);
    close(fd);
    return value;
}

/* What the bitmap's file says of the region. */
static inline bool is_marked(const char *bitmap, uint64_t offset) {
    uint8_t byte = 0;
    int fd = open(bitmap, O_RDONLY);
    CHECK_EQ(pread(fd, &byte, 1, 4096 + (off_t)(offset / RIG_REGION / 8)), 1);
    close(fd);
    return byte >> (offset / RIG_REGION % 8) & 1;
}

#endif
