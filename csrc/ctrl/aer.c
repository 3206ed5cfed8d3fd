/* Asynchronous events (Base 5.2): parked requests, pending events, masking until the log page is read.
 * Raised by any part of the controller; told to the host when it has a request parked.
 */
#include <string.h>

#include "core/status.h"
#include "ctrl/ctrl.h"

#define AEN_CFG_NS_ATTR (1u << 8) /* feature 0Bh */

/* One pending event a type; its log page, once read, opens the type again. */
static bool is_enabled(const struct vn_ctrl *ctrl, enum vn_aen_type type, uint8_t info) {
    if (type == VN_AEN_NOTICE && info == VN_AEN_NOTICE_NS_ATTR)
        return ctrl->features.async_event & AEN_CFG_NS_ATTR;
    return true;
}

/* A parked request holds no slot of the completion queue: false when there is none for it now. */
static bool unpark(struct vn_req *req) {
    struct vn_cq *cq = req->sq->cq;
    if (vn_cq_free_slots(cq) == 0)
        return false;
    cq->reserved++;
    vn_ctrl_enter_flight(req->ctrl);
    vn_queue_track(req->sq, req);
    return true;
}

/* Complete parked requests for what is pending. */
void vn_aer_flush(struct vn_ctrl *ctrl) {
    for (unsigned type = 0; type < 3 && ctrl->nr_aers; type++) {
        struct vn_pending_event *event = &ctrl->pending[type];
        if (!event->pending || event->masked || ctrl->state != VN_CTRL_READY)
            continue;
        struct vn_req *req = ctrl->aers[ctrl->nr_aers - 1];
        if (!unpark(req))
            return;
        ctrl->nr_aers--;
        event->pending = false;
        event->masked = true;
        req->result = type | (uint32_t)event->info << 8 | (uint32_t)event->log << 16;
        vn_ctrl_end(req, VN_SC_SUCCESS);
    }
}

bool vn_aer_park(struct vn_req *req, vn_status *status) {
    struct vn_ctrl *ctrl = req->ctrl;
    if (ctrl->nr_aers == VN_MAX_AERS) {
        *status = VN_SC_AER_LIMIT;
        return false;
    }
    /* Parked, it is not in flight: it holds no guest memory and no slot, and no reset waits for it. */
    vn_queue_untrack(req->sq, req);
    req->sq->cq->reserved--;
    vn_ctrl_leave_flight(ctrl);
    ctrl->aers[ctrl->nr_aers++] = req;
    vn_aer_flush(ctrl);
    return true;
}

void vn_aer_raise(struct vn_ctrl *ctrl, enum vn_aen_type type, uint8_t info, uint8_t log) {
    if (ctrl->state != VN_CTRL_READY || !is_enabled(ctrl, type, info))
        return;
    ctrl->pending[type].pending = true;
    ctrl->pending[type].info = info;
    ctrl->pending[type].log = log;
    vn_aer_flush(ctrl);
}

void vn_aer_log_read(struct vn_ctrl *ctrl, uint8_t log) {
    for (unsigned type = 0; type < 3; type++) {
        if (ctrl->pending[type].log == log) /* also what came since: the page held it */
            ctrl->pending[type].masked = ctrl->pending[type].pending = false;
    }
    vn_aer_flush(ctrl);
}

static void drop(struct vn_ctrl *ctrl, struct vn_req *req) {
    vn_req_set_state(req, VN_REQ_DONE);
    vn_req_set_state(req, VN_REQ_FREE);
    vn_ctrl_put_req(ctrl, req);
}

void vn_aer_drop_all(struct vn_ctrl *ctrl) {
    while (ctrl->nr_aers)
        drop(ctrl, ctrl->aers[--ctrl->nr_aers]);
    for (unsigned type = 0; type < 3; type++)
        ctrl->pending[type] = (struct vn_pending_event){0};
    ctrl->told_warnings = 0;
    memset(ctrl->changed_ns, 0, sizeof(ctrl->changed_ns)); /* the next host looks at all namespaces anyway */
}

bool vn_aer_abort(struct vn_ctrl *ctrl, uint16_t cid) {
    for (uint32_t i = 0; i < ctrl->nr_aers; i++) {
        struct vn_req *req = ctrl->aers[i];
        if (req->cmd.cid != cid)
            continue;
        if (!unpark(req))
            return false;
        ctrl->aers[i] = ctrl->aers[--ctrl->nr_aers];
        req->cancelled = true; /* no entry in the error log: the host asked for it */
        vn_req_complete(req, VN_SC_ABORT_REQUESTED);
        return true;
    }
    return false;
}

void vn_aer_ns_changed(struct vn_ctrl *ctrl, uint32_t nsid) {
    if (ctrl->state != VN_CTRL_READY) /* to nobody: before a host is there, nothing has changed */
        return;
    ctrl->changed_ns[nsid] = true;
    vn_aer_raise(ctrl, VN_AEN_NOTICE, VN_AEN_NOTICE_NS_ATTR, VN_LOG_CHANGED_NS);
}
