/* Ranges of a namespace that one command has for itself for a while. A fixed number; pure. */
#ifndef VN_NS_RANGE_LOCK_H
#define VN_NS_RANGE_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#define VN_NR_RANGE_LOCKS 16u

struct vn_range_locks {
    uint32_t nr; /* held */
    struct {
        uint64_t offset, length; /* bytes; length 0: free */
    } locks[VN_NR_RANGE_LOCKS];
};

/* Whether any byte of the range is locked. */
bool vn_range_is_locked(const struct vn_range_locks *locks, uint64_t offset, uint64_t length);
/* Which one it is, for vn_range_unlock; -1: part of it is locked already, or all locks are held. length is not 0. */
int vn_range_lock(struct vn_range_locks *locks, uint64_t offset, uint64_t length);
void vn_range_unlock(struct vn_range_locks *locks, int index);

static inline bool vn_range_overlaps(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length) {
    return a_length && b_length && (a < b ? b - a < a_length : a - b < b_length);
}

#endif
