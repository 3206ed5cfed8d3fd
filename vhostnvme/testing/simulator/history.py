"""One history: a plan is run, then all faults end, the dust settles, and everything is deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostnvme.cluster.pool import Pool
from vhostnvme.testing.simulator import settled
from vhostnvme.testing.simulator.card import MakeManagers
from vhostnvme.testing.simulator.engine import Note, RuleBroken
from vhostnvme.testing.simulator.plan import Plan
from vhostnvme.testing.simulator.world import World

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.bugs import Bug

LOOK_S = 1.0
SETTLE_MAX_S = 150.0
EMPTY_MAX_S = 90.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`broken`: the rule that was broken, in a sentence; "": none was.

    `notes`: the whole history. `virtual_s`: the time that went by in it. `answers`: how many
    commands ended how.
    """

    broken: str
    notes: Sequence[Note]
    digest: str
    virtual_s: float
    answers: dict[str, int]


def run_plan(
    plan: Plan, make: MakeManagers = Pool, bug: Bug | None = None, *, digest: bool = False
) -> Outcome:
    """Runs a history to its end, or to the first broken rule.

    Args:
        make: of a card's managers.
        bug: a seeded bug.
        digest: whether to work out the fingerprint of all that happened.
    """
    with bug.patch() if bug is not None else nullcontext():
        world = World(plan, make, bug)
        broken = ""
        try:
            _run(world)
        except (RuleBroken, AssertionError) as error:
            broken = str(error) or repr(error)
    return Outcome(
        broken=broken,
        notes=world.trace.notes,
        digest=world.trace.digest() if digest else "",
        virtual_s=world.engine.now,
        answers=world.orders.answers,
    )


def _run(world: World) -> None:
    world.run_until(world.plan.ends)
    world.calm()
    _finish_forgetting(world)
    _settle(world, settled.complaints, SETTLE_MAX_S)
    _delete_again(world)
    _delete_all(world)


def _settle(world: World, look: Callable[[World], Iterator[str]], limit_s: float) -> None:
    """Until there are no complaints; there may be for some time."""
    end = world.engine.now + limit_s
    while True:
        world.run_until(world.engine.now + LOOK_S)
        complaint = next(look(world), None)
        if complaint is None:
            return
        if world.engine.now >= end:
            raise RuleBroken(complaint)


def _finish_forgetting(world: World) -> None:
    """Who has left for good has to be forgotten by somebody, and is asked for until it is."""
    living = [card for card in world.cards.values() if not card.left]
    for victim in world.cards.values():
        if not victim.left or not living:
            continue

        def again(victim: str = victim.name) -> None:
            key = f"cards/{victim}"
            if key in world.store.entries and world.orders.waiting.keys() == set():
                world.orders.forget(living[0], world.cards[victim])
            if key in world.store.entries:
                world.engine.after(3.0, again)

        world.engine.after(world.plan.ttl_s * 1.5, again)


def _delete_again(world: World) -> None:
    """What was deleted can be deleted once more, without an error."""
    for promise in world.orders.promises.values():
        card = world.cards[promise.card]
        if promise.gone and not card.left:
            name = promise.device or promise.uuid

            def then(reply: object, name: str = name) -> None:
                error = getattr(reply, "error", None)
                if error is not None:
                    raise RuleBroken(f"{name} cannot be deleted a second time: {error}")

            world.orders.delete(card, promise, then)


def _delete_all(world: World) -> None:
    world.orders.adopted.clear()
    for card in world.cards.values():
        if not card.left:
            vms = {row.vm for row in card.rows.devices.values()}
            vms |= {row.vm for row in card.rows.holdings.values()}
            for vm in sorted(vms):
                world.orders.delete_vm(card, vm)
    _settle(world, _nothing_left, EMPTY_MAX_S)


def _nothing_left(world: World) -> Iterator[str]:
    yield from settled.emptied(world)
    yield from settled.complaints(world)
