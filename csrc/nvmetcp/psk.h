/* The TLS keys of NVMe/TCP (TCP 3.6.1): from a configured key to what TLS is given, for one pair of NQNs. Pure.
 * Called by the target for each host that it allows, by the host for its one target; control thread.
 */
#ifndef VN_NVMETCP_PSK_H
#define VN_NVMETCP_PSK_H

#include <stdint.h>

#include "nvmetcp/tls.h"

#define VN_PSK_VERSIONS 3u

/* key, hash: as NVMeTLSkey-1:HASH:BASE64: has them: 32 bytes (hash 0 or 1) or 48 (hash 0 or 2). hash 0: the key is used as it
 * is, else it is bound to the host's NQN first. version: of the identity, 0 or 1; 1 carries a digest of the key. 2: an
 * identity of version 1 as libnvme before 1.16 derives it (Debian 13 has 1.13), with labels that are not those of TLS:
 * hosts and targets with such a keyring know no other. With hash 0 it is the same identity as 1, and another key.
 * -EINVAL: no such hash, version, or length; an NQN that is empty, too long, or has a space in it. */
int vn_psk_derive(const uint8_t *key, uint32_t bytes, uint32_t hash, uint32_t version, const char *hostnqn,
                  const char *subnqn, struct vn_tls_psk *out);

#endif
