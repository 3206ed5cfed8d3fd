/* The write-intent bitmap: which regions may differ between legs, durably before they do. A file with a checksummed head and
 * a bit a region; written page by page through io_uring, each write durable (RWF_DSYNC) before it counts.
 * Opened by mirror.c on the control thread; used by the other parts on the channel's reactor.
 *
 * A torn page is no danger: it has old bits and new ones, and a bit matters only when the write that sets it has completed.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/mirror.h"
#include "core/crc32c.h"
#include "core/util.h"

#define SWAP(a, b)              \
    do {                        \
        __typeof__(a) a_ = (a); \
        (a) = (b);              \
        (b) = a_;               \
    } while (0)
#define PAGE_BYTES 4096u
#define REGION_MIN (64u << 10)
#define REGION_MAX (1u << 30)
#define REGION_DEFAULT (1u << 20)
#define REGIONS_MAX (1ull << 22) /* half a MiB of bits, looked through every few seconds */
#define REGIONS_LIMIT (64 * REGIONS_MAX) /* when it is wanted so, or the mirror has grown */

/* Little-endian, as this program is. */
struct head {
    char magic[8];
    uint32_t version, crc; /* CRC-32C of the head, with this field zero */
    uint8_t uuid[16];
    uint64_t size, region_bytes, generation;
};

static uint32_t crc_of(struct head head) {
    head.crc = 0;
    return vn_crc32c_end(vn_crc32c(VN_CRC32C_INIT, &head, sizeof(head)));
}

static bool is_head(const struct head *head) {
    return !memcmp(head->magic, "VNMIRROR", 8) && head->version == 1 && head->crc == crc_of(*head);
}

uint64_t vn_bitmap_size_of(const char *path) {
    struct head head;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool known = fd >= 0 && pread(fd, &head, sizeof(head), 0) == sizeof(head) && is_head(&head);
    if (fd >= 0)
        close(fd);
    return known ? head.size : 0;
}

/* --- Bits --- */

/* The bits [first, last] of word w as a mask. */
static uint64_t mask_of(uint64_t w, uint64_t first, uint64_t last) {
    uint64_t low = w == first / 64 ? ~0ull << (first % 64) : ~0ull;
    uint64_t high = w == last / 64 ? ~0ull >> (63 - last % 64) : ~0ull;
    return low & high;
}

void vn_bitmap_set(const struct vn_bitmap *map, uint64_t *bits, uint64_t offset, uint64_t length) {
    uint64_t first = offset >> map->region_shift, last = (offset + length - 1) >> map->region_shift;
    for (uint64_t w = first / 64; w <= last / 64; w++)
        bits[w] |= mask_of(w, first, last);
}

void vn_bitmap_set_all(const struct vn_bitmap *map, uint64_t *bits) {
    vn_bitmap_set(map, bits, 0, map->size);
}

uint64_t vn_bitmap_count(const struct vn_bitmap *map, const uint64_t *bits) {
    uint64_t nr = 0;
    for (uint64_t w = 0; w < map->nr_words; w++)
        nr += (uint64_t)__builtin_popcountll(bits[w]);
    return nr;
}

uint64_t vn_bitmap_count_todo(const struct vn_bitmap *map) {
    uint64_t nr = 0;
    for (uint64_t w = 0; w < map->nr_words; w++)
        nr += (uint64_t)__builtin_popcountll(map->unsure[w] | map->copy[w]);
    return nr;
}

int64_t vn_bitmap_next_todo(const struct vn_bitmap *map, uint64_t from) {
    for (uint64_t i = 0; i <= map->nr_words; i++) { /* the first word twice: what is before from comes last */
        uint64_t w = (from / 64 + i) % map->nr_words;
        uint64_t word = map->unsure[w] | map->copy[w];
        if (i == 0)
            word &= ~0ull << (from % 64);
        if (word)
            return (int64_t)(w * 64 + (uint64_t)__builtin_ctzll(word));
    }
    return -1;
}

static void set_page_due(struct vn_bitmap *map, uint64_t word) {
    uint64_t page = word * 64 / VN_MIRROR_PAGE_BITS;
    map->page_due[page / 64] |= 1ull << (page % 64);
}

