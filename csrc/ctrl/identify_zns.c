/* What controllers and zoned namespaces say of zones (Zoned Namespace Command Set 4.1): Identify with CSI 02h, the log page of
 * changed zones, and its event. Called by identify.c, log_page.c and zone_cmd.c.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/log.h"
#include "ctrl/zone_cmd.h"
#include "ns/ns_state.h"

static uint32_t zero_based(uint32_t max) {
    return max ? max - 1 : UINT32_MAX; /* none: FFFFFFFFh */
}

static void identify_ns(const struct vn_ns *ns, struct vn_id_ns_zns *id) {
    const struct vn_zone_geometry *geometry = &ns->zoned->zones.geometry;
    id->zoc = 0; /* zones and their capacities stay as they are */
    id->ozcs = VN_OZCS_RAZB;
    id->mar = zero_based(geometry->max_active);
    id->mor = zero_based(geometry->max_open);
    id->rrl = id->frl = 0; /* nothing becomes due by time */
    struct vn_zone_lbafe *lbafe = &id->lbafe[vn_ns_format(ns).index];
    lbafe->zsze = 1ull << geometry->shift;
    lbafe->zdes = (uint8_t)(geometry->extension_bytes / VN_ZONE_EXTENSION_BYTES);
}

uint32_t vn_zone_append_limit(const struct vn_ctrl *ctrl, const struct vn_ns *ns) {
    uint32_t max = vn_ctrl_max_transfer(ctrl);
    uint64_t own = ns->zoned->append_bytes;
    return own ? (uint32_t)vn_min_u64(own, max) : max;
}

bool vn_ctrl_has_zones(const struct vn_ctrl *ctrl) {
    for (uint32_t nsid = 0; (nsid = vn_ns_table_next(&ctrl->namespaces, nsid));) {
        if (ctrl->namespaces.by_nsid[nsid]->ns->zoned)
            return true;
    }
    return false;
}

/* ZASL is of the controller: the least that one of its namespaces takes. 0: as MDTS. */
static uint8_t zasl(const struct vn_ctrl *ctrl) {
    uint32_t least = vn_ctrl_max_transfer(ctrl);
    for (uint32_t nsid = 0; (nsid = vn_ns_table_next(&ctrl->namespaces, nsid));) {
        const struct vn_ns *ns = ctrl->namespaces.by_nsid[nsid]->ns;
        if (ns->zoned)
            least = (uint32_t)vn_min_u64(least, vn_zone_append_limit(ctrl, ns));
    }
    if (least == vn_ctrl_max_transfer(ctrl))
        return 0;
    return (uint8_t)(__builtin_ctz(least) - VN_PAGE_SHIFT);
}

static const struct vn_ns *zoned_space(const struct vn_ctrl *ctrl, uint32_t nsid, bool allocated) {
    const struct vn_ns_chan *nsc = vn_ns_table_get(&ctrl->namespaces, nsid);
    const struct vn_ns *ns = nsc ? nsc->ns : NULL;
    if (allocated && nsid <= VN_MAX_NAMESPACES)
        ns = ctrl->drive->spaces[nsid];
    return ns && ns->zoned ? ns : NULL;
}

static void list_namespaces(const struct vn_ctrl *ctrl, uint32_t after, bool allocated, uint32_t *list) {
    size_t n = 0;
    for (uint32_t nsid = after + 1; nsid <= VN_MAX_NAMESPACES && n < VN_PAGE_SIZE / sizeof(*list); nsid++) {
        if (zoned_space(ctrl, nsid, allocated))
            list[n++] = nsid;
    }
}

vn_status vn_identify_zns(struct vn_req *req, uint8_t cns) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint32_t nsid = req->cmd.nsid;
    const struct vn_ns *ns;
    switch (cns) {
    case VN_CNS_IOCS_CTRL:
        ((struct vn_id_ctrl_zns *)ctrl->page)->zasl = zasl(ctrl);
        return VN_SC_SUCCESS;
    case VN_CNS_IOCS_NS:
    case VN_CNS_IOCS_ALLOCATED_NS:
        if (nsid == VN_NSID_BROADCAST) /* what all have in common: nothing */
            return VN_SC_SUCCESS;
        if (nsid == 0 || nsid > VN_MAX_NAMESPACES)
            return VN_SC_INVALID_NS;
        ns = zoned_space(ctrl, nsid, cns == VN_CNS_IOCS_ALLOCATED_NS);
        if (ns)
            identify_ns(ns, (struct vn_id_ns_zns *)ctrl->page);
        else if (vn_ns_table_get(&ctrl->namespaces, nsid)) /* it is of another command set */
            return VN_SC_INVALID_FIELD;
        return VN_SC_SUCCESS;
    case VN_CNS_IOCS_ACTIVE_NS_LIST:
    case VN_CNS_IOCS_ALLOCATED_NS_LIST:
        if (nsid >= 0xfffffffe)
            return VN_SC_INVALID_NS;
        list_namespaces(ctrl, nsid, cns == VN_CNS_IOCS_ALLOCATED_NS_LIST, (uint32_t *)ctrl->page);
        return VN_SC_SUCCESS;
    default:
        return VN_SC_INVALID_FIELD;
    }
}

/* --- Changed zones --- */
static void add_changed(struct vn_changed_zones *changed, uint64_t zslba) {
    if (changed->nr == VN_CHANGED_ZONES_MORE)
        return;
    for (uint16_t i = 0; i < changed->nr; i++) {
        if (changed->zslba[i] == zslba)
            return;
    }
    if (changed->nr < VN_CHANGED_ZONES_MAX) {
        changed->zslba[changed->nr++] = zslba;
        return;
    }
    memset(changed, 0, sizeof(*changed)); /* the host is to look at all of them */
    changed->nr = VN_CHANGED_ZONES_MORE;
}

void vn_zone_tell(const struct vn_req *req, uint32_t index) {
    const struct vn_drive *drive = req->ctrl->drive;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        struct vn_ctrl *ctrl = drive->ctrls[i];
        struct vn_ns_chan *nsc = ctrl ? vn_ns_table_get(&ctrl->namespaces, req->ns->nsid) : NULL;
        if (!nsc || nsc->ns != req->ns->ns)
            continue;
        add_changed(nsc->changed_zones, vn_zones_start(vn_zones_of(req), index));
        ctrl->zone_nsid = nsc->nsid;
        vn_aer_raise(ctrl, VN_AEN_NOTICE, VN_AEN_NOTICE_ZONE_CHANGED);
    }
}

static struct vn_ns_chan *chan_of(const struct vn_req *req) {
    return vn_ns_table_get(&req->ctrl->namespaces, req->cmd.nsid);
}

vn_status vn_zone_begin_changed(struct vn_req *req) {
    const struct vn_ns_chan *nsc = chan_of(req);
    if (!nsc)
        return VN_SC_INVALID_NS;
    return nsc->changed_zones ? VN_SC_SUCCESS : VN_SC_INVALID_FIELD;
}

void vn_zone_forget_changed(struct vn_req *req) {
    struct vn_ns_chan *nsc = chan_of(req);
    memset(nsc->changed_zones, 0, sizeof(*nsc->changed_zones));
}

void vn_zone_put_changed(struct vn_log *log) {
    const struct vn_ns_chan *nsc = chan_of(log->req);
    vn_log_put(log, nsc->changed_zones, sizeof(*nsc->changed_zones));
}
