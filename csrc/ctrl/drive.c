/* The drive's life, its controllers and its allocated namespaces. See drive.h. */
#include "ctrl/drive.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/util.h"
#include "ctrl/feature.h"
#include "ctrl/persona.h"
#include "ctrl/power.h"
#include "ns/ns_state.h"
#include "ns/zoned.h"

#define SAVE_AFTER_NS 1000000000ull
#define SMART_EVERY_NS 60000000000ull
#define NS_PER_HOUR 3600000000000ull
#define BUFFERS_BYTES ((size_t)VN_DRIVE_BUFFER_BYTES + VN_FIRMWARE_BYTES)

static void on_save_timer(struct vn_timer *timer);
static void on_smart_timer(struct vn_timer *timer);

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
    /* Pages that are never touched cost nothing. */
    drive->buffer = mmap(NULL, BUFFERS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (drive->buffer == MAP_FAILED) {
        vn_persona_free(drive->persona);
        vn_keep_close(drive->keep);
        free(drive);
        return vn_backend_fail(error, error_size, ENOMEM, "out of memory");
    }
    drive->reactor = reactor;
    drive->save_timer.fn = on_save_timer;
    drive->smart_timer.fn = on_smart_timer;
    drive->folded_ns = vn_monotonic_ns();
    drive->flags = opts->flags;
    drive->nsid_max = opts->nsid_max ? opts->nsid_max : VN_MAX_NAMESPACES;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++)
        vn_ana_init(&drive->views[i]);
    memset(drive->ana_group, 1, sizeof(drive->ana_group));
    vn_persona_begin(drive);
    vn_feature_begin_drive(drive);
    drive->kept.power_cycles++;
    drive->kept.unsafe_shutdowns += drive->kept.running;
    drive->kept.running = 0;
    if (!drive->kept.firmware.active)
        drive->kept.firmware.active = 1;
    *out = drive;
    return 0;
}

void vn_drive_close(struct vn_drive *drive) {
    vn_keep_close(drive->keep);
    vn_persona_free(drive->persona);
    munmap(drive->buffer, BUFFERS_BYTES);
    free(drive);
}

bool vn_drive_has_ctrls(const struct vn_drive *drive) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (drive->ctrls[i])
            return true;
    }
    return false;
}

/* What is kept of a controller. One that is new gets the place of one that has not come back, if it must. */
static struct vn_ctrl_kept *place_of(struct vn_drive *drive, uint16_t cntlid) {
    struct vn_ctrl_kept *places = drive->kept.ctrls, *unused = NULL, *absent = NULL;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (places[i].used && places[i].cntlid == cntlid)
            return &places[i];
        bool present = false;
        for (size_t j = 0; j < VN_DRIVE_MAX_CTRLS; j++)
            present |= drive->ctrls[j] && drive->ctrls[j]->kept == &places[i];
        if (!places[i].used && !unused)
            unused = &places[i];
        if (!present && !absent)
            absent = &places[i];
    }
    struct vn_ctrl_kept *place = unused ? unused : absent;
    *place = (struct vn_ctrl_kept){.cntlid = cntlid, .used = 1};
    vn_power_forget_saved(drive, place);
    drive->kept.errors[vn_drive_place(drive, place)] = (struct vn_ctrl_errors_kept){0};
    return place;
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
    ctrl->kept = place_of(drive, ctrl->cntlid);
    *place = ctrl;
    ctrl->drive = drive;
    vn_log_recall_errors(ctrl);
    ctrl->oacs_off = (uint16_t)(drive->persona ? drive->persona->oacs_off : 0);
    ctrl->oncs_off = (uint16_t)(drive->persona ? drive->persona->oncs_off : 0);
    if (drive->flags & VN_DRIVE_ANA) {
        struct vn_ana *view = &drive->views[place - drive->ctrls];
        vn_ana_init(view);
        ctrl->ana = view;
        ctrl->ana_group = drive->ana_group;
    }
    vn_feature_reset(ctrl);
    return 0;
}

void vn_drive_leave(struct vn_ctrl *ctrl) {
    vn_drive_fold(ctrl->drive);
    vn_events_drop_context(ctrl);
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (ctrl->drive->ctrls[i] == ctrl)
            ctrl->drive->ctrls[i] = NULL;
    }
}

