/* Reservation Register, Report, Acquire and Release (Base 7.2 to 7.5), and the features, the log and the events that go with
 * them (81h to 83h, log 80h, event type 6). The rules are ns/reservation.c's; here are the data, the other controllers of the
 * drive, and what is kept. Called by io_cmd.c, admin_cmd.c, log_page.c.
 */
#include "ctrl/reserve_cmd.h"

#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/gate.h"
#include "ctrl/io_cmd.h"
#include "ns/ns_state.h"

#define CNTLID_NONE 0xffffu /* a registrant that has no controller now */
#define LOCATION_DATA 24u   /* the data pointer: what is wrong is in the data */
#define HOSTID_SHORT 8u
#define HOSTID_LONG 16u
#define EXHID 0x1u
#define RESCAP_PTPL 0x01u
#define RESCAP_ALL_TYPES 0x7eu
#define RESCAP_IEKEY_1_3 0x80u
#define FEATURE_ALL_MASKS 0xeu /* REGPRE, RESREL, RESPRE: bits of the notice types */

static bool is_zero(const uint8_t id[16]) {
    static const uint8_t zeros[16];
    return !memcmp(id, zeros, sizeof(zeros));
}

struct vn_resv_host vn_resv_host_of(const struct vn_ctrl *ctrl) {
    struct vn_resv_host host = {.ctrl = ctrl->drive ? ctrl->cntlid + 1u : UINT32_MAX}; /* fabrics: nobody who can register */
    if (!ctrl->drive || is_zero(ctrl->host.id))
        return host;
    host.ctrl = 0;
    memcpy(host.id, ctrl->host.id, sizeof(host.id));
    return host;
}

static bool is_of(const struct vn_ctrl *ctrl, const struct vn_resv_host *host) {
    struct vn_resv_host its = vn_resv_host_of(ctrl);
    return its.ctrl == host->ctrl && !memcmp(its.id, host->id, sizeof(its.id));
}

/* --- Notices: a queue for each controller --- */
static void add_notice(struct vn_ctrl *ctrl, uint32_t nsid, uint8_t type) {
    struct vn_ctrl_host *to = &ctrl->host;
    if (ctrl->state != VN_CTRL_READY || (to->masks[nsid] & 1u << type))
        return;
    if (to->nr_notices == VN_RESV_NOTICES) { /* the oldest is lost; the host sees a gap in the counts */
        to->first_notice = (to->first_notice + 1) % VN_RESV_NOTICES;
        to->nr_notices--;
    }
    to->notices[(to->first_notice + to->nr_notices++) % VN_RESV_NOTICES] =
        (struct vn_log_reservation){.count = ++to->count, .type = type, .nsid = nsid};
    vn_aer_raise(ctrl, VN_AEN_IO, VN_AEN_IO_RESERVATION);
}

static void send_notices(struct vn_req *req, const struct vn_resv_notices *notices) {
    const struct vn_drive *drive = req->ctrl->drive;
    for (uint32_t i = 0; i < notices->nr; i++) {
        for (size_t j = 0; j < VN_DRIVE_MAX_CTRLS; j++) {
            struct vn_ctrl *ctrl = drive->ctrls[j];
            if (ctrl && is_of(ctrl, &notices->list[i].host) && vn_ns_table_get(&ctrl->namespaces, req->cmd.nsid))
                add_notice(ctrl, req->cmd.nsid, notices->list[i].type);
        }
    }
}

void vn_resv_log(struct vn_log *log) {
    const struct vn_ctrl_host *host = &log->req->ctrl->host;
    struct vn_log_reservation page = {0};
    if (host->nr_notices) {
        page = host->notices[host->first_notice];
        page.available = (uint8_t)(host->nr_notices - 1);
    }
    vn_log_put(log, &page, sizeof(page));
}

void vn_resv_log_read(struct vn_ctrl *ctrl) {
    struct vn_ctrl_host *host = &ctrl->host;
    if (!host->nr_notices)
        return;
    host->first_notice = (host->first_notice + 1) % VN_RESV_NOTICES;
    if (--host->nr_notices)
        vn_aer_raise(ctrl, VN_AEN_IO, VN_AEN_IO_RESERVATION);
}

void vn_resv_forget(struct vn_ctrl *ctrl) {
    ctrl->host = (struct vn_ctrl_host){.count = ctrl->host.count};
}

/* --- Preempt and Abort: what the others' commands of this namespace become --- */
static bool has_lost(const struct vn_ctrl *ctrl, const struct vn_resv_notices *notices) {
    for (uint32_t i = 0; i < notices->nr; i++) {
        if (notices->list[i].type == VN_RESV_NOTICE_PREEMPTED_REGISTRATION && is_of(ctrl, &notices->list[i].host))
            return true;
    }
    return false;
}

