/* Every engine against a model in memory: random mixes of all operations, several in flight, in buffers of every
 * shape a guest can make; then what is in the file is compared with the model too.
 */
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "backend_rig.h"

#define SIZE (8u << 20)
#define MARGIN (1 << 20) /* on either side of a window */
#define NR_INFLIGHT 24
#define NR_BATCHES 150
#define PIECES_MAX 257
#define GUEST_BYTES (3u << 20) /* of buffer for each request: room for gaps between pieces */

struct slot {
    struct vn_req req;
    struct iovec iov[PIECES_MAX];
    uint8_t *guest;
    uint8_t *want; /* of reads: what must arrive */
};

static uint8_t model[SIZE];
static struct slot slots[NR_INFLIGHT];
static bool deallocates; /* the backend under test */

static void use(struct slot *slot, uint32_t i, uint8_t *base, size_t length) {
    slot->iov[i] = (struct iovec){.iov_base = base, .iov_len = length};
    slot->req.nr_iov = i + 1;
}

/* As PRP lists do it: the first piece from anywhere dword-aligned in a page to its end, then whole pages. */
static void shape_prp(struct slot *slot, struct vn_test_random *random) {
    uint64_t left = slot->req.length;
    uint8_t *page = slot->guest;
    uint64_t skip = vn_test_below(random, 4) ? 0 : vn_test_below(random, 1024) * 4;
    for (uint32_t i = 0; left; i++) {
        uint64_t n = vn_min_u64(4096 - skip, left);
        use(slot, i, page + skip, n);
        left -= n;
        skip = 0;
        page += 4096 * (1 + vn_test_below(random, 2));
    }
}

/* As SGLs may: any length at any address. */
static void shape_sgl(struct slot *slot, struct vn_test_random *random) {
    uint64_t left = slot->req.length;
    uint8_t *at = slot->guest + vn_test_below(random, 4096);
    for (uint32_t i = 0; left; i++) {
        uint64_t n = i == 60 ? left : 1 + vn_test_below(random, left);
        use(slot, i, at, n);
        left -= n;
        at += n + vn_test_below(random, 64);
    }
}

static void gather(const struct slot *slot, uint8_t *to) {
    for (uint32_t i = 0; i < slot->req.nr_iov; i++) {
        memcpy(to, slot->iov[i].iov_base, slot->iov[i].iov_len);
        to += slot->iov[i].iov_len;
    }
}

static void scatter(const struct slot *slot, const uint8_t *from) {
    for (uint32_t i = 0; i < slot->req.nr_iov; i++) {
        memcpy(slot->iov[i].iov_base, from, slot->iov[i].iov_len);
        from += slot->iov[i].iov_len;
    }
}

/* An operation on [offset, offset + room) at most: those of one batch do not overlap. */
static void make(struct slot *slot, struct vn_test_random *random, uint64_t offset, uint64_t room, uint32_t block) {
    static const enum vn_op ops[] = {VN_OP_READ, VN_OP_READ, VN_OP_READ, VN_OP_WRITE, VN_OP_WRITE, VN_OP_WRITE,
                                     VN_OP_WRITE_ZEROES, VN_OP_DEALLOCATE, VN_OP_COMPARE, VN_OP_FLUSH};
    uint64_t start = vn_test_below(random, room / block) * block;
    uint64_t most = vn_min_u64(room - start, 1u << 20) / block; /* blocks; mostly few */
    most = vn_test_below(random, 3) ? vn_min_u64(most, 16) : most;
    slot->req = (struct vn_req){
        .op = ops[vn_test_below(random, VN_ARRAY_SIZE(ops))],
        .iov = slot->iov,
        .offset = offset + start,
        .length = block * (1 + vn_test_below(random, most)),
    };
    struct vn_req *req = &slot->req;
    if (req->op == VN_OP_DEALLOCATE && !deallocates)
        req->op = VN_OP_WRITE_ZEROES;
    if (req->op == VN_OP_WRITE || req->op == VN_OP_WRITE_ZEROES)
        req->io_flags = vn_test_below(random, 4) ? 0 : VN_REQ_FUA;
    if (req->op == VN_OP_WRITE_ZEROES && vn_test_below(random, 2))
        req->io_flags |= VN_REQ_MAY_UNMAP;
    if (req->op == VN_OP_FLUSH)
        req->offset = req->length = 0;
    if (req->op == VN_OP_READ || req->op == VN_OP_WRITE || req->op == VN_OP_COMPARE)
        (vn_test_below(random, 3) ? shape_prp : shape_sgl)(slot, random);
    memcpy(slot->want, model + req->offset, req->length);
    if (req->op == VN_OP_WRITE) {
        vn_test_fill(random, slot->want, req->length);
        scatter(slot, slot->want);
        memcpy(model + req->offset, slot->want, req->length);
    } else if (req->op == VN_OP_READ) {
        vn_test_fill(random, slot->guest, 4096);
    } else if (req->op == VN_OP_COMPARE) {
        scatter(slot, slot->want);
        req->step = (uint32_t)vn_test_below(random, 2); /* 1: one byte is different */
        ((uint8_t *)slot->iov[req->nr_iov - 1].iov_base)[0] ^= (uint8_t)req->step;
    } else if (req->op != VN_OP_FLUSH) {
        memset(model + req->offset, 0, req->length);
    }
}

