"""The sockets of devices: where they may be, and the serial number that follows from that."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from vhostnvme.errors import ConfigError

SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path less its closing zero


def serial_of_socket(path: Path) -> str:
    """A serial number that stays the same for this path."""
    return "VN" + hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16].upper()


def check_socket_path(path: Path) -> None:
    """Refuses what can be no vfio-user socket, before anything is opened.

    Raises:
        ConfigError: the path is too long, is a folder or some other file.
    """
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"socket path {path} is {length} bytes long, and the system takes"
            f" {SOCKET_PATH_BYTES_MAX}: choose a shorter folder, such as one in /tmp"
        )
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, PermissionError):
        return
    except NotADirectoryError:
        raise ConfigError(f"socket path {path}: {path.parent} is not a folder") from None
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"socket path {path} is taken by something that is no socket")


def make_folder(folder: Path) -> None:
    """The folder of a socket, for its owner alone; its parent must be there.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise ConfigError(f"folder {folder.parent} does not exist: make it first") from None
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from None
