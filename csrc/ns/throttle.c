/* The queues of commands that wait for the tokens of a limit. Called by ns.c for each command of a limited namespace or
 * controller, by its own timer, and by the controller when commands are cancelled.
 */
#include "ns/throttle.h"

#include "core/util.h"

#define PASS_BURST 32u          /* commands passed on before others of the reactor have their turn */
#define WAKE_NS_MIN 50000ull    /* tokens of so long are given out at once: a timer for each would cost more than the I/O */
#define BUSY_RETRY_NS 50000ull  /* the backend was full: offer it again */

/* The words of req->filter while no backend has the request. */
enum { WORD_PREV, WORD_NEXT, WORD_SINCE };

static struct vn_req *next_of(const struct vn_req *req) {
    return (struct vn_req *)(uintptr_t)req->filter[WORD_NEXT];
}

static struct vn_req *prev_of(const struct vn_req *req) {
    return (struct vn_req *)(uintptr_t)req->filter[WORD_PREV];
}

static bool is_write(const struct vn_req *req) {
    return req->op != VN_OP_READ && req->op != VN_OP_COMPARE;
}

/* Write Zeroes, Dataset Management and Flush move no data: each is one write command, and no bytes. */
static uint64_t bytes_of(const struct vn_req *req) {
    return req->op == VN_OP_READ || req->op == VN_OP_COMPARE || req->op == VN_OP_WRITE ? req->length : 0;
}

static uint64_t wait_of(const struct vn_throttle *throttle, const struct vn_req *req) {
    return vn_limiter_wait_ns(&throttle->limiter, is_write(req), bytes_of(req), vn_reactor_now_ns(throttle->reactor));
}

static void pay(struct vn_throttle *throttle, struct vn_req *req) {
    vn_limiter_take(&throttle->limiter, is_write(req), bytes_of(req), vn_reactor_now_ns(throttle->reactor));
    req->limits |= throttle->paid;
}

static void count_waiting(struct vn_throttle *throttle, uint64_t nr) {
    __atomic_store_n(&throttle->nr_waiting, nr, __ATOMIC_RELAXED);
}

static void put_last(struct vn_throttle *throttle, struct vn_req *req) {
    struct vn_waiting *queue = &throttle->queues[is_write(req)];
    req->filter[WORD_PREV] = (uintptr_t)queue->last;
    req->filter[WORD_NEXT] = 0;
    if (queue->last)
        queue->last->filter[WORD_NEXT] = (uintptr_t)req;
    else
        queue->first = req;
    queue->last = req;
    req->limits |= throttle->waits;
    count_waiting(throttle, throttle->nr_waiting + 1);
}

static void put_first(struct vn_throttle *throttle, struct vn_req *req) {
    struct vn_waiting *queue = &throttle->queues[is_write(req)];
    req->filter[WORD_PREV] = 0;
    req->filter[WORD_NEXT] = (uintptr_t)queue->first;
    if (queue->first)
        queue->first->filter[WORD_PREV] = (uintptr_t)req;
    else
        queue->last = req;
    queue->first = req;
    req->limits |= throttle->waits;
    count_waiting(throttle, throttle->nr_waiting + 1);
}

static void take_out(struct vn_throttle *throttle, struct vn_req *req) {
    struct vn_waiting *queue = &throttle->queues[is_write(req)];
    struct vn_req *prev = prev_of(req), *next = next_of(req);
    assert(req->limits & throttle->waits);
    if (prev)
        prev->filter[WORD_NEXT] = (uintptr_t)next;
    else
        queue->first = next;
    if (next)
        next->filter[WORD_PREV] = (uintptr_t)prev;
    else
        queue->last = prev;
    req->limits &= (uint8_t)~throttle->waits;
    count_waiting(throttle, throttle->nr_waiting - 1);
}

static void leave(struct vn_throttle *throttle, struct vn_req *req) {
    uint64_t since = req->filter[WORD_SINCE];
    take_out(throttle, req);
    vn_count(&throttle->counters->waited_ns, vn_reactor_now_ns(throttle->reactor) - since);
}

static uint64_t head_wait(const struct vn_throttle *throttle, const struct vn_req *head) {
    return head->cancelled || (head->limits & (throttle->paid | VN_REQ_RELEASED)) ? 0 : wait_of(throttle, head);
}

/* Nobody is woken for a single token of a fast limit, but before a small burst is full, where tokens would be lost. */
static uint64_t wake_after(const struct vn_throttle *throttle, uint64_t wait_ns) {
    uint64_t least = WAKE_NS_MIN;
    for (size_t i = 0; i < VN_NR_LIMITS; i++) {
        if (throttle->limiter.rates[i].scale)
            least = vn_min_u64(least, vn_rate_burst_ns(&throttle->limiter.rates[i]) / 2);
    }
    return wait_ns > least || !wait_ns ? wait_ns : least;
}

