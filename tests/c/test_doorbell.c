/* The rings: wrap and phase, a full completion queue, doorbell values that cannot be, and shadow doorbells whose pages
 * come and go.
 */
#include "ring_rig.h"

#define SQ_GPA 0x3000u
#define CQ_GPA 0x4000u
#define SHADOW_GPA 0x5000u
#define EVENT_GPA 0x6000u
#define DATA_GPA 0x10000u

static uint32_t admin_tail, admin_head, admin_size;
static uint8_t admin_phase;

static void start(struct ring_rig *rig, uint32_t entries) {
    memset(rig->ram, 0, 0x10000);
    ring_enable(rig, entries);
    CHECK_EQ(rig->ctrl.state, VN_CTRL_READY);
    admin_tail = admin_head = 0;
    admin_size = entries;
    admin_phase = 1;
}

static void stop(struct ring_rig *rig) {
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
    CHECK_EQ(rig->ctrl.state, VN_CTRL_DISABLED);
}

static void put_admin(struct ring_rig *rig, struct vn_sqe cmd) {
    *ring_sqe(rig, RING_ASQ, admin_tail) = cmd;
    admin_tail = (admin_tail + 1) % admin_size;
}

static const struct vn_cqe *take_admin(struct ring_rig *rig) {
    const struct vn_cqe *cqe = ring_cqe(rig, RING_ACQ, admin_head);
    if ((cqe->status & 1) != admin_phase)
        return NULL;
    admin_head = (admin_head + 1) % admin_size;
    admin_phase ^= admin_head == 0;
    return cqe;
}

/* One admin command from start to end. */
static vn_status admin(struct ring_rig *rig, struct vn_sqe cmd) {
    static uint16_t cid = 0x100;
    cmd.cid = ++cid;
    put_admin(rig, cmd);
    ring_write_tail(rig, 0, admin_tail);
    ring_turn(rig);
    const struct vn_cqe *cqe = take_admin(rig);
    CHECK(cqe);
    CHECK_EQ(cqe->cid, cid);
    CHECK_EQ(cqe->sqhd, admin_tail);
    ring_write_head(rig, 0, admin_head);
    return VN_STATUS_CODE(cqe->status >> 1);
}

static void create_queues(struct ring_rig *rig, uint32_t entries) {
    CHECK_EQ(admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_CREATE_CQ, .prp1 = CQ_GPA, .cdw10 = 1 | (entries - 1) << 16,
                                        .cdw11 = 3}), VN_SC_SUCCESS);
    CHECK_EQ(admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_CREATE_SQ, .prp1 = SQ_GPA, .cdw10 = 1 | (entries - 1) << 16,
                                        .cdw11 = 1 | 1u << 16}), VN_SC_SUCCESS);
}

/* Many laps of small rings of odd sizes: every command has its completion, in order. */
static void test_wrap(struct ring_rig *rig) {
    for (uint32_t entries = 2; entries < 9; entries++) {
        start(rig, entries);
        for (int i = 0; i < 40; i++)
            CHECK_EQ(admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_FEATURES, .cdw10 = VN_FEAT_VWC}), VN_SC_SUCCESS);
        stop(rig);
    }
}

/* The host takes none: N - 1 are posted, the rest waits in the submission queue and is lost to nobody. */
static void test_full_cq(struct ring_rig *rig) {
    start(rig, 8);
    create_queues(rig, 4);
    uint32_t tail = 0, taken = 0;
    uint8_t phase = 1;
    for (uint32_t sent = 0, round = 0; taken < 50; round++) {
        CHECK(round < 500);
        while (sent < 50 && sent - taken < 3 && round % 3) { /* the submission queue holds three */
            *ring_sqe(rig, SQ_GPA, tail) = (struct vn_sqe){.opcode = VN_IO_FLUSH, .cid = (uint16_t)sent++, .nsid = 1};
            tail = (tail + 1) % 4;
        }
        ring_write_tail(rig, 1, tail);
        ring_turn(rig);
        ring_turn(rig);
        if (round % 5 == 4) {
            const struct vn_cqe *cqe = ring_cqe(rig, CQ_GPA, taken % 4);
            if ((cqe->status & 1) == phase) {
                CHECK_EQ(cqe->cid, taken);
                taken++;
                phase ^= taken % 4 == 0;
                ring_write_head(rig, 1, taken % 4);
            }
        }
    }
    stop(rig);
}

