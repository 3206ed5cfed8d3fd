/* The NVMe wire format: structures, opcodes and constants, as the specifications write them.
 * Owns no code. Used by the controller and by the host (both sides of the wire).
 * Sources: NVMe Base 2.0c, NVM Command Set 1.0c, PCIe Transport 1.0c. Little-endian hosts only.
 */
#ifndef VN_CORE_NVME_H
#define VN_CORE_NVME_H

#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "NVMe structures are little-endian; this program has no byte swapping"
#endif

#define VN_PACKED __attribute__((packed))
#define VN_ASSERT_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " is " #bytes " bytes on the wire")

/* --- Controller properties (Base 3.1.3) --- */
enum vn_reg {
    VN_REG_CAP = 0x00,
    VN_REG_VS = 0x08,
    VN_REG_INTMS = 0x0c,
    VN_REG_INTMC = 0x10,
    VN_REG_CC = 0x14,
    VN_REG_CSTS = 0x1c,
    VN_REG_NSSR = 0x20,
    VN_REG_AQA = 0x24,
    VN_REG_ASQ = 0x28,
    VN_REG_ACQ = 0x30,
    VN_REG_CMBLOC = 0x38,
    VN_REG_CMBSZ = 0x3c,
    VN_REG_BPINFO = 0x40,
    VN_REG_CRTO = 0x68,
    VN_REG_DBS = 0x1000, /* doorbells: 2 x 4 bytes a queue pair, stride CAP.DSTRD = 0 */
};

#define VN_VS_2_0 0x00020000u

#define VN_CAP_MQES_SHIFT 0
#define VN_CAP_CQR (1ull << 16)
#define VN_CAP_AMS_SHIFT 17
#define VN_CAP_TO_SHIFT 24 /* in units of 500 ms */
#define VN_CAP_DSTRD_SHIFT 32
#define VN_CAP_NSSRS (1ull << 36)
#define VN_CAP_CSS_NVM (1ull << 37)
#define VN_CAP_CSS_IOCS (1ull << 43) /* one or more I/O command sets, by CC.CSS = 110b */
#define VN_CAP_CSS_ADMIN (1ull << 44)
#define VN_CAP_MPSMIN_SHIFT 48
#define VN_CAP_MPSMAX_SHIFT 52

#define VN_CC_EN 0x1u
#define VN_CC_CSS(cc) (((cc) >> 4) & 0x7u)
#define VN_CC_MPS(cc) (((cc) >> 7) & 0xfu)
#define VN_CC_AMS(cc) (((cc) >> 11) & 0x7u)
#define VN_CC_SHN(cc) (((cc) >> 14) & 0x3u)
#define VN_CC_IOSQES(cc) (((cc) >> 16) & 0xfu)
#define VN_CC_IOCQES(cc) (((cc) >> 20) & 0xfu)

#define VN_CSTS_RDY 0x1u
#define VN_CSTS_CFS 0x2u
#define VN_CSTS_SHST_MASK 0xcu
#define VN_CSTS_SHST_OCCURRING 0x4u
#define VN_CSTS_SHST_COMPLETE 0x8u
#define VN_CSTS_NSSRO 0x10u

#define VN_AQA_ASQS(aqa) ((aqa) & 0xfffu)         /* 0's based */
#define VN_AQA_ACQS(aqa) (((aqa) >> 16) & 0xfffu) /* 0's based */

/* --- Commands and completions (Base 3.3.3) --- */
struct vn_sgl_desc {
    uint64_t addr;
    uint32_t length;
    uint8_t rsvd[3];
    uint8_t type; /* type in bits 7:4, subtype in bits 3:0 */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_sgl_desc, 16);

