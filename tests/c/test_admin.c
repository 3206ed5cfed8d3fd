/* Admin commands: dispatch and its refusals, Abort, Identify's rules of NSID and CNS, data pointers, status bits.
 */
#include "ctrl_rig.h"

#define DATA_GPA (RIG_RAM_GPA + 0x20000)

static uint8_t *data_at(struct ctrl_rig *rig) {
    return rig->ram + (DATA_GPA - RIG_RAM_GPA);
}

static vn_status identify(struct ctrl_rig *rig, uint32_t cns, uint32_t nsid, uint32_t csi) {
    memset(data_at(rig), 0xaa, VN_PAGE_SIZE);
    return rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_IDENTIFY, .nsid = nsid, .prp1 = DATA_GPA, .cdw10 = cns,
                                          .cdw11 = csi << 24}, NULL);
}

static bool is_zeros(struct ctrl_rig *rig) {
    static const uint8_t zeros[VN_PAGE_SIZE];
    return memcmp(data_at(rig), zeros, sizeof(zeros)) == 0;
}

static void test_dispatch(struct ctrl_rig *rig) {
    static const uint8_t known[] = {
        VN_ADMIN_DELETE_SQ, VN_ADMIN_CREATE_SQ, VN_ADMIN_GET_LOG_PAGE, VN_ADMIN_DELETE_CQ, VN_ADMIN_CREATE_CQ,
        VN_ADMIN_IDENTIFY, VN_ADMIN_ABORT, VN_ADMIN_SET_FEATURES, VN_ADMIN_GET_FEATURES, VN_ADMIN_ASYNC_EVENT,
        VN_ADMIN_FW_COMMIT, VN_ADMIN_FW_DOWNLOAD, VN_ADMIN_SELF_TEST, VN_ADMIN_DIRECTIVE_SEND, VN_ADMIN_DIRECTIVE_RECEIVE,
        VN_ADMIN_SECURITY_SEND, VN_ADMIN_SECURITY_RECEIVE, VN_ADMIN_SANITIZE,
        VN_ADMIN_GET_LBA_STATUS, VN_ADMIN_FORMAT_NVM,
    };
    rig_enable(rig);
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        if (!memchr(known, (int)opcode, sizeof(known)))
            CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = (uint8_t)opcode}, NULL), VN_SC_INVALID_OPCODE);
        for (unsigned flags = 1; flags < 256; flags++) { /* fused, or with an SGL: not for admin commands on PCIe */
            if (VN_SQE_FUSE(flags) || VN_SQE_PSDT(flags))
                CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = (uint8_t)opcode, .flags = (uint8_t)flags}, NULL),
                         VN_SC_INVALID_FIELD);
            if (rig->nr_done > RIG_DONE_MAX / 2)
                rig->nr_done = 0;
        }
    }
    CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_FEATURES, .cdw10 = VN_FEAT_VWC}, NULL), VN_SC_SUCCESS);
}

/* Permanent errors carry DNR, and More says that the error log has an entry. */
static void test_status_bits(struct ctrl_rig *rig) {
    uint64_t before = rig->ctrl.error_count;
    rig->nr_done = 0;
    rig_submit(rig, 0, (struct vn_sqe){.opcode = 0x38});
    CHECK_EQ(rig->done[0].status, VN_SC_INVALID_OPCODE | VN_STATUS_DNR | VN_STATUS_MORE);
    CHECK_EQ(rig->ctrl.error_count, before + 1);
    rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_GET_FEATURES, .cdw10 = VN_FEAT_VWC});
    CHECK_EQ(rig->done[1].status, 0);
}

