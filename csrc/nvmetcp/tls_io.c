/* The bytes of one TLS connection: the handshake, records in and out, and the socket below OpenSSL.
 * Records gather in an output buffer, and leave with one call; what does not fit into the socket waits there (vn_tls_flush).
 */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/sslerr.h>
#include <string.h>
#include <sys/socket.h>

#include "core/util.h"
#include "nvmetcp/tls_ssl.h"

/* --- Below OpenSSL --- */

int vn_tls_flush(struct vn_tls *tls) {
    while (tls->out_head < tls->out_tail) {
        ssize_t sent = send(tls->fd, tls->out + tls->out_head, tls->out_tail - tls->out_head, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EAGAIN ? -EAGAIN : (tls->err = -errno);
        tls->out_head += (uint32_t)sent;
    }
    tls->out_head = tls->out_tail = 0;
    return 0;
}

static uint32_t room(struct vn_tls *tls) {
    if (tls->out_head > 0 && tls->out_tail + VN_TLS_RECORD_BYTES + VN_TLS_OVERHEAD_BYTES > VN_TLS_OUT_BYTES) {
        memmove(tls->out, tls->out + tls->out_head, tls->out_tail - tls->out_head);
        tls->out_tail -= tls->out_head;
        tls->out_head = 0;
    }
    return VN_TLS_OUT_BYTES - tls->out_tail;
}

static int bio_write(BIO *bio, const char *data, int bytes) {
    struct vn_tls *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (bytes <= 0)
        return 0;
    if (room(tls) < (uint32_t)bytes) {
        BIO_set_retry_write(bio);
        return -1;
    }
    memcpy(tls->out + tls->out_tail, data, (uint32_t)bytes);
    tls->out_tail += (uint32_t)bytes;
    return bytes;
}

static int bio_read(BIO *bio, char *data, int bytes) {
    struct vn_tls *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (bytes <= 0)
        return 0;
    ssize_t got;
    do
        got = recv(tls->fd, data, (size_t)bytes, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN)
        BIO_set_retry_read(bio);
    else if (got < 0)
        tls->err = -errno;
    return (int)got;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer) {
    struct vn_tls *tls = BIO_get_data(bio);
    (void)number;
    (void)pointer;
    if (command != BIO_CTRL_FLUSH)
        return 0;
    BIO_clear_retry_flags(bio);
    int err = vn_tls_flush(tls);
    if (err == -EAGAIN)
        BIO_set_retry_write(bio);
    return err ? -1 : 1;
}

BIO_METHOD *vn_tls_bio_method(void) {
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_TYPE_DESCRIPTOR, "vhostnvme socket");
    if (method && BIO_meth_set_write(method, bio_write) && BIO_meth_set_read(method, bio_read) &&
        BIO_meth_set_ctrl(method, bio_ctrl))
        return method;
    BIO_meth_free(method);
    return NULL;
}

/* --- The handshake --- */

static const struct {
    int reason;
    const char *words;
} reasons[] = {
    /* Alerts of the peer. */
    {SSL_AD_REASON_OFFSET + SSL_AD_UNKNOWN_PSK_IDENTITY, "the target does not know our pre-shared key"},
    {SSL_AD_REASON_OFFSET + SSL_AD_HANDSHAKE_FAILURE, "the peer accepts none of our keys or cipher suites"},
    {SSL_AD_REASON_OFFSET + SSL_AD_DECRYPT_ERROR, "the two ends have different pre-shared keys"},
    /* With OpenSSL at the other end, as ours. */
    {SSL_AD_REASON_OFFSET + SSL_AD_ILLEGAL_PARAMETER, "the two ends have different pre-shared keys"},
    {SSL_AD_REASON_OFFSET + SSL_AD_PROTOCOL_VERSION, "the peer does not take TLS 1.3"},
    {SSL_AD_REASON_OFFSET + SSL_AD_INSUFFICIENT_SECURITY, "the peer accepts none of our cipher suites"},
    {SSL_AD_REASON_OFFSET + SSL_AD_CERTIFICATE_REQUIRED, "the peer wants a certificate instead of a pre-shared key"},
    /* What we found. */
    {SSL_R_BINDER_DOES_NOT_VERIFY, "the two ends have different pre-shared keys"},
    {SSL_R_BAD_PSK, "the two ends have different pre-shared keys"},
    {SSL_R_NO_SHARED_CIPHER, "the peer offers no cipher suite that fits the key"},
    {SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, "the peer's key does not fit its cipher suites"},
    {SSL_R_NO_SUITABLE_KEY_SHARE, "the peer offers no key exchange that we take"},
    {SSL_R_WRONG_VERSION_NUMBER, "the peer does not speak TLS"},
    {SSL_R_PACKET_LENGTH_TOO_LONG, "the peer does not speak TLS"},
    {SSL_R_HTTP_REQUEST, "the peer does not speak TLS"},
    {SSL_R_UNSUPPORTED_PROTOCOL, "the peer does not take TLS 1.3"},
    {SSL_R_CERTIFICATE_VERIFY_FAILED, "the target answers with a certificate instead of the pre-shared key"},
};

static const char *words_of(unsigned long code) {
    int reason = ERR_GET_REASON(code);
    for (size_t i = 0; i < VN_ARRAY_SIZE(reasons); i++)
        if (ERR_GET_LIB(code) == ERR_LIB_SSL && reasons[i].reason == reason)
            return reasons[i].words;
    const char *words = code ? ERR_reason_error_string(code) : NULL;
    return words ? words : "the TLS handshake failed";
}

