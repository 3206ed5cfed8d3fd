/* Opens a zoned namespace: the table beside its file, what it says, and what a crash has left above the write pointers.
 * Control thread; may block. The file's lock, which its backend has, covers the table too.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/crc32c.h"
#include "core/util.h"
#include "include/vhostnvme.h"
#include "ns/zoned.h"

#define TABLE_VERSION 1u
#define PAGE 4096u
#define MAGIC "VNZONES"

/* The first page of the table; words follow, and then extensions, each from a page on. Little-endian, as this program is. */
struct vn_zoned_head {
    char magic[8];
    uint32_t version, block_size;
    uint64_t size, zone_size, capacity, append; /* bytes */
    uint32_t nr, max_open, max_active, extension;
    uint32_t rsvd64;
    uint32_t crc; /* CRC-32C of what comes before */
};

struct opening {
    const struct vn_ns_opts *opts;
    const struct vn_zoned_opts *wanted;
    struct vn_zoned *zoned;
    struct vn_zoned_head head;
    bool found;
    char *error;
    uint32_t error_size;
};

#define FAIL(o, err, ...) vn_backend_fail((o)->error, (o)->error_size, (err), __VA_ARGS__)

static bool is_power_of_two(uint64_t value) {
    return value && !(value & (value - 1));
}

