"""Asynchronous events (Base 5.2), and the namespaces and doorbells that raise them."""

from __future__ import annotations

import struct

import pytest
from tests_protocol import BLOCK, TRAPPED, Serve, Served, pattern, refused, until

from vhostnvme.native import Namespace
from vhostnvme.native.host import PeerTimeout
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import parse_spec
from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Status

ERROR, SMART, NOTICE = 0, 1, 2
DOORBELL_REGISTER, DOORBELL_VALUE, NAMESPACE_ATTRIBUTE = 0, 1, 0
LOG_ERROR, LOG_SMART, LOG_CHANGED = 1, 2, 4
ASYNC_EVENT_CONFIG, TEMPERATURE = 0xB, 4
QUIET_S = 0.02


def event(host: NvmeHost, cid: int) -> tuple[int, int, int]:
    """Type, information and log page of the event that a request brings."""
    result = host.wait_async_event(cid).result
    return result & 7, result >> 8 & 0xFF, result >> 16 & 0xFF


def nothing(host: NvmeHost, cid: int) -> None:
    assert host.admin(nvme.Sqe(0x0A, cdw10=6)).ok
    with pytest.raises(PeerTimeout):
        host.wait_async_event(cid, QUIET_S)


def changed(host: NvmeHost, rae: bool = False) -> list[int]:
    page = host.log_page(LOG_CHANGED, 4096, rae=rae)
    return [nsid for nsid in struct.unpack("<1024I", page) if nsid]


def newest_error(host: NvmeHost) -> tuple[int, int]:
    """How many there were, and the SQID of the last."""
    count, sqid = struct.unpack_from("<QH", host.log_page(LOG_ERROR, 64, rae=True))
    return count, sqid


@pytest.fixture
def trapped(serve: Serve) -> NvmeHost:
    return serve("mem:1M", **TRAPPED).connect()


def spare(served: Served, spec: str = "mem:1M") -> Namespace:
    return Namespace(served.runtime, native_options(parse_spec(spec)))


def test_requests_are_parked_up_to_the_limit(host: NvmeHost) -> None:
    limit = host.identify_controller()[259] + 1  # AERL, zero-based
    for _ in range(limit):
        host.submit_async_event()
    for _ in range(3):
        refused(host.admin(nvme.async_event()), Status.AER_LIMIT)
    assert host.poll(0) == []


@pytest.mark.parametrize("qid", [1, 64, 65, 500])
@pytest.mark.parametrize("completion", [False, True])
def test_a_doorbell_of_no_queue_is_an_invalid_register(
    trapped: NvmeHost, qid: int, completion: bool
) -> None:
    cid = trapped.submit_async_event()
    before, _ = newest_error(trapped)
    trapped.ring(qid, 1, completion)
    assert event(trapped, cid) == (ERROR, DOORBELL_REGISTER, LOG_ERROR)
    assert newest_error(trapped) == (before + 1, qid)
    assert trapped.identify_controller()


@pytest.mark.parametrize("value", [16, 17, 255, 0xFFFF])
def test_a_tail_beyond_the_queue_is_an_invalid_value(trapped: NvmeHost, value: int) -> None:
    queue = trapped.create_queue_pair(1, depth=16)
    for _ in range(3):
        queue.flush()
    cid = trapped.submit_async_event()
    before, _ = newest_error(trapped)
    trapped.ring(1, value)
    assert event(trapped, cid) == (ERROR, DOORBELL_VALUE, LOG_ERROR)
    assert newest_error(trapped) == (before + 1, 1)
    for _ in range(20):  # the queue goes on where it was
        queue.flush()


@pytest.mark.parametrize("value", [4, 9, 16, 0xFFFF])
def test_a_head_that_was_not_posted_is_an_invalid_value(trapped: NvmeHost, value: int) -> None:
    queue = trapped.create_queue_pair(1, depth=16)
    for _ in range(3):
        queue.flush()
    cid = trapped.submit_async_event()
    trapped.ring(1, value, completion=True)
    assert event(trapped, cid) == (ERROR, DOORBELL_VALUE, LOG_ERROR)
    assert newest_error(trapped)[1] == 1
    for _ in range(40):
        queue.flush()


def test_a_bad_tail_of_the_admin_queue(trapped: NvmeHost) -> None:
    cid = trapped.submit_async_event()
    trapped.ring(0, 32)
    assert event(trapped, cid) == (ERROR, DOORBELL_VALUE, LOG_ERROR)
    assert trapped.identify_controller()


