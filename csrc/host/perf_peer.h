/* The ceiling's other side: queues without a server behind them, completed at once and without looking at data.
 * Called by perf_setup.c and perf_loop.c. Owner of a peer: its thread, or the load's where the peer is inline.
 */
#ifndef VN_HOST_PERF_PEER_H
#define VN_HOST_PERF_PEER_H

#include <stdbool.h>
#include <stdint.h>

#include "host/nvme_host.h"

struct vn_perf_peer_queue {
    const struct vn_sqe *sqes;
    struct vn_cqe *cqes;
    const volatile uint32_t *doorbell;
    uint32_t sq_entries, cq_entries;
    uint32_t head, tail; /* of the submission and of the completion queue */
    uint16_t sqid, phase;
};

struct vn_perf_peer;

/* A host handle with memory and a page of doorbells, and nobody at the other end. */
int vn_perf_peer_open(uint64_t memory_bytes, struct vn_host **host);
/* I/O queue pair qid of such a host. */
int vn_perf_peer_queues(struct vn_host *host, uint16_t qid, uint32_t entries, struct vn_perf_peer_queue *pq);
/* A thread that answers these queues until it is stopped. NULL can be stopped. */
int vn_perf_peer_start(struct vn_perf_peer_queue *queues, uint32_t nr, struct vn_perf_peer **peer);
void vn_perf_peer_stop(struct vn_perf_peer *peer);

/* The end of a command. The host never has more in flight than a completion queue holds. */
static inline void vn_perf_peer_post(struct vn_perf_peer_queue *pq, uint16_t cid, uint16_t status) {
    struct vn_cqe *cqe = &pq->cqes[pq->tail];

    cqe->cid = cid;
    cqe->sqhd = (uint16_t)pq->head;
    cqe->sqid = pq->sqid;
    /* phase last */
    __atomic_store_n((uint16_t *)(void *)((char *)cqe + 14), (uint16_t)(status << 1 | pq->phase), __ATOMIC_RELEASE);
    if (++pq->tail == pq->cq_entries) {
        pq->tail = 0;
        pq->phase ^= 1;
    }
}

/* Answers what has come; was there anything? */
static inline bool vn_perf_peer_turn(struct vn_perf_peer_queue *pq) {
    uint32_t new_head = __atomic_load_n(pq->doorbell, __ATOMIC_ACQUIRE);

    if (pq->head == new_head)
        return false;
    while (pq->head != new_head) {
        uint16_t cid = pq->sqes[pq->head].cid;

        pq->head = pq->head + 1 == pq->sq_entries ? 0 : pq->head + 1;
        vn_perf_peer_post(pq, cid, 0);
    }
    return true;
}

#endif
