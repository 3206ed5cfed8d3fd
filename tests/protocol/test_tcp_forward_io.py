"""Our forwarder and a target that behaves: data, limits and identity of a namespace elsewhere."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from tests_forward import Forwarded, behaving_target, forward_spec
from tests_protocol import Serve, pattern, refused

from vhostnvme.errors import NativeError
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import Admin, Io, Status
from vhostnvme.testing.nvmetcp_device import MemoryNamespace, Outcome
from vhostnvme.testing.nvmetcp_fabrics import AT_SUBNQN, FabricsStatus, Fctype, uuid_of
from vhostnvme.testing.nvmetcp_pdu import IcReq, IcResp
from vhostnvme.testing.nvmetcp_rules import admin, fabrics_of, io, pdus
from vhostnvme.testing.nvmetcp_target import ScriptedTarget


@pytest.fixture
def target() -> Iterator[ScriptedTarget]:
    with behaving_target() as running:
        yield running


@pytest.fixture
def guest(serve: Serve, target: ScriptedTarget) -> Forwarded:
    return Forwarded(serve, target)


@pytest.mark.parametrize("digest", ["off", "header", "data", "both"])
def test_data_goes_there_and_back(serve: Serve, target: ScriptedTarget, digest: str) -> None:
    options: dict[str, str] = {}
    if digest in ("header", "both"):
        options["hdgst"] = "on"
    if digest in ("data", "both"):
        options["ddgst"] = "on"
    target.cpda, target.r2t_bytes, target.maxh2cdata = 7, 20480, 8192
    guest = Forwarded(serve, target, **options)
    for blocks in (1, 8, 16, 17, 256):
        guest.round_trip(blocks, blocks * 512, lba=3)
    wanted = {"off": 0, "header": 1, "data": 2, "both": 3}[digest]
    assert {session.ic_req and session.ic_req.digest for session in target.sessions} == {wanted}


@pytest.mark.parametrize("flow_control", [False, True])
@pytest.mark.parametrize("success", [False, True])
def test_targets_differ(
    serve: Serve, target: ScriptedTarget, flow_control: bool, success: bool
) -> None:
    target.no_sq_flow, target.success = not flow_control, success
    guest = Forwarded(serve, target, depth=8)
    cids = [guest.submit_write(n * 8, pattern(n, 4096))[0] for n in range(100)]
    assert all(guest.wait(cid).ok for cid in cids)
    for n in range(100):
        assert target.namespace.data[n * 4096 :][:4096] == pattern(n, 4096)


def test_success_comes_with_sq_flow_control_too(serve: Serve, target: ScriptedTarget) -> None:
    """Against the standard, but SPDK has it so. Reads outnumber the entries of the queue by far."""
    target.no_sq_flow, target.lax = False, True
    guest = Forwarded(serve, target, depth=8)
    for n in range(100):
        guest.round_trip(n * 8)
    cids = [guest.submit_read(n * 8)[0] for n in range(100)]
    assert all(guest.wait(cid).ok for cid in cids)


def test_it_is_the_namespace_that_it_is(serve: Serve, target: ScriptedTarget) -> None:
    known = uuid.UUID("7f0e4f4c-61a5-4b5c-9d4f-0c8f6c1f2a3b")
    target.device.namespaces[1] = MemoryNamespace(8 << 20, 4096, known)
    guest = Forwarded(serve, target)
    identity = guest.host.identify_namespace()
    assert (identity.nr_blocks, identity.block_bytes) == (2048, 4096)
    assert uuid_of(guest.host.identify(3, 1)) == known
    guest.round_trip(1, 65536)


def oncs(guest: Forwarded) -> int:
    return int.from_bytes(guest.host.identify_controller()[520:522], "little")


def test_commands_are_passed_through(guest: Forwarded, target: ScriptedTarget) -> None:
    data = pattern(3, 4096)
    guest.queue.write(0, data, fua=True)
    (arrival,) = target.arrivals(Io.WRITE)
    assert arrival.sqe.cdw12 & 1 << 30, "FUA"
    if oncs(guest) & 1:
        assert guest.command(nvme.compare(1, 0, 8), data).ok
        refused(guest.command(nvme.compare(1, 0, 8), bytes(4096)), Status.COMPARE_FAILURE, dnr=None)
    guest.queue.flush()
    assert target.arrivals(Io.FLUSH)
    guest.queue.write_zeroes(0, 4)
    assert target.namespace.data[:4096] == bytes(2048) + data[2048:]
    guest.queue.deallocate([(4, 2), (7, 1)])
    assert target.namespace.data[2048:4096] == bytes(1024) + data[3072:3584] + bytes(512)


def test_what_the_target_cannot_the_guest_cannot(serve: Serve, target: ScriptedTarget) -> None:
    target.device.oncs = 0
    guest = Forwarded(serve, target)
    if not oncs(guest) & 1:
        refused(guest.command(nvme.compare(1, 0, 8), bytes(4096)), Status.INVALID_OPCODE)
    guest.queue.write(0, b"data" * 1024)
    guest.queue.write_zeroes(0, 8)
    assert guest.queue.read(0, 8) == bytes(4096)
    assert not target.arrivals(Io.WRITE_ZEROES) and not target.arrivals(Io.COMPARE)


@pytest.mark.parametrize(
    "status", [Status.UNRECOVERED_READ, Status.CAPACITY_EXCEEDED, Status.WRITE_PROTECTED]
)
def test_the_targets_status_is_the_guests(
    guest: Forwarded, target: ScriptedTarget, status: Status
) -> None:
    target.rules.on_command(io(Io.READ), lambda request: request.fail(status | 0x4000))
    cid, _ = guest.submit_read(0)
    assert guest.wait(cid).code == status
    guest.round_trip()


def test_larger_commands_are_split(serve: Serve, target: ScriptedTarget) -> None:
    target.device.mdts = 1
    guest = Forwarded(serve, target)
    guest.round_trip(5, 128 << 10, lba=9)
    assert len(target.arrivals(Io.READ)) >= 16
    assert {arrival.sqe.cdw12 & 0xFFFF for arrival in target.arrivals(Io.READ)} <= set(range(16))


def test_one_part_that_fails_is_all_that_fails(serve: Serve, target: ScriptedTarget) -> None:
    target.device.mdts = 1
    guest = Forwarded(serve, target)
    target.rules.on_command(
        lambda request: io(Io.READ)(request) and request.sqe.cdw10 == 64,
        lambda request: request.fail(Status.UNRECOVERED_READ),
    )
    cid, _ = guest.submit_read(0, 128 << 10)
    assert guest.wait(cid).code == Status.UNRECOVERED_READ
    guest.round_trip(5, 128 << 10)


def test_an_idle_association_is_kept_alive(serve: Serve, target: ScriptedTarget) -> None:
    guest = Forwarded(serve, target, kato="400ms")
    assert target.wait(lambda: len(target.arrivals(Admin.KEEP_ALIVE, admin=True)) >= 3)
    assert {controller.kato_ms for controller in target.controllers} == {400}
    guest.round_trip()


def test_several_queues(serve: Serve, target: ScriptedTarget) -> None:
    guest = Forwarded(serve, target, queues=3)
    target.wait_connected(3)
    for n in range(40):
        guest.round_trip(n, 8192, lba=n)
    assert len({arrival.qid for arrival in target.arrivals(Io.WRITE)}) > 1


def test_the_events_of_a_good_life(guest: Forwarded) -> None:
    (event,) = guest.attached
    assert event.text


# --- What cannot be opened: one sentence, and soon ---


def opening_fails(serve: Serve, target: ScriptedTarget, **options: object) -> str:
    with pytest.raises(NativeError) as failure:
        serve(forward_spec(target, **{"connect": "500ms", **options}))
    sentence = str(failure.value)
    assert sentence and "\n" not in sentence
    return sentence


def test_nobody_is_there(serve: Serve, target: ScriptedTarget) -> None:
    target.ports[0].stop()
    sentence = opening_fails(serve, target)
    assert str(target.address()[1]) in sentence


@pytest.mark.parametrize("nsid", [2, 77])
def test_no_such_namespace(serve: Serve, target: ScriptedTarget, nsid: int) -> None:
    assert str(nsid) in opening_fails(serve, target, nsid=nsid)


def test_no_such_subsystem(serve: Serve, target: ScriptedTarget) -> None:
    target.device.subnqn = "nqn.2026-11.test:another"
    assert "scripted" in opening_fails(serve, target)


@pytest.mark.parametrize(
    "status",
    [
        FabricsStatus.CONNECT_HOST,
        FabricsStatus.CONNECT_BUSY,
        FabricsStatus.CONNECT_FORMAT,
        FabricsStatus.CONNECT_RESTART,
        FabricsStatus.AUTH_REQUIRED,
    ],
)
def test_connect_is_refused(serve: Serve, target: ScriptedTarget, status: int) -> None:
    target.rules.on_command(
        fabrics_of(Fctype.CONNECT), lambda request: request.fail(status | 0x4000), None
    )
    opening_fails(serve, target)


def test_connect_parameters_are_refused(serve: Serve, target: ScriptedTarget) -> None:
    outcome = Outcome(FabricsStatus.CONNECT_PARAMETER | 0x4000, AT_SUBNQN)
    target.rules.on_command(
        fabrics_of(Fctype.CONNECT), lambda request: request.answer(outcome), None
    )
    opening_fails(serve, target)


def test_it_never_gets_ready(serve: Serve, target: ScriptedTarget) -> None:
    target.device.ready = False
    opening_fails(serve, target)


def test_it_is_silent(serve: Serve, target: ScriptedTarget) -> None:
    target.rules.on_pdu(pdus(IcReq), lambda session, pdu: None, None)
    opening_fails(serve, target)


def test_it_sends_a_byte_now_and_then(serve: Serve, target: ScriptedTarget) -> None:
    def slowly(session: object, pdu: object) -> None:
        session.drip(pdu, 0.05)  # type: ignore[attr-defined]

    target.rules.on_send(pdus(IcResp), slowly, None)
    opening_fails(serve, target)


def test_it_hangs_up(serve: Serve, target: ScriptedTarget) -> None:
    target.ports[0].accepting = False
    opening_fails(serve, target)


@pytest.mark.parametrize("opcode", [Admin.IDENTIFY, Admin.SET_FEATURES])
def test_what_must_be_known_is_not_told(serve: Serve, target: ScriptedTarget, opcode: int) -> None:
    target.rules.on_command(
        admin(opcode), lambda request: request.fail(Status.INTERNAL | 0x4000), None
    )
    try:
        opening_fails(serve, target)
    except BaseException:
        if opcode == Admin.IDENTIFY:
            raise


@pytest.mark.parametrize("block_shift", [0, 8, 13, 255])
def test_a_format_that_cannot_be(serve: Serve, target: ScriptedTarget, block_shift: int) -> None:
    original = target.device.identify_namespace

    def identify(namespace: MemoryNamespace) -> bytes:
        raw = bytearray(original(namespace))
        raw[130] = block_shift
        return bytes(raw)

    target.device.identify_namespace = identify  # type: ignore[method-assign]
    opening_fails(serve, target)
