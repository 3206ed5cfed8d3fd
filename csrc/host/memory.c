/* The memory that the host shares with the device: one sealed memfd, a page allocator over it, PRPs into it.
 * Called by device.c at open and by everything that needs a ring, a buffer or a list.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/nvme_host.h"

#define HUGE_BYTES (2ull << 20)
#define MAX_MEMORY_BYTES (64ull << 30)

int vn_host_memory_init(struct vn_host *host, uint64_t bytes) {
    uint64_t nr_words;
    int err;

    if (bytes > MAX_MEMORY_BYTES)
        return vn_host_fail(EINVAL, "%llu bytes of shared memory are more than 64 GiB", (unsigned long long)bytes);
    bytes = (bytes + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
    nr_words = bytes / VN_HOST_PAGE / 64;
    host->page_used = calloc(nr_words, sizeof(uint64_t));
    if (!host->page_used)
        return vn_host_fail(ENOMEM, "no memory for the page map");
    host->memfd = memfd_create("vhostnvme-host", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (host->memfd < 0)
        return vn_host_fail(errno, "cannot make shared memory: %s", strerror(errno));
    if (ftruncate(host->memfd, (off_t)bytes) < 0)
        goto fail;
    /* The server holds this descriptor too: it must not be able to pull the pages from under this process. */
    if (fcntl(host->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        goto fail;
    host->mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, host->memfd, 0);
    if (host->mem == MAP_FAILED) {
        host->mem = NULL;
        goto fail;
    }
    host->mem_bytes = bytes;
    return 0;
fail:
    err = errno;
    return vn_host_fail(err, "cannot make %llu bytes of shared memory: %s", (unsigned long long)bytes, strerror(err));
}

void vn_host_memory_fini(struct vn_host *host) {
    if (host->mem)
        munmap(host->mem, host->mem_bytes);
    if (host->memfd >= 0)
        close(host->memfd);
    free(host->page_used);
}

void *vn_host_memory(vn_host *host, uint64_t *size) {
    *size = host->mem_bytes;
    return host->mem;
}

static bool page_taken(const struct vn_host *host, uint64_t page) {
    return host->page_used[page / 64] >> (page % 64) & 1;
}

int vn_host_alloc_from(struct vn_host *host, uint64_t from, uint64_t bytes, uint64_t *offset) {
    uint64_t nr_pages = host->mem_bytes / VN_HOST_PAGE;
    uint64_t want = bytes / VN_HOST_PAGE + (bytes % VN_HOST_PAGE != 0);
    uint64_t run = 0;

    if (want == 0)
        return vn_host_fail(EINVAL, "an allocation of 0 bytes");
    for (uint64_t page = from / VN_HOST_PAGE; page < nr_pages; page++) {
        if (page % 64 == 0 && host->page_used[page / 64] == ~0ull) {
            run = 0;
            page += 63;
            continue;
        }
        run = page_taken(host, page) ? 0 : run + 1;
        if (run < want)
            continue;
        for (uint64_t i = page + 1 - want; i <= page; i++)
            host->page_used[i / 64] |= 1ull << (i % 64);
        *offset = (page + 1 - want) * VN_HOST_PAGE;
        memset(host->mem + *offset, 0, want * VN_HOST_PAGE);
        return 0;
    }
    return vn_host_fail(ENOMEM, "the host's shared memory has no %llu bytes left in one piece; open it with more",
                        (unsigned long long)bytes);
}

int vn_host_alloc(vn_host *host, uint64_t bytes, uint64_t *offset) {
    return vn_host_alloc_from(host, 0, bytes, offset);
}

int vn_host_free(vn_host *host, uint64_t offset, uint64_t bytes) {
    uint64_t first = offset / VN_HOST_PAGE;
    uint64_t nr = bytes / VN_HOST_PAGE + (bytes % VN_HOST_PAGE != 0);

    if (offset % VN_HOST_PAGE || offset > host->mem_bytes || nr > (host->mem_bytes - offset) / VN_HOST_PAGE)
        return vn_host_fail(EINVAL, "not a piece of the shared memory");
    for (uint64_t i = first; i < first + nr; i++)
        host->page_used[i / 64] &= ~(1ull << (i % 64));
    return 0;
}

int vn_host_build_prps(vn_host *host, void *sqe, uint64_t data_offset, uint64_t len, uint64_t list_offset,
                       uint64_t list_bytes) {
    const uint32_t per_page = VN_HOST_PAGE / 8;
    uint64_t first = VN_HOST_PAGE - data_offset % VN_HOST_PAGE;
    uint64_t left, addr, lists;
    struct vn_sqe command;

    if (len == 0 || len > host->mem_bytes || data_offset > host->mem_bytes - len)
        return vn_host_fail(EINVAL, "the buffer is not in the shared memory");
    memcpy(&command, sqe, sizeof(command));
    command.prp1 = host->iova_base + data_offset;
    command.prp2 = 0;
    left = len > first ? len - first : 0;
    addr = command.prp1 + first;
    if (left && left <= VN_HOST_PAGE) {
        command.prp2 = addr;
    } else if (left) {
        uint64_t entries = (left + VN_HOST_PAGE - 1) / VN_HOST_PAGE;
        uint64_t *list;

        /* Each list page but the last gives its last entry to the chain. */
        lists = entries <= per_page ? 1 : (entries - 2) / (per_page - 1) + 1;
        if (list_offset % VN_HOST_PAGE || list_bytes > host->mem_bytes || list_offset > host->mem_bytes - list_bytes)
            return vn_host_fail(EINVAL, "the PRP list is not in the shared memory");
        if (list_bytes < (entries + lists - 1) * 8)
            return vn_host_fail(ENOSPC, "the PRP list of %llu entries needs %llu pages", (unsigned long long)entries,
                                (unsigned long long)lists);
        command.prp2 = host->iova_base + list_offset;
        list = (uint64_t *)(void *)(host->mem + list_offset);
        for (uint64_t i = 0, page = 0; entries; i++) {
            if (i == per_page - 1 && entries > 1) {
                page++;
                list[i] = command.prp2 + page * VN_HOST_PAGE;
                list += per_page;
                i = 0;
            }
            list[i] = addr;
            addr += VN_HOST_PAGE;
            entries--;
        }
    }
    memcpy(sqe, &command, sizeof(command));
    return 0;
}
