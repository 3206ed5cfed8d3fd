"""NVMe/TCP PDUs at our target: initialization, headers that lie, digests, and how connections end.

TCP Transport 1.0c, 3.5 and 3.6. Each connection that breaks a rule is told which, and closed;
nobody else notices.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests_tcp import TcpServed, ended_with

from vhostnvme.native import Runtime
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import Admin, Sqe, Status
from vhostnvme.testing.nvmetcp_fabrics import property_get
from vhostnvme.testing.nvmetcp_pdu import (
    C2HData,
    Command,
    Fes,
    H2CData,
    H2CTerm,
    IcReq,
    IcResp,
    Pdu,
    Response,
)
from vhostnvme.testing.nvmetcp_queue import CAPSULE_DATA, DATA_DIGEST, HEADER_DIGEST
from vhostnvme.testing.nvmetcp_wire import Crooked, Sendable, encode

HEADER, SEQUENCE, HDGST, RANGE, LIMIT, UNSUPPORTED = Fes
TYPE, FLAGS, HLEN, PDO, PLEN = range(5)  # where they stand in a header
READ = Command(nvme.read(1, 0, 1).with_fields(cid=9).with_sgl(0, 512, 5, 0xA))
WRITE = Command(nvme.write(1, 0, 1).with_fields(cid=9).with_sgl(0, 512, 0, 1), bytes(512))


@pytest.fixture(scope="module")
def served(runtime: Runtime) -> Iterator[TcpServed]:
    target = TcpServed(runtime)
    yield target
    target.close()


@pytest.fixture(autouse=True)
def nobody_else_notices(served: TcpServed) -> Iterator[None]:
    yield
    served.hang_up()
    served.healthy()


# --- ICReq and ICResp (3.6.2.2) ---


@pytest.mark.parametrize("digest", range(4))
def test_it_agrees_to_the_digests_that_are_asked_for(served: TcpServed, digest: int) -> None:
    answer = served.raw().initialize(digest=digest)
    assert (answer.pfv, answer.digest) == (0, digest)
    assert answer.cpda <= 31
    assert answer.maxh2cdata >= 4096 and answer.maxh2cdata % 4 == 0


def test_reserved_digests_are_not_agreed_to(served: TcpServed) -> None:
    queue = served.raw()
    queue.send(IcReq(digest=0xFF))
    answer = queue.receive()
    assert isinstance(answer, IcResp) and answer.digest & ~3 == 0


@pytest.mark.parametrize("hpda", [0, 1, 7, 31])
@pytest.mark.parametrize("digest", [0, HEADER_DIGEST | DATA_DIGEST])
def test_data_comes_aligned_as_the_host_asks(served: TcpServed, hpda: int, digest: int) -> None:
    """The scripted host refuses a PDO that is not exactly what HPDA makes of it."""
    queue = served.queue(hpda=hpda, digest=digest)
    queue.write(8, bytes(range(256)) * 48)
    assert queue.read(8, 24) == bytes(range(256)) * 48


def test_it_comes_byte_by_byte(served: TcpServed) -> None:
    queue = served.raw()
    queue.drip(IcReq(), 0)
    assert isinstance(queue.receive(), IcResp)
    assert queue.connect(served.data()).ok
    sqe = queue.point(property_get(8), 0, False)
    queue.drip(Command(sqe), 0)
    answer = queue.receive()
    assert isinstance(answer, Response) and (answer.cid, answer.result) == (sqe.cid, 0x20000)


BEFORE_IC: list[tuple[Sendable, int, int | None]] = [
    (IcReq(pfv=1), UNSUPPORTED, 8),
    (IcReq(hpda=32), HEADER, 10),
    (Crooked(IcReq(), hlen=127), HEADER, HLEN),
    (Crooked(IcReq(), hlen=0), HEADER, HLEN),
    (Crooked(IcReq(), hlen=255), HEADER, HLEN),
    (Crooked(IcReq(), plen=127), HEADER, PLEN),
    (Crooked(IcReq(), plen=132), HEADER, PLEN),
    (Crooked(IcReq(), plen=0), HEADER, PLEN),
    (Crooked(IcReq(), plen=0xFFFFFFFF), HEADER, PLEN),
    (Crooked(IcReq(), flags=3), HEADER, FLAGS),
    (Crooked(IcReq(), type=8), HEADER, TYPE),
    (Crooked(IcReq(), type=0xFF), HEADER, TYPE),
    (IcResp(), HEADER, TYPE),
    (Response(), HEADER, TYPE),
    (READ, SEQUENCE, None),
    (H2CData(1, 1, 0, bytes(4096)), SEQUENCE, None),
]


@pytest.mark.parametrize(("pdu", "fes", "info"), BEFORE_IC)
def test_nothing_but_a_sound_icreq_is_first(
    served: TcpServed, pdu: Sendable, fes: int, info: int | None
) -> None:
    queue = served.raw()
    queue.send(pdu)
    term = ended_with(queue, fes, info=info)
    assert term.data, "the offending header belongs into the termination request"
    assert encode(pdu).startswith(term.data)


def test_a_second_icreq_is_out_of_sequence(served: TcpServed) -> None:
    queue = served.ready()
    queue.send(IcReq())
    ended_with(queue, SEQUENCE)


def test_two_icreqs_in_one_piece(served: TcpServed) -> None:
    queue = served.raw()
    queue.send(IcReq(), IcReq())
    ended_with(queue, SEQUENCE)


def test_cve_2023_5178_a_connection_that_fails_while_it_is_set_up(served: TcpServed) -> None:
    """Linux freed a queue twice when its ICReq was bad and more came, or the peer was gone."""
    before = served.target.info().connections
    for turn in range(60):
        queue = served.raw()
        queue.send(Crooked(IcReq(pfv=turn % 2), hlen=128 - turn % 3, tail=bytes(turn * 40)))
        if turn % 2:
            queue.reset()
        else:
            queue.close()
    served.healthy()
    assert served.target.info().connections <= before + 60


# --- Headers (3.6.1): HLEN, PDO, PLEN and flags exactly, per type, before anything else ---


def crooked(pdu: Pdu, at: int | None, **lie: int) -> tuple[Crooked, int, int | None]:
    return Crooked(pdu, **lie), HEADER, at  # type: ignore[arg-type]


AFTER_IC = [
    crooked(READ, HLEN, hlen=71),
    crooked(READ, HLEN, hlen=73),
    crooked(READ, HLEN, hlen=0),
    crooked(READ, HLEN, hlen=255),
    crooked(READ, None, plen=71),  # PLEN or PDO: they contradict each other
    crooked(READ, None, plen=7),
    crooked(READ, None, plen=0),
    crooked(READ, PDO, pdo=72),
    crooked(READ, PDO, plen=76),
    crooked(READ, FLAGS, flags=1),
    crooked(READ, FLAGS, flags=2),
    crooked(READ, FLAGS, flags=4),
    crooked(READ, FLAGS, flags=8),
    crooked(READ, FLAGS, flags=0x80),
    crooked(WRITE, PDO, pdo=0),
    crooked(WRITE, PDO, pdo=71),
    crooked(WRITE, PDO, pdo=68),
    crooked(WRITE, PDO, pdo=24),
    crooked(WRITE, PLEN, pdo=252, plen=100),
    crooked(WRITE, PLEN, plen=72 + CAPSULE_DATA + 4),
    crooked(WRITE, PLEN, plen=0xFFFFFFFF),
    crooked(H2CData(1, 1, 0, bytes(512)), HLEN, hlen=20),
    crooked(H2CData(1, 1, 0, bytes(512)), PDO, pdo=0),
    crooked(H2CData(1, 1, 0, bytes(512)), PDO, pdo=20),
    crooked(H2CData(1, 1, 0, bytes(512)), PDO, pdo=25),
    crooked(H2CData(1, 1, 0, bytes(512)), PLEN, plen=24),
    crooked(H2CData(1, 1, 0, bytes(512)), FLAGS, flags=8),
    crooked(H2CData(1, 1, 0, bytes(512), length=516), 16),
    crooked(H2CData(1, 1, 0, bytes(512), length=0), 16),
    crooked(Response(), TYPE),
    crooked(C2HData(1, 0, bytes(4)), TYPE),
    crooked(READ, TYPE, type=7),
    crooked(READ, TYPE, type=0x0A),
]


@pytest.mark.parametrize(("pdu", "fes", "info"), AFTER_IC)
def test_a_header_is_exactly_right_or_ends_the_connection(
    served: TcpServed, pdu: Crooked, fes: int, info: int | None
) -> None:
    queue = served.queue()
    queue.send(pdu)
    term = ended_with(queue, fes, info=info)
    assert encode(pdu).startswith(term.data) and len(term.data) >= 8


def test_padding_beyond_the_alignment_is_no_fault(served: TcpServed) -> None:
    """PDO may lie further back than it must, if it is aligned."""
    queue = served.queue()
    raw = encode(Crooked(WRITE, pdo=80, plen=80 + 512))
    queue.send(raw[:72] + bytes(8) + b"pad?" * 128)
    answer = queue.receive()
    assert isinstance(answer, Response) and answer.status == 0
    assert queue.read(0, 1) == b"pad?" * 128


# --- Digests (3.3.1.1) ---


def test_a_wrong_header_digest_ends_the_connection(served: TcpServed) -> None:
    queue = served.queue(digest=HEADER_DIGEST)
    bent = Crooked(READ, hdgst=0x80000001)
    queue.send(bent)
    term = ended_with(queue, HDGST)
    assert term.info == int.from_bytes(encode(bent, queue.wire_out)[72:76], "little")


def test_a_missing_header_digest_ends_the_connection(served: TcpServed) -> None:
    queue = served.queue(digest=HEADER_DIGEST)
    queue.send(encode(READ))
    ended_with(queue, HEADER, info=FLAGS)


@pytest.mark.parametrize("digest", [DATA_DIGEST, HEADER_DIGEST | DATA_DIGEST])
def test_a_wrong_data_digest_fails_the_command_alone(served: TcpServed, digest: int) -> None:
    """Transient Transport Error; not a byte reaches the namespace, and the connection stands."""
    queue = served.queue(digest=digest)
    queue.write(0, b"old " * 4096)
    sqe = queue.point(nvme.write(1, 0, 1), 512, True)
    queue.send(Crooked(Command(sqe, b"new " * 128), ddgst=4))
    answer = queue.receive()
    assert isinstance(answer, Response) and answer.cid == sqe.cid
    assert answer.completion.code == Status.TRANSIENT_TRANSPORT and not answer.completion.dnr

    queue.hold_data = True
    cid = queue.submit_write(0, b"new " * 4096)
    while sum(r2t.length for r2t in queue.r2ts) < 16384:
        queue.step()
    pieces = [pdu for r2t in queue.r2ts for pdu in queue.h2c_data(r2t, 4096)]
    queue.send(pieces[0], Crooked(pieces[1], ddgst=1), *pieces[2:])
    completion = queue.wait(cid).completion
    assert completion.code == Status.TRANSIENT_TRANSPORT and not completion.dnr
    assert queue.read(0, 32) == b"old " * 4096


@pytest.mark.parametrize("digest", range(4))
def test_everything_flows_with_digests(served: TcpServed, digest: int) -> None:
    host = served.connect(digest=digest)
    queue = host.create_queue(1)
    data = bytes(range(251)) * 500
    data = data[: 240 * 512]
    queue.write(16, data)
    assert queue.read(16, 240) == data
    assert host.active_namespaces() == [1]


# --- The end ---


def test_the_hosts_termination_request_ends_the_connection(served: TcpServed) -> None:
    queue = served.queue()
    queue.send(H2CTerm(fes=SEQUENCE, data=encode(READ)))
    assert queue.ended() is None


@pytest.mark.parametrize("lie", [{"hlen": 23}, {"plen": 24 + 129}, {"plen": 20}, {"flags": 1}])
def test_a_termination_request_that_lies_is_one_all_the_same(
    served: TcpServed, lie: dict[str, int]
) -> None:
    queue = served.queue()
    queue.send(Crooked(H2CTerm(fes=SEQUENCE), **lie))  # type: ignore[arg-type]
    queue.ended()


def test_a_host_that_does_not_read_is_dropped_all_the_same(served: TcpServed) -> None:
    """A termination request that cannot be sent does not keep the connection for ever."""
    queue = served.queue(entries=128)
    for _ in range(100):
        queue.submit_read(0, 256)
    queue.send(Crooked(READ, hlen=1))
    queue.socket.settimeout(5)
    while queue.socket.recv(1 << 20):
        pass


def test_a_connection_that_ends_inside_a_pdu(served: TcpServed) -> None:
    for cut in (1, 7, 8, 9, 71, 72, 73, 500):
        queue = served.queue()
        queue.send(encode(WRITE)[:cut])
        queue.close()


def test_admin_commands_need_a_namespace_of_pdus_of_their_own(served: TcpServed) -> None:
    """Commands and answers in one piece, out of order with nothing but their CIDs to tell."""
    queue = served.connect().admin
    sqes = [queue.point(property_get(8), 0, False) for _ in range(20)]
    queue.send(*[Command(sqe) for sqe in sqes])
    answers = [queue.receive() for _ in sqes]
    assert sorted(a.cid for a in answers if isinstance(a, Response)) == sorted(
        sqe.cid for sqe in sqes
    )


def test_unknown_commands_are_refused_and_no_more(served: TcpServed) -> None:
    host = served.connect()
    assert host.admin.command(Sqe(0xC5)).completion.code == Status.INVALID_OPCODE
    assert host.create_queue(1).command(Sqe(0xC5, nsid=1)).completion.code == Status.INVALID_OPCODE
    assert host.admin.command(Sqe(Admin.CREATE_SQ)).completion.code == Status.INVALID_OPCODE
