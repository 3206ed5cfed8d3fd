/* PDU headers: which are possible, for both ends of a connection. Pure; pdu.c is also what the fuzz targets drive.
 * Called by conn.c for every header before anything else reads it.
 */
#ifndef VN_NVMETCP_PDU_H
#define VN_NVMETCP_PDU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/fabrics.h"

/* Who looks at the header: a controller takes what a host sends, and the other way round. */
enum vn_pdu_role { VN_PDU_CONTROLLER, VN_PDU_HOST };

/* What one connection has agreed on, as far as headers depend on it. */
struct vn_pdu_rules {
    enum vn_pdu_role role;
    bool ready;           /* ICReq and ICResp have passed: nothing but them, and termination, before */
    bool hdgst, ddgst;
    uint8_t align;        /* bytes: what we have asked incoming data to be aligned to (HPDA or CPDA), 4 to 128 */
    uint32_t capsule_data_max; /* bytes of in-capsule data; controller */
    uint32_t data_max;    /* bytes of one data PDU: MAXH2CDATA; host: of one command */
};

/* What is wrong with a header. */
struct vn_pdu_fault {
    enum vn_pdu_fes fes; /* VN_FES_NONE: nothing */
    uint32_t info;       /* FEI */
};

/* Bytes of the header of this type, without digest; 0: no such type. */
uint32_t vn_pdu_header_bytes(uint8_t type);
/* From the first eight bytes alone: whether this type may come, with this HLEN, PDO and PLEN, exactly. */
struct vn_pdu_fault vn_pdu_check_common(const struct vn_pdu_rules *rules, const struct vn_pdu_common *common);
/* The whole header, HLEN bytes of it: what can be said of its own fields without knowing any command. */
struct vn_pdu_fault vn_pdu_check(const struct vn_pdu_rules *rules, const union vn_pdu *pdu);
/* Bytes of data in a PDU whose header has been checked. */
uint32_t vn_pdu_data_bytes(const struct vn_pdu_rules *rules, const struct vn_pdu_common *common);
/* A header of our own: type, flags, HLEN, PDO and PLEN for that many bytes of data, as the rules of the peer ask it
 * (align: what the peer has asked for). */
void vn_pdu_head(struct vn_pdu_common *common, enum vn_pdu_type type, uint8_t flags, bool hdgst, bool ddgst,
                 uint8_t align, uint32_t data_bytes);
/* The termination request that answers a fault: bytes of it in out, which holds at least 24 + 128. */
uint32_t vn_pdu_build_term(enum vn_pdu_role role, struct vn_pdu_fault fault, const void *offender, uint32_t bytes,
                           uint8_t *out);
const char *vn_pdu_fes_name(enum vn_pdu_fes fes); /* for a sentence */

#endif