enum vn_sgl_type {
    VN_SGL_DATA_BLOCK = 0x0,
    VN_SGL_BIT_BUCKET = 0x1,
    VN_SGL_SEGMENT = 0x2,
    VN_SGL_LAST_SEGMENT = 0x3,
    VN_SGL_KEYED_DATA_BLOCK = 0x4,
    VN_SGL_TRANSPORT_DATA_BLOCK = 0x5,
};
#define VN_SGL_SUBTYPE_ADDRESS 0x0
#define VN_SGL_SUBTYPE_OFFSET 0x1

struct vn_sqe {
    uint8_t opcode;
    uint8_t flags; /* FUSE in bits 1:0, PSDT in bits 7:6 */
    uint16_t cid;
    uint32_t nsid;
    uint32_t cdw2;
    uint32_t cdw3;
    uint64_t mptr;
    union {
        struct {
            uint64_t prp1;
            uint64_t prp2;
        };
        struct vn_sgl_desc sgl1;
    };
    uint32_t cdw10;
    uint32_t cdw11;
    uint32_t cdw12;
    uint32_t cdw13;
    uint32_t cdw14;
    uint32_t cdw15;
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_sqe, 64);

#define VN_SQE_FUSE(flags) ((flags) & 0x3u)
#define VN_FUSE_FIRST 1u
#define VN_FUSE_SECOND 2u
#define VN_SQE_PSDT(flags) ((flags) >> 6)
#define VN_PSDT_PRP 0u
#define VN_PSDT_SGL_MPTR_CONTIG 1u
#define VN_PSDT_SGL_MPTR_SGL 2u

struct vn_cqe {
    uint32_t dw0;
    uint32_t dw1;
    uint16_t sqhd;
    uint16_t sqid;
    uint16_t cid;
    uint16_t status; /* phase in bit 0, status field in bits 15:1 */
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_cqe, 16);

#define VN_NSID_BROADCAST 0xffffffffu

/* --- Opcodes --- */
enum vn_admin_opcode {
    VN_ADMIN_DELETE_SQ = 0x00,
    VN_ADMIN_CREATE_SQ = 0x01,
    VN_ADMIN_GET_LOG_PAGE = 0x02,
    VN_ADMIN_DELETE_CQ = 0x04,
    VN_ADMIN_CREATE_CQ = 0x05,
    VN_ADMIN_IDENTIFY = 0x06,
    VN_ADMIN_ABORT = 0x08,
    VN_ADMIN_SET_FEATURES = 0x09,
    VN_ADMIN_GET_FEATURES = 0x0a,
    VN_ADMIN_ASYNC_EVENT = 0x0c,
    VN_ADMIN_NS_MANAGEMENT = 0x0d,
    VN_ADMIN_FW_COMMIT = 0x10,
    VN_ADMIN_FW_DOWNLOAD = 0x11,
    VN_ADMIN_SELF_TEST = 0x14,
    VN_ADMIN_NS_ATTACHMENT = 0x15,
    VN_ADMIN_KEEP_ALIVE = 0x18,
    VN_ADMIN_DIRECTIVE_SEND = 0x19,
    VN_ADMIN_DIRECTIVE_RECEIVE = 0x1a,
    VN_ADMIN_DOORBELL_CONFIG = 0x7c,
    VN_ADMIN_FABRICS = 0x7f,
    VN_ADMIN_FORMAT_NVM = 0x80,
    VN_ADMIN_SECURITY_SEND = 0x81,
    VN_ADMIN_SECURITY_RECEIVE = 0x82,
    VN_ADMIN_SANITIZE = 0x84,
    VN_ADMIN_GET_LBA_STATUS = 0x86,
};

enum vn_io_opcode {
    VN_IO_FLUSH = 0x00,
    VN_IO_WRITE = 0x01,
    VN_IO_READ = 0x02,
    VN_IO_WRITE_UNCORRECTABLE = 0x04,
    VN_IO_COMPARE = 0x05,
    VN_IO_WRITE_ZEROES = 0x08,
    VN_IO_DSM = 0x09,
    VN_IO_VERIFY = 0x0c,
    VN_IO_RESV_REGISTER = 0x0d,
    VN_IO_RESV_REPORT = 0x0e,
    VN_IO_RESV_ACQUIRE = 0x11,
    VN_IO_RESV_RELEASE = 0x15,
    VN_IO_COPY = 0x19,
};

