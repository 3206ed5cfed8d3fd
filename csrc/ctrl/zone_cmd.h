/* What zoned namespaces have that others have not: commands (zone_cmd.c, zone_manage.c), Identify, log and event
 * (identify_zns.c). Owner: the controller's reactor.
 */
#ifndef VN_CTRL_ZONE_CMD_H
#define VN_CTRL_ZONE_CMD_H

#include "core/nvme_zns.h"
#include "ctrl/io_cmd.h"
#include "ns/zoned.h"

static inline struct vn_zones *vn_zones_of(const struct vn_req *req) {
    return &req->ns->ns->zoned->zones;
}

/* zone_cmd.c. Any I/O command of a zoned namespace, in place of what io_cmd.c does with one of another. */
vn_status vn_zone_execute(struct vn_req *req);
/* The same again, later, as some other command has the zone. */
void vn_zone_wait(struct vn_req *req);
/* A write goes there now, until the request ends; or why it may not. */
vn_status vn_zone_begin_write(struct vn_req *req, uint64_t slba, uint64_t nlb);
uint32_t vn_zone_effects(uint8_t opcode); /* of the commands that only zoned namespaces have; 0: it is none */

/* zone_manage.c */
vn_status vn_zone_send(struct vn_req *req);
vn_status vn_zone_receive(struct vn_req *req);

/* identify_zns.c. Identify with CSI 02h: the page is zeros, and goes to the host when the answer is SUCCESS. */
vn_status vn_identify_zns(struct vn_req *req, uint8_t cns);
/* Whether the controller has a zoned namespace now: then it says that it knows of zones. */
bool vn_ctrl_has_zones(const struct vn_ctrl *ctrl);
/* The most that one Zone Append can have, bytes. */
uint32_t vn_zone_append_limit(const struct vn_ctrl *ctrl, const struct vn_ns *ns);
/* A zone has changed by itself: all controllers that have the namespace are told. */
void vn_zone_tell(const struct vn_req *req, uint32_t index);

struct vn_log;
/* Log page BFh. */
vn_status vn_zone_begin_changed(struct vn_req *req);
void vn_zone_put_changed(struct vn_log *log);
void vn_zone_forget_changed(struct vn_req *req);

#endif
