/* The guest's memory: a sorted table of regions and the one look-up in it.
 * Filled by vfu_dev.c from DMA maps; used by prp.c and doorbell.c. See guest_mem.h.
 */
#include "guest/guest_mem.h"

#include <errno.h>
#include <string.h>

/* Index of the first region that ends beyond gpa. */
static uint32_t find(const struct vn_guest_mem *mem, uint64_t gpa) {
    uint32_t low = 0, high = mem->nr;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (mem->regions[middle].gpa + (mem->regions[middle].len - 1) < gpa)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int vn_guest_mem_add(struct vn_guest_mem *mem, uint64_t gpa, uint64_t len, void *hva, bool readable, bool writable) {
    if (len == 0 || gpa + (len - 1) < gpa)
        return -EINVAL;
    if (mem->nr == VN_GUEST_REGIONS)
        return -ENOSPC;
    uint32_t at = find(mem, gpa);
    if (at < mem->nr && mem->regions[at].gpa <= gpa + (len - 1))
        return -EINVAL;
    memmove(&mem->regions[at + 1], &mem->regions[at], (mem->nr - at) * sizeof(mem->regions[0]));
    mem->regions[at] = (struct vn_guest_region){gpa, len, hva, readable, writable};
    mem->nr++;
    mem->last = at;
    return 0;
}

void vn_guest_mem_remove(struct vn_guest_mem *mem, uint64_t gpa, uint64_t len) {
    uint32_t at = find(mem, gpa);
    if (at == mem->nr || mem->regions[at].gpa != gpa || mem->regions[at].len != len)
        return;
    mem->nr--;
    memmove(&mem->regions[at], &mem->regions[at + 1], (mem->nr - at) * sizeof(mem->regions[0]));
    mem->last = 0;
}

void *vn_guest_mem_piece(struct vn_guest_mem *mem, uint64_t gpa, uint64_t len, bool write, uint64_t *got) {
    const struct vn_guest_region *region = &mem->regions[mem->last];
    if (mem->last >= mem->nr || gpa - region->gpa >= region->len) {
        mem->last = find(mem, gpa);
        if (mem->last == mem->nr)
            return NULL;
        region = &mem->regions[mem->last];
        if (gpa < region->gpa)
            return NULL;
    }
    if (write ? !region->writable : !region->readable)
        return NULL;
    uint64_t offset = gpa - region->gpa, left = region->len - offset;
    *got = left < len ? left : len;
    return region->hva + offset;
}

void *vn_guest_mem_whole(struct vn_guest_mem *mem, uint64_t gpa, uint64_t len, bool write) {
    uint64_t got;
    void *at = vn_guest_mem_piece(mem, gpa, len, write, &got);
    return at && got == len ? at : NULL;
}

vn_status vn_iov_append(struct vn_iov_list *list, uint64_t gpa, uint64_t len) {
    while (len) {
        uint64_t got;
        uint8_t *at = vn_guest_mem_piece(list->mem, gpa, len, list->write, &got);
        if (!at)
            return VN_SC_DATA_TRANSFER_ERROR;
        struct iovec *last = list->nr ? &list->iov[list->nr - 1] : NULL;
        if (last && (uint8_t *)last->iov_base + last->iov_len == at) {
            last->iov_len += got;
        } else if (list->nr == list->max) {
            return VN_SC_INVALID_SGL_COUNT;
        } else {
            list->iov[list->nr++] = (struct iovec){at, got};
        }
        gpa += got;
        len -= got;
    }
    return VN_SC_SUCCESS;
}
