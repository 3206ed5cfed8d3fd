/* The file backend's I/O when things go wrong: short transfers, interruptions, full disks, truncated files, failed
 * flushes, no buffers, no submission slots, cancelled requests. Results are put in at the boundary to the system.
 */
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

#include "backend/file.h"
#include "backend_rig.h"
#include "core/status.h"

#define SIZE (1u << 20)
#define DNR(status) ((vn_status)((status) | VN_STATUS_DNR))

static char path[300];
static uint8_t *buf, *other; /* SIZE bytes each, aligned */

static struct vn_ns_opts opts_of(uint32_t flags) {
    return (struct vn_ns_opts){
        .backend = "file", .path = path, .size = SIZE, .block_size = 512, .flags = VN_NS_CREATE | flags};
}

static struct vn_file *file_of(struct rig *rig) {
    return (struct vn_file *)rig->backend;
}

static void fill(uint8_t value) {
    memset(buf, value, SIZE);
}

/* --- Faults --- */

static int nr_calls, fault_err;

static int halve(enum vn_file_phase phase, const struct vn_req *req, int res) {
    (void)req;
    nr_calls++;
    return phase == VN_FILE_DATA && res > 4096 ? res / 2 & ~511 : res;
}

static int odd(enum vn_file_phase phase, const struct vn_req *req, int res) {
    (void)req;
    nr_calls++;
    return phase == VN_FILE_DATA && res > 3 ? res / 3 : res;
}

static int interrupt_some(enum vn_file_phase phase, const struct vn_req *req, int res) {
    (void)req;
    return phase != VN_FILE_SYNC && nr_calls++ % 8 != 7 ? (nr_calls & 1 ? -EINTR : -EAGAIN) : res;
}

static int interrupt_all(enum vn_file_phase phase, const struct vn_req *req, int res) {
    (void)phase;
    (void)req;
    (void)res;
    nr_calls++;
    return -EAGAIN;
}

static int fail_syncs(enum vn_file_phase phase, const struct vn_req *req, int res) {
    (void)req;
    return phase == VN_FILE_SYNC ? -fault_err : res;
}

static int fail_data(enum vn_file_phase phase, const struct vn_req *req, int res) {
    (void)req;
    return phase == VN_FILE_DATA ? -fault_err : res;
}

static int count_syncs(enum vn_file_phase phase, const struct vn_req *req, int res) {
    (void)req;
    nr_calls += phase == VN_FILE_SYNC;
    return res;
}

static struct io_uring_sqe last_seen;

static void see(enum vn_file_phase phase, const struct io_uring_sqe *sqe) {
    (void)phase;
    last_seen = *sqe;
    nr_calls++;
}

static int refuse_ranges(enum vn_file_phase phase, const struct vn_req *req, int res) {
    (void)req;
    nr_calls += phase == VN_FILE_RANGE;
    return phase == VN_FILE_RANGE ? -fault_err : res;
}

static int want_alignment(enum vn_file_phase phase, const struct vn_req *req, int res) {
    (void)phase;
    return nr_calls++ == 0 && req->op == VN_OP_READ ? -EINVAL : res;
}

/* --- Tests --- */

/* Several iovecs, each transfer cut short: the rest follows from the right place, the iovecs stay as they were. */
static void test_short_transfers(uint32_t flags, int (*fault)(enum vn_file_phase, const struct vn_req *, int)) {
    struct vn_ns_opts opts = opts_of(flags);
    struct rig rig;
    rig_open(&rig, &opts);
    file_of(&rig)->fault = fault;
    struct vn_test_random random = {.state = 7};
    vn_test_fill(&random, buf, SIZE);
    struct iovec iov[5], before[5];
    for (enum vn_op op = VN_OP_READ; op <= VN_OP_WRITE; op++) {
        enum vn_op now = op == VN_OP_READ ? VN_OP_WRITE : VN_OP_READ; /* write first */
        uint8_t *at = now == VN_OP_WRITE ? buf : other;
        uint64_t length = 0;
        for (uint32_t i = 0; i < 5; i++) {
            iov[i] = (struct iovec){.iov_base = at + length, .iov_len = 4096 * (i + 1)};
            length += iov[i].iov_len;
        }
        memcpy(before, iov, sizeof(iov));
        struct vn_req req = {.op = now, .offset = 512, .length = length, .iov = iov, .nr_iov = 5};
        struct vn_req *reqs[] = {&req};
        nr_calls = 0;
        rig_run(&rig, reqs, 1);
        CHECK_EQ(req.status, 0);
        CHECK(nr_calls > 2);
        CHECK(memcmp(before, iov, sizeof(iov)) == 0);
    }
    CHECK(memcmp(buf, other, 15 * 4096) == 0);
    rig_close(&rig);
    unlink(path);
}

