/* Operations on data and metadata, one after the other, see meta_ops.h. What shares a unit of the backend with the metadata
 * that is written is read first and written again, which is why a writer has whole units to itself (ns/meta.h).
 */
#include "ctrl/meta_ops.h"

#include <string.h>

struct vn_pi_tags vn_meta_tags(const struct vn_req *req, uint64_t nr_before) {
    return (struct vn_pi_tags){.ref = req->cmd.cdw14 + (vn_meta_pi(req)->type == 3 ? 0 : (uint32_t)nr_before),
                               .app = (uint16_t)req->cmd.cdw15,
                               .app_mask = (uint16_t)(req->cmd.cdw15 >> 16)};
}

/* --- Slots --- */

bool vn_meta_take(struct vn_req *req, uint64_t slba, uint64_t nr, bool writes) {
    struct vn_meta_slot *slot = vn_meta_lock(vn_meta_of(req), slba, slba + nr, writes);
    if (!slot)
        return false;
    slot->io_flags = writes ? vn_io_write_flags(req) : 0;
    slot->without_data = slot->zeros = false;
    slot->host_iov = req->iov;
    slot->at = slot->slba = slba;
    slot->first = 0;
    req->slot = slot;
    return true;
}

/* --- Those that wait for one: not on the busy list, where each would be offered again on every turn --- */

void vn_meta_wait(struct vn_req *req, void (*resume)(struct vn_req *req)) {
    struct vn_meta *meta = vn_meta_of(req);
    req->resume = resume;
    req->limits |= VN_REQ_WAITS_META;
    req->filter[0] = 0;
    if (meta->waiting_last)
        meta->waiting_last->filter[0] = (uintptr_t)req;
    else
        meta->waiting_first = req;
    meta->waiting_last = req;
}

static void wake(struct vn_meta *meta) {
    struct vn_req *req = meta->waiting_first;
    meta->waiting_first = meta->waiting_last = NULL;
    while (req) {
        struct vn_req *next = (struct vn_req *)(uintptr_t)req->filter[0];
        req->limits &= (uint8_t)~VN_REQ_WAITS_META;
        vn_ctrl_resume_later(req, req->resume);
        req = next;
    }
}

void vn_meta_cancel(struct vn_req *req) {
    wake(vn_meta_of(req));
}

bool vn_meta_has_waiting(const struct vn_ns_chan *nsc) {
    const struct vn_req *req = nsc->ns->meta ? nsc->ns->meta->waiting_first : NULL;
    while (req && req->ns != nsc)
        req = (const struct vn_req *)(uintptr_t)req->filter[0];
    return req;
}

void vn_meta_unlock_slot(struct vn_req *req) {
    vn_meta_unlock(req->slot);
    req->slot = NULL;
    wake(vn_meta_of(req));
}

bool vn_meta_move_lock(struct vn_req *req, uint64_t begin, uint64_t end, bool writes) {
    bool done = vn_meta_relock(vn_meta_of(req), req->slot, begin, end, writes);
    wake(vn_meta_of(req)); /* for the blocks that it had */
    return done;
}

/* What the host's pointers were is what they are again; and what the counters look at. */
struct vn_req *vn_meta_lend(struct vn_req *req) {
    req->iov = req->slot->host_iov;
    req->nr_iov = req->slot->nr_host_iov;
    req->io_flags &= VN_REQ_ERROR_LBA;
    req->length = (uint64_t)VN_RW_NLB(req->cmd.cdw12) * vn_meta_pi(req)->block_bytes;
    return req;
}

void vn_meta_give(struct vn_req *req) {
    vn_meta_lend(req);
    vn_meta_unlock_slot(req);
}

void vn_meta_finish(struct vn_req *req, vn_status status) {
    vn_meta_give(req);
    vn_req_complete(req, status);
}

/* --- Operations --- */

/* A write goes on when it has been cancelled, because half of it is worse; the buffers are not the host's. */
static void on_operation(struct vn_req *req, void *arg) {
    struct vn_meta_slot *slot = req->slot;
    (void)arg;
    vn_req_set_state(req, VN_REQ_FETCHED);
    if (req->status)
        vn_meta_finish(req, req->status);
    else if (req->cancelled && !slot->exclusive)
        vn_meta_finish(req, VN_SC_ABORT_REQUESTED);
    else
        slot->next(req);
}

static void submit_below(struct vn_req *req) {
    if (vn_ns_submit_below(req->ns, req) == VN_BUSY)
        vn_ctrl_resume_later(req, submit_below);
}

