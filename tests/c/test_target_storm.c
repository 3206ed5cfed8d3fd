/* Hosts at random: they connect, read and write, answer R2Ts, stop in the middle of PDUs, send rubbish, reset and go; the
 * backend ends what it holds now and then. Whatever happens, everything is freed in the end, and the target still serves.
 */
#include <fcntl.h>

#include "target_rig.h"

#define NR_ACTIONS 20000
#define NR_HOSTS 6u
#define NR_QUEUES 3u

struct storm_host {
    struct peer admin, queues[NR_QUEUES]; /* fd 0: none */
    uint16_t cntlid;
    uint32_t sent[NR_QUEUES];
};

static struct target_rig rig;
static struct vn_test_random dice;
static struct storm_host hosts[NR_HOSTS];
static uint8_t data[1 << 20], rubbish[4096];

static void drop(struct peer *peer) {
    if (peer->fd) {
        struct linger hard = {1, 0};
        if (vn_test_below(&dice, 2))
            setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
        close(peer->fd);
    }
    *peer = (struct peer){0};
}

static void leave(struct storm_host *host) {
    bool admin_first = vn_test_below(&dice, 2);
    if (admin_first)
        drop(&host->admin);
    for (uint32_t i = 0; i < NR_QUEUES; i++)
        drop(&host->queues[i]);
    drop(&host->admin);
    *host = (struct storm_host){0};
}

/* The peer may have ended the connection for a good reason. */
static void try_write(struct peer *peer, const void *from, size_t bytes) {
    if (send(peer->fd, from, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)bytes)
        drop(peer);
}

/* Takes what has come, and answers R2Ts: rightly, partly, or wrongly. */
static void take(struct peer *peer) {
    union vn_pdu pdu;
    while (peer->fd && recv(peer->fd, &pdu, sizeof(pdu.common), MSG_PEEK | MSG_DONTWAIT) > 0) {
        if (!peer_pdu(peer, &pdu, data)) {
            drop(peer);
            return;
        }
        if (pdu.common.type != VN_PDU_R2T || vn_test_below(&dice, 8) == 0)
            continue;
        struct vn_pdu_r2t r2t = pdu.r2t;
        struct vn_pdu_data head = {
            .common = {VN_PDU_H2C_DATA, VN_PDU_F_LAST, sizeof(head), sizeof(head), (uint32_t)sizeof(head) + r2t.r2tl},
            .cccid = r2t.cccid, .ttag = r2t.ttag, .datao = r2t.r2to, .datal = r2t.r2tl,
        };
        switch (vn_test_below(&dice, 10)) {
        case 0:
            head.ttag ^= (uint16_t)(1 + vn_test_below(&dice, 65535));
            break;
        case 1:
            head.datao += 4;
            break;
        case 2:
            head.common.flags = 0;
            break;
        default:
            break;
        }
        try_write(peer, &head, sizeof(head));
        if (peer->fd)
            try_write(peer, data, vn_test_below(&dice, 10) ? r2t.r2tl : r2t.r2tl / 2);
    }
}

static void connect_host(struct storm_host *host) {
    if (host->admin.fd)
        return;
    leave(host);
    host->admin = host_open(&rig, vn_test_below(&dice, 4) ? 0 : 100, &host->cntlid);
}

/* A controller may have gone by its keep-alive timeout: then the queue is refused. */
static void connect_queue(struct storm_host *host, uint32_t index) {
    if (!host->admin.fd || host->queues[index].fd)
        return;
    struct peer queue = peer_open(&rig);
    peer_initialize(&queue);
    if (peer_connect(&queue, (uint16_t)(index + 1), host->cntlid, 16, 0))
        drop(&queue);
    host->queues[index] = queue;
    host->sent[index] = 0;
}

