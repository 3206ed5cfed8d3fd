/* core/wait.c: what is foretold from waits of all kinds; and that no wait, however odd, makes us spin for long. */
#include "core/wait.h"

#include "vn_test.h"

#define US 1000ull
#define SPIN_MAX (100 * US)

static bool is_in(struct vn_window window, uint64_t ns) {
    return window.from_ns <= ns && ns < window.until_ns;
}

/* Waits of about middle_us, give or take an eighth: soon nearly all end inside the window, and none is slept over. */
static void test_steady(uint64_t middle_us, struct vn_test_random *random) {
    struct vn_wait wait;
    vn_wait_init(&wait);
    uint32_t inside = 0, late = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        uint64_t took = middle_us * US * 7 / 8 + vn_test_below(random, (uint32_t)(middle_us * US / 4) + 1);
        struct vn_window window = vn_wait_window(&wait, SPIN_MAX);
        if (i >= 300) {
            inside += is_in(window, took);
            late += took < window.from_ns;
        }
        vn_wait_observe(&wait, took, took < window.from_ns);
    }
    CHECK(inside >= 650);
    CHECK(late <= 35);
}

/* What takes long each time is not worth spinning; when it gets short again, it is, without having been tried. */
static void test_long_waits_end_the_spinning(void) {
    struct vn_wait wait;
    vn_wait_init(&wait);
    for (uint32_t i = 0; i < 100; i++)
        vn_wait_observe(&wait, (i + 1) * 50000 * US, false);
    CHECK_EQ(vn_wait_window(&wait, SPIN_MAX).until_ns, 0);
    for (uint32_t i = 0; i < 100; i++)
        vn_wait_observe(&wait, 5 * US, false);
    CHECK(is_in(vn_wait_window(&wait, SPIN_MAX), 5 * US));
}

/* A doze that was too long shortens the next ones until the event is seen coming again. */
static void test_oversleeping(void) {
    struct vn_wait wait;
    vn_wait_init(&wait);
    for (uint32_t i = 0; i < 300; i++)
        vn_wait_observe(&wait, 200 * US, false);
    CHECK(vn_wait_window(&wait, SPIN_MAX).from_ns > 100 * US);
    uint32_t nr = 0;
    for (struct vn_window window; (window = vn_wait_window(&wait, SPIN_MAX)).from_ns > 30 * US; nr++)
        vn_wait_observe(&wait, window.from_ns + 5 * US, true);
    CHECK(nr > 0 && nr < 20);
}

static void test_bounds(struct vn_test_random *random) {
    struct vn_wait wait;
    vn_wait_init(&wait);
    for (uint32_t i = 0; i < 100000; i++) {
        uint64_t took = vn_test_below(random, 4) ? vn_test_below(random, 1u << (1 + vn_test_below(random, 30)))
                                                 : UINT64_MAX - vn_test_below(random, 1000);
        uint64_t spin_max = vn_test_below(random, 200000);
        vn_wait_observe(&wait, took, vn_test_below(random, 2));
        CHECK(wait.expected_ns <= VN_WAIT_LONGEST_NS);
        CHECK(wait.trust >= 0 && wait.trust <= VN_WAIT_TRUST_MAX);
        struct vn_window window = vn_wait_window(&wait, spin_max);
        CHECK(window.from_ns <= VN_WAIT_LONGEST_NS);
        CHECK(window.until_ns == 0 || window.until_ns - window.from_ns <= spin_max);
    }
    CHECK_EQ(vn_wait_window(&wait, 0).until_ns, 0);
    CHECK_EQ(vn_wait_window(&wait, 0).from_ns, 0);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    static const uint64_t middles_us[] = {0, 2, 10, 50, 100, 150, 250};
    for (size_t i = 0; i < sizeof(middles_us) / sizeof(middles_us[0]); i++)
        test_steady(middles_us[i], &random);
    test_long_waits_end_the_spinning();
    test_oversleeping();
    test_bounds(&random);
    return 0;
}
