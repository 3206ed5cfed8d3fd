/* The forwarder with a target that obeys: every operation in every size, queues that are full, what open says, what the
 * target tells by itself.
 */
#include "forward_rig.h"

static struct fake fake;
static struct rig rig;

static void test_operations(void) {
    static const uint64_t sizes[] = {512, 4096, 8192, 8704, 32768, 131072, 307200, RIG_BYTES};
    for (size_t i = 0; i < VN_ARRAY_SIZE(sizes); i++) {
        uint8_t fill = (uint8_t)(0x11 * (i + 1));
        uint64_t offset = 4096 * i;
        CHECK_EQ(rig_do(&rig, VN_OP_WRITE, offset, sizes[i], fill), 0);
        CHECK_EQ(fake.disk[offset], fill);
        CHECK_EQ(fake.disk[offset + sizes[i] - 1], fill);
        rig_check_read(&rig, offset, sizes[i], fill);
        CHECK_EQ(rig_do(&rig, VN_OP_COMPARE, offset, sizes[i], fill), 0);
        CHECK_EQ(rig_do(&rig, VN_OP_COMPARE, offset, sizes[i], (uint8_t)~fill), VN_SC_COMPARE_FAILURE);
        CHECK_EQ(rig_do(&rig, VN_OP_FLUSH, 0, 0, 0), 0);
        CHECK_EQ(rig_do(&rig, i % 2 ? VN_OP_WRITE_ZEROES : VN_OP_DEALLOCATE, offset, sizes[i], 0), 0);
        rig_check_read(&rig, offset, sizes[i], 0);
    }
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE_ZEROES, 0, 1024, 0), 0);
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, 512, 1), 0); /* the first block, and nothing behind it */
    CHECK_EQ(fake.disk[511], 1);
    CHECK_EQ(fake.disk[512], 0);
}

/* Many more than there are slots, all at once, over each other's shoulders. */
static void test_more_than_fit(struct vn_test_random *random) {
    enum { NR = 100 };
    static struct job jobs[NR];
    for (int i = 0; i < NR; i++) {
        uint64_t bytes = 512 + 512 * vn_test_below(random, 64);
        job_start(&jobs[i], &rig, VN_OP_WRITE, (uint64_t)i * 33280, bytes, (uint8_t)(i + 1));
    }
    for (int i = 0; i < NR; i++) {
        CHECK_EQ(job_wait(&jobs[i]), 0);
        CHECK_EQ(memcmp(fake.disk + i * 33280, jobs[i].buf, jobs[i].req.length), 0);
        free(jobs[i].buf);
    }
}

static void run_io(struct vn_test_random *random) {
    rig_open(&rig);
    struct vn_event event = rig_event(&rig, VN_EVENT_REMOTE_ATTACHED);
    CHECK_SAYS(event.text, "connected");
    CHECK_EQ(event.b, 1);
    test_operations();
    test_more_than_fit(random);
    rig_close(&rig);
}

static void test_shapes(void) {
    struct vn_test_random random = vn_test_seed();
    fake_open(&fake);
    rig_remote(&rig, &fake);
    run_io(&random);

    rig.remote.nr_queues = 2;
    rig.remote.queue_entries = 3; /* two commands a queue */
    run_io(&random);

    fake_close(&fake);
    fake_open(&fake);
    fake.flow = true;
    fake.ioccsz = 4;  /* no data in capsules */
    fake.oncs &= (uint16_t)~VN_ONCS_WRITE_ZEROES;
    fake.mdts = 1; /* 8 KiB */
    rig_remote(&rig, &fake);
    run_io(&random);
    fake_close(&fake);
}

/* Flags that change what is done, as they stand on the wire. */
static void test_flags(void) {
    fake_open(&fake);
    rig_remote(&rig, &fake);
    rig_open(&rig);
    fake_set_manual(&fake, true);
    static const struct {
        enum vn_op op;
        uint32_t io_flags, cdw12;
        uint8_t opcode;
    } cases[] = {
        {VN_OP_WRITE, 0, 7, VN_IO_WRITE},
        {VN_OP_WRITE, VN_REQ_FUA, 7 | VN_RW_FUA, VN_IO_WRITE},
        {VN_OP_WRITE_ZEROES, 0, 7, VN_IO_WRITE_ZEROES},
        {VN_OP_WRITE_ZEROES, VN_REQ_MAY_UNMAP | VN_REQ_FUA, 7 | VN_RW_DEAC | VN_RW_FUA, VN_IO_WRITE_ZEROES},
    };
    for (size_t i = 0; i < VN_ARRAY_SIZE(cases); i++) {
        struct iovec iov = {malloc(4096), 4096};
        memset(iov.iov_base, 1, 4096);
        struct job job = {.rig = &rig, .buf = iov.iov_base};
        job.req = (struct vn_req){.op = cases[i].op, .io_flags = cases[i].io_flags, .offset = 4096, .length = 4096,
                                  .iov = &iov, .nr_iov = cases[i].op == VN_OP_WRITE};
        CHECK_EQ(vn_reactor_call(rig.reactor, job_submit, &job), 0);
        struct fake_cmd *cmd = fake_take(&fake);
        CHECK_EQ(cmd->sqe.opcode, cases[i].opcode);
        CHECK_EQ(cmd->sqe.cdw12, cases[i].cdw12);
        CHECK_EQ(cmd->sqe.cdw10, 8);
        CHECK_EQ(cmd->sqe.nsid, 1);
        fake_obey(&fake, cmd);
        CHECK_EQ(job_end(&job), 0);
    }
    rig_close(&rig);
    fake_close(&fake);
}

/* --- What open says --- */

