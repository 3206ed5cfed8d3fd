/* The properties: what reads as what, enabling and its refusals, reset and shutdown at awkward moments.
 */
#include "ctrl_rig.h"

static uint64_t read_reg(struct ctrl_rig *rig, uint32_t offset, uint32_t size) {
    return vn_ctrl_reg_read(&rig->ctrl, offset, size);
}

static void write_reg(struct ctrl_rig *rig, uint32_t offset, uint64_t value, uint32_t size) {
    vn_ctrl_reg_write(&rig->ctrl, offset, value, size);
}

static void test_reads(struct ctrl_rig *rig) {
    uint64_t cap = read_reg(rig, VN_REG_CAP, 8);
    CHECK_EQ(cap & 0xffff, 1023); /* MQES */
    CHECK(cap & VN_CAP_CQR);
    CHECK(cap & VN_CAP_CSS_NVM);
    CHECK_EQ(cap >> VN_CAP_DSTRD_SHIFT & 0xf, 0);
    CHECK_EQ(cap >> VN_CAP_MPSMIN_SHIFT, 0);
    CHECK_EQ(read_reg(rig, VN_REG_CAP, 4), cap & UINT32_MAX);
    CHECK_EQ(read_reg(rig, VN_REG_CAP + 4, 4), cap >> 32);
    CHECK_EQ(read_reg(rig, VN_REG_VS, 4), VN_VS_2_0);
    CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), 0);
    for (uint32_t offset = 0; offset < VN_REG_DBS; offset++) {
        for (uint32_t size = 0; size <= 16; size++) {
            if ((size == 4 || size == 8) && offset % size == 0)
                continue;
            CHECK_EQ(read_reg(rig, offset, size), 0); /* unaligned or of another size */
            write_reg(rig, offset, UINT64_MAX, size);
        }
    }
    CHECK_EQ(rig->ctrl.state, VN_CTRL_DISABLED);
    CHECK_EQ(read_reg(rig, VN_REG_CC, 4), 0);
    for (uint32_t offset = 0x40; offset < VN_REG_DBS; offset += 8)
        CHECK(offset == VN_REG_CRTO || read_reg(rig, offset, 8) == 0);
}

static void test_writes(struct ctrl_rig *rig) {
    write_reg(rig, VN_REG_CAP, UINT64_MAX, 8); /* read-only */
    CHECK_EQ(read_reg(rig, VN_REG_CAP, 8) & 0xffff, 1023);
    write_reg(rig, VN_REG_AQA, UINT32_MAX, 4);
    CHECK_EQ(read_reg(rig, VN_REG_AQA, 4), 0x0fff0fff);
    write_reg(rig, VN_REG_ASQ, 0x123456789abcdef0, 8);
    CHECK_EQ(read_reg(rig, VN_REG_ASQ, 8), 0x123456789abcdef0);
    write_reg(rig, VN_REG_ASQ, 0x1000, 4);
    write_reg(rig, VN_REG_ASQ + 4, 1, 4);
    CHECK_EQ(read_reg(rig, VN_REG_ASQ, 8), 0x100001000);
    CHECK_EQ(read_reg(rig, VN_REG_ASQ + 4, 4), 1);
    write_reg(rig, VN_REG_ACQ, 0x2000, 4);
    write_reg(rig, VN_REG_ACQ + 4, 2, 4);
    CHECK_EQ(read_reg(rig, VN_REG_ACQ, 8), 0x200002000);
    write_reg(rig, VN_REG_INTMS, 0x3, 4);
    write_reg(rig, VN_REG_INTMC, 0x2, 4);
    CHECK_EQ(read_reg(rig, VN_REG_INTMS, 4), 1);
    CHECK_EQ(read_reg(rig, VN_REG_INTMC, 4), 1);
    CHECK_EQ(rig->nr_irq_masks, 2);
    write_reg(rig, VN_REG_INTMC, 1, 4);
}

static void reset(struct ctrl_rig *rig) {
    write_reg(rig, VN_REG_CC, 0, 4);
    CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), 0);
    CHECK_EQ(rig->ctrl.state, VN_CTRL_DISABLED);
}

