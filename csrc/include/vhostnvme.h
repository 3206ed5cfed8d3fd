/* The one door between Python and C. Python's cdef is made from this file (tools/make_cdef.py), so it
 * holds plain declarations only: opaque handles, flat option structs, integers and file descriptors.
 *
 * Contract. Control calls come from one thread (Python's), but for vn_ns_make. They return 0 or -errno, with the output
 * last; after a failure vn_last_error() holds one sentence for a person. They may wait for a reactor
 * for a bounded time, never for a guest or a disk. Nothing here is called for a guest's I/O.
 * What happens by itself is told by events: an eventfd becomes readable, vn_runtime_events drains.
 */
#ifndef VHOSTNVME_H
#define VHOSTNVME_H

#include <stdint.h>

#include "vhostnvme_host.h"

typedef struct vn_runtime vn_runtime; /* the reactors and the event queue of this process */
typedef struct vn_ns vn_ns;           /* a namespace: a backend with a geometry and an identity */
typedef struct vn_ctrl vn_ctrl;       /* an NVMe controller: what one VM sees */
typedef struct vn_drive vn_drive;     /* an emulated SSD (an NVM subsystem): its controllers, its namespaces, its kept state */

#define VN_MAX_REACTORS 16
#define VN_MAX_NAMESPACES 256 /* of one controller */
#define VN_MAX_IO_QUEUES 64   /* of one controller, the admin queue not counted */
#define VN_DRIVE_MAX_CTRLS 16

/* The last failure of the calling thread, as one sentence; "" when there was none. Valid until its next call. */
const char *vn_last_error(void);
const char *vn_version(void);

/* --- Runtime --- */
#define VN_RUNTIME_SQPOLL 1u /* threads of the kernel submit the reactors' I/O */
#define VN_RUNTIME_AWAKE 2u  /* reactors never sleep: each has a core to itself */
#define VN_RUNTIME_PIN 4u    /* guests' memory is pinned where the kernel takes it: a guest must not give any of it back */
struct vn_runtime_opts {
    uint32_t nr_reactors;     /* 0 = 1 */
    uint32_t poll_us;         /* spin no longer than that for an event that is about to come; 0: never */
    uint32_t flags;           /* VN_RUNTIME_* */
};
int vn_runtime_create(const struct vn_runtime_opts *opts, vn_runtime **out);
/* All controllers and namespaces must be closed before: -EBUSY otherwise. */
int vn_runtime_destroy(vn_runtime *rt);

struct vn_reactor_stats {
    uint64_t rounds;      /* turns of the loop */
    uint64_t sleeps;      /* times it slept in io_uring */
    uint64_t enters;      /* io_uring_enter calls */
    uint64_t cpu_ns;      /* CPU time of the thread */
    uint64_t ops;         /* io_uring operations completed */
};
int vn_runtime_reactor_stats(vn_runtime *rt, uint32_t reactor, struct vn_reactor_stats *out);

