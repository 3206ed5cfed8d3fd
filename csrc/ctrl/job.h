/* A long operation of a drive over its namespaces, in small steps on the reactor: the self-test, sanitize. One at a time. It
 * reaches the whole backend of a namespace, attached or not, past limits, formats and gates, by a channel of its own.
 * Owner: the drive's reactor.
 */
#ifndef VN_CTRL_JOB_H
#define VN_CTRL_JOB_H

#include "core/req.h"
#include "ns/ns.h"

struct vn_drive;

struct vn_job {
    struct vn_timer timer;
    void (*step)(struct vn_drive *drive); /* the next thing to do; NULL: there is no job */
    void (*done)(struct vn_drive *drive, vn_status status); /* of the operation under way */
    struct vn_req req;
    struct iovec iov;
    struct vn_ns *ns; /* whose channel it is */
    struct vn_chan *chan;
    uint64_t wait_ns;
    bool inflight, paused;
    bool abandoned; /* what is in flight is of a job that has ended */
};

/* step runs after that time, unless it is paused or ends. */
void vn_job_later(struct vn_drive *drive, void (*step)(struct vn_drive *drive), uint64_t delay_ns);
/* It has ended. */
void vn_job_end(struct vn_drive *drive);
/* One operation on a namespace, then done(). bytes of the drive's buffer for READ and WRITE. */
void vn_job_do(struct vn_drive *drive, struct vn_ns *ns, enum vn_op op, uint32_t io_flags, uint64_t offset, uint64_t bytes,
               void (*done)(struct vn_drive *drive, vn_status status));
/* The job lets go of the namespace (NULL: of any). -EAGAIN: an operation on it is in flight. */
int vn_job_leave(struct vn_drive *drive, const struct vn_ns *ns);
/* Nothing of it runs from here on until it is resumed. -EAGAIN: an operation is in flight. */
int vn_job_pause(struct vn_drive *drive);
void vn_job_resume(struct vn_drive *drive);

#endif
