/* Brings a load's devices to where the first command can go: connections, geometry, queues, buffers; or a ceiling's
 * stand-ins for all that. Called by perf.c. Everything is allocated here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/perf_run.h"

#define COMMAND_TIMEOUT_MS 10000u
#define MIN_ENTRIES 64u
#define MAX_VERIFY_UNITS (1ull << 28) /* 1 GiB of generations */
#define MIN_REGIONS 32u               /* fewer would say nothing about looking regions up */
#define CEILING_LBA_BYTES 512u
#define CEILING_LBAS (1ull << 31)

static int admin(struct vn_host *host, const struct vn_sqe *sqe, uint64_t buffer, uint32_t len, struct vn_host_cqe *cqe) {
    int rc = vn_host_command(host, 0, sqe, buffer, len, COMMAND_TIMEOUT_MS, cqe);

    if (rc == 0 && cqe->status)
        rc = vn_host_fail(EIO, "the controller answered admin command %02xh with status %x/%02x", sqe->opcode,
                          cqe->status >> 8 & 7, cqe->status & 0xff);
    return rc;
}

static int choose_range(const struct vn_perf_run *run, struct vn_perf_dev *dev) {
    const struct vn_perf_opts *opts = run->opts;
    uint64_t count = opts->range_bytes ? opts->range_bytes / dev->lba_bytes : opts->lba_count;
    uint64_t nr_lbas;

    if (opts->block_bytes % dev->lba_bytes || opts->block_bytes / dev->lba_bytes > 65536)
        return vn_host_fail(EINVAL, "a block size of %u is no multiple of the namespace's %u bytes", opts->block_bytes,
                            dev->lba_bytes);
    if (opts->lba_start >= dev->nr_lbas)
        return vn_host_fail(EINVAL, "the range starts behind the end of the namespace (%llu blocks)",
                            (unsigned long long)dev->nr_lbas);
    nr_lbas = dev->nr_lbas - opts->lba_start;
    if ((count || opts->range_bytes) && count < nr_lbas)
        nr_lbas = count;
    dev->lba_start = opts->lba_start;
    dev->lbas_per_unit = opts->block_bytes / dev->lba_bytes;
    dev->nr_units = nr_lbas / dev->lbas_per_unit;
    if (dev->nr_units == 0)
        return vn_host_fail(EINVAL, "the range is smaller than one block of %u bytes", opts->block_bytes);
    return 0;
}

static int prepare_verify(const struct vn_perf_run *run, struct vn_perf_dev *dev) {
    uint32_t needed = 2 * run->opts->depth * run->opts->nr_queues;

    if (dev->nr_units > MAX_VERIFY_UNITS || dev->nr_units < needed)
        return vn_host_fail(EINVAL, "verification needs a range of %u to %llu I/Os, not %llu; choose another range", needed,
                            (unsigned long long)MAX_VERIFY_UNITS, (unsigned long long)dev->nr_units);
    dev->generations = calloc(dev->nr_units, sizeof(uint32_t));
    dev->unit_busy = calloc(dev->nr_units / 64 + 1, sizeof(uint64_t));
    return dev->generations && dev->unit_busy ? 0 : vn_host_fail(ENOMEM, "no memory for verification");
}

static int set_geometry(const struct vn_perf_run *run, struct vn_perf_dev *dev, const struct vn_id_ns *ns, uint32_t mdts) {
    const struct vn_perf_opts *opts = run->opts;
    uint32_t format = (ns->flbas & 0xf) | (ns->flbas >> 1 & 0x30);
    uint32_t shift = ns->lbaf[format].lbads;
    int rc;

    if (ns->nsze == 0 || shift < 9 || shift > 16)
        return vn_host_fail(EINVAL, "the controller has no usable namespace %u", opts->nsid);
    if (ns->lbaf[format].ms && (ns->flbas & 0x10))
        return vn_host_fail(ENOTSUP, "namespace %u carries metadata inside its blocks", opts->nsid);
    if (mdts && mdts < 20 && opts->block_bytes > (uint64_t)VN_HOST_PAGE << mdts)
        return vn_host_fail(EINVAL, "a block size of %u is above the controller's limit of %llu bytes", opts->block_bytes,
                            (unsigned long long)VN_HOST_PAGE << mdts);
    dev->lba_bytes = 1u << shift;
    dev->nr_lbas = ns->nsze;
    rc = choose_range(run, dev);
    return rc == 0 && (opts->flags & VN_PERF_VERIFY) ? prepare_verify(run, dev) : rc;
}

