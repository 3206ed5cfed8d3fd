/* The forwarder's requests: made into commands of the size that the target takes, sent, completed, repeated, cancelled.
 * Called by vn_chan_submit and with each command's end. Which way they go is forward_path.c's.
 *
 * A request waits in one of its channel's lists, or has commands in flight, or both while slots are scarce. Lists are
 * bounded by the requests of the controller above.
 */
#include <errno.h>

#include "backend/forward.h"
#include "core/status.h"
#include "core/util.h"

/* --- Lists --- */

static void list_append(struct vn_fio_list *list, struct vn_fio *io) {
    io->list = list;
    io->next = NULL;
    io->prev = list->last;
    if (list->last)
        list->last->next = io;
    else
        list->first = io;
    list->last = io;
}

static void list_remove(struct vn_fio *io) {
    struct vn_fio_list *list = io->list;
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

/* Back to where it was in the order: what comes back is older than nearly all that waits. */
static void list_insert(struct vn_fio_list *list, struct vn_fio *io) {
    struct vn_fio *after = list->first;
    while (after && after->seq < io->seq)
        after = after->next;
    if (!after) {
        list_append(list, io);
        return;
    }
    io->list = list;
    io->next = after;
    io->prev = after->prev;
    after->prev = io;
    if (io->prev)
        io->prev->next = io;
    else
        list->first = io;
}

/* --- Ghosts: writes of cancelled requests that the target still has --- */

static bool meets_ghost(const struct vn_forward_chan *fc, const struct vn_req *req) {
    for (const struct vn_hcmd *ghost = fc->ghosts; ghost; ghost = ghost->sibling) {
        if (req->offset < ghost->offset + ghost->length && ghost->offset < req->offset + req->length)
            return true;
    }
    return false;
}

static void ghost_ended(struct vn_forward_chan *fc, struct vn_hcmd *cmd) {
    struct vn_hcmd **at = &fc->ghosts;
    while (*at && *at != cmd)
        at = &(*at)->sibling;
    if (!*at)
        return;
    *at = cmd->sibling;
    while (fc->blocked.first) { /* each is looked at again when it is its turn */
        struct vn_fio *io = fc->blocked.first;
        list_remove(io);
        list_insert(&fc->waiting[VN_FORWARD_WRITES], io);
    }
}

/* --- Commands --- */

static void on_done(struct vn_hcmd *cmd, enum vn_hcmd_fate fate);

static void put_range(struct vn_hcmd *cmd, uint64_t offset, uint64_t length, uint32_t block_size) {
    struct vn_sqe *sqe = &cmd->capsule.pdu.cmd.sqe;
    uint64_t slba = offset / block_size;
    sqe->cdw10 = (uint32_t)slba;
    sqe->cdw11 = (uint32_t)(slba >> 32);
    sqe->cdw12 = (uint32_t)(length / block_size - 1);
    cmd->offset = offset;
    cmd->length = length;
}

static void put_data(struct vn_hcmd *cmd, enum vn_hcmd_data direction, const struct iovec *iov, uint32_t nr_iov,
                     uint64_t offset, uint64_t length) {
    cmd->direction = (uint8_t)direction;
    cmd->iov = iov;
    cmd->nr_iov = nr_iov;
    cmd->iov_offset = (uint32_t)offset;
    cmd->bytes = (uint32_t)length;
}

static void put_deallocate(struct vn_hcmd *cmd, uint64_t offset, uint64_t length, uint32_t block_size) {
    struct vn_sqe *sqe = &cmd->capsule.pdu.cmd.sqe;
    sqe->opcode = VN_IO_DSM;
    sqe->cdw10 = 0; /* one range */
    sqe->cdw11 = VN_DSM_AD;
    cmd->range = (struct vn_dsm_range){.slba = offset / block_size, .nlb = (uint32_t)(length / block_size)};
    cmd->range_iov = (struct iovec){&cmd->range, sizeof(cmd->range)};
    cmd->steady = true;
    cmd->offset = offset;
    cmd->length = length;
    put_data(cmd, VN_HCMD_OUT, &cmd->range_iov, 1, 0, sizeof(cmd->range));
}

static void put_zeroes(const struct vn_forward *forward, const struct vn_assoc_facts *facts, struct vn_hcmd *cmd,
                       const struct vn_req *req, uint64_t offset, uint64_t length) {
    struct vn_sqe *sqe = &cmd->capsule.pdu.cmd.sqe;
    put_range(cmd, offset, length, facts->block_size);
    sqe->cdw12 |= req->io_flags & VN_REQ_FUA ? VN_RW_FUA : 0;
    if (facts->write_zeroes) {
        sqe->opcode = VN_IO_WRITE_ZEROES;
        sqe->cdw12 |= (req->io_flags & VN_REQ_MAY_UNMAP) && facts->zeroes_deallocate ? VN_RW_DEAC : 0;
        return;
    }
    sqe->opcode = VN_IO_WRITE;
    cmd->steady = true;
    put_data(cmd, VN_HCMD_OUT, forward->zeros, VN_FORWARD_ZERO_IOVECS, 0, length);
}

/* How much of the request, from `done` on, one command takes. */
static uint64_t piece_of(const struct vn_assoc_facts *facts, const struct vn_req *req, uint64_t done) {
    uint64_t most = facts->transfer_max;
    if (req->op == VN_OP_DEALLOCATE)
        most = (uint64_t)facts->deallocate_max * facts->block_size;
    else if (req->op == VN_OP_WRITE_ZEROES && facts->write_zeroes)
        most = (uint64_t)facts->zeroes_max * facts->block_size;
    return vn_min_u64(req->length - done, most);
}

static void send_piece(struct vn_forward_chan *fc, struct vn_fio *io, struct vn_hcmd *cmd) {
    const struct vn_assoc_facts *facts = &fc->active->assoc->facts;
    struct vn_req *req = vn_fio_req(io);
    struct vn_sqe *sqe = &cmd->capsule.pdu.cmd.sqe;
    uint64_t length = piece_of(facts, req, io->sent), offset = req->offset + io->sent;
    sqe->nsid = fc->forward->config.nsid;
    cmd->offset = cmd->length = 0;
    cmd->modifies = vn_forward_class_of(req) == VN_FORWARD_WRITES;
    switch (req->op) {
    case VN_OP_READ:
    case VN_OP_COMPARE:
    case VN_OP_WRITE:
        sqe->opcode = req->op == VN_OP_READ ? VN_IO_READ : req->op == VN_OP_WRITE ? VN_IO_WRITE : VN_IO_COMPARE;
        put_range(cmd, offset, length, facts->block_size);
        sqe->cdw12 |= req->io_flags & VN_REQ_FUA ? VN_RW_FUA : 0;
        put_data(cmd, req->op == VN_OP_READ ? VN_HCMD_IN : VN_HCMD_OUT, req->iov, req->nr_iov, io->sent, length);
        break;
    case VN_OP_WRITE_ZEROES:
        put_zeroes(fc->forward, facts, cmd, req, offset, length);
        break;
    case VN_OP_DEALLOCATE:
        put_deallocate(cmd, offset, length, facts->block_size);
        break;
    default:
        sqe->opcode = VN_IO_FLUSH;
        length = 0;
        break;
    }
    cmd->done = on_done;
    cmd->owner = io;
    cmd->sibling = io->cmds;
    io->cmds = cmd;
    io->sent += length;
    io->made = true;
    fc->active->nr_writes += cmd->modifies;
    vn_hcmd_send(cmd);
}

/* True: there is a command for every byte of it. */
static bool send_all(struct vn_forward_chan *fc, struct vn_fio *io) {
    const struct vn_req *req = vn_fio_req(io);
    while (!io->made || (req->op != VN_OP_FLUSH && io->sent < req->length)) {
        struct vn_hcmd *cmd = vn_assoc_get(fc->active->assoc);
        if (!cmd)
            return false;
        send_piece(fc, io, cmd);
    }
    return true;
}

/* The class whose first has waited longest, of those that have a way. */
static struct vn_fio *next_waiting(struct vn_forward_chan *fc) {
    struct vn_fio *reads = fc->out_ns[VN_FORWARD_READS] ? NULL : fc->waiting[VN_FORWARD_READS].first;
    struct vn_fio *writes = fc->out_ns[VN_FORWARD_WRITES] ? NULL : fc->waiting[VN_FORWARD_WRITES].first;
    return !reads ? writes : !writes ? reads : reads->seq < writes->seq ? reads : writes;
}

void vn_forward_kick(struct vn_forward_chan *fc) {
    for (struct vn_fio *io; fc->active && (io = next_waiting(fc));) {
        if (io->list == &fc->waiting[VN_FORWARD_WRITES] && fc->ghosts && meets_ghost(fc, vn_fio_req(io))) {
            list_remove(io);
            list_insert(&fc->blocked, io);
            continue;
        }
        if (!send_all(fc, io))
            return;
        list_remove(io);
    }
}

/* --- Ends --- */

/* All of its commands have ended. */
static void finish(struct vn_forward_chan *fc, struct vn_fio *io) {
    struct vn_req *req = vn_fio_req(io);
    const struct vn_forward *forward = fc->forward;
    if (io->list)
        list_remove(io);
    if (io->cancelled) {
        vn_req_complete(req, VN_SC_ABORT_REQUESTED);
        return;
    }
    if (io->status || !io->again) {
        vn_req_complete(req, io->status);
        return;
    }
    enum vn_forward_class class = vn_forward_class_of(req);
    uint64_t age_ns = vn_reactor_now_ns(fc->chan.reactor) - io->start_ns;
    if (fc->failed[class] || age_ns > forward->reconnect_ns + forward->config.io_timeout_ms * 2000000ull) {
        vn_req_complete(req, VN_SC_HOST_PATH);
        return;
    }
    io->again = io->made = false;
    io->sent = 0;
    list_insert(&fc->waiting[class], io);
}

static bool is_of_path(vn_status status) {
    vn_status code = VN_STATUS_CODE(status);
    return code >= VN_STATUS(3, 0) && code <= VN_STATUS(3, 0x7f);
}

static void forget_sibling(struct vn_fio *io, struct vn_hcmd *cmd) {
    struct vn_hcmd **at = &io->cmds;
    while (*at != cmd)
        at = &(*at)->sibling;
    *at = cmd->sibling;
}

static void on_done(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_path *path = cmd->queue->assoc->ctx;
    struct vn_forward_chan *fc = path->fc;
    struct vn_fio *io = cmd->owner;
    path->nr_writes -= cmd->modifies;
    path->backoff_ms = fate == VN_FATE_DONE ? 0 : path->backoff_ms; /* the attempt was worth it */
    path->unknown |= fate == VN_FATE_UNKNOWN && cmd->modifies;
    if (!io) {
        ghost_ended(fc, cmd);
        vn_forward_kick(fc);
        return;
    }
    forget_sibling(io, cmd);
    vn_status status = cmd->status;
    if (fate != VN_FATE_DONE) {
        io->again = true;
    } else if (is_of_path(status)) {
        io->again = true;
        vn_forward_path_refused(path);
    } else if (status && !io->status) {
        io->status = status;
    }
    bool over = io->status || io->again || io->cancelled || !io->list;
    if (over && !io->cmds)
        finish(fc, io);
    else if (over && io->list) /* no more commands for it */
        list_remove(io);
    vn_forward_kick(fc);
}

enum vn_submit vn_forward_submit(struct vn_chan *chan, struct vn_req *req) {
    struct vn_forward_chan *fc = (struct vn_forward_chan *)chan;
    const struct vn_forward *forward = fc->forward;
    struct vn_fio *io = vn_fio_of(req);
    enum vn_forward_class class = vn_forward_class_of(req);
    *io = (struct vn_fio){.seq = ++fc->seq, .start_ns = vn_reactor_now_ns(chan->reactor)};
    if (req->op == VN_OP_FLUSH && !forward->backend.volatile_cache) {
        vn_req_complete(req, VN_SC_SUCCESS);
        return VN_TAKEN;
    }
    if (req->op == VN_OP_COMPARE && !forward->facts.compare) {
        vn_req_complete(req, vn_status_dnr(VN_SC_INVALID_OPCODE));
        return VN_TAKEN;
    }
    if (class == VN_FORWARD_WRITES && __builtin_expect(vn_fence_has_news(fc), 0))
        vn_forward_update(fc);
    if (fc->failed[class]) {
        vn_req_complete(req, VN_SC_HOST_PATH);
        return VN_TAKEN;
    }
    list_append(&fc->waiting[class], io);
    vn_forward_kick(fc);
    return VN_TAKEN;
}

void vn_forward_fail_waiting(struct vn_forward_chan *fc, enum vn_forward_class class) {
    struct vn_fio_list list = fc->waiting[class];
    fc->waiting[class] = (struct vn_fio_list){0};
    while (class == VN_FORWARD_WRITES && fc->blocked.first) {
        struct vn_fio *io = fc->blocked.first;
        list_remove(io);
        list_append(&list, io);
    }
    for (struct vn_fio *io = list.first; io; io = io->next)
        io->list = &list; /* what completes may come with others, which end at once: not in this list */
    while (list.first) {
        struct vn_fio *io = list.first;
        list_remove(io);
        io->status = io->status ? io->status : VN_SC_HOST_PATH;
        if (!io->cmds)
            finish(fc, io);
    }
}

/* --- Cancelling --- */

void vn_forward_on_end_timer(struct vn_timer *timer) {
    struct vn_forward_chan *fc = vn_container_of(timer, struct vn_forward_chan, end_timer);
    struct vn_fio *last = fc->ending.last;
    for (struct vn_fio *io; (io = fc->ending.first);) {
        bool is_last = io == last;
        finish(fc, io);
        if (is_last)
            break; /* what has been cancelled since has its own turn */
    }
    if (fc->ending.first)
        vn_timer_arm(fc->chan.reactor, timer, 0);
    vn_forward_kick(fc); /* slots of what had not left are free again */
}

/* Lets go of one command. True: it is not the request's any more. */
static bool let_go(struct vn_forward_chan *fc, struct vn_fio *io, struct vn_hcmd *cmd) {
    struct vn_path *path = cmd->queue->assoc->ctx;
    struct vn_hcmd *next = cmd->sibling;
    switch (vn_hcmd_forget(cmd)) {
    case VN_FORGOT_UNSENT:
        path->nr_writes -= cmd->modifies;
        break;
    case VN_FORGOT_SENT:
        cmd->owner = NULL;
        if (cmd->modifies) { /* what is newer and overlaps waits for it */
            cmd->sibling = fc->ghosts;
            fc->ghosts = cmd;
        }
        break;
    case VN_FORGOT_PARTLY:
        return false;
    }
    io->cmds = next;
    return true;
}

void vn_forward_cancel(struct vn_chan *chan, struct vn_req *req) {
    struct vn_forward_chan *fc = (struct vn_forward_chan *)chan;
    struct vn_fio *io = vn_fio_of(req);
    if (io->cancelled)
        return;
    io->cancelled = true;
    if (io->list)
        list_remove(io);
    struct vn_hcmd *partly = NULL;
    while (io->cmds) {
        struct vn_hcmd *cmd = io->cmds;
        if (let_go(fc, io, cmd))
            continue;
        io->cmds = cmd->sibling;
        cmd->sibling = partly;
        partly = cmd;
    }
    io->cmds = partly;
    for (struct vn_hcmd *cmd = partly; cmd; cmd = cmd->sibling)
        vn_assoc_fail(cmd->queue->assoc, ECANCELED,
                      "a write was cancelled while its data was on its way to %s: the connection is given up",
                      cmd->queue->assoc->name);
    if (!partly) {
        list_append(&fc->ending, io);
        vn_timer_arm(chan->reactor, &fc->end_timer, 0);
    }
}
