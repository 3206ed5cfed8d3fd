"""What the guest tests share: a guest on devices of this process, used without `await`.

One thread owns an event loop, the devices and the guest, for as long as a GuestRig lives; tests
call it from theirs. So one boot serves many tests, whatever they do in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vhostnvme.emulation import Device, DeviceOptions
from vhostnvme.emulation.drive import DriveSetup
from vhostnvme.emulation.server import services
from vhostnvme.guest.vm import CommandResult, Guest
from vhostnvme.native import NamespaceInfo
from vhostnvme.storage.spec import parse_spec

T = TypeVar("T")

BOOT_TIMEOUT_S = 240.0
CALL_TIMEOUT_S = 600.0
# VHOSTNVME_LONG=1: seven times the data and more queue depths, for some minutes more.
LONG = os.environ.get("VHOSTNVME_LONG", "") not in ("", "0")
# What the guest's kernel says when a controller has let it down.
COMPLAINTS = (
    "timeout",
    "timed out",
    "resetting controller",
    "Abort status",
    "controller is down",
    "Device not ready",
    "I/O error",
    "invalid id",
    "duplicate",
    "WARNING:",
    "BUG:",
    "Oops",
    "nvme_log_error",
    "failed",
)
_LOGGER = "vhostnvme.emulation.server"


class GuestRig:
    """A guest with one controller for each name in `disks`; its values are the namespaces' SPECs.

    The name is the controller's serial number in the guest, too. `sockets` are devices that are
    served by someone else. Each of `drives` has one controller or several, of that serial number.
    `boot_log` is what the kernel had said when the guest was up; `services` take more devices and
    targets, on the rig's thread.
    """

    def __init__(
        self,
        disks: Mapping[str, Sequence[str]],
        *,
        sockets: Sequence[Path] = (),
        drives: Mapping[str, DriveSetup] | None = None,
        **guest_options: Any,
    ) -> None:
        self._disks = disks
        self._drives = drives or {}
        self._sockets = list(sockets)
        self._guest_options = {"boot_timeout": BOOT_TIMEOUT_S, "network": False, **guest_options}
        self._log = _SentenceLog()
        self._started: threading.Event = threading.Event()
        self._failures: list[BaseException] = []
        self._devices: dict[str, Device] = {}
        self._thread = threading.Thread(target=self._main, name="guest-rig")
        self._thread.start()
        self._started.wait()
        if self._failures:
            self._thread.join()
            raise self._failures[0]
        self.boot_log = self.kernel_log()

    def _main(self) -> None:
        try:
            with self._log.attached():
                asyncio.run(self._live())
        except BaseException as error:
            self._failures.append(error)
        finally:
            self._started.set()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        with tempfile.TemporaryDirectory(prefix="vn-") as folder:
            options = [
                DeviceOptions(
                    socket=Path(folder) / name / "cntrl",
                    namespaces=tuple(parse_spec(spec) for spec in specs),
                    serial=name,
                )
                for name, specs in self._disks.items()
            ]
            async with services() as self.services:
                for each in options:
                    self._devices[each.serial or ""] = await self.services.add_device(each)
                for name, setup in self._drives.items():
                    numbers = range(1, setup.controllers + 1)
                    sockets = [Path(folder) / f"{name}-{number}" / "cntrl" for number in numbers]
                    await self.services.add_drive(
                        setup,
                        [
                            DeviceOptions(socket=socket, namespaces=(), serial=name, number=number)
                            for number, socket in zip(numbers, sockets, strict=True)
                        ],
                    )
                devices = self.services.devices
                self._sockets = [*(device.socket for device in devices), *self._sockets]
                self.guest = Guest(disks=self._sockets, **self._guest_options)
                await self.guest.start()
                try:
                    self._started.set()
                    await self._stop.wait()
                    if self.guest.running:
                        await self.guest.powerdown()
                finally:
                    await self.guest.close()

    def new_guest(self) -> None:
        """Ends the guest as it is, without asking it, and boots another on the same devices."""

        async def replace() -> None:
            await self.guest.close()
            self.guest = Guest(disks=self._sockets, **self._guest_options)
            await self.guest.start()

        self.wait(replace())

    def close(self) -> None:
        """Powers the guest off and ends the devices.

        Raises:
            What ended them before, if something did.
        """
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._failures:
            raise self._failures[0]

    def __enter__(self) -> GuestRig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the guest ----------------------------------------------------------------------------

    def wait(self, work: Coroutine[Any, Any, T], timeout: float = CALL_TIMEOUT_S) -> T:
        """Runs a coroutine, of `guest` for example, on the rig's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def call(self, work: Callable[[], T]) -> T:
        """Calls a function on the rig's thread: the C library's handles belong to it."""

        async def called() -> T:
            return work()

        return self.wait(called())

    def run(self, command: str, timeout: float = 90.0, *, check: bool = True) -> CommandResult:
        """Runs a shell command as root; one that fails is the test's failure."""
        result = self.wait(self.guest.run(command, timeout=timeout))
        if check and result.exit_code != 0:
            said = f"{result.stdout}\n{result.stderr}"[-4000:]
            raise AssertionError(f"{command!r} ended with {result.exit_code}:\n{said}")
        return result

    def output(self, command: str, timeout: float = 90.0) -> str:
        """What a command writes to its standard output, without the last line's end."""
        return self.run(command, timeout).stdout.rstrip("\n")

    def json(self, command: str) -> Any:
        """What a command writes, as JSON."""
        text = self.run(command).stdout
        try:
            return json.loads(text)
        except ValueError:
            raise AssertionError(f"{command!r} wrote no JSON: {text[:500]}") from None

    def start(self, command: str) -> Callable[[], None]:
        """Starts a command and does not wait; what is returned ends it and waits for its end."""

        async def start() -> asyncio.Task[CommandResult]:
            return asyncio.create_task(self.guest.run(command, timeout=CALL_TIMEOUT_S))

        task = self.wait(start())

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        return lambda: self.wait(end())

    # -- the devices --------------------------------------------------------------------------

    def device(self, disk: str) -> Device:
        return self._devices[disk]

    def info(self, disk: str, nsid: int = 1) -> NamespaceInfo:
        """The namespace's counters, as the host sees them."""
        return self.call(self._devices[disk].namespace_infos)[nsid - 1]

    def controllers(self, drive: str) -> list[str]:
        """All controllers of a drive in the guest, by their numbers (CNTLID)."""
        script = (
            "for n in /sys/class/nvme/nvme*; do read -r s <$n/serial;"
            f' [ "$s" = {drive} ] && read -r id <$n/cntlid && echo $id /dev/${{n##*/}}; done'
        )
        found = [line.split() for line in self.output(script).splitlines()]
        return [name for _, name in sorted((int(number), name) for number, name in found)]

    def controller(self, disk: str) -> str:
        """The controller in the guest: /dev/nvme0. Waits until it is there."""
        script = (
            "for i in $(seq 100); do for n in /sys/class/nvme/nvme*; do"
            f' read -r s <$n/serial && [ "$s" = {disk} ] && echo /dev/${{n##*/}} && exit;'
            " done 2>/dev/null; usleep 100000; done; exit 1"
        )
        return self.output(script)

    def node(self, disk: str, nsid: int = 1) -> str:
        """The block device in the guest: /dev/nvme0n1. Waits until it is there.

        Linux numbers the namespaces of a controller as it happens to find them, so the number in
        the name is not the namespace's id. One that several controllers have is one device: its
        ways there, as nvme0c1n1, are none.
        """
        controller = self.controller(disk).removeprefix("/dev/")
        script = (
            f"for i in $(seq 100); do for n in /sys/class/nvme/{controller}/nvme*n*; do"
            f' [ -e $n/nsid ] && read -r id <$n/nsid && [ "$id" = {nsid} ] &&'
            " n=${n##*/} && case $n in *c*n*) n=${n%%c*}n${n##*n};; esac;"
            " [ -b /dev/$n ] && echo /dev/$n && exit;"
            " done; usleep 100000; done; exit 1"
        )
        return self.output(script)

    def sysfs(self, disk: str, nsid: int = 1) -> str:
        return self.node(disk, nsid).replace("/dev", "/sys/block")

    # -- what was said ------------------------------------------------------------------------

    @property
    def sentences(self) -> list[str]:
        """What the devices have logged, each line with its device's name in front."""
        return self._log.sentences()

    def wait_sentence(self, disk: str, part: str, timeout: float = 20.0) -> str:
        """Waits until the device has logged a sentence with this in it."""
        deadline = time.monotonic() + timeout
        while True:
            for sentence in self.sentences:
                if f"/{disk}/" in sentence and part in sentence:
                    return sentence
            assert time.monotonic() < deadline, f"{disk}: nothing like {part!r} in {self.sentences}"
            time.sleep(0.05)

    def kernel_log(self) -> list[str]:
        return self.output("dmesg").splitlines()

    @contextlib.contextmanager
    def quiet_kernel(self, *allowed: str) -> Iterator[None]:
        """Fails when the guest's kernel complains of a disk meanwhile."""
        mark = f"test mark {time.monotonic_ns()}"
        self.run(f"echo '{mark}' >/dev/kmsg")
        yield
        lines = self.kernel_log()
        marks = [index for index, line in enumerate(lines) if mark in line]
        assert complaints(lines[marks[0] if marks else 0 :], *allowed) == []


