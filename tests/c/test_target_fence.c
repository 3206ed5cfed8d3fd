/* The fence of a namespace that gets another owner: the old host is denied, and the namespace is only gone when nothing of
 * that host is under way any more, wherever its commands were.
 */
#include "target_rig.h"

#define FENCED_NQN RIG_SUBNQN ":fenced"
#define OLD_HOST RIG_HOSTNQN ":old"
#define NEW_HOST RIG_HOSTNQN ":new"
#define NSID 7u

static struct target_rig rig;
static vn_subsys *fenced;
static uint8_t data[64 << 10];

struct host {
    struct peer admin, queue;
};

static struct host come(const char *hostnqn) {
    uint16_t cntlid;
    struct host host;
    peer_subnqn = FENCED_NQN;
    peer_hostnqn = hostnqn;
    host.admin = host_open(&rig, 0, &cntlid);
    host.queue = host_queue(&rig, cntlid, 1, 32);
    return host;
}

static void go(struct host *host) {
    close(host->admin.fd);
    close(host->queue.fd);
}

static bool has_ended(struct peer *peer) {
    union vn_pdu pdu;
    while (peer_pdu(peer, &pdu, data))
        CHECK(pdu.common.type != VN_PDU_RESP);
    return true;
}

/* Answers -EBUSY or 0, at once. */
static int fence(void) {
    int err = vn_subsys_remove_ns(fenced, NSID, 0);
    if (err)
        CHECK_SAYS(vn_last_error(), "try again");
    return err;
}

static void allow(const char *hostnqn) {
    CHECK_EQ(vn_subsys_allow_host(fenced, &(struct vn_allow_opts){.hostnqn = hostnqn}), 0);
}

static struct host start(void) {
    CHECK_EQ(vn_subsys_add_ns(fenced, rig.holding, NSID, 0), 0);
    allow(OLD_HOST);
    return come(OLD_HOST);
}

/* The new host has the namespace to itself, and the old one is out. */
static void finish(struct host *old) {
    CHECK(has_ended(&old->queue) && has_ended(&old->admin));
    go(old);
    CHECK_EQ(rig_nr_held(&rig), 0);
    allow(NEW_HOST);
    CHECK_EQ(vn_subsys_add_ns(fenced, rig.holding, NSID, 0), 0);
    struct host host = come(NEW_HOST);
    uint16_t cid;
    peer_send(&host.queue, peer_rw(VN_IO_READ, NSID, 4096), NULL, 0);
    RIG_WAIT(rig_nr_held(&rig) == 1);
    rig_release(&rig);
    CHECK_EQ(peer_done(&host.queue, &cid, data), VN_SC_SUCCESS);
    go(&host);
    CHECK_EQ(vn_subsys_deny_host(fenced, NEW_HOST), 0);
    RIG_WAIT(fence() == 0);
}

static int count_orphans(void *target) {
    int nr = 0;
    for (const struct vn_tctrl *ctrl = ((struct vn_target *)target)->ctrls; ctrl; ctrl = ctrl->next)
        nr += (int)ctrl->ctrl.nr_orphans;
    return nr;
}

static int count_in_flight(void *target) {
    int nr = 0;
    for (const struct vn_tctrl *ctrl = ((struct vn_target *)target)->ctrls; ctrl; ctrl = ctrl->next)
        nr += (int)ctrl->ctrl.nr_inflight;
    return nr;
}

/* given_up: so long that the host's controller has stopped waiting for its SSD. */
static void test_a_write_in_the_backend(bool given_up) {
    struct host old = start();
    peer_send(&old.queue, peer_rw(VN_IO_WRITE, NSID, 4096), data, 4096);
    peer_send(&old.queue, (struct vn_sqe){.opcode = VN_IO_FLUSH, .nsid = NSID}, NULL, 0);
    RIG_WAIT(rig_nr_held(&rig) == 2);
    CHECK_EQ(vn_subsys_deny_host(fenced, OLD_HOST), 0);
    CHECK_EQ(fence(), -EBUSY);
    allow(NEW_HOST); /* too early: it is let in, and finds nothing */
    struct host early = come(NEW_HOST);
    CHECK_EQ(peer_command(&early.queue, peer_rw(VN_IO_READ, NSID, 4096), NULL, 0), VN_SC_INVALID_NS);
    CHECK_EQ(vn_subsys_add_ns(fenced, rig.holding, NSID, 0), -EEXIST);
    go(&early);
    if (given_up)
        RIG_WAIT(vn_reactor_call(rig.target->reactor, count_orphans, rig.target) == 2);
    CHECK_EQ(fence(), -EBUSY);
    CHECK_EQ(vn_subsys_remove_ns(fenced, NSID, 20), -EBUSY);
    rig_release(&rig);
    CHECK_EQ(fence(), 0);
    CHECK_EQ(vn_subsys_deny_host(fenced, NEW_HOST), 0);
    finish(&old);
}

