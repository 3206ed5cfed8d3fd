"""Small files that a person names, and that may be nobody else's business."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vhostnvme.errors import ConfigError


def read_small(
    path: str | Path, bytes_max: int, *, secret: bool, what: str = "", holds: str = ""
) -> bytes:
    """All that is in a file.

    Args:
        secret: nobody else may be able to read or change it.
        what: it is called in messages; "": its path.
        holds: what it should hold, for the message when it is too long.

    Raises:
        ConfigError: it cannot be read, is none, too long, or not secret enough.
    """
    what = what or f"{path}"
    try:
        # Not to wait for a pipe's writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"cannot read {what}: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"cannot read {what}: it is not a file")
        if secret and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"{what} may be read or changed by others: chmod 600 {path}")
        if secret and status.st_uid not in (os.geteuid(), 0):
            raise ConfigError(f"{what} belongs to another user: chown it")
        data = os.read(fd, bytes_max + 1)
    finally:
        os.close(fd)
    if len(data) > bytes_max:
        raise ConfigError(f"{path} is too long for {holds or 'what it should hold'}")
    return data
