"""`vhostnvme boot`: a server in this process, a guest on it, and one command or a console.

Everything made for it is undone when it ends, however it ends: QEMU dies with this process, and the
folder with the sockets and the scratch disk is removed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vhostnvme.emulation.console import attach_console
from vhostnvme.emulation.device import Device, DeviceOptions
from vhostnvme.emulation.drive import DriveSetup
from vhostnvme.emulation.server import services
from vhostnvme.emulation.sockets import SOCKET_PATH_BYTES_MAX
from vhostnvme.emulation.ssd_opening import SsdSetup
from vhostnvme.errors import ConfigError, GuestError
from vhostnvme.guest.accel import Accel, choose_accel
from vhostnvme.guest.debian import say
from vhostnvme.guest.extras import GuestFolder, extended
from vhostnvme.guest.provision import Artifacts, provision
from vhostnvme.guest.vm import BOOT_TIMEOUT_S, Guest
from vhostnvme.personas import Persona
from vhostnvme.storage.spec import DiskSpec, FileSpec
from vhostnvme.storage.ssd_folder import SsdSpec

SCRATCH_BYTES = 1 << 30
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootOptions:
    """What to boot. Each of `disks` is a drive with its namespaces, each of `ssds` one in a folder;
    none of both: a scratch disk. Each drive has `paths` controllers, and looks like
    `persona`.

    `folders` and `packages` (Debian's) are in the guest beside what the image has.
    """

    disks: tuple[tuple[DiskSpec, ...], ...] = ()
    ssds: tuple[SsdSpec, ...] = ()
    paths: int = 1
    persona: Persona | None = None
    memory: str = "1G"
    cpus: int = 2
    scratch_block_size: int = 512
    folders: tuple[GuestFolder, ...] = ()
    packages: tuple[str, ...] = ()


@dataclass(slots=True)
class BootReport:
    """What `--json` writes; filled in as far as the boot came."""

    accel: str = ""
    accel_reason: str = ""
    boot_seconds: float | None = None
    run_seconds: float | None = None
    command: str | None = None
    exit_code: int | None = None
    error: str | None = None
    disks: list[dict[str, object]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """
        Raises:
            ConfigError: the file cannot be written.
        """
        text = json.dumps({name: getattr(self, name) for name in self.__slots__}, indent=2)
        try:
            path.write_text(text + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Booted:
    """A guest that is up, and the devices that it sees."""

    guest: Guest
    devices: list[Device]


def boot(
    options: BootOptions,
    *,
    command: str | None = None,
    timeout_s: float | None = None,
    report_path: Path | None = None,
) -> int:
    """Boots, runs `command` in the guest or a console on this terminal, and ends.

    Args:
        timeout_s: how long boot and command together may take.
        report_path: where to write a BootReport.

    Returns:
        The command's exit code; 0 after a console.

    Raises:
        ConfigError, NativeError, ProvisionError, GuestError: as the parts do.
    """
    report = BootReport(command=command)
    unwind_on_signals()
    if report_path is not None:
        report.write(report_path)  # a path that cannot be written fails now, not after the boot
    try:
        artifacts = provision()
        accel = choose_accel(artifacts.qemu, artifacts.kernel)
        report.accel, report.accel_reason = accel.name, accel.reason
        report.exit_code = asyncio.run(
            _boot(options, artifacts, accel, report, command, timeout_s), debug=False
        )
    except (asyncio.CancelledError, KeyboardInterrupt):
        report.error, report.exit_code = "ended by a signal", 1
        raise KeyboardInterrupt from None
    except BaseException as error:
        report.error = str(error) or type(error).__name__
        report.exit_code = 1
        raise
    finally:
        if report_path is not None:
            report.write(report_path)
    return report.exit_code


def unwind_on_signals() -> None:
    """SIGTERM, and a terminal that goes away, are answered as Ctrl-C is: by unwinding.

    Also in the background of a shell script, which ignores SIGINT; nohup's wish is respected.
    """
    for number in ENDING_SIGNALS:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


@asynccontextmanager
async def booted(
    options: BootOptions,
    artifacts: Artifacts | None = None,
    accel: Accel | None = None,
    boot_timeout_s: float = BOOT_TIMEOUT_S,
) -> AsyncIterator[Booted]:
    """The devices and the guest, for as long as the context lasts."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vhostnvme-")))
        if len(os.fsencode(folder / "99" / "cntrl")) > SOCKET_PATH_BYTES_MAX:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="vhostnvme-", dir="/tmp"))
            )
        disks = options.disks
        if not disks and not options.ssds:
            scratch = stack.enter_context(_scratch_folder())
            disks = ((scratch_spec(Path(scratch) / "scratch.img", options.scratch_block_size),),)
        setups: list[DriveSetup] = [
            DriveSetup(namespaces=specs, controllers=options.paths, persona=options.persona)
            for specs in disks
        ]
        setups += [
            SsdSetup(ssd=each, controllers=options.paths, persona=options.persona)
            for each in options.ssds
        ]
        if options.folders or options.packages:
            artifacts = extended(
                artifacts or provision(),
                Path(stack.enter_context(_scratch_folder())),
                folders=options.folders,
                packages=options.packages,
            )
        async with services(log_level=logging.WARNING) as running:
            for index, setup in enumerate(setups):
                await running.add_drive(setup, _controllers(folder, index, setup))
            async with Guest(
                disks=[device.socket for device in running.devices],
                memory=options.memory,
                cpus=options.cpus,
                boot_timeout=boot_timeout_s,
                artifacts=artifacts,
                accel=accel,
            ) as guest:
                yield Booted(guest, list(running.devices))


