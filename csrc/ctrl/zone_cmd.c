/* I/O commands of zoned namespaces (Zoned Namespace Command Set 3): reads go anywhere, writes where their zone's write pointer
 * is. A write moves the pointer when it begins, so that the next one may come before it ends; what is kept follows at its end.
 * One that fails leaves its blocks behind the pointer, as whatever the backend made of them. Called by io_cmd.c.
 */
#include "ctrl/zone_cmd.h"

#include "core/status.h"
#include "core/util.h"

#define CSS_ALL 6u /* CC.CSS: all command sets */
#define APPEND_PIREMAP (1u << 25)

/* --- Waiting for a zone that is being reset --- */
static void execute_again(struct vn_req *req) {
    vn_status status = vn_zone_execute(req);
    if (status)
        vn_ctrl_end(req, status);
}

void vn_zone_wait(struct vn_req *req) {
    vn_ctrl_resume_later(req, execute_again);
}

/* --- Writes --- */
/* It is the zone that has failed when a write does and the namespace as a whole goes on. */
static bool is_broken(const struct vn_req *req) {
    return VN_STATUS_CODE(req->status) == VN_SC_WRITE_FAULT && !req->cancelled && !vn_backend_latched(req->ns->ns->backend);
}

static void on_write_end(struct vn_req *req, void *arg) {
    const struct vn_ns *ns = req->ns->ns;
    uint64_t slba = req->offset >> ns->block_shift;
    (void)arg;
    if (vn_zones_end_write(vn_zones_of(req), slba, req->length >> ns->block_shift, is_broken(req)))
        vn_zone_tell(req, vn_zones_index(vn_zones_of(req), slba));
    vn_req_complete(req, req->status);
}

vn_status vn_zone_begin_write(struct vn_req *req, uint64_t slba, uint64_t nlb) {
    vn_status status = vn_zones_begin_write(vn_zones_of(req), slba, nlb);
    if (!status)
        vn_req_push(req, on_write_end, NULL);
    return status;
}

/* What is refused of a write before its zone is looked at; the data is where it can be had. */
static vn_status prepare_write(struct vn_req *req, enum vn_op op, uint32_t bytes_max) {
    req->op = op;
    vn_status status = vn_io_take_range(req);
    if (status)
        return status;
    if (req->ns->ns->read_only)
        return VN_SC_NS_WRITE_PROTECTED;
    if (op == VN_OP_WRITE_ZEROES) {
        req->io_flags |= req->cmd.cdw12 & VN_RW_DEAC ? VN_REQ_MAY_UNMAP : 0;
        return VN_SC_SUCCESS;
    }
    if (req->length > bytes_max)
        return VN_SC_INVALID_FIELD;
    return req->ctrl->door->map(req, (uint32_t)req->length);
}

/* Write Uncorrectable (NVM Command Set 3.2.7) is a write without data. */
static vn_status write_uncorrectable(struct vn_req *req) {
    uint64_t slba = vn_io_slba(&req->cmd);
    uint32_t nlb = VN_RW_NLB(req->cmd.cdw12);
    if (!vn_ns_has_blocks(req->ns->ns, slba, nlb) || req->ns->ns->read_only)
        return vn_io_run(req); /* refuses it */
    if (vn_zones_is_held(vn_zones_of(req), slba, nlb)) {
        vn_zone_wait(req);
        return VN_SC_SUCCESS;
    }
    vn_status status = vn_zone_begin_write(req, slba, nlb);
    return status ? status : vn_io_run(req);
}

static vn_status write_at(struct vn_req *req, enum vn_op op) {
    vn_status status = prepare_write(req, op, vn_ctrl_max_transfer(req->ctrl));
    uint32_t nlb = VN_RW_NLB(req->cmd.cdw12);
    if (status)
        return status;
    if (vn_zones_is_held(vn_zones_of(req), vn_io_slba(&req->cmd), nlb)) {
        vn_zone_wait(req);
        return VN_SC_SUCCESS;
    }
    status = vn_zone_begin_write(req, vn_io_slba(&req->cmd), nlb);
    if (!status)
        vn_io_submit(req);
    return status;
}

