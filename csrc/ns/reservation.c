/* Reservations, see reservation.h. Base 2.0 sections 7.2 to 7.5 (the commands) and 8.19 (what they mean). */
#include "ns/reservation.h"

#include <string.h>

#include "core/util.h"

/* --- What is forbidden (Base figure 408): C of that table, for who does not hold the reservation --- */
static const struct {
    bool non_registrant, registrant;
} conflicts[VN_RESV_NR_TYPES][VN_RESV_OTHERS] = {
    /*                                        reads           writes        acquires      preempts, releases */
    [VN_RESV_WRITE_EXCLUSIVE]             = {{false, false}, {true, true},  {true, true}, {true, false}},
    [VN_RESV_EXCLUSIVE_ACCESS]            = {{true, true},   {true, true},  {true, true}, {true, false}},
    [VN_RESV_WRITE_EXCLUSIVE_REGISTRANTS] = {{false, false}, {true, false}, {true, true}, {true, false}},
    [VN_RESV_EXCLUSIVE_ACCESS_REGISTRANTS] = {{true, false},  {true, false}, {true, true}, {true, false}},
    [VN_RESV_WRITE_EXCLUSIVE_ALL]         = {{false, false}, {true, false}, {true, true}, {true, false}},
    [VN_RESV_EXCLUSIVE_ACCESS_ALL]        = {{true, false},  {true, false}, {true, true}, {true, false}},
};

static bool is_of_all(uint8_t type) {
    return type == VN_RESV_WRITE_EXCLUSIVE_ALL || type == VN_RESV_EXCLUSIVE_ACCESS_ALL;
}

/* The types whose end other registrants are told of: they had more rights by it. */
static bool is_of_registrants(uint8_t type) {
    return type >= VN_RESV_WRITE_EXCLUSIVE_REGISTRANTS;
}

static bool is_same(const struct vn_resv_host *a, const struct vn_resv_host *b) {
    return a->ctrl == b->ctrl && !memcmp(a->id, b->id, sizeof(a->id));
}

const struct vn_resv_registrant *vn_resv_find(const struct vn_reservation *resv, const struct vn_resv_host *host) {
    for (uint32_t i = 0; i < resv->nr; i++) {
        if (is_same(&resv->registrants[i].host, host))
            return &resv->registrants[i];
    }
    return NULL;
}

bool vn_resv_holds(const struct vn_reservation *resv, const struct vn_resv_registrant *registrant) {
    return registrant && resv->type && (is_of_all(resv->type) || registrant->holds);
}

bool vn_resv_conflicts(const struct vn_reservation *resv, const struct vn_resv_host *host, enum vn_resv_group group) {
    if (!resv->type || group == VN_RESV_OTHERS)
        return false;
    const struct vn_resv_registrant *registrant = vn_resv_find(resv, host);
    if (vn_resv_holds(resv, registrant))
        return false;
    return registrant ? conflicts[resv->type][group].registrant : conflicts[resv->type][group].non_registrant;
}

bool vn_resv_is_sane(const struct vn_reservation *resv) {
    uint32_t nr_holders = 0;
    if (resv->nr > VN_RESV_REGISTRANTS || resv->type >= VN_RESV_NR_TYPES || resv->ptpl > 1)
        return false;
    for (uint32_t i = 0; i < resv->nr; i++) {
        if (vn_resv_find(resv, &resv->registrants[i].host) != &resv->registrants[i] || resv->registrants[i].holds > 1)
            return false;
        nr_holders += resv->registrants[i].holds;
    }
    if (!resv->type || is_of_all(resv->type))
        return !nr_holders && (!resv->type || resv->nr);
    return nr_holders == 1;
}

void vn_resv_lose_power(struct vn_reservation *resv) {
    if (!resv->ptpl)
        *resv = (struct vn_reservation){0};
}

/* --- Changes --- */
static void tell(struct vn_resv_notices *notices, const struct vn_resv_host *host, uint8_t type) {
    notices->list[notices->nr++] = (struct vn_resv_notice){*host, type};
}

/* All registrants but one. */
static void tell_others(const struct vn_reservation *resv, const struct vn_resv_host *but, uint8_t type,
                        struct vn_resv_notices *notices) {
    for (uint32_t i = 0; i < resv->nr; i++) {
        if (!is_same(&resv->registrants[i].host, but))
            tell(notices, &resv->registrants[i].host, type);
    }
}

/* Nobody holds it any more. */
static void end_reservation(struct vn_reservation *resv) {
    resv->type = 0;
    for (uint32_t i = 0; i < resv->nr; i++)
        resv->registrants[i].holds = 0;
}

