"""Creating, using and deleting queues (Base 3.3, 5.3 to 5.6)."""

from __future__ import annotations

import time

import pytest
from tests_protocol import BLOCK, PAGE, Serve, dice, pattern, refused, until

from vhostnvme.errors import NativeError
from vhostnvme.testing import Completion, NvmeHost, QueuePair, nvme
from vhostnvme.testing.nvme import Admin, Sqe, Status

CONTIGUOUS, INTERRUPTS = 1, 2


def create_cq(host: NvmeHost, qid: int, qsize: int = 15, cdw11: int = CONTIGUOUS) -> Completion:
    """`qsize` is zero-based, as on the wire."""
    prp1 = host.alloc(PAGE).iova
    return host.admin(Sqe(Admin.CREATE_CQ, cdw10=qid | qsize << 16, cdw11=cdw11, prp1=prp1))


def create_sq(host: NvmeHost, qid: int, cqid: int, qsize: int = 15) -> Completion:
    prp1 = host.alloc(PAGE).iova
    return host.admin(
        Sqe(Admin.CREATE_SQ, cdw10=qid | qsize << 16, cdw11=CONTIGUOUS | cqid << 16, prp1=prp1)
    )


@pytest.mark.parametrize("qid", [0, 65, 0x100, 0xFFFF])
def test_a_queue_id_of_0_or_beyond_the_granted_count_is_refused(host: NvmeHost, qid: int) -> None:
    refused(create_cq(host, qid), Status.QID_INVALID)
    assert create_cq(host, 1).ok
    refused(create_sq(host, qid, 1), Status.QID_INVALID)


def test_the_granted_count_is_what_number_of_queues_says(host: NvmeHost) -> None:
    assert host.set_feature(7, 2 << 16 | 1) == 2 << 16 | 1  # 2 SQs, 3 CQs
    for qid in (1, 2, 3):
        assert create_cq(host, qid).ok
    refused(create_cq(host, 4), Status.QID_INVALID)
    for qid in (1, 2):
        assert create_sq(host, qid, qid).ok
    refused(create_sq(host, 3, 3), Status.QID_INVALID)


def test_a_queue_that_exists_is_refused(host: NvmeHost) -> None:
    assert create_cq(host, 1).ok
    refused(create_cq(host, 1), Status.QID_INVALID)
    assert create_sq(host, 1, 1).ok
    refused(create_sq(host, 1, 1), Status.QID_INVALID)


@pytest.mark.parametrize("qsize", [0, 1024, 0xFFFF])
def test_a_queue_size_of_0_or_above_mqes_is_refused(host: NvmeHost, qsize: int) -> None:
    refused(create_cq(host, 1, qsize), Status.QUEUE_SIZE)
    assert create_cq(host, 1).ok
    refused(create_sq(host, 1, 1, qsize), Status.QUEUE_SIZE)


@pytest.mark.parametrize("vector", [65, 1000, 0xFFFF])
def test_a_vector_that_does_not_exist_is_refused(host: NvmeHost, vector: int) -> None:
    cdw11 = CONTIGUOUS | INTERRUPTS | vector << 16
    refused(create_cq(host, 1, cdw11=cdw11), Status.INVALID_VECTOR)


def test_queues_that_are_not_contiguous_are_refused(host: NvmeHost) -> None:
    refused(create_cq(host, 1, cdw11=0), Status.INVALID_FIELD)
    assert create_cq(host, 1).ok
    sqe = Sqe(Admin.CREATE_SQ, cdw10=1 | 15 << 16, cdw11=1 << 16, prp1=host.alloc(PAGE).iova)
    refused(host.admin(sqe), Status.INVALID_FIELD)


@pytest.mark.parametrize("offset", [1, 4, 64, 2048])
def test_a_queue_that_does_not_start_at_a_page_is_refused(host: NvmeHost, offset: int) -> None:
    prp1 = host.alloc(2 * PAGE).iova + offset
    sqe = Sqe(Admin.CREATE_CQ, cdw10=1 | 15 << 16, cdw11=CONTIGUOUS, prp1=prp1)
    refused(host.admin(sqe), Status.INVALID_PRP_OFFSET)
    assert create_cq(host, 1).ok
    sqe = Sqe(Admin.CREATE_SQ, cdw10=1 | 15 << 16, cdw11=CONTIGUOUS | 1 << 16, prp1=prp1)
    refused(host.admin(sqe), Status.INVALID_PRP_OFFSET)


