"""Zone Management Receive, descriptor extensions, and what the device tells of zones by itself."""

from __future__ import annotations

import pytest
from tests_protocol import PAGE, Serve, refused
from tests_zones import CAPACITY, SPEC, ZONE, blocks, bring, zoned

from vhostnvme.testing import nvme, zns
from vhostnvme.testing.nvme import Status
from vhostnvme.testing.zns import Action, State, ZonedQueue, ZoneStatus

EXTENSION = bytes(range(64))


@pytest.fixture
def queue(serve: Serve) -> ZonedQueue:
    return zoned(serve)


def set_extension(queue: ZonedQueue, lba: int, data: bytes = EXTENSION) -> nvme.Completion:
    with queue.queue.host.alloc(PAGE) as buffer:
        buffer.put(data)
        return queue.queue.command(zns.send(Action.SET_EXTENSION, lba), buffer, 64)


def test_a_report_names_all_zones(queue: ZonedQueue) -> None:
    assert queue.write(ZONE, blocks(0, 3)).ok
    nr, zones = queue.report()
    assert nr == len(zones) == 16
    assert [zone.start for zone in zones] == list(range(0, 16 * ZONE, ZONE))
    assert all(zone.kind == 2 and zone.capacity == CAPACITY for zone in zones)
    assert zones[1].state is State.IMPLICIT
    assert zones[1].wp == ZONE + 3
    assert zones[0].wp == 0


@pytest.mark.parametrize("partial", [True, False])
def test_a_short_buffer_holds_the_first_ones(queue: ZonedQueue, partial: bool) -> None:
    length = 64 + 3 * 64 + 60  # the fourth does not fit
    nr, zones = queue.report(5 * ZONE + 7, length, partial=partial)
    assert [zone.start for zone in zones] == [5 * ZONE, 6 * ZONE, 7 * ZONE]
    assert nr == (3 if partial else 11)
    assert queue.report(15 * ZONE, length, partial=partial)[0] == 1
    assert queue.report(0, 64, partial=partial) == (0 if partial else 16, [])


def test_reports_page_through_many_zones(serve: Serve) -> None:
    queue = zoned(serve, "mem:512M?zoned=on&zone-size=64K")
    assert [zone.start for zone in queue.zones()] == list(range(0, 8192 * ZONE, ZONE))
    assert queue.report(0, 4096)[0] == 8192
    refused(queue.queue.command(zns.receive(0, (1 << 20) + 4)), Status.INVALID_FIELD)
    with queue.queue.host.alloc(1 << 20) as buffer:
        assert queue.queue.command(zns.receive(0, 1 << 20), buffer, 1 << 20).ok
        assert zns.parse_report(buffer.get())[0] == 8192


def test_reports_filter(serve: Serve) -> None:
    spec = SPEC.replace("max-active=5", "max-active=9")
    queue = zoned(serve, spec + "&error=100%&error-ops=write&error-after=5")
    states = (State.EMPTY, State.IMPLICIT, State.EXPLICIT, State.CLOSED, State.FULL)
    for n, state in enumerate(states):
        bring(queue, n * ZONE, state)
    assert queue.write(5 * ZONE, blocks(0)).ok
    for zone in (5, 6):
        assert not queue.append(zone * ZONE, blocks(0)).ok
    queue.must(Action.OFFLINE, 6 * ZONE)
    order = (*states, State.READ_ONLY, State.OFFLINE)
    for value, state in enumerate(order, 1):
        nr, zones = queue.report(state=value)
        assert nr == len(zones)
        assert {zone.state for zone in zones} == {state}
        assert nr == (10 if state is State.EMPTY else 1)
        assert queue.report(ZONE * 7, state=value)[0] == (9 if state is State.EMPTY else 0)


