/* Write Zeroes and Dataset Management of blocks with metadata: the data of all of them at once, then their metadata, as much as a
 * slot holds at a time. Called by meta_io.c.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/meta_ops.h"

static void fill_next(struct vn_req *req);
static void dsm_next(struct vn_req *req);

static void on_filled(struct vn_req *req) {
    req->slot->at += req->slot->nr;
    fill_next(req);
}

/* Whole units of zeros take no buffer. True: it is under way. */
static bool clear_units(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_meta *meta = vn_meta_of(req);
    uint32_t blocks_per_unit = meta->unit / meta->layout.pi.ms;
    uint64_t nr = (slot->end - slot->at) / blocks_per_unit * blocks_per_unit;
    if (!slot->zeros || slot->at % blocks_per_unit || !nr)
        return false;
    slot->slba = slot->at;
    slot->nr = (uint32_t)vn_min_u64(nr, UINT32_MAX / blocks_per_unit * blocks_per_unit);
    vn_meta_clear_span(req, on_filled);
    return true;
}

/* What the host will see: zeros, with the protection information that was asked for. */
static void make_meta(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_pi *pi = vn_meta_pi(req);
    memset(slot->meta, 0, (size_t)slot->nr * pi->ms);
    if (slot->zeros) {
        vn_pi_invert(pi, slot->meta, slot->nr); /* kept as zeros: seen as FFh */
    } else if (req->cmd.cdw12 & VN_RW_PRACT) {
        struct vn_pi of_zeros = *pi; /* the guard of zeros is zero, however many they are */
        of_zeros.block_bytes = 0;
        struct vn_pi_tags tags = vn_meta_tags(req, slot->at - slot->begin);
        vn_pi_generate(&of_zeros, &tags, slot->data, slot->meta, slot->nr);
    }
}

static void end_fill(struct vn_req *req) {
    if (req->cmd.opcode != VN_IO_DSM) {
        vn_meta_finish(req, VN_SC_SUCCESS);
        return;
    }
    req->step++;
    vn_meta_give(req);
    dsm_next(req);
}

static void fill_next(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_meta *meta = vn_meta_of(req);
    uint32_t ms = meta->layout.pi.ms, blocks_per_unit = meta->unit / ms;
    if (slot->at == slot->end) {
        end_fill(req);
        return;
    }
    if (clear_units(req))
        return;
    uint64_t most = slot->zeros ? blocks_per_unit - slot->at % blocks_per_unit : VN_META_BYTES / ms;
    slot->slba = slot->at;
    slot->nr = (uint32_t)vn_min_u64(slot->end - slot->at, most);
    slot->without_data = true;
    make_meta(req);
    vn_meta_store(req, on_filled);
}

static void clear_data(struct vn_req *req, enum vn_op op, uint32_t flags) {
    const struct vn_meta_slot *slot = req->slot;
    uint64_t block_bytes = vn_meta_pi(req)->block_bytes;
    vn_meta_clear(req, op, slot->begin * block_bytes, (slot->end - slot->begin) * block_bytes, flags, fill_next);
}

/* --- Write Zeroes. Protection information of blocks that were written is never what escapes the checks: with PRACT it is made,
 * else it is zeros (NVM Command Set 3.2.8) --- */
void vn_meta_zeroes(struct vn_req *req) {
    if (!vn_meta_take(req, vn_io_slba(&req->cmd), VN_RW_NLB(req->cmd.cdw12), true)) {
        vn_meta_wait(req, vn_meta_zeroes);
        return;
    }
    req->slot->zeros = !vn_meta_pi(req)->type;
    clear_data(req, VN_OP_WRITE_ZEROES,
               req->slot->io_flags | (req->cmd.cdw12 & VN_RW_DEAC ? VN_REQ_MAY_UNMAP : 0));
}

/* --- Dataset Management: each range has a slot of its own --- */
static void dsm_next(struct vn_req *req) {
    const struct vn_dsm_range *ranges = req->buffer;
    while (req->step < req->nr_steps && !ranges[req->step].nlb)
        req->step++;
    if (req->step == req->nr_steps || req->cancelled) {
        vn_req_complete(req, req->step == req->nr_steps ? VN_SC_SUCCESS : VN_SC_ABORT_REQUESTED);
        return;
    }
    if (!vn_meta_take(req, ranges[req->step].slba, ranges[req->step].nlb, true)) {
        vn_meta_wait(req, dsm_next);
        return;
    }
    req->slot->zeros = true;
    req->slot->io_flags = 0;
    clear_data(req, VN_OP_DEALLOCATE, 0);
}

vn_status vn_meta_dsm(struct vn_req *req) {
    return vn_io_take_ranges(req, dsm_next);
}
