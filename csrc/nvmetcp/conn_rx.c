/* The receiving half of a connection: bytes to PDUs, data to where it belongs. Called by conn.c in a turn.
 * What came along with a header is copied out of the receive buffer. When much of a PDU's data is still to come, that is
 * received where it belongs, and only what lies behind it into the buffer.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "core/util.h"
#include "nvmetcp/conn_int.h"
#include "core/crc32c.h"

#define COMMON_BYTES ((uint32_t)sizeof(struct vn_pdu_common))
#define DIRECT_BYTES_MIN 4096u /* to come: less is not worth a call of its own */
#define DIRECT_IOVECS 64u      /* of one call */

static uint32_t buffered(const struct vn_conn *conn) {
    return conn->rx_tail - conn->rx_head;
}

static const uint8_t *head_of(const struct vn_conn *conn) {
    return conn->rx + conn->rx_head;
}

static bool is_over(const struct vn_conn *conn) {
    return conn->closing || conn->terminating;
}

/* A PDU that has begun is taken in any case. */
static bool is_paused(const struct vn_conn *conn) {
    return conn->paused && conn->rx_phase == VN_CONN_RX_HEADER && !conn->terminating;
}

bool vn_conn_wants_input(const struct vn_conn *conn) {
    return !conn->closing && conn->stream.readable && conn->stream.state == VN_STREAM_OPEN && !is_paused(conn);
}

/* --- Data --- */
/* The sink's iovecs from the next byte on, up to `bytes` of them. */
static uint32_t gather_sink(const struct vn_conn *conn, struct iovec *iov, uint32_t max_iov, uint32_t bytes,
                            uint32_t *gathered) {
    const struct vn_conn_sink *sink = &conn->rx_sink;
    uint32_t n = 0, skip = conn->rx_iov_done;
    *gathered = 0;
    for (uint32_t i = conn->rx_iov; i < sink->nr_iov && n < max_iov && *gathered < bytes; i++, skip = 0) {
        size_t len = vn_min_u64(sink->iov[i].iov_len - skip, bytes - *gathered);
        if (!len)
            continue;
        iov[n++] = (struct iovec){(uint8_t *)sink->iov[i].iov_base + skip, len};
        *gathered += (uint32_t)len;
    }
    return n;
}

static void skip_sink(struct vn_conn *conn, uint32_t bytes) {
    const struct vn_conn_sink *sink = &conn->rx_sink;
    while (sink->iov && bytes) {
        assert(conn->rx_iov < sink->nr_iov); /* the owner's iovecs are long enough */
        size_t here = vn_min_u64(sink->iov[conn->rx_iov].iov_len - conn->rx_iov_done, bytes);
        conn->rx_iov_done += (uint32_t)here;
        bytes -= (uint32_t)here;
        if (conn->rx_iov_done == sink->iov[conn->rx_iov].iov_len) {
            conn->rx_iov++;
            conn->rx_iov_done = 0;
        }
    }
}

/* So many bytes of data have been received where they belong. */
static void data_received(struct vn_conn *conn, const struct iovec *iov, uint32_t bytes) {
    if (conn->rx_pdu.common.flags & VN_PDU_F_DDGST) {
        for (uint32_t left = bytes; left; iov++) {
            uint32_t len = (uint32_t)vn_min_u64(iov->iov_len, left);
            conn->rx_crc = vn_crc32c(conn->rx_crc, iov->iov_base, len);
            left -= len;
        }
    }
    skip_sink(conn, bytes);
    conn->rx_done += bytes;
}

/* What the buffer has of it. */
static void copy_data(struct vn_conn *conn) {
    uint32_t bytes = (uint32_t)vn_min_u64(conn->rx_data - conn->rx_done, buffered(conn));
    const uint8_t *from = head_of(conn);
    if (conn->rx_pdu.common.flags & VN_PDU_F_DDGST)
        conn->rx_crc = vn_crc32c(conn->rx_crc, from, bytes);
    conn->rx_head += bytes;
    conn->rx_done += bytes;
    while (conn->rx_sink.iov && bytes) {
        struct iovec iov;
        uint32_t len;
        uint32_t n = gather_sink(conn, &iov, 1, bytes, &len);
        assert(n);
        memcpy(iov.iov_base, from, len);
        skip_sink(conn, len);
        from += len;
        bytes -= len;
    }
}

