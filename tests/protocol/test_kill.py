"""Promise 3: kill -9 of the server loses and tears no write that was acknowledged.

The oracle is this process (tests_stamps.py). VHOSTNVME_KILL_CYCLES sets the number of kills.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests_mortal import END_S, script_server
from tests_protocol import BLOCK, dice
from tests_stamps import Command, Load, Oracle, stamped

from vhostnvme.errors import NativeError, PeerError
from vhostnvme.testing import Completion, NvmeHost

CYCLES = int(os.environ.get("VHOSTNVME_KILL_CYCLES", "50"))
BLOCKS = 8192  # 4 MiB

SERVER = """
    import sys
    from vhostnvme.native import *
    path, socket, doorbells, direct = sys.argv[1:]
    runtime = Runtime()
    file = NamespaceOptions(backend="file", path=path, direct=direct == "on")
    namespace = Namespace(runtime, file)
    controller = Controller(runtime, ControllerOptions(serial="kill", doorbells=int(doorbells)))
    controller.attach(namespace, 1)
    controller.listen(socket)
    print("ready", flush=True)
    sys.stdin.read()
"""


def server(
    path: Path, socket: Path, doorbells: int, direct: bool
) -> AbstractContextManager[subprocess.Popen[str]]:
    arguments = str(path), str(socket), str(doorbells), "on" if direct else "off"
    return script_server(SERVER, *arguments)


def cycle(path: Path, socket: Path, oracle: Oracle, rng: random.Random, mapped: bool) -> None:
    dead = threading.Event()
    with server(path, socket, 1 if mapped else 2, rng.random() < 0.7) as process:
        host = NvmeHost.connect(socket, memory_bytes=8 << 20)

        def kill() -> None:
            process.kill()
            process.wait(END_S)
            dead.set()

        timer = threading.Timer(rng.uniform(0.005, 0.12), kill)
        timer.start()
        with host, contextlib.suppress(PeerError, NativeError):
            load = Load(host, oracle, rng)
            load.start()
            load.run(dead.is_set)  # what it has acknowledged when it is dead counts
        timer.join()
        assert dead.is_set()


@pytest.mark.timeout(60 + 2 * CYCLES)
def test_kill_9_loses_no_acknowledged_write(tmp_path: Path, sockets: Path) -> None:
    rng = dice("test_kill_9_loses_no_acknowledged_write")
    path, socket = tmp_path / "disk", sockets / "kill"
    with path.open("wb") as file:
        file.truncate(BLOCKS * BLOCK)
    oracle = Oracle(BLOCKS)
    started = time.monotonic()
    for number in range(CYCLES):
        cycle(path, socket, oracle, rng, mapped=bool(number % 3))
        oracle.check(path.read_bytes())
    with server(path, socket, 1, True), NvmeHost.connect(socket) as host:  # as a guest sees it
        host.enable()
        queue = host.create_queue_pair()
        content = b"".join(queue.read(lba, 1024) for lba in range(0, BLOCKS, 1024))
        oracle.check(content)
    took = time.monotonic() - started
    print(f"{CYCLES} kills, {oracle.total} acknowledged writes, {took:.1f} s")  # noqa: T201
    assert oracle.total > CYCLES, "hardly anything was written"


def test_the_oracle_finds_what_is_lost_and_what_is_torn() -> None:
    good = [stamped(lba, 5) for lba in range(BLOCKS)]
    oracle = Oracle(BLOCKS, acknowledged=[5] * BLOCKS)
    oracle.check(b"".join(good))
    wrong = {
        "generation 4": stamped(7, 4),
        "generation 0": bytes(BLOCK),
        "torn": stamped(7, 6)[:256] + stamped(7, 5)[256:],
        "written to 8": stamped(8, 5),
    }
    for what, block in wrong.items():
        with pytest.raises(AssertionError, match=what):
            oracle.check(b"".join([*good[:7], block, *good[8:]]))
    oracle.begin((1, 1), Command(range(6, 9), 6, None))
    oracle.check(b"".join([*good[:7], stamped(7, 6), *good[8:]]))
    assert oracle.acknowledged[6:9] == [5, 6, 5]


def test_the_oracle_finds_a_failed_write_behind_a_newer_one() -> None:
    old, failed, newer = (b"".join(stamped(lba, each) for lba in range(4)) for each in (5, 6, 7))
    oracle = Oracle(4, acknowledged=[5] * 4, failed={lba: {6} for lba in range(4)})
    oracle.check(old)
    oracle.check(failed)
    oracle.check(old)  # also after it has been seen
    oracle.begin((1, 1), Command(range(4), 7, None))
    oracle.done(1, Completion(0, 0, 1, 1, 0))
    oracle.check(newer)
    with pytest.raises(AssertionError, match="holds generation 6"):
        oracle.check(failed)
