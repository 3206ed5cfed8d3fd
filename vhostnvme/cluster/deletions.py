"""Deletions: safe to repeat, answered when all is given back or what is left is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from vhostnvme.cluster.board import Board, Unit
from vhostnvme.cluster.commands import DeleteDevice, DeleteNamespace, DeleteVm, Released
from vhostnvme.cluster.devices import Devices
from vhostnvme.cluster.holdings import Holdings
from vhostnvme.cluster.rows import (
    DeviceRow,
    HoldingRow,
    HoldingState,
    MirrorRow,
    Recorded,
    RowState,
    SpaceRow,
)
from vhostnvme.errors import ConfigError
from vhostnvme.storage.catalog import Deleted, Gone, Row

_GOING = (HoldingState.RELEASING, RowState.DELETING)
STOP_WAIT_S = 30.0  # a device whose SSD does not answer is not waited for any longer


@dataclass(frozen=True, slots=True)
class Deletion:
    """A command that waits until these are gone; `error`: it has failed, and they are its rest.

    `copies`: those of them that are copies of others.
    """

    command: int
    devices: tuple[str, ...]
    uuids: tuple[str, ...]
    begun: float
    error: Exception | None = None
    copies: frozenset[str] = frozenset()


class Deletions:
    """Of one card."""

    def __init__(self, board: Board, holdings: Holdings, devices: Devices) -> None:
        self._board = board
        self._holdings = holdings
        self._devices = devices
        self._waiting: list[Deletion] = []

    def mark(self, row: DeviceRow) -> None:
        """From here on it will be deleted, whatever comes."""
        if row.state is not RowState.DELETING or ("device", row.name) not in self._board.deleted:
            self._board.write(
                msgspec.structs.replace(row, state=RowState.DELETING), Deleted("device", row.name)
            )

    def undo(self, command: int, device: str, uuid: str | None, error: Exception) -> None:
        """What a command had begun goes; then it is told why it has failed.

        Args:
            uuid: one namespace of a device that stays; None: the device.
        """
        uuids = [
            row.uuid
            for row in self._rows()
            if row.device == device
            and (uuid in (None, row.uuid, getattr(row, "mirror", "")) or row.state in _GOING)
        ]
        row = self._board.devices.get(device)
        if uuid is None and row is not None:
            self._board.write(msgspec.structs.replace(row, state=RowState.DELETING))
        elif (unit := self._unit(uuid or "")) is not None:
            self.drop(unit)
        devices = (device,) if uuid is None else ()
        self._wait(command, devices, tuple(dict.fromkeys(uuids)), error)

    def delete_device(self, command: DeleteDevice) -> None:
        row = self._board.devices.get(command.device)
        if row is None:
            self._nothing(command.command, "device", command.device)
            return
        self._delete(command.command, [row], [])

    def delete_vm(self, command: DeleteVm) -> None:
        devices = [row for row in self._board.devices.values() if row.vm == command.vm]
        loose = [
            row
            for row in self._board.holdings.values()
            if row.vm == command.vm and not row.device and row.state is HoldingState.HELD
        ]
        if not devices and not loose:
            self._nothing(command.command, "vm", command.vm)
            return
        self._board.write(Deleted("vm", command.vm))
        self._delete(command.command, devices, loose)

    def delete_namespace(self, command: DeleteNamespace) -> None:
        row = self._unit(command.uuid)
        if row is None or row.state in _GOING:
            self._orphan(command)
            return
        if isinstance(row, HoldingRow) and row.mirror:
            raise ConfigError(f"{row.uuid} is a copy of namespace {row.mirror}: delete that")
        if row.device and row.state in (HoldingState.WANTED, RowState.MAKING):
            raise ConfigError(f"namespace {row.uuid} is being made for device {row.device}")
        if row.device and len(self._board.units_of(row.device)) == 1:
            raise ConfigError(
                f"namespace {row.uuid} is the only one of device {row.device}: delete the device"
            )
        self._delete(command.command, [], [row])

    def _orphan(self, command: DeleteNamespace) -> None:
        """Space of this card that a card has of which the store knows nothing any more."""
        space = self._board.spaces.get(command.uuid)
        known = self._holdings.is_given(command.uuid)
        if space is None or space.state is RowState.DELETING:
            self._nothing(command.command, "namespace", command.uuid)
        elif known or not self._board.view.synced:
            raise ConfigError(
                f"namespace {space.uuid} belongs to card {space.owner!r}: delete it there"
            )
        else:
            self._board.write(msgspec.structs.replace(space, state=RowState.DELETING))
            self._wait(command.command, (), (space.uuid,))

    def _nothing(self, command: int, kind: str, name: str) -> None:
        if (kind, name) not in self._board.deleted:
            what = {"vm": "VM"}.get(kind, kind)
            raise ConfigError(f"there is no {what} {name!r} on card {self._board.me!r}")
        going = [
            row.uuid
            for row in self._rows()
            if name in (row.device, row.vm, row.uuid) and row.state in _GOING
        ]
        if going:
            self._wait(command, (), tuple(dict.fromkeys(going)))
        else:
            self._board.reply(command, Released(already=True))

    def _unit(self, uuid: str) -> Unit | None:
        return self._board.mirrors.get(uuid) or self._board.holdings.get(uuid)

    def _all_of(self, unit: Unit) -> list[str]:
        """With its copies."""
        return [unit.uuid, *(row.uuid for row in self._board.copies_of(unit.uuid))]

    def _delete(self, command: int, devices: list[DeviceRow], loose: Sequence[Unit]) -> None:
        uuids = [uuid for unit in loose for uuid in self._all_of(unit)]
        for device in devices:
            for unit in self._board.units_of(device.name):
                uuids += self._all_of(unit)
            self.mark(device)
        for row in loose:
            self.drop(row)
        self._wait(command, tuple(device.name for device in devices), tuple(dict.fromkeys(uuids)))

    def drop(self, unit: Unit) -> None:
        """Takes a namespace from its device, if it has one, and gives it back."""
        if ("namespace", unit.uuid) not in self._board.deleted:
            self._board.write(Deleted("namespace", unit.uuid))
        if unit.device in self._board.devices:
            self._devices.leave(unit)
        else:
            self._release(unit)

    def releases(self, unit: Unit) -> list[Row | Gone]:
        """The changes of the catalog by which it is given back, with all its copies."""
        if isinstance(unit, HoldingRow):
            return self._holdings.releases(unit)
        changes: list[Row | Gone] = []
        for row in self._board.copies_of(unit.uuid):
            changes += self._holdings.releases(row)
        if unit.recorded is Recorded.NOWHERE:
            return [*changes, Gone(MirrorRow, unit.uuid)]
        return [*changes, msgspec.structs.replace(unit, state=RowState.DELETING)]

    def _release(self, unit: Unit) -> None:
        self._board.write(*self.releases(unit))

    def _rows(self) -> list[HoldingRow | MirrorRow | SpaceRow]:
        board = self._board
        return [*board.holdings.values(), *board.mirrors.values(), *board.spaces.values()]

    def _wait(
        self,
        command: int,
        devices: tuple[str, ...],
        uuids: tuple[str, ...],
        error: Exception | None = None,
    ) -> None:
        copies = frozenset(
            uuid
            for uuid in uuids
            if uuid in self._board.holdings and self._board.holdings[uuid].mirror not in ("", uuid)
        )
        self._waiting.append(Deletion(command, devices, uuids, self._board.now, error, copies))

    def settle(self) -> None:
        """Releases what has been detached, and answers who waits for no more."""
        for row in self._devices.left():
            self._release(row)
        for deletion in list(self._waiting):
            self._settle(deletion)

    def _settle(self, deletion: Deletion) -> None:
        waited_s = self._board.now - deletion.begun
        left = self._rest(deletion.devices, deletion.uuids)
        running = [name for name in deletion.devices if name in self._board.devices]
        if running and waited_s < STOP_WAIT_S:
            return
        hopeful = any(self._holdings.confirms(uuid) for uuid in left)
        if not running and hopeful and waited_s < self._board.options.release_wait_s:
            return
        self._waiting.remove(deletion)
        if deletion.error is not None:
            self._board.reply(deletion.command, error=deletion.error)
            return
        uuids = tuple(uuid for uuid in deletion.uuids if uuid not in deletion.copies)
        released = Released(deletion.devices, uuids, pending=left)
        self._board.reply(deletion.command, released)

    def _rest(self, devices: tuple[str, ...], uuids: tuple[str, ...]) -> tuple[str, ...]:
        """What is still there of them."""
        names = [name for name in devices if name in self._board.devices]
        board = self._board
        kept = [u for u in uuids if u in board.holdings or u in board.spaces or u in board.mirrors]
        return (*names, *kept)
