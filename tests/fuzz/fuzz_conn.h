/* One connection whose peer, and whose owner, are the input: bytes of PDUs good and bad cut anywhere, pauses, PDUs of our
 * own, closing and failing at any moment. For fuzz_pdu_target and fuzz_pdu_host, which differ in the role.
 */
#ifndef FUZZ_CONN_H
#define FUZZ_CONN_H

#include "fuzz_input.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/util.h"
#include "nvmetcp/conn.h"
#include "core/crc32c.h"

#define NR_TX 4u
#define DATA_MAX 65536u
#define CAPSULE_MAX 8192u
#define TURNS_MAX 20000

static struct vn_reactor *reactor;
static struct vn_conn_group group;

static struct {
    struct input input;
    struct vn_conn conn;
    int peer;
    bool closed, told_header;
    uint32_t busy; /* bits of tx */
    struct vn_tx tx[NR_TX];
    struct iovec tx_iov[2];
    uint8_t *data; /* of the PDU that is being received: no byte more than it has */
    struct iovec sink[2];
    uint8_t answers; /* what the owner does next */
} fuzz;

static uint8_t pattern[DATA_MAX];

static struct vn_pdu_fault answer(void) {
    uint8_t what = fuzz.answers;
    fuzz.answers = 0;
    switch (what) {
    case 1:
        vn_conn_close(&fuzz.conn, -ECANCELED);
        break;
    case 2:
        vn_conn_pause(&fuzz.conn);
        break;
    case 3:
        vn_conn_fail(&fuzz.conn, (struct vn_pdu_fault){VN_FES_SEQUENCE, 0});
        break;
    case 4:
        return (struct vn_pdu_fault){VN_FES_DATA_RANGE, 7};
    default:
        break;
    }
    return (struct vn_pdu_fault){VN_FES_NONE, 0};
}

static struct vn_pdu_fault on_header(struct vn_conn *conn, const union vn_pdu *pdu, struct vn_conn_sink *sink) {
    MUST(!fuzz.closed && !fuzz.told_header && !conn->closing && !conn->terminating);
    uint32_t bytes = vn_pdu_data_bytes(&conn->rules, &pdu->common);
    MUST(bytes <= (pdu->common.type == VN_PDU_CMD ? CAPSULE_MAX : DATA_MAX));
    MUST(conn->rules.ready != (pdu->common.type == VN_PDU_IC_REQ || pdu->common.type == VN_PDU_IC_RESP));
    if (pdu->common.type == VN_PDU_H2C_DATA || pdu->common.type == VN_PDU_C2H_DATA)
        MUST(pdu->data.datal == bytes && bytes && pdu->data.datao + bytes > pdu->data.datao);
    fuzz.told_header = true;
    if (bytes && pdu->common.plen % 7 != 3) {
        uint32_t cut = pdu->common.plen * 5 % (bytes + 1);
        fuzz.data = malloc(bytes);
        MUST(fuzz.data);
        fuzz.sink[0] = (struct iovec){fuzz.data, cut};
        fuzz.sink[1] = (struct iovec){fuzz.data + cut, bytes - cut};
        *sink = (struct vn_conn_sink){.iov = fuzz.sink, .nr_iov = 2};
    }
    return answer();
}

static struct vn_pdu_fault on_pdu(struct vn_conn *conn, const union vn_pdu *pdu, bool intact) {
    MUST(!fuzz.closed && fuzz.told_header && !conn->closing && !conn->terminating);
    (void)intact;
    free(fuzz.data);
    fuzz.data = NULL;
    fuzz.told_header = false;
    if (pdu->common.type == VN_PDU_IC_REQ || pdu->common.type == VN_PDU_IC_RESP)
        conn->rules.ready = true;
    return answer();
}

static void on_closed(struct vn_conn *conn, int err) {
    (void)conn;
    MUST(!fuzz.closed && err <= 0 && !fuzz.busy);
    fuzz.closed = true;
}

static void on_sent(struct vn_tx *tx, bool whole) {
    (void)whole;
    uint32_t bit = 1u << (tx - fuzz.tx);
    MUST(!fuzz.closed && fuzz.busy & bit);
    fuzz.busy &= ~bit;
}

static const struct vn_conn_ops conn_ops = {.header = on_header, .pdu = on_pdu, .closed = on_closed};

