/* Another size for a mirror in use. Growing: the legs first, each by its backend's own way, then the bitmap's file, then the
 * mirror. Shrinking, of a leg that is alone: the other way round. Control thread; called by vn_backend_resize.
 *
 * What is added reads as zeros on every leg that has just got it, so that nothing has to be copied. A leg that is not there
 * lacks it, and is made larger when it comes back.
 */
#include <errno.h>

#include "backend/mirror.h"
#include "core/util.h"

struct change {
    struct vn_mirror *mirror;
    struct vn_bitmap next;
    uint64_t size;
    uint32_t attached;  /* legs, when it began */
    bool alone;
    bool not_zeros;     /* a leg was larger before: what it has there is whatever it was */
};

static int look(void *arg) {
    struct change *change = arg;
    change->attached = vn_mirror_attached(change->mirror);
    change->alone = vn_mirror_alone(change->mirror) >= 0;
    return 0;
}

/* "Not there yet" is told from what can never be. */
int vn_mirror_resize_leg(struct vn_mirror *mirror, uint32_t leg, uint64_t size, char *error, uint32_t error_size) {
    struct vn_backend *backend = mirror->legs[leg].backend;
    char why[256];
    if (backend->size >= size)
        return 0;
    int err = vn_backend_resize(backend, size, why, sizeof(why));
    uint64_t full = err == -EINVAL ? vn_backend_full_size(backend) : 0;
    err = full && full < size ? -EAGAIN : err;
    return err ? vn_backend_fail(error, error_size, -err, "leg %u: %s", leg, why) : 0;
}

static int grow_legs(struct change *change, char *error, uint32_t error_size) {
    struct vn_mirror *mirror = change->mirror;
    int err = 0;
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS && !err; leg++) {
        if (!(change->attached & VN_LEG_BIT(leg)))
            continue;
        change->not_zeros |= mirror->legs[leg].backend->size > mirror->backend.size;
        err = vn_mirror_resize_leg(mirror, leg, change->size, error, error_size);
    }
    return err;
}

/* On the reactor. The end of the mirror itself comes after this: nothing is there yet. */
static int grow_bits(void *arg) {
    struct change *change = arg;
    struct vn_mirror *mirror = change->mirror;
    struct vn_bitmap *map = &mirror->map;
    uint64_t before = map->size, added = change->size - before;
    vn_bitmap_take_size(map, &change->next);
    bool some_lack = vn_mirror_in(mirror, 1u << VN_LEG_OUT | 1u << VN_LEG_FAILED);
    bool alone = vn_mirror_alone(mirror) >= 0;
    if (alone)
        vn_bitmap_dirty_all(map);
    else if (some_lack || change->not_zeros)
        vn_bitmap_mark(map, before, added);
    if (!alone && change->not_zeros)
        vn_bitmap_set(map, map->unsure, before, added);
    if (mirror->chan) {
        vn_copy_again(mirror->chan, before >> map->region_shift, map->nr_regions);
        vn_bitmap_write(mirror->chan);
        vn_copy_kick(mirror->chan);
        vn_clean_kick(mirror->chan);
    }
    return 0;
}

static int grow(struct change *change, char *error, uint32_t error_size) {
    struct vn_mirror *mirror = change->mirror;
    int err = grow_legs(change, error, error_size);
    if (!err)
        err = vn_bitmap_prepare(&mirror->map, change->size, &change->next, error, error_size);
    if (err)
        return err;
    err = vn_mirror_call(mirror, grow_bits, change, error, error_size);
    if (err)
        vn_bitmap_keep_size(&mirror->map);
    vn_bitmap_close(&change->next);
    return err;
}

static int shrink_bits(void *arg) {
    struct change *change = arg;
    vn_bitmap_take_size(&change->mirror->map, &change->next);
    return 0;
}

/* The leg last of what may fail: what it gives back is gone. */
static int shrink(struct change *change, char *error, uint32_t error_size) {
    struct vn_mirror *mirror = change->mirror;
    if (!change->alone)
        return vn_backend_fail(error, error_size, EINVAL, "a mirror of several legs cannot become smaller: take the others out");
    int err = vn_bitmap_prepare(&mirror->map, change->size, &change->next, error, error_size);
    if (err)
        return err;
    struct vn_backend *leg = mirror->legs[vn_mirror_source(mirror)].backend;
    err = vn_backend_resize(leg, change->size, error, error_size);
    if (!err)
        err = vn_mirror_call(mirror, shrink_bits, change, error, error_size);
    else
        vn_bitmap_keep_size(&mirror->map);
    vn_bitmap_close(&change->next);
    return err;
}

int vn_mirror_resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size) {
    struct change change = {.mirror = (struct vn_mirror *)backend, .size = size};
    int err = vn_mirror_call(change.mirror, look, &change, error, error_size);
    if (err || size == backend->size)
        return err;
    return size > backend->size ? grow(&change, error, error_size) : shrink(&change, error, error_size);
}

/* As much as each leg that is there could have. */
uint64_t vn_mirror_full_size(struct vn_backend *backend) {
    struct change change = {.mirror = (struct vn_mirror *)backend};
    char error[64];
    uint64_t smallest = UINT64_MAX;
    if (vn_mirror_call(change.mirror, look, &change, error, sizeof(error)))
        return 0;
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        if (change.attached & VN_LEG_BIT(leg))
            smallest = vn_min_u64(smallest, vn_backend_full_size(change.mirror->legs[leg].backend));
    }
    return smallest;
}
