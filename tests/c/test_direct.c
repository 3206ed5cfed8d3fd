/* Laying out misaligned transfers for direct I/O, against a model: whatever the shape, each buffer of a round is aligned,
 * what is aligned is the caller's own, and every byte ends where it belongs.
 */
#include "backend/direct.h"
#include "core/util.h"
#include "vn_test.h"

#define MEMORY (4u << 20)
#define NR_IOV_MAX 40u

static uint8_t *memory, *disk, *buffer;
static struct iovec round_iov[VN_DIRECT_IOVECS];

struct shape {
    struct vn_direct_rule rule;
    struct iovec iov[NR_IOV_MAX];
    uint32_t nr;
    uint64_t length;
};

/* Segments of any length at any place, without overlap; together whole blocks. */
static struct shape draw(struct vn_test_random *random) {
    static const uint32_t aligns[] = {4, 512, 4096}, lengths[] = {1, 2, 4, 511, 512, 513, 1024, 4092, 4096, 65536};
    struct shape shape = {.rule = {.mem_align = aligns[vn_test_below(random, 3)],
                                   .length_align = vn_test_below(random, 2) ? 512 : 4096,
                                   .all = vn_test_below(random, 8) == 0}};
    uint32_t nr = 1 + (uint32_t)vn_test_below(random, NR_IOV_MAX - 1), at = 0;
    for (uint32_t i = 0; i < nr; i++) {
        at += vn_test_below(random, 2) ? 0 : (uint32_t)vn_test_below(random, 5000);
        if (vn_test_below(random, 2))
            at = (at + 4095) & ~4095u;
        uint32_t length = lengths[vn_test_below(random, VN_ARRAY_SIZE(lengths))];
        shape.iov[shape.nr++] = (struct iovec){memory + at, length};
        shape.length += length;
        at += length;
    }
    uint32_t rest = (uint32_t)(-shape.length & (shape.rule.length_align - 1));
    if (rest) {
        shape.iov[shape.nr++] = (struct iovec){memory + at, rest};
        shape.length += rest;
    }
    return shape;
}

static bool is_in(const void *at, const uint8_t *area, size_t bytes) {
    return (const uint8_t *)at >= area && (const uint8_t *)at < area + bytes;
}

/* From the first block of a segment whose memory is aligned on, whole blocks of it are not copied. */
static uint64_t whole_blocks(const struct shape *shape) {
    uint64_t bytes = 0, done = 0, block = shape->rule.length_align;
    for (uint32_t i = 0; i < shape->nr; done += shape->iov[i++].iov_len) {
        uint64_t first = -done & (block - 1), length = shape->iov[i].iov_len;
        while (first < length && ((uintptr_t)shape->iov[i].iov_base + first) % shape->rule.mem_align)
            first += block;
        bytes += first < length ? (length - first) & ~(block - 1) : 0;
    }
    return shape->rule.all ? 0 : bytes;
}

/* One transfer round by round, each cut short now and then as the system may. Bytes that were not copied. */
static uint64_t transfer(const struct shape *shape, enum vn_op op, struct vn_test_random *random, bool *same) {
    struct vn_direct_rest rest = {shape->iov, 0, shape->length};
    uint64_t own = 0, done = 0;
    *same = true;
    while (rest.left && *same) {
        struct vn_direct_round round = {.buffer = buffer, .iov = round_iov};
        uint32_t bytes = vn_direct_layout(&shape->rule, rest, op == VN_OP_WRITE, &round), at = 0;
        CHECK(bytes && bytes <= rest.left && bytes % shape->rule.length_align == 0);
        for (uint32_t i = 0; i < round.nr; i++) {
            struct iovec *iov = &round.iov[i];
            bool is_own = is_in(iov->iov_base, memory, MEMORY);
            CHECK(is_own || is_in(iov->iov_base, buffer, VN_DIRECT_BUFFER));
            CHECK(is_own || (uint8_t *)iov->iov_base + iov->iov_len <= buffer + VN_DIRECT_BUFFER);
            CHECK(!((uintptr_t)iov->iov_base % shape->rule.mem_align) && !(iov->iov_len % shape->rule.length_align));
            if (op == VN_OP_WRITE)
                memcpy(disk + done + at, iov->iov_base, iov->iov_len);
            else
                memcpy(iov->iov_base, disk + done + at, iov->iov_len);
            own += is_own ? iov->iov_len : 0;
            at += (uint32_t)iov->iov_len;
        }
        CHECK_EQ(at, bytes);
        if (op == VN_OP_COMPARE && vn_test_below(random, 4) == 0 && bytes > shape->rule.length_align)
            bytes -= shape->rule.length_align; /* a short transfer */
        if (op != VN_OP_WRITE)
            *same = vn_direct_take(&shape->rule, rest, op, bytes, buffer);
        done += bytes;
        rest.left -= bytes;
        rest.skip += bytes;
        while (rest.left && rest.skip >= rest.iov->iov_len)
            rest.skip -= (rest.iov++)->iov_len;
    }
    return own;
}

static void expect_memory(const struct shape *shape) {
    const uint8_t *at = disk;
    for (uint32_t i = 0; i < shape->nr; at += shape->iov[i++].iov_len)
        CHECK(memcmp(shape->iov[i].iov_base, at, shape->iov[i].iov_len) == 0);
}

static void test_any_shape(struct vn_test_random *random) {
    for (int i = 0; i < 2000; i++) {
        struct shape shape = draw(random);
        uint64_t whole = whole_blocks(&shape);
        bool same;
        vn_test_fill(random, memory, shape.length);
        CHECK_EQ(transfer(&shape, VN_OP_WRITE, random, &same), whole);
        expect_memory(&shape);
        vn_test_fill(random, disk, shape.length);
        CHECK_EQ(transfer(&shape, VN_OP_READ, random, &same), whole);
        expect_memory(&shape);
        shape.rule.all = true; /* as compares are */
        CHECK(transfer(&shape, VN_OP_COMPARE, random, &same) == 0 && same);
        disk[vn_test_below(random, shape.length)] ^= 1;
        transfer(&shape, VN_OP_COMPARE, random, &same);
        CHECK(!same);
    }
}

/* One misaligned byte at the end of a page costs one block, not the transfer. */
static void test_one_tail(void) {
    struct vn_direct_rule rule = {.mem_align = 512, .length_align = 512};
    struct iovec iov[] = {{memory, 8192 - 1}, {memory + 12288 - 1, 1}, {memory + 12288, 4096}};
    CHECK(!vn_direct_fits(&rule, iov, 3));
    struct vn_direct_round round = {.buffer = buffer, .iov = round_iov};
    CHECK_EQ(vn_direct_layout(&rule, (struct vn_direct_rest){iov, 0, 12288}, false, &round), 12288);
    CHECK_EQ(round.nr, 3);
    CHECK(round.iov[0].iov_base == memory && round.iov[0].iov_len == 8192 - 512);
    CHECK(round.iov[1].iov_base == buffer && round.iov[1].iov_len == 512);
    CHECK(round.iov[2].iov_base == memory + 12288 && round.iov[2].iov_len == 4096);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    memory = aligned_alloc(4096, MEMORY);
    disk = aligned_alloc(4096, MEMORY);
    buffer = aligned_alloc(4096, VN_DIRECT_BUFFER);
    CHECK(memory && disk && buffer);
    test_one_tail();
    test_any_shape(&random);
    free(memory);
    free(disk);
    free(buffer);
    return 0;
}
