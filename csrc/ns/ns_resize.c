/* Another size for a namespace that is in use. Growing: the space first, then the new end. Shrinking: the new end first,
 * then the commands that knew the old one are waited for, then the space goes. Control thread; called by api.c.
 */
#include <errno.h>
#include <time.h>

#include "ns/ns.h"

#define DRAIN_BOUND_MS 1000

static int on_reactor(struct vn_ns_chan *nsc, int (*fn)(void *arg)) {
    return vn_reactor_call(nsc->chan->reactor, fn, nsc);
}

static int begin_drain(void *nsc) {
    vn_ns_chan_begin_drain(nsc);
    return 0;
}

static int look(void *nsc) {
    return vn_ns_chan_is_drained(nsc) ? 0 : -EAGAIN;
}

static int tell(void *arg) {
    struct vn_ns_chan *nsc = arg;
    if (nsc->resized)
        nsc->resized(nsc);
    return 0;
}

/* Every reactor has the new end before it, and then all that it took before is waited for. */
static int drain(struct vn_ns *ns) {
    for (size_t i = 0; i < VN_NS_MAX_CHANS; i++) {
        if (ns->chans[i])
            on_reactor(ns->chans[i], begin_drain);
    }
    int left_ms = DRAIN_BOUND_MS;
    for (size_t i = 0; i < VN_NS_MAX_CHANS; i++) {
        while (ns->chans[i] && on_reactor(ns->chans[i], look)) {
            if (left_ms-- == 0)
                return -EBUSY;
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
    }
    return 0;
}

static int shrink(struct vn_ns *ns, uint64_t size, char *error, uint32_t error_size) {
    uint64_t before = vn_ns_nr_blocks(ns);
    __atomic_store_n(&ns->nr_blocks, size >> vn_ns_block_shift(ns), __ATOMIC_RELEASE);
    int err = drain(ns);
    if (err)
        vn_backend_fail(error, error_size, EBUSY, "its commands in flight did not end within %d s, and may be beyond the new "
                        "end; try again", DRAIN_BOUND_MS / 1000);
    else
        err = vn_backend_resize(ns->backend, size, error, error_size);
    if (err)
        __atomic_store_n(&ns->nr_blocks, before, __ATOMIC_RELEASE);
    return err;
}

static int grow(struct vn_ns *ns, uint64_t size, char *error, uint32_t error_size) {
    int err = vn_backend_resize(ns->backend, size, error, error_size);
    if (!err)
        __atomic_store_n(&ns->nr_blocks, size >> vn_ns_block_shift(ns), __ATOMIC_RELEASE);
    return err;
}

static int change_size(struct vn_ns *ns, uint64_t size, char *error, uint32_t error_size) {
    uint64_t before = vn_ns_nr_blocks(ns) << vn_ns_block_shift(ns);
    if (!size && !(size = vn_backend_full_size(ns->backend)))
        return vn_backend_fail(error, error_size, EINVAL, "give a size: nothing behind it says one");
    if (size & ((1ull << vn_ns_block_shift(ns)) - 1) || size > INT64_MAX)
        return vn_backend_fail(error, error_size, EINVAL, "a size of %llu bytes is not possible: take a multiple of the block "
                               "size, %u", (unsigned long long)size, 1u << vn_ns_block_shift(ns));
    int err = size < before ? shrink(ns, size, error, error_size) : grow(ns, size, error, error_size);
    for (size_t i = 0; i < VN_NS_MAX_CHANS && !err && size != before; i++) {
        if (ns->chans[i])
            on_reactor(ns->chans[i], tell);
    }
    return err;
}

/* Metadata lies behind the data, so that another size would have to move it. */
int vn_ns_change_size(struct vn_ns *ns, uint64_t size, char *error, uint32_t error_size) {
    if (!vn_ns_hold(ns))
        return vn_backend_fail(error, error_size, EBUSY, "it is being formatted or sanitized, or its blocks have metadata; "
                               "format it without metadata first");
    int err = change_size(ns, size, error, error_size);
    vn_ns_unhold(ns);
    return err;
}
