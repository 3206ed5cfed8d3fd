/* The state machine of zones: every state under every action, the limits, and what is taken up again after a crash. Then a long
 * random life against a plain model of it.
 */
#include "core/util.h"
#include "ns/zones.h"
#include "vn_test.h"

#define NR 8u
#define SHIFT 4u
#define SIZE (1u << SHIFT)
#define CAPACITY 12u

static struct vn_zones zones;
static uint64_t words[NR];
static uint8_t extensions[NR * VN_ZONE_EXTENSION_BYTES];

static const uint8_t all_states[] = {VN_ZONE_EMPTY,  VN_ZONE_IMPLICIT,  VN_ZONE_EXPLICIT, VN_ZONE_CLOSED,
                                     VN_ZONE_FULL, VN_ZONE_READ_ONLY, VN_ZONE_OFFLINE};

static void make(uint32_t max_open, uint32_t max_active) {
    const struct vn_zone_geometry geometry = {.nr = NR,
                                              .shift = SHIFT,
                                              .capacity = CAPACITY,
                                              .max_open = max_open,
                                              .max_active = max_active,
                                              .extension_bytes = VN_ZONE_EXTENSION_BYTES};
    if (zones.zones)
        vn_zones_fini(&zones);
    memset(words, 0, sizeof(words));
    CHECK_EQ(vn_zones_init(&zones, &geometry, words, extensions), 0);
    CHECK_EQ(vn_zones_recover(&zones), VN_ZONE_NONE);
}

static vn_status act(uint32_t index, enum vn_zone_action action) {
    bool changed;
    return vn_zones_act(&zones, index, action, &changed);
}

static vn_status write_at(uint64_t lba, uint64_t nlb) {
    vn_status status = vn_zones_begin_write(&zones, lba, nlb);
    if (!status)
        vn_zones_end_write(&zones, lba, nlb, false);
    return status;
}

/* Zone 0 in a state, with two blocks written where that can be. */
static void bring(uint8_t state) {
    make(0, 0);
    if (state == VN_ZONE_EMPTY)
        return;
    CHECK_EQ(vn_zones_begin_write(&zones, 0, 2), 0);
    CHECK_EQ(vn_zones_end_write(&zones, 0, 2, state >= VN_ZONE_READ_ONLY && state != VN_ZONE_FULL),
             state == VN_ZONE_READ_ONLY || state == VN_ZONE_OFFLINE);
    if (state == VN_ZONE_EXPLICIT)
        CHECK_EQ(act(0, VN_ZONE_OPEN), 0);
    if (state == VN_ZONE_CLOSED)
        CHECK_EQ(act(0, VN_ZONE_CLOSE), 0);
    if (state == VN_ZONE_FULL)
        CHECK_EQ(act(0, VN_ZONE_FINISH), 0);
    if (state == VN_ZONE_OFFLINE)
        CHECK_EQ(act(0, VN_ZONE_SET_OFFLINE), 0);
    CHECK_EQ(zones.zones[0].state, state);
}

