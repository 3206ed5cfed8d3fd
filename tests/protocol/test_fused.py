"""Fused Compare and Write: both commands fetched together, atomic among all others."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests_protocol import BLOCK, MAPPED, PAGE, TRAPPED, Serve, dice, pattern, refused

from vhostnvme.testing import Buffer, NvmeHost, QueuePair, nvme, nvme_io
from vhostnvme.testing.nvme import Completion, Sqe, Status


def submit(queue: QueuePair, first: Sqe, second: Sqe, ring: bool = True) -> tuple[int, int]:
    cid = queue.submit(first, doorbell=False)
    return cid, queue.submit(second, doorbell=ring)


def pair(queue: QueuePair, first: Sqe, second: Sqe) -> tuple[Completion, Completion]:
    cids = submit(queue, first, second)
    return queue.wait(cids[0]), queue.wait(cids[1])


def compare_and_write(
    queue: QueuePair, buffer: Buffer, lba: int, old: bytes, new: bytes
) -> tuple[Completion, Completion]:
    """`buffer` holds both."""
    buffer.put(old)
    buffer.put(new, buffer.size // 2)
    first, second = nvme_io.compare_and_write(1, lba, len(old) // BLOCK)
    first = buffer.point(first, len(old))
    return pair(queue, first, buffer.point(second, len(new), buffer.size // 2))


def test_the_controller_says_so(serve: Serve) -> None:
    page = serve("mem:16M").connect().identify_controller()
    assert int.from_bytes(page[522:524], "little") == 1  # FUSES: Compare and Write
    assert int.from_bytes(page[532:534], "little") == 255  # ACWU: MDTS in blocks of 4096 bytes
    page = serve("mem:16M", mdts=2).connect().identify_controller()
    assert int.from_bytes(page[532:534], "little") == 3


@pytest.mark.parametrize("doorbells", [MAPPED, TRAPPED])
@pytest.mark.parametrize("kind", ["mem", "file"])
def test_equal_and_not(
    serve: Serve, tmp_path: Path, kind: str, doorbells: dict[str, object]
) -> None:
    spec = "mem:16M" if kind == "mem" else f"file:{tmp_path}/d?size=16M"
    queue = serve(spec, **doorbells).connect().create_queue_pair()
    old, new = pattern(1, PAGE), pattern(2, PAGE)
    queue.write(16, old)
    with queue.host.alloc(4 * PAGE) as buffer:
        assert all(done.ok for done in compare_and_write(queue, buffer, 16, old, new))
        assert queue.read(16, 8) == new
        first, second = compare_and_write(queue, buffer, 16, old, old)
        refused(first, Status.COMPARE_FAILURE, dnr=None)
        refused(second, Status.ABORT_FAILED_FUSED, dnr=False)
        assert queue.read(16, 8) == new


def test_a_whole_transfer(queue: QueuePair) -> None:
    """As large as MDTS lets it be."""
    old, new = pattern(1, 1 << 20), pattern(2, 1 << 20)
    queue.write(100, old)
    with queue.host.alloc(2 << 20) as one, queue.host.alloc(1 << 20) as two:
        one.put(old)
        two.put(new)
        first, second = nvme_io.compare_and_write(1, 100, 2048)
        done = pair(queue, one.point(first, 1 << 20), two.point(second))
        assert all(completion.ok for completion in done)
    assert queue.read(100, 2048) == new


def test_partners_that_are_missing(queue: QueuePair) -> None:
    with queue.host.alloc(PAGE) as buffer:
        first, second = (buffer.point(sqe) for sqe in nvme_io.compare_and_write(1, 0, 8))
        plain = second.with_fields(flags=0)
        refused(queue.command(first), Status.ABORT_MISSING_FUSED)
        refused(queue.command(second), Status.ABORT_MISSING_FUSED)
        done = pair(queue, first, plain)
        refused(done[0], Status.ABORT_MISSING_FUSED)
        assert done[1].ok
        done = pair(queue, first, first)
        refused(done[0], Status.ABORT_MISSING_FUSED)
        refused(done[1], Status.ABORT_MISSING_FUSED)
        done = pair(queue, plain, second)
        assert done[0].ok
        refused(done[1], Status.ABORT_MISSING_FUSED)


def test_partners_that_do_not_fit(queue: QueuePair) -> None:
    with queue.host.alloc(2 * PAGE) as buffer:
        first, second = (buffer.point(sqe, PAGE) for sqe in nvme_io.compare_and_write(1, 0, 8))
        for other in (
            second.with_fields(cdw10=1),
            second.with_fields(cdw11=1),
            second.with_fields(cdw12=6),
            second.with_fields(nsid=2),
            second.with_fields(opcode=nvme.Io.READ),
            second.with_fields(opcode=nvme.Io.WRITE_ZEROES),
        ):
            for completion in pair(queue, first, other):
                refused(completion, Status.INVALID_FIELD)
        done = pair(queue, first, second.with_fields(prp1=1 << 40))
        refused(done[0], Status.ABORT_FAILED_FUSED, dnr=False)
        refused(done[1], Status.DATA_TRANSFER_ERROR)


def test_pairs_wherever_they_lie_in_the_ring(host: NvmeHost) -> None:
    """Across its end, and across a burst of what is fetched at once."""
    queue = host.create_queue_pair(1, depth=69)
    value = bytes(BLOCK)
    with host.alloc(64 * PAGE) as buffer:
        for length in (1, 2, 3, 15, 16, 17, 31, 32, 33):
            cids = []
            for at in range(length):
                new = pattern(length * 100 + at, BLOCK)
                buffer.put(value, at * PAGE)
                buffer.put(new, at * PAGE + BLOCK)
                first, second = nvme_io.compare_and_write(1, 7, 1)
                first = buffer.point(first, BLOCK, at * PAGE)
                second = buffer.point(second, BLOCK, at * PAGE + BLOCK)
                if at == 0:  # so that pairs begin at odd places too
                    cids.append(queue.submit(nvme.flush(1), doorbell=False))
                cids += submit(queue, first, second, ring=False)
                value = new
            queue.ring()
            assert all(queue.wait(cid).ok for cid in cids)
    assert queue.read(7, 1) == value


def test_a_completion_queue_with_one_place(host: NvmeHost) -> None:
    """It can never hold both: refused, and the queue goes on."""
    assert host.create_cq(1, 2).ok
    assert host.create_sq(1, 8, 1).ok
    with host.alloc(PAGE) as buffer:
        first, second = (buffer.point(sqe) for sqe in nvme_io.compare_and_write(1, 0, 8))
        cids = [host.submit(1, first, doorbell=False), host.submit(1, second, doorbell=True)]
        for cid in cids:
            refused(host.wait(1, cid), Status.ABORT_MISSING_FUSED)
        assert host.command(1, nvme.flush(1)).ok


def test_two_queues_count_together(serve: Serve, tmp_path: Path) -> None:
    """Each pair that succeeds has seen the value that the one before has left."""
    rng = dice("test_two_queues_count_together")
    host = serve(f"file:{tmp_path}/d?size=1M&direct=off").connect()
    queues = [host.create_queue_pair(qid, depth=32) for qid in (1, 2)]
    counts = [0, 0]
    with host.alloc(32 * PAGE) as buffer:
        for _ in range(150):
            cids = []
            for at in range(12):
                counter = rng.randrange(2)
                seen = counts[counter] + rng.choice((0, 0, 1))
                place = at * PAGE
                buffer.put(seen.to_bytes(BLOCK, "little"), place)
                buffer.put((seen + 1).to_bytes(BLOCK, "little"), place + BLOCK)
                first, second = nvme_io.compare_and_write(1, counter, 1)
                first = buffer.point(first, BLOCK, place)
                second = buffer.point(second, BLOCK, place + BLOCK)
                queue = rng.choice(queues)
                cids.append((queue, counter, *submit(queue, first, second)))
            for queue, counter, first_cid, second_cid in cids:
                won = queue.wait(first_cid).ok
                assert queue.wait(second_cid).ok == won
                counts[counter] += won
            for counter, count in enumerate(counts):
                assert int.from_bytes(queues[0].read(counter, 1), "little") == count
    assert min(counts) > 100


def test_resets_in_between(serve: Serve) -> None:
    host = serve("mem:16M?delay=20ms").connect()
    with host.alloc(PAGE) as buffer:
        for _ in range(3):
            queue = host.create_queue_pair()
            first, second = (buffer.point(sqe) for sqe in nvme_io.compare_and_write(1, 0, 8))
            for _ in range(10):
                submit(queue, first, second)
            host.disable()
            host.enable()
        queue = host.create_queue_pair()
        assert all(completion.ok for completion in pair(queue, first, second))
