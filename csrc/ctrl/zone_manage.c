/* Zone Management Send and Receive (Zoned Namespace Command Set 3.4). An action is answered when the new states are durable.
 * A reset first waits for the zone's writes, then erases its blocks, a piece a turn, and then the zone is empty: until then it is
 * held, and commands for it wait. Called by zone_cmd.c.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/log.h"
#include "ctrl/zone_cmd.h"

#define ERASE_BYTES (16ull << 20) /* at a time: what a memory backend does without letting others have a turn */

/* --- Reset. req->step: the zone, nr_steps: the one after the last; result_high: 1 while this command holds the zone --- */
static void reset_next(struct vn_req *req);

static struct vn_zone *zone_at(const struct vn_req *req) {
    return &vn_zones_of(req)->zones[req->step];
}

static bool is_for_all(const struct vn_req *req) {
    return req->cmd.cdw13 & VN_ZONE_SELECT_ALL;
}

static void let_go(struct vn_req *req) {
    if (req->result_high)
        zone_at(req)->held = false;
    req->result_high = 0;
}

static void on_reset_end(struct vn_req *req, void *arg) {
    (void)arg;
    let_go(req);
    vn_req_complete(req, req->status);
}

static void erase_next(struct vn_req *req);

static void on_erased(struct vn_req *req, void *arg) {
    (void)arg;
    vn_req_set_state(req, VN_REQ_FETCHED);
    if (req->status || req->cancelled) {
        vn_req_complete(req, req->status ? req->status : VN_SC_ABORT_REQUESTED);
        return;
    }
    req->offset += req->length;
    vn_ctrl_resume_later(req, erase_next); /* others first */
}

static void erase_next(struct vn_req *req) {
    struct vn_zones *zones = vn_zones_of(req);
    uint64_t end = (vn_zones_start(zones, req->step) + zone_at(req)->wp) << req->ns->ns->block_shift;
    if (req->offset < end) {
        req->op = VN_OP_WRITE_ZEROES;
        req->io_flags = VN_REQ_MAY_UNMAP;
        req->limits = VN_REQ_PAID; /* it is one command, which has paid */
        req->length = vn_min_u64(end - req->offset, ERASE_BYTES);
        vn_req_push(req, on_erased, NULL);
        vn_io_submit(req);
        return;
    }
    bool changed;
    vn_status status = vn_zones_act(zones, req->step, VN_ZONE_RESET, &changed);
    let_go(req);
    if (status) {
        vn_req_complete(req, vn_status_dnr(status));
        return;
    }
    req->step++;
    vn_ctrl_resume_later(req, reset_next);
}

static void wait_for_writes(struct vn_req *req) {
    if (zone_at(req)->inflight)
        vn_ctrl_resume_later(req, wait_for_writes);
    else
        erase_next(req);
}

static void reset_next(struct vn_req *req) {
    struct vn_zones *zones = vn_zones_of(req);
    while (is_for_all(req) && req->step < req->nr_steps && !zone_at(req)->held &&
           !vn_zones_concerns(zones, req->step, VN_ZONE_RESET))
        req->step++;
    if (req->step == req->nr_steps) {
        vn_ns_sync_zones(req->ns, req);
        return;
    }
    if (zone_at(req)->held) {
        vn_ctrl_resume_later(req, reset_next);
        return;
    }
    vn_status status = vn_zones_check_act(zones, req->step, VN_ZONE_RESET);
    if (status) {
        vn_req_complete(req, vn_status_dnr(status));
        return;
    }
    zone_at(req)->held = true;
    req->result_high = 1;
    req->offset = vn_zones_start(zones, req->step) << req->ns->ns->block_shift;
    req->length = 0;
    wait_for_writes(req);
}

static void reset(struct vn_req *req, uint32_t first, uint32_t end) {
    req->step = first;
    req->nr_steps = end;
    vn_req_push(req, on_reset_end, NULL);
    reset_next(req);
}

/* --- The other actions change states only --- */
static vn_status act_on_all(struct vn_zones *zones, enum vn_zone_action action) {
    bool changed;
    vn_status status = action == VN_ZONE_OPEN ? vn_zones_check_open_all(zones) : VN_SC_SUCCESS;
    for (uint32_t i = 0; !status && i < zones->geometry.nr; i++) {
        if (vn_zones_concerns(zones, i, action))
            status = vn_zones_act(zones, i, action, &changed);
    }
    return status;
}

static vn_status set_extension(struct vn_req *req, uint32_t index) {
    struct vn_zones *zones = vn_zones_of(req);
    if (!zones->geometry.extension_bytes || is_for_all(req)) {
        req->error_location = 52; /* CDW13 */
        return VN_SC_INVALID_FIELD;
    }
    vn_status status = vn_ctrl_receive(req, req->buffer, zones->geometry.extension_bytes);
    return status ? status : vn_zones_set_extension(zones, index, req->buffer);
}

static vn_status act(struct vn_req *req, enum vn_zone_action action, uint32_t index) {
    bool changed;
    vn_status status;
    if (action == VN_ZONE_SET_EXTENSION)
        status = set_extension(req, index);
    else if (is_for_all(req))
        status = act_on_all(vn_zones_of(req), action);
    else
        status = vn_zones_act(vn_zones_of(req), index, action, &changed);
    if (!status)
        vn_ns_sync_zones(req->ns, req);
    return status;
}

static bool is_action(uint32_t action) {
    return (action >= VN_ZONE_CLOSE && action <= VN_ZONE_SET_OFFLINE) || action == VN_ZONE_SET_EXTENSION;
}

