/* The PCI device behind the connection: open and close, regions, doorbell page, DMA maps, interrupts, reset.
 * Called through vhostnvme_host.h. Nothing here knows of NVMe but where doorbells are.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/nvme_host.h"

#define DEFAULT_TIMEOUT_MS 5000u
#define DEFAULT_MEMORY_BYTES (64ull << 20)
#define DEFAULT_IOVA (4ull << 30)
#define INFO_BYTES 4096u      /* room for a region's capabilities */
#define MAX_AREA_BYTES (16ull << 20)
#define PCI_COMMAND 4
#define PCI_COMMAND_MEMORY_AND_MASTER 0x6
#define PCI_CAPABILITIES 0x34
#define PCI_CAP_MSIX 0x11
#define PCI_MAX_CAPS 48 /* what 256 bytes hold: ends a list that bites its tail */
#define MSIX_CONTROL 2  /* within the capability */
#define MSIX_ENABLE 0x8000

static int request(struct vn_host *host, uint16_t command, const void *payload, uint32_t len, struct vn_host_reply *reply) {
    const struct vn_host_part parts[2] = {{payload, len}, {NULL, 0}};

    return vn_host_conn_request(&host->conn, command, parts, NULL, 0, reply);
}

/* --- Regions --- */

int vn_host_region_read(vn_host *host, uint32_t region, uint64_t offset, void *buf, uint32_t len) {
    struct vn_vu_region_access access = {.offset = offset, .region = region, .count = len}, answer;
    uint8_t small[sizeof(access) + 64];
    uint8_t *room = small;
    struct vn_host_reply reply;
    int rc;

    if (len > host->conn.max_transfer_bytes)
        return vn_host_fail(EINVAL, "%u bytes are more than the server takes in one message", len);
    if (len > sizeof(small) - sizeof(access)) {
        room = malloc(sizeof(access) + len);
        if (!room)
            return vn_host_fail(ENOMEM, "no memory for a region read of %u bytes", len);
    }
    reply = (struct vn_host_reply){.data = room, .size = (uint32_t)sizeof(access) + len};
    rc = request(host, VN_VU_REGION_READ, &access, sizeof(access), &reply);
    if (rc == 0) {
        vn_host_close_fds(reply.fds, reply.nr_fds);
        memset(&answer, 0, sizeof(answer));
        if (reply.len >= sizeof(answer))
            memcpy(&answer, room, sizeof(answer));
        if (len && (reply.len != sizeof(answer) + len || answer.count != len))
            rc = vn_host_fail(EPROTO, "the server answered a region read of %u bytes with %u", len, reply.len);
        else
            memcpy(buf, room + sizeof(answer), len);
    }
    if (room != small)
        free(room);
    return rc;
}

int vn_host_region_write(vn_host *host, uint32_t region, uint64_t offset, const void *buf, uint32_t len, uint32_t posted) {
    struct vn_vu_region_access access = {.offset = offset, .region = region, .count = len};
    const struct vn_host_part parts[2] = {{&access, sizeof(access)}, {buf, len}};

    if (len > host->conn.max_transfer_bytes)
        return vn_host_fail(EINVAL, "%u bytes are more than the server takes in one message", len);
    if (posted)
        return vn_host_conn_post(&host->conn, VN_VU_REGION_WRITE, parts);
    return vn_host_conn_request(&host->conn, VN_VU_REGION_WRITE, parts, NULL, 0, NULL);
}

static bool register_width(uint32_t width) {
    return width == 1 || width == 2 || width == 4 || width == 8;
}

int vn_host_reg_read(vn_host *host, uint64_t offset, uint32_t width, uint64_t *value) {
    *value = 0;
    if (!register_width(width))
        return vn_host_fail(EINVAL, "a register has 1, 2, 4 or 8 bytes, not %u", width);
    return vn_host_region_read(host, VN_VU_REGION_BAR0, offset, value, width);
}

