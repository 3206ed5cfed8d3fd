/* The NVMe wire format of what a drive does beside I/O: logs, self-test, firmware, sanitize, directives. As nvme.h, which has the
 * rest. Sources: NVMe Base 2.0c.
 */
#ifndef VN_CORE_NVME_ADMIN_H
#define VN_CORE_NVME_ADMIN_H

#include "core/nvme.h"

/* --- Features (Base 5.27.1) --- */
struct vn_timestamp { /* 0Eh */
    uint8_t ms[6]; /* since the epoch */
    uint8_t attributes; /* bit 0: it was not counted without a break; bits 3:1: where it comes from */
    uint8_t rsvd7;
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_timestamp, 8);
#define VN_TIMESTAMP_SET (1u << 1) /* by Set Features; else it counts from a reset */

struct vn_host_behavior { /* 16h */
    uint8_t acre, etdas, lbafee;
    uint8_t rsvd3[509];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_host_behavior, 512);

enum vn_write_protect { VN_WP_NONE, VN_WP_PROTECT, VN_WP_UNTIL_POWER_CYCLE, VN_WP_PERMANENT }; /* 84h */

/* --- Logs (Base 5.16.1) --- */
struct vn_log_firmware { /* 03h */
    uint8_t afi;
    uint8_t rsvd1[7];
    char frs[7][8];
    uint8_t rsvd64[448];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_firmware, 512);

#define VN_ENDURANCE_GROUP 1u
struct vn_log_endurance { /* 09h */
    uint8_t critical_warning, features, rsvd2, avail_spare, spare_thresh, percent_used;
    uint16_t domainid;
    uint8_t rsvd8[24];
    uint64_t estimate[2];
    uint64_t read_units[2], write_units[2], media_write_units[2]; /* thousands of millions of bytes, rounded up */
    uint64_t reads[2], writes[2];
    uint64_t media_errors[2], error_entries[2];
    uint64_t capacity[2], unallocated[2]; /* bytes */
    uint8_t rsvd192[320];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_endurance, 512);

enum vn_endurance_warning { VN_ENDURANCE_SPARE = 1u << 0, VN_ENDURANCE_RELIABILITY = 1u << 2, VN_ENDURANCE_READ_ONLY = 1u << 3 };
#define VN_ENDURANCE_ALL (VN_ENDURANCE_SPARE | VN_ENDURANCE_RELIABILITY | VN_ENDURANCE_READ_ONLY)
struct vn_log_endurance_events { /* 0Fh: groups whose log has not been read since an event */
    uint64_t nr;
    uint16_t groups[252];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_endurance_events, 512);

struct vn_self_test_result {
    uint8_t status; /* result in bits 3:0, which test in bits 7:4 */
    uint8_t segment, valid, rsvd3;
    uint64_t power_on_hours;
    uint32_t nsid;
    uint64_t lba;
    uint8_t sct, sc;
    uint8_t vs[2];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_self_test_result, 28);
#define VN_SELF_TEST_RESULTS 20u
struct vn_log_self_test { /* 06h */
    uint8_t operation, completion; /* which test is under way, and how much of it is done, % */
    uint8_t rsvd2[2];
    struct vn_self_test_result results[VN_SELF_TEST_RESULTS];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_self_test, 564);
enum vn_self_test { VN_SELF_TEST_SHORT = 1, VN_SELF_TEST_EXTENDED = 2, VN_SELF_TEST_ABORT = 0xf };
enum vn_self_test_outcome {
    VN_TEST_PASSED = 0,
    VN_TEST_ABORTED = 1,      /* by the command */
    VN_TEST_RESET = 2,        /* by a reset of the controller */
    VN_TEST_NS_REMOVED = 3,
    VN_TEST_FORMAT = 4,
    VN_TEST_SEGMENT_FAILED = 7,
    VN_TEST_SANITIZE = 9,
    VN_TEST_UNUSED = 0xf,
};
#define VN_TEST_NSID_VALID (1u << 0)
#define VN_TEST_LBA_VALID (1u << 1)
#define VN_TEST_SCT_VALID (1u << 2)
#define VN_TEST_SC_VALID (1u << 3)

#define VN_TELEMETRY_BLOCK 512u
struct vn_log_telemetry { /* 07h, 08h; its blocks follow */
    uint8_t lid, rsvd1[4], ieee[3];
    uint16_t last1, last2, last3; /* the last block of each area */
    uint8_t rsvd14[2];
    uint32_t last4;
    uint8_t rsvd20[361];
    uint8_t host_generation;
    uint8_t available, generation; /* of what the controller has captured by itself */
    uint8_t reason[128];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_telemetry, 512);

