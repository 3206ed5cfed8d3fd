/* Pollers: who is asked for work on this turn of a reactor, and how long all of them can do without one.
 * Called by core/reactor.c. A hundred idle devices must not slow down the busy one.
 */
#include "core/poller.h"

#include <stddef.h>

#include "core/util.h"

/* Looks lie on a grid of STEP << n from the start of the clock, so that idle pollers wake us together, not each at
 * a time of its own. 64 steps are a millisecond. A look comes at most 1/32 of the idle time late. */
#define STEP_NS 15625ull
#define IDLE_SHARE 32
#define REARM_NS 16000000ull /* a resting poller that has looks is armed anew so often */

uint64_t vn_pollers_next_look(uint64_t now_ns, uint64_t work_ns, uint64_t max_sleep_ns) {
    uint64_t wanted = vn_min_u64((now_ns - work_ns) / IDLE_SHARE, max_sleep_ns);
    if (wanted < 2 * STEP_NS)
        return now_ns + vn_min_u64(STEP_NS, max_sleep_ns);
    uint64_t interval = STEP_NS << (63 - __builtin_clzll(wanted / STEP_NS));
    return (now_ns / interval + 1) * interval;
}

void vn_pollers_init(struct vn_pollers *pollers, uint64_t rest_ns) {
    *pollers = (struct vn_pollers){.rest_ns = rest_ns, .look_ns = UINT64_MAX};
}

static void link_to(struct vn_poller **list, struct vn_poller *poller) {
    poller->prev = NULL;
    poller->next = *list;
    if (poller->next)
        poller->next->prev = poller;
    *list = poller;
}

static void unlink_from(struct vn_poller **list, struct vn_poller *poller) {
    if (poller->next)
        poller->next->prev = poller->prev;
    if (poller->prev)
        poller->prev->next = poller->next;
    else
        *list = poller->next;
    poller->prev = poller->next = NULL;
}

/* Not from within poll(): whoever walks a list holds on to its next entry. */
static void put(struct vn_pollers *pollers, struct vn_poller *poller, enum vn_poller_state state) {
    if (poller->state != VN_POLLER_OFF)
        unlink_from(poller->state == VN_POLLER_RESTS ? &pollers->resting : &pollers->active, poller);
    poller->state = state;
    if (state != VN_POLLER_OFF)
        link_to(state == VN_POLLER_RESTS ? &pollers->resting : &pollers->active, poller);
}

void vn_pollers_add(struct vn_pollers *pollers, struct vn_poller *poller, uint64_t now_ns) {
    poller->state = VN_POLLER_OFF;
    poller->work_ns = now_ns;
    poller->rest_at_ns = now_ns + pollers->rest_ns;
    put(pollers, poller, VN_POLLER_ACTIVE);
}

void vn_pollers_remove(struct vn_pollers *pollers, struct vn_poller *poller) {
    put(pollers, poller, VN_POLLER_OFF);
}

void vn_pollers_wake(struct vn_pollers *pollers, struct vn_poller *poller) {
    if (poller->state == VN_POLLER_RESTS)
        poller->look_ns = pollers->look_ns = 0;
}

static void plan_look(struct vn_pollers *pollers, struct vn_poller *poller, uint64_t now_ns) {
    poller->look_ns =
        poller->max_sleep_ns ? vn_pollers_next_look(now_ns, poller->work_ns, poller->max_sleep_ns) : UINT64_MAX;
    pollers->look_ns = vn_min_u64(pollers->look_ns, poller->look_ns);
}

static void rest(struct vn_pollers *pollers, struct vn_poller *poller, uint64_t now_ns) {
    put(pollers, poller, VN_POLLER_RESTS);
    poller->rearm_ns = now_ns + REARM_NS;
    plan_look(pollers, poller, now_ns);
}

/* Asks one poller. True: it had work. */
static bool ask(struct vn_pollers *pollers, struct vn_poller *poller, uint64_t now_ns) {
    if (!poller->poll(poller))
        return false;
    poller->work_ns = now_ns;
    poller->rest_at_ns = now_ns + pollers->rest_ns;
    return true;
}

