/* The forwarder's paths: an association each, made again whenever it is lost; which of them commands take; and how long
 * commands wait while there is none. Called by forward.c to begin and to end, by the associations, by timers.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend/forward.h"
#include "core/util.h"

#define BACKOFF_MS_MIN 50u
#define BACKOFF_MS_MAX 2000u
#define STEADY_NS 10000000000ull /* up for so long, or a command was answered: the next attempts come quickly again */
#define HOLD_NS 100000000ull /* a path that has refused a command for its state rests for 100 ms */

/* xorshift64* (Vigna 2016): only for spreading reconnects. */
static uint64_t draw(struct vn_forward_chan *fc) {
    fc->random ^= fc->random >> 12;
    fc->random ^= fc->random << 25;
    fc->random ^= fc->random >> 27;
    return fc->random * 0x2545f4914f6cdd1dull;
}

void vn_forward_tell(const struct vn_forward *forward, enum vn_event_type type, uint64_t a, const char *format, ...) {
    const struct vn_backend *backend = &forward->backend;
    if (!backend->events)
        return;
    char text[sizeof(((struct vn_event *)0)->text)];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    vn_event_emit(backend->events, type, backend->events_id, a, forward->config.nsid, "%s", text);
}

/* --- Which path --- */

/* The less the better; UINT32_MAX: not usable. */
static uint32_t rank_of(const struct vn_path *path, uint64_t now_ns) {
    if (!path->up || now_ns < path->hold_ns)
        return UINT32_MAX;
    switch (path->assoc->ana) {
    case VN_ANA_OPTIMIZED:
        return 0;
    case VN_ANA_NON_OPTIMIZED:
        return 1;
    default:
        return UINT32_MAX;
    }
}

/* The best; the one in use where it is as good as any. */
static struct vn_path *choose(struct vn_forward_chan *fc) {
    uint64_t now_ns = vn_reactor_now_ns(fc->chan.reactor);
    struct vn_path *best = fc->active;
    uint32_t rank = best ? rank_of(best, now_ns) : UINT32_MAX;
    if (rank == UINT32_MAX)
        best = NULL;
    for (uint32_t i = 0; i < fc->forward->nr_paths; i++) {
        uint32_t other = rank_of(&fc->paths[i], now_ns);
        if (other < rank) {
            best = &fc->paths[i];
            rank = other;
        }
    }
    return best;
}

/* --- How long to wait for one --- */

static void arm_out_timer(struct vn_forward_chan *fc) {
    uint64_t now_ns = vn_reactor_now_ns(fc->chan.reactor), due_ns = UINT64_MAX;
    for (int class = 0; class < VN_FORWARD_CLASSES; class++) {
        if (fc->out_ns[class] && !fc->failed[class])
            due_ns = vn_min_u64(due_ns, fc->out_ns[class] + fc->forward->reconnect_ns);
    }
    if (due_ns == UINT64_MAX)
        vn_timer_disarm(fc->chan.reactor, &fc->out_timer);
    else
        vn_timer_arm(fc->chan.reactor, &fc->out_timer, due_ns > now_ns ? due_ns - now_ns : 0);
}

static void on_out_timer(struct vn_timer *timer) {
    struct vn_forward_chan *fc = vn_container_of(timer, struct vn_forward_chan, out_timer);
    uint64_t now_ns = vn_reactor_now_ns(fc->chan.reactor);
    for (int class = 0; class < VN_FORWARD_CLASSES; class++) {
        if (!fc->out_ns[class] || fc->failed[class] || now_ns < fc->out_ns[class] + fc->forward->reconnect_ns)
            continue;
        fc->failed[class] = true;
        vn_forward_fail_waiting(fc, class);
    }
    arm_out_timer(fc);
}

static void set_out(struct vn_forward_chan *fc, enum vn_forward_class class, bool out) {
    if (out == !!fc->out_ns[class])
        return;
    fc->out_ns[class] = out ? vn_reactor_now_ns(fc->chan.reactor) : 0;
    fc->failed[class] = false;
}

