/* Which namespace a controller has under which NSID. Owner: the controller's reactor. */
#ifndef VN_NS_TABLE_H
#define VN_NS_TABLE_H

#include "ns/ns.h"

struct vn_ns_table {
    struct vn_ns_chan *by_nsid[VN_MAX_NAMESPACES + 1]; /* [0] is never used */
    uint32_t count;
};

/* The namespace, or NULL when nsid is out of range, not attached or going. */
static inline struct vn_ns_chan *vn_ns_table_get(const struct vn_ns_table *table, uint32_t nsid) {
    struct vn_ns_chan *nsc = nsid <= VN_MAX_NAMESPACES ? table->by_nsid[nsid] : NULL;
    return nsc && !nsc->closing ? nsc : NULL;
}

/* -EEXIST: the NSID is taken. */
int vn_ns_table_add(struct vn_ns_table *table, struct vn_ns_chan *nsc);
void vn_ns_table_remove(struct vn_ns_table *table, uint32_t nsid);
/* The next attached NSID above nsid, 0 when there is none. */
uint32_t vn_ns_table_next(const struct vn_ns_table *table, uint32_t nsid);
/* What waits for tokens, of namespaces that are going too: ends what is cancelled; lets all go on. */
void vn_ns_table_end_cancelled(const struct vn_ns_table *table);
void vn_ns_table_release(const struct vn_ns_table *table);
/* The controller's limits have changed. */
void vn_ns_table_limits_changed(const struct vn_ns_table *table);

#endif