int vn_drive_add_ns(struct vn_drive *drive, struct vn_ns *ns, uint32_t nsid) {
    if (drive->spaces[nsid])
        return drive->spaces[nsid] == ns ? 0 : -EEXIST;
    if (ns->zoned && ns->zoned->owner && ns->zoned->owner != drive)
        return -EBUSY;
    if (ns->zoned)
        ns->zoned->owner = drive;
    drive->spaces[nsid] = ns;
    drive->space_flags[nsid] = drive->flags & VN_DRIVE_SHARED ? VN_SPACE_SHARED : 0;
    vn_drive_space_came(drive, nsid);
    return 0;
}

void vn_drive_space_came(struct vn_drive *drive, uint32_t nsid) {
    struct vn_ns *ns = drive->spaces[nsid];
    if (ns->state) {
        ns->state->refusal = vn_sanitize_refusal(drive);
        vn_ns_state_look(ns);
    }
    vn_sanitize_resume(drive);
}

void vn_drive_drop_ns(struct vn_drive *drive, uint32_t nsid) {
    if ((drive->space_flags[nsid] & VN_SPACE_STAYS) || vn_drive_nr_attached(drive, nsid))
        return;
    if (drive->spaces[nsid] && drive->spaces[nsid]->zoned)
        drive->spaces[nsid]->zoned->owner = NULL;
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

uint32_t vn_drive_nr_attached(const struct vn_drive *drive, uint32_t nsid) {
    uint32_t nr = 0;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++)
        nr += drive->ctrls[i] && drive->ctrls[i]->namespaces.by_nsid[nsid];
    return nr;
}

void vn_drive_raise(const struct vn_drive *drive, enum vn_aen_type type, uint8_t info) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (drive->ctrls[i])
            vn_aer_raise(drive->ctrls[i], type, info);
    }
}

void vn_drive_tell_changed(const struct vn_drive *drive, uint32_t nsid, const struct vn_ctrl *but) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        struct vn_ctrl *ctrl = drive->ctrls[i];
        if (ctrl && ctrl != but && ctrl->namespaces.by_nsid[nsid])
            vn_aer_ns_changed(ctrl, nsid);
    }
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

/* --- Keeping --- */
static uint64_t since(uint64_t now, uint64_t before) {
    return now > before ? now - before : 0; /* before: read on another thread */
}

void vn_drive_fold(struct vn_drive *drive) {
    struct vn_smart_kept *smart = &drive->kept.smart;
    uint64_t now = vn_reactor_now_ns(drive->reactor);
    smart->on_ns += since(now, drive->folded_ns);
    drive->folded_ns = now;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        struct vn_ctrl *ctrl = drive->ctrls[i];
        if (!ctrl)
            continue;
        const struct vn_ctrl_counters *counters = &ctrl->counters, *folded = &ctrl->folded;
        smart->read_bytes += counters->read_bytes - folded->read_bytes;
        smart->write_bytes += counters->write_bytes - folded->write_bytes;
        smart->reads += counters->reads - folded->reads;
        smart->writes += counters->writes - folded->writes;
        smart->busy_ns += counters->busy_ns - folded->busy_ns;
        smart->media_errors += counters->media_errors - folded->media_errors;
        ctrl->folded = *counters;
        vn_log_keep_errors(ctrl);
    }
}

/* A save that nobody waits for fails: that is told once, until one succeeds. */
static void on_saved(struct vn_keep_wait *wait, int err) {
    struct vn_drive *drive = vn_container_of(wait, struct vn_drive, save_wait);
    const struct vn_ctrl *ctrl = NULL;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS && !ctrl; i++)
        ctrl = drive->ctrls[i];
    drive->save_waits = false;
    if (err && !drive->save_failed && ctrl)
        vn_event_emit(ctrl->events, VN_EVENT_MESSAGE, ctrl->id, (uint64_t)-err, 0,
                      "what the SSD keeps of itself could not be saved: %s", strerror(-err));
    drive->save_failed = err;
}

