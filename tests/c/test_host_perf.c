/* The load generator without a server: the schedule of a rate limit, percentiles, the ceiling's peer, and whole runs
 * against it, whose counts must be exact. Nothing here depends on how long anything takes.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/perf_hist.h"
#include "host/perf_pace.h"
#include "host/perf_peer.h"

static void test_pace_keeps_its_rate(void) {
    struct vn_perf_pace pace;

    /* 3 a second with 1000 ticks a second: no interval is a whole number of ticks, and none gets lost. */
    vn_perf_pace_init(&pace, 5000, 1000.0, 3, 0, 1);
    assert(vn_perf_pace_due(&pace, 5000) && !vn_perf_pace_due(&pace, 4999));
    for (uint64_t n = 0; n < 3000000; n++) {
        uint64_t exact = 5000 + n * 1000 / 3;

        assert(pace.next == exact || pace.next + 1 == exact);
        vn_perf_pace_take(&pace);
    }
    /* More than one a tick: a look finds all that have become due. */
    vn_perf_pace_init(&pace, 0, 1000.0, 10000, 0, 1);
    uint32_t n = 0;
    for (; vn_perf_pace_due(&pace, 99); n++)
        vn_perf_pace_take(&pace);
    assert(n == 1000);
}

static void test_pace_of_several_queues(void) {
    struct vn_perf_pace pace[4];
    uint32_t total = 0;

    for (uint32_t i = 0; i < 4; i++)
        vn_perf_pace_init(&pace[i], 0, 1e9, 1000, i, 4);
    for (uint32_t i = 0; i < 4; i++)
        assert(pace[i].next == i * 1000000ull); /* they take turns */
    for (uint64_t now = 0; now < 1000000000ull; now += 1000000) {
        for (uint32_t i = 0; i < 4; i++) {
            for (; vn_perf_pace_due(&pace[i], now); total++)
                vn_perf_pace_take(&pace[i]);
        }
    }
    assert(total == 1000);
}

static void test_pace_counts_from_when_it_was_due(void) {
    struct vn_perf_pace pace;

    vn_perf_pace_init(&pace, 100, 1000.0, 100, 0, 1); /* one in 10 ticks */
    assert(vn_perf_pace_behind(&pace, 99) == 0 && vn_perf_pace_behind(&pace, 100) == 1);
    assert(vn_perf_pace_behind(&pace, 1099) == 100);
    /* A server that stalls until 1100: the commands of that time still start where they belonged. */
    for (uint64_t due = 100; due < 1100; due += 10) {
        assert(pace.next == due);
        vn_perf_pace_take(&pace);
    }
    assert(vn_perf_pace_behind(&pace, 1099) == 0);
    /* The load's own pause moves everything. */
    vn_perf_pace_shift(&pace, 500);
    assert(pace.next == 1600 && !vn_perf_pace_due(&pace, 1599));
    vn_perf_pace_take(&pace);
    assert(pace.next == 1610);
}

static void add_many(struct vn_perf_hist *hist, uint64_t value, uint32_t nr) {
    while (nr--)
        vn_perf_hist_add(hist, value);
}

static void test_percentiles(void) {
    struct vn_perf_hist *hist = malloc(sizeof(*hist));

    assert(hist);
    vn_perf_hist_reset(hist);
    add_many(hist, 10, 9000);
    add_many(hist, 20, 900);
    add_many(hist, 30, 90);
    add_many(hist, 40, 9);
    add_many(hist, 50, 1); /* small values are known exactly */
    assert(hist->nr == 10000 && hist->min == 10 && hist->max == 50);
    assert(vn_perf_hist_quantile(hist, 0) == 10);
    assert(vn_perf_hist_quantile(hist, 500000) == 10);
    assert(vn_perf_hist_quantile(hist, 899999) == 10);
    assert(vn_perf_hist_quantile(hist, 900000) == 20);
    assert(vn_perf_hist_quantile(hist, 990000) == 30);
    assert(vn_perf_hist_quantile(hist, 999000) == 40);
    assert(vn_perf_hist_quantile(hist, 999900) == 50);
    assert(vn_perf_hist_quantile(hist, 1000000) == 50);
    for (uint32_t i = 0; i < VN_PERF_HIST_BUCKETS; i++)
        assert(vn_perf_hist_bucket(vn_perf_hist_middle(i)) == i);
    free(hist);
}

static void test_the_peer_answers_in_order(void) {
    struct vn_sqe sqes[4] = {{.cid = 7}, {.cid = 5}, {.cid = 9}, {.cid = 1}};
    struct vn_cqe cqes[3];
    uint32_t doorbell = 0;
    struct vn_perf_peer_queue pq = {
        .sqes = sqes, .cqes = cqes, .doorbell = &doorbell, .sq_entries = 4, .cq_entries = 3, .sqid = 2, .phase = 1};

    memset(cqes, 0, sizeof(cqes));
    vn_perf_peer_turn(&pq);
    assert(cqes[0].status == 0);
    doorbell = 2;
    vn_perf_peer_turn(&pq);
    assert(cqes[0].cid == 7 && cqes[0].status == 1 && cqes[0].sqhd == 1 && cqes[0].sqid == 2);
    assert(cqes[1].cid == 5 && cqes[1].status == 1 && cqes[1].sqhd == 2 && cqes[2].status == 0);
    doorbell = 0; /* two more, around the end of both rings */
    vn_perf_peer_turn(&pq);
    assert(cqes[2].cid == 9 && cqes[2].status == 1 && cqes[0].cid == 1 && cqes[0].status == 0 && cqes[0].sqhd == 0);
}

