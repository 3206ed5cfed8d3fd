/* A client that shortens the file behind its memory is dropped with a sentence; another one on the same reactor goes on.
 * And the handler hands on what is not its own.
 */
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/nvme.h"
#include "guest/sigbus.h"
#include "host/vfio_user_wire.h"
#include "include/vhostnvme.h"
#include "vn_test.h"

#define PAGE 4096u
#define NR_PAGES 16u

/* --- The handler by itself --- */
static sigjmp_buf escape;
static volatile sig_atomic_t nr_foreign;

static void foreign(int signo) {
    CHECK_EQ(signo, SIGBUS);
    nr_foreign++;
    siglongjmp(escape, 1);
}

static uint8_t *map_file(int *fd) {
    *fd = memfd_create("test", MFD_CLOEXEC);
    CHECK(*fd >= 0);
    CHECK_EQ(ftruncate(*fd, NR_PAGES * PAGE), 0);
    uint8_t *at = mmap(NULL, NR_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    CHECK(at != MAP_FAILED);
    memset(at, 0x11, NR_PAGES * PAGE);
    return at;
}

static void test_handler(void) {
    int fd, other_fd;
    volatile uint8_t *at = map_file(&fd), *other = map_file(&other_fd);
    atomic_bool lost = false;
    struct sigaction before, after;
    CHECK(signal(SIGBUS, foreign) != SIG_ERR);
    sigaction(SIGBUS, NULL, &before);
    CHECK_EQ(vn_sigbus_install(), 0);
    CHECK_EQ(vn_sigbus_install(), 0);
    CHECK_EQ(vn_sigbus_watch((void *)at, NR_PAGES * PAGE, PAGE, &lost), 0);
    CHECK_EQ(ftruncate(fd, 2 * PAGE), 0);
    CHECK_EQ(at[PAGE], 0x11); /* what is left is left alone */
    CHECK(!lost);
    CHECK_EQ(at[2 * PAGE + 5], 0);
    CHECK(lost);
    lost = false;
    at[2 * PAGE] = 3; /* that page is whole again, the next one is not */
    CHECK(!lost);
    at[NR_PAGES * PAGE - 1] = 4;
    CHECK(lost);
    CHECK_EQ(at[NR_PAGES * PAGE - 1], 4);

    /* not ours: to the one who was there before */
    CHECK_EQ(ftruncate(other_fd, 0), 0);
    if (sigsetjmp(escape, 1) == 0) {
        other[0] = 1;
        CHECK(!"reached");
    }
    CHECK_EQ(nr_foreign, 1);
    vn_sigbus_unwatch((void *)at);
    if (sigsetjmp(escape, 1) == 0) {
        at[3 * PAGE] = 1;
        CHECK(!"reached");
    }
    CHECK_EQ(nr_foreign, 2);
    vn_sigbus_remove();
    vn_sigbus_remove();
    sigaction(SIGBUS, NULL, &after);
    CHECK(after.sa_handler == before.sa_handler);
    signal(SIGBUS, SIG_DFL);

    /* and where there was none the process ends as ever */
    pid_t child = fork();
    if (child == 0) {
        vn_sigbus_install();
        other[0] = 1;
        _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) != 0); /* ASan exits instead */
    munmap((void *)at, NR_PAGES * PAGE);
    munmap((void *)other, NR_PAGES * PAGE);
    close(fd);
    close(other_fd);
}

static void test_full_table(void) {
    atomic_bool lost = false;
    uint32_t nr = 0;
    while (vn_sigbus_watch((void *)(uintptr_t)((nr + 1) * 2ull * PAGE), PAGE, PAGE, &lost) == 0)
        nr++;
    CHECK_EQ(nr, 4096);
    for (uint32_t i = 0; i < nr; i++)
        vn_sigbus_unwatch((void *)(uintptr_t)((i + 1) * 2ull * PAGE));
    CHECK_EQ(vn_sigbus_watch((void *)(uintptr_t)PAGE, PAGE, PAGE, &lost), 0);
    vn_sigbus_unwatch((void *)(uintptr_t)PAGE);
}

/* --- Two guests in one process --- */
#define RAM_IOVA 0x40000000ull

static vn_runtime *rt;

static uint64_t free_iova(vn_host *host) {
    struct vn_host_info info;
    CHECK_EQ(vn_host_get_info(host, &info), 0);
    return info.iova_base + info.memory_bytes - PAGE; /* a page that nobody uses */
}