@pytest.mark.parametrize("address", [0, 1 << 40, 2**64 - PAGE])
def test_a_queue_outside_memory_is_refused(host: NvmeHost, address: int) -> None:
    sqe = Sqe(Admin.CREATE_CQ, cdw10=1 | 15 << 16, cdw11=CONTIGUOUS, prp1=address)
    assert not host.admin(sqe).ok
    assert create_cq(host, 1).ok
    sqe = Sqe(Admin.CREATE_SQ, cdw10=1 | 15 << 16, cdw11=CONTIGUOUS | 1 << 16, prp1=address)
    assert not host.admin(sqe).ok
    assert create_sq(host, 1, 1).ok


def test_a_submission_queue_on_a_missing_completion_queue_is_refused(host: NvmeHost) -> None:
    refused(create_sq(host, 1, 1), Status.CQ_INVALID)
    assert create_cq(host, 2).ok
    refused(create_sq(host, 1, 1), Status.CQ_INVALID)
    refused(create_sq(host, 1, 0), Status.QID_INVALID)  # the admin queue takes no I/O
    refused(create_sq(host, 1, 65), Status.QID_INVALID)
    assert create_sq(host, 1, 2).ok


def test_a_completion_queue_goes_after_its_submission_queues(host: NvmeHost) -> None:
    assert host.create_cq(1, 16).ok
    assert host.create_sq(1, 16, 1).ok
    assert host.create_sq(2, 16, 1).ok
    refused(host.delete_cq(1), Status.INVALID_QUEUE_DELETION)
    assert host.delete_sq(1).ok
    refused(host.delete_cq(1), Status.INVALID_QUEUE_DELETION)
    assert host.delete_sq(2).ok
    assert host.delete_cq(1).ok


@pytest.mark.parametrize("qid", [0, 1, 65, 0xFFFF])
def test_the_admin_queue_and_missing_queues_cannot_be_deleted(host: NvmeHost, qid: int) -> None:
    # a first command of zeros means unshared memory
    assert host.admin(Sqe(Admin.GET_FEATURES, cdw10=6)).ok
    refused(host.admin(Sqe(Admin.DELETE_SQ, cdw10=qid)), Status.QID_INVALID)
    refused(host.admin(Sqe(Admin.DELETE_CQ, cdw10=qid)), Status.QID_INVALID)


def test_number_of_queues_after_a_queue_exists_is_refused(host: NvmeHost) -> None:
    assert create_cq(host, 1).ok
    sqe = nvme.set_features(7, 3 << 16 | 3)
    refused(host.admin(sqe), Status.COMMAND_SEQUENCE)
    assert host.admin(Sqe(Admin.DELETE_CQ, cdw10=1)).ok
    assert host.admin(sqe).ok


@pytest.mark.parametrize("value", [0xFFFF, 0xFFFF << 16, 0xFFFFFFFF])
def test_number_of_queues_of_65536_is_refused(host: NvmeHost, value: int) -> None:
    refused(host.admin(nvme.set_features(7, value)), Status.INVALID_FIELD)


def test_number_of_queues_grants_at_most_what_there_is(serve: Serve) -> None:
    host = serve("mem:1M", max_queues=5).connect()
    assert host.set_feature(7, 99 << 16 | 99) == 4 << 16 | 4
    assert host.get_feature(7) == 4 << 16 | 4


def test_all_64_queue_pairs_carry_io(serve: Serve) -> None:
    host = serve("mem:16M").connect()
    pairs = [host.create_queue_pair(qid, depth=8) for qid in range(1, 65)]
    for pair in pairs:
        pair.write(pair.qid * 8, pattern(pair.qid, PAGE))
    while pairs:
        pair = pairs.pop()
        assert pair.read(8 * 64 - 8 * pair.qid + 8, 8) == pattern(65 - pair.qid, PAGE)
        pair.delete()


def test_a_submission_queue_holds_one_less_than_its_size(serve: Serve) -> None:
    served = serve("mem:1M?delay=20ms")
    host = served.connect()
    queue = host.create_queue_pair(1, depth=8)
    for _ in range(7):
        queue.submit(nvme.flush(1), doorbell=False)
    with pytest.raises(NativeError):
        queue.submit(nvme.flush(1), doorbell=False)
    queue.ring()
    until(lambda: served.controller.info().inflight == 7, "all fetched")
    for _ in range(7):
        assert host.wait_any(1).ok


def test_a_full_completion_queue_stops_and_loses_nothing(serve: Serve) -> None:
    """31 commands, and room for 3 completions at a time."""
    for extra in (0, 1):
        host = serve("mem:1M").connect()
        assert host.create_cq(1, 4).ok
        assert host.create_sq(1, 32, 1).ok
        cids = {host.submit(1, nvme.flush(1), doorbell=False) for _ in range(31)}
        host.handle.ring(1)
        time.sleep(0.01 * extra)
        seen: set[int] = set()
        while len(seen) < 31:
            completion = host.wait_any(1)
            assert completion.ok and completion.cid not in seen
            seen.add(completion.cid)
            if extra:
                time.sleep(0.001)
        assert seen == cids
        assert host.poll(1) == []


