/* A target for the test_forward* programs: threads with blocking sockets, nothing of ours but the structures. Obeys the
 * specification, unless told otherwise; in manual mode I/O commands are left to the test, which answers them, or lies.
 */
#ifndef FAKE_TARGET_H
#define FAKE_TARGET_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/fabrics.h"
#include "core/util.h"
#include "vn_test.h"

#define FAKE_BLOCK 512u
#define FAKE_BLOCKS 8192u
#define FAKE_CONNS 64u
#define FAKE_CMDS 512u
#define FAKE_DATA (1u << 20)
#define FAKE_WAIT_S 20 /* nothing takes that long: the test has failed */

struct fake;

struct fake_conn {
    struct fake *fake;
    pthread_t thread;
    int fd;
    bool used, gone; /* gone: its thread has ended */
    bool live;       /* Connect has succeeded */
    uint16_t qid, cntlid;
    uint16_t entries, head; /* of the submission queue */
    pthread_mutex_t send_lock;
};

enum fake_cmd_state { FAKE_FREE, FAKE_HELD, FAKE_TAKEN };

/* An I/O command that came, with its data as far as it has come. Owner: the fake's lock. */
struct fake_cmd {
    enum fake_cmd_state state;
    struct fake_conn *conn;
    struct vn_sqe sqe;
    bool in_capsule;
    uint8_t *data;
    uint32_t bytes, got;
    uint64_t number; /* in the order of arrival */
    bool answers_itself; /* when its data is there */
};

struct fake {
    int fd;
    uint16_t port;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;
    struct fake_conn conns[FAKE_CONNS];
    struct fake_cmd cmds[FAKE_CMDS];
    uint8_t *disk;
    uint64_t nr_arrived;
    /* what it says of itself; set while no connection is made */
    uint8_t uuid[16];
    uint64_t nr_blocks;
    uint8_t lbads, mdts;
    uint32_t ioccsz;
    uint32_t maxh2c;
    uint16_t oncs;
    bool flow;            /* insists on SQ flow control */
    bool has_ccr;
    bool ccr_not_done;    /* answers without the DONE bit */
    bool has_ana, has_cache;
    enum vn_ana_state ana;
    uint16_t connect_status;
    uint32_t connect_result;
    bool mute;            /* takes connections and says nothing */
    bool deaf;            /* no answer to anything, on all connections */
    uint32_t bends;       /* one PDU of so many is sent wrong, in each of five ways; 0: none */
    bool has_bent;
    struct vn_test_random dice;
    pthread_mutex_t dice_lock;
    /* what happens */
    bool manual;          /* I/O commands are for the test */
    uint16_t io_status;   /* of I/O commands, when not manual */
    uint16_t next_cntlid;
    uint32_t nr_ccr, nr_keep_alive, nr_io, nr_admin_connects;
    uint16_t ccr_cntlid;
    uint64_t ccr_cirn;
    int event_fd_conn;    /* index of the newest association's connection while that waits for an event, -1: it does not */
    uint16_t event_cid;
};

static inline void fake_read(struct fake_conn *conn, void *buf, size_t bytes, bool *ok) {
    uint8_t *at = buf;
    while (*ok && bytes) {
        ssize_t n = recv(conn->fd, at, bytes, 0);
        if (n <= 0)
            *ok = n < 0 && errno == EINTR;
        else
            at += n, bytes -= (size_t)n;
    }
}

