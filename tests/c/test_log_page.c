/* Log pages: sizes and offsets, the error log's order and ring, SMART counts that are true, changed namespaces.
 */
#include "ctrl_rig.h"

#define DATA_GPA (RIG_RAM_GPA + 0x20000)

static uint8_t *data_at(struct ctrl_rig *rig) {
    return rig->ram + (DATA_GPA - RIG_RAM_GPA);
}

/* bytes: a multiple of four. retain: the RAE bit. */
static vn_status get_log(struct ctrl_rig *rig, uint32_t lid, uint32_t bytes, uint64_t offset, uint32_t nsid, bool retain) {
    uint32_t dwords = bytes / 4 - 1;
    memset(data_at(rig), 0xaa, VN_PAGE_SIZE);
    return rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_LOG_PAGE, .nsid = nsid, .prp1 = DATA_GPA,
                                          .prp2 = DATA_GPA + VN_PAGE_SIZE,
                                          .cdw10 = lid | retain << 15 | (dwords & 0xffff) << 16, .cdw11 = dwords >> 16,
                                          .cdw12 = (uint32_t)offset, .cdw13 = (uint32_t)(offset >> 32)}, NULL);
}

static void test_bounds(struct ctrl_rig *rig) {
    rig_enable(rig);
    static const uint8_t others[] = {VN_LOG_SELF_TEST, VN_LOG_TELEMETRY_HOST, VN_LOG_TELEMETRY_CTRL, VN_LOG_ENDURANCE,
                                     VN_LOG_EVENTS, VN_LOG_LBA_STATUS, VN_LOG_ENDURANCE_EVENTS, VN_LOG_FEATURES, VN_LOG_MI_EFFECTS,
                                     VN_LOG_RESERVATION, VN_LOG_SANITIZE};
    for (uint32_t lid = 0; lid < 256; lid++) {
        bool known = lid <= 5 || memchr(others, (int)lid, sizeof(others));
        vn_status status = get_log(rig, lid, 64, 0, 0, true);
        CHECK_EQ(status == VN_SC_INVALID_LOG_PAGE, !known);
        bool asks_more = lid == VN_LOG_TELEMETRY_HOST || lid == VN_LOG_TELEMETRY_CTRL || lid == VN_LOG_ENDURANCE ||
                         lid == VN_LOG_EVENTS; /* whole blocks, a group, a context */
        CHECK(!known || asks_more || status == VN_SC_SUCCESS);
    }
    static const struct {
        uint32_t lid, bytes;
    } sizes[] = {{VN_LOG_SUPPORTED, 1024}, {VN_LOG_ERROR, 4096}, {VN_LOG_SMART, 512}, {VN_LOG_FIRMWARE, 512},
                 {VN_LOG_CHANGED_NS, 4096}, {VN_LOG_EFFECTS, 4096}};
    static uint8_t whole[VN_PAGE_SIZE];
    for (size_t i = 0; i < VN_ARRAY_SIZE(sizes); i++) {
        uint32_t lid = sizes[i].lid, bytes = sizes[i].bytes;
        CHECK_EQ(get_log(rig, lid, bytes, 0, 0, true), VN_SC_SUCCESS);
        memcpy(whole, data_at(rig), bytes);
        for (uint32_t offset = 4; offset <= bytes; offset += 252) {
            CHECK_EQ(get_log(rig, lid, 256, offset, 0, true), VN_SC_SUCCESS);
            uint32_t left = bytes - offset < 256 ? bytes - offset : 256;
            CHECK(memcmp(data_at(rig), whole + offset, left) == 0);
            for (uint32_t at = left; at < 256; at++)
                CHECK_EQ(data_at(rig)[at], 0); /* beyond the page's end */
            CHECK_EQ(data_at(rig)[256], 0xaa);
        }
        CHECK_EQ(get_log(rig, lid, 4, bytes + 4, 0, true), VN_SC_INVALID_FIELD);
        CHECK_EQ(get_log(rig, lid, 4, 2, 0, true), VN_SC_INVALID_FIELD); /* a dword's offset */
        CHECK_EQ(get_log(rig, lid, 4, 1ull << 32, 0, true), VN_SC_INVALID_FIELD);
        CHECK_EQ(get_log(rig, lid, 4, UINT64_MAX & ~3ull, 0, true), VN_SC_INVALID_FIELD);
        CHECK_EQ(get_log(rig, lid, (1u << 20) + 4, 0, 0, true), VN_SC_INVALID_FIELD); /* more than MDTS */
    }
    CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_LOG_PAGE, .prp1 = DATA_GPA,
                                            .cdw10 = VN_LOG_ERROR | 0xffffu << 16, .cdw11 = 0xffff}, NULL),
             VN_SC_INVALID_FIELD); /* 16 GiB */
    CHECK_EQ(get_log(rig, VN_LOG_SMART, 512, 0, VN_NSID_BROADCAST, true), VN_SC_SUCCESS);
    CHECK_EQ(get_log(rig, VN_LOG_SMART, 512, 0, 1, true), VN_SC_INVALID_FIELD); /* LPA: not per namespace */
}