int vn_host_reg_write(vn_host *host, uint64_t offset, uint32_t width, uint64_t value) {
    if (!register_width(width))
        return vn_host_fail(EINVAL, "a register has 1, 2, 4 or 8 bytes, not %u", width);
    return vn_host_region_write(host, VN_VU_REGION_BAR0, offset, &value, width, 0);
}

int vn_host_db_send(struct vn_host *host, uint32_t bar_offset, uint32_t value) {
    host->nr_db_messages++;
    return vn_host_region_write(host, VN_VU_REGION_BAR0, bar_offset, &value, sizeof(value),
                                !(host->flags & VN_HOST_SYNC_DOORBELLS));
}

int vn_host_doorbell_write(vn_host *host, uint64_t bar_offset, uint32_t value) {
    if (host->db_map && bar_offset % 4 == 0 && bar_offset >= host->db_area_offset &&
        bar_offset - host->db_area_offset <= host->db_area_size - 4) {
        char *at = (char *)host->db_map + (bar_offset - host->db_area_offset);

        host->nr_db_stores++;
        __atomic_store_n((volatile uint32_t *)(void *)at, value, __ATOMIC_RELEASE);
        return 0;
    }
    host->nr_db_messages++;
    return vn_host_region_write(host, VN_VU_REGION_BAR0, bar_offset, &value, sizeof(value),
                                !(host->flags & VN_HOST_SYNC_DOORBELLS));
}

/* The reply's descriptors are the caller's. */
static int region_info(struct vn_host *host, uint32_t index, struct vn_host_region *region, struct vn_host_reply *reply) {
    struct vn_vu_region_info info = {.argsz = INFO_BYTES, .index = index};
    struct vn_vu_area area = {0, 0};
    int rc = request(host, VN_VU_GET_REGION_INFO, &info, sizeof(info), reply);

    if (rc < 0)
        return rc;
    if (reply->len > reply->size || vn_host_parse_sparse(reply->data, reply->len, &region->nr_areas, &area) < 0) {
        vn_host_close_fds(reply->fds, reply->nr_fds);
        return vn_host_fail(EPROTO, "the server's description of region %u is malformed", index);
    }
    memcpy(&info, reply->data, sizeof(info));
    region->size = info.size;
    region->offset = info.offset;
    region->flags = info.flags;
    region->area_offset = area.offset;
    region->area_size = area.size;
    return 0;
}

int vn_host_get_region(vn_host *host, uint32_t index, struct vn_host_region *region) {
    uint8_t room[INFO_BYTES];
    struct vn_host_reply reply = {.data = room, .size = sizeof(room)};
    int rc;

    memset(region, 0, sizeof(*region));
    rc = region_info(host, index, region, &reply);
    if (rc == 0)
        vn_host_close_fds(reply.fds, reply.nr_fds);
    return rc;
}

