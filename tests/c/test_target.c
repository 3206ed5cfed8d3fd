/* The target's controllers and queues as they end: with commands in a backend that holds them, with data half received,
 * by keep-alive, by a cross-controller reset. And its bounds: buffers that are waited for.
 */
#include "target_rig.h"

static struct target_rig rig;
static uint8_t data[1 << 20];

static bool has_ended(struct peer *peer) {
    union vn_pdu pdu;
    while (peer_pdu(peer, &pdu, data)) {
    }
    close(peer->fd);
    return true;
}

static void wait_for_nobody(void) {
    RIG_WAIT(rig_info(&rig).connections == 0 && rig_info(&rig).controllers == 0);
}

/* Sixteen transfers of 1 MiB are all that the buffers hold: the others have to wait, and all come. */
static void test_large_transfers_wait_in_line(void) {
    enum { NR = 40 };
    uint16_t cntlid, cid;
    struct peer admin = host_open(&rig, 0, &cntlid), queue = host_queue(&rig, cntlid, 1, 64);
    for (int i = 0; i < NR; i++)
        peer_send(&queue, peer_rw(VN_IO_READ, 2, sizeof(data)), NULL, 0);
    RIG_WAIT(rig_nr_held(&rig) == VN_TCTRL_NR_CHUNKS / VN_TCMD_CHUNKS_MAX);
    struct peer other = host_queue(&rig, cntlid, 2, 4); /* small ones, and other queues, need not */
    peer_send(&other, peer_rw(VN_IO_READ, 1, 512), NULL, 0);
    CHECK_EQ(peer_done(&other, &cid, data), VN_SC_SUCCESS);
    for (int done = 0; done < NR; done++) {
        rig_release(&rig);
        CHECK_EQ(peer_done(&queue, &cid, data), VN_SC_SUCCESS);
        CHECK_EQ(data[0] & data[sizeof(data) - 1], 0xab);
    }
    close(queue.fd);
    close(other.fd);
    close(admin.fd);
    wait_for_nobody();
}

/* CVE-2023-5178, CVE-2024-53169: a queue that is torn down twice, and one that is while the keep-alive timer runs out. */
static void test_teardown_with_commands_in_flight(void) {
    for (int how = 0; how < 4; how++) {
        uint16_t cntlid;
        struct peer admin = host_open(&rig, how == 3 ? 100 : 0, &cntlid), queue = host_queue(&rig, cntlid, 1, 32);
        for (int i = 0; i < 8; i++)
            peer_send(&queue, peer_rw(i % 2 ? VN_IO_READ : VN_IO_WRITE, 2, i < 4 ? 4096 : sizeof(data)), NULL, 0);
        peer_send(&admin, (struct vn_sqe){.opcode = VN_ADMIN_ASYNC_EVENT}, NULL, 0);
        RIG_WAIT(rig_nr_held(&rig) == 4); /* the reads; the writes have been asked for their data */
        if (how == 0) { /* the I/O queue first; its commands are with the backend still */
            close(queue.fd);
            RIG_WAIT(rig_nr_held(&rig) == 4);
            close(admin.fd);
        } else if (how == 1) {
            close(admin.fd);
            CHECK(has_ended(&queue));
        } else if (how == 2) { /* a PDU that is no good, on the admin queue */
            peer_write(&admin, data, 128);
            CHECK(has_ended(&admin) && has_ended(&queue));
        } else { /* silence */
            CHECK(has_ended(&admin) && has_ended(&queue));
        }
        RIG_WAIT(rig_info(&rig).half_open == 0);
        CHECK_EQ(rig_info(&rig).controllers, 1); /* it waits for the backend */
        rig_release(&rig);
        wait_for_nobody();
    }
}

static struct vn_sqe cross_reset(uint16_t cntlid, const struct vn_fabrics *fabrics) {
    return (struct vn_sqe){
        .opcode = VN_ADMIN_CROSS_RESET,
        .cdw10 = cntlid | (uint32_t)fabrics->ciu << 16,
        .cdw12 = (uint32_t)fabrics->cirn,
        .cdw13 = (uint32_t)(fabrics->cirn >> 32),
    };
}

struct find_call {
    uint16_t cntlid;
    struct vn_fabrics fabrics;
};

static int find_on_reactor(void *arg) {
    struct find_call *call = arg;
    call->fabrics = vn_tctrl_find(rig.target, call->cntlid)->fabrics;
    return 0;
}

/* A write of a lost controller that is with the backend: the reset is not done before that has ended; and when it does
 * not end at all, the answer says so. */
