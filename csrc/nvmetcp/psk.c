/* NVMe/TCP's derivation of TLS keys: HKDF (RFC 5869) with the labels of TLS 1.3 (RFC 8446 7.1), one block of output.
 */
#include "nvmetcp/psk.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>

#include "core/fabrics.h"

#define HASH_BYTES_MAX 48u
#define CONTEXT_MAX 255u /* one byte of length */

/* The label as TLS has it; or as old libnvme had it: the length the other way round, and no lengths of the parts. */
static size_t put_label(uint8_t *info, bool old, int bytes, const char *label, const char *context) {
    size_t label_bytes = strlen(label), context_bytes = strlen(context), at = 2;
    info[0] = old ? (uint8_t)bytes : 0;
    info[1] = old ? 0 : (uint8_t)bytes;
    if (!old)
        info[at++] = (uint8_t)(6 + label_bytes);
    memcpy(info + at, "tls13 ", 6);
    memcpy(info + at + 6, label, label_bytes);
    at += 6 + label_bytes;
    if (!old)
        info[at++] = (uint8_t)context_bytes;
    memcpy(info + at, context, context_bytes);
    return at + context_bytes;
}

/* out may be key. */
static bool expand_label(const EVP_MD *md, const uint8_t *key, bool old, const char *label, const char *context,
                         uint8_t *out) {
    static const uint8_t no_salt[HASH_BYTES_MAX];
    uint8_t prk[HASH_BYTES_MAX], info[2 + 1 + 32 + 1 + CONTEXT_MAX + 1];
    int bytes = EVP_MD_get_size(md);
    if (strlen(label) > 32 - 6 || strlen(context) > CONTEXT_MAX)
        return false;
    size_t at = put_label(info, old, bytes, label, context);
    info[at++] = 1; /* the first block of HKDF-Expand, and with this length the only one */
    bool ok = HMAC(md, no_salt, bytes, key, (size_t)bytes, prk, NULL) && HMAC(md, prk, bytes, info, at, out, NULL);
    OPENSSL_cleanse(prk, sizeof(prk));
    return ok;
}

static bool good_nqn(const char *nqn) {
    size_t bytes = strnlen(nqn, VN_NQN_MAX + 1);
    return bytes > 0 && bytes <= VN_NQN_MAX && !memchr(nqn, ' ', bytes);
}

/* Base64(HMAC(retained, "HOSTNQN SUBNQN NVMe-over-Fabrics")), in digest, which holds 65. */
static bool digest_of(const EVP_MD *md, const uint8_t *retained, const char *hostnqn, const char *subnqn, char *digest) {
    char text[2 * VN_NQN_MAX + 32];
    uint8_t mac[HASH_BYTES_MAX];
    int bytes = snprintf(text, sizeof(text), "%s %s NVMe-over-Fabrics", hostnqn, subnqn);
    if (!HMAC(md, retained, EVP_MD_get_size(md), (const uint8_t *)text, (size_t)bytes, mac, NULL))
        return false;
    return EVP_EncodeBlock((uint8_t *)digest, mac, EVP_MD_get_size(md)) > 0;
}

int vn_psk_derive(const uint8_t *key, uint32_t bytes, uint32_t hash, uint32_t version, const char *hostnqn,
                  const char *subnqn, struct vn_tls_psk *out) {
    /* The length says which cipher suite; a hash, if there is one, has to agree. */
    uint32_t suite = bytes == 32 ? 1 : bytes == 48 ? 2 : 0;
    if (!suite || (hash != 0 && hash != suite) || version >= VN_PSK_VERSIONS || !good_nqn(hostnqn) || !good_nqn(subnqn))
        return -EINVAL;
    const EVP_MD *md = suite == 1 ? EVP_sha256() : EVP_sha384();
    uint8_t retained[HASH_BYTES_MAX];
    char digest[65] = "", context[80];
    memset(out, 0, sizeof(*out));
    out->hash = suite;
    out->key_bytes = bytes;
    memcpy(retained, key, bytes);
    bool old = version == 2;
    bool ok = !hash || expand_label(md, retained, old, "HostNQN", hostnqn, retained);
    if (ok && version == 0) {
        /* The context is the identity itself; longer than a label may have it: no such key (TCP 3.6.1.3). */
        snprintf(out->identity, sizeof(out->identity), "NVMe0R%02u %s %s", suite, hostnqn, subnqn);
        ok = expand_label(md, retained, old, "nvme-tls-psk", out->identity, out->key);
    } else if (ok) {
        ok = digest_of(md, retained, hostnqn, subnqn, digest);
        snprintf(out->identity, sizeof(out->identity), "NVMe1R%02u %s %s %s", suite, hostnqn, subnqn, digest);
        snprintf(context, sizeof(context), "%02u %s", suite, digest);
        ok = ok && expand_label(md, retained, old, "nvme-tls-psk", context, out->key);
    }
    OPENSSL_cleanse(retained, sizeof(retained));
    if (!ok)
        OPENSSL_cleanse(out, sizeof(*out));
    return ok ? 0 : -EINVAL;
}
