/* Copy: against a model that reads all sources before it writes anything, with limits, failures and buffers that run out.
 */
#include "io_rig.h"

#include "ctrl/bounce.h"
#include "ctrl/io_cmd.h"

#define MAX_BLOCKS (VN_BOUNCE_BYTES / 512)

static uint8_t *model;

static struct vn_sqe copy_to(uint64_t lba, uint32_t nr, uint32_t format) {
    struct vn_sqe cmd = io_ranged(VN_IO_COPY, lba, nr);
    cmd.cdw12 |= format << 8;
    return cmd;
}

/* The list may be longer than a page: it lies in one piece here. */
static void put_range(struct ctrl_rig *rig, uint32_t index, uint32_t format, uint64_t slba, uint32_t nlb) {
    if (format) {
        struct vn_copy_range_long *list = (struct vn_copy_range_long *)(void *)io_data(rig);
        list[index] = (struct vn_copy_range_long){.slba = slba, .nlb = (uint16_t)(nlb - 1)};
    } else {
        struct vn_copy_range *list = (struct vn_copy_range *)(void *)io_data(rig);
        list[index] = (struct vn_copy_range){.slba = slba, .nlb = (uint16_t)(nlb - 1)};
    }
}

static struct rig_done copy_one(struct ctrl_rig *rig, uint64_t to, uint64_t from, uint32_t nlb) {
    put_range(rig, 0, 0, from, nlb);
    return io_command(rig, copy_to(to, 1, 0));
}

static void check_model(void) {
    CHECK(!memcmp(model, store->bytes, STORE_BYTES));
}

static void test_one(struct ctrl_rig *rig) {
    io_start(rig);
    memcpy(model, store->bytes, STORE_BYTES);
    CHECK_EQ(copy_one(rig, 100, 3000, 17).status, VN_SC_SUCCESS);
    memmove(model + 100 * 512, model + 3000 * 512, 17 * 512);
    check_model();
    const struct vn_ctrl_counters *counters = &rig->ctrl.counters;
    CHECK_EQ(counters->reads, 1);
    CHECK_EQ(counters->writes, 1);
    CHECK_EQ(counters->read_bytes, 17 * 512);
    CHECK_EQ(counters->write_bytes, 17 * 512);
    CHECK_EQ(store->nr_fua, 0);
    put_range(rig, 0, 0, 5, 1);
    struct vn_sqe cmd = copy_to(6, 1, 0);
    cmd.cdw12 |= VN_RW_FUA | VN_RW_LR;
    CHECK_EQ(io_command(rig, cmd).status, VN_SC_SUCCESS);
    CHECK_EQ(store->nr_fua, 1);
    memmove(model + 6 * 512, model + 5 * 512, 512);
    check_model();
}

/* Overlapping, forwards and backwards, by one block and by nearly all. */
static void test_overlap(struct ctrl_rig *rig) {
    static const int shifts[] = {1, -1, 7, -7, 1023, -1023, 0};
    for (size_t i = 0; i < VN_ARRAY_SIZE(shifts); i++) {
        uint64_t from = 2048, to = (uint64_t)(2048 + shifts[i]);
        CHECK_EQ(copy_one(rig, to, from, 1024).status, VN_SC_SUCCESS);
        memmove(model + to * 512, model + from * 512, 1024 * 512);
        check_model();
    }
}

static void copy_at_random(struct ctrl_rig *rig, struct vn_test_random *random) {
    static uint8_t gathered[VN_BOUNCE_BYTES];
    uint32_t format = (uint32_t)vn_test_below(random, 2), nr = 1 + (uint32_t)vn_test_below(random, 128), sum = 0;
    for (uint32_t i = 0; i < nr; i++) {
        uint32_t nlb = 1 + (uint32_t)vn_test_below(random, MAX_BLOCKS / nr);
        uint64_t slba = vn_test_below(random, STORE_BLOCKS - nlb);
        put_range(rig, i, format, slba, nlb);
        memcpy(gathered + sum * 512, model + slba * 512, nlb * 512);
        sum += nlb;
    }
    uint64_t to = vn_test_below(random, STORE_BLOCKS - sum);
    memcpy(model + to * 512, gathered, sum * 512);
    CHECK_EQ(io_command(rig, copy_to(to, nr, format)).status, VN_SC_SUCCESS);
}

static void test_model(struct ctrl_rig *rig) {
    struct vn_test_random random = vn_test_seed();
    store->holds = true;
    store->busy_ppm = 200000;
    for (int i = 0; i < 100; i++)
        copy_at_random(rig, &random);
    check_model();
    store->holds = false;
    store->busy_ppm = 0;
}

