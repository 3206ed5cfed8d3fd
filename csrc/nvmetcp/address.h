/* Socket addresses of either family, and the names of hosts and subsystems: what both ends, listeners and streams do with
 * them. No state; any thread.
 */
#ifndef VN_NVMETCP_ADDRESS_H
#define VN_NVMETCP_ADDRESS_H

#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "core/fabrics.h"

#define VN_ADDRESS_TEXT_BYTES 64u /* of HOST:PORT or [HOST]:PORT, with its end */

/* A numeric address; -EINVAL: it is none. */
int vn_address_parse(const char *host, uint16_t port, struct sockaddr_storage *out);
void vn_address_print(const struct sockaddr_storage *address, char *out, size_t bytes);      /* HOST:PORT */
void vn_address_print_host(const struct sockaddr_storage *address, char *out, size_t bytes); /* without brackets */
uint16_t vn_address_port(const struct sockaddr_storage *address);
socklen_t vn_address_bytes(const struct sockaddr_storage *address); /* as bind and connect want it */
bool vn_address_is_same(const struct sockaddr_storage *a, const struct sockaddr_storage *b);

/* Whether it has the length of an NQN; NULL has not. It may be a field of 256 bytes without an end. */
static inline bool vn_nqn_is_valid(const char *nqn) {
    size_t n = nqn ? strnlen(nqn, VN_NQN_MAX + 1) : 0;
    return n > 0 && n <= VN_NQN_MAX;
}

#endif