/* --- Events --- */
enum vn_event_type {
    VN_EVENT_LOST = 0,          /* a: events dropped because nobody drained the queue */
    VN_EVENT_CLIENT_ATTACHED,   /* a vfio-user client (QEMU) has connected */
    VN_EVENT_CLIENT_DETACHED,   /* a: errno, 0 for an orderly end */
    VN_EVENT_CTRL_ENABLED,      /* CC.EN 0 -> 1 took effect */
    VN_EVENT_CTRL_DISABLED,
    VN_EVENT_CTRL_SHUTDOWN,     /* CC.SHN: the guest has shut the controller down */
    VN_EVENT_CTRL_FATAL,        /* CSTS.CFS was set; text says why */
    VN_EVENT_MEMORY_NOT_SHARED, /* the guest's memory cannot be reached; text says what to do */
    VN_EVENT_BACKEND_ERROR,     /* a: NVMe status (type << 8 | code), b: nsid; at most one a second */
    VN_EVENT_MESSAGE,           /* text: something worth a line in the log */
    VN_EVENT_CTRL_DESTROYED,    /* the answer to vn_ctrl_destroy; the handle is gone */
    /* of a target, whose id is in ctrl; text says who and why */
    VN_EVENT_HOST_CONNECTED,    /* a: controller id */
    VN_EVENT_HOST_DISCONNECTED, /* a: controller id */
    VN_EVENT_HOST_REFUSED,
    VN_EVENT_TARGET_DESTROYED,  /* the answer to vn_target_destroy; the handle is gone */
    /* of a namespace elsewhere, whose vn_ns_id is in ctrl; b: its id there; text says where and why */
    VN_EVENT_REMOTE_ATTACHED,   /* a: the number of the path */
    VN_EVENT_REMOTE_LOST,       /* a: the number of the path; commands wait, or go another way */
    VN_EVENT_REMOTE_BACK,       /* a: the number of the path */
    VN_EVENT_REMOTE_ANA,        /* a: the new state, as of vn_subsys_set_ana */
    VN_EVENT_REMOTE_RESIZED,    /* a: bytes; the namespace here keeps its size until vn_ns_resize */
    VN_EVENT_REMOTE_REFUSED,    /* a: the number of the path; what is there now is not what was opened */
    /* of a mirror, whose vn_ns_id is in ctrl; a: the leg. vn_mirror_get_info says the same, should events be lost */
    VN_EVENT_LEG_FAILED,        /* b: NVMe status, 0: too slow; commands are held until vn_mirror_leg_out */
    VN_EVENT_LEG_LOST,          /* b: as above; it was being rebuilt, and is out again */
    VN_EVENT_LEG_IN_SYNC,       /* its rebuild is complete: record it, then vn_mirror_leg_counts */
    /* of a drive; ctrl: who asks */
    VN_EVENT_DECISION,          /* a host wants another set of namespaces: vn_drive_get_decision; a: its id, b: nsid */
};
struct vn_event {
    uint32_t type; /* enum vn_event_type */
    uint32_t pad;
    uint64_t ctrl; /* vn_ctrl_id of the controller, 0 for none */
    uint64_t a;
    uint64_t b;
    char text[400]; /* room for two NQNs */
};
int vn_runtime_event_fd(vn_runtime *rt);
/* Moves up to max events into buf; returns how many. */
int vn_runtime_events(vn_runtime *rt, struct vn_event *buf, uint32_t max);

/* --- Limits --- */
/* What a limit counts. Every command is one: a Read or Compare counts as a read, all others as a write; Flush, Write
 * Zeroes and Dataset Management have no bytes. A command goes on when all limits that concern it let it. */
enum vn_limit_kind {
    VN_LIMIT_IOPS = 0, /* commands a second */
    VN_LIMIT_READ_IOPS = 1,
    VN_LIMIT_WRITE_IOPS = 2,
    VN_LIMIT_BANDWIDTH = 3, /* bytes a second */
    VN_LIMIT_READ_BANDWIDTH = 4,
    VN_LIMIT_WRITE_BANDWIDTH = 5,
};
#define VN_NR_LIMITS 6
#define VN_LIMIT_IOPS_MAX 100000000
#define VN_LIMIT_BANDWIDTH_MAX 68719476736ull /* 64 GiB/s */
#define VN_LIMIT_BURST_US_MAX 3600000000ull   /* an hour */
struct vn_limit {
    uint64_t rate;     /* a second; 0: no limit */
    uint64_t burst_us; /* what is not used is saved up for so long, and can be spent at once; 0: 100 ms */
};
struct vn_limits {
    struct vn_limit of[6]; /* VN_NR_LIMITS, which cffi does not take here; by enum vn_limit_kind */
};
/* What commands have waited for tokens. */
struct vn_limit_info {
    struct vn_limits limits;
    uint64_t waiting;   /* now */
    uint64_t throttled; /* commands that had to wait, since the start */
    uint64_t waited_ns; /* all of them together */
};

/* --- Media --- */
/* What namespaces of the backend "file" are on, such as an SSD: it counts what becomes of their commands, in whatever
 * mirror or runtime they are. */
