/* A byte stream on a reactor: a TCP socket, perhaps with TLS over it. Called by conn.c.
 * A multishot poll tells that there is something to receive. Writability is only asked for after a send that did not
 * get rid of everything. The descriptor is closed when the kernel has let go of every operation on it, so that none can
 * hit another socket of the same number.
 */
#include "nvmetcp/stream.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"
#include "nvmetcp/address.h"
#include "nvmetcp/tls.h"

#define RETRY_NS 1000000ull
/* A peer that has gone without a word is found out by TCP as well, where nobody keeps alive above it. */
#define KEEPALIVE_IDLE_S 15
#define KEEPALIVE_INTERVAL_S 5
#define KEEPALIVE_PROBES 3

static void arm_poll(struct vn_stream *stream) {
    if (stream->polling || stream->state == VN_STREAM_CLOSING)
        return;
    struct io_uring_sqe *sqe = vn_reactor_sqe(stream->reactor, &stream->poll_op);
    if (!sqe) {
        vn_timer_arm(stream->reactor, &stream->timer, RETRY_NS);
        return;
    }
    io_uring_prep_poll_multishot(sqe, stream->fd, POLLIN | POLLRDHUP);
    io_uring_sqe_set_data(sqe, &stream->poll_op);
    stream->polling = true;
    stream->nr_ops++;
}

static void arm_write(struct vn_stream *stream) {
    stream->writable = false;
    stream->wants_write = true;
    if (stream->poll_write)
        return;
    struct io_uring_sqe *sqe = vn_reactor_sqe(stream->reactor, &stream->write_op);
    if (!sqe) {
        vn_timer_arm(stream->reactor, &stream->timer, RETRY_NS);
        return;
    }
    io_uring_prep_poll_add(sqe, stream->fd, POLLOUT);
    io_uring_sqe_set_data(sqe, &stream->write_op);
    stream->poll_write = true;
    stream->nr_ops++;
}

/* The last operation has ended: so does the stream. */
static void end(struct vn_stream *stream) {
    if (stream->nr_ops)
        return;
    vn_timer_disarm(stream->reactor, &stream->timer);
    if (stream->tls)
        vn_tls_free(stream->tls);
    stream->tls = NULL;
    close(stream->fd);
    stream->fd = -1;
    stream->state = VN_STREAM_IDLE;
    stream->ops->closed(stream);
}

static void opened(struct vn_stream *stream, int err) {
    stream->state = err ? VN_STREAM_FAILED : VN_STREAM_OPEN;
    stream->writable = !err;
    stream->ops->opened(stream, err);
}

static void handshake(struct vn_stream *stream) {
    bool wants_write = false;
    int err = vn_tls_handshake(stream->tls, &wants_write, &stream->tls_why);
    if (err == -EAGAIN) {
        if (wants_write)
            arm_write(stream);
        return;
    }
    stream->readable = true; /* what came along with the peer's last flight is in OpenSSL already */
    opened(stream, err);
}

/* What io_uring tells when an operation of it fails is for the next call to find out in its own words. */
static void on_poll(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    struct vn_stream *stream = vn_container_of(op, struct vn_stream, poll_op);
    if (!(cqe_flags & IORING_CQE_F_MORE)) {
        stream->polling = false;
        stream->nr_ops--;
    }
    if (stream->state == VN_STREAM_CLOSING) {
        end(stream);
        return;
    }
    stream->readable = true;
    stream->ended |= res < 0 || res & (POLLRDHUP | POLLHUP | POLLERR);
    if (res < 0)
        vn_timer_arm(stream->reactor, &stream->timer, RETRY_NS);
    else
        arm_poll(stream);
    if (stream->state == VN_STREAM_HANDSHAKE)
        handshake(stream);
    else if (stream->state == VN_STREAM_OPEN)
        stream->ops->ready(stream);
}

static void finish_connect(struct vn_stream *stream) {
    int err = 0;
    socklen_t size = sizeof(err);
    if (getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &err, &size) < 0)
        err = errno;
    if (!err)
        arm_poll(stream);
    if (err || !stream->tls) {
        opened(stream, -err);
        return;
    }
    stream->state = VN_STREAM_HANDSHAKE;
    handshake(stream);
}

static void on_write(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    struct vn_stream *stream = vn_container_of(op, struct vn_stream, write_op);
    (void)res;
    (void)cqe_flags;
    stream->poll_write = false;
    stream->nr_ops--;
    if (stream->state == VN_STREAM_CLOSING) {
        end(stream);
        return;
    }
    stream->wants_write = false;
    if (stream->state == VN_STREAM_CONNECTING) {
        finish_connect(stream);
    } else if (stream->state == VN_STREAM_HANDSHAKE) {
        handshake(stream);
    } else if (stream->tls && vn_tls_flush(stream->tls) == -EAGAIN) {
        arm_write(stream);
    } else if (stream->state == VN_STREAM_OPEN) {
        stream->writable = true;
        stream->ops->ready(stream);
    }
}

