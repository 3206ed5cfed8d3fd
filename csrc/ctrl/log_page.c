/* Get Log Page (Base 5.16): which pages there are, errors, changed namespaces, effects; the others are in log_*.c and with what
 * they tell of, those of fabrics in ana.c and discovery.c. A page is put together twice: to learn its size, then to copy what
 * was asked for.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/feature.h"
#include "ctrl/persona.h"
#include "ctrl/reserve_cmd.h"
#include "ctrl/zone_cmd.h"

#define LID_SUPPORTED 0x1u /* LSUPP */

static void add_error(struct vn_ctrl *ctrl, struct vn_log_error entry) {
    vn_status status = VN_STATUS_CODE(entry.status_field >> 1);
    bool transport = status == VN_SC_TRANSIENT_TRANSPORT || status == VN_SC_DATA_TRANSFER_ERROR;
    entry.error_count = ++ctrl->error_count;
    entry.trtype = ctrl->fabrics && transport ? VN_TRTYPE_TCP : 0; /* 0: not of the transport; PCI has no number */
    ctrl->error_log[(ctrl->error_count - 1) % VN_MAX_ERROR_LOG] = entry;
    if (ctrl->drive)
        vn_drive_touch(ctrl->drive);
}

static struct vn_log_error *kept_errors(const struct vn_ctrl *ctrl) {
    return ctrl->drive->kept.errors[vn_drive_place(ctrl->drive, ctrl->kept)].entries;
}

void vn_log_keep_errors(struct vn_ctrl *ctrl) {
    uint64_t count = ctrl->error_count, fresh = vn_min_u64(count - ctrl->kept->error_count, VN_KEPT_ERRORS);
    for (uint64_t i = count - fresh; i < count; i++)
        kept_errors(ctrl)[i % VN_KEPT_ERRORS] = ctrl->error_log[i % VN_MAX_ERROR_LOG];
    ctrl->kept->error_count = count;
}

/* Older entries than those that are kept stay zeros, which is none (Base 5.16.1.2). */
void vn_log_recall_errors(struct vn_ctrl *ctrl) {
    uint64_t count = ctrl->error_count = ctrl->kept->error_count;
    for (uint64_t i = count - vn_min_u64(count, VN_KEPT_ERRORS); i < count; i++)
        ctrl->error_log[i % VN_MAX_ERROR_LOG] = kept_errors(ctrl)[i % VN_KEPT_ERRORS];
}

void vn_log_error(struct vn_req *req, vn_status status) {
    bool io = req->sq->sqid != 0;
    add_error(req->ctrl, (struct vn_log_error){
                             .sqid = req->sq->sqid,
                             .cid = req->cmd.cid,
                             .status_field = (uint16_t)((status | VN_STATUS_MORE) << 1),
                             .parm_error_location = req->error_location,
                             .lba = req->io_flags & VN_REQ_ERROR_LBA ? req->error_lba
                                    : io ? req->cmd.cdw10 | (uint64_t)req->cmd.cdw11 << 32
                                         : 0,
                             .nsid = req->cmd.nsid,
                             .cs = req->ctrl->error_specific,
                         });
    req->ctrl->error_specific = 0;
}

void vn_log_error_event(struct vn_ctrl *ctrl, uint16_t sqid, uint16_t location) {
    add_error(ctrl, (struct vn_log_error){.sqid = sqid, .cid = 0xffff, .parm_error_location = location});
}

static void put_supported(struct vn_log *log); /* names all of them */

static void put_error(struct vn_log *log) {
    const struct vn_ctrl *ctrl = log->req->ctrl;
    static const struct vn_log_error none;
    for (uint64_t i = 0; i < VN_MAX_ERROR_LOG; i++) { /* newest first */
        uint64_t at = (ctrl->error_count - 1 - i) % VN_MAX_ERROR_LOG;
        vn_log_put(log, i < ctrl->error_count ? &ctrl->error_log[at] : &none, sizeof(none));
    }
}

static uint32_t *blank_page(const struct vn_log *log) {
    return memset(log->req->ctrl->page, 0, VN_PAGE_SIZE);
}

static void put_changed_ns(struct vn_log *log) {
    uint32_t *page = blank_page(log);
    size_t n = 0;
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        if (log->req->ctrl->changed_ns[nsid])
            page[n++] = nsid; /* there are at most 256, the page holds 1024 */
    }
    vn_log_put(log, page, VN_PAGE_SIZE);
}

/* Command Scope, bits 31:20 (Base 5.16.1.6). */
static uint32_t scope_of(uint8_t opcode) {
    switch (opcode) {
    case VN_ADMIN_SELF_TEST:
    case VN_ADMIN_DIRECTIVE_SEND:
    case VN_ADMIN_DIRECTIVE_RECEIVE:
    case VN_ADMIN_FORMAT_NVM:
    case VN_ADMIN_GET_LBA_STATUS:
        return VN_FID_SCOPE_NS;
    case VN_ADMIN_NS_MANAGEMENT:
    case VN_ADMIN_NS_ATTACHMENT:
    case VN_ADMIN_FW_COMMIT:
    case VN_ADMIN_FW_DOWNLOAD:
    case VN_ADMIN_SANITIZE:
    case VN_ADMIN_SECURITY_SEND:
    case VN_ADMIN_SECURITY_RECEIVE:
        return VN_FID_SCOPE_SUBSYSTEM;
    default:
        return VN_FID_SCOPE_CTRL;
    }
}

