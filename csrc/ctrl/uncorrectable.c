/* Write Uncorrectable (NVM Command Set 3.2.7): marks blocks, whose reads fail until they are written again (gate.c). The marks
 * last before the command ends. There is room for a fixed number of ranges; one more is Capacity Exceeded. Get LBA Status (4.2.1)
 * tells of them; the device finds no others. Called by io_cmd.c and admin_cmd.c.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/gate.h"
#include "ctrl/io_cmd.h"
#include "ns/ns_state.h"

static void mark(struct vn_req *req) {
    struct vn_ns *ns = req->ns->ns;
    if (vn_range_is_locked(&ns->state->locks, req->offset, req->length)) {
        vn_ctrl_resume_later(req, mark);
        return;
    }
    if (!vn_marks_add(&ns->state->kept.marks, vn_io_slba(&req->cmd), VN_RW_NLB(req->cmd.cdw12))) {
        vn_ctrl_end(req, VN_SC_CAPACITY_EXCEEDED);
        return;
    }
    vn_ns_state_look(ns);
    vn_gate_save(req);
}

vn_status vn_io_write_uncorrectable(struct vn_req *req) {
    const struct vn_ns *ns = req->ns->ns;
    uint32_t nlb = VN_RW_NLB(req->cmd.cdw12);
    if (!vn_ns_has_blocks(ns, vn_io_slba(&req->cmd), nlb)) {
        req->error_location = 40; /* CDW10 */
        return VN_SC_LBA_RANGE;
    }
    if (ns->read_only)
        return VN_SC_NS_WRITE_PROTECTED;
    if (!vn_ns_may_change(ns))
        return VN_SC_OPERATION_DENIED;
    req->op = VN_OP_WRITE_ZEROES; /* as far as others that have the range are concerned */
    req->offset = vn_io_slba(&req->cmd) << ns->block_shift;
    req->length = (uint64_t)nlb << ns->block_shift;
    mark(req);
    return VN_SC_SUCCESS;
}

/* --- Get LBA Status --- */
#define ATYPE_SCAN 0x10u
#define ATYPE_TRACKED 0x11u
#define LOCATION_ATYPE 55u /* the last byte of CDW13 */
#define DESCRIPTORS_MAX (VN_NR_MARKS + 1)

struct lba_status_list {
    uint32_t nr;
    uint8_t condition; /* CMPC */
    uint8_t rsvd5[3];
    struct vn_lba_status descriptors[DESCRIPTORS_MAX];
} VN_PACKED;

/* The marks from slba up to end, as many as there is room for. */
static void list_marks(const struct vn_marks *marks, uint64_t slba, uint64_t end, uint32_t max, struct lba_status_list *list) {
    for (;;) {
        struct vn_mark mark = vn_marks_next(marks, slba);
        if (!mark.nlb || mark.slba >= end) {
            list->condition = VN_LBA_STATUS_ALL;
            return;
        }
        if (list->nr == max) {
            list->condition = VN_LBA_STATUS_FULL;
            return;
        }
        uint64_t nlb = vn_min_u64(vn_min_u64(mark.nlb, end - mark.slba), 1ull << 32);
        list->descriptors[list->nr++] = (struct vn_lba_status){
            .dslba = mark.slba, .nlb = (uint32_t)(nlb - 1), .status = VN_LBA_STATUS_BAD | VN_LBA_STATUS_MARKED};
        slba = mark.slba + nlb;
    }
}

vn_status vn_get_lba_status(struct vn_req *req) {
    const struct vn_ns_chan *nsc = vn_ns_table_get(&req->ctrl->namespaces, req->cmd.nsid);
    uint32_t type = req->cmd.cdw13 >> 24, length = req->cmd.cdw13 & 0xffff;
    uint64_t slba = vn_io_slba(&req->cmd), bytes = (req->cmd.cdw12 + 1ull) * 4;
    struct lba_status_list list;
    if (!nsc)
        return VN_SC_INVALID_NS;
    if (type != ATYPE_SCAN && type != ATYPE_TRACKED) {
        req->error_location = LOCATION_ATYPE;
        return VN_SC_INVALID_FIELD;
    }
    uint64_t nr_blocks = vn_ns_nr_blocks(nsc->ns);
    if (slba >= nr_blocks || length > nr_blocks - slba) {
        req->error_location = 40; /* CDW10 */
        return VN_SC_LBA_RANGE;
    }
    size_t head = offsetof(struct lba_status_list, descriptors);
    uint64_t room = bytes > head ? (bytes - head) / sizeof(list.descriptors[0]) : 0;
    memset(&list, 0, head);
    list_marks(&nsc->ns->state->kept.marks, slba, length ? slba + length : nr_blocks,
               (uint32_t)vn_min_u64(room, DESCRIPTORS_MAX), &list);
    uint32_t used = (uint32_t)(head + list.nr * sizeof(list.descriptors[0]));
    uint32_t sent = (uint32_t)vn_min_u64(bytes, used);
    return vn_ctrl_send(req, &list, sent, sent);
}