/* Read, Write, Compare, Write Zeroes: CDW12 (NVM Command Set 3.2) */
#define VN_RW_NLB(cdw12) (((cdw12) & 0xffffu) + 1u)
#define VN_RW_DEAC (1u << 25) /* Write Zeroes: deallocate */
#define VN_RW_PRINFO_MASK (0xfu << 26)
#define VN_RW_PRACT (1u << 29)
#define VN_RW_PRCHK(cdw12) (((cdw12) >> 26) & 0x7u)
#define VN_RW_FUA (1u << 30)
#define VN_RW_LR (1u << 31)

#define VN_DSM_AD (1u << 2) /* CDW11: deallocate */
#define VN_DSM_MAX_RANGES 256
struct vn_dsm_range {
    uint32_t cattr;
    uint32_t nlb;
    uint64_t slba;
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_dsm_range, 16);

/* --- Copy, reservations, Get LBA Status --- */
#include "core/nvme_io.h"

/* --- Status: the 15-bit status field of a CQE, without the phase bit (Base 3.3.3.2.1) --- */
typedef uint16_t vn_status;
#define VN_STATUS(sct, sc) ((vn_status)(((sct) << 8) | (sc)))
#define VN_STATUS_MORE ((vn_status)0x2000)
#define VN_STATUS_DNR ((vn_status)0x4000)
#define VN_STATUS_CODE(status) ((status) & 0x7ffu) /* type and code, without CRD, M and DNR */

enum vn_status_code {
    VN_SC_SUCCESS = VN_STATUS(0, 0x00),
    VN_SC_INVALID_OPCODE = VN_STATUS(0, 0x01),
    VN_SC_INVALID_FIELD = VN_STATUS(0, 0x02),
    VN_SC_CID_CONFLICT = VN_STATUS(0, 0x03),
    VN_SC_DATA_TRANSFER_ERROR = VN_STATUS(0, 0x04),
    VN_SC_INTERNAL = VN_STATUS(0, 0x06),
    VN_SC_ABORT_REQUESTED = VN_STATUS(0, 0x07),
    VN_SC_ABORT_SQ_DELETED = VN_STATUS(0, 0x08),
    VN_SC_ABORT_FAILED_FUSED = VN_STATUS(0, 0x09),
    VN_SC_ABORT_MISSING_FUSED = VN_STATUS(0, 0x0a),
    VN_SC_INVALID_NS = VN_STATUS(0, 0x0b),
    VN_SC_COMMAND_SEQUENCE = VN_STATUS(0, 0x0c),
    VN_SC_INVALID_SGL_SEGMENT = VN_STATUS(0, 0x0d),
    VN_SC_INVALID_SGL_COUNT = VN_STATUS(0, 0x0e),
    VN_SC_SGL_DATA_LENGTH = VN_STATUS(0, 0x0f),
    VN_SC_SGL_METADATA_LENGTH = VN_STATUS(0, 0x10),
    VN_SC_SGL_TYPE = VN_STATUS(0, 0x11),
    VN_SC_INVALID_PRP_OFFSET = VN_STATUS(0, 0x13),
    VN_SC_OPERATION_DENIED = VN_STATUS(0, 0x15),
    VN_SC_SGL_OFFSET = VN_STATUS(0, 0x16),
    VN_SC_HOSTID_FORMAT = VN_STATUS(0, 0x18),
    VN_SC_ABORT_PREEMPTED = VN_STATUS(0, 0x1b),
    VN_SC_SANITIZE_FAILED = VN_STATUS(0, 0x1c),
    VN_SC_SANITIZE_IN_PROGRESS = VN_STATUS(0, 0x1d),
    VN_SC_NS_WRITE_PROTECTED = VN_STATUS(0, 0x20),
    VN_SC_TRANSIENT_TRANSPORT = VN_STATUS(0, 0x22),
    VN_SC_LBA_RANGE = VN_STATUS(0, 0x80),
    VN_SC_CAPACITY_EXCEEDED = VN_STATUS(0, 0x81),
    VN_SC_NS_NOT_READY = VN_STATUS(0, 0x82),
    VN_SC_RESERVATION_CONFLICT = VN_STATUS(0, 0x83),
    VN_SC_FORMAT_IN_PROGRESS = VN_STATUS(0, 0x84),

