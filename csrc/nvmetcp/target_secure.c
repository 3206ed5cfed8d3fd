/* Who a host is: its keys for TLS and for DH-HMAC-CHAP, and what they say when it connects.
 * Called by subsys.c when the list of hosts changes, by Connect, and as the door for authentication commands.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/limit.h"
#include "core/util.h"
#include "nvmetcp/auth.h"
#include "nvmetcp/psk.h"
#include "nvmetcp/subsys.h"

/* An authentication costs some milliseconds of the reactor (auth.h), and a host's name is no secret: so many a second, at
 * once as many as a host or two may have queues; and no group that would cost more. */
#define AUTHS_PER_SECOND 50u
#define AUTHS_AT_ONCE 256u
#define GROUPS (1u << VN_AUTH_NULL | 1u << VN_AUTH_FFDHE2048 | 1u << VN_AUTH_FFDHE3072 | 1u << VN_AUTH_FFDHE4096)
#define PSKS_OF_A_HOST (2 * VN_PSK_VERSIONS) /* for its subsystem and for discovery */
#define IDENTITY_NAMES 9u                    /* "NVMe0R01 ", then the names */

/* --- Keys of a host on the list --- */
static int make_psks(struct vn_host_entry *entry, const struct vn_allow_opts *opts, const char *subnqn) {
    const char *names[] = {subnqn, VN_DISCOVERY_NQN};
    entry->psks = calloc(PSKS_OF_A_HOST, sizeof(*entry->psks));
    if (!entry->psks)
        return -ENOMEM;
    for (uint32_t i = 0; i < PSKS_OF_A_HOST; i++) {
        uint32_t version = i % VN_PSK_VERSIONS;
        if (version == 2 && !opts->tls_hash)
            continue; /* the identity of version 1 again */
        int err = vn_psk_derive(opts->tls_key, opts->tls_key_bytes, opts->tls_hash, version, entry->nqn,
                                names[i / VN_PSK_VERSIONS], &entry->psks[entry->nr_psks]);
        if (!err)
            entry->nr_psks++;
        else if (version) /* version 0 has no room for long names */
            return err;
    }
    return 0;
}

int vn_host_keys_make(struct vn_host_entry *entry, const struct vn_allow_opts *opts, const char *subnqn) {
    int err = 0;
    if (opts->dhchap_key)
        err = vn_auth_key_make(opts->dhchap_key, opts->dhchap_key_bytes, opts->dhchap_hash, entry->nqn, &entry->host_key);
    if (!err && opts->dhchap_ctrl_key)
        err = vn_auth_key_make(opts->dhchap_ctrl_key, opts->dhchap_ctrl_key_bytes, opts->dhchap_ctrl_hash, subnqn,
                               &entry->ctrl_key);
    if (!err && opts->tls_key)
        err = make_psks(entry, opts, subnqn);
    return err;
}

void vn_host_keys_free(struct vn_host_entry *entry) {
    if (entry->psks)
        OPENSSL_cleanse(entry->psks, PSKS_OF_A_HOST * sizeof(*entry->psks));
    free(entry->psks);
    OPENSSL_cleanse(&entry->host_key, sizeof(entry->host_key));
    OPENSSL_cleanse(&entry->ctrl_key, sizeof(entry->ctrl_key));
}

bool vn_target_has_room_for_keys(const struct vn_target *target, const struct vn_host_entry *entry) {
    return !entry->nr_psks || (target->tls && vn_tls_context_count(target->tls) + entry->nr_psks <= VN_TLS_PSKS_MAX);
}

/* Several subsystems may have the same host: its keys for discovery are those of the first that is found. */
void vn_target_keys_changed(struct vn_target *target, const struct vn_host_entry *old, const char *hostnqn) {
    if (!target->tls)
        return;
    for (uint32_t i = 0; old && i < old->nr_psks; i++)
        vn_tls_context_remove(target->tls, old->psks[i].identity);
    for (const struct vn_subsys *subsys = target->subsystems; subsys; subsys = subsys->next) {
        const struct vn_host_entry *entry = subsys->ending ? NULL : vn_subsys_host(subsys, hostnqn);
        for (uint32_t i = 0; entry && i < entry->nr_psks; i++)
            vn_tls_context_add(target->tls, &entry->psks[i]); /* -EEXIST, or there was room before */
    }
}

/* --- Connect --- */

