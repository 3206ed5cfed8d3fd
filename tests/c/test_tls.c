/* TLS with pre-shared keys: both ends of ours over a socket pair, with a hand in the middle; and peers that are not ours.
 */
#include "nvmetcp/tls.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/util.h"
#include "vn_test.h"

#define STEPS_MAX 100000

struct end {
    struct vn_tls_context *context;
    struct vn_tls *tls;
    int fd;
    int result; /* of the handshake, -EAGAIN at first */
    const char *why;
};

/* Two ends, and between them a forger: what it reads from one end's socket it writes to the other's. */
struct pair {
    struct end client, server;
    int middle[2];
    size_t passed[2];           /* bytes: to the server, to the client */
    size_t flip[2];             /* which of them to change, SIZE_MAX none */
    bool whole;                 /* no forger: middle is not there */
};

static struct vn_tls_psk psk_of(const char *identity, uint32_t hash, uint8_t seed) {
    struct vn_tls_psk psk = {.hash = hash, .key_bytes = hash == 1 ? 32 : 48};
    snprintf(psk.identity, sizeof(psk.identity), "%s", identity);
    memset(psk.key, seed, psk.key_bytes);
    return psk;
}

static struct vn_tls_context *context_of(bool server, const struct vn_tls_psk *psks, uint32_t nr_psks) {
    struct vn_tls_context *context;
    CHECK_EQ(vn_tls_context_new(server, &context), 0);
    for (uint32_t i = 0; i < nr_psks; i++)
        CHECK_EQ(vn_tls_context_add(context, &psks[i]), 0);
    return context;
}

static void open_end(struct end *end, bool server, const struct vn_tls_psk *psks, uint32_t nr_psks, int fd) {
    *end = (struct end){.context = context_of(server, psks, nr_psks), .fd = fd, .result = -EAGAIN, .why = ""};
    CHECK_EQ(vn_tls_new(end->context, fd, &end->tls), 0);
    /* What was made from it keeps it. */
    vn_tls_context_free(end->context);
}

static void open_pair(struct pair *pair, const struct vn_tls_psk *client, const struct vn_tls_psk *servers, uint32_t nr_servers,
                      bool whole) {
    int a[2], b[2];
    *pair = (struct pair){.flip = {SIZE_MAX, SIZE_MAX}, .middle = {-1, -1}, .whole = whole};
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, a), 0);
    if (!whole) {
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, b), 0);
        pair->middle[0] = a[1];
        pair->middle[1] = b[0];
    }
    open_end(&pair->client, false, client, 1, a[0]);
    open_end(&pair->server, true, servers, nr_servers, whole ? a[1] : b[1]);
}

static void close_end(struct end *end) {
    vn_tls_free(end->tls);
    if (end->fd >= 0)
        close(end->fd);
}

static void close_pair(struct pair *pair) {
    close_end(&pair->client);
    close_end(&pair->server);
    if (!pair->whole) {
        close(pair->middle[0]);
        close(pair->middle[1]);
    }
}

static bool pump(struct pair *pair) {
    uint8_t buf[4096];
    bool moved = false;
    for (int way = 0; way < 2 && !pair->whole; way++) {
        ssize_t got = recv(pair->middle[way], buf, sizeof(buf), 0);
        if (got <= 0)
            continue;
        size_t at = pair->flip[way] - pair->passed[way];
        if (pair->flip[way] >= pair->passed[way] && at < (size_t)got)
            buf[at] ^= 0x41;
        pair->passed[way] += (size_t)got;
        moved = true;
        (void)!send(pair->middle[!way], buf, (size_t)got, MSG_NOSIGNAL);
    }
    return moved;
}

/* Until both have a result, or nothing moves any more. */
static void shake(struct pair *pair) {
    struct end *ends[] = {&pair->client, &pair->server};
    bool wants_write;
    for (int quiet = 0; quiet < 3; quiet++) {
        for (int i = 0; i < 2; i++)
            if (ends[i]->result == -EAGAIN)
                ends[i]->result = vn_tls_handshake(ends[i]->tls, &wants_write, &ends[i]->why);
        while (pump(pair))
            quiet = 0;
    }
}

