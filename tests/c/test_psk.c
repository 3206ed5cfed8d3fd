/* TLS keys from configured ones: identities that others have published, and keys worked out by other means (see below).
 */
#include "nvmetcp/psk.h"

#include <errno.h>

#include "core/util.h"
#include "vn_test.h"

static const uint8_t configured[48] = {
    0x55, 0x12, 0xdb, 0xb6, 0x73, 0x7d, 0x01, 0x06, 0xf6, 0x59, 0x75, 0xb7, 0x73, 0xdf, 0xb0, 0x11,
    0xff, 0xc3, 0x44, 0xbc, 0xf4, 0x42, 0xe2, 0xdd, 0x6d, 0x8b, 0xc4, 0x87, 0x0b, 0x5d, 0x5b, 0x03,
    0xff, 0xc3, 0x44, 0xbc, 0xf4, 0x42, 0xe2, 0xdd, 0x6d, 0x8b, 0xc4, 0x87, 0x0b, 0x5d, 0x5b, 0x03,
};

#define HOST "nqn.psk-test-host"
#define SUB "nqn.psk-test-subsys"

static const struct {
    uint32_t bytes, hash, version;
    const char *identity;
    const char *key; /* hex: HKDF worked out in Python, from RFC 5869 and RFC 8446; version 2: nvme-cli 2.13 writes such */
} known[] = {
    {32, 1, 0, "NVMe0R01 nqn.psk-test-host nqn.psk-test-subsys",
     "05c6503551ad136e6ee32e6eeb3f6d500b69701d84ec71e328f65c7f51566f68"},
    {32, 1, 1, "NVMe1R01 nqn.psk-test-host nqn.psk-test-subsys iSbjiStwJ/1TrTvDlt2fjFmzvsytOJelidNnA+X5lEU=",
     "8fc3c0badfd4c0c66fa3ca33aadd0314f85536cc9bc47338b60f3e6e563786ca"},
    {32, 0, 0, "NVMe0R01 nqn.psk-test-host nqn.psk-test-subsys",
     "ec85300ba827726bd3bc4fc07f3a34aec5fe7c8ccac05fefc2f021c74e0df9ef"},
    {32, 0, 1, "NVMe1R01 nqn.psk-test-host nqn.psk-test-subsys quJVUJjp/BImWR0UQay/MjSfEgyAr6TyBOWybS/B404=",
     "a45d08ee4639c7570729bb3e57e905e466a49a15ece5401af906830c4d3bdb0b"},
    {48, 2, 0, "NVMe0R02 nqn.psk-test-host nqn.psk-test-subsys",
     "f42ba63824cdfe421914c582921f85b5b5b7e2d4df084caeedc9be20b212e8bb0fe8a23e9d59a1c8fc6449da4970a78d"},
    {48, 2, 1, "NVMe1R02 nqn.psk-test-host nqn.psk-test-subsys QhW2+Rp6RzHlNtCslyRxMnwJ11tKKhz8JCAQpQ+XUD8f9td1VeH5h53yz2wKJG1a",
     "a2b2f943f479fc682555cec89857c80ed004ce92f32a973d5764155bb7e36b17a85368a0666d250afac9282dda2e62ca"},
    {48, 0, 0, "NVMe0R02 nqn.psk-test-host nqn.psk-test-subsys",
     "b5dd464067a9378ba2226d71f005d7ac90ed8696e4b2142084384365597201d33ba26f8aeeb529574d4267bd294a828e"},
    {48, 0, 1, "NVMe1R02 nqn.psk-test-host nqn.psk-test-subsys dyoPfSR5TBRaPMI5/FXUlJv2XMDtmQ7Q9Xrj89aBKbyRYkQeT5V1wNvIpnMDRTQW",
     "1569317890995e207ab4cf148bc53470561e148030cb019b1d87fb4bc5794a791ed5ee68676c952ce5f11f3786e900d4"},
    {32, 1, 2, "NVMe1R01 nqn.psk-test-host nqn.psk-test-subsys 66GuqV08TsAGII39teWUfwQwizjv06Jy8jOcX3NAAzM=",
     "b9f5ab2a41ba6e72a23a12066302a2f775fa6c0942c8e0b18ca8ac07edf305e2"},
    {48, 2, 2, "NVMe1R02 nqn.psk-test-host nqn.psk-test-subsys RsKmYJ3nAn1ApjjMloJFbAkLPivONDAX/xW327YBUsn2eGShXSjCZvBaOxscLqmz",
     "fcefe2e2a2e682b1447dcabf1ec268f78f08c63cd075753abcc8bda2c5c34d48d3014aa8d76ad80107e4f5c9f27e2149"},
};

static void test_known_keys(void) {
    for (size_t i = 0; i < VN_ARRAY_SIZE(known); i++) {
        struct vn_tls_psk psk;
        char hex[97] = "";
        CHECK_EQ(vn_psk_derive(configured, known[i].bytes, known[i].hash, known[i].version, HOST, SUB, &psk), 0);
        CHECK(!strcmp(psk.identity, known[i].identity));
        CHECK_EQ(psk.key_bytes, known[i].bytes);
        CHECK_EQ(psk.hash, known[i].bytes == 32 ? 1 : 2);
        for (uint32_t at = 0; at < psk.key_bytes; at++)
            snprintf(hex + 2 * at, 3, "%02x", psk.key[at]);
        CHECK(!strcmp(hex, known[i].key));
    }
}

static void refused(uint32_t bytes, uint32_t hash, uint32_t version, const char *host, const char *sub) {
    struct vn_tls_psk psk;
    CHECK_EQ(vn_psk_derive(configured, bytes, hash, version, host, sub, &psk), -EINVAL);
}

static void test_what_makes_no_key(void) {
    char longest[224], longer[225];
    struct vn_tls_psk psk;
    memset(longest, 'x', sizeof(longest));
    memset(longer, 'x', sizeof(longer));
    longest[223] = longer[224] = 0;
    refused(31, 0, 0, HOST, SUB);
    refused(0, 0, 0, HOST, SUB);
    refused(48, 1, 0, HOST, SUB);
    refused(32, 2, 0, HOST, SUB);
    refused(32, 3, 0, HOST, SUB);
    refused(32, 1, 3, HOST, SUB);
    refused(32, 1, 0, "", SUB);
    refused(32, 1, 0, HOST, "");
    refused(32, 1, 0, longer, SUB);
    refused(32, 1, 1, HOST, "with space");
    refused(32, 1, 1, "with space", SUB);
    /* Version 0 has no room for two long names, version 1 has. */
    refused(32, 1, 0, longest, longest);
    CHECK_EQ(vn_psk_derive(configured, 48, 2, 1, longest, longest, &psk), 0);
    CHECK_EQ(strlen(psk.identity), 8 + 1 + 223 + 1 + 223 + 1 + 64);
}

int main(void) {
    test_known_keys();
    test_what_makes_no_key();
    return 0;
}
