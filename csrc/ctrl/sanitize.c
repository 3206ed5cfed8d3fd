/* Sanitize (Base 5.24, 8.21): every namespace that is allocated in the drive is erased, from the first byte of its backend to the
 * last, in small steps in the background. What is due is kept: a restart goes on with it, and no command reaches a namespace
 * before all are done. Called by admin_cmd.c, drive.c and log_page.c.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/log.h"
#include "ns/ns_state.h"
#include "ns/zoned.h"

#define ACTION(cdw10) ((cdw10) & 0x7)
#define PASSES(cdw10) (((cdw10) >> 4) & 0xf) /* 0: sixteen */
#define ZEROES_BYTES (4ull << 20)
#define STEP_NS 1000000ull
#define WAIT_NS 20000000ull /* for a namespace that has not come yet, or is in use still */
#define NO_ESTIMATE 0xffffffffu

static void step(struct vn_drive *drive);

uint32_t vn_sanitize_capabilities(const struct vn_drive *drive) {
    uint32_t sanicap = VN_SANICAP_CRYPTO | VN_SANICAP_BLOCK | VN_SANICAP_OVERWRITE | VN_SANICAP_NOT_MODIFIED;
    for (uint32_t nsid = 0; (nsid = vn_drive_next_space(drive, nsid));)
        sanicap |= drive->spaces[nsid]->zoned ? VN_SANICAP_NDI : 0; /* its zones are empty then: nothing stays allocated */
    return sanicap;
}

/* No-Deallocate After Sanitize is asked for, where there is no such thing (Base 8.21). */
static bool wants_the_impossible(const struct vn_drive *drive, uint32_t cdw10) {
    return (cdw10 & VN_SANITIZE_NODAS) && (vn_sanitize_capabilities(drive) & VN_SANICAP_NDI);
}

static bool deallocates(const struct vn_drive *drive) {
    uint32_t cdw10 = drive->kept.sanitize.cdw10;
    return !(cdw10 & VN_SANITIZE_NODAS) || wants_the_impossible(drive, cdw10);
}

static uint32_t nr_passes(const struct vn_sanitize_kept *sanitize) {
    if (ACTION(sanitize->cdw10) != VN_SANACT_OVERWRITE)
        return 1;
    return PASSES(sanitize->cdw10) ? PASSES(sanitize->cdw10) : 16;
}

static bool is_due(const struct vn_sanitize_kept *sanitize, uint32_t nsid) {
    return sanitize->due[nsid / 64] & 1ull << nsid % 64;
}

vn_status vn_sanitize_refusal(const struct vn_drive *drive) {
    const struct vn_sanitize_kept *sanitize = &drive->kept.sanitize;
    if (vn_drive_is_sanitized(drive))
        return VN_SC_SANITIZE_IN_PROGRESS;
    return sanitize->failure_mode ? VN_SC_SANITIZE_FAILED : VN_SC_SUCCESS;
}

static void refuse_all(struct vn_drive *drive) {
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        struct vn_ns *ns = drive->spaces[nsid];
        if (ns && ns->state) {
            ns->state->refusal = vn_sanitize_refusal(drive);
            vn_ns_state_look(ns);
        }
    }
}

/* --- The end --- */
static uint16_t progress_of(const struct vn_sanitize_kept *sanitize) {
    if (sanitize->status != VN_SANITIZE_RUNS || !sanitize->total)
        return sanitize->status == VN_SANITIZE_RUNS ? 0 : UINT16_MAX;
    unsigned __int128 part = (unsigned __int128)sanitize->done * 65536 / sanitize->total;
    return (uint16_t)(part < UINT16_MAX ? part : UINT16_MAX - 1);
}

static uint16_t status_of(const struct vn_sanitize_kept *sanitize) {
    return (uint16_t)(sanitize->status | (sanitize->pass & 0x1f) << 3);
}

static void on_end_saved(struct vn_keep_wait *wait, int err) {
    struct vn_drive *drive = vn_container_of(wait, struct vn_drive, sanitize_save);
    (void)err; /* not durable: a restart does the last of it again */
    drive->sanitize_ends = false;
    refuse_all(drive);
    vn_drive_raise(drive, VN_AEN_IO, VN_AEN_IO_SANITIZED);
    vn_self_test_resume(drive);
}