static void test_both_hashes_and_many_keys(void) {
    static struct vn_tls_psk psks[VN_TLS_PSKS_MAX];
    char name[64];
    for (uint32_t i = 0; i < VN_ARRAY_SIZE(psks); i++) {
        snprintf(name, sizeof(name), "NVMe0R0%u host%u subsys", 1 + i % 2, i);
        psks[i] = psk_of(name, 1 + i % 2, (uint8_t)i);
    }
    static const uint32_t picks[] = {0, 1, 2000, 4094, 4095};
    for (size_t i = 0; i < VN_ARRAY_SIZE(picks); i++) {
        struct pair pair;
        open_pair(&pair, &psks[picks[i]], psks, VN_ARRAY_SIZE(psks), true);
        shake(&pair);
        CHECK_EQ(pair.client.result, 0);
        CHECK_EQ(pair.server.result, 0);
        CHECK(!strcmp(vn_tls_identity(pair.server.tls), psks[picks[i]].identity));
        close_pair(&pair);
    }
    /* The longest identity. */
    memset(psks[0].identity, 'x', sizeof(psks[0].identity) - 1);
    struct pair pair;
    open_pair(&pair, &psks[0], psks, 1, true);
    shake(&pair);
    CHECK_EQ(pair.server.result, 0);
    CHECK_EQ(strlen(vn_tls_identity(pair.server.tls)), VN_TLS_IDENTITY_BYTES - 1);
    close_pair(&pair);
    struct vn_tls_context *context = context_of(true, psks, VN_ARRAY_SIZE(psks));
    struct vn_tls_psk more = psk_of("one too many", 1, 1);
    CHECK_EQ(vn_tls_context_add(context, &more), -ENOSPC);
    /* Those that are taken out are gone, the others are found. */
    for (uint32_t i = 0; i < VN_ARRAY_SIZE(psks); i += 3)
        vn_tls_context_remove(context, psks[i].identity);
    vn_tls_context_remove(context, "one that is not there");
    CHECK_EQ(vn_tls_context_count(context), VN_ARRAY_SIZE(psks) - (VN_ARRAY_SIZE(psks) + 2) / 3);
    for (uint32_t i = 0; i < VN_ARRAY_SIZE(psks); i++)
        CHECK_EQ(vn_tls_context_add(context, &psks[i]), i % 3 ? -EEXIST : 0);
    vn_tls_context_free(context);
}

static void test_keys_that_make_no_sense_are_refused(void) {
    struct vn_tls_context *context;
    struct vn_tls *tls;
    CHECK_EQ(vn_tls_context_new(false, &context), 0);
    CHECK_EQ(vn_tls_new(context, 0, &tls), -EINVAL);
    struct vn_tls_psk good = psk_of("a", 1, 1), bad = good;
    bad.hash = 0;
    CHECK_EQ(vn_tls_context_add(context, &bad), -EINVAL);
    bad.hash = 3;
    CHECK_EQ(vn_tls_context_add(context, &bad), -EINVAL);
    bad = good;
    bad.key_bytes = 48;
    CHECK_EQ(vn_tls_context_add(context, &bad), -EINVAL);
    bad = good;
    bad.identity[0] = 0;
    CHECK_EQ(vn_tls_context_add(context, &bad), -EINVAL);
    memset(bad.identity, 'x', sizeof(bad.identity));
    CHECK_EQ(vn_tls_context_add(context, &bad), -EINVAL);
    CHECK_EQ(vn_tls_context_add(context, &good), 0);
    CHECK_EQ(vn_tls_context_add(context, &good), -EEXIST);
    bad = psk_of("b", 1, 1);
    CHECK_EQ(vn_tls_context_add(context, &bad), -ENOSPC);
    vn_tls_context_free(context);
}

static void refused(const struct vn_tls_psk *client, const struct vn_tls_psk *server, const char *client_says, const char *server_says) {
    struct pair pair;
    open_pair(&pair, client, server, 1, true);
    shake(&pair);
    CHECK_EQ(pair.client.result, -EACCES);
    CHECK_EQ(pair.server.result, -EACCES);
    CHECK_SAYS(pair.client.why, client_says);
    CHECK_SAYS(pair.server.why, server_says);
    struct iovec iov = {.iov_base = &pair.client, .iov_len = 1};
    CHECK_EQ(vn_tls_send(pair.client.tls, &iov, 1), -EACCES);
    CHECK_EQ(vn_tls_recv(pair.server.tls, &iov, 1), -EACCES);
    close_pair(&pair);
}

