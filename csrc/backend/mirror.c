/* The mirror: a namespace on up to three legs as a backend. Opens and closes it, and its channel; commands are
 * mirror_io.c's, who counts is mirror_legs.c's. Opened by vn_backend_open; the rules: docs/decisions/0013-mirror.md.
 */
#include "backend/mirror.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "backend/file.h"
#include "core/util.h"

#define DEFAULT_TIMEOUT_MS 2000u
#define DEFAULT_CLEAN_MS 5000u
#define CLOSE_MARGIN_MS 3000u

/* --- Channels --- */

/* What the kernel has for a disk cannot be cancelled. */
static bool keeps(const struct vn_backend *backend) {
    while (backend->next)
        backend = backend->next;
    return backend->ops == &vn_file_ops && !((const struct vn_file *)backend)->in_memory;
}

int vn_leg_chan_open(struct vn_mirror_chan *mc, uint32_t leg) {
    struct vn_backend *backend = mc->mirror->legs[leg].backend;
    if (!backend || mc->legs[leg].chan)
        return 0;
    mc->legs[leg].keeps = keeps(backend) && !mc->mirror->direct_reads;
    return vn_chan_open(backend, mc->chan.reactor, &mc->legs[leg].chan);
}

void vn_leg_chan_close(struct vn_mirror_chan *mc, uint32_t leg) {
    assert(!mc->legs[leg].nr_inflight && !mc->legs[leg].nr_abandoned);
    if (mc->legs[leg].chan)
        vn_chan_close(mc->legs[leg].chan);
    mc->legs[leg].chan = NULL;
}

static void free_chan(struct vn_mirror_chan *mc) {
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
        vn_leg_chan_close(mc, leg);
    vn_copy_close(mc);
    munmap(mc->bounces, (size_t)VN_MIRROR_NR_BOUNCE * VN_MIRROR_BOUNCE);
    munmap(mc->ios, VN_MIRROR_NR_IOS * sizeof(*mc->ios));
    free(mc);
}

static void on_end(struct vn_timer *timer) {
    struct vn_mirror_chan *mc = vn_container_of(timer, struct vn_mirror_chan, end_timer);
    struct vn_mirror *mirror = mc->mirror;
    vn_timer_disarm(mc->chan.reactor, &mc->check_timer);
    vn_poller_remove(mc->chan.reactor, &mc->poller);
    free_chan(mc);
    mirror->live = NULL;
    __atomic_store_n(&mirror->nr_chans, 0, __ATOMIC_RELEASE); /* who waits for it may free the mirror now */
}

/* What it does by itself ends first; then bits are cleared as far as may be, so that an orderly end leaves nothing to copy. */
void vn_mirror_chan_look(struct vn_mirror_chan *mc) {
    bool over = vn_copy_stop(mc) && !mc->flushing;
    if (over && !mc->cleaned) {
        mc->cleaned = true;
        vn_clean_last(mc);
    }
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
        over &= !mc->legs[leg].nr_inflight && !mc->legs[leg].nr_abandoned;
    if (over && !mc->flushing && vn_bitmap_is_idle(&mc->mirror->map) && !mc->end_timer.armed)
        vn_timer_arm(mc->chan.reactor, &mc->end_timer, 0);
}

static void mirror_chan_close(struct vn_chan *chan) {
    struct vn_mirror_chan *mc = (struct vn_mirror_chan *)chan;
    assert(!mc->nr_host && !mc->nr_passed);
    mc->mirror->chan = NULL;
    mc->closing = true;
    vn_mirror_wake(mc);
    vn_timer_disarm(chan->reactor, &mc->clean_timer);
    for (uint32_t i = 0; i < VN_MIRROR_NR_COPIES; i++) {
        if (mc->jobs[i].busy)
            vn_mio_cancel(mc, &mc->jobs[i].io);
    }
    vn_mirror_chan_look(mc);
}

