/* A reactor: one thread, one io_uring, and everything that lives on it.
 * Started by api.c; doors, controllers and backends hang pollers, timers and operations on it.
 */
#include "core/reactor.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "core/mailbox.h"
#include "core/pinned.h"
#include "core/util.h"

#define REAP_BATCH 128u
#define TIMER_SLACK_NS 1000ul
#define REST_NS 100000 /* while others keep the reactor awake: who is idle for so long is left alone */
#define BUSY_DEVICE 64u /* storage operations in flight that keep any device at work while more are prepared */
#define PIECE_MAX 2u    /* operations of one submission that the kernel hands to the device one by one */
#define PREEMPTED_NS 40000ull
#define CONTENDED_NS 1000000ull
#define SQPOLL_IDLE_MS 1u /* the kernel's thread spins so long after the last submission; less cannot be asked for */
#define CALL_RETRY_NS 100000 /* a full mailbox is looked at again after 0.1 ms */

struct vn_reactor {
    void *thread_pointer; /* first: vn_reactor_is_here */
    struct io_uring ring;
    struct vn_mailbox box;
    struct vn_pollers pollers;
    struct vn_timer *timers; /* sorted by deadline */
    uint64_t now_ns, poll_ns;
    bool stop, sqpoll, awake;
    bool spins; /* the last turn had no work, and the next one comes at once */
    uint32_t index;
    uint32_t nr_io_prepared, nr_io_submitted; /* storage operations: not yet with the kernel, and with it */
    pthread_t thread;
    clockid_t cpu_clock;
    struct vn_uring_op wake_op;
    uint64_t wake_value;
    struct vn_pinned pinned;
    /* one writer, read by any thread */
    atomic_uint_fast64_t rounds, sleeps, enters, ops;
    int start_result;
    sem_t started;
};

static _Thread_local struct vn_reactor *self;