static void begin_reservation(struct vn_reservation *resv, const struct vn_resv_host *host, uint8_t type) {
    struct vn_resv_registrant *registrant = (struct vn_resv_registrant *)vn_resv_find(resv, host);
    resv->type = type;
    registrant->holds = !is_of_all(type);
}

/* A holder takes the reservation along, of all registrants the last one. */
static void remove_at(struct vn_reservation *resv, uint32_t index) {
    bool ends = resv->registrants[index].holds || (is_of_all(resv->type) && resv->nr == 1);
    resv->nr--;
    memmove(&resv->registrants[index], &resv->registrants[index + 1], (resv->nr - index) * sizeof(resv->registrants[0]));
    memset(&resv->registrants[resv->nr], 0, sizeof(resv->registrants[0]));
    if (ends)
        end_reservation(resv);
}

static vn_status add(struct vn_reservation *resv, const struct vn_resv_host *host, uint64_t key) {
    if (resv->nr == VN_RESV_REGISTRANTS)
        return VN_SC_RESERVATION_CONFLICT; /* no room, which has no status of its own */
    resv->registrants[resv->nr++] = (struct vn_resv_registrant){.host = *host, .key = key};
    return VN_SC_SUCCESS;
}

static vn_status unregister(struct vn_reservation *resv, const struct vn_resv_host *host, struct vn_resv_notices *notices) {
    const struct vn_resv_registrant *registrant = vn_resv_find(resv, host);
    uint8_t before = resv->type;
    remove_at(resv, (uint32_t)(registrant - resv->registrants));
    if (before && !resv->type && is_of_registrants(before))
        tell_others(resv, host, VN_RESV_NOTICE_RELEASED, notices);
    return VN_SC_SUCCESS;
}

static vn_status change_registration(struct vn_reservation *resv, const struct vn_resv_host *host, uint32_t cdw10,
                                     uint64_t crkey, uint64_t nrkey, struct vn_resv_notices *notices) {
    struct vn_resv_registrant *registrant = (struct vn_resv_registrant *)vn_resv_find(resv, host);
    bool ignores_key = cdw10 & VN_RESV_IEKEY;
    switch (VN_RESV_ACTION(cdw10)) {
    case VN_RESV_REGISTER:
        if (!registrant)
            return add(resv, host, nrkey);
        if (!ignores_key && registrant->key != nrkey) /* another key is for Replace; the same one again is no mistake */
            return VN_SC_RESERVATION_CONFLICT;
        registrant->key = nrkey;
        return VN_SC_SUCCESS;
    case VN_RESV_UNREGISTER:
        if (!registrant || (!ignores_key && registrant->key != crkey))
            return VN_SC_RESERVATION_CONFLICT;
        return unregister(resv, host, notices);
    case VN_RESV_REPLACE:
        if (!ignores_key && (!registrant || registrant->key != crkey))
            return VN_SC_RESERVATION_CONFLICT;
        if (!registrant)
            return add(resv, host, nrkey);
        registrant->key = nrkey;
        return VN_SC_SUCCESS;
    default:
        return VN_SC_INVALID_FIELD;
    }
}

vn_status vn_resv_register(struct vn_reservation *resv, const struct vn_resv_host *host, uint32_t cdw10, uint64_t crkey,
                           uint64_t nrkey, struct vn_resv_notices *notices) {
    uint32_t cptpl = cdw10 >> 30;
    notices->nr = 0;
    if (cptpl == 1)
        return VN_SC_INVALID_FIELD;
    vn_status status = change_registration(resv, host, cdw10, crkey, nrkey, notices);
    if (status)
        return status;
    if (cptpl)
        resv->ptpl = cptpl == VN_RESV_CPTPL_SET;
    resv->generation++;
    return VN_SC_SUCCESS;
}

/* --- Preempting (Base 8.19.6) --- */

/* Those with the key, or all, go; the one who preempts stays when it takes the reservation. */
static uint32_t remove_key(struct vn_reservation *resv, const struct vn_resv_host *host, bool all, uint64_t key, bool stays,
                           struct vn_resv_notices *notices) {
    uint32_t nr = 0;
    for (uint32_t i = resv->nr; i-- > 0;) {
        bool own = is_same(&resv->registrants[i].host, host);
        if ((!all && resv->registrants[i].key != key) || (own && stays))
            continue;
        if (!own)
            tell(notices, &resv->registrants[i].host, VN_RESV_NOTICE_PREEMPTED_REGISTRATION);
        remove_at(resv, i);
        nr++;
    }
    return nr;
}

static const struct vn_resv_registrant *holder_of(const struct vn_reservation *resv) {
    for (uint32_t i = 0; i < resv->nr; i++) {
        if (resv->registrants[i].holds)
            return &resv->registrants[i];
    }
    return NULL;
}

