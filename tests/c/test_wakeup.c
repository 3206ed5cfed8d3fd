/* No wake-up is lost: a guest rings and pauses at random, so that its doorbells meet the reactor at every step on its way
 * to sleep. A cycle submits some commands, posts some messages to the mailbox, or both, and waits for all of it. The
 * guest follows the rule for shadow doorbells (Base 5.8) to the letter: it rings the bell only past the event index.
 * The completion queue is half as large as the submission queue, so that the reactor also waits for the guest's head.
 * With a busy neighbour the reactor stays awake, and it is the device alone that rests.
 *
 * VN_TEST_CYCLES=N: so many cycles. VN_TEST_SEED=N: other pauses.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#include "core/util.h"
#include "ctrl/ctrl.h"
#include "guest/vfu_dev.h"
#include "host/nvme_host.h"
#include "vn_test.h"

#define SQ_ENTRIES 16u
#define CQ_ENTRIES 8u
#define BLOCK 512u
#define NR_LETTERS 4u
#define CYCLES 100000u
#define CYCLES_TSAN 20000u
#define REST_NS 100000u /* as in core/reactor.c: after that an idle device rests */
#define LOST_S 20 /* a wake-up that has not come by then is lost: nothing else wakes an idle reactor */

struct letter {
    struct vn_message message;
    atomic_uint nr_read;
    uint32_t nr_sent;
};

struct guest {
    vn_ns *ns;
    vn_ctrl *ctrl;
    vn_host *host;
    uint8_t *other_mapping; /* of its memory: the one that the device does not use now */
    uint64_t buffers; /* offset of a block for each entry of the submission queue */
    uint32_t nr_waiting;
    struct letter letters[NR_LETTERS];
    struct vn_test_random random;
    bool no_letters, long_rests;
    atomic_bool *ended; /* of a neighbour: go on until then */
    uint64_t cycle, nr_commands, nr_messages, nr_bells;
};

/* --- The guest's rings: every access that the reactor may meet is atomic, so that TSan sees the order of the rest --- */
static void ring_bell(struct guest *guest, struct vn_host_db *db, uint32_t value) {
    if (db->shadow) {
        uint32_t old = __atomic_exchange_n(db->shadow, value, __ATOMIC_RELEASE);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        uint32_t event = __atomic_load_n(db->event, __ATOMIC_RELAXED);
        if (!vn_host_need_event((uint16_t)event, (uint16_t)value, (uint16_t)old))
            return;
    }
    guest->nr_bells++;
    CHECK_EQ(vn_host_db_send(guest->host, db->bar_offset, value), 0);
}

static void submit(struct guest *guest, uint32_t nr, bool bell_each) {
    struct vn_host_sq *sq = guest->host->sqs[1];
    for (uint32_t i = 0; i < nr; i++) {
        uint64_t at = guest->buffers + sq->tail * BLOCK;
        guest->host->mem[at] = 1; /* reads as zeros */
        sq->ring[sq->tail] = (struct vn_sqe){
            .opcode = VN_IO_READ, .nsid = 1, .cid = (uint16_t)sq->tail, .prp1 = guest->host->iova_base + at};
        sq->tail = (sq->tail + 1) % SQ_ENTRIES;
        if (bell_each || i + 1 == nr)
            ring_bell(guest, &sq->db, sq->tail);
    }
    guest->nr_waiting += nr;
    guest->nr_commands += nr;
}

/* Takes up to max completions, and tells of them with one doorbell. */
static void consume(struct guest *guest, uint32_t max) {
    struct vn_host_cq *cq = guest->host->cqs[1];
    uint32_t nr = 0;
    for (; nr < max && guest->nr_waiting; nr++) {
        const uint64_t *entry = (const uint64_t *)(uintptr_t)&cq->ring[cq->head];
        uint64_t last = __atomic_load_n(&entry[1], __ATOMIC_ACQUIRE);
        if ((last >> 48 & 1) != cq->phase)
            break;
        CHECK_EQ(last >> 49, 0); /* the status */
        CHECK((last >> 32 & 0xffff) < SQ_ENTRIES); /* the identifier */
        CHECK_EQ(guest->host->mem[guest->buffers + (last >> 32 & 0xffff) * BLOCK], 0);
        guest->nr_waiting--;
        cq->head = (cq->head + 1) % CQ_ENTRIES;
        cq->phase ^= cq->head == 0;
    }
    if (nr)
        ring_bell(guest, &cq->db, cq->head);
}

/* --- The mailbox --- */
static void read_letter(struct vn_message *message) {
    struct letter *letter = (struct letter *)message;
    atomic_fetch_add_explicit(&letter->nr_read, 1, memory_order_release);
}

static bool is_read(struct letter *letter) {
    return atomic_load_explicit(&letter->nr_read, memory_order_acquire) == letter->nr_sent;
}

