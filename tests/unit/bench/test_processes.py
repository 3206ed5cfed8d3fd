"""Processes of a benchmark: their readiness, their failures, and that none is left."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from vhostnvme.bench.machine import Disturbance, describe, watch
from vhostnvme.bench.processes import daemon, output_of, process_cpu_s
from vhostnvme.errors import PeerError

READY_THEN_SLEEP = "import os, time; os.write({ready_fd}, b'x'); time.sleep(60)"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_daemon_is_gone_after_its_context(tmp_path: Path) -> None:
    async def run() -> int:
        words = [sys.executable, "-c", READY_THEN_SLEEP]
        async with daemon(words, what="it", log=tmp_path / "log") as pid:
            assert alive(pid)
            assert process_cpu_s(pid) >= 0
        return pid

    assert not alive(asyncio.run(run()))


def test_a_daemon_is_gone_when_its_context_is_cancelled(tmp_path: Path) -> None:
    pids: list[int] = []

    async def hold() -> None:
        # It does not listen to SIGTERM, so that only the kill ends it.
        code = "import signal; signal.signal(15, signal.SIG_IGN); " + READY_THEN_SLEEP
        async with daemon([sys.executable, "-c", code], what="it", log=tmp_path / "log") as pid:
            pids.append(pid)
            await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.create_task(hold())
        while not pids:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.05)
        task.cancel()  # impatience must not leave it behind either
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert not alive(pids[0])


def test_a_daemon_may_say_that_it_is_ready_by_a_file(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"

    async def run() -> None:
        code = f"import time; open({str(pidfile)!r}, 'w'); time.sleep(60)"
        words = [sys.executable, "-c", code]
        async with daemon(words, what="it", log=tmp_path / "log", ready=pidfile):
            assert pidfile.exists()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([sys.executable, "-c", "import sys; sys.exit('no such disk')"], "no such disk"),
        (["/nonexistent/program"], "could not be started"),
    ],
)
def test_a_daemon_that_fails_says_why(words: list[str], sentence: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with daemon(words, what="it", log=tmp_path / "log"):
            raise AssertionError("it is ready?")

    with pytest.raises(PeerError, match=sentence):
        asyncio.run(run())


def test_output_comes_with_the_cpu_time_it_took() -> None:
    words = [sys.executable, "-c", "sum(range(3_000_000)); print('done')"]
    out, cpu = asyncio.run(output_of(words, what="it", timeout_s=60))
    assert out == "done\n"
    assert cpu > 0


def test_a_program_that_fails_or_hangs_is_an_error() -> None:
    with pytest.raises(PeerError, match="no disk"):
        asyncio.run(output_of([sys.executable, "-c", "exit('no disk')"], what="it", timeout_s=60))
    with pytest.raises(PeerError, match="did not end"):
        asyncio.run(output_of(["sleep", "60"], what="it", timeout_s=0.1))


def test_the_machine_is_described(tmp_path: Path) -> None:
    machine = describe({"disk": tmp_path, "ram": Path("/proc")})
    assert machine["cores"] == len(os.sched_getaffinity(0))
    file_systems = machine["file_systems"]
    assert isinstance(file_systems, dict)
    assert file_systems["ram"] == "proc"
    assert {"cpu", "memory_bytes", "kernel", "system", "versions"} <= set(machine)


def test_a_disturbance_is_never_negative() -> None:
    notes: dict[str, Disturbance] = {}
    with watch(notes, "host"):
        sum(range(100_000))
    assert notes["host"].others_cores >= 0
    assert notes["host"].stolen_cores >= 0
