/* Another size for a file, a device or a part of one while it is open. The length of a file with one namespace follows the
 * namespace; of a file in parts it only grows, where they may create. Control thread; called by vn_backend_resize.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "backend/file.h"
#include "include/vhostnvme.h"

/* Bytes of what is behind it, as it is now; is_file: it has a length that can be set. */
static int look(const struct vn_file *file, uint64_t *bytes, bool *is_file) {
    struct stat stat;
    if (fstat(file->fd, &stat) < 0)
        return errno;
    *is_file = S_ISREG(stat.st_mode);
    *bytes = (uint64_t)stat.st_size;
    return S_ISBLK(stat.st_mode) && ioctl(file->fd, BLKGETSIZE64, bytes) < 0 ? errno : 0;
}

uint64_t vn_file_full_size(struct vn_backend *backend) {
    const struct vn_file *file = (const struct vn_file *)backend;
    uint64_t bytes;
    bool is_file;
    return file->share || look(file, &bytes, &is_file) ? 0 : bytes;
}

/* A file becomes long enough, with its blocks when they are wanted; else it is as before. */
static int lengthen(const struct vn_file *file, uint64_t before, uint64_t size) {
    uint64_t old_end = file->start + file->backend.size, end = file->start + size;
    if (end > before && ftruncate(file->fd, (off_t)end) < 0)
        return errno;
    if (!(file->ns_flags & VN_NS_PREALLOCATE) || end <= old_end)
        return 0;
    int err;
    do {
        err = fallocate(file->fd, 0, (off_t)old_end, (off_t)(end - old_end)) < 0 ? errno : 0;
    } while (err == EINTR);
    if (err && end > before && ftruncate(file->fd, (off_t)before) < 0)
        return errno;
    return err;
}

static int resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size) {
    struct vn_file *file = (struct vn_file *)backend;
    uint64_t end = file->start + size, bytes = 0;
    bool is_file = false, is_whole = !file->share;
    if (size > INT64_MAX - file->start)
        return vn_backend_fail(error, error_size, EFBIG, "files and devices end below 8 EiB");
    int err = look(file, &bytes, &is_file);
    bool may_set = is_file && !backend->read_only && (is_whole || file->ns_flags & VN_NS_CREATE);
    const struct vn_file *other = is_whole ? NULL : vn_file_share_overlap(file->share, file, file->start, size);
    if (other)
        return vn_backend_fail(error, error_size, EBUSY, "another namespace has the bytes %llu to %llu of its file",
                               (unsigned long long)other->start, (unsigned long long)(other->start + other->backend.size));
    if (!err && end > bytes && !may_set)
        return vn_backend_fail(error, error_size, EINVAL, "what is behind it ends at %llu bytes", (unsigned long long)bytes);
    if (!err && may_set && size > backend->size)
        err = lengthen(file, bytes, size);
    else if (!err && may_set && is_whole && end < bytes)
        err = ftruncate(file->fd, (off_t)end) < 0 ? errno : 0;
    return err ? vn_backend_fail(error, error_size, err, "its file cannot have %llu bytes: %s", (unsigned long long)end,
                                 strerror(err))
               : 0;
}

int vn_file_resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size) {
    bool is_window = ((struct vn_file *)backend)->share;
    if (is_window)
        vn_file_windows_begin();
    int err = resize(backend, size, error, error_size);
    if (is_window)
        vn_file_windows_end();
    return err;
}
