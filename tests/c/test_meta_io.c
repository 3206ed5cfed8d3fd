/* Commands with metadata on a backend that ends operations in any order, is busy, and fails: nobody ever sees a block's data with
 * the metadata of another write, whatever commands run at once; and every slot and request comes back.
 */
#include "io_rig.h"

#include "ctrl/bounce.h"
#include "ns/meta.h"
#include "ns/ns_state.h"

#define ALL (7u << 26) /* PRCHK */
#define GUARD_REF (5u << 26)
#define BLOCKS 96u /* that the storm is about: two units of metadata, and a bit */
#define PLACE_BYTES 8192u /* of one command in the host's memory: 8 blocks of 512, then their metadata */
#define NR_PLACES 64u

static const struct vn_pi pi = {.block_bytes = 512, .ms = 8, .type = 2};

static void format_here(struct ctrl_rig *rig, const struct vn_format *format) {
    char error[256];
    struct vn_ns *ns = rig->spaces[1];
    memset(store->bytes, 0, STORE_BYTES);
    ns->state->kept.format = (struct vn_format_kept){.formatted = 1, .index = format->index, .extended = format->extended,
                                                     .pi_type = format->pi_type, .pi_first = format->pi_first,
                                                     .size = STORE_BYTES};
    CHECK_EQ(vn_ns_apply_format(ns, error, sizeof(error)), 0);
}

static uint8_t *place(struct ctrl_rig *rig, uint32_t number) {
    return io_data(rig) + (size_t)number * PLACE_BYTES;
}

static struct vn_sqe command(uint8_t opcode, uint32_t number, uint64_t lba, uint32_t nlb, uint32_t control) {
    uint64_t gpa = IO_DATA_GPA + (uint64_t)number * PLACE_BYTES;
    return (struct vn_sqe){.opcode = opcode, .nsid = 1, .prp1 = gpa, .mptr = gpa + VN_PAGE_SIZE, .cdw10 = (uint32_t)lba,
                           .cdw12 = (nlb - 1) | control, .cdw14 = (uint32_t)lba, .cdw15 = 0xffffu << 16};
}

/* Eight blocks that say which write they are of, in their data and in their application tags. Written from any block on, each has
 * the reference tag of the block that it is written to. */
static void fill(struct ctrl_rig *rig, uint32_t number, uint64_t lba, uint16_t stamp) {
    uint8_t *at = place(rig, number);
    struct vn_pi_tags tags = {.ref = (uint32_t)lba, .app = stamp, .app_mask = 0xffff};
    for (uint32_t i = 0; i < 8 * 512; i += 2)
        memcpy(at + i, &stamp, sizeof(stamp));
    vn_pi_generate(&pi, &tags, at, at + VN_PAGE_SIZE, 8);
}

/* What was read: zeros whose tags escape or were made for zeros, or one write's data and tags, block by block. */
static void check_read(struct ctrl_rig *rig, uint32_t number, uint32_t nlb) {
    const uint8_t *at = place(rig, number);
    for (uint32_t i = 0; i < nlb; i++) {
        uint16_t stamp, app;
        memcpy(&stamp, at + (size_t)i * 512, sizeof(stamp));
        memcpy(&app, at + VN_PAGE_SIZE + (size_t)i * 8 + 2, sizeof(app));
        for (uint32_t byte = 0; byte < 512; byte += 2)
            CHECK(!memcmp(at + (size_t)i * 512 + byte, &stamp, sizeof(stamp)));
        CHECK(stamp ? __builtin_bswap16(app) == stamp : app == 0xffff || app == 0);
    }
}

