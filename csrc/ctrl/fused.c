/* Fused Compare and Write (Base 3.4.2, NVM Command Set 2.1.3.1): two commands that follow each other in one queue, and that no
 * other command of the drive comes between. Their range is locked from before the compare until the write has ended; commands
 * that were under way there before are waited for. Called by io_cmd.c for the first, which fetches the second.
 */
#include "core/status.h"
#include "core/util.h"
#include "ctrl/gate.h"
#include "ctrl/io_cmd.h"
#include "ctrl/meta_io.h"
#include "ns/ns_state.h"

#define FUSE_LOCATION 1u /* the byte of the command that has FUSE */

/* req->step: which lock it has, from 1 on. */
static void unlock(struct vn_req *req) {
    if (!req->step)
        return;
    vn_range_unlock(&req->ns->ns->state->locks, (int)req->step - 1);
    req->step = 0;
    vn_ns_state_look(req->ns->ns);
}

static void part(struct vn_req *req) {
    if (req->fused)
        req->fused->fused = NULL;
    req->fused = NULL;
}

/* The write has ended, or a reset did not wait for it any longer. */
static void on_second(struct vn_req *second, void *arg) {
    (void)arg;
    part(second);
    unlock(second);
    vn_req_complete(second, second->status);
}

static void end_second(struct vn_req *second, vn_status status) {
    second->limits &= (uint8_t)~VN_REQ_HELD;
    vn_req_complete(second, second->cancelled ? VN_SC_ABORT_REQUESTED : status);
}

/* Blocks with metadata are locked by the slot that holds them (ns/meta.h). */
static bool uses_meta(const struct vn_req *req) {
    return req->ns && (req->ns->ns->special & VN_NS_SPECIAL_META);
}

/* The first of the two completions is that of the compare, so the write must not end before that. */
static void pass_on_with_meta(struct vn_req *first, struct vn_req *second) {
    struct vn_meta_slot *slot = first->slot;
    vn_req_complete(first, VN_SC_SUCCESS);
    vn_meta_write_second(slot, second);
}

/* The compare has ended, or was never begun. The first of the two completions is always its. */
static void on_first(struct vn_req *first, void *arg) {
    struct vn_req *second = first->fused;
    vn_status status = first->cancelled && !first->status ? VN_SC_ABORT_REQUESTED : first->status;
    (void)arg;
    if (first->sq)
        first->sq->lacks_second = false;
    part(first);
    bool has_meta = !first->status && uses_meta(first); /* then its slot is still locked */
    if (status || !second || second->cancelled) {
        unlock(first);
        if (has_meta)
            vn_meta_end_fused(first);
        vn_req_complete(first, status);
        if (second)
            end_second(second, VN_SC_ABORT_FAILED_FUSED); /* without DNR: another time it may be equal */
        return;
    }
    second->step = first->step;
    second->limits &= (uint8_t)~VN_REQ_HELD;
    if (has_meta) {
        pass_on_with_meta(first, second);
        return;
    }
    vn_req_complete(first, VN_SC_SUCCESS);
    vn_gate_pass(second);
}

static void start(struct vn_req *first) {
    struct vn_ns *ns = first->ns->ns;
    if (!first->fused) {
        vn_req_complete(first, VN_SC_ABORT_REQUESTED);
        return;
    }
    if (uses_meta(first)) {
        if (!vn_meta_compare_first(first))
            vn_meta_wait(first, start);
        return;
    }
    if (!first->step) {
        first->step = (uint32_t)(vn_range_lock(&ns->state->locks, first->offset, first->length) + 1);
        vn_ns_state_look(ns);
    }
    if (!first->step || vn_gate_is_in_use(first))
        vn_ctrl_resume_later(first, start);
    else
        vn_gate_pass(first);
}

static bool name_the_same(const struct vn_sqe *first, const struct vn_sqe *second) {
    return first->nsid == second->nsid && vn_io_slba(first) == vn_io_slba(second) &&
           VN_RW_NLB(first->cdw12) == VN_RW_NLB(second->cdw12);
}

