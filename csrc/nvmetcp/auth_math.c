/* DH-HMAC-CHAP's arithmetic, by OpenSSL (NVMe Base 8.13.5). Both roles' memory of a transaction is made and wiped here.
 */
#include "nvmetcp/auth_math.h"

#include <errno.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <string.h>

#include "core/fabrics.h"
#include "core/util.h"

static const struct {
    uint32_t bytes;
    const EVP_MD *(*md)(void);
} hashes[] = {
    [VN_AUTH_SHA256] = {32, EVP_sha256},
    [VN_AUTH_SHA384] = {48, EVP_sha384},
    [VN_AUTH_SHA512] = {64, EVP_sha512},
};

static const struct {
    uint32_t bytes;
    const char *name;
} groups[] = {
    [VN_AUTH_NULL] = {0, NULL},
    [VN_AUTH_FFDHE2048] = {256, "ffdhe2048"},
    [VN_AUTH_FFDHE3072] = {384, "ffdhe3072"},
    [VN_AUTH_FFDHE4096] = {512, "ffdhe4096"},
    [VN_AUTH_FFDHE6144] = {768, "ffdhe6144"},
    [VN_AUTH_FFDHE8192] = {1024, "ffdhe8192"},
};

uint32_t vn_auth_hash_bytes(uint32_t hash) {
    return hash < VN_ARRAY_SIZE(hashes) ? hashes[hash].bytes : 0;
}

bool vn_auth_group_known(uint32_t group) {
    return group < VN_ARRAY_SIZE(groups);
}

uint32_t vn_auth_group_bytes(uint32_t group) {
    return vn_auth_group_known(group) ? groups[group].bytes : 0;
}

bool vn_auth_random(void *out, uint32_t bytes) {
    return RAND_bytes(out, (int)bytes) == 1;
}

uint32_t vn_auth_sequence(void) {
    uint32_t number = 0;
    return vn_auth_random(&number, sizeof(number)) && number ? number : 1;
}

bool vn_auth_same(const uint8_t *a, const uint8_t *b, uint32_t bytes) {
    return CRYPTO_memcmp(a, b, bytes) == 0;
}

int vn_auth_key_make(const uint8_t *secret, uint32_t bytes, uint32_t hash, const char *nqn, struct vn_auth_key *out) {
    static const char suffix[] = "NVMe-over-Fabrics";
    char text[VN_NQN_MAX + sizeof(suffix)];
    size_t nqn_bytes = strnlen(nqn, VN_NQN_MAX + 1);
    if ((bytes != 32 && bytes != 48 && bytes != 64) || (hash != 0 && !vn_auth_hash_bytes(hash)) || nqn_bytes == 0 ||
        nqn_bytes > VN_NQN_MAX)
        return -EINVAL;
    out->bytes = bytes;
    if (hash == 0) {
        memcpy(out->secret, secret, bytes);
        return 0;
    }
    memcpy(text, nqn, nqn_bytes);
    memcpy(text + nqn_bytes, suffix, sizeof(suffix));
    out->bytes = hashes[hash].bytes;
    return HMAC(hashes[hash].md(), secret, (int)bytes, (const uint8_t *)text, nqn_bytes + sizeof(suffix) - 1, out->secret, NULL)
               ? 0
               : -EINVAL;
}

/* --- Groups --- */

bool vn_auth_dh_make(struct vn_auth *auth) {
    if (auth->group == VN_AUTH_NULL)
        return true;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "DH", NULL);
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char *)(uintptr_t)groups[auth->group].name, 0),
        OSSL_PARAM_construct_end(),
    };
    EVP_PKEY_free(auth->dh);
    auth->dh = NULL;
    bool ok = ctx && EVP_PKEY_keygen_init(ctx) == 1 && EVP_PKEY_CTX_set_params(ctx, params) == 1 &&
              EVP_PKEY_generate(ctx, &auth->dh) == 1;
    EVP_PKEY_CTX_free(ctx);
    ERR_clear_error();
    return ok;
}

bool vn_auth_dh_value(const struct vn_auth *auth, uint8_t *value) {
    if (auth->group == VN_AUTH_NULL)
        return true;
    uint8_t *encoded = NULL;
    size_t bytes = EVP_PKEY_get1_encoded_public_key(auth->dh, &encoded);
    uint32_t want = groups[auth->group].bytes;
    if (bytes > 0 && bytes <= want) {
        memset(value, 0, want - bytes);
        memcpy(value + want - bytes, encoded, bytes);
    }
    OPENSSL_free(encoded);
    return bytes > 0 && bytes <= want;
}

