/* Blocks with metadata: see meta_io.h. Each command takes a slot (ns/meta.h), does its operations on the backend one after the
 * other, data before metadata, and gives the slot back. A crash between the two leaves a block whose check fails:
 * docs/guarantees.md.
 */
#include "ctrl/meta_io.h"

#include "core/status.h"
#include "core/util.h"
#include "ctrl/meta_move.h"
#include "ctrl/meta_ops.h"

/* --- Read, Compare, Write --- */

/* What the host gets or gives: with PRACT eight bytes of metadata are ours alone (NVM Command Set 5.2.2). */
static bool transfers_meta(const struct vn_req *req) {
    return !((req->cmd.cdw12 & VN_RW_PRACT) && vn_meta_pi(req)->ms == VN_PI_BYTES);
}

static vn_status map(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_ctrl *ctrl = req->ctrl;
    const struct vn_pi *pi = vn_meta_pi(req);
    bool extended = vn_meta_of(req)->layout.extended, with_meta = transfers_meta(req);
    uint32_t length = slot->nr * (pi->block_bytes + (extended && with_meta ? pi->ms : 0));
    vn_status status = ctrl->door->map(req, length);
    slot->nr_host_iov = req->nr_iov;
    if (status || extended || !with_meta)
        return status;
    struct vn_meta_map to = {slot->meta_iov, VN_META_IOVECS, 0};
    return ctrl->door->map_meta ? ctrl->door->map_meta(req, &to, slot->nr * pi->ms) : VN_SC_INVALID_FIELD;
}

static struct vn_meta_move move_of(const struct vn_req *req) {
    return (struct vn_meta_move){.pi = vn_meta_pi(req), .extended = vn_meta_of(req)->layout.extended,
                                 .with_meta = transfers_meta(req)};
}

/* Of the blocks in the slot; the error log gets the first that is wrong. */
static vn_status check_protection(struct vn_req *req, const struct vn_pi_tags *tags) {
    const struct vn_meta_slot *slot = req->slot;
    uint32_t bad = 0;
    vn_status status = vn_pi_check(vn_meta_pi(req), VN_RW_PRCHK(req->cmd.cdw12), tags, slot->data, slot->meta, slot->nr, &bad);
    if (status) {
        req->error_lba = slot->slba + bad;
        req->io_flags |= VN_REQ_ERROR_LBA;
    }
    return status;
}

static vn_status check_loaded(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_pi *pi = vn_meta_pi(req);
    struct vn_pi_tags tags = vn_meta_tags(req, slot->slba - vn_io_slba(&req->cmd));
    return pi->type ? check_protection(req, &tags) : VN_SC_SUCCESS;
}

static void on_read(struct vn_req *req) {
    vn_status status = check_loaded(req);
    struct vn_meta_move move = move_of(req);
    if (!status)
        vn_meta_to_host(&move, req->slot);
    vn_meta_finish(req, vn_status_dnr(status));
}

static bool is_first_of_two(const struct vn_req *req) {
    return VN_SQE_FUSE(req->cmd.flags) == VN_FUSE_FIRST;
}

static void on_compare(struct vn_req *req) {
    vn_status status = vn_status_dnr(check_loaded(req));
    struct vn_meta_move move = move_of(req);
    if (!status && !vn_meta_is_hosts(&move, req->slot))
        status = VN_SC_COMPARE_FAILURE;
    if (status || !is_first_of_two(req))
        vn_meta_finish(req, status);
    else if (req->cancelled)
        vn_meta_finish(req, VN_SC_ABORT_REQUESTED);
    else
        vn_req_complete(vn_meta_lend(req), VN_SC_SUCCESS);
}

static void on_write(struct vn_req *req) {
    vn_meta_finish(req, VN_SC_SUCCESS);
}

static vn_status take_written(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_pi *pi = vn_meta_pi(req);
    struct vn_meta_move move = move_of(req);
    struct vn_pi_tags tags = vn_meta_tags(req, 0);
    vn_meta_from_host(&move, slot);
    if (!pi->type)
        return VN_SC_SUCCESS;
    if (!(req->cmd.cdw12 & VN_RW_PRACT))
        return check_protection(req, &tags);
    vn_pi_generate(pi, &tags, slot->data, slot->meta, slot->nr);
    return VN_SC_SUCCESS;
}

static void transfer_in_slot(struct vn_req *req) {
    bool writes = req->cmd.opcode == VN_IO_WRITE;
    req->slot->nr = VN_RW_NLB(req->cmd.cdw12);
    vn_status status = map(req);
    if (!status && writes)
        status = take_written(req);
    if (status)
        vn_meta_finish(req, vn_status_dnr(status));
    else if (writes)
        vn_meta_store(req, on_write);
    else
        vn_meta_load(req, req->cmd.opcode == VN_IO_READ ? on_read : on_compare);
}