bool vn_bitmap_mark(struct vn_bitmap *map, uint64_t offset, uint64_t length) {
    uint64_t first = offset >> map->region_shift, last = (offset + length - 1) >> map->region_shift;
    bool durable = true;
    for (uint64_t w = first / 64; w <= last / 64; w++) {
        uint64_t mask = mask_of(w, first, last);
        map->recent[w] |= mask;
        durable &= (map->disk[w] & mask) == mask;
        if ((map->dirty[w] & mask) == mask)
            continue; /* it is there, or on its way */
        map->dirty[w] |= mask;
        set_page_due(map, w);
    }
    return durable;
}

void vn_bitmap_dirty_all(struct vn_bitmap *map) {
    vn_bitmap_set_all(map, map->dirty);
    for (uint64_t page = 0; page < map->nr_pages; page++)
        map->page_due[page / 64] |= 1ull << (page % 64);
    map->all_set = true;
}

bool vn_bitmap_choose(struct vn_bitmap *map, bool all) {
    uint64_t any = 0;
    for (uint64_t w = 0; w < map->nr_words; w++) {
        map->candidate[w] = map->dirty[w] & ~map->unsure[w] & ~map->copy[w] & (all ? ~0ull : ~map->recent[w]);
        map->recent[w] = 0;
        any |= map->candidate[w];
    }
    return any;
}

void vn_bitmap_clear_chosen(struct vn_bitmap *map) {
    for (uint64_t w = 0; w < map->nr_words; w++) {
        uint64_t clear = map->candidate[w] & map->dirty[w] & ~map->recent[w] & ~map->unsure[w] & ~map->copy[w];
        if (!clear)
            continue;
        map->dirty[w] &= ~clear;
        set_page_due(map, w);
    }
}

/* --- The file, from the reactor --- */

static int64_t next_due(const struct vn_bitmap *map) {
    for (uint64_t w = 0; w * 64 < map->nr_pages; w++) {
        if (map->page_due[w])
            return (int64_t)(w * 64 + (uint64_t)__builtin_ctzll(map->page_due[w]));
    }
    return -1;
}

bool vn_bitmap_is_idle(const struct vn_bitmap *map) {
    return !map->writing && (map->broken || next_due(map) < 0);
}

bool vn_bitmap_is_clean(const struct vn_bitmap *map) {
    for (uint64_t w = 0; w < map->nr_words; w++) {
        if (map->dirty[w])
            return false;
    }
    return true;
}

static void on_written(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    struct vn_bitmap *map = vn_container_of(op, struct vn_bitmap, op);
    struct vn_mirror *mirror = vn_container_of(map, struct vn_mirror, map);
    struct vn_mirror_chan *mc = mirror->live;
    (void)cqe_flags;
    map->writing = false;
    if (res == (int)PAGE_BYTES) {
        memcpy(&map->disk[map->page_at * PAGE_BYTES / 8], map->page, PAGE_BYTES);
    } else if (res == -EINTR || res == -EAGAIN) {
        map->page_due[map->page_at / 64] |= 1ull << (map->page_at % 64);
    } else {
        map->broken = true; /* what the file says of that page is not known any more */
        if (vn_mirror_alone(mirror) < 0) /* else nobody is in need of it */
            vn_backend_latch(&mirror->backend, res < 0 ? -res : EIO);
    }
    if (next_due(map) < 0 && !map->broken && map->all_set) {
        map->all_set = false;
        for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
            mirror->legs[leg].uncovered &= mirror->legs[leg].state == VN_LEG_NONE;
    }
    vn_bitmap_write(mc);
    vn_mirror_marked(mc);
    if (mc->closing)
        vn_mirror_chan_look(mc);
}

bool vn_bitmap_write(struct vn_mirror_chan *mc) {
    struct vn_bitmap *map = &mc->mirror->map;
    int64_t page = map->writing || map->broken ? -1 : next_due(map);
    if (page < 0)
        return true;
    struct io_uring_sqe *sqe = vn_reactor_sqe(mc->chan.reactor, &map->op);
    if (!sqe) {
        vn_mirror_wake(mc);
        return false;
    }
    uint64_t word = (uint64_t)page * PAGE_BYTES / 8;
    memcpy(map->page, &map->dirty[word], PAGE_BYTES);
    for (uint64_t w = 0; w < PAGE_BYTES / 8; w++) /* what is being cleared does not count from now on */
        map->disk[word + w] &= map->dirty[word + w];
    map->page_due[page / 64] &= ~(1ull << (page % 64));
    map->page_at = (uint64_t)page;
    map->writing = true;
    map->op.done = on_written;
    io_uring_prep_write(sqe, map->fd, map->page, PAGE_BYTES, PAGE_BYTES * ((uint64_t)page + 1));
    sqe->rw_flags = RWF_DSYNC;
    io_uring_sqe_set_data(sqe, &map->op);
    return true;
}

