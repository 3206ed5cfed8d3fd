/* The request's life: frames come back in reverse order, states follow each other as written.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "core/req.h"
#include "vn_test.h"

static int order[8], nr_called;

static void first(struct vn_req *req, void *ctx) {
    CHECK_EQ(req->status, VN_SC_LBA_RANGE);
    order[nr_called++] = *(int *)ctx;
}

static void second(struct vn_req *req, void *ctx) {
    CHECK_EQ(req->nr_frames, 1); /* its own frame is gone when a layer is called */
    order[nr_called++] = *(int *)ctx;
    vn_req_complete(req, VN_SC_LBA_RANGE); /* a layer may change the outcome */
}

static void test_frames(void) {
    struct vn_req req = {0};
    int one = 1, two = 2;
    vn_req_push(&req, first, &one);
    vn_req_push(&req, second, &two);
    vn_req_push(&req, first, NULL);
    vn_req_pop(&req); /* the layer below was busy */
    vn_req_complete(&req, VN_SC_SUCCESS);
    CHECK_EQ(nr_called, 2);
    CHECK(order[0] == 2 && order[1] == 1);
    CHECK_EQ(req.nr_frames, 0);
}

static void test_states(void) {
    static const uint8_t allowed[4][4] = {
        [VN_REQ_FREE] = {[VN_REQ_FETCHED] = 1},
        [VN_REQ_FETCHED] = {[VN_REQ_TAKEN] = 1, [VN_REQ_DONE] = 1},
        [VN_REQ_TAKEN] = {[VN_REQ_DONE] = 1, [VN_REQ_FETCHED] = 1},
        [VN_REQ_DONE] = {[VN_REQ_FREE] = 1},
    };
    for (enum vn_req_state from = VN_REQ_FREE; from <= VN_REQ_DONE; from++) {
        for (enum vn_req_state to = VN_REQ_FREE; to <= VN_REQ_DONE; to++) {
            struct vn_req req = {.state = (uint8_t)from};
            if (allowed[from][to]) {
                vn_req_set_state(&req, to);
                CHECK_EQ(req.state, to);
                continue;
            }
#ifndef NDEBUG
            pid_t child = fork();
            if (child == 0) {
                fclose(stderr); /* the assertion's own words */
                vn_req_set_state(&req, to);
                _exit(0);
            }
            int status;
            CHECK_EQ(waitpid(child, &status, 0), child);
            CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
#endif
        }
    }
}

int main(void) {
    test_frames();
    test_states();
    return 0;
}
