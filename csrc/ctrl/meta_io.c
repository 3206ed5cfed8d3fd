/* Blocks with metadata: see meta_io.h. Each command takes a slot (ns/meta.h), does its operations on the backend one after the
 * other, data before metadata, and gives the slot back. A crash between the two leaves a block whose check fails:
 * docs/guarantees.md.
 */
#include "ctrl/meta_io.h"

#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/io_cmd.h"
#include "ctrl/meta_move.h"

static struct vn_meta *meta_of(const struct vn_req *req) {
    return req->ns->ns->meta;
}

static const struct vn_pi *pi_of(const struct vn_req *req) {
    return &meta_of(req)->layout.pi;
}

static struct vn_pi_tags tags_of(const struct vn_req *req, uint64_t nr_before) {
    return (struct vn_pi_tags){.ref = req->cmd.cdw14 + (pi_of(req)->type == 3 ? 0 : (uint32_t)nr_before),
                               .app = (uint16_t)req->cmd.cdw15,
                               .app_mask = (uint16_t)(req->cmd.cdw15 >> 16)};
}

/* The end of every command: what the host's pointers were is what they are again. */
static void finish(struct vn_req *req, vn_status status) {
    struct vn_meta_slot *slot = req->slot;
    req->iov = slot->host_iov;
    req->nr_iov = slot->nr_host_iov;
    req->length = (uint64_t)VN_RW_NLB(req->cmd.cdw12) * pi_of(req)->block_bytes; /* for the counters */
    req->io_flags = 0;
    req->slot = NULL;
    vn_meta_unlock(slot);
    vn_req_complete(req, status);
}

static void succeed(struct vn_req *req) {
    finish(req, VN_SC_SUCCESS);
}

/* --- Operations on the backend --- */

/* A write goes on when it has been cancelled, because half of it is worse; the buffers are not the host's. */
static void on_operation(struct vn_req *req, void *arg) {
    struct vn_meta_slot *slot = req->slot;
    (void)arg;
    vn_req_set_state(req, VN_REQ_FETCHED);
    if (req->status)
        finish(req, req->status);
    else if (req->cancelled && !slot->exclusive)
        finish(req, VN_SC_ABORT_REQUESTED);
    else
        slot->next(req);
}

static void submit_below(struct vn_req *req) {
    if (vn_ns_submit_below(req->ns, req) == VN_BUSY)
        vn_ctrl_resume_later(req, submit_below);
}

static void operate(struct vn_req *req, enum vn_op op, uint64_t offset, uint64_t bytes, uint32_t flags,
                    void (*next)(struct vn_req *)) {
    struct vn_meta_slot *slot = req->slot;
    req->op = op;
    req->offset = offset;
    req->length = bytes;
    req->io_flags = flags;
    req->iov = &slot->op_iov;
    req->nr_iov = op == VN_OP_READ || op == VN_OP_WRITE ? 1 : 0;
    slot->op_iov.iov_len = bytes;
    slot->next = next;
    vn_req_push(req, on_operation, NULL);
    if (flags & VN_REQ_BELOW)
        submit_below(req);
    else
        vn_io_submit(req);
}

static void on_data(struct vn_req *req, enum vn_op op, uint32_t flags, void (*next)(struct vn_req *)) {
    const struct vn_meta_slot *slot = req->slot;
    uint32_t block_bytes = pi_of(req)->block_bytes;
    req->slot->op_iov.iov_base = slot->data;
    operate(req, op, slot->slba * block_bytes, (uint64_t)slot->nr * block_bytes, flags, next);
}

/* Of the slot's span, from the byte on. */
static void on_span(struct vn_req *req, enum vn_op op, uint64_t from, uint64_t bytes, uint32_t flags,
                    void (*next)(struct vn_req *)) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_meta *meta = meta_of(req);
    struct vn_meta_span span = vn_meta_span_of(meta, slot->slba, slot->nr);
    slot->op_iov.iov_base = slot->span + from;
    operate(req, op, meta->layout.meta_start + span.begin + from, bytes, flags | VN_REQ_BELOW, next);
}

