"""New sizes for namespaces, local and remote; their guests see them at once."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from vhostnvme.cluster import placement as rule
from vhostnvme.cluster.board import Board
from vhostnvme.cluster.coherence_manager import CoherenceManager
from vhostnvme.cluster.commands import ResizeNamespace
from vhostnvme.cluster.holdings import Holdings
from vhostnvme.cluster.local_space import LocalSpace, check_size
from vhostnvme.cluster.messages import Failure
from vhostnvme.cluster.rows import HoldingRow, HoldingState, RowState, SpaceRow
from vhostnvme.errors import ClusterError, ConfigError, NoSpace


@dataclass(frozen=True, slots=True)
class Resize:
    """A command that waits for a giver."""

    command: int
    uuid: str
    size: int
    give_up_at: float


class Resizes:
    """Of one card."""

    def __init__(
        self, board: Board, coherence: CoherenceManager, local: LocalSpace, holdings: Holdings
    ) -> None:
        self._board = board
        self._coherence = coherence
        self._local = local
        self._holdings = holdings
        self._waiting: list[Resize] = []

    def resize(self, command: ResizeNamespace) -> None:
        row = self._board.holdings.get(command.uuid)
        if command.uuid in self._board.mirrors or (row is not None and row.mirror):
            raise ConfigError(f"namespace {command.uuid} is kept as copies: it keeps its size")
        if row is None or row.state is not HoldingState.HELD:
            raise ConfigError(f"this card has no namespace {command.uuid}")
        check_size(command.size, row.block_size)
        if command.size < row.size and row.device:
            raise ConfigError(
                f"namespace {row.uuid} is in use by device {row.device}: it can only grow"
            )
        if self._is_changing(row):
            raise ClusterError(f"namespace {row.uuid} is being changed already: try again later")
        if command.size == row.size:
            self._board.reply(command.command, row.size)
        elif row.giver == self._board.me:
            self._here(command, row, self._board.spaces[row.uuid])
        elif self._holdings.resize(row, command.size):
            give_up_at = self._board.now + self._board.options.ask_timeout_s
            self._waiting.append(Resize(command.command, row.uuid, command.size, give_up_at))
        else:
            raise ClusterError(f"namespace {row.uuid} cannot be changed now: try again later")

    def _is_changing(self, row: HoldingRow) -> bool:
        if row.giver != self._board.me:
            return self._holdings.resized(row) is None
        space = self._board.spaces[row.uuid]
        copied = any(
            each.source == row.uuid and each.state is RowState.MAKING
            for each in self._board.spaces.values()
        )
        return copied or space.wanted != 0 or space.state is not RowState.READY

    def _here(self, command: ResizeNamespace, row: HoldingRow, space: SpaceRow) -> None:
        with_reserve = rule.uses_reserve(row.placement, self._board.me)
        if not self._local.can_grow(space, command.size, with_reserve=with_reserve):
            raise NoSpace(f"SSD {space.ssd!r} has no space for a namespace of {command.size} bytes")

        def stretched(new: SpaceRow | None, failure: Failure | None) -> None:
            if failure is not None or new is None:
                why = failure.message if failure else "it has gone"
                error = ClusterError(f"namespace {row.uuid} keeps its size: {why}")
                self._board.reply(command.command, error=error)
                return
            self.follow(row.uuid)
            self._board.reply(command.command, new.size)

        self._coherence.stretch(space, command.size, stretched)

    def follow(self, uuid: str) -> None:
        """A crash has come between the space's new size and the holding's."""
        row, space = self._board.holdings.get(uuid), self._board.spaces.get(uuid)
        if row is None or space is None or row.state is not HoldingState.HELD:
            return
        if space.owner == self._board.me and space.state is RowState.READY and not space.wanted:
            self._take(uuid, space.size)

    def _take(self, uuid: str, size: int) -> None:
        row = self._board.holdings.get(uuid)
        if row is not None and row.size != size:
            self._board.write(msgspec.structs.replace(row, size=size))

    def settle(self) -> None:
        """Answers who waits for givers."""
        for resize in list(self._waiting):
            row = self._board.holdings.get(resize.uuid)
            told = self._holdings.resized(row) if row is not None else (0, "it has gone")
            if told is None and self._board.now < resize.give_up_at:
                continue
            self._waiting.remove(resize)
            size, why = told if told else (0, "its card does not answer")
            if size == resize.size:
                self._board.reply(resize.command, size)
            else:
                error = ClusterError(f"namespace {resize.uuid} keeps its size: {why}")
                self._board.reply(resize.command, error=error)
