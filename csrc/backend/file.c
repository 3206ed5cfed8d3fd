/* The file backend's I/O: regular files and block devices through the reactor's io_uring, never blocking it.
 * Everything about a request in flight lives in req->engine. Opened by file_open.c, called through vn_chan_submit.
 */
#include "backend/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/direct.h"
#include "backend/medium.h"
#include "core/status.h"
#include "core/util.h"

#define RETRIES_MAX 16          /* of EINTR and EAGAIN without progress between them */
#define TRANSFER_MAX (1u << 30) /* bytes of one system call; the kernel ends at 2 GiB */
#define NR_BOUNCE 64u
#define BOUNCE_AREA (NR_BOUNCE * (size_t)(VN_DIRECT_BUFFER + VN_DIRECT_IOVECS * sizeof(struct iovec)))
#define DIRTY_MAX (16u << 20) /* bytes written into the page cache before write-back is set off */

struct file_list {
    struct file_io *head, *tail;
};

/* One request's progress. Owner: reactor. */
struct file_io {
    struct vn_uring_op op; /* first: its address is that of req->engine */
    struct file_chan *chan;
    struct file_io *next;   /* in one of the channel's lists */
    uint64_t done;          /* bytes */
    uint64_t iov_done;      /* bytes of the iovec that comes next */
    uint32_t iov_index;     /* of the iovec that comes next */
    uint8_t *bounce;        /* aligned buffer, or NULL */
    enum vn_file_phase phase;
    uint8_t retries;
    bool needs_bounce, bounces_all; /* some of its memory is misaligned; or none of it may be used */
    bool zeros;     /* DATA writes zeros because the file system cannot clear ranges */
    bool in_flight; /* op is in io_uring */
    struct vn_medium_slot *slot; /* when it came */
};
_Static_assert(sizeof(struct file_io) <= sizeof(((struct vn_req *)0)->engine), "fits in the request");

struct file_chan {
    struct vn_chan chan;
    struct vn_file *file;
    int fd;                    /* a file description of its own: see file_chan_open */
    struct vn_poller poller;   /* offers what waits again, once a turn */
    struct file_list waiting;  /* for a submission slot or a bounce buffer */
    struct file_list to_sync;  /* for the next fdatasync */
    struct file_list syncing;  /* covered by the one in flight */
    struct vn_uring_op sync_op;
    bool sync_in_flight;
    bool cannot_zero, cannot_punch; /* the file system has said so */
    struct vn_medium_chan counts;
    uint64_t dirty;            /* bytes, about: in the page cache since write-back was last set off */
    uint8_t *bounce;           /* NR_BOUNCE buffers, touched when used */
    struct iovec *bounce_iov;  /* for each of them */
    uint8_t *free[NR_BOUNCE];
    uint32_t nr_free;
};

static struct vn_req *req_of(struct file_io *io) {
    return vn_container_of((uint64_t *)(void *)io, struct vn_req, engine);
}

static struct file_io *io_of(struct vn_req *req) {
    return (struct file_io *)(void *)req->engine;
}

static void list_add(struct file_list *list, struct file_io *io) {
    io->next = NULL;
    if (list->head)
        list->tail->next = io;
    else
        list->head = io;
    list->tail = io;
}

static struct file_io *list_take(struct file_list *list) {
    struct file_io *io = list->head;
    if (io)
        list->head = io->next;
    return io;
}

static void bounce_put(struct file_io *io) {
    if (io->bounce)
        io->chan->free[io->chan->nr_free++] = io->bounce;
    io->bounce = NULL;
}

static void finish(struct file_io *io, vn_status status) {
    bounce_put(io);
    vn_medium_end(&io->chan->counts, io->slot, status);
    vn_req_complete(req_of(io), status);
}

static int checked(const struct file_io *io, int res) {
    const struct vn_file *file = io->chan->file;
    return file->fault ? file->fault(io->phase, req_of((struct file_io *)io), res) : res;
}

static void show(const struct vn_file *file, enum vn_file_phase phase, const struct io_uring_sqe *sqe) {
    if (file->seen)
        file->seen(phase, sqe);
}

/* --- Durability --- */

static void on_synced(struct vn_uring_op *op, int res, uint32_t cqe_flags);

