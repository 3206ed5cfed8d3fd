/* The C side of include/vhostnvme.h, and nothing else: handles, argument checks, calls to the reactors.
 * Called by one control thread (Python's). Everything that takes time happens elsewhere.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api.h"
#include "backend/medium.h"
#include "backend/mirror.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "guest/sigbus.h"
#include "guest/vfu_dev.h"
#include "ns/ns_state.h"

#define ERROR_BYTES 512u
#define DEFAULT_POLL_US 100u
#define MOVE_BOUND_NS 1000000000ull
#define MOVE_STEP_NS 50000
#define ORPHANED 2 /* closed, but a backend still holds requests: the memory is never freed */

struct vn_ctrl_handle {
    struct vn_ctrl ctrl;
    struct vn_vfu_dev dev;
    vn_runtime *rt;
    bool listening;
};

static _Thread_local char last_error[ERROR_BYTES];

int vn_fail(int err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(last_error, sizeof(last_error), format, args);
    va_end(args);
    return err;
}

/* The public vn_ctrl is the controller inside its handle. */
static struct vn_ctrl_handle *handle_of(const vn_ctrl *ctrl) {
    return vn_container_of((vn_ctrl *)(uintptr_t)ctrl, struct vn_ctrl_handle, ctrl);
}

const char *vn_last_error(void) {
    return last_error;
}

const char *vn_version(void) {
    return VN_VERSION;
}

/* --- Runtime --- */
_Static_assert(VN_RUNTIME_SQPOLL == VN_REACTOR_SQPOLL && VN_RUNTIME_AWAKE == VN_REACTOR_AWAKE &&
               VN_RUNTIME_PIN == VN_REACTOR_PIN, "a runtime's flags are its reactors'");
int vn_runtime_create(const struct vn_runtime_opts *opts, vn_runtime **out) {
    uint32_t nr = opts->nr_reactors ? opts->nr_reactors : 1;
    if (opts->flags & ~(VN_RUNTIME_SQPOLL | VN_RUNTIME_AWAKE | VN_RUNTIME_PIN))
        return vn_fail(-EINVAL, "unknown runtime flags %x: take VN_RUNTIME_SQPOLL, _AWAKE, _PIN, or none", opts->flags);
    if (nr > VN_MAX_REACTORS)
        return vn_fail(-EINVAL, "%u reactors are not possible: take 1 to %u", nr, VN_MAX_REACTORS);
    vn_runtime *rt = calloc(1, sizeof(*rt));
    if (!rt)
        return vn_fail(-ENOMEM, "out of memory");
    int err = vn_sigbus_install();
    if (err) {
        vn_fail(err, "cannot handle SIGBUS: %s", strerror(-err));
        goto out_free;
    }
    err = vn_event_queue_create(&rt->events);
    if (err) {
        vn_fail(err, "cannot make an event queue: %s", strerror(-err));
        goto out_sigbus;
    }
    uint32_t poll_us = opts->poll_us == UINT32_MAX ? DEFAULT_POLL_US : opts->poll_us;
    for (; rt->nr_reactors < nr; rt->nr_reactors++) {
        struct vn_reactor_opts reactor_opts = {.index = rt->nr_reactors, .poll_us = poll_us, .flags = opts->flags};
        err = vn_reactor_start_as(&reactor_opts, &rt->reactors[rt->nr_reactors]);
        if (err == -EPERM || err == -ENOSYS) {
            vn_fail(err, "io_uring is not allowed here: set the sysctl kernel.io_uring_disabled to 0, or let the "
                         "container's seccomp profile pass it");
            goto out_stop;
        }
        if (err == -ENOMEM) {
            vn_fail(err, "there is no memory for reactor %u: its io_uring takes 512 KiB of the locked memory that "
                         "'ulimit -l' allows", rt->nr_reactors);
            goto out_stop;
        }
        if (err) {
            vn_fail(err, "cannot start a reactor: %s", strerror(-err));
            goto out_stop;
        }
    }
    *out = rt;
    return 0;

out_stop:
    while (rt->nr_reactors)
        vn_reactor_stop(rt->reactors[--rt->nr_reactors]);
    vn_event_queue_destroy(rt->events);
out_sigbus:
    vn_sigbus_remove();
out_free:
    free(rt);
    return err;
}

