/* The set of marked blocks, see marks.h. */
#include "ns/marks.h"

#include <string.h>

#include "core/util.h"

static uint64_t end_of(const struct vn_mark *mark) {
    return mark->slba + mark->nlb;
}

bool vn_marks_are_sane(const struct vn_marks *marks) {
    if (marks->nr > VN_NR_MARKS)
        return false;
    for (uint32_t i = 0; i < marks->nr; i++) {
        const struct vn_mark *mark = &marks->ranges[i];
        if (!mark->nlb || mark->nlb > UINT64_MAX - mark->slba)
            return false;
        if (i && mark->slba <= end_of(mark - 1))
            return false;
    }
    return true;
}

/* The first range that ends behind lba. */
static uint32_t find(const struct vn_marks *marks, uint64_t lba) {
    uint32_t i = 0;
    while (i < marks->nr && end_of(&marks->ranges[i]) <= lba)
        i++;
    return i;
}

struct vn_mark vn_marks_next(const struct vn_marks *marks, uint64_t slba) {
    uint32_t i = find(marks, slba);
    if (i == marks->nr)
        return (struct vn_mark){0};
    uint64_t from = vn_max_u64(marks->ranges[i].slba, slba);
    return (struct vn_mark){.slba = from, .nlb = end_of(&marks->ranges[i]) - from};
}

uint64_t vn_marks_first(const struct vn_marks *marks, uint64_t slba, uint64_t nlb) {
    struct vn_mark next = vn_marks_next(marks, slba);
    return next.nlb && next.slba - slba < nlb ? next.slba : VN_NO_MARK;
}

/* In place of `gone` ranges from index on come `nr` new ones. False: they do not fit, within so many in all. */
static bool replace(struct vn_marks *marks, uint32_t index, uint32_t gone, const struct vn_mark *new, uint32_t nr, uint32_t max) {
    if (nr > gone && marks->nr + (nr - gone) > max)
        return false;
    struct vn_mark *at = &marks->ranges[index];
    memmove(at + nr, at + gone, (marks->nr - index - gone) * sizeof(*at));
    memcpy(at, new, nr * sizeof(*at));
    marks->nr = marks->nr + nr - gone;
    return true;
}

bool vn_marks_add(struct vn_marks *marks, uint64_t slba, uint64_t nlb) {
    uint64_t end = slba + nlb;
    uint32_t index = slba ? find(marks, slba - 1) : 0; /* one that ends where it begins becomes part of it */
    uint32_t gone = 0;
    for (; index + gone < marks->nr && marks->ranges[index + gone].slba <= end; gone++) {
        slba = vn_min_u64(slba, marks->ranges[index + gone].slba);
        end = vn_max_u64(end, end_of(&marks->ranges[index + gone]));
    }
    struct vn_mark merged = {.slba = slba, .nlb = end - slba};
    return replace(marks, index, gone, &merged, 1, VN_NR_MARKS_MADE);
}

bool vn_marks_clear(struct vn_marks *marks, uint64_t slba, uint64_t nlb) {
    uint64_t end = slba + nlb;
    uint32_t index = find(marks, slba), gone = 0, nr = 0;
    struct vn_mark left[2];
    for (; index + gone < marks->nr && marks->ranges[index + gone].slba < end; gone++) {
        struct vn_mark mark = marks->ranges[index + gone];
        if (mark.slba < slba)
            left[nr++] = (struct vn_mark){.slba = mark.slba, .nlb = slba - mark.slba};
        if (end_of(&mark) > end)
            left[nr++] = (struct vn_mark){.slba = end, .nlb = end_of(&mark) - end};
    }
    return replace(marks, index, gone, left, nr, VN_NR_MARKS);
}
