/* The forwarder when its requests are cancelled, by an abort or a reset of the guest: what has a place of its own in the
 * target afterwards, what newer writes wait for, and that no buffer is touched any more (each is freed at once, under
 * ASan). And channels that are closed in every state.
 */
#include "forward_rig.h"

static struct fake fake;
static struct rig rig;

static void begin_with(uint32_t kato_ms, uint32_t entries) {
    fake_open(&fake);
    rig_remote(&rig, &fake);
    rig.remote.kato_ms = kato_ms;
    rig.remote.queue_entries = entries;
    rig_open(&rig);
    rig_event(&rig, VN_EVENT_REMOTE_ATTACHED);
    fake_set_manual(&fake, true);
}

static void begin(uint32_t kato_ms) {
    begin_with(kato_ms, 0);
}

static void end(void) {
    rig_close(&rig);
    fake_close(&fake);
}

static void cancelled(struct job *job) {
    job_cancel(job);
    CHECK_EQ(job_end(job), VN_SC_ABORT_REQUESTED);
}

static uint32_t connects(void) {
    pthread_mutex_lock(&fake.lock);
    uint32_t nr = fake.nr_admin_connects;
    pthread_mutex_unlock(&fake.lock);
    return nr;
}

/* The data of a read comes when nobody wants it: before any of it has come, and in the middle. */
static void test_read(void) {
    begin(2000);
    static uint8_t data[65536];
    struct job job;
    job_start(&job, &rig, VN_OP_READ, 0, sizeof(data), 0);
    struct fake_cmd *cmd = fake_take(&fake);
    cancelled(&job);
    fake_obey(&fake, cmd);

    job_start(&job, &rig, VN_OP_READ, 0, sizeof(data), 0);
    cmd = fake_take(&fake);
    struct vn_pdu_data pdu = {.common = {.type = VN_PDU_C2H_DATA, .flags = VN_PDU_F_LAST | VN_PDU_F_SUCCESS,
                                         .hlen = sizeof(pdu), .pdo = sizeof(pdu), .plen = sizeof(pdu) + sizeof(data)},
                              .cccid = cmd->sqe.cid, .datal = sizeof(data)};
    fake_send(cmd->conn, &pdu, sizeof(pdu), data, 20000);
    rig_pause_ms(20); /* so that it is in the middle of it, in all likelihood */
    cancelled(&job);
    fake_send(cmd->conn, data, sizeof(data) - 20000, NULL, 0);

    uint32_t before = connects();
    fake_set_manual(&fake, false);
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, sizeof(data), 7), 0);
    rig_check_read(&rig, 0, sizeof(data), 7);
    CHECK_EQ(connects(), before); /* none of it has cost the connection */
    end();
}

/* Slots of cancelled commands are used again, with other numbers: a late answer to the earlier use is a lie. */
static void test_numbers(void) {
    begin_with(2000, 2); /* one slot */
    struct job job;
    job_start(&job, &rig, VN_OP_READ, 0, 4096, 0);
    struct fake_cmd *cmd = fake_take(&fake);
    struct fake_conn *conn = cmd->conn;
    uint16_t cid = cmd->sqe.cid;
    cancelled(&job);
    fake_obey(&fake, cmd);
    job_start(&job, &rig, VN_OP_READ, 0, 4096, 0);
    cmd = fake_take(&fake);
    CHECK_EQ(cmd->sqe.cid & 1023, cid & 1023); /* the same slot */
    CHECK(cmd->sqe.cid != cid);
    fake_resp(conn, cid, 0, 0);
    CHECK_SAYS(rig_event(&rig, VN_EVENT_REMOTE_LOST).text, "breaks the rules");
    fake_set_manual(&fake, false);
    CHECK_EQ(job_end(&job), 0);
    end();
}