/* --- Opening --- */

static uint64_t default_region(uint64_t size) {
    uint64_t bytes = REGION_DEFAULT;
    while (size / bytes >= REGIONS_MAX)
        bytes *= 2;
    return bytes;
}

static uint64_t regions_of(uint64_t size, uint64_t region_bytes) {
    return (size + region_bytes - 1) / region_bytes;
}

static uint64_t pages_of(uint64_t size, uint64_t region_bytes) {
    return (regions_of(size, region_bytes) + VN_MIRROR_PAGE_BITS - 1) / VN_MIRROR_PAGE_BITS;
}

#define NR_BITS 6u
static void list_bits(struct vn_bitmap *map, uint64_t **bits[NR_BITS]) {
    uint64_t **const all[NR_BITS] = {&map->dirty, &map->disk, &map->recent, &map->unsure, &map->copy, &map->candidate};
    memcpy(bits, all, sizeof(all));
}

/* The geometry, and memory for the bits. */
static int set_up(struct vn_bitmap *map, uint64_t size, uint64_t region_bytes) {
    map->size = size;
    map->region_bytes = region_bytes;
    map->region_shift = (uint32_t)__builtin_ctzll(region_bytes);
    map->nr_regions = regions_of(size, region_bytes);
    map->nr_pages = pages_of(size, region_bytes);
    map->nr_words = map->nr_pages * VN_MIRROR_PAGE_BITS / 64;
    uint64_t **bits[NR_BITS];
    list_bits(map, bits);
    for (uint32_t i = 0; i < NR_BITS; i++) {
        if (!(*bits[i] = calloc(map->nr_words, sizeof(uint64_t))))
            return -ENOMEM;
    }
    map->page_due = calloc(map->nr_pages / 64 + 1, sizeof(uint64_t));
    map->page = calloc(1, PAGE_BYTES);
    return map->page_due && map->page ? 0 : -ENOMEM;
}

static void free_bits(struct vn_bitmap *map) {
    uint64_t **bits[NR_BITS];
    list_bits(map, bits);
    for (uint32_t i = 0; i < NR_BITS; i++)
        free(*bits[i]);
    free(map->page_due);
    free(map->page);
}

static void drop_from(const struct vn_bitmap *map, uint64_t *bits, uint64_t region) {
    for (uint64_t w = region / 64; w < map->nr_words; w++)
        bits[w] &= w == region / 64 ? ~(~0ull << (region % 64)) : 0;
}

/* Nothing is known of what is behind the new end; the memory stays. */
static void cut(struct vn_bitmap *map, uint64_t size) {
    uint64_t **bits[NR_BITS];
    map->size = size;
    map->nr_regions = regions_of(size, map->region_bytes);
    list_bits(map, bits);
    for (uint32_t i = 0; i < NR_BITS; i++)
        drop_from(map, *bits[i], map->nr_regions);
}

static int write_head(const struct vn_bitmap *map, uint64_t size) {
    uint8_t page[PAGE_BYTES] = {0};
    struct head head = {.version = 1, .size = size, .region_bytes = map->region_bytes, .generation = map->generation};
    memcpy(head.magic, "VNMIRROR", 8);
    memcpy(head.uuid, map->uuid, 16);
    head.crc = crc_of(head);
    memcpy(page, &head, sizeof(head));
    errno = 0;
    return pwrite(map->fd, page, sizeof(page), 0) == sizeof(page) && fdatasync(map->fd) == 0 ? 0 : errno ? -errno : -EIO;
}

