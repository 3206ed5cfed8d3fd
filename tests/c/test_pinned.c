/* Memory pinned for a reactor's io_uring: operations on it say so and move the right bytes, those on other memory do not,
 * and what the kernel refuses is told and does no harm.
 */
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/pinned.h"
#include "core/util.h"
#include "vn_test.h"

#define BYTES (2 * VN_PINNED_PIECE + (4u << 20)) /* three pieces, the last one shorter */

static struct vn_reactor *reactor;
static int fd;
static uint8_t *memory;
static sem_t done;

static struct {
    const void *base;
    uint64_t pinned, len;
    int err;
} told;

static void on_told(void *owner, const void *base, uint64_t pinned, uint64_t len, int err) {
    CHECK(owner == &told);
    told.base = base;
    told.pinned = pinned;
    told.len = len;
    told.err = err;
    sem_post(&done);
}

static int pin(void *arg) {
    return vn_reactor_pin(reactor, arg, BYTES, on_told, &told);
}

static int unpin(void *arg) {
    vn_reactor_unpin(reactor, arg);
    return 0;
}

struct op {
    struct vn_uring_op op;
    uint8_t opcode; /* as asked for, and then as it was submitted */
    const void *at;
    uint32_t len; /* bytes, or iovecs */
    uint64_t offset;
    int res;
};

static void on_done(struct vn_uring_op *op, int res, uint32_t flags) {
    (void)flags;
    vn_container_of(op, struct op, op)->res = res;
    sem_post(&done);
}

static int submit(void *arg) {
    struct op *op = arg;
    struct io_uring_sqe *sqe = vn_reactor_sqe(reactor, &op->op);
    io_uring_prep_rw(op->opcode, sqe, fd, op->at, op->len, op->offset);
    io_uring_sqe_set_data(sqe, &op->op);
    vn_reactor_use_pinned(reactor, sqe);
    op->opcode = sqe->opcode;
    return 0;
}

/* Does it; the opcode that it had when it was submitted. */
static uint8_t run(uint8_t opcode, const void *at, uint32_t len, uint64_t offset, int bytes) {
    struct op op = {.op.done = on_done, .opcode = opcode, .at = at, .len = len, .offset = offset};
    vn_reactor_call(reactor, submit, &op);
    sem_wait(&done);
    CHECK_EQ(op.res, bytes);
    return op.opcode;
}

static uint8_t *map(void) {
    int memory_fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK_EQ(ftruncate(memory_fd, BYTES), 0);
    uint8_t *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
    CHECK(at != MAP_FAILED);
    close(memory_fd);
    return at;
}

static void start(uint32_t flags) {
    struct vn_reactor_opts opts = {.poll_us = 30, .flags = flags};
    CHECK_EQ(vn_reactor_start_as(&opts, &reactor), 0);
}

