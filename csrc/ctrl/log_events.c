/* The persistent event log (Base 5.16.1.14): what has happened to a drive, over its life, in a bounded buffer that the oldest
 * events fall out of. Read through a context: a copy, so that its parts fit together. Called by those who record something.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/log.h"

#define ACTION(cdw10) (((cdw10) >> 8) & 0x3) /* LSP bits 1:0 */
enum action { ACTION_READ, ACTION_ESTABLISH, ACTION_RELEASE, ACTION_ESTABLISH_HEADER };
#define REVISION 0x02u
#define HEADER_BYTES 492u      /* of the log, from byte 20 on */
#define EVENT_HEADER_BYTES 21u /* after the field that tells it */
#define CONTEXT_PORT (1u << 16) /* it was established through a port */
#define NS_PER_MS 1000000u

static uint32_t event_bytes(const uint8_t *at) {
    struct vn_log_event event;
    memcpy(&event, at, sizeof(event));
    return (uint32_t)sizeof(event) + event.bytes;
}

static void make_room(struct vn_events_kept *events, uint32_t bytes) {
    uint32_t gone = 0;
    while (events->bytes - gone + bytes > VN_EVENTS_BYTES) {
        gone += event_bytes(events->data + gone);
        events->nr--;
    }
    if (!gone)
        return;
    events->bytes -= gone;
    memmove(events->data, events->data + gone, events->bytes);
}

void vn_events_add(struct vn_drive *drive, const struct vn_ctrl *ctrl, enum vn_event_log_type type, const void *data,
                   uint32_t bytes) {
    struct vn_events_kept *events = &drive->kept.events;
    const struct vn_ctrl *clock = ctrl;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS && !clock; i++)
        clock = drive->ctrls[i];
    struct vn_log_event event = {
        .type = (uint8_t)type,
        .revision = 1,
        .header_bytes = EVENT_HEADER_BYTES,
        .cntlid = ctrl ? ctrl->cntlid : UINT16_MAX,
        .timestamp = clock ? vn_timestamp_now(clock) : (struct vn_timestamp){.attributes = 0},
        .bytes = (uint16_t)bytes,
    };
    make_room(events, (uint32_t)sizeof(event) + bytes);
    memcpy(events->data + events->bytes, &event, sizeof(event));
    memcpy(events->data + events->bytes + sizeof(event), data, bytes);
    events->bytes += (uint32_t)sizeof(event) + bytes;
    events->nr++;
    vn_drive_touch(drive);
}

/* --- Some of the events --- */
void vn_events_power_on(struct vn_ctrl *ctrl, bool firmware_activated) {
    struct vn_drive *drive = ctrl->drive;
    vn_drive_fold(drive);
    struct vn_pel_power_on event = {
        .cntlid = ctrl->cntlid,
        .firmware_activated = firmware_activated,
        .in_progress = drive->kept.sanitize.status == VN_SANITIZE_RUNS,
        .power_cycle = (uint32_t)drive->kept.power_cycles,
        .power_on_ms = drive->kept.smart.on_ns / NS_PER_MS,
        .timestamp = vn_timestamp_now(ctrl),
    };
    char revision[9];
    vn_put_ascii(event.revision, sizeof(event.revision), vn_firmware_revision(ctrl, revision));
    vn_events_add(drive, ctrl, VN_PEL_POWER_ON, &event, sizeof(event));
}

/* SMART as it is when the drive starts. */
void vn_events_snapshot(struct vn_ctrl *ctrl) {
    struct vn_log_smart page = vn_smart_page(ctrl);
    vn_events_add(ctrl->drive, ctrl, VN_PEL_SMART, &page, sizeof(page));
}

/* CDW10 and CDW11 (Base 5.16.1.14.1.11): how many dwords of the command follow, and no data. */
void vn_events_set_feature(const struct vn_req *req) {
    struct {
        uint32_t layout, cdw10, cdw11;
    } event = {2, req->cmd.cdw10, req->cmd.cdw11};
    vn_events_add(req->ctrl->drive, req->ctrl, VN_PEL_SET_FEATURE, &event, sizeof(event));
}

