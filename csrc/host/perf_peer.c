/* Sets a ceiling's queues up and answers them on a thread. Called by perf_setup.c.
 */
#include "host/perf_peer.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define DOORBELL_BYTES (2u * VN_HOST_PAGE) /* 1024 queue pairs */
#define IOVA (4ull << 30)
#define TURNS_PER_LOOK 1024u

struct vn_perf_peer {
    struct vn_perf_peer_queue *queues;
    uint32_t nr;
    atomic_bool stop;
    pthread_t thread;
};

int vn_perf_peer_open(uint64_t memory_bytes, struct vn_host **out) {
    struct vn_host *host = calloc(1, sizeof(*host));
    int rc;

    *out = NULL;
    if (!host)
        return vn_host_fail(ENOMEM, "no memory for a host");
    host->memfd = -1;
    host->conn.fd = -1;
    host->iova_base = IOVA;
    host->cap = 0xffff; /* queues as long as there are */
    host->db_map = mmap(NULL, DOORBELL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (host->db_map == MAP_FAILED) {
        host->db_map = NULL;
        rc = vn_host_fail(errno, "no memory for doorbells");
    } else {
        host->db_area_offset = VN_REG_DBS;
        host->db_area_size = DOORBELL_BYTES;
        rc = vn_host_memory_init(host, memory_bytes);
    }
    if (rc < 0)
        vn_host_close(host);
    else
        *out = host;
    return rc;
}

int vn_perf_peer_queues(struct vn_host *host, uint16_t qid, uint32_t entries, struct vn_perf_peer_queue *pq) {
    struct vn_host_cq *cq = vn_host_cq_new(host, qid, entries);
    struct vn_host_sq *sq;

    if (!cq)
        return -ENOMEM;
    host->cqs[qid] = cq;
    sq = vn_host_sq_new(host, qid, entries, qid);
    if (!sq)
        return -ENOMEM;
    host->sqs[qid] = sq;
    *pq = (struct vn_perf_peer_queue){
        .sqes = sq->ring,
        .cqes = (struct vn_cqe *)(void *)(host->mem + cq->mem_offset),
        .doorbell = sq->db.map,
        .sq_entries = entries,
        .cq_entries = entries,
        .sqid = qid,
        .phase = 1,
    };
    return 0;
}

static void *answer(void *arg) {
    struct vn_perf_peer *peer = arg;

    while (!atomic_load(&peer->stop)) {
        bool any = false;

        for (uint32_t turn = 0; turn < TURNS_PER_LOOK; turn++) {
            for (uint32_t i = 0; i < peer->nr; i++)
                any |= vn_perf_peer_turn(&peer->queues[i]);
        }
        if (!any)
            sched_yield(); /* the load may be waiting for this very core */
    }
    return NULL;
}

int vn_perf_peer_start(struct vn_perf_peer_queue *queues, uint32_t nr, struct vn_perf_peer **out) {
    struct vn_perf_peer *peer = calloc(1, sizeof(*peer));
    int err;

    *out = NULL;
    if (!peer)
        return vn_host_fail(ENOMEM, "no memory for a peer");
    peer->queues = queues;
    peer->nr = nr;
    err = pthread_create(&peer->thread, NULL, answer, peer);
    if (err) {
        free(peer);
        return vn_host_fail(err, "cannot start a thread that answers: %s", strerror(err));
    }
    *out = peer;
    return 0;
}

void vn_perf_peer_stop(struct vn_perf_peer *peer) {
    if (!peer)
        return;
    atomic_store(&peer->stop, true);
    pthread_join(peer->thread, NULL);
    free(peer);
}
