/* The mirror's commands: their range, their mark in the bitmap, what they send to the legs, and what comes of it.
 * Called by mirror_alone.c, and with each child's end.
 *
 * A write: takes a command of the pool -> has its range (writes that overlap go one after the other) -> is marked durably
 * -> is with all legs -> has ended on all -> is held while a leg has failed -> is answered. A read is with one leg.
 */
#include <string.h>

#include "backend/mirror.h"
#include "core/status.h"
#include "core/util.h"

#define ABANDONED 1u /* of a child's step: it is with its leg, and nobody waits for it */
#define LONG_BYTES_NS 4ull /* a command may take so much longer for each byte: 256 MB/s */

void vn_mirror_wake(struct vn_mirror_chan *mc) {
    mc->awake = true;
    vn_poller_wake(mc->chan.reactor, &mc->poller);
}

/* --- Lists --- */

static void list_append(struct vn_mio_list *list, struct vn_mio *io) {
    io->list = list;
    io->next = NULL;
    io->prev = list->last;
    if (list->last)
        list->last->next = io;
    else
        list->first = io;
    list->last = io;
}

static void list_remove(struct vn_mio *io) {
    struct vn_mio_list *list = io->list;
    if (io->next)
        io->next->prev = io->prev;
    else
        list->last = io->prev;
    if (io->prev)
        io->prev->next = io->next;
    else
        list->first = io->next;
    io->list = NULL;
}

/* --- Ranges: writes that overlap would end in another order on another leg --- */

static bool overlap(const struct vn_mio *a, const struct vn_mio *b) {
    return a->offset < b->offset + b->length && b->offset < a->offset + a->length;
}

/* In the way: one that has its range, or one that has waited longer. */
static bool is_free(const struct vn_mirror_chan *mc, const struct vn_mio *io, const struct vn_mio *until) {
    for (const struct vn_mio *other = mc->ranges; other; other = other->after) {
        if (overlap(io, other))
            return false;
    }
    for (const struct vn_mio *other = mc->blocked.first; other && other != until; other = other->next) {
        if (overlap(io, other))
            return false;
    }
    return true;
}

static void have_range(struct vn_mirror_chan *mc, struct vn_mio *io) {
    io->has_range = true;
    io->before = NULL;
    io->after = mc->ranges;
    if (mc->ranges)
        mc->ranges->before = io;
    mc->ranges = io;
    vn_clean_kick(mc);
    if (mc->alone || vn_bitmap_mark(&mc->mirror->map, io->offset, io->length)) {
        io->ready(mc, io);
        return;
    }
    if (mc->mirror->map.broken) {
        list_append(&mc->ending, io);
        vn_mirror_wake(mc);
        return;
    }
    list_append(&mc->unmarked, io);
    vn_bitmap_write(mc); /* no slot: the poller tries again */
}

void vn_mio_take_range(struct vn_mirror_chan *mc, struct vn_mio *io) {
    if (is_free(mc, io, NULL))
        have_range(mc, io);
    else
        list_append(&mc->blocked, io);
}

/* What has waited and is free now. What begins may end at once and come back here: then the outer call goes on. */
static void unblock(struct vn_mirror_chan *mc) {
    mc->kick_again = true;
    if (mc->kicking)
        return;
    mc->kicking = true;
    while (mc->kick_again) {
        mc->kick_again = false;
        for (struct vn_mio *io = mc->blocked.first; io; io = io->next) {
            if (!is_free(mc, io, io))
                continue;
            list_remove(io);
            mc->kick_again = true; /* the list is another one now */
            have_range(mc, io);
            break;
        }
    }
    mc->kicking = false;
}

void vn_mio_leave_range(struct vn_mirror_chan *mc, struct vn_mio *io) {
    if (!io->has_range)
        return;
    io->has_range = false;
    if (io->after)
        io->after->before = io->before;
    if (io->before)
        io->before->after = io->after;
    else
        mc->ranges = io->after;
    if (mc->blocked.first)
        unblock(mc);
}

