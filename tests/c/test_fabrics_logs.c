/* Log pages and events of fabrics: the ANA log and what its states forbid, the discovery log at any offset, what each kind
 * of controller has and has not, and namespaces that a host does not see.
 */
#include "fabrics_rig.h"

static uint8_t whole[DATA_BYTES];

/* Reads the page in parts of every size and at every offset; each is what the whole has there, and zeros beyond it. */
static void check_parts(struct ctrl_rig *rig, uint32_t lid, uint32_t bytes) {
    CHECK_EQ(fab_log(rig, lid, bytes, 0, true), VN_SC_SUCCESS);
    memcpy(whole, fab_data(rig), bytes);
    for (uint32_t offset = 0; offset <= bytes; offset += offset < 64 ? 4 : 1012) {
        for (uint32_t part = 4; part <= 8192; part = part * 3 / 2 & ~3u ? (part * 3 / 2 + 3) & ~3u : 8) {
            CHECK_EQ(fab_log(rig, lid, part, offset, true), VN_SC_SUCCESS);
            uint32_t there = bytes - offset < part ? bytes - offset : part;
            CHECK(memcmp(fab_data(rig), whole + offset, there) == 0);
            for (uint32_t at = there; at < part; at++)
                CHECK_EQ(fab_data(rig)[at], 0);
            CHECK_EQ(fab_data(rig)[part], 0xaa);
        }
    }
    CHECK_EQ(fab_log(rig, lid, 4, bytes + 4, true), VN_SC_INVALID_FIELD);
    CHECK_EQ(fab_log(rig, lid, 4, 2, true), VN_SC_INVALID_FIELD);
    CHECK_EQ(fab_log(rig, lid, 4, UINT64_MAX & ~3ull, true), VN_SC_INVALID_FIELD);
    CHECK_EQ(fab_log(rig, lid, 4, (1ull << 32) - 4, true), VN_SC_INVALID_FIELD);
    CHECK_EQ(fab_log(rig, lid, (1u << 20) + 4, 0, true), VN_SC_INVALID_FIELD); /* more than MDTS */
}

/* --- Of an I/O controller --- */
static const struct vn_ana_group *ana_group_at(struct ctrl_rig *rig, uint32_t at) {
    return (const struct vn_ana_group *)(fab_data(rig) + at);
}

static uint32_t nsid_at(struct ctrl_rig *rig, uint32_t at) {
    uint32_t nsid;
    memcpy(&nsid, fab_data(rig) + at, sizeof(nsid));
    return nsid;
}

/* Namespaces 1, 4 and 256 in group 1, 2 in group 32; group 5 has one that this host does not see. */
static void test_ana_log(struct ctrl_rig *rig) {
    struct fabrics_rig *fab = fab_of(&rig->ctrl);
    fab->ana_group[2] = 32;
    fab->ana_group[3] = 5;
    CHECK(vn_ana_set(&fab->ana, 5, VN_ANA_INACCESSIBLE));
    CHECK(vn_ana_set(&fab->ana, 32, VN_ANA_NON_OPTIMIZED));
    CHECK(!vn_ana_set(&fab->ana, 32, VN_ANA_NON_OPTIMIZED));
    fab_enable(rig);
    CHECK_EQ(fab_log(rig, VN_LOG_ANA, 128, 0, true), VN_SC_SUCCESS);
    const struct vn_ana_log *head = (const struct vn_ana_log *)fab_data(rig);
    CHECK(head->change_count == 2 && head->nr_groups == 2);
    const struct vn_ana_group *group = ana_group_at(rig, 16);
    CHECK(group->anagrpid == 1 && group->nr_nsids == 3 && group->state == VN_ANA_OPTIMIZED && !group->change_count);
    CHECK(nsid_at(rig, 48) == 1 && nsid_at(rig, 52) == 4 && nsid_at(rig, 56) == 256);
    group = ana_group_at(rig, 60);
    CHECK(group->anagrpid == 32 && group->nr_nsids == 1 && group->state == VN_ANA_NON_OPTIMIZED);
    CHECK(group->change_count == 1 && nsid_at(rig, 92) == 2);
    check_parts(rig, VN_LOG_ANA, 96);
    CHECK_EQ(fab_log(rig, VN_LOG_ANA | VN_ANA_LOG_RGO, 128, 0, true), VN_SC_SUCCESS);
    CHECK(ana_group_at(rig, 16)->anagrpid == 1 && ana_group_at(rig, 16)->nr_nsids == 0);
    CHECK(ana_group_at(rig, 48)->anagrpid == 32 && ana_group_at(rig, 48)->nr_nsids == 0);
    check_parts(rig, VN_LOG_ANA | VN_ANA_LOG_RGO, 80);
}

