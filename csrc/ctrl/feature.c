/* Get and Set Features (Base 5.27, 5.14): which there are, what may be saved, and those that are a value of the controller. The
 * values go back to the saved ones, or to their defaults, on a controller reset. Others are in feature_kept.c,
 * feature_drive.c and power.c.
 * Called by admin_cmd.c.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/feature.h"
#include "ctrl/persona.h"
#include "ctrl/power.h"
#include "ctrl/reserve_cmd.h"

#define SET_SAVE (1u << 31)
#define TEMP_OVER_DEFAULT (273 + 70) /* Kelvin: the warning threshold of Identify */
#define AEN_CRITICAL_WARNINGS 0x1fu

/* The events that can be switched on and off: what Identify's OAES says, and critical warnings. */
static uint32_t aen_config_mask(const struct vn_ctrl *ctrl) {
    return vn_identify_oaes(ctrl) | (vn_ctrl_kind(ctrl) == VN_KIND_DISCOVERY ? 0 : AEN_CRITICAL_WARNINGS);
}

/* --- Which features there are: dispatch, capabilities and the log of features say the same --- */
#define HAS_IO ((unsigned)VN_KIND_PCI | VN_KIND_IO)
static const struct vn_feature_row rows[] = {
    {VN_FEAT_ARBITRATION, HAS_IO, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_POWER, HAS_IO, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_TEMP_THRESHOLD, HAS_IO, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_ERROR_RECOVERY, HAS_IO, VN_CAP_SAVEABLE | VN_CAP_NS | VN_CAP_CHANGEABLE, VN_FID_SCOPE_NS},
    {VN_FEAT_VWC, HAS_IO, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_NUM_QUEUES, HAS_IO, VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_IRQ_COALESCING, VN_KIND_PCI, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL}, /* interrupts: PCI only */
    {VN_FEAT_IRQ_VECTOR, VN_KIND_PCI, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_WRITE_ATOMICITY, HAS_IO, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_ASYNC_EVENT, VN_KIND_ANY, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_APST, VN_KIND_PCI, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_TIMESTAMP, VN_KIND_PCI, VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_KEEP_ALIVE, VN_KIND_FABRICS, VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_HCTM, VN_KIND_PCI, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_PERMISSIVE, VN_KIND_PCI, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_HOST_BEHAVIOR, VN_KIND_PCI, VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_SANITIZE, VN_KIND_PCI, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_SUBSYSTEM},
    {VN_FEAT_ENDURANCE, VN_KIND_PCI, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_ENDURANCE},
    {VN_FEAT_IOCS_PROFILE, VN_KIND_PCI, VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_PROGRESS_MARKER, VN_KIND_PCI, VN_CAP_SAVEABLE | VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_HOST_ID, VN_KIND_PCI, VN_CAP_CHANGEABLE, VN_FID_SCOPE_CTRL},
    {VN_FEAT_RESV_MASK, VN_KIND_PCI, VN_CAP_NS | VN_CAP_CHANGEABLE, VN_FID_SCOPE_NS},
    {VN_FEAT_RESV_PERSISTENCE, VN_KIND_PCI, VN_CAP_NS | VN_CAP_CHANGEABLE, VN_FID_SCOPE_NS},
    {VN_FEAT_WRITE_PROTECT, VN_KIND_PCI, VN_CAP_NS | VN_CAP_CHANGEABLE, VN_FID_SCOPE_NS},
};

const struct vn_feature_row *vn_feature_find(const struct vn_ctrl *ctrl, uint8_t fid) {
    if ((fid == VN_FEAT_TIMESTAMP && (ctrl->oncs_off & VN_ONCS_TIMESTAMP)) || !vn_power_has_feature(ctrl, fid))
        return NULL;
    for (size_t i = 0; i < VN_ARRAY_SIZE(rows); i++) {
        if (rows[i].fid == fid)
            return rows[i].kinds & vn_ctrl_kind(ctrl) ? &rows[i] : NULL;
    }
    return NULL;
}

