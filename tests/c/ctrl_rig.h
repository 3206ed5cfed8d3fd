/* A controller behind a fake door: commands go in as SQEs, completions are recorded, guest memory is an array.
 * Everything that touches the controller runs on its reactor: rig_on(rig, fn) calls fn(rig) there.
 */
#ifndef CTRL_RIG_H
#define CTRL_RIG_H

#include <time.h>

#include "core/util.h"
#include "ctrl/ctrl.h"
#include "guest/guest_mem.h"
#include "ns/ns_state.h"
#include "vn_test.h"

#define RIG_RAM_GPA 0x100000u
#define RIG_RAM_BYTES (1u << 20)
#define RIG_DONE_MAX 4096u

struct rig_done {
    uint16_t sqid, cid;
    vn_status status; /* without the phase bit */
    uint32_t result, result_high;
};

struct ctrl_rig {
    struct vn_reactor *reactor;
    struct vn_event_queue *events;
    struct vn_ctrl ctrl;
    struct vn_guest_mem mem;
    uint8_t *ram;
    struct vn_ns *spaces[VN_MAX_NAMESPACES + 1];
    struct rig_done done[RIG_DONE_MAX];
    uint32_t nr_done;
    bool host_sleeps; /* the host consumes no completion: its head stays */
    bool no_memory;   /* queues cannot be opened */
    uint32_t nr_disabled, nr_irq_masks;
    uint64_t shadow_gpa;
    uint16_t next_cid;
    /* arguments of calls to the reactor */
    void (*fn)(struct ctrl_rig *rig);
    const struct vn_ns_opts *ns_opts;
    uint32_t nsid;
};

static inline struct ctrl_rig *rig_of(const struct vn_ctrl *ctrl) {
    return ctrl->door_ctx;
}

static inline vn_status rig_map(struct vn_req *req, uint32_t length) {
    bool to_host = (req->cmd.opcode & 3) == 2;
    struct vn_iov_list list = {
        .mem = &rig_of(req->ctrl)->mem, .iov = req->iov, .max = req->iov_max, .write = to_host};
    vn_status status = vn_prp_map(&list, req->cmd.prp1, req->cmd.prp2, length);
    req->nr_iov = list.nr;
    return status;
}

static inline vn_status rig_map_meta(struct vn_req *req, struct vn_meta_map *map, uint32_t length) {
    bool to_host = (req->cmd.opcode & 3) == 2;
    struct vn_iov_list list = {
        .mem = &rig_of(req->ctrl)->mem, .iov = map->iov, .max = map->max, .write = to_host};
    vn_status status = vn_mptr_map(&list, req->cmd.mptr, VN_SQE_PSDT(req->cmd.flags), length);
    map->nr = list.nr;
    return status;
}

static inline void rig_post(struct vn_req *req) {
    struct ctrl_rig *rig = rig_of(req->ctrl);
    struct vn_cq *cq = req->sq->cq;
    CHECK(rig->nr_done < RIG_DONE_MAX);
    rig->done[rig->nr_done++] = (struct rig_done){req->sq->sqid, req->cmd.cid, req->status, req->result,
                                               req->result_high};
    CHECK((cq->tail + 1) % cq->size != cq->head); /* posted to a full queue */
    cq->tail = (cq->tail + 1) % cq->size;
    if (!rig->host_sleeps)
        cq->head = cq->tail;
}

static inline vn_status rig_sq_open(struct vn_sq *sq) {
    return rig_of(sq->ctrl)->no_memory ? VN_SC_DATA_TRANSFER_ERROR : VN_SC_SUCCESS;
}

static inline vn_status rig_cq_open(struct vn_cq *cq) {
    struct vn_ctrl *ctrl = vn_container_of(cq - cq->cqid, struct vn_ctrl, cqs[0]);
    return rig_of(ctrl)->no_memory ? VN_SC_DATA_TRANSFER_ERROR : VN_SC_SUCCESS;
}

static inline vn_status rig_doorbell_buffer(struct vn_ctrl *ctrl, uint64_t shadow, uint64_t event_idx) {
    (void)event_idx;
    rig_of(ctrl)->shadow_gpa = shadow;
    return VN_SC_SUCCESS;
}

static inline void rig_disabled(struct vn_ctrl *ctrl) {
    rig_of(ctrl)->nr_disabled++;
    rig_of(ctrl)->shadow_gpa = 0;
}

static inline void rig_irq_mask_changed(struct vn_ctrl *ctrl) {
    rig_of(ctrl)->nr_irq_masks++;
}

