/* What a host may send to a controller's connection. */
#include "fuzz_conn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_conn(VN_PDU_CONTROLLER, data, size);
}
