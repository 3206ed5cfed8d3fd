/* LBA Status Information (NVM Command Set 4.1.4.5): the blocks that Write Uncorrectable has marked, by namespace.
 * Called by log_page.c. */
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/log.h"
#include "ns/ns_state.h"

#define ACTION_TRACKED 0x11u /* what is known, without a scan */
#define NLB_MAX UINT32_MAX   /* of a descriptor: a longer range has several */

static uint32_t pieces_of(const struct vn_mark *mark) {
    return (uint32_t)((mark->nlb + NLB_MAX - 1) / NLB_MAX);
}

static uint32_t count(const struct vn_marks *marks) {
    uint32_t nr = 0;
    for (uint32_t i = 0; i < marks->nr; i++)
        nr += pieces_of(&marks->ranges[i]);
    return nr;
}

static void put_ranges(struct vn_log *log, const struct vn_marks *marks) {
    for (uint32_t i = 0; i < marks->nr; i++) {
        struct vn_mark mark = marks->ranges[i];
        while (mark.nlb) {
            struct vn_lba_status_range range = {.slba = mark.slba, .nlb = (uint32_t)vn_min_u64(mark.nlb, NLB_MAX)};
            vn_log_put(log, &range, sizeof(range));
            mark.slba += range.nlb;
            mark.nlb -= range.nlb;
        }
    }
}

void vn_lba_status_log(struct vn_log *log) {
    const struct vn_ns_table *table = &log->req->ctrl->namespaces;
    struct vn_log_lba_status header = {.bytes = sizeof(header)};
    for (uint32_t nsid = 0; (nsid = vn_ns_table_next(table, nsid));) {
        uint32_t nr = count(&table->by_nsid[nsid]->ns->state->kept.marks);
        header.nr += nr > 0;
        header.bytes += nr ? (uint32_t)(sizeof(struct vn_lba_status_ns) + nr * sizeof(struct vn_lba_status_range)) : 0;
    }
    vn_log_put(log, &header, sizeof(header));
    for (uint32_t nsid = 0; (nsid = vn_ns_table_next(table, nsid));) {
        const struct vn_marks *marks = &table->by_nsid[nsid]->ns->state->kept.marks;
        struct vn_lba_status_ns element = {.nsid = nsid, .nr = count(marks), .action = ACTION_TRACKED};
        if (!element.nr)
            continue;
        vn_log_put(log, &element, sizeof(element));
        put_ranges(log, marks);
    }
}