    VN_SC_CQ_INVALID = VN_STATUS(1, 0x00),
    VN_SC_QID_INVALID = VN_STATUS(1, 0x01),
    VN_SC_QUEUE_SIZE = VN_STATUS(1, 0x02),
    VN_SC_ABORT_LIMIT = VN_STATUS(1, 0x03),
    VN_SC_AER_LIMIT = VN_STATUS(1, 0x05),
    VN_SC_FIRMWARE_SLOT = VN_STATUS(1, 0x06),
    VN_SC_FIRMWARE_IMAGE = VN_STATUS(1, 0x07),
    VN_SC_INVALID_VECTOR = VN_STATUS(1, 0x08),
    VN_SC_INVALID_LOG_PAGE = VN_STATUS(1, 0x09),
    VN_SC_INVALID_FORMAT = VN_STATUS(1, 0x0a),
    VN_SC_INVALID_QUEUE_DELETION = VN_STATUS(1, 0x0c),
    VN_SC_FEATURE_NOT_SAVEABLE = VN_STATUS(1, 0x0d),
    VN_SC_FEATURE_NOT_CHANGEABLE = VN_STATUS(1, 0x0e),
    VN_SC_FEATURE_NOT_NS_SPECIFIC = VN_STATUS(1, 0x0f),
    VN_SC_FIRMWARE_NEEDS_RESET = VN_STATUS(1, 0x11),
    VN_SC_OVERLAPPING_RANGE = VN_STATUS(1, 0x14),
    VN_SC_INSUFFICIENT_CAPACITY = VN_STATUS(1, 0x15),
    VN_SC_NSID_UNAVAILABLE = VN_STATUS(1, 0x16),
    VN_SC_NS_ATTACHED = VN_STATUS(1, 0x18),
    VN_SC_NS_PRIVATE = VN_STATUS(1, 0x19),
    VN_SC_NS_NOT_ATTACHED = VN_STATUS(1, 0x1a),
    VN_SC_THIN_PROVISIONING = VN_STATUS(1, 0x1b),
    VN_SC_CTRL_LIST_INVALID = VN_STATUS(1, 0x1c),
    VN_SC_SELF_TEST_IN_PROGRESS = VN_STATUS(1, 0x1d),
    VN_SC_ANA_GROUP_INVALID = VN_STATUS(1, 0x24),
    VN_SC_IOCS_NOT_SUPPORTED = VN_STATUS(1, 0x29),
    VN_SC_IOCS_NOT_ENABLED = VN_STATUS(1, 0x2a),
    VN_SC_IOCS_COMBINATION = VN_STATUS(1, 0x2b),
    VN_SC_CONFLICTING_ATTRIBUTES = VN_STATUS(1, 0x80),
    VN_SC_INVALID_PI = VN_STATUS(1, 0x81),
    VN_SC_READ_ONLY_RANGE = VN_STATUS(1, 0x82),
    VN_SC_CMD_SIZE_LIMIT = VN_STATUS(1, 0x83),

