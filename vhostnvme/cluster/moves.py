"""Namespaces that are told to go elsewhere, cards that are emptied, copies that are trusted again.

A move marks the copy that shall go; repairs.py does the rest while the guest runs.
"""

from __future__ import annotations

import msgspec

from vhostnvme.cluster import placement as rule
from vhostnvme.cluster.board import Board
from vhostnvme.cluster.cluster_manager import ClusterManager
from vhostnvme.cluster.commands import DrainCard, MoveNamespace, PromoteCopy
from vhostnvme.cluster.devices import Devices
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.mirrors import Mirrors
from vhostnvme.cluster.repairs import Repairs, mirror_of_one
from vhostnvme.cluster.rows import DrainRow, HoldingRow, HoldingState, MirrorRow, RowState
from vhostnvme.errors import ClusterError, ConfigError
from vhostnvme.storage.catalog import Gone
from vhostnvme.storage.mirror_record import Standing


class Moves:
    """Of one card."""

    def __init__(
        self,
        board: Board,
        cluster: ClusterManager,
        local: LocalSpace,
        mirrors: Mirrors,
        devices: Devices,
        repairs: Repairs,
    ) -> None:
        self._board = board
        self._cluster = cluster
        self._local = local
        self._mirrors = mirrors
        self._devices = devices
        self._repairs = repairs

    # --- One namespace ---

    def move(self, command: MoveNamespace) -> None:
        row = self._mirror(command.uuid)
        if command.to is None:
            self._cancel(command, row)
            return
        to_ssd = self._check_target(command.to)
        if row is None:
            row = self._taken_up(command.uuid)
        number = self._source(row, command, to_ssd)
        if number is None:
            self._board.reply(command.command, False)
            return
        leg = msgspec.structs.replace(row.legs[number], leaving=True)
        self._board.write(msgspec.structs.replace(row.with_leg(number, leg), to=command.to))
        self._board.reply(command.command, True)

    def _mirror(self, uuid: str) -> MirrorRow | None:
        row = self._board.mirrors.get(uuid)
        if row is not None and row.state is not RowState.READY:
            raise ConfigError(f"namespace {uuid} is {row.state}: try again later")
        return row

    def _check_target(self, to: str) -> bool:
        """Whether it is an SSD of this card."""
        if to in self._local.ssds:
            return True
        if to == self._board.me:
            return False
        rule.check_placement(to, self._board.me, self._cluster.peers())
        if to in (rule.AUTO, rule.LOCAL, rule.REMOTE) or not self._cluster.is_online(to):
            raise ClusterError(f"a namespace moves to a card that is online or to an own SSD: {to}")
        return False

    def _taken_up(self, uuid: str) -> MirrorRow:
        row = self._board.holdings.get(uuid)
        if row is None or row.state is not HoldingState.HELD:
            raise ConfigError(f"this card has no namespace {uuid}")
        if row.mirror:
            raise ConfigError(f"{uuid} is a copy of namespace {row.mirror}: move that")
        if not self._repairs.can_move(row):
            raise ConfigError(
                f"namespace {uuid} cannot be moved: it has to belong to a device that runs, and be"
                " writable"
            )
        rows = mirror_of_one(row, self._board.me)
        self._board.write(*rows)
        return rows[0]

    def _source(self, row: MirrorRow, command: MoveNamespace, to_ssd: bool) -> int | None:
        """The leg that shall go; None: the target has it already."""
        assert command.to is not None
        places = {n: self._place(leg.uuid) for n, leg in enumerate(row.legs) if leg.uuid}
        if any(leg.leaving for leg in row.legs):
            raise ClusterError(f"namespace {row.uuid} is moving already: cancel that first")
        target = (self._board.me, command.to) if to_ssd else (command.to, "")
        there = [n for n, (card, ssd) in places.items() if target in ((card, ssd), (card, ""))]
        if there and not command.source:
            return None
        if command.source is None:
            if to_ssd:  # what is on this card already moves between its SSDs
                places = {n: p for n, p in places.items() if p[0] == self._board.me} or places
            if len(places) > 1:
                cards = ", ".join(sorted(card for card, _ in places.values()))
                raise ConfigError(
                    f"namespace {row.uuid} has copies on {cards}: say with --from which one moves"
                )
            return next(iter(places))
        named = [n for n, place in places.items() if command.source in place]
        if not named:
            raise ConfigError(f"namespace {row.uuid} has no copy on {command.source!r}")
        return named[0]

    def _place(self, uuid: str) -> tuple[str, str]:
        row = self._board.holdings.get(uuid)
        return (row.giver, row.ssd) if row else ("", "")

    def _cancel(self, command: MoveNamespace, row: MirrorRow | None) -> None:
        if row is None or not any(leg.leaving for leg in row.legs):
            if row is None and command.uuid not in self._board.holdings:
                raise ConfigError(f"this card has no namespace {command.uuid}")
            self._board.reply(command.command, False)
            return
        legs = tuple(msgspec.structs.replace(leg, leaving=False) for leg in row.legs)
        self._board.write(msgspec.structs.replace(row, legs=legs, to=""))
        self._board.reply(command.command, True)

    # --- This card ---

    def drain(self, command: DrainCard) -> None:
        if command.on and not self._board.draining:
            self._board.write(DrainRow())
        elif not command.on and self._board.draining:
            self._board.write(Gone(DrainRow, DrainRow().key()))
        self._repairs.look()
        self._board.reply(command.command, len(self._board.spaces))

    # --- When none that counts is left ---

    def promote(self, command: PromoteCopy) -> None:
        row = self._mirror(command.uuid)
        if row is None:
            raise ConfigError(f"this card has no namespace {command.uuid} that is kept as copies")
        number = row.number_of(command.copy)
        holding = self._board.holdings.get(command.copy)
        if number is None or holding is None or holding.state is not HoldingState.HELD:
            raise ConfigError(f"namespace {row.uuid} has no copy {command.copy}")
        if number in row.in_sync():
            raise ConfigError(f"the copy {command.copy} of namespace {row.uuid} is in sync already")
        seen = self._mirrors.seen(row.uuid)
        if seen is not None and any(self._answers(row, each) for each in row.in_sync()):
            raise ConfigError(
                f"namespace {row.uuid} has a copy that is in sync: the others come back by it"
            )
        legs = tuple(
            msgspec.structs.replace(
                leg, standing=Standing.IN_SYNC if n == number else Standing.NEW, leaving=False
            )
            for n, leg in enumerate(row.legs)
        )
        self._board.write(msgspec.structs.replace(row.with_legs(legs), to=""))
        self._devices.reopen(row)
        self._board.reply(command.command, number)

    def _answers(self, row: MirrorRow, number: int) -> bool:
        holding: HoldingRow | None = self._board.holdings.get(row.legs[number].uuid)
        if holding is None or holding.state is not HoldingState.HELD:
            return False
        if holding.giver == self._board.me:
            ssd = self._local.ssds.get(holding.ssd)
            return ssd is not None and ssd.healthy
        return self._cluster.is_online(holding.giver)
