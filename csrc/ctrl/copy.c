/* Copy (NVM Command Set 3.2.2): all source ranges are read into a bounce buffer, one after the other, then written at once.
 * So nothing is overwritten before it was read, however source and destination overlap; MCL is what the buffer holds.
 * A source that cannot be read: what comes before it is written all the same, and CDW0 says how far that goes.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/bounce.h"
#include "ctrl/copy.h"
#include "ctrl/zone_cmd.h"

_Static_assert(VN_COPY_LIST_BYTES_MAX <= sizeof(((struct vn_bounce *)0)->list), "the list fits");

static uint32_t max_blocks(const struct vn_ns *ns) {
    return VN_BOUNCE_BYTES >> ns->block_shift;
}

void vn_io_copy_limits(const struct vn_ns *ns, struct vn_id_ns *id) {
    id->mssrl = (uint16_t)max_blocks(ns);
    id->mcl = max_blocks(ns);
    id->msrc = VN_COPY_RANGES_MAX - 1;
}

static const struct vn_copy_range *range_at(const struct vn_req *req, uint32_t index) {
    return vn_copy_range_at(&req->cmd, req->bounce->list, index);
}

/* Blocks of the first so many ranges. */
static uint32_t blocks_before(const struct vn_req *req, uint32_t nr) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < nr; i++)
        sum += vn_copy_blocks_of(range_at(req, i));
    return sum;
}

/* Sources are read, and the destination is where its zone's write pointer is. */
static vn_status check_zones(const struct vn_req *req, uint32_t sum) {
    for (uint32_t i = 0; i < req->nr_steps; i++) {
        vn_status status = vn_zones_check_read(vn_zones_of(req), range_at(req, i)->slba, vn_copy_blocks_of(range_at(req, i)));
        if (status)
            return status;
    }
    return vn_zones_check_write(vn_zones_of(req), vn_io_slba(&req->cmd), sum);
}

/* Everything that is wrong with the ranges is found before anything is read. */
static vn_status check_ranges(struct vn_req *req) {
    const struct vn_ns *ns = req->ns->ns;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < req->nr_steps; i++) {
        uint32_t nr = vn_copy_blocks_of(range_at(req, i));
        if (nr > max_blocks(ns) || (sum += nr) > max_blocks(ns))
            return VN_SC_CMD_SIZE_LIMIT;
    }
    for (uint32_t i = 0; i < req->nr_steps; i++) {
        if (!vn_ns_has_blocks(ns, range_at(req, i)->slba, vn_copy_blocks_of(range_at(req, i))))
            return VN_SC_LBA_RANGE;
    }
    if (!vn_ns_has_blocks(ns, vn_io_slba(&req->cmd), sum)) {
        req->error_location = 40; /* CDW10: SDLBA */
        return VN_SC_LBA_RANGE;
    }
    return ns->zoned ? check_zones(req, sum) : VN_SC_SUCCESS;
}

/* The end of the write: nr_steps ranges were to be copied, and result is how many could be read. */
static void on_written(struct vn_req *req, void *arg) {
    vn_status read_status = (vn_status)(uintptr_t)arg;
    vn_req_set_state(req, VN_REQ_FETCHED);
    if (req->status)
        req->result = 0; /* none, as far as one knows */
    if (!req->status && !read_status) {
        vn_copy_count(req->ctrl, req->length);
        req->result = 0; /* reserved when all went well */
    }
    vn_req_complete(req, read_status ? read_status : req->status);
}

/* Another write may have been faster, or a reset. */
static vn_status enter_zone(struct vn_req *req) {
    if (vn_zones_is_held(vn_zones_of(req), vn_io_slba(&req->cmd), 1))
        return VN_SC_ZONE_INVALID_WRITE;
    return vn_zone_begin_write(req, vn_io_slba(&req->cmd), blocks_before(req, req->step));
}

/* What was read, of the ranges before step. arg of its end: the status of the one that could not be. */
static void write_ranges(struct vn_req *req, vn_status read_status) {
    req->result = req->step;
    req->op = VN_OP_WRITE;
    req->limits = 0; /* each of its reads and writes counts against the limits */
    req->io_flags |= vn_io_write_flags(req);
    req->offset = vn_io_slba(&req->cmd) << req->ns->ns->block_shift;
    vn_bounce_point(req, 0, blocks_before(req, req->step) << req->ns->ns->block_shift);
    vn_status status = req->ns->ns->zoned ? enter_zone(req) : VN_SC_SUCCESS;
    if (status) {
        req->result = 0;
        vn_req_complete(req, vn_status_dnr(status));
        return;
    }
    vn_req_push(req, on_written, (void *)(uintptr_t)read_status);
    vn_io_submit(req);
}

/* All of them could be read. */
static void write_all(struct vn_req *req) {
    if (req->ns->ns->zoned && vn_zones_is_held(vn_zones_of(req), vn_io_slba(&req->cmd), 1))
        vn_ctrl_resume_later(req, write_all);
    else
        write_ranges(req, VN_SC_SUCCESS);
}

static void read_next(struct vn_req *req);

static void on_read(struct vn_req *req, void *arg) {
    (void)arg;
    vn_req_set_state(req, VN_REQ_FETCHED);
    if (req->cancelled || (req->status && !req->step)) {
        vn_req_complete(req, req->status ? req->status : VN_SC_ABORT_REQUESTED);
        return;
    }
    if (req->status) {
        write_ranges(req, req->status);
        return;
    }
    if (++req->step == req->nr_steps)
        write_all(req);
    else
        read_next(req);
}

static void read_next(struct vn_req *req) {
    uint32_t shift = req->ns->ns->block_shift;
    const struct vn_copy_range *range = range_at(req, req->step);
    req->op = VN_OP_READ;
    req->limits = 0;
    req->offset = range->slba << shift;
    vn_bounce_point(req, blocks_before(req, req->step) << shift, vn_copy_blocks_of(range) << shift);
    vn_req_push(req, on_read, NULL);
    vn_io_submit(req);
}

/* There is a buffer: for the list too, which is copied once. */
static vn_status begin_with_buffer(struct vn_req *req) {
    vn_status status = vn_ctrl_receive(req, req->bounce->list, req->nr_steps * vn_copy_entry_bytes(&req->cmd));
    if (!status)
        status = check_ranges(req);
    if (!status && req->ns->ns->read_only)
        status = VN_SC_NS_WRITE_PROTECTED;
    if (status)
        return status;
    req->step = 0;
    read_next(req);
    return VN_SC_SUCCESS;
}

static void begin(struct vn_req *req) {
    if (!vn_bounce_take(req)) {
        vn_ctrl_resume_later(req, begin);
        return;
    }
    vn_status status = begin_with_buffer(req);
    if (status)
        vn_ctrl_end(req, status);
}

vn_status vn_io_copy(struct vn_req *req) {
    uint32_t format = VN_COPY_FORMAT(req->cmd.cdw12), nr = VN_COPY_NR(req->cmd.cdw12);
    req->error_location = 48; /* CDW12, until it has been found good */
    if (format != VN_COPY_FORMAT_SHORT && format != VN_COPY_FORMAT_LONG)
        return VN_SC_INVALID_FIELD;
    if (req->cmd.cdw12 & (VN_RW_PRINFO_MASK | VN_COPY_PRINFOR_MASK)) /* formatted without protection information */
        return VN_SC_INVALID_FIELD;
    if (nr > VN_COPY_RANGES_MAX)
        return VN_SC_CMD_SIZE_LIMIT;
    req->error_location = 0xffff;
    req->nr_steps = nr;
    begin(req);
    return VN_SC_SUCCESS;
}
