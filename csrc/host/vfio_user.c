/* The vfio-user client's conversation: connect, negotiate, one request and its reply at a time, deadlines everywhere.
 * Called by nvme_host.c and device.c. Whatever the server sends is checked before use; a reply that cannot be
 * right breaks the connection, never the process.
 */
#include "host/vfio_user.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "vhostnvme_host.h"

#define MAX_SERVER_COMMANDS 64 /* requests of the server that are refused while one reply is awaited */

static __thread char last_error[320];

const char *vn_host_error(void) {
    return last_error;
}

int vn_host_fail(int err, const char *format, ...) {
    va_list args;

    va_start(args, format);
    vsnprintf(last_error, sizeof(last_error), format, args);
    va_end(args);
    return -err;
}

uint64_t vn_host_now_ns(void) {
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

void vn_host_close_fds(int *fds, uint32_t nr) {
    for (uint32_t i = 0; i < nr; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

static int broken(struct vn_host_conn *conn, int err, const char *what) {
    conn->broken = err;
    return vn_host_fail(err, "the vfio-user connection broke: %s", what);
}

static int wait_fd(struct vn_host_conn *conn, short events, uint64_t deadline_ns) {
    for (;;) {
        uint64_t now = vn_host_now_ns();
        int left_ms = now >= deadline_ns ? 0 : (int)((deadline_ns - now) / 1000000) + 1;
        struct pollfd pfd = {.fd = conn->fd, .events = events};
        int n = poll(&pfd, 1, left_ms);

        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (vn_host_now_ns() >= deadline_ns)
            return -ETIMEDOUT;
    }
}

int vn_host_conn_open(struct vn_host_conn *conn, const char *path, uint32_t timeout_ms) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    uint64_t deadline = vn_host_now_ns() + timeout_ms * 1000000ull;
    struct ucred cred = {.pid = 0};
    socklen_t len = sizeof(cred);
    int err;

    *conn = (struct vn_host_conn){.fd = -1,
                                  .timeout_ms = timeout_ms,
                                  .next_id = 1,
                                  .max_fds = 1,
                                  .max_transfer_bytes = VN_VU_MAX_TRANSFER};
    if (strlen(path) >= sizeof(addr.sun_path))
        return vn_host_fail(ENAMETOOLONG, "the socket path is longer than %zu bytes: %s", sizeof(addr.sun_path) - 1, path);
    strcpy(addr.sun_path, path);
    conn->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (conn->fd < 0)
        return vn_host_fail(errno, "cannot make a socket: %s", strerror(errno));
    while (connect(conn->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        struct timespec pause = {.tv_nsec = 2000000};

        err = errno;
        if (err == EAGAIN && vn_host_now_ns() < deadline) { /* the backlog is full: the server serves another host */
            nanosleep(&pause, NULL);
            continue;
        }
        vn_host_conn_close(conn);
        if (err == EAGAIN)
            return vn_host_fail(ETIMEDOUT, "the server behind %s did not take the connection within %u ms; it may be serving "
                                "another host", path, timeout_ms);
        return vn_host_fail(err, "cannot connect to %s: %s", path, strerror(err));
    }
    if (getsockopt(conn->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0)
        conn->peer_pid = cred.pid;
    return 0;
}

void vn_host_conn_close(struct vn_host_conn *conn) {
    if (conn->fd >= 0)
        close(conn->fd);
    conn->fd = -1;
    conn->broken = ENOTCONN;
}

static int send_iov(struct vn_host_conn *conn, struct iovec *iov, size_t nr_iov, const int *fds, uint32_t nr_fds,
                    uint64_t deadline_ns) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * VN_VU_MAX_FDS)];
    } control;
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = nr_iov};

    if (nr_fds > VN_VU_MAX_FDS)
        return vn_host_fail(EINVAL, "%u descriptors do not fit into one message", nr_fds);
    if (nr_fds) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * nr_fds);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * nr_fds);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * nr_fds);
    }
    while (msg.msg_iovlen) {
        ssize_t n = sendmsg(conn->fd, &msg, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            int rc = wait_fd(conn, POLLOUT, deadline_ns);
            if (rc < 0)
                return broken(conn, -rc, "the server does not read what it is sent");
            continue;
        }
        if (n < 0)
            return broken(conn, errno == EPIPE || errno == ECONNRESET ? ENOTCONN : errno, "the server is gone");
        msg.msg_control = NULL;
        msg.msg_controllen = 0;
        while (msg.msg_iovlen && (size_t)n >= msg.msg_iov->iov_len) {
            n -= (ssize_t)msg.msg_iov->iov_len;
            msg.msg_iov++;
            msg.msg_iovlen--;
        }
        if (msg.msg_iovlen) {
            msg.msg_iov->iov_base = (char *)msg.msg_iov->iov_base + n;
            msg.msg_iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

int vn_host_conn_send_bytes(struct vn_host_conn *conn, const void *bytes, size_t len, const int *fds, uint32_t nr_fds,
                            uint64_t deadline_ns) {
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};

    if (conn->broken)
        return vn_host_fail(ENOTCONN, "the vfio-user connection is no longer usable");
    return send_iov(conn, &iov, 1, fds, nr_fds, deadline_ns);
}

/* Receives what is there, and any descriptors with it (closed when the caller has no room). received 0: end of stream. */
static int recv_msg(struct vn_host_conn *conn, void *bytes, size_t len, struct vn_host_reply *reply, uint64_t deadline_ns,
                    size_t *received) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * VN_VU_MAX_FDS)];
    } control;
    struct iovec iov = {.iov_base = bytes, .iov_len = len};
    struct msghdr msg;
    ssize_t n;

    for (;;) {
        msg = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                              .msg_controllen = sizeof(control.bytes)};
        n = recvmsg(conn->fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n >= 0)
            break;
        if (errno == EAGAIN) {
            int rc = wait_fd(conn, POLLIN, deadline_ns);
            if (rc < 0)
                return rc;
        } else if (errno == ECONNRESET) {
            n = 0;
            msg.msg_controllen = 0;
            break;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    for (struct cmsghdr *c = msg.msg_controllen ? CMSG_FIRSTHDR(&msg) : NULL; c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        uint32_t nr = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (uint32_t i = 0; i < nr; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (reply && reply->nr_fds < VN_VU_MAX_FDS)
                reply->fds[reply->nr_fds++] = fd;
            else
                close(fd);
        }
    }
    *received = (size_t)n;
    return 0;
}

