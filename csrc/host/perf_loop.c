/* The hot loop of the load generator: take completions, issue the next commands, one doorbell a burst.
 * Called by perf.c. No allocation, and no system call with mapped doorbells but a look at the server's
 * socket some times a second. Completions are checked: the controller is not trusted.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/perf_run.h"
#include "host/perf_verify.h"

#define TURNS_PER_CLOCK 64u       /* busy turns between looks at the clock */
#define CHECK_SERVER_NS 50000000ull
#define IRQ_WAIT_MS 50
#define YIELD_AFTER_NS 500000ull  /* without a completion: the server may be waiting for this very core */
#define PROBES 64                 /* looks for a unit that is not in flight */

/* xoroshiro128+ (Blackman, Vigna), enough to choose blocks. */
static inline uint64_t next_random(struct vn_perf_run *run) {
    uint64_t a = run->rng[0], b = run->rng[1], sum = a + b;

    b ^= a;
    run->rng[0] = (a << 24 | a >> 40) ^ b ^ (b << 16);
    run->rng[1] = b << 37 | b >> 27;
    return sum;
}

static inline uint64_t choose_unit(struct vn_perf_run *run) {
    if (run->random)
        return (uint64_t)(((unsigned __int128)next_random(run) * run->nr_units) >> 64);
    if (run->cursor == run->nr_units)
        run->cursor = 0;
    return run->cursor++;
}

/* With verification no unit is in flight twice: what a read must find would not be known. */
static bool choose_quiet_unit(struct vn_perf_run *run, uint64_t *unit) {
    *unit = choose_unit(run);
    for (uint32_t i = 0; i < PROBES; i++) {
        if (!(run->unit_busy[*unit / 64] >> (*unit % 64) & 1)) {
            run->unit_busy[*unit / 64] |= 1ull << (*unit % 64);
            return true;
        }
        *unit = *unit + 1 == run->nr_units ? 0 : *unit + 1;
    }
    return false;
}

static inline bool issue_one(struct vn_perf_run *run, struct vn_perf_queue *q, uint64_t now) {
    struct vn_perf_slot *slot = &q->slots[q->free[q->nr_free - 1]];
    struct vn_host_sq *sq = q->sq;
    uint64_t unit, lba;

    if (run->generations) {
        if (!choose_quiet_unit(run, &unit))
            return false;
    } else {
        unit = choose_unit(run);
    }
    q->nr_free--;
    if (run->read_share == UINT32_MAX)
        slot->is_write = false;
    else if (run->read_share == 0)
        slot->is_write = true;
    else
        slot->is_write = (uint32_t)(next_random(run) >> 32) >= run->read_share;
    lba = run->lba_start + unit * run->lbas_per_unit;
    slot->sqe.opcode = slot->is_write ? VN_IO_WRITE : VN_IO_READ;
    slot->sqe.cdw10 = (uint32_t)lba;
    slot->sqe.cdw11 = (uint32_t)(lba >> 32);
    slot->unit = unit;
    slot->busy = true;
    if (run->generations && slot->is_write) {
        slot->generation = ++run->generation ? run->generation : ++run->generation;
        vn_perf_stamp_blocks(run->host->mem + slot->data_offset, run->lba_bytes, run->lbas_per_unit, lba, run->opts->seed,
                             slot->generation);
    }
    slot->submitted = now;
    memcpy(&sq->ring[sq->tail], &slot->sqe, sizeof(slot->sqe));
    sq->tail = sq->tail + 1 == sq->entries ? 0 : sq->tail + 1;
    return true;
}

static inline uint64_t allowed(struct vn_perf_run *run, uint64_t now) {
    uint64_t due;

    if (!run->opts->rate_iops)
        return run->issue_left;
    due = (uint64_t)((double)(now - run->start) / run->ticks_per_ns * 1e-9 * (double)run->opts->rate_iops) + 1;
    due = due > run->nr_issued ? due - run->nr_issued : 0;
    return due < run->issue_left ? due : run->issue_left;
}

static inline int issue_burst(struct vn_perf_run *run, struct vn_perf_queue *q) {
    uint64_t now = vn_perf_ticks(run);
    uint64_t may = allowed(run, now);
    uint32_t n = 0;

    while (n < may && q->nr_free && issue_one(run, q, now))
        n++;
    if (n == 0)
        return 0;
    run->issue_left -= n;
    run->nr_issued += n;
    run->inflight += n;
    q->sq->rung = q->sq->tail;
    return vn_host_db_write(run->host, &q->sq->db, q->sq->tail);
}

