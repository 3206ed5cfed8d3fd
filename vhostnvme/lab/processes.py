"""The processes of a lab: started in namespaces, found again by number and time of start, ended.

Each has a mark of the lab in its environment, so that it is found also when its maker was killed
before it could write down the number.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from vhostnvme.errors import LabError
from vhostnvme.lab import namespaces

MARK = "VHOSTNVME_LAB_HOST"  # in the environment: the lab and the host's name
POLITE_S = 5.0
KILLED_S = 5.0
_STEP_S = 0.02
_children: set[int] = set()  # started by this process, and not known to have ended
_IGNORED_BY_PYTHON = [signal.SIGPIPE, signal.SIGXFSZ]


class Process(msgspec.Struct, frozen=True):
    """A process for all time: its number, and when it started, in clock ticks since the boot."""

    pid: int
    started: int


def command_in(namespace: str, words: Sequence[str]) -> list[str]:
    """The command line that runs these words in a network namespace; its number stays the same."""
    return ["nsenter", f"--net={namespaces.FOLDER / namespace}", "--", *words]


def start(
    words: Sequence[str], namespace: str, environment: Mapping[str, str], log: Path
) -> Process:
    """Starts a command in a namespace and a session of its own; what it says goes to the log's end.

    Raises:
        LabError: it cannot be started.
    """
    command = command_in(namespace, words)
    appended = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        pid = os.posix_spawnp(
            command[0],
            command,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, appended, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=_IGNORED_BY_PYTHON,
        )
    except OSError as error:
        raise LabError(f"cannot start '{' '.join(words)}': {error.strerror}") from None
    _children.add(pid)
    return process_of(pid)


def process_of(pid: int) -> Process:
    """The process that has this number now.

    Raises:
        ProcessLookupError: there is none.
    """
    return Process(pid, _fields(pid)[1])


def state_of(process: Process) -> str:
    """`running`, `frozen` or `ended`."""
    try:
        letter, started = _fields(process.pid)
    except ProcessLookupError:
        return "ended"
    if started != process.started:
        return "ended"
    if letter in "ZX":
        if _has_threads(process.pid):
            return "running"  # its files and ports are open still
        _reap(process.pid)
        return "ended"
    return "frozen" if letter in "Tt" else "running"


def _has_threads(pid: int) -> bool:
    """Whether other threads than the first have not ended: a killed process goes one by one."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except OSError:
        return False


def _reap(pid: int) -> None:
    """Takes notice of the end of a child of our own; any other has somebody else who does."""
    if pid in _children:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        _children.discard(pid)


def send(process: Process, number: signal.Signals) -> bool:
    """Sends a signal to this process and no other; False when it has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The descriptor stands for whoever has the number now; who that is does not change.
        if state_of(process) == "ended":
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def wait_ended(processes: Collection[Process], timeout_s: float) -> list[Process]:
    """Those that still live after so many seconds; returns when none does."""
    deadline = time.monotonic() + timeout_s
    while True:
        living = [process for process in processes if state_of(process) != "ended"]
        if not living or time.monotonic() > deadline:
            return living
        time.sleep(_STEP_S)


def end(find: Callable[[], Collection[Process]], polite_s: float = POLITE_S) -> None:
    """Ends the processes that `find` returns, and those that it finds then: politely at first, if
    `polite_s` is not 0.

    Raises:
        LabError: some live on.
    """
    found = set(find())
    if polite_s > 0:
        for process in found:
            send(process, signal.SIGTERM)
            send(process, signal.SIGCONT)
        wait_ended(found, polite_s)
    deadline = time.monotonic() + KILLED_S
    while found := set(find()):
        if time.monotonic() > deadline:
            numbers = ", ".join(str(process.pid) for process in found)
            raise LabError(f"these processes of the lab do not end, not even killed: {numbers}")
        for process in found:
            send(process, signal.SIGKILL)
        wait_ended(found, _STEP_S * 10)


def mark_of(lab: str, host: str) -> str:
    """The value of MARK in what was started on this host."""
    return f"{lab}:{host}"


def find_marked(lab: str, accept: Callable[[str], bool]) -> list[Process]:
    """All that were started on hosts of this lab whose names are accepted, and their children."""
    start = f"{MARK}={mark_of(lab, '')}".encode()

    def is_marked(pid: int) -> bool:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found = (variable for variable in variables if variable.startswith(start))
        return any(accept(variable.removeprefix(start).decode()) for variable in found)

    return list(_find(is_marked))


def find_in_namespaces(names: Sequence[str]) -> list[Process]:
    """All whose network is one of these namespaces."""
    inodes = {inode for name in names if (inode := namespaces.inode(name)) is not None}

    def is_in(pid: int) -> bool:
        status = Path(f"/proc/{pid}/ns/net").stat()
        return (status.st_dev, status.st_ino) in inodes

    return list(_find(is_in)) if inodes else []


def own_line() -> set[int]:
    """This process, its parent, and so on."""
    line = set()
    pid = os.getpid()
    while pid > 0 and pid not in line:
        line.add(pid)
        try:
            pid = int(_stat(pid)[1])
        except ProcessLookupError:
            break
    return line


def _find(accept: Callable[[int], bool]) -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        pid = int(entry.name)
        try:
            if accept(pid):
                letter, started = _fields(pid)
                if letter not in "ZX":
                    yield Process(pid, started)
        except OSError:
            continue  # it has ended meanwhile, or is the kernel's


def _fields(pid: int) -> tuple[str, int]:
    """Its state, a letter, and when it started: proc_pid_stat(5), fields 3 and 22."""
    fields = _stat(pid)
    return fields[0], int(fields[19])


def _stat(pid: int) -> list[str]:
    """The fields behind its name, which may hold anything.

    Raises:
        ProcessLookupError: there is none of this number.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"there is no process {pid}") from None
    return text.rpartition(")")[2].split()
