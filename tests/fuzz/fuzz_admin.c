/* Admin commands of every opcode, shaped as the specification has them and filled with anything, on two controllers of one drive:
 * what formats, sanitizes, tests, reserves and resets meets I/O commands of every kind, of either controller, in between.
 */
#include "fuzz_rings.h"

#include "ctrl/drive.h"
#include "fuzz_shapes.h"

#define NR_CTRLS 2u
#define NR_QUEUES 2u /* admin, and one I/O queue pair */
#define ENTRIES 16u
#define MAX_STEPS 64u /* bounds what an input may cost */
#define NR_SPACES 7u  /* that the drive may have: what a host creates is above RING_NR_NS */
#define MAX_SPACE_BYTES (1u << 20)

struct side {
    struct ring_rig rig;
    uint32_t tails[NR_QUEUES];
};

static struct side sides[NR_CTRLS];
static struct vn_drive *drive;
static struct vn_ns *spaces[NR_SPACES + 1]; /* of the drive */
static struct vn_decision asked;
static uint32_t nr_steps;

static uint64_t sq_gpa(uint32_t qid) {
    return qid ? 3 * VN_PAGE_SIZE : RING_ASQ;
}

static uint64_t cq_gpa(uint32_t qid) {
    return qid ? 4 * VN_PAGE_SIZE : RING_ACQ;
}

static void push(struct side *side, uint32_t qid, const struct vn_sqe *cmd) {
    *ring_sqe(&side->rig, sq_gpa(qid), side->tails[qid]) = *cmd;
    side->tails[qid] = (side->tails[qid] + 1) % ENTRIES;
    ring_write_tail(&side->rig, (uint16_t)qid, side->tails[qid]);
}

/* The host consumes everything. */
static void catch_up(struct side *side) {
    for (uint32_t qid = 0; qid < NR_QUEUES; qid++) {
        if (side->rig.ctrl.cqs[qid].exists)
            ring_write_head(&side->rig, (uint16_t)qid, side->rig.ctrl.cqs[qid].tail);
    }
}

static void bring_up(struct side *side) {
    struct ring_rig *at = &side->rig;
    memset(side->tails, 0, sizeof(side->tails));
    memset(at->ram, 0, 8 * VN_PAGE_SIZE);
    ring_enable(at, ENTRIES);
    if (at->ctrl.state != VN_CTRL_READY)
        return;
    push(side, 0, &(struct vn_sqe){.opcode = VN_ADMIN_CREATE_CQ, .prp1 = cq_gpa(1), .cdw10 = 1 | (ENTRIES - 1) << 16, .cdw11 = 3});
    push(side, 0, &(struct vn_sqe){.opcode = VN_ADMIN_CREATE_SQ, .prp1 = sq_gpa(1), .cdw10 = 1 | (ENTRIES - 1) << 16,
                                   .cdw11 = 1 | 1 << 16});
    ring_turn(at);
    catch_up(side);
}

static void attach_all(struct ring_rig *at) {
    for (uint32_t nsid = 1; nsid <= RING_NR_NS; nsid++) {
        struct vn_ns_chan *nsc;
        MUST(vn_ctrl_add_ns(&at->ctrl, spaces[nsid], nsid, &nsc) == 0);
        drive->space_flags[nsid] = VN_SPACE_STAYS | VN_SPACE_SHARED;
    }
    vn_guest_mem_add(&at->dev.mem, 0, RING_RAM_BYTES, at->ram, true, true);
    vn_doorbell_remap(&at->dev);
}

/* What one step of a program does; false when the reactor shall turn. */
static bool one_op(struct input *input) {
    struct side *side = &sides[take8(input) % NR_CTRLS];
    struct ring_rig *at = &side->rig;
    struct vn_sqe cmd;
    switch (take8(input) % 16) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
        cmd = shape_admin(input, at->ram);
        push(side, 0, &cmd);
        break;
    case 5:
    case 6:
    case 7:
        for (uint32_t nr = 1 + take8(input) % 3; nr; nr--) {
            cmd = shape_io(input, at->ram);
            push(side, 1, &cmd);
        }
        break;
    case 8: /* what comes of two that follow each other at once */
        cmd = shape_admin(input, at->ram);
        push(side, 0, &cmd);
        push(side, 0, &cmd);
        break;
    case 9:
        ring_turn(at);
        catch_up(side);
        break;
    case 10:
        vn_doorbell_arm(&at->dev);
        return false;
    case 11: /* a reset in full flight, waited for or not */
        vn_ctrl_reg_write(&at->ctrl, VN_REG_CC, take8(input) & 1 ? 0 : 0x4000, 4);
        if (at->ctrl.state == VN_CTRL_DISABLED)
            bring_up(side);
        break;
    case 12: /* FLR, or a QEMU that has gone */
        vn_ctrl_disable(&at->ctrl);
        return false;
    case 13:
        ring_turn(at);
        vn_ctrl_reg_write(&at->ctrl, VN_REG_CC, 0x464001, 4); /* shut down, and go on */
        break;
    case 14:
        if (at->ctrl.state == VN_CTRL_DISABLED)
            bring_up(side);
        return false;
    default:
        ring_turn(at);
        return false;
    }
    return true;
}

