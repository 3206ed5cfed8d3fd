/* Identify (Base 5.17, NVM Command Set 4.1.5): what the controller and its namespaces say of themselves.
 * Called by admin_cmd.c. Says only what is true of this controller.
 */
#include <stdio.h>
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/fabrics.h"
#include "ctrl/format_cmd.h"
#include "ctrl/io_cmd.h"
#include "ctrl/persona.h"
#include "ctrl/power.h"
#include "ctrl/reserve_cmd.h"
#include "ctrl/vendor.h"
#include "ctrl/zone_cmd.h"
#include "ns/ns_state.h"

#define FRMW_ONE_SLOT_READ_ONLY 0x03 /* one slot, and slot 1 is read-only */
#define VWC_PRESENT 0x1u
#define VWC_FLUSH_BROADCAST (0x3u << 1) /* Flush with NSID FFFFFFFFh flushes all */
#define SGLS_ANY_ALIGNMENT 0x1u
#define SGLS_BIT_BUCKET (1u << 16)
#define SGLS_LONGER (1u << 18) /* than the data: the rest is left alone */
#define SGLS_OFFSET (1u << 20)    /* an offset as the address: data in the capsule */
#define SGLS_TRANSPORT (1u << 21) /* the transport's own data block */
#define CTRATT_HOSTID_128 (1u << 0)
#define OFCS_DISCONNECT (1u << 0)
#define ANACAP_STATIC_GROUPS (1u << 6) /* a namespace stays in its group */
#define ANATT_S 10u
#define SQE_BYTES 64u
#define CAPSULE_UNIT 16u
#define FNA_CRYPTO_ERASE 0x4u /* formats and erasures are of one namespace; of all when NSID FFFFFFFFh asks for it */
#define MC_EXTENDED 0x1u
#define MC_SEPARATE 0x2u
#define DPC_ALL 0x1fu /* types 1 to 3, as the first and as the last bytes of metadata */
#define SGLS_MPTR_BYTE_ALIGNED (1u << 17)
#define SGLS_MPTR_SGL (1u << 19)
#define OCFS_FORMATS 0x3u /* of Copy: 0h and 1h */
#define NR_LISTED_CTRLS (VN_PAGE_SIZE / sizeof(uint16_t) - 1)
#define KELVIN_0C 273u

static void put_u128(uint8_t field[16], uint64_t value) {
    memcpy(field, &value, sizeof(value));
}

static void put_firmware(const struct vn_ctrl *ctrl, char field[8]) {
    char revision[9];
    vn_put_ascii(field, 8, vn_firmware_revision(ctrl, revision));
}

static bool has_volatile_cache(const struct vn_ctrl *ctrl) {
    for (uint32_t nsid = vn_ns_table_next(&ctrl->namespaces, 0); nsid; nsid = vn_ns_table_next(&ctrl->namespaces, nsid))
        if (ctrl->namespaces.by_nsid[nsid]->ns->backend->volatile_cache)
            return true;
    return false;
}

uint32_t vn_identify_oaes(const struct vn_ctrl *ctrl) {
    if (vn_ctrl_kind(ctrl) == VN_KIND_DISCOVERY)
        return VN_OAES_DISCOVERY;
    uint32_t of_drive = ctrl->drive ? VN_OAES_FIRMWARE | VN_OAES_TELEMETRY | VN_OAES_ENDURANCE : 0;
    of_drive |= vn_ctrl_has_zones(ctrl) ? VN_OAES_ZONE_CHANGED : 0;
    return VN_OAES_NS_ATTR | of_drive | (vn_ctrl_has_ana(ctrl) ? VN_OAES_ANA : 0);
}

