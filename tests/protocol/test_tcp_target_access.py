"""Who sees what of our target: allow lists, visible namespaces, discovery and ANA.

The matrix is told once, in `SEES`: every way to learn of a namespace is tried by every host.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from tests_protocol import until
from tests_tcp import LOCALHOST, OTHER_HOSTNQN, TcpServed, failed

from vhostnvme.native import AnaState, Runtime, Subsystem
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import CommandFailed, Status
from vhostnvme.testing.nvmetcp_fabrics import (
    ANA_CHANGED,
    DISCOVERY_CHANGED,
    DISCOVERY_ENTRY_BYTES,
    DISCOVERY_NQN,
    LOG_DISCOVERY,
    NS_CHANGED,
    Ana,
    DiscoveryEntry,
    DiscoveryLog,
    FabricsStatus,
    uuid_of,
)
from vhostnvme.testing.nvmetcp_host import HOSTNQN, HostOptions, TcpHost
from vhostnvme.testing.nvmetcp_queue import Ended, Silent

NSIDS = (1, 2, 3)
ALL, ONE, TWO, NOBODY = (f"nqn.2026-11.test:host-{name}" for name in ("all", "one", "two", "no"))
SEES = {ALL: (1, 2, 3), ONE: (1,), TWO: (2, 3)}
EVENT_CONFIG, NS_EVENTS, ANA_EVENTS, DISCOVERY_EVENTS = 0x0B, 1 << 8, 1 << 11, 1 << 31
LOG_CHANGED, LOG_ANA = 4, 0xC


@pytest.fixture(scope="module")
def served(runtime: Runtime) -> Iterator[TcpServed]:
    target = TcpServed(runtime, ["mem:1M"] * 3, any_host=False)
    target.allow(ALL)
    target.allow(ONE, 1)
    target.allow(TWO, 2, 3)
    yield target
    target.close()


# --- The matrix ---


@pytest.mark.parametrize("hostnqn", [NOBODY, HOSTNQN, ONE + "x", ONE[:-1], ONE.upper(), ""])
def test_nobody_else_is_let_in(served: TcpServed, hostnqn: str) -> None:
    with served.ready() as queue:
        failed(queue.connect(served.data(hostnqn=hostnqn)), FabricsStatus.CONNECT_HOST)


@pytest.mark.parametrize("hostnqn", SEES)
def test_identify_lists_show_what_a_host_may_see(served: TcpServed, hostnqn: str) -> None:
    with served.connect(hostnqn=hostnqn) as host:
        seen = SEES[hostnqn]
        assert tuple(host.active_namespaces()) == seen
        raw = host.identify(7, csi=0)
        assert tuple(nsid for nsid in struct.unpack("<1024I", raw) if nsid) == seen
        for nsid in NSIDS:
            if nsid in seen:
                assert host.identify(0, nsid)[:8] != bytes(8)
                assert uuid_of(host.identify(3, nsid)) is not None
                continue
            assert host.identify(0, nsid) == bytes(4096)
            for cns in (3, 5, 8):
                answer = host.admin.command(nvme.identify(cns, nsid), read=4096)
                assert answer.data in (b"", bytes(4096)), f"CNS {cns:02X}h"


@pytest.mark.parametrize("hostnqn", SEES)
@pytest.mark.parametrize("nsid", NSIDS)
def test_io_goes_where_a_host_may_see(served: TcpServed, hostnqn: str, nsid: int) -> None:
    with served.connect(hostnqn=hostnqn) as host:
        queue = host.create_queue(1)
        seen = nsid in SEES[hostnqn]
        for sqe, data, length in (
            (nvme.read(nsid, 0, 1), b"", 512),
            (nvme.write(nsid, 0, 1), bytes(512), 0),
            (nvme.write_zeroes(nsid, 0, 1), b"", 0),
            (nvme.dataset_management(nsid, 1), nvme.dsm_ranges([(0, 1)]), 0),
            (nvme.flush(nsid), b"", 0),
        ):
            completion = queue.command(sqe, data, length).completion
            assert completion.ok if seen else completion.code == Status.INVALID_NAMESPACE, sqe


@pytest.mark.parametrize("hostnqn", SEES)
def test_logs_show_what_a_host_may_see(served: TcpServed, hostnqn: str) -> None:
    with served.connect(hostnqn=hostnqn) as host:
        shown = [nsid for group in host.ana_log().groups for nsid in group.nsids]
        assert tuple(sorted(shown)) == SEES[hostnqn]


@pytest.mark.parametrize("hostnqn", SEES)
def test_events_tell_what_a_host_may_see(served: TcpServed, hostnqn: str) -> None:
    """A namespace that goes and comes back is news for those who see it, and for nobody else."""
    with served.connect(hostnqn=hostnqn) as host:
        host.set_feature(EVENT_CONFIG, NS_EVENTS)
        host.expect_events()
        host.keep_alive()
        served.subsystem.detach(3)
        served.subsystem.attach(served.namespaces[2], 3)
        if 3 in SEES[hostnqn]:
            assert host.next_event() == NS_CHANGED
            page = host.log_page(LOG_CHANGED, 4096)
            assert [nsid for nsid in struct.unpack("<1024I", page) if nsid] == [3]
        else:
            host.keep_alive()
            with pytest.raises(Silent):
                host.next_event(0.05)
            assert host.log_page(LOG_CHANGED, 4096) == bytes(4096)
        assert tuple(host.active_namespaces()) == SEES[hostnqn]


def test_the_host_that_is_denied_is_thrown_out(served: TcpServed) -> None:
    served.allow(OTHER_HOSTNQN)
    with (
        served.connect(hostnqn=OTHER_HOSTNQN) as host,
        served.connect(hostnqn=ALL) as bystander,
    ):
        queue = host.create_queue(1)
        served.subsystem.deny(OTHER_HOSTNQN)
        queue.ended()
        host.admin.ended()
        with served.ready() as again:
            completion = again.connect(served.data(hostnqn=OTHER_HOSTNQN))
            failed(completion, FabricsStatus.CONNECT_HOST)
        bystander.keep_alive()


def test_several_subsystems_keep_apart(served: TcpServed) -> None:
    second = served.add_subsystem(any_host=True)
    second.attach(served.open("mem:2M"), 5)
    with served.connect(nqn=second.nqn) as host:
        assert host.active_namespaces() == [5]
        assert host.identify_controller().subnqn == second.nqn
    with served.connect(nqn=second.nqn) as host:
        queue = host.create_queue(1, nsid=5)
        second.close()
        queue.ended()
        host.admin.ended()
    with pytest.raises(CommandFailed):
        served.connect(nqn=second.nqn)
    with served.connect(hostnqn=ALL) as host:
        assert host.active_namespaces() == [1, 2, 3]


# --- Discovery (Base 5.16.1.23, 3.1.2.3) ---


def discovery(served: TcpServed, hostnqn: str = ALL, **options: int) -> TcpHost:
    return served.connect(nqn=DISCOVERY_NQN, hostnqn=hostnqn, **options)


def subsystems_of(log: DiscoveryLog) -> list[DiscoveryEntry]:
    return [entry for entry in log.entries if entry.subtype == 2]


def test_discovery_tells_of_what_a_host_may_use(served: TcpServed) -> None:
    second = served.add_subsystem(any_host=True)
    for hostnqn, names in (
        (ALL, {served.nqn, second.nqn}),
        (ONE, {served.nqn, second.nqn}),
        (NOBODY, {second.nqn}),
    ):
        with discovery(served, hostnqn) as host:
            identity = host.identify_controller()
            assert identity.cntrltype == 2 and identity.subnqn == DISCOVERY_NQN
            log = host.discovery_log()
            assert log.recfmt == 0 and log.numrec == len(log.entries)
            assert {entry.subnqn for entry in subsystems_of(log)} == names
            for entry in log.entries:
                assert (entry.trtype, entry.adrfam, entry.traddr) == (3, 1, LOCALHOST)
                assert entry.trsvcid == str(served.address[1])
                assert entry.sectype == 0 and entry.cntlid == 0xFFFF and entry.asqsz >= 32
    second.close()


def test_discovery_has_no_io_queues_and_no_namespaces(served: TcpServed) -> None:
    with discovery(served) as host:
        assert not host.try_queue(1)[1].ok
        completion = host.admin.command(nvme.identify(2), read=4096)
        assert completion.data in (b"", bytes(4096))
        completion = host.admin.command(nvme.identify(0, 1), read=4096)
        assert completion.data in (b"", bytes(4096))


def test_a_discovery_log_is_read_in_parts(served: TcpServed) -> None:
    extras = [served.add_subsystem() for _ in range(3)]
    with discovery(served) as host:
        whole = host.log_page(LOG_DISCOVERY, DISCOVERY_ENTRY_BYTES * 5, rae=True)
        pieces = b"".join(
            host.log_page(LOG_DISCOVERY, 516, offset=at, rae=True)[:512]
            for at in range(0, len(whole), 512)
        )
        assert pieces == whole
        assert len(subsystems_of(DiscoveryLog.of(whole))) == 4
        sqe = nvme.get_log_page(LOG_DISCOVERY, 512, 0, offset=2)
        failed(host.admin.command(sqe, read=512).completion, Status.INVALID_FIELD)
        sqe = nvme.get_log_page(LOG_DISCOVERY, 512, 0, offset=1 << 40)
        completion = host.admin.command(sqe, read=512)
        assert completion.completion.code == Status.INVALID_FIELD or not any(completion.data)
    for extra in extras:
        extra.close()


def test_discovery_changes_are_told_and_counted(served: TcpServed) -> None:
    with discovery(served) as host:
        host.set_feature(EVENT_CONFIG, DISCOVERY_EVENTS)
        before = host.discovery_log()
        host.expect_events()
        host.keep_alive()
        second = served.add_subsystem()
        assert host.next_event() == DISCOVERY_CHANGED
        after = host.discovery_log()
        assert after.genctr > before.genctr and after.numrec == before.numrec + 1
        host.expect_events()
        host.keep_alive()
        number, (_, port) = served.listen()
        assert host.next_event() == DISCOVERY_CHANGED
        ports = {entry.trsvcid for entry in host.discovery_log().entries}
        assert ports == {str(served.address[1]), str(port)}
        served.target.unlisten(number)
        second.close()
        assert host.discovery_log().numrec == before.numrec


def test_a_change_that_a_host_may_not_see_is_none(served: TcpServed) -> None:
    with discovery(served, NOBODY) as host:
        before = host.discovery_log()
        assert [entry.subnqn for entry in subsystems_of(before)] == []
        hidden = served.add_subsystem(any_host=False)
        assert subsystems_of(host.discovery_log()) == []
        hidden.close()


def test_referrals(served: TcpServed) -> None:
    with discovery(served) as host:
        served.target.add_referral("192.0.2.7", 8009)
        entries = [entry for entry in host.discovery_log().entries if entry.subtype == 1]
        assert [(entry.traddr, entry.trsvcid, entry.adrfam) for entry in entries] == [
            ("192.0.2.7", "8009", 1)
        ]
        assert entries[0].subnqn == DISCOVERY_NQN
        served.target.remove_referral("192.0.2.7", 8009)
        assert not [entry for entry in host.discovery_log().entries if entry.subtype == 1]


def test_ipv6_listeners(served: TcpServed) -> None:
    number, address = served.listen("::1")
    with TcpHost(address, served.nqn, HostOptions(hostnqn=ALL)) as host:
        host.create_queue(1).write(0, bytes(512))
    with TcpHost(address, DISCOVERY_NQN, HostOptions(hostnqn=ALL)) as host:
        families = {entry.adrfam: entry.traddr for entry in host.discovery_log().entries}
        assert families.get(2) == "::1"
    served.target.unlisten(number)


# --- ANA (Base 8.1) ---


@pytest.fixture
def plain(runtime: Runtime) -> Iterator[TcpServed]:
    target = TcpServed(runtime, [])
    for nsid, group in ((1, 1), (2, 2)):
        target.subsystem.attach(target.open("mem:1M"), nsid, ana_group=group)
    yield target
    target.close()


def states(host: TcpHost) -> dict[int, int]:
    return {group.group: group.state for group in host.ana_log(rae=True).groups}


def test_the_ana_log_has_every_group(plain: TcpServed) -> None:
    with plain.connect() as host:
        identity = host.identify_controller()
        assert identity.cmic & 8, "ANA reporting"
        assert identity.anacap & 0x1F == 0x1F and identity.nanagrpid >= 2
        groups = host.ana_log().groups
        assert [(g.group, g.state, g.nsids) for g in groups] == [(1, 1, (1,)), (2, 1, (2,))]
        raw = host.identify(0, 2)
        assert struct.unpack_from("<I", raw, 92)[0] == 2
        assert raw[30] & 1, "NMIC: shared"


REFUSALS = {
    Ana.INACCESSIBLE: Status.ANA_INACCESSIBLE,
    Ana.PERSISTENT_LOSS: Status.ANA_LOSS,
    Ana.CHANGE: Status.ANA_TRANSITION,
}


@pytest.mark.parametrize("state", list(Ana))
def test_ana_states_are_told_and_obeyed(plain: TcpServed, state: Ana) -> None:
    with plain.connect() as host:
        host.set_feature(EVENT_CONFIG, ANA_EVENTS)
        queue = host.create_queue(1)
        host.expect_events(2)
        host.keep_alive()
        before = host.ana_log()
        plain.subsystem.set_ana(1, AnaState(state))
        if state != Ana.OPTIMIZED:
            assert host.next_event() == ANA_CHANGED
            assert host.ana_log().change_count > before.change_count
        assert states(host) == {1: state, 2: Ana.OPTIMIZED}
        completion = queue.command(nvme.read(1, 0, 1), read=512).completion
        if state in REFUSALS:
            failed(completion, REFUSALS[state], dnr=False)
        else:
            assert completion.ok
        assert queue.command(nvme.read(2, 0, 1), read=512).completion.ok
        plain.subsystem.set_ana(1, AnaState.OPTIMIZED)
        assert states(host)[1] == Ana.OPTIMIZED
        assert queue.command(nvme.read(1, 0, 1), read=512).completion.ok


def test_ana_states_belong_to_a_listener(plain: TcpServed) -> None:
    number, address = plain.listen()
    with plain.connect() as here, TcpHost(address, plain.nqn) as there:
        plain.subsystem.set_ana(1, AnaState.INACCESSIBLE, number)
        assert states(here)[1] == Ana.OPTIMIZED
        assert states(there)[1] == Ana.INACCESSIBLE
        assert here.create_queue(1).command(nvme.read(1, 0, 1), read=512).completion.ok
        completion = there.create_queue(1).command(nvme.read(1, 0, 1), read=512).completion
        failed(completion, Status.ANA_INACCESSIBLE, dnr=False)


def test_what_is_under_way_survives_a_listener(plain: TcpServed) -> None:
    """Taking a listener away refuses newcomers and nothing else."""
    number, address = plain.listen()
    with TcpHost(address, plain.nqn) as host:
        queue = host.create_queue(1)
        plain.target.unlisten(number)
        queue.write(0, bytes(512))
        with pytest.raises(Exception, match="refused"):
            plain.raw(address=address)


def test_a_namespace_that_goes_while_it_is_used(plain: TcpServed) -> None:
    """Commands after the detach fail; those before are whole; and nobody crashes."""
    with plain.connect() as host:
        queue = host.create_queue(1, 64)
        cids = [queue.submit_read(0, 256) for _ in range(50)]
        plain.subsystem.detach(1)
        codes = {queue.wait(cid).completion.code for cid in cids}
        assert codes <= {0, Status.INVALID_NAMESPACE}
        until(lambda: host.active_namespaces() == [2], "namespace 1 has gone")


def test_who_is_refused_can_come_when_allowed(plain: TcpServed) -> None:
    closed: Subsystem = plain.add_subsystem(any_host=False)
    with pytest.raises((CommandFailed, Ended)):
        plain.connect(nqn=closed.nqn)
    before = plain.target.info().refused
    with plain.ready() as queue:
        completion = queue.connect(plain.data(subnqn=closed.nqn))
        failed(completion, FabricsStatus.CONNECT_HOST)
    assert plain.target.info().refused > before