/* --- What hosts ask of the drive, answered as vhostnvme/emulation does it --- */
static void look_at_decision(struct ring_rig *unused) {
    (void)unused;
    asked = drive->decisions.asked;
}

/* False: commands are still on their way to it. */
static bool detach(struct vn_ctrl *ctrl, uint32_t nsid) {
    struct vn_ns_chan *nsc = ctrl->namespaces.by_nsid[nsid];
    if (!nsc)
        return true;
    if (!nsc->closing) {
        nsc->closing = true;
        vn_drive_count_change(ctrl);
        vn_aer_ns_changed(ctrl, nsid);
    }
    if (vn_ns_release(nsc) || nsc->inflight || vn_ctrl_uses_ns(ctrl, nsc) || vn_job_leave(drive, nsc->ns))
        return false;
    vn_ctrl_drop_ns(ctrl, nsc);
    free(nsc);
    return true;
}

/* Namespaces that the host deletes: gone for the drive, for the control thread to free. */
static bool delete_space(uint32_t nsid) {
    for (uint32_t i = 0; i < NR_CTRLS; i++) {
        if (!detach(&sides[i].rig.ctrl, nsid))
            return false;
    }
    if (vn_job_leave(drive, drive->spaces[nsid]))
        return false;
    drive->spaces[nsid] = NULL;
    drive->space_flags[nsid] = 0;
    return true;
}

static vn_status carry_out(uint32_t *result) {
    struct vn_ns_chan *nsc;
    bool all = asked.nsid == VN_NSID_BROADCAST;
    switch (asked.kind) {
    case VN_DECIDE_CREATE:
        *result = NR_SPACES;
        while (drive->spaces[*result])
            (*result)--;
        drive->spaces[*result] = spaces[*result];
        drive->space_flags[*result] = (uint8_t)(asked.flags | VN_SPACE_STAYS);
        vn_drive_space_came(drive, *result);
        return VN_SC_SUCCESS;
    case VN_DECIDE_DELETE:
        for (uint32_t nsid = 1; nsid <= NR_SPACES; nsid++) {
            if ((all || nsid == asked.nsid) && drive->spaces[nsid] && !delete_space(nsid))
                return VN_SC_INTERNAL;
        }
        return VN_SC_SUCCESS;
    default:
        break;
    }
    for (uint32_t i = 0; i < asked.nr_ctrls; i++) {
        struct vn_ctrl *ctrl = vn_drive_ctrl(drive, asked.ctrls[i]);
        if (asked.kind == VN_DECIDE_DETACH && !detach(ctrl, asked.nsid))
            return VN_SC_INTERNAL;
        if (asked.kind == VN_DECIDE_ATTACH && !ctrl->namespaces.by_nsid[asked.nsid])
            MUST(vn_ctrl_add_ns(ctrl, spaces[asked.nsid], asked.nsid, &nsc) == 0);
    }
    return VN_SC_SUCCESS;
}

static void answer(struct ring_rig *unused) {
    (void)unused;
    uint32_t result = 0;
    vn_status status = carry_out(&result);
    vn_decision_answer(drive, asked.id, status, result, 0);
}

static void refuse(struct ring_rig *unused) {
    (void)unused;
    vn_decision_answer(drive, asked.id, VN_SC_INTERNAL, 0, 0);
}

