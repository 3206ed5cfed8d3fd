/* Firmware (Base 5.12, 5.13, 8.2): images of ours, which hold a revision and nothing that runs, in slots that a drive keeps.
 * Slot 1 is the program itself. Called by admin_cmd.c, log_page.c, identify.c and regs.c (activation at a reset).
 */
#include <stdio.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/log.h"
#include "ctrl/persona.h"

#define UNIT_BYTES 4096u /* FWUG */
#define FLAG_BOOT (1u << 31)
enum action { ACTION_STORE, ACTION_STORE_ACTIVATE, ACTION_ACTIVATE, ACTION_NOW };

/* docs/state.md. Anything may follow it. */
struct image {
    char magic[8];
    uint32_t version, bytes; /* bytes: of the image, with this header */
    char revision[8];        /* padded with spaces */
    uint32_t crc;            /* CRC-32C of the image, with this field zero */
    uint32_t rsvd28;
};
_Static_assert(sizeof(struct image) == 32, "the header of an image has 32 bytes");

static uint8_t *image_of(const struct vn_drive *drive) {
    return drive->buffer + VN_DRIVE_BUFFER_BYTES;
}

static void put_revision(const struct vn_drive *drive, uint32_t slot, char out[8]) {
    if (slot == 1)
        vn_put_ascii(out, 8, vn_persona_revision(drive));
    else
        memcpy(out, drive->kept.firmware.revision[slot - 1], 8);
}

const char *vn_firmware_revision(const struct vn_ctrl *ctrl, char out[9]) {
    char padded[8];
    if (!ctrl->drive) {
        snprintf(out, 9, "%.8s", VN_VERSION);
        return out;
    }
    put_revision(ctrl->drive, ctrl->drive->kept.firmware.active, padded);
    snprintf(out, 9, "%.8s", padded);
    for (size_t n = strlen(out); n && out[n - 1] == ' '; n--)
        out[n - 1] = 0;
    return out;
}

vn_status vn_firmware_download(struct vn_req *req) {
    struct vn_drive *drive = req->ctrl->drive;
    struct vn_download *download = &drive->download;
    uint64_t bytes = ((uint64_t)req->cmd.cdw10 + 1) * 4, offset = (uint64_t)req->cmd.cdw11 * 4;
    if (bytes > vn_ctrl_max_transfer(req->ctrl) || offset % UNIT_BYTES || offset + bytes > VN_FIRMWARE_BYTES)
        return VN_SC_INVALID_FIELD;
    if (offset == 0) /* another image begins */
        *download = (struct vn_download){.bytes = 0};
    uint64_t first = offset / UNIT_BYTES, end = (offset + bytes + UNIT_BYTES - 1) / UNIT_BYTES;
    for (uint64_t unit = first; unit < end; unit++) {
        if (download->units[unit / 64] & 1ull << unit % 64)
            return VN_SC_OVERLAPPING_RANGE;
    }
    vn_status status = vn_ctrl_receive(req, image_of(drive) + offset, (uint32_t)bytes);
    if (status)
        return status;
    for (uint64_t unit = first; unit < end; unit++)
        download->units[unit / 64] |= 1ull << unit % 64;
    download->bytes = (uint32_t)vn_max_u64(download->bytes, offset + bytes);
    return VN_SC_SUCCESS;
}

/* What was downloaded is whole, and one of ours. */
static bool take_image(struct vn_drive *drive, struct image *image) {
    const struct vn_download *download = &drive->download;
    for (uint32_t unit = 0; unit * UNIT_BYTES < download->bytes; unit++) {
        if (!(download->units[unit / 64] & 1ull << unit % 64))
            return false;
    }
    if (download->bytes < sizeof(*image))
        return false;
    memcpy(image, image_of(drive), sizeof(*image));
    if (memcmp(image->magic, "VNFIRMW\0", 8) || image->version != 1 || image->bytes < sizeof(*image) ||
        image->bytes > download->bytes)
        return false;
    for (size_t i = 0; i < sizeof(image->revision); i++) {
        if (image->revision[i] < 0x20 || image->revision[i] > 0x7e)
            return false;
    }
    struct image plain = *image;
    plain.crc = 0;
    uint32_t crc = vn_crc32c(VN_CRC32C_INIT, &plain, sizeof(plain));
    crc = vn_crc32c(crc, image_of(drive) + sizeof(plain), image->bytes - sizeof(plain));
    return vn_crc32c_end(crc) == image->crc;
}