int vn_runtime_destroy(vn_runtime *rt) {
    if (rt->nr_handles)
        return vn_fail(-EBUSY, "%u controllers, namespaces or targets are still open", rt->nr_handles);
    while (rt->nr_reactors)
        vn_reactor_stop(rt->reactors[--rt->nr_reactors]);
    vn_event_queue_destroy(rt->events);
    vn_sigbus_remove();
    free(rt);
    return 0;
}

int vn_runtime_reactor_stats(vn_runtime *rt, uint32_t reactor, struct vn_reactor_stats *out) {
    if (reactor >= rt->nr_reactors)
        return vn_fail(-EINVAL, "there is no reactor %u", reactor);
    struct vn_reactor_counters counters;
    vn_reactor_counters(rt->reactors[reactor], &counters);
    *out = (struct vn_reactor_stats){counters.rounds, counters.sleeps, counters.enters, counters.cpu_ns, counters.ops};
    return 0;
}

int vn_runtime_event_fd(vn_runtime *rt) {
    return vn_event_queue_fd(rt->events);
}

int vn_runtime_events(vn_runtime *rt, struct vn_event *buf, uint32_t max) {
    return (int)vn_event_drain(rt->events, buf, max);
}

/* --- Media --- */
int vn_medium_create(vn_medium **out) {
    *out = vn_medium_new();
    return *out ? 0 : vn_fail(-ENOMEM, "out of memory");
}

void vn_medium_close(vn_medium *medium) {
    vn_medium_put(medium);
}

/* --- Namespaces --- */
int vn_ns_make(const struct vn_ns_opts *opts, vn_ns **out) {
    char error[ERROR_BYTES] = "out of memory";
    int err = vn_ns_create(opts, out, error, sizeof(error));
    return err ? vn_fail(err, "%s", error) : 0;
}

int vn_ns_enter(vn_runtime *rt, vn_ns *ns) {
    if (ns->owner)
        return vn_fail(-EALREADY, "the namespace is in a runtime already");
    ns->owner = rt;
    ns->id = ++rt->last_id;
    vn_backend_tell_to(ns->backend, rt->events, ns->id);
    rt->nr_handles++;
    return 0;
}

int vn_ns_open(vn_runtime *rt, const struct vn_ns_opts *opts, vn_ns **out) {
    int err = vn_ns_make(opts, out);
    return err ? err : vn_ns_enter(rt, *out);
}

uint64_t vn_ns_id(const vn_ns *ns) {
    return ns->id;
}

int vn_ns_get_info(vn_ns *ns, struct vn_ns_info *out) {
    struct vn_ns_counters sum;
    vn_ns_sum(ns, &sum);
    *out = (struct vn_ns_info){
        .size = vn_ns_nr_blocks(ns) << vn_ns_block_shift(ns),
        .block_size = 1u << vn_ns_block_shift(ns),
        .flags = ns->read_only ? VN_NS_READ_ONLY : 0,
        .direct = ns->backend->direct,
        .deallocate = ns->backend->deallocates,
        .reads = sum.reads,
        .writes = sum.writes,
        .read_bytes = sum.read_bytes,
        .write_bytes = sum.write_bytes,
        .flushes = sum.flushes,
        .deallocates = sum.deallocates,
        .write_zeroes = sum.write_zeroes,
        .errors = sum.errors,
        .bounced = vn_backend_bounced(ns->backend),
        .limited = {ns->limits, vn_ns_nr_waiting(ns), sum.waits.throttled, sum.waits.waited_ns},
    };
    memcpy(out->uuid, ns->uuid, sizeof(out->uuid));
    return 0;
}

