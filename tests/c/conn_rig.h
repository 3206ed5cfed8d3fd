/* One end of a connection for the test_conn* programs: it sends PDUs drawn from a generator, and checks what it receives
 * against the generator of its peer. All of it runs on the reactor, within one call.
 */
#ifndef CONN_RIG_H
#define CONN_RIG_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/util.h"
#include "nvmetcp/conn.h"
#include "core/crc32c.h"
#include "nvmetcp/tls.h"
#include "vn_test.h"

#define NR_TX 24u
#define NR_IOV 7u
#define DATA_MAX (128u << 10)
#define CAPSULE_MAX 8192u
#define IDLE_TURNS 1000u
#define IDLE_MS_MAX 20000u

static struct vn_reactor *reactor;
static struct vn_conn_group group;
static struct vn_test_random dice; /* what does not change what is sent */

/* --- One end --- */
struct message {
    struct vn_tx tx;
    uint8_t *data;
    struct iovec iov[NR_IOV];
    bool busy;
    struct end *end;
};

struct end {
    struct vn_conn conn;
    struct message messages[NR_TX];
    struct vn_test_random out, in; /* what we send, and the same again of the peer */
    uint32_t nr_to_send, nr_queued, nr_sent, nr_back;
    uint32_t nr_to_take, nr_headers, nr_taken, nr_broken;
    uint32_t pause_every, close_at, drop_at;
    struct vn_pdu_fault answer_header, answer_pdu;
    bool queue_at_open, queue_when_sent;
    bool checks; /* that what comes is what the peer's generator says */
    uint8_t *want, *got;
    struct iovec sink[NR_IOV];
    union vn_pdu last;
    bool opened, closed;
    int opened_err, err;
};

/* Cuts a range into pieces of any size, some of them empty. */
static inline uint32_t scatter(struct iovec *iov, uint8_t *at, uint32_t bytes) {
    uint32_t n = (uint32_t)vn_test_below(&dice, NR_IOV) + 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t len = i + 1 == n ? bytes : (uint32_t)vn_test_below(&dice, bytes + 1);
        iov[i] = (struct iovec){at, len};
        at += len;
        bytes -= len;
    }
    return n;
}

struct plan {
    uint8_t type, flags;
    uint16_t cid;
    uint32_t bytes, offset;
};

static inline struct plan draw_plan(struct vn_test_random *random, enum vn_pdu_role sender) {
    static const uint8_t host[] = {VN_PDU_CMD, VN_PDU_CMD, VN_PDU_H2C_DATA};
    static const uint8_t controller[] = {VN_PDU_RESP, VN_PDU_R2T, VN_PDU_C2H_DATA};
    static const uint32_t sizes[] = {1, 4, 512, 4096, 4096, 8192, 65536, DATA_MAX};
    uint64_t draw = vn_test_draw(random);
    struct plan plan = {.type = sender == VN_PDU_HOST ? host[draw % 3] : controller[draw % 3], .cid = (uint16_t)(draw >> 8)};
    bool maybe = plan.type == VN_PDU_CMD && draw & 0x10000000;
    if (maybe || plan.type == VN_PDU_H2C_DATA || plan.type == VN_PDU_C2H_DATA) {
        uint32_t max = maybe ? CAPSULE_MAX : DATA_MAX;
        uint32_t bytes = draw & 0x20000000 ? sizes[draw >> 32 & 7] : 1 + (uint32_t)(draw >> 32) % DATA_MAX;
        plan.bytes = bytes > max ? 1 + bytes % max : bytes;
        plan.offset = (uint32_t)(draw >> 40 & 0xff) * 4 % (DATA_MAX - plan.bytes + 1) / 4 * 4;
        if (plan.type != VN_PDU_CMD && draw & 0x40000000)
            plan.flags = VN_PDU_F_LAST;
    }
    return plan;
}

static inline void on_sent(struct vn_tx *tx, bool whole);

