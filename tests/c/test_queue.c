/* I/O queues: creating and deleting them, each refusal of Base 5.3 to 5.6 by name, and deletion with commands in flight.
 */
#include "ctrl_rig.h"

static vn_status create_cq(struct ctrl_rig *rig, uint32_t cdw10, uint32_t cdw11, uint64_t prp1) {
    return rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_CREATE_CQ, .prp1 = prp1, .cdw10 = cdw10, .cdw11 = cdw11},
                     NULL);
}

static vn_status create_sq(struct ctrl_rig *rig, uint32_t cdw10, uint32_t cdw11, uint64_t prp1) {
    return rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_CREATE_SQ, .prp1 = prp1, .cdw10 = cdw10, .cdw11 = cdw11},
                     NULL);
}

static void test_cq(struct ctrl_rig *rig) {
    rig_enable(rig);
    CHECK_EQ(create_cq(rig, 0 | 15u << 16, 1, 0x1000), VN_SC_QID_INVALID);
    CHECK_EQ(create_cq(rig, 9 | 15u << 16, 1, 0x1000), VN_SC_QID_INVALID); /* eight are granted */
    CHECK_EQ(create_cq(rig, 0xffff | 15u << 16, 1, 0x1000), VN_SC_QID_INVALID);
    CHECK_EQ(create_cq(rig, 1, 1, 0x1000), VN_SC_QUEUE_SIZE);
    CHECK_EQ(create_cq(rig, 1 | 256u << 16, 1, 0x1000), VN_SC_QUEUE_SIZE); /* MQES is 255 */
    CHECK_EQ(create_cq(rig, 1 | 0xffffu << 16, 1, 0x1000), VN_SC_QUEUE_SIZE);
    CHECK_EQ(create_cq(rig, 1 | 15u << 16, 0, 0x1000), VN_SC_INVALID_FIELD); /* not contiguous */
    CHECK_EQ(create_cq(rig, 1 | 15u << 16, 1, 0x1008), VN_SC_INVALID_PRP_OFFSET);
    CHECK_EQ(create_cq(rig, 1 | 15u << 16, 3 | (uint32_t)VN_NR_VECTORS << 16, 0x1000), VN_SC_INVALID_VECTOR);
    CHECK(!rig->ctrl.cqs[1].exists);
    CHECK_EQ(create_cq(rig, 1 | 255u << 16, 3 | (VN_NR_VECTORS - 1u) << 16, 0x1000), VN_SC_SUCCESS);
    CHECK_EQ(rig->ctrl.cqs[1].size, 256);
    CHECK_EQ(rig->ctrl.cqs[1].vector, VN_NR_VECTORS - 1);
    CHECK(rig->ctrl.cqs[1].ien);
    CHECK_EQ(create_cq(rig, 1 | 15u << 16, 1, 0x1000), VN_SC_QID_INVALID); /* a duplicate */
    CHECK_EQ(create_cq(rig, 2 | 1u << 16, 1, 0x1000), VN_SC_SUCCESS);     /* the smallest */
    CHECK(!rig->ctrl.cqs[2].ien);
    rig->no_memory = true;
    CHECK_EQ(create_cq(rig, 3 | 15u << 16, 1, 0x1000), VN_SC_DATA_TRANSFER_ERROR);
    rig->no_memory = false;
    CHECK(!rig->ctrl.cqs[3].exists);
    CHECK_EQ(create_cq(rig, 3 | 15u << 16, 1, 0x1000), VN_SC_SUCCESS);
}

static void test_sq(struct ctrl_rig *rig) {
    CHECK_EQ(create_sq(rig, 0 | 15u << 16, 1 | 1u << 16, 0x1000), VN_SC_QID_INVALID);
    CHECK_EQ(create_sq(rig, 9 | 15u << 16, 1 | 1u << 16, 0x1000), VN_SC_QID_INVALID);
    CHECK_EQ(create_sq(rig, 1, 1 | 1u << 16, 0x1000), VN_SC_QUEUE_SIZE);
    CHECK_EQ(create_sq(rig, 1 | 256u << 16, 1 | 1u << 16, 0x1000), VN_SC_QUEUE_SIZE);
    CHECK_EQ(create_sq(rig, 1 | 15u << 16, 0 | 1u << 16, 0x1000), VN_SC_INVALID_FIELD);
    CHECK_EQ(create_sq(rig, 1 | 15u << 16, 1 | 1u << 16, 0x1200), VN_SC_INVALID_PRP_OFFSET);
    CHECK_EQ(create_sq(rig, 1 | 15u << 16, 1 | 0u << 16, 0x1000), VN_SC_QID_INVALID);      /* the admin CQ */
    CHECK_EQ(create_sq(rig, 1 | 15u << 16, 1 | 9u << 16, 0x1000), VN_SC_QID_INVALID);      /* out of range */
    CHECK_EQ(create_sq(rig, 1 | 15u << 16, 1 | 0xffffu << 16, 0x1000), VN_SC_QID_INVALID);
    CHECK_EQ(create_sq(rig, 1 | 15u << 16, 1 | 4u << 16, 0x1000), VN_SC_CQ_INVALID);       /* not there */
    CHECK(!rig->ctrl.sqs[1].exists);
    CHECK_EQ(rig->ctrl.cqs[1].nr_sqs, 0);
    rig->no_memory = true;
    CHECK_EQ(create_sq(rig, 1 | 15u << 16, 1 | 1u << 16, 0x1000), VN_SC_DATA_TRANSFER_ERROR);
    rig->no_memory = false;
    CHECK_EQ(rig->ctrl.cqs[1].nr_sqs, 0);
    CHECK_EQ(create_sq(rig, 1 | 15u << 16, 1 | 1u << 16, 0x1000), VN_SC_SUCCESS);
    CHECK_EQ(create_sq(rig, 1 | 15u << 16, 1 | 1u << 16, 0x1000), VN_SC_QID_INVALID);
    CHECK_EQ(create_sq(rig, 8 | 15u << 16, 1 | 1u << 16, 0x1000), VN_SC_SUCCESS); /* two share a CQ */
    CHECK_EQ(rig->ctrl.cqs[1].nr_sqs, 2);
}

