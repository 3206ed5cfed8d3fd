/* Opens a regular file or a block device as a backend: existence, type, lock, size, and what the file system can do.
 * Runs on the control thread and may block. Called by vn_backend_open; file.c does the I/O.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "backend/file.h"
#include "backend/medium.h"
#include "core/util.h"
#include "include/vhostnvme.h"

#define WINDOW_ALIGN 4096u

struct opening {
    const struct vn_ns_opts *opts;
    struct vn_file *file;
    struct stat stat;
    uint64_t old_size; /* bytes */
    bool created;      /* by us, so it goes away again when we fail */
    bool grown;
    int access; /* O_RDONLY or O_RDWR: how the descriptor was opened */
    char *error;
    uint32_t error_size;
};

#define FAIL(o, err, ...) vn_backend_fail((o)->error, (o)->error_size, (err), __VA_ARGS__)

/* What to do about an errno, when there is something. */
static const char *advice(int err) {
    switch (err) {
    case EACCES:
    case EPERM:
        return "; give this user the right to read and write it, or open it read-only";
    case EROFS:
        return "; open it read-only, or choose another place";
    case EBUSY:
        return "; it is mounted or used by another program, which must let it go first";
    case ENOSPC:
    case EDQUOT:
        return "; free some space, or take a smaller size";
    case EFBIG:
        return "; take a smaller size";
    case EOPNOTSUPP:
        return "; this file system cannot reserve space, leave preallocation out";
    default:
        return "";
    }
}

static bool is_window(const struct opening *o) {
    return o->opts->flags & VN_NS_WINDOW;
}

static int fail_errno(struct opening *o, const char *what, int err) {
    return FAIL(o, err, "cannot %s %s: %s%s", what, o->opts->path, strerror(err), advice(err));
}

/* --- Existence, type, lock --- */

