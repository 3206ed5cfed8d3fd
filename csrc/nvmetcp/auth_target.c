/* The target's role in DH-HMAC-CHAP: negotiation, the challenge, the verdict about the host, and the proof for it.
 */
#include <string.h>

#include "core/util.h"
#include "nvmetcp/auth_math.h"

/* What we would rather have, first. All are strong enough; the larger groups cost more on the reactor. */
static const uint8_t hash_order[] = {VN_AUTH_SHA256, VN_AUTH_SHA384, VN_AUTH_SHA512};
static const uint8_t group_order[] = {
    VN_AUTH_FFDHE3072, VN_AUTH_FFDHE2048, VN_AUTH_FFDHE4096, VN_AUTH_FFDHE6144, VN_AUTH_FFDHE8192, VN_AUTH_NULL,
};

static bool choose(const uint8_t *order, uint32_t nr_order, uint32_t allowed, const uint8_t *offer, uint32_t nr_offer,
                   uint8_t *out) {
    for (uint32_t i = 0; i < nr_order; i++) {
        if (allowed & 1u << order[i] && memchr(offer, order[i], nr_offer)) {
            *out = order[i];
            return true;
        }
    }
    return false;
}

static enum vn_auth_reason negotiate(struct vn_auth *auth, const uint8_t *message, uint32_t bytes) {
    struct vn_auth_negotiate fixed;
    struct vn_auth_descriptor offer;
    if (bytes < sizeof(fixed))
        return VN_AUTH_INCORRECT_PAYLOAD;
    memcpy(&fixed, message, sizeof(fixed));
    auth->t_id = fixed.head.t_id;
    if (fixed.sc_c != 0)
        return VN_AUTH_CONCAT_MISMATCH;
    if (fixed.napd == 0 || bytes - sizeof(fixed) < fixed.napd * sizeof(offer))
        return VN_AUTH_INCORRECT_PAYLOAD;
    for (uint32_t i = 0; i < fixed.napd; i++) {
        memcpy(&offer, message + sizeof(fixed) + i * sizeof(offer), sizeof(offer));
        if (offer.authid != VN_AUTH_DHCHAP)
            continue;
        if (offer.halen == 0 || offer.halen > sizeof(offer.hashes) || offer.dhlen == 0 || offer.dhlen > sizeof(offer.groups))
            return VN_AUTH_INCORRECT_PAYLOAD;
        if (!choose(hash_order, sizeof(hash_order), auth->hashes, offer.hashes, offer.halen, &auth->hash))
            return VN_AUTH_HASH_UNUSABLE;
        if (!choose(group_order, sizeof(group_order), auth->groups, offer.groups, offer.dhlen, &auth->group))
            return VN_AUTH_GROUP_UNUSABLE;
        return VN_AUTH_OK;
    }
    return VN_AUTH_PROTOCOL_UNUSABLE;
}

static enum vn_auth_reason check_reply(struct vn_auth *auth, const uint8_t *message, uint32_t bytes) {
    struct vn_auth_reply fixed;
    uint8_t proof[VN_AUTH_HASH_BYTES_MAX];
    uint32_t hl = vn_auth_hash_bytes(auth->hash), dh = vn_auth_group_bytes(auth->group);
    if (bytes < sizeof(fixed))
        return VN_AUTH_INCORRECT_PAYLOAD;
    memcpy(&fixed, message, sizeof(fixed));
    if (fixed.hl != hl || fixed.dhvlen != dh || fixed.cvalid > 1 || bytes - sizeof(fixed) < 2 * hl + dh)
        return VN_AUTH_INCORRECT_PAYLOAD;
    const uint8_t *r1 = message + sizeof(fixed), *c2 = r1 + hl;
    if (!vn_auth_dh_finish(auth, c2 + hl, dh))
        return VN_AUTH_GROUP_UNUSABLE;
    if (!vn_auth_response1(auth, proof) || !vn_auth_same(proof, r1, hl))
        return VN_AUTH_FAILED;
    /* A sequence number of 0: C2 is for a secure channel only, which we do not make. */
    auth->both = fixed.cvalid && fixed.seqnum != 0;
    if (!auth->both)
        return VN_AUTH_OK;
    /* We answer no challenge of our own making, and none without a key. */
    if (!auth->ctrl_key.bytes || !memcmp(c2, auth->c1, hl))
        return VN_AUTH_FAILED;
    memcpy(auth->c2, c2, hl);
    auth->s2 = fixed.seqnum;
    return VN_AUTH_OK;
}

static void take_verdict(struct vn_auth *auth, const uint8_t *message, uint32_t bytes, const struct vn_auth_head *head) {
    struct vn_auth_failure failure = {0};
    if (head->type == VN_AUTH_DHCHAP && head->id == VN_AUTH_SUCCESS2 && auth->state == VN_AUTH_WAIT_SUCCESS2) {
        auth->state = VN_AUTH_END;
        auth->verdict = VN_AUTH_PROVED;
        vn_auth_wipe(auth);
    } else if (head->id == VN_AUTH_FAILURE2) { /* of either type: hosts differ */
        if (bytes >= sizeof(failure))
            memcpy(&failure, message, sizeof(failure));
        auth->by_peer = true;
        vn_auth_refuse(auth, VN_AUTH_END, failure.explanation ? failure.explanation : VN_AUTH_FAILED);
    } else {
        vn_auth_refuse(auth, VN_AUTH_GIVE_FAILURE1, VN_AUTH_INCORRECT_MESSAGE);
    }
}

