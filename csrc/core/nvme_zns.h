/* The wire format of zoned namespaces. Source: Zoned Namespace Command Set 1.1b. Owns no code. */
#ifndef VN_CORE_NVME_ZNS_H
#define VN_CORE_NVME_ZNS_H

#include "core/nvme.h"

#define VN_CSI_NVM 0x00
#define VN_CSI_ZNS 0x02

#define VN_IO_ZONE_SEND 0x79    /* Zone Management Send */
#define VN_IO_ZONE_RECEIVE 0x7a /* Zone Management Receive */
#define VN_IO_ZONE_APPEND 0x7d

/* Status (2.2, figure 12) */
enum vn_zone_status_code {
    VN_SC_ZONE_BOUNDARY = VN_STATUS(1, 0xb8),
    VN_SC_ZONE_FULL = VN_STATUS(1, 0xb9),
    VN_SC_ZONE_READ_ONLY = VN_STATUS(1, 0xba),
    VN_SC_ZONE_OFFLINE = VN_STATUS(1, 0xbb),
    VN_SC_ZONE_INVALID_WRITE = VN_STATUS(1, 0xbc),
    VN_SC_ZONE_TOO_MANY_ACTIVE = VN_STATUS(1, 0xbd),
    VN_SC_ZONE_TOO_MANY_OPEN = VN_STATUS(1, 0xbe),
    VN_SC_ZONE_INVALID_TRANSITION = VN_STATUS(1, 0xbf),
};

/* Zone Management Send, CDW13 (3.4.3) */
#define VN_ZONE_ZSA(cdw13) ((cdw13) & 0xffu)
#define VN_ZONE_SELECT_ALL (1u << 8)

/* Zone Management Receive, CDW13 (3.4.2) */
#define VN_ZONE_ZRA(cdw13) ((cdw13) & 0xffu)
#define VN_ZONE_ZRASF(cdw13) (((cdw13) >> 8) & 0xffu)
#define VN_ZONE_PARTIAL (1u << 16)
enum vn_zone_receive_action { VN_ZONE_REPORT = 0x0, VN_ZONE_EXTENDED_REPORT = 0x1 };

struct vn_zone_report_head {
    uint64_t nr_zones;
    uint8_t rsvd8[56];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_zone_report_head, 64);

struct vn_zone_desc {
    uint8_t zt; /* zone type, bits 3:0 */
    uint8_t zs; /* zone state, bits 7:4 */
    uint8_t za, zai;
    uint8_t rsvd4[4];
    uint64_t zcap, zslba, wp;
    uint8_t rsvd32[32];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_zone_desc, 64);
#define VN_ZONE_TYPE_SEQUENTIAL 0x2

/* Identify (4.1.5) */
struct vn_zone_lbafe {
    uint64_t zsze;
    uint8_t zdes; /* in units of 64 bytes */
    uint8_t rsvd9[7];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_zone_lbafe, 16);

struct vn_id_ns_zns { /* CNS 05h, CSI 02h */
    uint16_t zoc, ozcs;
    uint32_t mar, mor; /* 0's based; FFFFFFFFh: no limit */
    uint32_t rrl, frl, rrl1, rrl2, rrl3, frl1, frl2, frl3;
    uint32_t numzrwa;
    uint16_t zrwafg, zrwasz;
    uint8_t zrwacap;
    uint8_t rsvd53[2763];
    struct vn_zone_lbafe lbafe[64];
    uint8_t vs[256];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_id_ns_zns, 4096);
#define VN_OZCS_RAZB 0x1 /* reads may go across zones */

struct vn_id_ctrl_zns { /* CNS 06h, CSI 02h */
    uint8_t zasl;
    uint8_t rsvd1[4095];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_id_ctrl_zns, 4096);

#define VN_LOG_CHANGED_ZONES 0xbf
#define VN_AEN_NOTICE_ZONE_CHANGED 0xef
#define VN_OAES_ZONE_CHANGED (1u << 27)

#endif
