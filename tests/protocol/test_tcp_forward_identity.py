"""Our forwarder and a namespace that is another one when it comes back, or has changed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from tests_forward import Forwarded, behaving_target, cut_and_wait
from tests_protocol import Serve

from vhostnvme.native import EventType
from vhostnvme.testing.nvme import Io, Status
from vhostnvme.testing.nvmetcp_fabrics import uuid_of
from vhostnvme.testing.nvmetcp_target import ScriptedTarget

NS_CHANGED_EVENT = 0x040002
OLD = b"old " * 1024


@pytest.fixture
def target() -> Iterator[ScriptedTarget]:
    with behaving_target() as running:
        yield running


@pytest.fixture
def guest(serve: Serve, target: ScriptedTarget) -> Forwarded:
    return Forwarded(serve, target)


def test_another_identity_is_refused(serve: Serve, target: ScriptedTarget) -> None:
    guest = Forwarded(serve, target, reconnect="300ms")
    known = target.namespace.uuid
    target.namespace.uuid = uuid.uuid4()
    target.namespace.data[:4096] = OLD
    cut_and_wait(guest)
    event = guest.wait_event(EventType.REMOTE_REFUSED)
    assert event.text
    cid, _ = guest.submit_read(0)
    assert guest.wait(cid).code == Status.HOST_PATH
    assert target.arrivals(Io.READ) == []
    assert uuid_of(guest.host.identify(3, 1)) == known
    target.namespace.uuid = known
    guest.wait_event(EventType.REMOTE_BACK)
    guest.round_trip()


@pytest.mark.parametrize("change", ["smaller", "other blocks", "gone"])
def test_what_does_not_fit_any_more_is_refused(
    serve: Serve, target: ScriptedTarget, change: str
) -> None:
    guest = Forwarded(serve, target, reconnect="300ms")
    namespace, size = target.namespace, target.namespace.size
    if change == "smaller":
        namespace.resize(size - 4096)
    elif change == "other blocks":
        namespace.block_bytes = 4096
    else:
        del target.device.namespaces[1]
    cut_and_wait(guest)
    guest.wait_event(EventType.REMOTE_REFUSED)
    cid, _ = guest.submit_read(0)
    assert guest.wait(cid).code == Status.HOST_PATH
    namespace.block_bytes = 512
    namespace.resize(size)
    target.device.namespaces[1] = namespace
    guest.wait_event(EventType.REMOTE_BACK)
    guest.round_trip()


def test_a_namespace_that_grew_is_told(guest: Forwarded, target: ScriptedTarget) -> None:
    before = guest.host.identify_namespace().nr_blocks
    guest.host.set_feature(0x0B, 1 << 8)
    aer = guest.host.submit_async_event()
    target.resize(8 << 20)
    event = guest.wait_event(EventType.REMOTE_RESIZED)
    assert event.text
    assert guest.host.identify_namespace().nr_blocks == before  # until we say so
    guest.served.namespaces[0].resize()
    assert guest.host.wait_async_event(aer).result == NS_CHANGED_EVENT
    assert guest.host.identify_namespace().nr_blocks == (8 << 20) // 512
    guest.round_trip(3, 4096, lba=before + 8)
    guest.round_trip()
