"""As many copies as there shall be, where they may be: found, brought in, and given back.

One rule repairs, replaces, moves and empties. A copy is *unwanted* when it was told to move, when
its card is being emptied, or when its SSD is failing; it counts all the same, until it has been
replaced. While fewer wanted copies count, or are on their way, than there shall be, space for a new
one is sought. When as many wanted copies count, all others are dropped and given back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

import msgspec

from vhostnvme.cluster import placement as rule
from vhostnvme.cluster.board import Board
from vhostnvme.cluster.cluster_manager import ClusterManager
from vhostnvme.cluster.devices import Devices
from vhostnvme.cluster.holdings import Holdings
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.mirror_messages import LegState
from vhostnvme.cluster.mirrors import Mirrors
from vhostnvme.cluster.records import OfferRecord
from vhostnvme.cluster.rows import (
    HoldingRow,
    HoldingState,
    Leg,
    MirrorRow,
    Recorded,
    RowState,
)
from vhostnvme.storage.mirror_record import Standing

SEEK_AGAIN_S = 10.0
LOOK_S = 1.0


@dataclass(slots=True)
class Search:
    """For one more copy of a mirror. `failure`: why the last one came to nothing."""

    under_way: bool = False
    again_at: float = 0.0
    failure: str = ""


class Repairs:
    """Of one card."""

    def __init__(
        self,
        board: Board,
        cluster: ClusterManager,
        local: LocalSpace,
        holdings: Holdings,
        mirrors: Mirrors,
        devices: Devices,
    ) -> None:
        self._board = board
        self._cluster = cluster
        self._local = local
        self._holdings = holdings
        self._mirrors = mirrors
        self._devices = devices
        self._searches: dict[str, Search] = {}
        self._unwanted: set[tuple[str, str]] = set()  # card and SSD; "": all that the card has
        self._look_at = 0.0

    def failure(self, uuid: str) -> str:
        """Why there is no place for one more copy; "" when nothing is wrong."""
        search = self._searches.get(uuid)
        return search.failure if search else ""

    def tick(self) -> None:
        for uuid, search in self._searches.items():
            if search.again_at and search.again_at <= self._board.now:
                search.again_at = 0.0
                self._board.dirty.add(uuid)
        if self._look_at <= self._board.now:
            self._look_at = self._board.now + LOOK_S
            self.look()

    def look(self) -> None:
        """Which cards and SSDs are to be emptied now; what lies there is taken up."""
        me = self._board.me
        old, self._unwanted = self._unwanted, set()
        if self._board.draining:
            self._unwanted.add((me, ""))
        self._unwanted |= {(me, ssd.name) for ssd in self._local.ssds.values() if ssd.failing}
        for peer in self._cluster.peers():
            self._unwanted |= _unwanted_of(peer.name, peer.offer)
        if not self._unwanted and not old:
            return
        for row in self._board.holdings.values():
            if not self.is_wanted(row) or (old != self._unwanted and row.mirror):
                self._board.dirty.add(row.mirror or row.uuid)

    def saw_offer(self, name: str) -> None:
        """Another card has told what it has now."""
        if name == self._board.me:
            return
        others = {place for place in self._unwanted if place[0] != name}
        self._unwanted = others | _unwanted_of(name, self._cluster.offer_of(name))

    # --- The next step ---

    def act_on(self, uuid: str) -> None:
        """Takes the next step for one namespace of a device."""
        row = self._board.mirrors.get(uuid)
        if row is None:
            self._searches.pop(uuid, None)
            self._take_up(uuid)
            return
        self._give_back(row)
        if row.state is RowState.READY and self._devices.is_attached(row):
            self._repair(row)

    def _take_up(self, uuid: str) -> None:
        """A plain namespace that has to go elsewhere becomes a mirror with one copy."""
        row = self._board.holdings.get(uuid)
        if row is None or row.mirror or not self.can_move(row) or self.is_wanted(row):
            return
        if row.scratch and (row.giver, "") not in self._unwanted:
            return  # what fails is replaced, see replacements.py
        self._board.write(*mirror_of_one(row, self._board.me))

    def can_move(self, row: HoldingRow) -> bool:
        """Whether a plain namespace runs, so that it can be copied while it does."""
        held = row.state is HoldingState.HELD and bool(row.device) and not row.read_only
        return held and self._devices.is_attached(row)

    def is_wanted(self, row: HoldingRow) -> bool:
        """Whether a copy may stay where it is."""
        return not self._unwanted & {(row.giver, ""), (row.giver, row.ssd)}

    def _stays(self, row: MirrorRow, number: int) -> bool:
        leg = row.legs[number]
        holding = self._board.holdings.get(leg.uuid)
        return not leg.leaving and holding is not None and self.is_wanted(holding)

    def _repair(self, row: MirrorRow) -> None:
        self._drop_lost(row)
        row = self._board.mirrors[row.uuid]
        seen = self._mirrors.seen(row.uuid)
        if seen is None:
            return
        good = [number for number in row.in_sync() if self._stays(row, number)]
        good.sort(key=lambda number: (not self._is_here(row.legs[number]), number))
        keep = good[: row.copies]
        if len(keep) == row.copies:
            counting = all(seen.legs[number].state is LegState.IN_SYNC for number in keep)
            if counting:
                self._drop_all_but(row, keep)
            return
        coming = [number for number in range(len(row.legs)) if self._is_coming(row, number)]
        if len(keep) + len(coming) < row.copies:
            self._seek(row)

    def _is_here(self, leg: Leg) -> bool:
        holding = self._board.holdings.get(leg.uuid)
        return holding is not None and holding.giver == self._board.me

    def _is_coming(self, row: MirrorRow, number: int) -> bool:
        """Whether a copy that does not count is being copied, or may still come back."""
        leg = row.legs[number]
        if not leg.uuid or leg.standing is Standing.IN_SYNC or not self._stays(row, number):
            return False
        seen = self._mirrors.seen(row.uuid)
        if seen is not None and seen.legs[number].state in (LegState.REBUILDING, LegState.READY):
            return True
        since = self._mirrors.out_since(row.uuid, leg.uuid)
        patience_s = self._board.options.replace_after_s
        return since is None or self._board.now < since + patience_s

    def _drop_lost(self, row: MirrorRow) -> None:
        """A copy whose giver has lost it, or given it up, is none."""
        for number, leg in enumerate(row.legs):
            holding = self._board.holdings.get(leg.uuid)
            gone = holding is None or holding.state is HoldingState.RELEASING
            if leg.uuid and gone and row.in_sync() != [number]:
                self._mirrors.empty(row, number)
                row = self._board.mirrors[row.uuid]

    def _drop_all_but(self, row: MirrorRow, keep: list[int]) -> None:
        for number, leg in enumerate(row.legs):
            if leg.uuid and number not in keep:
                self._mirrors.empty(row, number)
                row = self._board.mirrors[row.uuid]
        if row.to:
            self._board.write(msgspec.structs.replace(row, to=""))
        search = self._searches.pop(row.uuid, None)
        if search is not None and search.under_way:
            self._searches[row.uuid] = search

    def _give_back(self, row: MirrorRow) -> None:
        """What was a copy, and is open nowhere any more."""
        search = self._searches.get(row.uuid)
        if not row.is_recorded or (search is not None and search.under_way):
            return
        if row.state is not RowState.READY:
            return
        for holding in self._board.copies_of(row.uuid):
            free = holding.uuid not in row.uuids()
            if free and not self._mirrors.is_open(row.uuid, holding.uuid):
                self._board.write(*self._holdings.releases(holding))

    # --- New copies ---

    def _seek(self, row: MirrorRow) -> None:
        search = self._searches.setdefault(row.uuid, Search())
        if search.under_way or search.again_at > self._board.now:
            return
        free = [number for number, leg in enumerate(row.legs) if not leg.uuid]
        if not free:
            self._drop_hopeless(row)
            return
        seen = self._mirrors.seen(row.uuid)
        number = free[0]
        if seen is not None and seen.legs[number].uuid:
            return  # what was there is still to be dropped
        # What is missing is found a place first, wherever; then comes what was told to move.
        whole = len(row.in_sync()) >= row.copies
        moves = bool(row.to) and whole and any(leg.leaving for leg in row.legs)
        ssd = row.to if moves and row.to in self._local.ssds else None
        placement = rule.placement_of_copy(row.placement, 1)
        if moves:
            placement = rule.LOCAL if ssd else row.to
        holding = HoldingRow(
            uuid=self._holdings.new_uuid(),
            vm=row.vm,
            device=row.device,
            nsid=row.nsid,
            size=row.size,
            block_size=row.block_size,
            placement=placement,
            priority=row.priority,
            mirror=row.uuid,
        )
        search.under_way = True
        self._board.write(holding)
        self._holdings.seek(holding.uuid, 0.0, partial(self._found, row.uuid, number), ssd)

    def _drop_hopeless(self, row: MirrorRow) -> None:
        """Makes room for another attempt."""
        for number, leg in enumerate(row.legs):
            if leg.standing is not Standing.IN_SYNC and not self._is_coming(row, number):
                self._mirrors.empty(row, number)
                return
        spare = [number for number in row.in_sync() if not self._stays(row, number)]
        if spare and len(row.in_sync()) > row.copies:
            self._mirrors.empty(row, spare[0])

    def _found(
        self, uuid: str, number: int, holding: HoldingRow | None, error: Exception | None
    ) -> None:
        search = self._searches.setdefault(uuid, Search())
        search.under_way = False
        row = self._board.mirrors.get(uuid)
        if holding is None:
            search.again_at = self._board.now + SEEK_AGAIN_S
            if str(error) != search.failure:
                self._board.log(logging.WARNING, f"namespace {uuid}: {error}")
            search.failure = str(error)
        elif row is None or row.state is not RowState.READY or row.legs[number].uuid:
            self._board.write(*self._holdings.releases(holding))
        else:
            search.failure = ""
            self._board.write(row.with_leg(number, Leg(holding.uuid, Standing.NEW)))
        self._board.dirty.add(uuid)


def _unwanted_of(name: str, offer: OfferRecord | None) -> set[tuple[str, str]]:
    if offer is None:
        return set()
    failing = {(name, ssd.name) for ssd in offer.ssds if ssd.failing}
    return {(name, "")} if offer.draining else failing


def mirror_of_one(row: HoldingRow, me: str) -> tuple[MirrorRow, HoldingRow]:
    """A plain namespace in use as a mirror with this one copy."""
    local = row.giver == me
    mirror = MirrorRow(
        uuid=row.uuid,
        vm=row.vm,
        device=row.device,
        nsid=row.nsid,
        size=row.size,
        block_size=row.block_size,
        copies=1,
        placement=row.placement,
        priority=row.priority,
        state=RowState.READY,
        legs=(Leg(row.uuid, Standing.IN_SYNC), Leg(), Leg()),
        recorded=Recorded.NOWHERE if local else Recorded.NOT_YET,
    )
    return mirror, msgspec.structs.replace(row, mirror=row.uuid)
