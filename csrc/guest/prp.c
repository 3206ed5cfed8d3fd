/* PRP lists and SGLs (Base 4.1.1, 4.1.2) turned into iovecs. Pure: no state but the list being made.
 * The guest may change its lists while we read: each entry is read once, then judged.
 */
#include <stddef.h>

#include "guest/guest_mem.h"

#define PAGE 4096u
#define ENTRY_BYTES 8u
#define MAX_PRP_LISTS 64u /* of one command: lists of nothing but a pointer to the next can go in circles */
#define MAX_DESCRIPTORS 4096u /* of one command, in all its segments */

static uint64_t read_once(const uint64_t *at) {
    return __atomic_load_n(at, __ATOMIC_RELAXED);
}

/* Walks the list at gpa, which holds the pages for the rest of the transfer. */
static vn_status map_prp_list(struct vn_iov_list *list, uint64_t gpa, uint64_t left) {
    uint32_t nr_lists = 0;
    while (left) {
        if (gpa & (ENTRY_BYTES - 1))
            return VN_SC_INVALID_PRP_OFFSET;
        if (++nr_lists > MAX_PRP_LISTS)
            return VN_SC_INVALID_FIELD;
        /* A list may start in the middle of a page; its last entry chains only if more remain than fit. */
        uint64_t nr = (PAGE - (gpa & (PAGE - 1))) / ENTRY_BYTES;
        uint64_t pages = (left + PAGE - 1) / PAGE;
        bool chains = pages > nr;
        uint64_t used = chains ? nr : pages;
        const uint64_t *entries = vn_guest_mem_whole(list->mem, gpa, used * ENTRY_BYTES, false);
        if (!entries)
            return VN_SC_DATA_TRANSFER_ERROR;
        for (uint64_t i = 0; i < used; i++) {
            uint64_t entry = read_once(&entries[i]);
            if (chains && i == used - 1) {
                gpa = entry;
                break;
            }
            if (entry & (PAGE - 1))
                return VN_SC_INVALID_PRP_OFFSET;
            uint64_t len = left < PAGE ? left : PAGE;
            vn_status status = vn_iov_append(list, entry, len);
            if (status)
                return status;
            left -= len;
        }
    }
    return VN_SC_SUCCESS;
}

vn_status vn_prp_map(struct vn_iov_list *list, uint64_t prp1, uint64_t prp2, uint32_t length) {
    if (prp1 & 3)
        return VN_SC_INVALID_PRP_OFFSET;
    uint64_t first = PAGE - (prp1 & (PAGE - 1));
    if (first > length)
        first = length;
    vn_status status = vn_iov_append(list, prp1, first);
    uint64_t left = length - first;
    if (status || !left)
        return status;
    if (left > PAGE)
        return map_prp_list(list, prp2, left);
    if (prp2 & (PAGE - 1))
        return VN_SC_INVALID_PRP_OFFSET;
    return vn_iov_append(list, prp2, left);
}

static vn_status append_block(struct vn_iov_list *list, const struct vn_sgl_desc *desc, uint64_t *left) {
    if (desc->length > *left)
        return VN_SC_SGL_DATA_LENGTH; /* SGLS bit 18 is clear: no longer than the data */
    *left -= desc->length;
    return vn_iov_append(list, desc->addr, desc->length);
}

/* Data that the host does not want. From the host there is none in it: it is passed over. */
static vn_status append_bucket(struct vn_iov_list *list, const struct vn_sgl_desc *desc, uint64_t *left, void *bucket) {
    if (!bucket)
        return VN_SC_SGL_TYPE;
    if (!list->write || !desc->length)
        return VN_SC_SUCCESS;
    if (desc->length > *left)
        return VN_SC_SGL_DATA_LENGTH;
    if (list->nr == list->max)
        return VN_SC_INVALID_SGL_COUNT;
    list->iov[list->nr++] = (struct iovec){bucket, desc->length};
    *left -= desc->length;
    return VN_SC_SUCCESS;
}

