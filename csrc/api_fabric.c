/* The C side of include/vhostnvme_fabric.h, and nothing else: handles, argument checks, calls to the reactors.
 * Called by one control thread (Python's).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api.h"
#include "backend/forward.h"
#include "nvmetcp/host_probe.h"
#include "nvmetcp/psk.h"
#include "nvmetcp/subsys.h"

/* --- Targets --- */
int vn_target_create(vn_runtime *rt, const struct vn_target_opts *opts, vn_target **out) {
    if (opts->reactor >= rt->nr_reactors)
        return vn_fail(-EINVAL, "there is no reactor %u", opts->reactor);
    struct vn_target *target;
    int err = vn_target_new(opts, rt->reactors[opts->reactor], rt->events, ++rt->last_id, &target);
    if (err)
        return vn_fail(err, "out of memory");
    target->owner = rt;
    vn_reactor_call(target->reactor, vn_target_start, target);
    rt->nr_handles++;
    *out = target;
    return 0;
}

uint64_t vn_target_id(const vn_target *target) {
    return target->id;
}

struct subsys_call {
    struct vn_subsys *subsys;
    struct vn_ns *ns;
    struct vn_ns_chan *nsc;
    struct vn_host_entry *entry, *old;
    struct vn_tls_context *tls; /* the first that the target gets */
    const char *hostnqn;
    uint32_t nsid, listener, group, state;
};

static int close_ns_on_reactor(void *arg) {
    struct subsys_call *call = arg;
    return vn_subsys_close_ns(call->subsys, call->nsid, &call->nsc);
}

static int drop_ns(struct vn_subsys *subsys, uint32_t nsid, uint32_t wait_ms) {
    struct subsys_call call = {.subsys = subsys, .nsid = nsid};
    int err = vn_retry_on_reactor(subsys->target->reactor, close_ns_on_reactor, &call, wait_ms);
    if (err)
        return err;
    vn_ns_drop_chan(call.nsc->ns, call.nsc);
    free(call.nsc);
    return 0;
}

/* Its controllers have gone. */
static int close_subsys(struct vn_subsys *subsys) {
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        int err = subsys->chans[nsid] ? drop_ns(subsys, nsid, VN_CLOSE_BOUND_MS) : 0;
        if (err)
            return err;
    }
    vn_subsys_free(subsys);
    return 0;
}

int vn_target_destroy(vn_target *target) {
    int err = vn_retry_on_reactor(target->reactor, vn_target_end, target, VN_CLOSE_BOUND_MS);
    while (!err && target->subsystems) {
        struct vn_subsys *subsys = target->subsystems;
        target->subsystems = subsys->next;
        err = close_subsys(subsys);
    }
    vn_event_emit(target->events, VN_EVENT_TARGET_DESTROYED, target->id, 0, 0, "%s", "");
    if (err) /* some backend still holds requests of ours: their memory stays until the process ends */
        return vn_fail(-EBUSY, "commands of hosts are stuck in an SSD that does not answer: their memory is kept");
    target->owner->nr_handles--;
    vn_target_free(target);
    return 0;
}

struct info_call {
    struct vn_target *target;
    struct vn_target_info *info;
    struct vn_target_host *hosts;
    uint32_t nr_hosts;
};

static int info_on_reactor(void *arg) {
    struct info_call *call = arg;
    vn_target_info(call->target, call->info);
    return 0;
}

int vn_target_get_info(vn_target *target, struct vn_target_info *out) {
    return vn_reactor_call(target->reactor, info_on_reactor, &(struct info_call){.target = target, .info = out});
}

static int hosts_on_reactor(void *arg) {
    struct info_call *call = arg;
    return (int)vn_target_hosts(call->target, call->hosts, call->nr_hosts);
}

int vn_target_get_hosts(vn_target *target, struct vn_target_host *buf, uint32_t max) {
    struct info_call call = {.target = target, .hosts = buf, .nr_hosts = max};
    return vn_reactor_call(target->reactor, hosts_on_reactor, &call);
}

/* --- Listeners and referrals --- */
struct listen_call {
    struct vn_target *target;
    int fd;
    uint32_t id, flags;
    struct sockaddr_storage address;
};

static int parse(const char *host, uint16_t port, uint32_t flags, struct sockaddr_storage *out) {
    if (flags & ~VN_LISTEN_TLS)
        return vn_fail(-EINVAL, "unknown flags %x: take VN_LISTEN_TLS or none", flags);
    if (vn_address_parse(host, port, out))
        return vn_fail(-EINVAL, "'%s' is no IPv4 or IPv6 address", host);
    return 0;
}

