/* The state machine of zones, see zones.h.
 * What is kept of a zone is one word, which a store changes as a whole: bits 39:0 blocks written, 43:40 state, 47:44 bit 0: has
 * an extension, 63:48 a check of the rest. Zero: a zone that was never touched. How it is durable: docs/decisions/0015-zones.md.
 */
#include "ns/zones.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/util.h"

#define WORD_WP_MASK ((1ull << 40) - 1)
#define WORD_STATE_SHIFT 40
#define WORD_EXTENSION (1ull << 44)
#define WORD_CHECK_SHIFT 48

/* --- What is kept --- */
static uint64_t check_of(uint32_t index, uint64_t word) {
    uint64_t data[2] = {index, word & ((1ull << WORD_CHECK_SHIFT) - 1)};
    return (uint64_t)(vn_crc32c_end(vn_crc32c(VN_CRC32C_INIT, data, sizeof(data))) & 0xffff) << WORD_CHECK_SHIFT;
}

/* One that is full because the last block of it was written is so when that has ended. */
static uint64_t word_of(const struct vn_zones *zones, uint32_t index) {
    const struct vn_zone *zone = &zones->zones[index];
    bool fills = zone->state == VN_ZONE_FULL && zone->wp == zones->geometry.capacity && zone->done < zone->wp;
    uint64_t word = zone->done | (uint64_t)(fills ? VN_ZONE_IMPLICIT : zone->state) << WORD_STATE_SHIFT;
    word |= zone->attributes & VN_ZONE_HAS_EXTENSION ? WORD_EXTENSION : 0;
    return word | check_of(index, word);
}

static void keep(struct vn_zones *zones, uint32_t index) {
    __atomic_store_n(&zones->words[index], word_of(zones, index), __ATOMIC_RELEASE);
    zones->nr_changes++;
}

static bool is_sound(const struct vn_zones *zones, uint32_t index, uint64_t word) {
    uint64_t state = word >> WORD_STATE_SHIFT & 0xf;
    bool is_state = (state >= VN_ZONE_EMPTY && state <= VN_ZONE_CLOSED) || state >= VN_ZONE_READ_ONLY;
    return is_state && (word & WORD_WP_MASK) <= zones->geometry.capacity &&
           check_of(index, word) == (word >> WORD_CHECK_SHIFT << WORD_CHECK_SHIFT);
}

/* --- Making --- */
static struct vn_zone empty_zone(void) {
    return (struct vn_zone){.state = VN_ZONE_EMPTY, .prev = VN_ZONE_NONE, .next = VN_ZONE_NONE};
}

int vn_zones_init(struct vn_zones *zones, const struct vn_zone_geometry *geometry, uint64_t *words, uint8_t *extensions) {
    assert(geometry->nr <= VN_ZONES_MAX && geometry->capacity <= 1ull << geometry->shift);
    *zones = (struct vn_zones){
        .geometry = *geometry, .words = words, .extensions = extensions, .first = VN_ZONE_NONE, .last = VN_ZONE_NONE};
    zones->zones = calloc(geometry->nr, sizeof(*zones->zones));
    if (!zones->zones)
        return -ENOMEM;
    for (uint32_t i = 0; i < geometry->nr; i++)
        zones->zones[i] = empty_zone();
    return 0;
}

void vn_zones_fini(struct vn_zones *zones) {
    free(zones->zones);
}

static bool is_open(uint8_t state) {
    return state == VN_ZONE_IMPLICIT || state == VN_ZONE_EXPLICIT;
}

static bool is_active(uint8_t state) {
    return is_open(state) || state == VN_ZONE_CLOSED;
}

/* 2.1.1.2.1: at a power cycle an open zone closes, or is empty when nothing is in it. More may be active then than the limit
 * says when a crash came between two words: that is put right by whoever finishes or resets one. */
