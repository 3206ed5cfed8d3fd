/* A byte stream on a reactor: a TCP socket, perhaps with TLS over it. Nothing here blocks.
 * The socket is watched by io_uring; bytes are moved by direct calls when it is known to be ready, so that no buffer
 * waits in the kernel for a connection that is idle.
 * Owner: its reactor. Embedded in a connection (conn.h).
 */
#ifndef VN_NVMETCP_STREAM_H
#define VN_NVMETCP_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "core/reactor.h"

struct vn_stream;
struct vn_tls; /* tls.h: the TLS of one stream, made and freed by it */
struct vn_tls_context;

enum vn_stream_state {
    VN_STREAM_IDLE,
    VN_STREAM_CONNECTING,
    VN_STREAM_HANDSHAKE, /* of TLS */
    VN_STREAM_OPEN,
    VN_STREAM_FAILED, /* opened has said so */
    VN_STREAM_CLOSING,
};

struct vn_stream_ops {
    /* Connected (with TLS, if asked for), err 0; or not, -errno. Not called for an accepted socket without TLS. */
    void (*opened)(struct vn_stream *stream, int err);
    /* It has become readable or writable: receive and send again, from here or from a poller's turn. */
    void (*ready)(struct vn_stream *stream);
    /* After vn_stream_close, once: no operation is left, the memory may go. */
    void (*closed)(struct vn_stream *stream);
};

struct vn_stream {
    struct vn_reactor *reactor;
    const struct vn_stream_ops *ops;
    int fd;
    enum vn_stream_state state;
    bool readable, writable; /* as far as is known; a call that answers -EAGAIN clears it */
    bool ended;              /* the peer's end, or an error, waits behind what can be received */
    bool polling, wants_write, poll_write;
    uint32_t nr_ops;         /* of io_uring, not yet completed */
    struct vn_uring_op poll_op, write_op;
    struct vn_timer timer;   /* a full ring: again; closing: the end, from a later turn */
    struct vn_tls *tls;      /* NULL: plain */
    const char *tls_why;     /* opened with an error: a word for the log, or NULL */
};

/* An accepted socket (non-blocking). With TLS (its context; NULL: none) opened is called after the handshake. An error:
 * nothing has begun, and the socket is still the caller's. */
int vn_stream_accept(struct vn_stream *stream, struct vn_reactor *reactor, const struct vn_stream_ops *ops, int fd,
                     struct vn_tls_context *tls);
/* Connects; ends in opened, perhaps much later: the caller has a timer. */
int vn_stream_connect(struct vn_stream *stream, struct vn_reactor *reactor, const struct vn_stream_ops *ops,
                      const struct sockaddr_storage *address, struct vn_tls_context *tls);
/* Bytes moved; 0: the peer has ended (receive only); -EAGAIN: ops->ready will tell; else -errno. */
ssize_t vn_stream_recv(struct vn_stream *stream, struct iovec *iov, uint32_t nr_iov);
ssize_t vn_stream_send(struct vn_stream *stream, struct iovec *iov, uint32_t nr_iov);
/* Nothing more will be sent: the peer sees the end behind what has been. */
void vn_stream_shut(struct vn_stream *stream);
/* Ends it at once; closed follows, not from within this call. */
void vn_stream_close(struct vn_stream *stream);

#endif
