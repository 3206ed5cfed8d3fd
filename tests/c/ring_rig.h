/* A controller behind the real rings of guest/doorbell.c, with guest memory in arrays and no vfio-user client.
 * For test_doorbell.c, test_race.c and the fuzz targets. Everything here is called on the reactor, but for
 * ring_make and ring_free.
 */
#ifndef RING_RIG_H
#define RING_RIG_H

#include <sys/mman.h>
#include <time.h>

#include "core/util.h"
#include "ctrl/drive.h"
#include "guest/vfu_dev.h"
#include "ns/ns_state.h"
#include "vn_test.h"

#define RING_RAM_BYTES (1u << 20)
#define RING_NR_NS 4u

struct ring_rig {
    struct vn_reactor *reactor;
    struct vn_event_queue *events;
    struct vn_ctrl ctrl;
    struct vn_vfu_dev dev;
    uint8_t *ram; /* with an inaccessible page on either side */
    uint8_t *ram_mapping;
    struct vn_ns *spaces[RING_NR_NS + 1];
    uint32_t doorbell_page[VN_DOORBELL_BYTES / 4];
    uint32_t nr_left; /* namespaces that could not be removed yet, or its own drive */
    void (*fn)(struct ring_rig *rig);
};

static const struct vn_door_ops ring_door = {
    .name = "rings",
    .map = vn_doorbell_map,
    .post = vn_doorbell_post,
    .sq_open = vn_doorbell_sq_open,
    .fetch_second = vn_doorbell_fetch_second,
    .cq_open = vn_doorbell_cq_open,
    .doorbell_buffer = vn_doorbell_buffer,
    .disabled = vn_doorbell_forget,
    .irq_mask_changed = vn_irq_mask_changed,
};

static inline int ring_call(void *arg) {
    struct ring_rig *rig = arg;
    rig->fn(rig);
    return 0;
}

static inline void ring_on(struct ring_rig *rig, void (*fn)(struct ring_rig *rig)) {
    rig->fn = fn;
    CHECK_EQ(vn_reactor_call(rig->reactor, ring_call, rig), 0);
}

static inline void ring_nothing(struct ring_rig *rig) {
    (void)rig;
}

/* One turn of the device, as vfu_dev.c's poller takes it. */
static inline void ring_turn(struct ring_rig *rig) {
    vn_doorbell_poll(&rig->dev);
    vn_ctrl_retry_busy(&rig->ctrl);
    vn_irq_flush(&rig->dev);
}

#define RING_WAIT(rig, condition)                                       \
    do {                                                                \
        for (int ms_ = 0; ring_on((rig), ring_turn), !(condition); ms_++) { \
            CHECK(ms_ < 10000 && #condition);                           \
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);     \
        }                                                               \
    } while (0)

static inline void ring_add_namespaces(struct ring_rig *rig) {
    for (uint32_t nsid = 1; nsid <= RING_NR_NS; nsid++) {
        struct vn_ns_chan *nsc;
        if (rig->spaces[nsid])
            CHECK_EQ(vn_ctrl_add_ns(&rig->ctrl, rig->spaces[nsid], nsid, &nsc), 0);
    }
}

/* As api.c does it: a format or a job that is at the namespace comes to a halt first. Answers whether it is gone. */
static inline bool ring_remove_namespace(struct ring_rig *rig, struct vn_ns_chan *nsc) {
    nsc->closing = true;
    if (vn_ns_release(nsc) || nsc->inflight || vn_ctrl_uses_ns(&rig->ctrl, nsc) || vn_job_leave(rig->ctrl.drive, nsc->ns))
        return false;
    vn_ctrl_drop_ns(&rig->ctrl, nsc);
    free(nsc);
    return true;
}

static inline void ring_remove_namespaces(struct ring_rig *rig) {
    rig->nr_left = 0;
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        struct vn_ns_chan *nsc = rig->ctrl.namespaces.by_nsid[nsid];
        rig->nr_left += nsc && !ring_remove_namespace(rig, nsc);
    }
    if (!rig->nr_left && !rig->ctrl.drive->owner)
        rig->nr_left = vn_drive_pause(rig->ctrl.drive) != 0;
}