/* What is saved is kept by the drive. */
uint32_t vn_feature_capabilities(const struct vn_ctrl *ctrl, const struct vn_feature_row *row) {
    return row->capabilities & (ctrl->kept && !(ctrl->oncs_off & VN_ONCS_SAVE_SELECT) ? UINT32_MAX : ~VN_CAP_SAVEABLE);
}

static struct vn_features default_features(const struct vn_ctrl *ctrl) {
    return (struct vn_features){
        .arbitration = 3, /* burst of 8 */
        .vwc = 1,
        .async_event = aen_config_mask(ctrl),
        .temp_over = vn_persona_wctemp(ctrl, TEMP_OVER_DEFAULT),
        .nr_sqs = (uint16_t)ctrl->max_queues,
        .nr_cqs = (uint16_t)ctrl->max_queues,
    };
}

/* Those a reset brings back. */
static struct vn_features saved_features(const struct vn_ctrl *ctrl) {
    struct vn_features features = default_features(ctrl);
    if (ctrl->kept)
        vn_feature_load(ctrl->kept, &features);
    features.async_event &= aen_config_mask(ctrl);
    return features;
}

void vn_feature_reset(struct vn_ctrl *ctrl) {
    ctrl->features = saved_features(ctrl);
    vn_feature_reset_kept(ctrl);
    vn_power_reset(ctrl);
    vn_resv_forget(ctrl);
}

static vn_status set_temperature(struct vn_ctrl *ctrl, uint32_t cdw11) {
    uint32_t sensor = (cdw11 >> 16) & 0xf, type = (cdw11 >> 20) & 0x3;
    if (type > 1 || (sensor != 0 && sensor != 0xf))
        return VN_SC_INVALID_FIELD;
    if (type == 0)
        ctrl->features.temp_over = (uint16_t)cdw11;
    else
        ctrl->features.temp_under = (uint16_t)cdw11;
    vn_log_check_warnings(ctrl);
    return VN_SC_SUCCESS;
}

static vn_status set_nr_queues(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint32_t nr_sqs = (req->cmd.cdw11 & 0xffff) + 1, nr_cqs = (req->cmd.cdw11 >> 16) + 1;
    if (nr_sqs > 0xffff || nr_cqs > 0xffff)
        return VN_SC_INVALID_FIELD;
    for (uint32_t i = 1; i < VN_NR_QUEUES; i++) {
        if (ctrl->sqs[i].exists || ctrl->cqs[i].exists)
            return VN_SC_COMMAND_SEQUENCE;
    }
    ctrl->features.nr_sqs = (uint16_t)(nr_sqs < ctrl->max_queues ? nr_sqs : ctrl->max_queues);
    ctrl->features.nr_cqs = (uint16_t)(nr_cqs < ctrl->max_queues ? nr_cqs : ctrl->max_queues);
    req->result = (ctrl->features.nr_sqs - 1u) | (ctrl->features.nr_cqs - 1u) << 16;
    return VN_SC_SUCCESS;
}

static vn_status set_irq_vector(struct vn_ctrl *ctrl, uint32_t cdw11) {
    uint32_t vector = cdw11 & 0xffff;
    if (vector >= VN_NR_VECTORS)
        return VN_SC_INVALID_FIELD;
    ctrl->features.irq_vector[vector] = (cdw11 >> 16) & 1;
    return VN_SC_SUCCESS;
}