static void count_error(struct vn_perf_run *run, uint16_t status) {
    struct vn_perf_result *result = run->result;

    result->nr_errors++;
    for (uint32_t i = 0; i < 8; i++) {
        struct vn_perf_status *kind = &result->statuses[i];

        if (kind->nr && kind->status != VN_STATUS_CODE(status))
            continue;
        kind->status = VN_STATUS_CODE(status);
        kind->nr++;
        return;
    }
}

static void check_read(struct vn_perf_run *run, const struct vn_perf_slot *slot) {
    uint64_t lba = run->lba_start + slot->unit * run->lbas_per_unit;
    const uint8_t *data = run->host->mem + slot->data_offset;

    for (uint32_t i = 0; i < run->lbas_per_unit; i++, data += run->lba_bytes) {
        run->result->nr_verified++;
        if (vn_perf_check_block(data, run->lba_bytes, lba + i, run->opts->seed, run->generations[slot->unit]) ==
            VN_PERF_GOOD)
            continue;
        if (run->result->nr_verify_errors++ == 0)
            run->result->verify_error_lba = lba + i;
    }
}

static void settle_verify(struct vn_perf_run *run, const struct vn_perf_slot *slot, uint16_t status) {
    run->unit_busy[slot->unit / 64] &= ~(1ull << (slot->unit % 64));
    if (slot->is_write)
        run->generations[slot->unit] = status ? 0 : slot->generation; /* a failed write leaves either */
    else if (!status && run->generations[slot->unit])
        check_read(run, slot);
}

static inline int complete_one(struct vn_perf_run *run, struct vn_perf_queue *q, const volatile struct vn_cqe *cqe,
                               uint64_t now) {
    uint16_t cid = cqe->cid;
    uint16_t status = cqe->status >> 1;
    struct vn_perf_slot *slot = &q->slots[cid];

    if (cid >= run->opts->depth || !slot->busy)
        return vn_host_fail(EPROTO, "the controller completed command %u of queue %u, which was not outstanding", cid,
                            q->sq->id);
    slot->busy = false;
    q->free[q->nr_free++] = cid;
    run->inflight--;
    if (run->generations)
        settle_verify(run, slot, status);
    if (run->phase != VN_PERF_MEASURE)
        return 0;
    if (__builtin_expect(status != 0, 0)) {
        count_error(run, status);
        return 0;
    }
    vn_perf_hist_add(slot->is_write ? &run->writes : &run->reads, now > slot->submitted ? now - slot->submitted : 0);
    return 0;
}

/* Takes what is on the completion queue, then refills. nr: completions. */
static inline int turn(struct vn_perf_run *run, struct vn_perf_queue *q, uint32_t *nr) {
    struct vn_host_cq *cq = q->cq;
    uint32_t n = 0;
    int rc;

    if (vn_host_cqe_ready(&cq->ring[cq->head], cq->phase)) {
        uint64_t now = vn_perf_ticks(run);

        do {
            rc = complete_one(run, q, &cq->ring[cq->head], now);
            if (rc < 0)
                return rc;
            n++;
            if (++cq->head == cq->entries) {
                cq->head = 0;
                cq->phase ^= 1;
            }
        } while (n < cq->entries && vn_host_cqe_ready(&cq->ring[cq->head], cq->phase));
        *nr += n;
        rc = vn_host_db_write(run->host, &cq->db, cq->head);
        if (rc < 0)
            return rc;
    }
    if (q->nr_free && run->phase != VN_PERF_DRAIN)
        return issue_burst(run, q);
    return 0;
}

