/* The reservation commands, features, log page and events of a controller. See reserve_cmd.c; the rules: ns/reservation.h. */
#ifndef VN_CTRL_RESERVE_CMD_H
#define VN_CTRL_RESERVE_CMD_H

#include "ctrl/log.h"
#include "ns/reservation.h"

/* Who the controller's host is. */
struct vn_resv_host vn_resv_host_of(const struct vn_ctrl *ctrl);
/* A reset: host identifier, masks and notices are gone; registrations are not. */
void vn_resv_forget(struct vn_ctrl *ctrl);

void vn_resv_log(struct vn_log *log); /* log page 80h */
void vn_resv_log_read(struct vn_ctrl *ctrl); /* the host has read its first notice */

bool vn_resv_is_feature(const struct vn_ctrl *ctrl, uint8_t feature);
bool vn_resv_set_feature(struct vn_req *req, vn_status *status); /* true: it ends by itself */
vn_status vn_resv_get_feature(struct vn_req *req, uint32_t select);

uint8_t vn_resv_capabilities(const struct vn_ns *ns); /* RESCAP; the namespace has a state */

#endif
