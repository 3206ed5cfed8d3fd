/* The mirror's commands: to all legs, in one order, marked first, held while a leg has failed, cancelled, read elsewhere.
 */
#include "mirror_rig.h"

#define READS (1u << VN_OP_READ)
#define WRITES (1u << VN_OP_WRITE)
#define FLUSHES (1u << VN_OP_FLUSH)

static uint8_t *buf, *back;

static void test_all_legs_get_everything(void) {
    struct mrig rig;
    struct vn_test_random random = vn_test_seed();
    mrig_make(&rig, 3, "all");
    mrig_open(&rig);
    vn_test_fill(&random, buf, 65536);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 0, 65536, buf, 0), 0);
    CHECK_EQ(io(&rig, VN_OP_WRITE, RIG_BYTES - 4096, 4096, buf, VN_REQ_FUA), 0);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 131072 - 8192, 16384, buf, 0), 0); /* across two regions */
    CHECK_EQ(io(&rig, VN_OP_WRITE_ZEROES, 4096, 8192, NULL, 0), 0);
    CHECK_EQ(io(&rig, VN_OP_DEALLOCATE, 16384, 4096, NULL, 0), 0);
    CHECK_EQ(io(&rig, VN_OP_FLUSH, 0, 0, NULL, 0), 0);
    CHECK_EQ(io(&rig, VN_OP_READ, 0, 65536, back, 0), 0);
    memset(buf + 4096, 0, 8192);
    memset(buf + 16384, 0, 4096);
    CHECK(memcmp(buf, back, 65536) == 0);
    CHECK_EQ(io(&rig, VN_OP_COMPARE, 0, 4096, buf, 0), 0);
    CHECK_EQ(io(&rig, VN_OP_COMPARE, 4096, 4096, buf, 0), VN_SC_COMPARE_FAILURE);
    for (uint32_t leg = 0; leg < 3; leg++) {
        CHECK_EQ(rig.switches[leg]->nr_seen[VN_OP_WRITE], 3);
        CHECK(rig.switches[leg]->nr_seen[VN_OP_FLUSH] >= 1);
        CHECK_EQ(state_of(&rig, leg), VN_LEG_IN_SYNC); /* a compare that fails is nobody's fault */
    }
    CHECK_EQ(rig.switches[1]->nr_seen[VN_OP_READ] + rig.switches[2]->nr_seen[VN_OP_READ], 0);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1) && same(&rig, 0, 2));
}

/* Of two writes to one place a leg has one at a time, so that none can end in another order than on the other leg. */
static void test_overlapping_writes_keep_one_order(void) {
    struct mrig rig;
    struct job jobs[4];
    static uint8_t data[4][8192];
    mrig_make(&rig, 2, "order");
    mrig_open(&rig);
    set_switch(&rig, 1, SWITCH_KEEP, WRITES);
    for (uint32_t i = 0; i < 4; i++) { /* [0, 2), [1, 3), [2, 4), and one that is apart */
        memset(data[i], (int)i + 1, sizeof(data[i]));
        submit(&rig, &jobs[i], VN_OP_WRITE, i < 3 ? i * 4096 : 1 << 20, 8192, data[i], 0);
    }
    UNTIL(kept(&rig, 1) == 2); /* the first and the fourth; the third waits behind the second, though it is free of the first */
    settle(&rig);
    CHECK_EQ(kept(&rig, 1), 2);
    CHECK(!is_done(&jobs[0]) && !is_done(&jobs[3]));
    let_go(&rig, 1);
    for (uint32_t i = 0; i < 4; i++)
        CHECK_EQ(wait_for(&jobs[i]), 0);
    CHECK_EQ(io(&rig, VN_OP_READ, 0, 16384, back, 0), 0);
    CHECK(back[0] == 1 && back[4096] == 2 && back[8192] == 3 && back[12288] == 3);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
}