static void post(struct guest *guest, uint32_t nr) {
    for (uint32_t i = 0; i < nr; i++) {
        guest->letters[i].nr_sent++;
        guest->nr_messages++;
        CHECK_EQ(vn_reactor_post(guest->ctrl->reactor, &guest->letters[i].message), 0);
    }
}

/* Commands and letters that are not done. */
static uint32_t nr_open(struct guest *guest) {
    uint32_t nr = guest->nr_waiting;
    for (uint32_t i = 0; i < NR_LETTERS; i++)
        nr += !is_read(&guest->letters[i]);
    return nr;
}

/* --- Cycles --- */
static uint64_t below(struct guest *guest, uint64_t bound) {
    return vn_test_below(&guest->random, bound);
}

static uint64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

/* Most are as short as the reactor's way to sleep, or as long as it takes a device to rest; some let it sleep soundly. */
static void rest(struct guest *guest) {
    uint64_t kind = below(guest, 256), turns = 0;
    if (guest->long_rests && kind < 64) {
        for (uint64_t end = now_ns() + REST_NS - 4000 + below(guest, 8000); now_ns() < end;)
            ;
    } else if (kind == 0) {
        nanosleep(&(struct timespec){.tv_nsec = (long)below(guest, REST_NS)}, NULL);
    } else if (kind < 200) {
        turns = below(guest, kind < 100 ? 300 : 3000);
    }
    for (volatile uint64_t turn = 0; turn < turns; turn++)
        ;
}

static int nudge(void *arg) {
    (void)arg;
    return 0;
}

/* What stands still is told; if a kick from outside sets it going, it was asleep. */
static void tell_lost(struct guest *guest) {
    const struct vn_host_sq *sq = guest->host->sqs[1];
    const struct vn_host_cq *cq = guest->host->cqs[1];
    uint32_t nr = nr_open(guest);
    fprintf(stderr, "cycle %" PRIu64 ": %u commands and %u letters wait; tail %u (event index %u), head %u (event index %u)\n",
            guest->cycle, guest->nr_waiting, nr - guest->nr_waiting, sq->tail, sq->db.event ? *sq->db.event : 0, cq->head,
            cq->db.event ? *cq->db.event : 0);
    vn_reactor_call(guest->ctrl->reactor, nudge, NULL);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    consume(guest, CQ_ENTRIES);
    fprintf(stderr, "%s\n", nr_open(guest) < nr ? "a kick sets them going: a wake-up was lost" : "a kick changes nothing");
    exit(1);
}

static void await_all(struct guest *guest) {
    uint64_t end = 0;
    for (uint64_t looks = 1; consume(guest, 1 + (uint32_t)below(guest, CQ_ENTRIES)), nr_open(guest); looks++) {
        if (below(guest, 16) == 0)
            rest(guest);
        if (looks % 64 == 0) /* the reactor may need this core */
            sched_yield();
        if (looks % 4096)
            continue;
        end = end ? end : now_ns() + LOST_S * 1000000000ull;
        if (now_ns() > end)
            tell_lost(guest);
    }
}

static void run_cycle(struct guest *guest) {
    /* One of a kind mostly: it meets no reactor that the one before has woken. */
    uint64_t kind = below(guest, 8);
    if (kind < 3 && !guest->no_letters)
        post(guest, below(guest, 4) ? 1 : 1 + (uint32_t)below(guest, NR_LETTERS));
    if (kind > 1 || guest->no_letters)
        submit(guest, below(guest, 2) ? 1 : 1 + (uint32_t)below(guest, SQ_ENTRIES - 1), below(guest, 2));
    if (kind == 7 && !guest->no_letters)
        post(guest, 1);
    await_all(guest);
    rest(guest);
}

/* --- The device --- */
/* The guest's memory at the guest's own addresses, for TSan to see that both mean the same; and back to its mapping. */
static int swap_addresses(void *arg) {
    struct guest *guest = arg;
    struct vn_vfu_dev *dev = guest->ctrl->door_ctx;
    CHECK_EQ(dev->mem.nr, 1);
    uint8_t *other = guest->other_mapping ? guest->other_mapping : guest->host->mem;
    guest->other_mapping = dev->mem.regions[0].hva;
    dev->mem.regions[0].hva = other;
    vn_doorbell_remap(dev);
    return 0;
}

