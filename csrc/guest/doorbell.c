/* The rings in guest memory: doorbells in (mapped, trapped or shadow), commands fetched, completions posted.
 * The hot path of the guest door; called by vfu_dev.c on every turn of the reactor.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <vfio-user.h>

#include "core/util.h"
#include "guest/vfu_dev.h"

#define BURST 32u          /* commands fetched from one queue before the next has its turn */
#define TURN_COMMANDS 128u /* from all queues of a controller before the next controller has its turn, */
#define TURN_BYTES 1048576u /* and about so many bytes */

/* What a controller may still fetch in this turn. */
struct budget {
    uint32_t nr;
    uint64_t bytes;
};

/* Doorbell of a queue: 2 x 4 bytes a queue pair, tail before head (PCIe Transport 3.1.2). */
static uint32_t sq_index(uint16_t qid) {
    return 2u * qid;
}

static uint32_t cq_index(uint16_t qid) {
    return 2u * qid + 1;
}

static uint32_t *plain_doorbells(struct vn_vfu_dev *dev) {
    return dev->mapped ? dev->page : dev->trapped;
}

/* The host's writes to the shadow count for I/O queues; hosts ring the admin queue in the registers. */
static void locate(struct vn_vfu_dev *dev, uint16_t qid, uint32_t index, const uint32_t **doorbell,
                   uint32_t **event_idx) {
    const struct vn_shadow *shadow = &dev->shadow;
    *doorbell = *event_idx = NULL;
    if (!qid || !shadow->gpa) {
        *doorbell = &plain_doorbells(dev)[index];
    } else if (shadow->doorbells) { /* else the guest has taken its pages away */
        *doorbell = &shadow->doorbells[index];
        *event_idx = &shadow->event_idx[index];
    }
}

static uint32_t read_doorbell(const uint32_t *doorbell) {
    return __atomic_load_n(doorbell, __ATOMIC_ACQUIRE) & 0xffff;
}

static void write_event_idx(uint32_t *event_idx, uint32_t value) {
    __atomic_store_n(event_idx, value, __ATOMIC_RELAXED);
}

static void log_wrong_doorbell(struct vn_ctrl *ctrl, uint16_t qid, enum vn_aen_error_info info) {
    vn_log_error_event(ctrl, qid, 0xffff);
    vn_aer_raise(ctrl, VN_AEN_ERROR, (uint8_t)info);
}

/* A doorbell in memory holds what cannot be: told once, and ignored (Base 5.2.1, error event 01h). */
static void refuse(struct vn_ctrl *ctrl, uint16_t qid, uint32_t value, uint32_t *last_refused) {
    if (value != *last_refused)
        log_wrong_doorbell(ctrl, qid, VN_AEN_ERROR_DB_VALUE);
    *last_refused = value;
}

/* A head may move only over what was posted: up to our tail. */
static bool head_can_be(const struct vn_cq *cq, uint32_t head) {
    return head < cq->size &&
           vn_queue_distance(cq->head, head, cq->size) <= vn_queue_distance(cq->head, cq->tail, cq->size);
}

void vn_doorbell_take_head(struct vn_ctrl *ctrl, struct vn_cq *cq) {
    if (!cq->doorbell)
        return;
    uint32_t head = read_doorbell(cq->doorbell);
    if (head == cq->head)
        return;
    if (!head_can_be(cq, head)) {
        refuse(ctrl, cq->cqid, head, &cq->bad_head);
        return;
    }
    cq->head = head;
    cq->bad_head = UINT32_MAX;
}

/* Slots of the completion queue that are neither filled nor promised. */
static uint32_t free_slots(struct vn_ctrl *ctrl, struct vn_cq *cq, uint32_t wanted) {
    if (vn_cq_free_slots(cq) < wanted) /* looks full: only now read the host's doorbell */
        vn_doorbell_take_head(ctrl, cq);
    return vn_cq_free_slots(cq);
}

