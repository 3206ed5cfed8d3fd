"""The cycles: a fault under load, its end, all copies in sync again, and a comparison of all."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vhostnvme.errors import PeerError
from vhostnvme.testing.recovery.bed import Bed, Copy
from vhostnvme.testing.recovery.faults import KINDS, Deck, Fault, draw_fault
from vhostnvme.testing.recovery.load import (
    GuestLoad,
    LoadResult,
    kernel_complaints,
    mark_kernel_log,
)

__all__ = ["PAUSE_S_MAX", "Cycle", "run_cycles", "summary"]

PAUSE_S_MAX = 5.0  # QEMU's client gives a silent device up after that
SYNC_S = 120.0
HOLD_S_MAX = 8.0
AGAIN_S_MAX = 1.5
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Cycle:
    """How one went.

    `strikes`: how often the fault came; `hold_s`: from its first beginning to its last end;
    `sync_s`: from there to all in sync.
    """

    number: int
    fault: Fault
    strikes: int
    hold_s: float
    sync_s: float
    load: LoadResult
    copies: Sequence[Copy]

    @property
    def in_bound(self) -> bool:
        return self.load.pause_s < PAUSE_S_MAX

    def __str__(self) -> str:
        load = self.load
        places = " and ".join(f"{copy.card}/{copy.ssd}" for copy in self.copies)
        twice = ", twice" if self.strikes > 1 else ""
        over = "" if self.in_bound else f"  PAUSE OVER {PAUSE_S_MAX:g} s"
        return (
            f"{self.number}: {self.fault}{twice}, for {self.hold_s:.1f} s: longest pause"
            f" {load.pause_s:.2f} s (prober {load.probe_pause_s:.2f}), in sync after"
            f" {self.sync_s:.1f} s; {load.checked_bytes / 2**20:.0f} MiB checked, the same on"
            f" {places}{over}"
        )


async def run_cycles(
    bed: Bed, count: int, dice: random.Random, tell: Callable[[Cycle], object] = lambda cycle: None
) -> list[Cycle]:
    """`tell` gets each as it ends. A pause over the bound is in the result, and no error here.

    Raises:
        PeerError: the guest saw an error, copies differ, or are not in sync within SYNC_S; or space
            of earlier copies is not given back in the end.
        VhostNvmeError: a card does not do what it is told.
    """
    done = []
    deck = Deck(dice)
    load = GuestLoad(bed.guest, bed.node, bed.plan.size)
    copies = await wait_in_sync(bed, "at the start")
    for number in range(1, count + 1):
        fault = draw_fault(dice, deck.draw(), copies)
        cycle = await _cycle(bed, load, number, fault, dice)
        copies = cycle.copies
        done.append(cycle)
        tell(cycle)
    await _wait_given_back(bed, copies)
    return done


async def _cycle(
    bed: Bed, load: GuestLoad, number: int, fault: Fault, dice: random.Random
) -> Cycle:
    mark = f"cycle {number} begins"
    await mark_kernel_log(bed.guest, mark)
    await load.begin()
    await asyncio.sleep(dice.uniform(1.5, 4.0))
    # The second time, the copy is mostly about to be brought up to date.
    strikes = dice.choice((1, 1, 2))
    began = time.monotonic()
    for strike in range(strikes):
        if strike:
            await asyncio.sleep(dice.uniform(0.0, AGAIN_S_MAX))
        await fault.begin(bed)
        try:
            await asyncio.sleep(dice.uniform(0.3, HOLD_S_MAX / strikes))
        finally:
            await fault.heal(bed)
    healed = time.monotonic()
    copies = await wait_in_sync(bed, f"after cycle {number} ({fault})")
    synced = time.monotonic()
    result = await load.end()
    if said := await kernel_complaints(bed.guest, mark):
        raise PeerError(f"cycle {number} ({fault}): the guest's kernel complains: {said[:5]}")
    copies = await wait_in_sync(bed, f"after the load of cycle {number} ({fault})")
    await _compare(bed, copies, f"cycle {number} ({fault})")
    return Cycle(number, fault, strikes, healed - began, synced - healed, result, copies)


async def wait_in_sync(bed: Bed, when: str) -> Sequence[Copy]:
    """Until the owner says that there are as many copies as there shall be, all of them in sync.

    Raises:
        PeerError: not within SYNC_S.
    """
    deadline = time.monotonic() + SYNC_S
    while True:
        look = await bed.look()
        in_sync = [copy for copy in look.copies if copy.standing == "in-sync"]
        if look.safety == "safe" and len(in_sync) == len(look.copies) == bed.plan.copies:
            return look.copies
        if time.monotonic() > deadline:
            raise PeerError(f"{when}: not in sync within {SYNC_S:g} s: {look}")
        await asyncio.sleep(_LOOK_S)


async def _wait_given_back(bed: Bed, copies: Sequence[Copy]) -> None:
    """Until the copies' space is all that the SSDs hold."""
    expected = sorted((copy.card, copy.uuid) for copy in copies)
    deadline = time.monotonic() + SYNC_S
    while (found := sorted(await bed.spaces())) != expected:
        if time.monotonic() > deadline:
            raise PeerError(f"on the SSDs is {found}, and there should be {expected}")
        await asyncio.sleep(_LOOK_S)


async def _compare(bed: Bed, copies: Sequence[Copy], when: str) -> None:
    digests = [*await bed.digests(copies), await bed.guest_digest()]
    if len(set(digests)) > 1:
        names = [*map(str, copies), "guest"]
        found = [f"{name}: {digest[:16]}" for name, digest in zip(names, digests, strict=True)]
        raise PeerError(f"{when}: copies differ: {', '.join(found)}")


def summary(cycles: Sequence[Cycle]) -> str:
    """The longest pause of each kind of fault, and what was checked."""
    lines = [f"{'fault':12} {'cycles':>6} {'longest pause':>13} {'longest way back':>16}"]
    for kind in KINDS:
        if found := [cycle for cycle in cycles if cycle.fault.kind == kind]:
            pause_s = max(cycle.load.pause_s for cycle in found)
            sync_s = max(cycle.sync_s for cycle in found)
            lines.append(f"{kind:12} {len(found):6} {pause_s:11.2f} s {sync_s:14.1f} s")
    checked = sum(cycle.load.checked_bytes for cycle in cycles)
    written = sum(cycle.load.written_bytes for cycle in cycles)
    over = sum(not cycle.in_bound for cycle in cycles)
    lines.append(
        f"{len(cycles)} cycles, {written / 2**30:.2f} GiB written, {checked / 2**30:.2f} GiB read"
        f" and checked; pauses over {PAUSE_S_MAX:g} s: {over}"
    )
    return "\n".join(lines)