static void abort_of(struct vn_ctrl *ctrl, const struct vn_ns *ns) {
    for (uint64_t mask = ctrl->io_sqs; mask; mask &= mask - 1) {
        for (struct vn_req *io = ctrl->sqs[__builtin_ctzll(mask) + 1].inflight; io; io = io->next) {
            if (!io->ns || io->ns->ns != ns)
                continue;
            io->io_flags |= VN_REQ_PREEMPTED;
            vn_ctrl_cancel(io);
        }
    }
}

static bool any_is_aborted(const struct vn_ctrl *ctrl, const struct vn_ns *ns) {
    for (uint64_t mask = ctrl->io_sqs; mask; mask &= mask - 1) {
        for (const struct vn_req *io = ctrl->sqs[__builtin_ctzll(mask) + 1].inflight; io; io = io->next) {
            if (io->ns && io->ns->ns == ns && (io->io_flags & VN_REQ_PREEMPTED))
                return true;
        }
    }
    return false;
}

/* It ends after those that it has aborted. */
static void end_after_aborted(struct vn_req *req) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        const struct vn_ctrl *ctrl = req->ctrl->drive->ctrls[i];
        if (ctrl && ctrl != req->ctrl && any_is_aborted(ctrl, req->ns->ns)) {
            vn_ctrl_resume_later(req, end_after_aborted);
            return;
        }
    }
    vn_req_complete(req, VN_SC_SUCCESS);
}

static void on_preempted(struct vn_req *req, void *arg) {
    (void)arg;
    if (req->state == VN_REQ_TAKEN) /* by the save */
        vn_req_set_state(req, VN_REQ_FETCHED);
    if (req->status)
        vn_req_complete(req, req->status);
    else
        end_after_aborted(req);
}

/* --- The commands --- */
static bool is_abort(const struct vn_sqe *cmd) {
    return cmd->opcode == VN_IO_RESV_ACQUIRE && VN_RESV_ACTION(cmd->cdw10) == VN_RESV_PREEMPT_AND_ABORT;
}

static vn_status change(struct vn_req *req, uint32_t bytes,
                        vn_status (*fn)(struct vn_reservation *, const struct vn_resv_host *, uint32_t, uint64_t, uint64_t,
                                        struct vn_resv_notices *)) {
    struct vn_ns *ns = req->ns->ns;
    struct vn_reservation *resv = &ns->state->kept.reservation;
    struct vn_resv_host host = vn_resv_host_of(req->ctrl);
    struct vn_resv_notices notices;
    uint64_t keys[2] = {0};
    bool lasted = resv->ptpl;
    if (!vn_ns_may_change(ns))
        return VN_SC_OPERATION_DENIED;
    vn_status status = vn_ctrl_receive(req, keys, bytes);
    if (status)
        return status;
    req->nr_iov = 0;
    status = fn(resv, &host, req->cmd.cdw10, keys[0], keys[1], &notices);
    if (status == VN_SC_INVALID_FIELD)
        req->error_location = 40; /* CDW10 */
    else if (status)
        req->error_location = LOCATION_DATA;
    if (status)
        return status;
    vn_ns_state_look(ns);
    send_notices(req, &notices);
    if (is_abort(&req->cmd)) {
        for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
            struct vn_ctrl *ctrl = req->ctrl->drive->ctrls[i];
            if (ctrl && ctrl != req->ctrl && has_lost(ctrl, &notices))
                abort_of(ctrl, ns);
        }
        vn_req_push(req, on_preempted, NULL);
    }
    if (lasted || resv->ptpl)
        vn_gate_save(req);
    else
        vn_req_complete(req, VN_SC_SUCCESS);
    return VN_SC_SUCCESS;
}

vn_status vn_io_resv_register(struct vn_req *req) {
    return change(req, 16, vn_resv_register);
}

vn_status vn_io_resv_acquire(struct vn_req *req) {
    return change(req, 16, vn_resv_acquire);
}

static vn_status release(struct vn_reservation *resv, const struct vn_resv_host *host, uint32_t cdw10, uint64_t crkey,
                         uint64_t none, struct vn_resv_notices *notices) {
    (void)none;
    return vn_resv_release(resv, host, cdw10, crkey, notices);
}

vn_status vn_io_resv_release(struct vn_req *req) {
    return change(req, 8, release);
}