static int listen_on_reactor(void *arg) {
    struct listen_call *call = arg;
    return vn_tlistener_start(call->target, call->fd, call->flags, &call->address);
}

int vn_target_listen(vn_target *target, const struct vn_listen_opts *opts, uint32_t *id, uint16_t *port) {
    struct listen_call call = {.target = target, .flags = opts->flags};
    struct sockaddr_storage wanted;
    int err = parse(opts->host, opts->port, opts->flags, &wanted);
    if (err)
        return err;
    err = vn_tlistener_open(&wanted, &call.fd, &call.address);
    if (err)
        return vn_fail(err, "cannot listen on %s port %u: %s", opts->host, opts->port, strerror(-err));
    int got = vn_reactor_call(target->reactor, listen_on_reactor, &call);
    if (got < 0) {
        close(call.fd);
        return vn_fail(got, "a target listens on %u addresses at most", VN_MAX_LISTENERS);
    }
    *id = (uint32_t)got;
    *port = vn_address_port(&call.address);
    return 0;
}

static int unlisten_on_reactor(void *arg) {
    struct listen_call *call = arg;
    return vn_tlistener_stop(call->target, call->id);
}

int vn_target_unlisten(vn_target *target, uint32_t id) {
    struct listen_call call = {.target = target, .id = id};
    int err = vn_retry_on_reactor(target->reactor, unlisten_on_reactor, &call, VN_CLOSE_BOUND_MS);
    return err ? vn_fail(err, "this target has no listener %u", id) : 0;
}

static int add_referral_on_reactor(void *arg) {
    struct listen_call *call = arg;
    return vn_target_put_referral(call->target, &call->address, call->flags);
}

int vn_target_add_referral(vn_target *target, const struct vn_referral_opts *opts) {
    struct listen_call call = {.target = target, .flags = opts->flags};
    int err = parse(opts->host, opts->port, opts->flags, &call.address);
    if (err)
        return err;
    err = vn_reactor_call(target->reactor, add_referral_on_reactor, &call);
    return err ? vn_fail(err, "a target refers to %u others at most", VN_MAX_REFERRALS) : 0;
}

static int remove_referral_on_reactor(void *arg) {
    struct listen_call *call = arg;
    return vn_target_take_referral(call->target, &call->address);
}

int vn_target_remove_referral(vn_target *target, const char *host, uint16_t port) {
    struct listen_call call = {.target = target};
    int err = parse(host, port, 0, &call.address);
    if (err)
        return err;
    err = vn_reactor_call(target->reactor, remove_referral_on_reactor, &call);
    return err ? vn_fail(err, "this target does not refer to %s port %u", host, port) : 0;
}

/* --- Subsystems --- */
static int enter_on_reactor(void *arg) {
    return vn_subsys_enter(arg);
}

static int check_nqn(const char *nqn) {
    if (!vn_nqn_is_valid(nqn))
        return vn_fail(-EINVAL, "an NQN has 1 to %u characters", VN_NQN_MAX);
    return 0;
}

int vn_target_add_subsys(vn_target *target, const struct vn_subsys_opts *opts, vn_subsys **out) {
    if (check_nqn(opts->nqn))
        return -EINVAL;
    if ((opts->serial && strlen(opts->serial) > 20) || (opts->model && strlen(opts->model) > 40))
        return vn_fail(-EINVAL, "a serial number has up to 20 characters, a model name up to 40");
    if (opts->max_queues > VN_MAX_FABRICS_QUEUES || opts->max_entries > VN_TQUEUE_ENTRIES_MAX || opts->max_entries == 1)
        return vn_fail(-EINVAL, "a controller has up to %u I/O queues of 2 to %u entries", VN_MAX_FABRICS_QUEUES,
                       VN_TQUEUE_ENTRIES_MAX);
    if (opts->flags & ~VN_SUBSYS_ANY_HOST)
        return vn_fail(-EINVAL, "unknown flags %x: take VN_SUBSYS_ANY_HOST or none", opts->flags);
    struct vn_subsys *subsys;
    int err = vn_subsys_new(target, opts, VN_CNTRLTYPE_IO, &subsys);
    if (err)
        return vn_fail(err, "out of memory");
    err = vn_reactor_call(target->reactor, enter_on_reactor, subsys);
    if (err) {
        vn_subsys_free(subsys);
        if (err == -EEXIST)
            return vn_fail(err, "this target has a subsystem %s already", opts->nqn);
        return vn_fail(err, "a target has %u subsystems at most", VN_MAX_SUBSYSTEMS);
    }
    *out = subsys;
    return 0;
}

