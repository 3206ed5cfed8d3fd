/* A queue of a host is a connection: opened, its parameters agreed on (IC), connected to the controller, live, closed.
 * Called by the association (host.c) and by conn.c. What PDUs say of commands is host_cmd.c's.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "core/util.h"
#include "nvmetcp/host.h"

#define ADMIN_CAPSULE_BYTES 8192u /* that much data is taken in a capsule of admin and fabrics commands (TCP 3.3.2) */

static const struct vn_pdu_fault no_fault = {.fes = VN_FES_NONE};

void vn_hq_set_state(struct vn_hq *queue, enum vn_hq_state state) {
    bool may_follow = state == VN_HQ_DOWN      ? queue->state == VN_HQ_CLOSING
                      : state == VN_HQ_CLOSING ? queue->state != VN_HQ_DOWN
                                               : state == queue->state + 1;
    assert(may_follow);
    (void)may_follow;
    queue->assoc->nr_live += (queue->qid && state == VN_HQ_LIVE);
    queue->assoc->nr_live -= (queue->qid && queue->state == VN_HQ_LIVE);
    queue->state = state;
}

static void on_opened(struct vn_conn *conn, int err) {
    struct vn_hq *queue = (struct vn_hq *)conn;
    const struct vn_assoc_config *config = queue->assoc->config;
    if (err) {
        const char *why = conn->stream.tls_why;
        if (why)
            vn_assoc_fail(queue->assoc, EKEYREJECTED, "TLS with %s failed: %s", queue->assoc->name, why);
        else
            vn_assoc_fail(queue->assoc, -err, "cannot connect to %s: %s", queue->assoc->name, strerror(-err));
        return;
    }
    if (queue->state != VN_HQ_OPENING)
        return;
    vn_hq_set_state(queue, VN_HQ_IC);
    struct vn_pdu_ic_req *req = &queue->ic.pdu.ic_req;
    memset(&queue->ic, 0, sizeof(queue->ic));
    vn_pdu_head(&req->common, VN_PDU_IC_REQ, 0, false, false, 4, 0);
    req->digest = (config->hdgst ? VN_IC_DIGEST_HEADER : 0) | (config->ddgst ? VN_IC_DIGEST_DATA : 0);
    req->maxr2t = VN_ASSOC_R2TS - 1;
    vn_conn_send(conn, &queue->ic);
}

/* The target may grant less than was asked for, and then we do not go on: who asks for digests wants them. */
static void on_ic_resp(struct vn_hq *queue, const struct vn_pdu_ic_resp *resp) {
    const struct vn_assoc_config *config = queue->assoc->config;
    bool hdgst = resp->digest & VN_IC_DIGEST_HEADER, ddgst = resp->digest & VN_IC_DIGEST_DATA;
    if (hdgst != config->hdgst || ddgst != config->ddgst) {
        vn_assoc_fail(queue->assoc, EPROTONOSUPPORT, "%s does not agree on %s digests: it %s them", queue->assoc->name,
                      hdgst != config->hdgst ? "header" : "data",
                      (hdgst != config->hdgst ? hdgst : ddgst) ? "insists on" : "does not do");
        return;
    }
    struct vn_conn *conn = &queue->conn;
    conn->rules.ready = true;
    conn->rules.hdgst = conn->tx_hdgst = hdgst;
    conn->rules.ddgst = conn->tx_ddgst = ddgst;
    conn->rules.data_max = VN_ASSOC_TRANSFER_MAX;
    conn->tx_align = (uint8_t)((resp->cpda + 1) * 4);
    queue->h2c_max = (uint32_t)vn_min_u64(resp->maxh2cdata, VN_ASSOC_TRANSFER_MAX);
    vn_hq_set_state(queue, VN_HQ_CONNECT);
    vn_setup_connect_queue(queue);
}