void vn_drive_save(struct vn_drive *drive, struct vn_keep_wait *wait) {
    if (drive->save_timer.armed)
        vn_timer_disarm(drive->reactor, &drive->save_timer);
    vn_drive_fold(drive);
    drive->saved_smart = drive->kept.smart;
    if (!wait && !drive->save_waits) {
        drive->save_waits = true;
        drive->save_wait.fn = on_saved;
        wait = &drive->save_wait;
    }
    vn_keep_save(drive->keep, drive->reactor, wait);
}

static void on_save_timer(struct vn_timer *timer) {
    vn_drive_save(vn_container_of(timer, struct vn_drive, save_timer), NULL);
}

/* Time alone counts by the hour. */
static void on_smart_timer(struct vn_timer *timer) {
    struct vn_drive *drive = vn_container_of(timer, struct vn_drive, smart_timer);
    vn_drive_fold(drive);
    struct vn_smart_kept was = drive->saved_smart;
    bool hour = drive->kept.smart.on_ns / NS_PER_HOUR != was.on_ns / NS_PER_HOUR;
    was.on_ns = drive->kept.smart.on_ns;
    if (hour || memcmp(&was, &drive->kept.smart, sizeof(was)))
        vn_drive_save(drive, NULL);
    vn_timer_arm(drive->reactor, timer, SMART_EVERY_NS);
}

void vn_drive_touch(struct vn_drive *drive) {
    if (vn_keep_lasts(drive->keep) && !drive->save_timer.armed)
        vn_timer_arm(drive->reactor, &drive->save_timer, SAVE_AFTER_NS);
}

static void on_saved_for(struct vn_keep_wait *wait, int err) {
    vn_req_complete(vn_drive_waiter(wait), err ? VN_SC_INTERNAL : VN_SC_SUCCESS);
}

void vn_drive_save_for(struct vn_req *req) {
    struct vn_keep_wait *wait = vn_drive_wait_of(req);
    wait->fn = on_saved_for;
    req->ns = NULL; /* no backend has it */
    vn_req_set_state(req, VN_REQ_TAKEN); /* a reset gives it up if the save does not end */
    vn_drive_save(req->ctrl->drive, wait);
}

/* A controller that is enabled and not shut down is in use: were the program to end now, that would be unsafe. */
void vn_drive_look(struct vn_drive *drive, struct vn_keep_wait *wait) {
    struct vn_ctrl *first = NULL;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        struct vn_ctrl *ctrl = drive->ctrls[i];
        if (ctrl && !first && (ctrl->csts & VN_CSTS_RDY) && !(ctrl->csts & VN_CSTS_SHST_MASK))
            first = ctrl;
    }
    bool running = first != NULL;
    if (running && !drive->started) {
        drive->started = true;
        vn_events_snapshot(first);
        vn_events_power_on(first, false);
    }
    bool changed = running != drive->kept.running;
    drive->kept.running = running;
    if (changed || wait)
        vn_drive_save(drive, wait);
}

void vn_drive_lost(struct vn_ctrl *ctrl) {
    ctrl->drive->kept.unsafe_shutdowns++;
    vn_drive_touch(ctrl->drive);
}

void vn_drive_begin(struct vn_drive *drive) {
    vn_drive_save(drive, NULL);
    vn_timer_arm(drive->reactor, &drive->smart_timer, SMART_EVERY_NS);
    vn_sanitize_resume(drive);
}

int vn_drive_pause(struct vn_drive *drive) {
    if (drive->smart_timer.armed)
        vn_timer_disarm(drive->reactor, &drive->smart_timer);
    int err = vn_job_pause(drive);
    if (err)
        return err;
    if (drive->save_timer.armed)
        vn_drive_save(drive, NULL);
    return vn_keep_is_idle(drive->keep) ? 0 : -EAGAIN;
}

void vn_drive_resume(struct vn_drive *drive) {
    drive->folded_ns = vn_reactor_now_ns(drive->reactor);
    vn_job_resume(drive);
}

int vn_drive_end(struct vn_drive *drive) {
    if (vn_drive_has_ctrls(drive))
        return -EBUSY;
    if (drive->smart_timer.armed) { /* the first time that it is asked */
        vn_timer_disarm(drive->reactor, &drive->smart_timer);
        drive->kept.running = 0;
        vn_drive_save(drive, NULL);
    }
    return vn_drive_pause(drive);
}