/* --- The slot's blocks from the backend: data, metadata as the host sees it --- */

static void loaded(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_pi *pi = pi_of(req);
    struct vn_meta_span span = vn_meta_span_of(meta_of(req), slot->slba, slot->nr);
    memcpy(slot->meta, slot->span + span.lead, (size_t)slot->nr * pi->ms);
    vn_pi_invert(pi, slot->meta, slot->nr);
    slot->then(req);
}

static void load_meta(struct vn_req *req) {
    const struct vn_meta_slot *slot = req->slot;
    struct vn_meta_span span = vn_meta_span_of(meta_of(req), slot->slba, slot->nr);
    on_span(req, VN_OP_READ, 0, span.end - span.begin, 0, loaded);
}

static void load(struct vn_req *req, void (*then)(struct vn_req *)) {
    req->slot->then = then;
    on_data(req, VN_OP_READ, 0, load_meta);
}

/* --- The slot's blocks to the backend. What shares a unit with their metadata is read first, and written again --- */

static void stored(struct vn_req *req) {
    req->slot->then(req);
}

static void store_span(struct vn_req *req) {
    const struct vn_meta_slot *slot = req->slot;
    struct vn_meta_span span = vn_meta_span_of(meta_of(req), slot->slba, slot->nr);
    on_span(req, VN_OP_WRITE, 0, span.end - span.begin, slot->io_flags, stored);
}

static void put_in_span(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_pi *pi = pi_of(req);
    struct vn_meta_span span = vn_meta_span_of(meta_of(req), slot->slba, slot->nr);
    memcpy(slot->span + span.lead, slot->meta, (size_t)slot->nr * pi->ms);
    vn_pi_invert(pi, slot->span + span.lead, slot->nr);
    if (slot->without_data)
        store_span(req);
    else
        on_data(req, VN_OP_WRITE, slot->io_flags, store_span);
}

static void read_last_unit(struct vn_req *req) {
    const struct vn_meta_slot *slot = req->slot;
    const struct vn_meta *meta = meta_of(req);
    struct vn_meta_span span = vn_meta_span_of(meta, slot->slba, slot->nr);
    uint64_t bytes = span.end - span.begin, used = span.lead + (uint64_t)slot->nr * meta->layout.pi.ms;
    if (bytes > meta->unit && used < bytes)
        on_span(req, VN_OP_READ, bytes - meta->unit, meta->unit, 0, put_in_span);
    else
        put_in_span(req);
}

static void store(struct vn_req *req, void (*then)(struct vn_req *)) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_meta *meta = meta_of(req);
    struct vn_meta_span span = vn_meta_span_of(meta, slot->slba, slot->nr);
    uint64_t bytes = span.end - span.begin, used = (uint64_t)slot->nr * meta->layout.pi.ms;
    slot->then = then;
    if (span.lead || (bytes == meta->unit && used < bytes))
        on_span(req, VN_OP_READ, 0, meta->unit, 0, read_last_unit);
    else
        read_last_unit(req);
}

/* --- Read, Compare, Write --- */

/* What the host gets or gives: with PRACT eight bytes of metadata are ours alone (NVM Command Set 5.2.2). */
static bool transfers_meta(const struct vn_req *req) {
    return !((req->cmd.cdw12 & VN_RW_PRACT) && pi_of(req)->ms == VN_PI_BYTES);
}

static vn_status map(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_ctrl *ctrl = req->ctrl;
    const struct vn_pi *pi = pi_of(req);
    bool extended = meta_of(req)->layout.extended, with_meta = transfers_meta(req);
    uint32_t length = slot->nr * (pi->block_bytes + (extended && with_meta ? pi->ms : 0));
    vn_status status = ctrl->door->map(req, length);
    slot->nr_host_iov = req->nr_iov;
    if (status || extended || !with_meta)
        return status;
    struct vn_meta_map to = {slot->meta_iov, VN_META_IOVECS, 0};
    status = ctrl->door->map_meta ? ctrl->door->map_meta(req, &to, slot->nr * pi->ms) : VN_SC_INVALID_FIELD;
    slot->nr_meta_iov = to.nr;
    return status;
}

