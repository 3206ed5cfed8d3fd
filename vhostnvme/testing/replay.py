"""What a power failure may leave on a disk, worked out from the log of the record filter.

The filter (``csrc/backend/filter_record.c``) writes down what reaches a backend, in order. A write
is safe once a flush that was submitted after its completion has completed, or at its own completion
when it has FUA (NVMe Base 2.0c, Flush command; NVM Command Set 1.0c, FUA). Until then any part of
it may be there or not, sector by sector: that covers writes dropped, torn and reordered. So each
sector has a set of possible contents, and the check is exact: no sampling of crash images.

Nothing is assumed of the guest, so what it was told comes in from outside as promises: "when the
log was this long, this data was said to be durable". ``promises_of`` derives them from the log
itself, for when the filter is on top of the stack.
"""

from __future__ import annotations

import argparse
import struct
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from random import Random

from vhostnvme.errors import ProtocolError

MAGIC = b"VNRECORD"
VERSION = 1
HEAD = struct.Struct("<8sIIQ")
RECORD_MAGIC = 0x43455256
RECORD = struct.Struct("<IBBHQQQII")
FLAG_FUA = 1
NEVER = sys.maxsize


class Op(IntEnum):
    """``enum vn_op``."""

    READ = 0
    WRITE = 1
    FLUSH = 2
    WRITE_ZEROES = 3
    DEALLOCATE = 4
    COMPARE = 5


class Kind(IntEnum):
    """``enum record_kind``."""

    SUBMIT = 1
    COMPLETE = 2
    RETRACT = 3


@dataclass(frozen=True)
class Event:
    """One record. ``end`` is the length of the log in bytes just after it."""

    kind: Kind
    op: Op
    status: int
    ident: int
    offset: int
    length: int
    flags: int
    data: bytes
    end: int

    @property
    def fua(self) -> bool:
        return bool(self.flags & FLAG_FUA)


@dataclass(frozen=True)
class Log:
    """A parsed log. Sectors of ``sector_size`` bytes are never torn; ``size`` is in bytes."""

    sector_size: int
    size: int
    events: list[Event]


@dataclass(frozen=True)
class Promise:
    """When the log had ``log_bytes``, the guest knew that ``data`` at ``offset`` is durable.

    ``ident`` names the write where it is known. Else the data does, so each write should have
    its own: where several wrote the same, the first counts.
    """

    log_bytes: int
    offset: int
    data: bytes
    ident: int | None = None


@dataclass(frozen=True)
class Violation:
    """Something that must not be. ``log_bytes`` says where in the log."""

    log_bytes: int
    text: str

    def __str__(self) -> str:
        return f"at byte {self.log_bytes} of the log: {self.text}"


@dataclass(eq=False)
class Change:
    """A write, write-zeroes or deallocate. Times are indices of events."""

    event: Event
    submitted: int
    completed: int = NEVER
    succeeded: bool = False
    durable: int = NEVER

    def sector(self, offset: int, sector_size: int) -> bytes:
        """What it puts into the sector at this byte offset."""
        if self.event.op is not Op.WRITE:
            return bytes(sector_size)
        start = offset - self.event.offset
        return self.event.data[start : start + sector_size]


@dataclass
class History:
    """The changes of a log, by time and by sector."""

    log: Log
    changes: list[Change] = field(default_factory=list)
    by_sector: dict[int, list[Change]] = field(default_factory=dict)

    def possible(self, sector: int, time: int, *, power: bool = True) -> list[Change | None]:
        """The changes of which a crash after ``time`` events may leave the sector's content.

        None stands for what was there before the log.

        With ``power`` false only the process dies: what has completed stays, flushed or not.
        """
        begun = [change for change in self.by_sector.get(sector, []) if change.submitted < time]
        safe = [change for change in begun if _safe_at(change, time, power)]
        if not safe:
            return [None, *begun]
        newest = max(change.submitted for change in safe)
        return [change for change in begun if change.completed >= newest]


def _safe_at(change: Change, time: int, power: bool) -> bool:
    if change.event.op is Op.DEALLOCATE:
        return False  # advice: it may have done nothing
    if power:
        return change.durable < time
    return change.succeeded and change.completed < time


# --- Reading ---


