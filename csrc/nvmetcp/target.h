/* The NVMe/TCP target: the second door. Listeners, connections, controllers and subsystems of one target.
 * Owner: its reactor; control calls come through vn_reactor_call. Nothing is allocated after Connect.
 *
 * Memory. A connection: struct vn_tqueue and VN_CONN_RX_BYTES. From Connect on, for each command that the queue may have
 * outstanding: struct vn_tcmd, VN_TCMD_SLOT_BYTES and a page. A controller: struct vn_tctrl, VN_TCTRL_DATA_BYTES for transfers
 * that are larger than a slot. Pages that are never touched cost nothing.
 * End. What has ended is freed by a sweep on a later turn, when nothing refers to it: never from within a callback.
 */
#ifndef VN_NVMETCP_TARGET_H
#define VN_NVMETCP_TARGET_H

#include "ctrl/fabrics.h"
#include "include/vhostnvme.h"
#include "nvmetcp/address.h"
#include "nvmetcp/conn.h"

#define VN_TCMD_SLOT_BYTES 8192u            /* data of small commands; also what a capsule may hold */
#define VN_TCTRL_CHUNK_BYTES (128u << 10)   /* data of large ones, in pieces */
#define VN_TCTRL_NR_CHUNKS 128u
#define VN_TCTRL_DATA_BYTES (VN_TCTRL_NR_CHUNKS * VN_TCTRL_CHUNK_BYTES)
#define VN_TCMD_CHUNKS_MAX 8u               /* 1 MiB: the largest MDTS */
#define VN_MAXH2CDATA (128u << 10)          /* of one H2CData PDU */
#define VN_MAX_R2TS 4u                      /* outstanding of one command */
#define VN_TQUEUE_ENTRIES_MAX 4096u         /* so that a transfer tag can name command, R2T and more */
#define VN_CONNECT_BYTES 1024u

struct vn_auth;
struct vn_host_entry;
struct vn_subsys;
struct vn_target;
struct vn_tctrl;
struct vn_tqueue;

/* FREE -> ARRIVING (its header is here) -> WAITING (for buffers) -> RECEIVING (its data, by R2T) -> RUNNING (in the
 * controller) -> ANSWERING (the controller has done with it, PDUs are under way) -> FREE. */
enum vn_tcmd_state { VN_TCMD_FREE, VN_TCMD_ARRIVING, VN_TCMD_WAITING, VN_TCMD_RECEIVING, VN_TCMD_RUNNING, VN_TCMD_ANSWERING };

enum vn_r2t_state { VN_R2T_FREE, VN_R2T_LEAVING, VN_R2T_OPEN };

struct vn_r2t {
    uint8_t state; /* enum vn_r2t_state; data is taken for an open one only */
    uint32_t offset, bytes, done;
};

/* A command of a queue: the request with what its connection needs. */
struct vn_tcmd {
    struct vn_req req; /* first */
    struct vn_tqueue *queue;
    uint16_t index; /* in the queue */
    uint8_t state;  /* enum vn_tcmd_state */
    uint8_t refs;   /* the controller, and each PDU that is under way */
    bool to_host, from_host; /* direction of its data */
    bool mapped;    /* the controller has asked for the data */
    bool is_last;   /* Disconnect: the connection ends behind its response */
    vn_status refused; /* found on arrival or while its data came: the controller never sees it */
    uint32_t data_bytes;     /* as its SGL says */
    uint32_t asked, got;     /* of a write's data: by R2Ts, and received */
    uint8_t nr_r2ts;         /* outstanding */
    uint8_t nr_chunks;
    uint8_t chunks[VN_TCMD_CHUNKS_MAX];
    uint8_t *slot;           /* VN_TCMD_SLOT_BYTES */
    uint32_t nr_bufs;
    struct iovec bufs[VN_TCMD_CHUNKS_MAX];
    struct vn_tcmd *next;    /* free list of its queue; those that wait for buffers */
    struct vn_tctrl *waits_for; /* Cross-Controller Reset: whose end */
    struct vn_tcmd *next_waiter;
    struct vn_r2t r2ts[VN_MAX_R2TS];
    struct vn_tx txs[VN_MAX_R2TS]; /* of the R2Ts; then [0]: data, [1]: the response */
};

