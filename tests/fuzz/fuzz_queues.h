/* A host of three I/O queue pairs beside the admin queue, for targets with one controller: it sends commands to any of them and
 * consumes what comes back. On fuzz_rings.h.
 */
#ifndef FUZZ_QUEUES_H
#define FUZZ_QUEUES_H

#include "fuzz_rings.h"

#define NR_QUEUES 4u /* admin, and three I/O queue pairs */
#define ENTRIES 16u
#define QUEUE_PAGES 16u /* of guest memory, from 0 on */

static uint32_t tails[NR_QUEUES];

/* Queue i: submission at (2 + 2i) pages, completion a page later. */
static inline uint64_t sq_gpa(uint32_t qid) {
    return qid ? (2 + 2 * qid) * VN_PAGE_SIZE : RING_ASQ;
}

static inline uint64_t cq_gpa(uint32_t qid) {
    return qid ? (3 + 2 * qid) * VN_PAGE_SIZE : RING_ACQ;
}

static inline void push(uint32_t qid, const struct vn_sqe *cmd) {
    *ring_sqe(&rig, sq_gpa(qid), tails[qid]) = *cmd;
    tails[qid] = (tails[qid] + 1) % ENTRIES;
    ring_write_tail(&rig, (uint16_t)qid, tails[qid]);
}

/* The host consumes everything. */
static inline void catch_up(void) {
    for (uint32_t qid = 0; qid < NR_QUEUES; qid++) {
        if (rig.ctrl.cqs[qid].exists)
            ring_write_head(&rig, (uint16_t)qid, rig.ctrl.cqs[qid].tail);
    }
}

/* css: CC.CSS, which command sets it wants. */
static inline void bring_up(uint32_t css) {
    memset(tails, 0, sizeof(tails));
    memset(rig.ram, 0, QUEUE_PAGES * VN_PAGE_SIZE);
    ring_enable_css(&rig, ENTRIES, css);
    for (uint32_t qid = 1; qid < NR_QUEUES && rig.ctrl.state == VN_CTRL_READY; qid++) {
        push(0, &(struct vn_sqe){.opcode = VN_ADMIN_CREATE_CQ, .prp1 = cq_gpa(qid), .cdw10 = qid | (ENTRIES - 1) << 16,
                                 .cdw11 = 3 | qid << 16});
        push(0, &(struct vn_sqe){.opcode = VN_ADMIN_CREATE_SQ, .prp1 = sq_gpa(qid), .cdw10 = qid | (ENTRIES - 1) << 16,
                                 .cdw11 = 1 | qid << 16});
    }
    ring_turn(&rig);
    catch_up();
}

/* What any host does between its commands, by a number from HOST_OPS on; css: as of bring_up. False: the reactor shall turn. */
#define HOST_OPS 8u
static inline bool host_op(uint32_t op, struct input *input, uint32_t css) {
    switch (op) {
    case HOST_OPS:
        ring_turn(&rig);
        return true;
    case HOST_OPS + 1:
        ring_turn(&rig);
        catch_up();
        return true;
    case HOST_OPS + 2:
        vn_doorbell_arm(&rig.dev);
        return false;
    case HOST_OPS + 4: /* a reset in full flight, waited for or not */
        vn_ctrl_reg_write(&rig.ctrl, VN_REG_CC, take8(input) & 1 ? 0 : 0x4000, 4);
        if (rig.ctrl.state == VN_CTRL_DISABLED)
            bring_up(css);
        return true;
    case HOST_OPS + 5: /* shut down, and go on */
        ring_turn(&rig);
        vn_ctrl_reg_write(&rig.ctrl, VN_REG_CC, 0x464001 | css << 4, 4);
        return true;
    case HOST_OPS + 6:
        if (rig.ctrl.state == VN_CTRL_DISABLED)
            bring_up(css);
        return false;
    default:
        ring_turn(&rig);
        return false;
    }
}

#endif
