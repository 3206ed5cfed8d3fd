/* A host's association with one NVMe/TCP controller: the admin queue and the I/O queues, a connection each.
 * Makes the way to a namespace (connect, enable, identify), keeps it alive, carries commands, and ends as a whole:
 * when one connection is lost, all are closed, and every command is given back with what is known of its fate.
 * Owner: its reactor. Used by the forwarder (backend/forward*.c). The target is not trusted: whatever it says of a
 * command is checked against the command.
 */
#ifndef VN_NVMETCP_HOST_H
#define VN_NVMETCP_HOST_H

#include "nvmetcp/auth.h"
#include "nvmetcp/conn.h"

#define VN_ASSOC_MAX_QUEUES 16u
#define VN_ASSOC_MAX_ENTRIES 1024u
#define VN_ASSOC_ADMIN_ENTRIES 32u
#define VN_ASSOC_R2TS 4u                  /* of one command that may be unanswered (MAXR2T) */
#define VN_ASSOC_TRANSFER_MAX (1u << 20)  /* bytes of one command */
#define VN_ASSOC_WHY_BYTES 256u
#define VN_ASSOC_PAGE 4096u
#define VN_EVENTS_WANTED (VN_OAES_NS_ATTR | VN_OAES_ANA)

struct vn_assoc;
struct vn_hauth;
struct vn_hq;
struct vn_tls_context;

/* What associations of one namespace have in common; outlives them, immutable. */
struct vn_assoc_config {
    char subnqn[VN_NQN_MAX + 1], hostnqn[VN_NQN_MAX + 1];
    uint8_t hostid[16];
    uint32_t nsid;          /* 0: none; only the admin queue is made, and nothing is identified */
    uint32_t nr_queues;     /* I/O queues wished for, 1 to VN_ASSOC_MAX_QUEUES */
    uint32_t entries;       /* of an I/O queue, 2 to VN_ASSOC_MAX_ENTRIES; one is always free */
    bool hdgst, ddgst;
    uint32_t kato_ms;       /* keep-alive timeout; nothing heard for so long: lost */
    uint32_t connect_ms;    /* to be ready, at most */
    uint32_t io_timeout_ms; /* a command without answer for so long: lost */
    struct vn_tls_context *tls; /* NULL: none */
    struct vn_auth_key host_key, ctrl_key; /* for DH-HMAC-CHAP; 0 bytes: none */
};

/* What the target has said of itself and of the namespace. */
struct vn_assoc_facts {
    uint64_t nr_blocks;
    uint32_t block_size; /* bytes */
    bool has_uuid, has_nguid, has_eui64;
    uint8_t uuid[16], nguid[16], eui64[8];
    char serial[21], model[41];
    uint32_t transfer_max;   /* bytes of one command (MDTS), at most VN_ASSOC_TRANSFER_MAX */
    uint32_t zeroes_max;     /* blocks of one Write Zeroes */
    uint32_t deallocate_max; /* blocks of one range of Dataset Management */
    uint32_t capsule_max;    /* bytes of data in an I/O command's capsule */
    uint32_t entries;        /* of an I/O queue, at most (CAP.MQES) */
    uint32_t page_min;       /* bytes: CAP.MPSMIN */
    bool compare, write_zeroes, deallocate;
    bool reads_zeros;        /* deallocated blocks do (DLFEAT) */
    bool zeroes_deallocate;  /* Write Zeroes may deallocate */
    bool volatile_cache, read_only;
    bool has_ana;
    uint32_t ana_group;
    uint16_t cntlid;
    uint8_t ciu;   /* with cirn: which instance of this CNTLID it is; cirn 0: the target does not say */
    uint64_t cirn;
    uint32_t oaes;
};

enum vn_hcmd_state {
    VN_HCMD_FREE,
    VN_HCMD_TAKEN,   /* being filled in */
    VN_HCMD_FLIGHT,  /* sent, or about to be */
    VN_HCMD_SETTLED, /* answered, but a PDU of its own has not left yet */
};
enum vn_hcmd_data { VN_HCMD_NONE, VN_HCMD_IN, VN_HCMD_OUT };

