/* Another size for a namespace in use: where commands end, what is waited for, what happens to the space, and who keeps
 * its size.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "core/status.h"
#include "ctrl_rig.h"

#define DATA (RIG_RAM_GPA + 0x10000)
#define BLOCK 512u
#define SIZE (1u << 20)
#define NR_BLOCKS (SIZE / BLOCK)

static char path[300], error[512];
static uint32_t nr_told;

static void count_told(struct vn_ns_chan *nsc) {
    CHECK_EQ(nsc->nsid, 1);
    nr_told++;
}

static struct vn_ns_opts opts_of(const char *backend, uint32_t flags) {
    return (struct vn_ns_opts){.backend = backend, .path = strcmp(backend, "file") ? NULL : path, .size = SIZE,
                               .block_size = BLOCK, .flags = flags};
}

static void prepare(struct ctrl_rig *rig) {
    rig_enable(rig);
    CHECK_EQ(rig_create_cq(rig, 1, 64), 0);
    CHECK_EQ(rig_create_sq(rig, 1, 1, 64), 0);
    rig->nr_done = 0;
}

static struct vn_ns_chan *chan_of(struct ctrl_rig *rig) {
    return rig->ctrl.namespaces.by_nsid[1];
}

static struct ctrl_rig *start(const struct vn_ns_opts *opts) {
    struct ctrl_rig *rig = rig_make(NULL);
    rig_attach(rig, 1, opts);
    CHECK_EQ(vn_ns_add_chan(rig->spaces[1], chan_of(rig)), 0);
    chan_of(rig)->resized = count_told;
    rig_on(rig, prepare);
    nr_told = 0;
    return rig;
}

static int resize(struct ctrl_rig *rig, uint64_t size) {
    error[0] = 0;
    int err = vn_ns_change_size(rig->spaces[1], size, error, sizeof(error));
    CHECK(err ? error[0] : !error[0]);
    return err;
}

static uint64_t size_of(struct ctrl_rig *rig) {
    for (const struct vn_backend *at = rig->spaces[1]->backend; at; at = at->next)
        CHECK_EQ(at->size, vn_ns_nr_blocks(rig->spaces[1]) * BLOCK);
    return rig->spaces[1]->backend->size;
}

static struct vn_sqe to_send;

static void send_here(struct ctrl_rig *rig) {
    rig_submit(rig, 1, to_send);
}

static void send_one(struct ctrl_rig *rig, uint8_t opcode, uint64_t block) {
    to_send = (struct vn_sqe){.opcode = opcode, .nsid = 1, .prp1 = DATA, .cdw10 = (uint32_t)block};
    rig_on(rig, send_here);
}

/* Its status. */
static vn_status do_one(struct ctrl_rig *rig, uint8_t opcode, uint64_t block) {
    uint32_t before = rig->nr_done;
    send_one(rig, opcode, block);
    RIG_WAIT(rig, rig->nr_done > before);
    return VN_STATUS_CODE(rig->done[before].status);
}

/* A file that is full of a byte; the guest's buffer holds another. */
static void make_file(uint64_t bytes) {
    static uint8_t full[SIZE];
    memset(full, 0xee, sizeof(full));
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    for (uint64_t at = 0; at < bytes; at += SIZE)
        CHECK_EQ(write(fd, full, SIZE), SIZE);
    close(fd);
}

static uint64_t length_of_file(void) {
    struct stat stat_;
    CHECK_EQ(stat(path, &stat_), 0);
    return (uint64_t)stat_.st_size;
}

static void check_ends(struct ctrl_rig *rig, uint64_t nr_blocks) {
    CHECK_EQ(size_of(rig), nr_blocks * BLOCK);
    CHECK_EQ(do_one(rig, VN_IO_READ, nr_blocks - 1), 0);
    CHECK_EQ(do_one(rig, VN_IO_WRITE, nr_blocks - 1), 0);
    CHECK_EQ(do_one(rig, VN_IO_READ, nr_blocks), VN_SC_LBA_RANGE);
    CHECK_EQ(do_one(rig, VN_IO_WRITE, nr_blocks), VN_SC_LBA_RANGE);
}