static uint64_t up(uint64_t bytes) {
    return (bytes + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

static uint32_t crc_of(const struct vn_zoned_head *head) {
    return vn_crc32c_end(vn_crc32c(VN_CRC32C_INIT, head, offsetof(struct vn_zoned_head, crc)));
}

/* --- Geometry --- */
static int check_place(struct opening *o) {
    const struct vn_ns_opts *opts = o->opts;
    bool is_file = !strcmp(opts->backend, "file");
    if (!is_file && strcmp(opts->backend, "mem"))
        return FAIL(o, ENOTSUP, "a namespace on \"%s\" cannot be zoned: take file or mem", opts->backend);
    struct stat stat_of;
    if (is_file && ((opts->flags & VN_NS_WINDOW) || stat(opts->path, &stat_of) < 0 || !S_ISREG(stat_of.st_mode)))
        return FAIL(o, ENOTSUP, "%s cannot be zoned: only whole regular files can", opts->path);
    if (is_file && !o->wanted->path)
        return FAIL(o, EINVAL, "%s cannot be zoned without a table that keeps its zones", opts->path);
    return !is_file && o->wanted->path ? FAIL(o, EINVAL, "zones of memory are kept nowhere: leave the table out") : 0;
}

static int check_head(struct opening *o) {
    const struct vn_zoned_head *head = &o->head;
    if (!is_power_of_two(head->zone_size) || head->zone_size < VN_ZONE_BYTES_MIN || head->zone_size > VN_ZONE_BYTES_MAX)
        return FAIL(o, EINVAL, "the zone size, %llu bytes, is no power of two between 64 KiB and 1 TiB",
                    (unsigned long long)head->zone_size);
    if (head->size % head->zone_size || head->size / head->zone_size > VN_ZONES_MAX)
        return FAIL(o, EINVAL, "the namespace, %llu bytes, is not made of whole zones of %llu bytes, %u at most",
                    (unsigned long long)head->size, (unsigned long long)head->zone_size, VN_ZONES_MAX);
    if (!head->capacity || head->capacity > head->zone_size || head->capacity % head->block_size)
        return FAIL(o, EINVAL, "the zone capacity, %llu bytes, must be whole blocks, and no more than the zone size",
                    (unsigned long long)head->capacity);
    if (head->append && (!is_power_of_two(head->append) || head->append < PAGE))
        return FAIL(o, EINVAL, "the limit of Zone Append, %llu bytes, is no power of two of at least 4096",
                    (unsigned long long)head->append);
    if (head->max_active && head->max_open > head->max_active)
        return FAIL(o, EINVAL, "%u zones may be open, but only %u active: the first cannot be more", head->max_open,
                    head->max_active);
    if (head->extension && head->extension != VN_ZONE_EXTENSION_BYTES)
        return FAIL(o, EINVAL, "zone descriptor extensions have %u bytes, or there are none", VN_ZONE_EXTENSION_BYTES);
    return 0;
}

static void make_head(struct opening *o) {
    const struct vn_zoned_opts *wanted = o->wanted;
    const struct vn_backend *backend = &o->zoned->backend;
    struct vn_zoned_head *head = &o->head;
    *head = (struct vn_zoned_head){.magic = MAGIC,
                                   .version = TABLE_VERSION,
                                   .block_size = o->opts->block_size,
                                   .size = backend->size,
                                   .zone_size = wanted->zone_size ? wanted->zone_size : VN_ZONE_BYTES_DEFAULT,
                                   .append = wanted->append,
                                   .max_open = wanted->max_open ? wanted->max_open : wanted->max_active,
                                   .max_active = wanted->max_active,
                                   .extension = wanted->extension};
    head->capacity = wanted->capacity ? wanted->capacity : head->zone_size;
    head->nr = (uint32_t)(head->size / head->zone_size);
    head->crc = crc_of(head);
}

static size_t words_bytes(const struct vn_zoned_head *head) {
    return up((uint64_t)head->nr * sizeof(uint64_t));
}

static size_t table_bytes(const struct vn_zoned_head *head) {
    return PAGE + words_bytes(head) + up((uint64_t)head->nr * head->extension);
}

/* --- The table --- */
/* Zones that begin empty hide what is in the file, and writes would destroy it. */
static int check_no_data(struct opening *o) {
    int fd = open(o->opts->path, O_RDONLY | O_CLOEXEC);
    off_t data = fd < 0 ? -1 : lseek(fd, 0, SEEK_DATA);
    int err = errno;
    if (fd >= 0)
        close(fd);
    if (data < 0 && err == ENXIO)
        return 0;
    return FAIL(o, EEXIST, "%s cannot become zoned: there is data in it, and no %s that says what is in its zones; restore that "
                "file, or take a new one", o->opts->path, o->wanted->path);
}

static int sync_folder(const char *path) {
    char copy[PATH_MAX];
    if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
        return -ENAMETOOLONG;
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return 0; /* a folder that may be searched but not read */
    int err = fsync(fd) < 0 && errno != EINVAL ? -errno : 0;
    close(fd);
    return err;
}

/* All of it at once, or nothing: under another name until it is whole. Its space is reserved, as a page that is written through
 * the mapping and has no place would end the process. */
static int write_new(const struct opening *o, const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    size_t bytes = table_bytes(&o->head);
    int err = posix_fallocate(fd, 0, (off_t)bytes);
    if (!err && pwrite(fd, &o->head, sizeof(o->head), 0) != sizeof(o->head))
        err = errno ? errno : EIO;
    if (!err && fsync(fd) < 0)
        err = errno;
    close(fd);
    return -err;
}

static int make_table(struct opening *o) {
    char path[PATH_MAX];
    if (o->opts->flags & VN_NS_READ_ONLY)
        return FAIL(o, ENOENT, "cannot open %s: it does not exist, and read-only it cannot be made", o->wanted->path);
    int err = check_no_data(o);
    if (err)
        return err;
    make_head(o);
    err = check_head(o);
    if (err)
        return err;
    err = snprintf(path, sizeof(path), "%s.new", o->wanted->path) < (int)sizeof(path) ? write_new(o, path) : -ENAMETOOLONG;
    if (!err && rename(path, o->wanted->path) < 0)
        err = -errno;
    if (!err)
        err = sync_folder(path);
    return err ? FAIL(o, -err, "cannot make %s: %s", o->wanted->path, strerror(-err)) : 0;
}

static int read_head(struct opening *o) {
    struct vn_zoned_head *head = &o->head;
    const char *path = o->wanted->path;
    if (pread(o->zoned->fd, head, sizeof(*head), 0) != sizeof(*head) || memcmp(head->magic, MAGIC, sizeof(head->magic)) ||
        head->crc != crc_of(head))
        return FAIL(o, EBADMSG, "%s is no table of zones, or damaged: restore it; without it nothing says what is in the zones",
                    path);
    if (head->version != TABLE_VERSION)
        return FAIL(o, EPROTONOSUPPORT, "%s is of another version of this program (layout %u): use that one", path,
                    head->version);
    const struct vn_zoned_opts *wanted = o->wanted;
    bool differs = head->size != o->zoned->backend.size || head->block_size != o->opts->block_size ||
                   (wanted->zone_size && wanted->zone_size != head->zone_size) ||
                   (wanted->capacity && wanted->capacity != head->capacity) ||
                   (wanted->append && wanted->append != head->append) ||
                   (wanted->max_open && wanted->max_open != head->max_open) ||
                   (wanted->max_active && wanted->max_active != head->max_active) ||
                   (wanted->extension && wanted->extension != head->extension);
    if (differs)
        return FAIL(o, EINVAL, "%s says otherwise: %llu bytes in blocks of %u, zones of %llu bytes with a capacity of %llu, %u "
                    "open and %u active at most (0: any), %llu bytes in an append, extensions of %u bytes; leave these options out",
                    path, (unsigned long long)head->size, head->block_size, (unsigned long long)head->zone_size,
                    (unsigned long long)head->capacity, head->max_open, head->max_active, (unsigned long long)head->append,
                    head->extension);
    struct stat stat_of;
    if (fstat(o->zoned->fd, &stat_of) < 0 || (uint64_t)stat_of.st_size < table_bytes(head))
        return FAIL(o, EBADMSG, "%s is cut off: restore it", path);
    return check_head(o);
}

static int open_table(struct opening *o) {
    struct vn_zoned *zoned = o->zoned;
    bool read_only = o->opts->flags & VN_NS_READ_ONLY;
    int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;
    zoned->fd = open(o->wanted->path, flags);
    o->found = zoned->fd >= 0;
    if (zoned->fd < 0 && errno == ENOENT) {
        int err = make_table(o);
        if (err)
            return err;
        zoned->fd = open(o->wanted->path, flags);
    }
    if (zoned->fd < 0)
        return FAIL(o, errno, "cannot open %s: %s", o->wanted->path, strerror(errno));
    return read_head(o);
}

/* Locked where that is allowed, so that no write to a zone waits for the table to be read. */
static int map_table(struct opening *o) {
    struct vn_zoned *zoned = o->zoned;
    bool is_shared = zoned->fd >= 0 && !(o->opts->flags & VN_NS_READ_ONLY);
    int flags = (is_shared ? MAP_SHARED : MAP_PRIVATE) | (zoned->fd < 0 ? MAP_ANONYMOUS : 0) | MAP_POPULATE;
    zoned->table_bytes = table_bytes(&o->head);
    void *table = mmap(NULL, zoned->table_bytes, PROT_READ | PROT_WRITE, flags, zoned->fd, 0);
    if (table == MAP_FAILED)
        return FAIL(o, errno, "cannot map the table of zones: %s", strerror(errno));
    zoned->table = table;
    (void)mlock(table, zoned->table_bytes);
    return 0;
}

/* --- What a crash has left --- */
static int clear_range(int fd, uint64_t from, uint64_t bytes) {
    static const uint8_t zeros[65536];
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)bytes) == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return -errno;
    for (uint64_t at = 0; at < bytes;) {
        ssize_t n = pwrite(fd, zeros, vn_min_u64(bytes - at, sizeof(zeros)), (off_t)(from + at));
        if (n <= 0)
            return n ? -errno : -EIO;
        at += (uint64_t)n;
    }
    return 0;
}