static struct vn_sqe draw(struct ctrl_rig *rig, struct vn_test_random *random, uint32_t number, uint16_t stamp) {
    uint32_t lba = (uint32_t)vn_test_below(random, BLOCKS), nlb = 1 + (uint32_t)vn_test_below(random, 8);
    switch (vn_test_below(random, 10)) {
    case 0:
        return command(VN_IO_WRITE_ZEROES, number, lba, nlb * 4, VN_RW_PRACT);
    case 1: {
        struct vn_dsm_range *range = (struct vn_dsm_range *)(void *)place(rig, number);
        range[0] = (struct vn_dsm_range){.nlb = nlb * 3, .slba = lba};
        range[1] = (struct vn_dsm_range){.nlb = nlb, .slba = (lba + 40) % BLOCKS};
        return (struct vn_sqe){.opcode = VN_IO_DSM, .nsid = 1, .prp1 = IO_DATA_GPA + (uint64_t)number * PLACE_BYTES,
                               .cdw10 = 1, .cdw11 = VN_DSM_AD};
    }
    case 2:
        return command(VN_IO_VERIFY, number, lba, nlb * 5, GUARD_REF);
    case 3:
    case 4:
    case 5:
        return command(VN_IO_READ, number, lba, nlb, GUARD_REF);
    default:
        fill(rig, number, lba, stamp);
        struct vn_sqe cmd = command(VN_IO_WRITE, number, lba, nlb, ALL | (vn_test_below(random, 4) ? 0 : VN_RW_FUA));
        cmd.cdw15 |= stamp;
        return cmd;
    }
}

static bool uses_no_slot(const struct vn_ns *ns) {
    for (size_t i = 0; i < VN_META_SLOTS; i++) {
        if (ns->meta->slots[i].used)
            return false;
    }
    return true;
}

/* abort_ppm: how many are aborted; then a block may end with half of a write, and checks may fail. */
static void storm(struct ctrl_rig *rig, struct vn_test_random *random, uint32_t rounds, uint32_t abort_ppm) {
    struct vn_sqe cmds[NR_PLACES];
    uint16_t cids[NR_PLACES];
    store->holds = true;
    store->busy_ppm = 200000;
    for (uint32_t round = 0; round < rounds; round++) {
        rig->nr_done = 0;
        for (uint32_t i = 0; i < NR_PLACES; i++) {
            cmds[i] = draw(rig, random, i, (uint16_t)(1 + round * NR_PLACES + i));
            cids[i] = rig_submit(rig, 1, cmds[i]);
            for (uint64_t turns = vn_test_below(random, 4); turns; turns--)
                io_turn(rig);
            if (vn_test_below(random, 1000000) < abort_ppm)
                rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = 1 | (uint32_t)cids[i] << 16});
        }
        for (uint32_t i = 0; i < NR_PLACES; i++) {
            vn_status status = io_wait(rig, cids[i]).status;
            CHECK(status == VN_SC_SUCCESS || abort_ppm);
            if (cmds[i].opcode == VN_IO_READ && !abort_ppm)
                check_read(rig, i, VN_RW_NLB(cmds[i].cdw12));
        }
        CHECK(uses_no_slot(rig->spaces[1]));
    }
    store->holds = false;
    store->busy_ppm = 0;
}

static void test_storm(struct ctrl_rig *rig) {
    struct vn_test_random random = store->random;
    format_here(rig, &(struct vn_format){.index = 1, .pi_type = 2});
    io_start(rig);
    CHECK_EQ(rig_create_cq(rig, 2, 512), VN_SC_SUCCESS);
    storm(rig, &random, 60, 0);
    storm(rig, &random, 20, 100000);
    memset(store->bytes, 0, STORE_BYTES);
    storm(rig, &random, 10, 0);
}

/* --- Copy --- */

static struct rig_done copy(struct ctrl_rig *rig, uint64_t to, uint32_t control, uint32_t nr, const struct vn_copy_range *ranges,
                            struct vn_pi_tags tags) {
    memcpy(place(rig, 3), ranges, nr * sizeof(*ranges));
    struct vn_sqe cmd = {.opcode = VN_IO_COPY, .nsid = 1, .prp1 = IO_DATA_GPA + 3 * PLACE_BYTES, .cdw10 = (uint32_t)to,
                         .cdw12 = (nr - 1) | control, .cdw14 = tags.ref, .cdw15 = tags.app | (uint32_t)tags.app_mask << 16};
    return io_command(rig, cmd);
}

