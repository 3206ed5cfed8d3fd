/* The wire format of NVMe over Fabrics and of its TCP transport: PDUs, fabrics commands, discovery, authentication.
 * Owns no code. Used by the target, by the forwarder's host and by the controller.
 * Sources: NVMe Base 2.0c (chapters 3.2, 5, 6), NVMe/TCP Transport 1.0c. Little-endian hosts only.
 */
#ifndef VN_CORE_FABRICS_H
#define VN_CORE_FABRICS_H

#include <stdint.h>

#include "core/nvme.h"

/* --- TCP transport: PDUs (TCP 3.6) --- */
enum vn_pdu_type {
    VN_PDU_IC_REQ = 0x00,
    VN_PDU_IC_RESP = 0x01,
    VN_PDU_H2C_TERM = 0x02,
    VN_PDU_C2H_TERM = 0x03,
    VN_PDU_CMD = 0x04,
    VN_PDU_RESP = 0x05,
    VN_PDU_H2C_DATA = 0x06,
    VN_PDU_C2H_DATA = 0x07,
    VN_PDU_R2T = 0x09,
};

#define VN_PDU_F_HDGST 0x1u        /* a header digest follows the header */
#define VN_PDU_F_DDGST 0x2u        /* a data digest follows the data */
#define VN_PDU_F_LAST 0x4u         /* data: the last PDU of its R2T, or of the command */
#define VN_PDU_F_SUCCESS 0x8u      /* C2HData: no response follows, the command has succeeded */
#define VN_PDU_DIGEST_BYTES 4u
#define VN_PDU_TERM_DATA_MAX 128u  /* of the offending PDU, in a termination request */

struct vn_pdu_common {
    uint8_t type, flags;
    uint8_t hlen; /* bytes of the header without its digest */
    uint8_t pdo;  /* data offset from the start of the PDU, 0 when there is no data */
    uint32_t plen; /* bytes in all, digests and padding included */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_pdu_common, 8);

#define VN_IC_DIGEST_HEADER 0x1u
#define VN_IC_DIGEST_DATA 0x2u

struct vn_pdu_ic_req {
    struct vn_pdu_common common;
    uint16_t pfv; /* 0 */
    uint8_t hpda; /* data alignment that the host wants: (n + 1) * 4 bytes, n <= 31 */
    uint8_t digest;
    uint32_t maxr2t; /* zero-based: outstanding R2Ts of a command */
    uint8_t rsvd16[112];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_pdu_ic_req, 128);

struct vn_pdu_ic_resp {
    struct vn_pdu_common common;
    uint16_t pfv;
    uint8_t cpda; /* data alignment that the controller wants */
    uint8_t digest;
    uint32_t maxh2cdata; /* bytes of one H2CData PDU; at least 4096, a multiple of 4 */
    uint8_t rsvd16[112];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_pdu_ic_resp, 128);

enum vn_pdu_fes { /* why a connection is ended (TCP 3.6.2.4) */
    VN_FES_NONE = 0x00, /* ours: nothing is wrong */
    VN_FES_INVALID_HEADER = 0x01, /* info: byte offset of the field */
    VN_FES_SEQUENCE = 0x02,
    VN_FES_HEADER_DIGEST = 0x03,  /* info: the digest that came */
    VN_FES_DATA_RANGE = 0x04,
    VN_FES_DATA_LIMIT = 0x05, /* H2C: R2T limit exceeded; C2H: data transfer limit exceeded */
    VN_FES_UNSUPPORTED = 0x06, /* info: byte offset of the parameter */
};

struct vn_pdu_term { /* either direction */
    struct vn_pdu_common common;
    uint16_t fes;
    uint8_t info[4]; /* FEI, not aligned */
    uint8_t rsvd14[10];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_pdu_term, 24);

struct vn_pdu_cmd {
    struct vn_pdu_common common;
    struct vn_sqe sqe;
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_pdu_cmd, 72);

struct vn_pdu_resp {
    struct vn_pdu_common common;
    struct vn_cqe cqe; /* SQID and the phase are reserved */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_pdu_resp, 24);

