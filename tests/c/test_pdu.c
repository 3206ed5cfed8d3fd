/* PDU headers: every type with every length, offset and flag that is a little wrong, and with random ones; what a check
 * lets pass is safe to use. Headers of our own pass the peer's check.
 */
#include "core/util.h"
#include "nvmetcp/pdu.h"
#include "vn_test.h"

static struct vn_test_random dice;

static const uint8_t from_host[] = {VN_PDU_IC_REQ, VN_PDU_H2C_TERM, VN_PDU_CMD, VN_PDU_H2C_DATA};
static const uint8_t from_controller[] = {VN_PDU_IC_RESP, VN_PDU_C2H_TERM, VN_PDU_RESP, VN_PDU_C2H_DATA, VN_PDU_R2T};

static struct vn_pdu_rules rules_of(enum vn_pdu_role role) {
    return (struct vn_pdu_rules){
        .role = role, .ready = true, .align = 4, .capsule_data_max = 8192, .data_max = 131072};
}

static void expect(struct vn_pdu_fault fault, enum vn_pdu_fes fes, uint32_t info, int line) {
    if (fault.fes != fes || fault.info != info) {
        fprintf(stderr, "line %d: fault %#x, %u, not %#x, %u\n", line, (unsigned)fault.fes, fault.info, (unsigned)fes, info);
        exit(1);
    }
}
#define EXPECT(fault, fes, info) expect(fault, fes, info, __LINE__)

static struct vn_pdu_common head(uint8_t type, uint8_t flags, const struct vn_pdu_rules *rules, uint32_t bytes) {
    struct vn_pdu_common common;
    vn_pdu_head(&common, type, flags, rules->hdgst, rules->ddgst, rules->align, bytes);
    return common;
}

static void test_header_bytes(void) {
    CHECK_EQ(vn_pdu_header_bytes(VN_PDU_IC_REQ), 128);
    CHECK_EQ(vn_pdu_header_bytes(VN_PDU_CMD), 72);
    CHECK_EQ(vn_pdu_header_bytes(VN_PDU_R2T), 24);
    CHECK_EQ(vn_pdu_header_bytes(0x08), 0);
    for (uint32_t type = 0x0a; type < 256; type++)
        CHECK_EQ(vn_pdu_header_bytes((uint8_t)type), 0);
}

/* Types of the wrong direction, of the wrong time, and none at all. */
static void test_types(void) {
    for (int role = VN_PDU_CONTROLLER; role <= VN_PDU_HOST; role++) {
        const uint8_t *wrong = role == VN_PDU_CONTROLLER ? from_controller : from_host;
        size_t nr_wrong = role == VN_PDU_CONTROLLER ? sizeof(from_controller) : sizeof(from_host);
        const uint8_t *right = role == VN_PDU_CONTROLLER ? from_host : from_controller;
        size_t nr_right = role == VN_PDU_CONTROLLER ? sizeof(from_host) : sizeof(from_controller);
        for (int ready = 0; ready < 2; ready++) {
            struct vn_pdu_rules rules = rules_of(role);
            rules.ready = ready;
            for (size_t i = 0; i < nr_wrong; i++) {
                struct vn_pdu_common common = head(wrong[i], 0, &rules, 0);
                EXPECT(vn_pdu_check_common(&rules, &common), VN_FES_INVALID_HEADER, 0);
            }
            EXPECT(vn_pdu_check_common(&rules, &(struct vn_pdu_common){.type = 8, .hlen = 24, .plen = 24}),
                   VN_FES_INVALID_HEADER, 0);
            for (size_t i = 0; i < nr_right; i++) {
                bool ic = right[i] == VN_PDU_IC_REQ || right[i] == VN_PDU_IC_RESP;
                bool term = right[i] == VN_PDU_H2C_TERM || right[i] == VN_PDU_C2H_TERM;
                struct vn_pdu_common common = head(right[i], 0, &rules, right[i] == VN_PDU_H2C_DATA || right[i] == VN_PDU_C2H_DATA);
                EXPECT(vn_pdu_check_common(&rules, &common), term || ic != ready ? VN_FES_NONE : VN_FES_SEQUENCE, 0);
            }
        }
    }
}