struct vn_log_events { /* 0Dh; its events follow */
    uint8_t lid, rsvd1[3];
    uint32_t nr;
    uint64_t bytes; /* of the whole log */
    uint8_t revision, rsvd17;
    uint16_t header_bytes; /* after this field's predecessors: from byte 20 on */
    struct vn_timestamp timestamp;
    uint64_t power_on_hours[2];
    uint64_t power_cycles;
    uint16_t vid, ssvid;
    char sn[20], mn[40], subnqn[256];
    uint16_t generation;
    uint32_t context;
    uint8_t rsvd378[102];
    uint8_t supported[32];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_events, 512);
#define VN_EVENTS_CONTEXT_EXISTS (1u << 18)

struct vn_log_event {
    uint8_t type, revision;
    uint8_t header_bytes; /* that follow this field: 21 */
    uint8_t info;
    uint16_t cntlid;
    struct vn_timestamp timestamp;
    uint16_t portid;
    uint8_t rsvd16[4];
    uint16_t vendor_bytes;
    uint16_t bytes; /* that follow the header */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_event, 24);
enum vn_event_log_type {
    VN_PEL_SMART = 0x01,
    VN_PEL_FIRMWARE = 0x02,
    VN_PEL_TIMESTAMP = 0x03,
    VN_PEL_POWER_ON = 0x04,
    VN_PEL_HARDWARE = 0x05,
    VN_PEL_CHANGE_NS = 0x06,
    VN_PEL_FORMAT_START = 0x07,
    VN_PEL_FORMAT_END = 0x08,
    VN_PEL_SANITIZE_START = 0x09,
    VN_PEL_SANITIZE_END = 0x0a,
    VN_PEL_SET_FEATURE = 0x0b,
    VN_PEL_TELEMETRY = 0x0c,
    VN_PEL_THERMAL = 0x0d,
};
struct vn_pel_firmware {
    char old_revision[8], new_revision[8];
    uint8_t action, slot, sct, sc;
    uint16_t vs;
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_pel_firmware, 22);
struct vn_pel_timestamp {
    struct vn_timestamp previous;
    uint64_t ms_since_reset;
} VN_PACKED;
struct vn_pel_power_on {
    char revision[8];
    uint16_t cntlid;
    uint8_t firmware_activated, in_progress;
    uint8_t rsvd12[12];
    uint32_t power_cycle;
    uint64_t power_on_ms;
    struct vn_timestamp timestamp;
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_pel_power_on, 44);
struct vn_pel_hardware {
    uint16_t code, rsvd2;
    uint32_t csts;
} VN_PACKED;
#define VN_PEL_CODE_CFS 0x04u /* Controller Fatal Status */
struct vn_pel_change_ns {
    uint32_t cdw10, rsvd4;
    uint64_t nsze, rsvd16, ncap;
    uint8_t flbas, dps, nmic, rsvd35;
    uint32_t anagrpid;
    uint16_t nvmsetid, rsvd42;
    uint32_t nsid;
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_pel_change_ns, 48);
struct vn_pel_format_start {
    uint32_t nsid;
    uint8_t fna, rsvd5[3];
    uint32_t cdw10;
} VN_PACKED;
struct vn_pel_format_end {
    uint32_t nsid;
    uint8_t smallest_fpi, status;
    uint16_t info;
    uint32_t status_field;
} VN_PACKED;
struct vn_pel_sanitize_start {
    uint32_t sanicap, cdw10, cdw11;
} VN_PACKED;
struct vn_pel_sanitize_end {
    uint16_t progress, status, info, rsvd6;
} VN_PACKED;
struct vn_pel_thermal {
    uint8_t over, threshold;
} VN_PACKED;

struct vn_log_lba_status { /* 0Eh; its elements follow */
    uint32_t bytes, nr; /* bytes: of the log */
    uint32_t estimate;
    uint16_t rsvd12, generation;
} VN_PACKED;
struct vn_lba_status_ns {
    uint32_t nsid, nr; /* descriptors that follow */
    uint8_t action;    /* of Get LBA Status that tells the same */
    uint8_t rsvd9[7];
} VN_PACKED;
struct vn_lba_status_range {
    uint64_t slba;
    uint32_t nlb, rsvd12; /* nlb: not zero-based */
} VN_PACKED;

