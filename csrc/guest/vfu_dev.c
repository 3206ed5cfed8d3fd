/* The guest door: a vfio-user device made of libvfio-user, its socket on the reactor, its life.
 * Made by api.c; hands register accesses to ctrl/, doorbells to doorbell.c, memory maps to guest_mem.c.
 */
#include "guest/vfu_dev.h"

#include <errno.h>
#include <fcntl.h>
#include <pci_caps/msix.h>
#include <pci_caps/pm.h>
#include <pci_caps/px.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/util.h"
#include "ctrl/drive.h"
#include "ctrl/persona.h"
#include "guest/sigbus.h"

#define MSIX_TABLE_BYTES 0x1000u
#define MESSAGES_A_TURN 64 /* vfio-user messages handled before the guests have their turn */
#define IDLE_SLEEP_MAX_NS 1000000ull /* a host that cannot wake us is looked at that often at least */
#define POLL_RETRY_NS 1000000ull
#define RAM_BYTES_MIN (1u << 20) /* smaller unshared regions are ROMs and the like, and no loss */

static void dev_arm_poll(struct vn_vfu_dev *dev);

/* --- Register accesses --- */
static ssize_t bar0_access(vfu_ctx_t *ctx, char *buf, size_t count, loff_t offset, bool is_write) {
    struct vn_vfu_dev *dev = vfu_get_private(ctx);
    uint32_t at = (uint32_t)offset;
    bool aligned = (count == 4 || count == 8) && at % count == 0;
    uint64_t value = 0;
    if (!is_write) {
        if (aligned && at < VN_REG_DBS)
            value = vn_ctrl_reg_read(dev->ctrl, at, (uint32_t)count);
        memset(buf, 0, count);
        memcpy(buf, &value, vn_min_u64(count, sizeof(value)));
        return (ssize_t)count;
    }
    if (!aligned) /* undefined by the specification: here it has no effect */
        return (ssize_t)count;
    memcpy(&value, buf, count);
    if (at < VN_REG_DBS)
        vn_ctrl_reg_write(dev->ctrl, at, value, (uint32_t)count);
    else if (count == 4)
        vn_doorbell_write(dev, at, (uint32_t)value);
    return (ssize_t)count;
}

/* BAR4 (MSI-X table) is kept by the client; BAR5 (pending bits): an eventfd is never pending. */
static ssize_t msix_access(vfu_ctx_t *ctx, char *buf, size_t count, loff_t offset, bool is_write) {
    (void)ctx;
    (void)offset;
    if (!is_write)
        memset(buf, 0, count);
    return (ssize_t)count;
}

static int setup_bar0(struct vn_vfu_dev *dev) {
    struct iovec doorbells = {.iov_base = (void *)(uintptr_t)VN_REG_DBS, .iov_len = VN_DOORBELL_BYTES};
    return vfu_setup_region(dev->ctx, VFU_PCI_DEV_BAR0_REGION_IDX, VN_BAR0_BYTES, bar0_access,
                            VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM, dev->mapped ? &doorbells : NULL,
                            dev->mapped ? 1 : 0, dev->mapped ? dev->doorbell_fd : -1, 0);
}