static void test_interruptions(void) {
    struct vn_ns_opts opts = opts_of(0);
    struct rig rig;
    rig_open(&rig, &opts);
    fill(1);
    file_of(&rig)->fault = interrupt_some;
    CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 8192, buf, 0), 0);
    CHECK_EQ(rig_io(&rig, VN_OP_WRITE_ZEROES, 0, 4096, NULL, VN_REQ_FUA), 0);
    CHECK_EQ(rig_io(&rig, VN_OP_READ, 0, 8192, other, 0), 0);
    CHECK(other[0] == 0 && other[4095] == 0 && other[4096] == 1);
    file_of(&rig)->fault = interrupt_all; /* not for ever */
    nr_calls = 0;
    CHECK_EQ(rig_io(&rig, VN_OP_READ, 0, 4096, other, 0), VN_SC_NS_NOT_READY);
    CHECK(nr_calls > 1 && nr_calls < 100);
    rig_close(&rig);
    unlink(path);
}

static void expect_latched(struct rig *rig, int err) {
    CHECK_EQ(vn_backend_latched(rig->backend), err);
    file_of(rig)->fault = NULL; /* the disk is well again: it does not help */
    CHECK_EQ(rig_io(rig, VN_OP_FLUSH, 0, 0, NULL, 0), DNR(VN_SC_WRITE_FAULT));
    CHECK_EQ(rig_io(rig, VN_OP_WRITE, 0, 512, buf, 0), DNR(VN_SC_NS_WRITE_PROTECTED));
    CHECK_EQ(rig_io(rig, VN_OP_WRITE, 0, 512, buf, VN_REQ_FUA), DNR(VN_SC_NS_WRITE_PROTECTED));
    CHECK_EQ(rig_io(rig, VN_OP_WRITE_ZEROES, 0, 512, NULL, 0), DNR(VN_SC_NS_WRITE_PROTECTED));
    CHECK_EQ(rig_io(rig, VN_OP_DEALLOCATE, 0, 512, NULL, 0), DNR(VN_SC_NS_WRITE_PROTECTED));
    CHECK_EQ(rig_io(rig, VN_OP_READ, 0, 512, other, 0), 0);
    rig_close(rig);
    unlink(path);
}

/* Promise 2. Eight flushes at once: all that wait fail, not only the one that the kernel told. */
static void test_failed_flush_latches(int err, vn_status status) {
    struct vn_ns_opts opts = opts_of(0);
    struct rig rig;
    rig_open(&rig, &opts);
    fault_err = err;
    file_of(&rig)->fault = fail_syncs;
    CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 512, buf, 0), 0);
    struct vn_req flushes[8], *reqs[8];
    for (int i = 0; i < 8; i++) {
        flushes[i] = (struct vn_req){.op = VN_OP_FLUSH};
        reqs[i] = &flushes[i];
    }
    rig_run(&rig, reqs, 8);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(flushes[i].status, DNR(status));
    expect_latched(&rig, err);
}

/* One fdatasync at a time: the first flush has one to itself, the seven that come while it runs share the next. */
static void test_flushes_share(void) {
    struct vn_ns_opts opts = opts_of(0);
    struct rig rig;
    rig_open(&rig, &opts);
    file_of(&rig)->fault = count_syncs;
    struct vn_req flushes[8], *reqs[8];
    for (int i = 0; i < 8; i++) {
        flushes[i] = (struct vn_req){.op = VN_OP_FLUSH};
        reqs[i] = &flushes[i];
    }
    nr_calls = 0;
    rig_run(&rig, reqs, 8);
    CHECK_EQ(nr_calls, 2);
    rig_close(&rig);
    unlink(path);
}