struct vn_log_sanitize { /* 81h */
    uint16_t progress, status; /* progress: of 65536; FFFFh: none is under way */
    uint32_t cdw10;
    uint32_t overwrite_s, block_erase_s, crypto_erase_s; /* estimates; FFFFFFFFh: none */
    uint32_t overwrite_nd_s, block_erase_nd_s, crypto_erase_nd_s;
    uint8_t rsvd32[480];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_sanitize, 512);
enum vn_sanitize_status {
    VN_SANITIZE_NEVER,
    VN_SANITIZE_DONE,
    VN_SANITIZE_RUNS,
    VN_SANITIZE_HAS_FAILED,
    VN_SANITIZE_DONE_DEALLOCATED, /* though that was not wanted */
};
enum vn_sanitize_action { VN_SANACT_EXIT_FAILURE = 1, VN_SANACT_BLOCK = 2, VN_SANACT_OVERWRITE = 3, VN_SANACT_CRYPTO = 4 };
#define VN_SANITIZE_AUSE (1u << 3)
#define VN_SANITIZE_OIPBP (1u << 8)
#define VN_SANITIZE_NODAS (1u << 9)
#define VN_SANICAP_CRYPTO (1u << 0)
#define VN_SANICAP_BLOCK (1u << 1)
#define VN_SANICAP_OVERWRITE (1u << 2)
#define VN_SANICAP_NDI (1u << 29) /* it deallocates, whether that is wanted or not */
#define VN_SANICAP_NOT_MODIFIED (1u << 30) /* NODMMAS: with NODAS the media are left as the operation made them */

/* Feature Identifiers Supported and Effects, 12h: 256 dwords */
#define VN_FID_SUPPORTED (1u << 0)
#define VN_FID_USER_DATA (1u << 1)
#define VN_FID_NS_CAPABILITY (1u << 2)
#define VN_FID_CTRL_CAPABILITY (1u << 4)
#define VN_FID_SCOPE_NS (1u << 20)
#define VN_FID_SCOPE_CTRL (1u << 21)
#define VN_FID_SCOPE_ENDURANCE (1u << 23)
#define VN_FID_SCOPE_SUBSYSTEM (1u << 25)

/* Commands Supported and Effects, beyond nvme.h */
#define VN_EFFECT_CSE_ALL (2u << 16) /* no other command of any namespace meanwhile */
#define VN_EFFECT_UUID (1u << 19)    /* it has a UUID Index */

/* --- Identify: bits of its fields (Base 5.17.2.1) --- */
#define VN_OACS_SECURITY (1u << 0)
#define VN_OACS_FIRMWARE (1u << 2)
#define VN_OACS_SELF_TEST (1u << 4)
#define VN_OACS_DIRECTIVES (1u << 5)
#define VN_ONCS_TIMESTAMP (1u << 6)
#define VN_OAES_FIRMWARE (1u << 9)
#define VN_OAES_ENDURANCE (1u << 14)
#define VN_LPA_SMART_NS (1u << 0)
#define VN_LPA_EFFECTS (1u << 1)
#define VN_LPA_EXTENDED (1u << 2)
#define VN_LPA_TELEMETRY (1u << 3)
#define VN_LPA_EVENTS (1u << 4)
#define VN_LPA_SUPPORTED_PAGES (1u << 5)
#define VN_CTRATT_PERMISSIVE (1u << 1) /* feature 11h */
#define VN_CTRATT_ENDURANCE_GROUPS (1u << 4)
#define VN_CTRATT_GRANULARITY (1u << 7)
#define VN_CTRATT_UUID_LIST (1u << 9)

/* --- Identify: namespace granularity, and UUIDs of what is the vendor's own --- */
#define VN_GRANULARITY_OF_FORMATS (1u << 0) /* descriptor N is of LBA format N */
struct vn_id_granularity { /* CNS 16h */
    uint32_t attributes;
    uint8_t nr; /* descriptors, zero-based */
    uint8_t rsvd5[27];
    struct {
        uint64_t size, capacity; /* bytes; 0: not said */
    } of[16];
    uint8_t rsvd288[3808];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_id_granularity, 4096);

#define VN_UUID_LIST_ENTRIES 128u
struct vn_uuid_entry { /* CNS 17h: entry 0 is none */
    uint8_t association; /* 0: not said */
    uint8_t rsvd1[15];
    uint8_t uuid[16];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_uuid_entry, 32);

/* --- Directives (Base 8.7) --- */
struct vn_directive_parameters {
    uint8_t supported[32], enabled[32], persistent[32];
    uint8_t rsvd96[4000];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_directive_parameters, 4096);

#endif
