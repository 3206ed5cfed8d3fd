/* DH-HMAC-CHAP: both roles against each other, and each against peers that lie, repeat, reflect, cut short or come out of turn.
 * Random are only challenges and exponents: no verdict depends on them.
 */
#include "nvmetcp/auth.h"

#include <errno.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>

#include "core/util.h"
#include "nvmetcp/auth_math.h"
#include "vn_test.h"

#define HOST "nqn.2014-08.org.nvmexpress:uuid:host"
#define SUB "nqn.2026-11.example:disk"

enum { NEGOTIATE, CHALLENGE, REPLY, SUCCESS1, SUCCESS2, NR_MESSAGES };

struct message {
    uint8_t data[VN_AUTH_MESSAGE_MAX];
    uint32_t bytes; /* that were meant; what a target gives is followed by zeros */
};

struct dance {
    struct vn_auth host, target;
    struct message messages[NR_MESSAGES];
    uint32_t nr_messages;
    /* What to do to one message on its way. */
    int victim;
    uint32_t flip_at, cut_to;
    uint8_t flip;
};

static struct vn_auth_key key_of(uint8_t seed) {
    struct vn_auth_key key = {.bytes = 32};
    memset(key.secret, seed, key.bytes);
    return key;
}

static void open_dance(struct dance *dance, uint32_t hash, uint32_t group, bool both) {
    struct vn_auth_key host_key = key_of(1), ctrl_key = key_of(2);
    struct vn_auth_opts opts = {.hostnqn = HOST, .subnqn = SUB, .host_key = &host_key, .t_id = 0x1234};
    opts.ctrl_key = &ctrl_key;
    memset(dance, 0, sizeof(*dance));
    dance->victim = -1;
    CHECK_EQ(vn_auth_init(&dance->target, &opts), 0);
    opts.ctrl_key = both ? &ctrl_key : NULL;
    opts.hashes = 1u << hash;
    opts.groups = 1u << group;
    CHECK_EQ(vn_auth_init(&dance->host, &opts), 0);
}

static void close_dance(struct dance *dance) {
    vn_auth_fini(&dance->host);
    vn_auth_fini(&dance->target);
}

static uint32_t meant(const struct message *message) {
    const uint8_t *data = message->data;
    uint32_t hl = data[6];
    if (data[0] == VN_AUTH_DHCHAP && data[1] == VN_AUTH_CHALLENGE)
        return 16 + hl + (data[10] | (uint32_t)data[11] << 8);
    if (data[0] == VN_AUTH_DHCHAP && data[1] == VN_AUTH_SUCCESS1)
        return 16 + hl;
    return 8;
}

static void spoil(struct dance *dance, struct message *message) {
    uint32_t number = dance->nr_messages++;
    if (dance->victim != (int)number)
        return;
    message->data[dance->flip_at] ^= dance->flip;
    if (dance->cut_to) {
        memset(message->data + dance->cut_to, 0, message->bytes - dance->cut_to);
        message->bytes = dance->cut_to;
    }
}

/* Until one of them has nothing more to do. */
static void run(struct dance *dance) {
    struct message spare, *message;
    for (uint32_t i = 0; i < NR_MESSAGES + 1; i++) {
        message = i < NR_MESSAGES ? &dance->messages[i] : &spare;
        switch (vn_auth_host_next(&dance->host)) {
        case VN_AUTH_SEND:
            message->bytes = vn_auth_host_give(&dance->host, message->data);
            CHECK(message->bytes >= 8 && message->bytes <= 1168);
            spoil(dance, message);
            if (!vn_auth_target_take(&dance->target, message->data, message->bytes))
                return;
            break;
        case VN_AUTH_RECEIVE:
            if (!vn_auth_target_give(&dance->target, message->data, sizeof(message->data)))
                return;
            message->bytes = meant(message);
            spoil(dance, message);
            vn_auth_host_take(&dance->host, message->data, dance->cut_to && dance->victim == (int)i ? message->bytes : 4096);
            break;
        case VN_AUTH_FINISHED:
            return;
        }
    }
}

