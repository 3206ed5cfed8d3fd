/* The guest's memory as the vfio-user client shares it: which guest addresses are where in ours.
 * Owner: reactor. Addresses from the guest are looked up here and nowhere else.
 */
#ifndef VN_GUEST_MEM_H
#define VN_GUEST_MEM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "core/nvme.h"

#define VN_GUEST_REGIONS 256u

struct vn_guest_region {
    uint64_t gpa, len;
    uint8_t *hva;
    bool readable, writable;
};

struct vn_guest_mem {
    struct vn_guest_region regions[VN_GUEST_REGIONS]; /* sorted by gpa, without overlap */
    uint32_t nr;
    uint32_t last; /* where the last look-up ended */
    uint32_t nr_unshared; /* regions of RAM size that came without a descriptor */
};

/* -ENOSPC when there are too many, -EINVAL for an empty, wrapping or overlapping one. */
int vn_guest_mem_add(struct vn_guest_mem *mem, uint64_t gpa, uint64_t len, void *hva, bool readable, bool writable);
void vn_guest_mem_remove(struct vn_guest_mem *mem, uint64_t gpa, uint64_t len);

/* What of [gpa, gpa + len) lies in one piece from gpa on: its address, and its length in *got. NULL: nothing.
 * write: we will write there. */
void *vn_guest_mem_piece(struct vn_guest_mem *mem, uint64_t gpa, uint64_t len, bool write, uint64_t *got);
/* All of it in one piece, or NULL. */
void *vn_guest_mem_whole(struct vn_guest_mem *mem, uint64_t gpa, uint64_t len, bool write);

/* A list of iovecs being made from a command's data pointer. */
struct vn_iov_list {
    struct vn_guest_mem *mem;
    struct iovec *iov;
    uint32_t nr, max;
    bool write; /* towards the guest */
};
/* Appends; splits where regions meet, joins what is adjacent in our memory. */
vn_status vn_iov_append(struct vn_iov_list *list, uint64_t gpa, uint64_t len);

/* prp.c: data pointers to iovecs; length > 0. Every list is read once, entry by entry; every walk is bounded. */
vn_status vn_prp_map(struct vn_iov_list *list, uint64_t prp1, uint64_t prp2, uint32_t length);
vn_status vn_sgl_map(struct vn_iov_list *list, const struct vn_sgl_desc *sgl1, uint32_t length);
/* The same with bit buckets (Base 4.1.2): data for one goes to the bucket, which is as large as length can be. */
vn_status vn_sgl_map_bucket(struct vn_iov_list *list, const struct vn_sgl_desc *sgl1, uint32_t length, void *bucket);
vn_status vn_mptr_map(struct vn_iov_list *list, uint64_t mptr, uint32_t psdt, uint32_t length);

#endif
