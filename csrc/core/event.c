/* Events from the reactors to Python. Emitted anywhere in C, drained by api.c. Rare: never one per I/O. */
#include "core/event.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define NR_SLOTS 2048u    /* a power of two */
#define NR_ORDINARY 1024u /* that may wait; the other slots are for ends, which somebody waits for */

struct vn_event_queue {
    atomic_uint_fast64_t put_at;
    atomic_uint_fast64_t take_at; /* one writer */
    atomic_uint_fast64_t lost;
    int fd;
    struct {
        atomic_uint_fast64_t turn;
        struct vn_event event;
    } cells[NR_SLOTS];
};

int vn_event_queue_create(struct vn_event_queue **out) {
    struct vn_event_queue *queue = calloc(1, sizeof(*queue));
    if (!queue)
        return -ENOMEM;
    queue->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->fd < 0) {
        int err = errno;
        free(queue);
        return -err;
    }
    for (uint32_t i = 0; i < NR_SLOTS; i++)
        atomic_init(&queue->cells[i].turn, i);
    *out = queue;
    return 0;
}

void vn_event_queue_destroy(struct vn_event_queue *queue) {
    close(queue->fd);
    free(queue);
}

int vn_event_queue_fd(const struct vn_event_queue *queue) {
    return queue->fd;
}

static uint64_t room_for(enum vn_event_type type) {
    bool is_awaited = type == VN_EVENT_CTRL_DESTROYED || type == VN_EVENT_TARGET_DESTROYED || type == VN_EVENT_DECISION;
    return is_awaited ? NR_SLOTS : NR_ORDINARY;
}

/* Claims a cell for writing; -1 when there is no room for this one. */
static int64_t claim(struct vn_event_queue *queue, enum vn_event_type type) {
    uint64_t at = atomic_load(&queue->put_at);
    for (;;) {
        if (at >= atomic_load(&queue->take_at) + room_for(type))
            return -1;
        uint64_t turn = atomic_load(&queue->cells[at % NR_SLOTS].turn);
        if (turn < at)
            return -1;
        if (turn > at)
            at = atomic_load(&queue->put_at);
        else if (atomic_compare_exchange_weak(&queue->put_at, &at, at + 1))
            return (int64_t)at;
    }
}

void vn_event_emit(struct vn_event_queue *queue, enum vn_event_type type, uint64_t ctrl, uint64_t a, uint64_t b,
                   const char *format, ...) {
    int64_t at = claim(queue, type);
    if (at < 0) {
        atomic_fetch_add(&queue->lost, 1);
        return;
    }
    struct vn_event *event = &queue->cells[(uint64_t)at % NR_SLOTS].event;
    *event = (struct vn_event){.type = type, .ctrl = ctrl, .a = a, .b = b};
    va_list args;
    va_start(args, format);
    vsnprintf(event->text, sizeof(event->text), format, args);
    va_end(args);
    atomic_store(&queue->cells[(uint64_t)at % NR_SLOTS].turn, (uint64_t)at + 1);

    uint64_t one = 1;
    (void)!write(queue->fd, &one, sizeof(one)); /* can only fail when it is already readable */
}

uint32_t vn_event_drain(struct vn_event_queue *queue, struct vn_event *buf, uint32_t max) {
    uint64_t count;
    (void)!read(queue->fd, &count, sizeof(count));
    uint32_t n = 0;
    bool more = true; /* stay readable */
    uint64_t lost = max ? atomic_exchange(&queue->lost, 0) : 0;
    if (lost)
        buf[n++] = (struct vn_event){.type = VN_EVENT_LOST, .a = lost};
    while (n < max) {
        uint64_t at = atomic_load(&queue->take_at);
        if (atomic_load(&queue->cells[at % NR_SLOTS].turn) != at + 1) {
            more = atomic_load(&queue->lost); /* one that found the queue full before we made room */
            break;
        }
        buf[n++] = queue->cells[at % NR_SLOTS].event;
        atomic_store(&queue->cells[at % NR_SLOTS].turn, at + NR_SLOTS);
        atomic_store(&queue->take_at, at + 1);
    }
    uint64_t one = 1;
    if (more)
        (void)!write(queue->fd, &one, sizeof(one));
    return n;
}
