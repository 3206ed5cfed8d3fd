/* The controller's queues: creation and deletion with all their refusals (Base 5.3-5.6), and the list of
 * what each has in flight. The rings themselves belong to the door.
 */
#include <string.h>

#include "core/status.h"
#include "ctrl/ctrl.h"

#define QUEUE_PC 0x1u  /* CDW11: physically contiguous */
#define CQ_IEN 0x2u

void vn_queue_reset_all(struct vn_ctrl *ctrl) {
    if (ctrl->fabrics) /* queues are connections there: those of I/O end when the door hears of the reset */
        return;
    for (uint16_t i = 0; i < VN_NR_QUEUES; i++) {
        ctrl->cqs[i] = (struct vn_cq){.cqid = i};
        ctrl->sqs[i] = (struct vn_sq){.sqid = i, .ctrl = ctrl};
    }
    ctrl->io_sqs = ctrl->io_cqs = ctrl->irqs_due = 0;
    ctrl->admin_irq_due = false;
}

static void cq_setup(struct vn_cq *cq, uint64_t gpa, uint32_t size, uint16_t vector, bool ien) {
    *cq = (struct vn_cq){
        .exists = true, .ien = ien, .phase = 1, .cqid = cq->cqid, .vector = vector, .size = size, .gpa = gpa,
        .bad_head = UINT32_MAX, .irq_head = VN_NO_IRQ, .batch = 1,
    };
}

static void sq_setup(struct vn_sq *sq, uint64_t gpa, uint32_t size, struct vn_cq *cq) {
    *sq = (struct vn_sq){
        .exists = true, .sqid = sq->sqid, .size = size, .gpa = gpa, .cq = cq, .ctrl = sq->ctrl,
        .bad_tail = UINT32_MAX,
    };
    cq->nr_sqs++;
}

void vn_queue_connect(struct vn_ctrl *ctrl, uint16_t qid, uint32_t entries) {
    struct vn_cq *cq = &ctrl->cqs[qid];
    cq_setup(cq, 0, entries + 1, 0, false); /* a slot for each command: the queue's requests are its bound */
    sq_setup(&ctrl->sqs[qid], 0, entries, cq);
}

void vn_queue_disconnect(struct vn_ctrl *ctrl, uint16_t qid) {
    assert(!ctrl->sqs[qid].nr_inflight);
    ctrl->cqs[qid] = (struct vn_cq){.cqid = qid};
    ctrl->sqs[qid] = (struct vn_sq){.sqid = qid, .ctrl = ctrl};
}

vn_status vn_queue_open_admin(struct vn_ctrl *ctrl) {
    struct vn_cq *cq = &ctrl->cqs[0];
    struct vn_sq *sq = &ctrl->sqs[0];
    cq_setup(cq, ctrl->acq, VN_AQA_ACQS(ctrl->aqa) + 1, 0, true);
    sq_setup(sq, ctrl->asq, VN_AQA_ASQS(ctrl->aqa) + 1, cq);
    vn_status status = ctrl->door->cq_open(cq);
    return status ? status : ctrl->door->sq_open(sq);
}

/* What Create I/O SQ and Create I/O CQ refuse alike. */
static vn_status check_create(const struct vn_ctrl *ctrl, const struct vn_sqe *cmd, uint32_t granted, bool exists) {
    uint32_t qid = cmd->cdw10 & 0xffff;
    uint32_t size = (cmd->cdw10 >> 16) + 1; /* zero-based on the wire */
    if (qid == 0 || qid > granted || exists)
        return VN_SC_QID_INVALID;
    if (size < 2 || size > ctrl->max_entries)
        return VN_SC_QUEUE_SIZE;
    if (!(cmd->cdw11 & QUEUE_PC)) /* CAP.CQR: contiguous queues are required */
        return VN_SC_INVALID_FIELD;
    if (cmd->prp1 & (VN_PAGE_SIZE - 1))
        return VN_SC_INVALID_PRP_OFFSET;
    return VN_SC_SUCCESS;
}

