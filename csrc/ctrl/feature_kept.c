/* Features beyond a value of the controller: what a drive saves of them, the timestamp, the host's behaviour, and the write
 * protection of a namespace. Called by feature.c.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/feature.h"
#include "ns/ns_state.h"

#define NS_PER_MS 1000000u
#define TIMESTAMP_MASK 0xffffffffffffull /* six bytes */

/* --- Saved values --- */
#define SAVED_MARKER (1u << 0) /* there is no feature 00h: this bit of what is saved stands for 80h */

static uint32_t saved_bit(uint8_t fid) {
    return fid == VN_FEAT_PROGRESS_MARKER ? SAVED_MARKER : 1u << fid;
}

void vn_feature_load(const struct vn_ctrl_kept *kept, struct vn_features *features) {
    if (kept->saved & SAVED_MARKER)
        features->progress_marker = kept->progress_marker;
    for (uint32_t fid = 1; fid < 32; fid++) {
        if (!(kept->saved & 1u << fid))
            continue;
        switch (fid) {
        case VN_FEAT_ARBITRATION:
            features->arbitration = kept->arbitration;
            break;
        case VN_FEAT_POWER:
            features->power = kept->power;
            break;
        case VN_FEAT_TEMP_THRESHOLD:
            features->temp_over = kept->temp_over;
            features->temp_under = kept->temp_under;
            break;
        case VN_FEAT_ERROR_RECOVERY:
            features->error_recovery = kept->error_recovery;
            break;
        case VN_FEAT_VWC:
            features->vwc = kept->vwc;
            break;
        case VN_FEAT_IRQ_COALESCING:
            features->irq_coalescing = kept->irq_coalescing;
            break;
        case VN_FEAT_IRQ_VECTOR:
            for (uint32_t vector = 0; vector < VN_NR_VECTORS; vector++)
                features->irq_vector[vector] = kept->irq_vectors[vector / 64] >> vector % 64 & 1;
            break;
        case VN_FEAT_WRITE_ATOMICITY:
            features->write_atomicity = kept->write_atomicity;
            break;
        case VN_FEAT_ASYNC_EVENT:
            features->async_event = kept->async_event;
            break;
        default: /* of a later program */
            break;
        }
    }
}

/* Of features that are not saved it does not matter what stands there. */
void vn_feature_save(struct vn_ctrl_kept *kept, const struct vn_features *features, uint8_t fid) {
    struct vn_features all = *features;
    kept->saved &= ~saved_bit(fid);
    vn_feature_load(kept, &all); /* of the others what is saved already */
    kept->saved |= saved_bit(fid);
    kept->arbitration = all.arbitration;
    kept->power = all.power;
    kept->error_recovery = all.error_recovery;
    kept->vwc = all.vwc;
    kept->irq_coalescing = all.irq_coalescing;
    kept->write_atomicity = all.write_atomicity;
    kept->async_event = all.async_event;
    kept->progress_marker = (uint8_t)all.progress_marker;
    kept->temp_over = all.temp_over;
    kept->temp_under = all.temp_under;
    memset(kept->irq_vectors, 0, sizeof(kept->irq_vectors));
    for (uint32_t vector = 0; vector < VN_NR_VECTORS; vector++)
        kept->irq_vectors[vector / 64] |= (uint64_t)all.irq_vector[vector] << vector % 64;
}

/* --- Timestamp, 0Eh (Base 5.27.1.10): counts from a reset, or from what the host has set --- */
static uint64_t timestamp_ms(const struct vn_ctrl *ctrl) {
    uint64_t now = vn_reactor_now_ns(ctrl->reactor);
    uint64_t passed = now > ctrl->timestamp_ns ? now - ctrl->timestamp_ns : 0;
    return (ctrl->timestamp_ms + passed / NS_PER_MS) & TIMESTAMP_MASK;
}

static struct vn_timestamp make_timestamp(uint64_t ms, uint8_t attributes) {
    struct vn_timestamp timestamp = {.attributes = attributes};
    memcpy(timestamp.ms, &ms, sizeof(timestamp.ms));
    return timestamp;
}

struct vn_timestamp vn_timestamp_now(const struct vn_ctrl *ctrl) {
    return make_timestamp(timestamp_ms(ctrl), ctrl->timestamp_attributes);
}

static vn_status set_timestamp(struct vn_req *req) {
    struct vn_ctrl *ctrl = req->ctrl;
    struct vn_timestamp timestamp;
    vn_status status = vn_ctrl_receive(req, &timestamp, sizeof(timestamp));
    if (status)
        return status;
    struct vn_pel_timestamp event = {
        .previous = vn_timestamp_now(ctrl),
        .ms_since_reset = (vn_reactor_now_ns(ctrl->reactor) - ctrl->reset_ns) / NS_PER_MS,
    };
    ctrl->timestamp_ms = 0;
    memcpy(&ctrl->timestamp_ms, timestamp.ms, sizeof(timestamp.ms));
    ctrl->timestamp_ns = vn_reactor_now_ns(ctrl->reactor);
    ctrl->timestamp_attributes = VN_TIMESTAMP_SET;
    vn_events_add(ctrl->drive, ctrl, VN_PEL_TIMESTAMP, &event, sizeof(event));
    return VN_SC_SUCCESS;
}

