/* Register and doorbell accesses in any order and size, with memory that comes and goes and resets in between. */
#include "fuzz_rings.h"

static void start(struct ring_rig *unused) {
    (void)unused;
    if (take8(&program) & 1)
        fuzz_map(0, RING_RAM_BYTES, true);
}

static const uint64_t offsets[] = {
    VN_REG_CAP,     VN_REG_CAP + 4, VN_REG_VS,      VN_REG_INTMS, VN_REG_INTMC,   VN_REG_CC,  VN_REG_CSTS,
    VN_REG_NSSR,    VN_REG_AQA,     VN_REG_ASQ,     VN_REG_ACQ,   VN_REG_ASQ + 4, VN_REG_ACQ + 4,
    VN_REG_CMBLOC,  VN_REG_CMBSZ,   VN_REG_CRTO,    0xff8,        0xffc,
};
static const uint64_t values[] = {
    0, 1, 0x460001, 0x464001, 0x468001, 0x460000, 0x4000, 0x8000, 0x1f001f, 0x10001, 0x1000, 0x2000, UINT64_MAX, 0x70,
};

static void put_sqe(struct input *input) {
    struct vn_sqe cmd;
    take_bytes(input, &cmd, sizeof(cmd));
    uint64_t gpa = take_gpa(input);
    if (gpa <= RING_RAM_BYTES - sizeof(cmd))
        memcpy(rig.ram + gpa, &cmd, sizeof(cmd));
}

/* A controller that runs, with one I/O queue pair, without the program having to find out how. */
static void bring_up(void) {
    ring_enable(&rig, 16);
    if (rig.ctrl.state != VN_CTRL_READY || !rig.ctrl.sqs[0].ring || rig.ctrl.sqs[0].gpa != RING_ASQ)
        return;
    *ring_sqe(&rig, RING_ASQ, 0) = (struct vn_sqe){
        .opcode = VN_ADMIN_CREATE_CQ, .prp1 = 0x4000, .cdw10 = 1 | 15 << 16, .cdw11 = 3};
    *ring_sqe(&rig, RING_ASQ, 1) = (struct vn_sqe){
        .opcode = VN_ADMIN_CREATE_SQ, .prp1 = 0x3000, .cdw10 = 1 | 15 << 16, .cdw11 = 1 | 1 << 16};
    ring_write_tail(&rig, 0, 2);
    ring_turn(&rig);
}

/* Answers false when the reactor shall turn. */
static bool one_op(struct input *input) {
    uint64_t offset, value;
    uint32_t size;
    switch (take8(input) % 14) {
    case 0:
    case 1:
    case 2:
        offset = take_of(input, offsets, VN_ARRAY_SIZE(offsets), 2) % VN_REG_DBS;
        value = take_of(input, values, VN_ARRAY_SIZE(values), 8);
        size = value & 0x80 ? take8(input) % 16 : offset % 8 ? 4 : 8;
        vn_ctrl_reg_write(&rig.ctrl, (uint32_t)offset, value, size);
        break;
    case 3:
        vn_ctrl_reg_write(&rig.ctrl, VN_REG_CC, take_of(input, values, VN_ARRAY_SIZE(values), 4), 4);
        break;
    case 4:
        offset = take_of(input, offsets, VN_ARRAY_SIZE(offsets), 2) % VN_REG_DBS;
        vn_ctrl_reg_read(&rig.ctrl, (uint32_t)offset, offset % 8 ? 4 : 8);
        break;
    case 5:
    case 6:
        offset = take8(input) < 250 ? 4 * (take8(input) % 8) : 4 * (take(input, 2) % 3072);
        vn_doorbell_write(&rig.dev, VN_REG_DBS + (uint32_t)offset, (uint32_t)take(input, 1 + (offset & 1)));
        break;
    case 7:
        ring_turn(&rig);
        break;
    case 8:
        vn_doorbell_arm(&rig.dev);
        break;
    case 9:
        put_sqe(input);
        break;
    case 10:
        fuzz_unmap(take8(input));
        break;
    case 11:
        fuzz_map(take_gpa(input), (uint64_t)take8(input) * VN_PAGE_SIZE, take8(input) & 1);
        break;
    case 12: /* function level reset, or a lost connection, once nothing is in flight */
        if (rig.ctrl.nr_inflight == 0) {
            ring_disable(&rig);
            vn_ctrl_reset_regs(&rig.ctrl);
        } else {
            bring_up();
        }
        break;
    default:
        bring_up();
        return false;
    }
    return true;
}

static void step(struct ring_rig *unused) {
    (void)unused;
    bool go_on = true;
    while (program.left && go_on) {
        go_on = one_op(&program);
        check_invariants(&rig.ctrl);
    }
    step_on = program.left > 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_run(data, size < 4096 ? size : 4096, start, step);
    return 0;
}