static void test_wrong_keys_are_refused_in_words(void) {
    struct vn_tls_psk good = psk_of("NVMe0R01 h s", 1, 1), other = psk_of("NVMe0R01 h s", 1, 2);
    struct vn_tls_psk unknown = psk_of("NVMe0R01 h2 s", 1, 1), prefix = psk_of("NVMe0R01 h", 1, 1);
    struct vn_tls_psk hash = psk_of("NVMe0R01 h s", 2, 1);
    refused(&other, &good, "different pre-shared keys", "different pre-shared keys");
    refused(&unknown, &good, "does not know our pre-shared key", "none of the host's");
    refused(&prefix, &good, "does not know our pre-shared key", "none of the host's");
    refused(&hash, &good, "accepts none of our keys or cipher suites", "no cipher suite that fits the key");
}

/* A client of another make. psk: whether it offers the key of test_peers. */
static const struct vn_tls_psk peers_psk = {.identity = "NVMe0R01 h s", .key = {7}, .key_bytes = 32, .hash = 1};

static int offer(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *bytes, SSL_SESSION **session) {
    static const unsigned char suite[] = {0x13, 0x01};
    (void)md;
    *session = SSL_SESSION_new();
    CHECK(SSL_SESSION_set1_master_key(*session, peers_psk.key, peers_psk.key_bytes));
    CHECK(SSL_SESSION_set_cipher(*session, SSL_CIPHER_find(ssl, suite)));
    CHECK(SSL_SESSION_set_protocol_version(*session, TLS1_3_VERSION));
    *id = (const unsigned char *)peers_psk.identity;
    *bytes = strlen(peers_psk.identity);
    return 1;
}

/* It asks for new keys in the middle of it: both directions go on. */
static void new_keys(struct end *server, SSL *ssl) {
    char ping[] = "ping", got[8];
    struct iovec in = {.iov_base = got, .iov_len = 4}, out = {.iov_base = ping, .iov_len = 4};
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        CHECK_EQ(SSL_write(ssl, ping, 4), 4);
        CHECK_EQ(vn_tls_recv(server->tls, &in, 1), 4);
        CHECK(!memcmp(got, ping, 4));
        CHECK_EQ(vn_tls_send(server->tls, &out, 1), 4);
        CHECK_EQ(SSL_read(ssl, got, 4), 4);
        CHECK(!memcmp(got, ping, 4));
    }
}

static void peer(int version, const char *suites, bool psk, int result, const char *says) {
    int fds[2];
    struct end server;
    bool wants_write;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    open_end(&server, true, &peers_psk, 1, fds[0]);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    CHECK(SSL_CTX_set_max_proto_version(context, version));
    if (suites)
        CHECK(SSL_CTX_set_ciphersuites(context, suites));
    if (psk)
        SSL_CTX_set_psk_use_session_callback(context, offer);
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, fds[1]);
    for (int i = 0; i < 6; i++) {
        SSL_connect(ssl);
        if (server.result == -EAGAIN)
            server.result = vn_tls_handshake(server.tls, &wants_write, &server.why);
    }
    CHECK_EQ(server.result, result);
    CHECK_SAYS(server.why, says);
    CHECK_EQ(SSL_is_init_finished(ssl), result == 0);
    if (result == 0)
        new_keys(&server, ssl);
    SSL_free(ssl);
    SSL_CTX_free(context);
    close(fds[1]);
    close_end(&server);
}

static void test_peers(void) {
    /* It would rather have the other suite: the key's hash decides. */
    peer(TLS1_3_VERSION, "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256", true, 0, "");
    peer(TLS1_3_VERSION, NULL, false, -EACCES, "offers no pre-shared key");
    peer(TLS1_2_VERSION, NULL, true, -EACCES, "offers no pre-shared key");
}

