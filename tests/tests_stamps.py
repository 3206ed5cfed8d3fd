"""An oracle outside of the processes that a test kills: what each block may hold.

Every block that is written holds its own address, a generation that no other write has, and a CRC.
A block must hold the generation that was acknowledged last; where a write was in flight when its
server died, or failed, that one is allowed as well.
"""

from __future__ import annotations

import random
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from tests_protocol import BLOCK, PAGE

from vhostnvme.testing import Buffer, NvmeHost, nvme
from vhostnvme.testing.nvme import Completion

LONGEST = 64  # blocks of one command
STAMP = struct.Struct("<QQI")  # LBA, generation, CRC of the rest and these two
_ZEROS = bytes(BLOCK)
_FUA = 1 << 30


def stamped(lba: int, generation: int) -> bytes:
    body = (generation * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
    body = (body * (BLOCK // 8))[: BLOCK - STAMP.size]
    crc = zlib.crc32(struct.pack("<QQ", lba, generation) + body)
    return STAMP.pack(lba, generation, crc) + body


def generation_of(lba: int, block: bytes) -> int:
    """0 for a block of zeros; raises for what nobody has written there."""
    if not any(block):
        return 0
    found, generation, crc = STAMP.unpack_from(block)
    body = block[STAMP.size :]
    assert zlib.crc32(struct.pack("<QQ", found, generation) + body) == crc, f"LBA {lba} is torn"
    assert found == lba, f"LBA {lba} holds what was written to {found}"
    return int(generation)


@dataclass(frozen=True, slots=True)
class Command:
    """One in flight. `generation` None: a read."""

    span: range
    generation: int | None
    data: Buffer | None


@dataclass
class Oracle:
    """The generation of each block that was acknowledged last, and the commands in flight.

    Attributes:
        failed: generations of writes that ended with an error since then, by block: each may have
            been carried out, or not, or be carried out yet. A newer write that is acknowledged
            rules them out for good.
    """

    blocks: int
    acknowledged: list[int] = field(default_factory=list)
    inflight: dict[tuple[int, int], Command] = field(default_factory=dict)
    busy: set[int] = field(default_factory=set)
    failed: dict[int, set[int]] = field(default_factory=dict)
    last: int = 0
    total: int = 0
    errors: int = 0

    def __post_init__(self) -> None:
        self.acknowledged = self.acknowledged or [0] * self.blocks

    def begin(self, key: tuple[int, int], command: Command) -> None:
        self.inflight[key] = command
        self.busy.update(command.span)

    def done(self, qid: int, completion: Completion, *, may_fail: bool = False) -> Buffer | None:
        """Takes a completion; returns the command's buffer, which is free now."""
        command = self.inflight.pop((qid, completion.cid))
        assert completion.ok or may_fail, str(completion)
        self.busy.difference_update(command.span)
        if command.generation is None:
            if completion.ok:
                assert command.data is not None
                self.check_read(command.span, command.data.get(len(command.span) * BLOCK))
        elif completion.ok:
            for lba in command.span:
                self.acknowledged[lba] = command.generation
                self.failed.pop(lba, None)
            self.total += 1
        else:
            for lba in command.span:
                self.failed.setdefault(lba, set()).add(command.generation)
        self.errors += not completion.ok
        return command.data

    def check_read(self, span: range, content: bytes) -> None:
        """What has been read of blocks that nobody was writing."""
        for index, lba in enumerate(span):
            self._check_block(lba, content[index * BLOCK : (index + 1) * BLOCK], set())

    def check(self, content: bytes) -> None:
        """All blocks are as they must be; what was in flight counts from now on as it was found."""
        allowed: dict[int, set[int]] = {}
        for command in self.inflight.values():
            if command.generation is not None:
                allowed.update({lba: {command.generation} for lba in command.span})
        for lba in range(self.blocks):
            block = content[lba * BLOCK : (lba + 1) * BLOCK]
            found = self._check_block(lba, block, allowed.get(lba, set()))
            if lba in allowed:
                self.acknowledged[lba] = found
        self.inflight.clear()
        self.busy.clear()

    def _check_block(self, lba: int, block: bytes, more: set[int]) -> int:
        expected = self.acknowledged[lba]
        if block == (stamped(lba, expected) if expected else _ZEROS):
            return expected
        found = generation_of(lba, block)
        good = {expected} | more | self.failed.get(lba, set())
        assert found in good, f"LBA {lba} holds generation {found}, not one of {good}"
        return found


@dataclass
class Load:
    """Commands of a host, on two queues, that the oracle knows.

    Attributes:
        reads: the part of them that reads.
        may_fail: whether a completion may tell of an error.
    """

    host: NvmeHost
    oracle: Oracle
    rng: random.Random
    depth: int = 32
    reads: float = 0.0
    may_fail: bool = False
    free: list[Buffer] = field(default_factory=list)

    def start(self) -> None:
        """Enables the controller and makes its queues."""
        self.host.enable()
        self.free = [self.host.alloc(LONGEST * BLOCK + PAGE) for _ in range(self.depth)]
        for qid in (1, 2):
            assert self.host.create_cq(qid, self.depth).ok
            assert self.host.create_sq(qid, self.depth, qid).ok

    def run(self, over: Callable[[], bool]) -> None:
        """Keeps both queues filled until `over`, and takes what has completed by then."""
        while True:
            last_look = over()
            if not last_look:
                self._fill()
            self.poll()
            if last_look:
                return

    def poll(self) -> None:
        for qid in (1, 2):
            for completion in self.host.poll(qid):
                data = self.oracle.done(qid, completion, may_fail=self.may_fail)
                if data is not None:
                    self.free.append(data)

    def _fill(self) -> None:
        for qid in (1, 2):
            while self.free and self.host.handle.inflight(qid) < self.depth // 2:
                if not self._submit(qid):
                    break
            self.host.handle.ring(qid)

    def _submit(self, qid: int) -> bool:
        rng, oracle = self.rng, self.oracle
        count = rng.choice([1, 1, 2, 8, 8, 17, LONGEST])
        span = range(start := rng.randrange(oracle.blocks - count + 1), start + count)
        if not oracle.busy.isdisjoint(span):
            return False
        if rng.random() < self.reads:
            data = self.free.pop()
            sqe = data.point(nvme.read(1, start, count), count * BLOCK)
            command = Command(span, None, data)
        elif rng.random() < 0.1:
            sqe, command = nvme.write_zeroes(1, start, count), Command(span, 0, None)
        else:
            oracle.last += 1
            data = self.free.pop()
            data.put(b"".join(stamped(lba, oracle.last) for lba in span))
            sqe = nvme.write(1, start, count, control=rng.choice([0, 0, 0, _FUA]))
            sqe = data.point(sqe, count * BLOCK)
            command = Command(span, oracle.last, data)
        cid = self.host.submit(qid, sqe, doorbell=False)
        oracle.begin((qid, cid), command)
        return True


class Fault:
    """What happens to a loaded disk, on a thread of its own, between two pauses."""

    def __init__(self, fault: Callable[[], None], before_s: float, after_s: float) -> None:
        self._failures: list[BaseException] = []

        def happen() -> None:
            try:
                time.sleep(before_s)
                fault()
                time.sleep(after_s)
            except BaseException as error:
                self._failures.append(error)

        self._thread = threading.Thread(target=happen)
        self._thread.start()

    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        """Waits for its end; it must have come about as it should."""
        self._thread.join()
        assert not self._failures, self._failures
