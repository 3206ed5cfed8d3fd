/* What the parts of the mirror share: mirror.c (open, close, channels), mirror_alone.c (commands to the only leg),
 * mirror_io.c (commands on their way to several), mirror_legs.c (who counts), mirror_bitmap.c (what may differ, durably) and
 * mirror_copy.c (rebuild, repair).
 * The rules: docs/decisions/0013-mirror.md. A mirror has one channel at a time; its reactor owns everything here while
 * there is one, and the control thread otherwise.
 */
#ifndef VN_BACKEND_MIRROR_H
#define VN_BACKEND_MIRROR_H

#include "backend/backend.h"
#include "core/event.h"
#include "include/vhostnvme.h"

#define VN_MIRROR_NR_IOS 1024u     /* commands of one channel in the mirror; more are offered again */
#define VN_MIRROR_NR_COPIES 4u     /* pieces that are copied at once */
#define VN_MIRROR_PIECE (256u << 10)
#define VN_MIRROR_NR_BOUNCE 64u
#define VN_MIRROR_BOUNCE (1u << 20)
#define VN_MIRROR_PAGE_BITS 32768u /* regions of one page of the bitmap's file */

struct vn_mirror;
struct vn_mirror_chan;
struct vn_mio;

/* --- Bitmap --- */

/* Bits, one a region, in words of 64. */
struct vn_bitmap {
    int fd;
    uint8_t uuid[16];
    uint64_t size, region_bytes, nr_regions, nr_words, nr_pages, generation;
    uint32_t region_shift;
    uint64_t *dirty;     /* legs may differ there, or soon will; what the file is to say */
    uint64_t *disk;      /* what the file says for certain */
    uint64_t *recent;    /* written since the last look */
    uint64_t *unsure;    /* legs that count may differ: to be repaired from the one that is read */
    uint64_t *copy;      /* what the leg being rebuilt lacks */
    uint64_t *candidate; /* to be cleared when all legs have flushed */
    uint64_t *page_due;  /* bits, one a page: the file is behind */
    uint8_t *page;       /* as it is being written */
    uint64_t page_at;
    bool writing;
    bool broken;         /* it cannot be written: nothing new is */
    bool all_set;        /* just now all bits were set, and the file does not say so yet */
    struct vn_uring_op op;
};

/* Of the mirror, whose legs and size are known. Where a leg is alone all bits are set. */
int vn_bitmap_open(struct vn_mirror *mirror, const struct vn_mirror_opts *opts, char *error, uint32_t error_size);
/* Another size in two steps: the file, and memory in next, on the control thread; then the bits, where they are in use.
 * After that, or in place of it, vn_bitmap_close(next). */
int vn_bitmap_prepare(const struct vn_bitmap *map, uint64_t size, struct vn_bitmap *next, char *error, uint32_t error_size);
void vn_bitmap_take_size(struct vn_bitmap *map, struct vn_bitmap *next);
int vn_bitmap_keep_size(const struct vn_bitmap *map); /* in place of the second step: the file is as before */
void vn_bitmap_close(struct vn_bitmap *map);
/* The size that the file says, bytes; 0: there is none. */
uint64_t vn_bitmap_size_of(const char *path);
/* True: the file says that the range is being written. Else it is on the way there: ask again when told. */
bool vn_bitmap_mark(struct vn_bitmap *map, uint64_t offset, uint64_t length);
/* Starts to write what the file lacks, if anything and not under way. False: no slot now, try again. */
bool vn_bitmap_write(struct vn_mirror_chan *mc);
bool vn_bitmap_is_idle(const struct vn_bitmap *map); /* nothing is to be written */
bool vn_bitmap_is_clean(const struct vn_bitmap *map); /* no bit is set */
void vn_bitmap_set(const struct vn_bitmap *map, uint64_t *bits, uint64_t offset, uint64_t length);
void vn_bitmap_set_all(const struct vn_bitmap *map, uint64_t *bits);
void vn_bitmap_dirty_all(struct vn_bitmap *map);
uint64_t vn_bitmap_count(const struct vn_bitmap *map, const uint64_t *bits);
uint64_t vn_bitmap_count_todo(const struct vn_bitmap *map); /* unsure or to be copied */
/* The first region at or after from, going round, that is unsure or to be copied; -1: none. */
int64_t vn_bitmap_next_todo(const struct vn_bitmap *map, uint64_t from);
/* Those that have not been written since the last look and are the same everywhere. False: there are none. */
bool vn_bitmap_choose(struct vn_bitmap *map, bool all);
void vn_bitmap_clear_chosen(struct vn_bitmap *map);
static inline bool vn_bitmap_has(const uint64_t *bits, uint64_t region) {
    return bits[region / 64] >> (region % 64) & 1;
}
static inline void vn_bitmap_drop(uint64_t *bits, uint64_t region) {
    bits[region / 64] &= ~(1ull << (region % 64));
}

