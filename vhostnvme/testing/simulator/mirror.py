"""A simulated mirror: one namespace on up to three copies, as docs/decisions/0013-mirror.md has it.

Each namespace that a device has runs as one, a plain one on a single leg. What guests write is a
version of a region; it is answered when all legs that count have it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from vhostnvme.cluster.messages import Failure, FailureKind
from vhostnvme.cluster.mirror_messages import LegState, MirrorSeen
from vhostnvme.cluster.rows import HoldingRow
from vhostnvme.storage.mirror import LEGS_MAX
from vhostnvme.testing.simulator.legs import ATTACHED, SimLeg, Write
from vhostnvme.testing.simulator.path import Path

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.card import Card
    from vhostnvme.testing.simulator.world import World

REGIONS = 4
LEG_TIMEOUT_S = 0.5
CLEAN_S = 1.5
QUEUE_MAX = 6  # commands of guests that wait, or are under way

Bitmap = set[int]  # the regions that may differ; it outlives its card's crash
Answer = Callable[[bool, int], None]


class SimMirror:
    """Of one life of a card. `close` ends it; nothing is heard of it after that."""

    def __init__(self, world: World, card: Card, unit: str, bitmap: Bitmap) -> None:
        self._world = world
        self._card = card
        self._life = card.life
        self._rng = card.rng
        self.unit = unit
        self.bitmap = bitmap
        self.legs = [SimLeg() for _ in range(LEGS_MAX)]
        self.closed = False
        self.held: list[Write] = []
        self._ranges: dict[int, deque[Callable[[], None]]] = {}
        self._waiting = 0  # commands of guests
        self._recent: set[int] = set()
        self._unsure = set(bitmap)
        self._copying = False
        self._telling = False

    def begin(self, legs: Sequence[HoldingRow | None], stale: Sequence[int]) -> bool:
        """Opens the legs that count; False: none can be opened. `stale`: the bitmap knows them."""
        for number, holding in enumerate(legs):
            leg = self.legs[number]
            if holding is not None:
                leg.path = Path(self._world, self._card, holding)
                is_open = leg.path.open()
                leg.state = LegState.IN_SYNC if is_open else LegState.FAILED
                leg.covered = True
            elif number in stale:
                leg.state, leg.covered = LegState.OUT, True
        if not self.in_sync():
            return False
        self._later(CLEAN_S, self._clean)
        self._kick()
        return True

    def close(self) -> None:
        self.closed = True
        for leg in self.legs:
            if leg.path is not None:
                leg.path.close()

    # --- What the managers see ---

    def seen(self) -> MirrorSeen:
        left = {region for leg in self.legs for region in leg.copy} | self._unsure
        return MirrorSeen(
            self.unit,
            tuple(leg.seen() for leg in self.legs),
            dirty=len(self.bitmap),
            left=len(left),
            held=len(self.held),
        )

    def tell(self) -> None:
        """At once: nothing may follow in the caller."""
        if not self.closed:
            self._card.deliver(self._life, self.seen())

    def _tell_soon(self) -> None:
        if not self._telling:
            self._telling = True
            self._later(self._rng.uniform(0.0005, 0.01), self._told)

    def _told(self) -> None:
        self._telling = False
        self.tell()

    def in_sync(self) -> list[int]:
        return self._in(LegState.IN_SYNC)

    def _in(self, *states: LegState) -> list[int]:
        return [number for number, leg in enumerate(self.legs) if leg.state in states]

    def open_holdings(self) -> list[HoldingRow]:
        """Of all that is open, whether it counts or not."""
        return [leg.path.holding for leg in self.legs if leg.path is not None]

    # --- Time ---

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Not while the card is stopped, and not after its end."""

        def due() -> None:
            if self.closed or self._card.life != self._life:
                return
            if self._card.pauses:
                self._world.engine.after(0.1, due)
                return
            call()

        self._world.engine.after(delay_s, due)

    # --- Guests ---

    def write(self, region: int, version: int) -> None:
        if self._waiting < QUEUE_MAX:
            self._waiting += 1
            write = Write(region, version)
            self._take(region, partial(self._write, write))

    def read(self, region: int) -> None:
        ledger = self._world.ledger
        if not ledger.is_owner(self._card.name, self.unit):
            return
        least = ledger.acknowledged(self.unit, region)
        number = self._preferred()

        def answered(ok: bool, value: int) -> None:
            if ok:
                ledger.read(self._card.name, self.unit, region, value, least)
            elif self._fail(number) and self.in_sync():
                self.read(region)

        self._send(number, region, None, answered)

    def _preferred(self) -> int:
        def rank(number: int) -> tuple[bool, int]:
            path = self.legs[number].path
            return (path is None or not path.is_local, number)

        return min(self.in_sync(), key=rank)

    def _write(self, write: Write) -> None:
        self.bitmap.add(write.region)
        self._recent.add(write.region)
        write.pending = set(self._in(*ATTACHED))
        for number in sorted(write.pending):
            self._send(number, write.region, write.version, partial(self._wrote, write, number))

    def _wrote(self, write: Write, number: int, ok: bool, _value: int) -> None:
        write.pending.discard(number)
        if ok:
            write.good.add(number)
        elif not self._fail(number):
            write.error = True
        if not write.pending:
            self._finish(write)

    def _finish(self, write: Write) -> None:
        """Answers it, unless a leg that counted has failed: then it waits for `leg_out`."""
        if self._in(LegState.FAILED):
            if write not in self.held:
                self.held.append(write)
                self._tell_soon()
            return
        self._waiting -= 1
        if not write.error and write.good & set(self.in_sync()):
            self._world.ledger.acknowledge(self._card, self.unit, write.region, write.version)
        else:
            self._unsure.add(write.region)
            self._kick()
        self._release(write.region)

    # --- Ranges: one command, or one copy, for each region at a time ---

    def _take(self, region: int, go: Callable[[], None]) -> None:
        if region in self._ranges:
            self._ranges[region].append(go)
        else:
            self._ranges[region] = deque()
            go()

    def _release(self, region: int) -> None:
        waiting = self._ranges[region]
        if waiting:
            self._later(0.0, waiting.popleft())
        else:
            del self._ranges[region]

    # --- Legs ---

    def _send(self, number: int, region: int, version: int | None, ended: Answer) -> None:
        """To one leg; when it fails meanwhile, that is the answer."""
        leg, done = self.legs[number], False
        path = leg.path
        assert path is not None

        def answer(ok: bool, value: int) -> None:
            nonlocal done
            if not done:
                done = True
                if cancel in leg.waits:
                    leg.waits.remove(cancel)
                ended(ok, value)

        def cancel() -> None:
            answer(False, 0)

        def late() -> None:
            if not done and not self._fail(number):
                self._later(LEG_TIMEOUT_S, late)  # the last one is waited for

        leg.waits.append(cancel)
        path.command(
            region, version, lambda ok, value: self._later(0.0, partial(answer, ok, value))
        )
        self._later(LEG_TIMEOUT_S, late)

    def _fail(self, number: int) -> bool:
        """False: it is the last that counts, and goes on."""
        leg = self.legs[number]
        if leg.state is LegState.IN_SYNC and self.in_sync() == [number]:
            return False
        if leg.state in ATTACHED:
            lost = leg.state is LegState.REBUILDING
            leg.state = LegState.OUT if lost else LegState.FAILED
            leg.failures += 1
            leg.copy.clear()
            assert leg.path is not None
            leg.path.close()
            self._tell_soon()
            for cancel in list(leg.waits):
                cancel()
        return True

    def leg_out(self, number: int) -> Failure | None:
        leg = self.legs[number]
        if leg.state not in (LegState.FAILED, LegState.OUT):
            return Failure(FailureKind.FAILED, f"leg {number} has not failed")
        leg.state = LegState.OUT
        self._go_on()
        return None

    def _go_on(self) -> None:
        held, self.held = self.held, []
        for write in held:
            self._finish(write)

    def leg_in(self, number: int, holding: HoldingRow, full: bool) -> Failure | None:
        leg = self.legs[number]
        if leg.state not in (LegState.OUT, LegState.NONE):
            return Failure(FailureKind.FAILED, f"leg {number} is there already")
        if self._in(LegState.REBUILDING, LegState.READY):
            return Failure(FailureKind.BUSY, "another leg is being rebuilt: one after the other")
        if not leg.covered and not full:
            return Failure(FailureKind.FAILED, f"leg {number} lacks more than the bitmap knows")
        if leg.path is not None and leg.path.under_way:
            return Failure(FailureKind.BUSY, f"leg {number} still has commands in flight")
        path = Path(self._world, self._card, holding)
        if not path.open():
            return Failure(FailureKind.FAILED, f"{holding.giver} does not let {self._card.name} in")
        leg.path, leg.state = path, LegState.REBUILDING
        leg.copy = set(range(REGIONS)) if full else set(self.bitmap)
        if full:
            leg.covered = False
            self._later(self._rng.uniform(0.0, 0.1), partial(self._cover, leg, path))
        self._kick()
        return None

    def _cover(self, leg: SimLeg, path: Path) -> None:
        if leg.path is path and not leg.covered and leg.state is not LegState.NONE:
            self.bitmap.update(range(REGIONS))
            leg.covered = True
            self.tell()

    def leg_counts(self, number: int) -> Failure | None:
        leg = self.legs[number]
        if leg.state not in (LegState.READY, LegState.IN_SYNC):
            return Failure(FailureKind.FAILED, f"leg {number} has failed since it was ready")
        leg.state = LegState.IN_SYNC
        return None

    def leg_drop(self, number: int) -> Failure | None:
        leg = self.legs[number]
        if leg.state in ATTACHED and not self._fail(number):
            return Failure(FailureKind.FAILED, f"leg {number} is the last that is in sync")
        if leg.path is not None and leg.path.under_way:
            return Failure(FailureKind.BUSY, f"leg {number} still has commands in flight")
        self.legs[number] = SimLeg()
        self._go_on()
        return None

    # --- Copies: what a leg lacks, and what may differ ---

    def _kick(self) -> None:
        if not self._copying:
            self._copying = True
            self._later(self._rng.uniform(0.01, 0.3), self._copy)

    def _copy(self) -> None:
        """One region, from the leg that is read to all others."""
        self._copying = False
        coming = self._in(LegState.REBUILDING)
        todo = {region for number in coming for region in self.legs[number].copy}
        if len(self._in(*ATTACHED)) == 1:
            self._unsure.clear()
        todo |= self._unsure
        if todo:
            self._copying = True
            region = min(todo)
            self._take(region, partial(self._read_to_copy, region))
            return
        for number in coming:
            self.legs[number].state = LegState.READY
            self.legs[number].covered = True
            self._tell_soon()

    def _read_to_copy(self, region: int) -> None:
        source = self._preferred()

        def answered(ok: bool, value: int) -> None:
            if ok:
                self._copy_to(region, source, value)
            else:
                self._fail(source)
                self._end_copy(region, self._rng.uniform(0.1, 0.5))

        self._send(source, region, None, answered)

    def _copy_to(self, region: int, source: int, value: int) -> None:
        self.bitmap.add(region)
        pending = set(self._in(*ATTACHED)) - {source}
        failed = False

        def wrote(number: int, ok: bool, _value: int) -> None:
            nonlocal failed
            pending.discard(number)
            if ok:
                self.legs[number].copy.discard(region)
            elif not self._fail(number):
                failed = True
            if not pending:
                end()

        def end() -> None:
            if not failed:
                self._unsure.discard(region)
            self._end_copy(region, self._rng.uniform(0.01, 0.3))

        for number in sorted(pending):
            self._send(number, region, value, partial(wrote, number))
        if not pending:
            end()

    def _end_copy(self, region: int, delay_s: float) -> None:
        self._release(region)
        self._later(delay_s, self._copy)

    def _clean(self) -> None:
        """Forgets what has not been written lately, once all legs count."""
        if not self._in(LegState.OUT, LegState.FAILED, LegState.REBUILDING, LegState.READY):
            self.bitmap -= {
                region
                for region in self.bitmap
                if region not in self._recent | self._unsure and region not in self._ranges
            }
        self._recent.clear()
        self._later(CLEAN_S, self._clean)
