/* A mirror with one leg: it is as if there was no mirror, until another leg comes; and again when one is left.
 */
#include "core/status.h"
#include "mirror_rig.h"

#define READS (1u << VN_OP_READ)
#define WRITES (1u << VN_OP_WRITE)

static uint8_t *buf, *back;

static void write_block(struct mrig *rig, uint64_t offset, uint8_t value) {
    memset(buf, value, RIG_BLOCK);
    CHECK_EQ(io(rig, VN_OP_WRITE, offset, RIG_BLOCK, buf, 0), 0);
}

static uint8_t read_block(struct mrig *rig, uint64_t offset) {
    CHECK_EQ(io(rig, VN_OP_READ, offset, RIG_BLOCK, back, 0), 0);
    return back[0];
}

static uint32_t nr_seen(struct mrig *rig, uint32_t leg) {
    uint32_t nr = 0;
    settle(rig);
    for (uint32_t op = 0; op < VN_OP_COUNT; op++)
        nr += rig->switches[leg]->nr_seen[op];
    return nr;
}

static bool is_in_use(struct mrig *rig) {
    return rig->mirror->live->nr_used;
}

static void check_timers(struct mrig *rig) {
    const struct vn_mirror_chan *mc = rig->mirror->live;
    settle(rig);
    CHECK(!mc->clean_timer.armed && !mc->check_timer.armed && !mc->copy_timer.armed);
}

/* The requests themselves, and nothing else: no child, no timer, and not a word in the bitmap. */
static void test_requests_go_straight_to_the_leg(void) {
    struct mrig rig;
    struct job job;
    struct stat before, after;
    mrig_make(&rig, 1, "straight");
    mrig_open(&rig);
    CHECK_EQ(stat(rig.bitmap, &before), 0);
    set_switch(&rig, 0, SWITCH_KEEP, 0);
    memset(buf, 3, RIG_BLOCK);
    submit(&rig, &job, VN_OP_WRITE, 0, RIG_BLOCK, buf, 0);
    UNTIL(kept(&rig, 0) == 1);
    CHECK(rig.switches[0]->kept[0] == &job.req);
    let_go(&rig, 0);
    CHECK_EQ(wait_for(&job), 0);
    CHECK_EQ(read_block(&rig, 0), 3);
    CHECK_EQ(io(&rig, VN_OP_COMPARE, 0, RIG_BLOCK, buf, 0), 0);
    CHECK_EQ(io(&rig, VN_OP_WRITE_ZEROES, RIG_REGION, RIG_REGION, NULL, VN_REQ_FUA), 0);
    CHECK_EQ(io(&rig, VN_OP_DEALLOCATE, RIG_REGION, RIG_REGION, NULL, 0), 0);
    CHECK_EQ(io(&rig, VN_OP_FLUSH, 0, 0, NULL, 0), 0);
    CHECK_EQ(nr_seen(&rig, 0), 6);
    check_timers(&rig);
    CHECK(!is_in_use(&rig));
    CHECK_EQ(info_of(&rig).nr_dirty + info_of(&rig).nr_left, 0);
    mrig_close(&rig);
    CHECK_EQ(stat(rig.bitmap, &after), 0);
    CHECK(before.st_mtim.tv_sec == after.st_mtim.tv_sec && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
}

/* Errors, "not now", the end of what is cancelled, and a flush that has failed are as the leg has them. */
static void test_what_the_leg_says_is_said(void) {
    struct mrig rig;
    struct job job;
    mrig_make(&rig, 1, "says");
    rig.mopts.leg_timeout_ms = 800;
    mrig_open(&rig);
    set_switch(&rig, 0, SWITCH_FAIL, READS | WRITES);
    CHECK_EQ(io(&rig, VN_OP_READ, 0, RIG_BLOCK, back, 0), VN_SC_UNRECOVERED_READ);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 0, RIG_BLOCK, buf, 0), VN_SC_WRITE_FAULT);
    set_switch(&rig, 0, SWITCH_BUSY, READS);
    submit(&rig, &job, VN_OP_READ, 0, RIG_BLOCK, back, 0);
    UNTIL(nr_seen(&rig, 0) > 5); /* it is the host that offers it again */
    CHECK_EQ(rig.mirror->live->nr_passed, 0);
    set_switch(&rig, 0, SWITCH_PASS, 0);
    CHECK_EQ(wait_for(&job), 0);
    set_switch(&rig, 0, SWITCH_KEEP, 0);
    submit(&rig, &job, VN_OP_READ, 0, RIG_BLOCK, back, 0);
    usleep(1200000); /* longer than a leg may take that is not alone */
    CHECK(!is_done(&job) && kept(&rig, 0) == 1);
    cancel(&job);
    CHECK_EQ(wait_for(&job), VN_SC_ABORT_REQUESTED);
    set_switch(&rig, 0, SWITCH_PASS, 0);
    CHECK_EQ(told(&rig, VN_EVENT_LEG_FAILED, 0) + state_of(&rig, 0), VN_LEG_IN_SYNC);
    CHECK_EQ(vn_mirror_break(rig.mirror, 0, rig.error, sizeof(rig.error)), -EBUSY);
    vn_backend_latch(rig.mirror->legs[0].backend, EIO);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 0, RIG_BLOCK, buf, 0), VN_SC_NS_WRITE_PROTECTED | VN_STATUS_DNR);
    CHECK_EQ(io(&rig, VN_OP_FLUSH, 0, 0, NULL, 0), VN_SC_WRITE_FAULT | VN_STATUS_DNR);
    CHECK_EQ(io(&rig, VN_OP_READ, 0, RIG_BLOCK, back, 0), 0);
    CHECK(!is_in_use(&rig));
    struct mrig other = rig;
    CHECK_EQ(vn_reactor_call(rig.reactor, mrig_chan_open, &other), -EBUSY);
    mrig_close(&rig);
}

