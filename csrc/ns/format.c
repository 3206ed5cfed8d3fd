/* LBA formats and their layout on the backend. Called by namespaces when they are made or formatted, and by Identify. */
#include "ns/format.h"

/* Without metadata a block is one operation; with it there are two, and a copy, and with the small blocks more of them. */
const struct vn_lba_format vn_lba_formats[VN_NR_LBA_FORMATS] = {
    {.shift = 9, .ms = 0, .rp = 1},   {.shift = 9, .ms = 8, .rp = 3},  {.shift = 9, .ms = 64, .rp = 3},
    {.shift = 12, .ms = 0, .rp = 0},  {.shift = 12, .ms = 8, .rp = 2}, {.shift = 12, .ms = 64, .rp = 2},
};

struct vn_format vn_format_plain(uint32_t block_shift) {
    struct vn_format format = {0};
    for (uint8_t i = 0; i < VN_NR_LBA_FORMATS; i++) {
        if (vn_lba_formats[i].shift == block_shift && !vn_lba_formats[i].ms)
            format.index = i;
    }
    return format;
}

bool vn_format_is_valid(const struct vn_format *format, uint32_t block_min) {
    if (!vn_format_fits(format->index, block_min))
        return false;
    uint8_t ms = vn_lba_formats[format->index].ms;
    return format->pi_type <= 3 && (!format->pi_type || ms >= VN_PI_BYTES);
}

static uint64_t align_up(uint64_t bytes) {
    return (bytes + VN_FORMAT_ALIGN - 1) & ~(uint64_t)(VN_FORMAT_ALIGN - 1);
}

struct vn_layout vn_format_layout(const struct vn_format *format, uint64_t size) {
    const struct vn_lba_format *lba = vn_format_lba(format);
    struct vn_layout layout = {
        .pi = {.block_bytes = 1u << lba->shift, .ms = lba->ms, .type = format->pi_type, .first = format->pi_first},
        .nr_blocks = size >> lba->shift,
        .extended = format->extended,
    };
    if (!lba->ms)
        return layout;
    layout.nr_blocks = size / (layout.pi.block_bytes + lba->ms);
    for (;;) { /* few rounds: what is lost to alignment is less than 8 KiB */
        layout.meta_start = align_up(layout.nr_blocks << lba->shift);
        layout.meta_bytes = align_up(layout.nr_blocks * lba->ms);
        uint64_t end = layout.meta_start + layout.meta_bytes;
        if (end <= size || !layout.nr_blocks)
            return layout;
        uint64_t too_many = (end - size + layout.pi.block_bytes - 1) >> lba->shift;
        layout.nr_blocks -= too_many < layout.nr_blocks ? too_many : layout.nr_blocks;
    }
}

uint64_t vn_format_bytes(const struct vn_format *format, uint64_t nr_blocks) {
    const struct vn_lba_format *lba = vn_format_lba(format);
    return lba->ms ? align_up(nr_blocks << lba->shift) + align_up(nr_blocks * lba->ms) : nr_blocks << lba->shift;
}

struct vn_format vn_format_from_flbas(uint8_t flbas, uint8_t dps) {
    struct vn_format format = {
        .index = (uint8_t)((flbas & 0xf) | (flbas >> 1 & 0x30)),
        .extended = flbas >> 4 & 1,
        .pi_type = dps & 7,
        .pi_first = dps >> 3 & 1,
    };
    if (format.index < VN_NR_LBA_FORMATS && !vn_lba_formats[format.index].ms)
        format.extended = false;
    if (!format.pi_type)
        format.pi_first = false;
    return format;
}

struct vn_format vn_format_from_cdw10(uint32_t cdw10) {
    struct vn_format format = {
        .index = (uint8_t)((cdw10 & 0xf) | (cdw10 >> 8 & 0x30)), /* LBAFL, LBAFU */
        .extended = cdw10 >> 4 & 1,
        .pi_type = (uint8_t)(cdw10 >> 5 & 7),
        .pi_first = cdw10 >> 8 & 1,
    };
    /* They mean nothing, and so they are not kept (Base 5.14: MSET, PIL). */
    if (format.index < VN_NR_LBA_FORMATS && !vn_lba_formats[format.index].ms)
        format.extended = false;
    if (!format.pi_type)
        format.pi_first = false;
    return format;
}

uint8_t vn_format_flbas(const struct vn_format *format) {
    return (uint8_t)((format->index & 0xf) | (format->extended ? 0x10 : 0) | (format->index & 0x30) << 1);
}

uint8_t vn_format_dps(const struct vn_format *format) {
    return (uint8_t)(format->pi_type | (format->pi_first ? 0x8 : 0));
}