static void write_eight(struct ctrl_rig *rig, uint64_t lba, uint16_t stamp) {
    fill(rig, 0, lba, stamp);
    struct vn_sqe cmd = command(VN_IO_WRITE, 0, lba, 8, ALL);
    cmd.cdw15 |= stamp;
    CHECK_EQ(io_command(rig, cmd).status, VN_SC_SUCCESS);
}

static void test_copy(struct ctrl_rig *rig) {
    const struct vn_copy_range ranges[2] = {{.slba = 101, .nlb = 2, .eilbrt = 101, .elbat = 7, .elbatm = 0xffff},
                                            {.slba = 203, .nlb = 4, .eilbrt = 203, .elbat = 9, .elbatm = 0xffff}};
    const struct vn_pi_tags made = {.ref = 77, .app = 0x55, .app_mask = 0xffff};
    write_eight(rig, 100, 7);
    write_eight(rig, 200, 9);
    uint32_t both_pract = VN_RW_PRACT | 8u << 12, read_checks = 7u << 12;
    CHECK_EQ(copy(rig, 300, both_pract | read_checks, 2, ranges, made).status, VN_SC_SUCCESS);
    struct vn_sqe read = command(VN_IO_READ, 1, 300, 8, ALL);
    read.cdw14 = made.ref;
    read.cdw15 = made.app | 0xffffu << 16;
    CHECK_EQ(io_command(rig, read).status, VN_SC_SUCCESS);
    CHECK(place(rig, 1)[0] == 7 && place(rig, 1)[2 * 512] == 7 && place(rig, 1)[3 * 512] == 9);
    /* passed on as it is: reference tags of the source, which do not go on at the second range */
    CHECK_EQ(copy(rig, 400, read_checks, 2, ranges, made).status, VN_SC_SUCCESS);
    read = command(VN_IO_READ, 1, 403, 5, ALL);
    read.cdw14 = 203;
    read.cdw15 |= 9;
    CHECK_EQ(io_command(rig, read).status, VN_SC_SUCCESS);
    CHECK_EQ(copy(rig, 400, read_checks | GUARD_REF, 2, ranges, made).status, VN_SC_REF_TAG_CHECK); /* of the destination */
    /* a source that does not agree */
    struct vn_copy_range wrong[2] = {ranges[0], ranges[1]};
    wrong[1].elbat = 8;
    struct rig_done done = copy(rig, 500, both_pract | read_checks, 2, wrong, made);
    CHECK_EQ(done.status, VN_SC_APP_TAG_CHECK);
    CHECK_EQ(done.result, 1);
    CHECK_EQ(copy(rig, 500, VN_RW_PRACT, 2, ranges, made).status, VN_SC_INVALID_FIELD); /* PRACT on one side */
    CHECK_EQ(copy(rig, 500, 1u << 8, 1, ranges, made).status, VN_SC_INVALID_FIELD); /* the other format's tags */
    wrong[0].slba = vn_ns_nr_blocks(rig->spaces[1]) - 1;
    CHECK_EQ(copy(rig, 500, 0, 2, wrong, made).status, VN_SC_LBA_RANGE);
    CHECK(uses_no_slot(rig->spaces[1]));
}

/* --- Failures --- */

static void test_failures(struct ctrl_rig *rig) {
    write_eight(rig, 100, 7);
    store->write_status = VN_SC_WRITE_FAULT;
    fill(rig, 0, 100, 8);
    CHECK_EQ(io_command(rig, command(VN_IO_WRITE, 0, 100, 8, 0)).status, VN_SC_WRITE_FAULT);
    CHECK_EQ(io_command(rig, command(VN_IO_WRITE_ZEROES, 0, 100, 8, 0)).status, VN_SC_WRITE_FAULT);
    store->write_status = VN_SC_SUCCESS;
    store->bad_lba = 103;
    CHECK_EQ(io_command(rig, command(VN_IO_READ, 1, 100, 8, 0)).status, VN_SC_UNRECOVERED_READ);
    CHECK_EQ(io_command(rig, command(VN_IO_COMPARE, 1, 100, 8, 0)).status, VN_SC_UNRECOVERED_READ);
    CHECK_EQ(io_command(rig, command(VN_IO_VERIFY, 1, 0, 1000, 0)).status, VN_SC_UNRECOVERED_READ);
    store->bad_lba = rig->spaces[1]->meta->layout.meta_start / 512; /* the first unit of metadata */
    CHECK_EQ(io_command(rig, command(VN_IO_READ, 1, 0, 1, 0)).status, VN_SC_UNRECOVERED_READ);
    CHECK_EQ(io_command(rig, command(VN_IO_WRITE, 0, 0, 1, 0)).status, VN_SC_UNRECOVERED_READ); /* what shares its unit */
    store->bad_lba = UINT64_MAX;
    fill(rig, 1, 100, 7);
    CHECK_EQ(io_command(rig, command(VN_IO_COMPARE, 1, 100, 8, 0)).status, VN_SC_SUCCESS);
    CHECK(uses_no_slot(rig->spaces[1]));
}

