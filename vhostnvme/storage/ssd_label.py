"""The label of an SSD that is a directory: a file, locked while a card has the SSD."""

from __future__ import annotations

import errno
import fcntl
import os

import msgspec

from vhostnvme.errors import ConfigError
from vhostnvme.storage.file_system import open_direct, read_direct
from vhostnvme.storage.ssd_base import Label

LABEL_NAME = ".vhostnvme-ssd.json"
_BYTES_MAX = 4096


def open_label(folder: int, place: str) -> int:
    """A descriptor of it, which has the lock; the file is made when it is not there.

    Args:
        folder: a descriptor of the directory.
        place: the SSD, for messages.

    Raises:
        ConfigError: it cannot be written, or somebody has it.
        OSError: it cannot be locked.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(LABEL_NAME, flags, 0o600, dir_fd=folder)
    except OSError as error:
        raise ConfigError(f"cannot write to {place}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise ConfigError(in_use(place)) from None
    return fd


def in_use(place: str) -> str:
    """The sentence on an SSD that somebody has."""
    return (
        f"{place} is in use by another card, or by this one under another name: stop that one, or"
        " name another place"
    )


def read_label(fd: int, place: str) -> Label | None:
    """None: it is new, or the power failed before it was written.

    Raises:
        ConfigError: it cannot be read.
    """
    data = os.pread(fd, _BYTES_MAX, 0)
    if not data.strip(b"\0"):
        return None
    try:
        return msgspec.json.decode(data, type=Label)
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"{place} has a label that cannot be read, {LABEL_NAME} ({error}): put back a copy of"
            " it, or name another directory"
        ) from None


def write_label(fd: int, folder: int, label: Label) -> None:
    """Durable on return."""
    os.pwrite(fd, msgspec.json.encode(label) + b"\n", 0)
    os.fsync(fd)
    os.fsync(folder)


def try_label(folder: int) -> bool:
    """Reads it from the medium, past the page cache where that goes. False: it is empty.

    Opened to write: a file system that has turned read-only after errors is told as well, which
    ext4 tells by nothing else.

    Raises:
        OSError: the medium or its file system has failed.
    """
    fd = open_direct(LABEL_NAME, os.O_RDWR | os.O_NOFOLLOW, folder)
    try:
        return bool(read_direct(fd, _BYTES_MAX, 0))
    finally:
        os.close(fd)