uint32_t vn_zones_recover(struct vn_zones *zones) {
    for (uint32_t i = 0; i < zones->geometry.nr; i++) {
        uint64_t word = zones->words[i];
        struct vn_zone *zone = &zones->zones[i];
        *zone = empty_zone();
        if (!word)
            continue;
        if (!is_sound(zones, i, word))
            return i;
        zone->wp = zone->done = word & WORD_WP_MASK;
        zone->state = word >> WORD_STATE_SHIFT & 0xf;
        zone->attributes = word & WORD_EXTENSION ? VN_ZONE_HAS_EXTENSION : 0;
        bool holds = zone->wp || zone->attributes;
        if (is_open(zone->state) || (zone->state == VN_ZONE_EMPTY && holds))
            zone->state = holds ? VN_ZONE_CLOSED : VN_ZONE_EMPTY;
        if (zone->state == VN_ZONE_CLOSED && zone->wp == zones->geometry.capacity)
            zone->state = VN_ZONE_FULL;
        zones->nr_active += is_active(zone->state);
        keep(zones, i);
    }
    return VN_ZONE_NONE;
}

void vn_zones_clear(struct vn_zones *zones) {
    for (uint32_t i = 0; i < zones->geometry.nr; i++) {
        zones->zones[i] = empty_zone();
        __atomic_store_n(&zones->words[i], 0, __ATOMIC_RELEASE);
    }
    if (zones->extensions)
        memset(zones->extensions, 0, (size_t)zones->geometry.nr * zones->geometry.extension_bytes);
    zones->nr_open = zones->nr_active = zones->nr_implicit = 0;
    zones->first = zones->last = VN_ZONE_NONE;
    zones->nr_changes++;
}

/* --- States and the counts of them --- */
static void list_add(struct vn_zones *zones, uint32_t index) {
    struct vn_zone *zone = &zones->zones[index];
    zone->prev = zones->last;
    zone->next = VN_ZONE_NONE;
    if (zones->last != VN_ZONE_NONE)
        zones->zones[zones->last].next = index;
    else
        zones->first = index;
    zones->last = index;
    zones->nr_implicit++;
}

static void list_remove(struct vn_zones *zones, uint32_t index) {
    struct vn_zone *zone = &zones->zones[index];
    if (zone->prev != VN_ZONE_NONE)
        zones->zones[zone->prev].next = zone->next;
    else
        zones->first = zone->next;
    if (zone->next != VN_ZONE_NONE)
        zones->zones[zone->next].prev = zone->prev;
    else
        zones->last = zone->prev;
    zone->prev = zone->next = VN_ZONE_NONE;
    zones->nr_implicit--;
}

/* The one setter of a zone's state. */
static void set_state(struct vn_zones *zones, uint32_t index, enum vn_zone_state state) {
    struct vn_zone *zone = &zones->zones[index];
    if (zone->state == state)
        return;
    if (zone->state == VN_ZONE_IMPLICIT)
        list_remove(zones, index);
    zones->nr_open += is_open(state);
    zones->nr_open -= is_open(zone->state);
    zones->nr_active += is_active(state);
    zones->nr_active -= is_active(zone->state);
    zone->state = state;
    if (state == VN_ZONE_IMPLICIT)
        list_add(zones, index);
}

static bool lacks(uint32_t used, uint32_t more, uint32_t max) {
    return max && used + more > max;
}

/* Whether it may be active, or open, which it is not yet (2.1.1.4.1). An open resource can be had from a zone that a write
 * has opened. */
static vn_status check_resources(const struct vn_zones *zones, const struct vn_zone *zone, bool opens) {
    const struct vn_zone_geometry *geometry = &zones->geometry;
    if (!is_active(zone->state) && lacks(zones->nr_active, 1, geometry->max_active))
        return VN_SC_ZONE_TOO_MANY_ACTIVE;
    if (opens && !is_open(zone->state) && lacks(zones->nr_open - zones->nr_implicit, 1, geometry->max_open))
        return VN_SC_ZONE_TOO_MANY_OPEN;
    return VN_SC_SUCCESS;
}

/* check_resources has found it possible. */
static void open_zone(struct vn_zones *zones, uint32_t index, enum vn_zone_state state) {
    if (!is_open(zones->zones[index].state) && lacks(zones->nr_open, 1, zones->geometry.max_open))
        set_state(zones, zones->first, VN_ZONE_CLOSED); /* the oldest; what is kept of it need not know */
    set_state(zones, index, state);
}

