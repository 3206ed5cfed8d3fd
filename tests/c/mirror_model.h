/* What each block of a mirror may hold, for random histories of commands; shared by a test and the servers that it kills.
 * For the test_mirror_* programs.
 */
#ifndef MIRROR_MODEL_H
#define MIRROR_MODEL_H

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

static inline bool may_have(const struct block *block, uint64_t value) {
    for (uint32_t i = 0; i < block->nr; i++) {
        if (block->values[i] == value)
            return true;
    }
    return false;
}

static inline void may_become(const struct work *work) {
    for (uint64_t i = work->first; i < work->first + work->nr; i++) {
        struct block *block = &shared->blocks[i];
        CHECK(block->nr < NR_VALUES);
        block->values[block->nr] = work->stamp;
        __atomic_store_n(&block->nr, block->nr + 1, __ATOMIC_RELEASE);
    }
}

static inline bool is_of_batch(uint64_t value, uint64_t block, uint32_t nr) {
    for (uint32_t i = 0; i < nr; i++) {
        const struct work *work = &works[i];
        if (work->stamp == value && work->first <= block && block < work->first + work->nr)
            return true;
    }
    return false;
}

/* Of blocks for which a write of the batch was acknowledged: what was before is gone. In place, and at each moment of it
 * no value is missing that may be there. Zeros are no stamp: several commands share it. */
static inline void acknowledged(const struct work *of, uint32_t nr) {
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

/* --- Commands --- */

static inline void start_one(struct mrig *rig, struct work *work, struct vn_test_random *random) {
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

static inline void heal(struct mrig *rig) {
    for (uint32_t leg = 0; leg < VN_MIRROR_MAX_LEGS; leg++) {
        if (!info_of(rig).legs[leg].open)
            continue;
        if (rig->switches[leg]->stubborn)
            vn_reactor_call(rig->reactor, wake_on, rig->switches[leg]);
        else
            let_go(rig, leg);
    }
}

/* --- Ends --- */

/* What is in the file of a leg is what may be. */
static inline void check_blocks(struct mrig *rig, uint32_t leg, const char *name) {
    uint8_t *all = malloc(RIG_BYTES);
    read_leg(rig, leg, all);
    for (uint64_t i = 0; i < NR_BLOCKS; i++) {
        const uint64_t *words = (const uint64_t *)(const void *)(all + i * RIG_BLOCK);
        for (uint32_t w = 1; w < RIG_BLOCK / 8; w++)
            CHECK_EQ(words[w], words[0]);
        if (!may_have(&shared->blocks[i], words[0])) {
            fprintf(stderr, "%s: block %u is %llu, and may not be\n", name, (unsigned)i, (unsigned long long)words[0]);
            exit(1);
        }
    }
    free(all);
}

/* A child that serves to the end, or is killed at any moment. */
static inline void run_server(void (*serve)(const char *, uint32_t, uint64_t, uint32_t), const char *name, uint32_t nr,
                              struct vn_test_random *random, bool to_the_end) {
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

static inline void share_model(void) {
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    vn_test_dir(); /* before there are children */
}

#endif
