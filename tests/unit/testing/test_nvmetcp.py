"""The scripted NVMe/TCP peers against each other: what they agree on, and what each notices."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from vhostnvme.crc32c import crc32c
from vhostnvme.errors import PeerError, ProtocolError
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import CommandFailed, Io, Sqe, Status
from vhostnvme.testing.nvmetcp_device import SUBNQN
from vhostnvme.testing.nvmetcp_fabrics import (
    ANA_CHANGED,
    AT_CNTLID,
    AT_SUBNQN,
    NS_CHANGED,
    Ana,
    ConnectData,
    FabricsStatus,
    Fctype,
    cross_reset,
    uuid_of,
)
from vhostnvme.testing.nvmetcp_host import HOSTNQN, HostOptions, TcpHost
from vhostnvme.testing.nvmetcp_pdu import R2T, C2HData, Command, H2CData, IcReq, Pdu, Response
from vhostnvme.testing.nvmetcp_queue import Ended, Silent, TcpQueue
from vhostnvme.testing.nvmetcp_rules import fabrics_of, io, pdus
from vhostnvme.testing.nvmetcp_target import ScriptedTarget
from vhostnvme.testing.nvmetcp_wire import Crooked, Wire, encode, read_pdu


@pytest.fixture
def target() -> Iterator[ScriptedTarget]:
    with ScriptedTarget(ports=2) as running:
        yield running
        assert running.complaints == []


@pytest.fixture
def host(target: ScriptedTarget) -> Iterator[TcpHost]:
    with TcpHost(target.address(), SUBNQN, HostOptions(timeout=2)) as connected:
        yield connected


def pattern(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


# --- The wire ---


def test_crc32c_is_that_of_the_rfc() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


PDUS: list[Pdu] = [
    Command(nvme.read(1, 5, 8).with_fields(cid=7)),
    Command(nvme.write(1, 5, 1).with_fields(cid=7), b"x" * 512),
    H2CData(3, 9, 4096, b"data" * 3, last=False),
]


@pytest.mark.parametrize("wire", [Wire(), Wire(True), Wire(False, True), Wire(True, True, 64)])
@pytest.mark.parametrize("pdu", PDUS, ids=lambda pdu: type(pdu).__name__)
def test_what_is_encoded_is_read_again(pdu: Pdu, wire: Wire) -> None:
    raw = encode(pdu, wire)
    stream = iter(raw)
    read = read_pdu(lambda n: bytes(next(stream) for _ in range(n)), wire, from_controller=False)
    assert read == pdu
    assert next(stream, None) is None


def test_layouts_are_those_of_the_specification() -> None:
    raw = encode(IcReq(hpda=3, digest=3, maxr2t=7))
    assert raw[:16].hex() == "0000800080000000" + "0000" + "03" + "03" + "07000000"
    raw = encode(H2CData(0x1234, 0x5678, 0x1000, b"abcd"), Wire(True, True, 32))
    assert raw[:24].hex() == "0607182024000000".replace("24000000", f"{32 + 4 + 4:02x}000000") + (
        "34127856" + "00100000" + "04000000" + "00000000"
    )
    assert raw[24:28] == crc32c(raw[:24]).to_bytes(4, "little")
    assert raw[32:36] == b"abcd" and raw[36:] == crc32c(b"abcd").to_bytes(4, "little")


CROOKED = [
    (Crooked(PDUS[0], hlen=71), "HLEN"),
    (Crooked(PDUS[0], hlen=255), "HLEN"),
    (Crooked(PDUS[0], pdo=76), "PDO"),
    (Crooked(PDUS[1], pdo=80), "PDO"),
    (Crooked(PDUS[0], plen=8), "PLEN"),
    (Crooked(PDUS[0], plen=1 << 31), "PLEN"),
    (Crooked(PDUS[0], type=0x0A), "type"),
    (Crooked(PDUS[0], type=7), "type"),
    (Crooked(PDUS[0], flags=0), "header digest"),
    (Crooked(PDUS[0], flags=0x80), "flags"),
    (Crooked(PDUS[1], flags=1), "data digest"),
    (Crooked(PDUS[0], hdgst=1), "header digest"),
    (Crooked(PDUS[1], ddgst=1), "data digest"),
    (H2CData(1, 1, 0, b"data", length=5), "5 bytes"),
]


@pytest.mark.parametrize(("pdu", "about"), CROOKED)
def test_what_is_crooked_is_noticed(pdu: Crooked, about: str) -> None:
    wire = Wire(True, True)
    stream = iter(encode(pdu, wire) + bytes(128))
    with pytest.raises(ProtocolError, match=about):
        read_pdu(lambda n: bytes(next(stream) for _ in range(n)), wire, from_controller=False)


# --- The peers, behaving ---


@pytest.mark.parametrize("digest", [0, 1, 2, 3])
@pytest.mark.parametrize("no_sq_flow", [False, True])
def test_data_goes_there_and_back(target: ScriptedTarget, digest: int, no_sq_flow: bool) -> None:
    target.cpda = 7
    options = HostOptions(digest=digest, hpda=15, no_sq_flow=no_sq_flow, maxr2t=1)
    with TcpHost(target.address(), SUBNQN, options) as host:
        queue = host.create_queue(1)
        small, large = pattern(8192), pattern(300 << 10)
        queue.write(3, small)
        queue.write(100, large)
        assert queue.read(3, 16) == small
        assert queue.read(100, 600) == large
        assert bytes(target.namespace.data[512 * 3 :][:8192]) == small
        assert queue.command(queue.read_sqe(0, 1), read=512).success is no_sq_flow


def test_it_says_who_it_is(host: TcpHost, target: ScriptedTarget) -> None:
    identity = host.identify_controller()
    assert identity.subnqn == SUBNQN and identity.cntlid == host.cntlid == 1
    assert identity.ioccsz * 16 == 64 + 8192
    assert host.active_namespaces() == [1]
    assert uuid_of(host.identify(3, 1)) == target.namespace.uuid
    assert host.set_feature(7, 0x00FF00FF) == 0x00070007
    log = host.ana_log()
    assert [(group.group, group.state, group.nsids) for group in log.groups] == [(1, 1, (1,))]


def test_events_come(host: TcpHost, target: ScriptedTarget) -> None:
    host.expect_events(2)
    host.keep_alive()
    target.set_ana(0, Ana.NON_OPTIMIZED)
    target.set_ana(1, Ana.INACCESSIBLE)
    target.resize(8 << 20)
    assert host.next_event() == ANA_CHANGED
    assert host.next_event() == NS_CHANGED
    assert host.ana_log().groups[0].state == Ana.NON_OPTIMIZED


def test_ana_states_refuse_io(host: TcpHost, target: ScriptedTarget) -> None:
    queue = host.create_queue(1)
    target.set_ana(0, Ana.INACCESSIBLE)
    completion = queue.command(queue.read_sqe(0, 1), read=512).completion
    assert completion.code == Status.ANA_INACCESSIBLE and not completion.dnr


def test_refusals_say_where(target: ScriptedTarget) -> None:
    with pytest.raises(CommandFailed) as refused:
        TcpHost(target.address(), "nqn.2026-11.test:other")
    assert refused.value.completion.code == FabricsStatus.CONNECT_PARAMETER
    assert refused.value.completion.result == AT_SUBNQN
    with TcpHost(target.address(), SUBNQN) as host:
        _, completion = host.try_queue(1, data=ConnectData(HOSTNQN, SUBNQN, cntlid=77))
        assert completion.result == AT_CNTLID


def test_the_admin_queue_takes_the_others_with_it(host: TcpHost, target: ScriptedTarget) -> None:
    queue = host.create_queue(1)
    host.admin.close()
    assert queue.ended() is None
    assert target.wait(lambda: not target.sessions)
    assert target.controllers == []


# --- The target, misbehaving ---


def test_a_held_write_outlives_its_connection(host: TcpHost, target: ScriptedTarget) -> None:
    held = target.rules.hold(io(Io.WRITE), times=1)
    queue = host.create_queue(1)
    queue.submit_write(0, b"old " * 128)
    old = held.wait()
    target.cut()
    with pytest.raises(Ended):
        queue.receive()
    with TcpHost(target.address(), SUBNQN) as again:
        again.create_queue(1).write(0, b"new " * 128)
        assert old.apply_late().status == 0
        assert again.create_queue(2).read(0, 1) == b"old " * 128


def test_a_cross_controller_reset_lays_the_ghost(target: ScriptedTarget) -> None:
    held = target.rules.hold(io(Io.WRITE), times=1)
    with TcpHost(target.address(), SUBNQN) as first, TcpHost(target.address(1), SUBNQN) as second:
        first.create_queue(1).submit_write(0, b"old " * 128)
        old, identity = held.wait(), first.identify_controller()
        sqe = cross_reset(first.cntlid, identity.instance, identity.instance_random)
        assert second.admin.command(sqe).completion.result == 1
        assert old.apply() is None
        assert first.admin.ended() is None


def test_rules_bend_what_is_sent(host: TcpHost, target: ScriptedTarget) -> None:
    queue = host.create_queue(1)
    rule = target.rules.on_send(pdus(C2HData), lambda _, pdu: Crooked(pdu, hlen=25))
    with pytest.raises(ProtocolError, match="HLEN"):
        queue.read(0, 8)
    assert len(rule.seen) == 1
    queue = host.create_queue(2)
    target.rules.on_send(pdus(Response, qid=2), lambda _, pdu: replace(pdu, cid=999))
    with pytest.raises(ProtocolError, match="999"):
        queue.flush()
    queue = host.create_queue(3)
    target.rules.on_send(pdus(R2T), lambda _, pdu: replace(pdu, length=1 << 30))
    with pytest.raises(ProtocolError, match="R2T"):
        queue.write(0, bytes(16384))


def test_it_can_be_silent_and_refuse(host: TcpHost, target: ScriptedTarget) -> None:
    rule = target.rules.on_command(io(), lambda request: None, times=None)
    queue = host.create_queue(1)
    cid = queue.submit(nvme.flush(1))
    with pytest.raises(Silent):
        queue.wait(cid, 0.05)
    assert rule.wait().sqe.opcode == Io.FLUSH
    target.rules.clear()
    queue.flush()
    target.rules.on_command(fabrics_of(Fctype.CONNECT), lambda request: request.fail(0x4181))
    with pytest.raises(CommandFailed):
        host.create_queue(2)
    target.ports[0].stop()
    with pytest.raises(PeerError):
        TcpQueue(target.address())
    target.ports[0].start()
    TcpQueue(target.address()).close()


def test_it_executes_and_dies_before_it_answers(host: TcpHost, target: ScriptedTarget) -> None:
    target.rules.on_command(io(Io.WRITE), lambda request: (request.apply(), target_cut(request)))
    queue = host.create_queue(1)
    queue.submit_write(0, b"done" * 128)
    assert queue.ended() is None
    assert bytes(target.namespace.data[:4]) == b"done"


def target_cut(request: object) -> None:
    request.session.close()  # type: ignore[attr-defined]


# --- The host, misbehaving ---


def test_the_target_judges_its_host(host: TcpHost, target: ScriptedTarget) -> None:
    queue = host.create_queue(1)
    queue.hold_data = True
    cid = queue.submit_write(0, bytes(16384))
    queue.step()
    (r2t,) = queue.r2ts
    queue.send(H2CData(cid, r2t.ttag + 1, 0, bytes(16384)))
    term = queue.ended()
    assert term is not None and term.fes == 1
    queue = host.create_queue(2)
    queue.send(Crooked(Command(Sqe(0)), hlen=60))
    assert queue.ended() is not None
    complaints, target.complaints[:] = list(target.complaints), []
    assert ["H2CData for TTAG" in complaints[0], "HLEN" in complaints[1]] == [True, True]


def test_one_byte_at_a_time_is_the_same(target: ScriptedTarget) -> None:
    with TcpQueue(target.address()) as queue:
        queue.drip(IcReq(), 0)
        assert queue.receive().TYPE == 1
        assert queue.connect(ConnectData(HOSTNQN, SUBNQN)).ok