static void test_enable(struct ctrl_rig *rig) {
    rig_enable(rig);
    /* readable, but fixed while enabled */
    CHECK_EQ(read_reg(rig, VN_REG_AQA, 4), 31 | 31 << 16);
    write_reg(rig, VN_REG_AQA, 0, 4);
    write_reg(rig, VN_REG_ASQ, 0, 8);
    write_reg(rig, VN_REG_ACQ, 0, 8);
    CHECK_EQ(read_reg(rig, VN_REG_AQA, 4), 31 | 31 << 16);
    CHECK_EQ(read_reg(rig, VN_REG_ASQ, 8), RIG_RAM_GPA);
    CHECK_EQ(read_reg(rig, VN_REG_ACQ, 8), RIG_RAM_GPA + VN_PAGE_SIZE);
    CHECK_EQ(rig_create_cq(rig, 1, 16), VN_SC_SUCCESS);
    CHECK_EQ(rig_create_sq(rig, 1, 1, 16), VN_SC_SUCCESS);
    uint32_t nr_disabled = rig->nr_disabled;
    reset(rig);
    CHECK_EQ(rig->nr_disabled, nr_disabled + 1);
    CHECK(!rig->ctrl.sqs[1].exists && !rig->ctrl.cqs[1].exists && !rig->ctrl.sqs[0].exists);
    CHECK_EQ(read_reg(rig, VN_REG_AQA, 4), 31 | 31 << 16); /* a controller reset keeps these */
    CHECK_EQ(read_reg(rig, VN_REG_ASQ, 8), RIG_RAM_GPA);
    rig_enable(rig);
    CHECK_EQ(rig->ctrl.cqs[0].phase, 1);
    CHECK_EQ(rig->ctrl.sqs[0].head, 0);
    reset(rig);
}

/* Each wrong setting leads to CSTS.CFS, tells why, and a reset leads out. */
static void test_refusals(struct ctrl_rig *rig) {
    const uint32_t good_cc = VN_CC_EN | 6u << 16 | 4u << 20, good_aqa = 31 | 31 << 16;
    const struct {
        uint32_t cc, aqa;
        uint64_t asq, acq;
        bool no_memory;
        const char *says;
    } cases[] = {
        {good_cc | 1u << 4, good_aqa, 0x100000, 0x101000, false, "CC.CSS"},
        {good_cc | 1u << 7, good_aqa, 0x100000, 0x101000, false, "CC.MPS"},
        {good_cc | 2u << 11, good_aqa, 0x100000, 0x101000, false, "CC.AMS"},
        {(good_cc & ~(0xfu << 16)) | 7u << 16, good_aqa, 0x100000, 0x101000, false, "CC.IOSQES"},
        {(good_cc & ~(0xfu << 20)) | 5u << 20, good_aqa, 0x100000, 0x101000, false, "CC.IOCQES"},
        {good_cc, 31, 0x100000, 0x101000, false, "AQA"},
        {good_cc, 31 << 16, 0x100000, 0x101000, false, "AQA"},
        {good_cc, good_aqa, 0x100800, 0x101000, false, "ASQ or ACQ"},
        {good_cc, good_aqa, 0x100000, 0x101004, false, "ASQ or ACQ"},
        {good_cc, good_aqa, 0x100000, 0x101000, true, "outside the memory"},
    };
    struct vn_event events[16];
    for (size_t i = 0; i < VN_ARRAY_SIZE(cases); i++) {
        vn_event_drain(rig->events, events, 16);
        rig->no_memory = cases[i].no_memory;
        write_reg(rig, VN_REG_AQA, cases[i].aqa, 4);
        write_reg(rig, VN_REG_ASQ, cases[i].asq, 8);
        write_reg(rig, VN_REG_ACQ, cases[i].acq, 8);
        write_reg(rig, VN_REG_CC, cases[i].cc, 4);
        CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), VN_CSTS_CFS);
        CHECK(!rig->ctrl.sqs[0].exists);
        CHECK_EQ(vn_event_drain(rig->events, events, 16), 1);
        CHECK_EQ(events[0].type, VN_EVENT_CTRL_FATAL);
        CHECK_SAYS(events[0].text, cases[i].says);
        write_reg(rig, VN_REG_CC, good_cc, 4); /* without a reset nothing changes */
        CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), VN_CSTS_CFS);
        rig->no_memory = false;
        reset(rig);
        rig_enable(rig);
        reset(rig);
    }
    write_reg(rig, VN_REG_CC, good_cc | 6u << 4, 4); /* one or more command sets: fine */
    CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), VN_CSTS_RDY);
    reset(rig);
}

static const struct vn_ns_opts slow = {.backend = "null", .size = 1 << 20, .block_size = 512, .delay_us = 20000};

