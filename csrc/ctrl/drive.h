/* A drive: the NVM subsystem that controllers on PCI belong to. What they share: the namespaces allocated in it, and the kept state
 * (SMART, saved features, logs). Controllers of fabrics targets have none.
 * Owner: one reactor, home of all its controllers; made and freed on the control thread.
 */
#ifndef VN_CTRL_DRIVE_H
#define VN_CTRL_DRIVE_H

#include "core/keep.h"
#include "ctrl/ctrl.h"

#define VN_DRIVE_KEPT_VERSION 1u

/* The payload of its file, docs/state.md. New fields come at the end; a shorter payload of an older file leaves them zero. */
struct vn_drive_kept {
    uint64_t power_cycles, unsafe_shutdowns;
    uint32_t running; /* 1: written at the start, 0 at an orderly end */
    uint32_t rsvd20[11];
};

struct vn_drive {
    struct vn_reactor *reactor;
    struct vn_ctrl *ctrls[VN_DRIVE_MAX_CTRLS]; /* in no order; NULL: free */
    struct vn_ns *spaces[VN_MAX_NAMESPACES + 1]; /* allocated, by NSID; attached to a controller or not */
    struct vn_keep *keep;
    struct vn_drive_kept kept;
    vn_runtime *owner; /* control thread only; NULL: it is a controller's own */
};

/* Control thread. opts NULL: one for a single controller, in memory. -errno, and error holds a sentence. */
int vn_drive_open(const struct vn_drive_opts *opts, struct vn_reactor *reactor, struct vn_drive **out, char *error,
                  uint32_t error_size);
void vn_drive_close(struct vn_drive *drive); /* nothing is being saved, and no controller is left */
bool vn_drive_has_ctrls(const struct vn_drive *drive);

/* Reactor, or before anything runs. -ENOSPC: it has all the controllers it can have; -EEXIST: that CNTLID is taken. */
int vn_drive_join(struct vn_drive *drive, struct vn_ctrl *ctrl);
void vn_drive_leave(struct vn_ctrl *ctrl);
/* Reactor: a namespace is allocated. -EEXIST: the NSID is another's. Again for the same one: nothing happens. */
int vn_drive_add_ns(struct vn_drive *drive, struct vn_ns *ns, uint32_t nsid);
/* Reactor: a controller has it no longer; it is allocated as long as another one has it. */
void vn_drive_drop_ns(struct vn_drive *drive, uint32_t nsid);
/* Reactor: something kept, of the controller's drive or its namespaces, is being saved, or one of them formatted: it cannot move
 * now. */
bool vn_ctrl_saves(const struct vn_ctrl *ctrl);
/* The channel that a controller has to a namespace, or NULL. */
static inline struct vn_ns_chan *vn_drive_chan(const struct vn_ctrl *ctrl, uint32_t nsid) {
    return vn_ns_table_get(&ctrl->namespaces, nsid);
}

#endif
