/* What the two halves of the file backend share: file_open.c (control thread: opening, sizes, probing) and
 * file.c (reactor: the I/O). For these two and their test only.
 */
#ifndef VN_BACKEND_FILE_H
#define VN_BACKEND_FILE_H

#include "backend/backend.h"

#define VN_FILE_ZEROS (1u << 20) /* bytes of the page of zeros; the longest single write of zeros */

enum vn_file_phase { VN_FILE_DATA, VN_FILE_RANGE, VN_FILE_SYNC };

struct vn_file {
    struct vn_backend backend;
    int fd; /* holds the lock */
    int flags; /* it was opened with, for the descriptors of the channels */
    bool in_memory;        /* tmpfs and the like: reading and writing is copying, and waits for no device */
    uint32_t mem_align;    /* of a buffer; 1 when not direct */
    uint32_t length_align; /* of each iovec; 1 when not direct */
    const uint8_t *zeros;  /* VN_FILE_ZEROS bytes, read-only, shared by all channels */
    /* For tests, else NULL. seen gets each operation as it goes to the system; fault gets each result, and may put
     * another in its place. */
    void (*seen)(enum vn_file_phase phase, const struct io_uring_sqe *sqe);
    int (*fault)(enum vn_file_phase phase, const struct vn_req *req, int res);
};

extern const struct vn_backend_ops vn_file_ops;

#endif
