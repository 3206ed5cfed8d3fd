/* SMART / Health Information (Base 5.16.1.3): a drive's counters over its life; on fabrics the controller's own. Called by
 * log_page.c, and by aer.c's users for critical warnings.
 */
#include <string.h>

#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/log.h"
#include "ctrl/persona.h"

#define DATA_UNIT_BYTES (1000u * 512u)
#define NS_PER_MINUTE 60000000000ull
#define NS_PER_HOUR 3600000000000ull
#define WARNING_SPARE (1u << 0)
#define WARNING_TEMPERATURE (1u << 1)
#define WARNING_READ_ONLY (1u << 3)

static uint64_t units(uint64_t bytes) {
    return (bytes + DATA_UNIT_BYTES - 1) / DATA_UNIT_BYTES;
}

/* Critical Warning, as things are (Base 5.16.1.3). */
static uint8_t critical_warning(const struct vn_ctrl *ctrl) {
    uint8_t warning = 0;
    if (VN_TEMPERATURE_K >= ctrl->features.temp_over || VN_TEMPERATURE_K <= ctrl->features.temp_under)
        warning |= WARNING_TEMPERATURE;
    const struct vn_ns_table *table = &ctrl->namespaces;
    for (uint32_t nsid = vn_ns_table_next(table, 0); nsid; nsid = vn_ns_table_next(table, nsid)) {
        if (vn_backend_latched(table->by_nsid[nsid]->ns->backend))
            warning |= WARNING_READ_ONLY;
    }
    if (ctrl->drive && (vn_endurance_warnings(ctrl->drive) & VN_ENDURANCE_SPARE))
        warning |= WARNING_SPARE;
    return warning;
}

static void tell_of_temperature(const struct vn_ctrl *ctrl) {
    bool over = VN_TEMPERATURE_K >= ctrl->features.temp_over;
    uint16_t threshold = over ? ctrl->features.temp_over : ctrl->features.temp_under;
    struct vn_pel_thermal event = {
        .over = (uint8_t)(over ? VN_TEMPERATURE_K - threshold : threshold - VN_TEMPERATURE_K),
        .threshold = over ? 0 : 1,
    };
    vn_events_add(ctrl->drive, ctrl, VN_PEL_THERMAL, &event, sizeof(event));
}

/* One event stands for all that is new: what matters most. */
static uint8_t reason_of(uint8_t warnings) {
    if (warnings & WARNING_READ_ONLY)
        return VN_AEN_SMART_RELIABILITY;
    return warnings & WARNING_TEMPERATURE ? VN_AEN_SMART_TEMPERATURE : VN_AEN_SMART_SPARE;
}

void vn_log_check_warnings(struct vn_ctrl *ctrl) {
    uint8_t warning = critical_warning(ctrl);
    uint8_t fresh = warning & (uint8_t)~ctrl->told_warnings;
    ctrl->told_warnings = warning;
    if (ctrl->drive && (fresh & WARNING_TEMPERATURE))
        tell_of_temperature(ctrl);
    uint8_t told = fresh & (uint8_t)ctrl->features.async_event; /* feature 0Bh, bits 7:0 */
    if (told)
        vn_aer_raise(ctrl, VN_AEN_SMART, reason_of(told));
    if (ctrl->drive)
        vn_endurance_check(ctrl->drive);
    if (ctrl->drive && (fresh & WARNING_READ_ONLY))
        vn_telemetry_capture(ctrl, "a flush has failed: a namespace is read-only from now on");
}

/* Of the drive, or of a controller that has none. */
static struct vn_smart_kept counts(const struct vn_ctrl *ctrl) {
    if (ctrl->drive) {
        vn_drive_fold(ctrl->drive);
        return ctrl->drive->kept.smart;
    }
    const struct vn_ctrl_counters *counters = &ctrl->counters;
    return (struct vn_smart_kept){
        .read_bytes = counters->read_bytes,
        .write_bytes = counters->write_bytes,
        .reads = counters->reads,
        .writes = counters->writes,
        .busy_ns = counters->busy_ns,
        .on_ns = vn_reactor_now_ns(ctrl->reactor) - ctrl->created_ns,
        .media_errors = counters->media_errors,
    };
}

struct vn_log_smart vn_smart_page(const struct vn_ctrl *ctrl) {
    struct vn_smart_kept smart = counts(ctrl);
    struct vn_log_smart page = {
        .critical_warning = critical_warning(ctrl),
        .temperature = VN_TEMPERATURE_K,
        .endu_grp_crit_warn = ctrl->drive ? vn_endurance_warnings(ctrl->drive) : 0,
        .avail_spare = 100,
        .spare_thresh = 10,
        .data_units_read = {units(smart.read_bytes)},
        .data_units_written = {units(smart.write_bytes)},
        .host_reads = {smart.reads},
        .host_writes = {smart.writes},
        .ctrl_busy_time = {smart.busy_ns / NS_PER_MINUTE},
        .power_cycles = {ctrl->drive ? ctrl->drive->kept.power_cycles : 1},
        .power_on_hours = {smart.on_ns / NS_PER_HOUR},
        .unsafe_shutdowns = {ctrl->drive ? ctrl->drive->kept.unsafe_shutdowns : 0},
        .media_errors = {smart.media_errors},
        .num_err_log_entries = {ctrl->error_count},
    };
    vn_persona_smart(ctrl, &page);
    return page;
}

uint64_t vn_power_on_hours(const struct vn_ctrl *ctrl) {
    return counts(ctrl).on_ns / NS_PER_HOUR;
}

/* It is the controller's, for any namespace: LPA bit 0 is clear. */
vn_status vn_smart_begin(struct vn_req *req) {
    bool whole = req->cmd.nsid == 0 || req->cmd.nsid == VN_NSID_BROADCAST;
    return whole ? VN_SC_SUCCESS : VN_SC_INVALID_FIELD;
}

void vn_smart_log(struct vn_log *log) {
    struct vn_log_smart page = vn_smart_page(log->req->ctrl);
    vn_log_put(log, &page, sizeof(page));
}
