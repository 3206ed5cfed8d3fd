/* Between the host's buffers and a slot's: data and metadata, one after the other in the host's buffer or in one of its own. */
#ifndef VN_META_MOVE_H
#define VN_META_MOVE_H

#include "ns/meta.h"

struct vn_meta_move {
    const struct vn_pi *pi;
    bool extended;  /* each block's metadata behind its data */
    bool with_meta; /* else data alone */
};

/* The slot's blocks; slot->host_iov and slot->meta_iov have room for exactly them. */
void vn_meta_from_host(const struct vn_meta_move *move, struct vn_meta_slot *slot);
void vn_meta_to_host(const struct vn_meta_move *move, struct vn_meta_slot *slot);
/* Whether the host has the same, protection information left out (NVM Command Set 3.2.1). */
bool vn_meta_is_hosts(const struct vn_meta_move *move, struct vn_meta_slot *slot);

#endif