static void test_limits(struct ctrl_rig *rig) {
    struct vn_id_ns id = {0};
    vn_io_copy_limits(rig->spaces[1], &id);
    CHECK_EQ(id.mssrl, MAX_BLOCKS);
    CHECK_EQ(id.mcl, MAX_BLOCKS);
    CHECK_EQ(id.msrc, 127);
    CHECK_EQ(copy_one(rig, 0, 4096, MAX_BLOCKS).status, VN_SC_SUCCESS);
    memcpy(model, store->bytes, STORE_BYTES);
    CHECK_EQ(copy_one(rig, 0, 4096, MAX_BLOCKS + 1).status, VN_SC_CMD_SIZE_LIMIT);
    CHECK_EQ(copy_one(rig, 0, 0, 65536).status, VN_SC_CMD_SIZE_LIMIT);
    put_range(rig, 0, 0, 0, MAX_BLOCKS);
    put_range(rig, 1, 0, 0, 1);
    CHECK_EQ(io_command(rig, copy_to(0, 2, 0)).status, VN_SC_CMD_SIZE_LIMIT);
    for (uint32_t i = 0; i < 256; i++)
        put_range(rig, i, 0, i, 1);
    CHECK_EQ(io_command(rig, copy_to(0, 129, 0)).status, VN_SC_CMD_SIZE_LIMIT);
    CHECK_EQ(io_command(rig, copy_to(0, 256, 0)).status, VN_SC_CMD_SIZE_LIMIT);
    CHECK_EQ(io_error(rig)->parm_error_location, 48);
    for (uint32_t format = 2; format < 16; format++)
        CHECK_EQ(io_command(rig, copy_to(0, 1, format)).status, VN_SC_INVALID_FIELD);
    check_model();
}

static void test_ranges(struct ctrl_rig *rig) {
    CHECK_EQ(copy_one(rig, STORE_BLOCKS - 7, 0, 8).status, VN_SC_LBA_RANGE);
    CHECK_EQ(io_error(rig)->parm_error_location, 40);
    CHECK_EQ(copy_one(rig, UINT64_MAX, 0, 2).status, VN_SC_LBA_RANGE);
    CHECK_EQ(copy_one(rig, 0, STORE_BLOCKS - 7, 8).status, VN_SC_LBA_RANGE);
    CHECK_EQ(copy_one(rig, 0, UINT64_MAX, 2).status, VN_SC_LBA_RANGE);
    struct vn_sqe cmd = copy_to(0, 1, 0);
    cmd.prp1 = 1ull << 40;
    CHECK_EQ(io_command(rig, cmd).status, VN_SC_DATA_TRANSFER_ERROR);
    static const uint32_t prinfo[] = {1u << 26, 8u << 26, 1u << 12, 8u << 12};
    for (size_t i = 0; i < VN_ARRAY_SIZE(prinfo); i++) {
        cmd = copy_to(0, 1, 0);
        cmd.cdw12 |= prinfo[i];
        CHECK_EQ(io_command(rig, cmd).status, VN_SC_INVALID_FIELD);
    }
    rig->spaces[1]->read_only = true;
    CHECK_EQ(copy_one(rig, 0, 9, 1).status, VN_SC_NS_WRITE_PROTECTED);
    rig->spaces[1]->read_only = false;
    check_model();
}

/* Ranges before the one that cannot be read are copied, and CDW0 says how many those are. */
static void test_failures(struct ctrl_rig *rig) {
    for (uint32_t bad = 0; bad < 4; bad++) {
        for (uint32_t i = 0; i < 4; i++)
            put_range(rig, i, 0, 1000 * i, 10);
        store->bad_lba = 1000 * bad + 9;
        struct rig_done done = io_command(rig, copy_to(5000, 4, 0));
        CHECK_EQ(done.status, VN_SC_UNRECOVERED_READ);
        CHECK_EQ(done.result, bad);
        for (uint32_t i = 0; i < bad; i++)
            memcpy(model + (5000 + 10 * i) * 512, model + 1000 * i * 512, 10 * 512);
        check_model();
    }
    store->bad_lba = UINT64_MAX;
    store->write_status = VN_SC_WRITE_FAULT;
    struct rig_done done = io_command(rig, copy_to(5000, 4, 0));
    CHECK_EQ(done.status, VN_SC_WRITE_FAULT);
    CHECK_EQ(done.result, 0);
    check_model();
    store->write_status = VN_SC_SUCCESS;
}

static void test_many_at_once(struct ctrl_rig *rig) {
    uint16_t cids[30];
    rig->nr_done = 0;
    store->holds = true;
    put_range(rig, 0, 0, 0, 8);
    for (size_t i = 0; i < VN_ARRAY_SIZE(cids); i++)
        cids[i] = rig_submit(rig, 1, copy_to(100 * (i + 1), 1, 0));
    CHECK_EQ(store->nr_held, VN_NR_BOUNCES);
    rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = 1 | (uint32_t)cids[0] << 16});
    rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = 1 | (uint32_t)cids[29] << 16});
    for (size_t i = 0; i < VN_ARRAY_SIZE(cids); i++)
        CHECK_EQ(io_wait(rig, cids[i]).status, i && i < 29 ? VN_SC_SUCCESS : VN_SC_ABORT_REQUESTED);
    for (size_t i = 1; i < 29; i++)
        memcpy(model + 100 * (i + 1) * 512, model, 8 * 512);
    check_model();
    store->holds = false;
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    struct ctrl_rig *rig = rig_make(NULL);
    CHECK((model = malloc(STORE_BYTES)));
    store_attach(rig, random.state);
    rig_on(rig, test_one);
    rig_on(rig, test_overlap);
    rig_on(rig, test_model);
    rig_on(rig, test_limits);
    rig_on(rig, test_ranges);
    rig_on(rig, test_failures);
    rig_on(rig, test_many_at_once);
    rig_free(rig);
    free(model);
    return 0;
}
