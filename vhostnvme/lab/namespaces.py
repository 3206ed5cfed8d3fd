"""Network namespaces with names, as `ip netns` keeps them: make, find, remove, act inside."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pyroute2 import netns
from pyroute2.netlink.exceptions import NetlinkError

from vhostnvme.errors import LabError

FOLDER = Path("/run/netns")
TIMEOUT_S = 10.0

T = TypeVar("T")


def create(name: str) -> None:
    """Makes one; nothing is in it, not even a loopback device that works.

    Raises:
        LabError: there is one of this name, or this user or machine cannot have any.
    """
    try:
        netns.create(name)
    except FileExistsError:
        raise LabError(f"there is a network namespace {name} already") from None
    except (OSError, RuntimeError) as error:
        raise LabError(f"cannot make the network namespace {name}: {_reason(error)}") from None


def find(prefix: str) -> list[str]:
    """Those whose names begin so, also half-made ones."""
    try:
        return sorted(path.name for path in FOLDER.iterdir() if path.name.startswith(prefix))
    except FileNotFoundError:
        return []


def remove(name: str) -> None:
    """Takes its name away; it goes with the last process in it. None of this name is no mistake.

    Raises:
        LabError: it cannot be removed.
    """
    try:
        netns.remove(name)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LabError(f"cannot remove the network namespace {name}: {_reason(error)}") from None


def inode(name: str) -> tuple[int, int] | None:
    """What /proc/PID/ns/net of the processes in it has as device and inode; None: half-made."""
    try:
        status = (FOLDER / name).stat()
        outside = FOLDER.stat()
    except OSError:
        return None
    # Nothing is mounted on the file: then it is an ordinary one, of the folder's file system.
    return None if status.st_dev == outside.st_dev else (status.st_dev, status.st_ino)


def inside(name: str, function: Callable[[], T]) -> T:
    """What `function` returns, called by a thread of its own that is in the namespace.

    Sockets that it opens stay there. It has to be bounded in time itself.

    Raises:
        LabError: there is no such namespace, or netlink has refused.
        Exception: what the function raises.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            _enter(name)
            results.append(function())
        except NetlinkError as error:
            errors.append(LabError(f"network namespace {name}: {_reason(error)}"))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name=f"in-{name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def connect(name: str, address: str, port: int, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """A TCP connection from within the namespace.

    Raises:
        LabError: there is no such namespace.
        OSError: it cannot be made.
    """
    return inside(name, lambda: socket.create_connection((address, port), timeout_s))


def _enter(name: str) -> None:
    """Moves the calling thread, which is not the main one."""
    try:
        descriptor = os.open(FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LabError(f"network namespace {name}: {error.strerror}") from None
    try:
        netns.setns(descriptor)
    except OSError as error:
        raise LabError(f"cannot enter the network namespace {name}: {_reason(error)}") from None
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """pyroute2 puts the errno into different places."""
    number = getattr(error, "code", None) or getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) else str(error)