/* What is refused of any Set Features. */
static vn_status check_set(struct vn_req *req, const struct vn_feature_row *row) {
    uint32_t nsid = req->cmd.nsid;
    if (!row) {
        req->error_location = 40; /* CDW10 */
        return VN_SC_INVALID_FIELD;
    }
    if (nsid != 0 && nsid != VN_NSID_BROADCAST && !vn_ns_table_get(&req->ctrl->namespaces, nsid))
        return VN_SC_INVALID_NS;
    uint32_t capabilities = vn_feature_capabilities(req->ctrl, row);
    if (nsid != 0 && nsid != VN_NSID_BROADCAST && !(capabilities & VN_CAP_NS))
        return VN_SC_FEATURE_NOT_NS_SPECIFIC;
    if ((req->cmd.cdw10 & SET_SAVE) && !(capabilities & VN_CAP_SAVEABLE))
        return VN_SC_FEATURE_NOT_SAVEABLE;
    return VN_SC_SUCCESS;
}

static vn_status set_value(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    struct vn_features *features = &ctrl->features;
    uint32_t value = req->cmd.cdw11;
    switch (req->cmd.cdw10 & 0xff) {
    case VN_FEAT_ARBITRATION:
        features->arbitration = value & 0xffffff07;
        return VN_SC_SUCCESS;
    case VN_FEAT_POWER:
        return vn_power_set_state(ctrl, value);
    case VN_FEAT_TEMP_THRESHOLD:
        return set_temperature(ctrl, value);
    case VN_FEAT_ERROR_RECOVERY:
        if (value & (1u << 16)) /* DULBE: deallocated blocks read as zeros here, they never fail */
            return VN_SC_INVALID_FIELD;
        features->error_recovery = value & 0xffff;
        return VN_SC_SUCCESS;
    case VN_FEAT_VWC:
        features->vwc = value & 1;
        return VN_SC_SUCCESS;
    case VN_FEAT_NUM_QUEUES:
        return set_nr_queues(req);
    case VN_FEAT_IRQ_COALESCING:
        features->irq_coalescing = value & 0xffff;
        return VN_SC_SUCCESS;
    case VN_FEAT_IRQ_VECTOR:
        return set_irq_vector(ctrl, value);
    case VN_FEAT_WRITE_ATOMICITY:
        features->write_atomicity = value & 1;
        return VN_SC_SUCCESS;
    case VN_FEAT_ASYNC_EVENT:
        features->async_event = value & aen_config_mask(ctrl);
        return VN_SC_SUCCESS;
    case VN_FEAT_PROGRESS_MARKER:
        features->progress_marker = value & 0xff;
        return VN_SC_SUCCESS;
    case VN_FEAT_IOCS_PROFILE: /* there is one combination: CNS 1Ch */
        return value & 0x1ff ? VN_SC_IOCS_COMBINATION : VN_SC_SUCCESS;
    case VN_FEAT_KEEP_ALIVE:
        ctrl->fabrics->kato_ms = vn_kato_round(value);
        ctrl->door->kato_changed(ctrl);
        return VN_SC_SUCCESS;
    case VN_FEAT_APST:
    case VN_FEAT_HCTM:
    case VN_FEAT_PERMISSIVE:
        return vn_power_set_feature(req);
    case VN_FEAT_SANITIZE:
    case VN_FEAT_ENDURANCE:
        return vn_feature_set_drive(req);
    default:
        return vn_feature_set_kept(req);
    }
}

bool vn_feature_set(struct vn_req *req, vn_status *status) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint8_t fid = (uint8_t)req->cmd.cdw10;
    *status = check_set(req, vn_feature_find(ctrl, fid));
    if (*status)
        return false;
    if (fid == VN_FEAT_WRITE_PROTECT)
        return vn_write_protect_set(req, status);
    if (vn_resv_is_feature(ctrl, fid))
        return vn_resv_set_feature(req, status);
    *status = set_value(req);
    if (*status || !ctrl->drive)
        return false;
    vn_events_set_feature(req);
    if (!(req->cmd.cdw10 & SET_SAVE))
        return false;
    if (vn_feature_is_drives(fid))
        vn_feature_save_drive(ctrl->drive, fid);
    else if (vn_power_is_feature(fid))
        vn_power_save(ctrl, fid);
    else
        vn_feature_save(ctrl->kept, &ctrl->features, fid);
    vn_drive_save_for(req);
    return true;
}

