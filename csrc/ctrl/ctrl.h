/* The controller: registers, queues, features, logs and commands, whatever door the host came in by.
 * Owner: its home reactor; everything here is called on it unless it says otherwise.
 */
#ifndef VN_CTRL_H
#define VN_CTRL_H

#include <stdbool.h>
#include <stdint.h>

#include "core/event.h"
#include "core/keep.h"
#include "core/nvme.h"
#include "core/reactor.h"
#include "core/req.h"
#include "include/vhostnvme.h"
#include "ns/ns_table.h"

#ifndef VN_VERSION
#define VN_VERSION "0.1.0" /* the build gives the true one */
#endif
#define VN_PCI_VENDOR 0x1af4u /* 1af4:10f0 to 10ff are free for unregistered devices (QEMU, docs/specs/pci-ids) */
#define VN_PCI_DEVICE 0x10f0u
#define VN_PCI_SUBVENDOR 0x1af4u
#define VN_PAGE_SIZE 4096u /* CAP.MPSMIN = CAP.MPSMAX = 0 */
#define VN_PAGE_SHIFT 12
#define VN_MAX_MDTS 8u /* 1 MiB */
#define VN_MAX_IOVECS ((VN_PAGE_SIZE << VN_MAX_MDTS) / VN_PAGE_SIZE + 1)
#define VN_MAX_FABRICS_QUEUES 128u /* I/O queues; PCI: VN_MAX_IO_QUEUES */
#define VN_NR_QUEUES (VN_MAX_FABRICS_QUEUES + 1)
#define VN_NR_VECTORS (VN_MAX_IO_QUEUES + 1)
#define VN_MAX_AERS 4u
#define VN_MAX_ABORTS 4u
#define VN_MAX_ERROR_LOG 64u
#define VN_NR_IO_REQS 1024u
#define VN_NR_ADMIN_REQS 32u
#define VN_DRAIN_BOUND_NS 2000000000ull /* a reset waits this long for I/O in flight (QEMU gives up after 5 s) */

#define VN_NO_IRQ UINT32_MAX

struct vn_door_ops;
struct vn_fabrics; /* fabrics.h */
struct vn_drive;   /* drive.h */
struct vn_ctrl_kept; /* kept.h */
struct vn_ana;     /* fabrics.h */
struct vn_discovery_cursor;
struct vn_discovery_entry;

/* A completion queue. The ring fields are the guest door's. */
struct vn_cq {
    bool exists, ien;
    uint8_t phase; /* of the next entry */
    uint16_t cqid, vector;
    uint32_t size, tail, head; /* head: the host's, as last seen */
    uint32_t reserved;         /* slots promised to fetched commands */
    uint32_t nr_sqs;
    uint32_t bad_head;         /* last refused doorbell value, so that it is reported once */
    uint32_t irq_head;         /* the head when the last interrupt was sent; VN_NO_IRQ: the host has moved on since */
    uint64_t irq_ns;           /* when that was */
    uint64_t due_ns;           /* when the last entry came that an interrupt is due for */
    uint32_t due_tail;         /* the tail after it */
    uint8_t batch;             /* entries that one interrupt waits for; 1: sent at once */
    uint8_t nr_batches;        /* since batch was changed */
    uint64_t gpa;
    struct vn_cqe *ring;        /* NULL: not reachable at the moment */
    const uint32_t *doorbell;   /* where the host writes its head */
    uint32_t *event_idx;        /* shadow doorbells: wake us beyond this value; NULL: none */
};

enum vn_sq_priority { VN_SQ_URGENT, VN_SQ_HIGH, VN_SQ_MEDIUM, VN_SQ_LOW }; /* QPRIO of Create I/O SQ */
#define VN_NR_SQ_PRIORITIES 4u

