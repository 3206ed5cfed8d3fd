"""Draws what befalls namespaces that are kept as copies; see draw.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from vhostnvme.cluster.commands import Part
from vhostnvme.testing.simulator import events as ev
from vhostnvme.testing.simulator.events import MIB, TTL_S

# One copy of a namespace is lost for a while: its card, the way to it, its SSD.
LOSSES = ("crash", "crash", "pause", "cut", "cut", "error", "hang", "die", "vanish")


class MirrorDraws:
    """A part of Draw."""

    _rng: random.Random
    _names: list[str]
    _events: list[ev.Event]
    _gone: set[str]
    _may_forget: bool
    _add_event: Callable[..., None]
    _any: Callable[[], str]
    _short: Callable[[], float]
    _vm: Callable[[str], str]
    _on_device: Callable[..., None]

    # --- Faults ---

    def _sick_ssd(self, at: float) -> None:
        rng = self._rng
        self._add_event(
            ev.SsdFault, at, self._any(), ssd=rng.randrange(2),
            how=rng.choice(("error", "error", "hang", "hang", "vanish", "die")),
            size=rng.choice((0, 1)), for_s=self._short(),
        )  # fmt: skip

    def _failing_ssd(self, at: float) -> None:
        on = self._rng.random() < 0.6
        self._add_event(ev.SsdFailing, at, self._any(), ssd=self._rng.randrange(2), on=on)

    def _mirrored(self, at: float) -> tuple[str, int, list[str]]:
        """A device with a copy on a card of which we know: its card, its event, other cards."""
        rng = self._rng
        card = self._any()
        others = [name for name in self._names if name != card]
        rng.shuffle(others)
        places = ("auto", "remote", *others[:1], *others[:1])
        place = rng.choice(places)  # one that is named has the first copy
        self._add_event(
            ev.Create, at, card, vm=self._vm(card), parts=(Part(MIB, place, copies=2),),
            named=True, priority=100, wait_s=1.0, throw_away=False,
        )  # fmt: skip
        return card, self._events[-1].ident, others

    def _lose(self, at: float, owner: str, giver: str) -> None:
        rng = self._rng
        how = rng.choice(LOSSES)
        length = round(rng.choice((0.3, 1.0, 3.0, 6.0)) * rng.uniform(0.5, 1.5), 3)
        if how == "crash":
            self._add_event(ev.Crash, at, giver, down_s=length)
        elif how == "pause":
            self._add_event(ev.Pause, at, giver, for_s=length)
        elif how == "cut" and owner != giver:
            self._add_event(ev.CutPeer, at, owner, peer=giver, for_s=length)
        else:
            how = "error" if how == "cut" else how
            self._add_event(
                ev.SsdFault, at, giver, ssd=0, how=how, size=rng.choice((0, 1)), for_s=length
            )

    def _lost_copy(self, at: float) -> None:
        """Copies fail, one after the other or both; sometimes their owner ends meanwhile."""
        rng = self._rng
        owner, device, others = self._mirrored(at)
        at += rng.uniform(0.5, 1.5)
        promoted = rng.random() < 0.3
        if promoted:  # one is known to lack something when the other goes for long
            self._lose(at, owner, others[0] if others else owner)
            at += rng.choice((0.8, 1.5))
        for _ in range(rng.choice((1, 2, 2, 3))):
            self._lose(at, owner, rng.choice([owner, *others]))
            at += rng.choice((0.0, 0.2, 0.8, 2.0, 4.0))
        if promoted:
            for leg in range(3):
                self._add_event(ev.Promote, at - 0.5, owner, target=device, nth=0, leg=leg)
        if rng.random() < 0.4:
            effect = rng.choice(("LegOut", "LegIn", "LegCounts", "LegDrop", "Txn", "Write"))
            self._add_event(
                ev.CrashAt, at - 1.0, owner, effect=effect, nth=rng.randint(1, 2),
                after=rng.random() < 0.5, down_s=self._short(),
            )  # fmt: skip

    def _late_record(self, at: float) -> None:
        """A copy comes back, the store is told of that late, and the copy fails again."""
        rng = self._rng
        owner, _, others = self._mirrored(at)
        giver = rng.choice([owner, *others])
        at += rng.uniform(0.5, 1.5)
        self._lose(at, owner, giver)
        self._add_event(
            ev.BadRecord, at, owner, nth=rng.randint(1, 5),
            how=rng.choice(("lost", "unanswered", "late", "late")),
            late_s=round(rng.uniform(1.0, 8.0), 3),
        )  # fmt: skip
        for _ in range(rng.choice((1, 2))):
            at += rng.uniform(1.0, 6.0)
            self._lose(at, owner, giver)

    def _lost_mirror(self, at: float) -> None:
        """A copy fails, then the owner is away for longer than its lease, and others adopt."""
        rng = self._rng
        owner, device, others = self._mirrored(at)
        if not others:
            return
        at += rng.uniform(0.5, 1.5)
        if rng.random() < 0.7:
            self._lose(at, owner, rng.choice((others[0], rng.choice(others))))
            at += rng.choice((0.1, 0.6, 1.0, 2.0))
        if self._may_forget and not self._gone:
            self._gone.add(rng.choice(others))
            self._add_event(ev.Leave, at, *self._gone)
        away = rng.choice((ev.Crash, ev.Pause, ev.CutStore, ev.CutStore))
        length = round(TTL_S * rng.uniform(1.5, 5.0), 3)
        self._add_event(away, at, owner, **{"down_s" if away is ev.Crash else "for_s": length})
        at += TTL_S * rng.uniform(0.95, 1.5)
        for _ in range(rng.choice((1, 2, 3))):
            self._add_event(
                ev.Adopt, at, rng.choice(others), target=device, force=rng.random() < 0.5
            )
            at += rng.choice((0.0, 0.01, 0.3, 1.0))

    # --- Orders ---

    def _move(self, at: float) -> None:
        rng = self._rng
        more: dict[str, Any] = {
            "nth": rng.randrange(2),
            "to": rng.choice(("", "ssd0", "ssd1", *self._names, *self._names)),
            "source": rng.choice(("", "", "", *self._names)),
        }
        self._on_device(ev.Move, at, **more)

    def _drain(self, at: float) -> None:
        card = self._any()
        self._add_event(ev.Drain, at, card, on=True)
        if self._rng.random() < 0.8:
            self._add_event(ev.Drain, at + self._rng.uniform(0.5, 10.0), card, on=False)

    def _promote(self, at: float) -> None:
        rng = self._rng
        self._on_device(ev.Promote, at, nth=rng.randrange(2), leg=rng.randrange(3))
