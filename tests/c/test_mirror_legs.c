/* The mirror's legs: what comes back is brought up to date, what crashed is repaired, what is stale is never read; and what
 * Python may not ask for is refused.
 */
#include "mirror_rig.h"

#define READS (1u << VN_OP_READ)
#define WRITES (1u << VN_OP_WRITE)
#define FLUSHES (1u << VN_OP_FLUSH)

static uint8_t *buf, *back;

static void put_out(struct mrig *rig, uint32_t leg) {
    CHECK_EQ(vn_mirror_break(rig->mirror, leg, rig->error, sizeof(rig->error)), 0);
    CHECK_EQ(leg_out(rig, leg), 0);
}

static void write_block(struct mrig *rig, uint64_t offset, uint8_t value) {
    memset(buf, value, RIG_BLOCK);
    CHECK_EQ(io(rig, VN_OP_WRITE, offset, RIG_BLOCK, buf, 0), 0);
}

static uint8_t read_block(struct mrig *rig, uint64_t offset) {
    CHECK_EQ(io(rig, VN_OP_READ, offset, RIG_BLOCK, back, 0), 0);
    return back[0];
}

/* By the bitmap: only what was written meanwhile is copied. */
static void test_a_leg_comes_back(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "back");
    mrig_open(&rig);
    write_block(&rig, 0, 1);
    put_out(&rig, 0);
    write_block(&rig, 0, 2);
    write_block(&rig, 1 << 20, 3);
    CHECK_EQ(read_block(&rig, 0), 2); /* a stale leg is not read, though it is the preferred one */
    plant(&rig, 0, 512 << 10, 99);    /* in a region that nobody has written: it shows what is copied */
    set_switch(&rig, 0, SWITCH_KEEP, FLUSHES);
    CHECK_EQ(leg_in(&rig, 0, false), 0);
    write_block(&rig, 64 << 10, 4); /* goes there at once */
    UNTIL(kept(&rig, 0) == 1);
    uint32_t reads = rig.switches[0]->nr_seen[VN_OP_READ];
    CHECK_EQ(state_of(&rig, 0), VN_LEG_REBUILDING);
    CHECK_EQ(leg_counts(&rig, 0), -ESTALE);
    let_go(&rig, 0);
    UNTIL(told(&rig, VN_EVENT_LEG_IN_SYNC, 0) == 1);
    CHECK_EQ(state_of(&rig, 0), VN_LEG_READY);
    CHECK_EQ(read_block(&rig, 0), 2);
    CHECK_EQ(rig.switches[0]->nr_seen[VN_OP_READ], reads); /* ready is not in sync */
    CHECK_EQ(leg_counts(&rig, 0), 0);
    CHECK_EQ(leg_counts(&rig, 0), 0);
    CHECK_EQ(read_block(&rig, 0), 2);
    CHECK(rig.switches[0]->nr_seen[VN_OP_READ] > reads);
    UNTIL(info_of(&rig).nr_dirty == 0);
    mrig_close(&rig);
    CHECK_EQ(planted(&rig, 0, 0), 2);
    CHECK_EQ(planted(&rig, 0, 1 << 20), 3);
    CHECK_EQ(planted(&rig, 0, 64 << 10), 4);
    CHECK_EQ(planted(&rig, 0, 512 << 10), 99);
}

