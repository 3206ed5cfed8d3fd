/* The filters: what they let pass, hold, refuse and write down, one by one and on top of each other.
 */
#include <fcntl.h>
#include <unistd.h>

#include "backend_rig.h"

#define SIZE (1u << 20)
#define NR 64

static uint8_t buf[NR * 512];
static struct vn_req reqs[NR], *req_list[NR];
static struct iovec iov[NR];

/* NR writes of one block each, at once. */
static void run_writes(struct rig *rig) {
    for (uint32_t i = 0; i < NR; i++) {
        iov[i] = (struct iovec){.iov_base = buf + i * 512, .iov_len = 512};
        reqs[i] = (struct vn_req){.op = VN_OP_WRITE, .offset = i * 512, .length = 512, .iov = &iov[i], .nr_iov = 1};
        req_list[i] = &reqs[i];
    }
    rig_run(rig, req_list, NR);
}

static uint64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void test_delay(void) {
    struct vn_ns_opts opts = {.backend = "null", .size = SIZE, .block_size = 512, .delay_us = 20000};
    struct rig rig;
    rig_open(&rig, &opts);
    uint64_t start = now_ns();
    run_writes(&rig);
    uint64_t took = now_ns() - start;
    CHECK(took >= 19000000 && took < 2000000000); /* together, not one after another */
    for (uint32_t i = 0; i < NR; i++)
        CHECK_EQ(reqs[i].status, 0);
    rig_close(&rig);

    opts.delay_us = 10000000; /* ten seconds: only cancelling ends it */
    rig_open(&rig, &opts);
    rig.cancel_after_ns = 1000000;
    start = now_ns();
    run_writes(&rig);
    CHECK(now_ns() - start < 5000000000);
    for (uint32_t i = 0; i < NR; i++)
        CHECK_EQ(reqs[i].status, VN_SC_ABORT_REQUESTED);
    rig_close(&rig);
}

static uint64_t failures_of(const struct vn_ns_opts *opts) {
    struct rig rig;
    rig_open(&rig, opts);
    run_writes(&rig);
    uint64_t failed = 0; /* one bit each: NR is 64 */
    for (uint32_t i = 0; i < NR; i++)
        failed |= (uint64_t)(reqs[i].status != 0) << i;
    rig_close(&rig);
    return failed;
}

static void test_error(void) {
    struct vn_ns_opts opts = {.backend = "null", .size = SIZE, .block_size = 512, .error_ppm = 500000, .error_seed = 3};
    uint64_t failed = failures_of(&opts);
    CHECK(__builtin_popcountll(failed) > 10 && __builtin_popcountll(failed) < 54);
    CHECK(failures_of(&opts) == failed); /* a seed is a history */
    opts.error_seed = 4;
    CHECK(failures_of(&opts) != failed);
    opts.error_ppm = 1000000;
    opts.error_after = 10;
    CHECK(failures_of(&opts) == ~0ull << 10);
    opts.error_ops = 1u << VN_OP_READ;
    CHECK_EQ(failures_of(&opts), 0);

    opts.error_after = 0;
    opts.error_ops = 1u << VN_OP_READ | 1u << VN_OP_FLUSH;
    opts.error_errno = ENODATA;
    struct rig rig;
    rig_open(&rig, &opts);
    CHECK_EQ(rig_io(&rig, VN_OP_READ, 0, 512, buf, 0), VN_SC_UNRECOVERED_READ);
    CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 512, buf, 0), 0);
    CHECK_EQ(rig_io(&rig, VN_OP_FLUSH, 0, 0, NULL, 0), VN_SC_WRITE_FAULT);
    /* a failed flush latches, whoever failed it */
    CHECK_EQ(vn_backend_latched(rig.backend), ENODATA);
    CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 512, buf, 0), VN_SC_NS_WRITE_PROTECTED | VN_STATUS_DNR);
    rig_close(&rig);
}

/* The log's layout, from its description in filter_record.c. */
struct log_record {
    uint32_t magic;
    uint8_t kind, op;
    uint16_t status;
    uint64_t id, offset, length;
    uint32_t io_flags, nr_data;
};

static uint8_t *read_file(const char *path, size_t *size) {
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    *size = (size_t)lseek(fd, 0, SEEK_END);
    uint8_t *bytes = malloc(*size);
    CHECK_EQ(pread(fd, bytes, *size, 0), *size);
    close(fd);
    return bytes;
}