static void end(struct vn_drive *drive, bool failed) {
    struct vn_sanitize_kept *sanitize = &drive->kept.sanitize;
    struct vn_pel_sanitize_end event = {.progress = progress_of(sanitize)};
    vn_job_end(drive);
    sanitize->status = failed                                         ? VN_SANITIZE_HAS_FAILED
                       : wants_the_impossible(drive, sanitize->cdw10) ? VN_SANITIZE_DONE_DEALLOCATED
                                                                      : VN_SANITIZE_DONE;
    sanitize->failure_mode = !failed ? 0 : sanitize->cdw10 & VN_SANITIZE_AUSE ? VN_FAILURE_UNRESTRICTED : VN_FAILURE_RESTRICTED;
    if (ACTION(sanitize->cdw10) != VN_SANACT_OVERWRITE)
        sanitize->pass = 0;
    event.status = status_of(sanitize);
    vn_events_add(drive, NULL, VN_PEL_SANITIZE_END, &event, sizeof(event));
    drive->sanitize_ends = true;
    drive->sanitize_save.fn = on_end_saved;
    vn_drive_save(drive, &drive->sanitize_save);
}

/* --- The steps --- */
static void on_flushed(struct vn_drive *drive, vn_status status) {
    struct vn_sanitize_kept *sanitize = &drive->kept.sanitize;
    if (status) {
        end(drive, true);
        return;
    }
    struct vn_ns_state *state = drive->job.ns ? drive->job.ns->state : NULL;
    if (state && state->kept.marks.nr) { /* no block is what Write Uncorrectable has made it any more */
        state->kept.marks.nr = 0;
        vn_keep_save(state->keep, drive->reactor, NULL);
    }
    sanitize->due[sanitize->at_nsid / 64] &= ~(1ull << sanitize->at_nsid % 64);
    sanitize->at_nsid = 0;
    vn_drive_touch(drive);
    vn_job_later(drive, step, 0);
}

static void on_erased(struct vn_drive *drive, vn_status status) {
    struct vn_sanitize_kept *sanitize = &drive->kept.sanitize;
    if (status) {
        end(drive, true);
        return;
    }
    sanitize->at += drive->job.req.length;
    sanitize->done += drive->job.req.length;
    vn_drive_touch(drive);
    vn_job_later(drive, step, STEP_NS);
}

static void on_deallocated(struct vn_drive *drive, vn_status status) {
    struct vn_sanitize_kept *sanitize = &drive->kept.sanitize;
    if (status) {
        end(drive, true);
        return;
    }
    sanitize->at += drive->job.req.length;
    vn_job_later(drive, step, STEP_NS);
}

static void fill_pattern(struct vn_drive *drive) {
    const struct vn_sanitize_kept *sanitize = &drive->kept.sanitize;
    bool inverted = (sanitize->cdw10 & VN_SANITIZE_OIPBP) && (nr_passes(sanitize) - 1 - sanitize->pass) % 2;
    uint32_t pattern = inverted ? ~sanitize->cdw11 : sanitize->cdw11;
    for (size_t at = 0; at < VN_DRIVE_BUFFER_BYTES; at += sizeof(pattern))
        memcpy(drive->buffer + at, &pattern, sizeof(pattern));
}

/* One step of an overwrite of size bytes; then, where it is asked for, of giving the space back. False: all is done. */
static bool overwrite(struct vn_drive *drive, struct vn_ns *ns, uint64_t size) {
    struct vn_sanitize_kept *sanitize = &drive->kept.sanitize;
    if (sanitize->at >= size && sanitize->pass < nr_passes(sanitize)) {
        sanitize->pass++;
        sanitize->at = 0;
    }
    if (sanitize->pass < nr_passes(sanitize)) {
        fill_pattern(drive);
        vn_job_do(drive, ns, VN_OP_WRITE, 0, sanitize->at, vn_min_u64(VN_DRIVE_BUFFER_BYTES, size - sanitize->at), on_erased);
        return true;
    }
    uint64_t bytes = vn_min_u64(ZEROES_BYTES, size - vn_min_u64(sanitize->at, size));
    if (!bytes || (!ns->zoned && (!deallocates(drive) || !ns->backend->deallocates)))
        return false;
    if (ns->zoned) /* empty zones read as zeros, whatever was asked for */
        vn_job_do(drive, ns, VN_OP_WRITE_ZEROES, VN_REQ_MAY_UNMAP, sanitize->at, bytes, on_deallocated);
    else
        vn_job_do(drive, ns, VN_OP_DEALLOCATE, 0, sanitize->at, bytes, on_deallocated);
    return true;
}

static bool zero(struct vn_drive *drive, struct vn_ns *ns, uint64_t size) {
    struct vn_sanitize_kept *sanitize = &drive->kept.sanitize;
    if (sanitize->at >= size)
        return false;
    vn_job_do(drive, ns, VN_OP_WRITE_ZEROES, deallocates(drive) ? VN_REQ_MAY_UNMAP : 0, sanitize->at,
              vn_min_u64(ZEROES_BYTES, size - sanitize->at), on_erased);
    return true;
}

