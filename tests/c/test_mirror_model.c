/* Random histories of a mirror against a model: commands, legs that fail, hang, come back and are replaced, and processes that
 * are killed at any moment. After each history all legs count and are the same, and every block is what the model allows:
 * for what was acknowledged, nothing older. VN_TEST_HISTORIES=N for more.
 *
 * The server is a child process. What it knows for good is in shared memory: the model, and what Python would have recorded.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "mirror_rig.h"

#define NR_BLOCKS (RIG_BYTES / RIG_BLOCK)
#define NR_VALUES 24
#define NR_JOBS 10
#define JOB_BLOCKS 6

struct block { /* the values that it may have now */
    uint32_t nr;
    uint64_t values[NR_VALUES];
};

struct shared {
    uint32_t states[VN_MIRROR_MAX_LEGS]; /* recorded: VN_LEG_IN_SYNC or VN_LEG_OUT */
    bool full[VN_MIRROR_MAX_LEGS];       /* recorded: it is new */
    uint64_t stamp;
    uint32_t nr_ops, nr_failures, nr_returns, nr_kills, nr_errors;
    bool runs;
    struct block blocks[NR_BLOCKS];
};

static struct shared *shared;

struct work {
    struct job job;
    uint64_t stamp, first, nr;
    uint8_t *buf;
};

static struct work works[NR_JOBS];

/* --- The model --- */

static bool may_have(const struct block *block, uint64_t value) {
    for (uint32_t i = 0; i < block->nr; i++) {
        if (block->values[i] == value)
            return true;
    }
    return false;
}

static void may_become(const struct work *work) {
    for (uint64_t i = work->first; i < work->first + work->nr; i++) {
        struct block *block = &shared->blocks[i];
        CHECK(block->nr < NR_VALUES);
        block->values[block->nr] = work->stamp;
        __atomic_store_n(&block->nr, block->nr + 1, __ATOMIC_RELEASE);
    }
}

static bool is_of_batch(uint64_t value, uint64_t block, uint32_t nr) {
    for (uint32_t i = 0; i < nr; i++) {
        const struct work *work = &works[i];
        if (work->stamp == value && work->first <= block && block < work->first + work->nr)
            return true;
    }
    return false;
}

/* Of blocks for which a write of the batch was acknowledged: what was before is gone. In place, and at each moment of it
 * no value is missing that may be there. Zeros are no stamp: several commands share it. */
static void acknowledged(const struct work *of, uint32_t nr) {
    for (uint64_t i = of->first; i < of->first + of->nr; i++) {
        struct block *block = &shared->blocks[i];
        uint32_t kept = 0;
        for (uint32_t v = 0; v < block->nr; v++) {
            if (is_of_batch(block->values[v], i, nr))
                block->values[kept++] = block->values[v];
        }
        block->nr = kept;
    }
}

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

static void start_one(struct mrig *rig, struct work *work, struct vn_test_random *random) {
    uint64_t dice = vn_test_below(random, 12);
    enum vn_op op = dice == 0 ? VN_OP_WRITE_ZEROES : dice == 1 ? VN_OP_DEALLOCATE : VN_OP_WRITE;
    work->nr = 1 + vn_test_below(random, JOB_BLOCKS);
    work->first = vn_test_below(random, NR_BLOCKS - work->nr + 1);
    work->stamp = op == VN_OP_WRITE ? ++shared->stamp : 0;
    uint64_t *words = (uint64_t *)(void *)work->buf;
    for (uint64_t i = 0; i < work->nr * RIG_BLOCK / 8; i++)
        words[i] = work->stamp;
    may_become(work);
    submit(rig, &work->job, op, work->first * RIG_BLOCK, work->nr * RIG_BLOCK, op == VN_OP_WRITE ? work->buf : NULL,
           op == VN_OP_WRITE && dice == 2 ? VN_REQ_FUA : 0);
    shared->nr_ops++;
}

static void heal(struct mrig *rig) {
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        if (!info_of(rig).legs[leg].open)
            continue;
        if (rig->switches[leg]->stubborn)
            vn_reactor_call(rig->reactor, wake_on, rig->switches[leg]);
        else
            let_go(rig, leg);
    }
}

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

static void run_server(const char *name, uint32_t nr, struct vn_test_random *random, bool to_the_end) {
    uint64_t seed = vn_test_draw(random);
    shared->runs = false;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        serve(name, nr, seed, to_the_end ? 12 : 100000);
        _exit(0);
    }
    int status = 0;
    if (!to_the_end) {
        for (int ms = 0; !__atomic_load_n(&shared->runs, __ATOMIC_ACQUIRE) && ms < 20000 && waitpid(pid, &status, WNOHANG) == 0; ms++)
            usleep(1000);
        usleep((useconds_t)vn_test_below(random, 60000));
        kill(pid, SIGKILL);
        shared->nr_kills++;
    }
    if (waitpid(pid, &status, 0) < 0)
        exit(1);
    bool as_meant = to_the_end ? WIFEXITED(status) && WEXITSTATUS(status) == 0 : WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (!as_meant) {
        fprintf(stderr, "the server of %s ended with %x\n", name, (unsigned)status);
        exit(1);
    }
}

static void check_end(const char *name, uint32_t nr) {
    struct mrig rig;
    uint8_t *all = malloc(RIG_BYTES);
    mrig_make(&rig, nr, name);
    for (uint32_t leg = 1; leg < nr; leg++)
        CHECK(same(&rig, 0, leg));
    read_leg(&rig, 0, all);
    for (uint64_t i = 0; i < NR_BLOCKS; i++) {
        const uint64_t *words = (const uint64_t *)(const void *)(all + i * RIG_BLOCK);
        for (uint32_t w = 1; w < RIG_BLOCK / 8; w++)
            CHECK_EQ(words[w], words[0]);
        if (!may_have(&shared->blocks[i], words[0])) {
            fprintf(stderr, "%s: block %u is %llu, and may not be\n", name, (unsigned)i, (unsigned long long)words[0]);
            exit(1);
        }
    }
    for (uint32_t leg = 0; leg < nr; leg++)
        unlink(rig.paths[leg]);
    unlink(rig.bitmap);
    free(all);
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
        run_server(name, nr, random, false);
    run_server(name, nr, random, true);
    check_end(name, nr);
}

int main(void) {
    struct vn_test_random random = vn_test_seed();
    const char *text = getenv("VN_TEST_HISTORIES");
    uint32_t nr = text ? (uint32_t)strtoul(text, NULL, 0) : 20;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    vn_test_dir(); /* before there are children */
    for (uint32_t i = 0; i < nr; i++)
        history(i, &random);
    printf("%u histories: %u commands, %u legs failed, %u came back, %u kills, %u commands failed\n", nr, shared->nr_ops,
           shared->nr_failures, shared->nr_returns, shared->nr_kills, shared->nr_errors);
    CHECK(nr < 20 || (shared->nr_failures > 20 && shared->nr_returns > 20 && shared->nr_kills > 5));
    return 0;
}