static void test_every_pair_of_hash_and_group(void) {
    static struct dance dance;
    for (uint32_t hash = VN_AUTH_SHA256; hash <= VN_AUTH_SHA512; hash++) {
        for (uint32_t group = VN_AUTH_NULL; group <= VN_AUTH_FFDHE8192; group++) {
            bool both = (hash + group) % 2;
            open_dance(&dance, hash, group, both);
            run(&dance);
            CHECK_EQ(dance.host.verdict, VN_AUTH_PROVED);
            CHECK_EQ(dance.target.verdict, VN_AUTH_PROVED);
            CHECK_EQ(dance.nr_messages, both ? 5 : 4);
            CHECK_EQ(dance.target.hash, hash);
            CHECK_EQ(dance.target.group, group);
            /* Again on the same queue. */
            struct vn_auth_opts opts = {.hostnqn = HOST, .subnqn = SUB, .host_key = &dance.target.host_key, .t_id = 7};
            opts.hashes = 1u << hash;
            vn_auth_fini(&dance.host);
            CHECK_EQ(vn_auth_init(&dance.host, &opts), 0);
            dance.nr_messages = 0;
            run(&dance);
            CHECK_EQ(dance.host.verdict, VN_AUTH_PROVED);
            CHECK_EQ(dance.target.verdict, VN_AUTH_PROVED);
            CHECK_EQ(dance.target.group, VN_AUTH_FFDHE3072); /* of all, the one that we would rather have */
            close_dance(&dance);
        }
    }
}

/* Bytes that a receiver does not read. */
static bool reserved(int victim, uint32_t at, bool both, uint32_t hl) {
    if (at == 2 || at == 3)
        return true;
    switch (victim) {
    case CHALLENGE:
        return at == 7;
    case REPLY:
        return at == 7 || at == 9 || (!both && at >= 12 && at < 16) || (!both && at >= 16 + hl && at < 16 + 2 * hl);
    case SUCCESS1:
        return at == 7 || at >= (both ? 16 + hl : 16) || (at >= 9 && at < 16) || (!both && at == 6);
    case SUCCESS2:
        return at >= 6;
    default:
        return false;
    }
}

static void flip_one(uint32_t group, bool both, int victim, uint32_t at) {
    static struct dance dance;
    open_dance(&dance, VN_AUTH_SHA256, group, both);
    dance.victim = victim;
    dance.flip_at = at;
    dance.flip = 0x40;
    run(&dance);
    bool from_host = victim == REPLY || victim == SUCCESS2 || victim == NEGOTIATE;
    const struct vn_auth *receiver = from_host ? &dance.target : &dance.host;
    const struct vn_auth *sender = from_host ? &dance.host : &dance.target;
    if (victim == NEGOTIATE) {
        /* An offer proves nothing, and what it says of keys is checked later: both or neither. */
        CHECK_EQ(receiver->verdict == VN_AUTH_PROVED, sender->verdict == VN_AUTH_PROVED);
    } else if (reserved(victim, at, both, 32)) {
        CHECK_EQ(receiver->verdict, VN_AUTH_PROVED);
    } else {
        /* The target sees a wrong S2 or C2 by what the host then says of its proof. */
        if (receiver->verdict != VN_AUTH_REFUSED)
            fprintf(stderr, "message %d, byte %u, group %u, both %d\n", victim, at, group, both);
        CHECK_EQ(receiver->verdict, VN_AUTH_REFUSED);
    }
    close_dance(&dance);
}

static void test_every_byte_of_every_message_counts(void) {
    static struct dance dance;
    for (int both = 0; both < 2; both++) {
        for (uint32_t group = 0; group < 2; group++) {
            open_dance(&dance, VN_AUTH_SHA256, group, both);
            run(&dance);
            uint32_t nr_messages = dance.nr_messages, bytes[NR_MESSAGES];
            for (uint32_t i = 0; i < nr_messages; i++)
                bytes[i] = dance.messages[i].bytes;
            close_dance(&dance);
            for (uint32_t victim = 0; victim < nr_messages; victim++)
                for (uint32_t at = 0; at < bytes[victim]; at += group && at >= 16 ? 17 : 1)
                    flip_one(group, both, (int)victim, at);
        }
    }
}

