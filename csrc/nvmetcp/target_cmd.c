/* A command of a connection, from its capsule to its response: buffers, the controller, data and response out.
 * Called by target_queue.c for what arrives, and by the controller as its door.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/status.h"
#include "core/util.h"
#include "nvmetcp/target.h"

#define PAGE 4096u
#define DIRECTION(opcode) ((opcode) & 0x3u) /* bits 1:0 of an opcode or a fabrics type (Base 3.3.3) */
#define TO_CONTROLLER 0x1u
#define TO_HOST 0x2u
#define SQHD_NO_FLOW 0xffffu
#define SLOT_STRIDE ((size_t)VN_TCMD_SLOT_BYTES + PAGE) /* behind the data, a page for the controller's use */

static void set_state(struct vn_tcmd *cmd, enum vn_tcmd_state state) {
    assert(state != VN_TCMD_FREE || (cmd->refs == 0 && !cmd->nr_r2ts));
    cmd->state = (uint8_t)state;
}

/* --- The pool: made at Connect, set up as it is used --- */
int vn_tcmd_make_pool(struct vn_tqueue *queue, uint32_t entries) {
    size_t bytes = entries * (SLOT_STRIDE + sizeof(struct vn_tcmd));
    bytes = (bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
    void *arena = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED)
        return -ENOMEM;
    queue->slots = arena;
    queue->cmds = (struct vn_tcmd *)(queue->slots + entries * SLOT_STRIDE);
    queue->arena_bytes = bytes;
    queue->nr_cmds = entries;
    queue->target->arena_bytes += bytes;
    return 0;
}

void vn_tcmd_free_pool(struct vn_tqueue *queue) {
    if (!queue->arena_bytes)
        return;
    munmap(queue->slots, queue->arena_bytes);
    queue->target->arena_bytes -= queue->arena_bytes;
    queue->arena_bytes = 0;
    queue->cmds = queue->free = NULL;
    queue->nr_cmds = 0;
}

static struct vn_tcmd *make_next(struct vn_tqueue *queue) {
    uint32_t index = queue->nr_made++;
    struct vn_tcmd *cmd = &queue->cmds[index]; /* the mapping is all zeros */
    cmd->queue = queue;
    cmd->index = (uint16_t)index;
    cmd->slot = queue->slots + (size_t)index * SLOT_STRIDE;
    cmd->req.ctrl = &queue->ctrl->ctrl;
    cmd->req.buffer = cmd->slot + VN_TCMD_SLOT_BYTES;
    cmd->req.iov = cmd->bufs;
    cmd->req.iov_max = VN_TCMD_CHUNKS_MAX;
    return cmd;
}

struct vn_tcmd *vn_tcmd_get(struct vn_tqueue *queue) {
    struct vn_tcmd *cmd = queue->free;
    if (!queue->nr_cmds) {
        if (queue->first.state != VN_TCMD_FREE)
            return NULL;
        cmd = &queue->first;
        cmd->queue = queue;
        cmd->slot = queue->first_data;
    } else if (cmd) {
        queue->free = cmd->next;
    } else if (queue->nr_made < queue->nr_cmds) {
        cmd = make_next(queue);
    } else {
        return NULL;
    }
    set_state(cmd, VN_TCMD_ARRIVING);
    queue->nr_used++;
    cmd->next = NULL;
    cmd->to_host = cmd->from_host = cmd->mapped = cmd->is_last = false;
    cmd->refused = 0;
    cmd->data_bytes = cmd->asked = cmd->got = 0;
    cmd->nr_bufs = 0;
    return cmd;
}

static void give_back(struct vn_tcmd *cmd) {
    struct vn_tqueue *queue = cmd->queue;
    if (cmd->waits_for)
        vn_tctrl_forget_waiter(cmd);
    if (cmd->nr_chunks)
        vn_tctrl_return_chunks(queue->ctrl, cmd);
    set_state(cmd, VN_TCMD_FREE);
    if (cmd != &queue->first) {
        cmd->next = queue->free;
        queue->free = cmd;
    }
    if (--queue->nr_used == 0 && queue->state == VN_TQUEUE_DEAD)
        vn_target_sweep(queue->target);
}

void vn_tcmd_unref(struct vn_tcmd *cmd) {
    if (--cmd->refs == 0)
        give_back(cmd);
}

