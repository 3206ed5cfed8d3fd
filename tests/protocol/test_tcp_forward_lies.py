"""Our forwarder and a target that lies once: the connection goes, the command does not.

Every lie is told on the way of one command; the forwarder must notice it before it uses what it was
told, drop the association, and have the command done over a new one. Nothing else may change: not
the data, not the memory beside it, not the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from tests_forward import Forwarded
from tests_protocol import Serve, pattern

from vhostnvme.native import EventType
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import Io, Status
from vhostnvme.testing.nvmetcp_pdu import (
    R2T,
    C2HData,
    C2HTerm,
    Command,
    H2CData,
    IcResp,
    Pdu,
    Response,
)
from vhostnvme.testing.nvmetcp_rules import Sent, io, pdus
from vhostnvme.testing.nvmetcp_session import Session
from vhostnvme.testing.nvmetcp_target import ScriptedTarget
from vhostnvme.testing.nvmetcp_wire import Crooked, Sendable

READ_BYTES, WRITE_BYTES = 16 << 10, 128 << 10
Lie = Callable[[Pdu], Sent]


@pytest.fixture(scope="module")
def target() -> Iterator[ScriptedTarget]:
    with ScriptedTarget() as running:
        running.device.vwc = 0
        yield running


@pytest.fixture
def guest(serve: Serve, target: ScriptedTarget) -> Iterator[Forwarded]:
    target.rules.clear()
    target.success = True
    yield Forwarded(serve, target)
    target.rules.clear()


def crooked(**lie: int) -> Lie:
    return lambda pdu: Crooked(pdu, **lie)  # type: ignore[arg-type]


def changed(**lie: object) -> Lie:
    return lambda pdu: replace(pdu, **lie)  # type: ignore[type-var]


def followed_by(*more: Callable[[Pdu], Sendable]) -> Lie:
    return lambda pdu: [pdu, *[make(pdu) for make in more]]


def instead(make: Callable[[Pdu], Sendable]) -> Lie:
    return lambda pdu: [make(pdu)]


def cid_of(pdu: Pdu) -> int:
    assert isinstance(pdu, C2HData | R2T | Response)
    return pdu.cid


READ_LIES: dict[str, Lie] = {
    # The header (a crafted HLEN once let a target write over the Linux initiator's memory).
    "crafted HLEN, none": crooked(hlen=0),
    "crafted HLEN, short": crooked(hlen=8),
    "crafted HLEN, a little less": crooked(hlen=23),
    "crafted HLEN, a little more": crooked(hlen=25),
    "crafted HLEN, that of a command": crooked(hlen=72),
    "crafted HLEN, the largest": crooked(hlen=255),
    "PDO 0": crooked(pdo=0),
    "PDO in the header": crooked(pdo=16),
    "PDO beyond": crooked(pdo=252, plen=64),
    "PDO odd": crooked(pdo=26),
    "PLEN 0": crooked(plen=0),
    "PLEN of a header": crooked(plen=24),
    "PLEN more": crooked(plen=24 + READ_BYTES + 512),
    "PLEN less": crooked(plen=24 + READ_BYTES - 512),
    "PLEN 4 GiB": crooked(plen=0xFFFFFFFC),
    "digests that were not agreed on": crooked(flags=3),
    "unknown flags": crooked(flags=0xF0),
    "a type that there is not": crooked(type=0x0A),
    "a host's type": crooked(type=6),
    # What it says.
    "another CID": lambda pdu: replace(pdu, cid=cid_of(pdu) ^ 1),  # type: ignore[type-var]
    "CID FFFFh": changed(cid=0xFFFF),
    "an offset beyond": changed(offset=READ_BYTES),
    "an offset in the middle": changed(offset=512),
    "an offset that overflows": changed(offset=0xFFFFFE00),
    "DATAL more than there is": changed(length=READ_BYTES + 512),
    "DATAL 0": changed(length=0),
    "DATAL that overflows": changed(length=0xFFFFFFFF),
    "more than was asked for": changed(data=bytes(READ_BYTES + 512)),
    "less, and the end": changed(data=bytes(READ_BYTES - 512)),
    "the same again": followed_by(lambda pdu: pdu),
    "SUCCESS without LAST": crooked(flags=8),
    "SUCCESS and a response": followed_by(lambda pdu: Response(cid_of(pdu))),
    # What it is.
    "an R2T for a read": instead(lambda pdu: R2T(cid_of(pdu), 1, 0, 512)),
    "success without data": instead(lambda pdu: Response(cid_of(pdu))),
    "another ICResp": instead(lambda pdu: IcResp()),
    "a command": instead(lambda pdu: Command()),
    "H2CData": instead(lambda pdu: H2CData(cid_of(pdu), 0, 0, bytes(512))),
    "noise": instead(lambda pdu: bytes(range(256)) * 20),
    "a termination request": instead(lambda pdu: C2HTerm(fes=2, data=bytes(24))),
    "a termination request, too long": instead(lambda pdu: C2HTerm(fes=2, data=bytes(500))),
}


def bent(target: ScriptedTarget, kind: type[Pdu], lie: Lie) -> Callable[[], int]:
    """Has the lie told once, on an I/O queue; counts how often it was."""

    def tell(session: Session, pdu: Pdu) -> Sent:
        return lie(pdu)

    rule = target.rules.on_send(pdus(kind, qid=-1), tell)
    return lambda: len(rule.seen)


@pytest.mark.parametrize("name", READ_LIES)
def test_a_lie_about_data(guest: Forwarded, target: ScriptedTarget, name: str) -> None:
    data = pattern(9, READ_BYTES)
    target.namespace.data[:READ_BYTES] = data
    told = bent(target, C2HData, READ_LIES[name])
    with guest.host.alloc(3 * READ_BYTES) as buffer:
        buffer.put(b"\xaa" * 3 * READ_BYTES)
        command = buffer.point(nvme.read(1, 0, READ_BYTES // 512), READ_BYTES, READ_BYTES)
        assert guest.wait(guest.queue.submit(command)).ok
        assert told() == 1
        assert buffer.get(READ_BYTES, READ_BYTES) == data
        assert buffer.get(READ_BYTES) == b"\xaa" * READ_BYTES
        assert buffer.get(READ_BYTES, 2 * READ_BYTES) == b"\xaa" * READ_BYTES
    guest.round_trip()


WRITE_LIES: dict[str, Lie] = {
    "HLEN less": crooked(hlen=20),
    "HLEN more": crooked(hlen=128),
    "a PDO": crooked(pdo=24),
    "PLEN more": crooked(plen=28),
    "PLEN less": crooked(plen=20),
    "flags": crooked(flags=4),
    "another CID": lambda pdu: replace(pdu, cid=cid_of(pdu) ^ 1),  # type: ignore[type-var]
    "CID FFFFh": changed(cid=0xFFFF),
    "an offset beyond": changed(offset=WRITE_BYTES),
    "an offset that overflows": changed(offset=0xFFFFFFFC),
    "an odd offset": changed(offset=2),
    "a length beyond": changed(length=WRITE_BYTES + 4),
    "a length that overflows": changed(length=0xFFFFFFFF),
    "no length": changed(length=0),
    "offset and length beyond": changed(offset=WRITE_BYTES - 512, length=1024),
    "the same again": followed_by(lambda pdu: pdu),
    "too many": lambda pdu: [replace(pdu, ttag=n, length=4) for n in range(64)],  # type: ignore[type-var]
    "data for a write": instead(lambda pdu: C2HData(cid_of(pdu), 0, bytes(512))),
    "success before the data": instead(lambda pdu: Response(cid_of(pdu))),
    "noise": instead(lambda pdu: b"\xff" * 64),
}


@pytest.mark.parametrize("name", WRITE_LIES)
def test_a_lie_about_a_transfer(guest: Forwarded, target: ScriptedTarget, name: str) -> None:
    told = bent(target, R2T, WRITE_LIES[name])
    data = pattern(11, WRITE_BYTES)
    cid, _ = guest.submit_write(0, data)
    assert guest.wait(cid).ok
    assert told() == 1
    assert bytes(target.namespace.data[:WRITE_BYTES]) == data
    guest.round_trip()


RESPONSE_LIES: dict[str, Lie] = {
    "HLEN": crooked(hlen=16),
    "HLEN, the largest": crooked(hlen=255),
    "PLEN": crooked(plen=23),
    "PLEN more": crooked(plen=128),
    "another CID": lambda pdu: replace(pdu, cid=cid_of(pdu) ^ 0x0101),  # type: ignore[type-var]
    "CID FFFFh": changed(cid=0xFFFF),
    "twice": followed_by(lambda pdu: pdu),
    "noise": instead(lambda pdu: b"\0" * 64),
}


@pytest.mark.parametrize("name", RESPONSE_LIES)
def test_a_lie_about_the_end(guest: Forwarded, target: ScriptedTarget, name: str) -> None:
    told = bent(target, Response, RESPONSE_LIES[name])
    data = pattern(13, 4096)
    cid, _ = guest.submit_write(0, data)
    assert guest.wait(cid).ok
    assert told() == 1
    assert bytes(target.namespace.data[:4096]) == data
    guest.round_trip()


@pytest.mark.parametrize("digest", ["hdgst", "ddgst"])
def test_a_wrong_digest(serve: Serve, target: ScriptedTarget, digest: str) -> None:
    """Data that came to harm is never the guest's: it is read again, here or by the guest."""
    target.rules.clear()
    guest = Forwarded(serve, target, **{digest: "on"})
    data = pattern(15, READ_BYTES)
    target.namespace.data[:READ_BYTES] = data
    told = bent(target, C2HData, crooked(**{digest: 0x10}))
    cid, buffer = guest.submit_read(0, READ_BYTES)
    completion = guest.wait(cid)
    assert told() == 1
    if digest == "hdgst" or completion.ok:
        assert completion.ok and buffer.get(READ_BYTES) == data
    else:
        assert completion.code == Status.TRANSIENT_TRANSPORT and not completion.dnr
    guest.round_trip()