/* One field at a time is wrong. */
static void test_fields(void) {
    struct vn_pdu_rules rules = rules_of(VN_PDU_CONTROLLER);
    struct vn_pdu_common common = head(VN_PDU_CMD, 0, &rules, 0);
    for (uint32_t hlen = 0; hlen < 256; hlen++) {
        common.hlen = (uint8_t)hlen;
        EXPECT(vn_pdu_check_common(&rules, &common), hlen == 72 ? VN_FES_NONE : VN_FES_INVALID_HEADER, hlen == 72 ? 0 : 2);
    }
    common.hlen = 72;
    for (uint32_t flags = 1; flags < 256; flags++) {
        common.flags = (uint8_t)flags;
        EXPECT(vn_pdu_check_common(&rules, &common), VN_FES_INVALID_HEADER, 1);
    }
    common.flags = 0;
    common.pdo = 72; /* and no data */
    EXPECT(vn_pdu_check_common(&rules, &common), VN_FES_INVALID_HEADER, 3);
    for (uint32_t plen = 0; plen < 90; plen++) { /* it is 72 or more than the data's offset */
        common.plen = plen;
        common.pdo = plen == 72 ? 0 : 72;
        bool good = plen >= 72;
        EXPECT(vn_pdu_check_common(&rules, &common), good ? VN_FES_NONE : VN_FES_INVALID_HEADER, good ? 0 : 4);
    }
    common = head(VN_PDU_CMD, 0, &rules, 8192);
    EXPECT(vn_pdu_check_common(&rules, &common), VN_FES_NONE, 0);
    CHECK_EQ(vn_pdu_data_bytes(&rules, &common), 8192);
    common.plen++;
    EXPECT(vn_pdu_check_common(&rules, &common), VN_FES_INVALID_HEADER, 4);
    common.plen = UINT32_MAX;
    EXPECT(vn_pdu_check_common(&rules, &common), VN_FES_INVALID_HEADER, 4);
    rules.align = 64;
    common = head(VN_PDU_H2C_DATA, VN_PDU_F_LAST, &rules, 131072);
    CHECK_EQ(common.pdo, 64);
    EXPECT(vn_pdu_check_common(&rules, &common), VN_FES_NONE, 0);
    common.plen++;
    EXPECT(vn_pdu_check_common(&rules, &common), VN_FES_DATA_LIMIT, 0);
    for (uint32_t pdo = 0; pdo < 256; pdo++) {
        common.pdo = (uint8_t)pdo;
        common.plen = pdo + 512;
        bool good = pdo >= 24 && pdo % 64 == 0;
        EXPECT(vn_pdu_check_common(&rules, &common), good ? VN_FES_NONE : VN_FES_INVALID_HEADER, good ? 0 : 3);
    }
    common.pdo = 64;
    common.plen = 64; /* data PDUs have data */
    EXPECT(vn_pdu_check_common(&rules, &common), VN_FES_INVALID_HEADER, 4);
}

static void test_digest_flags(void) {
    for (int digests = 0; digests < 4; digests++) {
        struct vn_pdu_rules rules = rules_of(VN_PDU_HOST), others = rules;
        rules.hdgst = digests & 1;
        rules.ddgst = digests & 2;
        for (int sent = 0; sent < 4; sent++) {
            others.hdgst = sent & 1;
            others.ddgst = sent & 2;
            struct vn_pdu_common common = head(VN_PDU_C2H_DATA, VN_PDU_F_LAST, &others, 4096);
            EXPECT(vn_pdu_check_common(&rules, &common), sent == digests ? VN_FES_NONE : VN_FES_INVALID_HEADER,
                   sent == digests ? 0 : 1);
            common = head(VN_PDU_RESP, 0, &others, 0);
            CHECK_EQ(common.plen, 24 + 4 * (sent & 1));
            bool good = (sent & 1) == (digests & 1);
            EXPECT(vn_pdu_check_common(&rules, &common), good ? VN_FES_NONE : VN_FES_INVALID_HEADER, good ? 0 : 1);
        }
        struct vn_pdu_common success = head(VN_PDU_C2H_DATA, VN_PDU_F_SUCCESS, &rules, 512);
        EXPECT(vn_pdu_check_common(&rules, &success), VN_FES_INVALID_HEADER, 1); /* not without LAST */
    }
}

static void test_ic(void) {
    struct vn_pdu_rules rules = rules_of(VN_PDU_CONTROLLER);
    union vn_pdu pdu = {0};
    vn_pdu_head(&pdu.common, VN_PDU_IC_REQ, 0, true, true, 128, 0);
    CHECK(pdu.common.plen == 128 && !pdu.common.flags && !pdu.common.pdo);
    pdu.ic_req.maxr2t = UINT32_MAX;
    pdu.ic_req.digest = 0xff;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_NONE, 0);
    pdu.ic_req.hpda = 32;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_INVALID_HEADER, 10);
    pdu.ic_req.pfv = 1;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_UNSUPPORTED, 8);
    rules = rules_of(VN_PDU_HOST);
    pdu.ic_resp = (struct vn_pdu_ic_resp){.maxh2cdata = 4096, .digest = 3, .cpda = 31};
    vn_pdu_head(&pdu.common, VN_PDU_IC_RESP, 0, false, false, 4, 0);
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_NONE, 0);
    pdu.ic_resp.maxh2cdata = 4092;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_INVALID_HEADER, 12);
    pdu.ic_resp.maxh2cdata = 4098;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_INVALID_HEADER, 12);
    pdu.ic_resp.digest = 4;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_INVALID_HEADER, 11);
    pdu.ic_resp.cpda = 32;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_INVALID_HEADER, 10);
}