/* A submission queue, with the requests fetched from it. */
struct vn_sq {
    bool exists;
    uint8_t priority; /* enum vn_sq_priority: heeded when the controller's queues are weighted */
    union { /* what keeps the door from fetching on: any of these */
        struct {
            bool deleting;
            bool paired;      /* the second of a fused pair was fetched out of turn: look at the ring again */
            bool lacks_second; /* a first one waits until there is room for its second */
        };
        uint32_t halts;
    };
    uint16_t sqid;
    uint32_t size, head, tail; /* tail: the host's, as last seen */
    uint32_t bad_tail;
    uint64_t gpa;
    const struct vn_sqe *ring;
    const uint32_t *doorbell;
    uint32_t *event_idx;
    struct vn_cq *cq;
    struct vn_ctrl *ctrl;
    struct vn_req *inflight; /* list */
    uint32_t nr_inflight;
    struct vn_req *delete_req; /* the Delete I/O SQ command that waits for us to drain */
};

/* DISABLED: CSTS.RDY = 0. READY: commands run. DISABLING: waits for I/O in flight, then DISABLED.
 * FATAL: CSTS.CFS; only a reset leads out. */
enum vn_ctrl_state { VN_CTRL_DISABLED, VN_CTRL_READY, VN_CTRL_DISABLING, VN_CTRL_FATAL };

struct vn_features {
    uint32_t arbitration, power, error_recovery, vwc, irq_coalescing, write_atomicity, async_event;
    uint16_t temp_over, temp_under;
    uint16_t progress_marker;
    uint16_t irq_vector[VN_NR_VECTORS]; /* bit 0: coalescing disabled */
    uint16_t nr_sqs, nr_cqs;            /* granted I/O queues */
};

/* Features 0Ch, 10h, 11h as they are now, and what follows for the state of feature 02h: power.h. */
struct vn_power {
    struct vn_power_config {
        bool apste, permissive;
        uint32_t hctm;
        uint64_t apst[VN_POWER_STATES];
    } config;
    uint8_t operational; /* the last state that took commands */
    uint64_t since_ns;   /* it is idle, in the present state */
    uint64_t commands;   /* of I/O, that there had been then */
};

#define VN_RESV_NOTICES 64u

/* What the host has told of itself, and is told of reservations. */
struct vn_ctrl_host {
    uint8_t id[16]; /* feature 81h: all zero: none */
    bool extended;  /* it has 128 bits */
    uint8_t masks[VN_MAX_NAMESPACES + 1]; /* feature 82h, by NSID: bit 1 << enum vn_resv_notice_type: it is not told */
    struct vn_log_reservation notices[VN_RESV_NOTICES]; /* a ring of those not read yet */
    uint32_t first_notice, nr_notices;
    uint64_t count; /* of all there have been */
};

struct vn_ctrl_counters { /* one writer: the reactor */
    uint64_t commands, admin_commands, errors, interrupts, doorbell_writes;
    uint64_t busy_ns;      /* time with at least one I/O command in flight */
    uint64_t reads, writes; /* host commands, for the SMART log */
    uint64_t read_bytes, write_bytes;
    uint64_t media_errors;
    struct vn_throttle_counters waits; /* for tokens of the controller's own limits */
};

struct vn_ctrl {
    uint64_t id;
    struct vn_reactor *reactor;
    struct vn_event_queue *events;
    const struct vn_door_ops *door;
    void *door_ctx;
    struct vn_fabrics *fabrics; /* NULL: PCI */
    struct vn_drive *drive;     /* that it belongs to; NULL: fabrics */
    const struct vn_ana *ana;   /* what it says of the groups of namespaces; NULL: nothing */
    const uint8_t *ana_group;   /* by NSID; set when ana is */
    uint16_t oacs_off, oncs_off; /* bits of Identify that a persona has not, nor what they stand for */

    /* properties */
    uint64_t cap, asq, acq;
    uint32_t cc, csts, aqa, intms;
    enum vn_ctrl_state state;
    bool paused;   /* quiesced: nothing is fetched */
    bool weighted; /* CC.AMS: weighted round robin, as it was enabled */
    bool shutdown;       /* a flush for CC.SHN is under way */
    bool shutdown_again; /* ... and another is asked for meanwhile */
    bool shutdown_waits; /* ... and its backend was BUSY */
    struct vn_timer drain_timer;
    void (*on_drained)(struct vn_ctrl *ctrl); /* told once when nothing is in flight; NULL: nobody waits */

