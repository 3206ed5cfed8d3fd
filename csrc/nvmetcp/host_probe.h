/* An association for a moment, on a reactor of its own, for the control thread: to look at a namespace before it is used,
 * and to ask a few admin commands. Every call blocks, within the bounds of its configuration.
 */
#ifndef VN_NVMETCP_HOST_PROBE_H
#define VN_NVMETCP_HOST_PROBE_H

#include "nvmetcp/host.h"

struct vn_probe;

/* READY, or -errno and a sentence in why. config outlives it. */
int vn_probe_open(const struct vn_assoc_config *config, const struct sockaddr_storage *address, struct vn_probe **out,
                  char *why, uint32_t why_bytes);
const struct vn_assoc_facts *vn_probe_facts(const struct vn_probe *probe);
/* buf: bytes of data from the controller, at most VN_ASSOC_TRANSFER_MAX; CID and data pointer are put in. -errno: no answer. */
int vn_probe_admin(struct vn_probe *probe, const struct vn_sqe *sqe, void *buf, uint32_t bytes, vn_status *status,
                   uint32_t *result);
void vn_probe_close(struct vn_probe *probe);

#endif
