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
from vhostnvme.cluster.rows import HoldingRow, HoldingState, MirrorRow, RowState, SpaceRow
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
        self._growing: set[str] = set()  # mirrors that are to have another size
        self._asked: set[str] = set()  # copies whose givers have been asked

    def resize(self, command: ResizeNamespace) -> None:
        row = self._board.holdings.get(command.uuid)
        if (mirror := self._board.mirrors.get(command.uuid)) is not None:
            self._all_copies(command, mirror)
            return
        if row is not None and row.mirror:
            raise ConfigError(f"{row.uuid} is a copy of namespace {row.mirror}: resize that")
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
        self._check_room(row, space, command.size)

        def stretched(new: SpaceRow | None, failure: Failure | None) -> None:
            if failure is not None or new is None:
                why = failure.message if failure else "it has gone"
                error = ClusterError(f"namespace {row.uuid} keeps its size: {why}")
                self._board.reply(command.command, error=error)
                return
            self.follow(row.uuid)
            self._board.reply(command.command, new.size)

        self._coherence.stretch(space, command.size, stretched)

    def _check_room(self, row: HoldingRow, space: SpaceRow, size: int) -> None:
        with_reserve = rule.uses_reserve(row.placement, self._board.me)
        if not self._local.can_grow(space, size, with_reserve=with_reserve):
            raise NoSpace(f"SSD {space.ssd!r} has no space for a namespace of {size} bytes")

    def _all_copies(self, command: ResizeNamespace, mirror: MirrorRow) -> None:
        """The copies first, then what is made of them."""
        check_size(command.size, mirror.block_size)
        if command.size < mirror.size:
            raise ConfigError(
                f"namespace {mirror.uuid} is in use by device {mirror.device}: it can only grow"
            )
        copies = self._board.copies_of(mirror.uuid)
        settled = mirror.state is RowState.READY and len(mirror.in_sync()) == len(copies)
        if not settled or any(self._is_changing(row) for row in copies):
            raise ClusterError(
                f"namespace {mirror.uuid} cannot be changed before all its copies are in sync: try"
                " again then"
            )
        if mirror.wanted:
            raise ClusterError(f"namespace {mirror.uuid} is being changed already: try again later")
        for row in copies:
            if row.size < command.size and row.giver == self._board.me:
                self._check_room(row, self._board.spaces[row.uuid], command.size)
        self._board.write(msgspec.structs.replace(mirror, wanted=command.size))
        give_up_at = self._board.now + self._board.options.ask_timeout_s
        self._waiting.append(Resize(command.command, mirror.uuid, command.size, give_up_at))

    def _grow(self, mirror: MirrorRow) -> None:
        """The next step for a mirror that is to have another size."""
        copies = self._board.copies_of(mirror.uuid)
        if all(row.size >= mirror.wanted for row in copies):
            self._growing.discard(mirror.uuid)
            self._board.write(mirror.with_size(mirror.wanted))
            return
        for row in copies:
            if mirror.uuid not in self._growing:
                return  # one has been refused
            if row.size >= mirror.wanted or self._is_changing(row):
                continue
            if row.giver == self._board.me:
                self._grow_here(mirror, row)
            elif row.uuid not in self._asked:
                if self._holdings.resize(row, mirror.wanted):
                    self._asked.add(row.uuid)
            else:
                self._asked.discard(row.uuid)
                told = self._holdings.resized(row)
                if told is not None and told[0] < mirror.wanted:
                    self._refuse(mirror.uuid, told[1])

    def _grow_here(self, mirror: MirrorRow, row: HoldingRow) -> None:
        space = self._board.spaces[row.uuid]
        try:
            self._check_room(row, space, mirror.wanted)  # others may have got it meanwhile
        except NoSpace as error:
            self._refuse(mirror.uuid, str(error))
            return

        def stretched(_value: object, failure: Failure | None) -> None:
            if failure is not None:
                self._refuse(mirror.uuid, failure.message)
            self.follow(row.uuid)

        self._coherence.stretch(space, mirror.wanted, stretched)

    def _refuse(self, uuid: str, why: str) -> None:
        self._growing.discard(uuid)
        mirror = self._board.mirrors.get(uuid)
        if mirror is not None:
            self._board.write(msgspec.structs.replace(mirror, wanted=0))
        self._answer(uuid, why)

    def _answer(self, uuid: str, why: str) -> None:
        for resize in [each for each in self._waiting if each.uuid == uuid]:
            self._waiting.remove(resize)
            error = ClusterError(f"namespace {uuid} keeps its size: {why}")
            self._board.reply(resize.command, error=error)

    def _settle_copies(self, resize: Resize, mirror: MirrorRow) -> None:
        if mirror.size >= resize.size:
            self._waiting.remove(resize)
            self._board.reply(resize.command, resize.size)
        elif self._board.now >= resize.give_up_at:
            self._answer(mirror.uuid, "not all cards with a copy have answered; it goes on")

    def follow(self, uuid: str) -> None:
        """A crash has come between the space's new size and the holding's."""
        mirror = self._board.mirrors.get(uuid)
        if mirror is not None and mirror.wanted:
            self._growing.add(uuid)
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
        for uuid in sorted(self._growing):
            growing = self._board.mirrors.get(uuid)
            if growing is None or not growing.wanted or growing.state is not RowState.READY:
                self._growing.discard(uuid)
            else:
                self._grow(growing)
        for resize in list(self._waiting):
            mirror = self._board.mirrors.get(resize.uuid)
            if mirror is not None:
                self._settle_copies(resize, mirror)
                continue
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
