/* A hostile client of a real device: messages of every kind with descriptors of every kind, good and broken, memory that
 * is shared, shortened and taken away, commands in it, and a disconnect at any moment. libvfio-user is sanitised too.
 * A device for each input; whatever the client did, it lets go of it, and a well-behaved client can attach.
 */
#include "fuzz_input.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/nvme.h"
#include "host/vfio_user_wire.h"
#include "include/vhostnvme.h"

#define PAGE 4096u
#define NR_FILES 4u
#define FILE_BYTES (64 * PAGE)
#define MAX_MESSAGES 64
#define REPLY_WAIT_MS 200
#define ASQ 0x1000u
#define ACQ 0x2000u
#define SQ 0x3000u
#define CQ 0x4000u
#define ENTRIES 16u

static vn_runtime *rt;
static vn_ns *spaces[3];
static char path[64];

static struct client {
    int sock, event;
    int files[NR_FILES];
    uint8_t *ram; /* the first file, which has nobody's pages cut off but by us */
    uint32_t tail[2];
    uint16_t id;
    bool gone;
} client;

static char folder[64];

static void remove_folder(void) {
    unlink(path);
    rmdir(folder);
}

static void setup(void) {
    static const struct vn_ns_opts opts[3] = {
        {.backend = "mem", .size = 1 << 18, .block_size = 512},
        {.backend = "mem", .size = 1 << 18, .block_size = 4096, .delay_us = 100},
        {.backend = "null", .size = 1ull << 40, .block_size = 512, .delay_us = 2000},
    };
    snprintf(folder, sizeof(folder), "/tmp/vn-fuzz-XXXXXX");
    MUST(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/cntrl", folder);
    atexit(remove_folder);
    MUST(vn_runtime_create(&(struct vn_runtime_opts){.poll_us = 20}, &rt) == 0);
    for (int i = 0; i < 3; i++)
        MUST(vn_ns_open(rt, &opts[i], &spaces[i]) == 0);
}

/* --- The wire --- */
static void send_bytes(const void *bytes, size_t len, const int *fds, uint32_t nr_fds) {
    struct iovec iov = {(void *)(uintptr_t)bytes, len};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(16 * sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nr_fds && len) {
        control.header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(nr_fds * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), fds, nr_fds * sizeof(int));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(nr_fds * sizeof(int));
    }
    if (!client.gone && sendmsg(client.sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN)
        client.gone = true;
}

/* Reads what has come; waits for something to come if there is to be an answer. */
static void read_replies(bool wait) {
    static uint8_t buf[65536];
    struct pollfd pollfd = {.fd = client.sock, .events = POLLIN};
    while (!client.gone && poll(&pollfd, 1, wait ? REPLY_WAIT_MS : 0) == 1) {
        ssize_t got = recv(client.sock, buf, sizeof(buf), MSG_DONTWAIT);
        client.gone = got == 0 || (got < 0 && errno != EAGAIN);
        wait = false;
    }
}

static void message(uint16_t command, uint32_t flags, const void *payload, uint32_t len, const int *fds, uint32_t nr_fds) {
    static uint8_t buf[sizeof(struct vn_vu_header) + 8192];
    struct vn_vu_header header = {
        .id = client.id++, .command = command, .size = (uint32_t)sizeof(header) + len, .flags = flags};
    memcpy(buf, &header, sizeof(header));
    memcpy(buf + sizeof(header), payload, len);
    send_bytes(buf, sizeof(header) + len, fds, nr_fds);
    read_replies(!(flags & VN_VU_NO_REPLY));
}

static void write_region(uint32_t region, uint64_t offset, const void *data, uint32_t count, bool posted) {
    uint8_t payload[sizeof(struct vn_vu_region_access) + 64];
    struct vn_vu_region_access access = {.offset = offset, .region = region, .count = count};
    memcpy(payload, &access, sizeof(access));
    memcpy(payload + sizeof(access), data, count);
    message(VN_VU_REGION_WRITE, posted ? VN_VU_NO_REPLY : 0, payload, (uint32_t)sizeof(access) + count, NULL, 0);
}

static void write_reg(uint64_t offset, uint64_t value, uint32_t count) {
    write_region(VN_VU_REGION_BAR0, offset, &value, count, offset >= VN_REG_DBS);
}

static int take_fd(struct input *input) {
    uint8_t kind = take8(input);
    return kind < 200 ? client.files[kind % NR_FILES] : kind < 240 ? client.event : client.sock;
}

/* --- What a client does --- */
static void version(struct input *input) {
    static const char *const words[] = {
        "", "{}", "{\"capabilities\":{}}", "{\"capabilities\":{\"max_msg_fds\":8}}",
        "{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576,\"migration\":{\"pgsize\":4096}}}",
        "{\"capabilities\":{\"max_msg_fds\":99999}}", "{\"capabilities\":{\"max_msg_fds\":-1}}",
        "{\"capabilities\":[1,2]}", "{\"capabilities\":{\"migration\":{\"pgsize\":3}}}", "[", "{\"capabilities\":",
        "{\"capabilities\":{\"max_msg_fds\":\"x\"}}", "{\"capabilities\":{\"migration\":7}}", "null",
    };
    uint8_t payload[256] = {0};
    uint8_t which = take8(input);
    struct vn_vu_version hello = {.major = 0, .minor = 1};
    uint32_t len = sizeof(hello);
    if (which >= 240) {
        hello.major = take8(input);
        hello.minor = take8(input);
    }
    const char *text = words[which % (sizeof(words) / sizeof(words[0]))];
    if (which & 0x40) {
        strcpy((char *)payload + len, text);
        len += (uint32_t)strlen(text) + (which & 0x20 ? 0 : 1); /* or without its end */
    } else if (which & 0x80) {
        uint32_t n = take8(input) % 128;
        take_bytes(input, payload + len, n);
        len += n;
    }
    memcpy(payload, &hello, sizeof(hello));
    message(VN_VU_VERSION, 0, payload, len, NULL, 0);
}

static const uint64_t sizes[] = {FILE_BYTES, PAGE, 2 * PAGE, FILE_BYTES / 2, FILE_BYTES * 2, 0, 1, PAGE + 1, 1ull << 62};

static uint64_t take_size(struct input *input) {
    uint8_t which = take8(input);
    return which < 240 ? sizes[which % 9] : take(input, 8);
}

static uint64_t take_address(struct input *input) {
    uint8_t which = take8(input);
    return which < 200 ? (uint64_t)(which % 4) * FILE_BYTES : which < 240 ? (uint64_t)which * PAGE : take(input, 8);
}

static void dma_map(struct input *input) {
    struct vn_vu_dma_map map = {.argsz = sizeof(map), .flags = 3, .addr = take_address(input), .size = take_size(input)};
    uint8_t kind = take8(input);
    if (kind & 1)
        map.flags = take8(input) % 8;
    if (kind & 2)
        map.offset = kind & 4 ? take(input, 2) : (uint64_t)take8(input) * PAGE;
    if (kind & 8)
        map.argsz = take8(input);
    int fds[2] = {take_fd(input), client.event};
    message(VN_VU_DMA_MAP, 0, &map, kind & 16 ? kind % sizeof(map) : sizeof(map), fds, (kind >> 5) % 3 == 2 ? 0 : 1 + (kind == 255));
}

static void dma_unmap(struct input *input) {
    uint8_t payload[sizeof(struct vn_vu_dma_unmap) + 32] = {0};
    struct vn_vu_dma_unmap unmap = {.argsz = sizeof(unmap), .addr = take_address(input), .size = take_size(input)};
    uint8_t kind = take8(input);
    uint32_t len = sizeof(unmap);
    if (kind & 1)
        unmap = (struct vn_vu_dma_unmap){.argsz = sizeof(unmap), .flags = VN_VU_UNMAP_ALL};
    if (kind & 2) {
        unmap.flags = take8(input) % 8;
        unmap.argsz = (uint32_t)take(input, 4);
        take_bytes(input, payload + len, 32);
        len += take8(input) % 33;
    }
    memcpy(payload, &unmap, sizeof(unmap));
    int fd = take_fd(input);
    message(VN_VU_DMA_UNMAP, 0, payload, len, &fd, kind & 4 ? 1 : 0);
}

static void set_irqs(struct input *input) {
    uint8_t payload[sizeof(struct vn_vu_irq_set) + 64] = {0};
    uint8_t kind = take8(input);
    struct vn_vu_irq_set set = {
        .argsz = sizeof(set),
        .flags = kind & 1 ? take8(input) % 64 : VN_VU_IRQ_DATA_EVENTFD | VN_VU_IRQ_TRIGGER,
        .index = take8(input) % 6,
        .start = kind & 2 ? (uint32_t)take(input, 4) : take8(input) % 70,
        .count = kind & 4 ? (uint32_t)take(input, 4) : take8(input) % 70,
    };
    if (kind & 8)
        set.argsz = (uint32_t)take(input, 4);
    uint32_t data = kind & 16 ? set.count % 65 : 0, nr_fds = take8(input) % 10;
    int fds[16];
    for (uint32_t i = 0; i < nr_fds; i++)
        fds[i] = kind & 32 ? take_fd(input) : client.event;
    memcpy(payload, &set, sizeof(set));
    take_bytes(input, payload + sizeof(set), data);
    message(VN_VU_SET_IRQS, 0, payload, (uint32_t)sizeof(set) + data, fds, nr_fds);
}

static void region_access(struct input *input) {
    uint8_t kind = take8(input), data[64] = {0};
    uint32_t region = kind & 1 ? VN_VU_REGION_BAR0 : kind & 2 ? VN_VU_REGION_CONFIG : take8(input) % 12;
    uint64_t offset = kind & 4 ? take(input, 8) : take(input, 2) % (region == VN_VU_REGION_CONFIG ? 4096 : 16384);
    uint32_t count = kind & 8 ? take8(input) : kind & 16 ? 8 : 4;
    if (kind & 32 && region == VN_VU_REGION_CONFIG)
        offset &= 0xff; /* where the capabilities are */
    if (kind & 64) {
        struct vn_vu_region_access access = {.offset = offset, .region = region, .count = count};
        message(VN_VU_REGION_READ, 0, &access, sizeof(access), NULL, 0);
        return;
    }
    count %= 65;
    take_bytes(input, data, count < 8 ? count : 8);
    write_region(region, offset, data, count, kind & 128);
}

static void query(struct input *input) {
    uint8_t payload[64];
    uint16_t command = (uint16_t[]){VN_VU_GET_INFO, VN_VU_GET_REGION_INFO, 6, VN_VU_GET_IRQ_INFO, VN_VU_DMA_READ,
                                    VN_VU_DMA_WRITE, 14, 0}[take8(input) % 8];
    uint8_t len = take8(input) % 65;
    take_bytes(input, payload, sizeof(payload));
    if (len & 1) { /* a plausible one */
        uint32_t words[8] = {sizeof(words), 0, payload[0] % 12, 0};
        memcpy(payload, words, sizeof(words));
        len = sizeof(words);
    }
    message(command, payload[63] & 1 ? VN_VU_NO_REPLY : 0, payload, len, NULL, 0);
}

static void garbage(struct input *input) {
    uint8_t bytes[128];
    uint8_t kind = take8(input);
    uint32_t len = 1 + take8(input) % sizeof(bytes);
    take_bytes(input, bytes, sizeof(bytes));
    if (kind & 1) { /* a header that lies about what follows */
        struct vn_vu_header header = {.command = (uint16_t)(1 + bytes[0] % 14), .size = bytes[1] << (bytes[2] % 24),
                                      .flags = bytes[3] % 64};
        memcpy(bytes, &header, sizeof(header));
    }
    int fd = take_fd(input);
    send_bytes(bytes, len, &fd, kind & 2 ? 1 : 0);
    read_replies(false);
}

/* --- Commands, once there is memory --- */
static void bring_up(void) {
    struct vn_vu_dma_map map = {.argsz = sizeof(map), .flags = 3, .size = FILE_BYTES};
    message(VN_VU_DMA_MAP, 0, &map, sizeof(map), &client.files[0], 1);
    write_reg(VN_REG_CC, 0, 4);
    write_reg(VN_REG_AQA, (ENTRIES - 1) | (ENTRIES - 1) << 16, 4);
    write_reg(VN_REG_ASQ, ASQ, 8);
    write_reg(VN_REG_ACQ, ACQ, 8);
    write_reg(VN_REG_CC, 0x460001, 4);
    memset(client.tail, 0, sizeof(client.tail));
}

static void command(uint32_t qid, const struct vn_sqe *cmd) {
    struct stat st;
    if (fstat(client.files[0], &st) < 0 || st.st_size < (off_t)CQ)
        return; /* we have cut it off ourselves */
    memcpy(client.ram + (qid ? SQ : ASQ) + client.tail[qid] * sizeof(*cmd), cmd, sizeof(*cmd));
    client.tail[qid] = (client.tail[qid] + 1) % ENTRIES;
    write_reg(VN_REG_DBS + 8 * qid, client.tail[qid], 4);
}

static void create_queues(void) {
    command(0, &(struct vn_sqe){.opcode = VN_ADMIN_CREATE_CQ, .cid = 1, .prp1 = CQ, .cdw10 = 1 | (ENTRIES - 1) << 16,
                                .cdw11 = 3 | 1 << 16});
    command(0, &(struct vn_sqe){.opcode = VN_ADMIN_CREATE_SQ, .cid = 2, .prp1 = SQ, .cdw10 = 1 | (ENTRIES - 1) << 16,
                                .cdw11 = 1 | 1 << 16});
}

static void any_command(struct input *input) {
    static const uint8_t admin[] = {VN_ADMIN_IDENTIFY, VN_ADMIN_GET_LOG_PAGE, VN_ADMIN_ASYNC_EVENT, VN_ADMIN_ABORT,
                                    VN_ADMIN_DELETE_SQ, VN_ADMIN_DELETE_CQ, VN_ADMIN_DOORBELL_CONFIG, VN_ADMIN_SET_FEATURES};
    static const uint8_t io[] = {VN_IO_READ, VN_IO_WRITE, VN_IO_FLUSH, VN_IO_DSM, VN_IO_WRITE_ZEROES};
    uint8_t kind = take8(input);
    uint32_t qid = kind & 1;
    struct vn_sqe cmd = {
        .opcode = qid ? io[take8(input) % 5] : admin[take8(input) % 8],
        .cid = take8(input),
        .nsid = take8(input) % 5,
        .prp1 = (uint64_t)take8(input) * PAGE,
        .prp2 = (uint64_t)take8(input) * PAGE,
        .cdw10 = (uint32_t)take(input, kind & 2 ? 3 : 1),
        .cdw11 = (uint32_t)take(input, kind & 4 ? 4 : 0),
        .cdw12 = take8(input),
    };
    if (kind & 8 && qid) {
        cmd.flags = 0x40;
        cmd.sgl1.type = (kind & 0x30);
        cmd.sgl1.length = (cmd.cdw12 + 1) * 512;
    }
    command(qid, &cmd);
}

static void one_op(struct input *input) {
    off_t size;
    switch (take8(input) % 16) {
    case 0:
        dma_map(input);
        break;
    case 1:
        dma_unmap(input);
        break;
    case 2:
        set_irqs(input);
        break;
    case 3:
    case 4:
        region_access(input);
        break;
    case 5:
        query(input);
        break;
    case 6:
        garbage(input);
        break;
    case 7:
        message(VN_VU_RESET, 0, "", 0, NULL, 0);
        break;
    case 8: /* shorten a file, or lengthen it again */
        size = (off_t)(take8(input) % 80) * PAGE + (take8(input) == 1);
        if (ftruncate(client.files[take8(input) % NR_FILES], size) < 0)
            MUST(errno == EINVAL);
        break;
    case 9:
        version(input);
        break;
    case 10:
    case 11:
        bring_up();
        break;
    case 12:
        create_queues();
        break;
    default:
        any_command(input);
        break;
    }
}

static void wait_detached(vn_ctrl *ctrl) {
    struct vn_ctrl_info info;
    for (int ms = 0; vn_ctrl_get_info(ctrl, &info), info.attached; ms++) {
        MUST(ms < 8000);
        usleep(1000);
    }
}

static void connect_client(void) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    memcpy(addr.sun_path, path, strlen(path) + 1);
    client.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(client.sock >= 0);
    MUST(connect(client.sock, (struct sockaddr *)&addr, sizeof(addr)) == 0);
    client.gone = false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    vn_ctrl *ctrl;
    struct vn_event events[32];
    if (!rt)
        setup();
    struct vn_ctrl_opts opts = {.serial = "FUZZ", .doorbells = take8(&input) % 3, .max_entries = 64};
    MUST(vn_ctrl_create(rt, &opts, &ctrl) == 0);
    for (uint32_t nsid = 1; nsid <= 3; nsid++)
        MUST(vn_ctrl_attach_ns(ctrl, spaces[nsid - 1], nsid) == 0);
    MUST(vn_ctrl_listen(ctrl, path) == 0);

    client = (struct client){.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    for (uint32_t i = 0; i < NR_FILES; i++) {
        client.files[i] = memfd_create("fuzz", MFD_CLOEXEC);
        MUST(client.files[i] >= 0 && ftruncate(client.files[i], FILE_BYTES) == 0);
    }
    client.ram = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, client.files[0], 0);
    MUST(client.ram != MAP_FAILED);
    connect_client();
    if (take8(&input) < 240) {
        struct vn_vu_version hello = {.major = 0, .minor = 1};
        message(VN_VU_VERSION, 0, &hello, sizeof(hello), NULL, 0);
    } else {
        version(&input);
    }
    for (int i = 0; i < MAX_MESSAGES && input.left && !client.gone; i++)
        one_op(&input);
    close(client.sock); /* whatever is under way */
    wait_detached(ctrl);

    /* The next client finds a device in order. */
    connect_client();
    message(VN_VU_VERSION, 0, &(struct vn_vu_version){.minor = 1}, sizeof(struct vn_vu_version), NULL, 0);
    MUST(!client.gone);
    close(client.sock);
    MUST(vn_ctrl_destroy(ctrl) == 0);
    while (vn_runtime_events(rt, events, 32))
        ;
    munmap(client.ram, FILE_BYTES);
    for (uint32_t i = 0; i < NR_FILES; i++)
        close(client.files[i]);
    close(client.event);
    return 0;
}