/* What was passed on has no range, and ends before anything is copied; what comes meanwhile goes to both legs. */
static void test_another_leg_waits_for_what_was_passed_on(void) {
    struct mrig rig;
    struct job old, new;
    static uint8_t ones[2 * RIG_BLOCK], twos[2 * RIG_BLOCK];
    mrig_make(&rig, 1, "waits");
    mrig_open(&rig);
    memset(ones, 1, sizeof(ones));
    memset(twos, 2, sizeof(twos));
    plant(&rig, 1, 8192, 77);
    set_switch(&rig, 0, SWITCH_KEEP, WRITES);
    submit(&rig, &old, VN_OP_WRITE, 0, sizeof(ones), ones, 0);
    UNTIL(kept(&rig, 0) == 1);
    CHECK_EQ(new_leg_in(&rig, 1), 0);
    submit(&rig, &new, VN_OP_WRITE, RIG_BLOCK, sizeof(twos), twos, 0); /* overlaps: on leg 0 either may be the last */
    UNTIL(kept(&rig, 0) == 2);
    usleep(50000);
    CHECK_EQ(rig.switches[0]->nr_seen[VN_OP_READ], 0);
    CHECK_EQ(state_of(&rig, 1), VN_LEG_REBUILDING);
    let_go(&rig, 0); /* the new one first */
    CHECK_EQ(wait_for(&old), 0);
    CHECK_EQ(wait_for(&new), 0);
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    CHECK_EQ(info_of(&rig).legs[1].covered, 1);
    CHECK_EQ(leg_counts(&rig, 1), 0);
    CHECK(is_in_use(&rig));
    UNTIL(info_of(&rig).nr_dirty == 0);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
}

/* A write that was given up may come to the leg at any time: where it may, both legs are written. */
static void test_what_was_given_up_is_written_over(void) {
    struct mrig rig;
    struct job job;
    mrig_make(&rig, 1, "ghost");
    mrig_open(&rig);
    set_switch(&rig, 0, SWITCH_KEEP, WRITES);
    submit(&rig, &job, VN_OP_WRITE, 5 * RIG_REGION, RIG_BLOCK, buf, 0);
    UNTIL(kept(&rig, 0) == 1);
    cancel(&job);
    CHECK_EQ(wait_for(&job), VN_SC_ABORT_REQUESTED);
    set_switch(&rig, 0, SWITCH_PASS, 0);
    CHECK_EQ(info_of(&rig).nr_left, 0);
    check_timers(&rig);
    uint32_t before = nr_seen(&rig, 0) - rig.switches[0]->nr_seen[VN_OP_READ];
    CHECK_EQ(new_leg_in(&rig, 1), 0);
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    CHECK_EQ(rig.switches[0]->nr_seen[VN_OP_WRITE_ZEROES] + rig.switches[0]->nr_seen[VN_OP_WRITE], before + 1);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
}

