/* A connection to the target: initialization, capsules and data in, and its end. From Connect on it is a queue pair.
 * Called by conn.c; commands go to target_cmd.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"
#include "nvmetcp/target.h"

#define NO_FAULT ((struct vn_pdu_fault){VN_FES_NONE, 0})
static void set_state(struct vn_tqueue *queue, enum vn_tqueue_state state) {
    assert(state > queue->state);
    queue->state = (uint8_t)state;
}

/* --- The target's lists: half-open connections, oldest first, and all others --- */
static void arm_handshake(struct vn_target *target) {
    struct vn_tqueue *oldest = target->half_first;
    vn_timer_disarm(target->reactor, &target->handshake_timer);
    if (!oldest)
        return;
    uint64_t due = oldest->accepted_ns + target->opts.handshake_ms * 1000000ull, now = vn_reactor_now_ns(target->reactor);
    vn_timer_arm(target->reactor, &target->handshake_timer, due > now ? due - now : 0);
}

static void list_half_open(struct vn_tqueue *queue) {
    struct vn_target *target = queue->target;
    queue->prev = target->half_last;
    queue->next = NULL;
    *(queue->prev ? &queue->prev->next : &target->half_first) = queue;
    target->half_last = queue;
    target->nr_half_open++;
    if (!queue->prev)
        arm_handshake(target);
}

static void leave_half_open(struct vn_tqueue *queue) {
    struct vn_target *target = queue->target;
    *(queue->prev ? &queue->prev->next : &target->half_first) = queue->next;
    *(queue->next ? &queue->next->prev : &target->half_last) = queue->prev;
    target->nr_half_open--;
    arm_handshake(target);
    queue->prev = NULL;
    queue->next = target->queues;
    if (queue->next)
        queue->next->prev = queue;
    target->queues = queue;
}

static bool is_half_open(const struct vn_tqueue *queue) {
    return queue->state == VN_TQUEUE_NEW || queue->state == VN_TQUEUE_HALF;
}

void vn_tqueue_live(struct vn_tqueue *queue) {
    leave_half_open(queue);
    set_state(queue, VN_TQUEUE_LIVE);
    if (queue->qid == 0)
        vn_tctrl_begin(queue->ctrl);
}

void vn_tqueue_end(struct vn_tqueue *queue, int err) {
    if (queue->state >= VN_TQUEUE_ENDING)
        return;
    if (is_half_open(queue))
        leave_half_open(queue);
    set_state(queue, VN_TQUEUE_ENDING);
    vn_conn_close(&queue->conn, err);
}

void vn_tqueue_hurry(struct vn_target *target) {
    uint64_t now = vn_reactor_now_ns(target->reactor), bound_ns = target->opts.handshake_ms * 1000000ull;
    while (target->half_first && now - target->half_first->accepted_ns >= bound_ns) {
        vn_target_refused(target, "%s has not %s within %u ms", target->half_first->peer,
                          target->half_first->auth_needed ? "authenticated itself" : "connected to a subsystem",
                          target->opts.handshake_ms);
        vn_tqueue_end(target->half_first, -ETIMEDOUT);
    }
    arm_handshake(target);
}

/* --- Initialization (TCP 3.4.1.1) --- */
static struct vn_pdu_fault initialize(struct vn_tqueue *queue, const struct vn_pdu_ic_req *req) {
    struct vn_conn *conn = &queue->conn;
    uint8_t digest = req->digest & (VN_IC_DIGEST_HEADER | VN_IC_DIGEST_DATA);
    struct vn_tx *tx = &queue->ic_tx;
    vn_pdu_head(&tx->pdu.common, VN_PDU_IC_RESP, 0, false, false, 0, 0);
    tx->pdu.ic_resp.digest = digest;
    tx->pdu.ic_resp.maxh2cdata = VN_MAXH2CDATA;
    queue->max_r2ts = (uint32_t)vn_min_u64(req->maxr2t, VN_MAX_R2TS - 1) + 1; /* zero-based on the wire */
    vn_conn_send(conn, tx);
    conn->rules.hdgst = conn->tx_hdgst = digest & VN_IC_DIGEST_HEADER;
    conn->rules.ddgst = conn->tx_ddgst = digest & VN_IC_DIGEST_DATA;
    conn->tx_align = (uint8_t)((req->hpda + 1) * 4);
    conn->rules.ready = true;
    set_state(queue, VN_TQUEUE_HALF);
    return NO_FAULT;
}