/* A cancelled write that is with the target: only what overlaps waits for its end. */
static void test_ghost(void) {
    begin(2000);
    struct job ghost, over, under, beside, read;
    job_start(&ghost, &rig, VN_OP_WRITE, 4096, 4096, 1);
    struct fake_cmd *old = fake_take(&fake);
    cancelled(&ghost);
    job_start(&over, &rig, VN_OP_WRITE, 0, 8192, 2);
    job_start(&under, &rig, VN_OP_DEALLOCATE, 7680, 8192, 0);
    job_start(&beside, &rig, VN_OP_WRITE, 8192, 4096, 3);
    job_start(&read, &rig, VN_OP_READ, 4096, 4096, 0);
    struct fake_cmd *first = fake_take(&fake), *second = fake_take(&fake);
    CHECK_EQ(first->sqe.cdw10, 16);
    CHECK_EQ(second->sqe.opcode, VN_IO_READ);
    rig_pause_ms(30);
    CHECK_EQ(fake_nr_held(&fake), 0);
    fake_obey(&fake, first);
    fake_obey(&fake, second);
    CHECK_EQ(job_end(&beside), 0);
    CHECK_EQ(job_end(&read), 0);
    fake_obey(&fake, old); /* only now it is applied */
    fake_set_manual(&fake, false);
    CHECK_EQ(job_end(&over), 0);
    CHECK_EQ(job_end(&under), 0);
    rig_check_read(&rig, 0, 7680, 2);
    end();
}

/* A blocked write can be cancelled as well, and the ghost may end by the loss of its association. */
static void test_ghost_lost(void) {
    begin(2000);
    struct job ghost, blocked, write;
    job_start(&ghost, &rig, VN_OP_WRITE, 0, 4096, 1);
    fake_take(&fake);
    uint16_t lost = fake.next_cntlid;
    cancelled(&ghost);
    job_start(&blocked, &rig, VN_OP_WRITE, 0, 4096, 2);
    job_start(&write, &rig, VN_OP_WRITE, 0, 512, 3);
    cancelled(&blocked);
    fake_set_manual(&fake, false);
    fake_cut(&fake);
    CHECK_EQ(job_end(&write), 0);
    CHECK_EQ(fake.nr_ccr, 1);
    CHECK_EQ(fake.ccr_cntlid, lost);
    rig_check_read(&rig, 0, 512, 3);
    end();
}

/* The target still wants data that we must not touch: only the end of the connection helps. Others do not suffer. */
static void test_write_partly(void) {
    begin(2000);
    struct job write, read;
    job_start(&read, &rig, VN_OP_READ, 0, 4096, 0);
    fake_take(&fake);
    job_start(&write, &rig, VN_OP_WRITE, 65536, 65536, 1);
    struct fake_cmd *cmd = fake_take(&fake);
    uint16_t lost = fake.next_cntlid;
    fake_r2t(cmd->conn, cmd->sqe.cid, fake_tag(&fake, cmd), 0, 32768); /* half of it */
    FAKE_WAIT(&fake, cmd->got == 32768);
    cancelled(&write);
    CHECK_SAYS(rig_event(&rig, VN_EVENT_REMOTE_LOST).text, "cancelled");
    fake_set_manual(&fake, false);
    CHECK_EQ(job_end(&read), 0);
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 65536, 65536, 2), 0);
    CHECK_EQ(fake.ccr_cntlid, lost); /* it might have been applied in part */
    rig_check_read(&rig, 65536, 65536, 2);
    end();
}

static int start_and_cancel(void *arg) {
    struct job *job = arg;
    job_submit(job);
    job_cancel_here(job);
    return 0;
}

/* Not a byte has left: taken back, without a trace. */
static void test_unsent(void) {
    begin(2000);
    uint32_t before = connects();
    for (int i = 0; i < 400; i++) { /* more often than there are slots */
        struct job job = {.rig = &rig, .buf = malloc(4096)};
        job.iov[0] = (struct iovec){job.buf, 4096};
        job.req = (struct vn_req){.op = i % 2 ? VN_OP_WRITE : VN_OP_READ, .length = 4096, .iov = job.iov, .nr_iov = 1};
        CHECK_EQ(vn_reactor_call(rig.reactor, start_and_cancel, &job), 0);
        CHECK_EQ(job_end(&job), VN_SC_ABORT_REQUESTED);
    }
    CHECK_EQ(fake.nr_io, 0);
    fake_set_manual(&fake, false);
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, 4096, 1), 0);
    CHECK_EQ(connects(), before);
    end();
}

