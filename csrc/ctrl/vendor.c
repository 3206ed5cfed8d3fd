/* UUIDs of what is the vendor's own, see vendor.h. Called by identify.c and admin_cmd.c. */
#include "ctrl/vendor.h"

#include <string.h>

#define UUID_INDEX(cdw14) ((cdw14) & 0x7fu)
enum index { OF_NOBODY, OURS };

static const uint8_t ours[16] = VN_VENDOR_UUID;

void vn_vendor_list(struct vn_uuid_entry list[VN_UUID_LIST_ENTRIES]) {
    memcpy(list[OURS].uuid, ours, sizeof(ours));
}

bool vn_vendor_selects(uint8_t opcode) {
    return opcode == VN_ADMIN_IDENTIFY || opcode == VN_ADMIN_GET_LOG_PAGE || opcode == VN_ADMIN_GET_FEATURES ||
           opcode == VN_ADMIN_SET_FEATURES;
}

/* Log pages are all there is: no structure and no feature has anything of the vendor's own. */
static bool is_of(uint8_t lid, uint32_t index) {
    return index == OURS && (lid == VN_LOG_TELEMETRY_HOST || lid == VN_LOG_TELEMETRY_CTRL);
}

vn_status vn_vendor_check(struct vn_req *req) {
    uint32_t index = UUID_INDEX(req->cmd.cdw14);
    if (!req->ctrl->drive || index == OF_NOBODY || !vn_vendor_selects(req->cmd.opcode))
        return VN_SC_SUCCESS;
    if (req->cmd.opcode == VN_ADMIN_GET_LOG_PAGE && is_of((uint8_t)req->cmd.cdw10, index))
        return VN_SC_SUCCESS;
    req->error_location = 56; /* CDW14 */
    return VN_SC_INVALID_FIELD;
}
