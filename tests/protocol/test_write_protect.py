"""Namespace write protection, feature 84h (Base 5.27.1.33, 8.12)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests_drive import drive_server
from tests_protocol import BLOCK, Serve, pattern, refused

from vhostnvme.testing import NvmeHost, QueuePair, nvme, nvme_io
from vhostnvme.testing.nvme import Status

FEATURE = 0x84
NONE, PROTECT, UNTIL_POWER_CYCLE, PERMANENT = range(4)
NOT_CHANGEABLE, NOT_SAVEABLE = 0x10E, 0x10D


def protect(host: NvmeHost, state: int, nsid: int = 1) -> None:
    assert host.admin(nvme.set_features(FEATURE, state, nsid=nsid)).ok


def protection(host: NvmeHost, nsid: int = 1) -> int:
    return host.get_feature(FEATURE, nsid=nsid)


def can_write(queue: QueuePair, nsid: int = 1) -> bool:
    with queue.host.alloc(4096) as data:
        done = queue.command(data.point(nvme.write(nsid, 0, 1)))
    assert done.ok or done.code == Status.WRITE_PROTECTED
    return done.ok


def test_a_protected_namespace_takes_no_changes(serve: Serve) -> None:
    host = serve("mem:1M", "mem:1M").connect()
    queue = host.create_queue_pair()
    queue.write(0, pattern(1, BLOCK))
    protect(host, PROTECT)
    assert protection(host) == PROTECT and protection(host, 2) == NONE
    with host.alloc(4096) as data:
        data.put(nvme_io.copy_ranges([(0, 1)]))
        for sqe in (
            nvme.write(1, 0, 1),
            nvme.write_zeroes(1, 0, 1),
            nvme_io.write_uncorrectable(1, 0, 1),
            nvme_io.copy(1, 8, 1),
        ):
            refused(queue.command(data.point(sqe)), Status.WRITE_PROTECTED)
    assert queue.read(0, 1) == pattern(1, BLOCK)
    assert queue.command(nvme.flush(1)).ok
    assert can_write(queue, 2)
    assert host.identify(0, 1)[99] & 1 == 1  # NSATTR
    assert host.identify(0, 2)[99] & 1 == 0
    protect(host, NONE)
    assert can_write(queue)
    assert host.identify(0, 1)[99] & 1 == 0


def test_the_change_is_an_event(host: NvmeHost) -> None:
    cid = host.submit_async_event()
    protect(host, PROTECT)
    assert host.wait_async_event(cid).result == 2 | 0 << 8 | 4 << 16


@pytest.mark.parametrize("state", [UNTIL_POWER_CYCLE, PERMANENT])
def test_some_states_cannot_be_left(host: NvmeHost, state: int) -> None:
    protect(host, PROTECT)
    protect(host, state)
    protect(host, state)  # again: nothing changes
    for other in {NONE, PROTECT, UNTIL_POWER_CYCLE, PERMANENT} - {state}:
        refused(host.admin(nvme.set_features(FEATURE, other, nsid=1)), NOT_CHANGEABLE)
    host.disable()
    host.enable()
    assert protection(host) == state


def test_what_is_refused(host: NvmeHost) -> None:
    for state in (4, 7):
        refused(host.admin(nvme.set_features(FEATURE, state, nsid=1)), Status.INVALID_FIELD)
    for nsid in (0, 2, 0xFFFFFFFF):
        done = host.admin(nvme.set_features(FEATURE, PROTECT, nsid=nsid))
        refused(done, Status.INVALID_NAMESPACE)
    refused(host.admin(nvme.set_features(FEATURE, PROTECT, nsid=1, save=True)), NOT_SAVEABLE)
    assert host.identify_controller()[531] == 7  # NWPC


@pytest.mark.parametrize("state", [PROTECT, UNTIL_POWER_CYCLE, PERMANENT])
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_it_outlives_the_server(tmp_path: Path, state: int, how: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(1 << 20))
    with drive_server(tmp_path, f"file:{path}") as server:
        with server.host() as host:
            protect(host, state)
            if how == "kill":
                server.kill()
        if how == "stop":
            server.stop()
    with drive_server(tmp_path, f"file:{path}") as server, server.host() as host:
        left = NONE if state == UNTIL_POWER_CYCLE else state
        assert protection(host) == left
        assert can_write(host.create_queue_pair()) is (left == NONE)
