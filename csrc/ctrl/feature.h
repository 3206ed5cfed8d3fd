/* What feature.c (values of the controller), feature_kept.c (what is saved, and features that are more than a value) and the
 * logs share. Owner: the controller's reactor.
 */
#ifndef VN_CTRL_FEATURE_H
#define VN_CTRL_FEATURE_H

#include "ctrl/drive.h"
#include "ctrl/fabrics.h"

/* As Get Features answers them (Base 5.15). */
#define VN_CAP_SAVEABLE (1u << 0)
#define VN_CAP_NS (1u << 1)
#define VN_CAP_CHANGEABLE (1u << 2)

struct vn_feature_row {
    uint8_t fid;
    unsigned kinds; /* of controllers that have it */
    uint32_t capabilities, scope;
};
const struct vn_feature_row *vn_feature_find(const struct vn_ctrl *ctrl, uint8_t fid); /* NULL: this controller has no such */
uint32_t vn_feature_capabilities(const struct vn_ctrl *ctrl, const struct vn_feature_row *row);

/* feature_kept.c */
void vn_feature_load(const struct vn_ctrl_kept *kept, struct vn_features *features); /* those with a saved value */
void vn_feature_save(struct vn_ctrl_kept *kept, const struct vn_features *features, uint8_t fid);
void vn_feature_reset_kept(struct vn_ctrl *ctrl);
bool vn_feature_is_kept(uint8_t fid);
vn_status vn_feature_set_kept(struct vn_req *req);
vn_status vn_feature_get_kept(struct vn_req *req, uint32_t select);

/* feature_drive.c */
bool vn_feature_is_drives(uint8_t fid);
void vn_feature_begin_drive(struct vn_drive *drive); /* what is saved counts */
vn_status vn_feature_set_drive(struct vn_req *req);
void vn_feature_save_drive(struct vn_drive *drive, uint8_t fid);
vn_status vn_feature_get_drive(struct vn_req *req, uint32_t select);

#endif
