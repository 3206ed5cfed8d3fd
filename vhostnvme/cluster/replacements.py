"""Scratch disks: a namespace whose space has failed for good gives way to a new, empty one.

Only for namespaces that were asked for so (`--recovery replace`): silence about lost data is worse
than an error. The guest is told in NVMe's own terms: its commands to the old namespace fail, a new
one with an NSID and UUID of its own is attached, and then the old one is taken away.
"""

from __future__ import annotations

import logging

import msgspec

from vhostnvme.cluster import placement as rule
from vhostnvme.cluster.board import Board
from vhostnvme.cluster.cluster_manager import ClusterManager
from vhostnvme.cluster.deletions import Deletions
from vhostnvme.cluster.devices import Devices
from vhostnvme.cluster.holdings import Holdings
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.rows import DeviceRow, HoldingRow, HoldingState, RowState

LOOK_S = 1.0
SEEK_AGAIN_S = 10.0


class Replacements:
    """Of one card."""

    def __init__(
        self,
        board: Board,
        cluster: ClusterManager,
        local: LocalSpace,
        holdings: Holdings,
        devices: Devices,
        deletions: Deletions,
    ) -> None:
        self._board = board
        self._cluster = cluster
        self._local = local
        self._holdings = holdings
        self._devices = devices
        self._deletions = deletions
        self._away_since: dict[str, float] = {}
        self._seeking: set[str] = set()
        self._again_at: dict[str, float] = {}
        self._look_at = 0.0

    def tick(self) -> None:
        now = self._board.now
        if self._look_at > now:
            return
        self._look_at = now + LOOK_S
        scratch = [row for row in self._board.holdings.values() if row.scratch and not row.mirror]
        for row in scratch:
            self._look(row)
        known = {row.uuid for row in scratch}
        for uuid in self._away_since.keys() - known:
            del self._away_since[uuid]

    def _look(self, row: HoldingRow) -> None:
        if row.state is not HoldingState.HELD or ("namespace", row.uuid) in self._board.deleted:
            return
        self._end_old(row)
        if not self._is_away(row):
            self._away_since.pop(row.uuid, None)
            return
        since = self._away_since.setdefault(row.uuid, self._board.now)
        if self._board.now >= since + self._board.options.replace_after_s:
            self.replace(row)

    def _end_old(self, new: HoldingRow) -> None:
        """The new one is there: the old one goes."""
        old = self._board.holdings.get(new.replaces)
        if not new.replaces or not self._devices.is_attached(new):
            return
        if old is not None and ("namespace", old.uuid) not in self._board.deleted:
            self._deletions.drop(old)
        self._board.write(msgspec.structs.replace(new, replaces=""))

    def _is_away(self, row: HoldingRow) -> bool:
        if row.giver == self._board.me:
            ssd = self._local.ssds.get(row.ssd)
            return ssd is None or not ssd.healthy or ssd.failing
        return self._board.view.synced and not self._cluster.is_online(row.giver)

    def replace(self, old: HoldingRow) -> None:
        """Finds new space for a device in place of what is lost; safe to repeat."""
        device = self._board.devices.get(old.device)
        replaced = any(row.replaces == old.uuid for row in self._board.holdings.values())
        waits = self._again_at.get(old.uuid, 0.0) > self._board.now
        if device is None or device.state is not RowState.READY or replaced or waits:
            return
        new = HoldingRow(
            uuid=self._holdings.new_uuid(),
            vm=old.vm,
            device=old.device,
            nsid=self._free_nsid(device),
            size=old.size,
            block_size=old.block_size,
            placement=rule.placement_of_copy(old.placement, 1),
            priority=old.priority,
            scratch=True,
            replaces=old.uuid,
        )
        self._board.log(
            logging.WARNING,
            f"namespace {old.uuid} of VM {old.vm!r} on card {old.giver!r} is given up: a new, empty"
            " one takes its place",
        )
        self._board.write(new)
        self._holdings.seek(new.uuid, 0.0, lambda row, error: self._found(old.uuid, row, error))

    def _found(self, old: str, row: HoldingRow | None, error: Exception | None) -> None:
        if row is not None:
            self._board.dirty.add(row.device)
            return
        self._again_at[old] = self._board.now + SEEK_AGAIN_S
        self._board.log(logging.WARNING, f"namespace {old} has no replacement yet: {error}")

    def _free_nsid(self, device: DeviceRow) -> int:
        taken = {row.nsid for row in self._board.holdings_of(device.name)}
        return min(set(range(1, len(taken) + 2)) - taken)
