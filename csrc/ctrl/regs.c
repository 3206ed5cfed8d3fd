/* The controller's properties (Base 3.1.3), and its states: enable, reset, shutdown.
 * Called by the doors for every register access; nothing here waits.
 */
#include <stdio.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/fabrics.h"

#define CAP_TO 20u /* 10 s, in units of 500 ms */
#define SHN_NONE 0u
#define AMS_WEIGHTED 1u /* weighted round robin with urgent priority class */

static void finish_disable(struct vn_ctrl *ctrl);
static void try_enable(struct vn_ctrl *ctrl);

void vn_ctrl_reset_regs(struct vn_ctrl *ctrl) {
    bool has_io = vn_ctrl_kind(ctrl) != VN_KIND_DISCOVERY;
    ctrl->cap = (uint64_t)(ctrl->max_entries - 1) << VN_CAP_MQES_SHIFT | VN_CAP_CQR |
                (uint64_t)CAP_TO << VN_CAP_TO_SHIFT | (has_io ? VN_CAP_CSS_NVM | VN_CAP_CSS_IOCS : VN_CAP_CSS_ADMIN);
    if (!ctrl->fabrics)
        ctrl->cap |= (uint64_t)AMS_WEIGHTED << VN_CAP_AMS_SHIFT;
    ctrl->cc = ctrl->csts = ctrl->intms = 0;
    ctrl->aqa = 0;
    ctrl->asq = ctrl->acq = 0;
}

/* Of a device's life; hosts on fabrics come and go by events of their own. */
static void tell(struct vn_ctrl *ctrl, enum vn_event_type type) {
    if (!ctrl->fabrics)
        vn_event_emit(ctrl->events, type, ctrl->id, 0, 0, "%s", "");
}

void vn_ctrl_set_state(struct vn_ctrl *ctrl, enum vn_ctrl_state state) {
    ctrl->state = state;
    switch (state) {
    case VN_CTRL_READY:
        ctrl->csts |= VN_CSTS_RDY;
        tell(ctrl, VN_EVENT_CTRL_ENABLED);
        break;
    case VN_CTRL_DISABLED:
        ctrl->csts = 0;
        tell(ctrl, VN_EVENT_CTRL_DISABLED);
        break;
    case VN_CTRL_DISABLING: /* RDY stays until nothing is in flight */
    case VN_CTRL_FATAL:
        break;
    }
    if (ctrl->drive && (state == VN_CTRL_READY || state == VN_CTRL_DISABLED))
        vn_drive_look(ctrl->drive, NULL);
}

void vn_ctrl_fatal(struct vn_ctrl *ctrl, const char *why) {
    if (ctrl->csts & VN_CSTS_CFS)
        return;
    ctrl->csts |= VN_CSTS_CFS;
    vn_ctrl_set_state(ctrl, VN_CTRL_FATAL);
    if (ctrl->drive)
        vn_telemetry_capture(ctrl, why);
    vn_event_emit(ctrl->events, VN_EVENT_CTRL_FATAL, ctrl->id, 0, 0, "%s", why);
}

uint64_t vn_ctrl_reg_read(struct vn_ctrl *ctrl, uint32_t offset, uint32_t size) {
    if ((size != 4 && size != 8) || offset % size)
        return 0;
    uint64_t low;
    switch (offset & ~7u) {
    case VN_REG_CAP:
        low = ctrl->cap;
        break;
    case VN_REG_VS:
        low = VN_VS_2_0 | (uint64_t)ctrl->intms << 32;
        break;
    case VN_REG_INTMC:
        low = ctrl->intms | (uint64_t)ctrl->cc << 32;
        break;
    case VN_REG_CSTS - 4:
        low = (uint64_t)ctrl->csts << 32;
        break;
    case VN_REG_AQA - 4:
        low = (uint64_t)ctrl->aqa << 32;
        break;
    case VN_REG_ASQ:
        low = ctrl->asq;
        break;
    case VN_REG_ACQ:
        low = ctrl->acq;
        break;
    case VN_REG_CRTO: /* CRWMT and CRIMT: the same as CAP.TO */
        low = CAP_TO | (uint32_t)CAP_TO << 16;
        break;
    default:
        low = 0;
    }
    if (size == 4)
        low = offset & 4 ? low >> 32 : low & UINT32_MAX;
    return low;
}

