/* I/O commands of namespaces whose blocks have metadata (VN_NS_SPECIAL_META): through buffers of ours, under a lock on their
 * blocks, with protection information checked, made or taken out. Called after the gate; the plain path knows nothing of it.
 */
#ifndef VN_META_IO_H
#define VN_META_IO_H

#include "ctrl/ctrl.h"
#include "ns/meta.h"

/* Whether a command of such a namespace goes this way. */
bool vn_meta_takes(uint8_t opcode);

/* The command goes on in resume when some slot has been given back. */
void vn_meta_wait(struct vn_req *req, void (*resume)(struct vn_req *req));
/* One that waits so has been cancelled: it ends on the next turn. */
void vn_meta_cancel(struct vn_req *req);
bool vn_meta_has_waiting(const struct vn_ns_chan *nsc);

/* SUCCESS: it is under way or has ended; else how it is to end. */
vn_status vn_meta_execute(struct vn_req *req);

/* Fused Compare and Write: one slot for both, from before the compare until the write has ended. */
vn_status vn_meta_prepare(struct vn_req *req); /* what is wrong with either */
bool vn_meta_compare_first(struct vn_req *first); /* false: there is no slot now, or somebody has the blocks */
/* The compare has ended with SUCCESS: the write goes on with the slot, or nobody does. */
void vn_meta_write_second(struct vn_meta_slot *slot, struct vn_req *second);
void vn_meta_end_fused(struct vn_req *first);
#endif