static void io(struct storm_host *host, uint32_t index) {
    static const uint32_t sizes[] = {512, 4096, 8192, 16384, 131072, 1 << 20};
    struct peer *queue = &host->queues[index];
    if (!queue->fd)
        return;
    uint32_t bytes = sizes[vn_test_below(&dice, VN_ARRAY_SIZE(sizes))], nsid = 1 + (uint32_t)vn_test_below(&dice, 2);
    bool writes = vn_test_below(&dice, 2);
    if (++host->sent[index] % 16 == 0) { /* it may be full */
        take(queue);
        return;
    }
    struct vn_pdu_cmd cmd = {{VN_PDU_CMD, 0, sizeof(cmd), 0, sizeof(cmd)}, peer_rw(writes ? VN_IO_WRITE : VN_IO_READ, nsid, bytes)};
    cmd.sqe.flags = RIG_SGL_FLAGS;
    cmd.sqe.cid = queue->next_cid++;
    if (writes && bytes <= VN_IOCCSZ_BYTES) {
        cmd.common.pdo = sizeof(cmd);
        cmd.common.plen += bytes;
        cmd.sqe.sgl1.type = VN_SGL_IN_CAPSULE;
        try_write(queue, &cmd, sizeof(cmd));
        if (queue->fd)
            try_write(queue, data, vn_test_below(&dice, 20) ? bytes : bytes / 2);
        return;
    }
    try_write(queue, &cmd, sizeof(cmd));
}

static void reset(struct storm_host *host) {
    struct vn_pdu_cmd cmd = {{VN_PDU_CMD, 0, sizeof(cmd), 0, sizeof(cmd)}, peer_fabrics(VN_FCTYPE_PROPERTY_SET)};
    if (!host->admin.fd)
        return;
    cmd.sqe.flags = RIG_SGL_FLAGS;
    cmd.sqe.cdw11 = VN_REG_CC;
    cmd.sqe.cdw12 = vn_test_below(&dice, 2) ? VN_CC_EN | 6u << 16 | 4u << 20 : 0;
    try_write(&host->admin, &cmd, sizeof(cmd));
}

static void act(struct storm_host *host) {
    uint32_t index = (uint32_t)vn_test_below(&dice, NR_QUEUES);
    struct peer *some = vn_test_below(&dice, 4) ? &host->queues[index] : &host->admin;
    switch (vn_test_below(&dice, 16)) {
    case 0:
        connect_host(host);
        break;
    case 1:
    case 2:
        connect_queue(host, index);
        break;
    case 3:
        if (some->fd && vn_test_below(&dice, 4) == 0)
            try_write(some, rubbish, vn_test_below(&dice, sizeof(rubbish)));
        break;
    case 4:
        if (vn_test_below(&dice, 4) == 0)
            drop(some);
        break;
    case 5:
        if (vn_test_below(&dice, 8) == 0)
            leave(host);
        break;
    case 6:
        if (vn_test_below(&dice, 8) == 0)
            reset(host);
        break;
    case 7:
        rig_release(&rig);
        break;
    case 8:
    case 9:
    case 10:
        take(some);
        break;
    default:
        io(host, index);
    }
}

int main(void) {
    dice = vn_test_seed();
    for (size_t i = 0; i < sizeof(rubbish); i++)
        rubbish[i] = (uint8_t)vn_test_draw(&dice);
    rig_open(&rig, &(struct vn_target_opts){.max_half_open = 8});
    for (int i = 0; i < NR_ACTIONS; i++)
        act(&hosts[vn_test_below(&dice, NR_HOSTS)]);
    for (uint32_t i = 0; i < NR_HOSTS; i++)
        leave(&hosts[i]);
    struct vn_target_info info = rig_info(&rig);
    printf("%" PRIu64 " commands, %" PRIu64 " errors, %" PRIu64 " connections, %" PRIu64 " refused, %" PRIu64 " read, %" PRIu64
           " written\n", info.commands, info.errors, info.accepted, info.refused, info.read_bytes, info.write_bytes);
    RIG_WAIT((rig_release(&rig), rig_info(&rig).controllers == 0));
    uint16_t cntlid, cid;
    struct peer admin = host_open(&rig, 0, &cntlid), queue = host_queue(&rig, cntlid, 1, 8);
    peer_send(&queue, peer_rw(VN_IO_READ, 1, 4096), NULL, 0);
    CHECK_EQ(peer_done(&queue, &cid, data), VN_SC_SUCCESS);
    close(queue.fd);
    close(admin.fd);
    rig_close(&rig);
    return 0;
}
