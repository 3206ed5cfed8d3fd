/* Admin commands: dispatch, and those that are a line or two. Called by vn_ctrl_execute.
 * The larger ones are in identify.c, feature.c, log_page.c, queue.c and aer.c.
 */
#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/fabrics.h"
#include "ctrl/gate.h"
#include "ctrl/reserve_cmd.h"
#include "ctrl/format_cmd.h"
#include "ctrl/power.h"
#include "ctrl/vendor.h"

#define NOT_ABORTED 0x1u /* CDW0 bit 0 of Abort */

static uint32_t nr_waiting_aborts(const struct vn_ctrl *ctrl) {
    uint32_t nr = 0;
    for (const struct vn_req *req = ctrl->sqs[0].inflight; req; req = req->next)
        nr += req->cmd.opcode == VN_ADMIN_ABORT;
    return nr - 1; /* without the one that asks */
}

/* Abort (Base 5.1): a parked event request ends at once; an I/O is asked to stop, and its end, which comes first,
 * tells whether it did. Either way it completes exactly once. */
static vn_status abort_command(struct vn_req *req, bool *parked) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint16_t sqid = (uint16_t)req->cmd.cdw10, cid = (uint16_t)(req->cmd.cdw10 >> 16);
    req->result = NOT_ABORTED;
    if (sqid >= VN_NR_QUEUES || !ctrl->sqs[sqid].exists)
        return VN_SC_INVALID_FIELD;
    if (nr_waiting_aborts(ctrl) >= VN_MAX_ABORTS)
        return VN_SC_ABORT_LIMIT;
    if (sqid == 0) { /* other admin commands end by themselves */
        req->result = vn_aer_abort(ctrl, cid) ? 0 : NOT_ABORTED;
        return VN_SC_SUCCESS;
    }
    for (struct vn_req *io = ctrl->sqs[sqid].inflight; io; io = io->next) {
        if (io->cmd.cid != cid || io->abort_req)
            continue;
        io->abort_req = req;
        *parked = true;
        vn_ctrl_cancel(io);
        break;
    }
    return VN_SC_SUCCESS;
}

static vn_status doorbell_buffer(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint64_t shadow = req->cmd.prp1, event_idx = req->cmd.prp2;
    if ((shadow | event_idx) & (VN_PAGE_SIZE - 1))
        return VN_SC_INVALID_FIELD;
    return ctrl->door->doorbell_buffer(ctrl, shadow, event_idx);
}

