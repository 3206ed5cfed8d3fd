/* What a controller of fabrics has beyond one on PCI. The target makes and fills it before it answers Connect;
 * fabrics.c and discovery.c in here use it. Owner: the controller's reactor.
 */
#ifndef VN_CTRL_FABRICS_H
#define VN_CTRL_FABRICS_H

#include "core/fabrics.h"
#include "ctrl/ctrl.h"

#define VN_MAX_ANA_GROUPS 32u
#define VN_IOCCSZ_BYTES 8192u /* in-capsule data that every queue takes; ICDOFF is 0 */

/* The states of a subsystem's groups, as seen through one listener. */
struct vn_ana {
    uint64_t change_count;
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
    const struct vn_ana *ana;
    const uint8_t *ana_group; /* by NSID */
};

#endif
