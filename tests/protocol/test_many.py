"""Many devices in one process, several reactors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from vhostnvme.testing import NvmeHost, QueuePair
from vhostnvme.testing.many import ManyDevices

NR_DEVICES = 64
HOST_MEMORY_BYTES = 1 << 20

Hosts = tuple[ManyDevices, list[list[QueuePair]]]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """64 devices on two reactors, and for each an enabled host with two queue pairs."""
    with ExitStack() as stack:
        options = ["--reactors", "2", "--disk", "mem:1M"]
        server = stack.enter_context(
            ManyDevices(NR_DEVICES, tmp_path_factory.mktemp("many"), options)
        )
        connected = []
        for path in server.sockets:
            host = stack.enter_context(NvmeHost.connect(path, memory_bytes=HOST_MEMORY_BYTES))
            host.enable()
            connected.append([host.create_queue_pair(qid, depth=8) for qid in (1, 2)])
        yield server, connected


def test_all_of_64_devices_with_128_queues_work_side_by_side(hosts: Hosts) -> None:
    server, connected = hosts
    for number, queues in enumerate(connected):
        for place, queue in enumerate(queues):
            queue.write(8 * place, bytes([number, place]) * 2048)
    for number, queues in enumerate(connected):
        for place, queue in enumerate(reversed(queues)):  # each reads what the other wrote
            assert queue.read(8 * (1 - place), 8) == bytes([number, 1 - place]) * 2048
    devices = server.statistics()["devices"]
    assert [device["commands"] for device in devices] == [4] * NR_DEVICES
    assert [device["queues"] for device in devices] == [2] * NR_DEVICES


def test_devices_are_spread_over_the_reactors(hosts: Hosts) -> None:
    devices = hosts[0].statistics()["devices"]
    assert [device["reactor"] for device in devices] == [0, 1] * (NR_DEVICES // 2)


def test_a_device_costs_few_descriptors_and_no_thread(hosts: Hosts) -> None:
    now = hosts[0].statistics()
    assert now["threads"] == 3  # Python's, and the reactors
    assert now["descriptors"] < 40 + 6 * NR_DEVICES
