/* A log-linear histogram of latencies: 128 linear steps a power of two, so that a value is known to 0.8 %.
 * No allocation, no branch but one on the way in. Units are the caller's (ticks or ns). Owner: the load thread.
 */
#ifndef VN_HOST_PERF_HIST_H
#define VN_HOST_PERF_HIST_H

#include <stdint.h>

#include "vhostnvme_host.h"

#define VN_PERF_HIST_BITS 7
#define VN_PERF_HIST_STEPS (1u << VN_PERF_HIST_BITS)
/* Values up to 2^48: at 5 GHz ticks more than 15 hours. */
#define VN_PERF_HIST_BUCKETS ((48u - VN_PERF_HIST_BITS + 1u) * VN_PERF_HIST_STEPS)

struct vn_perf_hist {
    uint64_t nr, sum, min, max;
    uint64_t buckets[VN_PERF_HIST_BUCKETS];
};

static inline uint32_t vn_perf_hist_bucket(uint64_t value) {
    if (value < VN_PERF_HIST_STEPS)
        return (uint32_t)value;
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - VN_PERF_HIST_BITS;
    uint32_t bucket = (shift + 1) * VN_PERF_HIST_STEPS + (uint32_t)(value >> shift) - VN_PERF_HIST_STEPS;

    return bucket < VN_PERF_HIST_BUCKETS ? bucket : VN_PERF_HIST_BUCKETS - 1;
}

static inline void vn_perf_hist_add(struct vn_perf_hist *hist, uint64_t value) {
    hist->buckets[vn_perf_hist_bucket(value)]++;
    hist->nr++;
    hist->sum += value;
    if (value < hist->min)
        hist->min = value;
    if (value > hist->max)
        hist->max = value;
}

void vn_perf_hist_reset(struct vn_perf_hist *hist);
void vn_perf_hist_merge(struct vn_perf_hist *into, const struct vn_perf_hist *from);
/* The middle of what the bucket holds. */
uint64_t vn_perf_hist_middle(uint32_t bucket);
/* The middle of the bucket that holds the value of this rank; ppm 500000 is the median. 0 when empty. */
uint64_t vn_perf_hist_quantile(const struct vn_perf_hist *hist, uint32_t ppm);
/* Its figures, in ns; unit: what one of its values is of them. */
void vn_perf_hist_summarize(const struct vn_perf_hist *hist, double unit, struct vn_perf_latency *latency);

#endif
