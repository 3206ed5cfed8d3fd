/* Loads over NVMe/TCP: the loop's queues as they are, in memory of its own, with an initiator behind them in place of a
 * controller. It takes each command off the ring, and puts its end on the other. Called by perf_setup.c and perf_loop.c.
 */
#include <errno.h>

#include "host/perf_run.h"

static void on_done(void *owner, uint32_t number, uint32_t tag, uint16_t status) {
    struct vn_perf_run *run = owner;
    uint32_t lane = tag / run->opts->depth * run->opts->nr_devices + number;

    vn_perf_peer_post(&run->peer_queues[lane], (uint16_t)(tag % run->opts->depth), status);
}

int vn_perf_remote_open(struct vn_perf_run *run, uint32_t number, struct vn_perf_bridge_facts *facts) {
    struct vn_perf_bridge_opts opts = {.remote = run->opts->remotes[number],
                                       .nr_tags = run->opts->depth * run->opts->nr_queues,
                                       .number = number,
                                       .done = on_done,
                                       .owner = run};
    char error[256];
    int rc = vn_perf_bridge_open(&opts, &run->bridges[number], facts, error, sizeof(error));

    return rc < 0 ? vn_host_fail(-rc, "%s", error) : 0;
}

static void take_commands(struct vn_perf_run *run, uint32_t lane) {
    const struct vn_perf_queue *q = &run->queues[lane];
    struct vn_perf_peer_queue *pq = &run->peer_queues[lane];
    uint32_t new_head = *pq->doorbell, number = lane % run->opts->nr_devices;
    uint32_t first_tag = lane / run->opts->nr_devices * run->opts->depth;

    while (pq->head != new_head) {
        const struct vn_sqe *sqe = &pq->sqes[pq->head];
        uint64_t lba = sqe->cdw10 | (uint64_t)sqe->cdw11 << 32;
        uint16_t cid = sqe->cid;

        pq->head = pq->head + 1 == pq->sq_entries ? 0 : pq->head + 1;
        vn_perf_bridge_send(run->bridges[number], first_tag + cid, sqe->opcode == VN_IO_WRITE, lba * q->dev->lba_bytes,
                            q->dev->host->mem + q->slots[cid].data_offset, run->opts->block_bytes);
    }
}

void vn_perf_remote_turn(struct vn_perf_run *run) {
    for (uint32_t i = 0; i < run->nr_lanes; i++)
        take_commands(run, i);
    vn_perf_bridge_turn(run->bridges, run->opts->nr_devices);
}
