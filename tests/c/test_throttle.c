/* Commands that wait for tokens: who goes on, who waits, and that whoever waits ends when it is cancelled, when its queue,
 * its namespace or its controller goes, and when the limit is lifted. A limit of one byte a second lets a burst through,
 * and then nothing for longer than any test takes.
 */
#include "core/status.h"
#include "ctrl_rig.h"

#define DATA (RIG_RAM_GPA + 0x10000)
#define BLOCK 512u
#define BURST_NR 8u /* blocks that 3600 saved bytes let through: the eighth takes more than is left */

static const struct vn_ns_opts memory = {.backend = "mem", .size = 1 << 20, .block_size = BLOCK};
static const struct vn_ns_opts slow = {.backend = "mem", .size = 1 << 20, .block_size = BLOCK, .delay_us = 2000};
static struct vn_limits limits;

static void prepare(struct ctrl_rig *rig) {
    rig_enable(rig);
    for (uint16_t qid = 1; qid <= 2; qid++) {
        CHECK_EQ(rig_create_cq(rig, qid, 1024), 0);
        CHECK_EQ(rig_create_sq(rig, qid, qid, 1024), 0);
    }
    rig->nr_done = 0;
}

static void tie(struct ctrl_rig *rig) {
    for (uint32_t nsid = 1; nsid <= 2; nsid++)
        rig->ctrl.namespaces.by_nsid[nsid]->ctrl_throttle = &rig->ctrl.throttle;
}

static struct ctrl_rig *start(const struct vn_ns_opts *first) {
    struct ctrl_rig *rig = rig_make(NULL);
    rig_attach(rig, 1, first);
    rig_attach(rig, 2, &memory);
    rig_on(rig, tie);
    rig_on(rig, prepare);
    return rig;
}

static struct vn_ns_chan *chan_of(struct ctrl_rig *rig, uint32_t nsid) {
    return rig->ctrl.namespaces.by_nsid[nsid];
}

/* As api.c does it, on the reactor itself. */
static void limit_ns(struct ctrl_rig *rig, uint32_t nsid) {
    struct vn_limiter limiter = {.marks = rig->spaces[nsid]->marks};
    vn_limiter_set(&limiter, &limits);
    vn_limiter_change(&chan_of(rig, nsid)->throttle.limiter, &limiter, vn_reactor_now_ns(rig->reactor));
    vn_ns_chan_limit(chan_of(rig, nsid), &limiter);
}

static void limit_first(struct ctrl_rig *rig) {
    limit_ns(rig, 1);
}

static void limit_ctrl(struct ctrl_rig *rig) {
    struct vn_limiter limiter = {.marks = rig->ctrl.limit_marks};
    vn_limiter_set(&limiter, &limits);
    vn_limiter_change(&rig->ctrl.throttle.limiter, &limiter, vn_reactor_now_ns(rig->reactor));
    vn_throttle_set(&rig->ctrl.throttle, &limiter);
    vn_ns_table_limits_changed(&rig->ctrl.namespaces);
}

/* A burst, then nothing for minutes. */
static void nearly_nothing(uint32_t kind) {
    limits = (struct vn_limits){0};
    limits.of[kind] = (struct vn_limit){.rate = 1, .burst_us = 3600000000};
}

static void no_limit(void) {
    limits = (struct vn_limits){0};
}

static uint32_t nsid_to_use = 1, nr_to_send;
static uint16_t sqid_to_use = 1;
static uint8_t opcode_to_use = VN_IO_READ;

static void send_here(struct ctrl_rig *rig) {
    for (uint32_t i = 0; i < nr_to_send; i++)
        rig_submit(rig, sqid_to_use, (struct vn_sqe){.opcode = opcode_to_use, .nsid = nsid_to_use, .prp1 = DATA, .cdw10 = i});
}

static void send_to(struct ctrl_rig *rig, uint16_t sqid, uint32_t nsid, uint8_t opcode, uint32_t nr) {
    sqid_to_use = sqid;
    nsid_to_use = nsid;
    opcode_to_use = opcode;
    nr_to_send = nr;
    rig_on(rig, send_here);
}

static uint32_t nr_with(const struct ctrl_rig *rig, vn_status status) {
    uint32_t nr = 0;
    for (uint32_t i = 0; i < rig->nr_done; i++)
        nr += VN_STATUS_CODE(rig->done[i].status) == status;
    return nr;
}

static void finish(struct ctrl_rig *rig) {
    rig_on(rig, rig_disable_here);
    CHECK_EQ(rig->ctrl.throttle.nr_waiting, 0);
    CHECK(!rig->ctrl.throttle.timer.armed);
    rig_free(rig);
}

