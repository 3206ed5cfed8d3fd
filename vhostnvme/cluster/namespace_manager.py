"""What VMs ask of a card: devices and namespaces, made whole or not at all, and given back.

Commands come in; the rows of devices and holdings are written; holdings.py finds the space,
devices.py runs what is there. Each command gets one reply. What a crash interrupts is undone, and
was not answered; what was answered is in the catalog.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import msgspec

from vhostnvme.cluster import placement as rule
from vhostnvme.cluster.board import Board
from vhostnvme.cluster.clones import Clones
from vhostnvme.cluster.cluster_manager import ClusterManager
from vhostnvme.cluster.coherence_manager import CoherenceManager
from vhostnvme.cluster.commands import (
    AddNamespace,
    AttachNamespace,
    CloneNamespace,
    Command,
    CreateDevice,
    CreateNamespace,
    DeleteDevice,
    DeleteNamespace,
    DeleteVm,
    DrainCard,
    MoveNamespace,
    Part,
    PromoteCopy,
    ResizeNamespace,
)
from vhostnvme.cluster.creation import Creation
from vhostnvme.cluster.deletions import Deletions
from vhostnvme.cluster.devices import Devices
from vhostnvme.cluster.holdings import Holdings
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.messages import HostGone
from vhostnvme.cluster.mirrors import Mirrors
from vhostnvme.cluster.moves import Moves
from vhostnvme.cluster.new_units import check_part, new_unit
from vhostnvme.cluster.records import check_name, serial_of
from vhostnvme.cluster.repairs import Repairs
from vhostnvme.cluster.replacements import Replacements
from vhostnvme.cluster.resizes import Resizes
from vhostnvme.cluster.rows import DeviceRow, HoldingRow, HoldingState, Leg, MirrorRow, RowState
from vhostnvme.cluster.space_store import SpaceStore
from vhostnvme.errors import ClusterError, ConfigError, NoSpace
from vhostnvme.storage.catalog import Gone, Row
from vhostnvme.storage.mirror_record import Standing

NAMESPACES_MAX = 256  # of a device


class NamespaceManager:
    """Of one card."""

    def __init__(
        self,
        board: Board,
        cluster: ClusterManager,
        coherence: CoherenceManager,
        local: LocalSpace,
        holdings: Holdings,
        store: SpaceStore,
    ) -> None:
        self._board = board
        self._cluster = cluster
        self._coherence = coherence
        self._local = local
        self._holdings = holdings
        self.mirrors = Mirrors(board, cluster, store, self._mirror_lost)
        self.devices = Devices(board, self.mirrors, self._device_stopped)
        self.repairs = Repairs(board, cluster, local, holdings, self.mirrors, self.devices)
        self._deletions = Deletions(board, holdings, self.devices)
        self._replacements = Replacements(
            board, cluster, local, holdings, self.devices, self._deletions
        )
        moves = Moves(board, cluster, local, self.mirrors, self.devices, self.repairs)
        self._resizes = Resizes(board, coherence, local, holdings)
        self._creations: list[Creation] = []
        self._commands: dict[type[Command], Callable[..., None]] = {
            CreateDevice: self._create_device,
            AddNamespace: self._add_namespace,
            CreateNamespace: self._create_namespace,
            CloneNamespace: Clones(board, coherence, local, holdings).clone,
            AttachNamespace: self._attach_namespace,
            ResizeNamespace: self._resizes.resize,
            DeleteNamespace: self._deletions.delete_namespace,
            DeleteDevice: self._deletions.delete_device,
            DeleteVm: self._deletions.delete_vm,
            MoveNamespace: moves.move,
            DrainCard: moves.drain,
            PromoteCopy: moves.promote,
        }

    # --- What happens ---

    def start(self) -> None:
        """Undoes what was under way in the card's last life, and starts its devices."""
        self._holdings.start()
        for row in list(self._board.holdings.values()):
            if row.state is HoldingState.HELD and ("namespace", row.uuid) in self._board.deleted:
                self._deletions.drop(row)  # it was answered, and had not been detached yet
        for mirror in list(self._board.mirrors.values()):
            undone = mirror.state is RowState.MAKING and not self._board.can_attach(mirror)
            if undone or ("namespace", mirror.uuid) in self._board.deleted:
                self._deletions.drop(mirror)
            self.mirrors.act_on(mirror.uuid)
        for device in list(self._board.devices.values()):
            if device.state is RowState.MAKING:
                self._board.write(msgspec.structs.replace(device, state=RowState.DELETING))
            self.devices.act_on(device.name)

    def command(self, command: Command) -> bool:
        """False: it is none of this manager's."""
        handle = self._commands.get(type(command))
        if handle is None:
            return False
        try:
            handle(command)
        except (ConfigError, ClusterError) as error:
            self._board.reply(command.command, error=error)
        return True

    def host_gone(self, message: HostGone) -> None:
        row = self._board.devices.get(message.device)
        if row is not None and row.release_on_disconnect and row.state is RowState.READY:
            self._board.log(logging.INFO, f"device {row.name}: its VM has gone, it is released")
            self._deletions.mark(row)

    def tick(self) -> None:
        self._holdings.tick()
        self.mirrors.tick()
        self.repairs.tick()
        self._replacements.tick()
        self.devices.tick()
        self.settle()

    def act_on(self, key: str) -> None:
        """A row, a record or what runs of this UUID or device has changed."""
        self._holdings.act_on(key)
        self._resizes.follow(key)
        self.mirrors.act_on(key)
        self.repairs.act_on(key)
        self.devices.act_on(key)

    def settle(self) -> None:
        """Answers the commands that have come to their end."""
        for creation in list(self._creations):
            self._settle_creation(creation)
        self._deletions.settle()
        self._resizes.settle()

    # --- Devices ---

    def _create_device(self, command: CreateDevice) -> None:
        check_name("VM", command.vm)
        if not 0 < len(command.parts) <= NAMESPACES_MAX:
            raise ConfigError(f"a device has 1 to {NAMESPACES_MAX} namespaces")
        for part in command.parts:
            self._check_part(part, command.priority)
        name = command.name or self._new_name(command.vm)
        check_name("device", name)
        if name in self._board.devices:
            raise ConfigError(f"there is a device {name!r} already: choose another name")
        device = DeviceRow(
            name=name,
            vm=command.vm,
            serial=serial_of(f"{command.vm}/{name}"),
            release_on_disconnect=command.release_on_disconnect,
        )
        units = [
            new_unit(device, nsid, part, command.priority, self._holdings.new_uuid)
            for nsid, part in enumerate(command.parts, 1)
        ]
        self._board.write(device, *(row for unit in units for row in unit))
        creation = Creation(command.command, name)
        self._creations.append(creation)
        for unit in units:
            self._seek(creation, unit, command.wait_s)

    def _seek(self, creation: Creation, unit: list[HoldingRow | MirrorRow], wait_s: float) -> None:
        """Finds the space of one namespace, copy by copy."""
        for number, row in enumerate(row for row in unit if isinstance(row, HoldingRow)):
            if creation not in self._creations:
                return  # one of them has failed at once
            found = partial(self._found, creation, row.mirror, number)
            self._holdings.seek(row.uuid, wait_s, found)

    def adopted(self, command: int, device: str) -> None:
        """A device whose rows have been written is to be reported when it is whole."""
        until = self._board.now + self._board.options.ask_timeout_s
        self._creations.append(Creation(command, device, adopts_until=until))

    def _found(
        self,
        creation: Creation,
        of: str,
        number: int,
        row: HoldingRow | None,
        error: Exception | None,
    ) -> None:
        mirror = self._board.mirrors.get(of)
        if row is None:
            if mirror is None or not (mirror.degraded and self._board.copies_of(of)):
                self._fail(creation, error or NoSpace("no card has the space"))
            return
        self._board.dirty.add(row.uuid)
        if mirror is not None and mirror.state is RowState.MAKING:
            self._board.write(mirror.with_leg(number, Leg(row.uuid, Standing.IN_SYNC)))

    def _settle_creation(self, creation: Creation) -> None:
        device = self._board.devices.get(creation.device)
        if device is None or device.state is RowState.DELETING:
            why = (
                "could not be taken over"
                if creation.adopts_until
                else "was deleted before it was made"
            )
            error = ClusterError(f"device {creation.device} {why}")
            self._end(creation, error=error)
            return
        rows = self._board.holdings_of(creation.device)
        units = self._board.units_of(creation.device)
        if creation.nsid is not None:
            rows = [row for row in rows if row.nsid == creation.nsid]
            units = [unit for unit in units if unit.nsid == creation.nsid]
        wanted = [row for row in rows if row.state is HoldingState.WANTED]
        if wanted:
            if creation.adopts_until is not None and self._board.now >= creation.adopts_until:
                who = ", ".join(sorted({row.giver for row in wanted}))
                why = f"card {who} has not let this card in yet; it goes on when that card answers"
                self._end(creation, error=ClusterError(f"device {creation.device}: {why}"))
            return
        if not units:
            self._fail(creation, ClusterError(f"device {creation.device}: its space has gone"))
            return
        now = self._board.now
        if creation.give_up_at is None:
            creation.give_up_at = now + self._board.options.ask_timeout_s
        if all(self.devices.is_attached(unit) for unit in units):
            if device.state is RowState.MAKING:
                self._board.write(msgspec.structs.replace(device, state=RowState.READY))
            self._end(creation, creation.device if creation.nsid is None else units[0].uuid)
        elif now >= creation.give_up_at:
            why = self.devices.failure(creation.device) or "it does not answer"
            self._fail(creation, ClusterError(f"device {creation.device} cannot be used: {why}"))

    def _fail(self, creation: Creation, error: Exception) -> None:
        """Nothing half-done stays. An adopted device does: what it has taken over is its VM's."""
        if creation not in self._creations:
            return
        device = self._board.devices.get(creation.device)
        made = device is None or device.state is not RowState.MAKING
        if made and not creation.adds:
            self._end(creation, error=error)
            return
        self._creations.remove(creation)
        units = self._board.units_of(creation.device)
        uuid = next((unit.uuid for unit in units if unit.nsid == creation.nsid), "")
        one = uuid if creation.adds else None
        self._deletions.undo(creation.command, creation.device, one, error)

    def _end(
        self, creation: Creation, value: object = None, error: Exception | None = None
    ) -> None:
        if creation in self._creations:
            self._creations.remove(creation)
            self._board.reply(creation.command, value, error)

    def _device_stopped(self, device: DeviceRow) -> None:
        changes: list[Row | Gone] = [Gone(DeviceRow, device.name)]
        for unit in self._board.units_of(device.name):
            changes += self._deletions.releases(unit)
        for row in self._board.holdings_of(device.name):
            if row.mirror and row.mirror not in self._board.mirrors:
                changes += self._holdings.releases(row)
        self._board.write(*changes)

    def lost(self, row: HoldingRow) -> None:
        """Another card has taken it over, or its giver has lost it: this card lets go of it."""
        if row.mirror:
            self._copy_lost(row)
            return
        if row.scratch and not row.adopting:
            self._replacements.replace(row)
        what = f"namespace {row.uuid} of VM {row.vm!r} on card {row.giver!r}"
        if row.adopting:
            text = f"{what} could not be taken over"
        else:
            text = f"{what} is not this card's any more: device {row.device} loses it"
        self._board.log(logging.WARNING, text)
        self._board.write(Gone(HoldingRow, row.uuid))
        self._end_if_empty(row.device)

    def _copy_lost(self, row: HoldingRow) -> None:
        """The rest follows from that, unless nothing of what was to be taken over is left."""
        self._board.write(Gone(HoldingRow, row.uuid))
        if row.adopting and not self._board.copies_of(row.mirror):
            self._board.log(logging.WARNING, f"namespace {row.mirror} could not be taken over")
            mirror = self._board.mirrors.get(row.mirror)
            if mirror is not None:  # its record may have been taken over already
                self._board.write(msgspec.structs.replace(mirror, state=RowState.DELETING))
            self._end_if_empty(row.device)

    def _mirror_lost(self, row: MirrorRow) -> None:
        """Another card has taken it over, and with it the right to say which copies count."""
        if ("namespace", row.uuid) in self._board.deleted:
            return
        self._board.log(
            logging.WARNING,
            f"namespace {row.uuid} of VM {row.vm!r} is not this card's any more: device"
            f" {row.device} loses it",
        )
        self._deletions.drop(row)
        self._end_if_empty(row.device)

    def _end_if_empty(self, name: str) -> None:
        device = self._board.devices.get(name)
        units = [("namespace", unit.uuid) for unit in self._board.units_of(name)]
        if device is not None and self._board.deleted.issuperset(units):
            self._deletions.mark(device)

    # --- Namespaces ---

    def _add_namespace(self, command: AddNamespace) -> None:
        device = self._device(command.device)
        self._check_part(command.part, command.priority)
        nsid = self._free_nsid(device)
        unit = new_unit(device, nsid, command.part, command.priority, self._holdings.new_uuid)
        self._board.write(*unit)
        creation = Creation(command.command, device.name, nsid, adds=True)
        self._creations.append(creation)
        self._seek(creation, unit, command.wait_s)

    def _create_namespace(self, command: CreateNamespace) -> None:
        check_name("VM", command.vm)
        self._check_part(Part(command.size, rule.LOCAL, command.block_size), command.priority)
        if command.ssd is not None and command.ssd not in self._local.ssds:
            raise ConfigError(
                f"there is no SSD {command.ssd!r} on card {self._board.me!r}: there are"
                f" {', '.join(self._local.ssds) or 'none'}"
            )
        row = HoldingRow(
            uuid=self._holdings.new_uuid(),
            vm=command.vm,
            device="",
            nsid=0,
            size=command.size,
            block_size=command.block_size,
            placement=rule.LOCAL,
            priority=command.priority,
        )
        self._board.write(row)

        def found(held: HoldingRow | None, error: Exception | None) -> None:
            self._board.reply(command.command, held.uuid if held else None, error)

        self._holdings.seek(row.uuid, 0.0, found, command.ssd)

    def _attach_namespace(self, command: AttachNamespace) -> None:
        device = self._device(command.device)
        row = self._board.holdings.get(command.uuid)
        if row is None or row.state is not HoldingState.HELD:
            raise ConfigError(f"this card has no namespace {command.uuid}")
        if row.device:
            raise ConfigError(f"namespace {row.uuid} belongs to device {row.device} already")
        nsid = self._free_nsid(device)
        self._board.write(msgspec.structs.replace(row, device=device.name, nsid=nsid))
        self._creations.append(Creation(command.command, device.name, nsid))

    # --- Helpers ---

    def _check_part(self, part: Part, priority: int) -> None:
        check_part(part, priority)
        rule.check_placement(part.placement, self._board.me, self._cluster.peers())

    def _device(self, name: str) -> DeviceRow:
        row = self._board.devices.get(name)
        if row is None or row.state is not RowState.READY:
            raise ConfigError(f"there is no device {name!r} on card {self._board.me!r}")
        return row

    def _free_nsid(self, device: DeviceRow) -> int:
        taken = {row.nsid for row in self._board.holdings_of(device.name)}
        free = set(range(1, NAMESPACES_MAX + 1)) - taken
        if not free:
            raise ConfigError(f"device {device.name} has {NAMESPACES_MAX} namespaces already")
        return min(free)

    def _new_name(self, vm: str) -> str:
        while True:
            name = f"{vm[:57]}-{self._board.random.getrandbits(24):06x}"
            if name not in self._board.devices and ("device", name) not in self._board.deleted:
                return name