/* --- The peer --- */
static void put(const void *bytes, size_t len) {
    (void)!send(fuzz.peer, bytes, len, MSG_NOSIGNAL);
}

/* A PDU that is right but for what the input changes in its header; the header digest is that of what is sent, mostly. */
static void put_pdu(struct input *input) {
    static const uint8_t host[] = {VN_PDU_CMD, VN_PDU_H2C_DATA, VN_PDU_IC_REQ, VN_PDU_CMD, VN_PDU_H2C_TERM};
    static const uint8_t controller[] = {VN_PDU_RESP, VN_PDU_C2H_DATA, VN_PDU_R2T, VN_PDU_IC_RESP, VN_PDU_C2H_TERM};
    const struct vn_pdu_rules *rules = &fuzz.conn.rules;
    static uint8_t bytes[256 + DATA_MAX + 4096];
    union vn_pdu pdu = {0};
    uint8_t which = take8(input), how = take8(input);
    uint8_t type = (rules->role == VN_PDU_CONTROLLER ? host : controller)[which % 5];
    uint32_t len = how & 1 ? (uint32_t)take(input, 2) : how & 2 ? 512 : 0;
    if (type == VN_PDU_H2C_TERM || type == VN_PDU_C2H_TERM)
        len %= VN_PDU_TERM_DATA_MAX + 1;
    else if (type != VN_PDU_CMD && type != VN_PDU_H2C_DATA && type != VN_PDU_C2H_DATA)
        len = 0;
    else if (type != VN_PDU_CMD && !len)
        len = 4096;
    vn_pdu_head(&pdu.common, type, how & 4 && type != VN_PDU_CMD && len ? VN_PDU_F_LAST : 0, rules->hdgst, rules->ddgst,
                rules->align, len);
    if (type == VN_PDU_H2C_DATA || type == VN_PDU_C2H_DATA)
        pdu.data.datal = len;
    else if (type == VN_PDU_R2T)
        pdu.r2t.r2tl = 4096;
    else if (type == VN_PDU_IC_RESP)
        pdu.ic_resp.maxh2cdata = 4096;
    uint32_t plen = pdu.common.plen, hlen = pdu.common.hlen, pdo = pdu.common.pdo ? pdu.common.pdo : hlen;
    for (uint32_t i = how >> 3 & 3; i; i--)
        ((uint8_t *)&pdu)[take8(input) % hlen] ^= take8(input);
    memset(bytes, 0, pdo + 8);
    memcpy(bytes, &pdu, hlen);
    if (rules->hdgst) {
        uint32_t crc = vn_crc32c_end(vn_crc32c(VN_CRC32C_INIT, bytes, hlen)) ^ (how & 0x20 ? 1 : 0);
        memcpy(bytes + hlen, &crc, sizeof(crc));
    }
    memcpy(bytes + pdo, pattern, len);
    if (rules->ddgst) {
        uint32_t crc = vn_crc32c_end(vn_crc32c(VN_CRC32C_INIT, bytes + pdo, len)) ^ (how & 0x40 ? 1 : 0);
        memcpy(bytes + pdo + len, &crc, sizeof(crc));
    }
    put(bytes, how & 0x80 ? take(input, 2) % (plen + 1) : plen);
}

static void put_raw(struct input *input) {
    uint8_t bytes[256];
    size_t len = take8(input);
    take_bytes(input, bytes, len);
    put(bytes, len);
}

static void drain(void) {
    static uint8_t bytes[DATA_MAX];
    (void)!recv(fuzz.peer, bytes, sizeof(bytes), 0);
}

/* --- The owner --- */
static void send_one(struct input *input) {
    uint8_t how = take8(input);
    uint32_t i = how % NR_TX;
    if (fuzz.busy & 1u << i)
        return;
    bool is_host = fuzz.conn.rules.role == VN_PDU_HOST;
    bool data = how & 4;
    struct vn_tx *tx = &fuzz.tx[i];
    *tx = (struct vn_tx){.sent = on_sent, .iov = fuzz.tx_iov, .nr_iov = 2};
    tx->data_bytes = data ? 1 + (uint32_t)take(input, 2) : 0;
    tx->iov_offset = tx->data_bytes < DATA_MAX / 2 ? how : 0;
    vn_pdu_head(&tx->pdu.common, data ? (is_host ? VN_PDU_H2C_DATA : VN_PDU_C2H_DATA) : is_host ? VN_PDU_CMD : VN_PDU_RESP,
                0, fuzz.conn.rules.hdgst, fuzz.conn.rules.ddgst, fuzz.conn.rules.align, tx->data_bytes);
    fuzz.busy |= 1u << i;
    vn_conn_send(&fuzz.conn, tx);
}