static void test_every_length_counts(void) {
    static struct dance dance;
    static const uint32_t full[] = {72, 48, 80, 48, 8};
    for (int victim = 0; victim < NR_MESSAGES; victim++) {
        for (uint32_t bytes = 1; bytes < full[victim]; bytes++) {
            open_dance(&dance, VN_AUTH_SHA256, VN_AUTH_NULL, true);
            dance.victim = victim;
            dance.cut_to = bytes;
            run(&dance);
            /* SUCCESS2 has nothing behind its head. */
            if (victim == SUCCESS2 && bytes >= 6)
                CHECK_EQ(dance.target.verdict, VN_AUTH_PROVED);
            else
                CHECK_EQ(dance.target.verdict, VN_AUTH_REFUSED);
            if (victim != SUCCESS2)
                CHECK_EQ(dance.host.verdict, VN_AUTH_REFUSED);
            close_dance(&dance);
        }
    }
}

static void test_wrong_keys(void) {
    static struct dance dance;
    for (uint32_t group = 0; group < 2; group++) {
        open_dance(&dance, VN_AUTH_SHA512, group, true);
        dance.host.host_key = key_of(9);
        run(&dance);
        CHECK_EQ(dance.host.verdict, VN_AUTH_REFUSED);
        CHECK_EQ(dance.target.verdict, VN_AUTH_REFUSED);
        CHECK_SAYS(vn_auth_words(&dance.host), "does not accept our key");
        CHECK_SAYS(vn_auth_words(&dance.target), "not the one that we know");
        close_dance(&dance);

        open_dance(&dance, VN_AUTH_SHA512, group, true);
        dance.target.ctrl_key = key_of(9);
        run(&dance);
        CHECK_EQ(dance.host.verdict, VN_AUTH_REFUSED);
        CHECK_EQ(dance.target.verdict, VN_AUTH_REFUSED);
        CHECK_SAYS(vn_auth_words(&dance.host), "not the one that we know");
        CHECK_SAYS(vn_auth_words(&dance.target), "does not accept our key");
        close_dance(&dance);

        /* A target that has no key of its own cannot satisfy a host that asks for a proof. */
        open_dance(&dance, VN_AUTH_SHA512, group, true);
        dance.target.ctrl_key.bytes = 0;
        run(&dance);
        CHECK_EQ(dance.host.verdict, VN_AUTH_REFUSED);
        CHECK_EQ(dance.target.verdict, VN_AUTH_REFUSED);
        close_dance(&dance);
    }
    /* Other names, same keys. */
    open_dance(&dance, VN_AUTH_SHA256, VN_AUTH_NULL, false);
    dance.host.hostnqn[5] ^= 1;
    run(&dance);
    CHECK_EQ(dance.target.verdict, VN_AUTH_REFUSED);
    close_dance(&dance);
}

static void test_what_was_said_once_is_worth_nothing_later(void) {
    static struct dance old, new;
    open_dance(&old, VN_AUTH_SHA256, VN_AUTH_NULL, true);
    run(&old);
    CHECK_EQ(old.target.verdict, VN_AUTH_PROVED);

    /* The host's reply again, to a target. */
    uint8_t out[VN_AUTH_MESSAGE_MAX];
    open_dance(&new, VN_AUTH_SHA256, VN_AUTH_NULL, true);
    CHECK(vn_auth_target_take(&new.target, old.messages[NEGOTIATE].data, old.messages[NEGOTIATE].bytes));
    CHECK(vn_auth_target_give(&new.target, out, sizeof(out)));
    CHECK(vn_auth_target_take(&new.target, old.messages[REPLY].data, old.messages[REPLY].bytes));
    CHECK_EQ(new.target.verdict, VN_AUTH_REFUSED);
    CHECK(vn_auth_target_give(&new.target, out, sizeof(out)));
    CHECK_EQ(out[1], VN_AUTH_FAILURE1);
    CHECK_EQ(out[7], VN_AUTH_FAILED);
    CHECK_EQ(new.target.state, VN_AUTH_END);
    close_dance(&new);

    /* The target's proof again, to a host: same challenge, so the host answers, but puts another. */
    open_dance(&new, VN_AUTH_SHA256, VN_AUTH_NULL, true);
    vn_auth_host_give(&new.host, out);
    vn_auth_host_take(&new.host, old.messages[CHALLENGE].data, sizeof(out));
    CHECK_EQ(vn_auth_host_next(&new.host), VN_AUTH_SEND);
    vn_auth_host_give(&new.host, out);
    vn_auth_host_take(&new.host, old.messages[SUCCESS1].data, sizeof(out));
    CHECK_EQ(new.host.verdict, VN_AUTH_REFUSED);
    CHECK_EQ(vn_auth_host_next(&new.host), VN_AUTH_SEND);
    CHECK_EQ(vn_auth_host_give(&new.host, out), 8);
    CHECK_EQ(out[1], VN_AUTH_FAILURE2);
    CHECK_EQ(vn_auth_host_next(&new.host), VN_AUTH_FINISHED);
    close_dance(&new);
    close_dance(&old);
}

