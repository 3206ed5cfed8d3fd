"""What the three managers of one card share: its rows, what the store holds, effects to come.

A step is: a message changes rows or the view, the managers act on what is now the case, and the
effects that they have noted are taken. Nothing here has a clock, a socket or a disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vhostnvme.cluster.messages import CardOptions, Done, Effect, Failure, Log, Reply, Write
from vhostnvme.cluster.rows import (
    DeviceRow,
    DrainRow,
    HoldingRow,
    HoldingState,
    MirrorRow,
    RowState,
    SpaceRow,
)
from vhostnvme.cluster.store.base import Change, Delete, Entry, Operation, Put
from vhostnvme.storage.catalog import Deleted, Gone, Row

Then = Callable[[Any, Failure | None], None]


# A namespace as a guest sees it.
Unit = HoldingRow | MirrorRow


@dataclass(frozen=True, slots=True)
class Seen:
    """A key as it was last seen; `value` None: deleted at `revision`."""

    value: bytes | None
    revision: int


class View:
    """What the store holds of all that is watched; never goes back to an older revision of a key.

    `synced`: it has been listed since the watch was lost last.
    """

    def __init__(self) -> None:
        self.synced = False
        self.revision = 0  # all changes up to it have been told
        self._seen: dict[str, Seen] = {}

    def get(self, key: str) -> Seen | None:
        """The key, None when it is not there."""
        seen = self._seen.get(key)
        return seen if seen is not None and seen.value is not None else None

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that are there, below a prefix."""
        return (
            key
            for key, seen in self._seen.items()
            if key.startswith(prefix) and seen.value is not None
        )

    def sync(self, revision: int, entries: Iterable[Entry]) -> set[str]:
        """Everything at `revision`; answers the keys that have changed."""
        changed = set()
        there = set()
        for entry in entries:
            there.add(entry.key)
            if self.put(entry.key, entry.value, entry.revision):
                changed.add(entry.key)
        for key, seen in list(self._seen.items()):
            if key in there or seen.revision > revision:
                continue  # what we have done ourselves may be newer than the list
            if seen.value is not None:
                changed.add(key)
            del self._seen[key]
        self.synced = True
        self.revision = revision
        return changed

    def apply(self, changes: Iterable[Change]) -> set[str]:
        """Answers the keys that have changed."""
        changes = list(changes)
        self.revision = max([self.revision, *(each.revision for each in changes)])
        return {each.key for each in changes if self.put(each.key, each.value, each.revision)}

    def did(self, operations: Iterable[Operation], revision: int) -> set[str]:
        """A transaction of ours has succeeded at `revision`; answers the keys that it changed."""
        for each in operations:
            self.put(each.key, each.value if isinstance(each, Put) else None, revision)
        return {each.key for each in operations if isinstance(each, Put | Delete)}

    def put(self, key: str, value: bytes | None, revision: int) -> bool:
        """False: what is known is as new."""
        seen = self._seen.get(key)
        if seen is not None and seen.revision >= revision:
            return False
        self._seen[key] = Seen(value, revision)
        return seen is None or seen.value != value