static vn_status prepare(struct vn_req *req, enum vn_op op) {
    return uses_meta(req) ? vn_meta_prepare(req) : vn_io_prepare(req, op);
}

/* What is wrong with either is found before anything is compared. */
static bool check(struct vn_req *first, struct vn_req *second, vn_status *first_status, vn_status *second_status) {
    *first_status = *second_status = VN_SC_ABORT_FAILED_FUSED;
    if (second->cmd.opcode != VN_IO_WRITE || VN_SQE_PSDT(second->cmd.flags) == 3 ||
        !name_the_same(&first->cmd, &second->cmd)) {
        first->error_location = second->error_location = second->cmd.opcode == VN_IO_WRITE ? 40 : FUSE_LOCATION;
        *first_status = *second_status = vn_status_dnr(VN_SC_INVALID_FIELD);
        return false;
    }
    vn_status status = vn_io_enter(first);
    if (!status && (first->ns->ns->special & VN_NS_SPECIAL_ZONES)) /* docs/nvme.md */
        status = VN_SC_INVALID_FIELD;
    if (!status && !vn_ns_may_change(first->ns->ns)) /* nothing is atomic over two drives */
        status = VN_SC_OPERATION_DENIED;
    status = status ? status : prepare(first, VN_OP_COMPARE);
    if (status) {
        *first_status = vn_status_dnr(status);
        return false;
    }
    status = vn_io_enter(second);
    status = status ? status : prepare(second, VN_OP_WRITE);
    if (status)
        *second_status = vn_status_dnr(status);
    return !status;
}

static void join(struct vn_req *first, struct vn_req *second) {
    vn_status first_status, second_status;
    vn_ctrl_begin(second);
    vn_req_push(second, on_second, NULL);
    second->limits |= VN_REQ_HELD;
    second->step = 0;
    if (check(first, second, &first_status, &second_status)) {
        first->fused = second;
        second->fused = first;
        start(first);
        return;
    }
    second->fused = NULL;
    vn_req_complete(first, first_status);
    end_second(second, second_status);
}

/* The second is there, but no completion or no request was free for it. Nothing else is fetched from this queue meanwhile. */
static void look_again(struct vn_req *first) {
    struct vn_sq *sq = first->sq;
    bool later;
    struct vn_req *second = sq->ctrl->door->fetch_second(sq, &later);
    if (later) {
        vn_ctrl_resume_later(first, look_again);
        return;
    }
    sq->lacks_second = sq->paired = false;
    if (second)
        join(first, second);
    else
        vn_ctrl_end(first, VN_SC_ABORT_MISSING_FUSED);
}

vn_status vn_io_fused(struct vn_req *req) {
    req->error_location = FUSE_LOCATION;
    bool is_first = VN_SQE_FUSE(req->cmd.flags) == VN_FUSE_FIRST && req->cmd.opcode == VN_IO_COMPARE;
    bool is_second = VN_SQE_FUSE(req->cmd.flags) == VN_FUSE_SECOND && req->cmd.opcode == VN_IO_WRITE;
    if (!req->ctrl->door->fetch_second || !(is_first || is_second) || VN_SQE_PSDT(req->cmd.flags) == 3)
        return VN_SC_INVALID_FIELD;
    if (is_second) /* it would have been fetched by its first */
        return VN_SC_ABORT_MISSING_FUSED;
    bool later;
    struct vn_req *second = req->ctrl->door->fetch_second(req->sq, &later);
    if (!second && !later)
        return VN_SC_ABORT_MISSING_FUSED;
    req->error_location = 0xffff;
    req->fused = NULL;
    req->step = 0;
    vn_req_push(req, on_first, NULL);
    if (second) {
        join(req, second);
    } else {
        req->sq->lacks_second = true;
        vn_ctrl_resume_later(req, look_again);
    }
    return VN_SC_SUCCESS;
}
