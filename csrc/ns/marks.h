/* Blocks marked by Write Uncorrectable: a bounded set of ranges, sorted, apart from each other. Pure; part of what is kept of a
 * namespace, so the layout is that of docs/state.md.
 */
#ifndef VN_NS_MARKS_H
#define VN_NS_MARKS_H

#include <stdbool.h>
#include <stdint.h>

#define VN_NR_MARKS 256u     /* ranges; a write in the middle of one makes two of it */
#define VN_NR_MARKS_MADE 128u /* that Write Uncorrectable may make: the rest is for such halves */
#define VN_NO_MARK UINT64_MAX

struct vn_mark {
    uint64_t slba, nlb;
};

struct vn_marks {
    uint32_t nr, rsvd4;
    struct vn_mark ranges[VN_NR_MARKS];
};

/* What was read from a file: sorted, apart, not empty, not beyond the largest LBA. */
bool vn_marks_are_sane(const struct vn_marks *marks);
/* The first marked block of the range; VN_NO_MARK: none is. */
uint64_t vn_marks_first(const struct vn_marks *marks, uint64_t slba, uint64_t nlb);
/* The marked range at slba or else after it, cut to begin at slba; nlb 0: there is none. */
struct vn_mark vn_marks_next(const struct vn_marks *marks, uint64_t slba);
/* Mark, and remove the marks of, a range that is not empty. False: there would be too many ranges, and nothing is changed. */
bool vn_marks_add(struct vn_marks *marks, uint64_t slba, uint64_t nlb);
bool vn_marks_clear(struct vn_marks *marks, uint64_t slba, uint64_t nlb);

#endif
