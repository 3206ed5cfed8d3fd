/* What a drive keeps: the payload of its file, docs/state.md. Owner: the drive's reactor. */
#ifndef VN_CTRL_KEPT_H
#define VN_CTRL_KEPT_H

#include "core/nvme_admin.h"
#include "include/vhostnvme.h"

#define VN_DRIVE_KEPT_VERSION 1u
#define VN_FIRMWARE_SLOTS 7u
#define VN_EVENTS_BYTES 32768u
#define VN_KEPT_ERRORS 16u /* the newest entries of an error log */
#define VN_TELEMETRY_BYTES 8192u /* of data; the header is made when it is read */

/* Over the drive's life, all its controllers together. */
struct vn_smart_kept {
    uint64_t read_bytes, write_bytes, reads, writes;
    uint64_t busy_ns, on_ns; /* on_ns: that the program has been running */
    uint64_t media_errors;
    uint64_t rsvd56;
};

/* Of one controller, by its CNTLID. */
struct vn_ctrl_kept {
    uint16_t cntlid;
    uint8_t used;
    uint8_t progress_marker; /* saved value of feature 80h, with bit 0 of saved */
    uint32_t saved;       /* features that have a saved value: bits of 1 << FID; bit 0: 80h */
    uint64_t error_count; /* entries that its error log has had */
    uint32_t arbitration, power, error_recovery, vwc, irq_coalescing, write_atomicity, async_event;
    uint16_t temp_over, temp_under;
    uint64_t irq_vectors[2]; /* bit 1 << vector: coalescing disabled */
};

struct vn_firmware_kept {
    uint8_t active, next; /* slots; next: from the next reset on, 0: it stays */
    uint8_t rsvd2[6];
    char revision[VN_FIRMWARE_SLOTS][8]; /* slot 1 is the program itself, whose revision is not kept; zeros: empty */
};

struct vn_self_test_kept {
    uint32_t running; /* enum vn_self_test; 0: none */
    uint32_t nsid;    /* as the command had it */
    uint32_t at_nsid; /* being read */
    uint16_t cntlid;  /* of the controller that it was asked of */
    uint16_t nr;      /* results, up to VN_SELF_TEST_RESULTS */
    uint64_t at;      /* bytes of it that have been read */
    uint64_t done, total; /* bytes of all of them */
    struct vn_self_test_result results[VN_SELF_TEST_RESULTS]; /* the newest first */
    uint8_t rsvd[8];
};

/* After a sanitize operation has failed. Restricted: only another one leads out. */
enum vn_failure_mode { VN_FAILURE_NONE, VN_FAILURE_RESTRICTED, VN_FAILURE_UNRESTRICTED };

struct vn_sanitize_kept {
    uint32_t status;  /* enum vn_sanitize_status */
    uint32_t cdw10, cdw11;
    uint32_t failure_mode; /* enum vn_failure_mode */
    uint32_t at_nsid, pass;
    uint64_t at;      /* bytes of this pass over this namespace */
    uint64_t done, total; /* bytes, all passes of all namespaces */
    uint64_t due[VN_MAX_NAMESPACES / 64 + 1]; /* bit NSID: it is not erased yet */
};

/* What the controller has captured by itself. */
struct vn_telemetry_kept {
    uint8_t available, generation, host_generation, rsvd3;
    uint16_t last1, last2; /* blocks of the areas */
    char reason[128];
    char data[VN_TELEMETRY_BYTES];
};

struct vn_events_kept {
    uint32_t bytes, nr; /* whole events, the oldest first */
    uint16_t generation;
    uint16_t rsvd10[3];
    uint8_t data[VN_EVENTS_BYTES];
};

/* Saved values of features of the whole drive; saved: which there are, feature_drive.c. */
struct vn_drive_features_kept {
    uint32_t saved;
    uint8_t nodrm, endurance;
    uint8_t rsvd6[2];
};

/* Saved values of features of power, of the controller at the same place of ctrls; saved: which there are, power.c. */
struct vn_ctrl_power_kept {
    uint32_t saved, hctm;
    uint8_t apste, permissive, rsvd10[6];
    uint64_t apst[VN_POWER_STATES];
};

/* Of the controller at the same place of ctrls: entry N of its error log is at (N - 1) % VN_KEPT_ERRORS. */
struct vn_ctrl_errors_kept {
    struct vn_log_error entries[VN_KEPT_ERRORS];
};

/* New fields come at the end; a shorter payload of an older file leaves them zero. */
struct vn_drive_kept {
    uint64_t power_cycles, unsafe_shutdowns;
    uint32_t running; /* 1: a host uses it, and has not shut it down */
    uint32_t rsvd20;
    struct vn_smart_kept smart;
    struct vn_ctrl_kept ctrls[VN_DRIVE_MAX_CTRLS];
    struct vn_firmware_kept firmware;
    struct vn_self_test_kept self_test;
    struct vn_sanitize_kept sanitize;
    struct vn_telemetry_kept telemetry;
    struct vn_events_kept events;
    struct vn_drive_features_kept features;
    struct vn_ctrl_power_kept power[VN_DRIVE_MAX_CTRLS];
    struct vn_ctrl_errors_kept errors[VN_DRIVE_MAX_CTRLS];
};

#endif
