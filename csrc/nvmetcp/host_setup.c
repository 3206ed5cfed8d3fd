/* The steps of an association from its first connection to READY (Base 2.0c, 3.1.3.3 and 6.3), one after the other.
 * Called by host.c to begin, by its queues when they are live, by itself with each answer.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/util.h"
#include "nvmetcp/host.h"

#define POLL_MS_MAX 64u /* between looks at CSTS, doubling from 1 */
#define CC_ENABLE (VN_CC_EN | 6u << 16 | 4u << 20) /* entries of 64 and 16 bytes */
#define CC_CSS_IOCS (6u << 4)

static void run_step(struct vn_assoc *assoc);

static void next_step(struct vn_assoc *assoc) {
    assoc->step++;
    if (assoc->step > VN_STEP_WAIT && !assoc->config->nsid)
        assoc->step = VN_STEP_COUNT;
    run_step(assoc);
}

const char *vn_assoc_status_name(vn_status status) {
    static const struct {
        vn_status status;
        const char *name;
    } names[] = {
        {VN_SC_CONNECT_PARAMETER, "its Connect parameters are refused"},
        {VN_SC_CONNECT_HOST, "this host is not allowed"},
        {VN_SC_CONNECT_BUSY, "the controller is busy"},
        {VN_SC_AUTH_REQUIRED, "it wants authentication"},
        {VN_SC_INVALID_NS, "there is no such namespace"},
        {VN_SC_INVALID_OPCODE, "it does not know the command"},
        {VN_SC_INVALID_FIELD, "a field is refused"},
    };
    for (size_t i = 0; i < VN_ARRAY_SIZE(names); i++) {
        if (names[i].status == VN_STATUS_CODE(status))
            return names[i].name;
    }
    return "it is refused";
}

/* --- Connect (Base 6.3) --- */

static void say_refused(struct vn_assoc *assoc, vn_status status, uint32_t result) {
    const struct vn_assoc_config *config = assoc->config;
    uint32_t offset = result & 0xffff;
    bool in_data = result & VN_CONNECT_IATTR_DATA;
    vn_status code = VN_STATUS_CODE(status);
    if (code == VN_SC_CONNECT_PARAMETER && in_data && offset == offsetof(struct vn_connect_data, subnqn))
        vn_assoc_fail(assoc, ENOENT, "%s has no subsystem %s", assoc->name, config->subnqn);
    else if (code == VN_SC_CONNECT_HOST)
        vn_assoc_fail(assoc, EACCES, "%s does not let the host %s use %s: allow it there", assoc->name, config->hostnqn,
                      config->subnqn);
    else if (code == VN_SC_CONNECT_PARAMETER && in_data && offset == offsetof(struct vn_connect_data, hostnqn))
        vn_assoc_fail(assoc, EACCES, "%s does not take the host NQN %s", assoc->name, config->hostnqn);
    else
        vn_assoc_fail(assoc, ECONNREFUSED, "%s refuses to connect to %s: %s (status %x/%02x)", assoc->name,
                      config->subnqn, vn_assoc_status_name(status), code >> 8, code & 0xff);
}

static void on_connected(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_hq *queue = cmd->queue;
    struct vn_assoc *assoc = queue->assoc;
    uint32_t result = (uint32_t)cmd->result;
    if (fate != VN_FATE_DONE || assoc->state != VN_ASSOC_CONNECTING)
        return;
    if (cmd->status) {
        say_refused(assoc, cmd->status, result);
        return;
    }
    queue->flow = queue->sq_head != 0xffff; /* else the target has agreed to do without (Base 6.3, SQHD) */
    if (queue->flow && queue->sq_head >= queue->entries) {
        vn_assoc_fail(assoc, EPROTO, "%s answers Connect with a queue head of %u of %u", assoc->name, queue->sq_head,
                      queue->entries);
        return;
    }
    queue->sq_tail = queue->sq_head = queue->flow ? queue->sq_head : 0;
    if (!queue->qid)
        assoc->connect_data->cntlid = assoc->facts.cntlid = (uint16_t)result;
    vn_setup_auth(queue, result);
}

