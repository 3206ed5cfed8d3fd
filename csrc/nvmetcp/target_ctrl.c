/* Controllers of the target: made by Connect, kept by keep-alive, ended by their admin connection, by a cross-controller
 * reset or by us. Drained before they are freed. The door operations that are not about one command's data.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "core/status.h"
#include "core/util.h"
#include "nvmetcp/subsys.h"

#define CNTLID_MAX 0xffefu

/* --- Buffers of large transfers --- */
static uint32_t chunks_of(const struct vn_tcmd *cmd) {
    return (cmd->data_bytes + VN_TCTRL_CHUNK_BYTES - 1) / VN_TCTRL_CHUNK_BYTES;
}

static void give_chunks(struct vn_tctrl *ctrl, struct vn_tcmd *cmd) {
    uint32_t left = cmd->data_bytes;
    cmd->nr_chunks = (uint8_t)chunks_of(cmd);
    cmd->nr_bufs = cmd->nr_chunks;
    for (uint32_t i = 0; i < cmd->nr_chunks; i++) {
        uint8_t chunk = ctrl->free_chunks[--ctrl->nr_free_chunks];
        uint32_t len = (uint32_t)vn_min_u64(left, VN_TCTRL_CHUNK_BYTES);
        cmd->chunks[i] = chunk;
        cmd->bufs[i] = (struct iovec){ctrl->data + (size_t)chunk * VN_TCTRL_CHUNK_BYTES, len};
        left -= len;
    }
}

/* All at once or none, so that no two wait for each other; in order, so that none waits for ever. */
bool vn_tctrl_take_chunks(struct vn_tctrl *ctrl, struct vn_tcmd *cmd) {
    if (!ctrl->waiting_first && chunks_of(cmd) <= ctrl->nr_free_chunks) {
        give_chunks(ctrl, cmd);
        return true;
    }
    cmd->next = NULL;
    *(ctrl->waiting_last ? &ctrl->waiting_last->next : &ctrl->waiting_first) = cmd;
    ctrl->waiting_last = cmd;
    return false;
}

void vn_tctrl_leave_line(struct vn_tctrl *ctrl, struct vn_tcmd *cmd) {
    struct vn_tcmd *before = NULL;
    for (struct vn_tcmd *at = ctrl->waiting_first; at; before = at, at = at->next) {
        if (at != cmd)
            continue;
        *(before ? &before->next : &ctrl->waiting_first) = cmd->next;
        if (ctrl->waiting_last == cmd)
            ctrl->waiting_last = before;
        return;
    }
}

static void serve_line(struct vn_tctrl *ctrl) {
    if (ctrl->serving || ctrl->ending)
        return;
    ctrl->serving = true; /* who is served may give back at once */
    while (ctrl->waiting_first && chunks_of(ctrl->waiting_first) <= ctrl->nr_free_chunks && !ctrl->ending) {
        struct vn_tcmd *cmd = ctrl->waiting_first;
        vn_tctrl_leave_line(ctrl, cmd);
        give_chunks(ctrl, cmd);
        vn_tcmd_start(cmd);
    }
    ctrl->serving = false;
}

void vn_tctrl_return_chunks(struct vn_tctrl *ctrl, struct vn_tcmd *cmd) {
    while (cmd->nr_chunks)
        ctrl->free_chunks[ctrl->nr_free_chunks++] = cmd->chunks[--cmd->nr_chunks];
    serve_line(ctrl);
}

/* --- Keep alive (Base 3.9): commands count as well as Keep Alive itself --- */
static void arm_kato(struct vn_tctrl *ctrl) {
    vn_timer_disarm(ctrl->target->reactor, &ctrl->kato_timer);
    ctrl->heard = false;
    if (ctrl->fabrics.kato_ms && !ctrl->ending)
        vn_timer_arm(ctrl->target->reactor, &ctrl->kato_timer, ctrl->fabrics.kato_ms * 1000000ull);
}

static void on_kato(struct vn_timer *timer) {
    struct vn_tctrl *ctrl = vn_container_of(timer, struct vn_tctrl, kato_timer);
    if (ctrl->heard)
        arm_kato(ctrl);
    else
        vn_tctrl_end(ctrl, "its keep-alive timeout has passed");
}

static void kato_changed(struct vn_ctrl *base) {
    arm_kato(vn_container_of(base, struct vn_tctrl, ctrl));
}

/* --- Cross-Controller Reset --- */
void vn_tctrl_forget_waiter(struct vn_tcmd *cmd) {
    struct vn_tcmd **at = &cmd->waits_for->waiters;
    while (*at && *at != cmd)
        at = &(*at)->next_waiter;
    if (*at)
        *at = cmd->next_waiter;
    cmd->waits_for = NULL;
}

