/* Stamps that make every block recognisable: where it belongs, which write it came from, and whether it is whole.
 * A block starts with a stamp; the rest is a pattern made from it. Called by perf.c and its tests.
 */
#ifndef VN_HOST_PERF_VERIFY_H
#define VN_HOST_PERF_VERIFY_H

#include <stdint.h>

struct vn_perf_stamp {
    uint64_t magic;
    uint64_t seed; /* of the run */
    uint64_t lba;
    uint32_t generation;
    uint32_t crc; /* CRC32C of the block with this field 0 */
};

enum vn_perf_verdict {
    VN_PERF_GOOD,
    VN_PERF_FOREIGN, /* no stamp of this run */
    VN_PERF_BAD,     /* the wrong place, the wrong generation, or damaged */
};

uint32_t vn_perf_crc32c(uint32_t crc, const void *data, uint64_t len);
void vn_perf_stamp_blocks(void *data, uint32_t lba_bytes, uint32_t nr, uint64_t lba, uint64_t seed, uint32_t generation);
enum vn_perf_verdict vn_perf_check_block(const void *data, uint32_t lba_bytes, uint64_t lba, uint64_t seed,
                                         uint32_t generation);

#endif
