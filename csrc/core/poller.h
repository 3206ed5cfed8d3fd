/* What a reactor asks for work: on every turn, or, when it rests, only now and then.
 * Part of core/reactor.h, for the reactor's own thread.
 */
#ifndef VN_CORE_POLLER_H
#define VN_CORE_POLLER_H

#include <stdbool.h>
#include <stdint.h>

enum vn_poller_state { VN_POLLER_OFF, VN_POLLER_ACTIVE, VN_POLLER_RESTS };

struct vn_poller {
    bool (*poll)(struct vn_poller *poller);         /* true: it did something; may remove, but not free it */
    bool (*before_sleep)(struct vn_poller *poller); /* arm whatever wakes us, look again; true: stay awake */
    void (*after_sleep)(struct vn_poller *poller);  /* unless it rests */
    /* NULL: never. True: as it is now, and once before_sleep has answered false, it needs no turn. It then rests: it
     * costs no turn and no sleep anything. It is asked again after vn_poller_wake, when max_sleep_ns says so (and then
     * before_sleep too, every 16 ms), and in turns that had mail or a timer; when that gave it work, or can_rest is
     * no longer true, it rests no more. */
    bool (*can_rest)(struct vn_poller *poller);
    uint64_t max_sleep_ns; /* 0: any; else look again after that; sooner while its last work is not long ago */
    /* Set by poll(). Before `from` it needs no look, and whatever wakes it need not be armed; between both the reactor
     * stays awake for it; after `until` before_sleep is called. */
    uint64_t spin_from_ns, spin_until_ns;
    struct vn_poller *prev, *next;
    uint64_t work_ns;    /* when it last had work */
    uint64_t rest_at_ns; /* try to let it rest, while others keep us awake */
    uint64_t look_ns;    /* resting: asked at that time */
    uint64_t rearm_ns;   /* resting, with looks: before_sleep is called then */
    enum vn_poller_state state;
    bool dozes; /* we sleep, until spin_from_ns at most, and nothing was armed; cleared by poll() */
};

struct vn_pollers {
    struct vn_poller *active, *resting;
    uint64_t look_ns; /* not later than the earliest look_ns of those that rest */
    uint64_t rest_ns; /* idle for so long: may rest */
    bool ask_all;     /* also those that rest, on the next turn */
    uint64_t contended_until_ns; /* others want this core: no spinning */
};

void vn_pollers_init(struct vn_pollers *pollers, uint64_t rest_ns);
void vn_pollers_add(struct vn_pollers *pollers, struct vn_poller *poller, uint64_t now_ns);
void vn_pollers_remove(struct vn_pollers *pollers, struct vn_poller *poller);
/* It is asked on the next turn, whether it rests or not. */
void vn_pollers_wake(struct vn_pollers *pollers, struct vn_poller *poller);
/* One turn. True: there was work. */
bool vn_pollers_run(struct vn_pollers *pollers, uint64_t now_ns);
/* Without work: true when one is about to have some, so that it is not worth while to sleep. */
bool vn_pollers_spin(const struct vn_pollers *pollers, uint64_t now_ns);
/* True: stay awake. Else *sleep_ns is cut to the time until one wants to be asked. */
bool vn_pollers_before_sleep(struct vn_pollers *pollers, uint64_t now_ns, uint64_t *sleep_ns);
void vn_pollers_after_sleep(struct vn_pollers *pollers);
/* When to look again at what had its last work at work_ns. The later looks lie on a common grid of times. */
uint64_t vn_pollers_next_look(uint64_t now_ns, uint64_t work_ns, uint64_t max_sleep_ns);

#endif
