/* Any commands on a controller of fabrics, of either kind: fabrics, admin and I/O commands, properties, queues and
 * namespaces that come and go, access states and events, while commands are in flight or with the door.
 */
#include "core/util.h"
#include "ctrl/fabrics.h"
#include "fuzz_input.h"
#include "vn_test.h"

#define NR_QUEUES 4u
#define ENTRIES 8u
#define NR_REQS (NR_QUEUES * ENTRIES)
#define NR_NS 3u
#define BUFFER_BYTES (1u << 20)

static struct vn_ctrl ctrl;
static struct vn_fabrics fabrics;
static struct vn_ana ana;
static uint8_t ana_group[VN_MAX_NAMESPACES + 1];
static struct vn_req reqs[NR_REQS];
static struct iovec iovs[NR_REQS];
static struct vn_req *parked[NR_REQS];
static uint32_t nr_parked, nr_done, nr_entries;
static uint8_t *buffer;
static struct vn_ns *spaces[NR_NS + 1];
static struct vn_reactor *reactor;
static struct vn_event_queue *events;
static struct input program;
static bool step_on;

/* --- The door --- */
static vn_status map(struct vn_req *req, uint32_t length) {
    if (req->cmd.sgl1.length % 8 == 7)
        return VN_SC_SGL_DATA_LENGTH;
    MUST(length <= BUFFER_BYTES);
    req->iov[0] = (struct iovec){buffer, length};
    req->nr_iov = 1;
    return VN_SC_SUCCESS;
}

static void post(struct vn_req *req) {
    MUST(req->sq && req->sq->exists);
    nr_done++;
}

static void put(struct vn_req *req) {
    MUST(req->state == VN_REQ_FREE);
    req->next = ctrl.admin_pool;
    ctrl.admin_pool = req;
}

static void busy(struct vn_ctrl *unused) {
    (void)unused;
}

static void disabled(struct vn_ctrl *unused) {
    (void)unused;
    for (uint16_t qid = 1; qid < NR_QUEUES; qid++) {
        if (ctrl.sqs[qid].exists)
            vn_queue_disconnect(&ctrl, qid);
    }
}

static void park(struct vn_req *req) {
    MUST(nr_parked < NR_REQS);
    parked[nr_parked++] = req;
}

static void kato_changed(struct vn_ctrl *unused) {
    (void)unused;
    MUST(fabrics.kato_ms % VN_KAS_MS == 0);
}

static bool discovery_entry(struct vn_ctrl *unused, struct vn_discovery_cursor *at, struct vn_discovery_entry *out) {
    (void)unused;
    if (out)
        memset(out->subnqn, 'x', sizeof(out->subnqn));
    return at->index++ < nr_entries;
}

static uint64_t discovery_genctr(struct vn_ctrl *unused) {
    (void)unused;
    return nr_entries;
}

static const struct vn_door_ops door = {
    .name = "fuzz", .map = map, .post = post, .put = put, .busy = busy, .disabled = disabled, .auth = park,
    .disconnect = park, .cross_reset = park, .kato_changed = kato_changed, .discovery_entry = discovery_entry,
    .discovery_genctr = discovery_genctr,
};

/* --- On the reactor --- */
static void open_ns(uint32_t nsid) {
    struct vn_ns_chan *nsc;
    MUST(vn_ns_chan_open(spaces[nsid], reactor, nsid, &nsc) == 0);
    MUST(vn_ns_table_add(&ctrl.namespaces, nsc) == 0);
    vn_aer_ns_changed(&ctrl, nsid);
}

static bool close_ns(uint32_t nsid) {
    struct vn_ns_chan *nsc = ctrl.namespaces.by_nsid[nsid];
    nsc->closing = true;
    if (nsc->inflight || vn_ctrl_uses_ns(&ctrl, nsc))
        return false;
    vn_ns_table_remove(&ctrl.namespaces, nsid);
    vn_ns_chan_close(nsc);
    free(nsc);
    vn_aer_ns_changed(&ctrl, nsid);
    return true;
}