vn_status vn_zone_send(struct vn_req *req) {
    const struct vn_zones *zones = vn_zones_of(req);
    uint64_t slba = vn_io_slba(&req->cmd);
    uint32_t action = VN_ZONE_ZSA(req->cmd.cdw13), index = 0;
    req->op = VN_OP_WRITE_ZEROES; /* a command that changes data, whatever counts it */
    req->error_location = 52;     /* CDW13 */
    if (!is_action(action))
        return VN_SC_INVALID_FIELD;
    if (!is_for_all(req)) { /* else SLBA is ignored */
        req->error_location = 40; /* CDW10 */
        if (!vn_ns_has_blocks(req->ns->ns, slba, 1))
            return VN_SC_LBA_RANGE;
        index = vn_zones_index(zones, slba);
        if (vn_zones_start(zones, index) != slba)
            return VN_SC_INVALID_FIELD;
    }
    req->error_location = 0xffff;
    if (req->ns->ns->read_only || vn_backend_latched(req->ns->ns->backend))
        return VN_SC_NS_WRITE_PROTECTED;
    if (action == VN_ZONE_RESET) {
        reset(req, index, is_for_all(req) ? zones->geometry.nr : index + 1);
        return VN_SC_SUCCESS;
    }
    if (!is_for_all(req) && zones->zones[index].held) {
        vn_zone_wait(req);
        return VN_SC_SUCCESS;
    }
    return act(req, action, index);
}

/* --- Zone Management Receive: a report --- */
static bool is_reported(const struct vn_zone *zone, uint32_t filter) {
    static const uint8_t states[] = {0, VN_ZONE_EMPTY, VN_ZONE_IMPLICIT, VN_ZONE_EXPLICIT,
                                     VN_ZONE_CLOSED, VN_ZONE_FULL, VN_ZONE_READ_ONLY, VN_ZONE_OFFLINE};
    return !filter || zone->state == states[filter];
}

static void put_zone(struct vn_log *log, const struct vn_zones *zones, uint32_t index) {
    const struct vn_zone *zone = &zones->zones[index];
    bool has_wp = zone->state < VN_ZONE_READ_ONLY;
    struct vn_zone_desc desc = {.zt = VN_ZONE_TYPE_SEQUENTIAL,
                                .zs = (uint8_t)(zone->state << 4),
                                .za = zone->attributes,
                                .zcap = zones->geometry.capacity,
                                .zslba = vn_zones_start(zones, index),
                                .wp = UINT64_MAX};
    if (has_wp)
        desc.wp = desc.zslba + zone->wp;
    vn_log_put(log, &desc, sizeof(desc));
}

/* Fills the host's buffer after the head. Answers how many zones there are to report, or only how many of them fit. */
static uint64_t put_zones(struct vn_req *req, uint32_t bytes, bool extended) {
    const struct vn_zones *zones = vn_zones_of(req);
    uint32_t filter = VN_ZONE_ZRASF(req->cmd.cdw13), extension = extended ? zones->geometry.extension_bytes : 0;
    uint64_t nr = 0, fit = (bytes - sizeof(struct vn_zone_report_head)) / (sizeof(struct vn_zone_desc) + extension);
    bool partial = req->cmd.cdw13 & VN_ZONE_PARTIAL;
    struct vn_log log = {.req = req, .offset = 0};
    static const struct vn_zone_report_head none;
    vn_log_put(&log, &none, sizeof(none));
    for (uint32_t i = vn_zones_index(zones, vn_io_slba(&req->cmd)); i < zones->geometry.nr; i++) {
        if (!is_reported(&zones->zones[i], filter))
            continue;
        if (nr == fit && partial)
            break;
        if (nr++ >= fit)
            continue;
        put_zone(&log, zones, i);
        if (extension)
            vn_log_put(&log, zones->extensions + (size_t)i * extension, extension);
    }
    while (vn_log_wants(&log, 1)) /* to the end of the buffer */
        vn_log_put(&log, &none, sizeof(none));
    return nr;
}

vn_status vn_zone_receive(struct vn_req *req) {
    const struct vn_zones *zones = vn_zones_of(req);
    uint32_t action = VN_ZONE_ZRA(req->cmd.cdw13);
    uint64_t bytes = ((uint64_t)req->cmd.cdw12 + 1) * 4; /* NUMD, 0's based */
    req->error_location = 40; /* CDW10 */
    if (!vn_ns_has_blocks(req->ns->ns, vn_io_slba(&req->cmd), 1))
        return VN_SC_LBA_RANGE;
    req->error_location = 52; /* CDW13 */
    if (action > VN_ZONE_EXTENDED_REPORT || VN_ZONE_ZRASF(req->cmd.cdw13) > 7 ||
        (action == VN_ZONE_EXTENDED_REPORT && !zones->geometry.extension_bytes))
        return VN_SC_INVALID_FIELD;
    req->error_location = 48; /* CDW12 */
    if (bytes < sizeof(struct vn_zone_report_head) || bytes > vn_ctrl_max_transfer(req->ctrl))
        return VN_SC_INVALID_FIELD;
    req->error_location = 0xffff;
    vn_status status = req->ctrl->door->map(req, (uint32_t)bytes);
    if (status)
        return status;
    struct vn_zone_report_head head = {.nr_zones = put_zones(req, (uint32_t)bytes, action == VN_ZONE_EXTENDED_REPORT)};
    struct vn_log log = {.req = req, .offset = 0};
    vn_log_put(&log, &head, sizeof(head));
    vn_ctrl_end(req, VN_SC_SUCCESS);
    return VN_SC_SUCCESS;
}
