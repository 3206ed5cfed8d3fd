/* Who counts: the states of the mirror's legs, and what Python does to them. A leg that counts and fails holds commands
 * until Python has recorded that; one that does not count goes without a word of Python's.
 * Called by the other parts on the channel's reactor, by api_mirror.c on the control thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "backend/mirror.h"
#include "core/util.h"

/* The one setter of a leg's state. */
static void set_state(struct vn_mirror *mirror, uint32_t index, enum vn_leg_state state) {
    uint32_t before = mirror->legs[index].state;
    bool may_follow = state == VN_LEG_NONE         ? before == VN_LEG_OUT
                      : state == VN_LEG_OUT        ? before == VN_LEG_FAILED || before == VN_LEG_REBUILDING
                      : state == VN_LEG_REBUILDING ? before == VN_LEG_OUT || before == VN_LEG_NONE
                      : state == VN_LEG_READY      ? before == VN_LEG_REBUILDING
                      : state == VN_LEG_IN_SYNC    ? before == VN_LEG_READY
                                                   : before == VN_LEG_IN_SYNC || before == VN_LEG_READY;
    assert(may_follow);
    (void)may_follow;
    mirror->legs[index].state = state;
    vn_mirror_see_alone(mirror);
}

static void tell(const struct vn_mirror *mirror, enum vn_event_type type, uint32_t leg, const char *what) {
    const struct vn_backend *backend = &mirror->backend;
    vn_status why = VN_STATUS_CODE(mirror->legs[leg].why);
    if (!backend->events)
        return;
    if (type == VN_EVENT_LEG_IN_SYNC)
        vn_event_emit(backend->events, type, backend->events_id, leg, 0, "leg %u has everything", leg);
    else if (why)
        vn_event_emit(backend->events, type, backend->events_id, leg, why, "leg %u: %s, status %x", leg, what, why);
    else
        vn_event_emit(backend->events, type, backend->events_id, leg, why, "leg %u: %s: no answer for %" PRIu64 " ms", leg, what,
                      mirror->leg_timeout_ns / 1000000);
}

static void note(struct vn_mirror_leg *leg, vn_status why) {
    leg->why = why;
    leg->failures++;
}

bool vn_leg_fail(struct vn_mirror *mirror, struct vn_mirror_chan *mc, uint32_t leg, vn_status why) {
    uint32_t state = mirror->legs[leg].state;
    if (state == VN_LEG_IN_SYNC && vn_mirror_in_sync(mirror) == VN_LEG_BIT(leg))
        return false;
    if (state == VN_LEG_REBUILDING) {
        vn_leg_lose(mirror, mc, leg, why, "its rebuild has failed");
    } else if (state == VN_LEG_IN_SYNC || state == VN_LEG_READY) {
        note(&mirror->legs[leg], why);
        set_state(mirror, leg, VN_LEG_FAILED);
        if (mc)
            vn_mirror_cancel_leg(mc, leg);
        tell(mirror, VN_EVENT_LEG_FAILED, leg, "it has failed");
    }
    return true;
}

void vn_leg_lose(struct vn_mirror *mirror, struct vn_mirror_chan *mc, uint32_t leg, vn_status why, const char *what) {
    struct vn_bitmap *map = &mirror->map;
    note(&mirror->legs[leg], why);
    set_state(mirror, leg, VN_LEG_OUT);
    memset(map->copy, 0, map->nr_words * sizeof(uint64_t));
    if (mc)
        vn_mirror_cancel_leg(mc, leg);
    tell(mirror, VN_EVENT_LEG_LOST, leg, what);
}

void vn_leg_is_ready(struct vn_mirror_chan *mc, uint32_t leg) {
    set_state(mc->mirror, leg, VN_LEG_READY);
    mc->mirror->legs[leg].uncovered = false; /* the bitmap knows whatever it will lack */
    tell(mc->mirror, VN_EVENT_LEG_IN_SYNC, leg, "");
}