static inline void fill_header(struct vn_tx *tx, const struct plan *plan) {
    switch (plan->type) {
    case VN_PDU_CMD:
        memset(&tx->pdu.cmd.sqe, 0x5a, sizeof(tx->pdu.cmd.sqe));
        tx->pdu.cmd.sqe.cid = plan->cid;
        break;
    case VN_PDU_RESP:
        memset(&tx->pdu.resp.cqe, 0xa5, sizeof(tx->pdu.resp.cqe));
        tx->pdu.resp.cqe.cid = plan->cid;
        break;
    case VN_PDU_R2T:
        tx->pdu.r2t = (struct vn_pdu_r2t){.common = tx->pdu.common, .cccid = plan->cid, .r2tl = 4096, .r2to = 512};
        break;
    default:
        tx->pdu.data = (struct vn_pdu_data){
            .common = tx->pdu.common, .cccid = plan->cid, .datao = plan->offset, .datal = plan->bytes};
        break;
    }
}

static inline void queue_one(struct end *end, struct message *message) {
    struct plan plan = draw_plan(&end->out, end->conn.rules.role);
    struct vn_tx *tx = &message->tx;
    *tx = (struct vn_tx){.sent = on_sent, .iov = message->iov, .data_bytes = plan.bytes};
    vn_pdu_head(&tx->pdu.common, plan.type, plan.flags, end->conn.tx_hdgst, end->conn.tx_ddgst, end->conn.tx_align,
                plan.bytes);
    fill_header(tx, &plan);
    if (plan.bytes) {
        uint32_t skip = (uint32_t)vn_test_below(&dice, 100);
        vn_test_fill(&end->out, message->data + skip, plan.bytes);
        tx->iov_offset = skip;
        tx->nr_iov = scatter(message->iov, message->data, skip + plan.bytes);
    }
    message->busy = true;
    end->nr_queued++;
    vn_conn_send(&end->conn, tx);
}

static inline void on_sent(struct vn_tx *tx, bool whole) {
    struct message *message = vn_container_of(tx, struct message, tx);
    CHECK(message->busy && !message->end->closed);
    message->busy = false;
    message->end->nr_sent += whole;
    message->end->nr_back += !whole;
    if (message->end->queue_when_sent && whole)
        queue_one(message->end, message);
}

static inline void queue_more(struct end *end) {
    for (uint32_t i = 0; i < NR_TX && end->nr_queued < end->nr_to_send; i++) {
        if (!end->messages[i].busy)
            queue_one(end, &end->messages[i]);
    }
}

static inline void on_opened(struct vn_conn *conn, int err) {
    struct end *end = vn_container_of(conn, struct end, conn);
    CHECK(!end->opened && !end->closed);
    end->opened = true;
    end->opened_err = err;
    if (end->queue_at_open)
        queue_more(end);
}

static inline struct vn_pdu_fault on_header(struct vn_conn *conn, const union vn_pdu *pdu, struct vn_conn_sink *sink) {
    struct end *end = vn_container_of(conn, struct end, conn);
    uint32_t bytes = vn_pdu_data_bytes(&conn->rules, &pdu->common);
    CHECK(!end->closed && !conn->closing && !conn->terminating && !conn->paused);
    end->nr_headers++;
    if (bytes && end->drop_at != end->nr_headers) {
        sink->offset = (uint32_t)vn_test_below(&dice, 50);
        sink->nr_iov = scatter(end->sink, end->got, sink->offset + bytes);
        sink->iov = end->sink;
        memset(end->got + sink->offset, 0, bytes);
    }
    return end->answer_header;
}

static inline void check_pdu(struct end *end, const union vn_pdu *pdu, bool intact) {
    struct vn_conn *conn = &end->conn;
    struct plan plan = draw_plan(&end->in, conn->rules.role == VN_PDU_HOST ? VN_PDU_CONTROLLER : VN_PDU_HOST);
    struct vn_tx want = {0};
    vn_pdu_head(&want.pdu.common, plan.type, plan.flags, conn->rules.hdgst, conn->rules.ddgst, conn->rules.align, plan.bytes);
    fill_header(&want, &plan);
    CHECK(intact && !memcmp(pdu, &want.pdu, vn_pdu_header_bytes(plan.type)));
    if (!plan.bytes)
        return;
    vn_test_fill(&end->in, end->want, plan.bytes);
    if (end->drop_at != end->nr_headers)
        CHECK(!memcmp(end->got + conn->rx_sink.offset, end->want, plan.bytes));
}