@pytest.mark.parametrize("completion", [False, True])
def test_a_bad_value_in_the_mapped_page_is_noticed(serve: Serve, completion: bool) -> None:
    host = serve("mem:1M", doorbells=1).connect()
    queue = host.create_queue_pair(1, depth=16)
    queue.flush()
    cid = host.submit_async_event()
    host.ring(1, 99, completion)
    assert event(host, cid) == (ERROR, DOORBELL_VALUE, LOG_ERROR)
    for _ in range(40):
        queue.flush()


def test_the_same_mistake_is_told_again_after_a_good_value(trapped: NvmeHost) -> None:
    queue = trapped.create_queue_pair(1, depth=16)
    for _ in range(3):
        cid = trapped.submit_async_event()
        trapped.ring(1, 77)
        assert event(trapped, cid) == (ERROR, DOORBELL_VALUE, LOG_ERROR)
        trapped.log_page(LOG_ERROR, 64)
        queue.flush()


def test_an_event_waits_for_a_request(trapped: NvmeHost) -> None:
    trapped.ring(9, 1)
    assert trapped.admin(nvme.Sqe(0x0A, cdw10=6)).ok
    assert event(trapped, trapped.submit_async_event()) == (ERROR, DOORBELL_REGISTER, LOG_ERROR)


def test_events_of_a_type_are_masked_until_the_log_is_read_without_rae(trapped: NvmeHost) -> None:
    first, second = trapped.submit_async_event(), trapped.submit_async_event()
    trapped.ring(9, 1)
    cid = trapped.wait_any(0).cid
    other = second if cid == first else first
    trapped.ring(9, 1)
    nothing(trapped, other)
    trapped.log_page(LOG_ERROR, 64, rae=True)
    trapped.ring(9, 1)
    nothing(trapped, other)
    trapped.log_page(LOG_SMART, 512)  # another type's
    nothing(trapped, other)
    trapped.log_page(LOG_ERROR, 64)
    trapped.ring(9, 1)
    assert event(trapped, other) == (ERROR, DOORBELL_REGISTER, LOG_ERROR)


def test_types_do_not_mask_each_other(serve: Serve) -> None:
    served = serve("mem:1M", **TRAPPED)
    host = served.connect()
    cids = [host.submit_async_event() for _ in range(3)]
    host.ring(9, 1)
    with spare(served) as extra:
        served.controller.attach(extra, 7)
        kinds = {(host.wait_any(0).result & 7) for _ in cids[:2]}
        assert kinds == {ERROR, NOTICE}
        served.controller.detach(7)


def test_attach_and_detach_raise_the_namespace_event(served: Served) -> None:
    host = served.connect()
    assert changed(host) == []
    for nsid in (2, 256):
        with spare(served) as extra:
            cid = host.submit_async_event()
            served.controller.attach(extra, nsid)
            assert event(host, cid) == (NOTICE, NAMESPACE_ATTRIBUTE, LOG_CHANGED)
            assert host.active_namespaces() == [1, nsid]
            assert changed(host, rae=True) == [nsid]
            assert changed(host) == [nsid]
            assert changed(host) == []
            queue = host.create_queue_pair(1, nsid=nsid)
            queue.write(0, pattern(nsid, BLOCK))
            assert queue.read(0, 1) == pattern(nsid, BLOCK)
            cid = host.submit_async_event()
            served.controller.detach(nsid)
            assert event(host, cid) == (NOTICE, NAMESPACE_ATTRIBUTE, LOG_CHANGED)
            assert host.active_namespaces() == [1]
            refused(queue.command(nvme.read(nsid, 0, 1)), Status.INVALID_NAMESPACE)
            assert changed(host) == [nsid]
            queue.delete()


def test_changes_gather_in_one_event_until_the_list_is_read(served: Served) -> None:
    host = served.connect()
    cids = [host.submit_async_event() for _ in range(2)]
    extras = [spare(served) for _ in range(3)]
    for nsid, extra in enumerate(extras, 10):
        served.controller.attach(extra, nsid)
    first = host.wait_any(0)
    assert first.result == NOTICE | LOG_CHANGED << 16
    (other,) = set(cids) - {first.cid}
    nothing(host, other)
    assert changed(host) == [10, 11, 12]
    nothing(host, other)  # all of it was in the list: there is nothing left to tell
    served.controller.detach(11)
    assert event(host, other) == (NOTICE, NAMESPACE_ATTRIBUTE, LOG_CHANGED)
    assert changed(host) == [11]
    served.controller.detach(10)
    served.controller.detach(12)
    for extra in extras:
        extra.close()