static inline void fake_write(struct fake_conn *conn, const void *buf, size_t bytes) {
    const uint8_t *at = buf;
    while (bytes) {
        ssize_t n = send(conn->fd, at, bytes, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return;
        if (n > 0)
            at += n, bytes -= (size_t)n;
    }
}

/* Now and then a byte of the header is another one, or the PDU comes twice, or not at all, or the connection ends in it. */
static inline void fake_bend(struct fake_conn *conn, uint8_t *pdu, size_t bytes) {
    struct fake *fake = conn->fake;
    pthread_mutex_lock(&fake->dice_lock);
    uint64_t draw = fake->bends ? vn_test_below(&fake->dice, fake->bends) : 5, where = vn_test_below(&fake->dice, bytes);
    uint8_t what = (uint8_t)vn_test_draw(&fake->dice);
    pthread_mutex_unlock(&fake->dice_lock);
    if (draw == 0)
        pdu[where] = what;
    else if (draw == 1)
        pdu[where] ^= (uint8_t)(1u << what % 8);
    else if (draw == 2)
        fake_write(conn, pdu, bytes);
    else if (draw == 3)
        fake_write(conn, pdu, where);
    else if (draw == 4)
        shutdown(conn->fd, SHUT_RDWR);
}

static inline void fake_send(struct fake_conn *conn, const void *pdu, size_t bytes, const void *data, size_t data_bytes) {
    uint8_t bent[sizeof(union vn_pdu)];
    pthread_mutex_lock(&conn->send_lock);
    if (conn->fake->bends && bytes <= sizeof(bent)) {
        memcpy(bent, pdu, bytes);
        fake_bend(conn, bent, bytes);
        pdu = bent;
    }
    fake_write(conn, pdu, bytes);
    fake_write(conn, data, data_bytes);
    pthread_mutex_unlock(&conn->send_lock);
}

/* --- What it sends --- */

static inline void fake_resp(struct fake_conn *conn, uint16_t cid, uint16_t status, uint64_t result) {
    struct vn_pdu_resp resp = {
        .common = {.type = VN_PDU_RESP, .hlen = sizeof(resp), .plen = sizeof(resp)},
        .cqe = {.dw0 = (uint32_t)result,
                .dw1 = (uint32_t)(result >> 32),
                .cid = cid,
                .sqhd = conn->fake->flow ? conn->head : 0xffff,
                .status = (uint16_t)(status << 1)},
    };
    if (!conn->fake->deaf)
        fake_send(conn, &resp, sizeof(resp), NULL, 0);
}

static inline void fake_data(struct fake_conn *conn, uint16_t cid, uint32_t offset, const void *data, uint32_t bytes,
                             uint8_t flags) {
    struct vn_pdu_data pdu = {
        .common = {.type = VN_PDU_C2H_DATA, .flags = flags, .hlen = sizeof(pdu), .pdo = sizeof(pdu),
                   .plen = (uint32_t)sizeof(pdu) + bytes},
        .cccid = cid,
        .datao = offset,
        .datal = bytes,
    };
    if (!conn->fake->deaf)
        fake_send(conn, &pdu, sizeof(pdu), data, bytes);
}

static inline void fake_r2t(struct fake_conn *conn, uint16_t cid, uint16_t ttag, uint32_t offset, uint32_t bytes) {
    struct vn_pdu_r2t pdu = {
        .common = {.type = VN_PDU_R2T, .hlen = sizeof(pdu), .plen = sizeof(pdu)},
        .cccid = cid,
        .ttag = ttag,
        .r2to = offset,
        .r2tl = bytes,
    };
    if (!conn->fake->deaf)
        fake_send(conn, &pdu, sizeof(pdu), NULL, 0);
}

/* --- Admin and fabrics commands --- */

static inline void fake_identify(struct fake_conn *conn, const struct vn_sqe *sqe) {
    struct fake *fake = conn->fake;
    uint8_t *page = calloc(1, 4096);
    struct vn_id_ctrl *ctrl = (struct vn_id_ctrl *)page;
    struct vn_id_ns *ns = (struct vn_id_ns *)page;
    uint16_t status = 0;
    pthread_mutex_lock(&fake->lock);
    switch (sqe->cdw10 & 0xff) {
    case VN_CNS_CTRL:
        memcpy(ctrl->sn, "FAKE                ", 20);
        ctrl->mdts = fake->mdts;
        ctrl->cntlid = conn->cntlid;
        ctrl->cntrltype = 1;
        ctrl->oncs = fake->oncs;
        ctrl->vwc = fake->has_cache;
        ctrl->oaes = VN_OAES_NS_ATTR | (fake->has_ana ? VN_OAES_ANA : 0);
        ctrl->cmic = fake->has_ana ? VN_CMIC_ANA : 0;
        ctrl->ioccsz = fake->ioccsz;
        ctrl->ciu = fake->has_ccr;
        ctrl->cirn = fake->has_ccr ? 0x1234567800000000ull + conn->cntlid : 0;
        break;
    case VN_CNS_NS:
        if (sqe->nsid == 1) {
            ns->nsze = ns->ncap = fake->nr_blocks;
            ns->lbaf[0].lbads = fake->lbads;
            ns->dlfeat = 9;
            ns->anagrpid = fake->has_ana;
        }
        break;
    case VN_CNS_NS_DESC_LIST:
        page[0] = VN_NIDT_UUID;
        page[1] = 16;
        memcpy(page + 4, fake->uuid, 16);
        break;
    default:
        status = VN_SC_INVALID_FIELD | VN_STATUS_DNR;
    }
    pthread_mutex_unlock(&fake->lock);
    if (!status)
        fake_data(conn, sqe->cid, 0, page, 4096, VN_PDU_F_LAST);
    fake_resp(conn, sqe->cid, status, 0);
    free(page);
}

static inline void fake_log(struct fake_conn *conn, const struct vn_sqe *sqe) {
    struct fake *fake = conn->fake;
    uint8_t *page = calloc(1, 4096);
    if ((sqe->cdw10 & 0xff) == VN_LOG_ANA) {
        struct vn_ana_log *log = (struct vn_ana_log *)page;
        struct vn_ana_group *group = (struct vn_ana_group *)(page + sizeof(*log));
        pthread_mutex_lock(&fake->lock);
        log->nr_groups = 1;
        group->anagrpid = 1;
        group->state = (uint8_t)fake->ana;
        pthread_mutex_unlock(&fake->lock);
    }
    fake_data(conn, sqe->cid, 0, page, 4096, VN_PDU_F_LAST);
    fake_resp(conn, sqe->cid, 0, 0);
    free(page);
}

static inline void fake_connect(struct fake_conn *conn, const struct vn_sqe *sqe, const uint8_t *data) {
    struct fake *fake = conn->fake;
    struct vn_connect_data connect;
    memcpy(&connect, data, sizeof(connect));
    pthread_mutex_lock(&fake->lock);
    uint16_t status = fake->connect_status;
    uint32_t result = fake->connect_result;
    conn->qid = VN_CONNECT_QID(sqe);
    conn->entries = (uint16_t)(VN_CONNECT_SQSIZE(sqe) + 1);
    conn->head = 1;
    if (!status) {
        conn->cntlid = conn->qid ? connect.cntlid : ++fake->next_cntlid;
        result = conn->cntlid;
        if (!conn->qid) {
            fake->nr_admin_connects++;
            fake->event_fd_conn = -1; /* what waits for an event waits on the newest association */
        }
        conn->live = true;
    }
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
    fake_resp(conn, sqe->cid, status, result);
}

static inline void fake_fabrics(struct fake_conn *conn, const struct vn_sqe *sqe, const uint8_t *data) {
    switch (VN_SQE_FCTYPE(sqe)) {
    case VN_FCTYPE_CONNECT:
        fake_connect(conn, sqe, data);
        break;
    case VN_FCTYPE_PROPERTY_GET:
        fake_resp(conn, sqe->cid, 0, sqe->cdw11 == VN_REG_CAP ? VN_CAP_CSS_NVM | 127 : VN_CSTS_RDY);
        break;
    default:
        fake_resp(conn, sqe->cid, 0, 0);
        break;
    }
}

static inline void fake_admin(struct fake_conn *conn, const struct vn_sqe *sqe, const uint8_t *data) {
    struct fake *fake = conn->fake;
    bool done;
    switch (sqe->opcode) {
    case VN_ADMIN_FABRICS:
        fake_fabrics(conn, sqe, data);
        return;
    case VN_ADMIN_IDENTIFY:
        fake_identify(conn, sqe);
        return;
    case VN_ADMIN_GET_LOG_PAGE:
        fake_log(conn, sqe);
        return;
    case VN_ADMIN_ASYNC_EVENT:
        pthread_mutex_lock(&fake->lock);
        if (conn->cntlid == fake->next_cntlid) {
            fake->event_fd_conn = (int)(conn - fake->conns);
            fake->event_cid = sqe->cid;
            pthread_cond_broadcast(&fake->changed);
        }
        pthread_mutex_unlock(&fake->lock);
        return;
    case VN_ADMIN_CROSS_RESET:
        pthread_mutex_lock(&fake->lock);
        fake->nr_ccr++;
        fake->ccr_cntlid = (uint16_t)sqe->cdw10;
        fake->ccr_cirn = sqe->cdw12 | (uint64_t)sqe->cdw13 << 32;
        done = !fake->ccr_not_done;
        pthread_cond_broadcast(&fake->changed);
        pthread_mutex_unlock(&fake->lock);
        fake_resp(conn, sqe->cid, fake->has_ccr ? 0 : VN_SC_INVALID_OPCODE, done);
        return;
    case VN_ADMIN_KEEP_ALIVE:
        pthread_mutex_lock(&fake->lock);
        fake->nr_keep_alive++;
        pthread_cond_broadcast(&fake->changed);
        pthread_mutex_unlock(&fake->lock);
        break;
    default: /* Set Features: two queues */
        break;
    }
    fake_resp(conn, sqe->cid, 0, sqe->opcode == VN_ADMIN_SET_FEATURES ? 0x10001 : 0);
}

/* --- I/O commands --- */

static inline uint64_t fake_offset(const struct vn_sqe *sqe) {
    return (sqe->cdw10 | (uint64_t)sqe->cdw11 << 32) * FAKE_BLOCK;
}

static inline uint64_t fake_length(const struct vn_sqe *sqe) {
    return (uint64_t)VN_RW_NLB(sqe->cdw12) * FAKE_BLOCK;
}

/* Does what the command says. */
static inline uint16_t fake_apply(struct fake *fake, const struct fake_cmd *cmd) {
    const struct vn_sqe *sqe = &cmd->sqe;
    struct vn_dsm_range range;
    if (sqe->opcode == VN_IO_FLUSH)
        return 0;
    if (sqe->opcode == VN_IO_DSM) {
        memcpy(&range, cmd->data, sizeof(range));
        memset(fake->disk + range.slba * FAKE_BLOCK, 0, (size_t)range.nlb * FAKE_BLOCK);
        return 0;
    }
    uint64_t offset = fake_offset(sqe), length = fake_length(sqe);
    if (offset + length > (uint64_t)FAKE_BLOCKS * FAKE_BLOCK)
        return VN_SC_LBA_RANGE | VN_STATUS_DNR;
    if (sqe->opcode == VN_IO_WRITE)
        memcpy(fake->disk + offset, cmd->data, length);
    else if (sqe->opcode == VN_IO_WRITE_ZEROES)
        memset(fake->disk + offset, 0, length);
    else if (sqe->opcode == VN_IO_COMPARE && memcmp(fake->disk + offset, cmd->data, length) != 0)
        return VN_SC_COMPARE_FAILURE;
    return 0;
}

static inline void fake_cmd_free(struct fake_cmd *cmd) {
    free(cmd->data);
    cmd->data = NULL;
    cmd->state = FAKE_FREE;
}

/* As a target that obeys does it; the command is free afterwards. Called with the lock. */
static inline void fake_finish(struct fake *fake, struct fake_cmd *cmd) {
    uint16_t status = fake->io_status ? fake->io_status : fake_apply(fake, cmd);
    if (cmd->sqe.opcode == VN_IO_READ && !status) {
        uint32_t length = (uint32_t)fake_length(&cmd->sqe), half = length / 2 / 4 * 4;
        const uint8_t *from = fake->disk + fake_offset(&cmd->sqe);
        bool success = !fake->flow;
        if (half)
            fake_data(cmd->conn, cmd->sqe.cid, 0, from, half, 0);
        fake_data(cmd->conn, cmd->sqe.cid, half, from + half, length - half,
                  VN_PDU_F_LAST | (success ? VN_PDU_F_SUCCESS : 0));
        if (!success)
            fake_resp(cmd->conn, cmd->sqe.cid, 0, 0);
    } else {
        fake_resp(cmd->conn, cmd->sqe.cid, status, 0);
    }
    fake_cmd_free(cmd);
}

static inline uint32_t fake_wants(const struct vn_sqe *sqe) {
    return sqe->opcode == VN_IO_DSM || sqe->opcode == VN_IO_WRITE || sqe->opcode == VN_IO_COMPARE ? sqe->sgl1.length : 0;
}

static inline void fake_io(struct fake_conn *conn, const struct vn_sqe *sqe, const uint8_t *data, uint32_t bytes) {
    struct fake *fake = conn->fake;
    pthread_mutex_lock(&fake->lock);
    fake->nr_io++;
    struct fake_cmd *cmd = fake->cmds;
    while (cmd->state != FAKE_FREE)
        CHECK(++cmd < fake->cmds + FAKE_CMDS);
    *cmd = (struct fake_cmd){.state = FAKE_HELD, .conn = conn, .sqe = *sqe, .number = ++fake->nr_arrived};
    cmd->bytes = fake_wants(sqe);
    cmd->data = calloc(1, FAKE_DATA);
    cmd->in_capsule = bytes;
    if (bytes) {
        CHECK_EQ(bytes, cmd->bytes);
        memcpy(cmd->data, data, bytes);
        cmd->got = bytes;
    }
    bool manual = fake->manual;
    cmd->answers_itself = !manual;
    pthread_cond_broadcast(&fake->changed);
    if (!manual && cmd->got == cmd->bytes)
        fake_finish(fake, cmd);
    else if (!manual) /* in two halves, both outstanding */
        for (uint32_t at = 0, n = cmd->bytes / 2 / 4 * 4; at < cmd->bytes; at += n, n = cmd->bytes - at)
            fake_r2t(conn, sqe->cid, (uint16_t)(cmd - fake->cmds), at, n);
    pthread_mutex_unlock(&fake->lock);
}

static inline void fake_h2c(struct fake_conn *conn, const struct vn_pdu_data *pdu, const uint8_t *data) {
    struct fake *fake = conn->fake;
    pthread_mutex_lock(&fake->lock);
    struct fake_cmd *cmd = &fake->cmds[pdu->ttag % FAKE_CMDS];
    bool right = pdu->ttag < FAKE_CMDS && cmd->state != FAKE_FREE && cmd->conn == conn && cmd->sqe.cid == pdu->cccid &&
                 pdu->datao == cmd->got && /* in order */
                 pdu->datal <= cmd->bytes - cmd->got && pdu->datal <= fake->maxh2c;
    if (!right) {
        CHECK(fake->has_bent); /* our own R2T may have said so */
        shutdown(conn->fd, SHUT_RDWR);
        pthread_mutex_unlock(&fake->lock);
        return;
    }
    memcpy(cmd->data + cmd->got, data, pdu->datal);
    cmd->got += pdu->datal;
    if (cmd->answers_itself && cmd->got == cmd->bytes)
        fake_finish(fake, cmd);
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
}

/* --- Connections --- */

static inline bool fake_take_pdu(struct fake_conn *conn, uint8_t *buf) {
    struct vn_pdu_common *common = (struct vn_pdu_common *)buf;
    bool ok = true;
    fake_read(conn, buf, sizeof(*common), &ok);
    if (!ok)
        return false;
    CHECK(common->plen >= sizeof(*common) && common->plen <= 2 * FAKE_DATA);
    fake_read(conn, buf + sizeof(*common), common->plen - sizeof(*common), &ok);
    return ok;
}

static inline void fake_ic(struct fake_conn *conn) {
    struct vn_pdu_ic_resp resp = {.common = {.type = VN_PDU_IC_RESP, .hlen = sizeof(resp), .plen = sizeof(resp)},
                                  .maxh2cdata = conn->fake->maxh2c};
    fake_send(conn, &resp, sizeof(resp), NULL, 0);
}

static inline void *fake_conn_main(void *arg) {
    struct fake_conn *conn = arg;
    struct fake *fake = conn->fake;
    uint8_t *buf = malloc(2 * FAKE_DATA);
    union vn_pdu *pdu = (union vn_pdu *)buf;
    while (fake_take_pdu(conn, buf)) {
        uint32_t bytes = pdu->common.pdo ? pdu->common.plen - pdu->common.pdo : 0;
        const uint8_t *data = buf + pdu->common.pdo;
        if (fake->mute || fake->deaf)
            continue;
        if (pdu->common.type == VN_PDU_CMD && conn->entries)
            conn->head = (uint16_t)((conn->head + 1) % conn->entries);
        if (pdu->common.type == VN_PDU_IC_REQ)
            fake_ic(conn);
        else if (pdu->common.type == VN_PDU_H2C_DATA)
            fake_h2c(conn, &pdu->data, data);
        else if (pdu->common.type == VN_PDU_CMD && (!conn->qid || pdu->cmd.sqe.opcode == VN_ADMIN_FABRICS))
            fake_admin(conn, &pdu->cmd.sqe, data);
        else if (pdu->common.type == VN_PDU_CMD)
            fake_io(conn, &pdu->cmd.sqe, data, bytes);
    }
    free(buf);
    pthread_mutex_lock(&fake->lock);
    shutdown(conn->fd, SHUT_RDWR);
    conn->gone = true;
    conn->live = false;
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
    return NULL;
}

static inline void *fake_main(void *arg) {
    struct fake *fake = arg;
    for (;;) {
        int fd = accept(fake->fd, NULL, NULL);
        if (fd < 0)
            return NULL;
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        pthread_mutex_lock(&fake->lock);
        struct fake_conn *conn = fake->conns;
        while (conn->used)
            CHECK(++conn < fake->conns + FAKE_CONNS);
        conn->used = true;
        conn->fake = fake;
        conn->fd = fd;
        pthread_mutex_init(&conn->send_lock, NULL);
        CHECK_EQ(pthread_create(&conn->thread, NULL, fake_conn_main, conn), 0);
        pthread_mutex_unlock(&fake->lock);
    }
}

static inline void fake_listen(struct fake *fake) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons(fake->port)};
    socklen_t size = sizeof(address);
    int one = 1;
    fake->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fake->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    CHECK_EQ(bind(fake->fd, (struct sockaddr *)&address, sizeof(address)), 0);
    CHECK_EQ(listen(fake->fd, 16), 0);
    CHECK_EQ(getsockname(fake->fd, (struct sockaddr *)&address, &size), 0);
    fake->port = ntohs(address.sin_port);
    CHECK_EQ(pthread_create(&fake->thread, NULL, fake_main, fake), 0);
}

