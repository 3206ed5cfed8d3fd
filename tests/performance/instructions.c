/* A device, its client and a load on one thread, so that the instructions of an I/O can be counted and nothing else.
 * The device is the shipped one, on a socket. The main thread connects and makes queues; then the load runs on the
 * reactor's own thread, between turns of it. Run under callgrind (tests_performance.py), which counts within
 * counted_turn() and writes a profile after each shape_done(). Prints "NAME IOS TURNS IDLE-TURNS" for each, in order.
 */
#include <sched.h>
#include <unistd.h>

#include "ctrl/ctrl.h"
#include "host/nvme_host.h"
#include "vn_test.h"

#define ENTRIES 256u
#define DEPTH_MAX 128u
#define PAGE VN_HOST_PAGE
#define LARGE (128u << 10)
#define NR_PAGES (LARGE / PAGE)
#define SLOT_BYTES (3 * LARGE) /* twice the data, for scattered pages, and the list in the last page */
#define NS_BYTES (64ull << 20)
#define FRUITLESS_TURNS 100000u
#define AWAKE_US (3600u * 1000000u) /* callgrind is slow: no device rests because it has been idle for so long */

enum data { SMALL_READ, SMALL_WRITE, LARGE_PRP, LARGE_SCATTERED, LARGE_SGL };
static const char *const data_names[] = {"read-4k", "write-4k", "read-128k-prp", "read-128k-scattered", "read-128k-sgl"};

struct shape {
    enum data data;
    uint32_t depth, nr_ios;
    bool idle; /* turns without any I/O: nr_ios of them */
};

struct rig {
    vn_runtime *rt;
    vn_ns *ns;
    vn_ctrl *ctrl;
    vn_host *host;
    uint64_t slots; /* offset of the first slot's memory */
    char where[64];
    /* of the shape that runs */
    const struct shape *shape;
    struct vn_sqe sqes[DEPTH_MAX];
    uint16_t free[DEPTH_MAX];
    uint32_t nr_free;
    uint64_t nr_done, nr_turns, nr_idle_turns, next_lba;
};

/* Named on callgrind's command line: the only place where it counts. */
__attribute__((noinline, noclone)) static bool counted_turn(struct vn_reactor *reactor) {
    bool work = vn_reactor_turn(reactor);
    __asm__ volatile("" : "+r"(work)); /* a call, not a jump */
    return work;
}

__attribute__((noinline, noclone)) static void shape_done(void) {
    __asm__ volatile("");
}

/* --- Commands --- */
static void point_to_data(struct rig *rig, struct vn_sqe *sqe, enum data data, uint64_t at) {
    uint64_t list = at + 2 * LARGE, gpa = rig->host->iova_base + at;
    uint64_t *prps = (uint64_t *)(void *)(rig->host->mem + list);
    struct vn_sgl_desc *sgl = (struct vn_sgl_desc *)(void *)(rig->host->mem + list);
    sqe->prp1 = gpa;
    sqe->prp2 = rig->host->iova_base + list;
    switch (data) {
    case SMALL_READ:
    case SMALL_WRITE:
        sqe->prp2 = 0;
        break;
    case LARGE_PRP: /* as of a host with huge pages: they lie side by side */
        for (uint32_t i = 1; i < NR_PAGES; i++)
            prps[i - 1] = gpa + i * PAGE;
        break;
    case LARGE_SCATTERED: /* as of a guest that has run for a while */
        for (uint32_t i = 1; i < NR_PAGES; i++)
            prps[i - 1] = gpa + 2ull * i * PAGE;
        break;
    case LARGE_SGL: /* four pieces, as Linux makes of large folios */
        for (uint32_t i = 0; i < 4; i++)
            sgl[i] = (struct vn_sgl_desc){.addr = gpa + 2ull * i * (LARGE / 4), .length = LARGE / 4};
        sqe->flags = VN_PSDT_SGL_MPTR_CONTIG << 6;
        sqe->sgl1 = (struct vn_sgl_desc){.addr = rig->host->iova_base + list, .length = 4 * sizeof(*sgl),
                                         .type = VN_SGL_LAST_SEGMENT << 4};
        break;
    }
}

static uint32_t bytes_of(enum data data) {
    return data == SMALL_READ || data == SMALL_WRITE ? PAGE : LARGE;
}