/* What makes a FUA write durable goes to the system with it, or right after it; and only then. */
static void test_fua_reaches_the_system(uint32_t flags) {
    struct vn_ns_opts opts = opts_of(flags);
    struct rig rig;
    rig_open(&rig, &opts);
    bool direct = rig.backend->direct;
    file_of(&rig)->seen = see;
    for (uint32_t skip = 0; skip < 8; skip += 4) { /* aligned, and through a bounce buffer */
        nr_calls = 0;
        CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 4096, buf + skip, 0), 0);
        CHECK(nr_calls == 1 && last_seen.opcode == IORING_OP_WRITE && last_seen.rw_flags == 0);
        nr_calls = 0;
        CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 4096, buf + skip, VN_REQ_FUA), 0);
        if (direct)
            CHECK(nr_calls == 1 && last_seen.opcode == IORING_OP_WRITE && last_seen.rw_flags == RWF_DSYNC);
        else
            CHECK(nr_calls == 2 && last_seen.opcode == IORING_OP_FSYNC);
    }
    nr_calls = 0;
    CHECK_EQ(rig_io(&rig, VN_OP_WRITE_ZEROES, 0, 4096, NULL, VN_REQ_FUA), 0);
    CHECK(last_seen.opcode == IORING_OP_FSYNC || last_seen.rw_flags == RWF_DSYNC);
    nr_calls = 0;
    CHECK_EQ(rig_io(&rig, VN_OP_FLUSH, 0, 0, NULL, 0), 0);
    CHECK(nr_calls == 1 && last_seen.opcode == IORING_OP_FSYNC && last_seen.fsync_flags == IORING_FSYNC_DATASYNC);
    rig_close(&rig);
    unlink(path);
}

/* FUA: by RWF_DSYNC when direct, by an fdatasync when not; both latch, but a full disk is only a full disk. */
static void test_failed_fua_latches(void) {
    struct rig rig;
    struct vn_ns_opts opts = opts_of(0);
    rig_open(&rig, &opts);
    if (rig.backend->direct) {
        file_of(&rig)->fault = fail_data;
        fault_err = ENOSPC;
        CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 512, buf, VN_REQ_FUA), VN_SC_CAPACITY_EXCEEDED);
        CHECK_EQ(vn_backend_latched(rig.backend), 0);
        fault_err = EIO;
        CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 512, buf, 0), VN_SC_WRITE_FAULT); /* no flush in it */
        CHECK_EQ(rig_io(&rig, VN_OP_READ, 0, 512, buf, 0), VN_SC_UNRECOVERED_READ);
        CHECK_EQ(vn_backend_latched(rig.backend), 0);
        CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 512, buf, VN_REQ_FUA), VN_SC_WRITE_FAULT);
        expect_latched(&rig, EIO);
    } else {
        rig_close(&rig);
        unlink(path);
    }
    for (enum vn_op op = VN_OP_WRITE; op <= VN_OP_WRITE_ZEROES; op += VN_OP_WRITE_ZEROES - VN_OP_WRITE) {
        opts = opts_of(VN_NS_NO_DIRECT);
        rig_open(&rig, &opts);
        file_of(&rig)->fault = fail_syncs;
        fault_err = EIO;
        CHECK_EQ(rig_io(&rig, op, 0, 512, op == VN_OP_WRITE ? buf : NULL, 0), 0);
        CHECK_EQ(rig_io(&rig, op, 0, 512, op == VN_OP_WRITE ? buf : NULL, VN_REQ_FUA), DNR(VN_SC_WRITE_FAULT));
        expect_latched(&rig, EIO);
    }
}

/* A file system that cannot clear or punch: zeros are written, in several pieces, and it is asked only once. */
static void test_ranges_refused(int err, enum vn_op op, int asked) {
    struct vn_ns_opts opts = opts_of(0);
    opts.size = 4 * VN_FILE_ZEROS;
    struct rig rig;
    rig_open(&rig, &opts);
    fill(0xaa);
    for (uint64_t at = 0; at < opts.size; at += SIZE)
        CHECK_EQ(rig_io(&rig, VN_OP_WRITE, at, SIZE, buf, 0), 0);
    nr_calls = 0;
    fault_err = err;
    if (rig.backend->deallocates || op == VN_OP_WRITE_ZEROES) {
        file_of(&rig)->fault = refuse_ranges;
        CHECK_EQ(rig_io(&rig, op, 512, 2 * VN_FILE_ZEROS + 512, NULL, 0), 0);
        CHECK_EQ(rig_io(&rig, op, 2 * VN_FILE_ZEROS, 4096, NULL, op == VN_OP_WRITE_ZEROES ? VN_REQ_FUA : 0), 0);
        CHECK_EQ(nr_calls, asked);
        CHECK_EQ(rig_io(&rig, VN_OP_READ, 2 * VN_FILE_ZEROS, 8192, other, 0), 0);
        CHECK(other[0] == 0 && other[4095] == 0 && other[4096] == 0xaa);
        CHECK_EQ(rig_io(&rig, VN_OP_READ, 0, 8192, other, 0), 0);
        CHECK(other[511] == 0xaa && other[512] == 0 && other[8191] == 0);
    }
    rig_close(&rig);
    unlink(path);
}

