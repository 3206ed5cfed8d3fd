/* I/O commands (NVM Command Set 3.2): validation, then one or more operations on the namespace.
 * Called by vn_ctrl_execute. Every bound is checked here, before anything is touched.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/fabrics.h"
#include "ctrl/gate.h"
#include "ctrl/io_cmd.h"
#include "ctrl/meta_io.h"
#include "ctrl/zone_cmd.h"

uint64_t vn_io_slba(const struct vn_sqe *cmd) {
    return cmd->cdw10 | (uint64_t)cmd->cdw11 << 32;
}

static inline void submit_plain(struct vn_req *req) {
    if (vn_ns_submit(req->ns, req) == VN_BUSY)
        vn_ctrl_make_busy(req);
}

void vn_io_submit(struct vn_req *req) {
    if (__builtin_expect(req->ns->ns->special, 0))
        vn_gate_submit(req);
    else
        submit_plain(req);
}

uint32_t vn_io_write_flags(const struct vn_req *req) {
    bool write_through = !(req->ctrl->features.vwc & 1); /* volatile write cache off: every write is durable */
    return (req->cmd.cdw12 & VN_RW_FUA) || write_through ? VN_REQ_FUA : 0;
}

vn_status vn_io_take_range(struct vn_req *req) {
    const struct vn_ns *ns = req->ns->ns;
    uint64_t slba = vn_io_slba(&req->cmd);
    uint32_t nlb = VN_RW_NLB(req->cmd.cdw12);
    if (!vn_ns_has_blocks(ns, slba, nlb)) {
        req->error_location = 40; /* CDW10 */
        return VN_SC_LBA_RANGE;
    }
    if (req->cmd.cdw12 & VN_RW_PRINFO_MASK) { /* formatted without protection information */
        req->error_location = 51 | 2 << 8;    /* CDW12, bit 26 */
        return VN_SC_INVALID_FIELD;
    }
    req->offset = slba << ns->block_shift;
    req->length = (uint64_t)nlb << ns->block_shift;
    if (req->op == VN_OP_WRITE || req->op == VN_OP_WRITE_ZEROES)
        req->io_flags |= vn_io_write_flags(req);
    return VN_SC_SUCCESS;
}

vn_status vn_io_prepare(struct vn_req *req, enum vn_op op) {
    req->op = op;
    vn_status status = vn_io_take_range(req);
    if (status)
        return status;
    if (req->length > vn_ctrl_max_transfer(req->ctrl))
        return VN_SC_INVALID_FIELD;
    return req->ctrl->door->map(req, (uint32_t)req->length);
}

/* Of a namespace that is plain now: the short way. */
static inline vn_status plain(struct vn_req *req, enum vn_op op) {
    vn_status status = vn_io_prepare(req, op);
    if (!status)
        submit_plain(req);
    return status;
}

static vn_status read_write(struct vn_req *req, enum vn_op op) {
    vn_status status = vn_io_prepare(req, op);
    if (!status)
        vn_io_submit(req);
    return status;
}

static vn_status write_zeroes(struct vn_req *req) {
    req->op = VN_OP_WRITE_ZEROES;
    vn_status status = vn_io_take_range(req);
    if (status)
        return status;
    if (req->cmd.cdw12 & VN_RW_DEAC)
        req->io_flags |= VN_REQ_MAY_UNMAP;
    vn_io_submit(req);
    return VN_SC_SUCCESS;
}

/* --- Flush; NSID FFFFFFFFh flushes every namespace, one after the other (VWC bits 2:1 = 11b) --- */
static bool flush_next(struct vn_req *req) {
    req->step = vn_ns_table_next(&req->ctrl->namespaces, req->step);
    if (!req->step)
        return false;
    req->ns = vn_ns_table_get(&req->ctrl->namespaces, req->step);
    req->limits = 0; /* one command for the limits of each namespace, and so many for the controller's */
    return true;
}

static void on_flush_all(struct vn_req *req, void *arg) {
    (void)arg;
    vn_req_set_state(req, VN_REQ_FETCHED);
    if (req->status || req->cancelled || !flush_next(req)) {
        vn_req_complete(req, req->status);
        return;
    }
    vn_req_push(req, on_flush_all, NULL);
    vn_io_submit(req);
}

/* Not one of all the namespaces may be out of reach over this path, or be erased. */
static vn_status check_all(const struct vn_ctrl *ctrl) {
    vn_status status = VN_SC_SUCCESS;
    for (uint32_t nsid = 0; !status && (nsid = vn_ns_table_next(&ctrl->namespaces, nsid));) {
        status = vn_ana_check(ctrl, nsid);
        if (!status && vn_gate_flush_conflicts(ctrl, ctrl->namespaces.by_nsid[nsid]->ns))
            status = VN_SC_RESERVATION_CONFLICT;
    }
    return status || !ctrl->drive ? status : vn_sanitize_refusal(ctrl->drive);
}

