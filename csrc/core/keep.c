/* Kept state, see keep.h: the file's format, reading it, and saving it by io_uring in three steps: open when it is not yet there,
 * write (durable by RWF_DSYNC), and the folder when the file was new.
 */
#include "core/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/crc32c.h"
#include "core/util.h"

#define SLOT_BYTES (2ull << 20) /* from one slot to the next; the file is sparse between them */
#define NR_SLOTS 2u
#define FILE_FLAGS (O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW)
#define FILE_MODE 0600

/* Little-endian, as this program is. The payload follows. */
struct head {
    char magic[8];
    char kind[8];
    uint32_t version;
    uint32_t bytes;    /* of the payload */
    uint64_t sequence; /* the slot with the higher one counts */
    uint8_t uuid[16];
    uint32_t crc;      /* CRC-32C of head and payload, with this field zero */
    uint8_t rsvd52[12];
};
_Static_assert(sizeof(struct head) == 64, "a head has 64 bytes in the file");

#define IMAGE_BYTES_MAX (sizeof(struct head) + VN_KEEP_BYTES_MAX)

enum step { STEP_IDLE, STEP_OPEN, STEP_WRITE, STEP_FOLDER };

struct vn_keep {
    struct vn_uring_op op;
    struct vn_reactor *reactor; /* of the save under way */
    enum step step;
    int fd, folder; /* -1: not there */
    char name[NAME_MAX + 1];
    char kind[8];
    uint32_t version, bytes;
    uint8_t uuid[16];
    void *payload;
    uint8_t *image; /* head and payload as they are being written */
    uint64_t sequence;
    uint32_t slot; /* where it is written next */
    bool found, lasts, folder_due;
    struct vn_keep_wait *now;  /* wait for the write under way */
    struct vn_keep_wait *then; /* came since, and wait for the next one */
    bool again;                /* there is to be a next one */
    struct vn_timer timer;     /* for a ring that is full */
};

static int fail(char *error, uint32_t error_size, int err, const char *format, ...) __attribute__((format(printf, 4, 5)));
static int fail(char *error, uint32_t error_size, int err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error, error_size, format, args);
    va_end(args);
    return -err;
}

/* --- Opening --- */

static uint32_t crc_of(const uint8_t *image, size_t bytes) {
    struct head head;
    memcpy(&head, image, sizeof(head));
    head.crc = 0;
    uint32_t crc = vn_crc32c(VN_CRC32C_INIT, &head, sizeof(head));
    return vn_crc32c_end(vn_crc32c(crc, image + sizeof(head), bytes - sizeof(head)));
}

