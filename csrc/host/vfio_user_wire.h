/* The vfio-user wire format, as a client needs it: message header, payloads, numbers. Owns no code.
 * Source: the vfio-user protocol specification, version 0.0 / 0.1. Little-endian, as the NVMe structures.
 */
#ifndef VN_HOST_VFIO_USER_WIRE_H
#define VN_HOST_VFIO_USER_WIRE_H

#include <stdint.h>

#define VN_VU_PACKED __attribute__((packed))

enum vn_vu_command {
    VN_VU_VERSION = 1,
    VN_VU_DMA_MAP = 2,
    VN_VU_DMA_UNMAP = 3,
    VN_VU_GET_INFO = 4,
    VN_VU_GET_REGION_INFO = 5,
    VN_VU_GET_IRQ_INFO = 7,
    VN_VU_SET_IRQS = 8,
    VN_VU_REGION_READ = 9,
    VN_VU_REGION_WRITE = 10,
    VN_VU_DMA_READ = 11,
    VN_VU_DMA_WRITE = 12,
    VN_VU_RESET = 13,
};

#define VN_VU_TYPE_MASK 0xfu
#define VN_VU_TYPE_COMMAND 0x0u
#define VN_VU_TYPE_REPLY 0x1u
#define VN_VU_NO_REPLY 0x10u
#define VN_VU_ERROR 0x20u

struct vn_vu_header {
    uint16_t id;
    uint16_t command;
    uint32_t size; /* with this header */
    uint32_t flags;
    uint32_t error;
} VN_VU_PACKED;
_Static_assert(sizeof(struct vn_vu_header) == 16, "vfio-user header");

struct vn_vu_version {
    uint16_t major;
    uint16_t minor;
} VN_VU_PACKED;

struct vn_vu_device_info {
    uint32_t argsz;
    uint32_t flags;
    uint32_t nr_regions;
    uint32_t nr_irqs;
} VN_VU_PACKED;

struct vn_vu_region_info {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t cap_offset; /* from the start of this structure */
    uint64_t size;
    uint64_t offset;
} VN_VU_PACKED;
_Static_assert(sizeof(struct vn_vu_region_info) == 32, "vfio-user region info");
#define VN_VU_REGION_MMAP 0x4u
#define VN_VU_REGION_CAPS 0x8u

struct vn_vu_cap {
    uint16_t id;
    uint16_t version;
    uint32_t next; /* from the start of the region info */
} VN_VU_PACKED;
#define VN_VU_CAP_SPARSE_MMAP 1

struct vn_vu_sparse {
    struct vn_vu_cap cap;
    uint32_t nr_areas;
    uint32_t reserved;
} VN_VU_PACKED;

struct vn_vu_area {
    uint64_t offset;
    uint64_t size;
} VN_VU_PACKED;

struct vn_vu_irq_info {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t count;
} VN_VU_PACKED;

struct vn_vu_irq_set {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t start;
    uint32_t count;
} VN_VU_PACKED;
#define VN_VU_IRQ_DATA_NONE 0x1u
#define VN_VU_IRQ_DATA_EVENTFD 0x4u
#define VN_VU_IRQ_TRIGGER 0x20u

struct vn_vu_region_access {
    uint64_t offset;
    uint32_t region;
    uint32_t count;
} VN_VU_PACKED;

struct vn_vu_dma_map {
    uint32_t argsz;
    uint32_t flags;
    uint64_t offset;
    uint64_t addr;
    uint64_t size;
} VN_VU_PACKED;

struct vn_vu_dma_unmap {
    uint32_t argsz;
    uint32_t flags;
    uint64_t addr;
    uint64_t size;
} VN_VU_PACKED;
#define VN_VU_UNMAP_ALL 0x2u

enum { VN_VU_REGION_BAR0 = 0, VN_VU_REGION_CONFIG = 7 };
enum { VN_VU_IRQ_INTX = 0, VN_VU_IRQ_MSIX = 2 };

#endif