static int check_limits(const struct vn_limits *limits) {
    for (uint32_t i = 0; i < VN_NR_LIMITS; i++) {
        uint64_t rate_max = i < VN_LIMIT_BANDWIDTH ? VN_LIMIT_IOPS_MAX : VN_LIMIT_BANDWIDTH_MAX;
        if (limits->of[i].rate > rate_max)
            return vn_fail(-EINVAL, "a limit of %llu %s a second is too high: at most %llu, or none",
                           (unsigned long long)limits->of[i].rate, i < VN_LIMIT_BANDWIDTH ? "commands" : "bytes",
                           (unsigned long long)rate_max);
        if (limits->of[i].burst_us > VN_LIMIT_BURST_US_MAX)
            return vn_fail(-EINVAL, "a burst is worth an hour of its limit at most");
    }
    return 0;
}

struct limit_call {
    struct vn_ns_chan *nsc;
    struct vn_ctrl *ctrl;
    struct vn_limiter limiter;
};

static int limit_ns_on_reactor(void *arg) {
    struct limit_call *call = arg;
    vn_ns_chan_limit(call->nsc, &call->limiter);
    return 0;
}

static void limit_channels(vn_ns *ns, struct limit_call *call) {
    for (size_t i = 0; i < VN_NS_MAX_CHANS; i++) {
        if ((call->nsc = ns->chans[i]))
            vn_reactor_call(call->nsc->chan->reactor, limit_ns_on_reactor, call);
    }
}

/* First every reactor gets the new rates, then the marks follow, so that nobody ever uses new marks at an old, higher
 * rate; then what waits is looked at once more. */
int vn_ns_set_limits(vn_ns *ns, const struct vn_limits *limits) {
    int err = check_limits(limits);
    if (err)
        return err;
    struct limit_call call = {0};
    struct vn_limiter old = {.marks = ns->marks};
    vn_limiter_set(&old, &ns->limits);
    call.limiter.marks = ns->marks;
    vn_limiter_set(&call.limiter, limits);
    ns->limits = *limits;
    limit_channels(ns, &call);
    vn_limiter_change(&old, &call.limiter, vn_monotonic_ns());
    limit_channels(ns, &call);
    return 0;
}

int vn_ns_resize(vn_ns *ns, uint64_t size) {
    char error[ERROR_BYTES] = "out of memory";
    int err = vn_ns_change_size(ns, size, error, sizeof(error));
    return err ? vn_fail(err, "the namespace keeps its size: %s", error) : 0;
}

int vn_ns_close(vn_ns *ns) {
    if (vn_ns_is_attached(ns))
        return vn_fail(-EBUSY, "the namespace is attached to a controller: detach it first");
    const struct vn_mirror *mirror = vn_mirror_of(ns->backend);
    if (mirror && !vn_mirror_wait(mirror))
        return vn_fail(-EBUSY, "a disk under the mirror does not give back its commands: their memory is kept");
    vn_runtime *rt = ns->owner;
    vn_ns_free(ns);
    if (rt)
        rt->nr_handles--;
    return 0;
}

