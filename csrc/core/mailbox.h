/* A bounded queue of pointers from any thread to one reactor, without locks.
 * Each cell carries a sequence number that says whose turn it is (D. Vyukov's bounded queue).
 */
#ifndef VN_CORE_MAILBOX_H
#define VN_CORE_MAILBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define VN_MAILBOX_SLOTS 256u /* a power of two */

struct vn_mailbox {
    _Alignas(64) atomic_uint_fast64_t put_at; /* senders */
    _Alignas(64) uint64_t take_at;            /* receiver only */
    atomic_bool sleeping;                     /* the receiver wants a kick on wake_fd */
    int wake_fd;
    struct {
        atomic_uint_fast64_t turn;
        void *message;
    } cells[VN_MAILBOX_SLOTS];
};

int vn_mailbox_init(struct vn_mailbox *box);
void vn_mailbox_fini(struct vn_mailbox *box);
/* Any thread. -EAGAIN when it is full. Kicks the receiver only when that sleeps. */
int vn_mailbox_put(struct vn_mailbox *box, void *message);
/* Receiver: NULL when empty. */
void *vn_mailbox_take(struct vn_mailbox *box);
/* Receiver: announce sleep. False: something has come in, do not sleep (the announcement is withdrawn). */
bool vn_mailbox_sleep(struct vn_mailbox *box);
void vn_mailbox_awake(struct vn_mailbox *box);

#endif
