/* Socket addresses of IPv4 and IPv6. Called by the target, by the forwarder's host and by streams. */
#include "nvmetcp/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>

static const struct sockaddr_in *v4_of(const struct sockaddr_storage *address) {
    return (const struct sockaddr_in *)address;
}

static const struct sockaddr_in6 *v6_of(const struct sockaddr_storage *address) {
    return (const struct sockaddr_in6 *)address;
}

int vn_address_parse(const char *host, uint16_t port, struct sockaddr_storage *out) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return 0;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        return 0;
    }
    return -EINVAL;
}

void vn_address_print_host(const struct sockaddr_storage *address, char *out, size_t bytes) {
    snprintf(out, bytes, "?");
    if (address->ss_family == AF_INET6)
        inet_ntop(AF_INET6, &v6_of(address)->sin6_addr, out, (socklen_t)bytes);
    else if (address->ss_family == AF_INET) /* else a test's socket pair */
        inet_ntop(AF_INET, &v4_of(address)->sin_addr, out, (socklen_t)bytes);
}

void vn_address_print(const struct sockaddr_storage *address, char *out, size_t bytes) {
    char host[INET6_ADDRSTRLEN];
    vn_address_print_host(address, host, sizeof(host));
    snprintf(out, bytes, address->ss_family == AF_INET6 ? "[%s]:%u" : "%s:%u", host, vn_address_port(address));
}

uint16_t vn_address_port(const struct sockaddr_storage *address) {
    return ntohs(address->ss_family == AF_INET6 ? v6_of(address)->sin6_port : v4_of(address)->sin_port);
}

socklen_t vn_address_bytes(const struct sockaddr_storage *address) {
    return address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

bool vn_address_is_same(const struct sockaddr_storage *a, const struct sockaddr_storage *b) {
    if (a->ss_family != b->ss_family || vn_address_port(a) != vn_address_port(b))
        return false;
    if (a->ss_family == AF_INET6)
        return IN6_ARE_ADDR_EQUAL(&v6_of(a)->sin6_addr, &v6_of(b)->sin6_addr);
    return v4_of(a)->sin_addr.s_addr == v4_of(b)->sin_addr.s_addr;
}