/* Memory that costs nothing until it is used, and nothing any more when it is given back; NULL: there is none. */
static void *map(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Reads a slot into image, of IMAGE_BYTES_MAX. False: there is nothing whole in it. */
static bool read_slot(const struct vn_keep *keep, uint32_t slot, uint8_t *image) {
    ssize_t got = pread(keep->fd, image, IMAGE_BYTES_MAX, (off_t)(slot * SLOT_BYTES));
    struct head head;
    if (got < (ssize_t)sizeof(head))
        return false;
    memcpy(&head, image, sizeof(head));
    return !memcmp(head.magic, "VNKEPT\0", 8) && head.bytes <= VN_KEEP_BYTES_MAX &&
           (size_t)got >= sizeof(head) + head.bytes && head.crc == crc_of(image, sizeof(head) + head.bytes);
}

static bool is_empty(int fd) {
    return lseek(fd, 0, SEEK_END) <= 0;
}

/* What is whole, but not for us. */
static int check_head(const struct vn_keep *keep, const struct head *head, const char *path, char *error,
                      uint32_t error_size) {
    if (memcmp(head->kind, keep->kind, sizeof(head->kind)))
        return fail(error, error_size, EINVAL, "%s holds the state of a \"%.8s\", not of a \"%s\": name another file", path,
                    head->kind, keep->kind);
    if (head->version != keep->version || head->bytes > keep->bytes)
        return fail(error, error_size, EPROTONOSUPPORT, "the state in %s is of another version of this program (layout %u, %u "
                    "bytes): use that one, or move the file away to begin with fresh state", path, head->version, head->bytes);
    static const uint8_t anyone[16];
    if (memcmp(keep->uuid, anyone, sizeof(anyone)) && memcmp(head->uuid, keep->uuid, sizeof(head->uuid)))
        return fail(error, error_size, EINVAL, "the state in %s belongs to another one, by its UUID: name the right file, or "
                    "move this one away to begin with fresh state", path);
    return 0;
}

/* The newer of the slots that are whole. */
static int load_from(struct vn_keep *keep, uint8_t *image, const char *path, char *error, uint32_t error_size) {
    struct head head, best = {.sequence = 0};
    for (uint32_t slot = 0; slot < NR_SLOTS; slot++) {
        if (!read_slot(keep, slot, image))
            continue;
        memcpy(&head, image, sizeof(head));
        if (head.sequence <= best.sequence)
            continue;
        best = head;
        keep->slot = (slot + 1) % NR_SLOTS;
        int err = check_head(keep, &head, path, error, error_size);
        if (err)
            return err;
        memcpy(keep->payload, image + sizeof(head), head.bytes);
    }
    if (!best.sequence)
        return fail(error, error_size, EBADMSG, "the state in %s is damaged: neither of its two copies is whole; restore the "
                    "file, or move it away to begin with fresh state (what it kept is lost)", path);
    keep->sequence = best.sequence;
    keep->found = true;
    return 0;
}

static int load(struct vn_keep *keep, const char *path, char *error, uint32_t error_size) {
    uint8_t *image = map(IMAGE_BYTES_MAX);
    if (!image)
        return fail(error, error_size, ENOMEM, "out of memory");
    int err = load_from(keep, image, path, error, error_size);
    munmap(image, IMAGE_BYTES_MAX);
    return err;
}

static int open_file(struct vn_keep *keep, const struct vn_keep_opts *opts, char *error, uint32_t error_size) {
    char copy[PATH_MAX];
    if (strlen(opts->path) >= sizeof(copy))
        return fail(error, error_size, ENAMETOOLONG, "the path of a state file is too long");
    strcpy(copy, opts->path);
    const char *name = basename(copy);
    if (strlen(name) >= sizeof(keep->name))
        return fail(error, error_size, ENAMETOOLONG, "the name of the state file %s is too long", opts->path);
    strcpy(keep->name, name);
    strcpy(copy, opts->path);
    keep->folder = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (keep->folder < 0)
        return fail(error, error_size, errno, "cannot open the folder of the state file %s: %s", opts->path, strerror(errno));
    keep->fd = openat(keep->folder, keep->name, opts->make ? FILE_FLAGS : FILE_FLAGS & ~O_CREAT, FILE_MODE);
    if (keep->fd < 0 && !(errno == ENOENT && !opts->make))
        return fail(error, error_size, errno, "cannot open the state file %s: %s", opts->path, strerror(errno));
    if (opts->make && flock(keep->fd, LOCK_EX | LOCK_NB) < 0)
        return fail(error, error_size, EBUSY, "the state file %s is in use by another process", opts->path);
    keep->folder_due = keep->fd < 0 || is_empty(keep->fd);
    return keep->folder_due ? 0 : load(keep, opts->path, error, error_size);
}

static void on_timer(struct vn_timer *timer);

int vn_keep_open(const struct vn_keep_opts *opts, struct vn_keep **out, char *error, uint32_t error_size) {
    struct vn_keep *keep = calloc(1, sizeof(*keep));
    if (!keep)
        return fail(error, error_size, ENOMEM, "out of memory");
    keep->fd = keep->folder = -1;
    keep->version = opts->version;
    keep->bytes = opts->bytes;
    keep->payload = opts->payload;
    keep->sequence = 0;
    keep->lasts = opts->path;
    keep->timer.fn = on_timer;
    snprintf(keep->kind, sizeof(keep->kind), "%s", opts->kind);
    memcpy(keep->uuid, opts->uuid, sizeof(keep->uuid));
    int err = 0;
    if (opts->path) {
        keep->image = map(sizeof(struct head) + keep->bytes);
        err = keep->image ? open_file(keep, opts, error, error_size) : fail(error, error_size, ENOMEM, "out of memory");
    }
    if (err) {
        vn_keep_close(keep);
        return err;
    }
    *out = keep;
    return 0;
}

void vn_keep_close(struct vn_keep *keep) {
    if (keep->fd >= 0)
        close(keep->fd);
    if (keep->folder >= 0)
        close(keep->folder);
    if (keep->image)
        munmap(keep->image, sizeof(struct head) + keep->bytes);
    free(keep);
}

bool vn_keep_was_found(const struct vn_keep *keep) {
    return keep->found;
}

bool vn_keep_lasts(const struct vn_keep *keep) {
    return keep->lasts;
}

bool vn_keep_is_idle(const struct vn_keep *keep) {
    return keep->step == STEP_IDLE;
}

/* --- Saving --- */

static void begin(struct vn_keep *keep);

static void tell(struct vn_keep_wait *wait, int err) {
    while (wait) {
        struct vn_keep_wait *next = wait->next;
        wait->fn(wait, err);
        wait = next;
    }
}

/* Those that came meanwhile have their turn before anybody is told: who is told may save again. */
static void end(struct vn_keep *keep, int err) {
    struct vn_keep_wait *told = keep->now;
    keep->now = NULL;
    keep->step = STEP_IDLE;
    if (!err) {
        keep->sequence++;
        keep->slot = (keep->slot + 1) % NR_SLOTS;
    }
    if (keep->again)
        begin(keep);
    tell(told, err);
}

static void on_done(struct vn_uring_op *op, int res, uint32_t cqe_flags);

/* Asks for the step. A ring that is full now is asked again a little later. */
static void ask(struct vn_keep *keep) {
    struct io_uring_sqe *sqe = vn_reactor_sqe(keep->reactor, &keep->op);
    if (!sqe) {
        vn_timer_arm(keep->reactor, &keep->timer, 1000000);
        return;
    }
    keep->op.done = on_done;
    if (keep->step == STEP_OPEN) {
        io_uring_prep_openat(sqe, keep->folder, keep->name, FILE_FLAGS, FILE_MODE);
    } else if (keep->step == STEP_WRITE) {
        io_uring_prep_write(sqe, keep->fd, keep->image, (unsigned)sizeof(struct head) + keep->bytes, keep->slot * SLOT_BYTES);
        sqe->rw_flags = RWF_DSYNC;
    } else {
        io_uring_prep_fsync(sqe, keep->folder, 0);
    }
    io_uring_sqe_set_data(sqe, &keep->op);
}

static void on_timer(struct vn_timer *timer) {
    ask(vn_container_of(timer, struct vn_keep, timer));
}

static void on_done(struct vn_uring_op *op, int res, uint32_t cqe_flags) {
    struct vn_keep *keep = vn_container_of(op, struct vn_keep, op);
    (void)cqe_flags;
    if (res == -EINTR || res == -EAGAIN) {
        ask(keep);
        return;
    }
    if (keep->step == STEP_WRITE && res >= 0 && res < (int)(sizeof(struct head) + keep->bytes))
        res = -ENOSPC;
    if (keep->step == STEP_FOLDER && res == -EINVAL)
        res = 0; /* a file system without folders to sync */
    if (res < 0) {
        end(keep, res);
        return;
    }
    if (keep->step == STEP_OPEN) {
        keep->fd = res;
        keep->step = STEP_WRITE;
    } else if (keep->step == STEP_WRITE && keep->folder_due) {
        keep->step = STEP_FOLDER;
    } else {
        keep->folder_due = false;
        end(keep, 0);
        return;
    }
    ask(keep);
}

/* The payload as it is at this moment. */
static void take_image(struct vn_keep *keep) {
    struct head head = {.version = keep->version, .bytes = keep->bytes, .sequence = keep->sequence + 1};
    memcpy(head.magic, "VNKEPT\0", 8);
    memcpy(head.kind, keep->kind, sizeof(head.kind));
    memcpy(head.uuid, keep->uuid, sizeof(head.uuid));
    memcpy(keep->image, &head, sizeof(head));
    memcpy(keep->image + sizeof(head), keep->payload, keep->bytes);
    head.crc = crc_of(keep->image, sizeof(head) + keep->bytes);
    memcpy(keep->image, &head, sizeof(head));
}

static void begin(struct vn_keep *keep) {
    keep->now = keep->then;
    keep->then = NULL;
    keep->again = false;
    take_image(keep);
    keep->step = keep->fd < 0 ? STEP_OPEN : STEP_WRITE;
    ask(keep);
}

void vn_keep_save(struct vn_keep *keep, struct vn_reactor *reactor, struct vn_keep_wait *wait) {
    if (!keep->lasts) {
        if (wait)
            wait->fn(wait, 0);
        return;
    }
    if (wait) {
        struct vn_keep_wait **at = &keep->then;
        while (*at)
            at = &(*at)->next;
        wait->next = NULL;
        *at = wait;
    }
    keep->again = true;
    if (keep->step == STEP_IDLE) {
        keep->reactor = reactor;
        begin(keep);
    }
}
