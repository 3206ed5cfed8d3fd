/* Protection information: eight bytes of guard, application tag and reference tag in a block's metadata (NVM Command Set 5.2,
 * 16b guard). Pure: no state; any thread.
 */
#ifndef VN_PI_H
#define VN_PI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/nvme.h"

#define VN_PI_BYTES 8u

/* The bits of PRCHK (CDW12 28:26). */
#define VN_PI_CHECK_REF 0x1u
#define VN_PI_CHECK_APP 0x2u
#define VN_PI_CHECK_GUARD 0x4u

/* How blocks are protected. */
struct vn_pi {
    uint32_t block_bytes;
    uint32_t ms;  /* bytes of metadata a block, at least VN_PI_BYTES when type is not 0 */
    uint8_t type; /* 1, 2, 3; 0: not at all */
    bool first;   /* in the first bytes of the metadata, else in the last */
};

/* What a command says of the tags: ILBRT, LBAT, LBATM. */
struct vn_pi_tags {
    uint32_t ref; /* of the first block; types 1 and 2: one more for each that follows */
    uint16_t app, app_mask;
};

/* CRC-16 T10-DIF: polynomial 8BB7h, not reflected, from 0. Goes on from crc. */
uint16_t vn_pi_crc(uint16_t crc, const void *data, size_t bytes);

/* Whether the fields of a command go together: slba is its first block. */
vn_status vn_pi_validate(const struct vn_pi *pi, uint32_t prchk, uint32_t ref, uint64_t slba);
/* Puts protection information into the metadata of nr blocks; data and metadata each lie one block after the other. */
void vn_pi_generate(const struct vn_pi *pi, const struct vn_pi_tags *tags, const uint8_t *data, uint8_t *meta, uint32_t nr);
/* Checks that of nr blocks: 2/82, 2/83, 2/84, and *bad is the number of the first that is wrong (NULL: not wanted). */
vn_status vn_pi_check(const struct vn_pi *pi, uint32_t prchk, const struct vn_pi_tags *tags, const uint8_t *data,
                      const uint8_t *meta, uint32_t nr, uint32_t *bad);
/* Between what the host sees and what is kept: protection information is kept inverted, so that zeros, which is what fresh
 * and deallocated space reads as, are FFh to the host, which no check looks at (NVM Command Set 3.2.3.2.1, 5.2.1). */
void vn_pi_invert(const struct vn_pi *pi, uint8_t *meta, uint32_t nr);

#endif