/* NEW: ICReq is due. HALF: Connect is due, or authentication. LIVE. ENDING: its connection closes. DEAD: closed. */
enum vn_tqueue_state { VN_TQUEUE_NEW, VN_TQUEUE_HALF, VN_TQUEUE_LIVE, VN_TQUEUE_ENDING, VN_TQUEUE_DEAD };

/* A connection; from Connect on also a queue pair of a controller. */
struct vn_tqueue {
    struct vn_conn conn; /* first */
    struct vn_target *target;
    struct vn_tctrl *ctrl; /* NULL before Connect */
    uint8_t state;         /* enum vn_tqueue_state */
    uint8_t listener;      /* id */
    uint16_t qid;
    bool flow_off;         /* SQ flow control */
    bool auth_needed;      /* nothing but authentication yet */
    uint32_t max_r2ts;     /* outstanding of one command */
    uint32_t nr_cmds, nr_used, nr_made; /* commands: in all, not free, set up so far */
    struct vn_tcmd *cmds, *free;
    uint8_t *slots;
    size_t arena_bytes;
    struct vn_tcmd *arriving;
    uint64_t accepted_ns;
    char peer[VN_ADDRESS_TEXT_BYTES];
    struct vn_tqueue *prev, *next;           /* of the target: half-open ones, oldest first; or all others */
    struct vn_tqueue *ctrl_prev, *ctrl_next; /* of its controller */
    struct vn_auth *auth;  /* from Connect on, of a host that has to authenticate */
    struct vn_tx ic_tx;    /* ICResp */
    struct vn_tcmd first;  /* Connect, before there are others */
    uint8_t first_data[VN_CONNECT_BYTES];
};

/* A controller, and what makes it one of this target. */
struct vn_tctrl {
    struct vn_ctrl ctrl; /* first */
    struct vn_fabrics fabrics;
    struct vn_target *target;
    struct vn_subsys *subsys;
    uint8_t listener;
    bool begun, ending, drained;
    bool authenticated;   /* the host has proved who it is */
    uint64_t begun_ns;
    bool heard;           /* a command since the keep-alive timer was armed */
    bool on_busy;
    struct vn_tqueue *queues; /* list */
    uint32_t nr_queues;
    struct vn_timer kato_timer;
    uint8_t *data;        /* VN_TCTRL_DATA_BYTES */
    uint8_t free_chunks[VN_TCTRL_NR_CHUNKS];
    uint32_t nr_free_chunks;
    struct vn_tcmd *waiting_first, *waiting_last; /* for chunks */
    bool serving;
    struct vn_tcmd *waiters; /* Cross-Controller Resets that wait for our end */
    char peer[VN_ADDRESS_TEXT_BYTES]; /* of the admin queue, as the next */
    struct sockaddr_storage local; /* by which of our addresses it has come */
    struct vn_tctrl *prev, *next;
    struct vn_tctrl *busy_next;
};

/* Counters that outlive what they count. */
struct vn_target_past {
    uint64_t commands, errors, read_bytes, write_bytes;
};

struct vn_tlistener {
    struct vn_target *target; /* NULL: not in use */
    int fd;
    bool closing;
    uint32_t flags;
    struct sockaddr_storage address;
    struct vn_uring_op op;
    bool polling;
    struct vn_timer retry_timer; /* no room in the ring, or no file descriptors */
};

struct vn_referral {
    bool used;
    uint32_t flags;
    struct sockaddr_storage address;
};