/* What is known of a command at its end. */
enum vn_hcmd_fate {
    VN_FATE_DONE,    /* the target has answered: status and result */
    VN_FATE_NEVER,   /* lost, and it did not reach the target as a whole: it has not run and will not */
    VN_FATE_UNKNOWN, /* lost: it has run, runs, or will run, or never will */
};

/* A command: one slot of a queue. Its number and a count of uses make up its CID, so that answers to earlier uses
 * are told apart. The caller fills in sqe (but CID, flags and SGL) and the data, then sends. */
struct vn_hcmd {
    struct vn_tx capsule, data[2]; /* data: H2CData, one on its way and one behind it */
    struct vn_hq *queue;
    struct vn_hcmd *prev, *next; /* the queue's free list, or those in flight, oldest first */
    const struct iovec *iov;     /* the caller's: valid until done, or until vn_hcmd_forget */
    uint32_t nr_iov;
    uint32_t iov_offset; /* bytes of the iovecs to skip first */
    uint32_t bytes;
    uint32_t moved;      /* IN: bytes received; OUT: asked for by R2Ts */
    uint32_t left;       /* OUT: bytes that are with the kernel */
    struct {
        uint16_t ttag;
        uint32_t offset, bytes; /* what remains of it */
    } r2ts[2 * VN_ASSOC_R2TS]; /* a ring; larger than what the target may use, as data may have left before we know */
    uint8_t r2t_first, nr_r2ts;
    uint8_t state, direction, nr_txs; /* nr_txs: of ours in the connection's queue */
    bool in_capsule, reached, corrupt, forgotten, last_seen;
    bool steady; /* the iovecs are not the guest's: they outlive the command */
    uint16_t cid;
    uint64_t sent_ns;
    vn_status status; /* when done; DNR is the target's */
    uint64_t result;
    /* It has ended, and is free already: read what you need before you take another. */
    void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate);
    void *owner;
    /* the caller's own: */
    struct vn_hcmd *sibling;
    uint64_t offset, length;
    bool modifies;
    struct vn_dsm_range range; /* data that has no place elsewhere */
    struct iovec range_iov;
};

enum vn_hq_state { VN_HQ_DOWN, VN_HQ_OPENING, VN_HQ_IC, VN_HQ_CONNECT, VN_HQ_LIVE, VN_HQ_CLOSING };

struct vn_hq {
    struct vn_conn conn; /* first */
    struct vn_assoc *assoc;
    enum vn_hq_state state;
    uint16_t qid;
    uint32_t entries;    /* as told by Connect */
    uint32_t nr_alloc;   /* slots that there are */
    uint32_t nr_cmds;    /* slots in use: entries - 1 */
    bool flow;           /* the target insists on SQ flow control */
    uint32_t sq_tail, sq_head;
    uint32_t capsule_max, h2c_max; /* bytes: in a capsule, in an H2CData */
    struct vn_tx ic;
    struct vn_hcmd *cmds, *free;
    struct vn_hcmd *oldest, *newest;
    struct vn_hcmd *receiving; /* whose data is coming in */
    struct vn_hauth *auth;     /* NULL: this host has no key */
};

enum vn_assoc_state { VN_ASSOC_IDLE, VN_ASSOC_CONNECTING, VN_ASSOC_READY, VN_ASSOC_CLOSING };

/* In this order while CONNECTING. */
enum vn_assoc_step {
    VN_STEP_CONNECT,
    VN_STEP_CAP,
    VN_STEP_ENABLE,
    VN_STEP_WAIT,
    VN_STEP_ID_CTRL,
    VN_STEP_ID_NS,
    VN_STEP_ID_DESC,
    VN_STEP_ID_NVM,
    VN_STEP_QUEUES,
    VN_STEP_EVENTS,
    VN_STEP_ANA_LOG,
    VN_STEP_IO_QUEUES,
    VN_STEP_COUNT,
};