/* Armed for the first that is due in either queue; not armed when they are empty. */
static void arm(struct vn_throttle *throttle) {
    uint64_t wait_ns = UINT64_MAX;
    for (size_t i = 0; i < VN_ARRAY_SIZE(throttle->queues); i++) {
        if (throttle->queues[i].first)
            wait_ns = vn_min_u64(wait_ns, head_wait(throttle, throttle->queues[i].first));
    }
    if (wait_ns == UINT64_MAX)
        vn_timer_disarm(throttle->reactor, &throttle->timer);
    else
        vn_timer_arm(throttle->reactor, &throttle->timer, wake_after(throttle, wait_ns));
}

/* The first of a queue, if it is due: ends it or passes it on. False: nothing could be done. */
static bool pass_first(struct vn_throttle *throttle, struct vn_waiting *queue, bool *busy) {
    struct vn_req *req = queue->first;
    if (!req || head_wait(throttle, req))
        return false;
    if (!req->cancelled && !(req->limits & throttle->paid))
        pay(throttle, req);
    leave(throttle, req);
    if (req->cancelled) {
        vn_req_abandon(req);
        return true;
    }
    if (throttle->pass(req) == VN_TAKEN)
        return true;
    req->filter[WORD_SINCE] = vn_reactor_now_ns(throttle->reactor);
    put_first(throttle, req);
    *busy = true;
    return false;
}

static void on_timer(struct vn_timer *timer) {
    struct vn_throttle *throttle = vn_container_of(timer, struct vn_throttle, timer);
    bool work = true, busy = false;
    for (uint32_t passed = 0; work && !busy && passed < PASS_BURST; passed++) {
        work = pass_first(throttle, &throttle->queues[0], &busy);
        work |= !busy && pass_first(throttle, &throttle->queues[1], &busy);
    }
    if (busy)
        vn_timer_arm(throttle->reactor, timer, BUSY_RETRY_NS);
    else
        arm(throttle);
}

void vn_throttle_init(struct vn_throttle *throttle, struct vn_reactor *reactor, uint64_t *marks,
                      struct vn_throttle_counters *counters) {
    throttle->reactor = reactor;
    throttle->limiter.marks = marks;
    throttle->counters = counters;
    throttle->timer.fn = on_timer;
}

void vn_throttle_fini(struct vn_throttle *throttle) {
    assert(!throttle->nr_waiting);
    vn_timer_disarm(throttle->reactor, &throttle->timer);
}

void vn_throttle_move(struct vn_throttle *throttle, struct vn_reactor *reactor) {
    vn_throttle_fini(throttle);
    throttle->reactor = reactor;
}

void vn_throttle_set(struct vn_throttle *throttle, const struct vn_limiter *limiter) {
    uint64_t *marks = throttle->limiter.marks;
    throttle->limiter = *limiter;
    throttle->limiter.marks = marks;
    if (throttle->nr_waiting)
        vn_timer_arm(throttle->reactor, &throttle->timer, 0);
}

bool vn_throttle_admit(struct vn_throttle *throttle, struct vn_req *req) {
    bool first = !throttle->queues[is_write(req)].first;
    if ((req->limits & VN_REQ_RELEASED) || (first && !wait_of(throttle, req))) {
        pay(throttle, req);
        return true;
    }
    vn_count(&throttle->counters->throttled, 1);
    req->filter[WORD_SINCE] = vn_reactor_now_ns(throttle->reactor);
    put_last(throttle, req);
    if (first)
        arm(throttle);
    return false;
}

/* To the front, where the next turn finds it. */
void vn_throttle_cancel(struct vn_throttle *throttle, struct vn_req *req) {
    assert(req->cancelled);
    take_out(throttle, req);
    put_first(throttle, req);
    vn_timer_arm(throttle->reactor, &throttle->timer, 0);
}

void vn_throttle_end_cancelled(struct vn_throttle *throttle) {
    for (size_t i = 0; i < VN_ARRAY_SIZE(throttle->queues); i++) {
        for (struct vn_req *req = throttle->queues[i].first, *next; req; req = next) {
            next = next_of(req);
            if (!req->cancelled)
                continue;
            leave(throttle, req);
            vn_req_abandon(req);
        }
    }
    arm(throttle);
}

uint32_t vn_throttle_release(struct vn_throttle *throttle, const struct vn_ns_chan *nsc) {
    uint32_t nr = 0;
    for (size_t i = 0; i < VN_ARRAY_SIZE(throttle->queues); i++) {
        for (struct vn_req *req = throttle->queues[i].first, *next; req; req = next) {
            next = next_of(req);
            if (nsc && req->ns != nsc)
                continue;
            req->limits |= VN_REQ_RELEASED;
            take_out(throttle, req);
            put_first(throttle, req);
            nr++;
        }
    }
    if (nr)
        vn_timer_arm(throttle->reactor, &throttle->timer, 0);
    return nr;
}