/* Single writer: a plain add, but whole for readers on other threads. */
static inline void count(atomic_uint_fast64_t *counter, uint64_t n) {
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

struct vn_reactor *vn_reactor_self(void) {
    return self;
}

uint32_t vn_reactor_index(const struct vn_reactor *reactor) {
    return reactor->index;
}

uint64_t vn_reactor_poll_ns(const struct vn_reactor *reactor) {
    return reactor->poll_ns;
}

uint64_t vn_reactor_now_ns(const struct vn_reactor *reactor) {
    return reactor->now_ns;
}

struct io_uring_sqe *vn_reactor_sqe(struct vn_reactor *reactor, struct vn_uring_op *op) {
    assert(vn_reactor_is_here(reactor));
    struct io_uring_sqe *sqe = io_uring_get_sqe(&reactor->ring);
    if (sqe) {
        io_uring_prep_nop(sqe);
        io_uring_sqe_set_data(sqe, op);
    }
    return sqe;
}

/* With a submitting thread in the kernel this is a system call only when that has fallen asleep. */
static void submit(struct vn_reactor *reactor) {
    bool enters = !reactor->sqpoll || (__atomic_load_n(reactor->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_NEED_WAKEUP);
    io_uring_submit(&reactor->ring);
    count(&reactor->enters, enters);
}

static void io_submitted(struct vn_reactor *reactor) {
    reactor->nr_io_submitted += reactor->nr_io_prepared;
    reactor->nr_io_prepared = 0;
}

/* The kernel hands a submission of more than two operations to the device when it has prepared all of them, microseconds
 * for each; a device that has less to do than that would wait. So the first goes ahead to an idle device, then two at a
 * time, until it is busy (docs/decisions/0004-io-uring.md). This runs no completions: they come at the turn's end. */
void vn_reactor_io_begin(struct vn_reactor *reactor) {
    assert(vn_reactor_is_here(reactor));
    uint32_t piece = reactor->nr_io_submitted ? PIECE_MAX : 1;
    if (++reactor->nr_io_prepared < piece || reactor->nr_io_submitted >= BUSY_DEVICE)
        return;
    submit(reactor);
    io_submitted(reactor);
}

void vn_reactor_io_end(struct vn_reactor *reactor) {
    assert(reactor->nr_io_submitted);
    reactor->nr_io_submitted--;
}

/* A slot in any case. That the ring is full is rare here, and off the fast path: room is made at once. */
static struct io_uring_sqe *make_sqe(struct vn_reactor *reactor, struct vn_uring_op *op) {
    struct io_uring_sqe *sqe = vn_reactor_sqe(reactor, op);
    if (!sqe) {
        submit(reactor);
        if (reactor->sqpoll)
            io_uring_sqring_wait(&reactor->ring); /* until its thread has taken some */
        sqe = vn_reactor_sqe(reactor, op);
    }
    return sqe;
}

void vn_reactor_cancel(struct vn_reactor *reactor, struct vn_uring_op *op) {
    struct io_uring_sqe *sqe = make_sqe(reactor, NULL);
    if (sqe) {
        io_uring_prep_cancel(sqe, op, 0);
        io_uring_sqe_set_data(sqe, NULL);
    }
}

int vn_reactor_pin(struct vn_reactor *reactor, const void *base, uint64_t len, vn_pin_told *told, void *owner) {
    assert(vn_reactor_is_here(reactor));
    return vn_pinned_add(&reactor->pinned, base, len, told, owner);
}

void vn_reactor_unpin(struct vn_reactor *reactor, const void *base) {
    assert(vn_reactor_is_here(reactor));
    vn_pinned_remove(&reactor->pinned, base);
}

void vn_reactor_use_pinned(struct vn_reactor *reactor, struct io_uring_sqe *sqe) {
    vn_pinned_use(&reactor->pinned, sqe);
}

void vn_poller_add(struct vn_reactor *reactor, struct vn_poller *poller) {
    assert(vn_reactor_is_here(reactor));
    vn_pollers_add(&reactor->pollers, poller, reactor->now_ns);
}

void vn_poller_remove(struct vn_reactor *reactor, struct vn_poller *poller) {
    assert(vn_reactor_is_here(reactor));
    vn_pollers_remove(&reactor->pollers, poller);
}

void vn_poller_wake(struct vn_reactor *reactor, struct vn_poller *poller) {
    assert(vn_reactor_is_here(reactor));
    vn_pollers_wake(&reactor->pollers, poller);
}

void vn_timer_arm(struct vn_reactor *reactor, struct vn_timer *timer, uint64_t delay_ns) {
    assert(vn_reactor_is_here(reactor));
    if (timer->armed)
        vn_timer_disarm(reactor, timer);
    timer->deadline_ns = reactor->now_ns + delay_ns;
    timer->armed = true;
    struct vn_timer *before = NULL, *after = reactor->timers;
    while (after && after->deadline_ns <= timer->deadline_ns) {
        before = after;
        after = after->next;
    }
    timer->prev = before;
    timer->next = after;
    if (after)
        after->prev = timer;
    if (before)
        before->next = timer;
    else
        reactor->timers = timer;
}

void vn_timer_disarm(struct vn_reactor *reactor, struct vn_timer *timer) {
    assert(vn_reactor_is_here(reactor));
    if (!timer->armed)
        return;
    timer->armed = false;
    if (timer->next)
        timer->next->prev = timer->prev;
    if (timer->prev)
        timer->prev->next = timer->next;
    else
        reactor->timers = timer->next;
    timer->prev = timer->next = NULL;
}

static bool run_timers(struct vn_reactor *reactor) {
    bool work = false;
    uint32_t nr_due = 0; /* bounded: one that arms itself again for at once waits for the next turn */
    for (struct vn_timer *timer = reactor->timers; timer && timer->deadline_ns <= reactor->now_ns; timer = timer->next)
        nr_due++;
    while (nr_due-- && reactor->timers && reactor->timers->deadline_ns <= reactor->now_ns) {
        struct vn_timer *timer = reactor->timers;
        vn_timer_disarm(reactor, timer);
        timer->fn(timer);
        work = true;
    }
    return work;
}

static bool run_mailbox(struct vn_reactor *reactor) {
    bool work = false;
    /* bounded: what is posted while we run waits for the next turn */
    for (uint32_t i = 0; i < VN_MAILBOX_SLOTS; i++) {
        struct vn_message *message = vn_mailbox_take(&reactor->box);
        if (!message)
            break;
        message->fn(message);
        work = true;
    }
    return work;
}

static bool reap(struct vn_reactor *reactor) {
    struct io_uring_cqe *cqes[REAP_BATCH];
    unsigned n = io_uring_peek_batch_cqe(&reactor->ring, cqes, REAP_BATCH);
    for (unsigned i = 0; i < n; i++) {
        struct vn_uring_op *op = io_uring_cqe_get_data(cqes[i]);
        if (op)
            op->done(op, cqes[i]->res, cqes[i]->flags);
    }
    io_uring_cq_advance(&reactor->ring, n);
    count(&reactor->ops, n);
    return n > 0;
}

/* At a turn's end: submits what the turn has prepared and runs finished work, in one io_uring_enter, or in none when
 * there is neither. */
static void enter(struct vn_reactor *reactor) {
    bool task_work = *reactor->ring.sq.kflags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
    if (!io_uring_sq_ready(&reactor->ring) && !task_work)
        return;
    if (reactor->sqpoll && !task_work) {
        submit(reactor);
    } else {
        io_uring_submit_and_get_events(&reactor->ring);
        count(&reactor->enters, 1);
    }
    io_submitted(reactor);
}

static void arm_wake(struct vn_reactor *reactor) {
    struct io_uring_sqe *sqe = make_sqe(reactor, &reactor->wake_op);
    assert(sqe);
    io_uring_prep_read(sqe, reactor->box.wake_fd, &reactor->wake_value, sizeof(reactor->wake_value), 0);
    io_uring_sqe_set_data(sqe, &reactor->wake_op);
}

static void on_wake(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    struct vn_reactor *reactor = vn_container_of(op, struct vn_reactor, wake_op);
    (void)res;
    (void)cqe_flags;
    arm_wake(reactor);
}

/* Everything that could give us work is armed first and looked at again, so that no wake-up is lost. */
static void sleep_on_all(struct vn_reactor *reactor) {
    if (!vn_mailbox_sleep(&reactor->box))
        return;
    uint64_t sleep_ns = UINT64_MAX;
    bool stay_awake = vn_pollers_before_sleep(&reactor->pollers, reactor->now_ns, &sleep_ns);
    if (reactor->timers) {
        uint64_t deadline = reactor->timers->deadline_ns;
        uint64_t left = deadline > reactor->now_ns ? deadline - reactor->now_ns : 0;
        sleep_ns = left < sleep_ns ? left : sleep_ns;
    }
    if (!stay_awake && sleep_ns) {
        struct __kernel_timespec ts = {.tv_sec = (int64_t)(sleep_ns / 1000000000u),
                                       .tv_nsec = (int64_t)(sleep_ns % 1000000000u)};
        struct io_uring_cqe *cqe;
        io_uring_submit_and_wait_timeout(&reactor->ring, &cqe, 1, sleep_ns == UINT64_MAX ? NULL : &ts, NULL);
        count(&reactor->enters, 1);
        count(&reactor->sleeps, 1);
    }
    vn_mailbox_awake(&reactor->box);
    vn_pollers_after_sleep(&reactor->pollers);
}

static int ring_init_sqpoll(struct io_uring *ring) {
    struct io_uring_params params = {.flags = IORING_SETUP_SQPOLL | IORING_SETUP_CQSIZE,
                                     .sq_thread_idle = SQPOLL_IDLE_MS,
                                     .cq_entries = 4 * VN_REACTOR_ENTRIES};
    return io_uring_queue_init_params(VN_REACTOR_ENTRIES, ring, &params);
}

static int ring_init(struct io_uring *ring) {
    /* The best that the kernel knows: 6.1 defers completion work to our own enter, 5.19 at least avoids
     * interrupts for it, older ones take none of the flags. */
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    int err = -EINVAL;
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]) && err == -EINVAL; i++) {
        struct io_uring_params params = {.flags = flags[i] | IORING_SETUP_CQSIZE, .cq_entries = 4 * VN_REACTOR_ENTRIES};
        err = io_uring_queue_init_params(VN_REACTOR_ENTRIES, ring, &params);
    }
    return err;
}

