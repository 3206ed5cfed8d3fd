/* Any admin and I/O commands on a running controller with fast, slow, failing and read-only namespaces, so that aborts,
 * deletions, resets and namespaces that go race with commands in flight.
 */
#include "fuzz_queues.h"

static void start(struct ring_rig *unused) {
    (void)unused;
    fuzz_map(0, RING_RAM_BYTES / 2, true);
    fuzz_map(RING_RAM_BYTES / 2, RING_RAM_BYTES / 4, true);
    fuzz_map(RING_RAM_BYTES / 2 + RING_RAM_BYTES / 4, RING_RAM_BYTES / 8, false);
    bring_up(0);
}

static const uint64_t admin_opcodes[] = {
    VN_ADMIN_DELETE_SQ, VN_ADMIN_CREATE_SQ, VN_ADMIN_GET_LOG_PAGE, VN_ADMIN_DELETE_CQ, VN_ADMIN_CREATE_CQ,
    VN_ADMIN_IDENTIFY, VN_ADMIN_ABORT, VN_ADMIN_SET_FEATURES, VN_ADMIN_GET_FEATURES, VN_ADMIN_ASYNC_EVENT,
    VN_ADMIN_ASYNC_EVENT, VN_ADMIN_ABORT, VN_ADMIN_KEEP_ALIVE, VN_ADMIN_DOORBELL_CONFIG,
};
static const uint64_t io_opcodes[] = {VN_IO_FLUSH, VN_IO_WRITE, VN_IO_READ, VN_IO_WRITE_ZEROES, VN_IO_DSM, VN_IO_READ,
                                      VN_IO_WRITE, VN_IO_COMPARE, VN_IO_VERIFY, VN_IO_COPY, VN_IO_WRITE_UNCORRECTABLE,
                                      VN_IO_RESV_REGISTER, VN_IO_RESV_REPORT, VN_IO_RESV_ACQUIRE, VN_IO_RESV_RELEASE};
static const uint64_t nsids[] = {1, 2, 3, 4, VN_NSID_BROADCAST, 0, 5, 256, 257};

static struct vn_sqe take_sqe(struct input *input, bool admin) {
    struct vn_sqe cmd = {
        .opcode = (uint8_t)(admin ? take_of(input, admin_opcodes, VN_ARRAY_SIZE(admin_opcodes), 1)
                                  : take_of(input, io_opcodes, VN_ARRAY_SIZE(io_opcodes), 1)),
        .nsid = (uint32_t)take_of(input, nsids, VN_ARRAY_SIZE(nsids), 4),
        .cid = take8(input) % 64,
        .prp1 = take_gpa(input),
        .prp2 = take_gpa(input),
    };
    uint8_t shape = take8(input);
    if (shape & 1) {
        cmd.flags = take8(input);
        cmd.sgl1.type = (uint8_t)((shape >> 6) << 4);
        cmd.sgl1.length = (uint32_t)take(input, 2) << (shape & 2 ? 4 : 0);
    }
    cmd.cdw10 = (uint32_t)take(input, shape & 4 ? 4 : 1);
    cmd.cdw11 = shape & 8 ? (uint32_t)take(input, 4) : !admin && cmd.opcode == VN_IO_DSM ? VN_DSM_AD : 0;
    if (admin && shape & 16) {
        cmd.cdw10 = (cmd.cdw10 & 0xff) | (uint32_t)take8(input) << 16; /* a queue id and a size, or a log and a length */
        cmd.cdw11 |= 1 | (uint32_t)(take8(input) % 5) << 16;
    }
    cmd.cdw12 = (uint32_t)take(input, shape & 32 ? 4 : 1);
    return cmd;
}

/* One namespace goes while commands may be on their way to it, as api.c does it; or comes back. */
static void change_namespace(uint32_t nsid) {
    struct vn_ns_chan *nsc = rig.ctrl.namespaces.by_nsid[nsid];
    if (!nsc) {
        MUST(vn_ctrl_add_ns(&rig.ctrl, rig.spaces[nsid], nsid, &nsc) == 0);
        return;
    }
    if (!nsc->closing) {
        nsc->closing = true;
        vn_aer_ns_changed(&rig.ctrl, nsid);
    }
    if (nsc->inflight || vn_ctrl_uses_ns(&rig.ctrl, nsc))
        return;
    vn_ctrl_drop_ns(&rig.ctrl, nsc);
    free(nsc);
}

/* Answers false when the reactor shall turn. */
static bool one_op(struct input *input) {
    struct vn_sqe cmd;
    uint32_t qid, at, op = take8(input) % 16;
    switch (op) {
    case 0:
    case 1:
    case 2:
        cmd = take_sqe(input, true);
        push(0, &cmd);
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        qid = 1 + take8(input) % (NR_QUEUES - 1);
        for (uint32_t nr = 1 + take8(input) % 4; nr; nr--) {
            cmd = take_sqe(input, false);
            push(qid, &cmd);
            if (cmd.opcode == VN_IO_COMPARE && VN_SQE_FUSE(cmd.flags) == VN_FUSE_FIRST) { /* the second, more often than not */
                cmd.opcode = VN_IO_WRITE;
                cmd.flags ^= VN_FUSE_FIRST | (take8(input) % 4 ? VN_FUSE_SECOND : 0);
                push(qid, &cmd);
            }
        }
        break;
    case 7: /* lists, descriptors, ranges */
        at = (uint32_t)take(input, 3) % (RING_RAM_BYTES - 64) & ~7u;
        take_bytes(input, rig.ram + at, 8 * (take8(input) % 8));
        break;
    case 11:
        change_namespace(1 + take8(input) % RING_NR_NS);
        break;
    default:
        return host_op(op, input, 0);
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
    ring_turn(&rig);
    step_on = program.left > 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_run(data, size < 4096 ? size : 4096, start, step);
    return 0;
}