struct vn_assoc_ops {
    void (*ready)(struct vn_assoc *assoc);
    /* It ends: no more commands; those in flight come back one by one; then closed. assoc->why is a sentence. */
    void (*lost)(struct vn_assoc *assoc);
    void (*closed)(struct vn_assoc *assoc); /* IDLE: it may be started anew, or freed */
    /* The target has told that the namespace has changed (facts are new) or its ANA state (assoc->ana). */
    void (*ns_changed)(struct vn_assoc *assoc);
    void (*ana_changed)(struct vn_assoc *assoc);
};

struct vn_assoc {
    const struct vn_assoc_config *config;
    const struct vn_assoc_ops *ops;
    void *ctx;
    struct vn_reactor *reactor;
    struct vn_conn_group *group;
    struct sockaddr_storage address;
    char name[80]; /* of the address, for sentences */
    enum vn_assoc_state state;
    enum vn_assoc_step step;
    char why[VN_ASSOC_WHY_BYTES]; /* it has ended, or could not be made */
    int err;                      /* the same, positive errno */
    struct vn_hq *queues;         /* [0]: admin; config->nr_queues more */
    uint32_t nr_queues;           /* I/O queues granted */
    uint32_t nr_open;             /* connections that have not been closed */
    uint32_t nr_live;             /* I/O queues */
    uint32_t next_queue;
    struct vn_assoc_facts facts;
    enum vn_ana_state ana; /* of the namespace, here; OPTIMIZED where there is no ANA */
    uint64_t started_ns;
    uint64_t ready_ns;
    struct vn_timer tick;    /* keep alive and time limits, while there is a connection */
    struct vn_timer step_timer; /* waits for CSTS.RDY; and ends CLOSING from a turn of its own */
    uint32_t wait_ms;
    bool keep_alive_out;
    uint64_t keep_alive_ns; /* when the last one was sent */
    uint32_t cc;
    bool wants_changed, wants_ana, wants_ns; /* to be read */
    bool page_busy, log_busy;                /* an answer is on its way into it */
    struct vn_connect_data *connect_data;
    uint8_t *page;     /* of the steps, and of what is identified anew */
    uint8_t *log_page; /* of ANA and changed namespaces */
    struct iovec page_iov, log_iov, connect_iov;
};

/* Reactor or control thread: takes all memory but receive buffers. */
int vn_assoc_create(const struct vn_assoc_config *config, const struct vn_assoc_ops *ops, void *ctx,
                    struct vn_assoc **out);
void vn_assoc_free(struct vn_assoc *assoc); /* IDLE */
/* IDLE. Ends in ready, or in lost and closed. */
void vn_assoc_start(struct vn_assoc *assoc, struct vn_conn_group *group, const struct sockaddr_storage *address);
/* Ends it; lost at once if it was not ending, closed from a later turn. */
void vn_assoc_fail(struct vn_assoc *assoc, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));
void vn_assoc_set_state(struct vn_assoc *assoc, enum vn_assoc_state state);
void vn_assoc_check_closed(struct vn_assoc *assoc);
/* ANA is read again; ana_changed tells if it is other than before. */
void vn_assoc_read_ana(struct vn_assoc *assoc);

/* READY: a command slot of some I/O queue; NULL: all are taken. */
struct vn_hcmd *vn_assoc_get(struct vn_assoc *assoc);
/* What has been filled in goes: cmd->capsule.pdu.cmd.sqe, iov, bytes, direction, done. */
void vn_hcmd_send(struct vn_hcmd *cmd);

enum vn_forgotten {
    VN_FORGOT_UNSENT, /* not a byte had left: it is free, done is not called */
    VN_FORGOT_SENT,   /* all of it has left: done will be called, the iovecs are not touched any more */
    VN_FORGOT_PARTLY, /* some has left, and the rest needs the iovecs: the association must end for it to end */
};
/* The caller's memory goes away. */
enum vn_forgotten vn_hcmd_forget(struct vn_hcmd *cmd);

