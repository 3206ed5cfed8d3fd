/* A backend that holds what it is given, or is always busy: resets, deletions, aborts and shutdowns are bounded all the
 * same, and what comes back late finds its way home and disturbs nobody.
 */
#include "ctrl_rig.h"

#define NR_HELD_MAX 64u

struct stuck {
    struct vn_backend backend;
    bool busy; /* takes nothing; else holds everything, cancelled or not */
    struct vn_req *held[NR_HELD_MAX];
    uint32_t nr_held, nr_offered;
};

static struct stuck *stuck;

static void stuck_close(struct vn_backend *backend) {
    free(backend);
}

static int stuck_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    *out = calloc(1, sizeof(**out));
    **out = (struct vn_chan){.backend = backend, .reactor = reactor};
    return 0;
}

static void stuck_chan_close(struct vn_chan *chan) {
    free(chan);
}

static enum vn_submit stuck_submit(struct vn_chan *chan, struct vn_req *req) {
    (void)chan;
    stuck->nr_offered++;
    if (stuck->busy)
        return VN_BUSY;
    CHECK(stuck->nr_held < NR_HELD_MAX);
    stuck->held[stuck->nr_held++] = req;
    return VN_TAKEN;
}

static const struct vn_backend_ops stuck_ops = {
    .name = "stuck", .close = stuck_close, .chan_open = stuck_chan_open, .chan_close = stuck_chan_close,
    .submit = stuck_submit,
};

/* Everything that is held ends now. */
static void release(struct ctrl_rig *rig) {
    (void)rig;
    while (stuck->nr_held)
        vn_req_complete(stuck->held[--stuck->nr_held], VN_SC_SUCCESS);
}

static void attach_stuck(struct ctrl_rig *rig) {
    struct vn_ns *ns = calloc(1, sizeof(*ns));
    stuck = calloc(1, sizeof(*stuck));
    CHECK(ns && stuck);
    stuck->backend = (struct vn_backend){
        .ops = &stuck_ops, .size = 1 << 20, .block_min = 512, .volatile_cache = true, .deallocates = true};
    *ns = (struct vn_ns){.backend = &stuck->backend, .nr_blocks = (1 << 20) / 512, .block_shift = 9};
    rig->spaces[1] = ns;
    rig->nsid = 1;
    rig_on(rig, rig_attach_here);
}

static void start(struct ctrl_rig *rig) {
    rig_enable(rig);
    CHECK_EQ(rig_create_cq(rig, 1, 64), VN_SC_SUCCESS);
    CHECK_EQ(rig_create_sq(rig, 1, 1, 64), VN_SC_SUCCESS);
    rig->nr_done = 0;
}

static uint16_t read_one(struct ctrl_rig *rig) {
    return rig_submit(rig, 1, (struct vn_sqe){.opcode = VN_IO_READ, .nsid = 1, .prp1 = RIG_RAM_GPA + 0x10000});
}

static uint16_t last_cid, admin_cid;

/* Reads, a Delete I/O SQ and an Abort that wait for them, then a reset. */
static void hang_everything(struct ctrl_rig *rig) {
    start(rig);
    for (int i = 0; i < 5; i++)
        last_cid = read_one(rig);
    rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = 1 | (uint32_t)last_cid << 16});
    rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_DELETE_SQ, .cdw10 = 1});
    CHECK_EQ(rig->nr_done, 0);
    CHECK_EQ(rig->ctrl.nr_inflight, 7);
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
    CHECK_EQ(rig->ctrl.state, VN_CTRL_DISABLING);
}

static void use_again(struct ctrl_rig *rig) {
    CHECK_EQ(rig->ctrl.nr_orphans, 5);
    CHECK_EQ(rig->nr_done, 0);
    start(rig);
    for (int i = 0; i < 3; i++) /* these take the requests that the Abort and the deletion had */
        rig_park_aer(rig);
    admin_cid = rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_DELETE_SQ, .cdw10 = 1});
    CHECK_EQ(rig_completion(rig, 0, admin_cid)->status, VN_SC_SUCCESS);
    rig->nr_done = 0;
}

/* Late ones are told to nobody. */
static void check_late(struct ctrl_rig *rig) {
    CHECK_EQ(rig->ctrl.nr_orphans, 0);
    CHECK_EQ(rig->nr_done, 0);
    CHECK_EQ(rig->ctrl.nr_inflight, 0);
    CHECK_EQ(rig->ctrl.nr_aers, 3);
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
}

static void test_hang(struct ctrl_rig *rig) {
    struct timespec from, to;
    rig_on(rig, hang_everything);
    clock_gettime(CLOCK_MONOTONIC, &from);
    RIG_WAIT(rig, rig->ctrl.state == VN_CTRL_DISABLED);
    clock_gettime(CLOCK_MONOTONIC, &to);
    CHECK(to.tv_sec - from.tv_sec < 4); /* the client gives up after five seconds */
    rig_on(rig, use_again);
    rig_on(rig, release);
    rig_on(rig, check_late);
}

