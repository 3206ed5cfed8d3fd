/* Format NVM (Base 5.14): a namespace is erased, and gets another format. It goes on by itself, step by step on the reactor:
 * the host that wanted it may be gone, and after a restart it is ended when the namespace is attached.
 */
#ifndef VN_FORMAT_CMD_H
#define VN_FORMAT_CMD_H

#include "ctrl/ctrl.h"

/* True: the command is parked until all of it is done; else *status is its outcome. */
bool vn_format_nvm(struct vn_req *req, vn_status *status);
/* The channel is new: what had begun before a restart goes on over it. */
void vn_format_resume(struct vn_ns_chan *nsc);
/* The controller's commands that are cancelled and wait for a format end now; it goes on without them. */
void vn_format_drop(struct vn_ctrl *ctrl);
/* Whether a format operation will come back to the channel, which therefore stays. It lets go soon once nsc->closing is set. */
bool vn_format_uses(const struct vn_ns_chan *nsc);
bool vn_format_runs(const struct vn_ns *ns); /* over whatever channel */
/* FPI of Identify Namespace: that it is told, and percent that remain to be formatted. */
uint8_t vn_format_fpi(const struct vn_ns *ns);

#endif