/* --- PDUs --- */
static void begin_data(struct vn_conn *conn, uint32_t header) {
    conn->rx_skip = conn->rx_data ? conn->rx_pdu.common.pdo - header : 0;
    conn->rx_crc = VN_CRC32C_INIT;
    conn->rx_done = conn->rx_iov = conn->rx_iov_done = 0;
    skip_sink(conn, conn->rx_sink.offset);
}

static void peer_ended(struct vn_conn *conn) {
    conn->fault.fes = conn->rx_pdu.term.fes;
    memcpy(&conn->fault.info, conn->rx_pdu.term.info, sizeof(conn->fault.info));
    vn_conn_close(conn, -ECONNABORTED);
}

/* A whole header is there: digest, fields, and what its owner says. */
static void take_header(struct vn_conn *conn, uint32_t hlen, bool digest) {
    memcpy(&conn->rx_pdu, head_of(conn), hlen);
    if (digest) {
        uint32_t came;
        memcpy(&came, head_of(conn) + hlen, sizeof(came));
        if (came != vn_crc32c_end(vn_crc32c(VN_CRC32C_INIT, &conn->rx_pdu, hlen))) {
            vn_conn_reject(conn, (struct vn_pdu_fault){VN_FES_HEADER_DIGEST, came}, &conn->rx_pdu, hlen);
            return;
        }
    }
    uint32_t header = hlen + (digest ? VN_PDU_DIGEST_BYTES : 0);
    conn->rx_head += header;
    struct vn_pdu_fault fault = vn_pdu_check(&conn->rules, &conn->rx_pdu);
    if (fault.fes) {
        vn_conn_reject(conn, fault, &conn->rx_pdu, hlen);
        return;
    }
    uint8_t type = conn->rx_pdu.common.type;
    if (type == VN_PDU_H2C_TERM || type == VN_PDU_C2H_TERM) {
        peer_ended(conn);
        return;
    }
    conn->rx_data = vn_pdu_data_bytes(&conn->rules, &conn->rx_pdu.common);
    conn->rx_sink = (struct vn_conn_sink){0};
    fault = conn->ops->header(conn, &conn->rx_pdu, &conn->rx_sink);
    if (fault.fes && !is_over(conn))
        vn_conn_reject(conn, fault, &conn->rx_pdu, hlen);
    begin_data(conn, header);
    conn->rx_phase = VN_CONN_RX_PAD;
}

/* False: more bytes are needed. */
static bool parse_header(struct vn_conn *conn) {
    if (buffered(conn) < COMMON_BYTES)
        return false;
    struct vn_pdu_common common;
    memcpy(&common, head_of(conn), sizeof(common));
    struct vn_pdu_fault fault = vn_pdu_check_common(&conn->rules, &common);
    if (fault.fes) {
        memcpy(&conn->rx_pdu, &common, sizeof(common));
        vn_conn_reject(conn, fault, head_of(conn), COMMON_BYTES);
        return true;
    }
    bool digest = common.flags & VN_PDU_F_HDGST;
    if (buffered(conn) < common.hlen + (digest ? VN_PDU_DIGEST_BYTES : 0))
        return false;
    take_header(conn, common.hlen, digest);
    return true;
}

static void finish_pdu(struct vn_conn *conn, bool intact) {
    conn->rx_phase = VN_CONN_RX_HEADER;
    conn->rx_sink.iov = NULL;
    struct vn_pdu_fault fault = conn->ops->pdu(conn, &conn->rx_pdu, intact);
    if (fault.fes && !is_over(conn))
        vn_conn_reject(conn, fault, &conn->rx_pdu, conn->rx_pdu.common.hlen);
}

static bool parse_digest(struct vn_conn *conn) {
    uint32_t came;
    if (buffered(conn) < sizeof(came))
        return false;
    memcpy(&came, head_of(conn), sizeof(came));
    conn->rx_head += (uint32_t)sizeof(came);
    finish_pdu(conn, came == vn_crc32c_end(conn->rx_crc));
    return true;
}

