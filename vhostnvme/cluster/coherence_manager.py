"""Who may have this card's space: requests in their order, grants, epochs, and giving back.

This card alone decides on its SSDs. For each namespace of another card it looks at the record in
the store, the row in the catalog and what is exported, and takes the next step from there; each is
safe to repeat. A newer epoch is written to the catalog before it is let in: a giver that starts
again lets no older one in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from vhostnvme.cluster.board import Board, Then
from vhostnvme.cluster.cluster_manager import ClusterManager
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.messages import (
    Carve,
    Clone,
    Destroy,
    Effect,
    Export,
    Failure,
    FailureKind,
    Stretch,
    Unexport,
)
from vhostnvme.cluster.records import EXPORTED_NSID, SpaceRecord, SpaceState, subsystem_nqn_of
from vhostnvme.cluster.requests import Granted, Request, Requests
from vhostnvme.cluster.rows import RowState, SpaceRow
from vhostnvme.cluster.space_store import SpaceStore, Versioned
from vhostnvme.cluster.steps import Steps
from vhostnvme.storage.catalog import Gone

REFUSED_KEPT_S = 60.0  # a refusal that its asker does not take away is taken away for it


class CoherenceManager:
    """Of one card, over its own SSDs."""

    def __init__(
        self, board: Board, cluster: ClusterManager, local: LocalSpace, store: SpaceStore
    ) -> None:
        self._board = board
        self._cluster = cluster
        self._local = local
        self._store = store
        self._requests = Requests(board, local)
        self._steps = Steps(board, cluster, self.act_on)
        self._exported: dict[str, int] = {}  # the epoch that is let in
        self._opened: set[str] = set()  # an export has been begun since the last end of one
        self._refused_at: dict[str, float] = {}
        self._destroyed: dict[str, list[Callable[[], None]]] = {}
        self._told: set[str] = set()  # what people have been told of already

    # --- For the namespace manager: space for own VMs ---

    def ask(self, request: Request) -> None:
        """Queues a request of this card; `granted` is called once."""
        self._requests.add(request)

    def withdraw(self, uuid: str) -> None:
        """It is not wanted any more; the caller writes what becomes of space made for it."""
        self._requests.remove(uuid)

    def clone(self, row: SpaceRow, granted: Granted) -> None:
        """Makes a row's space a copy of its source; the caller has seen to it that it fits."""
        self._board.write(row)
        self._make(row, lambda op: Clone(op, row.uuid, row.ssd, row.source), granted)

    def when_destroyed(self, uuid: str, then: Callable[[], None]) -> None:
        self._destroyed.setdefault(uuid, []).append(then)

    def stretch(self, row: SpaceRow, size: int, then: Then) -> None:
        """Gives own space another size; `then` gets the row."""
        self._board.write(msgspec.structs.replace(row, wanted=size))
        self._stretch(row.uuid, then)

    # --- The next step of everything ---

    def start(self) -> None:
        """What a crash has left half-made of own VMs' space goes; exports come back at once."""
        for row in list(self._board.spaces.values()):
            if row.owner == self._board.me and row.state is RowState.MAKING:
                self._board.write(msgspec.structs.replace(row, state=RowState.DELETING))
            self.act_on(row.uuid)

    def tick(self) -> None:
        self._steps.tick()
        for uuid, at in list(self._refused_at.items()):
            if at + REFUSED_KEPT_S <= self._board.now and self._cluster.member:
                del self._refused_at[uuid]
                found = self._store.given(uuid)
                if found is not None and found.record.state is SpaceState.REFUSED:
                    self._remove_record(found)

    def act_on(self, uuid: str) -> None:
        """Takes the next step for one namespace, if there is one and nothing is under way."""
        if not self._steps.is_free(uuid):
            return
        row, found = self._board.spaces.get(uuid), self._store.given(uuid)
        if row is not None and row.state is RowState.DELETING:
            self._remove(row)
        elif found is not None and found.record.owner == self._board.me:
            self._take_back(found, row)
        elif row is not None and row.owner == self._board.me:
            if row.wanted and row.state is RowState.READY:
                self._stretch(uuid, lambda _value, _failure: None)
        elif found is None:
            self._without_record(uuid, row)
        elif row is None:
            self._without_row(found)
        elif row.state is RowState.MAKING:
            self._carve_for(found, row)
        else:
            self._serve(found, row)

    def _take_back(self, found: Versioned, row: SpaceRow | None) -> None:
        """This card has taken over what it had given: its record ends when nobody else is in it."""
        record = found.record
        if row is not None and row.owner != self._board.me:
            row = msgspec.structs.replace(
                row, owner=record.owner, vm=record.vm, device=record.device, epoch=record.epoch
            )
            self._board.write(row)
        if row is not None and row.uuid in self._opened:
            self._end_export(row.uuid)
        elif self._cluster.member:
            self._remove_record(found)
            if row is not None and row.uuid not in self._board.holdings:
                self._board.write(msgspec.structs.replace(row, state=RowState.DELETING))

    def _without_record(self, uuid: str, row: SpaceRow | None) -> None:
        self._requests.remove_record(uuid)
        if row is None:
            return
        if row.state is RowState.MAKING:
            if self._board.view.synced:  # never granted, so there is nothing in it
                self._board.write(msgspec.structs.replace(row, state=RowState.DELETING))
                self.act_on(uuid)
            return
        if self._exported.get(uuid) != row.epoch and row.epoch:
            self._export(row)
        elif self._board.view.synced:
            self._tell_once(
                uuid,
                f"namespace {uuid} on {row.ssd} was given to card {row.owner!r}, of which the"
                f" store knows nothing any more: it is kept; `vhostnvme namespace delete {uuid}`"
                " deletes it",
            )

    def _without_row(self, found: Versioned) -> None:
        record = found.record
        match record.state:
            case SpaceState.ASKED:
                self._requests.add_record(record)
            case SpaceState.WITHDRAWN | SpaceState.RELEASING:
                self._requests.remove(record.uuid)
                self._remove_record(found)
            case SpaceState.REFUSED:
                self._refused_at.setdefault(record.uuid, self._board.now)
            case SpaceState.GRANTED:
                self._tell_once(
                    record.uuid,
                    f"namespace {record.uuid} is granted to card {record.owner!r}, and this card"
                    " has nothing of it: its catalog is not the one that granted it",
                )

    # --- Decisions ---

    def decide(self) -> None:
        """Answers the requests whose turn it is."""
        while (answer := self._requests.next(self._can_answer)) is not None:
            request, ssd = answer
            if ssd is None:
                self._refuse(request)
            else:
                self._grant(request, request.row(ssd))

    def _can_answer(self, request: Request) -> bool:
        return request.granted is not None or (
            self._cluster.member and not self._steps.is_busy(request.uuid)
        )

    def _grant(self, request: Request, row: SpaceRow) -> None:
        self._board.write(row)
        if request.granted is not None:
            self._make(row, lambda op: Carve(op, row.uuid, row.ssd, row.size), request.granted)
        else:
            self.act_on(request.uuid)

    def _refuse(self, request: Request) -> None:
        if request.granted is not None:
            request.granted(None, "")
        else:
            self._refuse_record(request.uuid, "")

    def _refuse_record(self, uuid: str, why: str) -> None:
        found = self._store.given(uuid)
        if found is None or found.record.state is not SpaceState.ASKED:
            return
        new = msgspec.structs.replace(found.record, state=SpaceState.REFUSED, reason=why)
        self._swap(found, new)

    # --- Steps ---

    def _make(self, row: SpaceRow, effect: Callable[[int], Effect], granted: Granted) -> None:
        """Of own VMs' space."""

        def made(_value: object, failure: Failure | None) -> None:
            now_row = self._board.spaces.get(row.uuid)
            if now_row is None or now_row.state is not RowState.MAKING:
                return  # withdrawn meanwhile
            if failure is None:
                self._board.write(msgspec.structs.replace(now_row, state=RowState.READY))
                granted(row.ssd, "")
                return
            self._give_up(now_row)
            granted(None, _reason(failure))

        self._steps.begin(row.uuid, effect, made)

    def _carve_for(self, found: Versioned, row: SpaceRow) -> None:
        if found.record.state is not SpaceState.ASKED:
            self._board.write(msgspec.structs.replace(row, state=RowState.DELETING))
            self.act_on(row.uuid)
            return

        def carved(_value: object, failure: Failure | None) -> None:
            now_row = self._board.spaces.get(row.uuid)
            if now_row is None or now_row.state is not RowState.MAKING:
                return
            if failure is None:
                self._board.write(msgspec.structs.replace(now_row, state=RowState.READY))
                return
            self._give_up(now_row)
            self._board.log(logging.WARNING, f"no space for card {row.owner!r}: {failure.message}")
            why = _reason(failure)
            self.when_destroyed(row.uuid, lambda: self._refuse_record(row.uuid, why))

        self._steps.begin(row.uuid, lambda op: Carve(op, row.uuid, row.ssd, row.size), carved)

    def _serve(self, found: Versioned, row: SpaceRow) -> None:
        """The space is there: lets its owner in, answers, or takes it back."""
        record = found.record
        if record.state not in (SpaceState.ASKED, SpaceState.GRANTED):
            self._board.write(msgspec.structs.replace(row, state=RowState.DELETING))
            self.act_on(row.uuid)
            return
        if row.epoch < record.epoch:
            row = msgspec.structs.replace(
                row, epoch=record.epoch, owner=record.owner, vm=record.vm, device=record.device
            )
            self._board.write(row)
        if self._exported.get(row.uuid) != row.epoch:
            self._export(row)
        elif not self._cluster.member:
            return
        elif (
            record.state is SpaceState.ASKED
            or record.admitted != row.epoch
            or (record.addresses != self._board.options.addresses)
            or (record.size != row.size and not record.wanted and not row.wanted)
        ):
            self._swap(found, self._answer(record, row))
        elif record.wanted or row.wanted:
            self._resize(found, row)

    def _answer(self, record: SpaceRecord, row: SpaceRow) -> SpaceRecord:
        return msgspec.structs.replace(
            record,
            state=SpaceState.GRANTED,
            size=row.size,
            admitted=row.epoch,
            ssd=row.ssd,
            subnqn=subsystem_nqn_of(row.uuid),
            nsid=EXPORTED_NSID,
            addresses=self._board.options.addresses,
        )

    def _export(self, row: SpaceRow) -> None:
        def exported(_value: object, failure: Failure | None) -> None:
            if failure is None:
                self._exported[row.uuid] = row.epoch
            else:
                self._tell_once(
                    f"{row.uuid} {failure.message}",
                    f"namespace {row.uuid} cannot be given to card {row.owner!r} now:"
                    f" {failure.message}",
                )

        self._exported.pop(row.uuid, None)
        self._opened.add(row.uuid)
        self._steps.begin(
            row.uuid,
            lambda op: Export(
                op, row.uuid, row.ssd, row.size, row.block_size, row.owner, row.epoch
            ),
            exported,
        )

    def _resize(self, found: Versioned, row: SpaceRow) -> None:
        record = found.record
        if not row.wanted:
            if record.wanted == row.size:
                self._swap(found, msgspec.structs.replace(record, size=row.size, wanted=0))
            elif not self._local.can_grow(row, record.wanted, with_reserve=False):
                why = f"card {self._board.me!r} has no space for that"
                new = msgspec.structs.replace(record, size=row.size, wanted=0, reason=why)
                self._swap(found, new)
            else:
                self._board.write(msgspec.structs.replace(row, wanted=record.wanted))
                self.act_on(row.uuid)
            return

        def stretched(_value: object, failure: Failure | None) -> None:
            if failure is not None:
                now = self._store.given(row.uuid)
                if now is not None and now.record.wanted:
                    size = self._board.spaces[row.uuid].size
                    why = failure.message
                    self._swap(
                        now, msgspec.structs.replace(now.record, size=size, wanted=0, reason=why)
                    )

        self._stretch(row.uuid, stretched)

    def _stretch(self, uuid: str, then: Then) -> None:
        row = self._board.spaces[uuid]

        def stretched(_value: object, failure: Failure | None) -> None:
            now_row = self._board.spaces.get(uuid)
            if now_row is None or now_row.state is not RowState.READY:
                then(None, failure)
                return
            size = now_row.size if failure else now_row.wanted
            now_row = msgspec.structs.replace(now_row, size=size, wanted=0)
            self._board.write(now_row)
            then(now_row, failure)

        self._steps.begin(uuid, lambda op: Stretch(op, uuid, row.ssd, row.wanted), stretched)

    def _remove(self, row: SpaceRow) -> None:
        """Nobody may be in it any more; then it is destroyed, and then forgotten."""
        uuid = row.uuid
        if uuid in self._opened:
            self._end_export(uuid)
            return

        def destroyed(_value: object, failure: Failure | None) -> None:
            if failure is None:
                self._board.write(Gone(SpaceRow, uuid))
                self._told.discard(uuid)
                for then in self._destroyed.pop(uuid, []):
                    then()
            else:
                self._tell_once(
                    f"{uuid} {failure.message}",
                    f"namespace {uuid} cannot be deleted from SSD {row.ssd!r} now:"
                    f" {failure.message}",
                )

        self._steps.begin(uuid, lambda op: Destroy(op, uuid, row.ssd), destroyed)

    def _end_export(self, uuid: str) -> None:
        def ended(_value: object, failure: Failure | None) -> None:
            self._exported.pop(uuid, None)
            if failure is None:
                self._opened.discard(uuid)

        self._steps.begin(uuid, lambda op: Unexport(op, uuid), ended)

    def _give_up(self, row: SpaceRow) -> None:
        self._board.write(msgspec.structs.replace(row, state=RowState.DELETING))
        self._steps.at_once(row.uuid)

    # --- Helpers ---

    def _swap(self, found: Versioned, new: SpaceRecord) -> None:
        self._steps.write(new.uuid, lambda told: self._store.change(found, new, told))

    def _remove_record(self, found: Versioned) -> None:
        self._steps.write(found.record.uuid, lambda told: self._store.delete(found, told))

    def _tell_once(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._board.log(logging.WARNING, text)


def _reason(failure: Failure) -> str:
    """Why space could not be made, when it was not for want of it."""
    return "" if failure.kind is FailureKind.NO_SPACE else failure.message