/* --- Controllers --- */
int vn_ctrl_create(vn_runtime *rt, const struct vn_ctrl_opts *opts, vn_ctrl **out) {
    if (opts->reactor >= rt->nr_reactors)
        return vn_fail(-EINVAL, "there is no reactor %u", opts->reactor);
    if (opts->drive && opts->drive->reactor != rt->reactors[opts->reactor])
        return vn_fail(-EINVAL, "all controllers of a drive are on its reactor, %u", vn_reactor_index(opts->drive->reactor));
    if (opts->doorbells > VN_DOORBELLS_TRAPPED)
        return vn_fail(-EINVAL, "there is no doorbell mode %u", opts->doorbells);
    if ((opts->serial && strlen(opts->serial) > 20) || (opts->model && strlen(opts->model) > 40))
        return vn_fail(-EINVAL, "a serial number has up to 20 characters, a model name up to 40");
    if (opts->subnqn && strlen(opts->subnqn) > 223)
        return vn_fail(-EINVAL, "an NQN has up to 223 characters");
    struct vn_ctrl_handle *handle = calloc(1, sizeof(*handle));
    if (!handle)
        return vn_fail(-ENOMEM, "out of memory");
    struct vn_ctrl_opts checked = *opts;
    int err = vn_ctrl_init(&handle->ctrl, &checked, rt->reactors[opts->reactor], rt->events, ++rt->last_id);
    if (err) {
        free(handle);
        if (err == -EEXIST || err == -ENOSPC)
            return vn_fail(err, "a drive has up to %u controllers, each with a CNTLID of its own", VN_DRIVE_MAX_CTRLS);
        return vn_fail(err, "a controller has up to %u I/O queues of 2 to 65536 entries and an MDTS of 1 to %u",
                       VN_MAX_IO_QUEUES, VN_MAX_MDTS);
    }
    handle->rt = rt;
    handle->dev.wanted = opts->doorbells;
    rt->nr_handles++;
    *out = &handle->ctrl;
    return 0;
}

uint64_t vn_ctrl_id(const vn_ctrl *ctrl) {
    return ctrl->id;
}

struct attach_call {
    struct vn_ctrl *ctrl;
    struct vn_ns *ns;
    struct vn_ns_chan *nsc;
    uint32_t nsid;
};

static int attach_on_reactor(void *arg) {
    struct attach_call *call = arg;
    return vn_ctrl_add_ns(call->ctrl, call->ns, call->nsid, &call->nsc);
}

int vn_ctrl_attach_ns(vn_ctrl *ctrl, vn_ns *ns, uint32_t nsid) {
    if (nsid == 0 || nsid > VN_MAX_NAMESPACES)
        return vn_fail(-EINVAL, "namespace id %u is not possible: take 1 to %u", nsid, VN_MAX_NAMESPACES);
    struct attach_call call = {.ctrl = ctrl, .ns = ns, .nsid = nsid};
    char error[ERROR_BYTES];
    int err = ns->state ? 0 : vn_ns_state_open(ns, error, sizeof(error));
    if (err)
        return vn_fail(err, "namespace %u cannot be attached: %s", nsid, error);
    bool shared = vn_ns_is_shared(ns, ctrl->drive);
    if (shared && !vn_ns_hold(ns))
        return vn_fail(-EBUSY, "namespace %u cannot be attached: it is being formatted or sanitized, or its blocks have "
                               "metadata; one SSD alone can have it", nsid);
    vn_ns_expect(ns, ctrl->drive);
    err = vn_reactor_call(ctrl->reactor, attach_on_reactor, &call);
    if (!err)
        err = vn_ns_add_chan(ns, call.nsc);
    else
        vn_ns_expect(ns, NULL);
    if (shared)
        vn_ns_unhold(ns);
    if (err == -EEXIST)
        return vn_fail(err, "namespace id %u is taken on this controller", nsid);
    if (err && err != -ENOSPC)
        return vn_fail(err, "namespace %u cannot be attached: %s", nsid,
                       err == -EBUSY ? "it is zoned, and another SSD has it" : strerror(-err));
    if (err) {
        vn_ctrl_detach_ns(ctrl, nsid, VN_CLOSE_BOUND_MS);
        return vn_fail(err, "a namespace can be attached to %u controllers at most", VN_NS_MAX_CHANS);
    }
    return 0;
}

