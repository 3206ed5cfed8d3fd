/* The drive's life, its controllers and its allocated namespaces. See drive.h. */
#include "ctrl/drive.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ctrl/persona.h"
#include "ns/ns_state.h"

int vn_drive_open(const struct vn_drive_opts *opts, struct vn_reactor *reactor, struct vn_drive **out, char *error,
                  uint32_t error_size) {
    static const struct vn_drive_opts none;
    struct vn_drive *drive = calloc(1, sizeof(*drive));
    if (!drive)
        return vn_backend_fail(error, error_size, ENOMEM, "out of memory");
    opts = opts ? opts : &none;
    struct vn_keep_opts keep_opts = {.path = opts->state_path,
                                     .kind = "drive",
                                     .version = VN_DRIVE_KEPT_VERSION,
                                     .payload = &drive->kept,
                                     .bytes = sizeof(drive->kept),
                                     .make = true};
    memcpy(keep_opts.uuid, opts->uuid, sizeof(keep_opts.uuid));
    int err = vn_keep_open(&keep_opts, &drive->keep, error, error_size);
    if (err) {
        free(drive);
        return err;
    }
    err = opts->persona ? vn_persona_copy(opts->persona, &drive->persona) : 0;
    if (err) {
        vn_keep_close(drive->keep);
        free(drive);
        return vn_backend_fail(error, error_size, -err, "the persona is none, or there is no memory for it");
    }
    drive->reactor = reactor;
    drive->flags = opts->flags;
    drive->nsid_max = opts->nsid_max ? opts->nsid_max : VN_MAX_NAMESPACES;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++)
        vn_ana_init(&drive->views[i]);
    memset(drive->ana_group, 1, sizeof(drive->ana_group));
    drive->kept.power_cycles++;
    drive->kept.unsafe_shutdowns += drive->kept.running;
    drive->kept.running = 1;
    *out = drive;
    return 0;
}

void vn_drive_close(struct vn_drive *drive) {
    vn_keep_close(drive->keep);
    vn_persona_free(drive->persona);
    free(drive);
}

bool vn_drive_has_ctrls(const struct vn_drive *drive) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (drive->ctrls[i])
            return true;
    }
    return false;
}

int vn_drive_join(struct vn_drive *drive, struct vn_ctrl *ctrl) {
    struct vn_ctrl **place = NULL;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (!drive->ctrls[i])
            place = place ? place : &drive->ctrls[i];
        else if (drive->ctrls[i]->cntlid == ctrl->cntlid)
            return -EEXIST;
    }
    if (!place)
        return -ENOSPC;
    *place = ctrl;
    ctrl->drive = drive;
    ctrl->oacs_off = (uint16_t)(drive->persona ? drive->persona->oacs_off : 0);
    ctrl->oncs_off = (uint16_t)(drive->persona ? drive->persona->oncs_off : 0);
    if (drive->flags & VN_DRIVE_ANA) {
        struct vn_ana *view = &drive->views[place - drive->ctrls];
        vn_ana_init(view);
        ctrl->ana = view;
        ctrl->ana_group = drive->ana_group;
    }
    return 0;
}

void vn_drive_leave(struct vn_ctrl *ctrl) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (ctrl->drive->ctrls[i] == ctrl)
            ctrl->drive->ctrls[i] = NULL;
    }
}

int vn_drive_add_ns(struct vn_drive *drive, struct vn_ns *ns, uint32_t nsid) {
    if (drive->spaces[nsid])
        return drive->spaces[nsid] == ns ? 0 : -EEXIST;
    drive->spaces[nsid] = ns;
    drive->space_flags[nsid] = drive->flags & VN_DRIVE_SHARED ? VN_SPACE_SHARED : 0;
    return 0;
}

void vn_drive_drop_ns(struct vn_drive *drive, uint32_t nsid) {
    if (drive->space_flags[nsid] & VN_SPACE_STAYS)
        return;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (drive->ctrls[i] && drive->ctrls[i]->namespaces.by_nsid[nsid])
            return;
    }
    drive->spaces[nsid] = NULL;
}

bool vn_drive_is_shared(const struct vn_drive *drive, uint32_t nsid) {
    return drive->space_flags[nsid] & VN_SPACE_SHARED;
}

uint32_t vn_drive_next_space(const struct vn_drive *drive, uint32_t nsid) {
    while (nsid < VN_MAX_NAMESPACES) {
        if (drive->spaces[++nsid])
            return nsid;
    }
    return 0;
}

struct vn_ctrl *vn_drive_ctrl(const struct vn_drive *drive, uint16_t cntlid) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (drive->ctrls[i] && drive->ctrls[i]->cntlid == cntlid)
            return drive->ctrls[i];
    }
    return NULL;
}

uint16_t vn_drive_next_cntlid(const struct vn_drive *drive, uint16_t from) {
    uint16_t next = VN_CNTLID_DYNAMIC;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        const struct vn_ctrl *ctrl = drive->ctrls[i];
        if (ctrl && ctrl->cntlid >= from && ctrl->cntlid < next)
            next = ctrl->cntlid;
    }
    return next;
}

void vn_drive_count_change(const struct vn_ctrl *ctrl) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS && ctrl->ana; i++) {
        if (ctrl->drive->ctrls[i] == ctrl)
            ctrl->drive->views[i].change_count++;
    }
}

bool vn_ctrl_saves(const struct vn_ctrl *ctrl) {
    if (!vn_keep_is_idle(ctrl->drive->keep))
        return true;
    for (uint32_t nsid = 0; (nsid = vn_ns_table_next(&ctrl->namespaces, nsid));) {
        const struct vn_ns_state *state = ctrl->namespaces.by_nsid[nsid]->ns->state;
        if (state && (!vn_keep_is_idle(state->keep) || state->run))
            return true;
    }
    return false;
}
