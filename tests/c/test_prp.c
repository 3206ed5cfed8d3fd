/* PRP lists and SGLs: every rule and boundary by name, then random shapes against a naive model that knows which byte
 * of the guest is which byte of the transfer.
 */
#include "guest/guest_mem.h"
#include "vn_test.h"

#define RAM_BYTES (1u << 20)
#define PAGE 4096u
#define HOLE_GPA 0x900000u

static uint8_t *ram; /* guest addresses 0 to RAM_BYTES, in two regions that meet in the middle */
static struct vn_guest_mem mem;
static struct iovec iov[300];

static struct vn_iov_list new_list(uint32_t max) {
    return (struct vn_iov_list){.mem = &mem, .iov = iov, .max = max, .write = true};
}

static uint64_t *entry(uint64_t gpa) {
    return (uint64_t *)(ram + gpa);
}

static struct vn_sgl_desc *desc(uint64_t gpa) {
    return (struct vn_sgl_desc *)(ram + gpa);
}

static uint64_t total(const struct vn_iov_list *list) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < list->nr; i++)
        sum += list->iov[i].iov_len;
    return sum;
}

static vn_status prp(uint64_t prp1, uint64_t prp2, uint32_t length) {
    struct vn_iov_list list = new_list(300);
    vn_status status = vn_prp_map(&list, prp1, prp2, length);
    if (!status)
        CHECK_EQ(total(&list), length);
    return status;
}

static vn_status sgl(uint64_t addr, uint32_t bytes, uint8_t type, uint32_t length) {
    struct vn_iov_list list = new_list(300);
    struct vn_sgl_desc first = {.addr = addr, .length = bytes, .type = type};
    vn_status status = vn_sgl_map(&list, &first, length);
    if (!status)
        CHECK_EQ(total(&list), length);
    return status;
}

static void test_prp_rules(void) {
    CHECK_EQ(prp(0x1000, 0, PAGE), VN_SC_SUCCESS);
    CHECK_EQ(prp(0x1004, 0, PAGE - 4), VN_SC_SUCCESS); /* PRP2 is not looked at */
    CHECK_EQ(prp(0x1004, 1, PAGE - 4), VN_SC_SUCCESS);
    for (uint64_t odd = 1; odd < 4; odd++)
        CHECK_EQ(prp(0x1000 + odd, 0, 512), VN_SC_INVALID_PRP_OFFSET);
    CHECK_EQ(prp(0x1ffc, 0x3000, 4), VN_SC_SUCCESS);
    CHECK_EQ(prp(0x1ffc, 0x3000, 5), VN_SC_SUCCESS); /* one byte of the second page */
    CHECK_EQ(prp(0x1ffc, 0x3004, 5), VN_SC_INVALID_PRP_OFFSET); /* PRP2 as a page has no offset */
    CHECK_EQ(prp(0x1000, 0x3000, 2 * PAGE), VN_SC_SUCCESS);
    CHECK_EQ(prp(0x1004, 0x3000, 2 * PAGE - 4), VN_SC_SUCCESS);
    *entry(0x3000) = 0x5000;
    *entry(0x3008) = 0x6000;
    CHECK_EQ(prp(0x1000, 0x3000, 2 * PAGE + 1), VN_SC_SUCCESS); /* from here on PRP2 is a list */
    CHECK_EQ(prp(0x1004, 0x3000, 2 * PAGE - 3), VN_SC_SUCCESS);
    CHECK_EQ(prp(0x1000, 0x3004, 3 * PAGE), VN_SC_INVALID_PRP_OFFSET); /* a list is qword aligned */
    *entry(0x3008) = 0x6008;
    CHECK_EQ(prp(0x1000, 0x3000, 3 * PAGE), VN_SC_INVALID_PRP_OFFSET); /* entries are page aligned */
    *entry(0x3008) = HOLE_GPA;
    CHECK_EQ(prp(0x1000, 0x3000, 3 * PAGE), VN_SC_DATA_TRANSFER_ERROR);
    CHECK_EQ(prp(HOLE_GPA, 0x3000, PAGE), VN_SC_DATA_TRANSFER_ERROR);
    CHECK_EQ(prp(0x1000, HOLE_GPA, 3 * PAGE), VN_SC_DATA_TRANSFER_ERROR);
    CHECK_EQ(prp(UINT64_MAX - 3, 0, 512), VN_SC_DATA_TRANSFER_ERROR);
    CHECK_EQ(prp(0x1000, UINT64_MAX & ~7ull, 3 * PAGE), VN_SC_DATA_TRANSFER_ERROR);
}

