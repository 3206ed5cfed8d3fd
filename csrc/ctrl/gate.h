/* What stands before the I/O commands of a namespace that is not plain (ns->special): whether a command may go on now, and
 * what becomes of its reads and writes. Owner: the controller's reactor.
 */
#ifndef VN_CTRL_GATE_H
#define VN_CTRL_GATE_H

#include "ctrl/ctrl.h"

/* SUCCESS: it may; else how it ends. req->ns is set. */
vn_status vn_gate_check(struct vn_req *req);
/* The same of an admin command, on any controller. */
vn_status vn_gate_check_admin(const struct vn_req *req);
/* Whether a flush of all namespaces may not flush this one. */
bool vn_gate_flush_conflicts(const struct vn_ctrl *ctrl, const struct vn_ns *ns);
/* One operation on the namespace, in place of vn_ns_submit: it waits as long as its range is locked. */
void vn_gate_submit(struct vn_req *req);
/* The same for who has the lock: reads of marked blocks fail, writes remove the marks. */
void vn_gate_pass(struct vn_req *req);
/* The request ends, as vn_req_complete does it, when the namespace's state as it is now will outlive the process. */
void vn_gate_save(struct vn_req *req);
/* Some other command of the namespace, on a controller of the drive, has a part of this one's range with a backend. */
bool vn_gate_is_in_use(const struct vn_req *req);

#endif
