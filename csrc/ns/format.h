/* LBA formats: which there are, and where a namespace of one has its blocks and its metadata on the backend. Pure.
 * The data of all blocks comes first, their metadata behind it; both regions begin at a multiple of VN_FORMAT_ALIGN, so that
 * neither needs more alignment than any backend wants.
 */
#ifndef VN_FORMAT_H
#define VN_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/nvme.h"
#include "ns/pi.h"

#define VN_NR_LBA_FORMATS 6u
#define VN_FORMAT_ALIGN 4096u
#define VN_FORMAT_BLOCK_MIN 512u /* of what there is behind the namespaces of managed drives */
#define VN_FORMAT_MS_MAX 64u /* bytes of metadata a block */

struct vn_lba_format {
    uint8_t shift; /* log2 of the block size in bytes */
    uint8_t ms;    /* bytes of metadata a block */
    uint8_t rp;    /* relative performance: 0 is best (NVM Command Set 4.1.5.1) */
};
extern const struct vn_lba_format vn_lba_formats[VN_NR_LBA_FORMATS];

/* How a namespace is formatted: what Format NVM sets. */
struct vn_format {
    uint8_t index;    /* of vn_lba_formats */
    bool extended;    /* metadata goes with each block's data, else in a buffer of its own */
    uint8_t pi_type;  /* 0: none */
    bool pi_first;
};

/* Where things are on the backend, in bytes; all follows from format and size. */
struct vn_layout {
    struct vn_pi pi; /* pi.block_bytes and pi.ms are those of the format, whether there is protection or not */
    uint64_t nr_blocks;
    uint64_t meta_start, meta_bytes; /* the region, a multiple of VN_FORMAT_ALIGN; 0, 0: no metadata */
    bool extended;
};

static inline const struct vn_lba_format *vn_format_lba(const struct vn_format *format) {
    return &vn_lba_formats[format->index];
}

/* The format of that block size without metadata. */
struct vn_format vn_format_plain(uint32_t block_shift);
/* Whether a backend with this block_min can have blocks of that format. */
static inline bool vn_format_fits(uint32_t index, uint32_t block_min) {
    return index < VN_NR_LBA_FORMATS && 1u << vn_lba_formats[index].shift >= block_min;
}
/* Whether there is such a format on such a backend, and it can have this protection and this place for its metadata. */
bool vn_format_is_valid(const struct vn_format *format, uint32_t block_min);
/* As many blocks as fit into size bytes; nr_blocks is 0 when not one does. */
struct vn_layout vn_format_layout(const struct vn_format *format, uint64_t size);
/* The bytes that so many blocks take with their metadata. nr_blocks is below 2^53. */
uint64_t vn_format_bytes(const struct vn_format *format, uint64_t nr_blocks);
/* FLBAS and DPS of a namespace that is to be created say it so; not all of them are valid. */
struct vn_format vn_format_from_flbas(uint8_t flbas, uint8_t dps);
/* CDW10 of Format NVM, and DPS and FLBAS of Identify Namespace, say the same in different bits. */
struct vn_format vn_format_from_cdw10(uint32_t cdw10);
uint8_t vn_format_flbas(const struct vn_format *format);
uint8_t vn_format_dps(const struct vn_format *format);

#endif
