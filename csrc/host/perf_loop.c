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
#define COMPLETIONS_PER_CLOCK 8u
#define CHECK_SERVER_NS 50000000ull
#define IRQ_WAIT_MS 50
#define YIELD_AFTER_NS 500000ull  /* without a completion: the server may be waiting for this very core */
#define DEFAULT_TIMEOUT_MS 30000u
#define PROBES 64                 /* looks for a unit that is not in flight */

/* xoroshiro128+ (Blackman, Vigna), enough to choose blocks. */
static inline uint64_t next_random(struct vn_perf_run *run) {
    uint64_t a = run->rng[0], b = run->rng[1], sum = a + b;

    b ^= a;
    run->rng[0] = (a << 24 | a >> 40) ^ b ^ (b << 16);
    run->rng[1] = b << 37 | b >> 27;
    return sum;
}

static inline uint64_t choose_unit(struct vn_perf_run *run, struct vn_perf_dev *dev) {
    if (run->random)
        return (uint64_t)(((unsigned __int128)next_random(run) * dev->nr_units) >> 64);
    if (dev->cursor == dev->nr_units)
        dev->cursor = 0;
    return dev->cursor++;
}

/* With verification no unit is in flight twice: what a read must find would not be known. */
static bool choose_quiet_unit(struct vn_perf_run *run, struct vn_perf_dev *dev, uint64_t *unit) {
    *unit = choose_unit(run, dev);
    for (uint32_t i = 0; i < PROBES; i++) {
        if (!(dev->unit_busy[*unit / 64] >> (*unit % 64) & 1))
            return true;
        *unit = *unit + 1 == dev->nr_units ? 0 : *unit + 1;
    }
    return false;
}

static inline bool choose_read(struct vn_perf_run *run) {
    if (run->read_share == UINT32_MAX || run->read_share == 0)
        return run->read_share != 0;
    return (uint32_t)(next_random(run) >> 32) < run->read_share;
}

/* Puts one command on the ring, in a slot that is free. */
static inline void put_command(struct vn_perf_run *run, struct vn_perf_queue *q, uint64_t unit, bool is_write,
                               uint64_t started) {
    struct vn_perf_slot *slot = &q->slots[q->free[--q->nr_free]];
    struct vn_perf_dev *dev = q->dev;
    struct vn_host_sq *sq = q->sq;
    uint64_t lba = dev->lba_start + unit * dev->lbas_per_unit;

    slot->is_write = is_write;
    slot->sqe.opcode = is_write ? VN_IO_WRITE : VN_IO_READ;
    slot->sqe.cdw10 = (uint32_t)lba;
    slot->sqe.cdw11 = (uint32_t)(lba >> 32);
    slot->unit = unit;
    slot->busy = true;
    slot->counted = run->phase == VN_PERF_MEASURE;
    slot->started = started;
    if (dev->generations) {
        dev->unit_busy[unit / 64] |= 1ull << (unit % 64);
        if (is_write) {
            slot->generation = ++run->generation ? run->generation : ++run->generation;
            vn_perf_stamp_blocks(dev->host->mem + slot->data_offset, dev->lba_bytes, dev->lbas_per_unit, lba,
                                 run->opts->seed, slot->generation);
        }
    }
    memcpy(&sq->ring[sq->tail], &slot->sqe, sizeof(slot->sqe));
    sq->tail = sq->tail + 1 == sq->entries ? 0 : sq->tail + 1;
}

static inline uint32_t issue_load(struct vn_perf_run *run, struct vn_perf_queue *q) {
    uint64_t now = vn_perf_ticks(run);
    uint64_t most = q->nr_free < run->issue_left ? q->nr_free : run->issue_left;
    uint32_t n = 0;

    for (; n < most && (!run->paced || vn_perf_pace_due(&q->pace, now)); n++) {
        uint64_t unit;

        if (!q->dev->generations)
            unit = choose_unit(run, q->dev);
        else if (!choose_quiet_unit(run, q->dev, &unit))
            break;
        put_command(run, q, unit, !choose_read(run), run->paced ? q->pace.next : now);
        if (run->paced)
            vn_perf_pace_take(&q->pace);
    }
    run->issue_left -= n;
    return n;
}

static uint32_t issue_fill(struct vn_perf_run *run, struct vn_perf_queue *q) {
    uint64_t now = vn_perf_ticks(run);
    uint32_t n = 0;

    for (; q->nr_free && q->dev->fill_next < q->dev->nr_units; n++)
        put_command(run, q, q->dev->fill_next++, true, now);
    return n;
}

/* As many commands as there are places and the rate allows, and one doorbell for all of them. */
static inline int issue_burst(struct vn_perf_run *run, struct vn_perf_queue *q) {
    uint32_t n = __builtin_expect(run->phase == VN_PERF_FILLING, 0) ? issue_fill(run, q) : issue_load(run, q);

    if (n == 0)
        return 0;
    run->inflight += n;
    q->sq->rung = q->sq->tail;
    return vn_host_db_write(q->dev->host, &q->sq->db, q->sq->tail);
}

