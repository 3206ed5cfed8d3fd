/* The load generator's way in: checks the order, sets the load up, runs the loop, reports and cleans up.
 * Called by Python through vn_perf_run(). Everything is allocated before the first command.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/perf_run.h"

#define MAX_BLOCK_BYTES (16u << 20)

static atomic_uint stop_requests;

void vn_perf_stop(void) {
    atomic_fetch_add(&stop_requests, 1);
}

bool vn_perf_stopped(const struct vn_perf_run *run) {
    return atomic_load(&stop_requests) != run->stop_mark;
}

static int check_ceiling(const struct vn_perf_opts *opts) {
    uint32_t alone = VN_PERF_VERIFY | VN_PERF_IRQ | VN_PERF_SHADOW;

    if ((opts->flags & VN_PERF_CEILING) == VN_PERF_CEILING)
        return vn_host_fail(EINVAL, "a ceiling has one kind of peer, not two");
    return opts->flags & alone ? vn_host_fail(EINVAL, "a ceiling has no data to verify, no interrupts and no shadow doorbells")
                               : 0;
}

static int check_remotes(const struct vn_perf_opts *opts) {
    for (uint32_t i = 0; i < opts->nr_devices; i++) {
        if (!opts->remotes[i])
            return vn_host_fail(EINVAL, "no namespace to connect to");
    }
    return opts->flags & (VN_PERF_IRQ | VN_PERF_SHADOW)
               ? vn_host_fail(EINVAL, "there are no interrupts and no shadow doorbells over NVMe/TCP")
               : 0;
}

static int check_opts(const struct vn_perf_opts *opts) {
    if (opts->nr_devices < 1 || opts->nr_devices > VN_PERF_MAX_DEVICES)
        return vn_host_fail(EINVAL, "a load has 1 to %u devices, not %u", VN_PERF_MAX_DEVICES, opts->nr_devices);
    if (opts->depth < 1 || opts->depth > VN_PERF_MAX_DEPTH || opts->nr_queues < 1 || opts->nr_queues > VN_PERF_MAX_QUEUES)
        return vn_host_fail(EINVAL, "depth must be 1 to %u and queues 1 to %u, not %u and %u", VN_PERF_MAX_DEPTH,
                            VN_PERF_MAX_QUEUES, opts->depth, opts->nr_queues);
    if (opts->nr_queues * opts->nr_devices > VN_PERF_MAX_LANES)
        return vn_host_fail(EINVAL, "%u queues of %u devices are more than %u together", opts->nr_queues, opts->nr_devices,
                            VN_PERF_MAX_LANES);
    if (opts->block_bytes < 512 || opts->block_bytes > MAX_BLOCK_BYTES || opts->block_bytes % 512)
        return vn_host_fail(EINVAL, "the block size must be a multiple of 512 up to 16 MiB, not %u", opts->block_bytes);
    if (opts->pattern > VN_PERF_RANDRW || opts->read_percent > 100)
        return vn_host_fail(EINVAL, "there is no such pattern (%u, %u %% reads)", opts->pattern, opts->read_percent);
    if (!opts->time_ms && !opts->nr_ios)
        return vn_host_fail(EINVAL, "a load needs a time or a number of I/Os to end at");
    if (opts->flags & VN_PERF_CEILING)
        return check_ceiling(opts);
    if (opts->remotes)
        return check_remotes(opts);
    for (uint32_t i = 0; i < opts->nr_devices; i++) {
        if (!opts->socket_paths || !opts->socket_paths[i])
            return vn_host_fail(EINVAL, "no socket to connect to");
    }
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
    run->paced = run->opts->rate_iops != 0;
    run->read_share = percent >= 100 ? UINT32_MAX : (uint32_t)((uint64_t)percent * UINT32_MAX / 100);
    run->rng[0] = run->opts->seed ^ 0x9e3779b97f4a7c15ull;
    run->rng[1] = run->opts->seed * 0xd1342543de82ef95ull + 1;
}

static struct vn_perf_run *new_run(const struct vn_perf_opts *opts, struct vn_perf_result *result) {
    struct vn_perf_run *run = calloc(1, sizeof(*run));

    if (!run)
        return NULL;
    run->opts = opts;
    run->result = result;
    run->stop_mark = atomic_load(&stop_requests);
    run->nr_lanes = opts->nr_devices * opts->nr_queues;
    run->devs = calloc(opts->nr_devices, sizeof(*run->devs));
    run->queues = calloc(run->nr_lanes, sizeof(*run->queues));
    run->peer_queues = calloc(run->nr_lanes, sizeof(*run->peer_queues));
    run->bridges = opts->remotes ? calloc(opts->nr_devices, sizeof(struct vn_perf_bridge *)) : NULL;
    vn_perf_hist_reset(&run->reads);
    vn_perf_hist_reset(&run->writes);
    for (uint32_t i = 0; run->devs && i < opts->nr_devices; i++) {
        vn_perf_hist_reset(&run->devs[i].reads);
        vn_perf_hist_reset(&run->devs[i].writes);
    }
    choose_pattern(run);
    return run;
}

static void release(struct vn_perf_run *run) {
    vn_perf_peer_stop(run->peer);
    for (uint32_t i = 0; run->queues && i < run->nr_lanes; i++) {
        free(run->queues[i].slots);
        free(run->queues[i].free);
    }
    for (uint32_t i = 0; run->devs && i < run->opts->nr_devices; i++) {
        vn_host_close(run->devs[i].host);
        free(run->devs[i].generations);
        free(run->devs[i].unit_busy);
        if (run->bridges)
            vn_perf_bridge_close(run->bridges[i]);
    }
    free(run->bridges);
    free(run->peer_queues);
    free(run->queues);
    free(run->devs);
    free(run);
}

/* An orderly end: a server that serves others too shall not take this for a crash. */
static int disable(struct vn_perf_run *run) {
    int rc = 0;

    for (uint32_t i = 0; !(run->opts->flags & VN_PERF_CEILING) && !run->bridges && i < run->opts->nr_devices; i++) {
        int one = vn_host_disable(run->devs[i].host);

        rc = rc < 0 ? rc : one;
    }
    return rc;
}

