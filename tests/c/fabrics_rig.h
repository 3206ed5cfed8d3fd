/* A controller of fabrics behind a fake door: ctrl_rig.h with queues that are connected, properties instead of registers,
 * and SGLs. Requests of all queues come from one small pool.
 */
#ifndef FABRICS_RIG_H
#define FABRICS_RIG_H

#include "ctrl/fabrics.h"
#include "ctrl_rig.h"

#define DATA_GPA (RIG_RAM_GPA + 0x20000)
#define DATA_BYTES (RIG_RAM_BYTES - 0x20000)
#define SGL_FLAGS (VN_PSDT_SGL_MPTR_CONTIG << 6)

struct fabrics_rig {
    struct ctrl_rig rig; /* first */
    struct vn_fabrics fabrics;
    struct vn_ana ana;
    uint8_t ana_group[VN_MAX_NAMESPACES + 1];
    struct vn_req reqs[VN_NR_ADMIN_REQS];
    struct iovec iovs[VN_NR_ADMIN_REQS][1];
    struct vn_req *parked; /* what the door has taken over */
    uint32_t nr_kato_changes, nr_busy;
    uint32_t nr_entries; /* of the discovery log */
};

static inline struct fabrics_rig *fab_of(const struct vn_ctrl *ctrl) {
    return ctrl->door_ctx;
}

/* One data block, which must be as long as the command needs. */
static inline vn_status fab_map(struct vn_req *req, uint32_t length) {
    struct ctrl_rig *rig = rig_of(req->ctrl);
    const struct vn_sgl_desc *sgl = &req->cmd.sgl1;
    if (sgl->length != length)
        return VN_SC_SGL_DATA_LENGTH;
    CHECK(sgl->addr >= RIG_RAM_GPA && sgl->addr + length <= RIG_RAM_GPA + RIG_RAM_BYTES);
    req->iov[0] = (struct iovec){rig->ram + (sgl->addr - RIG_RAM_GPA), length};
    req->nr_iov = 1;
    return VN_SC_SUCCESS;
}

static inline void fab_put(struct vn_req *req) {
    req->next = req->ctrl->admin_pool;
    req->ctrl->admin_pool = req;
}

static inline void fab_busy(struct vn_ctrl *ctrl) {
    fab_of(ctrl)->nr_busy++;
}

static inline void fab_disabled(struct vn_ctrl *ctrl) {
    rig_of(ctrl)->nr_disabled++;
    for (uint16_t qid = 1; qid < VN_NR_QUEUES; qid++) {
        if (ctrl->sqs[qid].exists)
            vn_queue_disconnect(ctrl, qid);
    }
}

static inline void fab_park(struct vn_req *req) {
    CHECK(!fab_of(req->ctrl)->parked);
    fab_of(req->ctrl)->parked = req;
}

static inline void fab_kato_changed(struct vn_ctrl *ctrl) {
    fab_of(ctrl)->nr_kato_changes++;
}

static inline bool fab_discovery_entry(struct vn_ctrl *ctrl, struct vn_discovery_cursor *at, struct vn_discovery_entry *out) {
    uint32_t index = at->index++;
    if (index >= fab_of(ctrl)->nr_entries || !out)
        return index < fab_of(ctrl)->nr_entries;
    out->trtype = VN_TRTYPE_TCP;
    out->portid = (uint16_t)index;
    snprintf(out->subnqn, sizeof(out->subnqn), "nqn.test:%u", index);
    return true;
}

static inline uint64_t fab_discovery_genctr(struct vn_ctrl *ctrl) {
    return 1000 + fab_of(ctrl)->nr_entries;
}

/* This host has the controllers 3, 7 and 9. */
static inline uint16_t fab_next_ctrl(const struct vn_ctrl *ctrl, uint16_t from) {
    (void)ctrl;
    return from <= 3 ? 3 : from <= 7 ? 7 : from <= 9 ? 9 : VN_CNTLID_DYNAMIC;
}

static const struct vn_door_ops fab_door = {
    .name = "test of fabrics",
    .map = fab_map,
    .post = rig_post,
    .put = fab_put,
    .busy = fab_busy,
    .disabled = fab_disabled,
    .irq_mask_changed = rig_irq_mask_changed,
    .auth = fab_park,
    .disconnect = fab_park,
    .cross_reset = fab_park,
    .kato_changed = fab_kato_changed,
    .discovery_entry = fab_discovery_entry,
    .discovery_genctr = fab_discovery_genctr,
    .next_ctrl = fab_next_ctrl,
};

static inline struct fabrics_rig *fab_make(uint8_t kind) {
    struct fabrics_rig *fab = calloc(1, sizeof(*fab));
    CHECK(fab);
    struct ctrl_rig *rig = &fab->rig;
    const struct vn_ctrl_opts opts = {.serial = "FAB1", .subnqn = "nqn.test:subsystem", .cntlid = 7, .max_entries = 128};
    CHECK_EQ(vn_event_queue_create(&rig->events), 0);
    CHECK_EQ(vn_reactor_start(0, 20, &rig->reactor), 0);
    CHECK_EQ(vn_ctrl_init_fabrics(&rig->ctrl, &opts, rig->reactor, rig->events, 7), 0);
    rig->ctrl.door = &fab_door;
    rig->ctrl.door_ctx = rig;
    rig_make_memory(rig);
    for (uint32_t i = 0; i < VN_NR_ADMIN_REQS; i++) {
        fab->reqs[i] = (struct vn_req){.ctrl = &rig->ctrl, .iov = fab->iovs[i], .iov_max = 1};
        CHECK((fab->reqs[i].buffer = malloc(VN_PAGE_SIZE)));
        fab_put(&fab->reqs[i]);
    }
    vn_ana_init(&fab->ana);
    memset(fab->ana_group, 1, sizeof(fab->ana_group));
    fab->fabrics = (struct vn_fabrics){.kind = kind, .ciu = 5, .cirn = 0x123456789abcull, .kato_ms = 4950};
    if (kind == VN_CNTRLTYPE_IO) {
        rig->ctrl.ana = &fab->ana;
        rig->ctrl.ana_group = fab->ana_group;
    }
    vn_fabrics_begin(&rig->ctrl, &fab->fabrics);
    vn_queue_connect(&rig->ctrl, 0, 32);
    return fab;
}

