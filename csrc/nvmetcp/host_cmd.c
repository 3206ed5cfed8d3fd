/* The life of one command of a host: sent, its data moved, answered, or lost with its connection.
 * Called by the queue (host_queue.c) for what comes in, by the forwarder for what goes out. Every field of the
 * target's PDUs is held against the command that it names.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "nvmetcp/host.h"

#define INDEX_BITS 10u
#define INDEX_MASK ((1u << INDEX_BITS) - 1)
_Static_assert(VN_ASSOC_MAX_ENTRIES <= 1u << INDEX_BITS, "an index fits, and no CID is FFFFh");

#define FAULT(fes_, type, field) \
    ((struct vn_pdu_fault){.fes = (fes_), .info = (uint32_t)offsetof(type, field)})
static const struct vn_pdu_fault no_fault = {.fes = VN_FES_NONE};

static void set_state(struct vn_hcmd *cmd, enum vn_hcmd_state state) {
    uint8_t before = cmd->state;
    bool may_follow = state == VN_HCMD_TAKEN     ? before == VN_HCMD_FREE
                      : state == VN_HCMD_FLIGHT  ? before == VN_HCMD_TAKEN
                      : state == VN_HCMD_SETTLED ? before == VN_HCMD_FLIGHT
                                                 : before != VN_HCMD_FREE;
    assert(may_follow);
    (void)may_follow;
    cmd->state = (uint8_t)state;
}

/* --- Taking, sending, freeing --- */

static uint32_t next_tail(const struct vn_hq *queue) {
    return queue->sq_tail + 1 == queue->entries ? 0 : queue->sq_tail + 1;
}

struct vn_hcmd *vn_hq_get(struct vn_hq *queue) {
    struct vn_hcmd *cmd = queue->free;
    if (!cmd)
        return NULL;
    if (queue->flow && next_tail(queue) == queue->sq_head)
        return NULL;
    queue->free = cmd->next;
    set_state(cmd, VN_HCMD_TAKEN);
    cmd->cid = (uint16_t)(cmd->cid + (1u << INDEX_BITS)); /* another use; the index stays */
    cmd->moved = cmd->left = 0;
    cmd->r2t_first = cmd->nr_r2ts = 0;
    cmd->in_capsule = cmd->reached = cmd->corrupt = cmd->forgotten = cmd->last_seen = cmd->steady = false;
    cmd->iov = NULL;
    cmd->nr_iov = cmd->iov_offset = cmd->bytes = 0;
    cmd->direction = VN_HCMD_NONE;
    cmd->status = 0;
    cmd->result = 0;
    memset(&cmd->capsule.pdu.cmd.sqe, 0, sizeof(cmd->capsule.pdu.cmd.sqe));
    return cmd;
}

struct vn_hcmd *vn_hq_command(struct vn_hq *queue, uint8_t opcode, enum vn_hcmd_data direction, const struct iovec *iov,
                              uint32_t bytes, void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate)) {
    struct vn_hcmd *cmd = vn_hq_get(queue);
    if (!cmd)
        return NULL;
    cmd->capsule.pdu.cmd.sqe.opcode = opcode;
    cmd->direction = (uint8_t)direction;
    cmd->steady = true;
    cmd->iov = iov;
    cmd->nr_iov = iov ? 1 : 0;
    cmd->bytes = bytes;
    cmd->done = done;
    cmd->owner = queue->assoc;
    return cmd;
}

static void put(struct vn_hcmd *cmd) {
    set_state(cmd, VN_HCMD_FREE);
    cmd->prev = NULL;
    cmd->next = cmd->queue->free;
    cmd->queue->free = cmd;
}

static void link_newest(struct vn_hq *queue, struct vn_hcmd *cmd) {
    cmd->next = NULL;
    cmd->prev = queue->newest;
    if (queue->newest)
        queue->newest->next = cmd;
    else
        queue->oldest = cmd;
    queue->newest = cmd;
    queue->conn.group->nr_awaited += queue->qid != 0; /* not those for events, which may take for ever */
}

static void unlink_flight(struct vn_hq *queue, struct vn_hcmd *cmd) {
    if (cmd->next)
        cmd->next->prev = cmd->prev;
    else
        queue->newest = cmd->prev;
    if (cmd->prev)
        cmd->prev->next = cmd->next;
    else
        queue->oldest = cmd->next;
    queue->conn.group->nr_awaited -= queue->qid != 0;
}

static void end(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    assert(!cmd->nr_txs);
    unlink_flight(cmd->queue, cmd);
    if (cmd->queue->receiving == cmd)
        cmd->queue->receiving = NULL;
    put(cmd);
    cmd->done(cmd, fate);
}