static vn_status flush(struct vn_req *req) {
    req->op = VN_OP_FLUSH;
    if (req->cmd.nsid != VN_NSID_BROADCAST) {
        vn_io_submit(req);
        return VN_SC_SUCCESS;
    }
    vn_status status = check_all(req->ctrl);
    if (status)
        return status;
    req->step = 0;
    if (!flush_next(req)) {
        vn_ctrl_end(req, VN_SC_SUCCESS);
        return VN_SC_SUCCESS;
    }
    vn_req_push(req, on_flush_all, NULL);
    vn_io_submit(req);
    return VN_SC_SUCCESS;
}

/* --- Dataset Management: the ranges are copied once, checked, then deallocated one by one --- */
static void deallocate_next(struct vn_req *req);

static void on_deallocated(struct vn_req *req, void *arg) {
    (void)arg;
    vn_req_set_state(req, VN_REQ_FETCHED);
    req->step++;
    if (req->status || req->cancelled) {
        vn_req_complete(req, req->status ? req->status : VN_SC_ABORT_REQUESTED);
        return;
    }
    deallocate_next(req);
}

static void deallocate_next(struct vn_req *req) {
    const struct vn_dsm_range *ranges = req->buffer;
    const struct vn_ns *ns = req->ns->ns;
    while (req->step < req->nr_steps && ranges[req->step].nlb == 0)
        req->step++;
    if (req->step == req->nr_steps) {
        vn_req_complete(req, VN_SC_SUCCESS);
        return;
    }
    req->offset = ranges[req->step].slba << ns->block_shift;
    req->length = (uint64_t)ranges[req->step].nlb << ns->block_shift;
    vn_req_push(req, on_deallocated, NULL);
    vn_io_submit(req);
}

vn_status vn_io_take_ranges(struct vn_req *req, void (*next)(struct vn_req *req)) {
    uint32_t nr = (req->cmd.cdw10 & 0xff) + 1;
    vn_status status = vn_ctrl_receive(req, req->buffer, nr * (uint32_t)sizeof(struct vn_dsm_range));
    if (status)
        return status;
    const struct vn_dsm_range *ranges = req->buffer;
    for (uint32_t i = 0; i < nr; i++) {
        if (!vn_ns_has_blocks(req->ns->ns, ranges[i].slba, ranges[i].nlb))
            return VN_SC_LBA_RANGE;
    }
    /* Hints other than deallocate need no action, and neither does a backend that has nothing to give back. */
    if (!(req->cmd.cdw11 & VN_DSM_AD) || !req->ns->ns->backend->deallocates) {
        vn_ctrl_end(req, req->ns->ns->read_only ? VN_SC_NS_WRITE_PROTECTED : VN_SC_SUCCESS);
        return VN_SC_SUCCESS;
    }
    req->nr_iov = 0;
    req->step = 0;
    req->nr_steps = nr;
    next(req);
    return VN_SC_SUCCESS;
}

static vn_status dataset_management(struct vn_req *req) {
    req->op = VN_OP_DEALLOCATE;
    return vn_io_take_ranges(req, deallocate_next);
}

/* --- Which commands there are: dispatch, ONCS and the effects log say the same --- */
static vn_status compare(struct vn_req *req) {
    return read_write(req, VN_OP_COMPARE);
}

static vn_status read_blocks(struct vn_req *req) {
    return read_write(req, VN_OP_READ);
}

static vn_status write_blocks(struct vn_req *req) {
    return read_write(req, VN_OP_WRITE);
}