/* Between two turns that do nothing no time passes, unless another thread had this core meanwhile. Who spins in its
 * way only slows down what it waits for, the guest's own processor perhaps. */
static void note_preemption(struct vn_reactor *reactor, uint64_t before_ns) {
    if (reactor->spins && reactor->now_ns - before_ns >= PREEMPTED_NS)
        reactor->pollers.contended_until_ns = reactor->now_ns + CONTENDED_NS;
    reactor->spins = false;
}

bool vn_reactor_turn(struct vn_reactor *reactor) {
    assert(vn_reactor_is_here(reactor));
    uint64_t before_ns = reactor->now_ns;
    reactor->now_ns = vn_monotonic_ns();
    note_preemption(reactor, before_ns);
    bool work = reap(reactor);
    bool work_told = run_mailbox(reactor);
    work |= work_told;
    reactor->pollers.ask_all |= work_told;
    work |= vn_pollers_run(&reactor->pollers, reactor->now_ns);
    reactor->pollers.ask_all = run_timers(reactor);
    work |= reactor->pollers.ask_all;
    enter(reactor);
    count(&reactor->rounds, 1);
    return work;
}

static void *reactor_main(void *arg) {
    struct vn_reactor *reactor = arg;
    self = reactor;
    reactor->thread_pointer = __builtin_thread_pointer();
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS); /* else the kernel adds up to 50 us to every sleep */
    reactor->start_result = reactor->sqpoll ? ring_init_sqpoll(&reactor->ring) : ring_init(&reactor->ring);
    if (reactor->start_result < 0) {
        sem_post(&reactor->started);
        return NULL;
    }
    reactor->wake_op.done = on_wake;
    arm_wake(reactor);
    reactor->now_ns = vn_monotonic_ns();
    sem_post(&reactor->started);

    while (!reactor->stop) {
        if (vn_reactor_turn(reactor))
            continue;
        reactor->spins = vn_pollers_spin(&reactor->pollers, reactor->now_ns);
        if (!reactor->spins && !reactor->awake)
            sleep_on_all(reactor);
    }
    io_uring_queue_exit(&reactor->ring);
    return NULL;
}