struct vn_pdu_data { /* H2CData and C2HData */
    struct vn_pdu_common common;
    uint16_t cccid; /* of the command */
    uint16_t ttag;  /* H2CData: of the R2T; C2HData: reserved */
    uint32_t datao; /* bytes from the start of the command's data */
    uint32_t datal;
    uint8_t rsvd20[4];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_pdu_data, 24);

struct vn_pdu_r2t {
    struct vn_pdu_common common;
    uint16_t cccid, ttag;
    uint32_t r2to, r2tl; /* bytes */
    uint8_t rsvd20[4];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_pdu_r2t, 24);

union vn_pdu {
    struct vn_pdu_common common;
    struct vn_pdu_ic_req ic_req;
    struct vn_pdu_ic_resp ic_resp;
    struct vn_pdu_term term;
    struct vn_pdu_cmd cmd;
    struct vn_pdu_resp resp;
    struct vn_pdu_data data;
    struct vn_pdu_r2t r2t;
};
VN_ASSERT_SIZE(union vn_pdu, 128);

/* Data pointers of commands on fabrics (Base 4.1.2.1 and TCP 3.3.2). */
#define VN_SGL_IN_CAPSULE (VN_SGL_DATA_BLOCK << 4 | VN_SGL_SUBTYPE_OFFSET)
#define VN_SGL_SUBTYPE_TRANSPORT 0xau
#define VN_SGL_TRANSPORT (VN_SGL_TRANSPORT_DATA_BLOCK << 4 | VN_SGL_SUBTYPE_TRANSPORT)

/* --- Fabrics commands (Base 6): opcode 7Fh, type in what is NSID's first byte elsewhere --- */
enum vn_fctype {
    VN_FCTYPE_PROPERTY_SET = 0x00,
    VN_FCTYPE_CONNECT = 0x01,
    VN_FCTYPE_PROPERTY_GET = 0x04,
    VN_FCTYPE_AUTH_SEND = 0x05,
    VN_FCTYPE_AUTH_RECV = 0x06,
    VN_FCTYPE_DISCONNECT = 0x08,
};
#define VN_SQE_FCTYPE(sqe) ((uint8_t)(sqe)->nsid)

#define VN_CONNECT_SQSIZE(sqe) ((uint16_t)(sqe)->cdw11)           /* zero-based */
#define VN_CONNECT_QID(sqe) ((uint16_t)((sqe)->cdw10 >> 16))
#define VN_CONNECT_RECFMT(sqe) ((uint16_t)(sqe)->cdw10)
#define VN_CONNECT_CATTR(sqe) ((uint8_t)((sqe)->cdw11 >> 16))
#define VN_CATTR_NO_SQ_FLOW (1u << 2) /* SQ flow control is to be off; a response with SQHD = FFFFh agrees */
#define VN_CONNECT_KATO_MS(sqe) ((sqe)->cdw12)
#define VN_CNTLID_DYNAMIC 0xffffu

struct vn_connect_data {
    uint8_t hostid[16];
    uint16_t cntlid;
    uint8_t rsvd18[238];
    char subnqn[256];
    char hostnqn[256];
    uint8_t rsvd768[256];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_connect_data, 1024);

#define VN_CONNECT_AUTH_ASCR (1u << 18) /* result: authentication and secure channel required */
#define VN_CONNECT_AUTH_ATR (1u << 17)  /* result: authentication required */

#define VN_PROPERTY_8_BYTES 0x1u /* CDW10 bits 2:0 of Property Get and Set: else 4 bytes */

#define VN_SC_CONNECT_FORMAT VN_STATUS(1, 0x80)
#define VN_SC_CONNECT_BUSY VN_STATUS(1, 0x81)
#define VN_SC_CONNECT_PARAMETER VN_STATUS(1, 0x82) /* result: IPO in bits 15:0, IATTR in bit 16 */
#define VN_SC_CONNECT_RESTART VN_STATUS(1, 0x83)
#define VN_SC_CONNECT_HOST VN_STATUS(1, 0x84)
#define VN_SC_QUEUE_TYPE VN_STATUS(1, 0x85) /* the command is not one of this kind of queue */
#define VN_SC_DISCOVERY_RESTART VN_STATUS(1, 0x90)
#define VN_SC_AUTH_REQUIRED VN_STATUS(1, 0x91)
#define VN_CONNECT_IATTR_DATA (1u << 16) /* the offset is in the data, not in the command */

