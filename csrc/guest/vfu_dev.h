/* The guest door: one vfio-user device in front of one controller.
 * Owner: the controller's reactor, which alone calls the libvfio-user context.
 */
#ifndef VN_VFU_DEV_H
#define VN_VFU_DEV_H

#include <libvfio-user.h>
#include <stdatomic.h>

#include "core/wait.h"
#include "ctrl/ctrl.h"
#include "guest/guest_mem.h"

#define VN_BAR0_BYTES 0x4000u /* registers, and the doorbell page at 0x1000; Windows wants 16 KiB */
#define VN_DOORBELL_BYTES 0x1000u

/* LISTENING: no client. ATTACHED: one. CLOSING: on the way to DEAD, draining. */
enum vn_dev_state { VN_DEV_LISTENING, VN_DEV_ATTACHED, VN_DEV_CLOSING, VN_DEV_DEAD };

/* To another reactor. DRAINS: fetches nothing. LEAVES: nothing is in flight, the poll is on its way out of the ring. */
enum vn_dev_move { VN_MOVE_NONE, VN_MOVE_DRAINS, VN_MOVE_LEAVES };

struct vn_shadow {
    uint64_t gpa, event_gpa;        /* of the two pages; 0: not configured */
    uint32_t *doorbells, *event_idx; /* NULL: not reachable now */
};

struct vn_vfu_dev {
    struct vn_ctrl *ctrl;
    struct vn_reactor *reactor;
    vfu_ctx_t *ctx;
    char path[108];
    enum vn_dev_state state;
    enum vn_dev_move move;
    uint32_t wanted; /* enum vn_doorbells as configured */
    bool mapped;     /* what the connected client uses */

    struct vn_uring_op poll_op;
    bool poll_armed, readable;
    bool hung_up; /* the client has closed its end: read on until libvfio-user has seen it */
    struct vn_poller poller;
    struct vn_timer retry_timer; /* when there was no room in the ring for our poll */
    struct vn_timer quiesce_timer;
    struct vn_timer irq_timer; /* the end of holding interrupts back */
    const uint8_t *msix_control; /* two bytes of the PCI configuration space */

    struct vn_wait command_wait;    /* from the end of the last command to the next one */
    struct vn_wait completion_wait; /* commands in flight: to the next end or the next command */
    struct vn_wait *wait;           /* which of them goes on, or NULL */
    uint64_t wait_ns;               /* when it began */
    uint64_t nr_done;               /* commands that had ended by then */
    struct vn_guest_mem mem;
    int doorbell_fd;
    uint32_t *page;                                  /* the mappable doorbells */
    uint32_t trapped[2 * VN_NR_QUEUES];              /* the last value of each trapped one */
    struct vn_shadow shadow;
    bool told_unshared; /* the event was sent for this connection */
    bool lost;          /* the client went while a request of it was pending */
    atomic_bool memory_lost; /* the client has shortened a file that it shares: set by the SIGBUS handler */
    uint32_t next_sq;   /* round robin: 0 to VN_MAX_IO_QUEUES - 1 */
    uint32_t next_of[VN_NR_SQ_PRIORITIES]; /* the same in each class, when they are weighted */
    bool quiesce_pending, quiesce_cancelled;
    bool checked_memory; /* the first admin command since enable was looked at */
};

/* Control thread: makes the socket and the context. error: a sentence. */
int vn_vfu_dev_open(struct vn_vfu_dev *dev, struct vn_ctrl *ctrl, const char *path, uint32_t doorbells, char *error,
                    uint32_t error_size);
/* Reactor: start serving; begin to close; is it DEAD yet? */
int vn_vfu_dev_start(struct vn_vfu_dev *dev);
void vn_vfu_dev_close(struct vn_vfu_dev *dev);
/* Control thread, when DEAD or never started. */
void vn_vfu_dev_free(struct vn_vfu_dev *dev);

/* move.c. On the old reactor: -EAGAIN until it has left, -EBUSY when it cannot; or let it stay after all. Between the
 * two no reactor has it, and dev->reactor and ctrl->reactor change. Then on the new one. */
int vn_vfu_dev_leave(struct vn_vfu_dev *dev);
void vn_vfu_dev_stay(struct vn_vfu_dev *dev);
void vn_vfu_dev_enter(struct vn_vfu_dev *dev);
/* Nothing is under way in it: what comes next comes from outside. */
bool vn_vfu_dev_is_still(const struct vn_vfu_dev *dev);

/* pin.c: memory that has been mapped, and that will be unmapped. Nothing happens on reactors that pin none. */
void vn_vfu_dev_pin(struct vn_vfu_dev *dev, const void *base, uint64_t len);
void vn_vfu_dev_unpin(struct vn_vfu_dev *dev, const void *base);
void vn_vfu_dev_pin_all(struct vn_vfu_dev *dev);
void vn_vfu_dev_unpin_all(struct vn_vfu_dev *dev);

/* doorbell.c: the rings. */
bool vn_doorbell_poll(struct vn_vfu_dev *dev);
bool vn_doorbell_arm(struct vn_vfu_dev *dev);
void vn_doorbell_take_head(struct vn_ctrl *ctrl, struct vn_cq *cq); /* the host's, from its doorbell */
/* Takes posted doorbell writes that are next in the socket, without libvfio-user. False: something else is next.
 * Clears dev->readable when the socket is empty. */
bool vn_doorbell_take_posted(struct vn_vfu_dev *dev);
vn_status vn_doorbell_map(struct vn_req *req, uint32_t length);
vn_status vn_doorbell_map_meta(struct vn_req *req, struct vn_meta_map *map, uint32_t length);
void vn_doorbell_write(struct vn_vfu_dev *dev, uint32_t offset, uint32_t value);
void vn_doorbell_remap(struct vn_vfu_dev *dev); /* the guest's memory map has changed */
vn_status vn_doorbell_sq_open(struct vn_sq *sq);
struct vn_req *vn_doorbell_fetch_second(struct vn_sq *sq, bool *later);
vn_status vn_doorbell_cq_open(struct vn_cq *cq);
vn_status vn_doorbell_buffer(struct vn_ctrl *ctrl, uint64_t shadow, uint64_t event_idx);
void vn_doorbell_post(struct vn_req *req);
void vn_doorbell_forget(struct vn_ctrl *ctrl);

/* irq.c */
#define VN_IRQ_BATCH_NS 60000ull /* an interrupt waits so long for one more completion to tell of */
void vn_irq_flush(struct vn_vfu_dev *dev);
void vn_irq_timeout(struct vn_timer *timer);
void vn_irq_mask_changed(struct vn_ctrl *ctrl);
void vn_irq_unmasked(vfu_ctx_t *ctx, uint32_t start, uint32_t count, bool mask);

#endif