/* What controllers on fabrics of either kind say. */
static void identify_fabrics(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id) {
    put_firmware(ctrl, id->fr);
    id->mdts = (uint8_t)ctrl->mdts;
    id->cntlid = ctrl->cntlid;
    id->ver = VN_VS_2_0;
    id->oaes = vn_identify_oaes(ctrl);
    id->ctratt = CTRATT_HOSTID_128 | VN_CTRATT_TBKAS;
    id->cntrltype = ctrl->fabrics->kind;
    id->acl = VN_MAX_ABORTS - 1;
    id->aerl = VN_MAX_AERS - 1;
    id->lpa = VN_LPA_EFFECTS | VN_LPA_EXTENDED;
    id->elpe = VN_MAX_ERROR_LOG - 1;
    id->kas = 1; /* in units of 100 ms: VN_KAS_MS */
    id->maxcmd = (uint16_t)vn_min_u64(ctrl->max_entries, UINT16_MAX);
    id->sgls = SGLS_ANY_ALIGNMENT | SGLS_OFFSET | SGLS_TRANSPORT;
    snprintf(id->subnqn, sizeof(id->subnqn), "%s", ctrl->subnqn);
}

static void put_ana(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id) {
    if (!vn_ctrl_has_ana(ctrl))
        return;
    id->cmic |= VN_CMIC_ANA;
    id->anatt = ANATT_S;
    id->anacap = VN_ANACAP_OPTIMIZED | VN_ANACAP_NON_OPTIMIZED | VN_ANACAP_INACCESSIBLE | VN_ANACAP_PERSISTENT_LOSS |
                 VN_ANACAP_CHANGE | ANACAP_STATIC_GROUPS;
    id->anagrpmax = id->nanagrpid = VN_MAX_ANA_GROUPS;
}

/* What an I/O controller adds on fabrics to what one on PCI says. */
static void identify_fabrics_io(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id) {
    identify_fabrics(ctrl, id);
    id->vid = id->ssvid = 0; /* of PCI */
    id->cmic = VN_CMIC_MULTI_PORT | VN_CMIC_MULTI_CTRL;
    id->ciu = ctrl->fabrics->ciu;
    id->cirn = ctrl->fabrics->cirn;
    id->ioccsz = (SQE_BYTES + VN_IOCCSZ_BYTES) / CAPSULE_UNIT;
    id->iorcsz = sizeof(struct vn_cqe) / CAPSULE_UNIT;
    id->icdoff = 0;
    id->fcatt = 0; /* controllers are made for each host */
    id->msdbd = 1; /* SGL descriptors of a capsule */
    id->ofcs = ctrl->door->disconnect ? OFCS_DISCONNECT : 0;
}

/* With metadata: what all of it takes. */
static uint32_t nsid_max(const struct vn_ctrl *ctrl) {
    return ctrl->drive ? ctrl->drive->nsid_max : VN_MAX_NAMESPACES;
}

static uint64_t bytes_of(const struct vn_ns *ns) {
    return ns->special & VN_NS_SPECIAL_META ? ns->backend->size : vn_ns_nr_blocks(ns) << vn_ns_block_shift(ns);
}

/* Capacity, and what other controllers there are (Base 5.17.2.1). On fabrics the namespaces attached are all there is to know. */
void vn_identify_subsystem(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id) {
    const struct vn_drive *drive = ctrl->drive;
    uint64_t total = 0;
    for (uint32_t nsid = 0; !drive && (nsid = vn_ns_table_next(&ctrl->namespaces, nsid));)
        total += bytes_of(ctrl->namespaces.by_nsid[nsid]->ns);
    for (uint32_t nsid = 0; drive && (nsid = vn_drive_next_space(drive, nsid));)
        total += bytes_of(drive->spaces[nsid]);
    put_u128(id->tnvmcap, drive && drive->capacity ? drive->capacity : total);
    if (drive && drive->capacity)
        put_u128(id->unvmcap, drive->unallocated);
    if (drive && (drive->flags & VN_DRIVE_SHARED))
        id->cmic = VN_CMIC_MULTI_PORT | VN_CMIC_MULTI_CTRL; /* each has a port of its own */
}

