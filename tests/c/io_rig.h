/* A namespace for tests of I/O commands: memory that the test sees, whose commands may be held back and end in any order,
 * be refused with BUSY, or fail where a block is bad. On top of ctrl_rig.h; one store in a process.
 */
#ifndef IO_RIG_H
#define IO_RIG_H

#include "ctrl_rig.h"

#define STORE_BYTES (4u << 20)
#define STORE_BLOCKS (STORE_BYTES / 512)
#define IO_DATA_GPA (RIG_RAM_GPA + 0x10000)
#define IO_DATA_BYTES (RIG_RAM_BYTES - 0x10000)

struct store {
    struct vn_backend backend;
    uint8_t *bytes;
    bool holds;        /* what comes waits for store_end_one */
    uint32_t busy_ppm; /* how many are refused with BUSY */
    uint64_t bad_lba;  /* reads and compares of it fail; UINT64_MAX: none */
    vn_status write_status; /* of every write */
    struct vn_req *held[1024];
    uint32_t nr_held, nr_flushes, nr_fua;
    uint64_t largest;  /* length of a read or write, bytes */
    struct vn_test_random random;
};

static struct store *store;

static inline void store_close(struct vn_backend *backend) {
    free(((struct store *)backend)->bytes);
    free(backend);
}

static inline int store_chan_open(struct vn_backend *backend, struct vn_reactor *reactor, struct vn_chan **out) {
    CHECK((*out = calloc(1, sizeof(**out))));
    **out = (struct vn_chan){.backend = backend, .reactor = reactor};
    return 0;
}

static inline void store_chan_close(struct vn_chan *chan) {
    free(chan);
}

static inline vn_status store_move(struct vn_req *req) {
    uint8_t *at = store->bytes + req->offset;
    bool reads = req->op == VN_OP_READ || req->op == VN_OP_COMPARE;
    if (reads && store->bad_lba >= req->offset / 512 && store->bad_lba < (req->offset + req->length) / 512)
        return VN_SC_UNRECOVERED_READ;
    if (!reads && store->write_status)
        return store->write_status;
    store->largest = vn_max_u64(store->largest, req->length);
    store->nr_fua += req->io_flags & VN_REQ_FUA;
    for (uint32_t i = 0; i < req->nr_iov && !req->cancelled; at += req->iov[i++].iov_len) {
        if (req->op == VN_OP_READ)
            memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
        else if (req->op == VN_OP_WRITE)
            memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
        else if (req->op == VN_OP_COMPARE && memcmp(at, req->iov[i].iov_base, req->iov[i].iov_len) != 0)
            return VN_SC_COMPARE_FAILURE;
    }
    if (req->op == VN_OP_WRITE_ZEROES || req->op == VN_OP_DEALLOCATE)
        memset(store->bytes + req->offset, 0, req->length);
    store->nr_flushes += req->op == VN_OP_FLUSH;
    return VN_SC_SUCCESS;
}

static inline enum vn_submit store_submit(struct vn_chan *chan, struct vn_req *req) {
    (void)chan;
    if (vn_test_below(&store->random, 1000000) < store->busy_ppm)
        return VN_BUSY;
    if (store->holds) {
        CHECK(store->nr_held < VN_ARRAY_SIZE(store->held));
        store->held[store->nr_held++] = req;
    } else {
        vn_req_complete(req, store_move(req));
    }
    return VN_TAKEN;
}

static const struct vn_backend_ops store_ops = {
    .name = "store", .close = store_close, .chan_open = store_chan_open, .chan_close = store_chan_close,
    .submit = store_submit,
};

/* One of those held, any of them. False: there is none. */
static inline bool store_end_one(void) {
    if (!store->nr_held)
        return false;
    uint32_t at = (uint32_t)vn_test_below(&store->random, store->nr_held);
    struct vn_req *req = store->held[at];
    store->held[at] = store->held[--store->nr_held];
    vn_req_complete(req, req->cancelled ? VN_SC_ABORT_REQUESTED : store_move(req));
    return true;
}

/* As namespace 1 of the rig; state: where its state is kept, or NULL. */
static inline void store_attach_kept(struct ctrl_rig *rig, uint64_t seed, const char *state) {
    struct vn_ns *ns = calloc(1, sizeof(*ns));
    CHECK(ns && (store = calloc(1, sizeof(*store))));
    CHECK((store->bytes = malloc(STORE_BYTES)));
    store->random.state = seed;
    store->bad_lba = UINT64_MAX;
    vn_test_fill(&store->random, store->bytes, STORE_BYTES);
    store->backend = (struct vn_backend){
        .ops = &store_ops, .size = STORE_BYTES, .block_min = 512, .volatile_cache = true, .deallocates = true, .forgets = true};
    *ns = (struct vn_ns){.backend = &store->backend, .nr_blocks = STORE_BLOCKS, .block_shift = 9,
                         .state_path = state ? strdup(state) : NULL};
    char error[256];
    CHECK_EQ(vn_ns_state_open(ns, error, sizeof(error)), 0);
    rig->spaces[1] = ns;
    rig->nsid = 1;
    rig_on(rig, rig_attach_here);
}

static inline void store_attach(struct ctrl_rig *rig, uint64_t seed) {
    store_attach_kept(rig, seed, NULL);
}

/* --- On the reactor --- */
static inline uint8_t *io_data(struct ctrl_rig *rig) {
    return rig->ram + (IO_DATA_GPA - RIG_RAM_GPA);
}

static inline void io_start(struct ctrl_rig *rig) {
    rig_enable(rig);
    CHECK_EQ(rig_create_cq(rig, 1, 512), VN_SC_SUCCESS);
    CHECK_EQ(rig_create_sq(rig, 1, 1, 256), VN_SC_SUCCESS);
    rig->nr_done = 0;
}

/* A turn of the door, and of the store. */
static inline void io_turn(struct ctrl_rig *rig) {
    vn_ctrl_retry_busy(&rig->ctrl);
    if (store->holds)
        store_end_one();
}

/* Turns until the command has ended; what the host is told, without DNR and More. */
static inline struct rig_done io_wait(struct ctrl_rig *rig, uint16_t cid) {
    const struct rig_done *done;
    for (uint32_t turns = 0; !(done = rig_completion(rig, 1, cid)); turns++) {
        CHECK(turns < 1000000);
        io_turn(rig);
    }
    struct rig_done copy = *done;
    copy.status = VN_STATUS_CODE(copy.status);
    return copy;
}

static inline struct rig_done io_command(struct ctrl_rig *rig, struct vn_sqe cmd) {
    rig->nr_done = 0;
    return io_wait(rig, rig_submit(rig, 1, cmd));
}

/* nlb: as people count; two pages of data at most. */
static inline struct vn_sqe io_ranged(uint8_t opcode, uint64_t lba, uint32_t nlb) {
    return (struct vn_sqe){.opcode = opcode, .nsid = 1, .prp1 = IO_DATA_GPA, .prp2 = IO_DATA_GPA + VN_PAGE_SIZE,
                           .cdw10 = (uint32_t)lba, .cdw11 = (uint32_t)(lba >> 32), .cdw12 = nlb - 1};
}

/* What the error log has of the newest failure. */
static inline const struct vn_log_error *io_error(struct ctrl_rig *rig) {
    CHECK(rig->ctrl.error_count);
    return &rig->ctrl.error_log[(rig->ctrl.error_count - 1) % VN_MAX_ERROR_LOG];
}

#endif
