/* Fused Compare and Write: atomic among everything else on the drive, in every order in which a backend may end things;
 * missing and wrong partners, aborts and resets in between.
 */
#include "io_rig.h"

#include "ns/ns_state.h"

static struct vn_sqe next_sqe; /* what the rig's ring has behind the first */
static bool has_next, has_room = true;

static struct vn_req *fetch_second(struct vn_sq *sq, bool *later) {
    *later = has_next && !has_room;
    if (!has_next || *later || VN_SQE_FUSE(next_sqe.flags) != VN_FUSE_SECOND)
        return NULL;
    struct vn_req *req = vn_ctrl_get_req(sq->ctrl, sq);
    CHECK(req);
    has_next = false;
    req->cmd = next_sqe;
    sq->cq->reserved++;
    sq->paired = true;
    return req;
}

struct pair {
    uint16_t first, second;
};

static struct vn_sqe fuse(struct vn_sqe cmd, uint8_t fuse, uint64_t data_gpa) {
    cmd.flags = fuse;
    cmd.prp1 = data_gpa;
    return cmd;
}

static struct pair submit_pair(struct ctrl_rig *rig, struct vn_sqe first, struct vn_sqe second) {
    second.cid = ++rig->next_cid;
    next_sqe = second;
    has_next = true;
    uint16_t cid = rig_submit(rig, 1, first);
    rig->ctrl.sqs[1].paired = false;
    if (has_next && has_room) { /* it was not taken: it comes by itself */
        has_next = false;
        rig_submit(rig, 1, next_sqe);
    }
    return (struct pair){cid, second.cid};
}

static void check_pair(struct ctrl_rig *rig, struct pair pair, vn_status first, vn_status second) {
    CHECK_EQ(io_wait(rig, pair.first).status, first);
    CHECK_EQ(io_wait(rig, pair.second).status, second);
    CHECK(rig_completion(rig, 1, pair.first) < rig_completion(rig, 1, pair.second)); /* in their order */
    CHECK(!store->nr_held || store->holds);
}

#define EXPECTED_GPA IO_DATA_GPA
#define NEW_GPA (IO_DATA_GPA + 0x10000)

static struct pair compare_and_write(struct ctrl_rig *rig, uint64_t lba, uint32_t nlb) {
    return submit_pair(rig, fuse(io_ranged(VN_IO_COMPARE, lba, nlb), 1, EXPECTED_GPA),
                       fuse(io_ranged(VN_IO_WRITE, lba, nlb), 2, NEW_GPA));
}

static void test_equal_or_not(struct ctrl_rig *rig) {
    rig->nr_done = 0;
    memcpy(io_data(rig), store->bytes + 10 * 512, 8 * 512);
    memset(io_data(rig) + 0x10000, 0x5a, 8 * 512);
    check_pair(rig, compare_and_write(rig, 10, 8), VN_SC_SUCCESS, VN_SC_SUCCESS);
    CHECK(!memcmp(store->bytes + 10 * 512, io_data(rig) + 0x10000, 8 * 512));
    check_pair(rig, compare_and_write(rig, 10, 8), VN_SC_COMPARE_FAILURE, VN_SC_ABORT_FAILED_FUSED);
    CHECK_EQ(rig->spaces[1]->special, 0);
    memcpy(io_data(rig), store->bytes + 10 * 512, 512);
    store->write_status = VN_SC_WRITE_FAULT; /* the compare keeps its status */
    check_pair(rig, compare_and_write(rig, 10, 1), VN_SC_SUCCESS, VN_SC_WRITE_FAULT);
    store->write_status = VN_SC_SUCCESS;
    CHECK_EQ(rig->spaces[1]->special, 0);
}

