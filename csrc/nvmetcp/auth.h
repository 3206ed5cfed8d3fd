/* DH-HMAC-CHAP (NVMe Base 8.13.5): both roles as state machines without sockets or commands: messages in, messages out, a verdict.
 * One struct vn_auth for a queue. Called by the target for Authentication Send and Receive, and by the host in between.
 *
 * Two of its steps cost an exponentiation each on the reactor: with ffdhe2048 or 3072 one or two milliseconds, with ffdhe8192
 * twenty. So the target prefers the small groups, whatever the order in which a host offers them.
 */
#ifndef VN_NVMETCP_AUTH_H
#define VN_NVMETCP_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nvmetcp/auth_wire.h"

#define VN_AUTH_HASH_BYTES_MAX 64u
#define VN_AUTH_DH_BYTES_MAX 1024u
#define VN_AUTH_MESSAGE_MAX 4096u /* bytes of one message, either way; ours have at most 1168 */
#define VN_AUTH_ALL 0xffffffffu

/* A secret, transformed: bound to the NQN of whom it is for. */
struct vn_auth_key {
    uint8_t secret[VN_AUTH_HASH_BYTES_MAX];
    uint32_t bytes; /* 0: none */
};

/* secret, hash: as DHHC-1:HASH:BASE64: has them: 32, 48 or 64 bytes, hash 0 (used as it is) to 3. nqn: whose secret it is: the
 * host's NQN for the host's key, the subsystem's for the controller's. -EINVAL: no such hash or length. */
int vn_auth_key_make(const uint8_t *secret, uint32_t bytes, uint32_t hash, const char *nqn, struct vn_auth_key *out);

struct vn_auth_opts {
    const char *hostnqn, *subnqn; /* copied; at most 223 characters */
    const struct vn_auth_key *host_key;
    const struct vn_auth_key *ctrl_key; /* NULL: the controller proves nothing */
    uint32_t hashes, groups; /* what we take: 1 << identifier; 0: all */
    uint16_t t_id; /* host: of this transaction, another on each of a connection */
};

enum vn_auth_verdict {
    VN_AUTH_RUNNING,
    VN_AUTH_PROVED,  /* the peer has proved itself as far as we ask it to; host: and has accepted us */
    VN_AUTH_REFUSED, /* vn_auth_words says why: the connection has to end */
};
enum vn_auth_state { /* whose turn it is, and with what: as the target sees it */
    VN_AUTH_WAIT_NEGOTIATE,
    VN_AUTH_GIVE_CHALLENGE,
    VN_AUTH_WAIT_REPLY,
    VN_AUTH_GIVE_SUCCESS1,
    VN_AUTH_WAIT_SUCCESS2,
    VN_AUTH_GIVE_FAILURE1,
    VN_AUTH_WAIT_FAILURE2,
    VN_AUTH_END,
};

struct vn_auth {
    enum vn_auth_state state;
    enum vn_auth_verdict verdict;
    enum vn_auth_reason reason; /* of a refusal */
    bool by_peer;               /* it was the peer that refused */
    char hostnqn[224], subnqn[224];
    struct vn_auth_key host_key, ctrl_key;
    uint32_t hashes, groups;
    uint16_t t_id;
    uint8_t hash, group;
    uint32_t s1, s2;
    bool both; /* C2 is to be answered */
    uint8_t c1[VN_AUTH_HASH_BYTES_MAX], c2[VN_AUTH_HASH_BYTES_MAX];
    uint8_t ks[VN_AUTH_HASH_BYTES_MAX]; /* the hash of the shared secret; not with the null group */
    struct evp_pkey_st *dh;             /* our exponent */
};

/* Either role; auth is not initialised. -EINVAL: keys or NQNs that cannot be. */
int vn_auth_init(struct vn_auth *auth, const struct vn_auth_opts *opts);
void vn_auth_fini(struct vn_auth *auth); /* wipes it; also of one that is all zeros */
/* Why it was refused, for a person. */
const char *vn_auth_words(const struct vn_auth *auth);

/* --- The target: whatever comes and goes by commands. --- */

/* The data of an Authentication Send. False: out of turn in a way that needs no message (the command is refused). */
bool vn_auth_target_take(struct vn_auth *auth, const void *message, uint32_t bytes);
/* What an Authentication Receive gets: room bytes of out are written, zeros behind the message. False: it is not our turn, or the
 * message does not fit (then the turn stays ours). */
bool vn_auth_target_give(struct vn_auth *auth, void *out, uint32_t room);

/* --- The host: asks what to do, and does it. --- */

enum vn_auth_next { VN_AUTH_SEND, VN_AUTH_RECEIVE, VN_AUTH_FINISHED };

enum vn_auth_next vn_auth_host_next(const struct vn_auth *auth);
/* The message to send, after VN_AUTH_SEND; its bytes. out holds VN_AUTH_MESSAGE_MAX. */
uint32_t vn_auth_host_give(struct vn_auth *auth, void *out);
/* What has been received, after VN_AUTH_RECEIVE. bytes may be more than the message has. */
void vn_auth_host_take(struct vn_auth *auth, const void *message, uint32_t bytes);

#endif