/* In a fill nothing may fail: the reads after it would find what was there before. */
static int failed(struct vn_perf_run *run, struct vn_perf_dev *dev, const struct vn_perf_slot *slot, uint16_t status) {
    struct vn_perf_result *result = run->result;

    if (run->phase == VN_PERF_FILLING)
        return vn_host_fail(EIO, "filling failed: the controller answered the write at block %llu with status %x/%02x",
                            (unsigned long long)(dev->lba_start + slot->unit * dev->lbas_per_unit), status >> 8 & 7,
                            status & 0xff);
    if (!slot->counted || run->phase != VN_PERF_MEASURE)
        return 0;
    dev->nr_errors++;
    result->nr_errors++;
    for (uint32_t i = 0; i < 8; i++) {
        struct vn_perf_status *kind = &result->statuses[i];

        if (kind->nr && kind->status != VN_STATUS_CODE(status))
            continue;
        kind->status = VN_STATUS_CODE(status);
        kind->nr++;
        break;
    }
    return 0;
}

static void check_read(struct vn_perf_run *run, struct vn_perf_dev *dev, const struct vn_perf_slot *slot) {
    uint64_t lba = dev->lba_start + slot->unit * dev->lbas_per_unit;
    const uint8_t *data = dev->host->mem + slot->data_offset;

    for (uint32_t i = 0; i < dev->lbas_per_unit; i++, data += dev->lba_bytes) {
        run->result->nr_verified++;
        if (vn_perf_check_block(data, dev->lba_bytes, lba + i, run->opts->seed, dev->generations[slot->unit]) == VN_PERF_GOOD)
            continue;
        if (run->result->nr_verify_errors++ == 0)
            run->result->verify_error_lba = lba + i;
    }
}

static void settle_verify(struct vn_perf_run *run, struct vn_perf_dev *dev, const struct vn_perf_slot *slot,
                          uint16_t status) {
    dev->unit_busy[slot->unit / 64] &= ~(1ull << (slot->unit % 64));
    if (slot->is_write)
        dev->generations[slot->unit] = status ? 0 : slot->generation; /* a failed write leaves either */
    else if (!status && dev->generations[slot->unit])
        check_read(run, dev, slot);
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
    if (q->dev->generations)
        settle_verify(run, q->dev, slot, status);
    if (__builtin_expect(status != 0, 0))
        return failed(run, q->dev, slot, status);
    if (slot->counted && run->phase == VN_PERF_MEASURE)
        vn_perf_hist_add(slot->is_write ? &q->dev->writes : &q->dev->reads, now > slot->started ? now - slot->started : 0);
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
            if (++n % COMPLETIONS_PER_CLOCK == 0) /* those that come meanwhile shall not seem faster than they were */
                now = vn_perf_ticks(run);
            if (++cq->head == cq->entries) {
                cq->head = 0;
                cq->phase ^= 1;
            }
        } while (n < cq->entries && vn_host_cqe_ready(&cq->ring[cq->head], cq->phase));
        *nr += n;
        run->inflight -= n;
        rc = vn_host_db_write(q->dev->host, &cq->db, cq->head);
        if (rc < 0)
            return rc;
    }
    if (q->nr_free && run->phase != VN_PERF_DRAIN)
        return issue_burst(run, q);
    return 0;
}

/* Until the next command of a rate limit is due on a queue that has room for it, at most IRQ_WAIT_MS. */
static struct timespec time_to_sleep(const struct vn_perf_run *run) {
    uint64_t now = vn_perf_ticks(run);
    double wait_ns = IRQ_WAIT_MS * 1e6;

    for (uint32_t i = 0; run->paced && run->issue_left && run->phase != VN_PERF_DRAIN && i < run->nr_lanes; i++) {
        const struct vn_perf_pace *pace = &run->queues[i].pace;
        double ns = vn_perf_pace_due(pace, now) ? 0 : (double)(pace->next - now) / run->ticks_per_ns;

        if (run->queues[i].nr_free && ns < wait_ns)
            wait_ns = ns;
    }
    return (struct timespec){.tv_nsec = (long)wait_ns};
}