void vn_mirror_told(struct vn_backend *backend) {
    struct vn_mirror *mirror = (struct vn_mirror *)backend;
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        if (mirror->legs[leg].backend)
            vn_backend_tell_to(mirror->legs[leg].backend, backend->events, backend->events_id);
        if (mirror->legs[leg].state == VN_LEG_FAILED && backend->events)
            vn_event_emit(backend->events, VN_EVENT_LEG_FAILED, backend->events_id, leg, 0, "leg %u: it could not be opened", leg);
    }
}

/* --- What Python does --- */

struct leg_call {
    struct vn_mirror *mirror;
    struct vn_mirror_chan *mc; /* NULL: nothing has the mirror attached */
    uint32_t leg;
    struct vn_backend *backend, *old;
    bool flag;
    char *error;
    uint32_t error_size;
    struct vn_mirror_info *info;
};

#define FAIL(call, err, ...) vn_backend_fail((call)->error, (call)->error_size, (err), __VA_ARGS__)

int vn_mirror_call(struct vn_mirror *mirror, int (*fn)(void *arg), void *arg, char *error, uint32_t error_size) {
    if (mirror->chan)
        return vn_reactor_call(mirror->chan->chan.reactor, fn, arg);
    if (__atomic_load_n(&mirror->nr_chans, __ATOMIC_ACQUIRE))
        return vn_backend_fail(error, error_size, EBUSY, "the mirror is just being detached: try again");
    return fn(arg);
}

static int run(struct leg_call *call, int (*fn)(void *call)) {
    if (call->leg >= VN_MIRROR_MAX_LEGS)
        return FAIL(call, EINVAL, "there is no leg %u", call->leg);
    call->mc = call->mirror->chan;
    return vn_mirror_call(call->mirror, fn, call, call->error, call->error_size);
}

static int out(void *arg) {
    struct leg_call *call = arg;
    struct vn_mirror *mirror = call->mirror;
    uint32_t state = mirror->legs[call->leg].state;
    if (state == VN_LEG_OUT)
        return 0;
    if (state != VN_LEG_FAILED)
        return FAIL(call, EINVAL, "leg %u has not failed", call->leg);
    set_state(mirror, call->leg, VN_LEG_OUT);
    if (call->mc)
        vn_mirror_release(call->mc);
    return 0;
}

static int break_leg(void *arg) {
    struct leg_call *call = arg;
    uint32_t state = call->mirror->legs[call->leg].state;
    if (state == VN_LEG_OUT || state == VN_LEG_NONE || state == VN_LEG_FAILED)
        return 0;
    return vn_leg_fail(call->mirror, call->mc, call->leg, VN_SC_ABORT_REQUESTED)
               ? 0
               : FAIL(call, EBUSY, "leg %u is the last that is in sync", call->leg);
}

/* Also such that nobody waits for any more: they may still be carried out. */
static bool has_commands(const struct leg_call *call) {
    const struct vn_leg_chan *leg = call->mc ? &call->mc->legs[call->leg] : NULL;
    return leg && (leg->nr_inflight || leg->nr_abandoned);
}

/* Takes what the leg has open out of the mirror, for the control thread to close. */
static int take_old(struct leg_call *call) {
    struct vn_mirror_leg *leg = &call->mirror->legs[call->leg];
    if (has_commands(call))
        return FAIL(call, EBUSY, "leg %u still has commands in flight: try again", call->leg);
    if (call->mc) {
        vn_mirror_forget_leg(call->mc, call->leg);
        vn_leg_chan_close(call->mc, call->leg);
    }
    call->old = leg->backend;
    leg->backend = NULL;
    return 0;
}