static void test_partners(struct ctrl_rig *rig) {
    struct vn_sqe compare = fuse(io_ranged(VN_IO_COMPARE, 10, 8), 1, EXPECTED_GPA);
    struct vn_sqe write = fuse(io_ranged(VN_IO_WRITE, 10, 8), 2, NEW_GPA);
    rig->nr_done = 0;
    has_next = false;
    CHECK_EQ(io_command(rig, compare).status, VN_SC_ABORT_MISSING_FUSED);
    CHECK_EQ(io_command(rig, write).status, VN_SC_ABORT_MISSING_FUSED);
    struct vn_sqe plain = write;
    plain.flags = 0;
    check_pair(rig, submit_pair(rig, compare, plain), VN_SC_ABORT_MISSING_FUSED, VN_SC_SUCCESS);
    check_pair(rig, submit_pair(rig, compare, compare), VN_SC_ABORT_MISSING_FUSED, VN_SC_ABORT_MISSING_FUSED);
    check_pair(rig, submit_pair(rig, compare, fuse(io_ranged(VN_IO_READ, 10, 8), 2, NEW_GPA)), VN_SC_INVALID_FIELD,
               VN_SC_INVALID_FIELD);
    check_pair(rig, submit_pair(rig, compare, fuse(io_ranged(VN_IO_WRITE, 11, 8), 2, NEW_GPA)), VN_SC_INVALID_FIELD,
               VN_SC_INVALID_FIELD);
    check_pair(rig, submit_pair(rig, compare, fuse(io_ranged(VN_IO_WRITE, 10, 9), 2, NEW_GPA)), VN_SC_INVALID_FIELD,
               VN_SC_INVALID_FIELD);
    struct vn_sqe elsewhere = write;
    elsewhere.nsid = 2;
    check_pair(rig, submit_pair(rig, compare, elsewhere), VN_SC_INVALID_FIELD, VN_SC_INVALID_FIELD);
    /* what is wrong with one of them alone: nothing is compared */
    check_pair(rig, submit_pair(rig, fuse(compare, 1, 1ull << 40), write), VN_SC_DATA_TRANSFER_ERROR, VN_SC_ABORT_FAILED_FUSED);
    check_pair(rig, submit_pair(rig, compare, fuse(write, 2, 1ull << 40)), VN_SC_ABORT_FAILED_FUSED, VN_SC_DATA_TRANSFER_ERROR);
    check_pair(rig, compare_and_write(rig, STORE_BLOCKS, 8), VN_SC_LBA_RANGE, VN_SC_ABORT_FAILED_FUSED);
    static const uint8_t others[] = {VN_IO_READ, VN_IO_FLUSH, VN_IO_WRITE_ZEROES, VN_IO_VERIFY};
    for (uint8_t flags = 1; flags < 4; flags++) {
        for (size_t i = 0; i < VN_ARRAY_SIZE(others); i++)
            CHECK_EQ(io_command(rig, fuse(io_ranged(others[i], 10, 8), flags, NEW_GPA)).status, VN_SC_INVALID_FIELD);
    }
    CHECK_EQ(io_command(rig, fuse(compare, 3, NEW_GPA)).status, VN_SC_INVALID_FIELD);
    CHECK_EQ(io_command(rig, fuse(write, 1, NEW_GPA)).status, VN_SC_INVALID_FIELD);
}

/* A counter in a block, which pairs count up if it is what they have seen; plain writes and copies at other places, reads
 * anywhere. In the end it has been counted up as often as pairs succeeded, whatever came in between. */
#define NR_COUNTERS 4u
#define SLOTS 24u

static void put_block(struct ctrl_rig *rig, uint64_t gpa, uint64_t value) {
    uint64_t *words = (uint64_t *)(void *)(rig->ram + (gpa - RIG_RAM_GPA));
    for (size_t i = 0; i < 1024 / 8; i++)
        words[i] = value;
}