static int leave_on_reactor(void *arg) {
    return vn_subsys_leave(arg);
}

int vn_subsys_remove(vn_subsys *subsys) {
    int err = vn_retry_on_reactor(subsys->target->reactor, leave_on_reactor, subsys, VN_CLOSE_BOUND_MS);
    if (!err)
        err = close_subsys(subsys);
    return err ? vn_fail(-EBUSY, "commands of hosts are stuck in an SSD that does not answer: their memory is kept") : 0;
}

static int open_ns_on_reactor(void *arg) {
    struct subsys_call *call = arg;
    return vn_subsys_open_ns(call->subsys, call->ns, call->nsid, (uint8_t)call->group, &call->nsc);
}

static int check_nsid(uint32_t nsid) {
    if (nsid == 0 || nsid > VN_MAX_NAMESPACES)
        return vn_fail(-EINVAL, "namespace id %u is not possible: take 1 to %u", nsid, VN_MAX_NAMESPACES);
    return 0;
}

static int check_group(uint32_t group) {
    if (group == 0 || group > VN_MAX_ANA_GROUPS)
        return vn_fail(-EINVAL, "ANA group %u is not possible: take 1 to %u", group, VN_MAX_ANA_GROUPS);
    return 0;
}

int vn_subsys_add_ns(vn_subsys *subsys, vn_ns *ns, uint32_t nsid, uint32_t ana_group) {
    struct subsys_call call = {.subsys = subsys, .ns = ns, .nsid = nsid, .group = ana_group ? ana_group : 1};
    if (check_nsid(nsid) || check_group(call.group))
        return -EINVAL;
    if (ns->zoned)
        return vn_fail(-ENOTSUP, "namespace %u cannot be added: it is zoned, and targets serve conventional ones only", nsid);
    if (!vn_ns_hold(ns))
        return vn_fail(-EBUSY, "namespace %u cannot be added: it is being formatted or sanitized, or its blocks have metadata; "
                               "one SSD alone can have it", nsid);
    int err = vn_reactor_call(subsys->target->reactor, open_ns_on_reactor, &call);
    if (!err)
        err = vn_ns_add_chan(ns, call.nsc);
    vn_ns_unhold(ns);
    if (err == -EEXIST)
        return vn_fail(err, "namespace id %u is taken in this subsystem", nsid);
    if (err && err != -ENOSPC)
        return vn_fail(err, "namespace %u cannot be added: %s", nsid, strerror(-err));
    if (err) {
        drop_ns(subsys, nsid, VN_CLOSE_BOUND_MS);
        return vn_fail(err, "a namespace can be attached to %u controllers and subsystems at most", VN_NS_MAX_CHANS);
    }
    return 0;
}

int vn_subsys_remove_ns(vn_subsys *subsys, uint32_t nsid, uint32_t wait_ms) {
    if (check_nsid(nsid))
        return -EINVAL;
    int err = drop_ns(subsys, nsid, wait_ms);
    if (err == -ENOENT)
        return vn_fail(err, "there is no namespace %u in this subsystem", nsid);
    if (err)
        return vn_fail(-EBUSY, "namespace %u still has commands in flight: its SSD has not answered; try again", nsid);
    return 0;
}

/* --- Hosts --- */
static int check_key(const uint8_t *key, uint32_t bytes, uint32_t bytes_max) {
    if (key && bytes != 32 && bytes != 48 && bytes != bytes_max)
        return vn_fail(-EINVAL, "a key of %u bytes is not possible: take 32 or 48%s", bytes, bytes_max == 64 ? " or 64" : "");
    return 0;
}

static int check_host(const struct vn_allow_opts *opts) {
    if (check_nqn(opts->hostnqn))
        return -EINVAL;
    for (uint32_t i = 0; i < opts->nr_nsids; i++) {
        if (check_nsid(opts->nsids[i]))
            return -EINVAL;
    }
    if (check_key(opts->dhchap_key, opts->dhchap_key_bytes, 64) ||
        check_key(opts->dhchap_ctrl_key, opts->dhchap_ctrl_key_bytes, 64) || check_key(opts->tls_key, opts->tls_key_bytes, 48))
        return -EINVAL;
    if (opts->dhchap_hash > 3 || opts->dhchap_ctrl_hash > 3 || opts->tls_hash > 2)
        return vn_fail(-EINVAL, "a key names a hash that does not exist");
    if (opts->dhchap_ctrl_key && !opts->dhchap_key)
        return vn_fail(-EINVAL, "a key of the controller needs one of the host");
    return 0;
}