static vn_status io(struct ctrl_rig *rig, uint8_t opcode, uint32_t nsid) {
    struct vn_sqe cmd = {.opcode = opcode, .flags = SGL_FLAGS, .nsid = nsid};
    cmd.sgl1 = (struct vn_sgl_desc){.addr = DATA_GPA, .type = VN_SGL_TRANSPORT, .length = opcode == VN_IO_DSM ? 16 : 512};
    memset(fab_data(rig), 0, 512);
    return fab_run(rig, 1, cmd).status;
}

/* Another path, or later, may do: no DNR. */
static void test_ana_states(struct ctrl_rig *rig) {
    static const struct {
        enum vn_ana_state state;
        vn_status status;
    } cases[] = {{VN_ANA_INACCESSIBLE, VN_STATUS(3, 2)}, {VN_ANA_PERSISTENT_LOSS, VN_STATUS(3, 1)},
                 {VN_ANA_CHANGE, VN_STATUS(3, 3)}, {VN_ANA_NON_OPTIMIZED, 0}, {VN_ANA_OPTIMIZED, 0}};
    static const uint8_t opcodes[] = {VN_IO_READ, VN_IO_WRITE, VN_IO_FLUSH, VN_IO_WRITE_ZEROES, VN_IO_DSM};
    struct fabrics_rig *fab = fab_of(&rig->ctrl);
    vn_queue_connect(&rig->ctrl, 1, 16);
    for (size_t i = 0; i < VN_ARRAY_SIZE(cases); i++) {
        vn_status status = cases[i].status ? cases[i].status | VN_STATUS_MORE : 0;
        CHECK(vn_ana_set(&fab->ana, 1, cases[i].state));
        for (size_t j = 0; j < sizeof(opcodes); j++) {
            CHECK_EQ(io(rig, opcodes[j], 4), status);
            CHECK_EQ(io(rig, opcodes[j], 2), 0); /* of another group */
        }
        CHECK_EQ(io(rig, VN_IO_FLUSH, VN_NSID_BROADCAST), status);
        CHECK_EQ(fab_identify(rig, VN_CNS_NS, 4), VN_SC_SUCCESS);
    }
}

/* What the host does not see is not there, by whatever way it asks. */
static void test_hidden(struct ctrl_rig *rig) {
    static const uint32_t seen[] = {1, 2, 4, 256, 0};
    static const uint32_t lists[] = {VN_CNS_ACTIVE_NS_LIST, VN_CNS_IOCS_ACTIVE_NS_LIST, VN_CNS_ALLOCATED_NS_LIST};
    for (size_t i = 0; i < VN_ARRAY_SIZE(lists); i++) {
        CHECK_EQ(fab_identify(rig, lists[i], 0), VN_SC_SUCCESS);
        CHECK(memcmp(fab_data(rig), seen, sizeof(seen)) == 0);
    }
    static const uint32_t structures[] = {VN_CNS_NS, VN_CNS_ALLOCATED_NS, VN_CNS_IOCS_INDEPENDENT_NS};
    for (size_t i = 0; i < VN_ARRAY_SIZE(structures); i++) {
        CHECK_EQ(fab_identify(rig, structures[i], 3), VN_SC_SUCCESS);
        for (uint32_t at = 0; at < VN_PAGE_SIZE; at++)
            CHECK_EQ(fab_data(rig)[at], 0);
    }
    CHECK_EQ(fab_identify(rig, VN_CNS_NS_DESC_LIST, 3), VN_SC_INVALID_NS);
    CHECK_EQ(fab_identify(rig, VN_CNS_NS_CTRL_LIST, 3), VN_SC_INVALID_NS);
    CHECK_EQ(VN_STATUS_CODE(io(rig, VN_IO_READ, 3)), VN_SC_INVALID_NS);
    CHECK_EQ(VN_STATUS_CODE(io(rig, VN_IO_WRITE, 3)), VN_SC_INVALID_NS);
}

