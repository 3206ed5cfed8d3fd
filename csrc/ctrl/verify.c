/* Verify (NVM Command Set 3.2.5): reads what the host names and shows it to nobody, a bounce buffer at a time. A step a
 * turn: however much is named, the others on this reactor wait for one buffer's worth. Called by io_cmd.c.
 */
#include "core/util.h"
#include "ctrl/bounce.h"
#include "ctrl/io_cmd.h"

static void read_next(struct vn_req *req);

static uint64_t total_bytes(const struct vn_req *req) {
    return (uint64_t)VN_RW_NLB(req->cmd.cdw12) << req->ns->ns->block_shift;
}

static void on_read(struct vn_req *req, void *arg) {
    (void)arg;
    vn_req_set_state(req, VN_REQ_FETCHED);
    req->step++;
    if (req->status || req->cancelled) {
        vn_req_complete(req, req->status ? req->status : VN_SC_ABORT_REQUESTED);
    } else if ((uint64_t)req->step * VN_BOUNCE_BYTES >= total_bytes(req)) {
        vn_count(&req->ctrl->counters.read_bytes, total_bytes(req)); /* SMART's Data Units Read, but no host read */
        vn_req_complete(req, VN_SC_SUCCESS);
    } else {
        vn_ctrl_resume_later(req, read_next);
    }
}

static void read_next(struct vn_req *req) {
    uint64_t done = (uint64_t)req->step * VN_BOUNCE_BYTES;
    req->op = VN_OP_READ;
    req->limits = 0; /* the limits count each step as the read that it is */
    req->offset = (vn_io_slba(&req->cmd) << req->ns->ns->block_shift) + done;
    vn_bounce_point(req, 0, (uint32_t)vn_min_u64(total_bytes(req) - done, VN_BOUNCE_BYTES));
    vn_req_push(req, on_read, NULL);
    vn_io_submit(req);
}

static void on_flushed(struct vn_req *req, void *arg) {
    (void)arg;
    vn_req_set_state(req, VN_REQ_FETCHED);
    if (req->status || req->cancelled)
        vn_req_complete(req, req->status ? req->status : VN_SC_ABORT_REQUESTED);
    else
        read_next(req);
}

static void begin(struct vn_req *req) {
    if (!vn_bounce_take(req)) {
        vn_ctrl_resume_later(req, begin);
        return;
    }
    req->step = 0;
    if (!(req->cmd.cdw12 & VN_RW_FUA)) {
        read_next(req);
        return;
    }
    req->op = VN_OP_FLUSH; /* FUA: what is verified has left the volatile cache before */
    vn_req_push(req, on_flushed, NULL);
    vn_io_submit(req);
}

vn_status vn_io_verify(struct vn_req *req) {
    req->op = VN_OP_READ;
    vn_status status = vn_io_take_range(req);
    if (!status)
        begin(req);
    return status;
}
