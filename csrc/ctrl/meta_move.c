/* Copying and comparing, see meta_move.h. Pure, but for the host's memory, which may change at any time: each byte is looked
 * at once. */
#include "ctrl/meta_move.h"

#include <string.h>

#include "core/util.h"

struct cursor {
    const struct iovec *iov;
    size_t at; /* bytes of *iov that are done */
};

enum way { FROM_HOST, TO_HOST, COMPARE };

static bool step(struct cursor *cursor, uint8_t *ours, size_t bytes, enum way way) {
    while (bytes) {
        size_t n = vn_min_u64(bytes, cursor->iov->iov_len - cursor->at);
        uint8_t *hosts = (uint8_t *)cursor->iov->iov_base + cursor->at;
        if (way == FROM_HOST)
            memcpy(ours, hosts, n);
        else if (way == TO_HOST)
            memcpy(hosts, ours, n);
        else if (memcmp(ours, hosts, n) != 0)
            return false;
        ours += n;
        bytes -= n;
        cursor->at += n;
        if (cursor->at == cursor->iov->iov_len) {
            cursor->iov++;
            cursor->at = 0;
        }
    }
    return true;
}

/* One block's metadata. */
static bool step_meta(struct cursor *cursor, const struct vn_pi *pi, uint8_t *ours, enum way way) {
    if (way != COMPARE || !pi->type)
        return step(cursor, ours, pi->ms, way);
    uint8_t hosts[VN_FORMAT_MS_MAX];
    uint32_t place = pi->first ? 0 : pi->ms - VN_PI_BYTES;
    step(cursor, hosts, pi->ms, FROM_HOST);
    memcpy(hosts + place, ours + place, VN_PI_BYTES);
    return !memcmp(hosts, ours, pi->ms);
}

static bool run(const struct vn_meta_move *move, struct vn_meta_slot *slot, enum way way) {
    const struct vn_pi *pi = move->pi;
    struct cursor data = {slot->host_iov, 0}, own = {slot->meta_iov, 0};
    struct cursor *meta = move->extended ? &data : &own;
    if (!move->with_meta)
        return step(&data, slot->data, (size_t)slot->nr * pi->block_bytes, way);
    for (uint32_t i = 0; i < slot->nr; i++) {
        if (!step(&data, slot->data + (size_t)i * pi->block_bytes, pi->block_bytes, way) ||
            !step_meta(meta, pi, slot->meta + (size_t)i * pi->ms, way))
            return false;
    }
    return true;
}

void vn_meta_from_host(const struct vn_meta_move *move, struct vn_meta_slot *slot) {
    if (!move->with_meta) /* what the host does not give is zeros, until protection information is made */
        memset(slot->meta, 0, (size_t)slot->nr * move->pi->ms);
    run(move, slot, FROM_HOST);
}

void vn_meta_to_host(const struct vn_meta_move *move, struct vn_meta_slot *slot) {
    run(move, slot, TO_HOST);
}

bool vn_meta_is_hosts(const struct vn_meta_move *move, struct vn_meta_slot *slot) {
    return run(move, slot, COMPARE);
}