void vn_identify_ctrl(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id) {
    if (vn_ctrl_kind(ctrl) == VN_KIND_DISCOVERY) { /* it has no more than these fields */
        identify_fabrics(ctrl, id);
        return;
    }
    vn_put_ascii(id->sn, sizeof(id->sn), ctrl->serial);
    vn_put_ascii(id->mn, sizeof(id->mn), ctrl->model);
    put_firmware(ctrl, id->fr);
    id->vid = VN_PCI_VENDOR;
    id->ssvid = VN_PCI_SUBVENDOR;
    id->rab = 3; /* a burst of 8 commands */
    id->mdts = (uint8_t)ctrl->mdts;
    id->cntlid = ctrl->cntlid;
    id->ver = VN_VS_2_0;
    id->oaes = vn_identify_oaes(ctrl);
    id->ctratt = ctrl->drive ? CTRATT_HOSTID_128 : 0;
    id->cntrltype = VN_CNTRLTYPE_IO;
    id->oacs = vn_admin_oacs(ctrl);
    id->acl = VN_MAX_ABORTS - 1;
    id->aerl = VN_MAX_AERS - 1;
    id->frmw = FRMW_ONE_SLOT_READ_ONLY;
    id->lpa = VN_LPA_EFFECTS | VN_LPA_EXTENDED;
    id->elpe = VN_MAX_ERROR_LOG - 1;
    id->wctemp = KELVIN_0C + 70;
    id->cctemp = KELVIN_0C + 85;
    id->sqes = 0x66; /* 64 bytes, required and maximum */
    id->cqes = 0x44; /* 16 bytes */
    id->nn = id->mnan = nsid_max(ctrl);
    id->oncs = vn_io_oncs(ctrl);
    id->ocfs = OCFS_FORMATS;
    if (ctrl->door->fetch_second) {
        id->fuses = VN_FUSES_COMPARE_WRITE;
        id->acwu = (uint16_t)((1u << ctrl->mdts) - 1); /* whatever is transferred at once, counted in the largest blocks */
    }
    id->fna = ctrl->drive ? FNA_CRYPTO_ERASE : 0;
    id->vwc = VWC_FLUSH_BROADCAST | (has_volatile_cache(ctrl) ? VWC_PRESENT : 0);
    id->awun = 0; /* one block: the backends promise no more */
    id->awupf = 0;
    id->sgls = SGLS_ANY_ALIGNMENT | (ctrl->drive ? SGLS_BIT_BUCKET | SGLS_MPTR_BYTE_ALIGNED | SGLS_LONGER | SGLS_MPTR_SGL : 0);
    snprintf(id->subnqn, sizeof(id->subnqn), "%s", ctrl->subnqn);
    vn_identify_subsystem(ctrl, id);
    if (ctrl->drive)
        vn_drive_identify(ctrl, id);
    if (ctrl->fabrics)
        identify_fabrics_io(ctrl, id);
    put_ana(ctrl, id);
    vn_persona_identify(ctrl, id);
    vn_power_identify(ctrl, id);
}

/* By the user or the host, or since a flush failed: what was acknowledged before may be lost, so no more is taken. */
static bool is_write_protected(const struct vn_ns *ns) {
    return ns->read_only || vn_backend_latched(ns->backend) || (ns->special & VN_NS_SPECIAL_PROTECTED);
}

static uint32_t ana_group_of(const struct vn_ctrl *ctrl, uint32_t nsid) {
    return vn_ctrl_has_ana(ctrl) ? ctrl->ana_group[nsid] : 0;
}

static bool is_shared(const struct vn_ctrl *ctrl, uint32_t nsid) {
    return ctrl->fabrics || vn_drive_is_shared(ctrl->drive, nsid);
}

