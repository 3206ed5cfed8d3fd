/* Features: every mandatory one can be set and read back, the four selections, the refusals, and the reset to defaults.
 */
#include "ctrl_rig.h"

static vn_status set(struct ctrl_rig *rig, uint32_t fid, uint32_t value, uint32_t *result) {
    return rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_SET_FEATURES, .cdw10 = fid, .cdw11 = value}, result);
}

static uint32_t get(struct ctrl_rig *rig, uint32_t fid, uint32_t select, uint32_t cdw11) {
    uint32_t result = 0xdeadbeef;
    CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_FEATURES, .cdw10 = fid | select << 8,
                                            .cdw11 = cdw11}, &result), VN_SC_SUCCESS);
    return result;
}

static vn_status get_status(struct ctrl_rig *rig, uint32_t fid, uint32_t select, uint32_t cdw11) {
    return rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_FEATURES, .cdw10 = fid | select << 8,
                                          .cdw11 = cdw11}, NULL);
}

static const struct {
    uint32_t fid, value, select_bits; /* of CDW11 that name what is read, such as a vector */
} settable[] = {
    {VN_FEAT_ARBITRATION, 0x01020305, 0}, {VN_FEAT_POWER, 0x20, 0},          {VN_FEAT_TEMP_THRESHOLD, 0x0155, 0},
    {VN_FEAT_TEMP_THRESHOLD, 0x00100101, 0x100000},                          {VN_FEAT_ERROR_RECOVERY, 0x1234, 0},
    {VN_FEAT_VWC, 0, 0},                  {VN_FEAT_IRQ_COALESCING, 0x0a0b, 0}, {VN_FEAT_IRQ_VECTOR, 0x10003, 3},
    {VN_FEAT_WRITE_ATOMICITY, 1, 0},      {VN_FEAT_ASYNC_EVENT, 0x101, 0},
};

static void test_each(struct ctrl_rig *rig) {
    rig_enable(rig);
    for (size_t i = 0; i < VN_ARRAY_SIZE(settable); i++) {
        uint32_t fid = settable[i].fid, bits = settable[i].select_bits;
        uint32_t value = fid == VN_FEAT_TEMP_THRESHOLD ? settable[i].value & 0xffff : settable[i].value;
        uint32_t before = get(rig, fid, VN_SEL_DEFAULT, bits);
        CHECK_EQ(get(rig, fid, VN_SEL_CURRENT, bits), before);
        CHECK_EQ(get(rig, fid, VN_SEL_SAVED, bits), before);
        CHECK_EQ(get(rig, fid, VN_SEL_CAPABILITIES, bits) & ~0x2u, 0x5); /* saveable, changeable */
        CHECK(before != value);
        CHECK_EQ(set(rig, fid, settable[i].value, NULL), VN_SC_SUCCESS);
        CHECK_EQ(get(rig, fid, VN_SEL_CURRENT, bits), value);
        CHECK_EQ(get(rig, fid, VN_SEL_DEFAULT, bits), before);
        for (uint32_t select = 4; select < 8; select++)
            CHECK_EQ(get_status(rig, fid, select, bits), VN_SC_INVALID_FIELD);
    }
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
    rig_enable(rig);
    for (size_t i = 0; i < VN_ARRAY_SIZE(settable); i++) { /* a reset brings the defaults back */
        uint32_t bits = settable[i].select_bits;
        CHECK_EQ(get(rig, settable[i].fid, VN_SEL_CURRENT, bits), get(rig, settable[i].fid, VN_SEL_DEFAULT, bits));
    }
}

/* What is saved is what a reset brings back; what is set without that is not. */
static void test_saved(struct ctrl_rig *rig) {
    for (size_t i = 0; i < VN_ARRAY_SIZE(settable); i++) {
        uint32_t fid = settable[i].fid, bits = settable[i].select_bits;
        uint32_t value = fid == VN_FEAT_TEMP_THRESHOLD ? settable[i].value & 0xffff : settable[i].value;
        CHECK_EQ(set(rig, fid | 1u << 31, settable[i].value, NULL), VN_SC_SUCCESS);
        CHECK_EQ(get(rig, fid, VN_SEL_SAVED, bits), value);
        CHECK(get(rig, fid, VN_SEL_DEFAULT, bits) != value);
    }
    CHECK_EQ(set(rig, VN_FEAT_ARBITRATION, 2, NULL), VN_SC_SUCCESS);
    CHECK_EQ(get(rig, VN_FEAT_ARBITRATION, VN_SEL_SAVED, 0), settable[0].value);
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
    rig_enable(rig);
    for (size_t i = 0; i < VN_ARRAY_SIZE(settable); i++) {
        uint32_t bits = settable[i].select_bits;
        CHECK_EQ(get(rig, settable[i].fid, VN_SEL_CURRENT, bits), get(rig, settable[i].fid, VN_SEL_SAVED, bits));
    }
    for (size_t i = 0; i < VN_ARRAY_SIZE(settable); i++) { /* back to the defaults, for the tests after this */
        uint32_t fid = settable[i].fid, bits = settable[i].select_bits;
        CHECK_EQ(set(rig, fid | 1u << 31, get(rig, fid, VN_SEL_DEFAULT, bits) | bits, NULL), VN_SC_SUCCESS);
    }
    CHECK_EQ(set(rig, VN_FEAT_NUM_QUEUES | 1u << 31, 0, NULL), VN_SC_FEATURE_NOT_SAVEABLE);
    CHECK_EQ(get(rig, VN_FEAT_NUM_QUEUES, VN_SEL_CAPABILITIES, 0), 0x4);
}