/* --- Every state under every action --- */
static void test_transitions(void) {
    static const struct {
        enum vn_zone_action action;
        uint8_t to[VN_ARRAY_SIZE(all_states)]; /* in the order of all_states; 0: BFh */
    } table[] = {
        {VN_ZONE_OPEN, {VN_ZONE_EXPLICIT, VN_ZONE_EXPLICIT, VN_ZONE_EXPLICIT, VN_ZONE_EXPLICIT, 0, 0, 0}},
        {VN_ZONE_CLOSE, {0, VN_ZONE_CLOSED, VN_ZONE_CLOSED, VN_ZONE_CLOSED, 0, 0, 0}},
        {VN_ZONE_FINISH, {VN_ZONE_FULL, VN_ZONE_FULL, VN_ZONE_FULL, VN_ZONE_FULL, VN_ZONE_FULL, 0, 0}},
        {VN_ZONE_RESET, {VN_ZONE_EMPTY, VN_ZONE_EMPTY, VN_ZONE_EMPTY, VN_ZONE_EMPTY, VN_ZONE_EMPTY, 0, 0}},
        {VN_ZONE_SET_OFFLINE, {0, 0, 0, 0, 0, VN_ZONE_OFFLINE, VN_ZONE_OFFLINE}},
        {VN_ZONE_SET_EXTENSION, {VN_ZONE_CLOSED, 0, 0, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < VN_ARRAY_SIZE(table); i++) {
        for (size_t from = 0; from < VN_ARRAY_SIZE(all_states); from++) {
            bring(all_states[from]);
            uint8_t to = table[i].to[from];
            bool changed;
            CHECK_EQ(vn_zones_check_act(&zones, 0, table[i].action), to ? 0 : VN_SC_ZONE_INVALID_TRANSITION);
            CHECK_EQ(vn_zones_act(&zones, 0, table[i].action, &changed), to ? 0 : VN_SC_ZONE_INVALID_TRANSITION);
            CHECK_EQ(zones.zones[0].state, to ? to : all_states[from]);
            CHECK_EQ(changed, to && to != all_states[from]);
            if (to == VN_ZONE_EMPTY)
                CHECK_EQ(zones.zones[0].wp, 0);
        }
    }
}

static void test_writes_in_each_state(void) {
    static const vn_status want[] = {0, 0, 0, 0, VN_SC_ZONE_FULL, VN_SC_ZONE_READ_ONLY, VN_SC_ZONE_OFFLINE};
    for (size_t i = 0; i < VN_ARRAY_SIZE(all_states); i++) {
        bring(all_states[i]);
        uint64_t wp = zones.zones[0].wp, slba;
        CHECK_EQ(vn_zones_check_write(&zones, wp, 1), want[i]);
        CHECK_EQ(vn_zones_begin_append(&zones, 0, 1, &slba), want[i]);
        if (!want[i]) {
            CHECK_EQ(slba, wp);
            vn_zones_end_write(&zones, slba, 1, false);
            CHECK_EQ(zones.zones[0].state, all_states[i] == VN_ZONE_EXPLICIT ? VN_ZONE_EXPLICIT : VN_ZONE_IMPLICIT);
        }
        CHECK_EQ(vn_zones_check_read(&zones, 0, SIZE), all_states[i] == VN_ZONE_OFFLINE ? VN_SC_ZONE_OFFLINE : 0);
        CHECK_EQ(vn_zones_check_read(&zones, 1, 3 * SIZE), all_states[i] == VN_ZONE_OFFLINE ? VN_SC_ZONE_OFFLINE : 0);
        CHECK_EQ(vn_zones_check_read(&zones, SIZE, SIZE), 0);
    }
}

static void test_where_writes_go(void) {
    uint64_t slba;
    make(0, 0);
    CHECK_EQ(write_at(1, 1), VN_SC_ZONE_INVALID_WRITE);
    CHECK_EQ(write_at(0, CAPACITY + 1), VN_SC_ZONE_BOUNDARY);
    CHECK_EQ(write_at(CAPACITY, 1), VN_SC_ZONE_BOUNDARY);
    CHECK_EQ(write_at(SIZE - 1, 2), VN_SC_ZONE_BOUNDARY);
    CHECK_EQ(zones.zones[0].state, VN_ZONE_EMPTY);
    CHECK_EQ(write_at(0, 5), 0);
    CHECK_EQ(write_at(0, 5), VN_SC_ZONE_INVALID_WRITE);
    CHECK_EQ(write_at(6, 1), VN_SC_ZONE_INVALID_WRITE);
    CHECK_EQ(vn_zones_begin_append(&zones, 0, CAPACITY - 4, &slba), VN_SC_ZONE_BOUNDARY);
    CHECK_EQ(write_at(5, CAPACITY - 5), 0);
    CHECK_EQ(zones.zones[0].state, VN_ZONE_FULL);
    CHECK_EQ(write_at(CAPACITY, 1), VN_SC_ZONE_FULL);
    CHECK_EQ(vn_zones_begin_append(&zones, 0, 1, &slba), VN_SC_ZONE_FULL);
    CHECK(zones.nr_active == 0 && zones.nr_open == 0);
}

/* --- Limits --- */
static void test_limits(void) {
    make(2, 3);
    CHECK_EQ(write_at(0, 1), 0);
    CHECK_EQ(write_at(SIZE, 1), 0);
    CHECK_EQ(write_at(2 * SIZE, 1), 0); /* the oldest one closes */
    CHECK_EQ(zones.zones[0].state, VN_ZONE_CLOSED);
    CHECK(zones.nr_open == 2 && zones.nr_active == 3);
    CHECK_EQ(write_at(3 * SIZE, 1), VN_SC_ZONE_TOO_MANY_ACTIVE);
    CHECK_EQ(act(3, VN_ZONE_OPEN), VN_SC_ZONE_TOO_MANY_ACTIVE);
    CHECK_EQ(act(3, VN_ZONE_SET_EXTENSION), VN_SC_ZONE_TOO_MANY_ACTIVE);
    CHECK_EQ(act(3, VN_ZONE_FINISH), 0); /* needs no resources */
    CHECK_EQ(act(1, VN_ZONE_OPEN), 0);
    CHECK_EQ(act(2, VN_ZONE_OPEN), 0);
    CHECK_EQ(write_at(1, 1), VN_SC_ZONE_TOO_MANY_OPEN); /* those that the host has opened stay open */
    CHECK_EQ(act(0, VN_ZONE_OPEN), VN_SC_ZONE_TOO_MANY_OPEN);
    CHECK_EQ(vn_zones_check_open_all(&zones), VN_SC_ZONE_TOO_MANY_OPEN);
    CHECK_EQ(act(1, VN_ZONE_CLOSE), 0);
    CHECK_EQ(act(0, VN_ZONE_OPEN), 0);
    CHECK_EQ(act(0, VN_ZONE_RESET), 0);
    CHECK_EQ(vn_zones_check_open_all(&zones), 0);
    CHECK_EQ(act(1, VN_ZONE_OPEN), 0);
    CHECK(zones.nr_open == 2 && zones.nr_active == 2);
    /* an explicit open takes the place of an implicit one as well */
    make(1, 0);
    CHECK_EQ(write_at(0, 1), 0);
    CHECK_EQ(act(5, VN_ZONE_OPEN), 0);
    CHECK_EQ(zones.zones[0].state, VN_ZONE_CLOSED);
}

/* --- All at once --- */
static void test_select_all(void) {
    static const struct {
        enum vn_zone_action action;
        bool concerns[VN_ARRAY_SIZE(all_states)];
    } table[] = {
        {VN_ZONE_CLOSE, {false, true, true, false, false, false, false}},
        {VN_ZONE_FINISH, {false, true, true, true, false, false, false}},
        {VN_ZONE_OPEN, {false, false, false, true, false, false, false}},
        {VN_ZONE_RESET, {false, true, true, true, true, false, false}},
        {VN_ZONE_SET_OFFLINE, {false, false, false, false, false, true, false}},
        {VN_ZONE_SET_EXTENSION, {false}},
    };
    for (size_t i = 0; i < VN_ARRAY_SIZE(table); i++) {
        for (size_t from = 0; from < VN_ARRAY_SIZE(all_states); from++) {
            bring(all_states[from]);
            CHECK_EQ(vn_zones_concerns(&zones, 0, table[i].action), table[i].concerns[from]);
        }
    }
}

/* --- What is kept --- */
static void test_recovery(void) {
    static const uint8_t want[] = {VN_ZONE_EMPTY, VN_ZONE_CLOSED,    VN_ZONE_CLOSED, VN_ZONE_CLOSED,
                                   VN_ZONE_FULL,  VN_ZONE_READ_ONLY, VN_ZONE_OFFLINE};
    for (size_t i = 0; i < VN_ARRAY_SIZE(all_states); i++) {
        bring(all_states[i]);
        uint64_t wp = zones.zones[0].wp;
        zones.nr_active = zones.nr_open = zones.nr_implicit = 0;
        zones.first = zones.last = VN_ZONE_NONE;
        CHECK_EQ(vn_zones_recover(&zones), VN_ZONE_NONE);
        CHECK_EQ(zones.zones[0].state, want[i]);
        CHECK_EQ(zones.zones[0].wp, wp);
        CHECK_EQ(zones.nr_active, want[i] == VN_ZONE_CLOSED);
    }
    make(0, 0);
    CHECK_EQ(act(0, VN_ZONE_OPEN), 0); /* open, but nothing in it */
    CHECK_EQ(act(1, VN_ZONE_OPEN), 0);
    CHECK_EQ(act(1, VN_ZONE_CLOSE), 0);
    uint8_t extension[VN_ZONE_EXTENSION_BYTES] = {1, 2, 3};
    CHECK_EQ(vn_zones_set_extension(&zones, 2, extension), 0);
    CHECK(!memcmp(extensions + 2 * VN_ZONE_EXTENSION_BYTES, extension, sizeof(extension)));
    CHECK_EQ(act(2, VN_ZONE_OPEN), 0);
    zones.nr_active = zones.nr_open = 0;
    CHECK_EQ(vn_zones_recover(&zones), VN_ZONE_NONE);
    CHECK_EQ(zones.zones[0].state, VN_ZONE_EMPTY);
    CHECK_EQ(zones.zones[1].state, VN_ZONE_CLOSED); /* as it was acknowledged */
    CHECK_EQ(zones.zones[2].state, VN_ZONE_CLOSED);
    CHECK_EQ(zones.zones[2].attributes, VN_ZONE_HAS_EXTENSION);
    CHECK_EQ(act(2, VN_ZONE_RESET), 0);
    CHECK_EQ(zones.zones[2].attributes, 0);
}

static void test_writes_in_flight_are_not_kept(void) {
    make(0, 0);
    CHECK_EQ(vn_zones_begin_write(&zones, 0, 4), 0);
    CHECK_EQ(vn_zones_begin_write(&zones, 4, CAPACITY - 4), 0);
    CHECK_EQ(zones.zones[0].state, VN_ZONE_FULL);
    CHECK_EQ(words[0], 0);
    vn_zones_commit(&zones, 0, 4); /* before it ends */
    CHECK_EQ(words[0] & 0xff, 4);
    CHECK(!vn_zones_end_write(&zones, 0, 4, false));
    zones.nr_active = 0;
    CHECK_EQ(vn_zones_recover(&zones), VN_ZONE_NONE);
    CHECK_EQ(zones.zones[0].state, VN_ZONE_CLOSED);
    CHECK_EQ(zones.zones[0].wp, 4);
    /* the later one ends first: what is kept covers it, and so the other too */
    make(0, 0);
    CHECK_EQ(vn_zones_begin_write(&zones, 0, 4), 0);
    CHECK_EQ(vn_zones_begin_write(&zones, 4, 4), 0);
    vn_zones_end_write(&zones, 4, 4, false);
    CHECK_EQ(words[0] & 0xff, 8);
    vn_zones_end_write(&zones, 0, 4, false);
    CHECK_EQ(words[0] & 0xff, 8);
    vn_zones_commit(&zones, 0, CAPACITY); /* erasing: nothing was begun */
    CHECK_EQ(words[0] & 0xff, 8);
}

static void test_damage_is_found(void) {
    make(0, 0);
    CHECK_EQ(write_at(3 * SIZE, 7), 0);
    uint64_t good = words[3];
    for (uint32_t bit = 0; bit < 64; bit++) {
        words[3] = good ^ 1ull << bit;
        CHECK_EQ(vn_zones_recover(&zones), 3);
    }
    words[3] = good;
    words[4] = good; /* of another zone */
    CHECK_EQ(vn_zones_recover(&zones), 4);
    words[4] = 0;
    zones.nr_active = 0;
    CHECK_EQ(vn_zones_recover(&zones), VN_ZONE_NONE);
    vn_zones_clear(&zones);
    CHECK(words[3] == 0 && zones.zones[3].state == VN_ZONE_EMPTY && zones.nr_active == 0);
}

static void test_held_zones(void) {
    make(0, 0);
    zones.zones[2].held = true;
    CHECK(!vn_zones_is_held(&zones, 0, 2 * SIZE));
    CHECK(vn_zones_is_held(&zones, 0, 2 * SIZE + 1));
    CHECK(vn_zones_is_held(&zones, 3 * SIZE - 1, 1));
    CHECK(!vn_zones_is_held(&zones, 3 * SIZE, SIZE));
}

/* --- A long life --- */
static void check_counts(uint32_t max_open, uint32_t max_active) {
    uint32_t nr_open = 0, nr_active = 0, nr_implicit = 0;
    for (uint32_t i = 0; i < NR; i++) {
        const struct vn_zone *zone = &zones.zones[i];
        nr_implicit += zone->state == VN_ZONE_IMPLICIT;
        nr_open += zone->state == VN_ZONE_IMPLICIT || zone->state == VN_ZONE_EXPLICIT;
        nr_active += zone->state == VN_ZONE_IMPLICIT || zone->state == VN_ZONE_EXPLICIT || zone->state == VN_ZONE_CLOSED;
        CHECK(zone->wp <= CAPACITY && zone->done == zone->wp);
        CHECK(zone->state != VN_ZONE_EMPTY || zone->wp == 0);
    }
    CHECK(nr_open == zones.nr_open && nr_active == zones.nr_active && nr_implicit == zones.nr_implicit);
    CHECK((!max_open || nr_open <= max_open) && (!max_active || nr_active <= max_active));
    uint32_t listed = 0;
    for (uint32_t i = zones.first; i != VN_ZONE_NONE; i = zones.zones[i].next, listed++)
        CHECK_EQ(zones.zones[i].state, VN_ZONE_IMPLICIT);
    CHECK_EQ(listed, nr_implicit);
}

static void test_a_long_life(struct vn_test_random *random) {
    static const enum vn_zone_action actions[] = {VN_ZONE_CLOSE, VN_ZONE_FINISH, VN_ZONE_OPEN,
                                                  VN_ZONE_RESET, VN_ZONE_RESET,  VN_ZONE_SET_OFFLINE};
    for (int life = 0; life < 200; life++) {
        uint32_t max_active = (uint32_t)vn_test_below(random, NR), max_open = max_active;
        if (max_active)
            max_open = 1 + (uint32_t)vn_test_below(random, max_active);
        make(max_open, max_active);
        for (int i = 0; i < 500; i++) {
            uint32_t index = (uint32_t)vn_test_below(random, NR);
            uint64_t before = zones.zones[index].wp, slba, nlb = 1 + vn_test_below(random, 4);
            if (vn_test_below(random, 3)) {
                vn_status status = vn_zones_begin_append(&zones, (uint64_t)index * SIZE, nlb, &slba);
                CHECK_EQ(zones.zones[index].wp, before + (status ? 0 : nlb));
                if (!status)
                    vn_zones_end_write(&zones, slba, nlb, vn_test_below(random, 300) == 0);
            } else {
                act(index, actions[vn_test_below(random, VN_ARRAY_SIZE(actions))]);
            }
            check_counts(max_open, max_active);
            CHECK_EQ(zones.zones[index].wp, zones.words[index] ? words[index] & 0xff : 0);
        }
    }
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    test_transitions();
    test_writes_in_each_state();
    test_where_writes_go();
    test_limits();
    test_select_all();
    test_recovery();
    test_writes_in_flight_are_not_kept();
    test_damage_is_found();
    test_held_zones();
    test_a_long_life(&random);
    vn_zones_fini(&zones);
    return 0;
}