/* What wakes nobody and is no work for poll, such as a wrong value in a mapped doorbell, would stay unseen else. */
static bool rearm(struct vn_poller *poller, uint64_t now_ns) {
    if (!poller->max_sleep_ns || now_ns < poller->rearm_ns || !poller->before_sleep)
        return false;
    poller->rearm_ns = now_ns + REARM_NS;
    return poller->before_sleep(poller);
}

static bool run_resting(struct vn_pollers *pollers, uint64_t now_ns) {
    bool work = false, all = pollers->ask_all;
    pollers->ask_all = false;
    pollers->look_ns = UINT64_MAX;
    for (struct vn_poller *poller = pollers->resting, *next; poller; poller = next) {
        next = poller->next;
        if (!all && now_ns < poller->look_ns) {
            pollers->look_ns = vn_min_u64(pollers->look_ns, poller->look_ns);
            continue;
        }
        bool had_work = ask(pollers, poller, now_ns);
        work |= had_work;
        if (poller->state != VN_POLLER_RESTS) /* it has removed itself */
            continue;
        if (had_work || !poller->can_rest(poller) || rearm(poller, now_ns))
            put(pollers, poller, VN_POLLER_ACTIVE);
        else
            plan_look(pollers, poller, now_ns);
    }
    return work;
}

/* Idle for long enough while others keep the reactor busy: if it cannot rest now, then it is tried again later. */
static void try_rest(struct vn_pollers *pollers, struct vn_poller *poller, uint64_t now_ns) {
    if (now_ns < poller->rest_at_ns || now_ns < poller->spin_until_ns || !poller->can_rest ||
        poller->state != VN_POLLER_ACTIVE)
        return;
    poller->rest_at_ns = now_ns + pollers->rest_ns;
    if (poller->can_rest(poller) && !(poller->before_sleep && poller->before_sleep(poller)))
        rest(pollers, poller, now_ns);
}

/* Those that came back from rest just now were asked, and are not asked twice. */
bool vn_pollers_run(struct vn_pollers *pollers, uint64_t now_ns) {
    struct vn_poller *first = pollers->active;
    bool work = pollers->ask_all || now_ns >= pollers->look_ns ? run_resting(pollers, now_ns) : false;
    for (struct vn_poller *poller = first, *next; poller; poller = next) {
        next = poller->next;
        if (ask(pollers, poller, now_ns))
            work = true;
        else
            try_rest(pollers, poller, now_ns);
    }
    return work;
}

bool vn_pollers_spin(const struct vn_pollers *pollers, uint64_t now_ns) {
    if (now_ns < pollers->contended_until_ns)
        return false;
    for (const struct vn_poller *poller = pollers->active; poller; poller = poller->next) {
        if (poller->spin_from_ns <= now_ns && now_ns < poller->spin_until_ns)
            return true;
    }
    return false;
}

bool vn_pollers_before_sleep(struct vn_pollers *pollers, uint64_t now_ns, uint64_t *sleep_ns) {
    bool stay_awake = false;
    uint64_t look_ns = UINT64_MAX;
    for (struct vn_poller *poller = pollers->active, *next; poller; poller = next) {
        next = poller->next;
        poller->dozes = now_ns < poller->spin_from_ns;
        if (poller->dozes)
            look_ns = vn_min_u64(look_ns, poller->spin_from_ns);
        else if (poller->before_sleep && poller->before_sleep(poller))
            stay_awake = true;
        else if (poller->can_rest && poller->can_rest(poller))
            rest(pollers, poller, now_ns);
        else if (poller->max_sleep_ns)
            look_ns = vn_min_u64(look_ns, vn_pollers_next_look(now_ns, poller->work_ns, poller->max_sleep_ns));
    }
    look_ns = vn_min_u64(look_ns, pollers->look_ns);
    if (look_ns != UINT64_MAX)
        *sleep_ns = vn_min_u64(*sleep_ns, look_ns > now_ns ? look_ns - now_ns : 0);
    return stay_awake || pollers->ask_all;
}

void vn_pollers_after_sleep(struct vn_pollers *pollers) {
    for (struct vn_poller *poller = pollers->active; poller; poller = poller->next) {
        if (poller->after_sleep)
            poller->after_sleep(poller);
    }
}