static void test_a_cross_reset_waits_for_the_last_write(bool ends) {
    struct find_call lost = {0};
    uint16_t cntlid, cid;
    struct peer old_admin = host_open(&rig, 0, &lost.cntlid), old = host_queue(&rig, lost.cntlid, 1, 8);
    peer_send(&old, (struct vn_sqe){.opcode = VN_IO_WRITE, .nsid = 2, .cdw12 = 7}, data, 4096);
    RIG_WAIT(rig_nr_held(&rig) == 1);
    vn_reactor_call(rig.target->reactor, find_on_reactor, &lost);
    struct peer admin = host_open(&rig, 0, &cntlid);
    struct vn_sqe reset = cross_reset(lost.cntlid, &lost.fabrics);
    uint16_t sent = peer_send(&admin, reset, NULL, 0);
    CHECK(has_ended(&old) && has_ended(&old_admin));
    CHECK_EQ(recv(admin.fd, data, 1, MSG_DONTWAIT), -1); /* not answered yet */
    if (ends)
        rig_release(&rig);
    CHECK_EQ(peer_done(&admin, &cid, data), VN_SC_SUCCESS); /* else after the bound of a drain */
    CHECK_EQ(cid, sent);
    CHECK_EQ(admin.result, ends ? VN_CROSS_RESET_DONE : 0);
    CHECK_EQ(peer_command(&admin, reset, NULL, 0), VN_SC_SUCCESS); /* once more, of one that may have gone */
    CHECK_EQ(admin.result, ends ? VN_CROSS_RESET_DONE : 0);
    rig_release(&rig);
    RIG_WAIT(rig_info(&rig).controllers == 1);
    CHECK_EQ(peer_command(&admin, reset, NULL, 0), VN_SC_SUCCESS);
    CHECK_EQ(admin.result, VN_CROSS_RESET_DONE);
    close(admin.fd);
    wait_for_nobody();
}

/* The one that asks for the reset goes before it is done. */
static void test_who_waits_for_a_cross_reset_may_go(void) {
    struct find_call lost = {0};
    uint16_t cntlid;
    struct peer old_admin = host_open(&rig, 0, &lost.cntlid), old = host_queue(&rig, lost.cntlid, 1, 8);
    peer_send(&old, peer_rw(VN_IO_READ, 2, 4096), NULL, 0);
    RIG_WAIT(rig_nr_held(&rig) == 1);
    vn_reactor_call(rig.target->reactor, find_on_reactor, &lost);
    struct peer admin = host_open(&rig, 0, &cntlid);
    peer_send(&admin, cross_reset(lost.cntlid, &lost.fabrics), NULL, 0);
    CHECK(has_ended(&old) && has_ended(&old_admin));
    close(admin.fd);
    RIG_WAIT(rig_info(&rig).controllers == 1);
    rig_release(&rig);
    wait_for_nobody();
}

static int set_busy(void *arg) {
    rig.holder->busy = arg;
    return 0;
}

/* A busy backend is offered the command again, also when nothing else happens. */
static void test_a_busy_backend_is_asked_again(void) {
    uint16_t cntlid, cid;
    struct peer admin = host_open(&rig, 0, &cntlid), queue = host_queue(&rig, cntlid, 1, 8);
    vn_reactor_call(rig.target->reactor, set_busy, &rig);
    peer_send(&queue, peer_rw(VN_IO_READ, 2, 4096), NULL, 0);
    CHECK_EQ(rig_nr_held(&rig), 0);
    vn_reactor_call(rig.target->reactor, set_busy, NULL);
    RIG_WAIT(rig_nr_held(&rig) == 1);
    rig_release(&rig);
    CHECK_EQ(peer_done(&queue, &cid, data), VN_SC_SUCCESS);
    vn_reactor_call(rig.target->reactor, set_busy, &rig);
    peer_send(&queue, peer_rw(VN_IO_READ, 2, 4096), NULL, 0);
    close(queue.fd);
    close(admin.fd);
    wait_for_nobody(); /* what waits for the backend does not keep its controller */
    vn_reactor_call(rig.target->reactor, set_busy, NULL);
}

static uint64_t nr_waiting(void) {
    struct vn_ns_info info;
    CHECK_EQ(vn_ns_get_info(rig.memory, &info), 0);
    return info.limited.waiting;
}

/* A namespace's limits hold for all its hosts together, over their one channel; and what waits for tokens goes with its
 * connection, not when its turn would have come. */