static int identify(const struct vn_perf_run *run, struct vn_perf_dev *dev) {
    struct vn_sqe sqe = {.opcode = VN_ADMIN_IDENTIFY, .cdw10 = VN_CNS_CTRL};
    struct vn_sqe queues = {.opcode = VN_ADMIN_SET_FEATURES, .cdw10 = VN_FEAT_NUM_QUEUES};
    struct vn_host_cqe cqe;
    uint32_t mdts, granted;
    uint64_t buffer;
    int rc;

    rc = vn_host_alloc(dev->host, VN_HOST_PAGE, &buffer);
    if (rc == 0)
        rc = admin(dev->host, &sqe, buffer, VN_HOST_PAGE, &cqe);
    if (rc < 0)
        return rc;
    mdts = ((const struct vn_id_ctrl *)(const void *)(dev->host->mem + buffer))->mdts;
    queues.cdw11 = (run->opts->nr_queues - 1) * 0x10001u;
    rc = admin(dev->host, &queues, 0, 0, &cqe);
    if (rc < 0)
        return rc;
    granted = (cqe.result & 0xffff) < cqe.result >> 16 ? (cqe.result & 0xffff) + 1 : (cqe.result >> 16) + 1;
    if (granted < run->opts->nr_queues)
        return vn_host_fail(EINVAL, "the controller has %u I/O queues, not %u", granted, run->opts->nr_queues);
    if (run->opts->flags & VN_PERF_SHADOW) {
        rc = vn_host_shadow_doorbells(dev->host, &cqe);
        if (rc < 0 && rc != -ENOTSUP)
            return rc;
    }
    sqe.cdw10 = VN_CNS_NS;
    sqe.nsid = run->opts->nsid;
    rc = admin(dev->host, &sqe, buffer, VN_HOST_PAGE, &cqe);
    return rc < 0 ? rc : set_geometry(run, dev, (const struct vn_id_ns *)(const void *)(dev->host->mem + buffer), mdts);
}

static uint64_t list_bytes(const struct vn_perf_opts *opts) {
    uint64_t pages = (opts->block_bytes + VN_HOST_PAGE - 1) / VN_HOST_PAGE;

    return pages > 2 ? (pages / 511 + 1) * VN_HOST_PAGE : 0;
}

/* Where a buffer goes: next to the others, or each in another place of the whole memory, so that a device which looks
 * regions up has as many to look up as a host with scattered buffers would give it. */
static int place_buffer(const struct vn_perf_run *run, struct vn_host *host, uint32_t nr, uint64_t *offset) {
    uint64_t nr_slots = (uint64_t)run->opts->depth * run->opts->nr_queues;
    uint64_t from = host->mem_bytes / nr_slots * nr / VN_HOST_PAGE * VN_HOST_PAGE;

    if (run->opts->region_bytes && vn_host_alloc_from(host, from, run->opts->block_bytes, offset) == 0)
        return 0;
    return vn_host_alloc(host, run->opts->block_bytes, offset);
}

static int make_slot(const struct vn_perf_run *run, struct vn_host *host, struct vn_perf_slot *slot, uint32_t nr,
                     uint32_t lbas_per_unit) {
    const struct vn_perf_opts *opts = run->opts;
    uint64_t lists = list_bytes(opts), list = 0;
    int rc = place_buffer(run, host, nr, &slot->data_offset);

    if (rc == 0 && lists)
        rc = vn_host_alloc(host, lists, &list);
    if (rc == 0)
        rc = vn_host_build_prps(host, &slot->sqe, slot->data_offset, opts->block_bytes, list, lists);
    if (rc < 0)
        return rc;
    slot->sqe.cid = (uint16_t)(nr % opts->depth);
    slot->sqe.nsid = opts->nsid;
    slot->sqe.cdw12 = lbas_per_unit - 1;
    for (uint32_t at = 0; at < opts->block_bytes; at += 8) { /* not all zeros: some storage cheats on those */
        uint64_t word = (opts->seed + nr) * 0x9e3779b97f4a7c15ull + at * 0xbf58476d1ce4e5b9ull;
        memcpy(host->mem + slot->data_offset + at, &word, sizeof(word));
    }
    return 0;
}

