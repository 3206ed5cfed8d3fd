"""Writes the kernel's initramfs format (cpio "newc"), all owned by root, without being root.

Format: Documentation/driver-api/early-userspace/buffer-format.rst in the Linux source.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO


class CpioWriter:
    """Appends entries to a stream; close() writes the trailer."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._inode = 0
        self._names: set[str] = set()

    def _entry(self, name: str, mode: int, data: bytes, rdev: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (
            self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(path), 0,
        )  # fmt: skip
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._stream.write(_padded(header + path))
        self._stream.write(_padded(data))

    def _parents(self, name: str) -> None:
        for parent in reversed(Path(name).parents):
            if str(parent) not in (".", "") and str(parent) not in self._names:
                self.directory(str(parent))

    def has(self, name: str) -> bool:
        return name in self._names

    def _claim(self, name: str) -> None:
        self._parents(name)
        self._names.add(name)

    def directory(self, name: str, mode: int = 0o755) -> None:
        if name not in self._names:
            self._claim(name)
            self._entry(name, stat.S_IFDIR | mode, b"")

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._claim(name)
        self._entry(name, stat.S_IFREG | mode, data)

    def symlink(self, name: str, target: str) -> None:
        self._claim(name)
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """A character device."""
        self._claim(name)
        self._entry(name, stat.S_IFCHR | mode, b"", (major, minor))

    def tree(self, folder: Path, below: str = "") -> None:
        """A folder of the host with its files and links; of two files the later one stays."""
        for path in sorted(folder.rglob("*")):
            name = f"{below}/{path.relative_to(folder)}".lstrip("/")
            if path.is_symlink():
                self.symlink(name, str(path.readlink()))
            elif path.is_dir():
                self.directory(name)
            elif path.is_file():
                self.file(name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o111 else 0o644)

    def close(self) -> None:
        self._inode = -1
        self._entry("TRAILER!!!", 0, b"")


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