/* A new one gets all, into a backend that is opened while the mirror is in use; then the old one goes: a move. */
static void test_moving(void) {
    struct mrig rig;
    struct vn_backend *backend = NULL;
    mrig_make(&rig, 1, "move");
    mrig_open(&rig);
    for (uint64_t at = 0; at < RIG_BYTES; at += 5 * RIG_BLOCK)
        write_block(&rig, at, (uint8_t)(at / RIG_BLOCK + 1));
    struct vn_ns_opts to = rig.legs[0];
    snprintf(rig.paths[1], sizeof(rig.paths[1]), "%s/move.to", vn_test_dir());
    to.path = rig.paths[1];
    plant(&rig, 1, 8192, 77); /* it was something else before */
    CHECK_EQ(vn_backend_open(&to, &backend, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(vn_mirror_in_again(rig.mirror, 1, backend, false, rig.error, sizeof(rig.error)), -EINVAL);
    CHECK_SAYS(rig.error, "FULL");
    CHECK_EQ(vn_mirror_in_again(rig.mirror, 1, backend, true, rig.error, sizeof(rig.error)), 0);
    for (uint64_t at = 0; at < RIG_BYTES; at += 3 * RIG_BLOCK)
        write_block(&rig, at, (uint8_t)(at / RIG_BLOCK + 2));
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    CHECK_EQ(info_of(&rig).legs[1].covered, 1);
    CHECK_EQ(vn_mirror_close_leg(rig.mirror, 0, true, rig.error, sizeof(rig.error)), -EINVAL); /* not yet */
    CHECK_EQ(vn_mirror_break(rig.mirror, 0, rig.error, sizeof(rig.error)), -EBUSY); /* the new one does not count yet */
    CHECK_EQ(leg_counts(&rig, 1), 0);
    CHECK_EQ(vn_mirror_set_preferred(rig.mirror, 1, rig.error, sizeof(rig.error)), 0);
    put_out(&rig, 0);
    CHECK_EQ(vn_mirror_close_leg(rig.mirror, 0, true, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(state_of(&rig, 0), VN_LEG_NONE);
    CHECK(same(&rig, 0, 1));
    write_block(&rig, 0, 200);
    UNTIL(info_of(&rig).nr_dirty == 0); /* who has been dropped keeps no bit */
    mrig_close(&rig);
    CHECK_EQ(planted(&rig, 1, 0), 200);
    CHECK(planted(&rig, 0, 0) != 200);
}

/* Writes of the host and the copy go for the same blocks all the time. */
static void test_copying_under_writes(void) {
    enum { NR = 24, ROUNDS = 40 };
    static struct job jobs[NR];
    static uint8_t data[NR][16384];
    struct vn_test_random random = vn_test_seed();
    struct mrig rig;
    mrig_make(&rig, 2, "under");
    mrig_open(&rig);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        if (round % 8 == 0 && round) {
            UNTIL(state_of(&rig, 1) == VN_LEG_READY);
            CHECK_EQ(leg_counts(&rig, 1), 0);
        }
        if (round % 8 == 0)
            put_out(&rig, 1);
        for (uint32_t i = 0; i < NR; i++) {
            uint64_t length = (1 + vn_test_below(&random, 4)) * RIG_BLOCK;
            memset(data[i], (int)vn_test_below(&random, 255) + 1, length);
            submit(&rig, &jobs[i], i % 7 ? VN_OP_WRITE : VN_OP_DEALLOCATE,
                   vn_test_below(&random, (RIG_BYTES - length) / RIG_BLOCK) * RIG_BLOCK, length, i % 7 ? data[i] : NULL, 0);
            if (round % 8 == 2 && i == NR / 2)
                CHECK_EQ(leg_in(&rig, 1, round == 10), 0);
        }
        for (uint32_t i = 0; i < NR; i++)
            CHECK_EQ(wait_for(&jobs[i]), 0);
    }
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
}

/* One that has failed while it was ready may have been recorded as in sync already: so it holds as if it was. */
static void test_a_leg_fails_while_it_comes_back(void) {
    struct mrig rig;
    struct job job;
    mrig_make(&rig, 2, "again");
    rig.mopts.leg_timeout_ms = 800;
    mrig_open(&rig);
    put_out(&rig, 1);
    write_block(&rig, 0, 1);
    set_switch(&rig, 1, SWITCH_FAIL, WRITES);
    CHECK_EQ(leg_in(&rig, 1, false), 0);
    UNTIL(told(&rig, VN_EVENT_LEG_LOST, 1) == 1);
    CHECK_EQ(state_of(&rig, 1), VN_LEG_OUT);
    write_block(&rig, 0, 2); /* is not held */
    set_switch(&rig, 1, SWITCH_KEEP, 0);
    CHECK_EQ(leg_in(&rig, 1, false), 0);
    UNTIL(told(&rig, VN_EVENT_LEG_LOST, 1) == 2); /* too slow */
    set_switch(&rig, 1, SWITCH_PASS, 0);
    CHECK_EQ(leg_in(&rig, 1, false), 0);
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    set_switch(&rig, 1, SWITCH_FAIL, WRITES);
    memset(buf, 3, RIG_BLOCK);
    submit(&rig, &job, VN_OP_WRITE, 0, RIG_BLOCK, buf, 0);
    UNTIL(info_of(&rig).held == 1);
    CHECK_EQ(state_of(&rig, 1), VN_LEG_FAILED);
    CHECK_EQ(leg_counts(&rig, 1), -ESTALE);
    CHECK_EQ(leg_out(&rig, 1), 0);
    CHECK_EQ(wait_for(&job), 0);
    mrig_close(&rig);
}

/* The source fails while a leg is being rebuilt: another one goes on; the last one that cannot be read ends it. */
static void test_a_source_fails(void) {
    struct mrig rig;
    mrig_make(&rig, 3, "source");
    mrig_open(&rig);
    put_out(&rig, 2);
    write_block(&rig, 0, 5);
    set_switch(&rig, 0, SWITCH_FAIL, READS);
    CHECK_EQ(leg_in(&rig, 2, false), 0);
    UNTIL(state_of(&rig, 2) == VN_LEG_READY);
    CHECK_EQ(state_of(&rig, 0), VN_LEG_FAILED);
    CHECK_EQ(leg_out(&rig, 0), 0);
    CHECK_EQ(leg_counts(&rig, 2), 0);
    put_out(&rig, 2);
    write_block(&rig, 0, 6);
    set_switch(&rig, 1, SWITCH_FAIL, READS);
    CHECK_EQ(leg_in(&rig, 2, false), 0);
    UNTIL(told(&rig, VN_EVENT_LEG_LOST, 2) == 1);
    CHECK_EQ(state_of(&rig, 1), VN_LEG_IN_SYNC);
    mrig_close(&rig);
}

/* After a crash the bitmap says where legs may differ; all then becomes what the leg that is read has. */
static void test_a_crash(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "crash");
    mrig_open(&rig);
    write_block(&rig, 0, 1);
    write_block(&rig, 1 << 20, 2);
    CHECK(is_marked(rig.bitmap, 0) && is_marked(rig.bitmap, 1 << 20));
    char saved[320];
    snprintf(saved, sizeof(saved), "cp %s %s.saved", rig.bitmap, rig.bitmap);
    CHECK_EQ(system(saved), 0);
    mrig_close(&rig);
    snprintf(saved, sizeof(saved), "mv %s.saved %s", rig.bitmap, rig.bitmap);
    CHECK_EQ(system(saved), 0);
    plant(&rig, 0, 0, 10); /* a write that had come to the one and not to the other */
    plant(&rig, 1, (1 << 20) + 8192, 20);
    plant(&rig, 1, 512 << 10, 30); /* not marked: left alone */
    rig.mopts.flags = 0;
    mrig_open(&rig);
    CHECK_EQ(info_of(&rig).generation, 2);
    CHECK_EQ(read_block(&rig, 0), 10);
    CHECK_EQ(read_block(&rig, (1 << 20) + 8192), 0);
    UNTIL(info_of(&rig).nr_left == 0);
    mrig_close(&rig);
    CHECK_EQ(planted(&rig, 1, 0), 10);
    CHECK_EQ(planted(&rig, 1, (1 << 20) + 8192), 0);
    CHECK_EQ(planted(&rig, 1, 512 << 10), 30);
}

/* A new bitmap knows nothing: all is copied from the leg that is read, unless it is said that the legs are the same. */
static void test_a_new_bitmap(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "new");
    rig.mopts.flags = 0;
    plant(&rig, 0, 8192, 1);
    plant(&rig, 1, 8192, 2);
    plant(&rig, 1, 1 << 20, 2);
    mrig_open(&rig);
    CHECK_EQ(info_of(&rig).nr_dirty, RIG_BYTES / RIG_REGION);
    UNTIL(info_of(&rig).nr_left == 0);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
    CHECK_EQ(planted(&rig, 1, 8192), 1);
}

static int open_fails(struct mrig *rig) {
    return vn_backend_open(&rig->opts, &rig->backend, rig->error, sizeof(rig->error));
}

/* A leg that is not there at the start has failed, and holds; it comes back by what was written meanwhile. */
static void test_a_leg_is_missing_at_first(void) {
    struct mrig rig;
    struct job job;
    struct vn_backend *backend;
    mrig_make(&rig, 2, "missing");
    mrig_open(&rig);
    mrig_close(&rig);
    rig.legs[1].path = "/nowhere/at/all";
    mrig_open(&rig);
    CHECK_EQ(told(&rig, VN_EVENT_LEG_FAILED, 1), 1);
    memset(buf, 4, RIG_BLOCK);
    submit(&rig, &job, VN_OP_WRITE, 0, RIG_BLOCK, buf, 0);
    UNTIL(info_of(&rig).held == 1);
    CHECK_EQ(leg_out(&rig, 1), 0);
    CHECK_EQ(wait_for(&job), 0);
    CHECK_EQ(leg_in(&rig, 1, false), -EINVAL);
    CHECK_SAYS(rig.error, "nothing open");
    rig.legs[1].path = rig.paths[1];
    CHECK_EQ(vn_backend_open(&rig.legs[1], &backend, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(vn_mirror_in_again(rig.mirror, 1, backend, false, rig.error, sizeof(rig.error)), 0);
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
    CHECK_EQ(planted(&rig, 1, 0), 4);
    rig.legs[0].path = rig.legs[1].path = "/nowhere/at/all"; /* none at all: that is an error */
    CHECK_EQ(open_fails(&rig), -ENOENT);
    CHECK_SAYS(rig.error, "leg 1");
}

/* The leg is opened anew: by a failed flush, it may have forgotten; and while no channel is open. */
static void test_closing_a_leg(void) {
    struct mrig rig;
    struct vn_backend *backend;
    mrig_make(&rig, 2, "close");
    mrig_open(&rig);
    put_out(&rig, 1);
    write_block(&rig, 0, 9);
    CHECK_EQ(vn_backend_open(&rig.legs[1], &backend, rig.error, sizeof(rig.error)), -EBUSY); /* its file is locked */
    CHECK_EQ(vn_mirror_close_leg(rig.mirror, 0, false, rig.error, sizeof(rig.error)), -EINVAL);
    CHECK_EQ(vn_mirror_close_leg(rig.mirror, 1, false, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(vn_mirror_close_leg(rig.mirror, 7, false, rig.error, sizeof(rig.error)), -EINVAL);
    CHECK_EQ(info_of(&rig).legs[1].open, 0);
    CHECK_EQ(vn_reactor_call(rig.reactor, mrig_chan_close, &rig), 0);
    mrig_wait_detached(&rig);
    CHECK_EQ(vn_backend_open(&rig.legs[1], &backend, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(vn_mirror_in_again(rig.mirror, 1, backend, false, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(state_of(&rig, 1), VN_LEG_REBUILDING); /* it begins when it is attached */
    mrig_attach(&rig);
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    CHECK_EQ(leg_counts(&rig, 1), 0);
    mrig_close(&rig);
    CHECK(same(&rig, 0, 1));
}

static void test_what_is_refused(void) {
    struct mrig rig, other;
    struct vn_backend *backend;
    mrig_make(&rig, 2, "refuse");
    mrig_open(&rig);
    mrig_make(&other, 2, "refuse2");
    snprintf(other.bitmap, sizeof(other.bitmap), "%s", rig.bitmap);
    CHECK_EQ(open_fails(&other), -EBUSY);
    CHECK_SAYS(other.error, "in use");
    put_out(&rig, 1);
    struct vn_ns_opts small = {.backend = "mem", .size = RIG_BYTES / 2, .block_size = RIG_BLOCK};
    CHECK_EQ(vn_backend_open(&small, &backend, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(vn_mirror_in_again(rig.mirror, 1, backend, true, rig.error, sizeof(rig.error)), -EINVAL);
    CHECK_SAYS(rig.error, "bytes");
    vn_backend_close(backend);
    mrig_close(&rig);
    other.mopts.uuid[0] = 8;
    CHECK_EQ(open_fails(&other), -ESTALE);
    CHECK_SAYS(other.error, "another mirror");
    other.mopts.uuid[0] = 7;
    other.opts.size = RIG_BYTES / 2;
    int fd = open(rig.bitmap, O_RDWR);
    CHECK_EQ(pwrite(fd, "\x80", 1, 4096 + RIG_BYTES / RIG_REGION / 8 - 1), 1); /* the legs differ at the end */
    CHECK_EQ(open_fails(&other), -ESTALE);
    CHECK_SAYS(other.error, "differ");
    CHECK_EQ(pwrite(fd, "x", 1, 33), 1);
    close(fd);
    other.opts.size = 0;
    CHECK_EQ(open_fails(&other), -ESTALE);
    CHECK_SAYS(other.error, "damaged");
    other.mopts.bitmap_path = vn_test_dir();
    CHECK(open_fails(&other) < 0);
    other.mopts.bitmap_path = NULL;
    CHECK_EQ(open_fails(&other), -EINVAL);
    other.mopts.states[0] = VN_LEG_FAILED;
    CHECK_EQ(open_fails(&other), -EINVAL);
    other.mopts.states[0] = other.mopts.states[1] = VN_LEG_OUT;
    CHECK_EQ(open_fails(&other), -ENODEV);
    other.legs[0].backend = "mirror";
    other.mopts.states[0] = VN_LEG_IN_SYNC;
    CHECK_EQ(open_fails(&other), -EINVAL);
    other.opts.mirror = NULL;
    CHECK_EQ(open_fails(&other), -EINVAL);
}

/* Not faster than allowed. */
static void test_the_rate(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "rate");
    rig.mopts.rebuild_rate = 4u << 20;
    mrig_open(&rig);
    put_out(&rig, 1);
    for (uint64_t at = 0; at < RIG_BYTES; at += RIG_REGION)
        write_block(&rig, at, 1);
    uint64_t start_ns = vn_monotonic_ns();
    CHECK_EQ(leg_in(&rig, 1, false), 0);
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    CHECK(vn_monotonic_ns() - start_ns >= 400000000ull); /* 2 MiB */
    CHECK_EQ(info_of(&rig).copied_bytes, RIG_BYTES);
    mrig_close(&rig);
}

/* Read-only: what may differ stays so, and is read from one leg. */
static void test_read_only(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "readonly");
    rig.mopts.flags = 0;
    plant(&rig, 0, 0, 1);
    plant(&rig, 1, 0, 2);
    rig.opts.flags = VN_NS_READ_ONLY;
    mrig_open(&rig);
    CHECK_EQ(read_block(&rig, 0), 1);
    CHECK_EQ(io(&rig, VN_OP_WRITE, 0, RIG_BLOCK, buf, 0), VN_SC_NS_WRITE_PROTECTED | VN_STATUS_DNR);
    put_out(&rig, 0);
    CHECK_EQ(leg_in(&rig, 0, false), -EROFS);
    mrig_close(&rig);
    CHECK_EQ(planted(&rig, 1, 0), 2);
}

int main(void) {
    buf = aligned_alloc(4096, 65536);
    back = aligned_alloc(4096, 65536);
    test_a_leg_comes_back();
    test_moving();
    test_copying_under_writes();
    test_a_leg_fails_while_it_comes_back();
    test_a_source_fails();
    test_a_crash();
    test_a_new_bitmap();
    test_a_leg_is_missing_at_first();
    test_closing_a_leg();
    test_what_is_refused();
    test_the_rate();
    test_read_only();
    free(buf);
    free(back);
    return 0;
}
