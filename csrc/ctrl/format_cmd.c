/* Format NVM, see format_cmd.h. The order: the gate closes (0/84); the kept state says that a format is in progress; commands
 * in flight end; all of the backend reads as zeros, and durably so; the geometry changes; the kept state says that it is done;
 * the gate opens. A crash in between repeats the erasure, and never answers old data in a new format.
 */
#include "ctrl/format_cmd.h"

#include <stdlib.h>
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/persona.h"
#include "ns/meta.h"
#include "ns/ns_state.h"
#include "ns/zoned.h"

#define STEP_BYTES (16ull << 20) /* erased at a time: what a memory backend does without letting others have a turn */
#define LOOK_NS 1000000ull       /* for the end of commands in flight, or a busy backend */
#define SES_MAX 2u               /* user data erase, cryptographic erase: both are done as erasing */
#define FPI_SUPPORTED 0x80u

/* Owner: the reactor of its drive. There while the operation runs, as ns->state->run. */
struct vn_format_run {
    struct vn_req req; /* of its operations on the backend */
    struct vn_ns *ns;
    struct vn_ns_chan *nsc;
    struct vn_req *cmd; /* the command that waits for it; NULL: none, or none any more */
    struct vn_format_kept before;
    uint64_t at; /* bytes that are erased */
    struct vn_timer timer;
    struct vn_keep_wait wait;
    void (*step)(struct vn_format_run *run); /* on the next turn */
};

/* --- The command that waits --- */

/* It touches no memory of the host, so nothing has to wait for it, as for an event request. */
static void park(struct vn_req *cmd) {
    vn_ctrl_leave_flight(cmd->ctrl);
}

static void end_command(struct vn_req *cmd, vn_status status) {
    vn_ctrl_enter_flight(cmd->ctrl);
    vn_ctrl_end(cmd, status);
}

/* One of the namespaces that it waits for; the first failure is its outcome. */
static void count_down(struct vn_req *cmd, vn_status status) {
    if (status && !cmd->result_high)
        cmd->result_high = status;
    if (--cmd->nr_steps)
        return;
    status = (vn_status)cmd->result_high;
    cmd->result_high = 0;
    end_command(cmd, status);
}

/* A cancelled command of that controller, which nothing waits for any more; NULL: there is none. Its namespaces may have left the
 * controller meanwhile. */
static struct vn_req *forget_cancelled(const struct vn_ctrl *ctrl) {
    struct vn_req *found = NULL;
    for (uint32_t nsid = 0; (nsid = vn_drive_next_space(ctrl->drive, nsid));) {
        const struct vn_ns_state *state = ctrl->drive->spaces[nsid]->state;
        struct vn_format_run *run = state ? state->run : NULL;
        if (!run || !run->cmd || run->cmd->ctrl != ctrl || !run->cmd->cancelled || (found && run->cmd != found))
            continue;
        found = run->cmd;
        run->cmd = NULL;
    }
    return found;
}

void vn_format_drop(struct vn_ctrl *ctrl) {
    struct vn_req *cmd;
    while (ctrl->drive && (cmd = forget_cancelled(ctrl))) {
        cmd->result_high = 0;
        end_command(cmd, VN_SC_ABORT_REQUESTED);
    }
}

/* --- The steps --- */

static void on_timer(struct vn_timer *timer) {
    struct vn_format_run *run = vn_container_of(timer, struct vn_format_run, timer);
    run->step(run);
}

static void go_on(struct vn_format_run *run, void (*step)(struct vn_format_run *), uint64_t delay_ns) {
    run->step = step;
    vn_timer_arm(run->nsc->chan->reactor, &run->timer, delay_ns);
}

static void end_run(struct vn_format_run *run, vn_status status) {
    struct vn_ns *ns = run->ns;
    struct vn_req *cmd = run->cmd;
    const struct vn_ctrl *ctrl = run->nsc->hosts;
    struct vn_pel_format_end event = {.nsid = run->nsc->nsid, .status = status != VN_SC_SUCCESS, .status_field = status};
    vn_events_add(ctrl->drive, ctrl, VN_PEL_FORMAT_END, &event, sizeof(event));
    ns->state->run = NULL;
    vn_ns_state_look(ns);
    free(run);
    if (cmd)
        count_down(cmd, status);
}

