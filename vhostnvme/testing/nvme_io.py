"""I/O commands beyond reading and writing, and their data: Copy, fused pairs, marks, reservations.

Layouts from NVMe Base 2.0c section 7 and NVM Command Set 1.0c section 3.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from vhostnvme.testing.nvme import Io, Sqe

FUSE_FIRST = 1
FUSE_SECOND = 2
FUA = 1 << 30
LIMITED_RETRY = 1 << 31


def copy(nsid: int, to_lba: int, nr_ranges: int, *, form: int = 0, control: int = 0) -> Sqe:
    """Copy of `nr_ranges` source ranges, given by `copy_ranges` in the same descriptor `form`."""
    return Sqe(
        Io.COPY,
        nsid=nsid,
        cdw10=to_lba & 0xFFFFFFFF,
        cdw11=to_lba >> 32,
        cdw12=(nr_ranges - 1) & 0xFF | form << 8 | control,
    )


def copy_ranges(ranges: Iterable[tuple[int, int]], *, form: int = 0) -> bytes:
    """The data of Copy: (first LBA, number of blocks) each, in descriptor format 0h or 1h."""
    entry = "<QQH6xIHH" if form == 0 else "<QQH8x10xHH"
    tags = (0, 0, 0) if form == 0 else (0, 0)
    return b"".join(struct.pack(entry, 0, lba, blocks - 1, *tags) for lba, blocks in ranges)
