"""File systems and block devices for tests of SSDs: images on loop devices. They need root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vhostnvme.storage.ssd import Ssd, SsdOptions, open_ssd

MIB = 1 << 20
GIB = 1 << 30
CARD = "c0000000-0000-4000-8000-000000000001"
OTHER_CARD = "c0000000-0000-4000-8000-000000000002"
FIRST = "1f000000-0000-4000-8000-000000000001"
SECOND = "20000000-0000-4000-8000-000000000002"
THIRD = "30000000-0000-4000-8000-000000000003"
_MAKERS = {
    # As mkfs does for images of 1 GiB, where a block is 4 KiB.
    "ext4": ["mkfs.ext4", "-q", "-b", "4096", "-O", "^metadata_csum_seed"],
    "xfs": ["mkfs.xfs", "-q"],
}
_SIZES = {"ext4": 256 * MIB, "xfs": 320 * MIB}


def run(*command: str | Path) -> str:
    """What a program says, which must succeed."""
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert program is not None, f"{command[0]} is not installed"
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def opened(path: Path, capacity: int | None = None, thin: bool = False, known: str = "") -> Ssd:
    """The SSD there, for CARD."""
    return open_ssd(SsdOptions("ssd0", path, capacity, thin), CARD, known)


def make_image(path: Path, kind: str) -> Path:
    """A sparse file with a new file system."""
    run(*_MAKERS[kind], file_of(path.parent, _SIZES[kind], path.name))
    return path


@contextmanager
def mounted(image: Path, folder: Path, options: str = "loop") -> Iterator[Path]:
    """The image's file system, at a folder which is made."""
    folder.mkdir(exist_ok=True)
    run("mount", "-o", options, image, folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=False, capture_output=True)
        if os.path.ismount(folder):
            run("umount", "-l", folder)


@contextmanager
def file_system(kind: str, folder: Path) -> Iterator[Path]:
    """A new one of a kind (ext4, xfs, tmpfs, ramfs), mounted below `folder`."""
    place = folder / f"{kind}-mount"
    if kind not in _MAKERS:
        place.mkdir()
        run("mount", "-t", kind, "-o", "size=256m", kind, place)
        try:
            yield place
        finally:
            run("umount", place)
    else:
        image = make_image(folder / f"{kind}.img", kind)
        with mounted(image, place):
            yield place


@contextmanager
def loop_device(image: Path) -> Iterator[Path]:
    """A block device of the file."""
    device = Path(run("losetup", "--find", "--show", image))
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextmanager
def block_device(folder: Path, size: int, name: str = "image") -> Iterator[Path]:
    """A block device of zeros."""
    with loop_device(file_of(folder, size, name)) as device:
        yield device


def file_of(folder: Path, size: int, name: str = "image") -> Path:
    """A sparse file."""
    path = folder / name
    with path.open("wb") as file:
        file.truncate(size)
    return path