/* --- Discovery (Base 5.16.1.23, log 70h) --- */
#define VN_DISCOVERY_NQN "nqn.2014-08.org.nvmexpress.discovery"
#define VN_LOG_DISCOVERY 0x70u
#define VN_LOG_ANA 0x0cu
#define VN_NQN_MAX 223u /* characters */

enum vn_subtype { VN_SUBTYPE_REFERRAL = 1, VN_SUBTYPE_NVM = 2, VN_SUBTYPE_CURRENT = 3 };
enum vn_trtype { VN_TRTYPE_TCP = 3 };
enum vn_adrfam { VN_ADRFAM_IPV4 = 1, VN_ADRFAM_IPV6 = 2 };
#define VN_TREQ_SECURE_REQUIRED 0x1u
#define VN_TREQ_SECURE_NOT_REQUIRED 0x2u
#define VN_TREQ_NO_SQ_FLOW (1u << 2) /* the controller can do without SQ flow control */
enum vn_sectype { VN_SECTYPE_NONE = 0, VN_SECTYPE_TLS12 = 1, VN_SECTYPE_TLS13 = 2 };

struct vn_discovery_entry {
    uint8_t trtype, adrfam, subtype, treq;
    uint16_t portid, cntlid, asqsz, eflags;
    uint8_t rsvd12[20];
    char trsvcid[32];
    uint8_t rsvd64[192];
    char subnqn[256];
    char traddr[256];
    uint8_t tsas[256]; /* TCP: byte 0 is SECTYPE */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_discovery_entry, 1024);

struct vn_discovery_log {
    uint64_t genctr, numrec;
    uint16_t recfmt;
    uint8_t rsvd18[1006];
} VN_PACKED; /* entries follow */
VN_ASSERT_SIZE(struct vn_discovery_log, 1024);

/* --- Asymmetric namespace access (Base 8.1, log 0Ch) --- */
enum vn_ana_state {
    VN_ANA_OPTIMIZED = 0x1,
    VN_ANA_NON_OPTIMIZED = 0x2,
    VN_ANA_INACCESSIBLE = 0x3,
    VN_ANA_PERSISTENT_LOSS = 0x4,
    VN_ANA_CHANGE = 0xf,
};
struct vn_ana_group {
    uint32_t anagrpid, nr_nsids;
    uint64_t change_count;
    uint8_t state;
    uint8_t rsvd17[15];
    /* nr_nsids NSIDs of 4 bytes follow */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_ana_group, 32);
struct vn_ana_log {
    uint64_t change_count;
    uint16_t nr_groups;
    uint8_t rsvd10[6];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_ana_log, 16);
#define VN_ANA_LOG_RGO (1u << 8) /* CDW10: groups only, bit 0 of LSP */
#define VN_ANACAP_OPTIMIZED (1u << 0)
#define VN_ANACAP_NON_OPTIMIZED (1u << 1)
#define VN_ANACAP_INACCESSIBLE (1u << 2)
#define VN_ANACAP_PERSISTENT_LOSS (1u << 3)
#define VN_ANACAP_CHANGE (1u << 4)
#define VN_CMIC_MULTI_PORT (1u << 0)
#define VN_CMIC_MULTI_CTRL (1u << 1)
#define VN_CMIC_ANA (1u << 3)
#define VN_NMIC_SHARED (1u << 0)
#define VN_OAES_ANA (1u << 11)
#define VN_OAES_DISCOVERY (1u << 31)
#define VN_CTRATT_TBKAS (1u << 6) /* traffic-based keep alive */
#define VN_AEN_NOTICE_ANA 0x03u
#define VN_AEN_NOTICE_DISCOVERY 0xf0u
#define VN_CNTRLTYPE_IO 1u
#define VN_CNTRLTYPE_DISCOVERY 2u

/* --- Cross-controller reset (Base 2.2): a host has another controller of the subsystem end a lost one --- */
#define VN_ADMIN_CROSS_RESET 0x38u /* CDW10: ICID in bits 15:0, CIU in bits 23:16; CDW12-13: CIRN */
#define VN_CROSS_RESET_DONE 0x1u   /* result: the impacted controller is gone, its commands have ended */

#endif
