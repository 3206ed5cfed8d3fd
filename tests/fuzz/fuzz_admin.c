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

struct side {
    struct ring_rig rig;
    uint32_t tails[NR_QUEUES];
    uint32_t nr_namespaces;
};

static struct side sides[NR_CTRLS];
static struct vn_drive *drive;
static struct vn_ns *spaces[RING_NR_NS + 1]; /* of the drive: both controllers have them */
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

static void open_drive(void) {
    static const struct vn_ns_opts opts[RING_NR_NS] = {
        {.backend = "mem", .size = 1 << 18, .block_size = 512},
        {.backend = "mem", .size = 1 << 18, .block_size = 4096, .delay_us = 50},
        {.backend = "null", .size = 1ull << 40, .block_size = 512, .delay_us = 20, .error_ppm = 200000, .error_seed = 1},
        {.backend = "mem", .size = 1 << 16, .block_size = 512, .flags = VN_NS_READ_ONLY},
    };
    static int owner; /* it is not a controller's own */
    char error[256];
    CHECK_EQ(vn_drive_open(NULL, fuzz_reactor, &drive, error, sizeof(error)), 0);
    drive->owner = (vn_runtime *)&owner;
    for (uint32_t nsid = 1; nsid <= RING_NR_NS; nsid++) {
        CHECK_EQ(vn_ns_create(&opts[nsid - 1], &spaces[nsid], error, sizeof(error)), 0);
        CHECK_EQ(vn_ns_state_open(spaces[nsid], error, sizeof(error)), 0);
    }
}

static void close_drive(void) {
    vn_drive_close(drive);
    for (uint32_t nsid = 1; nsid <= RING_NR_NS; nsid++)
        vn_ns_free(spaces[nsid]);
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
    for (step_on = true; step_on;) {
        ring_on(&sides[0].rig, step);
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