void vn_hcmd_send(struct vn_hcmd *cmd) {
    struct vn_hq *queue = cmd->queue;
    struct vn_conn *conn = &queue->conn;
    struct vn_sqe *sqe = &cmd->capsule.pdu.cmd.sqe;
    cmd->in_capsule = cmd->direction == VN_HCMD_OUT && cmd->bytes <= queue->capsule_max;
    sqe->cid = cmd->cid;
    sqe->flags = VN_PSDT_SGL_MPTR_CONTIG << 6;
    sqe->sgl1 = (struct vn_sgl_desc){.length = cmd->bytes,
                                     .type = cmd->in_capsule ? VN_SGL_IN_CAPSULE : VN_SGL_TRANSPORT};
    struct vn_tx *tx = &cmd->capsule;
    tx->data_bytes = cmd->in_capsule ? cmd->bytes : 0;
    tx->iov = tx->data_bytes ? cmd->iov : NULL;
    tx->nr_iov = tx->data_bytes ? cmd->nr_iov : 0;
    tx->iov_offset = cmd->iov_offset;
    vn_pdu_head(&tx->pdu.common, VN_PDU_CMD, 0, conn->tx_hdgst, conn->tx_ddgst, conn->tx_align, tx->data_bytes);
    set_state(cmd, VN_HCMD_FLIGHT);
    cmd->sent_ns = vn_reactor_now_ns(queue->assoc->reactor);
    link_newest(queue, cmd);
    if (queue->flow)
        queue->sq_tail = next_tail(queue);
    cmd->nr_txs++;
    vn_conn_send(conn, tx);
}

/* --- What has left --- */

/* The answer is there and nothing of ours is on its way any more; or we wait for that. */
static void settle(struct vn_hcmd *cmd) {
    struct vn_conn *conn = &cmd->queue->conn;
    cmd->nr_r2ts = 0;
    for (int i = 0; i < 2 && cmd->nr_txs; i++) {
        if (cmd->data[i].data_bytes && vn_conn_unsend(conn, &cmd->data[i])) {
            cmd->data[i].data_bytes = 0;
            cmd->nr_txs--;
        }
    }
    if (cmd->nr_txs)
        set_state(cmd, VN_HCMD_SETTLED);
    else
        end(cmd, VN_FATE_DONE);
}

/* Answers R2Ts in their order, a PDU of at most MAXH2CDATA at a time. */
static void pump(struct vn_hcmd *cmd) {
    struct vn_hq *queue = cmd->queue;
    for (int i = 0; i < 2 && cmd->nr_r2ts; i++) {
        struct vn_tx *tx = &cmd->data[i];
        if (tx->data_bytes) /* on its way */
            continue;
        uint32_t bytes = (uint32_t)vn_min_u64(cmd->r2ts[cmd->r2t_first].bytes, queue->h2c_max);
        bool last = bytes == cmd->r2ts[cmd->r2t_first].bytes;
        struct vn_pdu_data *data = &tx->pdu.data;
        vn_pdu_head(&data->common, VN_PDU_H2C_DATA, last ? VN_PDU_F_LAST : 0, queue->conn.tx_hdgst,
                    queue->conn.tx_ddgst, queue->conn.tx_align, bytes);
        data->cccid = cmd->cid;
        data->ttag = cmd->r2ts[cmd->r2t_first].ttag;
        data->datao = cmd->r2ts[cmd->r2t_first].offset;
        data->datal = bytes;
        memset(data->rsvd20, 0, sizeof(data->rsvd20));
        tx->iov = cmd->iov;
        tx->nr_iov = cmd->nr_iov;
        tx->iov_offset = cmd->iov_offset + data->datao;
        tx->data_bytes = bytes;
        cmd->r2ts[cmd->r2t_first].offset += bytes;
        cmd->r2ts[cmd->r2t_first].bytes -= bytes;
        if (last) {
            cmd->r2t_first = (uint8_t)((cmd->r2t_first + 1) % VN_ARRAY_SIZE(cmd->r2ts));
            cmd->nr_r2ts--;
        }
        cmd->nr_txs++;
        vn_conn_send(&queue->conn, tx);
    }
}

static void on_capsule_sent(struct vn_tx *tx, bool whole) {
    struct vn_hcmd *cmd = vn_container_of(tx, struct vn_hcmd, capsule);
    cmd->nr_txs--;
    if (!whole)
        return; /* the connection has ended, and gives the command back */
    cmd->reached = true;
    if (cmd->in_capsule)
        cmd->left = cmd->bytes;
    if (cmd->state == VN_HCMD_SETTLED && !cmd->nr_txs)
        end(cmd, VN_FATE_DONE);
}