/* --- Memory --- */
static void on_dma_map(vfu_ctx_t *ctx, vfu_dma_info_t *info) {
    struct vn_vfu_dev *dev = vfu_get_private(ctx);
    if (!info->vaddr) {
        dev->mem.nr_unshared += info->iova.iov_len >= RAM_BYTES_MIN;
        return;
    }
    /* Rings and lists are read in whole words: where the client's addresses and ours differ within a page, as no
     * memory of a machine does, a word could lie across two. */
    const char *trouble = NULL;
    if (((uintptr_t)info->iova.iov_base ^ (uintptr_t)info->vaddr) & (VN_PAGE_SIZE - 1))
        trouble = "a memory region of the client is not aligned to its file: it is out of reach";
    else if (vn_sigbus_watch(info->mapping.iov_base, info->mapping.iov_len, info->page_size, &dev->memory_lost))
        trouble = "the clients of this process map too many memory regions: the rest is out of reach";
    if (trouble) {
        vn_event_emit(dev->ctrl->events, VN_EVENT_MESSAGE, dev->ctrl->id, 0, 0, "%s", trouble);
        return;
    }
    int err = vn_guest_mem_add(&dev->mem, (uintptr_t)info->iova.iov_base, info->iova.iov_len, info->vaddr,
                               info->prot & PROT_READ, info->prot & PROT_WRITE);
    if (err == -ENOSPC)
        vn_event_emit(dev->ctrl->events, VN_EVENT_MESSAGE, dev->ctrl->id, 0, 0,
                      "the client maps more than %u memory regions: the rest is out of reach", VN_GUEST_REGIONS);
    if (err) /* also -EINVAL: the same region once more, which is there and watched */
        vn_sigbus_unwatch(info->mapping.iov_base);
    else
        vn_vfu_dev_pin(dev, info->vaddr, info->iova.iov_len);
    vn_doorbell_remap(dev);
}

static void on_dma_unmap(vfu_ctx_t *ctx, vfu_dma_info_t *info) {
    struct vn_vfu_dev *dev = vfu_get_private(ctx);
    if (!info->vaddr) {
        dev->mem.nr_unshared -= info->iova.iov_len >= RAM_BYTES_MIN;
        return;
    }
    /* What was given up may still be running in the kernel: its addresses must never be used again. */
    info->keep_addresses = dev->ctrl->nr_orphans > 0;
    vn_vfu_dev_unpin(dev, info->vaddr);
    vn_guest_mem_remove(&dev->mem, (uintptr_t)info->iova.iov_base, info->iova.iov_len);
    vn_sigbus_unwatch(info->mapping.iov_base);
    vn_doorbell_remap(dev);
}

/* The SIGBUS handler has put an empty page where the client's memory was: this client cannot go on. */
static void drop_shortened(struct vn_vfu_dev *dev) {
    static const char why[] = "the client has shortened a file behind the memory that it shares: it is dropped";
    atomic_store(&dev->memory_lost, false);
    if (dev->ctrl->state == VN_CTRL_READY)
        vn_ctrl_fatal(dev->ctrl, why);
    else
        vn_event_emit(dev->ctrl->events, VN_EVENT_MESSAGE, dev->ctrl->id, 0, 0, "%s", why);
    if (dev->state == VN_DEV_ATTACHED)
        shutdown(vfu_get_poll_fd(dev->ctx), SHUT_RDWR);
}

/* --- Quiesce: libvfio-user asks before it touches what commands in flight could use --- */
static int on_quiesce(vfu_ctx_t *ctx) {
    struct vn_vfu_dev *dev = vfu_get_private(ctx);
    dev->ctrl->paused = true;
    if (dev->ctrl->nr_inflight == 0)
        return 0;
    dev->quiesce_pending = true;
    dev->quiesce_cancelled = false;
    vn_ctrl_release(dev->ctrl);
    vn_timer_arm(dev->reactor, &dev->quiesce_timer, VN_DRAIN_BOUND_NS / 2);
    errno = EBUSY;
    return -1;
}

static void on_quiesce_timeout(struct vn_timer *timer) {
    struct vn_vfu_dev *dev = vn_container_of(timer, struct vn_vfu_dev, quiesce_timer);
    if (dev->quiesce_cancelled) {
        vn_ctrl_give_up(dev->ctrl);
        return;
    }
    dev->quiesce_cancelled = true;
    vn_timer_arm(dev->reactor, timer, VN_DRAIN_BOUND_NS / 2);
    vn_ctrl_cancel_all(dev->ctrl);
}

