/* Laying out transfers whose memory direct I/O does not take as it is. Used by file.c; see direct.h. */
#include "backend/direct.h"

#include <assert.h>
#include <string.h>

#include "core/util.h"

#define ROUND_BYTES (1u << 30)

/* A walk over a transfer in runs, each of which is taken as it is or goes through the buffer. */
struct walk {
    const struct vn_direct_rule *rule;
    struct vn_direct_rest rest;
    uint32_t used;  /* bytes of the buffer so far */
    bool in_buffer; /* the last run went through it */
};

/* The next run: bytes of the transfer's own memory; or none, and then so many go through the buffer from `used` on. */
struct run {
    uint32_t direct, bounced;
};

static struct run next_run(struct walk *walk) {
    const struct vn_direct_rule *rule = walk->rule;
    uintptr_t at = (uintptr_t)walk->rest.iov->iov_base + walk->rest.skip;
    uint32_t left = (uint32_t)vn_min_u64(walk->rest.left, ROUND_BYTES);
    uint64_t whole = vn_min_u64(walk->rest.iov->iov_len - walk->rest.skip, left) & ~(uint64_t)(rule->length_align - 1);
    bool is_direct = !rule->all && whole && !(at & (rule->mem_align - 1));
    if (!is_direct && !walk->in_buffer)
        walk->used = (walk->used + rule->mem_align - 1) & ~(rule->mem_align - 1);
    walk->in_buffer = !is_direct;
    if (is_direct)
        return (struct run){.direct = (uint32_t)whole};
    uint32_t step = rule->all ? left : (uint32_t)vn_min_u64(rule->length_align, left);
    uint32_t room = walk->used < VN_DIRECT_BUFFER ? VN_DIRECT_BUFFER - walk->used : 0;
    if (!rule->all && step > room)
        return (struct run){0};
    return (struct run){.bounced = (uint32_t)vn_min_u64(step, room)};
}

static void advance(struct walk *walk, uint32_t bytes) {
    struct vn_direct_rest *rest = &walk->rest;
    rest->left -= bytes;
    rest->skip += bytes;
    while (rest->left && rest->skip >= rest->iov->iov_len)
        rest->skip -= (rest->iov++)->iov_len;
}

/* Between the buffer and the memory of the transfer, and on; false: they differ. */
static bool copy(struct walk *walk, enum vn_op op, uint8_t *buffer, uint32_t bytes) {
    bool same = true;
    walk->used += bytes;
    while (bytes && same) {
        uint8_t *base = (uint8_t *)walk->rest.iov->iov_base + walk->rest.skip;
        uint32_t n = (uint32_t)vn_min_u64(bytes, walk->rest.iov->iov_len - walk->rest.skip);
        if (op == VN_OP_READ)
            memcpy(base, buffer, n);
        else if (op == VN_OP_WRITE)
            memcpy(buffer, base, n);
        else
            same = memcmp(base, buffer, n) == 0;
        advance(walk, n);
        buffer += n;
        bytes -= n;
    }
    return same;
}

static void append(struct vn_direct_round *round, uint8_t *base, uint32_t bytes) {
    struct iovec *last = round->nr ? &round->iov[round->nr - 1] : NULL;
    if (last && (uint8_t *)last->iov_base + last->iov_len == base)
        last->iov_len += bytes;
    else
        round->iov[round->nr++] = (struct iovec){base, bytes};
}

uint32_t vn_direct_layout(const struct vn_direct_rule *rule, struct vn_direct_rest rest, bool writes,
                          struct vn_direct_round *round) {
    struct walk walk = {.rule = rule, .rest = rest};
    round->nr = 0;
    while (walk.rest.left && round->nr < VN_DIRECT_IOVECS && rest.left - walk.rest.left < ROUND_BYTES) {
        struct run run = next_run(&walk);
        uint8_t *buffer = round->buffer + walk.used;
        if (run.direct) {
            append(round, (uint8_t *)walk.rest.iov->iov_base + walk.rest.skip, run.direct);
            advance(&walk, run.direct);
        } else if (run.bounced) {
            append(round, buffer, run.bounced);
            if (writes) {
                copy(&walk, VN_OP_WRITE, buffer, run.bounced);
            } else {
                walk.used += run.bounced;
                advance(&walk, run.bounced);
            }
        } else {
            break; /* the buffer is full */
        }
    }
    return (uint32_t)(rest.left - walk.rest.left);
}

bool vn_direct_take(const struct vn_direct_rule *rule, struct vn_direct_rest rest, enum vn_op op, uint32_t bytes,
                    uint8_t *buffer) {
    struct walk walk = {.rule = rule, .rest = rest};
    bool same = true;
    while (bytes && same) {
        struct run run = next_run(&walk);
        uint32_t n = (uint32_t)vn_min_u64(run.direct + run.bounced, bytes);
        assert(n); /* more than was laid out cannot have been transferred */
        if (run.direct)
            advance(&walk, n);
        else
            same = copy(&walk, op, buffer + walk.used, n);
        bytes -= n;
    }
    return same;
}