/* Where LPA bit 5 says so. */
static void put_scopes(struct vn_log_effects *page) {
    for (unsigned opcode = 0; opcode < VN_ARRAY_SIZE(page->acs); opcode++) {
        page->acs[opcode] |= page->acs[opcode] ? scope_of((uint8_t)opcode) : 0;
        page->iocs[opcode] |= page->iocs[opcode] ? VN_FID_SCOPE_NS : 0;
    }
}

static void put_effects(struct vn_log *log) {
    struct vn_log_effects *page = (struct vn_log_effects *)blank_page(log);
    bool zoned = log->req->cmd.cdw14 >> 24 == VN_CSI_ZNS && vn_ctrl_has_zones(log->req->ctrl);
    for (unsigned opcode = 0; opcode < VN_ARRAY_SIZE(page->acs); opcode++)
        page->acs[opcode] = vn_admin_effects(log->req->ctrl, (uint8_t)opcode);
    for (unsigned opcode = 0; opcode < VN_ARRAY_SIZE(page->iocs); opcode++)
        page->iocs[opcode] = vn_io_effects(log->req->ctrl, (uint8_t)opcode) | (zoned ? vn_zone_effects((uint8_t)opcode) : 0);
    if (log->req->ctrl->drive)
        put_scopes(page);
    vn_log_put(log, page, sizeof(*page));
}

/* NVMe-MI Commands Supported and Effects: there are none. */
static void put_mi_effects(struct vn_log *log) {
    vn_log_put(log, blank_page(log), VN_PAGE_SIZE);
}

/* Feature Identifiers Supported and Effects (Base 5.16.1.18). */
static void put_features(struct vn_log *log) {
    const struct vn_ctrl *ctrl = log->req->ctrl;
    uint32_t *page = blank_page(log);
    for (unsigned fid = 0; fid < 256; fid++) {
        const struct vn_feature_row *row = vn_feature_find(ctrl, (uint8_t)fid);
        page[fid] = row ? VN_FID_SUPPORTED | row->scope : 0;
    }
    vn_log_put(log, page, 256 * sizeof(*page));
}

static const struct page {
    uint8_t lid;
    unsigned kinds; /* of controllers that have it */
    void (*put)(struct vn_log *log);
    vn_status (*begin)(struct vn_req *req); /* what is asked of it before it is read; NULL: nothing */
} pages[] = {
    {VN_LOG_SUPPORTED, VN_KIND_ANY, put_supported, NULL},
    {VN_LOG_ERROR, VN_KIND_ANY, put_error, NULL},
    {VN_LOG_SMART, VN_KIND_PCI | VN_KIND_IO, vn_smart_log, vn_smart_begin},
    {VN_LOG_FIRMWARE, VN_KIND_PCI | VN_KIND_IO, vn_firmware_log, NULL},
    {VN_LOG_CHANGED_NS, VN_KIND_PCI | VN_KIND_IO, put_changed_ns, NULL},
    {VN_LOG_EFFECTS, VN_KIND_ANY, put_effects, NULL},
    {VN_LOG_SELF_TEST, VN_KIND_PCI, vn_self_test_log, NULL},
    {VN_LOG_TELEMETRY_HOST, VN_KIND_PCI, vn_telemetry_host_log, vn_telemetry_begin},
    {VN_LOG_TELEMETRY_CTRL, VN_KIND_PCI, vn_telemetry_ctrl_log, vn_telemetry_begin},
    {VN_LOG_ENDURANCE, VN_KIND_PCI, vn_endurance_log, vn_endurance_begin},
    {VN_LOG_CHANGED_ZONES, VN_KIND_PCI, vn_zone_put_changed, vn_zone_begin_changed},
    {VN_LOG_ANA, VN_KIND_PCI | VN_KIND_IO, vn_ana_log, NULL},
    {VN_LOG_EVENTS, VN_KIND_PCI, vn_events_log, vn_events_begin},
    {VN_LOG_LBA_STATUS, VN_KIND_PCI, vn_lba_status_log, NULL},
    {VN_LOG_ENDURANCE_EVENTS, VN_KIND_PCI, vn_endurance_events_log, NULL},
    {VN_LOG_FEATURES, VN_KIND_PCI | VN_KIND_IO, put_features, NULL},
    {VN_LOG_MI_EFFECTS, VN_KIND_PCI, put_mi_effects, NULL},
    {VN_LOG_DISCOVERY, VN_KIND_DISCOVERY, vn_discovery_log, NULL},
    {VN_LOG_RESERVATION, VN_KIND_PCI, vn_resv_log, NULL},
    {VN_LOG_SANITIZE, VN_KIND_PCI, vn_sanitize_log, NULL},
};

