/* What a namespace whose blocks have metadata needs beside it: buffers, because data and metadata are two operations on the
 * backend and the host must not change either between the check and the write; and a lock on blocks, so that nobody sees one
 * without the other. One slot is both. Made by whoever formats or attaches; then its drive's reactor's alone.
 */
#ifndef VN_META_H
#define VN_META_H

#include <sys/uio.h>

#include "core/req.h"
#include "ns/format.h"

#define VN_META_SLOTS 16u /* commands with metadata in flight, a namespace; others wait */
#define VN_META_DATA_BYTES (1u << 20) /* of one slot: the longest transfer, see VN_MAX_MDTS */
#define VN_META_BYTES (VN_META_DATA_BYTES / 512 * VN_FORMAT_MS_MAX)
#define VN_META_SPAN_BYTES (VN_META_BYTES + 2 * VN_FORMAT_ALIGN)
#define VN_META_LIST_BYTES 5120u
#define VN_META_IOVECS 64u /* of the host's metadata buffer: 128 KiB in pieces */

/* Owner: the command that has it, from vn_meta_lock to vn_meta_unlock. */
struct vn_meta_slot {
    uint8_t *data; /* of the blocks in it, one after the other */
    uint8_t *meta; /* their metadata, as the host sees it */
    uint8_t *span; /* their metadata as it is kept, in whole units of the backend */
    uint64_t slba; /* the blocks in it ... */
    uint32_t nr;   /* ... and how many */
    uint32_t first; /* from which block of data and meta on they lie there */
    uint64_t begin, end; /* the blocks that are locked */
    bool used, exclusive;

    /* of the command that has it: ctrl/meta_io.c */
    struct iovec op_iov;    /* of the operation on the backend */
    struct iovec *host_iov; /* the host's data, as the door has mapped it */
    uint32_t nr_host_iov, nr_meta_iov;
    struct iovec meta_iov[VN_META_IOVECS]; /* the host's metadata, when it has a buffer of its own */
    uint32_t io_flags;                     /* of the command's writes */
    uint64_t at;                           /* next block of a command that takes several rounds */
    bool without_data, zeros;              /* store: metadata alone; fill: with what is kept as zeros */
    vn_status status;                      /* of Copy: what stopped its reads */
    void (*next)(struct vn_req *req);      /* after the operation under way */
    void (*then)(struct vn_req *req);      /* after all of load or store */
    uint8_t list[VN_META_LIST_BYTES];      /* of Copy: its source ranges */
};

struct vn_meta {
    struct vn_layout layout;
    uint32_t unit; /* bytes: what the backend reads and writes of the metadata at least */
    struct vn_meta_slot slots[VN_META_SLOTS];
    void *arena;
    struct vn_req *waiting_first, *waiting_last; /* commands that found none: ctrl/meta_ops.c */
};

/* Any one thread; memory that is not touched costs nothing. -ENOMEM. */
int vn_meta_open(const struct vn_layout *layout, uint32_t unit, struct vn_meta **out);
void vn_meta_close(struct vn_meta *meta); /* no slot is used; NULL: nothing happens */

/* A slot with the blocks [begin, end) locked: against writers, and, when exclusive, readers. NULL: somebody has some of
 * them, or all slots are used. Writers have whole units to themselves, because they write such. */
struct vn_meta_slot *vn_meta_lock(struct vn_meta *meta, uint64_t begin, uint64_t end, bool exclusive);
void vn_meta_unlock(struct vn_meta_slot *slot);
/* The slot gives up its blocks and takes others; false: somebody has some of them, and then it has none. */
bool vn_meta_relock(struct vn_meta *meta, struct vn_meta_slot *slot, uint64_t begin, uint64_t end, bool exclusive);

/* Bytes of the metadata region: where the units that hold the metadata of these blocks begin and end. */
struct vn_meta_span {
    uint64_t begin, end;
    uint32_t lead; /* from begin to the first block's metadata */
};
static inline struct vn_meta_span vn_meta_span_of(const struct vn_meta *meta, uint64_t slba, uint64_t nr) {
    uint64_t first = slba * meta->layout.pi.ms, last = (slba + nr) * meta->layout.pi.ms, mask = meta->unit - 1;
    uint64_t begin = first & ~mask;
    return (struct vn_meta_span){begin, (last + mask) & ~mask, (uint32_t)(first - begin)};
}

#endif