static void test_a_read_goes_elsewhere_and_writes_are_held(void) {
    struct mrig rig;
    struct job write, flush;
    mrig_make(&rig, 2, "read");
    rig.mopts.preferred = 1;
    mrig_open(&rig);
    memset(buf, 5, 4096);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 0, 4096, buf, 0), 0);
    set_switch(&rig, 1, SWITCH_FAIL, READS);
    CHECK_EQ(io(&rig, VN_OP_READ, 0, 4096, back, 0), 0);
    CHECK_EQ(back[0], 5);
    CHECK_EQ(told(&rig, VN_EVENT_LEG_FAILED, 1), 1);
    CHECK_EQ(rig.told[rig.nr_told - 1].b, VN_SC_UNRECOVERED_READ);
    submit(&rig, &write, VN_OP_WRITE, 0, 4096, buf, 0);
    submit(&rig, &flush, VN_OP_FLUSH, 0, 0, NULL, 0);
    UNTIL(info_of(&rig).held == 2);
    CHECK_EQ(io(&rig, VN_OP_READ, 0, 4096, back, 0), 0); /* reads go on */
    CHECK(!is_done(&write) && !is_done(&flush));
    CHECK_EQ(leg_out(&rig, 1), 0);
    CHECK_EQ(wait_for(&write), 0);
    CHECK_EQ(wait_for(&flush), 0);
    CHECK_EQ(leg_out(&rig, 1), 0); /* again: no harm */
    CHECK_EQ(leg_out(&rig, 0), -EINVAL);
    mrig_close(&rig);
}

static void test_a_write_error_holds(uint32_t op) {
    struct mrig rig;
    struct job job;
    mrig_make(&rig, 2, op == VN_OP_WRITE ? "write" : "flush");
    mrig_open(&rig);
    memset(buf, 6, 4096);
    set_switch(&rig, 0, SWITCH_FAIL, 1u << op); /* the one that is read, too */
    submit(&rig, &job, op, 0, op == VN_OP_WRITE ? 4096 : 0, op == VN_OP_WRITE ? buf : NULL, 0);
    UNTIL(info_of(&rig).held == 1);
    CHECK_EQ(state_of(&rig, 0), VN_LEG_FAILED);
    CHECK_EQ(told(&rig, VN_EVENT_LEG_FAILED, 0), 1);
    CHECK(!is_done(&job));
    CHECK_EQ(leg_out(&rig, 0), 0);
    CHECK_EQ(wait_for(&job), 0);
    CHECK_EQ(io(&rig, VN_OP_READ, 0, 4096, back, 0), 0);
    CHECK(op != VN_OP_WRITE || back[0] == 6);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 65536, 4096, buf, 0), 0);
    usleep(200000); /* several times clean_ms: while a leg is out, bits stay */
    CHECK(is_marked(rig.bitmap, 65536));
    mrig_close(&rig);
    CHECK(is_marked(rig.bitmap, 65536));
}

static void test_a_stall_is_a_failure(void) {
    struct mrig rig;
    struct job write, read;
    mrig_make(&rig, 2, "stall");
    rig.mopts.leg_timeout_ms = 800;
    mrig_open(&rig);
    memset(buf, 7, 4096);
    set_switch(&rig, 0, SWITCH_KEEP, 0);
    submit(&rig, &write, VN_OP_WRITE, 0, 4096, buf, 0);
    submit(&rig, &read, VN_OP_READ, 65536, 4096, back, 0);
    UNTIL(told(&rig, VN_EVENT_LEG_FAILED, 0) == 1);
    CHECK_EQ(rig.told[rig.nr_told - 1].b, 0);
    CHECK_SAYS(rig.told[rig.nr_told - 1].text, "no answer");
    CHECK_EQ(wait_for(&read), 0); /* from the other one */
    CHECK(!is_done(&write));
    CHECK_EQ(leg_out(&rig, 0), 0);
    CHECK_EQ(wait_for(&write), 0);
    CHECK_EQ(kept(&rig, 0), 0); /* all that it had was cancelled */
    mrig_close(&rig);
}

/* A disk that hangs and gives nothing back: nobody waits for it, and it reaches no memory of the host when it wakes up. It
 * cannot come back before. */