void vn_setup_connect_queue(struct vn_hq *queue) {
    struct vn_assoc *assoc = queue->assoc;
    struct vn_hcmd *cmd = vn_hq_command(queue, VN_ADMIN_FABRICS, VN_HCMD_OUT, &assoc->connect_iov,
                                        sizeof(struct vn_connect_data), on_connected);
    struct vn_sqe *sqe = &cmd->capsule.pdu.cmd.sqe; /* the first on this connection: there is one */
    sqe->nsid = VN_FCTYPE_CONNECT;
    sqe->cdw10 = (uint32_t)queue->qid << 16;
    sqe->cdw11 = (queue->entries - 1) | VN_CATTR_NO_SQ_FLOW << 16;
    sqe->cdw12 = queue->qid ? 0 : assoc->config->kato_ms;
    vn_hcmd_send(cmd);
}

void vn_setup_queue_live(struct vn_hq *queue) {
    struct vn_assoc *assoc = queue->assoc;
    vn_hq_set_state(queue, VN_HQ_LIVE);
    if (!queue->qid) {
        next_step(assoc);
        return;
    }
    queue->capsule_max = assoc->facts.capsule_max;
    if (assoc->nr_live == assoc->nr_queues && assoc->step == VN_STEP_IO_QUEUES)
        next_step(assoc);
}

static void open_queue(struct vn_assoc *assoc, uint32_t qid, uint32_t entries) {
    int err = vn_hq_open(&assoc->queues[qid], entries);
    if (err)
        vn_assoc_fail(assoc, -err, "cannot connect to %s: %s", assoc->name, strerror(-err));
}

/* --- Admin commands, each of which ends in the next step --- */

/* True: the answer is there and counts. */
static bool answered(const struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    const struct vn_assoc *assoc = cmd->owner;
    return fate == VN_FATE_DONE && assoc->state == VN_ASSOC_CONNECTING;
}

static bool succeeded(const struct vn_hcmd *cmd, enum vn_hcmd_fate fate, const char *what) {
    struct vn_assoc *assoc = cmd->owner;
    if (!answered(cmd, fate))
        return false;
    vn_status code = VN_STATUS_CODE(cmd->status);
    if (code)
        vn_assoc_fail(assoc, EPROTO, "%s cannot be used: %s failed with status %x/%02x, %s", assoc->name, what,
                      code >> 8, code & 0xff, vn_assoc_status_name(code));
    return !code;
}

static struct vn_hcmd *fabrics(struct vn_assoc *assoc, uint8_t fctype, uint32_t offset, bool wide,
                               void (*done)(struct vn_hcmd *cmd, enum vn_hcmd_fate fate)) {
    struct vn_hcmd *cmd = vn_assoc_admin(assoc, VN_ADMIN_FABRICS, VN_HCMD_NONE, NULL, 0, done);
    if (cmd) {
        cmd->capsule.pdu.cmd.sqe.nsid = fctype;
        cmd->capsule.pdu.cmd.sqe.cdw10 = wide ? VN_PROPERTY_8_BYTES : 0;
        cmd->capsule.pdu.cmd.sqe.cdw11 = offset;
    }
    return cmd;
}

static void on_cap(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    if (!succeeded(cmd, fate, "reading its capabilities"))
        return;
    uint64_t cap = cmd->result;
    assoc->facts.entries = (uint32_t)(cap & 0xffff) + 1;
    assoc->facts.page_min = 4096u << ((cap >> VN_CAP_MPSMIN_SHIFT) & 0xf);
    assoc->cc = CC_ENABLE | (!(cap & VN_CAP_CSS_NVM) && cap & VN_CAP_CSS_IOCS ? CC_CSS_IOCS : 0);
    if (assoc->facts.entries < 2) {
        vn_assoc_fail(assoc, EPROTO, "%s cannot be used: it has queues of one entry", assoc->name);
        return;
    }
    next_step(assoc);
}

