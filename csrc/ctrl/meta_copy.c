/* Copy of blocks with metadata (NVM Command Set 3.2.2), as copy.c does it of plain ones: all source ranges into a slot, checked one
 * by one, then written at once. Source and destination have one format, so that protection information is either passed on or
 * taken out and made anew (5.2.3). Called by meta_io.c.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/copy.h"
#include "ctrl/meta_ops.h"

#define PRINFOR(cdw12) (((cdw12) >> 12) & 0xfu)
#define PRINFOW(cdw12) (((cdw12) >> 26) & 0xfu)
#define PRACT 0x8u
#define PRCHK 0x7u

_Static_assert(VN_COPY_LIST_BYTES_MAX <= VN_META_LIST_BYTES, "the list fits");

static const struct vn_copy_range *range_at(const struct vn_req *req, uint32_t index) {
    return vn_copy_range_at(&req->cmd, req->slot->list, index);
}

static vn_status check_ranges(struct vn_req *req) {
    const struct vn_ns *ns = req->ns->ns;
    const struct vn_pi *pi = vn_meta_pi(req);
    uint32_t sum = 0, most = VN_META_DATA_BYTES / pi->block_bytes;
    for (uint32_t i = 0; i < req->nr_steps; i++) {
        uint32_t nr = vn_copy_blocks_of(range_at(req, i));
        if (nr > most || (sum += nr) > most)
            return VN_SC_CMD_SIZE_LIMIT;
    }
    for (uint32_t i = 0; i < req->nr_steps; i++) {
        const struct vn_copy_range *range = range_at(req, i);
        if (!vn_ns_has_blocks(ns, range->slba, vn_copy_blocks_of(range)))
            return VN_SC_LBA_RANGE;
        vn_status status = pi->type ? vn_pi_validate(pi, PRINFOR(req->cmd.cdw12) & PRCHK, range->eilbrt, range->slba)
                                    : VN_SC_SUCCESS;
        if (status)
            return status;
    }
    if (!vn_ns_has_blocks(ns, vn_io_slba(&req->cmd), sum)) {
        req->error_location = 40; /* CDW10: SDLBA */
        return VN_SC_LBA_RANGE;
    }
    return ns->read_only ? VN_SC_NS_WRITE_PROTECTED : VN_SC_SUCCESS;
}

/* --- The write --- */

static void on_written(struct vn_req *req) {
    const struct vn_meta_slot *slot = req->slot;
    vn_status read_status = slot->status;
    if (!read_status)
        vn_copy_count(req->ctrl, (uint64_t)slot->nr * vn_meta_pi(req)->block_bytes);
    req->result = read_status ? req->step : 0; /* reserved when all went well */
    vn_meta_finish(req, read_status);
}

static vn_status protect(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_pi *pi = vn_meta_pi(req);
    struct vn_pi_tags tags = vn_meta_tags(req, 0);
    uint32_t prinfo = PRINFOW(req->cmd.cdw12);
    if (!pi->type)
        return VN_SC_SUCCESS;
    if (!(prinfo & PRACT))
        return vn_pi_check(pi, prinfo & PRCHK, &tags, slot->data, slot->meta, slot->nr, NULL);
    vn_pi_generate(pi, &tags, slot->data, slot->meta, slot->nr);
    return VN_SC_SUCCESS;
}

/* What was read, of the ranges before step; slot->status: of the one that could not be. */
static void write_ranges(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    uint64_t to = vn_io_slba(&req->cmd);
    if (!vn_meta_move_lock(req, to, to + slot->at, true)) {
        vn_meta_wait(req, write_ranges);
        return;
    }
    slot->slba = to;
    slot->nr = (uint32_t)slot->at;
    slot->first = 0;
    slot->io_flags = vn_io_write_flags(req);
    vn_status status = protect(req);
    if (status)
        vn_meta_finish(req, vn_status_dnr(status));
    else
        vn_meta_store(req, on_written);
}

/* --- The reads --- */

static void read_next(struct vn_req *req);

static void on_read(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_pi *pi = vn_meta_pi(req);
    const struct vn_copy_range *range = range_at(req, req->step);
    struct vn_pi_tags tags = {range->eilbrt, range->elbat, range->elbatm};
    if (pi->type)
        slot->status = vn_pi_check(pi, PRINFOR(req->cmd.cdw12) & PRCHK, &tags,
                                   slot->data + (size_t)slot->first * pi->block_bytes,
                                   slot->meta + (size_t)slot->first * pi->ms, slot->nr, NULL);
    if (slot->status && !req->step) {
        vn_meta_finish(req, vn_status_dnr(slot->status));
        return;
    }
    slot->status = vn_status_dnr(slot->status);
    if (!slot->status) {
        slot->at += slot->nr;
        req->step++;
    }
    if (slot->status || req->step == req->nr_steps)
        write_ranges(req);
    else
        read_next(req);
}

static void read_next(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_copy_range *range = range_at(req, req->step);
    if (!vn_meta_move_lock(req, range->slba, range->slba + vn_copy_blocks_of(range), false)) {
        vn_meta_wait(req, read_next);
        return;
    }
    slot->slba = range->slba;
    slot->nr = vn_copy_blocks_of(range);
    slot->first = (uint32_t)slot->at;
    vn_meta_load(req, on_read);
}

static void begin(struct vn_req *req) {
    if (!vn_meta_take(req, 0, 0, false)) { /* no blocks yet */
        vn_meta_wait(req, begin);
        return;
    }
    vn_status status = vn_ctrl_receive(req, req->slot->list, req->nr_steps * vn_copy_entry_bytes(&req->cmd));
    if (!status)
        status = check_ranges(req);
    if (status) {
        vn_meta_finish(req, vn_status_dnr(status));
        return;
    }
    req->slot->status = VN_SC_SUCCESS;
    req->step = 0;
    read_next(req);
}

vn_status vn_meta_copy(struct vn_req *req) {
    const struct vn_pi *pi = vn_meta_pi(req);
    uint32_t cdw12 = req->cmd.cdw12, format = VN_COPY_FORMAT(cdw12);
    req->error_location = 48; /* CDW12, until it has been found good */
    if (format != VN_COPY_FORMAT_SHORT && format != VN_COPY_FORMAT_LONG)
        return VN_SC_INVALID_FIELD;
    if (!pi->type && (cdw12 & (VN_RW_PRINFO_MASK | VN_COPY_PRINFOR_MASK)))
        return VN_SC_INVALID_FIELD;
    if (pi->type && format == VN_COPY_FORMAT_LONG) /* its tags are those of another guard */
        return VN_SC_INVALID_FIELD;
    if ((PRINFOR(cdw12) ^ PRINFOW(cdw12)) & PRACT) /* between one format and the same there is nothing to add or take away */
        return VN_SC_INVALID_FIELD;
    if (VN_COPY_NR(cdw12) > VN_COPY_RANGES_MAX)
        return VN_SC_CMD_SIZE_LIMIT;
    req->error_location = 0xffff;
    vn_status status = pi->type ? vn_pi_validate(pi, PRINFOW(cdw12) & PRCHK, req->cmd.cdw14, vn_io_slba(&req->cmd))
                                : VN_SC_SUCCESS;
    if (status)
        return status;
    req->nr_steps = VN_COPY_NR(cdw12);
    begin(req);
    return VN_SC_SUCCESS;
}
