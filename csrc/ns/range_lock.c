/* Locks of ranges, see range_lock.h. Used by the fused commands, which nothing may come between. */
#include "ns/range_lock.h"

#include <assert.h>

bool vn_range_is_locked(const struct vn_range_locks *locks, uint64_t offset, uint64_t length) {
    for (uint32_t i = 0; locks->nr && i < VN_NR_RANGE_LOCKS; i++) {
        if (vn_range_overlaps(locks->locks[i].offset, locks->locks[i].length, offset, length))
            return true;
    }
    return false;
}

int vn_range_lock(struct vn_range_locks *locks, uint64_t offset, uint64_t length) {
    assert(length);
    if (locks->nr == VN_NR_RANGE_LOCKS || vn_range_is_locked(locks, offset, length))
        return -1;
    uint32_t free = 0;
    while (locks->locks[free].length)
        free++;
    locks->locks[free].offset = offset;
    locks->locks[free].length = length;
    locks->nr++;
    return (int)free;
}

void vn_range_unlock(struct vn_range_locks *locks, int index) {
    assert(locks->locks[index].length);
    locks->locks[index].length = 0;
    locks->nr--;
}