/* --- Commands --- */

struct vn_mio_list {
    struct vn_mio *first, *last;
};

/* A command, a host's or one of our own, with what it sends to the legs. */
struct vn_mio {
    struct vn_mirror_chan *mc;
    struct vn_mio *prev, *next; /* in list */
    struct vn_mio_list *list;
    struct vn_mio *before, *after; /* of those that have their range */
    struct vn_req *parent;         /* NULL: our own */
    void (*ready)(struct vn_mirror_chan *mc, struct vn_mio *io); /* has its range, and that is marked */
    void (*done)(struct vn_mirror_chan *mc, struct vn_mio *io);  /* all that it has sent has ended */
    enum vn_op op;
    uint32_t io_flags;
    uint64_t offset, length; /* bytes */
    struct iovec *iov;
    uint32_t nr_iov;
    uint32_t sent; /* mask of the legs that have got it */
    uint32_t pending;
    bool has_range, cancelled;
    struct vn_req child[VN_MIRROR_MAX_LEGS]; /* one that is abandoned stays there: no other goes to its leg meanwhile */
    struct iovec bounce[VN_MIRROR_MAX_LEGS]; /* of each child; no base: none */
};

/* What one leg has of a channel's. */
struct vn_leg_chan {
    struct vn_chan *chan; /* NULL: nothing is open */
    struct vn_req *first, *last; /* children in the order in which they were sent, linked by prev and next */
    struct vn_req *waiting;      /* the first that it did not take yet */
    uint32_t nr_inflight;
    uint32_t nr_abandoned; /* it still has them, and nobody waits for them: until they end it cannot come back */
    uint64_t cancelled_ns; /* all that it had was cancelled then */
    bool has_cancelled; /* among those that wait to be taken */
    bool keeps;         /* it may keep what is cancelled: a disk. Its reads go to memory of ours */
};

struct vn_copy_job {
    struct vn_mio io;
    uint8_t *buf;
    struct iovec iov;
    uint64_t region, at, end; /* at: bytes, the piece that comes next; end: of the region */
    bool running; /* it has a region */
    bool busy;    /* with a piece of it */
    bool again;   /* the region has changed behind us */
};

struct vn_mirror_chan {
    struct vn_chan chan; /* first */
    struct vn_mirror *mirror;
    struct vn_leg_chan legs[VN_MIRROR_MAX_LEGS];
    struct vn_chan *alone;         /* of the leg that is alone: requests go straight there; NULL: none is */
    const int *alone_latched;      /* of its engine: see vn_backend_latch */
    struct vn_chan *passed;        /* where they have gone */
    uint64_t nr_passed;            /* and are now */
    struct vn_mio *ios, *free;     /* by next */
    uint32_t nr_used;              /* of ios; the others have not been touched yet */
    struct vn_mio *ranges;         /* have their range, by after */
    struct vn_mio_list blocked;    /* wait for a range, in order */
    struct vn_mio_list unmarked;   /* have it, and wait for the bitmap */
    struct vn_mio_list held;       /* done, and wait for vn_mirror_leg_out */
    struct vn_mio_list ending;     /* cancelled: end on the next turn */
    struct vn_poller poller;
    bool awake;                    /* it has something to look at: vn_mirror_wake */
    struct vn_timer check_timer, clean_timer, copy_timer, end_timer;
    struct vn_mio flush;       /* before bits are cleared */
    bool flushing;
    struct vn_mio last_flush;  /* of the leg that has been rebuilt */
    bool last_flushing;
    struct vn_copy_job jobs[VN_MIRROR_NR_COPIES];
    uint8_t *buffers, *bounces;
    uint8_t *free_bounce[VN_MIRROR_NR_BOUNCE];
    uint32_t nr_bounce;
    uint64_t copy_cursor;      /* region */
    uint64_t copy_due_ns;      /* no piece before */
    uint32_t nr_host;          /* commands of hosts in the mirror */
    bool kicking, kick_again;  /* of what is blocked */
    bool closing, cleaned;
};

/* --- The mirror --- */

