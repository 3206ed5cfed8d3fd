/* What tls.c and tls_io.c share: the structs behind tls.h. Nobody else includes it. */
#ifndef VN_NVMETCP_TLS_SSL_H
#define VN_NVMETCP_TLS_SSL_H

#include <openssl/bio.h>
#include <openssl/ssl.h>

#include "nvmetcp/tls.h"

#define VN_TLS_RECORD_BYTES 16384u /* plaintext of one record (RFC 8446 5.1) */
/* Header, content type and tag; and what OpenSSL may put in by itself: an alert, the answer to a KeyUpdate. */
#define VN_TLS_OVERHEAD_BYTES 512u
#define VN_TLS_OUT_BYTES (4u * (VN_TLS_RECORD_BYTES + VN_TLS_OVERHEAD_BYTES)) /* ciphertext that leaves in one call */
#define VN_TLS_READ_BYTES (4u * (VN_TLS_RECORD_BYTES + VN_TLS_OVERHEAD_BYTES))

struct vn_tls_context {
    SSL_CTX *ssl;
    BIO_METHOD *bio;
    struct vn_tls_psk *psks;
    uint32_t marks[VN_TLS_PSKS_MAX]; /* of their identities: a search does not read them all */
    uint32_t nr_psks, room;
    uint32_t refs; /* of the owner, and of each vn_tls; atomic */
    bool server;
};

struct vn_tls {
    SSL *ssl;
    struct vn_tls_context *context;
    int fd;
    int err;           /* -errno: the connection is of no more use */
    bool dry;          /* the socket has been read empty, and OpenSSL has no whole record */
    const char *why;   /* set by a callback */
    char identity[VN_TLS_IDENTITY_BYTES];
    uint8_t *out;      /* ciphertext, VN_TLS_OUT_BYTES */
    uint32_t out_head, out_tail;
    uint8_t stage[VN_TLS_RECORD_BYTES]; /* small pieces become one record here */
};

/* A BIO over the socket of its vn_tls (BIO_get_data): never blocks, never raises SIGPIPE, gathers records. */
BIO_METHOD *vn_tls_bio_method(void);

#endif
