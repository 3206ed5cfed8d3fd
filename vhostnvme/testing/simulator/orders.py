"""Those who use the cards: they give orders, and remember what they were promised.

A device that was reported as created, and that nobody has touched since, has to be there with all
its namespaces in the end; what was reported as deleted must not be.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vhostnvme.cluster import commands
from vhostnvme.cluster import messages as msg
from vhostnvme.cluster.records import member_key
from vhostnvme.cluster.rows import HoldingRow, HoldingState, MirrorRow
from vhostnvme.testing.simulator import events as ev
from vhostnvme.testing.simulator.move_orders import MoveOrders

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.card import Card
    from vhostnvme.testing.simulator.world import World


@dataclass(slots=True)
class Promise:
    """A device, or a namespace without one (`uuid`), as its user knows it.

    Attributes:
        whole: it was reported as made, and nobody has done anything to it as a whole since.
        parts: UUIDs that must be there, with what they were born as.
        sizes: of those of the parts that are known.
        count: how many namespaces it has when it is there; None: that is not known.
        gone: it was reported as deleted.
    since: when it was asked for.
    """

    card: str
    vm: str
    device: str
    uuid: str = ""
    whole: bool = False
    throw_away: bool = False
    count: int | None = None
    gone: bool = False
    since: float = 0.0
    parts: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Order:
    """A command under way."""

    number: int
    card: str
    life: int
    command: commands.Command
    given_at: float
    then: Callable[[msg.Reply], None]


class Orders:
    """Attributes:
    waiting: the commands that have not been answered.
    promises: by the number of the event that made them.
    gone: UUIDs that were reported as deleted, and of which device.
    doomed: UUIDs that somebody wants deleted.
    adopted: devices that other cards have reported as taken over: by whom, and their UUIDs.
    tried_to_adopt: devices that may have been taken over.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._numbers = itertools.count(1)
        self.waiting: dict[int, Order] = {}
        self.promises: dict[int, Promise] = {}
        self.gone: dict[str, str] = {}
        self.adopted: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.tried_to_adopt: set[str] = set()
        self.doomed: set[str] = set()
        self._resized: dict[str, int] = {}  # how often, or perhaps not
        self._deleted_at: dict[tuple[str, str], float] = {}  # card and VM: a DeleteVm was given
        self.moves = MoveOrders(world, self)
        self.answers: dict[str, int] = {}
        self.create_s: list[float] = []

    # --- Giving orders, and being answered ---

    def give(
        self,
        card: Card,
        make: Callable[[int], commands.Command],
        then: Callable[[msg.Reply], None] = lambda reply: None,
    ) -> None:
        number = next(self._numbers)
        command = make(number)
        now = self._world.engine.now
        self.waiting[number] = Order(number, card.name, card.life, command, now, then)
        card.ask(command)

    def answered(self, card: Card, reply: msg.Reply) -> None:
        order = self.waiting.pop(reply.command, None)
        if order is None or order.card != card.name:
            self._world.fail(f"{card.name} answers command {reply.command}, which nobody waits for")
        outcome = type(reply.error).__name__ if reply.error else "ok"
        key = f"{type(order.command).__name__} {outcome}"
        self.answers[key] = self.answers.get(key, 0) + 1
        if isinstance(order.command, commands.CreateDevice) and reply.error is None:
            self.create_s.append(self._world.engine.now - order.given_at)
        order.then(reply)

    def card_crashed(self, name: str) -> None:
        """Who has waited for it sees the connection end: nobody knows what came of it."""
        for number in [each.number for each in self.waiting.values() if each.card == name]:
            del self.waiting[number]

    # --- Events ---

    def obey(self, event: ev.Order) -> None:
        card = self._world.cards.get(event.card)
        if card is None or not card.up:
            return
        match event:
            case ev.Create():
                self._create(card, event)
            case ev.CreateSpace():
                self._create_space(card, event)
            case ev.DeleteAllOf():
                self.delete_vm(card, event.vm)
            case ev.Forget():
                self._forget(card, event)
            case ev.Move() | ev.Promote() | ev.Drain():
                self.moves.obey(card, event)
            case _:
                self._on_target(card, event)

    def _on_target(
        self,
        card: Card,
        event: (
            ev.Delete | ev.Add | ev.DeletePart | ev.Resize | ev.Clone | ev.AttachTo | ev.Adopt
            | ev.Unplug
        ),
    ) -> None:  # fmt: skip
        promise = self.promises.get(event.target)
        if promise is None:
            return
        match event:
            case ev.Adopt():
                self._adopt(card, promise, force=event.force)
            case ev.Delete():
                self.delete(card, promise)
            case ev.Unplug():
                if promise.device in card.devices:
                    promise.whole = promise.whole and not promise.throw_away
                    card.ask(msg.HostGone(promise.device))
            case ev.Add():
                self._add(card, promise, event)
            case ev.AttachTo():
                self._attach(card, promise, event)
            case _:
                self._on_part(card, promise, event)

    def _create(self, card: Card, event: ev.Create) -> None:
        name = f"d{event.ident}" if event.named else ""
        promise = Promise(
            card.name, event.vm, name, count=len(event.parts), throw_away=event.throw_away
        )
        promise.since = self._world.engine.now
        if name:
            self.promises[event.ident] = promise

        def then(reply: msg.Reply) -> None:
            if reply.error is not None:
                promise.count = None
                return
            promise.device = reply.value
            touched = (name and promise.count is None) or self._is_deleted(promise)
            self.promises[event.ident] = promise
            self._world.rules.created(card, promise.device)
            rows = card.rows.units_of(promise.device)
            if not touched and len(rows) != len(event.parts):
                self._world.fail(
                    f"{card.name} has made {promise.device} with {len(rows)} namespaces, and"
                    f" {len(event.parts)} were asked for"
                )
            promise.whole = not touched
            for row in rows:
                self._promise_part(promise, row)

        self.give(
            card,
            lambda number: commands.CreateDevice(
                number, event.vm, event.parts, name or None, event.priority, event.wait_s,
                event.throw_away,
            ),
            then,
        )  # fmt: skip

    def _promise_part(self, promise: Promise, row: HoldingRow | MirrorRow) -> None:
        if row.uuid in self.doomed:
            return
        if isinstance(row, MirrorRow):
            promise.parts[row.uuid] = 0  # what it has is the ledger's
            promise.sizes[row.uuid] = row.size
            return
        space = self._world.find(row.giver, row.uuid)
        fits = space is not None and (space.size == row.size or row.uuid in self._resized)
        if space is None or space.half or not fits:
            there = f"{space.size} bytes" if space else "nothing"
            self._world.fail(
                f"{promise.card} reports {row.uuid} of {row.size} bytes on {row.giver} as made,"
                f" and there is {there}"
            )
        promise.parts[row.uuid] = space.born
        if row.uuid not in self._resized:
            promise.sizes[row.uuid] = row.size

    def _is_deleted(self, promise: Promise) -> bool:
        """Whether its VM was to be deleted, after it was asked for and before it was answered."""
        return self._deleted_at.get((promise.card, promise.vm), -1.0) >= promise.since

    def _create_space(self, card: Card, event: ev.CreateSpace) -> None:
        promise = Promise(card.name, event.vm, "", since=self._world.engine.now)

        def then(reply: msg.Reply) -> None:
            if reply.error is None:
                promise.uuid, promise.whole = reply.value, not self._is_deleted(promise)
                self.promises[event.ident] = promise
                self._promise_part(promise, card.rows.holdings[reply.value])

        self.give(card, lambda number: commands.CreateNamespace(number, event.vm, event.size), then)

    def delete(
        self,
        card: Card,
        promise: Promise,
        also: Callable[[msg.Reply], None] = lambda reply: None,
    ) -> None:
        promise.whole, promise.count = False, None

        def then(reply: msg.Reply) -> None:
            also(reply)
            if reply.error is None:
                promise.gone = True
                for uuid in (*promise.parts, promise.uuid):
                    self.gone[uuid] = promise.device

        if promise.uuid:
            self.doomed.add(promise.uuid)
            for other in self.promises.values():  # a device may have it by now
                if other.parts.pop(promise.uuid, None) is not None:
                    other.count = None
            self.give(card, lambda number: commands.DeleteNamespace(number, promise.uuid), then)
        elif promise.device:
            self.give(card, lambda number: commands.DeleteDevice(number, promise.device), then)

    def delete_vm(self, card: Card, vm: str) -> None:
        mine = [each for each in self.promises.values() if (each.card, each.vm) == (card.name, vm)]
        self._deleted_at[card.name, vm] = self._world.engine.now
        for each in mine:
            each.whole, each.count = False, None

        def then(reply: msg.Reply) -> None:
            if reply.error is not None:
                return
            for each in mine:
                if each.device in reply.value.devices:
                    each.gone = True
                    self.gone.update(dict.fromkeys(each.parts, each.device))
            self.gone.update(dict.fromkeys(reply.value.namespaces, ""))

        self.give(card, lambda number: commands.DeleteVm(number, vm), then)

    def _add(self, card: Card, promise: Promise, event: ev.Add) -> None:
        promise.count = None

        def then(reply: msg.Reply) -> None:
            row = card.rows.unit(str(reply.value))
            if reply.error is None and row is not None and promise.whole:
                self._promise_part(promise, row)

        self.give(
            card,
            lambda number: commands.AddNamespace(
                number, promise.device, event.part, event.priority, event.wait_s
            ),
            then,
        )

    def _attach(self, card: Card, promise: Promise, event: ev.AttachTo) -> None:
        device = self.promises.get(event.device)
        if device is None or not promise.uuid:
            return
        promise.whole, device.count = False, None

        def then(reply: msg.Reply) -> None:
            row = card.rows.unit(promise.uuid)
            if reply.error is None and row is not None and device.whole:
                self._promise_part(device, row)

        self.give(
            card, lambda number: commands.AttachNamespace(number, promise.uuid, device.device), then
        )

    def _on_part(
        self, card: Card, promise: Promise, event: ev.DeletePart | ev.Resize | ev.Clone
    ) -> None:
        if promise.uuid:
            uuids = [promise.uuid]
        else:
            uuids = [row.uuid for row in card.rows.units_of(promise.device)]
        if not uuids:
            return
        uuid = uuids[event.nth % len(uuids)]
        if isinstance(event, ev.Resize):
            self._resize(card, promise, uuid, event.size)
        elif isinstance(event, ev.Clone):
            vm, read_only = promise.vm, event.read_only
            self.give(card, lambda number: commands.CloneNamespace(number, uuid, vm, read_only))
        else:
            self._delete_part(card, promise, uuid)

    def _delete_part(self, card: Card, promise: Promise, uuid: str) -> None:
        promise.count = None
        born = promise.parts.pop(uuid, None)
        self.doomed.add(uuid)

        def then(reply: msg.Reply) -> None:
            if reply.error is None:
                self.gone[uuid] = promise.device
            elif born is not None:
                promise.parts[uuid] = born  # it said no: nothing may have happened

        self.give(card, lambda number: commands.DeleteNamespace(number, uuid), then)

    def _resize(self, card: Card, promise: Promise, uuid: str, size: int) -> None:
        promise.sizes.pop(uuid, None)
        self._resized[uuid] = self._resized.get(uuid, 0) + 1

        def then(reply: msg.Reply) -> None:
            row = card.rows.holdings.get(uuid)
            held = row is not None and row.state is HoldingState.HELD  # else it is given back
            if reply.error is None and row is not None and held:
                space = self._world.find(row.giver, uuid)
                if reply.value != size or (space is not None and space.size != size):
                    self._world.fail(f"{card.name} reports {uuid} as resized, and it is not")
                if uuid in promise.parts and self._resized[uuid] == 1:  # else: of which?
                    promise.sizes[uuid] = size

        self.give(card, lambda number: commands.ResizeNamespace(number, uuid, size), then)

    # --- Cards that have gone ---

    def _adopt(self, card: Card, promise: Promise, *, force: bool) -> None:
        if promise.card == card.name or not promise.device:
            return
        promise.whole, promise.count = False, None
        device = promise.device
        self.adopted.pop(device, None)
        self.tried_to_adopt.add(device)
        if force:
            self.moves.forced.add((card.name, device))

        def then(reply: msg.Reply) -> None:
            if reply.error is None:
                rows = card.rows.units_of(device)
                self.adopted[device] = (card.name, tuple(row.uuid for row in rows))

        self.give(
            card, lambda number: commands.AdoptDevice(number, device, promise.card, force), then
        )

    def _forget(self, card: Card, event: ev.Forget) -> None:
        victim = self._world.cards.get(event.victim)
        if victim is None:
            return
        there = member_key(victim.name) in self._world.store.entries
        if victim.left:
            self.forget(card, victim)
        elif victim.running and there and victim.link.reachable:
            self.give(card, lambda number: commands.ForgetCard(number, victim.name), self._refused)

    def _refused(self, reply: msg.Reply) -> None:
        if reply.error is None:
            self._world.fail("a card that is a member has been forgotten")

    def forget(self, card: Card, victim: Card) -> None:
        """Of a card that does not come back."""
        self._world.rules.forgotten.add(victim.name)
        for promise in self.promises.values():
            if promise.card == victim.name:
                promise.whole, promise.count = False, None
        self.give(card, lambda number: commands.ForgetCard(number, victim.name))