void vn_mirror_marked(struct vn_mirror_chan *mc) {
    struct vn_bitmap *map = &mc->mirror->map;
    struct vn_mio_list list = mc->unmarked;
    mc->unmarked = (struct vn_mio_list){0};
    for (struct vn_mio *io = list.first; io; io = io->next)
        io->list = &list; /* one that is cancelled meanwhile leaves this list */
    for (struct vn_mio *io; (io = list.first);) {
        list_remove(io);
        if (mc->alone || (!map->broken && vn_bitmap_mark(map, io->offset, io->length)))
            io->ready(mc, io);
        else
            list_append(map->broken ? &mc->ending : &mc->unmarked, io);
    }
    if (mc->ending.first)
        vn_mirror_wake(mc);
}

/* --- Children --- */

static uint32_t leg_of(const struct vn_mio *io, const struct vn_req *child) {
    return (uint32_t)(child - io->child);
}

static void unlink_child(struct vn_leg_chan *leg, struct vn_req *child) {
    if (child->next)
        child->next->prev = child->prev;
    else
        leg->last = child->prev;
    if (child->prev)
        child->prev->next = child->next;
    else
        leg->first = child->next;
    leg->nr_inflight--;
}

/* A disk that hangs may write into the memory of a read long after anybody waits for it: so that is ours. */
static void take_bounce(struct vn_mirror_chan *mc, struct vn_mio *io, uint32_t leg) {
    io->bounce[leg].iov_base = NULL;
    if (io->op != VN_OP_READ || !mc->legs[leg].keeps || !mc->nr_bounce || io->length > VN_MIRROR_BOUNCE)
        return;
    io->bounce[leg] = (struct iovec){mc->free_bounce[--mc->nr_bounce], io->length};
    io->child[leg].iov = &io->bounce[leg];
    io->child[leg].nr_iov = 1;
}

static void leave_bounce(struct vn_mirror_chan *mc, struct vn_mio *io, uint32_t leg, bool copy) {
    const uint8_t *at = io->bounce[leg].iov_base;
    if (!at)
        return;
    mc->free_bounce[mc->nr_bounce++] = io->bounce[leg].iov_base;
    io->bounce[leg].iov_base = NULL;
    for (uint32_t i = 0; copy && i < io->nr_iov; at += io->iov[i++].iov_len)
        memcpy(io->iov[i].iov_base, at, io->iov[i].iov_len);
}

static void child_done(struct vn_req *child, void *ctx) {
    struct vn_mio *io = ctx;
    struct vn_mirror_chan *mc = io->mc;
    uint32_t index = leg_of(io, child);
    struct vn_leg_chan *leg = &mc->legs[index];
    vn_req_set_state(child, VN_REQ_DONE);
    if (child->cancelled && !child->status && (child->op == VN_OP_READ || child->op == VN_OP_COMPARE))
        child->status = VN_SC_ABORT_REQUESTED; /* an engine may have ended it without having touched the data */
    leave_bounce(mc, io, index, !child->status);
    if (child->step == ABANDONED) { /* the command has gone on without it, and may be another one by now */
        leg->nr_abandoned--;
        if (mc->closing)
            vn_mirror_chan_look(mc);
        return;
    }
    unlink_child(leg, child);
    if (--io->pending == 0)
        io->done(mc, io);
}

/* What a leg that is out still has, some time after it was cancelled. Nobody waits for it any more. Of a write the disk may
 * still read the host's memory, which it would put where all is copied anew; it never writes there. */
