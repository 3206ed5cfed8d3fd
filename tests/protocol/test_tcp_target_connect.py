"""Connect, Disconnect and properties at our target (Base 6): who gets a queue, who is told what."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests_tcp import OTHER_HOSTNQN, TcpServed, failed, refused_at

from vhostnvme.native import Runtime, TargetLimits
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import Admin, CommandFailed, Reg, Sqe, Status
from vhostnvme.testing.nvmetcp_fabrics import (
    AT_CNTLID,
    AT_HOSTID,
    AT_HOSTNQN,
    AT_QID,
    AT_SQSIZE,
    AT_SUBNQN,
    ConnectData,
    FabricsStatus,
    connect,
    disconnect,
    fabrics,
    property_get,
    property_set,
)
from vhostnvme.testing.nvmetcp_host import CC_ENABLE, TcpHost
from vhostnvme.testing.nvmetcp_queue import Ended, TcpQueue

INVALID_QUEUE_TYPE = 0x185
MAX_QUEUES, MAX_ENTRIES = 6, 64


@pytest.fixture(scope="module")
def served(runtime: Runtime) -> Iterator[TcpServed]:
    target = TcpServed(
        runtime,
        limits=TargetLimits(controllers=40),
        max_queues=MAX_QUEUES,
        max_entries=MAX_ENTRIES,
    )
    yield target
    target.close()


@pytest.fixture
def host(served: TcpServed) -> Iterator[TcpHost]:
    with served.connect() as connected:
        yield connected


@pytest.fixture
def queue(served: TcpServed) -> Iterator[TcpQueue]:
    """A connection that awaits its Connect."""
    with served.ready() as opened:
        yield opened


# --- The admin queue ---


def test_a_controller_id_is_handed_out(served: TcpServed) -> None:
    with served.connect() as one, served.connect() as two:
        ids = {one.cntlid, two.cntlid}
        assert len(ids) == 2 and all(cntlid < 0xFFF0 for cntlid in ids)
        identity = one.identify_controller()
        assert identity.cntlid == one.cntlid and identity.subnqn == served.nqn
        assert identity.cntrltype == 1 and identity.sgls & 1
        assert identity.ioccsz * 16 == 64 + 8192 and identity.iorcsz == 1
        assert identity.icdoff == 0
        assert identity.kas > 0, "keep-alive granularity"
        assert identity.ctratt & 1 << 6, "traffic-based keep alive"


BAD_DATA = [
    ({"subnqn": "nqn.2026-11.test:nobody"}, AT_SUBNQN),
    ({"subnqn": ""}, AT_SUBNQN),
    ({"subnqn": b"x" * 256}, AT_SUBNQN),
    ({"hostnqn": b"nqn.2026-11.test:" + b"x" * 239}, AT_HOSTNQN),
    ({"cntlid": 0}, AT_CNTLID),
    ({"cntlid": 1}, AT_CNTLID),
    ({"cntlid": 0xFFFE}, AT_CNTLID),
]


def test_a_host_without_a_name_comes_where_any_may(served: TcpServed) -> None:
    with served.ready() as queue:
        assert queue.connect(served.data(hostnqn="")).ok


@pytest.mark.parametrize(("changes", "where"), BAD_DATA)
def test_bad_data_is_pointed_at(
    served: TcpServed, queue: TcpQueue, changes: dict[str, object], where: int
) -> None:
    refused_at(queue.connect(served.data(**changes)), where)


@pytest.mark.parametrize("sqsize", [0, 0xFFFF])
def test_sizes_of_the_admin_queue(served: TcpServed, queue: TcpQueue, sqsize: int) -> None:
    answer = queue.command(connect(0, sqsize), bytes(served.data()))
    refused_at(answer.completion, AT_SQSIZE)


def test_an_unknown_record_format(served: TcpServed, queue: TcpQueue) -> None:
    answer = queue.command(connect(0, 31, recfmt=1), bytes(served.data()))
    failed(answer.completion, FabricsStatus.CONNECT_FORMAT)


@pytest.mark.parametrize("length", [0, 4, 512, 1020, 1028, 8192])
def test_connect_data_has_1024_bytes(served: TcpServed, queue: TcpQueue, length: int) -> None:
    data = bytes(served.data())[:length].ljust(length, b"\0")
    completion = queue.command(connect(0, 31), data).completion
    assert completion.code in (Status.SGL_DATA_LENGTH, Status.INVALID_FIELD) and completion.dnr


def test_after_a_refusal_the_connection_serves_another_try_or_ends(
    served: TcpServed, queue: TcpQueue
) -> None:
    refused_at(queue.connect(served.data(subnqn="nqn.2026-11.test:nobody")), AT_SUBNQN)
    try:
        assert queue.connect(served.data()).ok
    except Ended:
        pass
    served.healthy()


def test_connect_comes_once(served: TcpServed, queue: TcpQueue) -> None:
    assert queue.connect(served.data()).ok
    failed(queue.connect(served.data()), Status.COMMAND_SEQUENCE)
    assert queue.command(property_get(Reg.VS)).completion.result == 0x20000


BEFORE_CONNECT = [
    nvme.identify(1),
    nvme.get_log_page(2, 512),
    nvme.async_event(),
    Sqe(Admin.KEEP_ALIVE),
    nvme.read(1, 0, 1),
    nvme.flush(1),
    property_get(Reg.CAP, eight=True),
    property_set(Reg.CC, CC_ENABLE),
    disconnect(),
    fabrics(0x05),
    fabrics(0x06),
    fabrics(0x7F),
]


@pytest.mark.parametrize("sqe", BEFORE_CONNECT)
def test_nothing_goes_before_connect(served: TcpServed, queue: TcpQueue, sqe: Sqe) -> None:
    """Command Sequence Error, or the connection's end; not an answer."""
    try:
        failed(queue.command(sqe).completion, Status.COMMAND_SEQUENCE)
    except Ended:
        pass
    served.healthy()