/* number: of this queue within its device. */
static int make_slots(const struct vn_perf_run *run, struct vn_perf_queue *q, uint32_t number) {
    uint32_t depth = run->opts->depth;
    int rc = 0;

    q->slots = calloc(depth, sizeof(*q->slots));
    q->free = calloc(depth, sizeof(*q->free));
    if (!q->slots || !q->free)
        return vn_host_fail(ENOMEM, "no memory for %u commands", depth);
    for (uint32_t i = 0; i < depth && rc == 0; i++) {
        rc = make_slot(run, q->dev->host, &q->slots[i], number * depth + i, q->dev->lbas_per_unit);
        q->free[q->nr_free++] = (uint16_t)(depth - 1 - i);
    }
    return rc;
}

static uint32_t ring_entries(const struct vn_perf_run *run) {
    return run->opts->depth + 1 < MIN_ENTRIES ? MIN_ENTRIES : run->opts->depth + 1;
}

/* One queue pair of a controller, with its interrupt vector. */
static int make_queue(struct vn_perf_queue *q, uint16_t qid, uint32_t entries, uint32_t nr_vectors) {
    struct vn_host *host = q->dev->host;
    uint32_t vector = nr_vectors ? qid % nr_vectors : 0;
    struct vn_host_cqe cqe;
    int rc;

    q->irq_fd = nr_vectors ? host->irq_fds[vector] : -1;
    rc = vn_host_create_cq(host, qid, entries, vector, nr_vectors != 0, &cqe);
    if (rc == 0 && cqe.status == 0)
        rc = vn_host_create_sq(host, qid, entries, qid, 0, &cqe);
    if (rc == 0 && cqe.status)
        rc = vn_host_fail(EIO, "the controller refused I/O queue %u with status %x/%02x", qid, cqe.status >> 8 & 7,
                          cqe.status & 0xff);
    return rc;
}

static int make_queues(struct vn_perf_run *run, uint32_t number) {
    const struct vn_perf_opts *opts = run->opts;
    struct vn_host *host = run->devs[number].host;
    uint32_t most = (uint32_t)(host->cap & 0xffff) + 1;
    uint32_t entries = ring_entries(run) > most ? most : ring_entries(run);
    uint32_t vectors = 0;
    int rc = 0;

    if (opts->depth >= entries)
        return vn_host_fail(EINVAL, "the controller's queues hold %u commands, not %u", entries - 1, opts->depth);
    if (opts->flags & VN_PERF_IRQ) {
        vectors = opts->nr_queues + 1 < host->nr_msix ? opts->nr_queues + 1 : host->nr_msix;
        rc = vectors ? vn_host_irqs_enable(host, VN_VU_IRQ_MSIX, vectors)
                     : vn_host_fail(ENOTSUP, "the device has no MSI-X vectors to wait for");
    }
    for (uint32_t i = 0; i < opts->nr_queues && rc == 0; i++) {
        uint32_t lane = i * opts->nr_devices + number;
        struct vn_perf_queue *q = &run->queues[lane];
        uint16_t qid = (uint16_t)(i + 1);

        q->dev = &run->devs[number];
        if ((opts->flags & VN_PERF_CEILING) || opts->remotes)
            rc = vn_perf_peer_queues(host, qid, entries, &run->peer_queues[lane]);
        else
            rc = make_queue(q, qid, entries, vectors);
        if (rc == 0) {
            q->sq = host->sqs[qid];
            q->cq = host->cqs[qid];
            rc = make_slots(run, q, i);
        }
    }
    return rc;
}

/* --- Devices --- */