struct guest {
    vn_ctrl *ctrl;
    vn_host *host;
    char path[300];
};

static void start_guest(struct guest *guest, const char *name) {
    struct vn_ctrl_opts opts = {.serial = name};
    snprintf(guest->path, sizeof(guest->path), "%s/%s", vn_test_dir(), name);
    CHECK_EQ(vn_ctrl_create(rt, &opts, &guest->ctrl), 0);
    CHECK_EQ(vn_ctrl_listen(guest->ctrl, guest->path), 0);
}

static void connect_guest(struct guest *guest) {
    CHECK_EQ(vn_host_open(guest->path, &(struct vn_host_opts){.memory_bytes = 4 << 20}, &guest->host), 0);
    CHECK_EQ(vn_host_enable(guest->host, NULL), 0);
}

static int identify(struct guest *guest, uint64_t iova, struct vn_host_cqe *cqe) {
    struct vn_sqe cmd = {.opcode = VN_ADMIN_IDENTIFY, .prp1 = iova, .cdw10 = VN_CNS_CTRL};
    return vn_host_command(guest->host, 0, &cmd, 0, 0, 3000, cqe);
}

static bool was_told(enum vn_event_type type, uint64_t ctrl, const char *part) {
    struct vn_event events[64];
    for (int ms = 0; ms < 3000; ms++) {
        uint32_t nr = vn_runtime_events(rt, events, 64);
        for (uint32_t i = 0; i < nr; i++) {
            if (events[i].type == type && events[i].ctrl == ctrl && strstr(events[i].text, part))
                return true;
        }
        usleep(1000);
    }
    return false;
}

static void test_guests(void) {
    struct guest good = {0}, bad = {0};
    struct vn_host_cqe cqe;
    struct vn_ctrl_info info;
    int fd;
    CHECK_EQ(vn_runtime_create(&(struct vn_runtime_opts){.nr_reactors = 1, .poll_us = 50}, &rt), 0);
    start_guest(&good, "good");
    start_guest(&bad, "bad");
    connect_guest(&good);
    for (int round = 0; round < 3; round++) {
        connect_guest(&bad);
        uint8_t *ram = map_file(&fd);
        struct vn_vu_dma_map map = {.argsz = sizeof(map), .flags = 3, .addr = RAM_IOVA, .size = NR_PAGES * PAGE};
        CHECK_EQ(vn_host_message(bad.host, VN_VU_DMA_MAP, &map, sizeof(map), &fd, 1, NULL, 0, NULL), 0);
        CHECK_EQ(identify(&bad, RAM_IOVA + 5 * PAGE, &cqe), 0);
        CHECK_EQ(cqe.status, 0);
        CHECK(ram[5 * PAGE] != 0x11);
        CHECK_EQ(ftruncate(fd, 4 * PAGE), 0);
        CHECK_EQ(identify(&bad, RAM_IOVA + 3 * PAGE, &cqe), 0); /* what is left may be used, */
        identify(&bad, RAM_IOVA + 5 * PAGE, &cqe);              /* but whoever touches the rest is dropped */
        CHECK(was_told(VN_EVENT_CTRL_FATAL, vn_ctrl_id(bad.ctrl), "shortened"));
        for (int ms = 0; vn_ctrl_get_info(bad.ctrl, &info), info.attached; ms++) {
            CHECK(ms < 3000);
            usleep(1000);
        }
        CHECK_EQ(identify(&good, free_iova(good.host), &cqe), 0); /* the other one has not noticed */
        CHECK_EQ(cqe.status, 0);
        vn_host_close(bad.host);
        munmap(ram, NR_PAGES * PAGE);
        close(fd);
    }
    connect_guest(&bad); /* a new client is as welcome as ever */
    CHECK_EQ(identify(&bad, free_iova(bad.host), &cqe), 0);
    vn_host_close(bad.host);
    vn_host_close(good.host);
    CHECK_EQ(vn_ctrl_destroy(good.ctrl), 0);
    CHECK_EQ(vn_ctrl_destroy(bad.ctrl), 0);
    CHECK_EQ(vn_runtime_destroy(rt), 0);
}

int main(void) {
    test_handler();
    test_full_table();
    test_guests();
    return 0;
}