static void one_op(struct input *input) {
    uint8_t op = take8(input);
    struct vn_conn *conn = &fuzz.conn;
    switch (op % 16) {
    case 0:
    case 1:
    case 2:
    case 3:
        put_pdu(input);
        break;
    case 4:
        put_raw(input);
        break;
    case 5:
        vn_conn_pause(conn);
        break;
    case 6:
        vn_conn_resume(conn);
        break;
    case 7:
    case 8:
        send_one(input);
        break;
    case 9:
        if (vn_conn_unsend(conn, &fuzz.tx[op >> 4 & 3]))
            fuzz.busy &= ~(1u << (op >> 4 & 3));
        break;
    case 10:
        fuzz.answers = take8(input) % 5;
        break;
    case 11:
        drain();
        break;
    case 12:
        if (vn_conn_receives(conn, 0, op & 16) && op & 16) {
            free(fuzz.data); /* nothing is put there any more */
            fuzz.data = NULL;
        }
        break;
    case 13: /* rare, or every input would be short */
        if (take8(input) % 8 == 0)
            vn_conn_fail(conn, (struct vn_pdu_fault){take8(input) % 8, (uint32_t)take(input, 4)});
        break;
    case 14:
        if (take8(input) % 8 == 0)
            shutdown(fuzz.peer, op & 16 ? SHUT_WR : SHUT_RDWR);
        break;
    default:
        if (take8(input) % 16 == 0)
            vn_conn_close(conn, -ECANCELED);
        break;
    }
    for (uint32_t i = op >> 4 & 3; i-- && !fuzz.closed;)
        vn_reactor_turn(reactor);
}

static int run(void *arg) {
    enum vn_pdu_role role = *(enum vn_pdu_role *)arg;
    struct input *input = &fuzz.input;
    int fds[2], size = 4096;
    if (!group.reactor)
        vn_conn_group_init(&group, reactor);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    fuzz.peer = fds[1];
    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    size = 1 << 20;
    setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    MUST(vn_conn_accept(&fuzz.conn, &group, &conn_ops, role, fds[0], NULL) == 0);
    uint8_t how = take8(input);
    fuzz.conn.rules = (struct vn_pdu_rules){.role = role, .ready = !(how & 1), .hdgst = how & 2, .ddgst = how & 4,
                                            .align = (uint8_t)(4 * (1 + (how >> 3))), .capsule_data_max = CAPSULE_MAX,
                                            .data_max = DATA_MAX};
    while (input->left && !fuzz.closed)
        one_op(input);
    for (int i = 0; i < 8 && !fuzz.closed; i++)
        vn_reactor_turn(reactor);
    if (!fuzz.closed) { /* the peer goes: it ends by itself, unless nobody reads */
        close(fuzz.peer);
        fuzz.peer = -1;
        vn_conn_resume(&fuzz.conn);
    }
    for (int i = 0; !fuzz.closed; i++) {
        MUST(i < TURNS_MAX);
        vn_reactor_turn(reactor);
        if (fuzz.conn.paused && !fuzz.closed)
            vn_conn_resume(&fuzz.conn);
    }
    MUST(!group.nr_conns && !group.first);
    free(fuzz.data);
    if (fuzz.peer >= 0)
        close(fuzz.peer);
    return 0;
}

static int fuzz_conn(enum vn_pdu_role role, const uint8_t *data, size_t size) {
    if (!reactor) {
        MUST(vn_reactor_start(0, 0, &reactor) == 0);
        for (uint32_t i = 0; i < DATA_MAX; i++)
            pattern[i] = (uint8_t)(i * 7 + (i >> 8));
    }
    memset(&fuzz, 0, sizeof(fuzz));
    fuzz.tx_iov[0] = (struct iovec){pattern, DATA_MAX};
    fuzz.tx_iov[1] = (struct iovec){pattern, DATA_MAX};
    fuzz.input = (struct input){data, size};
    vn_reactor_call(reactor, run, &role);
    return 0;
}

#endif
