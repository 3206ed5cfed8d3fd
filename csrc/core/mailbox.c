/* A bounded queue of pointers from any thread to one reactor. Used by core/reactor.c. */
#include "core/mailbox.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int vn_mailbox_init(struct vn_mailbox *box) {
    box->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (box->wake_fd < 0)
        return -errno;
    atomic_init(&box->put_at, 0);
    box->take_at = 0;
    atomic_init(&box->sleeping, false);
    for (uint32_t i = 0; i < VN_MAILBOX_SLOTS; i++)
        atomic_init(&box->cells[i].turn, i);
    return 0;
}

void vn_mailbox_fini(struct vn_mailbox *box) {
    close(box->wake_fd);
}

int vn_mailbox_put(struct vn_mailbox *box, void *message) {
    uint64_t at = atomic_load_explicit(&box->put_at, memory_order_relaxed);
    for (;;) {
        uint64_t turn = atomic_load_explicit(&box->cells[at % VN_MAILBOX_SLOTS].turn, memory_order_acquire);
        if (turn == at) {
            if (atomic_compare_exchange_weak_explicit(&box->put_at, &at, at + 1, memory_order_relaxed,
                                                      memory_order_relaxed))
                break;
        } else if (turn < at) {
            return -EAGAIN;
        } else {
            at = atomic_load_explicit(&box->put_at, memory_order_relaxed);
        }
    }
    box->cells[at % VN_MAILBOX_SLOTS].message = message;
    atomic_store_explicit(&box->cells[at % VN_MAILBOX_SLOTS].turn, at + 1, memory_order_release);

    /* Pairs with the fence in vn_mailbox_sleep: either it sees our message or we see that it sleeps. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_exchange_explicit(&box->sleeping, false, memory_order_relaxed)) {
        uint64_t one = 1;
        (void)!write(box->wake_fd, &one, sizeof(one)); /* can only fail when it is already readable */
    }
    return 0;
}

static bool has_mail(const struct vn_mailbox *box) {
    return atomic_load_explicit(&box->cells[box->take_at % VN_MAILBOX_SLOTS].turn, memory_order_acquire) ==
           box->take_at + 1;
}

void *vn_mailbox_take(struct vn_mailbox *box) {
    if (!has_mail(box))
        return NULL;
    uint64_t at = box->take_at++;
    void *message = box->cells[at % VN_MAILBOX_SLOTS].message;
    atomic_store_explicit(&box->cells[at % VN_MAILBOX_SLOTS].turn, at + VN_MAILBOX_SLOTS, memory_order_release);
    return message;
}

bool vn_mailbox_sleep(struct vn_mailbox *box) {
    atomic_store_explicit(&box->sleeping, true, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (!has_mail(box))
        return true;
    vn_mailbox_awake(box);
    return false;
}

void vn_mailbox_awake(struct vn_mailbox *box) {
    atomic_store_explicit(&box->sleeping, false, memory_order_relaxed);
}