static void test_delete(struct ctrl_rig *rig) {
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_CQ, 1), VN_SC_INVALID_QUEUE_DELETION);
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_SQ, 0), VN_SC_QID_INVALID); /* the admin queues stay */
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_CQ, 0), VN_SC_QID_INVALID);
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_SQ, 2), VN_SC_QID_INVALID);
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_CQ, 5), VN_SC_QID_INVALID);
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_SQ, VN_NR_QUEUES), VN_SC_QID_INVALID);
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_CQ, 0xffff), VN_SC_QID_INVALID);
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_SQ, 1), VN_SC_SUCCESS);
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_SQ, 1), VN_SC_QID_INVALID);
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_CQ, 1), VN_SC_INVALID_QUEUE_DELETION);
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_SQ, 8), VN_SC_SUCCESS);
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_CQ, 1), VN_SC_SUCCESS);
    CHECK_EQ(rig_create_cq(rig, 1, 64), VN_SC_SUCCESS); /* and again */
    CHECK_EQ(rig_create_sq(rig, 1, 1, 64), VN_SC_SUCCESS);
}

#define NR_READS 20

static uint16_t reads[NR_READS], delete_cid;

static void submit_reads(struct ctrl_rig *rig) {
    for (int i = 0; i < NR_READS; i++)
        reads[i] = rig_submit(rig, 1, (struct vn_sqe){.opcode = VN_IO_READ, .nsid = 1, .prp1 = RIG_RAM_GPA + 0x10000});
}

/* Delete I/O SQ waits for what the queue has in flight; each command is told before it, once. */
static void delete_in_flight(struct ctrl_rig *rig) {
    submit_reads(rig);
    CHECK_EQ(rig->ctrl.nr_inflight, NR_READS);
    delete_cid = rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_DELETE_SQ, .cdw10 = 1});
    CHECK(!rig_completion(rig, 0, delete_cid));
    CHECK(rig->ctrl.sqs[1].deleting);
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_SQ, 1), VN_SC_QID_INVALID); /* twice at once */
    CHECK_EQ(rig_delete(rig, VN_ADMIN_DELETE_CQ, 1), VN_SC_INVALID_QUEUE_DELETION);
    CHECK_EQ(rig_create_sq(rig, 1, 1, 64), VN_SC_QID_INVALID);
}

static void check_deleted(struct ctrl_rig *rig) {
    const struct rig_done *deleted = rig_completion(rig, 0, delete_cid);
    CHECK_EQ(deleted->status, VN_SC_SUCCESS);
    for (int i = 0; i < NR_READS; i++) {
        const struct rig_done *done = rig_completion(rig, 1, reads[i]);
        CHECK(done && done < deleted);
        CHECK(VN_STATUS_CODE(done->status) == VN_SC_ABORT_REQUESTED ||
              VN_STATUS_CODE(done->status) == VN_SC_ABORT_SQ_DELETED);
    }
    CHECK(!rig->ctrl.sqs[1].exists);
    CHECK_EQ(rig_create_sq(rig, 1, 1, 64), VN_SC_SUCCESS);
}

/* A reset while Delete I/O SQ waits: both end in silence. */
static void delete_then_reset(struct ctrl_rig *rig) {
    submit_reads(rig);
    rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_DELETE_SQ, .cdw10 = 1});
    rig->nr_done = 0;
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
}

static void check_reset(struct ctrl_rig *rig) {
    CHECK_EQ(rig->nr_done, 0);
    rig_enable(rig);
    CHECK_EQ(rig_create_cq(rig, 1, 64), VN_SC_SUCCESS);
    CHECK_EQ(rig_create_sq(rig, 1, 1, 64), VN_SC_SUCCESS);
}

int main(void) {
    struct ctrl_rig *rig = rig_make(&(struct vn_ctrl_opts){.max_queues = 8, .max_entries = 256});
    rig_on(rig, test_cq);
    rig_on(rig, test_sq);
    rig_on(rig, test_delete);
    rig_attach(rig, 1, &(struct vn_ns_opts){.backend = "null", .size = 1 << 20, .block_size = 512, .delay_us = 20000});
    rig_on(rig, delete_in_flight);
    RIG_WAIT(rig, rig_completion(rig, 0, delete_cid));
    rig_on(rig, check_deleted);
    rig_on(rig, delete_then_reset);
    RIG_WAIT(rig, rig->ctrl.state == VN_CTRL_DISABLED);
    rig_on(rig, check_reset);
    rig_free(rig);
    return 0;
}