def test_receive_refuses_nonsense(queue: ZonedQueue) -> None:
    command = queue.queue.command
    with queue.queue.host.alloc(PAGE) as buffer:
        for sqe, code in (
            (zns.receive(16 * ZONE, PAGE), Status.LBA_RANGE),
            (zns.receive(0, PAGE, action=2), Status.INVALID_FIELD),
            (zns.receive(0, PAGE, state=8), Status.INVALID_FIELD),
            (zns.receive(0, 60), Status.INVALID_FIELD),
        ):
            refused(command(sqe, buffer, PAGE), code)


def test_extensions(queue: ZonedQueue) -> None:
    assert set_extension(queue, ZONE).ok
    zone = queue.zone(ZONE)
    assert (zone.state, zone.attributes) == (State.CLOSED, zns.ZONE_HAS_EXTENSION)
    refused(set_extension(queue, ZONE), ZoneStatus.INVALID_TRANSITION)
    nr, zones = queue.report(0, 64 + 3 * 128, partial=True, extension=64)
    assert nr == 3
    assert [zone.extension for zone in zones] == [bytes(64), EXTENSION, bytes(64)]
    assert queue.write(ZONE, blocks(0)).ok
    assert queue.zone(ZONE).attributes == zns.ZONE_HAS_EXTENSION
    queue.must(Action.RESET, ZONE)
    assert queue.zone(ZONE).attributes == 0
    for n in range(5):
        assert set_extension(queue, n * ZONE).ok
    refused(set_extension(queue, 5 * ZONE), ZoneStatus.TOO_MANY_ACTIVE)
    refused(queue.act(Action.SET_EXTENSION, every=True), Status.INVALID_FIELD)


def test_without_extensions_there_are_none(serve: Serve) -> None:
    queue = zoned(serve, "mem:1M?zoned=on&zone-size=64K")
    refused(set_extension(queue, 0), Status.INVALID_FIELD)
    refused(queue.queue.command(zns.receive(0, PAGE, action=1)), Status.INVALID_FIELD)
    assert queue.queue.host.identify(5, 1, csi=2)[4:12] == b"\xff" * 8  # MAR, MOR: no limits
    for n in range(16):
        queue.must(Action.OPEN, n * ZONE)


def test_a_zone_that_breaks_is_told(serve: Serve) -> None:
    queue = zoned(serve, SPEC + "&error=100%&error-ops=write")
    host = queue.queue.host
    assert host.identify_controller()[95] & 8  # OAES bit 27
    host.set_feature(0x0B, 1 << 27)
    event = host.submit_async_event()
    refused(queue.write(3 * ZONE, blocks(0)), Status.WRITE_FAULT, dnr=None)
    completion = host.wait_async_event(event)
    assert completion.result == 0x02 | 0xEF << 8 | zns.CHANGED_ZONES_LOG << 16
    assert completion.dword1 == 1  # the namespace
    assert not queue.append(5 * ZONE, blocks(0)).ok
    for rae in (True, False):
        page = host.log_page(zns.CHANGED_ZONES_LOG, PAGE, nsid=1, rae=rae)
        words = [int.from_bytes(page[at : at + 8], "little") for at in range(0, 32, 8)]
        assert words == [2, 3 * ZONE, 5 * ZONE, 0]
    assert host.log_page(zns.CHANGED_ZONES_LOG, PAGE, nsid=1) == bytes(PAGE)
    event = host.submit_async_event()
    assert not queue.write(6 * ZONE, blocks(0)).ok
    assert host.wait_async_event(event).dword1 == 1
    with host.alloc(PAGE) as buffer:
        for nsid in (0, 2, 0xFFFFFFFF):
            sqe = nvme.get_log_page(zns.CHANGED_ZONES_LOG, PAGE, nsid)
            refused(host.admin(sqe, buffer), Status.INVALID_NAMESPACE)


def test_more_zones_than_the_log_holds(serve: Serve) -> None:
    queue = zoned(serve, "mem:64M?zoned=on&zone-size=64K&error=100%&error-ops=write")
    for n in range(512):
        assert not queue.write(n * ZONE, blocks(0)).ok
    page = queue.queue.host.log_page(zns.CHANGED_ZONES_LOG, PAGE, nsid=1)
    assert page == b"\xff\xff" + bytes(PAGE - 2)
