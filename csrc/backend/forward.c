/* The forwarder: a namespace elsewhere as a backend. Opens and closes it and its channels; requests are forward_io.c's,
 * the ways to the target forward_path.c's. Opened by vn_backend_open.
 */
#include "backend/forward.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/util.h"

#define CLOSE_WAIT_MS 3000

/* --- Channels --- */

static int forward_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    struct vn_forward *forward = (struct vn_forward *)backend;
    struct vn_forward_chan *fc = calloc(1, sizeof(*fc));
    if (!fc)
        return -ENOMEM;
    fc->chan = (struct vn_chan){.backend = backend, .reactor = reactor};
    fc->forward = forward;
    int err = vn_forward_paths_open(fc);
    if (err) {
        free(fc);
        return err;
    }
    __atomic_fetch_add(&forward->nr_chans, 1, __ATOMIC_ACQ_REL);
    *out = &fc->chan;
    return 0;
}

/* Writes that are still with a target, or may be, hold up those of other channels, and of channels to come, for as long
 * as such a write can live. */
static void leave_quarantine(struct vn_forward_chan *fc) {
    uint64_t *shared = &fc->forward->quarantine_ns;
    uint64_t until_ns = vn_reactor_now_ns(fc->chan.reactor) + vn_fence_ns(fc->forward);
    uint64_t before = __atomic_load_n(shared, __ATOMIC_ACQUIRE);
    while (before < until_ns &&
           !__atomic_compare_exchange_n(shared, &before, until_ns, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
}

static void forward_chan_close(struct vn_chan *chan) {
    struct vn_forward_chan *fc = (struct vn_forward_chan *)chan;
    assert(!fc->waiting[VN_FORWARD_READS].first && !fc->waiting[VN_FORWARD_WRITES].first);
    assert(!fc->blocked.first && !fc->ending.first);
    if (fc->ghosts || fc->nr_fences)
        leave_quarantine(fc);
    fc->closing = true;
    fc->active = NULL;
    vn_timer_disarm(chan->reactor, &fc->out_timer);
    vn_timer_disarm(chan->reactor, &fc->fence_timer);
    vn_timer_disarm(chan->reactor, &fc->end_timer);
    vn_timer_disarm(chan->reactor, &fc->hold_timer);
    vn_forward_paths_close(fc);
}

void vn_forward_chan_end(struct vn_forward_chan *fc) {
    struct vn_forward *forward = fc->forward;
    vn_timer_disarm(fc->chan.reactor, &fc->fence_timer);
    free(fc);
    __atomic_fetch_sub(&forward->nr_chans, 1, __ATOMIC_ACQ_REL); /* the last: who waits for it frees the backend */
}

/* --- The backend --- */

static void forward_close(struct vn_backend *backend) {
    struct vn_forward *forward = (struct vn_forward *)backend;
    /* Channels end some turns after their close: their connections do. */
    for (int ms = 0; __atomic_load_n(&forward->nr_chans, __ATOMIC_ACQUIRE); ms++) {
        if (ms == CLOSE_WAIT_MS)
            return; /* a reactor that does not turn: better to keep the memory than to free what it may still use */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    vn_remote_config_free(&forward->config);
    free(forward->zero_bytes);
    free(forward);
}

/* What its target says that it has. */
static uint64_t forward_full_size(struct vn_backend *backend) {
    struct vn_forward *forward = (struct vn_forward *)backend;
    return __atomic_load_n(&forward->blocks_told, __ATOMIC_ACQUIRE) * forward->facts.block_size;
}

/* From now on it is another one when it has less than this. */
static int forward_resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size) {
    struct vn_forward *forward = (struct vn_forward *)backend;
    uint64_t there = forward_full_size(backend);
    if (size > there)
        return vn_backend_fail(error, error_size, EINVAL, "its target says that it has %" PRIu64 " bytes: resize it there first",
                               there);
    __atomic_store_n(&forward->facts.nr_blocks, size / forward->facts.block_size, __ATOMIC_RELEASE);
    return 0;
}

static const struct vn_backend_ops forward_ops = {
    .name = "forward",
    .close = forward_close,
    .full_size = forward_full_size,
    .resize = forward_resize,
    .chan_open = forward_chan_open,
    .chan_close = forward_chan_close,
    .submit = vn_forward_submit,
    .cancel = vn_forward_cancel,
};

/* What stands for a UUID where the namespace has none. */
static void take_identity(struct vn_backend *backend, const struct vn_assoc_facts *facts) {
    backend->has_uuid = facts->has_uuid || facts->has_nguid || facts->has_eui64;
    if (facts->has_uuid) {
        memcpy(backend->uuid, facts->uuid, 16);
    } else if (facts->has_nguid) {
        memcpy(backend->uuid, facts->nguid, 16);
    } else if (facts->has_eui64) {
        memcpy(backend->uuid, facts->eui64, 8);
        memcpy(backend->uuid + 8, "EUI64\0\0\1", 8);
    }
}

int vn_forward_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size) {
    struct vn_forward *forward = calloc(1, sizeof(*forward));
    if (!forward)
        return vn_backend_fail(error, error_size, ENOMEM, "out of memory");
    forward->zero_bytes = calloc(1, VN_FORWARD_ZEROS);
    int err = forward->zero_bytes ? vn_forward_look(opts, forward, error, error_size)
                                  : vn_backend_fail(error, error_size, ENOMEM, "out of memory");
    if (err) {
        vn_remote_config_free(&forward->config);
        free(forward->zero_bytes);
        free(forward);
        return err;
    }
    for (uint32_t i = 0; i < VN_FORWARD_ZERO_IOVECS; i++)
        forward->zeros[i] = (struct iovec){forward->zero_bytes, VN_FORWARD_ZEROS};
    const struct vn_assoc_facts *facts = &forward->facts;
    forward->blocks_told = facts->nr_blocks;
    forward->backend = (struct vn_backend){
        .ops = &forward_ops,
        .size = facts->nr_blocks * facts->block_size,
        .block_min = facts->block_size,
        .block_size = facts->block_size,
        .read_only = facts->read_only || opts->flags & VN_NS_READ_ONLY,
        .volatile_cache = facts->volatile_cache,
        .deallocates = facts->deallocate,
        .deallocated_stays = !facts->reads_zeros,
    };
    take_identity(&forward->backend, facts);
    *out = &forward->backend;
    return 0;
}