static void abandon(struct vn_mirror_chan *mc, uint32_t index) {
    struct vn_leg_chan *leg = &mc->legs[index];
    for (struct vn_req *child = leg->first, *next; child; child = next) {
        struct vn_mio *io = child->frames[0].ctx;
        next = child->next;
        if (child->state != VN_REQ_TAKEN || !child->cancelled || (child->op == VN_OP_READ && !io->bounce[index].iov_base))
            continue;
        unlink_child(leg, child);
        leg->nr_abandoned++;
        child->step = ABANDONED;
        child->status = VN_SC_ABORT_REQUESTED;
        if (child->op != VN_OP_READ) { /* the list is its command's, and goes with it */
            child->iov = NULL;
            child->nr_iov = 0;
        }
        if (--io->pending == 0)
            io->done(mc, io);
    }
}

/* True: taken. */
static bool offer(struct vn_leg_chan *leg, struct vn_req *child) {
    return vn_chan_submit(leg->chan, child) == VN_TAKEN;
}

/* Whether there is a whole request from here on that nobody has taken. */
static struct vn_req *next_waiting(struct vn_req *child) {
    while (child && child->state != VN_REQ_FETCHED)
        child = child->next;
    return child;
}

static void send_to(struct vn_mirror_chan *mc, struct vn_mio *io, uint32_t index) {
    struct vn_leg_chan *leg = &mc->legs[index];
    struct vn_req *child = &io->child[index];
    child->op = io->op; /* field by field: the scratch of engines and filters is most of it, and needs no zeros */
    child->io_flags = io->io_flags;
    child->offset = io->offset;
    child->length = io->length;
    child->iov = io->iov;
    child->nr_iov = io->nr_iov;
    child->status = VN_SC_SUCCESS;
    child->state = VN_REQ_FREE;
    child->cancelled = false;
    child->step = 0;
    child->start_ns = vn_reactor_now_ns(mc->chan.reactor);
    child->prev = leg->last;
    child->next = NULL;
    take_bounce(mc, io, index);
    vn_req_set_state(child, VN_REQ_FETCHED);
    vn_req_push(child, child_done, io);
    if (leg->last)
        leg->last->next = child;
    else
        leg->first = child;
    leg->last = child;
    leg->nr_inflight++;
    if (leg->waiting || !offer(leg, child)) {
        leg->waiting = leg->waiting ? leg->waiting : child;
        vn_mirror_wake(mc);
    }
}

void vn_mio_send(struct vn_mirror_chan *mc, struct vn_mio *io, uint32_t legs) {
    io->sent = legs;
    io->pending = (uint32_t)__builtin_popcount(legs) + 1; /* one for us, as they may end at once */
    if (!mc->check_timer.armed)
        vn_timer_arm(mc->chan.reactor, &mc->check_timer, mc->mirror->leg_timeout_ns / 4);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        if (legs & VN_LEG_BIT(leg))
            send_to(mc, io, leg);
    }
    if (--io->pending == 0)
        io->done(mc, io);
}

static void cancel_child(struct vn_mirror_chan *mc, uint32_t index, struct vn_req *child) {
    struct vn_leg_chan *leg = &mc->legs[index];
    bool first = !child->cancelled;
    child->cancelled = true;
    if (child->state == VN_REQ_TAKEN && first)
        vn_chan_cancel(leg->chan, child);
    leg->has_cancelled |= child->state == VN_REQ_FETCHED; /* the poller ends it */
}

void vn_mio_cancel(struct vn_mirror_chan *mc, struct vn_mio *io) {
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        uint8_t state = io->child[leg].state;
        if ((io->sent & VN_LEG_BIT(leg)) && (state == VN_REQ_TAKEN || state == VN_REQ_FETCHED))
            cancel_child(mc, leg, &io->child[leg]);
    }
    vn_mirror_wake(mc);
}

void vn_mirror_cancel_leg(struct vn_mirror_chan *mc, uint32_t index) {
    mc->legs[index].cancelled_ns = vn_reactor_now_ns(mc->chan.reactor);
    for (struct vn_req *child = mc->legs[index].first; child; child = child->next)
        cancel_child(mc, index, child);
    vn_mirror_wake(mc);
}