/* Somebody in the middle sends back what he gets: the target's challenge as the host's, with one key for both ways. */
static void test_reflections(void) {
    static struct dance dance;
    uint8_t out[VN_AUTH_MESSAGE_MAX], *c2 = out + 16 + 32;
    open_dance(&dance, VN_AUTH_SHA256, VN_AUTH_NULL, true);
    dance.host.ctrl_key = dance.target.ctrl_key = dance.host.host_key;
    uint32_t bytes = vn_auth_host_give(&dance.host, out);
    CHECK(vn_auth_target_take(&dance.target, out, bytes));
    CHECK(vn_auth_target_give(&dance.target, out, sizeof(out)));
    vn_auth_host_take(&dance.host, out, sizeof(out));
    bytes = vn_auth_host_give(&dance.host, out);
    memcpy(c2, dance.target.c1, 32);
    CHECK(vn_auth_target_take(&dance.target, out, bytes));
    CHECK_EQ(dance.target.verdict, VN_AUTH_REFUSED);
    close_dance(&dance);

    /* And one key and challenge make two different proofs for the two roles. */
    uint8_t r1[64], r2[64];
    open_dance(&dance, VN_AUTH_SHA256, VN_AUTH_NULL, true);
    dance.host.hash = VN_AUTH_SHA256;
    dance.host.ctrl_key = dance.host.host_key;
    dance.host.s2 = dance.host.s1;
    CHECK(vn_auth_response1(&dance.host, r1) && vn_auth_response2(&dance.host, r2));
    CHECK(memcmp(r1, r2, 32) != 0);
    close_dance(&dance);

    /* A host's own DH value back at it. */
    open_dance(&dance, VN_AUTH_SHA256, VN_AUTH_FFDHE2048, false);
    dance.host.hash = VN_AUTH_SHA256;
    dance.host.group = VN_AUTH_FFDHE2048;
    CHECK(vn_auth_dh_make(&dance.host) && vn_auth_dh_value(&dance.host, out));
    CHECK(!vn_auth_dh_finish(&dance.host, out, 256));
    /* 0, 1, and one that is larger than the prime. */
    memset(out, 0, 256);
    CHECK(!vn_auth_dh_finish(&dance.host, out, 256));
    out[255] = 1;
    CHECK(!vn_auth_dh_finish(&dance.host, out, 256));
    memset(out, 0xff, 256);
    CHECK(!vn_auth_dh_finish(&dance.host, out, 256));
    /* p - 1, and p - 2, which is the largest that may be. */
    BIGNUM *prime = NULL;
    CHECK(EVP_PKEY_get_bn_param(dance.host.dh, OSSL_PKEY_PARAM_FFC_P, &prime) == 1);
    CHECK(BN_sub_word(prime, 1) == 1 && BN_bn2bin(prime, out) == 256);
    CHECK(!vn_auth_dh_finish(&dance.host, out, 256));
    CHECK(BN_sub_word(prime, 1) == 1 && BN_bn2bin(prime, out) == 256);
    CHECK(vn_auth_dh_finish(&dance.host, out, 256));
    BN_free(prime);
    /* 2 is of the group. */
    memset(out, 0, 256);
    out[255] = 2;
    CHECK(vn_auth_dh_finish(&dance.host, out, 256));
    close_dance(&dance);
}

