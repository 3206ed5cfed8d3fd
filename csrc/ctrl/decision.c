/* Namespace Management and Namespace Attachment (Base 5.22, 5.23). What a namespace stands on is Python's business, so these
 * commands are decided there: checked as far as the drive is known here, told by an event, and held until the answer comes
 * or the bound is over.
 */
#include <errno.h>
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/persona.h"
#include "ns/format.h"

#define NS_IN_MS 1000000ull
#define NR_BLOCKS_BITS 50 /* more than that no capacity has */
#define CDW10_SELECT 0xfu

static void ask_next(struct vn_drive *drive);

static struct vn_req *after(const struct vn_req *req) {
    return (struct vn_req *)(uintptr_t)req->filter[0];
}

/* --- What is refused here --- */
static vn_status look_at_create(const struct vn_req *req, struct vn_decision *out) {
    const struct vn_ns_create *wanted = req->buffer;
    struct vn_format format = vn_format_from_flbas(wanted->flbas, wanted->dps);
    if (req->cmd.cdw11 >> 24) /* CSI: the NVM command set alone */
        return VN_SC_IOCS_NOT_SUPPORTED;
    if (!vn_format_is_valid(&format, VN_FORMAT_BLOCK_MIN) || !vn_persona_has_format(req->ctrl, format.index))
        return VN_SC_INVALID_FORMAT;
    if (wanted->ncap < wanted->nsze)
        return VN_SC_THIN_PROVISIONING;
    if (!wanted->nsze || wanted->ncap > wanted->nsze || (wanted->nmic & ~VN_NMIC_SHARED) || wanted->nvmsetid ||
        wanted->endgid > VN_ENDURANCE_GROUP)
        return VN_SC_INVALID_FIELD;
    if (wanted->anagrpid > (req->ctrl->ana ? VN_MAX_ANA_GROUPS : 0))
        return VN_SC_ANA_GROUP_INVALID;
    if (wanted->nsze >> NR_BLOCKS_BITS) {
        req->ctrl->error_specific = UINT64_MAX;
        return VN_SC_INSUFFICIENT_CAPACITY;
    }
    out->nr_blocks = wanted->nsze;
    out->block_size = 1u << vn_format_lba(&format)->shift;
    out->bytes = vn_format_bytes(&format, wanted->nsze);
    out->flbas = vn_format_flbas(&format);
    out->dps = vn_format_dps(&format);
    out->flags = wanted->nmic & VN_NMIC_SHARED ? VN_SPACE_SHARED : 0;
    out->group = wanted->anagrpid ? wanted->anagrpid : 1;
    return VN_SC_SUCCESS;
}

/* Ascending identifiers of controllers that there are (Base 4.4.1). */
static vn_status take_ctrls(const struct vn_req *req, struct vn_decision *out) {
    const struct vn_ctrl_list *list = req->buffer;
    if (!list->nr || list->nr > VN_DRIVE_MAX_CTRLS)
        return VN_SC_CTRL_LIST_INVALID;
    for (uint32_t i = 0; i < list->nr; i++) {
        if (!vn_drive_ctrl(req->ctrl->drive, list->ids[i]) || (i && list->ids[i] <= list->ids[i - 1]))
            return VN_SC_CTRL_LIST_INVALID;
        out->ctrls[i] = list->ids[i];
    }
    out->nr_ctrls = list->nr;
    return VN_SC_SUCCESS;
}

static vn_status look_at_attachment(const struct vn_req *req, struct vn_decision *out) {
    const struct vn_drive *drive = req->ctrl->drive;
    bool attach = out->kind == VN_DECIDE_ATTACH;
    vn_status status = take_ctrls(req, out);
    if (status)
        return status;
    for (uint32_t i = 0; i < out->nr_ctrls; i++) {
        bool has = vn_drive_ctrl(drive, out->ctrls[i])->namespaces.by_nsid[out->nsid];
        if (has == attach)
            return attach ? VN_SC_NS_ATTACHED : VN_SC_NS_NOT_ATTACHED;
    }
    if (attach && !vn_drive_is_shared(drive, out->nsid) && vn_drive_nr_attached(drive, out->nsid) + out->nr_ctrls > 1)
        return VN_SC_NS_PRIVATE;
    return VN_SC_SUCCESS;
}

/* What the command asks for, or how it is refused. */
static vn_status look(const struct vn_req *req, struct vn_decision *out) {
    const struct vn_drive *drive = req->ctrl->drive;
    uint32_t select = req->cmd.cdw10 & CDW10_SELECT, nsid = req->cmd.nsid;
    bool manages = req->cmd.opcode == VN_ADMIN_NS_MANAGEMENT;
    if (select > 1)
        return VN_SC_INVALID_FIELD;
    *out = (struct vn_decision){.ctrl = req->ctrl->id, .nsid = nsid,
                                .kind = (manages ? (uint32_t)VN_DECIDE_CREATE : (uint32_t)VN_DECIDE_ATTACH) + select};
    if (out->kind == VN_DECIDE_CREATE) {
        out->nsid = 0; /* reserved (Base 5.23) */
        return look_at_create(req, out);
    }
    if (out->kind == VN_DECIDE_DELETE && nsid == VN_NSID_BROADCAST)
        return VN_SC_SUCCESS;
    if (!nsid || nsid > VN_MAX_NAMESPACES || !drive->spaces[nsid])
        return VN_SC_INVALID_NS;
    return manages ? VN_SC_SUCCESS : look_at_attachment(req, out);
}

