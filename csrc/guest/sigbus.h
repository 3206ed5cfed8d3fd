/* A client may shorten the file behind its memory after it was mapped: whoever touches what is gone gets SIGBUS, and
 * the process with all its guests would end. Here a handler puts an empty page in that place and marks the device,
 * whose reactor then drops that client; the other guests notice nothing.
 */
#ifndef VN_GUEST_SIGBUS_H
#define VN_GUEST_SIGBUS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* Control thread: installs the handler with the first runtime, removes it with the last. 0 or -errno. */
int vn_sigbus_install(void);
void vn_sigbus_remove(void);

/* Any thread: a mapping of a guest's memory is there, in pages of page_size. *lost becomes true when a part of it turns
 * out to be gone. -ENOSPC: the table is full, and the mapping must not be used. */
int vn_sigbus_watch(void *base, size_t len, size_t page_size, atomic_bool *lost);
/* Before the mapping goes. */
void vn_sigbus_unwatch(void *base);

#endif
