/* Asynchronous events (Base 5.2): parked requests, pending events, masking until the log page is read.
 * Raised by any part of the controller; told to the host when it has a request parked.
 */
#include <string.h>

#include "core/fabrics.h"
#include "core/nvme_admin.h"
#include "core/nvme_zns.h"
#include "core/status.h"
#include "core/util.h"
#include "ctrl/ctrl.h"

/* What there is to tell of, in the order in which it is told. One event waits for each; those of one type wait for each
 * other: after one is told, the type is masked until the host has read that one's log page (Base 5.2). */
static const struct {
    uint8_t type, info, log;
    uint32_t config; /* the bit of feature 0Bh that lets it pass; 0: none */
} kinds[] = {
    {VN_AEN_ERROR, VN_AEN_ERROR_DB_REGISTER, VN_LOG_ERROR, 0},
    {VN_AEN_ERROR, VN_AEN_ERROR_DB_VALUE, VN_LOG_ERROR, 0},
    {VN_AEN_ERROR, VN_AEN_ERROR_DIAGNOSTIC, VN_LOG_ERROR, 0},
    {VN_AEN_ERROR, VN_AEN_ERROR_PERSISTENT, VN_LOG_ERROR, 0},
    {VN_AEN_SMART, VN_AEN_SMART_RELIABILITY, VN_LOG_SMART, 0}, /* log_page.c looks at the bits of these three */
    {VN_AEN_SMART, VN_AEN_SMART_TEMPERATURE, VN_LOG_SMART, 0},
    {VN_AEN_SMART, VN_AEN_SMART_SPARE, VN_LOG_SMART, 0},
    {VN_AEN_NOTICE, VN_AEN_NOTICE_NS_ATTR, VN_LOG_CHANGED_NS, VN_OAES_NS_ATTR},
    {VN_AEN_NOTICE, VN_AEN_NOTICE_FIRMWARE, VN_LOG_FIRMWARE, VN_OAES_FIRMWARE},
    {VN_AEN_NOTICE, VN_AEN_NOTICE_TELEMETRY, VN_LOG_TELEMETRY_CTRL, VN_OAES_TELEMETRY},
    {VN_AEN_NOTICE, VN_AEN_NOTICE_ENDURANCE, VN_LOG_ENDURANCE_EVENTS, VN_OAES_ENDURANCE},
    {VN_AEN_NOTICE, VN_AEN_NOTICE_ZONE_CHANGED, VN_LOG_CHANGED_ZONES, VN_OAES_ZONE_CHANGED},
    {VN_AEN_NOTICE, VN_AEN_NOTICE_ANA, VN_LOG_ANA, VN_OAES_ANA},
    {VN_AEN_NOTICE, VN_AEN_NOTICE_DISCOVERY, VN_LOG_DISCOVERY, VN_OAES_DISCOVERY},
    {VN_AEN_IO, VN_AEN_IO_RESERVATION, VN_LOG_RESERVATION, 0},
    {VN_AEN_IO, VN_AEN_IO_SANITIZED, VN_LOG_SANITIZE, 0},
};

static bool is_enabled(const struct vn_ctrl *ctrl, uint32_t kind) {
    return !kinds[kind].config || (ctrl->features.async_event & kinds[kind].config);
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
    for (uint32_t kind = 0; kind < VN_ARRAY_SIZE(kinds) && ctrl->nr_aers; kind++) {
        uint8_t type = kinds[kind].type;
        if (!(ctrl->events_pending & 1u << kind) || ctrl->event_told[type] || ctrl->state != VN_CTRL_READY ||
            !is_enabled(ctrl, kind))
            continue;
        struct vn_req *req = ctrl->aers[ctrl->nr_aers - 1];
        if (!unpark(req))
            return;
        ctrl->nr_aers--;
        ctrl->events_pending &= ~(1u << kind);
        ctrl->event_told[type] = (uint8_t)(kind + 1);
        req->result = type | (uint32_t)kinds[kind].info << 8 | (uint32_t)kinds[kind].log << 16;
        req->result_high = kinds[kind].log == VN_LOG_CHANGED_ZONES ? ctrl->zone_nsid : 0;
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

void vn_aer_raise(struct vn_ctrl *ctrl, enum vn_aen_type type, uint8_t info) {
    uint32_t kind = 0;
    while (kinds[kind].type != type || kinds[kind].info != info) {
        kind++;
        assert(kind < VN_ARRAY_SIZE(kinds));
    }
    if (ctrl->state != VN_CTRL_READY || !is_enabled(ctrl, kind))
        return;
    ctrl->events_pending |= 1u << kind;
    vn_aer_flush(ctrl);
}

void vn_aer_log_read(struct vn_ctrl *ctrl, uint8_t log) {
    for (uint32_t kind = 0; kind < VN_ARRAY_SIZE(kinds); kind++) {
        if (kinds[kind].log != log)
            continue;
        ctrl->events_pending &= ~(1u << kind); /* what came since was in the page */
        if (ctrl->event_told[kinds[kind].type] == kind + 1)
            ctrl->event_told[kinds[kind].type] = 0;
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
    ctrl->events_pending = 0;
    memset(ctrl->event_told, 0, sizeof(ctrl->event_told));
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
    vn_aer_raise(ctrl, VN_AEN_NOTICE, VN_AEN_NOTICE_NS_ATTR);
}
