/* The guest changes its commands, its PRP lists and its SGLs while they are read: a thread flips bits of guest memory while
 * commands are fetched. Every entry that is judged and then used must be the same copy; nothing outside the memory is touched.
 */
#include <pthread.h>

#include "ring_rig.h"

#define SQ_GPA 0x3000u
#define CQ_GPA 0x4000u
#define LISTS_GPA 0x5000u /* to 0x8000 */
#define DATA_GPA 0x10000u
#define ENTRIES 32u
#define SECONDS 3

static struct ring_rig rig;
static struct vn_test_random random_here;
static bool ended, lists_are_sgls;
static uint32_t tails[2];
static uint64_t nr_commands;

/* Flips bits in the rings and the lists, now and then in the data. */
static void *flip(void *arg) {
    struct vn_test_random random = *(struct vn_test_random *)arg;
    while (!__atomic_load_n(&ended, __ATOMIC_RELAXED)) {
        uint64_t draw = vn_test_draw(&random);
        uint32_t from = draw & 1 ? LISTS_GPA : draw & 2 ? SQ_GPA : RING_ASQ;
        uint8_t *at = rig.ram + from + (draw >> 8) % (from == LISTS_GPA ? 0x3000 : 0x800);
        __atomic_fetch_xor(at, (uint8_t)(1u << (draw >> 32) % 8), __ATOMIC_RELAXED);
        for (volatile uint32_t pause = (uint32_t)(draw >> 40) % 4096; pause; pause--) /* else nothing valid is left */
            ;
    }
    return NULL;
}

static struct vn_sqe any_io(void) {
    static const uint8_t opcodes[] = {VN_IO_READ, VN_IO_WRITE, VN_IO_DSM, VN_IO_READ};
    struct vn_sqe cmd = {
        .opcode = opcodes[vn_test_below(&random_here, 4)],
        .nsid = vn_test_below(&random_here, 4) ? 1 : 3,
        .cid = (uint16_t)vn_test_draw(&random_here),
        .prp1 = DATA_GPA,
        .prp2 = LISTS_GPA + 8 * vn_test_below(&random_here, 1024),
        .cdw10 = (uint32_t)vn_test_below(&random_here, 64),
        .cdw11 = VN_DSM_AD,
        .cdw12 = (uint32_t)vn_test_below(&random_here, 64),
    };
    if (cmd.opcode != VN_IO_DSM)
        cmd.cdw11 = 0;
    else if (vn_test_below(&random_here, 2))
        cmd.prp1 = LISTS_GPA; /* ranges that change */
    if (lists_are_sgls && cmd.opcode != VN_IO_DSM) { /* a descriptor for each block */
        cmd.flags = VN_PSDT_SGL_MPTR_CONTIG << 6;
        cmd.sgl1 = (struct vn_sgl_desc){
            .addr = LISTS_GPA, .length = 16 * VN_RW_NLB(cmd.cdw12), .type = VN_SGL_LAST_SEGMENT << 4};
    }
    return cmd;
}

static void put(uint32_t qid, uint64_t gpa, struct vn_sqe cmd) {
    *ring_sqe(&rig, gpa, tails[qid]) = cmd;
    tails[qid] = (tails[qid] + 1) % ENTRIES;
    ring_write_tail(&rig, (uint16_t)qid, tails[qid]);
}

static void bring_up(void) {
    memset(tails, 0, sizeof(tails));
    ring_enable(&rig, ENTRIES);
    for (int i = 0; i < 100 && !(rig.ctrl.sqs[1].exists && rig.ctrl.cqs[1].exists); i++) { /* the flips hit these too */
        put(0, RING_ASQ, (struct vn_sqe){.opcode = VN_ADMIN_CREATE_CQ, .prp1 = CQ_GPA, .cdw10 = 1 | (ENTRIES - 1) << 16,
                                         .cdw11 = 3});
        put(0, RING_ASQ, (struct vn_sqe){.opcode = VN_ADMIN_CREATE_SQ, .prp1 = SQ_GPA, .cdw10 = 1 | (ENTRIES - 1) << 16,
                                         .cdw11 = 1 | 1u << 16});
        ring_turn(&rig);
        ring_write_head(&rig, 0, rig.ctrl.cqs[0].tail);
    }
}

/* Valid lists again, for the flips to start from. */
static void write_lists(void) {
    for (uint32_t at = 0; at < 0x3000; at += 8) {
        uint64_t entry = DATA_GPA + vn_test_below(&random_here, 128) * VN_PAGE_SIZE;
        memcpy(rig.ram + LISTS_GPA + at, &entry, sizeof(entry));
    }
    lists_are_sgls = vn_test_below(&random_here, 2);
    if (!lists_are_sgls)
        return;
    for (uint32_t i = 0; i < 256; i++)
        ((struct vn_sgl_desc *)(rig.ram + LISTS_GPA))[i] = (struct vn_sgl_desc){
            .addr = DATA_GPA + vn_test_below(&random_here, 1024) * 512, .length = 512};
}

static void work(struct ring_rig *unused) {
    (void)unused;
    if (rig.ctrl.state == VN_CTRL_DISABLED || !rig.ctrl.sqs[1].exists) {
        rig.ctrl.state == VN_CTRL_DISABLED ? bring_up() : ring_disable(&rig);
        return;
    }
    write_lists();
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 16; i++)
            put(1, SQ_GPA, any_io());
        put(0, RING_ASQ, (struct vn_sqe){.opcode = VN_ADMIN_IDENTIFY, .prp1 = DATA_GPA, .cdw10 = VN_CNS_CTRL});
        for (int i = 0; i < 4; i++) {
            ring_turn(&rig);
            if (rig.ctrl.cqs[0].exists)
                ring_write_head(&rig, 0, rig.ctrl.cqs[0].tail);
            if (rig.ctrl.cqs[1].exists)
                ring_write_head(&rig, 1, rig.ctrl.cqs[1].tail);
        }
    }
    if (vn_test_below(&random_here, 50) == 0)
        ring_disable(&rig);
}

int main(void) {
    struct vn_reactor *reactor;
    struct vn_event_queue *events;
    struct vn_event drained[64];
    random_here = vn_test_seed();
    struct vn_test_random other = {.state = vn_test_draw(&random_here)};
    pthread_t thread;
    CHECK_EQ(vn_event_queue_create(&events), 0);
    CHECK_EQ(vn_reactor_start(0, 50, &reactor), 0);
    ring_open(&rig, reactor, events);
    CHECK_EQ(vn_guest_mem_add(&rig.dev.mem, 0, RING_RAM_BYTES, rig.ram, true, true), 0);
    CHECK_EQ(pthread_create(&thread, NULL, flip, &other), 0);
    time_t end = time(NULL) + SECONDS;
    while (time(NULL) < end) {
        ring_on(&rig, work);
        vn_event_drain(events, drained, 64);
    }
    __atomic_store_n(&ended, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    nr_commands = rig.ctrl.counters.commands;
    printf("%" PRIu64 " commands, %" PRIu64 " errors\n", nr_commands, rig.ctrl.counters.errors);
    CHECK(nr_commands > 1000 && rig.ctrl.counters.errors < nr_commands);
    ring_close(&rig);
    vn_reactor_stop(reactor);
    vn_event_queue_destroy(events);
    return 0;
}
