/* PDU headers: which are possible, for both ends of a connection. Called by conn.c, and by whoever builds a header.
 * Everything here is said of one header alone; what depends on a command is its owner's to check.
 */
#include "nvmetcp/pdu.h"

#include <string.h>

#include "core/util.h"

#define ALIGN_MIN 4u
#define PDA_MAX 31u /* of HPDA and CPDA: 128 bytes */
#define MAXH2CDATA_MIN 4096u

struct kind {
    uint8_t hlen; /* 0: no such type */
    uint8_t from; /* who sends it */
    uint8_t flags; /* that may be set */
    bool data;
};

enum { FROM_HOST, FROM_CONTROLLER };

static const struct kind kinds[] = {
    [VN_PDU_IC_REQ] = {sizeof(struct vn_pdu_ic_req), FROM_HOST, 0, false},
    [VN_PDU_IC_RESP] = {sizeof(struct vn_pdu_ic_resp), FROM_CONTROLLER, 0, false},
    [VN_PDU_H2C_TERM] = {sizeof(struct vn_pdu_term), FROM_HOST, 0, false},
    [VN_PDU_C2H_TERM] = {sizeof(struct vn_pdu_term), FROM_CONTROLLER, 0, false},
    [VN_PDU_CMD] = {sizeof(struct vn_pdu_cmd), FROM_HOST, VN_PDU_F_HDGST | VN_PDU_F_DDGST, true},
    [VN_PDU_RESP] = {sizeof(struct vn_pdu_resp), FROM_CONTROLLER, VN_PDU_F_HDGST, false},
    [VN_PDU_H2C_DATA] = {sizeof(struct vn_pdu_data), FROM_HOST, VN_PDU_F_HDGST | VN_PDU_F_DDGST | VN_PDU_F_LAST, true},
    [VN_PDU_C2H_DATA] = {sizeof(struct vn_pdu_data), FROM_CONTROLLER,
                         VN_PDU_F_HDGST | VN_PDU_F_DDGST | VN_PDU_F_LAST | VN_PDU_F_SUCCESS, true},
    [VN_PDU_R2T] = {sizeof(struct vn_pdu_r2t), FROM_CONTROLLER, VN_PDU_F_HDGST, false},
};

static bool is_ic(uint8_t type) {
    return type == VN_PDU_IC_REQ || type == VN_PDU_IC_RESP;
}

static bool is_term(uint8_t type) {
    return type == VN_PDU_H2C_TERM || type == VN_PDU_C2H_TERM;
}

static struct vn_pdu_fault fault(enum vn_pdu_fes fes, uint32_t info) {
    return (struct vn_pdu_fault){.fes = fes, .info = info};
}

#define FINE fault(VN_FES_NONE, 0)
#define BAD_COMMON(field) fault(VN_FES_INVALID_HEADER, offsetof(struct vn_pdu_common, field))

uint32_t vn_pdu_header_bytes(uint8_t type) {
    return type < VN_ARRAY_SIZE(kinds) ? kinds[type].hlen : 0;
}

/* Data may only be as far from the start, and as long, as was agreed on (TCP 3.6.1, 3.6.2). */
static struct vn_pdu_fault check_data(const struct vn_pdu_rules *rules, const struct vn_pdu_common *common,
                                      uint32_t header) {
    bool is_command = common->type == VN_PDU_CMD;
    if (is_command && common->plen == header) /* no data in the capsule */
        return common->flags & VN_PDU_F_DDGST ? BAD_COMMON(flags) : common->pdo ? BAD_COMMON(pdo) : FINE;
    if (common->pdo < header || common->pdo % (rules->align > ALIGN_MIN ? rules->align : ALIGN_MIN))
        return BAD_COMMON(pdo);
    if (!(common->flags & VN_PDU_F_DDGST) != !rules->ddgst)
        return BAD_COMMON(flags);
    uint32_t around = common->pdo + (rules->ddgst ? VN_PDU_DIGEST_BYTES : 0);
    if (common->plen <= around)
        return BAD_COMMON(plen);
    uint32_t data = common->plen - around;
    if (data > (is_command ? rules->capsule_data_max : rules->data_max))
        return is_command                             ? BAD_COMMON(plen)
               : rules->role == VN_PDU_CONTROLLER ? fault(VN_FES_DATA_LIMIT, 0)
                                                      : fault(VN_FES_DATA_RANGE, 0);
    return FINE;
}

