/* The forwarder with two paths to one namespace: which of them commands take, that none is lost when that changes, and
 * that a path which is lost is fenced off through the other.
 */
#include "forward_rig.h"

static struct fake fakes[2]; /* two ports of one subsystem: one disk, numbers of controllers that do not meet */
static struct rig rig;

static void begin(bool has_ana) {
    for (int i = 0; i < 2; i++) {
        fake_open(&fakes[i]);
        fakes[i].has_ana = has_ana;
        fakes[i].next_cntlid = (uint16_t)(i * 100);
    }
    free(fakes[1].disk);
    fakes[1].disk = fakes[0].disk;
    rig_remote(&rig, &fakes[0]);
    rig.remote.nr_paths = 2;
    rig.remote.paths[1] = (struct vn_remote_path){.host = "127.0.0.1", .port = fakes[1].port};
}

static void end(void) {
    rig_close(&rig);
    fakes[1].disk = NULL;
    fake_close(&fakes[1]);
    fake_close(&fakes[0]);
}

/* Both are up, the first one first: of two that are as good it is the one in use. */
static void attach(void) {
    fake_unlisten(&fakes[1]);
    rig_open(&rig);
    rig_event(&rig, VN_EVENT_REMOTE_ATTACHED);
    fake_listen(&fakes[1]);
    rig_event(&rig, VN_EVENT_REMOTE_ATTACHED);
}

static uint32_t nr_io(int path) {
    pthread_mutex_lock(&fakes[path].lock);
    uint32_t nr = fakes[path].nr_io;
    pthread_mutex_unlock(&fakes[path].lock);
    return nr;
}

static void set_ana(int path, enum vn_ana_state state) {
    pthread_mutex_lock(&fakes[path].lock);
    fakes[path].ana = state;
    pthread_mutex_unlock(&fakes[path].lock);
    fake_notice(&fakes[path], VN_AEN_NOTICE_ANA);
    CHECK_EQ(rig_event(&rig, VN_EVENT_REMOTE_ANA).a, state);
}

static void goes_to(int path) {
    uint32_t before[2] = {nr_io(0), nr_io(1)};
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, 4096, 1), 0);
    CHECK_EQ(nr_io(path), before[path] + 1);
    CHECK_EQ(nr_io(!path), before[!path]);
}

static void test_states(void) {
    begin(true);
    fakes[0].ana = VN_ANA_NON_OPTIMIZED;
    attach();
    goes_to(1); /* the better one */
    set_ana(0, VN_ANA_OPTIMIZED);
    goes_to(1); /* as good: no reason to move */
    set_ana(1, VN_ANA_NON_OPTIMIZED);
    goes_to(0);
    set_ana(0, VN_ANA_INACCESSIBLE);
    goes_to(1);
    set_ana(0, VN_ANA_CHANGE);
    set_ana(1, VN_ANA_PERSISTENT_LOSS);
    struct job job; /* nowhere: it waits */
    job_start(&job, &rig, VN_OP_WRITE, 0, 4096, 2);
    rig_pause_ms(20);
    CHECK(!job_is_done(&job));
    set_ana(0, VN_ANA_OPTIMIZED);
    CHECK_EQ(job_end(&job), 0);
    goes_to(0);
    end();
}

/* Commands that the target refuses for the state of the path are repeated where they can be. */
static void test_refused_commands(void) {
    static const vn_status statuses[] = {VN_SC_ANA_INACCESSIBLE, VN_SC_ANA_TRANSITION, VN_SC_PATH_INTERNAL};
    begin(true);
    attach();
    for (size_t i = 0; i < VN_ARRAY_SIZE(statuses); i++) {
        goes_to(0);
        struct job jobs[8];
        fake_set_manual(&fakes[0], true);
        for (int k = 0; k < 8; k++)
            job_start(&jobs[k], &rig, k % 2 ? VN_OP_READ : VN_OP_WRITE, (uint64_t)k * 65536, 65536, 3);
        set_ana(0, VN_ANA_INACCESSIBLE);
        for (int k = 0; k < 8; k++) {
            struct fake_cmd *cmd = fake_take(&fakes[0]);
            fake_resp(cmd->conn, cmd->sqe.cid, statuses[i], 0);
        }
        for (int k = 0; k < 8; k++)
            CHECK_EQ(job_end(&jobs[k]), 0);
        CHECK_EQ(fakes[1].nr_ccr, 0); /* the answers were there: nothing is unknown */
        fake_set_manual(&fakes[0], false);
        set_ana(0, VN_ANA_OPTIMIZED);
        set_ana(1, VN_ANA_NON_OPTIMIZED);
        goes_to(0);
        set_ana(1, VN_ANA_OPTIMIZED);
    }
    end();
}

