"""The devices of a card's VMs as they run: a controller each, with local and remote namespaces."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vhostnvme.cluster.messages import Attach, Detach, Refit, StartDevice, StopDevice
from vhostnvme.cluster.mirror_messages import AttachMirror
from vhostnvme.cluster.records import host_nqn_of
from vhostnvme.cluster.rows import HoldingRow, MirrorRow
from vhostnvme.config import DeviceConfig
from vhostnvme.control.paths import SOCKET_NAME, make_folder
from vhostnvme.emulation.device import Device, DeviceOptions
from vhostnvme.emulation.server import Services
from vhostnvme.errors import ConfigError
from vhostnvme.fabric.address import parse_address
from vhostnvme.native import Event, EventType, Namespace
from vhostnvme.storage.common import DiskSpec
from vhostnvme.storage.mirror import MirrorSpec
from vhostnvme.storage.remote import RemoteSpec
from vhostnvme.works.legs import SpecOf, specs_of
from vhostnvme.works.mirrors import VmMirrors

_log = logging.getLogger(__name__)

CONNECT_MS = 1000
_HOST_IDS = uuid.UUID("0b4f3c39-9f2a-5d8e-8d5c-5a0c5a3f9f11")


class VmDevices:
    """Of one card, in one folder.

    Args:
        states: the folder for what devices keep: features, SMART, logs.
        mirrors: of the same card.
        spec: what the data path opens of a holding.
        gone: is told the name of a device whose VM has let go of it.
    """

    def __init__(
        self,
        running: Services,
        folder: Path,
        states: Path,
        config: DeviceConfig,
        mirrors: VmMirrors,
        spec: SpecOf,
        gone: Callable[[str], None],
    ) -> None:
        self._running = running
        self._folder = folder
        self._states = states
        self._config = config
        self._mirrors = mirrors
        self._spec = spec
        self._gone = gone
        self._units: dict[tuple[str, int], str] = {}  # the UUIDs by device and NSID
        self._devices: dict[str, Device] = {}
        running.listeners.append(self._on_event)

    def get(self, name: str) -> Device | None:
        """The device, while it runs."""
        return self._devices.get(name)

    def socket(self, name: str) -> Path:
        """Where a device's vfio-user socket is, also when it does not run."""
        return self._folder / name / SOCKET_NAME

    def _state(self, name: str) -> Path:
        return self._states / name

    async def start(self, effect: StartDevice) -> None:
        """An empty controller, and its socket."""
        row = effect.device
        if row.name in self._devices:
            return
        make_folder(self._states)
        options = DeviceOptions(
            socket=self.socket(row.name),
            namespaces=(),
            grows=True,
            serial=row.serial,
            queues=self._config.queues,
            doorbells=self._config.doorbells,
            model=self._config.model,
            state=self._state(row.name),
        )
        self._devices[row.name] = await self._running.add_device(options)

    async def stop(self, effect: StopDevice) -> None:
        device = self._devices.get(effect.device)
        if device is not None:
            await self._running.remove_device(device)
            del self._devices[effect.device]
            for key in [key for key in self._units if key[0] == effect.device]:
                self._mirrors.closed(self._units.pop(key))
        self._state(effect.device).unlink(missing_ok=True)
        socket = self.socket(effect.device)
        with suppress(OSError):  # what a life of the card that was killed has left
            socket.unlink(missing_ok=True)
            socket.parent.rmdir()

    async def attach(self, effect: Attach) -> None:
        """
        Raises:
            NativeError, ConfigError: it cannot be opened here and now.
        """
        row = effect.holding
        device = self._device(row.device)
        if not device.has(row.nsid):
            spec = await self._spec(row)
            self._give(device, row, spec, await self._mirrors.open_one(row, spec))
        self._mirrors.opened(row.uuid)

    async def attach_mirror(self, effect: AttachMirror) -> None:
        """
        Raises:
            NativeError, ConfigError: it cannot be opened here and now.
        """
        row = effect.mirror
        device = self._device(row.device)
        if not device.has(row.nsid):
            legs = await specs_of(self._spec, effect.legs)
            spec = MirrorSpec(
                legs=tuple(filter(None, legs)),
                bitmap=row.uuid,
                size=row.size,
                block_size=row.block_size,
            )
            self._give(device, row, spec, await self._mirrors.open(effect, legs))
        self._mirrors.opened(row.uuid)

    def _device(self, name: str) -> Device:
        device = self._devices.get(name)
        if device is None:
            raise ConfigError(f"device {name} does not run")
        return device

    def _give(
        self, device: Device, row: HoldingRow | MirrorRow, spec: DiskSpec, namespace: Namespace
    ) -> None:
        try:
            device.attach(row.nsid, spec, namespace)
        except BaseException:
            self._mirrors.closed(row.uuid)
            namespace.close()
            raise
        self._units[row.device, row.nsid] = row.uuid

    async def detach(self, effect: Detach) -> None:
        device = self._devices.get(effect.device)
        if device is not None and device.has(effect.nsid):
            device.remove_namespace(effect.nsid)
            self._units.pop((effect.device, effect.nsid), None)
            self._mirrors.closed(effect.uuid)

    async def refit(self, effect: Refit) -> None:
        row = effect.row
        device = self._devices.get(row.device)
        if device is not None and device.has(row.nsid):
            device.resize_namespace(row.nsid, row.size)

    def _on_event(self, event: Event) -> None:
        if event.type is not EventType.CLIENT_DETACHED:
            return
        for name, device in self._devices.items():
            if device.id == event.controller:
                self._gone(name)
                return


def remote_spec(me: str, row: HoldingRow) -> RemoteSpec:
    """How a card reaches a namespace that another one has given it: as the host of its epoch."""
    hostnqn = host_nqn_of(me, row.uuid, row.epoch)
    return RemoteSpec(
        paths=tuple(parse_address(each) for each in row.addresses),
        subnqn=row.subnqn,
        nsid=row.remote_nsid,
        hostnqn=hostnqn,
        hostid=uuid.uuid5(_HOST_IDS, hostnqn),
        uuid=uuid.UUID(row.uuid),
        block_size=row.block_size,
        read_only=row.read_only,
        connect_ms=CONNECT_MS,
    )