class _SentenceLog(logging.Handler):
    """Keeps what the devices' watcher logs."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def sentences(self) -> list[str]:
        return list(self._lines)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        logger = logging.getLogger(_LOGGER)
        before = logger.level
        logger.addHandler(self)
        logger.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(before)


def complaints(lines: Sequence[str], *allowed: str) -> list[str]:
    """The lines of a kernel's log that tell of trouble with a disk or in the kernel."""
    return [
        line
        for line in lines
        if any(word in line for word in COMPLAINTS)
        and ("nvme" in line or "BUG" in line or "WARNING:" in line or "Oops" in line)
        and "Command line" not in line
        and "command line" not in line
        and not any(word in line for word in allowed)
    ]


def fio_verify(
    node: str, *, megabytes: int, depth: int, name: str = "verify", more: str = ""
) -> str:
    """A fio command: four jobs, each in its own region, blocks of 512 bytes to 1 MiB, all checked.

    Args:
        megabytes: of each job.
    """
    mix = "512/20:1536/10:4k/25:12k/10:64k/15:68k/5:256k/10:1m/5"
    words = [
        f"fio --name={name} --filename={node} --rw=randwrite --bssplit={mix} --bs_unaligned=0",
        f"--size={megabytes}M --offset_increment={megabytes}M --numjobs=4 --thread",
        f"--iodepth={depth} --ioengine=libaio --direct=1 --randrepeat=0 --group_reporting",
        "--verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=json",
    ]
    return " ".join([*words, more])


