"""What must be the case of namespaces kept as copies once the dust has settled.

As many copies as there shall be, in sync, the same to the byte, each on another card or SSD, and
where they may be, as long as there is room for that.
"""

from __future__ import annotations

from collections.abc import Iterator

from vhostnvme.cluster import placement as rule
from vhostnvme.cluster.mirror_messages import LegState
from vhostnvme.cluster.records import CopyRecord, OfferRecord, decode, offer_key
from vhostnvme.cluster.rows import HoldingRow, MirrorRow, Recorded, RowState
from vhostnvme.testing.simulator.card import Card
from vhostnvme.testing.simulator.mirror import REGIONS
from vhostnvme.testing.simulator.world import World


def mirrors_of(world: World, card: Card) -> Iterator[str]:
    for row in card.rows.mirrors.values():
        yield from _mirror(world, card, row)
    for holding in card.rows.holdings.values():
        if not holding.mirror:
            yield from _plain(world, card, holding)
        elif holding.mirror not in card.rows.mirrors:
            yield f"{card.name} holds {holding.uuid}, a copy of nothing: a leak"
        elif holding.uuid not in card.rows.mirrors[holding.mirror].uuids():
            yield f"{card.name} holds {holding.uuid}, which is no copy of {holding.mirror}: a leak"
    for uuid in card.running_devices.bitmaps:
        if card.rows.unit(uuid) is None:
            yield f"{card.name} has a bitmap of {uuid}, which it does not have: a leak"


def _plain(world: World, card: Card, row: HoldingRow) -> Iterator[str]:
    if lacking := world.ledger.lacks(row.uuid, row.giver, row.uuid):
        yield f"{row.uuid} of {card.name} on {row.giver} has lost {lacking}"
    place = _place(row)
    if not row.device or row.read_only or is_wanted(world, place):
        return
    room = _room(world, card, row.placement, row.size, [place])
    if room is not None:
        yield f"{row.uuid} of {card.name} is on {place}, which is emptied, and {room} has room"


def _mirror(world: World, card: Card, row: MirrorRow) -> Iterator[str]:
    what = f"the namespace {row.uuid} of {card.name}"
    if row.state is not RowState.READY:
        yield f"{what} is {row.state} for ever"
        return
    if is_lost(world, card, row):
        return
    if not row.in_sync():
        yield f"{what} has no copy that counts"
    mirror = card.find_mirror(row.uuid)
    if mirror is None:
        yield f"{what} does not run"
        return
    yield from _record(world, card, row)
    copies = [card.rows.holdings[leg.uuid] for leg in row.legs if leg.uuid in card.rows.holdings]
    if len(copies) != len(row.uuids()):
        yield f"{what} has a copy that {card.name} does not hold"
    places = [_place(each) for each in copies]
    remote = [name for name, _ in places if name != card.name]
    if len(places) != len(set(places)) or len(remote) != len(set(remote)):
        yield f"{what} has two copies in one place: {places}"
    yield from _numbers(world, card, row, copies)
    for number, leg in enumerate(row.legs):
        state = mirror.legs[number].state
        if number in row.in_sync() and state is not LegState.IN_SYNC:
            yield f"{what} counts on leg {number}, which is {state}"
        if not leg.uuid and mirror.legs[number].path is not None:
            yield f"{what} has leg {number} open, of which its catalog knows nothing"
    yield from _content(world, row, copies)