/* --- Report --- */
struct report {
    bool extended;
    const struct vn_reservation *resv;
    uint32_t nr, bytes;
    uint8_t data[64 + 64 * (VN_DRIVE_MAX_CTRLS + VN_RESV_REGISTRANTS)];
};

static void put_ctrl(struct report *report, const struct vn_resv_registrant *registrant, uint16_t cntlid) {
    uint8_t rcsts = vn_resv_holds(report->resv, registrant);
    uint64_t short_id;
    if (report->extended) {
        struct vn_resv_ctrl_ext entry = {.cntlid = cntlid, .rcsts = rcsts, .rkey = registrant->key};
        memcpy(entry.hostid, registrant->host.id, sizeof(entry.hostid));
        memcpy(report->data + report->bytes, &entry, sizeof(entry));
        report->bytes += sizeof(entry);
    } else {
        memcpy(&short_id, registrant->host.id, sizeof(short_id));
        struct vn_resv_ctrl entry = {.cntlid = cntlid, .rcsts = rcsts, .hostid = short_id, .rkey = registrant->key};
        memcpy(report->data + report->bytes, &entry, sizeof(entry));
        report->bytes += sizeof(entry);
    }
    report->nr++;
}

/* Each controller of a registrant; a registrant that has none now, once. */
static void put_registrant(struct report *report, const struct vn_drive *drive, const struct vn_resv_registrant *registrant) {
    uint32_t before = report->nr;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (drive->ctrls[i] && is_of(drive->ctrls[i], &registrant->host))
            put_ctrl(report, registrant, drive->ctrls[i]->cntlid);
    }
    if (report->nr == before)
        put_ctrl(report, registrant, CNTLID_NONE);
}

vn_status vn_io_resv_report(struct vn_req *req) {
    const struct vn_reservation *resv = &req->ns->ns->state->kept.reservation;
    struct report report = {.extended = req->cmd.cdw11 & VN_RESV_EDS, .resv = resv};
    uint64_t length = (req->cmd.cdw10 + 1ull) * 4;
    if (length > vn_ctrl_max_transfer(req->ctrl)) {
        req->error_location = 40; /* CDW10: NUMD */
        return VN_SC_INVALID_FIELD;
    }
    if (!is_zero(req->ctrl->host.id) && req->ctrl->host.extended != report.extended) {
        req->error_location = 44; /* CDW11: EDS */
        return VN_SC_HOSTID_FORMAT;
    }
    report.bytes = report.extended ? sizeof(struct vn_resv_status) : VN_RESV_STATUS_BYTES;
    for (uint32_t i = 0; i < resv->nr; i++)
        put_registrant(&report, req->ctrl->drive, &resv->registrants[i]);
    struct vn_resv_status head = {
        .gen = resv->generation, .rtype = resv->type, .regctl = (uint16_t)report.nr, .ptpls = resv->ptpl};
    memcpy(report.data, &head, report.extended ? sizeof(head) : VN_RESV_STATUS_BYTES);
    vn_status status = vn_ctrl_send(req, report.data, (uint32_t)vn_min_u64(report.bytes, length), (uint32_t)length);
    req->nr_iov = 0;
    if (!status)
        vn_ctrl_end(req, VN_SC_SUCCESS);
    return status;
}

/* --- Features 81h to 83h (Base 5.27.1.25 to 27) --- */
bool vn_resv_is_feature(const struct vn_ctrl *ctrl, uint8_t feature) {
    switch (feature) {
    case VN_FEAT_HOST_ID:
    case VN_FEAT_RESV_MASK:
    case VN_FEAT_RESV_PERSISTENCE:
        return ctrl->drive;
    default:
        return false;
    }
}

/* The host has a registration somewhere: its identifier stays. */
static bool is_registered(const struct vn_ctrl *ctrl) {
    struct vn_resv_host host = vn_resv_host_of(ctrl);
    for (uint32_t nsid = 0; (nsid = vn_ns_table_next(&ctrl->namespaces, nsid));) {
        if (vn_resv_find(&ctrl->namespaces.by_nsid[nsid]->ns->state->kept.reservation, &host))
            return true;
    }
    return false;
}

static vn_status set_host_id(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    bool extended = req->cmd.cdw11 & EXHID;
    uint8_t id[16] = {0};
    vn_status status = vn_ctrl_receive(req, id, extended ? HOSTID_LONG : HOSTID_SHORT);
    req->nr_iov = 0;
    if (status)
        return status;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        const struct vn_ctrl *other = ctrl->drive->ctrls[i];
        if (other && other != ctrl && !is_zero(id) && !is_zero(other->host.id) && other->host.extended != extended)
            return VN_SC_HOSTID_FORMAT;
    }
    if (!is_zero(ctrl->host.id) && memcmp(id, ctrl->host.id, sizeof(id)) != 0 && is_registered(ctrl))
        return VN_SC_COMMAND_SEQUENCE;
    memcpy(ctrl->host.id, id, sizeof(id));
    ctrl->host.extended = extended;
    return VN_SC_SUCCESS;
}

