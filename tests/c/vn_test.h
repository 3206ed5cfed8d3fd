/* What every C test needs: a check that says where it failed, a generator that says its seed, a folder that goes away.
 * A test program returns 0 when all is well; VN_TEST_SEED=N repeats a run.
 */
#ifndef VN_TEST_H
#define VN_TEST_H

#include <ftw.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);     \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

#define CHECK_EQ(got, want)                                                               \
    do {                                                                                  \
        long long got_ = (long long)(got), want_ = (long long)(want);                     \
        if (got_ != want_) {                                                              \
            fprintf(stderr, "%s:%d: %s is %lld (%#llx), not %lld (%#llx)\n", __FILE__,    \
                    __LINE__, #got, got_, (unsigned long long)got_, want_,                \
                    (unsigned long long)want_);                                           \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

/* A sentence for a person has this in it. */
#define CHECK_SAYS(sentence, part)                                                        \
    do {                                                                                  \
        if (!strstr((sentence), (part))) {                                                \
            fprintf(stderr, "%s:%d: \"%s\" does not say \"%s\"\n", __FILE__, __LINE__,    \
                    (sentence), (part));                                                  \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

/* splitmix64 (Steele, Lea, Flood 2014). */
struct vn_test_random {
    uint64_t state;
};

static inline uint64_t vn_test_draw(struct vn_test_random *random) {
    uint64_t z = random->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* In [0, below). */
static inline uint64_t vn_test_below(struct vn_test_random *random, uint64_t below) {
    return vn_test_draw(random) % below;
}

static inline void vn_test_fill(struct vn_test_random *random, void *buf, size_t bytes) {
    uint8_t *at = buf;
    for (; bytes >= 8; at += 8, bytes -= 8) {
        uint64_t word = vn_test_draw(random);
        memcpy(at, &word, 8);
    }
    for (; bytes; bytes--)
        *at++ = (uint8_t)vn_test_draw(random);
}

static inline struct vn_test_random vn_test_seed(void) {
    const char *text = getenv("VN_TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : 1;
    printf("seed %" PRIu64 "\n", seed);
    return (struct vn_test_random){.state = seed};
}

static inline int vn_test_remove_one(const char *path, const struct stat *stat, int type, struct FTW *ftw) {
    (void)stat;
    (void)type;
    (void)ftw;
    return remove(path);
}

static char vn_test_folder[256];

static inline void vn_test_remove_folder(void) {
    nftw(vn_test_folder, vn_test_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* A folder of this test's own, on a disk rather than in memory where there is a choice. */
static inline const char *vn_test_dir(void) {
    const char *top = getenv("TMPDIR");
    if (!vn_test_folder[0]) {
        snprintf(vn_test_folder, sizeof(vn_test_folder), "%s/vn-test-XXXXXX", top ? top : "/var/tmp");
        CHECK(mkdtemp(vn_test_folder));
        atexit(vn_test_remove_folder);
    }
    return vn_test_folder;
}

#endif