/* 1 < value < p - 1. For these groups, of safe primes, that is enough (RFC 7919, 5.1): what is left has no small order. The
 * check that OpenSSL offers works out a power with a full exponent, which takes ten times as long as all the rest. */
static bool in_range(const struct vn_auth *auth, const uint8_t *value, uint32_t bytes) {
    BIGNUM *prime = NULL, *number = BN_bin2bn(value, (int)bytes, NULL);
    bool ok = number && EVP_PKEY_get_bn_param(auth->dh, OSSL_PKEY_PARAM_FFC_P, &prime) == 1 && BN_sub_word(prime, 1) == 1 &&
              BN_cmp(number, BN_value_one()) > 0 && BN_cmp(number, prime) < 0;
    BN_free(prime);
    BN_free(number);
    return ok;
}

static bool derive(struct vn_auth *auth, const uint8_t *value, uint32_t bytes, uint8_t *shared, size_t *shared_bytes) {
    EVP_PKEY *peer = EVP_PKEY_new();
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, auth->dh, NULL);
    bool ok = peer && ctx && EVP_PKEY_copy_parameters(peer, auth->dh) == 1 &&
              EVP_PKEY_set1_encoded_public_key(peer, value, bytes) == 1 && EVP_PKEY_derive_init(ctx) == 1 &&
              EVP_PKEY_derive_set_peer_ex(ctx, peer, 0) == 1;
    unsigned int pad = 1; /* leading zeros belong to it */
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_uint(OSSL_EXCHANGE_PARAM_PAD, &pad),
        OSSL_PARAM_construct_end(),
    };
    ok = ok && EVP_PKEY_CTX_set_params(ctx, params) == 1 && EVP_PKEY_derive(ctx, shared, shared_bytes) == 1;
    EVP_PKEY_CTX_free(ctx);
    EVP_PKEY_free(peer);
    ERR_clear_error();
    return ok;
}

bool vn_auth_dh_finish(struct vn_auth *auth, const uint8_t *value, uint32_t bytes) {
    uint8_t shared[VN_AUTH_DH_BYTES_MAX], own[VN_AUTH_DH_BYTES_MAX];
    size_t shared_bytes = sizeof(shared);
    if (auth->group == VN_AUTH_NULL)
        return true;
    if (!vn_auth_dh_value(auth, own) || !memcmp(own, value, bytes) || !in_range(auth, value, bytes))
        return false;
    bool ok = derive(auth, value, bytes, shared, &shared_bytes) && shared_bytes == bytes &&
              EVP_Digest(shared, shared_bytes, auth->ks, NULL, hashes[auth->hash].md(), NULL) == 1;
    OPENSSL_cleanse(shared, sizeof(shared));
    return ok;
}

/* --- Responses --- */

struct text {
    uint8_t bytes[VN_AUTH_HASH_BYTES_MAX + 4 + 2 + 1 + 10 + VN_NQN_MAX + 1 + VN_NQN_MAX];
    size_t used;
};

static void put(struct text *text, const void *bytes, size_t nr_bytes) {
    memcpy(text->bytes + text->used, bytes, nr_bytes);
    text->used += nr_bytes;
}

/* HMAC(key, Ca || S || T_ID || SC_C || role || first NQN || 00h || second NQN), 8.13.5.4 and 8.13.5.5. */
static bool respond(const struct vn_auth *auth, const struct vn_auth_key *key, const uint8_t *challenge, uint32_t sequence,
                    const char *role, const char *first, const char *second, uint8_t *out) {
    const EVP_MD *md = hashes[auth->hash].md();
    uint32_t bytes = hashes[auth->hash].bytes;
    struct text text = {.used = 0};
    put(&text, challenge, bytes);
    /* The augmented challenge: bound to the secret that the two ends share by their exponents. */
    if (auth->group != VN_AUTH_NULL && !HMAC(md, auth->ks, (int)bytes, challenge, bytes, text.bytes, NULL))
        return false;
    put(&text, &sequence, 4);
    put(&text, &auth->t_id, 2);
    put(&text, "", 1); /* SC_C: we never concatenate */
    put(&text, role, strlen(role));
    put(&text, first, strlen(first) + 1);
    put(&text, second, strlen(second));
    bool ok = HMAC(md, key->secret, (int)key->bytes, text.bytes, text.used, out, NULL);
    OPENSSL_cleanse(&text, sizeof(text));
    return ok;
}