static void set_cc(uint32_t value) {
    vn_ctrl_reg_write(&ctrl, VN_REG_CC, value, 4);
}

static int start(void *unused) {
    (void)unused;
    vn_queue_connect(&ctrl, 0, ENTRIES);
    for (uint32_t nsid = 1; nsid <= NR_NS; nsid++)
        open_ns(nsid);
    set_cc(VN_CC_EN);
    for (uint16_t qid = 1; qid < NR_QUEUES && fabrics.kind == VN_CNTRLTYPE_IO; qid++)
        vn_queue_connect(&ctrl, qid, ENTRIES);
    return 0;
}

/* As the door does: no more than the queue holds. */
static void submit(uint16_t qid, const struct vn_sqe *cmd) {
    struct vn_sq *sq = &ctrl.sqs[qid];
    struct vn_req *req = ctrl.admin_pool;
    if (!sq->exists || !req || sq->nr_inflight >= ENTRIES)
        return;
    ctrl.admin_pool = req->next;
    req->next = NULL;
    req->sq = sq;
    req->cmd = *cmd;
    sq->cq->reserved++;
    vn_ctrl_execute(req);
}

static const uint64_t admin_opcodes[] = {
    VN_ADMIN_GET_LOG_PAGE, VN_ADMIN_IDENTIFY, VN_ADMIN_ABORT, VN_ADMIN_SET_FEATURES, VN_ADMIN_GET_FEATURES,
    VN_ADMIN_ASYNC_EVENT, VN_ADMIN_KEEP_ALIVE, VN_ADMIN_CROSS_RESET, VN_ADMIN_GET_LOG_PAGE, VN_ADMIN_DELETE_SQ,
};
static const uint64_t io_opcodes[] = {VN_IO_FLUSH, VN_IO_WRITE, VN_IO_READ, VN_IO_WRITE_ZEROES, VN_IO_DSM};
static const uint64_t fctypes[] = {VN_FCTYPE_PROPERTY_SET, VN_FCTYPE_PROPERTY_GET, VN_FCTYPE_CONNECT,
                                   VN_FCTYPE_DISCONNECT, VN_FCTYPE_AUTH_SEND, VN_FCTYPE_AUTH_RECV};
static const uint64_t offsets[] = {VN_REG_CC, VN_REG_CC, VN_REG_CAP, VN_REG_CSTS, VN_REG_VS, VN_REG_AQA};
static const uint64_t nsids[] = {1, 2, 3, VN_NSID_BROADCAST, 0, 4};
static const uint64_t logs[] = {VN_LOG_ANA, VN_LOG_DISCOVERY, VN_LOG_ANA | VN_ANA_LOG_RGO, VN_LOG_CHANGED_NS,
                                VN_LOG_SUPPORTED, VN_LOG_ERROR, VN_LOG_SMART, VN_LOG_EFFECTS};

static struct vn_sqe take_sqe(struct input *input, bool admin) {
    struct vn_sqe cmd = {
        .opcode = (uint8_t)(admin ? take_of(input, admin_opcodes, VN_ARRAY_SIZE(admin_opcodes), 1)
                                  : take_of(input, io_opcodes, VN_ARRAY_SIZE(io_opcodes), 1)),
        .nsid = (uint32_t)take_of(input, nsids, VN_ARRAY_SIZE(nsids), 4),
        .cid = take8(input) % 16,
        .flags = VN_PSDT_SGL_MPTR_CONTIG << 6,
    };
    uint8_t shape = take8(input);
    if (shape & 1)
        cmd.flags = take8(input);
    cmd.sgl1.length = take8(input);
    cmd.cdw10 = (uint32_t)take(input, shape & 2 ? 4 : 1);
    if (cmd.opcode == VN_ADMIN_GET_LOG_PAGE && admin)
        cmd.cdw10 = (uint32_t)take_of(input, logs, VN_ARRAY_SIZE(logs), 2) | (uint32_t)take(input, 2) << 16;
    cmd.cdw11 = (uint32_t)take(input, shape & 4 ? 4 : 1);
    cmd.cdw12 = (uint32_t)take(input, shape & 8 ? 4 : 1) & (shape & 16 ? ~3u : UINT32_MAX);
    return cmd;
}

