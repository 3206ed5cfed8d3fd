/* The written contract of a backend. A filter is a backend that holds a next one.
 *
 * Threads. open, close and resize run on the control thread and may block; everything that has a channel runs on the
 * channel's reactor and may not. Opening a channel allocates all that its I/O will need.
 * Submit. Answers TAKEN (the backend owns the request and will call vn_req_complete exactly once, perhaps
 * before submit returns) or BUSY (nothing was touched; offer it again after some other request has completed,
 * or on a later turn). There is no third answer: a refusal is TAKEN and completed with a status.
 * Bounds. The caller guarantees: offset + length <= size, both multiples of the namespace's block size
 * (which is a multiple of backend.block_min), iovecs that sum up to length, FUA only with WRITE and WRITE_ZEROES.
 * Durability. A completed FLUSH covers every WRITE, WRITE_ZEROES and DEALLOCATE completed before it was submitted.
 * A FUA request is durable on completion. A failed flush latches: every later flush, FUA and write fails too.
 * State. The first hop (a request in state FETCHED) sets TAKEN, and FETCHED again on BUSY; a filter passes on a
 * request that is TAKEN already, and a BUSY from below leaves it TAKEN: the filter offers it again, or, when it
 * forwards from within its own submit, pops its frame and answers BUSY itself.
 * Cancel. After cancel the request still completes exactly once, and its iovecs are not touched after completion.
 * cancel itself completes nothing, so that a caller may walk its list of requests; a later turn does.
 */
#ifndef VN_BACKEND_H
#define VN_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "core/reactor.h"
#include "core/req.h"

enum vn_submit { VN_TAKEN, VN_BUSY };

struct vn_backend;
struct vn_chan;

struct vn_backend_ops {
    const char *name;
    void (*close)(struct vn_backend *backend);
    /* What it could have at most without anything being made larger, bytes; NULL, 0: it does not know. */
    uint64_t (*full_size)(struct vn_backend *backend);
    /* Makes the space for so many bytes, or gives back what is behind them, where nothing is in flight and nothing comes
     * any more. Else as open. NULL: an engine cannot, a filter need not know. */
    int (*resize)(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size);
    int (*chan_open)(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out);
    void (*chan_close)(struct vn_chan *chan); /* nothing is in flight */
    enum vn_submit (*submit)(struct vn_chan *chan, struct vn_req *req);
    void (*cancel)(struct vn_chan *chan, struct vn_req *req); /* NULL: requests end soon by themselves */
    void (*told)(struct vn_backend *backend); /* events and events_id are set; NULL: nothing hangs on it */
};

/* Immutable after open, but for size (vn_backend_resize; read it atomically). */
struct vn_backend {
    const struct vn_backend_ops *ops;
    struct vn_backend *next; /* of a filter */
    uint64_t size;           /* bytes */
    uint32_t block_min;      /* smallest block size it can serve, bytes */
    bool read_only;
    bool volatile_cache;     /* FLUSH means something */
    bool deallocates;        /* DEALLOCATE gives space back, and it reads as zeros afterwards ... */
    bool deallocated_stays;  /* ... or, here, as anything */
    bool direct;
    bool forgets;            /* what it holds ends with it */
    bool has_uuid;           /* what is behind it has an identity of its own */
    uint8_t uuid[16];
    uint32_t block_size;     /* bytes: it has a format of its own; 0: what the namespace wants */
    struct vn_event_queue *events; /* where the engine at the bottom tells what happens by itself; NULL: nowhere */
    uint64_t events_id;
    uint64_t bounced;        /* counter of the engine, relaxed atomic; ask vn_backend_bounced */
    int latched;             /* of the engine at the bottom: errno of the flush that failed; ask vn_backend_latched */
};

/* Embedded first in what an implementation allocates. Owner: reactor. */
struct vn_chan {
    struct vn_backend *backend;
    struct vn_reactor *reactor;
};

struct vn_ns_opts;
struct vn_event_queue;
/* Opens the backend that the options name, with its filters on top. On failure -errno, and error holds a sentence. */
int vn_backend_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size);
/* Closes the whole stack. */
void vn_backend_close(struct vn_backend *backend);
/* Another size for the whole stack, which is then backend->size of each; or -errno and a sentence. */
int vn_backend_resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size);
uint64_t vn_backend_full_size(struct vn_backend *backend); /* see full_size */
/* Its size now, in whole blocks of its own: what can be read or erased of it. Any thread. */
static inline uint64_t vn_backend_whole_size(const struct vn_backend *backend) {
    return __atomic_load_n(&backend->size, __ATOMIC_RELAXED) & ~((uint64_t)backend->block_min - 1);
}

/* A flush has failed with err (positive errno): from now on whatever would change or flush is refused, by the first
 * hop, and it stays so until the backend is opened anew (Linux reports a failed write-back once, then forgets it). */
void vn_backend_latch(struct vn_backend *backend, int err);
int vn_backend_latched(const struct vn_backend *backend); /* that errno, or 0; any thread */
const int *vn_backend_latch_of(const struct vn_backend *backend); /* where that is, for who asks often; atomic */

/* Before the first channel is opened. */
void vn_backend_tell_to(struct vn_backend *backend, struct vn_event_queue *events, uint64_t id);

uint64_t vn_backend_bounced(const struct vn_backend *backend); /* transfers that were copied; any thread */

/* For filters: what a backend above next looks like before the filter changes anything. */
struct vn_backend vn_backend_above(struct vn_backend *next, const struct vn_backend_ops *ops);
/* For the open functions: writes the sentence and answers -err. */
int vn_backend_fail(char *error, uint32_t error_size, int err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Checked wrappers: they assert the contract on every hop. */
#if defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
#define VN_CHECKS_ALL_HOPS 1 /* also those that cost too much, or that were checked just before */
#else
#define VN_CHECKS_ALL_HOPS 0
#endif
int vn_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out);
void vn_chan_close(struct vn_chan *chan);
enum vn_submit vn_chan_submit(struct vn_chan *chan, struct vn_req *req);
void vn_chan_cancel(struct vn_chan *chan, struct vn_req *req);

/* The implementations; each in the file of its name. */
int vn_file_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size);
int vn_mem_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size);
int vn_null_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size);
int vn_forward_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size);
int vn_mirror_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size);
int vn_filter_delay_open(const struct vn_ns_opts *opts, struct vn_backend *next, struct vn_backend **out);
int vn_filter_error_open(const struct vn_ns_opts *opts, struct vn_backend *next, struct vn_backend **out);
int vn_filter_record_open(const struct vn_ns_opts *opts, struct vn_backend *next, struct vn_backend **out,
                          char *error, uint32_t error_size);

#endif