/* Not the controller that asked: it knows. */
static void tell_others(const struct vn_format_run *run) {
    const struct vn_ctrl *own = run->nsc->hosts;
    vn_drive_tell_changed(own->drive, run->nsc->nsid, run->cmd ? run->cmd->ctrl : NULL);
}

static void on_saved_done(struct vn_keep_wait *wait, int err) {
    struct vn_format_run *run = vn_container_of(wait, struct vn_format_run, wait);
    struct vn_format_kept *kept = &run->ns->state->kept.format;
    if (err) { /* it is as if it had not ended: the gate stays closed until a format succeeds */
        kept->in_progress = 1;
        end_run(run, VN_SC_INTERNAL);
        return;
    }
    run->ns->special &= ~VN_NS_SPECIAL_BUSY;
    tell_others(run);
    end_run(run, VN_SC_SUCCESS);
}

static void change(struct vn_format_run *run) {
    struct vn_format_kept *kept = &run->ns->state->kept.format;
    char error[128];
    run->ns->state->kept.marks = (struct vn_marks){0}; /* all blocks have been written */
    if (vn_ns_apply_format(run->ns, error, sizeof(error))) { /* no memory for its buffers */
        end_run(run, VN_SC_INTERNAL);
        return;
    }
    kept->in_progress = 0;
    vn_ns_state_look(run->ns);
    vn_keep_save(run->ns->state->keep, run->nsc->chan->reactor, &run->wait);
}

static void erase_next(struct vn_format_run *run);

static void on_erased(struct vn_req *req, void *arg) {
    struct vn_format_run *run = arg;
    vn_req_set_state(req, VN_REQ_DONE);
    vn_req_set_state(req, VN_REQ_FREE);
    if (req->status) {
        end_run(run, req->status);
    } else if (req->op == VN_OP_FLUSH) {
        change(run);
    } else {
        run->at += req->length;
        go_on(run, erase_next, 0); /* others first */
    }
}

/* Answers whether the backend has taken it; else it is offered again. */
static bool operate(struct vn_format_run *run, enum vn_op op, uint64_t bytes) {
    struct vn_req *req = &run->req;
    *req = (struct vn_req){.op = op, .offset = run->at, .length = bytes, .ns = run->nsc, .ctrl = run->nsc->hosts,
                           .io_flags = op == VN_OP_FLUSH ? 0 : VN_REQ_MAY_UNMAP};
    vn_req_set_state(req, VN_REQ_FETCHED);
    vn_req_push(req, on_erased, run);
    return vn_ns_submit_below(run->nsc, req) == VN_TAKEN;
}

/* The channel that it runs over is to close: another controller of the drive may have one. False: none has, and so it goes on
 * when there is one again. */
static bool find_channel(struct vn_format_run *run) {
    if (!run->nsc->closing)
        return true;
    const struct vn_ctrl *own = run->nsc->hosts;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        const struct vn_ctrl *ctrl = own->drive->ctrls[i];
        struct vn_ns_chan *nsc = ctrl ? vn_ns_table_get(&ctrl->namespaces, run->nsc->nsid) : NULL;
        if (nsc && nsc->ns == run->ns) {
            run->nsc = nsc;
            return true;
        }
    }
    return false;
}

static void erase_next(struct vn_format_run *run) {
    if (!find_channel(run)) {
        end_run(run, VN_SC_ABORT_REQUESTED);
        return;
    }
    uint64_t bytes = vn_min_u64(vn_backend_whole_size(run->ns->backend) - run->at, STEP_BYTES);
    if (!bytes && run->ns->zoned) /* durable with the flush */
        vn_zones_clear(&run->ns->zoned->zones);
    bool taken = operate(run, bytes ? VN_OP_WRITE_ZEROES : VN_OP_FLUSH, bytes);
    if (!taken) /* else it may be gone already */
        go_on(run, erase_next, LOOK_NS);
}

