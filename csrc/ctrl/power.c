/* Power states, see power.h. Called by identify.c, feature.c, admin_cmd.c and persona.c. */
#include "ctrl/power.h"

#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/persona.h"

#define PS(value) ((value) & 0x1fu)
#define NS_PER_MS 1000000ull
#define ENTRY_TARGET(entry) ((uint32_t)((entry) >> 3) & 0x1fu)       /* ITPS */
#define ENTRY_MS(entry) ((uint32_t)((entry) >> 8) & 0xffffffu)       /* ITPT */
#define ENTRY_RESERVED 0xffffffff00000007ull
#define STEPS_MAX 32u /* that are worked out at once; a table that goes round has more */
#define MNTMT_DEFAULT (273 + 50)
#define MXTMT_DEFAULT (273 + 84)
#define SAVED_APST (1u << 0)
#define SAVED_HCTM (1u << 1)
#define SAVED_PERMISSIVE (1u << 2)

/* An invented drive of 25 W: three states that take commands, two that sleep. In descending order of power (Base 8.15). */
static const struct vn_power_state states_default[] = {
    {.mp = 2500},
    {.mp = 1800, .enlat = 20, .exlat = 20, .rrt = 1, .rrl = 1, .rwt = 1, .rwl = 1},
    {.mp = 1100, .enlat = 50, .exlat = 50, .rrt = 2, .rrl = 2, .rwt = 2, .rwl = 2},
    {.mp = 9000, .flags = VN_PSD_MXPS | VN_PSD_NOPS, .enlat = 2000, .exlat = 3000, .rrt = 3, .rrl = 3, .rwt = 3, .rwl = 3},
    {.mp = 400, .flags = VN_PSD_MXPS | VN_PSD_NOPS, .enlat = 8000, .exlat = 30000, .rrt = 4, .rrl = 4, .rwt = 4, .rwl = 4},
};

static const struct vn_power_state *states_of(const struct vn_ctrl *ctrl, uint32_t *nr) {
    const struct vn_persona *persona = vn_persona_of(ctrl);
    if (persona && persona->nr_power_states) {
        *nr = persona->nr_power_states;
        return persona->power_states;
    }
    *nr = ctrl->drive ? VN_ARRAY_SIZE(states_default) : 1; /* on fabrics the power is another one's business */
    return states_default;
}

/* False, too: there is no such state. */
static bool sleeps(const struct vn_ctrl *ctrl, uint32_t state) {
    uint32_t nr;
    const struct vn_power_state *states = states_of(ctrl, &nr);
    return state < nr && (states[state].flags & VN_PSD_NOPS);
}

static bool may_go_by_itself(const struct vn_ctrl *ctrl) {
    const struct vn_persona *persona = vn_persona_of(ctrl);
    return ctrl->drive && !(persona && (persona->power_off & VN_PERSONA_NO_APST));
}

static bool has_hctm(const struct vn_ctrl *ctrl) {
    const struct vn_persona *persona = vn_persona_of(ctrl);
    return ctrl->drive && !(persona && (persona->power_off & VN_PERSONA_NO_HCTM));
}

/* Above the temperature that it has, always: there is never anything to do. */
static uint32_t hctm_least(const struct vn_ctrl *ctrl) {
    const struct vn_persona *persona = vn_persona_of(ctrl);
    uint32_t least = persona && persona->mntmt ? persona->mntmt : MNTMT_DEFAULT;
    return least > VN_TEMPERATURE_K ? least : VN_TEMPERATURE_K + 1;
}

static uint32_t hctm_most(const struct vn_ctrl *ctrl) {
    const struct vn_persona *persona = vn_persona_of(ctrl);
    uint32_t least = hctm_least(ctrl), most = persona && persona->mxtmt ? persona->mxtmt : MXTMT_DEFAULT;
    return most > least ? most : least;
}

void vn_power_identify(const struct vn_ctrl *ctrl, struct vn_id_ctrl *id) {
    uint32_t nr;
    const struct vn_power_state *states = states_of(ctrl, &nr);
    memcpy(id->psd, states, nr * sizeof(*states));
    id->npss = (uint8_t)(nr - 1);
    if (!ctrl->drive)
        return;
    id->ctratt |= VN_CTRATT_PERMISSIVE;
    id->apsta = may_go_by_itself(ctrl) ? 1 : 0;
    if (!has_hctm(ctrl))
        return;
    id->hctma = 1;
    id->mntmt = (uint16_t)hctm_least(ctrl);
    id->mxtmt = (uint16_t)hctm_most(ctrl);
}