typedef struct vn_medium vn_medium;
#define VN_MEDIUM_STEP_MS 250  /* times are known to that, and counters so old at most */
#define VN_MEDIUM_SLOW_MS 1000 /* a command that takes longer is a slow one */
struct vn_medium_info {
    uint64_t commands; /* that have ended */
    uint64_t errors;   /* of these: failed, by no fault of the host's and not for want of space */
    uint64_t slow;     /* of these: took more than VN_MEDIUM_SLOW_MS */
    uint64_t slow_ns;  /* all of those together */
    uint64_t inflight; /* now */
    uint64_t oldest_ns; /* how long the oldest of them has been under way; 0: a step at most */
};
int vn_medium_create(vn_medium **out);
void vn_medium_get_info(vn_medium *medium, struct vn_medium_info *out); /* any thread */
void vn_medium_close(vn_medium *medium); /* namespaces may be open on it still */

/* --- Namespaces --- */
#define VN_NS_READ_ONLY 1u
#define VN_NS_CREATE 2u      /* make the file when it is missing (size must be given) */
#define VN_NS_NO_DIRECT 4u   /* use the page cache even where O_DIRECT works */
#define VN_NS_PREALLOCATE 8u /* reserve all blocks at once instead of as they are written */
#define VN_NS_WINDOW 16u     /* of the file or device only [offset, offset + size); nothing else of it is touched */
#define VN_NS_THICK 32u      /* Write Zeroes keeps the blocks of a file, also where it may give them back */

struct vn_remote_opts; /* vhostnvme_fabric.h */
struct vn_mirror_opts; /* vhostnvme_mirror.h */
/* Of a zoned namespace, on "file" (whole regular files) and "mem". 0: as its table says, or the default in a new one. */
struct vn_zoned_opts {
    const char *path;     /* of the table that keeps the zones; NULL: that lasts as long as the namespace is open */
    uint64_t zone_size;   /* bytes, a power of two of at least 64 KiB; the size is a multiple of it; default 64 MiB */
    uint64_t capacity;    /* bytes of a zone that can be written; default: all of it */
    uint64_t append;      /* bytes that one Zone Append can have, a power of two of at least 4096; default: no own limit */
    uint32_t max_open, max_active; /* zones; default: no limit */
    uint32_t extension;   /* bytes of a zone descriptor extension: 64, or none */
};
struct vn_ns_opts {
    const char *backend; /* "file", "mem", "null", "forward" or "mirror" */
    const char *path;    /* of a file or block device; NULL for the others */
    const char *state_path; /* where its kept state lies (format, marks, reservations); made when there is something to keep;
                               NULL: that lasts as long as the namespace is open */
    const struct vn_remote_opts *remote; /* of "forward"; NULL for the others */
    const struct vn_mirror_opts *mirror; /* of "mirror"; NULL for the others */
    const struct vn_zoned_opts *zoned; /* NULL: a conventional namespace */
    vn_medium *medium;   /* of "file", what it is on; NULL: nobody wants to know */
    uint64_t size;       /* bytes; 0: what the file has, or the namespace elsewhere */
    uint64_t offset;     /* bytes, a multiple of 4096; with VN_NS_WINDOW, which needs a size */
    uint32_t block_size; /* 512 or 4096; forward: 0 for what the namespace elsewhere has */
    uint32_t flags;      /* VN_NS_* */
    uint8_t uuid[16];    /* all zero: made at random; forward: the one that is expected there */
    /* filters, in the order in which a command passes them; 0 or NULL: not there */
    const char *record_path; /* log every write, flush and their completions to this file */
    uint32_t delay_us;       /* complete this much later */
    uint32_t error_ppm;      /* fail this many commands of a million, at random ... */
    uint32_t error_ops;      /* ... among these: a mask of 1 << enum vn_op; 0: all */
    uint32_t error_errno;    /* ... with this errno; 0: EIO */
    uint32_t error_after;    /* let this many commands pass first */
    uint64_t error_seed;
};
struct vn_ns_info {
    uint64_t size; /* bytes */
    uint32_t block_size;
    uint32_t flags; /* VN_NS_READ_ONLY */
    uint32_t direct;     /* 1: O_DIRECT is in use */
    uint32_t deallocate; /* 1: deallocated space is given back and reads as zeros */
    uint8_t uuid[16];
    uint64_t reads, writes, read_bytes, write_bytes, flushes, deallocates, write_zeroes, errors;
    uint64_t bounced; /* transfers copied because the guest's buffer was not aligned for O_DIRECT */
    struct vn_limit_info limited;
};
int vn_ns_open(vn_runtime *rt, const struct vn_ns_opts *opts, vn_ns **out);
/* The same in two steps. The first one is what blocks: for a file system, a name, a target that does not answer. It knows no
 * runtime and shares nothing with other calls, so that any thread may make it at any time; but with VN_NS_WINDOW only the
 * thread of the control calls. Until the second, which is a control call and never blocks, the namespace can only be closed,
 * by the thread that has it. -EALREADY: it is in a runtime. */