/* --- Buffers --- */
static bool take_buffers(struct vn_tcmd *cmd) {
    if (cmd->data_bytes <= VN_TCMD_SLOT_BYTES) {
        cmd->bufs[0] = (struct iovec){cmd->slot, cmd->data_bytes};
        cmd->nr_bufs = 1;
        return true;
    }
    return vn_tctrl_take_chunks(cmd->queue->ctrl, cmd);
}

/* The length that the command needs against what its data pointer says (Base 4.1.2.1). Dataset Management alone may
 * come with a longer list than it uses: Linux always sends 256 ranges. */
vn_status vn_tcmd_map(struct vn_req *req, uint32_t length) {
    struct vn_tcmd *cmd = vn_container_of(req, struct vn_tcmd, req);
    bool may_be_longer = req->sq->sqid && req->cmd.opcode == VN_IO_DSM && cmd->data_bytes <= VN_TCMD_SLOT_BYTES;
    if (cmd->data_bytes != length && !(may_be_longer && cmd->data_bytes > length))
        return VN_SC_SGL_DATA_LENGTH;
    if (may_be_longer)
        cmd->bufs[0].iov_len = length; /* the list lies in the slot */
    cmd->mapped = true;
    req->nr_iov = length ? cmd->nr_bufs : 0;
    return VN_SC_SUCCESS;
}

bool vn_tcmd_is_in_capsule(const struct vn_tcmd *cmd) {
    return cmd->req.cmd.sgl1.type == VN_SGL_IN_CAPSULE;
}

static vn_status check_in_capsule(const struct vn_tcmd *cmd, uint32_t capsule_bytes) {
    const struct vn_sgl_desc *sgl = &cmd->req.cmd.sgl1;
    if (!cmd->from_host)
        return VN_SC_SGL_TYPE;
    if (sgl->addr > capsule_bytes || sgl->addr % 4) /* the offset; ICDOFF is 0 */
        return VN_SC_SGL_OFFSET;
    if (sgl->addr) /* there is one thing in a capsule, and it begins where the data does */
        return VN_SC_SGL_OFFSET;
    return sgl->length == capsule_bytes ? VN_SC_SUCCESS : VN_SC_SGL_DATA_LENGTH;
}

static vn_status check_sgl(struct vn_tcmd *cmd, uint32_t capsule_bytes) {
    const struct vn_sgl_desc *sgl = &cmd->req.cmd.sgl1;
    const struct vn_tqueue *queue = cmd->queue;
    if (VN_SQE_PSDT(cmd->req.cmd.flags) != VN_PSDT_SGL_MPTR_CONTIG)
        return VN_SC_INVALID_FIELD;
    if (!cmd->from_host && !cmd->to_host)
        return capsule_bytes ? VN_SC_SGL_DATA_LENGTH : VN_SC_SUCCESS;
    if (sgl->length == 0 && !capsule_bytes) /* none, whatever the opcode says (features) */
        return VN_SC_SUCCESS;
    if (vn_tcmd_is_in_capsule(cmd)) {
        vn_status status = check_in_capsule(cmd, capsule_bytes);
        if (status)
            return status;
    } else if (sgl->type != VN_SGL_TRANSPORT) {
        return VN_SC_SGL_TYPE;
    } else if (capsule_bytes) {
        return VN_SC_SGL_DATA_LENGTH;
    }
    uint32_t max = queue->ctrl ? vn_ctrl_max_transfer(&queue->ctrl->ctrl) : VN_CONNECT_BYTES;
    if (sgl->length > max)
        return queue->ctrl ? VN_SC_INVALID_FIELD : VN_SC_SGL_DATA_LENGTH;
    return VN_SC_SUCCESS;
}

void vn_tcmd_read_sgl(struct vn_tcmd *cmd, uint32_t capsule_bytes) {
    const struct vn_sqe *sqe = &cmd->req.cmd;
    uint8_t direction = DIRECTION(sqe->opcode == VN_ADMIN_FABRICS ? VN_SQE_FCTYPE(sqe) : sqe->opcode);
    cmd->from_host = direction == TO_CONTROLLER;
    cmd->to_host = direction == TO_HOST;
    cmd->refused = check_sgl(cmd, capsule_bytes);
    if (!cmd->refused && (cmd->from_host || cmd->to_host))
        cmd->data_bytes = sqe->sgl1.length;
    if (capsule_bytes) {
        cmd->bufs[0] = (struct iovec){cmd->slot, cmd->data_bytes};
        cmd->nr_bufs = 1;
    }
}