static inline void fab_free(struct fabrics_rig *fab) {
    void *buffers[VN_NR_ADMIN_REQS];
    for (uint32_t i = 0; i < VN_NR_ADMIN_REQS; i++)
        buffers[i] = fab->reqs[i].buffer;
    rig_free(&fab->rig);
    for (uint32_t i = 0; i < VN_NR_ADMIN_REQS; i++)
        free(buffers[i]);
}

/* --- On the reactor --- */
/* One command that ends at once, on any queue: its completion. */
static inline struct rig_done fab_run(struct ctrl_rig *rig, uint16_t sqid, struct vn_sqe cmd) {
    rig->nr_done = 0;
    struct vn_req *req = rig->ctrl.admin_pool;
    CHECK(req && rig->ctrl.sqs[sqid].exists);
    rig->ctrl.admin_pool = req->next;
    req->next = NULL;
    req->sq = &rig->ctrl.sqs[sqid];
    uint16_t cid = cmd.cid = ++rig->next_cid;
    req->cmd = cmd;
    req->sq->cq->reserved++;
    vn_ctrl_execute(req);
    const struct rig_done *done = rig_completion(rig, sqid, cid);
    return done ? *done : (struct rig_done){.status = 0xffff};
}

static inline vn_status fab_status(struct ctrl_rig *rig, uint16_t sqid, struct vn_sqe cmd) {
    return VN_STATUS_CODE(fab_run(rig, sqid, cmd).status);
}

/* An admin command with an SGL of so many bytes. */
static inline vn_status fab_admin(struct ctrl_rig *rig, struct vn_sqe cmd, uint32_t bytes) {
    cmd.flags = SGL_FLAGS;
    cmd.sgl1 = (struct vn_sgl_desc){.addr = DATA_GPA, .length = bytes, .type = VN_SGL_TRANSPORT};
    return fab_status(rig, 0, cmd);
}

static inline uint8_t *fab_data(struct ctrl_rig *rig) {
    return rig->ram + (DATA_GPA - RIG_RAM_GPA);
}

static inline struct vn_sqe fab_command(enum vn_fctype type) {
    return (struct vn_sqe){.opcode = VN_ADMIN_FABRICS, .nsid = type};
}

static inline vn_status fab_get(struct ctrl_rig *rig, uint32_t offset, uint32_t size, uint64_t *value) {
    struct vn_sqe cmd = fab_command(VN_FCTYPE_PROPERTY_GET);
    cmd.cdw10 = size;
    cmd.cdw11 = offset;
    struct rig_done done = fab_run(rig, 0, cmd);
    if (value)
        *value = done.result | (uint64_t)done.result_high << 32;
    return VN_STATUS_CODE(done.status);
}

static inline vn_status fab_set(struct ctrl_rig *rig, uint32_t offset, uint32_t size, uint32_t value) {
    struct vn_sqe cmd = fab_command(VN_FCTYPE_PROPERTY_SET);
    cmd.cdw10 = size;
    cmd.cdw11 = offset;
    cmd.cdw12 = value;
    return fab_status(rig, 0, cmd);
}

static inline uint32_t fab_csts(struct ctrl_rig *rig) {
    uint64_t csts;
    CHECK_EQ(fab_get(rig, VN_REG_CSTS, 0, &csts), VN_SC_SUCCESS);
    return (uint32_t)csts;
}

static inline void fab_enable(struct ctrl_rig *rig) {
    CHECK_EQ(fab_set(rig, VN_REG_CC, 0, VN_CC_EN | 6u << 16 | 4u << 20), VN_SC_SUCCESS);
    CHECK_EQ(fab_csts(rig), VN_CSTS_RDY);
}

static inline vn_status fab_log(struct ctrl_rig *rig, uint32_t lid, uint32_t bytes, uint64_t offset, bool retain) {
    uint32_t dwords = bytes / 4 - 1;
    memset(fab_data(rig), 0xaa, DATA_BYTES);
    return fab_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_LOG_PAGE, .nsid = VN_NSID_BROADCAST,
                                          .cdw10 = lid | (uint32_t)retain << 15 | (dwords & 0xffff) << 16,
                                          .cdw11 = dwords >> 16, .cdw12 = (uint32_t)offset,
                                          .cdw13 = (uint32_t)(offset >> 32)}, bytes);
}

static inline vn_status fab_identify(struct ctrl_rig *rig, uint32_t cns, uint32_t nsid) {
    memset(fab_data(rig), 0xaa, VN_PAGE_SIZE);
    return fab_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_IDENTIFY, .nsid = nsid, .cdw10 = cns}, VN_PAGE_SIZE);
}

static inline uint16_t fab_park_aer(struct ctrl_rig *rig) {
    fab_run(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ASYNC_EVENT, .flags = SGL_FLAGS});
    CHECK_EQ(rig->nr_done, 0);
    return rig->next_cid;
}

#endif