def test_a_full_house_is_busy(runtime: Runtime) -> None:
    served = TcpServed(runtime, limits=TargetLimits(controllers=3))
    hosts = [served.connect() for _ in range(3)]
    completion = failed(
        served.ready().connect(served.data()), FabricsStatus.CONNECT_BUSY, dnr=False
    )
    assert completion.result & 0xFFFF in (0, 0xFFFF)
    hosts[1].close()
    again = None
    while again is None:
        try:
            again = served.connect()
        except CommandFailed as busy:
            assert busy.completion.code == FabricsStatus.CONNECT_BUSY
    served.close()


# --- I/O queues ---


def test_all_queues_of_a_host_work(served: TcpServed, host: TcpHost) -> None:
    assert host.set_feature(7, 0x00FF00FF) == (MAX_QUEUES - 1) * 0x10001
    queues = [host.create_queue(qid) for qid in range(1, MAX_QUEUES + 1)]
    for number, queue in enumerate(queues):
        queue.write(number, bytes([number]) * 512)
    for number, queue in enumerate(reversed(queues)):
        assert queue.read(number, 1) == bytes([number]) * 512
    _, completion = host.try_queue(MAX_QUEUES + 1)
    refused_at(completion, AT_QID)


def test_queues_beyond_what_was_granted(host: TcpHost) -> None:
    assert host.set_feature(7, 0x00010001) == 0x00010001
    host.create_queue(2)
    refused_at(host.try_queue(3)[1], AT_QID)


def test_the_hundred_and_twenty_eighth_queue(runtime: Runtime) -> None:
    served = TcpServed(runtime)
    host = served.connect()
    granted = host.set_feature(7, 0x007F007F)
    assert granted == 0x007F007F
    queues = [host.create_queue(qid, entries=16) for qid in range(1, 129)]
    cids = [queue.submit_read(0, 8) for queue in queues]
    for queue, cid in zip(queues, cids, strict=True):
        assert queue.wait(cid).completion.ok
    served.close()


@pytest.mark.parametrize("qid", [0xFFFF, 129, 4096])
def test_queue_ids_that_cannot_be(host: TcpHost, qid: int) -> None:
    refused_at(host.try_queue(qid)[1], AT_QID)


def test_a_queue_id_is_taken_once(host: TcpHost) -> None:
    first = host.create_queue(1)
    failed(host.try_queue(1)[1], Status.COMMAND_SEQUENCE)
    assert first.read(0, 1)
    first.close()
    completion = host.try_queue(1)[1]  # as soon as its end has been noticed
    while completion.code == Status.COMMAND_SEQUENCE:
        completion = host.try_queue(1)[1]
    assert completion.ok


@pytest.mark.parametrize("entries", [1, MAX_ENTRIES + 1, 0x10000])
def test_sizes_that_a_queue_cannot_have(host: TcpHost, entries: int) -> None:
    refused_at(host.try_queue(1, entries)[1], AT_SQSIZE)


def test_sizes_are_zero_based(host: TcpHost) -> None:
    cap = host.property_get(Reg.CAP, eight=True)
    assert (cap & 0xFFFF) + 1 == MAX_ENTRIES
    queue = host.create_queue(1, MAX_ENTRIES)
    cids = [queue.submit_read(0, 1) for _ in range(MAX_ENTRIES - 1)]
    assert all(queue.wait(cid).completion.ok for cid in cids)
    smallest = host.create_queue(2, 2)
    for _ in range(5):
        assert smallest.read(0, 1)


def test_an_io_queue_comes_when_the_controller_is_ready(served: TcpServed) -> None:
    with served.connect(enable=False) as host:
        failed(host.try_queue(1)[1], Status.COMMAND_SEQUENCE)
        host.enable()
        assert host.try_queue(1)[1].ok


