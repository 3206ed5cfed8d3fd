/* Guest memory: which regions are taken, which are refused, and what a look-up answers at every edge.
 */
#include <errno.h>

#include "guest/guest_mem.h"
#include "vn_test.h"

#define ARENA_BYTES (1u << 20)

static uint8_t *arena;

static void test_refusals(void) {
    struct vn_guest_mem mem = {0};
    uint64_t got;
    CHECK(!vn_guest_mem_piece(&mem, 0, 1, false, &got)); /* nothing is there yet */
    CHECK_EQ(vn_guest_mem_add(&mem, 0x1000, 0, arena, true, true), -EINVAL);
    CHECK_EQ(vn_guest_mem_add(&mem, UINT64_MAX - 0xfff, 0x1001, arena, true, true), -EINVAL);
    CHECK_EQ(vn_guest_mem_add(&mem, 1, UINT64_MAX, arena, true, true), 0);
    vn_guest_mem_remove(&mem, 1, UINT64_MAX);
    CHECK_EQ(mem.nr, 0);
    CHECK_EQ(vn_guest_mem_add(&mem, 0x4000, 0x2000, arena, true, true), 0);
    for (uint64_t gpa = 0x3000; gpa <= 0x5000; gpa += 0x1000)
        CHECK_EQ(vn_guest_mem_add(&mem, gpa, 0x1001, arena, true, true), -EINVAL);
    CHECK_EQ(vn_guest_mem_add(&mem, 0, UINT64_MAX, arena, true, true), -EINVAL);
    CHECK_EQ(vn_guest_mem_add(&mem, 0x3000, 0x1000, arena + 0x3000, true, true), 0); /* next to it on both sides */
    CHECK_EQ(vn_guest_mem_add(&mem, 0x6000, 0x1000, arena + 0x6000, true, true), 0);
    vn_guest_mem_remove(&mem, 0x4000, 0x1000); /* a part of a region is none */
    vn_guest_mem_remove(&mem, 0x3000, 0x3000);
    CHECK_EQ(mem.nr, 3);
}

/* The last byte of the address space belongs to a region, and nothing wraps. */
static void test_top(void) {
    struct vn_guest_mem mem = {0};
    uint64_t got;
    CHECK_EQ(vn_guest_mem_add(&mem, UINT64_MAX - 0xfff, 0x1000, arena, true, true), 0);
    CHECK(vn_guest_mem_piece(&mem, UINT64_MAX, 1, false, &got) == arena + 0xfff);
    CHECK(vn_guest_mem_piece(&mem, UINT64_MAX, 100, false, &got) == arena + 0xfff);
    CHECK_EQ(got, 1);
    CHECK(!vn_guest_mem_whole(&mem, UINT64_MAX, 2, false));
    CHECK(!vn_guest_mem_piece(&mem, UINT64_MAX - 0x1000, 1, false, &got));
    CHECK(!vn_guest_mem_piece(&mem, 0, 1, false, &got));
}

static void test_permissions(void) {
    struct vn_guest_mem mem = {0};
    uint64_t got;
    CHECK_EQ(vn_guest_mem_add(&mem, 0x1000, 0x1000, arena, true, false), 0);
    CHECK_EQ(vn_guest_mem_add(&mem, 0x2000, 0x1000, arena + 0x1000, false, true), 0);
    CHECK_EQ(vn_guest_mem_add(&mem, 0x3000, 0x1000, arena + 0x2000, false, false), 0);
    CHECK(vn_guest_mem_piece(&mem, 0x1000, 4, false, &got));
    CHECK(!vn_guest_mem_piece(&mem, 0x1000, 4, true, &got));
    CHECK(!vn_guest_mem_piece(&mem, 0x2000, 4, false, &got));
    CHECK(vn_guest_mem_piece(&mem, 0x2000, 4, true, &got));
    CHECK(!vn_guest_mem_piece(&mem, 0x3000, 4, false, &got) && !vn_guest_mem_piece(&mem, 0x3000, 4, true, &got));
}

