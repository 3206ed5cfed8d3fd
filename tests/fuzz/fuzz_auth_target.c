/* DH-HMAC-CHAP, the target's role: a host without the key says what it likes, in any order. It is never taken for the one that
 * it claims to be, and what it gets stays in its buffer.
 */
#include "fuzz_input.h"

#include "nvmetcp/auth.h"

static void act(struct vn_auth *auth, struct input *input) {
    static uint8_t message[VN_AUTH_MESSAGE_MAX + 8];
    static const uint8_t types[] = {VN_AUTH_COMMON, VN_AUTH_DHCHAP};
    static const uint8_t ids[] = {VN_AUTH_NEGOTIATE, VN_AUTH_REPLY, VN_AUTH_SUCCESS2, VN_AUTH_FAILURE2};
    uint8_t op = take8(input);
    uint32_t bytes = (uint32_t)take(input, 2) % (VN_AUTH_MESSAGE_MAX + 1);
    memset(message, 0, sizeof(message));
    if (op < 96) {
        memset(message + bytes, 0xa5, 8);
        vn_auth_target_give(auth, message, bytes);
        for (uint32_t i = 0; i < 8; i++)
            MUST(message[bytes + i] == 0xa5);
        return;
    }
    /* Near to a message that means something, else nothing would come far. */
    message[0] = types[op & 1];
    message[1] = ids[op >> 1 & 3];
    message[4] = 1;
    if (message[1] == VN_AUTH_NEGOTIATE) {
        message[7] = 1;
        message[8] = 1;
        message[10] = message[11] = 1;
        message[12] = 1 + (op >> 3 & 1);
        message[42] = (op >> 4 & 3) == 3;
    } else if (message[1] == VN_AUTH_REPLY) {
        message[6] = op >> 3 & 1 ? 48 : 32;
        message[8] = op >> 4 & 1;
        message[11] = op >> 5 & 1;
    }
    for (uint32_t i = 0, nr = take8(input) % 8; i < nr; i++)
        message[take(input, 2) % 1400] = take8(input);
    vn_auth_target_take(auth, message, bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    struct vn_auth_key host = {.secret = {1, 2, 3}, .bytes = 32}, ctrl = {.secret = {4, 5, 6}, .bytes = 48};
    struct vn_auth_opts opts = {.hostnqn = "h", .subnqn = "s", .host_key = &host, .ctrl_key = &ctrl, .groups = 3};
    struct vn_auth auth;
    MUST(vn_auth_init(&auth, &opts) == 0);
    while (input.left > 0) {
        act(&auth, &input);
        MUST(auth.verdict != VN_AUTH_PROVED);
        MUST(vn_auth_words(&auth));
    }
    vn_auth_fini(&auth);
    return 0;
}
