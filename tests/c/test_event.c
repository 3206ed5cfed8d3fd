/* Events: order for each thread, a count of what was lost, a descriptor that stays readable while there is more.
 * Also run under TSan.
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>

#include "core/event.h"
#include "vn_test.h"

#define NR_SLOTS 1024u
#define NR_THREADS 4u
#define NR_EACH 20000u

static struct vn_event_queue *queue;
static struct vn_event events[2 * NR_SLOTS];

static bool readable(int timeout_ms) {
    struct pollfd pollfd = {.fd = vn_event_queue_fd(queue), .events = POLLIN};
    return poll(&pollfd, 1, timeout_ms) == 1;
}

static void test_one(void) {
    char text[500];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    CHECK(!readable(0));
    CHECK_EQ(vn_event_drain(queue, events, 10), 0);
    vn_event_emit(queue, VN_EVENT_MESSAGE, 1, 2, 3, "%s %d", "four", 5);
    vn_event_emit(queue, VN_EVENT_CTRL_FATAL, 6, 0, 0, "%s", text);
    CHECK(readable(0));
    CHECK_EQ(vn_event_drain(queue, events, 10), 2);
    CHECK(!readable(0));
    CHECK(events[0].type == VN_EVENT_MESSAGE && events[0].ctrl == 1 && events[0].a == 2 && events[0].b == 3);
    CHECK(strcmp(events[0].text, "four 5") == 0);
    CHECK_EQ(strlen(events[1].text), sizeof(events[1].text) - 1); /* cut, and ended */
}

/* A small buffer: the descriptor says that there is more. */
static void test_in_parts(void) {
    for (uint64_t i = 0; i < 10; i++)
        vn_event_emit(queue, VN_EVENT_MESSAGE, 0, i, 0, "%s", "");
    CHECK_EQ(vn_event_drain(queue, events, 0), 0);
    for (uint64_t i = 0; i < 10; i += 5) {
        CHECK(readable(0));
        CHECK_EQ(vn_event_drain(queue, events, 5), 5);
        CHECK_EQ(events[0].a, i);
    }
    CHECK_EQ(vn_event_drain(queue, events, 5), 0);
    CHECK(!readable(0));
}

static void test_full(void) {
    for (uint64_t i = 0; i < NR_SLOTS + 7; i++)
        vn_event_emit(queue, VN_EVENT_MESSAGE, 0, i, 0, "%s", "");
    CHECK_EQ(vn_event_drain(queue, events, 2 * NR_SLOTS), NR_SLOTS + 1);
    CHECK(events[0].type == VN_EVENT_LOST && events[0].a == 7);
    for (uint32_t i = 0; i < NR_SLOTS; i++)
        CHECK_EQ(events[i + 1].a, i);
    CHECK_EQ(vn_event_drain(queue, events, 2 * NR_SLOTS), 0); /* told once */
}

/* Somebody waits for an end: it is told also when nobody has listened for long. */
static void test_ends_have_room(void) {
    for (uint64_t i = 0; i < NR_SLOTS; i++) {
        vn_event_emit(queue, VN_EVENT_HOST_DISCONNECTED, 0, i, 0, "%s", "");
        vn_event_emit(queue, i % 2 ? VN_EVENT_TARGET_DESTROYED : VN_EVENT_CTRL_DESTROYED, i, 0, 0, "%s", "");
    }
    uint64_t nr_ends = 0, nr_others = 0, lost = 0;
    for (uint32_t n; (n = vn_event_drain(queue, events, 100)) > 0;) {
        for (uint32_t i = 0; i < n; i++) {
            if (events[i].type == VN_EVENT_LOST)
                lost = events[i].a;
            else if (events[i].type == VN_EVENT_HOST_DISCONNECTED)
                nr_others++;
            else
                CHECK_EQ(events[i].ctrl, nr_ends++);
        }
    }
    CHECK_EQ(nr_ends, NR_SLOTS);
    CHECK_EQ(nr_others + lost, NR_SLOTS);
}

static void *emit_all(void *arg) {
    uintptr_t thread = (uintptr_t)arg;
    for (uint64_t i = 1; i <= NR_EACH; i++) {
        vn_event_emit(queue, VN_EVENT_MESSAGE, thread, i, ~i, "%zu %llu", (size_t)thread, (unsigned long long)i);
        if (i % 64 == 0)
            sched_yield();
    }
    return NULL;
}

/* Every event arrives whole and in its thread's order, or is counted as lost. */
static void test_threads(void) {
    pthread_t threads[NR_THREADS];
    uint64_t last[NR_THREADS] = {0}, nr = 0, lost = 0;
    for (uintptr_t i = 0; i < NR_THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, emit_all, (void *)i), 0);
    while (nr + lost < (uint64_t)NR_THREADS * NR_EACH) {
        CHECK(readable(10000));
        uint32_t n = vn_event_drain(queue, events, 100);
        for (uint32_t i = 0; i < n; i++) {
            const struct vn_event *event = &events[i];
            if (event->type == VN_EVENT_LOST) {
                lost += event->a;
                continue;
            }
            char text[64];
            snprintf(text, sizeof(text), "%zu %llu", (size_t)event->ctrl, (unsigned long long)event->a);
            CHECK(strcmp(event->text, text) == 0 && event->b == ~event->a);
            CHECK(event->a > last[event->ctrl]);
            last[event->ctrl] = event->a;
            nr++;
        }
    }
    for (uint32_t i = 0; i < NR_THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(vn_event_drain(queue, events, 100), 0);
    printf("%llu events, %llu lost\n", (unsigned long long)nr, (unsigned long long)lost);
}

int main(void) {
    CHECK_EQ(vn_event_queue_create(&queue), 0);
    test_one();
    test_in_parts();
    test_full();
    test_ends_have_room();
    for (int i = 0; i < 5; i++)
        test_threads();
    vn_event_queue_destroy(queue);
    return 0;
}