static void test_growing_and_shrinking(const struct vn_ns_opts *opts) {
    bool is_file = opts->path;
    struct ctrl_rig *rig = start(opts);
    memset(rig->ram + (DATA - RIG_RAM_GPA), 0xab, BLOCK);
    check_ends(rig, NR_BLOCKS);
    CHECK_EQ(resize(rig, 2 * SIZE), 0);
    CHECK_EQ(nr_told, 1);
    check_ends(rig, 2 * NR_BLOCKS);
    CHECK_EQ(resize(rig, SIZE + BLOCK), 0);
    CHECK_EQ(nr_told, 2);
    check_ends(rig, NR_BLOCKS + 1);
    CHECK(!is_file || length_of_file() == SIZE + BLOCK);
    CHECK_EQ(resize(rig, 3 * SIZE), 0); /* what was cut off reads as zeros */
    memset(rig->ram + (DATA - RIG_RAM_GPA), 0xab, BLOCK);
    CHECK_EQ(do_one(rig, VN_IO_READ, 2 * NR_BLOCKS - 1), 0);
    CHECK(rig->ram[DATA - RIG_RAM_GPA] == (strcmp(opts->backend, "null") ? 0 : 0xab));
    CHECK_EQ(resize(rig, 3 * SIZE), 0);
    CHECK_EQ(nr_told, 3); /* nothing has changed */
    CHECK_EQ(resize(rig, SIZE + 1), -EINVAL);
    CHECK_SAYS(error, "multiple of the block size");
    CHECK_EQ(resize(rig, 1ull << 63), -EINVAL);
    check_ends(rig, 3 * NR_BLOCKS);
    CHECK(!is_file || length_of_file() == 3 * SIZE);
    rig_free(rig);
    if (is_file)
        unlink(path);
}

static void test_what_is_behind_it(void) {
    struct vn_ns_opts opts = opts_of("file", VN_NS_CREATE);
    struct ctrl_rig *rig = start(&opts);
    CHECK_EQ(truncate(path, 2 * SIZE), 0);
    CHECK_EQ(resize(rig, 0), 0);
    CHECK_EQ(size_of(rig), 2 * SIZE);
    rig_free(rig);
    opts.size = 0;
    opts.flags = VN_NS_READ_ONLY;
    rig = start(&opts);
    CHECK_EQ(resize(rig, 4 * SIZE), -EINVAL);
    CHECK_SAYS(error, "ends at 2097152");
    CHECK_EQ(resize(rig, SIZE), 0);
    CHECK_EQ(resize(rig, 2 * SIZE), 0);
    CHECK_EQ(length_of_file(), 2 * SIZE);
    rig_free(rig);
    unlink(path);
    opts = opts_of("file", VN_NS_CREATE | VN_NS_PREALLOCATE);
    rig = start(&opts);
    CHECK_EQ(resize(rig, 2 * SIZE), 0);
    struct stat stat_;
    CHECK(stat(path, &stat_) == 0 && stat_.st_blocks * 512 >= 2 * SIZE);
    rig_free(rig);
    unlink(path);
    opts = opts_of("null", 0);
    rig = start(&opts);
    CHECK_EQ(resize(rig, 0), -EINVAL);
    CHECK_SAYS(error, "give a size");
    rig_free(rig);
}