/* 0: detached; -EAGAIN: commands are in flight. */
static int detach_on_reactor(void *arg) {
    struct attach_call *call = arg;
    struct vn_ns_chan *nsc = call->ctrl->namespaces.by_nsid[call->nsid];
    if (!nsc)
        return -ENOENT;
    call->nsc = nsc;
    if (!nsc->closing) {
        nsc->closing = true; /* no new command finds it */
        vn_drive_count_change(call->ctrl);
        vn_aer_ns_changed(call->ctrl, call->nsid);
    }
    if (vn_ns_release(nsc) || nsc->inflight || vn_ctrl_uses_ns(call->ctrl, nsc) || vn_job_leave(call->ctrl->drive, nsc->ns))
        return -EAGAIN;
    vn_ctrl_drop_ns(call->ctrl, nsc);
    return 0;
}

static void sleep_ms(int ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000l}, NULL);
}

int vn_retry_on_reactor(struct vn_reactor *reactor, int (*fn)(void *), void *arg, uint32_t bound_ms) {
    uint64_t end_ns = vn_monotonic_ns() + bound_ms * 1000000ull;
    int err = vn_reactor_call(reactor, fn, arg);
    while (err == -EAGAIN && vn_monotonic_ns() < end_ns) {
        sleep_ms(1);
        err = vn_reactor_call(reactor, fn, arg);
    }
    return err;
}

int vn_ctrl_detach_ns(vn_ctrl *ctrl, uint32_t nsid, uint32_t wait_ms) {
    if (nsid == 0 || nsid > VN_MAX_NAMESPACES)
        return vn_fail(-EINVAL, "namespace id %u is not possible: take 1 to %u", nsid, VN_MAX_NAMESPACES);
    struct attach_call call = {.ctrl = ctrl, .nsid = nsid};
    int err = vn_retry_on_reactor(ctrl->reactor, detach_on_reactor, &call, wait_ms);
    if (err == -ENOENT)
        return vn_fail(err, "there is no namespace %u on this controller", nsid);
    if (err)
        return vn_fail(-EBUSY, "namespace %u still has commands in flight: its SSD has not answered; try again", nsid);
    vn_ns_drop_chan(call.nsc->ns, call.nsc);
    free(call.nsc);
    return 0;
}

static int start_on_reactor(void *arg) {
    return vn_vfu_dev_start(arg);
}

int vn_ctrl_listen(vn_ctrl *ctrl, const char *path) {
    struct vn_ctrl_handle *handle = handle_of(ctrl);
    if (handle->listening)
        return vn_fail(-EALREADY, "this controller listens on %s already", handle->dev.path);
    if (path[0] != '/')
        return vn_fail(-EINVAL, "socket path %s is not absolute", path);
    char error[ERROR_BYTES] = "cannot listen";
    int err = vn_vfu_dev_open(&handle->dev, ctrl, path, handle->dev.wanted, error, sizeof(error));
    if (err)
        return vn_fail(err, "%s", error);
    handle->listening = true;
    return vn_reactor_call(ctrl->reactor, start_on_reactor, &handle->dev);
}

static int info_on_reactor(void *arg) {
    struct {
        struct vn_ctrl_handle *handle;
        struct vn_ctrl_info *out;
    } *call = arg;
    const struct vn_ctrl *ctrl = &call->handle->ctrl;
    const struct vn_vfu_dev *dev = &call->handle->dev;
    *call->out = (struct vn_ctrl_info){
        .id = ctrl->id,
        .attached = dev->state == VN_DEV_ATTACHED,
        .enabled = ctrl->csts & VN_CSTS_RDY,
        .fatal = !!(ctrl->csts & VN_CSTS_CFS),
        .doorbells = dev->mapped ? VN_DOORBELLS_MAPPED : VN_DOORBELLS_TRAPPED,
        .shadow_doorbells = dev->shadow.gpa != 0,
        .inflight = ctrl->nr_inflight,
        .reactor = vn_reactor_index(ctrl->reactor),
        .commands = ctrl->counters.commands,
        .admin_commands = ctrl->counters.admin_commands,
        .errors = ctrl->counters.errors,
        .interrupts = ctrl->counters.interrupts,
        .doorbell_writes = ctrl->counters.doorbell_writes,
        .limited = {ctrl->limits, ctrl->throttle.nr_waiting, ctrl->counters.waits.throttled,
                    ctrl->counters.waits.waited_ns},
    };
    for (size_t i = 1; i < VN_NR_QUEUES; i++) {
        call->out->nr_sqs += ctrl->sqs[i].exists;
        call->out->nr_cqs += ctrl->cqs[i].exists;
    }
    return 0;
}

