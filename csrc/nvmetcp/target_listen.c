/* The listening sockets of a target. Accepts until there is nothing more, a few at a time; without file
 * descriptors it waits a little. Called by api_fabric.c and by the reactor.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"
#include "nvmetcp/subsys.h"

#define BACKLOG 512
#define BURST 64 /* connections taken in one go: others have their turn */
#define RETRY_NS 50000000ull

static void watch(struct vn_tlistener *listener);

int vn_tlistener_open(const struct sockaddr_storage *address, int *out, struct sockaddr_storage *bound) {
    int on = 1, fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    socklen_t len = vn_address_bytes(address);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)); /* old connections may linger; a live listener is refused */
    if (address->ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)); /* each family has its own listener */
    if (bind(fd, (const struct sockaddr *)address, len) || listen(fd, BACKLOG))
        goto out_close;
    len = sizeof(*bound);
    if (getsockname(fd, (struct sockaddr *)bound, &len))
        goto out_close;
    *out = fd;
    return 0;

out_close:;
    int err = -errno;
    close(fd);
    return err;
}

static void retry_later(struct vn_tlistener *listener) {
    vn_timer_arm(listener->target->reactor, &listener->retry_timer, RETRY_NS);
}

static void on_retry(struct vn_timer *timer) {
    watch(vn_container_of(timer, struct vn_tlistener, retry_timer));
}

/* False: it cannot go on now. */
static bool accept_some(struct vn_tlistener *listener) {
    struct vn_target *target = listener->target;
    for (uint32_t i = 0; i < BURST; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof(peer);
        int fd = accept4(listener->fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            vn_tqueue_accept(target, fd, (uint8_t)(listener - target->listeners), &peer);
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            return true;
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            return false;
        /* else: that connection has gone again */
    }
    return true;
}

static void on_readable(struct vn_uring_op *op, int res, uint32_t flags) {
    struct vn_tlistener *listener = vn_container_of(op, struct vn_tlistener, op);
    (void)flags;
    listener->polling = false;
    if (listener->closing)
        return;
    if (res < 0 || !accept_some(listener))
        retry_later(listener);
    else
        watch(listener);
}

static void watch(struct vn_tlistener *listener) {
    if (listener->closing || listener->polling)
        return;
    struct io_uring_sqe *sqe = vn_reactor_sqe(listener->target->reactor, &listener->op);
    if (!sqe) {
        retry_later(listener);
        return;
    }
    io_uring_prep_poll_add(sqe, listener->fd, POLLIN);
    listener->polling = true;
}

int vn_tlistener_start(struct vn_target *target, int fd, uint32_t flags, const struct sockaddr_storage *bound) {
    for (uint32_t id = 1; id <= VN_MAX_LISTENERS; id++) {
        struct vn_tlistener *listener = &target->listeners[id];
        if (listener->target)
            continue;
        *listener = (struct vn_tlistener){
            .target = target,
            .fd = fd,
            .flags = flags,
            .address = *bound,
            .op.done = on_readable,
            .retry_timer.fn = on_retry,
        };
        watch(listener);
        vn_subsys_new_listener(target, id);
        vn_target_changed(target);
        return (int)id;
    }
    return -ENOSPC;
}

int vn_tlistener_stop(struct vn_target *target, uint32_t id) {
    struct vn_tlistener *listener = id && id <= VN_MAX_LISTENERS ? &target->listeners[id] : NULL;
    if (!listener || !listener->target)
        return -ENOENT;
    if (!listener->closing) {
        listener->closing = true;
        vn_timer_disarm(target->reactor, &listener->retry_timer);
        if (listener->polling)
            vn_reactor_cancel(target->reactor, &listener->op);
    }
    if (listener->polling)
        return -EAGAIN;
    close(listener->fd);
    *listener = (struct vn_tlistener){0};
    vn_target_changed(target);
    return 0;
}
