/* The whole NVMe/TCP target behind socket pairs: hosts that speak well for a while, so that there are controllers, queues
 * and transfers, and then do not; namespaces, access states and permissions that change meanwhile; and sudden ends.
 * When all hosts have gone, so must everything that was theirs.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/util.h"
#include "fuzz_input.h"
#include "core/crc32c.h"
#include "nvmetcp/subsys.h"

#define NR_PEERS 4u
#define NR_NS 3u
#define SUBNQN "nqn.test:fuzz"
#define PDU_BYTES_MAX (64u << 10)

/* One connection, from the host's side. */
struct peer {
    int fd; /* 0: none */
    bool hdgst, ddgst;
    uint16_t next_cid;
    struct vn_pdu_r2t r2ts[8]; /* that came, the newest at nr_r2ts - 1 */
    uint32_t nr_r2ts;
    uint8_t in[PDU_BYTES_MAX];
    uint32_t in_bytes;
    uint32_t skip; /* the rest of a PDU that is larger than in */
};

static struct vn_reactor *reactor;
static struct vn_event_queue *events;
static struct vn_target *target;
static struct vn_subsys *subsys;
static struct vn_ns *spaces[NR_NS + 1];
static struct peer peers[NR_PEERS];
static uint16_t cntlids[4]; /* of the last controllers */
static uint32_t nr_cntlids;
static struct input program;
static bool step_on;
static uint8_t filler[PDU_BYTES_MAX];

