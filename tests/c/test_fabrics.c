/* A controller on fabrics: properties and their refusals, fabrics commands on the wrong queue, what runs before it is
 * enabled, reset and shutdown by Property Set, keep-alive, and what Identify says.
 */
#include "fabrics_rig.h"

static void test_properties(struct ctrl_rig *rig) {
    uint64_t value;
    CHECK_EQ(fab_get(rig, VN_REG_CAP, VN_PROPERTY_8_BYTES, &value), VN_SC_SUCCESS);
    CHECK_EQ(value & 0xffff, 127); /* MQES */
    CHECK(value & VN_CAP_CQR);
    CHECK_EQ((value >> VN_CAP_TO_SHIFT) & 0xff, 20);
    CHECK((value & VN_CAP_CSS_NVM) && (value & VN_CAP_CSS_IOCS)); /* bits of the upper half: result_high */
    CHECK_EQ(value >> VN_CAP_MPSMIN_SHIFT, 0);
    CHECK_EQ(fab_get(rig, VN_REG_VS, 0, &value), VN_SC_SUCCESS);
    CHECK_EQ(value, VN_VS_2_0);
    CHECK_EQ(fab_get(rig, VN_REG_CSTS, 0, &value), VN_SC_SUCCESS);
    CHECK_EQ(value, 0);
    CHECK_EQ(fab_get(rig, VN_REG_CRTO, 0, &value), VN_SC_SUCCESS);
    CHECK_EQ(value, 20 | 20 << 16);
    CHECK_EQ(fab_get(rig, VN_REG_NSSR, 0, &value), VN_SC_SUCCESS);
    CHECK_EQ(value, 0);
    /* each in its own size and at its own offset, and nothing else */
    static const uint32_t known[] = {VN_REG_VS, VN_REG_CC, VN_REG_CSTS, VN_REG_NSSR, VN_REG_CRTO};
    for (uint32_t offset = 0; offset < VN_REG_DBS + 16; offset++) {
        bool four = false;
        for (size_t i = 0; i < VN_ARRAY_SIZE(known); i++)
            four |= offset == known[i];
        for (uint32_t size = 0; size < 8; size++) {
            bool legal = size == 0 ? four : size == VN_PROPERTY_8_BYTES && offset == VN_REG_CAP;
            CHECK_EQ(fab_get(rig, offset, size, NULL), legal ? VN_SC_SUCCESS : VN_SC_INVALID_FIELD);
            bool writable = offset == VN_REG_CC && size == 0;
            CHECK_EQ(fab_set(rig, offset, size, 0), writable ? VN_SC_SUCCESS : VN_SC_INVALID_FIELD);
        }
    }
    CHECK_EQ(fab_get(rig, 0x100000000ull - 4, 0, NULL), VN_SC_INVALID_FIELD);
    CHECK_EQ(fab_csts(rig), 0);
}

static void test_before_it_is_enabled(struct ctrl_rig *rig) {
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        if (opcode != VN_ADMIN_FABRICS)
            CHECK_EQ(fab_status(rig, 0, (struct vn_sqe){.opcode = (uint8_t)opcode, .flags = SGL_FLAGS}),
                     VN_SC_COMMAND_SEQUENCE);
    }
    CHECK_EQ(fab_set(rig, VN_REG_CC, 0, VN_CC_EN | 3u << 4), VN_SC_SUCCESS); /* no such command set */
    CHECK_EQ(fab_csts(rig), VN_CSTS_CFS);
    CHECK_EQ(fab_identify(rig, VN_CNS_CTRL, 0), VN_SC_COMMAND_SEQUENCE);
    CHECK_EQ(fab_set(rig, VN_REG_CC, 0, 0), VN_SC_SUCCESS);
    CHECK_EQ(fab_csts(rig), 0);
}