static void forget(struct vn_mio *io, uint32_t index) {
    io->sent &= ~VN_LEG_BIT(index);
}

/* What is still with the others would take the end that the old one gave it for one of the new one. */
void vn_mirror_forget_leg(struct vn_mirror_chan *mc, uint32_t index) {
    for (uint32_t i = 0; i < mc->nr_used; i++)
        forget(&mc->ios[i], index);
    for (uint32_t i = 0; i < VN_MIRROR_NR_COPIES; i++)
        forget(&mc->jobs[i].io, index);
    forget(&mc->flush, index); /* so that it clears no bits */
}

static bool end_cancelled_waiting(struct vn_leg_chan *leg) {
    if (!leg->has_cancelled)
        return false;
    leg->has_cancelled = false;
    for (struct vn_req *child = next_waiting(leg->waiting); child;) {
        if (!child->cancelled) {
            child = next_waiting(child->next);
            continue;
        }
        vn_req_set_state(child, VN_REQ_TAKEN);
        leg->waiting = next_waiting(leg->waiting);
        vn_req_complete(child, VN_SC_ABORT_REQUESTED);
        child = next_waiting(leg->waiting); /* anything may have changed: from the beginning */
    }
    return true;
}

static bool offer_waiting(struct vn_leg_chan *leg) {
    bool work = end_cancelled_waiting(leg);
    for (struct vn_req *child; (child = next_waiting(leg->waiting)); work = true) {
        leg->waiting = next_waiting(child->next); /* before: it may end, and others come, within submit */
        if (!offer(leg, child)) {
            leg->waiting = child;
            return work;
        }
    }
    leg->waiting = NULL;
    return work;
}

/* --- Ends --- */

static void finish(struct vn_mirror_chan *mc, struct vn_mio *io, vn_status status) {
    struct vn_req *parent = io->parent;
    vn_mio_leave_range(mc, io);
    io->parent = NULL;
    io->next = mc->free;
    mc->free = io;
    mc->nr_host--;
    vn_req_complete(parent, status);
}

/* The command itself is at fault, or the memory that it names: no leg is worse for it. */
static bool is_own_fault(vn_status status) {
    switch (VN_STATUS_CODE(status)) {
    case VN_SC_INVALID_OPCODE:
    case VN_SC_INVALID_FIELD:
    case VN_SC_DATA_TRANSFER_ERROR:
    case VN_SC_LBA_RANGE:
    case VN_SC_COMPARE_FAILURE:
        return true;
    default:
        return false;
    }
}

void vn_mirror_unsure(struct vn_mirror_chan *mc, uint64_t offset, uint64_t length) {
    struct vn_bitmap *map = &mc->mirror->map;
    vn_bitmap_set(map, map->unsure, offset, length);
    vn_copy_again(mc, offset >> map->region_shift, (offset + length - 1) >> map->region_shift);
    vn_copy_kick(mc);
}

static void answer(struct vn_mirror_chan *mc, struct vn_mio *io) {
    if (vn_mirror_holds(mc->mirror)) {
        vn_mio_leave_range(mc, io);
        list_append(&mc->held, io);
    } else {
        finish(mc, io, VN_SC_SUCCESS);
    }
}