/* --- Between the files of the host --- */

/* host_queue.c */
int vn_hq_open(struct vn_hq *queue, uint32_t entries);
void vn_hq_close(struct vn_hq *queue, int err);
void vn_hq_set_state(struct vn_hq *queue, enum vn_hq_state state);
/* host_cmd.c: the life of a command; the PDUs of one, checked */
int vn_hq_alloc(struct vn_hq *queue, struct vn_assoc *assoc, uint16_t qid, uint32_t entries);
void vn_hq_free(struct vn_hq *queue);
struct vn_hcmd *vn_hq_get(struct vn_hq *queue);
/* One with the opcode and data given, from memory that outlives it; the caller adds dwords and sends. NULL: no slot. */
struct vn_hcmd *vn_hq_command(struct vn_hq *queue, uint8_t opcode, enum vn_hcmd_data direction, const struct iovec *iov,
                              uint32_t bytes, void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate));
struct vn_pdu_fault vn_hcmd_on_data(struct vn_hq *queue, const struct vn_pdu_data *data, struct vn_conn_sink *sink);
struct vn_pdu_fault vn_hcmd_on_data_end(struct vn_hq *queue, const struct vn_pdu_data *data, bool intact);
struct vn_pdu_fault vn_hcmd_on_r2t(struct vn_hq *queue, const struct vn_pdu_r2t *r2t);
struct vn_pdu_fault vn_hcmd_on_resp(struct vn_hq *queue, const struct vn_cqe *cqe);
void vn_hcmd_give_back_all(struct vn_hq *queue); /* its connection has ended */
void vn_hcmd_free_first(struct vn_hq *queue, uint32_t nr); /* none is in flight: that many slots are in use from now on */
/* host_setup.c: the steps from the first connection to READY */
void vn_setup_begin(struct vn_assoc *assoc);
void vn_setup_queue_live(struct vn_hq *queue);
void vn_setup_wait_over(struct vn_assoc *assoc);
void vn_setup_connect_queue(struct vn_hq *queue); /* the Connect command */
/* host_auth.c: from the answer to Connect until the queue is live */
int vn_hauth_alloc(struct vn_hq *queue);
void vn_hauth_free(struct vn_hq *queue);
void vn_setup_auth(struct vn_hq *queue, uint32_t result);
/* host_ident.c: what the target says of itself; false: it cannot be used, the association has failed */
bool vn_ident_ctrl(struct vn_assoc *assoc, const struct vn_id_ctrl *id);
bool vn_ident_ns(struct vn_assoc *assoc, const struct vn_id_ns *id);
void vn_ident_desc(struct vn_assoc *assoc, const uint8_t *page);
void vn_ident_nvm(struct vn_assoc *assoc, const struct vn_id_ctrl_nvm *id);
enum vn_ana_state vn_ident_ana(const struct vn_assoc *assoc, const uint8_t *page);
const char *vn_assoc_status_name(vn_status status); /* for a sentence */
/* host_event.c: keep alive, time limits, asynchronous events */
void vn_assoc_on_tick(struct vn_timer *timer);
void vn_assoc_arm_event(struct vn_assoc *assoc);
uint64_t vn_assoc_tick_ns(const struct vn_assoc *assoc);
struct vn_hcmd *vn_assoc_identify_command(struct vn_assoc *assoc, uint8_t cns, uint32_t nsid,
                                          void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate));
struct vn_hcmd *vn_assoc_log_command(struct vn_assoc *assoc, uint8_t log,
                                     void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate));

/* The same on the admin queue. */
struct vn_hcmd *vn_assoc_admin(struct vn_assoc *assoc, uint8_t opcode, enum vn_hcmd_data direction,
                               const struct iovec *iov, uint32_t bytes,
                               void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate));

#endif