struct vn_pdu_fault vn_pdu_check_common(const struct vn_pdu_rules *rules, const struct vn_pdu_common *common) {
    uint32_t hlen = vn_pdu_header_bytes(common->type);
    if (!hlen)
        return BAD_COMMON(type);
    const struct kind *kind = &kinds[common->type];
    if (kind->from != (rules->role == VN_PDU_CONTROLLER ? FROM_HOST : FROM_CONTROLLER))
        return BAD_COMMON(type);
    if (!is_term(common->type) && is_ic(common->type) == rules->ready)
        return fault(VN_FES_SEQUENCE, 0);
    if (common->hlen != hlen)
        return BAD_COMMON(hlen);
    if (common->flags & ~kind->flags)
        return BAD_COMMON(flags);
    if (is_ic(common->type) || is_term(common->type)) { /* never with digests */
        uint32_t more = is_term(common->type) ? VN_PDU_TERM_DATA_MAX : 0;
        return common->plen < hlen || common->plen > hlen + more ? BAD_COMMON(plen) : FINE;
    }
    if (!(common->flags & VN_PDU_F_HDGST) != !rules->hdgst)
        return BAD_COMMON(flags);
    if (common->flags & VN_PDU_F_SUCCESS && !(common->flags & VN_PDU_F_LAST))
        return BAD_COMMON(flags);
    uint32_t header = hlen + (rules->hdgst ? VN_PDU_DIGEST_BYTES : 0);
    if (kind->data)
        return check_data(rules, common, header);
    if (common->pdo)
        return BAD_COMMON(pdo);
    return common->plen == header ? FINE : BAD_COMMON(plen);
}

#define BAD_FIELD(type, field) fault(VN_FES_INVALID_HEADER, offsetof(type, field))

static struct vn_pdu_fault check_ic_resp(const struct vn_pdu_ic_resp *ic) {
    if (ic->pfv)
        return fault(VN_FES_UNSUPPORTED, offsetof(struct vn_pdu_ic_resp, pfv));
    if (ic->cpda > PDA_MAX)
        return BAD_FIELD(struct vn_pdu_ic_resp, cpda);
    if (ic->digest & ~(VN_IC_DIGEST_HEADER | VN_IC_DIGEST_DATA))
        return BAD_FIELD(struct vn_pdu_ic_resp, digest);
    if (ic->maxh2cdata < MAXH2CDATA_MIN || ic->maxh2cdata % 4)
        return BAD_FIELD(struct vn_pdu_ic_resp, maxh2cdata);
    return FINE;
}

/* A range of a command's data: dword-aligned, not empty, without overflow. */
static struct vn_pdu_fault check_range(const struct vn_pdu_rules *rules, uint32_t offset, uint32_t bytes,
                                       uint32_t offset_field, uint32_t bytes_field) {
    if (offset % 4)
        return fault(VN_FES_INVALID_HEADER, offset_field);
    if (!bytes)
        return fault(VN_FES_INVALID_HEADER, bytes_field);
    if (bytes > UINT32_MAX - offset)
        return fault(VN_FES_DATA_RANGE, 0);
    /* what a controller sends or asks for lies within what a command may have */
    if (rules->role == VN_PDU_HOST && (bytes > rules->data_max || offset > rules->data_max - bytes))
        return fault(VN_FES_DATA_RANGE, 0);
    return FINE;
}