/* Commands that came before may be under way; none comes any more. */
static bool is_in_use(const struct vn_drive *drive, uint32_t nsid) {
    bool in_use = false;
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        struct vn_ns_chan *nsc = drive->ctrls[i] ? drive->ctrls[i]->namespaces.by_nsid[nsid] : NULL;
        if (nsc && (vn_ns_release(nsc) || nsc->inflight || vn_ctrl_uses_ns(drive->ctrls[i], nsc)))
            in_use = true;
    }
    return in_use;
}

/* The next one that is due; 0: none is. */
static uint32_t next_due(const struct vn_drive *drive) {
    const struct vn_sanitize_kept *sanitize = &drive->kept.sanitize;
    uint32_t absent = 0;
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        if (!is_due(sanitize, nsid))
            continue;
        if (drive->spaces[nsid])
            return nsid;
        absent = nsid;
    }
    return absent;
}

static void step(struct vn_drive *drive) {
    struct vn_sanitize_kept *sanitize = &drive->kept.sanitize;
    if (!sanitize->at_nsid || !drive->spaces[sanitize->at_nsid]) {
        uint32_t next = next_due(drive);
        if (!next) {
            end(drive, false);
            return;
        }
        if (!drive->spaces[next]) { /* nothing is to be seen of any of them before this one comes and is erased */
            vn_job_later(drive, step, WAIT_NS);
            return;
        }
        sanitize->at_nsid = next;
        sanitize->at = sanitize->pass = 0;
    }
    struct vn_ns *ns = drive->spaces[sanitize->at_nsid];
    if (is_in_use(drive, sanitize->at_nsid)) {
        vn_job_later(drive, step, STEP_NS);
        return;
    }
    uint64_t size = vn_backend_whole_size(ns->backend);
    bool more = ACTION(sanitize->cdw10) == VN_SANACT_OVERWRITE ? overwrite(drive, ns, size) : zero(drive, ns, size);
    if (!more && ns->zoned) /* durable with the flush */
        vn_zones_clear(&ns->zoned->zones);
    if (!more)
        vn_job_do(drive, ns, VN_OP_FLUSH, 0, 0, 0, on_flushed);
}

void vn_sanitize_resume(struct vn_drive *drive) {
    if (drive->kept.sanitize.status == VN_SANITIZE_RUNS && !drive->job.step)
        vn_job_later(drive, step, 0);
}

/* --- The command --- */
static void on_begin_saved(struct vn_keep_wait *wait, int err) {
    struct vn_req *req = vn_drive_waiter(wait);
    struct vn_drive *drive = req->ctrl->drive;
    if (err) { /* it has not begun */
        drive->kept.sanitize.status = VN_SANITIZE_HAS_FAILED;
        drive->kept.sanitize.failure_mode = 0;
        refuse_all(drive);
    } else {
        vn_job_later(drive, step, 0);
    }
    vn_req_complete(req, err ? VN_SC_INTERNAL : VN_SC_SUCCESS);
}

/* Fabrics, or another drive, have one of them: they would go on with it (see vn_ns_hold). */
static bool any_held(const struct vn_drive *drive) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the refusals are there: who comes from now on sees them */
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        if (drive->spaces[nsid] && __atomic_load_n(&drive->spaces[nsid]->nr_holds, __ATOMIC_SEQ_CST))
            return true;
    }
    return false;
}

static bool begin(struct vn_req *req) {
    struct vn_drive *drive = req->ctrl->drive;
    struct vn_sanitize_kept *sanitize = &drive->kept.sanitize, before = *sanitize;
    struct vn_pel_sanitize_start event = {vn_sanitize_capabilities(drive), req->cmd.cdw10, req->cmd.cdw11};
    *sanitize = (struct vn_sanitize_kept){.status = VN_SANITIZE_RUNS, .cdw10 = req->cmd.cdw10, .cdw11 = req->cmd.cdw11};
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        if (!drive->spaces[nsid])
            continue;
        sanitize->due[nsid / 64] |= 1ull << nsid % 64;
        sanitize->total += vn_backend_whole_size(drive->spaces[nsid]->backend) * nr_passes(sanitize);
    }
    refuse_all(drive);
    if (any_held(drive)) {
        *sanitize = before;
        refuse_all(drive);
        return false;
    }
    vn_self_test_end(drive, VN_TEST_SANITIZE, 0, NULL);
    vn_events_add(drive, req->ctrl, VN_PEL_SANITIZE_START, &event, sizeof(event));
    struct vn_keep_wait *wait = vn_drive_wait_of(req);
    wait->fn = on_begin_saved;
    vn_req_set_state(req, VN_REQ_TAKEN);
    vn_drive_save(drive, wait);
    return true;
}

static bool any_formatted(const struct vn_drive *drive) {
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        const struct vn_ns *ns = drive->spaces[nsid];
        if (ns && ns->state && ns->state->run)
            return true;
    }
    return false;
}