static void finish_quiesce(struct vn_vfu_dev *dev) {
    dev->quiesce_pending = false;
    vn_timer_disarm(dev->reactor, &dev->quiesce_timer);
    vfu_device_quiesced(dev->ctx, 0);
    dev->ctrl->paused = false;
    dev->readable = true; /* more messages may have come meanwhile */
}

static int on_reset(vfu_ctx_t *ctx, vfu_reset_type_t type) {
    struct vn_vfu_dev *dev = vfu_get_private(ctx);
    struct vn_ctrl *ctrl = dev->ctrl;
    dev->lost |= type == VFU_RESET_LOST_CONN;
    if (dev->lost && ctrl->state == VN_CTRL_READY && !(ctrl->csts & VN_CSTS_SHST_MASK))
        vn_drive_lost(ctrl);
    ctrl->cc = 0;
    vn_ctrl_disable(ctrl); /* nothing is in flight: done at once */
    vn_ctrl_reset_regs(ctrl);
    return 0;
}

/* --- The socket --- */
static void choose_doorbells(struct vn_vfu_dev *dev) {
    /* A client that takes several descriptors with a message is QEMU: trapped, posted doorbells wake us and,
     * with shadow doorbells, cost nothing while we are awake. One that negotiates nothing polls, and never
     * kicks: it needs the doorbell page (docs/decisions). */
    bool wakes_us = vfu_get_client_max_fds(dev->ctx) > 1;
    dev->mapped = dev->wanted == VN_DOORBELLS_MAPPED || (dev->wanted == VN_DOORBELLS_AUTO && !wakes_us);
    dev->ctrl->dbbuf_supported = !dev->mapped;
    if (setup_bar0(dev) < 0)
        vn_event_emit(dev->ctrl->events, VN_EVENT_MESSAGE, dev->ctrl->id, (uint64_t)errno, 0,
                      "the doorbell page cannot be offered: %s", strerror(errno));
}

static void attach(struct vn_vfu_dev *dev) {
    if (vfu_attach_ctx(dev->ctx) < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            vn_event_emit(dev->ctrl->events, VN_EVENT_MESSAGE, dev->ctrl->id, (uint64_t)errno, 0,
                          "a client was refused during version negotiation: %s", strerror(errno));
        return;
    }
    dev->state = VN_DEV_ATTACHED;
    dev->told_unshared = false;
    dev->hung_up = false;
    choose_doorbells(dev);
    vn_event_emit(dev->ctrl->events, VN_EVENT_CLIENT_ATTACHED, dev->ctrl->id, 0, 0, "%s",
                  dev->mapped ? "mapped doorbells" : "trapped doorbells");
}

static void detached(struct vn_vfu_dev *dev) {
    if (dev->state == VN_DEV_ATTACHED)
        dev->state = VN_DEV_LISTENING;
    dev->lost = false;
    atomic_store(&dev->memory_lost, false);
    dev->ctrl->paused = false;
    dev->mem.nr_unshared = 0;
    if (dev->poll_armed)
        vn_reactor_cancel(dev->reactor, &dev->poll_op); /* its end arms the listening socket */
    vn_event_emit(dev->ctrl->events, VN_EVENT_CLIENT_DETACHED, dev->ctrl->id, 0, 0, "%s", "");
}

/* Messages that are in the socket, up to a bound. */
static void run_messages(struct vn_vfu_dev *dev) {
    for (int i = 0; i < MESSAGES_A_TURN && dev->readable && !dev->lost; i++) {
        if (vn_doorbell_take_posted(dev))
            continue;
        int ret = vfu_run_ctx(dev->ctx);
        if (dev->quiesce_pending)
            return;
        dev->ctrl->paused = false;
        if (ret < 0) {
            if (!dev->lost) /* a message that cannot be understood: this client is beyond help */
                shutdown(vfu_get_poll_fd(dev->ctx), SHUT_RDWR);
            return;
        } /* 0: one that was refused; perhaps there is more, or the end, behind it */
    }
}

