/* The fabric in the public header: targets that others connect to, and remote namespaces. Part of vhostnvme.h, whose
 * contract holds here. Strings are UTF-8, end with zero, and are copied.
 */
#ifndef VHOSTNVME_FABRIC_H
#define VHOSTNVME_FABRIC_H

#include <stdint.h>

typedef struct vn_target vn_target; /* listeners, subsystems and connections, all on one reactor */
typedef struct vn_subsys vn_subsys;

#define VN_MAX_LISTENERS 16    /* of one target */
#define VN_MAX_SUBSYSTEMS 1024 /* of one target */
#define VN_MAX_HOSTS 1024      /* allowed in one subsystem */
#define VN_MAX_REFERRALS 16

struct vn_target_opts {
    uint32_t reactor;
    uint32_t max_connections; /* 0: 1024 */
    uint32_t max_half_open;   /* connections without a Connect; one more, and the oldest goes; 0: 64 */
    uint32_t max_ctrls;       /* 0: 256 */
    uint32_t handshake_ms;    /* a connection has so long until its Connect; 0: 5000 */
};
int vn_target_create(vn_runtime *rt, const struct vn_target_opts *opts, vn_target **out);
/* Of the same count as vn_ctrl_id: a target's events carry it in ctrl. */
uint64_t vn_target_id(const vn_target *target);
/* Stops listening, ends connections, drains for at most 4 s, frees; the end is told by VN_EVENT_TARGET_DESTROYED. Its
 * subsystems go with it. */
int vn_target_destroy(vn_target *target);

#define VN_LISTEN_TLS 1u /* TLS with a pre-shared key of an allowed host is required */
struct vn_listen_opts {
    const char *host; /* a numeric IPv4 or IPv6 address */
    uint16_t port;    /* 0: any */
    uint16_t pad;
    uint32_t flags; /* VN_LISTEN_* */
};
/* id: for vn_target_unlisten and vn_subsys_set_ana; at least 1. port: what it has got. */
int vn_target_listen(vn_target *target, const struct vn_listen_opts *opts, uint32_t *id, uint16_t *port);
/* Takes no more connections there; those that are go on. */
int vn_target_unlisten(vn_target *target, uint32_t id);
/* Another discovery service that hosts are told of. */
struct vn_referral_opts {
    const char *host; /* numeric */
    uint16_t port;
    uint16_t pad;
    uint32_t flags; /* VN_LISTEN_* of the other end */
};
int vn_target_add_referral(vn_target *target, const struct vn_referral_opts *opts);
int vn_target_remove_referral(vn_target *target, const char *host, uint16_t port);

#define VN_SUBSYS_ANY_HOST 1u /* no list of hosts: whoever comes is let in */
struct vn_subsys_opts {
    const char *nqn;
    const char *serial;   /* up to 20 characters */
    const char *model;    /* up to 40; NULL: "vhostnvme" */
    uint32_t flags;       /* VN_SUBSYS_* */
    uint32_t max_queues;  /* I/O queues of one controller, up to 128; 0: 128 */
    uint32_t max_entries; /* of a queue, up to 4096; 0: 1024 */
    uint32_t pad;
};
int vn_target_add_subsys(vn_target *target, const struct vn_subsys_opts *opts, vn_subsys **out);
int vn_subsys_remove(vn_subsys *subsys); /* ends its controllers first */
#define VN_ANA_GROUPS_MAX 32
int vn_subsys_add_ns(vn_subsys *subsys, vn_ns *ns, uint32_t nsid, uint32_t ana_group /* 1 to 32; 0: 1 */);
/* The fence. No new command finds the namespace from the first call on. 0: of the commands of all hosts of this subsystem,
 * those that are denied, gone or given up too, none for this namespace is in its backend any more, and none of them will
 * ever reach it; whoever is let in next is alone there. -EBUSY: some are, and wait_ms have passed: to be repeated, nothing
 * is taken back meanwhile. wait_ms 0: it does not wait. What a target of a "forward" namespace may still hold is not waited
 * for here: the forwarder's own writes are (docs/decisions/0010-no-ghost-writes.md). */
int vn_subsys_remove_ns(vn_subsys *subsys, uint32_t nsid, uint32_t wait_ms);