static void test_identify(struct ctrl_rig *rig) {
    CHECK_EQ(identify(rig, VN_CNS_CTRL, 0, 0), VN_SC_SUCCESS);
    const struct vn_id_ctrl *id = (const struct vn_id_ctrl *)data_at(rig);
    CHECK(memcmp(id->sn, "RIG1                ", 20) == 0);
    CHECK(memcmp(id->mn, "vhostnvme                               ", 40) == 0);
    CHECK(strncmp(id->subnqn, "nqn.", 4) == 0);
    CHECK_EQ(id->ver, VN_VS_2_0);
    CHECK_EQ(id->mdts, VN_MAX_MDTS);
    CHECK_EQ(id->aerl, VN_MAX_AERS - 1);
    CHECK(id->sqes == 0x66 && id->cqes == 0x44);

    CHECK_EQ(identify(rig, VN_CNS_NS, 1, 0), VN_SC_SUCCESS);
    const struct vn_id_ns *ns = (const struct vn_id_ns *)data_at(rig);
    CHECK_EQ(ns->nsze, (1u << 20) / 512);
    CHECK_EQ(ns->lbaf[0].lbads, 9);
    CHECK_EQ(identify(rig, VN_CNS_NS, 2, 0), VN_SC_SUCCESS);
    CHECK_EQ(ns->nsze, (1u << 20) / 4096);
    CHECK_EQ(ns->lbaf[ns->flbas].lbads, 12);

    /* inactive: zeros; impossible: refused */
    CHECK_EQ(identify(rig, VN_CNS_NS, 3, 0), VN_SC_SUCCESS);
    CHECK(is_zeros(rig));
    static const uint32_t nowhere[] = {0, VN_MAX_NAMESPACES + 1, VN_NSID_BROADCAST - 1};
    for (size_t i = 0; i < VN_ARRAY_SIZE(nowhere); i++) {
        CHECK_EQ(identify(rig, VN_CNS_NS, nowhere[i], 0), VN_SC_INVALID_NS);
        CHECK_EQ(identify(rig, VN_CNS_NS_DESC_LIST, nowhere[i], 0), VN_SC_INVALID_NS);
        CHECK_EQ(identify(rig, VN_CNS_IOCS_NS, nowhere[i], 0), VN_SC_INVALID_NS);
    }
    CHECK_EQ(identify(rig, VN_CNS_NS, VN_NSID_BROADCAST, 0), VN_SC_INVALID_NS);
    CHECK_EQ(identify(rig, VN_CNS_NS_DESC_LIST, 3, 0), VN_SC_INVALID_NS);
    CHECK_EQ(identify(rig, VN_CNS_NS_DESC_LIST, 1, 0), VN_SC_SUCCESS);
    CHECK(data_at(rig)[0] == VN_NIDT_UUID && data_at(rig)[1] == 16);

    const uint32_t *list = (const uint32_t *)data_at(rig);
    CHECK_EQ(identify(rig, VN_CNS_ACTIVE_NS_LIST, 0, 0), VN_SC_SUCCESS);
    CHECK(list[0] == 1 && list[1] == 2 && list[2] == 0);
    CHECK_EQ(identify(rig, VN_CNS_ACTIVE_NS_LIST, 1, 0), VN_SC_SUCCESS);
    CHECK(list[0] == 2 && list[1] == 0);
    CHECK_EQ(identify(rig, VN_CNS_ACTIVE_NS_LIST, 2, 0), VN_SC_SUCCESS);
    CHECK(is_zeros(rig));
    CHECK_EQ(identify(rig, VN_CNS_ACTIVE_NS_LIST, VN_NSID_BROADCAST - 2, 0), VN_SC_SUCCESS);
    CHECK_EQ(identify(rig, VN_CNS_ACTIVE_NS_LIST, VN_NSID_BROADCAST - 1, 0), VN_SC_INVALID_NS);
    CHECK_EQ(identify(rig, VN_CNS_ACTIVE_NS_LIST, VN_NSID_BROADCAST, 0), VN_SC_INVALID_NS);

    CHECK_EQ(identify(rig, VN_CNS_IOCS_CTRL, 0, 0), VN_SC_SUCCESS);
    CHECK_EQ(identify(rig, VN_CNS_IOCS_CTRL, 0, 1), VN_SC_INVALID_FIELD);
    CHECK_EQ(identify(rig, VN_CNS_IOCS_NS, 1, 2), VN_SC_INVALID_FIELD);
    static const uint8_t known[] = {0, 1, 2, 3, 5, 6, 7, 8, 0x10, 0x11, 0x12, 0x13, 0x16, 0x17, 0x19, 0x1a, 0x1b, 0x1c};
    for (unsigned cns = 0; cns < 256; cns++) {
        if (!memchr(known, (int)cns, sizeof(known)))
            CHECK_EQ(identify(rig, cns, 1, 0), VN_SC_INVALID_FIELD);
    }
}

/* The data goes where the PRPs say, and nowhere else. */
static void test_data_pointer(struct ctrl_rig *rig) {
    struct vn_sqe cmd = {.opcode = VN_ADMIN_IDENTIFY, .cdw10 = VN_CNS_CTRL, .prp1 = DATA_GPA + 0x800,
                         .prp2 = DATA_GPA + 0x3000};
    memset(data_at(rig), 0xaa, 0x5000);
    CHECK_EQ(rig_admin(rig, cmd, NULL), VN_SC_SUCCESS);
    CHECK_EQ(data_at(rig)[0x7ff], 0xaa);
    CHECK_EQ(data_at(rig)[0x800], VN_PCI_VENDOR & 0xff);
    CHECK_EQ(data_at(rig)[0x1000], 0xaa);
    CHECK(memcmp(data_at(rig) + 0x3000, "\xc4\x09", 2) == 0); /* byte 2048: 25 W of power state 0 */
    CHECK_EQ(data_at(rig)[0x3800], 0xaa);
    cmd.prp1 = DATA_GPA + 2;
    CHECK_EQ(rig_admin(rig, cmd, NULL), VN_SC_INVALID_PRP_OFFSET);
    cmd.prp1 = 0xdead0000;
    CHECK_EQ(rig_admin(rig, cmd, NULL), VN_SC_DATA_TRANSFER_ERROR);
}

