"""Our forwarder and a target that is lost: waiting, coming back, and no ghost of a write.

Promise 7: a write whose fate is unknown is never applied after a newer one. Here the target keeps
an old write in hand and would apply it late; what the forwarder has sent before it could know that
the old one is dead is told by the target's log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests_forward import Forwarded, behaving_target
from tests_protocol import Serve, pattern, until

from vhostnvme.native import EventType
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import Admin, Io, Status
from vhostnvme.testing.nvmetcp_device import Outcome
from vhostnvme.testing.nvmetcp_fabrics import CROSS_RESET
from vhostnvme.testing.nvmetcp_pdu import C2HData, Command, Pdu, Response
from vhostnvme.testing.nvmetcp_rules import Request, io, pdus
from vhostnvme.testing.nvmetcp_session import Session
from vhostnvme.testing.nvmetcp_target import ScriptedTarget
from vhostnvme.testing.nvmetcp_wire import encode

OLD, NEW = b"old " * 1024, b"new " * 1024
KATO_S = 0.5


@pytest.fixture
def target() -> Iterator[ScriptedTarget]:
    with behaving_target() as running:
        yield running


@pytest.fixture
def guest(serve: Serve, target: ScriptedTarget) -> Forwarded:
    return Forwarded(serve, target)


def content(target: ScriptedTarget, lba: int = 0, length: int = 4096) -> bytes:
    return bytes(target.namespace.data[lba * 512 :][:length])


# --- Lost and found ---


@pytest.mark.parametrize("reset", [False, True])
def test_reads_survive_a_lost_connection(
    guest: Forwarded, target: ScriptedTarget, reset: bool
) -> None:
    data = pattern(1, 64 << 10)
    target.namespace.data[: 64 << 10] = data
    target.rules.hold(io(Io.READ), times=20)
    reads = [guest.submit_read(n * 8) for n in range(16)]
    until(lambda: len(target.arrivals(Io.READ)) == 16, "all have come")
    target.rules.clear()
    target.cut(reset=reset)
    for n, (cid, buffer) in enumerate(reads):
        assert guest.wait(cid).ok
        assert buffer.get(4096) == data[n * 4096 :][:4096]


def test_a_write_that_was_done_and_not_answered(guest: Forwarded, target: ScriptedTarget) -> None:
    def do_and_die(request: Request) -> None:
        request.apply()
        request.session.close()

    target.rules.on_command(io(Io.WRITE), do_and_die)
    cid, _ = guest.submit_write(0, NEW)
    assert guest.wait(cid).ok
    assert content(target) == NEW
    guest.round_trip()


@pytest.mark.parametrize("after", [1, 4000, 60_000])
def test_a_connection_that_ends_in_the_middle_of_data(
    guest: Forwarded, target: ScriptedTarget, after: int
) -> None:
    data = pattern(2, 128 << 10)
    target.namespace.data[: 128 << 10] = data

    def cut(session: Session, pdu: Pdu) -> None:
        session.send(encode(pdu)[:after], rules=False)
        session.close()

    target.rules.on_send(pdus(C2HData, qid=-1), cut)
    cid, buffer = guest.submit_read(0, 128 << 10)
    assert guest.wait(cid).ok and buffer.get(128 << 10) == data


def test_lost_again_and_again(guest: Forwarded, target: ScriptedTarget) -> None:
    for turn in range(5):
        held = target.rules.hold(io(), times=4)
        cids = [guest.submit_write(8 * n, pattern(turn * 4 + n, 4096))[0] for n in range(2)]
        cids += [guest.submit_read(64)[0] for _ in range(2)]
        held.wait(4)
        target.rules.clear()
        target.cut()
        assert all(guest.wait(cid).ok for cid in cids)
        for n in range(2):
            assert content(target, 8 * n) == pattern(turn * 4 + n, 4096)


def test_nobody_is_there_for_a_while(guest: Forwarded, target: ScriptedTarget) -> None:
    """Inside reconnect_ms commands wait, and nothing fails."""
    target.ports[0].stop()
    cids = [
        guest.submit_write(0, NEW)[0],
        guest.submit_read(8)[0],
        guest.queue.submit(nvme.flush(1)),
    ]
    guest.wait_event(EventType.REMOTE_LOST)
    assert guest.queue.poll() == []
    target.ports[0].start()
    assert all(guest.wait(cid).ok for cid in cids)
    assert content(target) == NEW


def test_nobody_is_there_for_too_long(serve: Serve, target: ScriptedTarget) -> None:
    """Outside it they fail with a path's status, to be tried again; and the device works later."""
    guest = Forwarded(serve, target, reconnect="300ms")
    target.ports[0].stop()
    cids = [guest.submit_write(0, NEW)[0], guest.submit_read(8)[0]]
    for cid in cids:
        completion = guest.wait(cid)
        assert completion.code == Status.HOST_PATH and not completion.dnr
    cid, _ = guest.submit_read(8)
    assert guest.wait(cid).code == Status.HOST_PATH
    target.ports[0].start()
    guest.wait_event(EventType.REMOTE_BACK)
    guest.round_trip()


