/* What stands before the I/O commands of a namespace that is not plain (ns->special): whether a command may go on now. */
#ifndef VN_CTRL_GATE_H
#define VN_CTRL_GATE_H

#include "ctrl/ctrl.h"

/* SUCCESS: it may; else how it ends. req->ns is set. */
vn_status vn_gate_check(struct vn_req *req);

#endif