static void test_a_peer_that_does_not_speak_tls(void) {
    static const uint8_t ic_req[128] = {0, 0, 128, 0, 128};
    bool wants_write;
    for (int server = 0; server < 2; server++) {
        int fds[2];
        struct end end;
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
        open_end(&end, server, &peers_psk, 1, fds[0]);
        CHECK_EQ(vn_tls_handshake(end.tls, &wants_write, &end.why), -EAGAIN);
        CHECK(!wants_write);
        CHECK_EQ(send(fds[1], ic_req, sizeof(ic_req), 0), (ssize_t)sizeof(ic_req));
        CHECK_EQ(vn_tls_handshake(end.tls, &wants_write, &end.why), -EACCES);
        CHECK_SAYS(end.why, "does not speak TLS");
        close(fds[1]);
        close_end(&end);

        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
        open_end(&end, server, &peers_psk, 1, fds[0]);
        shutdown(fds[1], SHUT_WR);
        CHECK_EQ(vn_tls_handshake(end.tls, &wants_write, &end.why), -ECONNRESET);
        CHECK_SAYS(end.why, "ended the connection");
        close(fds[1]);
        close_end(&end);
    }
}

/* Whatever byte is changed on its way: the handshake fails, or it was one without meaning (a record's legacy version). */
static void test_no_byte_of_a_handshake_may_change(void) {
    struct vn_tls_psk psk = psk_of("NVMe0R02 h s", 2, 9);
    struct pair pair;
    open_pair(&pair, &psk, &psk, 1, false);
    shake(&pair);
    CHECK_EQ(pair.client.result, 0);
    CHECK_EQ(pair.server.result, 0);
    size_t bytes[] = {pair.passed[0], pair.passed[1]};
    close_pair(&pair);
    size_t survived = 0;
    for (int way = 0; way < 2; way++) {
        for (size_t at = 0; at < bytes[way]; at++) {
            open_pair(&pair, &psk, &psk, 1, false);
            pair.flip[way] = at;
            shake(&pair);
            if (pair.client.result == 0 && pair.server.result == 0) {
                survived++;
                char ping[] = "ping", got[8];
                struct iovec out = {.iov_base = ping, .iov_len = 4}, in = {.iov_base = got, .iov_len = 4};
                CHECK_EQ(vn_tls_send(pair.client.tls, &out, 1), 4);
                while (pump(&pair))
                    continue;
                CHECK_EQ(vn_tls_recv(pair.server.tls, &in, 1), 4);
                CHECK(!memcmp(got, ping, 4));
            }
            close_pair(&pair);
        }
    }
    printf("%zu of %zu bytes have no meaning\n", survived, bytes[0] + bytes[1]);
    CHECK(survived < 24);
}

static uint32_t random_iovecs(struct vn_test_random *random, uint8_t *at, size_t room, struct iovec *iov) {
    uint32_t nr = 1 + (uint32_t)vn_test_below(random, 8);
    for (uint32_t i = 0; i < nr; i++) {
        size_t bytes = vn_test_below(random, vn_test_below(random, 3) ? 200 : 60000);
        iov[i] = (struct iovec){.iov_base = at, .iov_len = vn_min_u64(bytes, room)};
        at += iov[i].iov_len;
        room -= iov[i].iov_len;
    }
    return nr;
}

