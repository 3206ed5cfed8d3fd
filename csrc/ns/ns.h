/* A namespace: a backend with a block size, a size in blocks and an identity that outlives restarts.
 * struct vn_ns is shared by reactors, and immutable while attached but for its size; struct vn_ns_chan belongs to one controller's
 * reactor and is the only way to do I/O.
 */
#ifndef VN_NS_H
#define VN_NS_H

#include "backend/backend.h"
#include "include/vhostnvme.h"
#include "ns/throttle.h"

#define VN_NS_MAX_CHANS 64 /* controllers that may share one namespace */

struct vn_ns_counters { /* one writer: the channel's reactor */
    uint64_t reads, writes, read_bytes, write_bytes, flushes, deallocates, write_zeroes, errors;
    struct vn_throttle_counters waits;
};

/* What makes the plain path of Read and Write take the long way, through ctrl/gate.c. */
#define VN_NS_SPECIAL_BUSY (1u << 0)     /* a format or sanitize operation is under way */
#define VN_NS_SPECIAL_META (1u << 1)     /* its format has metadata */
#define VN_NS_SPECIAL_MARKS (1u << 2)    /* some blocks are marked as uncorrectable */
#define VN_NS_SPECIAL_RESERVED (1u << 3) /* a host holds a reservation */
#define VN_NS_SPECIAL_PROTECTED (1u << 4) /* write protected by the host */
#define VN_NS_SPECIAL_ZONES (1u << 5)    /* it is a zoned namespace */
#define VN_NS_SPECIAL_LOCKED (1u << 6)   /* a fused command has some of it to itself */
#define VN_NS_SPECIAL_REFUSES (1u << 7)  /* its drive is being sanitized, or could not be */

struct vn_ns_state; /* ns_state.h */
struct vn_meta;     /* meta.h */
struct vn_zoned;    /* zoned.h */
struct vn_changed_zones;

struct vn_ns {
    struct vn_backend *backend;
    uint64_t nr_blocks; /* atomic: ask vn_ns_nr_blocks */
    uint32_t block_shift; /* changes with the format, on its drive's reactor; elsewhere ask vn_ns_block_shift */
    uint32_t special; /* VN_NS_SPECIAL_*; its drive's reactor's */
    bool read_only;
    uint8_t uuid[16];
    uint32_t nr_holds;         /* atomic: vn_ns_hold */
    bool many_drives;          /* atomic: more than one have it; then its state is changed by none (vn_ns_may_change) */
    struct vn_meta *meta;      /* meta.h; NULL: its blocks have no metadata; its drive's reactor's */
    struct vn_ns_state *state; /* NULL: it has been on fabrics only, and is plain */
    char *state_path;          /* where its state is kept; NULL: nowhere */
    struct vn_zoned *zoned;    /* its backend, when it is a zoned namespace; else NULL */
    uint64_t id;                               /* by which events name it */
    vn_runtime *owner;                         /* whose handle it is; control thread only */
    struct vn_ns_chan *chans[VN_NS_MAX_CHANS]; /* control thread only */
    struct vn_ns_counters past;                /* of channels that have closed; control thread only */
    struct vn_limits limits;                   /* control thread only */
    uint64_t marks[VN_NR_LIMITS]; /* of the limits' buckets, for all channels together; atomic */
};

/* Owner: reactor. */
struct vn_ns_chan {
    struct vn_ns *ns;
    struct vn_chan *chan;
    uint32_t nsid;
    uint32_t inflight;
    bool closing;
    bool holds;        /* the format, as long as it shares the namespace with another owner; control thread only */
    const void *owner; /* its controller's drive; NULL: fabrics */
    bool limited; /* by the namespace's limits or the controller's */
    uint8_t turn;       /* of requests that have come since the last drain began */
    uint32_t nr_before; /* in flight that have come before */
    void (*resized)(struct vn_ns_chan *nsc); /* tells the hosts; NULL: there are none */
    void *hosts;                             /* for resized */
    struct vn_ns_counters counters;
    struct vn_throttle throttle;
    struct vn_throttle *ctrl_throttle; /* of the controller over all its namespaces; NULL: none */
    struct vn_changed_zones *changed_zones; /* that its controller has to be told of; NULL: it is not zoned */
};

/* Control thread. error receives a sentence on failure. */
int vn_ns_create(const struct vn_ns_opts *opts, struct vn_ns **out, char *error, uint32_t error_size);
void vn_ns_free(struct vn_ns *ns);
bool vn_ns_is_attached(const struct vn_ns *ns);
int vn_ns_add_chan(struct vn_ns *ns, struct vn_ns_chan *nsc);
void vn_ns_drop_chan(struct vn_ns *ns, struct vn_ns_chan *nsc);
void vn_ns_sum(const struct vn_ns *ns, struct vn_ns_counters *out);
uint64_t vn_ns_nr_waiting(const struct vn_ns *ns); /* for tokens, now */

