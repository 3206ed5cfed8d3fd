/* What happens by itself while an association is there: keep alive, time limits, asynchronous events and what is read
 * because of them. Called by timers and by the answers.
 */
#include <errno.h>
#include <string.h>

#include "core/util.h"
#include "nvmetcp/host.h"

#define TICKS_PER_KATO 4
#define TICK_NS_MIN 10000000ull
#define LOG_ANA_GROUPS_ONLY (1u << 8) /* CDW10: LSP bit 0, no NSIDs in the ANA log */

uint64_t vn_assoc_tick_ns(const struct vn_assoc *assoc) {
    uint64_t kato_ns = assoc->config->kato_ms * 1000000ull / TICKS_PER_KATO;
    if (assoc->state != VN_ASSOC_READY)
        kato_ns = vn_min_u64(kato_ns, assoc->config->connect_ms * 1000000ull / TICKS_PER_KATO);
    return vn_max_u64(kato_ns, TICK_NS_MIN);
}

/* --- Keep alive --- */

static void on_kept_alive(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    assoc->keep_alive_out = false;
    if (fate == VN_FATE_DONE && cmd->status)
        vn_assoc_fail(assoc, EIO, "%s does not keep the association alive: status %x/%02x", assoc->name,
                      VN_STATUS_CODE(cmd->status) >> 8, cmd->status & 0xff);
}

static void keep_alive(struct vn_assoc *assoc, uint64_t now_ns) {
    if (assoc->keep_alive_out || now_ns - assoc->keep_alive_ns < assoc->config->kato_ms * 1000000ull / 2)
        return;
    struct vn_hcmd *cmd = vn_assoc_admin(assoc, VN_ADMIN_KEEP_ALIVE, VN_HCMD_NONE, NULL, 0, on_kept_alive);
    if (!cmd)
        return;
    assoc->keep_alive_out = true;
    assoc->keep_alive_ns = now_ns;
    vn_hcmd_send(cmd);
}

/* --- Time limits --- */

/* When something was last heard on any connection. */
static uint64_t heard_ns(const struct vn_assoc *assoc) {
    uint64_t ns = assoc->started_ns;
    for (uint32_t i = 0; i <= assoc->nr_queues; i++) {
        if (assoc->queues[i].state != VN_HQ_DOWN)
            ns = vn_max_u64(ns, assoc->queues[i].conn.rx_ns);
    }
    return ns;
}

static void on_event(struct vn_hcmd *cmd, enum vn_hcmd_fate fate);

static bool is_late(const struct vn_assoc *assoc, uint64_t now_ns) {
    uint64_t limit_ns = assoc->config->io_timeout_ms * 1000000ull;
    for (uint32_t i = 0; i <= assoc->nr_queues; i++) {
        const struct vn_hcmd *cmd = assoc->queues[i].oldest;
        while (cmd && cmd->done == on_event) /* one at most: it waits for as long as nothing happens */
            cmd = cmd->next;
        if (cmd && now_ns - cmd->sent_ns > limit_ns)
            return true;
    }
    return false;
}

void vn_assoc_on_tick(struct vn_timer *timer) {
    struct vn_assoc *assoc = vn_container_of(timer, struct vn_assoc, tick);
    const struct vn_assoc_config *config = assoc->config;
    uint64_t now_ns = vn_reactor_now_ns(assoc->reactor);
    vn_timer_arm(assoc->reactor, timer, vn_assoc_tick_ns(assoc));
    if (assoc->state == VN_ASSOC_CONNECTING && now_ns - assoc->started_ns > config->connect_ms * 1000000ull) {
        vn_assoc_fail(assoc, ETIMEDOUT, "%s does not answer: no connection within %u ms", assoc->name,
                      config->connect_ms);
    } else if (assoc->state == VN_ASSOC_READY) {
        keep_alive(assoc, now_ns);
        if (now_ns - heard_ns(assoc) > config->kato_ms * 1000000ull)
            vn_assoc_fail(assoc, ETIMEDOUT, "%s is silent: nothing heard for %u ms", assoc->name, config->kato_ms);
        else if (is_late(assoc, now_ns))
            vn_assoc_fail(assoc, ETIMEDOUT, "%s has not answered a command for %u ms", assoc->name,
                          config->io_timeout_ms);
    }
}

/* --- Log pages and Identify, read again --- */

struct vn_hcmd *vn_assoc_identify_command(struct vn_assoc *assoc, uint8_t cns, uint32_t nsid,
                                          void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate)) {
    struct vn_hcmd *cmd = vn_assoc_admin(assoc, VN_ADMIN_IDENTIFY, VN_HCMD_IN, &assoc->page_iov, VN_ASSOC_PAGE, done);
    if (cmd) {
        cmd->capsule.pdu.cmd.sqe.cdw10 = cns;
        cmd->capsule.pdu.cmd.sqe.nsid = nsid;
    }
    return cmd;
}

