/* Protection information: the guard against known values and a slow one of the test's own, every type in both places, every
 * field that can be wrong, what escapes, and the layout of each format.
 */
#include "core/util.h"
#include "ns/format.h"
#include "ns/pi.h"
#include "vn_test.h"

#define NR 5u
#define ALL (VN_PI_CHECK_GUARD | VN_PI_CHECK_APP | VN_PI_CHECK_REF)

static uint16_t slow_crc(const uint8_t *data, size_t bytes) {
    uint16_t crc = 0;
    for (size_t i = 0; i < bytes * 8; i++) {
        bool bit = data[i / 8] >> (7 - i % 8) & 1;
        crc = (uint16_t)(crc << 1 ^ (bit != crc >> 15 ? 0x8bb7 : 0));
    }
    return crc;
}

/* "123456789" is what every catalogue of CRCs has; the others are those of SBC-3, table of CRC test cases. */
static void test_known_guards(void) {
    uint8_t data[32];
    CHECK_EQ(vn_pi_crc(0, "123456789", 9), 0xd0db);
    memset(data, 0, sizeof(data));
    CHECK_EQ(vn_pi_crc(0, data, sizeof(data)), 0);
    data[0] = data[1] = 0xff;
    CHECK_EQ(vn_pi_crc(0, data, sizeof(data)), 0x21b8);
    memset(data, 0xff, sizeof(data));
    CHECK_EQ(vn_pi_crc(0, data, sizeof(data)), 0xa293);
    for (uint8_t i = 0; i < 32; i++)
        data[i] = i;
    CHECK_EQ(vn_pi_crc(0, data, sizeof(data)), 0x0224);
    for (uint8_t i = 0; i < 32; i++)
        data[i] = (uint8_t)(0xff - i);
    CHECK_EQ(vn_pi_crc(0, data, sizeof(data)), 0xa0b7);
}

static void test_guards_of_any_length(struct vn_test_random *random) {
    uint8_t data[512];
    for (uint32_t round = 0; round < 500; round++) {
        size_t bytes = vn_test_below(random, sizeof(data) + 1), cut = vn_test_below(random, bytes + 1);
        vn_test_fill(random, data, sizeof(data));
        CHECK_EQ(vn_pi_crc(0, data, bytes), slow_crc(data, bytes));
        CHECK_EQ(vn_pi_crc(vn_pi_crc(0, data, cut), data + cut, bytes - cut), slow_crc(data, bytes));
    }
}

struct blocks {
    struct vn_pi pi;
    struct vn_pi_tags tags;
    uint8_t data[NR * 4096], meta[NR * VN_FORMAT_MS_MAX], before[NR * VN_FORMAT_MS_MAX];
};

static vn_status check(const struct blocks *blocks, uint32_t prchk, uint32_t *bad) {
    return vn_pi_check(&blocks->pi, prchk, &blocks->tags, blocks->data, blocks->meta, NR, bad);
}

static uint8_t *tuple_of(struct blocks *blocks, uint32_t block) {
    const struct vn_pi *pi = &blocks->pi;
    return blocks->meta + (size_t)block * pi->ms + (pi->first ? 0 : pi->ms - VN_PI_BYTES);
}

/* What is generated is what the specification says, byte by byte. */
static void check_generated(struct blocks *blocks) {
    const struct vn_pi *pi = &blocks->pi;
    for (uint32_t i = 0; i < NR; i++) {
        uint8_t covered[4096 + VN_FORMAT_MS_MAX];
        const uint8_t *tuple = tuple_of(blocks, i), *meta = blocks->meta + (size_t)i * pi->ms;
        size_t before = (size_t)(tuple - meta);
        memcpy(covered, blocks->data + (size_t)i * pi->block_bytes, pi->block_bytes);
        memcpy(covered + pi->block_bytes, meta, before);
        uint16_t guard = slow_crc(covered, pi->block_bytes + before);
        uint32_t ref = pi->type == 3 ? blocks->tags.ref : blocks->tags.ref + i;
        const uint8_t want[8] = {(uint8_t)(guard >> 8), (uint8_t)guard, (uint8_t)(blocks->tags.app >> 8),
                                 (uint8_t)blocks->tags.app, (uint8_t)(ref >> 24), (uint8_t)(ref >> 16), (uint8_t)(ref >> 8),
                                 (uint8_t)ref};
        CHECK(!memcmp(tuple, want, sizeof(want)));
        for (size_t at = 0; at < pi->ms; at++) /* the rest is the host's */
            CHECK((at >= before && at < before + 8) || meta[at] == blocks->before[i * pi->ms + at]);
    }
}

static void check_wrong(struct blocks *blocks, uint32_t byte, uint32_t prchk, vn_status want) {
    uint32_t bad = 99;
    for (uint32_t i = 0; i < NR; i++) {
        tuple_of(blocks, i)[byte] ^= 0x10;
        CHECK_EQ(check(blocks, ALL, &bad), want);
        CHECK(!want || bad == i);
        CHECK_EQ(check(blocks, prchk, &bad), want);
        CHECK_EQ(check(blocks, ALL & ~prchk, NULL), VN_SC_SUCCESS);
        tuple_of(blocks, i)[byte] ^= 0x10;
    }
}