/* On a thread that may be another one: the reactor's of a load over NVMe/TCP. */
static int run_loop(void *arg) {
    struct vn_perf_run *run = arg;
    int rc;

    vn_perf_calibrate(run);
    rc = vn_perf_loop(run);
    if (rc < 0)
        snprintf(run->error, sizeof(run->error), "%s", vn_host_error());
    return rc;
}

static int drive(struct vn_perf_run *run) {
    int rc;

    if (!run->bridges)
        return run_loop(run);
    rc = vn_perf_bridge_run(run->bridges, run->opts->nr_devices, run_loop, run, run->error, sizeof(run->error));
    return rc < 0 ? vn_host_fail(-rc, "%s", run->error) : rc;
}

int vn_perf_run(const struct vn_perf_opts *opts, struct vn_perf_result *result, struct vn_perf_device *devices) {
    struct vn_perf_run *run;
    int rc = check_opts(opts);

    memset(result, 0, sizeof(*result));
    if (rc < 0)
        return rc;
    if (devices)
        memset(devices, 0, opts->nr_devices * sizeof(*devices));
    run = new_run(opts, result);
    if (!run)
        return vn_host_fail(ENOMEM, "no memory for a load");
    if (!run->devs || !run->queues || !run->peer_queues || (opts->remotes && !run->bridges))
        rc = vn_host_fail(ENOMEM, "no memory for %u queues", run->nr_lanes);
    if (rc == 0)
        rc = vn_perf_setup(run);
    if (rc == 0) {
        rc = drive(run);
        vn_perf_report(run, devices);
    }
    if (rc == 0)
        rc = disable(run);
    release(run);
    return rc;
}
