/* Two connections of both roles, with a relay between them that cuts the stream anywhere, and real TCP: digests, alignment,
 * scattered data, pauses, slow readers.
 */
#include "conn_rig.h"

/* --- Both roles, with a relay between them that cuts the stream anywhere --- */
struct relay {
    int from, to;
    uint8_t bytes[8192];
    uint32_t head, tail;
    uint32_t chunk; /* at most so many bytes a time */
};

static void relay_some(struct relay *relay) {
    if (relay->head == relay->tail) {
        ssize_t n = recv(relay->from, relay->bytes, 1 + vn_test_below(&dice, relay->chunk), 0);
        CHECK(n > 0 || errno == EAGAIN);
        relay->head = 0;
        relay->tail = n > 0 ? (uint32_t)n : 0;
    }
    if (relay->head == relay->tail)
        return;
    ssize_t n = send(relay->to, relay->bytes + relay->head, relay->tail - relay->head, MSG_NOSIGNAL);
    CHECK(n > 0 || errno == EAGAIN);
    relay->head += n > 0 ? (uint32_t)n : 0;
}

static bool all_there(const struct end *a, const struct end *b) {
    return a->nr_sent == a->nr_to_send && b->nr_taken == b->nr_to_take && b->nr_sent == b->nr_to_send &&
           a->nr_taken == a->nr_to_take;
}

struct shape {
    bool hdgst, ddgst;
    uint8_t align;
    uint32_t chunk, nr, pause_every, buffer;
};

