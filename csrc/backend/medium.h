/* What becomes of the commands that a medium gets: how many have ended, failed or taken too long, and how long the oldest
 * has been under way. A channel of the file backend counts for itself, in a few instructions and without a clock: it has
 * slots, one for each step of time in which commands have come. A command ends in the step in which it came, or is late.
 */
#ifndef VN_BACKEND_MEDIUM_H
#define VN_BACKEND_MEDIUM_H

#include "core/nvme.h"
#include "core/reactor.h"
#include "include/vhostnvme.h"

#define VN_MEDIUM_SLOTS 8u /* steps that commands in flight may be from, before a step has to be a longer one */

struct vn_medium_slot {
    uint64_t left_ns; /* when the step was over */
    uint32_t nr;      /* commands in flight that came in it */
};

/* Embedded in a channel. Owner: reactor, but for what is told. */
struct vn_medium_chan {
    struct vn_medium_slot *slot; /* of now */
    bool idle;                   /* nothing has come for a step */
    uint64_t nr_ended, nr_errors, nr_slow, slow_ns;
    struct vn_medium_slot slots[VN_MEDIUM_SLOTS];
    struct vn_timer timer; /* while it is not idle */
    struct vn_reactor *reactor;
    struct vn_medium *medium;           /* NULL: nobody wants to know */
    struct vn_medium_chan *prev, *next; /* of the medium; under its lock */
    struct vn_medium_info told;         /* a step old at most; atomic. oldest_ns: since when, 0: none is late */
};

/* medium: NULL, or lives longer than this. */
void vn_medium_chan_open(struct vn_medium_chan *mc, struct vn_medium *medium, struct vn_reactor *reactor);
void vn_medium_chan_close(struct vn_medium_chan *mc); /* nothing is in flight */
void vn_medium_chan_wake(struct vn_medium_chan *mc) __attribute__((cold));
void vn_medium_failed(struct vn_medium_chan *mc, vn_status status) __attribute__((cold));
void vn_medium_late(struct vn_medium_chan *mc, const struct vn_medium_slot *slot) __attribute__((cold));

/* A command comes. What is answered goes with it, to its end. */
static inline struct vn_medium_slot *vn_medium_begin(struct vn_medium_chan *mc) {
    struct vn_medium_slot *slot = mc->slot;
    slot->nr++;
    return slot;
}

/* Once a turn: a first command has come. */
static inline void vn_medium_watch(struct vn_medium_chan *mc) {
    if (__builtin_expect(mc->idle && mc->slot->nr, 0))
        vn_medium_chan_wake(mc);
}

/* It has not come after all. Answers false. */
static inline bool vn_medium_undo(struct vn_medium_slot *slot) {
    slot->nr--;
    return false;
}

static inline void vn_medium_end(struct vn_medium_chan *mc, struct vn_medium_slot *slot, vn_status status) {
    slot->nr--;
    mc->nr_ended++;
    if (__builtin_expect(status, 0))
        vn_medium_failed(mc, status);
    if (__builtin_expect(slot != mc->slot, 0))
        vn_medium_late(mc, slot);
}

struct vn_medium *vn_medium_new(void); /* NULL: out of memory */
/* Any thread: one more, or one less, that needs it. NULL: nothing. */
struct vn_medium *vn_medium_get(struct vn_medium *medium);
void vn_medium_put(struct vn_medium *medium);

#endif
