/* UUIDs of what is the vendor's own, see vendor.h. Called by identify.c and admin_cmd.c. */
#include "ctrl/vendor.h"

#include <string.h>

#include "ctrl/persona.h"

#define UUID_INDEX(cdw14) ((cdw14) & 0x7fu)
enum index { OF_NOBODY, OURS, OF_PERSONA };

static const uint8_t ours[16] = VN_VENDOR_UUID;

void vn_vendor_list(const struct vn_ctrl *ctrl, struct vn_uuid_entry list[VN_UUID_LIST_ENTRIES]) {
    const uint8_t *persona = vn_persona_uuid(ctrl);
    memcpy(list[OURS].uuid, ours, sizeof(ours));
    if (persona)
        memcpy(list[OF_PERSONA].uuid, persona, sizeof(list[OF_PERSONA].uuid));
}

bool vn_vendor_selects(uint8_t opcode) {
    return opcode == VN_ADMIN_IDENTIFY || opcode == VN_ADMIN_GET_LOG_PAGE || opcode == VN_ADMIN_GET_FEATURES ||
           opcode == VN_ADMIN_SET_FEATURES;
}

/* Log pages are all there is: no structure and no feature has anything of the vendor's own. */
static bool is_of(const struct vn_ctrl *ctrl, uint8_t lid, uint32_t index) {
    if (index == OURS)
        return lid == VN_LOG_TELEMETRY_HOST || lid == VN_LOG_TELEMETRY_CTRL;
    return index == OF_PERSONA && vn_persona_uuid(ctrl) && vn_persona_find_log(ctrl, lid);
}

vn_status vn_vendor_check(struct vn_req *req) {
    uint32_t index = UUID_INDEX(req->cmd.cdw14);
    if (!req->ctrl->drive || index == OF_NOBODY || !vn_vendor_selects(req->cmd.opcode))
        return VN_SC_SUCCESS;
    if (req->cmd.opcode == VN_ADMIN_GET_LOG_PAGE && is_of(req->ctrl, (uint8_t)req->cmd.cdw10, index))
        return VN_SC_SUCCESS;
    req->error_location = 56; /* CDW14 */
    return VN_SC_INVALID_FIELD;
}