/* Every message of a good dance, given to a machine at every step but its own. */
static void test_out_of_turn(void) {
    static struct dance good, dance;
    uint8_t out[VN_AUTH_MESSAGE_MAX];
    open_dance(&good, VN_AUTH_SHA256, VN_AUTH_NULL, true);
    run(&good);
    for (int step = 0; step < NR_MESSAGES; step++) {
        for (int sent = 0; sent < NR_MESSAGES; sent++) {
            bool host_sends = step % 2 == 0;
            open_dance(&dance, VN_AUTH_SHA256, VN_AUTH_NULL, true);
            for (int i = 0; i < step; i++) {
                if (i % 2 == 0) {
                    uint32_t bytes = vn_auth_host_give(&dance.host, out);
                    CHECK(vn_auth_target_take(&dance.target, out, bytes));
                } else {
                    CHECK(vn_auth_target_give(&dance.target, out, sizeof(out)));
                    vn_auth_host_take(&dance.host, out, sizeof(out));
                }
            }
            CHECK_EQ(dance.target.verdict, VN_AUTH_RUNNING);
            if (host_sends) {
                /* It is not the target's turn to give, nor the host's to take. */
                CHECK(!vn_auth_target_give(&dance.target, out, sizeof(out)));
                vn_auth_host_take(&dance.host, good.messages[sent].data, 4096);
                CHECK_EQ(dance.host.verdict, VN_AUTH_RUNNING);
                bool accepted = vn_auth_target_take(&dance.target, good.messages[sent].data, good.messages[sent].bytes);
                CHECK(accepted);
                CHECK_EQ(dance.target.verdict == VN_AUTH_REFUSED, sent != step || step == REPLY);
            } else {
                CHECK(!vn_auth_target_take(&dance.target, good.messages[sent].data, good.messages[sent].bytes));
                CHECK_EQ(dance.target.verdict, VN_AUTH_REFUSED);
                CHECK_EQ(vn_auth_host_give(&dance.host, out), 0);
                vn_auth_host_take(&dance.host, good.messages[sent].data, 4096);
                CHECK_EQ(dance.host.verdict == VN_AUTH_REFUSED, sent != step || step == SUCCESS1);
            }
            close_dance(&dance);
        }
    }
    /* A target that has ended takes and gives nothing more. */
    vn_auth_refuse(&good.target, VN_AUTH_END, VN_AUTH_FAILED);
    CHECK(!vn_auth_target_take(&good.target, good.messages[0].data, good.messages[0].bytes));
    CHECK(!vn_auth_target_give(&good.target, out, sizeof(out)));
    CHECK_EQ(good.target.verdict, VN_AUTH_REFUSED);
    close_dance(&good);
}

static enum vn_auth_reason negotiate(const uint8_t *hashes, uint32_t nr_hashes, const uint8_t *groups, uint32_t nr_groups,
                                     uint8_t sc_c, uint8_t napd, uint8_t authid, struct vn_auth *out) {
    uint8_t message[8 + 2 * 64] = {VN_AUTH_COMMON, VN_AUTH_NEGOTIATE, 0, 0, 1, 0, sc_c, napd};
    static struct dance dance;
    open_dance(&dance, VN_AUTH_SHA256, VN_AUTH_NULL, false);
    message[8] = authid;
    message[10] = (uint8_t)nr_hashes;
    message[11] = (uint8_t)nr_groups;
    for (uint32_t i = 0; i < 30; i++) {
        message[12 + i] = hashes[i % 3];
        message[42 + i] = groups[i % 3];
    }
    /* A second descriptor of the right kind. */
    memcpy(message + 72, message + 8, 64);
    message[72] = VN_AUTH_DHCHAP;
    CHECK(vn_auth_target_take(&dance.target, message, sizeof(message)));
    *out = dance.target;
    close_dance(&dance);
    return out->reason;
}

