/* A mirror in use becomes larger: legs, bitmap and all; also over a crash in between, and for legs that are not there.
 */
#include "mirror_rig.h"

#define LARGER (3 * RIG_BYTES + RIG_BLOCK)
#define HUGE_BYTES ((2ull << 30) + RIG_REGION) /* its bitmap has a page more */

static uint8_t *buf, *back;

static void put_out(struct mrig *rig, uint32_t leg) {
    CHECK_EQ(vn_mirror_break(rig->mirror, leg, rig->error, sizeof(rig->error)), 0);
    CHECK_EQ(leg_out(rig, leg), 0);
}

static int resize(struct mrig *rig, uint64_t size) {
    rig->error[0] = 0;
    int err = vn_backend_resize(rig->backend, size, rig->error, sizeof(rig->error));
    CHECK(err ? rig->error[0] : !rig->error[0]);
    if (!err)
        CHECK(info_of(rig).size == size && info_of(rig).nr_regions == (size + RIG_REGION - 1) / RIG_REGION);
    return err;
}

static void write_block(struct mrig *rig, uint64_t offset, uint8_t value) {
    memset(buf, value, RIG_BLOCK);
    CHECK_EQ(io(rig, VN_OP_WRITE, offset, RIG_BLOCK, buf, 0), 0);
}

static uint8_t read_block(struct mrig *rig, uint64_t offset) {
    CHECK_EQ(io(rig, VN_OP_READ, offset, RIG_BLOCK, back, 0), 0);
    return back[0];
}

static uint64_t length_of(const char *path) {
    struct stat stat_;
    CHECK_EQ(stat(path, &stat_), 0);
    return (uint64_t)stat_.st_size;
}

static bool all_same(struct mrig *rig) {
    uint8_t *of[2];
    bool equal = true;
    for (uint32_t leg = 0; leg < 2; leg++) {
        of[leg] = malloc(LARGER);
        int fd = open(rig->paths[leg], O_RDONLY);
        equal &= pread(fd, of[leg], LARGER, 0) == LARGER;
        close(fd);
    }
    equal &= memcmp(of[0], of[1], LARGER) == 0;
    free(of[0]);
    free(of[1]);
    return equal;
}

static void copy_file(const char *from, const char *to_suffix, bool back_again) {
    char command[700];
    snprintf(command, sizeof(command), back_again ? "cp %s%s %s" : "cp %s %s%s", from, back_again ? to_suffix : from,
             back_again ? from : to_suffix);
    CHECK_EQ(system(command), 0);
}

static void test_one_leg(void) {
    struct mrig rig;
    mrig_make(&rig, 1, "one");
    mrig_open(&rig);
    write_block(&rig, RIG_BYTES - RIG_BLOCK, 1);
    CHECK_EQ(resize(&rig, LARGER), 0);
    CHECK_EQ(resize(&rig, LARGER), 0);
    CHECK_EQ(length_of(rig.paths[0]), LARGER);
    CHECK_EQ(read_block(&rig, LARGER - RIG_BLOCK), 0);
    write_block(&rig, LARGER - RIG_BLOCK, 2);
    CHECK_EQ(resize(&rig, RIG_BYTES + RIG_BLOCK), 0);
    CHECK_EQ(length_of(rig.paths[0]), RIG_BYTES + RIG_BLOCK);
    CHECK_EQ(resize(&rig, LARGER), 0);
    CHECK_EQ(read_block(&rig, LARGER - RIG_BLOCK), 0);
    write_block(&rig, LARGER - RIG_BLOCK, 3);
    CHECK_EQ(new_leg_in(&rig, 1), -EINVAL); /* it has the old size */
    CHECK_SAYS(rig.error, "bytes");
    struct vn_ns_opts opts = rig.legs[0];
    struct vn_backend *backend;
    opts.path = rig.paths[1];
    opts.size = LARGER;
    CHECK_EQ(vn_backend_open(&opts, &backend, rig.error, sizeof(rig.error)), 0);
    CHECK_EQ(vn_mirror_in_again(rig.mirror, 1, backend, true, rig.error, sizeof(rig.error)), 0);
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    CHECK_EQ(resize(&rig, RIG_BYTES), -EINVAL);
    CHECK_SAYS(rig.error, "smaller");
    mrig_close(&rig);
    CHECK(all_same(&rig));
}