/* --- Reads and writes --- */
bool vn_zones_is_held(const struct vn_zones *zones, uint64_t slba, uint64_t nlb) {
    uint32_t last = vn_zones_index(zones, slba + nlb - 1);
    for (uint32_t i = vn_zones_index(zones, slba); i <= last; i++) {
        if (zones->zones[i].held)
            return true;
    }
    return false;
}

vn_status vn_zones_check_read(const struct vn_zones *zones, uint64_t slba, uint64_t nlb) {
    uint32_t last = vn_zones_index(zones, slba + nlb - 1);
    for (uint32_t i = vn_zones_index(zones, slba); i <= last; i++) {
        if (zones->zones[i].state == VN_ZONE_OFFLINE)
            return VN_SC_ZONE_OFFLINE;
    }
    return VN_SC_SUCCESS;
}

static vn_status check_writable(const struct vn_zone *zone) {
    switch (zone->state) {
    case VN_ZONE_FULL:
        return VN_SC_ZONE_FULL;
    case VN_ZONE_READ_ONLY:
        return VN_SC_ZONE_READ_ONLY;
    case VN_ZONE_OFFLINE:
        return VN_SC_ZONE_OFFLINE;
    default:
        return VN_SC_SUCCESS;
    }
}

static vn_status check_at(const struct vn_zones *zones, uint32_t index, uint64_t at, uint64_t nlb) {
    const struct vn_zone *zone = &zones->zones[index];
    vn_status status = check_writable(zone);
    if (status)
        return status;
    if (at + nlb > zones->geometry.capacity)
        return VN_SC_ZONE_BOUNDARY;
    if (at != zone->wp)
        return VN_SC_ZONE_INVALID_WRITE;
    return check_resources(zones, zone, true);
}

vn_status vn_zones_check_write(const struct vn_zones *zones, uint64_t slba, uint64_t nlb) {
    uint32_t index = vn_zones_index(zones, slba);
    return check_at(zones, index, slba - vn_zones_start(zones, index), nlb);
}

vn_status vn_zones_begin_write(struct vn_zones *zones, uint64_t slba, uint64_t nlb) {
    uint32_t index = vn_zones_index(zones, slba);
    struct vn_zone *zone = &zones->zones[index];
    vn_status status = vn_zones_check_write(zones, slba, nlb);
    if (status)
        return status;
    if (!is_open(zone->state))
        open_zone(zones, index, VN_ZONE_IMPLICIT);
    zone->wp += nlb;
    zone->inflight++;
    if (zone->wp == zones->geometry.capacity)
        set_state(zones, index, VN_ZONE_FULL);
    return VN_SC_SUCCESS;
}

vn_status vn_zones_begin_append(struct vn_zones *zones, uint64_t zslba, uint64_t nlb, uint64_t *slba) {
    *slba = zslba + zones->zones[vn_zones_index(zones, zslba)].wp;
    if (*slba - zslba == zones->geometry.capacity) /* full, read-only or offline: its start tells which */
        *slba = zslba;
    return vn_zones_begin_write(zones, *slba, nlb);
}

void vn_zones_commit(struct vn_zones *zones, uint64_t slba, uint64_t nlb) {
    uint32_t index = vn_zones_index(zones, slba);
    struct vn_zone *zone = &zones->zones[index];
    uint64_t end = slba + nlb - vn_zones_start(zones, index);
    if (!zone->inflight || end <= zone->done)
        return;
    assert(end <= zone->wp);
    zone->done = end;
    keep(zones, index);
}

bool vn_zones_end_write(struct vn_zones *zones, uint64_t slba, uint64_t nlb, bool broken) {
    uint32_t index = vn_zones_index(zones, slba);
    struct vn_zone *zone = &zones->zones[index];
    vn_zones_commit(zones, slba, nlb);
    zone->inflight--;
    if (!broken || zone->state == VN_ZONE_READ_ONLY || zone->state == VN_ZONE_OFFLINE)
        return false;
    set_state(zones, index, VN_ZONE_READ_ONLY);
    keep(zones, index);
    return true;
}

