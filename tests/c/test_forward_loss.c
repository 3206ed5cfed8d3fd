/* The forwarder when the target goes away: what is repeated and when, what waits and for how long, and that no write goes
 * out while an older one of unknown fate may still be applied.
 */
#include "forward_rig.h"

static struct fake fake;
static struct rig rig;

static void begin(uint32_t kato_ms, uint32_t reconnect_ms) {
    fake_open(&fake);
    rig_remote(&rig, &fake);
    rig.remote.kato_ms = kato_ms;
    rig.remote.reconnect_ms = reconnect_ms;
}

static void end(void) {
    rig_close(&rig);
    fake_close(&fake);
}

static uint32_t connects(void) {
    pthread_mutex_lock(&fake.lock);
    uint32_t nr = fake.nr_admin_connects;
    pthread_mutex_unlock(&fake.lock);
    return nr;
}

/* Takes a read and a write that are under way, then cuts. */
static void lose(struct job *read, struct job *write, uint8_t fill) {
    fake_set_manual(&fake, true);
    job_start(read, &rig, VN_OP_READ, 8192, 4096, 0);
    CHECK_EQ(fake_take(&fake)->sqe.opcode, VN_IO_READ);
    job_start(write, &rig, VN_OP_WRITE, 0, 4096, fill);
    CHECK_EQ(fake_take(&fake)->sqe.opcode, VN_IO_WRITE);
    fake_cut(&fake);
}

/* Reads go on at once, writes when the target says that the old controller is gone. */
static void test_fence_by_reset(void) {
    begin(2000, 20000);
    rig_open(&rig);
    rig_event(&rig, VN_EVENT_REMOTE_ATTACHED);
    uint16_t lost = fake.next_cntlid;
    fake.ccr_not_done = true;
    struct job read, write, later;
    lose(&read, &write, 1);
    CHECK_SAYS(rig_event(&rig, VN_EVENT_REMOTE_LOST).text, "ended the connection");
    CHECK_EQ(fake_take(&fake)->sqe.opcode, VN_IO_READ); /* over the new association */
    job_start(&later, &rig, VN_OP_WRITE, 65536, 4096, 2); /* elsewhere, and it waits all the same */
    FAKE_WAIT(&fake, fake.nr_ccr >= 1);
    CHECK_EQ(fake.ccr_cntlid, lost);
    CHECK_EQ(fake.ccr_cirn, 0x1234567800000000ull + lost);
    rig_pause_ms(50);
    CHECK_EQ(fake_nr_held(&fake), 0);
    CHECK(!job_is_done(&write) && !job_is_done(&later));
    pthread_mutex_lock(&fake.lock);
    fake.ccr_not_done = false; /* it is asked again */
    pthread_mutex_unlock(&fake.lock);
    struct fake_cmd *first = fake_take(&fake), *second = fake_take(&fake);
    CHECK_EQ(first->sqe.opcode, VN_IO_WRITE);
    CHECK_EQ(first->sqe.cdw10, 0); /* the older one first */
    CHECK_EQ(second->sqe.cdw10, 128);
    CHECK(fake.nr_ccr >= 2);
    fake_obey(&fake, first);
    fake_obey(&fake, second);
    CHECK_EQ(job_end(&write), 0);
    CHECK_EQ(job_end(&later), 0);
    fake_cut(&fake); /* the read once more */
    fake_set_manual(&fake, false);
    CHECK_EQ(job_end(&read), 0);
    end();
}

/* What has not reached the target as a whole is repeated without asking: no write was under way. */
static void test_nothing_to_fence(void) {
    begin(2000, 20000);
    rig_open(&rig);
    struct job reads[5];
    fake_set_manual(&fake, true);
    for (int i = 0; i < 5; i++) {
        job_start(&reads[i], &rig, VN_OP_READ, (uint64_t)i * 4096, 4096, 1);
        fake_take(&fake);
    }
    fake_cut(&fake);
    FAKE_WAIT(&fake, fake.nr_admin_connects == 3); /* open, the channel, and again */
    fake_set_manual(&fake, false);
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, 4096, 0), 0);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(job_end(&reads[i]), 0);
    CHECK_EQ(fake.nr_ccr, 0);
    end();
}

