"""Data to and from our target: capsules, R2T, H2CData that lies, SUCCESS, SGLs and overruns.

TCP Transport 1.0c, 3.3 and 3.6; the named regressions are those of other targets.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests_protocol import pattern, until
from tests_tcp import BLOCK, TcpServed, ended_with, failed

from vhostnvme.native import Runtime
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import Status
from vhostnvme.testing.nvmetcp_host import IoQueue
from vhostnvme.testing.nvmetcp_pdu import (
    R2T,
    C2HData,
    Command,
    Fes,
    H2CData,
    Response,
)
from vhostnvme.testing.nvmetcp_queue import CAPSULE_DATA, Silent
from vhostnvme.testing.nvmetcp_wire import Crooked, encode

HEADER, SEQUENCE, _, RANGE, LIMIT, _ = Fes
ANY = (HEADER, SEQUENCE, RANGE, LIMIT)
SLOW = 2  # the namespace whose commands take a minute
LARGE = 64 << 10


@pytest.fixture(scope="module")
def served(runtime: Runtime) -> Iterator[TcpServed]:
    target = TcpServed(runtime, ["mem:8M", "mem:1M?delay=60s"])
    yield target
    target.close()


@pytest.fixture
def queue(served: TcpServed) -> Iterator[IoQueue]:
    with served.connect(maxr2t=0) as host:
        yield host.create_queue(1)
    served.healthy()


def asked(queue: IoQueue, cid: int) -> R2T:
    """The R2T of a write whose data is held back."""
    while not any(r2t.cid == cid for r2t in queue.r2ts):
        queue.step()
    return next(r2t for r2t in queue.r2ts if r2t.cid == cid)


def waiting_write(queue: IoQueue, lba: int = 0, length: int = LARGE) -> R2T:
    queue.hold_data = True
    return asked(queue, queue.submit_write(lba, pattern(1, length), in_capsule=False))


# --- In the capsule ---


@pytest.mark.parametrize("length", [512, 4096, CAPSULE_DATA])
def test_small_writes_go_in_the_capsule(queue: IoQueue, length: int) -> None:
    data = pattern(length, length)
    queue.write(7, data, in_capsule=True)
    assert queue.read(7, length // BLOCK) == data


def test_more_than_the_capsule_holds(queue: IoQueue) -> None:
    sqe = queue.point(nvme.write(1, 0, 17), CAPSULE_DATA + BLOCK, True)
    queue.send(Command(sqe, bytes(CAPSULE_DATA + BLOCK)))
    ended_with(queue, HEADER, info=4)


def test_an_in_capsule_offset_is_refused(queue: IoQueue) -> None:
    """ICDOFF is 0: data starts where the capsule's does."""
    sqe = queue.point(nvme.write(1, 0, 1), BLOCK, True).with_sgl(512, BLOCK, 0, 1)
    cid = queue.submit_raw(sqe.with_fields(cid=77), bytes(2 * BLOCK), 0, True)
    failed(queue.wait(cid).completion, Status.SGL_OFFSET)


@pytest.mark.parametrize("length", [0, 508, 516, 1024, 8192, 0xFFFFFFFF])
def test_a_capsule_whose_sgl_says_another_length(queue: IoQueue, length: int) -> None:
    queue.write(0, b"kept" * 128)
    sqe = nvme.write(1, 0, 1).with_fields(cid=78).with_sgl(0, length, 0, 1)
    cid = queue.submit_raw(sqe, b"lost" * 128, 0, True)
    completion = queue.wait(cid).completion
    assert completion.code in (Status.SGL_DATA_LENGTH, Status.SGL_OFFSET, Status.INVALID_FIELD)
    assert queue.read(0, 1) == b"kept" * 128


def test_an_in_capsule_sgl_without_data(queue: IoQueue) -> None:
    sqe = nvme.write(1, 0, 1).with_fields(cid=79).with_sgl(0, BLOCK, 0, 1)
    completion = queue.wait(queue.submit_raw(sqe, b"", 0, True)).completion
    assert not completion.ok and completion.status_type == 0