/* The repair of a region is on its way to the leg that is left: it is old, and must not come after what is passed on. */
static void test_a_repair_ends_first(void) {
    struct mrig rig;
    struct job job;
    static uint8_t ones[RIG_BLOCK];
    mrig_make(&rig, 2, "first");
    mrig_open(&rig);
    memset(ones, 1, sizeof(ones));
    set_switch(&rig, 1, SWITCH_KEEP, WRITES);
    submit(&rig, &job, VN_OP_WRITE, 0, RIG_BLOCK, ones, 0);
    UNTIL(kept(&rig, 1) == 1);
    set_switch(&rig, 0, SWITCH_KEEP, WRITES);
    set_switch(&rig, 1, SWITCH_PASS, 0);
    cancel(&job);
    CHECK_EQ(wait_for(&job), VN_SC_ABORT_REQUESTED);
    UNTIL(kept(&rig, 0) == 1); /* the repair; the other leg has it */
    drop_leg(&rig, 1);
    memset(buf, 2, RIG_BLOCK);
    submit(&rig, &job, VN_OP_WRITE, 0, RIG_BLOCK, buf, 0);
    settle(&rig);
    CHECK_EQ(kept(&rig, 0), 1);
    let_go(&rig, 0);
    CHECK_EQ(wait_for(&job), 0);
    CHECK_EQ(read_block(&rig, 0), 2);
    UNTIL(rig.mirror->live->alone);
    mrig_close(&rig);
    CHECK_EQ(planted(&rig, 0, 0), 2);
}

/* What ended on a leg is not the end of it on the one that comes in its place. */
static void test_another_leg_takes_the_place(void) {
    struct mrig rig;
    struct job job;
    static uint8_t ones[RIG_BLOCK];
    mrig_make(&rig, 2, "place");
    mrig_open(&rig);
    memset(ones, 1, sizeof(ones));
    set_switch(&rig, 0, SWITCH_KEEP, WRITES);
    set_switch(&rig, 1, SWITCH_FAIL, WRITES);
    submit(&rig, &job, VN_OP_WRITE, 0, RIG_BLOCK, ones, 0);
    UNTIL(kept(&rig, 0) == 1);
    drop_leg(&rig, 1);
    unlink(rig.paths[1]);
    CHECK_EQ(new_leg_in(&rig, 1), 0);
    let_go(&rig, 0);
    CHECK_EQ(wait_for(&job), 0);
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    CHECK_EQ(told(&rig, VN_EVENT_LEG_LOST, 1), 0);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
}

/* One is left: no bit costs anything, whichever are set; a crash leaves nothing to repair, and whoever comes gets all. */
static void test_one_is_left(void) {
    struct mrig rig;
    mrig_make(&rig, 3, "left");
    rig.mopts.leg_timeout_ms = 800;
    mrig_open(&rig);
    write_block(&rig, 0, 1);
    drop_leg(&rig, 0);
    write_block(&rig, RIG_REGION, 2);
    CHECK(is_in_use(&rig));
    drop_leg(&rig, 1);
    UNTIL(is_marked(rig.bitmap, RIG_BYTES - 1));
    UNTIL(!rig.mirror->live->clean_timer.armed && !rig.mirror->live->check_timer.armed);
    uint32_t before = nr_seen(&rig, 2), flushes = rig.switches[2]->nr_seen[VN_OP_FLUSH];
    for (uint64_t at = 0; at < RIG_BYTES; at += RIG_REGION)
        write_block(&rig, at, 3);
    usleep(200000); /* several times clean_ms */
    CHECK_EQ(nr_seen(&rig, 2), before + RIG_BYTES / RIG_REGION);
    CHECK_EQ(rig.switches[2]->nr_seen[VN_OP_FLUSH], flushes);
    check_timers(&rig);
    CHECK_EQ(info_of(&rig).nr_dirty + info_of(&rig).nr_left, 0);
    mrig_close(&rig);
    CHECK(is_marked(rig.bitmap, 0));
    rig.mopts.legs[0] = rig.mopts.legs[1] = NULL;
    rig.mopts.states[0] = rig.mopts.states[1] = VN_LEG_NONE;
    mrig_open(&rig);
    CHECK_EQ(info_of(&rig).generation, 2);
    CHECK_EQ(read_block(&rig, RIG_REGION), 3);
    CHECK_EQ(nr_seen(&rig, 2), 1);
    CHECK_EQ(vn_mirror_set_preferred(rig.mirror, 2, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(new_leg_in(&rig, 0), 0);
    UNTIL(state_of(&rig, 0) == VN_LEG_READY);
    CHECK_EQ(leg_counts(&rig, 0), 0);
    UNTIL(info_of(&rig).nr_dirty == 0);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 2));
}

