"""Abort (Base 5.1): what it ends, what it answers, how many there may be."""

from __future__ import annotations

import pytest
from tests_protocol import PAGE, Serve, refused, until

from vhostnvme.native.host import PeerTimeout
from vhostnvme.testing import NvmeHost, QueuePair, nvme
from vhostnvme.testing.nvme import Sqe, Status

NOT_ABORTED = 1


@pytest.mark.parametrize(("sqid", "cid"), [(0, 999), (1, 0), (1, 0xFFFF)])
def test_a_command_that_is_not_there_is_not_aborted(queue: QueuePair, sqid: int, cid: int) -> None:
    completion = queue.host.admin(nvme.abort(sqid, cid))
    assert completion.ok and completion.result == NOT_ABORTED


@pytest.mark.parametrize("sqid", [2, 65, 0xFFFF])
def test_a_queue_that_is_not_there_is_refused(queue: QueuePair, sqid: int) -> None:
    refused(queue.host.admin(nvme.abort(sqid, 0)), Status.INVALID_FIELD)


def test_a_slow_command_is_aborted_once(serve: Serve) -> None:
    served = serve("mem:1M?delay=60s")
    host = served.connect()
    queue = host.create_queue_pair(1, depth=16)
    with host.alloc(PAGE) as buffer:
        cids = [queue.submit(nvme.read(1, 0, 8), buffer) for _ in range(5)]
        until(lambda: served.controller.info().inflight == 5, "all fetched")
        completion = host.admin(nvme.abort(1, cids[2]))
        assert completion.ok and completion.result == 0
        got = queue.poll()  # it comes before the Abort's own completion
        assert [entry.cid for entry in got] == [cids[2]]
        refused(got[0], Status.ABORT_REQUESTED, dnr=None)
        completion = host.admin(nvme.abort(1, cids[2]))
        assert completion.ok and completion.result == NOT_ABORTED
        with pytest.raises(PeerTimeout):
            host.wait_any(1, 0.02)
        assert served.controller.info().inflight == 4


def test_a_command_that_completes_meanwhile_is_not_aborted(serve: Serve) -> None:
    """Whoever comes first: one completion of each, and they agree."""
    served = serve("mem:1M?delay=1ms")
    host = served.connect()
    queue = host.create_queue_pair(1, depth=16)
    outcomes = set()
    for turn in range(60):
        cid = queue.submit(nvme.flush(1))
        while turn % 2 and served.controller.info().inflight == 0:
            pass
        answer = host.admin(nvme.abort(1, cid))
        completion = queue.wait(cid)
        outcomes.add((answer.result, completion.code))
        assert queue.poll() == []
    assert outcomes <= {(0, Status.ABORT_REQUESTED), (NOT_ABORTED, Status.SUCCESS)}


def test_more_aborts_at_once_than_the_limit_says(serve: Serve) -> None:
    served = serve("mem:1M?delay=60s")
    host = served.connect()
    limit = host.identify_controller()[258] + 1  # ACL
    queue = host.create_queue_pair(1, depth=32)
    cids = [queue.submit(nvme.flush(1)) for _ in range(10)]
    until(lambda: served.controller.info().inflight == 10, "all fetched")
    aborts = [host.submit(0, nvme.abort(1, cid), doorbell=False) for cid in cids]
    host.handle.ring(0)
    codes = [host.wait(0, cid).code for cid in aborts]
    assert set(codes) <= {0, Status.ABORT_LIMIT}
    assert codes.count(0) >= limit
    ended = {completion.cid for completion in queue.poll()}
    assert len(ended) == codes.count(0)


def test_a_parked_event_request_can_be_aborted(host: NvmeHost) -> None:
    cids = [host.submit_async_event() for _ in range(4)]
    answer = host.admin(nvme.abort(0, cids[1]))
    assert answer.ok and answer.result == 0
    refused(host.wait(0, cids[1]), Status.ABORT_REQUESTED, dnr=None)
    extra = host.submit_async_event()  # its place is free again
    assert host.admin(Sqe(0x0A, cdw10=6)).ok
    refused(host.admin(nvme.async_event()), Status.AER_LIMIT)
    for cid in (cids[0], cids[2], cids[3], extra):
        answer = host.admin(nvme.abort(0, cid))
        assert answer.ok and answer.result == 0
        refused(host.wait(0, cid), Status.ABORT_REQUESTED, dnr=None)


def test_aborts_in_flight_do_not_survive_a_reset(serve: Serve) -> None:
    served = serve("mem:1M?delay=60s")
    host = served.connect()
    for _ in range(10):
        queue = host.create_queue_pair(1, depth=16)
        cids = [queue.submit(nvme.flush(1)) for _ in range(5)]
        for cid in cids:
            host.submit(0, nvme.abort(1, cid), doorbell=False)
        host.handle.ring(0)
        host.disable()
        host.enable()
    assert served.controller.info().inflight == 0
    assert host.identify_controller()
