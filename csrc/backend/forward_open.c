/* Opening a namespace elsewhere: the options checked, addresses found, the namespace looked at through the first path
 * that works. And what it is later held against. Called by forward.c, on the control thread, and by the paths.
 */
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

#include "backend/forward.h"
#include "core/util.h"
#include "nvmetcp/address.h"
#include "nvmetcp/host_probe.h"
#include "nvmetcp/psk.h"

#define DEFAULT_ENTRIES 128u
#define DEFAULT_KATO_MS 5000u
#define KATO_MS_MIN 100u
#define KATO_MS_MAX 3600000u
#define DEFAULT_RECONNECT_MS 30000u
#define DEFAULT_CONNECT_MS 3000u
#define IO_TIMEOUT_MS_MIN 10000u
#define LOOK_ENTRIES 2u /* of the I/O queue that is only made to see that it can be */

/* --- Keys --- */

/* For one version of the identity. */
static int make_tls(const struct vn_remote_opts *remote, uint32_t version, struct vn_tls_context **out) {
    struct vn_tls_psk psk;
    struct vn_tls_context *tls = NULL;
    int err = vn_psk_derive(remote->tls_key, remote->tls_key_bytes, remote->tls_hash, version, remote->hostnqn,
                            remote->subnqn, &psk);
    if (!err)
        err = vn_tls_context_new(false, &tls);
    if (!err)
        err = vn_tls_context_add(tls, &psk);
    explicit_bzero(&psk, sizeof(psk));
    if (!err)
        *out = tls;
    else
        vn_tls_context_free(tls);
    return err;
}

static int take_tls_key(const struct vn_remote_opts *remote, struct vn_assoc_config *config, char *error,
                        uint32_t error_size) {
    int err = -EINVAL;
    for (uint32_t version = 0; version < VN_PSK_VERSIONS && err == -EINVAL; version++) /* 0 has no room for long names */
        err = make_tls(remote, version, &config->tls);
    if (err == -EINVAL)
        return vn_backend_fail(error, error_size, EINVAL, "the TLS key does not fit its hash, or these NQNs");
    return err ? vn_backend_fail(error, error_size, ENOMEM, "TLS cannot be had: %s", strerror(-err)) : 0;
}

/* What a target knows of a key are one or more versions of it, and it does not say which: the one that works is kept. */
int vn_remote_probe(const struct vn_remote_opts *remote, struct vn_assoc_config *config,
                    const struct sockaddr_storage *address, struct vn_probe **out, char *error, uint32_t error_size) {
    char again[VN_ASSOC_WHY_BYTES];
    int err = vn_probe_open(config, address, out, error, error_size);
    for (uint32_t version = 0; version < VN_PSK_VERSIONS && err == -EKEYREJECTED; version++) {
        struct vn_tls_context *tls;
        if (make_tls(remote, version, &tls))
            continue;
        vn_tls_context_free(config->tls);
        config->tls = tls;
        if (version > 0 && !vn_probe_open(config, address, out, again, sizeof(again)))
            return 0;
    }
    return err;
}

static int take_keys(const struct vn_remote_opts *remote, struct vn_assoc_config *config, char *error,
                     uint32_t error_size) {
    if (remote->dhchap_ctrl_key && !remote->dhchap_key)
        return vn_backend_fail(error, error_size, EINVAL, "a key of the controller needs one of the host");
    if ((remote->dhchap_key && vn_auth_key_make(remote->dhchap_key, remote->dhchap_key_bytes, remote->dhchap_hash,
                                                remote->hostnqn, &config->host_key)) ||
        (remote->dhchap_ctrl_key && vn_auth_key_make(remote->dhchap_ctrl_key, remote->dhchap_ctrl_key_bytes,
                                                     remote->dhchap_ctrl_hash, remote->subnqn, &config->ctrl_key)))
        return vn_backend_fail(error, error_size, EINVAL, "a DH-HMAC-CHAP key has 32, 48 or 64 bytes and a hash from 0 to 3");
    if (remote->tls_key)
        return take_tls_key(remote, config, error, error_size);
    if (remote->flags & VN_REMOTE_TLS)
        return vn_backend_fail(error, error_size, EINVAL, "TLS needs a pre-shared key");
    return 0;
}