/* Memory shared in name only (a private mapping of a memfd) reads as zeros here, whatever the guest writes. An
 * all-zero first command - Delete I/O SQ 0 - is none that any driver sends. */
static bool memory_is_shared(struct vn_vfu_dev *dev, const struct vn_sqe *cmd) {
    static const struct vn_sqe zeros;
    if (dev->checked_memory)
        return true;
    dev->checked_memory = true;
    return memcmp(cmd, &zeros, sizeof(zeros)) != 0;
}

static void tell_unshared(struct vn_vfu_dev *dev) {
    if (dev->told_unshared)
        return;
    dev->told_unshared = true;
    vn_event_emit(dev->ctrl->events, VN_EVENT_MEMORY_NOT_SHARED, dev->ctrl->id, 0, 0,
                  "the guest's memory is not shared: give QEMU -object memory-backend-memfd,id=mem,share=on,size=SIZE "
                  "-machine memory-backend=mem");
}

static bool fetch(struct vn_ctrl *ctrl, struct vn_sq *sq, struct budget *budget) {
    if (!sq->exists || sq->halts || !sq->ring || !sq->cq->ring || !sq->doorbell)
        return false;
    uint32_t tail = read_doorbell(sq->doorbell);
    if (tail != sq->tail) {
        if (tail >= sq->size) {
            refuse(ctrl, sq->sqid, tail, &sq->bad_tail);
        } else {
            sq->tail = tail;
            sq->bad_tail = UINT32_MAX;
        }
    }
    if (sq->tail == sq->head)
        return false;
    uint32_t nr = vn_queue_distance(sq->head, sq->tail, sq->size);
    nr = nr < BURST ? nr : BURST;
    nr = nr < budget->nr ? nr : budget->nr;
    uint32_t slots = free_slots(ctrl, sq->cq, nr);
    if (nr > slots)
        nr = slots;
    uint32_t done = 0;
    while (done < nr) {
        if (sq->sqid == 0 && !vn_cq_free_slots(sq->cq)) /* an event, told meanwhile, took the slot */
            break;
        struct vn_req *req = vn_ctrl_get_req(ctrl, sq);
        if (!req)
            break;
        memcpy(&req->cmd, &sq->ring[sq->head], sizeof(req->cmd)); /* once: the guest may change it meanwhile */
        if (sq->sqid == 0 && !memory_is_shared(ctrl->door_ctx, &req->cmd)) {
            vn_ctrl_put_req(ctrl, req);
            tell_unshared(ctrl->door_ctx);
            vn_ctrl_fatal(ctrl, "the first admin command is all zeros: the guest's memory is not shared");
            return true;
        }
        sq->head = sq->head + 1 == sq->size ? 0 : sq->head + 1;
        sq->cq->reserved++;
        done++;
        vn_ctrl_execute(req);
        budget->bytes -= vn_min_u64(req->length, budget->bytes);
        /* or the command has ended its own queue */
        if (!budget->bytes || !sq->exists || sq->halts || ctrl->state != VN_CTRL_READY)
            break;
    }
    sq->paired = false; /* the next look goes on behind it */
    budget->nr = budget->bytes ? budget->nr - done : 0;
    return done > 0;
}

/* Hosts ring once for both of a pair (Base 3.4.2): what is not there by then does not come. */
struct vn_req *vn_doorbell_fetch_second(struct vn_sq *sq, bool *later) {
    struct vn_ctrl *ctrl = sq->ctrl;
    *later = false;
    if (!sq->ring || !sq->doorbell || sq->tail == sq->head || sq->cq->size < 3) /* its queue holds one completion at a time */
        return NULL;
    struct vn_sqe cmd;
    memcpy(&cmd, &sq->ring[sq->head], sizeof(cmd)); /* once, as any other */
    if (VN_SQE_FUSE(cmd.flags) != VN_FUSE_SECOND)
        return NULL;
    struct vn_req *req = free_slots(ctrl, sq->cq, 1) ? vn_ctrl_get_req(ctrl, sq) : NULL;
    *later = !req;
    if (!req)
        return NULL;
    req->cmd = cmd;
    sq->head = sq->head + 1 == sq->size ? 0 : sq->head + 1;
    sq->cq->reserved++;
    sq->paired = true;
    return req;
}

