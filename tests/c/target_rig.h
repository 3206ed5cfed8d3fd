/* A target on a reactor of its own, and hosts that speak to it over loopback with blocking sockets. A namespace may hold
 * what it is given for as long as the test likes.
 */
#ifndef TARGET_RIG_H
#define TARGET_RIG_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "api.h"
#include "core/util.h"
#include "nvmetcp/subsys.h"
#include "vn_test.h"

#define RIG_SUBNQN "nqn.2026-11.test:target"
#define RIG_HOSTNQN "nqn.2026-11.test:host"
#define RIG_NS_BYTES (8u << 20)
#define RIG_HELD_MAX 512u
#define RIG_SGL_FLAGS (VN_PSDT_SGL_MPTR_CONTIG << 6)

/* --- A backend that holds commands; reactor's, but for `holds` --- */
struct rig_holder {
    struct vn_backend backend;
    bool busy, obeys; /* takes nothing; ends what is cancelled */
    struct vn_req *held[RIG_HELD_MAX];
    uint32_t nr_held;
};

struct target_rig {
    vn_runtime *rt;
    vn_target *target;
    vn_subsys *subsys;
    vn_ns *memory, *holding; /* NSIDs 1 and 2 */
    struct rig_holder *holder;
    uint16_t port;
};

static inline void holder_close(struct vn_backend *backend) {
    free(backend);
}

static inline int holder_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    *out = calloc(1, sizeof(**out));
    **out = (struct vn_chan){.backend = backend, .reactor = reactor};
    return 0;
}

static inline void holder_chan_close(struct vn_chan *chan) {
    free(chan);
}

static inline enum vn_submit holder_submit(struct vn_chan *chan, struct vn_req *req) {
    struct rig_holder *holder = vn_container_of(chan->backend, struct rig_holder, backend);
    if (holder->busy)
        return VN_BUSY;
    CHECK(holder->nr_held < RIG_HELD_MAX);
    holder->held[holder->nr_held++] = req;
    return VN_TAKEN;
}

static const struct vn_backend_ops holder_ops = {
    .name = "holder", .close = holder_close, .chan_open = holder_chan_open, .chan_close = holder_chan_close,
    .submit = holder_submit,
};

/* Everything that is held ends now, the data of reads and writes touched to the last byte. */
static inline int holder_release(void *arg) {
    struct rig_holder *holder = arg;
    while (holder->nr_held) {
        struct vn_req *req = holder->held[--holder->nr_held];
        for (uint32_t i = 0; i < req->nr_iov && req->op == VN_OP_READ; i++)
            memset(req->iov[i].iov_base, 0xab, req->iov[i].iov_len);
        vn_req_complete(req, VN_SC_SUCCESS);
    }
    return 0;
}

static inline int holder_count(void *arg) {
    return (int)((struct rig_holder *)arg)->nr_held;
}

#define RIG_WAIT(condition)                                             \
    do {                                                                \
        for (int ms_ = 0; !(condition); ms_++) {                        \
            CHECK(ms_ < 10000 && #condition);                           \
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);    \
        }                                                               \
    } while (0)

static inline uint32_t rig_nr_held(struct target_rig *rig) {
    return (uint32_t)vn_reactor_call(rig->target->reactor, holder_count, rig->holder);
}

static inline void rig_release(struct target_rig *rig) {
    vn_reactor_call(rig->target->reactor, holder_release, rig->holder);
}

static inline struct vn_target_info rig_info(struct target_rig *rig) {
    struct vn_target_info info;
    CHECK_EQ(vn_target_get_info(rig->target, &info), 0);
    return info;
}