    VN_SC_WRITE_FAULT = VN_STATUS(2, 0x80),
    VN_SC_UNRECOVERED_READ = VN_STATUS(2, 0x81),
    VN_SC_GUARD_CHECK = VN_STATUS(2, 0x82),
    VN_SC_APP_TAG_CHECK = VN_STATUS(2, 0x83),
    VN_SC_REF_TAG_CHECK = VN_STATUS(2, 0x84),
    VN_SC_COMPARE_FAILURE = VN_STATUS(2, 0x85),
    VN_SC_ACCESS_DENIED = VN_STATUS(2, 0x86),
    VN_SC_DEALLOCATED = VN_STATUS(2, 0x87),

    VN_SC_PATH_INTERNAL = VN_STATUS(3, 0x00),
    VN_SC_ANA_PERSISTENT_LOSS = VN_STATUS(3, 0x01),
    VN_SC_ANA_INACCESSIBLE = VN_STATUS(3, 0x02),
    VN_SC_ANA_TRANSITION = VN_STATUS(3, 0x03),
    VN_SC_HOST_PATH = VN_STATUS(3, 0x70),
};

/* --- Identify (Base 4.1.5 of the command; structures 5.17) --- */
enum vn_cns {
    VN_CNS_NS = 0x00,
    VN_CNS_CTRL = 0x01,
    VN_CNS_ACTIVE_NS_LIST = 0x02,
    VN_CNS_NS_DESC_LIST = 0x03,
    VN_CNS_IOCS_NS = 0x05,
    VN_CNS_IOCS_CTRL = 0x06,
    VN_CNS_IOCS_ACTIVE_NS_LIST = 0x07,
    VN_CNS_IOCS_INDEPENDENT_NS = 0x08,
    VN_CNS_ALLOCATED_NS_LIST = 0x10,
    VN_CNS_ALLOCATED_NS = 0x11,
    VN_CNS_NS_CTRL_LIST = 0x12,
    VN_CNS_CTRL_LIST = 0x13,
    VN_CNS_GRANULARITY = 0x16,
    VN_CNS_UUID_LIST = 0x17,
    VN_CNS_ENDURANCE_GROUPS = 0x19,
    VN_CNS_IOCS_ALLOCATED_NS_LIST = 0x1a,
    VN_CNS_IOCS_ALLOCATED_NS = 0x1b,
    VN_CNS_IOCS_LIST = 0x1c,
};

/* --- Namespace Management and Attachment (Base 5.23, 5.22; NVM Command Set 4.1.6) --- */
enum vn_ns_management { VN_NS_MANAGE_CREATE = 0, VN_NS_MANAGE_DELETE = 1 };
enum vn_ns_attachment { VN_NS_ATTACHMENT_ATTACH = 0, VN_NS_ATTACHMENT_DETACH = 1 };

struct vn_ns_create { /* what a host may say of a new namespace: the fields of Identify Namespace at the same places */
    uint64_t nsze, ncap;
    uint8_t rsvd16[10];
    uint8_t flbas, rsvd27[2], dps, nmic;
    uint8_t rsvd31[61];
    uint32_t anagrpid;
    uint8_t rsvd96[4];
    uint16_t nvmsetid, endgid;
    uint8_t rsvd104[280];
    uint64_t lbstm;
    uint8_t rsvd392[3704];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_ns_create, 4096);

#define VN_CTRL_LIST_MAX 2047u
struct vn_ctrl_list {
    uint16_t nr;
    uint16_t ids[VN_CTRL_LIST_MAX];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_ctrl_list, 4096);

struct vn_power_state {
    uint16_t mp; /* maximum power, in 0.01 W unless MXPS */
    uint8_t rsvd2;
    uint8_t flags;
    uint32_t enlat; /* us */
    uint32_t exlat; /* us */
    uint8_t rrt, rrl, rwt, rwl;
    uint16_t idlp;
    uint8_t ips, rsvd19;
    uint16_t actp;
    uint8_t apws;
    uint8_t rsvd23[9];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_power_state, 32);
