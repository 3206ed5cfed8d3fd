/* DH-HMAC-CHAP, the host's role: a target without the key says what it likes. It is never believed, and the host's machine always
 * comes to an end or waits for it.
 */
#include "fuzz_input.h"

#include "nvmetcp/auth.h"

static void take_one(struct vn_auth *auth, struct input *input) {
    static uint8_t message[VN_AUTH_MESSAGE_MAX];
    uint8_t op = take8(input);
    uint32_t bytes = (uint32_t)take(input, 2) % (VN_AUTH_MESSAGE_MAX + 1);
    memset(message, 0, sizeof(message));
    message[0] = (op & 7) ? VN_AUTH_DHCHAP : VN_AUTH_COMMON;
    message[1] = (op & 7) == 0 ? VN_AUTH_FAILURE1 : auth->state == VN_AUTH_GIVE_CHALLENGE ? VN_AUTH_CHALLENGE : VN_AUTH_SUCCESS1;
    message[4] = 1;
    message[6] = 32 + 16 * (op >> 3 & 1);
    if (message[1] == VN_AUTH_CHALLENGE) {
        message[8] = 1 + (op >> 3 & 1);
        message[9] = message[11] = (op >> 4 & 7) == 7;
        message[12] = 1;
        message[16 + message[6] + 100] = 2;
    } else if (message[1] == VN_AUTH_SUCCESS1) {
        message[8] = op >> 4 & 1;
    }
    for (uint32_t i = 0, nr = take8(input) % 8; i < nr; i++)
        message[take(input, 2) % 1400] = take8(input);
    vn_auth_host_take(auth, message, bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t out[VN_AUTH_MESSAGE_MAX];
    struct input input = {data, size};
    struct vn_auth_key host = {.secret = {1, 2, 3}, .bytes = 32}, ctrl = {.secret = {4, 5, 6}, .bytes = 48};
    struct vn_auth_opts opts = {.hostnqn = "h", .subnqn = "s", .host_key = &host, .ctrl_key = &ctrl, .groups = 3, .t_id = 1};
    struct vn_auth auth;
    MUST(vn_auth_init(&auth, &opts) == 0);
    for (uint32_t sent = 0; input.left > 0;) {
        enum vn_auth_next next = vn_auth_host_next(&auth);
        if (next == VN_AUTH_FINISHED)
            break;
        if (next == VN_AUTH_SEND) {
            MUST(vn_auth_host_give(&auth, out) <= 1168);
            MUST(++sent <= 3);
        } else {
            take_one(&auth, &input);
        }
        MUST(auth.verdict != VN_AUTH_PROVED);
    }
    vn_auth_fini(&auth);
    return 0;
}
