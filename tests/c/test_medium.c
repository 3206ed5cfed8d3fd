/* What a medium counts of the commands that its namespaces get: ended, failed, slow, in flight; by any channel, open or
 * closed. Results, and when they come, are put in at the boundary to the system.
 */
#include <fcntl.h>
#include <unistd.h>

#include "backend/file.h"
#include "backend/medium.h"
#include "backend_rig.h"
#include "core/status.h"

#define SIZE (1u << 20)
#define STEP_NS (VN_MEDIUM_STEP_MS * 1000000ull)

static char path[300];
static uint8_t buf[8192] __attribute__((aligned(4096)));
static int fault_err;

static int fail_data(enum vn_file_phase phase, const struct vn_req *req, int res) {
    (void)req;
    return phase == VN_FILE_DATA ? -fault_err : res;
}

static int fail_syncs(enum vn_file_phase phase, const struct vn_req *req, int res) {
    (void)req;
    return phase == VN_FILE_SYNC ? -fault_err : res;
}

static void open_on(struct rig *rig, vn_medium *medium) {
    struct vn_ns_opts opts = {
        .backend = "file", .path = path, .size = SIZE, .block_size = 512, .flags = VN_NS_CREATE, .medium = medium};
    rig_open(rig, &opts);
}

static struct vn_medium_info info_of(vn_medium *medium) {
    struct vn_medium_info info;
    vn_medium_get_info(medium, &info);
    return info;
}

/* Until it has told that nothing is in flight, or, with some, that so many are. */
static struct vn_medium_info wait_for(vn_medium *medium, uint64_t commands, uint64_t inflight) {
    for (int i = 0; i < 6000; i++) {
        struct vn_medium_info info = info_of(medium);
        if (info.commands == commands && info.inflight == inflight)
            return info;
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    CHECK(!"it never told that");
    return (struct vn_medium_info){0};
}

static void test_all_that_has_ended(void) {
    vn_medium *medium;
    struct rig rig;
    CHECK_EQ(vn_medium_create(&medium), 0);
    open_on(&rig, medium);
    for (uint64_t i = 0; i < 40; i++)
        CHECK_EQ(rig_io(&rig, i % 2 ? VN_OP_READ : VN_OP_WRITE, i * 4096, 4096, buf, 0), 0);
    CHECK_EQ(rig_io(&rig, VN_OP_FLUSH, 0, 0, NULL, 0), 0);
    CHECK_EQ(rig_io(&rig, VN_OP_WRITE_ZEROES, 0, 4096, NULL, 0), 0);
    struct vn_medium_info info = wait_for(medium, 42, 0);
    CHECK(info.errors == 0 && info.slow == 0 && info.slow_ns == 0 && info.oldest_ns == 0);
    rig_close(&rig);
    open_on(&rig, medium); /* another channel goes on where that one has ended */
    CHECK_EQ(rig_io(&rig, VN_OP_READ, 0, 4096, buf, 0), 0);
    rig_close(&rig);
    CHECK_EQ(info_of(medium).commands, 43);
    vn_medium_close(medium);
    unlink(path);
}

/* Which errors are the medium's: those that it has, and not those of a full file system, of memory or of the host. A file
 * system that writes no more has seen errors. */
static void test_errors(void) {
    static const struct {
        int err;
        uint32_t reads, writes; /* that count */
    } cases[] = {{EIO, 1, 1},    {ENODATA, 1, 1},   {ENXIO, 1, 1},      {EINVAL, 1, 1}, {ETIMEDOUT, 1, 1},
                 {EROFS, 0, 1},  {ENOSPC, 0, 0},    {EDQUOT, 0, 0},     {EFBIG, 0, 0},  {EFAULT, 0, 0},
                 {ENOMEM, 0, 0}, {ECANCELED, 0, 0}, {EOPNOTSUPP, 0, 0}, {EBUSY, 0, 0}};
    vn_medium *medium;
    struct rig rig;
    uint64_t errors = 0;
    CHECK_EQ(vn_medium_create(&medium), 0);
    for (size_t i = 0; i < VN_ARRAY_SIZE(cases); i++) {
        open_on(&rig, medium);
        fault_err = cases[i].err;
        ((struct vn_file *)rig.backend)->fault = fail_data;
        CHECK(rig_io(&rig, VN_OP_READ, 0, 4096, buf, 0) != 0);
        CHECK(rig_io(&rig, VN_OP_WRITE, 0, 4096, buf, 0) != 0);
        rig_close(&rig);
        errors += cases[i].reads + cases[i].writes;
        CHECK_EQ(info_of(medium).errors, errors);
        CHECK_EQ(info_of(medium).commands, 2 * (i + 1));
    }
    open_on(&rig, medium);
    fault_err = EIO;
    ((struct vn_file *)rig.backend)->fault = fail_syncs;
    CHECK(rig_io(&rig, VN_OP_FLUSH, 0, 0, NULL, 0) != 0);
    CHECK(rig_io(&rig, VN_OP_FLUSH, 0, 0, NULL, 0) != 0); /* refused before it comes to the medium */
    rig_close(&rig);
    CHECK_EQ(info_of(medium).errors, errors + 1);
    vn_medium_close(medium);
    unlink(path);
}

/* --- Commands that are stuck: a channel alone, without a backend --- */

struct lane {
    struct vn_reactor *reactor;
    struct vn_medium *medium;
    struct vn_medium_chan mc;
    struct vn_medium_slot *held[2 * VN_MEDIUM_SLOTS];
    uint32_t nr_held;
};

static int lane_open(void *arg) {
    struct lane *lane = arg;
    vn_medium_chan_open(&lane->mc, lane->medium, lane->reactor);
    return 0;
}

static int lane_close(void *arg) {
    vn_medium_chan_close(&((struct lane *)arg)->mc);
    return 0;
}

static int begin_one(void *arg) {
    struct lane *lane = arg;
    lane->held[lane->nr_held++] = vn_medium_begin(&lane->mc);
    vn_medium_watch(&lane->mc);
    return 0;
}

static int end_first(void *arg) {
    struct lane *lane = arg;
    vn_medium_end(&lane->mc, lane->held[0], VN_SC_SUCCESS);
    lane->nr_held--;
    memmove(lane->held, lane->held + 1, lane->nr_held * sizeof(lane->held[0]));
    return 0;
}

static int one_that_is_quick(void *arg) {
    struct lane *lane = arg;
    struct vn_medium_slot *slot = vn_medium_begin(&lane->mc);
    vn_medium_watch(&lane->mc);
    vn_medium_end(&lane->mc, slot, VN_SC_SUCCESS);
    return 0;
}

static int is_asleep(void *arg) {
    const struct lane *lane = arg;
    return lane->mc.idle && !lane->mc.timer.armed;
}

static void sleep_steps(uint32_t nr) {
    uint64_t ns = nr * STEP_NS;
    nanosleep(&(struct timespec){.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)}, NULL);
}

