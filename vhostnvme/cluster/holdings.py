"""The remote unit: what this card holds of itself and of others, and how it comes and goes.

A holding is written down before anybody is asked for it. Whatever is not wanted any more stays
RELEASING until its giver's record is gone, so nothing is left behind by a crash or by a store that
was away. An attempt with one giver has a UUID of its own.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from vhostnvme.cluster import placement as rule
from vhostnvme.cluster.board import Board
from vhostnvme.cluster.cluster_manager import ClusterManager
from vhostnvme.cluster.coherence_manager import CoherenceManager
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.records import MirrorRecord, SpaceState
from vhostnvme.cluster.rows import HoldingRow, HoldingState, RowState
from vhostnvme.cluster.seek import Found, Seek, record_of, request_of
from vhostnvme.cluster.space_store import SpaceStore, Versioned, VersionedMirror
from vhostnvme.cluster.steps import Steps
from vhostnvme.cluster.store.base import Compare
from vhostnvme.errors import ClusterError, NoSpace
from vhostnvme.storage.catalog import Gone, Row

WAIT_STEP_S = 1.0
TRY_AGAIN_S = 0.5
# A transaction of unknown fate is done by then, or never: store.TIMEOUT_S, and its server's own.
LINGER_S = 60.0


class Holdings:
    """Of one card. `lost` is called when another card has taken a holding over."""

    def __init__(
        self,
        board: Board,
        cluster: ClusterManager,
        coherence: CoherenceManager,
        local: LocalSpace,
        store: SpaceStore,
        lost: Callable[[HoldingRow], None],
    ) -> None:
        self._board = board
        self._cluster = cluster
        self._coherence = coherence
        self._local = local
        self._store = store
        self._lost = lost
        self._seeks: dict[str, Seek] = {}
        self._steps = Steps(board, cluster, self.act_on)
        self._earlier: set[str] = set()  # what an earlier life may still ask for
        self._linger: dict[str, float] = {}  # of unknown fate until then

    # --- For the namespace manager ---

    def new_uuid(self) -> str:
        return str(uuids.UUID(int=self._board.random.getrandbits(128), version=4))

    def seek(self, uuid: str, wait_s: float, found: Found, ssd: str | None = None) -> None:
        """Finds a giver for a WANTED row that has been written."""
        now = self._board.now
        self._seeks[uuid] = Seek(uuid, found, now, now + wait_s, ssd)
        self._next(self._seeks[uuid])

    def releases(self, row: HoldingRow) -> list[Row | Gone]:
        """The changes of the catalog by which it is given back, to be written together."""
        self._seeks.pop(row.uuid, None)
        if row.giver == self._board.me:
            self._coherence.withdraw(row.uuid)
            space = self._board.spaces.get(row.uuid)
            if space is not None and space.owner != self._board.me:
                space = None  # it has not been taken over yet
            ends = [msgspec.structs.replace(space, state=RowState.DELETING)] if space else []
            return [Gone(HoldingRow, row.uuid), *ends]
        if not row.giver:
            return [Gone(HoldingRow, row.uuid)]
        return [row.releasing()]

    def start(self) -> None:
        """Who wanted these has gone with the card's last life; adoptions go on."""
        for row in list(self._board.holdings.values()):
            if row.state is HoldingState.WANTED and not row.adopting:
                self._board.write(*self.releases(row))
            if row.state is not HoldingState.HELD:
                self._earlier.add(row.uuid)
            self.act_on(row.uuid)

    def adopt(
        self,
        mirror: tuple[VersionedMirror, MirrorRecord] | None,
        pairs: Sequence[tuple[Versioned, HoldingRow]],
        compare: tuple[Compare, ...],
    ) -> None:
        """Takes records over, together, whose rows have been written, WANTED and `adopting`."""
        uuids = [row.uuid for _, row in pairs]
        for uuid in uuids:
            self._linger[uuid] = self._board.now + self._board.options.ask_timeout_s
            self._steps.hold(uuid)
        spaces = [
            (
                old,
                msgspec.structs.replace(
                    old.record, owner=self._board.me, epoch=old.record.epoch + 1, wanted=0
                ),
            )
            for old, _ in pairs
        ]

        def told(done: bool | None) -> None:
            for uuid in uuids:
                self._steps.release(uuid)
                if done is False:
                    self._linger.pop(uuid, None)
                elif done is None:
                    self._linger[uuid] = self._board.now + LINGER_S
                self.act_on(uuid)

        self._store.adopt(mirror, spaces, compare, told)

    def resize(self, row: HoldingRow, size: int) -> bool:
        """Asks the giver for another size; False: not now."""
        found = self._store.held(row.uuid)
        if found is None or not self._cluster.member or self._steps.is_busy(row.uuid):
            return False
        self._steps.write(
            row.uuid,
            partial(
                self._store.change,
                found,
                msgspec.structs.replace(found.record, wanted=size, reason=""),
            ),
        )
        return True

    def resized(self, row: HoldingRow) -> tuple[int, str] | None:
        """The size by the giver's record and why it is not another; None: it is being changed."""
        found = self._store.held(row.uuid)
        if found is None or found.record.wanted or self._steps.is_busy(row.uuid):
            return None
        return found.record.size, found.record.reason

    def is_given(self, uuid: str) -> bool:
        """Whether the store knows of it as given by this card."""
        return self._store.given(uuid) is not None

    def confirms(self, uuid: str) -> bool:
        """Whether it is worth waiting for the end of a release."""
        row = self._board.holdings.get(uuid)
        if row is None or row.giver == self._board.me:
            return True
        return self._cluster.member and self._cluster.is_online(row.giver)

    # --- The next step of everything ---

    def tick(self) -> None:
        now = self._board.now
        for seek in list(self._seeks.values()):
            if self._seeks.get(seek.uuid) is not seek:
                continue
            if seek.retry_at is not None and seek.retry_at <= now:
                seek.retry_at = None
                self._next(seek)
            elif seek.ask_until is not None and not self._can_answer(seek, now):
                seek.silent.append(self._board.holdings[seek.uuid].giver)
                self._abandon(seek)
                self._next(seek)
        self._steps.tick()
        if self._earlier and self._cluster.alone:
            earlier, self._earlier = self._earlier, set()
            for uuid in sorted(earlier):
                self.act_on(uuid)
        for uuid in [uuid for uuid, at in self._linger.items() if at <= now]:
            del self._linger[uuid]
            self.act_on(uuid)

    def _can_answer(self, seek: Seek, now: float) -> bool:
        assert seek.ask_until is not None
        row = self._board.holdings[seek.uuid]
        gone = self._board.view.synced and not self._cluster.is_online(row.giver)
        return now < seek.ask_until and not gone

    def act_on(self, uuid: str) -> None:
        """Takes the next step for one remote holding."""
        row = self._board.holdings.get(uuid)
        if row is None or not self._steps.is_free(uuid):
            return
        if row.giver == self._board.me:
            if row.adopting and row.state is HoldingState.WANTED:
                self._take_back(row)
            return
        found = self._store.held(uuid)
        match row.state:
            case HoldingState.WANTED:
                self._wanted(row, found)
            case HoldingState.HELD:
                self._held(row, found)
            case HoldingState.RELEASING:
                self._releasing(row, found)

    def _take_back(self, row: HoldingRow) -> None:
        """What this card had given, and takes over: see the coherence manager."""
        space, found = self._board.spaces.get(row.uuid), self._store.given(row.uuid)
        if space is None or (found is not None and found.record.owner != self._board.me):
            if self._is_settled(row.uuid):
                self._lost(row)
        elif found is None and space.owner == self._board.me:
            self._linger.pop(row.uuid, None)
            self._board.write(
                msgspec.structs.replace(
                    row,
                    state=HoldingState.HELD,
                    adopting=False,
                    size=space.size,
                    ssd=space.ssd,
                )
            )

    def _wanted(self, row: HoldingRow, found: Versioned | None) -> None:
        seek = self._seeks.get(row.uuid)
        if found is None:
            if row.adopting and self._is_settled(row.uuid):
                self._lost(row)
            elif seek is not None and seek.written and self._board.view.synced:
                self._abandon(seek)  # refused, and taken away
                self._next(seek)
            return
        record = found.record
        if record.state is SpaceState.GRANTED and record.admitted == record.epoch:
            row = row.answered(record)
            self._linger.pop(row.uuid, None)
            self._board.write(row)
            if seek is not None:
                self._finish(seek, row)
        elif record.state is SpaceState.REFUSED and seek is not None:
            seek.reason = record.reason or seek.reason
            self._abandon(seek)
            self._next(seek)

    def _is_settled(self, uuid: str) -> bool:
        """Whether a record that is not there will not come any more."""
        earlier = uuid in self._earlier and not self._cluster.alone
        return self._board.view.synced and uuid not in self._linger and not earlier

    def _held(self, row: HoldingRow, found: Versioned | None) -> None:
        if found is None or found.record.state is not SpaceState.GRANTED:
            if self._board.view.synced:
                self._lost(row)
            return
        record = found.record
        if record.admitted == record.epoch and row.answered(record) != row:
            self._board.write(row.answered(record))  # its giver has other addresses now

    def _releasing(self, row: HoldingRow, found: Versioned | None) -> None:
        if found is None:
            if self._is_settled(row.uuid):
                self._board.write(Gone(HoldingRow, row.uuid))
            return
        new = found.record.given_up()
        if new != found.record:
            self._steps.write(row.uuid, partial(self._store.change, found, new))

    # --- From card to card ---

    def _next(self, seek: Seek) -> None:
        row = self._board.holdings[seek.uuid]
        me, peers = self._board.me, self._cluster.peers()
        with_reserve = rule.uses_reserve(row.placement, me)
        best = self._local.best(
            row.size,
            with_reserve=with_reserve,
            only=seek.ssd,
            without=self._local.ssds_with_copies(row.mirror),
        )
        names = rule.candidates(
            row.placement,
            row.size,
            me,
            fits_here=best is not None,
            peers=peers,
            taken=self._taken(row),
        )
        name = next((each for each in names if each not in seek.tried), None)
        if name == me:
            self._ask_here(seek, row, with_reserve)
        elif not with_reserve and self._board.options.clustered and not self._cluster.member:
            self._wait_for_store(seek, row)
        elif name is None:
            self._exhausted(seek, row)
        else:
            self._ask(seek, row, name)

    def _taken(self, row: HoldingRow) -> set[str]:
        """The cards that have, or may get, another copy."""
        copies = self._board.copies_of(row.mirror)
        return {each.giver for each in copies if each.uuid != row.uuid and each.giver}

    def _wait_for_store(self, seek: Seek, row: HoldingRow) -> None:
        give_up_at = max(seek.started + self._board.options.ask_timeout_s, seek.wait_until)
        if self._board.now < give_up_at:
            seek.retry_at = self._board.now + TRY_AGAIN_S
        else:
            sentence = "the cluster's store cannot be reached: new space has to wait for it"
            self._fail(seek, row, ClusterError(sentence))

    def _exhausted(self, seek: Seek, row: HoldingRow) -> None:
        now = self._board.now
        if now < seek.wait_until:
            seek.tried.clear()
            seek.retry_at = min(now + WAIT_STEP_S, seek.wait_until)
            return
        if seek.silent:
            cards = ", ".join(sorted(set(seek.silent)))
            sentence = f"card {cards} was asked for space and did not answer: try again later"
            self._fail(seek, row, ClusterError(sentence))
            return
        if seek.reason:
            self._fail(seek, row, ClusterError(f"the namespace could not be made: {seek.reason}"))
            return
        if taken := self._taken(row):
            sentence = rule.why_no_copy(row.size, taken, self._cluster.peers())
            self._fail(seek, row, NoSpace(sentence))
            return
        largest = max(map(self._local.largest, self._local.ssds.values()), default=0)
        sentence = rule.why_not(
            row.placement, row.size, self._board.me, largest, self._cluster.peers()
        )
        self._fail(seek, row, NoSpace(sentence))

    def _ask_here(self, seek: Seek, row: HoldingRow, with_reserve: bool) -> None:
        seek.tried.add(self._board.me)
        row = msgspec.structs.replace(row, giver=self._board.me)
        self._board.write(row)

        def granted(ssd: str | None, why: str) -> None:
            if self._seeks.get(seek.uuid) is not seek:
                return  # withdrawn
            now_row = self._board.holdings[seek.uuid]
            if ssd is None:
                seek.reason = why or seek.reason
                self._abandon(seek)  # what was begun for it is given back under the old UUID
                self._next(seek)
                return
            now_row = msgspec.structs.replace(now_row, state=HoldingState.HELD, ssd=ssd)
            self._board.write(now_row)
            self._finish(seek, now_row)

        self._coherence.ask(
            request_of(
                seek, row, self._board.now, self._board.random.random(), with_reserve, granted
            )
        )

    def _ask(self, seek: Seek, row: HoldingRow, giver: str) -> None:
        options = self._board.options
        seek.tried.add(giver)
        seek.ask_until = self._board.now + options.ask_timeout_s
        self._board.write(msgspec.structs.replace(row, giver=giver))
        record = record_of(seek, row, self._board.me, giver, self._board.now)
        uuid = row.uuid
        self._steps.hold(uuid)

        def told(done: bool | None) -> None:
            self._steps.release(uuid)
            if done is None:
                self._linger[uuid] = self._board.now + LINGER_S
            if self._seeks.get(uuid) is not seek:
                self.act_on(uuid)  # not wanted any more
            elif done:
                seek.written = True
                self.act_on(uuid)
            else:
                seek.tried.discard(giver)  # it is not to blame
                self._abandon(seek)
                seek.retry_at = self._board.now + TRY_AGAIN_S

        self._store.put(record, told)

    def _abandon(self, seek: Seek) -> None:
        """This attempt has come to nothing: a new one, with another UUID, takes its place."""
        old = self._board.holdings[seek.uuid]
        del self._seeks[seek.uuid]
        new = msgspec.structs.replace(old, uuid=self.new_uuid(), giver="")
        self._board.write(*self.releases(old), new)
        seek.uuid = new.uuid
        seek.written, seek.ask_until = False, None
        self._seeks[new.uuid] = seek

    def _finish(self, seek: Seek, row: HoldingRow) -> None:
        del self._seeks[seek.uuid]
        seek.found(row, None)

    def _fail(self, seek: Seek, row: HoldingRow, error: Exception) -> None:
        self._board.write(*self.releases(row))
        seek.found(None, error)