static struct vn_meta_move move_of(const struct vn_req *req) {
    return (struct vn_meta_move){.pi = pi_of(req), .extended = meta_of(req)->layout.extended,
                                 .with_meta = transfers_meta(req)};
}

static vn_status check_loaded(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_pi *pi = pi_of(req);
    struct vn_pi_tags tags = tags_of(req, slot->slba - vn_io_slba(&req->cmd));
    return pi->type ? vn_pi_check(pi, VN_RW_PRCHK(req->cmd.cdw12), &tags, slot->data, slot->meta, slot->nr, NULL)
                    : VN_SC_SUCCESS;
}

static void on_read(struct vn_req *req) {
    vn_status status = check_loaded(req);
    struct vn_meta_move move = move_of(req);
    if (!status)
        vn_meta_to_host(&move, req->slot);
    finish(req, vn_status_dnr(status));
}

static void on_compare(struct vn_req *req) {
    vn_status status = check_loaded(req);
    struct vn_meta_move move = move_of(req);
    if (!status && !vn_meta_is_hosts(&move, req->slot))
        status = VN_SC_COMPARE_FAILURE;
    finish(req, status == VN_SC_COMPARE_FAILURE ? status : vn_status_dnr(status));
}

static vn_status take_written(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_pi *pi = pi_of(req);
    struct vn_meta_move move = move_of(req);
    struct vn_pi_tags tags = tags_of(req, 0);
    vn_meta_from_host(&move, slot);
    if (!pi->type)
        return VN_SC_SUCCESS;
    if (!(req->cmd.cdw12 & VN_RW_PRACT))
        return vn_pi_check(pi, VN_RW_PRCHK(req->cmd.cdw12), &tags, slot->data, slot->meta, slot->nr, NULL);
    vn_pi_generate(pi, &tags, slot->data, slot->meta, slot->nr);
    return VN_SC_SUCCESS;
}

static void begin_transfer(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    bool writes = req->cmd.opcode == VN_IO_WRITE;
    slot->slba = vn_io_slba(&req->cmd);
    slot->nr = VN_RW_NLB(req->cmd.cdw12);
    vn_status status = map(req);
    if (!status && writes)
        status = take_written(req);
    if (status)
        finish(req, vn_status_dnr(status));
    else if (writes)
        store(req, succeed);
    else
        load(req, req->cmd.opcode == VN_IO_READ ? on_read : on_compare);
}

/* --- Verify: as much as a slot holds at a time --- */
static void verify_next(struct vn_req *req);

static void on_verify(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    vn_status status = check_loaded(req);
    slot->at += slot->nr;
    if (status || slot->at == slot->end)
        finish(req, vn_status_dnr(status));
    else
        verify_next(req);
}

static void verify_next(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    slot->slba = slot->at;
    slot->nr = (uint32_t)vn_min_u64(slot->end - slot->at, VN_META_DATA_BYTES / pi_of(req)->block_bytes);
    load(req, on_verify);
}

/* --- Write Zeroes, Dataset Management: the data of all blocks at once, their metadata as much as a slot holds --- */
static void fill_next(struct vn_req *req);

static void on_filled(struct vn_req *req) {
    req->slot->at += req->slot->nr;
    fill_next(req);
}

static void end_fill(struct vn_req *req);

/* Whole units of zeros take no buffer. True: it is under way. */
static bool clear_units(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_meta *meta = meta_of(req);
    uint32_t blocks_per_unit = meta->unit / meta->layout.pi.ms;
    uint64_t nr = (slot->end - slot->at) / blocks_per_unit * blocks_per_unit;
    if (!slot->zeros || slot->at % blocks_per_unit || !nr)
        return false;
    nr = vn_min_u64(nr, UINT32_MAX / blocks_per_unit * blocks_per_unit);
    slot->slba = slot->at;
    slot->nr = (uint32_t)nr;
    on_span(req, VN_OP_WRITE_ZEROES, 0, nr * meta->layout.pi.ms, slot->io_flags | VN_REQ_MAY_UNMAP, on_filled);
    return true;
}

