"""Namespaces that are kept as copies: which of them count, written down before it is acted upon.

The library holds a mirror's commands when a copy has failed; a copy is written down as stale, in
the catalog and, when it is to be known there, in the store, before they go on without it. A copy
counts again when it has everything, and that is written down. Level-triggered: each step follows
from the row, the store's record and what the library says that is.

The record in the store is the ownership of the whole: who adopts a namespace moves it first, and
with it goes the right to go on without a copy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec

from vhostnvme.cluster.board import Board, Then
from vhostnvme.cluster.cluster_manager import ClusterManager
from vhostnvme.cluster.holdings import LINGER_S
from vhostnvme.cluster.messages import Effect, Failure, FailureKind
from vhostnvme.cluster.mirror_messages import (
    LegCounts,
    LegDrop,
    LegIn,
    LegOut,
    LegSeen,
    LegState,
    MirrorSeen,
)
from vhostnvme.cluster.records import CopyRecord, MirrorRecord
from vhostnvme.cluster.rows import HoldingState, Leg, MirrorRow, Recorded, RowState
from vhostnvme.cluster.space_store import SpaceStore, VersionedMirror
from vhostnvme.cluster.steps import Steps
from vhostnvme.storage.catalog import Gone
from vhostnvme.storage.mirror import LEGS_MAX
from vhostnvme.storage.mirror_record import Standing

BACK_S = 1.0  # until a copy that has failed is brought in again; doubles with each attempt
BACK_S_MAX = 30.0


def _nothing(_value: object, _failure: Failure | None) -> None:
    """What follows, follows from what is seen then."""


@dataclass(slots=True)
class Run:
    """A mirror as it runs. `seen` None: no device has it now."""

    seen: MirrorSeen | None = None
    out_since: dict[str, float] = field(default_factory=dict)  # by holding: it does not count
    attempts: dict[str, int] = field(default_factory=dict)
    again_at: dict[str, float] = field(default_factory=dict)


class Mirrors:
    """Of one card. `lost` is called when another card has taken one over."""

    def __init__(
        self,
        board: Board,
        cluster: ClusterManager,
        store: SpaceStore,
        lost: Callable[[MirrorRow], None],
    ) -> None:
        self._board = board
        self._cluster = cluster
        self._store = store
        self._lost = lost
        self._runs: dict[str, Run] = {}
        self._records = Steps(board, cluster, self._wake)
        self._legs = Steps(board, cluster, self._wake)  # by mirror/number
        self._outs = Steps(board, cluster, self._wake)  # the same
        self._linger: dict[str, float] = {}  # a record that may still be made until then
        self._unsure: set[str] = set()  # a change of the record may still be done
        self._online: set[str] = set()

    def _wake(self, key: str) -> None:
        self._board.dirty.add(key.partition("/")[0])

    # --- What runs ---

    def saw(self, message: MirrorSeen) -> None:
        self._runs.setdefault(message.mirror, Run()).seen = message
        self._wake(message.mirror)

    def attached(self, uuid: str) -> None:
        """Its device has it."""
        row = self._board.mirrors[uuid]
        if row.state is RowState.MAKING:
            self._board.write(msgspec.structs.replace(row, state=RowState.READY))
        self._wake(uuid)

    def detached(self, uuid: str) -> None:
        """No device has it any more: nothing of it is open."""
        run = self._runs.get(uuid)
        if run is not None:
            run.seen = None
        self._wake(uuid)

    def seen(self, uuid: str) -> MirrorSeen | None:
        run = self._runs.get(uuid)
        return run.seen if run else None

    def out_since(self, uuid: str, holding: str) -> float | None:
        """Since when a copy has not counted; None: it does, or the mirror does not run."""
        run = self._runs.get(uuid)
        return run.out_since.get(holding) if run else None

    def is_open(self, uuid: str, holding: str) -> bool:
        """Whether a running mirror may still use this holding."""
        seen = self.seen(uuid)
        return seen is not None and any(leg.uuid == holding for leg in seen.legs)

    # --- The next step ---

    def tick(self) -> None:
        self._records.tick()
        self._legs.tick()
        self._outs.tick()
        now = self._board.now
        for uuid in [uuid for uuid, at in self._linger.items() if at <= now]:
            del self._linger[uuid]
            self._wake(uuid)
        online = self._cluster.online() if self._board.view.synced else set()
        back = online - self._online
        self._online = online
        for row in self._board.mirrors.values():
            if not row.is_recorded:
                self._wake(row.uuid)
        for uuid, run in self._runs.items():
            if run.out_since and run.seen is not None:
                self._wake(uuid)
            if back:
                run.again_at.clear()
                run.attempts.clear()

    def act_on(self, uuid: str) -> None:
        """Takes the next step for one mirror."""
        row = self._board.mirrors.get(uuid)
        if row is None:
            if uuid not in self._board.holdings:
                self._runs.pop(uuid, None)
            self._unsure.discard(uuid)
        elif row.state is RowState.DELETING:
            self._end(row)
        elif self._is_taken(row):
            self._lost(row)
        else:
            self._do_without_the_lost(row)
            self._record(self._board.mirrors[uuid])
            if row.state is RowState.READY:
                self._follow(uuid)

    def _do_without_the_lost(self, row: MirrorRow) -> None:
        """What is taken over does not wait for a card that is away, when another copy is there."""
        holdings = self._board.counting(row)
        if not any(each is not None and each.state is HoldingState.HELD for each in holdings):
            return
        for number, each in zip(row.in_sync(), holdings, strict=True):
            if each is None or not each.adopting or not self._board.view.synced:
                continue
            if not self._is_here(each.uuid) and not self._cluster.is_online(each.giver):
                self.empty(self._board.mirrors[row.uuid], number)

    def _is_taken(self, row: MirrorRow) -> bool:
        if row.recorded is Recorded.NOT_YET:  # what it stood on before it was a mirror has gone
            copies = [row.legs[number].uuid for number in row.in_sync()]
            return row.state is RowState.READY and not self._board.holdings.keys() & set(copies)
        known = row.recorded in (Recorded.BEHIND, Recorded.SAME)
        if not known or not self._board.view.synced or self._records.is_busy(row.uuid):
            return False
        return self._store.mirror(row.uuid) is None

    def _end(self, row: MirrorRow) -> None:
        found = self._store.mirror(row.uuid)
        if row.recorded is Recorded.NOWHERE or (found is None and self._is_settled(row)):
            self._runs.pop(row.uuid, None)
            self._board.write(Gone(MirrorRow, row.uuid))
        elif found is not None and self._records.is_free(row.uuid):
            self._records.write(row.uuid, partial(self._store.delete_mirror, found))

    def _is_settled(self, row: MirrorRow) -> bool:
        """Whether a record that is not there will not come any more."""
        pending = row.uuid in self._linger or self._records.is_busy(row.uuid)
        known = row.recorded is not Recorded.NOT_YET or self._cluster.alone
        return self._board.view.synced and known and not pending

    # --- The record ---

    def _record(self, row: MirrorRow) -> None:
        """The store gets to know which copies count."""
        if row.recorded is Recorded.NOWHERE:
            if all(self._is_here(leg.uuid) for leg in row.legs if leg.uuid):
                return
            row = msgspec.structs.replace(row, recorded=Recorded.NOT_YET)
            self._board.write(row)
        if row.recorded is Recorded.SAME or not self._board.is_made(row):
            return
        if row.recorded is Recorded.NOT_YET and not self._board.all_held(row):
            return
        if not self._records.is_free(row.uuid):
            return
        found, wanted = self._store.mirror(row.uuid), self._record_of(row)
        if found is not None and found.record == wanted and row.uuid not in self._unsure:
            if self._cluster.alone:  # an earlier life of this card may change it still
                self._board.write(msgspec.structs.replace(row, recorded=Recorded.SAME))
        elif self._board.view.synced and (found or row.recorded is Recorded.NOT_YET):
            self._put(found, wanted)

    def _put(self, found: VersionedMirror | None, wanted: MirrorRecord) -> None:
        """Also what the store has already, to keep an earlier change that may be late from it."""
        uuid = wanted.uuid

        def begin(told: Callable[[bool | None], None]) -> None:
            def ended(done: bool | None) -> None:
                if done:
                    self._unsure.discard(uuid)
                elif done is None:
                    self._unsure.add(uuid)
                    if found is None:
                        self._linger[uuid] = self._board.now + LINGER_S
                told(done)

            self._store.put_mirror(found, wanted, ended)

        self._records.write(uuid, begin)

    def _is_here(self, holding: str) -> bool:
        row = self._board.holdings.get(holding)
        return row is None or row.giver == self._board.me

    def _record_of(self, row: MirrorRow) -> MirrorRecord:
        legs = []
        for leg in row.legs:
            if leg.uuid:
                holding = self._board.holdings.get(leg.uuid)
                legs.append(CopyRecord(leg.uuid, holding.giver if holding else "", leg.standing))
        return MirrorRecord(
            uuid=row.uuid,
            owner=self._board.me,
            vm=row.vm,
            device=row.device,
            device_nsid=row.nsid,
            size=row.size,
            block_size=row.block_size,
            copies=row.copies,
            placement=row.placement,
            priority=row.priority,
            legs=tuple(legs),
        )

    # --- The legs ---

    def _follow(self, uuid: str) -> None:
        run = self._runs.get(uuid)
        if run is None or run.seen is None:
            return
        for number in range(LEGS_MAX):
            self._follow_leg(self._board.mirrors[uuid], number, run, run.seen.legs[number])
        row = self._board.mirrors[uuid]
        for leg in row.legs:
            if leg.uuid and leg.standing is not Standing.IN_SYNC:
                run.out_since.setdefault(leg.uuid, self._board.now)
            else:
                run.out_since.pop(leg.uuid, None)
        for gone in run.out_since.keys() - row.uuids():
            del run.out_since[gone]

    def _follow_leg(self, row: MirrorRow, number: int, run: Run, seen: LegSeen) -> None:
        leg = row.legs[number]
        if seen.uuid and seen.uuid != leg.uuid:
            if row.is_recorded:
                self._begin(row, number, lambda op: LegDrop(op, row.uuid, number))
        elif leg.uuid:
            self._follow_copy(row, number, run, seen)

    def _follow_copy(self, row: MirrorRow, number: int, run: Run, seen: LegSeen) -> None:
        leg = row.legs[number]
        counts = leg.standing is Standing.IN_SYNC
        match seen.state:
            case LegState.FAILED if counts:
                if row.in_sync() != [number]:
                    self._stand(row, number, Standing.STALE)
            case LegState.FAILED if row.is_recorded:
                key = f"{row.uuid}/{number}"
                if self._outs.is_free(key):  # its guest waits: nothing else holds this up
                    self._outs.begin(key, lambda op: LegOut(op, row.uuid, number), _nothing)
            case LegState.READY if not counts:
                self._stand(row, number, Standing.IN_SYNC)
            case LegState.READY if row.is_recorded:
                self._begin(row, number, lambda op: LegCounts(op, row.uuid, number))
            case LegState.REBUILDING if seen.covered and leg.standing is Standing.NEW:
                self._stand(row, number, Standing.STALE)
            case LegState.IN_SYNC:
                run.attempts.pop(leg.uuid, None)
                run.again_at.pop(leg.uuid, None)
            case LegState.NONE | LegState.OUT if not counts:
                self._bring_in(row, number, run)

    def _stand(self, row: MirrorRow, number: int, standing: Standing) -> None:
        before = row.legs[number].standing
        leg = msgspec.structs.replace(row.legs[number], standing=standing)
        self._board.write(row.with_leg(number, leg))
        if before is Standing.NEW and standing is Standing.STALE:
            return  # from now on the bitmap knows what it lacks
        holding = self._board.holdings.get(leg.uuid)
        where = f"on card {holding.giver!r}" if holding else leg.uuid
        level = logging.WARNING if standing is Standing.STALE else logging.INFO
        word = {
            Standing.STALE: "is stale: what it lacks is written down",
            Standing.IN_SYNC: "has everything, and counts",
        }[standing]
        self._board.log(level, f"namespace {row.uuid} of VM {row.vm!r}: its copy {where} {word}")

    def _bring_in(self, row: MirrorRow, number: int, run: Run) -> None:
        assert run.seen is not None
        leg = row.legs[number]
        holding = self._board.holdings.get(leg.uuid)
        if holding is None or holding.state is not HoldingState.HELD:
            return
        if holding.giver != self._board.me and not self._cluster.is_online(holding.giver):
            return
        coming = (LegState.REBUILDING, LegState.READY)
        if any(each.state in coming for each in run.seen.legs):
            return  # one at a time
        if run.again_at.get(leg.uuid, 0.0) > self._board.now:
            return
        full = leg.standing is Standing.NEW

        def begun(_value: object, failure: Failure | None) -> None:
            if failure is not None and failure.kind is FailureKind.BUSY:
                return  # it has commands of earlier still
            attempts = run.attempts.get(leg.uuid, 0)
            run.attempts[leg.uuid] = attempts + 1
            run.again_at[leg.uuid] = self._board.now + min(BACK_S * 2**attempts, BACK_S_MAX)

        self._begin(row, number, lambda op: LegIn(op, row.uuid, number, holding, full), begun)

    def _begin(
        self, row: MirrorRow, number: int, make: Callable[[int], Effect], then: Then = _nothing
    ) -> None:
        key = f"{row.uuid}/{number}"
        if self._legs.is_free(key):
            self._legs.begin(key, make, then)

    def empty(self, row: MirrorRow, number: int) -> None:
        """A copy is none any more: it is dropped when that is written down."""
        self._board.write(row.with_leg(number, Leg()))
