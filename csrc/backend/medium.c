/* A medium and the channels that count for it. Opened and asked by the control thread; a channel tells what it has counted
 * once a step while it has commands in flight, so that nobody has to wait for its reactor.
 */
#include "backend/medium.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "core/util.h"

#define STEP_NS (VN_MEDIUM_STEP_MS * 1000000ull)
#define SLOW_NS (VN_MEDIUM_SLOW_MS * 1000000ull)

struct vn_medium {
    pthread_mutex_t lock; /* of what follows; never held while anybody waits */
    uint32_t nr_users;
    struct vn_medium_chan *chans;
    struct vn_medium_info past; /* of channels that have closed */
};

/* --- The medium --- */

struct vn_medium *vn_medium_new(void) {
    struct vn_medium *medium = calloc(1, sizeof(*medium));
    if (!medium)
        return NULL;
    pthread_mutex_init(&medium->lock, NULL);
    medium->nr_users = 1;
    return medium;
}

struct vn_medium *vn_medium_get(struct vn_medium *medium) {
    if (medium) {
        pthread_mutex_lock(&medium->lock);
        medium->nr_users++;
        pthread_mutex_unlock(&medium->lock);
    }
    return medium;
}

void vn_medium_put(struct vn_medium *medium) {
    if (!medium)
        return;
    pthread_mutex_lock(&medium->lock);
    bool last = !--medium->nr_users;
    pthread_mutex_unlock(&medium->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&medium->lock);
    free(medium);
}

static void add(struct vn_medium_info *sum, const struct vn_medium_info *told) {
    sum->commands += vn_counted(&told->commands);
    sum->errors += vn_counted(&told->errors);
    sum->slow += vn_counted(&told->slow);
    sum->slow_ns += vn_counted(&told->slow_ns);
}

void vn_medium_get_info(vn_medium *medium, struct vn_medium_info *out) {
    uint64_t now_ns = vn_monotonic_ns(), oldest_ns = now_ns;
    pthread_mutex_lock(&medium->lock);
    *out = medium->past;
    for (const struct vn_medium_chan *mc = medium->chans; mc; mc = mc->next) {
        add(out, &mc->told);
        out->inflight += vn_counted(&mc->told.inflight);
        uint64_t since_ns = vn_counted(&mc->told.oldest_ns);
        if (since_ns)
            oldest_ns = vn_min_u64(oldest_ns, since_ns);
    }
    pthread_mutex_unlock(&medium->lock);
    out->oldest_ns = now_ns - oldest_ns;
}

/* --- A channel --- */

static void set(uint64_t *told, uint64_t value) {
    __atomic_store_n(told, value, __ATOMIC_RELAXED);
}

static void tell(struct vn_medium_chan *mc) {
    uint64_t inflight = 0, oldest_ns = 0;
    for (const struct vn_medium_slot *slot = mc->slots; slot < mc->slots + VN_MEDIUM_SLOTS; slot++) {
        inflight += slot->nr;
        if (slot->nr && slot != mc->slot && (!oldest_ns || slot->left_ns < oldest_ns))
            oldest_ns = slot->left_ns;
    }
    set(&mc->told.commands, mc->nr_ended);
    set(&mc->told.errors, mc->nr_errors);
    set(&mc->told.slow, mc->nr_slow);
    set(&mc->told.slow_ns, mc->slow_ns);
    set(&mc->told.inflight, inflight);
    set(&mc->told.oldest_ns, oldest_ns);
}

static struct vn_medium_slot *free_slot(struct vn_medium_chan *mc) {
    for (struct vn_medium_slot *slot = mc->slots; slot < mc->slots + VN_MEDIUM_SLOTS; slot++) {
        if (!slot->nr)
            return slot;
    }
    return NULL;
}

/* A step is over. Without a free slot it goes on: what is in the others is old enough to be noticed. */
static void on_step(struct vn_timer *timer) {
    struct vn_medium_chan *mc = vn_container_of(timer, struct vn_medium_chan, timer);
    struct vn_medium_slot *next = free_slot(mc);
    if (mc->slot->nr && next) {
        mc->slot->left_ns = vn_reactor_now_ns(mc->reactor);
        mc->slot = next;
    }
    tell(mc);
    mc->idle = !mc->told.inflight;
    if (!mc->idle)
        vn_timer_arm(mc->reactor, &mc->timer, STEP_NS);
}

void vn_medium_chan_wake(struct vn_medium_chan *mc) {
    mc->idle = false;
    vn_timer_arm(mc->reactor, &mc->timer, STEP_NS);
}

/* Whether it is the medium's: a file system that writes no more has seen errors of it. */
void vn_medium_failed(struct vn_medium_chan *mc, vn_status status) {
    switch (VN_STATUS_CODE(status)) {
    case VN_SC_WRITE_FAULT:
    case VN_SC_UNRECOVERED_READ:
    case VN_SC_NS_WRITE_PROTECTED:
        mc->nr_errors++;
        break;
    default:
        break;
    }
}

/* It has taken that long at least, and a step more at most. */
void vn_medium_late(struct vn_medium_chan *mc, const struct vn_medium_slot *slot) {
    uint64_t took_ns = vn_reactor_now_ns(mc->reactor) - slot->left_ns;
    if (took_ns < SLOW_NS)
        return;
    mc->nr_slow++;
    mc->slow_ns += took_ns;
}

void vn_medium_chan_open(struct vn_medium_chan *mc, struct vn_medium *medium, struct vn_reactor *reactor) {
    *mc = (struct vn_medium_chan){
        .medium = medium, .reactor = reactor, .timer.fn = on_step, .slot = &mc->slots[0], .idle = medium != NULL};
    if (!medium)
        return; /* one step for ever */
    pthread_mutex_lock(&medium->lock);
    mc->next = medium->chans;
    if (mc->next)
        mc->next->prev = mc;
    medium->chans = mc;
    pthread_mutex_unlock(&medium->lock);
}

void vn_medium_chan_close(struct vn_medium_chan *mc) {
    struct vn_medium *medium = mc->medium;
    if (!medium)
        return;
    vn_timer_disarm(mc->reactor, &mc->timer);
    tell(mc);
    assert(!mc->told.inflight);
    pthread_mutex_lock(&medium->lock);
    if (mc->next)
        mc->next->prev = mc->prev;
    if (mc->prev)
        mc->prev->next = mc->next;
    else
        medium->chans = mc->next;
    add(&medium->past, &mc->told);
    pthread_mutex_unlock(&medium->lock);
}
