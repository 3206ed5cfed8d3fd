/* Asynchronous events: parking, the limit, one event of a type until its log page is read, the mask, Abort, and a full
 * completion queue that loses nothing.
 */
#include "ctrl_rig.h"

#include "core/fabrics.h"

#define DATA_GPA (RIG_RAM_GPA + 0x20000)

static uint32_t event_of(enum vn_aen_type type, uint8_t info, uint8_t log) {
    return type | (uint32_t)info << 8 | (uint32_t)log << 16;
}

/* How many of these have completed with that result. */
static uint32_t told(const struct ctrl_rig *rig, uint32_t result) {
    uint32_t nr = 0;
    for (uint32_t i = 0; i < rig->nr_done; i++)
        nr += rig->done[i].status == 0 && rig->done[i].result == result;
    return nr;
}

static vn_status read_log(struct ctrl_rig *rig, uint8_t lid, bool retain) {
    return rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_GET_LOG_PAGE, .prp1 = DATA_GPA,
                                          .cdw10 = lid | retain << 15 | 15u << 16}, NULL);
}

static void raise_ns(struct ctrl_rig *rig) {
    vn_aer_ns_changed(&rig->ctrl, 3);
}

static void restart(struct ctrl_rig *rig) {
    vn_ctrl_reg_write(&rig->ctrl, VN_REG_CC, 0, 4);
    rig->nr_done = 0;
    rig_enable(rig);
}

static void test_limit(struct ctrl_rig *rig) {
    rig_enable(rig);
    for (uint32_t i = 0; i < VN_MAX_AERS; i++)
        rig_park_aer(rig);
    CHECK_EQ(rig->nr_done, 0);
    CHECK_EQ(rig->ctrl.nr_inflight, 0); /* a parked one is not in flight, */
    CHECK_EQ(rig->ctrl.cqs[0].reserved, 0);
    CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_ASYNC_EVENT}, NULL), VN_SC_AER_LIMIT);
    restart(rig); /* and no reset tells of it */
    CHECK_EQ(rig->nr_done, 0);
    CHECK_EQ(rig->ctrl.nr_aers, 0);
}

static void test_masking(struct ctrl_rig *rig) {
    const uint32_t ns_event = event_of(VN_AEN_NOTICE, VN_AEN_NOTICE_NS_ATTR, VN_LOG_CHANGED_NS);
    restart(rig);
    rig_park_aer(rig);
    rig_park_aer(rig);
    raise_ns(rig);
    CHECK_EQ(told(rig, ns_event), 1);
    raise_ns(rig); /* masked until its page is read */
    CHECK_EQ(told(rig, ns_event), 1);
    CHECK_EQ(read_log(rig, VN_LOG_CHANGED_NS, true), VN_SC_SUCCESS); /* retained: still masked */
    CHECK_EQ(read_log(rig, VN_LOG_ERROR, false), VN_SC_SUCCESS);     /* another one */
    CHECK_EQ(told(rig, ns_event), 1);
    CHECK_EQ(read_log(rig, VN_LOG_CHANGED_NS, false), VN_SC_SUCCESS);
    CHECK_EQ(told(rig, ns_event), 1); /* the page that was read held the second change */
    raise_ns(rig);
    CHECK_EQ(told(rig, ns_event), 2);
    /* of another type it may be told at the same time; and an event waits for a request */
    vn_aer_raise(&rig->ctrl, VN_AEN_ERROR, VN_AEN_ERROR_DB_VALUE);
    CHECK_EQ(told(rig, event_of(VN_AEN_ERROR, VN_AEN_ERROR_DB_VALUE, VN_LOG_ERROR)), 0);
    rig_park_aer(rig);
    CHECK_EQ(told(rig, event_of(VN_AEN_ERROR, VN_AEN_ERROR_DB_VALUE, VN_LOG_ERROR)), 1);
}

/* Two events of one type do not push each other out: the second is told when the first one's page has been read; the
 * same event twice is one; and a page that is read before its event was told takes the event along. */
static void test_one_type(struct ctrl_rig *rig) {
    const uint32_t value = event_of(VN_AEN_ERROR, VN_AEN_ERROR_DB_VALUE, VN_LOG_ERROR);
    const uint32_t reg = event_of(VN_AEN_ERROR, VN_AEN_ERROR_DB_REGISTER, VN_LOG_ERROR);
    const uint32_t ns = event_of(VN_AEN_NOTICE, VN_AEN_NOTICE_NS_ATTR, VN_LOG_CHANGED_NS);
    const uint32_t ana = event_of(VN_AEN_NOTICE, VN_AEN_NOTICE_ANA, VN_LOG_ANA);
    restart(rig);
    rig->ctrl.features.async_event |= VN_OAES_ANA; /* which a host on PCI cannot set */
    vn_aer_raise(&rig->ctrl, VN_AEN_NOTICE, VN_AEN_NOTICE_ANA);
    raise_ns(rig);
    vn_aer_raise(&rig->ctrl, VN_AEN_NOTICE, VN_AEN_NOTICE_ANA);
    rig_park_aer(rig);
    CHECK_EQ(told(rig, ns), 1);
    rig_park_aer(rig);
    CHECK_EQ(told(rig, ana), 0); /* the type is masked */
    vn_aer_log_read(&rig->ctrl, VN_LOG_ERROR);
    CHECK_EQ(told(rig, ana), 0);
    vn_aer_log_read(&rig->ctrl, VN_LOG_CHANGED_NS);
    CHECK_EQ(told(rig, ana), 1);
    raise_ns(rig);
    vn_aer_log_read(&rig->ctrl, VN_LOG_CHANGED_NS); /* clears what was pending, but the type is masked by the other */
    rig_park_aer(rig);
    raise_ns(rig);
    CHECK_EQ(told(rig, ns), 1);
    vn_aer_log_read(&rig->ctrl, VN_LOG_ANA);
    CHECK_EQ(told(rig, ns), 2);
    CHECK_EQ(told(rig, ana), 1);
    vn_aer_raise(&rig->ctrl, VN_AEN_ERROR, VN_AEN_ERROR_DB_REGISTER);
    vn_aer_raise(&rig->ctrl, VN_AEN_ERROR, VN_AEN_ERROR_DB_VALUE);
    rig_park_aer(rig);
    CHECK_EQ(told(rig, reg) + told(rig, value), 1);
    vn_aer_log_read(&rig->ctrl, VN_LOG_ERROR); /* the page held both: nothing is left to tell */
    rig_park_aer(rig);
    CHECK_EQ(told(rig, reg) + told(rig, value), 1);
}

