"""What must be the case once the dust has settled: all agree with each other, nothing leaks.

Each check yields sentences; none at all means that a cluster is settled.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from vhostnvme.cluster.records import (
    CARDS,
    HELD,
    MEMBERS,
    MIRRORS,
    OFFERS,
    SPACE,
    OfferRecord,
    SpaceRecord,
    SpaceState,
    decode,
    held_key,
    offer_key,
    space_key,
)
from vhostnvme.cluster.rows import HoldingRow, HoldingState, MirrorRow, RowState
from vhostnvme.testing.simulator.card import Card
from vhostnvme.testing.simulator.orders import Promise
from vhostnvme.testing.simulator.settled_mirrors import mirrors_of
from vhostnvme.testing.simulator.world import World


def complaints(world: World) -> Iterator[str]:
    """All that is not as it should be, the most telling first."""
    living = [card for card in world.cards.values() if not card.left]
    return chain(
        _orders(world),
        chain.from_iterable(map(_rows, living)),
        chain.from_iterable(_pairs(world, card) for card in living),
        chain.from_iterable(map(_media, living)),
        _records(world),
        _members(world, living),
        chain.from_iterable(map(_offer, living)),
        chain.from_iterable(_running(world, card) for card in living),
        chain.from_iterable(mirrors_of(world, card) for card in living),
        chain.from_iterable(_promise(world, each) for each in world.orders.promises.values()),
        _adopted(world),
        _gone(world, living),
    )


def emptied(world: World) -> Iterator[str]:
    """After everything has been deleted: not one byte is left of it."""
    for card in world.cards.values():
        if card.left:
            continue
        rows = card.rows
        for table in (rows.spaces, rows.devices, rows.holdings, rows.mirrors):
            for key in table:
                yield f"{card.name} still has {key} in its catalog after everything was deleted"
        for ssd in card.medium.ssds.values():
            for uuid in ssd.spaces:
                yield f"{uuid} is still on an SSD of {card.name} after everything was deleted"
    for key in world.store.entries:
        if key.startswith((SPACE, HELD, MIRRORS)):
            yield f"the store still has {key} after everything was deleted"


def _orders(world: World) -> Iterator[str]:
    for order in world.orders.waiting.values():
        yield f"{order.card} has not answered {order.command}"


def _rows(card: Card) -> Iterator[str]:
    for space in card.rows.spaces.values():
        if space.state is not RowState.READY or space.wanted:
            yield f"{card.name} has space {space.uuid} in state {space.state} for ever"
    for device in card.rows.devices.values():
        if device.state is not RowState.READY:
            yield f"{card.name} has device {device.name} in state {device.state} for ever"
    for holding in card.rows.holdings.values():
        if holding.state is not HoldingState.HELD or holding.adopting:
            yield f"{card.name} has holding {holding.uuid} in state {holding.state} for ever"
        elif holding.device and holding.device not in card.rows.devices:
            yield f"{card.name} holds {holding.uuid} for {holding.device}, which it does not have"


def _pairs(world: World, card: Card) -> Iterator[str]:
    """Each space has its holding, and each holding its space."""
    for space in card.rows.spaces.values():
        owner = world.cards.get(space.owner)
        if owner is None or owner.left:
            yield f"{card.name} keeps {space.uuid} for {space.owner}, which has gone for good"
            continue
        holding = owner.rows.holdings.get(space.uuid)
        if holding is None or holding.giver != card.name:
            yield f"{card.name} keeps {space.uuid} for {owner.name}, which does not hold it: a leak"
        elif (holding.size, holding.block_size) != (space.size, space.block_size):
            yield f"{card.name} and {owner.name} do not agree on the size of {space.uuid}"
        elif owner is not card and holding.epoch != space.epoch:
            yield f"{card.name} and {owner.name} do not agree on the epoch of {space.uuid}"
    for holding in card.rows.holdings.values():
        giver = world.cards.get(holding.giver)
        if giver is None or giver.left:
            yield f"{card.name} holds {holding.uuid} of {holding.giver}, which has gone for good"
        else:
            row = giver.rows.spaces.get(holding.uuid)
            if row is None or row.owner != card.name:
                yield f"{card.name} holds {holding.uuid}, which {giver.name} has not given to it"


def _media(card: Card) -> Iterator[str]:
    for name, ssd in card.medium.ssds.items():
        rows = {row.uuid: row for row in card.rows.spaces.values() if row.ssd == name}
        for uuid, space in ssd.spaces.items():
            if uuid not in rows:
                yield f"{uuid} is on {name} of {card.name}, whose catalog does not know it: a leak"
            elif space.half or space.size != rows[uuid].size:
                yield (
                    f"{uuid} has {space.size} bytes on {name} of {card.name}, and"
                    f" {rows[uuid].size} in the catalog"
                )
        for uuid in rows:
            if uuid not in ssd.spaces:
                yield f"{uuid} is in the catalog of {card.name}, and not on {name}"


def _records(world: World) -> Iterator[str]:
    there = set()
    for key, entry in world.store.entries.items():
        if not key.startswith(SPACE):
            continue
        record = decode(key, entry.value, SpaceRecord)
        there |= {key, held_key(record.owner, record.uuid)}
        giver = world.cards.get(record.giver)
        row = giver.rows.spaces.get(record.uuid) if giver else None
        if record.state is not SpaceState.GRANTED or record.wanted:
            yield f"the record {key} of {record.owner} is {record.state} for ever"
        elif row is None:
            yield f"the store says that {record.giver} has given {record.uuid}, and it has not"
        elif (record.size, record.owner, record.epoch, record.admitted) != (
            row.size, row.owner, row.epoch, row.epoch,
        ):  # fmt: skip
            yield f"the record {key} does not agree with the catalog of {record.giver}"
    for key in world.store.entries:
        if key.startswith(HELD) and key not in there:
            yield f"the store has {key} without the record of its giver"
    for card in world.cards.values():
        for row in card.rows.spaces.values():
            given = row.owner != card.name and not card.left
            if given and space_key(card.name, row.uuid) not in there:
                yield f"{card.name} keeps {row.uuid} for {row.owner} without a record in the store"


def _members(world: World, living: list[Card]) -> Iterator[str]:
    names = {card.name for card in living}
    for prefix in (MEMBERS, CARDS, OFFERS):
        found = {key[len(prefix) :] for key in world.store.entries if key.startswith(prefix)}
        if found != names:
            yield f"{prefix} has {sorted(found)}, and there are {sorted(names)}"


def _offer(card: Card) -> Iterator[str]:
    entry = card.world.store.entries.get(offer_key(card.name))
    if entry is None:
        return
    offer = decode(entry.key, entry.value, OfferRecord)
    for ssd in offer.ssds:
        rows = [row for row in card.rows.spaces.values() if row.ssd == ssd.name]
        medium = card.medium.ssds[ssd.name]
        local = sum(medium.taken(row.size) for row in rows if row.owner == card.name)
        remote = sum(medium.taken(row.size) for row in rows) - local
        free = 0 if ssd.failing else ssd.capacity - local - remote
        if (ssd.local, ssd.remote, ssd.free + ssd.reserved) != (local, remote, free):
            yield f"the offer of {card.name} for {ssd.name} does not agree with its catalog: {ssd}"


def _running(world: World, card: Card) -> Iterator[str]:
    for name in card.rows.devices:
        if name not in card.devices:
            yield f"{card.name} has device {name}, and does not run it"
    for name, device in card.devices.items():
        if name not in card.rows.devices:
            yield f"{card.name} runs {name}, which is not in its catalog"
        for uuid in device.attached:
            unit = card.rows.unit(uuid)
            if unit is None or unit.device != name:
                yield f"{card.name} has {uuid} open in {name}, and does not hold it there"
    for holding in card.rows.holdings.values():
        if holding.mirror or not holding.device or holding.device not in card.devices:
            continue
        if holding.uuid not in card.devices[holding.device].attached:
            yield f"{card.name} holds {holding.uuid}, and has not given it to {holding.device}"
        elif not world.admits(card, holding):
            yield f"{holding.giver} does not let {card.name} in to {holding.uuid}, which it holds"
    for uuid, export in card.target.exports.items():
        row = card.rows.spaces.get(uuid)
        if row is None or (row.owner, row.epoch) != (export.owner, export.epoch):
            yield f"{card.name} lets {export.owner} in to {uuid}, which its catalog does not say"


def _promise(world: World, promise: Promise) -> Iterator[str]:
    card = world.cards.get(promise.card)
    if card is None or card.left or promise.device in world.orders.tried_to_adopt:
        return
    row = card.rows.devices.get(promise.device)
    if promise.gone and (row is not None or card.rows.unit(promise.uuid) is not None):
        yield f"{card.name} still has {promise.device or promise.uuid}, which was deleted"
    rows = card.rows.units_of(promise.device)
    givers = {each.giver for each in card.rows.holdings_of(promise.device)}
    forgotten = bool(givers & world.rules.forgotten)
    if promise.count is not None and row is not None and not forgotten:
        lost = _lost_parts(world, promise)
        if len(rows) != promise.count and not lost:
            yield (
                f"{card.name} has {promise.device} with {len(rows)} namespaces, and it was made"
                f" of {promise.count}: all or nothing"
            )
    if not promise.whole:
        return
    lost = _lost_parts(world, promise)
    if promise.device and row is None and not lost:
        yield f"{card.name} has lost device {promise.device}, which nobody has deleted"
    for uuid in promise.parts.keys() - lost:
        yield from _part(world, card, promise, uuid, card.rows.unit(uuid))


def _lost_parts(world: World, promise: Promise) -> set[str]:
    """Those that a forgotten giver had."""
    if not world.rules.forgotten:
        return set()
    return {
        uuid
        for uuid in promise.parts
        if any(world.find(name, uuid) is not None for name in world.rules.forgotten)
    }


def _part(
    world: World, card: Card, promise: Promise, uuid: str, row: HoldingRow | MirrorRow | None
) -> Iterator[str]:
    what = f"{uuid} of {promise.device or promise.vm}"
    if row is None or (promise.device and row.device != promise.device):
        yield f"{card.name} has lost {what}, which nobody has deleted"
        return
    if isinstance(row, MirrorRow):
        return  # what it has is looked at by settled_mirrors.py
    space = world.find(row.giver, uuid)
    if space is None or space.born != promise.parts[uuid]:
        yield f"{row.giver} has lost the bytes of {what}, which {card.name} holds"
    elif uuid in promise.sizes and space.size != promise.sizes[uuid]:
        yield f"{what} has {space.size} bytes, and {promise.sizes[uuid]} were reported"


def _adopted(world: World) -> Iterator[str]:
    for device, (name, uuids) in world.orders.adopted.items():
        card = world.cards.get(name)
        if card is None or card.left or world.rules.forgotten:
            continue
        for uuid in uuids:
            if card.rows.unit(uuid) is None:
                yield f"{name} has lost {uuid} of {device}, which it has taken over"


def _gone(world: World, living: list[Card]) -> Iterator[str]:
    for uuid, device in world.orders.gone.items():
        if device in world.orders.tried_to_adopt or uuid in world.rules.moved:
            continue
        if any(card.rows.unit(uuid) or uuid in card.rows.spaces for card in living):
            yield f"{uuid} of {device} is still there, and was reported as deleted"
