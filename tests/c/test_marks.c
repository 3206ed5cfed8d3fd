/* The set of marked blocks, against a map with a byte for each block; and the locks of ranges. */
#include "ns/marks.h"
#include "ns/range_lock.h"
#include "vn_test.h"

#define BLOCKS 2000u

static uint8_t map[BLOCKS];

static uint32_t count_runs(void) {
    uint32_t runs = 0;
    for (uint32_t i = 0; i < BLOCKS; i++)
        runs += map[i] && (!i || !map[i - 1]);
    return runs;
}

static void check_same(const struct vn_marks *marks) {
    CHECK(vn_marks_are_sane(marks));
    CHECK_EQ(marks->nr, count_runs());
    uint64_t at = 0;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        CHECK_EQ(vn_marks_first(marks, i, 1), map[i] ? i : VN_NO_MARK);
        if (i < at)
            continue;
        struct vn_mark next = vn_marks_next(marks, i);
        uint64_t from = i;
        while (from < BLOCKS && !map[from])
            from++;
        CHECK_EQ(next.nlb ? next.slba : BLOCKS, from);
        for (uint64_t block = from; block < from + next.nlb; block++)
            CHECK(map[block]);
        CHECK(!next.nlb || from + next.nlb == BLOCKS || !map[from + next.nlb]);
        at = from + next.nlb;
    }
}

static void test_model(struct vn_test_random *random) {
    static struct vn_marks marks;
    uint32_t nr_refused = 0;
    for (int step = 0; step < 20000; step++) {
        uint64_t nlb = 1 + vn_test_below(random, step % 50 ? 2 : 60), slba = vn_test_below(random, BLOCKS - nlb);
        uint8_t before[BLOCKS];
        memcpy(before, map, sizeof(map));
        bool add = vn_test_below(random, 100) < (step / 2000 % 2 ? 30 : 70); /* fills up, and thins out */
        memset(map + slba, add, nlb);
        if (add ? !vn_marks_add(&marks, slba, nlb) : !vn_marks_clear(&marks, slba, nlb)) {
            CHECK(count_runs() > (add ? VN_NR_MARKS_MADE : VN_NR_MARKS));
            memcpy(map, before, sizeof(map));
            nr_refused++;
        }
        if (step % 50 == 0)
            check_same(&marks);
    }
    printf("%u refused\n", nr_refused);
}

static void test_ends(void) {
    struct vn_marks marks = {0};
    CHECK(vn_marks_add(&marks, UINT64_MAX - 8, 8));
    CHECK_EQ(vn_marks_first(&marks, 0, UINT64_MAX), UINT64_MAX - 8);
    CHECK(vn_marks_add(&marks, 0, 1));
    CHECK(vn_marks_add(&marks, 1, 1)); /* side by side: one range */
    CHECK_EQ(marks.nr, 2);
    CHECK(vn_marks_clear(&marks, 0, UINT64_MAX));
    CHECK_EQ(marks.nr, 0);
}

/* As many as may be made, then a write in the middle of each. */
static void test_full(void) {
    struct vn_marks marks = {0};
    for (uint64_t i = 0; i < VN_NR_MARKS_MADE; i++)
        CHECK(vn_marks_add(&marks, 10 * i, 5));
    CHECK(!vn_marks_add(&marks, 5000, 1));
    CHECK(vn_marks_add(&marks, 5, 5)); /* two become one */
    CHECK(vn_marks_add(&marks, 5000, 1));
    CHECK(vn_marks_clear(&marks, 5000, 1));
    CHECK(vn_marks_clear(&marks, 5, 5));
    for (uint64_t i = 0; i < VN_NR_MARKS_MADE; i++)
        CHECK(vn_marks_clear(&marks, 10 * i + 2, 1));
    CHECK_EQ(marks.nr, VN_NR_MARKS);
    CHECK(!vn_marks_clear(&marks, 3 + 0, 1) || marks.nr == VN_NR_MARKS); /* at an end: no more ranges */
    CHECK(vn_marks_clear(&marks, 4, 1));
    CHECK(vn_marks_add(&marks, 0, 2000)); /* one again */
    CHECK_EQ(marks.nr, 1);
    CHECK(!vn_marks_are_sane(&(struct vn_marks){.nr = VN_NR_MARKS + 1}));
    CHECK(!vn_marks_are_sane(&(struct vn_marks){.nr = 2, .ranges = {{4, 4}, {8, 1}}}));
    CHECK(!vn_marks_are_sane(&(struct vn_marks){.nr = 1, .ranges = {{4, 0}}}));
    CHECK(!vn_marks_are_sane(&(struct vn_marks){.nr = 1, .ranges = {{4, UINT64_MAX}}}));
}

static void test_locks(void) {
    struct vn_range_locks locks = {0};
    CHECK(!vn_range_is_locked(&locks, 0, UINT64_MAX));
    int index = vn_range_lock(&locks, 100, 10);
    CHECK(index >= 0);
    CHECK(vn_range_is_locked(&locks, 109, 1) && vn_range_is_locked(&locks, 0, 101) && vn_range_is_locked(&locks, 0, UINT64_MAX));
    CHECK(!vn_range_is_locked(&locks, 110, 1) && !vn_range_is_locked(&locks, 0, 100) && !vn_range_is_locked(&locks, 105, 0));
    CHECK_EQ(vn_range_lock(&locks, 105, 1), -1);
    for (uint64_t i = 1; i < VN_NR_RANGE_LOCKS; i++)
        CHECK(vn_range_lock(&locks, 1000 * i, 1) >= 0);
    CHECK_EQ(vn_range_lock(&locks, 200, 1), -1);
    vn_range_unlock(&locks, index);
    CHECK_EQ(vn_range_lock(&locks, 105, 1), index);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    test_model(&random);
    test_ends();
    test_full();
    test_locks();
    return 0;
}
