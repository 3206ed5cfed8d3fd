/* TLS 1.3 with pre-shared keys, over OpenSSL: contexts, and which key a peer has. tls_io.c moves the bytes.
 * No certificates, no 0-RTT, no tickets, and never a key without a fresh (EC)DHE.
 */
#include "nvmetcp/tls.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"
#include "nvmetcp/tls_ssl.h"

#define GROUPS "X25519:P-256:P-384:ffdhe3072"
#define SUITES "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"

static const struct suite {
    const char *name;
    uint8_t id[2];
    uint32_t key_bytes;
} suites[] = {
    [1] = {"TLS_AES_128_GCM_SHA256", {0x13, 0x01}, 32},
    [2] = {"TLS_AES_256_GCM_SHA384", {0x13, 0x02}, 48},
};

/* FNV-1a. */
static uint32_t mark_of(const uint8_t *identity, size_t bytes) {
    uint32_t mark = 2166136261u;
    for (size_t i = 0; i < bytes; i++)
        mark = (mark ^ identity[i]) * 16777619u;
    return mark;
}

static struct vn_tls_psk *find_psk(const struct vn_tls_context *context, const uint8_t *identity, size_t bytes) {
    uint32_t mark = mark_of(identity, bytes);
    for (uint32_t i = 0; i < context->nr_psks; i++) {
        struct vn_tls_psk *psk = &context->psks[i];
        if (context->marks[i] == mark && strlen(psk->identity) == bytes && !memcmp(psk->identity, identity, bytes))
            return psk;
    }
    return NULL;
}

/* As OpenSSL wants an external key (RFC 8446 4.2.11): a session that never was. */
static SSL_SESSION *make_session(SSL *ssl, const struct vn_tls_psk *psk) {
    SSL_SESSION *session = SSL_SESSION_new();
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suites[psk->hash].id);
    if (session && cipher && SSL_SESSION_set1_master_key(session, psk->key, psk->key_bytes) &&
        SSL_SESSION_set_cipher(session, cipher) && SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION))
        return session;
    SSL_SESSION_free(session);
    return NULL;
}

static int use_session(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *bytes, SSL_SESSION **session) {
    const struct vn_tls *tls = SSL_get_app_data(ssl);
    const struct vn_tls_psk *psk = &tls->context->psks[0];
    *session = NULL;
    /* After a HelloRetryRequest: the hash that the server has chosen. */
    if (md && EVP_MD_get_size(md) != (int)psk->key_bytes)
        return 1;
    *session = make_session(ssl, psk);
    *id = (const unsigned char *)psk->identity;
    *bytes = strlen(psk->identity);
    return *session != NULL;
}

static int find_session(SSL *ssl, const unsigned char *identity, size_t bytes, SSL_SESSION **session) {
    struct vn_tls *tls = SSL_get_app_data(ssl);
    const struct vn_tls_psk *psk = find_psk(tls->context, identity, bytes);
    *session = NULL;
    /* The one for which the cipher suite has been chosen, and no other. */
    if (!psk || strcmp(psk->identity, tls->identity) != 0)
        return 1;
    *session = make_session(ssl, psk);
    return *session != NULL;
}

/* The first identity of the ClientHello that we know (RFC 8446 4.2.11: u16 length, then u16 length, name, u32 age). */
static const struct vn_tls_psk *offered_psk(const struct vn_tls_context *context, const uint8_t *ext, size_t bytes) {
    if (bytes < 2)
        return NULL;
    size_t end = 2 + ((size_t)ext[0] << 8 | ext[1]);
    if (end > bytes)
        return NULL;
    for (size_t at = 2; end - at >= 2;) {
        size_t name_bytes = (size_t)ext[at] << 8 | ext[at + 1];
        at += 2;
        if (end - at < name_bytes + 4)
            return NULL;
        const struct vn_tls_psk *psk = find_psk(context, ext + at, name_bytes);
        if (psk)
            return psk;
        at += name_bytes + 4;
    }
    return NULL;
}

/* OpenSSL chooses the cipher suite before it looks at keys, and then drops a key of the other hash: so the key is found here,
 * and leaves it one suite to choose. */
static int client_hello(SSL *ssl, int *alert, void *arg) {
    struct vn_tls *tls = SSL_get_app_data(ssl);
    const unsigned char *ext;
    size_t bytes;
    (void)arg;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk, &ext, &bytes)) {
        tls->why = "the host offers no pre-shared key";
        *alert = SSL_AD_HANDSHAKE_FAILURE;
        return SSL_CLIENT_HELLO_ERROR;
    }
    const struct vn_tls_psk *psk = offered_psk(tls->context, ext, bytes);
    if (!psk) {
        tls->why = "none of the host's pre-shared keys is known here";
        *alert = TLS1_AD_UNKNOWN_PSK_IDENTITY;
        return SSL_CLIENT_HELLO_ERROR;
    }
    if (!SSL_set_ciphersuites(ssl, suites[psk->hash].name)) {
        *alert = SSL_AD_INTERNAL_ERROR;
        return SSL_CLIENT_HELLO_ERROR;
    }
    memcpy(tls->identity, psk->identity, sizeof(tls->identity));
    return SSL_CLIENT_HELLO_SUCCESS;
}

