/* What both roles of DH-HMAC-CHAP work out: hashes, the groups, responses. Pure, but for random numbers.
 * Called by auth_target.c and auth_host.c only.
 */
#ifndef VN_NVMETCP_AUTH_MATH_H
#define VN_NVMETCP_AUTH_MATH_H

#include "nvmetcp/auth.h"

uint32_t vn_auth_hash_bytes(uint32_t hash);   /* 0: no such */
uint32_t vn_auth_group_bytes(uint32_t group); /* of a DH value; 0: the null group, or no such */
bool vn_auth_group_known(uint32_t group);
bool vn_auth_random(void *out, uint32_t bytes);
uint32_t vn_auth_sequence(void); /* a random one, not 0 */

/* With the null group these do nothing, well. */
bool vn_auth_dh_make(struct vn_auth *auth);                        /* a new exponent of auth->group */
bool vn_auth_dh_value(const struct vn_auth *auth, uint8_t *value); /* its public value: vn_auth_group_bytes */
/* With the peer's value, makes auth->ks. False: the value is not one of the group, or it is our own. */
bool vn_auth_dh_finish(struct vn_auth *auth, const uint8_t *value, uint32_t bytes);

/* R1, what the host answers to C1; and R2, what the controller answers to C2. out holds VN_AUTH_HASH_BYTES_MAX. */
bool vn_auth_response1(const struct vn_auth *auth, uint8_t *out);
bool vn_auth_response2(const struct vn_auth *auth, uint8_t *out);
bool vn_auth_same(const uint8_t *a, const uint8_t *b, uint32_t bytes); /* in constant time */

void vn_auth_refuse(struct vn_auth *auth, enum vn_auth_state state, enum vn_auth_reason reason);
void vn_auth_wipe(struct vn_auth *auth); /* all of one transaction, not the keys */
void vn_auth_head_fill(const struct vn_auth *auth, struct vn_auth_head *head, enum vn_auth_type type, enum vn_auth_id id);

#endif
