"""A namespace of our target gets another owner: nothing of the old one lands after the fence."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_protocol import BLOCK, dice, pattern
from tests_tcp import TcpServed

from vhostnvme.errors import NativeError
from vhostnvme.native import HostAccess, Runtime, Subsystem
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import CommandFailed
from vhostnvme.testing.nvmetcp_host import IoQueue

SIZE = 64 << 10
DEPTH = 32
DELAY_S = 0.02
ROUNDS = 25
PATIENCE_S = 10.0


@pytest.fixture
def served(runtime: Runtime, tmp_path: Path) -> Iterator[TcpServed]:
    spec = f"file:{tmp_path}/disk?size={SIZE}&delay={round(DELAY_S * 1e6)}us"
    running = TcpServed(runtime, [spec], any_host=False)
    yield running
    running.close()


def host_of(epoch: int) -> str:
    return f"nqn.2026-11.test:owner:{epoch}"


def enter(served: TcpServed, epoch: int) -> IoQueue:
    return served.connect(hostnqn=host_of(epoch)).create_queue(1, DEPTH + 1)


def fence(subsystem: Subsystem) -> None:
    """Asks until it says that nothing is under way any more."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            subsystem.detach(1, wait_ms=0)
            return
        except NativeError as error:
            assert error.errno == errno.EBUSY and time.monotonic() < deadline


def test_no_write_of_a_denied_host_lands_after_the_fence(served: TcpServed, tmp_path: Path) -> None:
    random = dice("test_no_write_of_a_denied_host_lands_after_the_fence")
    disk, subsystem = tmp_path / "disk", served.subsystem
    subsystem.allow(HostAccess(hostnqn=host_of(0)))
    for epoch in range(ROUNDS):
        queue = enter(served, epoch)
        for number in range(DEPTH):
            queue.submit_write(number * 4, pattern(epoch * DEPTH + number, 4 * BLOCK))
        time.sleep(random.random() * 2 * DELAY_S)
        subsystem.deny(host_of(epoch))
        fence(subsystem)
        after = disk.read_bytes()
        subsystem.attach(served.namespaces[0], 1)
        subsystem.allow(HostAccess(hostnqn=host_of(epoch + 1)))
        time.sleep(random.random() * 2 * DELAY_S)
        assert disk.read_bytes() == after
        with pytest.raises(CommandFailed):
            enter(served, epoch)


def test_the_new_owner_begins_after_the_old_one_has_ended(served: TcpServed) -> None:
    subsystem = served.subsystem
    subsystem.allow(HostAccess(hostnqn=host_of(0)))
    old = enter(served, 0)
    old.submit_write(0, pattern(1, 4096))
    subsystem.deny(host_of(0))
    subsystem.allow(HostAccess(hostnqn=host_of(1)))
    with served.connect(hostnqn=host_of(1)) as early:
        fence(subsystem)
        assert early.active_namespaces() == []
        queue = early.create_queue(1)
        assert not queue.command(nvme.flush(1)).completion.ok
        subsystem.attach(served.namespaces[0], 1)
        queue.write(0, pattern(2, 4096))
        assert queue.read(0, 8) == pattern(2, 4096)
