/* Random histories of a mirror against a model: commands, legs that fail, hang, come back and are replaced, and processes that
 * are killed at any moment. After each history all legs count and are the same, and every block is what the model allows:
 * for what was acknowledged, nothing older. VN_TEST_HISTORIES=N for more.
 *
 * The server is a child process. What it knows for good is in shared memory: the model, and what Python would have recorded.
 */
#include "mirror_model.h"

/* --- Python --- */

static void open_leg(struct mrig *rig, uint32_t leg, bool full) {
    struct vn_backend *backend = NULL;
    if (!info_of(rig).legs[leg].open) {
        CHECK_EQ(mrig_open_backend(rig, &rig->legs[leg], &backend), 0);
        backend = &(rig->switches[leg] = switch_over(backend))->backend;
    } else {
        set_switch(rig, leg, SWITCH_PASS, 0);
    }
    int err = vn_mirror_in_again(rig->mirror, leg, backend, full, rig->error, sizeof(rig->error));
    if (err && backend)
        vn_backend_close(backend);
    shared->nr_returns += !err;
    if (err && err != -EBUSY)
        fprintf(stderr, "%s\n", rig->error);
    CHECK(!err || err == -EBUSY);
}

static void decide(struct mrig *rig, struct vn_test_random *random, bool calm) {
    struct vn_mirror_info info = info_of(rig);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        switch (info.legs[leg].state) {
        case VN_LEG_FAILED:
            shared->states[leg] = VN_LEG_OUT; /* first */
            usleep((useconds_t)vn_test_below(random, 2000));
            CHECK_EQ(leg_out(rig, leg), 0);
            shared->nr_failures++;
            break;
        case VN_LEG_READY:
            shared->states[leg] = VN_LEG_IN_SYNC;
            shared->full[leg] = false;
            usleep((useconds_t)vn_test_below(random, 2000));
            int err = leg_counts(rig, leg);
            CHECK(!err || err == -ESTALE); /* then it is put out again by the next look */
            break;
        case VN_LEG_REBUILDING:
            if (info.legs[leg].covered)
                shared->full[leg] = false;
            break;
        case VN_LEG_OUT:
            if (!calm && vn_test_below(random, 4))
                break;
            if (!calm && !shared->full[leg] && vn_test_below(random, 4) == 0) { /* it is replaced */
                shared->full[leg] = true;
                if (info.legs[leg].open &&
                    vn_mirror_close_leg(rig->mirror, leg, false, rig->error, sizeof(rig->error)) == 0)
                    plant(rig, leg, vn_test_below(random, NR_BLOCKS) * RIG_BLOCK, 0x5a);
            }
            open_leg(rig, leg, shared->full[leg]);
            break;
        default:
            break;
        }
    }
}

/* --- The server --- */

/* One command, while decisions are made. */
static vn_status io_decided(struct mrig *rig, struct vn_test_random *random, enum vn_op op, uint64_t offset, uint64_t length,
                            void *buf) {
    struct job job;
    submit(rig, &job, op, offset, length, buf, 0);
    for (uint32_t looks = 0; !is_done(&job); looks++) {
        CHECK(looks < 100000);
        decide(rig, random, true);
        if (looks > 2000)
            heal(rig);
        usleep(100);
    }
    return job.req.status;
}

/* A block that may have become too many things is read, when the legs are the same there. */
static void settle_blocks(struct mrig *rig, struct vn_test_random *random) {
    for (uint64_t i = 0; i < NR_BLOCKS; i++) {
        struct block *block = &shared->blocks[i];
        if (block->nr < NR_VALUES - NR_JOBS)
            continue;
        while (info_of(rig).nr_left)
            decide(rig, random, true);
        while (vn_mirror_holds(rig->mirror)) /* what the others have done and one has not */
            decide(rig, random, true);
        uint8_t *buf = works[0].buf;
        heal(rig);
        CHECK_EQ(io_decided(rig, random, VN_OP_READ, i * RIG_BLOCK, RIG_BLOCK, buf), 0);
        uint64_t value = *(uint64_t *)(void *)buf;
        CHECK(may_have(block, value));
        block->values[0] = value;
        block->nr = 1;
    }
}

static void break_something(struct mrig *rig, struct vn_test_random *random) {
    uint32_t leg = (uint32_t)vn_test_below(random, VN_MIRROR_MAX_LEGS);
    uint32_t ops = (uint32_t)vn_test_below(random, 1u << VN_OP_COUNT);
    if (!info_of(rig).legs[leg].open)
        return;
    if (vn_test_below(random, 4) == 0)
        vn_reactor_call(rig->reactor, make_stubborn_on, rig->switches[leg]);
    set_switch(rig, leg, vn_test_below(random, 3) ? SWITCH_FAIL : SWITCH_KEEP, ops ? ops : ~0u);
}