/* Says EINVAL to an aligned direct read: the file system wants more than it told, so it goes through a buffer. */
static void test_more_alignment_than_told(void) {
    struct vn_ns_opts opts = opts_of(0);
    struct rig rig;
    rig_open(&rig, &opts);
    if (rig.backend->direct) {
        fill(5);
        CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 4096, buf, 0), 0);
        file_of(&rig)->fault = want_alignment;
        nr_calls = 0;
        CHECK_EQ(rig_io(&rig, VN_OP_READ, 0, 4096, other, 0), 0);
        CHECK_EQ(nr_calls, 2);
        CHECK_EQ(other[4095], 5);
        CHECK_EQ(vn_backend_bounced(rig.backend), 1);
    }
    rig_close(&rig);
    unlink(path);
}

static void test_truncated_file(uint32_t flags) {
    struct vn_ns_opts opts = opts_of(flags);
    struct rig rig;
    rig_open(&rig, &opts);
    CHECK_EQ(truncate(path, SIZE / 2), 0);
    CHECK_EQ(rig_io(&rig, VN_OP_READ, SIZE / 2, 4096, other, 0), VN_SC_UNRECOVERED_READ);
    CHECK_EQ(rig_io(&rig, VN_OP_READ, SIZE / 2 - 4096, 8192, other, 0), VN_SC_UNRECOVERED_READ);
    CHECK_EQ(rig_io(&rig, VN_OP_READ, 0, 4096, other, 0), 0);
    rig_close(&rig);
    unlink(path);
}

/* More misaligned transfers at once than there are buffers, and more transfers than the ring has slots. */
static void test_busy(uint32_t nr, uint64_t skip, bool expects_busy) {
    struct vn_ns_opts opts = opts_of(0);
    struct rig rig;
    rig_open(&rig, &opts);
    fill(3);
    CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, SIZE, buf, 0), 0);
    uint8_t *guest = aligned_alloc(4096, (size_t)nr * 1024);
    struct vn_req *all = calloc(nr, sizeof(*all)), **reqs = calloc(nr, sizeof(*reqs));
    struct iovec *iov = calloc(nr, sizeof(*iov));
    for (uint32_t i = 0; i < nr; i++) {
        iov[i] = (struct iovec){.iov_base = guest + i * 1024 + skip, .iov_len = 512};
        all[i] = (struct vn_req){
            .op = VN_OP_READ, .offset = i % 2048 * 512, .length = 512, .iov = &iov[i], .nr_iov = 1};
        reqs[i] = &all[i];
    }
    rig_run(&rig, reqs, nr);
    for (uint32_t i = 0; i < nr; i++) {
        CHECK_EQ(all[i].status, 0);
        CHECK(guest[i * 1024 + skip] == 3 && guest[i * 1024 + skip + 511] == 3);
    }
    printf("%u at once, skip %d: BUSY %u times, %llu bounced\n", nr, (int)skip, rig.nr_busy,
           (unsigned long long)vn_backend_bounced(rig.backend));
    CHECK(!expects_busy || rig.nr_busy > 0);
    rig_close(&rig);
    free(guest);
    free(all);
    free(reqs);
    free(iov);
    unlink(path);
}