static void test_a_burst_and_then_nothing(void) {
    struct ctrl_rig *rig = start(&memory);
    nearly_nothing(VN_LIMIT_BANDWIDTH);
    rig_on(rig, limit_first);
    send_to(rig, 1, 1, VN_IO_READ, 20);
    CHECK_EQ(nr_with(rig, 0), BURST_NR);
    CHECK_EQ(chan_of(rig, 1)->throttle.nr_waiting, 20 - BURST_NR);
    CHECK_EQ(chan_of(rig, 1)->counters.waits.throttled, 20 - BURST_NR);
    send_to(rig, 1, 2, VN_IO_READ, 50); /* another namespace has nothing to do with it */
    CHECK_EQ(nr_with(rig, 0), BURST_NR + 50);
    send_to(rig, 1, 1, VN_IO_WRITE_ZEROES, 3); /* no bytes: tokens are of no interest */
    CHECK_EQ(nr_with(rig, 0), BURST_NR + 53);
    no_limit();
    rig_on(rig, limit_first);
    RIG_WAIT(rig, rig->nr_done == 73);
    CHECK_EQ(nr_with(rig, 0), 73);
    CHECK_EQ(chan_of(rig, 1)->throttle.nr_waiting, 0);
    finish(rig);
}

/* Reads that wait do not hold up writes that have no limit. */
static void test_reads_and_writes_wait_apart(void) {
    struct ctrl_rig *rig = start(&memory);
    nearly_nothing(VN_LIMIT_READ_BANDWIDTH);
    rig_on(rig, limit_first);
    send_to(rig, 1, 1, VN_IO_READ, 20);
    CHECK_EQ(rig->nr_done, BURST_NR);
    send_to(rig, 1, 1, VN_IO_WRITE, 20);
    CHECK_EQ(rig->nr_done, BURST_NR + 20);
    finish(rig);
}

static void test_the_controllers_limit_is_over_all_namespaces(void) {
    struct ctrl_rig *rig = start(&memory);
    nearly_nothing(VN_LIMIT_BANDWIDTH);
    rig_on(rig, limit_ctrl);
    send_to(rig, 1, 1, VN_IO_READ, 5);
    send_to(rig, 1, 2, VN_IO_READ, 15);
    CHECK_EQ(nr_with(rig, 0), BURST_NR);
    CHECK_EQ(rig->ctrl.throttle.nr_waiting, 20 - BURST_NR);
    rig_on(rig, limit_first); /* both at once: each has its own tokens, and the controller's are gone */
    send_to(rig, 1, 1, VN_IO_READ, 10);
    CHECK_EQ(nr_with(rig, 0), BURST_NR);
    no_limit();
    rig_on(rig, limit_ctrl);
    RIG_WAIT(rig, rig->nr_done == 20 + BURST_NR);
    CHECK_EQ(chan_of(rig, 1)->throttle.nr_waiting, 10 - BURST_NR);
    finish(rig);
}

static void delete_first_sq(struct ctrl_rig *rig) {
    rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_DELETE_SQ, .cdw10 = 1, .cid = 999});
}

static void test_a_queue_that_goes_takes_its_commands_along(void) {
    struct ctrl_rig *rig = start(&memory);
    nearly_nothing(VN_LIMIT_BANDWIDTH);
    rig_on(rig, limit_first);
    send_to(rig, 1, 1, VN_IO_READ, 20);
    send_to(rig, 2, 1, VN_IO_READ, 7);
    rig_on(rig, delete_first_sq);
    RIG_WAIT(rig, rig_completion(rig, 0, 999));
    CHECK_EQ(nr_with(rig, VN_SC_ABORT_SQ_DELETED), 20 - BURST_NR);
    CHECK_EQ(chan_of(rig, 1)->throttle.nr_waiting, 7);
    finish(rig);
}

static void abort_one(struct ctrl_rig *rig) {
    uint16_t cid = rig->next_cid; /* the newest is the last in the queue */
    rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = 1 | (uint32_t)cid << 16, .cid = 998});
}

static void test_an_abort_ends_the_one(void) {
    struct ctrl_rig *rig = start(&memory);
    nearly_nothing(VN_LIMIT_BANDWIDTH);
    rig_on(rig, limit_ctrl);
    send_to(rig, 1, 1, VN_IO_WRITE, 20);
    rig_on(rig, abort_one);
    RIG_WAIT(rig, rig_completion(rig, 0, 998));
    CHECK_EQ(rig_completion(rig, 0, 998)->result, 0); /* aborted */
    CHECK_EQ(nr_with(rig, VN_SC_ABORT_REQUESTED), 1);
    CHECK_EQ(rig->ctrl.throttle.nr_waiting, 20 - BURST_NR - 1);
    finish(rig);
}