static void put_lbaf(uint32_t index, struct vn_id_ns *id) {
    const struct vn_lba_format *format = &vn_lba_formats[index];
    id->lbaf[index] = (struct vn_lbaf){format->ms, format->shift, format->rp};
}

/* What a namespace on a backend with this block_min can be formatted with. What it cannot have has LBADS 0 (NVM Command Set,
 * figure of the LBA Format data structure). */
static void put_formats(const struct vn_ctrl *ctrl, uint32_t block_min, struct vn_id_ns *id) {
    id->nlbaf = VN_NR_LBA_FORMATS - 1;
    for (uint32_t i = 0; i < VN_NR_LBA_FORMATS; i++) {
        if (vn_format_fits(i, block_min) && vn_persona_has_format(ctrl, i))
            put_lbaf(i, id);
    }
    id->mc = MC_EXTENDED | MC_SEPARATE;
    id->dpc = DPC_ALL;
}

/* Blocks of one format only, without metadata: of zoned namespaces, and where no other one would be remembered. */
static void keep_format(uint8_t index, struct vn_id_ns *id) {
    for (uint8_t i = 0; i < VN_NR_LBA_FORMATS; i++) {
        if (i != index)
            id->lbaf[i] = (struct vn_lbaf){0};
    }
    id->mc = id->dpc = 0;
}

/* Fabrics: as it is, and nothing else. */
static void put_format(const struct vn_ctrl *ctrl, const struct vn_ns *ns, struct vn_id_ns *id) {
    if (!ctrl->drive) {
        id->nlbaf = 0; /* one format, zero-based */
        id->lbaf[0].lbads = (uint8_t)vn_ns_block_shift(ns);
        return;
    }
    struct vn_format format = vn_ns_format(ns);
    put_formats(ctrl, ns->backend->block_min, id);
    put_lbaf(format.index, id); /* which it has, whatever others can have */
    if (ns->zoned || !vn_ns_keeps_format(ns))
        keep_format(format.index, id);
    id->flbas = vn_format_flbas(&format);
    id->dps = vn_format_dps(&format);
    id->fpi = vn_format_fpi(ns);
}

static void identify_ns(const struct vn_ctrl *ctrl, const struct vn_ns *ns, uint32_t nsid, struct vn_id_ns *id) {
    uint64_t nr_blocks = vn_ns_nr_blocks(ns);
    id->nsze = id->ncap = id->nuse = nr_blocks;
    put_format(ctrl, ns, id);
    if (ns->backend->deallocates && !ns->backend->deallocated_stays)
        id->dlfeat = 0x1 | 1u << 3; /* deallocated blocks read as zeros; Write Zeroes may deallocate */
    put_u128(id->nvmcap, ns->meta ? ns->state->kept.format.size : bytes_of(ns));
    id->nsattr = is_write_protected(ns) ? 0x1 : 0;
    vn_io_copy_limits(ns, id);
    id->rescap = ctrl->drive ? vn_resv_capabilities(ns) : 0;
    id->endgid = ctrl->drive ? VN_ENDURANCE_GROUP : 0;
    id->nmic = is_shared(ctrl, nsid) ? VN_NMIC_SHARED : 0;
    id->anagrpid = ana_group_of(ctrl, nsid);
    memcpy(id->nguid, ns->uuid, sizeof(id->nguid)); /* unique and stable as the UUID is */
}

static size_t put_descriptor(uint8_t *at, uint8_t type, uint8_t bytes, const void *value) {
    at[0] = type;
    at[1] = bytes;
    memcpy(at + 4, value, bytes);
    return 4u + bytes;
}

static void identify_descriptors(const struct vn_ns *ns, uint8_t *page) {
    uint8_t csi = ns->zoned ? VN_CSI_ZNS : VN_CSI_NVM;
    page += put_descriptor(page, VN_NIDT_UUID, 16, ns->uuid);
    page += put_descriptor(page, VN_NIDT_NGUID, 16, ns->uuid);
    put_descriptor(page, VN_NIDT_CSI, 1, &csi);
}