static inline struct vn_pdu_fault on_pdu(struct vn_conn *conn, const union vn_pdu *pdu, bool intact) {
    struct end *end = vn_container_of(conn, struct end, conn);
    CHECK(!end->closed && !conn->closing && !conn->terminating);
    end->nr_taken++;
    end->nr_broken += !intact;
    CHECK_EQ(end->nr_taken, end->nr_headers);
    end->last = *pdu;
    if (end->checks)
        check_pdu(end, pdu, intact);
    if (end->pause_every && end->nr_taken % end->pause_every == 0)
        vn_conn_pause(conn);
    if (end->close_at == end->nr_taken)
        vn_conn_close(conn, -ECANCELED);
    return end->answer_pdu;
}

static inline void on_closed(struct vn_conn *conn, int err) {
    struct end *end = vn_container_of(conn, struct end, conn);
    CHECK(!end->closed);
    for (uint32_t i = 0; i < NR_TX; i++)
        CHECK(!end->messages[i].busy);
    end->closed = true;
    end->err = err;
}

static const struct vn_conn_ops end_ops = {.opened = on_opened, .header = on_header, .pdu = on_pdu, .closed = on_closed};

static inline struct end *make_end(void) {
    struct end *end = calloc(1, sizeof(*end));
    CHECK(end);
    end->want = malloc(DATA_MAX + 100);
    end->got = malloc(DATA_MAX + 100);
    for (uint32_t i = 0; i < NR_TX; i++) {
        end->messages[i].end = end;
        end->messages[i].data = malloc(DATA_MAX + 100);
        CHECK(end->messages[i].data);
    }
    return end;
}

static inline void free_end(struct end *end) {
    for (uint32_t i = 0; i < NR_TX; i++)
        free(end->messages[i].data);
    free(end->want);
    free(end->got);
    free(end);
}

/* What ICReq and ICResp would have agreed on. */
static inline void agree(struct end *end, bool hdgst, bool ddgst, uint8_t align) {
    struct vn_conn *conn = &end->conn;
    conn->rules.ready = true;
    conn->rules.hdgst = conn->tx_hdgst = hdgst;
    conn->rules.ddgst = conn->tx_ddgst = ddgst;
    conn->rules.align = conn->tx_align = align;
    conn->rules.capsule_data_max = CAPSULE_MAX;
    conn->rules.data_max = DATA_MAX;
}

static inline void pair(int fds[2]) {
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

static inline struct end *accept_tls_end(enum vn_pdu_role role, int fd, struct vn_tls_context *tls) {
    struct end *end = make_end();
    CHECK_EQ(vn_conn_accept(&end->conn, &group, &end_ops, role, fd, tls), 0);
    agree(end, false, false, 4);
    return end;
}

static inline struct end *accept_end(enum vn_pdu_role role, int fd) {
    return accept_tls_end(role, fd, NULL);
}

/* One turn; one that waits for the kernel's timers, as TCP does at times, leaves it the processor. Hangs end. */
static inline void turn_once(uint32_t *idle) {
    if (vn_reactor_turn(reactor))
        *idle = 0;
    else if (++*idle > IDLE_TURNS)
        usleep(1000);
    CHECK(*idle < IDLE_TURNS + IDLE_MS_MAX);
}

#define TURN_UNTIL(condition)                                                             \
    do {                                                                                  \
        uint32_t idle_ = 0;                                                               \
        while (!(condition))                                                              \
            turn_once(&idle_);                                                            \
    } while (0)

static inline void finish(struct end *end) {
    vn_conn_close(&end->conn, -ESHUTDOWN);
    TURN_UNTIL(end->closed);
    free_end(end);
}

static inline int conn_rig_run(void *arg) {
    void (*const *tests)(void) = arg;
    vn_conn_group_init(&group, reactor);
    for (; *tests; tests++)
        (*tests)();
    vn_conn_group_fini(&group);
    return 0;
}

/* A list of tests that ends in NULL, on a reactor. */
static inline int conn_rig_main(void (*const *tests)(void)) {
    dice = vn_test_seed();
    CHECK_EQ(vn_reactor_start(0, 20, &reactor), 0);
    CHECK_EQ(vn_reactor_call(reactor, conn_rig_run, (void *)(uintptr_t)tests), 0);
    vn_reactor_stop(reactor);
    printf("ok\n");
    return 0;
}

#endif
