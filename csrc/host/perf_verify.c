/* Writes and checks the stamps of verified loads; CRC32C by instruction where the CPU has it, else by table.
 */
#include "host/perf_verify.h"

#include <stdbool.h>
#include <string.h>

#define MAGIC 0x766e70657266aa01ull
#define GOLDEN 0x9e3779b97f4a7c15ull

static uint32_t crc_table[256];

__attribute__((constructor)) static void make_crc_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;

        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
        crc_table[i] = crc;
    }
}

static uint32_t crc_by_table(uint32_t crc, const uint8_t *data, uint64_t len) {
    while (len--)
        crc = crc_table[(crc ^ *data++) & 0xff] ^ (crc >> 8);
    return crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc_by_cpu(uint32_t crc, const uint8_t *data, uint64_t len) {
    uint64_t wide = crc;

    for (; len >= 8; len -= 8, data += 8) {
        uint64_t word;

        memcpy(&word, data, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    while (len--)
        crc = __builtin_ia32_crc32qi(crc, *data++);
    return crc;
}

static bool cpu_has_crc(void) {
    return __builtin_cpu_supports("sse4.2");
}
#else
static uint32_t crc_by_cpu(uint32_t crc, const uint8_t *data, uint64_t len) {
    return crc_by_table(crc, data, len);
}

static bool cpu_has_crc(void) {
    return false;
}
#endif

uint32_t vn_perf_crc32c(uint32_t crc, const void *data, uint64_t len) {
    return ~(cpu_has_crc() ? crc_by_cpu(~crc, data, len) : crc_by_table(~crc, data, len));
}

static uint64_t pattern_start(uint64_t lba, uint64_t seed, uint32_t generation) {
    return (seed ^ lba * GOLDEN) + generation * 0xbf58476d1ce4e5b9ull;
}

void vn_perf_stamp_blocks(void *data, uint32_t lba_bytes, uint32_t nr, uint64_t lba, uint64_t seed, uint32_t generation) {
    uint8_t *block = data;

    for (uint32_t i = 0; i < nr; i++, block += lba_bytes) {
        struct vn_perf_stamp stamp = {.magic = MAGIC, .seed = seed, .lba = lba + i, .generation = generation};
        uint64_t word = pattern_start(lba + i, seed, generation);

        for (uint32_t at = sizeof(stamp); at + 8 <= lba_bytes; at += 8) {
            memcpy(block + at, &word, 8);
            word += GOLDEN;
        }
        memcpy(block, &stamp, sizeof(stamp));
        stamp.crc = vn_perf_crc32c(0, block, lba_bytes);
        memcpy(block, &stamp, sizeof(stamp));
    }
}

enum vn_perf_verdict vn_perf_check_block(const void *data, uint32_t lba_bytes, uint64_t lba, uint64_t seed,
                                         uint32_t generation) {
    struct vn_perf_stamp stamp;
    uint32_t crc;

    memcpy(&stamp, data, sizeof(stamp));
    if (stamp.magic != MAGIC || stamp.seed != seed)
        return VN_PERF_FOREIGN;
    if (stamp.lba != lba || stamp.generation != generation)
        return VN_PERF_BAD;
    crc = stamp.crc;
    stamp.crc = 0;
    if (crc != vn_perf_crc32c(vn_perf_crc32c(0, &stamp, sizeof(stamp)), (const uint8_t *)data + sizeof(stamp),
                              lba_bytes - sizeof(stamp)))
        return VN_PERF_BAD;
    return VN_PERF_GOOD;
}