/* --- Which commands there are: dispatch, OACS and the effects log say the same --- */
static const struct command {
    uint8_t opcode;
    uint8_t kinds;    /* of controllers that have it */
    uint16_t oacs;    /* the bit of Identify Controller that tells of it; 0: none does */
    uint32_t effects; /* beyond CSUPP */
} commands[] = {
    {VN_ADMIN_DELETE_SQ, VN_KIND_PCI, 0, 0},
    {VN_ADMIN_CREATE_SQ, VN_KIND_PCI, 0, 0},
    {VN_ADMIN_DELETE_CQ, VN_KIND_PCI, 0, 0},
    {VN_ADMIN_CREATE_CQ, VN_KIND_PCI, 0, 0},
    {VN_ADMIN_GET_LOG_PAGE, VN_KIND_ANY, 0, 0},
    {VN_ADMIN_IDENTIFY, VN_KIND_ANY, 0, 0},
    {VN_ADMIN_ABORT, VN_KIND_ANY, 0, 0},
    {VN_ADMIN_SET_FEATURES, VN_KIND_ANY, 0, 0},
    {VN_ADMIN_GET_FEATURES, VN_KIND_ANY, 0, 0},
    {VN_ADMIN_ASYNC_EVENT, VN_KIND_ANY, 0, 0},
    {VN_ADMIN_NS_MANAGEMENT, VN_KIND_PCI, VN_OACS_NS_MANAGEMENT, VN_EFFECT_NIC},
    {VN_ADMIN_FW_COMMIT, VN_KIND_PCI, VN_OACS_FIRMWARE, 0},
    {VN_ADMIN_FW_DOWNLOAD, VN_KIND_PCI, VN_OACS_FIRMWARE, 0},
    {VN_ADMIN_SELF_TEST, VN_KIND_PCI, VN_OACS_SELF_TEST, 0},
    {VN_ADMIN_NS_ATTACHMENT, VN_KIND_PCI, VN_OACS_NS_MANAGEMENT, VN_EFFECT_NIC},
    {VN_ADMIN_KEEP_ALIVE, VN_KIND_FABRICS, 0, 0},
    {VN_ADMIN_DIRECTIVE_SEND, VN_KIND_PCI, VN_OACS_DIRECTIVES, 0},
    {VN_ADMIN_DIRECTIVE_RECEIVE, VN_KIND_PCI, VN_OACS_DIRECTIVES, 0},
    {VN_ADMIN_CROSS_RESET, VN_KIND_IO, 0, 0},
    {VN_ADMIN_DOORBELL_CONFIG, VN_KIND_PCI, VN_OACS_DBBUF, 0},
    {VN_ADMIN_GET_LBA_STATUS, VN_KIND_PCI, VN_OACS_LBA_STATUS, 0},
    {VN_ADMIN_FORMAT_NVM, VN_KIND_PCI, VN_OACS_FORMAT, VN_EFFECT_LBCC | VN_EFFECT_NCC | VN_EFFECT_CSE_NS},
    {VN_ADMIN_SECURITY_SEND, VN_KIND_PCI, VN_OACS_SECURITY, 0},
    {VN_ADMIN_SECURITY_RECEIVE, VN_KIND_PCI, VN_OACS_SECURITY, 0},
    {VN_ADMIN_SANITIZE, VN_KIND_PCI, 0, VN_EFFECT_LBCC | VN_EFFECT_CSE_ALL},
};

/* NULL: this controller has no such command. */
static const struct command *find(const struct vn_ctrl *ctrl, uint8_t opcode) {
    if (opcode == VN_ADMIN_DOORBELL_CONFIG && !ctrl->dbbuf_supported)
        return NULL;
    if (opcode == VN_ADMIN_CROSS_RESET && !ctrl->door->cross_reset)
        return NULL;
    if ((opcode == VN_ADMIN_NS_MANAGEMENT || opcode == VN_ADMIN_NS_ATTACHMENT) && !vn_ctrl_is_managed(ctrl))
        return NULL;
    for (size_t i = 0; i < VN_ARRAY_SIZE(commands); i++) {
        if (commands[i].opcode == opcode)
            return (commands[i].kinds & vn_ctrl_kind(ctrl)) && !(commands[i].oacs & ctrl->oacs_off) ? &commands[i] : NULL;
    }
    return NULL;
}

bool vn_admin_offers(const struct vn_ctrl *ctrl, uint8_t opcode) {
    return find(ctrl, opcode);
}

uint32_t vn_admin_effects(const struct vn_ctrl *ctrl, uint8_t opcode) {
    const struct command *command = find(ctrl, opcode);
    if (!command)
        return 0;
    return VN_EFFECT_CSUPP | command->effects | (ctrl->drive && vn_vendor_selects(opcode) ? VN_EFFECT_UUID : 0);
}

uint16_t vn_admin_oacs(const struct vn_ctrl *ctrl) {
    uint16_t oacs = 0;
    for (size_t i = 0; i < VN_ARRAY_SIZE(commands); i++)
        oacs |= find(ctrl, commands[i].opcode) ? commands[i].oacs : 0;
    return oacs;
}

/* What is refused of any admin command. */
static vn_status check(struct vn_req *req) {
    if (req->ctrl->fabrics) {
        vn_status status = vn_fabrics_check(req);
        if (status)
            return status;
    } else if (VN_SQE_FUSE(req->cmd.flags) || VN_SQE_PSDT(req->cmd.flags) != VN_PSDT_PRP) {
        return VN_SC_INVALID_FIELD; /* admin commands use PRPs on PCIe (Base 4.1.1) */
    }
    if (!vn_admin_offers(req->ctrl, req->cmd.opcode))
        return VN_SC_INVALID_OPCODE;
    vn_status status = vn_drive_allows(req);
    return status ? status : vn_vendor_check(req);
}

