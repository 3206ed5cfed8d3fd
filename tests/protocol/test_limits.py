"""Limits as a host sees them: a burst goes through, the rest waits, a change is felt at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from tests_protocol import Serve, Served, refused, until

from vhostnvme.errors import NativeError
from vhostnvme.limits import NO_LIMITS, Limits
from vhostnvme.native import LimitInfo
from vhostnvme.testing import Completion, QueuePair, nvme
from vhostnvme.testing.nvme import Status

# One byte a second, of which an hour's worth is saved: seven blocks, and what is left lets an
# eighth through. The next one is due in eight minutes.
HARDLY = Limits(bandwidth=1, burst_us=3_600_000_000)
BURST = 8


def submit(queue: QueuePair, count: int, *, nsid: int = 1, write: bool = False) -> list[int]:
    with queue.host.alloc(4096) as buffer:
        make = nvme.write if write else nvme.read
        return [queue.submit(make(nsid, i, 1), buffer) for i in range(count)]


def waits(info: LimitInfo, count: int) -> bool:
    return info.waiting == count


def namespace_waits(served: Served, count: int, nsid: int = 1) -> None:
    namespace = served.namespaces[nsid - 1]
    until(lambda: waits(namespace.info().limited, count), f"{count} wait")


def controller_waits(served: Served, count: int) -> None:
    until(lambda: waits(served.controller.info().limited, count), f"{count} wait")


def ended(queue: QueuePair, cids: Sequence[int]) -> list[Completion]:
    return [queue.wait(cid) for cid in cids]


def test_a_burst_goes_through_and_the_rest_waits(serve: Serve) -> None:
    served = serve("mem:1M")
    queue = served.connect().create_queue_pair(1, depth=64)
    served.namespaces[0].set_limits(HARDLY)
    cids = submit(queue, 30)
    namespace_waits(served, 30 - BURST)
    assert all(done.ok for done in ended(queue, cids[:BURST]))
    assert queue.poll() == []
    served.namespaces[0].set_limits(Limits(bandwidth=1 << 30))
    assert all(done.ok for done in ended(queue, cids[BURST:]))
    info = served.namespaces[0].info().limited
    assert info.throttled == 30 - BURST and info.waited_ns > 0 and info.waiting == 0
    assert info.limits == Limits(bandwidth=1 << 30)


def test_lifting_the_limit_lets_all_go_on(serve: Serve) -> None:
    served = serve("mem:1M", limits=HARDLY)
    queue = served.connect().create_queue_pair(1, depth=64)
    cids = submit(queue, 40)
    controller_waits(served, 40 - BURST)
    served.controller.set_limits(NO_LIMITS)
    assert all(done.ok for done in ended(queue, cids))
    assert served.controller.info().limited.limits == NO_LIMITS


def test_a_limit_of_a_spec_holds_from_the_start(serve: Serve) -> None:
    served = serve("mem:1M?bandwidth=1&burst=3600s", "mem:1M")
    queue = served.connect().create_queue_pair(1, depth=64)
    submit(queue, 10)
    namespace_waits(served, 10 - BURST)
    other = submit(queue, 30, nsid=2)
    assert all(done.ok for done in ended(queue, other))


def test_two_controllers_share_the_limit_of_a_namespace(serve: Serve) -> None:
    first, second = serve("mem:1M"), serve("mem:1M")
    shared = first.namespaces[0]
    second.controller.attach(shared, 2)
    try:
        shared.set_limits(HARDLY)
        mine = submit(first.connect().create_queue_pair(1, depth=64), 20)
        namespace_waits(first, 20 - BURST)
        theirs = second.connect().create_queue_pair(1, depth=64)
        cids = submit(theirs, 5, nsid=2)
        namespace_waits(first, 20 - BURST + 5)
        shared.set_limits(NO_LIMITS)
        assert len(ended(theirs, cids)) == 5 and mine
    finally:
        second.controller.detach(2)


def test_iops_are_what_was_asked_for(serve: Serve) -> None:
    """Only a lower bound of the time is certain."""
    served = serve("mem:1M?iops=2000&burst=1ms")
    queue = served.connect().create_queue_pair(1, depth=1024)
    started = time.monotonic()
    cids = submit(queue, 401, write=True)
    assert all(done.ok for done in ended(queue, cids))
    assert time.monotonic() - started >= 0.195
    assert served.namespaces[0].info().limited.throttled >= 300


def test_a_command_larger_than_the_burst_goes_through(serve: Serve) -> None:
    served = serve("mem:1M?bandwidth=1M&burst=1ms")
    queue = served.connect().create_queue_pair(1, depth=64)
    assert len(queue.read(0, 512)) == 256 << 10


def test_a_reset_ends_what_waits(serve: Serve) -> None:
    served = serve("mem:1M?bandwidth=1&burst=3600s", limits=Limits(iops=1))
    host = served.connect()
    queue = host.create_queue_pair(1, depth=1024)
    for _ in range(3):
        submit(queue, 300, write=True)
        until(lambda: served.controller.info().inflight >= 290, "they wait")
        started = time.monotonic()
        host.disable()
        assert time.monotonic() - started < 1, "nothing is in flight: nobody is waited for"
        assert waits(served.namespaces[0].info().limited, 0)
        assert waits(served.controller.info().limited, 0)
        host.enable()
        queue = host.create_queue_pair(1, depth=1024)


def test_a_deleted_queue_ends_what_waits(serve: Serve) -> None:
    served = serve("mem:1M?bandwidth=1&burst=3600s")
    host = served.connect()
    queue = host.create_queue_pair(1, depth=64)
    submit(queue, 30)
    namespace_waits(served, 30 - BURST)
    assert host.delete_sq(1).ok
    namespace_waits(served, 0)


def test_a_client_that_goes_leaves_nothing_behind(serve: Serve) -> None:
    served = serve("mem:1M", limits=HARDLY)
    host = served.connect()
    submit(host.create_queue_pair(1, depth=64), 30)
    controller_waits(served, 30 - BURST)
    host.close()
    controller_waits(served, 0)
    served.controller.set_limits(NO_LIMITS)
    again = served.connect().create_queue_pair(1, depth=64)
    assert all(done.ok for done in ended(again, submit(again, 30)))


def test_a_namespace_that_is_taken_away_ends_what_waits(serve: Serve) -> None:
    served = serve("mem:1M?bandwidth=1&burst=3600s", "mem:1M", limits=HARDLY)
    queue = served.connect().create_queue_pair(1, depth=64)
    cids = submit(queue, 30)
    namespace_waits(served, 30 - BURST)
    served.controller.detach(1)
    assert all(done.ok for done in ended(queue, cids)), "in flight: they end well"
    with queue.host.alloc(4096) as buffer:
        refused(queue.command(nvme.read(1, 0, 1), buffer), Status.INVALID_NAMESPACE)


def test_memory_that_goes_away_is_not_held_up(serve: Serve) -> None:
    served = serve("mem:1M?bandwidth=1&burst=3600s")
    host = served.connect()
    queue = host.create_queue_pair(1, depth=64)
    cids = submit(queue, 30)
    namespace_waits(served, 30 - BURST)
    started = time.monotonic()
    host.handle.dma_unmap(host.info.iova_base, 16 << 20)
    assert time.monotonic() - started < 1
    host.handle.dma_map(0, host.info.iova_base, 16 << 20)
    assert all(done.ok for done in ended(queue, cids)), "they were let through"
    submit(queue, 1)
    namespace_waits(served, 1)  # and are a debt


def test_limits_beyond_the_bounds_are_refused_by_the_library(serve: Serve) -> None:
    served = serve("mem:1M")
    wrong = object.__new__(Limits)
    for name, value in {**dict.fromkeys(NO_LIMITS.__slots__, 0), "iops": 100_000_001}.items():
        object.__setattr__(wrong, name, value)
    with pytest.raises(NativeError, match="too high"):
        served.namespaces[0].set_limits(wrong)
    with pytest.raises(NativeError, match="too high"):
        served.controller.set_limits(wrong)
