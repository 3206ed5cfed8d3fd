/* The host's side of authentication: what Connect has asked for, message by message, until the queue is live.
 * The machine is auth.h's; here are its commands. Called by host_setup.c and by itself with each answer.
 */
#include <errno.h>
#include <stdlib.h>

#include "nvmetcp/host.h"

/* Of a queue whose host has a key. */
struct vn_hauth {
    struct vn_auth auth;
    uint8_t message[VN_AUTH_MESSAGE_MAX];
    struct iovec iov;
};

int vn_hauth_alloc(struct vn_hq *queue) {
    if (!queue->assoc->config->host_key.bytes)
        return 0;
    queue->auth = calloc(1, sizeof(*queue->auth));
    return queue->auth ? 0 : -ENOMEM;
}

void vn_hauth_free(struct vn_hq *queue) {
    if (queue->auth)
        vn_auth_fini(&queue->auth->auth);
    free(queue->auth);
    queue->auth = NULL;
}

static void go_on(struct vn_hq *queue);

static void on_answer(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_hq *queue = cmd->queue;
    struct vn_assoc *assoc = queue->assoc;
    bool received = cmd->direction == VN_HCMD_IN;
    if (fate != VN_FATE_DONE || assoc->state != VN_ASSOC_CONNECTING)
        return;
    if (cmd->status) {
        vn_status code = VN_STATUS_CODE(cmd->status);
        vn_assoc_fail(assoc, EACCES, "%s does not go on with authentication: %s (status %x/%02x)", assoc->name,
                      vn_assoc_status_name(code), code >> 8, code & 0xff);
        return;
    }
    if (received)
        vn_auth_host_take(&queue->auth->auth, queue->auth->message, cmd->moved);
    go_on(queue);
}

static void send_command(struct vn_hq *queue, uint8_t fctype, enum vn_hcmd_data direction, uint32_t bytes) {
    struct vn_hauth *hauth = queue->auth;
    hauth->iov = (struct iovec){hauth->message, bytes};
    struct vn_hcmd *cmd = vn_hq_command(queue, VN_ADMIN_FABRICS, direction, &hauth->iov, bytes, on_answer);
    if (!cmd) { /* one at a time: SQ flow control refuses */
        vn_assoc_fail(queue->assoc, EPROTO, "%s does not move on its queue's head", queue->assoc->name);
        return;
    }
    struct vn_sqe *sqe = &cmd->capsule.pdu.cmd.sqe;
    sqe->nsid = fctype;
    sqe->cdw10 = VN_AUTH_CDW10;
    sqe->cdw11 = bytes;
    vn_hcmd_send(cmd);
}

static void go_on(struct vn_hq *queue) {
    struct vn_assoc *assoc = queue->assoc;
    struct vn_auth *auth = &queue->auth->auth;
    switch (vn_auth_host_next(auth)) {
    case VN_AUTH_SEND:
        send_command(queue, VN_FCTYPE_AUTH_SEND, VN_HCMD_OUT, vn_auth_host_give(auth, queue->auth->message));
        break;
    case VN_AUTH_RECEIVE:
        send_command(queue, VN_FCTYPE_AUTH_RECV, VN_HCMD_IN, sizeof(queue->auth->message));
        break;
    case VN_AUTH_FINISHED:
        if (auth->verdict == VN_AUTH_PROVED)
            vn_setup_queue_live(queue);
        else
            vn_assoc_fail(assoc, EACCES, "authentication with %s failed: %s", assoc->name, vn_auth_words(auth));
    }
}

void vn_setup_auth(struct vn_hq *queue, uint32_t result) {
    struct vn_assoc *assoc = queue->assoc;
    const struct vn_assoc_config *config = assoc->config;
    bool asked = result & (VN_CONNECT_AUTH_ATR | VN_CONNECT_AUTH_ASCR);
    if (asked && !queue->auth) {
        vn_assoc_fail(assoc, EACCES, "%s wants the host %s to authenticate: give its key (dhchap-key-file)", assoc->name,
                      config->hostnqn);
    } else if (result & VN_CONNECT_AUTH_ASCR) {
        vn_assoc_fail(assoc, EPROTONOSUPPORT, "%s wants a secure channel made by authentication: give a TLS key instead",
                      assoc->name);
    } else if (!asked && config->ctrl_key.bytes && !queue->qid) {
        /* On queues for I/O it is up to the target, which has proved itself by then: Linux does without since 6.17. */
        vn_assoc_fail(assoc, EACCES, "%s does not authenticate hosts, so it cannot prove who it is: give it the keys too",
                      assoc->name);
    } else if (!asked) {
        vn_setup_queue_live(queue);
    } else {
        struct vn_auth_opts opts = {
            .hostnqn = config->hostnqn,
            .subnqn = config->subnqn,
            .host_key = &config->host_key,
            .ctrl_key = config->ctrl_key.bytes ? &config->ctrl_key : NULL,
            .t_id = (uint16_t)(queue->qid + 1),
        };
        vn_auth_fini(&queue->auth->auth); /* of an earlier connection */
        if (vn_auth_init(&queue->auth->auth, &opts))
            vn_assoc_fail(assoc, EINVAL, "%s", "a name is too long for authentication");
        else
            go_on(queue);
    }
}
