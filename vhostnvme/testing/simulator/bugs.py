"""Bugs on purpose: each is put into the managers, and the rules must notice it.

A bug changes the effects of a step before they are begun, or replaces methods of the managers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from vhostnvme.cluster import messages as msg
from vhostnvme.cluster.messages import Effect, Message
from vhostnvme.cluster.mirror_messages import LegIn
from vhostnvme.cluster.records import HELD, SPACE, SpaceRecord, SpaceState, decode, encode
from vhostnvme.cluster.rows import HoldingRow, HoldingState, SpaceRow
from vhostnvme.cluster.store.base import Operation, Put
from vhostnvme.storage.catalog import Gone
from vhostnvme.testing.simulator import bugs_inside as inside
from vhostnvme.testing.simulator import bugs_mirrors as mirrors

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.card import Card
    from vhostnvme.testing.simulator.world import World

Change = Callable[["Card", Message | None, list[Effect]], list[Effect]]


@dataclass(frozen=True, slots=True)
class Bug:
    """`replaced`: class or module, attribute, what it is replaced by.

    `favour`: what shall happen often in a history that is to show it (see `make_plan`). `seed`:
    from which it does not take long.
    """

    name: str
    what: str
    change: Change | None = None
    replaced: tuple[tuple[Any, str, Any], ...] = ()
    prepare: Callable[[World], None] | None = None
    favour: tuple[str, ...] = ()
    seed: int = 0

    @contextmanager
    def patch(self) -> Iterator[None]:
        """While it holds, the managers have the bug."""
        before = [(owner, name, owner.__dict__[name]) for owner, name, _ in self.replaced]
        for owner, name, new in self.replaced:
            setattr(owner, name, new)
        try:
            yield
        finally:
            for owner, name, old in before:
                setattr(owner, name, old)

    def effects(self, card: Card, message: Message | None, effects: list[Effect]) -> list[Effect]:
        return self.change(card, message, effects) if self.change else effects


# --- Changes of effects ---


def _store_first(_card: Card, _message: Message | None, effects: list[Effect]) -> list[Effect]:
    return sorted(effects, key=lambda each: not isinstance(each, msg.Txn))


def _answer_first(_card: Card, _message: Message | None, effects: list[Effect]) -> list[Effect]:
    return sorted(effects, key=lambda each: not isinstance(each, msg.Reply))


def _forget_before_destroy(
    _card: Card, _message: Message | None, effects: list[Effect]
) -> list[Effect]:
    found: list[Effect] = []
    for each in effects:
        found.append(each)
        if isinstance(each, msg.Destroy):
            found.append(msg.Write((Gone(SpaceRow, each.uuid),)))
    return found


def _drop_epochs(card: Card, _message: Message | None, effects: list[Effect]) -> list[Effect]:
    """The epoch stays in memory only."""
    found: list[Effect] = []
    for each in effects:
        if isinstance(each, msg.Write):
            each = msg.Write(
                tuple(
                    msgspec.structs.replace(row, epoch=card.rows.spaces[row.uuid].epoch)
                    if isinstance(row, SpaceRow) and row.uuid in card.rows.spaces
                    else row
                    for row in each.changes
                )
            )
        found.append(each)
    return found


def _held_too_early(_card: Card, _message: Message | None, effects: list[Effect]) -> list[Effect]:
    """What is asked for is remembered only once it is held."""
    found: list[Effect] = []
    for each in effects:
        if isinstance(each, msg.Write):
            rows = [
                row
                for row in each.changes
                if not (isinstance(row, HoldingRow) and row.state is HoldingState.WANTED)
            ]
            each = msg.Write(tuple(rows))
        found.append(each)
    return found


def _on_records(
    change: Callable[[SpaceRecord], SpaceRecord | None], prefixes: tuple[str, ...] = (SPACE, HELD)
) -> Change:
    """Changes the space records that are put; None: it is not."""

    def operations(then: tuple[Operation, ...]) -> Iterator[Operation]:
        for each in then:
            if isinstance(each, Put) and each.key.startswith(prefixes):
                record = change(decode(each.key, each.value, SpaceRecord))
                if record is not None:
                    yield Put(each.key, encode(record), each.lease)
            else:
                yield each

    def changed(_card: Card, _message: Message | None, effects: list[Effect]) -> list[Effect]:
        return [
            msg.Txn(each.op, each.compare, tuple(operations(each.then)))
            if isinstance(each, msg.Txn)
            else each
            for each in effects
        ]

    return changed


def _more(record: SpaceRecord) -> SpaceRecord:
    if record.state is not SpaceState.GRANTED:
        return record
    return msgspec.structs.replace(record, size=record.size + 4096)


def _same_epoch(record: SpaceRecord) -> SpaceRecord:
    return msgspec.structs.replace(record, epoch=1, admitted=min(record.admitted, 1))


def _never_full(_card: Card, _message: Message | None, effects: list[Effect]) -> list[Effect]:
    return [replace(each, full=False) if isinstance(each, LegIn) else each for each in effects]


def _no_drain(world: World) -> None:
    for card in world.cards.values():
        card.target.early = True


_SEEDS = {
    "trusting-export": 30, "earlier-life": 45, "no-spare": 25, "late-record": 95, "lone-copy": 100,
}  # fmt: skip

BUGS: tuple[Bug, ...] = (
    Bug("store-first", "the store is told before the catalog", _store_first),
    Bug("answer-first", "a command is answered before its outcome is durable", _answer_first),
    Bug("forget-first", "a row goes before its space is destroyed", _forget_before_destroy),
    Bug("epoch-in-memory", "a new epoch is let in before the catalog has it", _drop_epochs),
    Bug("want-in-memory", "the catalog does not know what is asked for", _held_too_early),
    Bug("one-copy", "the owner's copy of a record is not written",
        _on_records(lambda _record: None, (HELD,))),
    Bug("grant-more", "a grant is for more than was asked", _on_records(_more)),
    Bug("same-epoch", "who takes over does not raise the epoch", _on_records(_same_epoch)),
    Bug("no-drain", "a new host is let in while the old one's writes are under way",
        prepare=_no_drain, favour=("lost_owner",)),
    Bug("new-by-bitmap", "a new copy is brought in as if the bitmap knew what it lacks",
        _never_full, favour=("lost_copy",)),
    *(
        Bug(name, what, replaced=replaced, favour=favour, seed=_SEEDS.get(name, 0))
        for name, what, replaced, favour in (*inside.BUGS, *mirrors.BUGS)
    ),
)  # fmt: skip


def find_bug(name: str) -> Bug:
    """
    Raises:
        KeyError: there is none of this name.
    """
    return {bug.name: bug for bug in BUGS}[name]