static void test_counting(struct ctrl_rig *rig) {
    struct vn_test_random random = vn_test_seed();
    uint64_t counts[NR_COUNTERS] = {0}, nr_lost = 0;
    struct {
        struct pair pair;
        uint32_t counter;
        uint16_t other;
    } slots[SLOTS] = {0};
    memset(store->bytes, 0, NR_COUNTERS * 1024);
    store->holds = true;
    store->busy_ppm = 100000;
    for (uint32_t round = 0; round < 400; round++) {
        rig->nr_done = 0;
        for (uint32_t i = 0; i < SLOTS; i++) {
            uint64_t gpa = IO_DATA_GPA + i * 0x1000;
            slots[i].counter = (uint32_t)vn_test_below(&random, NR_COUNTERS);
            uint64_t lba = slots[i].counter * 2ull, seen = counts[slots[i].counter] + vn_test_below(&random, 2);
            put_block(rig, gpa, seen);
            put_block(rig, gpa + 0x400, seen + 1);
            slots[i].pair = (struct pair){0};
            switch (vn_test_below(&random, 3)) {
            case 0: /* it has whole blocks of one value, whenever it is read */
                slots[i].other = rig_submit(rig, 1, fuse(io_ranged(VN_IO_READ, lba, 2), 0, gpa));
                break;
            case 1:
                slots[i].other = rig_submit(rig, 1, io_ranged(VN_IO_VERIFY, 0, 8));
                break;
            default:
                slots[i].pair = submit_pair(rig, fuse(io_ranged(VN_IO_COMPARE, lba, 2), 1, gpa),
                                            fuse(io_ranged(VN_IO_WRITE, lba, 2), 2, gpa + 0x400));
                break;
            }
            if (vn_test_below(&random, 4) == 0)
                io_turn(rig);
        }
        uint64_t gained[NR_COUNTERS] = {0};
        for (uint32_t i = 0; i < SLOTS; i++) {
            const uint64_t *words = (const uint64_t *)(void *)(io_data(rig) + i * 0x1000);
            if (!slots[i].pair.first) {
                CHECK_EQ(io_wait(rig, slots[i].other).status, VN_SC_SUCCESS);
                CHECK_EQ(words[0], words[1024 / 8 - 1]);
                continue;
            }
            bool won = io_wait(rig, slots[i].pair.first).status == VN_SC_SUCCESS;
            check_pair(rig, slots[i].pair, won ? 0 : VN_SC_COMPARE_FAILURE, won ? 0 : VN_SC_ABORT_FAILED_FUSED);
            gained[slots[i].counter] += won;
            nr_lost += !won;
        }
        for (uint32_t i = 0; i < NR_COUNTERS; i++) {
            counts[i] += gained[i];
            CHECK_EQ(*(uint64_t *)(void *)(store->bytes + i * 1024), counts[i]);
            CHECK_EQ(*(uint64_t *)(void *)(store->bytes + i * 1024 + 1016), counts[i]);
        }
    }
    printf("%llu lost\n", (unsigned long long)nr_lost);
    CHECK(nr_lost > 100 && counts[0] > 100);
    CHECK_EQ(rig->spaces[1]->special, 0);
    store->holds = false;
    store->busy_ppm = 0;
}

/* A plain write of the range that is under way before is waited for, one that comes later waits. */
static void test_writers_around(struct ctrl_rig *rig) {
    rig->nr_done = 0;
    store->holds = true;
    memset(io_data(rig), 0x11, 512);
    memset(io_data(rig) + 0x10000, 0x22, 512);
    memset(io_data(rig) + 0x20000, 0x33, 1024);
    uint16_t before = rig_submit(rig, 1, fuse(io_ranged(VN_IO_WRITE, 50, 1), 0, EXPECTED_GPA));
    struct pair pair = compare_and_write(rig, 50, 1); /* equal only when that write is done */
    CHECK_EQ(store->nr_held, 1);
    uint16_t after = rig_submit(rig, 1, fuse(io_ranged(VN_IO_WRITE, 49, 2), 0, IO_DATA_GPA + 0x20000));
    uint16_t beside = rig_submit(rig, 1, fuse(io_ranged(VN_IO_WRITE, 51, 1), 0, IO_DATA_GPA + 0x20000));
    CHECK_EQ(store->nr_held, 2); /* the one that has nothing to do with it */
    check_pair(rig, pair, VN_SC_SUCCESS, VN_SC_SUCCESS);
    CHECK(rig_completion(rig, 1, before) && rig_completion(rig, 1, before) < rig_completion(rig, 1, pair.first));
    CHECK_EQ(io_wait(rig, after).status, VN_SC_SUCCESS);
    CHECK(rig_completion(rig, 1, pair.second) < rig_completion(rig, 1, after));
    CHECK_EQ(io_wait(rig, beside).status, VN_SC_SUCCESS);
    CHECK_EQ(store->bytes[50 * 512], 0x33);
    store->holds = false;
}

