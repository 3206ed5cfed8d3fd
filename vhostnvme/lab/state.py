"""What is written down of a lab, before it is made, and the lock that whoever changes it holds."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

import msgspec

from vhostnvme.closable import Closable
from vhostnvme.errors import ConfigError, LabError
from vhostnvme.lab.names import Host, is_store
from vhostnvme.lab.plan import Layout
from vhostnvme.lab.processes import Process

VERSION = 1
STATE_BYTES_MAX = 1 << 20
LOCK_S = 30.0
_STEP_S = 0.05


class LabState(msgspec.Struct, frozen=True):
    """A lab: its hosts, and what runs on them.

    `boot` names the machine's uptime in which it was made; after another start nothing of it runs.
    `complete`: all was there once. `made_directory`: the folder itself is ours as well.
    `commands` are the command lines of the hosts' processes, by the hosts' names. `devices`: see
    LabPlan.
    """

    version: int
    boot: str
    made_directory: bool
    store: str
    store_uri: str
    ssds: int
    hosts: list[Host]
    commands: dict[str, list[str]]
    complete: bool = False
    processes: dict[str, Process] = {}
    devices: dict[str, list[str]] = {}

    def cards(self) -> list[Host]:
        return [host for host in self.hosts if not is_store(host.name)]

    def stores(self) -> list[Host]:
        return [host for host in self.hosts if is_store(host.name)]


def boot_name() -> str:
    """Another one after each start of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def load(layout: Layout) -> LabState | None:
    """None: no lab is in the folder, or what is written cannot be read, as after a crash."""
    try:
        with layout.state.open("rb") as file:
            data = file.read(STATE_BYTES_MAX)
        state = msgspec.json.decode(data, type=LabState)
    except (OSError, msgspec.MsgspecError):
        return None
    return state if state.version == VERSION else None


def save(layout: Layout, state: LabState) -> None:
    """Replaces what is written, in one piece.

    Raises:
        LabError: the folder cannot be written to.
    """
    try:
        _write(layout.state, state)
    except OSError as error:
        raise LabError(f"cannot write {layout.state}: {error.strerror}") from None


def make_directory(layout: Layout, state: LabState) -> None:
    """Makes the lab's folder with `state` in it, at once, or writes it into an empty one.

    Raises:
        ConfigError: the folder holds something else, or cannot be made.
    """
    directory = layout.directory
    try:
        if directory.exists():
            if any(directory.iterdir()):
                raise ConfigError(f"{directory} is not empty, and no lab: give another --dir")
            _write(layout.state, state)
            return
        directory.parent.mkdir(parents=True, exist_ok=True)
        unfinished = _unfinished(layout)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        _write(unfinished / layout.state.name, state)
        unfinished.rename(directory)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {directory}: {error.strerror}") from None


def remove_directory(layout: Layout, made: bool) -> None:
    """Removes what is written and, when it was `made` by us, the folder, if nothing else is in it.

    Raises:
        LabError: the state cannot be removed.
    """
    shutil.rmtree(_unfinished(layout), ignore_errors=True)
    for path in (layout.state, _new(layout.state)):
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            pass
        except OSError as error:
            raise LabError(f"cannot remove {path}: {error.strerror}") from None
    if made:
        try:
            layout.directory.rmdir()
        except OSError:
            pass


def _unfinished(layout: Layout) -> Path:
    return layout.directory.with_name(f".{layout.directory.name}.{layout.lab}")


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _write(path: Path, state: LabState) -> None:
    new = _new(path)
    new.write_bytes(msgspec.json.encode(state))
    new.rename(path)


class Lock(Closable):
    """Held from the start on; whoever changes the lab has it.

    A child that has not executed its program yet has it too: whoever gets the lock after a kill -9
    of its holder sees all that the holder has started.

    Raises:
        LabError: another process has had it for `timeout_s`.
    """

    def __init__(self, path: Path, timeout_s: float = LOCK_S) -> None:
        self._path = path
        self._descriptor = -1
        deadline = time.monotonic() + timeout_s
        while not self._try():
            if time.monotonic() > deadline:
                raise LabError(
                    f"another `vhostnvme lab` is at work on this lab: wait for it (it has {path})"
                )
            time.sleep(_STEP_S)

    def _try(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it before has removed it: then it is no lock any more.
            if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                self._descriptor, descriptor = descriptor, -1
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return False

    def close(self) -> None:
        """Lets it go and leaves no file behind; whoever waits makes one of its own."""
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1