/* --- Out --- */
static void on_sent(struct vn_tx *tx, bool whole) {
    (void)whole;
    uint32_t index = tx->pdu.common.type == VN_PDU_C2H_DATA ? 0 : 1;
    struct vn_tcmd *cmd = vn_container_of(tx - index, struct vn_tcmd, txs[0]);
    if (cmd->is_last && tx == &cmd->txs[1])
        vn_tqueue_end(cmd->queue, 0);
    vn_tcmd_unref(cmd);
}

static bool can_send(const struct vn_tqueue *queue) {
    return queue->state == VN_TQUEUE_HALF || queue->state == VN_TQUEUE_LIVE;
}

static void send_pdu(struct vn_tcmd *cmd, struct vn_tx *tx) {
    cmd->refs++;
    vn_conn_send(&cmd->queue->conn, tx);
}

static void send_data(struct vn_tcmd *cmd, uint32_t bytes, uint8_t flags) {
    struct vn_conn *conn = &cmd->queue->conn;
    struct vn_tx *tx = &cmd->txs[0];
    vn_pdu_head(&tx->pdu.common, VN_PDU_C2H_DATA, flags, conn->tx_hdgst, conn->tx_ddgst, conn->tx_align, bytes);
    struct vn_pdu_data *pdu = &tx->pdu.data;
    pdu->cccid = cmd->req.cmd.cid;
    pdu->ttag = 0;
    pdu->datao = 0;
    pdu->datal = bytes;
    memset(pdu->rsvd20, 0, sizeof(pdu->rsvd20));
    tx->iov = cmd->bufs;
    tx->nr_iov = cmd->nr_bufs;
    tx->iov_offset = 0;
    tx->data_bytes = bytes;
    tx->sent = on_sent;
    send_pdu(cmd, tx);
}

static void send_response(struct vn_tcmd *cmd, vn_status status) {
    struct vn_conn *conn = &cmd->queue->conn;
    struct vn_tx *tx = &cmd->txs[1];
    const struct vn_sq *sq = cmd->req.sq;
    vn_pdu_head(&tx->pdu.common, VN_PDU_RESP, 0, conn->tx_hdgst, conn->tx_ddgst, conn->tx_align, 0);
    tx->pdu.resp.cqe = (struct vn_cqe){
        .dw0 = cmd->req.result,
        .dw1 = cmd->req.result_high,
        .sqhd = cmd->queue->flow_off ? SQHD_NO_FLOW : sq ? (uint16_t)sq->head : 0,
        .cid = cmd->req.cmd.cid,
        .status = (uint16_t)(status << 1),
    };
    tx->nr_iov = 0;
    tx->data_bytes = 0;
    tx->sent = on_sent;
    send_pdu(cmd, tx);
}

/* With SQ flow control on, the host may send a command for each that has ended. */
static void advance_head(struct vn_tcmd *cmd) {
    struct vn_tqueue *queue = cmd->queue;
    if (!queue->ctrl)
        return;
    struct vn_sq *sq = &queue->ctrl->ctrl.sqs[queue->qid];
    cmd->req.sq = sq;
    sq->head = sq->head + 1 >= sq->size ? 0 : sq->head + 1;
}

void vn_tcmd_post(struct vn_req *req) {
    struct vn_tcmd *cmd = vn_container_of(req, struct vn_tcmd, req);
    struct vn_tqueue *queue = cmd->queue;
    if (!can_send(queue))
        return;
    advance_head(cmd);
    uint32_t bytes = cmd->to_host && cmd->mapped && !req->status ? cmd->data_bytes : 0;
    if (bytes) {
        /* The data says it all when nothing in the response would (TCP 3.3.2.2). */
        bool success = queue->flow_off && !req->result && !req->result_high && !cmd->is_last;
        send_data(cmd, bytes, VN_PDU_F_LAST | (success ? VN_PDU_F_SUCCESS : 0));
        if (success)
            return;
    }
    send_response(cmd, req->status);
}

void vn_tcmd_put(struct vn_req *req) {
    struct vn_tcmd *cmd = vn_container_of(req, struct vn_tcmd, req);
    cmd->state = VN_TCMD_ANSWERING;
    vn_tcmd_unref(cmd);
}