static vn_status abort_command(struct ctrl_rig *rig, uint16_t sqid, uint16_t cid, uint32_t *result) {
    return rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = sqid | (uint32_t)cid << 16}, result);
}

static uint16_t io_cid, abort_cid;

static void test_abort(struct ctrl_rig *rig) {
    uint32_t result;
    CHECK_EQ(abort_command(rig, 0, 0x7777, &result), VN_SC_SUCCESS);
    CHECK_EQ(result, 1); /* no such command: not aborted */
    CHECK_EQ(abort_command(rig, 5, 1, &result), VN_SC_INVALID_FIELD);
    CHECK_EQ(abort_command(rig, 0xffff, 1, &result), VN_SC_INVALID_FIELD);
    CHECK_EQ(rig_create_cq(rig, 1, 64), VN_SC_SUCCESS);
    CHECK_EQ(rig_create_sq(rig, 1, 1, 64), VN_SC_SUCCESS);
    io_cid = rig_submit(rig, 1, (struct vn_sqe){.opcode = VN_IO_READ, .nsid = 3, .prp1 = DATA_GPA});
    uint16_t self = 0x5555; /* a command cannot abort itself */
    CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cid = self, .cdw10 = (uint32_t)self << 16},
                       &result), VN_SC_SUCCESS);
    CHECK_EQ(result, 1);
    CHECK(!rig_completion(rig, 1, io_cid));
    /* Abort ends after what it aborts, and tells what became of it; a second one has nothing to do */
    abort_cid = rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = 1 | (uint32_t)io_cid << 16});
    CHECK(!rig_completion(rig, 0, abort_cid));
    CHECK_EQ(abort_command(rig, 1, io_cid, &result), VN_SC_SUCCESS);
    CHECK_EQ(result, 1);
}

static void check_aborted(struct ctrl_rig *rig) {
    const struct rig_done *done = rig_completion(rig, 1, io_cid); /* it has exactly one completion */
    CHECK_EQ(VN_STATUS_CODE(done->status), VN_SC_ABORT_REQUESTED);
    const struct rig_done *abort = rig_completion(rig, 0, abort_cid);
    CHECK(abort > done);
    CHECK(abort->status == 0 && abort->result == 0);
}

static void test_doorbell_config(struct ctrl_rig *rig) {
    struct vn_sqe cmd = {.opcode = VN_ADMIN_DOORBELL_CONFIG, .prp1 = DATA_GPA, .prp2 = DATA_GPA + 0x1000};
    CHECK_EQ(rig_admin(rig, cmd, NULL), VN_SC_INVALID_OPCODE);
    rig->ctrl.dbbuf_supported = true;
    CHECK_EQ(rig_admin(rig, cmd, NULL), VN_SC_SUCCESS);
    CHECK_EQ(rig->shadow_gpa, DATA_GPA);
    cmd.prp2 += 4;
    CHECK_EQ(rig_admin(rig, cmd, NULL), VN_SC_INVALID_FIELD);
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
    CHECK_EQ(rig->shadow_gpa, 0); /* a reset forgets it */
}

int main(void) {
    struct ctrl_rig *rig = rig_make(NULL);
    rig_attach(rig, 1, &(struct vn_ns_opts){.backend = "mem", .size = 1 << 20, .block_size = 512});
    rig_attach(rig, 2, &(struct vn_ns_opts){.backend = "mem", .size = 1 << 20, .block_size = 4096});
    rig_on(rig, test_dispatch);
    rig_on(rig, test_status_bits);
    rig_on(rig, test_identify);
    rig_on(rig, test_data_pointer);
    rig_attach(rig, 3, &(struct vn_ns_opts){.backend = "null", .size = 1 << 20, .block_size = 512, .delay_us = 5000000});
    rig_on(rig, test_abort);
    RIG_WAIT(rig, rig_completion(rig, 0, abort_cid));
    rig_on(rig, check_aborted);
    rig_on(rig, test_doorbell_config);
    rig_free(rig);
    return 0;
}