/* A target without the command: two keep-alive periods and a second, at least. */
static void test_fence_by_time(void) {
    begin(600, 20000);
    fake.has_ccr = false;
    rig_open(&rig);
    struct job read, write;
    uint64_t start_ns = vn_monotonic_ns();
    lose(&read, &write, 3);
    CHECK_EQ(fake_take(&fake)->sqe.opcode, VN_IO_READ);
    struct fake_cmd *cmd = fake_take(&fake);
    CHECK_EQ(cmd->sqe.opcode, VN_IO_WRITE);
    CHECK(vn_monotonic_ns() - start_ns >= 2200000000ull);
    CHECK_EQ(fake.nr_ccr, 0);
    fake_obey(&fake, cmd);
    CHECK_EQ(job_end(&write), 0);
    fake_cut(&fake);
    fake_set_manual(&fake, false);
    CHECK_EQ(job_end(&read), 0);
    end();
}

/* The bound passes: a clean error, at once for what comes later; then a device that works, but fenced all the same. */
static void test_bound(void) {
    begin(2000, 200);
    rig_open(&rig);
    struct job read, write;
    fake_set_manual(&fake, true);
    job_start(&read, &rig, VN_OP_READ, 8192, 4096, 0);
    fake_take(&fake);
    job_start(&write, &rig, VN_OP_WRITE, 0, 4096, 1);
    fake_take(&fake);
    uint16_t lost = fake.next_cntlid;
    fake_unlisten(&fake);
    fake_cut(&fake);
    CHECK_EQ(job_end(&read), VN_SC_HOST_PATH);
    CHECK_EQ(job_end(&write), VN_SC_HOST_PATH);
    CHECK_EQ(rig_do(&rig, VN_OP_READ, 0, 4096, 0), VN_SC_HOST_PATH);
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, RIG_BYTES, 0), VN_SC_HOST_PATH);
    CHECK_EQ(rig_do(&rig, VN_OP_FLUSH, 0, 0, 0), VN_SC_HOST_PATH);
    fake_set_manual(&fake, false);
    fake_listen(&fake);
    rig_event(&rig, VN_EVENT_REMOTE_BACK);
    vn_status status;
    do
        status = rig_do(&rig, VN_OP_WRITE, 0, 4096, 4);
    while (status == VN_SC_HOST_PATH); /* until the old controller is known to be gone */
    CHECK_EQ(status, 0);
    CHECK_EQ(fake.nr_ccr, 1);
    CHECK_EQ(fake.ccr_cntlid, lost);
    rig_check_read(&rig, 0, 4096, 4);
    end();
}

/* Fenced for longer than the bound: writes fail, reads do not. */
static void test_bound_while_fenced(void) {
    begin(2000, 300);
    rig_open(&rig);
    fake.ccr_not_done = true;
    struct job read, write;
    lose(&read, &write, 1);
    CHECK_EQ(job_end(&write), VN_SC_HOST_PATH);
    fake_set_manual(&fake, false);
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, 4096, 1), VN_SC_HOST_PATH);
    rig_check_read(&rig, 0, 4096, 0);
    CHECK_EQ(job_end(&read), 0);
    pthread_mutex_lock(&fake.lock);
    fake.ccr_not_done = false;
    pthread_mutex_unlock(&fake.lock);
    while (rig_do(&rig, VN_OP_WRITE, 0, 4096, 1))
        rig_pause_ms(5);
    rig_check_read(&rig, 0, 4096, 1);
    end();
}

static void change(int what, bool back) {
    pthread_mutex_lock(&fake.lock);
    switch (what) {
    case 0:
        fake.uuid[0] = back ? 0x5a : 1;
        break;
    case 1:
        fake.nr_blocks = back ? FAKE_BLOCKS : FAKE_BLOCKS / 2;
        break;
    case 2:
        fake.lbads = back ? 9 : 12;
        break;
    default:
        fake.has_cache = !back;
        break;
    }
    pthread_mutex_unlock(&fake.lock);
}

