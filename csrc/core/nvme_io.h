/* The data of I/O commands beyond reading and writing, as the specifications write it: Copy, the reservation commands, Get LBA
 * Status. Part of nvme.h, which includes it.
 */
#ifndef VN_CORE_NVME_IO_H
#define VN_CORE_NVME_IO_H

/* Copy (NVM Command Set 3.2.2) */
#define VN_COPY_NR(cdw12) (((cdw12) & 0xffu) + 1u)
#define VN_COPY_FORMAT(cdw12) (((cdw12) >> 8) & 0xfu)
#define VN_COPY_PRINFOR_MASK (0xfu << 12)
struct vn_copy_range { /* a source range entry, descriptor format 0h */
    uint64_t rsvd0, slba;
    uint16_t nlb; /* 0's based */
    uint8_t rsvd18[6];
    uint32_t eilbrt;
    uint16_t elbat, elbatm;
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_copy_range, 32);

struct vn_copy_range_long { /* 1h: with the tags of a 64-bit guard */
    uint64_t rsvd0, slba;
    uint16_t nlb;
    uint8_t rsvd18[8];
    uint8_t elbt[10];
    uint16_t elbat, elbatm;
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_copy_range_long, 40);

/* Reservation commands (Base 7.2 to 7.5) and what they tell of */
#define VN_RESV_ACTION(cdw10) ((cdw10) & 0x7u)
#define VN_RESV_IEKEY (1u << 3)
#define VN_RESV_RTYPE(cdw10) ((uint8_t)((cdw10) >> 8))
#define VN_RESV_CPTPL_SET 3u /* CDW10 bits 31:30 of Register; 2: cleared */
enum vn_resv_register_action { VN_RESV_REGISTER, VN_RESV_UNREGISTER, VN_RESV_REPLACE };
enum vn_resv_acquire_action { VN_RESV_ACQUIRE, VN_RESV_PREEMPT, VN_RESV_PREEMPT_AND_ABORT };
enum vn_resv_release_action { VN_RESV_RELEASE, VN_RESV_CLEAR };
#define VN_RESV_EDS (1u << 0) /* CDW11 of Report: the extended structure */

struct vn_resv_status { /* Report, 64 bytes with EDS, else the first 24 */
    uint32_t gen;
    uint8_t rtype;
    uint16_t regctl;
    uint8_t rsvd7[2];
    uint8_t ptpls;
    uint8_t rsvd10[54];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_resv_status, 64);
#define VN_RESV_STATUS_BYTES 24u

struct vn_resv_ctrl { /* a registered controller */
    uint16_t cntlid;
    uint8_t rcsts; /* bit 0: it holds the reservation */
    uint8_t rsvd3[5];
    uint64_t hostid, rkey;
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_resv_ctrl, 24);

struct vn_resv_ctrl_ext { /* with EDS */
    uint16_t cntlid;
    uint8_t rcsts;
    uint8_t rsvd3[5];
    uint64_t rkey;
    uint8_t hostid[16];
    uint8_t rsvd32[32];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_resv_ctrl_ext, 64);

enum vn_resv_notice_type {
    VN_RESV_NOTICE_PREEMPTED_REGISTRATION = 1,
    VN_RESV_NOTICE_RELEASED = 2,
    VN_RESV_NOTICE_PREEMPTED_RESERVATION = 3,
};

struct vn_log_reservation {
    uint64_t count;
    uint8_t type;      /* enum vn_resv_notice_type; 0: there is none */
    uint8_t available; /* how many more there are */
    uint8_t rsvd10[2];
    uint32_t nsid;
    uint8_t rsvd16[48];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_reservation, 64);

/* Get LBA Status (NVM Command Set 4.2.1) */
struct vn_lba_status {
    uint64_t dslba;
    uint32_t nlb; /* 0's based */
    uint8_t rsvd12, status;
    uint8_t rsvd14[2];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_lba_status, 16);
#define VN_LBA_STATUS_BAD (1u << 0)    /* reading it fails */
#define VN_LBA_STATUS_MARKED (1u << 1) /* by Write Uncorrectable */
#define VN_LBA_STATUS_FULL 1 /* CMPC: as much as the host has room for; */
#define VN_LBA_STATUS_ALL 2  /* all that there is */

#endif
