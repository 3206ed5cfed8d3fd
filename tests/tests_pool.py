"""Cards' managers without a card: a store, SSDs and clocks that do as they are told.

Everything that is begun ends at once, in order, unless a test holds it back. The simulator does the
opposite: it is there for what nobody has thought of, this is for what a test wants to tell.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from vhostnvme.cluster.commands import Command
from vhostnvme.cluster.messages import (
    Attach,
    CardOptions,
    Changed,
    Detach,
    Done,
    Effect,
    EndCard,
    Export,
    Failure,
    FailureKind,
    GrantLease,
    KeepAlive,
    ListStore,
    Log,
    Reply,
    RevokeLease,
    SsdReport,
    StopDevice,
    StoreLost,
    Synced,
    Tick,
    Txn,
    Unexport,
    Write,
)
from vhostnvme.cluster.mirror_messages import (
    AttachMirror,
    LegCounts,
    LegDrop,
    LegIn,
    LegOut,
    LegSeen,
    LegState,
    MirrorSeen,
)
from vhostnvme.cluster.pool import Pool
from vhostnvme.cluster.records import SpaceRecord, decode
from vhostnvme.cluster.rows import HoldingRow
from vhostnvme.cluster.store.base import (
    Absent,
    Change,
    Compare,
    Entry,
    ModifiedAt,
    Operation,
    Put,
    Snapshot,
    TxnResult,
    ValueIs,
)
from vhostnvme.storage.catalog import Deleted, Gone, Row

MIB = 1 << 20
GIB = 1 << 30
STEP_S = 0.25
STORE_EFFECTS = (Txn, ListStore, GrantLease, KeepAlive, RevokeLease)


@dataclass
class MemoryStore:
    """A store that is always right; leases end when `expire` says so."""

    revision: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    leases: set[int] = field(default_factory=set)
    next_lease: int = 1

    def txn(self, compare: tuple[Compare, ...], then: tuple[Operation, ...]) -> TxnResult:
        if not all(self._holds(each) for each in compare):
            return TxnResult(False, self.revision, ())
        self.revision += 1
        for each in then:
            old = self.entries.pop(each.key, None)
            value = each.value if isinstance(each, Put) else None
            created = (old.created if old else self.revision) if value is not None else 0
            if isinstance(each, Put):
                self.entries[each.key] = Entry(
                    each.key, each.value, self.revision, created, each.lease
                )
            if value is not None or old is not None:
                self.changes.append(Change(each.key, value, self.revision, created))
        return TxnResult(True, self.revision, ())

    def _holds(self, compare: Compare) -> bool:
        entry = self.entries.get(compare.key)
        match compare:
            case Absent():
                return entry is None
            case ModifiedAt(_, revision):
                return (entry.revision if entry else 0) == revision
            case ValueIs(_, value):
                return entry is not None and entry.value == value
        return entry is not None

    def grant(self) -> int:
        self.leases.add(self.next_lease)
        self.next_lease += 1
        return self.next_lease - 1

    def expire(self, lease: int) -> None:
        self.leases.discard(lease)
        for entry in [each for each in self.entries.values() if each.lease == lease]:
            self.revision += 1
            del self.entries[entry.key]
            self.changes.append(Change(entry.key, None, self.revision, 0))

    def spaces(self) -> list[SpaceRecord]:
        return [
            decode(key, entry.value, SpaceRecord)
            for key, entry in self.entries.items()
            if key.startswith("space/")
        ]


class TestMirror:
    """A mirror as the library has it, without data: a test says what its legs come to."""

    __test__ = False

    def __init__(self, card: TestCard, effect: AttachMirror) -> None:
        self.card = card
        self.uuid = effect.mirror.uuid
        self.legs = [
            LegSeen() if row is None else LegSeen(row.uuid, LegState.IN_SYNC) for row in effect.legs
        ]

    def tell(self) -> None:
        self.card.step(MirrorSeen(self.uuid, tuple(self.legs)))
        self.card.world.run()

    def comes_to(self, leg: int, state: LegState, *, covered: bool = False) -> None:
        self.legs[leg] = replace(self.legs[leg], state=state, covered=covered)
        self.tell()

    def states(self) -> list[str]:
        return [str(leg.state) for leg in self.legs if leg.uuid]

    @property
    def is_rebuilding(self) -> bool:
        return any(leg.state in (LegState.REBUILDING, LegState.READY) for leg in self.legs)

    def carry_out(self, effect: LegOut | LegIn | LegCounts | LegDrop) -> None:
        leg = self.legs[effect.leg]
        match effect:
            case LegOut():
                assert leg.state in (LegState.FAILED, LegState.OUT)
                self.legs[effect.leg] = replace(leg, state=LegState.OUT)
            case LegIn():
                assert leg.state in (LegState.NONE, LegState.OUT)
                self.legs[effect.leg] = LegSeen(effect.holding.uuid, LegState.REBUILDING)
            case LegCounts():
                assert leg.state is LegState.READY
                self.legs[effect.leg] = replace(leg, state=LegState.IN_SYNC)
            case LegDrop():
                self.legs[effect.leg] = LegSeen()
        assert any(each.state is LegState.IN_SYNC for each in self.legs)


class TestCard:
    """One card. `held` are effects that a test ends itself, by `finish`."""

    __test__ = False

    def __init__(self, world: World, options: CardOptions, ssds: list[SsdReport]) -> None:
        self.world = world
        self.options = options
        self.ssds = ssds
        self.rows: dict[tuple[type[Row], str], Row] = {}
        self.deleted: list[Deleted] = []
        self.replies: dict[int, Reply] = {}
        self.effects: list[Effect] = []  # all that were ever begun
        self.logs: list[str] = []
        self.ended: Exception | None = None
        self.reachable = True  # the store
        self.holds: Callable[[Effect], bool] = lambda _: False
        self.fails: Callable[[Effect], Failure | None] = lambda _: None
        self.held: list[Any] = []
        self.mirrors: dict[str, TestMirror] = {}  # those that are attached
        self._lives = 0
        self.start()

    def start(self) -> None:
        """A new life, from what is durable."""
        self._lives += 1
        self.pending: deque[Done] = deque()
        self.pending_seen: deque[MirrorSeen] = deque()
        self.held = []
        self.mirrors = {}
        self.seen: int | None = None  # revision up to which changes have been told
        seed = zlib.crc32(f"{self.options.name} {self.options.seed} {self._lives}".encode())
        options = replace(self.options, session=f"life{self._lives}", seed=seed)
        rows = [*self.rows.values(), *self.deleted]
        self.pool = Pool(options, rows, self.ssds, self.world.now)
        self._begin(self.pool.start(self.world.now))

    def step(self, message: Any) -> None:
        self._begin(self.pool.step(message, self.world.now))

    def ask(self, make: Callable[[int], Command]) -> int:
        """Begins a command; answers its number."""
        number = len(self.effects) + 1000 * (self._lives + 1)
        self.step(make(number))
        return number

    def do(self, make: Callable[[int], Command], seconds: float = 3.0) -> Any:
        """Carries a command out; answers or raises what it says."""
        number = self.ask(make)
        for _ in range(int(seconds / STEP_S)):
            self.world.run()
            if number in self.replies:
                break
            self.world.advance(STEP_S)
        reply = self.replies[number]
        if reply.error is not None:
            raise reply.error
        return reply.value

    def holdings_of(self, device: str) -> list[HoldingRow]:
        rows = [row for row in self.pool.holdings.values() if row.device == device]
        return sorted(rows, key=lambda row: row.nsid)

    def begun(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.effects if isinstance(each, kind)]

    def finish(self, effect: Any, value: Any = None, failure: Failure | None = None) -> None:
        """Ends an effect that was held back."""
        self.held.remove(effect)
        self.pending.append(Done(effect.op, value, failure))
        self.world.run()

    def _begin(self, effects: list[Effect]) -> None:
        for effect in effects:
            self.effects.append(effect)
            match effect:
                case Write(changes):
                    for change in changes:
                        self._write(change)
                case Reply(command):
                    assert command not in self.replies, "a command is answered once"
                    self.replies[command] = effect
                case Log(_, text):
                    self.logs.append(text)
                case EndCard(error):
                    self.ended = error
                case _ if self.holds(effect):
                    self.held.append(effect)
                case _:
                    self.pending.append(self._end_of(effect))

    def _write(self, change: Row | Gone | Deleted) -> None:
        if isinstance(change, Deleted):
            self.deleted.append(change)
        elif isinstance(change, Gone):
            self.rows.pop((change.kind, change.key), None)
        else:
            self.rows[type(change), change.key()] = change

    def _end_of(self, effect: Any) -> Done:
        failure = self.fails(effect)
        if isinstance(effect, STORE_EFFECTS) and not self.reachable:
            failure = Failure(FailureKind.UNAVAILABLE, "the store does not answer")
        if failure is not None:
            return Done(effect.op, None, failure)
        store = self.world.store
        match effect:
            case Txn():
                return Done(effect.op, store.txn(effect.compare, effect.then))
            case ListStore():
                entries = [e for k, e in store.entries.items() if k.startswith(effect.prefixes)]
                return Done(effect.op, Snapshot(store.revision, tuple(entries)))
            case GrantLease():
                return Done(effect.op, store.grant())
            case KeepAlive():
                if effect.lease in store.leases:
                    return Done(effect.op, 10.0)
                return Done(effect.op, None, Failure(FailureKind.LEASE_LOST, "it has run out"))
            case AttachMirror():
                return self._attach_mirror(effect)
            case LegOut() | LegIn() | LegCounts() | LegDrop():
                mirror = self.mirrors[effect.mirror]
                if isinstance(effect, LegIn) and mirror.is_rebuilding:
                    return Done(effect.op, None, Failure(FailureKind.BUSY, "one at a time"))
                mirror.carry_out(effect)
                self.pending_seen.append(MirrorSeen(mirror.uuid, tuple(mirror.legs)))
            case Detach():
                self.mirrors.pop(effect.uuid, None)
            case StopDevice():
                self.mirrors.clear()
            case Attach() if effect.holding.giver != self.options.name:
                return self._attach(effect)
            case Export():
                self.world.admitted[self.options.name, effect.uuid] = (effect.owner, effect.epoch)
            case Unexport():
                self.world.admitted.pop((self.options.name, effect.uuid), None)
        return Done(effect.op)

    def _attach_mirror(self, effect: AttachMirror) -> Done:
        mirror = TestMirror(self, effect)
        self.mirrors[effect.mirror.uuid] = mirror
        self.pending_seen.append(MirrorSeen(mirror.uuid, tuple(mirror.legs)))
        return Done(effect.op)

    def _is_let_in(self, row: HoldingRow) -> bool:
        admitted = self.world.admitted.get((row.giver, row.uuid))
        return row.giver == self.options.name or admitted == (self.options.name, row.epoch)

    def _attach(self, effect: Attach) -> Done:
        if self._is_let_in(effect.holding):
            return Done(effect.op)
        return Done(effect.op, None, Failure(FailureKind.FAILED, "the giver does not let us in"))

    def work(self) -> bool:
        """One round of what is due; False: there was nothing."""
        did = False
        while self.pending or self.pending_seen:
            if self.pending_seen:  # before the end of the effect
                self.step(self.pending_seen.popleft())
            else:
                self.step(self.pending.popleft())
            did = True
        if not self.options.clustered:
            return did
        if not self.reachable:
            if self.seen is not None:
                self.seen = None
                self.step(StoreLost("the store does not answer"))
                did = True
            return did
        return self._watch() or did

    def _watch(self) -> bool:
        store, me = self.world.store, self.options.name
        mine = ("cards/", "members/", "offers/", f"space/{me}/", f"held/{me}/", f"mirrors/{me}/")
        if self.seen is None:
            self.seen = store.revision
            entries = [each for each in store.entries.values() if each.key.startswith(mine)]
            self.step(Synced(store.revision, entries))
            return True
        changes = [
            each
            for each in store.changes
            if each.revision > self.seen and each.key.startswith(mine)
        ]
        self.seen = store.revision
        if changes:
            self.step(Changed(changes))
        return bool(changes)

    @property
    def lease(self) -> int:
        return self.world.store.entries[f"members/{self.options.name}"].lease


class World:
    """The cards, their store, and true time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.store = MemoryStore()
        self.cards: dict[str, TestCard] = {}
        self.admitted: dict[tuple[str, str], tuple[str, int]] = {}  # (giver, UUID): who, epoch

    def add(self, name: str, size: int = 4 * GIB, **options: Any) -> TestCard:
        """A card with one SSD of that size, or with `ssds`."""
        ssds = options.pop("ssds", None) or [ssd("ssd0", size)]
        values: dict[str, Any] = {
            "uuid": f"uuid-{name}",
            "session": "",
            "addresses": (f"10.0.0.{len(self.cards) + 1}:4420",),
        } | options
        card = TestCard(self, CardOptions(name=name, **values), ssds)
        self.cards[name] = card
        self.run()
        self.advance(1.0)
        return card

    def run(self) -> None:
        """Until nothing is left to be done at this moment."""
        for _ in range(1000):
            worked = [card.work() for card in self.cards.values()]  # all of them, each time
            if not any(worked):
                return
        raise AssertionError("the cards do not come to rest")

    def advance(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            for card in self.cards.values():
                card.step(Tick())
            self.run()

    def lose(self, card: TestCard) -> None:
        """The card is cut off from the store, and its lease runs out there."""
        lease = card.lease
        card.reachable = False
        self.run()
        self.store.expire(lease)
        self.advance(10.0)

    def kill(self, card: TestCard) -> None:
        """It crashes, and its lease runs out."""
        lease = card.lease
        self.crash(card)
        self.store.expire(lease)
        self.run()

    def bring_back(self, card: TestCard) -> None:
        self.cards[card.options.name] = card
        card.start()
        self.run()
        self.advance(3.0)

    def crash(self, card: TestCard) -> None:
        """What is durable stays; its exports are gone. `start` brings it back."""
        del self.cards[card.options.name]
        for key in [key for key in self.admitted if key[0] == card.options.name]:
            del self.admitted[key]

    def restart(self, card: TestCard) -> None:
        self.crash(card)
        self.cards[card.options.name] = card
        card.start()
        self.run()
        self.advance(1.0)


def ssd(name: str, size: int, **options: Any) -> SsdReport:
    return SsdReport(name, "directory", size, size, size, 4096, **options)