static void test_record(void) {
    char log[300], error[256];
    snprintf(log, sizeof(log), "%s/log", vn_test_dir());
    struct vn_ns_opts opts = {.backend = "mem", .size = SIZE, .block_size = 512, .record_path = log,
                              .error_ppm = 1000000, .error_ops = 1u << VN_OP_DEALLOCATE};
    struct rig rig;
    rig_open(&rig, &opts);
    struct vn_test_random random = {.state = 5};
    vn_test_fill(&random, buf, 1024);
    CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 4096, 1024, buf, VN_REQ_FUA), 0);
    CHECK_EQ(rig_io(&rig, VN_OP_READ, 4096, 1024, buf, 0), 0);
    CHECK_EQ(rig_io(&rig, VN_OP_FLUSH, 0, 0, NULL, 0), 0);
    CHECK_EQ(rig_io(&rig, VN_OP_DEALLOCATE, 0, 4096, NULL, 0), VN_SC_WRITE_FAULT);
    rig_close(&rig);

    static const struct log_record want[] = {
        {.kind = 1, .op = VN_OP_WRITE, .id = 0, .offset = 4096, .length = 1024, .io_flags = VN_REQ_FUA, .nr_data = 1024},
        {.kind = 2, .op = VN_OP_WRITE, .id = 0, .offset = 4096, .length = 1024, .io_flags = VN_REQ_FUA},
        {.kind = 1, .op = VN_OP_FLUSH, .id = 1},
        {.kind = 2, .op = VN_OP_FLUSH, .id = 1},
        {.kind = 1, .op = VN_OP_DEALLOCATE, .id = 2, .length = 4096},
        {.kind = 2, .op = VN_OP_DEALLOCATE, .id = 2, .length = 4096, .status = VN_SC_WRITE_FAULT},
    };
    size_t size;
    uint8_t *bytes = read_file(log, &size);
    CHECK_EQ(size, 24 + sizeof(want) + 1024);
    CHECK(memcmp(bytes, "VNRECORD\1\0\0\0\0\2\0\0\0\0\x10\0\0\0\0\0", 24) == 0);
    const uint8_t *at = bytes + 24;
    for (size_t i = 0; i < VN_ARRAY_SIZE(want); i++) {
        struct log_record expected = want[i];
        expected.magic = 0x43455256;
        CHECK(memcmp(at, &expected, sizeof(expected)) == 0);
        at += sizeof(expected);
        CHECK(memcmp(at, buf, expected.nr_data) == 0);
        at += expected.nr_data;
    }
    free(bytes);

    struct vn_backend *backend;
    CHECK_EQ(vn_backend_open(&opts, &backend, error, sizeof(error)), -EEXIST); /* an old log is not overwritten */
    CHECK_SAYS(error, "needs a new file");
}

/* All three on a file, with more at once than it has bounce buffers: BUSY travels up and is taken back in the log. */
static void test_all_with_busy(bool delayed) {
    char log[300], path[300];
    snprintf(log, sizeof(log), "%s/log-busy-%d", vn_test_dir(), delayed);
    snprintf(path, sizeof(path), "%s/disk-%d", vn_test_dir(), delayed);
    struct vn_ns_opts opts = {.backend = "file", .path = path, .size = SIZE, .block_size = 512,
                              .flags = VN_NS_CREATE, .record_path = log, .error_ppm = 100000,
                              .delay_us = delayed ? 1000 : 0};
    enum { NR_WRITES = 300 };
    static struct vn_req writes[NR_WRITES], *list[NR_WRITES];
    static uint8_t data[520];
    struct iovec odd = {.iov_base = data + 4, .iov_len = 512};
    struct rig rig;
    rig_open(&rig, &opts);
    bool direct = rig.backend->direct;
    for (uint32_t i = 0; i < NR_WRITES; i++) {
        writes[i] = (struct vn_req){.op = VN_OP_WRITE, .offset = i * 512, .length = 512, .iov = &odd, .nr_iov = 1};
        list[i] = &writes[i];
    }
    rig_run(&rig, list, NR_WRITES);
    uint32_t nr_failed = 0;
    for (uint32_t i = 0; i < NR_WRITES; i++)
        nr_failed += writes[i].status != 0;
    uint32_t nr_busy = rig.nr_busy;
    rig_close(&rig);
    CHECK(nr_failed > 5 && nr_failed < 100);
    CHECK(!direct || delayed == (nr_busy == 0)); /* the delay filter takes all and waits itself */

    size_t size;
    uint8_t *bytes = read_file(log, &size), *at = bytes + 24;
    uint32_t nr[4] = {0}, nr_log_failed = 0;
    while (at < bytes + size) {
        struct log_record record;
        memcpy(&record, at, sizeof(record));
        CHECK_EQ(record.magic, 0x43455256);
        CHECK(record.kind >= 1 && record.kind <= 3);
        nr[record.kind]++;
        nr_log_failed += record.status != 0;
        at += sizeof(record) + record.nr_data;
    }
    free(bytes);
    CHECK_EQ(nr[2], NR_WRITES);
    CHECK_EQ(nr[3], nr_busy);
    CHECK_EQ(nr[1], nr[2] + nr[3]);
    CHECK_EQ(nr_log_failed, nr_failed);
    printf("delayed %d: %u failed, %u busy\n", delayed, nr_failed, nr_busy);
}

int main(void) {
    test_delay();
    test_error();
    test_record();
    test_all_with_busy(false);
    test_all_with_busy(true);
    return 0;
}
