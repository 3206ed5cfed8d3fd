/* The gate of namespaces that are not plain, see gate.h. Called by io_cmd.c for each command of theirs. */
#include "ctrl/gate.h"

#include "core/nvme_zns.h"
#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/reserve_cmd.h"
#include "ns/ns_state.h"

static bool changes_data(uint8_t opcode) {
    switch (opcode) {
    case VN_IO_WRITE:
    case VN_IO_WRITE_UNCORRECTABLE:
    case VN_IO_WRITE_ZEROES:
    case VN_IO_DSM:
    case VN_IO_COPY:
    case VN_IO_ZONE_SEND:
    case VN_IO_ZONE_APPEND:
        return true;
    default:
        return false;
    }
}

/* --- Reservations (Base 8.19, NVM Command Set figure 136). Fabrics hosts cannot register: they are outsiders --- */
static bool conflicts(const struct vn_ctrl *ctrl, const struct vn_ns *ns, enum vn_resv_group group) {
    struct vn_resv_host host = vn_resv_host_of(ctrl);
    return ns->state && vn_resv_conflicts(&ns->state->kept.reservation, &host, group);
}

static bool command_conflicts(const struct vn_req *req) {
    switch (req->cmd.opcode) {
    case VN_IO_READ:
    case VN_IO_COMPARE:
    case VN_IO_VERIFY:
    case VN_IO_ZONE_RECEIVE:
        return conflicts(req->ctrl, req->ns->ns, VN_RESV_READS);
    case VN_IO_COPY:
        if (conflicts(req->ctrl, req->ns->ns, VN_RESV_READS))
            return true;
        return conflicts(req->ctrl, req->ns->ns, VN_RESV_WRITES);
    case VN_IO_FLUSH:
        return conflicts(req->ctrl, req->ns->ns, VN_RESV_WRITES);
    default: /* the reservation commands judge for themselves */
        return changes_data(req->cmd.opcode) && conflicts(req->ctrl, req->ns->ns, VN_RESV_WRITES);
    }
}

bool vn_gate_flush_conflicts(const struct vn_ctrl *ctrl, const struct vn_ns *ns) {
    return (ns->special & VN_NS_SPECIAL_RESERVED) && conflicts(ctrl, ns, VN_RESV_WRITES);
}

static bool any_conflicts(const struct vn_req *req, uint32_t nsid, enum vn_resv_group group) {
    const struct vn_drive *drive = req->ctrl->drive;
    if (nsid != VN_NSID_BROADCAST)
        return nsid && nsid <= VN_MAX_NAMESPACES && drive->spaces[nsid] && conflicts(req->ctrl, drive->spaces[nsid], group);
    for (nsid = 0; (nsid = vn_drive_next_space(drive, nsid));) {
        if (conflicts(req->ctrl, drive->spaces[nsid], group))
            return true;
    }
    return false;
}

vn_status vn_gate_check_admin(const struct vn_req *req) {
    bool conflict = false;
    if (!req->ctrl->drive)
        return VN_SC_SUCCESS;
    switch (req->cmd.opcode) {
    case VN_ADMIN_FORMAT_NVM:
    case VN_ADMIN_NS_MANAGEMENT: /* the NSID of a new one is 0 */
    case VN_ADMIN_NS_ATTACHMENT:
    case VN_ADMIN_SECURITY_SEND:
        conflict = any_conflicts(req, req->cmd.nsid, VN_RESV_WRITES);
        break;
    case VN_ADMIN_SANITIZE:
        conflict = any_conflicts(req, VN_NSID_BROADCAST, VN_RESV_WRITES);
        break;
    case VN_ADMIN_SECURITY_RECEIVE:
        conflict = any_conflicts(req, req->cmd.nsid, VN_RESV_READS);
        break;
    }
    return conflict ? VN_SC_RESERVATION_CONFLICT : VN_SC_SUCCESS;
}

vn_status vn_gate_check(struct vn_req *req) {
    uint32_t special = req->ns->ns->special;
    if (special & VN_NS_SPECIAL_REFUSES)
        return req->ns->ns->state->refusal;
    if ((special & VN_NS_SPECIAL_RESERVED) && command_conflicts(req))
        return VN_SC_RESERVATION_CONFLICT;
    if (special & VN_NS_SPECIAL_BUSY)
        return VN_SC_FORMAT_IN_PROGRESS;
    if ((special & VN_NS_SPECIAL_PROTECTED) && changes_data(req->cmd.opcode))
        return VN_SC_NS_WRITE_PROTECTED;
    return VN_SC_SUCCESS;
}