static void test_append(void) {
    struct vn_guest_mem mem = {0};
    struct iovec iov[3];
    struct vn_iov_list list = {.mem = &mem, .iov = iov, .max = 3, .write = true};
    CHECK_EQ(vn_guest_mem_add(&mem, 0x1000, 0x1000, arena, true, true), 0);
    CHECK_EQ(vn_guest_mem_add(&mem, 0x2000, 0x1000, arena + 0x1000, true, true), 0); /* adjacent here too */
    CHECK_EQ(vn_guest_mem_add(&mem, 0x3000, 0x1000, arena + 0x8000, true, true), 0); /* adjacent there only */
    CHECK_EQ(vn_iov_append(&list, 0x1800, 0), VN_SC_SUCCESS);
    CHECK_EQ(list.nr, 0);
    CHECK_EQ(vn_iov_append(&list, 0x1800, 0x2000), VN_SC_SUCCESS);
    CHECK_EQ(list.nr, 2); /* joined where our memory is one piece, split where it is not */
    CHECK(iov[0].iov_base == arena + 0x800 && iov[0].iov_len == 0x1800);
    CHECK(iov[1].iov_base == arena + 0x8000 && iov[1].iov_len == 0x800);
    CHECK_EQ(vn_iov_append(&list, 0x3800, 0x800), VN_SC_SUCCESS);
    CHECK_EQ(list.nr, 2);
    CHECK_EQ(iov[1].iov_len, 0x1000);
    CHECK_EQ(vn_iov_append(&list, 0x3fff, 2), VN_SC_DATA_TRANSFER_ERROR); /* ends outside */
    CHECK_EQ(list.nr, 3);
    CHECK_EQ(vn_iov_append(&list, 0x1000, 1), VN_SC_INVALID_SGL_COUNT);
}

/* 256 regions in random order against a plain array of them; then every one away again. */
static void test_model(struct vn_test_random *random) {
    struct vn_guest_mem mem = {0};
    struct {
        uint64_t gpa, len;
        uint8_t *hva;
        bool present;
    } model[300] = {0};
    for (int step = 0; step < 20000; step++) {
        uint32_t at = (uint32_t)vn_test_below(random, 300);
        uint64_t slot = 0x10000ull * at;
        if (!model[at].present) {
            uint64_t from = vn_test_below(random, 3) ? vn_test_below(random, 0x8000) : 0;
            uint64_t len = vn_test_below(random, 3) ? 1 + vn_test_below(random, 0x10000 - from) : 0x10000 - from;
            uint8_t *hva = arena + vn_test_below(random, ARENA_BYTES - 0x10000);
            int err = vn_guest_mem_add(&mem, slot + from, len, hva, true, true);
            CHECK_EQ(err, mem.nr == VN_GUEST_REGIONS && err ? -ENOSPC : 0);
            if (!err) {
                model[at].gpa = slot + from;
                model[at].len = len;
                model[at].hva = hva;
                model[at].present = true;
            }
        } else if (vn_test_below(random, 8) == 0) {
            vn_guest_mem_remove(&mem, model[at].gpa, model[at].len);
            model[at].present = false;
        }
        uint64_t gpa = vn_test_below(random, 300 * 0x10000ull), len = 1 + vn_test_below(random, 0x20000), got = 0;
        at = (uint32_t)vn_test_below(random, 300);
        if (model[at].present && vn_test_below(random, 2)) /* an edge: just before, at or after an end */
            gpa = model[at].gpa + (vn_test_below(random, 2) ? model[at].len : 0) + vn_test_below(random, 3) - 1;
        uint8_t *want = NULL;
        uint64_t want_got = 0;
        uint64_t home = gpa / 0x10000;
        if (home < 300 && model[home].present && gpa - model[home].gpa < model[home].len) {
            want = model[home].hva + (gpa - model[home].gpa);
            want_got = model[home].len - (gpa - model[home].gpa);
            want_got = want_got < len ? want_got : len;
        }
        CHECK(vn_guest_mem_piece(&mem, gpa, len, step & 1, &got) == want);
        CHECK_EQ(got, want_got);
        CHECK(vn_guest_mem_whole(&mem, gpa, len, false) == (want_got == len ? want : NULL));
    }
    CHECK(mem.nr > 200);
    for (uint32_t i = 1; i < mem.nr; i++)
        CHECK(mem.regions[i - 1].gpa + mem.regions[i - 1].len <= mem.regions[i].gpa);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    CHECK((arena = malloc(ARENA_BYTES)));
    test_refusals();
    test_top();
    test_permissions();
    test_append();
    test_model(&random);
    free(arena);
    return 0;
}