/* --- Host Behavior Support, 16h (Base 5.27.1.18): retry delays are accepted, though none is asked for here --- */
static vn_status set_behavior(struct vn_req *req) {
    struct vn_host_behavior *behavior = req->buffer;
    vn_status status = vn_ctrl_receive(req, behavior, sizeof(*behavior));
    if (status)
        return status;
    if (behavior->acre > 1 || behavior->etdas || behavior->lbafee)
        return VN_SC_INVALID_FIELD;
    req->ctrl->host_acre = behavior->acre;
    return VN_SC_SUCCESS;
}

/* --- Namespace Write Protection, 84h (Base 5.27.1.33): a state of the namespace, for all its controllers --- */
/* The state is as it was before: req->step. */
static void end_protection(struct vn_req *req, vn_status status) {
    struct vn_ns *ns = req->ctrl->drive->spaces[req->cmd.nsid];
    if (status && ns && ns->state) {
        ns->state->kept.write_protect = req->step;
        vn_ns_state_look(ns);
    }
    if (!status)
        vn_drive_tell_changed(req->ctrl->drive, req->cmd.nsid, NULL);
    vn_req_complete(req, status);
}

static void on_protection_saved(struct vn_keep_wait *wait, int err) {
    end_protection(vn_drive_waiter(wait), err ? VN_SC_INTERNAL : VN_SC_SUCCESS);
}

static void save_protection(struct vn_req *req) {
    struct vn_keep *keep = req->ns->ns->state->keep;
    struct vn_keep_wait *wait = vn_drive_wait_of(req);
    req->ns = NULL; /* no backend has it */
    wait->fn = on_protection_saved;
    vn_req_set_state(req, VN_REQ_TAKEN);
    vn_keep_save(keep, req->ctrl->reactor, wait);
}

static void on_flushed(struct vn_req *req, void *arg) {
    (void)arg;
    vn_req_set_state(req, VN_REQ_FETCHED);
    if (req->status || req->cancelled)
        end_protection(req, req->status ? req->status : VN_SC_ABORT_REQUESTED);
    else
        save_protection(req);
}

bool vn_write_protect_set(struct vn_req *req, vn_status *status) {
    uint32_t to = req->cmd.cdw11 & 0x7;
    req->ns = vn_ns_table_get(&req->ctrl->namespaces, req->cmd.nsid);
    *status = VN_SC_INVALID_NS;
    if (!req->ns)
        return false;
    uint32_t now = req->ns->ns->state->kept.write_protect;
    *status = to > VN_WP_PERMANENT ? VN_SC_INVALID_FIELD
              : now >= VN_WP_UNTIL_POWER_CYCLE && to != now ? VN_SC_FEATURE_NOT_CHANGEABLE
                                                            : VN_SC_SUCCESS;
    if (*status || to == now)
        return false;
    vn_events_set_feature(req);
    req->step = now;
    req->ns->ns->state->kept.write_protect = to;
    vn_ns_state_look(req->ns->ns);
    if (now || req->ns->ns->read_only) {
        save_protection(req);
        return true;
    }
    req->op = VN_OP_FLUSH; /* what was written before is durable before it is protected */
    req->limits = VN_REQ_PAID;
    vn_req_push(req, on_flushed, NULL);
    if (vn_ns_submit(req->ns, req) == VN_BUSY)
        vn_ctrl_make_busy(req);
    return true;
}

static vn_status get_write_protect(struct vn_req *req, uint32_t select) {
    const struct vn_ns_chan *nsc = vn_ns_table_get(&req->ctrl->namespaces, req->cmd.nsid);
    if (!nsc)
        return VN_SC_INVALID_NS;
    req->result = select == VN_SEL_CURRENT ? nsc->ns->state->kept.write_protect : VN_WP_NONE;
    return VN_SC_SUCCESS;
}

/* --- All of them --- */
void vn_feature_reset_kept(struct vn_ctrl *ctrl) {
    ctrl->timestamp_ms = 0;
    ctrl->timestamp_ns = vn_monotonic_ns(); /* perhaps on the control thread */
    ctrl->timestamp_attributes = 0;
    ctrl->host_acre = 0;
}

bool vn_feature_is_kept(uint8_t fid) {
    return fid == VN_FEAT_TIMESTAMP || fid == VN_FEAT_HOST_BEHAVIOR || fid == VN_FEAT_WRITE_PROTECT;
}

vn_status vn_feature_set_kept(struct vn_req *req) {
    switch (req->cmd.cdw10 & 0xff) {
    case VN_FEAT_TIMESTAMP:
        return set_timestamp(req);
    case VN_FEAT_HOST_BEHAVIOR:
        return set_behavior(req);
    default:
        return VN_SC_INVALID_FIELD;
    }
}

vn_status vn_feature_get_kept(struct vn_req *req, uint32_t select) {
    const struct vn_ctrl *ctrl = req->ctrl;
    struct vn_timestamp timestamp = select == VN_SEL_CURRENT ? vn_timestamp_now(ctrl) : make_timestamp(0, 0);
    struct vn_host_behavior behavior = {.acre = select == VN_SEL_CURRENT ? ctrl->host_acre : 0};
    switch (req->cmd.cdw10 & 0xff) {
    case VN_FEAT_TIMESTAMP:
        return vn_ctrl_send(req, &timestamp, sizeof(timestamp), sizeof(timestamp));
    case VN_FEAT_HOST_BEHAVIOR:
        return vn_ctrl_send(req, &behavior, sizeof(behavior), sizeof(behavior));
    default:
        return get_write_protect(req, select);
    }
}
