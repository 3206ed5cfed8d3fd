/* The memory backend: anonymous memory that appears when it is first written, and is gone when it is closed.
 * Everything is done by memcpy on the reactor, within submit. Opened by vn_backend_open.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/backend.h"
#include "core/status.h"
#include "core/util.h"
#include "include/vhostnvme.h"

struct mem {
    struct vn_backend backend;
    uint8_t *bytes;
    uint64_t room; /* bytes of address space: so far it can grow */
    uint64_t page_size;
};

#define ROOM_FACTOR 8 /* addresses cost nothing; it cannot move while reactors use it */

static void mem_close(struct vn_backend *backend) {
    struct mem *mem = (struct mem *)backend;
    munmap(mem->bytes, mem->room);
    free(mem);
}

static int mem_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    struct vn_chan *chan = calloc(1, sizeof(*chan));
    if (!chan)
        return -ENOMEM;
    *chan = (struct vn_chan){.backend = backend, .reactor = reactor};
    *out = chan;
    return 0;
}

static void mem_chan_close(struct vn_chan *chan) {
    free(chan);
}

/* Whole pages go back to the system, which gives zeroed ones next time; what is left at the ends is cleared. */
static void mem_zero(struct mem *mem, uint64_t offset, uint64_t length) {
    uint64_t end = offset + length;
    uint64_t first = (offset + mem->page_size - 1) & ~(mem->page_size - 1);
    uint64_t last = end & ~(mem->page_size - 1);
    if (first >= last || madvise(mem->bytes + first, last - first, MADV_DONTNEED) < 0) {
        memset(mem->bytes + offset, 0, length);
        return;
    }
    memset(mem->bytes + offset, 0, first - offset);
    memset(mem->bytes + last, 0, end - last);
}

static void mem_read(const uint8_t *at, const struct iovec *iov, uint32_t nr_iov) {
    for (const struct iovec *end = iov + nr_iov; iov < end; at += iov++->iov_len)
        memcpy(iov->iov_base, at, iov->iov_len);
}

static void mem_write(uint8_t *at, const struct iovec *iov, uint32_t nr_iov) {
    for (const struct iovec *end = iov + nr_iov; iov < end; at += iov++->iov_len)
        memcpy(at, iov->iov_base, iov->iov_len);
}

static vn_status mem_compare(const uint8_t *at, const struct iovec *iov, uint32_t nr_iov) {
    for (const struct iovec *end = iov + nr_iov; iov < end; at += iov++->iov_len) {
        if (memcmp(at, iov->iov_base, iov->iov_len) != 0)
            return VN_SC_COMPARE_FAILURE;
    }
    return VN_SC_SUCCESS;
}

static enum vn_submit mem_submit(struct vn_chan *chan, struct vn_req *req) {
    struct mem *mem = (struct mem *)chan->backend;
    vn_status status = VN_SC_SUCCESS;
    switch (req->op) {
    case VN_OP_READ:
        mem_read(mem->bytes + req->offset, req->iov, req->nr_iov);
        break;
    case VN_OP_WRITE:
        mem_write(mem->bytes + req->offset, req->iov, req->nr_iov);
        break;
    case VN_OP_COMPARE:
        status = mem_compare(mem->bytes + req->offset, req->iov, req->nr_iov);
        break;
    case VN_OP_WRITE_ZEROES:
    case VN_OP_DEALLOCATE:
        mem_zero(mem, req->offset, req->length);
        break;
    case VN_OP_FLUSH: /* there is nothing behind it */
    case VN_OP_COUNT:
        break;
    }
    vn_req_complete(req, status);
    return VN_TAKEN;
}

/* Memory that can be used up to there. In 2 MiB pages where there are some: a random 4 KiB copy then takes a quarter less
 * time (fewer TLB misses). The price is that a first write takes 2 MiB. Refused, it is as before. */
static int mem_use(const struct mem *mem, uint64_t size) {
    if (mprotect(mem->bytes, size, PROT_READ | PROT_WRITE) < 0)
        return errno;
    (void)madvise(mem->bytes, size, MADV_HUGEPAGE);
    return 0;
}

static int mem_resize(struct vn_backend *backend, uint64_t size, char *error, uint32_t error_size) {
    struct mem *mem = (struct mem *)backend;
    if (size > mem->room)
        return vn_backend_fail(error, error_size, ENOTSUP, "this memory can have %llu bytes at most",
                               (unsigned long long)mem->room);
    if (size < backend->size)
        mem_zero(mem, size, backend->size - size); /* as it is found when it grows again */
    int err = size > backend->size ? mem_use(mem, size) : 0;
    return err ? vn_backend_fail(error, error_size, err, "cannot map %llu bytes of memory: %s", (unsigned long long)size,
                                 strerror(err))
               : 0;
}

/* So that it can grow where it is. */
static int mem_map(struct mem *mem, uint64_t size) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    mem->room = size <= INT64_MAX / ROOM_FACTOR ? size * ROOM_FACTOR : size;
    mem->bytes = mmap(NULL, mem->room, PROT_NONE, flags, -1, 0);
    if (mem->bytes == MAP_FAILED) {
        mem->room = size;
        mem->bytes = mmap(NULL, mem->room, PROT_NONE, flags, -1, 0);
    }
    int err = mem->bytes == MAP_FAILED ? errno : mem_use(mem, size);
    if (err && mem->bytes != MAP_FAILED)
        munmap(mem->bytes, mem->room);
    return err;
}

static const struct vn_backend_ops mem_ops = {
    .name = "mem",
    .close = mem_close,
    .resize = mem_resize,
    .chan_open = mem_chan_open,
    .chan_close = mem_chan_close,
    .submit = mem_submit,
};

int vn_mem_open(const struct vn_ns_opts *opts, struct vn_backend **out, char *error, uint32_t error_size) {
    if (!opts->size || opts->size % opts->block_size || opts->size > INT64_MAX)
        return vn_backend_fail(error, error_size, EINVAL,
                               "cannot make a memory device of %llu bytes: give a size that is a multiple of the block "
                               "size, %u, as in mem:1G",
                               (unsigned long long)opts->size, opts->block_size);
    struct mem *mem = calloc(1, sizeof(*mem));
    if (!mem)
        return vn_backend_fail(error, error_size, ENOMEM, "cannot make a memory device: out of memory");
    int err = mem_map(mem, opts->size);
    if (err) {
        free(mem);
        return vn_backend_fail(error, error_size, err, "cannot map %llu bytes of memory: %s; take a smaller size",
                               (unsigned long long)opts->size, strerror(err));
    }
    mem->page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    mem->backend = (struct vn_backend){
        .forgets = true,
        .ops = &mem_ops,
        .size = opts->size,
        .block_min = 512,
        .read_only = opts->flags & VN_NS_READ_ONLY,
        .deallocates = true,
    };
    *out = &mem->backend;
    return 0;
}
