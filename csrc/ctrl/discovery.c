/* The discovery log page (Base 5.16.1.23), record by record as the door answers them: there may be any number.
 * Called by log_page.c, and by the target when what it offers has changed.
 */
#include <string.h>

#include "ctrl/log.h"

#define NR_MAX 65536u /* no target has more: a bound for a door that never ends */

void vn_discovery_changed(struct vn_ctrl *ctrl) {
    vn_aer_raise(ctrl, VN_AEN_NOTICE, VN_AEN_NOTICE_DISCOVERY);
}

static bool read_entry(struct vn_ctrl *ctrl, uint32_t index, struct vn_discovery_entry *entry) {
    memset(entry, 0, sizeof(*entry));
    return ctrl->door->discovery_entry(ctrl, index, entry);
}

void vn_discovery_log(struct vn_log *log) {
    struct vn_ctrl *ctrl = log->req->ctrl;
    struct vn_discovery_entry entry;
    uint32_t nr = 0;
    while (nr < NR_MAX && read_entry(ctrl, nr, &entry))
        nr++;
    vn_log_put(log, &(struct vn_discovery_log){.genctr = ctrl->door->discovery_genctr(ctrl), .numrec = nr},
               sizeof(struct vn_discovery_log));
    for (uint32_t i = 0; i < nr; i++) {
        if (!vn_log_wants(log, sizeof(entry))) {
            vn_log_skip(log, sizeof(entry));
            continue;
        }
        read_entry(ctrl, i, &entry);
        vn_log_put(log, &entry, sizeof(entry));
    }
}
