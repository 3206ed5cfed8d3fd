/* Token buckets: how long to wait, what to take, what a new rate means for what is there. Called by ns/throttle.c for
 * each command of a limited namespace or controller, and by api.c when limits change.
 */
#include "core/limit.h"

#include "core/util.h"

#define TICKS_PER_NS 128u /* a tick is short enough for 10^8 tokens a second, and 2^64 of them last 4.5 years */
#define SCALE_SHIFT 20    /* ticks per token have so many bits behind the point */
#define TICKS_MAX (1ull << 59)

_Static_assert(sizeof(struct vn_limits) == VN_NR_LIMITS * sizeof(struct vn_limit), "a limit of each kind");

static uint64_t saturated(unsigned __int128 ticks) {
    return ticks < TICKS_MAX ? (uint64_t)ticks : TICKS_MAX;
}

/* Rounded down, so that a burst holds all of its tokens. */
static uint64_t ticks_of(const struct vn_rate *rate, uint64_t tokens) {
    return saturated((unsigned __int128)tokens * rate->scale >> SCALE_SHIFT);
}

struct vn_rate vn_rate_of(uint64_t per_second, uint64_t burst_us) {
    if (!per_second)
        return (struct vn_rate){0};
    unsigned __int128 second = (unsigned __int128)(1000000000ull * TICKS_PER_NS) << SCALE_SHIFT;
    struct vn_rate rate = {.scale = (uint64_t)(second / per_second)};
    if (!rate.scale) /* faster than ticks can tell */
        rate.scale = 1;
    burst_us = burst_us ? burst_us : VN_LIMIT_BURST_US;
    rate.burst = saturated((unsigned __int128)burst_us * (1000u * TICKS_PER_NS));
    uint64_t one = ticks_of(&rate, 1);
    if (rate.burst < one)
        rate.burst = one;
    return rate;
}

/* The mark lies ahead: debt, which is bounded. What is further ahead than that is a mark of long ago. */
static bool is_ahead(uint64_t mark, uint64_t now) {
    return mark - now <= 2 * TICKS_MAX;
}

/* A mark further back than the burst gives nothing more. */
static uint64_t with_burst(uint64_t mark, uint64_t now, uint64_t burst) {
    return is_ahead(mark, now) || now - mark <= burst ? mark : now - burst;
}

uint64_t vn_rate_burst_ns(const struct vn_rate *rate) {
    return rate->burst / TICKS_PER_NS;
}

uint64_t vn_bucket_wait_ns(const struct vn_rate *rate, const uint64_t *mark, uint64_t now_ns) {
    if (!rate->scale)
        return 0;
    uint64_t now = now_ns * TICKS_PER_NS;
    uint64_t ready = with_burst(vn_counted(mark), now, rate->burst) + ticks_of(rate, 1);
    return is_ahead(ready, now) ? (ready - now + TICKS_PER_NS - 1) / TICKS_PER_NS : 0;
}

void vn_bucket_take(const struct vn_rate *rate, uint64_t *mark, uint64_t now_ns, uint64_t tokens) {
    if (!rate->scale)
        return;
    uint64_t now = now_ns * TICKS_PER_NS, cost = ticks_of(rate, tokens);
    uint64_t old = vn_counted(mark), new;
    do {
        new = with_burst(old, now, rate->burst) + cost;
        if (is_ahead(new, now) && new - now > TICKS_MAX)
            new = now + TICKS_MAX;
    } while (!__atomic_compare_exchange_n(mark, &old, new, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

static uint64_t changed(const struct vn_rate *from, const struct vn_rate *to, uint64_t mark, uint64_t now) {
    if (!from->scale || !to->scale)
        return now - to->burst;
    mark = with_burst(mark, now, from->burst);
    bool debt = is_ahead(mark, now);
    unsigned __int128 ticks = (unsigned __int128)(debt ? mark - now : now - mark) * to->scale / from->scale;
    return debt ? now + saturated(ticks) : with_burst(now - saturated(ticks), now, to->burst);
}

void vn_bucket_change(const struct vn_rate *from, const struct vn_rate *to, uint64_t *mark, uint64_t now_ns) {
    uint64_t old = vn_counted(mark), new;
    do
        new = changed(from, to, old, now_ns * TICKS_PER_NS);
    while (!__atomic_compare_exchange_n(mark, &old, new, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

/* --- All limits of one thing --- */
/* The limits that a command has to do with; those of bandwidth last. */
static const uint8_t concerned[2][4] = {
    {VN_LIMIT_IOPS, VN_LIMIT_READ_IOPS, VN_LIMIT_BANDWIDTH, VN_LIMIT_READ_BANDWIDTH},
    {VN_LIMIT_IOPS, VN_LIMIT_WRITE_IOPS, VN_LIMIT_BANDWIDTH, VN_LIMIT_WRITE_BANDWIDTH},
};
#define NR_OF_COMMANDS 2u

void vn_limiter_set(struct vn_limiter *limiter, const struct vn_limits *limits) {
    limiter->any = false;
    for (size_t i = 0; i < VN_NR_LIMITS; i++) {
        limiter->rates[i] = vn_rate_of(limits->of[i].rate, limits->of[i].burst_us);
        limiter->any |= limits->of[i].rate != 0;
    }
}

uint64_t vn_limiter_wait_ns(const struct vn_limiter *limiter, bool write, uint64_t bytes, uint64_t now_ns) {
    uint64_t longest = 0;
    for (size_t i = 0; i < (bytes ? VN_ARRAY_SIZE(concerned[0]) : NR_OF_COMMANDS); i++) {
        uint8_t kind = concerned[write][i];
        uint64_t wait = vn_bucket_wait_ns(&limiter->rates[kind], &limiter->marks[kind], now_ns);
        longest = wait > longest ? wait : longest;
    }
    return longest;
}

void vn_limiter_take(const struct vn_limiter *limiter, bool write, uint64_t bytes, uint64_t now_ns) {
    for (size_t i = 0; i < (bytes ? VN_ARRAY_SIZE(concerned[0]) : NR_OF_COMMANDS); i++) {
        uint8_t kind = concerned[write][i];
        vn_bucket_take(&limiter->rates[kind], &limiter->marks[kind], now_ns, i < NR_OF_COMMANDS ? 1 : bytes);
    }
}

void vn_limiter_change(const struct vn_limiter *from, const struct vn_limiter *to, uint64_t now_ns) {
    for (size_t i = 0; i < VN_NR_LIMITS; i++)
        vn_bucket_change(&from->rates[i], &to->rates[i], &to->marks[i], now_ns);
}
