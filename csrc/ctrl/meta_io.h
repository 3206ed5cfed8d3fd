/* I/O commands of namespaces whose blocks have metadata (VN_NS_SPECIAL_META): through buffers of ours, under a lock on their
 * blocks, with protection information checked, made or taken out. Called after the gate; the plain path knows nothing of it.
 */
#ifndef VN_META_IO_H
#define VN_META_IO_H

#include "ctrl/ctrl.h"
#include "ns/meta.h"

/* Whether a command of such a namespace goes this way. */
bool vn_meta_takes(uint8_t opcode);
/* SUCCESS: it is under way or has ended; else how it is to end. */
vn_status vn_meta_execute(struct vn_req *req);
#endif