def test_the_configuration_masks_namespace_events(served: Served) -> None:
    host = served.connect()
    host.set_feature(ASYNC_EVENT_CONFIG, 0)
    cid = host.submit_async_event()
    with spare(served) as extra:
        served.controller.attach(extra, 2)
        nothing(host, cid)
        host.set_feature(ASYNC_EVENT_CONFIG, 1 << 8)
        served.controller.detach(2)
        assert event(host, cid) == (NOTICE, NAMESPACE_ATTRIBUTE, LOG_CHANGED)


def test_what_changed_before_the_host_came_is_no_change(serve: Serve) -> None:
    served = serve("mem:1M", "mem:1M")
    host = served.connect()
    cid = host.submit_async_event()
    nothing(host, cid)
    assert changed(host) == []
    with spare(served) as extra:
        served.controller.attach(extra, 3)
        assert event(host, cid) == (NOTICE, NAMESPACE_ATTRIBUTE, LOG_CHANGED)
        host.disable()
        host.enable()
        assert changed(host) == []
        nothing(host, host.submit_async_event())
        served.controller.detach(3)


def test_io_in_flight_ends_before_its_namespace_goes(serve: Serve) -> None:
    served = serve("mem:1M")
    with spare(served, "mem:1M?delay=30ms") as slow:
        served.controller.attach(slow, 2)
        host = served.connect()
        queue = host.create_queue_pair(1, nsid=2)
        cids = [queue.submit(nvme.flush(2)) for _ in range(10)]
        until(lambda: served.controller.info().inflight == 10, "all fetched")
        served.controller.detach(2)  # waits
        assert all(queue.wait(cid).ok for cid in cids)
        assert slow.info().flushes == 10


def test_the_temperature_threshold_raises_a_smart_event(host: NvmeHost) -> None:
    temperature = struct.unpack_from("<H", host.log_page(LOG_SMART, 512), 1)[0]
    assert host.log_page(LOG_SMART, 512)[0] == 0
    cid = host.submit_async_event()
    host.set_feature(TEMPERATURE, temperature + 10)
    nothing(host, cid)
    host.set_feature(TEMPERATURE, temperature)
    assert event(host, cid) == (SMART, 1, LOG_SMART)
    assert host.log_page(LOG_SMART, 512)[0] == 1 << 1
    host.set_feature(TEMPERATURE, temperature + 10)
    assert host.log_page(LOG_SMART, 512)[0] == 0
    cid = host.submit_async_event()
    host.set_feature(TEMPERATURE, 1 << 20 | temperature)  # the under-temperature one
    assert event(host, cid) == (SMART, 1, LOG_SMART)


def test_the_configuration_masks_smart_events(host: NvmeHost) -> None:
    host.set_feature(ASYNC_EVENT_CONFIG, 0)
    cid = host.submit_async_event()
    host.set_feature(TEMPERATURE, 0)
    nothing(host, cid)
    assert host.log_page(LOG_SMART, 512)[0] == 1 << 1


def test_a_failed_flush_makes_the_media_read_only_and_tells(serve: Serve) -> None:
    served = serve("mem:1M?error=100%&error-ops=flush", "mem:1M")
    host = served.connect()
    queue = host.create_queue_pair(1)
    queue.write(0, pattern(1, BLOCK))
    cid = host.submit_async_event()
    completion = queue.command(nvme.flush(1))
    refused(completion, Status.WRITE_FAULT, dnr=None)
    assert event(host, cid) == (SMART, 0, LOG_SMART)
    assert host.log_page(LOG_SMART, 512)[0] & 1 << 3  # the media is read-only
    with host.alloc(4096) as buffer:
        refused(queue.command(nvme.write(1, 0, 1), buffer, BLOCK), Status.WRITE_PROTECTED)
    refused(queue.command(nvme.flush(1)), Status.WRITE_FAULT)
    assert queue.read(0, 1) == pattern(1, BLOCK)
    queue.write(0, pattern(2, BLOCK), nsid=2)  # the other namespace is well


def test_events_find_room_in_a_small_admin_queue(serve: Serve) -> None:
    host = serve("mem:1M", **TRAPPED).connect(enable=False)
    host.enable(asq_entries=8, acq_entries=2)
    cids = [host.submit_async_event() for _ in range(3)]
    for _ in range(5):
        host.ring(9, 1)
        completion = host.wait_any(0)
        assert completion.cid in cids and completion.result & 7 == ERROR
        cids.remove(completion.cid)
        cids.append(host.submit_async_event())
        assert host.log_page(LOG_ERROR, 64)
