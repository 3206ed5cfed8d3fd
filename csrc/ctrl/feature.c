/* Get and Set Features (Base 5.27, 5.14). Values go back to their defaults on a controller reset; none is
 * saveable. Called by admin_cmd.c.
 */
#include <string.h>

#include "core/status.h"
#include "ctrl/persona.h"

#define SET_SAVE (1u << 31)
#define CAP_CHANGEABLE (1u << 2)
#define TEMP_OVER_DEFAULT (273 + 70) /* Kelvin: the warning threshold of Identify */
#define AEN_CRITICAL_WARNINGS 0x1fu

/* The events that can be switched on and off: what Identify's OAES says, and critical warnings. */
static uint32_t aen_config_mask(const struct vn_ctrl *ctrl) {
    return vn_identify_oaes(ctrl) | (vn_ctrl_kind(ctrl) == VN_KIND_DISCOVERY ? 0 : AEN_CRITICAL_WARNINGS);
}

/* Which controllers have a feature. */
static bool offers(const struct vn_ctrl *ctrl, uint8_t feature) {
    switch (feature) {
    case VN_FEAT_ASYNC_EVENT:
        return true;
    case VN_FEAT_KEEP_ALIVE:
        return ctrl->fabrics;
    case VN_FEAT_IRQ_COALESCING: /* there are interrupts on PCI only */
    case VN_FEAT_IRQ_VECTOR:
        return !ctrl->fabrics;
    default:
        return vn_ctrl_kind(ctrl) != VN_KIND_DISCOVERY;
    }
}

static struct vn_features default_features(const struct vn_ctrl *ctrl) {
    return (struct vn_features){
        .arbitration = 3, /* burst of 8 */
        .vwc = 1,
        .async_event = aen_config_mask(ctrl),
        .temp_over = TEMP_OVER_DEFAULT,
        .nr_sqs = (uint16_t)ctrl->max_queues,
        .nr_cqs = (uint16_t)ctrl->max_queues,
    };
}

void vn_feature_reset(struct vn_ctrl *ctrl) {
    ctrl->features = default_features(ctrl);
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

/* All but error recovery are the controller's own: a namespace has no say in them. */
static vn_status check_scope(const struct vn_req *req) {
    uint32_t nsid = req->cmd.nsid;
    if (nsid == 0 || nsid == VN_NSID_BROADCAST)
        return VN_SC_SUCCESS;
    if (!vn_ns_table_get(&req->ctrl->namespaces, nsid))
        return VN_SC_INVALID_NS;
    return (req->cmd.cdw10 & 0xff) == VN_FEAT_ERROR_RECOVERY ? VN_SC_SUCCESS : VN_SC_FEATURE_NOT_NS_SPECIFIC;
}

vn_status vn_feature_set(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    struct vn_features *features = &ctrl->features;
    uint32_t value = req->cmd.cdw11;
    if (req->cmd.cdw10 & SET_SAVE)
        return VN_SC_FEATURE_NOT_SAVEABLE;
    vn_status status = check_scope(req);
    if (status)
        return status;
    if (!offers(ctrl, (uint8_t)req->cmd.cdw10)) {
        req->error_location = 40; /* CDW10 */
        return VN_SC_INVALID_FIELD;
    }
    switch (req->cmd.cdw10 & 0xff) {
    case VN_FEAT_ARBITRATION:
        features->arbitration = value;
        return VN_SC_SUCCESS;
    case VN_FEAT_POWER:
        if ((value & 0x1f) > vn_persona_npss(ctrl))
            return VN_SC_INVALID_FIELD;
        features->power = value & 0xff;
        return VN_SC_SUCCESS;
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
    case VN_FEAT_KEEP_ALIVE:
        ctrl->fabrics->kato_ms = vn_kato_round(value);
        ctrl->door->kato_changed(ctrl);
        return VN_SC_SUCCESS;
    default:
        req->error_location = 40; /* CDW10 */
        return VN_SC_INVALID_FIELD;
    }
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
    default:
        return VN_SC_INVALID_FIELD;
    }
}

vn_status vn_feature_get(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint32_t select = (req->cmd.cdw10 >> 8) & 0x7;
    struct vn_features defaults = default_features(ctrl);
    uint32_t value = 0;
    if (!offers(ctrl, (uint8_t)req->cmd.cdw10))
        return VN_SC_INVALID_FIELD;
    vn_status status = VN_SC_SUCCESS;
    if ((uint8_t)req->cmd.cdw10 == VN_FEAT_KEEP_ALIVE) /* Connect sets it: a reset of the controller leaves it alone */
        value = select == VN_SEL_CURRENT ? ctrl->fabrics->kato_ms : 0;
    else
        status = read_value(select == VN_SEL_CURRENT ? &ctrl->features : &defaults, &req->cmd, &value);
    if (status)
        return status;
    switch (select) {
    case VN_SEL_CURRENT:
    case VN_SEL_DEFAULT:
    case VN_SEL_SAVED: /* nothing is saveable: the default is what a reset brings back */
        req->result = value;
        return VN_SC_SUCCESS;
    case VN_SEL_CAPABILITIES:
        req->result = CAP_CHANGEABLE;
        return VN_SC_SUCCESS;
    default:
        return VN_SC_INVALID_FIELD;
    }
}
