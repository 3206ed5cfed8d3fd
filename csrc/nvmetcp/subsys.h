/* Subsystems of a target: what hosts connect to. Each has one channel for each of its namespaces, which all its
 * controllers share: so a host comes and goes without the control thread.
 * Owner: the target's reactor; the functions are called on it unless they say otherwise.
 */
#ifndef VN_NVMETCP_SUBSYS_H
#define VN_NVMETCP_SUBSYS_H

#include "nvmetcp/auth.h"
#include "nvmetcp/target.h"
#include "nvmetcp/tls.h"

/* A host that may connect. */
struct vn_host_entry {
    char nqn[VN_NQN_MAX + 1];
    bool sees_all;
    bool sees[VN_MAX_NAMESPACES + 1]; /* by NSID */
    struct vn_auth_key host_key, ctrl_key; /* for DH-HMAC-CHAP; 0 bytes: none */
    struct vn_tls_psk *psks;               /* what it may come with by TLS */
    uint32_t nr_psks;
    struct vn_host_entry *next;
};

struct vn_subsys {
    struct vn_target *target;
    char nqn[VN_NQN_MAX + 1], serial[21], model[41];
    uint8_t kind; /* VN_CNTRLTYPE_* */
    bool any_host, ending;
    uint32_t max_queues, max_entries;
    struct vn_ns_chan *chans[VN_MAX_NAMESPACES + 1]; /* by NSID */
    uint8_t ana_group[VN_MAX_NAMESPACES + 1];
    struct vn_ana ana[VN_MAX_LISTENERS + 1]; /* by listener */
    struct vn_host_entry *hosts;
    uint32_t nr_hosts;
    struct vn_subsys *next;
};

/* Control thread. */
int vn_subsys_new(struct vn_target *target, const struct vn_subsys_opts *opts, uint8_t kind, struct vn_subsys **out);
void vn_subsys_free(struct vn_subsys *subsys);
/* For the subsystem of that name. -ENOMEM; -EINVAL: no key can be made of these names and keys. */
int vn_host_entry_new(const struct vn_allow_opts *opts, const char *subnqn, struct vn_host_entry **out);
void vn_host_entry_free(struct vn_host_entry *entry);

int vn_subsys_enter(struct vn_subsys *subsys); /* into its target; -EEXIST, -ENOSPC */
/* Ends its controllers; 0: it is out of the target; -EAGAIN: not yet; -EBUSY: commands are stuck. */
int vn_subsys_leave(struct vn_subsys *subsys);
struct vn_subsys *vn_subsys_find(struct vn_target *target, const char *nqn);
/* The entry of a host, NULL: none. */
const struct vn_host_entry *vn_subsys_host(const struct vn_subsys *subsys, const char *hostnqn);
bool vn_subsys_admits(const struct vn_subsys *subsys, const char *hostnqn);
/* *old: to be freed by the control thread. -ENOSPC: of hosts, -EDQUOT: of TLS keys. */
int vn_subsys_put_host(struct vn_subsys *subsys, struct vn_host_entry *entry, struct vn_host_entry **old);
struct vn_host_entry *vn_subsys_take_host(struct vn_subsys *subsys, const char *hostnqn);

int vn_subsys_open_ns(struct vn_subsys *subsys, struct vn_ns *ns, uint32_t nsid, uint8_t group, struct vn_ns_chan **out);
/* 0: *out is closed, and the control thread's to drop and free; -EAGAIN: commands are in flight; -ENOENT. */
int vn_subsys_close_ns(struct vn_subsys *subsys, uint32_t nsid, struct vn_ns_chan **out);
/* The namespaces that a new controller's host may see. */
void vn_subsys_fill(const struct vn_subsys *subsys, struct vn_tctrl *ctrl);
/* An id may have been another listener's: it begins with what holds for all. */
void vn_subsys_new_listener(struct vn_target *target, uint32_t listener);
/* listener 0: all. */
void vn_subsys_set_state(struct vn_subsys *subsys, uint32_t listener, uint32_t group, enum vn_ana_state state);

#endif
