/* A drive: the NVM subsystem that controllers on PCI belong to. What they share: the namespaces allocated in it, and the kept
 * state (SMART, saved features, logs). Controllers of fabrics targets have none.
 * Owner: one reactor, home of all its controllers; made and freed on the control thread.
 */
#ifndef VN_CTRL_DRIVE_H
#define VN_CTRL_DRIVE_H

#include "core/keep.h"
#include "core/util.h"
#include "ctrl/fabrics.h"
#include "ctrl/job.h"
#include "ctrl/kept.h"
#include "ctrl/recent.h"

#define VN_DRIVE_BUFFER_BYTES (1u << 20) /* of a step of a job */
#define VN_FIRMWARE_BYTES (4u << 20)     /* an image has that many at most */

/* Commands that are decided by Python: they wait in order, and the first of them is asked about. decision.c. */
struct vn_decisions {
    struct vn_req *first, *last; /* linked by filter[0]; filter[1]: until when */
    struct vn_req *asked_for;    /* the first one, when it is what Python was asked about; NULL: it has gone meanwhile */
    struct vn_decision asked;    /* id 0: Python is asked nothing */
    uint64_t last_id;
    struct vn_timer timer;
};

struct vn_drive {
    struct vn_reactor *reactor;
    uint32_t flags; /* VN_DRIVE_* */
    uint32_t nsid_max;
    struct vn_ctrl *ctrls[VN_DRIVE_MAX_CTRLS]; /* in no order; NULL: free */
    struct vn_ns *spaces[VN_MAX_NAMESPACES + 1]; /* allocated, by NSID; attached to a controller or not */
    uint8_t space_flags[VN_MAX_NAMESPACES + 1]; /* VN_SPACE_*, and VN_SPACE_STAYS; of those allocated */
    uint8_t ana_group[VN_MAX_NAMESPACES + 1];
    struct vn_ana views[VN_DRIVE_MAX_CTRLS]; /* by the controller's place in ctrls */
    uint64_t capacity, unallocated; /* bytes; capacity 0: what the namespaces have together */
    struct vn_decisions decisions;
    struct vn_persona *persona; /* persona.h; NULL: none */
    struct vn_keep *keep;
    struct vn_drive_kept kept;
    vn_runtime *owner; /* control thread only; NULL: it is a controller's own */

    uint64_t folded_ns;           /* when the SMART counters were last summed up */
    struct vn_smart_kept saved_smart; /* as it was last saved */
    struct vn_timer save_timer;   /* something that nobody waits for is to be saved */
    struct vn_timer smart_timer;
    struct vn_keep_wait save_wait; /* of saves that nobody waits for */
    bool save_waits, save_failed;
    struct vn_job job;            /* the self-test or sanitize operation under way */
    uint8_t *buffer;              /* of jobs, VN_DRIVE_BUFFER_BYTES; then of a firmware image, VN_FIRMWARE_BYTES */
    struct vn_keep_wait sanitize_save;
    bool nodrm;         /* feature 17h: who does not want a sanitize operation to deallocate is warned, not refused */
    struct {
        uint8_t wanted; /* feature 18h: warnings that are told of by an event, enum vn_endurance_warning */
        uint8_t told;   /* ... and that there were when they were last looked at */
        bool listed;    /* it is in log 0Fh */
    } endurance;
    bool sanitize_ends; /* it has ended, which is being saved: until then it is still in progress to the host */
    bool started;                 /* a host has enabled one of its controllers */
    struct vn_download {
        uint32_t bytes;           /* up to the end of what came last */
        uint64_t units[VN_FIRMWARE_BYTES / 4096 / 64]; /* of 4 KiB that came: bits */
    } download;
    struct vn_recent recent;
    struct vn_telemetry_copy {    /* what a host has asked to be captured */
        uint8_t generation;
        uint16_t last1, last2;
        char reason[128];
        char data[VN_TELEMETRY_BYTES];
    } telemetry;
    struct vn_events_copy {       /* the context of the persistent event log */
        const struct vn_ctrl *holder; /* whose it is; NULL: there is none */
        uint32_t bytes, nr;
        uint8_t data[VN_EVENTS_BYTES];
    } context;
};

/* Control thread. opts NULL: one for a single controller, in memory. -errno, and error holds a sentence. */
int vn_drive_open(const struct vn_drive_opts *opts, struct vn_reactor *reactor, struct vn_drive **out, char *error,
                  uint32_t error_size);
