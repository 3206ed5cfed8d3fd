/* One NVMe/TCP connection as PDUs: its life, and the turns that it gets from the poller of its group.
 * Owned by a target's queue or by the forwarder's host. Receiving is conn_rx.c, sending conn_tx.c.
 */
#include "nvmetcp/conn.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "nvmetcp/conn_int.h"

#define TERM_NS 1000000000ull /* for a termination request to leave, and the peer to hang up */
#define ALIGN_DEFAULT 4

/* --- The group's list --- */
void vn_conn_list(struct vn_conn *conn) {
    struct vn_conn_group *group = conn->group;
    if (conn->on_list || conn->in_turn || conn->closed)
        return;
    conn->on_list = true;
    conn->prev = group->last;
    conn->next = NULL;
    *(conn->prev ? &conn->prev->next : &group->first) = conn;
    group->last = conn;
    group->nr_listed++;
    vn_poller_wake(group->reactor, &group->poller);
}

static void unlist(struct vn_conn *conn) {
    struct vn_conn_group *group = conn->group;
    if (!conn->on_list)
        return;
    *(conn->prev ? &conn->prev->next : &group->first) = conn->next;
    *(conn->next ? &conn->next->prev : &group->last) = conn->prev;
    conn->on_list = false;
    group->nr_listed--;
}

/* --- Turns --- */
/* What has not begun to leave never does; the request goes right behind what has. */
static void send_term(struct vn_conn *conn) {
    struct vn_tx *begun = conn->tx_first && conn->tx_first->done ? conn->tx_first : NULL;
    vn_conn_give_back(conn, begun);
    vn_conn_send(conn, &conn->term);
    conn->term_queued = true;
}

static void finish_close(struct vn_conn *conn) {
    conn->closed = true; /* no more turns */
    vn_timer_disarm(conn->stream.reactor, &conn->term_timer);
    vn_stream_close(&conn->stream);
}

static uint32_t turn(struct vn_conn *conn) {
    uint32_t received = 0;
    if (!conn->opening && !conn->closing) {
        received = vn_conn_input(conn);
        if (conn->terminating && !conn->term_queued && !conn->closing)
            send_term(conn);
        vn_conn_flush(conn);
        if (conn->term_queued)
            vn_conn_give_back(conn, conn->term_sent ? NULL : &conn->term);
    }
    if (conn->closing) {
        vn_conn_give_back(conn, NULL);
        finish_close(conn);
    }
    return received;
}

static bool needs_turn(const struct vn_conn *conn) {
    if (conn->closed || conn->opening)
        return conn->closing && !conn->closed;
    return conn->closing || vn_conn_wants_input(conn) || (conn->tx_first && conn->stream.writable);
}

/* When the next bytes will come is learnt from the times before, as doors do (core/wait.h): from when we had last
 * something to do, which for a host is when its command left. */
static void plan_wait(struct vn_conn_group *group, bool received, bool overslept) {
    struct vn_poller *poller = &group->poller;
    uint64_t now = vn_reactor_now_ns(group->reactor);
    if (received)
        vn_wait_observe(&group->wait, now - group->wait_ns, overslept);
    group->wait_ns = now;
    struct vn_window window = {0, 0};
    if (!group->asks || group->nr_awaited)
        window = vn_wait_window(&group->wait, vn_reactor_poll_ns(group->reactor));
    poller->spin_from_ns = now + window.from_ns;
    poller->spin_until_ns = now + window.until_ns;
}

static bool group_poll(struct vn_poller *poller) {
    struct vn_conn_group *group = vn_container_of(poller, struct vn_conn_group, poller);
    uint32_t nr = group->nr_listed;
    uint64_t received = 0;
    bool overslept = poller->dozes && vn_reactor_now_ns(group->reactor) >= poller->spin_from_ns;
    poller->dozes = false;
    /* Who needs another turn is behind all others, and so is first when there was too much for this one. */
    for (uint32_t i = 0; i < nr && group->first && received < VN_CONN_GROUP_BYTES; i++) {
        struct vn_conn *conn = group->first;
        unlist(conn);
        conn->in_turn = true;
        received += turn(conn);
        conn->in_turn = false;
        if (needs_turn(conn))
            vn_conn_list(conn);
    }
    if (nr)
        plan_wait(group, received, overslept);
    return nr;
}

static bool group_before_sleep(struct vn_poller *poller) {
    return vn_container_of(poller, struct vn_conn_group, poller)->first;
}

static bool group_can_rest(struct vn_poller *poller) {
    return !vn_container_of(poller, struct vn_conn_group, poller)->first;
}

void vn_conn_group_init(struct vn_conn_group *group, struct vn_reactor *reactor) {
    *group = (struct vn_conn_group){
        .reactor = reactor,
        .poller = {.poll = group_poll, .before_sleep = group_before_sleep, .can_rest = group_can_rest},
        .wait_ns = vn_reactor_now_ns(reactor),
    };
    vn_wait_init(&group->wait);
    vn_poller_add(reactor, &group->poller);
}

void vn_conn_group_fini(struct vn_conn_group *group) {
    assert(!group->nr_conns && !group->first);
    vn_poller_remove(group->reactor, &group->poller);
}