/* Its data is still on the way, and is sent after the fence. */
static void test_a_write_without_its_data(void) {
    struct host old = start();
    union vn_pdu pdu;
    peer_send(&old.queue, peer_rw(VN_IO_WRITE, NSID, 16384), NULL, 0);
    CHECK(peer_pdu(&old.queue, &pdu, NULL));
    CHECK_EQ(pdu.common.type, VN_PDU_R2T);
    CHECK_EQ(vn_subsys_deny_host(fenced, OLD_HOST), 0);
    CHECK_EQ(fence(), 0);
    CHECK_EQ(vn_subsys_add_ns(fenced, rig.holding, NSID, 0), 0);
    (void)send(old.queue.fd, data, 16384, MSG_NOSIGNAL);
    RIG_WAIT(rig_info(&rig).controllers == 0);
    CHECK_EQ(fence(), 0);
    finish(&old);
}

static int set_busy(void *busy) {
    rig.holder->busy = busy;
    return 0;
}

/* They wait in line for the backend. */
static void test_writes_that_no_backend_has_taken(void) {
    struct host old = start();
    vn_reactor_call(rig.target->reactor, set_busy, &rig);
    for (int i = 0; i < 8; i++)
        peer_send(&old.queue, peer_rw(VN_IO_WRITE, NSID, 4096), data, 4096);
    RIG_WAIT(vn_reactor_call(rig.target->reactor, count_in_flight, rig.target) == 8);
    CHECK_EQ(vn_subsys_deny_host(fenced, OLD_HOST), 0);
    RIG_WAIT(fence() == 0);
    vn_reactor_call(rig.target->reactor, set_busy, NULL);
    finish(&old);
}

/* They wait for tokens, and go with their host. */
static void test_writes_that_wait_for_tokens(void) {
    struct vn_limits limits = {0};
    limits.of[VN_LIMIT_IOPS] = (struct vn_limit){.rate = 1, .burst_us = 1};
    struct host old = start();
    CHECK_EQ(vn_ns_set_limits(rig.holding, &limits), 0);
    for (int i = 0; i < 8; i++)
        peer_send(&old.queue, peer_rw(VN_IO_WRITE, NSID, 4096), data, 4096);
    RIG_WAIT(rig_nr_held(&rig) > 0 && vn_ns_nr_waiting(rig.holding) > 0);
    CHECK_EQ(vn_subsys_deny_host(fenced, OLD_HOST), 0);
    CHECK_EQ(vn_ns_nr_waiting(rig.holding), 0);
    CHECK_EQ(fence(), -EBUSY);
    rig_release(&rig);
    CHECK_EQ(fence(), 0);
    limits.of[VN_LIMIT_IOPS] = (struct vn_limit){0};
    CHECK_EQ(vn_ns_set_limits(rig.holding, &limits), 0);
    finish(&old);
}

int main(void) {
    rig_open(&rig, &(struct vn_target_opts){0});
    CHECK_EQ(vn_subsys_remove_ns(rig.subsys, 2, 0), 0);
    CHECK_EQ(vn_target_add_subsys(rig.target, &(struct vn_subsys_opts){.nqn = FENCED_NQN, .serial = "F"}, &fenced), 0);
    test_a_write_in_the_backend(false);
    test_a_write_in_the_backend(true);
    test_a_write_without_its_data();
    test_writes_that_no_backend_has_taken();
    test_writes_that_wait_for_tokens();
    rig_close(&rig);
    return 0;
}
