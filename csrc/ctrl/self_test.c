/* Device Self-test (Base 5.9, 8.6): blocks of the namespaces are really read, in small steps in the background. The short test
 * reads samples and ends with a reset; the extended one reads all, and goes on through resets and restarts of the program.
 * One test at a time in a drive. Called by admin_cmd.c and log_page.c.
 */
#include <string.h>

#include "core/status.h"
#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/log.h"

#define SAMPLE_BYTES 4096u
#define SAMPLES 32u /* of each namespace: 256 of them take 82 s, the short test has two minutes */
#define SAMPLE_EVERY_NS 10000000ull
#define READ_EVERY_NS 5000000ull /* VN_DRIVE_BUFFER_BYTES: 200 MiB a second */
#define WAIT_NS 100000000ull     /* for the controller to come back */
#define NS_PER_HOUR 3600000000000ull
#define SEGMENT_MEDIA 2u

static void step(struct vn_drive *drive);

static const struct vn_ctrl *tested_ctrl(const struct vn_drive *drive) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        const struct vn_ctrl *ctrl = drive->ctrls[i];
        if (ctrl && ctrl->cntlid == drive->kept.self_test.cntlid && ctrl->state == VN_CTRL_READY)
            return ctrl;
    }
    return NULL;
}

/* Bytes that a test reads of a namespace. */
static uint64_t work_of(const struct vn_ns *ns, uint32_t test) {
    uint64_t size = vn_backend_whole_size(ns->backend);
    return test == VN_SELF_TEST_EXTENDED ? size : vn_min_u64(SAMPLE_BYTES, size) * SAMPLES;
}

static void add_result(struct vn_drive *drive, struct vn_self_test_result result) {
    struct vn_self_test_kept *test = &drive->kept.self_test;
    vn_drive_fold(drive);
    result.status |= (uint8_t)(test->running << 4);
    result.power_on_hours = drive->kept.smart.on_ns / NS_PER_HOUR;
    memmove(&test->results[1], &test->results[0], sizeof(test->results) - sizeof(test->results[0]));
    test->results[0] = result;
    test->nr = (uint16_t)vn_min_u64(test->nr + 1u, VN_SELF_TEST_RESULTS);
    test->running = 0;
    vn_drive_touch(drive);
}

static void end(struct vn_drive *drive, enum vn_self_test_outcome outcome) {
    struct vn_self_test_result result = {.status = (uint8_t)outcome, .nsid = drive->kept.self_test.nsid};
    result.valid = result.nsid && result.nsid != VN_NSID_BROADCAST ? VN_TEST_NSID_VALID : 0;
    vn_job_end(drive);
    add_result(drive, result);
}

/* Diagnostic failure (Base 5.2.1). */
static void tell_of_failure(struct vn_drive *drive) {
    for (size_t i = 0; i < VN_DRIVE_MAX_CTRLS; i++) {
        if (!drive->ctrls[i])
            continue;
        vn_log_error_event(drive->ctrls[i], UINT16_MAX, UINT16_MAX);
        vn_aer_raise(drive->ctrls[i], VN_AEN_ERROR, VN_AEN_ERROR_DIAGNOSTIC);
    }
}

static void on_read(struct vn_drive *drive, vn_status status) {
    struct vn_self_test_kept *test = &drive->kept.self_test;
    bool extended = test->running == VN_SELF_TEST_EXTENDED;
    uint64_t bytes = drive->job.req.length;
    if (status) {
        const struct vn_ns *ns = drive->spaces[test->at_nsid];
        struct vn_self_test_result result = {
            .status = VN_TEST_SEGMENT_FAILED,
            .segment = SEGMENT_MEDIA,
            .valid = VN_TEST_NSID_VALID | VN_TEST_LBA_VALID | VN_TEST_SCT_VALID | VN_TEST_SC_VALID,
            .nsid = test->at_nsid,
            .lba = ns ? drive->job.req.offset >> ns->block_shift : 0,
            .sct = (uint8_t)(VN_STATUS_CODE(status) >> 8),
            .sc = (uint8_t)status,
        };
        vn_job_end(drive);
        add_result(drive, result);
        tell_of_failure(drive);
        return;
    }
    test->at += extended ? bytes : 1;
    test->done += bytes;
    if (extended)
        vn_drive_touch(drive);
    vn_job_later(drive, step, extended ? READ_EVERY_NS : SAMPLE_EVERY_NS);
}

/* The namespace after the present one, or none. */
static bool next_ns(struct vn_drive *drive, const struct vn_ctrl *ctrl) {
    struct vn_self_test_kept *test = &drive->kept.self_test;
    bool only = test->nsid != VN_NSID_BROADCAST;
    uint32_t next = !only            ? vn_ns_table_next(&ctrl->namespaces, test->at_nsid)
                    : test->at_nsid ? 0
                                    : test->nsid;
    test->at_nsid = next;
    test->at = 0;
    return next;
}