/* From the I/O queues in the mask (bit qid - 1), as long as no command ends the controller or its queue. Where the
 * budget ended, the next turn begins. */
static bool fetch_each(struct vn_vfu_dev *dev, uint64_t mask, struct budget *budget) {
    struct vn_ctrl *ctrl = dev->ctrl;
    bool work = false;
    for (; mask && budget->nr && ctrl->state == VN_CTRL_READY; mask &= mask - 1) {
        uint32_t index = (uint32_t)__builtin_ctzll(mask);
        work |= fetch(ctrl, &ctrl->sqs[index + 1], budget);
        dev->next_sq = (index + (budget->nr > 0)) % VN_MAX_IO_QUEUES;
    }
    return work;
}

/* --- Weighted round robin with urgent priority class (Base 3.4.4.2), when the host has chosen it by CC.AMS --- */
static uint64_t queues_of(const struct vn_ctrl *ctrl, enum vn_sq_priority class) {
    uint64_t queues = 0;
    for (uint64_t mask = ctrl->io_sqs; mask; mask &= mask - 1) {
        uint32_t index = (uint32_t)__builtin_ctzll(mask);
        queues |= ctrl->sqs[index + 1].priority == class ? 1ull << index : 0;
    }
    return queues;
}

/* Up to nr commands of a class, a burst from each of its queues in turn. */
static bool fetch_class(struct vn_vfu_dev *dev, enum vn_sq_priority class, uint32_t nr, struct budget *budget) {
    struct vn_ctrl *ctrl = dev->ctrl;
    uint32_t burst = 1u << (ctrl->features.arbitration & 7), idle = 0;
    bool work = false;
    while (nr && budget->nr && ctrl->state == VN_CTRL_READY) {
        uint64_t queues = queues_of(ctrl, class), later = queues & ~((1ull << dev->next_of[class]) - 1);
        if (!queues || idle == (uint32_t)__builtin_popcountll(queues))
            break;
        uint32_t index = (uint32_t)__builtin_ctzll(later ? later : queues);
        uint32_t most = (uint32_t)vn_min_u64(vn_min_u64(burst, nr), budget->nr);
        struct budget part = {.nr = most, .bytes = budget->bytes};
        bool fetched = fetch(ctrl, &ctrl->sqs[index + 1], &part);
        dev->next_of[class] = (index + 1) % VN_MAX_IO_QUEUES;
        idle = fetched ? 0 : idle + 1;
        work |= fetched;
        budget->bytes = part.bytes;
        budget->nr = part.bytes ? budget->nr - (most - part.nr) : 0;
        nr -= most - part.nr;
    }
    return work;
}

/* What is urgent is always first; the others have as many commands in a round as their weights say. */
static bool fetch_weighted(struct vn_vfu_dev *dev, struct budget *budget) {
    uint32_t arbitration = dev->ctrl->features.arbitration;
    bool work = false, more = true;
    while (more) {
        more = fetch_class(dev, VN_SQ_URGENT, UINT32_MAX, budget);
        more |= fetch_class(dev, VN_SQ_HIGH, (arbitration >> 24) + 1, budget);
        more |= fetch_class(dev, VN_SQ_MEDIUM, (arbitration >> 16 & 0xff) + 1, budget);
        more |= fetch_class(dev, VN_SQ_LOW, (arbitration >> 8 & 0xff) + 1, budget);
        work |= more;
    }
    return work;
}