/* Of the commands that came before the gate was closed. */
static bool is_in_use(const struct vn_format_run *run) {
    const struct vn_ctrl *own = run->nsc->hosts;
    if (!vn_keep_is_idle(run->ns->state->keep)) /* a command may wait for that */
        return true;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        const struct vn_ctrl *ctrl = own->drive->ctrls[i];
        struct vn_ns_chan *nsc = ctrl ? ctrl->namespaces.by_nsid[run->nsc->nsid] : NULL;
        if (nsc && nsc->ns == run->ns && (vn_ns_release(nsc) || nsc->inflight || vn_ctrl_has_busy(ctrl, nsc)))
            return true;
    }
    return false;
}

static void drain(struct vn_format_run *run) {
    if (!find_channel(run))
        end_run(run, VN_SC_ABORT_REQUESTED);
    else if (is_in_use(run))
        go_on(run, drain, LOOK_NS);
    else
        erase_next(run);
}

static void on_saved_begin(struct vn_keep_wait *wait, int err) {
    struct vn_format_run *run = vn_container_of(wait, struct vn_format_run, wait);
    struct vn_ns *ns = run->ns;
    if (!err) {
        run->wait.fn = on_saved_done;
        go_on(run, drain, 0);
        return;
    }
    bool was_in_progress = run->before.in_progress;
    ns->state->kept.format = run->before;
    if (!was_in_progress)
        ns->special &= ~VN_NS_SPECIAL_BUSY;
    end_run(run, VN_SC_INTERNAL);
}

/* --- The command --- */

static struct vn_format_run *make_run(struct vn_ns_chan *nsc, struct vn_req *cmd) {
    struct vn_format_run *run = calloc(1, sizeof(*run));
    if (!run)
        return NULL;
    run->ns = nsc->ns;
    run->nsc = nsc;
    run->cmd = cmd;
    run->timer.fn = on_timer;
    run->before = nsc->ns->state->kept.format;
    nsc->ns->state->run = run;
    return run;
}

/* Blocks that stay in a format that is forgotten would be read at the wrong places after a restart. */
static bool may_have(const struct vn_ns *ns, const struct vn_format *format) {
    struct vn_format now = vn_ns_format(ns);
    bool same = now.index == format->index && now.pi_type == format->pi_type;
    return ns->zoned ? now.index == format->index : same || vn_ns_keeps_format(ns);
}

static vn_status check(const struct vn_ns_chan *nsc, const struct vn_format *format) {
    const struct vn_ns *ns = nsc->ns;
    if (!may_have(ns, format))
        return VN_SC_INVALID_FORMAT;
    if (!vn_format_is_valid(format, ns->backend->block_min) || !vn_persona_has_format(nsc->hosts, format->index) ||
        !vn_format_layout(format, ns->backend->size).nr_blocks)
        return VN_SC_INVALID_FORMAT;
    if (ns->state->run)
        return VN_SC_FORMAT_IN_PROGRESS;
    if ((ns->special & VN_NS_SPECIAL_BUSY) && !ns->state->kept.format.in_progress) /* sanitize */
        return VN_SC_FORMAT_IN_PROGRESS;
    if (ns->read_only || (ns->special & VN_NS_SPECIAL_PROTECTED) || vn_backend_latched(ns->backend))
        return VN_SC_NS_WRITE_PROTECTED;
    return VN_SC_SUCCESS;
}

/* The gate closes before anybody can take hold of the format; who has already is asked afterwards (see vn_ns_hold). */
static bool close_gate(struct vn_ns *ns) {
    uint32_t before = ns->special;
    __atomic_store_n(&ns->special, before | VN_NS_SPECIAL_BUSY, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&ns->nr_holds, __ATOMIC_SEQ_CST))
        return true;
    __atomic_store_n(&ns->special, before, __ATOMIC_SEQ_CST);
    return false;
}

