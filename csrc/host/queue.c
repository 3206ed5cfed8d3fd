/* Queues of the host: rings in shared memory, any SQE in, completions out, waiting for one of them.
 * Called through vhostnvme_host.h and by nvme_host.c. Completions come from an untrusted controller: ids are
 * checked, and an unknown one only ends up with the caller.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/nvme_host.h"

#define CID_WORDS (65536 / 64)
#define SPIN_NS 100000ull      /* a busy server answers within this */
#define YIELD_NS 2000000ull    /* then share the core */
#define CHECK_NS 5000000ull    /* and look whether the server still lives */

struct vn_host_sq *vn_host_sq_new(struct vn_host *host, uint16_t qid, uint32_t entries, uint16_t cqid) {
    struct vn_host_sq *sq = calloc(1, sizeof(*sq));

    if (!sq)
        goto no_memory;
    sq->busy = calloc(CID_WORDS, sizeof(uint64_t));
    if (!sq->busy)
        goto no_memory;
    sq->mem_bytes = (uint64_t)entries * sizeof(struct vn_sqe);
    if (vn_host_alloc(host, sq->mem_bytes, &sq->mem_offset) < 0) {
        sq->mem_bytes = 0;
        vn_host_sq_free(host, sq);
        return NULL;
    }
    sq->ring = (struct vn_sqe *)(void *)(host->mem + sq->mem_offset);
    sq->entries = entries;
    sq->id = qid;
    sq->cqid = cqid;
    vn_host_db_init(host, &sq->db, qid, false);
    return sq;
no_memory:
    vn_host_fail(ENOMEM, "no memory for submission queue %u", qid);
    free(sq);
    return NULL;
}

struct vn_host_cq *vn_host_cq_new(struct vn_host *host, uint16_t qid, uint32_t entries) {
    struct vn_host_cq *cq = calloc(1, sizeof(*cq));

    if (!cq)
        goto no_memory;
    cq->stash_size = 65536;
    cq->stash = calloc(cq->stash_size, sizeof(*cq->stash));
    if (!cq->stash)
        goto no_memory;
    cq->mem_bytes = (uint64_t)entries * sizeof(struct vn_cqe);
    if (vn_host_alloc(host, cq->mem_bytes, &cq->mem_offset) < 0) {
        cq->mem_bytes = 0;
        vn_host_cq_free(host, cq);
        return NULL;
    }
    cq->ring = (const volatile struct vn_cqe *)(const void *)(host->mem + cq->mem_offset);
    cq->entries = entries;
    cq->id = qid;
    cq->phase = 1;
    vn_host_db_init(host, &cq->db, qid, true);
    return cq;
no_memory:
    vn_host_fail(ENOMEM, "no memory for completion queue %u", qid);
    free(cq);
    return NULL;
}

void vn_host_sq_free(struct vn_host *host, struct vn_host_sq *sq) {
    if (!sq)
        return;
    if (sq->mem_bytes)
        vn_host_free(host, sq->mem_offset, sq->mem_bytes);
    free(sq->busy);
    free(sq);
}

void vn_host_cq_free(struct vn_host *host, struct vn_host_cq *cq) {
    if (!cq)
        return;
    if (cq->mem_bytes)
        vn_host_free(host, cq->mem_offset, cq->mem_bytes);
    free(cq->stash);
    free(cq);
}

static struct vn_host_sq *find_sq(struct vn_host *host, uint16_t qid) {
    struct vn_host_sq *sq = qid < VN_HOST_MAX_QUEUES ? host->sqs[qid] : NULL;

    if (!sq)
        vn_host_fail(ENOENT, "there is no submission queue %u", qid);
    return sq;
}

static struct vn_host_cq *find_cq(struct vn_host *host, uint16_t qid) {
    struct vn_host_cq *cq = qid < VN_HOST_MAX_QUEUES ? host->cqs[qid] : NULL;

    if (!cq)
        vn_host_fail(ENOENT, "there is no completion queue %u", qid);
    return cq;
}

static bool cid_busy(const struct vn_host_sq *sq, uint16_t cid) {
    return sq->busy[cid / 64] >> (cid % 64) & 1;
}

int vn_host_ring(vn_host *host, uint16_t sqid) {
    struct vn_host_sq *sq = find_sq(host, sqid);

    if (!sq)
        return -ENOENT;
    if (sq->rung == sq->tail)
        return 0;
    sq->rung = sq->tail;
    return vn_host_db_write(host, &sq->db, sq->tail);
}