static void on_data_sent(struct vn_hcmd *cmd, struct vn_tx *tx, bool whole) {
    uint32_t bytes = tx->data_bytes;
    tx->data_bytes = 0;
    cmd->nr_txs--;
    if (!whole)
        return;
    cmd->left += bytes;
    if (cmd->state == VN_HCMD_FLIGHT)
        pump(cmd);
    else if (!cmd->nr_txs)
        end(cmd, VN_FATE_DONE);
}

static void on_data0_sent(struct vn_tx *tx, bool whole) {
    on_data_sent(vn_container_of(tx, struct vn_hcmd, data[0]), tx, whole);
}

static void on_data1_sent(struct vn_tx *tx, bool whole) {
    on_data_sent(vn_container_of(tx, struct vn_hcmd, data[1]), tx, whole);
}

enum vn_forgotten vn_hcmd_forget(struct vn_hcmd *cmd) {
    struct vn_hq *queue = cmd->queue;
    assert(cmd->state == VN_HCMD_FLIGHT || cmd->state == VN_HCMD_SETTLED);
    if (!cmd->reached && vn_conn_unsend(&queue->conn, &cmd->capsule)) {
        cmd->nr_txs--;
        if (queue->flow)
            queue->sq_tail = queue->sq_tail ? queue->sq_tail - 1 : queue->entries - 1;
        unlink_flight(queue, cmd);
        put(cmd);
        return VN_FORGOT_UNSENT;
    }
    cmd->forgotten = true;
    if (queue->receiving == cmd)
        vn_conn_receives(&queue->conn, cmd->cid, true); /* the rest of it is thrown away */
    if (cmd->direction == VN_HCMD_OUT && !cmd->steady && (cmd->nr_txs || cmd->left < cmd->bytes))
        return VN_FORGOT_PARTLY;
    return VN_FORGOT_SENT;
}

void vn_hcmd_give_back_all(struct vn_hq *queue) {
    while (queue->oldest) {
        struct vn_hcmd *cmd = queue->oldest;
        end(cmd, cmd->state == VN_HCMD_SETTLED ? VN_FATE_DONE : cmd->reached ? VN_FATE_UNKNOWN : VN_FATE_NEVER);
    }
}

/* --- What comes in --- */

/* The command in flight with this CID: of this use of its slot, and sent at least in part. */
static struct vn_hcmd *find(struct vn_hq *queue, uint16_t cid) {
    uint32_t index = cid & INDEX_MASK;
    if (index >= queue->nr_cmds)
        return NULL;
    struct vn_hcmd *cmd = &queue->cmds[index];
    if (cmd->cid != cid || cmd->state != VN_HCMD_FLIGHT || (!cmd->reached && !cmd->capsule.done))
        return NULL;
    return cmd;
}

struct vn_pdu_fault vn_hcmd_on_data(struct vn_hq *queue, const struct vn_pdu_data *data, struct vn_conn_sink *sink) {
    struct vn_hcmd *cmd = find(queue, data->cccid);
    bool last = data->common.flags & VN_PDU_F_LAST, success = data->common.flags & VN_PDU_F_SUCCESS;
    if (!cmd || cmd->direction != VN_HCMD_IN)
        return FAULT(VN_FES_INVALID_HEADER, struct vn_pdu_data, cccid);
    if (cmd->last_seen)
        return FAULT(VN_FES_SEQUENCE, struct vn_pdu_data, cccid);
    if (data->datao != cmd->moved) /* in order, without gaps (TCP 3.3.2.1) */
        return FAULT(VN_FES_DATA_RANGE, struct vn_pdu_data, datao);
    if (data->datal > cmd->bytes - cmd->moved)
        return FAULT(VN_FES_DATA_LIMIT, struct vn_pdu_data, datal);
    if (success && (!last || cmd->moved + data->datal != cmd->bytes))
        return FAULT(VN_FES_INVALID_HEADER, struct vn_pdu_data, common.flags);
    queue->receiving = cmd;
    if (!cmd->forgotten)
        *sink = (struct vn_conn_sink){
            .iov = cmd->iov, .nr_iov = cmd->nr_iov, .offset = cmd->iov_offset + cmd->moved};
    return no_fault;
}

struct vn_pdu_fault vn_hcmd_on_data_end(struct vn_hq *queue, const struct vn_pdu_data *data, bool intact) {
    struct vn_hcmd *cmd = queue->receiving;
    queue->receiving = NULL;
    if (!cmd) /* ended meanwhile by the loss of the association */
        return no_fault;
    cmd->moved += data->datal;
    cmd->corrupt |= !intact;
    cmd->last_seen = data->common.flags & VN_PDU_F_LAST;
    if (data->common.flags & VN_PDU_F_SUCCESS) {
        /* Not allowed with SQ flow control (TCP 3.3.2.2), but SPDK's target does it: it moves no head then, and counts
         * on what our slots see to, that no more commands are under way than the queue holds. */
        queue->flow = false;
        cmd->status = cmd->corrupt ? VN_SC_TRANSIENT_TRANSPORT : VN_SC_SUCCESS;
        settle(cmd);
    }
    return no_fault;
}

