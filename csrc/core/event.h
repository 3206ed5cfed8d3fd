/* Events from the reactors to Python: a bounded queue and an eventfd. A full queue drops and counts, but keeps room for those
 * that tell an end. */
#ifndef VN_CORE_EVENT_H
#define VN_CORE_EVENT_H

#include <stdint.h>

#include "include/vhostnvme.h"

struct vn_event_queue;

int vn_event_queue_create(struct vn_event_queue **out);
void vn_event_queue_destroy(struct vn_event_queue *queue);
int vn_event_queue_fd(const struct vn_event_queue *queue);
/* Any thread. format is printf's, cut to the event's text. */
void vn_event_emit(struct vn_event_queue *queue, enum vn_event_type type, uint64_t ctrl, uint64_t a, uint64_t b,
                   const char *format, ...) __attribute__((format(printf, 6, 7)));
/* One consumer thread. */
uint32_t vn_event_drain(struct vn_event_queue *queue, struct vn_event *buf, uint32_t max);

#endif