static struct vn_perf_opts ceiling(uint32_t flags) {
    return (struct vn_perf_opts){.nr_devices = 1, .flags = flags, .pattern = VN_PERF_RANDRW, .read_percent = 70,
                                 .block_bytes = 4096, .depth = 16, .nr_queues = 1, .nsid = 1, .nr_ios = 20000, .seed = 1};
}

static void check_run(const struct vn_perf_opts *opts) {
    struct vn_perf_result result;
    struct vn_perf_device devices[3];
    uint64_t of_devices = 0;

    assert(vn_perf_run(opts, &result, devices) == 0);
    assert(result.nr_reads + result.nr_writes == opts->nr_ios && result.all.nr == opts->nr_ios);
    assert(result.nr_reads > opts->nr_ios * 65 / 100 && result.nr_reads < opts->nr_ios * 75 / 100);
    assert(result.all.min <= result.all.p50 && result.all.p50 <= result.all.p99 && result.all.p99_99 <= result.all.max);
    assert(result.nr_errors == 0 && result.nr_behind == 0 && !result.stopped && !result.server_cpu_known);
    for (uint32_t i = 0; i < opts->nr_devices; i++) {
        assert(devices[i].nr_reads + devices[i].nr_writes > 0 && devices[i].doorbells_mapped);
        of_devices += devices[i].all.nr;
    }
    assert(of_devices == opts->nr_ios);
}

static void test_runs_against_the_peer(void) {
    struct vn_perf_opts opts = ceiling(VN_PERF_CEILING_INLINE);

    check_run(&opts);
    opts.nr_queues = 3;
    opts.nr_devices = 3;
    check_run(&opts);
    opts.region_bytes = 2u << 20; /* buffers all over the memory */
    opts.block_bytes = 131072;
    opts.depth = 33;
    check_run(&opts);
    opts = ceiling(VN_PERF_CEILING_THREAD);
    check_run(&opts);
}

static void test_a_burst_has_one_doorbell(void) {
    struct vn_perf_opts opts = ceiling(VN_PERF_CEILING_INLINE);
    struct vn_perf_result result;

    /* The peer of the same thread answers a whole burst before the load looks: two doorbells a burst, and the last
     * completions' after the end of the measurement. */
    assert(vn_perf_run(&opts, &result, NULL) == 0);
    assert(result.nr_doorbell_stores == 2 * opts.nr_ios / opts.depth && result.nr_doorbell_messages == 0);
}

static void test_fill_and_buckets(void) {
    struct vn_perf_opts opts = ceiling(VN_PERF_CEILING_INLINE | VN_PERF_FILL);
    struct vn_perf_bucket buckets[VN_PERF_HIST_BUCKETS];
    struct vn_perf_result result;
    uint64_t nr = 0, last = 0;

    opts.range_bytes = (64u << 20) + 4095; /* the rest is no whole I/O */
    opts.buckets = buckets;
    opts.max_buckets = VN_PERF_HIST_BUCKETS;
    assert(vn_perf_run(&opts, &result, NULL) == 0);
    assert(result.fill_bytes == 64u << 20 && result.nr_reads + result.nr_writes == opts.nr_ios);
    assert(result.nr_buckets > 0);
    for (uint32_t i = 0; i < result.nr_buckets; i++) {
        assert(buckets[i].nr && (i == 0 || buckets[i].ns >= last));
        last = buckets[i].ns;
        nr += buckets[i].nr;
    }
    assert(nr == opts.nr_ios);
}

static void refused(struct vn_perf_opts opts, const char *word) {
    struct vn_perf_result result;

    assert(vn_perf_run(&opts, &result, NULL) == -EINVAL);
    if (!strstr(vn_host_error(), word))
        fprintf(stderr, "not about %s: %s\n", word, vn_host_error());
    assert(strstr(vn_host_error(), word));
}

static void test_what_is_refused(void) {
    struct vn_perf_opts opts = ceiling(VN_PERF_CEILING_INLINE);

    opts.flags |= VN_PERF_VERIFY;
    refused(opts, "verify");
    opts.flags = VN_PERF_CEILING_INLINE | VN_PERF_CEILING_THREAD;
    refused(opts, "two");
    opts = ceiling(0);
    refused(opts, "socket");
    opts = ceiling(VN_PERF_CEILING_INLINE);
    opts.nr_devices = 257;
    refused(opts, "256");
    opts.nr_devices = 200;
    opts.nr_queues = 6;
    refused(opts, "1024");
    opts = ceiling(VN_PERF_CEILING_INLINE);
    opts.range_bytes = 511;
    refused(opts, "smaller");
    opts.range_bytes = 0;
    opts.nr_ios = 0;
    refused(opts, "time");
}

int main(void) {
    test_pace_keeps_its_rate();
    test_pace_of_several_queues();
    test_pace_counts_from_when_it_was_due();
    test_percentiles();
    test_the_peer_answers_in_order();
    test_runs_against_the_peer();
    test_a_burst_has_one_doorbell();
    test_fill_and_buckets();
    test_what_is_refused();
    puts("ok");
    return 0;
}