static void make_commands(struct rig *rig) {
    rig->nr_free = 0;
    rig->nr_done = rig->nr_turns = rig->nr_idle_turns = rig->next_lba = 0;
    for (uint16_t i = 0; i < rig->shape->depth; i++) {
        rig->sqes[i] = (struct vn_sqe){
            .opcode = rig->shape->data == SMALL_WRITE ? VN_IO_WRITE : VN_IO_READ,
            .nsid = 1,
            .cid = i,
            .cdw12 = bytes_of(rig->shape->data) / 512 - 1,
        };
        point_to_data(rig, &rig->sqes[i], rig->shape->data, rig->slots + (uint64_t)i * SLOT_BYTES);
        rig->free[rig->nr_free++] = i;
    }
}

/* --- The load, on the reactor --- */
static bool consume(struct rig *rig) {
    struct vn_host_cq *cq = rig->host->cqs[1];
    uint32_t nr = 0;
    for (; vn_host_cqe_ready(&cq->ring[cq->head], cq->phase); nr++) {
        CHECK_EQ(cq->ring[cq->head].status >> 1, 0);
        rig->free[rig->nr_free++] = cq->ring[cq->head].cid;
        if (++cq->head == cq->entries) {
            cq->head = 0;
            cq->phase ^= 1;
        }
    }
    rig->nr_done += nr;
    return nr && vn_host_db_write(rig->host, &cq->db, cq->head) == 0;
}

static void submit(struct rig *rig) {
    struct vn_host_sq *sq = rig->host->sqs[1];
    uint64_t nr_blocks = bytes_of(rig->shape->data) / 512;
    if (!rig->nr_free)
        return;
    while (rig->nr_free) {
        struct vn_sqe *sqe = &rig->sqes[rig->free[--rig->nr_free]];
        sqe->cdw10 = (uint32_t)rig->next_lba;
        rig->next_lba = (rig->next_lba + nr_blocks) % (NS_BYTES / 512);
        sq->ring[sq->tail] = *sqe;
        sq->tail = sq->tail + 1 == sq->entries ? 0 : sq->tail + 1;
    }
    CHECK_EQ(vn_host_db_write(rig->host, &sq->db, sq->tail), 0);
}

/* Turns until nr completions have come, or a few more. */
static void drive(struct rig *rig, uint64_t nr, bool counted) {
    struct vn_reactor *reactor = rig->ctrl->reactor;
    uint64_t until = rig->nr_done + nr;
    for (uint32_t fruitless = 0; rig->nr_done < until; fruitless++) {
        CHECK(fruitless < FRUITLESS_TURNS);
        submit(rig);
        if (!counted) {
            vn_reactor_turn(reactor);
        } else {
            rig->nr_turns++;
            rig->nr_idle_turns += !counted_turn(reactor);
        }
        if (consume(rig))
            fruitless = 0;
        else
            sched_yield(); /* the kernel may need this core for them */
    }
}

static void drain(struct rig *rig) {
    for (uint32_t i = 0; rig->nr_free < rig->shape->depth; i++) {
        CHECK(i < FRUITLESS_TURNS);
        vn_reactor_turn(rig->ctrl->reactor);
        consume(rig);
    }
}

static int run_shape(void *arg) {
    struct rig *rig = arg;
    uint64_t nr_counted = rig->shape->nr_ios;
    make_commands(rig);
    if (rig->shape->idle) {
        while (vn_reactor_turn(rig->ctrl->reactor)) /* what is left of the shape before */
            ;
        for (; rig->nr_turns < nr_counted; rig->nr_turns++)
            rig->nr_idle_turns += !counted_turn(rig->ctrl->reactor);
        CHECK(rig->nr_idle_turns >= nr_counted - nr_counted / 100); /* the kernel may have had a word to say */
    } else {
        drive(rig, 2 * rig->shape->depth + 32, false);
        uint64_t before = rig->nr_done;
        drive(rig, rig->shape->nr_ios, true);
        nr_counted = rig->nr_done - before;
        drain(rig);
    }
    shape_done();
    rig->nr_done = nr_counted;
    return 0;
}

