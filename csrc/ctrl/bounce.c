/* The controller's own buffers for Copy and Verify. */
#include "ctrl/bounce.h"

#include "core/util.h"

void vn_bounce_init(struct vn_ctrl *ctrl, uint8_t *memory) {
    for (uint32_t i = 0; i < VN_NR_BOUNCES; i++, memory += VN_BOUNCE_LIST_BYTES + VN_BOUNCE_BYTES) {
        struct vn_bounce *bounce = (struct vn_bounce *)(void *)memory;
        bounce->data = memory + VN_BOUNCE_LIST_BYTES;
        bounce->next = ctrl->bounces;
        ctrl->bounces = bounce;
    }
    ctrl->bucket = memory;
}

static void give_back(struct vn_req *req, void *arg) {
    struct vn_bounce *bounce = arg;
    bounce->next = req->ctrl->bounces;
    req->ctrl->bounces = bounce;
    vn_req_complete(req, req->status);
}

bool vn_bounce_take(struct vn_req *req) {
    struct vn_bounce *bounce = req->ctrl->bounces;
    if (!bounce)
        return false;
    req->ctrl->bounces = bounce->next;
    req->bounce = bounce;
    vn_req_push(req, give_back, bounce);
    return true;
}

void vn_bounce_point(struct vn_req *req, uint32_t at, uint32_t length) {
    assert(at <= VN_BOUNCE_BYTES && length <= VN_BOUNCE_BYTES - at);
    req->iov[0] = (struct iovec){.iov_base = req->bounce->data + at, .iov_len = length};
    req->nr_iov = 1;
    req->length = length;
}
