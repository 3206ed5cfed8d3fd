/* Small things every room needs: container_of, bounds, single-writer counters. No state. */
#ifndef VN_CORE_UTIL_H
#define VN_CORE_UTIL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define vn_container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define VN_ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

static inline uint64_t vn_max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static inline uint64_t vn_min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* Of an option: 0 stands for the default. */
static inline uint32_t vn_or_default(uint32_t value, uint32_t by_default) {
    return value ? value : by_default;
}

/* ASCII fields are padded with spaces and have no terminator (Base 1.4). */
static inline void vn_put_ascii(char *field, size_t bytes, const char *text) {
    size_t n = strnlen(text, bytes);
    memcpy(field, text, n);
    memset(field + n, ' ', bytes - n);
}

/* For any thread; on a reactor vn_reactor_now_ns costs nothing. */
static inline uint64_t vn_monotonic_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* A counter with one writer that other threads may read: whole, and cheap (no locked instruction). */
static inline void vn_count(uint64_t *counter, uint64_t n) {
    __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static inline uint64_t vn_counted(const uint64_t *counter) {
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

#endif
