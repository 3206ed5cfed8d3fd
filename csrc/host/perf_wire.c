/* What a load over NVMe/TCP cannot beat: two threads that send each other as many bytes as a command and its answer
 * have, over one TCP connection on the loopback, each on a core of its own, and do nothing else. Called by Python
 * through vn_wire_run().
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "host/perf_hist.h"
#include "host/vfio_user.h"
#include "vhostnvme_host.h"

#define BUFFER_BYTES (256u << 10) /* of one call: what fits into a cache */
#define MAX_DEPTH 4096u
#define MAX_MESSAGE_BYTES (16u << 20)
#define SLEEP_AFTER_NS 100000ull /* without a byte: as our servers do */
#define SLEEP_MS 50
#define LATE_NS 5000000000ull /* on a machine that is too busy for us: longer than asked for, until there is an answer */

struct end { /* of the connection */
    int fd;
    uint8_t *buffer;
    uint32_t in_bytes, out_bytes; /* of a message that comes, and of one that goes */
    uint64_t received, to_send;   /* bytes: of messages not whole yet; that are to go */
    uint64_t cpu_ns;
    const atomic_bool *stop;
    int err;
};

static uint64_t cpu_ns(void) {
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* Moves what can be moved. nr: whole messages that have come. True: something was moved; err on failure. */
static bool turn(struct end *end, uint64_t *nr) {
    ssize_t got = recv(end->fd, end->buffer, BUFFER_BYTES, MSG_DONTWAIT);
    bool moved = got > 0;

    *nr = 0;
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        end->err = got ? errno : ECONNRESET;
    if (got > 0) {
        end->received += (uint64_t)got;
        *nr = end->received / end->in_bytes;
        end->received %= end->in_bytes;
    }
    return moved;
}

static bool push(struct end *end) {
    bool moved = false;

    while (end->to_send) {
        size_t some = end->to_send < BUFFER_BYTES ? end->to_send : BUFFER_BYTES;
        ssize_t put = send(end->fd, end->buffer, some, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (put < 0) {
            if (errno != EAGAIN && errno != EINTR)
                end->err = errno;
            break;
        }
        end->to_send -= (uint64_t)put;
        moved = true;
    }
    return moved;
}

static void rest(const struct end *end, bool moved, uint64_t now, uint64_t *moved_ns) {
    struct pollfd pfd = {.fd = end->fd, .events = (short)(POLLIN | (end->to_send ? POLLOUT : 0))};

    if (moved)
        *moved_ns = now;
    else if (now - *moved_ns > SLEEP_AFTER_NS)
        poll(&pfd, 1, SLEEP_MS);
}

static void *answer(void *arg) {
    struct end *end = arg;
    uint64_t moved_ns = vn_host_now_ns();

    while (!end->err && !atomic_load_explicit(end->stop, memory_order_relaxed)) {
        uint64_t nr;
        bool moved = turn(end, &nr);

        end->to_send += nr * end->out_bytes;
        moved |= push(end);
        rest(end, moved, vn_host_now_ns(), &moved_ns);
    }
    end->cpu_ns = cpu_ns();
    return NULL;
}

/* Keeps depth requests on their way; counts those that are answered between begin and finish. */
static void ask(struct end *end, const struct vn_wire_opts *opts, struct vn_perf_hist *hist, struct vn_wire_result *result) {
    static _Thread_local uint64_t started[MAX_DEPTH];
    uint64_t sent = 0, done = 0, cpu = 0, now = vn_host_now_ns();
    uint64_t begin = now + opts->ramp_ms * 1000000, finish = begin + opts->time_ms * 1000000;
    uint64_t moved_ns = now;

    while (!end->err && (now < finish || (!hist->nr && now < finish + LATE_NS))) {
        uint64_t nr;
        bool moved = turn(end, &nr);

        now = vn_host_now_ns();
        if (!cpu && now >= begin)
            cpu = cpu_ns();
        for (uint64_t i = 0; i < nr; i++, done++) {
            if (started[done % opts->depth] >= begin)
                vn_perf_hist_add(hist, now - started[done % opts->depth]);
        }
        for (; sent - done < opts->depth; sent++) {
            started[sent % opts->depth] = now;
            end->to_send += end->out_bytes;
        }
        moved |= push(end);
        rest(end, moved, now, &moved_ns);
    }
    result->elapsed_ns = now > begin ? now - begin : 0;
    result->cpu_ns = cpu ? cpu_ns() - cpu : 0;
}

/* Two ends of a connection on the loopback. */
static int connect_pair(int fds[2]) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fds[1] = -1;
    if (listener >= 0 && fds[0] >= 0 && bind(listener, (struct sockaddr *)&address, len) == 0 && listen(listener, 1) == 0 &&
        getsockname(listener, (struct sockaddr *)&address, &len) == 0 &&
        connect(fds[0], (struct sockaddr *)&address, len) == 0)
        fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    int err = fds[1] < 0 ? errno : 0;
    if (listener >= 0)
        close(listener);
    for (int i = 0; i < 2 && !err; i++)
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return err ? vn_host_fail(err, "cannot make a connection on the loopback: %s", strerror(err)) : 0;
}

static int check(const struct vn_wire_opts *opts) {
    if (opts->depth < 1 || opts->depth > MAX_DEPTH)
        return vn_host_fail(EINVAL, "the depth must be 1 to %u, not %u", MAX_DEPTH, opts->depth);
    if (!opts->request_bytes || !opts->reply_bytes || opts->request_bytes > MAX_MESSAGE_BYTES ||
        opts->reply_bytes > MAX_MESSAGE_BYTES)
        return vn_host_fail(EINVAL, "a message has 1 to %u bytes", MAX_MESSAGE_BYTES);
    return opts->time_ms ? 0 : vn_host_fail(EINVAL, "it needs a time to end at");
}

/* Each end has a core of its own, if there are two: as one process they would be kept together. before: what to go
 * back to. */
static void part(pthread_t thread, cpu_set_t *before) {
    cpu_set_t first, last;
    int nr = 0;

    CPU_ZERO(before);
    CPU_ZERO(&first);
    CPU_ZERO(&last);
    if (pthread_getaffinity_np(pthread_self(), sizeof(*before), before) || CPU_COUNT(before) < 2)
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE && nr < 2; cpu++) {
        if (CPU_ISSET(cpu, before))
            CPU_SET(cpu, nr++ ? &last : &first);
    }
    pthread_setaffinity_np(pthread_self(), sizeof(first), &first);
    pthread_setaffinity_np(thread, sizeof(last), &last);
}

