/* Drives, as include/vhostnvme.h has them. Control thread only. */
#include <errno.h>
#include <string.h>

#include "api.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ns/ns_state.h"

#define ERROR_BYTES 512u

static int begin_on_reactor(void *arg) {
    vn_drive_begin(arg);
    return 0;
}

int vn_drive_create(vn_runtime *rt, const struct vn_drive_opts *opts, vn_drive **out) {
    char error[ERROR_BYTES];
    if (opts->nsid_max > VN_MAX_NAMESPACES)
        return vn_fail(-EINVAL, "a drive has up to %u namespaces", VN_MAX_NAMESPACES);
    if (opts->reactor >= rt->nr_reactors)
        return vn_fail(-EINVAL, "there is no reactor %u", opts->reactor);
    int err = vn_drive_open(opts, rt->reactors[opts->reactor], out, error, sizeof(error));
    if (err)
        return vn_fail(err, "%s", error);
    (*out)->owner = rt;
    rt->nr_handles++;
    return vn_reactor_call((*out)->reactor, begin_on_reactor, *out);
}

static int end_on_reactor(void *arg) {
    return vn_drive_end(arg);
}

int vn_drive_destroy(vn_drive *drive) {
    vn_runtime *rt = drive->owner;
    int err = vn_retry_on_reactor(drive->reactor, end_on_reactor, drive, VN_CLOSE_BOUND_MS);
    if (err == -EBUSY)
        return vn_fail(err, "the drive has controllers still: close them first");
    if (err)
        return vn_fail(-ETIMEDOUT, "the drive's state could not be saved within %d s", VN_CLOSE_BOUND_MS / 1000);
    vn_drive_close(drive);
    rt->nr_handles--;
    return 0;
}

/* --- Its namespaces --- */
struct space_call {
    struct vn_drive *drive;
    struct vn_ns *ns;
    uint32_t nsid, flags, group;
};

static int add_space_on_reactor(void *arg) {
    struct space_call *call = arg;
    if (call->drive->spaces[call->nsid])
        return -EEXIST;
    call->drive->spaces[call->nsid] = call->ns;
    call->drive->space_flags[call->nsid] = (uint8_t)(call->flags | VN_SPACE_STAYS);
    call->drive->ana_group[call->nsid] = (uint8_t)call->group;
    vn_drive_space_came(call->drive, call->nsid);
    return 0;
}

static bool is_nsid(uint32_t nsid) {
    return nsid && nsid <= VN_MAX_NAMESPACES;
}

int vn_drive_add_space(vn_drive *drive, vn_ns *ns, uint32_t nsid, uint32_t flags, uint32_t group) {
    char error[ERROR_BYTES];
    struct space_call call = {drive, ns, nsid, flags, group ? group : 1};
    if (!is_nsid(nsid) || (flags & ~VN_SPACE_SHARED) || group > VN_MAX_ANA_GROUPS)
        return vn_fail(-EINVAL, "namespace %u of group %u is not possible: take 1 to %u, and groups 1 to %u", nsid, group,
                       VN_MAX_NAMESPACES, VN_MAX_ANA_GROUPS);
    int err = ns->state ? 0 : vn_ns_state_open(ns, error, sizeof(error));
    if (err)
        return vn_fail(err, "namespace %u cannot be allocated: %s", nsid, error);
    err = vn_reactor_call(drive->reactor, add_space_on_reactor, &call);
    return err ? vn_fail(err, "namespace id %u is taken on this drive", nsid) : 0;
}

struct save_call {
    struct vn_drive *drive;
    struct vn_keep *keep;
    struct vn_keep_wait wait;
    bool begun, done;
    int err;
};

static void on_saved(struct vn_keep_wait *wait, int err) {
    struct save_call *call = vn_container_of(wait, struct save_call, wait);
    call->done = true;
    call->err = err;
}

static int save_on_reactor(void *arg) {
    struct save_call *call = arg;
    if (!call->begun) {
        call->begun = true;
        vn_keep_save(call->keep, call->drive->reactor, &call->wait);
    }
    return call->done ? 0 : -EAGAIN;
}

int vn_drive_format_space(vn_drive *drive, vn_ns *ns, uint32_t flbas, uint32_t dps, uint64_t nr_blocks) {
    char error[ERROR_BYTES];
    struct vn_format format = vn_format_from_flbas((uint8_t)flbas, (uint8_t)dps);
    if (!vn_format_is_valid(&format, ns->backend->block_min))
        return vn_fail(-EINVAL, "the namespace cannot have the format %02x, %02x", flbas, dps);
    int err = ns->state ? 0 : vn_ns_state_open(ns, error, sizeof(error));
    if (!err)
        err = vn_ns_state_format(ns, &format, nr_blocks, error, sizeof(error));
    if (err)
        return vn_fail(err, "the namespace cannot be formatted: %s", error);
    struct save_call call = {.drive = drive, .keep = ns->state->keep, .wait.fn = on_saved};
    while (vn_retry_on_reactor(drive->reactor, save_on_reactor, &call, VN_CLOSE_BOUND_MS) == -EAGAIN)
        ; /* the wait is ours until it has been told */
    return call.err ? vn_fail(call.err, "the namespace's format cannot be kept: %s", strerror(-call.err)) : 0;
}

