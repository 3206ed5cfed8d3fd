/* Mirrors in the public header: one namespace kept on up to three legs. Part of vhostnvme.h, whose contract holds here.
 * The rules are written down in docs/decisions/0013-mirror.md.
 *
 * Python decides which leg counts, and records that durably; C holds commands until it has.
 */
#ifndef VHOSTNVME_MIRROR_H
#define VHOSTNVME_MIRROR_H

#include <stdint.h>

#define VN_MIRROR_MAX_LEGS 3

enum vn_leg_state {
    VN_LEG_NONE = 0,       /* there is no such leg: never was, or it was dropped */
    VN_LEG_OUT = 1,        /* does not count: stale or missing. The bitmap knows what it lacks */
    VN_LEG_REBUILDING = 2, /* gets all writes, and what it lacks is copied */
    VN_LEG_READY = 3,      /* has all; nothing is acknowledged without it; waits for vn_mirror_leg_counts */
    VN_LEG_IN_SYNC = 4,    /* counts */
    VN_LEG_FAILED = 5,     /* counted, and has failed: nothing is acknowledged until vn_mirror_leg_out */
};

struct vn_ns_opts;
#define VN_MIRROR_SAME 1u /* a new bitmap begins empty: the legs hold the same now, such as zeros. Else, and for one leg, full */
#define VN_MIRROR_DIRECT_READS 2u /* reads of disks are not copied; but one that a disk keeps holds its command */

/* Of the backend "mirror". A leg is a backend with filters of its own; its block size must be the mirror's. */
struct vn_mirror_opts {
    const struct vn_ns_opts *legs[3]; /* VN_MIRROR_MAX_LEGS; NULL: missing, which one in sync cannot be opened without */
    uint32_t states[3];               /* VN_LEG_IN_SYNC; else it is not opened, VN_LEG_OUT, VN_LEG_NONE */
    uint32_t preferred;               /* the leg that is read, if it counts */
    const char *bitmap_path;          /* write-intent bitmap: made when it is missing; on no disk of a leg */
    uint8_t uuid[16];                 /* of the mirror: a bitmap of another one is refused */
    uint64_t region_bytes;            /* for a new bitmap: a power of two from 64 KiB to 1 GiB; 0: 1 MiB or more */
    uint64_t rebuild_rate;            /* bytes a second at most; 0: no limit but what guests leave */
    uint32_t leg_timeout_ms;          /* a command that a leg has for so long: it has failed; 0: 2000 */
    uint32_t clean_ms;                /* bits are cleared one to two times so long after the last write; 0: 5000 */
    uint32_t flags;                   /* VN_MIRROR_* */
    uint32_t pad;
};

/* A leg that cannot be opened at first is VN_LEG_FAILED as if it had failed later, unless no other is left; one that
 * another server has open is an error, -EBUSY.
 * One controller, or one subsystem of a target, can have a mirror attached: another attach is refused with -EBUSY, and
 * the controller keeps its reactor. It is copied and cleaned up only while it is attached.
 * vn_ns_resize makes the legs larger that get writes, each by its own way, then the mirror: -EAGAIN: the target of one has not
 * grown yet. What a leg is given must read as zeros. Smaller: only with one leg; else -EINVAL.
 * The last leg in sync never fails: what it answers is passed on. While there is no other leg at all it costs next to nothing. */

/* The leg has been recorded as stale: what is held goes on without it. It stays open, and is left alone.
 * 0 also when it is out already; -EINVAL: it has not failed, or is not there; -EBUSY: no other leg would be left. */
int vn_mirror_leg_out(vn_ns *ns, uint32_t leg);
/* A leg that counts and has not failed is made to: as if by an error. For moving, and for maintenance. */
int vn_mirror_leg_fail(vn_ns *ns, uint32_t leg);
#define VN_MIRROR_FULL 1u /* it is new, or lacks more than the bitmap knows: everything is copied */
/* Brings a leg that is out, or none, up to date. made: from vn_ns_make (not in a runtime), which this takes over if it
 * answers 0; NULL: what the leg still has open. VN_EVENT_LEG_IN_SYNC tells the end, VN_EVENT_LEG_LOST a failure.
 * -EBUSY: another one is being rebuilt, or it still has commands in flight: try again. */
int vn_mirror_leg_in(vn_ns *ns, uint32_t leg, vn_ns *made, uint32_t flags);
/* The leg is ready, and has been recorded as in sync: it is read, and counts. -ESTALE: it has failed since. */
int vn_mirror_leg_counts(vn_ns *ns, uint32_t leg);
/* Closes what a leg that is out has open, so that it can be opened anew. -EBUSY: commands are in flight, try again. */
int vn_mirror_leg_close(vn_ns *ns, uint32_t leg);
/* As vn_mirror_leg_close, and from then on there is no such leg: the bitmap keeps nothing for it. Record that first. */
int vn_mirror_leg_drop(vn_ns *ns, uint32_t leg);
/* Which leg is read, if it counts. */
int vn_mirror_prefer(vn_ns *ns, uint32_t leg);

struct vn_leg_info {
    uint32_t state;  /* enum vn_leg_state */
    uint32_t why;    /* NVMe status by which it failed last, type << 8 | code; 0: it did not, or was too slow */
    uint32_t open;   /* 1: something is open behind it */
    uint32_t covered; /* 1: what it lacks is durably in the bitmap, so that it needs no VN_MIRROR_FULL */
    uint64_t failures;
};
struct vn_mirror_info {
    struct vn_leg_info legs[3];
    uint32_t preferred;
    uint32_t attached;
    uint64_t size;         /* bytes */
    uint64_t generation;   /* of the bitmap: how many times it was opened */
    uint64_t region_bytes;
    uint64_t nr_regions;
    uint64_t nr_dirty;     /* regions that may differ between legs; of one leg: 0, as is nr_left */
    uint64_t nr_left;      /* regions to be copied before the rebuild ends, or legs are the same again */
    uint64_t copied_bytes; /* since it was opened */
    uint64_t held;         /* commands that wait for vn_mirror_leg_out */
};
int vn_mirror_get_info(vn_ns *ns, struct vn_mirror_info *out);

#endif