int vn_ns_make(const struct vn_ns_opts *opts, vn_ns **out);
int vn_ns_enter(vn_runtime *rt, vn_ns *ns);
/* Of the same count as vn_ctrl_id: events of a namespace elsewhere carry it in ctrl. */
uint64_t vn_ns_id(const vn_ns *ns);
int vn_ns_get_info(vn_ns *ns, struct vn_ns_info *out);
/* For all controllers together that have it attached. At once, also for what waits: tokens that are there stay, up to
 * the new burst. -EINVAL: beyond the bounds above. */
int vn_ns_set_limits(vn_ns *ns, const struct vn_limits *limits);
/* Another size, in bytes, while it is in use; 0: all that is behind it now. Hosts that have it get a namespace-attribute
 * event. Blocks for as long as the file system takes to set a length, and 1 s for commands at most.
 * Larger: commands may go up to the new end when it returns. Smaller: commands beyond the new end are refused at once, then
 * those that backends have are waited for; if they do not end within 1 s it keeps its size: -EBUSY, try again.
 * file: its length is set (durable with the namespace's next flush); of a part of a file or device only the bounds are
 * checked, but with VN_NS_CREATE a file grows. forward: what its target has told last (VN_EVENT_REMOTE_RESIZED) or less; one
 * that is smaller there than here is refused as before. mem: up to eight times what it was opened with.
 * -EINVAL, -EBUSY, -EROFS, -ENOSPC, ...: it keeps its size; -ENOTSUP: it cannot, or not so large. */
int vn_ns_resize(vn_ns *ns, uint64_t size);
/* -EBUSY while a controller has it attached. */
int vn_ns_close(vn_ns *ns);

/* --- Drives --- */
/* What a drive looks like; what is 0 or NULL is as it is without. Its limits are the controllers' (struct vn_ctrl_opts). */
#define VN_PERSONA_LOGS 16
#define VN_PERSONA_LOG_BYTES 65536
#define VN_PERSONA_POWER_STATES 32
#define VN_PERSONA_NO_APST 1u /* no autonomous power state transitions, */
#define VN_PERSONA_NO_HCTM 2u /* no host controlled thermal management */
struct vn_persona_log {
    uint32_t lid; /* C0h to FFh */
    uint32_t bytes;
    const void *data;
};
struct vn_persona {
    const char *firmware;    /* the revision, up to 8 characters */
    uint32_t vid, ssvid;     /* of PCI, and of Identify */
    uint32_t ieee;           /* OUI, 24 bits */
    uint32_t rab;
    uint32_t rtd3r, rtd3e;   /* microseconds */
    uint32_t wctemp, cctemp; /* Kelvin */
    uint32_t oacs_off, oncs_off; /* bits that are clear, and what they stand for is not there */
    uint32_t formats;        /* LBA formats that namespaces can have: bits by the number in Identify Namespace */
    uint32_t nr_power_states;
    const void *power_states; /* 32 bytes each, as in Identify Controller */
    uint32_t power_off;      /* VN_PERSONA_NO_* */
    uint32_t mntmt, mxtmt;   /* Kelvin: bounds of host controlled thermal management */
    uint32_t nr_logs;
    const struct vn_persona_log *logs;
    uint8_t uuid[16]; /* whose they are: hosts select them by it; all zero: not said */
    /* what the SMART log of a drive without a kept state begins with; 512000 bytes a data unit */
    uint64_t data_units_read, data_units_written, host_reads, host_writes, busy_minutes, power_cycles, power_on_hours,
        unsafe_shutdowns, media_errors;
    uint32_t percent_used, avail_spare, spare_thresh; /* from then on; spare: percent, 0: 100 and 10 */
};
struct vn_drive_opts {
    const char *state_path; /* where its kept state lies; made at once; NULL: it lasts as long as the drive is open */
    uint32_t reactor;       /* home of all its controllers */
    uint8_t uuid[16];       /* whose state it is; all zero without a state_path only */
    uint32_t flags;         /* VN_DRIVE_* */
    const struct vn_persona *persona; /* NULL: none; copied */
    uint32_t nsid_max;      /* namespaces that it can have, and their highest id; 0: VN_MAX_NAMESPACES */
};
#define VN_DRIVE_MANAGED 1u /* hosts may create, delete, attach and detach namespaces: see VN_EVENT_DECISION */
#define VN_DRIVE_SHARED 2u  /* it has several controllers, and says so; namespaces are shared unless they are said to be private */
#define VN_DRIVE_ANA 4u     /* its controllers tell how well they reach the groups of namespaces: vn_ctrl_set_ana */
int vn_drive_create(vn_runtime *rt, const struct vn_drive_opts *opts, vn_drive **out);
/* -EBUSY while it has controllers. Waits for its last save. */
int vn_drive_destroy(vn_drive *drive);