static const struct vn_door_ops rig_door = {
    .name = "test",
    .map = rig_map,
    .map_meta = rig_map_meta,
    .post = rig_post,
    .sq_open = rig_sq_open,
    .cq_open = rig_cq_open,
    .doorbell_buffer = rig_doorbell_buffer,
    .disabled = rig_disabled,
    .irq_mask_changed = rig_irq_mask_changed,
};

static inline int rig_call(void *arg) {
    struct ctrl_rig *rig = arg;
    rig->fn(rig);
    return 0;
}

/* Runs fn on the reactor and waits for it. */
static inline void rig_on(struct ctrl_rig *rig, void (*fn)(struct ctrl_rig *rig)) {
    rig->fn = fn;
    CHECK_EQ(vn_reactor_call(rig->reactor, rig_call, rig), 0);
}

static inline void rig_make_memory(struct ctrl_rig *rig) {
    CHECK((rig->ram = aligned_alloc(VN_PAGE_SIZE, RIG_RAM_BYTES)));
    memset(rig->ram, 0, RIG_RAM_BYTES);
    CHECK_EQ(vn_guest_mem_add(&rig->mem, RIG_RAM_GPA, RIG_RAM_BYTES, rig->ram, true, true), 0);
}

static inline struct ctrl_rig *rig_make(const struct vn_ctrl_opts *opts) {
    static const struct vn_ctrl_opts defaults = {.serial = "RIG1"};
    struct ctrl_rig *rig = calloc(1, sizeof(*rig));
    CHECK(rig);
    CHECK_EQ(vn_event_queue_create(&rig->events), 0);
    CHECK_EQ(vn_reactor_start(0, 20, &rig->reactor), 0);
    CHECK_EQ(vn_ctrl_init(&rig->ctrl, opts ? opts : &defaults, rig->reactor, rig->events, 7), 0);
    rig->ctrl.door = &rig_door;
    rig->ctrl.door_ctx = rig;
    rig_make_memory(rig);
    return rig;
}

/* --- Namespaces --- */
static inline void rig_attach_here(struct ctrl_rig *rig) {
    struct vn_ns_chan *nsc;
    if (!rig->ctrl.fabrics) {
        CHECK_EQ(vn_ctrl_add_ns(&rig->ctrl, rig->spaces[rig->nsid], rig->nsid, &nsc), 0);
        return;
    }
    CHECK_EQ(vn_ns_chan_open(rig->spaces[rig->nsid], rig->reactor, rig->nsid, &nsc), 0);
    CHECK_EQ(vn_ns_table_add(&rig->ctrl.namespaces, nsc), 0);
    vn_aer_ns_changed(&rig->ctrl, rig->nsid);
}

static inline void rig_attach(struct ctrl_rig *rig, uint32_t nsid, const struct vn_ns_opts *opts) {
    char error[256];
    rig->nsid = nsid;
    CHECK_EQ(vn_ns_create(opts, &rig->spaces[nsid], error, sizeof(error)), 0);
    if (!rig->spaces[nsid]->state)
        CHECK_EQ(vn_ns_state_open(rig->spaces[nsid], error, sizeof(error)), 0);
    rig_on(rig, rig_attach_here);
}

static inline void rig_detach_here(struct ctrl_rig *rig) {
    struct vn_ns_chan *nsc = rig->ctrl.namespaces.by_nsid[rig->nsid];
    CHECK_EQ(nsc->inflight, 0);
    if (rig->ctrl.fabrics) {
        vn_ns_table_remove(&rig->ctrl.namespaces, rig->nsid);
        vn_ns_chan_close(nsc);
    } else {
        vn_ctrl_drop_ns(&rig->ctrl, nsc);
    }
    free(nsc);
    vn_aer_ns_changed(&rig->ctrl, rig->nsid);
}

static inline void rig_detach(struct ctrl_rig *rig, uint32_t nsid) {
    rig->nsid = nsid;
    rig_on(rig, rig_detach_here);
    vn_ns_free(rig->spaces[nsid]);
    rig->spaces[nsid] = NULL;
}

/* --- Waiting: the reactor turns meanwhile --- */
static inline void rig_nothing(struct ctrl_rig *rig) {
    (void)rig;
}

#define RIG_WAIT(rig, condition)                                        \
    do {                                                                \
        for (int ms_ = 0; rig_on((rig), rig_nothing), !(condition); ms_++) { \
            CHECK(ms_ < 10000 && #condition);                           \
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);    \
        }                                                               \
    } while (0)

static inline void rig_disable_here(struct ctrl_rig *rig) {
    rig->ctrl.cc = 0;
    vn_ctrl_disable(&rig->ctrl);
}

