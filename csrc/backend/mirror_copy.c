/* What the mirror does by itself: copies regions to a leg that lacks them, repairs those where legs may differ, and clears
 * bits of regions that have not been written for a while. On the channel's reactor.
 *
 * A piece is copied under its range, so that writes to it are either before the read from the source, or after the writes
 * to the legs. All other writes go to the leg that is being rebuilt too.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/mirror.h"
#include "core/util.h"

#define STUCK_NS 1000000000ull /* what could not be copied is tried again so much later */

static uint32_t rebuilding(const struct vn_mirror *mirror) {
    return vn_mirror_in(mirror, 1u << VN_LEG_REBUILDING);
}

/* --- Pieces --- */

static struct vn_copy_job *job_of(struct vn_mio *io) {
    return vn_container_of(io, struct vn_copy_job, io);
}

static void piece_ready(struct vn_mirror_chan *mc, struct vn_mio *io);

/* The piece is over; the job goes on with the next one when it is time. */
static void piece_over(struct vn_mirror_chan *mc, struct vn_copy_job *job) {
    job->busy = false;
    vn_mio_leave_range(mc, &job->io);
    vn_mirror_see_alone(mc->mirror);
    if (mc->closing)
        vn_mirror_chan_look(mc);
    else
        vn_copy_kick(mc);
}

static void give_up(struct vn_mirror_chan *mc, struct vn_copy_job *job, uint64_t wait_ns) {
    job->running = false;
    mc->copy_due_ns = vn_max_u64(mc->copy_due_ns, vn_reactor_now_ns(mc->chan.reactor) + wait_ns);
    mc->copy_cursor = job->region + 1;
    piece_over(mc, job);
}

static void pay(struct vn_mirror_chan *mc, uint64_t bytes) {
    struct vn_mirror *mirror = mc->mirror;
    mirror->copied_bytes += bytes;
    if (mirror->rebuild_rate)
        mc->copy_due_ns = vn_max_u64(mc->copy_due_ns, vn_reactor_now_ns(mc->chan.reactor)) +
                          bytes * 1000000000ull / mirror->rebuild_rate;
}

static void region_over(struct vn_mirror_chan *mc, struct vn_copy_job *job) {
    struct vn_bitmap *map = &mc->mirror->map;
    job->running = false;
    if (job->again)
        return;
    vn_bitmap_drop(map->unsure, job->region);
    vn_bitmap_drop(map->copy, job->region);
}

static void piece_done(struct vn_mirror_chan *mc, struct vn_copy_job *job) {
    pay(mc, job->io.length);
    job->at += job->io.length;
    if (job->at == job->end)
        region_over(mc, job);
    piece_over(mc, job);
}

static void piece_written(struct vn_mirror_chan *mc, struct vn_mio *io) {
    struct vn_copy_job *job = job_of(io);
    bool stuck = io->cancelled;
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS && !io->cancelled; leg++) {
        vn_status status = io->sent & VN_LEG_BIT(leg) ? io->child[leg].status : VN_SC_SUCCESS;
        if (status && vn_mirror_attached(mc->mirror) & VN_LEG_BIT(leg))
            stuck |= !vn_leg_fail(mc->mirror, mc, leg, status);
    }
    if (stuck)
        give_up(mc, job, STUCK_NS);
    else
        piece_done(mc, job);
}

static bool is_zero(const uint8_t *buf, uint64_t bytes) {
    return buf[0] == 0 && memcmp(buf, buf + 1, bytes - 1) == 0;
}

/* Where legs may differ the one that is read is written as well: a write that was given up may still be on its way to it,
 * and is then ordered before ours. */
static void write_piece(struct vn_mirror_chan *mc, struct vn_copy_job *job, uint32_t source) {
    struct vn_mirror *mirror = mc->mirror;
    uint32_t legs = vn_bitmap_has(mirror->map.unsure, job->region) ? vn_mirror_attached(mirror) : rebuilding(mirror);
    if (!vn_mirror_has_two(mirror)) { /* who was unsure is so still, when another leg comes */
        give_up(mc, job, 0);
        return;
    }
    if (!(legs & ~VN_LEG_BIT(source))) { /* nobody is left who needs it */
        piece_done(mc, job);
        return;
    }
    struct vn_mio *io = &job->io;
    bool zero = is_zero(job->buf, io->length); /* what is thin stays thin */
    io->op = zero ? VN_OP_WRITE_ZEROES : VN_OP_WRITE;
    io->io_flags = zero ? VN_REQ_MAY_UNMAP : 0;
    io->nr_iov = zero ? 0 : 1;
    io->done = piece_written;
    vn_mio_send(mc, io, legs);
}

/* What the last leg cannot read, nobody can have. */
static void cannot_read(struct vn_mirror_chan *mc, struct vn_copy_job *job, vn_status status) {
    struct vn_mirror *mirror = mc->mirror;
    uint32_t legs = rebuilding(mirror);
    if (legs)
        vn_leg_lose(mirror, mc, (uint32_t)__builtin_ctz(legs), status, "what it lacks cannot be read");
    give_up(mc, job, STUCK_NS);
}