static void fill_next(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_meta *meta = meta_of(req);
    const struct vn_pi *pi = pi_of(req);
    if (slot->at == slot->end) {
        end_fill(req);
        return;
    }
    if (clear_units(req))
        return;
    uint32_t blocks_per_unit = meta->unit / pi->ms;
    uint64_t most = slot->zeros ? blocks_per_unit - slot->at % blocks_per_unit : VN_META_BYTES / pi->ms;
    slot->slba = slot->at;
    slot->nr = (uint32_t)vn_min_u64(slot->end - slot->at, most);
    slot->without_data = true;
    memset(slot->meta, 0, (size_t)slot->nr * pi->ms);
    if (slot->zeros) {
        vn_pi_invert(pi, slot->meta, slot->nr);
    } else if (req->cmd.cdw12 & VN_RW_PRACT) {
        struct vn_pi of_zeros = *pi; /* the guard of zeros is zero, however many they are */
        of_zeros.block_bytes = 0;
        struct vn_pi_tags tags = tags_of(req, slot->at - slot->begin);
        vn_pi_generate(&of_zeros, &tags, slot->data, slot->meta, slot->nr);
    }
    store(req, on_filled);
}

static void on_cleared(struct vn_req *req) {
    req->slot->at = req->slot->begin;
    fill_next(req);
}

static void clear_data(struct vn_req *req, enum vn_op op, uint32_t flags) {
    const struct vn_meta_slot *slot = req->slot;
    uint32_t block_bytes = pi_of(req)->block_bytes;
    operate(req, op, slot->begin * block_bytes, (slot->end - slot->begin) * block_bytes, flags, on_cleared);
}

/* Protection information of blocks that were written is never what escapes the checks: with PRACT it is made, else zeros. */
static void begin_zeroes(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    slot->zeros = !pi_of(req)->type;
    clear_data(req, VN_OP_WRITE_ZEROES, slot->io_flags | (req->cmd.cdw12 & VN_RW_DEAC ? VN_REQ_MAY_UNMAP : 0));
}

static const struct vn_dsm_range *range_of(const struct vn_req *req) {
    return (const struct vn_dsm_range *)req->buffer + req->step;
}

/* --- Slots: a command without one waits on the list of busy ones --- */

static bool skip_to_range(struct vn_req *req) {
    while (req->step < req->nr_steps && !range_of(req)->nlb)
        req->step++;
    return req->step < req->nr_steps;
}

/* False: there is no slot now, or somebody has the blocks. */
static bool take_slot(struct vn_req *req) {
    bool is_dsm = req->cmd.opcode == VN_IO_DSM;
    uint64_t slba = is_dsm ? range_of(req)->slba : vn_io_slba(&req->cmd);
    uint64_t nr = is_dsm ? range_of(req)->nlb : VN_RW_NLB(req->cmd.cdw12);
    bool writes = is_dsm || req->cmd.opcode == VN_IO_WRITE || req->cmd.opcode == VN_IO_WRITE_ZEROES;
    struct vn_meta_slot *slot = vn_meta_lock(meta_of(req), slba, slba + nr, writes);
    if (!slot)
        return false;
    slot->io_flags = writes && !is_dsm ? vn_io_write_flags(req) : 0;
    slot->without_data = slot->zeros = false;
    slot->host_iov = req->iov;
    slot->at = slba;
    req->slot = slot;
    return true;
}

static bool begin(struct vn_req *req) {
    if (!take_slot(req))
        return false;
    switch (req->cmd.opcode) {
    case VN_IO_VERIFY:
        verify_next(req);
        break;
    case VN_IO_WRITE_ZEROES:
        begin_zeroes(req);
        break;
    case VN_IO_DSM:
        req->slot->zeros = true;
        clear_data(req, VN_OP_DEALLOCATE, 0);
        break;
    default:
        begin_transfer(req);
        break;
    }
    return true;
}

