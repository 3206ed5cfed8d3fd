/* The schedule of a rate limit: when each command of one queue is due, whatever became of those before it. A command
 * that finds no free place waits, and its latency counts from here: a server that stalls is not spared the commands
 * that it kept from being sent ("coordinated omission"). Pure; owner: the load thread.
 */
#ifndef VN_HOST_PERF_PACE_H
#define VN_HOST_PERF_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct vn_perf_pace { /* ticks */
    uint64_t start, next;
    double first, interval; /* of this queue, after start */
    uint64_t nr_taken;
};

/* Queue `lane` of nr_lanes, which share `rate` commands a second evenly and take turns. */
static inline void vn_perf_pace_init(struct vn_perf_pace *pace, uint64_t start, double ticks_per_second, uint64_t rate,
                                     uint32_t lane, uint32_t nr_lanes) {
    double turn = ticks_per_second / (double)rate;

    pace->start = start;
    pace->first = turn * lane;
    pace->interval = turn * nr_lanes;
    pace->nr_taken = 0;
    pace->next = start + (uint64_t)pace->first;
}

static inline bool vn_perf_pace_due(const struct vn_perf_pace *pace, uint64_t now) {
    return now >= pace->next;
}

/* The next command goes out. From the count and not from the last time, so that nothing adds up to a drift. */
static inline void vn_perf_pace_take(struct vn_perf_pace *pace) {
    pace->nr_taken++;
    pace->next = pace->start + (uint64_t)(pace->first + (double)pace->nr_taken * pace->interval);
}

/* The load itself stood still for so long, which must not count. */
static inline void vn_perf_pace_shift(struct vn_perf_pace *pace, uint64_t ticks) {
    pace->start += ticks;
    pace->next += ticks;
}

/* How many commands are due and not taken. */
static inline uint64_t vn_perf_pace_behind(const struct vn_perf_pace *pace, uint64_t now) {
    return vn_perf_pace_due(pace, now) ? (uint64_t)((double)(now - pace->next) / pace->interval) + 1 : 0;
}

#endif