static void step(struct vn_drive *drive) {
    struct vn_self_test_kept *test = &drive->kept.self_test;
    const struct vn_ctrl *ctrl = tested_ctrl(drive);
    if (!ctrl) {
        vn_job_later(drive, step, WAIT_NS);
        return;
    }
    bool extended = test->running == VN_SELF_TEST_EXTENDED;
    struct vn_ns_chan *nsc = vn_ns_table_get(&ctrl->namespaces, test->at_nsid);
    uint64_t size = nsc ? vn_backend_whole_size(nsc->ns->backend) : 0;
    if (!nsc || test->at >= (extended ? size : SAMPLES)) {
        bool removed = !nsc && test->at_nsid && test->nsid != VN_NSID_BROADCAST;
        if (removed || !next_ns(drive, ctrl)) {
            end(drive, removed ? VN_TEST_NS_REMOVED : VN_TEST_PASSED);
            return;
        }
        vn_job_later(drive, step, 0);
        return;
    }
    uint64_t bytes = vn_min_u64(extended ? VN_DRIVE_BUFFER_BYTES : SAMPLE_BYTES, extended ? size - test->at : size);
    uint64_t offset = extended ? test->at : (size - bytes) / SAMPLES * test->at & ~(uint64_t)(SAMPLE_BYTES - 1);
    if (!bytes) {
        test->at = UINT64_MAX;
        vn_job_later(drive, step, 0);
        return;
    }
    vn_job_do(drive, nsc->ns, VN_OP_READ, 0, offset, bytes, on_read);
}

void vn_self_test_resume(struct vn_drive *drive) {
    if (drive->kept.self_test.running && !drive->job.step && !vn_drive_is_sanitized(drive))
        vn_job_later(drive, step, 0);
}

void vn_self_test_end(struct vn_drive *drive, enum vn_self_test_outcome outcome, uint32_t nsid, const struct vn_ctrl *ctrl) {
    const struct vn_self_test_kept *test = &drive->kept.self_test;
    if (!test->running)
        return;
    if (ctrl && (ctrl->cntlid != test->cntlid || test->running == VN_SELF_TEST_EXTENDED)) /* that goes on through resets */
        return;
    bool all = !nsid || nsid == VN_NSID_BROADCAST || test->nsid == VN_NSID_BROADCAST;
    if (all || nsid == test->nsid)
        end(drive, outcome);
}

static vn_status begin(struct vn_req *req, uint32_t code) {
    struct vn_ctrl *ctrl = req->ctrl;
    struct vn_drive *drive = ctrl->drive;
    struct vn_self_test_kept *test = &drive->kept.self_test;
    uint32_t nsid = req->cmd.nsid;
    if (nsid && nsid != VN_NSID_BROADCAST && !vn_ns_table_get(&ctrl->namespaces, nsid))
        return nsid > VN_MAX_NAMESPACES ? VN_SC_INVALID_NS : VN_SC_INVALID_FIELD;
    if (test->running)
        return VN_SC_SELF_TEST_IN_PROGRESS;
    test->running = code;
    test->nsid = nsid;
    test->cntlid = ctrl->cntlid;
    test->at_nsid = 0;
    test->at = test->done = test->total = 0;
    for (uint32_t each = 0; nsid && (each = vn_ns_table_next(&ctrl->namespaces, each));) {
        if (nsid == VN_NSID_BROADCAST || each == nsid)
            test->total += work_of(ctrl->namespaces.by_nsid[each]->ns, code);
    }
    vn_job_later(drive, step, SAMPLE_EVERY_NS);
    return VN_SC_SUCCESS;
}

bool vn_self_test_command(struct vn_req *req, vn_status *status) {
    uint32_t code = req->cmd.cdw10 & 0xf;
    *status = VN_SC_SUCCESS;
    if (code == VN_SELF_TEST_ABORT)
        vn_self_test_end(req->ctrl->drive, VN_TEST_ABORTED, 0, NULL);
    else if (code == VN_SELF_TEST_SHORT || code == VN_SELF_TEST_EXTENDED)
        *status = begin(req, code);
    else
        *status = VN_SC_INVALID_FIELD;
    if (*status)
        return false;
    vn_drive_save_for(req);
    return true;
}

void vn_self_test_log(struct vn_log *log) {
    const struct vn_self_test_kept *test = &log->req->ctrl->drive->kept.self_test;
    struct vn_log_self_test page = {.operation = (uint8_t)test->running};
    if (test->running && test->total)
        page.completion = (uint8_t)vn_min_u64(test->done * 100 / test->total, 99);
    memcpy(page.results, test->results, sizeof(page.results));
    for (uint32_t i = test->nr; i < VN_SELF_TEST_RESULTS; i++)
        page.results[i].status = VN_TEST_UNUSED;
    vn_log_put(log, &page, sizeof(page));
}

/* Minutes that the extended test takes, at the rate above. */
uint16_t vn_self_test_minutes(const struct vn_drive *drive) {
    uint64_t bytes = 0, each = VN_DRIVE_BUFFER_BYTES * (60000000000ull / READ_EVERY_NS);
    for (uint32_t nsid = 1; nsid <= VN_MAX_NAMESPACES; nsid++)
        bytes += drive->spaces[nsid] ? vn_backend_whole_size(drive->spaces[nsid]->backend) : 0;
    return (uint16_t)vn_min_u64(bytes / each + 1, UINT16_MAX);
}
