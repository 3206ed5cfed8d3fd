/* Connect (Base 6.3): who may have which queue of which controller. Every refusal says what was wrong.
 * Called by target_cmd.c for the first command of a connection.
 */
#include <errno.h>
#include <string.h>

#include "core/status.h"
#include "nvmetcp/subsys.h"

#define ENTRIES_MIN 2u
#define SQE_SQSIZE offsetof(struct vn_sqe, cdw11)
#define SQE_QID (offsetof(struct vn_sqe, cdw10) + 2)
#define IN_DATA(field) (VN_CONNECT_IATTR_DATA | (uint32_t)offsetof(struct vn_connect_data, field))

/* A status, and with VN_SC_CONNECT_PARAMETER the place of what was wrong. */
struct refusal {
    vn_status status;
    uint32_t result;
    const char *why; /* for the log: the end of a sentence */
};

#define REFUSE(status_, result_, why_) ((struct refusal){status_, (uint32_t)(result_), why_})
#define ADMIT ((struct refusal){0})

/* What can be said before the subsystem is known. */
static struct refusal check_form(const struct vn_sqe *cmd, const struct vn_connect_data *data) {
    if (VN_CONNECT_RECFMT(cmd))
        return REFUSE(VN_SC_CONNECT_FORMAT, 0, "the record format is not 0");
    if (!vn_nqn_is_valid(data->subnqn))
        return REFUSE(VN_SC_CONNECT_PARAMETER, IN_DATA(subnqn), "the subsystem's name is no NQN");
    /* SPDK's tools leave it empty: such a host has no name, and may come where any host may. */
    if (data->hostnqn[0] && !vn_nqn_is_valid(data->hostnqn))
        return REFUSE(VN_SC_CONNECT_PARAMETER, IN_DATA(hostnqn), "the host's name is no NQN");
    return ADMIT;
}

static struct refusal check_size(const struct vn_sqe *cmd, uint32_t entries_max) {
    uint32_t entries = VN_CONNECT_SQSIZE(cmd) + 1u;
    if (entries < ENTRIES_MIN || entries > entries_max)
        return REFUSE(VN_SC_CONNECT_PARAMETER, SQE_SQSIZE, "the queue size is not possible");
    return ADMIT;
}

static struct refusal attach(struct vn_tctrl *ctrl, struct vn_tqueue *queue, const struct vn_sqe *cmd) {
    if (vn_tctrl_add_queue(ctrl, queue, VN_CONNECT_QID(cmd), VN_CONNECT_SQSIZE(cmd) + 1u))
        return REFUSE(VN_SC_CONNECT_BUSY, 0, "there is no memory");
    queue->flow_off = VN_CONNECT_CATTR(cmd) & VN_CATTR_NO_SQ_FLOW;
    return ADMIT;
}

static struct refusal connect_admin(struct vn_subsys *subsys, struct vn_tqueue *queue, const struct vn_sqe *cmd,
                                    const struct vn_connect_data *data) {
    if (data->cntlid != VN_CNTLID_DYNAMIC)
        return REFUSE(VN_SC_CONNECT_PARAMETER, IN_DATA(cntlid), "controllers are given dynamically");
    struct refusal refusal = check_size(cmd, subsys->max_entries);
    if (refusal.status)
        return refusal;
    struct vn_tctrl *ctrl;
    int err = vn_tctrl_new(subsys, queue, data, VN_CONNECT_KATO_MS(cmd), &ctrl);
    if (err == -EBUSY)
        return REFUSE(VN_SC_CONNECT_BUSY, 0, "there are as many controllers as this target takes");
    if (err)
        return REFUSE(VN_SC_CONNECT_BUSY, 0, "there is no memory");
    refusal = attach(ctrl, queue, cmd);
    if (refusal.status)
        vn_tctrl_end(ctrl, "there is no memory");
    return refusal;
}