struct vn_target {
    uint64_t id;
    struct vn_reactor *reactor;
    struct vn_event_queue *events;
    vn_runtime *owner; /* whose handle it is; control thread only */
    struct vn_target_opts opts; /* with defaults put in */
    struct vn_conn_group group;
    struct vn_tls_context *tls; /* the keys of hosts; NULL: no host has had one yet */
    uint64_t auth_mark; /* of the bucket that bounds authentications */
    struct vn_poller poller; /* commands whose backend was busy */
    struct vn_tctrl *busy_first;
    struct vn_timer handshake_timer, sweep_timer;
    struct vn_tqueue *half_first, *half_last, *queues;
    uint32_t nr_connections, nr_half_open, nr_ctrls;
    struct vn_tctrl *ctrls;
    uint16_t last_cntlid;
    uint8_t last_ciu;
    struct vn_tlistener listeners[VN_MAX_LISTENERS + 1]; /* by id; [0] is never used */
    struct vn_referral referrals[VN_MAX_REFERRALS];
    struct vn_subsys *subsystems;
    struct vn_subsys *discovery;
    uint64_t genctr; /* of what discovery says */
    uint64_t accepted, refused, last_refused_ns;
    struct vn_target_past past;
    uint64_t arena_bytes; /* of queues and controllers, whether touched or not */
};

/* --- target.c: life --- */
/* Control thread. */
int vn_target_new(const struct vn_target_opts *opts, struct vn_reactor *reactor, struct vn_event_queue *events,
                  uint64_t id, struct vn_target **out);