def _numbers(world: World, card: Card, row: MirrorRow, copies: list[HoldingRow]) -> Iterator[str]:
    """As many as there shall be, where they may be, unless there is no room for that."""
    what = f"the namespace {row.uuid} of {card.name}"
    places = [_place(each) for each in copies]
    counts = [each for n, each in enumerate(row.legs) if n in row.in_sync()]
    left = any(world.cards[each.giver].left for each in copies)
    if len(counts) != len(copies) and not left:
        yield f"{what} has a copy that is not in sync, for ever: {row.legs}"
    room = _room(world, card, rule.placement_of_copy(row.placement, 1), row.size, places)
    if len(counts) < row.copies and room is not None:
        yield f"{what} has {len(counts)} copies, and not {row.copies}, and {room} has room"
    leaving = {leg.uuid for leg in row.legs if leg.leaving}
    good = [each for each in copies if each.uuid not in leaving and is_wanted(world, _place(each))]
    if len(good) >= row.copies and len(copies) > row.copies:
        yield f"{what} has {len(copies)} copies, and {row.copies} of them would do"
    if leaving:
        ssd = row.to if row.to in card.medium.ssds else None
        room = _room(world, card, card.name if ssd else row.to, row.size, places, ssd)
    if len(good) < row.copies and room is not None:
        yield f"{what} has copies on {places} that are to go, and {room} has room"


def _content(world: World, row: MirrorRow, copies: list[HoldingRow]) -> Iterator[str]:
    counting = {row.legs[number].uuid for number in row.in_sync()}
    found = []
    for copy in copies:
        if copy.uuid not in counting:
            continue
        space = world.find(copy.giver, copy.uuid)
        if lacking := world.ledger.lacks(row.uuid, copy.giver, copy.uuid):
            yield f"the copy {copy.uuid} of {row.uuid} on {copy.giver} has lost {lacking}"
        content = space.content if space else {}
        found.append(tuple(content.get(region, 0) for region in range(REGIONS)))
    if len(set(found)) > 1:
        yield f"the copies of {row.uuid} differ: {found}"


def _record(world: World, card: Card, row: MirrorRow) -> Iterator[str]:
    record = world.ledger.records.get(row.uuid)
    if row.recorded is Recorded.NOWHERE:
        if record is not None:
            yield f"the store has a record of {row.uuid}, which {card.name} does not know of"
        return
    if row.recorded is not Recorded.SAME:
        yield f"the store's record of {row.uuid} is {row.recorded} for ever"
        return
    legs = tuple(
        CopyRecord(leg.uuid, holding.giver if holding else "", leg.standing)
        for leg in row.legs
        if leg.uuid
        for holding in [card.rows.holdings.get(leg.uuid)]
    )
    if record is None or (record.owner, record.legs) != (card.name, legs):
        yield f"the store's record of {row.uuid} is not what {card.name} has: {record}"


def is_lost(world: World, card: Card, row: MirrorRow) -> bool:
    """Whether all its good copies were on cards that have gone for good."""
    if not row.in_sync() or not any(each.left for each in world.cards.values()):
        return False
    for number in row.in_sync():
        holding = card.rows.holdings.get(row.legs[number].uuid)
        giver = world.cards.get(holding.giver) if holding else None
        if giver is not None and not giver.left:
            return False
    return True


Place = tuple[str, str]  # a card, and its SSD


def _place(holding: HoldingRow) -> Place:
    return (holding.giver, holding.ssd)


def is_wanted(world: World, place: Place) -> bool:
    card = world.cards[place[0]]
    ssd = card.medium.ssds.get(place[1])
    return not card.rows.draining and ssd is not None and not ssd.failing


def _room(
    world: World,
    card: Card,
    placement: str,
    size: int,
    places: list[Place],
    only: str | None = None,
) -> str | None:
    """A card that has room for one more copy, and says so."""
    remote = {name for name, _ in places if name != card.name}
    here = {ssd for name, ssd in places if name == card.name}
    for other in world.cards.values():
        if other.left or other.rows.draining or other.name in remote:
            continue
        if placement == rule.REMOTE and other is card:
            continue
        if placement == rule.LOCAL and other is not card:
            continue
        if placement not in (rule.AUTO, rule.LOCAL, rule.REMOTE, other.name):
            continue
        entry = world.store.entries.get(offer_key(other.name))
        offer = decode(entry.key, entry.value, OfferRecord) if entry else None
        for ssd in offer.ssds if offer else ():
            taken = other is card and ssd.name in here
            if (
                only in (None, ssd.name)
                and not taken
                and not ssd.failing
                and ssd.healthy
                and ssd.largest >= size
            ):
                return f"{other.name}'s {ssd.name}"
    return None