static void check_escapes(struct blocks *blocks) {
    bool third = blocks->pi.type == 3;
    uint8_t kept[8], *tuple = tuple_of(blocks, 1);
    memcpy(kept, tuple, sizeof(kept));
    memset(tuple + 2, 0xff, 2);
    CHECK_EQ(check(blocks, ALL, NULL), third ? VN_SC_APP_TAG_CHECK : VN_SC_SUCCESS);
    tuple[0] ^= 1;
    CHECK_EQ(check(blocks, ALL, NULL), third ? VN_SC_GUARD_CHECK : VN_SC_SUCCESS);
    memset(tuple, 0xff, 8);
    CHECK_EQ(check(blocks, ALL, NULL), VN_SC_SUCCESS);
    memcpy(tuple, kept, sizeof(kept));
}

static void check_data(struct blocks *blocks) {
    const struct vn_pi *pi = &blocks->pi;
    uint32_t bad = 0, last = (NR - 1) * pi->block_bytes;
    blocks->data[last] ^= 1;
    CHECK_EQ(check(blocks, ALL, &bad), VN_SC_GUARD_CHECK);
    CHECK_EQ(bad, NR - 1);
    blocks->data[last] ^= 1;
    if (pi->ms == VN_PI_BYTES)
        return;
    uint8_t *other = blocks->meta + (pi->first ? VN_PI_BYTES : 0); /* covered when it stands before */
    *other ^= 1;
    CHECK_EQ(check(blocks, ALL, NULL), pi->first ? VN_SC_SUCCESS : VN_SC_GUARD_CHECK);
    *other ^= 1;
}

static void check_blocks(struct blocks *blocks, struct vn_test_random *random) {
    vn_test_fill(random, blocks->data, sizeof(blocks->data));
    vn_test_fill(random, blocks->meta, sizeof(blocks->meta));
    memcpy(blocks->before, blocks->meta, sizeof(blocks->meta));
    blocks->tags = (struct vn_pi_tags){.ref = UINT32_MAX - 2, .app = 0x1234, .app_mask = 0xffff};
    vn_pi_generate(&blocks->pi, &blocks->tags, blocks->data, blocks->meta, NR);
    check_generated(blocks);
    CHECK_EQ(check(blocks, ALL, NULL), VN_SC_SUCCESS);
    check_wrong(blocks, 0, VN_PI_CHECK_GUARD, VN_SC_GUARD_CHECK);
    check_wrong(blocks, 1, VN_PI_CHECK_GUARD, VN_SC_GUARD_CHECK);
    check_wrong(blocks, 2, VN_PI_CHECK_APP, VN_SC_APP_TAG_CHECK);
    check_wrong(blocks, 3, VN_PI_CHECK_APP, VN_SC_APP_TAG_CHECK);
    for (uint32_t byte = 4; byte < 8; byte++)
        check_wrong(blocks, byte, VN_PI_CHECK_REF, blocks->pi.type == 3 ? VN_SC_SUCCESS : VN_SC_REF_TAG_CHECK);
    blocks->tags.app_mask = 0xff0f; /* a wrong bit that the mask leaves out */
    check_wrong(blocks, 3, VN_PI_CHECK_APP, VN_SC_SUCCESS);
    check_wrong(blocks, 2, VN_PI_CHECK_APP, VN_SC_APP_TAG_CHECK);
    blocks->tags.app_mask = 0xffff;
    check_escapes(blocks);
    check_data(blocks);
}

static void test_every_type_place_and_size(struct vn_test_random *random) {
    static struct blocks blocks;
    for (uint32_t i = 0; i < 3 * 2 * 2 * 2; i++) {
        blocks.pi = (struct vn_pi){.type = (uint8_t)(1 + i % 3), .first = i / 3 % 2, .ms = i / 6 % 2 ? 64 : 8,
                                   .block_bytes = i / 12 ? 4096 : 512};
        check_blocks(&blocks, random);
    }
}

static void test_fields_that_do_not_go_together(void) {
    struct vn_pi pi = {.type = 1, .ms = 8, .block_bytes = 512};
    CHECK_EQ(vn_pi_validate(&pi, ALL, 7, 7), VN_SC_SUCCESS);
    CHECK_EQ(vn_pi_validate(&pi, ALL, 7, 7 + (5ull << 32)), VN_SC_SUCCESS);
    CHECK_EQ(vn_pi_validate(&pi, VN_PI_CHECK_REF, 7, 8), VN_SC_INVALID_PI);
    CHECK_EQ(vn_pi_validate(&pi, VN_PI_CHECK_GUARD | VN_PI_CHECK_APP, 7, 8), VN_SC_SUCCESS);
    pi.type = 2;
    CHECK_EQ(vn_pi_validate(&pi, ALL, 7, 8), VN_SC_SUCCESS);
    pi.type = 3;
    CHECK_EQ(vn_pi_validate(&pi, ALL, 7, 7), VN_SC_INVALID_PI);
    CHECK_EQ(vn_pi_validate(&pi, VN_PI_CHECK_GUARD, 7, 8), VN_SC_SUCCESS);
}

