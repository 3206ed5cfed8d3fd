/* The geometry of a namespace follows from how it is formatted. Called when its state is opened, and by Format NVM.
 */
#include <errno.h>

#include "core/util.h"
#include "ns/meta.h"
#include "ns/ns_state.h"
#include "ns/zoned.h"

#define HELD_OFF (VN_NS_SPECIAL_BUSY | VN_NS_SPECIAL_META | VN_NS_SPECIAL_REFUSES) /* one drive alone can have it */

struct vn_format vn_ns_format(const struct vn_ns *ns) {
    const struct vn_format_kept *kept = ns->state ? &ns->state->kept.format : NULL;
    if (!kept || !kept->formatted)
        return vn_format_plain(vn_ns_block_shift(ns));
    return (struct vn_format){kept->index, kept->extended, kept->pi_type, kept->pi_first};
}

bool vn_ns_keeps_format(const struct vn_ns *ns) {
    return ns->backend->forgets || (ns->state && vn_keep_lasts(ns->state->keep));
}

bool vn_ns_hold(struct vn_ns *ns) {
    __atomic_add_fetch(&ns->nr_holds, 1, __ATOMIC_SEQ_CST);
    if (!(__atomic_load_n(&ns->special, __ATOMIC_SEQ_CST) & HELD_OFF))
        return true;
    vn_ns_unhold(ns);
    return false;
}

void vn_ns_unhold(struct vn_ns *ns) {
    __atomic_sub_fetch(&ns->nr_holds, 1, __ATOMIC_SEQ_CST);
}

/* What the file says is checked as any input. */
static int check(const struct vn_ns *ns, const struct vn_format *format, char *error, uint32_t error_size) {
    if (!vn_format_is_valid(format, ns->backend->block_min))
        return vn_backend_fail(error, error_size, EINVAL, "it was formatted with blocks that what is behind it cannot have; "
                               "format it anew: remove its state file, which loses its data");
    if (ns->zoned && (vn_format_lba(format)->shift != ns->zoned->block_shift || vn_format_lba(format)->ms))
        return vn_backend_fail(error, error_size, EINVAL, "it is zoned in blocks of %u bytes, and was formatted with others",
                               1u << ns->zoned->block_shift);
    uint64_t had = ns->state->kept.format.size;
    if (vn_format_lba(format)->ms && ns->backend->size < had)
        return vn_backend_fail(error, error_size, EINVAL, "it was formatted with metadata when it had %llu bytes, and has %llu "
                               "now; give it its size back", (unsigned long long)had,
                               (unsigned long long)ns->backend->size);
    return 0;
}

int vn_ns_apply_format(struct vn_ns *ns, char *error, uint32_t error_size) {
    struct vn_format format = vn_ns_format(ns);
    int err = check(ns, &format, error, error_size);
    if (err)
        return err;
    /* Metadata stays where it is when a file has grown meanwhile. */
    uint64_t size = vn_format_lba(&format)->ms ? ns->state->kept.format.size : ns->backend->size;
    struct vn_layout layout = vn_format_layout(&format, size);
    struct vn_meta *meta = NULL;
    if (ns->state->kept.format.formatted && ns->state->kept.format.nr_blocks)
        layout.nr_blocks = vn_min_u64(layout.nr_blocks, ns->state->kept.format.nr_blocks);
    if (!layout.nr_blocks)
        return vn_backend_fail(error, error_size, EINVAL, "%llu bytes are too few for one block of its format",
                               (unsigned long long)size);
    err = layout.meta_bytes ? vn_meta_open(&layout, ns->backend->block_min, &meta) : 0;
    if (err)
        return vn_backend_fail(error, error_size, -err, "there is no memory for the buffers of its metadata");
    vn_meta_close(ns->meta);
    ns->meta = meta;
    __atomic_store_n(&ns->block_shift, vn_format_lba(&format)->shift, __ATOMIC_RELAXED);
    __atomic_store_n(&ns->nr_blocks, layout.nr_blocks, __ATOMIC_RELEASE);
    vn_ns_state_look(ns);
    return 0;
}

int vn_ns_state_format(struct vn_ns *ns, const struct vn_format *format, uint64_t nr_blocks, char *error, uint32_t error_size) {
    struct vn_format_kept before = ns->state->kept.format;
    ns->state->kept.format = (struct vn_format_kept){.formatted = 1,
                                                     .index = format->index,
                                                     .extended = format->extended,
                                                     .pi_type = format->pi_type,
                                                     .pi_first = format->pi_first,
                                                     .size = ns->backend->size,
                                                     .nr_blocks = nr_blocks};
    int err = vn_ns_apply_format(ns, error, error_size);
    if (err)
        ns->state->kept.format = before;
    return err;
}
