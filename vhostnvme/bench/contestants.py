"""Who takes part in the guest: disks of one VM, each on a file of its own."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from vhostnvme.bench.samples import OURS
from vhostnvme.guest.provision import tool_of_cache
from vhostnvme.native import Doorbells

# Files that are written once from end to end: reads of holes would measure nothing.
DISK_BYTES = 256 << 20
CHUNK_BYTES = 4 << 20
# QEMU gives a virtio disk a queue for each processor of the guest; so does this.
VHOST_QUEUES = 2
STORAGE_DAEMON = "qemu-storage-daemon"
# vhost-user-blk has no serial number: the guest finds these by their place on the PCI bus.
VHOST_SLOT_FIRST = 0x10


@dataclass(frozen=True, slots=True)
class Contestant:
    """A disk of the guest.

    `qemu` are QEMU's words for it with {drive} for the drive's name and {serial} for the serial
    number, by which the guest finds the disk; none for our own, which come over a socket.
    `in_daemon`: a qemu-storage-daemon serves it over vhost-user. `by_default` is for what is
    measured when nobody names contestants.
    """

    name: str
    qemu: tuple[str, ...] = ()
    needs_iothread: bool = False
    in_daemon: bool = False
    doorbells: Doorbells = Doorbells.AUTO
    by_default: bool = True

    @property
    def is_ours(self) -> bool:
        return not self.qemu and not self.in_daemon


CONTESTANTS = (
    Contestant(OURS),
    # Its server must look at the doorbells even when others are measured: only when asked for.
    Contestant(f"{OURS} mapped", doorbells=Doorbells.MAPPED, by_default=False),
    Contestant("qemu nvme", ("nvme,drive={drive},serial={serial},ioeventfd=off",)),
    Contestant("qemu nvme ioeventfd", ("nvme,drive={drive},serial={serial},ioeventfd=on",)),
    Contestant("virtio-blk", ("virtio-blk-pci,drive={drive},serial={serial}",)),
    Contestant(
        "virtio-blk iothread",
        ("virtio-blk-pci,drive={drive},serial={serial},iothread={drive}io",),
        needs_iothread=True,
    ),
    Contestant("vhost-user-blk", in_daemon=True),
)


@dataclass(frozen=True, slots=True)
class Disk:
    """One contestant on one kind of file. `serial` is what the guest sees, but of vhost-user."""

    contestant: Contestant
    backing: str
    path: Path
    serial: str
    slot: int = 0

    @property
    def socket(self) -> Path:
        """Where a server of it listens, ours or the storage daemon."""
        return self.path.parent / self.serial / "cntrl"

    @property
    def pci_address(self) -> str | None:
        """The place on the PCI bus, where the serial number does not tell."""
        return f"0000:00:{self.slot:02x}.0" if self.contestant.in_daemon else None

    def qemu_arguments(self) -> list[str]:
        """QEMU's words for a disk of its own, or of the storage daemon; [] for ours."""
        if self.contestant.is_ours:
            return []
        drive = self.serial.lower()
        if self.contestant.in_daemon:
            return [
                *("-chardev", f"socket,id={drive},path={self.socket}"),
                "-device",
                f"vhost-user-blk-pci,chardev={drive},num-queues={VHOST_QUEUES},addr={self.slot:#x}",
            ]
        words = ["-object", f"iothread,id={drive}io"] if self.contestant.needs_iothread else []
        # Without the page cache and with io_uring, as our own server does it.
        words += [
            "-drive",
            f"id={drive},file={self.path},if=none,format=raw,cache=none,aio=io_uring",
        ]
        for device in self.contestant.qemu:
            words += ["-device", device.format(drive=drive, serial=self.serial)]
        return words

    def daemon_arguments(self) -> list[str]:
        """The storage daemon's words, after its name: the same file access, in an I/O thread."""
        return [
            *("--object", "iothread,id=io"),
            "--blockdev",
            f"driver=file,node-name=disk,filename={self.path},cache.direct=on,aio=io_uring",
            "--export",
            "type=vhost-user-blk,id=export,node-name=disk,writable=on,iothread=io"
            f",num-queues={VHOST_QUEUES},addr.type=unix,addr.path={self.socket}",
            *("--pidfile", str(self.pidfile)),
        ]

    @property
    def pidfile(self) -> Path:
        """Appears when the storage daemon takes connections."""
        return self.socket.with_name("pid")


def storage_daemon() -> list[str] | None:
    """How to start qemu-storage-daemon: the one that came with our QEMU, or the host's."""
    if found := tool_of_cache(STORAGE_DAEMON):
        return found
    path = shutil.which(STORAGE_DAEMON)
    return [path] if path else None


def make_disks(folders: dict[str, Path], names: list[str] | None = None) -> list[Disk]:
    """A filled file for each contestant in each folder; `folders` maps a backing's name to it."""
    disks = []
    slot = VHOST_SLOT_FIRST
    for backing, folder in folders.items():
        for index, contestant in enumerate(CONTESTANTS):
            if contestant.by_default if names is None else contestant.name in names:
                path = folder / f"disk{index}.img"
                fill(path)
                disks.append(Disk(contestant, backing, path, f"{backing[:3].upper()}{index}", slot))
                slot += contestant.in_daemon
    return disks


def fill(path: Path) -> None:
    """Writes DISK_BYTES of data that does not compress, durably."""
    chunk = os.urandom(CHUNK_BYTES)
    with path.open("wb") as file:
        for _ in range(DISK_BYTES // CHUNK_BYTES):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