static void tell_waiters(struct vn_tctrl *ctrl) {
    while (ctrl->waiters) {
        struct vn_tcmd *cmd = ctrl->waiters;
        vn_tctrl_forget_waiter(cmd);
        if (!cmd->req.sq) /* given up meanwhile */
            continue;
        cmd->req.result = ctrl->ctrl.nr_orphans ? 0 : VN_CROSS_RESET_DONE;
        vn_ctrl_end(&cmd->req, VN_SC_SUCCESS);
    }
}

/* Who waits for others has its answer: its own controller ends. */
static void stop_waiting(struct vn_tctrl *ctrl) {
    for (struct vn_tctrl *other = ctrl->target->ctrls; other; other = other->next) {
        for (struct vn_tcmd *cmd = other->waiters, *next; cmd; cmd = next) {
            next = cmd->next_waiter;
            if (cmd->queue->ctrl != ctrl)
                continue;
            vn_tctrl_forget_waiter(cmd);
            if (cmd->req.sq)
                vn_ctrl_end(&cmd->req, VN_SC_ABORT_REQUESTED);
        }
    }
}

/* The controller that is named, if it is still the same one, and this host's. */
static struct vn_tctrl *find_impacted(const struct vn_tctrl *ctrl, const struct vn_sqe *cmd) {
    uint16_t cntlid = (uint16_t)cmd->cdw10;
    uint8_t ciu = (uint8_t)(cmd->cdw10 >> 16);
    uint64_t cirn = cmd->cdw12 | (uint64_t)cmd->cdw13 << 32;
    struct vn_tctrl *other = vn_tctrl_find(ctrl->target, cntlid);
    if (!other || other->subsys != ctrl->subsys || strcmp(other->fabrics.hostnqn, ctrl->fabrics.hostnqn))
        return NULL;
    return other->fabrics.ciu == ciu && other->fabrics.cirn == cirn ? other : NULL;
}

static void cross_reset(struct vn_req *req) {
    struct vn_tcmd *cmd = vn_container_of(req, struct vn_tcmd, req);
    struct vn_tctrl *ctrl = vn_container_of(req->ctrl, struct vn_tctrl, ctrl);
    struct vn_tctrl *impacted = find_impacted(ctrl, &req->cmd);
    if (impacted == ctrl) {
        vn_ctrl_end(req, VN_SC_INVALID_FIELD);
        return;
    }
    if (!impacted || impacted->drained) { /* gone, with all that it had in flight, or not to be had back */
        req->result = impacted && impacted->ctrl.nr_orphans ? 0 : VN_CROSS_RESET_DONE;
        vn_ctrl_end(req, VN_SC_SUCCESS);
        return;
    }
    cmd->waits_for = impacted;
    cmd->next_waiter = impacted->waiters;
    impacted->waiters = cmd;
    vn_tctrl_end(impacted, "its host has reset it from another controller");
}

/* --- The door --- */
static void disconnect(struct vn_req *req) {
    struct vn_tcmd *cmd = vn_container_of(req, struct vn_tcmd, req);
    cmd->is_last = true; /* the connection ends when this has been answered */
    vn_ctrl_end(req, VN_SC_SUCCESS);
}

/* The controller is disabled: its I/O queues are gone. */
static void disabled(struct vn_ctrl *base) {
    struct vn_tctrl *ctrl = vn_container_of(base, struct vn_tctrl, ctrl);
    for (struct vn_tqueue *queue = ctrl->queues, *next; queue; queue = next) {
        next = queue->ctrl_next;
        if (queue->qid)
            vn_tqueue_end(queue, -ECANCELED);
    }
}

static uint16_t next_ctrl(const struct vn_ctrl *base, uint16_t from) {
    const struct vn_tctrl *ctrl = vn_container_of((struct vn_ctrl *)(uintptr_t)base, struct vn_tctrl, ctrl);
    uint16_t next = VN_CNTLID_DYNAMIC;
    for (const struct vn_tctrl *other = ctrl->target->ctrls; other; other = other->next) {
        uint16_t cntlid = other->ctrl.cntlid;
        if (!other->ending && other->subsys == ctrl->subsys && cntlid >= from && cntlid < next &&
            !strcmp(other->fabrics.hostnqn, ctrl->fabrics.hostnqn))
            next = cntlid;
    }
    return next;
}

static void irq_mask_changed(struct vn_ctrl *base) {
    (void)base; /* there are no interrupts, and no property of that name */
}

