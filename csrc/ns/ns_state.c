/* The kept state of a namespace: opening, closing, and what follows from it. See ns_state.h. */
#include "ns/ns_state.h"

#include <errno.h>
#include <stdlib.h>

#include "core/nvme_admin.h"
#include "ns/meta.h"

int vn_ns_state_open(struct vn_ns *ns, char *error, uint32_t error_size) {
    struct vn_ns_state *state = calloc(1, sizeof(*state));
    if (!state)
        return vn_backend_fail(error, error_size, ENOMEM, "out of memory");
    struct vn_keep_opts opts = {.path = ns->state_path,
                                .kind = "ns",
                                .version = VN_NS_KEPT_VERSION,
                                .payload = &state->kept,
                                .bytes = sizeof(state->kept)};
    int err = vn_keep_open(&opts, &state->keep, error, error_size);
    if (!err && (!vn_marks_are_sane(&state->kept.marks) || !vn_resv_is_sane(&state->kept.reservation))) {
        vn_keep_close(state->keep);
        err = vn_backend_fail(error, error_size, EBADMSG, "%s: its marks and reservations are none; move the file away",
                              ns->state_path);
    }
    if (!err)
        vn_resv_lose_power(&state->kept.reservation);
    if (err) {
        free(state);
        return err;
    }
    ns->state = state;
    if (state->kept.write_protect == VN_WP_UNTIL_POWER_CYCLE) /* which this is */
        state->kept.write_protect = VN_WP_NONE;
    err = vn_ns_apply_format(ns, error, error_size);
    if (err) {
        vn_ns_state_close(ns);
        return err;
    }
    return 0;
}

void vn_ns_state_close(struct vn_ns *ns) {
    if (!ns->state)
        return;
    vn_meta_close(ns->meta);
    ns->meta = NULL;
    vn_keep_close(ns->state->keep);
    free(ns->state);
    ns->state = NULL;
}

void vn_ns_state_look(struct vn_ns *ns) {
    uint32_t special = ns->special & VN_NS_SPECIAL_BUSY;
    special |= ns->state->kept.format.in_progress ? VN_NS_SPECIAL_BUSY : 0;
    special |= ns->meta ? VN_NS_SPECIAL_META : 0;
    special |= ns->zoned ? VN_NS_SPECIAL_ZONES : 0;
    special |= ns->state->kept.write_protect ? VN_NS_SPECIAL_PROTECTED : 0;
    special |= ns->state->refusal ? VN_NS_SPECIAL_REFUSES : 0;
    special |= ns->state->kept.marks.nr ? VN_NS_SPECIAL_MARKS : 0;
    special |= ns->state->kept.reservation.type ? VN_NS_SPECIAL_RESERVED : 0;
    special |= ns->state->locks.nr ? VN_NS_SPECIAL_LOCKED : 0;
    ns->special = special;
}