SGLS = [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (4, 0xF), (5, 0), (5, 1), (6, 0), (0xF, 0xF)]


@pytest.mark.parametrize(("kind", "subtype"), SGLS)
def test_descriptors_that_tcp_has_not(queue: IoQueue, kind: int, subtype: int) -> None:
    sqe = nvme.read(1, 0, 1).with_fields(cid=80).with_sgl(0, BLOCK, kind, subtype)
    completion = queue.wait(queue.submit_raw(sqe, b"", BLOCK, False)).completion
    assert completion.code in (Status.SGL_TYPE, Status.INVALID_FIELD, Status.SGL_OFFSET)


@pytest.mark.parametrize("psdt", [0x00, 0x80, 0xC0])
def test_prps_have_no_place_on_fabrics(queue: IoQueue, psdt: int) -> None:
    sqe = nvme.read(1, 0, 1).with_fields(cid=81).with_sgl(0, BLOCK, 5, 0xA)
    cid = queue.submit_raw(sqe.with_fields(flags=psdt), b"", BLOCK, False)
    failed(queue.wait(cid).completion, Status.INVALID_FIELD)


@pytest.mark.parametrize("length", [0, 508, 1024, 0xFFFFFFFF])
def test_reads_whose_sgl_says_another_length(queue: IoQueue, length: int) -> None:
    sqe = nvme.read(1, 0, 1).with_fields(cid=82).with_sgl(0, length, 5, 0xA)
    completion = queue.wait(queue.submit_raw(sqe, b"", 0, False)).completion
    assert completion.code in (Status.SGL_DATA_LENGTH, Status.INVALID_FIELD)


@pytest.mark.parametrize("length", [508, 1024, 2 << 20, 0xFFFFFFFC])
def test_writes_whose_sgl_says_another_length(queue: IoQueue, length: int) -> None:
    """Whether data is asked for or not: the command fails, and nothing is written."""
    queue.write(0, b"kept" * 128)
    sqe = nvme.write(1, 0, 1).with_fields(cid=83).with_sgl(0, length, 5, 0xA)
    data = bytes(min(length, 2 << 20))
    completion = queue.wait(queue.submit_raw(sqe, data, 0, False)).completion
    assert completion.code in (Status.SGL_DATA_LENGTH, Status.INVALID_FIELD), completion
    assert queue.read(0, 1) == b"kept" * 128


def test_mdts_is_a_limit(served: TcpServed, queue: IoQueue) -> None:
    with served.connect() as host:
        mdts = host.identify_controller().mdts
    assert 5 <= mdts <= 10
    blocks = (4096 << mdts) // BLOCK
    data = pattern(5, blocks * BLOCK)
    queue.write(0, data)
    assert queue.read(0, blocks) == data
    sqe = queue.read_sqe(0, blocks + 1)
    completion = queue.command(sqe, read=(blocks + 1) * BLOCK).completion
    assert completion.code in (Status.INVALID_FIELD, Status.SGL_DATA_LENGTH)


# --- R2T (3.3.2.2) ---


@pytest.mark.parametrize("maxr2t", [0, 1, 3, 15, 0xFFFFFFFF])
def test_writes_of_every_size(served: TcpServed, maxr2t: int) -> None:
    """The scripted host counts the outstanding R2Ts, and wants them in order."""
    with served.connect(maxr2t=maxr2t) as host:
        queue = host.create_queue(1)
        for blocks in (1, 16, 17, 255, 256, 257, 1024, 2048):
            data = pattern(blocks, blocks * BLOCK)
            queue.write(3, data, in_capsule=False)
            assert queue.read(3, blocks) == data


def test_several_r2ts_are_outstanding(served: TcpServed) -> None:
    with served.connect(maxr2t=3) as host:
        queue = host.create_queue(1)
        queue.hold_data = True
        data = pattern(6, 512 << 10)
        cid = queue.submit_write(0, data)
        while True:
            try:
                queue.step(0.2)
            except Silent:
                break
        assert 1 < len(queue.r2ts) <= 4
        queue.hold_data = False
        for r2t in list(queue.r2ts):
            queue.answer(r2t)
        assert queue.wait(cid).completion.ok
        assert queue.read(0, 1024) == data