/* Zero is an address like any other: it means neither "contiguous" nor "none". */
static void test_prp_zero(void) {
    struct vn_iov_list list = new_list(300);
    CHECK_EQ(vn_prp_map(&list, 0x8000, 0, 2 * PAGE), VN_SC_SUCCESS);
    CHECK_EQ(list.nr, 2);
    CHECK(iov[1].iov_base == ram && iov[1].iov_len == PAGE);
}

/* The last entry of a list page is a page when nothing remains beyond it, a pointer to the next list otherwise. */
static void test_prp_chain(void) {
    for (uint32_t start = 0; start < PAGE; start += 8) {
        uint32_t nr = (PAGE - start) / 8;
        if (nr > 64 && nr != 512)
            continue;
        uint64_t at = 0x4000 + start;
        for (uint32_t i = 0; i < nr; i++)
            entry(at)[i] = 0x10000 + (uint64_t)i % 16 * PAGE;
        if (nr >= 2)
            CHECK_EQ(prp(0x1000, at, (1 + nr) * PAGE), VN_SC_SUCCESS); /* fits to the last entry */
        entry(at)[nr - 1] = 0x5000 + start; /* one page more: it chains */
        entry(0x5000 + start)[0] = 0x20000;
        if (nr >= 2) {
            entry(0x5000 + start)[1] = 0x21000;
            CHECK_EQ(prp(0x1000, at, (1 + nr) * PAGE + 1), VN_SC_SUCCESS);
        }
        entry(at)[nr - 1] = 0x5001 + start;
        CHECK_EQ(prp(0x1000, at, (2 + nr) * PAGE), VN_SC_INVALID_PRP_OFFSET);
        entry(at)[nr - 1] = HOLE_GPA;
        CHECK_EQ(prp(0x1000, at, (2 + nr) * PAGE), VN_SC_DATA_TRANSFER_ERROR);
    }
}

/* Lists of nothing but a pointer to the next one go in a circle, and end. */
static void test_prp_circle(void) {
    *entry(0x4ff8) = 0x4ff8;
    CHECK_EQ(prp(0x1000, 0x4ff8, 3 * PAGE), VN_SC_INVALID_FIELD);
}

static void test_iov_bound(void) {
    for (uint32_t i = 0; i < 8; i++)
        entry(0x4000)[i] = 0x10000 + 2ull * i * PAGE; /* no two are adjacent */
    struct vn_iov_list list = new_list(8);
    CHECK_EQ(vn_prp_map(&list, 0x1000, 0x4000, 9 * PAGE), VN_SC_INVALID_SGL_COUNT);
    CHECK_EQ(list.nr, 8);
}

#define BLOCK (VN_SGL_DATA_BLOCK << 4)
#define SEGMENT (VN_SGL_SEGMENT << 4)
#define LAST (VN_SGL_LAST_SEGMENT << 4)

static void put(uint64_t gpa, uint64_t addr, uint32_t length, uint8_t type) {
    *desc(gpa) = (struct vn_sgl_desc){.addr = addr, .length = length, .type = type};
}