/* A write that was cut off has left something above its zone's write pointer, where all reads as zeros. */
static int clear_above(const struct opening *o, int fd) {
    const struct vn_zoned *zoned = o->zoned;
    uint64_t at = 0;
    for (;;) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO ? 0 : -errno;
        if ((uint64_t)data >= o->head.size)
            return 0;
        uint64_t index = (uint64_t)data / o->head.zone_size, end = (index + 1) * o->head.zone_size;
        uint64_t wp = index * o->head.zone_size + (zoned->zones.zones[index].done << zoned->block_shift);
        uint64_t from = vn_max_u64((uint64_t)data, wp);
        at = (uint64_t)data < wp ? wp : end;
        int err = from == (uint64_t)data && from < end ? clear_range(fd, from, end - from) : 0;
        if (err || at >= o->head.size)
            return err;
    }
}

static int recover(struct opening *o) {
    struct vn_zoned *zoned = o->zoned;
    uint32_t bad = vn_zones_recover(&zoned->zones);
    if (bad != VN_ZONE_NONE)
        return FAIL(o, EBADMSG, "%s is damaged: what it says of zone %u is no such thing; restore it", o->wanted->path, bad);
    if (!o->found || (o->opts->flags & VN_NS_READ_ONLY))
        return 0;
    int fd = open(o->opts->path, O_RDWR | O_CLOEXEC);
    int err = fd < 0 ? -errno : clear_above(o, fd);
    if (fd >= 0)
        close(fd);
    return err ? FAIL(o, -err, "cannot clear what %s holds above its write pointers: %s", o->opts->path, strerror(-err)) : 0;
}

