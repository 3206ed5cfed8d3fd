/* Write Uncorrectable: what is marked cannot be read by any command, until it is written by any command; the marks are in the
 * file before a command ends.
 */
#include "io_rig.h"

#include "ns/ns_state.h"

static char state_path[300];

static vn_status io(struct ctrl_rig *rig, uint8_t opcode, uint64_t lba, uint32_t nlb) {
    memset(io_data(rig), 0xaa, 2 * VN_PAGE_SIZE); /* is nowhere on the disk */
    return io_command(rig, io_ranged(opcode, lba, nlb)).status;
}

static const struct vn_marks *marks_of(struct ctrl_rig *rig) {
    return &rig->spaces[1]->state->kept.marks;
}

/* Saves go through the reactor's ring: commands are sent on it, and waited for from outside. */
static struct vn_sqe sqe;
static uint16_t sqe_cid;

static void send_it(struct ctrl_rig *rig) {
    rig->nr_done = 0;
    sqe_cid = rig_submit(rig, 1, sqe);
}

static vn_status run(struct ctrl_rig *rig, struct vn_sqe cmd) {
    sqe = cmd;
    rig_on(rig, send_it);
    RIG_WAIT(rig, rig_completion(rig, 1, sqe_cid));
    return VN_STATUS_CODE(rig_completion(rig, 1, sqe_cid)->status);
}

static vn_status mark(struct ctrl_rig *rig, uint64_t lba, uint32_t nlb) {
    return run(rig, io_ranged(VN_IO_WRITE_UNCORRECTABLE, lba, nlb));
}

/* What the file has, as a process that is started now would find it. */
static void check_file(struct ctrl_rig *rig) {
    struct vn_ns ns = {.state_path = state_path, .backend = &store->backend, .nr_blocks = STORE_BLOCKS, .block_shift = 9};
    char error[256] = "";
    int err = vn_ns_state_open(&ns, error, sizeof(error));
    if (err)
        fprintf(stderr, "%s\n", error);
    CHECK_EQ(err, 0);
    CHECK_EQ(ns.state->kept.marks.nr, marks_of(rig)->nr);
    CHECK(!memcmp(ns.state->kept.marks.ranges, marks_of(rig)->ranges, marks_of(rig)->nr * sizeof(struct vn_mark)));
    vn_ns_state_close(&ns);
}

static void check_reads(struct ctrl_rig *rig) {
    static const uint8_t opcodes[] = {VN_IO_READ, VN_IO_COMPARE, VN_IO_VERIFY};
    for (size_t i = 0; i < VN_ARRAY_SIZE(opcodes); i++) {
        CHECK_EQ(io(rig, opcodes[i], 100, 8), VN_SC_UNRECOVERED_READ);
        CHECK_EQ(io_error(rig)->lba, 100);
        CHECK_EQ(io(rig, opcodes[i], 90, 11), VN_SC_UNRECOVERED_READ);
        CHECK_EQ(io_error(rig)->lba, 100); /* the first of them */
        CHECK_EQ(io(rig, opcodes[i], 105, 16), VN_SC_UNRECOVERED_READ);
        CHECK_EQ(io_error(rig)->lba, 105);
        vn_status beside = opcodes[i] == VN_IO_COMPARE ? VN_SC_COMPARE_FAILURE : VN_SC_SUCCESS;
        CHECK_EQ(io(rig, opcodes[i], 90, 10), beside);
        CHECK_EQ(io(rig, opcodes[i], 110, 10), beside);
    }
    struct vn_copy_range *ranges = (struct vn_copy_range *)(void *)io_data(rig);
    ranges[0] = (struct vn_copy_range){.slba = 10, .nlb = 7};
    ranges[1] = (struct vn_copy_range){.slba = 102, .nlb = 2};
    struct rig_done done = io_command(rig, io_ranged(VN_IO_COPY, 1000, 2));
    CHECK_EQ(done.status, VN_SC_UNRECOVERED_READ);
    CHECK_EQ(done.result, 1);
    CHECK_EQ(io_error(rig)->lba, 102);
    CHECK(!memcmp(store->bytes + 1000 * 512, store->bytes + 10 * 512, 8 * 512));
}

static void test_marked(struct ctrl_rig *rig) {
    uint64_t media_errors = rig->ctrl.counters.media_errors;
    CHECK_EQ(mark(rig, 100, 10), VN_SC_SUCCESS);
    CHECK_EQ(rig->spaces[1]->special, VN_NS_SPECIAL_MARKS);
    check_file(rig);
    rig_on(rig, check_reads);
    CHECK(rig->ctrl.counters.media_errors > media_errors);
}