/* Pages of zeros, which are no memory until they are used; from the heap they might be, after others have had them. */
static void *map_zeros(size_t bytes) {
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static int make_ios(struct vn_mirror_chan *mc) {
    mc->ios = map_zeros(VN_MIRROR_NR_IOS * sizeof(*mc->ios));
    mc->bounces = map_zeros((size_t)VN_MIRROR_NR_BOUNCE * VN_MIRROR_BOUNCE);
    if (mc->ios == MAP_FAILED || mc->bounces == MAP_FAILED)
        return -ENOMEM;
    for (mc->nr_bounce = 0; mc->nr_bounce < VN_MIRROR_NR_BOUNCE; mc->nr_bounce++)
        mc->free_bounce[mc->nr_bounce] = mc->bounces + (size_t)mc->nr_bounce * VN_MIRROR_BOUNCE;
    return 0;
}

static int mirror_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    struct vn_mirror *mirror = (struct vn_mirror *)backend;
    if (__atomic_load_n(&mirror->nr_chans, __ATOMIC_ACQUIRE))
        return -EBUSY; /* the order of writes is kept within one channel */
    struct vn_mirror_chan *mc = calloc(1, sizeof(*mc));
    if (!mc)
        return -ENOMEM;
    mc->chan = (struct vn_chan){.backend = backend, .reactor = reactor};
    mc->mirror = mirror;
    int err = vn_copy_open(mc);
    if (err) {
        free(mc);
        return err;
    }
    err = make_ios(mc);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS && !err; leg++)
        err = vn_leg_chan_open(mc, leg);
    if (err) {
        free_chan(mc);
        return err;
    }
    mc->check_timer.fn = vn_mirror_on_check;
    mc->clean_timer.fn = vn_clean_on_timer;
    mc->copy_timer.fn = vn_copy_on_timer;
    mc->end_timer.fn = on_end;
    mc->poller = (struct vn_poller){.poll = vn_mirror_poll, .before_sleep = vn_mirror_before_sleep,
                                    .can_rest = vn_mirror_can_rest};
    vn_poller_add(reactor, &mc->poller);
    mirror->chan = mirror->live = mc;
    __atomic_store_n(&mirror->nr_chans, 1, __ATOMIC_RELEASE);
    vn_mirror_see_alone(mirror);
    vn_bitmap_write(mc); /* what changed while there was none */
    vn_copy_kick(mc);
    vn_clean_kick(mc);
    *out = &mc->chan;
    return 0;
}

/* --- The backend --- */

static void free_mirror(struct vn_mirror *mirror) {
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
        vn_backend_close(mirror->legs[leg].backend);
    vn_bitmap_close(&mirror->map);
    free(mirror);
}

bool vn_mirror_wait(const struct vn_mirror *mirror) {
    uint64_t bound_ms = mirror->leg_timeout_ns / 500000 + CLOSE_MARGIN_MS;
    for (uint64_t ms = 0; __atomic_load_n(&mirror->nr_chans, __ATOMIC_ACQUIRE); ms++) {
        if (ms == bound_ms)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return true;
}

static void mirror_close(struct vn_backend *backend) {
    struct vn_mirror *mirror = (struct vn_mirror *)backend;
    if (vn_mirror_wait(mirror)) /* else a disk keeps what it has: better to keep the memory */
        free_mirror(mirror);
}

const struct vn_backend_ops vn_mirror_ops = {
    .name = "mirror",
    .close = mirror_close,
    .full_size = vn_mirror_full_size,
    .resize = vn_mirror_resize,
    .chan_open = mirror_chan_open,
    .chan_close = mirror_chan_close,
    .submit = vn_mirror_submit,
    .cancel = vn_mirror_cancel,
    .told = vn_mirror_told,
};

struct vn_mirror *vn_mirror_of(struct vn_backend *backend) {
    while (backend->next)
        backend = backend->next;
    return backend->ops == &vn_mirror_ops ? (struct vn_mirror *)backend : NULL;
}

/* A hole reads as zeros on all legs, or is written as such; unless the host was told otherwise, and nobody has to be the same. */
void vn_mirror_facts(struct vn_mirror *mirror) {
    mirror->zeroes_for_deallocate = false;
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        const struct vn_backend *backend = mirror->legs[leg].backend;
        mirror->zeroes_for_deallocate |= backend && (!backend->deallocates || backend->deallocated_stays);
    }
    if (mirror->backend.deallocated_stays && vn_mirror_alone(mirror) >= 0)
        mirror->zeroes_for_deallocate = !mirror->legs[vn_mirror_alone(mirror)].backend->deallocates;
}