static void check(struct slot *slot, uint8_t *scratch) {
    struct vn_req *req = &slot->req;
    CHECK_EQ(req->status, req->step ? VN_SC_COMPARE_FAILURE : VN_SC_SUCCESS);
    if (req->op == VN_OP_READ || req->op == VN_OP_WRITE) { /* a write leaves the guest's buffer alone */
        gather(slot, scratch);
        CHECK(memcmp(scratch, slot->want, req->length) == 0);
    }
}

static void run_mix(const struct vn_ns_opts *opts, struct vn_test_random *random, const char *name) {
    struct rig rig;
    rig_open(&rig, opts);
    CHECK_EQ(rig.backend->size, SIZE);
    deallocates = rig.backend->deallocates;
    CHECK(deallocates || opts->path);
    memset(model, 0, sizeof(model));
    uint8_t *scratch = malloc(1u << 20);
    struct vn_req *reqs[NR_INFLIGHT];
    for (uint32_t batch = 0; batch < NR_BATCHES; batch++) {
        uint32_t nr = 1 + (uint32_t)vn_test_below(random, NR_INFLIGHT);
        uint64_t room = SIZE / nr / 4096 * 4096;
        for (uint32_t i = 0; i < nr; i++) {
            make(&slots[i], random, i * room, room, opts->block_size);
            reqs[i] = &slots[i].req;
        }
        rig_run(&rig, reqs, nr);
        for (uint32_t i = 0; i < nr; i++)
            check(&slots[i], scratch);
    }
    uint8_t *all = aligned_alloc(4096, SIZE);
    CHECK_EQ(rig_io(&rig, VN_OP_READ, 0, SIZE, all, 0), 0);
    CHECK(memcmp(all, model, SIZE) == 0);
    printf("%s: direct %d, %llu bounced\n", name, rig.backend->direct,
           (unsigned long long)vn_backend_bounced(rig.backend));
    CHECK_EQ(rig.backend->direct, vn_backend_bounced(rig.backend) > 0);
    rig_close(&rig);
    if (opts->path) {
        int fd = open(opts->path, O_RDONLY);
        CHECK_EQ(pread(fd, all, SIZE, (off_t)opts->offset), SIZE);
        CHECK(memcmp(all, model, SIZE) == 0);
        close(fd);
    }
    free(all);
    free(scratch);
}

static void run_file(struct vn_ns_opts *opts, struct vn_test_random *random, const char *name) {
    run_mix(opts, random, name);
    CHECK_EQ(unlink(opts->path), 0);
}

/* A part of a file or device between two others, which no operation may touch. */
static void run_window(struct vn_ns_opts *opts, struct vn_test_random *random, const char *name) {
    static uint8_t around[MARGIN], now[MARGIN];
    memset(around, 0xa5, sizeof(around));
    int fd = open(opts->path, O_RDWR | O_CREAT, 0600);
    CHECK_EQ(pwrite(fd, around, MARGIN, 0), MARGIN);
    CHECK_EQ(pwrite(fd, around, MARGIN, MARGIN + SIZE), MARGIN);
    CHECK_EQ(fsync(fd), 0);
    opts->offset = MARGIN;
    opts->size = SIZE;
    opts->flags |= VN_NS_WINDOW;
    run_mix(opts, random, name);
    for (off_t at = 0; at <= MARGIN + SIZE; at += MARGIN + SIZE) {
        CHECK_EQ(pread(fd, now, MARGIN, at), MARGIN);
        CHECK(memcmp(now, around, MARGIN) == 0);
    }
    close(fd);
}