static void test_offers(void) {
    static const uint8_t hashes[] = {9, 3, 2}, groups[] = {0, 5, 4}, unknown[] = {0x20, 0xff, 99};
    struct vn_auth out;
    CHECK_EQ(negotiate(hashes, 3, groups, 3, 0, 1, 1, &out), VN_AUTH_OK);
    CHECK_EQ(out.hash, VN_AUTH_SHA384);
    CHECK_EQ(out.group, VN_AUTH_FFDHE6144);
    CHECK_EQ(negotiate(hashes, 2, groups, 1, 0, 1, 1, &out), VN_AUTH_OK);
    CHECK_EQ(out.hash, VN_AUTH_SHA512);
    CHECK_EQ(out.group, VN_AUTH_NULL);
    CHECK_EQ(negotiate(hashes, 3, groups, 3, 0, 2, 7, &out), VN_AUTH_OK);
    CHECK_EQ(negotiate(hashes, 1, groups, 3, 0, 1, 1, &out), VN_AUTH_HASH_UNUSABLE);
    CHECK_EQ(negotiate(hashes, 3, unknown, 3, 0, 1, 1, &out), VN_AUTH_GROUP_UNUSABLE);
    CHECK_EQ(negotiate(hashes, 3, groups, 3, 1, 1, 1, &out), VN_AUTH_CONCAT_MISMATCH);
    CHECK_EQ(negotiate(hashes, 3, groups, 3, 0, 1, 2, &out), VN_AUTH_PROTOCOL_UNUSABLE);
    CHECK_EQ(negotiate(hashes, 3, groups, 3, 0, 0, 1, &out), VN_AUTH_INCORRECT_PAYLOAD);
    CHECK_EQ(negotiate(hashes, 3, groups, 3, 0, 3, 1, &out), VN_AUTH_INCORRECT_PAYLOAD);
    CHECK_EQ(negotiate(hashes, 31, groups, 3, 0, 1, 1, &out), VN_AUTH_INCORRECT_PAYLOAD);
    CHECK_EQ(negotiate(hashes, 3, groups, 255, 0, 1, 1, &out), VN_AUTH_INCORRECT_PAYLOAD);
    CHECK_EQ(negotiate(hashes, 3, groups, 0, 0, 1, 1, &out), VN_AUTH_INCORRECT_PAYLOAD);
}

/* A target that takes what the host has not offered. */
static void test_a_target_cannot_choose_what_was_not_offered(void) {
    static struct dance dance;
    open_dance(&dance, VN_AUTH_SHA384, VN_AUTH_FFDHE2048, false);
    dance.host.hashes = 1u << VN_AUTH_SHA512;
    uint8_t out[VN_AUTH_MESSAGE_MAX], offer[] = {0, 0, 0, 0, 0x34, 0x12, 0, 1};
    uint32_t bytes = vn_auth_host_give(&dance.host, out);
    CHECK(!memcmp(out, offer, sizeof(offer)));
    out[12] = VN_AUTH_SHA256;
    CHECK(vn_auth_target_take(&dance.target, out, bytes));
    CHECK(vn_auth_target_give(&dance.target, out, sizeof(out)));
    vn_auth_host_take(&dance.host, out, sizeof(out));
    CHECK_EQ(dance.host.reason, VN_AUTH_HASH_UNUSABLE);
    close_dance(&dance);
    open_dance(&dance, VN_AUTH_SHA256, VN_AUTH_FFDHE2048, false);
    bytes = vn_auth_host_give(&dance.host, out);
    out[42] = VN_AUTH_NULL;
    CHECK(vn_auth_target_take(&dance.target, out, bytes));
    CHECK(vn_auth_target_give(&dance.target, out, sizeof(out)));
    vn_auth_host_take(&dance.host, out, sizeof(out));
    CHECK_EQ(dance.host.reason, VN_AUTH_GROUP_UNUSABLE);
    close_dance(&dance);
}

