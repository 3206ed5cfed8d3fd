/* Namespaces are made on several threads at once, while control calls go on: what is theirs alone needs no lock.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "include/vhostnvme.h"
#include "vn_test.h"

#define SUBNQN "nqn.2026-11.test:make"
#define NR_THREADS 4
#define NR_ROUNDS 12

static uint16_t port;
static atomic_uint nr_left = NR_THREADS;

static void make_and_close(const struct vn_ns_opts *opts, int expected) {
    vn_ns *ns;
    CHECK_EQ(vn_ns_make(opts, &ns), expected);
    if (expected)
        CHECK(vn_last_error()[0]); /* each thread has a sentence of its own */
    else
        CHECK_EQ(vn_ns_close(ns), 0);
}

static void *make_some(void *arg) {
    char path[320];
    snprintf(path, sizeof(path), "%s/%u", vn_test_dir(), *(unsigned *)arg);
    struct vn_remote_opts remote = {.paths = {{.host = "127.0.0.1", .port = port}}, .nr_paths = 1, .nsid = 1,
                                    .subnqn = SUBNQN, .hostnqn = "nqn.2026-11.test:host", .hostid = {1}};
    for (int i = 0; i < NR_ROUNDS; i++) {
        make_and_close(&(struct vn_ns_opts){.backend = "forward", .remote = &remote}, 0);
        make_and_close(&(struct vn_ns_opts){.backend = "file", .path = path, .size = 1 << 20, .block_size = 512,
                                            .flags = VN_NS_CREATE}, 0);
        make_and_close(&(struct vn_ns_opts){.backend = "mem", .size = 1 << 20, .block_size = 512, .delay_us = 1}, 0);
        make_and_close(&(struct vn_ns_opts){.backend = "file", .path = "/no/such/folder/disk", .block_size = 512}, -ENOENT);
    }
    nr_left--;
    return NULL;
}

int main(void) {
    vn_runtime *rt;
    vn_target *target;
    vn_subsys *subsys;
    vn_ns *memory;
    uint32_t id;
    const struct vn_ns_opts opts = {.backend = "mem", .size = 1 << 20, .block_size = 512};
    CHECK_EQ(vn_runtime_create(&(struct vn_runtime_opts){.poll_us = 20}, &rt), 0);
    CHECK_EQ(vn_target_create(rt, &(struct vn_target_opts){0}, &target), 0);
    CHECK_EQ(vn_target_listen(target, &(struct vn_listen_opts){.host = "127.0.0.1"}, &id, &port), 0);
    struct vn_subsys_opts subsys_opts = {.nqn = SUBNQN, .serial = "M", .flags = VN_SUBSYS_ANY_HOST};
    CHECK_EQ(vn_target_add_subsys(target, &subsys_opts, &subsys), 0);
    CHECK_EQ(vn_ns_open(rt, &opts, &memory), 0);
    CHECK_EQ(vn_subsys_add_ns(subsys, memory, 1, 0), 0);
    vn_test_dir(); /* before there are others that ask for it */
    pthread_t threads[NR_THREADS];
    unsigned numbers[NR_THREADS];
    for (unsigned i = 0; i < NR_THREADS; i++) {
        numbers[i] = i;
        CHECK_EQ(pthread_create(&threads[i], NULL, make_some, &numbers[i]), 0);
    }
    while (nr_left) { /* meanwhile namespaces come and go in the runtime */
        vn_ns *ns;
        CHECK_EQ(vn_ns_make(&opts, &ns), 0);
        CHECK_EQ(vn_ns_id(ns), 0);
        CHECK_EQ(vn_ns_enter(rt, ns), 0);
        CHECK_EQ(vn_ns_enter(rt, ns), -EALREADY);
        CHECK(vn_ns_id(ns) > vn_ns_id(memory));
        CHECK_EQ(vn_subsys_add_ns(subsys, ns, 2, 0), 0);
        CHECK_EQ(vn_subsys_remove_ns(subsys, 2, 1000), 0);
        CHECK_EQ(vn_ns_close(ns), 0);
    }
    for (unsigned i = 0; i < NR_THREADS; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK_EQ(vn_target_destroy(target), 0);
    CHECK_EQ(vn_ns_close(memory), 0);
    CHECK_EQ(vn_runtime_destroy(rt), 0); /* nothing was left behind */
    return 0;
}
