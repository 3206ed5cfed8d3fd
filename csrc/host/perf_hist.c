/* Reading a latency histogram: merge, quantiles, figures. Called by perf_figures.c and perf_wire.c at the end.
 */
#include "host/perf_hist.h"

#include <string.h>

void vn_perf_hist_reset(struct vn_perf_hist *hist) {
    memset(hist, 0, sizeof(*hist));
    hist->min = UINT64_MAX;
}

void vn_perf_hist_merge(struct vn_perf_hist *into, const struct vn_perf_hist *from) {
    for (uint32_t i = 0; i < VN_PERF_HIST_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
    into->nr += from->nr;
    into->sum += from->sum;
    into->min = from->min < into->min ? from->min : into->min;
    into->max = from->max > into->max ? from->max : into->max;
}

uint64_t vn_perf_hist_middle(uint32_t bucket) {
    uint32_t shift;

    if (bucket < VN_PERF_HIST_STEPS)
        return bucket;
    shift = bucket / VN_PERF_HIST_STEPS - 1;
    return ((uint64_t)(bucket % VN_PERF_HIST_STEPS + VN_PERF_HIST_STEPS) << shift) + ((1ull << shift) >> 1);
}

uint64_t vn_perf_hist_quantile(const struct vn_perf_hist *hist, uint32_t ppm) {
    uint64_t rank = (uint64_t)((unsigned __int128)hist->nr * ppm / 1000000);
    uint64_t seen = 0;

    if (hist->nr == 0)
        return 0;
    if (rank >= hist->nr)
        rank = hist->nr - 1;
    for (uint32_t i = 0; i < VN_PERF_HIST_BUCKETS; i++) {
        seen += hist->buckets[i];
        if (seen > rank) {
            uint64_t value = vn_perf_hist_middle(i);

            value = value < hist->min ? hist->min : value;
            return value > hist->max ? hist->max : value;
        }
    }
    return hist->max;
}

void vn_perf_hist_summarize(const struct vn_perf_hist *hist, double unit, struct vn_perf_latency *latency) {
    if (hist->nr == 0)
        return;
    latency->nr = hist->nr;
    latency->min = (uint64_t)((double)hist->min * unit);
    latency->mean = (uint64_t)((double)hist->sum / (double)hist->nr * unit);
    latency->p50 = (uint64_t)((double)vn_perf_hist_quantile(hist, 500000) * unit);
    latency->p90 = (uint64_t)((double)vn_perf_hist_quantile(hist, 900000) * unit);
    latency->p99 = (uint64_t)((double)vn_perf_hist_quantile(hist, 990000) * unit);
    latency->p99_9 = (uint64_t)((double)vn_perf_hist_quantile(hist, 999000) * unit);
    latency->p99_99 = (uint64_t)((double)vn_perf_hist_quantile(hist, 999900) * unit);
    latency->max = (uint64_t)((double)hist->max * unit);
}