struct vn_hcmd *vn_assoc_log_command(struct vn_assoc *assoc, uint8_t log,
                                     void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate)) {
    struct vn_hcmd *cmd =
        vn_assoc_admin(assoc, VN_ADMIN_GET_LOG_PAGE, VN_HCMD_IN, &assoc->log_iov, VN_ASSOC_PAGE, done);
    if (cmd) {
        struct vn_sqe *sqe = &cmd->capsule.pdu.cmd.sqe;
        sqe->nsid = VN_NSID_BROADCAST;
        sqe->cdw10 = log | (log == VN_LOG_ANA ? LOG_ANA_GROUPS_ONLY : 0) | (VN_ASSOC_PAGE / 4 - 1) << 16;
        memset(assoc->log_page, 0, VN_ASSOC_PAGE);
    }
    return cmd;
}

static void start_reads(struct vn_assoc *assoc);

static void on_ana(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    assoc->log_busy = false;
    if (fate != VN_FATE_DONE || assoc->state != VN_ASSOC_READY)
        return;
    if (!cmd->status) {
        enum vn_ana_state before = assoc->ana;
        assoc->ana = vn_ident_ana(assoc, assoc->log_page);
        if (assoc->ana != before)
            assoc->ops->ana_changed(assoc);
    }
    start_reads(assoc);
}

/* The identifiers of a namespace that has changed are read as well: it may be another one by now. */
static void on_ns_desc(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    assoc->page_busy = false;
    if (fate != VN_FATE_DONE || assoc->state != VN_ASSOC_READY)
        return;
    if (!cmd->status)
        vn_ident_desc(assoc, assoc->page);
    assoc->ops->ns_changed(assoc);
    start_reads(assoc);
}

static void identify(struct vn_assoc *assoc, uint8_t cns, void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate)) {
    struct vn_hcmd *cmd = vn_assoc_identify_command(assoc, cns, assoc->config->nsid, done);
    if (!cmd)
        return;
    assoc->page_busy = true;
    vn_hcmd_send(cmd);
}

static void on_ns(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    assoc->page_busy = false;
    if (fate != VN_FATE_DONE || assoc->state != VN_ASSOC_READY)
        return;
    if (cmd->status)
        memset(assoc->page, 0, VN_ASSOC_PAGE);
    struct vn_assoc_facts before = assoc->facts;
    if (!vn_ident_ns(assoc, (const struct vn_id_ns *)assoc->page))
        return;
    assoc->facts.zeroes_max = before.zeroes_max; /* of the controller, which is the same */
    assoc->facts.deallocate_max = before.deallocate_max;
    identify(assoc, VN_CNS_NS_DESC_LIST, on_ns_desc);
}

/* The list of changed namespaces is read for its effect: it makes way for the next event. Which they are does not
 * matter: ours is identified. */
static void on_changed_list(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    assoc->log_busy = false;
    if (fate != VN_FATE_DONE || assoc->state != VN_ASSOC_READY)
        return;
    assoc->wants_ns = true;
    start_reads(assoc);
}

static void read_log(struct vn_assoc *assoc, uint8_t log, bool *wanted,
                     void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate)) {
    struct vn_hcmd *cmd = vn_assoc_log_command(assoc, log, done);
    if (!cmd)
        return; /* the next event, or answer, tries again */
    *wanted = false;
    assoc->log_busy = true;
    vn_hcmd_send(cmd);
}

/* Each of the two pages serves one command at a time. */
static void start_reads(struct vn_assoc *assoc) {
    if (assoc->wants_changed && !assoc->log_busy)
        read_log(assoc, VN_LOG_CHANGED_NS, &assoc->wants_changed, on_changed_list);
    if (assoc->wants_ana && !assoc->log_busy)
        read_log(assoc, VN_LOG_ANA, &assoc->wants_ana, on_ana);
    if (assoc->wants_ns && !assoc->page_busy) {
        assoc->wants_ns = false;
        identify(assoc, VN_CNS_NS, on_ns);
    }
}

void vn_assoc_read_ana(struct vn_assoc *assoc) {
    assoc->wants_ana = assoc->facts.has_ana;
    if (assoc->state == VN_ASSOC_READY)
        start_reads(assoc);
}

/* --- Asynchronous events (Base 5.2) --- */

static void on_event(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    if (fate != VN_FATE_DONE || assoc->state != VN_ASSOC_READY || cmd->status)
        return; /* refused: then there are none */
    uint8_t type = cmd->result & 0x7, info = (uint8_t)(cmd->result >> 8);
    if (type == VN_AEN_NOTICE && info == VN_AEN_NOTICE_NS_ATTR)
        assoc->wants_changed = true;
    else if (type == VN_AEN_NOTICE && info == VN_AEN_NOTICE_ANA)
        assoc->wants_ana = assoc->facts.has_ana;
    vn_assoc_arm_event(assoc);
    start_reads(assoc);
}

void vn_assoc_arm_event(struct vn_assoc *assoc) {
    if (!(assoc->facts.oaes & VN_EVENTS_WANTED))
        return;
    struct vn_hcmd *cmd = vn_assoc_admin(assoc, VN_ADMIN_ASYNC_EVENT, VN_HCMD_NONE, NULL, 0, on_event);
    if (cmd)
        vn_hcmd_send(cmd);
}