static int exchange(const struct vn_wire_opts *opts, struct end ends[2], atomic_bool *stop, struct vn_wire_result *result) {
    struct vn_perf_hist *hist = malloc(sizeof(*hist));
    pthread_t thread;
    int err = hist ? pthread_create(&thread, NULL, answer, &ends[1]) : ENOMEM;

    if (!err) {
        cpu_set_t before;

        part(thread, &before);
        vn_perf_hist_reset(hist);
        ask(&ends[0], opts, hist, result);
        atomic_store(stop, true);
        pthread_join(thread, NULL);
        if (CPU_COUNT(&before))
            pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
        vn_perf_hist_summarize(hist, 1.0, &result->latency);
        result->nr = hist->nr;
        result->peer_cpu_ns = ends[1].cpu_ns;
        err = ends[0].err;
    }
    free(hist);
    return err ? vn_host_fail(err, "the exchange on the loopback failed: %s", strerror(err)) : 0;
}

int vn_wire_run(const struct vn_wire_opts *opts, struct vn_wire_result *result) {
    struct end ends[2];
    atomic_bool stop = false;
    int fds[2] = {-1, -1}, rc = check(opts);

    memset(result, 0, sizeof(*result));
    if (rc < 0)
        return rc;
    rc = connect_pair(fds);
    for (int i = 0; i < 2; i++) {
        ends[i] = (struct end){.fd = fds[i], .buffer = calloc(1, BUFFER_BYTES), .stop = &stop};
        ends[i].out_bytes = i ? opts->reply_bytes : opts->request_bytes;
        ends[i].in_bytes = i ? opts->request_bytes : opts->reply_bytes;
        if (!ends[i].buffer && rc == 0)
            rc = vn_host_fail(ENOMEM, "no memory for a buffer");
    }
    if (rc == 0)
        rc = exchange(opts, ends, &stop, result);
    for (int i = 0; i < 2; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        free(ends[i].buffer);
    }
    return rc;
}
