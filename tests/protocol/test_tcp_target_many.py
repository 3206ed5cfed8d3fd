"""Many connections to `vhostnvme serve --tcp`: what a process takes for them, and gives back.

In a process of its own, so that its memory and its descriptors are nobody else's. And hosts that
want more than their share: of data buffers, and of handshakes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests_protocol import pattern, until
from tests_tcp import TcpServed

from vhostnvme.errors import NativeError
from vhostnvme.fabric.options import SUBSYSTEMS_MAX
from vhostnvme.native import HostAccess, Runtime, TargetLimits
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import CommandFailed, Status
from vhostnvme.testing.nvmetcp_fabrics import DISCOVERY_NQN
from vhostnvme.testing.nvmetcp_host import HOSTNQN, HostOptions, IoQueue, TcpHost
from vhostnvme.testing.nvmetcp_queue import Address, Ended, TcpQueue
from vhostnvme.testing.server import ServerProcess

NQN = "nqn.2026-11.test:many"
CONNECTIONS, HOSTS = 1000, 100
# Resident bytes of a connection with a queue of 16 entries that has carried small commands: itself,
# what was touched of its 64 KiB receive buffer, and the slots of a command or two.
CONNECTION_BYTES_MAX = 48 << 10
CHUNK, NR_CHUNKS = 128 << 10, 128  # a controller's buffers for large transfers


class Serving:
    """The process, as others see it."""

    def __init__(self) -> None:
        options = ["--tcp", "127.0.0.1:0", "--subnqn", NQN, "--allow-any-host"]
        self.server = ServerProcess(["mem:8M"], options, with_socket=False)
        found = re.search(r"listening on 127\.0\.0\.1:([0-9]+) ", self.server.log_text())
        assert found, self.server.log_text()
        self.address: Address = ("127.0.0.1", int(found[1]))
        self.proc = Path(f"/proc/{self.server.process.pid}")

    def connect(self) -> TcpHost:
        return TcpHost(self.address, NQN)

    @property
    def descriptors(self) -> int:
        return len(os.listdir(self.proc / "fd"))  # noqa: PTH208

    @property
    def resident_bytes(self) -> int:
        return int((self.proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    running = Serving()
    yield running
    assert running.server.stop() == 0


def use(serving: Serving, hosts: list[TcpHost]) -> None:
    """So many connections, each of which carries a few commands."""
    for _ in range(HOSTS):
        hosts.append(serving.connect())
        for qid in range(1, CONNECTIONS // HOSTS):
            hosts[-1].create_queue(qid, 16)
    queues = [queue for host in hosts for queue in host.queues[1:] if isinstance(queue, IoQueue)]
    for queue in queues:
        queue.submit_write(8, bytes(4096))
        queue.submit_read(0, 8)
    for queue in queues:
        while len(queue.completed) < 2:
            queue.step()


def test_a_thousand_connections_take_what_is_stated_and_give_it_back(serving: Serving) -> None:
    with serving.connect() as host:
        host.create_queue(1).write(0, bytes(8 << 20 >> 3))
    until(lambda: serving.descriptors < 100, "the first one has gone")
    descriptors, resident = serving.descriptors, serving.resident_bytes
    peaks = []
    for _ in range(2):
        hosts: list[TcpHost] = []
        use(serving, hosts)
        assert serving.descriptors <= descriptors + CONNECTIONS
        peaks.append(serving.resident_bytes - resident)
        for host in hosts:
            host.close()
        until(lambda: serving.descriptors <= descriptors, "all descriptors are back", 20)
    print(f"{[peak // CONNECTIONS for peak in peaks]} bytes a connection")  # noqa: T201
    assert max(peaks) <= CONNECTIONS * CONNECTION_BYTES_MAX
    assert peaks[1] <= peaks[0] + (4 << 20), "the second time takes no more"
    with serving.connect() as host:
        assert host.create_queue(1).read(8, 8) == bytes(4096)


def test_a_flood_of_handshakes_keeps_nobody_out(serving: Serving) -> None:
    """Connections that say nothing, or only ICReq, push each other out; who connects stays."""
    with serving.connect() as before:
        descriptors = serving.descriptors
        flood = []
        for number in range(300):
            queue = TcpQueue(serving.address)
            flood.append(queue)
            if number % 2:
                try:
                    queue.initialize()
                except Ended:
                    pass
            if number % 50 == 49:
                with serving.connect() as host:
                    host.keep_alive()
        assert serving.descriptors <= descriptors + 64 + 4
        before.keep_alive()
        for queue in flood:
            queue.close()
        until(lambda: serving.descriptors <= descriptors, "the flood has gone")


# --- Shares ---


@pytest.fixture
def served(runtime: Runtime) -> Iterator[TcpServed]:
    target = TcpServed(runtime, ["mem:64M"], limits=TargetLimits(controllers=8))
    yield target
    target.close()


def starving(served: TcpServed) -> tuple[TcpHost, IoQueue, list[int]]:
    """A host that has asked for all of its large buffers, and more, and sends no data."""
    host = served.connect()
    queue = host.create_queue(1, 256)
    queue.hold_data = True
    data = [pattern(n, CHUNK) for n in range(NR_CHUNKS + 40)]
    cids = [queue.submit_write(256 * n, part) for n, part in enumerate(data)]
    while len({r2t.cid for r2t in queue.r2ts}) < NR_CHUNKS:
        queue.step()
    assert queue.quiet(0.05), "there are no more buffers"
    return host, queue, cids


def test_a_host_uses_up_its_own_buffers_alone(served: TcpServed) -> None:
    """What it has too many waits in line, and is done when it sends its data; others go on."""
    host, queue, cids = starving(served)
    with served.connect() as other:
        neighbour = other.create_queue(1)
        neighbour.write(256 * 400, pattern(999, CHUNK))
        assert neighbour.read(256 * 400, 256) == pattern(999, CHUNK)
    assert len(queue.read(0, 16)) == 8192, "small commands have buffers of their own"
    host.keep_alive()
    queue.hold_data = False
    for r2t in list(queue.r2ts):
        queue.answer(r2t)
    assert all(queue.wait(cid).completion.ok for cid in cids)
    for n in range(NR_CHUNKS + 40):
        assert queue.read(256 * n, 256) == pattern(n, CHUNK)


def test_what_waits_in_line_can_be_aborted(served: TcpServed) -> None:
    host, queue, cids = starving(served)
    completion = host.admin.command(nvme.abort(1, cids[-1])).completion
    if completion.result == 0:
        assert queue.wait(cids[-1]).completion.code == Status.ABORT_REQUESTED
        cids.pop()
    queue.hold_data = False
    for r2t in list(queue.r2ts):
        queue.answer(r2t)
    assert all(queue.wait(cid).completion.ok for cid in cids)


@pytest.mark.parametrize("how", ["queue", "host", "disable"])
def test_what_waits_in_line_ends_with_its_queue(served: TcpServed, how: str) -> None:
    host, queue, _ = starving(served)
    if how == "queue":
        queue.close()
        again = None
        while again is None:
            try:
                again = host.create_queue(1, 64)
            except CommandFailed as taken:
                assert taken.completion.code == Status.COMMAND_SEQUENCE
        again.write(0, pattern(1, CHUNK))
        assert again.read(0, 256) == pattern(1, CHUNK)
    elif how == "disable":
        host.disable()
        host.enable()
        host.create_queue(2).write(0, pattern(2, CHUNK))
    host.close()
    until(lambda: served.target.info().connections == 0, "all have gone")
    served.healthy()


def test_two_queues_share_the_buffers(served: TcpServed) -> None:
    """A queue that holds all of them is ended; the other's commands come through."""
    host, queue, _ = starving(served)
    second = host.create_queue(2, 64)
    cid = second.submit_write(0, pattern(5, CHUNK))
    assert second.quiet(0.05)
    queue.close()
    assert second.wait(cid).completion.ok
    assert second.read(0, 256) == pattern(5, CHUNK)


