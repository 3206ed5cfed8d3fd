"""Draws a schedule: how much of what there is, and when; each history has its own mixture."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from vhostnvme.cluster.commands import Part
from vhostnvme.cluster.records import PRIORITY_DEFAULT
from vhostnvme.testing.simulator import events as ev
from vhostnvme.testing.simulator.draw_mirrors import MirrorDraws
from vhostnvme.testing.simulator.events import MIB, TTL_S

CRASH_EFFECTS = (
    ("Write", 40), ("Txn", 40), ("Carve", 6), ("Destroy", 4), ("Export", 6), ("Unexport", 4),
    ("Attach", 6), ("Detach", 4), ("Reply", 8), ("StartDevice", 4), ("StopDevice", 4),
    ("Stretch", 3), ("Refit", 3), ("KeepAlive", 20), ("GrantLease", 2), ("ListStore", 2),
)  # fmt: skip
MIRROR_EFFECTS = (
    ("AttachMirror", 8), ("LegOut", 15), ("LegIn", 15), ("LegCounts", 15), ("LegDrop", 10),
)  # fmt: skip


class Draw(MirrorDraws):
    """Draws the events of one plan. `favour`: names of methods, without the line before them."""

    def __init__(
        self,
        rng: random.Random,
        names: list[str],
        ends: float,
        favour: tuple[str, ...],
        *,
        mirrors: bool,
    ) -> None:
        self._rng = rng
        self._names = names
        self._ends = ends
        self._favour = tuple(getattr(self, f"_{name}") for name in favour)
        self._events: list[ev.Event] = []
        self._creates: list[ev.Create] = []
        self._spaces: list[ev.CreateSpace] = []
        self._gone: set[str] = set()
        share = 0.7 if "forget" in favour else 0.15
        self._may_forget = len(names) > 3 and rng.random() < share
        self._copies_share = rng.choice((0.2, 0.5, 0.8)) if mirrors else 0.02
        self._mirrors = mirrors
        # of the effects that a card crashes at; one history looks at few
        effects = (*CRASH_EFFECTS, *MIRROR_EFFECTS) if mirrors else CRASH_EFFECTS
        self._effects = rng.choices(
            [name for name, _ in effects], [share for _, share in effects], k=4
        )

    def events(self, steps: int) -> tuple[ev.Event, ...]:
        rng = self._rng
        more = 1.0 if self._mirrors else 0.05
        faults = self._shares(
            {
                self._crash: 4, self._crash_at: 8, self._pause: 3, self._pause_at: 4,
                self._cut_store: 3, self._cut_peer: 2, self._store_away: 1.5, self._bad_call: 8,
                self._break_watch: 3, self._lag_watch: 2, self._repeat: 2, self._ssd: 2.5,
                self._slow_ssd: 2, self._lost_owner: 2.5, self._sick_ssd: 8 * more,
                self._failing_ssd: 1 * more, self._lost_copy: 8 * more,
                self._lost_mirror: 4 * more, self._late_record: 2 * more,
            }
        )  # fmt: skip
        orders = self._shares(
            {
                self._create: 30, self._delete: 16, self._delete_all: 4, self._add: 7,
                self._delete_part: 5, self._resize: 10, self._adopt: 2, self._unplug: 3,
                self._create_space: 2, self._clone: 2, self._attach: 2, self._forget: 0.3,
                self._move: 10 * more, self._drain: 1.5 * more, self._promote: 1.5 * more,
            },
            never_zero=(self._create, self._delete),
        )  # fmt: skip
        fault_share = 0.06 if self._favour else rng.choice((0.0, 0.1, 0.25, 0.4))
        for _ in range(steps):
            kinds = faults if rng.random() < fault_share else orders
            draw = rng.choices([draw for draw, _ in kinds], [share for _, share in kinds])[0]
            draw(rng.uniform(0.5, self._ends))
        self._events = [each for each in self._events if each.at < self._ends]
        self._events.sort(key=lambda event: (event.at, event.ident))
        return tuple(self._events)

    def _shares(
        self,
        shares: dict[Callable[[float], None], float],
        never_zero: tuple[Callable[[float], None], ...] = (),
    ) -> list[tuple[Callable[[float], None], float]]:
        """Some are left out, some are more."""
        drawn = [
            (draw, share * self._factor(draw, draw in never_zero)) for draw, share in shares.items()
        ]
        if not any(share for _, share in drawn):
            return list(shares.items())
        return drawn

    def _factor(self, draw: Callable[[float], None], never_zero: bool) -> float:
        if draw in self._favour:
            return 5.0
        if self._favour and not never_zero:
            return self._rng.choice((0.0, 0.0, 0.3))
        return self._rng.choice((0.0, 0.5, 1.0, 1.0, 3.0)) or float(never_zero)

    def _add_event(self, kind: Callable[..., ev.Event], at: float, card: str, **more: Any) -> None:
        event = kind(ident=len(self._events), at=round(at, 3), card=card, **more)
        self._events.append(event)
        if isinstance(event, ev.Create):
            self._creates.append(event)
        elif isinstance(event, ev.CreateSpace):
            self._spaces.append(event)

    def _any(self) -> str:
        return self._rng.choice(self._names)

    def _short(self) -> float:
        """From much less than a lease's time to much more."""
        length = self._rng.choice((0.004, 0.05, 0.3, 1.0, 2.0, 4.0))
        return round(length * self._rng.uniform(0.5, 1.5), 3)

    # --- Faults ---

    def _crash(self, at: float) -> None:
        self._add_event(ev.Crash, at, self._any(), down_s=self._short())

    def _crash_at(self, at: float) -> None:
        rng = self._rng
        self._add_event(
            ev.CrashAt, at, self._any(), effect=rng.choice(self._effects), nth=rng.randint(1, 4),
            after=rng.random() < 0.5, down_s=self._short(),
        )  # fmt: skip

    def _pause(self, at: float) -> None:
        self._add_event(ev.Pause, at, self._any(), for_s=self._long())

    def _pause_at(self, at: float) -> None:
        rng = self._rng
        self._add_event(
            ev.PauseAt, at, self._any(), effect=rng.choice(self._effects), nth=rng.randint(1, 4),
            for_s=self._long(),
        )  # fmt: skip

    def _long(self) -> float:
        """Up to ten times a lease's time, mostly less."""
        return round(TTL_S * self._rng.choice((0.2, 0.8, 1.2, 2.0, 10.0)), 3)

    def _cut_store(self, at: float) -> None:
        self._add_event(ev.CutStore, at, self._any(), for_s=self._short())

    def _cut_peer(self, at: float) -> None:
        card, peer = self._rng.sample(self._names, 2) if len(self._names) > 1 else ("a", "a")
        self._add_event(ev.CutPeer, at, card, peer=peer, for_s=self._short())

    def _store_away(self, at: float) -> None:
        grace = self._rng.random() < 0.5
        self._add_event(ev.StoreAway, at, "", for_s=self._short(), grace=grace)

    def _bad_call(self, at: float) -> None:
        rng = self._rng
        self._add_event(
            ev.BadCall, at, self._any(), nth=rng.randint(1, 6),
            how=rng.choice(("lost", "unanswered", "late", "late")),
            late_s=round(rng.choice((0.2, 1.5, 4.0, 10.0)) * rng.uniform(0.5, 1.5), 3),
        )  # fmt: skip

    def _break_watch(self, at: float) -> None:
        self._add_event(ev.BreakWatch, at, self._any())

    def _lag_watch(self, at: float) -> None:
        lag = round(self._rng.uniform(0.1, 2.0), 3)
        self._add_event(ev.LagWatch, at, self._any(), lag_s=lag, for_s=self._short())

    def _repeat(self, at: float) -> None:
        self._add_event(ev.RepeatChanges, at, self._any(), count=self._rng.randint(1, 10))

    def _ssd(self, at: float) -> None:
        rng = self._rng
        self._add_event(
            ev.SsdFault, at, self._any(), ssd=rng.randrange(2),
            how=rng.choice(("vanish", "error", "full", "full")),
            size=rng.choice((1, 4, 16, 64)) * MIB + rng.choice((0, 1)), for_s=self._short(),
        )  # fmt: skip

    def _slow_ssd(self, at: float) -> None:
        self._add_event(ev.SlowSsd, at, self._any(), for_s=self._short())

    def _lost_owner(self, at: float) -> None:
        """A card is away for longer than its lease, and others adopt a device of it."""
        rng = self._rng
        if len(self._names) < 2:
            return
        card = self._any()
        others = [name for name in self._names if name != card]
        parts = tuple(
            Part(rng.choice((4096, MIB)), rng.choice(("remote", *others)))
            for _ in range(rng.choice((1, 2)))
        )
        self._add_event(
            ev.Create, at, card, vm=self._vm(card), parts=parts, named=True, priority=100,
            wait_s=0.5, throw_away=False,
        )  # fmt: skip
        device = self._events[-1].ident
        away_at = at + rng.uniform(0.5, 1.5)
        away = rng.choice((ev.Crash, ev.Pause, ev.CutStore, ev.CutStore))
        length = round(TTL_S * rng.uniform(1.5, 5.0), 3)
        words = {"down_s" if away is ev.Crash else "for_s": length}
        self._add_event(away, away_at, card, **words)
        adopt_at = away_at + TTL_S * rng.uniform(0.95, 1.5)
        if rng.random() < 0.5:
            for other in others:
                self._add_event(ev.SlowSsd, adopt_at - 1.0, other, for_s=2.0)
        for _ in range(rng.choice((1, 2, 3))):
            self._add_event(ev.Adopt, adopt_at, rng.choice(others), target=device)
            adopt_at += rng.choice((0.0, 0.01, 0.3, 1.0))

    # --- Orders ---

    def _part(self) -> Part:
        rng = self._rng
        places = ("auto", "auto", "local", "remote", "remote", self._any())
        size = rng.choice((4096, 256 << 10, MIB, MIB, 2 * MIB, 4 * MIB, 8 * MIB))
        copies = 2 if rng.random() < self._copies_share else 1
        if self._mirrors:
            size = min(size, MIB)
        return Part(size, rng.choice(places), rng.choice((512, 4096)), copies)

    def _wait(self) -> float:
        return self._rng.choice((0.0, 0.0, 0.5, 2.0, 8.0))

    def _priority(self) -> int:
        return self._rng.choice((PRIORITY_DEFAULT, PRIORITY_DEFAULT, 0, 10, 80, 100))

    def _vm(self, card: str) -> str:
        return f"vm-{card}{self._rng.randint(1, 4)}"

    def _create(self, at: float) -> None:
        rng, card = self._rng, self._any()
        parts = tuple(self._part() for _ in range(rng.choice((1, 1, 1, 2, 3))))
        self._add_event(
            ev.Create, at, card, vm=self._vm(card), parts=parts, named=rng.random() < 0.8,
            priority=self._priority(), wait_s=self._wait(), throw_away=rng.random() < 0.15,
        )  # fmt: skip

    def _create_space(self, at: float) -> None:
        card = self._any()
        size = self._rng.choice((MIB, 2 * MIB))
        self._add_event(ev.CreateSpace, at, card, vm=self._vm(card), size=size)

    def _on_device(self, kind: type[ev.OnTarget], at: float, **more: Any) -> None:
        if not self._creates:
            return
        create = self._rng.choice(self._creates)
        # Soon after it, or much later.
        at = create.at + (
            self._rng.uniform(0, 2) if self._rng.random() < 0.3 else abs(at - create.at)
        )
        self._add_event(kind, min(at, self._ends), create.card, target=create.ident, **more)

    def _delete(self, at: float) -> None:
        if self._spaces and self._rng.random() < 0.1:
            space = self._rng.choice(self._spaces)
            self._add_event(ev.Delete, max(at, space.at), space.card, target=space.ident)
            return
        self._on_device(ev.Delete, at)

    def _delete_all(self, at: float) -> None:
        card = self._any()
        self._add_event(ev.DeleteAllOf, at, card, vm=self._vm(card))

    def _add(self, at: float) -> None:
        self._on_device(
            ev.Add, at, part=self._part(), priority=self._priority(), wait_s=self._wait()
        )

    def _delete_part(self, at: float) -> None:
        self._on_device(ev.DeletePart, at, nth=self._rng.randrange(3))

    def _resize(self, at: float) -> None:
        size = self._rng.choice((4096, MIB, 2 * MIB, 4 * MIB, 8 * MIB))
        self._on_device(ev.Resize, at, nth=self._rng.randrange(3), size=size)

    def _clone(self, at: float) -> None:
        read_only = self._rng.random() < 0.5
        self._on_device(ev.Clone, at, nth=self._rng.randrange(3), read_only=read_only)

    def _attach(self, at: float) -> None:
        if self._spaces and self._creates:
            space = self._rng.choice(self._spaces)
            same = [each for each in self._creates if each.card == space.card]
            if same:
                device = self._rng.choice(same)
                at = max(at, space.at + 0.2, device.at + 0.2)
                self._add_event(
                    ev.AttachTo, at, space.card, target=space.ident, device=device.ident
                )

    def _unplug(self, at: float) -> None:
        self._on_device(ev.Unplug, at)

    def _adopt(self, at: float) -> None:
        if self._creates:
            create = self._rng.choice(self._creates)
            force = self._rng.random() < 0.2
            self._add_event(
                ev.Adopt, max(at, create.at), self._any(), target=create.ident, force=force
            )

    def _forget(self, at: float) -> None:
        """Mostly of a card that has left; sometimes of one that is there."""
        card, victim = self._rng.sample(self._names, 2) if len(self._names) > 1 else ("a", "b")
        if self._may_forget and not self._gone:
            self._gone.add(victim)
            self._add_event(ev.Leave, min(at, self._ends * 0.7), victim)
            self._add_event(ev.Forget, min(at, self._ends * 0.7) + TTL_S * 2, card, victim=victim)
        elif victim not in self._gone:
            self._add_event(ev.Forget, at, card, victim=victim)