static inline uint32_t rig_pool_size(const struct vn_req *pool) {
    uint32_t nr = 0;
    for (; pool; pool = pool->next) {
        CHECK_EQ(pool->state, VN_REQ_FREE);
        nr++;
    }
    return nr;
}

/* Disables, drains, and checks that every request has come home. */
static inline void rig_free(struct ctrl_rig *rig) {
    rig_on(rig, rig_disable_here);
    RIG_WAIT(rig, rig->ctrl.state == VN_CTRL_DISABLED && !rig->ctrl.nr_inflight && !rig->ctrl.shutdown &&
                      !rig->ctrl.nr_orphans);
    CHECK_EQ(rig_pool_size(rig->ctrl.io_pool), rig->ctrl.fabrics ? 0 : VN_NR_IO_REQS);
    CHECK_EQ(rig_pool_size(rig->ctrl.admin_pool), VN_NR_ADMIN_REQS);
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        if (rig->spaces[nsid])
            rig_detach(rig, nsid);
    }
    vn_reactor_stop(rig->reactor);
    vn_ctrl_fini(&rig->ctrl);
    vn_event_queue_destroy(rig->events);
    free(rig->ram);
    free(rig);
}

/* --- On the reactor: registers and commands --- */
static inline void rig_enable(struct ctrl_rig *rig) {
    struct vn_ctrl *ctrl = &rig->ctrl;
    vn_ctrl_reg_write(ctrl, VN_REG_AQA, 31 | 31 << 16, 4);
    vn_ctrl_reg_write(ctrl, VN_REG_ASQ, RIG_RAM_GPA, 8);
    vn_ctrl_reg_write(ctrl, VN_REG_ACQ, RIG_RAM_GPA + VN_PAGE_SIZE, 8);
    vn_ctrl_reg_write(ctrl, VN_REG_CC, VN_CC_EN | 6u << 16 | 4u << 20, 4);
    CHECK_EQ(vn_ctrl_reg_read(ctrl, VN_REG_CSTS, 4), VN_CSTS_RDY);
}

/* Fetches one command, as a door would. Answers its CID. */
static inline uint16_t rig_submit(struct ctrl_rig *rig, uint16_t sqid, struct vn_sqe cmd) {
    struct vn_sq *sq = &rig->ctrl.sqs[sqid];
    CHECK(sq->exists);
    struct vn_req *req = vn_ctrl_get_req(&rig->ctrl, sq);
    CHECK(req);
    if (!cmd.cid)
        cmd.cid = ++rig->next_cid;
    req->cmd = cmd;
    sq->cq->reserved++;
    vn_ctrl_execute(req);
    return cmd.cid;
}

/* The completion of a command, or NULL; it must not have two. */
static inline const struct rig_done *rig_completion(const struct ctrl_rig *rig, uint16_t sqid, uint16_t cid) {
    const struct rig_done *found = NULL;
    for (uint32_t i = 0; i < rig->nr_done; i++) {
        if (rig->done[i].sqid != sqid || rig->done[i].cid != cid)
            continue;
        CHECK(!found);
        found = &rig->done[i];
    }
    return found;
}

/* An admin command that ends at once: its status without DNR and More, its result in *result (or NULL). */
static inline vn_status rig_admin(struct ctrl_rig *rig, struct vn_sqe cmd, uint32_t *result) {
    uint16_t cid = rig_submit(rig, 0, cmd);
    const struct rig_done *done = rig_completion(rig, 0, cid);
    CHECK(done);
    if (result)
        *result = done->result;
    return VN_STATUS_CODE(done->status);
}

static inline vn_status rig_create_cq(struct ctrl_rig *rig, uint16_t cqid, uint16_t size) {
    return rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_CREATE_CQ, .prp1 = RIG_RAM_GPA + 0x2000,
                                          .cdw10 = cqid | (size - 1u) << 16, .cdw11 = 1}, NULL);
}

static inline vn_status rig_create_sq(struct ctrl_rig *rig, uint16_t sqid, uint16_t cqid, uint16_t size) {
    return rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_CREATE_SQ, .prp1 = RIG_RAM_GPA + 0x3000,
                                          .cdw10 = sqid | (size - 1u) << 16, .cdw11 = 1 | (uint32_t)cqid << 16}, NULL);
}

static inline vn_status rig_delete(struct ctrl_rig *rig, uint8_t opcode, uint16_t qid) {
    return rig_admin(rig, (struct vn_sqe){.opcode = opcode, .cdw10 = qid}, NULL);
}

static inline uint16_t rig_park_aer(struct ctrl_rig *rig) {
    return rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_ASYNC_EVENT});
}

#endif
