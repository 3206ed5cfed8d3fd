"""Our forwarder and several ways to one namespace: ANA, switching, and no command lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests_forward import Forwarded, behaving_target
from tests_protocol import Serve, pattern, until

from vhostnvme.native import EventType
from vhostnvme.testing.nvme import Io, Status
from vhostnvme.testing.nvmetcp_fabrics import Ana
from vhostnvme.testing.nvmetcp_rules import io
from vhostnvme.testing.nvmetcp_target import ScriptedTarget


@pytest.fixture
def target() -> Iterator[ScriptedTarget]:
    with behaving_target(ports=2) as running:
        yield running


@pytest.fixture
def guest(serve: Serve, target: ScriptedTarget) -> Forwarded:
    guest = Forwarded(serve, target, 0, 1)
    target.wait_connected(2)
    return guest


def used(target: ScriptedTarget, since: int = 0) -> set[int]:
    """The ports by which I/O has come."""
    return {arrival.port for arrival in target.arrivals()[since:]}


def test_the_better_path_is_used(guest: Forwarded, target: ScriptedTarget) -> None:
    target.set_ana(0, Ana.NON_OPTIMIZED)
    guest.wait_event(EventType.REMOTE_ANA)
    since = len(target.arrivals())
    guest.round_trip()
    assert used(target, since) == {1}
    target.set_ana(1, Ana.NON_OPTIMIZED)
    target.set_ana(0, Ana.OPTIMIZED)
    until(lambda: goes_by(guest, target) == {0}, "back to the better one")


def goes_by(guest: Forwarded, target: ScriptedTarget) -> set[int]:
    since = len(target.arrivals())
    guest.round_trip()
    return used(target, since)


@pytest.mark.parametrize("state", [Ana.INACCESSIBLE, Ana.PERSISTENT_LOSS, Ana.CHANGE])
def test_a_path_that_cannot_is_left(guest: Forwarded, target: ScriptedTarget, state: Ana) -> None:
    """Commands that meet the state before its event is heard are done by the other way."""
    held = target.rules.hold(io(), times=8)
    writes = [guest.submit_write(n * 8, pattern(n, 4096))[0] for n in range(8)]
    held.wait(8)
    (port,) = used(target)
    target.device.ana[port, 1] = state
    for request in held.seen:
        request.finish()
    assert all(guest.wait(cid).ok for cid in writes)
    for n in range(8):
        assert target.namespace.data[n * 4096 :][:4096] == pattern(n, 4096)
    target.set_ana(port, state)
    guest.round_trip()


def test_no_path_that_can_is_waited_for(guest: Forwarded, target: ScriptedTarget) -> None:
    target.set_ana(0, Ana.CHANGE)
    target.set_ana(1, Ana.INACCESSIBLE)
    cid, _ = guest.submit_write(0, pattern(1, 4096))
    guest.wait_event(EventType.REMOTE_ANA)
    assert guest.queue.poll() == []
    target.set_ana(1, Ana.NON_OPTIMIZED)
    assert guest.wait(cid).ok


def test_no_path_for_too_long(serve: Serve, target: ScriptedTarget) -> None:
    guest = Forwarded(serve, target, 0, 1, reconnect="300ms")
    target.wait_connected(2)
    target.set_ana(0, Ana.INACCESSIBLE)
    target.set_ana(1, Ana.INACCESSIBLE)
    cid, _ = guest.submit_read(0)
    completion = guest.wait(cid)
    assert completion.status_type == 3 and not completion.dnr
    assert completion.code in (Status.HOST_PATH, Status.ANA_INACCESSIBLE)
    target.set_ana(0, Ana.OPTIMIZED)
    guest.wait_event(EventType.REMOTE_ANA)
    until(lambda: reads(guest), "it works again")


def reads(guest: Forwarded) -> bool:
    cid, _ = guest.submit_read(0)
    return guest.wait(cid).ok


@pytest.mark.parametrize("reset", [False, True])
def test_a_lost_path_is_replaced_and_no_command_lost(
    guest: Forwarded, target: ScriptedTarget, reset: bool
) -> None:
    held = target.rules.hold(io(), times=12)
    writes = [guest.submit_write(n * 8, pattern(n, 4096))[0] for n in range(6)]
    reads_ = [guest.submit_read(64 + n * 8)[0] for n in range(6)]
    held.wait(12)
    (port,) = used(target)
    target.ports[port].stop(cut=False)
    target.cut(port, reset=reset)
    assert all(guest.wait(cid).ok for cid in writes + reads_)
    for n in range(6):
        assert target.namespace.data[n * 4096 :][:4096] == pattern(n, 4096)
    assert goes_by(guest, target) == {1 - port}
    for request in held.seen:
        assert request.apply() is None or request.sqe.opcode == Io.READ
    target.ports[port].start()
    target.wait_connected(2)
    guest.round_trip()


def test_paths_take_turns_in_failing(guest: Forwarded, target: ScriptedTarget) -> None:
    for turn in range(4):
        port = turn % 2
        target.ports[port].stop()
        guest.round_trip(turn)
        target.ports[port].start()
        target.wait_connected(2)


def test_a_path_to_something_else_is_not_used(serve: Serve, target: ScriptedTarget) -> None:
    """A second address that leads to another namespace is refused; the first serves alone."""
    with ScriptedTarget() as stranger:
        target.ports[1].stop()
        address = target.ports[1].address
        stranger.ports[0].stop()
        stranger.ports[0].address = address
        stranger.ports[0].start()
        guest = Forwarded(serve, target, 0, 1, attached=0)
        guest.wait_event(EventType.REMOTE_REFUSED)
        guest.round_trip()
        assert stranger.arrivals() == []


def test_one_of_two_is_enough_to_begin(serve: Serve, target: ScriptedTarget) -> None:
    target.ports[0].stop()
    guest = Forwarded(serve, target, 0, 1, attached=1)
    guest.round_trip()
    target.ports[0].start()
    target.wait_connected(2)
    target.ports[1].stop()
    guest.round_trip()