/* Every queue is as good as another. */
static bool fetch_round(struct vn_vfu_dev *dev, struct budget *budget) {
    uint64_t before = (1ull << dev->next_sq) - 1; /* the queues from next_sq on are first */
    bool work = fetch_each(dev, dev->ctrl->io_sqs & ~before, budget);
    return fetch_each(dev, dev->ctrl->io_sqs & before, budget) | work;
}

bool vn_doorbell_poll(struct vn_vfu_dev *dev) {
    struct vn_ctrl *ctrl = dev->ctrl;
    if (ctrl->state != VN_CTRL_READY || ctrl->paused)
        return false;
    struct budget admin = {.nr = BURST, .bytes = TURN_BYTES}, io = {.nr = TURN_COMMANDS, .bytes = TURN_BYTES};
    bool work = fetch(ctrl, &ctrl->sqs[0], &admin);
    work |= __builtin_expect(ctrl->weighted, 0) ? fetch_weighted(dev, &io) : fetch_round(dev, &io);
    /* events wait for room in the admin completion queue */
    if (ctrl->nr_aers && ctrl->events_pending) {
        vn_doorbell_take_head(ctrl, &ctrl->cqs[0]);
        vn_aer_flush(ctrl);
    }
    return work;
}

/* Only a full queue, or an interrupt held back, makes us wait for the host's head. Else the index lies just behind it,
 * where a host that consumes passes it once in a whole turn of the ring, so that completions do not wake us. */
static uint32_t head_wakes_at(const struct vn_ctrl *ctrl, const struct vn_cq *cq) {
    bool held = cq->cqid && (ctrl->irqs_due & vn_queue_bit(cq->cqid));
    if (held || !vn_cq_free_slots(cq))
        return cq->head;
    return cq->head ? cq->head - 1 : cq->size - 1;
}

static void arm_cq(struct vn_ctrl *ctrl, struct vn_cq *cq) {
    vn_doorbell_take_head(ctrl, cq); /* nobody may have looked at it since: tell of a wrong one */
    if (cq->event_idx)
        write_event_idx(cq->event_idx, head_wakes_at(ctrl, cq));
}

/* Something is there that the poll of the next turn can take. */
static bool has_work(struct vn_ctrl *ctrl, const struct vn_sq *sq) {
    if (!sq->exists || sq->halts || !sq->doorbell || !sq->ring || !sq->cq->ring)
        return false;
    uint32_t tail = read_doorbell(sq->doorbell);
    if (tail != sq->tail && tail != sq->bad_tail)
        return true;
    /* commands wait, and there is room for their completions now */
    bool has_req = sq->sqid ? ctrl->io_pool != NULL : ctrl->admin_pool != NULL;
    return sq->tail != sq->head && has_req && free_slots(ctrl, sq->cq, 1);
}

/* Before sleeping: ask to be woken by the next doorbell, then look once more. True: there is work. */
bool vn_doorbell_arm(struct vn_vfu_dev *dev) {
    struct vn_ctrl *ctrl = dev->ctrl;
    if (ctrl->state != VN_CTRL_READY || ctrl->paused)
        return false;
    arm_cq(ctrl, &ctrl->cqs[0]);
    for (uint64_t mask = ctrl->io_cqs; mask; mask &= mask - 1)
        arm_cq(ctrl, &ctrl->cqs[__builtin_ctzll(mask) + 1]);
    for (uint64_t mask = ctrl->io_sqs; mask; mask &= mask - 1) {
        struct vn_sq *sq = &ctrl->sqs[__builtin_ctzll(mask) + 1];
        if (sq->event_idx)
            write_event_idx(sq->event_idx, sq->tail);
    }
    /* The host writes its doorbell, then reads our index; we write the index, then read its doorbell. */
    atomic_thread_fence(memory_order_seq_cst);
    if (has_work(ctrl, &ctrl->sqs[0]))
        return true;
    for (uint64_t mask = ctrl->io_sqs; mask; mask &= mask - 1) {
        if (has_work(ctrl, &ctrl->sqs[__builtin_ctzll(mask) + 1]))
            return true;
    }
    for (uint64_t mask = ctrl->irqs_due; mask; mask &= mask - 1) { /* held back until the head moves: has it? */
        struct vn_cq *cq = &ctrl->cqs[__builtin_ctzll(mask) + 1];
        vn_doorbell_take_head(ctrl, cq);
        if (cq->irq_head != VN_NO_IRQ && cq->head != cq->irq_head)
            return true;
    }
    return false;
}