static inline void fake_open(struct fake *fake) {
    *fake = (struct fake){.nr_blocks = FAKE_BLOCKS,
                          .lbads = 9,
                          .mdts = 5, /* 128 KiB */
                          .ioccsz = (64 + 8192) / 16,
                          .maxh2c = 32768,
                          .oncs = VN_ONCS_COMPARE | VN_ONCS_DSM | VN_ONCS_WRITE_ZEROES,
                          .has_ccr = true,
                          .has_cache = true,
                          .ana = VN_ANA_OPTIMIZED,
                          .event_fd_conn = -1};
    memset(fake->uuid, 0x5a, sizeof(fake->uuid));
    fake->disk = calloc(FAKE_BLOCKS, FAKE_BLOCK);
    pthread_mutex_init(&fake->lock, NULL);
    pthread_mutex_init(&fake->dice_lock, NULL);
    pthread_cond_init(&fake->changed, NULL);
    fake_listen(fake);
}

/* No more connections; those that are stay. */
static inline void fake_unlisten(struct fake *fake) {
    shutdown(fake->fd, SHUT_RDWR);
    pthread_join(fake->thread, NULL);
    close(fake->fd);
}

/* Cuts all connections. */
static inline void fake_cut(struct fake *fake) {
    pthread_mutex_lock(&fake->lock);
    for (uint32_t i = 0; i < FAKE_CONNS; i++) {
        if (fake->conns[i].used && !fake->conns[i].gone)
            shutdown(fake->conns[i].fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&fake->lock);
}

/* Forgets connections that have ended, so that their places are free. */
static inline void fake_reap(struct fake *fake) {
    for (uint32_t i = 0; i < FAKE_CONNS; i++) {
        struct fake_conn *conn = &fake->conns[i];
        if (!conn->used)
            continue;
        pthread_join(conn->thread, NULL);
        close(conn->fd);
        pthread_mutex_destroy(&conn->send_lock);
        conn->used = false;
    }
    for (uint32_t i = 0; i < FAKE_CMDS; i++)
        fake_cmd_free(&fake->cmds[i]);
}

static inline void fake_close(struct fake *fake) {
    fake_unlisten(fake);
    fake_cut(fake);
    fake_reap(fake);
    free(fake->disk);
}

/* --- What a test asks of it --- */

static inline void fake_wait_step(struct fake *fake, const char *what) {
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += FAKE_WAIT_S;
    if (pthread_cond_timedwait(&fake->changed, &fake->lock, &limit)) {
        fprintf(stderr, "waited in vain for %s\n", what);
        exit(1);
    }
}

#define FAKE_WAIT(fake, condition)                    \
    do {                                              \
        pthread_mutex_lock(&(fake)->lock);            \
        while (!(condition))                          \
            fake_wait_step((fake), #condition);       \
        pthread_mutex_unlock(&(fake)->lock);          \
    } while (0)

/* The oldest I/O command that nobody has taken (manual mode). */
static inline struct fake_cmd *fake_take(struct fake *fake) {
    struct fake_cmd *cmd = NULL;
    pthread_mutex_lock(&fake->lock);
    for (;;) {
        for (uint32_t i = 0; i < FAKE_CMDS; i++) {
            struct fake_cmd *at = &fake->cmds[i];
            if (at->state == FAKE_HELD && !at->answers_itself && (!cmd || at->number < cmd->number))
                cmd = at;
        }
        if (cmd)
            break;
        fake_wait_step(fake, "an I/O command");
    }
    cmd->state = FAKE_TAKEN;
    pthread_mutex_unlock(&fake->lock);
    return cmd;
}

static inline uint32_t fake_nr_held(struct fake *fake) {
    uint32_t nr = 0;
    pthread_mutex_lock(&fake->lock);
    for (uint32_t i = 0; i < FAKE_CMDS; i++)
        nr += fake->cmds[i].state == FAKE_HELD && !fake->cmds[i].answers_itself;
    pthread_mutex_unlock(&fake->lock);
    return nr;
}

static inline uint16_t fake_tag(const struct fake *fake, const struct fake_cmd *cmd) {
    return (uint16_t)(cmd - fake->cmds);
}

/* Answers a taken command as it should be. */
static inline void fake_obey(struct fake *fake, struct fake_cmd *cmd) {
    pthread_mutex_lock(&fake->lock);
    if (cmd->got == cmd->bytes) {
        fake_finish(fake, cmd);
    } else {
        cmd->answers_itself = true;
        fake_r2t(cmd->conn, cmd->sqe.cid, fake_tag(fake, cmd), cmd->got, cmd->bytes - cmd->got);
    }
    pthread_mutex_unlock(&fake->lock);
}

/* From now on it obeys by itself, what is held included. */
static inline void fake_set_manual(struct fake *fake, bool manual) {
    pthread_mutex_lock(&fake->lock);
    fake->manual = manual;
    pthread_mutex_unlock(&fake->lock);
    while (!manual && fake_nr_held(fake))
        fake_obey(fake, fake_take(fake));
}

/* Completes the event request with a notice. */
static inline void fake_notice(struct fake *fake, uint8_t info) {
    FAKE_WAIT(fake, fake->event_fd_conn >= 0);
    pthread_mutex_lock(&fake->lock);
    struct fake_conn *conn = &fake->conns[fake->event_fd_conn];
    uint16_t cid = fake->event_cid;
    fake->event_fd_conn = -1;
    pthread_mutex_unlock(&fake->lock);
    fake_resp(conn, cid, 0, VN_AEN_NOTICE | (uint32_t)info << 8 |
                                (info == VN_AEN_NOTICE_ANA ? VN_LOG_ANA : VN_LOG_CHANGED_NS) << 16);
}

#endif