def test_many_submission_queues_share_a_completion_queue(serve: Serve) -> None:
    host = serve("mem:4M?delay=200us").connect()
    assert host.create_cq(7, 8).ok
    for qid in range(1, 9):
        assert host.create_sq(qid, 32, 7).ok
    sent = {(qid, host.submit(qid, nvme.flush(1))) for qid in range(1, 9) for _ in range(20)}
    got: list[tuple[int, int]] = []
    while len(got) < len(sent):
        completion = host.wait_any(7)
        got.append((completion.sqid, completion.cid))
    assert set(got) == sent and len(got) == len(sent)


@pytest.mark.parametrize("depth", [2, 3, 17, 1024])
def test_the_wrap_toggles_the_phase_and_sqhd_is_right(host: NvmeHost, depth: int) -> None:
    queue = host.create_queue_pair(1, depth=depth)
    for i in range(3 * depth if depth < 100 else 2100):
        assert queue.command(nvme.flush(1)).sqhd == (i + 1) % depth


def test_duplicate_command_identifiers_corrupt_nothing(serve: Serve) -> None:
    served = serve("mem:1M?delay=10ms")
    host = served.connect()
    queue = host.create_queue_pair(1, depth=16)
    with host.alloc(PAGE) as first, host.alloc(PAGE) as second:
        first.put(pattern(1, PAGE))
        second.put(pattern(2, PAGE))
        for lba, buffer in ((0, first), (8, second)):
            sqe = buffer.point(nvme.write(1, lba, 8)).with_fields(cid=42)
            host.submit(1, sqe, keep_cid=True)
        codes = [host.wait_any(1) for _ in range(2)]
        assert all(completion.cid == 42 for completion in codes)
        assert all(completion.code in (0, Status.CID_CONFLICT) for completion in codes)
    assert queue.read(0, 8) == pattern(1, PAGE)
    if all(completion.ok for completion in codes):
        assert queue.read(8, 8) == pattern(2, PAGE)
    assert served.controller.info().inflight == 0


def test_deleting_a_queue_ends_what_is_outstanding(serve: Serve) -> None:
    served = serve("mem:1M?delay=60s")
    host = served.connect()
    assert host.create_cq(1, 64).ok
    assert host.create_sq(1, 32, 1).ok
    assert host.create_sq(2, 32, 1).ok
    cids = {host.submit(1, nvme.flush(1)) for _ in range(20)}
    until(lambda: served.controller.info().inflight == 20, "all fetched")
    assert host.delete_sq(1).ok
    got = host.poll(1)  # posted before the deletion's own completion
    assert {completion.cid for completion in got} == cids and len(got) == 20
    for completion in got:
        refused(completion, Status.ABORT_SQ_DELETED, dnr=None)
        assert not completion.more, "nobody asked for an error-log entry"
    assert served.controller.info().inflight == 0
    assert host.create_sq(1, 32, 1).ok, "the id is free again"


def test_deleting_a_queue_again_while_it_drains_is_refused(serve: Serve) -> None:
    served = serve("mem:1M?delay=60s")
    host = served.connect()
    host.create_queue_pair(1, depth=16)
    for _ in range(5):
        host.submit(1, nvme.flush(1))
    until(lambda: served.controller.info().inflight == 5, "all fetched")
    sqe = Sqe(Admin.DELETE_SQ, cdw10=1)
    cids = [host.submit(0, sqe, doorbell=False) for _ in range(2)]
    host.handle.ring(0)
    codes = sorted(host.wait(0, cid).code for cid in cids)
    assert codes == [0, Status.QID_INVALID]


def test_queues_come_and_go_at_random(serve: Serve) -> None:
    rng = dice("test_queues_come_and_go_at_random")
    served = serve("mem:4M?delay=300us")
    host = served.connect()
    pairs: dict[int, QueuePair] = {}
    for _ in range(150):
        qid = rng.randrange(1, 9)
        if qid not in pairs:
            pairs[qid] = host.create_queue_pair(qid, depth=rng.choice([2, 5, 16, 64]))
        elif rng.random() < 0.5:
            for _ in range(rng.randrange(pairs[qid].depth)):
                host.submit(qid, nvme.flush(1))
            pairs.pop(qid).delete()
        else:
            pairs[qid].write(qid, pattern(qid, BLOCK))
            assert pairs[qid].read(qid, 1) == pattern(qid, BLOCK)
    info = served.controller.info()
    assert (info.submission_queues, info.completion_queues) == (len(pairs), len(pairs))
    assert info.inflight == 0