/* --- The commands that wait --- */
static void take_out(struct vn_decisions *decisions, struct vn_req *req) {
    struct vn_req *before = NULL;
    for (struct vn_req *at = decisions->first; at != req; at = after(at))
        before = at;
    if (before)
        before->filter[0] = req->filter[0];
    else
        decisions->first = after(req);
    if (decisions->last == req)
        decisions->last = before;
    if (decisions->asked_for == req)
        decisions->asked_for = NULL;
}

static void arm(struct vn_drive *drive) {
    struct vn_decisions *decisions = &drive->decisions;
    uint64_t now = vn_reactor_now_ns(drive->reactor);
    vn_timer_disarm(drive->reactor, &decisions->timer);
    if (decisions->first) {
        uint64_t until = decisions->first->filter[1];
        vn_timer_arm(drive->reactor, &decisions->timer, until > now ? until - now : 0);
    }
}

/* Python has not answered in time: the host may try again, so there is no DNR. */
static void on_timeout(struct vn_timer *timer) {
    struct vn_decisions *decisions = vn_container_of(timer, struct vn_decisions, timer);
    struct vn_drive *drive = vn_container_of(decisions, struct vn_drive, decisions);
    uint64_t now = vn_reactor_now_ns(drive->reactor);
    struct vn_req *req;
    while ((req = decisions->first) && req->filter[1] <= now) {
        take_out(decisions, req);
        vn_req_complete(req, VN_SC_INTERNAL);
    }
    ask_next(drive);
}

/* Python is asked one thing at a time, also when the host has given up on it. */
static void ask_next(struct vn_drive *drive) {
    struct vn_decisions *decisions = &drive->decisions;
    struct vn_req *req;
    while (!decisions->asked.id && (req = decisions->first)) {
        vn_status status = look(req, &decisions->asked);
        if (status) {
            take_out(decisions, req);
            decisions->asked.id = 0;
            vn_ctrl_end(req, status);
            continue;
        }
        decisions->asked.id = ++decisions->last_id;
        decisions->asked_for = req;
        vn_event_emit(req->ctrl->events, VN_EVENT_DECISION, req->ctrl->id, decisions->asked.id, req->cmd.nsid, "%s", "");
    }
    arm(drive);
}

static bool has_data(const struct vn_req *req) {
    return req->cmd.opcode == VN_ADMIN_NS_ATTACHMENT || (req->cmd.cdw10 & CDW10_SELECT) == VN_NS_MANAGE_CREATE;
}

bool vn_decision_park(struct vn_req *req, vn_status *status) {
    struct vn_drive *drive = req->ctrl->drive;
    struct vn_decisions *decisions = &drive->decisions;
    *status = has_data(req) ? vn_ctrl_receive(req, req->buffer, VN_PAGE_SIZE) : VN_SC_SUCCESS;
    if (*status)
        return false;
    decisions->timer.fn = on_timeout;
    req->filter[0] = 0;
    req->filter[1] = vn_reactor_now_ns(drive->reactor) + VN_DECISION_MS * NS_IN_MS;
    if (decisions->last)
        decisions->last->filter[0] = (uintptr_t)req;
    else
        decisions->first = req;
    decisions->last = req;
    ask_next(drive);
    return true;
}

void vn_decision_drop(struct vn_ctrl *ctrl) {
    struct vn_decisions *decisions = &ctrl->drive->decisions;
    struct vn_req *next;
    for (struct vn_req *req = decisions->first; req; req = next) {
        next = after(req);
        if (req->ctrl != ctrl)
            continue;
        take_out(decisions, req);
        req->cancelled = true;
        vn_req_complete(req, VN_SC_ABORT_REQUESTED);
    }
    if (decisions->timer.armed)
        arm(ctrl->drive);
}

int vn_decision_answer(struct vn_drive *drive, uint64_t id, vn_status status, uint32_t result, uint64_t specific) {
    struct vn_decisions *decisions = &drive->decisions;
    if (decisions->asked.id != id)
        return -EINVAL;
    struct vn_req *req = decisions->asked_for;
    if (req) {
        take_out(decisions, req);
        req->result = result;
        req->ctrl->error_specific = status ? specific : 0;
        if (!status && req->cmd.opcode == VN_ADMIN_NS_MANAGEMENT)
            vn_events_change_ns(req);
        vn_ctrl_end(req, status);
    }
    decisions->asked.id = 0;
    ask_next(drive);
    return req ? 0 : -ECANCELED;
}