/* Those that only a drive has. */
static vn_status execute_of_drive(struct vn_req *req, bool *parked) {
    vn_status status = VN_SC_SUCCESS;
    switch (req->cmd.opcode) {
    case VN_ADMIN_FW_COMMIT:
        *parked = vn_firmware_commit(req, &status);
        return status;
    case VN_ADMIN_FW_DOWNLOAD:
        return vn_firmware_download(req);
    case VN_ADMIN_SELF_TEST:
        *parked = vn_self_test_command(req, &status);
        return status;
    case VN_ADMIN_DIRECTIVE_SEND:
        return vn_directive_send(req);
    case VN_ADMIN_DIRECTIVE_RECEIVE:
        return vn_directive_receive(req);
    case VN_ADMIN_SECURITY_SEND:
        return vn_security_send(req);
    case VN_ADMIN_SECURITY_RECEIVE:
        return vn_security_receive(req);
    case VN_ADMIN_SANITIZE:
        *parked = vn_sanitize_command(req, &status);
        return status;
    default:
        return VN_SC_INVALID_OPCODE;
    }
}

static vn_status execute(struct vn_req *req, bool *parked) {
    struct vn_ctrl *ctrl = req->ctrl;
    vn_status status = check(req);
    status = status ? status : vn_gate_check_admin(req);
    if (status)
        return status;
    switch (req->cmd.opcode) {
    case VN_ADMIN_DELETE_SQ:
        *parked = vn_queue_delete_sq(req, &status);
        return status;
    case VN_ADMIN_CREATE_SQ:
        return vn_queue_create_sq(ctrl, &req->cmd);
    case VN_ADMIN_DELETE_CQ:
        return vn_queue_delete_cq(ctrl, &req->cmd);
    case VN_ADMIN_CREATE_CQ:
        return vn_queue_create_cq(ctrl, &req->cmd);
    case VN_ADMIN_GET_LOG_PAGE:
        return vn_log_page(req);
    case VN_ADMIN_IDENTIFY:
        return vn_identify(req);
    case VN_ADMIN_ABORT:
        return abort_command(req, parked);
    case VN_ADMIN_SET_FEATURES:
        *parked = vn_feature_set(req, &status);
        return status;
    case VN_ADMIN_GET_FEATURES:
        return vn_feature_get(req);
    case VN_ADMIN_ASYNC_EVENT:
        *parked = vn_aer_park(req, &status);
        return status;
    case VN_ADMIN_NS_MANAGEMENT:
    case VN_ADMIN_NS_ATTACHMENT:
        *parked = vn_decision_park(req, &status);
        return status;
    case VN_ADMIN_KEEP_ALIVE: /* that it came is all there is to it: the door counts every command */
        return VN_SC_SUCCESS;
    case VN_ADMIN_CROSS_RESET:
        *parked = true;
        ctrl->door->cross_reset(req);
        return VN_SC_SUCCESS;
    case VN_ADMIN_DOORBELL_CONFIG:
        return doorbell_buffer(req);
    case VN_ADMIN_GET_LBA_STATUS:
        return vn_get_lba_status(req);
    case VN_ADMIN_FORMAT_NVM:
        *parked = vn_format_nvm(req, &status);
        return status;
    default:
        return execute_of_drive(req, parked);
    }
}

void vn_admin_execute(struct vn_req *req) {
    req->start_ns = vn_reactor_now_ns(req->ctrl->reactor);
    if (req->ctrl->drive)
        vn_power_look(req->ctrl);
    bool parked = false;
    vn_status status = execute(req, &parked);
    if (!parked)
        vn_ctrl_end(req, status);
}