void vn_tcmd_answer(struct vn_tcmd *cmd, vn_status status, uint32_t result) {
    set_state(cmd, VN_TCMD_ANSWERING);
    cmd->refs = 1;
    cmd->req.sq = NULL;
    cmd->req.result = result;
    cmd->req.result_high = 0;
    if (can_send(cmd->queue)) {
        advance_head(cmd);
        send_response(cmd, status);
    }
    vn_tcmd_unref(cmd);
}

void vn_tcmd_drop(struct vn_tcmd *cmd) {
    if (cmd->state == VN_TCMD_WAITING) /* or it has just left it */
        vn_tctrl_leave_line(cmd->queue->ctrl, cmd);
    cmd->refs = 0;
    cmd->nr_r2ts = 0;
    give_back(cmd);
}

/* --- In --- */
static void execute(struct vn_tcmd *cmd) {
    struct vn_tqueue *queue = cmd->queue;
    if (!queue->ctrl) {
        vn_tconnect(cmd);
        return;
    }
    struct vn_sq *sq = &queue->ctrl->ctrl.sqs[queue->qid];
    set_state(cmd, VN_TCMD_RUNNING);
    cmd->refs = 1;
    cmd->req.sq = sq;
    sq->cq->reserved++;
    vn_ctrl_execute(&cmd->req);
}

/* The transfer tag: which command, which of its R2Ts. */
static uint16_t tag_of(const struct vn_tcmd *cmd, uint32_t r2t) {
    return (uint16_t)(cmd->index * VN_MAX_R2TS + r2t);
}

static void on_r2t_sent(struct vn_tx *tx, bool whole) {
    uint16_t tag = tx->pdu.r2t.ttag;
    struct vn_tcmd *cmd = vn_container_of(tx - tag % VN_MAX_R2TS, struct vn_tcmd, txs[0]);
    struct vn_r2t *r2t = &cmd->r2ts[tag % VN_MAX_R2TS];
    if (whole)
        r2t->state = VN_R2T_OPEN;
}

static void send_r2t(struct vn_tcmd *cmd, uint32_t index) {
    struct vn_conn *conn = &cmd->queue->conn;
    uint32_t bytes = (uint32_t)vn_min_u64(cmd->data_bytes - cmd->asked, VN_MAXH2CDATA);
    struct vn_tx *tx = &cmd->txs[index];
    cmd->r2ts[index] = (struct vn_r2t){.state = VN_R2T_LEAVING, .offset = cmd->asked, .bytes = bytes};
    vn_pdu_head(&tx->pdu.common, VN_PDU_R2T, 0, conn->tx_hdgst, conn->tx_ddgst, conn->tx_align, 0);
    struct vn_pdu_r2t *pdu = &tx->pdu.r2t;
    pdu->cccid = cmd->req.cmd.cid;
    pdu->ttag = tag_of(cmd, index);
    pdu->r2to = cmd->asked;
    pdu->r2tl = bytes;
    memset(pdu->rsvd20, 0, sizeof(pdu->rsvd20));
    tx->nr_iov = 0;
    tx->data_bytes = 0;
    tx->sent = on_r2t_sent;
    cmd->asked += bytes;
    cmd->nr_r2ts++;
    vn_conn_send(conn, tx);
}

static void ask_for_data(struct vn_tcmd *cmd) {
    uint32_t max = cmd->queue->max_r2ts;
    for (uint32_t i = 0; i < max && cmd->asked < cmd->data_bytes && !cmd->refused; i++) {
        if (cmd->r2ts[i].state == VN_R2T_FREE)
            send_r2t(cmd, i);
    }
}

/* A digest may be right the next time; nothing else gets better by repetition. */
static void refuse(struct vn_tcmd *cmd) {
    vn_status status = cmd->refused == VN_SC_TRANSIENT_TRANSPORT ? cmd->refused : vn_status_dnr(cmd->refused);
    vn_tcmd_answer(cmd, status, 0);
}

/* What is wrong with it is told when nothing of it is under way any more. */
static void go_on(struct vn_tcmd *cmd) {
    if (cmd->nr_r2ts)
        return;
    if (cmd->refused)
        refuse(cmd);
    else
        execute(cmd);
}

