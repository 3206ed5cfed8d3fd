"""Booted guests for tests: `guest` (without our disks) and `rig` (on many of them) serve many tests
each; those that need another start their own."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests_guest import FullDiskServer, GuestRig

from vhostnvme.emulation.ssd import SsdSetup
from vhostnvme.guest.provision import Artifacts, provision
from vhostnvme.guest.vm import Guest
from vhostnvme.storage.ssd_folder import SsdSpec

HERE = Path(__file__).parent
SCRATCH_BYTES = 512 << 20
DISK_BYTES = 320 << 20
DRIVE_BYTES = 64 << 20


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.guest)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(400))


def scratch_nvme(path: Path, name: str = "scratch") -> list[str]:
    """QEMU's own NVMe device on a file: the words that attach it."""
    return [
        *("-drive", f"if=none,id={name},format=raw,file={path}"),
        *("-device", f"nvme,drive={name},serial={name}"),
    ]


@pytest.fixture(scope="session")
def artifacts() -> Artifacts:
    """QEMU, kernel and initramfs."""
    return provision()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def guest(
    artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Guest]:
    """A guest with one disk of QEMU's own, for tests that leave it as they found it.

    Tests that use it run in its event loop: @pytest.mark.asyncio(loop_scope="session").
    """
    path = tmp_path_factory.mktemp("scratch") / "disk.img"
    with path.open("wb") as disk:
        disk.truncate(SCRATCH_BYTES)
    async with Guest(artifacts=artifacts, extra_args=scratch_nvme(path)) as booted:
        yield booted


@pytest.fixture(scope="session")
def disk_folder() -> Iterator[Path]:
    """Where the disks' files are: a real file system, on which holes and O_DIRECT work."""
    with tempfile.TemporaryDirectory(prefix="vn-", dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def full_disk(disk_folder: Path) -> Iterator[FullDiskServer]:
    """A disk, in a process of its own, whose file system can be filled up."""
    server = FullDiskServer(disk_folder)
    yield server
    server.close()


@pytest.fixture(scope="session")
def rig(disk_folder: Path, full_disk: FullDiskServer) -> Iterator[GuestRig]:
    """The guest that the tests share. Each leaves the disks working, their contents unknown."""
    disks = {
        "FILE": [f"file:{disk_folder}/file.img?size={DISK_BYTES}"],
        "FILE4K": [f"file:{disk_folder}/file4k.img?size={DISK_BYTES}&block=4096"],
        "MEM": ["mem:192M"],
        "THREE": [
            "mem:64M",
            "mem:32M?block=4096",
            f"file:{disk_folder}/third.img?size=48M&record={disk_folder}/third.log",
        ],
        "FAIL": [
            "mem:64M?error=100%&error-ops=write",
            "mem:64M",
            "mem:64M?error=100%&error-ops=read&error-after=400",
        ],
        "NULL": ["null:1T"],
    }
    # Debian's kernel lets nobody map a driver's registers, as `nvme show-regs` does, but for this.
    kernel_args = ["iomem=relaxed"]
    with GuestRig(disks, sockets=[full_disk.socket], kernel_args=kernel_args) as running:
        yield running


@pytest.fixture(scope="session")
def cli(disk_folder: Path) -> Iterator[GuestRig]:
    """The guest of nvme-cli's tests: FULL for commands, FORMAT for formats, ADMIN for
    what concerns a whole drive, DRIVE for namespaces.

    DRIVE has two controllers and one namespace, over its whole capacity, that both have.
    """
    disks = {
        "FULL": ["mem:64M", f"file:{disk_folder}/full2.img?size=64M"],
        "FORMAT": ["mem:64M"],
        "ADMIN": ["mem:64M"],
    }
    ssd = SsdSpec(folder=disk_folder / "drive", capacity=DRIVE_BYTES)
    drives = {"DRIVE": SsdSetup(ssd=ssd, controllers=2)}
    with GuestRig(disks, drives=drives, kernel_args=["iomem=relaxed"]) as running:
        yield running


@pytest.fixture(scope="session")
def networked() -> Iterator[GuestRig]:
    """A guest without disks and with a network: the Linux kernel's NVMe/TCP host."""
    with GuestRig({}, network=True) as running:
        yield running