static const struct vn_door_ops door = {
    .name = "nvme/tcp",
    .map = vn_tcmd_map,
    .auth = vn_tauth,
    .post = vn_tcmd_post,
    .put = vn_tcmd_put,
    .busy = vn_target_busy,
    .disabled = disabled,
    .irq_mask_changed = irq_mask_changed,
    .disconnect = disconnect,
    .cross_reset = cross_reset,
    .kato_changed = kato_changed,
    .discovery_entry = vn_target_discovery_entry,
    .discovery_genctr = vn_target_discovery_genctr,
    .next_ctrl = next_ctrl,
};

/* --- Life --- */
struct vn_tctrl *vn_tctrl_find(struct vn_target *target, uint16_t cntlid) {
    for (struct vn_tctrl *ctrl = target->ctrls; ctrl; ctrl = ctrl->next) {
        if (ctrl->ctrl.cntlid == cntlid)
            return ctrl;
    }
    return NULL;
}

/* Ascending, so that a number is not used again soon. */
static uint16_t pick_cntlid(struct vn_target *target) {
    do
        target->last_cntlid = target->last_cntlid >= CNTLID_MAX ? 1 : (uint16_t)(target->last_cntlid + 1);
    while (vn_tctrl_find(target, target->last_cntlid)); /* there are fewer controllers than numbers */
    return target->last_cntlid;
}