/* A controller without namespaces. The memory is not mapped yet: vn_guest_mem_add(&rig->dev.mem, ...). */
static inline void ring_open_ctrl(struct ring_rig *rig, const struct vn_ctrl_opts *opts, struct vn_reactor *reactor,
                                  struct vn_event_queue *events) {
    memset(rig, 0, sizeof(*rig));
    rig->reactor = reactor;
    rig->events = events;
    CHECK_EQ(vn_ctrl_init(&rig->ctrl, opts, reactor, events, 1), 0);
    rig->ctrl.dbbuf_supported = true;
    rig->dev = (struct vn_vfu_dev){.ctrl = &rig->ctrl, .reactor = reactor, .page = rig->doorbell_page};
    rig->ctrl.door = &ring_door;
    rig->ctrl.door_ctx = &rig->dev;
    rig->ram_mapping = mmap(NULL, RING_RAM_BYTES + 2 * VN_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(rig->ram_mapping != MAP_FAILED);
    rig->ram = rig->ram_mapping + VN_PAGE_SIZE;
    CHECK_EQ(mprotect(rig->ram, RING_RAM_BYTES, PROT_READ | PROT_WRITE), 0);
}

/* NSID 1: mem with 512-byte blocks; 2: mem with 4096, slow; 3: null, slow, that fails at times; 4: null, read-only. */
static inline void ring_open(struct ring_rig *rig, struct vn_reactor *reactor, struct vn_event_queue *events) {
    static const struct vn_ns_opts spaces[RING_NR_NS] = {
        {.backend = "mem", .size = 1 << 18, .block_size = 512},
        {.backend = "mem", .size = 1 << 18, .block_size = 4096, .delay_us = 50},
        {.backend = "null", .size = 1ull << 40, .block_size = 512, .delay_us = 20, .error_ppm = 200000, .error_seed = 1},
        {.backend = "null", .size = 1 << 20, .block_size = 512, .flags = VN_NS_READ_ONLY},
    };
    char error[256];
    ring_open_ctrl(rig, &(struct vn_ctrl_opts){.max_queues = 8, .max_entries = 64}, reactor, events);
    for (uint32_t nsid = 1; nsid <= RING_NR_NS; nsid++) {
        CHECK_EQ(vn_ns_create(&spaces[nsid - 1], &rig->spaces[nsid], error, sizeof(error)), 0);
        CHECK_EQ(vn_ns_state_open(rig->spaces[nsid], error, sizeof(error)), 0);
    }
    ring_on(rig, ring_add_namespaces);
}

static inline void ring_disable(struct ring_rig *rig) {
    rig->ctrl.cc = 0;
    vn_ctrl_disable(&rig->ctrl);
}

static inline bool ring_is_quiet(const struct ring_rig *rig) {
    return rig->ctrl.state == VN_CTRL_DISABLED && !rig->ctrl.nr_inflight && !rig->ctrl.shutdown && !rig->ctrl.nr_orphans;
}

static inline uint32_t ring_pool_size(const struct vn_req *pool) {
    uint32_t nr = 0;
    for (; pool; pool = pool->next) {
        CHECK_EQ(pool->state, VN_REQ_FREE);
        nr++;
    }
    return nr;
}

/* Disables, waits for what is in flight, and checks that every request has come home. */
static inline void ring_close(struct ring_rig *rig) {
    ring_on(rig, ring_disable);
    RING_WAIT(rig, ring_is_quiet(rig));
    CHECK_EQ(ring_pool_size(rig->ctrl.io_pool), VN_NR_IO_REQS);
    CHECK_EQ(ring_pool_size(rig->ctrl.admin_pool), VN_NR_ADMIN_REQS);
    CHECK(!rig->ctrl.busy_first && !rig->ctrl.busy_last && !rig->ctrl.nr_aers);
    for (ring_on(rig, ring_remove_namespaces); rig->nr_left; ring_on(rig, ring_remove_namespaces))
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    for (uint32_t nsid = 1; nsid <= RING_NR_NS; nsid++)
        if (rig->spaces[nsid])
            vn_ns_free(rig->spaces[nsid]);
    munmap(rig->ram_mapping, RING_RAM_BYTES + 2 * VN_PAGE_SIZE);
    vn_ctrl_fini(&rig->ctrl);
}

/* --- A host's side of it; all memory is one region at guest address 0 in these --- */
#define RING_ASQ 0x1000u
#define RING_ACQ 0x2000u

static inline void ring_enable_css(struct ring_rig *rig, uint32_t entries, uint32_t css) {
    struct vn_ctrl *ctrl = &rig->ctrl;
    vn_ctrl_reg_write(ctrl, VN_REG_AQA, (entries - 1) | (entries - 1) << 16, 4);
    vn_ctrl_reg_write(ctrl, VN_REG_ASQ, RING_ASQ, 8);
    vn_ctrl_reg_write(ctrl, VN_REG_ACQ, RING_ACQ, 8);
    vn_ctrl_reg_write(ctrl, VN_REG_CC, VN_CC_EN | css << 4 | 6u << 16 | 4u << 20, 4);
}

static inline void ring_enable(struct ring_rig *rig, uint32_t entries) {
    ring_enable_css(rig, entries, 0);
}

static inline void ring_write_tail(struct ring_rig *rig, uint16_t qid, uint32_t tail) {
    vn_doorbell_write(&rig->dev, VN_REG_DBS + 8u * qid, tail);
}

static inline void ring_write_head(struct ring_rig *rig, uint16_t qid, uint32_t head) {
    vn_doorbell_write(&rig->dev, VN_REG_DBS + 8u * qid + 4, head);
}

static inline struct vn_sqe *ring_sqe(struct ring_rig *rig, uint64_t sq_gpa, uint32_t index) {
    return (struct vn_sqe *)(rig->ram + sq_gpa) + index;
}

static inline struct vn_cqe *ring_cqe(struct ring_rig *rig, uint64_t cq_gpa, uint32_t index) {
    return (struct vn_cqe *)(rig->ram + cq_gpa) + index;
}

#endif