static int open_missing(struct opening *o) {
    const struct vn_ns_opts *opts = o->opts;
    if (opts->flags & VN_NS_READ_ONLY)
        return FAIL(o, ENOENT, "cannot open %s: it does not exist, and read-only it cannot be created", opts->path);
    if (!(opts->flags & VN_NS_CREATE) || !opts->size)
        return FAIL(o, ENOENT, "cannot open %s: it does not exist; give ?size=10G to create it", opts->path);
    /* EXCL: if somebody else has just made it, it is theirs. 0600: it is a disk's content. */
    o->file->fd = open(opts->path, o->file->flags | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (o->file->fd < 0)
        return fail_errno(o, "create", errno);
    o->created = true;
    return 0;
}

static int open_as(struct opening *o, int flags) {
    /* EXCL on a block device: refused while it is mounted or part of another device */
    int exclusive = S_ISBLK(o->stat.st_mode) && flags == O_RDWR ? O_EXCL : 0;
    o->access = flags;
    o->file->fd = open(o->opts->path, flags | exclusive | O_NOCTTY | O_CLOEXEC);
    return o->file->fd < 0 ? errno : 0;
}

/* One for all windows of this file: for those to come, which may write, also when this one does not. */
static int open_shared(struct opening *o) {
    struct vn_file_share *share = vn_file_share_find(&o->stat);
    if (!share) {
        int err = open_as(o, O_RDWR);
        return o->file->backend.read_only && (err == EACCES || err == EPERM || err == EROFS) ? open_as(o, O_RDONLY) : err;
    }
    if (!o->file->backend.read_only && !vn_file_share_writes(share))
        return EROFS;
    o->file->share = share;
    o->file->fd = vn_file_share_fd(share);
    return 0;
}

static int open_path(struct opening *o) {
    const struct vn_ns_opts *opts = o->opts;
    o->access = o->file->flags = opts->flags & VN_NS_READ_ONLY ? O_RDONLY : O_RDWR;
    if (!opts->path || !opts->path[0])
        return FAIL(o, EINVAL, "the file backend needs a path, as in file:disk.img?size=10G");
    /* Looked at before it is opened: opening a FIFO waits, opening a tape rewinds it. */
    if (stat(opts->path, &o->stat) < 0) {
        if (errno != ENOENT)
            return fail_errno(o, "open", errno);
        int err = open_missing(o);
        if (err)
            return err;
    } else if (S_ISDIR(o->stat.st_mode)) {
        return FAIL(o, EISDIR, "cannot open %s: it is a directory; name a file in it", opts->path);
    } else if (!S_ISREG(o->stat.st_mode) && !S_ISBLK(o->stat.st_mode)) {
        return FAIL(o, EINVAL, "cannot open %s: it is neither a regular file nor a block device", opts->path);
    } else {
        int err = is_window(o) ? open_shared(o) : open_as(o, o->file->flags);
        if (err)
            return fail_errno(o, "open", err);
    }
    return fstat(o->file->fd, &o->stat) < 0 ? fail_errno(o, "look at", errno) : 0;
}

/* Of the open file description, not of the process: a second open in this process conflicts too, and closing some
 * other descriptor of the file does not drop it. Of the whole file also for a window: the others of this process share
 * it, and other processes keep out. */
static int lock(struct opening *o) {
    if (o->file->share)
        return 0;
    bool read_only = o->access == O_RDONLY;
    struct flock whole = {.l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(o->file->fd, F_OFD_SETLK, &whole) == 0) {
        if (is_window(o) && !(o->file->share = vn_file_share_new(&o->stat, o->file->fd, o->access)))
            return FAIL(o, ENOMEM, "cannot open %s: out of memory", o->opts->path);
        return 0;
    }
    int err = errno;
    if (err == EAGAIN || err == EACCES) {
        o->created = false; /* whoever holds the lock uses it now */
        return FAIL(o, EBUSY, "cannot open %s: another server has it open; stop that one first%s", o->opts->path,
                    read_only ? "" : ", or open it read-only in both");
    }
    return fail_errno(o, "lock", err);
}

/* --- Size --- */

static int fail_beyond(struct opening *o, uint64_t end) {
    return FAIL(o, EINVAL, "cannot serve the bytes %llu to %llu of %s: it ends at %llu; take a smaller offset or size",
                (unsigned long long)o->opts->offset, (unsigned long long)(o->opts->offset + o->opts->size), o->opts->path,
                (unsigned long long)end);
}

static int device_size(struct opening *o) {
    uint64_t size = 0;
    if (ioctl(o->file->fd, BLKGETSIZE64, &size) < 0)
        return fail_errno(o, "get the size of", errno);
    if (is_window(o)) {
        o->file->backend.size = o->opts->size;
        return o->opts->offset + o->opts->size > size ? fail_beyond(o, size) : 0;
    }
    if (o->opts->size && o->opts->size != size)
        return FAIL(o, EINVAL, "cannot give %s a size of %llu bytes: it is a device of %llu; leave the size out",
                    o->opts->path, (unsigned long long)o->opts->size, (unsigned long long)size);
    o->file->backend.size = size;
    return 0;
}

static int reserve(struct opening *o, uint64_t size) {
    int err;
    do {
        err = fallocate(o->file->fd, 0, (off_t)o->file->start, (off_t)size) < 0 ? errno : 0;
    } while (err == EINTR);
    return err ? fail_errno(o, "reserve the space of", err) : 0;
}

/* A new file is only there after a power failure when its directory says so. */
static int sync_new(struct opening *o) {
    if (fsync(o->file->fd) < 0)
        return fail_errno(o, "flush", errno);
    char path[PATH_MAX];
    if (!o->created || snprintf(path, sizeof(path), "%s", o->opts->path) >= (int)sizeof(path))
        return 0;
    int dir = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return 0; /* a directory that may be searched but not read */
    int err = fsync(dir) < 0 ? errno : 0;
    close(dir);
    return err && err != EINVAL ? fail_errno(o, "flush the directory of", err) : 0;
}

static int file_size(struct opening *o) {
    const struct vn_ns_opts *opts = o->opts;
    uint64_t size = opts->size ? opts->size : o->old_size;
    bool writes = !(opts->flags & VN_NS_READ_ONLY);
    uint64_t end = opts->offset + size;
    if (size > INT64_MAX)
        return FAIL(o, EFBIG, "cannot make %s so large: files end below 8 EiB; take a smaller size", opts->path);
    if (is_window(o) && end > o->old_size && !(writes && opts->flags & VN_NS_CREATE))
        return fail_beyond(o, o->old_size);
    if (!is_window(o) && size < o->old_size)
        return FAIL(o, EINVAL, "cannot give %s a size of %llu bytes: it has %llu, and data is never cut off; "
                    "leave the size out", opts->path, (unsigned long long)size, (unsigned long long)o->old_size);
    if (end > o->old_size && !writes)
        return FAIL(o, EROFS, "cannot grow %s to %llu bytes read-only: it has %llu; leave the size out", opts->path,
                    (unsigned long long)size, (unsigned long long)o->old_size);
    if (end > o->old_size) {
        if (ftruncate(o->file->fd, (off_t)end) < 0)
            return fail_errno(o, "set the size of", errno);
        o->grown = true;
    }
    int err = 0;
    if (writes && size && (opts->flags & VN_NS_PREALLOCATE))
        err = reserve(o, size);
    if (!err && o->grown)
        err = sync_new(o);
    o->file->backend.size = size;
    return err;
}

/* What the user wrote, before anything is made or grown. */
static int check_size(struct opening *o) {
    const struct vn_ns_opts *opts = o->opts;
    if (opts->size % opts->block_size)
        return FAIL(o, EINVAL, "cannot give %s a size of %llu bytes: it must be a multiple of the block size, %u",
                    opts->path ? opts->path : "a file", (unsigned long long)opts->size, opts->block_size);
    if (!is_window(o))
        return opts->offset ? FAIL(o, EINVAL, "an offset needs VN_NS_WINDOW") : 0;
    if (opts->offset % WINDOW_ALIGN || opts->offset > INT64_MAX || !opts->size || opts->size > INT64_MAX - opts->offset)
        return FAIL(o, EINVAL, "cannot serve a part of %s: its offset must be a multiple of %u, and its size be given",
                    opts->path ? opts->path : "a file", WINDOW_ALIGN);
    return 0;
}

/* The windows of a file are apart. */
static int check_overlap(struct opening *o) {
    const struct vn_ns_opts *opts = o->opts;
    const struct vn_file *other =
        o->file->share ? vn_file_share_overlap(o->file->share, o->file, opts->offset, opts->size) : NULL;
    if (!other)
        return 0;
    return FAIL(o, EBUSY, "cannot serve the bytes %llu to %llu of %s: another namespace has those from %llu to %llu",
                (unsigned long long)opts->offset, (unsigned long long)(opts->offset + opts->size), opts->path,
                (unsigned long long)other->start, (unsigned long long)(other->start + other->backend.size));
}

static int set_size(struct opening *o) {
    const struct vn_ns_opts *opts = o->opts;
    o->old_size = (uint64_t)o->stat.st_size;
    o->file->start = opts->offset;
    int err = check_overlap(o);
    if (!err)
        err = S_ISBLK(o->stat.st_mode) ? device_size(o) : file_size(o);
    if (err)
        return err;
    uint64_t size = o->file->backend.size;
    if (!size)
        return FAIL(o, EINVAL, "cannot serve %s: it is empty; give ?size=10G to make it that large", opts->path);
    if (size % opts->block_size)
        return FAIL(o, EINVAL, "cannot serve %s: its size, %llu bytes, is not a multiple of the block size, %u; "
                    "give a larger size that is", opts->path, (unsigned long long)size, opts->block_size);
    return 0;
}

/* --- What the file system can do --- */

/* Tries a direct read of one block, for kernels and file systems that do not tell. Answers the alignment that
 * buffers need, 0 when it does not work at all. */
static uint32_t try_direct(int fd, uint64_t start, uint32_t block_size) {
    static const uint32_t aligns[] = {512, 4096};
    uint8_t *buf = aligned_alloc(4096, 8192);
    uint32_t found = 0;
    for (size_t i = 0; buf && !found && i < VN_ARRAY_SIZE(aligns); i++) {
        if (pread(fd, buf + aligns[i] % 4096, block_size, (off_t)start) == (ssize_t)block_size)
            found = aligns[i];
    }
    free(buf);
    return found;
}

static bool find_alignment(struct vn_file *file, uint32_t block_size) {
#ifdef STATX_DIOALIGN
    struct statx stx;
    if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 && (stx.stx_mask & STATX_DIOALIGN)) {
        file->mem_align = stx.stx_dio_mem_align;
        file->length_align = stx.stx_dio_offset_align;
        return file->length_align && file->mem_align && file->length_align <= block_size && file->mem_align <= 4096;
    }
#endif
    file->mem_align = try_direct(file->fd, file->start, block_size);
    file->length_align = block_size;
    return file->mem_align;
}

