/* A target's life: what it starts with, what its timers and its poller do, how it ends. Called by api_fabric.c and by
 * the other target files.
 */
#include "nvmetcp/target.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/util.h"
#include "nvmetcp/subsys.h"

#define MAX_CONNECTIONS 1024u
#define MAX_HALF_OPEN 64u
#define MAX_CTRLS 256u
#define HANDSHAKE_MS 5000u
#define REFUSED_EVENT_NS 50000000ull

/* --- Commands whose backend was busy --- */
void vn_target_busy(struct vn_ctrl *base) {
    struct vn_tctrl *ctrl = vn_container_of(base, struct vn_tctrl, ctrl);
    struct vn_target *target = ctrl->target;
    if (ctrl->on_busy)
        return;
    ctrl->on_busy = true;
    ctrl->busy_next = target->busy_first;
    target->busy_first = ctrl;
    vn_poller_wake(target->reactor, &target->poller);
}

static bool poll_busy(struct vn_poller *poller) {
    struct vn_target *target = vn_container_of(poller, struct vn_target, poller);
    struct vn_tctrl *ctrl = target->busy_first;
    bool work = false;
    target->busy_first = NULL;
    for (struct vn_tctrl *next; ctrl; ctrl = next) { /* those that are still busy put themselves on the list again */
        next = ctrl->busy_next;
        ctrl->on_busy = false;
        work |= vn_ctrl_retry_busy(&ctrl->ctrl);
        if (ctrl->drained)
            vn_target_sweep(target);
    }
    return work;
}

static bool is_busy(struct vn_poller *poller) {
    return vn_container_of(poller, struct vn_target, poller)->busy_first;
}

static bool is_idle(struct vn_poller *poller) {
    return !is_busy(poller);
}

/* --- Timers --- */
static void on_handshake(struct vn_timer *timer) {
    vn_tqueue_hurry(vn_container_of(timer, struct vn_target, handshake_timer));
}

void vn_target_sweep(struct vn_target *target) {
    if (!target->sweep_timer.armed)
        vn_timer_arm(target->reactor, &target->sweep_timer, 0);
}

static void on_sweep(struct vn_timer *timer) {
    struct vn_target *target = vn_container_of(timer, struct vn_target, sweep_timer);
    for (struct vn_tqueue *queue = target->queues, *next; queue; queue = next) {
        next = queue->next;
        vn_tqueue_try_free(queue);
    }
    for (struct vn_tctrl *ctrl = target->ctrls, *next; ctrl; ctrl = next) {
        next = ctrl->next;
        vn_tctrl_try_free(ctrl);
    }
}

/* --- What is told --- */
void vn_target_changed(struct vn_target *target) {
    target->genctr++;
    for (struct vn_tctrl *ctrl = target->ctrls; ctrl; ctrl = ctrl->next) {
        if (ctrl->fabrics.kind == VN_CNTRLTYPE_DISCOVERY && !ctrl->ending)
            vn_discovery_changed(&ctrl->ctrl);
    }
}

/* Names come from the network: what is not plain ASCII in them does not reach a terminal. */
static void tell(struct vn_target *target, enum vn_event_type type, uint64_t a, const char *format, va_list args) {
    char text[sizeof(((struct vn_event *)0)->text)];
    vsnprintf(text, sizeof(text), format, args);
    for (char *at = text; *at; at++) {
        if (*at < ' ' || *at > '~')
            *at = '?';
    }
    vn_event_emit(target->events, type, target->id, a, 0, "%s", text);
}

void vn_target_tell(struct vn_target *target, enum vn_event_type type, uint64_t a, const char *format, ...) {
    va_list args;
    va_start(args, format);
    tell(target, type, a, format, args);
    va_end(args);
}

void vn_target_refused(struct vn_target *target, const char *format, ...) {
    uint64_t now = vn_reactor_now_ns(target->reactor);
    target->refused++;
    if (target->last_refused_ns && now - target->last_refused_ns < REFUSED_EVENT_NS)
        return;
    target->last_refused_ns = now;
    va_list args;
    va_start(args, format);
    tell(target, VN_EVENT_HOST_REFUSED, 0, format, args);
    va_end(args);
}

void vn_target_info(struct vn_target *target, struct vn_target_info *out) {
    struct vn_target_past sum = target->past;
    for (const struct vn_tctrl *ctrl = target->ctrls; ctrl; ctrl = ctrl->next)
        vn_tctrl_count(ctrl, &sum);
    *out = (struct vn_target_info){
        .id = target->id,
        .connections = target->nr_connections,
        .half_open = target->nr_half_open,
        .controllers = target->nr_ctrls,
        .commands = sum.commands,
        .errors = sum.errors,
        .accepted = target->accepted,
        .refused = target->refused,
        .read_bytes = sum.read_bytes,
        .write_bytes = sum.write_bytes,
        .resident_bytes_max =
            target->arena_bytes + target->nr_connections * (sizeof(struct vn_tqueue) + (uint64_t)VN_CONN_RX_BYTES),
    };
    for (uint32_t id = 1; id <= VN_MAX_LISTENERS; id++)
        out->listeners += target->listeners[id].target && !target->listeners[id].closing;
}