static int drop_space_on_reactor(void *arg) {
    struct space_call *call = arg;
    if (!call->drive->spaces[call->nsid])
        return -ENOENT;
    if (vn_drive_nr_attached(call->drive, call->nsid))
        return -EBUSY;
    vn_self_test_end(call->drive, VN_TEST_NS_REMOVED, call->nsid, NULL);
    if (vn_job_leave(call->drive, call->drive->spaces[call->nsid]))
        return -EAGAIN;
    call->drive->spaces[call->nsid] = NULL;
    call->drive->space_flags[call->nsid] = 0;
    call->drive->ana_group[call->nsid] = 1;
    return 0;
}

int vn_drive_drop_space(vn_drive *drive, uint32_t nsid) {
    struct space_call call = {.drive = drive, .nsid = nsid};
    int err = is_nsid(nsid) ? vn_retry_on_reactor(drive->reactor, drop_space_on_reactor, &call, VN_CLOSE_BOUND_MS) : -ENOENT;
    if (err == -ENOENT)
        return vn_fail(err, "there is no namespace %u on this drive", nsid);
    if (err == -EAGAIN)
        return vn_fail(-EBUSY, "namespace %u is being erased, and its SSD does not answer: try again", nsid);
    return err ? vn_fail(err, "namespace %u is attached to a controller: detach it first", nsid) : 0;
}

struct capacity_call {
    struct vn_drive *drive;
    uint64_t total, unallocated;
};

static int set_capacity_on_reactor(void *arg) {
    struct capacity_call *call = arg;
    call->drive->capacity = call->total;
    call->drive->unallocated = call->unallocated;
    return 0;
}

int vn_drive_set_capacity(vn_drive *drive, uint64_t total, uint64_t unallocated) {
    struct capacity_call call = {drive, total, unallocated};
    return vn_reactor_call(drive->reactor, set_capacity_on_reactor, &call);
}

/* --- What hosts ask of it --- */
struct decision_call {
    struct vn_drive *drive;
    struct vn_decision *out;
    uint64_t id, specific;
    uint32_t status, result;
};

static int get_decision_on_reactor(void *arg) {
    struct decision_call *call = arg;
    *call->out = call->drive->decisions.asked;
    return call->out->id ? 0 : -ENOENT;
}

int vn_drive_get_decision(vn_drive *drive, struct vn_decision *out) {
    struct decision_call call = {.drive = drive, .out = out};
    int err = vn_reactor_call(drive->reactor, get_decision_on_reactor, &call);
    return err ? vn_fail(err, "no host has asked anything of this drive") : 0;
}

static int answer_on_reactor(void *arg) {
    struct decision_call *call = arg;
    return vn_decision_answer(call->drive, call->id, (vn_status)call->status, call->result, call->specific);
}

int vn_drive_answer(vn_drive *drive, uint64_t id, uint32_t status, uint32_t result, uint64_t specific) {
    struct decision_call call = {.drive = drive, .id = id, .status = status, .result = result, .specific = specific};
    int err = vn_reactor_call(drive->reactor, answer_on_reactor, &call);
    if (err == -ECANCELED)
        return vn_fail(err, "the host does not wait for this answer any more");
    return err ? vn_fail(err, "nothing of id %llu is asked", (unsigned long long)id) : 0;
}

/* --- Its controllers --- */
struct identify_call {
    struct vn_ctrl *ctrl;
    struct vn_id_ctrl *page;
};

static int identify_on_reactor(void *arg) {
    struct identify_call *call = arg;
    vn_identify_ctrl(call->ctrl, call->page);
    return 0;
}

int vn_ctrl_identify(vn_ctrl *ctrl, void *page) {
    struct identify_call call = {ctrl, page};
    if (!ctrl->door)
        return vn_fail(-ENOTCONN, "the controller does not listen yet");
    memset(page, 0, sizeof(*call.page));
    return vn_reactor_call(ctrl->reactor, identify_on_reactor, &call);
}

struct ana_call {
    struct vn_ctrl *ctrl;
    uint32_t group, state;
};

static int set_ana_on_reactor(void *arg) {
    struct ana_call *call = arg;
    struct vn_drive *drive = call->ctrl->drive;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (drive->ctrls[i] == call->ctrl && vn_ana_set(&drive->views[i], call->group, call->state))
            vn_ana_changed(call->ctrl);
    }
    return 0;
}

int vn_ctrl_set_ana(vn_ctrl *ctrl, uint32_t group, uint32_t state) {
    struct ana_call call = {ctrl, group, state};
    if (!(ctrl->drive->flags & VN_DRIVE_ANA))
        return vn_fail(-ENOTSUP, "the controller reports no ANA: it is the only one of its drive");
    bool is_state = (state >= VN_ANA_OPTIMIZED && state <= VN_ANA_PERSISTENT_LOSS) || state == VN_ANA_CHANGE;
    if (!group || group > VN_MAX_ANA_GROUPS || !is_state)
        return vn_fail(-EINVAL, "group %u cannot have the ANA state %u: there are groups 1 to %u", group, state,
                       VN_MAX_ANA_GROUPS);
    return vn_reactor_call(ctrl->reactor, set_ana_on_reactor, &call);
}
