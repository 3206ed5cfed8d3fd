/* The state behind a vn_host handle, and the queue operations that the load generator inlines.
 * Owner: the one thread that uses the handle. Included by csrc/host/ only.
 */
#ifndef VN_HOST_NVME_HOST_H
#define VN_HOST_NVME_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "core/nvme.h"
#include "host/vfio_user.h"
#include "vhostnvme_host.h"

#define VN_HOST_PAGE 4096u
#define VN_HOST_MAX_QUEUES 1024u /* ids 0 to 1023: what one page of doorbells and one of shadow doorbells hold */
#define VN_HOST_MAX_VECTORS 2048u
#define VN_HOST_PRP_SCRATCH (16u * VN_HOST_PAGE) /* lists for a command of vn_host_command: just under 32 MiB */

struct vn_host_db {
    uint32_t bar_offset;
    volatile uint32_t *map;    /* NULL: trapped */
    volatile uint32_t *shadow; /* NULL: no shadow doorbells */
    volatile uint32_t *event;
};

struct vn_host_sq {
    struct vn_sqe *ring; /* NULL: no such queue */
    struct vn_host_db db;
    uint32_t entries, tail, head, rung;
    uint16_t id, cqid;
    uint16_t next_cid;
    uint32_t inflight;
    uint64_t *busy; /* a bit for each of 65536 CIDs */
    uint64_t mem_offset, mem_bytes;
};

struct vn_host_cq {
    const volatile struct vn_cqe *ring;
    struct vn_host_db db;
    uint32_t entries, head;
    uint16_t id, phase;
    struct vn_host_cqe *stash; /* completions taken off the ring while looking for another one */
    uint32_t stash_first, stash_nr, stash_size;
    uint64_t mem_offset, mem_bytes;
};

struct vn_host {
    struct vn_host_conn conn;
    uint32_t flags;
    uint32_t nr_regions, nr_irq_types, nr_intx, nr_msix;
    uint64_t cap;
    /* shared memory */
    int memfd;
    uint8_t *mem;
    uint64_t mem_bytes, iova_base;
    uint64_t *page_used; /* a bit a page */
    /* doorbells */
    void *db_map;
    uint64_t db_area_offset, db_area_size;
    uint64_t nr_db_stores, nr_db_messages;
    bool shadow;
    uint64_t shadow_offset, event_offset; /* in the shared memory; 0: not allocated */
    uint64_t prp_scratch;
    /* interrupts */
    int *irq_fds;
    uint32_t nr_irq_fds;
    struct vn_host_sq *sqs[VN_HOST_MAX_QUEUES];
    struct vn_host_cq *cqs[VN_HOST_MAX_QUEUES];
};

/* memory.c */
int vn_host_memory_init(struct vn_host *host, uint64_t bytes);
void vn_host_memory_fini(struct vn_host *host);
/* As vn_host_alloc, but not below `from`. */
int vn_host_alloc_from(struct vn_host *host, uint64_t from, uint64_t bytes, uint64_t *offset);

/* device.c */
int vn_host_db_send(struct vn_host *host, uint32_t bar_offset, uint32_t value);

/* nvme_host.c: what a reset of the controller means for the host */
void vn_host_forget_queues(struct vn_host *host);
void vn_host_db_init(struct vn_host *host, struct vn_host_db *db, uint16_t qid, bool is_cq);

/* queue.c */
struct vn_host_sq *vn_host_sq_new(struct vn_host *host, uint16_t qid, uint32_t entries, uint16_t cqid);
struct vn_host_cq *vn_host_cq_new(struct vn_host *host, uint16_t qid, uint32_t entries);
void vn_host_sq_free(struct vn_host *host, struct vn_host_sq *sq);
void vn_host_cq_free(struct vn_host *host, struct vn_host_cq *cq);

/* Must the controller be told by MMIO that the doorbell went from old to new? It asked to be when the doorbell passes
 * event (Base 5.8, Doorbell Buffer Config, and what Linux does with it). Pure; arithmetic is modulo 65536. */
static inline bool vn_host_need_event(uint16_t event, uint16_t new_value, uint16_t old_value) {
    return (uint16_t)(new_value - event - 1) < (uint16_t)(new_value - old_value);
}

/* Publishes a doorbell value: shadow first, then a store or a message if the controller wants one. */
static inline int vn_host_db_write(struct vn_host *host, struct vn_host_db *db, uint32_t value) {
    if (db->shadow) {
        uint16_t old = (uint16_t)*db->shadow;

        __atomic_store_n(db->shadow, value, __ATOMIC_RELEASE);
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the shadow is visible before the event index is read */
        if (!vn_host_need_event((uint16_t)*db->event, (uint16_t)value, old))
            return 0;
    }
    if (db->map) {
        host->nr_db_stores++;
        __atomic_store_n(db->map, value, __ATOMIC_RELEASE);
        return 0;
    }
    return vn_host_db_send(host, db->bar_offset, value);
}

/* Is there a completion at this place of the ring? The phase is read first, the rest after it. */
static inline bool vn_host_cqe_ready(const volatile struct vn_cqe *cqe, uint16_t phase) {
    return (__atomic_load_n((const volatile uint16_t *)((const volatile char *)cqe + 14), __ATOMIC_ACQUIRE) & 1) == phase;
}

#endif
