/* Which namespace a controller has under which NSID. Used by the controller and by api.c. */
#include "ns/ns_table.h"

#include <errno.h>

int vn_ns_table_add(struct vn_ns_table *table, struct vn_ns_chan *nsc) {
    if (nsc->nsid == 0 || nsc->nsid > VN_MAX_NAMESPACES)
        return -EINVAL;
    if (table->by_nsid[nsc->nsid])
        return -EEXIST;
    table->by_nsid[nsc->nsid] = nsc;
    table->count++;
    return 0;
}

void vn_ns_table_remove(struct vn_ns_table *table, uint32_t nsid) {
    if (table->by_nsid[nsid]) {
        table->by_nsid[nsid] = NULL;
        table->count--;
    }
}

uint32_t vn_ns_table_next(const struct vn_ns_table *table, uint32_t nsid) {
    while (nsid < VN_MAX_NAMESPACES) {
        if (vn_ns_table_get(table, ++nsid))
            return nsid;
    }
    return 0;
}

void vn_ns_table_end_cancelled(const struct vn_ns_table *table) {
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        struct vn_ns_chan *nsc = table->by_nsid[nsid];
        if (nsc && nsc->throttle.nr_waiting)
            vn_throttle_end_cancelled(&nsc->throttle);
    }
}

void vn_ns_table_release(const struct vn_ns_table *table) {
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        struct vn_ns_chan *nsc = table->by_nsid[nsid];
        if (nsc && nsc->throttle.nr_waiting)
            vn_throttle_release(&nsc->throttle, NULL);
    }
}

void vn_ns_table_limits_changed(const struct vn_ns_table *table) {
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        if (table->by_nsid[nsid])
            vn_ns_chan_limit(table->by_nsid[nsid], NULL);
    }
}