/* NSIDs above the given one, up to 1024: those attached, or all that are allocated in the drive; of the NVM command set, or any. */
static void list_namespaces(const struct vn_ctrl *ctrl, bool allocated, bool nvm, uint32_t after, uint32_t *list) {
    for (size_t n = 0; n < VN_PAGE_SIZE / sizeof(*list);) {
        after = allocated && ctrl->drive ? vn_drive_next_space(ctrl->drive, after)
                                         : vn_ns_table_next(&ctrl->namespaces, after);
        if (!after)
            return;
        const struct vn_ns *ns = allocated && ctrl->drive ? ctrl->drive->spaces[after] : ctrl->namespaces.by_nsid[after]->ns;
        if (!nvm || !ns->zoned)
            list[n++] = after;
    }
}

static void identify_ctrl_nvm(struct vn_id_ctrl_nvm *id) {
    id->wusl = 0; /* Write Uncorrectable: no limit either */
    id->vsl = 0;  /* Verify: the same, it reads in steps */
    id->wzsl = 0; /* Write Zeroes: no limit but NLB */
    id->dmrl = 0; /* Dataset Management: no limit but the command's own of 256 ranges */
    id->dmrsl = 0;
    id->dmsl = 0;
}

static void identify_ns_independent(const struct vn_ctrl *ctrl, const struct vn_ns_chan *nsc,
                                    struct vn_id_ns_independent *id) {
    id->nmic = is_shared(ctrl, nsc->nsid) ? VN_NMIC_SHARED : 0;
    id->anagrpid = ana_group_of(ctrl, nsc->nsid);
    id->nsattr = is_write_protected(nsc->ns) ? 0x1 : 0;
    id->endgid = ctrl->drive ? VN_ENDURANCE_GROUP : 0;
    id->fpi = ctrl->drive ? vn_format_fpi(nsc->ns) : 0;
    id->rescap = ctrl->drive ? vn_resv_capabilities(nsc->ns) : 0;
    id->nstat = 0x1; /* ready */
}

static vn_status send_page(struct vn_req *req) {
    return vn_ctrl_send(req, req->ctrl->page, VN_PAGE_SIZE, VN_PAGE_SIZE);
}

/* What all namespaces have in common (only with namespace management). */
static vn_status identify_common(struct vn_req *req, uint8_t cns) {
    const struct vn_ctrl *ctrl = req->ctrl;
    if (cns == VN_CNS_NS && !vn_ctrl_is_managed(ctrl))
        return VN_SC_INVALID_NS;
    if (cns == VN_CNS_NS)
        put_formats(ctrl, VN_FORMAT_BLOCK_MIN, (struct vn_id_ns *)ctrl->page);
    return send_page(req);
}

/* A namespace of the drive, whether this controller has it or not; zeros when there is none. */
static vn_status identify_allocated(struct vn_req *req) {
    const struct vn_ctrl *ctrl = req->ctrl;
    uint32_t nsid = req->cmd.nsid;
    const struct vn_ns_chan *nsc = vn_ns_table_get(&ctrl->namespaces, nsid);
    const struct vn_ns *ns = ctrl->drive ? ctrl->drive->spaces[nsid] : nsc ? nsc->ns : NULL;
    if (ns && (uint8_t)req->cmd.cdw10 == VN_CNS_ALLOCATED_NS) /* else as CNS 05h: zeros */
        identify_ns(ctrl, ns, nsid, (struct vn_id_ns *)ctrl->page);
    return send_page(req);
}