/* Commands go on, and the new part is marked and cleared as any other. */
static void test_two_legs_under_writes(void) {
    enum { NR = 32 };
    static struct job jobs[NR];
    static uint8_t data[RIG_BLOCK];
    struct mrig rig;
    mrig_make(&rig, 2, "two");
    mrig_open(&rig);
    for (uint64_t size = RIG_BYTES; size < LARGER; size += RIG_BYTES / 2 + RIG_BLOCK) {
        for (uint32_t i = 0; i < NR; i++)
            submit(&rig, &jobs[i], VN_OP_WRITE, (size / RIG_BLOCK - 1 - i * 3) * RIG_BLOCK, RIG_BLOCK, data, 0);
        CHECK_EQ(resize(&rig, size + RIG_BYTES / 2 + RIG_BLOCK), 0);
        write_block(&rig, size, 7);
        CHECK(is_marked(rig.bitmap, size));
        for (uint32_t i = 0; i < NR; i++)
            CHECK_EQ(wait_for(&jobs[i]), 0);
    }
    CHECK_EQ(resize(&rig, 2 * LARGER), 0);
    UNTIL(info_of(&rig).nr_dirty == 0);
    CHECK_EQ(info_of(&rig).copied_bytes, 0);
    mrig_close(&rig);
    CHECK(all_same(&rig));
    CHECK_EQ(length_of(rig.paths[0]), 2 * LARGER);
    rig.opts.size = 0; /* by the bitmap */
    rig.legs[0].size = rig.legs[1].size = 0;
    mrig_open(&rig);
    CHECK_EQ(info_of(&rig).size, 2 * LARGER);
    CHECK_EQ(read_block(&rig, RIG_BYTES), 7);
    mrig_close(&rig);
}

/* Those that are out, or come back, or are just being filled. */
static void test_legs_that_are_not_there(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "absent");
    mrig_open(&rig);
    put_out(&rig, 1);
    CHECK_EQ(resize(&rig, 2 * RIG_BYTES), 0);
    CHECK_EQ(rig.mirror->legs[1].backend->size, RIG_BYTES);
    UNTIL(is_marked(rig.bitmap, RIG_BYTES) && is_marked(rig.bitmap, 2 * RIG_BYTES - 1)); /* it lacks this, by the file too */
    CHECK(!is_marked(rig.bitmap, RIG_BYTES - 1));
    write_block(&rig, 2 * RIG_BYTES - RIG_BLOCK, 5);
    set_switch(&rig, 1, SWITCH_KEEP, 1u << VN_OP_FLUSH);
    CHECK_EQ(leg_in(&rig, 1, false), 0);
    CHECK_EQ(rig.mirror->legs[1].backend->size, 2 * RIG_BYTES);
    UNTIL(kept(&rig, 1) == 1);
    CHECK_EQ(resize(&rig, LARGER), 0); /* while it is being filled */
    write_block(&rig, LARGER - RIG_BLOCK, 6);
    let_go(&rig, 1);
    UNTIL(state_of(&rig, 1) == VN_LEG_READY);
    CHECK_EQ(leg_counts(&rig, 1), 0);
    UNTIL(info_of(&rig).nr_dirty == 0);
    mrig_close(&rig);
    CHECK(all_same(&rig));
}

/* What a leg has behind the mirror's end is whatever it was. */
static void test_a_leg_was_larger(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "larger");
    rig.opts.size = RIG_BYTES;
    rig.legs[1].size = LARGER;
    plant(&rig, 1, 0, 0);
    int fd = open(rig.paths[1], O_RDWR);
    CHECK_EQ(pwrite(fd, "what", 4, 2 * RIG_BYTES), 4);
    close(fd);
    mrig_open(&rig);
    CHECK_EQ(info_of(&rig).size, RIG_BYTES);
    CHECK_EQ(resize(&rig, LARGER), 0);
    CHECK_EQ(read_block(&rig, 2 * RIG_BYTES), 0);
    UNTIL(info_of(&rig).nr_left == 0);
    UNTIL(info_of(&rig).nr_dirty == 0);
    mrig_close(&rig);
    CHECK(all_same(&rig));
}

/* A file that is longer is opened as it is. */
static void open_with(struct mrig *rig, uint64_t size) {
    rig->opts.size = size;
    for (uint32_t leg = 0; leg < 2; leg++)
        rig->legs[leg].size = length_of(rig->paths[leg]) > size ? 0 : size;
    mrig_open(rig);
}