/* Whether a doorbell may be given this value. The same check as when it is read from memory, but a wrong value that
 * is trapped does not replace the good one before it. */
static bool value_can_be(const struct vn_ctrl *ctrl, uint32_t index, uint32_t value) {
    const struct vn_cq *cq = &ctrl->cqs[index / 2];
    return index & 1 ? head_can_be(cq, value) : value < ctrl->sqs[index / 2].size;
}

/* A trapped doorbell. Hosts with shadow doorbells write here only to wake us. */
void vn_doorbell_write(struct vn_vfu_dev *dev, uint32_t offset, uint32_t value) {
    struct vn_ctrl *ctrl = dev->ctrl;
    uint32_t index = (offset - VN_REG_DBS) / 4;
    vn_count(&ctrl->counters.doorbell_writes, 1);
    if (ctrl->state != VN_CTRL_READY) /* harmless before RDY */
        return;
    uint32_t qid = index / 2;
    bool exists = qid < VN_NR_QUEUES && (index & 1 ? ctrl->cqs[qid].exists : ctrl->sqs[qid].exists);
    value &= 0xffff;
    if (!exists)
        log_wrong_doorbell(ctrl, (uint16_t)qid, VN_AEN_ERROR_DB_REGISTER);
    else if (!value_can_be(ctrl, index, value))
        log_wrong_doorbell(ctrl, (uint16_t)qid, VN_AEN_ERROR_DB_VALUE);
    else
        __atomic_store_n(&plain_doorbells(dev)[index], value, __ATOMIC_RELEASE);
}

/* A posted doorbell write is 36 bytes: header, region access, value. The socket is looked into, and only what is
 * a run of such messages is taken; all else is libvfio-user's. */
struct posted_write {
    struct vfio_user_header hdr;
    uint64_t offset;
    uint32_t region, count, value;
} __attribute__((packed));
_Static_assert(sizeof(struct posted_write) == 36, "a posted doorbell write is 36 bytes on the wire");
#define POSTED_BURST 64

static bool is_doorbell(const struct posted_write *msg) {
    return msg->hdr.cmd == VFIO_USER_REGION_WRITE && msg->hdr.msg_size == sizeof(*msg) && msg->hdr.flags.no_reply &&
           msg->hdr.flags.type == VFIO_USER_F_TYPE_COMMAND && msg->region == VFU_PCI_DEV_BAR0_REGION_IDX &&
           msg->count == 4 && msg->offset >= VN_REG_DBS && msg->offset <= VN_BAR0_BYTES - 4 && msg->offset % 4 == 0;
}

bool vn_doorbell_take_posted(struct vn_vfu_dev *dev) {
    struct posted_write msgs[POSTED_BURST];
    int fd = vfu_get_poll_fd(dev->ctx);
    ssize_t got = recv(fd, msgs, sizeof(msgs), MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) {
        dev->readable = false;
        return true;
    }
    size_t whole = got > 0 ? (size_t)got / sizeof(msgs[0]) : 0, nr = 0;
    while (nr < whole && is_doorbell(&msgs[nr]))
        nr++;
    size_t bytes = nr * sizeof(msgs[0]);
    if (!nr || recv(fd, msgs, bytes, MSG_DONTWAIT) != (ssize_t)bytes)
        return false;
    /* All that was there has been taken: what comes from now on is told by the reactor's poll. */
    dev->readable = dev->hung_up || (size_t)got != bytes || nr == POSTED_BURST;
    for (size_t i = 0; i < nr; i++)
        vn_doorbell_write(dev, (uint32_t)msgs[i].offset, msgs[i].value);
    return true;
}