/* --- What a host sends --- */
static void send_bytes(struct peer *peer, const void *bytes, size_t nr) {
    if (peer->fd && send(peer->fd, bytes, nr, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        MUST(errno == EAGAIN || errno == EPIPE || errno == ECONNRESET);
}

static uint32_t crc_of(const void *bytes, size_t nr) {
    return vn_crc32c_end(vn_crc32c(VN_CRC32C_INIT, bytes, nr));
}

/* A PDU as it should be; flaw spoils a byte of it. */
static void send_pdu(struct peer *peer, union vn_pdu *pdu, const void *data, uint32_t data_bytes, struct input *input,
                     bool flaw) {
    static uint8_t out[sizeof(*pdu) + 8 + PDU_BYTES_MAX];
    uint32_t hlen = pdu->common.hlen, at = hlen;
    memcpy(out, pdu, hlen);
    if (peer->hdgst && pdu->common.type != VN_PDU_IC_REQ && pdu->common.type != VN_PDU_H2C_TERM) {
        uint32_t crc = crc_of(out, hlen);
        memcpy(out + at, &crc, 4);
        at += 4;
    }
    if (data_bytes) {
        memcpy(out + at, data, data_bytes);
        at += data_bytes;
        if (peer->ddgst) {
            uint32_t crc = crc_of(data, data_bytes);
            memcpy(out + at, &crc, 4);
            at += 4;
        }
    }
    if (flaw)
        out[take(input, 2) % at] = take8(input);
    send_bytes(peer, out, at);
}

static void head(struct peer *peer, union vn_pdu *pdu, enum vn_pdu_type type, uint8_t flags, uint32_t data_bytes) {
    vn_pdu_head(&pdu->common, type, flags, peer->hdgst, peer->ddgst, 4, data_bytes);
}

static void send_ic_req(struct peer *peer, struct input *input, bool flaw) {
    union vn_pdu pdu = {0};
    uint8_t shape = take8(input);
    vn_pdu_head(&pdu.common, VN_PDU_IC_REQ, 0, false, false, 4, 0);
    pdu.ic_req.digest = shape & 3;
    pdu.ic_req.hpda = shape & 4 ? take8(input) % 32 : 0;
    pdu.ic_req.maxr2t = shape >> 3 & 3;
    send_pdu(peer, &pdu, NULL, 0, input, flaw);
    peer->hdgst = shape & VN_IC_DIGEST_HEADER;
    peer->ddgst = shape & VN_IC_DIGEST_DATA;
}

static void send_capsule(struct peer *peer, struct vn_sqe *sqe, const void *data, uint32_t bytes, struct input *input,
                         bool flaw) {
    union vn_pdu pdu = {0};
    sqe->flags |= VN_PSDT_SGL_MPTR_CONTIG << 6;
    if (bytes)
        sqe->sgl1 = (struct vn_sgl_desc){.length = bytes, .type = VN_SGL_IN_CAPSULE};
    head(peer, &pdu, VN_PDU_CMD, 0, bytes);
    pdu.cmd.sqe = *sqe;
    send_pdu(peer, &pdu, data, bytes, input, flaw);
}

static void send_connect(struct peer *peer, struct input *input, bool flaw) {
    static struct vn_connect_data data;
    uint8_t shape = take8(input);
    uint16_t qid = shape & 1 ? 0 : take8(input) % 4, entries = shape & 2 ? 7 : (uint16_t)take(input, 2) % 64;
    data = (struct vn_connect_data){.cntlid = qid && nr_cntlids ? cntlids[shape % nr_cntlids] : VN_CNTLID_DYNAMIC};
    snprintf(data.subnqn, sizeof(data.subnqn), "%s", (shape & 0x70) == 0x70 ? VN_DISCOVERY_NQN : SUBNQN);
    snprintf(data.hostnqn, sizeof(data.hostnqn), "nqn.test:host%u", shape >> 7);
    struct vn_sqe sqe = {.opcode = VN_ADMIN_FABRICS, .nsid = VN_FCTYPE_CONNECT, .cdw10 = (uint32_t)qid << 16,
                         .cdw11 = entries | (shape & 8 ? (uint32_t)VN_CATTR_NO_SQ_FLOW << 16 : 0),
                         .cdw12 = shape & 4 ? 100 : 0};
    send_capsule(peer, &sqe, &data, sizeof(data), input, flaw);
}

static void send_enable(struct peer *peer, struct input *input, bool flaw) {
    static const uint64_t values[] = {VN_CC_EN, VN_CC_EN, 0, VN_CC_EN | 1u << 14, VN_CC_EN | 2u << 14};
    struct vn_sqe sqe = {.opcode = VN_ADMIN_FABRICS, .nsid = VN_FCTYPE_PROPERTY_SET, .cdw11 = VN_REG_CC};
    sqe.cdw12 = (uint32_t)take_of(input, values, VN_ARRAY_SIZE(values), 4);
    sqe.cid = ++peer->next_cid;
    send_capsule(peer, &sqe, NULL, 0, input, flaw);
}

static const uint64_t admin_opcodes[] = {VN_ADMIN_GET_LOG_PAGE, VN_ADMIN_IDENTIFY, VN_ADMIN_ABORT, VN_ADMIN_GET_FEATURES,
                                         VN_ADMIN_SET_FEATURES, VN_ADMIN_ASYNC_EVENT, VN_ADMIN_KEEP_ALIVE,
                                         VN_ADMIN_CROSS_RESET, VN_ADMIN_FABRICS};
static const uint64_t io_opcodes[] = {VN_IO_READ, VN_IO_WRITE, VN_IO_WRITE, VN_IO_FLUSH, VN_IO_COMPARE, VN_IO_WRITE_ZEROES,
                                      VN_IO_DSM};
static const uint64_t logs[] = {VN_LOG_ANA, VN_LOG_DISCOVERY, VN_LOG_SMART, VN_LOG_ERROR, VN_LOG_CHANGED_NS, VN_LOG_EFFECTS};

/* A command whose data pointer is mostly what it needs. */
static void send_command(struct peer *peer, struct input *input, bool admin, bool flaw) {
    uint8_t shape = take8(input);
    struct vn_sqe sqe = {.nsid = 1 + shape % NR_NS, .cid = shape & 64 ? take8(input) : ++peer->next_cid};
    sqe.opcode = (uint8_t)(admin ? take_of(input, admin_opcodes, VN_ARRAY_SIZE(admin_opcodes), 1)
                                 : take_of(input, io_opcodes, VN_ARRAY_SIZE(io_opcodes), 1));
    uint32_t bytes = 512u * (1 + take8(input) % (shape & 32 ? 255 : 16));
    sqe.cdw12 = bytes / 512 - 1;
    if (admin) {
        sqe.cdw10 = shape & 16 ? (uint32_t)take(input, 4) : take8(input);
        bytes = VN_PAGE_SIZE;
        if (sqe.opcode == VN_ADMIN_GET_LOG_PAGE)
            sqe.cdw10 = (uint32_t)logs[shape % VN_ARRAY_SIZE(logs)] | (bytes / 4 - 1) << 16;
        else if (sqe.opcode == VN_ADMIN_CROSS_RESET && nr_cntlids)
            sqe.cdw10 = cntlids[shape % nr_cntlids] | (uint32_t)target->last_ciu << 16;
        else if (sqe.opcode == VN_ADMIN_FABRICS)
            sqe.nsid = take8(input) % 16;
        sqe.cdw12 = 0;
    } else if (sqe.opcode == VN_IO_DSM) {
        sqe.cdw10 = bytes / 512 - 1;
        sqe.cdw11 = VN_DSM_AD;
        bytes = (bytes / 512) * 16;
    } else {
        sqe.cdw10 = take8(input) * 8;
    }
    if (shape & 128)
        bytes = (uint32_t)take(input, 3);
    bool from_host = (sqe.opcode & 3) == 1;
    if (from_host && bytes <= VN_IOCCSZ_BYTES && shape & 8) {
        send_capsule(peer, &sqe, filler, bytes, input, flaw);
        return;
    }
    sqe.sgl1 = (struct vn_sgl_desc){.length = bytes, .type = VN_SGL_TRANSPORT};
    send_capsule(peer, &sqe, NULL, 0, input, flaw);
}

/* Answers the newest R2T, or a part of it; or what was never asked for. */
static void send_data(struct peer *peer, struct input *input, bool flaw) {
    union vn_pdu pdu = {0};
    uint8_t shape = take8(input);
    struct vn_pdu_r2t *r2t = peer->nr_r2ts ? &peer->r2ts[peer->nr_r2ts - 1] : NULL;
    struct vn_pdu_r2t made_up = {.r2tl = 512, .ttag = shape};
    if (!r2t)
        r2t = &made_up;
    uint32_t bytes = (uint32_t)vn_min_u64(r2t->r2tl, shape & 1 ? 1024u * (1 + take8(input) % 32) : PDU_BYTES_MAX);
    bool last = bytes == r2t->r2tl;
    head(peer, &pdu, VN_PDU_H2C_DATA, last ? VN_PDU_F_LAST : 0, bytes);
    pdu.data.cccid = r2t->cccid;
    pdu.data.ttag = r2t->ttag;
    pdu.data.datao = r2t->r2to + (shape & 0xc0 ? 0 : take8(input));
    pdu.data.datal = bytes;
    send_pdu(peer, &pdu, filler, bytes, input, flaw);
    r2t->r2to += bytes;
    r2t->r2tl -= bytes;
    if (last && peer->nr_r2ts)
        peer->nr_r2ts--;
}

/* --- What a host receives --- */
static void take_in_pdu(struct peer *peer, const union vn_pdu *pdu, uint32_t hlen) {
    if (pdu->common.type == VN_PDU_R2T && hlen == sizeof(pdu->r2t) && peer->nr_r2ts < VN_ARRAY_SIZE(peer->r2ts)) {
        MUST(pdu->r2t.r2tl && pdu->r2t.r2to + pdu->r2t.r2tl <= 1u << 20);
        peer->r2ts[peer->nr_r2ts++] = pdu->r2t;
    }
    if (pdu->common.type == VN_PDU_RESP && pdu->resp.cqe.cid == 0 && !pdu->resp.cqe.status && pdu->resp.cqe.dw0)
        cntlids[nr_cntlids < VN_ARRAY_SIZE(cntlids) ? nr_cntlids++ : 3] = (uint16_t)pdu->resp.cqe.dw0; /* of a Connect, perhaps */
}

static void receive(struct peer *peer) {
    ssize_t n = recv(peer->fd, peer->in + peer->in_bytes, sizeof(peer->in) - peer->in_bytes, MSG_DONTWAIT);
    if (n <= 0)
        return;
    peer->in_bytes += (uint32_t)n;
    uint32_t at = (uint32_t)vn_min_u64(peer->skip, peer->in_bytes);
    peer->skip -= at;
    while (peer->in_bytes - at >= sizeof(struct vn_pdu_common)) {
        union vn_pdu pdu = {0};
        memcpy(&pdu, peer->in + at, vn_min_u64(sizeof(pdu), peer->in_bytes - at));
        uint32_t hlen = pdu.common.hlen, plen = pdu.common.plen;
        MUST(hlen >= sizeof(struct vn_pdu_common) && plen >= hlen && plen <= (1u << 20) + 256);
        if (plen > sizeof(peer->in)) {
            peer->skip = plen - (peer->in_bytes - at);
            at = peer->in_bytes;
            break;
        }
        if (plen > peer->in_bytes - at)
            break;
        take_in_pdu(peer, &pdu, hlen);
        at += plen;
    }
    peer->in_bytes -= at;
    memmove(peer->in, peer->in + at, peer->in_bytes);
}

/* --- On the reactor --- */
static void open_peer(struct peer *peer) {
    static const struct sockaddr_storage nowhere;
    int fds[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    *peer = (struct peer){.fd = fds[0]};
    vn_tqueue_accept(target, fds[1], 1, &nowhere);
}

static void close_peer(struct peer *peer) {
    close(peer->fd);
    peer->fd = 0;
}

static void change_ns(uint32_t nsid) {
    struct vn_ns_chan *nsc;
    if (!subsys->chans[nsid])
        MUST(vn_subsys_open_ns(subsys, spaces[nsid], nsid, (uint8_t)nsid, &nsc) == 0);
    else if (vn_subsys_close_ns(subsys, nsid, &nsc) == 0)
        free(nsc);
}

static void change_target(uint8_t what) {
    static const enum vn_ana_state states[] = {VN_ANA_OPTIMIZED, VN_ANA_NON_OPTIMIZED, VN_ANA_INACCESSIBLE, VN_ANA_CHANGE};
    switch (what % 4) {
    case 0:
    case 1:
        change_ns(1 + what / 4 % NR_NS);
        break;
    case 2:
        vn_subsys_set_state(subsys, what & 64 ? 1 : 0, 1 + what / 4 % NR_NS, states[what / 16 % 4]);
        break;
    default:
        vn_target_changed(target);
    }
}

/* Answers false when the reactor shall turn. */
static bool one_op(struct input *input) {
    uint8_t op = take8(input), arg = take8(input);
    struct peer *peer = &peers[op / 16 % NR_PEERS];
    bool flaw = op >= 240;
    if (!peer->fd) {
        open_peer(peer);
        send_ic_req(peer, input, flaw);
        return arg & 1;
    }
    switch (op % 16) {
    case 0:
        send_ic_req(peer, input, flaw);
        break;
    case 1: case 2:
        send_connect(peer, input, flaw);
        return false;
    case 3: case 4:
        send_enable(peer, input, flaw);
        return false;
    case 5: case 6:
        send_command(peer, input, true, flaw);
        break;
    case 7: case 8: case 9:
        send_command(peer, input, false, flaw);
        break;
    case 10: case 11:
        receive(peer);
        send_data(peer, input, flaw);
        break;
    case 12:
        receive(peer);
        return false;
    case 13:
        if (arg < 64)
            close_peer(peer);
        else if (arg < 96)
            shutdown(peer->fd, SHUT_WR);
        else
            change_target(arg);
        break;
    case 14: {
        uint8_t raw[64];
        take_bytes(input, raw, 1 + arg % sizeof(raw));
        send_bytes(peer, raw, 1 + arg % sizeof(raw));
        break;
    }
    default:
        return false;
    }
    return true;
}

static int step(void *unused) {
    (void)unused;
    bool go_on = true;
    while (program.left && go_on)
        go_on = one_op(&program);
    step_on = program.left > 0;
    return 0;
}

static int hang_up(void *unused) {
    (void)unused;
    for (uint32_t i = 0; i < NR_PEERS; i++) {
        if (peers[i].fd)
            close_peer(&peers[i]);
    }
    return 0;
}

/* -EAGAIN until all that was the hosts' has gone. */
static int all_gone(void *unused) {
    (void)unused;
    if (target->nr_connections || target->nr_ctrls || target->busy_first)
        return -EAGAIN;
    MUST(!target->arena_bytes && !target->nr_half_open && !target->queues && !target->ctrls && !target->group.nr_conns);
    for (uint32_t nsid = 1; nsid <= NR_NS; nsid++) {
        if (subsys->chans[nsid] && subsys->chans[nsid]->closing)
            change_ns(nsid);
        MUST(!subsys->chans[nsid] || !subsys->chans[nsid]->inflight);
        if (!subsys->chans[nsid])
            change_ns(nsid);
        vn_subsys_set_state(subsys, 0, nsid, VN_ANA_OPTIMIZED);
    }
    return 0;
}

static int start(void *unused) {
    (void)unused;
    MUST(vn_target_start(target) == 0);
    MUST(vn_subsys_enter(subsys) == 0);
    for (uint32_t nsid = 1; nsid <= NR_NS; nsid++)
        change_ns(nsid);
    return 0;
}

/* --- The other thread --- */
static void setup(void) {
    static const struct vn_ns_opts opts[] = {
        {.backend = "mem", .size = 1 << 20, .block_size = 512},
        {.backend = "null", .size = 1 << 20, .block_size = 512, .delay_us = 300},
        {.backend = "mem", .size = 1 << 20, .block_size = 4096, .flags = VN_NS_READ_ONLY},
    };
    const struct vn_target_opts target_opts = {.max_half_open = 3, .max_ctrls = 3};
    const struct vn_subsys_opts subsys_opts = {.nqn = SUBNQN, .serial = "FUZZ", .flags = VN_SUBSYS_ANY_HOST,
                                               .max_queues = 3, .max_entries = 32};
    char error[256];
    MUST(vn_event_queue_create(&events) == 0);
    MUST(vn_reactor_start(0, 200, &reactor) == 0);
    for (uint32_t i = 0; i < NR_NS; i++)
        MUST(vn_ns_create(&opts[i], &spaces[i + 1], error, sizeof(error)) == 0);
    MUST(vn_target_new(&target_opts, reactor, events, 1, &target) == 0);
    MUST(vn_subsys_new(target, &subsys_opts, VN_CNTRLTYPE_IO, &subsys) == 0);
    MUST(vn_reactor_call(reactor, start, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct vn_event told[64];
    if (!reactor)
        setup();
    program = (struct input){data, size};
    nr_cntlids = 0;
    for (step_on = true; step_on;)
        MUST(vn_reactor_call(reactor, step, NULL) == 0);
    MUST(vn_reactor_call(reactor, hang_up, NULL) == 0);
    while (vn_reactor_call(reactor, all_gone, NULL))
        ;
    while (vn_event_drain(events, told, 64))
        ;
    return 0;
}
