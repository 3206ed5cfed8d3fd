/* Random histories of moves, while commands go on: a leg that is alone gets another one at its side, which is filled and counts, and
 * then one of the two fails, is put out and dropped; or the new one is given up half-way; or there are three for a while. Legs fail and
 * hang by themselves, too, and processes are killed at any moment. Every block that is read is at all times what the model
 * allows: for what was acknowledged, nothing older. VN_TEST_HISTORIES=N for more.
 */
#include "mirror_model.h"

static uint32_t nr_in(struct mrig *rig, uint32_t states) {
    struct vn_mirror_info info = info_of(rig);
    uint32_t nr = 0;
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
        nr += states >> info.legs[leg].state & 1;
    return nr;
}

/* --- Python --- */

static void give_up_leg(struct mrig *rig, uint32_t leg) {
    shared->states[leg] = VN_LEG_NONE; /* first: nothing is marked for it from now on */
    int err = vn_mirror_close_leg(rig->mirror, leg, true, rig->error, sizeof(rig->error));
    CHECK(!err || err == -EBUSY);
}

/* Where a leg was before, or never was: garbage. */
static void add_leg(struct mrig *rig, uint32_t leg, struct vn_test_random *random) {
    plant(rig, leg, vn_test_below(random, NR_BLOCKS) * RIG_BLOCK, 0x5a);
    shared->full[leg] = true;
    shared->states[leg] = VN_LEG_OUT;
    int err = new_leg_in(rig, leg);
    CHECK(!err || err == -EBUSY);
    if (err)
        shared->states[leg] = VN_LEG_NONE;
    shared->nr_returns += !err;
}

static void leg_is_out(struct mrig *rig, uint32_t leg, struct vn_test_random *random) {
    bool goes = shared->states[leg] == VN_LEG_NONE || vn_test_below(random, 3);
    if (goes) {
        give_up_leg(rig, leg);
    } else if (info_of(rig).legs[leg].open) {
        set_switch(rig, leg, SWITCH_PASS, 0);
        int err = vn_mirror_in_again(rig->mirror, leg, NULL, shared->full[leg], rig->error, sizeof(rig->error));
        CHECK(!err || err == -EBUSY);
    }
}

static void decide(struct mrig *rig, struct vn_test_random *random, bool calm) {
    struct vn_mirror_info info = info_of(rig);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        uint32_t nr_counting = nr_in(rig, 1u << VN_LEG_IN_SYNC), nr = nr_in(rig, ~(1u << VN_LEG_NONE));
        switch (info.legs[leg].state) {
        case VN_LEG_FAILED:
            shared->states[leg] = VN_LEG_OUT;
            usleep((useconds_t)vn_test_below(random, 2000));
            CHECK_EQ(leg_out(rig, leg), 0);
            shared->nr_failures++;
            break;
        case VN_LEG_READY:
            shared->states[leg] = VN_LEG_IN_SYNC;
            shared->full[leg] = false;
            usleep((useconds_t)vn_test_below(random, 2000));
            int err = leg_counts(rig, leg);
            CHECK(!err || err == -ESTALE);
            break;
        case VN_LEG_REBUILDING:
            if (info.legs[leg].covered)
                shared->full[leg] = false;
            if (!calm && vn_test_below(random, 200) == 0)
                CHECK_EQ(vn_mirror_break(rig->mirror, leg, rig->error, sizeof(rig->error)), 0);
            break;
        case VN_LEG_OUT:
            leg_is_out(rig, leg, random);
            break;
        case VN_LEG_IN_SYNC:
            if (nr_counting > 1 && (calm || vn_test_below(random, 40) == 0))
                vn_mirror_break(rig->mirror, leg, rig->error, sizeof(rig->error));
            else if (nr_counting > 1 && vn_test_below(random, 20) == 0)
                vn_mirror_set_preferred(rig->mirror, leg, rig->error, sizeof(rig->error));
            break;
        default:
            if (!calm && vn_test_below(random, nr == 1 ? 10 : 200) == 0)
                add_leg(rig, leg, random);
        }
    }
}

/* --- The server --- */

static vn_status io_decided(struct mrig *rig, struct vn_test_random *random, enum vn_op op, uint64_t offset, void *buf) {
    struct job job;
    submit(rig, &job, op, offset, op == VN_OP_FLUSH ? 0 : RIG_BLOCK, buf, 0);
    for (uint32_t looks = 0; !is_done(&job); looks++) {
        CHECK(looks < 100000);
        decide(rig, random, false);
        if (looks > 500)
            heal(rig);
        usleep(100);
    }
    return job.req.status;
}

static void check_reads(struct mrig *rig, struct vn_test_random *random) {
    uint64_t *words = (uint64_t *)(void *)works[0].buf;
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t block = vn_test_below(random, NR_BLOCKS);
        if (io_decided(rig, random, VN_OP_READ, block * RIG_BLOCK, words))
            continue; /* the only leg cannot */
        for (uint32_t w = 1; w < RIG_BLOCK / 8; w++)
            CHECK_EQ(words[w], words[0]);
        CHECK(may_have(&shared->blocks[block], words[0]));
    }
}