static inline void rig_open(struct target_rig *rig, const struct vn_target_opts *opts) {
    *rig = (struct target_rig){0};
    CHECK_EQ(vn_runtime_create(&(struct vn_runtime_opts){.poll_us = 20}, &rig->rt), 0);
    CHECK_EQ(vn_target_create(rig->rt, opts, &rig->target), 0);
    uint32_t id;
    CHECK_EQ(vn_target_listen(rig->target, &(struct vn_listen_opts){.host = "127.0.0.1"}, &id, &rig->port), 0);
    struct vn_subsys_opts subsys = {.nqn = RIG_SUBNQN, .serial = "T", .flags = VN_SUBSYS_ANY_HOST};
    CHECK_EQ(vn_target_add_subsys(rig->target, &subsys, &rig->subsys), 0);
    struct vn_ns_opts memory = {.backend = "mem", .size = RIG_NS_BYTES, .block_size = 512};
    CHECK_EQ(vn_ns_open(rig->rt, &memory, &rig->memory), 0);
    CHECK_EQ(vn_subsys_add_ns(rig->subsys, rig->memory, 1, 0), 0);
    rig->holder = calloc(1, sizeof(*rig->holder));
    rig->holding = calloc(1, sizeof(*rig->holding));
    CHECK(rig->holder && rig->holding);
    rig->holder->backend = (struct vn_backend){.ops = &holder_ops, .size = RIG_NS_BYTES, .block_min = 512};
    *rig->holding = (struct vn_ns){.backend = &rig->holder->backend, .nr_blocks = RIG_NS_BYTES / 512, .block_shift = 9};
    CHECK_EQ(vn_subsys_add_ns(rig->subsys, rig->holding, 2, 0), 0);
}

/* All that hosts have left behind is gone, in its own time. */
static inline void rig_close(struct target_rig *rig) {
    RIG_WAIT(rig_info(rig).controllers == 0 && rig_info(rig).connections == 0);
    CHECK_EQ(rig_info(rig).resident_bytes_max, 0);
    CHECK_EQ(vn_target_destroy(rig->target), 0);
    CHECK_EQ(vn_ns_close(rig->memory), 0);
    CHECK(!vn_ns_is_attached(rig->holding));
    vn_ns_free(rig->holding);
    CHECK_EQ(vn_runtime_destroy(rig->rt), 0);
}

/* --- A host's connection, without digests --- */
struct peer {
    int fd;
    uint16_t next_cid;
    uint32_t result; /* of the last completion */
};

static inline void peer_write(struct peer *peer, const void *data, size_t bytes) {
    CHECK_EQ(send(peer->fd, data, bytes, MSG_NOSIGNAL), bytes);
}

