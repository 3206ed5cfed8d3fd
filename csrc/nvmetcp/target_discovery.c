/* What a target tells hosts of itself: its subsystems, as far as they may connect to them, at each of its listeners, and
 * other discovery services. Called by ctrl/discovery.c, record by record.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "nvmetcp/subsys.h"

#define ASQSZ_MIN 32u

static void put_address(const struct sockaddr_storage *address, uint32_t flags, struct vn_discovery_entry *out) {
    out->trtype = VN_TRTYPE_TCP;
    out->adrfam = address->ss_family == AF_INET6 ? VN_ADRFAM_IPV6 : VN_ADRFAM_IPV4;
    out->treq = VN_TREQ_NO_SQ_FLOW | (flags & VN_LISTEN_TLS ? VN_TREQ_SECURE_REQUIRED : VN_TREQ_SECURE_NOT_REQUIRED);
    out->tsas[0] = flags & VN_LISTEN_TLS ? VN_SECTYPE_TLS13 : VN_SECTYPE_NONE;
    vn_address_print_host(address, out->traddr, sizeof(out->traddr));
    snprintf(out->trsvcid, sizeof(out->trsvcid), "%u", vn_address_port(address));
}

static bool is_any(const struct sockaddr_storage *address) {
    if (address->ss_family == AF_INET6)
        return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)address)->sin6_addr);
    return ((const struct sockaddr_in *)address)->sin_addr.s_addr == htonl(INADDR_ANY);
}

/* A listener on all addresses is told of as the one by which this host has come. False: it has come by none of them. */
static bool where_reachable(const struct vn_tctrl *ctrl, const struct vn_tlistener *listener, struct sockaddr_storage *out) {
    *out = listener->address;
    if (!is_any(out))
        return true;
    const struct sockaddr_storage *local = &ctrl->local;
    if (local->ss_family != out->ss_family)
        return false;
    if (out->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)out)->sin6_addr = ((const struct sockaddr_in6 *)local)->sin6_addr;
    else
        ((struct sockaddr_in *)out)->sin_addr = ((const struct sockaddr_in *)local)->sin_addr;
    return true;
}

/* True: this was the one. */
static bool is_next(uint32_t *left) {
    return (*left)-- == 0;
}

static bool put_subsys(const struct vn_tctrl *ctrl, const struct vn_subsys *subsys, uint32_t *left,
                       struct vn_discovery_entry *out) {
    const struct vn_target *target = ctrl->target;
    for (uint16_t id = 1; id <= VN_MAX_LISTENERS; id++) {
        const struct vn_tlistener *listener = &target->listeners[id];
        struct sockaddr_storage address;
        if (!listener->target || listener->closing || !where_reachable(ctrl, listener, &address) || !is_next(left))
            continue;
        put_address(&address, listener->flags, out);
        out->subtype = subsys->kind == VN_CNTRLTYPE_IO ? VN_SUBTYPE_NVM : VN_SUBTYPE_CURRENT;
        out->portid = id;
        out->cntlid = VN_CNTLID_DYNAMIC;
        out->asqsz = (uint16_t)vn_max_u64(ASQSZ_MIN, vn_min_u64(subsys->max_entries, UINT16_MAX));
        snprintf(out->subnqn, sizeof(out->subnqn), "%s", subsys->nqn);
        return true;
    }
    return false;
}

static bool put_referral(const struct vn_target *target, uint32_t *left, struct vn_discovery_entry *out) {
    for (uint32_t i = 0; i < VN_MAX_REFERRALS; i++) {
        const struct vn_referral *referral = &target->referrals[i];
        if (!referral->used || !is_next(left))
            continue;
        put_address(&referral->address, referral->flags, out);
        out->subtype = VN_SUBTYPE_REFERRAL;
        out->cntlid = VN_CNTLID_DYNAMIC;
        out->asqsz = ASQSZ_MIN;
        snprintf(out->subnqn, sizeof(out->subnqn), "%s", VN_DISCOVERY_NQN);
        return true;
    }
    return false;
}

int vn_target_put_referral(struct vn_target *target, const struct sockaddr_storage *address, uint32_t flags) {
    struct vn_referral *at = NULL;
    for (uint32_t i = 0; i < VN_MAX_REFERRALS; i++) {
        struct vn_referral *referral = &target->referrals[i];
        if (referral->used && vn_address_is_same(&referral->address, address)) {
            at = referral;
            break;
        }
        if (!referral->used && !at)
            at = referral;
    }
    if (!at)
        return -ENOSPC;
    *at = (struct vn_referral){.used = true, .flags = flags, .address = *address};
    vn_target_changed(target);
    return 0;
}

int vn_target_take_referral(struct vn_target *target, const struct sockaddr_storage *address) {
    for (uint32_t i = 0; i < VN_MAX_REFERRALS; i++) {
        struct vn_referral *referral = &target->referrals[i];
        if (!referral->used || !vn_address_is_same(&referral->address, address))
            continue;
        referral->used = false;
        vn_target_changed(target);
        return 0;
    }
    return -ENOENT;
}

bool vn_target_discovery_entry(struct vn_ctrl *base, uint32_t index, struct vn_discovery_entry *out) {
    const struct vn_tctrl *ctrl = vn_container_of(base, struct vn_tctrl, ctrl);
    for (const struct vn_subsys *subsys = ctrl->target->subsystems; subsys; subsys = subsys->next) {
        if (!subsys->ending && vn_subsys_admits(subsys, ctrl->fabrics.hostnqn) && put_subsys(ctrl, subsys, &index, out))
            return true;
    }
    return put_referral(ctrl->target, &index, out);
}

uint64_t vn_target_discovery_genctr(struct vn_ctrl *base) {
    return vn_container_of(base, struct vn_tctrl, ctrl)->target->genctr;
}
