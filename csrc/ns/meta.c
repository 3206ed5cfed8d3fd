/* The slots of a namespace with metadata, see meta.h. */
#include "ns/meta.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SLOT_BYTES ((size_t)VN_META_DATA_BYTES + VN_META_BYTES + VN_META_SPAN_BYTES)

int vn_meta_open(const struct vn_layout *layout, uint32_t unit, struct vn_meta **out) {
    struct vn_meta *meta = calloc(1, sizeof(*meta));
    if (!meta)
        return -ENOMEM;
    uint8_t *arena = mmap(NULL, VN_META_SLOTS * SLOT_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED) {
        free(meta);
        return -ENOMEM;
    }
    meta->layout = *layout;
    meta->unit = unit;
    meta->arena = arena;
    for (size_t i = 0; i < VN_META_SLOTS; i++) {
        struct vn_meta_slot *slot = &meta->slots[i];
        slot->data = arena + i * SLOT_BYTES;
        slot->span = slot->data + VN_META_DATA_BYTES;
        slot->meta = slot->span + VN_META_SPAN_BYTES;
    }
    *out = meta;
    return 0;
}

void vn_meta_close(struct vn_meta *meta) {
    if (!meta)
        return;
    munmap(meta->arena, VN_META_SLOTS * SLOT_BYTES);
    free(meta);
}

static bool overlap(uint64_t begin, uint64_t end, uint64_t other_begin, uint64_t other_end) {
    return begin < other_end && other_begin < end;
}

static bool is_free(const struct vn_meta *meta, uint64_t begin, uint64_t end, bool exclusive) {
    struct vn_meta_span span = vn_meta_span_of(meta, begin, end - begin);
    for (size_t i = 0; i < VN_META_SLOTS; i++) {
        const struct vn_meta_slot *slot = &meta->slots[i];
        if (!slot->used || slot->begin == slot->end || (!exclusive && !slot->exclusive))
            continue;
        struct vn_meta_span other = vn_meta_span_of(meta, slot->begin, slot->end - slot->begin);
        bool both_write = exclusive && slot->exclusive;
        if (both_write ? overlap(span.begin, span.end, other.begin, other.end)
                       : overlap(begin, end, slot->begin, slot->end))
            return false;
    }
    return true;
}

struct vn_meta_slot *vn_meta_lock(struct vn_meta *meta, uint64_t begin, uint64_t end, bool exclusive) {
    size_t i = 0;
    while (i < VN_META_SLOTS && meta->slots[i].used)
        i++;
    if (i == VN_META_SLOTS || !is_free(meta, begin, end, exclusive))
        return NULL;
    struct vn_meta_slot *slot = &meta->slots[i];
    slot->used = true;
    slot->begin = begin;
    slot->end = end;
    slot->exclusive = exclusive;
    slot->nr_host_iov = slot->nr_meta_iov = 0;
    return slot;
}

void vn_meta_unlock(struct vn_meta_slot *slot) {
    slot->used = false;
}

bool vn_meta_relock(struct vn_meta *meta, struct vn_meta_slot *slot, uint64_t begin, uint64_t end, bool exclusive) {
    slot->begin = slot->end = 0;
    if (!is_free(meta, begin, end, exclusive))
        return false;
    slot->begin = begin;
    slot->end = end;
    slot->exclusive = exclusive;
    return true;
}
