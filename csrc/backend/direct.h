/* Direct I/O wants memory that is aligned, and whole blocks of it in a row. What of a transfer is not like that goes
 * through a buffer, block by block; the rest goes where it belongs. Pure: it lays out and copies, and does no I/O.
 */
#ifndef VN_BACKEND_DIRECT_H
#define VN_BACKEND_DIRECT_H

#include "backend/backend.h"

#define VN_DIRECT_BUFFER (256u << 10) /* longer transfers take several rounds */
#define VN_DIRECT_IOVECS 1024u       /* of one round: what one system call takes (UIO_MAXIOV) */

/* What direct I/O takes: the address of a buffer, and the length of each, are multiples of these (powers of two). */
struct vn_direct_rule {
    uint32_t mem_align, length_align;
    bool all; /* nothing is taken as it is */
};

/* Whether direct I/O takes all of it. */
static inline bool vn_direct_fits(const struct vn_direct_rule *rule, const struct iovec *iov, uint32_t nr) {
    uintptr_t bases = 0;
    size_t lengths = 0;
    for (uint32_t i = 0; i < nr; i++) {
        bases |= (uintptr_t)iov[i].iov_base;
        lengths |= iov[i].iov_len;
    }
    return !rule->all && !(bases & (rule->mem_align - 1)) && !(lengths & (rule->length_align - 1));
}

/* The rest of a transfer: from skip bytes into iov[0] on. */
struct vn_direct_rest {
    const struct iovec *iov;
    uint64_t skip, left; /* left: a multiple of length_align */
};

/* Where a round of a transfer goes: the caller's own memory, and pieces of the buffer in between. */
struct vn_direct_round {
    uint8_t *buffer;   /* VN_DIRECT_BUFFER, aligned to a page */
    struct iovec *iov; /* VN_DIRECT_IOVECS */
    uint32_t nr;       /* of them in use */
};

/* Fills in a round; writes: what goes through the buffer is put there. Bytes of the round, more than 0. */
uint32_t vn_direct_layout(const struct vn_direct_rule *rule, struct vn_direct_rest rest, bool writes,
                          struct vn_direct_round *round);

/* Once `bytes` of a round laid out from the same rest have been transferred: reads take theirs out of the buffer, compares
 * look at it. False: a compare has found a difference. */
bool vn_direct_take(const struct vn_direct_rule *rule, struct vn_direct_rest rest, enum vn_op op, uint32_t bytes,
                    uint8_t *buffer);

#endif