IC_LIES: dict[str, Lie] = {
    "PFV": changed(pfv=1),
    "CPDA": changed(cpda=32),
    "MAXH2CDATA 0": changed(maxh2cdata=0),
    "MAXH2CDATA too small": changed(maxh2cdata=4092),
    "MAXH2CDATA odd": changed(maxh2cdata=4098),
    "digests that were not asked for": changed(digest=3),
    "HLEN": crooked(hlen=120),
    "PLEN": crooked(plen=132),
    "flags": crooked(flags=1),
    "a response": instead(lambda pdu: Response(0)),
    "twice": followed_by(lambda pdu: pdu),
}


@pytest.mark.parametrize("name", IC_LIES)
def test_a_lie_at_the_beginning(guest: Forwarded, target: ScriptedTarget, name: str) -> None:
    """A reconnect that is lied to is tried again."""
    rule = target.rules.on_send(pdus(IcResp), lambda session, pdu: IC_LIES[name](pdu))
    target.cut()
    guest.wait_event(EventType.REMOTE_LOST)
    guest.wait_event(EventType.REMOTE_BACK)
    assert len(rule.seen) == 1
    guest.round_trip()


def test_an_answer_to_a_command_of_the_last_association(
    guest: Forwarded, target: ScriptedTarget
) -> None:
    """A late answer, on the new connection, to what the old one carried: it answers nothing."""
    held = target.rules.hold(io(Io.READ), times=1)
    data = pattern(17, READ_BYTES)
    target.namespace.data[:READ_BYTES] = data
    cid, buffer = guest.submit_read(0, READ_BYTES)
    old = held.wait()
    target.cut()
    assert guest.wait(cid).ok and buffer.get(READ_BYTES) == data
    session = next(s for s in target.sessions if s.qid == old.session.qid)
    session.send(C2HData(old.sqe.cid, 0, b"\xee" * READ_BYTES), Response(old.sqe.cid))
    guest.round_trip()
    assert buffer.get(READ_BYTES) == data