/* --- Zone Management Send --- */
/* What each state goes over to; 0: it may not (BFh). The state itself: nothing happens. */
static uint8_t target_of(uint8_t state, enum vn_zone_action action) {
    bool fixed = state == VN_ZONE_READ_ONLY || state == VN_ZONE_OFFLINE;
    switch (action) {
    case VN_ZONE_CLOSE:
        return is_active(state) ? VN_ZONE_CLOSED : 0;
    case VN_ZONE_FINISH:
        return fixed ? 0 : VN_ZONE_FULL;
    case VN_ZONE_OPEN:
        return fixed || state == VN_ZONE_FULL ? 0 : VN_ZONE_EXPLICIT;
    case VN_ZONE_RESET:
        return fixed ? 0 : VN_ZONE_EMPTY;
    case VN_ZONE_SET_OFFLINE:
        return fixed ? VN_ZONE_OFFLINE : 0;
    case VN_ZONE_SET_EXTENSION:
        return state == VN_ZONE_EMPTY ? VN_ZONE_CLOSED : 0;
    }
    return 0;
}

vn_status vn_zones_check_act(const struct vn_zones *zones, uint32_t index, enum vn_zone_action action) {
    const struct vn_zone *zone = &zones->zones[index];
    if (!target_of(zone->state, action))
        return VN_SC_ZONE_INVALID_TRANSITION;
    if (action == VN_ZONE_OPEN || action == VN_ZONE_SET_EXTENSION)
        return check_resources(zones, zone, action == VN_ZONE_OPEN);
    return VN_SC_SUCCESS;
}

vn_status vn_zones_act(struct vn_zones *zones, uint32_t index, enum vn_zone_action action, bool *changed) {
    struct vn_zone *zone = &zones->zones[index];
    vn_status status = vn_zones_check_act(zones, index, action);
    uint8_t target = target_of(zone->state, action);
    *changed = !status && target != zone->state;
    if (!*changed)
        return status;
    if (action == VN_ZONE_OPEN) {
        open_zone(zones, index, VN_ZONE_EXPLICIT);
    } else {
        set_state(zones, index, target);
        if (action == VN_ZONE_RESET) {
            assert(!zone->inflight);
            zone->wp = zone->done = 0;
            zone->attributes = 0;
        }
    }
    keep(zones, index);
    return VN_SC_SUCCESS;
}

bool vn_zones_concerns(const struct vn_zones *zones, uint32_t index, enum vn_zone_action action) {
    uint8_t state = zones->zones[index].state;
    switch (action) {
    case VN_ZONE_CLOSE:
        return is_open(state);
    case VN_ZONE_FINISH:
        return is_active(state);
    case VN_ZONE_OPEN:
        return state == VN_ZONE_CLOSED;
    case VN_ZONE_RESET:
        return is_active(state) || state == VN_ZONE_FULL;
    case VN_ZONE_SET_OFFLINE:
        return state == VN_ZONE_READ_ONLY;
    case VN_ZONE_SET_EXTENSION:
        return false;
    }
    return false;
}

/* All or none (3.4.3.1.3). Closed ones are active already. */
vn_status vn_zones_check_open_all(const struct vn_zones *zones) {
    uint32_t nr_closed = zones->nr_active - zones->nr_open;
    return lacks(zones->nr_open, nr_closed, zones->geometry.max_open) ? VN_SC_ZONE_TOO_MANY_OPEN : VN_SC_SUCCESS;
}

vn_status vn_zones_set_extension(struct vn_zones *zones, uint32_t index, const uint8_t *extension) {
    vn_status status = vn_zones_check_act(zones, index, VN_ZONE_SET_EXTENSION);
    if (status)
        return status;
    uint32_t bytes = zones->geometry.extension_bytes;
    memcpy(zones->extensions + (size_t)index * bytes, extension, bytes);
    set_state(zones, index, VN_ZONE_CLOSED);
    zones->zones[index].attributes |= VN_ZONE_HAS_EXTENSION;
    keep(zones, index);
    return VN_SC_SUCCESS;
}