void vn_target_free(struct vn_target *target);
/* Reactor, by vn_reactor_call. */
int vn_target_start(void *target);
int vn_target_end(void *target); /* -EAGAIN: not yet; -EBUSY: commands are stuck in a backend */
/* Look for what can be freed, on a later turn. */
void vn_target_sweep(struct vn_target *target);
/* Something that discovery tells has changed. */
void vn_target_changed(struct vn_target *target);
void vn_target_info(struct vn_target *target, struct vn_target_info *out);
uint32_t vn_target_hosts(const struct vn_target *target, struct vn_target_host *buf, uint32_t max);
void vn_target_busy(struct vn_ctrl *ctrl);
void vn_target_tell(struct vn_target *target, enum vn_event_type type, uint64_t a, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Tell Python who was refused, and why; not more often than it can be read. */
void vn_target_refused(struct vn_target *target, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* --- target_listen.c --- */
/* Control thread: a listening socket. */
int vn_tlistener_open(const struct sockaddr_storage *address, int *fd, struct sockaddr_storage *bound);
/* Reactor: has it accept. Answers the id, or -ENOSPC. */
int vn_tlistener_start(struct vn_target *target, int fd, uint32_t flags, const struct sockaddr_storage *bound);
int vn_tlistener_stop(struct vn_target *target, uint32_t id); /* -EAGAIN: not yet; -ENOENT */

/* --- target_queue.c: a connection --- */
void vn_tqueue_accept(struct vn_target *target, int fd, uint8_t listener, const struct sockaddr_storage *peer);
/* It has a controller and need not hurry any more. */
void vn_tqueue_live(struct vn_tqueue *queue);
/* Those that have had their time for a Connect are closed. */
void vn_tqueue_hurry(struct vn_target *target);
/* Closes the connection. */
void vn_tqueue_end(struct vn_tqueue *queue, int err);
/* Reactor: frees it if nothing refers to it. */
bool vn_tqueue_try_free(struct vn_tqueue *queue);

/* --- target_cmd.c: commands of a connection --- */
int vn_tcmd_make_pool(struct vn_tqueue *queue, uint32_t entries);
void vn_tcmd_free_pool(struct vn_tqueue *queue);
struct vn_tcmd *vn_tcmd_get(struct vn_tqueue *queue); /* NULL: the host has more outstanding than the queue holds */
/* All of the capsule is here. */
void vn_tcmd_arrived(struct vn_tcmd *cmd);
/* It has got its buffers: runs it, or asks for its data. */
void vn_tcmd_start(struct vn_tcmd *cmd);
void vn_tcmd_unref(struct vn_tcmd *cmd);
/* The response, and nothing else. */
void vn_tcmd_answer(struct vn_tcmd *cmd, vn_status status, uint32_t result);
/* The command's connection has gone before it came to the controller. */
void vn_tcmd_drop(struct vn_tcmd *cmd);
/* What the data pointer says: direction, length, place; sets refused. capsule_bytes: data that came along. */
void vn_tcmd_read_sgl(struct vn_tcmd *cmd, uint32_t capsule_bytes);
bool vn_tcmd_is_in_capsule(const struct vn_tcmd *cmd);
/* H2CData: which R2T it is for. */
struct vn_pdu_fault vn_tcmd_find_data(struct vn_tqueue *queue, const struct vn_pdu_data *pdu, struct vn_tcmd **cmd);
void vn_tcmd_data_received(struct vn_tcmd *cmd, const struct vn_pdu_data *pdu, bool intact);
/* Door operations. */
vn_status vn_tcmd_map(struct vn_req *req, uint32_t length);
void vn_tcmd_post(struct vn_req *req);
void vn_tcmd_put(struct vn_req *req);

/* --- target_connect.c --- */
void vn_tconnect(struct vn_tcmd *cmd);

/* --- target_ctrl.c --- */
/* 0, or -ENOMEM, -EBUSY. The admin queue is not yet its. */
int vn_tctrl_new(struct vn_subsys *subsys, struct vn_tqueue *queue, const struct vn_connect_data *data, uint32_t kato_ms,
                 struct vn_tctrl **out);
int vn_tctrl_add_queue(struct vn_tctrl *ctrl, struct vn_tqueue *queue, uint16_t qid, uint32_t entries);
void vn_tctrl_drop_queue(struct vn_tctrl *ctrl, struct vn_tqueue *queue);
/* Its admin queue is live: it is one that Python hears of. */
void vn_tctrl_begin(struct vn_tctrl *ctrl);
struct vn_tctrl *vn_tctrl_find(struct vn_target *target, uint16_t cntlid);
/* Ends it: connections close, commands are cancelled and drained. why: a sentence's end for the log. */
void vn_tctrl_end(struct vn_tctrl *ctrl, const char *why);
void vn_tctrl_count(const struct vn_tctrl *ctrl, struct vn_target_past *sum); /* adds what it has done */
bool vn_tctrl_try_free(struct vn_tctrl *ctrl);
void vn_tctrl_forget_waiter(struct vn_tcmd *cmd);
/* Chunks for a large transfer. False: the command waits in line. */
bool vn_tctrl_take_chunks(struct vn_tctrl *ctrl, struct vn_tcmd *cmd);
void vn_tctrl_return_chunks(struct vn_tctrl *ctrl, struct vn_tcmd *cmd);
void vn_tctrl_leave_line(struct vn_tctrl *ctrl, struct vn_tcmd *cmd);

/* --- target_secure.c --- */
/* Control thread: what the keys of opts come to, in an entry that is still nobody's. -EINVAL, -ENOMEM */
int vn_host_keys_make(struct vn_host_entry *entry, const struct vn_allow_opts *opts, const char *subnqn);
void vn_host_keys_free(struct vn_host_entry *entry);
/* Reactor. */
bool vn_target_has_room_for_keys(const struct vn_target *target, const struct vn_host_entry *entry);
/* TLS takes keys from the lists of hosts as they are now; old: an entry that is on none any more, or NULL. */
void vn_target_keys_changed(struct vn_target *target, const struct vn_host_entry *old, const char *hostnqn);
/* Whether the connection may be that host's at that subsystem; NULL: it may, else the reason. */
const char *vn_tqueue_check_tls(const struct vn_tqueue *queue, const struct vn_subsys *subsys, const char *hostnqn);
/* Connect: queue->auth, if this host has to authenticate. -EAGAIN: too many do at the moment. */
int vn_tauth_prepare(struct vn_tqueue *queue, const struct vn_subsys *subsys, const char *hostnqn);
void vn_tauth_free(struct vn_tqueue *queue);
void vn_tauth(struct vn_req *req); /* door operation */

/* --- target_discovery.c --- */
bool vn_target_discovery_entry(struct vn_ctrl *ctrl, struct vn_discovery_cursor *at, struct vn_discovery_entry *out);
uint64_t vn_target_discovery_genctr(struct vn_ctrl *ctrl);
int vn_target_put_referral(struct vn_target *target, const struct sockaddr_storage *address, uint32_t flags); /* -ENOSPC */
int vn_target_take_referral(struct vn_target *target, const struct sockaddr_storage *address);                /* -ENOENT */

#endif