bool vn_auth_response1(const struct vn_auth *auth, uint8_t *out) {
    return respond(auth, &auth->host_key, auth->c1, auth->s1, "HostHost", auth->hostnqn, auth->subnqn, out);
}

bool vn_auth_response2(const struct vn_auth *auth, uint8_t *out) {
    return respond(auth, &auth->ctrl_key, auth->c2, auth->s2, "Controller", auth->subnqn, auth->hostnqn, out);
}

/* --- The transaction --- */

int vn_auth_init(struct vn_auth *auth, const struct vn_auth_opts *opts) {
    size_t host_bytes = strnlen(opts->hostnqn, sizeof(auth->hostnqn));
    size_t sub_bytes = strnlen(opts->subnqn, sizeof(auth->subnqn));
    memset(auth, 0, sizeof(*auth));
    if (!host_bytes || host_bytes >= sizeof(auth->hostnqn) || !sub_bytes || sub_bytes >= sizeof(auth->subnqn) ||
        !opts->host_key->bytes)
        return -EINVAL;
    memcpy(auth->hostnqn, opts->hostnqn, host_bytes);
    memcpy(auth->subnqn, opts->subnqn, sub_bytes);
    auth->host_key = *opts->host_key;
    if (opts->ctrl_key)
        auth->ctrl_key = *opts->ctrl_key;
    auth->hashes = opts->hashes ? opts->hashes : VN_AUTH_ALL;
    auth->groups = opts->groups ? opts->groups : VN_AUTH_ALL;
    auth->t_id = opts->t_id;
    auth->s1 = auth->s2 = vn_auth_sequence();
    return 0;
}

void vn_auth_wipe(struct vn_auth *auth) {
    EVP_PKEY_free(auth->dh);
    auth->dh = NULL;
    OPENSSL_cleanse(auth->c1, sizeof(auth->c1));
    OPENSSL_cleanse(auth->c2, sizeof(auth->c2));
    OPENSSL_cleanse(auth->ks, sizeof(auth->ks));
}

void vn_auth_fini(struct vn_auth *auth) {
    EVP_PKEY_free(auth->dh);
    OPENSSL_cleanse(auth, sizeof(*auth));
}

void vn_auth_refuse(struct vn_auth *auth, enum vn_auth_state state, enum vn_auth_reason reason) {
    auth->state = state;
    auth->verdict = VN_AUTH_REFUSED;
    auth->reason = reason;
    vn_auth_wipe(auth);
}

void vn_auth_head_fill(const struct vn_auth *auth, struct vn_auth_head *head, enum vn_auth_type type, enum vn_auth_id id) {
    *head = (struct vn_auth_head){.type = (uint8_t)type, .id = (uint8_t)id, .t_id = auth->t_id};
}

const char *vn_auth_words(const struct vn_auth *auth) {
    static const char *const words[][2] = {
        [VN_AUTH_OK] = {"nothing is wrong", "the peer says that nothing is wrong"},
        [VN_AUTH_FAILED] = {"the peer's key is not the one that we know", "the peer does not accept our key"},
        [VN_AUTH_PROTOCOL_UNUSABLE] = {"the peer offers no DH-HMAC-CHAP", "the peer does not take DH-HMAC-CHAP"},
        [VN_AUTH_CONCAT_MISMATCH] = {"the peer asks for a secure channel on top", "the peer wants a secure channel on top"},
        [VN_AUTH_HASH_UNUSABLE] = {"the peer's hash functions are not ours", "the peer takes none of our hash functions"},
        [VN_AUTH_GROUP_UNUSABLE] = {"the peer's DH group or value is of no use", "the peer takes none of our DH groups"},
        [VN_AUTH_INCORRECT_PAYLOAD] = {"the peer's message is malformed", "the peer calls our message malformed"},
        [VN_AUTH_INCORRECT_MESSAGE] = {"the peer's message came out of turn", "the peer says that our message came out of turn"},
    };
    return auth->reason < VN_ARRAY_SIZE(words) ? words[auth->reason][auth->by_peer] : "the peer gives a reason that we do not know";
}