static void test_errors(struct ctrl_rig *rig) {
    const struct vn_log_error *log = (const struct vn_log_error *)data_at(rig);
    uint64_t before = rig->ctrl.error_count;
    for (uint32_t i = 0; i < VN_MAX_ERROR_LOG + 10; i++)
        rig_submit(rig, 0, (struct vn_sqe){.opcode = 0x38, .cid = (uint16_t)(0x4000 + i), .nsid = i});
    CHECK_EQ(get_log(rig, VN_LOG_ERROR, VN_PAGE_SIZE, 0, 0, true), VN_SC_SUCCESS);
    for (uint32_t i = 0; i < VN_MAX_ERROR_LOG; i++) { /* the newest first, the oldest fallen out */
        CHECK_EQ(log[i].error_count, before + VN_MAX_ERROR_LOG + 10 - i);
        CHECK_EQ(log[i].cid, 0x4000 + VN_MAX_ERROR_LOG + 9 - i);
        CHECK_EQ(log[i].nsid, VN_MAX_ERROR_LOG + 9 - i);
        CHECK_EQ(log[i].sqid, 0);
        CHECK_EQ(VN_STATUS_CODE(log[i].status_field >> 1), VN_SC_INVALID_OPCODE);
    }
}

static const struct vn_log_smart *smart(struct ctrl_rig *rig) {
    CHECK_EQ(get_log(rig, VN_LOG_SMART, 512, 0, VN_NSID_BROADCAST, false), VN_SC_SUCCESS);
    return (const struct vn_log_smart *)data_at(rig);
}

static void test_smart(struct ctrl_rig *rig) {
    CHECK_EQ(rig_create_cq(rig, 1, 64), VN_SC_SUCCESS);
    CHECK_EQ(rig_create_sq(rig, 1, 1, 64), VN_SC_SUCCESS);
    CHECK(smart(rig)->host_reads[0] == 0 && smart(rig)->data_units_written[0] == 0);
    for (int i = 0; i < 125; i++) /* 125 x 4 KiB = 1000 x 512: one unit */
        rig_submit(rig, 1, (struct vn_sqe){.opcode = VN_IO_WRITE, .nsid = 1, .prp1 = DATA_GPA, .cdw12 = 7});
    CHECK_EQ(smart(rig)->data_units_written[0], 1);
    for (int i = 0; i < 126; i++)
        rig_submit(rig, 1, (struct vn_sqe){.opcode = VN_IO_READ, .nsid = 1, .prp1 = DATA_GPA, .cdw12 = 7});
    CHECK_EQ(smart(rig)->data_units_read[0], 2); /* rounded up */
    rig_submit(rig, 1, (struct vn_sqe){.opcode = VN_IO_READ, .nsid = 9}); /* failed: not counted as a read */
    CHECK(smart(rig)->host_reads[0] == 126 && smart(rig)->host_writes[0] == 125);
    CHECK_EQ(smart(rig)->num_err_log_entries[0], rig->ctrl.error_count);
    CHECK_EQ(smart(rig)->media_errors[0], 0);
    CHECK_EQ(smart(rig)->critical_warning, 0);
    CHECK_EQ(smart(rig)->power_cycles[0], 1);
}

static void test_changed_ns(struct ctrl_rig *rig) {
    const uint32_t *list = (const uint32_t *)data_at(rig);
    CHECK_EQ(get_log(rig, VN_LOG_CHANGED_NS, VN_PAGE_SIZE, 0, 0, true), VN_SC_SUCCESS);
    CHECK(list[0] == 1 && list[1] == 5 && list[2] == 0);
    CHECK_EQ(get_log(rig, VN_LOG_CHANGED_NS, VN_PAGE_SIZE, 0, 0, false), VN_SC_SUCCESS);
    CHECK(list[0] == 1 && list[1] == 5); /* retained until now */
    CHECK_EQ(get_log(rig, VN_LOG_CHANGED_NS, VN_PAGE_SIZE, 0, 0, false), VN_SC_SUCCESS);
    CHECK_EQ(list[0], 0);
}

/* What the effects page claims is what is done, and the other way round. */
static void test_effects(struct ctrl_rig *rig) {
    static struct vn_log_effects effects;
    CHECK_EQ(get_log(rig, VN_LOG_EFFECTS, VN_PAGE_SIZE, 0, 0, false), VN_SC_SUCCESS);
    memcpy(&effects, data_at(rig), sizeof(effects));
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        rig->nr_done = 0;
        if (opcode != VN_ADMIN_ASYNC_EVENT) {
            vn_status status = rig_admin(rig, (struct vn_sqe){.opcode = (uint8_t)opcode}, NULL);
            CHECK_EQ(status != VN_SC_INVALID_OPCODE, effects.acs[opcode] & VN_EFFECT_CSUPP);
        }
        rig->nr_done = 0;
        uint16_t cid = rig_submit(rig, 1, (struct vn_sqe){.opcode = (uint8_t)opcode, .nsid = 1});
        vn_status status = VN_STATUS_CODE(rig_completion(rig, 1, cid)->status);
        CHECK_EQ(status != VN_SC_INVALID_OPCODE, effects.iocs[opcode] & VN_EFFECT_CSUPP);
    }
}

int main(void) {
    struct ctrl_rig *rig = rig_make(NULL);
    const struct vn_ns_opts opts = {.backend = "mem", .size = 1 << 20, .block_size = 512};
    rig_on(rig, test_bounds);
    rig_on(rig, test_errors);
    rig_attach(rig, 1, &opts);
    rig_attach(rig, 5, &opts);
    rig_on(rig, test_smart);
    rig_on(rig, test_changed_ns);
    rig_on(rig, test_effects);
    rig_free(rig);
    return 0;
}
