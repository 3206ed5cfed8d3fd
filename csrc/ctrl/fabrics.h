/* What a controller of fabrics has beyond one on PCI. The target makes and fills it before it answers Connect;
 * fabrics.c, ana.c and discovery.c use it. Owner: the controller's reactor.
 */
#ifndef VN_CTRL_FABRICS_H
#define VN_CTRL_FABRICS_H

#include "core/fabrics.h"
#include "ctrl/ctrl.h"

#define VN_MAX_ANA_GROUPS 32u
#define VN_IOCCSZ_BYTES 8192u /* in-capsule data that every queue takes; ICDOFF is 0 */
#define VN_KAS_MS 100u        /* granularity of the keep-alive timeout */

/* The states of a subsystem's groups, as seen through one listener, or by one controller of a drive. */
struct vn_ana {
    uint64_t change_count; /* of anything in the log: also that a namespace has come or gone */
    uint8_t state[VN_MAX_ANA_GROUPS + 1];           /* enum vn_ana_state, by ANAGRPID; [0] is never used */
    uint64_t group_change_count[VN_MAX_ANA_GROUPS + 1];
};

struct vn_fabrics {
    uint8_t kind; /* VN_CNTRLTYPE_* */
    uint8_t ciu;  /* which of the controllers that have had this CNTLID, with cirn: for Cross-Controller Reset */
    uint64_t cirn;
    uint32_t kato_ms; /* 0: it may be silent for ever */
    char hostnqn[VN_NQN_MAX + 1];
    uint8_t hostid[16];
};

/* What kinds of controller have something: bits of a set. */
enum vn_ctrl_kind {
    VN_KIND_PCI = 1u << 0,
    VN_KIND_IO = 1u << VN_CNTRLTYPE_IO, /* on fabrics, as the next */
    VN_KIND_DISCOVERY = 1u << VN_CNTRLTYPE_DISCOVERY,
};
#define VN_KIND_FABRICS ((unsigned)(VN_KIND_IO | VN_KIND_DISCOVERY))
#define VN_KIND_ANY ((unsigned)VN_KIND_PCI | VN_KIND_FABRICS)

static inline unsigned vn_ctrl_kind(const struct vn_ctrl *ctrl) {
    return ctrl->fabrics ? 1u << ctrl->fabrics->kind : VN_KIND_PCI;
}

static inline bool vn_ctrl_has_ana(const struct vn_ctrl *ctrl) {
    return ctrl->ana;
}

/* Where a pass over the discovery entries is; all zero: before the first. What it means is the door's; good for as long as
 * the reactor does nothing else. */
struct vn_discovery_cursor {
    bool begun;
    uint32_t index;
    const void *place;
};

/* fabrics.c */
/* After vn_ctrl_init_fabrics: the controller is one of that kind. fabrics is filled in, and stays. */
void vn_fabrics_begin(struct vn_ctrl *ctrl, struct vn_fabrics *fabrics);
/* What is refused of any command on fabrics before it is looked at: 0, or the status. */
vn_status vn_fabrics_check(const struct vn_req *req);
/* A command of opcode 7Fh, on any queue: it is ended, or with the door. */
void vn_fabrics_execute(struct vn_req *req);
/* A keep-alive timeout as it is kept: rounded up to VN_KAS_MS. */
uint32_t vn_kato_round(uint32_t ms);

/* ana.c */
void vn_ana_init(struct vn_ana *ana); /* all optimized */
/* True: it has changed; then vn_ana_changed is due for each controller that has this view. */
bool vn_ana_set(struct vn_ana *ana, uint32_t group, enum vn_ana_state state);
/* Tell the host. */
void vn_ana_changed(struct vn_ctrl *ctrl);
/* The path status of a command for a namespace that is not to be had over this path now; 0: it is. */
vn_status vn_ana_check(const struct vn_ctrl *ctrl, uint32_t nsid);

/* discovery.c */
/* What door->discovery_entry answers has changed: tell the host. */
void vn_discovery_changed(struct vn_ctrl *ctrl);

#endif