struct vn_pdu_fault vn_hcmd_on_r2t(struct vn_hq *queue, const struct vn_pdu_r2t *r2t) {
    struct vn_hcmd *cmd = find(queue, r2t->cccid);
    if (!cmd || cmd->direction != VN_HCMD_OUT || cmd->in_capsule || !cmd->reached)
        return FAULT(VN_FES_INVALID_HEADER, struct vn_pdu_r2t, cccid);
    if (r2t->r2to != cmd->moved)
        return FAULT(VN_FES_DATA_RANGE, struct vn_pdu_r2t, r2to);
    if (!r2t->r2tl || r2t->r2tl > cmd->bytes - cmd->moved)
        return FAULT(VN_FES_DATA_RANGE, struct vn_pdu_r2t, r2tl);
    if (cmd->nr_r2ts == VN_ARRAY_SIZE(cmd->r2ts))
        return FAULT(VN_FES_DATA_LIMIT, struct vn_pdu_r2t, ttag);
    if (cmd->forgotten && !cmd->steady) /* its association ends, as its data cannot be sent */
        return no_fault;
    uint32_t at = (cmd->r2t_first + cmd->nr_r2ts) % VN_ARRAY_SIZE(cmd->r2ts);
    cmd->r2ts[at].ttag = r2t->ttag;
    cmd->r2ts[at].offset = r2t->r2to;
    cmd->r2ts[at].bytes = r2t->r2tl;
    cmd->nr_r2ts++;
    cmd->moved += r2t->r2tl;
    pump(cmd);
    return no_fault;
}

struct vn_pdu_fault vn_hcmd_on_resp(struct vn_hq *queue, const struct vn_cqe *cqe) {
    struct vn_hcmd *cmd = find(queue, cqe->cid);
    if (!cmd || queue->receiving == cmd)
        return FAULT(VN_FES_INVALID_HEADER, struct vn_pdu_resp, cqe.cid);
    if (queue->flow && queue->state == VN_HQ_LIVE && cqe->sqhd >= queue->entries)
        return FAULT(VN_FES_INVALID_HEADER, struct vn_pdu_resp, cqe.sqhd);
    queue->sq_head = cqe->sqhd; /* Connect's says whether there is flow control */
    vn_status status = cqe->status >> 1;
    cmd->status = status & (vn_status)(VN_STATUS_CODE(0xffff) | VN_STATUS_DNR);
    cmd->result = cqe->dw0 | (uint64_t)cqe->dw1 << 32;
    if (!cmd->status && (cmd->direction != VN_HCMD_NONE && !cmd->in_capsule && cmd->moved != cmd->bytes))
        return FAULT(VN_FES_SEQUENCE, struct vn_pdu_resp, cqe.cid); /* success without the data */
    if (!cmd->status && cmd->corrupt)
        cmd->status = VN_SC_TRANSIENT_TRANSPORT;
    settle(cmd);
    return no_fault;
}

/* --- Memory --- */

int vn_hq_alloc(struct vn_hq *queue, struct vn_assoc *assoc, uint16_t qid, uint32_t entries) {
    queue->assoc = assoc;
    queue->qid = qid;
    queue->nr_alloc = entries - 1;
    queue->cmds = calloc(queue->nr_alloc, sizeof(*queue->cmds));
    if (!queue->cmds)
        return -ENOMEM;
    for (uint32_t i = 0; i < queue->nr_alloc; i++) {
        struct vn_hcmd *cmd = &queue->cmds[i];
        cmd->queue = queue;
        cmd->cid = (uint16_t)i;
        cmd->capsule.sent = on_capsule_sent;
        cmd->data[0].sent = on_data0_sent;
        cmd->data[1].sent = on_data1_sent;
    }
    return vn_hauth_alloc(queue);
}

void vn_hcmd_free_first(struct vn_hq *queue, uint32_t nr) {
    assert(!queue->oldest && nr <= queue->nr_alloc);
    queue->nr_cmds = nr;
    queue->free = NULL;
    while (nr-- > 0) {
        queue->cmds[nr].next = queue->free;
        queue->free = &queue->cmds[nr];
    }
}

void vn_hq_free(struct vn_hq *queue) {
    assert(!queue->oldest);
    vn_hauth_free(queue);
    free(queue->cmds);
}