def _controllers(folder: Path, index: int, setup: DriveSetup) -> list[DeviceOptions]:
    serial = None if isinstance(setup, SsdSetup) else f"DISK{index}"
    names = [f"{index}.{path}" if path else f"{index}" for path in range(setup.controllers)]
    return [
        DeviceOptions(socket=folder / name / "cntrl", namespaces=(), serial=serial, grows=True)
        for name in names
    ]


def scratch_folder() -> Path:
    """Where large temporary files go: $TMPDIR, else /var/tmp, which is seldom held in memory."""
    if os.environ.get("TMPDIR"):
        return Path(tempfile.gettempdir())
    var_tmp = Path("/var/tmp")
    return var_tmp if os.access(var_tmp, os.W_OK) else Path(tempfile.gettempdir())


def _scratch_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vhostnvme-", dir=scratch_folder())


def scratch_spec(path: Path, block_size: int = 512) -> FileSpec:
    """A sparse file of SCRATCH_BYTES."""
    return FileSpec(path=str(path), size=SCRATCH_BYTES, create=True, block_size=block_size)


async def _boot(
    options: BootOptions,
    artifacts: Artifacts,
    accel: Accel,
    report: BootReport,
    command: str | None,
    timeout_s: float | None,
) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    say(f"booting a guest on {accel.name} ({accel.reason})")
    try:
        async with (
            asyncio.timeout(timeout_s) as limit,
            booted(options, artifacts, accel, max(BOOT_TIMEOUT_S, timeout_s or 0)) as up,
        ):
            report.boot_seconds = round(up.guest.boot_seconds, 3)
            report.disks = [_disk(device) for device in up.devices]
            say(f"the guest is up after {up.guest.boot_seconds:.1f} s")
            started = time.monotonic()
            try:
                if command is None:
                    return await attach_console(up.guest)
                return await up.guest.stream(command, _pass_on)
            finally:
                report.run_seconds = round(time.monotonic() - started, 3)
                limit.reschedule(None)  # powering off has a bound of its own
    except TimeoutError:
        raise GuestError(
            f"The guest was not done within {timeout_s:g} s and was ended; allow it more --timeout"
        ) from None


def _disk(device: Device) -> dict[str, object]:
    return {
        "serial": device.serial,
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


def _pass_on(stream: str, data: bytes) -> None:
    out = sys.stdout.buffer if stream == "stdout" else sys.stderr.buffer
    out.write(data)
    out.flush()