void vn_remote_config_free(struct vn_assoc_config *config) {
    vn_tls_context_free(config->tls);
    explicit_bzero(config, sizeof(*config));
}

/* --- Options --- */

int vn_remote_config(const struct vn_remote_opts *remote, struct vn_assoc_config *config, char *error,
                     uint32_t error_size) {
    if (!vn_nqn_is_valid(remote->subnqn) || !vn_nqn_is_valid(remote->hostnqn))
        return vn_backend_fail(error, error_size, EINVAL, "a remote namespace needs the NQN of its subsystem and that "
                               "of this host, of up to %u characters", VN_NQN_MAX);
    if (!remote->nr_paths || remote->nr_paths > VN_REMOTE_MAX_PATHS)
        return vn_backend_fail(error, error_size, EINVAL, "a remote namespace has 1 to %u paths, not %u",
                               VN_REMOTE_MAX_PATHS, remote->nr_paths);
    *config = (struct vn_assoc_config){
        .nsid = remote->nsid,
        .nr_queues = vn_or_default(remote->nr_queues, 1),
        .entries = vn_or_default(remote->queue_entries, DEFAULT_ENTRIES),
        .hdgst = remote->flags & VN_REMOTE_HDGST,
        .ddgst = remote->flags & VN_REMOTE_DDGST,
        .kato_ms = vn_or_default(remote->kato_ms, DEFAULT_KATO_MS),
        .connect_ms = vn_or_default(remote->connect_ms, DEFAULT_CONNECT_MS),
    };
    config->io_timeout_ms =
        vn_or_default(remote->io_timeout_ms, (uint32_t)vn_max_u64(2ull * config->kato_ms, IO_TIMEOUT_MS_MIN));
    snprintf(config->subnqn, sizeof(config->subnqn), "%s", remote->subnqn);
    snprintf(config->hostnqn, sizeof(config->hostnqn), "%s", remote->hostnqn);
    memcpy(config->hostid, remote->hostid, sizeof(config->hostid));
    if (config->nr_queues > VN_ASSOC_MAX_QUEUES || config->entries < 2 || config->entries > VN_ASSOC_MAX_ENTRIES)
        return vn_backend_fail(error, error_size, EINVAL, "a remote namespace has 1 to %u queues of 2 to %u entries",
                               VN_ASSOC_MAX_QUEUES, VN_ASSOC_MAX_ENTRIES);
    if (config->kato_ms < KATO_MS_MIN || config->kato_ms > KATO_MS_MAX)
        return vn_backend_fail(error, error_size, EINVAL, "a keep-alive timeout of %u ms is not possible: take %u to %u",
                               config->kato_ms, KATO_MS_MIN, KATO_MS_MAX);
    return take_keys(remote, config, error, error_size);
}