static bool any_protected(const struct vn_drive *drive) {
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++) {
        const struct vn_ns *ns = drive->spaces[nsid];
        if (ns && (ns->read_only || (ns->state && ns->state->kept.write_protect)))
            return true;
    }
    return false;
}

static vn_status check(const struct vn_req *req) {
    const struct vn_drive *drive = req->ctrl->drive;
    uint32_t action = ACTION(req->cmd.cdw10);
    bool restricted = drive->kept.sanitize.failure_mode == VN_FAILURE_RESTRICTED;
    if (action < VN_SANACT_EXIT_FAILURE || action > VN_SANACT_CRYPTO)
        return VN_SC_INVALID_FIELD;
    if (restricted && (action == VN_SANACT_EXIT_FAILURE || (req->cmd.cdw10 & VN_SANITIZE_AUSE)))
        return VN_SC_SANITIZE_FAILED;
    if (action == VN_SANACT_EXIT_FAILURE)
        return VN_SC_SUCCESS;
    if (wants_the_impossible(drive, req->cmd.cdw10) && !drive->nodrm)
        return VN_SC_INVALID_FIELD;
    if (drive->kept.firmware.next)
        return VN_SC_FIRMWARE_NEEDS_RESET;
    if (any_formatted(drive))
        return VN_SC_FORMAT_IN_PROGRESS;
    return any_protected(drive) ? VN_SC_NS_WRITE_PROTECTED : VN_SC_SUCCESS;
}

bool vn_sanitize_command(struct vn_req *req, vn_status *status) {
    struct vn_drive *drive = req->ctrl->drive;
    *status = check(req);
    if (*status)
        return false;
    if (ACTION(req->cmd.cdw10) != VN_SANACT_EXIT_FAILURE) {
        bool begun = begin(req);
        *status = begun ? VN_SC_SUCCESS : VN_SC_OPERATION_DENIED;
        return begun;
    }
    drive->kept.sanitize.failure_mode = 0;
    refuse_all(drive);
    vn_drive_save_for(req);
    return true;
}

/* Admin commands and logs that go on meanwhile (Base 8.21.1), and logs that say what the device is, not what is in it. */
vn_status vn_drive_allows(const struct vn_req *req) {
    static const uint8_t logs[] = {VN_LOG_SUPPORTED, VN_LOG_ERROR, VN_LOG_SMART, VN_LOG_FIRMWARE, VN_LOG_CHANGED_NS,
                                   VN_LOG_EFFECTS, VN_LOG_FEATURES, VN_LOG_RESERVATION, VN_LOG_SANITIZE};
    vn_status refusal = req->ctrl->drive ? vn_sanitize_refusal(req->ctrl->drive) : VN_SC_SUCCESS;
    if (!refusal)
        return VN_SC_SUCCESS;
    switch (req->cmd.opcode) {
    case VN_ADMIN_DELETE_SQ:
    case VN_ADMIN_CREATE_SQ:
    case VN_ADMIN_DELETE_CQ:
    case VN_ADMIN_CREATE_CQ:
    case VN_ADMIN_IDENTIFY:
    case VN_ADMIN_ABORT:
    case VN_ADMIN_SET_FEATURES:
    case VN_ADMIN_GET_FEATURES:
    case VN_ADMIN_ASYNC_EVENT:
    case VN_ADMIN_KEEP_ALIVE:
    case VN_ADMIN_DOORBELL_CONFIG:
        return VN_SC_SUCCESS;
    case VN_ADMIN_SANITIZE:
        return refusal == VN_SC_SANITIZE_FAILED ? VN_SC_SUCCESS : refusal;
    case VN_ADMIN_GET_LOG_PAGE:
        for (size_t i = 0; i < sizeof(logs); i++) {
            if (logs[i] == (uint8_t)req->cmd.cdw10)
                return VN_SC_SUCCESS;
        }
        return refusal;
    default:
        return refusal;
    }
}

void vn_sanitize_log(struct vn_log *log) {
    const struct vn_drive *drive = log->req->ctrl->drive;
    struct vn_sanitize_kept sanitize = drive->kept.sanitize;
    if (drive->sanitize_ends)
        sanitize.status = VN_SANITIZE_RUNS;
    struct vn_log_sanitize page = {
        .progress = progress_of(&sanitize),
        .status = status_of(&sanitize),
        .cdw10 = sanitize.cdw10,
        .overwrite_s = NO_ESTIMATE,
        .block_erase_s = NO_ESTIMATE,
        .crypto_erase_s = NO_ESTIMATE,
        .overwrite_nd_s = NO_ESTIMATE,
        .block_erase_nd_s = NO_ESTIMATE,
        .crypto_erase_nd_s = NO_ESTIMATE,
    };
    vn_log_put(log, &page, sizeof(page));
}
