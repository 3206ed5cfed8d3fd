/* What a drive looks like, see persona.h. Called by Identify, the log pages, features and Format NVM. */
#include "ctrl/persona.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "ctrl/drive.h"
#include "ns/format.h"

#define DATA_UNIT_BYTES 512000ull
#define NS_PER_MINUTE 60000000000ull
#define NS_PER_HOUR 3600000000000ull
#define VENDOR_LOGS 0xc0u /* from that LID on */

void vn_persona_free(struct vn_persona *persona) {
    if (!persona)
        return;
    for (uint32_t i = 0; i < persona->nr_logs; i++)
        free((void *)(uintptr_t)persona->logs[i].data);
    free((void *)(uintptr_t)persona->logs);
    free((void *)(uintptr_t)persona->power_states);
    free((void *)(uintptr_t)persona->firmware);
    free(persona);
}

static bool is_possible(const struct vn_persona *persona) {
    if ((persona->firmware && strlen(persona->firmware) > 8) || persona->nr_power_states > VN_PERSONA_POWER_STATES ||
        persona->nr_logs > VN_PERSONA_LOGS || (persona->vid | persona->ssvid) > UINT16_MAX || persona->ieee >> 24 ||
        (persona->wctemp | persona->cctemp | persona->mntmt | persona->mxtmt) > UINT16_MAX || persona->formats >> VN_NR_LBA_FORMATS)
        return false;
    for (uint32_t i = 0; i < persona->nr_logs; i++) {
        const struct vn_persona_log *log = &persona->logs[i];
        if (log->lid < VENDOR_LOGS || log->lid > UINT8_MAX || !log->bytes || log->bytes > VN_PERSONA_LOG_BYTES)
            return false;
    }
    return true;
}

static void *copy(const void *from, size_t bytes) {
    void *to = malloc(bytes ? bytes : 1);
    return to && bytes ? memcpy(to, from, bytes) : to;
}

static bool copy_logs(const struct vn_persona *from, struct vn_persona *to) {
    struct vn_persona_log *logs = calloc(from->nr_logs + 1, sizeof(*logs));
    to->logs = logs;
    for (; logs && to->nr_logs < from->nr_logs; to->nr_logs++) {
        struct vn_persona_log *log = &logs[to->nr_logs];
        *log = from->logs[to->nr_logs];
        if (!(log->data = copy(log->data, log->bytes)))
            return false;
    }
    return logs;
}

int vn_persona_copy(const struct vn_persona *from, struct vn_persona **out) {
    if (!is_possible(from))
        return -EINVAL;
    struct vn_persona *persona = copy(from, sizeof(*from));
    if (!persona)
        return -ENOMEM;
    persona->nr_logs = 0;
    persona->logs = NULL;
    persona->firmware = from->firmware ? strdup(from->firmware) : NULL;
    persona->power_states = copy(from->power_states, from->nr_power_states * sizeof(struct vn_power_state));
    if (!copy_logs(from, persona) || !persona->power_states || (from->firmware && !persona->firmware)) {
        vn_persona_free(persona);
        return -ENOMEM;
    }
    *out = persona;
    return 0;
}

const struct vn_persona *vn_persona_of(const struct vn_ctrl *ctrl) {
    return ctrl->drive ? ctrl->drive->persona : NULL;
}

static void put(void *field, uint64_t value, size_t bytes) {
    if (value)
        memcpy(field, &value, bytes);
}

void vn_persona_identify(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id) {
    const struct vn_persona *persona = vn_persona_of(ctrl);
    if (!persona)
        return;
    put(&id->vid, persona->vid, sizeof(id->vid));
    put(&id->ssvid, persona->ssvid, sizeof(id->ssvid));
    put(id->ieee, persona->ieee, sizeof(id->ieee));
    put(&id->rab, persona->rab, sizeof(id->rab));
    put(&id->rtd3r, persona->rtd3r, sizeof(id->rtd3r));
    put(&id->rtd3e, persona->rtd3e, sizeof(id->rtd3e));
    put(&id->wctemp, persona->wctemp, sizeof(id->wctemp));
    put(&id->cctemp, persona->cctemp, sizeof(id->cctemp));
    id->oncs &= (uint16_t)~persona->oncs_off;
}

const char *vn_persona_revision(const struct vn_drive *drive) {
    return drive->persona && drive->persona->firmware ? drive->persona->firmware : VN_VERSION;
}

void vn_persona_begin(struct vn_drive *drive) {
    const struct vn_persona *persona = drive->persona;
    if (!persona || vn_keep_was_found(drive->keep))
        return;
    struct vn_smart_kept *smart = &drive->kept.smart;
    smart->read_bytes = persona->data_units_read * DATA_UNIT_BYTES;
    smart->write_bytes = persona->data_units_written * DATA_UNIT_BYTES;
    smart->reads = persona->host_reads;
    smart->writes = persona->host_writes;
    smart->busy_ns = persona->busy_minutes * NS_PER_MINUTE;
    smart->on_ns = persona->power_on_hours * NS_PER_HOUR;
    smart->media_errors = persona->media_errors;
    drive->kept.power_cycles = persona->power_cycles;
    drive->kept.unsafe_shutdowns = persona->unsafe_shutdowns;
}

void vn_persona_smart(const struct vn_ctrl *ctrl, struct vn_log_smart *page) {
    const struct vn_persona *persona = vn_persona_of(ctrl);
    if (!persona)
        return;
    page->percent_used = (uint8_t)persona->percent_used;
    put(&page->avail_spare, persona->avail_spare, sizeof(page->avail_spare));
    put(&page->spare_thresh, persona->spare_thresh, sizeof(page->spare_thresh));
}

uint16_t vn_persona_wctemp(const struct vn_ctrl *ctrl, uint16_t otherwise) {
    const struct vn_persona *persona = vn_persona_of(ctrl);
    return persona && persona->wctemp ? (uint16_t)persona->wctemp : otherwise;
}

bool vn_persona_has_format(const struct vn_ctrl *ctrl, uint32_t index) {
    const struct vn_persona *persona = vn_persona_of(ctrl);
    return !persona || !persona->formats || (persona->formats & 1u << index);
}

const uint8_t *vn_persona_uuid(const struct vn_ctrl *ctrl) {
    static const uint8_t none[16];
    const struct vn_persona *persona = vn_persona_of(ctrl);
    return persona && memcmp(persona->uuid, none, sizeof(none)) != 0 ? persona->uuid : NULL;
}

const struct vn_persona_log *vn_persona_find_log(const struct vn_ctrl *ctrl, uint8_t lid) {
    const struct vn_persona *persona = vn_persona_of(ctrl);
    for (uint32_t i = 0; persona && i < persona->nr_logs; i++) {
        if (persona->logs[i].lid == lid)
            return &persona->logs[i];
    }
    return NULL;
}

void vn_persona_log(struct vn_log *log) {
    const struct vn_persona_log *page = vn_persona_find_log(log->req->ctrl, (uint8_t)log->req->cmd.cdw10);
    vn_log_put(log, page->data, page->bytes);
}