static int make_zones(struct opening *o) {
    struct vn_zoned *zoned = o->zoned;
    const struct vn_zoned_head *head = &o->head;
    struct vn_zone_geometry geometry = {.nr = head->nr,
                                        .capacity = head->capacity >> zoned->block_shift,
                                        .max_open = head->max_open,
                                        .max_active = head->max_active,
                                        .extension_bytes = head->extension};
    geometry.shift = (uint32_t)__builtin_ctzll(head->zone_size) - zoned->block_shift;
    zoned->append_bytes = head->append;
    uint8_t *words = zoned->table + PAGE;
    int err = vn_zones_init(&zoned->zones, &geometry, (uint64_t *)(void *)words, words + words_bytes(head));
    return err ? FAIL(o, -err, "out of memory for %u zones", head->nr) : recover(o);
}

void vn_zoned_free(struct vn_zoned *zoned) {
    vn_zones_fini(&zoned->zones);
    if (zoned->table)
        munmap(zoned->table, zoned->table_bytes);
    if (zoned->fd >= 0)
        close(zoned->fd);
    free(zoned);
}

int vn_zoned_open(const struct vn_ns_opts *opts, struct vn_backend **backend, struct vn_zoned **out, char *error,
                  uint32_t error_size) {
    struct vn_zoned *zoned = calloc(1, sizeof(*zoned));
    struct opening o = {.opts = opts, .wanted = opts->zoned, .zoned = zoned, .error = error, .error_size = error_size};
    if (!zoned)
        return FAIL(&o, ENOMEM, "out of memory");
    zoned->backend = vn_backend_above(*backend, &vn_zoned_ops);
    zoned->fd = -1;
    zoned->block_shift = (uint32_t)__builtin_ctz(opts->block_size);
    int err = check_place(&o);
    if (!err && o.wanted->path) {
        err = open_table(&o);
    } else if (!err) {
        make_head(&o);
        err = check_head(&o);
    }
    if (!err)
        err = map_table(&o);
    if (!err)
        err = make_zones(&o);
    if (err) {
        vn_zoned_free(zoned);
        return err;
    }
    *backend = &zoned->backend;
    *out = zoned;
    return 0;
}