def test_a_guest_resets_while_the_peer_is_dead(guest: Forwarded, target: ScriptedTarget) -> None:
    target.rules.hold(io())
    for n in range(20):
        guest.submit_write(8 * n, OLD)
        guest.submit_read(8 * n)
    until(lambda: len(target.arrivals()) >= 40, "all have come")
    target.ports[0].stop()
    guest.host.disable()
    guest.host.enable()
    assert guest.host.identify_namespace().nr_blocks == target.namespace.nr_blocks
    target.rules.clear()
    target.ports[0].start()
    guest.queue = guest.host.create_queue_pair(1, depth=64)
    guest.round_trip()


def test_an_end_while_the_peer_is_dead(guest: Forwarded, target: ScriptedTarget) -> None:
    guest.submit_write(0, OLD)
    target.ports[0].stop()
    guest.submit_read(0)
    guest.served.close()


def test_an_end_while_the_peer_is_silent(guest: Forwarded, target: ScriptedTarget) -> None:
    held = target.rules.hold(io())
    guest.submit_write(0, OLD)
    held.wait()
    guest.served.close()


# --- Silence (stated bounds: the keep-alive timeout, twice that for a command) ---


def test_a_peer_that_falls_silent_is_noticed(guest: Forwarded, target: ScriptedTarget) -> None:
    target.rules.on_pdu(pdus(Command), lambda session, pdu: None, None)
    cid, buffer = guest.submit_read(0)
    guest.wait_event(EventType.REMOTE_LOST)
    target.rules.clear()
    target.namespace.data[:4096] = NEW
    assert guest.wait(cid).ok and buffer.get(4096) == NEW


def test_one_command_that_is_forgotten_is_noticed(guest: Forwarded, target: ScriptedTarget) -> None:
    """Others are answered, keep-alives too; this one is not."""
    target.rules.hold(io(Io.READ), times=1)
    cid, _ = guest.submit_read(0)
    lost = False
    while not lost:
        guest.round_trip(lba=64)
        lost = any(e.type is EventType.REMOTE_LOST for e in guest.runtime.poll_events())
    assert guest.wait(cid).ok


def test_a_peer_that_sends_a_byte_now_and_then(guest: Forwarded, target: ScriptedTarget) -> None:
    target.namespace.data[:4096] = NEW
    rule = target.rules.on_send(pdus(C2HData, qid=-1), lambda session, pdu: session.drip(pdu, 0.02))
    cid, buffer = guest.submit_read(0)
    assert guest.wait(cid).ok and buffer.get(4096) == NEW
    assert len(rule.seen) == 1


def test_cve_2024_53169_keep_alive_meets_the_end(serve: Serve, target: ScriptedTarget) -> None:
    """A kernel crashed when its keep-alive ran while the controller was being shut down."""
    for n in range(8):
        guest = Forwarded(serve, target, kato="200ms")
        held = target.rules.on_command(
            lambda request: request.admin and request.sqe.opcode == Admin.KEEP_ALIVE,
            (lambda request: request.session.close()) if n % 2 else (lambda request: False),
        )
        held.wait()
        guest.served.close()
        target.rules.clear()