static void on_timer(struct vn_timer *timer) {
    struct vn_stream *stream = vn_container_of(timer, struct vn_stream, timer);
    if (stream->state == VN_STREAM_CLOSING) {
        end(stream);
        return;
    }
    if (stream->state == VN_STREAM_OPEN || stream->state == VN_STREAM_HANDSHAKE)
        arm_poll(stream);
    if (stream->wants_write)
        arm_write(stream);
}

/* Small PDUs leave at once: what belongs together is sent together. A socket that is not TCP has none of these. */
static void set_options(int fd) {
    static const int options[][3] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S},
        {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
    };
    for (size_t i = 0; i < VN_ARRAY_SIZE(options); i++)
        setsockopt(fd, options[i][0], options[i][1], &options[i][2], sizeof(options[i][2]));
}

static int init(struct vn_stream *stream, struct vn_reactor *reactor, const struct vn_stream_ops *ops, int fd,
                struct vn_tls_context *tls) {
    assert(vn_reactor_is_here(reactor));
    *stream = (struct vn_stream){
        .reactor = reactor, .ops = ops, .fd = fd, .poll_op.done = on_poll, .write_op.done = on_write, .timer.fn = on_timer};
    set_options(fd);
    return tls ? vn_tls_new(tls, fd, &stream->tls) : 0;
}

int vn_stream_accept(struct vn_stream *stream, struct vn_reactor *reactor, const struct vn_stream_ops *ops, int fd,
                     struct vn_tls_context *tls) {
    int err = init(stream, reactor, ops, fd, tls);
    if (err)
        return err;
    stream->state = tls ? VN_STREAM_HANDSHAKE : VN_STREAM_OPEN; /* the host begins it */
    stream->writable = !tls;
    arm_poll(stream);
    return 0;
}

int vn_stream_connect(struct vn_stream *stream, struct vn_reactor *reactor, const struct vn_stream_ops *ops,
                      const struct sockaddr_storage *address, struct vn_tls_context *tls) {
    int fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int err = init(stream, reactor, ops, fd, tls);
    if (err)
        goto out_close;
    if (connect(fd, (const struct sockaddr *)address, vn_address_bytes(address)) < 0 && errno != EINPROGRESS) {
        err = -errno;
        goto out_tls;
    }
    stream->state = VN_STREAM_CONNECTING;
    arm_write(stream);
    return 0;

out_tls:
    if (stream->tls)
        vn_tls_free(stream->tls);
    stream->tls = NULL;
out_close:
    close(fd);
    return err;
}

static size_t total(const struct iovec *iov, uint32_t nr_iov) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < nr_iov; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

static ssize_t plain_recv(struct vn_stream *stream, struct iovec *iov, uint32_t nr_iov) {
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = nr_iov};
    ssize_t n;
    do
        n = recvmsg(stream->fd, &message, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    /* Less than asked for: it is empty now, and what comes later is told. Unless its end has been told already. */
    if (n > 0 && (size_t)n < total(iov, nr_iov) && !stream->ended)
        stream->readable = false;
    return n < 0 ? -errno : n;
}

ssize_t vn_stream_recv(struct vn_stream *stream, struct iovec *iov, uint32_t nr_iov) {
    if (stream->state != VN_STREAM_OPEN)
        return -ENOTCONN;
    if (!stream->readable)
        return -EAGAIN;
    ssize_t n = stream->tls ? vn_tls_recv(stream->tls, iov, nr_iov) : plain_recv(stream, iov, nr_iov);
    if (n == -EAGAIN)
        stream->readable = false;
    return n;
}

static ssize_t plain_send(struct vn_stream *stream, struct iovec *iov, uint32_t nr_iov) {
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = nr_iov};
    ssize_t n;
    do
        n = sendmsg(stream->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t vn_stream_send(struct vn_stream *stream, struct iovec *iov, uint32_t nr_iov) {
    if (stream->state != VN_STREAM_OPEN)
        return -ENOTCONN;
    if (!stream->writable)
        return -EAGAIN;
    ssize_t n = stream->tls ? vn_tls_send(stream->tls, iov, nr_iov) : plain_send(stream, iov, nr_iov);
    if (n < 0 && n != -EAGAIN)
        return n;
    /* TLS takes more than the socket does, and holds it. */
    if (n < 0 || (size_t)n < total(iov, nr_iov) || (stream->tls && vn_tls_flush(stream->tls) == -EAGAIN))
        arm_write(stream);
    return n;
}

void vn_stream_shut(struct vn_stream *stream) {
    if (stream->tls && vn_tls_flush(stream->tls) == -EAGAIN)
        return; /* what TLS holds is more than the end that follows it */
    if (stream->state == VN_STREAM_OPEN)
        shutdown(stream->fd, SHUT_WR);
}

void vn_stream_close(struct vn_stream *stream) {
    if (stream->state == VN_STREAM_IDLE || stream->state == VN_STREAM_CLOSING)
        return;
    stream->state = VN_STREAM_CLOSING;
    shutdown(stream->fd, SHUT_RDWR); /* the peer shall not wait for our operations to end */
    if (stream->polling)
        vn_reactor_cancel(stream->reactor, &stream->poll_op);
    if (stream->poll_write)
        vn_reactor_cancel(stream->reactor, &stream->write_op);
    vn_timer_arm(stream->reactor, &stream->timer, 0);
}
