/* Telemetry (Base 5.16.1.8, 5.16.1.9, 8.24): what a drive can tell of its state, as lines of text in blocks of 512 bytes.
 * Captured when a host asks for it, or by the controller itself when something has gone wrong: that is kept until it is read.
 * Area 1 holds counters and the state of the controllers; areas 2 and 3 also the last commands that were out of the ordinary.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/log.h"

#define CREATE (1u << 8) /* LSP bit 0, in CDW10 */
#define NS_PER_MS 1000000u
#define IEEE_NONE 0

/* Text into a buffer of blocks; what does not fit any more is left out. */
struct text {
    char *at;
    size_t left;
};

static void put(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct text *text, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text->at, text->left, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= text->left) {
        memset(text->at, 0, text->left);
        text->left = 0;
        return;
    }
    text->at += n;
    text->left -= (size_t)n;
}

static void put_counters(struct text *text, struct vn_drive *drive) {
    const struct vn_drive_kept *kept = &drive->kept;
    const struct vn_smart_kept *smart = &kept->smart;
    vn_drive_fold(drive);
    put(text, "vhostnvme telemetry 1\nversion %s\n", VN_VERSION);
    put(text, "power_cycles %llu\nunsafe_shutdowns %llu\non_ms %llu\nbusy_ms %llu\n", (unsigned long long)kept->power_cycles,
        (unsigned long long)kept->unsafe_shutdowns, (unsigned long long)(smart->on_ns / NS_PER_MS),
        (unsigned long long)(smart->busy_ns / NS_PER_MS));
    put(text, "reads %llu\nread_bytes %llu\nwrites %llu\nwrite_bytes %llu\nmedia_errors %llu\n",
        (unsigned long long)smart->reads, (unsigned long long)smart->read_bytes, (unsigned long long)smart->writes,
        (unsigned long long)smart->write_bytes, (unsigned long long)smart->media_errors);
    put(text, "sanitize_status %u\nself_test %u\nfirmware_slot %u\n", kept->sanitize.status, kept->self_test.running,
        kept->firmware.active);
}

static void put_ctrls(struct text *text, const struct vn_drive *drive) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        const struct vn_ctrl *ctrl = drive->ctrls[i];
        if (!ctrl)
            continue;
        put(text, "controller %u cc %08x csts %08x aqa %08x inflight %u orphans %u errors %llu events_waiting %u "
            "commands %llu admin_commands %llu interrupts %llu\n",
            ctrl->cntlid, ctrl->cc, ctrl->csts, ctrl->aqa, ctrl->nr_inflight, ctrl->nr_orphans,
            (unsigned long long)ctrl->error_count, ctrl->nr_aers, (unsigned long long)ctrl->counters.commands,
            (unsigned long long)ctrl->counters.admin_commands, (unsigned long long)ctrl->counters.interrupts);
    }
}

/* The newest first: what there is no room for is the oldest. */
static void put_commands(struct text *text, const struct vn_drive *drive) {
    const struct vn_recent *recent = &drive->recent;
    uint64_t now = vn_reactor_now_ns(drive->reactor);
    uint64_t nr = vn_min_u64(recent->nr, VN_NR_RECENT);
    for (uint64_t i = 0; i < nr; i++) {
        const struct vn_recent_command *command = &recent->commands[(recent->nr - 1 - i) % VN_NR_RECENT];
        put(text, "command %llu ms_ago controller %u queue %u opcode %02x nsid %u slba %llu status %x/%02x us %u\n",
            (unsigned long long)(now > command->ns ? (now - command->ns) / NS_PER_MS : 0), command->cntlid, command->sqid,
            command->opcode, command->nsid, (unsigned long long)command->slba, VN_STATUS_CODE(command->status) >> 8,
            command->status & 0xff, command->latency_us);
    }
}

static uint16_t blocks_of(const struct text *text, const char *data) {
    return (uint16_t)((size_t)(text->at - data + VN_TELEMETRY_BLOCK - 1) / VN_TELEMETRY_BLOCK);
}

/* Fills the data; the last block of area 1 and of the others. */
static void capture(struct vn_drive *drive, char data[VN_TELEMETRY_BYTES], uint16_t *last1, uint16_t *last2) {
    struct text text = {data, VN_TELEMETRY_BYTES};
    memset(data, 0, VN_TELEMETRY_BYTES);
    put_counters(&text, drive);
    put_ctrls(&text, drive);
    *last1 = blocks_of(&text, data);
    text.at = data + *last1 * VN_TELEMETRY_BLOCK;
    text.left = text.left ? (size_t)(data + VN_TELEMETRY_BYTES - text.at) : 0;
    put_commands(&text, drive);
    *last2 = blocks_of(&text, data);
}

static struct vn_log_telemetry header_of(const struct vn_drive *drive, uint8_t lid, uint16_t last1, uint16_t last2,
                                         const char reason[128]) {
    const struct vn_telemetry_kept *kept = &drive->kept.telemetry;
    struct vn_log_telemetry header = {
        .lid = lid,
        .ieee = {IEEE_NONE},
        .last1 = last1,
        .last2 = last2,
        .last3 = last2,
        .host_generation = kept->host_generation,
        .available = kept->available,
        .generation = kept->generation,
    };
    memcpy(header.reason, reason, sizeof(header.reason));
    return header;
}