/* The data pointer of a command, as iovecs into guest memory. */
vn_status vn_doorbell_map(struct vn_req *req, uint32_t length) {
    struct vn_vfu_dev *dev = req->ctrl->door_ctx;
    bool to_host = (req->cmd.opcode & 3) == 2; /* opcode bits 1:0 (Base 3.3.3.1) */
    struct vn_iov_list list = {.mem = &dev->mem, .iov = req->iov, .max = req->iov_max, .write = to_host};
    vn_status status = VN_SQE_PSDT(req->cmd.flags) == VN_PSDT_PRP
                           ? vn_prp_map(&list, req->cmd.prp1, req->cmd.prp2, length)
                           : vn_sgl_map_bucket(&list, &req->cmd.sgl1, length, req->ctrl->bucket);
    req->nr_iov = list.nr;
    return status;
}

/* Its metadata pointer. */
vn_status vn_doorbell_map_meta(struct vn_req *req, struct vn_meta_map *map, uint32_t length) {
    struct vn_vfu_dev *dev = req->ctrl->door_ctx;
    bool to_host = (req->cmd.opcode & 3) == 2;
    struct vn_iov_list list = {.mem = &dev->mem, .iov = map->iov, .max = map->max, .write = to_host};
    vn_status status = vn_mptr_map(&list, req->cmd.mptr, VN_SQE_PSDT(req->cmd.flags), length);
    map->nr = list.nr;
    return status;
}

static void remap_shadow(struct vn_vfu_dev *dev) {
    struct vn_shadow *shadow = &dev->shadow;
    if (!shadow->gpa)
        return;
    shadow->doorbells = vn_guest_mem_whole(&dev->mem, shadow->gpa, VN_PAGE_SIZE, true); /* cleared at queue creation */
    shadow->event_idx = vn_guest_mem_whole(&dev->mem, shadow->event_gpa, VN_PAGE_SIZE, true);
    if (!shadow->event_idx)
        shadow->doorbells = NULL;
}

static void map_sq(struct vn_vfu_dev *dev, struct vn_sq *sq) {
    sq->ring = vn_guest_mem_whole(&dev->mem, sq->gpa, sq->size * sizeof(struct vn_sqe), false);
    locate(dev, sq->sqid, sq_index(sq->sqid), &sq->doorbell, &sq->event_idx);
}

static void map_cq(struct vn_vfu_dev *dev, struct vn_cq *cq) {
    cq->ring = vn_guest_mem_whole(&dev->mem, cq->gpa, cq->size * sizeof(struct vn_cqe), true);
    locate(dev, cq->cqid, cq_index(cq->cqid), &cq->doorbell, &cq->event_idx);
}

void vn_doorbell_remap(struct vn_vfu_dev *dev) {
    remap_shadow(dev);
    for (size_t i = 0; i < VN_NR_QUEUES; i++) {
        if (dev->ctrl->sqs[i].exists)
            map_sq(dev, &dev->ctrl->sqs[i]);
        if (dev->ctrl->cqs[i].exists)
            map_cq(dev, &dev->ctrl->cqs[i]);
    }
}

/* Both doorbells start at zero, wherever they are. */
static void clear_doorbell(struct vn_vfu_dev *dev, uint16_t qid, uint32_t index) {
    __atomic_store_n(&plain_doorbells(dev)[index], 0, __ATOMIC_RELAXED);
    if (qid && dev->shadow.doorbells) {
        __atomic_store_n(&dev->shadow.doorbells[index], 0, __ATOMIC_RELAXED);
        write_event_idx(&dev->shadow.event_idx[index], 0);
    }
}