/* Each command that writes removes the marks of what it writes, and of no more. */
static void test_written_over(struct ctrl_rig *rig) {
    struct vn_sqe dsm = {.opcode = VN_IO_DSM, .nsid = 1, .prp1 = IO_DATA_GPA, .cdw11 = VN_DSM_AD};
    struct vn_sqe writes[] = {io_ranged(VN_IO_WRITE, 105, 2), io_ranged(VN_IO_WRITE_ZEROES, 105, 2),
                              io_ranged(VN_IO_COPY, 105, 1), dsm};
    for (size_t i = 0; i < VN_ARRAY_SIZE(writes); i++) {
        CHECK_EQ(mark(rig, 100, 10), VN_SC_SUCCESS);
        CHECK_EQ(marks_of(rig)->nr, 1);
        if (writes[i].opcode == VN_IO_DSM)
            *(struct vn_dsm_range *)(void *)io_data(rig) = (struct vn_dsm_range){.slba = 105, .nlb = 2};
        else
            *(struct vn_copy_range *)(void *)io_data(rig) = (struct vn_copy_range){.slba = 10, .nlb = 1};
        CHECK_EQ(run(rig, writes[i]), VN_SC_SUCCESS);
        CHECK_EQ(marks_of(rig)->nr, 2);
        CHECK_EQ(vn_marks_first(marks_of(rig), 105, 2), VN_NO_MARK);
        CHECK_EQ(vn_marks_first(marks_of(rig), 104, 1), 104);
        check_file(rig);
        CHECK_EQ(run(rig, io_ranged(VN_IO_READ, 105, 2)), VN_SC_SUCCESS);
        CHECK_EQ(run(rig, io_ranged(VN_IO_READ, 105, 3)), VN_SC_UNRECOVERED_READ);
    }
    store->write_status = VN_SC_WRITE_FAULT; /* what could not be written stays marked */
    CHECK_EQ(run(rig, io_ranged(VN_IO_WRITE, 98, 14)), VN_SC_WRITE_FAULT);
    CHECK_EQ(marks_of(rig)->nr, 2);
    store->write_status = VN_SC_SUCCESS;
    CHECK_EQ(run(rig, io_ranged(VN_IO_WRITE, 98, 14)), VN_SC_SUCCESS);
    CHECK_EQ(rig->spaces[1]->special, 0);
    check_file(rig);
}

static void test_full(struct ctrl_rig *rig) {
    for (uint64_t i = 0; i < VN_NR_MARKS_MADE; i++)
        CHECK_EQ(mark(rig, 10 * i, 3), VN_SC_SUCCESS);
    CHECK_EQ(mark(rig, 5000, 1), VN_SC_CAPACITY_EXCEEDED);
    CHECK_EQ(run(rig, io_ranged(VN_IO_READ, 5000, 1)), VN_SC_SUCCESS);
    for (uint64_t i = 0; i < VN_NR_MARKS_MADE; i++)
        CHECK_EQ(run(rig, io_ranged(VN_IO_WRITE, 10 * i + 1, 1)), VN_SC_SUCCESS);
    CHECK_EQ(marks_of(rig)->nr, VN_NR_MARKS);
    check_file(rig);
    CHECK_EQ(mark(rig, 0, 8192), VN_SC_SUCCESS); /* all of it: one range */
    CHECK_EQ(marks_of(rig)->nr, 1);
    CHECK_EQ(run(rig, io_ranged(VN_IO_WRITE_ZEROES, 0, 8192)), VN_SC_SUCCESS);
    CHECK_EQ(rig->spaces[1]->special, 0);
}

static void test_refusals(struct ctrl_rig *rig) {
    CHECK_EQ(mark(rig, STORE_BLOCKS - 1, 2), VN_SC_LBA_RANGE);
    CHECK_EQ(mark(rig, UINT64_MAX, 1), VN_SC_LBA_RANGE);
    rig->spaces[1]->read_only = true;
    CHECK_EQ(mark(rig, 1, 1), VN_SC_NS_WRITE_PROTECTED);
    rig->spaces[1]->read_only = false;
    CHECK_EQ(rig->spaces[1]->special, 0);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    snprintf(state_path, sizeof(state_path), "%s/d.state", vn_test_dir());
    struct ctrl_rig *rig = rig_make(NULL);
    store_attach_kept(rig, random.state, state_path);
    rig_on(rig, io_start);
    test_marked(rig);
    test_written_over(rig);
    test_full(rig);
    test_refusals(rig);
    rig_free(rig);
    return 0;
}
