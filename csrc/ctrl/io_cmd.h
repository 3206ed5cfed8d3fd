/* What the files of the I/O commands share: io_cmd.c, verify.c, copy.c. Owner: the controller's reactor.
 * A command's run function answers SUCCESS when it is under way or has ended, else the status that it is to end with.
 */
#ifndef VN_CTRL_IO_CMD_H
#define VN_CTRL_IO_CMD_H

#include "ctrl/ctrl.h"

uint64_t vn_io_slba(const struct vn_sqe *cmd);
/* Of commands that name a range in CDW10 to CDW12, into req->offset, length and io_flags; req->op is set. The status when
 * it is not in the namespace. */
vn_status vn_io_take_range(struct vn_req *req);
/* VN_REQ_FUA when what the command writes is to be durable before it completes. */
uint32_t vn_io_write_flags(const struct vn_req *req);
/* The namespace of a command, and whether it may have it now. */
vn_status vn_io_enter(struct vn_req *req);
/* Read, Write, Compare: ready to be submitted, or the status. */
vn_status vn_io_prepare(struct vn_req *req, enum vn_op op);
/* Dataset Management: the ranges are in req->buffer and good, nr_steps of them, and next deals with them from req->step on; or
 * there is nothing to do, and the command has ended. */
vn_status vn_io_take_ranges(struct vn_req *req, void (*next)(struct vn_req *req));
/* To the namespace, now or when it has room. */
void vn_io_submit(struct vn_req *req);

/* What a conventional namespace does with the command. */
vn_status vn_io_run(struct vn_req *req);
/* fused.c: any command with FUSE or a PSDT that is not 0, or that of an SGL, of controllers on PCI */
vn_status vn_io_fused(struct vn_req *req);

/* uncorrectable.c */
vn_status vn_io_write_uncorrectable(struct vn_req *req);

/* reserve_cmd.c */
vn_status vn_io_resv_register(struct vn_req *req);
vn_status vn_io_resv_report(struct vn_req *req);
vn_status vn_io_resv_acquire(struct vn_req *req);
vn_status vn_io_resv_release(struct vn_req *req);

/* verify.c */
vn_status vn_io_verify(struct vn_req *req);

/* copy.c */
vn_status vn_io_copy(struct vn_req *req);
void vn_io_copy_limits(const struct vn_ns *ns, struct vn_id_ns *id); /* MSSRL, MCL, MSRC */

#endif
