/* core/poller.c: who is asked on a turn, who rests and what brings it back; counted, on a clock of our own. */
#include "core/poller.h"

#include "core/util.h"
#include "vn_test.h"

#define REST_NS 100000u
#define MS_NS 1000000ull
#define NR 64u

struct device {
    struct vn_poller poller;
    uint32_t nr_polls, nr_arms;
    uint32_t work; /* as often it answers that it had some */
    bool can_rest, armed;
};
static struct device devices[NR];
static struct vn_pollers pollers;
static uint64_t now_ns;

static bool poll_device(struct vn_poller *poller) {
    struct device *device = vn_container_of(poller, struct device, poller);
    device->nr_polls++;
    if (!device->work)
        return false;
    device->work--;
    return true;
}

static bool arm_device(struct vn_poller *poller) {
    struct device *device = vn_container_of(poller, struct device, poller);
    device->nr_arms++;
    return !device->armed;
}

static bool can_rest(struct vn_poller *poller) {
    return vn_container_of(poller, struct device, poller)->can_rest;
}

/* All idle and armed; max_sleep_ns 0: something wakes them. */
static void make(uint64_t max_sleep_ns) {
    now_ns = 77777777777ull;
    vn_pollers_init(&pollers, REST_NS);
    for (uint32_t i = 0; i < NR; i++) {
        devices[i] = (struct device){
            .poller = {.poll = poll_device, .before_sleep = arm_device, .can_rest = can_rest,
                       .max_sleep_ns = max_sleep_ns},
            .can_rest = true,
            .armed = true,
        };
        vn_pollers_add(&pollers, &devices[i].poller, now_ns);
    }
}

static uint32_t nr_polls(void) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < NR; i++)
        sum += devices[i].nr_polls;
    return sum;
}

static uint32_t nr_arms(void) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < NR; i++)
        sum += devices[i].nr_arms;
    return sum;
}

static uint64_t sleep_ns(void) {
    uint64_t ns = UINT64_MAX;
    CHECK(!vn_pollers_before_sleep(&pollers, now_ns, &ns));
    return ns;
}

/* One busy device among 63 that are woken: it alone is asked, and a sleep arms none of the others again. */
static void test_idle_devices_are_left_alone(void) {
    make(0);
    struct device *busy = &devices[7];
    busy->work = UINT32_MAX;
    for (uint32_t turn = 0; turn < 1000; turn++, now_ns += 1000)
        CHECK(vn_pollers_run(&pollers, now_ns));
    CHECK_EQ(busy->nr_polls, 1000);
    CHECK_EQ(nr_polls(), 1000 + (NR - 1) * 101);
    CHECK_EQ(nr_arms(), NR - 1);
    CHECK_EQ(busy->nr_arms, 0);
    busy->armed = false; /* more work has come: we stay awake */
    uint64_t ns = UINT64_MAX;
    CHECK(vn_pollers_before_sleep(&pollers, now_ns, &ns));
    busy->work = 0;
    busy->armed = true;
    CHECK_EQ(sleep_ns(), UINT64_MAX);
    CHECK_EQ(sleep_ns(), UINT64_MAX);
    CHECK_EQ(nr_arms(), NR + 1);
}

static void test_what_brings_one_back(void) {
    make(0);
    CHECK_EQ(sleep_ns(), UINT64_MAX);
    CHECK(!vn_pollers_run(&pollers, now_ns));
    CHECK_EQ(nr_polls(), 0);

    vn_pollers_wake(&pollers, &devices[3].poller); /* for nothing: it goes on resting */
    CHECK(!vn_pollers_run(&pollers, now_ns));
    CHECK(!vn_pollers_run(&pollers, now_ns));
    CHECK_EQ(nr_polls(), 1);
    CHECK_EQ(devices[3].nr_polls, 1);

    devices[3].work = 1;
    vn_pollers_wake(&pollers, &devices[3].poller);
    CHECK(vn_pollers_run(&pollers, now_ns));
    CHECK(!vn_pollers_run(&pollers, now_ns));
    CHECK_EQ(devices[3].nr_polls, 3); /* asked on every turn again */
    CHECK_EQ(nr_polls(), 3);

    devices[4].can_rest = false; /* something is under way there: a control call has told it so */
    pollers.ask_all = true;
    uint64_t ns = UINT64_MAX;
    CHECK(vn_pollers_before_sleep(&pollers, now_ns, &ns));
    CHECK(!vn_pollers_run(&pollers, now_ns));
    CHECK(!pollers.ask_all);
    CHECK_EQ(nr_polls(), 3 + NR);
    vn_pollers_run(&pollers, now_ns);
    CHECK_EQ(devices[4].nr_polls, 2);
    CHECK_EQ(devices[5].nr_polls, 1);
}

