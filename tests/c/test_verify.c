/* Verify: reads in steps, finds the one bad block wherever it is, tells the host nothing of the data, ends when it is told.
 */
#include "io_rig.h"

#include "ctrl/bounce.h"

static void test_reads_all(struct ctrl_rig *rig) {
    io_start(rig);
    static const uint32_t sizes[] = {1, 8, 2047, 2048, 2049, 8192};
    uint64_t bytes = 0;
    for (size_t i = 0; i < VN_ARRAY_SIZE(sizes); i++) {
        CHECK_EQ(io_command(rig, io_ranged(VN_IO_VERIFY, 0, sizes[i])).status, VN_SC_SUCCESS);
        bytes += sizes[i] * 512ull;
        CHECK_EQ(rig->ctrl.counters.read_bytes, bytes);
    }
    CHECK_EQ(rig->ctrl.counters.reads, 0); /* SMART counts its data, but it is no host read */
    CHECK_EQ(store->largest, VN_BOUNCE_BYTES);
    CHECK_EQ(store->nr_flushes, 0);
    struct vn_sqe fua = io_ranged(VN_IO_VERIFY, 0, 8);
    fua.cdw12 |= VN_RW_FUA | VN_RW_LR;
    CHECK_EQ(io_command(rig, fua).status, VN_SC_SUCCESS);
    CHECK_EQ(store->nr_flushes, 1);
}

static void test_bad_block(struct ctrl_rig *rig) {
    for (uint64_t bad = 0; bad < 8192; bad += 1023) {
        store->bad_lba = bad;
        CHECK_EQ(io_command(rig, io_ranged(VN_IO_VERIFY, 0, 8192)).status, VN_SC_UNRECOVERED_READ);
        CHECK_EQ(io_error(rig)->nsid, 1);
        CHECK_EQ(io_command(rig, io_ranged(VN_IO_VERIFY, bad + 1, 10)).status, bad + 10 < 8192 ? 0 : VN_SC_LBA_RANGE);
    }
    store->bad_lba = UINT64_MAX;
}

static void test_refusals(struct ctrl_rig *rig) {
    CHECK_EQ(io_command(rig, io_ranged(VN_IO_VERIFY, STORE_BLOCKS - 1, 2)).status, VN_SC_LBA_RANGE);
    CHECK_EQ(io_error(rig)->parm_error_location, 40);
    CHECK_EQ(io_command(rig, io_ranged(VN_IO_VERIFY, UINT64_MAX, 2)).status, VN_SC_LBA_RANGE);
    for (uint32_t prinfo = 1; prinfo < 16; prinfo++) {
        struct vn_sqe cmd = io_ranged(VN_IO_VERIFY, 0, 1);
        cmd.cdw12 |= prinfo << 26;
        CHECK_EQ(io_command(rig, cmd).status, VN_SC_INVALID_FIELD);
        CHECK_EQ(io_error(rig)->parm_error_location, 51 | 2 << 8);
    }
}

/* More at once than there are buffers: each has its turn. */
static void test_many_at_once(struct ctrl_rig *rig) {
    uint16_t cids[40];
    rig->nr_done = 0;
    store->holds = true;
    store->busy_ppm = 300000;
    for (size_t i = 0; i < VN_ARRAY_SIZE(cids); i++)
        cids[i] = rig_submit(rig, 1, io_ranged(VN_IO_VERIFY, i, 1 + (uint32_t)i * 200));
    CHECK(store->nr_held <= VN_NR_BOUNCES);
    for (size_t i = 0; i < VN_ARRAY_SIZE(cids); i++)
        CHECK_EQ(io_wait(rig, cids[i]).status, VN_SC_SUCCESS);
    CHECK_EQ(rig->nr_done, VN_ARRAY_SIZE(cids));
    CHECK(!rig->ctrl.busy_first);
}

/* Those that read, those that are between two steps and those that wait for a buffer end, and the buffers come back. */
static void test_abort(struct ctrl_rig *rig) {
    uint16_t cids[8];
    rig->nr_done = 0;
    store->busy_ppm = 0;
    for (size_t i = 0; i < VN_ARRAY_SIZE(cids); i++)
        cids[i] = rig_submit(rig, 1, io_ranged(VN_IO_VERIFY, 0, 8192));
    store_end_one(); /* between two steps */
    for (size_t i = 0; i < VN_ARRAY_SIZE(cids); i++)
        rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = 1 | (uint32_t)cids[i] << 16});
    for (size_t i = 0; i < 4; i++) /* no more than four Aborts wait at once */
        CHECK_EQ(io_wait(rig, cids[i]).status, VN_SC_ABORT_REQUESTED);
    for (size_t i = 4; i < VN_ARRAY_SIZE(cids); i++)
        io_wait(rig, cids[i]);
    store->holds = false;
    for (size_t i = 0; i < 2 * VN_NR_BOUNCES; i++)
        CHECK_EQ(io_command(rig, io_ranged(VN_IO_VERIFY, 0, 8192)).status, VN_SC_SUCCESS);
}

/* A reset while they wait; rig_free checks that every request has come home. */
static void hang(struct ctrl_rig *rig) {
    store->holds = true;
    for (size_t i = 0; i < 8; i++)
        rig_submit(rig, 1, io_ranged(VN_IO_VERIFY, 0, 8192));
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
}

static void end_all(struct ctrl_rig *rig) {
    (void)rig;
    while (store_end_one())
        ;
    store->holds = false;
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    struct ctrl_rig *rig = rig_make(NULL);
    store_attach(rig, random.state);
    rig_on(rig, test_reads_all);
    rig_on(rig, test_bad_block);
    rig_on(rig, test_refusals);
    rig_on(rig, test_many_at_once);
    rig_on(rig, test_abort);
    for (int given_up = 0; given_up < 2; given_up++) {
        rig_on(rig, hang);
        if (given_up)
            RIG_WAIT(rig, rig->ctrl.nr_orphans); /* two seconds */
        rig_on(rig, end_all);
        RIG_WAIT(rig, rig->ctrl.state == VN_CTRL_DISABLED && !rig->ctrl.nr_orphans);
        rig_on(rig, io_start);
    }
    rig_free(rig);
    return 0;
}