static void on_poll(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    struct vn_vfu_dev *dev = vn_container_of(op, struct vn_vfu_dev, poll_op);
    if (!(cqe_flags & IORING_CQE_F_MORE))
        dev->poll_armed = false;
    vn_poller_wake(dev->reactor, &dev->poller);
    if (res == -ECANCELED)
        return;
    dev->readable = true;
    dev->hung_up |= dev->state == VN_DEV_ATTACHED && (res < 0 || res & (POLLHUP | POLLRDHUP | POLLERR));
}

static void dev_arm_poll(struct vn_vfu_dev *dev) {
    struct io_uring_sqe *sqe = vn_reactor_sqe(dev->reactor, &dev->poll_op);
    if (!sqe) {
        vn_timer_arm(dev->reactor, &dev->retry_timer, POLL_RETRY_NS);
        return;
    }
    int fd = vfu_get_poll_fd(dev->ctx);
    if (dev->state == VN_DEV_ATTACHED)
        io_uring_prep_poll_multishot(sqe, fd, POLLIN | POLLRDHUP);
    else
        io_uring_prep_poll_add(sqe, fd, POLLIN);
    io_uring_sqe_set_data(sqe, &dev->poll_op);
    dev->poll_armed = true;
}

static void on_retry(struct vn_timer *timer) {
    (void)timer; /* to be asked is enough: dev_poll arms what is not armed */
}

/* Closing has got as far as it can when nothing of ours is in the kernel or in a backend any more. */
static void close_step(struct vn_vfu_dev *dev) {
    struct vn_ctrl *ctrl = dev->ctrl;
    if (dev->quiesce_pending) /* commands in flight still use the memory that it would take away */
        return;
    if (dev->ctx) {
        if (ctrl->state != VN_CTRL_DISABLED || ctrl->nr_inflight || ctrl->shutdown)
            return;
        if (dev->poll_armed)
            vn_reactor_cancel(dev->reactor, &dev->poll_op);
        unlink(dev->path);
        vfu_destroy_ctx(dev->ctx);
        dev->ctx = NULL;
    }
    if (dev->poll_armed)
        return;
    vn_timer_disarm(dev->reactor, &dev->retry_timer);
    vn_timer_disarm(dev->reactor, &dev->quiesce_timer);
    vn_timer_disarm(dev->reactor, &dev->irq_timer);
    vn_timer_disarm(dev->reactor, &ctrl->drain_timer);
    dev->state = VN_DEV_DEAD;
}

/* A command came, or one ended: learn from how long that took, and plan the next wait. */
static void plan_wait(struct vn_vfu_dev *dev) {
    uint64_t now = vn_reactor_now_ns(dev->reactor);
    struct vn_poller *poller = &dev->poller;
    if (dev->wait)
        vn_wait_observe(dev->wait, now - dev->wait_ns, poller->dozes && now >= poller->spin_from_ns);
    dev->wait = dev->ctrl->nr_inflight ? &dev->completion_wait : &dev->command_wait;
    dev->wait_ns = now;
    struct vn_window window = vn_wait_window(dev->wait, vn_reactor_poll_ns(dev->reactor));
    poller->spin_from_ns = now + window.from_ns;
    poller->spin_until_ns = now + window.until_ns;
    if (dev->ctrl->irqs_due) { /* held back because another command is expected, or the head to move: soon */
        poller->spin_from_ns = now;
        poller->spin_until_ns = now + vn_min_u64(VN_IRQ_BATCH_NS, vn_reactor_poll_ns(dev->reactor));
    }
}