#define VN_PSD_MXPS (1u << 0) /* mp is in 0.0001 W */
#define VN_PSD_NOPS (1u << 1) /* no I/O command is processed in it */
#define VN_POWER_STATES 32u

struct vn_id_ctrl {
    uint16_t vid, ssvid;
    char sn[20];
    char mn[40];
    char fr[8];
    uint8_t rab;
    uint8_t ieee[3];
    uint8_t cmic, mdts;
    uint16_t cntlid;
    uint32_t ver, rtd3r, rtd3e, oaes, ctratt;
    uint16_t rrls;
    uint8_t rsvd102[9];
    uint8_t cntrltype;
    uint8_t fguid[16];
    uint16_t crdt[3];
    uint8_t crcap, ciu;  /* CIU, CIRN: which instance of this CNTLID it is (Base 2.2) */
    uint64_t cirn;
    uint8_t rsvd144[109];
    uint8_t nvmsr, vwci, mec;
    uint16_t oacs;
    uint8_t acl, aerl, frmw, lpa, elpe, npss, avscc, apsta;
    uint16_t wctemp, cctemp, mtfa;
    uint32_t hmpre, hmmin;
    uint8_t tnvmcap[16], unvmcap[16];
    uint32_t rpmbs;
    uint16_t edstt;
    uint8_t dsto, fwug;
    uint16_t kas, hctma, mntmt, mxtmt;
    uint32_t sanicap, hmminds;
    uint16_t hmmaxd, nsetidmax, endgidmax;
    uint8_t anatt, anacap;
    uint32_t anagrpmax, nanagrpid, pels;
    uint16_t domainid;
    uint8_t rsvd358[10];
    uint8_t megcap[16];
    uint8_t rsvd384[128];
    uint8_t sqes, cqes;
    uint16_t maxcmd;
    uint32_t nn;
    uint16_t oncs, fuses;
    uint8_t fna, vwc;
    uint16_t awun, awupf;
    uint8_t icsvscc, nwpc;
    uint16_t acwu, ocfs;
    uint32_t sgls, mnan;
    uint8_t maxdna[16];
    uint32_t maxcna, oaqd;
    uint8_t rsvd568[200];
    char subnqn[256];
    uint8_t rsvd1024[768];
    uint32_t ioccsz, iorcsz;
    uint16_t icdoff;
    uint8_t fcatt, msdbd;
    uint16_t ofcs;
    uint8_t rsvd1806[242];
    struct vn_power_state psd[VN_POWER_STATES];
    uint8_t vs[1024];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_id_ctrl, 4096);

struct vn_lbaf {
    uint16_t ms;
    uint8_t lbads; /* log2 of the block size in bytes */
    uint8_t rp;
} VN_PACKED;

struct vn_id_ns {
    uint64_t nsze, ncap, nuse;
    uint8_t nsfeat, nlbaf, flbas, mc, dpc, dps, nmic, rescap, fpi, dlfeat;
    uint16_t nawun, nawupf, nacwu, nabsn, nabo, nabspf, noiob;
    uint8_t nvmcap[16];
    uint16_t npwg, npwa, npdg, npda, nows, mssrl;
    uint32_t mcl;
    uint8_t msrc;
    uint8_t rsvd81[11];
    uint32_t anagrpid;
    uint8_t rsvd96[3];
    uint8_t nsattr;
    uint16_t nvmsetid, endgid;
    uint8_t nguid[16];
    uint8_t eui64[8];
    struct vn_lbaf lbaf[64];
    uint8_t vs[3712];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_id_ns, 4096);

struct vn_id_ctrl_nvm { /* CNS 06h, CSI 00h */
    uint8_t vsl, wzsl, wusl, dmrl;
    uint32_t dmrsl;
    uint64_t dmsl;
    uint8_t rsvd16[4080];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_id_ctrl_nvm, 4096);

