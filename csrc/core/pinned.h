/* Memory that the kernel has pinned for a reactor's io_uring: what is read into it or written from it needs no pages
 * looked up and pinned for each operation. Pinned piece by piece, so that the reactor goes on meanwhile.
 * Owner: the reactor, which holds one and offers it through reactor.h.
 */
#ifndef VN_CORE_PINNED_H
#define VN_CORE_PINNED_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/reactor.h"

#define VN_PINNED_REGIONS 256u
#define VN_PINNED_PIECE (16ull << 20) /* bytes pinned in one step: some 5 ms when the system has to find the pages */
#define VN_PINNED_SLOTS 16384u        /* of io_uring's table, the most that it takes: 256 GiB */

/* IORING_OP_READV_FIXED and _WRITEV_FIXED, of Linux 6.15: the system's header may be older than the system. */
#define VN_READV_FIXED 60u
#define VN_WRITEV_FIXED 61u

struct vn_pinned_region {
    const uint8_t *base;
    uint64_t len;
    uint32_t slot, nr, done; /* pieces: the slots that they get, and how many have theirs */
    vn_pin_told *told;
    void *owner;
};

struct vn_pinned {
    struct vn_reactor *reactor;
    struct io_uring *ring;
    struct vn_timer step_timer;
    bool enabled, has_table, has_vectors;
    uint32_t nr, last; /* regions, and where the last look-up ended */
    struct vn_pinned_region regions[VN_PINNED_REGIONS]; /* sorted by base, without overlap */
};

void vn_pinned_init(struct vn_pinned *pinned, struct vn_reactor *reactor, struct io_uring *ring, bool enabled);
int vn_pinned_add(struct vn_pinned *pinned, const void *base, uint64_t len, vn_pin_told *told, void *owner);
void vn_pinned_remove(struct vn_pinned *pinned, const void *base);
void vn_pinned_use(struct vn_pinned *pinned, struct io_uring_sqe *sqe);

#endif