int vn_tls_handshake(struct vn_tls *tls, bool *wants_write, const char **why) {
    *wants_write = false;
    ERR_clear_error();
    int done = SSL_do_handshake(tls->ssl);
    if (done == 1) {
        /* The last flight may still be here: it goes before the connection is called open. */
        int err = vn_tls_flush(tls);
        *wants_write = err == -EAGAIN;
        if (!err && SSL_session_reused(tls->ssl))
            return 0;
        if (err == -EAGAIN)
            return err;
        *why = err ? strerror(-err) : "the peer did not use the pre-shared key";
        return tls->err = err ? err : -EACCES;
    }
    int error = SSL_get_error(tls->ssl, done);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        *wants_write = error == SSL_ERROR_WANT_WRITE;
        return -EAGAIN;
    }
    unsigned long code = ERR_peek_error();
    *why = tls->why                    ? tls->why
           : tls->err                  ? strerror(-tls->err)
           : error == SSL_ERROR_SYSCALL ? "the peer ended the connection"
                                       : words_of(code);
    vn_tls_flush(tls); /* the alert, so that the other end knows too */
    ERR_clear_error();
    if (!tls->err)
        tls->err = error == SSL_ERROR_SYSCALL ? -ECONNRESET : -EACCES;
    return tls->err;
}

/* --- Records --- */

/* 0: the peer has ended. */
static int read_error(struct vn_tls *tls) {
    int error = SSL_get_error(tls->ssl, 0);
    ERR_clear_error();
    if (error == SSL_ERROR_WANT_READ) {
        tls->dry = true;
        return -EAGAIN;
    }
    if (error == SSL_ERROR_ZERO_RETURN || (error == SSL_ERROR_SYSCALL && !tls->err))
        return 0;
    vn_tls_flush(tls); /* the alert */
    if (!tls->err)
        tls->err = -EPROTO;
    return tls->err;
}

ssize_t vn_tls_recv(struct vn_tls *tls, const struct iovec *iov, uint32_t nr_iov) {
    ssize_t moved = 0;
    if (tls->err)
        return tls->err;
    tls->dry = false;
    ERR_clear_error();
    for (uint32_t i = 0; i < nr_iov; i++) {
        for (size_t done = 0, got; done < iov[i].iov_len; done += got, moved += (ssize_t)got) {
            if (SSL_read_ex(tls->ssl, (uint8_t *)iov[i].iov_base + done, iov[i].iov_len - done, &got))
                continue;
            int err = read_error(tls);
            return moved > 0 ? moved : err;
        }
    }
    return moved;
}

/* The next record's bytes: from one long piece as they are, from several short ones through the stage. */
static size_t next_record(struct vn_tls *tls, const struct iovec **iov, const struct iovec *end, size_t *skip,
                          const uint8_t **data) {
    while (*iov < end && (*iov)->iov_len == *skip) {
        *skip = 0;
        (*iov)++;
    }
    if (*iov == end)
        return 0;
    if ((*iov)->iov_len - *skip >= VN_TLS_RECORD_BYTES) {
        *data = (const uint8_t *)(*iov)->iov_base + *skip;
        *skip += VN_TLS_RECORD_BYTES;
        return VN_TLS_RECORD_BYTES;
    }
    size_t bytes = 0;
    while (*iov < end && bytes < VN_TLS_RECORD_BYTES) {
        size_t part = vn_min_u64((*iov)->iov_len - *skip, VN_TLS_RECORD_BYTES - bytes);
        if (part > 0)
            memcpy(tls->stage + bytes, (const uint8_t *)(*iov)->iov_base + *skip, part);
        bytes += part;
        *skip += part;
        if (*skip == (*iov)->iov_len) {
            *skip = 0;
            (*iov)++;
        }
    }
    *data = tls->stage;
    return bytes;
}

ssize_t vn_tls_send(struct vn_tls *tls, const struct iovec *iov, uint32_t nr_iov) {
    const struct iovec *end = iov + nr_iov;
    size_t skip = 0, bytes, written;
    ssize_t moved = 0;
    const uint8_t *data;
    if (tls->err)
        return tls->err;
    ERR_clear_error();
    for (;;) {
        if (room(tls) < VN_TLS_RECORD_BYTES + VN_TLS_OVERHEAD_BYTES) {
            int err = vn_tls_flush(tls);
            if (err && err != -EAGAIN)
                return err;
            if (room(tls) < VN_TLS_RECORD_BYTES + VN_TLS_OVERHEAD_BYTES)
                return moved > 0 ? moved : -EAGAIN;
        }
        bytes = next_record(tls, &iov, end, &skip, &data);
        if (bytes == 0)
            break;
        /* There is room for all that it makes of it: anything but success is the end. */
        if (!SSL_write_ex(tls->ssl, data, bytes, &written) || written != bytes) {
            ERR_clear_error();
            return tls->err ? tls->err : (tls->err = -EPROTO);
        }
        moved += (ssize_t)bytes;
    }
    int err = vn_tls_flush(tls);
    return err && err != -EAGAIN ? err : moved;
}

bool vn_tls_pending(const struct vn_tls *tls) {
    return !tls->dry && SSL_has_pending(tls->ssl);
}