struct vn_mirror_leg {
    struct vn_backend *backend; /* NULL: nothing is open */
    uint32_t state;             /* enum vn_leg_state; set by set_state of mirror_legs.c */
    vn_status why;
    bool uncovered;             /* lacks more than the bitmap's file knows */
    uint64_t failures;
};

struct vn_mirror {
    struct vn_backend backend; /* first */
    struct vn_mirror_leg legs[VN_MIRROR_MAX_LEGS];
    struct vn_bitmap map;
    uint32_t preferred;
    uint64_t leg_timeout_ns, clean_ns, rebuild_rate;
    uint64_t copied_bytes;
    bool direct_reads;
    bool has_filters;           /* above it */
    bool zeroes_for_deallocate; /* so that all legs read the same afterwards */
    struct vn_mirror_chan *chan; /* control thread; NULL: none, or it is ending */
    struct vn_mirror_chan *live; /* its reactor; until it has ended */
    uint32_t nr_chans;           /* atomic; until it has ended */
};

#define VN_LEG_BIT(leg) (1u << (leg))
static inline uint32_t vn_mirror_in(const struct vn_mirror *mirror, uint32_t states) { /* mask of 1 << state */
    uint32_t mask = 0;
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
        mask |= (states >> mirror->legs[leg].state & 1) << leg;
    return mask;
}
/* Those that get every write. */
static inline uint32_t vn_mirror_attached(const struct vn_mirror *mirror) {
    return vn_mirror_in(mirror, 1u << VN_LEG_IN_SYNC | 1u << VN_LEG_READY | 1u << VN_LEG_REBUILDING);
}
static inline uint32_t vn_mirror_in_sync(const struct vn_mirror *mirror) {
    return vn_mirror_in(mirror, 1u << VN_LEG_IN_SYNC);
}
/* There are several, which can be made the same. */
static inline bool vn_mirror_has_two(const struct vn_mirror *mirror) {
    uint32_t legs = vn_mirror_attached(mirror);
    return legs & (legs - 1);
}
static inline bool vn_mirror_holds(const struct vn_mirror *mirror) {
    return vn_mirror_in(mirror, 1u << VN_LEG_FAILED);
}
/* The only leg that there is, and that counts: nothing has to be remembered for another one. -1: it is not so. */
static inline int vn_mirror_alone(const struct vn_mirror *mirror) {
    uint32_t counts = vn_mirror_in_sync(mirror);
    if (vn_mirror_in(mirror, ~(1u << VN_LEG_IN_SYNC | 1u << VN_LEG_NONE)) || !counts || counts & (counts - 1))
        return -1;
    int leg = __builtin_ctz(counts);
    bool shares_scratch = mirror->has_filters && mirror->legs[leg].backend->next; /* of requests: filters have it once */
    return shares_scratch ? -1 : leg;
}
/* The one that is read. There is always one. */
static inline uint32_t vn_mirror_source(const struct vn_mirror *mirror) {
    uint32_t mask = vn_mirror_in_sync(mirror);
    assert(mask);
    return mask >> mirror->preferred & 1 ? mirror->preferred : (uint32_t)__builtin_ctz(mask);
}

/* mirror.c */
extern const struct vn_backend_ops vn_mirror_ops;
struct vn_mirror *vn_mirror_of(struct vn_backend *backend); /* at the bottom of the stack; NULL: that is something else */
/* Control thread: its channel has ended, or does not within a bounded time. */
bool vn_mirror_wait(const struct vn_mirror *mirror);
void vn_mirror_facts(struct vn_mirror *mirror); /* the legs are others now */
void vn_mirror_chan_look(struct vn_mirror_chan *mc); /* closing: ends when nothing is left */
/* A leg's backend has come or gone, on the channel's reactor. */
int vn_leg_chan_open(struct vn_mirror_chan *mc, uint32_t leg);
void vn_leg_chan_close(struct vn_mirror_chan *mc, uint32_t leg);
/* Whether it can be the leg of this mirror; a sentence in error. */
int vn_mirror_check_leg(const struct vn_mirror *mirror, const struct vn_backend *backend, char *error, uint32_t error_size);

/* mirror_alone.c */
enum vn_submit vn_mirror_submit(struct vn_chan *chan, struct vn_req *req);
void vn_mirror_cancel(struct vn_chan *chan, struct vn_req *req);
void vn_mirror_see_alone(struct vn_mirror *mirror); /* its channel, if it has one, goes by whether a leg is alone now */