/* Ended on all legs. Only what a leg that still is to have it says counts. */
static void write_done(struct vn_mirror_chan *mc, struct vn_mio *io) {
    struct vn_mirror *mirror = mc->mirror;
    uint32_t counts = io->sent & vn_mirror_in_sync(mirror), attached = io->sent & vn_mirror_attached(mirror), failed = 0;
    vn_status status = VN_SC_SUCCESS, own = VN_SC_SUCCESS;
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        vn_status of_leg = io->child[leg].status;
        if (!(attached & VN_LEG_BIT(leg)) || !of_leg)
            continue;
        failed |= VN_LEG_BIT(leg);
        status = counts & VN_LEG_BIT(leg) ? of_leg : status ? status : of_leg;
        own = VN_STATUS_CODE(of_leg) == VN_SC_DATA_TRANSFER_ERROR ? of_leg : own;
    }
    if (failed && (io->cancelled || own || !(counts & ~failed))) { /* nobody is to blame, or nobody is left */
        if (io->length && io->sent)
            vn_mirror_unsure(mc, io->offset, io->length);
        finish(mc, io, io->cancelled ? VN_SC_ABORT_REQUESTED : own ? own : status);
        return;
    }
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        if (failed & VN_LEG_BIT(leg))
            vn_leg_fail(mirror, mc, leg, io->child[leg].status);
    }
    answer(mc, io);
}

static void read_again(struct vn_mirror_chan *mc, struct vn_mio *io) {
    vn_mio_send(mc, io, VN_LEG_BIT(vn_mirror_source(mc->mirror)));
}

static void read_done(struct vn_mirror_chan *mc, struct vn_mio *io) {
    uint32_t leg = (uint32_t)__builtin_ctz(io->sent);
    vn_status status = io->child[leg].status;
    bool in_sync = vn_mirror_in_sync(mc->mirror) & io->sent;
    if (!status || io->cancelled)
        finish(mc, io, status ? VN_SC_ABORT_REQUESTED : status);
    else if (is_own_fault(status) || (in_sync && !vn_leg_fail(mc->mirror, mc, leg, status)))
        finish(mc, io, status);
    else
        read_again(mc, io);
}

/* The legs that are there when it is ready; those that come later copy what they lack. */
static void write_ready(struct vn_mirror_chan *mc, struct vn_mio *io) {
    vn_mio_send(mc, io, vn_mirror_attached(mc->mirror));
}

/* --- From above --- */

static bool is_full(const struct vn_mirror_chan *mc) {
    return !mc->free && mc->nr_used == VN_MIRROR_NR_IOS;
}

static struct vn_mio *take(struct vn_mirror_chan *mc, struct vn_req *req) {
    struct vn_mio *io = mc->free;
    if (io)
        mc->free = io->next;
    else
        io = &mc->ios[mc->nr_used++];
    io->mc = mc;
    io->list = NULL;
    io->parent = req;
    io->op = req->op;
    io->io_flags = req->io_flags;
    io->offset = req->offset;
    io->length = req->length;
    io->iov = req->iov;
    io->nr_iov = req->nr_iov;
    io->sent = io->pending = 0;
    io->has_range = io->cancelled = false;
    req->engine[0] = (uintptr_t)io;
    mc->nr_host++;
    return io;
}

enum vn_submit vn_mirror_submit_to_all(struct vn_mirror_chan *mc, struct vn_req *req) {
    if ((req->op != VN_OP_FLUSH && !req->length) || (req->op == VN_OP_DEALLOCATE && !mc->mirror->backend.deallocates)) {
        vn_req_complete(req, VN_SC_SUCCESS);
        return VN_TAKEN;
    }
    if (is_full(mc))
        return VN_BUSY;
    struct vn_mio *io = take(mc, req);
    switch (req->op) {
    case VN_OP_READ:
    case VN_OP_COMPARE:
        io->done = read_done;
        read_again(mc, io);
        break;
    case VN_OP_FLUSH:
        io->length = 0;
        io->done = write_done;
        write_ready(mc, io);
        break;
    case VN_OP_DEALLOCATE:
        if (mc->mirror->zeroes_for_deallocate) {
            io->op = VN_OP_WRITE_ZEROES;
            io->io_flags = VN_REQ_MAY_UNMAP;
        } /* fall through */
    default:
        io->ready = write_ready;
        io->done = write_done;
        vn_mio_take_range(mc, io);
        break;
    }
    return VN_TAKEN;
}

