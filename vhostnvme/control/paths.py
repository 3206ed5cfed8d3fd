"""Where the control socket of a device is."""

from __future__ import annotations

from pathlib import Path

SOCKET_NAME = "cntrl"  # the vfio-user socket, by the name that other hosts expect
CONTROL_NAME = "control"
PATH_BYTES_MAX = 107  # sockaddr_un.sun_path less its closing zero


def control_path(socket: Path) -> Path:
    """Beside the vfio-user socket: DIR/control for DIR/cntrl, NAME.control for any other NAME."""
    name = CONTROL_NAME if socket.name == SOCKET_NAME else f"{socket.name}.{CONTROL_NAME}"
    return socket.with_name(name)


def find_control(target: Path) -> Path:
    """The control socket that a folder, a vfio-user socket or the thing itself stands for."""
    if target.is_dir():
        return target / CONTROL_NAME
    if target.name == CONTROL_NAME or target.suffix == f".{CONTROL_NAME}":
        return target
    return control_path(target)