static uint32_t notice(uint8_t info, uint8_t log) {
    return VN_AEN_NOTICE | (uint32_t)info << 8 | (uint32_t)log << 16;
}

static void test_ana_event(struct ctrl_rig *rig) {
    uint16_t first = fab_park_aer(rig), second = fab_park_aer(rig);
    vn_aer_ns_changed(&rig->ctrl, 4);
    vn_ana_changed(&rig->ctrl);
    CHECK_EQ(rig->nr_done, 1);
    CHECK_EQ(rig_completion(rig, 0, second)->result, notice(VN_AEN_NOTICE_NS_ATTR, VN_LOG_CHANGED_NS));
    CHECK_EQ(fab_log(rig, VN_LOG_CHANGED_NS, 4096, 0, false), VN_SC_SUCCESS); /* opens the type: the other one is told */
    CHECK_EQ(rig_completion(rig, 0, first)->result, notice(VN_AEN_NOTICE_ANA, VN_LOG_ANA));
}

/* The pages and commands that a controller names are those that it has. */
static void check_truth(struct ctrl_rig *rig, const uint8_t *lids, size_t nr_lids) {
    CHECK_EQ(fab_log(rig, VN_LOG_SUPPORTED, 1024, 0, true), VN_SC_SUCCESS);
    for (uint32_t lid = 0; lid < 256; lid++)
        CHECK_EQ(nsid_at(rig, 4 * lid), memchr(lids, (int)lid, nr_lids) ? 1 : 0);
    for (uint32_t lid = 0; lid < 256; lid++)
        CHECK_EQ(fab_log(rig, lid, 4, 0, true), memchr(lids, (int)lid, nr_lids) ? VN_SC_SUCCESS : VN_SC_INVALID_LOG_PAGE);
    CHECK_EQ(fab_log(rig, VN_LOG_EFFECTS, 4096, 0, true), VN_SC_SUCCESS);
    memcpy(whole, fab_data(rig), 4096);
    const struct vn_log_effects *effects = (const struct vn_log_effects *)whole;
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        if (opcode == VN_ADMIN_ASYNC_EVENT || opcode == VN_ADMIN_CROSS_RESET || opcode == VN_ADMIN_FABRICS)
            continue;
        vn_status status = fab_admin(rig, (struct vn_sqe){.opcode = (uint8_t)opcode}, 4);
        CHECK_EQ(status != VN_SC_INVALID_OPCODE, effects->acs[opcode]);
        if (rig->ctrl.sqs[1].exists) {
            status = VN_STATUS_CODE(io(rig, (uint8_t)opcode, 4));
            CHECK_EQ(status != VN_SC_INVALID_OPCODE, effects->iocs[opcode] & VN_EFFECT_CSUPP);
        } else {
            CHECK_EQ(effects->iocs[opcode], 0);
        }
    }
    CHECK_EQ(effects->acs[VN_ADMIN_CROSS_RESET], rig->ctrl.fabrics->kind == VN_CNTRLTYPE_IO);
}