bool vn_auth_target_take(struct vn_auth *auth, const void *message, uint32_t bytes) {
    struct vn_auth_head head;
    enum vn_auth_reason reason = VN_AUTH_INCORRECT_MESSAGE;
    /* Again on a queue that has been authenticated: a new transaction. */
    if (auth->state == VN_AUTH_END && auth->verdict == VN_AUTH_PROVED) {
        auth->state = VN_AUTH_WAIT_NEGOTIATE;
        auth->verdict = VN_AUTH_RUNNING;
    }
    bool ours = auth->state == VN_AUTH_WAIT_NEGOTIATE || auth->state == VN_AUTH_WAIT_REPLY || auth->state == VN_AUTH_WAIT_SUCCESS2;
    if (!ours) {
        if (auth->verdict != VN_AUTH_REFUSED)
            vn_auth_refuse(auth, VN_AUTH_END, VN_AUTH_INCORRECT_MESSAGE);
        return false;
    }
    if (bytes < sizeof(head)) {
        vn_auth_refuse(auth, VN_AUTH_GIVE_FAILURE1, VN_AUTH_INCORRECT_PAYLOAD);
        return true;
    }
    memcpy(&head, message, sizeof(head));
    if (auth->state == VN_AUTH_WAIT_NEGOTIATE) {
        auth->t_id = head.t_id;
        if (head.type == VN_AUTH_COMMON && head.id == VN_AUTH_NEGOTIATE)
            reason = negotiate(auth, message, bytes);
        auth->state = VN_AUTH_GIVE_CHALLENGE;
    } else if (head.t_id != auth->t_id) {
        reason = VN_AUTH_INCORRECT_PAYLOAD;
    } else if (auth->state == VN_AUTH_WAIT_REPLY && head.type == VN_AUTH_DHCHAP && head.id == VN_AUTH_REPLY) {
        reason = check_reply(auth, message, bytes);
        auth->state = VN_AUTH_GIVE_SUCCESS1;
    } else {
        take_verdict(auth, message, bytes, &head);
        return true;
    }
    if (reason != VN_AUTH_OK)
        vn_auth_refuse(auth, VN_AUTH_GIVE_FAILURE1, reason);
    return true;
}

static bool give_challenge(struct vn_auth *auth, uint8_t *out, uint32_t room) {
    uint32_t hl = vn_auth_hash_bytes(auth->hash), dh = vn_auth_group_bytes(auth->group);
    struct vn_auth_challenge fixed = {.hl = (uint8_t)hl, .hashid = auth->hash, .dhgid = auth->group, .dhvlen = (uint16_t)dh};
    if (room < sizeof(fixed) + hl + dh)
        return false;
    auth->s1 = auth->s1 + 1 ? auth->s1 + 1 : 1;
    fixed.seqnum = auth->s1;
    if (!vn_auth_random(auth->c1, hl) || !vn_auth_dh_make(auth) || !vn_auth_dh_value(auth, out + sizeof(fixed) + hl)) {
        vn_auth_refuse(auth, VN_AUTH_GIVE_FAILURE1, VN_AUTH_FAILED);
        return true;
    }
    vn_auth_head_fill(auth, &fixed.head, VN_AUTH_DHCHAP, VN_AUTH_CHALLENGE);
    memcpy(out, &fixed, sizeof(fixed));
    memcpy(out + sizeof(fixed), auth->c1, hl);
    auth->state = VN_AUTH_WAIT_REPLY;
    return true;
}

static bool give_success1(struct vn_auth *auth, uint8_t *out, uint32_t room) {
    uint32_t hl = vn_auth_hash_bytes(auth->hash);
    struct vn_auth_success1 fixed = {.hl = (uint8_t)hl, .rvalid = auth->both};
    uint8_t proof[VN_AUTH_HASH_BYTES_MAX];
    if (room < sizeof(fixed) + (auth->both ? hl : 0))
        return false;
    if (auth->both) {
        if (!vn_auth_response2(auth, proof)) {
            vn_auth_refuse(auth, VN_AUTH_GIVE_FAILURE1, VN_AUTH_FAILED);
            return true;
        }
        memcpy(out + sizeof(fixed), proof, hl);
    }
    vn_auth_head_fill(auth, &fixed.head, VN_AUTH_DHCHAP, VN_AUTH_SUCCESS1);
    memcpy(out, &fixed, sizeof(fixed));
    auth->state = auth->both ? VN_AUTH_WAIT_SUCCESS2 : VN_AUTH_END;
    if (!auth->both)
        auth->verdict = VN_AUTH_PROVED;
    vn_auth_wipe(auth);
    return true;
}

static bool give_failure1(struct vn_auth *auth, uint8_t *out, uint32_t room) {
    struct vn_auth_failure failure = {.reason = 1, .explanation = (uint8_t)auth->reason};
    if (room < sizeof(failure))
        return false;
    memset(out, 0, room);
    vn_auth_head_fill(auth, &failure.head, VN_AUTH_COMMON, VN_AUTH_FAILURE1);
    memcpy(out, &failure, sizeof(failure));
    auth->state = VN_AUTH_END;
    return true;
}

bool vn_auth_target_give(struct vn_auth *auth, void *out, uint32_t room) {
    bool given = false;
    memset(out, 0, room);
    if (auth->state == VN_AUTH_GIVE_CHALLENGE)
        given = give_challenge(auth, out, room);
    else if (auth->state == VN_AUTH_GIVE_SUCCESS1)
        given = give_success1(auth, out, room);
    if (auth->state == VN_AUTH_GIVE_FAILURE1)
        given = give_failure1(auth, out, room);
    return given;
}