static void on_enabled(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    if (succeeded(cmd, fate, "enabling it"))
        next_step(cmd->owner);
}

static void on_csts(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    if (!succeeded(cmd, fate, "reading its status"))
        return;
    if (cmd->result & VN_CSTS_CFS) {
        vn_assoc_fail(assoc, EIO, "%s cannot be used: its controller has stopped (CSTS.CFS)", assoc->name);
    } else if (cmd->result & VN_CSTS_RDY) {
        next_step(assoc);
    } else { /* not for ever: the association has connect_ms in all */
        vn_timer_arm(assoc->reactor, &assoc->step_timer, assoc->wait_ms * 1000000ull);
        assoc->wait_ms = (uint32_t)vn_min_u64(assoc->wait_ms * 2u, POLL_MS_MAX);
    }
}

void vn_setup_wait_over(struct vn_assoc *assoc) {
    if (assoc->state == VN_ASSOC_CONNECTING && assoc->step == VN_STEP_WAIT)
        run_step(assoc);
}

static void on_id_ctrl(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    if (succeeded(cmd, fate, "Identify") && vn_ident_ctrl(assoc, (const struct vn_id_ctrl *)assoc->page))
        next_step(assoc);
}

static void on_id_ns(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    if (!answered(cmd, fate))
        return;
    if (cmd->status) /* the same as an empty answer: no such namespace */
        memset(assoc->page, 0, VN_ASSOC_PAGE);
    if (vn_ident_ns(assoc, (const struct vn_id_ns *)assoc->page))
        next_step(assoc);
}

/* What older targets do not know is passed over. */
static void on_id_desc(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    if (!answered(cmd, fate))
        return;
    if (!cmd->status)
        vn_ident_desc(assoc, assoc->page);
    next_step(assoc);
}

static void on_id_nvm(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    if (!answered(cmd, fate))
        return;
    if (!cmd->status)
        vn_ident_nvm(assoc, (const struct vn_id_ctrl_nvm *)assoc->page);
    next_step(assoc);
}

static void on_queues(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    if (!succeeded(cmd, fate, "asking for I/O queues"))
        return;
    uint32_t sqs = (uint32_t)(cmd->result & 0xffff) + 1, cqs = (uint32_t)(cmd->result >> 16 & 0xffff) + 1;
    uint64_t granted = vn_min_u64(sqs, cqs);
    assoc->nr_queues = (uint32_t)vn_min_u64(granted, assoc->config->nr_queues);
    next_step(assoc);
}

static void on_events(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    if (answered(cmd, fate))
        next_step(cmd->owner);
}

static void on_ana_log(struct vn_hcmd *cmd, enum vn_hcmd_fate fate) {
    struct vn_assoc *assoc = cmd->owner;
    if (!succeeded(cmd, fate, "reading the ANA log"))
        return;
    assoc->ana = vn_ident_ana(assoc, assoc->log_page);
    next_step(assoc);
}

static void become_ready(struct vn_assoc *assoc) {
    vn_assoc_set_state(assoc, VN_ASSOC_READY);
    assoc->ready_ns = assoc->keep_alive_ns = vn_reactor_now_ns(assoc->reactor);
    if (assoc->config->nsid)
        vn_assoc_arm_event(assoc);
    assoc->ops->ready(assoc);
}

static void connect_io_queues(struct vn_assoc *assoc) {
    uint32_t entries = (uint32_t)vn_min_u64(assoc->config->entries, assoc->facts.entries);
    for (uint32_t i = 1; i <= assoc->nr_queues && assoc->state == VN_ASSOC_CONNECTING; i++)
        open_queue(assoc, i, entries);
}

