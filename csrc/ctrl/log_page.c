/* Get Log Page (Base 5.16): supported pages, errors, SMART, firmware, changed namespaces, effects.
 * Each page is built whole in the controller's scratch page, then the part that was asked for is sent.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/ctrl.h"

#define TEMPERATURE_K (273 + 37)
#define DATA_UNIT_BYTES (1000u * 512u)
#define NS_PER_MINUTE 60000000000ull
#define NS_PER_HOUR 3600000000000ull
#define LID_SUPPORTED 0x1u /* LSUPP */
#define WARNING_TEMPERATURE (1u << 1)
#define WARNING_READ_ONLY (1u << 3)

static const uint8_t supported_pages[] = {
    VN_LOG_SUPPORTED, VN_LOG_ERROR, VN_LOG_SMART, VN_LOG_FIRMWARE, VN_LOG_CHANGED_NS, VN_LOG_EFFECTS,
};

static void add_error(struct vn_ctrl *ctrl, struct vn_log_error entry) {
    entry.error_count = ++ctrl->error_count;
    entry.trtype = 1; /* PCIe */
    ctrl->error_log[(ctrl->error_count - 1) % VN_MAX_ERROR_LOG] = entry;
}

void vn_log_error(struct vn_req *req, vn_status status) {
    bool io = req->sq->sqid != 0;
    add_error(req->ctrl, (struct vn_log_error){
                             .sqid = req->sq->sqid,
                             .cid = req->cmd.cid,
                             .status_field = (uint16_t)((status | VN_STATUS_MORE) << 1),
                             .parm_error_location = req->error_location,
                             .lba = io ? req->cmd.cdw10 | (uint64_t)req->cmd.cdw11 << 32 : 0,
                             .nsid = req->cmd.nsid,
                         });
}

void vn_log_error_event(struct vn_ctrl *ctrl, uint16_t sqid, uint16_t location) {
    add_error(ctrl, (struct vn_log_error){.sqid = sqid, .cid = 0xffff, .parm_error_location = location});
}

static uint32_t build_supported(uint32_t *page) {
    for (size_t i = 0; i < VN_ARRAY_SIZE(supported_pages); i++)
        page[supported_pages[i]] = LID_SUPPORTED;
    return 256 * sizeof(*page);
}

static uint32_t build_error(const struct vn_ctrl *ctrl, struct vn_log_error *page) {
    uint64_t nr = vn_min_u64(ctrl->error_count, VN_MAX_ERROR_LOG);
    for (uint64_t i = 0; i < nr; i++) /* newest first */
        page[i] = ctrl->error_log[(ctrl->error_count - 1 - i) % VN_MAX_ERROR_LOG];
    return VN_MAX_ERROR_LOG * sizeof(*page);
}

static uint64_t data_units(uint64_t bytes) {
    return (bytes + DATA_UNIT_BYTES - 1) / DATA_UNIT_BYTES;
}

/* Critical Warning, as things are (Base 5.16.1.3). */
static uint8_t critical_warning(const struct vn_ctrl *ctrl) {
    uint8_t warning = 0;
    if (TEMPERATURE_K >= ctrl->features.temp_over || TEMPERATURE_K <= ctrl->features.temp_under)
        warning |= WARNING_TEMPERATURE;
    const struct vn_ns_table *table = &ctrl->namespaces;
    for (uint32_t nsid = vn_ns_table_next(table, 0); nsid; nsid = vn_ns_table_next(table, nsid)) {
        if (vn_backend_latched(table->by_nsid[nsid]->ns->backend))
            warning |= WARNING_READ_ONLY;
    }
    return warning;
}

void vn_log_check_warnings(struct vn_ctrl *ctrl) {
    uint8_t warning = critical_warning(ctrl);
    uint8_t fresh = warning & (uint8_t)~ctrl->told_warnings;
    ctrl->told_warnings = warning;
    fresh &= (uint8_t)ctrl->features.async_event; /* feature 0Bh, bits 7:0 */
    if (fresh)
        vn_aer_raise(ctrl, VN_AEN_SMART, fresh & WARNING_READ_ONLY ? VN_AEN_SMART_RELIABILITY : VN_AEN_SMART_TEMPERATURE);
}

static uint32_t build_smart(const struct vn_ctrl *ctrl, struct vn_log_smart *page) {
    const struct vn_ctrl_counters *counters = &ctrl->counters;
    uint64_t now = vn_reactor_now_ns(ctrl->reactor);
    page->critical_warning = critical_warning(ctrl);
    page->temperature = TEMPERATURE_K;
    page->avail_spare = 100;
    page->spare_thresh = 10;
    page->data_units_read[0] = data_units(counters->read_bytes);
    page->data_units_written[0] = data_units(counters->write_bytes);
    page->host_reads[0] = counters->reads;
    page->host_writes[0] = counters->writes;
    page->ctrl_busy_time[0] = counters->busy_ns / NS_PER_MINUTE;
    page->power_cycles[0] = ctrl->power_cycles;
    page->power_on_hours[0] = (now - ctrl->created_ns) / NS_PER_HOUR;
    page->unsafe_shutdowns[0] = ctrl->unsafe_shutdowns;
    page->media_errors[0] = counters->media_errors;
    page->num_err_log_entries[0] = ctrl->error_count;
    page->temp_sensor[0] = TEMPERATURE_K;
    return sizeof(*page);
}