static bool has_key(const struct vn_reservation *resv, uint64_t key) {
    for (uint32_t i = 0; i < resv->nr; i++) {
        if (resv->registrants[i].key == key)
            return true;
    }
    return false;
}

static vn_status preempt(struct vn_reservation *resv, const struct vn_resv_host *host, uint8_t type, uint64_t prkey,
                         struct vn_resv_notices *notices) {
    const struct vn_resv_registrant *holder = holder_of(resv);
    bool of_all = is_of_all(resv->type);
    bool takes = of_all ? prkey == 0 : holder && holder->key == prkey;
    uint8_t before = resv->type;
    if (!takes && !prkey)
        return VN_SC_INVALID_FIELD;
    if (!takes && !has_key(resv, prkey))
        return VN_SC_RESERVATION_CONFLICT;
    remove_key(resv, host, of_all && takes, prkey, takes, notices);
    if (takes) {
        end_reservation(resv);
        begin_reservation(resv, host, type);
    }
    /* those that are left have other rights now */
    if (before && resv->type != before && is_of_registrants(before))
        tell_others(resv, host, VN_RESV_NOTICE_RELEASED, notices);
    resv->generation++;
    return VN_SC_SUCCESS;
}

static vn_status acquire(struct vn_reservation *resv, const struct vn_resv_host *host, uint8_t type) {
    if (!resv->type) {
        begin_reservation(resv, host, type);
        return VN_SC_SUCCESS;
    }
    bool again = vn_resv_holds(resv, vn_resv_find(resv, host)) && resv->type == type; /* no mistake, and no effect */
    return again ? VN_SC_SUCCESS : VN_SC_RESERVATION_CONFLICT;
}

vn_status vn_resv_acquire(struct vn_reservation *resv, const struct vn_resv_host *host, uint32_t cdw10, uint64_t crkey,
                          uint64_t prkey, struct vn_resv_notices *notices) {
    const struct vn_resv_registrant *registrant = vn_resv_find(resv, host);
    uint8_t type = VN_RESV_RTYPE(cdw10);
    notices->nr = 0;
    if ((cdw10 & VN_RESV_IEKEY) || VN_RESV_ACTION(cdw10) > VN_RESV_PREEMPT_AND_ABORT || !type || type >= VN_RESV_NR_TYPES)
        return VN_SC_INVALID_FIELD;
    if (!registrant || registrant->key != crkey)
        return VN_SC_RESERVATION_CONFLICT;
    if (VN_RESV_ACTION(cdw10) == VN_RESV_ACQUIRE)
        return acquire(resv, host, type);
    return preempt(resv, host, type, prkey, notices);
}

/* --- Releasing and clearing (Base 8.19.5, 8.19.7) --- */
static vn_status release(struct vn_reservation *resv, const struct vn_resv_host *host, uint8_t type,
                         struct vn_resv_notices *notices) {
    uint8_t before = resv->type;
    if (!before || !vn_resv_holds(resv, vn_resv_find(resv, host))) /* a registrant that holds nothing: no effect */
        return VN_SC_SUCCESS;
    if (type != before)
        return VN_SC_INVALID_FIELD;
    end_reservation(resv);
    if (is_of_registrants(before))
        tell_others(resv, host, VN_RESV_NOTICE_RELEASED, notices);
    return VN_SC_SUCCESS;
}

static vn_status clear(struct vn_reservation *resv, const struct vn_resv_host *host, struct vn_resv_notices *notices) {
    tell_others(resv, host, resv->type ? VN_RESV_NOTICE_PREEMPTED_RESERVATION : VN_RESV_NOTICE_PREEMPTED_REGISTRATION, notices);
    end_reservation(resv);
    memset(resv->registrants, 0, sizeof(resv->registrants));
    resv->nr = 0;
    resv->generation++;
    return VN_SC_SUCCESS;
}

vn_status vn_resv_release(struct vn_reservation *resv, const struct vn_resv_host *host, uint32_t cdw10, uint64_t crkey,
                          struct vn_resv_notices *notices) {
    const struct vn_resv_registrant *registrant = vn_resv_find(resv, host);
    notices->nr = 0;
    if ((cdw10 & VN_RESV_IEKEY) || VN_RESV_ACTION(cdw10) > VN_RESV_CLEAR)
        return VN_SC_INVALID_FIELD;
    if (!registrant || registrant->key != crkey)
        return VN_SC_RESERVATION_CONFLICT;
    return VN_RESV_ACTION(cdw10) == VN_RESV_CLEAR ? clear(resv, host, notices)
                                                  : release(resv, host, VN_RESV_RTYPE(cdw10), notices);
}
