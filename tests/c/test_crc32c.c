/* CRC32C: the vectors of RFC 3720 B.4, and the CPU's instruction against the tables at any length, place and split.
 */
#include "core/crc32c.h"
#include "vn_test.h"

#define BYTES_MAX 20000u

static struct vn_test_random dice;

static uint32_t of(const void *data, size_t bytes) {
    uint32_t crc = vn_crc32c_end(vn_crc32c(VN_CRC32C_INIT, data, bytes));
    CHECK_EQ(vn_crc32c_end(vn_crc32c_portable(VN_CRC32C_INIT, data, bytes)), crc);
    return crc;
}

static void test_vectors(void) {
    uint8_t data[48] = {0};
    CHECK_EQ(of(data, 32), 0x8a9136aa);
    memset(data, 0xff, 32);
    CHECK_EQ(of(data, 32), 0x62a8ab43);
    for (uint8_t i = 0; i < 32; i++)
        data[i] = i;
    CHECK_EQ(of(data, 32), 0x46dd794e);
    for (uint8_t i = 0; i < 32; i++)
        data[i] = (uint8_t)(31 - i);
    CHECK_EQ(of(data, 32), 0x113fdb5c);
    static const uint8_t read_command[48] = {/* an iSCSI Read(10) */
        0x01, 0xc0, [16] = 0x14, [22] = 0x04, [24] = 0, 0, 0, 0x14, 0, 0, 0, 0x18, 0x28, [40] = 0x02};
    CHECK_EQ(of(read_command, 48), 0xd9963a56);
    CHECK_EQ(of("123456789", 9), 0xe3069283);
    CHECK_EQ(of(data, 0), 0);
}

/* A byte at a time, straight from the definition. */
static uint32_t slow(const uint8_t *data, size_t bytes) {
    uint32_t crc = VN_CRC32C_INIT;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return vn_crc32c_end(crc);
}

static void test_random(void) {
    uint8_t *data = malloc(BYTES_MAX + 8);
    CHECK(data);
    vn_test_fill(&dice, data, BYTES_MAX + 8);
    static const size_t around[] = {168, 504, 1360, 4080, 4096, 8192, 4080 + 504};
    for (uint32_t round = 0; round < 600; round++) {
        size_t bytes = round & 1 ? around[round / 2 % 7] - 9 + vn_test_below(&dice, 19) : vn_test_below(&dice, BYTES_MAX);
        const uint8_t *at = data + vn_test_below(&dice, 8);
        uint32_t want = of(at, bytes);
        if (round < 60)
            CHECK_EQ(slow(at, bytes), want);
        uint32_t crc = VN_CRC32C_INIT; /* in pieces */
        for (size_t done = 0, len; done < bytes; done += len) {
            len = 1 + vn_test_below(&dice, bytes - done);
            crc = (round & 2 ? vn_crc32c : vn_crc32c_portable)(crc, at + done, len);
        }
        CHECK_EQ(vn_crc32c_end(crc), want);
    }
    free(data);
}

int main(void) {
    dice = vn_test_seed();
    test_vectors();
    test_random();
    printf("ok\n");
    return 0;
}