/* A slot that was promised to a fetched command is not given to an event that is told meanwhile. */
static void test_full_admin_cq(struct ring_rig *rig) {
    start(rig, 4);
    put_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_ASYNC_EVENT, .cid = 1});
    ring_write_tail(rig, 0, admin_tail);
    ring_turn(rig);
    vn_aer_raise(&rig->ctrl, VN_AEN_ERROR, VN_AEN_ERROR_DB_VALUE);
    CHECK(take_admin(rig));
    ring_write_head(rig, 0, admin_head);
    put_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_ASYNC_EVENT, .cid = 2});
    ring_write_tail(rig, 0, admin_tail);
    ring_turn(rig);
    /* Three slots and three commands; the first one opens the type of an event that is pending again. */
    vn_aer_raise(&rig->ctrl, VN_AEN_SMART, 0);
    CHECK(take_admin(rig));
    ring_write_head(rig, 0, admin_head);
    put_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_ASYNC_EVENT, .cid = 3});
    put_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_SET_FEATURES, .cid = 4, .cdw10 = 0xff});
    put_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_FEATURES, .cdw10 = VN_FEAT_VWC, .cid = 5});
    ring_write_tail(rig, 0, admin_tail);
    vn_aer_ns_changed(&rig->ctrl, 1);
    for (int i = 0; i < 4; i++)
        ring_turn(rig);
    uint32_t nr = 0;
    for (int i = 0; i < 10; i++) {
        while (take_admin(rig))
            nr++;
        ring_write_head(rig, 0, admin_head);
        ring_turn(rig);
    }
    CHECK_EQ(nr, 3);
    stop(rig);
}

static void test_bad_values(struct ring_rig *rig) {
    start(rig, 8);
    create_queues(rig, 4);
    uint64_t errors = rig->ctrl.error_count;
    ring_write_tail(rig, 1, 4); /* beyond the queue */
    ring_turn(rig);
    CHECK_EQ(rig->ctrl.error_count, errors + 1);
    ring_turn(rig); /* told once */
    CHECK_EQ(rig->ctrl.error_count, errors + 1);
    ring_write_tail(rig, 1, 0xffff);
    ring_turn(rig);
    ring_write_tail(rig, 5, 1); /* no such queue */
    ring_write_tail(rig, 2000, 1);
    vn_doorbell_write(&rig->dev, VN_BAR0_BYTES - 4, 1);
    ring_turn(rig);
    CHECK_EQ(rig->ctrl.sqs[1].tail, 0);
    *ring_sqe(rig, SQ_GPA, 0) = (struct vn_sqe){.opcode = VN_IO_FLUSH, .cid = 9, .nsid = 1};
    ring_write_tail(rig, 1, 1); /* and a good one counts again */
    ring_turn(rig);
    CHECK_EQ(ring_cqe(rig, CQ_GPA, 0)->cid, 9);
    ring_write_head(rig, 1, 3); /* more than was posted */
    ring_turn(rig);
    vn_doorbell_arm(&rig->dev);
    CHECK_EQ(rig->ctrl.cqs[1].head, 0);
    stop(rig);
}

static void map(struct ring_rig *rig, uint64_t gpa, uint64_t bytes, bool writable) {
    CHECK_EQ(vn_guest_mem_add(&rig->dev.mem, gpa, bytes, rig->ram + gpa, true, writable), 0);
    vn_doorbell_remap(&rig->dev);
}

static void unmap(struct ring_rig *rig, uint64_t gpa, uint64_t bytes) {
    vn_guest_mem_remove(&rig->dev.mem, gpa, bytes);
    vn_doorbell_remap(&rig->dev);
}