/* --- The state --- */
static void enter(struct vn_ctrl *ctrl, uint32_t state, uint64_t now) {
    ctrl->features.power = (ctrl->features.power & ~PS(UINT32_MAX)) | state;
    ctrl->power.since_ns = now;
    if (!sleeps(ctrl, state))
        ctrl->power.operational = (uint8_t)state;
}

static void go_by_itself(struct vn_ctrl *ctrl, uint64_t now) {
    struct vn_power *power = &ctrl->power;
    for (uint32_t i = 0; i < STEPS_MAX; i++) {
        uint64_t entry = power->config.apst[PS(ctrl->features.power)];
        uint64_t idle_ns = ENTRY_MS(entry) * NS_PER_MS;
        if (!idle_ns || now < power->since_ns + idle_ns)
            return;
        enter(ctrl, ENTRY_TARGET(entry), power->since_ns + idle_ns);
    }
    power->since_ns = now;
}

void vn_power_look(struct vn_ctrl *ctrl) {
    struct vn_power *power = &ctrl->power;
    uint64_t now = vn_reactor_now_ns(ctrl->reactor);
    bool busy = ctrl->nr_inflight > ctrl->sqs[0].nr_inflight;
    if (busy || ctrl->counters.commands != power->commands) {
        uint64_t last_ns = busy ? now : ctrl->idle_since_ns;
        power->commands = ctrl->counters.commands;
        if (sleeps(ctrl, PS(ctrl->features.power)))
            enter(ctrl, power->operational, last_ns);
        power->since_ns = last_ns > power->since_ns ? last_ns : power->since_ns;
    }
    if (power->config.apste)
        go_by_itself(ctrl, now);
}

/* --- Features --- */
static struct vn_ctrl_power_kept *kept_of(const struct vn_ctrl *ctrl) {
    return &ctrl->drive->kept.power[vn_drive_place(ctrl->drive, ctrl->kept)];
}

void vn_power_forget_saved(struct vn_drive *drive, const struct vn_ctrl_kept *place) {
    drive->kept.power[vn_drive_place(drive, place)] = (struct vn_ctrl_power_kept){0};
}

static struct vn_power_config saved_config(const struct vn_ctrl *ctrl) {
    struct vn_power_config config = {0};
    if (!ctrl->drive)
        return config;
    const struct vn_ctrl_power_kept *kept = kept_of(ctrl);
    if ((kept->saved & SAVED_APST) && may_go_by_itself(ctrl)) {
        config.apste = kept->apste;
        memcpy(config.apst, kept->apst, sizeof(config.apst));
    }
    if ((kept->saved & SAVED_HCTM) && has_hctm(ctrl))
        config.hctm = kept->hctm;
    if (kept->saved & SAVED_PERMISSIVE)
        config.permissive = kept->permissive;
    return config;
}

static bool is_possible(const struct vn_ctrl *ctrl, const uint64_t apst[VN_POWER_STATES]) {
    uint32_t nr;
    states_of(ctrl, &nr);
    for (uint32_t state = 0; state < VN_POWER_STATES; state++) {
        if (apst[state] & ENTRY_RESERVED)
            return false;
        if (ENTRY_MS(apst[state]) && (state >= nr || !sleeps(ctrl, ENTRY_TARGET(apst[state]))))
            return false;
    }
    return true;
}

void vn_power_reset(struct vn_ctrl *ctrl) {
    ctrl->power = (struct vn_power){.config = saved_config(ctrl), .commands = ctrl->counters.commands};
    if (!is_possible(ctrl, ctrl->power.config.apst)) { /* it was saved when the drive was another persona */
        ctrl->power.config.apste = false;
        memset(ctrl->power.config.apst, 0, sizeof(ctrl->power.config.apst));
    }
    if (PS(ctrl->features.power) > vn_power_last(ctrl))
        ctrl->features.power = 0;
    enter(ctrl, PS(ctrl->features.power), vn_monotonic_ns()); /* perhaps on the control thread */
}