static void piece_read(struct vn_mirror_chan *mc, struct vn_mio *io) {
    struct vn_copy_job *job = job_of(io);
    uint32_t source = (uint32_t)__builtin_ctz(io->sent | 1u << VN_MIRROR_MAX_LEGS);
    if (io->cancelled || mc->closing) {
        give_up(mc, job, STUCK_NS);
        return;
    }
    vn_status status = io->child[source].status;
    bool in_sync = vn_mirror_in_sync(mc->mirror) & VN_LEG_BIT(source);
    if (!status && in_sync)
        write_piece(mc, job, source);
    else if (in_sync && !vn_leg_fail(mc->mirror, mc, source, status))
        cannot_read(mc, job, status);
    else
        piece_ready(mc, io); /* from another one */
}

static void piece_ready(struct vn_mirror_chan *mc, struct vn_mio *io) {
    struct vn_copy_job *job = job_of(io);
    job->iov = (struct iovec){job->buf, io->length};
    io->op = VN_OP_READ;
    io->io_flags = 0;
    io->iov = &job->iov;
    io->nr_iov = 1;
    io->done = piece_read;
    vn_mio_send(mc, io, VN_LEG_BIT(vn_mirror_source(mc->mirror)));
}

static void start_piece(struct vn_mirror_chan *mc, struct vn_copy_job *job) {
    job->busy = true;
    job->io.sent = 0;
    job->io.cancelled = false;
    job->io.ready = piece_ready;
    job->io.done = piece_read; /* of one that ends without having been sent */
    job->io.offset = job->at;
    job->io.length = vn_min_u64(VN_MIRROR_PIECE, job->end - job->at);
    vn_mio_take_range(mc, &job->io);
}

/* --- Jobs --- */

static bool is_taken(const struct vn_mirror_chan *mc, uint64_t region) {
    for (uint32_t i = 0; i < VN_MIRROR_NR_COPIES; i++) {
        if (mc->jobs[i].running && mc->jobs[i].region == region)
            return true;
    }
    return false;
}

static bool take_region(struct vn_mirror_chan *mc, struct vn_copy_job *job) {
    const struct vn_bitmap *map = &mc->mirror->map;
    uint64_t from = mc->copy_cursor < map->nr_regions ? mc->copy_cursor : 0;
    for (uint32_t i = 0; i <= VN_MIRROR_NR_COPIES; i++) {
        int64_t region = vn_bitmap_next_todo(map, from);
        if (region < 0)
            return false;
        if (!is_taken(mc, (uint64_t)region)) {
            job->region = (uint64_t)region;
            job->at = job->region << map->region_shift;
            job->end = vn_min_u64(job->at + map->region_bytes, map->size);
            job->running = true;
            job->again = false;
            mc->copy_cursor = job->region + 1;
            return true;
        }
        from = ((uint64_t)region + 1) % map->nr_regions;
    }
    return false;
}

/* All has been copied; when the leg has it durably it is ready. */
static void last_flushed(struct vn_mirror_chan *mc, struct vn_mio *io) {
    struct vn_mirror *mirror = mc->mirror;
    uint32_t leg = (uint32_t)__builtin_ctz(io->sent);
    vn_status status = io->child[leg].status;
    mc->last_flushing = false;
    if (!(rebuilding(mirror) & VN_LEG_BIT(leg)) || mc->closing)
        ;
    else if (status)
        vn_leg_lose(mirror, mc, leg, status, "it cannot flush");
    else if (vn_bitmap_next_todo(&mirror->map, 0) < 0)
        vn_leg_is_ready(mc, leg);
    if (mc->closing)
        vn_mirror_chan_look(mc);
    else
        vn_copy_kick(mc);
}

static void flush_last(struct vn_mirror_chan *mc) {
    uint32_t legs = rebuilding(mc->mirror);
    if (!legs || mc->last_flushing || vn_bitmap_next_todo(&mc->mirror->map, 0) >= 0)
        return;
    mc->last_flushing = true;
    mc->last_flush.done = last_flushed;
    vn_mio_send(mc, &mc->last_flush, legs & -legs);
}

/* What was passed on while a leg was alone has no range: it ends first. */
static bool may_copy(const struct vn_mirror_chan *mc) {
    return !mc->closing && vn_mirror_has_two(mc->mirror) && !mc->nr_passed && !mc->mirror->backend.read_only;
}

void vn_copy_on_timer(struct vn_timer *timer) {
    struct vn_mirror_chan *mc = vn_container_of(timer, struct vn_mirror_chan, copy_timer);
    if (!may_copy(mc))
        return;
    uint32_t most = mc->nr_host ? 1 : VN_MIRROR_NR_COPIES, nr_busy = 0; /* guests first */
    for (uint32_t i = 0; i < VN_MIRROR_NR_COPIES; i++)
        nr_busy += mc->jobs[i].busy;
    for (uint32_t i = 0; i < VN_MIRROR_NR_COPIES && nr_busy < most; i++) {
        struct vn_copy_job *job = &mc->jobs[i];
        if (vn_reactor_now_ns(mc->chan.reactor) < mc->copy_due_ns) {
            vn_copy_kick(mc);
            return;
        }
        if (job->busy || (!job->running && !take_region(mc, job)))
            continue;
        nr_busy++;
        start_piece(mc, job);
    }
    flush_last(mc);
}

