/* Power states (Base 8.15): which there are, which one the controller is in, and features 02h, 0Ch, 10h and 11h. A state is what
 * is told: no command is slowed by it. So it is worked out when an admin command comes, from when the last I/O command ended; no
 * timer runs for it, and nothing of it is on the path of I/O. Owner: the controller's reactor.
 */
#ifndef VN_CTRL_POWER_H
#define VN_CTRL_POWER_H

#include "ctrl/feature.h"

/* id: after the persona had its say. */
void vn_power_identify(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id);
/* At the start of each admin command, which counts as in flight already: what there was of I/O since the last one. */
void vn_power_look(struct vn_ctrl *ctrl);
/* The features are as they were saved, or their defaults. */
void vn_power_reset(struct vn_ctrl *ctrl);
uint32_t vn_power_last(const struct vn_ctrl *ctrl); /* the highest state */
void vn_power_forget_saved(struct vn_drive *drive, const struct vn_ctrl_kept *place); /* it is another controller's now */

/* Whether the controller has such a feature, of those of this file; others it knows nothing of: true. */
bool vn_power_has_feature(const struct vn_ctrl *ctrl, uint8_t fid);
/* Feature 02h. */
vn_status vn_power_set_state(struct vn_ctrl *ctrl, uint32_t value);
/* Features 0Ch, 10h and 11h. */
bool vn_power_is_feature(uint8_t fid);
vn_status vn_power_set_feature(struct vn_req *req);
vn_status vn_power_get_feature(struct vn_req *req, uint32_t select);
void vn_power_save(struct vn_ctrl *ctrl, uint8_t fid);

#endif
