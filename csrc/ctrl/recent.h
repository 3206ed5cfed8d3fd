/* The last commands of a drive that were out of the ordinary: admin commands, and I/O that failed. For the telemetry log. */
#ifndef VN_CTRL_RECENT_H
#define VN_CTRL_RECENT_H

#include <stdint.h>

#include "core/nvme.h"

#define VN_NR_RECENT 64u

struct vn_recent {
    uint64_t nr; /* that there have been; the newest is at nr - 1 */
    struct vn_recent_command {
        uint64_t ns, slba; /* ns: when it ended, on the monotonic clock */
        uint32_t nsid, latency_us; /* latency: of admin commands */
        uint16_t cntlid, sqid;
        vn_status status;
        uint8_t opcode;
    } commands[VN_NR_RECENT];
};

struct vn_drive;
struct vn_req;
/* log_telemetry.c. It is about to be told to the host: its status is final. */
void vn_recent_add(struct vn_drive *drive, const struct vn_req *req);

#endif
