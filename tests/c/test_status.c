/* The only translator from errno to NVMe status.
 */
#include <errno.h>

#include "core/status.h"
#include "vn_test.h"

#define DNR(status) ((vn_status)((status) | VN_STATUS_DNR))

int main(void) {
    CHECK_EQ(vn_status_from_errno(0, true), VN_SC_SUCCESS);
    CHECK_EQ(vn_status_dnr(VN_SC_SUCCESS), VN_SC_SUCCESS); /* a success has nothing to retry */
    CHECK_EQ(vn_status_dnr(VN_SC_WRITE_FAULT), DNR(VN_SC_WRITE_FAULT));

    CHECK_EQ(vn_status_from_errno(EIO, true), VN_SC_WRITE_FAULT);
    CHECK_EQ(vn_status_from_errno(EIO, false), VN_SC_UNRECOVERED_READ);
    CHECK_EQ(vn_status_from_errno(ENODATA, false), VN_SC_UNRECOVERED_READ);
    /* the host may free space and repeat it */
    CHECK_EQ(vn_status_from_errno(ENOSPC, true), VN_SC_CAPACITY_EXCEEDED);
    CHECK_EQ(vn_status_from_errno(EDQUOT, true), VN_SC_CAPACITY_EXCEEDED);
    /* repeating cannot help */
    CHECK_EQ(vn_status_from_errno(EROFS, true), DNR(VN_SC_NS_WRITE_PROTECTED));
    CHECK_EQ(vn_status_from_errno(EACCES, false), DNR(VN_SC_ACCESS_DENIED));
    CHECK_EQ(vn_status_from_errno(EOPNOTSUPP, true), DNR(VN_SC_INVALID_OPCODE));
    CHECK_EQ(vn_status_from_errno(EINVAL, true), DNR(VN_SC_INVALID_FIELD));
    CHECK_EQ(vn_status_from_errno(EFAULT, false), VN_SC_DATA_TRANSFER_ERROR);
    CHECK_EQ(vn_status_from_errno(ECANCELED, true), VN_SC_ABORT_REQUESTED);
    CHECK_EQ(vn_status_from_errno(EAGAIN, true), VN_SC_NS_NOT_READY);

    /* never success for a failure, whatever the number */
    for (int err = 1; err < 4096; err++) {
        CHECK(vn_status_from_errno(err, true) != VN_SC_SUCCESS);
        CHECK(vn_status_from_errno(err, false) != VN_SC_SUCCESS);
        CHECK_EQ(vn_status_from_errno(err, true) & ~(0x7ffu | VN_STATUS_DNR), 0);
    }
    return 0;
}
