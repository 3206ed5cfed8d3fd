"""Reservations (Base 7.2 to 7.5, 8.19): several hosts on one namespace of one drive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_protocol import BLOCK, PAGE, Serve, dice, pattern, refused
from tests_reservations import HOLDER, OUTSIDER, REGISTRANT, Parties, opened, reserve, take

from vhostnvme.native import (
    Runtime,
)
from vhostnvme.testing import nvme, nvme_io
from vhostnvme.testing.nvme import Admin, Sqe, Status
from vhostnvme.testing.nvme_io import Kind, Notice

CONFLICT = Status.RESERVATION_CONFLICT
READS = {"read", "compare", "verify"}


@pytest.fixture
def parties(runtime: Runtime, sockets: Path) -> Iterator[Parties]:
    with opened(runtime, sockets, "mem:16M", 3) as made:
        yield made


IO = {
    "read": nvme.read(1, 0, 8),
    "compare": nvme.compare(1, 0, 8),
    "verify": nvme.verify(1, 0, 8),
    "write": nvme.write(1, 0, 8),
    "zeroes": nvme.write_zeroes(1, 0, 8),
    "deallocate": nvme.dataset_management(1, 1),
    "uncorrectable": nvme_io.write_uncorrectable(1, 1000, 1),
    "flush": nvme.flush(1),
    "flush all": nvme.flush(0xFFFFFFFF),
    "copy": nvme_io.copy(1, 64, 1),
}


@pytest.mark.parametrize("kind", list(Kind))
def test_each_command_in_the_presence_of_a_reservation(parties: Parties, kind: Kind) -> None:
    """The table of Base 8.19, command by command, on the wire."""
    reserve(parties, kind)
    exclusive = kind in (2, 4, 6)
    for name, sqe in IO.items():
        outsider = exclusive or name not in READS
        registrant = outsider and kind in (Kind.WRITE_EXCLUSIVE, Kind.EXCLUSIVE_ACCESS)
        for party, forbidden in zip(parties, (False, registrant, outsider), strict=True):
            done = party.send(sqe)
            assert (done.code == CONFLICT) is forbidden, f"{name} of host {party.number}: {done}"
            assert forbidden or done.ok, f"{name} of host {party.number}: {done}"
            assert done.dnr is forbidden


@pytest.mark.parametrize("kind", list(Kind))
def test_admin_commands_in_the_presence_of_a_reservation(parties: Parties, kind: Kind) -> None:
    reserve(parties, kind)
    registrant = kind in (Kind.WRITE_EXCLUSIVE, Kind.EXCLUSIVE_ACCESS)
    for nsid in (1, 0xFFFFFFFF):
        done = parties[OUTSIDER].host.admin(Sqe(Admin.FORMAT_NVM, nsid=nsid))
        refused(done, CONFLICT)
        assert (parties[REGISTRANT].host.admin(Sqe(Admin.FORMAT_NVM, nsid=nsid)).ok) != registrant
    assert parties[OUTSIDER].host.admin(Sqe(Admin.FORMAT_NVM, nsid=2)).code != CONFLICT
    assert parties[HOLDER].host.admin(Sqe(Admin.FORMAT_NVM, nsid=1)).ok
    assert parties[OUTSIDER].host.identify_namespace(1).raw[31] >> 1 & 0x3F == 0x3F  # RESCAP


@pytest.mark.parametrize("kind", list(Kind))
def test_reservation_commands_in_its_presence(parties: Parties, kind: Kind) -> None:
    reserve(parties, kind)
    holder, registrant, outsider = parties
    refused(outsider.acquire(kind), CONFLICT)
    refused(outsider.acquire(kind, 1, holder.key), CONFLICT)
    refused(outsider.release(kind), CONFLICT)
    done = registrant.acquire(kind)
    assert done.ok if kind >= Kind.WRITE_EXCLUSIVE_ALL else done.code == CONFLICT
    assert outsider.register().ok
    assert outsider.report().kind == kind
    assert outsider.register(1).ok
    assert registrant.acquire(kind, 1, 0 if kind >= Kind.WRITE_EXCLUSIVE_ALL else holder.key).ok
    assert [entry.cntlid for entry in registrant.report().controllers] == [2]
    assert registrant.release(kind).ok
    assert registrant.report().kind == 0


def test_report_in_both_structures(parties: Parties) -> None:
    for party, identifier in zip(parties, (b"A" * 8, b"B" * 8, b"A" * 8), strict=True):
        assert party.identify_as(identifier).ok
    assert parties[0].register(persist=3).ok
    assert parties[1].register().ok
    assert parties[2].acquire(Kind.WRITE_EXCLUSIVE).code == CONFLICT  # host A has another key
    parties[2].key = parties[0].key
    assert parties[2].acquire(Kind.WRITE_EXCLUSIVE).ok  # by whichever of its controllers
    report = parties[1].report()
    assert (report.generation, report.kind, report.persists) == (2, 1, True)
    assert [(entry.cntlid, entry.holds, entry.key) for entry in report.controllers] == [
        *((1, True, 0x11), (3, True, 0x11), (2, False, 0x22)),
    ]
    assert [entry.host for entry in report.controllers] == [b"A" * 8, b"A" * 8, b"B" * 8]
    with parties[1].host.alloc(PAGE) as buffer:
        sqe = buffer.point(nvme_io.report(1, PAGE, extended=True))
        refused(parties[1].queue.command(sqe), Status.HOST_IDENTIFIER_FORMAT)
        buffer.put(b"\xee" * PAGE)
        assert parties[1].queue.command(buffer.point(nvme_io.report(1, 28))).ok  # a part of it
        assert buffer.get()[28:] == b"\xee" * (PAGE - 28)


def test_report_of_long_identifiers(parties: Parties) -> None:
    assert parties[0].identify_as(b"0123456789abcdef").ok
    refused(parties[1].identify_as(b"B" * 8), Status.HOST_IDENTIFIER_FORMAT)
    assert parties[1].identify_as(b"fedcba9876543210").ok
    assert parties[0].register().ok and parties[1].register().ok
    report = parties[1].report(extended=True)
    assert [entry.host for entry in report.controllers] == [
        *(b"0123456789abcdef", b"fedcba9876543210"),
    ]
    with parties[0].host.alloc(PAGE) as buffer:
        sqe = buffer.point(nvme_io.report(1, PAGE))
        refused(parties[0].queue.command(sqe), Status.HOST_IDENTIFIER_FORMAT)


def test_a_host_identifier_stays_as_long_as_it_is_registered(parties: Parties) -> None:
    party = parties[0]
    assert party.identify_as(b"A" * 8).ok
    assert party.identify_as(b"B" * 8).ok
    assert party.register().ok
    refused(party.identify_as(b"C" * 8), Status.COMMAND_SEQUENCE)
    assert party.identify_as(b"B" * 8).ok
    assert party.register(1).ok
    assert party.identify_as(b"C" * 8).ok
    with party.host.alloc(PAGE) as buffer:
        buffer.put(bytes(PAGE))
        sqe = nvme.get_features(nvme_io.HOST_IDENTIFIER)
        assert party.host.admin(sqe, buffer, PAGE).ok
        assert buffer.get(8) == b"C" * 8
        wrong = nvme.get_features(nvme_io.HOST_IDENTIFIER, cdw11=1)
        refused(party.host.admin(wrong, buffer, PAGE), Status.HOST_IDENTIFIER_FORMAT)


def test_registrations_outlive_a_reset_and_identifiers_do_not(parties: Parties) -> None:
    holder, registrant, outsider = parties
    assert holder.identify_as(b"A" * 8).ok
    reserve(parties, Kind.WRITE_EXCLUSIVE)
    for party in (holder, registrant):
        party.host.reset()
        party.start()
    refused(holder.send(nvme.write(1, 0, 8)), CONFLICT)  # nobody knows it
    assert holder.identify_as(b"A" * 8).ok
    assert holder.send(nvme.write(1, 0, 8)).ok
    refused(registrant.send(nvme.write(1, 0, 8)), CONFLICT)
    controllers = outsider.report().controllers
    assert [(entry.cntlid, entry.holds) for entry in controllers] == [(1, True), (2, False)]


def test_notices_reach_those_concerned(parties: Parties) -> None:
    one, two, three = parties
    for party in parties:
        assert party.register().ok
    assert one.acquire(Kind.WRITE_EXCLUSIVE_REGISTRANTS).ok
    events = [party.host.submit_async_event() for party in parties]
    assert one.release(Kind.WRITE_EXCLUSIVE_REGISTRANTS).ok
    for party, cid in zip(parties[1:], events[1:], strict=True):
        event = party.host.wait_async_event(cid)
        assert event.result == 6 | 0 << 8 | 0x80 << 16  # type, information, log page
        assert party.notice() == (1, Notice.RESERVATION_RELEASED, 0, 1)
        assert party.notice() == (0, 0, 0, 0)
    assert one.notice() == (0, 0, 0, 0)
    assert two.acquire(Kind.EXCLUSIVE_ACCESS).ok
    event_of_two = two.host.submit_async_event()
    assert three.acquire(Kind.EXCLUSIVE_ACCESS, 1, two.key).ok
    assert two.host.wait_async_event(event_of_two).result >> 16 == 0x80
    assert two.notice(retain=True)[1] == Notice.REGISTRATION_PREEMPTED
    assert three.release(Kind.EXCLUSIVE_ACCESS, 1).ok
    assert one.host.wait_async_event(events[0]).result >> 16 == 0x80
    assert one.notice()[1] == Notice.RESERVATION_PREEMPTED
    assert two.notice() == (2, Notice.REGISTRATION_PREEMPTED, 0, 1)


def test_notices_queue_up(parties: Parties) -> None:
    one, two, _ = parties
    assert two.register().ok
    for _ in range(70):  # more than there is room for: the oldest go
        assert one.register().ok
        assert two.acquire(Kind.WRITE_EXCLUSIVE, 1, one.key).ok
    first = one.host.submit_async_event()
    assert one.host.wait_async_event(first).result >> 16 == 0x80
    for at in range(64):
        assert one.notice() == (7 + at, Notice.REGISTRATION_PREEMPTED, 63 - at, 1)
        if at < 63:  # there are more: told again
            assert one.host.wait_async_event(one.host.submit_async_event()).result & 7 == 6
    assert one.notice() == (0, 0, 0, 0)


def test_masked_notices_are_none(parties: Parties) -> None:
    one, two, _ = parties
    assert one.register().ok and two.register().ok
    mask = nvme_io.RESERVATION_MASK
    assert one.host.admin(nvme.set_features(mask, 1 << Notice.RESERVATION_RELEASED, 1)).ok
    assert one.host.get_feature(mask, nsid=1) == 4
    assert two.acquire(Kind.EXCLUSIVE_ACCESS_ALL).ok
    assert two.release(Kind.EXCLUSIVE_ACCESS_ALL).ok
    assert one.notice() == (0, 0, 0, 0)
    assert two.acquire(Kind.WRITE_EXCLUSIVE, 1, one.key).ok
    assert one.notice()[1] == Notice.REGISTRATION_PREEMPTED
    assert one.host.admin(nvme.set_features(mask, 0xE, 0xFFFFFFFF)).ok
    assert one.host.get_feature(mask, nsid=1) == 0xE
    refused(one.host.admin(nvme.get_features(mask, nsid=0xFFFFFFFF)), Status.INVALID_NAMESPACE)
    refused(one.host.admin(nvme.get_features(mask, nsid=7)), Status.INVALID_NAMESPACE)


def test_preempt_and_abort_ends_what_is_under_way(runtime: Runtime, sockets: Path) -> None:
    with opened(runtime, sockets, "mem:16M?delay=300ms", 2) as (one, two):
        assert one.register().ok and two.register().ok
        assert one.acquire(Kind.WRITE_EXCLUSIVE).ok
        with one.host.alloc(PAGE) as buffer:
            cids = [one.queue.submit(buffer.point(nvme.write(1, 8 * at, 8))) for at in range(10)]
            assert two.acquire(Kind.WRITE_EXCLUSIVE, 2, one.key).ok
            for cid in cids:
                done = one.queue.wait(cid)
                assert done.ok or done.code in (
                    Status.ABORT_PREEMPTED,
                    CONFLICT,
                )  # as it was fetched
            refused(one.queue.command(buffer.point(nvme.write(1, 0, 8))), CONFLICT)
        assert two.report().controllers[0].holds


def test_fused_pairs_of_two_controllers_count_together(parties: Parties) -> None:
    """Nothing on the drive comes between the two commands of a pair."""
    rng = dice("test_fused_pairs_of_two_controllers_count_together")
    count = 0
    with contextlib.ExitStack() as stack:
        buffers = [stack.enter_context(party.host.alloc(16 * PAGE)) for party in parties]
        for _ in range(150):
            cids = []
            for at in range(16):
                number = rng.randrange(3)
                party, buffer = parties[number], buffers[number]
                buffer.put(count.to_bytes(BLOCK, "little"), at * PAGE)
                buffer.put((count + 1).to_bytes(BLOCK, "little"), at * PAGE + BLOCK)
                first, second = nvme_io.compare_and_write(1, 5, 1)
                first = buffer.point(first, BLOCK, at * PAGE)
                second = buffer.point(second, BLOCK, at * PAGE + BLOCK)
                pair = party.queue.submit(first, doorbell=False), party.queue.submit(second)
                cids.append((party, *pair))
            won = [party.queue.wait(first).ok for party, first, _ in cids]
            assert [party.queue.wait(second).ok for party, _, second in cids] == won
            assert won.count(True) == 1
            count += 1
    assert int.from_bytes(parties[0].queue.read(5, 1), "little") == count


def test_a_namespace_of_two_drives_keeps_no_state(serve: Serve, parties: Parties) -> None:
    """Each drive is on a reactor of its own: neither may change what the other looks at."""
    served = serve("mem:1M")
    served.controller.attach(parties.namespace, 2)
    queue = served.connect().create_queue_pair(1, nsid=2)
    data = nvme_io.keys(0, 5)
    for party_queue, nsid in ((queue, 2), (parties[0].queue, 1)):
        for sqe in (
            nvme_io.register(nsid, 0),
            nvme_io.acquire(nsid, 0, 1),
            nvme_io.write_uncorrectable(nsid, 0, 1),
        ):
            refused(take(party_queue, sqe, data), Status.OPERATION_DENIED)
        party_queue.write(0, pattern(1, PAGE))
        assert party_queue.read(0, 8) == pattern(1, PAGE)
    served.controller.detach(2)
    assert parties[0].register().ok


def test_persistence_is_a_feature_too(parties: Parties) -> None:
    one = parties[0]
    feature = nvme_io.RESERVATION_PERSISTENCE
    for value in (1, 0, 1):
        assert one.host.admin(nvme.set_features(feature, value, 1)).ok
        assert parties[1].host.get_feature(feature, nsid=1) == value
        assert one.report().persists is bool(value)
    assert one.host.admin(nvme.set_features(feature, 0, 0xFFFFFFFF)).ok
    assert one.host.get_feature(feature, nsid=1) == 0
    assert one.host.get_feature(feature, 3, nsid=1) == 6  # changeable, of a namespace
    refused(one.host.admin(nvme.set_features(feature, 1, 9)), Status.INVALID_NAMESPACE)
    sqe = nvme.set_features(feature, 1, 1, save=True)
    refused(one.host.admin(sqe), Status.FEATURE_NOT_SAVEABLE)


def test_refusals_say_where(parties: Parties) -> None:
    one = parties[0]
    refused(one.acquire(Kind.WRITE_EXCLUSIVE), CONFLICT)
    assert one.register().ok
    for sqe, location in (
        (nvme_io.register(1, 3), 40),
        (nvme_io.register(1, 0, persist=1), 40),
        (nvme_io.acquire(1, 3, 1), 40),
        (nvme_io.acquire(1, 0, 0), 40),
        (nvme_io.acquire(1, 0, 7), 40),
        (nvme_io.acquire(1, 0, 1, flags=nvme_io.IGNORE_KEY), 40),
        (nvme_io.release(1, 2, 1), 40),
        (nvme_io.release(1, 0, 1, flags=nvme_io.IGNORE_KEY), 40),
    ):
        refused(one.send(sqe, nvme_io.keys(one.key, one.key)), Status.INVALID_FIELD)
        entry = one.host.log_page(1, 64)
        assert int.from_bytes(entry[14:16], "little") == location
    assert one.register(1).ok
    refused(one.register(1), CONFLICT)
    for opcode in (0x0D, 0x0E, 0x11, 0x15):
        refused(one.queue.command(Sqe(opcode, nsid=2)), Status.INVALID_NAMESPACE)
        sqe = Sqe(opcode, nsid=1, prp1=1 << 40)
        refused(one.queue.command(sqe), Status.DATA_TRANSFER_ERROR)


def test_one_controller_alone(serve: Serve) -> None:
    """With no drive of its own making, it is the only controller of one."""
    served = serve("mem:1M")
    host = served.connect()
    queue = host.create_queue_pair()
    with host.alloc(PAGE) as buffer:
        buffer.put(nvme_io.keys(0, 5))
        assert queue.command(nvme_io.register(1, 0), buffer).ok
        buffer.put(nvme_io.keys(5, 0))
        assert queue.command(nvme_io.acquire(1, 0, Kind.EXCLUSIVE_ACCESS), buffer).ok
    queue.write(0, pattern(1, PAGE))
    assert queue.read(0, 8) == pattern(1, PAGE)
    page = host.identify_controller()
    assert int.from_bytes(page[520:522], "little") >> 5 & 1  # ONCS: reservations
    assert page[96] & 1  # CTRATT: host identifiers of 128 bits