static void test_dispatch(struct ctrl_rig *rig) {
    fab_enable(rig);
    static const uint8_t known[] = {
        VN_ADMIN_GET_LOG_PAGE, VN_ADMIN_IDENTIFY, VN_ADMIN_ABORT, VN_ADMIN_SET_FEATURES, VN_ADMIN_GET_FEATURES,
        VN_ADMIN_ASYNC_EVENT, VN_ADMIN_KEEP_ALIVE, VN_ADMIN_CROSS_RESET, VN_ADMIN_FABRICS,
    };
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        if (memchr(known, (int)opcode, sizeof(known)))
            continue;
        CHECK_EQ(fab_status(rig, 0, (struct vn_sqe){.opcode = (uint8_t)opcode, .flags = SGL_FLAGS}), VN_SC_INVALID_OPCODE);
    }
    for (unsigned flags = 0; flags < 256; flags++) { /* one way to say where the data is, and no fused pairs */
        struct vn_sqe cmd = {.opcode = VN_ADMIN_KEEP_ALIVE, .flags = (uint8_t)flags};
        bool legal = !VN_SQE_FUSE(flags) && VN_SQE_PSDT(flags) == VN_PSDT_SGL_MPTR_CONTIG;
        CHECK_EQ(fab_status(rig, 0, cmd), legal ? VN_SC_SUCCESS : VN_SC_INVALID_FIELD);
        CHECK_EQ(fab_status(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_FABRICS, .flags = (uint8_t)flags,
                                                    .nsid = VN_FCTYPE_CONNECT}), VN_SC_COMMAND_SEQUENCE);
    }
    for (unsigned type = 0; type < 256; type++) {
        static const uint8_t types[] = {VN_FCTYPE_PROPERTY_SET, VN_FCTYPE_CONNECT, VN_FCTYPE_PROPERTY_GET,
                                        VN_FCTYPE_AUTH_SEND, VN_FCTYPE_AUTH_RECV, VN_FCTYPE_DISCONNECT};
        if (!memchr(types, (int)type, sizeof(types)))
            CHECK_EQ(fab_status(rig, 0, fab_command((enum vn_fctype)type)), VN_SC_INVALID_OPCODE);
    }
    CHECK_EQ(fab_status(rig, 0, fab_command(VN_FCTYPE_DISCONNECT)), VN_SC_QUEUE_TYPE);
}

/* What the door takes over is not answered until it says so. */
static void check_parked(struct ctrl_rig *rig, uint16_t sqid, struct vn_sqe cmd, uint32_t result) {
    struct fabrics_rig *fab = fab_of(&rig->ctrl);
    CHECK_EQ(fab_run(rig, sqid, cmd).status, 0xffff);
    CHECK(fab->parked && fab->parked->cmd.cid == rig->next_cid);
    fab->parked->result = result;
    vn_ctrl_end(fab->parked, VN_SC_SUCCESS);
    fab->parked = NULL;
    CHECK_EQ(rig_completion(rig, sqid, rig->next_cid)->result, result);
}

static void test_what_the_door_does(struct ctrl_rig *rig) {
    vn_queue_connect(&rig->ctrl, 1, 16);
    check_parked(rig, 0, fab_command(VN_FCTYPE_AUTH_SEND), 0);
    check_parked(rig, 0, fab_command(VN_FCTYPE_AUTH_RECV), 0);
    check_parked(rig, 1, fab_command(VN_FCTYPE_AUTH_SEND), 0);
    check_parked(rig, 1, fab_command(VN_FCTYPE_DISCONNECT), 0);
    check_parked(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_CROSS_RESET, .flags = SGL_FLAGS, .cdw10 = 7},
                 VN_CROSS_RESET_DONE);
    struct vn_sqe cmd = fab_command(VN_FCTYPE_DISCONNECT);
    cmd.cdw10 = 1; /* RECFMT */
    CHECK_EQ(fab_status(rig, 1, cmd), VN_SC_CONNECT_FORMAT);
    CHECK_EQ(fab_status(rig, 1, fab_command(VN_FCTYPE_PROPERTY_GET)), VN_SC_QUEUE_TYPE);
    CHECK_EQ(fab_status(rig, 1, fab_command(VN_FCTYPE_PROPERTY_SET)), VN_SC_QUEUE_TYPE);
    CHECK_EQ(fab_status(rig, 1, fab_command(VN_FCTYPE_CONNECT)), VN_SC_COMMAND_SEQUENCE);
    CHECK(rig->ctrl.cc & VN_CC_EN);
}

