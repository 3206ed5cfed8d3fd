/* PRP lists and SGLs in guest memory that the input writes: whatever it says, the walk ends, and every byte of its
 * iovecs lies in a region of the right permission.
 */
#include "fuzz_input.h"

#include "guest/guest_mem.h"

#define NR_PAGES 16u
#define PAGE 4096u
#define MAX_IOVECS 257u

static uint8_t ram[NR_PAGES * PAGE] __attribute__((aligned(PAGE)));
static struct vn_guest_mem mem;

/* Regions of whole or broken pages, with holes, some of them read-only, one at the top of the address space. */
static void make_regions(struct input *input) {
    memset(&mem, 0, sizeof(mem));
    for (uint32_t i = 0, nr = take8(input) % 6; i < nr; i++) {
        uint32_t from = (uint32_t)take(input, 2) % sizeof(ram);
        uint32_t len = (uint32_t)take(input, 2);
        uint8_t flags = take8(input);
        uint64_t gpa = flags & 1 ? UINT64_MAX - (sizeof(ram) - 1) + from : from;
        if (flags & 2) {
            from &= ~(PAGE - 1);
            gpa &= ~(uint64_t)(PAGE - 1);
            len |= PAGE - 1;
        }
        from &= ~7u; /* addresses of the guest and ours agree to the qword, as mappings do */
        gpa &= ~7ull;
        if (len > sizeof(ram) - from)
            len = (uint32_t)sizeof(ram) - from;
        vn_guest_mem_add(&mem, gpa, len, ram + from, !(flags & 4), !(flags & 8));
    }
    if (!mem.nr)
        vn_guest_mem_add(&mem, 0, sizeof(ram), ram, true, true);
}

static void fill_ram(struct input *input) {
    while (input->left > 2) {
        uint32_t at = (uint32_t)take(input, 2) % sizeof(ram);
        uint8_t op = take8(input);
        if (op < 128) { /* one entry, perhaps aligned */
            uint64_t entry = take(input, 3);
            if (op & 1)
                entry &= ~(uint64_t)(PAGE - 1);
            at &= ~7u;
            memcpy(ram + at, &entry, sizeof(entry));
        } else { /* one descriptor */
            struct vn_sgl_desc desc = {.addr = take(input, 2), .length = (uint32_t)take(input, 2)};
            if (op & 1)
                desc.length &= ~15u;
            desc.type = op & 2 ? (uint8_t)((take8(input) % 4) << 4) : take8(input);
            if (at > sizeof(ram) - sizeof(desc))
                at = sizeof(ram) - sizeof(desc);
            memcpy(ram + (at & ~15u), &desc, sizeof(desc));
        }
    }
}

static bool in_a_region(const struct iovec *iov, bool write) {
    const uint8_t *at = iov->iov_base;
    size_t left = iov->iov_len;
    while (left) { /* it may be joined from several */
        uint32_t i = 0;
        for (; i < mem.nr; i++) {
            const struct vn_guest_region *region = &mem.regions[i];
            if (at < region->hva || at >= region->hva + region->len || !(write ? region->writable : region->readable))
                continue;
            size_t there = (size_t)(region->hva + region->len - at);
            size_t n = there < left ? there : left;
            at += n;
            left -= n;
            break;
        }
        if (i == mem.nr)
            return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    uint8_t mode = take8(&input);
    uint32_t length = 1 + (uint32_t)take(&input, mode & 4 ? 3 : 2) % (1u << 20);
    struct vn_sqe cmd = {.prp1 = take(&input, 3), .prp2 = take(&input, 3)};
    struct vn_sgl_desc sgl1 = {.addr = cmd.prp1, .length = mode & 8 ? length : (uint32_t)cmd.prp2, .type = take8(&input)};
    uint32_t max = mode & 16 ? 1 + take8(&input) : MAX_IOVECS;
    struct iovec *iov = malloc(max * sizeof(*iov)); /* exactly so many: one more is seen */
    MUST(iov);
    memset(ram, 0, sizeof(ram));
    make_regions(&input);
    fill_ram(&input);

    struct vn_iov_list list = {.mem = &mem, .iov = iov, .max = max, .write = mode & 2};
    vn_status status = mode & 1 ? vn_sgl_map(&list, &sgl1, length) : vn_prp_map(&list, cmd.prp1, cmd.prp2, length);
    uint64_t sum = 0;
    MUST(list.nr <= max);
    for (uint32_t i = 0; i < list.nr; i++) {
        MUST(iov[i].iov_len);
        MUST(in_a_region(&iov[i], list.write));
        sum += iov[i].iov_len;
    }
    MUST(status ? sum <= length : sum == length);
    free(iov);
    return 0;
}
