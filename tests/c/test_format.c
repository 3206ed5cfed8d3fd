/* Format NVM on a backend that is busy, late and fails: the gate is closed from the first moment, nothing old is ever read, a
 * failure leaves it closed until a format succeeds, and whoever waits is told once.
 */
#include "io_rig.h"

#include "ctrl/format_cmd.h"
#include "ns/meta.h"
#include "ns/ns_state.h"

static struct ctrl_rig *the_rig;

static uint16_t submit_format(struct ctrl_rig *rig, uint32_t cdw10) {
    return rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_FORMAT_NVM, .nsid = 1, .cdw10 = cdw10});
}

static const struct rig_done *format_end(uint16_t cid) {
    return rig_completion(the_rig, 0, cid);
}

static vn_status flush(struct ctrl_rig *rig) {
    return io_command(rig, (struct vn_sqe){.opcode = VN_IO_FLUSH, .nsid = 1}).status;
}

static uint16_t cid;
static vn_status result;

static void start_rig(struct ctrl_rig *rig) {
    io_start(rig);
}

static void turn(struct ctrl_rig *rig) {
    io_turn(rig);
}

/* The reactor turns meanwhile, because the format runs on its timers. */
static vn_status wait_format(struct ctrl_rig *rig) {
    RIG_WAIT(rig, (rig_on(rig, turn), format_end(cid)));
    return VN_STATUS_CODE(format_end(cid)->status);
}

static void submit_here(struct ctrl_rig *rig) {
    rig->nr_done = 0;
    cid = submit_format(rig, 1 | 1u << 5);
    result = io_command(rig, io_ranged(VN_IO_READ, 0, 1)).status; /* at once */
}

static void test_format(struct ctrl_rig *rig) {
    rig_on(rig, submit_here);
    CHECK_EQ(result, VN_SC_FORMAT_IN_PROGRESS);
    CHECK_EQ(wait_format(rig), VN_SC_SUCCESS);
    for (uint32_t i = 0; i < STORE_BYTES; i++)
        CHECK(!store->bytes[i]);
    struct vn_ns *ns = rig->spaces[1];
    CHECK(ns->meta && ns->meta->layout.pi.type == 1);
    CHECK_EQ(ns->special, VN_NS_SPECIAL_META);
    CHECK(!ns->state->run && !ns->state->kept.format.in_progress);
    CHECK_EQ(rig->ctrl.nr_inflight, 0);
}

static void flush_here(struct ctrl_rig *rig) {
    result = flush(rig);
}

static void test_a_failure_leaves_the_gate_closed(struct ctrl_rig *rig) {
    store->write_status = VN_SC_WRITE_FAULT;
    rig_on(rig, submit_here);
    CHECK_EQ(wait_format(rig), VN_SC_WRITE_FAULT);
    CHECK(rig->spaces[1]->state->kept.format.in_progress);
    rig_on(rig, flush_here);
    CHECK_EQ(result, VN_SC_FORMAT_IN_PROGRESS);
    CHECK_EQ(vn_format_fpi(rig->spaces[1]), 0x80 | 100);
    store->write_status = VN_SC_SUCCESS;
    rig_on(rig, submit_here);
    CHECK_EQ(wait_format(rig), VN_SC_SUCCESS);
    rig_on(rig, flush_here);
    CHECK_EQ(result, VN_SC_SUCCESS);
}

/* What was in flight before ends first, and as if nothing had happened. */
static void submit_behind_io(struct ctrl_rig *rig) {
    rig->nr_done = 0;
    store->holds = true;
    memset(io_data(rig), 0x5a, 512);
    for (uint64_t lba = 0; lba < 20; lba++)
        rig_submit(rig, 1, io_ranged(VN_IO_WRITE_ZEROES, lba * 64, 1));
    cid = submit_format(rig, 0);
}

static uint32_t nr_ok;

static void count_here(struct ctrl_rig *rig) {
    nr_ok = 0;
    for (uint32_t i = 0; i < rig->nr_done; i++)
        nr_ok += rig->done[i].sqid == 1 && !rig->done[i].status;
}

static void test_commands_in_flight_come_first(struct ctrl_rig *rig) {
    store->busy_ppm = 300000;
    rig_on(rig, submit_behind_io);
    rig_on(rig, rig_nothing);
    CHECK(rig->spaces[1]->state->run);
    CHECK(!format_end(cid));
    CHECK_EQ(wait_format(rig), VN_SC_SUCCESS);
    rig_on(rig, count_here);
    CHECK_EQ(nr_ok, 20);
    CHECK(!rig->spaces[1]->meta && rig->spaces[1]->special == 0);
    CHECK_EQ(vn_ns_nr_blocks(rig->spaces[1]), STORE_BLOCKS);
    store->holds = false;
    store->busy_ppm = 0;
}

static void hold_format(struct ctrl_rig *rig) {
    rig->nr_done = 0;
    store->holds = true;
    cid = submit_format(rig, 3);
}

static void release(struct ctrl_rig *rig) {
    (void)rig;
    while (store_end_one())
        continue;
    store->holds = false;
}

/* The host resets: the command goes, the format goes on. */
static void test_reset(struct ctrl_rig *rig) {
    rig_on(rig, hold_format);
    RIG_WAIT(rig, store->nr_held);
    rig_on(rig, rig_disable_here);
    CHECK_EQ(rig->ctrl.state, VN_CTRL_DISABLED);
    CHECK(rig->spaces[1]->state->run);
    rig_on(rig, release);
    RIG_WAIT(rig, !rig->spaces[1]->state->run);
    CHECK_EQ(rig->spaces[1]->block_shift, 12);
    CHECK_EQ(rig->spaces[1]->special, 0);
    CHECK(!format_end(cid));
    rig_on(rig, start_rig);
}

/* Somebody on another reactor shares it. */
static void test_holds(struct ctrl_rig *rig) {
    struct vn_ns *ns = rig->spaces[1];
    CHECK(vn_ns_hold(ns));
    rig_on(rig, submit_here);
    CHECK_EQ(VN_STATUS_CODE(format_end(cid) ? format_end(cid)->status : 0), 0); /* io_command has forgotten it */
    CHECK(!ns->state->run && !(ns->special & VN_NS_SPECIAL_BUSY));
    CHECK_EQ(result, VN_SC_SUCCESS);
    vn_ns_unhold(ns);
    rig_on(rig, hold_format);
    CHECK(!vn_ns_hold(ns));
    rig_on(rig, release);
    CHECK_EQ(wait_format(rig), VN_SC_SUCCESS);
    CHECK(vn_ns_hold(ns));
    vn_ns_unhold(ns);
    CHECK_EQ(ns->nr_holds, 0);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    struct ctrl_rig *rig = the_rig = rig_make(NULL);
    store_attach(rig, random.state);
    rig_on(rig, start_rig);
    test_format(rig);
    test_a_failure_leaves_the_gate_closed(rig);
    test_commands_in_flight_come_first(rig);
    test_reset(rig);
    test_holds(rig);
    rig_free(rig);
    return 0;
}
