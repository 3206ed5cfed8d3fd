/* Connections whose peer breaks the rules or goes away, and owners that close, pause and take back in the middle. The
 * peer is a bare socket here, so that every byte is the test's.
 */
#include "conn_rig.h"

static int peer; /* the other end */

static struct end *begin(enum vn_pdu_role role) {
    int fds[2];
    pair(fds);
    peer = fds[1];
    return accept_end(role, fds[0]);
}

static void done(struct end *end) {
    if (!end->closed)
        vn_conn_close(&end->conn, 0);
    TURN_UNTIL(end->closed);
    free_end(end);
    close(peer);
}

static void turns(uint32_t nr) {
    while (nr--)
        vn_reactor_turn(reactor);
}

static void put(const void *bytes, size_t len) {
    CHECK_EQ(send(peer, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* A PDU as bytes; data is filled with 0x33. */
static uint32_t build(uint8_t *out, const struct end *end, uint8_t type, uint32_t bytes) {
    union vn_pdu pdu = {0};
    const struct vn_pdu_rules *rules = &end->conn.rules;
    vn_pdu_head(&pdu.common, type, 0, rules->hdgst, rules->ddgst, rules->align, bytes);
    if (type == VN_PDU_H2C_DATA || type == VN_PDU_C2H_DATA) {
        pdu.data.datal = bytes;
        pdu.data.cccid = 9;
    }
    uint32_t hlen = pdu.common.hlen;
    memset(out, 0, pdu.common.plen);
    memcpy(out, &pdu, hlen);
    if (rules->hdgst) {
        uint32_t crc = vn_crc32c_end(vn_crc32c(VN_CRC32C_INIT, out, hlen));
        memcpy(out + hlen, &crc, 4);
    }
    memset(out + pdu.common.pdo, 0x33, bytes);
    if (!bytes)
        memcpy(out, &pdu, 1);
    if (rules->ddgst && bytes) {
        uint32_t crc = vn_crc32c_end(vn_crc32c(VN_CRC32C_INIT, out + pdu.common.pdo, bytes));
        memcpy(out + pdu.common.pdo + bytes, &crc, 4);
    }
    return pdu.common.plen;
}

/* Takes the termination request, checks it, and hangs up. */
static void expect_term(struct end *end, enum vn_pdu_fes fes, uint32_t info, const void *offender, uint32_t bytes) {
    uint8_t got[256];
    ssize_t n;
    TURN_UNTIL((n = recv(peer, got, sizeof(got), 0)) > 0);
    struct vn_pdu_term term;
    memcpy(&term, got, sizeof(term));
    uint32_t came;
    memcpy(&came, term.info, sizeof(came));
    CHECK_EQ(n, sizeof(term) + bytes);
    CHECK_EQ(term.common.plen, n);
    CHECK_EQ(term.common.type, end->conn.rules.role == VN_PDU_CONTROLLER ? VN_PDU_C2H_TERM : VN_PDU_H2C_TERM);
    CHECK_EQ(term.fes, fes);
    CHECK_EQ(came, info);
    CHECK(!bytes || !memcmp(got + sizeof(term), offender, bytes));
    TURN_UNTIL((n = recv(peer, got, sizeof(got), 0)) == 0); /* its end follows, but it waits for ours */
    CHECK(!end->closed);
    CHECK_EQ(end->conn.fault.fes, fes);
    shutdown(peer, SHUT_RDWR);
    TURN_UNTIL(end->closed);
    CHECK_EQ(end->err, -EPROTO);
}

static void test_header_digest(void) {
    for (int role = VN_PDU_CONTROLLER; role <= VN_PDU_HOST; role++) {
        uint8_t bytes[256];
        struct end *end = begin(role);
        agree(end, true, true, 4);
        uint32_t hlen = role == VN_PDU_CONTROLLER ? 72 : 24;
        uint32_t len = build(bytes, end, role == VN_PDU_CONTROLLER ? VN_PDU_CMD : VN_PDU_RESP, 0);
        put(bytes, len);
        TURN_UNTIL(end->nr_taken == 1);
        bytes[hlen - 3] ^= 1;
        uint32_t crc;
        memcpy(&crc, bytes + hlen, 4);
        put(bytes, len);
        expect_term(end, VN_FES_HEADER_DIGEST, crc, bytes, hlen);
        CHECK_EQ(end->nr_headers, 1);
        done(end);
    }
}

/* Told to the owner; the connection lives on. Also when the data went into its place directly. */
static void test_data_digest(void) {
    static const uint32_t sizes[] = {4, 4096, 65536, DATA_MAX};
    uint8_t *bytes = malloc(DATA_MAX + 256);
    for (size_t i = 0; i < VN_ARRAY_SIZE(sizes); i++) {
        struct end *end = begin(VN_PDU_CONTROLLER);
        agree(end, false, true, 4);
        for (int round = 0; round < 4; round++) {
            uint32_t len = build(bytes, end, VN_PDU_H2C_DATA, sizes[i]);
            if (round & 1)
                bytes[len - 1 - 4 * (round >> 1)] ^= 0x80; /* the digest, or the data */
            for (uint32_t at = 0; at < len;) {
                ssize_t n = send(peer, bytes + at, len - at, MSG_NOSIGNAL);
                at += n > 0 ? (uint32_t)n : 0;
                vn_reactor_turn(reactor);
            }
            TURN_UNTIL(end->nr_taken == (uint32_t)round + 1);
            CHECK_EQ(end->nr_broken, (round + 1) / 2);
        }
        done(end);
    }
    free(bytes);
}

static void test_bad_headers(void) {
    struct {
        uint8_t header[8];
        enum vn_pdu_fes fes;
        uint32_t info;
    } bad[] = {
        {{0x08, 0, 24, 0, 24}, VN_FES_INVALID_HEADER, 0}, {{VN_PDU_RESP, 0, 24, 0, 24}, VN_FES_INVALID_HEADER, 0},
        {{VN_PDU_CMD, 0, 71, 0, 72}, VN_FES_INVALID_HEADER, 2}, {{VN_PDU_CMD, 0, 255, 0, 72}, VN_FES_INVALID_HEADER, 2},
        {{VN_PDU_CMD, 1, 72, 0, 76}, VN_FES_INVALID_HEADER, 1}, {{VN_PDU_CMD, 0, 72, 0, 0}, VN_FES_INVALID_HEADER, 3},
        {{VN_PDU_CMD, 0, 72, 72, 73, 0, 0, 0xff}, VN_FES_INVALID_HEADER, 4},
        {{VN_PDU_IC_REQ, 0, 128, 0, 128}, VN_FES_SEQUENCE, 0},
        {{VN_PDU_H2C_DATA, 0, 24, 24, 25, 0, 2}, VN_FES_DATA_LIMIT, 0},
    };
    for (size_t i = 0; i < VN_ARRAY_SIZE(bad); i++) {
        struct end *end = begin(VN_PDU_CONTROLLER);
        put(bad[i].header, 8); /* eight bytes are enough */
        expect_term(end, bad[i].fes, bad[i].info, bad[i].header, 8);
        CHECK_EQ(end->nr_headers, 0);
        done(end);
    }
}

/* The owner's faults: of the header, and of the whole. What was queued, but not begun, is given back. */
static void test_owners_faults(void) {
    for (int at_pdu = 0; at_pdu < 2; at_pdu++) {
        uint8_t bytes[8192];
        struct end *end = begin(VN_PDU_HOST);
        uint32_t len = build(bytes, end, VN_PDU_C2H_DATA, 4096);
        *(at_pdu ? &end->answer_pdu : &end->answer_header) = (struct vn_pdu_fault){VN_FES_DATA_RANGE, 0};
        put(bytes, len);
        put(bytes, len); /* and more, which nobody reads */
        expect_term(end, VN_FES_DATA_RANGE, 0, bytes, 24);
        CHECK_EQ(end->nr_headers, 1);
        CHECK_EQ(end->nr_taken, at_pdu);
        done(end);
    }
    struct end *end = begin(VN_PDU_HOST);
    turns(3);
    vn_conn_fail(&end->conn, (struct vn_pdu_fault){VN_FES_SEQUENCE, 0});
    end->nr_to_send = 5;
    queue_more(end);
    expect_term(end, VN_FES_SEQUENCE, 0, NULL, 0);
    CHECK(end->nr_back == 5 && end->nr_sent == 0);
    done(end);
}

/* What has begun to leave is ended before the request; a peer that does not hang up is left after a second. */
static void test_fail_in_the_middle(void) {
    struct end *end = begin(VN_PDU_CONTROLLER);
    int size = 4096;
    setsockopt(end->conn.stream.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    end->nr_to_send = NR_TX;
    queue_more(end);
    turns(10);
    CHECK(end->conn.tx_first && end->conn.tx_first->done);
    uint64_t begun_left = end->conn.tx_first->total - end->conn.tx_first->done;
    end->queue_when_sent = true; /* behind the request, where it is too late */
    vn_conn_fail(&end->conn, (struct vn_pdu_fault){VN_FES_UNSUPPORTED, 8});
    uint8_t *bytes = malloc(1u << 20);
    uint64_t total = 0;
    ssize_t n;
    for (uint32_t idle = 0; (n = recv(peer, bytes + total, (1u << 20) - total, 0)) != 0;) {
        total += n > 0 ? (uint64_t)n : 0;
        end->nr_to_send++; /* as soon as there is room for the request, there is another PDU behind it too */
        queue_more(end);
        turn_once(&idle);
    }
    turns(3);
    CHECK(total >= begun_left + 24 && end->nr_sent + end->nr_back == end->nr_queued && end->nr_back > 1);
    CHECK(bytes[total - 24] == VN_PDU_C2H_TERM && bytes[total - 16] == VN_FES_UNSUPPORTED);
    free(bytes);
    CHECK(!end->closed);
    for (int i = 0; i < 5000 && !end->closed; i++) {
        vn_reactor_turn(reactor);
        usleep(1000);
    }
    CHECK(end->closed && end->err == -EPROTO);
    done(end);
}

static void test_peers_term(void) {
    struct vn_pdu_fault fault = {VN_FES_DATA_LIMIT, 0x01020304};
    uint8_t bytes[152], header[72] = {VN_PDU_CMD};
    struct end *end = begin(VN_PDU_HOST);
    put(bytes, vn_pdu_build_term(VN_PDU_CONTROLLER, fault, header, sizeof(header), bytes));
    TURN_UNTIL(end->closed);
    CHECK(end->err == -ECONNABORTED && end->conn.fault.fes == fault.fes && end->conn.fault.info == fault.info);
    CHECK_EQ(recv(peer, bytes, sizeof(bytes), 0), 0); /* none is sent back */
    done(end);
    end = begin(VN_PDU_HOST); /* nor to one that is wrong itself */
    uint8_t wrong[8] = {VN_PDU_C2H_TERM, 0, 24, 0, 200};
    put(wrong, sizeof(wrong));
    TURN_UNTIL(end->closed);
    CHECK_EQ(end->err, -EPROTO);
    CHECK_EQ(recv(peer, bytes, sizeof(bytes), 0), 0);
    done(end);
}

/* The peer goes after each number of bytes of a PDU with data and digests. */
static void test_ends_anywhere(void) {
    uint8_t bytes[1024];
    uint32_t len = 1;
    for (uint32_t cut = 0; cut <= len; cut++) {
        struct end *end = begin(VN_PDU_CONTROLLER);
        agree(end, true, true, 32);
        len = build(bytes, end, VN_PDU_CMD, 40);
        put(bytes, cut);
        shutdown(peer, SHUT_WR);
        TURN_UNTIL(end->closed);
        CHECK_EQ(end->err, cut == 0 || cut == len ? 0 : -ECONNRESET);
        CHECK_EQ(end->nr_taken, cut == len);
        done(end);
    }
}

/* The owner closes within a PDU's handler: nothing of what lies behind it in the buffer is told. */
static void test_close_in_the_middle(void) {
    uint8_t bytes[4096];
    struct end *end = begin(VN_PDU_CONTROLLER);
    end->close_at = 3;
    uint32_t len = build(bytes, end, VN_PDU_CMD, 512);
    for (int i = 0; i < 6; i++)
        put(bytes, len);
    end->nr_to_send = 2;
    queue_more(end);
    TURN_UNTIL(end->closed);
    CHECK(end->nr_taken == 3 && end->nr_headers == 3 && end->err == -ECANCELED);
    CHECK_EQ(end->nr_sent + end->nr_back, 2);
    done(end);
}

static void test_pause(void) {
    uint8_t bytes[1024];
    struct end *end = begin(VN_PDU_CONTROLLER);
    uint32_t len = build(bytes, end, VN_PDU_CMD, 512);
    end->pause_every = 2;
    for (int i = 0; i < 5; i++)
        put(bytes, len);
    for (uint32_t want = 2; want <= 4; want += 2) {
        TURN_UNTIL(end->nr_taken == want);
        turns(20);
        CHECK(end->nr_taken == want && !group.first);
        vn_conn_resume(&end->conn);
    }
    TURN_UNTIL(end->nr_taken == 5);
    /* in the middle of a PDU it goes on to that PDU's end */
    put(bytes, 100);
    turns(20);
    CHECK_EQ(end->nr_headers, 6);
    vn_conn_pause(&end->conn);
    CHECK(end->conn.paused);
    end->conn.paused = true;
    put(bytes + 100, len - 100);
    put(bytes, len);
    TURN_UNTIL(end->nr_taken == 6);
    turns(20);
    CHECK_EQ(end->nr_headers, 6);
    done(end);
}

/* Who no longer wants the data of a command has the rest of it thrown away; the stream stays in step. */
static void test_drop(void) {
    uint8_t *bytes = malloc(DATA_MAX + 256);
    struct end *end = begin(VN_PDU_HOST);
    agree(end, true, true, 4);
    uint32_t len = build(bytes, end, VN_PDU_C2H_DATA, 65536);
    put(bytes, 20000);
    TURN_UNTIL(end->nr_headers == 1);
    turns(20);
    CHECK(!vn_conn_receives(&end->conn, 8, true) && vn_conn_receives(&end->conn, 9, false));
    CHECK(end->conn.rx_sink.iov && vn_conn_receives(&end->conn, 9, true) && !end->conn.rx_sink.iov);
    memset(end->got, 0xee, DATA_MAX);
    put(bytes + 20000, len - 20000);
    TURN_UNTIL(end->nr_taken == 1);
    CHECK_EQ(end->nr_broken, 0); /* its digest is still checked */
    for (uint32_t i = 0; i < DATA_MAX; i++)
        CHECK_EQ(end->got[i], 0xee);
    CHECK(!vn_conn_receives(&end->conn, 9, true));
    end->drop_at = 2; /* and one that is thrown away from the start */
    put(bytes, len);
    TURN_UNTIL(end->nr_taken == 2);
    CHECK_EQ(end->got[0], 0xee);
    done(end);
    free(bytes);
}

/* Taken back: what has not begun to leave, from anywhere in the queue. */
static void test_unsend(void) {
    struct end *end = begin(VN_PDU_CONTROLLER);
    int size = 4096;
    setsockopt(end->conn.stream.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    end->nr_to_send = NR_TX;
    queue_more(end);
    turns(10);
    struct vn_tx *first = end->conn.tx_first, *last = end->conn.tx_last;
    CHECK(first && first->done && first != last);
    CHECK(!group.first); /* to wait for the peer costs nothing */
    CHECK(!vn_conn_unsend(&end->conn, first));
    CHECK(vn_conn_unsend(&end->conn, last));
    CHECK(!vn_conn_unsend(&end->conn, last)); /* it is not there any more */
    queue_one(end, vn_container_of(last, struct message, tx)); /* another in its place */
    struct vn_tx *second = first->next;
    CHECK(vn_conn_unsend(&end->conn, second));
    vn_container_of(second, struct message, tx)->busy = false;
    uint8_t *bytes = malloc(1u << 20);
    TURN_UNTIL(!end->conn.tx_first || (recv(peer, bytes, 1u << 20, 0), 0));
    CHECK_EQ(end->nr_sent, NR_TX - 1);
    free(bytes);
    done(end);
}

/* Closing gives back what is queued, before and while it closes; the peer sees the end. */
static void test_close_gives_back(void) {
    uint8_t byte;
    struct end *end = begin(VN_PDU_HOST);
    turns(5);
    int fd = end->conn.stream.fd;
    vn_conn_close(&end->conn, -EIO);
    end->nr_to_send = 3;
    queue_more(end);
    CHECK_EQ(end->nr_back, 0); /* not from within */
    vn_reactor_turn(reactor);
    CHECK(end->conn.closed && !end->closed);
    end->nr_to_send = 6;
    queue_more(end);
    TURN_UNTIL(end->closed);
    CHECK(end->nr_back == 6 && end->err == -EIO);
    CHECK_EQ(recv(peer, &byte, 1, 0), 0);
    CHECK(send(fd, &byte, 1, MSG_NOSIGNAL) < 0 && errno == EBADF);
    done(end);
}

/* A peer that resets the connection while we send. */
static void test_broken_pipe(void) {
    struct end *end = begin(VN_PDU_HOST);
    end->nr_to_send = 1000;
    close(peer);
    peer = dup(0);
    for (int i = 0; i < 1000 && !end->closed; i++) {
        if (!end->conn.closing)
            queue_more(end);
        vn_reactor_turn(reactor);
    }
    CHECK(end->closed && (end->err == -EPIPE || end->err == 0));
    CHECK_EQ(end->nr_sent + end->nr_back, end->nr_queued);
    done(end);
}

int main(void) {
    static void (*const tests[])(void) = {
        test_header_digest, test_data_digest, test_bad_headers, test_owners_faults, test_fail_in_the_middle,
        test_peers_term, test_ends_anywhere, test_close_in_the_middle, test_pause, test_drop, test_unsend,
        test_close_gives_back, test_broken_pipe, NULL,
    };
    return conn_rig_main(tests);
}