def test_an_io_queue_belongs_to_its_host(served: TcpServed, host: TcpHost) -> None:
    good = {"cntlid": host.cntlid}
    refused_at(host.try_queue(1, data=served.data(cntlid=host.cntlid + 100))[1], AT_CNTLID)
    refused_at(host.try_queue(1, data=served.data(cntlid=0xFFFF))[1], AT_CNTLID)
    data = served.data(hostnqn=OTHER_HOSTNQN, **good)
    refused_at(host.try_queue(1, data=data)[1], AT_HOSTNQN)
    data = served.data(hostid=bytes(16), **good)
    refused_at(host.try_queue(1, data=data)[1], AT_HOSTID)
    other = served.add_subsystem()
    data = served.data(subnqn=other.nqn, **good)
    completion = host.try_queue(1, data=data)[1]
    assert completion.code == FabricsStatus.CONNECT_PARAMETER
    assert completion.result in (AT_CNTLID, AT_SUBNQN)
    other.close()
    assert host.try_queue(1, data=served.data(**good))[1].ok


# --- Disconnect ---


def test_disconnect_ends_an_io_queue(host: TcpHost) -> None:
    queue = host.create_queue(1)
    queue.write(0, bytes(512))
    assert queue.command(disconnect()).completion.ok
    assert queue.ended() is None
    assert host.create_queue(2).read(0, 1) == bytes(512)


def test_disconnect_has_its_rules(host: TcpHost) -> None:
    failed(host.admin.command(disconnect()).completion, INVALID_QUEUE_TYPE)
    queue = host.create_queue(1)
    failed(queue.command(disconnect(recfmt=1)).completion, FabricsStatus.CONNECT_FORMAT)
    assert queue.read(0, 1)


# --- Properties (Base 6.4, 6.5) ---


def test_properties_that_there_are(host: TcpHost) -> None:
    cap = host.property_get(Reg.CAP, eight=True)
    assert cap & 1 << 37, "the NVM command set"
    assert host.property_get(Reg.VS) == 0x20000
    assert host.property_get(Reg.CC) == CC_ENABLE
    assert host.csts & 0xF == 1


READS = [(Reg.CAP, False), (Reg.VS, True), (Reg.CC, True), (Reg.CSTS, True)]
NONE = [0x02, 0x0C, 0x10, 0x24, 0x28, 0x30, 0x1000, 0xFFFFFFFC, 0x15]


@pytest.mark.parametrize(("offset", "eight"), READS + [(at, False) for at in NONE])
def test_wrong_offsets_and_sizes_of_properties(host: TcpHost, offset: int, eight: bool) -> None:
    completion = host.admin.command(property_get(offset, eight=eight)).completion
    failed(completion, Status.INVALID_FIELD)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_reserved_sizes_of_properties(host: TcpHost, size: int) -> None:
    sqe = property_get(Reg.VS).with_fields(cdw10=size)
    failed(host.admin.command(sqe).completion, Status.INVALID_FIELD)


@pytest.mark.parametrize("offset", [Reg.CAP, Reg.VS, Reg.CSTS, 0x24, 0x1000])
@pytest.mark.parametrize("eight", [False, True])
def test_properties_that_are_read_only(host: TcpHost, offset: int, eight: bool) -> None:
    before = host.property_get(Reg.CAP, eight=True), host.property_get(Reg.VS)
    completion = host.admin.command(property_set(offset, 0xFFFFFFFF, eight=eight)).completion
    failed(completion, Status.INVALID_FIELD)
    assert (host.property_get(Reg.CAP, eight=True), host.property_get(Reg.VS)) == before
    assert host.csts & 0xF == 1


def test_properties_belong_to_the_admin_queue(host: TcpHost) -> None:
    queue = host.create_queue(1)
    failed(queue.command(property_get(Reg.VS)).completion, INVALID_QUEUE_TYPE)
    failed(queue.command(property_set(Reg.CC, 0)).completion, INVALID_QUEUE_TYPE)
    assert host.csts & 1


def test_enable_disable_and_shutdown(served: TcpServed) -> None:
    with served.connect(enable=False) as host:
        assert host.csts == 0
        failed(host.admin.command(nvme.identify(1), read=4096).completion, Status.COMMAND_SEQUENCE)
        host.enable()
        queue = host.create_queue(1)
        queue.write(3, bytes(512))
        host.disable()
        host.enable()
        assert host.create_queue(2).read(3, 1) == bytes(512)
        host.shutdown()
        assert host.csts & 0xC == 0x8


def test_a_wrong_cc_is_a_fatal_status_and_no_more(served: TcpServed) -> None:
    with served.connect(enable=False) as host:
        host.property_set(Reg.CC, CC_ENABLE | 5 << 4)  # a command set that there is not
        while not host.csts & 3:
            pass
        assert host.csts & 2
        host.disable()
        host.enable()
        assert host.identify_controller().subnqn == served.nqn


def test_unknown_fabrics_commands(host: TcpHost) -> None:
    failed(host.admin.command(fabrics(0x7E)).completion, Status.INVALID_OPCODE)
    failed(host.create_queue(1).command(fabrics(0x7E)).completion, Status.INVALID_OPCODE)


def test_a_connect_names_the_host_that_is_shown(served: TcpServed) -> None:
    """NQNs of the longest form, 223 characters, are taken whole."""
    longest = "nqn.2026-11.test:".ljust(223, "h")
    with served.ready() as queue:
        assert queue.connect(ConnectData(longest, served.nqn)).ok
    with served.ready() as queue:
        refused_at(queue.connect(ConnectData(longest + "h", served.nqn)), AT_HOSTNQN)
