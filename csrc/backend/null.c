/* The null backend: no space and no time. It exists to measure and test everything above it.
 * Writes go nowhere; reads leave the buffer as it is, so what a guest reads is what its buffer held before.
 * Opened by vn_backend_open.
 */
#include <errno.h>
#include <stdlib.h>

#include "backend/backend.h"
#include "include/vhostnvme.h"

static void null_close(struct vn_backend *backend) {
    free(backend);
}

static int null_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    struct vn_chan *chan = calloc(1, sizeof(*chan));
    if (!chan)
        return -ENOMEM;
    *chan = (struct vn_chan){.backend = backend, .reactor = reactor};
    *out = chan;
    return 0;
}

static void null_chan_close(struct vn_chan *chan) {
    free(chan);
}

static enum vn_submit null_submit(struct vn_chan *chan, struct vn_req *req) {
    (void)chan;
    vn_req_complete(req, VN_SC_SUCCESS);
    return VN_TAKEN;
}

static int null_resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size) {
    (void)backend;
    (void)size;
    (void)error;
    (void)error_size;
    return 0;
}

static const struct vn_backend_ops null_ops = {
    .name = "null",
    .close = null_close,
    .resize = null_resize,
    .chan_open = null_chan_open,
    .chan_close = null_chan_close,
    .submit = null_submit,
};

int vn_null_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size) {
    /* Offsets are signed 64-bit numbers in the system's interfaces, so here too. */
    uint64_t size = opts->size <= INT64_MAX ? opts->size & ~(uint64_t)(opts->block_size - 1) : 0;
    if (!size)
        return vn_backend_fail(error, error_size, EINVAL,
                               "cannot make a null device of %llu bytes: give a size of at least one block and less "
                               "than 8 EiB, as in null:1T",
                               (unsigned long long)opts->size);
    struct vn_backend *backend = calloc(1, sizeof(*backend));
    if (!backend)
        return vn_backend_fail(error, error_size, ENOMEM, "cannot make a null device: out of memory");
    *backend = (struct vn_backend){
        .forgets = true,
        .ops = &null_ops,
        .size = size,
        .block_min = 512,
        .read_only = opts->flags & VN_NS_READ_ONLY,
    };
    *out = backend;
    return 0;
}
