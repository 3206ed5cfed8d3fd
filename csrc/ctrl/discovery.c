/* The discovery log page (Base 5.16.1.23), record by record as the door answers them: there may be any number.
 * Called by log_page.c, and by the target when what it offers has changed.
 */
#include <string.h>

#include "ctrl/log.h"

#define NR_MAX 65536u /* no target has more: a bound for a door that never ends */
_Static_assert((VN_MAX_SUBSYSTEMS + 1) * VN_MAX_LISTENERS + VN_MAX_REFERRALS <= NR_MAX, "all that a target has");

void vn_discovery_changed(struct vn_ctrl *ctrl) {
    vn_aer_raise(ctrl, VN_AEN_NOTICE, VN_AEN_NOTICE_DISCOVERY);
}

/* Two passes, for what is behind the header is counted in it. */
void vn_discovery_log(struct vn_log *log) {
    struct vn_ctrl *ctrl = log->req->ctrl;
    const struct vn_door_ops *door = ctrl->door;
    struct vn_discovery_cursor counted = {0}, at = {0};
    struct vn_discovery_entry entry;
    uint32_t nr = 0;
    while (nr < NR_MAX && door->discovery_entry(ctrl, &counted, NULL))
        nr++;
    vn_log_put(log, &(struct vn_discovery_log){.genctr = door->discovery_genctr(ctrl), .numrec = nr},
               sizeof(struct vn_discovery_log));
    for (uint32_t i = 0; i < nr; i++) {
        if (!vn_log_wants(log, sizeof(entry))) {
            door->discovery_entry(ctrl, &at, NULL);
            vn_log_skip(log, sizeof(entry));
            continue;
        }
        memset(&entry, 0, sizeof(entry));
        door->discovery_entry(ctrl, &at, &entry);
        vn_log_put(log, &entry, sizeof(entry));
    }
}