void vn_mirror_cancel_sent(struct vn_mirror_chan *mc, struct vn_req *req) {
    struct vn_mio *io = (struct vn_mio *)(uintptr_t)req->engine[0];
    if (io->cancelled)
        return;
    io->cancelled = true;
    if (!io->list) {
        vn_mio_cancel(mc, io);
        return;
    }
    list_remove(io);
    list_append(&mc->ending, io);
    vn_mirror_wake(mc);
}

void vn_mirror_release(struct vn_mirror_chan *mc) {
    while (mc->held.first && !vn_mirror_holds(mc->mirror)) {
        struct vn_mio *io = mc->held.first;
        list_remove(io);
        finish(mc, io, VN_SC_SUCCESS);
    }
}

/* Cancelled while it waited, or the bitmap cannot take its mark. */
static bool end_ending(struct vn_mirror_chan *mc) {
    struct vn_mio *last = mc->ending.last;
    for (struct vn_mio *io; last && (io = mc->ending.first);) {
        bool is_last = io == last;
        list_remove(io);
        if (io->parent) {
            finish(mc, io, io->cancelled ? VN_SC_ABORT_REQUESTED : vn_status_dnr(VN_SC_WRITE_FAULT));
        } else {
            io->cancelled = true;
            io->sent = 0;
            io->done(mc, io);
        }
        if (is_last)
            break;
    }
    return last;
}

static bool is_waiting(const struct vn_mirror_chan *mc) {
    bool waits = mc->ending.first || (mc->unmarked.first && !mc->mirror->map.writing);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
        waits |= mc->legs[leg].waiting != NULL;
    return waits;
}

bool vn_mirror_poll(struct vn_poller *poller) {
    struct vn_mirror_chan *mc = vn_container_of(poller, struct vn_mirror_chan, poller);
    if (!mc->awake)
        return false;
    bool work = end_ending(mc);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
        work |= mc->legs[leg].waiting && offer_waiting(&mc->legs[leg]);
    if (mc->unmarked.first && !mc->mirror->map.writing)
        vn_bitmap_write(mc);
    if (mc->closing)
        vn_mirror_chan_look(mc);
    mc->awake = mc->closing || is_waiting(mc);
    return work;
}

bool vn_mirror_before_sleep(struct vn_poller *poller) {
    return is_waiting(vn_container_of(poller, struct vn_mirror_chan, poller));
}

bool vn_mirror_can_rest(struct vn_poller *poller) {
    return !vn_container_of(poller, struct vn_mirror_chan, poller)->awake; /* what comes to wait wakes it */
}

/* The oldest that each leg has. What is long may take longer, such as zeros on a file system that writes them. */
void vn_mirror_on_check(struct vn_timer *timer) {
    struct vn_mirror_chan *mc = vn_container_of(timer, struct vn_mirror_chan, check_timer);
    struct vn_mirror *mirror = mc->mirror;
    uint64_t now_ns = vn_reactor_now_ns(mc->chan.reactor);
    bool any = false;
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        const struct vn_req *child = mc->legs[leg].first;
        any |= child != NULL;
        if (child && !(vn_mirror_attached(mirror) & VN_LEG_BIT(leg))) {
            if (now_ns - mc->legs[leg].cancelled_ns >= mirror->leg_timeout_ns / 8)
                abandon(mc, leg);
            continue;
        }
        for (; child && child->start_ns + mirror->leg_timeout_ns <= now_ns; child = child->next) {
            if (child->start_ns + mirror->leg_timeout_ns + child->length * LONG_BYTES_NS > now_ns)
                continue;
            if (vn_mirror_attached(mirror) & VN_LEG_BIT(leg))
                vn_leg_fail(mirror, mc, leg, VN_SC_SUCCESS);
            break;
        }
    }
    if (any)
        vn_timer_arm(mc->chan.reactor, timer, mirror->leg_timeout_ns / 4);
}