int vn_ctrl_get_info(vn_ctrl *ctrl, struct vn_ctrl_info *out) {
    struct {
        struct vn_ctrl_handle *handle;
        struct vn_ctrl_info *out;
    } call = {handle_of(ctrl), out};
    return vn_reactor_call(ctrl->reactor, info_on_reactor, &call);
}

static int limit_ctrl_on_reactor(void *arg) {
    struct limit_call *call = arg;
    struct vn_ctrl *ctrl = call->ctrl;
    call->limiter.marks = ctrl->limit_marks;
    vn_limiter_change(&ctrl->throttle.limiter, &call->limiter, vn_reactor_now_ns(ctrl->reactor));
    vn_throttle_set(&ctrl->throttle, &call->limiter);
    vn_ns_table_limits_changed(&ctrl->namespaces);
    return 0;
}

int vn_ctrl_set_limits(vn_ctrl *ctrl, const struct vn_limits *limits) {
    int err = check_limits(limits);
    if (err)
        return err;
    struct limit_call call = {.ctrl = ctrl};
    vn_limiter_set(&call.limiter, limits);
    ctrl->limits = *limits;
    return vn_reactor_call(ctrl->reactor, limit_ctrl_on_reactor, &call);
}

/* --- Moving a controller to another reactor --- */
struct move_call {
    struct vn_ctrl_handle *handle;
    struct vn_reactor *to;
    struct vn_chan *chans[VN_MAX_NAMESPACES + 1]; /* by nsid: opened on the new reactor */
};

static int close_new_chans(void *arg) {
    struct move_call *call = arg;
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        if (call->chans[nsid])
            vn_chan_close(call->chans[nsid]);
    }
    return 0;
}

static int open_new_chans(void *arg) {
    struct move_call *call = arg;
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        struct vn_ns_chan *nsc = call->handle->ctrl.namespaces.by_nsid[nsid];
        int err = nsc ? vn_ns_chan_open_at(nsc, call->to, &call->chans[nsid]) : 0;
        if (err) {
            close_new_chans(call);
            return err;
        }
    }
    return 0;
}

static int leave_reactor(void *arg) {
    struct move_call *call = arg;
    struct vn_ctrl_handle *handle = call->handle;
    int err = vn_ctrl_saves(&handle->ctrl) || vn_drive_pause(handle->ctrl.drive) ? -EAGAIN : 0;
    if (!err && handle->listening)
        err = vn_vfu_dev_leave(&handle->dev);
    if (err)
        return err;
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        if (call->chans[nsid])
            vn_ns_chan_swap(handle->ctrl.namespaces.by_nsid[nsid], call->chans[nsid]);
    }
    vn_throttle_move(&handle->ctrl.throttle, call->to);
    handle->ctrl.reactor = handle->ctrl.drive->reactor = handle->dev.reactor = call->to;
    return 0;
}

static int stay_on_reactor(void *arg) {
    struct vn_ctrl_handle *handle = arg;
    vn_drive_resume(handle->ctrl.drive);
    vn_vfu_dev_stay(&handle->dev);
    return 0;
}

static int enter_reactor(void *arg) {
    struct vn_ctrl_handle *handle = arg;
    vn_drive_resume(handle->ctrl.drive);
    if (handle->listening)
        vn_vfu_dev_enter(&handle->dev);
    return 0;
}

