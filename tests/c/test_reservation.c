/* The rules of reservations: the specification's table of conflicts, each command with each of its refusals, who is told, and
 * that no sequence of commands leaves what cannot be.
 */
#include "core/util.h"
#include "ns/reservation.h"
#include "vn_test.h"

#define IEKEY VN_RESV_IEKEY

static struct vn_resv_host host(uint8_t number) {
    return (struct vn_resv_host){.id = {number}};
}

static struct vn_resv_notices notices;

static vn_status reg(struct vn_reservation *resv, uint8_t who, uint32_t cdw10, uint64_t crkey, uint64_t nrkey) {
    struct vn_resv_host its = host(who);
    return vn_resv_register(resv, &its, cdw10, crkey, nrkey, &notices);
}

static vn_status acquire(struct vn_reservation *resv, uint8_t who, uint32_t action, uint32_t type, uint64_t crkey, uint64_t prkey) {
    struct vn_resv_host its = host(who);
    return vn_resv_acquire(resv, &its, action | type << 8, crkey, prkey, &notices);
}

static vn_status release(struct vn_reservation *resv, uint8_t who, uint32_t action, uint32_t type, uint64_t crkey) {
    struct vn_resv_host its = host(who);
    return vn_resv_release(resv, &its, action | type << 8, crkey, &notices);
}

static bool holds(const struct vn_reservation *resv, uint8_t who) {
    struct vn_resv_host its = host(who);
    return vn_resv_holds(resv, vn_resv_find(resv, &its));
}

static bool is_registered(const struct vn_reservation *resv, uint8_t who) {
    struct vn_resv_host its = host(who);
    return vn_resv_find(resv, &its);
}

/* What a host is told; 0: nothing. */
static uint8_t told(uint8_t who) {
    uint8_t type = 0;
    for (uint32_t i = 0; i < notices.nr; i++) {
        if (notices.list[i].host.id[0] == who) {
            CHECK(!type);
            type = notices.list[i].type;
        }
    }
    return type;
}

/* Hosts 1, 2 and 3 with keys 0x11, 0x22, 0x33. */
static struct vn_reservation three(uint8_t holder, uint8_t type) {
    struct vn_reservation resv = {0};
    for (uint8_t who = 1; who <= 3; who++)
        CHECK_EQ(reg(&resv, who, VN_RESV_REGISTER, 0, who * 0x11u), VN_SC_SUCCESS);
    if (type)
        CHECK_EQ(acquire(&resv, holder, VN_RESV_ACQUIRE, type, holder * 0x11u, 0), VN_SC_SUCCESS);
    CHECK(vn_resv_is_sane(&resv));
    return resv;
}

/* Base 2.0 figure 408, as printed: for each type a non-registrant and a registrant that is not the holder. */
static void test_table(void) {
    static const struct {
        enum vn_resv_group group;
        const char *write_exclusive, *exclusive_access, *write_exclusive_registrants, *exclusive_access_registrants;
    } figure[] = {
        {VN_RESV_READS, "AA", "CC", "AA", "CA"},    {VN_RESV_WRITES, "CC", "CC", "CA", "CA"},
        {VN_RESV_ACQUIRES, "CC", "CC", "CC", "CC"}, {VN_RESV_PREEMPTS, "CA", "CA", "CA", "CA"},
        {VN_RESV_OTHERS, "AA", "AA", "AA", "AA"},
    };
    for (size_t i = 0; i < VN_ARRAY_SIZE(figure); i++) {
        const char *columns[VN_RESV_NR_TYPES] = {NULL, figure[i].write_exclusive, figure[i].exclusive_access,
                                                 figure[i].write_exclusive_registrants, figure[i].exclusive_access_registrants,
                                                 figure[i].write_exclusive_registrants, figure[i].exclusive_access_registrants};
        for (uint8_t type = 1; type < VN_RESV_NR_TYPES; type++) {
            struct vn_reservation resv = three(1, type);
            struct vn_resv_host holder = host(1), registrant = host(2), outsider = host(9);
            bool all = type == VN_RESV_WRITE_EXCLUSIVE_ALL || type == VN_RESV_EXCLUSIVE_ACCESS_ALL;
            CHECK_EQ(vn_resv_conflicts(&resv, &outsider, figure[i].group), columns[type][0] == 'C');
            /* of all registrants each one is a holder, whom nothing is forbidden */
            CHECK_EQ(vn_resv_conflicts(&resv, &registrant, figure[i].group), !all && columns[type][1] == 'C');
            CHECK(!vn_resv_conflicts(&resv, &holder, figure[i].group));
            struct vn_reservation none = three(0, 0);
            CHECK(!vn_resv_conflicts(&none, &outsider, figure[i].group));
        }
    }
}