/* Authentication comes before all else, when it is needed (Base 8.13). */
static vn_status check_order(const struct vn_tcmd *cmd) {
    const struct vn_tqueue *queue = cmd->queue;
    const struct vn_sqe *sqe = &cmd->req.cmd;
    bool fabrics = sqe->opcode == VN_ADMIN_FABRICS;
    uint8_t type = VN_SQE_FCTYPE(sqe);
    if (!queue->ctrl)
        return fabrics && type == VN_FCTYPE_CONNECT ? VN_SC_SUCCESS : VN_SC_COMMAND_SEQUENCE;
    if (queue->auth_needed && !(fabrics && (type == VN_FCTYPE_AUTH_SEND || type == VN_FCTYPE_AUTH_RECV)))
        return VN_SC_AUTH_REQUIRED;
    return VN_SC_SUCCESS;
}

void vn_tcmd_start(struct vn_tcmd *cmd) {
    if (!can_send(cmd->queue)) { /* its connection ends while it stood in line */
        vn_tcmd_drop(cmd);
        return;
    }
    if (cmd->to_host) {
        execute(cmd);
        return;
    }
    set_state(cmd, VN_TCMD_RECEIVING);
    ask_for_data(cmd);
}

void vn_tcmd_arrived(struct vn_tcmd *cmd) {
    struct vn_tqueue *queue = cmd->queue;
    if (queue->ctrl)
        queue->ctrl->heard = true;
    if (!cmd->refused)
        cmd->refused = check_order(cmd);
    if (cmd->refused) {
        refuse(cmd);
        return;
    }
    if (!cmd->data_bytes || cmd->nr_bufs) { /* in the capsule */
        execute(cmd);
        return;
    }
    set_state(cmd, VN_TCMD_WAITING);
    if (take_buffers(cmd))
        vn_tcmd_start(cmd);
}

#define BAD_FIELD(field) ((struct vn_pdu_fault){VN_FES_INVALID_HEADER, offsetof(struct vn_pdu_data, field)})

/* Every field against what was asked for. A command that does not wait for data has no open R2T. */
struct vn_pdu_fault vn_tcmd_find_data(struct vn_tqueue *queue, const struct vn_pdu_data *pdu, struct vn_tcmd **out) {
    uint32_t index = pdu->ttag / VN_MAX_R2TS;
    if (!queue->nr_cmds && queue->first.state == VN_TCMD_RECEIVING && index == 0)
        *out = &queue->first;
    else if (index < queue->nr_made)
        *out = &queue->cmds[index];
    else
        return BAD_FIELD(ttag);
    struct vn_tcmd *cmd = *out;
    const struct vn_r2t *r2t = &cmd->r2ts[pdu->ttag % VN_MAX_R2TS];
    if (cmd->state != VN_TCMD_RECEIVING || r2t->state != VN_R2T_OPEN)
        return BAD_FIELD(ttag);
    if (pdu->cccid != cmd->req.cmd.cid)
        return BAD_FIELD(cccid);
    if (pdu->datao < r2t->offset || pdu->datao >= r2t->offset + r2t->bytes ||
        pdu->datal > r2t->offset + r2t->bytes - pdu->datao)
        return (struct vn_pdu_fault){VN_FES_DATA_RANGE, 0};
    if (pdu->datao != r2t->offset + r2t->done) /* in order */
        return BAD_FIELD(datao);
    bool last = r2t->done + pdu->datal == r2t->bytes;
    if (!(pdu->common.flags & VN_PDU_F_LAST) != !last)
        return BAD_FIELD(common.flags);
    return (struct vn_pdu_fault){VN_FES_NONE, 0};
}

void vn_tcmd_data_received(struct vn_tcmd *cmd, const struct vn_pdu_data *pdu, bool intact) {
    struct vn_r2t *r2t = &cmd->r2ts[pdu->ttag % VN_MAX_R2TS];
    if (!intact)
        cmd->refused = VN_SC_TRANSIENT_TRANSPORT;
    if (cmd->queue->ctrl)
        cmd->queue->ctrl->heard = true;
    r2t->done += pdu->datal;
    cmd->got += pdu->datal;
    if (r2t->done < r2t->bytes)
        return;
    r2t->state = VN_R2T_FREE;
    cmd->nr_r2ts--;
    ask_for_data(cmd);
    go_on(cmd);
}
