/* Opening a backend: every refusal is one sentence that says what to do, and leaves the file as it was.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/file.h"
#include "backend_rig.h"

static char path[300], error[512];
static struct vn_backend *backend;

static int try_opts(const struct vn_ns_opts *opts) {
    backend = NULL;
    error[0] = '\0';
    int err = vn_backend_open(opts, &backend, error, sizeof(error));
    CHECK(err ? !backend && error[0] : backend && !error[0]);
    CHECK(!strchr(error, '\n'));
    return err;
}

static int try(const char *name, const char *file, uint64_t size, uint32_t block_size, uint32_t flags) {
    return try_opts(&(struct vn_ns_opts){
        .backend = name, .path = file, .size = size, .block_size = block_size, .flags = flags});
}

static void make_file(uint64_t bytes) {
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    close(fd);
}

static uint64_t size_of(const char *file) {
    struct stat stat_;
    CHECK_EQ(stat(file, &stat_), 0);
    return (uint64_t)stat_.st_size;
}

static void test_names_and_sizes(void) {
    CHECK_EQ(try("nul", NULL, 4096, 512, 0), -EINVAL);
    CHECK_SAYS(error, "file, mem, null, forward or mirror");
    CHECK_EQ(try(NULL, NULL, 4096, 512, 0), -EINVAL);
    CHECK_EQ(try("null", NULL, 4096, 1024, 0), -EINVAL);
    CHECK_SAYS(error, "512 or 4096");
    CHECK_EQ(try("null", NULL, 511, 512, 0), -EINVAL);
    CHECK_EQ(try("null", NULL, 1ull << 63, 512, 0), -EINVAL);
    CHECK_EQ(try("null", NULL, INT64_MAX, 4096, VN_NS_READ_ONLY), 0);
    CHECK_EQ(backend->size, INT64_MAX - 4095);
    CHECK(backend->read_only);
    vn_backend_close(backend);
    CHECK_EQ(try("mem", NULL, 0, 512, 0), -EINVAL);
    CHECK_EQ(try("mem", NULL, 1000, 512, 0), -EINVAL);
    CHECK_SAYS(error, "multiple of the block size");
    CHECK(try("mem", NULL, 1ull << 62, 512, 0) < 0);
    CHECK_SAYS(error, "smaller");
    CHECK_EQ(try("file", NULL, 4096, 512, 0), -EINVAL);
    CHECK_SAYS(error, "needs a path");
    CHECK_EQ(try("file", "", 4096, 512, VN_NS_CREATE), -EINVAL);
}

static void test_existence(void) {
    CHECK_EQ(try("file", path, 4096, 512, 0), -ENOENT);
    CHECK_SAYS(error, "does not exist; give ?size=10G");
    CHECK_EQ(try("file", path, 0, 512, VN_NS_CREATE), -ENOENT);
    CHECK_EQ(try("file", path, 4096, 512, VN_NS_CREATE | VN_NS_READ_ONLY), -ENOENT);
    CHECK_EQ(try("file", path, 4097, 512, VN_NS_CREATE), -EINVAL);
    CHECK_SAYS(error, "multiple of the block size");
    CHECK_EQ(access(path, F_OK), -1);
    CHECK_EQ(try("file", "/no/such/folder/disk", 4096, 512, VN_NS_CREATE), -ENOENT);
    CHECK_EQ(try("file", vn_test_dir(), 4096, 512, 0), -EISDIR);
    CHECK_SAYS(error, "is a directory");
    CHECK_EQ(try("file", "/dev/null", 4096, 512, 0), -EINVAL);
    CHECK_SAYS(error, "neither a regular file nor a block device");
    CHECK_EQ(mkfifo(path, 0600), 0);
    CHECK_EQ(try("file", path, 4096, 512, 0), -EINVAL); /* and does not wait for a writer */
    unlink(path);
}