int vn_host_conn_recv_some(struct vn_host_conn *conn, void *bytes, size_t len, uint64_t deadline_ns, size_t *received) {
    if (conn->fd < 0)
        return vn_host_fail(ENOTCONN, "the vfio-user connection is no longer usable");
    int rc = recv_msg(conn, bytes, len, NULL, deadline_ns, received);
    return rc < 0 ? vn_host_fail(-rc, "nothing could be received: %s", strerror(-rc)) : 0;
}

static int recv_all(struct vn_host_conn *conn, void *bytes, size_t len, struct vn_host_reply *reply, uint64_t deadline_ns) {
    size_t done = 0, n = 0;

    while (done < len) {
        int rc = recv_msg(conn, (char *)bytes + done, len - done, reply, deadline_ns, &n);

        if (rc == -ETIMEDOUT)
            return broken(conn, ETIMEDOUT, "the server did not answer in time");
        if (rc < 0)
            return broken(conn, -rc, strerror(-rc));
        if (n == 0)
            return broken(conn, ENOTCONN, "the server closed it");
        done += n;
    }
    return 0;
}

static int discard(struct vn_host_conn *conn, size_t len, uint64_t deadline_ns) {
    char sink[4096];

    while (len) {
        size_t part = len < sizeof(sink) ? len : sizeof(sink);
        int rc = recv_all(conn, sink, part, NULL, deadline_ns);
        if (rc < 0)
            return rc;
        len -= part;
    }
    return 0;
}

int vn_host_check_header(const struct vn_vu_header *header, uint16_t command, uint16_t id) {
    if (header->size < sizeof(*header) || header->size > VN_VU_MAX_MESSAGE)
        return -EPROTO;
    if ((header->flags & VN_VU_TYPE_MASK) != VN_VU_TYPE_REPLY || header->command != command || header->id != id)
        return -EPROTO;
    return 0;
}

static void start_header(struct vn_host_conn *conn, struct vn_vu_header *header, uint16_t command, uint32_t payload) {
    *header = (struct vn_vu_header){.id = conn->id_is_zero ? 0 : conn->next_id++,
                                    .command = command,
                                    .size = (uint32_t)sizeof(*header) + payload,
                                    .flags = VN_VU_TYPE_COMMAND};
}