static void test_room(void) {
    static struct dance dance;
    uint8_t out[VN_AUTH_MESSAGE_MAX];
    open_dance(&dance, VN_AUTH_SHA256, VN_AUTH_FFDHE2048, true);
    uint32_t bytes = vn_auth_host_give(&dance.host, out);
    CHECK(vn_auth_target_take(&dance.target, out, bytes));
    CHECK(!vn_auth_target_give(&dance.target, out, 0));
    CHECK(!vn_auth_target_give(&dance.target, out, 16 + 32 + 256 - 1));
    CHECK(vn_auth_target_give(&dance.target, out, 16 + 32 + 256));
    vn_auth_host_take(&dance.host, out, 16 + 32 + 256);
    bytes = vn_auth_host_give(&dance.host, out);
    CHECK(vn_auth_target_take(&dance.target, out, bytes));
    CHECK(!vn_auth_target_give(&dance.target, out, 47));
    CHECK(vn_auth_target_give(&dance.target, out, 48));
    vn_auth_host_take(&dance.host, out, 48);
    bytes = vn_auth_host_give(&dance.host, out);
    CHECK(vn_auth_target_take(&dance.target, out, bytes));
    CHECK_EQ(dance.target.verdict, VN_AUTH_PROVED);
    close_dance(&dance);
}

static void check_hex(const uint8_t *bytes, uint32_t nr_bytes, const char *want) {
    char hex[2 * VN_AUTH_HASH_BYTES_MAX + 1] = "";
    for (uint32_t i = 0; i < nr_bytes; i++)
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    CHECK(!strcmp(hex, want));
}

/* Worked out in Python's hmac, from the specification's text. */
static const struct {
    uint32_t bytes, hash;
    const char *nqn, *key;
} keys[] = {
    {32, 1, "nqn.2014-08.org.nvmexpress:uuid:host",
     "d06bfe416d2de81dd5cccafd02bca7f68fe6d9ed50c7393fa37471335959cdf7"},
    {48, 2, "nqn.2014-08.org.nvmexpress:uuid:host",
     "c157cd5cafc8bf44889b9a215ae863da7c74cbf352a8fcf8e0d6a7cc2ed2cd821961d30d2b9829ccf6f44577b472eb6a"},
    {64, 3, "nqn.2026-11.example:disk",
     "85f405e0c717bb7842dd7ac74987760af8473a2c82cf00bd5d1a0764904001029546a6337822f3edd223456aca0c558fec02d0ac70c1c37dd68343ea2932ba7f"},
    {32, 3, "nqn.2026-11.example:disk",
     "0549cfd988fbe8bc90312c6d9598831d582cdab0f8b1d0eb219f2809c4d7deb412e76abc0d5cf7814eda198a1f8cd1f61f944dd34dba515958860fba36b2f97c"},
    {64, 1, "nqn.2014-08.org.nvmexpress:uuid:host",
     "d1a5a07dec99847671def7916e7fe9d9b9c0cbcd910248b659ae5c5b83571d2a"},
};
static const struct {
    uint8_t hash, group;
    const char *r1, *r2;
} responses[] = {
    {1, 0,
     "0b7a5bd21485b0ee1979d0b72f05a6a21876e116642322bde1a6273a5e3871ed",
     "a7a77da63099c877943c5ffbd2c434f555fc2bd3cfb76eaaf6357f0a699f4c0c"},
    {1, 1,
     "474842ef99c5da1a18f7be46feeb29b801225180c420f9bc90efee88cde786e6",
     "9ed20a94d555eaa97c6d187e6e88390f1c61b3bc92234e2b2693f82e6283017b"},
    {2, 0,
     "855b5ab0cb0217fb2d4c1084f0c6ec2c592d47dba296bf4b63d4bab2c2bcc5f897d80c0bc1502916b5caa475348f8538",
     "a25b79c000d20446a5721f55be80df49730e955c3396b76004701707f1302473d11a221802e65891db15bde0fe8f585e"},
    {2, 1,
     "33254e9d432967e3689a3ff95584a77389e2953fa2a9a714ce07c02c624b503fe3b7532100f09f8c41f147b65f880326",
     "42cb937d22bd967e4459cdb2b89a57d25dd4931d7ad0fce43b120995b7134974130e2c038321dc604357998cb59c6511"},
    {3, 0,
     "be65234c7e196567e3c6f6b522bc7c853015f4552fb492de20fa82279f5d6ab684d4cf9f8eeaee186daf4df5e69a7987689ec8ab6f4d8cc5c791107d0a1430ef",
     "53100e296c2dd83dfbd36a1db088057dcffa0da6225d7bc2d0a15e12c7efba4796e49bb918b3717b6f06debfaee38a6b7e332a075697cac855bfd66e842c94e7"},
    {3, 1,
     "1b66c9ccaa9c12159652e3c718491f97f72ff5dcde84e06fac99d9fc70ec0eb93b8de5ec000f02f5ee24101d4cc02d8363ca3243e2bc19ff9882c18d63bbcaa9",
     "93baf6f7738ff60915365c524d0d6f7abe29b7c912815b50f1f4e9f1bc6d2e57b1dac1b7d8306e31c65294ece73c3720bff48b42bb89c5b931b90f43d41eecb4"},
};

