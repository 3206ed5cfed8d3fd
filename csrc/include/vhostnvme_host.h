/* The public C API of the vfio-user NVMe host and its load generator; Python's cdef is derived from it.
 * The host is the other side of the wire: it shares no code with the controller but the NVMe structures.
 * One thread at a time may use a handle. Functions answer 0 or -errno; vn_host_error() says in words what failed.
 */
#ifndef VHOSTNVME_HOST_H
#define VHOSTNVME_HOST_H

#include <stdint.h>

typedef struct vn_host vn_host;

/* --- Connection --- */

/* vn_host_opts.flags */
#define VN_HOST_VERSION_BARE 0x1        /* send VERSION as 4 bytes, without JSON */
#define VN_HOST_TRAP_DOORBELLS 0x2      /* write doorbells by REGION_WRITE even where they can be mapped */
#define VN_HOST_SYNC_DOORBELLS 0x4      /* trapped doorbells wait for a reply; default: posted (no reply) */
#define VN_HOST_MAP_WITHOUT_FD 0x8      /* announce the memory without a descriptor, as a host with private memory does */
#define VN_HOST_MSG_ID_ZERO 0x10        /* every message has id 0, as some hosts do */
#define VN_HOST_NO_MAP 0x20             /* do not announce the memory at all: the caller maps it piece by piece */
#define VN_HOST_UNMAP_WITH_FD 0x40      /* DMA_UNMAP carries a descriptor too, as some hosts do */

struct vn_host_opts {
    uint32_t flags;
    uint32_t timeout_ms;     /* for connecting, and for each reply; 0: 5000 */
    uint64_t memory_bytes;   /* shared memory, rounded up to 2 MiB; 0: 64 MiB */
    uint64_t iova_base;      /* where the device sees the memory, a multiple of 4096; 0: 4 GiB */
    uint64_t map_chunk_bytes; /* announce the memory in regions of this size; 0: in one; a multiple of 4096 */
};

struct vn_host_info {
    uint64_t memory_bytes;
    uint64_t iova_base;
    uint64_t cap;               /* register CAP as read at open */
    uint32_t doorbells_mapped;  /* 1: doorbells are plain stores into a page shared with the server */
    uint32_t shadow_doorbells;  /* 1: Doorbell Buffer Config is active */
    uint32_t nr_regions;
    uint32_t nr_irqs;           /* interrupt types, not vectors */
    uint32_t nr_intx;
    uint32_t nr_msix;           /* vectors */
    uint32_t max_msg_fds;       /* what the server takes in one message */
    uint32_t max_transfer_bytes;
    uint32_t version_minor;
    int32_t server_pid;         /* by SO_PEERCRED: who created the listening socket */
    uint64_t nr_doorbell_stores;   /* doorbell writes into the mapped page */
    uint64_t nr_doorbell_messages; /* doorbell writes by REGION_WRITE */
};

struct vn_host_region {
    uint64_t size;
    uint64_t offset;
    uint32_t flags;    /* 1 readable, 2 writable, 4 mappable, 8 has capabilities */
    uint32_t nr_areas; /* sparse areas that can be mapped */
    uint64_t area_offset; /* the first sparse area */
    uint64_t area_size;
};

/* What failed last on this thread, one sentence; "" when nothing did. */
const char *vn_host_error(void);

/* Connects to a vfio-user socket, negotiates, reads the device's shape, maps doorbells and shares memory.
 * opts may be NULL. Errors: ENAMETOOLONG, ENOENT, ECONNREFUSED, ETIMEDOUT, EPROTO (a malformed reply), what the server answers. */
int vn_host_open(const char *socket_path, const struct vn_host_opts *opts, vn_host **host);
/* Closes the connection at once, as a host that dies does; disable or shut down first for an orderly end. NULL is fine. */
void vn_host_close(vn_host *host);
int vn_host_get_info(vn_host *host, struct vn_host_info *info);
int vn_host_get_region(vn_host *host, uint32_t index, struct vn_host_region *region);

/* Any region, offset and length, within max_transfer_bytes: the server decides what is legal (regions: 0-5 BARs, 7 PCI config). */
int vn_host_region_read(vn_host *host, uint32_t region, uint64_t offset, void *buf, uint32_t len);
int vn_host_region_write(vn_host *host, uint32_t region, uint64_t offset, const void *buf, uint32_t len, uint32_t posted);
/* A controller register, width 1, 2, 4 or 8 bytes. */
int vn_host_reg_read(vn_host *host, uint64_t offset, uint32_t width, uint64_t *value);
int vn_host_reg_write(vn_host *host, uint64_t offset, uint32_t width, uint64_t value);
/* 4 bytes at a BAR0 offset by the way doorbells go: a store where mapped, else a message. */
int vn_host_doorbell_write(vn_host *host, uint64_t bar_offset, uint32_t value);