static const struct page of_persona = {0, VN_KIND_PCI, vn_persona_log, NULL};

static bool has_page(const struct vn_ctrl *ctrl, const struct page *page) {
    if (page->lid == VN_LOG_CHANGED_ZONES && !vn_ctrl_has_zones(ctrl))
        return false;
    return (page->kinds & vn_ctrl_kind(ctrl)) && (page->lid != VN_LOG_ANA || vn_ctrl_has_ana(ctrl));
}

static void put_supported(struct vn_log *log) {
    uint32_t *list = blank_page(log);
    for (size_t i = 0; i < VN_ARRAY_SIZE(pages); i++)
        list[pages[i].lid] = has_page(log->req->ctrl, &pages[i]) ? LID_SUPPORTED : 0;
    for (unsigned lid = 0; lid < 256; lid++)
        list[lid] |= vn_persona_find_log(log->req->ctrl, (uint8_t)lid) ? LID_SUPPORTED : 0;
    vn_log_put(log, list, 256 * sizeof(*list));
}

/* NULL: there is no such page. */
static const struct page *find_page(const struct vn_ctrl *ctrl, uint8_t lid) {
    for (size_t i = 0; i < VN_ARRAY_SIZE(pages); i++) {
        if (pages[i].lid == lid && has_page(ctrl, &pages[i]))
            return &pages[i];
    }
    return vn_persona_find_log(ctrl, lid) ? &of_persona : NULL;
}

/* On into the host's buffer, as far as it goes. data NULL: zeros. */
static void copy(struct vn_log *log, const uint8_t *data, uint64_t bytes) {
    while (bytes && log->iov < log->req->nr_iov) {
        const struct iovec *iov = &log->req->iov[log->iov];
        uint8_t *to = (uint8_t *)iov->iov_base + log->iov_done;
        size_t n = vn_min_u64(bytes, iov->iov_len - log->iov_done);
        if (data) {
            memcpy(to, data, n);
            data += n;
        } else {
            memset(to, 0, n);
        }
        bytes -= n;
        log->iov_done += n;
        if (log->iov_done == iov->iov_len) {
            log->iov++;
            log->iov_done = 0;
        }
    }
}

bool vn_log_wants(const struct vn_log *log, uint64_t bytes) {
    return log->iov < log->req->nr_iov && log->at + bytes > log->offset;
}

void vn_log_skip(struct vn_log *log, uint64_t bytes) {
    log->at += bytes;
}

void vn_log_put(struct vn_log *log, const void *data, uint64_t bytes) {
    if (vn_log_wants(log, bytes)) {
        uint64_t before = log->offset > log->at ? log->offset - log->at : 0;
        copy(log, (const uint8_t *)data + before, bytes - before);
    }
    log->at += bytes;
}

/* Sends dwords of the page from an offset on; beyond its end come zeros. */
static vn_status send_part(struct vn_req *req, const struct page *page, uint64_t offset, uint64_t nr_dwords) {
    struct vn_log log = {.req = req, .offset = offset};
    page->put(&log); /* no buffer yet: it measures */
    if ((offset & 3) || offset > log.at || nr_dwords * 4 > vn_ctrl_max_transfer(req->ctrl))
        return VN_SC_INVALID_FIELD;
    vn_status status = req->ctrl->door->map(req, (uint32_t)(nr_dwords * 4));
    if (status)
        return status;
    log = (struct vn_log){.req = req, .offset = offset};
    page->put(&log);
    copy(&log, NULL, UINT64_MAX);
    return VN_SC_SUCCESS;
}

vn_status vn_log_page(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    const struct vn_sqe *cmd = &req->cmd;
    uint8_t lid = (uint8_t)cmd->cdw10;
    bool retain = cmd->cdw10 & (1u << 15); /* RAE */
    uint64_t nr_dwords = ((cmd->cdw10 >> 16) | (uint64_t)(cmd->cdw11 & 0xffff) << 16) + 1;
    uint64_t offset = cmd->cdw12 | (uint64_t)cmd->cdw13 << 32;
    const struct page *page = find_page(ctrl, lid);
    if (!page) {
        req->error_location = 40; /* CDW10 */
        return VN_SC_INVALID_LOG_PAGE;
    }
    vn_status status = page->begin ? page->begin(req) : VN_SC_SUCCESS;
    if (!status)
        status = send_part(req, page, offset, nr_dwords);
    if (status)
        return status;
    if (!retain) {
        if (lid == VN_LOG_CHANGED_NS)
            memset(ctrl->changed_ns, 0, sizeof(ctrl->changed_ns));
        if (lid == VN_LOG_TELEMETRY_CTRL)
            vn_telemetry_was_read(ctrl);
        if (lid == VN_LOG_ENDURANCE)
            vn_endurance_was_read(ctrl->drive);
        if (lid == VN_LOG_CHANGED_ZONES)
            vn_zone_forget_changed(req);
        vn_aer_log_read(ctrl, lid);
        if (lid == VN_LOG_RESERVATION)
            vn_resv_log_read(ctrl);
    }
    return VN_SC_SUCCESS;
}