static void test_io_truth(struct ctrl_rig *rig) {
    check_truth(rig, (const uint8_t[]){0, 1, 2, 3, 4, 5, VN_LOG_ANA, VN_LOG_FEATURES}, 8);
    rig->ctrl.ana = NULL; /* without it, nothing speaks of it */
    CHECK_EQ(fab_log(rig, VN_LOG_ANA, 16, 0, true), VN_SC_INVALID_LOG_PAGE);
    check_truth(rig, (const uint8_t[]){0, 1, 2, 3, 4, 5, VN_LOG_FEATURES}, 7);
    CHECK_EQ(fab_identify(rig, VN_CNS_CTRL, 0), VN_SC_SUCCESS);
    const struct vn_id_ctrl *id = (const struct vn_id_ctrl *)fab_data(rig);
    CHECK(!id->anacap && !id->nanagrpid && !(id->cmic & VN_CMIC_ANA) && !(id->oaes & VN_OAES_ANA));
    CHECK_EQ(fab_identify(rig, VN_CNS_NS, 4), VN_SC_SUCCESS);
    CHECK_EQ(((const struct vn_id_ns *)fab_data(rig))->anagrpid, 0);
}

/* Only what the transport has done carries its number. */
static void test_error_log(struct ctrl_rig *rig) {
    const struct vn_log_error *log = (const struct vn_log_error *)fab_data(rig);
    struct vn_sqe cmd = {.opcode = VN_IO_READ, .flags = SGL_FLAGS, .nsid = 4, .cdw10 = 1u << 20};
    cmd.sgl1 = (struct vn_sgl_desc){.addr = DATA_GPA, .type = VN_SGL_TRANSPORT, .length = 512};
    CHECK_EQ(fab_status(rig, 1, cmd), VN_SC_LBA_RANGE);
    CHECK_EQ(fab_log(rig, VN_LOG_ERROR, 64, 0, true), VN_SC_SUCCESS);
    CHECK(log->sqid == 1 && log->lba == 1u << 20 && log->trtype == 0);
    struct vn_req req = {.ctrl = &rig->ctrl, .sq = &rig->ctrl.sqs[1], .cmd = cmd};
    vn_log_error(&req, VN_SC_TRANSIENT_TRANSPORT);
    CHECK_EQ(fab_log(rig, VN_LOG_ERROR, 64, 0, true), VN_SC_SUCCESS);
    CHECK_EQ(log->trtype, VN_TRTYPE_TCP);
}

/* --- Of a discovery controller --- */
static void test_discovery_identify(struct ctrl_rig *rig) {
    uint64_t cap;
    CHECK_EQ(fab_get(rig, VN_REG_CAP, VN_PROPERTY_8_BYTES, &cap), VN_SC_SUCCESS);
    CHECK_EQ(cap & (VN_CAP_CSS_NVM | VN_CAP_CSS_IOCS | VN_CAP_CSS_ADMIN), VN_CAP_CSS_ADMIN);
    fab_enable(rig);
    CHECK_EQ(fab_identify(rig, VN_CNS_CTRL, 0), VN_SC_SUCCESS);
    const struct vn_id_ctrl *id = (const struct vn_id_ctrl *)fab_data(rig);
    CHECK_EQ(id->cntrltype, VN_CNTRLTYPE_DISCOVERY);
    CHECK_EQ(id->oaes, VN_OAES_DISCOVERY);
    CHECK(id->kas == 1 && id->maxcmd == 128 && id->cntlid == 7 && id->lpa == 6);
    CHECK(!id->nn && !id->oncs && !id->cmic && !id->vwc && !id->ioccsz && !id->sqes && !id->psd[0].mp);
    for (uint32_t cns = 0; cns < 256; cns++) {
        if (cns != VN_CNS_CTRL)
            CHECK_EQ(fab_identify(rig, cns, 1), VN_SC_INVALID_FIELD);
    }
    for (uint32_t feature = 0; feature < 256; feature++) {
        bool has = feature == VN_FEAT_ASYNC_EVENT || feature == VN_FEAT_KEEP_ALIVE;
        CHECK_EQ(fab_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_FEATURES, .cdw10 = feature}, 0),
                 has ? VN_SC_SUCCESS : VN_SC_INVALID_FIELD);
    }
}

