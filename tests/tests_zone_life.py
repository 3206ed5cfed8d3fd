"""A load on a zoned namespace, and an oracle of what its zones may hold when its server is killed.

Each zone gets either one action at a time, or appends, several at once. Blocks carry the number of
the command that wrote them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests_protocol import BLOCK, PAGE

from vhostnvme.testing import zns
from vhostnvme.testing.queues import Buffer
from vhostnvme.testing.zns import Action, State, ZonedQueue

LONGEST = 8  # blocks of one append
_ACTIONS = [Action.RESET] * 4 + [Action.FINISH, Action.CLOSE, Action.OPEN]


def stamp(command: int, index: int) -> bytes:
    return (command << 8 | index).to_bytes(8, "little") * (BLOCK // 8)


@dataclass
class Past:
    """A zone as far as it was acknowledged: blocks from its start on, and what may come."""

    acknowledged: dict[int, tuple[int, int]] = field(default_factory=dict)  # place: command, index
    finished: bool = False
    appends: dict[int, int] = field(default_factory=dict)  # in flight: command, blocks
    action: Action | None = None  # in flight

    @property
    def end(self) -> int:
        return max(self.acknowledged, default=-1) + 1


@dataclass(frozen=True)
class _Command:
    zone: int
    blocks: int  # 0: an action
    number: int
    buffer: Buffer | None


class ZoneLife:
    """The load, on a queue of its host's, and what became of it."""

    def __init__(self, nr_zones: int, size: int, capacity: int, rng: random.Random) -> None:
        self.zones = [Past() for _ in range(nr_zones)]
        self.size, self.capacity = size, capacity
        self.rng = rng
        self.number = 0
        self.acknowledged = 0

    def run(self, queue: ZonedQueue, is_over: Callable[[], bool]) -> None:
        """Raises what the host does when its server dies."""
        inflight: dict[int, _Command] = {}
        buffers = [queue.queue.host.alloc(PAGE) for _ in range(32)]
        while not is_over():
            while buffers and len(inflight) < 24:
                self._submit(queue, inflight, buffers)
            for completion in queue.queue.poll():
                command = inflight.pop(completion.cid)
                if command.buffer:
                    buffers.append(command.buffer)
                self._done(command, completion.ok, zns.place_of(completion))

    def _submit(
        self, queue: ZonedQueue, inflight: dict[int, _Command], buffers: list[Buffer]
    ) -> None:
        index = self.rng.randrange(len(self.zones))
        zone = self.zones[index]
        if zone.action is not None:
            return
        start = index * self.size
        self.number += 1
        if not zone.appends and self.rng.random() < 0.15:
            zone.action = self.rng.choice(_ACTIONS)
            cid = queue.queue.submit(zns.send(zone.action, start))
            inflight[cid] = _Command(index, 0, self.number, None)
            return
        blocks = self.rng.randint(1, LONGEST)
        buffer = buffers.pop()
        buffer.put(b"".join(stamp(self.number, n) for n in range(blocks)))
        sqe = zns.append(start, blocks, fua=self.rng.random() < 0.1)
        zone.appends[self.number] = blocks
        cid = queue.queue.submit(buffer.point(sqe, blocks * BLOCK))
        inflight[cid] = _Command(index, blocks, self.number, buffer)

    def _done(self, command: _Command, ok: bool, place: int) -> None:
        zone = self.zones[command.zone]
        if command.blocks:
            del zone.appends[command.number]
            for n in range(command.blocks if ok else 0):
                zone.acknowledged[place - command.zone * self.size + n] = (command.number, n)
        else:
            if ok and zone.action is Action.RESET:
                zone.acknowledged, zone.finished = {}, False
            zone.finished |= ok and zone.action is Action.FINISH
            zone.action = None
        self.acknowledged += ok

    def check(self, queue: ZonedQueue) -> None:
        """What is there now is what may be there; from now on it is what was acknowledged."""
        for index, found in enumerate(queue.zones()):
            data = queue.queue.read(index * self.size, self.size)
            blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
            self.check_zone(index, found, blocks)

    def check_zone(self, index: int, found: zns.Zone, blocks: list[bytes]) -> None:
        """The same of one, whose blocks these are."""
        zone = self.zones[index]
        resets = zone.action is Action.RESET
        where = f"zone {index}, {found.state.name}, {zone.action}"
        full = found.state is State.FULL
        end = self.capacity if full else found.written
        if resets and found.state is State.EMPTY:
            assert not any(map(any, blocks)), where
            self.zones[index] = Past()
            return
        most = zone.end + sum(zone.appends.values())
        may_be_full = zone.finished or zone.action is Action.FINISH or most >= self.capacity
        assert not full or may_be_full, where
        assert full or not zone.finished, where
        assert zone.end <= end, f"{where}: {end} below {zone.end}"
        assert full or end <= most, f"{where}: {end} beyond {most}"
        assert found.state in (State.EMPTY, State.CLOSED, State.FULL), where
        for at, block in enumerate(blocks):
            self._check_block(zone, at, block, f"{where}, block {at}", written=at < end)
        after = Past(finished=full)
        for at in range(end):
            after.acknowledged[at] = divmod(int.from_bytes(blocks[at][:8], "little"), 256)
        self.zones[index] = after

    def _check_block(self, zone: Past, at: int, block: bytes, where: str, *, written: bool) -> None:
        if not any(block):
            erased = zone.action is Action.RESET  # perhaps half of it
            assert at not in zone.acknowledged or erased or zone.acknowledged[at][0] == 0, where
            return
        assert written, f"{where}: above the write pointer"
        command, n = divmod(int.from_bytes(block[:8], "little"), 256)
        if at in zone.acknowledged:
            assert (command, n) == zone.acknowledged[at], where
        else:
            assert n < zone.appends.get(command, 0), where
        assert block == stamp(command, n), f"{where}: torn"
