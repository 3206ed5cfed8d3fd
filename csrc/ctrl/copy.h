/* What Copy of plain blocks (copy.c) and of blocks with metadata (meta_copy.c) share: the list of source ranges, and what is
 * counted. Owner: the controller's reactor.
 */
#ifndef VN_CTRL_COPY_H
#define VN_CTRL_COPY_H

#include "core/util.h"
#include "ctrl/ctrl.h"

#define VN_COPY_RANGES_MAX 128u /* what fits a page, in format 0h: MSRC, which is 0's based, is one less */
#define VN_COPY_FORMAT_SHORT 0u
#define VN_COPY_FORMAT_LONG 1u
#define VN_COPY_LIST_BYTES_MAX (VN_COPY_RANGES_MAX * sizeof(struct vn_copy_range_long))

static inline uint32_t vn_copy_entry_bytes(const struct vn_sqe *cmd) {
    return VN_COPY_FORMAT(cmd->cdw12) == VN_COPY_FORMAT_LONG ? sizeof(struct vn_copy_range_long) : sizeof(struct vn_copy_range);
}

/* A source range: both formats begin alike up to NLB. */
static inline const struct vn_copy_range *vn_copy_range_at(const struct vn_sqe *cmd, const uint8_t *list, uint32_t index) {
    return (const struct vn_copy_range *)(const void *)(list + index * vn_copy_entry_bytes(cmd));
}

static inline uint32_t vn_copy_blocks_of(const struct vn_copy_range *range) {
    return range->nlb + 1u;
}

/* It is User Data In and Out, and a read and a write (NVM Command Set 1.4.2). */
static inline void vn_copy_count(struct vn_ctrl *ctrl, uint64_t bytes) {
    vn_count(&ctrl->counters.read_bytes, bytes);
    vn_count(&ctrl->counters.write_bytes, bytes);
    vn_count(&ctrl->counters.reads, 1);
    vn_count(&ctrl->counters.writes, 1);
}

#endif
