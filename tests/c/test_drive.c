/* What a drive does in the background, and what it keeps: jobs that are ended, paused and moved on under their operations, events
 * and results that wrap, controllers that come back to their saved features.
 */
#include "ctrl/drive.h"
#include "ctrl_rig.h"

#define DATA_GPA (RIG_RAM_GPA + 0x20000)
#define NSID 1u

static vn_status admin(struct ctrl_rig *rig, uint8_t opcode, uint32_t nsid, uint32_t cdw10, uint32_t cdw11) {
    rig->nr_done = 0;
    return rig_admin(rig, (struct vn_sqe){.opcode = opcode, .nsid = nsid, .prp1 = DATA_GPA, .prp2 = DATA_GPA + VN_PAGE_SIZE,
                                          .cdw10 = cdw10, .cdw11 = cdw11}, NULL);
}

static void start_extended(struct ctrl_rig *rig) {
    CHECK_EQ(admin(rig, VN_ADMIN_SELF_TEST, VN_NSID_BROADCAST, VN_SELF_TEST_EXTENDED, 0), VN_SC_SUCCESS);
}

static void start_short(struct ctrl_rig *rig) {
    CHECK_EQ(admin(rig, VN_ADMIN_SELF_TEST, NSID, VN_SELF_TEST_SHORT, 0), VN_SC_SUCCESS);
}

static void abort_test(struct ctrl_rig *rig) {
    CHECK_EQ(admin(rig, VN_ADMIN_SELF_TEST, 0, VN_SELF_TEST_ABORT, 0), VN_SC_SUCCESS);
}

static void start_overwrite(struct ctrl_rig *rig) {
    CHECK_EQ(admin(rig, VN_ADMIN_SANITIZE, 0, VN_SANACT_OVERWRITE | 2u << 4 | VN_SANITIZE_NODAS, 0x11223344), VN_SC_SUCCESS);
}

static bool op_in_flight(struct ctrl_rig *rig) {
    return rig->ctrl.drive->job.inflight;
}

/* The backend is slow: the read of a test that was aborted is still there when the next job begins. */
static void test_a_job_ends_under_its_operation(struct ctrl_rig *rig) {
    const struct vn_drive_kept *kept = &rig->ctrl.drive->kept;
    rig_on(rig, start_extended);
    RIG_WAIT(rig, op_in_flight(rig));
    rig_on(rig, abort_test);
    CHECK_EQ(kept->self_test.results[0].status, VN_TEST_ABORTED | VN_SELF_TEST_EXTENDED << 4);
    rig_on(rig, start_short);
    RIG_WAIT(rig, kept->self_test.running == 0);
    CHECK_EQ(kept->self_test.results[0].status, VN_TEST_PASSED | VN_SELF_TEST_SHORT << 4);
    rig_on(rig, start_extended);
    RIG_WAIT(rig, op_in_flight(rig));
    rig_on(rig, start_overwrite); /* ends the test */
    CHECK_EQ(kept->self_test.results[0].status, VN_TEST_SANITIZE | VN_SELF_TEST_EXTENDED << 4);
    RIG_WAIT(rig, kept->sanitize.status == VN_SANITIZE_DONE);
    CHECK_EQ(kept->sanitize.done, kept->sanitize.total);
    CHECK_EQ(kept->sanitize.due[0], 0);
}

static void pause_drive(struct ctrl_rig *rig) {
    rig->nsid = (uint32_t)-vn_drive_pause(rig->ctrl.drive);
}

static void resume_drive(struct ctrl_rig *rig) {
    vn_drive_resume(rig->ctrl.drive);
}

static void test_a_job_is_paused(struct ctrl_rig *rig) {
    struct vn_drive *drive = rig->ctrl.drive;
    rig_on(rig, start_overwrite);
    RIG_WAIT(rig, drive->kept.sanitize.done > 0);
    RIG_WAIT(rig, (rig_on(rig, pause_drive), rig->nsid == 0)); /* when its operation has ended */
    uint64_t done = drive->kept.sanitize.done;
    CHECK(!drive->job.chan && !drive->job.timer.armed && done < drive->kept.sanitize.total);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    rig_on(rig, rig_nothing);
    CHECK_EQ(drive->kept.sanitize.done, done);
    rig_on(rig, resume_drive);
    RIG_WAIT(rig, drive->kept.sanitize.status == VN_SANITIZE_DONE);
}

static void leave_ns(struct ctrl_rig *rig) {
    rig->nsid = (uint32_t)-vn_job_leave(rig->ctrl.drive, rig->spaces[NSID]);
}

/* A namespace may go between two steps: the sanitize operation waits until it is back. */
static void take_ns_away(struct ctrl_rig *rig) {
    rig->ctrl.drive->spaces[NSID] = NULL;
}