/* False: the connection has ended. */
static inline bool peer_read(struct peer *peer, void *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = recv(peer->fd, (uint8_t *)data + done, bytes - done, 0);
        CHECK(n >= 0 || errno == ECONNRESET); /* the time limit of the socket is a failure */
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

/* One PDU; its data into data, which is large enough. */
static inline bool peer_pdu(struct peer *peer, union vn_pdu *pdu, void *data) {
    if (!peer_read(peer, pdu, sizeof(pdu->common)))
        return false;
    CHECK(pdu->common.hlen <= sizeof(*pdu));
    if (!peer_read(peer, (uint8_t *)pdu + sizeof(pdu->common), pdu->common.hlen - sizeof(pdu->common)))
        return false;
    uint8_t term[VN_PDU_TERM_DATA_MAX];
    bool is_term = pdu->common.type == VN_PDU_C2H_TERM;
    return peer_read(peer, is_term ? term : data, pdu->common.plen - pdu->common.hlen);
}

static inline struct peer peer_open(const struct target_rig *rig) {
    struct peer peer = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(rig->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = 20};
    setsockopt(peer.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    CHECK_EQ(connect(peer.fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return peer;
}

static inline void peer_initialize(struct peer *peer) {
    struct vn_pdu_ic_req req = {.common = {VN_PDU_IC_REQ, 0, sizeof(req), 0, sizeof(req)}, .maxr2t = 3};
    union vn_pdu pdu;
    peer_write(peer, &req, sizeof(req));
    CHECK(peer_pdu(peer, &pdu, NULL));
    CHECK_EQ(pdu.common.type, VN_PDU_IC_RESP);
}

/* Sends a command with data in the capsule; answers its CID. */
static inline uint16_t peer_send(struct peer *peer, struct vn_sqe sqe, const void *data, uint32_t bytes) {
    struct {
        struct vn_pdu_cmd cmd;
        uint8_t data[VN_IOCCSZ_BYTES];
    } capsule = {.cmd = {{VN_PDU_CMD, 0, sizeof(capsule.cmd), bytes ? sizeof(capsule.cmd) : 0,
                          (uint32_t)sizeof(capsule.cmd) + bytes}, sqe}};
    capsule.cmd.sqe.flags = RIG_SGL_FLAGS;
    capsule.cmd.sqe.cid = peer->next_cid++;
    if (bytes) {
        capsule.cmd.sqe.sgl1 = (struct vn_sgl_desc){.length = bytes, .type = VN_SGL_IN_CAPSULE};
        memcpy(capsule.data, data, bytes);
    }
    peer_write(peer, &capsule, sizeof(capsule.cmd) + bytes);
    return capsule.cmd.sqe.cid;
}

/* The next completion; data of a read on the way to it. Answers the status, without DNR and More. */
static inline vn_status peer_done(struct peer *peer, uint16_t *cid, void *data) {
    union vn_pdu pdu;
    do
        CHECK(peer_pdu(peer, &pdu, data));
    while (pdu.common.type == VN_PDU_C2H_DATA);
    CHECK_EQ(pdu.common.type, VN_PDU_RESP);
    *cid = pdu.resp.cqe.cid;
    peer->result = pdu.resp.cqe.dw0;
    return VN_STATUS_CODE(pdu.resp.cqe.status >> 1);
}

static inline vn_status peer_command(struct peer *peer, struct vn_sqe sqe, const void *data, uint32_t bytes) {
    uint16_t sent = peer_send(peer, sqe, data, bytes), cid;
    vn_status status = peer_done(peer, &cid, NULL);
    CHECK_EQ(cid, sent);
    return status;
}

static inline struct vn_sqe peer_fabrics(uint8_t type) {
    return (struct vn_sqe){.opcode = VN_ADMIN_FABRICS, .nsid = type};
}

static const char *peer_subnqn = RIG_SUBNQN, *peer_hostnqn = RIG_HOSTNQN; /* of those that connect next */

/* cntlid VN_CNTLID_DYNAMIC: the admin queue. Answers the status; peer->result is the CNTLID. */
static inline vn_status peer_connect(struct peer *peer, uint16_t qid, uint16_t cntlid, uint32_t entries, uint32_t kato_ms) {
    struct vn_connect_data data = {.hostid = {1}, .cntlid = cntlid};
    snprintf(data.subnqn, sizeof(data.subnqn), "%s", peer_subnqn);
    snprintf(data.hostnqn, sizeof(data.hostnqn), "%s", peer_hostnqn);
    struct vn_sqe sqe = peer_fabrics(VN_FCTYPE_CONNECT);
    sqe.cdw10 = (uint32_t)qid << 16;
    sqe.cdw11 = entries - 1;
    sqe.cdw12 = kato_ms;
    return peer_command(peer, sqe, &data, sizeof(data));
}

static inline void peer_enable(struct peer *admin) {
    struct vn_sqe sqe = peer_fabrics(VN_FCTYPE_PROPERTY_SET);
    sqe.cdw11 = VN_REG_CC;
    sqe.cdw12 = VN_CC_EN | 6u << 16 | 4u << 20;
    CHECK_EQ(peer_command(admin, sqe, NULL, 0), VN_SC_SUCCESS);
}

/* A host with an admin queue, enabled. */
static inline struct peer host_open(const struct target_rig *rig, uint32_t kato_ms, uint16_t *cntlid) {
    struct peer admin = peer_open(rig);
    peer_initialize(&admin);
    CHECK_EQ(peer_connect(&admin, 0, VN_CNTLID_DYNAMIC, 32, kato_ms), VN_SC_SUCCESS);
    *cntlid = (uint16_t)admin.result;
    peer_enable(&admin);
    return admin;
}

static inline struct peer host_queue(const struct target_rig *rig, uint16_t cntlid, uint16_t qid, uint32_t entries) {
    struct peer queue = peer_open(rig);
    peer_initialize(&queue);
    CHECK_EQ(peer_connect(&queue, qid, cntlid, entries, 0), VN_SC_SUCCESS);
    return queue;
}

/* A read or write of so many bytes at block 0, its data not in the capsule. */
static inline struct vn_sqe peer_rw(uint8_t opcode, uint32_t nsid, uint32_t bytes) {
    return (struct vn_sqe){
        .opcode = opcode,
        .nsid = nsid,
        .sgl1 = {.length = bytes, .type = VN_SGL_TRANSPORT},
        .cdw12 = bytes / 512 - 1,
    };
}

#endif