static void batch(struct mrig *rig, struct vn_test_random *random, bool calm) {
    uint32_t nr = 1 + (uint32_t)vn_test_below(random, NR_JOBS), nr_cancelled = 0;
    for (uint32_t i = 0; i < nr; i++)
        start_one(rig, &works[i], random);
    for (uint32_t i = 0, looks = 0; i < nr; looks++) {
        if (is_done(&works[i].job)) {
            i++;
            continue;
        }
        decide(rig, random, calm);
        if (looks > 20 && vn_test_below(random, 200) == 0) {
            cancel(&works[i].job);
            nr_cancelled++;
        }
        if (looks > 2000)
            heal(rig); /* both hang */
        CHECK(looks < 100000);
        usleep(100);
    }
    for (uint32_t i = 0; i < nr; i++) {
        shared->nr_errors += works[i].job.req.status != 0;
        if (!works[i].job.req.status)
            acknowledged(&works[i], nr);
    }
    if (vn_test_below(random, 3) == 0)
        io_decided(rig, random, VN_OP_FLUSH, 0, 0, NULL);
}

static void open_as_recorded(struct mrig *rig, const char *name, uint32_t nr, struct vn_test_random *random) {
    mrig_make(rig, nr, name);
    rig->mopts.leg_timeout_ms = 60;
    rig->mopts.clean_ms = 5 + (uint32_t)vn_test_below(random, 20);
    rig->mopts.preferred = (uint32_t)vn_test_below(random, nr);
    for (uint32_t leg = 0; leg < nr; leg++)
        rig->mopts.states[leg] = shared->states[leg];
    mrig_open(rig);
}

static void serve(const char *name, uint32_t nr, uint64_t seed, uint32_t nr_batches) {
    struct vn_test_random random = {.state = seed};
    struct mrig rig;
    for (uint32_t i = 0; i < NR_JOBS; i++)
        works[i].buf = aligned_alloc(4096, JOB_BLOCKS * RIG_BLOCK);
    open_as_recorded(&rig, name, nr, &random);
    shared->runs = true;
    for (uint32_t i = 0; i < nr_batches; i++) {
        if (vn_test_below(&random, 6) == 0)
            break_something(&rig, &random);
        if (vn_test_below(&random, 12) == 0)
            heal(&rig);
        batch(&rig, &random, false);
        decide(&rig, &random, false);
        settle_blocks(&rig, &random);
    }
    heal(&rig); /* the end: all come back */
    for (uint32_t looks = 0, calm = 0; calm < 3; looks++) {
        CHECK(looks < 20000);
        decide(&rig, &random, true);
        struct vn_mirror_info info = info_of(&rig);
        bool all = info.nr_left == 0;
        for (uint32_t leg = 0; leg < nr; leg++)
            all &= info.legs[leg].state == VN_LEG_IN_SYNC;
        calm = all ? calm + 1 : 0;
        usleep(1000);
    }
    mrig_close(&rig);
    for (uint32_t i = 0; i < NR_JOBS; i++)
        free(works[i].buf);
}

/* --- Histories --- */

static void check_end(const char *name, uint32_t nr) {
    struct mrig rig;
    mrig_make(&rig, nr, name);
    for (uint32_t leg = 1; leg < nr; leg++)
        CHECK(same(&rig, 0, leg));
    check_blocks(&rig, 0, name);
    for (uint32_t leg = 0; leg < nr; leg++)
        unlink(rig.paths[leg]);
    unlink(rig.bitmap);
}

static void history(uint32_t number, struct vn_test_random *random) {
    char name[32];
    uint32_t nr = 2 + number % 2, kills = (uint32_t)vn_test_below(random, 4);
    snprintf(name, sizeof(name), "history%u", number);
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        shared->states[leg] = leg < nr ? VN_LEG_IN_SYNC : VN_LEG_NONE;
        shared->full[leg] = false;
    }
    for (uint32_t i = 0; i < NR_BLOCKS; i++)
        shared->blocks[i] = (struct block){.nr = 1};
    for (uint32_t i = 0; i < kills; i++)
        run_server(serve, name, nr, random, false);
    run_server(serve, name, nr, random, true);
    check_end(name, nr);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    const char *text = getenv("VN_TEST_HISTORIES");
    uint32_t nr = text ? (uint32_t)strtoul(text, NULL, 0) : 20;
    share_model();
    for (uint32_t i = 0; i < nr; i++)
        history(i, &random);
    printf("%u histories: %u commands, %u legs failed, %u came back, %u kills, %u commands failed\n", nr, shared->nr_ops,
           shared->nr_failures, shared->nr_returns, shared->nr_kills, shared->nr_errors);
    CHECK(nr < 20 || (shared->nr_failures > 20 && shared->nr_returns > 20 && shared->nr_kills > 5));
    return 0;
}
