"""What guests have been told, and what the copies of their namespaces must have therefore.

A region of a namespace holds a version. An acknowledged one, or a newer one, is what the guest that
owns the namespace reads, and what every copy has that is written down as in sync.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vhostnvme.cluster import messages as msg
from vhostnvme.cluster.mirror_messages import AttachMirror, LegCounts, LegDrop, LegOut, LegState
from vhostnvme.cluster.records import HELD, MIRRORS, MirrorRecord, SpaceRecord, SpaceState, decode
from vhostnvme.cluster.rows import MirrorRow, RowState
from vhostnvme.cluster.store.base import Change, Entry, Put
from vhostnvme.storage.catalog import Deleted, Gone, Row
from vhostnvme.storage.mirror_record import Standing
from vhostnvme.testing.simulator.engine import RuleBroken

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.card import Card
    from vhostnvme.testing.simulator.world import World

Place = tuple[str, str]  # a giver and the UUID of what it has given


class Ledger:
    """Attributes:
    records: what the store has of each mirror.
    promoting: mirrors of which a copy was taken for a good one by hand, until it is attached.
    reads, writes: how many have been checked.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._acknowledged: dict[str, dict[int, int]] = {}
        self._owners: dict[str, str] = {}  # by namespace
        self._robbed: set[tuple[str, str]] = set()  # owner and namespace: by force
        self.records: dict[str, MirrorRecord] = {}
        self.promoting: set[str] = set()
        self.reads = self.writes = 0
        world.store.commits.append(self._committed)

    # --- What guests are told ---

    def is_owner(self, card: str, unit: str) -> bool:
        return self._owners.get(unit, card) == card

    def acknowledged(self, unit: str, region: int) -> int:
        """The newest version that its guest was told is safe."""
        return self._acknowledged.get(unit, {}).get(region, 0)

    def acknowledge(self, card: Card, unit: str, region: int, version: int) -> None:
        """
        Raises:
            RuleBroken: a copy that is to be good does not have it.
        """
        if unit in self.promoting or (card.name, unit) in self._robbed:
            return
        self.writes += 1
        for giver, uuid in self._good(card, unit):
            if self._is_lost(giver):
                continue
            space = self._world.find(giver, uuid)
            there = space.content.get(region, 0) if space else -1
            if there < version:
                raise RuleBroken(
                    f"{card.name} acknowledges version {version} of region {region} of {unit}, and"
                    f" its copy {uuid} on {giver}, which is written down as in sync, has {there}"
                )
        of_unit = self._acknowledged.setdefault(unit, {})
        of_unit[region] = max(of_unit.get(region, 0), version)

    def read(self, card: str, unit: str, region: int, version: int, least: int) -> None:
        """A guest has read a region, of which it knew `least` when it asked.

        Raises:
            RuleBroken: it is older.
        """
        if not self.is_owner(card, unit) or unit in self.promoting:
            return
        self.reads += 1
        least = min(least, self.acknowledged(unit, region))  # less, when it was lost by force
        if version < least:
            raise RuleBroken(
                f"the guest of {card} reads version {version} of region {region} of {unit}, and"
                f" was told that {least} is safe: a stale read"
            )

    def _good(self, card: Card, unit: str) -> Iterator[Place]:
        """What is written down as in sync, in the store and in the catalog."""
        record = self.records.get(unit)
        if record is not None:
            for copy in record.legs:
                if copy.standing is Standing.IN_SYNC:
                    yield copy.giver, copy.uuid
        row = card.rows.mirrors.get(unit)
        if row is None and record is None:
            holding = card.rows.holdings.get(unit)
            if holding is not None:
                yield holding.giver, unit
        elif row is not None:
            for number in row.in_sync():
                holding = card.rows.holdings.get(row.legs[number].uuid)
                if holding is not None:
                    yield holding.giver, holding.uuid

    def _is_lost(self, giver: str) -> bool:
        """Whether a card has gone for good, and what it had with it."""
        return giver not in self._world.cards or giver in self._world.rules.forgotten

    def lacks(self, unit: str, giver: str, uuid: str) -> str:
        """Which acknowledged version a copy has not; "" when it has all."""
        space = self._world.find(giver, uuid)
        content = space.content if space else {}
        for region, version in self._acknowledged.get(unit, {}).items():
            if content.get(region, 0) < version:
                there = content.get(region, 0) if space else "nothing"
                return f"version {version} of region {region}: it has {there}"
        return ""

    def _forget_what_lacks(self, unit: str, giver: str, uuid: str) -> None:
        """This copy is the good one from now on, whatever it has."""
        space = self._world.find(giver, uuid)
        self._acknowledged[unit] = dict(space.content) if space else {}

    def attached(self, card: Card, unit: str) -> None:
        """A namespace runs with the copies that count now."""
        self._owners.setdefault(unit, card.name)
        row = card.rows.mirrors.get(unit)
        if unit not in self.promoting or row is None:
            return
        self.promoting.discard(unit)
        holding = card.rows.holdings[row.legs[row.in_sync()[0]].uuid]
        self._forget_what_lacks(unit, holding.giver, holding.uuid)

    # --- What is written down ---

    def write(self, card: Card, changes: Sequence[Row | Gone | Deleted]) -> None:
        """Of mirrors, before it is done."""
        for change in changes:
            if isinstance(change, MirrorRow):
                self._check_row(card, card.rows.mirrors.get(change.uuid), change)
                if change.uuid not in self._owners:
                    self._owners[change.uuid] = card.name

    def _check_row(self, card: Card, old: MirrorRow | None, new: MirrorRow) -> None:
        remote = []
        for number in new.in_sync():
            uuid = new.legs[number].uuid
            holding = card.rows.holdings.get(uuid)
            if holding is None:
                continue
            if holding.giver != card.name:
                remote.append(holding.giver)
            before = old.legs[number] if old else None
            was = before is not None and before.uuid == uuid
            if not was or before is None or before.standing is Standing.IN_SYNC or not old:
                continue
            mirror = card.find_mirror(new.uuid)
            leg = mirror.legs[number] if mirror else None
            if leg is not None and leg.state in (LegState.READY, LegState.IN_SYNC, LegState.FAILED):
                continue
            if self._world.orders.moves.is_promoting(card.name, new.uuid):
                self.promoting.add(new.uuid)
                continue
            state = leg.state if leg else "not open"
            raise RuleBroken(
                f"{card.name} writes down the copy {uuid} of {new.uuid} as in sync, and it is"
                f" {state}"
            )
        if len(remote) != len(set(remote)):
            raise RuleBroken(f"two copies of {new.uuid} lie on one card: {', '.join(remote)}")

    def _committed(self, changes: Sequence[Change], _before: dict[str, Entry | None]) -> None:
        for change in changes:
            if change.key.startswith(HELD) and change.value:
                record = decode(change.key, change.value, SpaceRecord)
                self._owners[record.uuid] = record.owner
            elif change.key.startswith(MIRRORS) and change.value:
                self._recorded(decode(change.key, change.value, MirrorRecord))
        for change in changes:
            if change.key.startswith(MIRRORS) and change.value is None:
                _, owner, unit = change.key.split("/", 2)
                if unit in self.records and self.records[unit].owner == owner:
                    del self.records[unit]

    def _recorded(self, new: MirrorRecord) -> None:
        old = self.records.get(new.uuid)
        self.records[new.uuid] = new
        self._owners[new.uuid] = new.owner
        good = [copy for copy in new.legs if copy.standing is Standing.IN_SYNC]
        if old is not None and old.owner != new.owner:
            self._world.rules.moved.add(new.uuid)
            self._robbed.discard((new.owner, new.uuid))
            was = {copy.uuid for copy in old.legs if copy.standing is Standing.IN_SYNC}
            if not was & {copy.uuid for copy in good}:  # by force
                self._robbed.add((old.owner, new.uuid))
                if not self._world.orders.moves.is_forcing(new.owner, new.device):
                    raise RuleBroken(
                        f"{new.owner} takes over {new.uuid} from {old.owner} with a copy that is"
                        " not in sync"
                    )
                self.promoting.discard(new.uuid)
                self._forget_what_lacks(new.uuid, good[0].giver, good[0].uuid)
        owner = self._world.cards.get(new.owner)
        row = owner.rows.mirrors.get(new.uuid) if owner else None
        if new.uuid in self.promoting or row is None or row.state is RowState.DELETING:
            return
        for copy in good:
            if self._is_lost(copy.giver):
                continue
            if lacking := self.lacks(new.uuid, copy.giver, copy.uuid):
                raise RuleBroken(
                    f"the store calls the copy {copy.uuid} of {new.uuid} on {copy.giver} in sync,"
                    f" and it lacks {lacking}"
                )

    # --- What is done ---

    def begins(self, card: Card, effect: msg.Effect) -> None:
        """It is written down before it is done."""
        match effect:
            case AttachMirror():
                self._attaches(card, effect)
            case LegOut():
                self._is_recorded(card, effect.mirror, effect.leg, Standing.IN_SYNC, wanted=False)
            case LegCounts():
                self._is_recorded(card, effect.mirror, effect.leg, Standing.IN_SYNC, wanted=True)
            case LegDrop():
                self._drops(card, effect)
            case msg.Txn():
                for each in effect.then:
                    if isinstance(each, Put) and each.key.startswith(HELD):
                        self._gives_back(card, decode(each.key, each.value, SpaceRecord))

    def _attaches(self, card: Card, effect: AttachMirror) -> None:
        row = card.rows.mirrors.get(effect.mirror.uuid)
        if row is None:
            raise RuleBroken(f"{card.name} opens {effect.mirror.uuid} before its catalog has it")
        given = {number for number, leg in enumerate(effect.legs) if leg is not None}
        if given - set(row.in_sync()):
            raise RuleBroken(f"{card.name} opens a copy of {row.uuid} that is not in sync")
        for number in given:
            self._is_recorded(card, row.uuid, number, Standing.IN_SYNC, wanted=True)

    def _is_recorded(
        self, card: Card, unit: str, number: int, standing: Standing, *, wanted: bool
    ) -> None:
        row, record = card.rows.mirrors.get(unit), self.records.get(unit)
        if row is None:
            return
        leg = row.legs[number]
        if (leg.standing is standing) is not wanted:
            raise RuleBroken(
                f"{card.name} acts upon leg {number} of {unit}, and its catalog says that it is"
                f" {leg.standing}"
            )
        if record is None or record.owner != card.name:
            return
        standings = {copy.uuid: copy.standing for copy in record.legs}
        if (standings.get(leg.uuid) is standing) is not wanted:
            raise RuleBroken(
                f"{card.name} acts upon leg {number} of {unit}, and the store says that it is"
                f" {standings.get(leg.uuid, 'none')}"
            )

    def _drops(self, card: Card, effect: LegDrop) -> None:
        mirror, record = card.find_mirror(effect.mirror), self.records.get(effect.mirror)
        row = card.rows.mirrors.get(effect.mirror)
        path = mirror.legs[effect.leg].path if mirror else None
        if path is None or row is None:
            return
        uuid = path.holding.uuid
        if uuid in row.uuids():
            raise RuleBroken(f"{card.name} drops the copy {uuid}, which its catalog still has")
        if record is None or record.owner != card.name:
            return
        if any(copy.uuid == uuid and copy.standing is Standing.IN_SYNC for copy in record.legs):
            raise RuleBroken(f"{card.name} drops the copy {uuid}, which the store calls in sync")

    def _gives_back(self, card: Card, record: SpaceRecord) -> None:
        if record.owner != card.name or record.state is not SpaceState.RELEASING:
            return
        if record.uuid in card.open_holdings():
            raise RuleBroken(f"{card.name} gives {record.uuid} back, which it has open")
