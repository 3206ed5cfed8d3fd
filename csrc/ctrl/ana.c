/* Asymmetric namespace access (Base 8.1): the states of groups, the log page that tells of them, and what they forbid.
 * The view belongs to the target, which has one for each listener of a subsystem, or to the drive, which has one for each
 * controller.
 */
#include <string.h>

#include "ctrl/log.h"

void vn_ana_init(struct vn_ana *ana) {
    memset(ana, 0, sizeof(*ana));
    memset(ana->state, VN_ANA_OPTIMIZED, sizeof(ana->state));
}

bool vn_ana_set(struct vn_ana *ana, uint32_t group, enum vn_ana_state state) {
    if (ana->state[group] == state)
        return false;
    ana->state[group] = (uint8_t)state;
    ana->group_change_count[group]++;
    ana->change_count++;
    return true;
}

void vn_ana_changed(struct vn_ctrl *ctrl) {
    vn_aer_raise(ctrl, VN_AEN_NOTICE, VN_AEN_NOTICE_ANA);
}

vn_status vn_ana_check(const struct vn_ctrl *ctrl, uint32_t nsid) {
    if (!vn_ctrl_has_ana(ctrl))
        return VN_SC_SUCCESS;
    switch (ctrl->ana->state[ctrl->ana_group[nsid]]) {
    case VN_ANA_INACCESSIBLE:
        return VN_SC_ANA_INACCESSIBLE;
    case VN_ANA_PERSISTENT_LOSS:
        return VN_SC_ANA_PERSISTENT_LOSS;
    case VN_ANA_CHANGE:
        return VN_SC_ANA_TRANSITION;
    default:
        return VN_SC_SUCCESS;
    }
}

/* The namespaces that this host sees, by group: heads[group] is the lowest NSID, next[nsid] the one after it. */
struct members {
    uint16_t heads[VN_MAX_ANA_GROUPS + 1], next[VN_MAX_NAMESPACES + 1];
    uint16_t count[VN_MAX_ANA_GROUPS + 1];
};

static uint32_t sort_members(const struct vn_ctrl *ctrl, struct members *members) {
    uint16_t tails[VN_MAX_ANA_GROUPS + 1] = {0};
    uint32_t nr_groups = 0;
    memset(members, 0, sizeof(*members));
    for (uint32_t nsid = vn_ns_table_next(&ctrl->namespaces, 0); nsid; nsid = vn_ns_table_next(&ctrl->namespaces, nsid)) {
        uint8_t group = ctrl->ana_group[nsid];
        if (tails[group]) {
            members->next[tails[group]] = (uint16_t)nsid;
        } else {
            members->heads[group] = (uint16_t)nsid;
            nr_groups++;
        }
        tails[group] = (uint16_t)nsid;
        members->count[group]++;
    }
    return nr_groups;
}

/* Groups that have a namespace which this host sees; with RGO, without their namespaces (Base 5.16.1.13). */
void vn_ana_log(struct vn_log *log) {
    const struct vn_ctrl *ctrl = log->req->ctrl;
    const struct vn_ana *ana = ctrl->ana;
    bool groups_only = log->req->cmd.cdw10 & VN_ANA_LOG_RGO;
    struct members members;
    uint32_t nr_groups = sort_members(ctrl, &members);
    vn_log_put(log, &(struct vn_ana_log){.change_count = ana->change_count, .nr_groups = (uint16_t)nr_groups},
               sizeof(struct vn_ana_log));
    for (uint32_t group = 1; group <= VN_MAX_ANA_GROUPS; group++) {
        if (!members.count[group])
            continue;
        struct vn_ana_group entry = {.anagrpid = group, .nr_nsids = groups_only ? 0 : members.count[group],
                                     .change_count = ana->group_change_count[group], .state = ana->state[group]};
        vn_log_put(log, &entry, sizeof(entry));
        for (uint32_t nsid = groups_only ? 0 : members.heads[group]; nsid; nsid = members.next[nsid])
            vn_log_put(log, &nsid, sizeof(nsid));
    }
}