static void test_known_answers(void) {
    uint8_t secret[64], out[64];
    struct vn_auth_key key;
    for (uint32_t i = 0; i < sizeof(secret); i++)
        secret[i] = (uint8_t)i;
    for (size_t i = 0; i < VN_ARRAY_SIZE(keys); i++) {
        CHECK_EQ(vn_auth_key_make(secret, keys[i].bytes, keys[i].hash, keys[i].nqn, &key), 0);
        check_hex(key.secret, key.bytes, keys[i].key);
    }
    CHECK_EQ(vn_auth_key_make(secret, 32, 0, HOST, &key), 0);
    CHECK(key.bytes == 32 && !memcmp(key.secret, secret, 32));
    struct vn_auth_opts opts = {.hostnqn = HOST, .subnqn = SUB, .host_key = &key, .ctrl_key = &key, .t_id = 0x5566};
    struct vn_auth auth;
    CHECK_EQ(vn_auth_init(&auth, &opts), 0);
    auth.s1 = auth.s2 = 0x01020304;
    for (uint32_t i = 0; i < 64; i++) {
        auth.c1[i] = auth.c2[i] = (uint8_t)(100 + i);
        auth.ks[i] = i < 56 ? (uint8_t)(200 + i) : 0;
    }
    for (size_t i = 0; i < VN_ARRAY_SIZE(responses); i++) {
        auth.hash = responses[i].hash;
        auth.group = responses[i].group;
        CHECK(vn_auth_response1(&auth, out));
        check_hex(out, vn_auth_hash_bytes(auth.hash), responses[i].r1);
        CHECK(vn_auth_response2(&auth, out));
        check_hex(out, vn_auth_hash_bytes(auth.hash), responses[i].r2);
    }
    vn_auth_fini(&auth);
}

static void test_what_makes_no_machine(void) {
    struct vn_auth_key key = key_of(1), none = {.bytes = 0};
    struct vn_auth auth;
    uint8_t secret[64] = {0};
    char longer[225];
    memset(longer, 'x', sizeof(longer));
    longer[224] = 0;
    struct vn_auth_opts good = {.hostnqn = HOST, .subnqn = SUB, .host_key = &key}, opts = good;
    opts.host_key = &none;
    CHECK_EQ(vn_auth_init(&auth, &opts), -EINVAL);
    opts = good;
    opts.hostnqn = "";
    CHECK_EQ(vn_auth_init(&auth, &opts), -EINVAL);
    opts.hostnqn = longer;
    CHECK_EQ(vn_auth_init(&auth, &opts), -EINVAL);
    opts = good;
    opts.subnqn = longer;
    CHECK_EQ(vn_auth_init(&auth, &opts), -EINVAL);
    CHECK_EQ(vn_auth_key_make(secret, 31, 0, HOST, &key), -EINVAL);
    CHECK_EQ(vn_auth_key_make(secret, 32, 4, HOST, &key), -EINVAL);
    CHECK_EQ(vn_auth_key_make(secret, 32, 1, "", &key), -EINVAL);
    CHECK_EQ(vn_auth_key_make(secret, 32, 1, longer, &key), -EINVAL);
}

int main(void) {
    test_known_answers();
    test_what_makes_no_machine();
    test_every_pair_of_hash_and_group();
    test_offers();
    test_a_target_cannot_choose_what_was_not_offered();
    test_wrong_keys();
    test_what_was_said_once_is_worth_nothing_later();
    test_reflections();
    test_out_of_turn();
    test_room();
    test_every_length_counts();
    test_every_byte_of_every_message_counts();
    return 0;
}