/* --- Zone Append (3.4.1): a write whose place the answer tells --- */
static void on_append_end(struct vn_req *req, void *arg) {
    uint64_t slba = req->offset >> req->ns->ns->block_shift;
    if (!req->status) {
        req->result = (uint32_t)slba;
        req->result_high = (uint32_t)(slba >> 32);
    }
    on_write_end(req, arg);
}

static vn_status append(struct vn_req *req) {
    const struct vn_ns *ns = req->ns->ns;
    struct vn_zones *zones = vn_zones_of(req);
    uint64_t zslba = vn_io_slba(&req->cmd), slba;
    uint32_t nlb = VN_RW_NLB(req->cmd.cdw12);
    vn_status status = prepare_write(req, VN_OP_WRITE, vn_zone_append_limit(req->ctrl, ns));
    if (status)
        return status;
    if (vn_zones_start(zones, vn_zones_index(zones, zslba)) != zslba || (req->cmd.cdw12 & APPEND_PIREMAP)) {
        req->error_location = 40; /* CDW10 */
        return VN_SC_INVALID_FIELD;
    }
    if (vn_zones_is_held(zones, zslba, 1)) {
        vn_zone_wait(req);
        return VN_SC_SUCCESS;
    }
    status = vn_zones_begin_append(zones, zslba, nlb, &slba);
    if (status)
        return status;
    req->offset = slba << ns->block_shift;
    vn_req_push(req, on_append_end, NULL);
    vn_io_submit(req);
    return VN_SC_SUCCESS;
}

/* --- Commands that read --- */
static vn_status read_any(struct vn_req *req) {
    uint64_t slba = vn_io_slba(&req->cmd);
    uint32_t nlb = VN_RW_NLB(req->cmd.cdw12);
    if (!vn_ns_has_blocks(req->ns->ns, slba, nlb)) {
        req->error_location = 40; /* CDW10 */
        return VN_SC_LBA_RANGE;
    }
    if (vn_zones_is_held(vn_zones_of(req), slba, nlb)) {
        vn_zone_wait(req);
        return VN_SC_SUCCESS;
    }
    vn_status status = vn_zones_check_read(vn_zones_of(req), slba, nlb);
    return status ? status : vn_io_run(req);
}

static vn_status write_blocks(struct vn_req *req) {
    return write_at(req, VN_OP_WRITE);
}

static vn_status write_zeroes(struct vn_req *req) {
    return write_at(req, VN_OP_WRITE_ZEROES);
}

/* --- Which commands zones have a say in; Copy asks about its destination. Flush, Dataset Management, reservations: as ever --- */
static const struct zone_command {
    uint8_t opcode;
    uint32_t effects; /* of those that only zoned namespaces have */
    vn_status (*run)(struct vn_req *req);
} commands[] = {
    {VN_IO_READ, 0, read_any},
    {VN_IO_WRITE, 0, write_blocks},
    {VN_IO_ZONE_APPEND, VN_EFFECT_CSUPP | VN_EFFECT_LBCC, append},
    {VN_IO_WRITE_UNCORRECTABLE, 0, write_uncorrectable},
    {VN_IO_COMPARE, 0, read_any},
    {VN_IO_WRITE_ZEROES, 0, write_zeroes},
    {VN_IO_VERIFY, 0, read_any},
    {VN_IO_ZONE_SEND, VN_EFFECT_CSUPP | VN_EFFECT_LBCC, vn_zone_send},
    {VN_IO_ZONE_RECEIVE, VN_EFFECT_CSUPP, vn_zone_receive},
};

static const struct zone_command *find(uint8_t opcode) {
    for (size_t i = 0; i < VN_ARRAY_SIZE(commands); i++) {
        if (commands[i].opcode == opcode)
            return &commands[i];
    }
    return NULL;
}

uint32_t vn_zone_effects(uint8_t opcode) {
    const struct zone_command *command = find(opcode);
    return command ? command->effects : 0;
}

vn_status vn_zone_execute(struct vn_req *req) {
    if (VN_CC_CSS(req->ctrl->cc) != CSS_ALL)
        return VN_SC_IOCS_NOT_ENABLED;
    const struct zone_command *command = find(req->cmd.opcode);
    return command ? command->run(req) : vn_io_run(req);
}