class Board:
    """Of one card. Managers note effects by `emit`, `begin`, `write`, `reply` and `log`."""

    def __init__(self, options: CardOptions, rows: Iterable[Row | Deleted], now: float) -> None:
        self.options = options
        self.me = options.name
        self.now = now
        self.view = View()
        self.random = random.Random(options.seed)
        self.spaces: dict[str, SpaceRow] = {}
        self.space_changes = 0  # so many changes of them have been made
        self.devices: dict[str, DeviceRow] = {}
        self.holdings: dict[str, HoldingRow] = {}
        self.mirrors: dict[str, MirrorRow] = {}
        self.drains: dict[str, DrainRow] = {}
        self.deleted: set[tuple[str, str]] = set()
        self.dirty: set[str] = set()  # UUIDs and devices that something has changed about
        self._copies: dict[str, set[str]] = {}  # the holdings of each mirror
        self._effects: list[Effect] = []
        self._waiting: dict[int, Then] = {}
        self._next_op = 1
        self._note(rows)

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def begin(self, make: Callable[[int], Effect], then: Then) -> None:
        """Notes the effect that `make` makes of a number; `then` gets its value or failure."""
        op = self._next_op
        self._next_op += 1
        self._waiting[op] = then
        self._effects.append(make(op))

    def done(self, message: Done) -> None:
        """Passes an end on; one that nobody waits for is nothing."""
        then = self._waiting.pop(message.op, None)
        if then is not None:
            then(message.value, message.failure)

    def write(self, *changes: Row | Gone | Deleted) -> None:
        """One atomic change of the catalog, which the rows here follow at once."""
        self._note(changes)
        self._effects.append(Write(changes))

    def reply(self, command: int, value: Any = None, error: Exception | None = None) -> None:
        self._effects.append(Reply(command, value, error))

    def log(self, level: int, text: str) -> None:
        self._effects.append(Log(level, text))

    def take(self) -> list[Effect]:
        """The effects that have been noted since the last time."""
        effects, self._effects = self._effects, []
        return effects

    @property
    def draining(self) -> bool:
        """Whether this card is being emptied."""
        return bool(self.drains)

    def units_of(self, device: str) -> list[Unit]:
        """The namespaces that its guest sees or is to see, in the order of the NSIDs."""
        plain = [row for row in self.holdings_of(device) if not row.mirror]
        kept = [
            row
            for row in self.mirrors.values()
            if row.device == device and row.state is not RowState.DELETING
        ]
        return sorted([*plain, *kept], key=lambda row: row.nsid)

    def can_attach(self, unit: Unit) -> bool:
        """Whether all of it is there that has to be."""
        if isinstance(unit, HoldingRow):
            return unit.state is HoldingState.HELD
        held = self.all_held(unit) and bool(unit.in_sync())
        return unit.is_recorded and held and self.is_made(unit)

    def counting(self, mirror: MirrorRow) -> list[HoldingRow | None]:
        """The copies that count; None: its giver has lost it, or it was not taken over."""
        return [self.holdings.get(mirror.legs[number].uuid) for number in mirror.in_sync()]

    def all_held(self, mirror: MirrorRow) -> bool:
        """Whether all copies that count are this card's: what is being taken over is not yet."""
        return all(
            row is not None and row.state is HoldingState.HELD for row in self.counting(mirror)
        )

    def is_made(self, mirror: MirrorRow) -> bool:
        """Whether it has all copies that it is to begin with."""
        counts = len(mirror.in_sync())
        if mirror.state is not RowState.MAKING or counts >= mirror.copies:
            return True
        sought = any(row.state is HoldingState.WANTED for row in self.copies_of(mirror.uuid))
        return mirror.degraded and counts > 0 and not sought

    def copies_of(self, mirror: str) -> list[HoldingRow]:
        """The holdings that are, or are to be, copies of it; not those that are given back."""
        found = [self.holdings[uuid] for uuid in sorted(self._copies.get(mirror, ()))]
        return [row for row in found if row.state is not HoldingState.RELEASING]

    def holdings_of(self, device: str) -> list[HoldingRow]:
        """What it has or is to have, copies one by one, in the order of the NSIDs."""
        found = [
            row
            for row in self.holdings.values()
            if row.device == device and row.state is not HoldingState.RELEASING
        ]
        return sorted(found, key=lambda row: row.nsid)

    def _note(self, changes: Iterable[Row | Gone | Deleted]) -> None:
        tables: dict[type[Row], dict[str, Any]] = {
            SpaceRow: self.spaces,
            DeviceRow: self.devices,
            HoldingRow: self.holdings,
            MirrorRow: self.mirrors,
            DrainRow: self.drains,
        }
        for change in changes:
            if isinstance(change, Deleted):
                self.deleted.add((change.kind, change.name))
                continue
            kind = change.kind if isinstance(change, Gone) else type(change)
            key = change.key if isinstance(change, Gone) else change.key()
            old = tables[kind].pop(key, None) if isinstance(change, Gone) else tables[kind].get(key)
            if not isinstance(change, Gone):
                tables[kind][key] = change
            self.dirty.add(key)
            self.space_changes += kind in (SpaceRow, DrainRow)
            # A device has to do with the namespaces that it has, and with those that it had.
            for row in (old, change):
                if isinstance(row, HoldingRow | MirrorRow):
                    self.dirty.add(row.device)
            self._note_copy(old, change)

    def _note_copy(self, old: object, new: object) -> None:
        if isinstance(old, HoldingRow) and old.mirror:
            self.dirty.add(old.mirror)
            self._copies[old.mirror].discard(old.uuid)
            if not self._copies[old.mirror]:
                del self._copies[old.mirror]
        if isinstance(new, HoldingRow) and new.mirror:
            self.dirty.add(new.mirror)
            self._copies.setdefault(new.mirror, set()).add(new.uuid)