/* While there is no way at all. */
static void test_waiting(void) {
    begin(2000);
    fake_unlisten(&fake);
    fake_cut(&fake);
    rig_event(&rig, VN_EVENT_REMOTE_LOST);
    struct job jobs[20];
    for (int i = 0; i < 20; i++)
        job_start(&jobs[i], &rig, i % 2 ? VN_OP_WRITE : VN_OP_READ, 0, 4096, 1);
    for (int i = 0; i < 20; i += 3)
        cancelled(&jobs[i]);
    fake_set_manual(&fake, false);
    fake_listen(&fake);
    for (int i = 0; i < 20; i++) {
        if (i % 3)
            CHECK_EQ(job_end(&jobs[i]), 0);
    }
    end();
}

/* A reset of the guest: everything at once, at any moment; then everything anew. */
static void test_reset(struct vn_test_random *random) {
    enum { NR = 60 };
    static struct job jobs[NR];
    begin(2000);
    fake_set_manual(&fake, false);
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < NR; i++)
            job_start(&jobs[i], &rig, vn_test_below(random, 2) ? VN_OP_WRITE : VN_OP_READ, vn_test_below(random, 64) * 4096,
                      512u << vn_test_below(random, 10), (uint8_t)i);
        for (int i = 0; i < NR; i++) {
            if (vn_test_below(random, 8))
                job_cancel(&jobs[i]);
        }
        for (int i = 0; i < NR; i++) {
            vn_status status = job_end(&jobs[i]);
            CHECK(!status || status == VN_SC_ABORT_REQUESTED);
        }
        CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, 65536, (uint8_t)round), 0);
        rig_check_read(&rig, 0, 65536, (uint8_t)round);
        if (connects() > FAKE_CONNS / 4) {
            end();
            begin(2000);
            fake_set_manual(&fake, false);
        }
    }
    end();
}

/* --- Closing --- */

/* What a closed channel has left with the target holds up the writes of the next. */
static void test_close_with_ghost(void) {
    begin(300);
    struct job ghost, write;
    job_start(&ghost, &rig, VN_OP_WRITE, 0, 4096, 1);
    fake_take(&fake);
    cancelled(&ghost);
    uint64_t start_ns = vn_monotonic_ns();
    rig_detach(&rig);
    rig_attach(&rig);
    job_start(&write, &rig, VN_OP_WRITE, 0, 4096, 2);
    struct fake_cmd *cmd = fake_take(&fake);
    CHECK(vn_monotonic_ns() - start_ns >= 1600000000ull);
    fake_obey(&fake, cmd);
    CHECK_EQ(job_end(&write), 0);
    end();
}

static void test_close_in_every_state(struct vn_test_random *random) {
    begin(2000);
    fake_set_manual(&fake, false);
    for (int i = 0; i < 30; i++) { /* while it connects: at any step */
        rig_detach(&rig);
        rig_attach(&rig);
        rig_pause_ms((long)vn_test_below(random, 4));
        if (i % 10 == 9) {
            rig_detach(&rig);
            fake_cut(&fake);
            fake_unlisten(&fake);
            fake_reap(&fake);
            fake_listen(&fake);
            rig_attach(&rig);
        }
    }
    rig_detach(&rig);
    fake.mute = true; /* the connection is there, nobody answers */
    rig_attach(&rig);
    rig_pause_ms(10);
    rig_detach(&rig);
    fake.mute = false;
    fake_unlisten(&fake); /* nobody there at all: it waits to try again */
    rig_attach(&rig);
    rig_pause_ms(10);
    rig_detach(&rig);
    fake_listen(&fake);
    rig_attach(&rig);
    rig_check_read(&rig, 0, 4096, 0);
    fake_cut(&fake); /* being lost */
    end();
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    test_read();
    test_numbers();
    test_ghost();
    test_ghost_lost();
    test_write_partly();
    test_unsent();
    test_waiting();
    test_reset(&random);
    test_close_with_ghost();
    test_close_in_every_state(&random);
    return 0;
}