void vn_events_change_ns(const struct vn_req *req) {
    struct vn_pel_change_ns event = {.cdw10 = req->cmd.cdw10, .nsid = req->cmd.nsid};
    if ((req->cmd.cdw10 & 0xf) == VN_NS_MANAGE_CREATE) {
        const struct vn_ns_create *wanted = req->buffer;
        event.nsid = req->result;
        event.nsze = wanted->nsze;
        event.ncap = wanted->ncap;
        event.flbas = wanted->flbas;
        event.dps = wanted->dps;
        event.nmic = wanted->nmic;
        event.anagrpid = wanted->anagrpid;
    }
    vn_events_add(req->ctrl->drive, req->ctrl, VN_PEL_CHANGE_NS, &event, sizeof(event));
}

/* --- The log --- */
void vn_events_drop_context(const struct vn_ctrl *ctrl) {
    if (ctrl->drive->context.holder == ctrl)
        ctrl->drive->context.holder = NULL;
}

static vn_status establish(struct vn_ctrl *ctrl) {
    struct vn_drive *drive = ctrl->drive;
    struct vn_events_copy *context = &drive->context;
    if (context->holder)
        return VN_SC_COMMAND_SEQUENCE;
    context->holder = ctrl;
    context->bytes = drive->kept.events.bytes;
    context->nr = drive->kept.events.nr;
    memcpy(context->data, drive->kept.events.data, context->bytes);
    drive->kept.events.generation++;
    vn_drive_touch(drive);
    return VN_SC_SUCCESS;
}

vn_status vn_events_begin(struct vn_req *req) {
    const struct vn_ctrl *ctrl = req->ctrl;
    switch (ACTION(req->cmd.cdw10)) {
    case ACTION_READ:
        return ctrl->drive->context.holder ? VN_SC_SUCCESS : VN_SC_COMMAND_SEQUENCE;
    case ACTION_ESTABLISH:
        return establish(req->ctrl);
    case ACTION_RELEASE:
        ctrl->drive->context.holder = NULL;
        return VN_SC_SUCCESS;
    default:
        return establish(req->ctrl);
    }
}

static void put_header(struct vn_log *log) {
    static const uint8_t types[] = {VN_PEL_SMART, VN_PEL_FIRMWARE, VN_PEL_TIMESTAMP, VN_PEL_POWER_ON, VN_PEL_HARDWARE,
                                    VN_PEL_CHANGE_NS, VN_PEL_FORMAT_START, VN_PEL_FORMAT_END, VN_PEL_SANITIZE_START,
                                    VN_PEL_SANITIZE_END, VN_PEL_SET_FEATURE, VN_PEL_TELEMETRY, VN_PEL_THERMAL};
    const struct vn_ctrl *ctrl = log->req->ctrl;
    const struct vn_events_copy *context = &ctrl->drive->context;
    struct vn_log_events header = {
        .lid = VN_LOG_EVENTS,
        .nr = context->nr,
        .bytes = sizeof(header) + context->bytes,
        .revision = REVISION,
        .header_bytes = HEADER_BYTES,
        .timestamp = vn_timestamp_now(ctrl),
        .power_on_hours = {vn_power_on_hours(ctrl)},
        .power_cycles = ctrl->drive->kept.power_cycles,
        .vid = VN_PCI_VENDOR,
        .ssvid = VN_PCI_SUBVENDOR,
        .generation = ctrl->drive->kept.events.generation,
        .context = VN_EVENTS_CONTEXT_EXISTS | CONTEXT_PORT,
    };
    vn_put_ascii(header.sn, sizeof(header.sn), ctrl->serial);
    vn_put_ascii(header.mn, sizeof(header.mn), ctrl->model);
    memcpy(header.subnqn, ctrl->subnqn, strlen(ctrl->subnqn));
    for (size_t i = 0; i < VN_ARRAY_SIZE(types); i++)
        header.supported[types[i] / 8] |= (uint8_t)(1u << types[i] % 8);
    vn_log_put(log, &header, sizeof(header));
}

void vn_events_log(struct vn_log *log) {
    const struct vn_events_copy *context = &log->req->ctrl->drive->context;
    if (!context->holder) { /* it was released: there is nothing to read */
        vn_log_skip(log, sizeof(struct vn_log_events));
        return;
    }
    put_header(log);
    if (ACTION(log->req->cmd.cdw10) != ACTION_ESTABLISH_HEADER)
        vn_log_put(log, context->data, context->bytes);
}
