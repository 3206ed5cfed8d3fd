/* Subsystems: names, hosts, namespaces and the states of their groups. Called by api_fabric.c for changes, and by
 * Connect.
 */
#include "nvmetcp/subsys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/util.h"

#define MAX_ENTRIES 1024u

int vn_subsys_new(struct vn_target *target, const struct vn_subsys_opts *opts, uint8_t kind, struct vn_subsys **out) {
    struct vn_subsys *subsys = calloc(1, sizeof(*subsys));
    if (!subsys)
        return -ENOMEM;
    subsys->target = target;
    subsys->kind = kind;
    subsys->any_host = opts->flags & VN_SUBSYS_ANY_HOST;
    subsys->max_queues = vn_or_default(opts->max_queues, VN_MAX_FABRICS_QUEUES);
    subsys->max_entries = vn_or_default(opts->max_entries, MAX_ENTRIES);
    snprintf(subsys->nqn, sizeof(subsys->nqn), "%s", opts->nqn);
    snprintf(subsys->serial, sizeof(subsys->serial), "%s", opts->serial ? opts->serial : "vn0");
    snprintf(subsys->model, sizeof(subsys->model), "%s", opts->model ? opts->model : "vhostnvme");
    for (uint32_t listener = 0; listener <= VN_MAX_LISTENERS; listener++)
        vn_ana_init(&subsys->ana[listener]);
    *out = subsys;
    return 0;
}

void vn_host_entry_free(struct vn_host_entry *entry) {
    if (entry)
        vn_host_keys_free(entry);
    free(entry);
}

void vn_subsys_free(struct vn_subsys *subsys) {
    while (subsys->hosts) {
        struct vn_host_entry *entry = subsys->hosts;
        subsys->hosts = entry->next;
        vn_host_entry_free(entry);
    }
    free(subsys);
}

int vn_subsys_enter(struct vn_subsys *subsys) {
    struct vn_target *target = subsys->target;
    uint32_t nr = 0;
    for (struct vn_subsys *other = target->subsystems; other; other = other->next, nr++) {
        if (!strcmp(other->nqn, subsys->nqn))
            return -EEXIST;
    }
    if (nr > VN_MAX_SUBSYSTEMS) /* and the discovery subsystem */
        return -ENOSPC;
    subsys->next = target->subsystems;
    target->subsystems = subsys;
    vn_target_changed(target);
    return 0;
}

/* A controller that is not ending, of this subsystem, after that one (NULL: the first). */
static struct vn_tctrl *next_ctrl(const struct vn_subsys *subsys, const struct vn_tctrl *after) {
    struct vn_tctrl *ctrl = after ? after->next : subsys->target->ctrls;
    while (ctrl && (ctrl->subsys != subsys || ctrl->ending))
        ctrl = ctrl->next;
    return ctrl;
}

int vn_subsys_leave(struct vn_subsys *subsys) {
    struct vn_target *target = subsys->target;
    bool stuck = false;
    if (!subsys->ending) {
        subsys->ending = true;
        vn_target_changed(target);
        for (const struct vn_host_entry *entry = subsys->hosts; entry; entry = entry->next)
            vn_target_keys_changed(target, entry, entry->nqn);
    }
    for (struct vn_tctrl *ctrl = target->ctrls; ctrl; ctrl = ctrl->next) {
        if (ctrl->subsys != subsys)
            continue;
        vn_tctrl_end(ctrl, "its subsystem has been removed");
        if (!ctrl->ctrl.nr_orphans)
            return -EAGAIN;
        stuck = true;
    }
    if (stuck)
        return -EBUSY;
    struct vn_subsys **at = &target->subsystems;
    while (*at && *at != subsys)
        at = &(*at)->next;
    if (*at)
        *at = subsys->next;
    return 0;
}