struct vn_id_ns_nvm { /* CNS 05h, CSI 00h */
    uint64_t lbstm;
    uint8_t pic;
    uint8_t rsvd9[3];
    uint32_t elbaf[64];
    uint8_t rsvd268[3828];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_id_ns_nvm, 4096);

struct vn_id_ns_independent { /* CNS 08h */
    uint8_t nsfeat, nmic, rescap, fpi;
    uint32_t anagrpid;
    uint8_t nsattr, rsvd9;
    uint16_t nvmsetid, endgid;
    uint8_t nstat;
    uint8_t rsvd15[4081];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_id_ns_independent, 4096);

enum vn_nidt { VN_NIDT_EUI64 = 1, VN_NIDT_NGUID = 2, VN_NIDT_UUID = 3, VN_NIDT_CSI = 4 };

#define VN_OACS_FORMAT (1u << 1)
#define VN_OACS_NS_MANAGEMENT (1u << 3)
#define VN_OACS_DBBUF (1u << 8)
#define VN_OACS_LBA_STATUS (1u << 9)
#define VN_ONCS_COMPARE (1u << 0)
#define VN_ONCS_WRITE_UNCORRECTABLE (1u << 1)
#define VN_ONCS_DSM (1u << 2)
#define VN_ONCS_WRITE_ZEROES (1u << 3)
#define VN_ONCS_SAVE_SELECT (1u << 4)
#define VN_ONCS_RESERVATIONS (1u << 5)
#define VN_ONCS_VERIFY (1u << 7)
#define VN_ONCS_COPY (1u << 8)
#define VN_FUSES_COMPARE_WRITE (1u << 0)
#define VN_OAES_NS_ATTR (1u << 8)
#define VN_OAES_TELEMETRY (1u << 10)

/* --- Features (Base 5.27) --- */
enum vn_feature {
    VN_FEAT_ARBITRATION = 0x01,
    VN_FEAT_POWER = 0x02,
    VN_FEAT_TEMP_THRESHOLD = 0x04,
    VN_FEAT_ERROR_RECOVERY = 0x05,
    VN_FEAT_VWC = 0x06,
    VN_FEAT_NUM_QUEUES = 0x07,
    VN_FEAT_IRQ_COALESCING = 0x08,
    VN_FEAT_IRQ_VECTOR = 0x09,
    VN_FEAT_WRITE_ATOMICITY = 0x0a,
    VN_FEAT_ASYNC_EVENT = 0x0b,
    VN_FEAT_APST = 0x0c,
    VN_FEAT_TIMESTAMP = 0x0e,
    VN_FEAT_KEEP_ALIVE = 0x0f,
    VN_FEAT_HCTM = 0x10,
    VN_FEAT_PERMISSIVE = 0x11,
    VN_FEAT_HOST_BEHAVIOR = 0x16,
    VN_FEAT_SANITIZE = 0x17,
    VN_FEAT_ENDURANCE = 0x18,
    VN_FEAT_IOCS_PROFILE = 0x19,
    VN_FEAT_PROGRESS_MARKER = 0x80,
    VN_FEAT_HOST_ID = 0x81,
    VN_FEAT_RESV_MASK = 0x82,
    VN_FEAT_RESV_PERSISTENCE = 0x83,
    VN_FEAT_WRITE_PROTECT = 0x84,
};
enum vn_feature_select { VN_SEL_CURRENT, VN_SEL_DEFAULT, VN_SEL_SAVED, VN_SEL_CAPABILITIES };