static struct vn_pdu_fault on_header(struct vn_conn *conn, const union vn_pdu *pdu, struct vn_conn_sink *sink) {
    struct vn_hq *queue = (struct vn_hq *)conn;
    if (queue->assoc->state == VN_ASSOC_CLOSING || pdu->common.type != VN_PDU_C2H_DATA)
        return no_fault;
    return vn_hcmd_on_data(queue, &pdu->data, sink);
}

static struct vn_pdu_fault on_pdu(struct vn_conn *conn, const union vn_pdu *pdu, bool intact) {
    struct vn_hq *queue = (struct vn_hq *)conn;
    if (queue->assoc->state == VN_ASSOC_CLOSING)
        return no_fault;
    switch (pdu->common.type) {
    case VN_PDU_IC_RESP:
        if (queue->state != VN_HQ_IC)
            return (struct vn_pdu_fault){.fes = VN_FES_SEQUENCE};
        on_ic_resp(queue, &pdu->ic_resp);
        return no_fault;
    case VN_PDU_C2H_DATA:
        return vn_hcmd_on_data_end(queue, &pdu->data, intact);
    case VN_PDU_R2T:
        return vn_hcmd_on_r2t(queue, &pdu->r2t);
    case VN_PDU_RESP:
        return vn_hcmd_on_resp(queue, &pdu->resp.cqe);
    default:
        return no_fault;
    }
}

static void say_why(struct vn_hq *queue, int err) {
    struct vn_assoc *assoc = queue->assoc;
    const struct vn_pdu_fault *fault = &queue->conn.fault;
    if (err == -EPROTO)
        vn_assoc_fail(assoc, EPROTO, "%s breaks the rules of NVMe/TCP: %s (at %u)", assoc->name,
                      vn_pdu_fes_name(fault->fes), fault->info);
    else if (err == -ECONNABORTED)
        vn_assoc_fail(assoc, ECONNABORTED, "%s has ended the connection: it says %s (at %u)", assoc->name,
                      vn_pdu_fes_name(fault->fes), fault->info);
    else
        vn_assoc_fail(assoc, err ? -err : ECONNRESET, "%s has ended the connection%s%s", assoc->name, err ? ": " : "",
                      err ? strerror(-err) : "");
}

static void on_closed(struct vn_conn *conn, int err) {
    struct vn_hq *queue = (struct vn_hq *)conn;
    struct vn_assoc *assoc = queue->assoc;
    if (queue->state != VN_HQ_CLOSING) {
        vn_hq_set_state(queue, VN_HQ_CLOSING);
        say_why(queue, err); /* nothing but the first reason counts */
    }
    queue->receiving = NULL;
    vn_hcmd_give_back_all(queue);
    vn_hq_set_state(queue, VN_HQ_DOWN);
    assoc->nr_open--;
    vn_assoc_check_closed(assoc);
}

static const struct vn_conn_ops conn_ops = {
    .opened = on_opened, .header = on_header, .pdu = on_pdu, .closed = on_closed};

int vn_hq_open(struct vn_hq *queue, uint32_t entries) {
    struct vn_assoc *assoc = queue->assoc;
    queue->entries = entries;
    queue->capsule_max = ADMIN_CAPSULE_BYTES; /* until it is live */
    queue->flow = false;
    queue->sq_tail = queue->sq_head = 0;
    vn_hcmd_free_first(queue, entries - 1);
    int err = vn_conn_connect(&queue->conn, assoc->group, &conn_ops, &assoc->address, assoc->config->tls);
    if (err)
        return err;
    vn_hq_set_state(queue, VN_HQ_OPENING);
    assoc->nr_open++;
    return 0;
}

void vn_hq_close(struct vn_hq *queue, int err) {
    if (queue->state == VN_HQ_DOWN || queue->state == VN_HQ_CLOSING)
        return;
    vn_hq_set_state(queue, VN_HQ_CLOSING);
    vn_conn_close(&queue->conn, err);
}