static void test_identify(struct ctrl_rig *rig) {
    CHECK_EQ(fab_identify(rig, VN_CNS_CTRL, 0), VN_SC_SUCCESS);
    const struct vn_id_ctrl *id = (const struct vn_id_ctrl *)fab_data(rig);
    CHECK_EQ(id->cntrltype, VN_CNTRLTYPE_IO);
    CHECK_EQ(id->cntlid, 7);
    CHECK_EQ(id->cmic, VN_CMIC_MULTI_PORT | VN_CMIC_MULTI_CTRL | VN_CMIC_ANA);
    CHECK_EQ(id->kas, 1);
    CHECK_EQ(id->ctratt, VN_CTRATT_TBKAS | 1);
    CHECK_EQ(id->oaes, VN_OAES_NS_ATTR | VN_OAES_ANA);
    CHECK(id->ioccsz == (64 + 8192) / 16 && id->iorcsz == 1 && id->icdoff == 0);
    CHECK(id->fcatt == 0 && id->msdbd == 1 && id->ofcs == 1);
    CHECK_EQ(id->sgls, 1u | 1u << 20 | 1u << 21);
    CHECK_EQ(id->maxcmd, 128);
    CHECK(id->ciu == 5 && id->cirn == 0x123456789abc);
    CHECK(id->anatt && id->anacap == 0x5f);
    CHECK(id->anagrpmax == VN_MAX_ANA_GROUPS && id->nanagrpid == VN_MAX_ANA_GROUPS);
    CHECK_EQ(id->oacs, 0);
    CHECK(strcmp(id->subnqn, "nqn.test:subsystem") == 0);
    fab_of(&rig->ctrl)->ana_group[2] = 9;
    CHECK_EQ(fab_identify(rig, VN_CNS_NS, 2), VN_SC_SUCCESS);
    const struct vn_id_ns *ns = (const struct vn_id_ns *)fab_data(rig);
    CHECK(ns->nmic == VN_NMIC_SHARED && ns->anagrpid == 9 && ns->nsze == (1u << 20) / 4096);
    CHECK_EQ(fab_identify(rig, VN_CNS_IOCS_INDEPENDENT_NS, 2), VN_SC_SUCCESS);
    const struct vn_id_ns_independent *independent = (const struct vn_id_ns_independent *)fab_data(rig);
    CHECK(independent->nmic == VN_NMIC_SHARED && independent->anagrpid == 9);
    /* the controllers of this host, and no other's */
    const uint16_t *list = (const uint16_t *)fab_data(rig);
    CHECK_EQ(fab_identify(rig, VN_CNS_CTRL_LIST, 0), VN_SC_SUCCESS);
    CHECK(list[0] == 3 && list[1] == 3 && list[2] == 7 && list[3] == 9 && list[4] == 0);
    CHECK_EQ(fab_identify(rig, VN_CNS_CTRL_LIST | 4u << 16, 0), VN_SC_SUCCESS);
    CHECK(list[0] == 2 && list[1] == 7);
    CHECK_EQ(fab_identify(rig, VN_CNS_NS_CTRL_LIST | 10u << 16, 2), VN_SC_SUCCESS);
    CHECK_EQ(list[0], 0);
    CHECK_EQ(fab_identify(rig, VN_CNS_NS_CTRL_LIST, 6), VN_SC_INVALID_NS);
}

static struct rig_done get_feature(struct ctrl_rig *rig, uint32_t feature) {
    return fab_run(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_GET_FEATURES, .flags = SGL_FLAGS, .cdw10 = feature});
}

static vn_status set_feature(struct ctrl_rig *rig, uint32_t feature, uint32_t value) {
    return fab_status(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_SET_FEATURES, .flags = SGL_FLAGS, .cdw10 = feature,
                                              .cdw11 = value});
}

static void test_features(struct ctrl_rig *rig) {
    struct fabrics_rig *fab = fab_of(&rig->ctrl);
    CHECK_EQ(get_feature(rig, VN_FEAT_KEEP_ALIVE).result, 5000); /* Connect's, rounded up */
    static const uint32_t timeouts[][2] = {{0, 0}, {1, 100}, {100, 100}, {101, 200}, {30000, 30000},
                                           {UINT32_MAX, 4294967200u}, {4294967200u, 4294967200u}};
    for (uint32_t i = 0; i < VN_ARRAY_SIZE(timeouts); i++) {
        CHECK_EQ(set_feature(rig, VN_FEAT_KEEP_ALIVE, timeouts[i][0]), VN_SC_SUCCESS);
        CHECK_EQ(fab->nr_kato_changes, i + 1);
        CHECK_EQ(get_feature(rig, VN_FEAT_KEEP_ALIVE).result, timeouts[i][1]);
        CHECK_EQ(fab->fabrics.kato_ms, timeouts[i][1]);
    }
    CHECK_EQ(get_feature(rig, VN_FEAT_KEEP_ALIVE | VN_SEL_CAPABILITIES << 8).result, 4);
    CHECK_EQ(VN_STATUS_CODE(get_feature(rig, VN_FEAT_IRQ_VECTOR).status), VN_SC_INVALID_FIELD);
    CHECK_EQ(set_feature(rig, VN_FEAT_IRQ_COALESCING, 0), VN_SC_INVALID_FIELD);
    CHECK_EQ(set_feature(rig, VN_FEAT_ASYNC_EVENT, UINT32_MAX), VN_SC_SUCCESS);
    CHECK_EQ(get_feature(rig, VN_FEAT_ASYNC_EVENT).result, 0x1fu | VN_OAES_NS_ATTR | VN_OAES_ANA);
    CHECK_EQ(set_feature(rig, VN_FEAT_NUM_QUEUES, 200 | 200 << 16), VN_SC_COMMAND_SEQUENCE); /* queue 1 is connected */
}