int vn_mirror_check_leg(const struct vn_mirror *mirror, const struct vn_backend *backend, char *error, uint32_t error_size) {
    uint32_t block = mirror->backend.block_size;
    if (backend->ops == &vn_mirror_ops)
        return vn_backend_fail(error, error_size, EINVAL, "a mirror cannot be the leg of another one");
    if ((backend->block_size && backend->block_size != block) || backend->block_min > block)
        return vn_backend_fail(error, error_size, EINVAL, "its block size is not the mirror's, %u", block);
    if (backend->size < mirror->backend.size)
        return vn_backend_fail(error, error_size, EINVAL, "it has %llu bytes, and the mirror %llu",
                               (unsigned long long)backend->size, (unsigned long long)mirror->backend.size);
    if (backend->read_only && !mirror->backend.read_only)
        return vn_backend_fail(error, error_size, EROFS, "it is read-only, and the mirror is not");
    return 0;
}

/* --- Opening --- */

static int check_opts(const struct vn_ns_opts *opts, char *error, uint32_t error_size) {
    const struct vn_mirror_opts *mirror = opts->mirror;
    if (!mirror)
        return vn_backend_fail(error, error_size, EINVAL, "a mirror needs its legs");
    if (mirror->flags & ~(VN_MIRROR_SAME | VN_MIRROR_DIRECT_READS))
        return vn_backend_fail(error, error_size, EINVAL, "unknown flags %x of a mirror", mirror->flags);
    if (mirror->preferred >= VN_MIRROR_MAX_LEGS || mirror->leg_timeout_ms > 3600000 || mirror->clean_ms > 3600000)
        return vn_backend_fail(error, error_size, EINVAL, "a mirror has %u legs at most, and times of an hour",
                               VN_MIRROR_MAX_LEGS);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        uint32_t state = mirror->states[leg];
        const struct vn_ns_opts *of_leg = mirror->legs[leg];
        if (state != VN_LEG_NONE && state != VN_LEG_OUT && state != VN_LEG_IN_SYNC)
            return vn_backend_fail(error, error_size, EINVAL, "leg %u is to be in sync, out or none", leg);
        if (state == VN_LEG_IN_SYNC && of_leg && of_leg->backend && !strcmp(of_leg->backend, "mirror"))
            return vn_backend_fail(error, error_size, EINVAL, "leg %u is a mirror itself, which cannot be", leg);
    }
    return 0;
}

/* Those in sync. One that cannot be opened has failed, unless it is the last; but one that somebody else has open would not
 * stay as it is: perhaps it is our predecessor, which is just ending. */
static int open_legs(const struct vn_mirror_opts *opts, struct vn_mirror *mirror, char *error, uint32_t error_size) {
    int first_err = vn_backend_fail(error, error_size, ENODEV, "no leg of the mirror is in sync: say which one counts");
    char why[256];
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        struct vn_mirror_leg *of_leg = &mirror->legs[leg];
        of_leg->state = opts->states[leg];
        of_leg->uncovered = of_leg->state == VN_LEG_NONE;
        if (of_leg->state != VN_LEG_IN_SYNC)
            continue;
        int err = opts->legs[leg] ? vn_backend_open(opts->legs[leg], &of_leg->backend, why, sizeof(why))
                                  : vn_backend_fail(why, sizeof(why), ENODEV, "it is missing");
        if (!err)
            continue;
        of_leg->state = VN_LEG_FAILED;
        of_leg->failures = 1;
        first_err = vn_backend_fail(error, error_size, -err, "leg %u: %s", leg, why);
        if (err == -EBUSY)
            return err;
    }
    return vn_mirror_in_sync(mirror) ? 0 : first_err;
}

