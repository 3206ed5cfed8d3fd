/* The sending half of a connection: a queue of PDUs, digests, and one call for as many as fit. Called by conn.c in a
 * turn, and by whoever queues a PDU.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "core/util.h"
#include "nvmetcp/conn_int.h"
#include "core/crc32c.h"

/* Header, its digest and the padding lie in one piece. */
static_assert(offsetof(struct vn_tx, hdgst) == offsetof(struct vn_tx, pdu) + sizeof(union vn_pdu), "a gap");

static uint32_t head_bytes(const struct vn_tx *tx) {
    const struct vn_pdu_common *common = &tx->pdu.common;
    if (common->pdo)
        return common->pdo;
    return common->hlen + (common->flags & VN_PDU_F_HDGST ? VN_PDU_DIGEST_BYTES : 0);
}

/* The data of a PDU, piece by piece. */
struct pieces {
    const struct iovec *iov; /* NULL for a PDU without data */
    uint32_t nr_iov;         /* from iov on */
    size_t skip, left;       /* bytes */
};

static struct pieces pieces_of(const struct vn_tx *tx) {
    return (struct pieces){tx->iov, tx->nr_iov, tx->iov_offset, tx->data_bytes};
}

/* False: there are no more. */
static bool next_piece(struct pieces *pieces, struct iovec *out) {
    if (!pieces->left)
        return false;
    for (;; pieces->skip -= pieces->iov++->iov_len) {
        assert(pieces->nr_iov); /* the owner's iovecs are long enough */
        pieces->nr_iov--;
        if (pieces->skip < pieces->iov->iov_len)
            break;
    }
    size_t len = vn_min_u64(pieces->iov->iov_len - pieces->skip, pieces->left);
    *out = (struct iovec){(uint8_t *)pieces->iov++->iov_base + pieces->skip, len};
    pieces->skip = 0;
    pieces->left -= len;
    return true;
}

static uint32_t data_digest(const struct vn_tx *tx) {
    struct pieces pieces = pieces_of(tx);
    uint32_t crc = VN_CRC32C_INIT;
    for (struct iovec piece; next_piece(&pieces, &piece);)
        crc = vn_crc32c(crc, piece.iov_base, piece.iov_len);
    return vn_crc32c_end(crc);
}

static void seal(struct vn_tx *tx) {
    const struct vn_pdu_common *common = &tx->pdu.common;
    uint8_t *header = (uint8_t *)&tx->pdu;
    uint32_t at = common->hlen;
    if (common->flags & VN_PDU_F_HDGST) {
        uint32_t digest = vn_crc32c_end(vn_crc32c(VN_CRC32C_INIT, header, common->hlen));
        memcpy(header + at, &digest, sizeof(digest));
        at += (uint32_t)sizeof(digest);
    }
    if (common->pdo > at)
        memset(header + at, 0, common->pdo - at);
    if (common->flags & VN_PDU_F_DDGST)
        tx->ddgst = data_digest(tx);
    assert(common->plen == head_bytes(tx) + tx->data_bytes + (common->flags & VN_PDU_F_DDGST ? VN_PDU_DIGEST_BYTES : 0));
    tx->total = common->plen;
    tx->done = 0;
    tx->next = NULL;
}

void vn_conn_send(struct vn_conn *conn, struct vn_tx *tx) {
    assert(vn_reactor_is_here(conn->stream.reactor));
    seal(tx);
    if (conn->tx_last)
        conn->tx_last->next = tx;
    else
        conn->tx_first = tx;
    conn->tx_last = tx;
    vn_conn_list(conn);
}

bool vn_conn_unsend(struct vn_conn *conn, struct vn_tx *tx) {
    assert(vn_reactor_is_here(conn->stream.reactor));
    if (tx->done)
        return false;
    for (struct vn_tx *at = conn->tx_first, *before = NULL; at; before = at, at = at->next) {
        if (at != tx)
            continue;
        *(before ? &before->next : &conn->tx_first) = tx->next;
        if (conn->tx_last == tx)
            conn->tx_last = before;
        return true;
    }
    return false;
}

static struct vn_tx *pop(struct vn_conn *conn) {
    struct vn_tx *tx = conn->tx_first;
    conn->tx_first = tx->next;
    if (!conn->tx_first)
        conn->tx_last = NULL;
    return tx;
}

/* Its owner may queue more from within: that is given back as well. */
void vn_conn_give_back(struct vn_conn *conn, struct vn_tx *last_kept) {
    while (last_kept ? last_kept->next : conn->tx_first) {
        struct vn_tx *tx = last_kept ? last_kept->next : pop(conn);
        if (last_kept) {
            last_kept->next = tx->next;
            if (conn->tx_last == tx)
                conn->tx_last = last_kept;
        }
        if (tx->sent)
            tx->sent(tx, false);
    }
}

/* --- Leaving --- */
struct batch {
    struct iovec iov[VN_CONN_TX_IOVECS];
    uint32_t n;
    uint64_t skip; /* bytes of the PDU at hand that have left */
};

/* False: there is no room. */
static bool add(struct batch *batch, const void *at, size_t len) {
    size_t gone = vn_min_u64(batch->skip, len);
    batch->skip -= gone;
    if (gone == len)
        return true;
    if (batch->n == VN_CONN_TX_IOVECS)
        return false;
    batch->iov[batch->n++] = (struct iovec){(uint8_t *)(uintptr_t)at + gone, len - gone};
    return true;
}

static bool add_data(struct batch *batch, const struct vn_tx *tx) {
    struct pieces pieces = pieces_of(tx);
    for (struct iovec piece; next_piece(&pieces, &piece);) {
        if (!add(batch, piece.iov_base, piece.iov_len))
            return false;
    }
    return true;
}

static bool add_tx(struct batch *batch, const struct vn_tx *tx) {
    batch->skip = tx->done;
    if (!add(batch, &tx->pdu, head_bytes(tx)) || !add_data(batch, tx))
        return false;
    return !(tx->pdu.common.flags & VN_PDU_F_DDGST) || add(batch, &tx->ddgst, sizeof(tx->ddgst));
}

/* All that has left is noted before anybody is told: who is told may want to take back another. */
static void left(struct vn_conn *conn, uint64_t bytes) {
    for (struct vn_tx *tx = conn->tx_first; bytes; tx = tx->next) {
        uint64_t n = vn_min_u64(tx->total - tx->done, bytes);
        tx->done += n;
        bytes -= n;
    }
    while (conn->tx_first && conn->tx_first->done == conn->tx_first->total) {
        struct vn_tx *tx = pop(conn);
        if (tx->sent)
            tx->sent(tx, true);
    }
}

void vn_conn_flush(struct vn_conn *conn) {
    struct batch batch;
    while (conn->tx_first && !conn->closing && !conn->term_sent && conn->stream.writable) {
        batch.n = 0;
        const struct vn_tx *tx = conn->tx_first;
        while (tx && add_tx(&batch, tx))
            tx = tx == &conn->term ? NULL : tx->next; /* nothing follows a termination request */
        ssize_t n = vn_stream_send(&conn->stream, batch.iov, batch.n);
        if (n == -EAGAIN)
            return;
        if (n < 0) {
            vn_conn_close(conn, conn->terminating ? -EPROTO : (int)n);
            return;
        }
        conn->tx_ns = vn_reactor_now_ns(conn->stream.reactor);
        left(conn, (uint64_t)n);
    }
}