/* The guest takes the shadow pages away, each of them and both, and gives them back; it maps them read-only. */
static void test_shadow_pages_go(struct ring_rig *rig) {
    unmap(rig, 0, RING_RAM_BYTES);
    map(rig, 0, SHADOW_GPA, true);
    map(rig, SHADOW_GPA, 0x1000, true);
    map(rig, EVENT_GPA, 0x1000, true);
    map(rig, EVENT_GPA + 0x1000, RING_RAM_BYTES - EVENT_GPA - 0x1000, true);
    start(rig, 8);
    CHECK_EQ(admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_DOORBELL_CONFIG, .prp1 = SHADOW_GPA, .prp2 = EVENT_GPA}),
             VN_SC_SUCCESS);
    create_queues(rig, 4);
    for (int gone = 1; gone < 4; gone++) {
        for (int again = 0; again < 2; again++) {
            if (gone & 1)
                unmap(rig, SHADOW_GPA, 0x1000);
            if (gone & 2)
                unmap(rig, EVENT_GPA, 0x1000);
            CHECK(!rig->ctrl.sqs[1].doorbell && !rig->ctrl.sqs[1].event_idx);
            ring_turn(rig);
            vn_doorbell_arm(&rig->dev);
            if (gone & 1)
                map(rig, SHADOW_GPA, 0x1000, again);
            if (gone & 2)
                map(rig, EVENT_GPA, 0x1000, again);
            if (!again) { /* read-only: they cannot be cleared for a new queue */
                CHECK(!rig->ctrl.sqs[1].doorbell);
                CHECK_EQ(admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_CREATE_CQ, .prp1 = CQ_GPA + 0x800000,
                                                    .cdw10 = 2 | 3u << 16, .cdw11 = 1}), VN_SC_DATA_TRANSFER_ERROR);
            }
            vn_doorbell_arm(&rig->dev);
        }
        CHECK(rig->ctrl.sqs[1].doorbell && rig->ctrl.sqs[1].event_idx);
    }
    *ring_sqe(rig, SQ_GPA, 0) = (struct vn_sqe){.opcode = VN_IO_FLUSH, .cid = 77, .nsid = 1};
    ((uint32_t *)(rig->ram + SHADOW_GPA))[2] = 1;
    CHECK(vn_doorbell_arm(&rig->dev)); /* there is work */
    ring_turn(rig);
    CHECK_EQ(ring_cqe(rig, CQ_GPA, 0)->cid, 77);
    CHECK(!vn_doorbell_arm(&rig->dev));
    CHECK_EQ(((uint32_t *)(rig->ram + EVENT_GPA))[2], 1); /* wake us beyond this one */
    stop(rig);
    CHECK(!rig->dev.shadow.gpa);
}

/* The guest takes its queues away while they are in use. */
static void test_rings_go(struct ring_rig *rig) {
    unmap(rig, 0, SHADOW_GPA);
    map(rig, 0, SHADOW_GPA, true);
    start(rig, 8);
    create_queues(rig, 4);
    *ring_sqe(rig, SQ_GPA, 0) = (struct vn_sqe){.opcode = VN_IO_READ, .cid = 5, .nsid = 2, .prp1 = DATA_GPA};
    ring_write_tail(rig, 1, 1);
    ring_turn(rig);
    CHECK_EQ(rig->ctrl.nr_inflight, 1);
    unmap(rig, 0, SHADOW_GPA);
    ring_write_tail(rig, 1, 2);
    ring_turn(rig);
    vn_doorbell_arm(&rig->dev);
}

int main(void) {
    static struct ring_rig rig;
    struct vn_reactor *reactor;
    struct vn_event_queue *events;
    CHECK_EQ(vn_event_queue_create(&events), 0);
    CHECK_EQ(vn_reactor_start(0, 20, &reactor), 0);
    ring_open(&rig, reactor, events);
    CHECK_EQ(vn_guest_mem_add(&rig.dev.mem, 0, RING_RAM_BYTES, rig.ram, true, true), 0);
    ring_on(&rig, test_wrap);
    ring_on(&rig, test_full_cq);
    ring_on(&rig, test_full_admin_cq);
    ring_on(&rig, test_bad_values);
    ring_on(&rig, test_shadow_pages_go);
    ring_on(&rig, test_rings_go);
    RING_WAIT(&rig, rig.ctrl.nr_inflight == 0); /* with nobody to tell */
    ring_close(&rig);
    vn_reactor_stop(reactor);
    vn_event_queue_destroy(events);
    return 0;
}