struct vn_subsys *vn_subsys_find(struct vn_target *target, const char *nqn) {
    for (struct vn_subsys *subsys = target->subsystems; subsys; subsys = subsys->next) {
        if (!strcmp(subsys->nqn, nqn))
            return subsys;
    }
    return NULL;
}

/* --- Hosts --- */
const struct vn_host_entry *vn_subsys_host(const struct vn_subsys *subsys, const char *hostnqn) {
    for (const struct vn_host_entry *entry = subsys->hosts; entry; entry = entry->next) {
        if (!strcmp(entry->nqn, hostnqn))
            return entry;
    }
    return NULL;
}

bool vn_subsys_admits(const struct vn_subsys *subsys, const char *hostnqn) {
    return subsys->any_host || vn_subsys_host(subsys, hostnqn);
}

int vn_host_entry_new(const struct vn_allow_opts *opts, const char *subnqn, struct vn_host_entry **out) {
    struct vn_host_entry *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return -ENOMEM;
    snprintf(entry->nqn, sizeof(entry->nqn), "%s", opts->hostnqn);
    entry->sees_all = !opts->nr_nsids;
    for (uint32_t i = 0; i < opts->nr_nsids; i++)
        entry->sees[opts->nsids[i]] = true;
    int err = vn_host_keys_make(entry, opts, subnqn);
    if (err) {
        vn_host_entry_free(entry);
        return err;
    }
    *out = entry;
    return 0;
}

struct vn_host_entry *vn_subsys_take_host(struct vn_subsys *subsys, const char *hostnqn) {
    struct vn_host_entry **at = &subsys->hosts;
    while (*at && strcmp((*at)->nqn, hostnqn) != 0)
        at = &(*at)->next;
    struct vn_host_entry *entry = *at;
    if (!entry)
        return NULL;
    *at = entry->next;
    subsys->nr_hosts--;
    vn_target_changed(subsys->target);
    vn_target_keys_changed(subsys->target, entry, hostnqn);
    for (struct vn_tctrl *ctrl = next_ctrl(subsys, NULL), *next; ctrl && !subsys->any_host; ctrl = next) {
        next = next_ctrl(subsys, ctrl);
        if (!strcmp(ctrl->fabrics.hostnqn, hostnqn))
            vn_tctrl_end(ctrl, "it is no longer allowed");
    }
    return entry;
}

int vn_subsys_put_host(struct vn_subsys *subsys, struct vn_host_entry *entry, struct vn_host_entry **old) {
    struct vn_host_entry **at = &subsys->hosts;
    while (*at && strcmp((*at)->nqn, entry->nqn) != 0)
        at = &(*at)->next;
    *old = *at;
    if (!*old && subsys->nr_hosts >= VN_MAX_HOSTS)
        return -ENOSPC;
    if (!vn_target_has_room_for_keys(subsys->target, entry))
        return -EDQUOT;
    entry->next = *old ? (*old)->next : NULL;
    *at = entry;
    subsys->nr_hosts += !*old;
    vn_target_changed(subsys->target);
    vn_target_keys_changed(subsys->target, *old, entry->nqn);
    return 0;
}

/* --- Namespaces --- */
static bool sees(const struct vn_subsys *subsys, const char *hostnqn, uint32_t nsid) {
    const struct vn_host_entry *entry = vn_subsys_host(subsys, hostnqn);
    return !entry || entry->sees_all || entry->sees[nsid]; /* none: any host is let in, and sees all */
}

void vn_subsys_fill(const struct vn_subsys *subsys, struct vn_tctrl *ctrl) {
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        struct vn_ns_chan *nsc = subsys->chans[nsid];
        if (nsc && !nsc->closing && sees(subsys, ctrl->fabrics.hostnqn, nsid))
            vn_ns_table_add(&ctrl->ctrl.namespaces, nsc);
    }
}

/* The ANA log lists namespaces. */
static void count_change(struct vn_subsys *subsys) {
    for (uint32_t listener = 0; listener <= VN_MAX_LISTENERS; listener++)
        subsys->ana[listener].change_count++;
}

