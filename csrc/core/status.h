/* The only translator from errno to NVMe status. */
#ifndef VN_CORE_STATUS_H
#define VN_CORE_STATUS_H

#include <stdbool.h>

#include "core/nvme.h"

/* What the guest is told when a backend failed with err (positive errno). Permanent ones carry DNR. */
vn_status vn_status_from_errno(int err, bool is_write);
/* The status with DNR when repeating the command cannot help, as for every status a malformed command gets. Over another
 * path, or later over this one, it may well help (type 3), and so it does when a format, or what else goes on, has ended. */
static inline vn_status vn_status_dnr(vn_status status) {
    unsigned code = VN_STATUS_CODE(status);
    bool may_help = code >> 8 == 3 || code == VN_SC_FORMAT_IN_PROGRESS || code == VN_SC_SANITIZE_IN_PROGRESS ||
                    code == VN_SC_SELF_TEST_IN_PROGRESS;
    return status && !may_help ? (vn_status)(status | VN_STATUS_DNR) : status;
}

#endif
