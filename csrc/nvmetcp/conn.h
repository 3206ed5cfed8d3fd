/* One NVMe/TCP connection as PDUs: framing, digests, data placement in, gathered sends out. Either role.
 * What PDUs mean is for its owner, the target's queue or the host's. Owner thread: the reactor.
 *
 * In: a header is checked (pdu.h) and its digest verified before ops->header sees it; that says where the data goes,
 * which is then received straight there when it is large, copied when it came along with the header.
 * Out: PDUs are queued and leave together: one sendmsg a turn for as many as fit.
 */
#ifndef VN_NVMETCP_CONN_H
#define VN_NVMETCP_CONN_H

#include "core/wait.h"
#include "nvmetcp/pdu.h"
#include "nvmetcp/stream.h"

#define VN_CONN_RX_BYTES (64u << 10) /* receive buffer: a burst of PDUs in one call */
#define VN_CONN_TX_IOVECS 512u       /* of one sendmsg */
#define VN_CONN_TURN_BYTES (1u << 20) /* received in one turn before other connections have theirs */
#define VN_CONN_GROUP_BYTES (2u << 20) /* received by all before what else is on the reactor has its turn */

struct vn_conn;
struct vn_conn_group;

/* Where the data of a PDU goes. The iovecs stay valid until ops->pdu. Filled in by ops->header. */
struct vn_conn_sink {
    const struct iovec *iov; /* NULL: throw the data away */
    uint32_t nr_iov;
    uint32_t offset; /* bytes of the iovecs to skip first */
};

struct vn_conn_ops {
    /* As of stream.h. After one with an error closed follows of itself. */
    void (*opened)(struct vn_conn *conn, int err);
    /* A checked header. Fills in *sink (zeroed before) when the PDU has data. The fault ends the connection.
     * For VN_PDU_CMD the header's data, if any, is in the capsule. */
    struct vn_pdu_fault (*header)(struct vn_conn *conn, const union vn_pdu *pdu, struct vn_conn_sink *sink);
    /* It is complete, with its data. intact: the data digest is right (or there is none). The fault as above. */
    struct vn_pdu_fault (*pdu)(struct vn_conn *conn, const union vn_pdu *pdu, bool intact);
    /* The connection has ended: the stream's end (err 0; -ECONNRESET within a PDU), an error (-errno), a fault of the
     * peer (-EPROTO, told to it by a termination request), or a termination request of the peer (-ECONNABORTED); of the
     * last two conn->fault says more. Once; nothing is called after it. Every vn_tx that was queued has been given
     * back by its sent before. The owner may free the connection from within. */
    void (*closed)(struct vn_conn *conn, int err);
};

/* A PDU to be sent. Embedded in what it belongs to; the caller's again when sent has been called. */
struct vn_tx {
    union vn_pdu pdu;        /* the header, as vn_pdu_head and the caller have filled it in */
    uint32_t hdgst;          /* room behind the longest header; conn.c puts the digest where it belongs */
    uint32_t ddgst;
    const struct iovec *iov; /* data, by reference: must not change until sent */
    uint32_t nr_iov;
    uint32_t iov_offset;     /* bytes of the iovecs to skip first */
    uint32_t data_bytes;
    void (*sent)(struct vn_tx *tx, bool whole); /* whole: all of it is with the kernel; else the connection has ended */
    uint64_t total, done;    /* bytes; conn.c's */
    struct vn_tx *next;
};

struct vn_conn {
    struct vn_stream stream; /* first */
    const struct vn_conn_ops *ops;
    struct vn_conn_group *group;
    struct vn_pdu_rules rules; /* of what comes in; the owner sets ready, digests and bounds after IC */
    bool tx_hdgst, tx_ddgst;
    uint8_t tx_align;          /* what the peer wants (HPDA or CPDA), bytes */
    uint8_t rx_phase;
    bool on_list, in_turn, paused, opening, closing, closed;
    bool terminating, term_queued, term_sent;
    int close_err;
    struct vn_pdu_fault fault; /* that we found, or that the peer has told us */
    uint8_t *rx;               /* VN_CONN_RX_BYTES */
    uint32_t rx_head, rx_tail;
    union vn_pdu rx_pdu;
    struct vn_conn_sink rx_sink;
    uint32_t rx_skip;          /* bytes of padding before the data */
    uint32_t rx_data, rx_done; /* bytes of this PDU's data: in all, and placed */
    uint32_t rx_iov, rx_iov_done; /* where the next byte of it goes */
    uint32_t rx_crc;
    struct vn_tx *tx_first, *tx_last;
    struct vn_tx term;         /* the termination request, with what follows it */
    uint8_t term_data[VN_PDU_TERM_DATA_MAX];
    struct iovec term_iov;
    struct vn_timer term_timer;
    uint64_t rx_ns, tx_ns;     /* when bytes last came, and last left; vn_reactor_now_ns */
    struct vn_conn *prev, *next; /* in the group's list of those that need a turn */
};

/* All connections that share a poller: those that are ready have a turn, the others cost nothing. */
struct vn_conn_group {
    struct vn_reactor *reactor;
    struct vn_poller poller;
    struct vn_conn *first, *last;
    uint32_t nr_conns, nr_listed;
    struct vn_wait wait; /* from when there was last something to do to when something comes */
    uint64_t wait_ns;
    bool asks;           /* its connections are a host's: nothing comes but what was asked for */
    uint32_t nr_awaited; /* answers that are about to come; the host's */
};

void vn_conn_group_init(struct vn_conn_group *group, struct vn_reactor *reactor);
void vn_conn_group_fini(struct vn_conn_group *group); /* no connection is left */

/* Either makes the receive buffer; -ENOMEM. Whatever is in conn is overwritten. An error: nothing has begun, and fd is
 * still the caller's. */
int vn_conn_accept(struct vn_conn *conn, struct vn_conn_group *group, const struct vn_conn_ops *ops,
                   enum vn_pdu_role role, int fd, struct vn_tls_context *tls);
int vn_conn_connect(struct vn_conn *conn, struct vn_conn_group *group, const struct vn_conn_ops *ops,
                    const struct sockaddr_storage *address, struct vn_tls_context *tls);
/* Queue a PDU. Header fields but the digests are filled in; leaves at the end of this turn at the latest. */
void vn_conn_send(struct vn_conn *conn, struct vn_tx *tx);
/* True: not a byte of it has left. It is taken out of the queue, and sent will not be called. */
bool vn_conn_unsend(struct vn_conn *conn, struct vn_tx *tx);
/* Whether data of this command is being received; with drop the rest of it goes nowhere, and its iovecs may go. */
bool vn_conn_receives(struct vn_conn *conn, uint16_t cccid, bool drop);
/* Reading stops, behind the PDU that has begun, while the owner has no room for another command; and goes on. */
void vn_conn_pause(struct vn_conn *conn);
void vn_conn_resume(struct vn_conn *conn);
/* Ends it: what is queued is given back, then closed(conn, err), from a later turn. Safe to repeat. */
void vn_conn_close(struct vn_conn *conn, int err);
/* The same after a termination request has left, or a second has passed. */
void vn_conn_fail(struct vn_conn *conn, struct vn_pdu_fault fault);

#endif