/* One step on with what is in the buffer. False: more bytes are needed. */
static bool parse_step(struct vn_conn *conn) {
    uint32_t n;
    switch (conn->rx_phase) {
    case VN_CONN_RX_HEADER:
        return parse_header(conn);
    case VN_CONN_RX_PAD:
        n = (uint32_t)vn_min_u64(conn->rx_skip, buffered(conn));
        conn->rx_head += n;
        conn->rx_skip -= n;
        if (conn->rx_skip)
            return false;
        conn->rx_phase = VN_CONN_RX_DATA;
        return true;
    case VN_CONN_RX_DATA:
        copy_data(conn);
        if (conn->rx_done < conn->rx_data)
            return false;
        if (conn->rx_data && conn->rx_pdu.common.flags & VN_PDU_F_DDGST)
            conn->rx_phase = VN_CONN_RX_DIGEST;
        else
            finish_pdu(conn, true);
        return true;
    default:
        return parse_digest(conn);
    }
}

static void parse(struct vn_conn *conn) {
    while (!is_over(conn) && !is_paused(conn) && parse_step(conn))
        ;
}

/* --- Bytes --- */
/* Receives once. What lies in the buffer is less than a header, or a digest. */
static ssize_t fill(struct vn_conn *conn) {
    struct iovec iov[DIRECT_IOVECS + 1];
    uint32_t n = 0, direct = 0;
    memmove(conn->rx, head_of(conn), buffered(conn));
    conn->rx_tail = buffered(conn);
    conn->rx_head = 0;
    assert(conn->rx_tail < sizeof(union vn_pdu) + VN_PDU_DIGEST_BYTES);
    uint32_t missing = conn->rx_phase == VN_CONN_RX_DATA ? conn->rx_data - conn->rx_done : 0;
    if (conn->rx_sink.iov && missing >= DIRECT_BYTES_MIN)
        n = gather_sink(conn, iov, DIRECT_IOVECS, missing, &direct);
    if (!direct || direct == missing)
        iov[n++] = (struct iovec){conn->rx + conn->rx_tail, VN_CONN_RX_BYTES - conn->rx_tail};
    ssize_t got = vn_stream_recv(&conn->stream, iov, n);
    if (got <= 0)
        return got;
    uint32_t placed = (uint32_t)vn_min_u64((uint64_t)got, direct);
    if (placed)
        data_received(conn, iov, placed);
    conn->rx_tail += (uint32_t)got - placed;
    return got;
}

/* Reads until the peer's end, while a termination request is on its way: data that nobody has read would make the
 * kernel reset the connection, and the request with it. */
static ssize_t discard(struct vn_conn *conn) {
    struct iovec iov = {conn->rx, VN_CONN_RX_BYTES};
    return vn_stream_recv(&conn->stream, &iov, 1);
}

static void stream_over(struct vn_conn *conn, ssize_t result) {
    if (conn->terminating)
        vn_conn_close(conn, -EPROTO);
    else if (result < 0)
        vn_conn_close(conn, (int)result);
    else
        vn_conn_close(conn, conn->rx_phase == VN_CONN_RX_HEADER && !buffered(conn) ? 0 : -ECONNRESET);
}

uint32_t vn_conn_input(struct vn_conn *conn) {
    uint32_t turn = 0;
    if (!conn->terminating)
        parse(conn); /* what a pause or the end of the last turn has left */
    while (turn < VN_CONN_TURN_BYTES && vn_conn_wants_input(conn)) {
        ssize_t got = conn->terminating ? discard(conn) : fill(conn);
        if (got == -EAGAIN)
            break;
        if (got <= 0) {
            stream_over(conn, got);
            break;
        }
        turn += (uint32_t)got;
        conn->rx_ns = vn_reactor_now_ns(conn->stream.reactor);
        if (!conn->terminating)
            parse(conn);
    }
    return turn;
}

bool vn_conn_receives(struct vn_conn *conn, uint16_t cccid, bool drop) {
    assert(vn_reactor_is_here(conn->stream.reactor));
    uint8_t type = conn->rx_pdu.common.type;
    if (conn->rx_phase == VN_CONN_RX_HEADER || !conn->rx_data || (type != VN_PDU_C2H_DATA && type != VN_PDU_H2C_DATA) ||
        conn->rx_pdu.data.cccid != cccid)
        return false;
    if (drop)
        conn->rx_sink.iov = NULL;
    return true;
}