static void test_parts_of_a_file(void) {
    make_file(4 * SIZE);
    struct vn_ns_opts opts = opts_of("file", VN_NS_WINDOW), other = opts_of("file", VN_NS_WINDOW | VN_NS_CREATE);
    struct vn_ns *neighbour;
    other.offset = 3 * SIZE;
    CHECK_EQ(vn_ns_create(&other, &neighbour, error, sizeof(error)), 0);
    opts.offset = SIZE;
    struct ctrl_rig *rig = start(&opts);
    CHECK_EQ(resize(rig, 2 * SIZE), 0);
    check_ends(rig, 2 * NR_BLOCKS);
    CHECK_EQ(resize(rig, 2 * SIZE + BLOCK), -EBUSY);
    CHECK_SAYS(error, "another namespace has the bytes 3145728 to 4194304");
    CHECK_EQ(resize(rig, 0), -EINVAL);
    CHECK_EQ(resize(rig, BLOCK), 0);
    CHECK_EQ(length_of_file(), 4 * SIZE);
    CHECK_EQ(vn_ns_change_size(neighbour, 2 * SIZE, error, sizeof(error)), 0); /* which may make it longer */
    CHECK_EQ(length_of_file(), 5 * SIZE);
    vn_ns_free(neighbour);
    CHECK_EQ(resize(rig, 4 * SIZE), 0);
    CHECK_EQ(resize(rig, 5 * SIZE), -EINVAL);
    CHECK_SAYS(error, "ends at 5242880");
    CHECK_EQ(length_of_file(), 5 * SIZE);
    rig_free(rig);
    unlink(path);
}

static void test_who_keeps_its_size(void) {
    char log[320];
    snprintf(log, sizeof(log), "%s.log", path);
    struct vn_ns_opts opts = opts_of("mem", 0);
    struct ctrl_rig *rig = start(&opts);
    CHECK_EQ(resize(rig, 9 * SIZE), -ENOTSUP);
    CHECK_SAYS(error, "8388608 bytes at most");
    CHECK_EQ(resize(rig, 8 * SIZE), 0);
    check_ends(rig, 8 * NR_BLOCKS);
    rig_free(rig);
    opts.record_path = log;
    rig = start(&opts);
    CHECK_EQ(resize(rig, 2 * SIZE), -ENOTSUP);
    CHECK_EQ(size_of(rig), SIZE);
    rig_free(rig);
    unlink(log);
}

/* What the backend has is waited for before the space goes. */
static void test_shrinking_waits(void) {
    struct vn_ns_opts opts = opts_of("file", VN_NS_CREATE);
    opts.delay_us = 200000;
    struct ctrl_rig *rig = start(&opts);
    send_one(rig, VN_IO_WRITE, NR_BLOCKS - 1);
    CHECK_EQ(resize(rig, SIZE / 2), 0);
    rig_on(rig, rig_nothing);
    CHECK_EQ(rig->nr_done, 1);
    CHECK_EQ(rig->done[0].status, 0);
    CHECK_EQ(length_of_file(), SIZE / 2);
    rig_free(rig);
    unlink(path);
}

/* ... and when it does not end, all stays as it was. */
static void test_a_stuck_command_keeps_the_size(void) {
    struct vn_ns_opts opts = opts_of("mem", 0);
    opts.delay_us = 60000000;
    struct ctrl_rig *rig = start(&opts);
    send_one(rig, VN_IO_WRITE, NR_BLOCKS - 1);
    CHECK_EQ(resize(rig, SIZE / 2), -EBUSY);
    CHECK_SAYS(error, "try again");
    CHECK_EQ(size_of(rig), SIZE);
    CHECK_EQ(nr_told, 0);
    send_one(rig, VN_IO_WRITE, NR_BLOCKS - 1);
    CHECK_EQ(resize(rig, SIZE / 2), -EBUSY); /* the new one counts as well */
    CHECK_EQ(resize(rig, 2 * SIZE), 0);      /* nobody has to wait for this */
    rig_on(rig, rig_disable_here);
    RIG_WAIT(rig, rig->ctrl.state == VN_CTRL_DISABLED);
    CHECK_EQ(resize(rig, SIZE / 2), 0);
    CHECK_EQ(size_of(rig), SIZE / 2);
    rig_free(rig);
}

static void limit_here(struct ctrl_rig *rig) {
    struct vn_limits limits = {0};
    limits.of[VN_LIMIT_BANDWIDTH] = (struct vn_limit){.rate = 1, .burst_us = 3600000000};
    struct vn_limiter limiter = {.marks = rig->spaces[1]->marks};
    vn_limiter_set(&limiter, &limits);
    vn_limiter_change(&chan_of(rig)->throttle.limiter, &limiter, vn_reactor_now_ns(rig->reactor));
    vn_ns_chan_limit(chan_of(rig), &limiter);
}