static int put_host_on_reactor(void *arg) {
    struct subsys_call *call = arg;
    if (call->tls)
        call->subsys->target->tls = call->tls;
    return vn_subsys_put_host(call->subsys, call->entry, &call->old);
}

int vn_subsys_allow_host(vn_subsys *subsys, const struct vn_allow_opts *opts) {
    struct subsys_call call = {.subsys = subsys};
    if (check_host(opts))
        return -EINVAL;
    int err = vn_host_entry_new(opts, subsys->nqn, &call.entry);
    if (err == -EINVAL)
        return vn_fail(err, "no keys can be made for these names: an NQN has no spaces, and a TLS key the length of its hash");
    if (!err && opts->tls_key && !subsys->target->tls)
        err = vn_tls_context_new(true, &call.tls);
    if (err)
        return vn_fail(err, "out of memory");
    err = vn_reactor_call(subsys->target->reactor, put_host_on_reactor, &call);
    vn_host_entry_free(err ? call.entry : call.old);
    if (err == -EDQUOT)
        return vn_fail(err, "a target keeps the TLS keys of %u hosts at most", VN_TLS_PSKS_MAX / (2 * VN_PSK_VERSIONS));
    return err ? vn_fail(err, "a subsystem has %u hosts at most", VN_MAX_HOSTS) : 0;
}

static int take_host_on_reactor(void *arg) {
    struct subsys_call *call = arg;
    call->old = vn_subsys_take_host(call->subsys, call->hostnqn);
    return call->old ? 0 : -ENOENT;
}

int vn_subsys_deny_host(vn_subsys *subsys, const char *hostnqn) {
    struct subsys_call call = {.subsys = subsys, .hostnqn = hostnqn};
    int err = vn_reactor_call(subsys->target->reactor, take_host_on_reactor, &call);
    vn_host_entry_free(call.old);
    return err ? vn_fail(err, "the host %s is not on the list", hostnqn) : 0;
}

static int set_ana_on_reactor(void *arg) {
    struct subsys_call *call = arg;
    vn_subsys_set_state(call->subsys, call->listener, call->group, (enum vn_ana_state)call->state);
    return 0;
}

int vn_subsys_set_ana(vn_subsys *subsys, uint32_t listener, uint32_t ana_group, uint32_t state) {
    struct subsys_call call = {.subsys = subsys, .listener = listener, .group = ana_group, .state = state};
    if (check_group(ana_group))
        return -EINVAL;
    if (listener > VN_MAX_LISTENERS)
        return vn_fail(-EINVAL, "this target has no listener %u", listener);
    if (state != VN_ANA_CHANGE && (state < VN_ANA_OPTIMIZED || state > VN_ANA_PERSISTENT_LOSS))
        return vn_fail(-EINVAL, "there is no ANA state %u", state);
    return vn_reactor_call(subsys->target->reactor, set_ana_on_reactor, &call);
}

/* --- Other targets --- */

int vn_remote_admin(const struct vn_remote_opts *opts, struct vn_remote_cmd *cmds, uint32_t nr) {
    char error[512] = "";
    struct vn_assoc_config config = {0};
    struct sockaddr_storage address;
    struct vn_probe *probe;
    int err = vn_remote_config(opts, &config, error, sizeof(error));
    config.nsid = 0; /* the admin queue is enough */
    if (!err)
        err = vn_remote_resolve(&opts->paths[0], &address, error, sizeof(error));
    if (!err)
        err = vn_remote_probe(opts, &config, &address, &probe, error, sizeof(error));
    if (err) {
        vn_remote_config_free(&config);
        return vn_fail(err, "%s", error);
    }
    for (uint32_t i = 0; i < nr && !err; i++) {
        struct vn_sqe sqe;
        vn_status status = 0;
        memcpy(&sqe, cmds[i].sqe, sizeof(sqe));
        err = vn_probe_admin(probe, &sqe, cmds[i].buf, cmds[i].bytes, &status, &cmds[i].result);
        cmds[i].status = VN_STATUS_CODE(status);
    }
    vn_probe_close(probe);
    vn_remote_config_free(&config);
    return err ? vn_fail(err, "%s:%u has not answered a command", opts->paths[0].host, opts->paths[0].port) : 0;
}
