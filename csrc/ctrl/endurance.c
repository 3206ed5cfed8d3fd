/* The endurance group: all of a drive is one. Its log (Base 5.16.1.10), its critical warnings, and the events of those that a host
 * has asked to be told of: feature 18h, log 0Fh (5.16.1.16). Called by log_page.c, log_smart.c and feature_drive.c.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/log.h"
#include "ctrl/persona.h"

#define ENDURANCE_UNIT_BYTES 1000000000u

static uint64_t units(uint64_t bytes) {
    return (bytes + ENDURANCE_UNIT_BYTES - 1) / ENDURANCE_UNIT_BYTES;
}

uint8_t vn_endurance_warnings(const struct vn_drive *drive) {
    const struct vn_persona *persona = drive->persona;
    bool spent = persona && persona->avail_spare && persona->avail_spare < persona->spare_thresh;
    uint8_t warnings = spent ? VN_ENDURANCE_SPARE : 0;
    for (uint32_t nsid = 0; (nsid = vn_drive_next_space(drive, nsid));) {
        if (vn_backend_latched(drive->spaces[nsid]->backend)) /* a flush has failed */
            warnings |= VN_ENDURANCE_READ_ONLY;
    }
    return warnings;
}

void vn_endurance_check(struct vn_drive *drive) {
    uint8_t warnings = vn_endurance_warnings(drive) & drive->endurance.wanted;
    uint8_t fresh = warnings & (uint8_t)~drive->endurance.told;
    drive->endurance.told = warnings;
    if (!fresh || drive->endurance.listed)
        return;
    drive->endurance.listed = true;
    vn_drive_raise(drive, VN_AEN_NOTICE, VN_AEN_NOTICE_ENDURANCE);
}

vn_status vn_endurance_begin(struct vn_req *req) {
    return req->cmd.cdw11 >> 16 == VN_ENDURANCE_GROUP ? VN_SC_SUCCESS : VN_SC_INVALID_FIELD; /* LSI */
}

void vn_endurance_log(struct vn_log *log) {
    const struct vn_ctrl *ctrl = log->req->ctrl;
    struct vn_log_smart smart = vn_smart_page(ctrl);
    const struct vn_smart_kept *kept = &ctrl->drive->kept.smart; /* as summed up for that page */
    struct vn_id_ctrl *id = (struct vn_id_ctrl *)ctrl->page;
    memset(id, 0, sizeof(*id));
    vn_identify_subsystem(ctrl, id);
    struct vn_log_endurance page = {
        .critical_warning = vn_endurance_warnings(ctrl->drive),
        .avail_spare = smart.avail_spare,
        .spare_thresh = smart.spare_thresh,
        .percent_used = smart.percent_used,
        .read_units = {units(kept->read_bytes)},
        .write_units = {units(kept->write_bytes)},
        .media_write_units = {units(kept->write_bytes)},
        .reads = {kept->reads},
        .writes = {kept->writes},
        .media_errors = {kept->media_errors},
        .error_entries = {ctrl->error_count},
    };
    memcpy(page.capacity, id->tnvmcap, sizeof(page.capacity));
    memcpy(page.unallocated, id->unvmcap, sizeof(page.unallocated));
    vn_log_put(log, &page, sizeof(page));
}

void vn_endurance_was_read(struct vn_drive *drive) {
    drive->endurance.listed = false;
}

void vn_endurance_events_log(struct vn_log *log) {
    struct vn_log_endurance_events page = {0};
    if (log->req->ctrl->drive->endurance.listed) {
        page.nr = 1;
        page.groups[0] = VN_ENDURANCE_GROUP;
    }
    vn_log_put(log, &page, sizeof(page));
}
