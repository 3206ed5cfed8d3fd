/* The wire client against servers that break the rules: each script plays the other end of a socket in a thread.
 * What is asked of the host: a clean error in bounded time, no descriptor leaked, nothing read out of bounds.
 */
#undef NDEBUG
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "host/vfio_user.h"
#include "vhostnvme_host.h"

enum script {
    CLOSE_AT_ONCE,
    SILENT,
    GARBAGE,
    SHORT_HEADER,
    HUGE_SIZE,
    WRONG_ID,
    WRONG_COMMAND,
    WRONG_MAJOR,
    COMMAND_FLOOD,
    EMPTY_VERSION,
    MANY_FDS,
    CUT_PAYLOAD,
    REFUSE,
    NR_SCRIPTS
};

static char path[108];

static void send_bytes(int fd, const void *data, size_t len) {
    (void)!send(fd, data, len, MSG_NOSIGNAL);
}

static void send_reply(int fd, struct vn_vu_header h, const void *payload, uint32_t len) {
    h.flags = VN_VU_TYPE_REPLY;
    h.size = (uint32_t)sizeof(h) + len;
    send_bytes(fd, &h, sizeof(h));
    send_bytes(fd, payload, len);
}

static void send_with_fds(int fd, struct vn_vu_header h, int nr) {
    char control[CMSG_SPACE(sizeof(int) * 64)] = {0};
    struct vn_vu_version version = {0, 1};
    struct iovec iov[2] = {{&h, sizeof(h)}, {&version, sizeof(version)}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = control,
                         .msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nr)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nr);
    for (int i = 0; i < nr; i++)
        memcpy(CMSG_DATA(c) + (size_t)i * sizeof(int), &fd, sizeof(int));
    h.flags = VN_VU_TYPE_REPLY;
    h.size = sizeof(h) + sizeof(version);
    (void)!sendmsg(fd, &msg, MSG_NOSIGNAL);
}

static void play(int fd, enum script script) {
    static const char noise[4096] = "\xff\xfe\xfd this is not vfio-user";
    struct vn_vu_version version = {.major = 0, .minor = 1};
    struct vn_vu_header h = {0};
    char sink[4096];

    if (script == CLOSE_AT_ONCE)
        return;
    if (recv(fd, &h, sizeof(h), MSG_WAITALL) != sizeof(h))
        return;
    (void)!recv(fd, sink, sizeof(sink), 0);
    switch (script) {
    case GARBAGE:
        send_bytes(fd, noise, sizeof(noise));
        break;
    case SHORT_HEADER:
        send_bytes(fd, &h, 7);
        return;
    case HUGE_SIZE:
        h.flags = VN_VU_TYPE_REPLY;
        h.size = 0x7fffffff;
        send_bytes(fd, &h, sizeof(h));
        break;
    case WRONG_ID:
        h.id ^= 0x55;
        send_reply(fd, h, &version, sizeof(version));
        break;
    case WRONG_COMMAND:
        h.command = VN_VU_RESET;
        send_reply(fd, h, &version, sizeof(version));
        break;
    case WRONG_MAJOR:
        version.major = 7;
        send_reply(fd, h, &version, sizeof(version));
        break;
    case COMMAND_FLOOD:
        for (int i = 0; i < 200; i++) {
            struct vn_vu_header ask = {.command = VN_VU_DMA_READ, .size = sizeof(ask)};
            send_bytes(fd, &ask, sizeof(ask));
        }
        break;
    case EMPTY_VERSION:
        send_reply(fd, h, NULL, 0);
        break;
    case MANY_FDS:
        send_with_fds(fd, h, 40);
        return;
    case CUT_PAYLOAD:
        h.flags = VN_VU_TYPE_REPLY;
        h.size = sizeof(h) + 100;
        send_bytes(fd, &h, sizeof(h));
        send_bytes(fd, noise, 20);
        return;
    case REFUSE:
        h.flags = VN_VU_TYPE_REPLY | VN_VU_ERROR;
        h.size = sizeof(h);
        h.error = EPERM;
        send_bytes(fd, &h, sizeof(h));
        break;
    default:
        break;
    }
    while (recv(fd, sink, sizeof(sink), 0) > 0) { /* until the host gives up */
    }
}

struct server {
    int fd;
    enum script script;
};

static void *serve(void *arg) {
    struct server *server = arg;
    int fd = accept(server->fd, NULL, NULL);

    assert(fd >= 0);
    play(fd, server->script);
    close(fd);
    return NULL;
}

static int nr_open_fds(void) {
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    assert(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static int listen_at(void) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert(fd >= 0);
    strcpy(addr.sun_path, path);
    unlink(path);
    assert(bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 4) == 0);
    return fd;
}

static int open_against(enum script script) {
    struct vn_host_opts opts = {.timeout_ms = 200};
    struct server server = {.fd = listen_at(), .script = script};
    vn_host *host = NULL;
    pthread_t thread;
    uint64_t started = vn_host_now_ns();
    int rc;

    assert(pthread_create(&thread, NULL, serve, &server) == 0);
    rc = vn_host_open(path, &opts, &host);
    assert(host == NULL && rc < 0);
    assert(strlen(vn_host_error()) > 0);
    assert(vn_host_now_ns() - started < 5000000000ull);
    pthread_join(thread, NULL);
    close(server.fd);
    return rc;
}

int main(void) {
    static const int expected[NR_SCRIPTS] = {
        [CLOSE_AT_ONCE] = -ENOTCONN, [SILENT] = -ETIMEDOUT, [GARBAGE] = -EPROTO, [SHORT_HEADER] = -ENOTCONN,
        [HUGE_SIZE] = -EPROTO,       [WRONG_ID] = -EPROTO,  [WRONG_COMMAND] = -EPROTO, [WRONG_MAJOR] = -EPROTO,
        [COMMAND_FLOOD] = -EPROTO,   [EMPTY_VERSION] = -EPROTO, [MANY_FDS] = -ENOTCONN, [CUT_PAYLOAD] = -ENOTCONN,
        [REFUSE] = -EPERM,
    };
    char folder[] = "/tmp/test_host_wire.XXXXXX", too_long[300];
    vn_host *host;
    int before;

    assert(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/cntrl", folder);
    open_against(CLOSE_AT_ONCE); /* the first thread and socket may open what stays open */
    before = nr_open_fds();
    for (int script = 0; script < NR_SCRIPTS; script++) {
        int rc = open_against((enum script)script);

        if (rc != expected[script])
            fprintf(stderr, "script %d: %d, not %d: %s\n", script, rc, expected[script], vn_host_error());
        assert(rc == expected[script]);
        assert(nr_open_fds() == before);
    }
    unlink(path);
    assert(vn_host_open(path, NULL, &host) == -ENOENT);
    memset(too_long, 'x', sizeof(too_long));
    too_long[sizeof(too_long) - 1] = 0;
    assert(vn_host_open(too_long, NULL, &host) == -ENAMETOOLONG);
    rmdir(folder);
    puts("ok");
    return 0;
}
