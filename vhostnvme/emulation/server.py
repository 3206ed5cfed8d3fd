"""Devices and targets on one runtime, for as long as an `async with` lasts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from vhostnvme.emulation.device import Device, DeviceOptions
from vhostnvme.emulation.drive import DriveSetup, EmulatedDrive
from vhostnvme.emulation.events import HOST_EVENTS, HOST_LINES_MAX, LineBound, sentence_of
from vhostnvme.emulation.mirrors import keep_mirrors
from vhostnvme.emulation.placement import Placement
from vhostnvme.emulation.sockets import serial_of_socket
from vhostnvme.emulation.ssd import EmulatedSsd
from vhostnvme.emulation.ssd_opening import SsdSetup
from vhostnvme.fabric.options import TargetOptions
from vhostnvme.fabric.target import FabricTarget
from vhostnvme.native import Event, Runtime, RuntimeOptions

_log = logging.getLogger(__name__)


class Services:
    """What runs: devices and targets are added while it does, and stopped in reverse order."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.placement = Placement(runtime)
        self.devices: list[Device] = []
        self.drives: list[EmulatedDrive] = []
        self.targets: list[FabricTarget] = []
        self.listeners: list[Callable[[Event], None]] = []  # are told of every event
        self.names: dict[int, str] = {}  # whom else events concern, by id

    async def add_device(self, options: DeviceOptions) -> Device:
        """Starts a device.

        Raises:
            ConfigError, NativeError: as Device.start.
        """
        device = Device(self.runtime, options, self.placement)
        await device.start()
        self.devices.append(device)
        return device

    async def add_drive(self, setup: DriveSetup, devices: Sequence[DeviceOptions]) -> EmulatedDrive:
        """Starts a drive, and its controllers, which have the numbers 1, 2, ….

        Raises:
            ConfigError, NativeError: as EmulatedDrive.start and Device.start.
        """
        reactor = devices[0].reactor
        home = self.placement.choose() if reactor is None else reactor
        drive: EmulatedDrive
        if isinstance(setup, SsdSetup):
            drive = ssd = EmulatedSsd(self.runtime, setup, home)
            self.listeners.append(ssd.on_event)
        else:
            drive = EmulatedDrive(self.runtime, setup, home)
        await drive.start()
        self.drives.append(drive)
        serial = devices[0].serial or drive.serial or serial_of_socket(devices[0].socket)
        for number, options in enumerate(devices, 1):
            each = replace(drive.dress(options), number=number, serial=serial)
            device = Device(self.runtime, each, self.placement, drive)
            await device.start()
            self.devices.append(device)
        return drive

    async def add_target(
        self, options: TargetOptions, with_disks_of: Device | None = None
    ) -> FabricTarget:
        """Starts a target, whose only subsystem may have the namespaces of a device.

        Raises:
            ConfigError, NativeError: as FabricTarget.start.
        """
        reactor = self.placement.choose() if options.reactor is None else options.reactor
        disks = with_disks_of.disks() if with_disks_of else []
        shared = {nsid: namespace for nsid, _, namespace in disks}
        target = FabricTarget(self.runtime, options, reactor=reactor, shared=shared)
        await target.start()
        self.targets.append(target)
        return target

    async def remove_device(self, device: Device) -> None:
        """Stops a device before the others. Safe to repeat."""
        await device.stop()
        if device in self.devices:
            self.devices.remove(device)

    async def stop(self) -> None:
        for target in reversed(self.targets):
            await target.stop()
        for device in reversed(self.devices):
            await device.stop()
        for drive in reversed(self.drives):
            await drive.stop()

    def name_of(self, event: Event) -> str | None:
        """Whom an event concerns, for the log."""
        if any(target.id == event.controller for target in self.targets):
            return "target"
        if event.controller in self.names:
            return self.names[event.controller]
        socket = (device.socket for device in self.devices if device.id == event.controller)
        return next((str(path) for path in socket), None)


@asynccontextmanager
async def services(
    runtime_options: RuntimeOptions | None = None, *, log_level: int = logging.INFO
) -> AsyncIterator[Services]:
    """A runtime to add devices and targets to. What happens to them is logged, from `log_level` on.

    Raises:
        NativeError: the reactors could not be started.
    """
    try:
        with Runtime(runtime_options) as runtime:
            async with asyncio.TaskGroup() as group:
                running = Services(runtime)
                helpers = [
                    group.create_task(_watch(running, log_level)),
                    group.create_task(keep_mirrors(runtime, running.listeners)),
                    group.create_task(running.placement.run(running.devices)),
                ]
                try:
                    yield running
                finally:
                    helpers.pop().cancel()  # nothing moves any more
                    await running.stop()
                    for helper in helpers:
                        helper.cancel()
    except BaseExceptionGroup as errors:
        # The group wraps the caller's own exception too: give it back as it was.
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from None
        raise


@asynccontextmanager
async def serving(
    devices: Sequence[DeviceOptions],
    runtime_options: RuntimeOptions | None = None,
    *,
    log_level: int = logging.INFO,
) -> AsyncIterator[list[Device]]:
    """Starts the devices in order; stops them in reverse order.

    Raises:
        ConfigError, NativeError: as Device.start; those that had been started are stopped again.
    """
    async with services(runtime_options, log_level=log_level) as running:
        for options in devices:
            await running.add_device(options)
        yield list(running.devices)


async def _watch(running: Services, log_level: int) -> None:
    bound = LineBound(HOST_LINES_MAX)
    async for event in running.runtime.events():
        for listener in running.listeners:
            listener(event)
        if event.type in HOST_EVENTS:
            goes, held = bound.admit(time.monotonic())
            if held:
                _log.warning("target: %d more hosts came, went or were refused", held)
            if not goes:
                continue
        level, sentence = sentence_of(event)
        if level < log_level and not _log.isEnabledFor(logging.DEBUG):
            continue
        name = running.name_of(event)
        _log.log(level, "%s%s", f"{name}: " if name else "", sentence)
