/* Drives, as include/vhostnvme.h has them. Control thread only. */
#include <errno.h>

#include "api.h"
#include "core/util.h"
#include "ctrl/drive.h"

#define ERROR_BYTES 512u

static int begin_on_reactor(void *arg) {
    vn_drive_begin(arg);
    return 0;
}

int vn_drive_create(vn_runtime *rt, const struct vn_drive_opts *opts, vn_drive **out) {
    char error[ERROR_BYTES];
    if (opts->reactor >= rt->nr_reactors)
        return vn_fail(-EINVAL, "there is no reactor %u", opts->reactor);
    int err = vn_drive_open(opts, rt->reactors[opts->reactor], out, error, sizeof(error));
    if (err)
        return vn_fail(err, "%s", error);
    (*out)->owner = rt;
    rt->nr_handles++;
    return vn_reactor_call((*out)->reactor, begin_on_reactor, *out);
}

static int end_on_reactor(void *arg) {
    return vn_drive_end(arg);
}

int vn_drive_destroy(vn_drive *drive) {
    vn_runtime *rt = drive->owner;
    int err = vn_retry_on_reactor(drive->reactor, end_on_reactor, drive, VN_CLOSE_BOUND_MS);
    if (err == -EBUSY)
        return vn_fail(err, "the drive has controllers still: close them first");
    if (err)
        return vn_fail(-ETIMEDOUT, "the drive's state could not be saved within %d s", VN_CLOSE_BOUND_MS / 1000);
    vn_drive_close(drive);
    rt->nr_handles--;
    return 0;
}