    char serial[21], model[41], subnqn[224];
    uint16_t cntlid;
    uint32_t max_queues, max_entries, mdts;
    bool dbbuf_supported;

    struct vn_sq sqs[VN_NR_QUEUES];
    uint64_t io_sqs; /* which I/O submission queues exist: bit qid - 1; PCI only, as the next two */
    uint64_t io_cqs; /* the same of I/O completion queues */
    uint64_t irqs_due;   /* I/O completion queues with entries that no interrupt has told of: bit cqid - 1 */
    bool admin_irq_due;
    struct vn_cq cqs[VN_NR_QUEUES];
    struct vn_ns_table namespaces;
    struct vn_throttle throttle; /* of its own limits, over all namespaces */
    uint64_t limit_marks[VN_NR_LIMITS];
    struct vn_limits limits;     /* control thread only */
    struct vn_features features;
    struct vn_power power;
    struct vn_ctrl_host host;

    struct vn_req *io_pool, *admin_pool; /* free requests; on fabrics each queue has its own */
    struct vn_req *busy_first, *busy_last; /* fetched, but the backend was BUSY */
    uint32_t nr_inflight;                /* fetched and not completed, AERs not counted */
    uint32_t nr_orphans;                 /* given up by a forced reset, still in some backend */
    void *arena;
    size_t arena_bytes;
    struct vn_bounce *bounces; /* free ones */
    uint8_t *bucket; /* as large as a transfer can be: what goes there, no host sees */
    struct vn_req shutdown_req;
    uint32_t shutdown_nsid;

    struct vn_req *aers[VN_MAX_AERS];
    uint32_t nr_aers;
    uint32_t events_pending; /* to be told: bits by aer.c */
    uint8_t event_told[VN_NR_AEN_TYPES]; /* by enum vn_aen_type: which one, until its log page is read; 0: none */
    uint8_t told_warnings; /* bits of the SMART log's critical warning that an event was raised for */
    bool changed_ns[VN_MAX_NAMESPACES + 1];
    uint32_t zone_nsid; /* whose zones the event of changed zones is about */

    struct vn_log_error error_log[VN_MAX_ERROR_LOG]; /* a ring, newest at error_count - 1 */
    uint64_t error_count;
    uint64_t error_specific; /* command specific information of the next entry: set just before the command ends */
    struct vn_ctrl_counters counters;
    uint64_t busy_since_ns, created_ns;
    uint64_t idle_since_ns; /* when the last command in flight ended */
    struct vn_ctrl_counters folded; /* as far as the drive's SMART log has them */
    struct vn_ctrl_kept *kept;      /* its part of what the drive keeps; NULL: fabrics */
    struct vn_keep_wait shutdown_save;
    uint64_t timestamp_ms, timestamp_ns; /* feature 0Eh: it was timestamp_ms when the monotonic clock was timestamp_ns */
    uint8_t timestamp_attributes;
    uint8_t host_acre;              /* feature 16h */
    uint64_t reset_ns;              /* since when it is enabled */
    uint64_t last_backend_error_ns;
    uint8_t *page; /* one page for building what a log or identify command answers */
};

/* The host's metadata buffer as a door maps it. */
struct vn_meta_map {
    struct iovec *iov;
    uint32_t max, nr;
};

