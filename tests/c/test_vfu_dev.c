/* A device on its socket: messages that are refused and what comes right behind them, writes to its PCI configuration.
 */
#include <unistd.h>

#include "core/nvme.h"
#include "host/vfio_user_wire.h"
#include "include/vhostnvme.h"
#include "vn_test.h"

static vn_runtime *rt;
static vn_ctrl *ctrl;
static char path[300];

static void wait_detached(void) {
    struct vn_ctrl_info info;
    for (int ms = 0; vn_ctrl_get_info(ctrl, &info), info.attached; ms++) {
        CHECK(ms < 3000);
        usleep(1000);
    }
}

/* A message that is refused, and another one, or the end, in the same moment: both are seen. */
static void test_refused_then_more(bool end) {
    vn_host *host;
    struct {
        struct vn_vu_header refused, reset;
    } VN_VU_PACKED out = {
        .refused = {.id = 1, .command = VN_VU_GET_INFO, .size = sizeof(out.refused)}, /* without its payload */
        .reset = {.id = 2, .command = VN_VU_RESET, .size = sizeof(out.reset)},
    }, in;
    CHECK_EQ(vn_host_open(path, &(struct vn_host_opts){.memory_bytes = 2 << 20}, &host), 0);
    CHECK_EQ(vn_host_raw_send(host, &out, end ? sizeof(out.refused) : sizeof(out), NULL, 0), 0);
    for (uint32_t at = 0, got; at < sizeof(in) && !end; at += got) {
        CHECK_EQ(vn_host_raw_recv(host, (uint8_t *)&in + at, sizeof(in) - at, 3000, &got), 0);
        CHECK(got);
    }
    if (!end) {
        CHECK(in.refused.id == 1 && (in.refused.flags & VN_VU_ERROR));
        CHECK(in.reset.id == 2 && !(in.reset.flags & VN_VU_ERROR));
    }
    vn_host_close(host);
    wait_detached();
}

/* Writes of every length at every place of the configuration space stay inside the message and inside the register or
 * capability (the sanitiser sees to that); the identity of the device survives them all. */
static void test_config_writes(void) {
    vn_host *host;
    uint32_t before, after;
    uint8_t bytes[24];
    CHECK_EQ(vn_host_open(path, &(struct vn_host_opts){.memory_bytes = 2 << 20}, &host), 0);
    CHECK_EQ(vn_host_region_read(host, VN_VU_REGION_CONFIG, 0, &before, sizeof(before)), 0);
    for (int value = 0; value < 256; value += 255) {
        memset(bytes, value, sizeof(bytes));
        for (uint64_t offset = 0; offset < 4096; offset += offset < 256 ? 1 : 61) {
            for (uint32_t count = 1; count <= sizeof(bytes); count++)
                vn_host_region_write(host, VN_VU_REGION_CONFIG, offset, bytes, count, 0); /* many are refused */
        }
    }
    CHECK_EQ(vn_host_region_read(host, VN_VU_REGION_CONFIG, 0, &after, sizeof(after)), 0);
    CHECK_EQ(after, before);
    vn_host_close(host);
    wait_detached();
}

int main(void) {
    snprintf(path, sizeof(path), "%s/cntrl", vn_test_dir());
    CHECK_EQ(vn_runtime_create(&(struct vn_runtime_opts){.poll_us = 20}, &rt), 0);
    CHECK_EQ(vn_ctrl_create(rt, &(struct vn_ctrl_opts){.serial = "T"}, &ctrl), 0);
    CHECK_EQ(vn_ctrl_listen(ctrl, path), 0);
    for (int i = 0; i < 200; i++)
        test_refused_then_more(i % 2);
    test_config_writes();
    CHECK_EQ(vn_ctrl_destroy(ctrl), 0);
    CHECK_EQ(vn_runtime_destroy(rt), 0);
    return 0;
}