/* The command of the step that asks one; NULL: the step is done otherwise, or there is nothing to ask. */
static struct vn_hcmd *step_command(struct vn_assoc *assoc) {
    const struct vn_assoc_facts *facts = &assoc->facts;
    uint32_t nsid = assoc->config->nsid;
    struct vn_hcmd *cmd = NULL;
    switch (assoc->step) {
    case VN_STEP_CAP:
        return fabrics(assoc, VN_FCTYPE_PROPERTY_GET, VN_REG_CAP, true, on_cap);
    case VN_STEP_ENABLE:
        cmd = fabrics(assoc, VN_FCTYPE_PROPERTY_SET, VN_REG_CC, false, on_enabled);
        if (cmd)
            cmd->capsule.pdu.cmd.sqe.cdw12 = assoc->cc;
        return cmd;
    case VN_STEP_WAIT:
        return fabrics(assoc, VN_FCTYPE_PROPERTY_GET, VN_REG_CSTS, false, on_csts);
    case VN_STEP_ID_CTRL:
        return vn_assoc_identify_command(assoc, VN_CNS_CTRL, 0, on_id_ctrl);
    case VN_STEP_ID_NS:
        return vn_assoc_identify_command(assoc, VN_CNS_NS, nsid, on_id_ns);
    case VN_STEP_ID_DESC:
        return vn_assoc_identify_command(assoc, VN_CNS_NS_DESC_LIST, nsid, on_id_desc);
    case VN_STEP_ID_NVM:
        return vn_assoc_identify_command(assoc, VN_CNS_IOCS_CTRL, 0, on_id_nvm);
    case VN_STEP_QUEUES:
        cmd = vn_assoc_admin(assoc, VN_ADMIN_SET_FEATURES, VN_HCMD_NONE, NULL, 0, on_queues);
        if (cmd) {
            cmd->capsule.pdu.cmd.sqe.cdw10 = VN_FEAT_NUM_QUEUES;
            cmd->capsule.pdu.cmd.sqe.cdw11 = (assoc->config->nr_queues - 1) * 0x10001u;
        }
        return cmd;
    case VN_STEP_EVENTS:
        if (!(facts->oaes & VN_EVENTS_WANTED))
            return NULL;
        cmd = vn_assoc_admin(assoc, VN_ADMIN_SET_FEATURES, VN_HCMD_NONE, NULL, 0, on_events);
        if (cmd) {
            cmd->capsule.pdu.cmd.sqe.cdw10 = VN_FEAT_ASYNC_EVENT;
            cmd->capsule.pdu.cmd.sqe.cdw11 = facts->oaes & VN_EVENTS_WANTED;
        }
        return cmd;
    case VN_STEP_ANA_LOG:
        return facts->has_ana ? vn_assoc_log_command(assoc, VN_LOG_ANA, on_ana_log) : NULL;
    default:
        return NULL;
    }
}

static void run_step(struct vn_assoc *assoc) {
    if (assoc->step == VN_STEP_CONNECT) {
        open_queue(assoc, 0, VN_ASSOC_ADMIN_ENTRIES);
        return;
    }
    if (assoc->step == VN_STEP_IO_QUEUES) {
        connect_io_queues(assoc);
        return;
    }
    if (assoc->step == VN_STEP_COUNT) {
        become_ready(assoc);
        return;
    }
    struct vn_hcmd *cmd = step_command(assoc);
    if (cmd)
        vn_hcmd_send(cmd);
    else if (assoc->step == VN_STEP_EVENTS || assoc->step == VN_STEP_ANA_LOG)
        next_step(assoc);
    else /* one at a time, of 31 slots; SQ flow control may yet refuse */
        vn_assoc_fail(assoc, EPROTO, "%s does not move on its queue's head", assoc->name);
}

void vn_setup_begin(struct vn_assoc *assoc) {
    assoc->connect_data->cntlid = VN_CNTLID_DYNAMIC;
    assoc->step = VN_STEP_CONNECT;
    assoc->wait_ms = 1;
    run_step(assoc);
}