void vn_forward_update(struct vn_forward_chan *fc) {
    if (fc->closing)
        return;
    uint64_t now_ns = vn_reactor_now_ns(fc->chan.reactor);
    fc->active = choose(fc);
    fc->quarantine_ns = __atomic_load_n(&fc->forward->quarantine_ns, __ATOMIC_ACQUIRE);
    bool fenced = fc->nr_fences || now_ns < fc->quarantine_ns;
    if (now_ns < fc->quarantine_ns && !fc->fence_timer.armed)
        vn_timer_arm(fc->chan.reactor, &fc->fence_timer, fc->quarantine_ns - now_ns);
    set_out(fc, VN_FORWARD_READS, !fc->active);
    set_out(fc, VN_FORWARD_WRITES, !fc->active || fenced);
    arm_out_timer(fc);
    vn_forward_kick(fc);
}

static void on_hold_timer(struct vn_timer *timer) {
    vn_forward_update(vn_container_of(timer, struct vn_forward_chan, hold_timer));
}

void vn_forward_path_refused(struct vn_path *path) {
    struct vn_forward_chan *fc = path->fc;
    path->hold_ns = vn_reactor_now_ns(fc->chan.reactor) + HOLD_NS;
    vn_timer_arm(fc->chan.reactor, &fc->hold_timer, HOLD_NS);
    vn_assoc_read_ana(path->assoc);
    vn_forward_update(fc);
}

/* --- What associations tell --- */

static const char *name_of(const struct vn_path *path) {
    return path->assoc->name;
}

/* Not the namespace that it was: the way is not used, and tried again later; somebody may put it right. */
static bool is_same(struct vn_path *path) {
    char wrong[VN_ASSOC_WHY_BYTES] = "";
    vn_forward_compare(path->fc->forward, &path->assoc->facts, wrong, sizeof(wrong));
    if (!wrong[0])
        return true;
    if (!path->told_refused)
        vn_forward_tell(path->fc->forward, VN_EVENT_REMOTE_REFUSED, path->index, "%s: the namespace there is refused: %s",
                        name_of(path), wrong);
    path->told_refused = true;
    vn_assoc_fail(path->assoc, ESTALE, "the namespace at %s is refused: %s", name_of(path), wrong);
    return false;
}

/* Told once by all channels together: the namespace itself keeps its size until vn_ns_resize. */
static void look_at_size(const struct vn_path *path) {
    struct vn_forward *forward = path->fc->forward;
    const struct vn_assoc_facts *facts = &path->assoc->facts;
    uint64_t told = __atomic_exchange_n(&forward->blocks_told, facts->nr_blocks, __ATOMIC_ACQ_REL);
    if (told != facts->nr_blocks)
        vn_forward_tell(forward, VN_EVENT_REMOTE_RESIZED, facts->nr_blocks * facts->block_size,
                        "%s: the namespace now has %" PRIu64 " blocks of %u bytes, not %" PRIu64, name_of(path),
                        facts->nr_blocks, facts->block_size, told);
}

static void on_ready(struct vn_assoc *assoc) {
    struct vn_path *path = assoc->ctx;
    if (!is_same(path))
        return;
    vn_forward_tell(path->fc->forward, path->was_up ? VN_EVENT_REMOTE_BACK : VN_EVENT_REMOTE_ATTACHED, path->index,
                    "%s: %s", name_of(path), path->was_up ? "the connection is back" : "connected");
    path->up = path->was_up = true;
    path->told_refused = false;
    path->hold_ns = 0;
    look_at_size(path);
    vn_fence_advance(path->fc);
    vn_forward_update(path->fc);
}

/* Somebody is there and does not have it, or does not give it to us: that is worth a word, once. */
static bool is_refusal(int err) {
    return err == ENOENT || err == EACCES || err == EKEYREJECTED || err == ENODEV || err == EMEDIUMTYPE || err == EFBIG;
}

static void on_lost(struct vn_assoc *assoc) {
    struct vn_path *path = assoc->ctx;
    bool was_up = path->up;
    path->up = false;
    if (!was_up) {
        if (is_refusal(assoc->err) && !path->told_refused) {
            path->told_refused = true;
            vn_forward_tell(path->fc->forward, VN_EVENT_REMOTE_REFUSED, path->index, "%s", assoc->why);
        }
        return;
    }
    vn_fence_begin(path);
    if (!path->fc->closing)
        vn_forward_tell(path->fc->forward, VN_EVENT_REMOTE_LOST, path->index, "%s", assoc->why);
    vn_forward_update(path->fc);
}

