"""Commands and structures of zoned namespaces (Zoned Namespace Command Set 1.1b), for tests."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vhostnvme.testing.nvme import Completion, Sqe, succeeded
from vhostnvme.testing.queues import QueuePair

CSI_ZONED = 2
CC_ALL_SETS = 6 << 4 | 6 << 16 | 4 << 20  # CSS, IOSQES, IOCQES
SEND, RECEIVE, APPEND = 0x79, 0x7A, 0x7D
REPORT, EXTENDED_REPORT = 0, 1
SELECT_ALL = 1 << 8
PARTIAL = 1 << 16
FUA = 1 << 30
HEAD_BYTES = ZONE_BYTES = 64
CHANGED_ZONES_LOG = 0xBF
ZONE_HAS_EXTENSION = 0x80
_ZONE = struct.Struct("<BBBB4xQQQ32x")


class State(enum.IntEnum):
    """ZS of a zone descriptor."""

    EMPTY = 1
    IMPLICIT = 2
    EXPLICIT = 3
    CLOSED = 4
    READ_ONLY = 0xD
    FULL = 0xE
    OFFLINE = 0xF


class Action(enum.IntEnum):
    """ZSA of Zone Management Send."""

    CLOSE = 1
    FINISH = 2
    OPEN = 3
    RESET = 4
    OFFLINE = 5
    SET_EXTENSION = 0x10


class ZoneStatus(enum.IntEnum):
    """Status type and code of these commands, as `nvme.Status`."""

    BOUNDARY = 0x1B8
    FULL = 0x1B9
    READ_ONLY = 0x1BA
    OFFLINE = 0x1BB
    INVALID_WRITE = 0x1BC
    TOO_MANY_ACTIVE = 0x1BD
    TOO_MANY_OPEN = 0x1BE
    INVALID_TRANSITION = 0x1BF
    COMMAND_SET_NOT_ENABLED = 0x12A
    COMBINATION_REJECTED = 0x12B


@dataclass(frozen=True)
class Zone:
    """A zone descriptor; `start`, `wp` and `capacity` in blocks."""

    kind: int
    state: State
    attributes: int
    capacity: int
    start: int
    wp: int
    extension: bytes = b""

    @property
    def written(self) -> int:
        """Blocks from its start to its write pointer."""
        return self.wp - self.start


def _at(lba: int) -> dict[str, int]:
    return {"cdw10": lba & 0xFFFFFFFF, "cdw11": lba >> 32}


def send(action: int, lba: int, *, every: bool = False, nsid: int = 1) -> Sqe:
    return Sqe(SEND, nsid=nsid, cdw13=action | (SELECT_ALL if every else 0), **_at(lba))


def receive(
    lba: int, length: int, *, action: int = REPORT, state: int = 0, partial: bool = False
) -> Sqe:
    """`state`: the value of ZRASF; `length` in bytes, a multiple of 4."""
    fields = action | state << 8 | (PARTIAL if partial else 0)
    return Sqe(RECEIVE, nsid=1, cdw12=length // 4 - 1, cdw13=fields, **_at(lba))


def append(zone_start: int, blocks: int, *, fua: bool = False) -> Sqe:
    return Sqe(APPEND, nsid=1, cdw12=blocks - 1 | (FUA if fua else 0), **_at(zone_start))


def place_of(completion: Completion) -> int:
    """The LBA that an append was given."""
    return completion.result | completion.dword1 << 32


def parse_report(data: bytes, extension: int = 0) -> tuple[int, list[Zone]]:
    """The number of zones that a report names, and the descriptors in it."""
    nr = int.from_bytes(data[:8], "little")
    zones: list[Zone] = []
    step = ZONE_BYTES + extension
    for at in range(HEAD_BYTES, len(data) - step + 1, step):
        if len(zones) == nr:
            break
        kind, state, attributes, _, capacity, start, wp = _ZONE.unpack_from(data, at)
        more = bytes(data[at + ZONE_BYTES : at + step])
        zones.append(Zone(kind, State(state >> 4), attributes, capacity, start, wp, more))
    return nr, zones


class ZonedQueue:
    """A queue pair of a host, with the commands of a zoned namespace 1."""

    def __init__(self, queue: QueuePair) -> None:
        self.queue = queue

    def act(self, action: int, lba: int = 0, *, every: bool = False) -> Completion:
        return self.queue.command(send(action, lba, every=every))

    def must(self, action: int, lba: int = 0, *, every: bool = False) -> None:
        succeeded(f"zone action {action} at {lba}", self.act(action, lba, every=every))

    def write(self, lba: int, data: bytes, *, fua: bool = False) -> Completion:
        sqe = Sqe(1, nsid=1, **_at(lba))
        return self._move(sqe, data, fua)

    def append(self, zone_start: int, data: bytes, *, fua: bool = False) -> Completion:
        return self._move(Sqe(APPEND, nsid=1, **_at(zone_start)), data, fua)

    def _move(self, sqe: Sqe, data: bytes, fua: bool) -> Completion:
        blocks = len(data) // self.queue.block_bytes
        with self.queue.host.alloc(-(-len(data) // 4096) * 4096) as buffer:
            buffer.put(data)
            sqe = sqe.with_fields(cdw12=blocks - 1 | (FUA if fua else 0))
            return self.queue.command(sqe, buffer, len(data))

    def report(
        self,
        lba: int = 0,
        length: int = 65536,
        *,
        state: int = 0,
        partial: bool = False,
        extension: int = 0,
    ) -> tuple[int, list[Zone]]:
        """What one report of `length` bytes answers; an extended one with an `extension`."""
        action = EXTENDED_REPORT if extension else REPORT
        with self.queue.host.alloc(-(-length // 4096) * 4096) as buffer:
            buffer.put(b"\xee" * buffer.size)
            sqe = receive(lba, length, action=action, state=state, partial=partial)
            succeeded(f"report of zones at {lba}", self.queue.command(sqe, buffer, length))
            data = buffer.get(length)
        return parse_report(data, extension)

    def zones(self) -> Iterator[Zone]:
        """All of them, report by report."""
        size = self.zone_blocks
        lba, end = 0, self.queue.host.identify_namespace().nr_blocks
        while lba < end:
            _, zones = self.report(lba, partial=True)
            yield from zones
            lba = zones[-1].start + size

    @property
    def zone_blocks(self) -> int:
        """ZSZE of the format that the namespace has."""
        identity = self.queue.host.identify_namespace()
        index = identity.raw[26] & 0xF
        page = self.queue.host.identify(5, 1, csi=CSI_ZONED)
        return int.from_bytes(page[2816 + 16 * index : 2824 + 16 * index], "little")

    def zone(self, lba: int) -> Zone:
        return self.report(lba, HEAD_BYTES + ZONE_BYTES)[1][0]
