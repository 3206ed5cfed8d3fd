/* What a load measures besides its commands: clocks, the CPU time of both sides, doorbells; and the figures at the end.
 * Called by perf.c and perf_loop.c.
 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "host/perf_run.h"

#define CALIBRATION_NS 5000000

/* --- Clocks --- */

static bool tsc_is_invariant(void) {
#ifdef __x86_64__
    unsigned a, b, c, d;

    return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d & 1u << 8);
#else
    return false;
#endif
}

void vn_perf_calibrate(struct vn_perf_run *run) {
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

static void find_servers(struct vn_perf_run *run) {
    run->nr_servers = 0;
    run->result->server_cpu_known = 1;
    for (uint32_t i = 0; i < run->opts->nr_devices; i++) {
        int32_t pid = run->devs[i].host->conn.peer_pid;
        struct vn_perf_server *server = &run->servers[run->nr_servers];
        bool known = false;

        for (uint32_t j = 0; j < run->nr_servers && !known; j++)
            known = run->servers[j].pid == pid;
        if (known)
            continue;
        server->pid = pid;
        run->nr_servers++;
        if (!process_cpu_ns(pid, &server->cpu_at_measure))
            run->result->server_cpu_known = 0;
    }
}

static uint64_t servers_cpu_ns(struct vn_perf_run *run) {
    uint64_t total = 0;

    for (uint32_t i = 0; i < run->nr_servers; i++) {
        uint64_t ns;

        if (!process_cpu_ns(run->servers[i].pid, &ns))
            run->result->server_cpu_known = 0;
        else if (ns > run->servers[i].cpu_at_measure) /* a thread that ended took its time with it */
            total += ns - run->servers[i].cpu_at_measure;
    }
    return total;
}

void vn_perf_measure_begin(struct vn_perf_run *run) {
    find_servers(run);
    for (uint32_t i = 0; i < run->opts->nr_devices; i++) {
        run->devs[i].stores_at_measure = run->devs[i].host->nr_db_stores;
        run->devs[i].messages_at_measure = run->devs[i].host->nr_db_messages;
    }
    run->host_cpu_at_measure = thread_cpu_ns();
    run->ns_at_measure = vn_host_now_ns();
}

void vn_perf_measure_end(struct vn_perf_run *run) {
    struct vn_perf_result *result = run->result;
    uint64_t now = vn_perf_ticks(run);

    result->elapsed_ns = vn_host_now_ns() - run->ns_at_measure;
    result->host_cpu_ns = thread_cpu_ns() - run->host_cpu_at_measure;
    for (uint32_t i = 0; i < run->opts->nr_devices; i++) {
        result->nr_doorbell_stores += run->devs[i].host->nr_db_stores - run->devs[i].stores_at_measure;
        result->nr_doorbell_messages += run->devs[i].host->nr_db_messages - run->devs[i].messages_at_measure;
    }
    for (uint32_t i = 0; run->paced && run->issue_left && i < run->nr_lanes; i++)
        result->nr_behind += vn_perf_pace_behind(&run->queues[i].pace, now);
    result->server_cpu_ns = servers_cpu_ns(run);
    if (!result->server_cpu_known)
        result->server_cpu_ns = 0;
}

/* --- Figures --- */

static void summarize(const struct vn_perf_run *run, const struct vn_perf_hist *hist, struct vn_perf_latency *latency) {
    vn_perf_hist_summarize(hist, 1.0 / run->ticks_per_ns, latency);
}

static void list_buckets(struct vn_perf_run *run, const struct vn_perf_hist *hist) {
    const struct vn_perf_opts *opts = run->opts;

    for (uint32_t i = 0; opts->buckets && i < VN_PERF_HIST_BUCKETS && run->result->nr_buckets < opts->max_buckets; i++) {
        if (hist->buckets[i])
            opts->buckets[run->result->nr_buckets++] = (struct vn_perf_bucket){
                .ns = (uint64_t)((double)vn_perf_hist_middle(i) / run->ticks_per_ns),
                .nr = hist->buckets[i],
            };
    }
}

static void report_device(const struct vn_perf_run *run, struct vn_perf_dev *dev, struct vn_perf_device *device) {
    device->nr_reads = dev->reads.nr;
    device->nr_writes = dev->writes.nr;
    device->nr_errors = dev->nr_errors;
    device->nr_blocks = dev->nr_lbas;
    device->lba_bytes = dev->lba_bytes;
    device->doorbells_mapped = dev->host->db_map != NULL && !run->bridges;
    device->shadow_doorbells = dev->host->shadow;
    device->server_pid = dev->host->conn.peer_pid;
    vn_perf_hist_merge(&dev->reads, &dev->writes);
    summarize(run, &dev->reads, &device->all);
}

void vn_perf_report(struct vn_perf_run *run, struct vn_perf_device *devices) {
    struct vn_perf_result *result = run->result;
    uint64_t ns = vn_host_now_ns() - run->calibration_ns;

    if (ns > CALIBRATION_NS) /* the whole run is the best calibration */
        run->ticks_per_ns = (double)(vn_perf_ticks(run) - run->calibration_ticks) / (double)ns;
    for (uint32_t i = 0; i < run->opts->nr_devices; i++) {
        vn_perf_hist_merge(&run->reads, &run->devs[i].reads);
        vn_perf_hist_merge(&run->writes, &run->devs[i].writes);
        if (devices)
            report_device(run, &run->devs[i], &devices[i]);
    }
    result->nr_reads = run->reads.nr;
    result->nr_writes = run->writes.nr;
    result->bytes_read = run->reads.nr * run->opts->block_bytes;
    result->bytes_written = run->writes.nr * run->opts->block_bytes;
    summarize(run, &run->reads, &result->reads);
    summarize(run, &run->writes, &result->writes);
    vn_perf_hist_merge(&run->reads, &run->writes);
    summarize(run, &run->reads, &result->all);
    list_buckets(run, &run->reads);
}
