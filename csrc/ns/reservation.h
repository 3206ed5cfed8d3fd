/* Reservations of a namespace (Base 8.19): who is registered, who holds it, and what that forbids whom. Pure: what is kept, how the
 * three commands change it, and who is to be told. Part of what is kept of a namespace; the layout is that of docs/state.md.
 */
#ifndef VN_NS_RESERVATION_H
#define VN_NS_RESERVATION_H

#include <stdbool.h>
#include <stdint.h>

#include "core/nvme.h"

#define VN_RESV_REGISTRANTS 64u

/* A host: its identifier; or, without one, the controller that it has for itself. */
struct vn_resv_host {
    uint8_t id[16]; /* of 64 bits: the first eight */
    uint32_t ctrl;  /* CNTLID + 1, of one whose identifier is 0; else 0 */
};

struct vn_resv_registrant {
    struct vn_resv_host host;
    uint32_t holds; /* 1: the one holder; with the types of all registrants nobody has it set */
    uint64_t key;
};

struct vn_reservation {
    uint32_t generation; /* GEN */
    uint16_t nr;
    uint8_t type; /* enum vn_resv_type; 0: nobody holds it */
    uint8_t ptpl; /* it outlives a loss of power */
    struct vn_resv_registrant registrants[VN_RESV_REGISTRANTS];
};

enum vn_resv_type {
    VN_RESV_WRITE_EXCLUSIVE = 1,
    VN_RESV_EXCLUSIVE_ACCESS,
    VN_RESV_WRITE_EXCLUSIVE_REGISTRANTS,
    VN_RESV_EXCLUSIVE_ACCESS_REGISTRANTS,
    VN_RESV_WRITE_EXCLUSIVE_ALL,
    VN_RESV_EXCLUSIVE_ACCESS_ALL,
    VN_RESV_NR_TYPES,
};

/* Groups of commands, as the specification's table has them (Base figure 408). */
enum vn_resv_group { VN_RESV_READS, VN_RESV_WRITES, VN_RESV_ACQUIRES, VN_RESV_PREEMPTS, VN_RESV_OTHERS };

/* Who is to be told of a command's effect, each host once. */
struct vn_resv_notice {
    struct vn_resv_host host;
    uint8_t type; /* enum vn_resv_notice_type */
};
struct vn_resv_notices {
    uint32_t nr;
    struct vn_resv_notice list[VN_RESV_REGISTRANTS];
};

/* What was read from a file: hosts apart from each other, one holder at most, and one if the type wants one. */
bool vn_resv_is_sane(const struct vn_reservation *resv);
/* Power was lost. */
void vn_resv_lose_power(struct vn_reservation *resv);
/* Whether a host may not do what is in the group. */
bool vn_resv_conflicts(const struct vn_reservation *resv, const struct vn_resv_host *host, enum vn_resv_group group);
/* NULL: it is none. */
const struct vn_resv_registrant *vn_resv_find(const struct vn_reservation *resv, const struct vn_resv_host *host);
bool vn_resv_holds(const struct vn_reservation *resv, const struct vn_resv_registrant *registrant);

/* The commands: CDW10 and the data, of whom. SUCCESS: it has been changed, or need not be, and notices is filled; else nothing is
 * changed, and notices is empty. */
vn_status vn_resv_register(struct vn_reservation *resv, const struct vn_resv_host *host, uint32_t cdw10, uint64_t crkey,
                           uint64_t nrkey, struct vn_resv_notices *notices);
vn_status vn_resv_acquire(struct vn_reservation *resv, const struct vn_resv_host *host, uint32_t cdw10, uint64_t crkey,
                          uint64_t prkey, struct vn_resv_notices *notices);
vn_status vn_resv_release(struct vn_reservation *resv, const struct vn_resv_host *host, uint32_t cdw10, uint64_t crkey,
                          struct vn_resv_notices *notices);

#endif
