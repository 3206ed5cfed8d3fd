/* The only translator from errno to NVMe status. Called by backends when the system refuses an operation. */
#include "core/status.h"

#include <errno.h>

vn_status vn_status_from_errno(int err, bool is_write) {
    switch (err) {
    case 0:
        return VN_SC_SUCCESS;
    case ENOSPC: /* the file system under a thin file is full: the host may free space and try again */
    case EDQUOT:
    case EFBIG:
        return VN_SC_CAPACITY_EXCEEDED;
    case EROFS:
    case EPERM:
    case EACCES:
    case EBADF:
        return vn_status_dnr(is_write ? VN_SC_NS_WRITE_PROTECTED : VN_SC_ACCESS_DENIED);
    case EOPNOTSUPP:
        return vn_status_dnr(VN_SC_INVALID_OPCODE);
    case EINVAL:
        return vn_status_dnr(VN_SC_INVALID_FIELD);
    case EFAULT: /* the guest's memory went away under the transfer */
        return VN_SC_DATA_TRANSFER_ERROR;
    case ECANCELED:
    case EINTR:
        return VN_SC_ABORT_REQUESTED;
    case ENOMEM:
    case EAGAIN:
    case EBUSY:
        return VN_SC_NS_NOT_READY;
    default: /* EIO, ENODATA (a medium error), ENXIO (the device has gone) and what else a file system invents */
        return is_write ? VN_SC_WRITE_FAULT : VN_SC_UNRECOVERED_READ;
    }
}
