/* Zones of a zoned namespace (Zoned Namespace Command Set 2.1.1): their states, write pointers, and the limits on how many may
 * be open or active. Pure: what it is told to do it decides at once, and keeps as words of a table that outlives the process.
 * Sources: Zoned Namespace Command Set 1.1b. Owner: the namespace's reactor; all block counts are relative to a zone's start.
 */
#ifndef VN_NS_ZONES_H
#define VN_NS_ZONES_H

#include <stdbool.h>
#include <stdint.h>

#include "core/nvme_zns.h"

#define VN_ZONES_MAX (1u << 20)             /* of one namespace */
#define VN_ZONE_BLOCKS_MAX (1ull << 39)     /* a write pointer has 40 bits of its word */
#define VN_ZONE_EXTENSION_BYTES 64u         /* of a zone descriptor extension: ZDES 1 */
#define VN_ZONE_NONE UINT32_MAX

enum vn_zone_state { /* ZS of a zone descriptor */
    VN_ZONE_EMPTY = 0x1,
    VN_ZONE_IMPLICIT = 0x2, /* implicitly opened */
    VN_ZONE_EXPLICIT = 0x3,
    VN_ZONE_CLOSED = 0x4,
    VN_ZONE_READ_ONLY = 0xd,
    VN_ZONE_FULL = 0xe,
    VN_ZONE_OFFLINE = 0xf,
};

enum vn_zone_action { /* ZSA of Zone Management Send */
    VN_ZONE_CLOSE = 0x1,
    VN_ZONE_FINISH = 0x2,
    VN_ZONE_OPEN = 0x3,
    VN_ZONE_RESET = 0x4,
    VN_ZONE_SET_OFFLINE = 0x5,
    VN_ZONE_SET_EXTENSION = 0x10,
};

#define VN_ZONE_HAS_EXTENSION 0x80u /* ZA bit 7: ZDEV */

struct vn_zone {
    uint64_t wp;       /* blocks: where the next write goes */
    uint64_t done;     /* blocks: as far as writes have ended; kept */
    uint32_t inflight; /* writes that have not ended */
    uint32_t prev, next; /* of the implicitly opened ones, oldest first; VN_ZONE_NONE */
    uint8_t state;      /* enum vn_zone_state */
    uint8_t attributes; /* VN_ZONE_HAS_EXTENSION */
    bool held;          /* it is being reset: no other command may touch it */
};

struct vn_zone_geometry {
    uint32_t nr;
    uint32_t shift;              /* log2 of the blocks of a zone */
    uint64_t capacity;           /* blocks of a zone that can be written */
    uint32_t max_open, max_active; /* 0: no limit */
    uint32_t extension_bytes;    /* 0 or VN_ZONE_EXTENSION_BYTES */
};

struct vn_zones {
    struct vn_zone_geometry geometry;
    struct vn_zone *zones;
    uint64_t *words;     /* what is kept of each, see zones.c */
    uint8_t *extensions; /* extension_bytes each */
    uint32_t nr_open, nr_active, nr_implicit;
    uint32_t first, last; /* of the implicitly opened ones */
    uint64_t nr_changes;  /* of what is kept */
};

/* words and extensions: memory of the caller's, words all zero in a new table. -ENOMEM. */
int vn_zones_init(struct vn_zones *zones, const struct vn_zone_geometry *geometry, uint64_t *words, uint8_t *extensions);
void vn_zones_fini(struct vn_zones *zones);
/* Takes up what the words say, as after a power cycle: open zones are closed. Answers the first zone whose word is none;
 * VN_ZONE_NONE: all are sound. */
uint32_t vn_zones_recover(struct vn_zones *zones);
/* After a format: all of them are empty. */
void vn_zones_clear(struct vn_zones *zones);

static inline uint32_t vn_zones_index(const struct vn_zones *zones, uint64_t lba) {
    return (uint32_t)(lba >> zones->geometry.shift);
}

static inline uint64_t vn_zones_start(const struct vn_zones *zones, uint32_t index) {
    return (uint64_t)index << zones->geometry.shift;
}

/* Whether a command that touches [slba, slba + nlb) has to wait for a zone that is being reset. */
bool vn_zones_is_held(const struct vn_zones *zones, uint64_t slba, uint64_t nlb);
/* Reads may go across zones (OZCS bit 0). */
vn_status vn_zones_check_read(const struct vn_zones *zones, uint64_t slba, uint64_t nlb);
/* Whether a write would be taken; nothing changes. */
vn_status vn_zones_check_write(const struct vn_zones *zones, uint64_t slba, uint64_t nlb);
/* It is taken: the zone is open, and its write pointer behind it. Ended by vn_zones_end_write. */
vn_status vn_zones_begin_write(struct vn_zones *zones, uint64_t slba, uint64_t nlb);
/* At the write pointer of the zone that starts at zslba; *slba: where that was. */
vn_status vn_zones_begin_append(struct vn_zones *zones, uint64_t zslba, uint64_t nlb, uint64_t *slba);
/* The data is there: what is kept covers it. For a range that was not begun, as erasing, nothing happens. */
void vn_zones_commit(struct vn_zones *zones, uint64_t slba, uint64_t nlb);
/* broken: the medium has failed; the zone is read-only from now on. Answers whether it has become so. */
bool vn_zones_end_write(struct vn_zones *zones, uint64_t slba, uint64_t nlb, bool broken);

/* One zone (3.4.3.1). A reset is of one whose blocks have been erased, and no write is in flight. *changed: something kept. */
vn_status vn_zones_act(struct vn_zones *zones, uint32_t index, enum vn_zone_action action, bool *changed);
/* What act would answer. */
vn_status vn_zones_check_act(const struct vn_zones *zones, uint32_t index, enum vn_zone_action action);
/* Whether the action is for this one when it is for all (Select All). */
bool vn_zones_concerns(const struct vn_zones *zones, uint32_t index, enum vn_zone_action action);
/* Opening all closed ones: whether there is room for that. */
vn_status vn_zones_check_open_all(const struct vn_zones *zones);
vn_status vn_zones_set_extension(struct vn_zones *zones, uint32_t index, const uint8_t *extension);

#endif
