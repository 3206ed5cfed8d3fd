/* A zoned namespace: the zones (zones.h), the table that keeps them, and the layer on top of its backend that makes what is kept
 * follow the writes: a write pointer is in the table before its write is acknowledged, and durable with the next flush.
 * See docs/decisions/0015-zones.md. Owner: the namespace's reactor; opened and closed on the control thread.
 */
#ifndef VN_NS_ZONED_H
#define VN_NS_ZONED_H

#include "backend/backend.h"
#include "ns/zones.h"

#define VN_ZONE_BYTES_MIN 65536u
#define VN_ZONE_BYTES_MAX (1ull << 40)
#define VN_ZONE_BYTES_DEFAULT (64u << 20)
#define VN_CHANGED_ZONES_MAX 511u
#define VN_CHANGED_ZONES_MORE 0xffffu

struct vn_zoned_head; /* zoned_open.c: the first page of the table */

struct vn_zoned {
    struct vn_backend backend; /* on top of the namespace's */
    struct vn_zones zones;
    uint32_t block_shift;
    uint64_t append_bytes; /* the most that Zone Append takes; 0: what one command can transfer */
    int fd;                /* of the table; -1: it is in memory only */
    uint8_t *table;        /* mapped */
    size_t table_bytes;
    const void *owner;     /* the drive that has it, alone: one reactor for all that its zones do */
    uint64_t synced;       /* zones.nr_changes as far as they are durable */
};

/* Log page BFh as it goes out (4.1.4.1): of one controller and namespace. */
struct vn_changed_zones {
    uint16_t nr; /* VN_CHANGED_ZONES_MORE: more than it holds */
    uint8_t rsvd2[6];
    uint64_t zslba[VN_CHANGED_ZONES_MAX];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_changed_zones, 4096);

extern const struct vn_backend_ops vn_zoned_ops; /* zoned.c */

/* zoned_open.c. Puts the layer on top of *backend, which is the caller's still when it fails: -errno, and error holds a
 * sentence. opts->zoned is set. */
int vn_zoned_open(const struct vn_ns_opts *opts, struct vn_backend **backend, struct vn_zoned **out, char *error,
                  uint32_t error_size);
void vn_zoned_free(struct vn_zoned *zoned);

/* zoned.c. Completes req, which is TAKEN, when what is kept of the zones now is durable. chan is the layer's. */
void vn_zoned_sync(struct vn_chan *chan, struct vn_req *req);

#endif