/* Given up while the controller runs, as when memory is taken away: the host hears nothing of them, and resets. */
static void give_up_ready(struct ctrl_rig *rig) {
    start(rig);
    last_cid = read_one(rig);
    rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = 1 | (uint32_t)last_cid << 16});
    vn_ctrl_give_up(&rig->ctrl);
    CHECK(rig->ctrl.nr_orphans == 1 && rig->ctrl.nr_inflight == 0);
    CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_FEATURES, .cdw10 = VN_FEAT_VWC}, NULL), VN_SC_SUCCESS);
    read_one(rig);
    rig->nr_done = 0;
    release(rig); /* the orphan in silence, the other one as ever */
    CHECK_EQ(rig->nr_done, 1);
    CHECK_EQ(rig->ctrl.nr_orphans, 0);
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
}

/* BUSY: offered again each turn, in order, and found by whoever wants to take the namespace away. */
static void test_busy(struct ctrl_rig *rig) {
    struct vn_ns_chan *nsc = rig->ctrl.namespaces.by_nsid[1];
    start(rig);
    stuck->busy = true;
    uint16_t first = read_one(rig), second = read_one(rig);
    uint32_t nr = stuck->nr_offered;
    CHECK(!vn_ctrl_retry_busy(&rig->ctrl));
    CHECK_EQ(stuck->nr_offered, nr + 2); /* each once */
    CHECK(nsc->inflight == 0 && vn_ctrl_uses_ns(&rig->ctrl, nsc));
    stuck->busy = false;
    CHECK(vn_ctrl_retry_busy(&rig->ctrl));
    CHECK_EQ(nsc->inflight, 2);
    CHECK(stuck->held[0]->cmd.cid == first && stuck->held[1]->cmd.cid == second);
    release(rig);
    CHECK(rig_completion(rig, 1, first)->status == 0 && rig_completion(rig, 1, second)->status == 0);
    /* a reset ends at once what no backend has, and so do a deletion and its queue */
    stuck->busy = true;
    rig->nr_done = 0;
    first = read_one(rig);
    admin_cid = rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_DELETE_SQ, .cdw10 = 1});
    vn_ctrl_retry_busy(&rig->ctrl);
    if (rig->ctrl.sqs[1].exists) { /* it may also wait for the backend */
        stuck->busy = false;
        vn_ctrl_retry_busy(&rig->ctrl);
        release(rig);
        stuck->busy = true;
    }
    CHECK(rig_completion(rig, 1, first) && rig_completion(rig, 0, admin_cid));
    CHECK_EQ(rig_create_sq(rig, 1, 1, 64), VN_SC_SUCCESS);
    rig->nr_done = 0;
    read_one(rig);
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
    CHECK_EQ(rig->ctrl.state, VN_CTRL_DISABLED);
    CHECK_EQ(rig->nr_done, 0);
    CHECK(!rig->ctrl.busy_first && !vn_ctrl_uses_ns(&rig->ctrl, nsc));
    stuck->busy = false;
}

/* A shutdown whose flush is not taken goes on when it is; one that hangs does not hold up a reset. */
static void test_shutdown(struct ctrl_rig *rig) {
    start(rig);
    stuck->busy = true;
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, VN_CC_EN | 6u << 16 | 4u << 20 | 1u << 14, 4);
    CHECK_EQ(rig->ctrl.csts & VN_CSTS_SHST_MASK, VN_CSTS_SHST_OCCURRING);
    vn_ctrl_retry_busy(&rig->ctrl);
    stuck->busy = false;
    vn_ctrl_retry_busy(&rig->ctrl);
    CHECK_EQ(stuck->nr_held, 1);
    CHECK_EQ(rig->ctrl.csts & VN_CSTS_SHST_MASK, VN_CSTS_SHST_OCCURRING);
    release(rig);
    CHECK_EQ(rig->ctrl.csts & VN_CSTS_SHST_MASK, VN_CSTS_SHST_COMPLETE);
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
    start(rig);
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, VN_CC_EN | 6u << 16 | 4u << 20 | 1u << 14, 4);
    CHECK_EQ(stuck->nr_held, 1);
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
    CHECK_EQ(rig->ctrl.state, VN_CTRL_DISABLED);
    start(rig);
    release(rig);
    CHECK(!rig->ctrl.shutdown);
    CHECK_EQ(rig->ctrl.csts, VN_CSTS_RDY);
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
}

int main(void) {
    struct ctrl_rig *rig = rig_make(NULL);
    attach_stuck(rig);
    test_hang(rig);
    rig_on(rig, give_up_ready);
    rig_on(rig, test_busy);
    rig_on(rig, test_shutdown);
    rig_free(rig);
    return 0;
}
