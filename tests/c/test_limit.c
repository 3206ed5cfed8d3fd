/* Token buckets with a clock of our own: the rate in the long run, the burst, debt, new rates, and inputs from the edge.
 */
#include "core/limit.h"

#include "core/util.h"
#include "vn_test.h"

#define SECOND 1000000000ull
#define START (1234567 * SECOND)

static uint64_t full(const struct vn_rate *rate, uint64_t now) {
    uint64_t mark = 0;
    static const struct vn_rate none;
    vn_bucket_change(&none, rate, &mark, now);
    return mark;
}

/* As many commands as go on at this moment. */
static uint64_t take_all(const struct vn_rate *rate, uint64_t *mark, uint64_t now, uint64_t tokens) {
    uint64_t nr = 0;
    while (vn_bucket_wait_ns(rate, mark, now) == 0 && nr < 10000000) {
        vn_bucket_take(rate, mark, now, tokens);
        nr++;
    }
    return nr;
}

static void test_no_limit(void) {
    struct vn_rate none = vn_rate_of(0, 1000);
    uint64_t mark = 77;
    CHECK_EQ(vn_bucket_wait_ns(&none, &mark, START), 0);
    vn_bucket_take(&none, &mark, START, UINT64_MAX);
    CHECK_EQ(mark, 77);
}

static void test_a_full_bucket_holds_the_burst(void) {
    static const struct {
        uint64_t rate, burst_us, tokens;
    } cases[] = {{1, 10000000, 10}, {1, 1, 1}, {1000, 1000000, 1000}, {1000, 0, 100}, {1000000, 5000, 5000}, {7, 3000000, 21}};
    for (size_t i = 0; i < VN_ARRAY_SIZE(cases); i++) {
        struct vn_rate rate = vn_rate_of(cases[i].rate, cases[i].burst_us);
        uint64_t mark = full(&rate, START);
        CHECK_EQ(take_all(&rate, &mark, START, 1), cases[i].tokens);
        /* And no more after any idle time. */
        CHECK_EQ(take_all(&rate, &mark, START + 1000000 * SECOND, 1), cases[i].tokens);
        CHECK_EQ(take_all(&rate, &mark, START + 1000000 * SECOND, 1), 0);
    }
}

/* Waits exactly as told: not a nanosecond earlier, and then it goes on. */
static void test_the_wait_is_exact(struct vn_test_random *random) {
    for (int i = 0; i < 2000; i++) {
        uint64_t per_second = 1 + vn_test_below(random, 1ull << vn_test_below(random, 37));
        struct vn_rate rate = vn_rate_of(per_second, 1);
        uint64_t now = vn_test_draw(random) >> 2, mark = full(&rate, now);
        vn_bucket_take(&rate, &mark, now, 1 + per_second / 500000 + vn_test_below(random, 1 << 20));
        uint64_t wait = vn_bucket_wait_ns(&rate, &mark, now);
        CHECK(wait > 0);
        CHECK(vn_bucket_wait_ns(&rate, &mark, now + wait) == 0);
        CHECK_EQ(vn_bucket_wait_ns(&rate, &mark, now + wait - 1), 1);
    }
}

/* A taker that comes at odd moments, but before the burst is full, gets the rate to 0.1 %. */
static void test_the_rate_in_the_long_run(struct vn_test_random *random) {
    static const struct {
        uint64_t rate, tokens;
    } cases[] = {{1, 1}, {3, 1}, {999, 1}, {1000000, 1}, {3333333, 1}, {100000000, 1}, {10 << 20, 4096}, {1ull << 30, 131072},
                 {1000000007, 512}, {VN_LIMIT_BANDWIDTH_MAX, 512}, {1, 4096}, {1000, 1 << 20}};
    for (size_t i = 0; i < VN_ARRAY_SIZE(cases); i++) {
        uint64_t tokens = cases[i].tokens, taken = 0, now = START;
        struct vn_rate rate = vn_rate_of(cases[i].rate, 1000000);
        uint64_t mark = full(&rate, now);
        vn_bucket_take(&rate, &mark, now, cases[i].rate); /* the first second's worth is spent */
        for (int step = 0; step < 20000; step++) {
            now += vn_bucket_wait_ns(&rate, &mark, now);
            for (int nr = 0; nr < 64 && vn_bucket_wait_ns(&rate, &mark, now) == 0; nr++) {
                vn_bucket_take(&rate, &mark, now, tokens);
                taken += tokens;
            }
            now += vn_test_below(random, vn_rate_burst_ns(&rate) / 1000000);
        }
        now += vn_bucket_wait_ns(&rate, &mark, now); /* until what was taken is paid for */
        unsigned __int128 due = (unsigned __int128)(now - START) * cases[i].rate / SECOND;
        uint64_t error = due > taken ? (uint64_t)due - taken : taken - (uint64_t)due;
        CHECK(error <= taken / 1000 + cases[i].rate / 1000 + 1);
    }
}

