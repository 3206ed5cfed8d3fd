/* Features of a whole drive: what becomes of a sanitize operation that is asked for what cannot be, 17h (Base 5.27.1.19), and which
 * events of the endurance group are wanted, 18h (5.27.1.20). A reset of a controller leaves them alone. Called by feature.c.
 */
#include "core/status.h"
#include "ctrl/feature.h"

#define SAVED_SANITIZE (1u << 0)
#define SAVED_ENDURANCE (1u << 1)
#define GROUP(cdw11) ((cdw11) & 0xffffu)
#define WARNINGS(cdw11) ((uint8_t)((cdw11) >> 16))

bool vn_feature_is_drives(uint8_t fid) {
    return fid == VN_FEAT_SANITIZE || fid == VN_FEAT_ENDURANCE;
}

static bool saved_nodrm(const struct vn_drive *drive) {
    const struct vn_drive_features_kept *kept = &drive->kept.features;
    return kept->saved & SAVED_SANITIZE ? kept->nodrm : VN_NODRM_DEFAULT;
}

static uint8_t saved_warnings(const struct vn_drive *drive) {
    const struct vn_drive_features_kept *kept = &drive->kept.features;
    return kept->saved & SAVED_ENDURANCE ? kept->endurance : 0;
}

void vn_feature_begin_drive(struct vn_drive *drive) {
    drive->nodrm = saved_nodrm(drive);
    drive->endurance.wanted = saved_warnings(drive);
}

vn_status vn_feature_set_drive(struct vn_req *req) {
    struct vn_drive *drive = req->ctrl->drive;
    uint32_t value = req->cmd.cdw11;
    if ((uint8_t)req->cmd.cdw10 == VN_FEAT_SANITIZE) {
        drive->nodrm = value & 1;
        return VN_SC_SUCCESS;
    }
    if (GROUP(value) != VN_ENDURANCE_GROUP || (WARNINGS(value) & ~VN_ENDURANCE_ALL))
        return VN_SC_INVALID_FIELD;
    drive->endurance.wanted = WARNINGS(value);
    vn_endurance_check(drive);
    return VN_SC_SUCCESS;
}

void vn_feature_save_drive(struct vn_drive *drive, uint8_t fid) {
    struct vn_drive_features_kept *kept = &drive->kept.features;
    if (fid == VN_FEAT_SANITIZE) {
        kept->saved |= SAVED_SANITIZE;
        kept->nodrm = drive->nodrm;
    } else {
        kept->saved |= SAVED_ENDURANCE;
        kept->endurance = drive->endurance.wanted;
    }
}

vn_status vn_feature_get_drive(struct vn_req *req, uint32_t select) {
    const struct vn_drive *drive = req->ctrl->drive;
    if ((uint8_t)req->cmd.cdw10 == VN_FEAT_SANITIZE) {
        req->result = select == VN_SEL_CURRENT   ? drive->nodrm
                      : select == VN_SEL_DEFAULT ? VN_NODRM_DEFAULT
                                                 : saved_nodrm(drive);
        return VN_SC_SUCCESS;
    }
    if (GROUP(req->cmd.cdw11) != VN_ENDURANCE_GROUP)
        return VN_SC_INVALID_FIELD;
    uint32_t warnings = select == VN_SEL_CURRENT ? drive->endurance.wanted : select == VN_SEL_DEFAULT ? 0 : saved_warnings(drive);
    req->result = VN_ENDURANCE_GROUP | warnings << 16;
    return VN_SC_SUCCESS;
}
