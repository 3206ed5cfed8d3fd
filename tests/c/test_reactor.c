/* The reactor: timers in order, pollers that come and go, sleep without lost wake-ups, io_uring operations and their
 * cancellation. Also run under TSan.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "core/reactor.h"
#include "core/util.h"
#include "vn_test.h"

#ifdef __SANITIZE_THREAD__
#define NR_POSTS 20000u
#else
#define NR_POSTS 100000u
#endif

static struct vn_reactor *reactor;
static sem_t done;
static struct vn_test_random random_here;

static uint64_t now_ns(clockid_t clock) {
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A hang fails the test after a while. */
static void wait_done(void) {
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 20;
    int err;
    while ((err = sem_timedwait(&done, &limit)) < 0 && errno == EINTR)
        ;
    CHECK_EQ(err, 0);
}

/* --- Calls --- */
static int answer(void *arg) {
    CHECK(vn_reactor_self() == reactor);
    CHECK_EQ(vn_reactor_index(reactor), 3);
    return *(int *)arg + 1;
}

static void test_call(void) {
    int arg = 41;
    CHECK(!vn_reactor_self());
    CHECK_EQ(vn_reactor_call(reactor, answer, &arg), 42);
}

/* --- Timers --- */
#define NR_TIMERS 200u

struct test_timer {
    struct vn_timer timer;
    uint64_t due_ns;
    bool fired, disarmed;
};
static struct test_timer timers[NR_TIMERS];
static uint64_t last_due_ns;
static uint32_t nr_due;

static void on_timer(struct vn_timer *timer) {
    struct test_timer *mine = vn_container_of(timer, struct test_timer, timer);
    CHECK(!mine->fired && !mine->disarmed && !timer->armed);
    mine->fired = true;
    CHECK(mine->due_ns >= last_due_ns); /* in order */
    last_due_ns = mine->due_ns;
    CHECK(vn_reactor_now_ns(reactor) >= mine->due_ns); /* not too early */
    if (--nr_due == 0)
        sem_post(&done);
}

static void arm(struct test_timer *mine) {
    uint64_t delay_ns = vn_test_below(&random_here, 20000000);
    mine->due_ns = vn_reactor_now_ns(reactor) + delay_ns;
    vn_timer_arm(reactor, &mine->timer, delay_ns);
}

static int arm_all(void *arg) {
    (void)arg;
    for (uint32_t i = 0; i < NR_TIMERS; i++) {
        timers[i] = (struct test_timer){.timer.fn = on_timer};
        arm(&timers[i]);
    }
    nr_due = NR_TIMERS;
    last_due_ns = 0;
    for (uint32_t i = 0; i < NR_TIMERS; i++) {
        switch (vn_test_below(&random_here, 4)) {
        case 0: /* arming again moves it */
            arm(&timers[i]);
            break;
        case 1:
            vn_timer_disarm(reactor, &timers[i].timer);
            vn_timer_disarm(reactor, &timers[i].timer); /* twice is once */
            timers[i].disarmed = true;
            nr_due--;
            break;
        default:
            break;
        }
    }
    return 0;
}

static void test_timers(void) {
    for (int round = 0; round < 10; round++) {
        uint64_t start_ns = now_ns(CLOCK_MONOTONIC);
        vn_reactor_call(reactor, arm_all, NULL);
        wait_done();
        CHECK(now_ns(CLOCK_MONOTONIC) - start_ns < 5000000000u);
        for (uint32_t i = 0; i < NR_TIMERS; i++)
            CHECK(timers[i].fired != timers[i].disarmed);
    }
}

/* A timer that arms itself again, even for at once, leaves the others their turn. */
static struct vn_timer again;
static uint32_t nr_again;

static void on_again(struct vn_timer *timer) {
    nr_again++;
    vn_timer_arm(reactor, timer, 0);
}

static int arm_again(void *arg) {
    (void)arg;
    again.fn = on_again;
    vn_timer_arm(reactor, &again, 0);
    return 0;
}

static int fired_again(void *arg) {
    (void)arg;
    return (int)nr_again;
}

static int disarm_again(void *arg) {
    (void)arg;
    vn_timer_disarm(reactor, &again);
    return 0;
}

static void test_timer_again(void) {
    vn_reactor_call(reactor, arm_again, NULL);
    for (int turns = 0; vn_reactor_call(reactor, fired_again, NULL) < 2; turns++)
        CHECK(turns < 1000);
    vn_reactor_call(reactor, disarm_again, NULL);
}

/* --- Pollers --- */
struct test_poller {
    struct vn_poller poller;
    uint32_t nr_polls, left;
};
static struct test_poller pollers[3];

static bool poll_some(struct vn_poller *poller) {
    struct test_poller *mine = vn_container_of(poller, struct test_poller, poller);
    mine->nr_polls++;
    if (--mine->left == 0) { /* removes itself from within */
        vn_poller_remove(reactor, poller);
        sem_post(&done);
    }
    return true;
}