# --- No ghost writes ---


def writes_after_loss(target: ScriptedTarget, cntlid: int) -> list[float]:
    return [
        a.time for a in target.arrivals(Io.WRITE, Io.WRITE_ZEROES, Io.DSM) if a.cntlid != cntlid
    ]


def test_no_ghost_write_with_a_target_that_can_be_asked(
    guest: Forwarded, target: ScriptedTarget
) -> None:
    """No write on the new association before the cross-controller reset of the old one."""
    held = target.rules.hold(io(Io.WRITE), times=1)
    reset = target.rules.hold(
        lambda request: request.admin and request.sqe.opcode == CROSS_RESET, times=1
    )
    first, _ = guest.submit_write(0, OLD)
    old = held.wait()
    old_controller = old.session.controller
    assert old_controller is not None
    target.cut()
    second, _ = guest.submit_write(0, NEW)
    asked = reset.wait()
    assert asked.sqe.cdw10 == old_controller.cntlid | old_controller.instance << 16
    assert asked.sqe.cdw12 | asked.sqe.cdw13 << 32 == old_controller.instance_random
    read, buffer = guest.submit_read(0)
    assert guest.wait(read).ok, "reads need not wait"
    del buffer
    assert writes_after_loss(target, old_controller.cntlid) == []
    old.apply_late()  # the last moment at which a target may
    asked.session.answer(asked.sqe, target.cross_reset(asked.sqe))
    assert guest.wait(first).ok and guest.wait(second).ok
    assert old.apply() is None
    assert content(target) in (OLD, NEW)  # both were under way at once
    guest.round_trip(5, 4096)


def test_an_acknowledged_write_is_not_undone_by_a_ghost(
    serve: Serve, target: ScriptedTarget
) -> None:
    """The old write fails outside reconnect_ms; the newer one, acknowledged, stays."""
    guest = Forwarded(serve, target, reconnect="300ms")
    held = target.rules.hold(io(Io.WRITE), times=1)
    first, _ = guest.submit_write(0, OLD)
    old = held.wait()
    target.ports[0].stop()
    assert guest.wait(first).code == Status.HOST_PATH
    target.ports[0].start()
    guest.wait_event(EventType.REMOTE_BACK)
    while True:
        second, _ = guest.submit_write(0, NEW)
        if guest.wait(second).ok:
            break
    assert target.arrivals(CROSS_RESET, admin=True), "the fence is still needed"
    assert old.apply() is None
    assert content(target) == NEW


def test_no_ghost_write_with_a_target_that_cannot_be_asked(
    serve: Serve, target: ScriptedTarget
) -> None:
    """Then only time helps: twice the keep-alive timeout, and more."""
    target.device.cross_reset = False
    guest = Forwarded(serve, target)
    held = target.rules.hold(io(Io.WRITE), times=1)
    first, _ = guest.submit_write(0, OLD)
    old = held.wait()
    lost = time.monotonic()
    target.cut()
    read, _ = guest.submit_read(0)
    assert guest.wait(read).ok
    assert guest.wait(first).ok
    cntlid = old.session.controller.cntlid if old.session.controller else 0
    assert min(writes_after_loss(target, cntlid)) - lost >= 2 * KATO_S
    assert target.arrivals(CROSS_RESET, admin=True) == []
    assert content(target) == OLD


def test_a_reset_that_is_not_done_fences_nothing(guest: Forwarded, target: ScriptedTarget) -> None:
    """Result bit 0 clear: it is not gone. Time must pass, or the target is asked again."""
    held = target.rules.hold(io(Io.WRITE), times=1)
    lies = target.rules.on_command(
        lambda request: request.admin and request.sqe.opcode == CROSS_RESET,
        lambda request: request.answer(Outcome(result=0)),
        None,
    )
    first, _ = guest.submit_write(0, OLD)
    old = held.wait()
    lost = time.monotonic()
    target.cut()
    lies.wait()
    assert guest.wait(first).ok
    cntlid = old.session.controller.cntlid if old.session.controller else 0
    assert min(writes_after_loss(target, cntlid)) - lost >= 2 * KATO_S