/* No completion is free for the second: it waits for one, and nothing else is taken from the queue meanwhile. */
static void test_no_room(struct ctrl_rig *rig) {
    rig->nr_done = 0;
    has_room = false;
    memcpy(io_data(rig), store->bytes + 10 * 512, 512);
    struct pair pair = compare_and_write(rig, 10, 1);
    for (int i = 0; i < 10; i++)
        io_turn(rig);
    CHECK(rig->ctrl.sqs[1].lacks_second && !rig->nr_done);
    has_room = true;
    check_pair(rig, pair, VN_SC_SUCCESS, VN_SC_SUCCESS);
    CHECK_EQ(rig->ctrl.sqs[1].halts, 0);
    has_room = false;
    pair = compare_and_write(rig, 10, 1);
    rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = 1 | (uint32_t)pair.first << 16});
    CHECK_EQ(io_wait(rig, pair.first).status, VN_SC_ABORT_REQUESTED);
    CHECK_EQ(rig->ctrl.sqs[1].halts, 0);
    has_next = false;
    has_room = true;
}

static void test_aborts(struct ctrl_rig *rig) {
    for (int which = 0; which < 2; which++) {
        for (int turns = 0; turns < 4; turns++) {
            rig->nr_done = 0;
            store->holds = true;
            memcpy(io_data(rig), store->bytes + 10 * 512, 512);
            uint16_t before = rig_submit(rig, 1, fuse(io_ranged(VN_IO_READ, 10, 1), 0, IO_DATA_GPA + 0x20000));
            struct pair pair = compare_and_write(rig, 10, 1);
            for (int i = 0; i < turns; i++)
                io_turn(rig);
            uint16_t cid = which ? pair.second : pair.first;
            rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = 1 | (uint32_t)cid << 16});
            vn_status first = io_wait(rig, pair.first).status, second = io_wait(rig, pair.second).status;
            CHECK(first == VN_SC_SUCCESS || first == VN_SC_ABORT_REQUESTED || first == VN_SC_ABORT_FAILED_FUSED);
            CHECK(first == VN_SC_SUCCESS || second != VN_SC_SUCCESS);
            io_wait(rig, before);
            CHECK_EQ(rig->spaces[1]->special, 0);
            store->holds = false;
        }
    }
}

/* Resets, waited for and not, with a pair in every state; rig_free finds every request at home. */
static int turns_before_reset;

static void hang(struct ctrl_rig *rig) {
    rig->nr_done = 0;
    store->holds = true;
    memcpy(io_data(rig), store->bytes + 10 * 512, 512);
    rig_submit(rig, 1, fuse(io_ranged(VN_IO_READ, 10, 1), 0, IO_DATA_GPA + 0x20000));
    compare_and_write(rig, 10, 1);
    compare_and_write(rig, 10, 1); /* waits for the lock */
    for (int i = 0; i < turns_before_reset; i++)
        io_turn(rig);
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
}

static void end_all(struct ctrl_rig *rig) {
    while (store_end_one())
        vn_ctrl_retry_busy(&rig->ctrl);
    store->holds = false;
}

static void test_resets(struct ctrl_rig *rig) {
    for (int round = 0; round < 8; round++) {
        turns_before_reset = round / 2;
        rig_on(rig, hang);
        if (round & 1)
            RIG_WAIT(rig, rig->ctrl.nr_orphans || rig->ctrl.state == VN_CTRL_DISABLED);
        rig_on(rig, end_all);
        RIG_WAIT(rig, rig->ctrl.state == VN_CTRL_DISABLED && !rig->ctrl.nr_orphans);
        CHECK_EQ(rig->spaces[1]->special, 0);
        rig_on(rig, io_start);
    }
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    struct ctrl_rig *rig = rig_make(NULL);
    struct vn_door_ops door = *rig->ctrl.door;
    door.fetch_second = fetch_second;
    rig->ctrl.door = &door;
    store_attach(rig, random.state);
    rig_on(rig, io_start);
    rig_on(rig, test_equal_or_not);
    rig_on(rig, test_partners);
    rig_on(rig, test_counting);
    rig_on(rig, test_writers_around);
    rig_on(rig, test_no_room);
    rig_on(rig, test_aborts);
    test_resets(rig);
    rig_free(rig);
    return 0;
}