/* DEVICE_RESET. The host forgets its queues, as the controller does. */
int vn_host_device_reset(vn_host *host);

/* Announce [mem_offset, +size) of the shared memory at iova; flags: 1 readable, 2 writable, by the device. */
int vn_host_dma_map(vn_host *host, uint64_t mem_offset, uint64_t iova, uint64_t size, uint32_t flags, uint32_t with_fd);
/* size 0 and iova 0: everything. */
int vn_host_dma_unmap(vn_host *host, uint64_t iova, uint64_t size);

/* Interrupts: type 0 INTx, 2 MSI-X. Gives the device one eventfd a vector, [0, count), in messages of at
 * most 8, and sets MSI-X Enable in the PCI configuration. */
int vn_host_irqs_enable(vn_host *host, uint32_t type, uint32_t count);
int vn_host_irqs_disable(vn_host *host, uint32_t type);
/* SET_IRQS as given, for tests. fds may be NULL. */
int vn_host_irqs_set(vn_host *host, uint32_t type, uint32_t flags, uint32_t start, uint32_t count, const int32_t *fds,
                     uint32_t nr_fds);
int vn_host_irq_fd(vn_host *host, uint32_t vector, int32_t *fd);
/* Waits for the vector to fire; count is how often it did since the last look. -ETIMEDOUT. */
int vn_host_irq_wait(vn_host *host, uint32_t vector, uint32_t timeout_us, uint64_t *count);

/* Any bytes on the socket, for tests with garbage. After these, replies may no longer match requests. */
int vn_host_raw_send(vn_host *host, const void *bytes, uint32_t len, const int32_t *fds, uint32_t nr_fds);
/* Up to len bytes; received is 0 when the server has closed the connection. -ETIMEDOUT. */
int vn_host_raw_recv(vn_host *host, void *bytes, uint32_t len, uint32_t timeout_ms, uint32_t *received);
/* One command with any payload, and its reply; -errno is the server's answer if it refuses. reply_len counts the
 * payload that the server sent, of which at most reply_size bytes are kept. */
int vn_host_message(vn_host *host, uint16_t command, const void *payload, uint32_t len, const int32_t *fds, uint32_t nr_fds,
                    void *reply, uint32_t reply_size, uint32_t *reply_len);

/* --- Shared memory: offsets from 0 to memory_bytes; the device sees offset + iova_base --- */

void *vn_host_memory(vn_host *host, uint64_t *size);
/* Whole pages of 4096 bytes, page-aligned, zeroed. -ENOMEM. */
int vn_host_alloc(vn_host *host, uint64_t bytes, uint64_t *offset);
int vn_host_free(vn_host *host, uint64_t offset, uint64_t bytes);
/* Writes PRP1, PRP2 of the 64-byte SQE for [data_offset, +len); lists go to [list_offset, +list_bytes), which must start
 * on a page and may be empty where no list is needed. -EINVAL, -ENOSPC (list too small). */
int vn_host_build_prps(vn_host *host, void *sqe, uint64_t data_offset, uint64_t len, uint64_t list_offset,
                       uint64_t list_bytes);

/* --- NVMe --- */

struct vn_host_enable_opts {
    uint32_t asq_entries; /* 2 to 4096; 0: 32 */
    uint32_t acq_entries;
    uint32_t cc;          /* the whole register, EN is added; 0: NVM command set, 4 KiB pages, 64 and 16-byte entries */
    uint32_t timeout_ms;  /* 0: what CAP.TO says */
};

struct vn_host_cqe {
    uint32_t result; /* dword 0 */
    uint32_t dword1;
    uint16_t sqhd;
    uint16_t sqid;
    uint16_t cid;
    uint16_t status; /* 15 bits, without the phase: SC 7:0, SCT 10:8, CRD 12:11, M 13, DNR 14 */
};

/* CC.EN 0 if need be, admin queues, CC.EN 1, wait for RDY. -ETIMEDOUT, -EIO (CSTS.CFS). */
int vn_host_enable(vn_host *host, const struct vn_host_enable_opts *opts);
int vn_host_disable(vn_host *host);
int vn_host_shutdown(vn_host *host, uint32_t abrupt);
/* Waits until (CSTS & mask) == value; csts is the last value read. timeout_ms 0: what CAP.TO says. */
int vn_host_wait_csts(vn_host *host, uint32_t mask, uint32_t value, uint32_t timeout_ms, uint32_t *csts);
/* Number of Queues, then Doorbell Buffer Config if OACS has it; -ENOTSUP without. I/O queues only, as in Linux. */
int vn_host_shadow_doorbells(vn_host *host, struct vn_host_cqe *cqe);