/* Both the NQN and the host identifier must be those of the admin queue. */
static struct refusal connect_io(struct vn_subsys *subsys, struct vn_tqueue *queue, const struct vn_sqe *cmd,
                                 const struct vn_connect_data *data) {
    struct vn_tctrl *ctrl = vn_tctrl_find(subsys->target, data->cntlid);
    if (!ctrl || ctrl->ending || ctrl->subsys != subsys)
        return REFUSE(VN_SC_CONNECT_PARAMETER, IN_DATA(cntlid), "there is no such controller");
    if (strcmp(ctrl->fabrics.hostnqn, data->hostnqn))
        return REFUSE(VN_SC_CONNECT_PARAMETER, IN_DATA(hostnqn), "the controller is another host's");
    if (memcmp(ctrl->fabrics.hostid, data->hostid, sizeof(data->hostid)))
        return REFUSE(VN_SC_CONNECT_PARAMETER, IN_DATA(hostid), "the controller is another host's");
    if (!ctrl->begun || ctrl->ctrl.state != VN_CTRL_READY)
        return REFUSE(VN_SC_COMMAND_SEQUENCE, 0, "the controller is not enabled");
    uint16_t qid = VN_CONNECT_QID(cmd);
    if (ctrl->fabrics.kind != VN_CNTRLTYPE_IO || qid > ctrl->ctrl.features.nr_sqs)
        return REFUSE(VN_SC_CONNECT_PARAMETER, SQE_QID, "the controller has no such queue");
    if (ctrl->ctrl.sqs[qid].exists)
        return REFUSE(VN_SC_COMMAND_SEQUENCE, 0, "the queue is connected already");
    struct refusal refusal = check_size(cmd, ctrl->ctrl.max_entries);
    return refusal.status ? refusal : attach(ctrl, queue, cmd);
}

static struct refusal admit(struct vn_tqueue *queue, const struct vn_sqe *cmd, const struct vn_connect_data *data) {
    struct refusal refusal = check_form(cmd, data);
    if (refusal.status)
        return refusal;
    struct vn_subsys *subsys = vn_subsys_find(queue->target, data->subnqn);
    if (!subsys || subsys->ending)
        return REFUSE(VN_SC_CONNECT_PARAMETER, IN_DATA(subnqn), "there is no such subsystem");
    if (!vn_subsys_admits(subsys, data->hostnqn))
        return REFUSE(VN_SC_CONNECT_HOST, 0, "the host is not allowed");
    const char *why = vn_tqueue_check_tls(queue, subsys, data->hostnqn);
    if (why)
        return REFUSE(VN_SC_CONNECT_HOST, 0, why);
    int err = vn_tauth_prepare(queue, subsys, data->hostnqn);
    if (err)
        return REFUSE(VN_SC_CONNECT_BUSY, 0, err == -EAGAIN ? "too many authenticate at the moment" : "there is no memory");
    return VN_CONNECT_QID(cmd) ? connect_io(subsys, queue, cmd, data) : connect_admin(subsys, queue, cmd, data);
}

void vn_tconnect(struct vn_tcmd *cmd) {
    struct vn_tqueue *queue = cmd->queue;
    const struct vn_connect_data *data = (const struct vn_connect_data *)cmd->slot;
    if (cmd->data_bytes != sizeof(*data)) {
        vn_tcmd_answer(cmd, vn_status_dnr(VN_SC_SGL_DATA_LENGTH), 0);
        return;
    }
    struct refusal refusal = admit(queue, &cmd->req.cmd, data);
    if (refusal.status) {
        vn_target_refused(queue->target, "%s is refused: %s; it is %.*s, and asked for %.*s", queue->peer, refusal.why,
                          (int)VN_NQN_MAX, data->hostnqn, (int)VN_NQN_MAX, data->subnqn);
        /* a target that is full may have room later */
        vn_status status = refusal.status == VN_SC_CONNECT_BUSY ? refusal.status : vn_status_dnr(refusal.status);
        vn_tcmd_answer(cmd, status, refusal.result);
        return;
    }
    uint32_t result = queue->ctrl->ctrl.cntlid;
    queue->auth_needed = queue->auth;
    if (queue->auth_needed)
        result |= VN_CONNECT_AUTH_ATR;
    else
        vn_tqueue_live(queue);
    vn_tcmd_answer(cmd, VN_SC_SUCCESS, result);
}