static int sleep_on_irqs(struct vn_perf_run *run) {
    struct pollfd pfds[VN_PERF_MAX_QUEUES];
    struct timespec ts = {.tv_nsec = IRQ_WAIT_MS * 1000000};
    uint64_t count;

    for (uint32_t i = 0; i < run->opts->nr_queues; i++)
        pfds[i] = (struct pollfd){.fd = run->queues[i].irq_fd, .events = POLLIN};
    if (run->opts->rate_iops && run->phase != VN_PERF_DRAIN && run->inflight < (uint64_t)run->opts->nr_queues * run->opts->depth) {
        double due_ns = (double)run->nr_issued / (double)run->opts->rate_iops * 1e9;
        double now_ns = (double)(vn_perf_ticks(run) - run->start) / run->ticks_per_ns;

        if (due_ns < now_ns + IRQ_WAIT_MS * 1e6)
            ts.tv_nsec = due_ns > now_ns ? (long)(due_ns - now_ns) : 0;
    }
    if (ppoll(pfds, run->opts->nr_queues, &ts, NULL) < 0)
        return errno == EINTR ? 0 : vn_host_fail(errno, "cannot wait for interrupts: %s", strerror(errno));
    for (uint32_t i = 0; i < run->opts->nr_queues; i++) {
        if ((pfds[i].revents & POLLIN) && read(pfds[i].fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
            run->result->nr_interrupts += run->phase == VN_PERF_MEASURE;
    }
    return 0;
}

static void enter_phase(struct vn_perf_run *run, uint64_t now) {
    const struct vn_perf_opts *opts = run->opts;

    if (run->phase == VN_PERF_RAMP) {
        run->issue_left = opts->nr_ios ? opts->nr_ios : UINT64_MAX;
        run->phase_end = opts->time_ms ? now + vn_perf_ticks_of_ns(run, opts->time_ms * 1000000) : UINT64_MAX;
        vn_perf_measure_begin(run);
        run->phase = VN_PERF_MEASURE;
    } else if (run->phase == VN_PERF_MEASURE) {
        vn_perf_measure_end(run);
        run->phase = VN_PERF_DRAIN;
    }
}

/* The slow questions: is the phase over, is the server alive, is anything stuck? */
static int look_up(struct vn_perf_run *run, uint64_t *next_check) {
    uint64_t now = vn_perf_ticks(run);
    uint64_t timeout = vn_perf_ticks_of_ns(run, (run->opts->timeout_ms ? run->opts->timeout_ms : 30000) * 1000000ull);

    if (run->phase != VN_PERF_DRAIN && now >= run->phase_end)
        enter_phase(run, now);
    if (run->phase == VN_PERF_MEASURE && run->issue_left == 0 && run->inflight == 0)
        enter_phase(run, now);
    if (now < *next_check)
        return 0;
    *next_check = now + vn_perf_ticks_of_ns(run, CHECK_SERVER_NS);
    if (vn_perf_stopped(run) && run->phase != VN_PERF_DRAIN) {
        run->result->stopped = 1;
        if (run->phase == VN_PERF_RAMP)
            enter_phase(run, now);
        enter_phase(run, now);
    }
    if (run->inflight && now > run->last_progress && now - run->last_progress > timeout)
        return vn_host_fail(ETIMEDOUT, "nothing completed for %u ms, and %llu commands are outstanding",
                            run->opts->timeout_ms ? run->opts->timeout_ms : 30000, (unsigned long long)run->inflight);
    return vn_host_conn_check(&run->host->conn);
}

int vn_perf_loop(struct vn_perf_run *run) {
    bool irq = run->opts->flags & VN_PERF_IRQ;
    bool progress = false;
    uint64_t next_check = 0, yield_after = vn_perf_ticks_of_ns(run, YIELD_AFTER_NS);
    int rc = 0;

    run->start = vn_perf_ticks(run);
    run->last_progress = run->start;
    run->phase = VN_PERF_RAMP;
    run->issue_left = run->opts->ramp_ms ? UINT64_MAX : 0;
    run->phase_end = run->start + vn_perf_ticks_of_ns(run, run->opts->ramp_ms * 1000000);
    for (uint32_t turns = 0; rc == 0; turns++) {
        uint32_t nr = 0;

        for (uint32_t i = 0; i < run->opts->nr_queues && rc == 0; i++)
            rc = turn(run, &run->queues[i], &nr);
        if (rc < 0)
            break;
        progress |= nr != 0;
        if (nr && turns % TURNS_PER_CLOCK)
            continue;
        if (!nr && irq && run->nr_issued)
            rc = sleep_on_irqs(run);
        if (progress || !run->inflight)
            run->last_progress = vn_perf_ticks(run);
        else if (!irq && vn_perf_ticks(run) - run->last_progress > yield_after)
            sched_yield();
        progress = false;
        if (rc == 0)
            rc = look_up(run, &next_check);
        if (run->phase == VN_PERF_DRAIN && run->inflight == 0)
            break;
    }
    if (run->phase == VN_PERF_MEASURE)
        vn_perf_measure_end(run);
    return rc;
}