static const struct io_command {
    uint8_t opcode;
    uint16_t oncs; /* the bits that it sets (Base 5.17.2.1) */
    uint32_t effects;
    bool drive; /* it needs a state of the namespace, or another one of the drive's */
    vn_status (*run)(struct vn_req *req);
} commands[] = {
    {VN_IO_FLUSH, 0, VN_EFFECT_CSUPP, false, flush},
    {VN_IO_WRITE, 0, VN_EFFECT_CSUPP | VN_EFFECT_LBCC, false, write_blocks},
    {VN_IO_READ, 0, VN_EFFECT_CSUPP, false, read_blocks},
    {VN_IO_WRITE_UNCORRECTABLE, VN_ONCS_WRITE_UNCORRECTABLE, VN_EFFECT_CSUPP | VN_EFFECT_LBCC, true, vn_io_write_uncorrectable},
    {VN_IO_COMPARE, VN_ONCS_COMPARE, VN_EFFECT_CSUPP, false, compare},
    {VN_IO_WRITE_ZEROES, VN_ONCS_WRITE_ZEROES, VN_EFFECT_CSUPP | VN_EFFECT_LBCC, false, write_zeroes},
    {VN_IO_DSM, VN_ONCS_DSM, VN_EFFECT_CSUPP | VN_EFFECT_LBCC, false, dataset_management},
    {VN_IO_VERIFY, VN_ONCS_VERIFY, VN_EFFECT_CSUPP, false, vn_io_verify},
    {VN_IO_RESV_REGISTER, VN_ONCS_RESERVATIONS, VN_EFFECT_CSUPP, true, vn_io_resv_register},
    {VN_IO_RESV_REPORT, VN_ONCS_RESERVATIONS, VN_EFFECT_CSUPP, true, vn_io_resv_report},
    {VN_IO_RESV_ACQUIRE, VN_ONCS_RESERVATIONS, VN_EFFECT_CSUPP, true, vn_io_resv_acquire},
    {VN_IO_RESV_RELEASE, VN_ONCS_RESERVATIONS, VN_EFFECT_CSUPP, true, vn_io_resv_release},
    {VN_IO_COPY, VN_ONCS_COPY, VN_EFFECT_CSUPP | VN_EFFECT_LBCC, false, vn_io_copy},
};

/* NULL: this controller does not have it. */
static const struct io_command *find(const struct vn_ctrl *ctrl, uint8_t opcode) {
    if (vn_ctrl_kind(ctrl) == VN_KIND_DISCOVERY)
        return NULL;
    for (size_t i = 0; i < VN_ARRAY_SIZE(commands); i++) {
        if (commands[i].opcode == opcode)
            return (commands[i].drive && !ctrl->drive) || (commands[i].oncs & ctrl->oncs_off) ? NULL : &commands[i];
    }
    return NULL;
}

uint32_t vn_io_effects(const struct vn_ctrl *ctrl, uint8_t opcode) {
    const struct io_command *command = find(ctrl, opcode);
    return command ? command->effects : 0;
}

uint16_t vn_io_oncs(const struct vn_ctrl *ctrl) {
    uint16_t oncs = 0;
    for (size_t i = 0; i < VN_ARRAY_SIZE(commands); i++)
        oncs |= find(ctrl, commands[i].opcode) ? commands[i].oncs : 0;
    return oncs;
}

vn_status vn_io_enter(struct vn_req *req) {
    req->ns = vn_ns_table_get(&req->ctrl->namespaces, req->cmd.nsid);
    if (!req->ns)
        return VN_SC_INVALID_NS;
    vn_status status = vn_ana_check(req->ctrl, req->cmd.nsid);
    if (!status && __builtin_expect(req->ns->ns->special, 0))
        status = vn_gate_check(req);
    return status;
}

/* What is refused of any I/O command; fused ones have a way of their own. */
static inline bool is_other(const struct vn_req *req) {
    if (req->ctrl->fabrics)
        return vn_fabrics_check(req);
    return VN_SQE_FUSE(req->cmd.flags) || VN_SQE_PSDT(req->cmd.flags) == 3;
}

vn_status vn_io_run(struct vn_req *req) {
    const struct io_command *command = find(req->ctrl, req->cmd.opcode);
    return command ? command->run(req) : VN_SC_INVALID_OPCODE;
}

/* SUCCESS: the command is under way or has ended; else it is to be ended with the status. */
static vn_status execute(struct vn_req *req) {
    if (__builtin_expect(is_other(req), 0))
        return req->ctrl->fabrics ? vn_fabrics_check(req) : vn_io_fused(req);
    if (req->cmd.nsid == VN_NSID_BROADCAST && req->cmd.opcode == VN_IO_FLUSH)
        return flush(req);
    vn_status status = vn_io_enter(req);
    if (status)
        return status;
    if (__builtin_expect(!req->ns->ns->special, 1)) {
        if (req->cmd.opcode == VN_IO_READ)
            return plain(req, VN_OP_READ);
        if (req->cmd.opcode == VN_IO_WRITE)
            return plain(req, VN_OP_WRITE);
    } else if ((req->ns->ns->special & VN_NS_SPECIAL_META) && vn_meta_takes(req->cmd.opcode)) {
        return vn_meta_execute(req);
    } else if (req->ns->ns->special & VN_NS_SPECIAL_ZONES) {
        return vn_zone_execute(req);
    }
    return vn_io_run(req);
}

void vn_io_execute(struct vn_req *req) {
    vn_status status = execute(req);
    if (status)
        vn_ctrl_end(req, status);
}