/* A crash leaves the file as before the growth, or as after it, whichever size is opened. */
static void test_crashes(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "crash");
    mrig_open(&rig);
    write_block(&rig, 0, 1);
    UNTIL(info_of(&rig).nr_dirty == 0);
    copy_file(rig.bitmap, ".before", false);
    CHECK_EQ(resize(&rig, LARGER), 0);
    copy_file(rig.bitmap, ".after", false);
    write_block(&rig, LARGER - RIG_BLOCK, 2);
    copy_file(rig.bitmap, ".written", false);
    mrig_close(&rig);
    for (uint32_t i = 0; i < 2; i++) {
        copy_file(rig.bitmap, i ? ".after" : ".before", true);
        open_with(&rig, i ? RIG_BYTES : LARGER); /* the other one */
        CHECK_EQ(info_of(&rig).nr_dirty + info_of(&rig).nr_left, 0);
        mrig_close(&rig);
    }
    copy_file(rig.bitmap, ".written", true);
    rig.opts.size = RIG_BYTES;
    rig.legs[0].size = rig.legs[1].size = 0;
    CHECK_EQ(vn_backend_open(&rig.opts, &rig.backend, rig.error, sizeof(rig.error)), -ESTALE);
    CHECK_SAYS(rig.error, "differ");
    plant(&rig, 1, 0, 9); /* cuts it off: a write that had not come there */
    open_with(&rig, LARGER);
    UNTIL(info_of(&rig).nr_left == 0);
    CHECK(info_of(&rig).copied_bytes <= RIG_REGION);
    mrig_close(&rig);
    CHECK_EQ(planted(&rig, 1, LARGER - RIG_BLOCK), 2);
    copy_file(rig.bitmap, ".before", true);
    rig.mopts.states[1] = VN_LEG_OUT;
    open_with(&rig, LARGER);
    CHECK_EQ(info_of(&rig).nr_dirty, (LARGER + RIG_REGION - 1) / RIG_REGION - RIG_BYTES / RIG_REGION);
    mrig_close(&rig);
    CHECK(is_marked(rig.bitmap, LARGER - 1));
    copy_file(rig.bitmap, ".written", true);
    rig.mopts.states[1] = VN_LEG_NONE;
    open_with(&rig, RIG_BYTES); /* who is alone differs from nobody */
    CHECK_EQ(info_of(&rig).nr_dirty, 0);
    mrig_close(&rig);
}

/* More pages of bits than before. */
static void test_the_bitmap_grows(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "huge");
    mrig_open(&rig);
    write_block(&rig, 0, 1);
    CHECK_EQ(length_of(rig.bitmap), 8192);
    CHECK_EQ(resize(&rig, HUGE_BYTES), 0);
    CHECK_EQ(length_of(rig.bitmap), 12288);
    CHECK(is_marked(rig.bitmap, 0));
    write_block(&rig, HUGE_BYTES - RIG_BLOCK, 2);
    CHECK(is_marked(rig.bitmap, HUGE_BYTES - 1));
    CHECK_EQ(info_of(&rig).nr_dirty, 2);
    copy_file(rig.bitmap, ".saved", false);
    CHECK_EQ(resize(&rig, 1ull << 50), -EFBIG);
    CHECK_EQ(info_of(&rig).size, HUGE_BYTES);
    mrig_close(&rig);
    copy_file(rig.bitmap, ".saved", true);
    open_with(&rig, HUGE_BYTES);
    UNTIL(info_of(&rig).nr_left == 0);
    CHECK_EQ(info_of(&rig).copied_bytes, 2 * RIG_REGION);
    CHECK_EQ(read_block(&rig, HUGE_BYTES - RIG_BLOCK), 2);
    UNTIL(info_of(&rig).nr_dirty == 0);
    mrig_close(&rig);
    for (uint32_t leg = 0; leg < 2; leg++)
        unlink(rig.paths[leg]);
}

/* A leg that cannot grow: nothing has changed, and what others got is used the next time. */
static void test_a_leg_that_cannot(void) {
    struct mrig rig;
    mrig_make(&rig, 2, "cannot");
    rig.legs[1] = (struct vn_ns_opts){.backend = "mem", .size = RIG_BYTES, .block_size = RIG_BLOCK};
    mrig_open(&rig);
    CHECK_EQ(resize(&rig, 9 * RIG_BYTES), -ENOTSUP);
    CHECK_SAYS(rig.error, "leg 1: this memory can have");
    CHECK_EQ(info_of(&rig).size, RIG_BYTES);
    CHECK_EQ(rig.mirror->map.size, RIG_BYTES);
    CHECK_EQ(resize(&rig, 8 * RIG_BYTES), 0);
    UNTIL(info_of(&rig).nr_left == 0); /* the first leg was larger by then */
    write_block(&rig, 8 * RIG_BYTES - RIG_BLOCK, 3);
    mrig_close(&rig);
}

int main(void) {
    buf = aligned_alloc(4096, 65536);
    back = aligned_alloc(4096, 65536);
    memset(buf, 0, 65536);
    test_one_leg();
    test_two_legs_under_writes();
    test_legs_that_are_not_there();
    test_a_leg_was_larger();
    test_crashes();
    test_the_bitmap_grows();
    test_a_leg_that_cannot();
    free(buf);
    free(back);
    return 0;
}