/* --- PDUs --- */
static struct vn_pdu_fault begin_command(struct vn_tqueue *queue, const struct vn_pdu_cmd *pdu, struct vn_conn_sink *sink) {
    struct vn_tcmd *cmd = vn_tcmd_get(queue);
    if (!cmd) /* more commands than the queue has entries */
        return (struct vn_pdu_fault){VN_FES_SEQUENCE, 0};
    uint32_t capsule_bytes = vn_pdu_data_bytes(&queue->conn.rules, &pdu->common);
    memcpy(&cmd->req.cmd, &pdu->sqe, sizeof(cmd->req.cmd));
    vn_tcmd_read_sgl(cmd, capsule_bytes);
    if (capsule_bytes && !cmd->refused)
        *sink = (struct vn_conn_sink){.iov = cmd->bufs, .nr_iov = cmd->nr_bufs};
    queue->arriving = cmd;
    return NO_FAULT;
}

static struct vn_pdu_fault begin_data(struct vn_tqueue *queue, const struct vn_pdu_data *pdu, struct vn_conn_sink *sink) {
    struct vn_tcmd *cmd;
    struct vn_pdu_fault fault = vn_tcmd_find_data(queue, pdu, &cmd);
    if (fault.fes == VN_FES_NONE)
        *sink = (struct vn_conn_sink){.iov = cmd->bufs, .nr_iov = cmd->nr_bufs, .offset = pdu->datao};
    queue->arriving = cmd;
    return fault;
}

static struct vn_pdu_fault on_header(struct vn_conn *conn, const union vn_pdu *pdu, struct vn_conn_sink *sink) {
    struct vn_tqueue *queue = vn_container_of(conn, struct vn_tqueue, conn);
    switch (pdu->common.type) {
    case VN_PDU_CMD:
        return begin_command(queue, &pdu->cmd, sink);
    case VN_PDU_H2C_DATA:
        return begin_data(queue, &pdu->data, sink);
    default:
        return NO_FAULT;
    }
}

static struct vn_pdu_fault on_pdu(struct vn_conn *conn, const union vn_pdu *pdu, bool intact) {
    struct vn_tqueue *queue = vn_container_of(conn, struct vn_tqueue, conn);
    struct vn_tcmd *cmd = queue->arriving;
    queue->arriving = NULL;
    switch (pdu->common.type) {
    case VN_PDU_IC_REQ:
        return initialize(queue, &pdu->ic_req);
    case VN_PDU_CMD:
        if (!intact && !cmd->refused)
            cmd->refused = VN_SC_TRANSIENT_TRANSPORT;
        vn_tcmd_arrived(cmd);
        return NO_FAULT;
    case VN_PDU_H2C_DATA:
        vn_tcmd_data_received(cmd, &pdu->data, intact);
        return NO_FAULT;
    default:
        return NO_FAULT;
    }
}

/* What has not come to the controller goes; what is with it is cancelled, and keeps its memory until it has ended. */
static void drop_commands(struct vn_tqueue *queue) {
    queue->arriving = NULL;
    if (queue->first.state != VN_TCMD_FREE)
        vn_tcmd_drop(&queue->first);
    for (uint32_t i = 0; i < queue->nr_made; i++) {
        uint8_t state = queue->cmds[i].state;
        if (state == VN_TCMD_ARRIVING || state == VN_TCMD_WAITING || state == VN_TCMD_RECEIVING)
            vn_tcmd_drop(&queue->cmds[i]);
    }
    if (!queue->ctrl || queue->ctrl->ending)
        return;
    for (struct vn_req *req = queue->ctrl->ctrl.sqs[queue->qid].inflight; req; req = req->next)
        vn_ctrl_cancel(req);
}