static void test_sgl_rules(void) {
    CHECK_EQ(sgl(0x1000, PAGE, BLOCK, PAGE), VN_SC_SUCCESS);
    CHECK_EQ(sgl(0x1001, 3, BLOCK, 3), VN_SC_SUCCESS);
    CHECK_EQ(sgl(0x1000, PAGE - 1, BLOCK, PAGE), VN_SC_SGL_DATA_LENGTH);
    CHECK_EQ(sgl(0x1000, PAGE + 1, BLOCK, PAGE), VN_SC_SUCCESS); /* the rest is left alone */
    CHECK_EQ(sgl(HOLE_GPA, PAGE, BLOCK, PAGE), VN_SC_DATA_TRANSFER_ERROR);
    CHECK_EQ(sgl(UINT64_MAX, PAGE, BLOCK, PAGE), VN_SC_DATA_TRANSFER_ERROR);
    CHECK_EQ(sgl(0x1000, PAGE, BLOCK | VN_SGL_SUBTYPE_OFFSET, PAGE), VN_SC_SGL_TYPE); /* for fabrics only */
    for (unsigned type = 0; type < 256; type++) {
        if (type != BLOCK && type != SEGMENT && type != LAST)
            CHECK_EQ(sgl(0x1000, PAGE, (uint8_t)type, PAGE), VN_SC_SGL_TYPE);
    }
    /* one last segment of two blocks */
    put(0x4000, 0x10000, 512, BLOCK);
    put(0x4010, 0x20000, 1024, BLOCK);
    CHECK_EQ(sgl(0x4000, 32, LAST, 1536), VN_SC_SUCCESS);
    CHECK_EQ(sgl(0x4000, 32, LAST, 1535), VN_SC_SUCCESS);
    CHECK_EQ(sgl(0x4000, 32, LAST, 1537), VN_SC_SGL_DATA_LENGTH);
    CHECK_EQ(sgl(0x4000, 16, LAST, 1536), VN_SC_SGL_DATA_LENGTH);
    for (uint32_t bytes = 0; bytes < 64; bytes++) {
        if (bytes % 16 || !bytes)
            CHECK_EQ(sgl(0x4000, bytes, LAST, 1536), VN_SC_INVALID_SGL_SEGMENT);
    }
    CHECK_EQ(sgl(HOLE_GPA, 32, LAST, 1536), VN_SC_DATA_TRANSFER_ERROR);
    CHECK_EQ(sgl(0x4000, UINT32_MAX & ~15u, LAST, 1536), VN_SC_INVALID_SGL_COUNT);
    /* a segment has to end in a pointer, a last segment may hold none */
    CHECK_EQ(sgl(0x4000, 32, SEGMENT, 1536), VN_SC_INVALID_SGL_SEGMENT);
    put(0x4020, 0x5000, 16, LAST);
    put(0x5000, 0x30000, 64, BLOCK);
    CHECK_EQ(sgl(0x4000, 48, SEGMENT, 1600), VN_SC_SUCCESS);
    CHECK_EQ(sgl(0x4000, 48, LAST, 1600), VN_SC_INVALID_SGL_SEGMENT);
    put(0x4030, 0x10000, 0, BLOCK);
    CHECK_EQ(sgl(0x4000, 64, SEGMENT, 1600), VN_SC_INVALID_SGL_SEGMENT); /* the pointer is not the last one */
    put(0x4010, 0x20000, 0, BLOCK); /* a block of no bytes is none */
    CHECK_EQ(sgl(0x4000, 48, SEGMENT, 576), VN_SC_SUCCESS);
    put(0x4010, 0x20000, 4, VN_SGL_BIT_BUCKET << 4); /* not advertised */
    CHECK_EQ(sgl(0x4000, 48, SEGMENT, 580), VN_SC_SGL_TYPE);
    put(0x4010, HOLE_GPA, 1024, BLOCK);
    CHECK_EQ(sgl(0x4000, 48, SEGMENT, 1600), VN_SC_DATA_TRANSFER_ERROR);
}

static void test_sgl_circle(void) {
    put(0x4000, 0x4000, 16, SEGMENT);
    CHECK_EQ(sgl(0x4000, 16, SEGMENT, 512), VN_SC_INVALID_SGL_COUNT);
}

/* --- Random shapes. The model is a list of (guest address, length); it is laid out as PRPs or SGLs by the rules. --- */
struct shape {
    uint64_t gpa[300];
    uint32_t len[300], nr;
};

static uint8_t *model_byte(const struct shape *shape, uint64_t at) {
    for (uint32_t i = 0; i < shape->nr; i++) {
        if (at < shape->len[i])
            return ram + shape->gpa[i] + at;
        at -= shape->len[i];
    }
    return NULL;
}

static void check_shape(const struct shape *shape, const struct vn_iov_list *list, uint32_t length) {
    uint64_t at = 0;
    for (uint32_t i = 0; i < list->nr; i++) {
        CHECK(list->iov[i].iov_len);
        uint8_t *base = list->iov[i].iov_base;
        CHECK(base >= ram && base + list->iov[i].iov_len <= ram + RAM_BYTES);
        for (uint64_t step = 0; step < list->iov[i].iov_len; step += 97) /* enough to see a page out of place */
            CHECK(model_byte(shape, at + step) == base + step);
        at += list->iov[i].iov_len;
        CHECK(model_byte(shape, at - 1) == base + list->iov[i].iov_len - 1);
    }
    CHECK_EQ(at, length);
}