def test_a_large_queue_and_a_small_host(served: TcpServed) -> None:
    """The largest queue that there may be, filled, with digests."""
    with TcpHost(served.address, served.nqn, HostOptions(digest=3)) as host:
        queue = host.create_queue(1, 1024)
        cids = [queue.submit_write(n, pattern(n, 512)) for n in range(1023)]
        assert all(queue.wait(cid).completion.ok for cid in cids)
        assert queue.read(512, 128) == b"".join(pattern(n, 512) for n in range(512, 640))


def test_a_thousand_subsystems_are_found_and_used(runtime: Runtime) -> None:
    with closing(TcpServed(runtime, ["mem:1M"], any_host=False)) as served:
        others = [served.add_subsystem(any_host=False) for _ in range(SUBSYSTEMS_MAX - 1)]
        with pytest.raises(NativeError, match=f"{SUBSYSTEMS_MAX} subsystems at most"):
            served.add_subsystem()
        mine = others[::3]
        for subsystem in mine:
            subsystem.allow(HostAccess(hostnqn=HOSTNQN))
        mine[-1].attach(served.namespaces[0], 1)
        with served.connect(nqn=DISCOVERY_NQN) as host:
            entries = host.discovery_log().entries
        found = [entry.subnqn for entry in entries if entry.subtype == 2]
        assert sorted(found) == sorted(subsystem.nqn for subsystem in mine)
        with served.connect(nqn=mine[-1].nqn) as host:
            host.create_queue(1).write(0, pattern(3, 4096))
