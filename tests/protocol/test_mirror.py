"""Mirrors in a real server: killed under load, with legs that fail, hang, return, are replaced.

A host that knows what each block may hold (tests_stamps.py) sees no error and nothing older than
what was acknowledged; and in the end both legs are the same, by hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
from tests_fabric import free_port
from tests_protocol import BLOCK, dice, until
from tests_stamps import Fault, Load, Oracle
from tests_storage import file_system, run

from vhostnvme.errors import NativeError, PeerError
from vhostnvme.testing import NvmeHost
from vhostnvme.testing.server import ServerProcess

KILLS = int(os.environ.get("VHOSTNVME_MIRROR_KILLS", "10"))
BLOCKS = 8192  # 4 MiB
PAUSE_S_MAX = 5.0  # of a guest, when a leg fails; 2 s of them are the leg's timeout
QUIET_S = 40.0  # a leg has come back, and the bitmap has been cleared
SUBNQN = "nqn.2026-11.io.vhostnvme:leg"


class Pair:
    """The files of a mirror with two legs, and what the outside can see of it."""

    def __init__(self, folder: Path, more: Sequence[str] = ("", "")) -> None:
        self.folder = folder
        self.legs = [folder / f"leg{number}" for number in range(2)]
        size = f"size={BLOCKS * BLOCK}"
        self.specs = [
            f"file:{path}?{size}{other}" for path, other in zip(self.legs, more, strict=True)
        ]
        self.bitmap = folder / "bits"

    def spec(self, **options: object) -> str:
        legs = "&".join(f"leg={quote(spec, safe=':/?=')}" for spec in self.specs)
        others = "".join(f"&{name.replace('_', '-')}={value}" for name, value in options.items())
        return f"mirror:?{legs}&bitmap={self.bitmap}{others}"

    def standings(self) -> list[str]:
        record = json.loads(self.bitmap.with_name("bits.legs").read_text())
        return [leg["standing"] for leg in record["legs"]]

    def is_quiet(self) -> bool:
        """All legs count, and the bitmap says that they are the same."""
        clean = not any(self.bitmap.read_bytes()[4096:])
        return clean and self.standings() == ["in-sync"] * 2

    def check_same(self) -> None:
        first, second = (hashlib.sha256(path.read_bytes()).digest() for path in self.legs)
        assert first == second, "the legs differ"


def loaded(
    load: Load, fault: Callable[[], None], seconds_after: float, *, longest: float = 30.0
) -> float:
    """Loads the disk while `fault` happens on a thread; the longest time without a completion."""
    happening = Fault(fault, 0.2, seconds_after)
    last, pause, total = time.monotonic(), 0.0, load.oracle.total

    def over() -> bool:
        nonlocal last, pause, total
        now = time.monotonic()
        if load.oracle.total != total:
            last, total = now, load.oracle.total
        pause = max(pause, now - last)
        assert pause < longest, "nothing completes any more"
        return happening.is_over()

    load.run(over)
    happening.join()
    until(lambda: (load.poll(), not load.oracle.inflight)[1], "all have completed", 10.0)
    return pause


def goes_on(pair: Pair, fault: Callable[[], None], rng: random.Random) -> None:
    """A fault of one leg is a pause for the guest, and in the end both legs hold what it wrote."""
    oracle = Oracle(BLOCKS)
    with (
        ServerProcess([pair.spec()], directory=pair.folder) as server,
        NvmeHost.connect(server.socket, memory_bytes=8 << 20) as host,
    ):
        load = Load(host, oracle, rng, depth=8, reads=0.3)
        load.start()
        pause = loaded(load, fault, 0.5)
        print(f"the longest pause was {pause:.2f} s")  # noqa: T201
        assert oracle.errors == 0
        assert pause < PAUSE_S_MAX
        until(pair.is_quiet, "the legs are the same again", QUIET_S)
        pair.check_same()
    oracle.check(pair.legs[0].read_bytes())
    oracle.check(pair.legs[1].read_bytes())


def content(socket: Path) -> bytes:
    with NvmeHost.connect(socket) as host:
        host.enable()
        queue = host.create_queue_pair()
        return b"".join(queue.read(lba, 1024) for lba in range(0, BLOCKS, 1024))


def killed(server: ServerProcess, oracle: Oracle, rng: random.Random) -> None:
    dead = threading.Event()

    def kill() -> None:
        server.kill()
        dead.set()

    timer = threading.Timer(rng.uniform(0.01, 0.15), kill)
    with (
        NvmeHost.connect(server.socket, memory_bytes=8 << 20) as host,
        contextlib.suppress(PeerError, NativeError),
    ):
        load = Load(host, oracle, rng, reads=0.2)
        load.start()
        timer.start()
        load.run(dead.is_set)
    timer.join()
    assert dead.is_set()


@pytest.mark.timeout(120 + 8 * KILLS)
def test_kill_9_loses_nothing_and_leaves_the_legs_the_same(tmp_path: Path) -> None:
    rng = dice("test_kill_9_loses_nothing_and_leaves_the_legs_the_same")
    pair = Pair(tmp_path)
    oracle = Oracle(BLOCKS)
    with ServerProcess([pair.spec()], directory=tmp_path) as server:
        for _ in range(KILLS):  # the next one often comes before all is the same
            killed(server, oracle, rng)
            server.restart()
            oracle.check(content(server.socket))
        until(pair.is_quiet, "the legs are the same again", QUIET_S)
        pair.check_same()
    oracle.check(pair.legs[1].read_bytes())
    assert oracle.total > KILLS


@pytest.mark.parametrize("operations", ["write", "read"])
def test_a_leg_that_fails_is_no_error_for_the_guest(tmp_path: Path, operations: str) -> None:
    """It fails, comes back after a second or more, and fails again."""
    rng = dice("test_a_leg_that_fails_is_no_error_for_the_guest")
    after = 300 if operations == "write" else 2
    filters = f"&error=100%&error-ops={operations}&error-after={after}"
    pair = Pair(tmp_path, (filters, "") if operations == "read" else ("", filters))
    oracle = Oracle(BLOCKS)
    with (
        ServerProcess([pair.spec()], directory=tmp_path) as server,
        NvmeHost.connect(server.socket, memory_bytes=8 << 20) as host,
    ):
        load = Load(host, oracle, rng, reads=0.3)
        load.start()
        pause = loaded(load, lambda: time.sleep(1.0), 2.0)
        assert oracle.errors == 0
        assert pause < PAUSE_S_MAX
        assert "is stale: it goes on without it" in server.log_text()
        good = pair.legs[1 if operations == "read" else 0]
    oracle.check(good.read_bytes())


class RemoteLeg:
    """Leg 1 is another server, which can be frozen, killed and started again."""

    def __init__(self, pair: Pair) -> None:
        folder = pair.folder / "giver"
        folder.mkdir()
        port = free_port()
        given = ["--tcp", f"127.0.0.1:{port}", "--subnqn", SUBNQN, "--allow-any-host"]
        self.server = ServerProcess([pair.specs[1]], given, folder, with_socket=False)
        pair.specs[1] = f"nvme+tcp://127.0.0.1:{port}/{SUBNQN}/1?kato=1s&reconnect=10s"

    def freeze(self) -> None:
        self.server.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.server.process.send_signal(signal.SIGCONT)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_a_leg_on_another_server_is_lost_and_comes_back(tmp_path: Path, fault: str) -> None:
    rng = dice("test_a_leg_on_another_server_is_lost_and_comes_back")
    pair = Pair(tmp_path)
    remote = RemoteLeg(pair)

    def happen() -> None:
        remote.freeze() if fault == "freeze" else remote.server.kill()
        until(lambda: pair.standings()[1] == "stale", "it is known to be stale", 6.0)
        time.sleep(0.5)
        remote.thaw() if fault == "freeze" else remote.server.restart()
        until(lambda: pair.standings()[1] == "in-sync", "it has come back", QUIET_S)

    with remote.server:
        goes_on(pair, happen, rng)


@pytest.mark.timeout(180)
def test_a_disk_that_hangs_in_the_kernel_is_no_error_for_the_guest(tmp_path: Path) -> None:
    """Nothing that it has can be cancelled; it is the leg that is read, too."""
    rng = dice("test_a_disk_that_hangs_in_the_kernel_is_no_error_for_the_guest")
    with file_system("ext4", tmp_path) as mount:
        pair = Pair(tmp_path)
        pair.legs[0] = mount / "leg"
        pair.specs[0] = f"file:{pair.legs[0]}?size={BLOCKS * BLOCK}"

        def happen() -> None:
            run("fsfreeze", "--freeze", mount)
            try:
                until(lambda: pair.standings()[0] == "stale", "it is known to be stale", 6.0)
                time.sleep(1.0)
            finally:
                run("fsfreeze", "--unfreeze", mount)
            until(lambda: pair.standings()[0] == "in-sync", "it has come back", QUIET_S)

        goes_on(pair, happen, rng)


def test_a_stale_leg_is_not_served_after_a_restart(tmp_path: Path) -> None:
    """It is the leg that is preferred, and lacks what was written meanwhile."""
    pair = Pair(tmp_path)
    hidden = tmp_path / "hidden"
    with ServerProcess([pair.spec()], directory=tmp_path):
        pass
    pair.legs[0].rename(hidden)
    with ServerProcess([pair.spec()], directory=tmp_path) as server:
        with NvmeHost.connect(server.socket) as host:
            host.enable()
            host.create_queue_pair().write(0, b"new " * 1024)
        assert pair.standings() == ["stale", "in-sync"]
        assert not pair.legs[0].exists(), "a missing leg came into being as an empty one"
        server.kill()
        hidden.rename(pair.legs[0])
        server.restart()
        assert content(server.socket)[:4096] == b"new " * 1024
        until(pair.is_quiet, "it has been brought up to date", QUIET_S)
        pair.check_same()


def test_clients_come_while_legs_are_copied(tmp_path: Path) -> None:
    """The kernel starts workers for that, which interrupts calls; no client may suffer by it."""
    pair = Pair(tmp_path)
    for path in pair.legs:
        path.write_bytes(os.urandom(BLOCKS * BLOCK))
    with ServerProcess([pair.spec(rate="2M")], directory=tmp_path) as server:
        for _ in range(40):
            with NvmeHost.connect(server.socket) as host:
                host.enable()
        assert "refused" not in server.log_text()


def test_another_disk_in_place_of_a_leg_gets_everything(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with (
        ServerProcess([pair.spec(same="on")], directory=tmp_path) as server,
        NvmeHost.connect(server.socket) as host,
    ):
        host.enable()
        queue = host.create_queue_pair()
        for lba in range(0, BLOCKS, 512):
            queue.write(lba, lba.to_bytes(4, "little") * 1024)
    pair.legs[1] = tmp_path / "another"
    pair.legs[1].write_bytes(b"\xa5" * BLOCKS * BLOCK)
    pair.specs[1] = f"file:{pair.legs[1]}"
    with ServerProcess([pair.spec()], directory=tmp_path) as server:
        until(pair.is_quiet, "it has everything", QUIET_S)
        assert content(server.socket)[512 * BLOCK :][:4] == (512).to_bytes(4, "little")
        pair.check_same()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda pair: pair.bitmap.with_name("bits.legs").unlink(), "is missing, though"),
        (lambda pair: pair.bitmap.with_name("bits.legs").write_text("{}"), "is no record"),
        (lambda pair: pair.bitmap.write_bytes(b"x" * 8192), "is no bitmap of a mirror"),
        (lambda pair: pair.specs.reverse(), ""),
    ],
)
def test_what_a_damaged_mirror_says(
    tmp_path: Path, damage: Callable[[Pair], None], says: str
) -> None:
    pair = Pair(tmp_path)
    with ServerProcess([pair.spec()], directory=tmp_path):
        pass
    damage(pair)
    if not says:  # the order of the legs does not matter
        with ServerProcess([pair.spec()], directory=tmp_path):
            assert pair.standings() == ["in-sync"] * 2
        return
    with pytest.raises(PeerError, match=says):
        ServerProcess([pair.spec()], directory=tmp_path)
