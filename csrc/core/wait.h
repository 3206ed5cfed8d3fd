/* How to wait for an event that comes again and again: foretold from the waits before. Spinning finds it at once
 * but takes a core, sleeping takes none but is slow to wake up. So: doze while it cannot be there yet, spin around
 * the time when it usually comes, and, when it has not come by then, sleep until something wakes us.
 * Pure arithmetic; one owner.
 */
#ifndef VN_CORE_WAIT_H
#define VN_CORE_WAIT_H

#include <stdbool.h>
#include <stdint.h>

struct vn_wait {
    uint64_t expected_ns; /* about the shorter half of the waits seen */
    int32_t trust;        /* how well it was foretold lately: 0 (not at all) to VN_WAIT_TRUST_MAX */
};

/* Times since the wait began: doze until `from`, spin until `until`; 0, 0: neither. */
struct vn_window {
    uint64_t from_ns, until_ns;
};

#define VN_WAIT_TRUST_MAX 16
#define VN_WAIT_LONGEST_NS 500000ull /* what takes longer is not waited for but slept over */

void vn_wait_init(struct vn_wait *wait);
/* It came after took_ns. overslept: it was there when we looked after dozing, so that it came at some time before. */
void vn_wait_observe(struct vn_wait *wait, uint64_t took_ns, bool overslept);
/* spin_max_ns: the longest that may be spun. */
struct vn_window vn_wait_window(const struct vn_wait *wait, uint64_t spin_max_ns);

#endif