/* The server may ask for DMA by message. This host's memory is shared, so that it is refused, not served. */
static int refuse_server_command(struct vn_host_conn *conn, const struct vn_vu_header *header, uint64_t deadline_ns) {
    struct vn_vu_header answer = *header;
    int rc;

    if (header->size < sizeof(*header) || header->size > VN_VU_MAX_MESSAGE)
        return broken(conn, EPROTO, "the server sent a command of an impossible size");
    rc = discard(conn, header->size - sizeof(*header), deadline_ns);
    if (rc < 0 || (header->flags & VN_VU_NO_REPLY))
        return rc;
    answer.size = sizeof(answer);
    answer.flags = VN_VU_TYPE_REPLY | VN_VU_ERROR;
    answer.error = EOPNOTSUPP;
    return vn_host_conn_send_bytes(conn, &answer, sizeof(answer), NULL, 0, deadline_ns);
}

static int recv_reply(struct vn_host_conn *conn, const struct vn_vu_header *request, struct vn_host_reply *reply,
                      uint64_t deadline_ns) {
    struct vn_vu_header header;
    uint32_t payload, keep;
    int rc;

    for (int i = 0;; i++) {
        rc = recv_all(conn, &header, sizeof(header), reply, deadline_ns);
        if (rc < 0)
            return rc;
        if ((header.flags & VN_VU_TYPE_MASK) != VN_VU_TYPE_COMMAND)
            break;
        if (i == MAX_SERVER_COMMANDS)
            return broken(conn, EPROTO, "the server sends commands in place of a reply");
        vn_host_close_fds(reply->fds, reply->nr_fds);
        reply->nr_fds = 0;
        rc = refuse_server_command(conn, &header, deadline_ns);
        if (rc < 0)
            return rc;
    }
    if (vn_host_check_header(&header, request->command, request->id) < 0)
        return broken(conn, EPROTO, "the server's reply does not match the command");
    payload = header.size - (uint32_t)sizeof(header);
    keep = payload < reply->size ? payload : reply->size;
    rc = keep ? recv_all(conn, reply->data, keep, reply, deadline_ns) : 0;
    if (rc == 0)
        rc = discard(conn, payload - keep, deadline_ns);
    if (rc < 0)
        return rc;
    reply->len = payload;
    if (header.flags & VN_VU_ERROR) {
        int err = header.error > 0 && header.error < 4096 ? (int)header.error : EIO;

        conn->server_refused = 1;
        return vn_host_fail(err, "the server refused vfio-user command %u: %s", request->command, strerror(err));
    }
    return 0;
}

int vn_host_conn_request(struct vn_host_conn *conn, uint16_t command, const struct vn_host_part parts[2], const int *fds,
                         uint32_t nr_fds, struct vn_host_reply *reply) {
    uint64_t deadline = vn_host_now_ns() + conn->timeout_ms * 1000000ull;
    struct vn_host_reply none = {.size = 0};
    struct vn_vu_header header;
    struct iovec iov[3] = {{.iov_base = &header, .iov_len = sizeof(header)}};
    int rc;

    conn->server_refused = 0;
    if (conn->broken)
        return vn_host_fail(ENOTCONN, "the vfio-user connection is no longer usable");
    if (!reply)
        reply = &none;
    reply->nr_fds = 0;
    reply->len = 0;
    start_header(conn, &header, command, parts[0].len + parts[1].len);
    for (int i = 0; i < 2; i++)
        iov[i + 1] = (struct iovec){.iov_base = (void *)(uintptr_t)parts[i].data, .iov_len = parts[i].len};
    rc = send_iov(conn, iov, 3, fds, nr_fds, deadline);
    if (rc == 0)
        rc = recv_reply(conn, &header, reply, deadline);
    if (rc < 0 || reply == &none) {
        vn_host_close_fds(reply->fds, reply->nr_fds);
        reply->nr_fds = 0;
    }
    return rc;
}

int vn_host_conn_post(struct vn_host_conn *conn, uint16_t command, const struct vn_host_part parts[2]) {
    uint64_t deadline = vn_host_now_ns() + conn->timeout_ms * 1000000ull;
    struct vn_vu_header header;
    struct iovec iov[3] = {{.iov_base = &header, .iov_len = sizeof(header)}};

    if (conn->broken)
        return vn_host_fail(ENOTCONN, "the vfio-user connection is no longer usable");
    start_header(conn, &header, command, parts[0].len + parts[1].len);
    header.flags |= VN_VU_NO_REPLY;
    for (int i = 0; i < 2; i++)
        iov[i + 1] = (struct iovec){.iov_base = (void *)(uintptr_t)parts[i].data, .iov_len = parts[i].len};
    return send_iov(conn, iov, 3, NULL, 0, deadline);
}