/* A block that may have become too many things is written. */
static void settle_blocks(struct mrig *rig, struct vn_test_random *random) {
    uint64_t *words = (uint64_t *)(void *)works[0].buf;
    for (uint64_t i = 0; i < NR_BLOCKS; i++) {
        struct block *block = &shared->blocks[i];
        if (block->nr < NR_VALUES - NR_JOBS)
            continue;
        uint64_t stamp = ++shared->stamp;
        block->values[block->nr] = stamp;
        __atomic_store_n(&block->nr, block->nr + 1, __ATOMIC_RELEASE);
        for (uint32_t w = 0; w < RIG_BLOCK / 8; w++)
            words[w] = stamp;
        for (uint32_t tries = 0; io_decided(rig, random, VN_OP_WRITE, i * RIG_BLOCK, words); tries++) {
            CHECK(tries < 1000);
            heal(rig);
        }
        block->values[0] = stamp; /* as it is read until then, too */
        block->nr = 1;
    }
}

static void break_something(struct mrig *rig, struct vn_test_random *random) {
    uint32_t leg = (uint32_t)vn_test_below(random, VN_MIRROR_MAX_LEGS);
    if (info_of(rig).legs[leg].open)
        set_switch(rig, leg, vn_test_below(random, 2) ? SWITCH_FAIL : SWITCH_KEEP,
                   1u + (uint32_t)vn_test_below(random, (1u << VN_OP_COUNT) - 1));
}

static void batch(struct mrig *rig, struct vn_test_random *random) {
    uint32_t nr = 1 + (uint32_t)vn_test_below(random, NR_JOBS);
    for (uint32_t i = 0; i < nr; i++)
        start_one(rig, &works[i], random);
    for (uint32_t i = 0, looks = 0; i < nr; looks++) {
        if (is_done(&works[i].job)) {
            i++;
            continue;
        }
        CHECK(looks < 100000);
        decide(rig, random, false);
        if (looks > 20 && vn_test_below(random, 100) == 0)
            cancel(&works[i].job);
        if (looks > 500)
            heal(rig);
        usleep(100);
    }
    for (uint32_t i = 0; i < nr; i++) {
        shared->nr_errors += works[i].job.req.status != 0;
        if (!works[i].job.req.status)
            acknowledged(&works[i], nr);
    }
    if (vn_test_below(random, 4) == 0)
        io_decided(rig, random, VN_OP_FLUSH, 0, NULL);
}

static void open_as_recorded(struct mrig *rig, const char *name, struct vn_test_random *random) {
    mrig_make(rig, VN_MIRROR_MAX_LEGS, name);
    rig->mopts.leg_timeout_ms = 60;
    rig->mopts.clean_ms = 5 + (uint32_t)vn_test_below(random, 20);
    rig->mopts.preferred = (uint32_t)vn_test_below(random, VN_MIRROR_MAX_LEGS);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
        rig->mopts.states[leg] = shared->states[leg];
    mrig_open(rig);
}

static void serve(const char *name, uint32_t nr, uint64_t seed, uint32_t nr_batches) {
    struct vn_test_random random = {.state = seed};
    struct mrig rig;
    (void)nr;
    for (uint32_t i = 0; i < NR_JOBS; i++)
        works[i].buf = aligned_alloc(4096, JOB_BLOCKS * RIG_BLOCK);
    open_as_recorded(&rig, name, &random);
    shared->runs = true;
    for (uint32_t i = 0; i < nr_batches; i++) {
        if (vn_test_below(&random, 12) == 0)
            break_something(&rig, &random);
        if (vn_test_below(&random, 6) == 0)
            heal(&rig);
        batch(&rig, &random);
        check_reads(&rig, &random);
        settle_blocks(&rig, &random);
    }
    heal(&rig); /* the end: one is left */
    for (uint32_t looks = 0; nr_in(&rig, ~(1u << VN_LEG_NONE)) > 1 || nr_in(&rig, 1u << VN_LEG_IN_SYNC) != 1; looks++) {
        CHECK(looks < 20000);
        decide(&rig, &random, true);
        if (looks % 100 == 99)
            heal(&rig);
        usleep(1000);
    }
    UNTIL(rig.mirror->live->alone);
    mrig_close(&rig);
    for (uint32_t i = 0; i < NR_JOBS; i++)
        free(works[i].buf);
}

/* --- Histories --- */

static void history(uint32_t number, struct vn_test_random *random) {
    char name[32];
    uint32_t kills = (uint32_t)vn_test_below(random, 4), nr_left = 0;
    struct mrig rig;
    snprintf(name, sizeof(name), "move%u", number);
    memset(shared->full, 0, sizeof(shared->full));
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++)
        shared->states[leg] = leg == number % VN_MIRROR_MAX_LEGS ? VN_LEG_IN_SYNC : VN_LEG_NONE;
    for (uint32_t i = 0; i < NR_BLOCKS; i++)
        shared->blocks[i] = (struct block){.nr = 1};
    for (uint32_t i = 0; i < kills; i++)
        run_server(serve, name, 1, random, false);
    run_server(serve, name, 1, random, true);
    mrig_make(&rig, VN_MIRROR_MAX_LEGS, name);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        if (shared->states[leg] == VN_LEG_IN_SYNC) {
            check_blocks(&rig, leg, name);
            nr_left++;
        }
        unlink(rig.paths[leg]);
    }
    CHECK_EQ(nr_left, 1);
    unlink(rig.bitmap);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    const char *text = getenv("VN_TEST_HISTORIES");
    uint32_t nr = text ? (uint32_t)strtoul(text, NULL, 0) : 15;
    share_model();
    for (uint32_t i = 0; i < nr; i++)
        history(i, &random);
    printf("%u histories: %u commands, %u legs came, %u failed or went, %u kills, %u commands failed\n", nr, shared->nr_ops,
           shared->nr_returns, shared->nr_failures, shared->nr_kills, shared->nr_errors);
    CHECK(nr < 15 || (shared->nr_returns > 20 && shared->nr_failures > 10 && shared->nr_kills > 3));
    return 0;
}