/* --- Log pages (Base 5.16) --- */
enum vn_log_id {
    VN_LOG_SUPPORTED = 0x00,
    VN_LOG_ERROR = 0x01,
    VN_LOG_SMART = 0x02,
    VN_LOG_FIRMWARE = 0x03,
    VN_LOG_CHANGED_NS = 0x04,
    VN_LOG_EFFECTS = 0x05,
    VN_LOG_SELF_TEST = 0x06,
    VN_LOG_TELEMETRY_HOST = 0x07,
    VN_LOG_TELEMETRY_CTRL = 0x08,
    VN_LOG_ENDURANCE = 0x09,
    VN_LOG_EVENTS = 0x0d,
    VN_LOG_LBA_STATUS = 0x0e,
    VN_LOG_ENDURANCE_EVENTS = 0x0f,
    VN_LOG_FEATURES = 0x12,
    VN_LOG_MI_EFFECTS = 0x13,
    VN_LOG_RESERVATION = 0x80,
    VN_LOG_SANITIZE = 0x81,
};

struct vn_log_error {
    uint64_t error_count;
    uint16_t sqid, cid, status_field, parm_error_location;
    uint64_t lba;
    uint32_t nsid;
    uint8_t vs, trtype, rsvd30[2];
    uint64_t cs;
    uint16_t trtype_spec;
    uint8_t rsvd42[22];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_error, 64);

struct vn_log_smart {
    uint8_t critical_warning;
    uint16_t temperature; /* Kelvin */
    uint8_t avail_spare, spare_thresh, percent_used, endu_grp_crit_warn;
    uint8_t rsvd7[25];
    uint64_t data_units_read[2], data_units_written[2]; /* thousands of 512 bytes, rounded up */
    uint64_t host_reads[2], host_writes[2];
    uint64_t ctrl_busy_time[2]; /* minutes */
    uint64_t power_cycles[2], power_on_hours[2], unsafe_shutdowns[2];
    uint64_t media_errors[2], num_err_log_entries[2];
    uint32_t warning_temp_time, critical_comp_time;
    uint16_t temp_sensor[8];
    uint32_t thm_temp1_trans_count, thm_temp2_trans_count;
    uint32_t thm_temp1_total_time, thm_temp2_total_time;
    uint8_t rsvd232[280];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_smart, 512);

struct vn_log_effects {
    uint32_t acs[256];
    uint32_t iocs[256];
    uint8_t rsvd2048[2048];
} VN_PACKED;
VN_ASSERT_SIZE(struct vn_log_effects, 4096);
#define VN_EFFECT_CSUPP (1u << 0)
#define VN_EFFECT_LBCC (1u << 1)
#define VN_EFFECT_NCC (1u << 2)
#define VN_EFFECT_NIC (1u << 3)
#define VN_EFFECT_CCC (1u << 4)
#define VN_EFFECT_CSE_NS (1u << 16) /* no other command of the namespace meanwhile */

/* --- Asynchronous events (Base 5.2.1) --- */
enum vn_aen_type { VN_AEN_ERROR = 0, VN_AEN_SMART = 1, VN_AEN_NOTICE = 2, VN_AEN_IO = 6 };
#define VN_NR_AEN_TYPES 7u
enum vn_aen_error_info {
    VN_AEN_ERROR_DB_REGISTER = 0x00, /* write to an invalid doorbell register */
    VN_AEN_ERROR_DB_VALUE = 0x01,    /* invalid doorbell write value */
    VN_AEN_ERROR_DIAGNOSTIC = 0x02,  /* diagnostic failure */
    VN_AEN_ERROR_PERSISTENT = 0x03,
};
enum vn_aen_smart_info { VN_AEN_SMART_RELIABILITY = 0x00, VN_AEN_SMART_TEMPERATURE = 0x01, VN_AEN_SMART_SPARE = 0x02 };
enum vn_aen_notice_info {
    VN_AEN_NOTICE_NS_ATTR = 0x00,
    VN_AEN_NOTICE_FIRMWARE = 0x01,
    VN_AEN_NOTICE_TELEMETRY = 0x02,
    VN_AEN_NOTICE_ENDURANCE = 0x06,
};
enum vn_aen_io_info { VN_AEN_IO_RESERVATION = 0x00, VN_AEN_IO_SANITIZED = 0x01 };

#endif