static void test_all_of_it(struct vn_test_random *random) {
    start(VN_REACTOR_PIN);
    uint8_t *other = map();
    CHECK_EQ(vn_reactor_call(reactor, pin, memory), 0);
    sem_wait(&done);
    CHECK(told.base == memory && told.pinned == BYTES && told.len == BYTES && !told.err);
    CHECK_EQ(vn_reactor_call(reactor, pin, other), 0); /* beside it */
    sem_wait(&done);
    CHECK(told.base == other && told.pinned == BYTES && !told.err);
    vn_test_fill(random, memory, BYTES);
    for (uint64_t at = 0; at + 65536 <= BYTES; at += 1 << 20)
        CHECK_EQ(run(IORING_OP_WRITE, memory + at, 65536, at, 65536), IORING_OP_WRITE_FIXED);
    for (uint64_t at = 0; at + 65536 <= BYTES; at += 1 << 20) {
        CHECK_EQ(run(IORING_OP_READ, other + at, 65536, at, 65536), IORING_OP_READ_FIXED);
        CHECK(memcmp(memory + at, other + at, 65536) == 0);
    }
    CHECK_EQ(run(IORING_OP_READ, memory + VN_PINNED_PIECE - 512, 1024, 0, 1024), IORING_OP_READ); /* over two pieces */
    CHECK_EQ(run(IORING_OP_READ, memory + BYTES - 512, 512, 0, 512), IORING_OP_READ_FIXED);
    uint8_t stack[512];
    CHECK_EQ(run(IORING_OP_READ, stack, sizeof(stack), 0, 512), IORING_OP_READ);
    struct iovec iov[] = {{other, 4096}, {other + 8192, 4096}};
    uint8_t opcode = run(IORING_OP_READV, iov, 2, 0, 8192);
    CHECK(opcode == VN_READV_FIXED || opcode == IORING_OP_READV); /* before Linux 6.15 */
    CHECK(memcmp(memory, other, 4096) == 0 && memcmp(memory + 4096, other + 8192, 4096) == 0);
    CHECK(run(IORING_OP_WRITEV, iov, 2, 0, 8192) == (opcode == VN_READV_FIXED ? VN_WRITEV_FIXED : IORING_OP_WRITEV));
    iov[1].iov_base = memory;
    CHECK_EQ(run(IORING_OP_READV, iov, 2, 0, 8192), IORING_OP_READV); /* of two regions */
    vn_reactor_call(reactor, unpin, memory);
    CHECK_EQ(run(IORING_OP_READ, memory, 512, 0, 512), IORING_OP_READ);
    CHECK_EQ(run(IORING_OP_READ, other, 512, 0, 512), IORING_OP_READ_FIXED);
    CHECK_EQ(vn_reactor_call(reactor, pin, memory), 0); /* and once more */
    vn_reactor_call(reactor, unpin, memory);            /* before it is complete */
    vn_reactor_call(reactor, unpin, memory);            /* and when it is not there */
    vn_reactor_call(reactor, unpin, other);
    vn_reactor_stop(reactor);
    munmap(other, BYTES);
}

/* Memory that is gone behind its mapping cannot be pinned: what could be is used, the rest is served without. */
static void test_refused(void) {
    start(VN_REACTOR_PIN);
    uint8_t *half = map();
    CHECK_EQ(munmap(half + VN_PINNED_PIECE, BYTES - VN_PINNED_PIECE), 0);
    CHECK_EQ(vn_reactor_call(reactor, pin, half), 0);
    sem_wait(&done);
    CHECK(told.pinned == VN_PINNED_PIECE && told.len == BYTES && told.err < 0);
    CHECK_EQ(run(IORING_OP_READ, half, 512, 0, 512), IORING_OP_READ_FIXED);
    vn_reactor_call(reactor, unpin, half);
    vn_reactor_stop(reactor);
    munmap(half, VN_PINNED_PIECE);
}

static int pin_too_many(void *arg) {
    int err = 0;
    for (uint64_t i = 0; i <= VN_PINNED_REGIONS && !err; i++)
        err = vn_reactor_pin(reactor, (uint8_t *)arg + i * 4096, 4096, on_told, &told);
    for (uint64_t i = 0; i <= VN_PINNED_REGIONS; i++)
        vn_reactor_unpin(reactor, (uint8_t *)arg + i * 4096);
    return err ? err : vn_reactor_pin(reactor, arg, (VN_PINNED_SLOTS + 1) * VN_PINNED_PIECE, on_told, &told);
}

static void test_bounds(void) {
    start(VN_REACTOR_PIN);
    CHECK_EQ(vn_reactor_call(reactor, pin_too_many, memory), -ENOSPC);
    vn_reactor_stop(reactor);
}

static void test_not_asked_for(void) {
    start(0);
    CHECK_EQ(vn_reactor_call(reactor, pin, memory), 0);
    CHECK_EQ(run(IORING_OP_READ, memory, 512, 0, 512), IORING_OP_READ);
    vn_reactor_call(reactor, unpin, memory);
    vn_reactor_stop(reactor);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    char path[300];
    snprintf(path, sizeof(path), "%s/file", vn_test_dir());
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(ftruncate(fd, BYTES), 0);
    memory = map();
    sem_init(&done, 0, 0);
    test_all_of_it(&random);
    test_refused();
    test_bounds();
    test_not_asked_for();
    munmap(memory, BYTES);
    close(fd);
    return 0;
}