void vn_drive_close(struct vn_drive *drive); /* nothing is being saved, and no controller is left */
bool vn_drive_has_ctrls(const struct vn_drive *drive);

/* Reactor, or before anything runs. -ENOSPC: it has all the controllers it can have; -EEXIST: that CNTLID is taken. */
int vn_drive_join(struct vn_drive *drive, struct vn_ctrl *ctrl);
void vn_drive_leave(struct vn_ctrl *ctrl);
/* Reactor: a namespace is allocated. -EEXIST: the NSID is another's. Again for the same one: nothing happens. */
int vn_drive_add_ns(struct vn_drive *drive, struct vn_ns *ns, uint32_t nsid);
/* Reactor: a controller has it no longer; it is allocated as long as another one has it. */
void vn_drive_drop_ns(struct vn_drive *drive, uint32_t nsid);
#define VN_SPACE_STAYS 0x80u /* it is allocated while no controller has it, too */
bool vn_drive_is_shared(const struct vn_drive *drive, uint32_t nsid);
uint32_t vn_drive_next_space(const struct vn_drive *drive, uint32_t nsid); /* the next allocated NSID above it; 0: none */
struct vn_ctrl *vn_drive_ctrl(const struct vn_drive *drive, uint16_t cntlid); /* NULL: there is none */
uint16_t vn_drive_next_cntlid(const struct vn_drive *drive, uint16_t from); /* the next from that one on; FFFFh: none */
uint32_t vn_drive_nr_attached(const struct vn_drive *drive, uint32_t nsid); /* controllers that have it */
/* An event for all its controllers; a namespace has changed, for all that have it but one (NULL: for all). */
void vn_drive_raise(const struct vn_drive *drive, enum vn_aen_type type, uint8_t info);
void vn_drive_tell_changed(const struct vn_drive *drive, uint32_t nsid, const struct vn_ctrl *but);
/* A namespace has come to a controller, or gone: its ANA log has changed. */
void vn_drive_count_change(const struct vn_ctrl *ctrl);
static inline bool vn_ctrl_is_managed(const struct vn_ctrl *ctrl) {
    return ctrl->drive && (ctrl->drive->flags & VN_DRIVE_MANAGED);
}

/* decision.c: Namespace Management and Attachment. True: the command waits for its answer; else *status is its outcome. */
bool vn_decision_park(struct vn_req *req, vn_status *status);
/* The controller's commands need not wait any longer: they end as aborted. */
void vn_decision_drop(struct vn_ctrl *ctrl);
int vn_decision_answer(struct vn_drive *drive, uint64_t id, vn_status status, uint32_t result, uint64_t specific);

/* --- Keeping. Reactor. --- */
/* The number of a controller's place in all that is kept of each. */
static inline size_t vn_drive_place(const struct vn_drive *drive, const struct vn_ctrl_kept *place) {
    return (size_t)(place - drive->kept.ctrls);
}
/* Who waits for a save is in the scratch of a command that no backend has. */
static inline struct vn_keep_wait *vn_drive_wait_of(struct vn_req *req) {
    _Static_assert(sizeof(struct vn_keep_wait) <= sizeof(req->filter), "it fits");
    return (struct vn_keep_wait *)(void *)req->filter;
}
static inline struct vn_req *vn_drive_waiter(struct vn_keep_wait *wait) {
    return vn_container_of((void *)wait, struct vn_req, filter);
}
/* Ends the command as a success when what is kept is durable; else with an internal error. */
void vn_drive_save_for(struct vn_req *req);
/* All that is kept. wait: as of vn_keep_save, or NULL. */
void vn_drive_save(struct vn_drive *drive, struct vn_keep_wait *wait);
/* Something has changed that nobody waits for: it is saved within a second. */
void vn_drive_touch(struct vn_drive *drive);
/* A controller has been enabled, disabled or shut down. wait: as of vn_keep_save, or NULL. */
void vn_drive_look(struct vn_drive *drive, struct vn_keep_wait *wait);
/* The counters of all its controllers, summed up until now: they are in drive->kept.smart. */
void vn_drive_fold(struct vn_drive *drive);
/* A host has gone without a shutdown. */
void vn_drive_lost(struct vn_ctrl *ctrl);
/* An owned drive begins, when its reactor may be used; and ends: -EBUSY, it has controllers; -EAGAIN, not yet. */
void vn_drive_begin(struct vn_drive *drive);
int vn_drive_end(struct vn_drive *drive);
/* Before it is freed or moved to another reactor: nothing of it runs on this one any more. -EAGAIN: not yet. */
int vn_drive_pause(struct vn_drive *drive);
void vn_drive_resume(struct vn_drive *drive);
/* A namespace was allocated in it. */
void vn_drive_space_came(struct vn_drive *drive, uint32_t nsid);

