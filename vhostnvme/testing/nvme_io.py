"""I/O commands beyond reading and writing, and their data: Copy, fused pairs, marks, reservations.

Layouts from NVMe Base 2.0c section 7 and NVM Command Set 1.0c section 3.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from vhostnvme.testing.nvme import Io, Sqe, compare, write

FUSE_FIRST = 1
FUSE_SECOND = 2
FUA = 1 << 30
LIMITED_RETRY = 1 << 31
GET_LBA_STATUS = 0x86


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


def compare_and_write(nsid: int, lba: int, blocks: int) -> tuple[Sqe, Sqe]:
    """A fused pair, to be submitted one behind the other with one ring of the doorbell."""
    first, second = compare(nsid, lba, blocks), write(nsid, lba, blocks)
    return first.with_fields(flags=FUSE_FIRST), second.with_fields(flags=FUSE_SECOND)


def write_uncorrectable(nsid: int, lba: int, blocks: int) -> Sqe:
    """Write Uncorrectable: these blocks cannot be read until they are written."""
    return compare(nsid, lba, blocks).with_fields(opcode=Io.WRITE_UNCORRECTABLE)


def get_lba_status(nsid: int, lba: int, dwords: int, *, kind: int = 0x11, length: int = 0) -> Sqe:
    """Get LBA Status of `length` blocks (0: to the end) from `lba` on, in at most `dwords`."""
    return Sqe(
        GET_LBA_STATUS,
        nsid=nsid,
        cdw10=lba & 0xFFFFFFFF,
        cdw11=lba >> 32,
        cdw12=dwords - 1,
        cdw13=kind << 24 | length,
    )


def lba_status(data: bytes) -> tuple[int, list[tuple[int, int, int]]]:
    """The completion condition, and (first LBA, number of blocks, status) of each descriptor."""
    count, condition = struct.unpack_from("<IB", data)
    entries = [struct.unpack_from("<QIxB", data, 8 + 16 * at) for at in range(count)]
    return condition, [(lba, blocks + 1, status) for lba, blocks, status in entries]