struct vn_pdu_fault vn_pdu_check(const struct vn_pdu_rules *rules, const union vn_pdu *pdu) {
    switch (pdu->common.type) {
    case VN_PDU_IC_REQ: /* reserved bits of the digests: we do not agree to them, and that is enough */
        if (pdu->ic_req.pfv)
            return fault(VN_FES_UNSUPPORTED, offsetof(struct vn_pdu_ic_req, pfv));
        return pdu->ic_req.hpda > PDA_MAX ? BAD_FIELD(struct vn_pdu_ic_req, hpda) : FINE;
    case VN_PDU_IC_RESP:
        return check_ic_resp(&pdu->ic_resp);
    case VN_PDU_H2C_DATA:
    case VN_PDU_C2H_DATA:
        if (pdu->data.datal != vn_pdu_data_bytes(rules, &pdu->common))
            return BAD_FIELD(struct vn_pdu_data, datal);
        return check_range(rules, pdu->data.datao, pdu->data.datal, offsetof(struct vn_pdu_data, datao),
                           offsetof(struct vn_pdu_data, datal));
    case VN_PDU_R2T:
        return check_range(rules, pdu->r2t.r2to, pdu->r2t.r2tl, offsetof(struct vn_pdu_r2t, r2to),
                           offsetof(struct vn_pdu_r2t, r2tl));
    default:
        return FINE;
    }
}

uint32_t vn_pdu_data_bytes(const struct vn_pdu_rules *rules, const struct vn_pdu_common *common) {
    if (is_term(common->type))
        return common->plen - common->hlen;
    if (!vn_pdu_header_bytes(common->type) || !kinds[common->type].data || !common->pdo)
        return 0;
    return common->plen - common->pdo - (rules->ddgst ? VN_PDU_DIGEST_BYTES : 0);
}

void vn_pdu_head(struct vn_pdu_common *common, enum vn_pdu_type type, uint8_t flags, bool hdgst, bool ddgst,
                 uint8_t align, uint32_t data_bytes) {
    uint32_t hlen = vn_pdu_header_bytes(type);
    hdgst = hdgst && !is_ic(type) && !is_term(type);
    ddgst = ddgst && data_bytes && !is_term(type);
    uint32_t header = hlen + (hdgst ? VN_PDU_DIGEST_BYTES : 0), at = header;
    if (data_bytes && !is_term(type)) {
        uint32_t unit = align > ALIGN_MIN ? align : ALIGN_MIN;
        at = (header + unit - 1) / unit * unit;
    }
    *common = (struct vn_pdu_common){
        .type = type,
        .flags = (uint8_t)(flags | (hdgst ? VN_PDU_F_HDGST : 0) | (ddgst ? VN_PDU_F_DDGST : 0)),
        .hlen = (uint8_t)hlen,
        .pdo = (uint8_t)(data_bytes && !is_term(type) ? at : 0),
        .plen = at + data_bytes + (ddgst ? VN_PDU_DIGEST_BYTES : 0),
    };
}

uint32_t vn_pdu_build_term(enum vn_pdu_role role, struct vn_pdu_fault why, const void *offender, uint32_t bytes,
                           uint8_t *out) {
    if (bytes > VN_PDU_TERM_DATA_MAX)
        bytes = VN_PDU_TERM_DATA_MAX;
    struct vn_pdu_term term = {.fes = (uint16_t)why.fes};
    vn_pdu_head(&term.common, role == VN_PDU_CONTROLLER ? VN_PDU_C2H_TERM : VN_PDU_H2C_TERM, 0, false, false, 0, bytes);
    memcpy(term.info, &why.info, sizeof(term.info));
    memcpy(out, &term, sizeof(term));
    if (bytes)
        memcpy(out + sizeof(term), offender, bytes);
    return term.common.plen;
}

const char *vn_pdu_fes_name(enum vn_pdu_fes fes) {
    static const char *const names[] = {
        [VN_FES_NONE] = "no fault",
        [VN_FES_INVALID_HEADER] = "an invalid field in a PDU header",
        [VN_FES_SEQUENCE] = "a PDU out of sequence",
        [VN_FES_HEADER_DIGEST] = "a wrong header digest",
        [VN_FES_DATA_RANGE] = "data out of the range of its command",
        [VN_FES_DATA_LIMIT] = "more data, or more transfers, than agreed on",
        [VN_FES_UNSUPPORTED] = "an unsupported parameter",
    };
    return (uint32_t)fes < VN_ARRAY_SIZE(names) ? names[fes] : "an unknown reason";
}
