/* Directives (Base 5.6, 5.7, 8.7): the Identify directive, which says that there is no other; and the security protocols (5.25,
 * 5.26): the one that says that there is no other. Called by admin_cmd.c.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"

#define OPERATION(cdw11) ((uint8_t)(cdw11))
#define TYPE(cdw11) ((uint8_t)((cdw11) >> 8))
#define TYPE_IDENTIFY 0x00
#define RETURN_PARAMETERS 0x01
#define ENABLE 0x01
#define ENABLE_ON(cdw12) ((cdw12) & 1)
#define ENABLE_TYPE(cdw12) ((uint8_t)((cdw12) >> 8))
#define BYTES_OF(numd) (((uint64_t)(numd) + 1) * 4)

/* Directives are of a namespace. */
static vn_status check_ns(const struct vn_req *req) {
    uint32_t nsid = req->cmd.nsid;
    return nsid == VN_NSID_BROADCAST || vn_ns_table_get(&req->ctrl->namespaces, nsid) ? VN_SC_SUCCESS : VN_SC_INVALID_NS;
}

vn_status vn_directive_receive(struct vn_req *req) {
    struct vn_directive_parameters *parameters = (struct vn_directive_parameters *)req->ctrl->page;
    uint64_t bytes = BYTES_OF(req->cmd.cdw10);
    vn_status status = check_ns(req);
    if (status)
        return status;
    if (TYPE(req->cmd.cdw11) != TYPE_IDENTIFY || OPERATION(req->cmd.cdw11) != RETURN_PARAMETERS)
        return VN_SC_INVALID_FIELD;
    memset(parameters, 0, sizeof(*parameters));
    parameters->supported[0] = parameters->enabled[0] = 1u << TYPE_IDENTIFY;
    parameters->persistent[0] = 1u << TYPE_IDENTIFY;
    bytes = vn_min_u64(bytes, sizeof(*parameters));
    return vn_ctrl_send(req, parameters, (uint32_t)bytes, (uint32_t)bytes);
}

/* Identify is always enabled and cannot be told otherwise; there is nothing else to enable. */
vn_status vn_directive_send(struct vn_req *req) {
    vn_status status = check_ns(req);
    if (status)
        return status;
    return VN_SC_INVALID_FIELD;
}

/* --- Security --- */
#define PROTOCOL(cdw10) ((uint8_t)((cdw10) >> 24))
#define SPECIFIC(cdw10) ((uint16_t)((cdw10) >> 8))
#define PROTOCOL_INFORMATION 0x00
#define INFORMATION_PROTOCOLS 0x0000
#define INFORMATION_CERTIFICATE 0x0001

/* Security protocol 00h of SPC: which protocols there are, and an empty certificate. Lengths are big-endian. */
vn_status vn_security_receive(struct vn_req *req) {
    static const uint8_t protocols[] = {0, 0, 0, 0, 0, 0, 0, 1, PROTOCOL_INFORMATION};
    static const uint8_t certificate[] = {0, 0, 0, 0};
    uint32_t bytes = req->cmd.cdw11; /* AL */
    uint16_t specific = SPECIFIC(req->cmd.cdw10);
    if (PROTOCOL(req->cmd.cdw10) != PROTOCOL_INFORMATION || specific > INFORMATION_CERTIFICATE ||
        bytes > vn_ctrl_max_transfer(req->ctrl))
        return VN_SC_INVALID_FIELD;
    if (!bytes)
        return VN_SC_SUCCESS;
    const uint8_t *data = specific == INFORMATION_PROTOCOLS ? protocols : certificate;
    uint64_t length = specific == INFORMATION_PROTOCOLS ? sizeof(protocols) : sizeof(certificate);
    return vn_ctrl_send(req, data, (uint32_t)vn_min_u64(length, bytes), bytes);
}

vn_status vn_security_send(struct vn_req *req) {
    (void)req;
    return VN_SC_INVALID_FIELD; /* there is no protocol that takes anything */
}