static vn_status begin(struct vn_ns_chan *nsc, const struct vn_format *format, struct vn_req *cmd) {
    struct vn_ns *ns = nsc->ns;
    if (!close_gate(ns))
        return VN_SC_OPERATION_DENIED;
    struct vn_format_run *run = make_run(nsc, cmd);
    if (!run) {
        vn_ns_state_look(ns);
        return VN_SC_INTERNAL;
    }
    ns->state->kept.format = (struct vn_format_kept){.formatted = 1,
                                                     .in_progress = 1,
                                                     .index = format->index,
                                                     .extended = format->extended,
                                                     .pi_type = format->pi_type,
                                                     .pi_first = format->pi_first,
                                                     .size = ns->backend->size};
    const struct vn_ctrl *ctrl = nsc->hosts;
    struct vn_pel_format_start event = {.nsid = nsc->nsid, .cdw10 = cmd ? cmd->cmd.cdw10 : 0};
    vn_self_test_end(ctrl->drive, VN_TEST_FORMAT, nsc->nsid, NULL);
    vn_events_add(ctrl->drive, ctrl, VN_PEL_FORMAT_START, &event, sizeof(event));
    run->wait.fn = on_saved_begin;
    vn_keep_save(ns->state->keep, nsc->chan->reactor, &run->wait);
    return VN_SC_SUCCESS;
}

/* FFFFFFFFh: all that are attached to this controller (FNA bit 3 is clear); each is checked before one begins. */
static bool format_all(struct vn_req *req, const struct vn_format *format, vn_status *status) {
    const struct vn_ns_table *table = &req->ctrl->namespaces;
    uint32_t nr = 0;
    for (uint32_t nsid = 0; (nsid = vn_ns_table_next(table, nsid)); nr++) {
        if ((*status = check(vn_ns_table_get(table, nsid), format)))
            return false;
    }
    *status = VN_SC_SUCCESS;
    req->nr_steps = nr + 1; /* one for ourselves: none of them ends the command before all have begun */
    park(req);
    for (uint32_t nsid = 0; (nsid = vn_ns_table_next(table, nsid));) {
        vn_status one = begin(vn_ns_table_get(table, nsid), format, req);
        if (one)
            count_down(req, one);
    }
    count_down(req, VN_SC_SUCCESS);
    return true;
}

bool vn_format_nvm(struct vn_req *req, vn_status *status) {
    struct vn_format format = vn_format_from_cdw10(req->cmd.cdw10);
    *status = VN_SC_INVALID_FIELD;
    req->error_location = 40; /* CDW10 */
    if ((req->cmd.cdw10 >> 9 & 7) > SES_MAX)
        return false;
    req->error_location = 0xffff;
    req->result_high = 0;
    if (req->cmd.nsid == VN_NSID_BROADCAST)
        return format_all(req, &format, status);
    struct vn_ns_chan *nsc = vn_ns_table_get(&req->ctrl->namespaces, req->cmd.nsid);
    *status = nsc ? check(nsc, &format) : VN_SC_INVALID_NS;
    if (*status)
        return false;
    req->nr_steps = 1;
    park(req);
    *status = begin(nsc, &format, req);
    if (*status)
        vn_ctrl_enter_flight(req->ctrl);
    return !*status;
}

void vn_format_resume(struct vn_ns_chan *nsc) {
    struct vn_ns_state *state = nsc->ns->state;
    bool had_begun = state && state->kept.format.in_progress && !state->run;
    struct vn_format_run *run = had_begun ? make_run(nsc, NULL) : NULL;
    if (!run)
        return;
    run->wait.fn = on_saved_done;
    go_on(run, drain, 0);
}

bool vn_format_runs(const struct vn_ns *ns) {
    return ns->state && ns->state->run;
}

bool vn_format_uses(const struct vn_ns_chan *nsc) {
    return vn_format_runs(nsc->ns) && nsc->ns->state->run->nsc == nsc;
}

uint8_t vn_format_fpi(const struct vn_ns *ns) {
    const struct vn_ns_state *state = ns->state;
    if (!state)
        return 0;
    if (!state->kept.format.in_progress && !state->run) /* until it has been saved that it is done, it is not */
        return FPI_SUPPORTED;
    uint64_t done = state->run ? state->run->at / (ns->backend->size / 100 + 1) : 0;
    return (uint8_t)(FPI_SUPPORTED | (100 - vn_min_u64(done, 99)));
}
