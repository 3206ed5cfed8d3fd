/* Two devices on one reactor: one that always has more to do, and one with a command at a time. Counted in turns, not in
 * time: in every turn the greedy one gets a bounded number of commands, and the other one its command.
 */
#include "ring_rig.h"

#define SQ_GPA(qid) (0x10000u + 0x1000u * (qid))
#define CQ_GPA(qid) (0x20000u + 0x1000u * (qid))
#define ENTRIES 64u
#define NR_QUEUES 4u
#define BURST 32u /* commands of one queue in a turn: guest/doorbell.c */
#define NR_TURNS 500u

static struct ring_rig greedy, modest;

struct host_queue {
    uint32_t tail, head;
};
static struct host_queue queues[NR_QUEUES + 1];

static void admin(struct ring_rig *rig, uint32_t *tail, struct vn_sqe cmd) {
    *ring_sqe(rig, RING_ASQ, *tail) = cmd;
    ring_write_tail(rig, 0, ++*tail);
    ring_turn(rig);
    const struct vn_cqe *cqe = ring_cqe(rig, RING_ACQ, *tail - 1);
    CHECK_EQ(cqe->status >> 1, 0);
    ring_write_head(rig, 0, *tail);
}

static void start(struct ring_rig *rig, uint32_t nr_queues) {
    uint32_t tail = 0;
    CHECK_EQ(vn_guest_mem_add(&rig->dev.mem, 0, RING_RAM_BYTES, rig->ram, true, true), 0);
    ring_enable(rig, 32);
    for (uint32_t qid = 1; qid <= nr_queues; qid++) {
        admin(rig, &tail, (struct vn_sqe){.opcode = VN_ADMIN_CREATE_CQ, .prp1 = CQ_GPA(qid), .cdw10 = qid | (ENTRIES - 1) << 16,
                                          .cdw11 = 1});
        admin(rig, &tail, (struct vn_sqe){.opcode = VN_ADMIN_CREATE_SQ, .prp1 = SQ_GPA(qid), .cdw10 = qid | (ENTRIES - 1) << 16,
                                          .cdw11 = 1 | qid << 16});
    }
}

/* Fills a queue up to so many commands that have not completed, and takes what has. */
static void host_turn(struct ring_rig *rig, uint16_t qid, struct host_queue *queue, uint32_t depth) {
    queue->head = rig->ctrl.cqs[qid].tail;
    ring_write_head(rig, qid, queue->head);
    while ((queue->tail + ENTRIES - rig->ctrl.sqs[qid].head) % ENTRIES < depth) {
        *ring_sqe(rig, SQ_GPA(qid), queue->tail) = (struct vn_sqe){.opcode = VN_IO_FLUSH, .cid = (uint16_t)queue->tail, .nsid = 1};
        queue->tail = (queue->tail + 1) % ENTRIES;
    }
    ring_write_tail(rig, qid, queue->tail);
}

static void start_both(struct ring_rig *rig) {
    (void)rig;
    start(&greedy, NR_QUEUES);
    start(&modest, 1);
}

static void take_turns(struct ring_rig *rig) {
    (void)rig;
    uint64_t begin = greedy.ctrl.counters.commands, by_queue[NR_QUEUES + 1] = {0};
    for (uint32_t turn = 1; turn <= NR_TURNS; turn++) {
        for (uint16_t qid = 1; qid <= NR_QUEUES; qid++)
            host_turn(&greedy, qid, &queues[qid], ENTRIES - 1);
        host_turn(&modest, 1, &queues[0], 1);
        uint64_t before = greedy.ctrl.counters.commands;
        uint32_t heads[NR_QUEUES + 1];
        for (uint32_t qid = 1; qid <= NR_QUEUES; qid++)
            heads[qid] = greedy.ctrl.sqs[qid].head;
        ring_turn(&greedy);
        ring_turn(&modest);
        CHECK(greedy.ctrl.counters.commands - before <= BURST * NR_QUEUES);
        for (uint32_t qid = 1; qid <= NR_QUEUES; qid++)
            by_queue[qid] += (greedy.ctrl.sqs[qid].head + ENTRIES - heads[qid]) % ENTRIES;
        CHECK_EQ(modest.ctrl.counters.commands, turn); /* its one command, in every turn */
    }
    /* And the greedy one's queues had the same each, but for a burst. */
    uint64_t all = greedy.ctrl.counters.commands - begin;
    CHECK(all >= NR_TURNS);
    for (uint32_t qid = 1; qid <= NR_QUEUES; qid++)
        CHECK(by_queue[qid] + BURST >= all / NR_QUEUES && by_queue[qid] <= all / NR_QUEUES + BURST);
}

int main(void) {
    struct vn_reactor *reactor;
    struct vn_event_queue *events;
    CHECK_EQ(vn_event_queue_create(&events), 0);
    CHECK_EQ(vn_reactor_start(0, 20, &reactor), 0);
    ring_open(&greedy, reactor, events);
    ring_open(&modest, reactor, events);
    ring_on(&greedy, start_both);
    ring_on(&greedy, take_turns);
    ring_close(&greedy);
    ring_close(&modest);
    vn_reactor_stop(reactor);
    vn_event_queue_destroy(events);
    return 0;
}