/* Queues: 0 means that the controller answered; the queue exists when cqe->status is 0. entries: 2 to 65536. */
int vn_host_create_cq(vn_host *host, uint16_t qid, uint32_t entries, uint32_t vector, uint32_t interrupts,
                      struct vn_host_cqe *cqe);
int vn_host_create_sq(vn_host *host, uint16_t qid, uint32_t entries, uint16_t cqid, uint32_t priority,
                      struct vn_host_cqe *cqe);
int vn_host_delete_sq(vn_host *host, uint16_t qid, struct vn_host_cqe *cqe);
int vn_host_delete_cq(vn_host *host, uint16_t qid, struct vn_host_cqe *cqe);

/* vn_host_submit flags */
#define VN_HOST_KEEP_CID 0x1    /* the SQE's CID stays; default: the host assigns a free one */
#define VN_HOST_NO_DOORBELL 0x2 /* leave the doorbell to vn_host_ring or a later submit */

/* Any 64 bytes. cid (may be NULL) is the identifier in use. -EAGAIN: the queue is full. */
int vn_host_submit(vn_host *host, uint16_t sqid, const void *sqe, uint32_t flags, uint16_t *cid);
int vn_host_ring(vn_host *host, uint16_t sqid);
/* Takes up to max completions that are there now; nr is how many. No system call but a trapped doorbell. */
int vn_host_poll(vn_host *host, uint16_t cqid, struct vn_host_cqe *cqes, uint32_t max, uint32_t *nr);
/* The next completion. -ETIMEDOUT; -ENOTCONN when the server is gone. */
int vn_host_wait(vn_host *host, uint16_t cqid, uint64_t timeout_us, struct vn_host_cqe *cqe);
/* The completion of this command; others are kept for later polls. */
int vn_host_wait_cid(vn_host *host, uint16_t sqid, uint16_t cid, uint64_t timeout_us, struct vn_host_cqe *cqe);
/* Submit and wait. data_len > 0: PRPs are built for [data_offset, +data_len), up to 8 MiB; 0: the SQE goes as it is. */
int vn_host_command(vn_host *host, uint16_t sqid, const void *sqe, uint64_t data_offset, uint32_t data_len,
                    uint32_t timeout_ms, struct vn_host_cqe *cqe);
/* Commands submitted and not completed, as the host knows. */
int vn_host_inflight(vn_host *host, uint16_t sqid, uint32_t *nr);

/* --- Load generator --- */

enum vn_perf_pattern {
    VN_PERF_READ = 0,
    VN_PERF_WRITE = 1,
    VN_PERF_RW = 2,
    VN_PERF_RANDREAD = 3,
    VN_PERF_RANDWRITE = 4,
    VN_PERF_RANDRW = 5
};

/* vn_perf_opts.flags */
#define VN_PERF_VERIFY 0x1  /* stamp writes with LBA, generation and CRC32C, and check reads of what this run wrote */
#define VN_PERF_IRQ 0x2     /* sleep on interrupts in place of polling */
#define VN_PERF_SHADOW 0x4  /* shadow doorbells where the controller has them */
#define VN_PERF_FILL 0x8    /* write the whole range once before anything is measured */
/* No server: the same loop against queues that a trivial peer answers, without looking at data. What comes out is the
 * most that the load generator can do here. */
#define VN_PERF_CEILING_THREAD 0x10 /* the peer is a polling thread of this process */
#define VN_PERF_CEILING_INLINE 0x20 /* the load's own thread answers: the cost of the loop alone */

struct vn_perf_bucket { /* of the latency histogram */
    uint64_t ns; /* the middle of the bucket */
    uint64_t nr;
};

struct vn_remote_opts; /* vhostnvme_fabric.h */
struct vn_perf_opts {
    const char *const *socket_paths; /* one a device; not looked at for a ceiling, or with remotes */
    const struct vn_remote_opts *const *remotes; /* in their place: one a device, over NVMe/TCP. NULL: none */
    const int32_t *server_pids; /* of remotes, as far as known: 0. NULL: not known */
    uint32_t nr_devices;  /* 1 to 256, driven in turn by the calling thread */
    uint32_t host_flags;  /* VN_HOST_* */
    uint32_t flags;       /* VN_PERF_* */
    uint32_t pattern;     /* enum vn_perf_pattern */
    uint32_t read_percent; /* of a mixed pattern */
    uint32_t block_bytes; /* of one I/O: a multiple of the namespace's block */
    uint32_t depth;       /* commands in flight per queue, 1 to 4096 */
    uint32_t nr_queues;   /* per device, 1 to 128; 1024 of all devices together */
    uint32_t nsid;
    uint64_t time_ms;     /* measured time; 0: until nr_ios */
    uint64_t ramp_ms;     /* run before the measurement */
    uint64_t nr_ios;      /* stop after so many measured, of all devices; 0: until time_ms */
    uint64_t rate_iops;   /* all devices and queues together; latency counts from when a command was due. 0: no limit */
    uint64_t lba_start;   /* range of logical blocks; count 0: to the end */
    uint64_t lba_count;
    uint64_t range_bytes; /* lba_count in bytes, rounded down to blocks; 0: lba_count holds */
    uint64_t seed;
    uint64_t memory_bytes; /* shared with each device; 0, or less than the load needs: what it needs */
    uint64_t region_bytes; /* share it in regions of this size, and spread the buffers over all of them; 0: in one */
    struct vn_perf_bucket *buckets; /* NULL, or room for the histogram: only buckets that hold something */
    uint32_t max_buckets;
    uint32_t timeout_ms;  /* no completion for this long, with commands outstanding, ends the run; 0: 30000 */
};

