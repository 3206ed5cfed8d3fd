/* What a namespace is beyond its plain blocks, and what of that is kept: format, marks, reservations, write protection. Made by the
 * control thread, before the first controller on PCI has the namespace; from then on its drive's reactor's alone.
 */
#ifndef VN_NS_STATE_H
#define VN_NS_STATE_H

#include "core/keep.h"
#include "ns/ns.h"

#define VN_NS_KEPT_VERSION 1u

/* The payload of its file, docs/state.md. New fields come at the end; a shorter payload of an older file leaves them zero. */
struct vn_ns_kept {
    uint32_t write_protect; /* enum vn_write_protect: feature 84h */
    uint32_t rsvd4[15];
};

struct vn_ns_state {
    struct vn_keep *keep;
    struct vn_ns_kept kept;
    vn_status refusal; /* how every I/O command ends: its drive is being sanitized, or could not be; 0: it does not */
};

/* Control thread; once. With a state_path it reads what is there. */
int vn_ns_state_open(struct vn_ns *ns, char *error, uint32_t error_size);
void vn_ns_state_close(struct vn_ns *ns);
/* Reactor: ns->special follows from the state. */
void vn_ns_state_look(struct vn_ns *ns);

#endif