static void test_register(void) {
    struct vn_reservation resv = {0};
    CHECK_EQ(reg(&resv, 1, VN_RESV_REGISTER, 0xbad, 0x11), VN_SC_SUCCESS); /* CRKEY is not looked at */
    CHECK_EQ(resv.generation, 1);
    CHECK_EQ(reg(&resv, 1, VN_RESV_REGISTER, 0, 0x11), VN_SC_SUCCESS); /* the same once more */
    CHECK_EQ(reg(&resv, 1, VN_RESV_REGISTER, 0, 0x12), VN_SC_RESERVATION_CONFLICT);
    CHECK_EQ(reg(&resv, 2, VN_RESV_REGISTER, 0, 0x11), VN_SC_SUCCESS); /* keys need not differ */
    CHECK_EQ(resv.nr, 2);
    CHECK_EQ(reg(&resv, 1, VN_RESV_REPLACE, 0x12, 0x13), VN_SC_RESERVATION_CONFLICT);
    CHECK_EQ(reg(&resv, 1, VN_RESV_REPLACE, 0x11, 0x13), VN_SC_SUCCESS);
    CHECK_EQ(reg(&resv, 1, VN_RESV_REPLACE | IEKEY, 0xbad, 0x14), VN_SC_SUCCESS);
    CHECK_EQ(reg(&resv, 3, VN_RESV_REPLACE, 0, 0x33), VN_SC_RESERVATION_CONFLICT);
    CHECK_EQ(reg(&resv, 3, VN_RESV_REPLACE | IEKEY, 0, 0x33), VN_SC_SUCCESS); /* registered or not */
    CHECK_EQ(reg(&resv, 1, VN_RESV_UNREGISTER, 0x13, 0), VN_SC_RESERVATION_CONFLICT);
    CHECK_EQ(reg(&resv, 1, VN_RESV_UNREGISTER, 0x14, 0), VN_SC_SUCCESS);
    CHECK_EQ(reg(&resv, 1, VN_RESV_UNREGISTER, 0x14, 0), VN_SC_RESERVATION_CONFLICT);
    CHECK_EQ(reg(&resv, 1, VN_RESV_UNREGISTER | IEKEY, 0, 0), VN_SC_RESERVATION_CONFLICT);
    CHECK_EQ(reg(&resv, 2, VN_RESV_UNREGISTER | IEKEY, 0, 0), VN_SC_SUCCESS);
    CHECK_EQ(resv.generation, 8);
    for (uint32_t action = 3; action < 8; action++)
        CHECK_EQ(reg(&resv, 3, action, 0x33, 0x33), VN_SC_INVALID_FIELD);
    CHECK_EQ(reg(&resv, 3, VN_RESV_REGISTER | 1u << 30, 0, 0x33), VN_SC_INVALID_FIELD);
    CHECK(!resv.ptpl);
    CHECK_EQ(reg(&resv, 3, VN_RESV_REGISTER | 3u << 30, 0, 0x33), VN_SC_SUCCESS);
    CHECK(resv.ptpl);
    CHECK_EQ(reg(&resv, 3, VN_RESV_REGISTER, 0, 0x33), VN_SC_SUCCESS);
    CHECK(resv.ptpl);
    CHECK_EQ(reg(&resv, 3, VN_RESV_REGISTER | 2u << 30, 0, 0x33), VN_SC_SUCCESS);
    CHECK(!resv.ptpl);
    for (uint8_t who = 10; who < 10 + VN_RESV_REGISTRANTS - 1; who++)
        CHECK_EQ(reg(&resv, who, VN_RESV_REGISTER, 0, who), VN_SC_SUCCESS);
    CHECK_EQ(reg(&resv, 200, VN_RESV_REGISTER, 0, 1), VN_SC_RESERVATION_CONFLICT);
    CHECK(vn_resv_is_sane(&resv));
}

