/* The request's life: its one state setter and the one way back, vn_req_complete.
 * Called by every layer that ends a command.
 */
#include "core/req.h"

void vn_req_set_state(struct vn_req *req, enum vn_req_state state) {
    static const uint8_t may_follow[] = {
        [VN_REQ_FREE] = 1u << VN_REQ_FETCHED,
        [VN_REQ_FETCHED] = (1u << VN_REQ_TAKEN) | (1u << VN_REQ_DONE),
        [VN_REQ_TAKEN] = (1u << VN_REQ_DONE) | (1u << VN_REQ_FETCHED), /* a next step of the same command */
        [VN_REQ_DONE] = 1u << VN_REQ_FREE,
    };
    assert(may_follow[req->state] & (1u << state));
    (void)may_follow;
    req->state = (uint8_t)state;
}

void vn_req_complete(struct vn_req *req, vn_status status) {
    assert(req->nr_frames > 0);
    req->status = status;
    struct vn_req_frame frame = req->frames[--req->nr_frames];
    frame.fn(req, frame.ctx);
}