/* Of one namespace, or of all: FFFFFFFFh. */
static vn_status check_nsid(const struct vn_req *req, bool all_too) {
    if (req->cmd.nsid == VN_NSID_BROADCAST)
        return all_too ? VN_SC_SUCCESS : VN_SC_INVALID_NS;
    return vn_ns_table_get(&req->ctrl->namespaces, req->cmd.nsid) ? VN_SC_SUCCESS : VN_SC_INVALID_NS;
}

static void set_mask(struct vn_req *req) {
    struct vn_ctrl_host *host = &req->ctrl->host;
    uint8_t mask = req->cmd.cdw11 & FEATURE_ALL_MASKS;
    if (req->cmd.nsid == VN_NSID_BROADCAST)
        memset(host->masks, mask, sizeof(host->masks));
    else
        host->masks[req->cmd.nsid] = mask;
}

/* One namespace after the other, each kept before the next. */
static void persist_next(struct vn_req *req);

static void on_persisted(struct vn_req *req, void *arg) {
    (void)arg;
    if (req->state == VN_REQ_TAKEN)
        vn_req_set_state(req, VN_REQ_FETCHED);
    if (req->status || req->cmd.nsid != VN_NSID_BROADCAST)
        vn_req_complete(req, req->status);
    else
        persist_next(req);
}

static void persist_next(struct vn_req *req) {
    if (req->cmd.nsid == VN_NSID_BROADCAST)
        req->step = vn_ns_table_next(&req->ctrl->namespaces, req->step);
    req->ns = req->step ? vn_ns_table_get(&req->ctrl->namespaces, req->step) : NULL;
    if (!req->ns) {
        vn_req_complete(req, VN_SC_SUCCESS);
        return;
    }
    if (!vn_ns_may_change(req->ns->ns)) {
        vn_req_complete(req, vn_status_dnr(VN_SC_OPERATION_DENIED));
        return;
    }
    req->ns->ns->state->kept.reservation.ptpl = req->cmd.cdw11 & 1;
    vn_req_push(req, on_persisted, NULL);
    vn_gate_save(req);
}

bool vn_resv_set_feature(struct vn_req *req, vn_status *status) {
    uint8_t feature = (uint8_t)req->cmd.cdw10;
    if (feature == VN_FEAT_HOST_ID) {
        *status = set_host_id(req);
        return false;
    }
    *status = check_nsid(req, true);
    if (*status)
        return false;
    if (feature == VN_FEAT_RESV_MASK) {
        set_mask(req);
        return false;
    }
    req->step = req->cmd.nsid == VN_NSID_BROADCAST ? 0 : req->cmd.nsid;
    persist_next(req);
    return true;
}

static vn_status get_value(struct vn_req *req, uint8_t feature, bool current) {
    const struct vn_ctrl_host *host = &req->ctrl->host;
    static const uint8_t zeros[HOSTID_LONG];
    uint32_t nsid = req->cmd.nsid;
    if (feature == VN_FEAT_HOST_ID) {
        uint32_t bytes = req->cmd.cdw11 & EXHID ? HOSTID_LONG : HOSTID_SHORT;
        if (current && !is_zero(host->id) && host->extended != (bytes == HOSTID_LONG))
            return VN_SC_HOSTID_FORMAT;
        req->result = current && host->extended;
        return vn_ctrl_send(req, current ? host->id : zeros, bytes, bytes);
    }
    vn_status status = check_nsid(req, false);
    if (status || !current)
        return status;
    req->result = feature == VN_FEAT_RESV_MASK ? host->masks[nsid]
                                               : req->ctrl->namespaces.by_nsid[nsid]->ns->state->kept.reservation.ptpl;
    return VN_SC_SUCCESS;
}

vn_status vn_resv_get_feature(struct vn_req *req, uint32_t select) {
    return get_value(req, (uint8_t)req->cmd.cdw10, select == VN_SEL_CURRENT);
}

uint8_t vn_resv_capabilities(const struct vn_ns *ns) {
    return (uint8_t)(RESCAP_ALL_TYPES | RESCAP_IEKEY_1_3 | (vn_keep_lasts(ns->state->keep) ? RESCAP_PTPL : 0));
}