def test_data_in_small_pieces(queue: IoQueue) -> None:
    """An R2T may be answered in as many PDUs as the host likes, LAST on the last."""
    r2t = waiting_write(queue)
    queue.r2ts.remove(r2t)
    for pdu in queue.h2c_data(r2t, 516):
        queue.send(pdu)
    assert queue.wait(r2t.cid).completion.ok
    assert queue.read(0, LARGE // BLOCK) == pattern(1, LARGE)


def test_writes_at_the_same_time_keep_apart(queue: IoQueue) -> None:
    """R2Ts of several commands are answered in another order, and in turns."""
    queue.hold_data = True
    cids = [queue.submit_write(n * 128, pattern(n, LARGE), in_capsule=False) for n in range(4)]
    asks = [asked(queue, cid) for cid in cids]
    streams = [iter(queue.h2c_data(r2t, 16384)) for r2t in reversed(asks)]
    queue.r2ts.clear()
    for _ in range(4):
        queue.send(*[next(stream) for stream in streams])
    for cid in cids:
        assert queue.wait(cid).completion.ok
    for n in range(4):
        assert queue.read(n * 128, 128) == pattern(n, LARGE)


def test_reads_overtake_a_write_that_waits_for_its_data(queue: IoQueue) -> None:
    r2t = waiting_write(queue)
    assert len(queue.read(0, 8)) == 4096
    queue.answer(r2t)
    assert queue.wait(r2t.cid).completion.ok


# --- H2CData that lies ---


def bad(length: int) -> bytes:
    """What must not be found in the namespace."""
    return b"\xee" * length


def h2c(r2t: R2T, **changes: object) -> H2CData:
    fields = {"cid": r2t.cid, "ttag": r2t.ttag, "offset": r2t.offset, "data": bad(r2t.length)}
    return H2CData(**(fields | changes))  # type: ignore[arg-type]


def lies(r2t: R2T) -> dict[str, tuple[list[H2CData], tuple[int, ...]]]:
    half = r2t.length // 2
    return {
        "another TTAG": ([h2c(r2t, ttag=r2t.ttag ^ 1)], (HEADER, SEQUENCE)),
        "TTAG FFFFh": ([h2c(r2t, ttag=0xFFFF)], (HEADER, SEQUENCE)),
        "another CID": ([h2c(r2t, cid=r2t.cid + 1)], (HEADER, SEQUENCE)),
        "behind its R2T": ([h2c(r2t, offset=r2t.length)], (RANGE, HEADER)),
        "in the middle": ([h2c(r2t, offset=half, data=bad(half))], (RANGE, HEADER, SEQUENCE)),
        "an overflowing offset": ([h2c(r2t, offset=0xFFFFFFFC)], (RANGE, HEADER)),
        "an odd offset": ([h2c(r2t, offset=2)], (RANGE, HEADER)),
        "too much": ([h2c(r2t, data=bad(r2t.length + 4))], (RANGE, LIMIT, HEADER)),
        "the same twice": (
            [h2c(r2t, data=bad(half), last=False)] * 2,
            (RANGE, HEADER, SEQUENCE),
        ),
        "backwards": (
            [h2c(r2t, offset=half, data=bad(half), last=False)],
            (RANGE, HEADER, SEQUENCE),
        ),
        "LAST too early": ([h2c(r2t, data=bad(half), last=True)], ANY),
        "LAST never": ([h2c(r2t, last=False), h2c(r2t)], ANY),
        "a tail": ([h2c(r2t), h2c(r2t)], (HEADER, SEQUENCE, RANGE)),
    }


LIES = list(lies(R2T(1, 2, 0, LARGE)))


@pytest.mark.parametrize("lie", LIES)
def test_data_that_was_not_asked_for_so(served: TcpServed, queue: IoQueue, lie: str) -> None:
    """The connection ends, and nothing of it is written by a command that was not whole."""
    with served.connect() as bystander:
        other = bystander.create_queue(1)
        other.write(1024, bytes(LARGE))
        r2t = waiting_write(queue, 1024)
        pdus, fes = lies(r2t)[lie]
        queue.send(*pdus)
        ended_with(queue, *fes)
        got = other.read(1024, LARGE // BLOCK)
        whole = lie in ("a tail", "LAST never")  # all of it had come, before what was wrong
        assert got == bytes(LARGE) or (whole and got == bad(LARGE))


def test_more_than_maxh2cdata_in_one_pdu(queue: IoQueue) -> None:
    length = queue.ic_resp.maxh2cdata + 4096
    r2t = waiting_write(queue, 0, 2 * queue.ic_resp.maxh2cdata)
    queue.send(h2c(r2t, data=bytes(length), last=False))
    ended_with(queue, LIMIT, RANGE, HEADER)


def test_cve_2026_22998_data_before_any_command(served: TcpServed) -> None:
    """Linux followed a NULL when H2CData named a command that had not been set up."""
    for ttag in (0, 1, 31, 127, 0xFFFF):
        queue = served.ready()
        queue.send(H2CData(ttag, ttag, 0, bytes(4096)))
        ended_with(queue, *ANY)
        queue = served.queue()
        queue.send(H2CData(0, ttag, 0, bytes(4096)))
        ended_with(queue, *ANY)
    served.healthy()


def test_cve_2026_22998_data_for_a_command_without_r2t(served: TcpServed) -> None:
    """In-capsule writes and reads under way have no R2T, and take no data."""
    for made in (
        lambda queue: queue.submit_write(0, bytes(512), SLOW),
        lambda queue: queue.submit_read(0, 8, SLOW),
    ):
        for ttag in range(4):
            queue = served.queue()
            cid = made(queue)
            queue.send(H2CData(cid, ttag, 0, bytes(512)))
            ended_with(queue, *ANY)
    served.healthy()


@pytest.mark.parametrize("flags", [0, 4])
def test_cve_2023_6356_data_longer_than_the_command(queue: IoQueue, flags: int) -> None:
    """Linux built its vectors from a DATAL that it had not compared with the command."""
    r2t = waiting_write(queue, length=16 << 10)
    liar = H2CData(r2t.cid, r2t.ttag, 0, bytes(64), last=True, length=0x7FFFFFF0)
    queue.send(Crooked(liar, flags=flags, plen=24 + 0x7FFFFFF0))
    ended_with(queue, *ANY)


def test_cve_2023_6535_data_of_a_command_that_is_running(served: TcpServed) -> None:
    """Linux executed a command a second time when more data came for it."""
    queue = served.queue()
    queue.hold_data = True
    cid = queue.submit_write(0, bytes(LARGE), SLOW, in_capsule=False)
    r2t = asked(queue, cid)
    queue.send(*queue.h2c_data(r2t))
    queue.send(H2CData(cid, r2t.ttag, 0, bytes(LARGE)))
    ended_with(queue, *ANY)
    served.healthy()


def test_cve_2023_6536_data_of_a_command_that_is_done(queue: IoQueue) -> None:
    """Linux completed a request twice when data came after its completion."""
    r2t = waiting_write(queue)
    queue.r2ts.remove(r2t)
    queue.send(*queue.h2c_data(r2t))
    assert queue.wait(r2t.cid).completion.ok
    queue.send(H2CData(r2t.cid, r2t.ttag, r2t.offset, bytes(r2t.length)))
    ended_with(queue, *ANY)


def test_an_empty_h2cdata(queue: IoQueue) -> None:
    r2t = waiting_write(queue)
    queue.send(Crooked(H2CData(r2t.cid, r2t.ttag, 0, b""), pdo=24))
    ended_with(queue, *ANY)


# --- SUCCESS (3.3.3.2) and SQ flow control ---


def test_success_comes_only_without_flow_control(served: TcpServed) -> None:
    with served.connect() as host:
        plain = host.create_queue(1)
        assert plain.flow_control
        assert not plain.command(plain.read_sqe(0, 1), read=BLOCK).success
        short = host.create_queue(2, no_sq_flow=True)
        assert not short.flow_control
        assert short.command(short.read_sqe(0, 1), read=BLOCK).success
        answer = short.command(short.read_sqe(1 << 40, 1), read=BLOCK)
        assert not answer.success and answer.completion.code == Status.LBA_RANGE
        assert short.write(0, bytes(BLOCK)).success is False


def test_success_is_in_the_last_pdu_alone(served: TcpServed) -> None:
    with served.connect(no_sq_flow=True) as host:
        queue = host.create_queue(1)
        queue.submit_read(0, 1024)
        while True:
            pdu = queue.receive()
            assert isinstance(pdu, C2HData) and pdu.success == pdu.last
            if pdu.last:
                break
        assert queue.quiet(0.02), "a response after SUCCESS"


def test_the_sq_head_goes_round(queue: IoQueue) -> None:
    heads = [queue.command(nvme.flush(1)).completion.sqhd for _ in range(40)]
    assert heads == [(heads[0] + n) % 32 for n in range(40)]


@pytest.mark.parametrize("no_sq_flow", [False, True])
def test_more_commands_than_the_queue_holds(served: TcpServed, no_sq_flow: bool) -> None:
    """The one too many ends the connection."""
    with served.connect() as host:
        queue = host.create_queue(1, 8, no_sq_flow=no_sq_flow, nsid=SLOW)
        for _ in range(7):
            queue.submit_read(0, 1)
        assert queue.quiet(0.05), "seven commands fit into a queue of eight"
        queue.send(*[Command(queue.point(queue.read_sqe(0, 1), BLOCK, False)) for _ in range(3)])
        ended_with(queue, SEQUENCE)
    served.healthy()


def test_a_cid_that_is_in_use(served: TcpServed) -> None:
    """At worst both are executed; nothing is mixed up."""
    with served.connect() as host:
        queue = host.create_queue(1)
        sqes = [
            queue.point(queue.read_sqe(0, 1, nsid), BLOCK, False).with_fields(cid=5)
            for nsid in (SLOW, 1)
        ]
        queue.send(*map(Command, sqes))
        answer = queue.receive()
        if isinstance(answer, C2HData):
            assert len(answer.data) == BLOCK
            answer = queue.receive()
        assert isinstance(answer, Response)
        assert answer.completion.code in (0, Status.CID_CONFLICT)
    served.healthy()


# --- Abort ---


def test_a_write_that_waits_for_its_data_is_aborted(served: TcpServed) -> None:
    """It is not executed; whether it can be aborted at all is told by the Abort's result."""
    with served.connect() as host:
        queue = host.create_queue(1)
        queue.write(0, b"kept" * (LARGE // 4))
        r2t = waiting_write(queue)
        answer = host.admin.command(nvme.abort(1, r2t.cid)).completion
        assert answer.ok
        if answer.result & 1:  # not aborted: it goes on as if nothing had been
            queue.answer(r2t)
            assert queue.wait(r2t.cid).completion.ok
            return
        failed(queue.wait(r2t.cid).completion, Status.ABORT_REQUESTED, dnr=False)
        assert queue.read(0, LARGE // BLOCK) == b"kept" * (LARGE // 4)


def test_a_slow_command_is_aborted(served: TcpServed) -> None:
    with served.connect() as host:
        queue = host.create_queue(1)
        cid = queue.submit_read(0, 8, SLOW)
        until(lambda: host.admin.command(nvme.abort(1, cid)).completion.result == 0, "aborted")
        completion = queue.wait(cid).completion
        assert completion.code == Status.ABORT_REQUESTED
        assert queue.read(0, 8)


def test_the_largest_pdu_lengths_are_not_believed(queue: IoQueue) -> None:
    sqe = queue.point(nvme.write(1, 0, 1), BLOCK, True)
    queue.send(encode(Crooked(Command(sqe, bytes(BLOCK)), plen=0x80000000)))
    ended_with(queue, HEADER, info=4)