static void test_sizes(void) {
    CHECK_EQ(try("file", path, 1 << 20, 512, VN_NS_CREATE), 0);
    struct stat stat_;
    CHECK_EQ(stat(path, &stat_), 0);
    CHECK_EQ(stat_.st_size, 1 << 20);
    CHECK_EQ(stat_.st_mode & 0777, 0600);
    CHECK(stat_.st_blocks * 512 < 1 << 20); /* sparse */
    CHECK(backend->volatile_cache);
    vn_backend_close(backend);
    CHECK_EQ(try("file", path, 0, 512, VN_NS_CREATE), 0); /* what it has */
    CHECK_EQ(backend->size, 1 << 20);
    vn_backend_close(backend);
    CHECK_EQ(try("file", path, 1 << 19, 512, 0), -EINVAL);
    CHECK_SAYS(error, "never cut off");
    CHECK_EQ(size_of(path), 1 << 20);
    CHECK_EQ(try("file", path, 1 << 21, 512, VN_NS_READ_ONLY), -EROFS);
    CHECK_EQ(try("file", path, 1 << 21, 512, VN_NS_PREALLOCATE), 0);
    CHECK_EQ(stat(path, &stat_), 0);
    CHECK(stat_.st_size == 1 << 21 && stat_.st_blocks * 512 >= 1 << 21);
    vn_backend_close(backend);
    CHECK_EQ(try("file", path, 1ull << 62, 512, 0), -EFBIG);
    CHECK_SAYS(error, "smaller size");
    CHECK_EQ(size_of(path), 1 << 21);

    make_file(1000);
    CHECK_EQ(try("file", path, 0, 512, 0), -EINVAL);
    CHECK_SAYS(error, "1000 bytes, is not a multiple");
    CHECK_EQ(try("file", path, 1024, 512, 0), 0);
    vn_backend_close(backend);
    make_file(512);
    CHECK_EQ(try("file", path, 0, 4096, 0), -EINVAL);
    make_file(0);
    CHECK_EQ(try("file", path, 0, 512, 0), -EINVAL);
    CHECK_SAYS(error, "is empty");
    unlink(path);
}

