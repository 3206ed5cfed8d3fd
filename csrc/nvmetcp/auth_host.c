/* The host's role in DH-HMAC-CHAP: the offer, the answer to the challenge, and the verdict about the controller.
 */
#include <string.h>

#include "core/util.h"
#include "nvmetcp/auth_math.h"

enum vn_auth_next vn_auth_host_next(const struct vn_auth *auth) {
    switch (auth->state) {
    case VN_AUTH_WAIT_NEGOTIATE:
    case VN_AUTH_WAIT_REPLY:
    case VN_AUTH_WAIT_SUCCESS2:
    case VN_AUTH_WAIT_FAILURE2:
        return VN_AUTH_SEND;
    case VN_AUTH_GIVE_CHALLENGE:
    case VN_AUTH_GIVE_SUCCESS1:
        return VN_AUTH_RECEIVE;
    default:
        return VN_AUTH_FINISHED;
    }
}

static uint8_t list(uint32_t allowed, uint32_t first, uint32_t last, uint8_t *out) {
    uint8_t nr = 0;
    for (uint32_t id = first; id <= last; id++)
        if (allowed & 1u << id)
            out[nr++] = (uint8_t)id;
    return nr;
}

static uint32_t give_negotiate(struct vn_auth *auth, uint8_t *out) {
    struct vn_auth_negotiate fixed = {.napd = 1};
    struct vn_auth_descriptor offer = {.authid = VN_AUTH_DHCHAP};
    offer.halen = list(auth->hashes, VN_AUTH_SHA256, VN_AUTH_SHA512, offer.hashes);
    offer.dhlen = list(auth->groups, VN_AUTH_NULL, VN_AUTH_FFDHE8192, offer.groups);
    vn_auth_head_fill(auth, &fixed.head, VN_AUTH_COMMON, VN_AUTH_NEGOTIATE);
    memcpy(out, &fixed, sizeof(fixed));
    memcpy(out + sizeof(fixed), &offer, sizeof(offer));
    auth->state = VN_AUTH_GIVE_CHALLENGE;
    return sizeof(fixed) + sizeof(offer);
}

static uint32_t give_failure2(struct vn_auth *auth, uint8_t *out) {
    struct vn_auth_failure failure = {.reason = 1, .explanation = (uint8_t)auth->reason};
    vn_auth_head_fill(auth, &failure.head, VN_AUTH_COMMON, VN_AUTH_FAILURE2);
    memcpy(out, &failure, sizeof(failure));
    auth->state = VN_AUTH_END;
    return sizeof(failure);
}

static uint32_t give_reply(struct vn_auth *auth, uint8_t *out) {
    uint32_t hl = vn_auth_hash_bytes(auth->hash), dh = vn_auth_group_bytes(auth->group);
    struct vn_auth_reply fixed = {.hl = (uint8_t)hl, .dhvlen = (uint16_t)dh};
    uint8_t *r1 = out + sizeof(fixed), *c2 = r1 + hl, proof[VN_AUTH_HASH_BYTES_MAX];
    bool ok = vn_auth_response1(auth, proof) && vn_auth_dh_value(auth, c2 + hl);
    auth->both = auth->ctrl_key.bytes > 0;
    if (auth->both) {
        auth->s2 = auth->s2 + 1 ? auth->s2 + 1 : 1;
        /* Never the challenge that it has put to us: it could send our answer back. */
        ok = ok && vn_auth_random(auth->c2, hl) && memcmp(auth->c2, auth->c1, hl) != 0;
        fixed.cvalid = 1;
        fixed.seqnum = auth->s2;
    }
    if (!ok) {
        vn_auth_refuse(auth, VN_AUTH_WAIT_FAILURE2, VN_AUTH_FAILED);
        return give_failure2(auth, out);
    }
    vn_auth_head_fill(auth, &fixed.head, VN_AUTH_DHCHAP, VN_AUTH_REPLY);
    memcpy(out, &fixed, sizeof(fixed));
    memcpy(r1, proof, hl);
    memcpy(c2, auth->c2, hl);
    auth->state = VN_AUTH_GIVE_SUCCESS1;
    return (uint32_t)sizeof(fixed) + 2 * hl + dh;
}

static uint32_t give_success2(struct vn_auth *auth, uint8_t *out) {
    struct vn_auth_success2 message = {0};
    vn_auth_head_fill(auth, &message.head, VN_AUTH_DHCHAP, VN_AUTH_SUCCESS2);
    memcpy(out, &message, sizeof(message));
    auth->state = VN_AUTH_END;
    auth->verdict = VN_AUTH_PROVED;
    vn_auth_wipe(auth);
    return sizeof(message);
}