/* NULL, or why CC and the admin queue registers cannot be enabled with. */
static const char *enable_refusal(const struct vn_ctrl *ctrl) {
    unsigned css = VN_CC_CSS(ctrl->cc);
    if (css != 0 && css != 6 && css != 7)
        return "CC.CSS selects a command set that CAP.CSS does not offer";
    if (VN_CC_MPS(ctrl->cc) != 0)
        return "CC.MPS selects a page size other than 4 KiB";
    if (VN_CC_AMS(ctrl->cc) > (ctrl->fabrics ? 0u : AMS_WEIGHTED))
        return "CC.AMS selects an arbitration that CAP.AMS does not offer";
    /* Queue entry sizes may be set after enabling, but if set they must be ours (Base 3.1.3.5). */
    if (VN_CC_IOSQES(ctrl->cc) != 0 && VN_CC_IOSQES(ctrl->cc) != 6)
        return "CC.IOSQES is not 6 (64 bytes)";
    if (VN_CC_IOCQES(ctrl->cc) != 0 && VN_CC_IOCQES(ctrl->cc) != 4)
        return "CC.IOCQES is not 4 (16 bytes)";
    if (ctrl->fabrics) /* the admin queue came with Connect */
        return NULL;
    if (VN_AQA_ASQS(ctrl->aqa) == 0 || VN_AQA_ACQS(ctrl->aqa) == 0)
        return "AQA holds an admin queue of fewer than two entries";
    if ((ctrl->asq | ctrl->acq) & (VN_PAGE_SIZE - 1))
        return "ASQ or ACQ is not aligned to a page";
    return NULL;
}

static void try_enable(struct vn_ctrl *ctrl) {
    const char *refusal = enable_refusal(ctrl);
    if (!refusal && !ctrl->fabrics && vn_queue_open_admin(ctrl))
        refusal = "ASQ or ACQ points outside the memory that the VM shares";
    if (refusal) {
        vn_queue_reset_all(ctrl);
        vn_ctrl_fatal(ctrl, refusal);
        return;
    }
    ctrl->csts &= ~VN_CSTS_SHST_MASK; /* of a shutdown while disabled: it is over */
    ctrl->weighted = VN_CC_AMS(ctrl->cc) == AMS_WEIGHTED;
    ctrl->reset_ns = vn_reactor_now_ns(ctrl->reactor);
    vn_ctrl_set_state(ctrl, VN_CTRL_READY);
    if (ctrl->drive)
        vn_self_test_resume(ctrl->drive);
    vn_log_check_warnings(ctrl);
}

static void finish_disable(struct vn_ctrl *ctrl) {
    vn_queue_reset_all(ctrl);
    bool activated = ctrl->drive && vn_firmware_activate(ctrl->drive);
    vn_feature_reset(ctrl);
    ctrl->door->disabled(ctrl);
    if (ctrl->drive) {
        vn_events_power_on(ctrl, activated);
        vn_events_drop_context(ctrl);
        vn_self_test_end(ctrl->drive, VN_TEST_RESET, 0, ctrl);
    }
    vn_ctrl_set_state(ctrl, VN_CTRL_DISABLED);
    if (ctrl->cc & VN_CC_EN) /* the host did not wait for RDY = 0 */
        try_enable(ctrl);
}

void vn_ctrl_disable(struct vn_ctrl *ctrl) {
    if (ctrl->state == VN_CTRL_DISABLED || ctrl->state == VN_CTRL_DISABLING)
        return;
    vn_aer_drop_all(ctrl);
    ctrl->csts &= ~VN_CSTS_SHST_MASK;
    vn_ctrl_set_state(ctrl, VN_CTRL_DISABLING);
    vn_ctrl_drain(ctrl, finish_disable);
}

/* --- Shutdown (Base 3.6): flush every namespace, one after the other, then report --- */
static void shutdown_step(struct vn_ctrl *ctrl);
static void end_shutdown(struct vn_ctrl *ctrl, bool wanted);
static void on_shutdown_saved(struct vn_keep_wait *wait, int err);

static void on_shutdown_flush(struct vn_req *req, void *arg) {
    vn_req_set_state(req, VN_REQ_DONE);
    vn_req_set_state(req, VN_REQ_FREE);
    shutdown_step(arg);
}

static void shutdown_step(struct vn_ctrl *ctrl) {
    struct vn_req *req = &ctrl->shutdown_req;
    bool wanted = (ctrl->csts & VN_CSTS_SHST_MASK) == VN_CSTS_SHST_OCCURRING; /* else a reset has ended it */
    if (!ctrl->shutdown_nsid)
        ctrl->shutdown_again = false;
    while (wanted && (ctrl->shutdown_nsid = vn_ns_table_next(&ctrl->namespaces, ctrl->shutdown_nsid))) {
        struct vn_ns_chan *nsc = vn_ns_table_get(&ctrl->namespaces, ctrl->shutdown_nsid);
        *req = (struct vn_req){.op = VN_OP_FLUSH, .ctrl = ctrl, .ns = nsc, .limits = VN_REQ_PAID}; /* no limit holds it up */
        vn_req_set_state(req, VN_REQ_FETCHED);
        vn_req_push(req, on_shutdown_flush, ctrl);
        if (vn_ns_submit(nsc, req) == VN_BUSY) { /* offered again on the next turn */
            *req = (struct vn_req){0};
            ctrl->shutdown_nsid--;
            ctrl->shutdown_waits = true;
            if (ctrl->door->busy)
                ctrl->door->busy(ctrl);
        }
        return; /* goes on in on_shutdown_flush */
    }
    if (wanted && ctrl->drive) {
        ctrl->shutdown_save.fn = on_shutdown_saved;
        vn_drive_look(ctrl->drive, &ctrl->shutdown_save);
    } else {
        end_shutdown(ctrl, wanted);
    }
}