static int sleep_on_irqs(struct vn_perf_run *run) {
    struct timespec ts = time_to_sleep(run);
    struct pollfd pfds[VN_PERF_MAX_LANES];
    uint64_t count;

    for (uint32_t i = 0; i < run->nr_lanes; i++)
        pfds[i] = (struct pollfd){.fd = run->queues[i].irq_fd, .events = POLLIN};
    if (ppoll(pfds, run->nr_lanes, &ts, NULL) < 0)
        return errno == EINTR ? 0 : vn_host_fail(errno, "cannot wait for interrupts: %s", strerror(errno));
    for (uint32_t i = 0; i < run->nr_lanes; i++) {
        if ((pfds[i].revents & POLLIN) && read(pfds[i].fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
            run->result->nr_interrupts += run->phase == VN_PERF_MEASURE;
    }
    return 0;
}

/* --- Phases: fill, ramp, measure, drain; the first two only where they were asked for --- */

static void begin_measure(struct vn_perf_run *run) {
    const struct vn_perf_opts *opts = run->opts;
    uint64_t before = vn_perf_ticks(run), now;

    vn_perf_measure_begin(run); /* reads files of /proc: commands in flight seem slower for it, and are not counted */
    now = vn_perf_ticks(run);
    for (uint32_t i = 0; run->paced && i < run->nr_lanes; i++)
        vn_perf_pace_shift(&run->queues[i].pace, now - before);
    run->issue_left = opts->nr_ios ? opts->nr_ios : UINT64_MAX;
    run->phase_end = opts->time_ms ? now + vn_perf_ticks_of_ns(run, opts->time_ms * 1000000) : UINT64_MAX;
    run->phase = VN_PERF_MEASURE;
}

static void begin_load(struct vn_perf_run *run) {
    uint64_t now = vn_perf_ticks(run);

    for (uint32_t i = 0; run->paced && i < run->nr_lanes; i++)
        vn_perf_pace_init(&run->queues[i].pace, now, run->ticks_per_ns * 1e9, run->opts->rate_iops, i, run->nr_lanes);
    run->phase = VN_PERF_RAMP;
    run->issue_left = UINT64_MAX;
    run->phase_end = now + vn_perf_ticks_of_ns(run, run->opts->ramp_ms * 1000000);
    if (!run->opts->ramp_ms)
        begin_measure(run);
}

static void end_fill(struct vn_perf_run *run) {
    for (uint32_t i = 0; i < run->opts->nr_devices; i++)
        run->result->fill_bytes += run->devs[i].nr_units * run->opts->block_bytes;
    run->result->fill_ns = vn_host_now_ns() - run->ns_at_fill;
    begin_load(run);
}

static bool filled(const struct vn_perf_run *run) {
    for (uint32_t i = 0; i < run->opts->nr_devices; i++) {
        if (run->devs[i].fill_next < run->devs[i].nr_units)
            return false;
    }
    return run->inflight == 0;
}

static void end_measure(struct vn_perf_run *run) {
    vn_perf_measure_end(run);
    run->phase = VN_PERF_DRAIN;
}

static void stop_early(struct vn_perf_run *run) {
    run->result->stopped = 1;
    if (run->phase != VN_PERF_MEASURE)
        begin_measure(run);
    end_measure(run);
}

/* The slow questions: is the phase over, is the server alive, is anything stuck? */
static int look_up(struct vn_perf_run *run, uint64_t *next_check) {
    uint64_t now = vn_perf_ticks(run);
    uint32_t timeout_ms = run->opts->timeout_ms ? run->opts->timeout_ms : DEFAULT_TIMEOUT_MS;

    if (run->phase == VN_PERF_FILLING && filled(run))
        end_fill(run);
    else if (run->phase == VN_PERF_RAMP && now >= run->phase_end)
        begin_measure(run);
    else if (run->phase == VN_PERF_MEASURE && (now >= run->phase_end || (run->issue_left == 0 && run->inflight == 0)))
        end_measure(run);
    if (now < *next_check)
        return 0;
    *next_check = now + vn_perf_ticks_of_ns(run, CHECK_SERVER_NS);
    if (vn_perf_stopped(run) && run->phase != VN_PERF_DRAIN)
        stop_early(run);
    if (run->inflight && now > run->last_progress &&
        now - run->last_progress > vn_perf_ticks_of_ns(run, timeout_ms * 1000000ull))
        return vn_host_fail(ETIMEDOUT, "nothing completed for %u ms, and %llu commands are outstanding", timeout_ms,
                            (unsigned long long)run->inflight);
    for (uint32_t i = 0; i < run->opts->nr_devices; i++) {
        int rc = vn_host_conn_check(&run->devs[i].host->conn);

        if (rc < 0)
            return rc;
    }
    return 0;
}

/* All queues in turn. */
static inline int turn_all(struct vn_perf_run *run, uint32_t *nr) {
    bool inline_peer = run->opts->flags & VN_PERF_CEILING_INLINE;

    for (uint32_t i = 0; i < run->nr_lanes; i++) {
        int rc = turn(run, &run->queues[i], nr);

        if (rc < 0)
            return rc;
        if (__builtin_expect(inline_peer, 0))
            vn_perf_peer_turn(&run->peer_queues[i]);
    }
    if (__builtin_expect(run->bridges != NULL, 0))
        vn_perf_remote_turn(run);
    return 0;
}

int vn_perf_loop(struct vn_perf_run *run) {
    bool irq = run->opts->flags & VN_PERF_IRQ;
    bool progress = false;
    uint64_t next_check = 0, yield_after = vn_perf_ticks_of_ns(run, YIELD_AFTER_NS);
    int rc = 0;

    run->last_progress = vn_perf_ticks(run);
    run->ns_at_fill = vn_host_now_ns();
    run->phase = VN_PERF_FILLING;
    if (!(run->opts->flags & VN_PERF_FILL))
        begin_load(run);
    for (uint32_t turns = 0; rc == 0; turns++) {
        uint32_t nr = 0;

        rc = turn_all(run, &nr);
        if (rc < 0)
            break;
        progress |= nr != 0;
        if (nr && turns % TURNS_PER_CLOCK)
            continue;
        if (!nr && irq && (run->inflight || (run->paced && run->issue_left)))
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