/* On the control thread, where namespaces are made and freed. */
static void decide(void) {
    char error[256];
    uint32_t free_nsid = NR_SPACES;
    ring_on(&sides[0].rig, look_at_decision);
    if (!asked.id)
        return;
    while (free_nsid && spaces[free_nsid])
        free_nsid--;
    struct vn_ns_opts opts = {.backend = "mem", .size = asked.bytes, .block_size = asked.block_size};
    bool creates = asked.kind == VN_DECIDE_CREATE;
    if (creates && (!free_nsid || asked.bytes > MAX_SPACE_BYTES || vn_ns_create(&opts, &spaces[free_nsid], error, sizeof(error)))) {
        ring_on(&sides[0].rig, refuse);
        return;
    }
    if (creates)
        CHECK_EQ(vn_ns_state_open(spaces[free_nsid], error, sizeof(error)), 0);
    ring_on(&sides[0].rig, answer);
    for (uint32_t nsid = 1; nsid <= NR_SPACES; nsid++) {
        if (spaces[nsid] && !drive->spaces[nsid]) {
            vn_ns_free(spaces[nsid]);
            spaces[nsid] = NULL;
        }
    }
}

static void start(struct ring_rig *at) {
    attach_all(at);
    bring_up(vn_container_of(at, struct side, rig));
}

static void step(struct ring_rig *unused) {
    (void)unused;
    bool go_on = true;
    while (program.left && go_on) {
        go_on = one_op(&program);
        for (uint32_t i = 0; i < NR_CTRLS; i++)
            check_invariants(&sides[i].rig.ctrl);
    }
    for (uint32_t i = 0; i < NR_CTRLS; i++) {
        ring_turn(&sides[i].rig);
        catch_up(&sides[i]);
    }
    step_on = program.left > 0 && ++nr_steps < MAX_STEPS;
}

static void begin_drive(struct ring_rig *unused) {
    (void)unused;
    vn_drive_begin(drive);
}

static int end_drive(void *unused) {
    (void)unused;
    return vn_drive_end(drive);
}

static void open_drive(void) {
    static const struct vn_ns_opts opts[RING_NR_NS] = {
        {.backend = "mem", .size = 1 << 18, .block_size = 512},
        {.backend = "mem", .size = 1 << 18, .block_size = 4096, .delay_us = 50},
        {.backend = "null", .size = 1ull << 40, .block_size = 512, .delay_us = 20, .error_ppm = 200000, .error_seed = 1},
        {.backend = "mem", .size = 1 << 16, .block_size = 512, .flags = VN_NS_READ_ONLY},
    };
    static int owner; /* it is not a controller's own */
    char error[256];
    struct vn_drive_opts drive_opts = {.flags = VN_DRIVE_MANAGED | VN_DRIVE_SHARED | VN_DRIVE_ANA};
    CHECK_EQ(vn_drive_open(&drive_opts, fuzz_reactor, &drive, error, sizeof(error)), 0);
    drive->owner = (vn_runtime *)&owner;
    for (uint32_t nsid = 1; nsid <= RING_NR_NS; nsid++) {
        CHECK_EQ(vn_ns_create(&opts[nsid - 1], &spaces[nsid], error, sizeof(error)), 0);
        CHECK_EQ(vn_ns_state_open(spaces[nsid], error, sizeof(error)), 0);
    }
}

static void close_drive(void) {
    while (vn_reactor_call(fuzz_reactor, end_drive, NULL))
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    vn_drive_close(drive);
    for (uint32_t nsid = 1; nsid <= NR_SPACES; nsid++) {
        if (spaces[nsid])
            vn_ns_free(spaces[nsid]);
        spaces[nsid] = NULL;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct vn_event events[64];
    fuzz_setup();
    program = (struct input){data, size < 4096 ? size : 4096};
    nr_steps = 0;
    open_drive();
    for (uint32_t i = 0; i < NR_CTRLS; i++) {
        ring_open_ctrl(&sides[i].rig, &(struct vn_ctrl_opts){.max_queues = 4, .max_entries = 64, .drive = drive, .cntlid = i},
                       fuzz_reactor, fuzz_events);
        ring_on(&sides[i].rig, start);
    }
    ring_on(&sides[0].rig, begin_drive);
    for (step_on = true; step_on;) {
        ring_on(&sides[0].rig, step);
        decide();
        while (vn_event_drain(fuzz_events, events, 64))
            ;
    }
    for (uint32_t i = 0; i < NR_CTRLS; i++)
        ring_close(&sides[i].rig);
    close_drive();
    while (vn_event_drain(fuzz_events, events, 64))
        ;
    return 0;
}