static void end_shutdown(struct vn_ctrl *ctrl, bool wanted) {
    ctrl->shutdown = false;
    if (!wanted && ctrl->door->busy) /* who waits for this to be over looks again */
        ctrl->door->busy(ctrl);
    if (!wanted)
        return;
    ctrl->csts = (ctrl->csts & ~VN_CSTS_SHST_MASK) | VN_CSTS_SHST_COMPLETE;
    tell(ctrl, VN_EVENT_CTRL_SHUTDOWN);
}

/* What the drive keeps is as durable as the data. A failure to save is told nowhere: the host has no way to hear of it. */
static void on_shutdown_saved(struct vn_keep_wait *wait, int err) {
    struct vn_ctrl *ctrl = vn_container_of(wait, struct vn_ctrl, shutdown_save);
    (void)err;
    if (ctrl->shutdown_again) {
        ctrl->shutdown_again = false;
        shutdown_step(ctrl);
        return;
    }
    end_shutdown(ctrl, (ctrl->csts & VN_CSTS_SHST_MASK) == VN_CSTS_SHST_OCCURRING);
}

void vn_ctrl_continue_shutdown(struct vn_ctrl *ctrl) {
    ctrl->shutdown_waits = false;
    shutdown_step(ctrl);
}

static void begin_shutdown(struct vn_ctrl *ctrl) {
    if (ctrl->csts & VN_CSTS_SHST_MASK)
        return;
    ctrl->csts |= VN_CSTS_SHST_OCCURRING;
    ctrl->shutdown_nsid = 0;
    ctrl->shutdown_again = ctrl->shutdown; /* an earlier one, before a reset, goes on: for us from the start */
    if (ctrl->shutdown)
        return;
    ctrl->shutdown = true;
    shutdown_step(ctrl);
}

static void write_cc(struct vn_ctrl *ctrl, uint32_t value) {
    uint32_t was = ctrl->cc;
    ctrl->cc = value;
    if (VN_CC_SHN(value) != SHN_NONE && VN_CC_SHN(was) != VN_CC_SHN(value))
        begin_shutdown(ctrl);
    if (!(was & VN_CC_EN) && (value & VN_CC_EN)) {
        if (ctrl->state == VN_CTRL_DISABLED)
            try_enable(ctrl);
    } else if ((was & VN_CC_EN) && !(value & VN_CC_EN)) {
        vn_ctrl_disable(ctrl);
    }
}

static void write32(struct vn_ctrl *ctrl, uint32_t offset, uint32_t value) {
    bool enabled = ctrl->cc & VN_CC_EN;
    switch (offset) {
    case VN_REG_INTMS:
        ctrl->intms |= value;
        ctrl->door->irq_mask_changed(ctrl);
        break;
    case VN_REG_INTMC:
        ctrl->intms &= ~value;
        ctrl->door->irq_mask_changed(ctrl);
        break;
    case VN_REG_CC:
        write_cc(ctrl, value);
        break;
    case VN_REG_AQA:
        if (!enabled)
            ctrl->aqa = value & 0x0fff0fff;
        break;
    case VN_REG_ASQ:
        if (!enabled)
            ctrl->asq = (ctrl->asq & ~0xffffffffull) | value;
        break;
    case VN_REG_ASQ + 4:
        if (!enabled)
            ctrl->asq = (ctrl->asq & 0xffffffffull) | (uint64_t)value << 32;
        break;
    case VN_REG_ACQ:
        if (!enabled)
            ctrl->acq = (ctrl->acq & ~0xffffffffull) | value;
        break;
    case VN_REG_ACQ + 4:
        if (!enabled)
            ctrl->acq = (ctrl->acq & 0xffffffffull) | (uint64_t)value << 32;
        break;
    default: /* read-only or reserved */
        break;
    }
}

void vn_ctrl_reg_write(struct vn_ctrl *ctrl, uint32_t offset, uint64_t value, uint32_t size) {
    if ((size != 4 && size != 8) || offset % size)
        return;
    write32(ctrl, offset, (uint32_t)value);
    if (size == 8)
        write32(ctrl, offset + 4, (uint32_t)(value >> 32));
}
