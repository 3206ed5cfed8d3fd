/* Jobs, see job.h: timer, channel and request of the one operation under way. Called by self_test.c, sanitize.c and drive.c. */
#include "ctrl/job.h"

#include <errno.h>

#include "core/util.h"
#include "ctrl/drive.h"

#define RETRY_NS 1000000ull /* to a backend that is busy */

/* Never from within a completion: that is a call of the channel. */
static void close_chan(struct vn_job *job) {
    if (job->chan)
        vn_chan_close(job->chan);
    job->chan = NULL;
    job->ns = NULL;
}

static void on_timer(struct vn_timer *timer) {
    struct vn_drive *drive = vn_container_of(timer, struct vn_drive, job.timer);
    struct vn_job *job = &drive->job;
    if (job->inflight) /* the last operation of a job that was ended */
        vn_timer_arm(drive->reactor, timer, RETRY_NS);
    else if (!job->step)
        close_chan(job);
    else if (!job->paused)
        job->step(drive);
}

void vn_job_later(struct vn_drive *drive, void (*step)(struct vn_drive *drive), uint64_t delay_ns) {
    struct vn_job *job = &drive->job;
    job->step = step;
    job->wait_ns = delay_ns;
    job->timer.fn = on_timer;
    if (!job->paused)
        vn_timer_arm(drive->reactor, &job->timer, delay_ns);
}

void vn_job_end(struct vn_drive *drive) {
    struct vn_job *job = &drive->job;
    job->step = NULL;
    job->abandoned = job->inflight;
    if (job->timer.armed)
        vn_timer_disarm(drive->reactor, &job->timer);
    if (job->chan)
        vn_timer_arm(drive->reactor, &job->timer, 0); /* to close it */
}

static void on_done(struct vn_req *req, void *ctx) {
    struct vn_drive *drive = ctx;
    struct vn_job *job = &drive->job;
    vn_status status = req->status;
    vn_req_set_state(req, VN_REQ_DONE);
    vn_req_set_state(req, VN_REQ_FREE);
    job->inflight = false;
    if (job->abandoned) { /* the timer goes on */
        job->abandoned = false;
        return;
    }
    job->done(drive, status);
}

static void offer(struct vn_drive *drive) {
    struct vn_job *job = &drive->job;
    struct vn_req *req = &job->req;
    if (!job->chan && vn_chan_open(job->ns->backend, drive->reactor, &job->chan)) {
        job->chan = NULL;
        job->done(drive, VN_SC_INTERNAL);
        return;
    }
    vn_req_set_state(req, VN_REQ_FETCHED);
    req->nr_frames = 0;
    vn_req_push(req, on_done, drive);
    job->inflight = true;
    if (vn_chan_submit(job->chan, req) == VN_TAKEN)
        return;
    job->inflight = false;
    req->state = VN_REQ_FREE;
    vn_job_later(drive, offer, RETRY_NS);
}

/* Its range may have been cut off since the job looked. */
static bool is_within(const struct vn_ns *ns, enum vn_op op, uint64_t offset, uint64_t bytes) {
    uint64_t size = __atomic_load_n(&ns->backend->size, __ATOMIC_RELAXED);
    return op == VN_OP_FLUSH || (bytes <= size && offset <= size - bytes);
}

static void idle(struct vn_drive *drive) {
    (void)drive; /* the operation's end goes on */
}

void vn_job_do(struct vn_drive *drive, struct vn_ns *ns, enum vn_op op, uint32_t io_flags, uint64_t offset, uint64_t bytes,
               void (*done)(struct vn_drive *drive, vn_status status)) {
    struct vn_job *job = &drive->job;
    if (job->ns != ns)
        close_chan(job);
    job->ns = ns;
    if (!is_within(ns, op, offset, bytes)) {
        done(drive, VN_SC_LBA_RANGE);
        return;
    }
    bool moves = op == VN_OP_READ || op == VN_OP_WRITE;
    job->iov = (struct iovec){.iov_base = drive->buffer, .iov_len = bytes};
    job->req = (struct vn_req){.op = op, .io_flags = io_flags, .offset = offset, .length = op == VN_OP_FLUSH ? 0 : bytes,
                               .iov = &job->iov, .nr_iov = moves, .iov_max = 1, .limits = VN_REQ_PAID};
    job->done = done;
    job->step = idle;
    offer(drive);
}

int vn_job_leave(struct vn_drive *drive, const struct vn_ns *ns) {
    struct vn_job *job = &drive->job;
    if (!job->ns || (ns && job->ns != ns))
        return 0;
    if (job->inflight || (job->step == offer && !job->paused))
        return -EAGAIN;
    close_chan(job);
    return 0;
}

int vn_job_pause(struct vn_drive *drive) {
    struct vn_job *job = &drive->job;
    job->paused = true;
    if (job->inflight)
        return -EAGAIN;
    if (job->timer.armed)
        vn_timer_disarm(drive->reactor, &job->timer);
    if (job->chan) /* of this reactor; it is opened again when it is needed */
        vn_chan_close(job->chan);
    job->chan = NULL;
    return 0;
}

void vn_job_resume(struct vn_drive *drive) {
    struct vn_job *job = &drive->job;
    job->paused = false;
    if (job->step && !job->inflight && !job->timer.armed)
        vn_timer_arm(drive->reactor, &job->timer, job->wait_ns);
}
