"""Promises 3, 7 and 9 over the network: card A gives a file, card B forwards to it, A or the
network fails under load, and this process is B's host and the judge of every block (tests_stamps).

VHOSTNVME_FAULT_CYCLES sets the number of faults.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests_detour import Detour
from tests_fabric import free_port
from tests_protocol import BLOCK, dice, until
from tests_stamps import Fault, Load, Oracle

from vhostnvme.closable import Closable
from vhostnvme.testing import NvmeHost, Sqe, nvme
from vhostnvme.testing.netns import Cable
from vhostnvme.testing.server import ServerProcess

CYCLES = int(os.environ.get("VHOSTNVME_FAULT_CYCLES", "24"))
BLOCKS = 8192
FEW_BLOCKS = 512  # which are written again and again
PORT = 4420
SUBNQN = "nqn.2026-11.test.vhostnvme:faults"
KATO_S = 1.0
NOTICED_S = 2 * KATO_S  # a silent peer is given up by then
PATH_STATUS = range(0x300, 0x380)


class Cards(Closable):
    """Two cards in network namespaces of their own, and B's host.

    Without a cable both are here, and B reaches A by a detour.
    """

    def __init__(
        self,
        folder: Path,
        rng: random.Random,
        more: str = "reconnect=30s",
        *,
        cable: bool = True,
        blocks: int = BLOCKS,
    ) -> None:
        self._stack = ExitStack()
        self.path = folder / "disk"
        self.oracle = Oracle(blocks)
        try:
            left: tuple[str, ...] = ()
            right: tuple[str, ...] = ()
            if cable:
                self.cable = self._stack.enter_context(Cable())
                left, right = self.cable.left.prefix, self.cable.right.prefix
                address = reached = f"{self.cable.right.address}:{PORT}"
            else:
                port = free_port()
                self.detour = self._stack.enter_context(Detour(port))
                address, reached = f"127.0.0.1:{port}", f"127.0.0.1:{self.detour.port}"
            given = ["--tcp", address, "--subnqn", SUBNQN, "--allow-any-host"]
            self.giver = self._stack.enter_context(
                ServerProcess(
                    [f"file:{self.path}?size={blocks * BLOCK}"],
                    given,
                    made(folder / "a"),
                    with_socket=False,
                    prefix=right,
                )
            )
            remote = f"nvme+tcp://{reached}/{SUBNQN}/1?kato={KATO_S:g}s&{more}"
            self.asker = self._stack.enter_context(
                ServerProcess([remote], (), made(folder / "b"), prefix=left)
            )
            self.host = self._stack.enter_context(
                NvmeHost.connect(self.asker.socket, memory_bytes=8 << 20)
            )
            self.load = Load(self.host, self.oracle, rng, reads=0.3)
            self.load.start()
        except BaseException:
            self._stack.close()
            raise

    def under(self, fault: Callable[[], None], seconds_after: float = 0.1) -> None:
        """Loads the disk while `fault` happens, on a thread, and a little longer."""
        happening = Fault(fault, 0.05, seconds_after)
        try:
            self.load.run(happening.is_over)
        finally:
            happening.join()

    def settle(self, seconds: float = 30.0) -> None:
        """Waits until all that was submitted has completed; then every block must be right."""
        deadline = time.monotonic() + seconds
        while self.oracle.inflight:
            self.load.poll()
            assert time.monotonic() < deadline, f"never completed: {self.said()}"
        self.oracle.check(self.path.read_bytes())

    def said(self) -> str:
        """What happened, as both cards tell it."""
        waiting = f"{len(self.oracle.inflight)} commands wait"
        return f"{waiting}\n{self.giver.log_text()}\n{self.asker.log_text()}"

    def check_works(self) -> None:
        """The device takes commands and completes them well, on all blocks."""
        before = self.oracle.errors
        written = self.oracle.total
        self.load.run(lambda: self.oracle.total > written + 50)
        self.settle()
        assert self.oracle.errors == before

    def close(self) -> None:
        self._stack.close()


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    return dice(request.node.name)


@pytest.fixture
def cards(tmp_path: Path, rng: random.Random) -> Iterator[Cards]:
    with Cards(tmp_path, rng) as running:
        yield running


# -- inside of the bound: a pause -----------------------------------------------------------------


def killed(cards: Cards, rng: random.Random) -> None:
    cards.giver.kill()
    time.sleep(rng.choice([0, 0, 0.2]))
    cards.giver.restart()


def stopped(cards: Cards, rng: random.Random) -> None:
    """Not dead, only silent: it goes on with what it had received, much later."""
    cards.giver.process.send_signal(signal.SIGSTOP)
    time.sleep(rng.choice([0.1, NOTICED_S + 0.5]))
    cards.giver.process.send_signal(signal.SIGCONT)


def pulled(cards: Cards, rng: random.Random) -> None:
    cards.cable.down()
    time.sleep(rng.choice([0, 0.1, NOTICED_S]))
    cards.cable.up()


def silenced(cards: Cards, rng: random.Random) -> None:
    """One direction, or both, is lost; first briefly, so that what was sent arrives late."""
    {
        "left": lambda: cards.cable.drop("left"),
        "right": lambda: cards.cable.drop("right"),
        "both": cards.cable.cut,
    }[rng.choice(["left", "right", "both"])]()
    time.sleep(rng.choice([0.1, NOTICED_S + 0.5]))
    cards.cable.heal()


@pytest.mark.timeout(120 + 10 * CYCLES)
def test_no_fault_loses_an_acknowledged_write_or_repeats_an_old_one(
    cards: Cards, rng: random.Random
) -> None:
    faults = [killed, stopped, pulled, silenced]
    written = []
    for number in range(CYCLES):
        fault = faults[number % len(faults)]
        cards.under(lambda fault=fault: fault(cards, rng))  # type: ignore[misc]
        cards.settle()
        written.append(cards.oracle.total)
    assert cards.oracle.errors == 0
    assert all(before < after for before, after in zip([0, *written], written, strict=False))
    assert cards.asker.alive
    print(f"{CYCLES} faults, {cards.oracle.total} acknowledged writes")  # noqa: T201


@pytest.mark.timeout(120 + 10 * CYCLES)
def test_writes_that_come_late_are_not_written_over_newer_ones(
    tmp_path: Path, rng: random.Random
) -> None:
    """What a connection had on its way when B gave it up reaches A while the next one is in use."""
    with Cards(tmp_path, rng, cable=False, blocks=FEW_BLOCKS) as cards:
        for _ in range(CYCLES):
            cards.under(lambda: cards.detour.give_up(0.01, rng.uniform(0.1, 0.4)), 0.6)
            cards.settle()
        assert cards.oracle.errors == 0
        lost = cards.asker.log_text().count("is lost")
        print(f"{lost} connections given up, {cards.oracle.total} acknowledged writes")  # noqa: T201
        assert lost >= CYCLES


# -- outside of the bound: a clean error ----------------------------------------------------------


@pytest.mark.parametrize("fault", ["killed", "cut", "stopped"])
def test_a_peer_that_stays_away_is_an_error_and_then_a_working_disk(
    tmp_path: Path, rng: random.Random, fault: str
) -> None:
    with Cards(tmp_path, rng, "reconnect=300ms") as cards:
        cards.check_works()
        cards.load.may_fail = True
        begin, end = {
            "killed": (cards.giver.kill, cards.giver.restart),
            "cut": (cards.cable.cut, cards.cable.heal),
            "stopped": (
                lambda: cards.giver.process.send_signal(signal.SIGSTOP),
                lambda: cards.giver.process.send_signal(signal.SIGCONT),
            ),
        }[fault]
        begin()
        cards.load.run(lambda: cards.oracle.errors > 100)
        completion = cards.host.wait(1, cards.host.submit(1, read_one(cards)))
        assert completion.code in PATH_STATUS, str(completion)
        assert not completion.dnr
        end()
        until(lambda: recovered(cards), "the disk works again", 30)
        cards.settle()
        cards.load.may_fail = False
        for _ in range(3):
            cards.check_works()
            time.sleep(KATO_S / 2)  # what comes late would come now


def read_one(cards: Cards) -> Sqe:
    return cards.load.free[0].point(nvme.read(1, 0, 1), BLOCK)


def recovered(cards: Cards) -> bool:
    """One more round of load has brought no error."""
    errors, total = cards.oracle.errors, cards.oracle.total
    cards.load.run(lambda: cards.oracle.errors > errors or cards.oracle.total > total + 20)
    return cards.oracle.errors == errors


# -- who holds on to the target, and does nothing with it -----------------------------------------

IDLERS = """
import socket, sys, time
address = sys.argv[1], int(sys.argv[2])
idlers = [socket.create_connection(address) for _ in range(100)]
print(flush=True)
for byte in (b"\\0", b"\\0", b"\\x80"):  # so an ICReq begins
    time.sleep(0.3)
    for idler in idlers[:50]:
        try:
            idler.sendall(byte)
        except OSError:
            pass
for idler in idlers:  # the target need not wait for the rest
    idler.settimeout(30)
    try:
        while idler.recv(100):
            pass
    except ConnectionError:
        pass
print(flush=True)
"""


def test_idlers_neither_stop_a_host_nor_stay_for_ever(cards: Cards) -> None:
    """Half-open connections, more than the target keeps, and some that send a byte at a time."""
    before = len(descriptors(cards))
    script = [sys.executable, "-c", IDLERS, cards.cable.right.address, str(PORT)]
    with subprocess.Popen([*cards.cable.left.prefix, *script], stdout=subprocess.PIPE) as idlers:
        assert idlers.stdout is not None
        assert idlers.stdout.readline(), "the idlers could not connect"
        cards.under(lambda: None, 2.0)
        cards.settle()
        assert idlers.stdout.readline(), "the target keeps somebody who does nothing"
    assert cards.oracle.errors == 0
    until(lambda: len(descriptors(cards)) <= before, "the target lets go of them", 10)


def descriptors(cards: Cards) -> list[Path]:
    return list(Path(f"/proc/{cards.giver.process.pid}/fd").iterdir())
