"""The schedule of a history: cards, settings and events, drawn from a seed before anything runs.

Each history draws how much of which fault it has, so that some have few and others many of one
kind. A plan can leave out events and cards; that is how a failure is made small.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from vhostnvme.testing.simulator import events as ev
from vhostnvme.testing.simulator.draw import Draw
from vhostnvme.testing.simulator.engine import Clock
from vhostnvme.testing.simulator.events import MIB, TTL_S

STEPS_PER_S = 5.0
MIRRORS_SHARE = 0.5  # of the histories: they are mostly about namespaces with copies
MIRROR_FAVOURS = {"lost_copy", "lost_mirror", "late_record", "move", "failing_ssd"}


@dataclass(frozen=True, slots=True)
class SsdPlan:
    name: str
    capacity: int
    granule: int
    can_clone: bool = False


@dataclass(frozen=True, slots=True)
class CardPlan:
    name: str
    clock: Clock
    ssds: tuple[SsdPlan, ...]
    reserve: int
    joins_at: float


@dataclass(frozen=True, slots=True)
class Plan:
    """`ends`: when the faults stop."""

    seed: int
    cards: tuple[CardPlan, ...]
    events: tuple[ev.Event, ...]
    ends: float
    ttl_s: float = TTL_S
    guest_write_s: float = 0.5  # between writes of one card's guests
    replace_after_s: float = 3.0

    def keep(self, idents: Iterable[int]) -> Plan:
        """With these events only."""
        kept = set(idents)
        return replace(self, events=tuple(each for each in self.events if each.ident in kept))

    def without(self, card: str) -> Plan:
        """Without a card, and what would happen to it."""
        return replace(
            self,
            cards=tuple(each for each in self.cards if each.name != card),
            events=tuple(
                each
                for each in self.events
                if card not in (each.card, getattr(each, "peer", ""), getattr(each, "victim", ""))
            ),
        )


def card_names(count: int) -> list[str]:
    if count <= 26:
        return [chr(ord("a") + index) for index in range(count)]
    return [f"card{index:02}" for index in range(count)]


def make_plan(seed: int, *, cards: int = 0, steps: int = 0, favour: tuple[str, ...] = ()) -> Plan:
    """The schedule of a seed; 0 cards: 3 to 5, 0 steps: 90 to 250.

    Args:
        favour: draws of draw.py that there shall be many of, such as `lost_owner`.
    """
    rng = random.Random(seed)
    count = cards or rng.choice((3, 3, 3, 4, 4, 5))
    mirrors = rng.random() < MIRRORS_SHARE
    if favour:
        mirrors = bool(MIRROR_FAVOURS & set(favour))
    # What befalls copies comes as several events at a time.
    steps = steps or (rng.randint(90, 160) if mirrors else rng.randint(150, 250))
    names = card_names(count)
    ends = steps / STEPS_PER_S
    plans = tuple(_card(rng, name, ends) for name in names)
    events = Draw(rng, names, ends, favour, mirrors=mirrors).events(steps)
    return Plan(
        seed,
        plans,
        events,
        ends,
        guest_write_s=0.05 if favour else 0.15 if mirrors else 0.5,
        replace_after_s=rng.choice((1.0, 3.0, 6.0)),
    )


def _card(rng: random.Random, name: str, ends: float) -> CardPlan:
    ssds = tuple(
        SsdPlan(
            f"ssd{number}",
            rng.choice((0, 8, 12, 16, 24, 32)) * MIB
            if number
            else rng.choice((4, 8, 16, 32)) * MIB,
            rng.choice((4096, 4096, MIB)),
            rng.random() < 0.5,
        )
        for number in range(rng.choice((1, 1, 2)))
    )
    ssds = tuple(ssd for ssd in ssds if ssd.capacity)
    return CardPlan(
        name,
        Clock(rng.uniform(0.9, 1.1), rng.uniform(0.0, 1000.0)),
        ssds,
        rng.choice((0, 0, 2, 4)) * MIB,
        rng.uniform(0, ends * 0.6) if rng.random() < 0.15 else rng.uniform(0, 0.5),
    )
