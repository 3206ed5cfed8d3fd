"""Copies of namespaces on SSDs whose file system shares blocks: snapshots and clones."""

from __future__ import annotations

import msgspec

from vhostnvme.cluster import placement as rule
from vhostnvme.cluster.board import Board
from vhostnvme.cluster.coherence_manager import CoherenceManager
from vhostnvme.cluster.commands import CloneNamespace
from vhostnvme.cluster.holdings import Holdings
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.records import check_name
from vhostnvme.cluster.rows import HoldingRow, HoldingState, RowState, SpaceRow
from vhostnvme.errors import ClusterError, ConfigError, NoSpace
from vhostnvme.storage.catalog import Gone


class Clones:
    """Of one card."""

    def __init__(
        self, board: Board, coherence: CoherenceManager, local: LocalSpace, holdings: Holdings
    ) -> None:
        self._board = board
        self._coherence = coherence
        self._local = local
        self._holdings = holdings

    def clone(self, command: CloneNamespace) -> None:
        """Begins a copy; the command is answered when it is there."""
        check_name("VM", command.vm)
        source = self._board.spaces.get(command.uuid)
        if source is None or source.owner != self._board.me or source.state is not RowState.READY:
            raise ConfigError(f"there is no namespace {command.uuid} on an SSD of this card")
        holding = self._board.holdings.get(source.uuid)
        if holding is not None and holding.mirror:
            raise ConfigError(
                f"namespace {holding.mirror} is kept as copies, of which {source.uuid} is one: it"
                " cannot be copied"
            )
        if source.wanted:
            raise ClusterError(f"namespace {command.uuid} is being changed: try again later")
        ssd = self._local.ssds.get(source.ssd)
        if ssd is None or not ssd.can_clone:
            raise ConfigError(
                f"SSD {source.ssd!r} cannot share blocks: copies need a directory on a file system"
                " with reflinks, such as xfs"
            )
        if self._local.best(source.size, with_reserve=True, only=ssd.name) is None:
            raise NoSpace(f"SSD {ssd.name!r} has no room in its account for a copy")
        uuid, me = self._holdings.new_uuid(), self._board.me
        copy = HoldingRow(
            uuid=uuid,
            vm=command.vm,
            device="",
            nsid=0,
            size=source.size,
            block_size=source.block_size,
            placement=rule.LOCAL,
            giver=me,
            ssd=ssd.name,
            read_only=command.read_only,
        )
        space = SpaceRow(
            uuid=uuid,
            ssd=ssd.name,
            size=source.size,
            block_size=source.block_size,
            owner=me,
            vm=command.vm,
            source=source.uuid,
            read_only=command.read_only,
        )
        self._board.write(copy)

        def granted(where: str | None, why: str) -> None:
            if where is None:
                self._board.write(Gone(HoldingRow, uuid))
                error = ClusterError(f"namespace {source.uuid} cannot be copied: {why}")
                self._board.reply(command.command, error=error)
                return
            self._board.write(msgspec.structs.replace(copy, state=HoldingState.HELD))
            self._board.reply(command.command, uuid)

        self._coherence.clone(space, granted)
