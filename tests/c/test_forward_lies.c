/* The forwarder with a target that lies: lengths, offsets, numbers, sequences. Each lie costs the connection, and nothing
 * else: the command under way is repeated on a new one, and buffers hold what the honest answer brings.
 */
#include "forward_rig.h"

#define BYTES 65536u

static struct fake fake;
static struct rig rig;
static uint8_t data[2 * BYTES];

typedef void lie_fn(struct fake_cmd *cmd);

static struct vn_pdu_data data_pdu(const struct fake_cmd *cmd, uint32_t offset, uint32_t bytes, uint8_t flags) {
    return (struct vn_pdu_data){.common = {.type = VN_PDU_C2H_DATA, .flags = flags, .hlen = sizeof(struct vn_pdu_data),
                                           .pdo = sizeof(struct vn_pdu_data),
                                           .plen = (uint32_t)sizeof(struct vn_pdu_data) + bytes},
                                .cccid = cmd->sqe.cid,
                                .datao = offset,
                                .datal = bytes};
}

/* --- About a read of BYTES --- */

static void other_number(struct fake_cmd *cmd) {
    fake_data(cmd->conn, (uint16_t)(cmd->sqe.cid ^ 1), 0, data, 512, 0);
}
static void no_such_slot(struct fake_cmd *cmd) {
    fake_data(cmd->conn, cmd->sqe.cid | 1023, 0, data, 512, 0);
}
static void older_use(struct fake_cmd *cmd) {
    fake_data(cmd->conn, (uint16_t)(cmd->sqe.cid - 1024), 0, data, 512, 0);
}
static void gap(struct fake_cmd *cmd) {
    fake_data(cmd->conn, cmd->sqe.cid, 512, data, 512, 0);
}
static void twice_the_same(struct fake_cmd *cmd) {
    fake_data(cmd->conn, cmd->sqe.cid, 0, data, 512, 0);
    fake_data(cmd->conn, cmd->sqe.cid, 0, data, 512, 0);
}
static void too_much(struct fake_cmd *cmd) {
    fake_data(cmd->conn, cmd->sqe.cid, 0, data, BYTES + 4, 0);
}
static void too_much_in_the_end(struct fake_cmd *cmd) {
    fake_data(cmd->conn, cmd->sqe.cid, 0, data, BYTES - 4, 0);
    fake_data(cmd->conn, cmd->sqe.cid, BYTES - 4, data, 8, 0);
}
static void offset_that_wraps(struct fake_cmd *cmd) {
    fake_data(cmd->conn, cmd->sqe.cid, 0xfffffffc, data, 8, 0);
}
static void more_than_any(struct fake_cmd *cmd) {
    struct vn_pdu_data pdu = data_pdu(cmd, 0, 0x7fffff00, 0);
    fake_send(cmd->conn, &pdu, sizeof(pdu), data, 512);
}
static void length_beyond_the_pdu(struct fake_cmd *cmd) {
    struct vn_pdu_data pdu = data_pdu(cmd, 0, 512, 0);
    pdu.datal = 1024;
    fake_send(cmd->conn, &pdu, sizeof(pdu), data, 512);
}
static void after_the_last(struct fake_cmd *cmd) {
    fake_data(cmd->conn, cmd->sqe.cid, 0, data, 512, VN_PDU_F_LAST);
    fake_data(cmd->conn, cmd->sqe.cid, 512, data, 512, 0);
}
static void success_too_soon(struct fake_cmd *cmd) {
    fake_data(cmd->conn, cmd->sqe.cid, 0, data, 512, VN_PDU_F_LAST | VN_PDU_F_SUCCESS);
}
static void success_without_last(struct fake_cmd *cmd) {
    fake_data(cmd->conn, cmd->sqe.cid, 0, data, BYTES, VN_PDU_F_SUCCESS);
}
static void good_without_data(struct fake_cmd *cmd) {
    fake_resp(cmd->conn, cmd->sqe.cid, 0, 0);
}
static void good_with_half(struct fake_cmd *cmd) {
    fake_data(cmd->conn, cmd->sqe.cid, 0, data, BYTES / 2, VN_PDU_F_LAST);
    fake_resp(cmd->conn, cmd->sqe.cid, 0, 0);
}
static void answer_to_nobody(struct fake_cmd *cmd) {
    fake_resp(cmd->conn, 0xffff, 0, 0);
}
static void r2t_for_a_read(struct fake_cmd *cmd) {
    fake_r2t(cmd->conn, cmd->sqe.cid, 0, 0, 512);
}
static void long_header(struct fake_cmd *cmd) {
    struct vn_pdu_data pdu = data_pdu(cmd, 0, 512, 0);
    pdu.common.hlen = 255;
    fake_send(cmd->conn, &pdu, sizeof(pdu), data, 512);
}
static void second_ic(struct fake_cmd *cmd) {
    fake_ic(cmd->conn);
}
static void pdu_of_a_host(struct fake_cmd *cmd) {
    struct vn_pdu_cmd pdu = {.common = {.type = VN_PDU_CMD, .hlen = sizeof(pdu), .plen = sizeof(pdu)}};
    fake_send(cmd->conn, &pdu, sizeof(pdu), NULL, 0);
}
static void digest_out_of_nothing(struct fake_cmd *cmd) {
    struct vn_pdu_data pdu = data_pdu(cmd, 0, 512, VN_PDU_F_DDGST);
    fake_send(cmd->conn, &pdu, sizeof(pdu), data, 512);
}

/* --- About a write of BYTES --- */

