/* Weighted round robin with urgent priority class (Base 3.4.4.2): the order in which one look at the doorbells fetches what all
 * queues have, and that plain round robin knows no classes.
 */
#include "ring_rig.h"

#define SQ_GPA(qid) (0x10000u + 0x1000u * (qid))
#define CQ_GPA 0x20000u
#define ENTRIES 64u
#define EACH 15u /* commands of each queue: together they fit into the completion queue */
#define NR_QUEUES 4u
#define WEIGHTS (3u << 24 | 1u << 16 | 0u << 8) /* 4, 2 and 1 commands in a round */

static struct ring_rig ring;
static const uint8_t priority_of[NR_QUEUES + 1] = {0, VN_SQ_LOW, VN_SQ_URGENT, VN_SQ_MEDIUM, VN_SQ_HIGH};
static uint32_t admin_tail;

static void admin(struct vn_sqe cmd) {
    *ring_sqe(&ring, RING_ASQ, admin_tail) = cmd;
    ring_write_tail(&ring, 0, ++admin_tail);
    ring_turn(&ring);
    CHECK_EQ(ring_cqe(&ring, RING_ACQ, admin_tail - 1)->status >> 1, 0);
    ring_write_head(&ring, 0, admin_tail);
}

static void start(uint32_t ams, uint32_t burst) {
    struct vn_ctrl *ctrl = &ring.ctrl;
    admin_tail = 0;
    vn_ctrl_reg_write(ctrl, VN_REG_CC, 0, 4);
    CHECK_EQ(ctrl->state, VN_CTRL_DISABLED);
    memset(ring.ram + CQ_GPA, 0, ENTRIES * sizeof(struct vn_cqe));
    vn_ctrl_reg_write(ctrl, VN_REG_AQA, 31 | 31 << 16, 4);
    vn_ctrl_reg_write(ctrl, VN_REG_ASQ, RING_ASQ, 8);
    vn_ctrl_reg_write(ctrl, VN_REG_ACQ, RING_ACQ, 8);
    vn_ctrl_reg_write(ctrl, VN_REG_CC, VN_CC_EN | ams << 11 | 6u << 16 | 4u << 20, 4);
    CHECK_EQ(vn_ctrl_reg_read(ctrl, VN_REG_CSTS, 4), VN_CSTS_RDY);
    admin((struct vn_sqe){.opcode = VN_ADMIN_SET_FEATURES, .cdw10 = VN_FEAT_ARBITRATION, .cdw11 = WEIGHTS | burst});
    admin((struct vn_sqe){.opcode = VN_ADMIN_CREATE_CQ, .prp1 = CQ_GPA, .cdw10 = 1 | (ENTRIES - 1) << 16, .cdw11 = 1});
    for (uint32_t qid = 1; qid <= NR_QUEUES; qid++)
        admin((struct vn_sqe){.opcode = VN_ADMIN_CREATE_SQ, .prp1 = SQ_GPA(qid), .cdw10 = qid | (ENTRIES - 1) << 16,
                              .cdw11 = 1 | (uint32_t)priority_of[qid] << 1 | 1u << 16});
}

/* The class of each command, in the order of completions, which is that in which they were fetched. */
static void run(uint8_t order[NR_QUEUES * EACH]) {
    for (uint16_t qid = 1; qid <= NR_QUEUES; qid++) {
        for (uint32_t i = 0; i < EACH; i++)
            *ring_sqe(&ring, SQ_GPA(qid), i) = (struct vn_sqe){.opcode = VN_IO_FLUSH, .cid = (uint16_t)i, .nsid = 1};
        ring_write_tail(&ring, qid, EACH);
    }
    ring_turn(&ring); /* one is enough for all */
    CHECK_EQ(ring.ctrl.cqs[1].tail, NR_QUEUES * EACH);
    for (uint32_t i = 0; i < NR_QUEUES * EACH; i++)
        order[i] = priority_of[ring_cqe(&ring, CQ_GPA, i)->sqid];
}

static void expect(const uint8_t *order, uint32_t *at, uint8_t class, uint32_t nr, uint32_t left[4]) {
    for (; nr && left[class]; nr--) {
        CHECK_EQ(order[(*at)++], class);
        left[class]--;
    }
}

static void check_weighted(uint32_t burst) {
    uint8_t order[NR_QUEUES * EACH];
    uint32_t left[4] = {EACH, EACH, EACH, EACH}, at = 0;
    start(1, burst);
    run(order);
    while (at < NR_QUEUES * EACH) {
        expect(order, &at, VN_SQ_URGENT, EACH, left);
        expect(order, &at, VN_SQ_HIGH, 4, left);
        expect(order, &at, VN_SQ_MEDIUM, 2, left);
        expect(order, &at, VN_SQ_LOW, 1, left);
    }
}

static void test_weighted(struct ring_rig *rig) {
    (void)rig;
    CHECK_EQ(vn_guest_mem_add(&ring.dev.mem, 0, RING_RAM_BYTES, ring.ram, true, true), 0);
    CHECK_EQ(vn_ctrl_reg_read(&ring.ctrl, VN_REG_CAP, 8) >> VN_CAP_AMS_SHIFT & 3, 1);
    for (uint32_t burst = 0; burst < 8; burst++) /* it is the queue's share, not the class's */
        check_weighted(burst);
}

static void test_plain(struct ring_rig *rig) {
    uint8_t order[NR_QUEUES * EACH];
    (void)rig;
    start(0, 3);
    ring.dev.next_sq = 0;
    run(order);
    for (uint32_t i = 0; i < NR_QUEUES * EACH; i++)
        CHECK_EQ(order[i], priority_of[1 + i / EACH]);
}

int main(void) {
    struct vn_reactor *reactor;
    struct vn_event_queue *events;
    CHECK_EQ(vn_event_queue_create(&events), 0);
    CHECK_EQ(vn_reactor_start(0, 20, &reactor), 0);
    ring_open(&ring, reactor, events);
    ring_on(&ring, test_weighted);
    ring_on(&ring, test_plain);
    ring_close(&ring);
    vn_reactor_stop(reactor);
    vn_event_queue_destroy(events);
    return 0;
}