static struct vn_sqe take_fabrics(struct input *input) {
    struct vn_sqe cmd = {.opcode = VN_ADMIN_FABRICS, .nsid = (uint32_t)take_of(input, fctypes, VN_ARRAY_SIZE(fctypes), 4)};
    uint8_t shape = take8(input);
    cmd.cdw11 = (uint32_t)take_of(input, offsets, VN_ARRAY_SIZE(offsets), 4);
    cmd.cdw10 = shape & 1 ? take8(input) : cmd.cdw11 == VN_REG_CAP;
    cmd.cdw12 = (uint32_t)take(input, shape & 2 ? 4 : 2);
    return cmd;
}

static void check_invariants(void) {
    uint32_t nr_inflight = 0, nr_free = 0;
    for (uint32_t i = 0; i < NR_QUEUES; i++) {
        const struct vn_sq *sq = &ctrl.sqs[i];
        nr_inflight += sq->nr_inflight;
        MUST(sq->exists || !sq->nr_inflight);
        MUST(ctrl.cqs[i].reserved == sq->nr_inflight);
    }
    MUST(nr_inflight == ctrl.nr_inflight);
    MUST(nr_parked <= nr_inflight);
    MUST(ctrl.nr_aers <= VN_MAX_AERS);
    for (const struct vn_req *req = ctrl.admin_pool; req; req = req->next)
        nr_free++;
    MUST(nr_free + nr_inflight + ctrl.nr_aers + ctrl.nr_orphans == NR_REQS);
    MUST(ctrl.sqs[0].exists);
}

static void end_parked(uint32_t which) {
    struct vn_req *req = parked[which];
    parked[which] = parked[--nr_parked];
    vn_ctrl_end(req, req->cancelled ? VN_SC_ABORT_REQUESTED : VN_SC_SUCCESS);
}

/* Answers false when the reactor shall turn. */
static bool one_op(struct input *input) {
    struct vn_sqe cmd;
    uint8_t op = take8(input) % 16, arg;
    uint16_t qid;
    switch (op) {
    case 0: case 1: case 2: case 3:
        cmd = take_sqe(input, true);
        submit(0, &cmd);
        break;
    case 4: case 5: case 6:
        qid = 1 + take8(input) % (NR_QUEUES - 1);
        cmd = take_sqe(input, false);
        submit(qid, &cmd);
        break;
    case 7: case 8:
        cmd = take_fabrics(input);
        submit(take8(input) % NR_QUEUES % (op - 5), &cmd);
        break;
    case 9: /* a connection comes or goes */
        qid = 1 + take8(input) % (NR_QUEUES - 1);
        if (!ctrl.sqs[qid].exists && fabrics.kind == VN_CNTRLTYPE_IO && ctrl.state == VN_CTRL_READY)
            vn_queue_connect(&ctrl, qid, ENTRIES);
        else if (ctrl.sqs[qid].exists && !ctrl.sqs[qid].nr_inflight)
            vn_queue_disconnect(&ctrl, qid);
        break;
    case 10:
        if (nr_parked)
            end_parked(take8(input) % nr_parked);
        break;
    case 11:
        arg = 1 + take8(input) % NR_NS;
        if (ctrl.namespaces.by_nsid[arg])
            close_ns(arg);
        else
            open_ns(arg);
        break;
    case 12:
        arg = take8(input);
        static const enum vn_ana_state states[] = {VN_ANA_OPTIMIZED, VN_ANA_NON_OPTIMIZED, VN_ANA_INACCESSIBLE,
                                                   VN_ANA_PERSISTENT_LOSS, VN_ANA_CHANGE};
        if (vn_ana_set(&ana, 1 + arg % 3, states[arg / 3 % VN_ARRAY_SIZE(states)]))
            vn_ana_changed(&ctrl);
        break;
    case 13:
        nr_entries = take8(input) % 40;
        vn_discovery_changed(&ctrl);
        break;
    case 14:
        set_cc(take8(input) & 1 ? VN_CC_EN : 0);
        break;
    default:
        vn_ctrl_retry_busy(&ctrl);
        return false;
    }
    return true;
}

