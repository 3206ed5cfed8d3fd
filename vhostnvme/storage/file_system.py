"""What SSDs ask of a file system beyond Python's own: direct I/O, space set aside, sharing."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

PAGE_BYTES = 4096  # what direct I/O is aligned to, everywhere
_FICLONE = 0x40049409  # linux/fs.h
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY, errno.EXDEV)


def pages(size: int) -> mmap.mmap:
    """Zeros that can be written directly, or read into: at least `size` bytes, in whole pages."""
    return mmap.mmap(-1, max(PAGE_BYTES, -(-size // PAGE_BYTES) * PAGE_BYTES))


def read_direct(fd: int, size: int, offset: int) -> bytes:
    """Whole pages with `size` bytes, or what there is; `fd` may be open for direct I/O."""
    with pages(size) as buffer:
        count = os.preadv(fd, [buffer], offset)
        return buffer[:count]


def open_direct(path: str, flags: int, folder: int | None = None) -> int:
    """Past the page cache where the file system knows how, else through it."""
    flags |= os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.open(path, flags, dir_fd=folder)


def set_aside(fd: int, size: int, in_use: bool = False) -> bool:
    """A file of at least `size` bytes, all of which have blocks; those that are new read as zeros.

    False when the file system cannot do that. Of a file in use its word is taken: a range that is
    being zeroed is without blocks for a moment.
    """
    # libc emulates what the file system lacks, by writing to each block; but not on files that
    # are open to append, where it says EBADF.
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_APPEND)
    try:
        for start, end in _without_blocks(fd, size):
            os.posix_fallocate(fd, start, end - start)
    except OSError as error:
        if error.errno in (*UNSUPPORTED, errno.EBADF):
            return False
        raise
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    # Some take the call and do nothing.
    return in_use or os.fstat(fd).st_blocks * 512 >= size


def _without_blocks(fd: int, size: int) -> list[tuple[int, int]]:
    """Start and end of what has none yet: XFS wants free what it is asked for, used or not."""
    status = os.fstat(fd)
    old = status.st_size
    ranges = []
    at = 0 if status.st_blocks * 512 < old else old
    while at < old:
        at = os.lseek(fd, at, os.SEEK_HOLE)
        if at < old:
            end = _next_data(fd, at, old)
            ranges.append((at, end))
            at = end
    if size > old:
        ranges.append((old, size))
    return ranges


def _next_data(fd: int, at: int, end: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end


def share(source: int, target: int) -> bool:
    """Makes an empty file read as the source does, with the same blocks until one is written.

    False when the file system cannot do that.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True