static void tell(struct vn_subsys *subsys, uint32_t nsid) {
    for (struct vn_tctrl *ctrl = next_ctrl(subsys, NULL); ctrl; ctrl = next_ctrl(subsys, ctrl)) {
        if (ctrl->ctrl.namespaces.by_nsid[nsid])
            vn_aer_ns_changed(&ctrl->ctrl, nsid);
    }
}

static void tell_of_size(struct vn_ns_chan *nsc) {
    tell(nsc->hosts, nsc->nsid);
}

int vn_subsys_open_ns(struct vn_subsys *subsys, struct vn_ns *ns, uint32_t nsid, uint8_t group, struct vn_ns_chan **out) {
    if (subsys->chans[nsid])
        return -EEXIST;
    int err = vn_ns_chan_open(ns, subsys->target->reactor, nsid, out);
    if (err)
        return err;
    (*out)->resized = tell_of_size;
    (*out)->hosts = subsys;
    subsys->chans[nsid] = *out;
    subsys->ana_group[nsid] = group;
    count_change(subsys);
    for (struct vn_tctrl *ctrl = next_ctrl(subsys, NULL); ctrl; ctrl = next_ctrl(subsys, ctrl)) {
        if (!sees(subsys, ctrl->fabrics.hostnqn, nsid))
            continue;
        vn_ns_table_add(&ctrl->ctrl.namespaces, *out);
        vn_aer_ns_changed(&ctrl->ctrl, nsid);
    }
    return 0;
}

/* Of all its controllers, those that end too: they may still drain. */
static bool is_used(const struct vn_subsys *subsys, const struct vn_ns_chan *nsc) {
    for (const struct vn_tctrl *ctrl = subsys->target->ctrls; ctrl; ctrl = ctrl->next) {
        if (ctrl->subsys == subsys && vn_ctrl_uses_ns(&ctrl->ctrl, nsc))
            return true;
    }
    return nsc->inflight;
}

int vn_subsys_close_ns(struct vn_subsys *subsys, uint32_t nsid, struct vn_ns_chan **out) {
    struct vn_ns_chan *nsc = subsys->chans[nsid];
    if (!nsc)
        return -ENOENT;
    if (!nsc->closing) {
        nsc->closing = true; /* no new command finds it */
        count_change(subsys);
        tell(subsys, nsid);
    }
    if (vn_ns_release(nsc) || is_used(subsys, nsc))
        return -EAGAIN;
    for (struct vn_tctrl *ctrl = subsys->target->ctrls; ctrl; ctrl = ctrl->next) {
        if (ctrl->subsys == subsys)
            vn_ns_table_remove(&ctrl->ctrl.namespaces, nsid);
    }
    subsys->chans[nsid] = NULL;
    vn_ns_chan_close(nsc);
    *out = nsc;
    return 0;
}

void vn_subsys_set_state(struct vn_subsys *subsys, uint32_t listener, uint32_t group, enum vn_ana_state state) {
    for (uint32_t id = 0; id <= VN_MAX_LISTENERS; id++) {
        if ((listener && id != listener) || !vn_ana_set(&subsys->ana[id], group, state))
            continue;
        for (struct vn_tctrl *ctrl = next_ctrl(subsys, NULL); ctrl; ctrl = next_ctrl(subsys, ctrl)) {
            if (ctrl->listener == id)
                vn_ana_changed(&ctrl->ctrl);
        }
    }
}

void vn_subsys_new_listener(struct vn_target *target, uint32_t listener) {
    for (const struct vn_tctrl *ctrl = target->ctrls; ctrl; ctrl = ctrl->next) {
        if (ctrl->listener == listener) /* a host of the old one is still there: it goes on as it was */
            return;
    }
    for (struct vn_subsys *subsys = target->subsystems; subsys; subsys = subsys->next)
        subsys->ana[listener] = subsys->ana[0];
}