/* A refusal without ANA, and only one path: tried again after a while. */
static void test_refused_alone(void) {
    begin(false);
    rig.remote.nr_paths = 1;
    rig_open(&rig);
    fake_set_manual(&fakes[0], true);
    struct job job;
    job_start(&job, &rig, VN_OP_WRITE, 0, 4096, 3);
    for (int i = 0; i < 3; i++) {
        struct fake_cmd *cmd = fake_take(&fakes[0]);
        fake_resp(cmd->conn, cmd->sqe.cid, VN_SC_ANA_TRANSITION, 0);
    }
    fake_set_manual(&fakes[0], false);
    CHECK_EQ(job_end(&job), 0);
    end();
}

/* One path is lost for good, with writes under way. */
static void test_lost_path(void) {
    begin(false);
    attach();
    goes_to(0);
    uint16_t lost = fakes[0].next_cntlid;
    struct job write, read;
    fake_set_manual(&fakes[0], true);
    job_start(&write, &rig, VN_OP_WRITE, 0, 65536, 4);
    fake_take(&fakes[0]);
    job_start(&read, &rig, VN_OP_READ, 65536, 65536, 4);
    fake_take(&fakes[0]);
    fakes[1].ccr_not_done = true;
    fake_unlisten(&fakes[0]);
    fake_cut(&fakes[0]);
    CHECK_EQ(job_end(&read), 0); /* over the other, at once */
    FAKE_WAIT(&fakes[1], fakes[1].nr_ccr >= 1);
    CHECK_EQ(fakes[1].ccr_cntlid, lost);
    CHECK(!job_is_done(&write));
    CHECK_EQ(nr_io(1), 1);
    pthread_mutex_lock(&fakes[1].lock);
    fakes[1].ccr_not_done = false;
    pthread_mutex_unlock(&fakes[1].lock);
    CHECK_EQ(job_end(&write), 0);
    CHECK_EQ(fakes[0].disk[65535], 4);
    goes_to(1);
    fake_listen(&fakes[0]); /* back: commands stay where they are well */
    fake_set_manual(&fakes[0], false);
    rig_event(&rig, VN_EVENT_REMOTE_BACK);
    goes_to(1);
    end();
}

/* Both in turn, again and again, with load. */
static void test_turns(struct vn_test_random *random) {
    enum { NR = 30 };
    static struct job jobs[NR];
    begin(false);
    attach();
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < NR; i++) {
            job_start(&jobs[i], &rig, vn_test_below(random, 2) ? VN_OP_WRITE : VN_OP_READ, (uint64_t)i * 65536,
                      512u << vn_test_below(random, 8), (uint8_t)(round + i));
            if (i == NR / 2)
                fake_cut(&fakes[round % 2]);
        }
        for (int i = 0; i < NR; i++) {
            CHECK_EQ(job_wait(&jobs[i]), 0);
            if (jobs[i].req.op == VN_OP_WRITE)
                CHECK_EQ(memcmp(fakes[0].disk + (uint64_t)i * 65536, jobs[i].buf, jobs[i].req.length), 0);
            free(jobs[i].buf);
        }
    }
    end();
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    test_states();
    test_refused_commands();
    test_refused_alone();
    test_lost_path();
    test_turns(&random);
    return 0;
}
