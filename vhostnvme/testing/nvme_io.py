"""I/O commands beyond reading and writing, and their data: Copy, fused pairs, marks, reservations.

Layouts from NVMe Base 2.0c section 7 and NVM Command Set 1.0c section 3.2.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass

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


HOST_IDENTIFIER = 0x81  # features
RESERVATION_MASK = 0x82
RESERVATION_PERSISTENCE = 0x83
RESERVATION_LOG = 0x80
IGNORE_KEY = 1 << 3


class Kind(enum.IntEnum):
    """Reservation types."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 2
    WRITE_EXCLUSIVE_REGISTRANTS = 3
    EXCLUSIVE_ACCESS_REGISTRANTS = 4
    WRITE_EXCLUSIVE_ALL = 5
    EXCLUSIVE_ACCESS_ALL = 6


class Notice(enum.IntEnum):
    """What a reservation notification tells."""

    REGISTRATION_PREEMPTED = 1
    RESERVATION_RELEASED = 2
    RESERVATION_PREEMPTED = 3


def register(nsid: int, action: int, *, persist: int = 0, flags: int = 0) -> Sqe:
    """Action 0 registers, 1 unregisters, 2 replaces; its data: `keys(current, new)`."""
    return Sqe(Io.RESERVATION_REGISTER, nsid=nsid, cdw10=action | flags | persist << 30)


def acquire(nsid: int, action: int, kind: int, *, flags: int = 0) -> Sqe:
    """Action 0 acquires, 1 preempts, 2 preempts and aborts; its data: `keys(current, theirs)`."""
    return Sqe(Io.RESERVATION_ACQUIRE, nsid=nsid, cdw10=action | flags | kind << 8)


def release(nsid: int, action: int, kind: int, *, flags: int = 0) -> Sqe:
    """Action 0 releases, 1 clears; its data: `keys(current)`."""
    return Sqe(Io.RESERVATION_RELEASE, nsid=nsid, cdw10=action | flags | kind << 8)


def report(nsid: int, length: int, *, extended: bool = False) -> Sqe:
    """Reservation Report of `length` bytes."""
    return Sqe(Io.RESERVATION_REPORT, nsid=nsid, cdw10=length // 4 - 1, cdw11=int(extended))


def keys(current: int, other: int = 0) -> bytes:
    return struct.pack("<QQ", current, other)


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered controller, of a report."""

    cntlid: int
    holds: bool
    key: int
    host: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """What Reservation Report says."""

    generation: int
    kind: int
    persists: bool
    controllers: list[Registered]

    @classmethod
    def of(cls, data: bytes, *, extended: bool = False) -> Report:
        """Of the bytes that the command has answered."""
        generation, kind, count, persists = struct.unpack_from("<IBH2xB", data)
        controllers = []
        for at in range(count):
            if extended:
                cntlid, status, key = struct.unpack_from("<HB5xQ", data, 64 + 64 * at)
                host = data[64 + 64 * at + 16 :][:16]
            else:
                cntlid, status, host, key = struct.unpack_from("<HB5x8sQ", data, 24 + 24 * at)
            controllers.append(Registered(cntlid, bool(status & 1), key, host))
        return cls(generation, kind, bool(persists), controllers)
