/* The forwarder's own structures, shared by forward*.c: a namespace elsewhere, reached over NVMe/TCP.
 * The backend is immutable after open, but for what is marked atomic. A channel has associations of its own, one for
 * each path, on its reactor.
 */
#ifndef VN_BACKEND_FORWARD_H
#define VN_BACKEND_FORWARD_H

#include "backend/backend.h"
#include "core/event.h"
#include "include/vhostnvme.h"
#include "nvmetcp/host.h"

#define VN_FORWARD_ZEROS (64u << 10) /* for targets without Write Zeroes; named again and again in one list */
#define VN_FORWARD_ZERO_IOVECS (VN_ASSOC_TRANSFER_MAX / VN_FORWARD_ZEROS)

struct vn_forward {
    struct vn_backend backend; /* first */
    struct vn_assoc_config config; /* vn_remote_config_free */
    struct vn_assoc_facts facts; /* at open: what has to stay as it was; nr_blocks: atomic, changes by resize */
    struct sockaddr_storage addresses[VN_REMOTE_MAX_PATHS];
    uint32_t nr_paths;
    uint64_t reconnect_ns;
    struct iovec zeros[VN_FORWARD_ZERO_IOVECS];
    uint8_t *zero_bytes;
    /* atomic */
    uint32_t nr_chans;      /* that have not ended */
    uint64_t quarantine_ns; /* no writes before: a channel has closed with some of unknown fate */
    uint64_t blocks_told;   /* the size that the last event said */
};

/* Commands that change something, and all others: after a loss the latter go on at once. */
enum vn_forward_class { VN_FORWARD_READS, VN_FORWARD_WRITES, VN_FORWARD_CLASSES };

struct vn_probe;
struct vn_fio;
struct vn_fio_list {
    struct vn_fio *first, *last;
};

/* A request's progress, in req->engine. */
struct vn_fio {
    struct vn_fio *prev, *next;
    struct vn_fio_list *list; /* where it waits to be sent, as a whole or in part; NULL: nowhere */
    uint64_t seq;             /* in the order of submission */
    uint64_t start_ns;
    uint64_t sent;            /* bytes that commands have been made for */
    struct vn_hcmd *cmds;     /* in flight, linked by sibling */
    vn_status status;         /* the first failure */
    bool cancelled;
    bool again;               /* part of it was lost or went the wrong way: all of it is sent once more */
    bool made;                /* its one command has been made; for Flush, which has no bytes */
};
_Static_assert(sizeof(struct vn_fio) <= sizeof(((struct vn_req *)0)->engine), "fits in the request");

/* An association that was lost with writes of unknown fate: no write until it is certain that none of those will still
 * be applied. CLOSING: its commands are coming back. WAITING: for the target's word, or for time to pass. */
enum vn_fence_state { VN_FENCE_NONE, VN_FENCE_CLOSING, VN_FENCE_WAITING };
struct vn_fence {
    enum vn_fence_state state;
    uint16_t cntlid;
    uint8_t ciu;
    uint64_t cirn;
    uint64_t lost_ns;
    uint64_t ready_ns; /* when the target was first reached again; 0: not yet */
    uint64_t asked_ns;
    uint32_t number;   /* so that a late answer is told apart */
    bool asking, refused;
};

struct vn_forward_chan;
struct vn_path {
    struct vn_forward_chan *fc;
    struct vn_assoc *assoc;
    uint32_t index;
    bool up;            /* READY, and the namespace is the one that it was */
    bool unknown;       /* a write of unknown fate has come back */
    bool told_refused;
    bool was_up;
    uint32_t nr_writes; /* in flight, those of cancelled requests too */
    uint32_t backoff_ms;
    uint64_t hold_ns;   /* not used before: it has refused a command for a reason of its state */
    struct vn_timer retry;
    struct vn_fence fence;
};

