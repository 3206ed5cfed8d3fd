/* Log pages of any size: each is put together piece by piece, and what the host asked for of it is copied as it comes.
 * Used by log_*.c and the owners of other pages. Owner: the controller's reactor.
 */
#ifndef VN_CTRL_LOG_H
#define VN_CTRL_LOG_H

#include "ctrl/fabrics.h"

/* One pass over a page. The first only measures it; the second copies. */
struct vn_log {
    struct vn_req *req;
    uint64_t offset; /* of what the host wants first */
    uint64_t at;     /* of the next piece */
    uint32_t iov;    /* where in the host's buffer the next byte goes; nr_iov: nowhere */
    size_t iov_done;
};

/* The next bytes of the page. data may be the controller's scratch page. */
void vn_log_put(struct vn_log *log, const void *data, uint64_t bytes);
/* Whether any of the next bytes is copied: if not, vn_log_skip does for vn_log_put. */
bool vn_log_wants(const struct vn_log *log, uint64_t bytes);
void vn_log_skip(struct vn_log *log, uint64_t bytes);

/* Pages, and what is asked of some before they are read: a status that refuses, or 0. */
vn_status vn_smart_begin(struct vn_req *req);
void vn_smart_log(struct vn_log *log);
void vn_firmware_log(struct vn_log *log);
void vn_self_test_log(struct vn_log *log);
vn_status vn_telemetry_begin(struct vn_req *req);
void vn_telemetry_host_log(struct vn_log *log);
void vn_telemetry_ctrl_log(struct vn_log *log);
void vn_telemetry_was_read(struct vn_ctrl *ctrl);
vn_status vn_endurance_begin(struct vn_req *req);
void vn_endurance_log(struct vn_log *log);
void vn_endurance_events_log(struct vn_log *log);
vn_status vn_events_begin(struct vn_req *req);
void vn_events_log(struct vn_log *log);
void vn_sanitize_log(struct vn_log *log);
void vn_lba_status_log(struct vn_log *log);

#define VN_TEMPERATURE_K (273u + 37) /* that it always has */
/* log_smart.c: the page's fields, for other logs too. */
struct vn_log_smart vn_smart_page(const struct vn_ctrl *ctrl);
uint64_t vn_power_on_hours(const struct vn_ctrl *ctrl);

/* The pages of fabrics. */
void vn_ana_log(struct vn_log *log);
void vn_discovery_log(struct vn_log *log);

#endif