/* All that was sent arrives, in order, whatever the pieces and however small the socket. */
static void stream_one_way(struct vn_test_random *random, struct end *from, struct end *to, int small) {
    static uint8_t sent[1 << 20], got[1 << 20];
    size_t out = 0, in = 0;
    struct iovec iov[8];
    bool flushed = true;
    vn_test_fill(random, sent, sizeof(sent));
    if (small)
        CHECK_EQ(setsockopt(from->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    for (int step = 0; in < sizeof(sent); step++) {
        CHECK(step < STEPS_MAX);
        if (out < sizeof(sent) && vn_test_below(random, 2)) {
            ssize_t moved = vn_tls_send(from->tls, iov, random_iovecs(random, sent + out, sizeof(sent) - out, iov));
            CHECK(moved >= 0 || moved == -EAGAIN);
            out += moved > 0 ? (size_t)moved : 0;
        }
        int err = vn_tls_flush(from->tls);
        CHECK(err == 0 || err == -EAGAIN);
        flushed = err == 0;
        uint32_t nr = random_iovecs(random, got + in, sizeof(got) - in, iov);
        size_t asked = 0;
        for (uint32_t i = 0; i < nr; i++)
            asked += iov[i].iov_len;
        ssize_t moved = vn_tls_recv(to->tls, iov, nr);
        CHECK(moved > 0 || moved == -EAGAIN || asked == 0);
        if (moved == -EAGAIN)
            CHECK(!vn_tls_pending(to->tls));
        in += moved > 0 ? (size_t)moved : 0;
    }
    CHECK(flushed);
    CHECK(!memcmp(sent, got, sizeof(sent)));
}

static void test_streams(struct vn_test_random *random) {
    for (uint32_t hash = 1; hash <= 2; hash++) {
        struct vn_tls_psk psk = psk_of("NVMe0R01 h s", hash, 1);
        struct pair pair;
        open_pair(&pair, &psk, &psk, 1, true);
        shake(&pair);
        stream_one_way(random, &pair.client, &pair.server, 0);
        stream_one_way(random, &pair.server, &pair.client, 4608);
        stream_one_way(random, &pair.client, &pair.server, 4608);
        close_pair(&pair);
    }
}

/* What waits inside although the socket is empty is told; and small pieces share a record. */
static void test_pending_and_sharing(void) {
    struct vn_tls_psk psk = psk_of("NVMe0R01 h s", 1, 1);
    struct pair pair;
    uint8_t data[300] = {1, 2, 3}, got[300];
    struct iovec out[] = {{data, 72}, {data + 72, 0}, {data + 72, 128}, {data + 200, 100}}, in = {got, 100};
    open_pair(&pair, &psk, &psk, 1, false);
    shake(&pair);
    size_t before = pair.passed[0];
    CHECK_EQ(vn_tls_send(pair.client.tls, out, 4), 300);
    while (pump(&pair))
        continue;
    CHECK_EQ(pair.passed[0] - before, 300 + 22);
    CHECK_EQ(vn_tls_recv(pair.server.tls, &in, 1), 100);
    CHECK(vn_tls_pending(pair.server.tls));
    in = (struct iovec){got + 100, 200};
    CHECK_EQ(vn_tls_recv(pair.server.tls, &in, 1), 200);
    CHECK(!vn_tls_pending(pair.server.tls));
    CHECK_EQ(vn_tls_recv(pair.server.tls, &in, 1), -EAGAIN);
    CHECK(!memcmp(data, got, sizeof(data)));

    /* A record that changes on its way ends the connection, and nothing of it is delivered. */
    pair.flip[0] = pair.passed[0] + 100;
    CHECK_EQ(vn_tls_send(pair.client.tls, out, 4), 300);
    while (pump(&pair))
        continue;
    CHECK_EQ(vn_tls_recv(pair.server.tls, &in, 1), -EPROTO);
    CHECK_EQ(vn_tls_recv(pair.server.tls, &in, 1), -EPROTO);
    close_pair(&pair);
}

static void test_the_end(void) {
    struct vn_tls_psk psk = psk_of("NVMe0R01 h s", 1, 1);
    struct pair pair;
    uint8_t data[4] = {1, 2, 3, 4}, got[8];
    struct iovec out = {data, 4}, in = {got, 8};
    open_pair(&pair, &psk, &psk, 1, true);
    shake(&pair);
    CHECK_EQ(vn_tls_send(pair.client.tls, &out, 1), 4);
    close(pair.client.fd);
    pair.client.fd = -1;
    CHECK_EQ(vn_tls_recv(pair.server.tls, &in, 1), 4);
    CHECK_EQ(vn_tls_recv(pair.server.tls, &in, 1), 0);
    /* No signal, an error. */
    CHECK_EQ(vn_tls_send(pair.server.tls, &out, 1), -EPIPE);
    close_pair(&pair);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    test_both_hashes_and_many_keys();
    test_keys_that_make_no_sense_are_refused();
    test_wrong_keys_are_refused_in_words();
    test_peers();
    test_a_peer_that_does_not_speak_tls();
    test_no_byte_of_a_handshake_may_change();
    test_streams(&random);
    test_pending_and_sharing();
    test_the_end();
    return 0;
}