/* 64 that must be looked at: all of them at the same moments, a thousand times a second. */
static void test_looks_come_together(void) {
    make(MS_NS);
    for (uint32_t i = 0; i < NR; i++) { /* the last work of each was at another time */
        now_ns += 123457;
        devices[i].work = 1;
        vn_pollers_run(&pollers, now_ns);
    }
    uint64_t end_ns = now_ns + 1000 * MS_NS;
    for (uint64_t settled_ns = now_ns + 100 * MS_NS; now_ns < settled_ns; now_ns += sleep_ns())
        vn_pollers_run(&pollers, now_ns);
    uint32_t nr_wakes = 0, before = nr_polls();
    for (; now_ns < end_ns; now_ns += sleep_ns(), nr_wakes++)
        vn_pollers_run(&pollers, now_ns);
    CHECK(nr_wakes >= 899 && nr_wakes <= 901);
    CHECK_EQ(nr_polls() - before, nr_wakes * NR);
}

/* Close together at first, never later than asked for, on the grid. */
static void test_next_look(void) {
    uint64_t start_ns = 5000000000123ull;
    CHECK_EQ(vn_pollers_next_look(start_ns, start_ns, MS_NS), start_ns + 15625);
    CHECK_EQ(vn_pollers_next_look(start_ns, start_ns, 2000), start_ns + 2000);
    for (uint64_t idle_ns = 0; idle_ns < 4000 * MS_NS; idle_ns = idle_ns * 9 / 8 + 1000) {
        uint64_t at_ns = start_ns + idle_ns;
        uint64_t wait_ns = vn_pollers_next_look(at_ns, start_ns, MS_NS) - at_ns;
        CHECK(wait_ns > 0 && wait_ns <= MS_NS);
        CHECK(wait_ns <= 15625 || wait_ns <= idle_ns / 32);
        if (idle_ns >= 64 * MS_NS)
            CHECK_EQ((at_ns + wait_ns) % MS_NS, 0);
    }
}

/* Taken away in any state; and one that never rests is asked and armed each time. */
static void test_remove(void) {
    make(0);
    devices[0].poller.can_rest = NULL;
    CHECK_EQ(sleep_ns(), UINT64_MAX);
    CHECK_EQ(sleep_ns(), UINT64_MAX);
    vn_pollers_run(&pollers, now_ns);
    CHECK_EQ(devices[0].nr_arms, 2);
    CHECK_EQ(devices[0].nr_polls, 1);
    CHECK_EQ(nr_polls(), 1);
    for (uint32_t i = 0; i < NR; i++)
        vn_pollers_remove(&pollers, &devices[i].poller);
    CHECK(!pollers.active && !pollers.resting);
    CHECK(!vn_pollers_run(&pollers, now_ns));
}

/* While its event cannot be there yet nothing is armed; around the time when it is due nobody sleeps; then it is armed. */
static void test_doze_and_spin(void) {
    make(0);
    struct device *device = &devices[5];
    sleep_ns(); /* the others rest */
    vn_pollers_wake(&pollers, &device->poller);
    device->work = 1;
    vn_pollers_run(&pollers, now_ns);
    CHECK_EQ(device->poller.state, VN_POLLER_ACTIVE);
    uint32_t arms = device->nr_arms;
    device->poller.spin_from_ns = now_ns + 40000;
    device->poller.spin_until_ns = now_ns + 90000;

    CHECK(!vn_pollers_spin(&pollers, now_ns));
    CHECK_EQ(sleep_ns(), 40000);
    CHECK(device->poller.dozes);
    CHECK_EQ(device->nr_arms, arms);
    now_ns += 40000;
    CHECK(vn_pollers_spin(&pollers, now_ns));
    pollers.contended_until_ns = now_ns + 1; /* unless others want the core */
    CHECK(!vn_pollers_spin(&pollers, now_ns));
    now_ns += 49999;
    CHECK(vn_pollers_spin(&pollers, now_ns));
    CHECK_EQ(device->nr_arms, arms);
    now_ns += 1;
    CHECK(!vn_pollers_spin(&pollers, now_ns));
    CHECK_EQ(sleep_ns(), UINT64_MAX);
    CHECK_EQ(device->nr_arms, arms + 1);
    CHECK_EQ(device->poller.state, VN_POLLER_RESTS);
}

int main(void) {
    test_doze_and_spin();
    test_idle_devices_are_left_alone();
    test_what_brings_one_back();
    test_looks_come_together();
    test_next_look();
    test_remove();
    return 0;
}