static int check_in(struct leg_call *call) {
    const struct vn_mirror *mirror = call->mirror;
    const struct vn_mirror_leg *leg = &mirror->legs[call->leg];
    if (leg->state != VN_LEG_OUT && leg->state != VN_LEG_NONE)
        return FAIL(call, EINVAL, "leg %u is there already", call->leg);
    if (mirror->backend.read_only)
        return FAIL(call, EROFS, "the mirror is read-only: nothing is copied");
    if (vn_mirror_in(mirror, 1u << VN_LEG_REBUILDING))
        return FAIL(call, EBUSY, "another leg is being rebuilt: one after the other");
    if (mirror->map.broken)
        return FAIL(call, EIO, "the mirror's bitmap could not be written: open the mirror anew");
    if (leg->uncovered && !call->flag)
        return FAIL(call, EINVAL, "leg %u lacks more than the bitmap knows: it needs VN_MIRROR_FULL", call->leg);
    if (!leg->backend && !call->backend)
        return FAIL(call, EINVAL, "leg %u has nothing open: give it something", call->leg);
    if (has_commands(call))
        return FAIL(call, EBUSY, "leg %u still has commands in flight: try again", call->leg);
    return vn_mirror_check_leg(mirror, call->backend ? call->backend : leg->backend, call->error, call->error_size);
}

static int bring_in(void *arg) {
    struct leg_call *call = arg;
    struct vn_mirror *mirror = call->mirror;
    struct vn_mirror_leg *leg = &mirror->legs[call->leg];
    struct vn_bitmap *map = &mirror->map;
    int err = check_in(call);
    if (!err && call->backend) {
        take_old(call);
        leg->backend = call->backend;
    }
    if (!err && call->mc && (err = vn_leg_chan_open(call->mc, call->leg)) < 0) {
        FAIL(call, -err, "leg %u cannot be opened on the reactor: %s", call->leg, strerror(-err));
        leg->backend = call->old;
        call->old = NULL;
    }
    if (err)
        return err;
    if (call->flag) {
        leg->uncovered = true;
        vn_bitmap_dirty_all(map);
    }
    memcpy(map->copy, map->dirty, map->nr_words * sizeof(uint64_t));
    set_state(mirror, call->leg, VN_LEG_REBUILDING);
    vn_mirror_facts(mirror);
    if (call->mc) {
        vn_copy_again(call->mc, 0, map->nr_regions);
        call->mc->copy_cursor = 0;
        vn_bitmap_write(call->mc);
        vn_copy_kick(call->mc);
        vn_clean_kick(call->mc);
    }
    return 0;
}

static int count(void *arg) {
    struct leg_call *call = arg;
    uint32_t state = call->mirror->legs[call->leg].state;
    if (state == VN_LEG_IN_SYNC)
        return 0;
    if (state != VN_LEG_READY)
        return FAIL(call, ESTALE, "leg %u is not ready, or has failed since it was", call->leg);
    set_state(call->mirror, call->leg, VN_LEG_IN_SYNC);
    return 0;
}

/* If one leg is left: nothing is marked from now on. So all is, once, whoever may come. */
static void be_alone(struct vn_mirror *mirror, struct vn_mirror_chan *mc) {
    if (vn_mirror_alone(mirror) < 0)
        return;
    vn_bitmap_dirty_all(&mirror->map);
    if (mc) {
        vn_copy_again(mc, 0, mirror->map.nr_regions);
        vn_bitmap_write(mc);
    }
}

static int close_leg(void *arg) {
    struct leg_call *call = arg;
    struct vn_mirror *mirror = call->mirror;
    uint32_t state = mirror->legs[call->leg].state;
    if (state != VN_LEG_OUT && state != VN_LEG_NONE)
        return FAIL(call, EINVAL, "leg %u is not out", call->leg);
    int err = take_old(call);
    if (!err && call->flag && state == VN_LEG_OUT) {
        set_state(mirror, call->leg, VN_LEG_NONE);
        mirror->legs[call->leg].uncovered = true;
        be_alone(mirror, call->mc);
        if (call->mc)
            vn_clean_kick(call->mc);
    }
    vn_mirror_facts(mirror);
    return err;
}