static void refused(int err, const char *sentence) {
    char error[512] = "";
    struct vn_backend *backend;
    CHECK_EQ(vn_backend_open(&rig.opts, &backend, error, sizeof(error)), -err);
    CHECK_SAYS(error, sentence);
    CHECK(!strchr(error, '\n'));
}

static void test_sentences(void) {
    fake_open(&fake);
    rig_remote(&rig, &fake);
    rig.remote.nsid = 2;
    refused(ENOENT, "has no namespace 2 for the host");
    rig.remote.nsid = 1;
    rig.opts.uuid[3] = 1;
    refused(ESTALE, "has the UUID 5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a, not 00000001-");
    memset(rig.opts.uuid, 0, sizeof(rig.opts.uuid));
    rig.opts.block_size = 4096;
    refused(EINVAL, "has blocks of 512 bytes, not 4096");
    rig.opts.block_size = 0;
    fake.connect_status = VN_SC_CONNECT_HOST | VN_STATUS_DNR;
    refused(EACCES, "does not let the host " RIG_HOSTNQN);
    fake.connect_status = VN_SC_CONNECT_PARAMETER | VN_STATUS_DNR;
    fake.connect_result = VN_CONNECT_IATTR_DATA | offsetof(struct vn_connect_data, subnqn);
    refused(ENOENT, "has no subsystem " RIG_NQN);
    fake.connect_status = 0;
    fake.lbads = 13;
    refused(EMEDIUMTYPE, "blocks of 2^13 bytes");
    fake.lbads = 9;
    fake.nr_blocks = UINT64_MAX;
    refused(EFBIG, "impossible size");
    fake.nr_blocks = FAKE_BLOCKS;
    rig.remote.flags = VN_REMOTE_HDGST;
    refused(EPROTONOSUPPORT, "does not agree on header digests");
    rig.remote.flags = 0;
    fake.mute = true;
    rig.remote.connect_ms = 100;
    refused(ETIMEDOUT, "no connection within 100 ms");
    fake.mute = false;
    rig.remote.connect_ms = 0;
    fake_unlisten(&fake);
    refused(ECONNREFUSED, "Connection refused");
    rig.remote.nr_paths = 2; /* the second one does */
    rig.remote.paths[1] = rig.remote.paths[0];
    rig.remote.paths[0].port = 1;
    fake_listen(&fake);
    rig_open(&rig);
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, 512, 1), 0);
    rig_close(&rig);
    rig.remote.nr_paths = 9;
    refused(EINVAL, "1 to 8 paths");
    rig.remote.nr_paths = 1;
    rig.remote.kato_ms = 99;
    refused(EINVAL, "keep-alive");
    rig.remote.kato_ms = 0;
    rig.remote.queue_entries = 1025;
    refused(EINVAL, "2 to 1024 entries");
    rig.remote.queue_entries = 0;
    rig.remote.hostnqn = "";
    refused(EINVAL, "NQN");
    fake_close(&fake);
}

/* --- What the target tells --- */

static void test_statuses_pass(void) {
    fake_open(&fake);
    rig_remote(&rig, &fake);
    rig_open(&rig);
    static const vn_status statuses[] = {VN_SC_LBA_RANGE | VN_STATUS_DNR, VN_SC_NS_WRITE_PROTECTED | VN_STATUS_DNR,
                                         VN_SC_UNRECOVERED_READ, VN_SC_TRANSIENT_TRANSPORT};
    for (size_t i = 0; i < VN_ARRAY_SIZE(statuses); i++) {
        fake.io_status = statuses[i] | VN_STATUS_MORE; /* whose error log has more is not for our guest */
        CHECK_EQ(rig_do(&rig, VN_OP_READ, 0, 4096, 0), statuses[i]);
        CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, RIG_BYTES, 0), statuses[i]);
    }
    fake.io_status = 0;
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, 4096, 0), 0);
    rig_close(&rig);
    fake_close(&fake);
}

static void test_resize(void) {
    fake_open(&fake);
    rig_remote(&rig, &fake);
    rig_open(&rig);
    rig_event(&rig, VN_EVENT_REMOTE_ATTACHED);
    fake.nr_blocks = 2 * FAKE_BLOCKS;
    fake_notice(&fake, VN_AEN_NOTICE_NS_ATTR);
    struct vn_event event = rig_event(&rig, VN_EVENT_REMOTE_RESIZED);
    CHECK_EQ(event.a, 2ull * FAKE_BLOCKS * FAKE_BLOCK);
    CHECK_EQ(rig.backend->size, (uint64_t)FAKE_BLOCKS * FAKE_BLOCK);
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, 4096, 0), 0);
    fake.nr_blocks = FAKE_BLOCKS; /* as it was at open: no harm */
    fake_notice(&fake, VN_AEN_NOTICE_NS_ATTR);
    rig_event(&rig, VN_EVENT_REMOTE_RESIZED);
    fake.nr_blocks = FAKE_BLOCKS - 1;
    fake_notice(&fake, VN_AEN_NOTICE_NS_ATTR);
    event = rig_event(&rig, VN_EVENT_REMOTE_REFUSED);
    CHECK_SAYS(event.text, "has shrunk from 8192 to 8191 blocks");
    rig_event(&rig, VN_EVENT_REMOTE_LOST);
    fake.nr_blocks = FAKE_BLOCKS;
    rig_event(&rig, VN_EVENT_REMOTE_BACK);
    CHECK_EQ(rig_do(&rig, VN_OP_WRITE, 0, 4096, 0), 0);
    rig_close(&rig);
    fake_close(&fake);
}

int main(void) {
    test_shapes();
    test_flags();
    test_sentences();
    test_statuses_pass();
    test_resize();
    return 0;
}