/* In no stretch of time more than burst + rate x time + what the last command took above its one token. */
static void test_the_burst_is_never_exceeded(struct vn_test_random *random) {
    for (int round = 0; round < 200; round++) {
        uint64_t per_second = 1 + vn_test_below(random, 1u << vn_test_below(random, 30));
        uint64_t burst_us = 1 + vn_test_below(random, 2000000), size = 1 + vn_test_below(random, 5000);
        struct vn_rate rate = vn_rate_of(per_second, burst_us);
        uint64_t now = START, begin = START, taken = 0, mark = full(&rate, now);
        for (int step = 0; step < 300; step++) {
            if (vn_test_below(random, 50) == 0) { /* a stretch begins anywhere */
                begin = now;
                taken = 0;
            }
            for (int nr = 0; nr < 100 && vn_bucket_wait_ns(&rate, &mark, now) == 0; nr++) {
                uint64_t tokens = 1 + vn_test_below(random, size);
                vn_bucket_take(&rate, &mark, now, tokens);
                taken += tokens;
            }
            double most = (double)per_second * ((double)(now - begin) / 1e9 + (double)burst_us / 1e6);
            CHECK((double)taken <= most * 1.001 + 1 + (double)size);
            now += vn_test_below(random, SECOND >> vn_test_below(random, 30));
        }
    }
}

static void test_debt(void) {
    struct vn_rate rate = vn_rate_of(1000, 1000000);
    uint64_t mark = full(&rate, START);
    vn_bucket_take(&rate, &mark, START, 11000); /* ten seconds more than there is */
    CHECK_EQ(vn_bucket_wait_ns(&rate, &mark, START), 10 * SECOND + SECOND / 1000);
    CHECK_EQ(vn_bucket_wait_ns(&rate, &mark, START + 10 * SECOND), SECOND / 1000);
}

static void test_a_new_rate_holds_at_once(void) {
    struct vn_rate slow = vn_rate_of(1, 1), fast = vn_rate_of(1000, 1000000), faster = vn_rate_of(100000, 1000);
    uint64_t mark = full(&slow, START);
    vn_bucket_take(&slow, &mark, START, 1001); /* a thousand seconds of debt */
    vn_bucket_change(&slow, &fast, &mark, START);
    CHECK_EQ(vn_bucket_wait_ns(&fast, &mark, START), SECOND + SECOND / 1000); /* are one */
    vn_bucket_change(&fast, &slow, &mark, START);
    CHECK_EQ(vn_bucket_wait_ns(&slow, &mark, START), 1001 * SECOND);

    mark = full(&fast, START); /* 1000 tokens, and a new burst of 100 */
    vn_bucket_change(&fast, &faster, &mark, START);
    CHECK_EQ(take_all(&faster, &mark, START, 1), 100);

    mark = full(&faster, START); /* 100 tokens, and room for 1000: they stay 100 */
    vn_bucket_change(&faster, &fast, &mark, START);
    CHECK_EQ(take_all(&fast, &mark, START, 1), 100);
}

static void test_a_change_never_gives_more_than_the_burst(struct vn_test_random *random) {
    struct vn_rate rate = {0};
    uint64_t mark = vn_test_draw(random), now = START;
    for (int step = 0; step < 5000; step++) {
        uint64_t per_second = vn_test_below(random, 100000), burst_us = 1 + vn_test_below(random, 1000000);
        struct vn_rate next = vn_rate_of(per_second, burst_us);
        vn_bucket_change(&rate, &next, &mark, now);
        rate = next;
        if (per_second && vn_test_below(random, 4) == 0) {
            uint64_t burst = per_second * burst_us / 1000000;
            CHECK(take_all(&rate, &mark, now, 1) <= (burst ? burst : 1));
        }
        now += vn_test_below(random, SECOND);
    }
}

