"""Space and mirror records in the store, as transactions, by compare-and-swap.

Both copies of a space record are written together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vhostnvme.cluster.board import Board
from vhostnvme.cluster.cluster_manager import ClusterManager
from vhostnvme.cluster.messages import Failure, Txn
from vhostnvme.cluster.records import (
    MirrorRecord,
    SpaceRecord,
    decode,
    encode,
    held_key,
    member_key,
    mirror_key,
    space_key,
)
from vhostnvme.cluster.store.base import (
    Absent,
    Compare,
    Delete,
    ModifiedAt,
    Operation,
    Present,
    Put,
    TxnResult,
)
from vhostnvme.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class Versioned:
    """A record, and the revision that a change of it compares."""

    record: SpaceRecord
    revision: int


@dataclass(frozen=True, slots=True)
class VersionedMirror:
    """The same of a mirror."""

    record: MirrorRecord
    revision: int


# Whether it was done; None: it is not known, and may still be done.
Told = Callable[[bool | None], None]


class SpaceStore:
    """Reads what the view has, and writes what a manager wants instead."""

    def __init__(self, board: Board, cluster: ClusterManager) -> None:
        self._board = board
        self._cluster = cluster

    def given(self, uuid: str) -> Versioned | None:
        """Of this card as the giver."""
        return self._read(space_key(self._board.me, uuid))

    def held(self, uuid: str) -> Versioned | None:
        """Of this card as the owner."""
        return self._read(held_key(self._board.me, uuid))

    def _read(self, key: str) -> Versioned | None:
        seen = self._board.view.get(key)
        if seen is None or seen.value is None:
            return None
        try:
            return Versioned(decode(key, seen.value, SpaceRecord), seen.revision)
        except ProtocolError:
            return None

    def put(self, record: SpaceRecord, told: Told) -> None:
        """A new record, addressed to a card that is a member."""
        compare = (
            Absent(space_key(record.giver, record.uuid)),
            Present(member_key(record.giver)),  # nobody is asked who may have been forgotten
        )
        self._txn(compare, _puts(record), told)

    def change(
        self, old: Versioned, new: SpaceRecord, told: Told, compare: tuple[Compare, ...] = ()
    ) -> None:
        operations = _puts(new)
        if new.owner != old.record.owner:
            operations = (*operations, Delete(held_key(old.record.owner, new.uuid)))
        self._txn((self._same(old), *compare), operations, told)

    def delete(self, old: Versioned, told: Told, compare: tuple[Compare, ...] = ()) -> None:
        self._txn((self._same(old), *compare), deletes(old.record), told)

    def _same(self, old: Versioned) -> ModifiedAt:
        # Both copies have the revision of the transaction that wrote them.
        return ModifiedAt(space_key(old.record.giver, old.record.uuid), old.revision)

    # --- Mirrors ---

    def mirror(self, uuid: str) -> VersionedMirror | None:
        """Of this card as the owner."""
        key = mirror_key(self._board.me, uuid)
        seen = self._board.view.get(key)
        if seen is None or seen.value is None:
            return None
        try:
            return VersionedMirror(decode(key, seen.value, MirrorRecord), seen.revision)
        except ProtocolError:
            return None

    def put_mirror(self, old: VersionedMirror | None, new: MirrorRecord, told: Told) -> None:
        key = mirror_key(new.owner, new.uuid)
        compare = ModifiedAt(key, old.revision) if old else Absent(key)
        self._txn((compare,), (Put(key, encode(new)),), told)

    def delete_mirror(
        self, old: VersionedMirror, told: Told, compare: tuple[Compare, ...] = ()
    ) -> None:
        key = mirror_key(old.record.owner, old.record.uuid)
        self._txn((ModifiedAt(key, old.revision), *compare), (Delete(key),), told)

    def adopt(
        self,
        mirror: tuple[VersionedMirror, MirrorRecord] | None,
        spaces: Sequence[tuple[Versioned, SpaceRecord]],
        compare: tuple[Compare, ...],
        told: Told,
    ) -> None:
        """Gives records, together, another owner: all of them or none."""
        compares: list[Compare] = list(compare)
        then: list[Operation] = []
        if mirror is not None:
            old_mirror, new_mirror = mirror
            key = mirror_key(old_mirror.record.owner, new_mirror.uuid)
            compares.append(ModifiedAt(key, old_mirror.revision))
            new_key = mirror_key(new_mirror.owner, new_mirror.uuid)
            then += [Delete(key), Put(new_key, encode(new_mirror))]
        for old, new in spaces:
            compares.append(self._same(old))
            then += [*_puts(new), Delete(held_key(old.record.owner, new.uuid))]
        self._txn(tuple(compares), tuple(then), told)

    # --- Transactions ---

    def _txn(self, compare: tuple[Compare, ...], then: tuple[Operation, ...], told: Told) -> None:
        def done(result: TxnResult | None, failure: Failure | None) -> None:
            if failure is not None or result is None:
                told(None)
                return
            if result.succeeded:
                changed = self._board.view.did(self._watched(then), result.revision)
                self._board.dirty |= {key.rpartition("/")[2] for key in changed}
            told(result.succeeded)

        self._board.begin(lambda op: Txn(op, (*self._cluster.guard(), *compare), then), done)

    def _watched(self, operations: tuple[Operation, ...]) -> list[Operation]:
        """Those of this card's prefixes: the view has no others."""
        me = self._board.me
        mine = (space_key(me, ""), held_key(me, ""), mirror_key(me, ""))
        return [each for each in operations if each.key.startswith(mine)]


def _puts(record: SpaceRecord) -> tuple[Operation, ...]:
    value = encode(record)
    return (
        Put(space_key(record.giver, record.uuid), value),
        Put(held_key(record.owner, record.uuid), value),
    )


def deletes(record: SpaceRecord) -> tuple[Operation, ...]:
    """Both copies go."""
    return (
        Delete(space_key(record.giver, record.uuid)),
        Delete(held_key(record.owner, record.uuid)),
    )