/* A block device made of a file, where this user may make one. */
static void run_device(const char *path, uint32_t flags, struct vn_test_random *random, const char *name) {
    char device[32] = "";
    int file = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(file >= 0 && ftruncate(file, SIZE + (flags & VN_NS_WINDOW ? 2 * MARGIN : 0)) == 0);
    int control = open("/dev/loop-control", O_RDWR);
    int nr = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    snprintf(device, sizeof(device), "/dev/loop%d", nr);
    int loop = nr < 0 ? -1 : open(device, O_RDWR);
    struct loop_config config = {.fd = (uint32_t)file, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    if (loop >= 0 && ioctl(loop, LOOP_CONFIGURE, &config) == 0) {
        struct vn_ns_opts opts = {.backend = "file", .path = device, .block_size = 512, .flags = flags};
        if (flags & VN_NS_WINDOW)
            run_window(&opts, random, name);
        else
            run_mix(&opts, random, name);
    } else {
        printf("%s: not tried, this user cannot make one\n", name);
    }
    close(loop); /* which also takes the device down */
    close(control);
    close(file);
    CHECK_EQ(unlink(path), 0);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    char path[300];
    snprintf(path, sizeof(path), "%s/disk", vn_test_dir());
    for (uint32_t i = 0; i < NR_INFLIGHT; i++) {
        slots[i].guest = aligned_alloc(4096, GUEST_BYTES);
        slots[i].want = malloc(1u << 20);
    }
    struct vn_ns_opts opts = {.backend = "mem", .size = SIZE, .block_size = 512};
    run_mix(&opts, &random, "mem, 512");
    opts = (struct vn_ns_opts){.backend = "file", .path = path, .size = SIZE, .block_size = 512, .flags = VN_NS_CREATE};
    run_file(&opts, &random, "file, 512");
    opts.flags |= VN_NS_NO_DIRECT | VN_NS_PREALLOCATE;
    run_file(&opts, &random, "file, 512, buffered, preallocated");
    opts.flags = VN_NS_CREATE;
    opts.block_size = 4096;
    opts.delay_us = 100;
    run_file(&opts, &random, "file, 4096, delayed");
    char in_memory[64]; /* usually a tmpfs: done at once */
    snprintf(in_memory, sizeof(in_memory), "/dev/shm/vn-test-model-%d", (int)getpid());
    opts = (struct vn_ns_opts){.backend = "file", .path = in_memory, .size = SIZE, .block_size = 512, .flags = VN_NS_CREATE};
    run_file(&opts, &random, "file in memory, 512");
    opts.flags |= VN_NS_NO_DIRECT;
    run_file(&opts, &random, "file in memory, 512, buffered");
    run_device(path, 0, &random, "device");
    run_device(path, VN_NS_NO_DIRECT, &random, "device, buffered");
    run_device(path, VN_NS_WINDOW, &random, "part of a device");
    run_device(path, VN_NS_WINDOW | VN_NS_NO_DIRECT, &random, "part of a device, buffered");
    opts = (struct vn_ns_opts){.backend = "file", .path = path, .block_size = 512};
    run_window(&opts, &random, "part of a file");
    CHECK_EQ(unlink(path), 0);
    opts.flags |= VN_NS_NO_DIRECT;
    run_window(&opts, &random, "part of a file, buffered");
    CHECK_EQ(unlink(path), 0);
    opts = (struct vn_ns_opts){.backend = "file", .path = in_memory, .block_size = 512};
    run_window(&opts, &random, "part of a file in memory");
    CHECK_EQ(unlink(in_memory), 0);
    for (uint32_t i = 0; i < NR_INFLIGHT; i++) {
        free(slots[i].guest);
        free(slots[i].want);
    }
    return 0;
}
