/* CRC32C (polynomial 1EDC6F41h, reflected): by the CPU's instruction, three streams at a time, or by tables of eight.
 * The tables are made before main; nothing changes afterwards.
 */
#include "core/crc32c.h"

#include <stdbool.h>
#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* reflected */
/* Three streams hide the instruction's latency of three cycles. Of two lengths, so that blocks of 512 and 4096 bytes
 * are nearly all done so. */
#define LONG_BYTES 1360u
#define SHORT_BYTES 168u

static uint32_t slices[8][256];
/* What becomes of a register, byte by byte of it, when so many zeros follow: joins the streams. */
static uint32_t shift_long[4][256], shift_short[4][256];
static bool has_instruction;

uint32_t vn_crc32c_portable(uint32_t crc, const void *data, size_t bytes) {
    const uint8_t *at = data;
    for (; bytes >= 8; bytes -= 8, at += 8) {
        uint32_t low, high;
        memcpy(&low, at, sizeof(low));
        memcpy(&high, at + 4, sizeof(high));
        low ^= crc;
        crc = slices[7][low & 0xff] ^ slices[6][low >> 8 & 0xff] ^ slices[5][low >> 16 & 0xff] ^ slices[4][low >> 24] ^
              slices[3][high & 0xff] ^ slices[2][high >> 8 & 0xff] ^ slices[1][high >> 16 & 0xff] ^ slices[0][high >> 24];
    }
    for (; bytes; bytes--, at++)
        crc = crc >> 8 ^ slices[0][(crc ^ *at) & 0xff];
    return crc;
}

#if defined(__x86_64__)
static uint32_t shift(const uint32_t table[4][256], uint32_t crc) {
    return table[0][crc & 0xff] ^ table[1][crc >> 8 & 0xff] ^ table[2][crc >> 16 & 0xff] ^ table[3][crc >> 24];
}

static inline uint64_t load(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof(value));
    return value;
}

/* Three neighbours of `bytes` each. */
__attribute__((target("sse4.2"))) static inline uint32_t three(uint32_t crc, const uint8_t *at, size_t bytes,
                                                               const uint32_t table[4][256]) {
    uint64_t a = crc, b = 0, c = 0;
    for (const uint8_t *end = at + bytes; at < end; at += 8) {
        a = __builtin_ia32_crc32di(a, load(at));
        b = __builtin_ia32_crc32di(b, load(at + bytes));
        c = __builtin_ia32_crc32di(c, load(at + 2 * bytes));
    }
    return shift(table, shift(table, (uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
}

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const void *data, size_t bytes) {
    const uint8_t *at = data;
    for (; bytes >= 3 * (size_t)LONG_BYTES; bytes -= 3 * (size_t)LONG_BYTES, at += 3 * (size_t)LONG_BYTES)
        crc = three(crc, at, LONG_BYTES, shift_long);
    for (; bytes >= 3 * (size_t)SHORT_BYTES; bytes -= 3 * (size_t)SHORT_BYTES, at += 3 * (size_t)SHORT_BYTES)
        crc = three(crc, at, SHORT_BYTES, shift_short);
    uint64_t wide = crc;
    for (; bytes >= 8; bytes -= 8, at += 8)
        wide = __builtin_ia32_crc32di(wide, load(at));
    crc = (uint32_t)wide;
    for (; bytes; bytes--, at++)
        crc = __builtin_ia32_crc32qi(crc, *at);
    return crc;
}

uint32_t vn_crc32c(uint32_t crc, const void *data, size_t bytes) {
    return has_instruction ? by_instruction(crc, data, bytes) : vn_crc32c_portable(crc, data, bytes);
}

static bool find_instruction(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2");
}
#else
uint32_t vn_crc32c(uint32_t crc, const void *data, size_t bytes) {
    return vn_crc32c_portable(crc, data, bytes);
}

static bool find_instruction(void) {
    return false;
}
#endif

/* The register is linear in its bits: what each bit becomes is enough. */
static void make_shift(uint32_t table[4][256], size_t zeros) {
    uint32_t bits[32];
    for (uint32_t i = 0; i < 32; i++) {
        bits[i] = 1u << i;
        for (size_t n = 0; n < zeros; n++)
            bits[i] = bits[i] >> 8 ^ slices[0][bits[i] & 0xff];
    }
    for (uint32_t byte = 0; byte < 4; byte++) {
        for (uint32_t value = 0; value < 256; value++) {
            table[byte][value] = 0;
            for (uint32_t bit = 0; bit < 8; bit++)
                table[byte][value] ^= value >> bit & 1 ? bits[8 * byte + bit] : 0;
        }
    }
}

__attribute__((constructor)) static void make_tables(void) {
    for (uint32_t value = 0; value < 256; value++) {
        uint32_t crc = value;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        slices[0][value] = crc;
    }
    for (uint32_t i = 1; i < 8; i++) {
        for (uint32_t value = 0; value < 256; value++)
            slices[i][value] = slices[i - 1][value] >> 8 ^ slices[0][slices[i - 1][value] & 0xff];
    }
    make_shift(shift_long, LONG_BYTES);
    make_shift(shift_short, SHORT_BYTES);
    has_instruction = find_instruction();
}