static void guest_open(struct guest *guest, vn_runtime *rt, bool shadows, const char *name) {
    char path[300];
    struct vn_host_cqe cqe;
    struct vn_ns_opts ns = {.backend = "mem", .size = 1 << 20, .block_size = 512};
    snprintf(path, sizeof(path), "%s/%s", vn_test_dir(), name);
    for (uint32_t i = 0; i < NR_LETTERS; i++)
        guest->letters[i].message.fn = read_letter;
    CHECK_EQ(vn_ns_open(rt, &ns, &guest->ns), 0);
    CHECK_EQ(vn_ctrl_create(rt, &(struct vn_ctrl_opts){.doorbells = VN_DOORBELLS_TRAPPED}, &guest->ctrl), 0);
    CHECK_EQ(vn_ctrl_attach_ns(guest->ctrl, guest->ns, 1), 0);
    CHECK_EQ(vn_ctrl_listen(guest->ctrl, path), 0);
    struct vn_host_opts opts = {.flags = VN_HOST_TRAP_DOORBELLS, .timeout_ms = 30000, .memory_bytes = 2 << 20};
    CHECK_EQ(vn_host_open(path, &opts, &guest->host), 0);
    CHECK_EQ(vn_host_enable(guest->host, &(struct vn_host_enable_opts){.timeout_ms = 30000}), 0);
    if (shadows)
        CHECK_EQ(vn_host_shadow_doorbells(guest->host, &cqe), 0);
    CHECK_EQ(vn_host_create_cq(guest->host, 1, CQ_ENTRIES, 0, 0, &cqe), 0);
    CHECK_EQ(cqe.status, 0);
    CHECK_EQ(vn_host_create_sq(guest->host, 1, SQ_ENTRIES, 1, 0, &cqe), 0);
    CHECK_EQ(cqe.status, 0);
    CHECK_EQ(vn_host_alloc(guest->host, SQ_ENTRIES * BLOCK, &guest->buffers), 0);
    CHECK_EQ(vn_reactor_call(guest->ctrl->reactor, swap_addresses, guest), 0);
}

static void guest_close(struct guest *guest) {
    struct vn_ctrl_info info;
    CHECK_EQ(vn_reactor_call(guest->ctrl->reactor, swap_addresses, guest), 0);
    vn_host_close(guest->host);
    while (vn_ctrl_get_info(guest->ctrl, &info), info.attached)
        sched_yield();
    CHECK_EQ(vn_ctrl_destroy(guest->ctrl), 0);
    CHECK_EQ(vn_ns_close(guest->ns), 0);
}

static void *live_next_door(void *arg) {
    struct guest *guest = arg;
    for (; !atomic_load(guest->ended); guest->cycle++)
        run_cycle(guest);
    return NULL;
}

struct kind {
    const char *name;
    uint32_t poll_us;
    uint32_t share; /* of the cycles, in percent */
    bool shadows, neighbour;
};

static void stress(const struct kind *kind, uint64_t nr_cycles, struct vn_test_random *random) {
    static struct guest guest, neighbour;
    vn_runtime *rt;
    pthread_t thread;
    atomic_bool ended = false;
    struct vn_reactor_stats stats;
    guest = (struct guest){.random = {.state = vn_test_draw(random)}, .long_rests = kind->neighbour};
    neighbour = (struct guest){.random = {.state = vn_test_draw(random)}, .no_letters = true, .ended = &ended};
    CHECK_EQ(vn_runtime_create(&(struct vn_runtime_opts){.poll_us = kind->poll_us}, &rt), 0);
    guest_open(&guest, rt, kind->shadows, "cntrl");
    if (kind->neighbour) {
        guest_open(&neighbour, rt, kind->shadows, "neighbour");
        CHECK_EQ(pthread_create(&thread, NULL, live_next_door, &neighbour), 0);
    }
    for (; guest.cycle < nr_cycles; guest.cycle++)
        run_cycle(&guest);
    CHECK_EQ(vn_runtime_reactor_stats(rt, 0, &stats), 0);
    if (kind->neighbour) {
        atomic_store(&ended, true);
        pthread_join(thread, NULL);
        guest_close(&neighbour);
    }
    guest_close(&guest);
    CHECK_EQ(vn_runtime_destroy(rt), 0);
    printf("%s: %" PRIu64 " cycles, %" PRIu64 " commands, %" PRIu64 " letters, %" PRIu64 " doorbell messages, %" PRIu64
           " sleeps\n",
           kind->name, nr_cycles, guest.nr_commands, guest.nr_messages, guest.nr_bells, stats.sleeps);
    fflush(stdout);
    CHECK(stats.sleeps || kind->neighbour); /* else nothing has been tested; how many, is the machine's affair */
}

int main(void) {
    static const struct kind kinds[] = {
        {.name = "shadow doorbells, no spinning", .share = 50, .shadows = true},
        {.name = "shadow doorbells, spinning for 2 us", .share = 15, .poll_us = 2, .shadows = true},
        {.name = "shadow doorbells, spinning for 100 us", .share = 10, .poll_us = 100, .shadows = true},
        {.name = "plain doorbells", .share = 20},
        {.name = "shadow doorbells, a busy neighbour", .share = 5, .poll_us = 100, .shadows = true, .neighbour = true},
    };
#ifdef __SANITIZE_THREAD__
    uint64_t nr = CYCLES_TSAN;
#else
    uint64_t nr = CYCLES;
#endif
    const char *text = getenv("VN_TEST_CYCLES");
    if (text)
        nr = strtoull(text, NULL, 0);
    struct vn_test_random random = vn_test_seed();
    for (size_t i = 0; i < VN_ARRAY_SIZE(kinds); i++)
        stress(&kinds[i], nr * kinds[i].share / 100, &random);
    return 0;
}
