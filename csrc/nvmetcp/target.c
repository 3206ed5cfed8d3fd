/* A target's life. Called by api_fabric.c. */
#include "nvmetcp/target.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_CONNECTIONS 1024u
#define MAX_HALF_OPEN 64u
#define MAX_CTRLS 256u
#define HANDSHAKE_MS 5000u

static uint32_t or_default(uint32_t value, uint32_t by_default) {
    return value ? value : by_default;
}

int vn_target_new(const struct vn_target_opts *opts, struct vn_reactor *reactor, struct vn_event_queue *events,
                  uint64_t id, struct vn_target **out) {
    struct vn_target *target = calloc(1, sizeof(*target));
    if (!target)
        return -ENOMEM;
    target->id = id;
    target->reactor = reactor;
    target->events = events;
    target->opts = (struct vn_target_opts){
        .reactor = opts->reactor,
        .max_connections = or_default(opts->max_connections, MAX_CONNECTIONS),
        .max_half_open = or_default(opts->max_half_open, MAX_HALF_OPEN),
        .max_ctrls = or_default(opts->max_ctrls, MAX_CTRLS),
        .handshake_ms = or_default(opts->handshake_ms, HANDSHAKE_MS),
    };
    *out = target;
    return 0;
}

void vn_target_free(struct vn_target *target) {
    free(target);
}
