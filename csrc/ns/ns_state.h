/* What a namespace is beyond its plain blocks, and what of that is kept: format, marks, reservations, write protection. Made by the
 * control thread, before the first controller on PCI has the namespace; from then on its drive's reactor's alone.
 */
#ifndef VN_NS_STATE_H
#define VN_NS_STATE_H

#include "core/keep.h"
#include "ns/format.h"
#include "ns/marks.h"
#include "ns/ns.h"
#include "ns/range_lock.h"
#include "ns/reservation.h"

#define VN_NS_KEPT_VERSION 1u

/* The payload of its file, docs/state.md. New fields come at the end; a shorter payload of an older file leaves them zero. */
struct vn_ns_kept {
    uint32_t write_protect; /* enum vn_write_protect: feature 84h */
    uint32_t rsvd4;
    struct vn_format_kept {
        uint8_t formatted;   /* 1: by Format NVM; 0: what follows means nothing */
        uint8_t in_progress; /* 1: the erasure of a format operation has not ended */
        uint8_t index, extended, pi_type, pi_first; /* struct vn_format */
        uint8_t rsvd6[2];
        uint64_t size; /* of the backend when it was formatted, bytes: where metadata lies follows from it */
        uint64_t nr_blocks; /* as it was created by Namespace Management: no more than these; 0: as many as fit */
    } format;
    uint32_t rsvd32[8];
    struct vn_marks marks; /* of Write Uncorrectable */
    struct vn_reservation reservation;
};

struct vn_ns_state {
    struct vn_keep *keep;
    struct vn_ns_kept kept;
    vn_status refusal; /* how every I/O command ends: its drive is being sanitized, or could not be; 0: it does not */
    struct vn_range_locks locks;
    struct vn_format_run *run; /* of a format operation under way: ctrl/format_cmd.c; NULL: none */
};
_Static_assert(sizeof(struct vn_ns_kept) == 64 + 8 + 16 * VN_NR_MARKS + 8 + 32 * VN_RESV_REGISTRANTS, "as docs/state.md has it");

/* Control thread; once. With a state_path it reads what is there. */
int vn_ns_state_open(struct vn_ns *ns, char *error, uint32_t error_size);
void vn_ns_state_close(struct vn_ns *ns);
/* Control thread, before anybody has it: formatted so, with so many blocks; to be saved by the caller. */
int vn_ns_state_format(struct vn_ns *ns, const struct vn_format *format, uint64_t nr_blocks, char *error, uint32_t error_size);
/* Reactor: ns->special follows from the state. */
void vn_ns_state_look(struct vn_ns *ns);

/* ns_format.c. How it is formatted now. */
struct vn_format vn_ns_format(const struct vn_ns *ns);
/* Its block size, size in blocks and metadata follow from the kept format: on the control thread while nobody has it, or on the
 * reactor while none of its commands is under way. -errno, and error holds a sentence. */
int vn_ns_apply_format(struct vn_ns *ns, char *error, uint32_t error_size);

#endif