/* Maps the first sparse area of BAR0 if it is a sound place for doorbells; else they stay trapped. */
static int map_doorbells(struct vn_host *host) {
    uint8_t room[INFO_BYTES];
    struct vn_host_reply reply = {.data = room, .size = sizeof(room)};
    struct vn_host_region bar;
    struct stat st;
    int rc;

    memset(&bar, 0, sizeof(bar));
    rc = region_info(host, VN_VU_REGION_BAR0, &bar, &reply);
    if (rc < 0)
        return rc;
    if (bar.size <= VN_REG_DBS) {
        rc = vn_host_fail(EPROTO, "BAR0 has %llu bytes: this is no NVMe controller", (unsigned long long)bar.size);
        goto out;
    }
    if ((host->flags & VN_HOST_TRAP_DOORBELLS) || !(bar.flags & VN_VU_REGION_MMAP) || !bar.nr_areas || !reply.nr_fds)
        goto out;
    if (bar.area_offset % VN_HOST_PAGE || bar.area_size < 8 || bar.area_size > MAX_AREA_BYTES || bar.area_offset > bar.size ||
        bar.area_size > bar.size - bar.area_offset || bar.offset > INT64_MAX - bar.size || bar.area_offset > VN_REG_DBS ||
        bar.area_offset + bar.area_size < VN_REG_DBS + 8 || fstat(reply.fds[0], &st) < 0 ||
        (S_ISREG(st.st_mode) && (uint64_t)st.st_size < bar.offset + bar.area_offset + bar.area_size)) {
        rc = vn_host_fail(EPROTO, "the mappable area of BAR0 is malformed");
        goto out;
    }
    host->db_map = mmap(NULL, bar.area_size, PROT_READ | PROT_WRITE, MAP_SHARED, reply.fds[0],
                        (off_t)(bar.offset + bar.area_offset));
    if (host->db_map == MAP_FAILED) {
        host->db_map = NULL;
        rc = vn_host_fail(errno, "cannot map the doorbells: %s", strerror(errno));
        goto out;
    }
    host->db_area_offset = bar.area_offset;
    host->db_area_size = bar.area_size;
out:
    vn_host_close_fds(reply.fds, reply.nr_fds);
    return rc;
}

/* --- DMA --- */

int vn_host_dma_map(vn_host *host, uint64_t mem_offset, uint64_t iova, uint64_t size, uint32_t flags, uint32_t with_fd) {
    struct vn_vu_dma_map map = {
        .argsz = sizeof(map), .flags = flags, .offset = with_fd ? mem_offset : 0, .addr = iova, .size = size};
    const struct vn_host_part parts[2] = {{&map, sizeof(map)}, {NULL, 0}};

    return vn_host_conn_request(&host->conn, VN_VU_DMA_MAP, parts, &host->memfd, with_fd ? 1 : 0, NULL);
}

int vn_host_dma_unmap(vn_host *host, uint64_t iova, uint64_t size) {
    struct vn_vu_dma_unmap unmap = {.argsz = sizeof(unmap), .addr = iova, .size = size};
    const struct vn_host_part parts[2] = {{&unmap, sizeof(unmap)}, {NULL, 0}};

    if (iova == 0 && size == 0)
        unmap.flags = VN_VU_UNMAP_ALL;
    return vn_host_conn_request(&host->conn, VN_VU_DMA_UNMAP, parts, &host->memfd,
                                host->flags & VN_HOST_UNMAP_WITH_FD ? 1 : 0, NULL);
}

