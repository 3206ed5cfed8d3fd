/* The host's pure parts: event-index rule, histogram, stamps, message parsing, doorbell addresses, PRPs.
 * No socket and no server: a host handle is made by hand where one is needed.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/nvme_host.h"
#include "host/perf_hist.h"
#include "host/perf_verify.h"
#include "host/vfio_user.h"

static void test_event_rule(void) {
    /* Told when the doorbell passes the event index, that is when event is in [old, new). */
    for (uint32_t old = 65530; old < 65542; old++) {
        for (uint32_t step = 1; step < 8; step++) {
            for (uint32_t event = 65524; event < 65556; event++) {
                bool passed = event >= old && event < old + step;

                assert(vn_host_need_event((uint16_t)event, (uint16_t)(old + step), (uint16_t)old) == passed);
            }
        }
    }
    assert(!vn_host_need_event(5, 5, 5)); /* no movement, nothing to tell */
}

static void test_histogram(void) {
    struct vn_perf_hist *hist = malloc(sizeof(*hist)), *other = malloc(sizeof(*other));
    uint32_t last = 0;

    assert(hist && other);
    for (uint64_t value = 0; value < 1u << 20; value++) {
        uint32_t bucket = vn_perf_hist_bucket(value);

        assert(bucket == last || bucket == last + 1);
        last = bucket;
    }
    assert(vn_perf_hist_bucket(UINT64_MAX) == VN_PERF_HIST_BUCKETS - 1);
    assert(vn_perf_hist_bucket((1ull << 48) - 1) == VN_PERF_HIST_BUCKETS - 1);

    vn_perf_hist_reset(hist);
    assert(vn_perf_hist_quantile(hist, 500000) == 0);
    for (uint64_t value = 1; value <= 1000000; value++)
        vn_perf_hist_add(hist, value);
    for (uint32_t ppm = 1000; ppm < 1000000; ppm += 1000) {
        double got = (double)vn_perf_hist_quantile(hist, ppm);

        assert(got > ppm * 0.99 && got < ppm * 1.01);
    }
    assert(hist->min == 1 && hist->max == 1000000 && vn_perf_hist_quantile(hist, 1000000) <= 1000000);
    vn_perf_hist_reset(other);
    vn_perf_hist_add(other, 5000000);
    vn_perf_hist_merge(hist, other);
    assert(hist->nr == 1000001 && hist->max == 5000000 && hist->min == 1);
    free(hist);
    free(other);
}

static void test_stamps(void) {
    uint8_t data[4 * 512];

    assert(vn_perf_crc32c(0, "123456789", 9) == 0xe3069283u); /* the check value of CRC-32C */
    assert(vn_perf_crc32c(vn_perf_crc32c(0, "1234", 4), "56789", 5) == 0xe3069283u);
    vn_perf_stamp_blocks(data, 512, 4, 100, 7, 3);
    for (uint64_t i = 0; i < 4; i++)
        assert(vn_perf_check_block(data + i * 512, 512, 100 + i, 7, 3) == VN_PERF_GOOD);
    assert(vn_perf_check_block(data, 512, 101, 7, 3) == VN_PERF_BAD);     /* misplaced */
    assert(vn_perf_check_block(data, 512, 100, 7, 4) == VN_PERF_BAD);     /* stale */
    assert(vn_perf_check_block(data, 512, 100, 8, 3) == VN_PERF_FOREIGN); /* of another run */
    for (uint32_t at = 0; at < 512; at += 37) {
        data[at] ^= 1;
        assert(vn_perf_check_block(data, 512, 100, 7, 3) != VN_PERF_GOOD);
        data[at] ^= 1;
    }
    memcpy(data + 256, data + 512 + 256, 256); /* torn: half of another block */
    assert(vn_perf_check_block(data, 512, 100, 7, 3) == VN_PERF_BAD);
}

static int json(const char *text, const char *key, uint64_t *value) {
    return vn_host_json_uint(text, strlen(text) + 1, key, value);
}

