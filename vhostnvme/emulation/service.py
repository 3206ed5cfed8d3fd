"""`vhostnvme serve` itself: one device until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vhostnvme.control.paths import control_path
from vhostnvme.control.server import ControlServer
from vhostnvme.emulation import control
from vhostnvme.emulation.device import Device, DeviceOptions
from vhostnvme.emulation.server import serving
from vhostnvme.errors import ConfigError
from vhostnvme.guest.qemu import shared_memory
from vhostnvme.native import RuntimeOptions
from vhostnvme.units import format_size

_log = logging.getLogger(__name__)

_EXAMPLE_MEMORY = "1G"


@dataclass(frozen=True, slots=True)
class Announcement:
    """How the world learns that the socket takes connections."""

    as_json: bool = False
    ready_fd: int | None = None


async def serve(
    options: DeviceOptions, runtime_options: RuntimeOptions, announcement: Announcement
) -> None:
    """Serves until the first signal, then ends in order; a second signal ends at once.

    Raises:
        ConfigError, NativeError: the device could not be started, or the ready descriptor is none.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            options.socket.unlink(missing_ok=True)
            control_path(options.socket).unlink(missing_ok=True)
            os._exit(1)
        stop.set()

    _check_ready_fd(announcement)
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # the terminal has gone, and nobody said nohup
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        async with serving([options], runtime_options) as (device,), _controlled(device):
            _announce(device, announcement)
            await stop.wait()
            _log.info("ending")
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _controlled(device: Device) -> AsyncIterator[None]:
    """The control socket, for as long as it lasts; a device does its work without one as well."""
    server = ControlServer(control_path(device.socket))
    control.register(server, device)
    try:
        await server.start()
    except ConfigError as error:
        _log.warning("%s: `vhostnvme status` and `limit` will not find this server", error)
    try:
        yield
    finally:
        await server.stop()


def description(device: Device) -> dict[str, object]:
    """What `--json` prints of a running device."""
    return {
        "socket": str(device.socket),
        "qemu_args": device.qemu_arguments(),
        "qemu_memory_args": _memory_arguments(),
        "namespaces": [
            {
                "nsid": namespace.nsid,
                "uuid": str(namespace.uuid),
                "size": namespace.size,
                "block_size": namespace.block_size,
                "spec": namespace.spec,
            }
            for namespace in device.namespaces()
        ],
    }


def _announce(device: Device, announcement: Announcement) -> None:
    text = json.dumps(description(device)) if announcement.as_json else _for_people(device)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    if announcement.ready_fd is not None:
        os.write(announcement.ready_fd, b"ready\n")
        os.close(announcement.ready_fd)


def _memory_arguments() -> list[str]:
    return [*shared_memory(_EXAMPLE_MEMORY), "-machine", "memory-backend=mem"]


def _for_people(device: Device) -> str:
    lines = [f"listening on {device.socket}"]
    lines += [
        f"  namespace {namespace.nsid}: {format_size(namespace.size)}, blocks of"
        f" {namespace.block_size} bytes, {namespace.spec}"
        for namespace in device.namespaces()
    ]
    lines += [
        f"QEMU options for it (memory of {_EXAMPLE_MEMORY} as an example; it must be shared):",
        "  " + shlex.join(_memory_arguments()),
        "  " + shlex.join(device.qemu_arguments()),
    ]
    return "\n".join(lines)


def _check_ready_fd(announcement: Announcement) -> None:
    if announcement.ready_fd is not None:
        try:
            os.fstat(announcement.ready_fd)
        except OSError:
            raise ConfigError(
                f"--ready-fd: {announcement.ready_fd} is no open descriptor"
            ) from None