/* --- Life --- */
static void on_opened(struct vn_stream *stream, int err) {
    struct vn_conn *conn = vn_container_of(stream, struct vn_conn, stream);
    if (conn->closing)
        return;
    conn->opening = err != 0;
    conn->rx_ns = conn->tx_ns = vn_reactor_now_ns(stream->reactor);
    if (conn->ops->opened)
        conn->ops->opened(conn, err);
    if (err)
        vn_conn_close(conn, err);
    vn_conn_list(conn);
}

static void on_ready(struct vn_stream *stream) {
    struct vn_conn *conn = vn_container_of(stream, struct vn_conn, stream);
    if (needs_turn(conn))
        vn_conn_list(conn);
}

static void on_closed(struct vn_stream *stream) {
    struct vn_conn *conn = vn_container_of(stream, struct vn_conn, stream);
    assert(conn->closed && !conn->on_list);
    vn_conn_give_back(conn, NULL); /* queued since */
    free(conn->rx);
    conn->rx = NULL;
    conn->group->nr_conns--;
    conn->ops->closed(conn, conn->close_err);
}

static const struct vn_stream_ops stream_ops = {.opened = on_opened, .ready = on_ready, .closed = on_closed};

static void on_term_timer(struct vn_timer *timer) {
    vn_conn_close(vn_container_of(timer, struct vn_conn, term_timer), -EPROTO);
}

static void on_term_sent(struct vn_tx *tx, bool whole) {
    struct vn_conn *conn = vn_container_of(tx, struct vn_conn, term);
    conn->term_sent = true;
    if (whole)
        vn_stream_shut(&conn->stream);
}

static int init(struct vn_conn *conn, struct vn_conn_group *group, const struct vn_conn_ops *ops, enum vn_pdu_role role) {
    assert(vn_reactor_is_here(group->reactor));
    *conn = (struct vn_conn){
        .ops = ops,
        .group = group,
        .rules = {.role = role, .align = ALIGN_DEFAULT},
        .tx_align = ALIGN_DEFAULT,
        .rx = malloc(VN_CONN_RX_BYTES),
        .term_timer.fn = on_term_timer,
        .rx_ns = vn_reactor_now_ns(group->reactor),
        .tx_ns = vn_reactor_now_ns(group->reactor),
    };
    return conn->rx ? 0 : -ENOMEM;
}

static int started(struct vn_conn *conn, int err) {
    if (err) {
        free(conn->rx);
        conn->rx = NULL;
        return err;
    }
    conn->opening = conn->stream.state != VN_STREAM_OPEN;
    conn->group->nr_conns++;
    return 0;
}

int vn_conn_accept(struct vn_conn *conn, struct vn_conn_group *group, const struct vn_conn_ops *ops, enum vn_pdu_role role,
                   int fd, struct vn_tls_context *tls) {
    int err = init(conn, group, ops, role);
    return err ? err : started(conn, vn_stream_accept(&conn->stream, group->reactor, &stream_ops, fd, tls));
}

int vn_conn_connect(struct vn_conn *conn, struct vn_conn_group *group, const struct vn_conn_ops *ops,
                    const struct sockaddr_storage *address, struct vn_tls_context *tls) {
    int err = init(conn, group, ops, VN_PDU_HOST);
    group->asks = true;
    return err ? err : started(conn, vn_stream_connect(&conn->stream, group->reactor, &stream_ops, address, tls));
}

void vn_conn_pause(struct vn_conn *conn) {
    assert(vn_reactor_is_here(conn->stream.reactor));
    conn->paused = true;
}

void vn_conn_resume(struct vn_conn *conn) {
    assert(vn_reactor_is_here(conn->stream.reactor));
    conn->paused = false;
    vn_conn_list(conn); /* there may be PDUs in the buffer */
}

void vn_conn_close(struct vn_conn *conn, int err) {
    assert(vn_reactor_is_here(conn->stream.reactor));
    if (conn->closing)
        return;
    conn->closing = true;
    conn->close_err = err;
    vn_conn_list(conn);
}

void vn_conn_reject(struct vn_conn *conn, struct vn_pdu_fault fault, const void *offender, uint32_t bytes) {
    if (conn->closing || conn->terminating)
        return;
    conn->fault = fault;
    uint8_t type = conn->rx_pdu.common.type;
    if (conn->opening || type == VN_PDU_H2C_TERM || type == VN_PDU_C2H_TERM) { /* not answered by another */
        vn_conn_close(conn, -EPROTO);
        return;
    }
    uint8_t pdu[sizeof(struct vn_pdu_term) + VN_PDU_TERM_DATA_MAX];
    vn_pdu_build_term(conn->rules.role, fault, offender, bytes, pdu);
    conn->term = (struct vn_tx){.iov = &conn->term_iov, .nr_iov = 1, .sent = on_term_sent};
    memcpy(&conn->term.pdu.term, pdu, sizeof(struct vn_pdu_term));
    conn->term.data_bytes = conn->term.pdu.common.plen - (uint32_t)sizeof(struct vn_pdu_term);
    memcpy(conn->term_data, pdu + sizeof(struct vn_pdu_term), conn->term.data_bytes);
    conn->term_iov = (struct iovec){conn->term_data, conn->term.data_bytes};
    conn->terminating = true;
    vn_timer_arm(conn->stream.reactor, &conn->term_timer, TERM_NS);
    vn_conn_list(conn);
}

void vn_conn_fail(struct vn_conn *conn, struct vn_pdu_fault fault) {
    assert(vn_reactor_is_here(conn->stream.reactor));
    vn_conn_reject(conn, fault, &conn->rx_pdu, conn->rx_pdu.common.hlen);
}