vn_status vn_doorbell_sq_open(struct vn_sq *sq) {
    struct vn_vfu_dev *dev = sq->ctrl->door_ctx;
    clear_doorbell(dev, sq->sqid, sq_index(sq->sqid));
    map_sq(dev, sq);
    if (sq->sqid == 0)
        dev->checked_memory = false;
    if (!sq->ring && dev->mem.nr_unshared)
        tell_unshared(dev);
    return sq->ring ? VN_SC_SUCCESS : VN_SC_DATA_TRANSFER_ERROR;
}

vn_status vn_doorbell_cq_open(struct vn_cq *cq) {
    struct vn_ctrl *ctrl = vn_container_of(cq - cq->cqid, struct vn_ctrl, cqs[0]);
    struct vn_vfu_dev *dev = ctrl->door_ctx;
    clear_doorbell(dev, cq->cqid, cq_index(cq->cqid));
    map_cq(dev, cq);
    if (!cq->ring && dev->mem.nr_unshared)
        tell_unshared(dev);
    return cq->ring ? VN_SC_SUCCESS : VN_SC_DATA_TRANSFER_ERROR;
}

/* Doorbell Buffer Config (Base 5.8): from here on the host writes there first, and rings only past our index. */
vn_status vn_doorbell_buffer(struct vn_ctrl *ctrl, uint64_t shadow, uint64_t event_idx) {
    struct vn_vfu_dev *dev = ctrl->door_ctx;
    uint32_t *doorbells = vn_guest_mem_whole(&dev->mem, shadow, VN_PAGE_SIZE, true);
    uint32_t *events = vn_guest_mem_whole(&dev->mem, event_idx, VN_PAGE_SIZE, true);
    if (!shadow || !doorbells || !events)
        return VN_SC_INVALID_FIELD;
    for (uint16_t qid = 1; qid <= VN_MAX_IO_QUEUES; qid++) { /* queues that exist already go on where they are */
        doorbells[sq_index(qid)] = ctrl->sqs[qid].exists ? ctrl->sqs[qid].tail : 0;
        doorbells[cq_index(qid)] = ctrl->cqs[qid].exists ? ctrl->cqs[qid].head : 0;
        events[sq_index(qid)] = doorbells[sq_index(qid)];
        events[cq_index(qid)] = doorbells[cq_index(qid)];
    }
    dev->shadow = (struct vn_shadow){.gpa = shadow, .event_gpa = event_idx};
    vn_doorbell_remap(dev);
    return VN_SC_SUCCESS;
}

/* The entry's last eight bytes hold the phase: they are written after the first, in one piece. */
void vn_doorbell_post(struct vn_req *req) {
    struct vn_sq *sq = req->sq;
    struct vn_cq *cq = sq->cq;
    if (!cq->ring) /* the guest has taken its memory away: there is nobody to tell */
        return;
    union {
        struct vn_cqe cqe;
        uint64_t words[2];
    } entry = {.cqe = {
                   .dw0 = req->result,
                   .dw1 = req->result_high,
                   .sqhd = (uint16_t)sq->head,
                   .sqid = sq->sqid,
                   .cid = req->cmd.cid,
                   .status = (uint16_t)(req->status << 1 | cq->phase),
               }};
    uint64_t *slot = (uint64_t *)&cq->ring[cq->tail];
    __atomic_store_n(&slot[0], entry.words[0], __ATOMIC_RELAXED);
    __atomic_store_n(&slot[1], entry.words[1], __ATOMIC_RELEASE);
    if (++cq->tail == cq->size) {
        cq->tail = 0;
        cq->phase ^= 1;
    }
    if (cq->ien)
        vn_cq_owe_irq(sq->ctrl, cq);
}

void vn_doorbell_forget(struct vn_ctrl *ctrl) {
    struct vn_vfu_dev *dev = ctrl->door_ctx;
    dev->shadow = (struct vn_shadow){0};
    memset(dev->trapped, 0, sizeof(dev->trapped));
    memset(dev->page, 0, VN_DOORBELL_BYTES);
}