static void test_acquire(void) {
    for (uint8_t type = 1; type < VN_RESV_NR_TYPES; type++) {
        bool all = type >= VN_RESV_WRITE_EXCLUSIVE_ALL;
        struct vn_reservation resv = three(0, 0);
        uint32_t generation = resv.generation;
        CHECK_EQ(acquire(&resv, 9, VN_RESV_ACQUIRE, type, 0x11, 0), VN_SC_RESERVATION_CONFLICT);
        CHECK_EQ(acquire(&resv, 1, VN_RESV_ACQUIRE, type, 0x22, 0), VN_SC_RESERVATION_CONFLICT);
        CHECK_EQ(acquire(&resv, 1, VN_RESV_ACQUIRE | IEKEY, type, 0x11, 0), VN_SC_INVALID_FIELD);
        CHECK_EQ(acquire(&resv, 1, VN_RESV_ACQUIRE, type, 0x11, 0), VN_SC_SUCCESS);
        CHECK_EQ(acquire(&resv, 1, VN_RESV_ACQUIRE, type, 0x11, 0), VN_SC_SUCCESS);
        CHECK_EQ(acquire(&resv, 1, VN_RESV_ACQUIRE, type % 6 + 1u, 0x11, 0), VN_SC_RESERVATION_CONFLICT);
        CHECK_EQ(acquire(&resv, 2, VN_RESV_ACQUIRE, type, 0x22, 0), all ? VN_SC_SUCCESS : VN_SC_RESERVATION_CONFLICT);
        CHECK(holds(&resv, 1) && holds(&resv, 2) == all);
        CHECK_EQ(resv.generation, generation);
        CHECK_EQ(notices.nr, 0);
    }
    struct vn_reservation resv = three(0, 0);
    CHECK_EQ(acquire(&resv, 1, VN_RESV_ACQUIRE, 0, 0x11, 0), VN_SC_INVALID_FIELD);
    CHECK_EQ(acquire(&resv, 1, VN_RESV_ACQUIRE, 7, 0x11, 0), VN_SC_INVALID_FIELD);
    for (uint32_t action = 3; action < 8; action++)
        CHECK_EQ(acquire(&resv, 1, action, 1, 0x11, 0), VN_SC_INVALID_FIELD);
}

static void test_release(void) {
    for (uint8_t type = 1; type < VN_RESV_NR_TYPES; type++) {
        bool all = type >= VN_RESV_WRITE_EXCLUSIVE_ALL;
        struct vn_reservation resv = three(1, type);
        CHECK_EQ(release(&resv, 9, VN_RESV_RELEASE, type, 0x11), VN_SC_RESERVATION_CONFLICT);
        CHECK_EQ(release(&resv, 1, VN_RESV_RELEASE, type, 0x22), VN_SC_RESERVATION_CONFLICT);
        CHECK_EQ(release(&resv, 1, VN_RESV_RELEASE, type % 6 + 1u, 0x11), VN_SC_INVALID_FIELD);
        CHECK_EQ(release(&resv, 1, VN_RESV_RELEASE | IEKEY, type, 0x11), VN_SC_INVALID_FIELD);
        CHECK_EQ(release(&resv, 1, 2, type, 0x11), VN_SC_INVALID_FIELD);
        CHECK_EQ(resv.type, type);
        if (!all) {
            CHECK_EQ(release(&resv, 2, VN_RESV_RELEASE, type, 0x22), VN_SC_SUCCESS); /* no holder: no effect */
            CHECK_EQ(resv.type, type);
        }
        CHECK_EQ(release(&resv, 1, VN_RESV_RELEASE, type, 0x11), VN_SC_SUCCESS);
        CHECK(!resv.type && resv.nr == 3);
        uint8_t expected = type >= VN_RESV_WRITE_EXCLUSIVE_REGISTRANTS ? VN_RESV_NOTICE_RELEASED : 0;
        CHECK(told(1) == 0 && told(2) == expected && told(3) == expected);
        CHECK_EQ(release(&resv, 1, VN_RESV_RELEASE, type, 0x11), VN_SC_SUCCESS); /* there is none any more */
        CHECK_EQ(notices.nr, 0);
    }
}