int vn_remote_resolve(const struct vn_remote_path *path, struct sockaddr_storage *out, char *error,
                      uint32_t error_size) {
    char port[8];
    snprintf(port, sizeof(port), "%u", path->port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found;
    int err = getaddrinfo(path->host, port, &hints, &found);
    if (err)
        return vn_backend_fail(error, error_size, EADDRNOTAVAIL, "cannot find the address of %s: %s", path->host,
                               gai_strerror(err));
    memset(out, 0, sizeof(*out));
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return 0;
}

static void print_uuid(char out[37], const uint8_t uuid[16]) {
    char *at = out;
    for (int i = 0; i < 16; i++)
        at += sprintf(at, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
}

/* The UUID that the user expects. */
static int check_uuid(const struct vn_ns_opts *opts, const struct vn_assoc_facts *facts, char *error,
                      uint32_t error_size) {
    static const uint8_t none[16];
    if (!memcmp(opts->uuid, none, sizeof(none)) ||
        !memcmp(opts->uuid, facts->has_uuid ? facts->uuid : facts->nguid, sizeof(none)))
        return 0;
    char wanted[37], found[37];
    print_uuid(wanted, opts->uuid);
    print_uuid(found, facts->has_uuid ? facts->uuid : facts->nguid);
    return vn_backend_fail(error, error_size, ESTALE, "namespace %u of %s has the UUID %s, not %s: it is another one",
                           opts->remote->nsid, opts->remote->subnqn, found, wanted);
}

int vn_forward_look(const struct vn_ns_opts *opts, struct vn_forward *forward, char *error, uint32_t error_size) {
    const struct vn_remote_opts *remote = opts->remote;
    if (!remote || !remote->nsid || remote->nsid == VN_NSID_BROADCAST)
        return vn_backend_fail(error, error_size, EINVAL, "a remote namespace needs an id from 1 on");
    int err = vn_remote_config(remote, &forward->config, error, error_size);
    if (err)
        return err;
    forward->nr_paths = remote->nr_paths;
    forward->reconnect_ns = vn_or_default(remote->reconnect_ms, DEFAULT_RECONNECT_MS) * 1000000ull;
    for (uint32_t i = 0; i < remote->nr_paths && !err; i++)
        err = vn_remote_resolve(&remote->paths[i], &forward->addresses[i], error, error_size);
    if (err)
        return err;
    struct vn_assoc_config config = forward->config;
    config.nr_queues = 1;
    config.entries = LOOK_ENTRIES;
    struct vn_probe *probe = NULL;
    for (uint32_t i = 0; i < remote->nr_paths && !probe; i++)
        err = vn_remote_probe(remote, &config, &forward->addresses[i], &probe, error, error_size);
    forward->config.tls = config.tls; /* the copy's may have taken its place */
    if (err)
        return err;
    forward->facts = *vn_probe_facts(probe);
    vn_probe_close(probe);
    if (opts->block_size && opts->block_size != forward->facts.block_size)
        return vn_backend_fail(error, error_size, EINVAL, "namespace %u of %s has blocks of %u bytes, not %u",
                               remote->nsid, remote->subnqn, forward->facts.block_size, opts->block_size);
    if (opts->size && opts->size != forward->facts.nr_blocks * forward->facts.block_size)
        return vn_backend_fail(error, error_size, EINVAL, "namespace %u of %s has %" PRIu64 " bytes, not %" PRIu64,
                               remote->nsid, remote->subnqn, forward->facts.nr_blocks * forward->facts.block_size,
                               opts->size);
    return check_uuid(opts, &forward->facts, error, error_size);
}

/* By the strongest identifier that it had at open. */
static bool has_same_id(const struct vn_assoc_facts *before, const struct vn_assoc_facts *now) {
    if (before->has_uuid)
        return now->has_uuid && !memcmp(before->uuid, now->uuid, sizeof(now->uuid));
    if (before->has_nguid)
        return now->has_nguid && !memcmp(before->nguid, now->nguid, sizeof(now->nguid));
    if (before->has_eui64)
        return now->has_eui64 && !memcmp(before->eui64, now->eui64, sizeof(now->eui64));
    return !strcmp(before->serial, now->serial) && !strcmp(before->model, now->model);
}

void vn_forward_compare(const struct vn_forward *forward, const struct vn_assoc_facts *facts, char *wrong,
                        uint32_t wrong_bytes) {
    const struct vn_assoc_facts *before = &forward->facts;
    uint64_t nr_blocks = __atomic_load_n(&before->nr_blocks, __ATOMIC_ACQUIRE);
    if (!has_same_id(before, facts))
        snprintf(wrong, wrong_bytes, "it is another one, with another %s",
                 before->has_uuid    ? "UUID"
                 : before->has_nguid ? "NGUID"
                 : before->has_eui64 ? "EUI64"
                                     : "serial number");
    else if (facts->block_size != before->block_size)
        snprintf(wrong, wrong_bytes, "its blocks have %u bytes now, not %u", facts->block_size, before->block_size);
    else if (facts->nr_blocks < nr_blocks)
        snprintf(wrong, wrong_bytes, "it has shrunk from %" PRIu64 " to %" PRIu64 " blocks", nr_blocks, facts->nr_blocks);
    else if (facts->volatile_cache && !before->volatile_cache)
        snprintf(wrong, wrong_bytes, "it has got a volatile write cache, which it had not before");
    else if (forward->backend.deallocates && !facts->deallocate)
        snprintf(wrong, wrong_bytes, "it does not deallocate any more");
    else if (!forward->backend.deallocated_stays && !facts->reads_zeros)
        snprintf(wrong, wrong_bytes, "what is deallocated does not read as zeros any more");
}