/* What a door does for its controller. */
struct vn_door_ops {
    const char *name;
    /* Turn the command's data pointer into req->iov, length bytes in all. */
    vn_status (*map)(struct vn_req *req, uint32_t length);
    /* ... and its metadata pointer into map->iov. NULL: there is none. */
    vn_status (*map_meta)(struct vn_req *req, struct vn_meta_map *map, uint32_t length);
    /* Tell the host that req is done: req->status, req->result. */
    void (*post)(struct vn_req *req);
    /* The controller has done with req, whether posted or not. NULL: it goes back to the controller's pool. */
    void (*put)(struct vn_req *req);
    /* Some command waits for a busy backend: call vn_ctrl_retry_busy on later turns. NULL: the door does anyway. */
    void (*busy)(struct vn_ctrl *ctrl);
    /* PCI only, as the next three. Make the queue's ring reachable and set its doorbells to zero. */
    vn_status (*sq_open)(struct vn_sq *sq);
    vn_status (*cq_open)(struct vn_cq *cq);
    /* The first of a fused pair was fetched, and begun: fetches what comes next if that can be the second, not begun yet. Answers
     * NULL with *later when it is there, but there is no room for it now. NULL: this door has no fused commands. */
    struct vn_req *(*fetch_second)(struct vn_sq *sq, bool *later);
    /* Doorbell Buffer Config. */
    vn_status (*doorbell_buffer)(struct vn_ctrl *ctrl, uint64_t shadow, uint64_t event_idx);
    /* The controller was disabled: forget queues and shadow doorbells. On fabrics: end the connections of I/O queues. */
    void (*disabled)(struct vn_ctrl *ctrl);
    /* Free or repeat the interrupt line after INTMS/INTMC changed. */
    void (*irq_mask_changed)(struct vn_ctrl *ctrl);

    /* Fabrics only (ctrl/fabrics.h). The first three take the request over, and end it by vn_ctrl_end. */
    void (*auth)(struct vn_req *req);        /* Authentication Send and Receive */
    void (*disconnect)(struct vn_req *req);  /* of an I/O queue */
    void (*cross_reset)(struct vn_req *req); /* ends the controller named, and drains it */
    void (*kato_changed)(struct vn_ctrl *ctrl);
    /* What this host may know of the target, one by one; false: there is no more. out: all zero; NULL: it only counts. */
    bool (*discovery_entry)(struct vn_ctrl *ctrl, struct vn_discovery_cursor *at, struct vn_discovery_entry *out);
    uint64_t (*discovery_genctr)(struct vn_ctrl *ctrl);
    /* The next CNTLID from that one on, of this subsystem and this host; FFFFh: none. NULL: it is the only one. */
    uint16_t (*next_ctrl)(const struct vn_ctrl *ctrl, uint16_t from);
};

/* ctrl.c */
/* Control thread, before anything else. -EINVAL: the options; -EEXIST, -ENOSPC: the drive has no place for it. */
int vn_ctrl_init(struct vn_ctrl *ctrl, const struct vn_ctrl_opts *opts, struct vn_reactor *reactor,
                 struct vn_event_queue *events, uint64_t id);
/* One of fabrics, on its reactor; door and fabrics are set afterwards. Its queues bring their own requests. */
int vn_ctrl_init_fabrics(struct vn_ctrl *ctrl, const struct vn_ctrl_opts *opts, struct vn_reactor *reactor,
                         struct vn_event_queue *events, uint64_t id);
void vn_ctrl_fini(struct vn_ctrl *ctrl);                       /* control thread, after all is drained */
struct vn_req *vn_ctrl_get_req(struct vn_ctrl *ctrl, struct vn_sq *sq); /* NULL: none free now */
void vn_ctrl_put_req(struct vn_ctrl *ctrl, struct vn_req *req);
/* A namespace that has a state (ns_state.h) comes to a controller of PCI; goes again, when nothing uses its channel any more:
 * that is the caller's then. -EEXIST: the NSID is taken, in the drive or here. */
