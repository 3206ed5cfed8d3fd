/* What the targets on ring_rig.h share: one reactor for all inputs, a fresh controller for each, steps on the reactor. */
#ifndef FUZZ_RINGS_H
#define FUZZ_RINGS_H

#include "fuzz_input.h"
#include "ring_rig.h"

static struct ring_rig rig;
static struct input program;
static bool step_on; /* the program goes on after the reactor has turned */

static struct vn_reactor *fuzz_reactor;
static struct vn_event_queue *fuzz_events;

static inline void fuzz_setup(void) {
    if (fuzz_reactor)
        return;
    CHECK_EQ(vn_event_queue_create(&fuzz_events), 0);
    CHECK_EQ(vn_reactor_start(0, 200, &fuzz_reactor), 0);
}

/* Runs step on the reactor until it says that the program is over; between two steps the reactor turns: timers run. */
static inline void fuzz_run(const uint8_t *data, size_t size, void (*start)(struct ring_rig *rig),
                            void (*step)(struct ring_rig *rig)) {
    struct vn_event events[64];
    fuzz_setup();
    program = (struct input){data, size};
    ring_open(&rig, fuzz_reactor, fuzz_events);
    ring_on(&rig, start);
    for (step_on = true; step_on;)
        ring_on(&rig, step);
    ring_close(&rig);
    while (vn_event_drain(fuzz_events, events, 64))
        ;
}

static inline void fuzz_map(uint64_t gpa, uint64_t len, bool writable) {
    if (gpa <= RING_RAM_BYTES && len <= RING_RAM_BYTES - gpa)
        vn_guest_mem_add(&rig.dev.mem, gpa, len, rig.ram + gpa, true, writable);
    vn_doorbell_remap(&rig.dev);
}

/* As vfu_dev.c does it: nothing is in flight when the memory goes. */
static inline void fuzz_unmap(uint32_t which) {
    if (!rig.dev.mem.nr || rig.ctrl.nr_inflight)
        return;
    struct vn_guest_region region = rig.dev.mem.regions[which % rig.dev.mem.nr];
    vn_guest_mem_remove(&rig.dev.mem, region.gpa, region.len);
    vn_doorbell_remap(&rig.dev);
}

/* Addresses in and around the memory, most of them page aligned. */
static inline uint64_t take_gpa(struct input *input) {
    uint8_t kind = take8(input);
    if (kind < 160)
        return (uint64_t)take8(input) * VN_PAGE_SIZE;
    if (kind < 240)
        return take(input, 3) & ~3ull;
    return take(input, 8);
}

/* What must hold after every step. */
static inline void check_invariants(const struct vn_ctrl *ctrl) {
    uint32_t nr_inflight = 0, nr_parked = 0;
    for (uint32_t i = 0; i < VN_NR_QUEUES; i++) {
        const struct vn_sq *sq = &ctrl->sqs[i];
        const struct vn_cq *cq = &ctrl->cqs[i];
        nr_inflight += sq->nr_inflight;
        if (sq->exists)
            MUST(sq->head < sq->size && sq->tail < sq->size && sq->cq->exists);
        if (!cq->exists)
            continue;
        uint32_t filled = (cq->tail + cq->size - cq->head) % cq->size;
        MUST(cq->head < cq->size && cq->tail < cq->size);
        MUST(filled + cq->reserved <= cq->size - 1);
    }
    for (const struct vn_req *req = ctrl->sqs[0].inflight; req; req = req->next)
        nr_parked += req->cmd.opcode == VN_ADMIN_FORMAT_NVM; /* nothing waits for one that is under way */
    MUST(nr_inflight >= ctrl->nr_inflight && nr_inflight <= ctrl->nr_inflight + nr_parked);
    MUST(ctrl->nr_aers <= VN_MAX_AERS);
}

#endif