static void test_lock(void) {
    CHECK_EQ(try("file", path, 4096, 512, VN_NS_CREATE), 0);
    struct vn_backend *first = backend;
    CHECK_EQ(try("file", path, 4096, 512, VN_NS_CREATE), -EBUSY); /* in this process */
    CHECK_SAYS(error, "another server has it open");
    CHECK_EQ(access(path, F_OK), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(try("file", path, 0, 512, VN_NS_READ_ONLY) == -EBUSY ? 0 : 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(open(path, O_RDONLY)); /* does not drop the lock, as a POSIX lock would be */
    CHECK_EQ(try("file", path, 0, 512, 0), -EBUSY);
    vn_backend_close(first);
    CHECK_EQ(try("file", path, 0, 512, VN_NS_READ_ONLY), 0);
    first = backend;
    CHECK_EQ(try("file", path, 0, 512, VN_NS_READ_ONLY), 0); /* readers share */
    CHECK_EQ(backend->deallocates, false);
    vn_backend_close(backend);
    CHECK_EQ(try("file", path, 0, 512, 0), -EBUSY);
    vn_backend_close(first);
    unlink(path);
}

static struct vn_backend *window(uint64_t offset, uint64_t size, uint32_t flags, int expected) {
    struct vn_ns_opts opts = {.backend = "file", .path = path, .size = size, .offset = offset, .block_size = 512,
                              .flags = VN_NS_WINDOW | flags};
    CHECK_EQ(try_opts(&opts), expected);
    return backend;
}

static void test_window_bounds(void) {
    window(0, 4096, 0, -ENOENT);
    make_file(1 << 20);
    window(4096, 0, 0, -EINVAL);
    CHECK_SAYS(error, "its size be given");
    window(512, 4096, 0, -EINVAL);
    CHECK_SAYS(error, "multiple of 4096");
    window(INT64_MAX - 4095, 4096, 0, -EINVAL);
    window(UINT64_MAX - 4095, 4096, 0, -EINVAL);
    window(4096, 1000, 0, -EINVAL);
    window(1 << 20, 512, 0, -EINVAL);
    CHECK_SAYS(error, "it ends at 1048576");
    window(0, (1 << 20) + 512, 0, -EINVAL);
    window(0, 1 << 21, VN_NS_READ_ONLY | VN_NS_CREATE, -EINVAL);
    CHECK_EQ(size_of(path), 1 << 20);
    struct vn_backend *last = window((1 << 20) - 4096, 4096, 0, 0);
    CHECK_EQ(last->size, 4096);
    struct vn_backend *behind = window(1 << 20, 1 << 20, VN_NS_CREATE, 0); /* it may grow the file */
    CHECK_EQ(size_of(path), 1 << 21);
    vn_backend_close(behind);
    vn_backend_close(last);
    unlink(path);
    vn_backend_close(window(8192, 4096, VN_NS_CREATE | VN_NS_PREALLOCATE, 0));
    CHECK_EQ(size_of(path), 12288);
    unlink(path);
    struct vn_ns_opts no_flag = {.backend = "file", .path = path, .size = 4096, .offset = 4096, .block_size = 512};
    CHECK_EQ(try_opts(&no_flag), -EINVAL);
    struct vn_ns_opts no_file = {.backend = "mem", .size = 4096, .block_size = 512, .flags = VN_NS_WINDOW};
    CHECK_EQ(try_opts(&no_file), -EINVAL);
    CHECK_SAYS(error, "file or a block device");
}

/* Windows of one file go together if they do not overlap, in one process; and with nobody who has the whole file. */
static void test_window_locks(void) {
    make_file(1 << 20);
    struct vn_backend *low = window(0, 8192, 0, 0), *high = window(65536, 65536, VN_NS_NO_DIRECT, 0);
    CHECK(!high->direct);
    window(4096, 4096, 0, -EBUSY);
    CHECK_SAYS(error, "another namespace has those from 0 to 8192");
    window(8192, 65536, 0, -EBUSY);
    window(0, 1 << 20, VN_NS_READ_ONLY, -EBUSY);
    CHECK_EQ(try("file", path, 0, 512, 0), -EBUSY);
    CHECK_EQ(try("file", path, 0, 512, VN_NS_READ_ONLY), -EBUSY);
    struct vn_backend *middle = window(8192, 65536 - 8192, VN_NS_READ_ONLY, 0);
    CHECK(middle->read_only);
    struct vn_backend *again = window(8192, 4096, VN_NS_READ_ONLY, 0); /* readers share */
    window(8192, 4096, 0, -EBUSY);
    int fd = open(path, O_RDWR); /* another process, as far as the lock is concerned; also between the windows */
    struct flock part = {.l_type = F_WRLCK, .l_start = 1 << 19, .l_len = 1};
    CHECK(fd >= 0 && fcntl(fd, F_OFD_SETLK, &part) < 0 && errno == EAGAIN);
    close(fd);
    struct vn_backend *all[] = {low, middle, again, high};
    for (size_t i = 0; i < VN_ARRAY_SIZE(all); i++) {
        CHECK_EQ(try("file", path, 0, 512, VN_NS_READ_ONLY), -EBUSY);
        vn_backend_close(all[i]);
    }
    CHECK_EQ(try("file", path, 0, 512, 0), 0); /* the last one has let the file go */
    struct vn_backend *whole = backend;
    window(0, 4096, 0, -EBUSY);
    CHECK_SAYS(error, "another server has it open");
    vn_backend_close(whole);
    unlink(path);
}

/* Under a limit of file size, as any user: what was made or grown is as before afterwards. */
static void test_undo(void) {
    pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        struct rlimit limit = {1 << 20, 1 << 20};
        CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
        CHECK_EQ(try("file", path, 1 << 21, 512, VN_NS_CREATE), -EFBIG);
        CHECK_EQ(access(path, F_OK), -1);
        make_file(4096);
        CHECK_EQ(try("file", path, 1 << 21, 512, VN_NS_PREALLOCATE), -EFBIG);
        CHECK_EQ(size_of(path), 4096);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    unlink(path);
}

/* As a user who may not: root may everything, so it becomes nobody first. */
static void test_unreadable(void) {
    make_file(4096);
    CHECK_EQ(chmod(path, 0400), 0);
    CHECK_EQ(chmod(vn_test_dir(), 0755), 0);
    pid_t child = fork();
    if (child == 0) {
        bool owner = geteuid() != 0 || setuid(65534) != 0;
        CHECK_EQ(try("file", path, 0, 512, 0), -EACCES);
        CHECK_SAYS(error, "the right to read and write");
        CHECK_EQ(try("file", path, 0, 512, VN_NS_READ_ONLY), owner ? 0 : -EACCES);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    unlink(path);
}

static void test_read_only(void) {
    make_file(1 << 20);
    struct vn_ns_opts opts = {.backend = "file", .path = path, .block_size = 512, .flags = VN_NS_READ_ONLY};
    struct rig rig;
    rig_open(&rig, &opts);
    uint8_t *buf = aligned_alloc(4096, 4096);
    CHECK_EQ(rig_io(&rig, VN_OP_READ, 0, 4096, buf, 0), 0);
    CHECK_EQ(rig_io(&rig, VN_OP_FLUSH, 0, 0, NULL, 0), 0);
    CHECK_EQ(rig_io(&rig, VN_OP_WRITE, 0, 4096, buf, 0), VN_SC_NS_WRITE_PROTECTED | VN_STATUS_DNR);
    CHECK_EQ(rig_io(&rig, VN_OP_DEALLOCATE, 0, 4096, NULL, 0), VN_SC_NS_WRITE_PROTECTED | VN_STATUS_DNR);
    rig_close(&rig);
    free(buf);
    unlink(path);
}

int main(void) {
    snprintf(path, sizeof(path), "%s/disk", vn_test_dir());
    test_names_and_sizes();
    test_existence();
    test_sizes();
    test_lock();
    test_window_bounds();
    test_window_locks();
    test_undo();
    test_unreadable();
    test_read_only();
    return 0;
}