int vn_host_conn_check(struct vn_host_conn *conn) {
    struct pollfd pfd = {.fd = conn->fd, .events = POLLRDHUP};

    if (conn->broken)
        return -ENOTCONN;
    if (poll(&pfd, 1, 0) > 0 && (pfd.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL)))
        return broken(conn, ENOTCONN, "the server closed it");
    return 0;
}

int vn_host_conn_negotiate(struct vn_host_conn *conn, int bare) {
    static const char json[] = "{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576,"
                               "\"migration\":{\"pgsize\":4096},\"pgsizes\":4096,\"max_dma_maps\":65535}}";
    struct vn_vu_version version = {.major = 0, .minor = 1};
    char buf[4096];
    struct vn_host_reply reply = {.data = buf, .size = sizeof(buf)};
    const struct vn_host_part parts[2] = {{&version, sizeof(version)}, {json, bare ? 0 : sizeof(json)}};
    uint64_t value;
    int rc;

    rc = vn_host_conn_request(conn, VN_VU_VERSION, parts, NULL, 0, &reply);
    if (rc < 0)
        return rc;
    vn_host_close_fds(reply.fds, reply.nr_fds);
    if (reply.len < sizeof(version) || reply.len > sizeof(buf))
        return broken(conn, EPROTO, "the VERSION reply has an impossible size");
    memcpy(&version, buf, sizeof(version));
    if (version.major != 0 || version.minor > 1)
        return broken(conn, EPROTO, "the server speaks another version of vfio-user");
    conn->minor = version.minor;
    if (vn_host_json_uint(buf + sizeof(version), reply.len - sizeof(version), "max_msg_fds", &value) == 0)
        conn->max_fds = value > VN_VU_SEND_FDS ? VN_VU_SEND_FDS : value ? (uint32_t)value : 1;
    if (vn_host_json_uint(buf + sizeof(version), reply.len - sizeof(version), "max_data_xfer_size", &value) == 0 && value)
        conn->max_transfer_bytes = value > VN_VU_MAX_TRANSFER ? VN_VU_MAX_TRANSFER : (uint32_t)value;
    return 0;
}

int vn_host_json_uint(const char *json, size_t len, const char *key, uint64_t *value) {
    size_t key_len = strlen(key);

    for (size_t i = 0; i + key_len + 2 <= len; i++) {
        if (json[i] != '"' || memcmp(json + i + 1, key, key_len) != 0 || json[i + 1 + key_len] != '"')
            continue;
        size_t p = i + key_len + 2;
        uint64_t v = 0;
        int digits = 0;

        while (p < len && (json[p] == ' ' || json[p] == '\t' || json[p] == '\n' || json[p] == '\r'))
            p++;
        if (p == len || json[p++] != ':')
            continue;
        while (p < len && (json[p] == ' ' || json[p] == '\t' || json[p] == '\n' || json[p] == '\r'))
            p++;
        for (; p < len && json[p] >= '0' && json[p] <= '9'; p++, digits++) {
            if (digits >= 18)
                return -EINVAL;
            v = v * 10 + (uint64_t)(json[p] - '0');
        }
        if (!digits)
            return -EINVAL;
        *value = v;
        return 0;
    }
    return -ENOENT;
}

int vn_host_parse_sparse(const void *info, size_t len, uint32_t *nr_areas, struct vn_vu_area *first) {
    struct vn_vu_region_info head;
    struct vn_vu_sparse sparse;
    size_t at;

    *nr_areas = 0;
    if (len < sizeof(head))
        return -EPROTO;
    memcpy(&head, info, sizeof(head));
    if (!(head.flags & VN_VU_REGION_CAPS) || head.cap_offset == 0)
        return 0;
    at = head.cap_offset;
    for (int hops = 0; at && hops < 16; hops++) {
        struct vn_vu_cap cap;

        if (at < sizeof(head) || at > len || len - at < sizeof(cap))
            return -EPROTO;
        memcpy(&cap, (const char *)info + at, sizeof(cap));
        if (cap.id != VN_VU_CAP_SPARSE_MMAP) {
            at = cap.next;
            continue;
        }
        if (len - at < sizeof(sparse))
            return -EPROTO;
        memcpy(&sparse, (const char *)info + at, sizeof(sparse));
        if (sparse.nr_areas > (len - at - sizeof(sparse)) / sizeof(*first))
            return -EPROTO;
        if (sparse.nr_areas)
            memcpy(first, (const char *)info + at + sizeof(sparse), sizeof(*first));
        *nr_areas = sparse.nr_areas;
        return 0;
    }
    return at ? -EPROTO : 0;
}
