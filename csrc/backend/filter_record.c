/* The record filter: a log of every change, flush and completion, in the order in which they happen, with the data.
 * vhostnvme/testing/replay.py reads it and works out what a power failure could leave. A test tool: it blocks its
 * reactor on the log file, and logs what the guest's buffer holds at submission, so a guest that changes a buffer
 * under a running write is not recorded faithfully. Put into the stack by vn_backend_open.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"
#include "core/status.h"
#include "core/util.h"
#include "include/vhostnvme.h"

#define RECORD_MAGIC 0x43455256u /* "VREC" */
#define IOVECS_MAX 1024

/* The words of req->filter that are ours; words 0-7 belong to other filters. */
enum { WORD_ID = 8 };

enum record_kind {
    RECORD_SUBMIT = 1, /* handed to the backend; a WRITE's data follows */
    RECORD_COMPLETE,   /* the backend is done; written before the guest is told */
    RECORD_RETRACT,    /* the backend was busy and has not taken it; it comes again under another id */
};

/* The file: a head, then records, little-endian, without gaps. */
struct record_head {
    char magic[8]; /* "VNRECORD" */
    uint32_t version;
    uint32_t block_min; /* bytes that are never torn */
    uint64_t size;      /* bytes of the namespace */
};
_Static_assert(sizeof(struct record_head) == 24, "read by replay.py");

struct record {
    uint32_t magic;
    uint8_t kind; /* enum record_kind */
    uint8_t op;   /* enum vn_op */
    uint16_t status;
    uint64_t id; /* of the request; completions name it */
    uint64_t offset;
    uint64_t length;
    uint32_t io_flags;
    uint32_t nr_data; /* bytes that follow */
};
_Static_assert(sizeof(struct record) == 40, "read by replay.py");

struct record_filter {
    struct vn_backend backend;
    int fd;
    uint64_t next_id; /* shared by all channels */
    int broken;       /* errno: the log has a gap, and nothing may be acknowledged that it does not hold */
};

struct record_chan {
    struct vn_chan chan;
    struct vn_chan *next;
};

static int append(struct record_filter *filter, const struct iovec *iov, int nr_iov, size_t bytes) {
    ssize_t written;
    do {
        written = writev(filter->fd, iov, nr_iov); /* O_APPEND: whole, whatever other channels write */
    } while (written < 0 && errno == EINTR);
    if (written == (ssize_t)bytes)
        return 0;
    int err = written < 0 ? errno : ENOSPC;
    __atomic_store_n(&filter->broken, err, __ATOMIC_RELAXED);
    return err;
}

/* Answers 0 or a positive errno. */
static int log_record(struct record_filter *filter, enum record_kind kind, const struct vn_req *req) {
    struct iovec iov[IOVECS_MAX];
    bool data = kind == RECORD_SUBMIT && req->op == VN_OP_WRITE;
    struct record record = {
        .magic = RECORD_MAGIC,
        .kind = (uint8_t)kind,
        .op = (uint8_t)req->op,
        .status = kind == RECORD_COMPLETE ? req->status : 0,
        .id = req->filter[WORD_ID],
        .offset = req->offset,
        .length = req->length,
        .io_flags = req->io_flags,
        .nr_data = data ? (uint32_t)req->length : 0,
    };
    int broken = __atomic_load_n(&filter->broken, __ATOMIC_RELAXED);
    if (broken)
        return broken;
    if (data && (req->nr_iov >= IOVECS_MAX || req->length > UINT32_MAX))
        return E2BIG;
    iov[0] = (struct iovec){.iov_base = &record, .iov_len = sizeof(record)};
    if (data)
        memcpy(&iov[1], req->iov, req->nr_iov * sizeof(iov[0]));
    return append(filter, iov, data ? 1 + (int)req->nr_iov : 1, sizeof(record) + record.nr_data);
}

static void on_done(struct vn_req *req, void *ctx) {
    struct record_filter *filter = ctx;
    int err = log_record(filter, RECORD_COMPLETE, req);
    vn_req_complete(req, err ? vn_status_from_errno(err, true) : req->status);
}

static enum vn_submit record_submit(struct vn_chan *chan, struct vn_req *req) {
    struct record_filter *filter = (struct record_filter *)chan->backend;
    struct vn_chan *next = ((struct record_chan *)chan)->next;
    if (req->op == VN_OP_READ || req->op == VN_OP_COMPARE)
        return vn_chan_submit(next, req);
    req->filter[WORD_ID] = __atomic_fetch_add(&filter->next_id, 1, __ATOMIC_RELAXED);
    int err = log_record(filter, RECORD_SUBMIT, req);
    if (err) {
        vn_req_complete(req, vn_status_from_errno(err, true));
        return VN_TAKEN;
    }
    vn_req_push(req, on_done, filter);
    enum vn_submit answer = vn_chan_submit(next, req);
    if (answer == VN_BUSY) {
        vn_req_pop(req);
        log_record(filter, RECORD_RETRACT, req);
    }
    return answer;
}

static void record_cancel(struct vn_chan *chan, struct vn_req *req) {
    vn_chan_cancel(((struct record_chan *)chan)->next, req);
}

static int record_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    struct record_chan *rc = calloc(1, sizeof(*rc));
    if (!rc)
        return -ENOMEM;
    int err = vn_chan_open(backend->next, reactor, &rc->next);
    if (err) {
        free(rc);
        return err;
    }
    rc->chan = (struct vn_chan){.backend = backend, .reactor = reactor};
    *out = &rc->chan;
    return 0;
}

static void record_chan_close(struct vn_chan *chan) {
    struct record_chan *rc = (struct record_chan *)chan;
    vn_chan_close(rc->next);
    free(rc);
}

static void record_close(struct vn_backend *backend) {
    struct record_filter *filter = (struct record_filter *)backend;
    close(filter->fd);
    free(filter);
}

/* The head of the log says how large it is. */
static int record_resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size) {
    (void)backend;
    (void)size;
    return vn_backend_fail(error, error_size, ENOTSUP, "a namespace that is recorded keeps its size");
}

static const struct vn_backend_ops record_ops = {
    .name = "record",
    .close = record_close,
    .resize = record_resize,
    .chan_open = record_chan_open,
    .chan_close = record_chan_close,
    .submit = record_submit,
    .cancel = record_cancel,
};

int vn_filter_record_open(const struct vn_ns_opts *opts, struct vn_backend *next, struct vn_backend **out,
                          char *error, uint32_t error_size) {
    struct record_filter *filter = calloc(1, sizeof(*filter));
    if (!filter)
        return vn_backend_fail(error, error_size, ENOMEM, "cannot record to %s: out of memory", opts->record_path);
    filter->backend = vn_backend_above(next, &record_ops);
    struct record_head head = {.version = 1, .block_min = next->block_min, .size = next->size};
    memcpy(head.magic, "VNRECORD", sizeof(head.magic));
    struct iovec iov = {.iov_base = &head, .iov_len = sizeof(head)};
    int err;
    filter->fd = open(opts->record_path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
    if (filter->fd < 0) {
        err = errno;
        goto out_free;
    }
    err = append(filter, &iov, 1, sizeof(head));
    if (err)
        goto out_close;
    *out = &filter->backend;
    return 0;

out_close:
    close(filter->fd);
    unlink(opts->record_path);
out_free:
    free(filter);
    return vn_backend_fail(error, error_size, err, "cannot record to %s: %s%s", opts->record_path, strerror(err),
                           err == EEXIST ? "; each run needs a new file, remove it or name another" : "");
}