/* --- Identify Controller: what follows from being part of a drive. identify_drive.c --- */
void vn_drive_identify(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id);
void vn_drive_granularity(const struct vn_ctrl *ctrl, struct vn_id_granularity *id); /* id: zeros */

/* --- Commands. True: the command is parked; else *status is its outcome. --- */
vn_status vn_drive_allows(const struct vn_req *req); /* 0, or why not now: a sanitize operation (Base 8.21.1) */
bool vn_self_test_command(struct vn_req *req, vn_status *status);
bool vn_sanitize_command(struct vn_req *req, vn_status *status);
bool vn_firmware_commit(struct vn_req *req, vn_status *status);
vn_status vn_firmware_download(struct vn_req *req);
vn_status vn_directive_send(struct vn_req *req);
vn_status vn_directive_receive(struct vn_req *req);
vn_status vn_security_send(struct vn_req *req);
vn_status vn_security_receive(struct vn_req *req);
/* Features that a drive keeps or that need more than a register: feature_kept.c. */
bool vn_write_protect_set(struct vn_req *req, vn_status *status);

/* self_test.c */
uint16_t vn_self_test_minutes(const struct vn_drive *drive); /* EDSTT */
void vn_self_test_resume(struct vn_drive *drive); /* one that was under way when the program ended */
/* It ends so, unless it is none of it: of a namespace (nsid), a controller (ctrl) or at all (0, NULL). */
void vn_self_test_end(struct vn_drive *drive, enum vn_self_test_outcome outcome, uint32_t nsid, const struct vn_ctrl *ctrl);
/* sanitize.c */
#define VN_NODRM_DEFAULT true
uint32_t vn_sanitize_capabilities(const struct vn_drive *drive); /* SANICAP */
void vn_sanitize_resume(struct vn_drive *drive);
vn_status vn_sanitize_refusal(const struct vn_drive *drive); /* how I/O ends now because of it; 0: it does not */
static inline bool vn_drive_is_sanitized(const struct vn_drive *drive) {
    return drive && (drive->kept.sanitize.status == VN_SANITIZE_RUNS || drive->sanitize_ends);
}
/* endurance.c */
uint8_t vn_endurance_warnings(const struct vn_drive *drive); /* enum vn_endurance_warning, as things are */
void vn_endurance_check(struct vn_drive *drive); /* raises an event if there is a warning more, and that is wanted */
void vn_endurance_was_read(struct vn_drive *drive); /* its log, with RAE = 0 */
/* firmware.c */
const char *vn_firmware_revision(const struct vn_ctrl *ctrl, char out[9]); /* of what runs, without padding */
bool vn_firmware_activate(struct vn_drive *drive); /* at a reset: what was committed for then. True: another one runs. */

/* log_events.c: the persistent event log. data: what follows the event's header. */
void vn_events_add(struct vn_drive *drive, const struct vn_ctrl *ctrl, enum vn_event_log_type type, const void *data,
                   uint32_t bytes);
void vn_events_power_on(struct vn_ctrl *ctrl, bool firmware_activated);
void vn_events_set_feature(const struct vn_req *req);
void vn_events_snapshot(struct vn_ctrl *ctrl);
void vn_events_change_ns(const struct vn_req *req); /* Namespace Management that went well; its result is set */
void vn_events_drop_context(const struct vn_ctrl *ctrl);
/* log_telemetry.c: the controller captures its state by itself. */
void vn_telemetry_capture(struct vn_ctrl *ctrl, const char *reason);
/* log_page.c: the controller's error log, into what is kept of it, and from there. */
void vn_log_keep_errors(struct vn_ctrl *ctrl);
void vn_log_recall_errors(struct vn_ctrl *ctrl);
/* timestamp, feature 0Eh */
struct vn_timestamp vn_timestamp_now(const struct vn_ctrl *ctrl);

/* Reactor: something kept, of the controller's drive or its namespaces, is being saved, or one of them formatted: it cannot move
 * now. */
bool vn_ctrl_saves(const struct vn_ctrl *ctrl);
#endif