static int set_preferred(void *arg) {
    struct leg_call *call = arg;
    call->mirror->preferred = call->leg;
    return 0;
}

static int look(void *arg) {
    struct leg_call *call = arg;
    const struct vn_mirror *mirror = call->mirror;
    const struct vn_bitmap *map = &mirror->map;
    bool alone = vn_mirror_alone(mirror) >= 0; /* then there is nobody to differ from */
    *call->info = (struct vn_mirror_info){.preferred = mirror->preferred,
                                          .attached = call->mc != NULL,
                                          .size = mirror->backend.size,
                                          .generation = map->generation,
                                          .region_bytes = map->region_bytes,
                                          .nr_regions = map->nr_regions,
                                          .nr_dirty = alone ? 0 : vn_bitmap_count(map, map->dirty),
                                          .nr_left = vn_mirror_has_two(mirror) ? vn_bitmap_count_todo(map) : 0,
                                          .copied_bytes = mirror->copied_bytes};
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
        call->info->legs[leg] = (struct vn_leg_info){.state = mirror->legs[leg].state,
                                                     .why = VN_STATUS_CODE(mirror->legs[leg].why),
                                                     .open = mirror->legs[leg].backend != NULL,
                                                     .covered = !mirror->legs[leg].uncovered,
                                                     .failures = mirror->legs[leg].failures};
    for (const struct vn_mio *io = call->mc ? call->mc->held.first : NULL; io; io = io->next)
        call->info->held++;
    return 0;
}

int vn_mirror_out(struct vn_mirror *mirror, uint32_t leg, char *error, uint32_t error_size) {
    return run(&(struct leg_call){.mirror = mirror, .leg = leg, .error = error, .error_size = error_size}, out);
}

int vn_mirror_break(struct vn_mirror *mirror, uint32_t leg, char *error, uint32_t error_size) {
    return run(&(struct leg_call){.mirror = mirror, .leg = leg, .error = error, .error_size = error_size}, break_leg);
}

int vn_mirror_in_again(struct vn_mirror *mirror, uint32_t leg, struct vn_backend *backend, bool full, char *error,
                       uint32_t error_size) {
    struct leg_call call = {.mirror = mirror, .leg = leg, .backend = backend, .flag = full, .error = error,
                            .error_size = error_size};
    int err = 0;
    if (backend && mirror->backend.events)
        vn_backend_tell_to(backend, mirror->backend.events, mirror->backend.events_id);
    if (!backend && leg < VN_MIRROR_MAX_LEGS && mirror->legs[leg].backend) /* the mirror may have grown meanwhile */
        err = vn_mirror_resize_leg(mirror, leg, mirror->backend.size, error, error_size);
    if (!err)
        err = run(&call, bring_in);
    vn_backend_close(call.old);
    return err;
}

int vn_mirror_count(struct vn_mirror *mirror, uint32_t leg, char *error, uint32_t error_size) {
    return run(&(struct leg_call){.mirror = mirror, .leg = leg, .error = error, .error_size = error_size}, count);
}

int vn_mirror_close_leg(struct vn_mirror *mirror, uint32_t leg, bool drop, char *error, uint32_t error_size) {
    struct leg_call call = {.mirror = mirror, .leg = leg, .flag = drop, .error = error, .error_size = error_size};
    int err = run(&call, close_leg);
    vn_backend_close(call.old);
    return err;
}

int vn_mirror_set_preferred(struct vn_mirror *mirror, uint32_t leg, char *error, uint32_t error_size) {
    return run(&(struct leg_call){.mirror = mirror, .leg = leg, .error = error, .error_size = error_size}, set_preferred);
}

int vn_mirror_look(struct vn_mirror *mirror, struct vn_mirror_info *info, char *error, uint32_t error_size) {
    return run(&(struct leg_call){.mirror = mirror, .info = info, .error = error, .error_size = error_size}, look);
}