static int sync_folder(const char *path) {
    char copy[PATH_MAX];
    snprintf(copy, sizeof(copy), "%s", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int err = fd < 0 || fsync(fd) == 0 || errno == EINVAL ? 0 : -errno;
    if (fd >= 0)
        close(fd);
    return err;
}

static int write_bits(const struct vn_bitmap *map) {
    size_t bytes = map->nr_words * sizeof(uint64_t);
    errno = 0;
    return pwrite(map->fd, map->dirty, bytes, PAGE_BYTES) == (ssize_t)bytes && fsync(map->fd) == 0 ? 0 : errno ? -errno : -EIO;
}

/* The bits first and then the head: a file without a head is none. */
static int make(struct vn_bitmap *map, const struct vn_mirror_opts *opts, uint64_t size, bool alone) {
    uint64_t region = opts->region_bytes ? opts->region_bytes : default_region(size);
    int err = set_up(map, size, region);
    if (err)
        return err;
    if (alone || !(opts->flags & VN_MIRROR_SAME))
        vn_bitmap_set_all(map, map->dirty);
    err = ftruncate(map->fd, 0) < 0 ? -errno : write_bits(map);
    map->generation = 1;
    if (!err)
        err = write_head(map, size);
    return err ? err : sync_folder(opts->bitmap_path);
}

/* A size that is not the file's. What was added reads as zeros, and so is the same on all legs that are there; others lack
 * it. What was taken away, as by a change that a crash has undone, must not be known to differ. */
static bool fit(struct vn_bitmap *map, uint64_t before, uint64_t size, bool some_lack, bool alone) {
    if (size < before) {
        uint64_t nr = vn_bitmap_count(map, map->dirty);
        cut(map, size);
        return alone || nr == vn_bitmap_count(map, map->dirty);
    }
    drop_from(map, map->dirty, regions_of(before, map->region_bytes));
    if (size > before && some_lack)
        vn_bitmap_set(map, map->dirty, before, size - before);
    return true;
}

static int take(struct vn_mirror *mirror, const struct vn_mirror_opts *opts, const struct head *head, char *error,
                uint32_t error_size) {
    struct vn_bitmap *map = &mirror->map;
    uint64_t region = head->region_bytes, size = mirror->backend.size, before = head->size;
    bool alone = vn_mirror_alone(mirror) >= 0;
    if (memcmp(head->uuid, opts->uuid, 16) != 0)
        return vn_backend_fail(error, error_size, ESTALE, "the bitmap %s is of another mirror: name its own one, or remove it "
                               "if all is to be copied anew", opts->bitmap_path);
    if (!before || before > INT64_MAX || region < REGION_MIN || region > REGION_MAX || region & (region - 1) ||
        vn_max_u64(size, before) / region > REGIONS_LIMIT)
        return vn_backend_fail(error, error_size, ESTALE, "the bitmap %s is of a mirror of %llu bytes, not %llu",
                               opts->bitmap_path, (unsigned long long)before, (unsigned long long)size);
    int err = set_up(map, vn_max_u64(size, before), region);
    if (err)
        return vn_backend_fail(error, error_size, -err, "out of memory");
    size_t bytes = pages_of(before, region) * PAGE_BYTES;
    errno = 0;
    if (pread(map->fd, map->dirty, bytes, PAGE_BYTES) != (ssize_t)bytes)
        return vn_backend_fail(error, error_size, errno ? errno : EIO, "the bitmap %s cannot be read: remove it, and all "
                               "is copied anew", opts->bitmap_path);
    if (!fit(map, before, size, vn_mirror_in(mirror, 1u << VN_LEG_OUT | 1u << VN_LEG_FAILED), alone))
        return vn_backend_fail(error, error_size, ESTALE, "the bitmap %s is of a mirror of %llu bytes, not %llu, and legs differ "
                               "behind that", opts->bitmap_path, (unsigned long long)before, (unsigned long long)size);
    if (alone)
        vn_bitmap_set_all(map, map->dirty);
    if (alone || size != before) /* before the head says that they are there */
        err = write_bits(map);
    map->generation = head->generation + 1;
    if (!err)
        err = write_head(map, size);
    return err ? vn_backend_fail(error, error_size, -err, "the bitmap %s cannot be written: %s", opts->bitmap_path,
                                 strerror(-err))
               : 0;
}

int vn_bitmap_open(struct vn_mirror *mirror, const struct vn_mirror_opts *opts, char *error, uint32_t error_size) {
    struct vn_bitmap *map = &mirror->map;
    uint64_t region = opts->region_bytes, size = mirror->backend.size;
    uint32_t counts = vn_mirror_in_sync(mirror);
    memcpy(map->uuid, opts->uuid, sizeof(map->uuid));
    map->fd = -1;
    if (!opts->bitmap_path || !opts->bitmap_path[0])
        return vn_backend_fail(error, error_size, EINVAL, "a mirror needs a file for its bitmap");
    if (region && (region < REGION_MIN || region > REGION_MAX || region & (region - 1) || size / region > REGIONS_LIMIT))
        return vn_backend_fail(error, error_size, EINVAL, "a region of %llu bytes is not possible: take a power of two from "
                               "64 KiB to 1 GiB", (unsigned long long)region);
    map->fd = open(opts->bitmap_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat stat;
    if (map->fd < 0 || fstat(map->fd, &stat) < 0)
        return vn_backend_fail(error, error_size, errno, "cannot open the bitmap %s: %s", opts->bitmap_path, strerror(errno));
    if (!S_ISREG(stat.st_mode))
        return vn_backend_fail(error, error_size, EINVAL, "the bitmap %s is no regular file", opts->bitmap_path);
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(map->fd, F_OFD_SETLK, &whole) < 0)
        return vn_backend_fail(error, error_size, EBUSY, "the bitmap %s is in use by another server", opts->bitmap_path);
    struct head head = {.version = 0};
    int err;
    if (pread(map->fd, &head, sizeof(head), 0) == sizeof(head) && is_head(&head)) {
        err = take(mirror, opts, &head, error, error_size);
    } else if (memcmp(&head, &(struct head){.version = 0}, sizeof(head)) != 0) {
        return vn_backend_fail(error, error_size, ESTALE, "%s is no bitmap of a mirror, or is damaged: remove it, and all is "
                               "copied anew", opts->bitmap_path);
    } else {
        err = make(map, opts, size, vn_mirror_alone(mirror) >= 0);
        if (err)
            return vn_backend_fail(error, error_size, -err, "cannot make the bitmap %s: %s", opts->bitmap_path, strerror(-err));
    }
    if (err)
        return err;
    memcpy(map->disk, map->dirty, map->nr_words * sizeof(uint64_t));
    if (counts & (counts - 1)) /* else nobody is there who counts and may differ */
        memcpy(map->unsure, map->dirty, map->nr_words * sizeof(uint64_t)); /* whatever was under way then */
    return 0;
}

int vn_bitmap_prepare(const struct vn_bitmap *map, uint64_t size, struct vn_bitmap *next, char *error, uint32_t error_size) {
    *next = (struct vn_bitmap){.fd = -1};
    if (size / map->region_bytes > REGIONS_LIMIT)
        return vn_backend_fail(error, error_size, EFBIG, "its bitmap has regions of %llu bytes, which would be too many",
                               (unsigned long long)map->region_bytes);
    int err = set_up(next, size, map->region_bytes);
    off_t end = (off_t)((next->nr_pages + 1) * PAGE_BYTES);
    struct stat stat;
    if (!err && fstat(map->fd, &stat) < 0)
        err = -errno;
    if (!err && stat.st_size < end && (ftruncate(map->fd, end) < 0 || fsync(map->fd) < 0))
        err = -errno;
    if (!err)
        err = write_head(map, size);
    if (!err)
        return 0;
    free_bits(next);
    return vn_backend_fail(error, error_size, -err, "its bitmap cannot be of %llu bytes: %s", (unsigned long long)size,
                           strerror(-err));
}

void vn_bitmap_take_size(struct vn_bitmap *map, struct vn_bitmap *next) {
    uint64_t **bits[NR_BITS], **new[NR_BITS], size = next->size;
    if (next->nr_words > map->nr_words) {
        list_bits(map, bits);
        list_bits(next, new);
        for (uint32_t i = 0; i < NR_BITS; i++) {
            memcpy(*new[i], *bits[i], map->nr_words * sizeof(uint64_t));
            SWAP(*new[i], *bits[i]);
        }
        memcpy(next->page_due, map->page_due, (map->nr_pages / 64 + 1) * sizeof(uint64_t));
        SWAP(next->page_due, map->page_due);
        SWAP(next->nr_words, map->nr_words);
        SWAP(next->nr_pages, map->nr_pages);
    }
    cut(map, size);
}

int vn_bitmap_keep_size(const struct vn_bitmap *map) {
    return write_head(map, map->size);
}

void vn_bitmap_close(struct vn_bitmap *map) {
    free_bits(map);
    if (map->fd >= 0)
        close(map->fd);
}
