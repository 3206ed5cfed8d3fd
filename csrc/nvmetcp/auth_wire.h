/* The messages of in-band authentication (NVMe Base 8.13.3 to 8.13.5). Owns no code. */
#ifndef VN_NVMETCP_AUTH_WIRE_H
#define VN_NVMETCP_AUTH_WIRE_H

#include <stdint.h>

#include "core/nvme.h"

/* Authentication Send and Receive: CDW10 and CDW11. */
#define VN_AUTH_SECP 0xe9u
#define VN_AUTH_CDW10 (VN_AUTH_SECP << 24 | 1u << 16 | 1u << 8) /* SECP, SPSP1, SPSP0 */
#define VN_AUTH_CDW10_MASK 0xffffff00u

enum vn_auth_type { VN_AUTH_COMMON = 0x00, VN_AUTH_DHCHAP = 0x01 };
enum vn_auth_id {
    VN_AUTH_NEGOTIATE = 0x00, /* common */
    VN_AUTH_CHALLENGE = 0x01,
    VN_AUTH_REPLY = 0x02,
    VN_AUTH_SUCCESS1 = 0x03,
    VN_AUTH_SUCCESS2 = 0x04,
    VN_AUTH_FAILURE2 = 0xf0, /* common */
    VN_AUTH_FAILURE1 = 0xf1, /* common */
};
enum vn_auth_hash { VN_AUTH_SHA256 = 1, VN_AUTH_SHA384 = 2, VN_AUTH_SHA512 = 3 };
enum vn_auth_group {
    VN_AUTH_NULL = 0,
    VN_AUTH_FFDHE2048 = 1,
    VN_AUTH_FFDHE3072 = 2,
    VN_AUTH_FFDHE4096 = 3,
    VN_AUTH_FFDHE6144 = 4,
    VN_AUTH_FFDHE8192 = 5,
};
enum vn_auth_reason { /* the explanation of reason 1, "authentication failed" */
    VN_AUTH_OK = 0x00, /* ours: nothing is wrong */
    VN_AUTH_FAILED = 0x01,
    VN_AUTH_PROTOCOL_UNUSABLE = 0x02,
    VN_AUTH_CONCAT_MISMATCH = 0x03,
    VN_AUTH_HASH_UNUSABLE = 0x04,
    VN_AUTH_GROUP_UNUSABLE = 0x05,
    VN_AUTH_INCORRECT_PAYLOAD = 0x06,
    VN_AUTH_INCORRECT_MESSAGE = 0x07,
};

struct vn_auth_head { /* of every message */
    uint8_t type, id;
    uint8_t rsvd2[2];
    uint16_t t_id;
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_auth_head, 6);

struct vn_auth_descriptor {
    uint8_t authid; /* 1: DH-HMAC-CHAP */
    uint8_t rsvd1;
    uint8_t halen, dhlen; /* identifiers in each list */
    uint8_t hashes[30], groups[30];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_auth_descriptor, 64);

struct vn_auth_negotiate {
    struct vn_auth_head head;
    uint8_t sc_c; /* 0: no secure channel concatenation */
    uint8_t napd; /* descriptors that follow */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_auth_negotiate, 8);

struct vn_auth_challenge {
    struct vn_auth_head head;
    uint8_t hl; /* bytes of a hash */
    uint8_t rsvd7;
    uint8_t hashid, dhgid;
    uint16_t dhvlen;
    uint32_t seqnum;
    /* C1 of hl bytes, then a DH value of dhvlen */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_auth_challenge, 16);

struct vn_auth_reply {
    struct vn_auth_head head;
    uint8_t hl;
    uint8_t rsvd7;
    uint8_t cvalid; /* 1: there is a challenge C2 */
    uint8_t rsvd9;
    uint16_t dhvlen;
    uint32_t seqnum;
    /* R1 of hl bytes, C2 of hl, then a DH value of dhvlen */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_auth_reply, 16);

struct vn_auth_success1 {
    struct vn_auth_head head;
    uint8_t hl;
    uint8_t rsvd7;
    uint8_t rvalid; /* 1: there is a response R2 */
    uint8_t rsvd9[7];
    /* R2 of hl bytes */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_auth_success1, 16);

struct vn_auth_success2 {
    struct vn_auth_head head;
    uint8_t rsvd6[10];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_auth_success2, 16);

struct vn_auth_failure {
    struct vn_auth_head head;
    uint8_t reason; /* 1 */
    uint8_t explanation; /* enum vn_auth_reason */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_auth_failure, 8);

#endif