static void release_here(struct ctrl_rig *rig) {
    vn_ns_release(chan_of(rig));
}

/* A command that was checked against the old end, and goes to the backend only now. */
static void test_what_has_waited_is_looked_at_again(void) {
    struct vn_ns_opts opts = opts_of("file", VN_NS_CREATE);
    struct ctrl_rig *rig = start(&opts);
    rig_on(rig, limit_here);
    for (uint32_t i = 0; i < 20; i++)
        send_one(rig, VN_IO_WRITE, NR_BLOCKS - 1);
    RIG_WAIT(rig, rig->nr_done == 20 - chan_of(rig)->throttle.nr_waiting);
    uint32_t before = rig->nr_done;
    CHECK(before < 20);
    CHECK_EQ(resize(rig, SIZE / 2), 0);
    rig_on(rig, release_here);
    RIG_WAIT(rig, rig->nr_done == 20);
    for (uint32_t i = 0; i < 20; i++)
        CHECK_EQ(VN_STATUS_CODE(rig->done[i].status), i < before ? 0 : VN_SC_LBA_RANGE);
    CHECK_EQ(length_of_file(), SIZE / 2);
    rig_free(rig);
    unlink(path);
}

/* A command of several operations, the second of which is beyond the new end. */
static void test_the_rest_of_a_command_is_looked_at_again(void) {
    struct vn_ns_opts opts = opts_of("mem", 0);
    opts.delay_us = 200000;
    struct ctrl_rig *rig = start(&opts);
    const struct vn_dsm_range ranges[] = {{.nlb = 8}, {.nlb = 8, .slba = NR_BLOCKS - 8}};
    memcpy(rig->ram + (DATA - RIG_RAM_GPA), ranges, sizeof(ranges));
    to_send = (struct vn_sqe){.opcode = VN_IO_DSM, .nsid = 1, .prp1 = DATA, .cdw10 = 1, .cdw11 = VN_DSM_AD};
    rig_on(rig, send_here);
    CHECK_EQ(resize(rig, SIZE / 2), 0);
    RIG_WAIT(rig, rig->nr_done == 1);
    CHECK_EQ(VN_STATUS_CODE(rig->done[0].status), VN_SC_LBA_RANGE);
    rig_free(rig);
}

/* With one leg it has what the leg has. */
static void test_a_mirror(const char *backend) {
    char bits[320];
    snprintf(bits, sizeof(bits), "%s.bits", path);
    struct vn_ns_opts leg = opts_of(backend, VN_NS_CREATE);
    struct vn_mirror_opts mirror = {.legs = {&leg}, .states = {VN_LEG_IN_SYNC}, .bitmap_path = bits, .uuid = {1}};
    struct vn_ns_opts opts = opts_of("mirror", 0);
    opts.mirror = &mirror;
    opts.path = leg.path;
    test_growing_and_shrinking(&opts);
    unlink(bits);
}

int main(void) {
    snprintf(path, sizeof(path), "%s/disk", vn_test_dir());
    struct vn_ns_opts all[] = {opts_of("mem", 0), opts_of("null", 0), opts_of("file", VN_NS_CREATE),
                               opts_of("file", VN_NS_CREATE | VN_NS_NO_DIRECT), opts_of("mem", 0)};
    all[4].delay_us = 100;
    for (size_t i = 0; i < VN_ARRAY_SIZE(all); i++)
        test_growing_and_shrinking(&all[i]);
    test_a_mirror("file");
    test_a_mirror("mem");
    test_what_is_behind_it();
    test_parts_of_a_file();
    test_who_keeps_its_size();
    test_shrinking_waits();
    test_a_stuck_command_keeps_the_size();
    test_what_has_waited_is_looked_at_again();
    test_the_rest_of_a_command_is_looked_at_again();
    return 0;
}