struct vn_perf_latency { /* nanoseconds, 0 when there were none; percentiles within 1 % */
    uint64_t nr;
    uint64_t min;
    uint64_t mean;
    uint64_t p50;
    uint64_t p90;
    uint64_t p99;
    uint64_t p99_9;
    uint64_t p99_99;
    uint64_t max;
};

struct vn_perf_status {
    uint32_t status; /* type and code: SCT << 8 | SC */
    uint32_t reserved;
    uint64_t nr;
};

struct vn_perf_device { /* one of the devices of a load, in the order of socket_paths */
    uint64_t nr_reads;
    uint64_t nr_writes;
    uint64_t nr_errors;
    struct vn_perf_latency all;
    uint64_t nr_blocks; /* of the namespace */
    uint32_t lba_bytes;
    uint32_t doorbells_mapped;
    uint32_t shadow_doorbells;
    int32_t server_pid; /* 0 or less: not known */
};

/* Counted are the commands that were sent and completed within the measured interval. */
struct vn_perf_result {
    uint64_t elapsed_ns; /* measured interval */
    uint64_t nr_reads;
    uint64_t nr_writes;
    uint64_t bytes_read;
    uint64_t bytes_written;
    uint64_t nr_errors;  /* completions with a status other than success */
    uint64_t nr_verified; /* blocks checked */
    uint64_t nr_verify_errors;
    uint64_t verify_error_lba; /* the first one */
    struct vn_perf_latency all;
    struct vn_perf_latency reads;
    struct vn_perf_latency writes;
    struct vn_perf_status statuses[8]; /* the first eight kinds; nr 0 ends the list */
    uint64_t host_cpu_ns;   /* this thread */
    uint64_t server_cpu_ns; /* all threads of the servers' processes */
    uint64_t nr_doorbell_stores;
    uint64_t nr_doorbell_messages;
    uint64_t nr_interrupts; /* wake-ups by eventfd */
    uint64_t nr_behind;     /* commands that a rate limit made due by the end, and that found no free place */
    uint64_t fill_bytes;    /* written by VN_PERF_FILL */
    uint64_t fill_ns;
    uint64_t memory_bytes;  /* shared with each device */
    uint32_t nr_regions;    /* in so many pieces */
    uint32_t nr_buckets;
    uint32_t server_cpu_known;
    uint32_t stopped;       /* 1: ended by vn_perf_stop */
};

/* Runs one load to its end. devices: nr_devices of them, or NULL.
 * -EINVAL, -ENOTCONN (a server went away), -ETIMEDOUT, -EIO (a controller refused a set-up command, or a fill failed).
 * Results are filled in as far as the run came, also on an error. */
int vn_perf_run(const struct vn_perf_opts *opts, struct vn_perf_result *result, struct vn_perf_device *devices);
/* Ends every run of this process soon; callable from any thread. Runs started later are not affected. */
void vn_perf_stop(void);

/* --- Bare TCP, to hold loads over NVMe/TCP against --- */

struct vn_wire_opts { /* two threads on one connection over the loopback: requests one way, replies the other */
    uint32_t request_bytes;
    uint32_t reply_bytes;
    uint32_t depth; /* requests on their way, 1 to 4096 */
    uint32_t reserved;
    uint64_t time_ms;
    uint64_t ramp_ms; /* before what is measured */
};
struct vn_wire_result {
    uint64_t elapsed_ns;
    uint64_t nr; /* replies to requests that were sent within the measured time */
    uint64_t cpu_ns;      /* of the side that asks, in that time */
    uint64_t peer_cpu_ns; /* of the other one, with the ramp */
    struct vn_perf_latency latency;
};
int vn_wire_run(const struct vn_wire_opts *opts, struct vn_wire_result *result);

#endif