/* Each completes exactly once, with success or as aborted, and nothing is left behind for chan_close to find. */
static void test_cancel(void) {
    struct vn_ns_opts opts = opts_of(VN_NS_NO_DIRECT); /* buffered writes wait in the kernel's queue: real cancels */
    struct rig rig;
    rig_open(&rig, &opts);
    rig.cancel_after_ns = 1;
    struct vn_req all[200], *reqs[200];
    struct iovec iov = {.iov_base = buf, .iov_len = 65536};
    static const enum vn_op ops[] = {VN_OP_WRITE, VN_OP_READ, VN_OP_FLUSH, VN_OP_WRITE_ZEROES};
    uint32_t nr_aborted = 0;
    for (uint32_t round = 0; round < 10; round++) {
        for (uint32_t i = 0; i < 200; i++) {
            enum vn_op op = ops[i % 4];
            all[i] = (struct vn_req){.op = op, .iov = &iov, .nr_iov = 1};
            all[i].offset = op == VN_OP_FLUSH ? 0 : i % 16 * 65536;
            all[i].length = op == VN_OP_FLUSH ? 0 : 65536;
            reqs[i] = &all[i];
        }
        rig_run(&rig, reqs, 200);
        for (uint32_t i = 0; i < 200; i++) {
            CHECK(all[i].status == 0 || all[i].status == VN_SC_ABORT_REQUESTED);
            nr_aborted += all[i].status != 0;
        }
    }
    printf("%u of 2000 aborted\n", nr_aborted);
    CHECK_EQ(vn_backend_latched(rig.backend), 0);
    rig_close(&rig);
    unlink(path);
}

/* A real full disk, where this user may mount one. */
static void test_full_disk(void) {
    char top[300], full[320];
    snprintf(top, sizeof(top), "%s/small", vn_test_dir());
    snprintf(full, sizeof(full), "%s/disk", top);
    CHECK_EQ(mkdir(top, 0700), 0);
    if (mount("tmpfs", top, "tmpfs", 0, "size=1M") < 0) {
        printf("full disk: not tried, this user cannot mount\n");
        return;
    }
    struct vn_ns_opts opts = opts_of(0);
    opts.path = full;
    opts.size = 4 << 20;
    struct rig rig;
    char error[256];
    opts.flags = VN_NS_CREATE | VN_NS_PREALLOCATE;
    struct vn_backend *backend;
    int err = vn_backend_open(&opts, &backend, error, sizeof(error));
    bool left = access(full, F_OK) == 0;
    opts.flags = VN_NS_CREATE;
    rig_open(&rig, &opts);
    vn_status first = rig_io(&rig, VN_OP_WRITE, 0, SIZE / 2, buf, 0);
    vn_status second = rig_io(&rig, VN_OP_WRITE, SIZE, SIZE, buf, 0);
    vn_status third = rig_io(&rig, VN_OP_WRITE, 0, 512, buf, VN_REQ_FUA); /* in space that it has */
    vn_status fourth = rig_io(&rig, VN_OP_DEALLOCATE, SIZE, SIZE, NULL, 0);
    vn_status fifth = rig_io(&rig, VN_OP_WRITE, SIZE, SIZE / 4, buf, 0);
    rig_close(&rig);
    umount(top);
    CHECK_EQ(err, -ENOSPC);
    CHECK_SAYS(error, "free some space");
    CHECK(!left);
    CHECK_EQ(first, 0);
    CHECK_EQ(second, VN_SC_CAPACITY_EXCEEDED);
    CHECK_EQ(third, 0);
    CHECK_EQ(fourth, 0);
    CHECK_EQ(fifth, 0);
}

int main(void) {
    snprintf(path, sizeof(path), "%s/disk", vn_test_dir());
    buf = aligned_alloc(4096, SIZE);
    other = aligned_alloc(4096, SIZE);
    fill(0);
    test_short_transfers(0, halve);
    test_short_transfers(VN_NS_NO_DIRECT, halve);
    test_short_transfers(VN_NS_NO_DIRECT, odd);
    test_interruptions();
    test_failed_flush_latches(EIO, VN_SC_WRITE_FAULT);
    test_failed_flush_latches(ENOSPC, VN_SC_CAPACITY_EXCEEDED);
    test_flushes_share();
    test_fua_reaches_the_system(0);
    test_fua_reaches_the_system(VN_NS_NO_DIRECT);
    test_failed_fua_latches();
    test_ranges_refused(EOPNOTSUPP, VN_OP_WRITE_ZEROES, 1);
    test_ranges_refused(EINVAL, VN_OP_WRITE_ZEROES, 2);
    test_ranges_refused(EOPNOTSUPP, VN_OP_DEALLOCATE, 1);
    test_more_alignment_than_told();
    test_truncated_file(0);
    test_truncated_file(VN_NS_NO_DIRECT);
    test_busy(200, 4, true);
    test_busy(3000, 0, true);
    test_cancel();
    test_full_disk();
    free(buf);
    free(other);
    return 0;
}