static void test_unregister(void) {
    for (uint8_t type = 1; type < VN_RESV_NR_TYPES; type++) {
        bool all = type >= VN_RESV_WRITE_EXCLUSIVE_ALL;
        struct vn_reservation resv = three(1, type);
        CHECK_EQ(reg(&resv, 2, VN_RESV_UNREGISTER, 0x22, 0), VN_SC_SUCCESS);
        CHECK_EQ(resv.type, type);
        CHECK_EQ(reg(&resv, 1, VN_RESV_UNREGISTER, 0x11, 0), VN_SC_SUCCESS); /* the holder */
        CHECK_EQ(resv.type, all ? type : 0);
        CHECK_EQ(told(3), type == VN_RESV_WRITE_EXCLUSIVE_REGISTRANTS || type == VN_RESV_EXCLUSIVE_ACCESS_REGISTRANTS
                              ? VN_RESV_NOTICE_RELEASED
                              : 0);
        CHECK_EQ(reg(&resv, 3, VN_RESV_UNREGISTER, 0x33, 0), VN_SC_SUCCESS); /* the last of all */
        CHECK(!resv.type && !resv.nr);
        CHECK(vn_resv_is_sane(&resv));
    }
}

static void test_preempt(void) {
    for (uint8_t type = 1; type <= VN_RESV_EXCLUSIVE_ACCESS_REGISTRANTS; type++) { /* of one holder */
        struct vn_reservation resv = three(1, type);
        uint32_t generation = resv.generation;
        CHECK_EQ(acquire(&resv, 2, VN_RESV_PREEMPT, type, 0x22, 0), VN_SC_INVALID_FIELD);
        CHECK_EQ(acquire(&resv, 2, VN_RESV_PREEMPT, type, 0x22, 0x99), VN_SC_RESERVATION_CONFLICT);
        CHECK_EQ(acquire(&resv, 9, VN_RESV_PREEMPT, type, 0x11, 0x11), VN_SC_RESERVATION_CONFLICT);
        /* one that holds nothing loses its registration, and that is all */
        CHECK_EQ(acquire(&resv, 2, VN_RESV_PREEMPT, type, 0x22, 0x33), VN_SC_SUCCESS);
        CHECK(!is_registered(&resv, 3) && holds(&resv, 1) && resv.type == type);
        CHECK(told(3) == VN_RESV_NOTICE_PREEMPTED_REGISTRATION && !told(1) && !told(2));
        CHECK_EQ(resv.generation, generation + 1);
        CHECK_EQ(reg(&resv, 3, VN_RESV_REGISTER, 0, 0x33), VN_SC_SUCCESS);
        /* the holder loses both; the others hear of it when the type changes */
        uint8_t other = type % 4 + 1;
        CHECK_EQ(acquire(&resv, 2, VN_RESV_PREEMPT, other, 0x22, 0x11), VN_SC_SUCCESS);
        CHECK(!is_registered(&resv, 1) && holds(&resv, 2) && resv.type == other);
        CHECK_EQ(told(1), VN_RESV_NOTICE_PREEMPTED_REGISTRATION);
        CHECK_EQ(told(3), type >= VN_RESV_WRITE_EXCLUSIVE_REGISTRANTS ? VN_RESV_NOTICE_RELEASED : 0);
        /* itself, to change the type */
        CHECK_EQ(acquire(&resv, 2, VN_RESV_PREEMPT, type, 0x22, 0x22), VN_SC_SUCCESS);
        CHECK(holds(&resv, 2) && resv.type == type && is_registered(&resv, 3));
        CHECK(vn_resv_is_sane(&resv));
    }
    for (uint8_t type = VN_RESV_WRITE_EXCLUSIVE_ALL; type < VN_RESV_NR_TYPES; type++) {
        struct vn_reservation resv = three(1, type);
        CHECK_EQ(acquire(&resv, 2, VN_RESV_PREEMPT, 1, 0x22, 0x33), VN_SC_SUCCESS); /* a key: its registrants alone */
        CHECK(resv.type == type && !is_registered(&resv, 3) && is_registered(&resv, 1));
        CHECK_EQ(acquire(&resv, 2, VN_RESV_PREEMPT, 1, 0x22, 0), VN_SC_SUCCESS); /* zero: everybody else */
        CHECK(resv.type == 1 && resv.nr == 1 && holds(&resv, 2));
        CHECK_EQ(told(1), VN_RESV_NOTICE_PREEMPTED_REGISTRATION);
    }
    struct vn_reservation resv = three(0, 0); /* nobody holds it */
    CHECK_EQ(acquire(&resv, 1, VN_RESV_PREEMPT, 1, 0x11, 0x22), VN_SC_SUCCESS);
    CHECK(!resv.type && resv.nr == 2);
    resv = three(1, VN_RESV_WRITE_EXCLUSIVE); /* a key that several have */
    CHECK_EQ(reg(&resv, 3, VN_RESV_REPLACE, 0x33, 0x11), VN_SC_SUCCESS);
    CHECK_EQ(acquire(&resv, 2, VN_RESV_PREEMPT, 2, 0x22, 0x11), VN_SC_SUCCESS);
    CHECK(resv.nr == 1 && holds(&resv, 2));
    CHECK(told(1) == VN_RESV_NOTICE_PREEMPTED_REGISTRATION && told(3) == VN_RESV_NOTICE_PREEMPTED_REGISTRATION);
}

