"""Where the control socket of a server is."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vhostnvme.errors import ConfigError

SOCKET_NAME = "cntrl"  # the vfio-user socket, by the name that other hosts expect
CONTROL_NAME = "control"
PATH_BYTES_MAX = 107  # sockaddr_un.sun_path less its closing zero
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")


def control_path(socket: Path) -> Path:
    """Beside the vfio-user socket: DIR/control for DIR/cntrl, NAME.control for any other NAME."""
    name = CONTROL_NAME if socket.name == SOCKET_NAME else f"{socket.name}.{CONTROL_NAME}"
    return socket.with_name(name)


def run_folder() -> Path:
    """Where servers without a vfio-user socket have their control sockets."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / "vhostnvme"


def make_run_folder() -> None:
    """Makes it, for its owner alone.

    Raises:
        ConfigError: it cannot be made.
    """
    folder = run_folder()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder} ({error.strerror})") from None


def target_control_path(address: str) -> Path:
    """Of a server that only listens on `HOST:PORT` and other such addresses, the first of them."""
    return run_folder() / f"tcp-{address}.{CONTROL_NAME}"


def find_control(target: Path) -> Path:
    """The control socket that a folder, a vfio-user socket, HOST:PORT or itself stands for."""
    if target.is_dir():
        return target / CONTROL_NAME
    if target.name == CONTROL_NAME or target.suffix == f".{CONTROL_NAME}":
        return target
    match = _ADDRESS.fullmatch(str(target))
    if match and not target.exists():
        return _find_target(str(target), match[2])
    return control_path(target)


def _find_target(address: str, port: str) -> Path:
    """Also when it listens on all addresses: then the port alone tells, if it can."""
    path = target_control_path(address)
    others = [*run_folder().glob(f"tcp-*:{port}.{CONTROL_NAME}")]
    return others[0] if not path.exists() and len(others) == 1 else path