static void test_a_reset_ends_all(void) {
    struct ctrl_rig *rig = start(&memory);
    nearly_nothing(VN_LIMIT_BANDWIDTH);
    rig_on(rig, limit_first);
    rig_on(rig, limit_ctrl);
    send_to(rig, 1, 1, VN_IO_READ, 300);
    send_to(rig, 1, 2, VN_IO_WRITE, 300);
    CHECK_EQ(chan_of(rig, 1)->throttle.nr_waiting, 300 - BURST_NR);
    CHECK_EQ(rig->ctrl.throttle.nr_waiting, 300);
    uint32_t done = rig->nr_done;
    rig_on(rig, rig_disable_here);
    CHECK_EQ(rig->ctrl.state, VN_CTRL_DISABLED); /* without waiting for anybody */
    CHECK_EQ(rig->nr_done, done);
    CHECK_EQ(chan_of(rig, 1)->throttle.nr_waiting, 0);
    finish(rig);
}

static void release_here(struct ctrl_rig *rig) {
    vn_ctrl_release(&rig->ctrl);
}

/* Memory goes away, or the namespace: what waits ends well, and soon. It has to be paid for afterwards. */
static void test_released_commands_pay_later(void) {
    struct ctrl_rig *rig = start(&slow);
    nearly_nothing(VN_LIMIT_BANDWIDTH);
    rig_on(rig, limit_first);
    rig_on(rig, limit_ctrl);
    send_to(rig, 1, 1, VN_IO_READ, 100);
    send_to(rig, 1, 2, VN_IO_WRITE, 100);
    rig_on(rig, release_here);
    RIG_WAIT(rig, rig->nr_done == 200);
    CHECK_EQ(nr_with(rig, 0), 200);
    limits.of[VN_LIMIT_BANDWIDTH].rate = 100 * BLOCK; /* the debt is a second's worth for now, not forgotten */
    rig_on(rig, limit_first);
    rig_on(rig, limit_ctrl);
    send_to(rig, 1, 2, VN_IO_READ, 1);
    CHECK_EQ(rig->ctrl.throttle.nr_waiting, 1);
    no_limit();
    rig_on(rig, limit_ctrl);
    RIG_WAIT(rig, rig->nr_done == 201);
    finish(rig);
}

static uint32_t nr_released;

static void release_first(struct ctrl_rig *rig) {
    nr_released = vn_ns_release(chan_of(rig, 1));
}

static void test_a_namespace_that_goes_lets_its_own_go_on(void) {
    struct ctrl_rig *rig = start(&memory);
    nearly_nothing(VN_LIMIT_BANDWIDTH);
    rig_on(rig, limit_ctrl);
    send_to(rig, 1, 1, VN_IO_READ, 10);
    send_to(rig, 1, 2, VN_IO_READ, 10);
    send_to(rig, 1, 1, VN_IO_READ, 10);
    rig_on(rig, release_first);
    CHECK_EQ(nr_released, 20 - BURST_NR);
    RIG_WAIT(rig, rig->nr_done == 20);
    rig_on(rig, release_first);
    CHECK_EQ(nr_released, 0);
    CHECK_EQ(rig->ctrl.throttle.nr_waiting, 10);
    finish(rig);
}

/* 1000 commands a second, and so many: none is lost, and it took its time. */
static void test_they_all_come_through(void) {
    struct ctrl_rig *rig = start(&memory);
    limits = (struct vn_limits){0};
    limits.of[VN_LIMIT_IOPS] = (struct vn_limit){.rate = 2000, .burst_us = 1};
    rig_on(rig, limit_first);
    uint64_t began = rig->ctrl.busy_since_ns;
    send_to(rig, 1, 1, VN_IO_READ, 200);
    began = rig->ctrl.busy_since_ns;
    send_to(rig, 1, 1, VN_IO_WRITE, 200);
    RIG_WAIT(rig, rig->nr_done == 400);
    CHECK_EQ(nr_with(rig, 0), 400);
    CHECK(vn_reactor_now_ns(rig->reactor) - began >= 399 * 500000ull);
    finish(rig);
}

static void shut_down(struct ctrl_rig *rig) {
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, rig->ctrl.cc | 1u << 14, 4);
}

static void test_a_shutdown_is_not_held_up(void) {
    struct ctrl_rig *rig = start(&memory);
    limits = (struct vn_limits){0};
    limits.of[VN_LIMIT_IOPS] = (struct vn_limit){.rate = 1, .burst_us = 1};
    rig_on(rig, limit_first);
    rig_on(rig, limit_ctrl);
    send_to(rig, 1, 1, VN_IO_FLUSH, 1);
    rig_on(rig, shut_down);
    CHECK_EQ(rig->ctrl.csts & VN_CSTS_SHST_MASK, VN_CSTS_SHST_COMPLETE);
    finish(rig);
}

int main(void) {
    test_a_burst_and_then_nothing();
    test_reads_and_writes_wait_apart();
    test_the_controllers_limit_is_over_all_namespaces();
    test_a_queue_that_goes_takes_its_commands_along();
    test_an_abort_ends_the_one();
    test_a_reset_ends_all();
    test_released_commands_pay_later();
    test_a_namespace_that_goes_lets_its_own_go_on();
    test_they_all_come_through();
    test_a_shutdown_is_not_held_up();
    return 0;
}