static void operate(struct vn_req *req, enum vn_op op, uint64_t offset, uint64_t bytes, uint32_t flags, vn_meta_step next) {
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
    if (flags & VN_REQ_BELOW) {
        submit_below(req);
        return;
    }
    req->limits &= (uint8_t)~VN_REQ_PAID; /* each operation on data counts against the limits */
    vn_io_submit(req);
}

void vn_meta_clear(struct vn_req *req, enum vn_op op, uint64_t offset, uint64_t bytes, uint32_t flags, vn_meta_step next) {
    operate(req, op, offset, bytes, flags, next);
}

void vn_meta_flush(struct vn_req *req, vn_meta_step next) {
    operate(req, VN_OP_FLUSH, 0, 0, 0, next);
}

static void on_data(struct vn_req *req, enum vn_op op, uint32_t flags, vn_meta_step next) {
    struct vn_meta_slot *slot = req->slot;
    size_t block_bytes = vn_meta_pi(req)->block_bytes;
    slot->op_iov.iov_base = slot->data + slot->first * block_bytes;
    operate(req, op, slot->slba * block_bytes, slot->nr * block_bytes, flags, next);
}

static struct vn_meta_span span_of(const struct vn_req *req) {
    return vn_meta_span_of(vn_meta_of(req), req->slot->slba, req->slot->nr);
}

/* Of the slot's span, from the byte on. */
static void on_span(struct vn_req *req, enum vn_op op, uint64_t from, uint64_t bytes, uint32_t flags, vn_meta_step next) {
    struct vn_meta_slot *slot = req->slot;
    slot->op_iov.iov_base = slot->span + from;
    operate(req, op, vn_meta_of(req)->layout.meta_start + span_of(req).begin + from, bytes, flags | VN_REQ_BELOW, next);
}

void vn_meta_clear_span(struct vn_req *req, vn_meta_step next) {
    struct vn_meta_span span = span_of(req);
    on_span(req, VN_OP_WRITE_ZEROES, 0, span.end - span.begin, req->slot->io_flags | VN_REQ_MAY_UNMAP, next);
}

/* --- From the backend --- */

static void loaded(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_pi *pi = vn_meta_pi(req);
    uint8_t *meta = slot->meta + (size_t)slot->first * pi->ms;
    memcpy(meta, slot->span + span_of(req).lead, (size_t)slot->nr * pi->ms);
    vn_pi_invert(pi, meta, slot->nr);
    slot->then(req);
}

static void load_span(struct vn_req *req) {
    struct vn_meta_span span = span_of(req);
    on_span(req, VN_OP_READ, 0, span.end - span.begin, 0, loaded);
}

void vn_meta_load(struct vn_req *req, vn_meta_step then) {
    req->slot->then = then;
    on_data(req, VN_OP_READ, 0, load_span);
}

/* --- To the backend --- */

static void stored(struct vn_req *req) {
    req->slot->then(req);
}

static void store_span(struct vn_req *req) {
    struct vn_meta_span span = span_of(req);
    on_span(req, VN_OP_WRITE, 0, span.end - span.begin, req->slot->io_flags, stored);
}

static void put_in_span(struct vn_req *req) {
    struct vn_meta_slot *slot = req->slot;
    const struct vn_pi *pi = vn_meta_pi(req);
    uint8_t *at = slot->span + span_of(req).lead;
    memcpy(at, slot->meta + (size_t)slot->first * pi->ms, (size_t)slot->nr * pi->ms);
    vn_pi_invert(pi, at, slot->nr);
    if (slot->without_data)
        store_span(req);
    else
        on_data(req, VN_OP_WRITE, slot->io_flags, store_span);
}

static void read_last_unit(struct vn_req *req) {
    const struct vn_meta *meta = vn_meta_of(req);
    struct vn_meta_span span = span_of(req);
    uint64_t bytes = span.end - span.begin, used = span.lead + (uint64_t)req->slot->nr * meta->layout.pi.ms;
    if (bytes > meta->unit && used < bytes)
        on_span(req, VN_OP_READ, bytes - meta->unit, meta->unit, 0, put_in_span);
    else
        put_in_span(req);
}

void vn_meta_store(struct vn_req *req, vn_meta_step then) {
    const struct vn_meta *meta = vn_meta_of(req);
    struct vn_meta_span span = span_of(req);
    uint64_t bytes = span.end - span.begin, used = (uint64_t)req->slot->nr * meta->layout.pi.ms;
    req->slot->then = then;
    if (span.lead || (bytes == meta->unit && used < bytes))
        on_span(req, VN_OP_READ, 0, meta->unit, 0, read_last_unit);
    else
        read_last_unit(req);
}