int vn_host_submit(vn_host *host, uint16_t sqid, const void *sqe, uint32_t flags, uint16_t *cid) {
    struct vn_host_sq *sq = find_sq(host, sqid);
    struct vn_sqe command;

    if (!sq)
        return -ENOENT;
    if ((sq->tail + 1) % sq->entries == sq->head)
        return vn_host_fail(EAGAIN, "submission queue %u is full", sqid);
    memcpy(&command, sqe, sizeof(command));
    if (!(flags & VN_HOST_KEEP_CID)) {
        if (sq->inflight >= 65535)
            return vn_host_fail(EAGAIN, "submission queue %u has no command identifier left", sqid);
        while (cid_busy(sq, sq->next_cid) || sq->next_cid == 0xffff) /* FFFFh is reserved in error logs */
            sq->next_cid++;
        command.cid = sq->next_cid++;
    }
    if (!cid_busy(sq, command.cid)) {
        sq->busy[command.cid / 64] |= 1ull << (command.cid % 64);
        sq->inflight++;
    }
    memcpy(&sq->ring[sq->tail], &command, sizeof(command));
    sq->tail = sq->tail + 1 == sq->entries ? 0 : sq->tail + 1;
    if (cid)
        *cid = command.cid;
    return flags & VN_HOST_NO_DOORBELL ? 0 : vn_host_ring(host, sqid);
}

static void account(struct vn_host *host, const struct vn_host_cqe *cqe) {
    struct vn_host_sq *sq = cqe->sqid < VN_HOST_MAX_QUEUES ? host->sqs[cqe->sqid] : NULL;

    if (!sq)
        return;
    if (cqe->sqhd < sq->entries)
        sq->head = cqe->sqhd;
    if (cid_busy(sq, cqe->cid)) {
        sq->busy[cqe->cid / 64] &= ~(1ull << (cqe->cid % 64));
        sq->inflight--;
    }
}

/* Takes completions off the ring itself, and gives their places back with one doorbell. */
static int reap(struct vn_host *host, struct vn_host_cq *cq, struct vn_host_cqe *cqes, uint32_t max, uint32_t *nr) {
    uint32_t n = 0;

    while (n < max && vn_host_cqe_ready(&cq->ring[cq->head], cq->phase)) {
        const volatile struct vn_cqe *at = &cq->ring[cq->head];
        struct vn_host_cqe *cqe = &cqes[n++];

        cqe->result = at->dw0;
        cqe->dword1 = at->dw1;
        cqe->sqhd = at->sqhd;
        cqe->sqid = at->sqid;
        cqe->cid = at->cid;
        cqe->status = at->status >> 1;
        account(host, cqe);
        if (++cq->head == cq->entries) {
            cq->head = 0;
            cq->phase ^= 1;
        }
    }
    *nr = n;
    return n ? vn_host_db_write(host, &cq->db, cq->head) : 0;
}

static struct vn_host_cqe *stash_at(struct vn_host_cq *cq, uint32_t i) {
    return &cq->stash[(cq->stash_first + i) % cq->stash_size];
}

int vn_host_poll(vn_host *host, uint16_t cqid, struct vn_host_cqe *cqes, uint32_t max, uint32_t *nr) {
    struct vn_host_cq *cq = find_cq(host, cqid);
    uint32_t n = 0, fresh = 0;
    int rc = 0;

    *nr = 0;
    if (!cq)
        return -ENOENT;
    for (; n < max && cq->stash_nr; n++) {
        cqes[n] = *stash_at(cq, 0);
        cq->stash_first = (cq->stash_first + 1) % cq->stash_size;
        cq->stash_nr--;
    }
    if (n < max)
        rc = reap(host, cq, cqes + n, max - n, &fresh);
    *nr = n + fresh;
    return rc;
}

/* One turn of waiting: spin, then yield, then sleep; now and then look for a dead server. */
static int pause_once(struct vn_host *host, uint64_t started_ns, uint64_t deadline_ns, uint64_t *checked_ns) {
    uint64_t now = vn_host_now_ns();
    struct timespec nap = {.tv_nsec = 50000};

    if (now >= deadline_ns)
        return -ETIMEDOUT;
    if (now - *checked_ns > CHECK_NS) {
        *checked_ns = now;
        if (vn_host_conn_check(&host->conn) < 0)
            return -ENOTCONN;
    }
    if (now - started_ns > YIELD_NS)
        nanosleep(&nap, NULL);
    else if (now - started_ns > SPIN_NS)
        sched_yield();
    return 0;
}

