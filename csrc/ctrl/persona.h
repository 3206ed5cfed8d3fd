/* Personas: what a drive says of itself in place of what it is, as far as it can be true (include/vhostnvme.h, struct vn_persona).
 * Owner: the drive, from when it is made; nothing of it changes.
 */
#ifndef VN_CTRL_PERSONA_H
#define VN_CTRL_PERSONA_H

#include "ctrl/log.h"

/* Control thread. A copy that has nothing of the original's. -ENOMEM, -EINVAL. */
int vn_persona_copy(const struct vn_persona *from, struct vn_persona **out);
void vn_persona_free(struct vn_persona *persona); /* NULL: nothing */

/* The controller's drive has one, or NULL. */
const struct vn_persona *vn_persona_of(const struct vn_ctrl *ctrl);
/* At the end of Identify Controller. */
void vn_persona_identify(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id);
/* The revision of the program itself, as it is told. */
const char *vn_persona_revision(const struct vn_drive *drive);
/* A drive whose state was not kept begins with these counters. */
void vn_persona_begin(struct vn_drive *drive);
/* At the end of the SMART log. */
void vn_persona_smart(const struct vn_ctrl *ctrl, struct vn_log_smart *page);
/* The temperature that is too high, Kelvin, or otherwise. */
uint16_t vn_persona_wctemp(const struct vn_ctrl *ctrl, uint16_t otherwise);
/* Whether it lets namespaces have that LBA format. */
bool vn_persona_has_format(const struct vn_ctrl *ctrl, uint32_t index);
/* Whose its log pages are, or NULL: it does not say. */
const uint8_t *vn_persona_uuid(const struct vn_ctrl *ctrl);
/* A log page of its own, or NULL; and that page, by the LID of the command. */
const struct vn_persona_log *vn_persona_find_log(const struct vn_ctrl *ctrl, uint8_t lid);
void vn_persona_log(struct vn_log *log);

#endif