/* By a timer, so that what is copied at once, as from memory to memory, leaves the reactor its turns. */
void vn_copy_kick(struct vn_mirror_chan *mc) {
    uint64_t now_ns = vn_reactor_now_ns(mc->chan.reactor);
    if (!may_copy(mc) || !(rebuilding(mc->mirror) || vn_bitmap_next_todo(&mc->mirror->map, mc->copy_cursor) >= 0))
        return;
    vn_timer_arm(mc->chan.reactor, &mc->copy_timer, mc->copy_due_ns > now_ns ? mc->copy_due_ns - now_ns : 0);
}

void vn_copy_again(struct vn_mirror_chan *mc, uint64_t first, uint64_t last) {
    for (uint32_t i = 0; i < VN_MIRROR_NR_COPIES; i++)
        mc->jobs[i].again |= mc->jobs[i].running && first <= mc->jobs[i].region && mc->jobs[i].region <= last;
}

bool vn_copy_is_busy(const struct vn_mirror_chan *mc) {
    bool busy = false;
    for (uint32_t i = 0; i < VN_MIRROR_NR_COPIES; i++)
        busy |= mc->jobs[i].busy;
    return busy;
}

bool vn_copy_stop(struct vn_mirror_chan *mc) {
    vn_timer_disarm(mc->chan.reactor, &mc->copy_timer);
    return !mc->last_flushing && !vn_copy_is_busy(mc);
}

int vn_copy_open(struct vn_mirror_chan *mc) {
    size_t bytes = (size_t)VN_MIRROR_NR_COPIES * VN_MIRROR_PIECE;
    mc->buffers = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mc->buffers == MAP_FAILED)
        return -ENOMEM;
    for (uint32_t i = 0; i < VN_MIRROR_NR_COPIES; i++) {
        mc->jobs[i].buf = mc->buffers + (size_t)i * VN_MIRROR_PIECE;
        mc->jobs[i].io.mc = mc;
    }
    mc->flush.mc = mc->last_flush.mc = mc;
    mc->flush.op = mc->last_flush.op = VN_OP_FLUSH;
    return 0;
}

void vn_copy_close(struct vn_mirror_chan *mc) {
    munmap(mc->buffers, (size_t)VN_MIRROR_NR_COPIES * VN_MIRROR_PIECE);
}

/* --- Clearing bits --- */

static bool may_clear(const struct vn_mirror *mirror) {
    return !vn_mirror_in(mirror, 1u << VN_LEG_OUT | 1u << VN_LEG_FAILED) && !mirror->map.broken && vn_mirror_alone(mirror) < 0;
}

/* All legs have flushed what was written before: the regions chosen then, and not written since, are the same on all,
 * also after any of them has lost its power. */
static void flushed(struct vn_mirror_chan *mc, struct vn_mio *io) {
    struct vn_mirror *mirror = mc->mirror;
    bool all = io->sent == vn_mirror_attached(mirror) && may_clear(mirror);
    mc->flushing = false;
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        vn_status status = io->sent & VN_LEG_BIT(leg) ? io->child[leg].status : VN_SC_SUCCESS;
        all &= !status;
        if (status && vn_mirror_attached(mirror) & VN_LEG_BIT(leg))
            vn_leg_fail(mirror, mc, leg, status);
    }
    if (all) {
        vn_bitmap_clear_chosen(&mirror->map);
        vn_bitmap_write(mc);
    }
    if (mc->closing)
        vn_mirror_chan_look(mc);
}

static void clean(struct vn_mirror_chan *mc, bool all) {
    struct vn_bitmap *map = &mc->mirror->map;
    if (mc->flushing || !may_clear(mc->mirror))
        return;
    for (const struct vn_mio *io = mc->ranges; io; io = io->after)
        vn_bitmap_set(map, map->recent, io->offset, io->length);
    if (!vn_bitmap_choose(map, all))
        return;
    mc->flushing = true;
    mc->flush.done = flushed;
    vn_mio_send(mc, &mc->flush, vn_mirror_attached(mc->mirror));
}

void vn_clean_kick(struct vn_mirror_chan *mc) {
    if (!mc->clean_timer.armed && !mc->closing && !mc->alone)
        vn_timer_arm(mc->chan.reactor, &mc->clean_timer, mc->mirror->clean_ns);
}

void vn_clean_on_timer(struct vn_timer *timer) {
    struct vn_mirror_chan *mc = vn_container_of(timer, struct vn_mirror_chan, clean_timer);
    if (vn_bitmap_is_clean(&mc->mirror->map))
        return; /* the next write sets it going again */
    vn_clean_kick(mc);
    clean(mc, false);
}

void vn_clean_last(struct vn_mirror_chan *mc) {
    vn_timer_disarm(mc->chan.reactor, &mc->clean_timer);
    clean(mc, true);
}