static uint64_t deadline_after(uint64_t now_ns, uint64_t timeout_us) {
    return timeout_us > (UINT64_MAX - now_ns) / 1000 ? UINT64_MAX : now_ns + timeout_us * 1000;
}

int vn_host_wait(vn_host *host, uint16_t cqid, uint64_t timeout_us, struct vn_host_cqe *cqe) {
    uint64_t started = vn_host_now_ns(), checked = started;
    uint64_t deadline = deadline_after(started, timeout_us);

    for (;;) {
        uint32_t nr;
        int rc = vn_host_poll(host, cqid, cqe, 1, &nr);

        if (rc < 0 || nr)
            return rc;
        rc = pause_once(host, started, deadline, &checked);
        if (rc == -ETIMEDOUT)
            return vn_host_fail(ETIMEDOUT, "no completion on queue %u within %llu us", cqid, (unsigned long long)timeout_us);
        if (rc < 0)
            return rc;
    }
}

static bool take_stashed(struct vn_host_cq *cq, uint16_t sqid, uint16_t cid, struct vn_host_cqe *cqe) {
    for (uint32_t i = 0; i < cq->stash_nr; i++) {
        if (stash_at(cq, i)->cid != cid || stash_at(cq, i)->sqid != sqid)
            continue;
        *cqe = *stash_at(cq, i);
        for (; i + 1 < cq->stash_nr; i++)
            *stash_at(cq, i) = *stash_at(cq, i + 1);
        cq->stash_nr--;
        return true;
    }
    return false;
}

int vn_host_wait_cid(vn_host *host, uint16_t sqid, uint16_t cid, uint64_t timeout_us, struct vn_host_cqe *cqe) {
    uint64_t started = vn_host_now_ns(), checked = started;
    uint64_t deadline = deadline_after(started, timeout_us);
    struct vn_host_sq *sq = find_sq(host, sqid);
    struct vn_host_cq *cq = sq ? find_cq(host, sq->cqid) : NULL;

    if (!cq)
        return -ENOENT;
    if (take_stashed(cq, sqid, cid, cqe))
        return 0;
    for (;;) {
        struct vn_host_cqe got;
        uint32_t nr;
        int rc = reap(host, cq, &got, 1, &nr);

        if (nr && got.cid == cid && got.sqid == sqid) {
            *cqe = got;
            return rc;
        }
        if (nr && cq->stash_nr == cq->stash_size)
            return vn_host_fail(EPROTO, "the controller sends completions for commands that were never submitted");
        if (nr) {
            *stash_at(cq, cq->stash_nr) = got;
            cq->stash_nr++;
            started = vn_host_now_ns();
        }
        if (rc < 0)
            return rc;
        rc = nr && vn_host_now_ns() < deadline ? 0 : pause_once(host, started, deadline, &checked);
        if (rc == -ETIMEDOUT)
            return vn_host_fail(ETIMEDOUT, "command %u of queue %u did not complete within %llu us", cid, sqid,
                                (unsigned long long)timeout_us);
        if (rc < 0)
            return rc;
    }
}

int vn_host_command(vn_host *host, uint16_t sqid, const void *sqe, uint64_t data_offset, uint32_t data_len,
                    uint32_t timeout_ms, struct vn_host_cqe *cqe) {
    struct vn_host_cqe ignored;
    struct vn_sqe command;
    uint16_t cid = 0;
    int rc = 0;

    memcpy(&command, sqe, sizeof(command));
    if (data_len)
        rc = vn_host_build_prps(host, &command, data_offset, data_len, host->prp_scratch, VN_HOST_PRP_SCRATCH);
    if (rc == 0)
        rc = vn_host_submit(host, sqid, &command, 0, &cid);
    if (rc == 0)
        rc = vn_host_wait_cid(host, sqid, cid, timeout_ms * 1000ull, cqe ? cqe : &ignored);
    return rc;
}

int vn_host_inflight(vn_host *host, uint16_t sqid, uint32_t *nr) {
    struct vn_host_sq *sq = find_sq(host, sqid);

    *nr = sq ? sq->inflight : 0;
    return sq ? 0 : -ENOENT;
}
