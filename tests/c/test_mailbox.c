/* The mailbox: order for each sender, nothing lost or doubled, a full queue that says so, and no lost wake-up.
 * Also run under TSan.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "core/mailbox.h"
#include "vn_test.h"

#define NR_SENDERS 4u
#define NR_EACH 20000u

static struct vn_mailbox box;

static void test_bounds(void) {
    CHECK_EQ(vn_mailbox_init(&box), 0);
    for (int lap = 0; lap < 3; lap++) {
        CHECK(!vn_mailbox_take(&box));
        for (uintptr_t i = 1; i <= VN_MAILBOX_SLOTS; i++)
            CHECK_EQ(vn_mailbox_put(&box, (void *)i), 0);
        CHECK_EQ(vn_mailbox_put(&box, (void *)1), -EAGAIN);
        CHECK_EQ((uintptr_t)vn_mailbox_take(&box), 1);
        CHECK_EQ(vn_mailbox_put(&box, (void *)(uintptr_t)(VN_MAILBOX_SLOTS + 1)), 0);
        CHECK_EQ(vn_mailbox_put(&box, (void *)1), -EAGAIN);
        for (uintptr_t i = 2; i <= VN_MAILBOX_SLOTS + 1; i++)
            CHECK_EQ((uintptr_t)vn_mailbox_take(&box), i);
    }
    vn_mailbox_fini(&box);
}

static bool kicked(int timeout_ms) {
    struct pollfd pollfd = {.fd = box.wake_fd, .events = POLLIN};
    uint64_t count;
    return poll(&pollfd, 1, timeout_ms) == 1 && read(box.wake_fd, &count, sizeof(count)) == sizeof(count);
}

/* A kick for one who sleeps, and only one. */
static void test_kick(void) {
    int message;
    CHECK_EQ(vn_mailbox_init(&box), 0);
    vn_mailbox_put(&box, &message);
    CHECK(!kicked(0));
    CHECK(!vn_mailbox_sleep(&box)); /* there is mail */
    CHECK(vn_mailbox_take(&box));
    CHECK(vn_mailbox_sleep(&box));
    vn_mailbox_put(&box, &message);
    vn_mailbox_put(&box, &message);
    CHECK(kicked(0));
    CHECK(!kicked(0));
    vn_mailbox_awake(&box);
    CHECK(vn_mailbox_take(&box) && vn_mailbox_take(&box));
    CHECK(vn_mailbox_sleep(&box));
    vn_mailbox_awake(&box);
    vn_mailbox_put(&box, &message);
    CHECK(!kicked(0));
    vn_mailbox_fini(&box);
}

static void *send_all(void *arg) {
    uintptr_t sender = (uintptr_t)arg;
    struct vn_test_random random = {.state = sender};
    for (uintptr_t i = 1; i <= NR_EACH; i++) {
        while (vn_mailbox_put(&box, (void *)(sender << 32 | i)) == -EAGAIN)
            sched_yield();
        if (vn_test_below(&random, 100) == 0)
            sched_yield();
    }
    return NULL;
}

static void test_threads(void) {
    pthread_t threads[NR_SENDERS];
    uint32_t last[NR_SENDERS] = {0};
    CHECK_EQ(vn_mailbox_init(&box), 0);
    for (uintptr_t i = 0; i < NR_SENDERS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, send_all, (void *)i), 0);
    for (uint32_t left = NR_SENDERS * NR_EACH; left;) {
        uintptr_t message = (uintptr_t)vn_mailbox_take(&box);
        if (message) {
            CHECK_EQ(message & UINT32_MAX, last[message >> 32] + 1);
            last[message >> 32]++;
            left--;
        } else if (vn_mailbox_sleep(&box)) {
            CHECK(kicked(10000)); /* asleep with mail in the box for ever otherwise */
            vn_mailbox_awake(&box);
        }
    }
    for (uint32_t i = 0; i < NR_SENDERS; i++)
        pthread_join(threads[i], NULL);
    CHECK(!vn_mailbox_take(&box));
    vn_mailbox_fini(&box);
}

int main(void) {
    test_bounds();
    test_kick();
    test_threads();
    return 0;
}