static int map_memory(struct vn_host *host, uint64_t chunk) {
    if (host->flags & VN_HOST_NO_MAP)
        return 0;
    if (chunk == 0 || chunk > host->mem_bytes)
        chunk = host->mem_bytes;
    for (uint64_t at = 0; at < host->mem_bytes; at += chunk) {
        uint64_t size = host->mem_bytes - at < chunk ? host->mem_bytes - at : chunk;
        int rc = vn_host_dma_map(host, at, host->iova_base + at, size, 3, !(host->flags & VN_HOST_MAP_WITHOUT_FD));

        if (rc < 0 && host->conn.server_refused && at)
            return vn_host_fail(-rc, "the server took %llu regions of memory and refused the next; share less memory, or larger"
                                " regions", (unsigned long long)(at / chunk));
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* --- Interrupts --- */

int vn_host_irqs_set(vn_host *host, uint32_t type, uint32_t flags, uint32_t start, uint32_t count, const int32_t *fds,
                     uint32_t nr_fds) {
    struct vn_vu_irq_set set = {.argsz = (uint32_t)(sizeof(set) + 4 * nr_fds), .flags = flags, .index = type, .start = start,
                                .count = count};
    const struct vn_host_part parts[2] = {{&set, sizeof(set)}, {NULL, 0}};

    return vn_host_conn_request(&host->conn, VN_VU_SET_IRQS, parts, fds, nr_fds, NULL);
}

static void close_irq_fds(struct vn_host *host) {
    vn_host_close_fds(host->irq_fds, host->nr_irq_fds);
    free(host->irq_fds);
    host->irq_fds = NULL;
    host->nr_irq_fds = 0;
}

/* Message Control, bit 15, as a driver sets it. A device without the capability is left alone. */
static int set_msix(struct vn_host *host, bool on) {
    uint8_t at = 0, cap[4];
    int rc = vn_host_region_read(host, VN_VU_REGION_CONFIG, PCI_CAPABILITIES, &at, sizeof(at));

    for (int i = 0; rc == 0 && at >= 0x40 && i < PCI_MAX_CAPS; i++, at = cap[1]) {
        uint16_t control;

        at &= 0xfc;
        rc = vn_host_region_read(host, VN_VU_REGION_CONFIG, at, cap, sizeof(cap));
        if (rc < 0 || cap[0] != PCI_CAP_MSIX)
            continue;
        memcpy(&control, cap + MSIX_CONTROL, sizeof(control));
        control = on ? control | MSIX_ENABLE : control & (uint16_t)~MSIX_ENABLE;
        return vn_host_region_write(host, VN_VU_REGION_CONFIG, at + MSIX_CONTROL, &control, sizeof(control), 0);
    }
    return rc;
}

int vn_host_irqs_enable(vn_host *host, uint32_t type, uint32_t count) {
    uint32_t chunk = host->conn.max_fds;
    int rc = 0;

    if (count == 0 || count > VN_HOST_MAX_VECTORS)
        return vn_host_fail(EINVAL, "%u interrupt vectors: 1 to %u are possible", count, VN_HOST_MAX_VECTORS);
    close_irq_fds(host);
    host->irq_fds = malloc(count * sizeof(int));
    if (!host->irq_fds)
        return vn_host_fail(ENOMEM, "no memory for %u interrupts", count);
    for (; host->nr_irq_fds < count; host->nr_irq_fds++) {
        host->irq_fds[host->nr_irq_fds] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (host->irq_fds[host->nr_irq_fds] < 0) {
            rc = vn_host_fail(errno, "cannot make %u eventfds: %s", count, strerror(errno));
            goto fail;
        }
    }
    for (uint32_t i = 0; i < count; i += chunk) {
        uint32_t nr = count - i < chunk ? count - i : chunk;

        rc = vn_host_irqs_set(host, type, VN_VU_IRQ_DATA_EVENTFD | VN_VU_IRQ_TRIGGER, i, nr, host->irq_fds + i, nr);
        if (rc < 0)
            goto fail;
    }
    rc = type == VN_VU_IRQ_MSIX ? set_msix(host, true) : 0;
    if (rc == 0)
        return 0;
fail:
    close_irq_fds(host);
    return rc;
}

int vn_host_irqs_disable(vn_host *host, uint32_t type) {
    int rc = type == VN_VU_IRQ_MSIX ? set_msix(host, false) : 0;

    close_irq_fds(host);
    if (rc < 0)
        return rc;
    return vn_host_irqs_set(host, type, VN_VU_IRQ_DATA_NONE | VN_VU_IRQ_TRIGGER, 0, 0, NULL, 0);
}

int vn_host_irq_fd(vn_host *host, uint32_t vector, int32_t *fd) {
    if (vector >= host->nr_irq_fds)
        return vn_host_fail(EINVAL, "vector %u has no eventfd: enable interrupts first", vector);
    *fd = host->irq_fds[vector];
    return 0;
}

int vn_host_irq_wait(vn_host *host, uint32_t vector, uint32_t timeout_us, uint64_t *count) {
    uint64_t deadline = vn_host_now_ns() + timeout_us * 1000ull;
    int32_t fd = -1;
    int rc = vn_host_irq_fd(host, vector, &fd);

    if (rc < 0)
        return rc;
    for (;;) {
        uint64_t now = vn_host_now_ns();
        uint64_t left = now < deadline ? deadline - now : 0;
        struct timespec ts = {.tv_sec = (time_t)(left / 1000000000), .tv_nsec = (long)(left % 1000000000)};
        struct pollfd pfd = {.fd = fd, .events = POLLIN};

        if (read(fd, count, sizeof(*count)) == (ssize_t)sizeof(*count))
            return 0;
        if (left == 0)
            return vn_host_fail(ETIMEDOUT, "interrupt %u did not come within %u us", vector, timeout_us);
        if (ppoll(&pfd, 1, &ts, NULL) < 0 && errno != EINTR)
            return vn_host_fail(errno, "cannot wait for interrupt %u: %s", vector, strerror(errno));
    }
}

static int irq_count(struct vn_host *host, uint32_t type, uint32_t *count) {
    struct vn_vu_irq_info info = {.argsz = sizeof(info), .index = type}, answer;
    struct vn_host_reply reply = {.data = &answer, .size = sizeof(answer)};
    int rc;

    *count = 0;
    if (type >= host->nr_irq_types)
        return 0;
    rc = request(host, VN_VU_GET_IRQ_INFO, &info, sizeof(info), &reply);
    if (rc < 0)
        return rc;
    vn_host_close_fds(reply.fds, reply.nr_fds);
    if (reply.len < sizeof(answer) || answer.index != type)
        return vn_host_fail(EPROTO, "the server's description of interrupt type %u is malformed", type);
    *count = answer.count;
    return 0;
}

/* --- The handle --- */

int vn_host_device_reset(vn_host *host) {
    int rc = request(host, VN_VU_RESET, NULL, 0, NULL);

    vn_host_forget_queues(host);
    return rc;
}

static int device_info(struct vn_host *host) {
    struct vn_vu_device_info info = {.argsz = sizeof(info)};
    struct vn_host_reply reply = {.data = &info, .size = sizeof(info)};
    struct vn_vu_device_info ask = info;
    int rc = request(host, VN_VU_GET_INFO, &ask, sizeof(ask), &reply);

    if (rc < 0)
        return rc;
    vn_host_close_fds(reply.fds, reply.nr_fds);
    if (reply.len < sizeof(info) || info.nr_regions <= VN_VU_REGION_CONFIG)
        return vn_host_fail(EPROTO, "the server's device is no PCI device");
    host->nr_regions = info.nr_regions;
    host->nr_irq_types = info.nr_irqs;
    rc = irq_count(host, VN_VU_IRQ_INTX, &host->nr_intx);
    return rc < 0 ? rc : irq_count(host, VN_VU_IRQ_MSIX, &host->nr_msix);
}

static int bring_up(struct vn_host *host, const struct vn_host_opts *opts) {
    uint16_t command = 0;
    int rc;

    rc = vn_host_conn_negotiate(&host->conn, (host->flags & VN_HOST_VERSION_BARE) != 0);
    if (rc == 0)
        rc = device_info(host);
    if (rc == 0)
        rc = map_doorbells(host);
    if (rc == 0)
        rc = vn_host_region_read(host, VN_VU_REGION_CONFIG, PCI_COMMAND, &command, sizeof(command));
    if (rc == 0) {
        command |= PCI_COMMAND_MEMORY_AND_MASTER;
        rc = vn_host_region_write(host, VN_VU_REGION_CONFIG, PCI_COMMAND, &command, sizeof(command), 0);
    }
    if (rc == 0)
        rc = vn_host_memory_init(host, opts->memory_bytes ? opts->memory_bytes : DEFAULT_MEMORY_BYTES);
    if (rc == 0)
        rc = vn_host_alloc(host, VN_HOST_PRP_SCRATCH, &host->prp_scratch);
    if (rc == 0)
        rc = map_memory(host, opts->map_chunk_bytes);
    if (rc == 0)
        rc = vn_host_reg_read(host, VN_REG_CAP, 8, &host->cap);
    return rc;
}

int vn_host_open(const char *socket_path, const struct vn_host_opts *opts, vn_host **out) {
    static const struct vn_host_opts defaults;
    struct vn_host *host;
    int rc;

    *out = NULL;
    opts = opts ? opts : &defaults;
    if (opts->iova_base % VN_HOST_PAGE || opts->map_chunk_bytes % VN_HOST_PAGE)
        return vn_host_fail(EINVAL, "iova_base and map_chunk_bytes must be multiples of %u", VN_HOST_PAGE);
    host = calloc(1, sizeof(*host));
    if (!host)
        return vn_host_fail(ENOMEM, "no memory for a host");
    host->memfd = -1;
    host->flags = opts->flags;
    host->iova_base = opts->iova_base ? opts->iova_base : DEFAULT_IOVA;
    rc = vn_host_conn_open(&host->conn, socket_path, opts->timeout_ms ? opts->timeout_ms : DEFAULT_TIMEOUT_MS);
    if (rc == 0) {
        host->conn.id_is_zero = (opts->flags & VN_HOST_MSG_ID_ZERO) != 0;
        rc = bring_up(host, opts);
    }
    if (rc < 0) {
        vn_host_close(host);
        return rc;
    }
    *out = host;
    return 0;
}

void vn_host_close(vn_host *host) {
    if (!host)
        return;
    vn_host_conn_close(&host->conn);
    vn_host_forget_queues(host);
    close_irq_fds(host);
    if (host->db_map)
        munmap(host->db_map, host->db_area_size);
    vn_host_memory_fini(host);
    free(host);
}

int vn_host_get_info(vn_host *host, struct vn_host_info *info) {
    *info = (struct vn_host_info){
        .memory_bytes = host->mem_bytes,
        .iova_base = host->iova_base,
        .cap = host->cap,
        .doorbells_mapped = host->db_map != NULL,
        .shadow_doorbells = host->shadow,
        .nr_regions = host->nr_regions,
        .nr_irqs = host->nr_irq_types,
        .nr_intx = host->nr_intx,
        .nr_msix = host->nr_msix,
        .max_msg_fds = host->conn.max_fds,
        .max_transfer_bytes = host->conn.max_transfer_bytes,
        .version_minor = host->conn.minor,
        .server_pid = host->conn.peer_pid,
        .nr_doorbell_stores = host->nr_db_stores,
        .nr_doorbell_messages = host->nr_db_messages,
    };
    return 0;
}

int vn_host_raw_send(vn_host *host, const void *bytes, uint32_t len, const int32_t *fds, uint32_t nr_fds) {
    return vn_host_conn_send_bytes(&host->conn, bytes, len, fds, nr_fds,
                                   vn_host_now_ns() + host->conn.timeout_ms * 1000000ull);
}

int vn_host_raw_recv(vn_host *host, void *bytes, uint32_t len, uint32_t timeout_ms, uint32_t *received) {
    size_t n = 0;
    int rc = vn_host_conn_recv_some(&host->conn, bytes, len, vn_host_now_ns() + timeout_ms * 1000000ull, &n);

    *received = (uint32_t)n;
    return rc;
}

int vn_host_message(vn_host *host, uint16_t command, const void *payload, uint32_t len, const int32_t *fds, uint32_t nr_fds,
                    void *reply_data, uint32_t reply_size, uint32_t *reply_len) {
    const struct vn_host_part parts[2] = {{payload, len}, {NULL, 0}};
    struct vn_host_reply reply = {.data = reply_data, .size = reply_size};
    int rc = vn_host_conn_request(&host->conn, command, parts, fds, nr_fds, &reply);

    if (reply_len)
        *reply_len = reply.len;
    if (rc == 0)
        vn_host_close_fds(reply.fds, reply.nr_fds);
    return rc;
}
