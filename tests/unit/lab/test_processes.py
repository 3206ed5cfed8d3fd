"""Processes in namespaces: found again, stopped, ended. Needs root."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostnvme.errors import LabError
from vhostnvme.lab import namespaces, processes
from vhostnvme.lab.processes import MARK, Process, mark_of, state_of

LAB = "testproc"
NAME = f"vhostnvme-{LAB}-a"
# Says that it is there, through a pipe, and takes no notice of SIGTERM.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").close()
time.sleep(600)
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    namespaces.remove(NAME)
    namespaces.create(NAME)
    yield NAME
    processes.end(lambda: processes.find_in_namespaces([NAME]), polite_s=0)
    namespaces.remove(NAME)


def start(namespace: str, folder: Path, *words: str) -> Process:
    environment = {**os.environ, MARK: mark_of(LAB, "a")}
    return processes.start(words, namespace, environment, folder / "log")


def start_stubborn(namespace: str, folder: Path) -> Process:
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    process = start(namespace, folder, sys.executable, "-c", STUBBORN, str(fifo))
    fifo.open().close()
    return process


def test_it_lives_in_the_namespace_and_in_a_session_of_its_own(
    namespace: str, tmp_path: Path
) -> None:
    process = start_stubborn(namespace, tmp_path)
    inside = Path(f"/proc/{process.pid}/ns/net").stat()
    assert (inside.st_dev, inside.st_ino) == namespaces.inode(namespace)
    assert os.getsid(process.pid) == process.pid
    assert state_of(process) == "running"
    assert process in processes.find_in_namespaces([namespace])
    assert process in processes.find_marked(LAB, lambda host: host == "a")
    assert processes.find_marked(LAB, lambda host: host == "b") == []
    assert processes.find_marked("another", lambda _: True) == []


def test_frozen_and_thawed(namespace: str, tmp_path: Path) -> None:
    process = start_stubborn(namespace, tmp_path)
    assert processes.send(process, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert state_of(process) == "frozen"
    assert processes.send(process, signal.SIGCONT)
    os.waitid(os.P_PID, process.pid, os.WCONTINUED)
    assert state_of(process) == "running"


def test_whoever_takes_no_notice_is_killed(namespace: str, tmp_path: Path) -> None:
    process = start_stubborn(namespace, tmp_path)
    processes.send(process, signal.SIGSTOP)
    processes.end(lambda: processes.find_in_namespaces([namespace]), polite_s=0.1)
    assert state_of(process) == "ended"
    assert processes.find_marked(LAB, lambda _: True) == []


def test_what_it_says_is_in_the_log(namespace: str, tmp_path: Path) -> None:
    process = start(namespace, tmp_path, "sh", "-c", "echo out; echo err >&2")
    assert processes.wait_ended([process], 10) == []
    assert (tmp_path / "log").read_text() == "out\nerr\n"
    again = start(namespace, tmp_path, "echo", "again")
    assert processes.wait_ended([again], 10) == []
    assert (tmp_path / "log").read_text() == "out\nerr\nagain\n"


def test_another_process_of_the_same_number_is_not_touched() -> None:
    me = processes.process_of(os.getpid())
    assert state_of(me) == "running"
    other = Process(me.pid, me.started - 1)
    assert state_of(other) == "ended"
    assert not processes.send(other, signal.SIGKILL)


def test_a_folder_that_is_not_there(namespace: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot start 'true': No such file"):
        start(namespace, tmp_path / "none", "true")


def test_own_line_goes_up_to_the_first_process() -> None:
    line = processes.own_line()
    assert {os.getpid(), os.getppid(), 1} <= line