static void bring_ns_back(struct ctrl_rig *rig) {
    rig->ctrl.drive->spaces[NSID] = rig->spaces[NSID];
    vn_drive_space_came(rig->ctrl.drive, NSID);
}

static void test_a_namespace_goes_and_comes(struct ctrl_rig *rig) {
    struct vn_drive *drive = rig->ctrl.drive;
    rig_on(rig, start_overwrite);
    RIG_WAIT(rig, drive->kept.sanitize.done > 0);
    RIG_WAIT(rig, (rig_on(rig, pause_drive), rig->nsid == 0));
    rig_on(rig, leave_ns);
    CHECK_EQ(rig->nsid, 0);
    rig_on(rig, take_ns_away);
    rig_on(rig, resume_drive);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    rig_on(rig, rig_nothing);
    CHECK_EQ(drive->kept.sanitize.status, VN_SANITIZE_RUNS);
    rig_on(rig, bring_ns_back);
    CHECK_EQ(rig->spaces[NSID]->state->refusal, VN_SC_SANITIZE_IN_PROGRESS);
    RIG_WAIT(rig, drive->kept.sanitize.status == VN_SANITIZE_DONE);
    CHECK_EQ(rig->spaces[NSID]->state->refusal, 0);
    CHECK_EQ(rig->spaces[NSID]->special & VN_NS_SPECIAL_REFUSES, 0);
}

/* Events of every size until the oldest have fallen out many times over: what is left is whole. */
static void test_events_wrap(struct ctrl_rig *rig) {
    struct vn_drive *drive = rig->ctrl.drive;
    const struct vn_events_kept *events = &drive->kept.events;
    static uint8_t data[512];
    for (uint32_t i = 0; i < 5000; i++) {
        vn_events_add(drive, i & 1 ? &rig->ctrl : NULL, VN_PEL_SET_FEATURE, data, i * 37 % (sizeof(data) + 1));
        uint32_t at = 0, nr = 0;
        struct vn_log_event event;
        for (; at < events->bytes; nr++) {
            memcpy(&event, events->data + at, sizeof(event));
            CHECK_EQ(event.header_bytes, 21);
            at += (uint32_t)sizeof(event) + event.bytes;
        }
        CHECK(at == events->bytes && nr == events->nr && at <= VN_EVENTS_BYTES && (i < 200 || at > VN_EVENTS_BYTES / 2));
    }
}

static void download(struct ctrl_rig *rig) {
    for (uint32_t at = 0; at < VN_FIRMWARE_BYTES; at += 4096)
        CHECK_EQ(admin(rig, VN_ADMIN_FW_DOWNLOAD, 0, 1023, at / 4), VN_SC_SUCCESS);
    CHECK_EQ(admin(rig, VN_ADMIN_FW_DOWNLOAD, 0, 1023, VN_FIRMWARE_BYTES / 4), VN_SC_INVALID_FIELD);
    CHECK_EQ(admin(rig, VN_ADMIN_FW_DOWNLOAD, 0, UINT32_MAX, 0), VN_SC_INVALID_FIELD);
    CHECK_EQ(admin(rig, VN_ADMIN_FW_DOWNLOAD, 0, 1023, UINT32_MAX & ~1023u), VN_SC_INVALID_FIELD);
    CHECK_EQ(admin(rig, VN_ADMIN_FW_COMMIT, 0, 2, 0), VN_SC_FIRMWARE_IMAGE);
}

/* Seventeen controllers one after the other: each of the last sixteen finds what it has saved. */
static void test_places(struct ctrl_rig *rig) {
    char error[128];
    struct vn_drive *drive;
    static struct vn_ctrl ctrl;
    CHECK_EQ(vn_drive_open(NULL, rig->reactor, &drive, error, sizeof(error)), 0);
    for (uint16_t cntlid = 0; cntlid < 2 * 17; cntlid++) {
        ctrl = (struct vn_ctrl){.cntlid = cntlid % 17, .reactor = rig->reactor, .door = &rig_door, .max_queues = 1};
        CHECK_EQ(vn_drive_join(drive, &ctrl), 0);
        CHECK(ctrl.kept && ctrl.kept->cntlid == cntlid % 17);
        ctrl.error_count = cntlid;
        vn_drive_leave(&ctrl);
        CHECK_EQ(ctrl.kept->error_count, cntlid);
    }
    vn_drive_close(drive);
}

int main(void) {
    struct ctrl_rig *rig = rig_make(NULL);
    const struct vn_ns_opts opts = {.backend = "mem", .size = 8 << 20, .block_size = 512, .delay_us = 3000};
    rig_attach(rig, NSID, &opts);
    rig_on(rig, rig_enable);
    test_a_job_ends_under_its_operation(rig);
    test_a_job_is_paused(rig);
    test_a_namespace_goes_and_comes(rig);
    rig_on(rig, test_events_wrap);
    rig_on(rig, download);
    rig_on(rig, test_places);
    rig_free(rig);
    return 0;
}