/* A file in memory: io_uring would hand each operation to a thread of the kernel, which costs several times what the
 * copying does. So it is done here and now, as the memory backend does it; bounded by what one command may
 * transfer (MDTS). */
static int do_now(const struct io_uring_sqe *sqe) {
    struct iovec one = {.iov_base = (void *)(uintptr_t)sqe->addr, .iov_len = sqe->len};
    bool is_vector = sqe->opcode == IORING_OP_READV || sqe->opcode == IORING_OP_WRITEV;
    const struct iovec *iov = is_vector ? (const struct iovec *)(uintptr_t)sqe->addr : &one;
    int nr = is_vector ? (int)sqe->len : 1;
    ssize_t res = -1;
    switch (sqe->opcode) {
    case IORING_OP_READ:
    case IORING_OP_READV:
        res = preadv2(sqe->fd, iov, nr, (off_t)sqe->off, sqe->rw_flags);
        break;
    case IORING_OP_WRITE:
    case IORING_OP_WRITEV:
        res = pwritev2(sqe->fd, iov, nr, (off_t)sqe->off, sqe->rw_flags);
        break;
    case IORING_OP_FSYNC:
        res = fdatasync(sqe->fd);
        break;
    default:
        errno = EINVAL;
        break;
    }
    return res < 0 ? -errno : (int)res;
}

/* One fdatasync at a time, for all that wait. Not two, because Linux tells a failed write-back only once per file
 * description: the second would succeed. And a flush may not join one that started before it: the writes that it
 * covers may have completed since. */
