"""Where the control socket of a server is."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from vhostnvme.errors import ConfigError

CARD_VARIABLE = "VHOSTNVME_CARD"
SOCKET_NAME = "cntrl"  # the vfio-user socket, by the name that other hosts expect
CONTROL_NAME = "control"
PATH_BYTES_MAX = 107  # sockaddr_un.sun_path less its closing zero
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")


def control_path(device: Path) -> Path:
    """Beside the vfio-user socket: DIR/control for DIR/cntrl, NAME.control for any other NAME."""
    name = CONTROL_NAME if device.name == SOCKET_NAME else f"{device.name}.{CONTROL_NAME}"
    return device.with_name(name)


def run_folder() -> Path:
    """Where servers without a vfio-user socket have their control sockets."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / "vhostnvme"


def make_run_folder() -> None:
    """Makes it; raises as `make_folder`."""
    make_folder(run_folder())


def make_folder(folder: Path) -> None:
    """Makes a folder, for its owner alone, if there is none.

    Raises:
        ConfigError: it cannot be made.
    """
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


def find_card(given: str | None) -> Path:
    """The control socket of a card, by its name, or by the path of the socket or its folder.

    Args:
        given: None: as VHOSTNVME_CARD says, else the only card that runs in the run folder.

    Raises:
        ConfigError: there is none, or more than one.
    """
    given = given or os.environ.get(CARD_VARIABLE) or None
    if given is None:
        return _only_card()
    if "/" in given:
        path = Path(given)
        return path / CONTROL_NAME if path.is_dir() else path
    path = run_folder() / given / CONTROL_NAME
    if not path.is_socket():
        raise ConfigError(
            f"no card {given!r} runs here: there is no {path}; for one with another run_dir write"
            " the path of its control socket"
        )
    return path


def _only_card() -> Path:
    found = sorted(path for path in run_folder().glob(f"*/{CONTROL_NAME}") if path.is_socket())
    if len(found) > 1:
        found = [path for path in found if _is_answered(path)]  # a killed one leaves its socket
    if not found:
        raise ConfigError(
            f"no card runs here ({run_folder()} has none): start one with `vhostnvme card run"
            " CARD.toml`, or name its control socket with --card"
        )
    if len(found) > 1:
        names = ", ".join(path.parent.name for path in found)
        raise ConfigError(f"several cards run here ({names}): say which one, with --card NAME")
    return found[0]


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fsencode(path))
        except OSError:
            return False
    return True