/* The data is in the upper half of the memory, lists are in the lower one. */
static uint64_t data_page(struct vn_test_random *random) {
    return RAM_BYTES / 4 + vn_test_below(random, 3 * RAM_BYTES / 4 / PAGE) * PAGE;
}

static void random_prp(struct vn_test_random *random) {
    struct shape shape = {0};
    uint32_t length = 1 + (uint32_t)vn_test_below(random, 1u << vn_test_below(random, 21));
    uint64_t offset = vn_test_below(random, 3) ? vn_test_below(random, PAGE / 4) * 4 : 0;
    uint32_t left = length;
    while (left) {
        uint64_t from = shape.nr ? 0 : offset;
        shape.gpa[shape.nr] = data_page(random) + from;
        shape.len[shape.nr] = left < PAGE - from ? left : (uint32_t)(PAGE - from);
        left -= shape.len[shape.nr++];
    }
    uint64_t prp2 = vn_test_draw(random);
    if (shape.nr == 2)
        prp2 = shape.gpa[1];
    if (shape.nr > 2) {
        uint64_t room = 0; /* a fresh list page each, at 0, 0x1000 ... */
        uint64_t at = prp2 = vn_test_below(random, 2) ? vn_test_below(random, PAGE / 8) * 8 : 0;
        for (uint32_t i = 1; i < shape.nr; i++) {
            if ((at & (PAGE - 1)) == PAGE - 8 && i + 1 < shape.nr) {
                room += PAGE;
                uint64_t next = room + (vn_test_below(random, 2) ? vn_test_below(random, PAGE / 8 - 1) * 8 : 0);
                *entry(at) = next;
                at = next;
            }
            *entry(at) = shape.gpa[i];
            at += 8;
        }
        CHECK(room < RAM_BYTES / 4);
    }
    struct vn_iov_list list = new_list(300);
    CHECK_EQ(vn_prp_map(&list, shape.gpa[0], prp2, length), VN_SC_SUCCESS);
    check_shape(&shape, &list, length);
}

static void random_sgl(struct vn_test_random *random) {
    struct shape shape = {0};
    uint32_t length = 0, nr = 1 + (uint32_t)vn_test_below(random, 250);
    uint64_t at = vn_test_below(random, 64), start = at, segment = 0;
    struct vn_sgl_desc first = {.addr = start}, *pointer = &first;
    uint32_t in_segment = 0;
    for (uint32_t i = 0; i < nr; i++) {
        uint32_t len = (uint32_t)vn_test_below(random, 5000);
        uint64_t gpa = RAM_BYTES / 4 + vn_test_below(random, 3 * RAM_BYTES / 4 - len);
        if (in_segment && vn_test_below(random, 20) == 0) { /* on to the next segment */
            pointer->type = SEGMENT;
            pointer->length = (in_segment + 1) * 16;
            pointer = desc(at);
            segment += 0x1400;
            at = segment + vn_test_below(random, 64);
            *pointer = (struct vn_sgl_desc){.addr = at};
            in_segment = 0;
        }
        put(at, gpa, len, BLOCK);
        at += 16;
        in_segment++;
        shape.gpa[shape.nr] = gpa;
        shape.len[shape.nr++] = len;
        length += len;
    }
    pointer->type = LAST;
    pointer->length = in_segment * 16;
    if (!length || segment > RAM_BYTES / 4 - 0x2000)
        return;
    struct vn_iov_list list = new_list(300);
    CHECK_EQ(vn_sgl_map(&list, &first, length), VN_SC_SUCCESS);
    check_shape(&shape, &list, length);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    CHECK((ram = aligned_alloc(PAGE, RAM_BYTES)));
    memset(ram, 0, RAM_BYTES);
    CHECK_EQ(vn_guest_mem_add(&mem, 0, RAM_BYTES / 2 + 100, ram, true, true), 0); /* they meet within a page */
    CHECK_EQ(vn_guest_mem_add(&mem, RAM_BYTES / 2 + 100, RAM_BYTES / 2 - 100, ram + RAM_BYTES / 2 + 100, true, true), 0);
    test_prp_rules();
    test_prp_zero();
    test_prp_chain();
    test_prp_circle();
    test_iov_bound();
    test_sgl_rules();
    test_sgl_circle();
    for (int i = 0; i < 3000; i++) {
        random_prp(&random);
        random_sgl(&random);
    }
    free(ram);
    return 0;
}
