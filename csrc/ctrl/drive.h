/* A drive: the NVM subsystem that controllers on PCI belong to. What they share: the namespaces allocated in it, and the kept state
 * (SMART, saved features, logs). Controllers of fabrics targets have none.
 * Owner: one reactor, home of all its controllers; made and freed on the control thread.
 */
#ifndef VN_CTRL_DRIVE_H
#define VN_CTRL_DRIVE_H

#include "core/keep.h"
#include "ctrl/fabrics.h"

#define VN_DRIVE_KEPT_VERSION 1u

/* The payload of its file, docs/state.md. New fields come at the end; a shorter payload of an older file leaves them zero. */
struct vn_drive_kept {
    uint64_t power_cycles, unsafe_shutdowns;
    uint32_t running; /* 1: written at the start, 0 at an orderly end */
    uint32_t rsvd20[11];
};

/* Commands that are decided by Python: they wait in order, and the first of them is asked about. decision.c. */
struct vn_decisions {
    struct vn_req *first, *last; /* linked by filter[0]; filter[1]: until when */
    struct vn_req *asked_for;    /* the first one, when it is what Python was asked about; NULL: it has gone meanwhile */
    struct vn_decision asked;    /* id 0: Python is asked nothing */
    uint64_t last_id;
    struct vn_timer timer;
};

struct vn_drive {
    struct vn_reactor *reactor;
    uint32_t flags; /* VN_DRIVE_* */
    uint32_t nsid_max;
    struct vn_ctrl *ctrls[VN_DRIVE_MAX_CTRLS]; /* in no order; NULL: free */
    struct vn_ns *spaces[VN_MAX_NAMESPACES + 1]; /* allocated, by NSID; attached to a controller or not */
    uint8_t space_flags[VN_MAX_NAMESPACES + 1]; /* VN_SPACE_*, and VN_SPACE_STAYS; of those allocated */
    uint8_t ana_group[VN_MAX_NAMESPACES + 1];
    struct vn_ana views[VN_DRIVE_MAX_CTRLS]; /* by the controller's place in ctrls */
    uint64_t capacity, unallocated; /* bytes; capacity 0: what the namespaces have together */
    struct vn_decisions decisions;
    struct vn_persona *persona; /* persona.h; NULL: none */
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
#define VN_SPACE_STAYS 0x80u /* it is allocated while no controller has it, too */
bool vn_drive_is_shared(const struct vn_drive *drive, uint32_t nsid);
uint32_t vn_drive_next_space(const struct vn_drive *drive, uint32_t nsid); /* the next allocated NSID above it; 0: none */
struct vn_ctrl *vn_drive_ctrl(const struct vn_drive *drive, uint16_t cntlid); /* NULL: there is none */
uint16_t vn_drive_next_cntlid(const struct vn_drive *drive, uint16_t from); /* the next from that one on; FFFFh: none */
/* A namespace has come to a controller, or gone: its ANA log has changed. */
void vn_drive_count_change(const struct vn_ctrl *ctrl);
static inline bool vn_ctrl_is_managed(const struct vn_ctrl *ctrl) {
    return ctrl->drive && (ctrl->drive->flags & VN_DRIVE_MANAGED);
}

/* decision.c: Namespace Management and Attachment. True: the command waits for its answer; else *status is its outcome. */
bool vn_decision_park(struct vn_req *req, vn_status *status);
/* The controller's commands need not wait any longer: they end as aborted. */
void vn_decision_drop(struct vn_ctrl *ctrl);
int vn_decision_answer(struct vn_drive *drive, uint64_t id, vn_status status, uint32_t result, uint64_t specific);

/* Reactor: something kept, of the controller's drive or its namespaces, is being saved, or one of them formatted: it cannot move
 * now. */
bool vn_ctrl_saves(const struct vn_ctrl *ctrl);
/* The channel that a controller has to a namespace, or NULL. */
static inline struct vn_ns_chan *vn_drive_chan(const struct vn_ctrl *ctrl, uint32_t nsid) {
    return vn_ns_table_get(&ctrl->namespaces, nsid);
}

#endif