vn_status vn_queue_create_cq(struct vn_ctrl *ctrl, const struct vn_sqe *cmd) {
    uint32_t qid = cmd->cdw10 & 0xffff;
    bool exists = qid < VN_NR_QUEUES && ctrl->cqs[qid].exists;
    vn_status status = check_create(ctrl, cmd, ctrl->features.nr_cqs, exists);
    if (status)
        return status;
    uint16_t vector = (uint16_t)(cmd->cdw11 >> 16);
    bool ien = cmd->cdw11 & CQ_IEN;
    if (ien && vector >= VN_NR_VECTORS)
        return VN_SC_INVALID_VECTOR;
    struct vn_cq *cq = &ctrl->cqs[qid];
    cq_setup(cq, cmd->prp1, (cmd->cdw10 >> 16) + 1, vector, ien);
    status = ctrl->door->cq_open(cq);
    if (status)
        *cq = (struct vn_cq){.cqid = (uint16_t)qid};
    else
        ctrl->io_cqs |= vn_queue_bit((uint16_t)qid);
    return status;
}

vn_status vn_queue_create_sq(struct vn_ctrl *ctrl, const struct vn_sqe *cmd) {
    uint32_t qid = cmd->cdw10 & 0xffff;
    bool exists = qid < VN_NR_QUEUES && ctrl->sqs[qid].exists;
    vn_status status = check_create(ctrl, cmd, ctrl->features.nr_sqs, exists);
    if (status)
        return status;
    uint32_t cqid = cmd->cdw11 >> 16;
    if (cqid == 0 || cqid > ctrl->features.nr_cqs)
        return VN_SC_QID_INVALID;
    if (!ctrl->cqs[cqid].exists)
        return VN_SC_CQ_INVALID;
    struct vn_sq *sq = &ctrl->sqs[qid];
    sq_setup(sq, cmd->prp1, (cmd->cdw10 >> 16) + 1, &ctrl->cqs[cqid]);
    status = ctrl->door->sq_open(sq);
    if (status) {
        ctrl->cqs[cqid].nr_sqs--;
        *sq = (struct vn_sq){.sqid = (uint16_t)qid, .ctrl = ctrl};
        return status;
    }
    sq->priority = (uint8_t)(cmd->cdw11 >> 1 & 0x3);
    ctrl->io_sqs |= vn_queue_bit(sq->sqid);
    return VN_SC_SUCCESS;
}

vn_status vn_queue_delete_cq(struct vn_ctrl *ctrl, const struct vn_sqe *cmd) {
    uint32_t qid = cmd->cdw10 & 0xffff;
    if (qid == 0 || qid >= VN_NR_QUEUES || !ctrl->cqs[qid].exists)
        return VN_SC_QID_INVALID;
    if (ctrl->cqs[qid].nr_sqs)
        return VN_SC_INVALID_QUEUE_DELETION;
    ctrl->io_cqs &= ~vn_queue_bit((uint16_t)qid);
    ctrl->irqs_due &= ctrl->io_cqs;
    ctrl->cqs[qid] = (struct vn_cq){.cqid = (uint16_t)qid};
    return VN_SC_SUCCESS;
}

static void finish_delete_sq(struct vn_sq *sq) {
    struct vn_req *req = sq->delete_req;
    sq->cq->nr_sqs--;
    sq->ctrl->io_sqs &= ~vn_queue_bit(sq->sqid);
    *sq = (struct vn_sq){.sqid = sq->sqid, .ctrl = sq->ctrl};
    if (req)
        vn_ctrl_end(req, VN_SC_SUCCESS);
}

bool vn_queue_delete_sq(struct vn_req *req, vn_status *status) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint32_t qid = req->cmd.cdw10 & 0xffff;
    struct vn_sq *sq = qid < VN_NR_QUEUES ? &ctrl->sqs[qid] : NULL;
    if (qid == 0 || !sq || !sq->exists || sq->deleting) {
        *status = VN_SC_QID_INVALID;
        return false;
    }
    sq->deleting = true; /* nothing is fetched any more */
    for (struct vn_req *io = sq->inflight; io; io = io->next)
        vn_ctrl_cancel(io);
    if (sq->nr_inflight) {
        sq->delete_req = req;
        return true;
    }
    finish_delete_sq(sq);
    *status = VN_SC_SUCCESS;
    return false;
}

void vn_queue_track(struct vn_sq *sq, struct vn_req *req) {
    req->prev = NULL;
    req->next = sq->inflight;
    if (req->next)
        req->next->prev = req;
    sq->inflight = req;
    sq->nr_inflight++;
}

void vn_queue_untrack(struct vn_sq *sq, struct vn_req *req) {
    if (req->next)
        req->next->prev = req->prev;
    if (req->prev)
        req->prev->next = req->next;
    else
        sq->inflight = req->next;
    req->prev = req->next = NULL;
    sq->nr_inflight--;
    if (sq->deleting && sq->delete_req && sq->nr_inflight == 0)
        finish_delete_sq(sq);
}