static bool dev_poll(struct vn_poller *poller) {
    struct vn_vfu_dev *dev = vn_container_of(poller, struct vn_vfu_dev, poller);
    if (dev->state == VN_DEV_DEAD)
        return false;
    bool work = false;
    if (atomic_load_explicit(&dev->memory_lost, memory_order_relaxed))
        drop_shortened(dev);
    if (dev->quiesce_pending && dev->ctrl->nr_inflight == 0) {
        finish_quiesce(dev);
        work = true;
    }
    if (dev->readable && !dev->quiesce_pending && dev->ctx) {
        work = true;
        if (dev->state == VN_DEV_ATTACHED) {
            run_messages(dev);
        } else {
            dev->readable = false;
            if (dev->state == VN_DEV_LISTENING)
                attach(dev);
        }
    }
    if (dev->lost)
        detached(dev);
    bool fetched = dev->move == VN_MOVE_NONE && vn_doorbell_poll(dev);
    work |= fetched;
    work |= vn_ctrl_retry_busy(dev->ctrl);
    vn_irq_flush(dev);
    uint64_t nr_done = dev->ctrl->counters.commands;
    if (fetched || nr_done != dev->nr_done)
        plan_wait(dev);
    dev->nr_done = nr_done;
    poller->dozes = false;
    if (dev->state == VN_DEV_CLOSING)
        close_step(dev);
    else if (!dev->poll_armed && !dev->retry_timer.armed && dev->move != VN_MOVE_LEAVES)
        dev_arm_poll(dev);
    return work;
}

static bool dev_before_sleep(struct vn_poller *poller) {
    struct vn_vfu_dev *dev = vn_container_of(poller, struct vn_vfu_dev, poller);
    struct vn_ctrl *ctrl = dev->ctrl;
    if (dev->state == VN_DEV_DEAD)
        return false;
    bool nobody_kicks = dev->mapped && dev->state == VN_DEV_ATTACHED && ctrl->state == VN_CTRL_READY;
    bool offers_again = ctrl->busy_first || ctrl->shutdown_waits; /* to a backend that was busy */
    poller->max_sleep_ns = nobody_kicks || offers_again ? IDLE_SLEEP_MAX_NS : 0;
    if (atomic_load_explicit(&dev->memory_lost, memory_order_relaxed))
        return true;
    bool deferred = (dev->readable && !dev->quiesce_pending) || (dev->quiesce_pending && ctrl->nr_inflight == 0);
    /* arming touches the guest's memory, and may find that it is gone */
    return deferred || (dev->move == VN_MOVE_NONE && vn_doorbell_arm(dev)) ||
           atomic_load_explicit(&dev->memory_lost, memory_order_relaxed);
}

/* What comes next comes by the socket, by a look at the doorbells, by mail or by a timer. */
static bool dev_can_rest(struct vn_poller *poller) {
    const struct vn_vfu_dev *dev = vn_container_of(poller, struct vn_vfu_dev, poller);
    if (dev->state == VN_DEV_DEAD)
        return true;
    return dev->state != VN_DEV_CLOSING && dev->move == VN_MOVE_NONE && dev->poll_armed && !dev->readable &&
           vn_vfu_dev_is_still(dev);
}

/* --- Making and closing --- */
static const struct vn_door_ops door_ops = {
    .name = "vfio-user",
    .map = vn_doorbell_map,
    .map_meta = vn_doorbell_map_meta,
    .post = vn_doorbell_post,
    .sq_open = vn_doorbell_sq_open,
    .fetch_second = vn_doorbell_fetch_second,
    .cq_open = vn_doorbell_cq_open,
    .doorbell_buffer = vn_doorbell_buffer,
    .disabled = vn_doorbell_forget,
    .irq_mask_changed = vn_irq_mask_changed,
};

static int add_capabilities(struct vn_vfu_dev *dev) {
    struct pmcap pm = {.hdr.id = PCI_CAP_ID_PM, .pc.vs = 3, .pmcs.nsfrst = 1};
    struct pxcap px = {
        .hdr.id = PCI_CAP_ID_EXP,
        .pxcaps.ver = 2,
        .pxdcap = {.rer = 1, .flrc = 1},
        .pxdcap2.ctds = 1,
    };
    struct msixcap msix = {
        .hdr.id = PCI_CAP_ID_MSIX,
        .mxc.ts = VN_NR_VECTORS - 1,
        .mtab = {.tbir = 4, .to = 0},
        .mpba = {.pbir = 5, .pbao = 0},
    };
    if (vfu_pci_add_capability(dev->ctx, 0, 0, &pm) < 0 || vfu_pci_add_capability(dev->ctx, 0, 0, &px) < 0)
        return -errno;
    ssize_t at = vfu_pci_add_capability(dev->ctx, 0, 0, &msix);
    if (at < 0)
        return -errno;
    dev->msix_control = (const uint8_t *)vfu_pci_get_config_space(dev->ctx) + at + 2;
    return 0;
}

