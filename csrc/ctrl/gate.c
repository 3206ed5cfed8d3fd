/* The gate of namespaces that are not plain, see gate.h. Called by io_cmd.c for each command of theirs. */
#include "ctrl/gate.h"

#include "core/status.h"
#include "ns/ns_state.h"

static bool changes_data(uint8_t opcode) {
    switch (opcode) {
    case VN_IO_WRITE:
    case VN_IO_WRITE_UNCORRECTABLE:
    case VN_IO_WRITE_ZEROES:
    case VN_IO_DSM:
    case VN_IO_COPY:
        return true;
    default:
        return false;
    }
}

vn_status vn_gate_check(struct vn_req *req) {
    uint32_t special = req->ns->ns->special;
    if (special & VN_NS_SPECIAL_REFUSES)
        return req->ns->ns->state->refusal;
    if (special & VN_NS_SPECIAL_BUSY)
        return VN_SC_FORMAT_IN_PROGRESS;
    if ((special & VN_NS_SPECIAL_PROTECTED) && changes_data(req->cmd.opcode))
        return VN_SC_NS_WRITE_PROTECTED;
    return VN_SC_SUCCESS;
}