int vn_ctrl_add_ns(struct vn_ctrl *ctrl, struct vn_ns *ns, uint32_t nsid, struct vn_ns_chan **out);
void vn_ctrl_drop_ns(struct vn_ctrl *ctrl, struct vn_ns_chan *nsc);
/* A fetched command: runs it. */
void vn_ctrl_execute(struct vn_req *req);
void vn_ctrl_begin(struct vn_req *req); /* counts it as fetched, and no more */
/* Count one more, or one less, command in flight; the last one to leave tells who waits for that. */
void vn_ctrl_enter_flight(struct vn_ctrl *ctrl);
void vn_ctrl_leave_flight(struct vn_ctrl *ctrl);
/* Whether a command that is between two backend operations, or waits for a busy one, will come back to nsc. */
bool vn_ctrl_uses_ns(const struct vn_ctrl *ctrl, const struct vn_ns_chan *nsc);
/* ... the second of the two alone. */
bool vn_ctrl_has_busy(const struct vn_ctrl *ctrl, const struct vn_ns_chan *nsc);
/* Offer commands again whose backend was busy. True: one was taken. */
bool vn_ctrl_retry_busy(struct vn_ctrl *ctrl);
void vn_ctrl_make_busy(struct vn_req *req);
/* On the next turn of its door call resume(req), instead of offering it to the backend. */
void vn_ctrl_resume_later(struct vn_req *req, void (*resume)(struct vn_req *req));
/* Ask the backend that holds it, or the busy list, to end a command soon. */
void vn_ctrl_cancel(struct vn_req *req);
/* What waits for tokens need not wait any longer: it is a debt that later commands pay. */
void vn_ctrl_release(struct vn_ctrl *ctrl);
/* End a command that no backend holds. Permanent errors get DNR here. */
void vn_ctrl_end(struct vn_req *req, vn_status status);
/* Copy to or from the host's data pointer; the status of a bad pointer. Data beyond bytes is zeros. */
vn_status vn_ctrl_send(struct vn_req *req, const void *data, uint32_t bytes, uint32_t length);
vn_status vn_ctrl_receive(struct vn_req *req, void *data, uint32_t length);
/* Run on_drained when nothing is in flight (perhaps at once); after VN_DRAIN_BOUND_NS what is left is given up. */
/* Ask the backends to stop; commands that a busy backend has not taken end at once. */
void vn_ctrl_cancel_all(struct vn_ctrl *ctrl);
/* Abandon what is in flight: it goes back to the pool when its backend ends it. */
void vn_ctrl_give_up(struct vn_ctrl *ctrl);
void vn_ctrl_drain(struct vn_ctrl *ctrl, void (*on_drained)(struct vn_ctrl *ctrl));
/* For good, in any state: nothing is posted any more; on_drained as above. Orphans may be left. */
void vn_ctrl_close(struct vn_ctrl *ctrl, void (*on_drained)(struct vn_ctrl *ctrl));

/* regs.c */
void vn_ctrl_reset_regs(struct vn_ctrl *ctrl);
/* size 4 or 8, aligned; other accesses read as zeros and write nothing. offset is below VN_REG_DBS. */
uint64_t vn_ctrl_reg_read(struct vn_ctrl *ctrl, uint32_t offset, uint32_t size);
void vn_ctrl_reg_write(struct vn_ctrl *ctrl, uint32_t offset, uint64_t value, uint32_t size);
/* Leave READY: drop AERs, cancel, drain, forget the queues. Also the answer to FLR and a lost connection. */
void vn_ctrl_disable(struct vn_ctrl *ctrl);
void vn_ctrl_continue_shutdown(struct vn_ctrl *ctrl);
void vn_ctrl_set_state(struct vn_ctrl *ctrl, enum vn_ctrl_state state);
void vn_ctrl_fatal(struct vn_ctrl *ctrl, const char *why);

/* queue.c */
void vn_queue_reset_all(struct vn_ctrl *ctrl);
vn_status vn_queue_create_cq(struct vn_ctrl *ctrl, const struct vn_sqe *cmd);
vn_status vn_queue_create_sq(struct vn_ctrl *ctrl, const struct vn_sqe *cmd);
vn_status vn_queue_delete_cq(struct vn_ctrl *ctrl, const struct vn_sqe *cmd);
/* True: the command waits in sq->delete_req; else *status is its outcome. */
bool vn_queue_delete_sq(struct vn_req *req, vn_status *status);
vn_status vn_queue_open_admin(struct vn_ctrl *ctrl);
/* Fabrics: a queue pair of so many entries, which is a connection. It is gone again when nothing is in flight. */
void vn_queue_connect(struct vn_ctrl *ctrl, uint16_t qid, uint32_t entries);
void vn_queue_disconnect(struct vn_ctrl *ctrl, uint16_t qid);
void vn_queue_track(struct vn_sq *sq, struct vn_req *req);
void vn_queue_untrack(struct vn_sq *sq, struct vn_req *req);

