/* A reactor: one thread, one io_uring, and everything that lives on it. No locks: other threads reach it by
 * its mailbox only. It turns while there is work or some is due, else it sleeps in io_uring on all at once.
 * Every function here but vn_reactor_start, _start_as, _stop, _call and _post is for the reactor's own thread.
 */
#ifndef VN_CORE_REACTOR_H
#define VN_CORE_REACTOR_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/poller.h"

#define VN_REACTOR_ENTRIES 1024 /* submission slots; a full ring answers NULL, which backends turn into BUSY */

struct vn_reactor;

/* An operation in io_uring. Embedded in whatever waits for it; its address is the user_data.
 * done runs on the reactor; for multishot operations again and again while cqe_flags has IORING_CQE_F_MORE. */
struct vn_uring_op {
    void (*done)(struct vn_uring_op *op, int res, uint32_t cqe_flags);
};

/* One shot at a time of the monotonic clock, with a millisecond's precision at worst. */
struct vn_timer {
    void (*fn)(struct vn_timer *timer);
    uint64_t deadline_ns;
    bool armed;
    struct vn_timer *prev, *next;
};

/* Something for another thread to do. Embedded in what is sent; must stay valid until fn has run. */
struct vn_message {
    void (*fn)(struct vn_message *message);
};

#define VN_REACTOR_AWAKE 2u  /* never sleeps: it has a core to itself */
#define VN_REACTOR_SQPOLL 1u /* a thread of the kernel submits, and spins for a while after the last submission */
#define VN_REACTOR_PIN 4u    /* memory that is offered with vn_reactor_pin is pinned */
struct vn_reactor_opts {
    uint32_t index, poll_us, flags;
};
int vn_reactor_start_as(const struct vn_reactor_opts *opts, struct vn_reactor **out);
int vn_reactor_start(uint32_t index, uint32_t poll_us, struct vn_reactor **out); /* without flags */
/* Ends the thread; nothing may live on it any more. */
void vn_reactor_stop(struct vn_reactor *reactor);
/* From any other thread: run fn(message) on the reactor soon. -EAGAIN when the mailbox is full. */
int vn_reactor_post(struct vn_reactor *reactor, struct vn_message *message);
/* From any other thread: run fn(arg) on the reactor and wait for its answer. */
int vn_reactor_call(struct vn_reactor *reactor, int (*fn)(void *arg), void *arg);

/* One turn of the loop: takes what has completed, runs everything once, submits. True: something was done.
 * For the loop itself, and for tests and measurements, which may call it from within vn_reactor_call. */
bool vn_reactor_turn(struct vn_reactor *reactor);

struct vn_reactor *vn_reactor_self(void); /* NULL on a thread that is none */

/* Whether this is its thread. For every command, so it takes no thread-local variable: in a shared library
 * that is a function call. A thread is known by its thread pointer, which is what the reactor begins with. */
static inline bool vn_reactor_is_here(const struct vn_reactor *reactor) {
    return *(void *const *)reactor == __builtin_thread_pointer();
}

uint32_t vn_reactor_index(const struct vn_reactor *reactor);
uint64_t vn_reactor_poll_ns(const struct vn_reactor *reactor); /* spin no longer than that for one event */
uint64_t vn_reactor_now_ns(const struct vn_reactor *reactor); /* read once a turn */

/* A prepared-to-be submission slot for op, or NULL when the ring is full this turn. Submitted at the turn's end,
 * or with a storage operation that is prepared after it: fill it in before you ask for the next. */
struct io_uring_sqe *vn_reactor_sqe(struct vn_reactor *reactor, struct vn_uring_op *op);
/* For operations on storage, which is slow to start: _begin when the slot is filled, _end when it has completed.
 * A burst to an idle device then starts before all of it is prepared. */
void vn_reactor_io_begin(struct vn_reactor *reactor);
void vn_reactor_io_end(struct vn_reactor *reactor);
/* Memory that storage operations will use, page-aligned, for as long as it is mapped; without VN_REACTOR_PIN nothing
 * happens. Pinned in the background: told says how far that came, with an errno if the kernel takes no more.
 * -ENOSPC: too much, or too many regions. */
typedef void vn_pin_told(void *owner, const void *base, uint64_t pinned, uint64_t len, int err);
int vn_reactor_pin(struct vn_reactor *reactor, const void *base, uint64_t len, vn_pin_told *told, void *owner);
void vn_reactor_unpin(struct vn_reactor *reactor, const void *base); /* also one that is not there */
/* Makes a read or write (one buffer, or a vector of them) that has been prepared use pinned memory, if all is. */
void vn_reactor_use_pinned(struct vn_reactor *reactor, struct io_uring_sqe *sqe);
/* Ask for the cancellation of op; it still completes exactly once. */
void vn_reactor_cancel(struct vn_reactor *reactor, struct vn_uring_op *op);

void vn_poller_add(struct vn_reactor *reactor, struct vn_poller *poller);
void vn_poller_remove(struct vn_reactor *reactor, struct vn_poller *poller);
void vn_poller_wake(struct vn_reactor *reactor, struct vn_poller *poller); /* it has something to do */
void vn_timer_arm(struct vn_reactor *reactor, struct vn_timer *timer, uint64_t delay_ns);
void vn_timer_disarm(struct vn_reactor *reactor, struct vn_timer *timer);

struct vn_reactor_counters {
    uint64_t rounds, sleeps, enters, cpu_ns, ops;
};
void vn_reactor_counters(struct vn_reactor *reactor, struct vn_reactor_counters *out); /* any thread */

#endif
