/* The C side of include/vhostnvme_fabric.h, and nothing else: handles, argument checks, calls to the reactors.
 * Called by one control thread (Python's).
 */
#include <errno.h>

#include "api.h"
#include "nvmetcp/target.h"

int vn_target_create(vn_runtime *rt, const struct vn_target_opts *opts, vn_target **out) {
    if (opts->reactor >= rt->nr_reactors)
        return vn_fail(-EINVAL, "there is no reactor %u", opts->reactor);
    int err = vn_target_new(opts, rt->reactors[opts->reactor], rt->events, ++rt->last_id, out);
    if (err)
        return vn_fail(err, "out of memory");
    (*out)->owner = rt;
    rt->nr_handles++;
    return 0;
}

uint64_t vn_target_id(const vn_target *target) {
    return target->id;
}

int vn_target_destroy(vn_target *target) {
    vn_event_emit(target->events, VN_EVENT_TARGET_DESTROYED, target->id, 0, 0, "%s", "");
    target->owner->nr_handles--;
    vn_target_free(target);
    return 0;
}

/* What follows is being built. */
static int not_yet(void) {
    return vn_fail(-ENOSYS, "the NVMe/TCP target cannot do that yet");
}

int vn_target_listen(vn_target *target, const struct vn_listen_opts *opts, uint32_t *id, uint16_t *port) {
    (void)target, (void)opts, (void)id, (void)port;
    return not_yet();
}

int vn_target_unlisten(vn_target *target, uint32_t id) {
    (void)target, (void)id;
    return not_yet();
}

int vn_target_add_referral(vn_target *target, const struct vn_referral_opts *opts) {
    (void)target, (void)opts;
    return not_yet();
}

int vn_target_remove_referral(vn_target *target, const char *host, uint16_t port) {
    (void)target, (void)host, (void)port;
    return not_yet();
}

int vn_target_add_subsys(vn_target *target, const struct vn_subsys_opts *opts, vn_subsys **out) {
    (void)target, (void)opts, (void)out;
    return not_yet();
}

int vn_subsys_remove(vn_subsys *subsys) {
    (void)subsys;
    return not_yet();
}

int vn_subsys_add_ns(vn_subsys *subsys, vn_ns *ns, uint32_t nsid, uint32_t ana_group) {
    (void)subsys, (void)ns, (void)nsid, (void)ana_group;
    return not_yet();
}

int vn_subsys_remove_ns(vn_subsys *subsys, uint32_t nsid) {
    (void)subsys, (void)nsid;
    return not_yet();
}

int vn_subsys_allow_host(vn_subsys *subsys, const struct vn_allow_opts *opts) {
    (void)subsys, (void)opts;
    return not_yet();
}

int vn_subsys_deny_host(vn_subsys *subsys, const char *hostnqn) {
    (void)subsys, (void)hostnqn;
    return not_yet();
}

int vn_subsys_set_ana(vn_subsys *subsys, uint32_t listener, uint32_t ana_group, uint32_t state) {
    (void)subsys, (void)listener, (void)ana_group, (void)state;
    return not_yet();
}

int vn_target_get_info(vn_target *target, struct vn_target_info *out) {
    (void)target, (void)out;
    return not_yet();
}
