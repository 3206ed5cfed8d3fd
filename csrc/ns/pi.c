/* Protection information: the guard by tables of sixteen, which are made before main; tags as they stand on the wire, big-endian.
 * Called by the metadata path, with copies that the host cannot change meanwhile.
 */
#include "ns/pi.h"

#include <string.h>

#define POLYNOMIAL 0x8bb7u
#define NR_SLICES 16u
#define APP_ESCAPE 0xffffu     /* types 1 and 2: nothing is checked; type 3: with the next */
#define REF_ESCAPE 0xffffffffu

static uint16_t slices[NR_SLICES][256]; /* [n][v]: what v becomes when n zeros follow */

struct tuple {
    uint16_t guard, app;
    uint32_t ref;
};

__attribute__((constructor)) static void make_tables(void) {
    for (uint32_t value = 0; value < 256; value++) {
        uint32_t crc = value << 8;
        for (int bit = 0; bit < 8; bit++)
            crc = crc << 1 ^ (crc & 0x8000u ? POLYNOMIAL : 0);
        slices[0][value] = (uint16_t)crc;
    }
    for (uint32_t i = 1; i < NR_SLICES; i++) {
        for (uint32_t value = 0; value < 256; value++) {
            uint16_t before = slices[i - 1][value];
            slices[i][value] = (uint16_t)(before << 8 ^ slices[0][before >> 8]);
        }
    }
}

uint16_t vn_pi_crc(uint16_t crc, const void *data, size_t bytes) {
    const uint8_t *at = data;
    for (; bytes >= NR_SLICES; bytes -= NR_SLICES, at += NR_SLICES) {
        uint16_t sum = slices[15][at[0] ^ crc >> 8] ^ slices[14][at[1] ^ (crc & 0xff)];
        for (uint32_t i = 2; i < NR_SLICES; i++)
            sum ^= slices[NR_SLICES - 1 - i][at[i]];
        crc = sum;
    }
    for (; bytes; bytes--, at++)
        crc = (uint16_t)(crc << 8 ^ slices[0][(crc >> 8 ^ *at) & 0xff]);
    return crc;
}

/* Where in a block's metadata it is. */
static uint32_t place_of(const struct vn_pi *pi) {
    return pi->first ? 0 : pi->ms - VN_PI_BYTES;
}

/* The data, and the metadata that stands before (NVM Command Set 5.2.1.1). */
static uint16_t guard_of(const struct vn_pi *pi, const uint8_t *data, const uint8_t *meta) {
    return vn_pi_crc(vn_pi_crc(0, data, pi->block_bytes), meta, place_of(pi));
}

static struct tuple load(const uint8_t *at) {
    struct tuple tuple;
    memcpy(&tuple.guard, at, sizeof(tuple.guard));
    memcpy(&tuple.app, at + 2, sizeof(tuple.app));
    memcpy(&tuple.ref, at + 4, sizeof(tuple.ref));
    return (struct tuple){__builtin_bswap16(tuple.guard), __builtin_bswap16(tuple.app), __builtin_bswap32(tuple.ref)};
}

static void store(uint8_t *at, uint16_t guard, uint16_t app, uint32_t ref) {
    guard = __builtin_bswap16(guard);
    app = __builtin_bswap16(app);
    ref = __builtin_bswap32(ref);
    memcpy(at, &guard, sizeof(guard));
    memcpy(at + 2, &app, sizeof(app));
    memcpy(at + 4, &ref, sizeof(ref));
}

/* Of the block so many after the first. */
static uint32_t ref_at(const struct vn_pi *pi, const struct vn_pi_tags *tags, uint32_t block) {
    return pi->type == 3 ? tags->ref : tags->ref + block;
}

vn_status vn_pi_validate(const struct vn_pi *pi, uint32_t prchk, uint32_t ref, uint64_t slba) {
    if (!(prchk & VN_PI_CHECK_REF))
        return VN_SC_SUCCESS;
    bool wrong = pi->type == 1 ? ref != (uint32_t)slba : pi->type == 3; /* type 3 has no reference tag to check (5.2.1.5) */
    return wrong ? VN_SC_INVALID_PI : VN_SC_SUCCESS;
}

void vn_pi_generate(const struct vn_pi *pi, const struct vn_pi_tags *tags, const uint8_t *data, uint8_t *meta, uint32_t nr) {
    uint32_t place = place_of(pi);
    for (uint32_t i = 0; i < nr; i++, data += pi->block_bytes, meta += pi->ms)
        store(meta + place, guard_of(pi, data, meta), tags->app, ref_at(pi, tags, i));
}

static bool escapes(const struct vn_pi *pi, const struct tuple *tuple) {
    return tuple->app == APP_ESCAPE && (pi->type != 3 || tuple->ref == REF_ESCAPE);
}

static vn_status check_block(const struct vn_pi *pi, uint32_t prchk, const struct vn_pi_tags *tags, const uint8_t *data,
                             const uint8_t *meta, uint32_t block) {
    struct tuple tuple = load(meta + place_of(pi));
    if (escapes(pi, &tuple))
        return VN_SC_SUCCESS;
    if ((prchk & VN_PI_CHECK_GUARD) && tuple.guard != guard_of(pi, data, meta))
        return VN_SC_GUARD_CHECK;
    if ((prchk & VN_PI_CHECK_APP) && ((tuple.app ^ tags->app) & tags->app_mask))
        return VN_SC_APP_TAG_CHECK;
    if ((prchk & VN_PI_CHECK_REF) && pi->type != 3 && tuple.ref != ref_at(pi, tags, block))
        return VN_SC_REF_TAG_CHECK;
    return VN_SC_SUCCESS;
}

vn_status vn_pi_check(const struct vn_pi *pi, uint32_t prchk, const struct vn_pi_tags *tags, const uint8_t *data,
                      const uint8_t *meta, uint32_t nr, uint32_t *bad) {
    if (!prchk)
        return VN_SC_SUCCESS;
    for (uint32_t i = 0; i < nr; i++, data += pi->block_bytes, meta += pi->ms) {
        vn_status status = check_block(pi, prchk, tags, data, meta, i);
        if (!status)
            continue;
        if (bad)
            *bad = i;
        return status;
    }
    return VN_SC_SUCCESS;
}

void vn_pi_invert(const struct vn_pi *pi, uint8_t *meta, uint32_t nr) {
    if (!pi->type)
        return;
    meta += place_of(pi);
    for (uint32_t i = 0; i < nr; i++, meta += pi->ms) {
        uint64_t word;
        memcpy(&word, meta, sizeof(word));
        word = ~word;
        memcpy(meta, &word, sizeof(word));
    }
}