static void on_closed(struct vn_conn *conn, int err) {
    struct vn_tqueue *queue = vn_container_of(conn, struct vn_tqueue, conn);
    struct vn_tctrl *ctrl = queue->ctrl;
    if (is_half_open(queue))
        leave_half_open(queue);
    if (queue->state != VN_TQUEUE_ENDING && err == -EPROTO)
        vn_target_refused(queue->target, "%s broke the protocol: %s", queue->peer, vn_pdu_fes_name(conn->fault.fes));
    set_state(queue, VN_TQUEUE_DEAD);
    if (ctrl && queue->qid == 0 && !ctrl->ending)
        vn_tctrl_end(ctrl, err ? "the connection was lost" : "the host has closed the connection");
    drop_commands(queue);
    vn_target_sweep(queue->target);
}

static void on_opened(struct vn_conn *conn, int err) {
    struct vn_tqueue *queue = vn_container_of(conn, struct vn_tqueue, conn);
    const char *why = conn->stream.tls_why;
    if (err)
        vn_target_refused(queue->target, "%s did not complete the TLS handshake: %s", queue->peer, why ? why : strerror(-err));
}

static const struct vn_conn_ops conn_ops = {
    .opened = on_opened,
    .header = on_header,
    .pdu = on_pdu,
    .closed = on_closed,
};

/* --- Life --- */
void vn_tqueue_accept(struct vn_target *target, int fd, uint8_t listener, const struct sockaddr_storage *peer) {
    struct vn_tqueue *queue = NULL;
    if (target->nr_connections >= target->opts.max_connections) {
        vn_target_refused(target, "%u connections are as many as this target takes", target->nr_connections);
        goto out_close;
    }
    if (target->nr_half_open >= target->opts.max_half_open)
        vn_tqueue_end(target->half_first, -ETIMEDOUT);
    queue = calloc(1, sizeof(*queue));
    bool wants_tls = target->listeners[listener].flags & VN_LISTEN_TLS;
    struct vn_tls_context *tls = wants_tls ? target->tls : NULL;
    if (wants_tls && !tls) {
        vn_target_refused(target, "TLS is required, but no host has a key for it");
        goto out_close;
    }
    if (!queue || vn_conn_accept(&queue->conn, &target->group, &conn_ops, VN_PDU_CONTROLLER, fd, tls)) {
        vn_target_refused(target, "there is no memory for another connection");
        goto out_close;
    }
    queue->conn.rules.capsule_data_max = VN_IOCCSZ_BYTES;
    queue->conn.rules.data_max = VN_MAXH2CDATA;
    queue->target = target;
    queue->listener = listener;
    queue->accepted_ns = vn_reactor_now_ns(target->reactor);
    vn_address_print(peer, queue->peer, sizeof(queue->peer));
    target->nr_connections++;
    target->accepted++;
    list_half_open(queue);
    return;

out_close:
    free(queue);
    close(fd);
}

bool vn_tqueue_try_free(struct vn_tqueue *queue) {
    struct vn_target *target = queue->target;
    if (queue->state != VN_TQUEUE_DEAD || queue->nr_used)
        return false;
    if (queue->ctrl)
        vn_tctrl_drop_queue(queue->ctrl, queue);
    vn_tcmd_free_pool(queue);
    vn_tauth_free(queue);
    *(queue->prev ? &queue->prev->next : &target->queues) = queue->next;
    if (queue->next)
        queue->next->prev = queue->prev;
    target->nr_connections--;
    free(queue);
    return true;
}
