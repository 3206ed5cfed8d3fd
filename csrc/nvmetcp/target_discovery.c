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

/* False: this host cannot reach it by that listener, or there is none of that id. */
static bool put_subsys(const struct vn_tctrl *ctrl, const struct vn_subsys *subsys, uint32_t id,
                       struct vn_discovery_entry *out) {
    const struct vn_tlistener *listener = &ctrl->target->listeners[id];
    struct sockaddr_storage address;
    if (!listener->target || listener->closing || !where_reachable(ctrl, listener, &address))
        return false;
    if (!out)
        return true;
    put_address(&address, listener->flags, out);
    out->subtype = subsys->kind == VN_CNTRLTYPE_IO ? VN_SUBTYPE_NVM : VN_SUBTYPE_CURRENT;
    out->portid = (uint16_t)id;
    out->cntlid = VN_CNTLID_DYNAMIC;
    out->asqsz = (uint16_t)vn_max_u64(ASQSZ_MIN, vn_min_u64(subsys->max_entries, UINT16_MAX));
    snprintf(out->subnqn, sizeof(out->subnqn), "%s", subsys->nqn);
    return true;
}

static bool put_referral(const struct vn_referral *referral, struct vn_discovery_entry *out) {
    if (!referral->used || !out)
        return referral->used;
    put_address(&referral->address, referral->flags, out);
    out->subtype = VN_SUBTYPE_REFERRAL;
    out->cntlid = VN_CNTLID_DYNAMIC;
    out->asqsz = ASQSZ_MIN;
    snprintf(out->subnqn, sizeof(out->subnqn), "%s", VN_DISCOVERY_NQN);
    return true;
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

/* This one or the next that the host may know of; NULL: none. */
static const struct vn_subsys *find_open(const struct vn_tctrl *ctrl, const struct vn_subsys *subsys) {
    while (subsys && (subsys->ending || !vn_subsys_admits(subsys, ctrl->fabrics.hostnqn)))
        subsys = subsys->next;
    return subsys;
}

/* The cursor: place is the subsystem and index the listener's id that come next; then NULL, and that of the referral. */
bool vn_target_discovery_entry(struct vn_ctrl *base, struct vn_discovery_cursor *at, struct vn_discovery_entry *out) {
    const struct vn_tctrl *ctrl = vn_container_of(base, struct vn_tctrl, ctrl);
    const struct vn_target *target = ctrl->target;
    if (!at->begun)
        *at = (struct vn_discovery_cursor){.begun = true, .place = find_open(ctrl, target->subsystems)};
    while (at->place) {
        const struct vn_subsys *subsys = at->place;
        while (at->index++ < VN_MAX_LISTENERS) {
            if (put_subsys(ctrl, subsys, at->index, out))
                return true;
        }
        *at = (struct vn_discovery_cursor){.begun = true, .place = find_open(ctrl, subsys->next)};
    }
    while (at->index < VN_MAX_REFERRALS) {
        if (put_referral(&target->referrals[at->index++], out))
            return true;
    }
    return false;
}

uint64_t vn_target_discovery_genctr(struct vn_ctrl *base) {
    return vn_container_of(base, struct vn_tctrl, ctrl)->target->genctr;
}