static int setup_device(struct vn_vfu_dev *dev) {
    vfu_ctx_t *ctx = dev->ctx;
    if (vfu_pci_init(ctx, VFU_PCI_TYPE_EXPRESS, PCI_HEADER_TYPE_NORMAL, 0) < 0)
        return -errno;
    const struct vn_persona *persona = vn_persona_of(dev->ctrl);
    uint32_t vid = persona && persona->vid ? persona->vid : VN_PCI_VENDOR;
    uint32_t ssvid = persona && persona->ssvid ? persona->ssvid : VN_PCI_SUBVENDOR;
    vfu_pci_set_id(ctx, (uint16_t)vid, VN_PCI_DEVICE, (uint16_t)ssvid, VN_PCI_DEVICE);
    vfu_pci_set_class(ctx, 0x01, 0x08, 0x02); /* mass storage, non-volatile memory, NVMe */
    int err = add_capabilities(dev);
    if (err)
        return err;
    int flags = VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM;
    if (setup_bar0(dev) < 0 ||
        vfu_setup_region(ctx, VFU_PCI_DEV_BAR4_REGION_IDX, MSIX_TABLE_BYTES, msix_access, flags, NULL, 0, -1, 0) < 0 ||
        vfu_setup_region(ctx, VFU_PCI_DEV_BAR5_REGION_IDX, MSIX_TABLE_BYTES, msix_access, flags, NULL, 0, -1, 0) < 0 ||
        vfu_setup_device_dma(ctx, on_dma_map, on_dma_unmap) < 0 || vfu_setup_device_reset_cb(ctx, on_reset) < 0)
        return -errno;
    vfu_setup_device_quiesce_cb(ctx, on_quiesce);
    if (vfu_setup_device_nr_irqs(ctx, VFU_DEV_INTX_IRQ, 1) < 0 ||
        vfu_setup_device_nr_irqs(ctx, VFU_DEV_MSIX_IRQ, VN_NR_VECTORS) < 0 ||
        vfu_setup_device_nr_irqs(ctx, VFU_DEV_ERR_IRQ, 0) < 0 ||
        vfu_setup_device_nr_irqs(ctx, VFU_DEV_REQ_IRQ, 0) < 0 ||
        vfu_setup_irq_state_callback(ctx, VFU_DEV_INTX_IRQ, vn_irq_unmasked) < 0)
        return -errno;
    return vfu_realize_ctx(ctx) < 0 ? -errno : 0;
}

/* A socket that nobody listens on is left over from a server that was killed: it is replaced. */
static int clear_path(const char *path, char *error, uint32_t error_size) {
    struct stat st;
    if (lstat(path, &st) < 0) {
        if (errno == ENOENT)
            return 0;
        int err = errno;
        snprintf(error, error_size, "cannot use socket %s: %s", path, strerror(err));
        return -err;
    }
    if (!S_ISSOCK(st.st_mode)) {
        snprintf(error, error_size, "cannot use socket %s: there is a file of that name; remove it or take another",
                 path);
        return -EEXIST;
    }
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int ret = connect(fd, (struct sockaddr *)&addr, sizeof(addr));
    int err = ret < 0 ? errno : 0;
    close(fd);
    if (err != ECONNREFUSED) {
        snprintf(error, error_size, "socket %s is in use by another server: stop that or take another path", path);
        return -EADDRINUSE;
    }
    return unlink(path) < 0 ? -errno : 0;
}

