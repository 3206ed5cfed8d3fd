/* The load generator: checks the order, connects and sets queues up, runs the loop, and works the figures out.
 * Called by Python through vn_perf_run(). Everything is allocated before the first command.
 */
#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "host/perf_run.h"

#define COMMAND_TIMEOUT_MS 10000u
#define CALIBRATION_NS 5000000
#define MIN_ENTRIES 64u
#define MAX_BLOCK_BYTES (16u << 20)
#define MAX_VERIFY_UNITS (1ull << 28) /* 1 GiB of generations */

static atomic_uint stop_requests;

void vn_perf_stop(void) {
    atomic_fetch_add(&stop_requests, 1);
}

bool vn_perf_stopped(const struct vn_perf_run *run) {
    return atomic_load(&stop_requests) != run->stop_mark;
}

/* --- Clocks --- */

static bool tsc_is_invariant(void) {
#ifdef __x86_64__
    unsigned a, b, c, d;

    return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d & 1u << 8);
#else
    return false;
#endif
}

static void calibrate(struct vn_perf_run *run) {
    struct timespec nap = {.tv_nsec = CALIBRATION_NS};
    uint64_t ns;

    run->use_tsc = tsc_is_invariant();
    run->calibration_ns = vn_host_now_ns();
    run->calibration_ticks = vn_perf_ticks(run);
    nanosleep(&nap, NULL);
    ns = vn_host_now_ns();
    run->ticks_per_ns = (double)(vn_perf_ticks(run) - run->calibration_ticks) / (double)(ns - run->calibration_ns);
}

