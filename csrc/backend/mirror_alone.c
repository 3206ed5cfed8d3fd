/* A leg that is alone: it gets the requests themselves, and answers as if there was no mirror. Else they take the way of
 * mirror_io.c. Called through vn_chan_submit; every namespace of a card goes through here.
 */
#include "backend/mirror.h"

void vn_mirror_see_alone(struct vn_mirror *mirror) {
    struct vn_mirror_chan *mc = mirror->live;
    int leg = vn_mirror_alone(mirror);
    if (!mc)
        return;
    /* A piece that is still written there is ours, and must not come after what is passed on. */
    mc->alone = leg < 0 || vn_copy_is_busy(mc) ? NULL : mc->legs[leg].chan;
    assert(!mc->alone || !mc->nr_passed || mc->alone == mc->passed); /* no other leg counts before they have ended */
    if (!mc->alone)
        return;
    mc->passed = mc->alone;
    mc->alone_latched = vn_backend_latch_of(mirror->legs[leg].backend);
}

/* What has failed may still be on its way to the leg: where it may be, the leg is written too when another one is filled from
 * it. Nothing is before all that was passed on has ended: it has no range. */
__attribute__((noinline, cold)) static void look_after_passed(struct vn_mirror_chan *mc, struct vn_req *req) {
    bool changes = req->op == VN_OP_WRITE || req->op == VN_OP_WRITE_ZEROES || req->op == VN_OP_DEALLOCATE;
    if (req->status && changes && req->length)
        vn_mirror_unsure(mc, req->offset, req->length);
    if (!mc->alone && !mc->nr_passed)
        vn_copy_kick(mc);
    vn_req_complete(req, req->status);
}

static void passed_done(struct vn_req *req, void *ctx) {
    struct vn_mirror_chan *mc = ctx;
    mc->nr_passed--;
    if (__builtin_expect(req->status || !mc->alone, 0))
        look_after_passed(mc, req);
    else
        vn_req_complete(req, VN_SC_SUCCESS);
}

/* As a first hop: what the leg refuses by itself is refused. */
__attribute__((noinline)) static enum vn_submit submit_checked(struct vn_chan *chan, struct vn_req *req) {
    vn_req_set_state(req, VN_REQ_FETCHED);
    enum vn_submit answer = vn_chan_submit(chan, req);
    if (answer == VN_BUSY)
        vn_req_set_state(req, VN_REQ_TAKEN);
    return answer;
}

/* A leg can do whatever the mirror can, and this was checked a hop above: not twice. */
static enum vn_submit pass(struct vn_mirror_chan *mc, struct vn_req *req) {
    struct vn_chan *chan = mc->alone;
    bool checked = VN_CHECKS_ALL_HOPS || __atomic_load_n(mc->alone_latched, __ATOMIC_ACQUIRE);
    vn_req_push(req, passed_done, mc);
    mc->nr_passed++;
    enum vn_submit answer = checked ? submit_checked(chan, req) : chan->backend->ops->submit(chan, req);
    if (__builtin_expect(answer == VN_BUSY, 0)) {
        mc->nr_passed--;
        vn_req_pop(req);
    }
    return answer;
}

static bool was_passed(const struct vn_req *req) {
    for (uint32_t i = 0; i < req->nr_frames; i++) {
        if (req->frames[i].fn == passed_done)
            return true;
    }
    return false;
}

enum vn_submit vn_mirror_submit(struct vn_chan *chan, struct vn_req *req) {
    struct vn_mirror_chan *mc = (struct vn_mirror_chan *)chan;
    if (!mc->alone || (req->op == VN_OP_DEALLOCATE && mc->mirror->zeroes_for_deallocate))
        return vn_mirror_submit_to_all(mc, req);
    return pass(mc, req);
}

void vn_mirror_cancel(struct vn_chan *chan, struct vn_req *req) {
    struct vn_mirror_chan *mc = (struct vn_mirror_chan *)chan;
    if (was_passed(req))
        vn_chan_cancel(mc->passed, req);
    else
        vn_mirror_cancel_sent(mc, req);
}