def test_an_aborted_write_holds_newer_ones_back(guest: Forwarded, target: ScriptedTarget) -> None:
    """The guest gave it up, the target has not: what overlaps waits, what does not goes."""
    held = target.rules.hold(io(Io.WRITE), times=1)
    first, _ = guest.submit_write(0, OLD)
    old = held.wait()
    until(lambda: guest.host.admin(nvme.abort(1, first)).result == 0, "aborted")
    assert guest.wait(first).code == Status.ABORT_REQUESTED
    over, _ = guest.submit_write(4, NEW)
    beside, _ = guest.submit_write(8 + 4, NEW)
    assert guest.wait(beside).ok
    assert [a.sqe.cdw10 for a in target.arrivals(Io.WRITE)] == [0, 12]
    old.finish()
    assert guest.wait(over).ok
    assert content(target, 4) == NEW and content(target, 0, 2048) == OLD[:2048]


def test_a_write_from_before_a_reset_holds_newer_ones_back(
    guest: Forwarded, target: ScriptedTarget
) -> None:
    held = target.rules.hold(io(Io.WRITE), times=1)
    guest.submit_write(0, OLD)
    old = held.wait()
    guest.host.disable()
    guest.host.enable()
    guest.queue = guest.host.create_queue_pair(1, depth=64)
    second, _ = guest.submit_write(0, NEW)
    beside, _ = guest.submit_write(64, NEW)
    assert guest.wait(beside).ok
    if not target.fenced:
        assert [a.sqe.cdw10 for a in target.arrivals(Io.WRITE)] == [0, 64]
        old.finish()
    assert guest.wait(second).ok
    assert content(target) == NEW


@pytest.mark.parametrize("kind", ["zeroes", "deallocate"])
def test_zeroes_and_deallocates_are_writes_too(
    guest: Forwarded, target: ScriptedTarget, kind: str
) -> None:
    held = target.rules.hold(io(Io.WRITE_ZEROES, Io.DSM), times=1)
    if kind == "zeroes":
        first = guest.queue.submit(nvme.write_zeroes(1, 0, 8))
    else:
        buffer = guest.host.alloc(4096)
        buffer.put(nvme.dsm_ranges([(0, 8)]))
        first = guest.queue.submit(nvme.dataset_management(1, 1), buffer)
    old = held.wait()
    until(lambda: guest.host.admin(nvme.abort(1, first)).result == 0, "aborted")
    guest.wait(first)
    second, _ = guest.submit_write(0, NEW)
    beside, _ = guest.submit_write(64, NEW)
    assert guest.wait(beside).ok
    assert [a.sqe.cdw10 for a in target.arrivals(Io.WRITE)] == [64]
    old.finish()
    assert guest.wait(second).ok
    assert content(target) == NEW


# --- Late answers ---


def test_a_late_answer_is_harmless(guest: Forwarded, target: ScriptedTarget) -> None:
    """The command has timed out; its completion comes when nobody expects it any more."""
    held = target.rules.hold(io(Io.READ), times=1)
    cid, buffer = guest.submit_read(0)
    old = held.wait()
    until(lambda: guest.host.admin(nvme.abort(1, cid)).result == 0, "aborted")
    guest.wait(cid)
    buffer.put(b"\xaa" * 4096)
    target.namespace.data[:4096] = OLD
    old.finish()
    guest.round_trip(lba=64)
    assert buffer.get(4096) == b"\xaa" * 4096, "memory that is the guest's again was written"
    assert len({a.cntlid for a in target.arrivals()}) == 1, "and the association stands"


def test_a_response_that_comes_when_the_abort_has_won(
    guest: Forwarded, target: ScriptedTarget
) -> None:
    held = target.rules.hold(io(Io.FLUSH), times=1)
    cid = guest.queue.submit(nvme.flush(1))
    old = held.wait()
    until(lambda: guest.host.admin(nvme.abort(1, cid)).result == 0, "aborted")
    guest.wait(cid)
    old.session.send(Response(old.sqe.cid))
    guest.round_trip()