static void start_reads(struct ctrl_rig *rig) {
    rig_enable(rig);
    CHECK_EQ(rig_create_cq(rig, 1, 64), VN_SC_SUCCESS);
    CHECK_EQ(rig_create_sq(rig, 1, 1, 64), VN_SC_SUCCESS);
    rig->nr_done = 0;
    for (int i = 0; i < 20; i++)
        rig_submit(rig, 1, (struct vn_sqe){.opcode = VN_IO_READ, .nsid = 1, .prp1 = RIG_RAM_GPA + 0x10000});
    CHECK_EQ(rig->ctrl.nr_inflight, 20);
    CHECK_EQ(rig->nr_done, 0);
}

/* CC.EN 1 -> 0 with commands in flight: RDY stays until they are back, and none of them is told. */
static void reset_in_flight(struct ctrl_rig *rig) {
    start_reads(rig);
    write_reg(rig, VN_REG_CC, 0, 4);
    CHECK_EQ(rig->ctrl.state, VN_CTRL_DISABLING);
    CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4) & VN_CSTS_RDY, VN_CSTS_RDY);
}

static void check_silence(struct ctrl_rig *rig) {
    CHECK_EQ(rig->nr_done, 0);
    CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), 0);
    CHECK_EQ(rig->ctrl.nr_inflight, 0);
}

/* The host sets EN again without waiting for RDY = 0: the controller comes back by itself. */
static void enable_too_early(struct ctrl_rig *rig) {
    reset_in_flight(rig);
    write_reg(rig, VN_REG_CC, VN_CC_EN | 6u << 16 | 4u << 20, 4);
    CHECK_EQ(rig->ctrl.state, VN_CTRL_DISABLING);
    write_reg(rig, VN_REG_CC, 0, 4);
    write_reg(rig, VN_REG_CC, VN_CC_EN | 6u << 16 | 4u << 20, 4);
}

static void check_ready_again(struct ctrl_rig *rig) {
    CHECK_EQ(rig->nr_done, 0);
    CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), VN_CSTS_RDY);
    CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_FEATURES, .cdw10 = VN_FEAT_VWC}, NULL),
             VN_SC_SUCCESS);
    reset(rig);
}

static void begin_shutdown(struct ctrl_rig *rig) {
    rig_enable(rig);
    write_reg(rig, VN_REG_CC, read_reg(rig, VN_REG_CC, 4) | 1u << 14, 4);
    CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), VN_CSTS_RDY | VN_CSTS_SHST_OCCURRING);
    write_reg(rig, VN_REG_CC, read_reg(rig, VN_REG_CC, 4) | 2u << 14, 4); /* again, abrupt: it is under way */
}

static void check_shutdown(struct ctrl_rig *rig) {
    CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), VN_CSTS_RDY | VN_CSTS_SHST_COMPLETE);
    reset(rig);
}

/* A reset overtakes a shutdown; the flush ends by itself and reports nothing. */
static void shutdown_then_reset(struct ctrl_rig *rig) {
    begin_shutdown(rig);
    rig->nr_done = 0;
    reset(rig);
    CHECK(rig->ctrl.shutdown);
}

static void shutdown_without_enable(struct ctrl_rig *rig) {
    CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), 0);
    write_reg(rig, VN_REG_CC, 1u << 14, 4);
    CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), VN_CSTS_SHST_OCCURRING);
}

static void clean_up(struct ctrl_rig *rig) {
    CHECK_EQ(read_reg(rig, VN_REG_CSTS, 4), VN_CSTS_SHST_COMPLETE);
    rig_enable(rig); /* a driver that comes after: EN 0 -> 1 */
    reset(rig);
}

int main(void) {
    struct ctrl_rig *rig = rig_make(NULL);
    rig_on(rig, test_reads);
    rig_on(rig, test_writes);
    rig_on(rig, test_enable);
    rig_on(rig, test_refusals);

    rig_attach(rig, 1, &slow);
    rig_on(rig, reset_in_flight);
    RIG_WAIT(rig, rig->ctrl.state == VN_CTRL_DISABLED);
    rig_on(rig, check_silence);
    rig_on(rig, enable_too_early);
    RIG_WAIT(rig, rig->ctrl.state == VN_CTRL_READY);
    rig_on(rig, check_ready_again);

    rig_attach(rig, 2, &slow);
    rig_on(rig, begin_shutdown);
    RIG_WAIT(rig, !rig->ctrl.shutdown);
    rig_on(rig, check_shutdown);
    rig_on(rig, shutdown_then_reset);
    RIG_WAIT(rig, !rig->ctrl.shutdown);
    rig_on(rig, check_silence);
    rig_on(rig, shutdown_without_enable);
    RIG_WAIT(rig, !rig->ctrl.shutdown);
    rig_on(rig, clean_up);
    rig_free(rig);
    return 0;
}