static void data_for_a_write(struct fake_cmd *cmd) {
    fake_data(cmd->conn, cmd->sqe.cid, 0, data, 512, 0);
}
static void r2t_beyond(struct fake_cmd *cmd) {
    fake_r2t(cmd->conn, cmd->sqe.cid, 0, 0, BYTES + 4);
}
static void r2t_with_a_gap(struct fake_cmd *cmd) {
    fake_r2t(cmd->conn, cmd->sqe.cid, 0, 4096, 4096);
}
static void r2t_that_wraps(struct fake_cmd *cmd) {
    fake_r2t(cmd->conn, cmd->sqe.cid, 0, 0xfffff000, 0x2000);
}
static void r2t_of_nothing(struct fake_cmd *cmd) {
    fake_r2t(cmd->conn, cmd->sqe.cid, 0, 0, 0);
}
static void r2t_twice(struct fake_cmd *cmd) {
    fake_r2t(cmd->conn, cmd->sqe.cid, fake_tag(&fake, cmd), 0, 4096);
    fake_r2t(cmd->conn, cmd->sqe.cid, fake_tag(&fake, cmd), 0, 4096);
}
static void good_without_asking(struct fake_cmd *cmd) {
    fake_resp(cmd->conn, cmd->sqe.cid, 0, 0);
}

/* --- About a small write, whose data is in the capsule --- */

static void r2t_for_a_capsule(struct fake_cmd *cmd) {
    fake_r2t(cmd->conn, cmd->sqe.cid, 0, 0, 512);
}

static const struct {
    lie_fn *tell;
    enum vn_op op;
    uint32_t bytes;
} lies[] = {
    {other_number, VN_OP_READ, BYTES},
    {no_such_slot, VN_OP_READ, BYTES},
    {older_use, VN_OP_READ, BYTES},
    {gap, VN_OP_READ, BYTES},
    {twice_the_same, VN_OP_READ, BYTES},
    {too_much, VN_OP_READ, BYTES},
    {too_much_in_the_end, VN_OP_READ, BYTES},
    {offset_that_wraps, VN_OP_READ, BYTES},
    {more_than_any, VN_OP_READ, BYTES},
    {length_beyond_the_pdu, VN_OP_READ, BYTES},
    {after_the_last, VN_OP_READ, BYTES},
    {success_too_soon, VN_OP_READ, BYTES},
    {success_without_last, VN_OP_READ, BYTES},
    {good_without_data, VN_OP_READ, BYTES},
    {good_with_half, VN_OP_READ, BYTES},
    {answer_to_nobody, VN_OP_READ, BYTES},
    {r2t_for_a_read, VN_OP_READ, BYTES},
    {long_header, VN_OP_READ, BYTES},
    {second_ic, VN_OP_READ, BYTES},
    {pdu_of_a_host, VN_OP_READ, BYTES},
    {digest_out_of_nothing, VN_OP_READ, BYTES},
    {data_for_a_write, VN_OP_WRITE, BYTES},
    {r2t_beyond, VN_OP_WRITE, BYTES},
    {r2t_with_a_gap, VN_OP_WRITE, BYTES},
    {r2t_that_wraps, VN_OP_WRITE, BYTES},
    {r2t_of_nothing, VN_OP_WRITE, BYTES},
    {r2t_twice, VN_OP_WRITE, BYTES},
    {good_without_asking, VN_OP_WRITE, BYTES},
    {r2t_for_a_capsule, VN_OP_WRITE, 4096},
};

static void test_lie(size_t i) {
    struct job job;
    fake_set_manual(&fake, true);
    job_start(&job, &rig, lies[i].op, 0, lies[i].bytes, (uint8_t)(i + 1));
    struct fake_cmd *cmd = fake_take(&fake);
    lies[i].tell(cmd);
    struct vn_event event = rig_event(&rig, VN_EVENT_REMOTE_LOST);
    if (!strstr(event.text, "breaks the rules")) {
        fprintf(stderr, "lie %zu: %s\n", i, event.text);
        exit(1);
    }
    fake_set_manual(&fake, false);
    CHECK_EQ(job_wait(&job), 0);
    CHECK(job_holds(&job, lies[i].op == VN_OP_READ ? 0 : (uint8_t)(i + 1)));
    free(job.buf);
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE_ZEROES, 0, BYTES, 0), 0);
}

/* An error may come before all data has come, or has been asked for: that is no lie. */
static void test_early_errors(void) {
    struct job job;
    fake_set_manual(&fake, true);
    job_start(&job, &rig, VN_OP_READ, 0, BYTES, 0);
    struct fake_cmd *cmd = fake_take(&fake);
    fake_data(cmd->conn, cmd->sqe.cid, 0, data, 512, 0);
    fake_resp(cmd->conn, cmd->sqe.cid, VN_SC_UNRECOVERED_READ, 0);
    CHECK_EQ(job_end(&job), VN_SC_UNRECOVERED_READ);
    job_start(&job, &rig, VN_OP_WRITE, 0, BYTES, 0);
    cmd = fake_take(&fake);
    fake_resp(cmd->conn, cmd->sqe.cid, VN_SC_WRITE_FAULT, 0);
    CHECK_EQ(job_end(&job), VN_SC_WRITE_FAULT);
    fake_set_manual(&fake, false);
}

int main(void) {
    memset(data, 0xee, sizeof(data));
    for (size_t i = 0; i < VN_ARRAY_SIZE(lies); i++) {
        if (i % 10 == 0) { /* a fake has room for so many connections */
            fake_open(&fake);
            rig_remote(&rig, &fake);
            rig_open(&rig);
        }
        test_lie(i);
        if (i % 10 == 9 || i + 1 == VN_ARRAY_SIZE(lies)) {
            test_early_errors();
            rig_close(&rig);
            fake_close(&fake);
        }
    }
    return 0;
}