static void test_a_disk_keeps_its_commands(void) {
    enum { NR = 6 };
    struct mrig rig;
    struct job jobs[NR];
    mrig_make(&rig, 2, "keeps");
    rig.mopts.leg_timeout_ms = 800;
    mrig_open(&rig);
    memset(buf, 7, 8192);
    memset(back, 0, 65536);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 0, 8192, buf, 0), 0);
    rig.switches[0]->stubborn = true;
    set_switch(&rig, 0, SWITCH_KEEP, 0);
    submit(&rig, &jobs[0], VN_OP_READ, 0, 4096, back, 0);
    submit(&rig, &jobs[1], VN_OP_READ, 4096, 4096, back + 4096, 0);
    submit(&rig, &jobs[2], VN_OP_WRITE, 65536, 4096, buf, 0);
    submit(&rig, &jobs[3], VN_OP_FLUSH, 0, 0, NULL, 0);
    submit(&rig, &jobs[4], VN_OP_WRITE_ZEROES, 131072, 4096, NULL, 0);
    submit(&rig, &jobs[5], VN_OP_COMPARE, 0, 4096, buf, 0);
    UNTIL(told(&rig, VN_EVENT_LEG_FAILED, 0) == 1);
    CHECK_EQ(leg_out(&rig, 0), 0);
    for (uint32_t i = 0; i < NR; i++)
        CHECK_EQ(wait_for(&jobs[i]), 0);
    CHECK(back[0] == 7 && back[4096] == 7);
    memset(back, 1, 8192); /* the host's again */
    CHECK_EQ(vn_mirror_in_again(rig.mirror, 0, NULL, false, rig.error, sizeof(rig.error)), -EBUSY);
    CHECK_EQ(vn_mirror_close_leg(rig.mirror, 0, false, rig.error, sizeof(rig.error)), -EBUSY);
    for (uint32_t i = 0; i < 2000; i++) /* commands go on in the places where those were */
        CHECK_EQ(io(&rig, i % 3 ? VN_OP_WRITE : VN_OP_READ, i % 512 * 4096, 4096, buf, 0), 0);
    CHECK(kept(&rig, 0) >= NR); /* and a flush of the mirror's own */
    vn_reactor_call(rig.reactor, wake_on, rig.switches[0]);
    settle(&rig);
    for (uint32_t i = 0; i < 8192; i++)
        CHECK_EQ(back[i], 1);
    CHECK_EQ(leg_in(&rig, 0, false), 0);
    UNTIL(state_of(&rig, 0) == VN_LEG_READY);
    CHECK_EQ(leg_counts(&rig, 0), 0);
    CHECK_EQ(rig.mirror->live->nr_bounce, VN_MIRROR_NR_BOUNCE);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
}

/* The copy to another leg goes on from another source; of a repair the piece is done anew. */
static void test_a_disk_keeps_what_is_copied(void) {
    struct mrig rig;
    mrig_make(&rig, 3, "keeps2");
    rig.mopts.leg_timeout_ms = 800;
    mrig_open(&rig);
    memset(buf, 9, 4096);
    CHECK_EQ(vn_mirror_break(rig.mirror, 2, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(leg_out(&rig, 2), 0);
    for (uint32_t i = 0; i < 8; i++)
        CHECK_EQ(io(&rig, VN_OP_WRITE, i * RIG_REGION, 4096, buf, 0), 0);
    rig.switches[0]->stubborn = true;
    set_switch(&rig, 0, SWITCH_KEEP, 0);
    CHECK_EQ(leg_in(&rig, 2, false), 0);
    UNTIL(state_of(&rig, 0) == VN_LEG_FAILED);
    CHECK_EQ(leg_out(&rig, 0), 0);
    UNTIL(state_of(&rig, 2) == VN_LEG_READY);
    CHECK_EQ(leg_counts(&rig, 2), 0);
    CHECK(kept(&rig, 0) > 0);
    vn_reactor_call(rig.reactor, wake_on, rig.switches[0]);
    CHECK_EQ(leg_in(&rig, 0, false), 0);
    UNTIL(state_of(&rig, 0) == VN_LEG_READY);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1) && same(&rig, 0, 2));
}

static void test_the_last_leg_answers_for_itself(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "last");
    mrig_open(&rig);
    CHECK_EQ(vn_mirror_break(rig.mirror, 1, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(vn_mirror_break(rig.mirror, 0, rig.error, sizeof(rig.error)), -EBUSY);
    CHECK_SAYS(rig.error, "last");
    CHECK_EQ(leg_out(&rig, 1), 0);
    memset(buf, 8, 4096);
    set_switch(&rig, 0, SWITCH_FAIL, READS | WRITES | FLUSHES);
    CHECK_EQ(io(&rig, VN_OP_READ, 0, 4096, back, 0), VN_SC_UNRECOVERED_READ);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 0, 4096, buf, 0), VN_SC_WRITE_FAULT);
    CHECK_EQ(io(&rig, VN_OP_FLUSH, 0, 0, NULL, 0), VN_SC_WRITE_FAULT);
    CHECK_EQ(state_of(&rig, 0), VN_LEG_IN_SYNC);
    set_switch(&rig, 0, SWITCH_PASS, 0);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 0, 4096, buf, 0), 0);
    mrig_close(&rig);
}