static void lane_start(struct lane *lane) {
    *lane = (struct lane){.nr_held = 0};
    CHECK_EQ(vn_medium_create(&lane->medium), 0);
    CHECK_EQ(vn_reactor_start(0, 0, &lane->reactor), 0);
    CHECK_EQ(vn_reactor_call(lane->reactor, lane_open, lane), 0);
}

static void lane_end(struct lane *lane) {
    CHECK_EQ(vn_reactor_call(lane->reactor, lane_close, lane), 0);
    vn_reactor_stop(lane->reactor);
    vn_medium_close(lane->medium);
}

/* One that is stuck is seen while others come and go, and is a slow one when it ends. */
static void test_one_that_is_stuck(void) {
    struct lane lane;
    lane_start(&lane);
    CHECK_EQ(vn_reactor_call(lane.reactor, begin_one, &lane), 0);
    uint64_t begun_ns = vn_monotonic_ns();
    struct vn_medium_info info;
    uint64_t nr = 0;
    do {
        CHECK_EQ(vn_reactor_call(lane.reactor, one_that_is_quick, &lane), 0);
        nr++;
        sleep_steps(1);
        info = info_of(lane.medium);
    } while (info.oldest_ns < VN_MEDIUM_SLOW_MS * 1000000ull);
    CHECK_EQ(info.inflight, 1);
    CHECK(info.oldest_ns <= vn_monotonic_ns() - begun_ns);
    CHECK_EQ(info.slow, 0);
    CHECK_EQ(vn_reactor_call(lane.reactor, end_first, &lane), 0);
    info = wait_for(lane.medium, nr + 1, 0);
    CHECK_EQ(info.slow, 1);
    CHECK(info.slow_ns >= VN_MEDIUM_SLOW_MS * 1000000ull && info.slow_ns <= vn_monotonic_ns() - begun_ns);
    CHECK_EQ(info.oldest_ns, 0);
    CHECK_EQ(info.errors, 0);
    CHECK_EQ(vn_reactor_call(lane.reactor, is_asleep, &lane), 1); /* it wakes nobody while nothing comes */
    lane_end(&lane);
}

/* One gets stuck in every step, more than there are slots: the oldest is known as long as it is there. */
static void test_more_than_slots(void) {
    struct lane lane;
    lane_start(&lane);
    for (uint32_t i = 0; i < VN_MEDIUM_SLOTS + 4; i++) {
        CHECK_EQ(vn_reactor_call(lane.reactor, begin_one, &lane), 0);
        sleep_steps(1);
    }
    struct vn_medium_info info = wait_for(lane.medium, 0, VN_MEDIUM_SLOTS + 4);
    CHECK(info.oldest_ns >= VN_MEDIUM_SLOTS * STEP_NS);
    for (uint32_t i = 0; i < VN_MEDIUM_SLOTS + 4; i++)
        CHECK_EQ(vn_reactor_call(lane.reactor, end_first, &lane), 0);
    info = wait_for(lane.medium, VN_MEDIUM_SLOTS + 4, 0);
    CHECK(info.slow > 0 && info.slow <= VN_MEDIUM_SLOTS + 4);
    CHECK_EQ(info.oldest_ns, 0);
    lane_end(&lane);
}

static void test_a_medium_ends_with_its_last_namespace(void) {
    vn_medium *medium;
    struct rig rig;
    CHECK_EQ(vn_medium_create(&medium), 0);
    open_on(&rig, medium);
    vn_medium_close(medium);
    CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 4096, buf, 0), 0);
    rig_close(&rig);
    unlink(path);
}

int main(void) {
    snprintf(path, sizeof(path), "%s/disk", vn_test_dir());
    test_all_that_has_ended();
    test_errors();
    test_one_that_is_stuck();
    test_more_than_slots();
    test_a_medium_ends_with_its_last_namespace();
    return 0;
}
