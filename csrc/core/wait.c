/* Foretelling waits: see wait.h. Used by doors, which know what they wait for; carried out by core/poller.c.
 * The idea is that of hybrid polling in Linux's block layer, with the window learnt from both sides.
 */
#include "core/wait.h"

#include "core/util.h"

#define EARLY_NS 15000ull     /* look so long before it is due: waking up from a doze takes about that long */
#define LATE_NS 30000ull      /* and go on so long after, and an eighth of the time more */
#define DOZE_MIN_NS 20000ull  /* what is shorter is not worth a timer and a change of threads */
#define HIT 1
#define MISS 2
#define FASTER 4u  /* the estimate moves by 1/4 of the way down and by 1/32 of it up: to the short side of what is */
#define SLOWER 32u
#define OVERSLEPT 8u

void vn_wait_init(struct vn_wait *wait) {
    *wait = (struct vn_wait){.expected_ns = 0, .trust = VN_WAIT_TRUST_MAX};
}

static uint64_t latest_ns(const struct vn_wait *wait) {
    return wait->expected_ns + wait->expected_ns / 8 + LATE_NS;
}

void vn_wait_observe(struct vn_wait *wait, uint64_t took_ns, bool overslept) {
    if (overslept) {
        wait->expected_ns -= wait->expected_ns / OVERSLEPT;
        return;
    }
    wait->trust += took_ns <= latest_ns(wait) ? HIT : -MISS;
    wait->trust = wait->trust < 0 ? 0 : wait->trust > VN_WAIT_TRUST_MAX ? VN_WAIT_TRUST_MAX : wait->trust;
    took_ns = vn_min_u64(took_ns, VN_WAIT_LONGEST_NS);
    if (took_ns < wait->expected_ns)
        wait->expected_ns -= (wait->expected_ns - took_ns) / FASTER;
    else
        wait->expected_ns += (took_ns - wait->expected_ns) / SLOWER;
}

struct vn_window vn_wait_window(const struct vn_wait *wait, uint64_t spin_max_ns) {
    struct vn_window window = {0, 0};
    if (!spin_max_ns || wait->trust < VN_WAIT_TRUST_MAX / 2)
        return window;
    if (wait->expected_ns > EARLY_NS + DOZE_MIN_NS)
        window.from_ns = wait->expected_ns - EARLY_NS;
    window.until_ns = vn_min_u64(latest_ns(wait), window.from_ns + spin_max_ns);
    return window;
}