static void start(struct vn_path *path) {
    vn_assoc_start(path->assoc, &path->fc->group, &path->fc->forward->addresses[path->index]);
}

static void on_retry(struct vn_timer *timer) {
    start(vn_container_of(timer, struct vn_path, retry));
}

static void on_closed(struct vn_assoc *assoc) {
    struct vn_path *path = assoc->ctx;
    struct vn_forward_chan *fc = path->fc;
    vn_fence_closed(path);
    path->unknown = false;
    if (assoc->ready_ns && vn_reactor_now_ns(fc->chan.reactor) - assoc->ready_ns >= STEADY_NS)
        path->backoff_ms = 0;
    if (fc->closing) {
        vn_forward_paths_close(fc);
        return;
    }
    path->backoff_ms = path->backoff_ms ? (uint32_t)vn_min_u64(path->backoff_ms * 2ull, BACKOFF_MS_MAX) : BACKOFF_MS_MIN;
    uint64_t ms = path->backoff_ms / 2 + draw(fc) % (path->backoff_ms / 2 + 1); /* half of it up to all */
    vn_timer_arm(fc->chan.reactor, &path->retry, ms * 1000000ull);
}

static void on_ns_changed(struct vn_assoc *assoc) {
    struct vn_path *path = assoc->ctx;
    if (path->up && is_same(path))
        look_at_size(path);
}

static void on_ana_changed(struct vn_assoc *assoc) {
    struct vn_path *path = assoc->ctx;
    static const char *const names[16] = {[VN_ANA_OPTIMIZED] = "optimized",
                                          [VN_ANA_NON_OPTIMIZED] = "non-optimized",
                                          [VN_ANA_INACCESSIBLE] = "inaccessible",
                                          [VN_ANA_PERSISTENT_LOSS] = "lost for good",
                                          [VN_ANA_CHANGE] = "changing"};
    const char *name = names[assoc->ana & 0xf];
    path->hold_ns = 0; /* what it says now counts */
    vn_forward_tell(path->fc->forward, VN_EVENT_REMOTE_ANA, assoc->ana, "%s: the namespace is %s there", name_of(path),
                    name ? name : "in an unknown state");
    vn_forward_update(path->fc);
}

static const struct vn_assoc_ops assoc_ops = {.ready = on_ready,
                                              .lost = on_lost,
                                              .closed = on_closed,
                                              .ns_changed = on_ns_changed,
                                              .ana_changed = on_ana_changed};

/* --- All of them --- */

int vn_forward_paths_open(struct vn_forward_chan *fc) {
    const struct vn_forward *forward = fc->forward;
    fc->random = vn_monotonic_ns() | 1;
    fc->out_timer.fn = on_out_timer;
    fc->fence_timer.fn = vn_fence_on_timer;
    fc->end_timer.fn = vn_forward_on_end_timer;
    fc->hold_timer.fn = on_hold_timer;
    for (uint32_t i = 0; i < forward->nr_paths; i++) {
        struct vn_path *path = &fc->paths[i];
        path->fc = fc;
        path->index = i;
        path->retry.fn = on_retry;
        int err = vn_assoc_create(&forward->config, &assoc_ops, path, &path->assoc);
        if (err) {
            while (i-- > 0)
                vn_assoc_free(fc->paths[i].assoc);
            return err;
        }
    }
    vn_conn_group_init(&fc->group, fc->chan.reactor);
    vn_forward_update(fc);
    for (uint32_t i = 0; i < forward->nr_paths; i++)
        start(&fc->paths[i]);
    return 0;
}

void vn_forward_paths_close(struct vn_forward_chan *fc) {
    bool idle = true;
    for (uint32_t i = 0; i < fc->forward->nr_paths; i++) {
        struct vn_path *path = &fc->paths[i];
        vn_timer_disarm(fc->chan.reactor, &path->retry);
        vn_assoc_fail(path->assoc, ECANCELED, "the channel to %s is closed", name_of(path));
        idle &= path->assoc->state == VN_ASSOC_IDLE;
    }
    if (!idle)
        return;
    for (uint32_t i = 0; i < fc->forward->nr_paths; i++)
        vn_assoc_free(fc->paths[i].assoc);
    vn_conn_group_fini(&fc->group);
    vn_forward_chan_end(fc);
}