static void exchange(const struct shape *shape) {
    int left[2], right[2];
    pair(left);
    pair(right);
    int bytes = (int)shape->buffer;
    for (int i = 0; i < 2 && bytes; i++) {
        setsockopt(left[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
        setsockopt(right[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    }
    struct end *host = accept_end(VN_PDU_HOST, left[0]), *controller = accept_end(VN_PDU_CONTROLLER, right[0]);
    struct relay there = {.from = left[1], .to = right[1], .chunk = shape->chunk};
    struct relay back = {.from = right[1], .to = left[1], .chunk = shape->chunk};
    for (int i = 0; i < 2; i++) {
        struct end *end = i ? controller : host, *peer = i ? host : controller;
        agree(end, shape->hdgst, shape->ddgst, shape->align);
        end->checks = true;
        end->nr_to_send = end->nr_to_take = shape->nr;
        end->pause_every = shape->pause_every;
        end->out = peer->in = (struct vn_test_random){.state = vn_test_draw(&dice)};
    }
    for (uint32_t idle = 0; !all_there(host, controller);) {
        CHECK(!host->closed && !controller->closed);
        queue_more(host);
        queue_more(controller);
        turn_once(&idle);
        relay_some(&there);
        relay_some(&back);
        if (host->conn.paused && vn_test_below(&dice, 4) == 0)
            vn_conn_resume(&host->conn);
        if (controller->conn.paused && vn_test_below(&dice, 4) == 0)
            vn_conn_resume(&controller->conn);
    }
    finish(host);
    finish(controller);
    close(left[1]);
    close(right[1]);
}

static void test_exchange(void) {
    static const struct shape shapes[] = {
        {.align = 4, .chunk = 8192, .nr = 300},
        {.hdgst = true, .ddgst = true, .align = 4, .chunk = 8192, .nr = 300, .buffer = 4096},
        {.hdgst = true, .align = 128, .chunk = 8192, .nr = 200, .pause_every = 3},
        {.ddgst = true, .align = 16, .chunk = 1500, .nr = 100, .pause_every = 1},
        {.hdgst = true, .ddgst = true, .align = 64, .chunk = 61, .nr = 12},
        {.hdgst = true, .ddgst = true, .align = 4, .chunk = 1, .nr = 3},
    };
    for (size_t i = 0; i < VN_ARRAY_SIZE(shapes); i++)
        exchange(&shapes[i]);
}

/* --- Real TCP: connecting, and being refused --- */
static struct sockaddr_storage listen_at(int *fd, bool ipv6) {
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof(address);
    *fd = socket(ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(*fd >= 0);
    if (ipv6)
        *(struct sockaddr_in6 *)&address = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    else
        *(struct sockaddr_in *)&address =
            (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK_EQ(bind(*fd, (struct sockaddr *)&address, ipv6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)), 0);
    CHECK_EQ(listen(*fd, 16), 0);
    CHECK_EQ(getsockname(*fd, (struct sockaddr *)&address, &size), 0);
    return address;
}

static struct vn_tls_context *tls_context(bool server, uint8_t key) {
    struct vn_tls_context *tls;
    struct vn_tls_psk psk = {.identity = "NVMe0R01 host subsystem", .key_bytes = 32, .hash = 1};
    memset(psk.key, key, sizeof(psk.key));
    CHECK_EQ(vn_tls_context_new(server, &tls), 0);
    CHECK_EQ(vn_tls_context_add(tls, &psk), 0);
    return tls;
}

/* Two ends of one TCP connection; with tls, keys that fit when both are the same. */
static void connect_ends(struct end **host, struct end **controller, uint8_t host_key, uint8_t controller_key) {
    int listener, fd = -1;
    struct sockaddr_storage address = listen_at(&listener, false);
    struct vn_tls_context *of_host = host_key ? tls_context(false, host_key) : NULL;
    struct vn_tls_context *of_controller = controller_key ? tls_context(true, controller_key) : NULL;
    *host = make_end();
    CHECK_EQ(vn_conn_connect(&(*host)->conn, &group, &end_ops, &address, of_host), 0);
    TURN_UNTIL((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0);
    *controller = accept_tls_end(VN_PDU_CONTROLLER, fd, of_controller);
    close(listener);
    if (host_key)
        vn_tls_context_free(of_host); /* the connections hold it */
    if (controller_key)
        vn_tls_context_free(of_controller);
}

static void test_tcp(void) {
    for (int round = 0; round < 3; round++) {
        struct end *host, *controller;
        bool tls = round == 2;
        connect_ends(&host, &controller, tls, tls);
        TURN_UNTIL(host->opened && (!tls || controller->opened));
        CHECK(!host->opened_err && !controller->opened_err && (controller->opened == tls));
        for (int i = 0; i < 2; i++) {
            struct end *end = i ? controller : host, *peer = i ? host : controller;
            agree(end, round, round, 4);
            end->checks = true;
            end->nr_to_send = end->nr_to_take = 1000;
            end->pause_every = tls ? 7 : 0;
            end->out = peer->in = (struct vn_test_random){.state = vn_test_draw(&dice)};
        }
        for (uint32_t idle = 0; !all_there(host, controller);) {
            CHECK(!host->closed && !controller->closed);
            queue_more(host);
            queue_more(controller);
            turn_once(&idle);
            vn_conn_resume(&host->conn);
            vn_conn_resume(&controller->conn);
        }
        vn_conn_close(&host->conn, 0); /* the other end sees it */
        TURN_UNTIL(host->closed && controller->closed);
        CHECK_EQ(controller->err, 0);
        free_end(host);
        free_end(controller);
    }
}

/* What the host sends comes together with the end of its handshake; and at the end OpenSSL holds more than the socket
 * takes, while nothing else is sent that would push it out.
 */
static void test_tls_holds_bytes(void) {
    struct end *host, *controller;
    int size = 65536;
    connect_ends(&host, &controller, 1, 1);
    setsockopt(host->conn.stream.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    agree(host, true, true, 4);
    agree(controller, true, true, 4);
    host->nr_to_send = controller->nr_to_take = 2;
    host->queue_at_open = controller->checks = true;
    host->out = controller->in = (struct vn_test_random){.state = 12};
    TURN_UNTIL(controller->nr_taken == 2);
    for (uint32_t round = 0; round < 3; round++) {
        controller->conn.paused = true; /* nobody reads until the socket is full */
        host->nr_to_send += 20;
        for (int i = 0; i < 50; i++) {
            queue_more(host);
            vn_reactor_turn(reactor);
        }
        vn_conn_resume(&controller->conn);
        TURN_UNTIL(controller->nr_taken == host->nr_queued && host->nr_sent == host->nr_queued);
    }
    finish(host);
    finish(controller);
}

/* Keys that do not fit, and an end that speaks no TLS: an error of both, once, and a word for the log. */
static void test_tls_refused(void) {
    static const uint8_t keys[][2] = {{1, 2}, {0, 1}, {1, 0}};
    for (size_t i = 0; i < VN_ARRAY_SIZE(keys); i++) {
        struct end *host, *controller;
        connect_ends(&host, &controller, keys[i][0], keys[i][1]);
        if (!keys[i][0]) { /* a plain host begins with its own first PDU */
            host->nr_to_send = 1;
            host->out = (struct vn_test_random){.state = 3};
            TURN_UNTIL(host->opened);
            queue_more(host);
        }
        TURN_UNTIL(host->closed && controller->closed);
        for (int end = 0; end < 2; end++) {
            struct end *it = end ? controller : host;
            if (keys[i][end]) {
                CHECK(it->opened && it->opened_err < 0 && it->err == it->opened_err && it->conn.stream.tls_why);
            }
            CHECK_EQ(it->nr_headers, 0);
            free_end(it);
        }
    }
}

static void test_refused(void) {
    int listener;
    struct sockaddr_storage address = listen_at(&listener, false);
    close(listener); /* nobody listens any more */
    struct end *host = make_end();
    CHECK_EQ(vn_conn_connect(&host->conn, &group, &end_ops, &address, NULL), 0);
    TURN_UNTIL(host->closed);
    CHECK(host->opened && host->opened_err == -ECONNREFUSED && host->err == -ECONNREFUSED);
    free_end(host);
    /* and one that is given up while it connects */
    address = listen_at(&listener, false);
    host = make_end();
    CHECK_EQ(vn_conn_connect(&host->conn, &group, &end_ops, &address, NULL), 0);
    queue_more(host);
    vn_conn_close(&host->conn, -ETIMEDOUT);
    vn_conn_close(&host->conn, -EIO); /* the first counts */
    TURN_UNTIL(host->closed);
    CHECK(!host->opened && host->err == -ETIMEDOUT);
    free_end(host);
    close(listener);
}

static void test_ipv6(void) {
    int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), listener, fd;
    struct sockaddr_in6 loopback = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    bool usable = probe >= 0 && bind(probe, (struct sockaddr *)&loopback, sizeof(loopback)) == 0;
    if (probe >= 0)
        close(probe);
    if (!usable) {
        printf("no IPv6 here\n");
        return;
    }
    struct sockaddr_storage address = listen_at(&listener, true);
    struct end *host = make_end();
    CHECK_EQ(vn_conn_connect(&host->conn, &group, &end_ops, &address, NULL), 0);
    TURN_UNTIL(host->opened);
    CHECK_EQ(host->opened_err, 0);
    CHECK((fd = accept(listener, NULL, NULL)) >= 0);
    close(fd);
    TURN_UNTIL(host->closed);
    CHECK_EQ(host->err, 0);
    free_end(host);
    close(listener);
}

/* Any number that are idle cost no turn. */
static void test_idle_rest(void) {
    enum { NR_IDLE = 64 };
    static struct end *ends[NR_IDLE];
    static int peers[NR_IDLE];
    for (int i = 0; i < NR_IDLE; i++) {
        int fds[2];
        pair(fds);
        peers[i] = fds[1];
        ends[i] = accept_end(VN_PDU_CONTROLLER, fds[0]);
    }
    for (int i = 0; i < 20; i++)
        vn_reactor_turn(reactor);
    TURN_UNTIL(!group.first && group.poller.state == VN_POLLER_RESTS);
    union vn_pdu pdu = {0};
    vn_pdu_head(&pdu.common, VN_PDU_CMD, 0, false, false, 4, 0);
    CHECK_EQ(send(peers[7], &pdu, sizeof(pdu.cmd), 0), sizeof(pdu.cmd));
    TURN_UNTIL(ends[7]->nr_taken == 1);
    for (int i = 0; i < NR_IDLE; i++) {
        CHECK(i == 7 || !ends[i]->nr_headers);
        close(peers[i]);
    }
    for (int i = 0; i < NR_IDLE; i++) {
        TURN_UNTIL(ends[i]->closed);
        CHECK_EQ(ends[i]->err, 0);
        free_end(ends[i]);
    }
    CHECK_EQ(group.nr_conns, 0);
}

static uint64_t taken_by(struct end *const *ends, int nr) {
    uint64_t taken = 0;
    for (int i = 0; i < nr; i++)
        taken += ends[i]->nr_taken;
    return taken;
}

/* However much many peers have sent, what else is on the reactor waits for no more than a bound, and all have their turn. */
static void test_a_turn_is_bounded(void) {
    enum { NR_BUSY = 32, PDU_BYTES = 80 + 8192, PDUS = 20 };
    static struct end *ends[NR_BUSY];
    static int peers[NR_BUSY];
    uint8_t *bytes = calloc(1, PDU_BYTES);
    union vn_pdu pdu = {0};
    vn_pdu_head(&pdu.common, VN_PDU_CMD, 0, false, false, 80, 8192);
    memcpy(bytes, &pdu.cmd, sizeof(pdu.cmd));
    uint64_t sent = 0;
    for (int i = 0; i < NR_BUSY; i++) {
        int fds[2], size = 1 << 20;
        pair(fds);
        peers[i] = fds[1];
        ends[i] = accept_end(VN_PDU_CONTROLLER, fds[0]);
        setsockopt(peers[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        for (int n = 0; n < PDUS && send(peers[i], bytes, PDU_BYTES, MSG_DONTWAIT) == PDU_BYTES; n++)
            sent++;
    }
    CHECK(sent * PDU_BYTES > VN_CONN_GROUP_BYTES + VN_CONN_TURN_BYTES); /* or this shows nothing */
    uint32_t nr_turns = 0;
    for (uint64_t before = 0, now; before < sent; before = now) {
        vn_reactor_turn(reactor);
        now = taken_by(ends, NR_BUSY);
        CHECK((now - before) * PDU_BYTES <= VN_CONN_GROUP_BYTES + VN_CONN_TURN_BYTES);
        CHECK(++nr_turns < 1000);
    }
    for (int i = 0; i < NR_BUSY; i++) {
        finish(ends[i]);
        close(peers[i]);
    }
    free(bytes);
}

int main(void) {
    static void (*const tests[])(void) = {
        test_exchange, test_tcp, test_tls_holds_bytes, test_tls_refused, test_refused, test_ipv6, test_idle_rest,
        test_a_turn_is_bounded, NULL,
    };
    return conn_rig_main(tests);
}