static void test_refusals(struct ctrl_rig *rig) {
    static const uint32_t known[] = {1,    2,    4,    5,    6,    7,    8,    9,    0xa,  0xb,  0xc, 0xe,
                                     0x10, 0x11, 0x16, 0x17, 0x18, 0x19, 0x80, 0x81, 0x82, 0x83, 0x84};
    for (uint32_t fid = 0, at = 0; fid < 256; fid++) {
        if (at < VN_ARRAY_SIZE(known) && fid == known[at]) {
            at++;
            continue;
        }
        CHECK_EQ(set(rig, fid, 0, NULL), VN_SC_INVALID_FIELD);
        CHECK_EQ(get_status(rig, fid, VN_SEL_CURRENT, 0), VN_SC_INVALID_FIELD);
    }
    CHECK_EQ(set(rig, VN_FEAT_POWER, 5, NULL), VN_SC_INVALID_FIELD); /* there are five states */
    CHECK_EQ(set(rig, VN_FEAT_TEMP_THRESHOLD, 0x00200000, NULL), VN_SC_INVALID_FIELD); /* type 2 */
    CHECK_EQ(set(rig, VN_FEAT_TEMP_THRESHOLD, 0x00010000, NULL), VN_SC_INVALID_FIELD); /* sensor 1 */
    CHECK_EQ(set(rig, VN_FEAT_IRQ_VECTOR, VN_NR_VECTORS, NULL), VN_SC_INVALID_FIELD);
    CHECK_EQ(get_status(rig, VN_FEAT_IRQ_VECTOR, 0, 0xffff), VN_SC_INVALID_FIELD);
    CHECK_EQ(set(rig, VN_FEAT_ERROR_RECOVERY, 1u << 16, NULL), VN_SC_INVALID_FIELD); /* DULBE is not supported */
}

static void test_nr_queues(struct ctrl_rig *rig) {
    uint32_t result;
    CHECK_EQ(set(rig, VN_FEAT_NUM_QUEUES, 0xffff, NULL), VN_SC_INVALID_FIELD);
    CHECK_EQ(set(rig, VN_FEAT_NUM_QUEUES, 0xffff0000, NULL), VN_SC_INVALID_FIELD);
    CHECK_EQ(set(rig, VN_FEAT_NUM_QUEUES, 0xfffefffe, &result), VN_SC_SUCCESS); /* more than there are: what there are */
    CHECK_EQ(result, 63 | 63u << 16);
    CHECK_EQ(set(rig, VN_FEAT_NUM_QUEUES, 1 | 3u << 16, &result), VN_SC_SUCCESS);
    CHECK_EQ(result, 1 | 3u << 16);
    CHECK_EQ(get(rig, VN_FEAT_NUM_QUEUES, VN_SEL_CURRENT, 0), 1 | 3u << 16);
    CHECK_EQ(rig_create_cq(rig, 5, 16), VN_SC_QID_INVALID);
    CHECK_EQ(rig_create_cq(rig, 4, 16), VN_SC_SUCCESS);
    CHECK_EQ(set(rig, VN_FEAT_NUM_QUEUES, 0, NULL), VN_SC_COMMAND_SEQUENCE); /* a queue exists */
    CHECK_EQ(rig_create_sq(rig, 3, 4, 16), VN_SC_QID_INVALID);
    CHECK_EQ(rig_create_sq(rig, 2, 4, 16), VN_SC_SUCCESS);
}

int main(void) {
    struct ctrl_rig *rig = rig_make(NULL);
    rig_on(rig, test_each);
    rig_on(rig, test_saved);
    rig_on(rig, test_refusals);
    rig_on(rig, test_nr_queues);
    rig_free(rig);
    return 0;
}