/* A reset answers the Property Set that asks for it, waits for what is in flight, and ends the I/O queues in silence; the
 * admin queue goes on, and its commands in flight are told that they were aborted. */
static uint16_t io_cid;

static void begin_reset(struct ctrl_rig *rig) {
    struct vn_sqe cmd = {.opcode = VN_IO_READ, .flags = SGL_FLAGS, .nsid = 3};
    cmd.sgl1 = (struct vn_sgl_desc){.addr = DATA_GPA, .length = 512, .type = VN_SGL_TRANSPORT};
    CHECK_EQ(fab_run(rig, 1, cmd).status, 0xffff);
    io_cid = rig->next_cid;
    fab_park_aer(rig);
    uint32_t before = rig->nr_disabled;
    CHECK_EQ(fab_set(rig, VN_REG_CC, 0, 0), VN_SC_SUCCESS);
    if (rig->ctrl.state == VN_CTRL_DISABLING) { /* unless the backend has given it back at once */
        CHECK_EQ(fab_csts(rig), VN_CSTS_RDY);
        CHECK_EQ(fab_identify(rig, VN_CNS_CTRL, 0), VN_SC_COMMAND_SEQUENCE);
        CHECK_EQ(rig->nr_disabled, before);
    }
    rig->nr_done = 0;
}

static void check_reset(struct ctrl_rig *rig) {
    CHECK(!rig_completion(rig, 1, io_cid));
    CHECK_EQ(rig->ctrl.nr_aers, 0);
    CHECK(rig->ctrl.sqs[0].exists && !rig->ctrl.sqs[1].exists);
    CHECK_EQ(fab_csts(rig), 0);
    CHECK_EQ(get_feature(rig, VN_FEAT_VWC).status & 0x7ff, VN_SC_COMMAND_SEQUENCE);
    CHECK_EQ(fab_of(&rig->ctrl)->fabrics.kato_ms, 4294967200u); /* Connect's, or Set Features': a reset leaves it */
    fab_enable(rig);
    CHECK_EQ(fab_set(rig, VN_REG_CC, 0, VN_CC_EN | 1u << 14), VN_SC_SUCCESS); /* normal shutdown: flushes first */
}

static void check_shut_down(struct ctrl_rig *rig) {
    CHECK_EQ(fab_csts(rig), VN_CSTS_RDY | VN_CSTS_SHST_COMPLETE);
    CHECK_EQ(fab_set(rig, VN_REG_CC, 0, 0), VN_SC_SUCCESS);
    CHECK_EQ(fab_csts(rig), 0);
    fab_enable(rig);
}

/* A shutdown whose flush is under way when a reset ends it: who waits for that, to free the controller, is told. */
static void interrupt_shutdown(struct ctrl_rig *rig) {
    fab_of(&rig->ctrl)->nr_busy = 0;
    CHECK_EQ(fab_set(rig, VN_REG_CC, 0, VN_CC_EN | 1u << 14), VN_SC_SUCCESS);
    CHECK(rig->ctrl.shutdown);
    CHECK_EQ(fab_set(rig, VN_REG_CC, 0, 0), VN_SC_SUCCESS);
}

int main(void) {
    struct fabrics_rig *fab = fab_make(VN_CNTRLTYPE_IO);
    struct ctrl_rig *rig = &fab->rig;
    rig_attach(rig, 2, &(struct vn_ns_opts){.backend = "mem", .size = 1 << 20, .block_size = 4096});
    rig_attach(rig, 3, &(struct vn_ns_opts){.backend = "null", .size = 1 << 20, .block_size = 512, .delay_us = 5000000});
    rig_on(rig, test_properties);
    rig_on(rig, test_before_it_is_enabled);
    rig_on(rig, test_dispatch);
    rig_on(rig, test_what_the_door_does);
    rig_on(rig, test_identify);
    rig_on(rig, test_features);
    rig_on(rig, begin_reset);
    RIG_WAIT(rig, rig->ctrl.state == VN_CTRL_DISABLED);
    rig_detach(rig, 3);
    rig_on(rig, check_reset);
    RIG_WAIT(rig, (rig->ctrl.csts & VN_CSTS_SHST_MASK) == VN_CSTS_SHST_COMPLETE);
    rig_on(rig, check_shut_down);
    rig_attach(rig, 3, &(struct vn_ns_opts){.backend = "null", .size = 1 << 20, .block_size = 512, .delay_us = 5000000});
    rig_on(rig, interrupt_shutdown);
    RIG_WAIT(rig, !rig->ctrl.shutdown && rig->ctrl.state == VN_CTRL_DISABLED);
    CHECK(fab->nr_busy);
    fab_free(fab);
    return 0;
}
