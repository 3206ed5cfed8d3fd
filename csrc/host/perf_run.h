/* The state of one load: its devices, queues, slots, phases and counts. Shared by the perf_*.c files.
 * Owner: the thread in vn_perf_run().
 */
#ifndef VN_HOST_PERF_RUN_H
#define VN_HOST_PERF_RUN_H

#include <stdbool.h>
#include <stdint.h>
#ifdef __x86_64__
#include <x86intrin.h>
#endif

#include "host/nvme_host.h"
#include "host/perf_bridge.h"
#include "host/perf_hist.h"
#include "host/perf_pace.h"
#include "host/perf_peer.h"
#include "vhostnvme_host.h"

#define VN_PERF_MAX_DEVICES 256u
#define VN_PERF_MAX_QUEUES 128u /* of a device */
#define VN_PERF_MAX_LANES 1024u /* queues of all devices */
#define VN_PERF_MAX_DEPTH 4096u
#define VN_PERF_CEILING (VN_PERF_CEILING_THREAD | VN_PERF_CEILING_INLINE)

struct vn_perf_slot { /* one place for a command: its SQE, made once but for opcode and LBA, and its buffer */
    struct vn_sqe sqe;
    uint64_t started; /* ticks: when it was sent, or when a rate limit made it due */
    uint64_t unit;
    uint32_t generation;
    bool busy, is_write, counted; /* counted: sent within the measured interval */
    uint64_t data_offset;
};

struct vn_perf_dev { /* one controller and the range of its namespace */
    struct vn_host *host;
    /* geometry: a unit is one I/O's worth of blocks */
    uint64_t lba_start, nr_units;
    uint32_t lba_bytes, lbas_per_unit;
    uint64_t nr_lbas; /* of the namespace */
    uint64_t cursor, fill_next;
    /* verification: the generation last written to a unit, 0 when unknown, and what is in flight */
    uint32_t *generations;
    uint64_t *unit_busy;
    struct vn_perf_hist reads, writes;
    uint64_t nr_errors;
    uint64_t stores_at_measure, messages_at_measure;
};

struct vn_perf_queue {
    struct vn_perf_dev *dev;
    struct vn_host_sq *sq;
    struct vn_host_cq *cq;
    struct vn_perf_slot *slots;
    uint16_t *free;
    uint32_t nr_free;
    int32_t irq_fd;
    struct vn_perf_pace pace;
};

struct vn_perf_server { /* a process that serves some of the devices */
    int32_t pid;
    uint64_t cpu_at_measure;
};

enum vn_perf_phase { VN_PERF_FILLING, VN_PERF_RAMP, VN_PERF_MEASURE, VN_PERF_DRAIN };

struct vn_perf_run {
    const struct vn_perf_opts *opts;
    struct vn_perf_result *result;
    struct vn_perf_dev *devs;
    struct vn_perf_queue *queues; /* queue q of device d is number q * nr_devices + d */
    uint32_t nr_lanes;
    uint32_t stop_mark;
    /* a ceiling's other side */
    struct vn_perf_peer_queue *peer_queues;
    struct vn_perf_peer *peer;
    struct vn_perf_bridge **bridges; /* of a load over NVMe/TCP, one a device; NULL: vfio-user */
    char error[256];                 /* what failed on the bridges' reactor */
    /* choice of the next command */
    bool random, paced;
    uint32_t read_share; /* of 2^32 */
    uint64_t rng[2];
    uint32_t generation;
    /* time, in ticks */
    bool use_tsc;
    double ticks_per_ns;
    uint64_t phase_end, last_progress;
    uint64_t calibration_ticks, calibration_ns;
    uint64_t ns_at_measure, ns_at_fill;
    uint64_t host_cpu_at_measure;
    struct vn_perf_server servers[VN_PERF_MAX_DEVICES];
    uint32_t nr_servers;
    enum vn_perf_phase phase;
    uint64_t issue_left, inflight;
    struct vn_perf_hist reads, writes; /* of all devices, at the end */
};

static inline uint64_t vn_perf_ticks(const struct vn_perf_run *run) {
#ifdef __x86_64__
    if (__builtin_expect(run->use_tsc, 1))
        return __rdtsc();
#endif
    (void)run;
    return vn_host_now_ns();
}

static inline uint64_t vn_perf_ticks_of_ns(const struct vn_perf_run *run, uint64_t ns) {
    return (uint64_t)((double)ns * run->ticks_per_ns);
}

/* perf_setup.c: everything between the options and the first command. */
int vn_perf_setup(struct vn_perf_run *run);
/* perf_loop.c: from the first command to the last completion. */
int vn_perf_loop(struct vn_perf_run *run);
/* perf_remote.c: what is on the rings goes over NVMe/TCP. */
int vn_perf_remote_open(struct vn_perf_run *run, uint32_t number, struct vn_perf_bridge_facts *facts);
void vn_perf_remote_turn(struct vn_perf_run *run);
/* perf.c */
bool vn_perf_stopped(const struct vn_perf_run *run);
/* perf_figures.c: clocks, the accounts of both sides, and what is made of them. */
void vn_perf_calibrate(struct vn_perf_run *run);
void vn_perf_measure_begin(struct vn_perf_run *run);
void vn_perf_measure_end(struct vn_perf_run *run);
void vn_perf_report(struct vn_perf_run *run, struct vn_perf_device *devices);

#endif