static int make_data(struct vn_tctrl *ctrl) {
    void *data = mmap(NULL, VN_TCTRL_DATA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        return -ENOMEM;
    ctrl->data = data;
    while (ctrl->nr_free_chunks < VN_TCTRL_NR_CHUNKS) {
        ctrl->free_chunks[ctrl->nr_free_chunks] = (uint8_t)(VN_TCTRL_NR_CHUNKS - 1 - ctrl->nr_free_chunks);
        ctrl->nr_free_chunks++;
    }
    return 0;
}

static void fill_fabrics(struct vn_tctrl *ctrl, const struct vn_connect_data *data, uint32_t kato_ms) {
    struct vn_subsys *subsys = ctrl->subsys;
    struct vn_fabrics *fabrics = &ctrl->fabrics;
    fabrics->kind = subsys->kind;
    if (++ctrl->target->last_ciu == 0) /* which would mean that there is none */
        ctrl->target->last_ciu = 1;
    fabrics->ciu = ctrl->target->last_ciu;
    if (getrandom(&fabrics->cirn, sizeof(fabrics->cirn), GRND_NONBLOCK) != sizeof(fabrics->cirn))
        fabrics->cirn = vn_monotonic_ns(); /* it is there to tell controllers apart, not to be secret */
    fabrics->kato_ms = kato_ms;
    memcpy(fabrics->hostnqn, data->hostnqn, VN_NQN_MAX); /* ends with zero: Connect has seen to it */
    memcpy(fabrics->hostid, data->hostid, sizeof(fabrics->hostid));
    if (subsys->kind != VN_CNTRLTYPE_IO)
        return;
    ctrl->ctrl.ana = &subsys->ana[ctrl->listener];
    ctrl->ctrl.ana_group = subsys->ana_group;
}

int vn_tctrl_new(struct vn_subsys *subsys, struct vn_tqueue *queue, const struct vn_connect_data *data, uint32_t kato_ms,
                 struct vn_tctrl **out) {
    struct vn_target *target = subsys->target;
    if (target->nr_ctrls >= target->opts.max_ctrls)
        return -EBUSY;
    struct vn_tctrl *ctrl = calloc(1, sizeof(*ctrl));
    if (!ctrl)
        return -ENOMEM;
    struct vn_ctrl_opts opts = {
        .serial = subsys->serial,
        .model = subsys->model,
        .subnqn = subsys->nqn,
        .max_queues = subsys->max_queues,
        .max_entries = subsys->max_entries,
        .cntlid = pick_cntlid(target),
    };
    int err = make_data(ctrl);
    if (err)
        goto out_free;
    err = vn_ctrl_init_fabrics(&ctrl->ctrl, &opts, target->reactor, target->events, target->id);
    if (err)
        goto out_unmap;
    ctrl->target = target;
    ctrl->subsys = subsys;
    ctrl->listener = queue->listener;
    ctrl->kato_timer.fn = on_kato;
    ctrl->ctrl.door = &door;
    ctrl->ctrl.door_ctx = ctrl;
    snprintf(ctrl->peer, sizeof(ctrl->peer), "%s", queue->peer);
    socklen_t len = sizeof(ctrl->local);
    getsockname(queue->conn.stream.fd, (struct sockaddr *)&ctrl->local, &len);
    fill_fabrics(ctrl, data, kato_ms);
    vn_fabrics_begin(&ctrl->ctrl, &ctrl->fabrics);
    vn_subsys_fill(subsys, ctrl);
    ctrl->next = target->ctrls;
    if (ctrl->next)
        ctrl->next->prev = ctrl;
    target->ctrls = ctrl;
    target->nr_ctrls++;
    target->arena_bytes += sizeof(*ctrl) + VN_TCTRL_DATA_BYTES;
    *out = ctrl;
    return 0;

out_unmap:
    munmap(ctrl->data, VN_TCTRL_DATA_BYTES);
out_free:
    free(ctrl);
    return err;
}

int vn_tctrl_add_queue(struct vn_tctrl *ctrl, struct vn_tqueue *queue, uint16_t qid, uint32_t entries) {
    int err = vn_tcmd_make_pool(queue, entries);
    if (err)
        return err;
    queue->ctrl = ctrl;
    queue->qid = qid;
    vn_queue_connect(&ctrl->ctrl, qid, entries);
    queue->ctrl_prev = NULL;
    queue->ctrl_next = ctrl->queues;
    if (queue->ctrl_next)
        queue->ctrl_next->ctrl_prev = queue;
    ctrl->queues = queue;
    ctrl->nr_queues++;
    return 0;
}

void vn_tctrl_drop_queue(struct vn_tctrl *ctrl, struct vn_tqueue *queue) {
    vn_queue_disconnect(&ctrl->ctrl, queue->qid);
    *(queue->ctrl_prev ? &queue->ctrl_prev->ctrl_next : &ctrl->queues) = queue->ctrl_next;
    if (queue->ctrl_next)
        queue->ctrl_next->ctrl_prev = queue->ctrl_prev;
    ctrl->nr_queues--;
    queue->ctrl = NULL;
}

void vn_tctrl_begin(struct vn_tctrl *ctrl) {
    ctrl->begun = true;
    ctrl->begun_ns = vn_reactor_now_ns(ctrl->target->reactor);
    arm_kato(ctrl);
    vn_target_tell(ctrl->target, VN_EVENT_HOST_CONNECTED, ctrl->ctrl.cntlid, "%s connected as %s to %s", ctrl->peer,
                   ctrl->fabrics.hostnqn, ctrl->subsys->nqn);
}

static void on_drained(struct vn_ctrl *base) {
    struct vn_tctrl *ctrl = vn_container_of(base, struct vn_tctrl, ctrl);
    ctrl->drained = true;
    tell_waiters(ctrl);
    vn_target_sweep(ctrl->target);
}

void vn_tctrl_end(struct vn_tctrl *ctrl, const char *why) {
    if (ctrl->ending)
        return;
    ctrl->ending = true;
    vn_timer_disarm(ctrl->target->reactor, &ctrl->kato_timer);
    stop_waiting(ctrl);
    for (struct vn_tqueue *queue = ctrl->queues, *next; queue; queue = next) {
        next = queue->ctrl_next;
        vn_tqueue_end(queue, -ECANCELED);
    }
    if (ctrl->begun)
        vn_target_tell(ctrl->target, VN_EVENT_HOST_DISCONNECTED, ctrl->ctrl.cntlid, "%s is disconnected: %s; it was %s at %s",
                       ctrl->peer, why, ctrl->fabrics.hostnqn, ctrl->subsys->nqn);
    vn_ctrl_close(&ctrl->ctrl, on_drained);
}

void vn_tctrl_count(const struct vn_tctrl *ctrl, struct vn_target_past *sum) {
    const struct vn_ctrl_counters *counters = &ctrl->ctrl.counters;
    sum->commands += counters->commands + counters->admin_commands;
    sum->errors += counters->errors;
    sum->read_bytes += counters->read_bytes;
    sum->write_bytes += counters->write_bytes;
}

bool vn_tctrl_try_free(struct vn_tctrl *ctrl) {
    struct vn_target *target = ctrl->target;
    if (!ctrl->drained || ctrl->queues || ctrl->ctrl.nr_orphans || ctrl->ctrl.shutdown || ctrl->on_busy)
        return false;
    vn_tctrl_count(ctrl, &target->past);
    *(ctrl->prev ? &ctrl->prev->next : &target->ctrls) = ctrl->next;
    if (ctrl->next)
        ctrl->next->prev = ctrl->prev;
    target->nr_ctrls--;
    target->arena_bytes -= sizeof(*ctrl) + VN_TCTRL_DATA_BYTES;
    vn_ctrl_fini(&ctrl->ctrl);
    munmap(ctrl->data, VN_TCTRL_DATA_BYTES);
    free(ctrl);
    return true;
}