/* The ring of commands; never for one that went well, unless it is an admin command. */
void vn_recent_add(struct vn_drive *drive, const struct vn_req *req) {
    struct vn_recent *recent = &drive->recent;
    uint64_t now = vn_reactor_now_ns(drive->reactor);
    bool io = req->sq->sqid != 0;
    recent->commands[recent->nr++ % VN_NR_RECENT] = (struct vn_recent_command){
        .ns = now,
        .slba = io ? req->cmd.cdw10 | (uint64_t)req->cmd.cdw11 << 32 : 0,
        .nsid = req->cmd.nsid,
        .latency_us = io ? 0 : (uint32_t)((now - req->start_ns) / 1000),
        .cntlid = req->ctrl->cntlid,
        .sqid = req->sq->sqid,
        .status = req->status,
        .opcode = req->cmd.opcode,
    };
}

/* One that nobody has read yet is the better one: it tells of the first thing that went wrong. */
void vn_telemetry_capture(struct vn_ctrl *ctrl, const char *reason) {
    struct vn_drive *drive = ctrl->drive;
    struct vn_telemetry_kept *kept = &drive->kept.telemetry;
    struct vn_pel_hardware event = {.code = VN_PEL_CODE_CFS, .csts = ctrl->csts};
    if (ctrl->csts & VN_CSTS_CFS)
        vn_events_add(drive, ctrl, VN_PEL_HARDWARE, &event, sizeof(event));
    if (kept->available)
        return;
    capture(drive, kept->data, &kept->last1, &kept->last2);
    memset(kept->reason, 0, sizeof(kept->reason));
    snprintf(kept->reason, sizeof(kept->reason), "%s", reason);
    kept->available = 1;
    kept->generation++;
    struct vn_log_telemetry header = header_of(drive, VN_LOG_TELEMETRY_CTRL, kept->last1, kept->last2, kept->reason);
    vn_events_add(drive, ctrl, VN_PEL_TELEMETRY, &header, sizeof(header));
    vn_drive_touch(drive);
    vn_drive_raise(drive, VN_AEN_NOTICE, VN_AEN_NOTICE_TELEMETRY);
}

/* --- The pages --- */
static void create(struct vn_ctrl *ctrl) {
    struct vn_drive *drive = ctrl->drive;
    struct vn_telemetry_copy *copy = &drive->telemetry;
    capture(drive, copy->data, &copy->last1, &copy->last2);
    memset(copy->reason, 0, sizeof(copy->reason));
    snprintf(copy->reason, sizeof(copy->reason), "a host asked");
    drive->kept.telemetry.host_generation++;
    struct vn_log_telemetry header = header_of(drive, VN_LOG_TELEMETRY_HOST, copy->last1, copy->last2, copy->reason);
    vn_events_add(drive, ctrl, VN_PEL_TELEMETRY, &header, sizeof(header));
    vn_drive_touch(drive);
}

/* Whole blocks are read (Base 8.24). */
vn_status vn_telemetry_begin(struct vn_req *req) {
    uint64_t nr_dwords = ((req->cmd.cdw10 >> 16) | (uint64_t)(req->cmd.cdw11 & 0xffff) << 16) + 1;
    if (nr_dwords * 4 % VN_TELEMETRY_BLOCK || req->cmd.cdw12 % VN_TELEMETRY_BLOCK)
        return VN_SC_INVALID_FIELD;
    if ((uint8_t)req->cmd.cdw10 == VN_LOG_TELEMETRY_HOST && (req->cmd.cdw10 & CREATE))
        create(req->ctrl);
    return VN_SC_SUCCESS;
}

void vn_telemetry_host_log(struct vn_log *log) {
    const struct vn_drive *drive = log->req->ctrl->drive;
    const struct vn_telemetry_copy *copy = &drive->telemetry;
    struct vn_log_telemetry header = header_of(drive, VN_LOG_TELEMETRY_HOST, copy->last1, copy->last2, copy->reason);
    vn_log_put(log, &header, sizeof(header));
    vn_log_put(log, copy->data, copy->last2 * VN_TELEMETRY_BLOCK);
}

void vn_telemetry_ctrl_log(struct vn_log *log) {
    const struct vn_drive *drive = log->req->ctrl->drive;
    const struct vn_telemetry_kept *kept = &drive->kept.telemetry;
    struct vn_log_telemetry header = header_of(drive, VN_LOG_TELEMETRY_CTRL, kept->last1, kept->last2, kept->reason);
    vn_log_put(log, &header, sizeof(header));
    vn_log_put(log, kept->data, kept->last2 * VN_TELEMETRY_BLOCK);
}

/* With RAE = 0: the host has it. */
void vn_telemetry_was_read(struct vn_ctrl *ctrl) {
    if (!ctrl->drive->kept.telemetry.available)
        return;
    ctrl->drive->kept.telemetry.available = 0;
    vn_drive_touch(ctrl->drive);
}