static void test_identity(void) {
    static const char *const wrong[] = {"another UUID", "has shrunk", "4096 bytes now, not 512", "volatile write cache"};
    begin(2000, 300);
    fake.has_cache = false;
    rig_open(&rig);
    for (int what = 0; what < 4; what++) {
        rig_event(&rig, what ? VN_EVENT_REMOTE_BACK : VN_EVENT_REMOTE_ATTACHED);
        CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, 4096, 1), 0);
        change(what, false);
        fake_cut(&fake);
        CHECK_SAYS(rig_event(&rig, VN_EVENT_REMOTE_REFUSED).text, wrong[what]);
        uint32_t nr_io = fake.nr_io;
        vn_status status;
        do
            status = rig_do(&rig, VN_OP_READ, 0, 4096, 1);
        while (!status);
        CHECK_EQ(status, VN_SC_HOST_PATH);
        CHECK_EQ(fake.nr_io, nr_io); /* nothing went there */
        change(what, true);
    }
    rig_event(&rig, VN_EVENT_REMOTE_BACK);
    rig_check_read(&rig, 0, 4096, 1);
    end();
}

/* A peer that is there and says nothing. */
static void test_silence(void) {
    begin(400, 20000);
    rig_open(&rig);
    FAKE_WAIT(&fake, fake.nr_keep_alive >= 2);
    struct job job;
    fake.deaf = true;
    job_start(&job, &rig, VN_OP_READ, 0, 4096, 0);
    CHECK_SAYS(rig_event(&rig, VN_EVENT_REMOTE_LOST).text, "is silent: nothing heard for 400 ms");
    fake.deaf = false;
    CHECK_EQ(job_end(&job), 0);
    end();
}

/* One that answers everything but one command. */
static void test_late(void) {
    begin(2000, 20000);
    rig.remote.io_timeout_ms = 600;
    rig_open(&rig);
    struct job job;
    fake_set_manual(&fake, true);
    job_start(&job, &rig, VN_OP_READ, 0, 4096, 0);
    fake_take(&fake);
    CHECK_SAYS(rig_event(&rig, VN_EVENT_REMOTE_LOST).text, "has not answered a command for 600 ms");
    fake_set_manual(&fake, false);
    CHECK_EQ(job_end(&job), 0);
    end();
}

/* Again and again, with all that fits under way: nothing is lost, nothing comes twice. */
static void test_often(struct vn_test_random *random) {
    enum { NR = 40 };
    static struct job jobs[NR];
    begin(2000, 20000);
    rig.remote.nr_queues = 2;
    rig_open(&rig);
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < NR; i++) {
            uint64_t bytes = vn_test_below(random, 2) ? 4096 : 65536;
            enum vn_op op = vn_test_below(random, 3) ? VN_OP_WRITE : VN_OP_READ;
            job_start(&jobs[i], &rig, op, (uint64_t)i * 65536, bytes, (uint8_t)(round * NR + i));
            if (vn_test_below(random, 16) == 0)
                fake_cut(&fake);
        }
        for (int i = 0; i < NR; i++) {
            CHECK_EQ(job_wait(&jobs[i]), 0);
            if (jobs[i].req.op == VN_OP_WRITE)
                CHECK_EQ(memcmp(fake.disk + (uint64_t)i * 65536, jobs[i].buf, jobs[i].req.length), 0);
            free(jobs[i].buf);
        }
        if (connects() > FAKE_CONNS / 6) {
            end();
            begin(2000, 20000);
            rig_open(&rig);
        }
    }
    end();
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    test_fence_by_reset();
    test_nothing_to_fence();
    test_fence_by_time();
    test_bound();
    test_bound_while_fenced();
    test_identity();
    test_silence();
    test_late();
    test_often(&random);
    return 0;
}