static void transfer(struct vn_req *req) {
    if (vn_meta_take(req, vn_io_slba(&req->cmd), VN_RW_NLB(req->cmd.cdw12), req->cmd.opcode == VN_IO_WRITE))
        transfer_in_slot(req);
    else
        vn_meta_wait(req, transfer);
}

bool vn_meta_compare_first(struct vn_req *first) {
    if (!vn_meta_take(first, vn_io_slba(&first->cmd), VN_RW_NLB(first->cmd.cdw12), true))
        return false;
    transfer_in_slot(first);
    return true;
}

void vn_meta_write_second(struct vn_meta_slot *slot, struct vn_req *second) {
    second->slot = slot;
    slot->host_iov = second->iov;
    slot->nr_host_iov = 0;
    slot->io_flags = vn_io_write_flags(second);
    transfer_in_slot(second);
}

void vn_meta_end_fused(struct vn_req *first) {
    vn_meta_unlock_slot(first);
}

/* --- Verify: as much as a slot holds at a time --- */
static void verify_next(struct vn_req *req);

static void on_verify(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    vn_status status = check_loaded(req);
    vn_count(&req->ctrl->counters.read_bytes, (uint64_t)slot->nr * vn_meta_pi(req)->block_bytes); /* but no host read */
    slot->at += slot->nr;
    if (status || slot->at == slot->end)
        vn_meta_finish(req, vn_status_dnr(status));
    else
        vn_ctrl_resume_later(req, verify_next);
}

static void verify_next(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    slot->slba = slot->at;
    slot->nr = (uint32_t)vn_min_u64(slot->end - slot->at, VN_META_DATA_BYTES / vn_meta_pi(req)->block_bytes);
    vn_meta_load(req, on_verify);
}

static void verify(struct vn_req *req) {
    if (!vn_meta_take(req, vn_io_slba(&req->cmd), VN_RW_NLB(req->cmd.cdw12), false))
        vn_meta_wait(req, verify);
    else if (req->cmd.cdw12 & VN_RW_FUA) /* what is verified has left the volatile cache before */
        vn_meta_flush(req, verify_next);
    else
        verify_next(req);
}

/* --- Validation --- */

static vn_status check_range(struct vn_req *req) {
    const struct vn_pi *pi = vn_meta_pi(req);
    uint32_t cdw12 = req->cmd.cdw12;
    if (!vn_ns_has_blocks(req->ns->ns, vn_io_slba(&req->cmd), VN_RW_NLB(cdw12))) {
        req->error_location = 40; /* CDW10 */
        return VN_SC_LBA_RANGE;
    }
    if (!pi->type)
        return cdw12 & VN_RW_PRINFO_MASK ? VN_SC_INVALID_FIELD : VN_SC_SUCCESS;
    if (req->cmd.opcode == VN_IO_COMPARE && (cdw12 & VN_RW_PRACT)) /* there is nothing to insert or take out (3.2.1) */
        return VN_SC_INVALID_PI;
    return vn_pi_validate(pi, VN_RW_PRCHK(cdw12), req->cmd.cdw14, vn_io_slba(&req->cmd));
}

/* MDTS counts metadata that lies between the data (Base 5.17.2.1). */
static vn_status check_transfer(struct vn_req *req) {
    const struct vn_pi *pi = vn_meta_pi(req);
    bool interleaved = vn_meta_of(req)->layout.extended && transfers_meta(req);
    uint64_t length = (uint64_t)VN_RW_NLB(req->cmd.cdw12) * (pi->block_bytes + (interleaved ? pi->ms : 0));
    return length > vn_ctrl_max_transfer(req->ctrl) ? VN_SC_INVALID_FIELD : VN_SC_SUCCESS;
}

vn_status vn_meta_prepare(struct vn_req *req) {
    vn_status status = check_range(req);
    return status ? status : check_transfer(req);
}

bool vn_meta_takes(uint8_t opcode) {
    switch (opcode) {
    case VN_IO_READ:
    case VN_IO_WRITE:
    case VN_IO_COMPARE:
    case VN_IO_WRITE_ZEROES:
    case VN_IO_VERIFY:
    case VN_IO_DSM:
    case VN_IO_COPY:
        return true;
    default:
        return false;
    }
}

vn_status vn_meta_execute(struct vn_req *req) {
    if (req->cmd.opcode == VN_IO_DSM)
        return vn_meta_dsm(req);
    if (req->cmd.opcode == VN_IO_COPY)
        return vn_meta_copy(req);
    vn_status status = check_range(req);
    if (status)
        return status;
    if (req->cmd.opcode == VN_IO_WRITE_ZEROES) {
        vn_meta_zeroes(req);
    } else if (req->cmd.opcode == VN_IO_VERIFY) {
        verify(req);
    } else {
        status = check_transfer(req);
        if (!status)
            transfer(req);
    }
    return status;
}
