/* Log pages of any size: each is put together piece by piece, and what the host asked for of it is copied as it comes.
 * Used by log_page.c, ana.c and discovery.c. Owner: the controller's reactor.
 */
#ifndef VN_CTRL_LOG_H
#define VN_CTRL_LOG_H

#include "ctrl/fabrics.h"

/* One pass over a page. The first only measures it; the second copies. */
struct vn_log {
    struct vn_req *req;
    uint64_t offset; /* of what the host wants first */
    uint64_t at;     /* of the next piece */
    uint32_t iov;    /* where in the host's buffer the next byte goes; nr_iov: nowhere */
    size_t iov_done;
};

/* The next bytes of the page. data may be the controller's scratch page. */
void vn_log_put(struct vn_log *log, const void *data, uint64_t bytes);
/* Whether any of the next bytes is copied: if not, vn_log_skip does for vn_log_put. */
bool vn_log_wants(const struct vn_log *log, uint64_t bytes);
void vn_log_skip(struct vn_log *log, uint64_t bytes);

/* The pages of fabrics. */
void vn_ana_log(struct vn_log *log);
void vn_discovery_log(struct vn_log *log);

#endif