def read_log(path: Path) -> Log:
    """Parses a log; a last record that is cut off (the server was killed) is left out.

    Raises:
        ProtocolError: it is not a log, or damaged before its end.
    """
    content = path.read_bytes()
    if len(content) < HEAD.size or not content.startswith(MAGIC):
        raise ProtocolError(f"{path} is not a log of the record filter")
    _, version, sector_size, size = HEAD.unpack_from(content)
    if version != VERSION:
        raise ProtocolError(f"{path} is a log of version {version}; this program reads {VERSION}")
    if not sector_size:
        raise ProtocolError(f"{path} is damaged: it says that a sector has no bytes")
    return Log(sector_size, size, list(_records(path, content)))


def _records(path: Path, content: bytes) -> Iterator[Event]:
    at = HEAD.size
    while at + RECORD.size <= len(content):
        magic, kind, op, status, ident, offset, length, flags, nr_data = RECORD.unpack_from(
            content, at
        )
        data_at = at + RECORD.size
        end = data_at + nr_data
        if end > len(content):
            return
        try:
            if magic != RECORD_MAGIC:
                raise ValueError("no record begins here")
            yield Event(
                Kind(kind), Op(op), status, ident, offset, length, flags, content[data_at:end], end
            )
        except ValueError as error:
            raise ProtocolError(f"{path} is damaged at byte {at}: {error}") from error
        at = end