/* Any input at all: no undefined behaviour (the sanitizers watch), a wait that ends, and nobody waits for ever. */
static void test_any_input(struct vn_test_random *random) {
    static const uint64_t edges[] = {0, 1, 2, UINT32_MAX, 1ull << 36, 1ull << 59, 1ull << 60, 1ull << 63, UINT64_MAX - 1, UINT64_MAX};
    for (int step = 0; step < 200000; step++) {
        uint64_t draw[6];
        for (int i = 0; i < 6; i++)
            draw[i] = vn_test_below(random, 2) ? edges[vn_test_below(random, VN_ARRAY_SIZE(edges))] : vn_test_draw(random);
        struct vn_rate rate = vn_rate_of(draw[0], draw[1]), next = vn_rate_of(draw[2], draw[1]);
        uint64_t mark = draw[3], now = draw[4];
        vn_bucket_take(&rate, &mark, now, draw[5]);
        vn_bucket_change(&rate, &next, &mark, now);
        uint64_t wait = vn_bucket_wait_ns(&next, &mark, now);
        CHECK(wait <= 120ull * 86400 * SECOND);
        CHECK_EQ(vn_bucket_wait_ns(&next, &mark, now + wait), 0);
    }
}

/* --- All limits together --- */
static void test_what_counts_for_what(void) {
    uint64_t marks[VN_NR_LIMITS];
    static const struct {
        uint32_t kind;
        bool write;
        uint64_t bytes;
        bool limited;
    } cases[] = {
        {VN_LIMIT_IOPS, false, 512, true}, {VN_LIMIT_IOPS, true, 512, true}, {VN_LIMIT_IOPS, true, 0, true},
        {VN_LIMIT_READ_IOPS, false, 512, true}, {VN_LIMIT_READ_IOPS, true, 512, false}, {VN_LIMIT_WRITE_IOPS, true, 0, true},
        {VN_LIMIT_WRITE_IOPS, false, 512, false}, {VN_LIMIT_BANDWIDTH, false, 512, true}, {VN_LIMIT_BANDWIDTH, true, 0, false},
        {VN_LIMIT_READ_BANDWIDTH, true, 512, false}, {VN_LIMIT_READ_BANDWIDTH, false, 512, true},
        {VN_LIMIT_WRITE_BANDWIDTH, true, 512, true}, {VN_LIMIT_WRITE_BANDWIDTH, true, 0, false},
    };
    for (size_t i = 0; i < VN_ARRAY_SIZE(cases); i++) {
        struct vn_limits limits = {0};
        limits.of[cases[i].kind] = (struct vn_limit){.rate = 1, .burst_us = 1};
        struct vn_limiter none = {0}, limiter = {.marks = marks};
        vn_limiter_set(&limiter, &limits);
        CHECK(limiter.any);
        vn_limiter_change(&none, &limiter, START);
        CHECK_EQ(vn_limiter_wait_ns(&limiter, cases[i].write, cases[i].bytes, START), 0);
        vn_limiter_take(&limiter, cases[i].write, cases[i].bytes, START);
        CHECK_EQ(vn_limiter_wait_ns(&limiter, cases[i].write, cases[i].bytes, START) != 0, cases[i].limited);
    }
}

/* Both must have tokens: the slower one decides. */
static void test_the_slowest_limit_decides(void) {
    uint64_t marks[VN_NR_LIMITS];
    struct vn_limits limits = {0};
    limits.of[VN_LIMIT_IOPS] = (struct vn_limit){1000, 1};
    limits.of[VN_LIMIT_BANDWIDTH] = (struct vn_limit){4096 * 10, 1};
    struct vn_limiter none = {0}, limiter = {.marks = marks};
    vn_limiter_set(&limiter, &limits);
    vn_limiter_change(&none, &limiter, START);
    vn_limiter_take(&limiter, true, 4096, START);
    uint64_t wait = vn_limiter_wait_ns(&limiter, true, 4096, START);
    CHECK(wait >= SECOND / 10 && wait <= SECOND / 10 + SECOND / 10000);
    CHECK_EQ(vn_limiter_wait_ns(&limiter, true, 0, START), SECOND / 1000);
    limits = (struct vn_limits){0};
    vn_limiter_set(&limiter, &limits);
    CHECK(!limiter.any);
    CHECK_EQ(vn_limiter_wait_ns(&limiter, true, 4096, START), 0);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    test_no_limit();
    test_a_full_bucket_holds_the_burst();
    test_the_wait_is_exact(&random);
    test_the_rate_in_the_long_run(&random);
    test_the_burst_is_never_exceeded(&random);
    test_debt();
    test_a_new_rate_holds_at_once();
    test_a_change_never_gives_more_than_the_burst(&random);
    test_any_input(&random);
    test_what_counts_for_what();
    test_the_slowest_limit_decides();
    return 0;
}
