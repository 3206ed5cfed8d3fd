/* What a controller may send to a host's connection. */
#include "fuzz_conn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_conn(VN_PDU_HOST, data, size);
}