def history_of(log: Log) -> History:
    """Follows every change to its durability. Assumes a log that ``check_order`` accepts."""
    history = History(log)
    running: dict[int, Change] = {}
    waiting: list[Change] = []  # completed, not yet durable, in order of completion
    covered: dict[int, list[Change]] = {}  # by the flushes in flight
    for time, event in enumerate(log.events):
        if event.op is Op.FLUSH:
            if event.kind is Kind.SUBMIT:
                covered[event.ident] = list(waiting)
            else:
                covers = covered.pop(event.ident, [])
                if event.kind is Kind.COMPLETE and not event.status:
                    for change in covers:
                        change.durable = min(change.durable, time)
                    waiting = [change for change in waiting if change.durable == NEVER]
        elif event.kind is Kind.SUBMIT:
            running[event.ident] = Change(event, time)
        elif event.kind is Kind.COMPLETE and event.ident in running:
            change = running.pop(event.ident)
            change.completed, change.succeeded = time, not event.status
            if change.succeeded and change.event.fua:
                change.durable = time
            elif change.succeeded:
                waiting.append(change)
            history.changes.append(change)
        else:
            running.pop(event.ident, None)  # retracted: it was never there
    history.changes += running.values()
    history.changes.sort(key=lambda change: change.submitted)
    size = log.sector_size
    for change in history.changes:
        start, end = change.event.offset, change.event.offset + change.event.length
        for sector in range(start // size, end // size):
            history.by_sector.setdefault(sector, []).append(change)
    return history


# --- Checking ---


def check_order(log: Log) -> list[Violation]:
    """What no correct stack does: completions without submissions, success after a failed flush."""
    found: list[Violation] = []
    running: dict[int, tuple[int, Event]] = {}
    seen: set[int] = set()
    failed_flush = NEVER
    for time, event in enumerate(log.events):
        name = f"{event.op.name} {event.ident}"
        if event.kind is Kind.SUBMIT:
            if event.ident in seen:
                found.append(Violation(event.end, f"{name} is submitted twice"))
            if event.op is not Op.FLUSH and event.offset + event.length > log.size:
                found.append(Violation(event.end, f"{name} ends behind the disk"))
            if (event.offset | event.length) % log.sector_size:
                found.append(Violation(event.end, f"{name} is not made of whole sectors"))
            if event.op is Op.WRITE and len(event.data) != event.length:
                found.append(Violation(event.end, f"{name} has not the data that it says"))
            seen.add(event.ident)
            running[event.ident] = (time, event)
            continue
        if event.ident not in running:
            found.append(Violation(event.end, f"{name} ends, but is not in flight"))
            continue
        submitted, _ = running.pop(event.ident)
        if event.kind is Kind.RETRACT:
            continue
        if event.op is Op.FLUSH and event.status:
            failed_flush = min(failed_flush, time)
        elif not event.status and submitted > failed_flush:
            found.append(Violation(event.end, f"{name} succeeds after a flush has failed"))
    return found


def promises_of(log: Log) -> Iterator[Promise]:
    """What a guest above the filter may conclude: each write, at the moment it becomes durable."""
    for change in history_of(log).changes:
        if change.durable != NEVER and change.event.op is not Op.DEALLOCATE:
            event = change.event
            data = event.data if event.op is Op.WRITE else bytes(event.length)
            yield Promise(log.events[change.durable].end, event.offset, data, event.ident)


def check_promises(history: History, promises: Iterable[Promise]) -> list[Violation]:
    """For each promise: no crash from that moment on may leave anything older than its data.

    The moment itself is the worst one: later events only make more writes durable, or newer.
    """
    ends = [event.end for event in history.log.events]
    found: list[Violation] = []
    for promise in promises:
        found += _broken(history, promise, bisect_right(ends, promise.log_bytes))
    return found


def _broken(history: History, promise: Promise, time: int) -> Iterator[Violation]:
    size = history.log.sector_size
    for start in range(0, len(promise.data), size):
        offset = promise.offset + start
        want = promise.data[start : start + size]
        sector = offset // size
        source = next(
            (
                change
                for change in history.by_sector.get(sector, [])
                if change.submitted < time
                and promise.ident in (None, change.event.ident)
                and change.sector(offset, size) == want
            ),
            None,
        )
        if source is None:
            yield Violation(promise.log_bytes, f"offset {offset}: the data never came to the disk")
            continue
        for change in history.possible(sector, time):
            if change is None:
                yield Violation(promise.log_bytes, f"offset {offset}: no write to it is durable")
            elif change.completed < source.submitted and change.sector(offset, size) != want:
                name = f"{change.event.op.name} {change.event.ident}"
                yield Violation(
                    promise.log_bytes, f"offset {offset}: may still hold the older {name}"
                )


def check_image(
    history: History, image: Path, *, power: bool = False, before: Path | None = None
) -> list[Violation]:
    """Whether a disk's real content is a possible one at the end of the log.

    Args:
        power: the machine lost power; else only the process ended, and what completed is there.
        before: the disk's content at the log's start; else zeros.
    """
    log, time = history.log, len(history.log.events)
    found: list[Violation] = []
    with image.open("rb") as disk, (before or Path("/dev/zero")).open("rb") as base:
        for sector in sorted(history.by_sector):
            offset = sector * log.sector_size
            disk.seek(offset)
            got = disk.read(log.sector_size)
            for change in history.possible(sector, time, power=power):
                if change is None:
                    base.seek(offset)
                    may_be = base.read(log.sector_size)
                else:
                    may_be = change.sector(offset, log.sector_size)
                if got == may_be:
                    break
            else:
                found.append(
                    Violation(log.events[-1].end, f"offset {offset}: holds what no crash can leave")
                )
    return found


def crash_image(history: History, time: int, random: Random) -> dict[int, bytes]:
    """A disk that a power failure after ``time`` events may leave: sector number -> content.

    Each sector is drawn by itself, so un-flushed writes come out dropped, torn and reordered.
    Sectors that are not in it are as they were at the log's start.
    """
    image: dict[int, bytes] = {}
    size = history.log.sector_size
    for sector in history.by_sector:
        change = random.choice(history.possible(sector, time))
        if change is not None:
            image[sector] = change.sector(sector * size, size)
    return image


def check(path: Path) -> list[Violation]:
    """All that a log shows by itself."""
    log = read_log(path)
    return check_order(log) or check_promises(history_of(log), promises_of(log))


def main(arguments: list[str] | None = None) -> int:
    """Checks a log of the record filter; exits with 1 when something is violated."""
    parser = argparse.ArgumentParser(prog="replay", description=main.__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--image", type=Path, help="the disk, as the killed server left it")
    options = parser.parse_args(arguments)
    log = read_log(options.log)
    found = check(options.log)
    if options.image and not found:
        found = check_image(history_of(log), options.image)
    for violation in found:
        sys.stdout.write(f"{violation}\n")
    sys.stdout.write(f"{len(log.events)} records, {len(found)} violations\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