static void test_ranges(void) {
    struct vn_pdu_rules rules = rules_of(VN_PDU_CONTROLLER);
    union vn_pdu pdu = {.data = {.datal = 512}};
    pdu.common = head(VN_PDU_H2C_DATA, 0, &rules, 512);
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_NONE, 0);
    pdu.data.datal = 511;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_INVALID_HEADER, 16);
    pdu.data.datal = 512;
    pdu.data.datao = 2;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_INVALID_HEADER, 12);
    pdu.data.datao = UINT32_MAX - 511;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_DATA_RANGE, 0);
    rules = rules_of(VN_PDU_HOST);
    pdu.common = head(VN_PDU_R2T, 0, &rules, 0);
    pdu.r2t.r2to = 131072 - 512;
    pdu.r2t.r2tl = 512;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_NONE, 0);
    pdu.r2t.r2tl = 516;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_DATA_RANGE, 0);
    pdu.r2t.r2tl = UINT32_MAX;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_DATA_RANGE, 0);
    pdu.r2t.r2tl = 0;
    EXPECT(vn_pdu_check(&rules, &pdu), VN_FES_INVALID_HEADER, 16);
}

static void test_term(void) {
    uint8_t offender[200], out[24 + 128];
    memset(offender, 7, sizeof(offender));
    for (int role = VN_PDU_CONTROLLER; role <= VN_PDU_HOST; role++) {
        struct vn_pdu_rules rules = rules_of(role == VN_PDU_CONTROLLER ? VN_PDU_HOST : VN_PDU_CONTROLLER);
        for (uint32_t bytes = 0; bytes <= sizeof(offender); bytes += 8) {
            uint32_t len = vn_pdu_build_term(role, (struct vn_pdu_fault){VN_FES_HEADER_DIGEST, 0x12345678}, offender, bytes, out);
            CHECK_EQ(len, 24 + vn_min_u64(bytes, 128));
            struct vn_pdu_term term;
            memcpy(&term, out, sizeof(term));
            CHECK(term.common.plen == len && term.fes == 3 && term.info[0] == 0x78 && term.info[3] == 0x12);
            CHECK(!memcmp(out + 24, offender, len - 24));
            EXPECT(vn_pdu_check_common(&rules, &term.common), VN_FES_NONE, 0);
            CHECK_EQ(vn_pdu_data_bytes(&rules, &term.common), len - 24);
        }
    }
    CHECK_SAYS(vn_pdu_fes_name(VN_FES_HEADER_DIGEST), "header digest");
    CHECK_SAYS(vn_pdu_fes_name((enum vn_pdu_fes)99), "unknown");
}

/* Whatever passes: the parts add up to the whole, within the bounds. And our own headers pass. */
static void test_random(void) {
    uint32_t nr_passed = 0;
    for (uint32_t round = 0; round < 300000; round++) {
        uint64_t draw = vn_test_draw(&dice);
        struct vn_pdu_rules rules = rules_of(draw & 1);
        rules.ready = draw & 6;
        rules.hdgst = draw & 8;
        rules.ddgst = draw & 16;
        rules.align = (uint8_t)(4 * (1 + (draw >> 8 & 31)));
        const uint8_t *types = rules.role == VN_PDU_CONTROLLER ? from_host : from_controller;
        uint8_t type = types[(draw >> 16) % (rules.role == VN_PDU_CONTROLLER ? sizeof(from_host) : sizeof(from_controller))];
        struct vn_pdu_common common = head(type, 0, &rules, (uint32_t)(draw >> 32) % 140000 * (draw >> 24 & 1));
        uint8_t *bytes = (uint8_t *)&common;
        uint64_t where = vn_test_draw(&dice);
        if (where & 3)
            bytes[where >> 8 & 7] ^= (uint8_t)(1 << (where >> 16 & 7));
        struct vn_pdu_fault fault = vn_pdu_check_common(&rules, &common);
        if (fault.fes)
            continue;
        nr_passed++;
        bool term = common.type == VN_PDU_H2C_TERM || common.type == VN_PDU_C2H_TERM;
        bool ic = common.type == VN_PDU_IC_REQ || common.type == VN_PDU_IC_RESP;
        uint32_t data = vn_pdu_data_bytes(&rules, &common);
        uint32_t header = common.hlen + (rules.hdgst && !term && !ic ? 4u : 0);
        uint32_t before = data && !term ? common.pdo : header;
        CHECK(before >= header && before <= 252);
        CHECK_EQ((uint64_t)before + data + (data && rules.ddgst && !term ? 4 : 0), common.plen);
        CHECK(data <= (term ? 128 : common.type == VN_PDU_CMD ? rules.capsule_data_max : rules.data_max));
        CHECK_EQ(common.hlen, vn_pdu_header_bytes(common.type));
    }
    CHECK(nr_passed > 20000);
}

int main(void) {
    dice = vn_test_seed();
    test_header_bytes();
    test_types();
    test_fields();
    test_digest_flags();
    test_ic();
    test_ranges();
    test_term();
    test_random();
    printf("ok\n");
    return 0;
}