static void test_clear(void) {
    for (uint8_t type = 0; type < VN_RESV_NR_TYPES; type++) {
        struct vn_reservation resv = three(1, type);
        CHECK_EQ(release(&resv, 9, VN_RESV_CLEAR, 0, 0x22), VN_SC_RESERVATION_CONFLICT);
        CHECK_EQ(release(&resv, 2, VN_RESV_CLEAR, 0, 0x11), VN_SC_RESERVATION_CONFLICT);
        CHECK_EQ(release(&resv, 2, VN_RESV_CLEAR, 0, 0x22), VN_SC_SUCCESS);
        CHECK(!resv.type && !resv.nr && resv.generation == 4);
        uint8_t expected = type ? VN_RESV_NOTICE_PREEMPTED_RESERVATION : VN_RESV_NOTICE_PREEMPTED_REGISTRATION;
        CHECK(told(1) == expected && told(3) == expected && !told(2));
    }
}

/* Hosts without an identifier are told apart by their controllers. */
static void test_without_identifier(void) {
    struct vn_reservation resv = {0};
    struct vn_resv_host one = {.ctrl = 1}, two = {.ctrl = 2};
    CHECK_EQ(vn_resv_register(&resv, &one, VN_RESV_REGISTER, 0, 5, &notices), VN_SC_SUCCESS);
    CHECK(vn_resv_find(&resv, &one) && !vn_resv_find(&resv, &two));
}

static void test_power(void) {
    struct vn_reservation resv = three(1, 1);
    vn_resv_lose_power(&resv);
    CHECK(!resv.nr && !resv.type);
    resv = three(1, 1);
    resv.ptpl = 1;
    vn_resv_lose_power(&resv);
    CHECK(resv.nr == 3 && holds(&resv, 1));
    resv.registrants[1].holds = 1;
    CHECK(!vn_resv_is_sane(&resv));
    resv = three(0, 0);
    resv.registrants[2] = resv.registrants[1];
    CHECK(!vn_resv_is_sane(&resv));
    CHECK(!vn_resv_is_sane(&(struct vn_reservation){.type = 5}));
    CHECK(!vn_resv_is_sane(&(struct vn_reservation){.type = 7}));
    CHECK(!vn_resv_is_sane(&(struct vn_reservation){.nr = VN_RESV_REGISTRANTS + 1}));
}

/* Whatever is asked, there is one holder or there are none, and a refusal changes nothing. */
static void test_random(struct vn_test_random *random) {
    struct vn_reservation resv = {0};
    for (int i = 0; i < 200000; i++) {
        struct vn_reservation before = resv;
        struct vn_resv_host who = host((uint8_t)vn_test_below(random, 70));
        uint64_t key = vn_test_below(random, 4), other = vn_test_below(random, 4);
        uint32_t cdw10 = (uint32_t)(vn_test_below(random, 4) | vn_test_below(random, 2) << 3 | vn_test_below(random, 8) << 8 |
                                    vn_test_below(random, 4) << 30);
        vn_status status;
        switch (vn_test_below(random, 4)) {
        case 0:
        case 1:
            status = vn_resv_register(&resv, &who, cdw10, key, other, &notices);
            break;
        case 2:
            status = vn_resv_acquire(&resv, &who, cdw10 & ~IEKEY, key, other, &notices);
            break;
        default:
            status = vn_resv_release(&resv, &who, cdw10 & ~(IEKEY | (i % 100 ? 1u : 0)), key, &notices);
        }
        CHECK(vn_resv_is_sane(&resv));
        CHECK(!status || !notices.nr);
        CHECK(!status || !memcmp(&before, &resv, sizeof(resv)));
        CHECK(notices.nr <= before.nr);
    }
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    test_table();
    test_register();
    test_acquire();
    test_release();
    test_unregister();
    test_preempt();
    test_clear();
    test_without_identifier();
    test_power();
    test_random(&random);
    return 0;
}