int vn_tls_context_new(bool server, struct vn_tls_context **out) {
    struct vn_tls_context *context = calloc(1, sizeof(*context));
    if (!context)
        return -ENOMEM;
    context->refs = 1;
    context->server = server;
    context->bio = vn_tls_bio_method();
    SSL_CTX *ssl = context->ssl = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    if (!ssl || !context->bio || !SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION) ||
        !SSL_CTX_set_max_proto_version(ssl, TLS1_3_VERSION) || !SSL_CTX_set_ciphersuites(ssl, SUITES) ||
        !SSL_CTX_set1_groups_list(ssl, GROUPS) || !SSL_CTX_set_num_tickets(ssl, 0)) {
        ERR_clear_error();
        vn_tls_context_free(context);
        return -ENOMEM;
    }
    SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_quiet_shutdown(ssl, 1);
    SSL_CTX_set_read_ahead(ssl, 1);
    SSL_CTX_set_default_read_buffer_len(ssl, VN_TLS_READ_BYTES);
    if (server) {
        SSL_CTX_set_client_hello_cb(ssl, client_hello, NULL);
        SSL_CTX_set_psk_find_session_callback(ssl, find_session);
    } else {
        /* A server that answers with a certificate instead of the key is refused: we trust none. */
        SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_psk_use_session_callback(ssl, use_session);
    }
    *out = context;
    return 0;
}

/* Not by realloc: it would leave keys behind. */
static int grow(struct vn_tls_context *context) {
    uint32_t room = context->room ? context->room * 2 : 4;
    struct vn_tls_psk *psks = calloc(room, sizeof(*psks));
    if (!psks)
        return -ENOMEM;
    if (context->psks) {
        memcpy(psks, context->psks, context->nr_psks * sizeof(*psks));
        OPENSSL_cleanse(context->psks, context->room * sizeof(*psks));
    }
    free(context->psks);
    context->psks = psks;
    context->room = room;
    return 0;
}

int vn_tls_context_add(struct vn_tls_context *context, const struct vn_tls_psk *psk) {
    size_t bytes = strnlen(psk->identity, sizeof(psk->identity));
    if (psk->hash < 1 || psk->hash >= VN_ARRAY_SIZE(suites) || psk->key_bytes != suites[psk->hash].key_bytes || bytes == 0 ||
        bytes == sizeof(psk->identity))
        return -EINVAL;
    if (find_psk(context, (const uint8_t *)psk->identity, bytes))
        return -EEXIST;
    if (context->nr_psks == (context->server ? VN_TLS_PSKS_MAX : 1))
        return -ENOSPC;
    int err = context->nr_psks == context->room ? grow(context) : 0;
    if (err)
        return err;
    context->marks[context->nr_psks] = mark_of((const uint8_t *)psk->identity, bytes);
    context->psks[context->nr_psks++] = *psk;
    return context->server || SSL_CTX_set_ciphersuites(context->ssl, suites[psk->hash].name) ? 0 : -ENOMEM;
}

void vn_tls_context_remove(struct vn_tls_context *context, const char *identity) {
    struct vn_tls_psk *psk = find_psk(context, (const uint8_t *)identity, strlen(identity));
    if (!psk)
        return;
    struct vn_tls_psk *last = &context->psks[--context->nr_psks];
    *psk = *last;
    context->marks[psk - context->psks] = context->marks[context->nr_psks];
    OPENSSL_cleanse(last, sizeof(*last));
}

uint32_t vn_tls_context_count(const struct vn_tls_context *context) {
    return context->nr_psks;
}

void vn_tls_context_free(struct vn_tls_context *context) {
    if (!context || __atomic_sub_fetch(&context->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    SSL_CTX_free(context->ssl);
    BIO_meth_free(context->bio);
    if (context->psks)
        OPENSSL_cleanse(context->psks, context->room * sizeof(*context->psks));
    free(context->psks);
    free(context);
}

int vn_tls_new(struct vn_tls_context *context, int fd, struct vn_tls **out) {
    if (!context->server && context->nr_psks == 0)
        return -EINVAL;
    struct vn_tls *tls = calloc(1, sizeof(*tls));
    if (!tls)
        return -ENOMEM;
    tls->fd = fd;
    tls->context = context;
    __atomic_add_fetch(&context->refs, 1, __ATOMIC_RELAXED);
    tls->out = malloc(VN_TLS_OUT_BYTES); /* touched as it is used */
    tls->ssl = SSL_new(context->ssl);
    BIO *bio = BIO_new(context->bio);
    if (!tls->out || !tls->ssl || !bio) {
        ERR_clear_error();
        BIO_free(bio);
        vn_tls_free(tls);
        return -ENOMEM;
    }
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls->ssl, bio, bio);
    SSL_set_app_data(tls->ssl, tls);
    if (context->server)
        SSL_set_accept_state(tls->ssl);
    else
        SSL_set_connect_state(tls->ssl);
    *out = tls;
    return 0;
}

void vn_tls_free(struct vn_tls *tls) {
    if (!tls)
        return;
    SSL_free(tls->ssl);
    OPENSSL_cleanse(tls->stage, sizeof(tls->stage));
    free(tls->out);
    vn_tls_context_free(tls->context);
    free(tls);
}

const char *vn_tls_identity(const struct vn_tls *tls) {
    return tls->identity;
}