static void test_discovery_log(struct ctrl_rig *rig) {
    const struct vn_discovery_log *head = (const struct vn_discovery_log *)fab_data(rig);
    CHECK_EQ(fab_log(rig, VN_LOG_DISCOVERY, 1024, 0, true), VN_SC_SUCCESS); /* nothing is offered: only the header */
    CHECK(head->genctr == 1000 && head->numrec == 0 && head->recfmt == 0);
    check_parts(rig, VN_LOG_DISCOVERY, 1024);
    fab_of(&rig->ctrl)->nr_entries = 20;
    CHECK_EQ(fab_log(rig, VN_LOG_DISCOVERY, 21 * 1024, 0, true), VN_SC_SUCCESS);
    CHECK(head->genctr == 1020 && head->numrec == 20);
    for (uint32_t i = 0; i < 20; i++) {
        const struct vn_discovery_entry *entry = (const struct vn_discovery_entry *)(fab_data(rig) + 1024 * (i + 1));
        char nqn[32];
        snprintf(nqn, sizeof(nqn), "nqn.test:%u", i);
        CHECK(entry->portid == i && entry->trtype == VN_TRTYPE_TCP && strcmp(entry->subnqn, nqn) == 0);
        CHECK_EQ(entry->tsas[255], 0);
    }
    check_parts(rig, VN_LOG_DISCOVERY, 21 * 1024);
    check_truth(rig, (const uint8_t[]){0, 1, 5, VN_LOG_DISCOVERY}, 4);
}

static void test_discovery_event(struct ctrl_rig *rig) {
    uint16_t cid = fab_park_aer(rig);
    vn_aer_ns_changed(&rig->ctrl, 1); /* it has none, and the host cannot ask for this */
    vn_ana_changed(&rig->ctrl);
    CHECK_EQ(rig->nr_done, 0);
    vn_discovery_changed(&rig->ctrl);
    CHECK_EQ(rig_completion(rig, 0, cid)->result, notice(VN_AEN_NOTICE_DISCOVERY, VN_LOG_DISCOVERY));
    cid = fab_park_aer(rig);
    vn_discovery_changed(&rig->ctrl);
    CHECK_EQ(fab_log(rig, VN_LOG_DISCOVERY, 1024, 0, true), VN_SC_SUCCESS); /* retained */
    CHECK(!rig_completion(rig, 0, cid));
    CHECK_EQ(fab_log(rig, VN_LOG_DISCOVERY, 1024, 1024, false), VN_SC_SUCCESS);
    CHECK(!rig_completion(rig, 0, cid)); /* what it read held the change */
    vn_discovery_changed(&rig->ctrl);
    CHECK_EQ(rig_completion(rig, 0, cid)->result, notice(VN_AEN_NOTICE_DISCOVERY, VN_LOG_DISCOVERY));
}

int main(void) {
    struct fabrics_rig *fab = fab_make(VN_CNTRLTYPE_IO);
    const struct vn_ns_opts opts = {.backend = "mem", .size = 1 << 20, .block_size = 512};
    static const uint32_t nsids[] = {1, 2, 4, 256};
    for (size_t i = 0; i < VN_ARRAY_SIZE(nsids); i++)
        rig_attach(&fab->rig, nsids[i], &opts);
    rig_on(&fab->rig, test_ana_log);
    rig_on(&fab->rig, test_ana_states);
    rig_on(&fab->rig, test_hidden);
    rig_on(&fab->rig, test_ana_event);
    rig_on(&fab->rig, test_error_log);
    rig_on(&fab->rig, test_io_truth);
    fab_free(fab);
    fab = fab_make(VN_CNTRLTYPE_DISCOVERY);
    rig_on(&fab->rig, test_discovery_identify);
    rig_on(&fab->rig, test_discovery_log);
    rig_on(&fab->rig, test_discovery_event);
    fab_free(fab);
    return 0;
}