/* A move that is given up: the new leg goes while it is filled, and the old one is alone as before. */
static void test_a_leg_comes_and_goes(void) {
    struct mrig rig;
    mrig_make(&rig, 1, "goes");
    rig.mopts.rebuild_rate = 1000000; /* it would take 2 s */
    mrig_open(&rig);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_EQ(new_leg_in(&rig, 1 + i % 2), 0);
        write_block(&rig, i * RIG_REGION, (uint8_t)(i + 1));
        drop_leg(&rig, 1 + i % 2);
        UNTIL(rig.mirror->live->alone);
        write_block(&rig, i * RIG_REGION, (uint8_t)(i + 11));
        CHECK_EQ(read_block(&rig, i * RIG_REGION), i + 11);
    }
    rig.mirror->rebuild_rate = 0;
    UNTIL(!rig.mirror->live->copy_timer.armed);
    rig.mirror->live->copy_due_ns = 0;
    CHECK_EQ(new_leg_in(&rig, 2), 0);
    UNTIL(state_of(&rig, 2) == VN_LEG_READY);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 2));
}

/* A bitmap that cannot be written is no harm to a leg that is alone; but no other can come. */
static void test_the_bitmap_breaks(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "breaks");
    mrig_open(&rig);
    write_block(&rig, 0, 1);
    UNTIL(info_of(&rig).nr_dirty == 0);
    settle(&rig);
    CHECK_EQ(vn_mirror_break(rig.mirror, 1, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(leg_out(&rig, 1), 0);
    int fd = open("/dev/full", O_WRONLY);
    CHECK(dup2(fd, rig.mirror->map.fd) >= 0);
    close(fd);
    CHECK_EQ(vn_mirror_close_leg(rig.mirror, 1, true, rig.error, sizeof(rig.error)), 0);
    UNTIL(rig.mirror->map.broken);
    write_block(&rig, 0, 2);
    CHECK_EQ(read_block(&rig, 0), 2);
    CHECK_EQ(new_leg_in(&rig, 1), -EIO);
    CHECK_SAYS(rig.error, "open the mirror anew");
    write_block(&rig, 0, 3);
    mrig_close(&rig);
}

/* Filters above the mirror and under it would write into each other's part of the request. */
static void test_filters_on_both_sides(void) {
    struct mrig rig;
    mrig_make(&rig, 1, "filters");
    rig.opts.delay_us = rig.legs[0].delay_us = 100;
    mrig_open(&rig);
    CHECK(!rig.mirror->live->alone);
    write_block(&rig, 0, 4);
    CHECK_EQ(read_block(&rig, 0), 4);
    mrig_close(&rig);
    rig.legs[0].delay_us = 0;
    CHECK_EQ(mrig_open_backend(&rig, &rig.opts, &rig.backend), 0); /* without a switch */
    CHECK_EQ(vn_mirror_alone(vn_mirror_of(rig.backend)), 0);
    vn_backend_close(rig.backend);
}

int main(void) {
    buf = aligned_alloc(4096, 65536);
    back = aligned_alloc(4096, 65536);
    memset(buf, 0, 65536);
    test_requests_go_straight_to_the_leg();
    test_what_the_leg_says_is_said();
    test_another_leg_waits_for_what_was_passed_on();
    test_what_was_given_up_is_written_over();
    test_a_repair_ends_first();
    test_another_leg_takes_the_place();
    test_one_is_left();
    test_a_leg_comes_and_goes();
    test_the_bitmap_breaks();
    test_filters_on_both_sides();
    free(buf);
    free(back);
    return 0;
}