static uint32_t build_firmware(struct vn_log_firmware *page) {
    page->afi = 1; /* slot 1 */
    memset(page->frs[0], ' ', sizeof(page->frs[0]));
    memcpy(page->frs[0], VN_VERSION, vn_min_u64(strlen(VN_VERSION), sizeof(page->frs[0])));
    return sizeof(*page);
}

static uint32_t build_changed_ns(struct vn_ctrl *ctrl, uint32_t *page) {
    size_t n = 0;
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        if (ctrl->changed_ns[nsid])
            page[n++] = nsid; /* there are at most 256, the page holds 1024 */
    }
    return VN_PAGE_SIZE;
}

static uint32_t build_effects(const struct vn_ctrl *ctrl, struct vn_log_effects *page) {
    static const uint8_t admin[] = {
        VN_ADMIN_DELETE_SQ, VN_ADMIN_CREATE_SQ,    VN_ADMIN_GET_LOG_PAGE, VN_ADMIN_DELETE_CQ,   VN_ADMIN_CREATE_CQ,
        VN_ADMIN_IDENTIFY,  VN_ADMIN_ABORT,        VN_ADMIN_SET_FEATURES, VN_ADMIN_GET_FEATURES,
        VN_ADMIN_ASYNC_EVENT, VN_ADMIN_KEEP_ALIVE,
    };
    for (size_t i = 0; i < VN_ARRAY_SIZE(admin); i++)
        page->acs[admin[i]] = VN_EFFECT_CSUPP;
    if (ctrl->dbbuf_supported)
        page->acs[VN_ADMIN_DOORBELL_CONFIG] = VN_EFFECT_CSUPP;
    page->iocs[VN_IO_READ] = page->iocs[VN_IO_FLUSH] = VN_EFFECT_CSUPP;
    page->iocs[VN_IO_WRITE] = page->iocs[VN_IO_WRITE_ZEROES] = page->iocs[VN_IO_DSM] = VN_EFFECT_CSUPP | VN_EFFECT_LBCC;
    return sizeof(*page);
}

/* Builds the page lid in ctrl->page; its size in bytes, 0 when there is no such page. */
static uint32_t build(struct vn_ctrl *ctrl, uint8_t lid) {
    void *page = ctrl->page;
    memset(page, 0, VN_PAGE_SIZE);
    switch (lid) {
    case VN_LOG_SUPPORTED:
        return build_supported(page);
    case VN_LOG_ERROR:
        return build_error(ctrl, page);
    case VN_LOG_SMART:
        return build_smart(ctrl, page);
    case VN_LOG_FIRMWARE:
        return build_firmware(page);
    case VN_LOG_CHANGED_NS:
        return build_changed_ns(ctrl, page);
    case VN_LOG_EFFECTS:
        return build_effects(ctrl, page);
    default:
        return 0;
    }
}

vn_status vn_log_page(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    const struct vn_sqe *cmd = &req->cmd;
    uint8_t lid = (uint8_t)cmd->cdw10;
    bool retain = cmd->cdw10 & (1u << 15); /* RAE */
    uint64_t nr_dwords = ((cmd->cdw10 >> 16) | (uint64_t)(cmd->cdw11 & 0xffff) << 16) + 1;
    uint64_t offset = cmd->cdw12 | (uint64_t)cmd->cdw13 << 32;
    uint32_t bytes = build(ctrl, lid);
    if (!bytes) {
        req->error_location = 40; /* CDW10 */
        return VN_SC_INVALID_LOG_PAGE;
    }
    /* Every page here is of the controller; the SMART log takes NSID 0 or FFFFFFFFh (LPA bit 0 is clear). */
    if (lid == VN_LOG_SMART && cmd->nsid != 0 && cmd->nsid != VN_NSID_BROADCAST)
        return VN_SC_INVALID_FIELD;
    if ((offset & 3) || offset > bytes || nr_dwords * 4 > vn_ctrl_max_transfer(ctrl))
        return VN_SC_INVALID_FIELD;
    vn_status status = vn_ctrl_send(req, ctrl->page + offset, bytes - (uint32_t)offset, (uint32_t)(nr_dwords * 4));
    if (status)
        return status;
    if (!retain) {
        if (lid == VN_LOG_CHANGED_NS)
            memset(ctrl->changed_ns, 0, sizeof(ctrl->changed_ns));
        vn_aer_log_read(ctrl, lid);
    }
    return VN_SC_SUCCESS;
}