uint32_t vn_target_hosts(const struct vn_target *target, struct vn_target_host *buf, uint32_t max) {
    uint64_t now = vn_reactor_now_ns(target->reactor);
    uint32_t nr = 0;
    for (const struct vn_tctrl *ctrl = target->ctrls; ctrl; ctrl = ctrl->next) {
        if (!ctrl->begun || ctrl->ending || nr++ >= max)
            continue;
        const struct vn_ctrl_counters *counters = &ctrl->ctrl.counters;
        struct vn_target_host *host = &buf[nr - 1];
        *host = (struct vn_target_host){
            .cntlid = ctrl->ctrl.cntlid,
            .nr_queues = ctrl->nr_queues - 1,
            .tls = !!(target->listeners[ctrl->listener].flags & VN_LISTEN_TLS),
            .authenticated = ctrl->authenticated,
            .commands = counters->commands + counters->admin_commands,
            .connected_s = (now - ctrl->begun_ns) / 1000000000u,
        };
        snprintf(host->hostnqn, sizeof(host->hostnqn), "%s", ctrl->fabrics.hostnqn);
        snprintf(host->subnqn, sizeof(host->subnqn), "%s", ctrl->subsys->nqn);
        snprintf(host->address, sizeof(host->address), "%s", ctrl->peer);
    }
    return nr;
}

/* --- Life --- */
int vn_target_new(const struct vn_target_opts *opts, struct vn_reactor *reactor, struct vn_event_queue *events,
                  uint64_t id, struct vn_target **out) {
    struct vn_target *target = calloc(1, sizeof(*target));
    if (!target)
        return -ENOMEM;
    target->id = id;
    target->reactor = reactor;
    target->events = events;
    target->opts = (struct vn_target_opts){
        .reactor = opts->reactor,
        .max_connections = vn_or_default(opts->max_connections, MAX_CONNECTIONS),
        .max_half_open = vn_or_default(opts->max_half_open, MAX_HALF_OPEN),
        .max_ctrls = vn_or_default(opts->max_ctrls, MAX_CTRLS),
        .handshake_ms = vn_or_default(opts->handshake_ms, HANDSHAKE_MS),
    };
    target->handshake_timer.fn = on_handshake;
    target->sweep_timer.fn = on_sweep;
    target->poller = (struct vn_poller){.poll = poll_busy, .before_sleep = is_busy, .can_rest = is_idle};
    struct vn_subsys_opts discovery = {.nqn = VN_DISCOVERY_NQN, .serial = "discovery", .flags = VN_SUBSYS_ANY_HOST};
    int err = vn_subsys_new(target, &discovery, VN_CNTRLTYPE_DISCOVERY, &target->discovery);
    if (err) {
        free(target);
        return err;
    }
    *out = target;
    return 0;
}

void vn_target_free(struct vn_target *target) {
    vn_tls_context_free(target->tls);
    free(target);
}

int vn_target_start(void *arg) {
    struct vn_target *target = arg;
    vn_conn_group_init(&target->group, target->reactor);
    vn_poller_add(target->reactor, &target->poller);
    return vn_subsys_enter(target->discovery);
}

static bool stop_listening(struct vn_target *target) {
    bool stopped = true;
    for (uint32_t id = 1; id <= VN_MAX_LISTENERS; id++)
        stopped &= vn_tlistener_stop(target, id) != -EAGAIN;
    return stopped;
}

int vn_target_end(void *arg) {
    struct vn_target *target = arg;
    bool stopped = stop_listening(target);
    for (struct vn_tctrl *ctrl = target->ctrls; ctrl; ctrl = ctrl->next)
        vn_tctrl_end(ctrl, "the target ends");
    while (target->half_first)
        vn_tqueue_end(target->half_first, -ECANCELED);
    for (const struct vn_tctrl *ctrl = target->ctrls; ctrl; ctrl = ctrl->next)
        stopped &= ctrl->drained && !ctrl->ctrl.shutdown; /* ... or given up */
    if (!stopped || target->group.nr_conns || target->busy_first)
        return -EAGAIN;
    on_sweep(&target->sweep_timer);
    vn_timer_disarm(target->reactor, &target->sweep_timer);
    vn_timer_disarm(target->reactor, &target->handshake_timer);
    vn_poller_remove(target->reactor, &target->poller);
    vn_conn_group_fini(&target->group);
    return target->nr_ctrls ? -EBUSY : 0;
}