/* ns_format.c. As long as somebody holds it, its format does not change; any thread. False: it is being formatted or sanitized,
 * or has metadata, and so only one drive can have it, at the size it has. */
bool vn_ns_hold(struct vn_ns *ns);
void vn_ns_unhold(struct vn_ns *ns);
/* Whether another format would be remembered as long as the blocks are. */
bool vn_ns_keeps_format(const struct vn_ns *ns);
/* Control thread: a drive is going to have it; NULL: it has not come. */
void vn_ns_expect(struct vn_ns *ns, const void *owner);
/* Any thread: whether one drive alone has it, whose reactor may change its marks, locks and reservations. */
static inline bool vn_ns_may_change(const struct vn_ns *ns) {
    return !__atomic_load_n(&ns->many_drives, __ATOMIC_ACQUIRE);
}
/* Control thread: whether somebody but this owner has it. */
bool vn_ns_is_shared(const struct vn_ns *ns, const void *owner);

/* ns_resize.c. size: bytes; 0: what is behind it. See vn_ns_resize. */
int vn_ns_change_size(struct vn_ns *ns, uint64_t size, char *error, uint32_t error_size);

/* Reactor. */
int vn_ns_chan_open(struct vn_ns *ns, struct vn_reactor *reactor, uint32_t nsid, struct vn_ns_chan **out);
void vn_ns_chan_close(struct vn_ns_chan *nsc);
/* To another reactor, while nothing is in flight: a channel opened there takes the place of the one here, which ends. */
int vn_ns_chan_open_at(struct vn_ns_chan *nsc, struct vn_reactor *reactor, struct vn_chan **out);
void vn_ns_chan_swap(struct vn_ns_chan *nsc, struct vn_chan *chan);
/* req->op, io_flags, offset, length and iov are set; checks access and limits, counts, submits. TAKEN: also when it is
 * still FETCHED and waits for tokens; it comes back by vn_req_complete as any other. */
enum vn_submit vn_ns_submit(struct vn_ns_chan *nsc, struct vn_req *req);
/* The same of what lies behind the blocks of the namespace (VN_REQ_BELOW), or of all of them when it is formatted: it is no
 * command of a host, so that it is not counted and waits for no tokens. The caller has checked the range. */
enum vn_submit vn_ns_submit_below(struct vn_ns_chan *nsc, struct vn_req *req);
/* A request that waits for something else of the namespace's, as its state to be saved: it is in flight as those that a
 * backend has, so that the channel stays. */
void vn_ns_enter_flight(struct vn_ns_chan *nsc, struct vn_req *req);
void vn_ns_leave_flight(struct vn_ns_chan *nsc, const struct vn_req *req);
/* Completes req when what is kept of the zones is durable; of a zoned namespace. */
void vn_ns_sync_zones(struct vn_ns_chan *nsc, struct vn_req *req);
/* The request, which this namespace or its backend may have, is to end soon: see backend.h. */
void vn_ns_cancel(struct vn_req *req);
/* What waits for tokens goes on, in debt. Answers how many there are. */
uint32_t vn_ns_release(struct vn_ns_chan *nsc);
/* The limits of the namespace are these; NULL: as they were, but the controller's have changed. */
void vn_ns_chan_limit(struct vn_ns_chan *nsc, const struct vn_limiter *limiter);
/* Makes the throttle of a controller over all its namespaces; each channel gets it as ctrl_throttle. */
void vn_ns_throttle_ctrl(struct vn_throttle *throttle, struct vn_reactor *reactor, uint64_t *marks,
                         struct vn_throttle_counters *counters);
/* Of the requests that the backend has now: have they all completed? One drain at a time. */
void vn_ns_chan_begin_drain(struct vn_ns_chan *nsc);
static inline bool vn_ns_chan_is_drained(const struct vn_ns_chan *nsc) {
    return !nsc->nr_before || !nsc->inflight;
}

static inline uint64_t vn_ns_nr_blocks(const struct vn_ns *ns) { /* any thread; may be another one at once */
    return __atomic_load_n(&ns->nr_blocks, __ATOMIC_RELAXED);
}

static inline uint32_t vn_ns_block_shift(const struct vn_ns *ns) { /* any thread, as above */
    return __atomic_load_n(&ns->block_shift, __ATOMIC_RELAXED);
}

/* Whether blocks [slba, slba + nr_blocks) exist; safe against overflow (Base 0/80h, nvmevirt's defect). */
static inline bool vn_ns_has_blocks(const struct vn_ns *ns, uint64_t slba, uint64_t nr_blocks) {
    uint64_t end = vn_ns_nr_blocks(ns);
    return nr_blocks <= end && slba <= end - nr_blocks;
}

#endif
