"""What is checked at every step of every history. A broken rule ends it, with one sentence.

The rules speak of what can be seen from outside the managers: what they write, in which order, and
what the store, the SSDs and the targets come to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vhostnvme.cluster import messages as msg
from vhostnvme.cluster.records import (
    HELD,
    SPACE,
    MemberRecord,
    SpaceRecord,
    SpaceState,
    decode,
    held_key,
    member_key,
    space_key,
)
from vhostnvme.cluster.rows import HoldingState, RowState, SpaceRow
from vhostnvme.cluster.store.base import Change, Entry, Put, TxnResult
from vhostnvme.storage.catalog import Deleted, Gone, Row
from vhostnvme.testing.simulator.engine import RuleBroken

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.card import Card
    from vhostnvme.testing.simulator.world import World

State = SpaceState
_NEXT: dict[State | None, tuple[State | None, ...]] = {
    None: (State.ASKED,),
    State.ASKED: (State.ASKED, State.GRANTED, State.REFUSED, State.WITHDRAWN, None),
    State.GRANTED: (State.GRANTED, State.RELEASING),
    State.REFUSED: (State.WITHDRAWN, None),
    State.WITHDRAWN: (None,),
    State.RELEASING: (State.RELEASING, None),
}


class Rules:
    """Attributes:
    forgotten: cards whose records may be deleted in any state.
    moved: namespaces that another card has taken over.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.forgotten: set[str] = set()
        self.moved: set[str] = set()
        self._asked: dict[str, int] = {}  # the most that was ever asked for a namespace
        world.store.commits.append(self._committed)

    # --- Of one card ---

    def decided(self, card: Card, effects: Sequence[msg.Effect]) -> None:
        """Of the effects of one step, before any is begun."""
        if card.clock() <= card.held_until:
            return
        for effect in effects:
            # To join late is no harm: the store binds nothing to a lease that has run out.
            if isinstance(effect, msg.Txn) and not _joins(card, effect):
                raise RuleBroken(
                    f"{card.name} changes the store although its lease may have run out: it ends"
                    f" {card.clock() - card.held_until:.3f} s too late"
                )

    def write(self, card: Card, changes: Iterable[Row | Gone | Deleted]) -> None:
        """Carries a Write out: epochs grow, and no SSD is given away more than once."""
        touched = set()
        for change in changes:
            if not isinstance(change, SpaceRow):
                continue
            touched.add(change.ssd)
            old = card.rows.spaces.get(change.uuid)
            if old is not None and change.epoch < old.epoch:
                raise RuleBroken(
                    f"{card.name} sets the epoch of {change.uuid} from {old.epoch} back to"
                    f" {change.epoch}"
                )
        card.rows.write(changes)
        for name in touched:
            self._account(card, name)

    def _account(self, card: Card, name: str) -> None:
        ssd = card.medium.ssds.get(name)
        if ssd is None:
            raise RuleBroken(f"{card.name} gives space of {name}, which it does not have")
        given = sum(
            ssd.taken(max(row.size, row.wanted))
            for row in card.rows.spaces.values()
            if row.ssd == name
        )
        if given > ssd.plan.capacity:
            raise RuleBroken(
                f"{card.name} has given {given} bytes of {name}, which has {ssd.plan.capacity}: a"
                " byte is given twice"
            )

    def begins(self, card: Card, effect: msg.Effect) -> None:
        """What must be in the catalog before an effect is begun."""
        match effect:
            case msg.Carve() | msg.Clone() | msg.Stretch():
                self._grows(card, effect)
            case msg.Destroy():
                self._destroys(card, effect)
            case msg.Export():
                row = card.rows.spaces.get(effect.uuid)
                if row is None or row.epoch < effect.epoch or row.owner != effect.owner:
                    raise RuleBroken(
                        f"{card.name} lets {effect.owner} in to {effect.uuid} at epoch"
                        f" {effect.epoch} before its catalog says so"
                    )
            case msg.Txn():
                for each in effect.then:
                    if isinstance(each, Put) and each.key.startswith(SPACE):
                        self._tells(card, decode(each.key, each.value, SpaceRecord))

    def _grows(self, card: Card, effect: msg.Carve | msg.Clone | msg.Stretch) -> None:
        row = card.rows.spaces.get(effect.uuid)
        kind = type(effect).__name__
        if row is None or row.ssd != effect.ssd:
            raise RuleBroken(f"{card.name} begins {kind} of {effect.uuid} without a row for it")
        if not isinstance(effect, msg.Clone) and effect.size > max(row.size, row.wanted):
            raise RuleBroken(
                f"{card.name} begins {kind} of {effect.size} bytes for {effect.uuid}, and accounts"
                f" for {max(row.size, row.wanted)}"
            )

    def _destroys(self, card: Card, effect: msg.Destroy) -> None:
        row = card.rows.spaces.get(effect.uuid)
        if row is None or row.state is RowState.READY:
            state = row.state if row else "no"
            raise RuleBroken(
                f"{card.name} destroys {effect.uuid}, which has {state} row: a crash now would"
                " leave it half there"
            )
        export = card.target.find(effect.uuid)
        if export is not None and export.open:
            raise RuleBroken(
                f"{card.name} destroys {effect.uuid}, to which {export.owner} is let in"
            )
        if effect.uuid in card.open_holdings():
            raise RuleBroken(f"{card.name} destroys {effect.uuid}, which a device of it has open")
        entry = self._world.store.entries.get(space_key(card.name, effect.uuid))
        if entry is not None:
            record = decode(entry.key, entry.value, SpaceRecord)
            if record.state is State.GRANTED:
                raise RuleBroken(
                    f"{card.name} destroys {effect.uuid}, which is granted to {record.owner}"
                )

    def _tells(self, card: Card, record: SpaceRecord) -> None:
        """A record that a card is about to write."""
        if record.state is State.ASKED and record.owner == card.name:
            holding = card.rows.holdings.get(record.uuid)
            if holding is None or holding.giver != record.giver:
                raise RuleBroken(
                    f"{card.name} asks {record.giver} for {record.uuid} before its catalog says so"
                )
        if record.state is not State.GRANTED or record.giver != card.name:
            return
        if record.owner == card.name:
            return  # it takes over what it has given: the record ends when nobody else is in it
        row = card.rows.spaces.get(record.uuid)
        if row is None or row.state is RowState.MAKING or row.owner != record.owner:
            raise RuleBroken(
                f"{card.name} grants {record.uuid} to {record.owner} without a finished row for it"
            )
        entry = self._world.store.entries.get(space_key(card.name, record.uuid))
        before = decode(entry.key, entry.value, SpaceRecord).admitted if entry else 0
        space = card.medium.find(record.uuid, there=False)
        if record.admitted > before and (
            space is None or space.let_in is None or space.let_in[1] < record.admitted
        ):
            raise RuleBroken(
                f"{card.name} tells that epoch {record.admitted} of {record.uuid} is let in,"
                " before it is"
            )

    # --- Of the store ---

    def transaction(self, card: Card, life: int, effect: msg.Txn) -> TxnResult:
        """A transaction has come to the store, perhaps long after it was sent."""
        store, me = self._world.store, member_key(card.name)
        entry = store.entries.get(me)
        member = decode(me, entry.value, MemberRecord).session if entry else ""
        revision = store.revision
        result = store.txn(effect.compare, effect.then)
        if (
            store.revision > revision
            and not _joins(card, effect)
            and not _is_of(member, card.name, life)
        ):
            raise RuleBroken(
                f"a transaction of {card.name}'s life {life} has changed the store, when its"
                f" membership was {member or 'gone'!r}"
            )
        return result

    def _committed(self, changes: Sequence[Change], before: dict[str, Entry | None]) -> None:
        for change in changes:
            if change.key.startswith(SPACE):
                old = before[change.key]
                self._record_changes(
                    change.key.split("/", 2)[1],
                    decode(old.key, old.value, SpaceRecord) if old else None,
                    decode(change.key, change.value, SpaceRecord) if change.value else None,
                )
            if change.key.startswith(HELD) and change.value:
                record = decode(change.key, change.value, SpaceRecord)
                space = self._world.store.entries.get(space_key(record.giver, record.uuid))
                if space is None or space.value != change.value:
                    raise RuleBroken(f"the records of {record.uuid} are not the same any more")

    def _record_changes(self, giver: str, old: SpaceRecord | None, new: SpaceRecord | None) -> None:
        record = new or old
        assert record is not None
        name = f"the record of {record.uuid} at {giver}"
        states = (old.state if old else None, new.state if new else None)
        ends = new is None and (
            record.giver == record.owner or self.forgotten & {record.giver, record.owner}
        )
        if states[1] not in _NEXT[states[0]] and not ends:
            words = " to ".join("nothing" if each is None else str(each) for each in states)
            raise RuleBroken(f"{name} goes from {words}")
        if new is not None:
            held = self._world.store.entries.get(held_key(new.owner, new.uuid))
            space = self._world.store.entries[space_key(giver, new.uuid)]
            if held is None or held.value != space.value:
                raise RuleBroken(f"{name} and that of its owner {new.owner} are not the same")
        elif old is not None and held_key(old.owner, old.uuid) in self._world.store.entries:
            raise RuleBroken(f"{name} is gone, but not that of its owner {old.owner}")
        if new is not None and (old is None or new.wanted):
            most = max(new.size, new.wanted) if old is None else new.wanted
            self._asked[new.uuid] = max(self._asked.get(new.uuid, 0), most)
        if old is None or new is None:
            return
        if new.epoch < old.epoch or new.admitted < old.admitted or new.admitted > new.epoch:
            raise RuleBroken(
                f"{name} goes from epoch {old.epoch}, {old.admitted} let in, to {new.epoch},"
                f" {new.admitted} let in"
            )
        if new.size > self._asked.get(new.uuid, 0):
            raise RuleBroken(f"{name} has {new.size} bytes, more than were asked for")
        if new.owner != old.owner:
            self.moved.add(new.uuid)
            if new.epoch == old.epoch:
                raise RuleBroken(f"{name} has a new owner, {new.owner}, and no new epoch")
            if member_key(old.owner) in self._world.store.entries:
                raise RuleBroken(
                    f"{new.owner} takes {record.uuid} from {old.owner}, which is a member"
                )
            held = self._world.store.entries.get(held_key(old.owner, old.uuid))
            if held is not None:
                raise RuleBroken(f"{name} has a new owner, and is still held by {old.owner}")

    # --- Of answers ---

    def created(self, card: Card, device: str) -> None:
        """A device is reported as created: all of it is durable and there."""
        row = card.rows.devices.get(device)
        if row is None or row.state is not RowState.READY:
            raise RuleBroken(f"{card.name} reports {device} as created before its catalog says so")
        for unit in card.rows.units_of(device):
            if unit.state not in (HoldingState.HELD, RowState.READY):
                raise RuleBroken(
                    f"{card.name} reports {device} as created, and {unit.uuid} is {unit.state}"
                )


def _joins(card: Card, effect: msg.Txn) -> bool:
    return any(each.key == member_key(card.name) for each in effect.then)


def _is_of(session: str, name: str, life: int) -> bool:
    wanted = f"{name}-{life}"
    return session == wanted or session.startswith(wanted + ".")