/* A host that may connect. Keys are the raw secrets, not their text form; NULL: none needed. */
struct vn_allow_opts {
    const char *hostnqn;
    const uint32_t *nsids; /* the namespaces that it sees */
    uint32_t nr_nsids;     /* 0: all */
    uint32_t dhchap_key_bytes;
    const uint8_t *dhchap_key; /* the host proves that it knows this: 32, 48 or 64 bytes */
    const uint8_t *dhchap_ctrl_key; /* we prove to it that we know this */
    uint32_t dhchap_ctrl_key_bytes;
    uint32_t dhchap_hash, dhchap_ctrl_hash; /* of the transformation: 0: none, 1: SHA-256, 2: SHA-384, 3: SHA-512 */
    uint32_t tls_key_bytes;
    const uint8_t *tls_key; /* configured PSK: 32 or 48 bytes */
    uint32_t tls_hash;      /* 0: used as it is, 1: SHA-256, 2: SHA-384 */
    uint32_t pad;
};
/* Takes the place of an earlier entry. Controllers of that host that are there go on as they are. */
int vn_subsys_allow_host(vn_subsys *subsys, const struct vn_allow_opts *opts);
int vn_subsys_deny_host(vn_subsys *subsys, const char *hostnqn); /* its controllers end */
/* state: of asymmetric namespace access: 1 optimized, 2 non-optimized, 3 inaccessible, 4 persistent loss, 15 change. */
int vn_subsys_set_ana(vn_subsys *subsys, uint32_t listener /* 0: all */, uint32_t ana_group, uint32_t state);

struct vn_target_info {
    uint64_t id;
    uint32_t connections, half_open, controllers, listeners; /* now */
    uint64_t commands, errors; /* of all controllers, those that have gone too */
    uint64_t accepted, refused; /* connections */
    uint64_t read_bytes, write_bytes;
    uint64_t resident_bytes_max; /* what its connections can take of memory, as they are now */
};
int vn_target_get_info(vn_target *target, struct vn_target_info *out);
struct vn_target_host { /* a controller, and whose it is */
    char hostnqn[224];
    char subnqn[224];
    char address[64]; /* HOST:PORT of the admin connection */
    uint32_t cntlid;
    uint32_t nr_queues; /* I/O queues */
    uint32_t tls, authenticated; /* 1: yes */
    uint64_t commands;
    uint64_t connected_s; /* for so long */
};
/* Up to max of them into buf; answers how many there are. */
int vn_target_get_hosts(vn_target *target, struct vn_target_host *buf, uint32_t max);

/* --- A namespace elsewhere: vn_ns_opts.backend = "forward", vn_ns_opts.remote = this --- */
/* vn_ns_open (vn_ns_make) connects once, looks at it and disconnects: so it blocks, for connect_ms a path at most, and longer
 * where a host name has to be found out. Each controller that it is attached to then has connections of its own. */
#define VN_REMOTE_MAX_PATHS 8
#define VN_REMOTE_HDGST 1u /* header digests */
#define VN_REMOTE_DDGST 2u /* data digests */
#define VN_REMOTE_TLS 4u
struct vn_remote_path {
    const char *host; /* an address or a name */
    uint16_t port;
    uint16_t pad;
    uint32_t pad2;
};
struct vn_remote_opts {
    struct vn_remote_path paths[8]; /* VN_REMOTE_MAX_PATHS; all lead to one NVM subsystem */
    uint32_t nr_paths;
    uint32_t nsid;
    const char *subnqn;
    const char *hostnqn;
    uint8_t hostid[16];
    uint32_t nr_queues;     /* I/O queues of one controller here, 1 to 16; 0: 1 */
    uint32_t queue_entries; /* 2 to 1024; 0: 128 */
    uint32_t flags;         /* VN_REMOTE_* */
    uint32_t kato_ms;       /* silent for so long: lost; 100 to 3600000; 0: 5000 */
    uint32_t reconnect_ms;  /* commands wait so long for a way, then fail; 0: 30000 */
    uint32_t connect_ms;    /* one attempt; 0: 3000 */
    uint32_t io_timeout_ms; /* a command without answer for so long: lost; 0: twice kato_ms, but at least 10000 */
    /* Keys as in vn_allow_opts: we prove that we know the first, the target that it knows the second. */
    uint32_t dhchap_key_bytes;
    const uint8_t *dhchap_key;
    const uint8_t *dhchap_ctrl_key;
    uint32_t dhchap_ctrl_key_bytes;
    uint32_t dhchap_hash, dhchap_ctrl_hash;
    uint32_t tls_key_bytes;
    const uint8_t *tls_key; /* given: TLS, and nothing else */
    uint32_t tls_hash;
    uint32_t pad;
};
/* Admin commands to the controller at the first path, on a connection that is made for them and ends with them; nsid is
 * not looked at. Blocks, for connect_ms and, if the target falls silent, kato_ms more. */
struct vn_remote_cmd {
    uint8_t sqe[64]; /* without CID and data pointer */
    void *buf;       /* data from the controller */
    uint32_t bytes;  /* up to 1 MiB */
    uint32_t result; /* out: CQE dword 0 */
    uint32_t status; /* out: 0, or type << 8 | code */
    uint32_t pad;
};
int vn_remote_admin(const struct vn_remote_opts *opts, struct vn_remote_cmd *cmds, uint32_t nr);

#endif