/* mirror_io.c */
enum vn_submit vn_mirror_submit_to_all(struct vn_mirror_chan *mc, struct vn_req *req);
void vn_mirror_cancel_sent(struct vn_mirror_chan *mc, struct vn_req *req);
void vn_mirror_wake(struct vn_mirror_chan *mc); /* something waits for the poller */
void vn_mio_take_range(struct vn_mirror_chan *mc, struct vn_mio *io); /* calls io->ready when it has it */
void vn_mio_leave_range(struct vn_mirror_chan *mc, struct vn_mio *io);
void vn_mio_send(struct vn_mirror_chan *mc, struct vn_mio *io, uint32_t legs);
void vn_mio_cancel(struct vn_mirror_chan *mc, struct vn_mio *io); /* what it has sent ends soon */
void vn_mirror_cancel_leg(struct vn_mirror_chan *mc, uint32_t leg); /* all that it has ends soon */
void vn_mirror_forget_leg(struct vn_mirror_chan *mc, uint32_t leg); /* it has nothing, and another one may take its place */
void vn_mirror_release(struct vn_mirror_chan *mc); /* what is held, if no leg has failed any more */
void vn_mirror_marked(struct vn_mirror_chan *mc);  /* the bitmap's file has been written, or cannot be */
void vn_mirror_unsure(struct vn_mirror_chan *mc, uint64_t offset, uint64_t length); /* legs may differ there now */
bool vn_mirror_poll(struct vn_poller *poller);
bool vn_mirror_before_sleep(struct vn_poller *poller);
bool vn_mirror_can_rest(struct vn_poller *poller);
void vn_mirror_on_check(struct vn_timer *timer); /* looks for what a leg has for too long */

/* mirror_resize.c; on the control thread */
int vn_mirror_resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size);
uint64_t vn_mirror_full_size(struct vn_backend *backend);
int vn_mirror_resize_leg(struct vn_mirror *mirror, uint32_t leg, uint64_t size, char *error, uint32_t error_size);

/* mirror_legs.c; on the channel's reactor, or without one on the control thread */
/* The leg has not done what it was to do. True: it is not used any more. False: it is the last. */
bool vn_leg_fail(struct vn_mirror *mirror, struct vn_mirror_chan *mc, uint32_t leg, vn_status why);
void vn_leg_lose(struct vn_mirror *mirror, struct vn_mirror_chan *mc, uint32_t leg, vn_status why, const char *what);
void vn_mirror_told(struct vn_backend *backend);
void vn_leg_is_ready(struct vn_mirror_chan *mc, uint32_t leg);
/* Has fn run where the state of the mirror lives now. Control thread. */
int vn_mirror_call(struct vn_mirror *mirror, int (*fn)(void *arg), void *arg, char *error, uint32_t error_size);
/* For api_mirror.c, on the control thread. */
int vn_mirror_out(struct vn_mirror *mirror, uint32_t leg, char *error, uint32_t error_size);
int vn_mirror_break(struct vn_mirror *mirror, uint32_t leg, char *error, uint32_t error_size);
/* backend: NULL, or taken over on success. */
int vn_mirror_in_again(struct vn_mirror *mirror, uint32_t leg, struct vn_backend *backend, bool full, char *error,
                       uint32_t error_size);
int vn_mirror_count(struct vn_mirror *mirror, uint32_t leg, char *error, uint32_t error_size);
int vn_mirror_close_leg(struct vn_mirror *mirror, uint32_t leg, bool drop, char *error, uint32_t error_size);
int vn_mirror_set_preferred(struct vn_mirror *mirror, uint32_t leg, char *error, uint32_t error_size);
int vn_mirror_look(struct vn_mirror *mirror, struct vn_mirror_info *info, char *error, uint32_t error_size);

/* mirror_copy.c */
void vn_copy_kick(struct vn_mirror_chan *mc); /* there may be something to copy */
void vn_copy_again(struct vn_mirror_chan *mc, uint64_t first, uint64_t last); /* jobs on these regions begin anew */
bool vn_copy_is_busy(const struct vn_mirror_chan *mc); /* pieces are under way */
bool vn_copy_stop(struct vn_mirror_chan *mc); /* closing; true: nothing is under way any more */
void vn_copy_on_timer(struct vn_timer *timer);
void vn_clean_kick(struct vn_mirror_chan *mc); /* there are bits to be cleared some time */
void vn_clean_on_timer(struct vn_timer *timer);
void vn_clean_last(struct vn_mirror_chan *mc); /* closing */
int vn_copy_open(struct vn_mirror_chan *mc);
void vn_copy_close(struct vn_mirror_chan *mc);

#endif