static void test_json(void) {
    uint64_t value = 0;

    assert(json("{\"capabilities\":{\"max_msg_fds\":8,\"x\":1}}", "max_msg_fds", &value) == 0 && value == 8);
    assert(json("{ \"max_msg_fds\" : \n 32 }", "max_msg_fds", &value) == 0 && value == 32);
    assert(json("{}", "max_msg_fds", &value) == -ENOENT);
    assert(json("", "max_msg_fds", &value) == -ENOENT);
    assert(json("{\"max_msg_fds\":}", "max_msg_fds", &value) == -EINVAL);
    assert(json("{\"max_msg_fds\":-1}", "max_msg_fds", &value) == -EINVAL);
    assert(json("{\"max_msg_fds\":99999999999999999999}", "max_msg_fds", &value) == -EINVAL);
    assert(vn_host_json_uint("\"k\":12", 5, "k", &value) == 0 && value == 1); /* never past the end */
    assert(vn_host_json_uint("\"k\":", 4, "k", &value) == -EINVAL);
    assert(vn_host_json_uint("\"k\"", 3, "k", &value) == -ENOENT);
}

static void test_header(void) {
    struct vn_vu_header good = {.id = 3, .command = 9, .size = 16, .flags = VN_VU_TYPE_REPLY}, h = good;

    assert(vn_host_check_header(&h, 9, 3) == 0);
    assert(vn_host_check_header(&h, 10, 3) == -EPROTO);
    assert(vn_host_check_header(&h, 9, 4) == -EPROTO);
    h.size = 15;
    assert(vn_host_check_header(&h, 9, 3) == -EPROTO);
    h.size = 0xffffffff;
    assert(vn_host_check_header(&h, 9, 3) == -EPROTO);
    h = good;
    h.flags = 2;
    assert(vn_host_check_header(&h, 9, 3) == -EPROTO);
}

struct info_with_area {
    struct vn_vu_region_info info;
    struct vn_vu_sparse sparse;
    struct vn_vu_area area;
};

static void test_sparse(void) {
    struct info_with_area good = {.info = {.flags = 7 | VN_VU_REGION_CAPS, .cap_offset = 32, .size = 0x4000},
                                  .sparse = {.cap = {.id = VN_VU_CAP_SPARSE_MMAP}, .nr_areas = 1},
                                  .area = {0x1000, 0x1000}};
    struct info_with_area x = good;
    struct vn_vu_area area;
    uint32_t nr;

    assert(vn_host_parse_sparse(&x, sizeof(x), &nr, &area) == 0 && nr == 1 && area.offset == 0x1000);
    for (size_t len = 0; len < sizeof(x); len++) { /* cut anywhere: refused */
        uint8_t *exact = malloc(len ? len : 1);

        assert(exact);
        memcpy(exact, &x, len);
        assert(vn_host_parse_sparse(exact, len, &nr, &area) == -EPROTO);
        free(exact);
    }
    x.sparse.nr_areas = 0xffffffff;
    assert(vn_host_parse_sparse(&x, sizeof(x), &nr, &area) == -EPROTO);
    x = good;
    x.info.cap_offset = 0xfffffff0;
    assert(vn_host_parse_sparse(&x, sizeof(x), &nr, &area) == -EPROTO);
    x = good;
    x.sparse.cap.id = 99;
    x.sparse.cap.next = 32; /* a chain that bites its tail */
    assert(vn_host_parse_sparse(&x, sizeof(x), &nr, &area) == -EPROTO);
    x.info.flags = 3;
    assert(vn_host_parse_sparse(&x, sizeof(x), &nr, &area) == 0 && nr == 0);
}

/* Walks PRPs as a controller does, and answers how many bytes are contiguous from data_offset. */
static uint64_t walk(const struct vn_host *host, const struct vn_sqe *sqe, uint64_t data_offset, uint64_t len) {
    uint64_t done = VN_HOST_PAGE - data_offset % VN_HOST_PAGE;
    const uint64_t *list;

    assert(sqe->prp1 == host->iova_base + data_offset);
    if (len <= done)
        return len;
    if (len - done <= VN_HOST_PAGE) {
        assert(sqe->prp2 == host->iova_base + data_offset + done);
        return len;
    }
    list = (const uint64_t *)(const void *)(host->mem + (sqe->prp2 - host->iova_base));
    for (uint32_t i = 0; done < len; i++) {
        if (i == 511 && len - done > VN_HOST_PAGE) {
            list = (const uint64_t *)(const void *)(host->mem + (list[511] - host->iova_base));
            i = 0;
        }
        assert(list[i] == host->iova_base + data_offset + done);
        done += VN_HOST_PAGE;
    }
    return len;
}