uint32_t vn_power_last(const struct vn_ctrl *ctrl) {
    uint32_t nr;
    states_of(ctrl, &nr);
    return nr - 1;
}

bool vn_power_has_feature(const struct vn_ctrl *ctrl, uint8_t fid) {
    return (fid != VN_FEAT_APST || may_go_by_itself(ctrl)) && (fid != VN_FEAT_HCTM || has_hctm(ctrl));
}

vn_status vn_power_set_state(struct vn_ctrl *ctrl, uint32_t value) {
    if (PS(value) > vn_power_last(ctrl))
        return VN_SC_INVALID_FIELD;
    ctrl->features.power = value & 0xff;
    enter(ctrl, PS(value), vn_reactor_now_ns(ctrl->reactor));
    return VN_SC_SUCCESS;
}

bool vn_power_is_feature(uint8_t fid) {
    return fid == VN_FEAT_APST || fid == VN_FEAT_HCTM || fid == VN_FEAT_PERMISSIVE;
}

static vn_status set_apst(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    uint64_t apst[VN_POWER_STATES];
    vn_status status = vn_ctrl_receive(req, apst, sizeof(apst));
    if (status)
        return status;
    if (!is_possible(ctrl, apst))
        return VN_SC_INVALID_FIELD;
    memcpy(ctrl->power.config.apst, apst, sizeof(apst));
    ctrl->power.config.apste = req->cmd.cdw11 & 1;
    ctrl->power.since_ns = vn_reactor_now_ns(ctrl->reactor); /* it is idle from now on */
    return VN_SC_SUCCESS;
}

/* TMT1 in the upper half is below TMT2, where both are set (Base 5.27.1.12). */
static vn_status set_hctm(struct vn_ctrl *ctrl, uint32_t value) {
    uint32_t light = value >> 16, heavy = value & 0xffff, least = hctm_least(ctrl), most = hctm_most(ctrl);
    if ((light && (light < least || light > most)) || (heavy && (heavy < least || heavy > most)) ||
        (light && heavy && light >= heavy))
        return VN_SC_INVALID_FIELD;
    ctrl->power.config.hctm = value;
    return VN_SC_SUCCESS;
}

vn_status vn_power_set_feature(struct vn_req *req) {
    switch ((uint8_t)req->cmd.cdw10) {
    case VN_FEAT_APST:
        return set_apst(req);
    case VN_FEAT_HCTM:
        return set_hctm(req->ctrl, req->cmd.cdw11);
    default:
        req->ctrl->power.config.permissive = req->cmd.cdw11 & 1;
        return VN_SC_SUCCESS;
    }
}

vn_status vn_power_get_feature(struct vn_req *req, uint32_t select) {
    const struct vn_ctrl *ctrl = req->ctrl;
    struct vn_power_config config = select == VN_SEL_CURRENT   ? ctrl->power.config
                                    : select == VN_SEL_DEFAULT ? (struct vn_power_config){0}
                                                               : saved_config(ctrl);
    switch ((uint8_t)req->cmd.cdw10) {
    case VN_FEAT_APST:
        req->result = config.apste;
        return vn_ctrl_send(req, config.apst, sizeof(config.apst), sizeof(config.apst));
    case VN_FEAT_HCTM:
        req->result = config.hctm;
        return VN_SC_SUCCESS;
    default:
        req->result = config.permissive;
        return VN_SC_SUCCESS;
    }
}

void vn_power_save(struct vn_ctrl *ctrl, uint8_t fid) {
    struct vn_ctrl_power_kept *kept = kept_of(ctrl);
    const struct vn_power_config *config = &ctrl->power.config;
    switch (fid) {
    case VN_FEAT_APST:
        kept->saved |= SAVED_APST;
        kept->apste = config->apste;
        memcpy(kept->apst, config->apst, sizeof(kept->apst));
        break;
    case VN_FEAT_HCTM:
        kept->saved |= SAVED_HCTM;
        kept->hctm = config->hctm;
        break;
    default:
        kept->saved |= SAVED_PERMISSIVE;
        kept->permissive = config->permissive;
        break;
    }
}
