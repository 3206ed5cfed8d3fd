/* CRC32C, as NVMe/TCP digests and kept state use it (RFC 3720 B.4), with the CPU's instruction where there is one.
 * Any thread.
 */
#ifndef VN_CORE_CRC32C_H
#define VN_CORE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

#define VN_CRC32C_INIT 0xffffffffu

/* Goes on with more bytes; begin with VN_CRC32C_INIT. */
uint32_t vn_crc32c(uint32_t crc, const void *data, size_t bytes);
/* What stands on the wire. */
static inline uint32_t vn_crc32c_end(uint32_t crc) {
    return ~crc;
}
/* Without the CPU's instruction: for the test that compares, and other CPUs. */
uint32_t vn_crc32c_portable(uint32_t crc, const void *data, size_t bytes);

#endif