static int add_pollers(void *arg) {
    (void)arg;
    for (uint32_t i = 0; i < 3; i++) {
        pollers[i] = (struct test_poller){.poller.poll = poll_some, .left = 10 * (i + 1)};
        vn_poller_add(reactor, &pollers[i].poller);
    }
    return 0;
}

static void test_pollers(void) {
    vn_reactor_call(reactor, add_pollers, NULL);
    for (int i = 0; i < 3; i++)
        wait_done();
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQ(pollers[i].nr_polls, 10 * (i + 1));
}

/* --- Sleep --- */
static struct vn_poller sleeper;
static atomic_uint nr_looked, nr_awoken;

static bool look(struct vn_poller *poller) {
    (void)poller;
    atomic_fetch_add(&nr_looked, 1);
    return false;
}

static void awoken(struct vn_poller *poller) {
    (void)poller;
    atomic_fetch_add(&nr_awoken, 1);
}

static int add_sleeper(void *arg) {
    sleeper = (struct vn_poller){.poll = look, .after_sleep = awoken, .max_sleep_ns = *(uint64_t *)arg};
    vn_poller_add(reactor, &sleeper);
    return 0;
}

static int remove_sleeper(void *arg) {
    (void)arg;
    vn_poller_remove(reactor, &sleeper);
    return 0;
}

/* Idle it costs nothing; with max_sleep it looks that often. */
static void test_idle(void) {
    struct vn_reactor_counters before, after;
    uint64_t max_sleep_ns = 0;
    vn_reactor_call(reactor, add_sleeper, &max_sleep_ns);
    usleep(5000);
    vn_reactor_counters(reactor, &before);
    usleep(200000);
    vn_reactor_counters(reactor, &after);
    CHECK(after.rounds - before.rounds <= 2);
    CHECK(after.cpu_ns - before.cpu_ns < 20000000);
    vn_reactor_call(reactor, remove_sleeper, NULL);

    max_sleep_ns = 2000000;
    vn_reactor_call(reactor, add_sleeper, &max_sleep_ns);
    usleep(100000); /* the first looks are closer together */
    atomic_store(&nr_awoken, 0);
    usleep(200000);
    uint32_t nr = atomic_load(&nr_awoken);
    vn_reactor_call(reactor, remove_sleeper, NULL);
    CHECK(nr >= 10 && nr <= 110); /* 100 when the machine has time for us */
}

/* --- No wake-up is lost --- */
static atomic_uint nr_received;

static void receive(struct vn_message *message) {
    (void)message;
    atomic_fetch_add(&nr_received, 1);
}

static void test_posts(void) {
    static struct vn_message message = {.fn = receive};
    struct vn_test_random random = random_here;
    for (uint32_t i = 0; i < NR_POSTS; i++) {
        while (vn_reactor_post(reactor, &message) == -EAGAIN)
            usleep(10);
        uint64_t pause = vn_test_below(&random, 1000);
        if (pause == 0)
            usleep((useconds_t)vn_test_below(&random, 100));
        if (pause >= 800) /* wait for the answer: it may just be falling asleep */
            for (uint64_t start_ns = now_ns(CLOCK_MONOTONIC); atomic_load(&nr_received) <= i;)
                CHECK(now_ns(CLOCK_MONOTONIC) - start_ns < 10000000000u);
        for (volatile uint64_t spin = pause >= 600 ? vn_test_below(&random, 3000) : 0; spin; spin--)
            ;
    }
    while (atomic_load(&nr_received) < NR_POSTS)
        usleep(100);
    CHECK_EQ(atomic_load(&nr_received), NR_POSTS);
}

/* --- Several threads call at once, more than the mailbox holds --- */
static int counter; /* owner: reactor */

static int add_one(void *arg) {
    (void)arg;
    return ++counter;
}

static void *call_often(void *arg) {
    for (int i = 0, last = 0; i < 2000; i++) {
        int now = vn_reactor_call(reactor, add_one, NULL);
        CHECK(now > last);
        last = now;
    }
    return arg;
}

static void test_callers(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, call_often, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(counter, 8000);
}

/* --- Operations --- */
struct test_op {
    struct vn_uring_op op;
    int res;
    atomic_uint nr_done;
    char byte;
};
static struct test_op ops[2];
static int fds[2];

static void on_op(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    struct test_op *mine = vn_container_of(op, struct test_op, op);
    (void)cqe_flags;
    mine->res = res;
    atomic_fetch_add(&mine->nr_done, 1);
    sem_post(&done);
}

static int start_reads(void *arg) {
    (void)arg;
    for (int i = 0; i < 2; i++) {
        ops[i] = (struct test_op){.op.done = on_op};
        struct io_uring_sqe *sqe = vn_reactor_sqe(reactor, &ops[i].op);
        io_uring_prep_read(sqe, fds[0], &ops[i].byte, 1, 0);
        io_uring_sqe_set_data(sqe, &ops[i].op);
    }
    return 0;
}

static int cancel_first(void *arg) {
    (void)arg;
    vn_reactor_cancel(reactor, &ops[0].op);
    return 0;
}

/* --- Storage operations --- */
#define NR_BURST 96
static struct test_op burst[NR_BURST];