static void set_direct(struct opening *o) {
    struct vn_file *file = o->file;
    int flags = fcntl(file->fd, F_GETFL);
    if (!(o->opts->flags & VN_NS_NO_DIRECT) && flags >= 0 && fcntl(file->fd, F_SETFL, flags | O_DIRECT) == 0) {
        if (find_alignment(file, o->opts->block_size)) {
            file->flags |= O_DIRECT;
            file->backend.direct = true;
            return;
        }
        fcntl(file->fd, F_SETFL, flags);
    }
    file->mem_align = file->length_align = 1;
}

/* A hole punched behind the end shows whether the file system knows how, and touches nothing. A device cannot be
 * asked so; the kernel says what it takes. */
static bool can_punch(const struct opening *o) {
    uint64_t end = vn_max_u64(o->file->start + o->file->backend.size, o->old_size);
    end = (end + 0xfffff) & ~0xfffffull;
    if (S_ISREG(o->stat.st_mode))
        return end <= INT64_MAX - 0x100000 &&
               fallocate(o->file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)end, 0x100000) == 0;
    static const char *const formats[] = {"/sys/dev/block/%u:%u/queue/write_zeroes_max_bytes",
                                          "/sys/dev/block/%u:%u/../queue/write_zeroes_max_bytes" /* a partition */};
    unsigned long long bytes = 0;
    for (size_t i = 0; i < VN_ARRAY_SIZE(formats) && !bytes; i++) {
        char path[96];
        snprintf(path, sizeof(path), formats[i], major(o->stat.st_rdev), minor(o->stat.st_rdev));
        FILE *limit = fopen(path, "re");
        if (limit && fscanf(limit, "%llu", &bytes) != 1)
            bytes = 0;
        if (limit)
            fclose(limit);
    }
    return bytes > 0;
}