static void test_memory_and_prps(void) {
    struct vn_host *host = calloc(1, sizeof(*host));
    uint64_t list, offset, again;

    assert(host);
    host->memfd = -1;
    host->iova_base = 0x123000000ull;
    assert(vn_host_memory_init(host, 16u << 20) == 0);
    assert(vn_host_alloc(host, 0, &offset) == -EINVAL);
    assert(vn_host_alloc(host, 17u << 20, &offset) == -ENOMEM && strlen(vn_host_error()) > 0);
    assert(vn_host_alloc(host, 5 * VN_HOST_PAGE, &list) == 0 && list % VN_HOST_PAGE == 0);
    assert(vn_host_alloc(host, 12u << 20, &offset) == 0);
    for (uint64_t at = 0; at < 8192; at += 3 * 512 + 4) {
        for (uint64_t len = 512; len < 9u << 20; len += len < 16384 ? 512 : len / 3) {
            struct vn_sqe sqe = {.opcode = 2};

            assert(vn_host_build_prps(host, &sqe, offset + at, len, list, 5 * VN_HOST_PAGE) == 0);
            assert(walk(host, &sqe, offset + at, len) == len && sqe.opcode == 2);
        }
    }
    struct vn_sqe sqe = {.opcode = 2};
    assert(vn_host_build_prps(host, &sqe, offset, 3 * VN_HOST_PAGE, list, 8) == -ENOSPC);
    assert(vn_host_build_prps(host, &sqe, offset, 3 * VN_HOST_PAGE, list, 16) == 0);
    assert(vn_host_build_prps(host, &sqe, offset, 513 * VN_HOST_PAGE + 512, list, VN_HOST_PAGE) == -ENOSPC);
    assert(vn_host_build_prps(host, &sqe, offset, 0, list, 8) == -EINVAL);
    assert(vn_host_build_prps(host, &sqe, UINT64_MAX, 4096, list, 8) == -EINVAL);
    assert(vn_host_build_prps(host, &sqe, offset, UINT64_MAX, list, 8) == -EINVAL);
    assert(vn_host_free(host, offset, 12u << 20) == 0);
    assert(vn_host_alloc(host, VN_HOST_PAGE, &again) == 0 && again == offset);
    assert(vn_host_free(host, UINT64_MAX - 4095, 4096) == -EINVAL);
    vn_host_memory_fini(host);
    free(host);
}

static void test_doorbell_addresses(void) {
    struct vn_host *host = calloc(1, sizeof(*host));
    uint32_t page[1024];
    struct vn_host_db db;

    assert(host);
    host->db_map = page;
    host->db_area_offset = 0x1000;
    host->db_area_size = sizeof(page);
    vn_host_db_init(host, &db, 3, true);
    assert(db.bar_offset == 0x1000 + 7 * 4 && db.map == page + 7 && !db.shadow);
    vn_host_db_init(host, &db, 511, true);
    assert(db.map == page + 1023);
    vn_host_db_init(host, &db, 512, false); /* behind the mapped area: by message */
    assert(!db.map && db.bar_offset == 0x2000);
    host->cap = 2ull << VN_CAP_DSTRD_SHIFT;
    vn_host_db_init(host, &db, 3, false);
    assert(db.bar_offset == 0x1000 + 6 * 16 && db.map == page + 24);
    free(host);
}

int main(void) {
    test_event_rule();
    test_histogram();
    test_stamps();
    test_json();
    test_header();
    test_sparse();
    test_memory_and_prps();
    test_doorbell_addresses();
    puts("ok");
    return 0;
}