/* --- The device and its client --- */
static void rig_open(struct rig *rig, const char *where, const struct vn_ns_opts *ns, bool as_guest) {
    char path[300];
    struct vn_host_cqe cqe;
    uint32_t flags = as_guest ? VN_HOST_TRAP_DOORBELLS : 0;
    *rig = (struct rig){.nr_free = 0};
    snprintf(rig->where, sizeof(rig->where), "%s", where);
    snprintf(path, sizeof(path), "%s/cntrl", vn_test_dir());
    CHECK_EQ(vn_runtime_create(&(struct vn_runtime_opts){.poll_us = AWAKE_US, .flags = VN_RUNTIME_AWAKE}, &rig->rt), 0);
    CHECK_EQ(vn_ns_open(rig->rt, ns, &rig->ns), 0);
    CHECK_EQ(vn_ctrl_create(rig->rt,
                            &(struct vn_ctrl_opts){
                                .serial = "COUNTED", .doorbells = as_guest ? VN_DOORBELLS_TRAPPED : VN_DOORBELLS_MAPPED},
                            &rig->ctrl),
             0);
    CHECK_EQ(vn_ctrl_attach_ns(rig->ctrl, rig->ns, 1), 0);
    CHECK_EQ(vn_ctrl_listen(rig->ctrl, path), 0);
    CHECK_EQ(vn_host_open(path, &(struct vn_host_opts){.flags = flags, .timeout_ms = 60000}, &rig->host), 0);
    CHECK_EQ(rig->host->db_map != NULL, !as_guest);
    if (as_guest)
        CHECK_EQ(vn_host_irqs_enable(rig->host, VN_VU_IRQ_MSIX, 2), 0);
    CHECK_EQ(vn_host_enable(rig->host, &(struct vn_host_enable_opts){.timeout_ms = 60000}), 0);
    if (as_guest)
        CHECK_EQ(vn_host_shadow_doorbells(rig->host, &cqe), 0);
    CHECK_EQ(vn_host_create_cq(rig->host, 1, ENTRIES, 1, as_guest, &cqe), 0);
    CHECK_EQ(cqe.status, 0);
    CHECK_EQ(vn_host_create_sq(rig->host, 1, ENTRIES, 1, 0, &cqe), 0);
    CHECK_EQ(cqe.status, 0);
    CHECK_EQ(vn_host_alloc(rig->host, DEPTH_MAX * SLOT_BYTES, &rig->slots), 0);
}

static void rig_close(struct rig *rig) {
    vn_host_close(rig->host);
    CHECK_EQ(vn_ctrl_destroy(rig->ctrl), 0);
    CHECK_EQ(vn_ns_close(rig->ns), 0);
    CHECK_EQ(vn_runtime_destroy(rig->rt), 0);
}

static void count(struct rig *rig, struct shape shape) {
    rig->shape = &shape;
    CHECK_EQ(vn_reactor_call(rig->ctrl->reactor, run_shape, rig), 0);
    if (shape.idle)
        printf("%s/idle-turn", rig->where);
    else
        printf("%s/%s/%u", rig->where, data_names[shape.data], shape.depth);
    printf(" %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", rig->nr_done, rig->nr_turns, rig->nr_idle_turns);
    fflush(stdout);
}

static void count_data(struct rig *rig, enum data last) {
    static const uint32_t depths[] = {1, 32, 128};
    for (enum data data = SMALL_READ; data <= last; data++) {
        for (size_t i = 0; i < 3; i++)
            count(rig, (struct shape){.data = data, .depth = depths[i], .nr_ios = bytes_of(data) == PAGE ? 1024 : 128});
    }
    count(rig, (struct shape){.idle = true, .nr_ios = 1024});
}

static void count_backend(const char *backend) {
    struct rig rig;
    rig_open(&rig, backend, &(struct vn_ns_opts){.backend = backend, .size = NS_BYTES, .block_size = 512}, false);
    count_data(&rig, LARGE_SGL);
    rig_close(&rig);
}

/* Trapped doorbells with their shadows and MSI-X, as QEMU's guests have them. */
static void count_guest(void) {
    struct rig rig;
    rig_open(&rig, "guest", &(struct vn_ns_opts){.backend = "null", .size = NS_BYTES, .block_size = 512}, true);
    count_data(&rig, SMALL_WRITE);
    rig_close(&rig);
}

/* A file in the page cache: what the kernel does is not counted, and no disk decides when it is done. */
static void count_file(void) {
    struct rig rig;
    char path[300];
    snprintf(path, sizeof(path), "%s/counted", vn_test_dir());
    struct vn_ns_opts opts = {.backend = "file", .path = path, .size = NS_BYTES, .block_size = 512,
                              .flags = VN_NS_CREATE | VN_NS_NO_DIRECT | VN_NS_PREALLOCATE};
    rig_open(&rig, "file", &opts, false);
    unlink(path);
    count_data(&rig, SMALL_WRITE);
    rig_close(&rig);
}

int main(void) {
    count_backend("null");
    count_backend("mem");
    count_guest();
    count_file();
    return 0;
}