/* Of a block device statfs says where its name lies, and /dev is in memory too. */
static bool is_in_memory(const struct opening *o) {
    struct statfs fs;
    return S_ISREG(o->stat.st_mode) && fstatfs(o->file->fd, &fs) == 0 &&
           (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

static int prepare(struct opening *o) {
    struct vn_file *file = o->file;
    int err = set_size(o);
    if (err)
        return err;
    file->in_memory = is_in_memory(o);
    set_direct(o);
    file->backend.volatile_cache = true; /* the disk below has one, and the file system's own records wait in memory */
    file->backend.deallocates = !file->backend.read_only && can_punch(o);
    file->backend.block_min = file->backend.direct && file->length_align > 512 ? file->length_align : 512;
    void *zeros = mmap(NULL, VN_FILE_ZEROS, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (zeros == MAP_FAILED)
        return fail_errno(o, "serve", errno);
    file->zeros = zeros;
    return 0;
}

/* Leaves the file as it was found. The lock is held until the end, so nobody else has seen what is undone. */
static void undo(const struct opening *o) {
    if (o->created)
        unlink(o->opts->path);
    else if (o->grown && ftruncate(o->file->fd, (off_t)o->old_size) < 0)
        fprintf(stderr, "cannot shrink %s back to %llu bytes: %s\n", o->opts->path, (unsigned long long)o->old_size,
                strerror(errno));
}

static int open_file(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size) {
    struct vn_file *file = calloc(1, sizeof(*file));
    struct opening o = {.opts = opts, .file = file, .error = error, .error_size = error_size};
    if (!file)
        return FAIL(&o, ENOMEM, "cannot open %s: out of memory", opts->path);
    file->fd = -1;
    file->backend.ops = &vn_file_ops;
    file->backend.read_only = opts->flags & VN_NS_READ_ONLY;
    file->ns_flags = opts->flags;
    int err = check_size(&o);
    if (!err)
        err = open_path(&o);
    if (!err)
        err = lock(&o);
    if (!err)
        err = prepare(&o);
    if (!err) {
        if (file->share)
            vn_file_share_enter(file->share, file);
        file->medium = vn_medium_get(opts->medium);
        *out = &file->backend;
        return 0;
    }
    undo(&o);
    if (file->share)
        vn_file_share_leave(file->share, file);
    else if (file->fd >= 0)
        close(file->fd);
    free(file);
    return err;
}

int vn_file_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size) {
    bool is_window = opts->flags & VN_NS_WINDOW;
    if (is_window)
        vn_file_windows_begin();
    int err = open_file(opts, out, error, error_size);
    if (is_window)
        vn_file_windows_end();
    return err;
}
