/* Windows of one file or block device: who serves which bytes of it in this process. All windows of a file share the
 * descriptor that holds its lock, so that other processes keep out while this one has several of them.
 * Control threads: namespaces may be made by several at once, and so the list has a mutex; no reactor ever takes it.
 * Used by file_open.c and file_resize.c; file.c closes.
 */
#include "backend/file.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

struct vn_file_share {
    dev_t dev;
    ino_t ino;     /* 0: a block device, which dev is */
    int fd, flags; /* as it was opened; holds the lock, and a device to itself */
    struct vn_file *files; /* list: those that are open */
    struct vn_file_share *next;
};

static struct vn_file_share *shares;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void vn_file_windows_begin(void) {
    pthread_mutex_lock(&mutex);
}

void vn_file_windows_end(void) {
    pthread_mutex_unlock(&mutex);
}

static bool is_of(const struct vn_file_share *share, const struct stat *stat) {
    bool device = S_ISBLK(stat->st_mode);
    return share->dev == (device ? stat->st_rdev : stat->st_dev) && share->ino == (device ? 0 : stat->st_ino);
}

struct vn_file_share *vn_file_share_find(const struct stat *stat) {
    struct vn_file_share *share = shares;
    while (share && !is_of(share, stat))
        share = share->next;
    return share;
}

struct vn_file_share *vn_file_share_new(const struct stat *stat, int fd, int flags) {
    struct vn_file_share *share = calloc(1, sizeof(*share));
    if (!share)
        return NULL;
    bool device = S_ISBLK(stat->st_mode);
    *share = (struct vn_file_share){.dev = device ? stat->st_rdev : stat->st_dev,
                                    .ino = device ? 0 : stat->st_ino,
                                    .fd = fd,
                                    .flags = flags,
                                    .next = shares};
    shares = share;
    return share;
}

int vn_file_share_fd(const struct vn_file_share *share) {
    return share->fd;
}

bool vn_file_share_writes(const struct vn_file_share *share) {
    return (share->flags & O_ACCMODE) == O_RDWR;
}

/* Two that only read may have the same bytes. */
const struct vn_file *vn_file_share_overlap(const struct vn_file_share *share, const struct vn_file *file, uint64_t start,
                                            uint64_t size) {
    for (const struct vn_file *other = share->files; other; other = other->next_window) {
        bool apart = start + size <= other->start || other->start + other->backend.size <= start;
        bool both_read = file->backend.read_only && other->backend.read_only;
        if (other != file && !apart && !both_read)
            return other;
    }
    return NULL;
}

void vn_file_share_enter(struct vn_file_share *share, struct vn_file *file) {
    file->share = share;
    file->next_window = share->files;
    share->files = file;
}

void vn_file_share_leave(struct vn_file_share *share, struct vn_file *file) {
    struct vn_file **at = &share->files;
    while (*at && *at != file)
        at = &(*at)->next_window;
    if (*at)
        *at = file->next_window;
    if (share->files)
        return;
    struct vn_file_share **of = &shares;
    while (*of != share)
        of = &(*of)->next;
    *of = share->next;
    close(share->fd);
    free(share);
}