static void sync_start(struct file_chan *fc) {
    if (fc->sync_in_flight || !fc->to_sync.head)
        return;
    struct io_uring_sqe now, *sqe = fc->file->in_memory ? &now : vn_reactor_sqe(fc->chan.reactor, &fc->sync_op);
    if (!sqe)
        return; /* the poller tries again */
    io_uring_prep_fsync(sqe, fc->fd, IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data(sqe, &fc->sync_op);
    show(fc->file, VN_FILE_SYNC, sqe);
    fc->syncing = fc->to_sync;
    fc->to_sync = (struct file_list){0};
    fc->sync_in_flight = true;
    fc->dirty = 0;
    if (sqe == &now)
        on_synced(&fc->sync_op, do_now(sqe), 0);
}

static void sync_add(struct file_io *io) {
    io->phase = VN_FILE_SYNC;
    bounce_put(io);
    list_add(&io->chan->to_sync, io);
    sync_start(io->chan);
}

/* A failure latches, whatever it is: what the kernel did not write it may have thrown away, and the next fdatasync
 * would not say so (promise: a failed fsync is never retried into success). */
static void on_synced(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    struct file_chan *fc = vn_container_of(op, struct file_chan, sync_op);
    struct vn_backend *backend = &fc->file->backend;
    (void)cqe_flags;
    res = checked(fc->syncing.head, res);
    if (res < 0)
        vn_backend_latch(backend, -res);
    int latched = vn_backend_latched(backend); /* also by another channel since we asked */
    vn_status status = vn_status_dnr(vn_status_from_errno(latched, true));
    struct file_list covered = fc->syncing;
    fc->syncing = (struct file_list){0};
    /* still marked as in flight, so that what is submitted from within the completions shares the next one */
    for (struct file_io *io; (io = list_take(&covered));)
        finish(io, status);
    fc->sync_in_flight = false;
    sync_start(fc);
}

/* --- Reads, writes, compares --- */

/* Steps over bytes that have been transferred. The iovecs themselves stay as they are: they are the caller's. */
static void advance(struct file_io *io, uint64_t bytes) {
    const struct vn_req *req = req_of(io);
    io->done += bytes;
    if (io->zeros)
        return;
    io->iov_done += bytes;
    while (io->iov_index < req->nr_iov && io->iov_done >= req->iov[io->iov_index].iov_len)
        io->iov_done -= req->iov[io->iov_index++].iov_len;
}

static struct vn_direct_rule rule_of(const struct file_io *io) {
    const struct vn_file *file = io->chan->file;
    return (struct vn_direct_rule){file->mem_align, file->length_align, io->bounces_all};
}

static struct vn_direct_rest rest_of(const struct file_io *io) {
    const struct vn_req *req = req_of((struct file_io *)io);
    return (struct vn_direct_rest){&req->iov[io->iov_index], io->iov_done, req->length - io->done};
}

/* What has come into the buffer goes where it belongs; false: a compare has found a difference. */
static bool take_bounced(const struct file_io *io, uint32_t bytes) {
    const struct vn_req *req = req_of((struct file_io *)io);
    struct vn_direct_rule rule = rule_of(io);
    return req->cancelled || req->op == VN_OP_WRITE || vn_direct_take(&rule, rest_of(io), req->op, bytes, io->bounce);
}

/* Where in the file the request goes on. */
static uint64_t place_of(const struct file_io *io) {
    return io->chan->file->start + req_of((struct file_io *)io)->offset + io->done;
}

static void prep_buffer(const struct file_io *io, struct io_uring_sqe *sqe, bool writes, const void *buf, uint64_t n) {
    if (writes)
        io_uring_prep_write(sqe, io->chan->fd, buf, (unsigned)n, place_of(io));
    else
        io_uring_prep_read(sqe, io->chan->fd, (void *)(uintptr_t)buf, (unsigned)n, place_of(io));
}

static void prep_vector(const struct file_io *io, struct io_uring_sqe *sqe, bool writes, const struct iovec *iov,
                        uint32_t nr) {
    if (nr == 1)
        prep_buffer(io, sqe, writes, iov->iov_base, vn_min_u64(iov->iov_len, TRANSFER_MAX));
    else if (writes)
        io_uring_prep_writev(sqe, io->chan->fd, iov, nr, place_of(io));
    else
        io_uring_prep_readv(sqe, io->chan->fd, iov, nr, place_of(io));
}

static void prep_bounce(const struct file_io *io, struct io_uring_sqe *sqe, bool writes) {
    const struct file_chan *fc = io->chan;
    uint64_t index = (uint64_t)(io->bounce - fc->bounce) / VN_DIRECT_BUFFER;
    struct vn_direct_round round = {.buffer = io->bounce, .iov = fc->bounce_iov + index * VN_DIRECT_IOVECS};
    struct vn_direct_rule rule = rule_of(io);
    vn_direct_layout(&rule, rest_of(io), writes, &round);
    prep_vector(io, sqe, writes, round.iov, round.nr);
}

static void prep_data(struct file_io *io, struct io_uring_sqe *sqe) {
    const struct vn_req *req = req_of(io);
    bool writes = req->op == VN_OP_WRITE || io->zeros;
    const struct iovec *iov = &req->iov[io->iov_index];
    if (io->zeros)
        prep_buffer(io, sqe, true, io->chan->file->zeros, vn_min_u64(req->length - io->done, VN_FILE_ZEROS));
    else if (io->bounce)
        prep_bounce(io, sqe, writes);
    else if (io->iov_done) /* the rest of one after a short transfer */
        prep_buffer(io, sqe, writes, (uint8_t *)iov->iov_base + io->iov_done,
                    vn_min_u64(iov->iov_len - io->iov_done, TRANSFER_MAX));
    else
        prep_vector(io, sqe, writes, iov, (uint32_t)vn_min_u64(req->nr_iov - io->iov_index, VN_DIRECT_IOVECS));
    if (io->chan->file->backend.direct && !io->chan->file->in_memory)
        vn_reactor_use_pinned(io->chan->chan.reactor, sqe);
    /* Direct writes are made durable by the write itself, which a device with FUA does in one step. Buffered ones
     * get an fdatasync after them, so that a failed write and a failed flush can be told apart. */
    if (writes && (req->io_flags & VN_REQ_FUA) && io->chan->file->backend.direct)
        sqe->rw_flags = RWF_DSYNC;
}

/* Gives the space back, or keeps it and clears it; both read as zeros. */
static bool punches(const struct file_chan *fc, const struct vn_req *req) {
    bool may = (req->io_flags & VN_REQ_MAY_UNMAP) && !(fc->file->ns_flags & VN_NS_THICK);
    return req->op == VN_OP_DEALLOCATE || (may && fc->file->backend.deallocates);
}

static void prep_range(const struct file_io *io, struct io_uring_sqe *sqe) {
    const struct vn_req *req = req_of((struct file_io *)io);
    int mode = (punches(io->chan, req) ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
    /* The first descriptor, because it has a block device to itself (O_EXCL): through another one Linux refuses to
     * drop what the page cache holds of the range. */
    io_uring_prep_fallocate(sqe, io->chan->file->fd, mode, (off_t)place_of(io), (off_t)req->length);
}

static void on_data(struct vn_uring_op *op, int res, uint32_t cqe_flags);
static void data_done(struct file_io *io, int res);
static void on_range(struct vn_uring_op *op, int res, uint32_t cqe_flags);

/* Prepares the next operation of the request; false, with nothing changed but that it does not count as one that has come,
 * when there is no slot or no buffer. */
static bool issue(struct file_io *io) {
    struct file_chan *fc = io->chan;
    bool wants_buffer = io->needs_bounce && !io->bounce;
    if (wants_buffer && !fc->nr_free)
        return vn_medium_undo(io->slot);
    bool at_once = fc->file->in_memory && io->phase == VN_FILE_DATA && !io->zeros; /* those may be many */
    struct io_uring_sqe now, *sqe = at_once ? &now : vn_reactor_sqe(fc->chan.reactor, &io->op);
    if (!sqe)
        return vn_medium_undo(io->slot);
    if (wants_buffer) {
        io->bounce = fc->free[--fc->nr_free];
        if (req_of(io)->op != VN_OP_COMPARE) /* which always needs one */
            __atomic_fetch_add(&fc->file->backend.bounced, 1, __ATOMIC_RELAXED);
    }
    if (io->phase == VN_FILE_RANGE) {
        io->op.done = on_range;
        prep_range(io, sqe);
    } else {
        io->op.done = on_data;
        prep_data(io, sqe);
    }
    io_uring_sqe_set_data(sqe, &io->op);
    show(fc->file, io->phase, sqe);
    if (at_once) {
        data_done(io, do_now(sqe));
        return true;
    }
    io->in_flight = true;
    vn_reactor_io_begin(fc->chan.reactor);
    return true;
}

static void go_on(struct file_io *io) {
    if (issue(io))
        return;
    io->slot->nr++; /* it has come long ago */
    list_add(&io->chan->waiting, io);
}

/* Whatever became of it, the write has succeeded; a failed write-back is the next flush's to tell. */
static void on_writeback(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    (void)res;
    (void)cqe_flags;
    finish(vn_container_of(op, struct file_io, op), VN_SC_SUCCESS);
}

/* So that a flush after many buffered writes stays bounded, one write in so many bytes sets off write-back and waits
 * until the device has taken it, which also slows down a guest that is faster than the disk. */
static bool start_writeback(struct file_io *io) {
    struct file_chan *fc = io->chan;
    fc->dirty += req_of(io)->length;
    if (fc->dirty < DIRTY_MAX)
        return false;
    struct io_uring_sqe *sqe = vn_reactor_sqe(fc->chan.reactor, &io->op);
    if (!sqe)
        return false;
    io_uring_prep_sync_file_range(sqe, fc->fd, 0 /* to the end */, 0, SYNC_FILE_RANGE_WRITE);
    io_uring_sqe_set_data(sqe, &io->op);
    io->op.done = on_writeback;
    fc->dirty = 0;
    return true;
}

/* The data has been transferred; what remains is durability. */
static void transferred(struct file_io *io) {
    const struct vn_req *req = req_of(io);
    bool in_data = io->phase == VN_FILE_DATA, direct = io->chan->file->backend.direct;
    bool writes = req->op != VN_OP_READ && req->op != VN_OP_COMPARE;
    if ((req->io_flags & VN_REQ_FUA) && !(in_data && direct))
        sync_add(io);
    else if (!writes || !in_data || direct || io->chan->file->in_memory || !start_writeback(io))
        finish(io, VN_SC_SUCCESS);
}

/* With RWF_DSYNC an error may be that of the flush in it, and then it latches. These cannot be. */
static bool is_before_flush(int err) {
    return err == ENOSPC || err == EDQUOT || err == EFBIG || err == EFAULT || err == EINVAL || err == ECANCELED ||
           err == EINTR || err == EAGAIN || err == ENOMEM || err == EBADF || err == EPERM || err == EROFS;
}

static void fail(struct file_io *io, int err) {
    const struct vn_req *req = req_of(io);
    bool writes = req->op != VN_OP_READ && req->op != VN_OP_COMPARE;
    if (writes && (req->io_flags & VN_REQ_FUA) && io->chan->file->backend.direct && io->phase == VN_FILE_DATA &&
        !is_before_flush(err))
        vn_backend_latch(&io->chan->file->backend, err);
    /* the contract keeps malformed requests out, so it is not the guest's fault */
    if (err == EINVAL)
        err = EIO;
    finish(io, vn_status_from_errno(err, writes));
}

/* Whether an interrupted operation may be tried again: a bounded number of times. */
static bool may_retry(struct file_io *io, int res) {
    return (res == -EINTR || res == -EAGAIN) && !req_of(io)->cancelled && io->retries++ < RETRIES_MAX;
}

static void ended(struct file_io *io) {
    io->in_flight = false;
    vn_reactor_io_end(io->chan->chan.reactor);
}

static void data_done(struct file_io *io, int res) {
    struct vn_req *req = req_of(io);
    res = checked(io, res);
    if (may_retry(io, res)) {
        go_on(io);
        return;
    }
    if (res == -EINVAL && io->chan->file->backend.direct && !io->bounces_all && !io->zeros && !req->cancelled) {
        io->needs_bounce = io->bounces_all = true; /* a file system that wants more alignment than it has told */
        go_on(io);
        return;
    }
    if (res <= 0) {
        fail(io, res ? -res : EIO); /* nothing at all: somebody has truncated the file */
        return;
    }
    if (req->cancelled && io->done + (uint32_t)res < req->length) {
        fail(io, ECANCELED);
        return;
    }
    if (io->bounce && !take_bounced(io, (uint32_t)res)) {
        finish(io, VN_SC_COMPARE_FAILURE);
        return;
    }
    io->retries = 0;
    advance(io, (uint32_t)res);
    if (io->done < req->length)
        go_on(io);
    else
        transferred(io);
}

static void on_data(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    struct file_io *io = vn_container_of(op, struct file_io, op);
    (void)cqe_flags;
    ended(io);
    data_done(io, res);
}

static void on_range(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    struct file_io *io = vn_container_of(op, struct file_io, op);
    struct file_chan *fc = io->chan;
    (void)cqe_flags;
    ended(io);
    res = checked(io, res);
    if (may_retry(io, res)) {
        go_on(io);
    } else if (res == -EOPNOTSUPP || res == -EINVAL || res == -EBUSY || res == -ENOSYS || res == -ENODEV) {
        /* Not possible here, or not on this range, or not now. Zeros are what was promised, so write them. */
        if (res != -EINVAL && res != -EBUSY)
            *(punches(fc, req_of(io)) ? &fc->cannot_punch : &fc->cannot_zero) = true;
        io->phase = VN_FILE_DATA;
        io->zeros = true;
        go_on(io);
    } else if (res < 0) {
        fail(io, -res);
    } else {
        transferred(io);
    }
}

/* --- The channel --- */

static enum vn_submit file_submit(struct vn_chan *chan, struct vn_req *req) {
    struct file_chan *fc = (struct file_chan *)chan;
    struct file_io *io = io_of(req);
    bool ranged = req->op == VN_OP_DEALLOCATE || req->op == VN_OP_WRITE_ZEROES;
    *io = (struct file_io){.chan = fc, .slot = vn_medium_begin(&fc->counts)};
    if (req->op == VN_OP_FLUSH) {
        sync_add(io);
        return VN_TAKEN;
    }
    /* Deallocate is advice (NVM Command Set 3.2.3.2); where it cannot be followed, nothing was promised. */
    if (!req->length || (req->op == VN_OP_DEALLOCATE && !fc->file->backend.deallocates)) {
        finish(io, VN_SC_SUCCESS);
        return VN_TAKEN;
    }
    if (ranged) {
        io->zeros = punches(fc, req) ? fc->cannot_punch : fc->cannot_zero;
        io->phase = io->zeros ? VN_FILE_DATA : VN_FILE_RANGE;
    } else {
        io->phase = VN_FILE_DATA;
        io->bounces_all = req->op == VN_OP_COMPARE;
        struct vn_direct_rule rule = rule_of(io);
        io->needs_bounce = !vn_direct_fits(&rule, req->iov, req->nr_iov);
    }
    return issue(io) ? VN_TAKEN : VN_BUSY;
}

/* A flush is not interrupted: others may share it, and its outcome must be known. What waits ends next turn. */
static void file_cancel(struct vn_chan *chan, struct vn_req *req) {
    struct file_io *io = io_of(req);
    if (io->in_flight)
        vn_reactor_cancel(chan->reactor, &io->op);
}

static bool has_waiting(const struct file_chan *fc) {
    return fc->waiting.head || (fc->to_sync.head && !fc->sync_in_flight);
}

static bool file_poll(struct vn_poller *poller) {
    struct file_chan *fc = vn_container_of(poller, struct file_chan, poller);
    vn_medium_watch(&fc->counts);
    if (!has_waiting(fc))
        return false;
    struct file_list waiting = fc->waiting;
    fc->waiting = (struct file_list){0};
    for (struct file_io *io; (io = list_take(&waiting));) {
        if (req_of(io)->cancelled)
            fail(io, ECANCELED);
        else
            go_on(io);
    }
    sync_start(fc);
    return true;
}

static bool file_before_sleep(struct vn_poller *poller) {
    return has_waiting(vn_container_of(poller, struct file_chan, poller));
}

/* A channel has a file description of its own: Linux reports a failed write-back once to each, so that one reactor
 * cannot swallow the error that another one must see. Without /proc they share one, unless another window has it in
 * another mode. */
static int chan_fd(const struct vn_file *file) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
    int fd = open(path, file->flags | O_CLOEXEC);
    if (fd >= 0 || (file->share && ((fcntl(file->fd, F_GETFL) ^ file->flags) & O_DIRECT)))
        return fd;
    return fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
}

static int file_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    struct vn_file *file = (struct vn_file *)backend;
    struct file_chan *fc = calloc(1, sizeof(*fc));
    if (!fc)
        return -ENOMEM;
    int err;
    fc->fd = chan_fd(file);
    if (fc->fd < 0) {
        err = -errno;
        goto out_free;
    }
    fc->bounce = mmap(NULL, BOUNCE_AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fc->bounce == MAP_FAILED) {
        err = -errno;
        goto out_close;
    }
    fc->bounce_iov = (struct iovec *)(void *)(fc->bounce + (size_t)NR_BOUNCE * VN_DIRECT_BUFFER);
    for (fc->nr_free = 0; fc->nr_free < NR_BOUNCE; fc->nr_free++)
        fc->free[fc->nr_free] = fc->bounce + (size_t)fc->nr_free * VN_DIRECT_BUFFER;
    fc->chan = (struct vn_chan){.backend = backend, .reactor = reactor};
    fc->file = file;
    fc->sync_op.done = on_synced;
    fc->poller = (struct vn_poller){.poll = file_poll, .before_sleep = file_before_sleep};
    vn_poller_add(reactor, &fc->poller);
    vn_medium_chan_open(&fc->counts, file->medium, reactor);
    *out = &fc->chan;
    return 0;

out_close:
    close(fc->fd);
out_free:
    free(fc);
    return err;
}

static void file_chan_close(struct vn_chan *chan) {
    struct file_chan *fc = (struct file_chan *)chan;
    assert(!has_waiting(fc) && !fc->sync_in_flight && fc->nr_free == NR_BOUNCE);
    vn_medium_chan_close(&fc->counts);
    vn_poller_remove(chan->reactor, &fc->poller);
    munmap(fc->bounce, BOUNCE_AREA);
    close(fc->fd);
    free(fc);
}

static void file_close(struct vn_backend *backend) {
    struct vn_file *file = (struct vn_file *)backend;
    munmap((void *)(uintptr_t)file->zeros, VN_FILE_ZEROS);
    vn_medium_put(file->medium);
    if (file->share) {
        vn_file_windows_begin();
        vn_file_share_leave(file->share, file);
        vn_file_windows_end();
    } else {
        close(file->fd);
    }
    free(file);
}

const struct vn_backend_ops vn_file_ops = {
    .name = "file",
    .close = file_close,
    .full_size = vn_file_full_size,
    .resize = vn_file_resize,
    .chan_open = file_chan_open,
    .chan_close = file_chan_close,
    .submit = file_submit,
    .cancel = file_cancel,
};