int vn_reactor_start(uint32_t index, uint32_t poll_us, struct vn_reactor **out) {
    return vn_reactor_start_as(&(struct vn_reactor_opts){.index = index, .poll_us = poll_us}, out);
}

int vn_reactor_start_as(const struct vn_reactor_opts *opts, struct vn_reactor **out) {
    struct vn_reactor *reactor = aligned_alloc(64, (sizeof(*reactor) + 63) & ~63ul);
    if (!reactor)
        return -ENOMEM;
    *reactor = (struct vn_reactor){.index = opts->index,
                                   .poll_ns = opts->poll_us * 1000ull,
                                   .sqpoll = opts->flags & VN_REACTOR_SQPOLL,
                                   .awake = opts->flags & VN_REACTOR_AWAKE};
    int err = vn_mailbox_init(&reactor->box);
    if (err)
        goto out_free;
    vn_pinned_init(&reactor->pinned, reactor, &reactor->ring, opts->flags & VN_REACTOR_PIN);
    vn_pollers_init(&reactor->pollers, reactor->poll_ns > REST_NS ? reactor->poll_ns : REST_NS);
    sem_init(&reactor->started, 0, 0);

    /* The reactor takes no signals: they are Python's business. But one that its own memory access raises cannot be
     * held back: blocked, it would end the process without a handler (guest/sigbus.c has one). */
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = -pthread_create(&reactor->thread, NULL, reactor_main, reactor);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err)
        goto out_mailbox;
    char name[16];
    snprintf(name, sizeof(name), "vn-reactor-%u", opts->index % 1000);
    pthread_setname_np(reactor->thread, name);
    pthread_getcpuclockid(reactor->thread, &reactor->cpu_clock);

    sem_wait(&reactor->started);
    err = reactor->start_result;
    if (err < 0) {
        pthread_join(reactor->thread, NULL);
        goto out_mailbox;
    }
    *out = reactor;
    return 0;

out_mailbox:
    sem_destroy(&reactor->started);
    vn_mailbox_fini(&reactor->box);
out_free:
    free(reactor);
    return err;
}

static int set_stop(void *arg) {
    ((struct vn_reactor *)arg)->stop = true;
    return 0;
}

void vn_reactor_stop(struct vn_reactor *reactor) {
    vn_reactor_call(reactor, set_stop, reactor);
    pthread_join(reactor->thread, NULL);
    assert(!reactor->pollers.active && !reactor->pollers.resting && !reactor->timers && !reactor->pinned.nr);
    sem_destroy(&reactor->started);
    vn_mailbox_fini(&reactor->box);
    free(reactor);
}

int vn_reactor_post(struct vn_reactor *reactor, struct vn_message *message) {
    return vn_mailbox_put(&reactor->box, message);
}

struct call {
    struct vn_message message;
    int (*fn)(void *arg);
    void *arg;
    int result;
    sem_t done;
};

static void run_call(struct vn_message *message) {
    struct call *call = (struct call *)message;
    call->result = call->fn(call->arg);
    sem_post(&call->done);
}

int vn_reactor_call(struct vn_reactor *reactor, int (*fn)(void *arg), void *arg) {
    assert(self != reactor);
    struct call call = {.message.fn = run_call, .fn = fn, .arg = arg};
    sem_init(&call.done, 0, 0);
    while (vn_reactor_post(reactor, &call.message) == -EAGAIN)
        nanosleep(&(struct timespec){.tv_nsec = CALL_RETRY_NS}, NULL);
    while (sem_wait(&call.done) < 0 && errno == EINTR)
        ;
    sem_destroy(&call.done);
    return call.result;
}

void vn_reactor_counters(struct vn_reactor *reactor, struct vn_reactor_counters *out) {
    *out = (struct vn_reactor_counters){
        .rounds = atomic_load_explicit(&reactor->rounds, memory_order_relaxed),
        .sleeps = atomic_load_explicit(&reactor->sleeps, memory_order_relaxed),
        .enters = atomic_load_explicit(&reactor->enters, memory_order_relaxed),
        .ops = atomic_load_explicit(&reactor->ops, memory_order_relaxed),
        .cpu_ns = clock_ns(reactor->cpu_clock),
    };
}
