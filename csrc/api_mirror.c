/* The mirrors' part of the C side of include/vhostnvme.h: handles and sentences. Called by the control thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "api.h"
#include "backend/mirror.h"
#include "ns/ns.h"

#define ERROR_BYTES 512u

/* 0, or what went wrong; the sentence is kept. */
static int on_mirror(vn_ns *ns, uint32_t leg, int (*fn)(struct vn_mirror *, uint32_t, char *, uint32_t)) {
    char error[ERROR_BYTES] = "";
    struct vn_mirror *mirror = vn_mirror_of(ns->backend);
    if (!mirror)
        return vn_fail(-EINVAL, "the namespace is no mirror");
    int err = fn(mirror, leg, error, sizeof(error));
    return err ? vn_fail(err, "%s", error) : 0;
}

static int close_leg(struct vn_mirror *mirror, uint32_t leg, char *error, uint32_t error_size) {
    return vn_mirror_close_leg(mirror, leg, false, error, error_size);
}

static int drop_leg(struct vn_mirror *mirror, uint32_t leg, char *error, uint32_t error_size) {
    return vn_mirror_close_leg(mirror, leg, true, error, error_size);
}

int vn_mirror_leg_out(vn_ns *ns, uint32_t leg) {
    return on_mirror(ns, leg, vn_mirror_out);
}

int vn_mirror_leg_fail(vn_ns *ns, uint32_t leg) {
    return on_mirror(ns, leg, vn_mirror_break);
}

int vn_mirror_leg_counts(vn_ns *ns, uint32_t leg) {
    return on_mirror(ns, leg, vn_mirror_count);
}

int vn_mirror_leg_close(vn_ns *ns, uint32_t leg) {
    return on_mirror(ns, leg, close_leg);
}

int vn_mirror_leg_drop(vn_ns *ns, uint32_t leg) {
    return on_mirror(ns, leg, drop_leg);
}

int vn_mirror_prefer(vn_ns *ns, uint32_t leg) {
    return on_mirror(ns, leg, vn_mirror_set_preferred);
}

/* The backend leaves the namespace that it was made in, which ends. */
int vn_mirror_leg_in(vn_ns *ns, uint32_t leg, vn_ns *made, uint32_t flags) {
    char error[ERROR_BYTES] = "";
    struct vn_mirror *mirror = vn_mirror_of(ns->backend);
    if (!mirror)
        return vn_fail(-EINVAL, "the namespace is no mirror");
    if (flags & ~VN_MIRROR_FULL)
        return vn_fail(-EINVAL, "unknown flags %x: take VN_MIRROR_FULL or none", flags);
    if (made && made->owner)
        return vn_fail(-EINVAL, "what is to become a leg is in a runtime already");
    int err = vn_mirror_in_again(mirror, leg, made ? made->backend : NULL, flags & VN_MIRROR_FULL, error, sizeof(error));
    if (err)
        return vn_fail(err, "%s", error);
    if (made)
        free(made); /* without what it stood on */
    return 0;
}

int vn_mirror_get_info(vn_ns *ns, struct vn_mirror_info *out) {
    char error[ERROR_BYTES] = "";
    struct vn_mirror *mirror = vn_mirror_of(ns->backend);
    if (!mirror)
        return vn_fail(-EINVAL, "the namespace is no mirror");
    int err = vn_mirror_look(mirror, out, error, sizeof(error));
    return err ? vn_fail(err, "%s", error) : 0;
}