static int step(void *unused) {
    (void)unused;
    bool go_on = true;
    while (program.left && go_on) {
        go_on = one_op(&program);
        check_invariants();
    }
    vn_ctrl_retry_busy(&ctrl);
    step_on = program.left > 0;
    return 0;
}

static void on_closed(struct vn_ctrl *unused) {
    (void)unused;
}

static int begin_close(void *unused) {
    (void)unused;
    vn_ctrl_close(&ctrl, on_closed);
    while (nr_parked)
        end_parked(0);
    return 0;
}

/* -EAGAIN until all is home. */
static int finish_close(void *unused) {
    (void)unused;
    vn_ctrl_retry_busy(&ctrl);
    for (uint32_t nsid = 1; nsid <= NR_NS; nsid++) {
        if (ctrl.nr_inflight || ctrl.shutdown || ctrl.nr_orphans ||
            (ctrl.namespaces.by_nsid[nsid] && !close_ns(nsid)))
            return -EAGAIN;
    }
    check_invariants();
    vn_timer_disarm(reactor, &ctrl.drain_timer);
    return 0;
}

/* --- The other thread --- */
static void setup(void) {
    static const struct vn_ns_opts opts[] = {
        {.backend = "mem", .size = 1 << 20, .block_size = 512},
        {.backend = "null", .size = 1 << 20, .block_size = 512, .delay_us = 300},
        {.backend = "mem", .size = 1 << 20, .block_size = 4096, .flags = VN_NS_READ_ONLY},
    };
    char error[256];
    MUST(vn_event_queue_create(&events) == 0);
    MUST(vn_reactor_start(0, 200, &reactor) == 0);
    for (uint32_t i = 0; i < NR_NS; i++)
        MUST(vn_ns_create(&opts[i], &spaces[i + 1], error, sizeof(error)) == 0);
    MUST((buffer = malloc(BUFFER_BYTES)));
    memset(buffer, 0, BUFFER_BYTES);
    for (uint32_t i = 0; i < NR_REQS; i++)
        MUST((reqs[i].buffer = malloc(VN_PAGE_SIZE)));
}

static void open_ctrl(uint8_t kind) {
    const struct vn_ctrl_opts opts = {.serial = "FUZZ", .max_entries = ENTRIES, .mdts = VN_MAX_MDTS};
    MUST(vn_ctrl_init_fabrics(&ctrl, &opts, reactor, events, 1) == 0);
    ctrl.door = &door;
    fabrics = (struct vn_fabrics){.kind = kind};
    if (kind == VN_CNTRLTYPE_IO) {
        ctrl.ana = &ana;
        ctrl.ana_group = ana_group;
    }
    vn_ana_init(&ana);
    for (uint32_t nsid = 0; nsid <= VN_MAX_NAMESPACES; nsid++)
        ana_group[nsid] = (uint8_t)(1 + nsid % 3);
    vn_fabrics_begin(&ctrl, &fabrics);
    nr_parked = nr_done = nr_entries = 0;
    for (uint32_t i = 0; i < NR_REQS; i++) {
        reqs[i] = (struct vn_req){.ctrl = &ctrl, .iov = &iovs[i], .iov_max = 1, .buffer = reqs[i].buffer};
        put(&reqs[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct vn_event told[64];
    if (!reactor)
        setup();
    program = (struct input){data, size < 2048 ? size : 2048};
    open_ctrl(take8(&program) % 4 ? VN_CNTRLTYPE_IO : VN_CNTRLTYPE_DISCOVERY);
    MUST(vn_reactor_call(reactor, start, NULL) == 0);
    for (step_on = true; step_on;)
        MUST(vn_reactor_call(reactor, step, NULL) == 0);
    MUST(vn_reactor_call(reactor, begin_close, NULL) == 0);
    while (vn_reactor_call(reactor, finish_close, NULL))
        ;
    vn_ctrl_fini(&ctrl);
    while (vn_event_drain(events, told, 64))
        ;
    return 0;
}