/* What the host has switched off meanwhile is not told. */
static void test_switched_off(struct ctrl_rig *rig) {
    restart(rig);
    raise_ns(rig);
    rig->ctrl.features.async_event = 0;
    rig_park_aer(rig);
    CHECK_EQ(rig->nr_done, 0);
}

static void test_configuration(struct ctrl_rig *rig) {
    restart(rig);
    rig_park_aer(rig);
    CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_SET_FEATURES, .cdw10 = VN_FEAT_ASYNC_EVENT}, NULL),
             VN_SC_SUCCESS);
    rig->nr_done = 0;
    raise_ns(rig);
    CHECK_EQ(rig->nr_done, 0);
    vn_aer_raise(&rig->ctrl, VN_AEN_ERROR, VN_AEN_ERROR_DB_REGISTER); /* cannot be masked */
    CHECK_EQ(rig->nr_done, 1);
}

static void test_abort(struct ctrl_rig *rig) {
    restart(rig);
    uint16_t cid = rig_park_aer(rig);
    rig_park_aer(rig);
    uint32_t result = 99;
    CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = (uint32_t)cid << 16}, &result),
             VN_SC_SUCCESS);
    CHECK_EQ(result, 0);
    CHECK_EQ(VN_STATUS_CODE(rig_completion(rig, 0, cid)->status), VN_SC_ABORT_REQUESTED);
    CHECK_EQ(rig->ctrl.nr_aers, 1);
    CHECK_EQ(rig->done[0].cid, cid); /* before the Abort itself */
}

/* The host does not consume: slots that fetched commands were promised stay theirs, and the event waits for one.
 * rig_post fails the test when an entry is posted to a full queue. */
static void test_full_queue(struct ctrl_rig *rig) {
    const uint32_t ns_event = event_of(VN_AEN_NOTICE, VN_AEN_NOTICE_NS_ATTR, VN_LOG_CHANGED_NS);
    restart(rig);
    uint16_t cid = rig_park_aer(rig);
    rig->host_sleeps = true;
    for (int i = 0; i < 31; i++) /* of 32 entries 31 can be filled */
        rig_submit(rig, 0, (struct vn_sqe){.opcode = VN_ADMIN_GET_FEATURES, .cdw10 = VN_FEAT_VWC});
    raise_ns(rig);
    CHECK_EQ(told(rig, ns_event), 0);
    /* one slot is free, and an Abort takes it: there is none for the completion of what it aborts */
    struct vn_cq *cq = &rig->ctrl.cqs[0];
    cq->head = 1;
    uint32_t result = 99;
    CHECK_EQ(rig_admin(rig, (struct vn_sqe){.opcode = VN_ADMIN_ABORT, .cdw10 = (uint32_t)cid << 16}, &result),
             VN_SC_SUCCESS);
    CHECK_EQ(result, 1);
    CHECK_EQ(rig->ctrl.nr_aers, 1);
    cq->head = cq->tail;
    rig->host_sleeps = false;
    vn_aer_flush(&rig->ctrl);
    CHECK_EQ(told(rig, ns_event), 1);
}

/* Waiting for an event is no work: the SMART log's busy time does not count it. */
static uint64_t busy_ns;

static void park_one(struct ctrl_rig *rig) {
    restart(rig);
    busy_ns = rig->ctrl.counters.busy_ns;
    rig_park_aer(rig);
}

static void test_busy_time(struct ctrl_rig *rig) {
    raise_ns(rig);
    CHECK_EQ(told(rig, event_of(VN_AEN_NOTICE, VN_AEN_NOTICE_NS_ATTR, VN_LOG_CHANGED_NS)), 1);
    CHECK(rig->ctrl.counters.busy_ns - busy_ns < 10000000);
}

int main(void) {
    struct ctrl_rig *rig = rig_make(NULL);
    rig_on(rig, test_limit);
    rig_on(rig, test_masking);
    rig_on(rig, test_one_type);
    rig_on(rig, test_switched_off);
    rig_on(rig, test_configuration);
    rig_on(rig, test_abort);
    rig_on(rig, test_full_queue);
    rig_on(rig, park_one);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    rig_on(rig, test_busy_time);
    rig_free(rig);
    return 0;
}