/* A namespace is allocated in the drive, whether a controller has it attached or not, until it is dropped or the drive ends.
 * It can be attached to the drive's controllers under this NSID alone. group: of ANA, 1 to 32; 0: 1.
 * -EEXIST: the NSID is taken. Dropped while a controller has it: -EBUSY. */
#define VN_SPACE_SHARED 1u /* several controllers may have it */
int vn_drive_add_space(vn_drive *drive, vn_ns *ns, uint32_t nsid, uint32_t flags, uint32_t group);
/* Before it is added: the namespace is formatted with so many blocks, as Identify Namespace tells of it. Durable when it returns,
 * if its state is kept. */
int vn_drive_format_space(vn_drive *drive, vn_ns *ns, uint32_t flbas, uint32_t dps, uint64_t nr_blocks);
int vn_drive_drop_space(vn_drive *drive, uint32_t nsid);
/* What Identify Controller tells: bytes in all, and bytes that no namespace has; 0, 0: what the namespaces have together. */
int vn_drive_set_capacity(vn_drive *drive, uint64_t total, uint64_t unallocated);

/* What a host asks of a managed drive. One after the other, each within VN_DECISION_MS: then the host is told of an internal
 * error that it may try again, and the answer is -ECANCELED. What can be known of the drive here has been checked. */
#define VN_DECISION_MS 5000
enum vn_decision_kind { VN_DECIDE_CREATE = 0, VN_DECIDE_DELETE = 1, VN_DECIDE_ATTACH = 2, VN_DECIDE_DETACH = 3 };
struct vn_decision {
    uint64_t id;
    uint64_t ctrl;       /* vn_ctrl_id of the controller that was asked */
    uint32_t kind;       /* enum vn_decision_kind */
    uint32_t nsid;       /* which; delete: FFFFFFFFh for all; create: 0 */
    uint64_t nr_blocks;  /* create, as the next six */
    uint64_t bytes;      /* that it takes of the drive's capacity */
    uint32_t block_size;
    uint32_t flags;      /* VN_SPACE_* */
    uint32_t group;      /* of ANA */
    uint32_t flbas, dps; /* the format, for vn_drive_format_space */
    uint32_t nr_ctrls;   /* attach, detach: the CNTLIDs */
    uint16_t ctrls[16];  /* VN_DRIVE_MAX_CTRLS, which cffi does not take here */
};
/* -ENOENT: nothing is asked. */
int vn_drive_get_decision(vn_drive *drive, struct vn_decision *out);
/* status: type << 8 | code, 0 when it is done, and durable. result: the NSID of what was created. specific: of the error log, bytes
 * that are needed when there is no space. -ECANCELED: nobody waits for it any more, it is to be undone. */