/* The names in the identity of the key that the connection was made with. */
static bool is_named(const char *identity, const char *hostnqn, const char *subnqn) {
    char names[2 * (VN_NQN_MAX + 1) + 1];
    if (strchr(hostnqn, ' ') || strchr(subnqn, ' '))
        return false;
    size_t bytes = (size_t)snprintf(names, sizeof(names), "%s %s", hostnqn, subnqn);
    if (strnlen(identity, IDENTITY_NAMES) < IDENTITY_NAMES || strncmp(identity + IDENTITY_NAMES, names, bytes) != 0)
        return false;
    char behind = identity[IDENTITY_NAMES + bytes]; /* version 1: a digest follows */
    return behind == 0 || behind == ' ';
}

const char *vn_tqueue_check_tls(const struct vn_tqueue *queue, const struct vn_subsys *subsys, const char *hostnqn) {
    const struct vn_tls *tls = queue->conn.stream.tls;
    const struct vn_host_entry *entry = vn_subsys_host(subsys, hostnqn);
    if (!tls)
        return entry && entry->nr_psks ? "a host with a TLS key has to come by TLS" : NULL;
    return is_named(vn_tls_identity(tls), hostnqn, subsys->nqn) ? NULL : "its TLS key is for another host or subsystem";
}

int vn_tauth_prepare(struct vn_tqueue *queue, const struct vn_subsys *subsys, const char *hostnqn) {
    struct vn_target *target = queue->target;
    const struct vn_host_entry *entry = vn_subsys_host(subsys, hostnqn);
    vn_tauth_free(queue);
    if (!entry || !entry->host_key.bytes)
        return 0;
    struct vn_rate rate = vn_rate_of(AUTHS_PER_SECOND, AUTHS_AT_ONCE * 1000000ull / AUTHS_PER_SECOND);
    uint64_t now = vn_reactor_now_ns(target->reactor);
    if (vn_bucket_wait_ns(&rate, &target->auth_mark, now))
        return -EAGAIN;
    vn_bucket_take(&rate, &target->auth_mark, now, 1);
    struct vn_auth_opts opts = {
        .hostnqn = hostnqn,
        .subnqn = subsys->nqn,
        .host_key = &entry->host_key,
        .ctrl_key = entry->ctrl_key.bytes ? &entry->ctrl_key : NULL,
        .groups = GROUPS,
    };
    queue->auth = calloc(1, sizeof(*queue->auth));
    int err = queue->auth ? vn_auth_init(queue->auth, &opts) : -ENOMEM;
    if (err)
        vn_tauth_free(queue);
    return err;
}

void vn_tauth_free(struct vn_tqueue *queue) {
    if (queue->auth)
        vn_auth_fini(queue->auth);
    free(queue->auth);
    queue->auth = NULL;
}

/* --- Authentication Send and Receive (Base 6.1, 6.2) --- */

/* What has come of it. */
static void judge(struct vn_tcmd *cmd) {
    struct vn_tqueue *queue = cmd->queue;
    const struct vn_auth *auth = queue->auth;
    if (auth->verdict == VN_AUTH_PROVED && queue->auth_needed) {
        queue->auth_needed = false;
        queue->ctrl->authenticated = true;
        vn_tqueue_live(queue);
    }
    if (auth->verdict != VN_AUTH_REFUSED || auth->state != VN_AUTH_END)
        return;
    vn_target_refused(queue->target, "%s is refused: %s; it is %s, and asked for %s", queue->peer, vn_auth_words(auth),
                      auth->hostnqn, auth->subnqn);
    cmd->is_last = true; /* the connection ends when this has been answered */
}

static vn_status authenticate(struct vn_tcmd *cmd) {
    struct vn_auth *auth = cmd->queue->auth;
    const struct vn_sqe *sqe = &cmd->req.cmd;
    uint32_t bytes = sqe->cdw11;
    if (!auth)
        return VN_SC_INVALID_OPCODE;
    if ((sqe->cdw10 & VN_AUTH_CDW10_MASK) != VN_AUTH_CDW10 || bytes == 0 || bytes > VN_AUTH_MESSAGE_MAX)
        return VN_SC_INVALID_FIELD;
    vn_status status = vn_tcmd_map(&cmd->req, bytes);
    if (status)
        return status;
    bool send = VN_SQE_FCTYPE(sqe) == VN_FCTYPE_AUTH_SEND;
    bool in_turn = send ? vn_auth_target_take(auth, cmd->slot, bytes) : vn_auth_target_give(auth, cmd->slot, bytes);
    judge(cmd);
    return in_turn ? VN_SC_SUCCESS : VN_SC_COMMAND_SEQUENCE;
}

void vn_tauth(struct vn_req *req) {
    vn_ctrl_end(req, authenticate(vn_container_of(req, struct vn_tcmd, req)));
}
