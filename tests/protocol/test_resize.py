"""Another size for a namespace in use: by vfio-user, by NVMe/TCP, and by a forwarder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_protocol import BLOCK, Serve, Served, pattern, refused, until
from tests_tcp import LOCALHOST, TcpServed

from vhostnvme.errors import NativeError
from vhostnvme.native import Event, EventType, Runtime
from vhostnvme.testing import NvmeHost, QueuePair, nvme
from vhostnvme.testing.nvme import Status

MIB = 1 << 20
ATTRIBUTE_EVENT = 0x040002  # a notice: namespace attribute changed, log page 04h
ASYNC_EVENT_CONFIG, NAMESPACE_NOTICES = 0x0B, 1 << 8
PATIENCE_S = 10.0


class Guest:
    """A host on a controller, with one queue."""

    def __init__(self, served: Served) -> None:
        self.host: NvmeHost = served.connect()
        self.host.set_feature(ASYNC_EVENT_CONFIG, NAMESPACE_NOTICES)
        self.queue: QueuePair = self.host.create_queue_pair(1, depth=64)
        self.event = self.host.submit_async_event()

    def sees(self, size: int) -> None:
        """It has been told, finds the new size, and can use all of that and no more."""
        assert self.host.wait_async_event(self.event).result == ATTRIBUTE_EVENT
        assert self.host.log_page(4, 4096)[:8] == (1).to_bytes(8, "little")
        self.event = self.host.submit_async_event()
        blocks = size // BLOCK
        assert self.host.identify_namespace().nr_blocks == blocks
        self.queue.write(blocks - 8, pattern(size, 8 * BLOCK))
        assert self.queue.read(blocks - 8, 8) == pattern(size, 8 * BLOCK)
        for sqe in (nvme.read(1, blocks - 7, 8), nvme.write(1, blocks, 8)):
            refused(self.queue.command(sqe), Status.LBA_RANGE)


def in_flight(served: Served, count: int) -> None:
    """The controller has taken so many commands."""

    def taken() -> bool:
        info = served.controller.info()
        return info.inflight + info.commands >= count

    until(taken, f"{count} commands in flight")


@pytest.mark.parametrize("spec", ["mem:1M", "file:{}/d?size=1M", "file:{}/d?size=1M&direct=off"])
def test_a_guest_finds_another_size(serve: Serve, tmp_path: Path, spec: str) -> None:
    served = serve(spec.format(tmp_path))
    guest, namespace = Guest(served), served.namespaces[0]
    guest.queue.write(0, pattern(1, BLOCK))
    for size in (2 * MIB, MIB + 4096, 5 * MIB, MIB):
        assert namespace.resize(size) == size
        guest.sees(size)
        assert spec.startswith("mem") or (tmp_path / "d").stat().st_size == size
    assert guest.queue.read(0, 1) == pattern(1, BLOCK)


def test_every_controller_is_told(serve: Serve) -> None:
    one, two = serve("mem:1M"), serve("mem:1M")
    one.controller.attach(two.namespaces[0], 2)
    hosts = one.connect(), two.connect()
    events = [host.submit_async_event() for host in hosts]
    two.namespaces[0].resize(2 * MIB)
    for host, event, nsid in zip(hosts, events, (2, 1), strict=True):
        assert host.wait_async_event(event).result == ATTRIBUTE_EVENT
        assert host.log_page(4, 4096)[:4] == nsid.to_bytes(4, "little")
        assert host.identify_namespace(nsid).nr_blocks == 2 * MIB // BLOCK
        host.close()
    one.controller.detach(2)


def test_shrinking_waits_for_what_is_under_way(serve: Serve) -> None:
    served = serve("mem:1M?delay=100ms")
    guest = Guest(served)
    last = MIB // BLOCK - 8
    with guest.host.alloc(8 * BLOCK) as buffer:
        cids = [guest.queue.submit(nvme.write(1, last, 8), buffer) for _ in range(8)]
        in_flight(served, 8)
        served.namespaces[0].resize(MIB // 2)
        assert all(guest.queue.wait(cid).ok for cid in cids)
    guest.sees(MIB // 2)


def test_a_command_that_does_not_end_keeps_the_size(serve: Serve) -> None:
    served = serve("mem:1M?delay=60s")
    guest = Guest(served)
    with guest.host.alloc(4096) as buffer:
        guest.queue.submit(nvme.read(1, 0, 8), buffer)
        in_flight(served, 1)
        with pytest.raises(NativeError, match="did not end within 1 s"):
            served.namespaces[0].resize(MIB // 2)
        assert guest.host.identify_namespace().nr_blocks == MIB // BLOCK
        guest.host.reset()


@pytest.fixture
def target(runtime: Runtime, tmp_path: Path) -> Iterator[TcpServed]:
    running = TcpServed(runtime, [f"file:{tmp_path}/far?size=1M"])
    yield running
    running.close()


def test_a_host_on_the_network_is_told(target: TcpServed) -> None:
    with target.connect() as host:
        queue = host.create_queue(1)
        host.set_feature(ASYNC_EVENT_CONFIG, NAMESPACE_NOTICES)
        host.expect_events()
        host.keep_alive()
        target.namespaces[0].resize(3 * MIB)
        assert host.next_event().log == 4
        queue.write(3 * MIB // BLOCK - 8, pattern(5, 8 * BLOCK))
        assert queue.read(3 * MIB // BLOCK - 8, 8) == pattern(5, 8 * BLOCK)


def wait_event(runtime: Runtime, kind: EventType) -> Event:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for event in runtime.poll_events():
            assert event.type is not EventType.REMOTE_REFUSED, event.text
            if event.type is kind:
                return event
        assert time.monotonic() < deadline, f"no {kind.name} came"
        time.sleep(0.002)


def test_a_size_travels_from_the_target_to_the_guest(serve: Serve, target: TcpServed) -> None:
    runtime = serve.runtime
    runtime.poll_events()
    served = serve(f"nvme+tcp://{LOCALHOST}:{target.address[1]}/{target.nqn}/1?reconnect=5s")
    far, near = target.namespaces[0], served.namespaces[0]
    guest = Guest(served)
    wait_event(runtime, EventType.REMOTE_ATTACHED)
    with pytest.raises(NativeError, match="resize it there first"):
        near.resize(4 * MIB)
    for size in (4 * MIB, 6 * MIB):
        far.resize(size)
        assert wait_event(runtime, EventType.REMOTE_RESIZED).a == size
        assert guest.host.identify_namespace().nr_blocks < size // BLOCK
        assert near.resize() == size
        guest.sees(size)
    near.resize(2 * MIB)  # the way back begins at the guest
    guest.sees(2 * MIB)
    far.resize(2 * MIB)
    assert wait_event(runtime, EventType.REMOTE_RESIZED).a == 2 * MIB
    guest.queue.write(0, pattern(6, BLOCK))
    assert far.info().size == near.info().size == 2 * MIB