/* The CNS values that take an NSID and answer a structure of that namespace. */
static vn_status identify_by_nsid(struct vn_req *req, uint8_t cns) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint32_t nsid = req->cmd.nsid;
    uint8_t *page = ctrl->page;
    if (nsid == VN_NSID_BROADCAST && (cns == VN_CNS_NS || cns == VN_CNS_IOCS_NS))
        return identify_common(req, cns);
    if (nsid == 0 || nsid > nsid_max(ctrl))
        return VN_SC_INVALID_NS;
    if (cns == VN_CNS_ALLOCATED_NS || cns == VN_CNS_IOCS_ALLOCATED_NS)
        return identify_allocated(req);
    const struct vn_ns_chan *nsc = vn_ns_table_get(&ctrl->namespaces, nsid);
    if (!nsc) /* inactive: zeros; but there are no descriptors of nothing */
        return cns == VN_CNS_NS_DESC_LIST ? VN_SC_INVALID_NS : send_page(req);
    switch (cns) {
    case VN_CNS_NS:
        identify_ns(ctrl, nsc->ns, nsid, (struct vn_id_ns *)page);
        break;
    case VN_CNS_NS_DESC_LIST:
        identify_descriptors(nsc->ns, page);
        break;
    case VN_CNS_IOCS_INDEPENDENT_NS:
        identify_ns_independent(ctrl, nsc, (struct vn_id_ns_independent *)page);
        break;
    default: /* VN_CNS_IOCS_NS: guards of 16 bits and no storage tags, which is what zeros say (NVM Command Set 4.1.5.3) */
        break;
    }
    return send_page(req);
}

/* The controllers of the drive, from an identifier on; nsid: those that have it, 0: all. */
static void list_drive_ctrls(const struct vn_drive *drive, uint32_t nsid, uint16_t from, uint16_t *list) {
    while ((from = vn_drive_next_cntlid(drive, from)) != VN_CNTLID_DYNAMIC) {
        if (!nsid || vn_ns_table_get(&vn_drive_ctrl(drive, from)->namespaces, nsid))
            list[++list[0]] = from;
        from++;
    }
}

/* The controllers of this host in the subsystem, from an identifier on. Another host's on fabrics are not its business. */
static void list_ctrls(const struct vn_ctrl *ctrl, uint32_t nsid, uint16_t from, uint16_t *list) {
    if (ctrl->drive) {
        list_drive_ctrls(ctrl->drive, nsid, from, list);
        return;
    }
    if (!ctrl->door->next_ctrl) {
        if (ctrl->cntlid >= from)
            list[++list[0]] = ctrl->cntlid;
        return;
    }
    while (list[0] < NR_LISTED_CTRLS && (from = ctrl->door->next_ctrl(ctrl, from)) != VN_CNTLID_DYNAMIC)
        list[++list[0]] = from++;
}

static bool is_allocated(const struct vn_ctrl *ctrl, uint32_t nsid) {
    if (!nsid || nsid > VN_MAX_NAMESPACES)
        return false;
    return ctrl->drive ? ctrl->drive->spaces[nsid] != NULL : vn_ns_table_get(&ctrl->namespaces, nsid) != NULL;
}

/* Lists: of namespaces above an NSID, and of controllers from an identifier on. */
static vn_status identify_list(struct vn_req *req, uint8_t cns) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint32_t nsid = req->cmd.nsid;
    if (cns == VN_CNS_NS_CTRL_LIST || cns == VN_CNS_CTRL_LIST) {
        bool all = cns == VN_CNS_CTRL_LIST;
        if (!all && !is_allocated(ctrl, nsid))
            return VN_SC_INVALID_NS;
        list_ctrls(ctrl, all ? 0 : nsid, (uint16_t)(req->cmd.cdw10 >> 16), (uint16_t *)ctrl->page);
        return send_page(req);
    }
    if (nsid >= 0xfffffffe)
        return VN_SC_INVALID_NS;
    bool allocated = cns == VN_CNS_ALLOCATED_NS_LIST || cns == VN_CNS_IOCS_ALLOCATED_NS_LIST;
    bool nvm = cns == VN_CNS_IOCS_ACTIVE_NS_LIST || cns == VN_CNS_IOCS_ALLOCATED_NS_LIST;
    list_namespaces(ctrl, allocated, nvm, nsid, (uint32_t *)ctrl->page);
    return send_page(req);
}