static void begin_or_wait(struct vn_req *req) {
    if (!begin(req))
        vn_ctrl_resume_later(req, begin_or_wait);
}

/* Of Dataset Management there may be further ranges; each has a slot of its own. */
static void end_fill(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    req->step++;
    if (req->cmd.opcode != VN_IO_DSM || !skip_to_range(req)) {
        succeed(req);
        return;
    }
    if (req->cancelled) {
        finish(req, VN_SC_ABORT_REQUESTED);
        return;
    }
    req->iov = slot->host_iov;
    req->slot = NULL;
    vn_meta_unlock(slot);
    begin_or_wait(req);
}

/* --- Validation --- */

static vn_status check_range(struct vn_req *req) {
    const struct vn_pi *pi = pi_of(req);
    uint32_t cdw12 = req->cmd.cdw12;
    if (!vn_ns_has_blocks(req->ns->ns, vn_io_slba(&req->cmd), VN_RW_NLB(cdw12))) {
        req->error_location = 40; /* CDW10 */
        return VN_SC_LBA_RANGE;
    }
    if (!pi->type)
        return cdw12 & VN_RW_PRINFO_MASK ? VN_SC_INVALID_FIELD : VN_SC_SUCCESS;
    if (req->cmd.opcode == VN_IO_COMPARE && (cdw12 & VN_RW_PRACT)) /* there is nothing to insert or take out (3.2.1) */
        return VN_SC_INVALID_PI;
    return vn_pi_validate(pi, VN_RW_PRCHK(cdw12), req->cmd.cdw14, vn_io_slba(&req->cmd));
}

static vn_status check_transfer(struct vn_req *req) {
    const struct vn_pi *pi = pi_of(req);
    bool interleaved = meta_of(req)->layout.extended && transfers_meta(req);
    uint64_t length = (uint64_t)VN_RW_NLB(req->cmd.cdw12) * (pi->block_bytes + (interleaved ? pi->ms : 0));
    return length > vn_ctrl_max_transfer(req->ctrl) ? VN_SC_INVALID_FIELD : VN_SC_SUCCESS;
}

static vn_status dataset_management(struct vn_req *req) {
    uint32_t nr = (req->cmd.cdw10 & 0xff) + 1;
    vn_status status = vn_ctrl_receive(req, req->buffer, nr * (uint32_t)sizeof(struct vn_dsm_range));
    const struct vn_dsm_range *ranges = req->buffer;
    for (uint32_t i = 0; i < nr && !status; i++)
        status = vn_ns_has_blocks(req->ns->ns, ranges[i].slba, ranges[i].nlb) ? VN_SC_SUCCESS : VN_SC_LBA_RANGE;
    if (status)
        return status;
    req->step = 0;
    req->nr_steps = (req->cmd.cdw11 & VN_DSM_AD) && req->ns->ns->backend->deallocates ? nr : 0;
    req->nr_iov = 0;
    if (skip_to_range(req))
        begin_or_wait(req);
    else
        vn_ctrl_end(req, req->ns->ns->read_only ? VN_SC_NS_WRITE_PROTECTED : VN_SC_SUCCESS);
    return VN_SC_SUCCESS;
}

bool vn_meta_takes(uint8_t opcode) {
    switch (opcode) {
    case VN_IO_READ:
    case VN_IO_WRITE:
    case VN_IO_COMPARE:
    case VN_IO_WRITE_ZEROES:
    case VN_IO_VERIFY:
    case VN_IO_DSM:
        return true;
    default:
        return false;
    }
}

vn_status vn_meta_execute(struct vn_req *req) {
    if (req->cmd.opcode == VN_IO_DSM)
        return dataset_management(req);
    vn_status status = check_range(req);
    bool transfers = req->cmd.opcode != VN_IO_WRITE_ZEROES && req->cmd.opcode != VN_IO_VERIFY;
    if (!status && transfers)
        status = check_transfer(req);
    if (!status)
        begin_or_wait(req);
    return status;
}
