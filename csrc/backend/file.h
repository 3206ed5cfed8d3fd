/* What the parts of the file backend share: file.c (reactor: the I/O), and on the control thread file_open.c, file_resize.c
 * and file_window.c (who serves which part of a file). For these and their test only.
 */
#ifndef VN_BACKEND_FILE_H
#define VN_BACKEND_FILE_H

#include <fcntl.h>
#include <sys/stat.h>

#include "backend/backend.h"

#define VN_FILE_ZEROS (1u << 20) /* bytes of the page of zeros; the longest single write of zeros */

enum vn_file_phase { VN_FILE_DATA, VN_FILE_RANGE, VN_FILE_SYNC };

struct vn_file_share; /* file_window.c */

struct vn_file {
    struct vn_backend backend;
    int fd; /* holds the lock; of a window: the share's */
    int flags; /* it was opened with, for the descriptors of the channels */
    uint64_t start; /* bytes: where in the file the namespace begins */
    struct vn_file_share *share; /* of a window; NULL: the whole file is its */
    struct vn_file *next_window; /* of the share */
    uint32_t ns_flags;           /* VN_NS_*, as it was opened */
    bool in_memory;        /* tmpfs and the like: reading and writing is copying, and waits for no device */
    uint32_t mem_align;    /* of a buffer; 1 when not direct */
    uint32_t length_align; /* of each iovec; 1 when not direct */
    struct vn_medium *medium; /* that it is on; NULL: nobody wants to know */
    const uint8_t *zeros;  /* VN_FILE_ZEROS bytes, read-only, shared by all channels */
    /* For tests, else NULL. seen gets each operation as it goes to the system; fault gets each result, and may put
     * another in its place. */
    void (*seen)(enum vn_file_phase phase, const struct io_uring_sqe *sqe);
    int (*fault)(enum vn_file_phase phase, const struct vn_req *req, int res);
};

extern const struct vn_backend_ops vn_file_ops;

/* file_window.c. All of the following between these two: whoever looks, decides and enters does so alone. */
void vn_file_windows_begin(void);
void vn_file_windows_end(void);
/* That file or device as it is open in windows already; NULL: it is not. */
struct vn_file_share *vn_file_share_find(const struct stat *stat);
/* Takes fd over, which has been locked; NULL: out of memory. It ends with the last window that leaves. */
struct vn_file_share *vn_file_share_new(const struct stat *stat, int fd, int flags);
int vn_file_share_fd(const struct vn_file_share *share);
bool vn_file_share_writes(const struct vn_file_share *share);
/* A window that is in the way if this one is to be [start, start + size); NULL: there is none. */
const struct vn_file *vn_file_share_overlap(const struct vn_file_share *share, const struct vn_file *file, uint64_t start,
                                            uint64_t size);
void vn_file_share_enter(struct vn_file_share *share, struct vn_file *file);
void vn_file_share_leave(struct vn_file_share *share, struct vn_file *file); /* also one that has not entered */

/* file_resize.c; operations of the backend. */
uint64_t vn_file_full_size(struct vn_backend *backend);
int vn_file_resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size);

#endif