static void on_burst(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    vn_reactor_io_end(reactor);
    on_op(op, res, cqe_flags);
}

/* Answers how often the kernel was entered meanwhile. */
static int start_burst(void *arg) {
    struct vn_reactor_counters before, after;
    vn_reactor_counters(reactor, &before);
    for (int i = 0; i < *(int *)arg; i++) {
        burst[i] = (struct test_op){.op.done = on_burst};
        CHECK(vn_reactor_sqe(reactor, &burst[i].op));
        vn_reactor_io_begin(reactor);
    }
    vn_reactor_counters(reactor, &after);
    return (int)(after.enters - before.enters);
}

/* An idle device gets the first of a burst at once and then two at a time, as many as the kernel hands on one by one;
 * what is prepared on a busy one, with 64 or more, goes at the turn's end. */
static void test_burst(void) {
    static const int sizes[][2] = {{1, 1}, {2, 1}, {3, 2}, {7, 4}, {31, 16}, {32, 16}, {65, 33}, {96, 33}, {1, 1}};
    for (uint32_t i = 0; i < VN_ARRAY_SIZE(sizes); i++) {
        int size = sizes[i][0];
        CHECK_EQ(vn_reactor_call(reactor, start_burst, &size), sizes[i][1]);
        for (int j = 0; j < size; j++)
            wait_done();
        for (int j = 0; j < size; j++)
            CHECK_EQ(atomic_load(&burst[j].nr_done), 1);
    }
}

/* A full ring answers NULL for the rest of the turn, and cancel makes room for itself even then. */
static int fill_ring(void *arg) {
    (void)arg;
    uint32_t nr = 0;
    static struct vn_uring_op nothing;
    while (vn_reactor_sqe(reactor, NULL))
        nr++;
    (void)nothing;
    vn_reactor_cancel(reactor, &nothing);
    return (int)nr;
}

static void test_ops(void) {
    CHECK_EQ(pipe(fds), 0);
    vn_reactor_call(reactor, start_reads, NULL);
    usleep(2000);
    vn_reactor_call(reactor, cancel_first, NULL);
    wait_done();
    CHECK(ops[0].nr_done == 1 && ops[0].res == -ECANCELED && !ops[1].nr_done);
    CHECK_EQ(write(fds[1], "x", 1), 1); /* wakes it from its sleep */
    wait_done();
    CHECK(ops[1].nr_done == 1 && ops[1].res == 1 && ops[1].byte == 'x');
    CHECK(ops[0].nr_done == 1);
    int nr = vn_reactor_call(reactor, fill_ring, NULL);
    CHECK(nr > 0 && nr <= VN_REACTOR_ENTRIES);
    test_call(); /* it still turns, */
    nr = vn_reactor_call(reactor, fill_ring, NULL);
    CHECK(nr > VN_REACTOR_ENTRIES / 2); /* and has room again */
    close(fds[0]);
    close(fds[1]);
}

/* A thread of the kernel submits: the same operations, and sleep that ends when one has completed. */
static void test_sqpoll(void) {
    struct vn_reactor_opts opts = {.poll_us = 30, .flags = VN_REACTOR_SQPOLL};
    struct vn_reactor *other = reactor;
    CHECK_EQ(vn_reactor_start_as(&opts, &reactor), 0);
    for (int i = 0; i < 20; i++) {
        int size = NR_BURST;
        CHECK(vn_reactor_call(reactor, start_burst, &size) <= 33); /* its thread is awake, mostly */
        for (int j = 0; j < size; j++)
            wait_done();
    }
    CHECK_EQ(pipe(fds), 0);
    vn_reactor_call(reactor, start_reads, NULL);
    usleep(5000); /* longer than that thread spins */
    vn_reactor_call(reactor, cancel_first, NULL);
    wait_done();
    CHECK(ops[0].nr_done == 1 && ops[0].res == -ECANCELED && !ops[1].nr_done);
    CHECK_EQ(write(fds[1], "x", 1), 1);
    wait_done();
    CHECK(ops[1].nr_done == 1 && ops[1].res == 1 && ops[1].byte == 'x');
    CHECK(vn_reactor_call(reactor, fill_ring, NULL) > 0);
    CHECK_EQ(vn_reactor_call(reactor, add_one, NULL), counter);
    vn_reactor_stop(reactor);
    close(fds[0]);
    close(fds[1]);
    reactor = other;
}

int main(void) {
    random_here = vn_test_seed();
    sem_init(&done, 0, 0);
    CHECK_EQ(vn_reactor_start(3, 30, &reactor), 0);
    test_call();
    test_timers();
    test_timer_again();
    test_pollers();
    test_idle();
    test_posts();
    test_callers();
    test_ops();
    test_burst();
    test_sqpoll();
    vn_reactor_stop(reactor);
    for (int i = 0; i < 50; i++) { /* starting and stopping at once */
        CHECK_EQ(vn_reactor_start(0, 0, &reactor), 0);
        vn_reactor_stop(reactor);
    }
    sem_destroy(&done);
    return 0;
}
