/* Kept state (core/keep.h): it comes back, a crash leaves old or new, and what is not ours or not whole is refused. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/keep.h"
#include "core/util.h"
#include "vn_test.h"

struct state {
    uint64_t value;
    uint8_t rest[5000];
};

struct saver {
    struct vn_keep_wait wait;
    struct vn_keep *keep;
    struct vn_reactor *reactor;
    uint32_t nr_done;
    int err;
};

static char folder[64], path[96];
static char error[512];

static struct vn_keep_opts opts_of(struct state *state) {
    return (struct vn_keep_opts){
        .path = path, .kind = "test", .version = 1, .uuid = {7}, .payload = state, .bytes = sizeof(*state)};
}

static void on_saved(struct vn_keep_wait *wait, int err) {
    struct saver *saver = vn_container_of(wait, struct saver, wait);
    saver->err = err;
    __atomic_fetch_add(&saver->nr_done, 1, __ATOMIC_RELEASE);
}

static int save_here(void *arg) {
    struct saver *saver = arg;
    vn_keep_save(saver->keep, saver->reactor, &saver->wait);
    return 0;
}

static void wait_for(struct saver *saver, uint32_t nr) {
    for (int ms = 0; __atomic_load_n(&saver->nr_done, __ATOMIC_ACQUIRE) < nr; ms++) {
        CHECK(ms < 10000);
        usleep(1000);
    }
}

static int save(struct vn_keep *keep, struct vn_reactor *reactor) {
    struct saver saver = {.wait.fn = on_saved, .keep = keep, .reactor = reactor};
    vn_reactor_call(reactor, save_here, &saver);
    wait_for(&saver, 1);
    return saver.err;
}

static void write_at(off_t offset, const void *data, size_t bytes) {
    int fd = open(path, O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, data, bytes, offset) == (ssize_t)bytes);
    close(fd);
}

static uint64_t value_in_file(int *err) {
    struct state state = {.value = 0};
    struct vn_keep_opts opts = opts_of(&state);
    struct vn_keep *keep = NULL;
    *err = vn_keep_open(&opts, &keep, error, sizeof(error));
    if (!*err)
        vn_keep_close(keep);
    return state.value;
}

static void test_it_comes_back(struct vn_reactor *reactor) {
    struct state state = {.value = 0};
    struct vn_keep_opts opts = opts_of(&state);
    struct vn_keep *keep;
    int err;
    CHECK_EQ(vn_keep_open(&opts, &keep, error, sizeof(error)), 0);
    CHECK(!vn_keep_was_found(keep) && vn_keep_lasts(keep));
    CHECK(access(path, F_OK) < 0); /* made by the first save */
    for (uint64_t i = 1; i <= 5; i++) {
        state.value = i;
        CHECK_EQ(save(keep, reactor), 0);
        CHECK_EQ(value_in_file(&err), i);
    }
    vn_keep_close(keep);
    /* a torn slot leaves the other one: saves went to slots 0, 1, 0, 1, 0 */
    write_at(100, "torn", 4);
    CHECK_EQ(value_in_file(&err), 4);
    CHECK_EQ(err, 0);
    CHECK_EQ(vn_keep_open(&opts, &keep, error, sizeof(error)), 0);
    CHECK(vn_keep_was_found(keep));
    state.value = 6;
    CHECK_EQ(save(keep, reactor), 0); /* over the torn one */
    vn_keep_close(keep);
    CHECK_EQ(value_in_file(&err), 6);
    write_at(100, "torn", 4);
    write_at((2 << 20) + 100, "torn", 4);
    value_in_file(&err);
    CHECK_EQ(err, -EBADMSG);
    CHECK(strstr(error, "damaged"));
    CHECK_EQ(unlink(path), 0);
}

struct burst {
    struct saver savers[3];
    struct state *state;
};

static int save_three(void *arg) {
    struct burst *burst = arg;
    for (uint32_t i = 0; i < 3; i++) {
        burst->state->value = 10 + i;
        vn_keep_save(burst->savers[i].keep, burst->savers[i].reactor, &burst->savers[i].wait);
    }
    return 0;
}

/* The first write has the first value; the two that came meanwhile share the second write. */
static void test_saves_in_a_burst(struct vn_reactor *reactor) {
    struct state state = {.value = 0};
    struct vn_keep_opts opts = opts_of(&state);
    struct burst burst = {.state = &state};
    struct vn_keep *keep;
    int err;
    CHECK_EQ(vn_keep_open(&opts, &keep, error, sizeof(error)), 0);
    for (uint32_t i = 0; i < 3; i++)
        burst.savers[i] = (struct saver){.wait.fn = on_saved, .keep = keep, .reactor = reactor};
    vn_reactor_call(reactor, save_three, &burst);
    for (uint32_t i = 0; i < 3; i++) {
        wait_for(&burst.savers[i], 1);
        CHECK_EQ(burst.savers[i].err, 0);
    }
    vn_keep_close(keep);
    CHECK_EQ(value_in_file(&err), 12);
    CHECK_EQ(unlink(path), 0);
}

static void test_what_is_refused(struct vn_reactor *reactor) {
    struct state state = {.value = 3};
    struct vn_keep_opts opts = opts_of(&state);
    struct vn_keep *keep, *other;
    opts.make = true;
    CHECK_EQ(vn_keep_open(&opts, &keep, error, sizeof(error)), 0);
    CHECK_EQ(vn_keep_open(&opts, &other, error, sizeof(error)), -EBUSY);
    CHECK_EQ(save(keep, reactor), 0);
    vn_keep_close(keep);
    opts.kind = "drive";
    CHECK_EQ(vn_keep_open(&opts, &keep, error, sizeof(error)), -EINVAL);
    opts.kind = "test";
    opts.version = 2;
    CHECK_EQ(vn_keep_open(&opts, &keep, error, sizeof(error)), -EPROTONOSUPPORT);
    opts.version = 1;
    opts.uuid[3] = 1;
    CHECK_EQ(vn_keep_open(&opts, &keep, error, sizeof(error)), -EINVAL);
    opts.uuid[3] = 0;
    opts.bytes = 64;
    CHECK_EQ(vn_keep_open(&opts, &keep, error, sizeof(error)), -EPROTONOSUPPORT);
    CHECK_EQ(unlink(path), 0);
    opts.path = "/nowhere/at/all";
    CHECK_EQ(vn_keep_open(&opts, &keep, error, sizeof(error)), -ENOENT);
}

static void test_memory_only(struct vn_reactor *reactor) {
    struct state state = {.value = 3};
    struct vn_keep_opts opts = opts_of(&state);
    struct vn_keep *keep;
    opts.path = NULL;
    CHECK_EQ(vn_keep_open(&opts, &keep, error, sizeof(error)), 0);
    CHECK(!vn_keep_lasts(keep));
    CHECK_EQ(save(keep, reactor), 0);
    vn_keep_close(keep);
}

int main(void) {
    struct vn_reactor *reactor;
    strcpy(folder, "/tmp/vn-keep-XXXXXX");
    CHECK(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/state", folder);
    CHECK_EQ(vn_reactor_start(0, 20, &reactor), 0);
    test_it_comes_back(reactor);
    test_saves_in_a_burst(reactor);
    test_what_is_refused(reactor);
    test_memory_only(reactor);
    vn_reactor_stop(reactor);
    CHECK_EQ(rmdir(folder), 0);
    return 0;
}
