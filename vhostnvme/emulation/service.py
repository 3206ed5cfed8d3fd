"""`vhostnvme serve` itself: a drive, a target, or both, until SIGINT or SIGTERM."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vhostnvme.control.paths import control_path, make_run_folder, target_control_path
from vhostnvme.control.server import ControlServer
from vhostnvme.emulation import control
from vhostnvme.emulation.announcement import Announcement, Served
from vhostnvme.emulation.device import DeviceOptions
from vhostnvme.emulation.drive import DriveSetup
from vhostnvme.emulation.server import Services, services
from vhostnvme.emulation.signals import stopped_by_signals
from vhostnvme.errors import ConfigError
from vhostnvme.fabric.options import TargetOptions
from vhostnvme.native import RuntimeOptions

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Controllers of a drive, a target, or both, which then have the same namespaces.

    `control` is the path of the control socket; None: beside the first controller's, or in the run
    folder.
    """

    devices: tuple[DeviceOptions, ...] = ()
    drive: DriveSetup = field(default_factory=DriveSetup)
    target: TargetOptions | None = None
    control: Path | None = None


async def serve(
    options: ServeOptions, runtime_options: RuntimeOptions, announcement: Announcement
) -> None:
    """Serves until the first signal, then ends in order; a second signal ends at once.

    Raises:
        ConfigError, NativeError: something could not be started, or the ready descriptor is none.
    """
    sockets: list[Path] = []

    def leave_none() -> None:
        for path in sockets:
            path.unlink(missing_ok=True)

    announcement.check()
    with stopped_by_signals(leave_none) as stop:
        async with services(runtime_options) as running:
            served = await _start(running, options)
            sockets += [device.socket for device in served.devices]
            async with _controlled(served, options.control) as path:
                sockets.append(path)
                announcement.make(served, path)
                await stop.wait()
                _log.info("ending")


async def _start(running: Services, options: ServeOptions) -> Served:
    drive = await running.add_drive(options.drive, options.devices) if options.devices else None
    device = running.devices[0] if drive else None
    target = await running.add_target(options.target, device) if options.target else None
    for subsystem in options.target.subsystems if options.target else ():
        if not subsystem.any_host and not subsystem.hosts:
            _log.warning(
                "nobody may connect to %s: allow a host with --allow-host NQN (its NQN is in its"
                " /etc/nvme/hostnqn), or everybody with --allow-any-host",
                subsystem.nqn,
            )
    return Served(tuple(running.devices), target, drive)


@asynccontextmanager
async def _controlled(served: Served, wanted: Path | None) -> AsyncIterator[Path]:
    """The control socket, for as long as it lasts; the work is done without one as well."""
    path = wanted or _default_path(served)
    server = ControlServer(path.absolute())
    control.register(server, served.drive, served.target)
    try:
        if wanted is None and served.device is None:
            make_run_folder()
        await server.start()
    except ConfigError as error:
        _log.warning("%s: `vhostnvme status` and `limit` will not find this server", error)
    try:
        yield path
    finally:
        await server.stop()


def _default_path(served: Served) -> Path:
    if served.device is not None:
        return control_path(served.device.socket)
    assert served.target is not None, "a server serves something"
    return target_control_path(str(served.target.listeners[0].address))