static uint64_t thread_cpu_ns(void) {
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static bool read_first_number(const char *path, uint64_t *value) {
    FILE *file = fopen(path, "re");
    unsigned long long number;
    bool ok;

    if (!file)
        return false;
    ok = fscanf(file, "%llu", &number) == 1;
    fclose(file);
    *value = ok ? number : 0;
    return ok;
}

/* The time that all threads of the process have run, in ns, from the scheduler's own accounts. */
static bool process_cpu_ns(int32_t pid, uint64_t *total) {
    char path[320];
    struct dirent *entry;
    bool any = false;
    DIR *tasks;

    *total = 0;
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    tasks = pid > 0 ? opendir(path) : NULL;
    if (!tasks)
        return false;
    while ((entry = readdir(tasks))) {
        uint64_t ns;

        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", pid, entry->d_name);
        if (read_first_number(path, &ns)) {
            *total += ns;
            any = true;
        }
    }
    closedir(tasks);
    return any;
}

void vn_perf_measure_begin(struct vn_perf_run *run) {
    vn_perf_hist_reset(&run->reads);
    vn_perf_hist_reset(&run->writes);
    run->host_cpu_at_measure = thread_cpu_ns();
    run->result->server_cpu_known = process_cpu_ns(run->host->conn.peer_pid, &run->server_cpu_at_measure);
    run->stores_at_measure = run->host->nr_db_stores;
    run->messages_at_measure = run->host->nr_db_messages;
    run->ns_at_measure = vn_host_now_ns();
}

void vn_perf_measure_end(struct vn_perf_run *run) {
    struct vn_perf_result *result = run->result;
    uint64_t server_ns;

    result->elapsed_ns = vn_host_now_ns() - run->ns_at_measure;
    result->host_cpu_ns = thread_cpu_ns() - run->host_cpu_at_measure;
    if (result->server_cpu_known && process_cpu_ns(run->host->conn.peer_pid, &server_ns))
        result->server_cpu_ns = server_ns > run->server_cpu_at_measure ? server_ns - run->server_cpu_at_measure : 0;
    else
        result->server_cpu_known = 0;
    result->nr_doorbell_stores = run->host->nr_db_stores - run->stores_at_measure;
    result->nr_doorbell_messages = run->host->nr_db_messages - run->messages_at_measure;
}

/* --- Figures --- */

static void summarize(const struct vn_perf_run *run, const struct vn_perf_hist *hist, struct vn_perf_latency *latency) {
    double ns = 1.0 / run->ticks_per_ns;

    if (hist->nr == 0)
        return;
    latency->nr = hist->nr;
    latency->min = (uint64_t)((double)hist->min * ns);
    latency->mean = (uint64_t)((double)hist->sum / (double)hist->nr * ns);
    latency->p50 = (uint64_t)((double)vn_perf_hist_quantile(hist, 500000) * ns);
    latency->p90 = (uint64_t)((double)vn_perf_hist_quantile(hist, 900000) * ns);
    latency->p99 = (uint64_t)((double)vn_perf_hist_quantile(hist, 990000) * ns);
    latency->p99_9 = (uint64_t)((double)vn_perf_hist_quantile(hist, 999000) * ns);
    latency->p99_99 = (uint64_t)((double)vn_perf_hist_quantile(hist, 999900) * ns);
    latency->max = (uint64_t)((double)hist->max * ns);
}

static void report(struct vn_perf_run *run) {
    struct vn_perf_result *result = run->result;
    uint64_t ns = vn_host_now_ns() - run->calibration_ns;

    if (ns > CALIBRATION_NS) /* the whole run is the best calibration */
        run->ticks_per_ns = (double)(vn_perf_ticks(run) - run->calibration_ticks) / (double)ns;
    result->nr_reads = run->reads.nr;
    result->nr_writes = run->writes.nr;
    result->bytes_read = run->reads.nr * run->opts->block_bytes;
    result->bytes_written = run->writes.nr * run->opts->block_bytes;
    summarize(run, &run->reads, &result->reads);
    summarize(run, &run->writes, &result->writes);
    vn_perf_hist_merge(&run->reads, &run->writes);
    summarize(run, &run->reads, &result->all);
}

/* --- Set-up --- */

static int admin(struct vn_host *host, const struct vn_sqe *sqe, uint64_t buffer, uint32_t len, struct vn_host_cqe *cqe) {
    int rc = vn_host_command(host, 0, sqe, buffer, len, COMMAND_TIMEOUT_MS, cqe);

    if (rc == 0 && cqe->status)
        rc = vn_host_fail(EIO, "the controller answered admin command %02xh with status %x/%02x", sqe->opcode,
                          cqe->status >> 8 & 7, cqe->status & 0xff);
    return rc;
}

static int set_geometry(struct vn_perf_run *run, const struct vn_id_ns *ns, uint32_t mdts) {
    const struct vn_perf_opts *opts = run->opts;
    uint32_t format = (ns->flbas & 0xf) | (ns->flbas >> 1 & 0x30);
    uint32_t shift = ns->lbaf[format].lbads;
    uint64_t nr_lbas;

    if (ns->nsze == 0 || shift < 9 || shift > 16)
        return vn_host_fail(EINVAL, "the controller has no usable namespace %u", opts->nsid);
    if (ns->lbaf[format].ms && (ns->flbas & 0x10))
        return vn_host_fail(ENOTSUP, "namespace %u carries metadata inside its blocks", opts->nsid);
    run->lba_bytes = 1u << shift;
    run->result->lba_bytes = run->lba_bytes;
    run->result->nr_blocks = ns->nsze;
    if (opts->block_bytes % run->lba_bytes || opts->block_bytes / run->lba_bytes > 65536)
        return vn_host_fail(EINVAL, "a block size of %u is no multiple of the namespace's %u bytes", opts->block_bytes,
                            run->lba_bytes);
    if (mdts && mdts < 20 && opts->block_bytes > (uint64_t)VN_HOST_PAGE << mdts)
        return vn_host_fail(EINVAL, "a block size of %u is above the controller's limit of %llu bytes", opts->block_bytes,
                            (unsigned long long)VN_HOST_PAGE << mdts);
    if (opts->lba_start >= ns->nsze)
        return vn_host_fail(EINVAL, "the range starts behind the end of the namespace (%llu blocks)",
                            (unsigned long long)ns->nsze);
    nr_lbas = ns->nsze - opts->lba_start;
    if (opts->lba_count && opts->lba_count < nr_lbas)
        nr_lbas = opts->lba_count;
    run->lba_start = opts->lba_start;
    run->lbas_per_unit = opts->block_bytes / run->lba_bytes;
    run->nr_units = nr_lbas / run->lbas_per_unit;
    if (run->nr_units == 0)
        return vn_host_fail(EINVAL, "the range is smaller than one block of %u bytes", opts->block_bytes);
    if (!(opts->flags & VN_PERF_VERIFY))
        return 0;
    if (run->nr_units > MAX_VERIFY_UNITS || run->nr_units < 2ull * opts->depth * opts->nr_queues)
        return vn_host_fail(EINVAL, "verification needs a range of %u to %llu I/Os, not %llu; choose another range",
                            2 * opts->depth * opts->nr_queues, (unsigned long long)MAX_VERIFY_UNITS,
                            (unsigned long long)run->nr_units);
    run->generations = calloc(run->nr_units, sizeof(uint32_t));
    run->unit_busy = calloc(run->nr_units / 64 + 1, sizeof(uint64_t));
    return run->generations && run->unit_busy ? 0 : vn_host_fail(ENOMEM, "no memory for verification");
}

static int identify(struct vn_perf_run *run) {
    struct vn_sqe sqe = {.opcode = VN_ADMIN_IDENTIFY, .cdw10 = VN_CNS_CTRL};
    struct vn_sqe queues = {.opcode = VN_ADMIN_SET_FEATURES, .cdw10 = VN_FEAT_NUM_QUEUES};
    struct vn_host_cqe cqe;
    uint32_t mdts, granted;
    uint64_t buffer;
    int rc;

    rc = vn_host_alloc(run->host, VN_HOST_PAGE, &buffer);
    if (rc == 0)
        rc = admin(run->host, &sqe, buffer, VN_HOST_PAGE, &cqe);
    if (rc < 0)
        return rc;
    mdts = ((const struct vn_id_ctrl *)(const void *)(run->host->mem + buffer))->mdts;
    queues.cdw11 = (run->opts->nr_queues - 1) * 0x10001u;
    rc = admin(run->host, &queues, 0, 0, &cqe);
    if (rc < 0)
        return rc;
    granted = (cqe.result & 0xffff) < cqe.result >> 16 ? (cqe.result & 0xffff) + 1 : (cqe.result >> 16) + 1;
    if (granted < run->opts->nr_queues)
        return vn_host_fail(EINVAL, "the controller has %u I/O queues, not %u", granted, run->opts->nr_queues);
    if (run->opts->flags & VN_PERF_SHADOW) {
        rc = vn_host_shadow_doorbells(run->host, &cqe);
        if (rc < 0 && rc != -ENOTSUP)
            return rc;
    }
    run->result->shadow_doorbells = run->host->shadow;
    sqe.cdw10 = VN_CNS_NS;
    sqe.nsid = run->opts->nsid;
    rc = admin(run->host, &sqe, buffer, VN_HOST_PAGE, &cqe);
    return rc < 0 ? rc : set_geometry(run, (const struct vn_id_ns *)(const void *)(run->host->mem + buffer), mdts);
}

static uint64_t list_bytes(const struct vn_perf_opts *opts) {
    uint64_t pages = (opts->block_bytes + VN_HOST_PAGE - 1) / VN_HOST_PAGE;

    return pages > 2 ? (pages / 511 + 1) * VN_HOST_PAGE : 0;
}

static int make_slots(struct vn_perf_run *run, struct vn_perf_queue *q) {
    const struct vn_perf_opts *opts = run->opts;
    uint64_t lists = list_bytes(opts), list = 0;
    int rc;

    q->slots = calloc(opts->depth, sizeof(*q->slots));
    q->free = calloc(opts->depth, sizeof(*q->free));
    if (!q->slots || !q->free)
        return vn_host_fail(ENOMEM, "no memory for %u commands", opts->depth);
    for (uint32_t i = 0; i < opts->depth; i++) {
        struct vn_perf_slot *slot = &q->slots[i];

        rc = vn_host_alloc(run->host, opts->block_bytes, &slot->data_offset);
        if (rc == 0 && lists)
            rc = vn_host_alloc(run->host, lists, &list);
        if (rc == 0)
            rc = vn_host_build_prps(run->host, &slot->sqe, slot->data_offset, opts->block_bytes, list, lists);
        if (rc < 0)
            return rc;
        slot->sqe.cid = (uint16_t)i;
        slot->sqe.nsid = opts->nsid;
        slot->sqe.cdw12 = run->lbas_per_unit - 1;
        for (uint32_t at = 0; at < opts->block_bytes; at += 8) { /* not all zeros: some storage cheats on those */
            uint64_t word = (opts->seed + i) * 0x9e3779b97f4a7c15ull + at * 0xbf58476d1ce4e5b9ull;
            memcpy(run->host->mem + slot->data_offset + at, &word, sizeof(word));
        }
        q->free[q->nr_free++] = (uint16_t)(opts->depth - 1 - i);
    }
    return 0;
}

static int make_queues(struct vn_perf_run *run) {
    const struct vn_perf_opts *opts = run->opts;
    uint32_t most = (uint32_t)(run->host->cap & 0xffff) + 1;
    uint32_t entries = opts->depth + 1 < MIN_ENTRIES ? MIN_ENTRIES : opts->depth + 1;
    bool irq = opts->flags & VN_PERF_IRQ;
    struct vn_host_cqe cqe;
    uint32_t vectors = 0;
    int rc = 0;

    entries = entries > most ? most : entries;
    if (opts->depth >= entries)
        return vn_host_fail(EINVAL, "the controller's queues hold %u commands, not %u", entries - 1, opts->depth);
    if (irq) {
        vectors = opts->nr_queues + 1 < run->host->nr_msix ? opts->nr_queues + 1 : run->host->nr_msix;
        rc = vectors ? vn_host_irqs_enable(run->host, VN_VU_IRQ_MSIX, vectors)
                     : vn_host_fail(ENOTSUP, "the device has no MSI-X vectors to wait for");
    }
    for (uint32_t i = 0; i < opts->nr_queues && rc == 0; i++) {
        struct vn_perf_queue *q = &run->queues[i];
        uint16_t qid = (uint16_t)(i + 1);
        uint32_t vector = irq ? qid % vectors : 0;

        q->irq_fd = irq ? run->host->irq_fds[vector] : -1;
        rc = vn_host_create_cq(run->host, qid, entries, vector, irq, &cqe);
        if (rc == 0 && cqe.status == 0)
            rc = vn_host_create_sq(run->host, qid, entries, qid, 0, &cqe);
        if (rc == 0 && cqe.status)
            rc = vn_host_fail(EIO, "the controller refused I/O queue %u with status %x/%02x", qid, cqe.status >> 8 & 7,
                              cqe.status & 0xff);
        if (rc == 0) {
            q->sq = run->host->sqs[qid];
            q->cq = run->host->cqs[qid];
            rc = make_slots(run, q);
        }
    }
    return rc;
}

static int check_opts(const struct vn_perf_opts *opts) {
    if (!opts->socket_path)
        return vn_host_fail(EINVAL, "no socket to connect to");
    if (opts->depth < 1 || opts->depth > VN_PERF_MAX_DEPTH || opts->nr_queues < 1 || opts->nr_queues > VN_PERF_MAX_QUEUES)
        return vn_host_fail(EINVAL, "depth must be 1 to %u and queues 1 to %u, not %u and %u", VN_PERF_MAX_DEPTH,
                            VN_PERF_MAX_QUEUES, opts->depth, opts->nr_queues);
    if (opts->block_bytes < 512 || opts->block_bytes > MAX_BLOCK_BYTES || opts->block_bytes % 512)
        return vn_host_fail(EINVAL, "the block size must be a multiple of 512 up to 16 MiB, not %u", opts->block_bytes);
    if (opts->pattern > VN_PERF_RANDRW || opts->read_percent > 100)
        return vn_host_fail(EINVAL, "there is no such pattern (%u, %u %% reads)", opts->pattern, opts->read_percent);
    if (!opts->time_ms && !opts->nr_ios)
        return vn_host_fail(EINVAL, "a load needs a time or a number of I/Os to end at");
    return 0;
}

static void choose_pattern(struct vn_perf_run *run) {
    static const uint8_t fixed_share[] = {[VN_PERF_READ] = 100, [VN_PERF_RANDREAD] = 100, [VN_PERF_WRITE] = 0,
                                          [VN_PERF_RANDWRITE] = 0};
    uint32_t pattern = run->opts->pattern;
    uint32_t percent = run->opts->read_percent;

    if (pattern != VN_PERF_RW && pattern != VN_PERF_RANDRW)
        percent = fixed_share[pattern];
    run->random = pattern >= VN_PERF_RANDREAD;
    run->read_share = percent >= 100 ? UINT32_MAX : (uint32_t)((uint64_t)percent * UINT32_MAX / 100);
    run->rng[0] = run->opts->seed ^ 0x9e3779b97f4a7c15ull;
    run->rng[1] = run->opts->seed * 0xd1342543de82ef95ull + 1;
    vn_perf_hist_reset(&run->reads);
    vn_perf_hist_reset(&run->writes);
}

static int connect_host(struct vn_perf_run *run) {
    const struct vn_perf_opts *opts = run->opts;
    uint64_t slot_bytes = ((uint64_t)opts->block_bytes + VN_HOST_PAGE - 1) / VN_HOST_PAGE * VN_HOST_PAGE + list_bytes(opts);
    uint64_t ring_bytes = (uint64_t)(opts->depth + MIN_ENTRIES) * (sizeof(struct vn_sqe) + sizeof(struct vn_cqe));
    struct vn_host_opts host_opts = {.flags = opts->host_flags,
                                     .memory_bytes = opts->nr_queues * (opts->depth * slot_bytes + ring_bytes + 8 * VN_HOST_PAGE) +
                                                     (4u << 20)};
    int rc = vn_host_open(opts->socket_path, &host_opts, &run->host);

    if (rc == 0)
        rc = vn_host_enable(run->host, NULL);
    if (rc == 0) {
        run->result->doorbells_mapped = run->host->db_map != NULL;
        run->result->server_pid = run->host->conn.peer_pid;
    }
    return rc;
}

static void release(struct vn_perf_run *run) {
    for (uint32_t i = 0; run->queues && i < run->opts->nr_queues; i++) {
        free(run->queues[i].slots);
        free(run->queues[i].free);
    }
    vn_host_close(run->host);
    free(run->generations);
    free(run->unit_busy);
    free(run->queues);
    free(run);
}

int vn_perf_run(const struct vn_perf_opts *opts, struct vn_perf_result *result) {
    struct vn_perf_run *run;
    int rc = check_opts(opts);

    memset(result, 0, sizeof(*result));
    if (rc < 0)
        return rc;
    run = calloc(1, sizeof(*run));
    if (!run)
        return vn_host_fail(ENOMEM, "no memory for a load");
    run->opts = opts;
    run->result = result;
    run->stop_mark = atomic_load(&stop_requests);
    choose_pattern(run);
    run->queues = calloc(opts->nr_queues, sizeof(*run->queues));
    if (!run->queues) {
        release(run);
        return vn_host_fail(ENOMEM, "no memory for %u queues", opts->nr_queues);
    }
    rc = connect_host(run);
    if (rc == 0)
        rc = identify(run);
    if (rc == 0)
        rc = make_queues(run);
    if (rc == 0) {
        calibrate(run);
        rc = vn_perf_loop(run);
        report(run);
    }
    if (rc == 0)
        rc = vn_host_disable(run->host);
    release(run);
    return rc;
}