static uint64_t memory_needed(const struct vn_perf_run *run) {
    const struct vn_perf_opts *opts = run->opts;
    uint64_t slot_bytes = ((uint64_t)opts->block_bytes + VN_HOST_PAGE - 1) / VN_HOST_PAGE * VN_HOST_PAGE + list_bytes(opts);
    uint64_t ring_bytes = (uint64_t)ring_entries(run) * (sizeof(struct vn_sqe) + sizeof(struct vn_cqe));
    uint64_t bytes = opts->nr_queues * (opts->depth * slot_bytes + ring_bytes + 2 * VN_HOST_PAGE) + (4u << 20);

    if (opts->region_bytes && bytes < MIN_REGIONS * opts->region_bytes)
        bytes = MIN_REGIONS * opts->region_bytes;
    return bytes > opts->memory_bytes ? bytes : opts->memory_bytes;
}

static int open_ceiling(const struct vn_perf_run *run, struct vn_perf_dev *dev) {
    dev->lba_bytes = CEILING_LBA_BYTES;
    dev->nr_lbas = CEILING_LBAS;
    int rc = choose_range(run, dev);

    return rc < 0 ? rc : vn_perf_peer_open(memory_needed(run), &dev->host);
}

static int open_remote(struct vn_perf_run *run, struct vn_perf_dev *dev, uint32_t number) {
    struct vn_perf_bridge_facts facts;
    int rc = vn_perf_remote_open(run, number, &facts);

    if (rc < 0)
        return rc;
    dev->lba_bytes = facts.block_bytes;
    dev->nr_lbas = facts.bytes / facts.block_bytes;
    rc = choose_range(run, dev);
    if (rc == 0 && (run->opts->flags & VN_PERF_VERIFY))
        rc = prepare_verify(run, dev);
    if (rc == 0)
        rc = vn_perf_peer_open(memory_needed(run), &dev->host);
    if (rc == 0)
        dev->host->conn.peer_pid = run->opts->server_pids ? run->opts->server_pids[number] : 0;
    return rc;
}

static int open_device(const struct vn_perf_run *run, struct vn_perf_dev *dev, const char *path) {
    struct vn_host_opts host_opts = {
        .flags = run->opts->host_flags, .memory_bytes = memory_needed(run), .map_chunk_bytes = run->opts->region_bytes};
    int rc = vn_host_open(path, &host_opts, &dev->host);

    if (rc == 0)
        rc = vn_host_enable(dev->host, NULL);
    return rc < 0 ? rc : identify(run, dev);
}

static int name_device(int rc, const char *path) {
    char sentence[256];

    strncpy(sentence, vn_host_error(), sizeof(sentence) - 1);
    sentence[sizeof(sentence) - 1] = 0;
    return vn_host_fail(-rc, "%s: %s", path, sentence);
}

int vn_perf_setup(struct vn_perf_run *run) {
    const struct vn_perf_opts *opts = run->opts;
    bool ceiling = (opts->flags & VN_PERF_CEILING) != 0;
    int rc = 0;

    for (uint32_t i = 0; i < opts->nr_devices && rc == 0; i++) {
        struct vn_perf_dev *dev = &run->devs[i];

        if (opts->remotes)
            rc = open_remote(run, dev, i);
        else
            rc = ceiling ? open_ceiling(run, dev) : open_device(run, dev, opts->socket_paths[i]);
        if (rc == 0)
            rc = make_queues(run, i);
        if (rc < 0 && !ceiling && !opts->remotes && opts->nr_devices > 1)
            return name_device(rc, opts->socket_paths[i]);
    }
    if (rc == 0 && (opts->flags & VN_PERF_CEILING_THREAD))
        rc = vn_perf_peer_start(run->peer_queues, run->nr_lanes, &run->peer);
    if (rc == 0) {
        uint64_t bytes = run->devs[0].host->mem_bytes;

        run->result->memory_bytes = bytes;
        run->result->nr_regions = opts->region_bytes ? (uint32_t)((bytes + opts->region_bytes - 1) / opts->region_bytes) : 1;
    }
    return rc;
}
