"""Those who run the cards: they move namespaces, empty cards, and trust copies by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhostnvme.cluster import commands
from vhostnvme.testing.simulator import events as ev

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.card import Card
    from vhostnvme.testing.simulator.orders import Orders
    from vhostnvme.testing.simulator.world import World


class MoveOrders:
    """Attributes:
    forced: cards, and the devices that they were to take over whatever that loses.
    """

    def __init__(self, world: World, orders: Orders) -> None:
        self._world = world
        self._orders = orders
        self.forced: set[tuple[str, str]] = set()

    def is_forcing(self, card: str, device: str) -> bool:
        return (card, device) in self.forced

    def is_promoting(self, card: str, unit: str) -> bool:
        """Whether it is being told to take a copy of this namespace for a good one."""
        return any(
            each.card == card
            and isinstance(each.command, commands.PromoteCopy)
            and each.command.uuid == unit
            for each in self._orders.waiting.values()
        )

    def obey(self, card: Card, event: ev.Move | ev.Promote | ev.Drain) -> None:
        if isinstance(event, ev.Drain):
            on = event.on
            self._orders.give(card, lambda number: commands.DrainCard(number, on))
            return
        promise = self._orders.promises.get(event.target)
        units = card.rows.units_of(promise.device) if promise is not None else []
        if not units:
            return
        unit = units[event.nth % len(units)]
        if isinstance(event, ev.Move):
            to, source = event.to or None, event.source or None
            self._orders.give(
                card, lambda number: commands.MoveNamespace(number, unit.uuid, to, source)
            )
            return
        row = card.rows.mirrors.get(unit.uuid)
        copies = sorted(row.uuids()) if row is not None else []
        if copies:
            copy = copies[event.leg % len(copies)]
            self._orders.give(card, lambda number: commands.PromoteCopy(number, unit.uuid, copy))
