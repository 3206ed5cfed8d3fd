/* Kept state: a small structure that outlives the process, in a file with two slots that are written in turns. A crash leaves the
 * old contents or the new ones. Format: docs/state.md. Without a path it lives in memory, and every save ends at once.
 */
#ifndef VN_CORE_KEEP_H
#define VN_CORE_KEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "core/reactor.h"

#define VN_KEEP_BYTES_MAX (1u << 20) /* of a payload */

/* Opaque. One owner: opened and closed on the control thread, saved on one reactor in between. */
struct vn_keep;

struct vn_keep_opts {
    const char *path;  /* absolute or relative to the working folder; NULL: memory only */
    const char *kind;  /* up to seven characters: what the payload is, "drive" or "ns" */
    uint32_t version;  /* of the payload's layout; a file of another is refused */
    uint8_t uuid[16];  /* whose state it is; a file of another is refused; all zero: anyone's */
    void *payload;     /* the structure itself, which stays the caller's; filled from the file, or left alone when there is none */
    uint32_t bytes;    /* of it, up to VN_KEEP_BYTES_MAX; a file with fewer leaves the rest alone, one with more is refused */
    bool make;         /* make the file now, and keep other processes out of it; else it is made by the first save */
};
/* Control thread; blocks. -errno, and error holds a sentence. -EBADMSG: neither slot is whole. */
int vn_keep_open(const struct vn_keep_opts *opts, struct vn_keep **out, char *error, uint32_t error_size);
/* Control thread. Nothing is being saved. */
void vn_keep_close(struct vn_keep *keep);
/* Whether there was a file with contents when it was opened. */
bool vn_keep_was_found(const struct vn_keep *keep);
/* Whether what is saved outlives the process. */
bool vn_keep_lasts(const struct vn_keep *keep);

/* Who waits for a save. Embedded in what waits, which stays valid until fn has run. */
struct vn_keep_wait {
    /* err 0: durable as it was at the call, or newer; else -errno, and the file is as before. */
    void (*fn)(struct vn_keep_wait *wait, int err);
    struct vn_keep_wait *next;
};
/* On the reactor: make the payload as it is now durable. wait NULL: nobody waits. fn may run before this returns. */
void vn_keep_save(struct vn_keep *keep, struct vn_reactor *reactor, struct vn_keep_wait *wait);
/* On the reactor: nothing is being saved, so that the next save may come from another one. */
bool vn_keep_is_idle(const struct vn_keep *keep);

#endif