static void test_limits_hold_and_let_go(void) {
    struct vn_limits limits = {.of[VN_LIMIT_IOPS] = {.rate = 1, .burst_us = 1000000}};
    uint16_t cntlids[2], cid;
    struct peer admins[2], queues[2];
    CHECK_EQ(vn_ns_set_limits(rig.memory, &limits), 0);
    for (int i = 0; i < 2; i++) {
        admins[i] = host_open(&rig, 0, &cntlids[i]);
        queues[i] = host_queue(&rig, cntlids[i], 1, 16);
        for (int n = 0; n < 15; n++)
            peer_send(&queues[i], peer_rw(VN_IO_READ, 1, 4096), NULL, 0);
    }
    RIG_WAIT(nr_waiting() >= 10);
    close(queues[0].fd); /* only the queue: it can be connected again when its commands have gone */
    RIG_WAIT(rig_info(&rig).connections == 3);
    queues[0] = host_queue(&rig, cntlids[0], 1, 16);
    close(queues[1].fd);
    close(admins[1].fd);
    RIG_WAIT(rig_info(&rig).controllers == 1);
    CHECK_EQ(nr_waiting(), 0);
    CHECK_EQ(vn_ns_set_limits(rig.memory, &(struct vn_limits){0}), 0);
    peer_send(&queues[0], peer_rw(VN_IO_READ, 1, 4096), NULL, 0);
    CHECK_EQ(peer_done(&queues[0], &cid, data), VN_SC_SUCCESS);
    close(queues[0].fd);
    close(admins[0].fd);
    wait_for_nobody();
}

static int close_ns_on_reactor(void *arg) {
    struct vn_ns_chan *nsc;
    return vn_subsys_close_ns(arg, 2, &nsc);
}

/* The namespace is in use by two controllers over one channel. */
static void test_a_namespace_goes_when_its_last_command_has(void) {
    uint16_t cntlids[2], cid;
    struct peer admins[2], queues[2];
    for (int i = 0; i < 2; i++) {
        admins[i] = host_open(&rig, 0, &cntlids[i]);
        queues[i] = host_queue(&rig, cntlids[i], 1, 8);
        peer_send(&queues[i], peer_rw(VN_IO_READ, 2, 4096), NULL, 0);
    }
    RIG_WAIT(rig_nr_held(&rig) == 2);
    close(queues[0].fd);
    close(admins[0].fd);
    CHECK_EQ(vn_reactor_call(rig.target->reactor, close_ns_on_reactor, rig.subsys), -EAGAIN);
    CHECK_EQ(peer_command(&queues[1], peer_rw(VN_IO_READ, 2, 4096), NULL, 0), VN_SC_INVALID_NS); /* no new one */
    rig_release(&rig);
    CHECK_EQ(peer_done(&queues[1], &cid, data), VN_SC_SUCCESS);
    CHECK_EQ(vn_subsys_remove_ns(rig.subsys, 2, 0), 0);
    CHECK_EQ(vn_subsys_remove_ns(rig.subsys, 2, 1000), -ENOENT);
    CHECK_EQ(vn_subsys_add_ns(rig.subsys, rig.holding, 2, 3), 0);
    close(queues[1].fd);
    close(admins[1].fd);
    wait_for_nobody();
}

/* A subsystem that is removed throws its hosts out. */
static void test_a_subsystem_goes(void) {
    vn_subsys *other;
    struct vn_subsys_opts opts = {.nqn = RIG_SUBNQN "2", .serial = "T2"};
    CHECK_EQ(vn_target_add_subsys(rig.target, &opts, &other), 0);
    CHECK_EQ(vn_target_add_subsys(rig.target, &opts, &other), -EEXIST);
    CHECK_SAYS(vn_last_error(), RIG_SUBNQN "2");
    CHECK_EQ(vn_subsys_add_ns(other, rig.memory, 5, 0), 0);
    CHECK_EQ(vn_subsys_allow_host(other, &(struct vn_allow_opts){.hostnqn = RIG_HOSTNQN}), 0);
    CHECK_EQ(vn_subsys_deny_host(other, RIG_HOSTNQN "x"), -ENOENT);
    CHECK_EQ(vn_subsys_remove(other), 0);
}

int main(void) {
    rig_open(&rig, &(struct vn_target_opts){0});
    test_large_transfers_wait_in_line();
    test_teardown_with_commands_in_flight();
    test_a_cross_reset_waits_for_the_last_write(true);
    test_a_cross_reset_waits_for_the_last_write(false);
    test_who_waits_for_a_cross_reset_may_go();
    test_a_busy_backend_is_asked_again();
    test_limits_hold_and_let_go();
    test_a_namespace_goes_when_its_last_command_has();
    test_a_subsystem_goes();
    rig_close(&rig);
    return 0;
}