/* Both refuse: the host is told, no leg is blamed, and what may differ now is repaired. */
static void test_errors_of_all_legs_are_the_hosts(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "both");
    mrig_open(&rig);
    memset(buf, 9, 4096);
    set_switch(&rig, 0, SWITCH_FAIL, WRITES);
    set_switch(&rig, 1, SWITCH_FAIL, WRITES);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 0, 4096, buf, 0), VN_SC_WRITE_FAULT);
    CHECK_EQ(told(&rig, VN_EVENT_LEG_FAILED, 0) + told(&rig, VN_EVENT_LEG_FAILED, 1), 0);
    set_switch(&rig, 0, SWITCH_PASS, 0);
    set_switch(&rig, 1, SWITCH_PASS, 0);
    UNTIL(info_of(&rig).nr_left == 0);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
}

/* Cancelled in each of its states: it ends, its memory is not touched, and legs that differ now become the same. */
static void test_cancel(void) {
    struct mrig rig;
    struct job first, second, held;
    static uint8_t ones[8192], twos[8192];
    mrig_make(&rig, 2, "cancel");
    mrig_open(&rig);
    memset(ones, 1, sizeof(ones));
    memset(twos, 2, sizeof(twos));
    set_switch(&rig, 1, SWITCH_KEEP, WRITES);
    submit(&rig, &first, VN_OP_WRITE, 0, 8192, ones, 0); /* leg 0 has it, leg 1 does not */
    submit(&rig, &second, VN_OP_WRITE, 4096, 8192, twos, 0);
    UNTIL(kept(&rig, 1) == 1);
    cancel(&second); /* waits for its range */
    CHECK_EQ(wait_for(&second), VN_SC_ABORT_REQUESTED);
    cancel(&first);
    CHECK_EQ(wait_for(&first), VN_SC_ABORT_REQUESTED);
    let_go(&rig, 1); /* the repair has come */
    memset(ones, 0xee, sizeof(ones)); /* it is the host's again */
    UNTIL(info_of(&rig).nr_left == 0);
    set_switch(&rig, 1, SWITCH_FAIL, WRITES);
    submit(&rig, &held, VN_OP_WRITE, 1 << 20, 8192, twos, 0);
    UNTIL(info_of(&rig).held == 1);
    cancel(&held);
    CHECK_EQ(wait_for(&held), VN_SC_ABORT_REQUESTED);
    set_switch(&rig, 1, SWITCH_PASS, 0);
    set_switch(&rig, 0, SWITCH_KEEP, READS);
    submit(&rig, &held, VN_OP_READ, 0, 8192, back, 0);
    UNTIL(kept(&rig, 0) == 1);
    cancel(&held);
    CHECK_EQ(wait_for(&held), VN_SC_ABORT_REQUESTED);
    CHECK_EQ(state_of(&rig, 0), VN_LEG_IN_SYNC); /* who was told to stop has not failed */
    set_switch(&rig, 0, SWITCH_PASS, 0);
    CHECK_EQ(leg_out(&rig, 1), 0);
    CHECK_EQ(leg_in(&rig, 1, false), 0);
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
    CHECK_EQ(planted(&rig, 1, 0), 1);
}

/* More than there is room for are offered again, and all end. */
static void test_busy(void) {
    enum { NR = VN_MIRROR_NR_IOS + 100 };
    static struct job jobs[NR];
    struct mrig rig;
    mrig_make(&rig, 2, "busy");
    mrig_open(&rig);
    set_switch(&rig, 0, SWITCH_KEEP, WRITES);
    for (uint32_t i = 0; i < NR; i++)
        submit(&rig, &jobs[i], VN_OP_WRITE, i % 512 * 4096, 4096, buf, 0);
    UNTIL(kept(&rig, 0) == 512);
    let_go(&rig, 0);
    for (uint32_t i = 0; i < NR; i++)
        CHECK_EQ(wait_for(&jobs[i]), 0);
    struct mrig other = rig;
    CHECK_EQ(vn_reactor_call(rig.reactor, mrig_chan_open, &other), -EBUSY); /* one channel: the order is kept within it */
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
}

static void check_marked(struct switch_filter *filter, const struct vn_req *req) {
    const struct mrig *rig = filter->ctx;
    if (req->op == VN_OP_WRITE || req->op == VN_OP_WRITE_ZEROES)
        CHECK(is_marked(rig->bitmap, req->offset) && is_marked(rig->bitmap, req->offset + req->length - 1));
}