/* Our copy of a descriptor is the one we judge. A segment may lie in two regions, and so may a descriptor. */
static bool read_descriptor(struct vn_guest_mem *mem, uint64_t gpa, struct vn_sgl_desc *desc) {
    uint8_t *to = (uint8_t *)desc;
    for (uint64_t left = sizeof(*desc), got; left; left -= got, gpa += got, to += got) {
        const void *at = vn_guest_mem_piece(mem, gpa, left, false, &got);
        if (!at)
            return false;
        __builtin_memcpy(to, at, got);
    }
    return true;
}

/* Walks segments from the descriptor that points to the first one. */
static vn_status map_segments(struct vn_iov_list *list, struct vn_sgl_desc segment, uint64_t *left, void *bucket) {
    uint32_t budget = MAX_DESCRIPTORS;
    for (;;) {
        bool last = segment.type >> 4 == VN_SGL_LAST_SEGMENT;
        uint32_t nr = segment.length / sizeof(struct vn_sgl_desc);
        if (nr == 0 || segment.length % sizeof(struct vn_sgl_desc))
            return VN_SC_INVALID_SGL_SEGMENT;
        if (nr > budget)
            return VN_SC_INVALID_SGL_COUNT;
        budget -= nr;
        bool more = false;
        for (uint32_t i = 0; i < nr; i++) {
            struct vn_sgl_desc desc;
            if (!read_descriptor(list->mem, segment.addr + i * sizeof(desc), &desc))
                return VN_SC_DATA_TRANSFER_ERROR;
            if (desc.type == (VN_SGL_DATA_BLOCK << 4 | VN_SGL_SUBTYPE_ADDRESS)) {
                vn_status status = append_block(list, &desc, left);
                if (status)
                    return status;
                continue;
            }
            if (desc.type == VN_SGL_BIT_BUCKET << 4) {
                vn_status status = append_bucket(list, &desc, left, bucket);
                if (status)
                    return status;
                continue;
            }
            bool is_segment = desc.type == VN_SGL_SEGMENT << 4 || desc.type == VN_SGL_LAST_SEGMENT << 4;
            if (!is_segment)
                return VN_SC_SGL_TYPE;
            if (last || i != nr - 1) /* only the last descriptor of a segment that is not the last may chain */
                return VN_SC_INVALID_SGL_SEGMENT;
            segment = desc;
            more = true;
        }
        if (last)
            return VN_SC_SUCCESS;
        if (!more)
            return VN_SC_INVALID_SGL_SEGMENT;
    }
}

vn_status vn_sgl_map_bucket(struct vn_iov_list *list, const struct vn_sgl_desc *sgl1, uint32_t length, void *bucket) {
    uint64_t left = length;
    vn_status status;
    switch (sgl1->type) {
    case VN_SGL_DATA_BLOCK << 4:
        status = append_block(list, sgl1, &left);
        break;
    case VN_SGL_BIT_BUCKET << 4:
        status = append_bucket(list, sgl1, &left, bucket);
        break;
    case VN_SGL_SEGMENT << 4:
    case VN_SGL_LAST_SEGMENT << 4:
        status = map_segments(list, *sgl1, &left, bucket);
        break;
    default:
        return VN_SC_SGL_TYPE;
    }
    if (status)
        return status;
    return left ? VN_SC_SGL_DATA_LENGTH : VN_SC_SUCCESS;
}

vn_status vn_sgl_map(struct vn_iov_list *list, const struct vn_sgl_desc *sgl1, uint32_t length) {
    return vn_sgl_map_bucket(list, sgl1, length, NULL);
}

/* Of metadata in a buffer of its own (Base 3.3.3.1, MPTR): one piece of guest memory, or where one SGL descriptor is. */
vn_status vn_mptr_map(struct vn_iov_list *list, uint64_t mptr, uint32_t psdt, uint32_t length) {
    if (psdt == VN_PSDT_PRP && (mptr & 3))
        return VN_SC_INVALID_FIELD;
    if (psdt != VN_PSDT_SGL_MPTR_SGL)
        return vn_iov_append(list, mptr, length);
    struct vn_sgl_desc desc;
    if (mptr & 7)
        return VN_SC_INVALID_FIELD;
    if (!read_descriptor(list->mem, mptr, &desc))
        return VN_SC_DATA_TRANSFER_ERROR;
    vn_status status = vn_sgl_map(list, &desc, length);
    return status == VN_SC_SGL_DATA_LENGTH ? VN_SC_SGL_METADATA_LENGTH : status;
}
