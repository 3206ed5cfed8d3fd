/* Memory that the kernel has pinned for a reactor's io_uring: a table of regions, and the steps that pin them.
 * Filled through reactor.h by the guest door, asked by backends for each operation. See pinned.h.
 */
#include "core/pinned.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "core/util.h"

#define STEP_PAUSE_NS 1000000u /* between two pieces the reactor does its work */
#define UNPIN_BATCH 64u

/* Index of the first region that ends beyond at. */
static uint32_t find(const struct vn_pinned *pinned, const uint8_t *at) {
    uint32_t low = 0, high = pinned->nr;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (pinned->regions[middle].base + pinned->regions[middle].len <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* So many slots in a row that no region has; VN_PINNED_SLOTS: there are none. */
static uint32_t free_slots(const struct vn_pinned *pinned, uint32_t nr) {
    uint32_t slot = 0;
    for (uint32_t i = 0; i < pinned->nr;) {
        const struct vn_pinned_region *other = &pinned->regions[i++];
        if (slot < other->slot + other->nr && other->slot < slot + nr) {
            slot = other->slot + other->nr;
            i = 0;
        }
    }
    return slot + nr <= VN_PINNED_SLOTS ? slot : VN_PINNED_SLOTS;
}

static int make_table(struct vn_pinned *pinned) {
    if (pinned->has_table)
        return 0;
    int err = io_uring_register_buffers_sparse(pinned->ring, VN_PINNED_SLOTS);
    if (err)
        return err;
    struct io_uring_probe *probe = io_uring_get_probe_ring(pinned->ring);
    pinned->has_vectors = probe && probe->last_op >= VN_WRITEV_FIXED;
    io_uring_free_probe(probe);
    pinned->has_table = true;
    return 0;
}

static int pin_piece(struct vn_pinned *pinned, const struct vn_pinned_region *region) {
    uint64_t offset = region->done * VN_PINNED_PIECE;
    struct iovec piece = {.iov_base = (void *)(uintptr_t)(region->base + offset),
                          .iov_len = vn_min_u64(region->len - offset, VN_PINNED_PIECE)};
    int err = make_table(pinned);
    if (!err)
        err = io_uring_register_buffers_update_tag(pinned->ring, region->slot + region->done, &piece, NULL, 1);
    return err < 0 ? err : 0;
}

/* One piece of whichever region still has some. One that the kernel does not take stays as far as it got. */
static void on_step(struct vn_timer *timer) {
    struct vn_pinned *pinned = vn_container_of(timer, struct vn_pinned, step_timer);
    for (uint32_t i = 0; i < pinned->nr; i++) {
        struct vn_pinned_region *region = &pinned->regions[i];
        if (region->done == region->nr)
            continue;
        int err = pin_piece(pinned, region);
        if (!err)
            region->done++;
        else
            region->nr = region->done;
        if (err || region->done == region->nr)
            region->told(region->owner, region->base, vn_min_u64(region->done * VN_PINNED_PIECE, region->len),
                         region->len, err);
        vn_timer_arm(pinned->reactor, &pinned->step_timer, STEP_PAUSE_NS);
        return;
    }
}

void vn_pinned_init(struct vn_pinned *pinned, struct vn_reactor *reactor, struct io_uring *ring, bool enabled) {
    pinned->reactor = reactor;
    pinned->ring = ring;
    pinned->enabled = enabled;
    pinned->step_timer.fn = on_step;
}

int vn_pinned_add(struct vn_pinned *pinned, const void *base, uint64_t len, vn_pin_told *told, void *owner) {
    if (!pinned->enabled)
        return 0;
    uint32_t at = find(pinned, base), nr = (uint32_t)vn_min_u64((len - 1) / VN_PINNED_PIECE + 1, VN_PINNED_SLOTS + 1);
    uint32_t slot = nr <= VN_PINNED_SLOTS ? free_slots(pinned, nr) : VN_PINNED_SLOTS;
    if (pinned->nr == VN_PINNED_REGIONS || slot == VN_PINNED_SLOTS)
        return -ENOSPC;
    assert(len && (at == pinned->nr || (const uint8_t *)base + len <= pinned->regions[at].base));
    memmove(&pinned->regions[at + 1], &pinned->regions[at], (pinned->nr - at) * sizeof(pinned->regions[0]));
    pinned->regions[at] =
        (struct vn_pinned_region){.base = base, .len = len, .slot = slot, .nr = nr, .told = told, .owner = owner};
    pinned->nr++;
    vn_timer_arm(pinned->reactor, &pinned->step_timer, 0);
    return 0;
}

/* The kernel keeps the pages of operations under way until these have ended. */
void vn_pinned_remove(struct vn_pinned *pinned, const void *base) {
    static const struct iovec nothing[UNPIN_BATCH];
    uint32_t at = find(pinned, base);
    if (at == pinned->nr || pinned->regions[at].base != base)
        return;
    const struct vn_pinned_region *region = &pinned->regions[at];
    for (uint32_t i = 0; i < region->done; i += UNPIN_BATCH) {
        unsigned nr = (unsigned)vn_min_u64(region->done - i, UNPIN_BATCH);
        io_uring_register_buffers_update_tag(pinned->ring, region->slot + i, nothing, NULL, nr);
    }
    pinned->nr--;
    memmove(&pinned->regions[at], &pinned->regions[at + 1], (pinned->nr - at) * sizeof(pinned->regions[0]));
    pinned->last = 0;
    if (!pinned->nr)
        vn_timer_disarm(pinned->reactor, &pinned->step_timer);
}

/* Where all of it is pinned in one piece, or -1. */
static int slot_of(struct vn_pinned *pinned, const void *at, uint64_t len) {
    const struct vn_pinned_region *region = &pinned->regions[pinned->last];
    uint64_t offset = (uint64_t)((const uint8_t *)at - region->base); /* wraps below it, and is then beyond its end */
    if (pinned->last >= pinned->nr || offset >= region->len) {
        uint32_t found = find(pinned, at);
        if (found == pinned->nr || (const uint8_t *)at < pinned->regions[found].base)
            return -1;
        pinned->last = found;
        region = &pinned->regions[found];
        offset = (uint64_t)((const uint8_t *)at - region->base);
    }
    uint64_t piece = offset / VN_PINNED_PIECE;
    bool within = len && len <= region->len - offset && (offset + len - 1) / VN_PINNED_PIECE == piece;
    return within && piece < region->done ? (int)(region->slot + piece) : -1;
}

/* All of a vector must be in one piece. */
static int slot_of_all(struct vn_pinned *pinned, const struct iovec *iov, uint32_t nr) {
    int slot = slot_of(pinned, iov[0].iov_base, iov[0].iov_len);
    for (uint32_t i = 1; i < nr && slot >= 0; i++) {
        if (slot_of(pinned, iov[i].iov_base, iov[i].iov_len) != slot)
            slot = -1;
    }
    return slot;
}

void vn_pinned_use(struct vn_pinned *pinned, struct io_uring_sqe *sqe) {
    if (!pinned->nr)
        return;
    const void *at = (const void *)(uintptr_t)sqe->addr;
    bool is_vector = sqe->opcode == IORING_OP_READV || sqe->opcode == IORING_OP_WRITEV;
    bool writes = sqe->opcode == IORING_OP_WRITE || sqe->opcode == IORING_OP_WRITEV;
    if (is_vector && !pinned->has_vectors)
        return;
    int slot = is_vector ? slot_of_all(pinned, at, sqe->len) : slot_of(pinned, at, sqe->len);
    if (slot < 0)
        return;
    sqe->buf_index = (uint16_t)slot;
    if (is_vector)
        sqe->opcode = writes ? VN_WRITEV_FIXED : VN_READV_FIXED;
    else
        sqe->opcode = writes ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
}