static void test_marks(void) {
    struct mrig rig;
    struct job jobs[64];
    mrig_make(&rig, 2, "marks");
    mrig_open(&rig);
    for (uint32_t leg = 0; leg < 2; leg++) {
        rig.switches[leg]->ctx = &rig;
        rig.switches[leg]->arrived = check_marked;
    }
    for (uint32_t round = 0; round < 5; round++) {
        for (uint32_t i = 0; i < 64; i++)
            submit(&rig, &jobs[i], i % 5 ? VN_OP_WRITE : VN_OP_WRITE_ZEROES, (i * 7 % 31) * RIG_REGION + 61440, 8192, buf, 0);
        for (uint32_t i = 0; i < 64; i++)
            CHECK_EQ(wait_for(&jobs[i]), 0);
        if (round % 2) { /* cleared when nobody writes, and not before all legs have flushed */
            uint32_t flushes = rig.switches[0]->nr_seen[VN_OP_FLUSH];
            UNTIL(info_of(&rig).nr_dirty == 0);
            UNTIL(!is_marked(rig.bitmap, 61440));
            CHECK(rig.switches[0]->nr_seen[VN_OP_FLUSH] > flushes);
        }
    }
    mrig_close(&rig);
    for (uint64_t at = 0; at < RIG_BYTES; at += RIG_REGION)
        CHECK(!is_marked(rig.bitmap, at)); /* an orderly end leaves nothing to copy */
}

/* A bitmap that cannot be written: nothing is, from then on. */
static void test_the_bitmap_breaks(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "broken");
    mrig_open(&rig);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 0, 4096, buf, 0), 0);
    int fd = open("/dev/full", O_WRONLY);
    CHECK(dup2(fd, rig.mirror->map.fd) >= 0);
    close(fd);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 1 << 20, 4096, buf, 0), VN_SC_WRITE_FAULT | VN_STATUS_DNR);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 0, 4096, buf, 0), VN_SC_NS_WRITE_PROTECTED | VN_STATUS_DNR); /* latched */
    CHECK_EQ(io(&rig, VN_OP_READ, 0, 4096, back, 0), 0);
    CHECK_EQ(rig.switches[0]->nr_seen[VN_OP_WRITE], 1);
    mrig_close(&rig);
}

/* One that waits for its range meanwhile ends too, and the repair of what differs does not spin. */
static void test_the_bitmap_breaks_under_a_write_that_waits(void) {
    struct mrig rig;
    struct job first, second;
    mrig_make(&rig, 2, "broken2");
    mrig_open(&rig);
    set_switch(&rig, 1, SWITCH_KEEP, WRITES);
    submit(&rig, &first, VN_OP_WRITE, 61440, 4096, buf, 0);
    submit(&rig, &second, VN_OP_WRITE, 61440, 8192, buf, 0); /* into a region that is not marked */
    UNTIL(kept(&rig, 1) == 1);
    int fd = open("/dev/full", O_WRONLY);
    CHECK(dup2(fd, rig.mirror->map.fd) >= 0);
    close(fd);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 1 << 20, 4096, buf, 0), VN_SC_WRITE_FAULT | VN_STATUS_DNR);
    let_go(&rig, 1);
    CHECK_EQ(wait_for(&first), 0);
    CHECK_EQ(wait_for(&second), VN_SC_WRITE_FAULT | VN_STATUS_DNR);
    mrig_close(&rig);
}

int main(void) {
    buf = aligned_alloc(4096, 65536);
    back = aligned_alloc(4096, 65536);
    memset(buf, 0, 65536);
    test_all_legs_get_everything();
    test_overlapping_writes_keep_one_order();
    test_a_read_goes_elsewhere_and_writes_are_held();
    test_a_write_error_holds(VN_OP_WRITE);
    test_a_write_error_holds(VN_OP_FLUSH);
    test_a_stall_is_a_failure();
    test_a_disk_keeps_its_commands();
    test_a_disk_keeps_what_is_copied();
    test_the_last_leg_answers_for_itself();
    test_errors_of_all_legs_are_the_hosts();
    test_cancel();
    test_busy();
    test_marks();
    test_the_bitmap_breaks();
    test_the_bitmap_breaks_under_a_write_that_waits();
    free(buf);
    free(back);
    return 0;
}