static void submit(struct vn_req *req) {
    if (vn_ns_submit(req->ns, req) == VN_BUSY)
        vn_ctrl_make_busy(req);
}

/* --- What lasts --- */
static void on_saved(struct vn_keep_wait *wait, int err) {
    struct vn_req *req = vn_container_of((void *)wait, struct vn_req, engine);
    req->limits &= (uint8_t)~VN_REQ_HELD;
    vn_ns_leave_flight(req->ns, req);
    vn_req_complete(req, err ? VN_SC_INTERNAL : req->status);
}

_Static_assert(sizeof(struct vn_keep_wait) <= sizeof(((struct vn_req *)0)->engine), "no backend has it meanwhile");

void vn_gate_save(struct vn_req *req) {
    struct vn_keep_wait *wait = (void *)req->engine;
    if (req->state == VN_REQ_FETCHED) /* a reset that gives it up waits for it all the same */
        vn_req_set_state(req, VN_REQ_TAKEN);
    req->limits |= VN_REQ_HELD;
    vn_ns_enter_flight(req->ns, req);
    *wait = (struct vn_keep_wait){.fn = on_saved};
    vn_keep_save(req->ns->ns->state->keep, req->ctrl->reactor, wait);
}

/* --- Marks of Write Uncorrectable (NVM Command Set 3.2.7) --- */
static void on_written_over(struct vn_req *req, void *arg) {
    struct vn_ns *ns = req->ns->ns;
    (void)arg;
    if (req->status) {
        vn_req_complete(req, req->status);
        return;
    }
    if (!vn_marks_clear(&ns->state->kept.marks, req->offset >> ns->block_shift, req->length >> ns->block_shift)) {
        vn_req_complete(req, VN_SC_CAPACITY_EXCEEDED); /* what is left of a range would be one too many: they stay */
        return;
    }
    vn_ns_state_look(ns);
    vn_gate_save(req);
}

static void fail_read(struct vn_req *req, uint64_t lba) {
    req->error_lba = lba;
    req->io_flags |= VN_REQ_ERROR_LBA;
    vn_req_set_state(req, VN_REQ_TAKEN);
    vn_req_complete(req, VN_SC_UNRECOVERED_READ);
}

void vn_gate_pass(struct vn_req *req) {
    const struct vn_ns *ns = req->ns->ns;
    uint64_t lba = VN_NO_MARK;
    if ((ns->special & VN_NS_SPECIAL_MARKS) && req->ctrl->drive && req->op != VN_OP_FLUSH)
        lba = vn_marks_first(&ns->state->kept.marks, req->offset >> ns->block_shift, req->length >> ns->block_shift);
    if (lba != VN_NO_MARK && (req->op == VN_OP_READ || req->op == VN_OP_COMPARE)) {
        fail_read(req, lba);
        return;
    }
    if (lba != VN_NO_MARK)
        vn_req_push(req, on_written_over, NULL);
    submit(req);
}

/* --- Locks --- */
void vn_gate_submit(struct vn_req *req) {
    const struct vn_ns *ns = req->ns->ns;
    if ((ns->special & VN_NS_SPECIAL_LOCKED) && req->ctrl->drive && req->op != VN_OP_FLUSH &&
        vn_range_is_locked(&ns->state->locks, req->offset, req->length))
        vn_ctrl_resume_later(req, vn_gate_submit);
    else
        vn_gate_pass(req);
}

/* Those that wait, here or for something else, have not been passed on yet. */
static bool has_range(const struct vn_req *io, const struct vn_req *req) {
    return io != req && io->ns && io->ns->ns == req->ns->ns && !(io->limits & (VN_REQ_RESUMES | VN_REQ_HELD)) &&
           vn_range_overlaps(io->offset, io->length, req->offset, req->length);
}

bool vn_gate_is_in_use(const struct vn_req *req) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        const struct vn_ctrl *ctrl = req->ctrl->drive->ctrls[i];
        for (uint64_t mask = ctrl ? ctrl->io_sqs : 0; mask; mask &= mask - 1) {
            for (const struct vn_req *io = ctrl->sqs[__builtin_ctzll(mask) + 1].inflight; io; io = io->next) {
                if (has_range(io, req))
                    return true;
            }
        }
    }
    return false;
}