/* Zeros on the medium are what no check looks at. */
static void test_zeros_escape(void) {
    static struct blocks blocks;
    for (uint8_t type = 1; type <= 3; type++) {
        blocks = (struct blocks){.pi = {.type = type, .ms = 64, .block_bytes = 512}, .tags = {.app_mask = 0xffff}};
        vn_pi_invert(&blocks.pi, blocks.meta, NR);
        CHECK_EQ(blocks.meta[0], 0);
        CHECK_EQ(tuple_of(&blocks, NR - 1)[7], 0xff);
        CHECK_EQ(check(&blocks, ALL, NULL), VN_SC_SUCCESS);
        vn_pi_invert(&blocks.pi, blocks.meta, NR);
        CHECK_EQ(tuple_of(&blocks, 0)[0], 0);
    }
    blocks.pi.type = 0; /* metadata without protection is kept as it is */
    vn_pi_invert(&blocks.pi, blocks.meta, NR);
    CHECK_EQ(tuple_of(&blocks, 0)[0], 0);
}

static void check_layout(uint8_t index, uint64_t size) {
    struct vn_format format = {.index = index};
    struct vn_layout layout = vn_format_layout(&format, size);
    const struct vn_lba_format *lba = vn_format_lba(&format);
    uint64_t data = layout.nr_blocks << lba->shift;
    if (!lba->ms) {
        CHECK_EQ(layout.nr_blocks, size >> lba->shift);
        CHECK_EQ(layout.meta_start + layout.meta_bytes, 0);
        return;
    }
    CHECK(layout.meta_start >= data || !layout.nr_blocks);
    CHECK(layout.meta_start % VN_FORMAT_ALIGN == 0 && layout.meta_bytes % VN_FORMAT_ALIGN == 0);
    CHECK(layout.meta_bytes >= layout.nr_blocks * lba->ms);
    CHECK(!layout.nr_blocks || layout.meta_start + layout.meta_bytes <= size);
    uint64_t most = size / ((1u << lba->shift) + lba->ms);
    uint64_t lost = 2 * VN_FORMAT_ALIGN + (1u << lba->shift);
    CHECK((most - layout.nr_blocks) << lba->shift <= lost + VN_FORMAT_ALIGN);
}

static void test_layouts(struct vn_test_random *random) {
    for (uint8_t index = 0; index < VN_NR_LBA_FORMATS; index++) {
        for (uint64_t size = 0; size < 70000; size += 512)
            check_layout(index, size);
        for (uint32_t round = 0; round < 1000; round++)
            check_layout(index, vn_test_draw(random) >> (1 + vn_test_below(random, 40)) & ~511ull);
        check_layout(index, INT64_MAX & ~511ll);
    }
}

static void test_formats_in_words(void) {
    struct vn_format format = vn_format_from_cdw10(0x1 | 1u << 4 | 2u << 5 | 1u << 8);
    CHECK(format.index == 1 && format.extended && format.pi_type == 2 && format.pi_first);
    CHECK(vn_format_is_valid(&format, 512));
    CHECK(!vn_format_is_valid(&format, 4096));
    CHECK_EQ(vn_format_flbas(&format), 0x11);
    CHECK_EQ(vn_format_dps(&format), 0xa);
    format = vn_format_from_cdw10(0x3 | 1u << 4 | 1u << 8); /* no metadata: no place for it */
    CHECK(format.index == 3 && !format.extended && !format.pi_first && vn_format_is_valid(&format, 4096));
    format = vn_format_from_cdw10(0x0 | 1u << 5);
    CHECK(!vn_format_is_valid(&format, 512));
    format = vn_format_from_cdw10(0x1 | 4u << 5);
    CHECK(!vn_format_is_valid(&format, 512));
    format = vn_format_from_cdw10(VN_NR_LBA_FORMATS);
    CHECK(!vn_format_is_valid(&format, 512));
    format = vn_format_from_cdw10(0x1 | 1u << 12); /* LBAFU: format 17 */
    CHECK(format.index == 17 && !vn_format_is_valid(&format, 512));
    format = vn_format_plain(9);
    CHECK_EQ(format.index, 0);
    format = vn_format_plain(12);
    CHECK_EQ(format.index, 3);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    test_known_guards();
    test_guards_of_any_length(&random);
    test_every_type_place_and_size(&random);
    test_fields_that_do_not_go_together();
    test_zeros_escape();
    test_layouts(&random);
    test_formats_in_words();
    return 0;
}