uint32_t vn_auth_host_give(struct vn_auth *auth, void *out) {
    switch (auth->state) {
    case VN_AUTH_WAIT_NEGOTIATE:
        return give_negotiate(auth, out);
    case VN_AUTH_WAIT_REPLY:
        return give_reply(auth, out);
    case VN_AUTH_WAIT_SUCCESS2:
        return give_success2(auth, out);
    case VN_AUTH_WAIT_FAILURE2:
        return give_failure2(auth, out);
    default:
        return 0;
    }
}

static enum vn_auth_reason take_challenge(struct vn_auth *auth, const uint8_t *message, uint32_t bytes) {
    struct vn_auth_challenge fixed;
    if (bytes < sizeof(fixed))
        return VN_AUTH_INCORRECT_PAYLOAD;
    memcpy(&fixed, message, sizeof(fixed));
    uint32_t hl = vn_auth_hash_bytes(fixed.hashid), dh = vn_auth_group_bytes(fixed.dhgid);
    if (!hl || fixed.hl != hl || !(auth->hashes & 1u << fixed.hashid))
        return VN_AUTH_HASH_UNUSABLE;
    if (!vn_auth_group_known(fixed.dhgid) || !(auth->groups & 1u << fixed.dhgid))
        return VN_AUTH_GROUP_UNUSABLE;
    if (fixed.dhvlen != dh || fixed.seqnum == 0 || bytes - sizeof(fixed) < hl + dh)
        return VN_AUTH_INCORRECT_PAYLOAD;
    auth->hash = fixed.hashid;
    auth->group = fixed.dhgid;
    auth->s1 = fixed.seqnum;
    memcpy(auth->c1, message + sizeof(fixed), hl);
    if (!vn_auth_dh_make(auth))
        return VN_AUTH_FAILED;
    if (!vn_auth_dh_finish(auth, message + sizeof(fixed) + hl, dh))
        return VN_AUTH_GROUP_UNUSABLE;
    auth->state = VN_AUTH_WAIT_REPLY;
    return VN_AUTH_OK;
}

static enum vn_auth_reason take_success1(struct vn_auth *auth, const uint8_t *message, uint32_t bytes) {
    struct vn_auth_success1 fixed;
    uint8_t proof[VN_AUTH_HASH_BYTES_MAX];
    uint32_t hl = vn_auth_hash_bytes(auth->hash);
    if (bytes < sizeof(fixed))
        return VN_AUTH_INCORRECT_PAYLOAD;
    memcpy(&fixed, message, sizeof(fixed));
    if (fixed.rvalid > 1 || (fixed.rvalid && (fixed.hl != hl || bytes - sizeof(fixed) < hl)))
        return VN_AUTH_INCORRECT_PAYLOAD;
    if (!auth->both) {
        auth->state = VN_AUTH_END;
        auth->verdict = VN_AUTH_PROVED;
        vn_auth_wipe(auth);
        return VN_AUTH_OK;
    }
    /* A controller that does not prove itself although we asked is no better than one that cannot. */
    if (!fixed.rvalid || !vn_auth_response2(auth, proof) || !vn_auth_same(proof, message + sizeof(fixed), hl))
        return VN_AUTH_FAILED;
    auth->state = VN_AUTH_WAIT_SUCCESS2;
    return VN_AUTH_OK;
}

void vn_auth_host_take(struct vn_auth *auth, const void *message, uint32_t bytes) {
    struct vn_auth_head head = {0};
    struct vn_auth_failure failure;
    enum vn_auth_reason reason = VN_AUTH_INCORRECT_MESSAGE;
    bool challenge = auth->state == VN_AUTH_GIVE_CHALLENGE, success = auth->state == VN_AUTH_GIVE_SUCCESS1;
    if (!challenge && !success)
        return;
    if (bytes >= sizeof(head))
        memcpy(&head, message, sizeof(head));
    if (bytes < sizeof(failure)) {
        reason = VN_AUTH_INCORRECT_PAYLOAD;
    } else if (head.type == VN_AUTH_COMMON && head.id == VN_AUTH_FAILURE1) {
        memcpy(&failure, message, sizeof(failure));
        auth->by_peer = true;
        vn_auth_refuse(auth, VN_AUTH_END, failure.explanation ? failure.explanation : VN_AUTH_FAILED);
        return;
    } else if (head.type != VN_AUTH_DHCHAP || head.id != (challenge ? VN_AUTH_CHALLENGE : VN_AUTH_SUCCESS1)) {
        reason = VN_AUTH_INCORRECT_MESSAGE;
    } else if (head.t_id != auth->t_id) {
        reason = VN_AUTH_INCORRECT_PAYLOAD;
    } else {
        reason = challenge ? take_challenge(auth, message, bytes) : take_success1(auth, message, bytes);
    }
    if (reason != VN_AUTH_OK)
        vn_auth_refuse(auth, VN_AUTH_WAIT_FAILURE2, reason);
}