/* The error log says which block it was. */
static void test_error_log(struct ctrl_rig *rig) {
    fill(rig, 0, 100, 7);
    place(rig, 0)[3 * 512 + 7] ^= 1;
    struct vn_sqe cmd = command(VN_IO_WRITE, 0, 100, 8, GUARD_REF);
    CHECK_EQ(io_command(rig, cmd).status, VN_SC_GUARD_CHECK);
    CHECK_EQ(io_error(rig)->lba, 103);
    CHECK_EQ(io_command(rig, command(VN_IO_WRITE, 0, 100, 8, 0)).status, VN_SC_SUCCESS);
    CHECK_EQ(io_command(rig, command(VN_IO_VERIFY, 0, 98, 20, 4u << 26)).status, VN_SC_GUARD_CHECK);
    CHECK_EQ(io_error(rig)->lba, 103);
}

/* A flush after a write, and FUA: both regions. */
static void test_durability(struct ctrl_rig *rig) {
    store->nr_fua = 0;
    fill(rig, 0, 0, 5);
    CHECK_EQ(io_command(rig, command(VN_IO_WRITE, 0, 0, 8, VN_RW_FUA)).status, VN_SC_SUCCESS);
    CHECK_EQ(store->nr_fua, 2);
    CHECK_EQ(io_command(rig, command(VN_IO_WRITE_ZEROES, 0, 0, 8, VN_RW_FUA)).status, VN_SC_SUCCESS);
    CHECK_EQ(store->nr_fua, 4);
    rig->ctrl.features.vwc = 0;
    CHECK_EQ(io_command(rig, command(VN_IO_WRITE, 0, 0, 8, 0)).status, VN_SC_SUCCESS);
    CHECK_EQ(store->nr_fua, 6);
    rig->ctrl.features.vwc = 1;
    CHECK_EQ(io_command(rig, command(VN_IO_VERIFY, 0, 0, 8, VN_RW_FUA)).status, VN_SC_SUCCESS);
    CHECK_EQ(store->nr_flushes, 1);
}

/* A reset with all slots taken, and commands that wait for one. */
static void test_reset(struct ctrl_rig *rig) {
    store->holds = true;
    for (uint32_t i = 0; i < 60; i++) {
        fill(rig, i, i, (uint16_t)(i + 1));
        rig_submit(rig, 1, command(i % 3 ? VN_IO_WRITE : VN_IO_READ, i, i, 1 + i % 8, 0));
    }
    CHECK(!uses_no_slot(rig->spaces[1]));
    rig_disable_here(rig);
    while (store_end_one())
        vn_ctrl_retry_busy(&rig->ctrl);
    store->holds = false;
    CHECK_EQ(rig->ctrl.nr_inflight, 0);
    CHECK(uses_no_slot(rig->spaces[1]));
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    struct ctrl_rig *rig = rig_make(NULL);
    store_attach(rig, random.state);
    rig_on(rig, test_storm);
    rig_on(rig, test_copy);
    rig_on(rig, test_failures);
    rig_on(rig, test_error_log);
    rig_on(rig, test_durability);
    rig_on(rig, test_reset);
    rig_free(rig);
    return 0;
}
