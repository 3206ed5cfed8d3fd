"""A large cluster without faults: what it costs the store, and how long a creation takes there."""

from __future__ import annotations

import random
from dataclasses import dataclass

from vhostnvme.cluster.commands import Part
from vhostnvme.cluster.records import PRIORITY_DEFAULT
from vhostnvme.testing.simulator import events as ev
from vhostnvme.testing.simulator import settled
from vhostnvme.testing.simulator.engine import Clock, RuleBroken
from vhostnvme.testing.simulator.events import MIB
from vhostnvme.testing.simulator.plan import CardPlan, Plan, SsdPlan, card_names
from vhostnvme.testing.simulator.world import World

TTL_S = 10.0
BEGIN_S = 2.0
IDLE_S = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """What one card asks of the store, and is told by it, each second."""

    writes: float
    reads: float
    calls: float
    changes: float


@dataclass(frozen=True, slots=True)
class BigOutcome:
    """Virtual times in seconds. `remote`: how many namespaces another card than their VM's has."""

    cards: int
    namespaces: int
    remote: int
    create_s_p50: float
    create_s_p99: float
    create_s_max: float
    creating: Load
    idle: Load
    broken: str


def big_plan(cards: int, namespaces: int, seed: int, *, per_s: float) -> Plan:
    """Each card creates devices of one namespace, one after the other, half of them remote.

    Args:
        per_s: creations a second on each card.
    """
    rng = random.Random(seed)
    names = card_names(cards)
    each = -(-namespaces // cards)
    ssds = (SsdPlan("ssd0", 2 * each * MIB, MIB), SsdPlan("ssd1", 2 * each * MIB, MIB))
    plans = tuple(
        CardPlan(name, Clock(rng.uniform(0.9, 1.1), 0.0), ssds, 0, rng.uniform(0.0, 1.0))
        for name in names
    )
    events = [
        ev.Create(
            ident=number,
            at=BEGIN_S + (number // cards + rng.random()) / per_s,
            card=names[number % cards],
            vm=f"vm{number}",
            parts=(Part(MIB, "remote" if number // cards % 2 else "auto"),),
            named=True,
            priority=PRIORITY_DEFAULT,
            wait_s=0.0,
            throw_away=False,
        )
        for number in range(namespaces)
    ]
    events.sort(key=lambda event: event.at)
    return Plan(seed, plans, tuple(events), BEGIN_S + each / per_s, TTL_S, guest_write_s=0.0)


def run_big(cards: int, namespaces: int, seed: int, *, per_s: float = 2.0) -> BigOutcome:
    """Creates all, waits until all is settled, and looks at an idle time after it."""
    plan = big_plan(cards, namespaces, seed, per_s=per_s)
    world = World(plan)
    broken, creating, idle = "", Load(0, 0, 0, 0), Load(0, 0, 0, 0)
    try:
        world.run_until(BEGIN_S)
        before = _counts(world)
        world.run_until(plan.ends)
        creating = _load(world, before, plan.ends - BEGIN_S)
        world.calm()
        world.run_until(plan.ends + 10.0)
        before = _counts(world)
        world.run_until(world.engine.now + IDLE_S)
        idle = _load(world, before, IDLE_S)
        broken = next(settled.complaints(world), "") or _missing(world, namespaces)
    except RuleBroken as error:
        broken = str(error)
    took = sorted(world.orders.create_s) or [0.0]
    return BigOutcome(
        cards=cards,
        namespaces=len(world.orders.create_s),
        remote=sum(
            row.owner != card.name
            for card in world.cards.values()
            for row in card.rows.spaces.values()
        ),
        create_s_p50=took[len(took) // 2],
        create_s_p99=took[len(took) * 99 // 100],
        create_s_max=took[-1],
        creating=creating,
        idle=idle,
        broken=broken,
    )


def _missing(world: World, namespaces: int) -> str:
    made = len(world.orders.create_s)
    return "" if made == namespaces else f"{made} of {namespaces} namespaces were made"


def _counts(world: World) -> tuple[int, int, int, int]:
    links = [card.link for card in world.cards.values()]
    return (
        world.store.writes,
        world.store.reads,
        sum(link.calls for link in links),
        sum(link.told for link in links),
    )


def _load(world: World, before: tuple[int, int, int, int], seconds: float) -> Load:
    per = seconds * len(world.cards)
    return Load(*((now - then) / per for now, then in zip(_counts(world), before, strict=True)))
