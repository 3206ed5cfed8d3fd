/* No ghost writes (docs/decisions/0010-no-ghost-writes.md): after an association was lost with writes of unknown fate,
 * no write goes out until none of those can be applied any more. The target says so when it is asked through another
 * association (cross-controller reset), or enough time passes. Called by the paths.
 */
#include "backend/forward.h"
#include "core/util.h"

#define LOOK_NS 500000000ull   /* while something is fenced off */
#define MARGIN_NS 1000000000ull
#define ASK_AGAIN_NS 1000000000ull

/* The target notices within one period that nothing comes (two, where any traffic counts: the last command may have
 * come right after the last look), and then ends what it has. */
uint64_t vn_fence_ns(const struct vn_forward *forward) {
    return forward->config.kato_ms * 2000000ull + MARGIN_NS;
}

static void set_state(struct vn_path *path, enum vn_fence_state state) {
    struct vn_forward_chan *fc = path->fc;
    fc->nr_fences += (state != VN_FENCE_NONE);
    fc->nr_fences -= (path->fence.state != VN_FENCE_NONE);
    path->fence.state = state;
    path->fence.number++;
}

/* One fence a path is enough: while there is any no write goes out, so that a path which is lost again has none. */
void vn_fence_begin(struct vn_path *path) {
    const struct vn_assoc *assoc = path->assoc;
    if (!path->nr_writes || path->fence.state != VN_FENCE_NONE)
        return;
    set_state(path, VN_FENCE_CLOSING);
    path->fence.cntlid = assoc->facts.cntlid;
    path->fence.ciu = assoc->facts.ciu;
    path->fence.cirn = assoc->facts.cirn;
    path->fence.lost_ns = vn_reactor_now_ns(path->fc->chan.reactor);
    path->fence.ready_ns = path->fence.asked_ns = 0;
    path->fence.asking = path->fence.refused = false;
}

void vn_fence_closed(struct vn_path *path) {
    if (path->fence.state != VN_FENCE_CLOSING)
        return;
    set_state(path, path->unknown ? VN_FENCE_WAITING : VN_FENCE_NONE);
    vn_fence_advance(path->fc);
    vn_forward_update(path->fc);
}

/* --- Asking --- */

static void on_answer(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_path *path = cmd->owner;
    struct vn_forward_chan *fc = path->fc;
    if (path->fence.state != VN_FENCE_WAITING || path->fence.number != (uint32_t)cmd->offset)
        return;
    path->fence.asking = false;
    if (fate != VN_FATE_DONE)
        return;
    if (cmd->status)
        path->fence.refused = true; /* only time helps */
    else if (cmd->result & VN_CROSS_RESET_DONE)
        set_state(path, VN_FENCE_NONE);
    vn_forward_update(fc);
}

static void ask(struct vn_path *path, struct vn_path *via) {
    struct vn_fence *fence = &path->fence;
    struct vn_hcmd *cmd = vn_assoc_admin(via->assoc, VN_ADMIN_CROSS_RESET, VN_HCMD_NONE, NULL, 0, on_answer);
    if (!cmd)
        return;
    struct vn_sqe *sqe = &cmd->capsule.pdu.cmd.sqe;
    sqe->cdw10 = fence->cntlid | (uint32_t)fence->ciu << 16;
    sqe->cdw12 = (uint32_t)fence->cirn;
    sqe->cdw13 = (uint32_t)(fence->cirn >> 32);
    cmd->owner = path;
    cmd->offset = fence->number;
    fence->asking = true;
    fence->asked_ns = vn_reactor_now_ns(path->fc->chan.reactor);
    vn_hcmd_send(cmd);
}

/* --- Waiting --- */

/* Also counted from when the target was reached again: one that had stopped as a whole has not looked at its clock, and
 * may still find old commands in its sockets. */
static bool is_over(const struct vn_forward *forward, const struct vn_fence *fence, uint64_t now_ns) {
    return now_ns >= fence->lost_ns + vn_fence_ns(forward) && fence->ready_ns &&
           now_ns >= fence->ready_ns + forward->config.kato_ms * 1000000ull;
}

static struct vn_path *any_up(struct vn_forward_chan *fc) {
    for (uint32_t i = 0; i < fc->forward->nr_paths; i++) {
        if (fc->paths[i].up)
            return &fc->paths[i];
    }
    return NULL;
}

void vn_fence_advance(struct vn_forward_chan *fc) {
    uint64_t now_ns = vn_reactor_now_ns(fc->chan.reactor);
    struct vn_path *via = any_up(fc);
    for (uint32_t i = 0; i < fc->forward->nr_paths && fc->nr_fences; i++) {
        struct vn_path *path = &fc->paths[i];
        struct vn_fence *fence = &path->fence;
        if (fence->state != VN_FENCE_WAITING || !via)
            continue;
        fence->ready_ns = fence->ready_ns ? fence->ready_ns : now_ns;
        if (is_over(fc->forward, fence, now_ns))
            set_state(path, VN_FENCE_NONE);
        else if (fence->cirn && !fence->asking && !fence->refused &&
                 (!fence->asked_ns || now_ns >= fence->asked_ns + ASK_AGAIN_NS))
            ask(path, via);
    }
    if (fc->nr_fences && !fc->closing)
        vn_timer_arm(fc->chan.reactor, &fc->fence_timer, LOOK_NS);
}

void vn_fence_on_timer(struct vn_timer *timer) {
    struct vn_forward_chan *fc = vn_container_of(timer, struct vn_forward_chan, fence_timer);
    vn_fence_advance(fc);
    vn_forward_update(fc);
}