int vn_vfu_dev_open(struct vn_vfu_dev *dev, struct vn_ctrl *ctrl, const char *path, uint32_t doorbells, char *error,
                    uint32_t error_size) {
    memset(dev, 0, sizeof(*dev));
    dev->ctrl = ctrl;
    dev->reactor = ctrl->reactor;
    dev->wanted = doorbells;
    dev->poll_op.done = on_poll;
    dev->poller = (struct vn_poller){.poll = dev_poll, .before_sleep = dev_before_sleep, .can_rest = dev_can_rest};
    vn_wait_init(&dev->command_wait);
    vn_wait_init(&dev->completion_wait);
    dev->retry_timer.fn = on_retry;
    dev->quiesce_timer.fn = on_quiesce_timeout;
    dev->irq_timer.fn = vn_irq_timeout;
    size_t path_bytes = strlen(path) + 1;
    if (path_bytes > sizeof(dev->path)) {
        snprintf(error, error_size, "socket path of %zu bytes is too long: at most %zu fit", path_bytes - 1,
                 sizeof(dev->path) - 1);
        return -ENAMETOOLONG;
    }
    memcpy(dev->path, path, path_bytes);
    int err = clear_path(path, error, error_size);
    if (err)
        return err;

    dev->doorbell_fd = memfd_create("vhostnvme-doorbells", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    /* The client maps the page at the region's own offset in the file; it cannot take it away from under us. */
    if (dev->doorbell_fd < 0 || ftruncate(dev->doorbell_fd, VN_REG_DBS + VN_DOORBELL_BYTES) < 0 ||
        fcntl(dev->doorbell_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        goto out_errno;
    dev->page = mmap(NULL, VN_DOORBELL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, dev->doorbell_fd, VN_REG_DBS);
    if (dev->page == MAP_FAILED)
        goto out_errno;
    mode_t before = umask(0177); /* before bind: the socket is never open to others */
    dev->ctx = vfu_create_ctx(VFU_TRANS_SOCK, path, LIBVFIO_USER_FLAG_ATTACH_NB, dev, VFU_DEV_TYPE_PCI);
    umask(before);
    if (!dev->ctx)
        goto out_errno;
    err = setup_device(dev);
    if (!err) {
        ctrl->door = &door_ops;
        ctrl->door_ctx = dev;
        return 0;
    }
    errno = -err;

out_errno:
    err = -errno;
    snprintf(error, error_size, "cannot listen on socket %s: %s", path, strerror(-err));
    vn_vfu_dev_free(dev);
    return err;
}

int vn_vfu_dev_start(struct vn_vfu_dev *dev) {
    vn_poller_add(dev->reactor, &dev->poller);
    return 0;
}

void vn_vfu_dev_close(struct vn_vfu_dev *dev) {
    if (dev->state == VN_DEV_CLOSING || dev->state == VN_DEV_DEAD)
        return;
    dev->state = VN_DEV_CLOSING;
    dev->ctrl->cc = 0;
    vn_ctrl_disable(dev->ctrl);
    dev->ctrl->csts &= ~VN_CSTS_SHST_MASK; /* a shutdown while disabled may be flushing */
    vn_ctrl_cancel_all(dev->ctrl);
}

void vn_vfu_dev_free(struct vn_vfu_dev *dev) {
    if (dev->ctx) {
        unlink(dev->path);
        vfu_setup_device_quiesce_cb(dev->ctx, NULL);
        dev->ctrl->door = &door_ops;
        dev->ctrl->door_ctx = dev;
        vfu_destroy_ctx(dev->ctx);
    }
    if (dev->page && dev->page != MAP_FAILED)
        munmap(dev->page, VN_DOORBELL_BYTES);
    if (dev->doorbell_fd > 0)
        close(dev->doorbell_fd);
    dev->ctx = NULL;
    dev->page = NULL;
    dev->doorbell_fd = -1;
}