def verified_bytes(output: str) -> int:
    """How much a fio command of `fio_verify` has read back; no job may have failed."""
    assert "{" in output, f"fio wrote no JSON: {output}"
    report = json.loads(output[output.index("{") :])
    assert report["jobs"], output
    assert [job["error"] for job in report["jobs"]] == [0] * len(report["jobs"])
    return sum(job["read"]["io_bytes"] for job in report["jobs"])


def boot_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vhostnvme", "boot", *arguments]


def boot(
    *arguments: str,
    timeout: float = 300.0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`vhostnvme boot` in a process of its own."""
    return subprocess.run(
        boot_command(*arguments),
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class FullDiskServer:
    """`vhostnvme serve` on a file in a small file system of its own, which can be filled up.

    The file system is a tmpfs in a mount namespace, so that nobody needs to be root.
    """

    def __init__(self, folder: Path, *, filesystem: str = "48m", disk: str = "64M") -> None:
        self.socket = folder / "full" / "cntrl"
        self._log = folder / "full.log"
        mount_point = folder / "small"
        mount_point.mkdir()
        script = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'
        serve = [
            sys.executable, "-m", "vhostnvme", "serve", "--socket", str(self.socket),
            "--namespace", f"file:{mount_point}/disk.img?size={disk}", "--serial", "FULL",
        ]  # fmt: skip
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "-rm", "sh", "-c", script, "sh", filesystem, str(mount_point), *serve],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        # Seen through the process, because the mount is only there.
        self.mount_point = Path(f"/proc/{self.process.pid}/root{mount_point}")
        deadline = time.monotonic() + 20
        while not self.socket.exists():
            assert self.process.poll() is None, f"it did not start: {self.log}"
            assert time.monotonic() < deadline, f"it does not listen: {self.log}"
            time.sleep(0.02)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def fill(self) -> None:
        """Takes all the space that is left."""
        with (self.mount_point / "ballast").open("wb", buffering=0) as ballast:
            with contextlib.suppress(OSError):
                while True:
                    ballast.write(bytes(1 << 20))
            with contextlib.suppress(OSError):
                while True:
                    ballast.write(bytes(4096))

    def free(self) -> None:
        (self.mount_point / "ballast").unlink()

    def close(self) -> None:
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