int vn_ctrl_move(vn_ctrl *ctrl, uint32_t reactor) {
    struct move_call call = {.handle = handle_of(ctrl)};
    struct vn_reactor *from = ctrl->reactor;
    if (reactor >= call.handle->rt->nr_reactors)
        return vn_fail(-EINVAL, "there is no reactor %u", reactor);
    call.to = call.handle->rt->reactors[reactor];
    if (call.to == from)
        return 0;
    if (ctrl->drive->owner)
        return vn_fail(-EBUSY, "the controller stays on reactor %u, where its drive is", vn_reactor_index(from));
    int err = vn_reactor_call(call.to, open_new_chans, &call);
    if (err)
        return vn_fail(err, "cannot open the controller's namespaces on reactor %u: %s", reactor, strerror(-err));
    err = vn_reactor_call(from, leave_reactor, &call);
    for (uint64_t end_ns = vn_monotonic_ns() + MOVE_BOUND_NS; err == -EAGAIN && vn_monotonic_ns() < end_ns;) {
        nanosleep(&(struct timespec){.tv_nsec = MOVE_STEP_NS}, NULL);
        err = vn_reactor_call(from, leave_reactor, &call);
    }
    if (err) {
        vn_reactor_call(from, stay_on_reactor, call.handle);
        vn_reactor_call(call.to, close_new_chans, &call);
        return vn_fail(-EBUSY, "the controller stays on reactor %u: its commands in flight do not end",
                       vn_reactor_index(from));
    }
    return vn_reactor_call(call.to, enter_reactor, call.handle);
}

/* The device first, so that no new command comes; then the namespaces, one by one. */
static int close_on_reactor(void *arg) {
    struct vn_ctrl_handle *handle = arg;
    struct vn_vfu_dev *dev = &handle->dev;
    if (!handle->listening)
        return 0;
    vn_vfu_dev_close(dev);
    if (dev->state != VN_DEV_DEAD)
        return -EAGAIN;
    vn_poller_remove(dev->reactor, &dev->poller);
    return handle->ctrl.nr_orphans ? ORPHANED : 0;
}

/* A drive of its own ends with the controller. */
static int end_private_drive(void *arg) {
    const struct vn_ctrl *ctrl = arg;
    return ctrl->drive->owner ? 0 : vn_drive_pause(ctrl->drive);
}

int vn_ctrl_destroy(vn_ctrl *ctrl) {
    struct vn_ctrl_handle *handle = handle_of(ctrl);
    int err = vn_retry_on_reactor(ctrl->reactor, close_on_reactor, handle, VN_CLOSE_BOUND_MS);
    if (err == -EAGAIN)
        return vn_fail(-ETIMEDOUT, "the device on %s could not be closed within %d s", handle->dev.path,
                       VN_CLOSE_BOUND_MS / 1000);
    bool orphaned = err == ORPHANED;
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES && !orphaned; nsid++) {
        if (ctrl->namespaces.by_nsid[nsid] && vn_ctrl_detach_ns(ctrl, nsid, VN_CLOSE_BOUND_MS))
            orphaned = true;
    }
    vn_runtime *rt = handle->rt;
    vn_event_emit(rt->events, VN_EVENT_CTRL_DESTROYED, ctrl->id, 0, 0, "%s", "");
    orphaned |= vn_retry_on_reactor(ctrl->reactor, end_private_drive, ctrl, VN_CLOSE_BOUND_MS) != 0;
    if (orphaned) /* some backend still holds requests of ours: their memory stays until the process ends */
        return vn_fail(-EBUSY, "commands are stuck in an SSD that does not answer: their memory is kept");
    if (handle->listening)
        vn_vfu_dev_free(&handle->dev);
    vn_ctrl_fini(ctrl);
    rt->nr_handles--;
    free(handle);
    return 0;
}