/* The value of a feature in `features`, or a refusal. */
static vn_status read_value(const struct vn_features *features, const struct vn_sqe *cmd, uint32_t *value) {
    uint32_t type, vector;
    switch (cmd->cdw10 & 0xff) {
    case VN_FEAT_ARBITRATION:
        *value = features->arbitration;
        return VN_SC_SUCCESS;
    case VN_FEAT_POWER:
        *value = features->power;
        return VN_SC_SUCCESS;
    case VN_FEAT_TEMP_THRESHOLD:
        type = (cmd->cdw11 >> 20) & 0x3;
        if (type > 1 || ((cmd->cdw11 >> 16) & 0xf))
            return VN_SC_INVALID_FIELD;
        *value = type ? features->temp_under : features->temp_over;
        return VN_SC_SUCCESS;
    case VN_FEAT_ERROR_RECOVERY:
        *value = features->error_recovery;
        return VN_SC_SUCCESS;
    case VN_FEAT_VWC:
        *value = features->vwc;
        return VN_SC_SUCCESS;
    case VN_FEAT_NUM_QUEUES:
        *value = (features->nr_sqs - 1u) | (features->nr_cqs - 1u) << 16;
        return VN_SC_SUCCESS;
    case VN_FEAT_IRQ_COALESCING:
        *value = features->irq_coalescing;
        return VN_SC_SUCCESS;
    case VN_FEAT_IRQ_VECTOR:
        vector = cmd->cdw11 & 0xffff;
        if (vector >= VN_NR_VECTORS)
            return VN_SC_INVALID_FIELD;
        *value = vector | (uint32_t)features->irq_vector[vector] << 16;
        return VN_SC_SUCCESS;
    case VN_FEAT_WRITE_ATOMICITY:
        *value = features->write_atomicity;
        return VN_SC_SUCCESS;
    case VN_FEAT_ASYNC_EVENT:
        *value = features->async_event;
        return VN_SC_SUCCESS;
    case VN_FEAT_PROGRESS_MARKER:
        *value = features->progress_marker;
        return VN_SC_SUCCESS;
    case VN_FEAT_IOCS_PROFILE:
        *value = 0;
        return VN_SC_SUCCESS;
    default:
        return VN_SC_INVALID_FIELD;
    }
}

vn_status vn_feature_get(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint8_t fid = (uint8_t)req->cmd.cdw10;
    uint32_t select = (req->cmd.cdw10 >> 8) & 0x7;
    const struct vn_feature_row *row = vn_feature_find(ctrl, fid);
    if (!row || select > VN_SEL_CAPABILITIES)
        return VN_SC_INVALID_FIELD;
    if (select == VN_SEL_CAPABILITIES) {
        req->result = vn_feature_capabilities(ctrl, row);
        return VN_SC_SUCCESS;
    }
    if (fid == VN_FEAT_KEEP_ALIVE) { /* Connect sets it: a reset of the controller leaves it alone */
        req->result = select == VN_SEL_CURRENT ? ctrl->fabrics->kato_ms : 0;
        return VN_SC_SUCCESS;
    }
    if (vn_resv_is_feature(ctrl, fid))
        return vn_resv_get_feature(req, select);
    if (vn_feature_is_kept(fid))
        return vn_feature_get_kept(req, select);
    if (vn_power_is_feature(fid))
        return vn_power_get_feature(req, select);
    if (vn_feature_is_drives(fid))
        return vn_feature_get_drive(req, select);
    struct vn_features features = select == VN_SEL_CURRENT   ? ctrl->features
                                  : select == VN_SEL_DEFAULT ? default_features(ctrl)
                                                             : saved_features(ctrl);
    return read_value(&features, &req->cmd, &req->result);
}
