/* What a load over NVMe/TCP needs of the initiator, in plain terms. Implemented beside the forwarder, over whose channel
 * it goes (backend/forward_perf.c); called by perf_remote.c and perf.c. This is all that the two rooms know of each other.
 */
#ifndef VN_HOST_PERF_BRIDGE_H
#define VN_HOST_PERF_BRIDGE_H

#include <stdbool.h>
#include <stdint.h>

struct vn_perf_bridge; /* a namespace elsewhere */
struct vn_remote_opts;

struct vn_perf_bridge_opts {
    const struct vn_remote_opts *remote;
    uint32_t nr_tags; /* commands in flight at most */
    uint32_t number;  /* for done */
    /* Command `tag` has ended with this status (type and code, 0: success). Reactor. */
    void (*done)(void *owner, uint32_t number, uint32_t tag, uint16_t status);
    void *owner;
};
struct vn_perf_bridge_facts {
    uint64_t bytes;       /* size of the namespace */
    uint32_t block_bytes; /* logical block */
};

/* Looks at the namespace; blocks for a bounded time. -errno, and error holds a sentence. */
int vn_perf_bridge_open(const struct vn_perf_bridge_opts *opts, struct vn_perf_bridge **out,
                        struct vn_perf_bridge_facts *facts, char *error, uint32_t error_size);
/* Connects them all on a reactor of their own, runs fn(arg) there, and disconnects. Answers what fn does; -errno with a
 * sentence when it did not come to that. */
int vn_perf_bridge_run(struct vn_perf_bridge *const *bridges, uint32_t nr, int (*fn)(void *arg), void *arg, char *error,
                       uint32_t error_size);
void vn_perf_bridge_close(struct vn_perf_bridge *bridge); /* NULL is fine */

/* Within fn: one command, which ends in done, and a turn of the reactor, in which things move. */
void vn_perf_bridge_send(struct vn_perf_bridge *bridge, uint32_t tag, bool is_write, uint64_t offset, void *data,
                         uint32_t bytes);
void vn_perf_bridge_turn(struct vn_perf_bridge *const *bridges, uint32_t nr);

#endif