/* The first empty one that can be written, or the last of all. */
static uint32_t choose_slot(const struct vn_drive *drive) {
    for (uint32_t slot = 2; slot <= VN_FIRMWARE_SLOTS; slot++) {
        if (!drive->kept.firmware.revision[slot - 1][0])
            return slot;
    }
    return drive->kept.firmware.active == VN_FIRMWARE_SLOTS ? VN_FIRMWARE_SLOTS - 1 : VN_FIRMWARE_SLOTS;
}

static void activate_now(struct vn_drive *drive, uint32_t slot) {
    vn_drive_raise(drive, VN_AEN_NOTICE, VN_AEN_NOTICE_FIRMWARE);
    drive->kept.firmware.active = (uint8_t)slot;
    drive->kept.firmware.next = 0;
}

static void tell(struct vn_req *req, uint32_t slot, uint32_t action, vn_status status) {
    struct vn_drive *drive = req->ctrl->drive;
    struct vn_pel_firmware event = {
        .action = (uint8_t)action,
        .slot = (uint8_t)slot,
        .sct = (uint8_t)(VN_STATUS_CODE(status) >> 8),
        .sc = (uint8_t)status,
    };
    put_revision(drive, drive->kept.firmware.active, event.old_revision);
    if (slot)
        put_revision(drive, slot, event.new_revision);
    vn_events_add(drive, req->ctrl, VN_PEL_FIRMWARE, &event, sizeof(event));
}

static vn_status commit(struct vn_req *req, uint32_t slot, uint32_t action) {
    struct vn_drive *drive = req->ctrl->drive;
    struct vn_firmware_kept *firmware = &drive->kept.firmware;
    struct image image;
    bool has_download = drive->download.bytes;
    bool stores = action == ACTION_STORE || action == ACTION_STORE_ACTIVATE || (action == ACTION_NOW && has_download);
    if (slot > VN_FIRMWARE_SLOTS || (slot == 1 && stores) || (!slot && !stores))
        return VN_SC_FIRMWARE_SLOT;
    if (stores) {
        bool whole = take_image(drive, &image);
        drive->download = (struct vn_download){.bytes = 0};
        if (!whole)
            return VN_SC_FIRMWARE_IMAGE;
        memcpy(firmware->revision[slot - 1], image.revision, sizeof(image.revision));
    } else if (slot != 1 && !firmware->revision[slot - 1][0]) {
        return VN_SC_FIRMWARE_IMAGE;
    }
    if (action == ACTION_NOW)
        activate_now(drive, slot);
    else if (action != ACTION_STORE)
        firmware->next = (uint8_t)slot;
    return VN_SC_SUCCESS;
}

bool vn_firmware_commit(struct vn_req *req, vn_status *status) {
    uint32_t slot = req->cmd.cdw10 & 0x7, action = (req->cmd.cdw10 >> 3) & 0x7;
    *status = VN_SC_INVALID_FIELD;
    if (action > ACTION_NOW || (req->cmd.cdw10 & FLAG_BOOT)) /* there are no boot partitions */
        return false;
    if (!slot && (action == ACTION_STORE || action == ACTION_STORE_ACTIVATE))
        slot = choose_slot(req->ctrl->drive);
    *status = commit(req, slot, action);
    tell(req, slot, action, *status);
    if (*status)
        return false;
    vn_drive_save_for(req);
    return true;
}

bool vn_firmware_activate(struct vn_drive *drive) {
    struct vn_firmware_kept *firmware = &drive->kept.firmware;
    drive->download = (struct vn_download){.bytes = 0}; /* what was not committed is lost with a reset */
    if (!firmware->next)
        return false;
    firmware->active = firmware->next;
    firmware->next = 0;
    vn_drive_touch(drive);
    return true;
}

/* Firmware Slot Information (Base 5.16.1.4). */
void vn_firmware_log(struct vn_log *log) {
    const struct vn_drive *drive = log->req->ctrl->drive;
    struct vn_log_firmware page = {.afi = 1}; /* slot 1 */
    vn_put_ascii(page.frs[0], sizeof(page.frs[0]), drive ? vn_persona_revision(drive) : VN_VERSION);
    if (drive) {
        page.afi = (uint8_t)(drive->kept.firmware.active | drive->kept.firmware.next << 4);
        memcpy(page.frs[1], drive->kept.firmware.revision[1], sizeof(page.frs) - sizeof(page.frs[0]));
    }
    vn_log_put(log, &page, sizeof(page));
}
