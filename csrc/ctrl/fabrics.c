/* Fabrics commands (Base 6) of a connected queue, and what any command on fabrics must be to be run at all.
 * Called by vn_ctrl_execute. Connect is the target's: without it there is no controller.
 */
#include "ctrl/fabrics.h"

#include "core/util.h"

#define SIZE_MASK 0x7u

void vn_fabrics_begin(struct vn_ctrl *ctrl, struct vn_fabrics *fabrics) {
    ctrl->fabrics = fabrics;
    fabrics->kato_ms = vn_kato_round(fabrics->kato_ms);
    vn_ctrl_reset_regs(ctrl);
    vn_feature_reset(ctrl);
}

uint32_t vn_kato_round(uint32_t ms) {
    uint32_t over = ms % VN_KAS_MS;
    if (!over)
        return ms;
    return ms > UINT32_MAX - VN_KAS_MS ? ms - over : ms - over + VN_KAS_MS; /* seven weeks are not rounded up */
}

vn_status vn_fabrics_check(const struct vn_req *req) {
    if (VN_SQE_FUSE(req->cmd.flags) || VN_SQE_PSDT(req->cmd.flags) != VN_PSDT_SGL_MPTR_CONTIG)
        return VN_SC_INVALID_FIELD; /* no fused commands; only SGLs (Base 4.1.2) */
    return req->ctrl->state == VN_CTRL_READY ? VN_SC_SUCCESS : VN_SC_COMMAND_SEQUENCE;
}

/* --- Property Get and Set (Base 6.4, 6.5): the registers that fabrics have, each in its own size --- */
static const struct {
    uint8_t offset, bytes;
    bool writable;
} properties[] = {
    {VN_REG_CAP, 8, false},  {VN_REG_VS, 4, false},   {VN_REG_CC, 4, true},
    {VN_REG_CSTS, 4, false}, {VN_REG_NSSR, 4, false}, {VN_REG_CRTO, 4, false},
};

/* True: the command names a property, as its size is. */
static bool find_property(struct vn_req *req, uint32_t *bytes, bool *writable) {
    uint32_t size = req->cmd.cdw10 & SIZE_MASK;
    for (size_t i = 0; i < VN_ARRAY_SIZE(properties); i++) {
        if (properties[i].offset != req->cmd.cdw11)
            continue;
        *bytes = properties[i].bytes;
        *writable = properties[i].writable;
        req->error_location = 40; /* CDW10 */
        return size == (*bytes == 8 ? VN_PROPERTY_8_BYTES : 0);
    }
    req->error_location = 44; /* CDW11 */
    return false;
}

static vn_status property_get(struct vn_req *req) {
    uint32_t bytes;
    bool writable;
    if (!find_property(req, &bytes, &writable))
        return VN_SC_INVALID_FIELD;
    uint64_t value = vn_ctrl_reg_read(req->ctrl, req->cmd.cdw11, bytes);
    req->result = (uint32_t)value;
    req->result_high = (uint32_t)(value >> 32);
    return VN_SC_SUCCESS;
}

/* Answered before it is done: what it begins, a reset say, waits for all commands in flight, and this must not be one. */
static void property_set(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint32_t offset = req->cmd.cdw11, value = req->cmd.cdw12, bytes;
    bool writable;
    if (!find_property(req, &bytes, &writable) || !writable) {
        vn_ctrl_end(req, VN_SC_INVALID_FIELD);
        return;
    }
    vn_ctrl_end(req, VN_SC_SUCCESS);
    vn_ctrl_reg_write(ctrl, offset, value, bytes);
}

/* Disconnect (Base 6.2) ends an I/O queue; the admin queue ends with its controller. True: with the door. */
static bool disconnect(struct vn_req *req, vn_status *status) {
    if (req->sq->sqid == 0)
        *status = VN_SC_QUEUE_TYPE;
    else if ((uint16_t)req->cmd.cdw10) /* RECFMT: there is format 0 */
        *status = VN_SC_CONNECT_FORMAT;
    else if (!req->ctrl->door->disconnect)
        *status = VN_SC_INVALID_OPCODE;
    else
        req->ctrl->door->disconnect(req);
    return !*status;
}

static bool authenticate(struct vn_req *req, vn_status *status) {
    if (!req->ctrl->door->auth) {
        *status = VN_SC_INVALID_OPCODE;
        return false;
    }
    req->ctrl->door->auth(req);
    return true;
}

void vn_fabrics_execute(struct vn_req *req) {
    vn_status status = VN_SC_SUCCESS;
    bool admin = req->sq->sqid == 0;
    switch (VN_SQE_FCTYPE(&req->cmd)) {
    case VN_FCTYPE_PROPERTY_GET:
        status = admin ? property_get(req) : VN_SC_QUEUE_TYPE;
        break;
    case VN_FCTYPE_PROPERTY_SET:
        if (admin) {
            property_set(req);
            return;
        }
        status = VN_SC_QUEUE_TYPE;
        break;
    case VN_FCTYPE_CONNECT: /* once a queue */
        status = VN_SC_COMMAND_SEQUENCE;
        break;
    case VN_FCTYPE_DISCONNECT:
        if (disconnect(req, &status))
            return;
        break;
    case VN_FCTYPE_AUTH_SEND:
    case VN_FCTYPE_AUTH_RECV:
        if (authenticate(req, &status))
            return;
        break;
    default:
        status = VN_SC_INVALID_OPCODE;
    }
    vn_ctrl_end(req, status);
}
