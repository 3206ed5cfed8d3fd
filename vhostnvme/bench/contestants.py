"""Who takes part in a comparison: disks of one guest, each on a file of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vhostnvme.native import Doorbells

# Files that are written once from end to end: reads of holes would measure nothing.
DISK_BYTES = 256 << 20
CHUNK_BYTES = 4 << 20

OURS = "vhostnvme"
OURS_MAPPED = "vhostnvme mapped"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A disk of the guest.

    `qemu` are QEMU's words for it with {drive} for the drive's name and {serial} for the serial
    number, by which the guest finds the disk; none for our own, which come over a socket.
    """

    name: str
    qemu: tuple[str, ...] = ()
    needs_iothread: bool = False
    doorbells: Doorbells = Doorbells.AUTO

    @property
    def is_ours(self) -> bool:
        return not self.qemu


CONTESTANTS = (
    Contestant(OURS),
    Contestant(OURS_MAPPED, doorbells=Doorbells.MAPPED),
    Contestant("qemu nvme", ("nvme,drive={drive},serial={serial},ioeventfd=off",)),
    Contestant("qemu nvme ioeventfd", ("nvme,drive={drive},serial={serial},ioeventfd=on",)),
    Contestant("virtio-blk", ("virtio-blk-pci,drive={drive},serial={serial}",)),
    Contestant(
        "virtio-blk iothread",
        ("virtio-blk-pci,drive={drive},serial={serial},iothread={drive}io",),
        needs_iothread=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Disk:
    """One contestant on one kind of file. `serial` is what the guest sees."""

    contestant: Contestant
    backing: str
    path: Path
    serial: str

    def qemu_arguments(self) -> list[str]:
        """QEMU's words for a disk of its own; [] for ours."""
        if self.contestant.is_ours:
            return []
        drive = self.serial.lower()
        words = ["-object", f"iothread,id={drive}io"] if self.contestant.needs_iothread else []
        # Without the page cache and with io_uring, as our own server does it.
        words += [
            "-drive",
            f"id={drive},file={self.path},if=none,format=raw,cache=none,aio=io_uring",
        ]
        for device in self.contestant.qemu:
            words += ["-device", device.format(drive=drive, serial=self.serial)]
        return words


def make_disks(folders: dict[str, Path], names: list[str] | None = None) -> list[Disk]:
    """A filled file for each contestant in each folder; `folders` maps a backing's name to it."""
    disks = []
    for backing, folder in folders.items():
        for index, contestant in enumerate(CONTESTANTS):
            if names is None or contestant.name in names:
                path = folder / f"disk{index}.img"
                fill(path)
                disks.append(Disk(contestant, backing, path, f"{backing[:3].upper()}{index}"))
    return disks


def fill(path: Path) -> None:
    """Writes DISK_BYTES of data that does not compress, durably."""
    with path.open("wb") as file:
        for _ in range(DISK_BYTES // CHUNK_BYTES):
            file.write(os.urandom(CHUNK_BYTES))
        file.flush()
        os.fsync(file.fileno())
