/* Token buckets as pure functions: time is passed in, all arithmetic is whole numbers. A bucket is two things: a rate,
 * of which every reactor has its own copy, and a mark, one word that they share. The mark is the moment at which the
 * bucket was, or will be, empty: the tokens that are there are what the rate has given since.
 *
 * Bounds: any 64-bit input is safe. A rate is kept to 0.1 % up to 10^8 commands a second, and up to 64 GiB a second in
 * transfers of 512 bytes or more. A burst is cut to 52 days of the rate, and so is debt. The clock may run for 4 years
 * between two uses.
 */
#ifndef VN_CORE_LIMIT_H
#define VN_CORE_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "include/vhostnvme.h"

#define VN_LIMIT_BURST_US 100000u /* what a burst of 0 stands for */

struct vn_rate {
    uint64_t scale; /* ticks that one token takes, times 2^20; 0: no limit */
    uint64_t burst; /* ticks that can be saved up: never less than one token takes */
};

/* per_second 0: no limit. burst_us 0: VN_LIMIT_BURST_US. */
struct vn_rate vn_rate_of(uint64_t per_second, uint64_t burst_us);
uint64_t vn_rate_burst_ns(const struct vn_rate *rate);
/* 0: there is a whole token; else how long until then. */
uint64_t vn_bucket_wait_ns(const struct vn_rate *rate, const uint64_t *mark, uint64_t now_ns);
/* Takes tokens, also more than there are: the next taker then waits for the debt as well. Any thread. */
void vn_bucket_take(const struct vn_rate *rate, uint64_t *mark, uint64_t now_ns, uint64_t tokens);
/* A new rate: keeps the tokens that are there, or the debt, but no more than the new burst. A bucket that had no limit
 * is full. Any thread. */
void vn_bucket_change(const struct vn_rate *from, const struct vn_rate *to, uint64_t *mark, uint64_t now_ns);

/* All limits of a namespace or a controller: one reactor's copy of the rates. The marks are somebody's, shared. */
struct vn_limiter {
    struct vn_rate rates[VN_NR_LIMITS];
    uint64_t *marks; /* VN_NR_LIMITS of them */
    bool any;
};

/* Limits as they were asked for, in numbers that the bounds above hold for. */
void vn_limiter_set(struct vn_limiter *limiter, const struct vn_limits *limits);
/* What a command is for its limits: bytes 0 takes no bandwidth. 0: it may go on. */
uint64_t vn_limiter_wait_ns(const struct vn_limiter *limiter, bool write, uint64_t bytes, uint64_t now_ns);
void vn_limiter_take(const struct vn_limiter *limiter, bool write, uint64_t bytes, uint64_t now_ns);
/* The marks are those of from's rates: make them those of to's. */
void vn_limiter_change(const struct vn_limiter *from, const struct vn_limiter *to, uint64_t now_ns);

#endif