/* Of command sets that are not the NVM one. */
static vn_status identify_other_set(struct vn_req *req, uint8_t cns, uint8_t csi) {
    vn_status status = csi == VN_CSI_ZNS && vn_ctrl_has_zones(req->ctrl) ? vn_identify_zns(req, cns) : VN_SC_INVALID_FIELD;
    return status ? status : send_page(req);
}

/* There is one, which holds all. */
static void list_endurance_groups(uint16_t from, uint16_t *list) {
    if (from <= VN_ENDURANCE_GROUP)
        list[++list[0]] = VN_ENDURANCE_GROUP;
}

vn_status vn_identify(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint8_t cns = (uint8_t)req->cmd.cdw10, csi = (uint8_t)(req->cmd.cdw11 >> 24);
    memset(ctrl->page, 0, VN_PAGE_SIZE);
    if (vn_ctrl_kind(ctrl) == VN_KIND_DISCOVERY && cns != VN_CNS_CTRL) {
        req->error_location = 40; /* CDW10: it has nothing but itself */
        return VN_SC_INVALID_FIELD;
    }
    switch (cns) {
    case VN_CNS_CTRL:
        vn_identify_ctrl(ctrl, (struct vn_id_ctrl *)ctrl->page);
        return send_page(req);
    case VN_CNS_IOCS_CTRL:
        if (csi != VN_CSI_NVM)
            return identify_other_set(req, cns, csi);
        identify_ctrl_nvm((struct vn_id_ctrl_nvm *)ctrl->page);
        return send_page(req);
    case VN_CNS_ENDURANCE_GROUPS:
        if (!ctrl->drive)
            return VN_SC_INVALID_FIELD;
        list_endurance_groups((uint16_t)req->cmd.cdw11, (uint16_t *)ctrl->page);
        return send_page(req);
    case VN_CNS_GRANULARITY:
        if (!ctrl->drive)
            return VN_SC_INVALID_FIELD;
        vn_drive_granularity(ctrl, (struct vn_id_granularity *)ctrl->page);
        return send_page(req);
    case VN_CNS_UUID_LIST:
        if (!ctrl->drive)
            return VN_SC_INVALID_FIELD;
        vn_vendor_list(ctrl, (struct vn_uuid_entry *)ctrl->page);
        return send_page(req);
    case VN_CNS_IOCS_LIST:
        ctrl->page[0] = (uint8_t)(1u << VN_CSI_NVM | (vn_ctrl_has_zones(ctrl) ? 1u << VN_CSI_ZNS : 0)); /* one combination */
        return send_page(req);
    case VN_CNS_IOCS_NS:
    case VN_CNS_IOCS_ALLOCATED_NS:
        return csi == VN_CSI_NVM ? identify_by_nsid(req, cns) : identify_other_set(req, cns, csi);
    case VN_CNS_IOCS_ACTIVE_NS_LIST:
    case VN_CNS_IOCS_ALLOCATED_NS_LIST:
        return csi == VN_CSI_NVM ? identify_list(req, cns) : identify_other_set(req, cns, csi);
    case VN_CNS_NS:
    case VN_CNS_NS_DESC_LIST:
    case VN_CNS_IOCS_INDEPENDENT_NS:
    case VN_CNS_ALLOCATED_NS:
        return identify_by_nsid(req, cns);
    case VN_CNS_ACTIVE_NS_LIST:
    case VN_CNS_ALLOCATED_NS_LIST:
    case VN_CNS_NS_CTRL_LIST:
    case VN_CNS_CTRL_LIST:
        return identify_list(req, cns);
    default:
        req->error_location = 40; /* CDW10 */
        return VN_SC_INVALID_FIELD;
    }
}
