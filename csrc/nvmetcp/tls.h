/* TLS 1.3 with pre-shared keys (NVMe/TCP 3.6.1), by OpenSSL, over a non-blocking socket.
 * A context is made once on the control thread; a stream's TLS belongs to its reactor.
 */
#ifndef VN_NVMETCP_TLS_H
#define VN_NVMETCP_TLS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct vn_tls_context; /* the keys of one end */
struct vn_tls;

#define VN_TLS_IDENTITY_BYTES 528u /* two NQNs of 223, a digest of 64, what stands between, and the end */

/* A pre-shared key, as derived from a configured (retained) one for a pair of NQNs. */
struct vn_tls_psk {
    char identity[VN_TLS_IDENTITY_BYTES]; /* NVMe<version>R<hash> HOSTNQN SUBNQN [digest] */
    uint8_t key[48];
    uint32_t key_bytes; /* 32 or 48 */
    uint32_t hash;      /* 1: SHA-256, 2: SHA-384 */
};

#define VN_TLS_PSKS_MAX 8192u /* six for each of VN_MAX_SUBSYSTEMS, and some */

/* Control thread. -ENOMEM, -EINVAL. */
int vn_tls_context_new(bool server, struct vn_tls_context **out);
/* A server has one for each pair of host and subsystem that it serves, at most VN_TLS_PSKS_MAX (-ENOSPC), each identity once
 * (-EEXIST); a client one. The context keeps a copy. When connections use it already: on their reactor. */
int vn_tls_context_add(struct vn_tls_context *context, const struct vn_tls_psk *psk);
void vn_tls_context_remove(struct vn_tls_context *context, const char *identity); /* if it is there */
uint32_t vn_tls_context_count(const struct vn_tls_context *context);
/* The last of this and of the vn_tls made from it frees it. */
void vn_tls_context_free(struct vn_tls_context *context);

/* Reactor. Allocates: a connection's start, not its I/O. The fd stays the caller's, and is not closed or written to by free. */
int vn_tls_new(struct vn_tls_context *context, int fd, struct vn_tls **out);
void vn_tls_free(struct vn_tls *tls);
/* 0: done; -EAGAIN: *wants_write says for what; else -errno, and *why a word for the log. */
int vn_tls_handshake(struct vn_tls *tls, bool *wants_write, const char **why);
/* Bytes moved; 0: the peer has ended, with or without a farewell (receive only); -EAGAIN: when the socket is readable, or
 * writable; else -errno, and the connection is of no more use. */
ssize_t vn_tls_recv(struct vn_tls *tls, const struct iovec *iov, uint32_t nr_iov);
/* What is accepted has been copied and encrypted, but may still be here: vn_tls_flush says so. */
ssize_t vn_tls_send(struct vn_tls *tls, const struct iovec *iov, uint32_t nr_iov);
int vn_tls_flush(struct vn_tls *tls); /* 0: all that was accepted is with the kernel; -EAGAIN: when writable; else -errno */
bool vn_tls_pending(const struct vn_tls *tls); /* bytes wait in it: readable although the socket may not be */
const char *vn_tls_identity(const struct vn_tls *tls); /* server, after the handshake: whose key it was */

#endif