/* Owner: its reactor. */
struct vn_forward_chan {
    struct vn_chan chan; /* first */
    struct vn_forward *forward;
    struct vn_conn_group group;
    struct vn_path paths[VN_REMOTE_MAX_PATHS];
    struct vn_path *active; /* where commands go; NULL: nowhere */
    struct vn_fio_list waiting[VN_FORWARD_CLASSES]; /* by seq */
    struct vn_fio_list blocked;                     /* overlap a ghost */
    struct vn_fio_list ending;                      /* cancelled: end on the next turn */
    struct vn_hcmd *ghosts; /* writes of cancelled requests that are with a target */
    uint32_t nr_fences;
    uint64_t quarantine_ns;                 /* as far as known here */
    uint64_t out_ns[VN_FORWARD_CLASSES];    /* since when there is no way; 0: there is one */
    bool failed[VN_FORWARD_CLASSES];        /* reconnect_ms have passed since */
    struct vn_timer out_timer, fence_timer, end_timer, hold_timer;
    uint64_t seq, random;
    bool closing;
};

static inline struct vn_fio *vn_fio_of(struct vn_req *req) {
    return (struct vn_fio *)(void *)req->engine;
}

static inline struct vn_req *vn_fio_req(struct vn_fio *io) {
    return (struct vn_req *)((char *)io - offsetof(struct vn_req, engine));
}

static inline enum vn_forward_class vn_forward_class_of(const struct vn_req *req) {
    bool writes = req->op == VN_OP_WRITE || req->op == VN_OP_WRITE_ZEROES || req->op == VN_OP_DEALLOCATE;
    return writes ? VN_FORWARD_WRITES : VN_FORWARD_READS;
}

/* forward_io.c: requests and their commands */
enum vn_submit vn_forward_submit(struct vn_chan *chan, struct vn_req *req);
void vn_forward_cancel(struct vn_chan *chan, struct vn_req *req);
/* Sends what waits, as far as there is a way and a free slot. */
void vn_forward_kick(struct vn_forward_chan *fc);
/* What waits in this class ends with VN_SC_HOST_PATH. */
void vn_forward_fail_waiting(struct vn_forward_chan *fc, enum vn_forward_class class);
void vn_forward_on_end_timer(struct vn_timer *timer);
/* forward_path.c: associations, which of them is used, and how long to wait for one */
int vn_forward_paths_open(struct vn_forward_chan *fc);
void vn_forward_paths_close(struct vn_forward_chan *fc); /* ends in vn_forward_chan_end, perhaps at once */
void vn_forward_path_refused(struct vn_path *path);      /* by the target, for its ANA state */
void vn_forward_update(struct vn_forward_chan *fc);      /* paths or fences have changed */
void vn_forward_tell(const struct vn_forward *forward, enum vn_event_type type, uint64_t a, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* forward_fence.c */
void vn_fence_begin(struct vn_path *path);  /* its association is lost */
void vn_fence_closed(struct vn_path *path); /* ... and all its commands have come back */
void vn_fence_advance(struct vn_forward_chan *fc); /* a path is up, or time has passed */
void vn_fence_on_timer(struct vn_timer *timer);
uint64_t vn_fence_ns(const struct vn_forward *forward); /* after so long nothing can be left of a lost association */
/* Another channel has closed and left writes of unknown fate since this one last looked. */
static inline bool vn_fence_has_news(const struct vn_forward_chan *fc) {
    return __atomic_load_n(&fc->forward->quarantine_ns, __ATOMIC_ACQUIRE) != fc->quarantine_ns;
}
/* forward.c */
void vn_forward_chan_end(struct vn_forward_chan *fc);
/* forward_open.c, also for api_fabric.c: what the options say; a sentence in error on failure */
int vn_remote_config(const struct vn_remote_opts *remote, struct vn_assoc_config *config, char *error,
                     uint32_t error_size);
void vn_remote_config_free(struct vn_assoc_config *config); /* also after a failure, or of zeros; wipes the keys */
/* vn_probe_open, with the version of the TLS key that the target knows: config->tls is then that. */
int vn_remote_probe(const struct vn_remote_opts *remote, struct vn_assoc_config *config,
                    const struct sockaddr_storage *address, struct vn_probe **out, char *error, uint32_t error_size);
int vn_remote_resolve(const struct vn_remote_path *path, struct sockaddr_storage *out, char *error, uint32_t error_size);
/* forward_open.c: options checked, addresses found, the namespace looked at; a sentence in error on failure */
int vn_forward_look(const struct vn_ns_opts *opts, struct vn_forward *forward, char *error, uint32_t error_size);
/* Empty: facts are of the same namespace as at open; else what is wrong, as the end of a sentence. */
void vn_forward_compare(const struct vn_forward *forward, const struct vn_assoc_facts *facts, char *wrong,
                        uint32_t wrong_bytes);

#endif