/* What all legs have. Sets the size and the block size to those of the smallest, where the options leave it to them. */
static int take_facts(const struct vn_ns_opts *opts, struct vn_mirror *mirror, char *error, uint32_t error_size) {
    struct vn_backend *backend = &mirror->backend;
    uint64_t smallest = INT64_MAX, known = vn_bitmap_size_of(opts->mirror->bitmap_path ? opts->mirror->bitmap_path : "");
    *backend = (struct vn_backend){.ops = &vn_mirror_ops,
                                   .size = opts->size ? opts->size : known,
                                   .block_size = opts->block_size,
                                   .block_min = 512,
                                   .read_only = opts->flags & VN_NS_READ_ONLY,
                                   .volatile_cache = true,
                                   .deallocates = true,
                                   .direct = true};
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        const struct vn_backend *of_leg = mirror->legs[leg].backend;
        if (!of_leg)
            continue;
        if (!backend->block_size)
            backend->block_size = of_leg->block_size ? of_leg->block_size : opts->mirror->legs[leg]->block_size;
        smallest = vn_min_u64(smallest, of_leg->size);
        backend->block_min = (uint32_t)vn_max_u64(backend->block_min, of_leg->block_min);
        backend->read_only |= of_leg->read_only;
        backend->deallocates &= of_leg->deallocates;
        backend->direct &= of_leg->direct;
        backend->deallocated_stays |= of_leg->deallocated_stays;
    }
    backend->deallocated_stays &= vn_mirror_alone(mirror) >= 0;
    if (!backend->size && vn_mirror_holds(mirror))
        return vn_backend_fail(error, error_size, ENODEV, "a leg of the new mirror cannot be opened, and its size is not known: "
                               "give the size");
    backend->size = (backend->size ? backend->size : smallest) & ~(uint64_t)(backend->block_size - 1);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        char why[160];
        if (mirror->legs[leg].backend && vn_mirror_check_leg(mirror, mirror->legs[leg].backend, why, sizeof(why)))
            return vn_backend_fail(error, error_size, EINVAL, "leg %u cannot be one of this mirror: %s", leg, why);
    }
    vn_mirror_facts(mirror);
    return 0;
}

int vn_mirror_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size) {
    int err = check_opts(opts, error, error_size);
    if (err)
        return err;
    struct vn_mirror *mirror = calloc(1, sizeof(*mirror));
    if (!mirror)
        return vn_backend_fail(error, error_size, ENOMEM, "out of memory");
    const struct vn_mirror_opts *mopts = opts->mirror;
    mirror->map.fd = -1;
    mirror->preferred = mopts->preferred;
    mirror->leg_timeout_ns = vn_or_default(mopts->leg_timeout_ms, DEFAULT_TIMEOUT_MS) * 1000000ull;
    mirror->clean_ns = vn_or_default(mopts->clean_ms, DEFAULT_CLEAN_MS) * 1000000ull;
    mirror->rebuild_rate = mopts->rebuild_rate;
    mirror->direct_reads = mopts->flags & VN_MIRROR_DIRECT_READS;
    mirror->has_filters = opts->error_ppm || opts->delay_us || opts->record_path;
    err = open_legs(mopts, mirror, error, error_size);
    if (!err)
        err = take_facts(opts, mirror, error, error_size);
    if (!err)
        err = vn_bitmap_open(mirror, mopts, error, error_size);
    if (err) {
        free_mirror(mirror);
        return err;
    }
    *out = &mirror->backend;
    return 0;
}