/* admin_cmd.c, io_cmd.c, identify.c, feature.c, log_page.c, aer.c */
void vn_admin_execute(struct vn_req *req);
bool vn_admin_offers(const struct vn_ctrl *ctrl, uint8_t opcode);
uint32_t vn_admin_effects(const struct vn_ctrl *ctrl, uint8_t opcode); /* of the effects log; 0: there is no such command */
uint16_t vn_admin_oacs(const struct vn_ctrl *ctrl);
void vn_io_execute(struct vn_req *req);
uint16_t vn_io_oncs(const struct vn_ctrl *ctrl);                      /* ONCS, */
uint32_t vn_io_effects(const struct vn_ctrl *ctrl, uint8_t opcode);   /* and the effects log: what this controller has */
vn_status vn_identify(struct vn_req *req);
void vn_identify_ctrl(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id); /* id: zeros */
void vn_identify_subsystem(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id); /* capacity, CMIC */
vn_status vn_get_lba_status(struct vn_req *req); /* uncorrectable.c */
uint32_t vn_identify_oaes(const struct vn_ctrl *ctrl); /* the optional events that it can raise */
bool vn_feature_set(struct vn_req *req, vn_status *status); /* true: parked; else *status is its outcome */
vn_status vn_feature_get(struct vn_req *req);
void vn_feature_reset(struct vn_ctrl *ctrl);
vn_status vn_log_page(struct vn_req *req);
void vn_log_error(struct vn_req *req, vn_status status);
void vn_log_error_event(struct vn_ctrl *ctrl, uint16_t sqid, uint16_t location);
/* Raise an event if the SMART log has got a critical warning. */
void vn_log_check_warnings(struct vn_ctrl *ctrl);
/* True: parked until there is an event. */
bool vn_aer_park(struct vn_req *req, vn_status *status);
void vn_aer_raise(struct vn_ctrl *ctrl, enum vn_aen_type type, uint8_t info);
void vn_aer_log_read(struct vn_ctrl *ctrl, uint8_t log);
void vn_aer_drop_all(struct vn_ctrl *ctrl);
bool vn_aer_abort(struct vn_ctrl *ctrl, uint16_t cid);
void vn_aer_flush(struct vn_ctrl *ctrl);
/* A namespace came, went or changed: tell the host. */
void vn_aer_ns_changed(struct vn_ctrl *ctrl, uint32_t nsid);

static inline uint64_t vn_queue_bit(uint16_t qid) { /* of an I/O queue, in io_sqs and the like */
    return 1ull << (qid - 1);
}

/* How far it is from one index of a ring to another, both below size. */
static inline uint32_t vn_queue_distance(uint32_t from, uint32_t to, uint32_t size) {
    return to >= from ? to - from : to + size - from;
}

static inline void vn_cq_owe_irq(struct vn_ctrl *ctrl, const struct vn_cq *cq) {
    if (cq->cqid)
        ctrl->irqs_due |= vn_queue_bit(cq->cqid);
    else
        ctrl->admin_irq_due = true;
}

static inline bool vn_ctrl_owes_irqs(const struct vn_ctrl *ctrl) {
    return ctrl->irqs_due || ctrl->admin_irq_due;
}

/* Slots that are neither filled nor promised, as far as the host's head is known. */
static inline uint32_t vn_cq_free_slots(const struct vn_cq *cq) {
    return cq->size - 1 - vn_queue_distance(cq->head, cq->tail, cq->size) - cq->reserved;
}

static inline uint32_t vn_ctrl_max_transfer(const struct vn_ctrl *ctrl) {
    return VN_PAGE_SIZE << ctrl->mdts;
}

#endif