int vn_drive_answer(vn_drive *drive, uint64_t id, uint32_t status, uint32_t result, uint64_t specific);

/* --- Controllers --- */
enum vn_doorbells {
    VN_DOORBELLS_AUTO = 0, /* mapped for a host that cannot be woken, trapped for QEMU */
    VN_DOORBELLS_MAPPED = 1,
    VN_DOORBELLS_TRAPPED = 2,
};
struct vn_ctrl_opts {
    const char *serial;   /* up to 20 characters */
    const char *model;    /* up to 40; NULL: "vhostnvme" */
    const char *subnqn;   /* NULL: made from the serial number */
    uint32_t max_queues;  /* I/O queue pairs; 0: VN_MAX_IO_QUEUES */
    uint32_t max_entries; /* of a queue; 0: 1024 */
    uint32_t mdts;        /* maximum transfer: 2^mdts pages of 4 KiB; 0: 8 (1 MiB) */
    uint32_t doorbells;   /* enum vn_doorbells */
    uint32_t reactor;     /* home; with a drive: that of the drive */
    uint32_t cntlid;      /* of its own among the controllers of its drive */
    vn_drive *drive;      /* NULL: it has one to itself, whose state lasts as long as the controller */
};
struct vn_ctrl_info {
    uint64_t id;
    uint32_t attached; /* 1: a client is connected */
    uint32_t enabled;  /* CSTS.RDY */
    uint32_t fatal;    /* CSTS.CFS */
    uint32_t doorbells; /* enum vn_doorbells, what is in use */
    uint32_t shadow_doorbells;
    uint32_t nr_sqs, nr_cqs; /* I/O queues */
    uint32_t inflight;
    uint32_t reactor; /* home */
    uint64_t commands, admin_commands, errors, interrupts, doorbell_writes;
    struct vn_limit_info limited;
};
int vn_ctrl_create(vn_runtime *rt, const struct vn_ctrl_opts *opts, vn_ctrl **out);
uint64_t vn_ctrl_id(const vn_ctrl *ctrl);
/* Adds or removes a namespace; a running guest gets a namespace-attribute event. Removed, no new command finds it; those in
 * flight are waited for, for wait_ms at most: then -EBUSY, and the call is to be repeated. 0: none is left. */
int vn_ctrl_attach_ns(vn_ctrl *ctrl, vn_ns *ns, uint32_t nsid);
int vn_ctrl_detach_ns(vn_ctrl *ctrl, uint32_t nsid, uint32_t wait_ms);
/* How well this controller reaches the namespaces of a group, 1 to 32: enum vn_ana_state. Its drive has VN_DRIVE_ANA. */
int vn_ctrl_set_ana(vn_ctrl *ctrl, uint32_t group, uint32_t state);
/* Opens the vfio-user socket at path (absolute, under 108 bytes; its folder must exist). A stale socket is
 * replaced, a live one is refused with -EADDRINUSE. */
int vn_ctrl_listen(vn_ctrl *ctrl, const char *path);
/* Gives the controller another home. Its commands in flight end first, within 1 s: else it stays, and the answer is
 * -EBUSY. Its client notices a pause only. */
int vn_ctrl_move(vn_ctrl *ctrl, uint32_t reactor);
/* The page of Identify Controller, 4096 bytes, once it listens. */
int vn_ctrl_identify(vn_ctrl *ctrl, void *page);
int vn_ctrl_get_info(vn_ctrl *ctrl, struct vn_ctrl_info *out);
/* Over all its namespaces, whose own limits hold as well; else as vn_ns_set_limits. */
int vn_ctrl_set_limits(vn_ctrl *ctrl, const struct vn_limits *limits);
/* Closes the socket, drains for at most 4 s, frees; the end is told by VN_EVENT_CTRL_DESTROYED. */
int vn_ctrl_destroy(vn_ctrl *ctrl);

#include "vhostnvme_fabric.h"
#include "vhostnvme_mirror.h"

#endif
