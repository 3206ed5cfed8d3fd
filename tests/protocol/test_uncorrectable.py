"""Write Uncorrectable: marked blocks cannot be read until they are written; kill -9 keeps marks."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests_protocol import BLOCK, PAGE, Serve, dice, pattern, refused

from vhostnvme.testing import NvmeHost, QueuePair, nvme, nvme_io
from vhostnvme.testing.nvme import Sqe, Status
from vhostnvme.testing.server import ServerProcess

BLOCKS = 32768


def mark(queue: QueuePair, lba: int, blocks: int) -> None:
    assert queue.command(nvme_io.write_uncorrectable(1, lba, blocks)).ok


def readable(queue: QueuePair, lba: int, blocks: int = 1) -> bool:
    with queue.host.alloc(PAGE) as buffer:
        done = queue.command(buffer.point(nvme.read(1, lba, blocks), blocks * BLOCK))
    assert done.ok or done.code == Status.UNRECOVERED_READ
    return done.ok


def error_lba(host: NvmeHost) -> int:
    return int.from_bytes(host.log_page(1, 64)[16:24], "little")


def test_marked_blocks_cannot_be_read(host: NvmeHost, queue: QueuePair) -> None:
    queue.write(0, pattern(1, 64 * BLOCK))
    mark(queue, 20, 4)
    with host.alloc(8 * PAGE) as buffer:
        for opcode in (nvme.Io.READ, nvme.Io.COMPARE, nvme.Io.VERIFY):
            for lba, blocks, first in ((20, 4, 20), (16, 8, 20), (22, 16, 22), (23, 1, 23)):
                sqe = nvme.read(1, lba, blocks).with_fields(opcode=opcode)
                refused(queue.command(buffer.point(sqe)), Status.UNRECOVERED_READ, dnr=None)
                assert error_lba(host) == first
        buffer.put(nvme_io.copy_ranges([(0, 4), (19, 2)]))
        done = queue.command(buffer.point(nvme_io.copy(1, 100, 2)))
        refused(done, Status.UNRECOVERED_READ, dnr=None)
        assert done.result == 1  # the lowest range that was not copied
        assert error_lba(host) == 20
    assert queue.read(100, 4) == pattern(1, 64 * BLOCK)[: 4 * BLOCK]
    assert queue.read(24, 8) == pattern(1, 64 * BLOCK)[24 * BLOCK : 32 * BLOCK]
    smart = host.log_page(2, 512)
    assert int.from_bytes(smart[160:176], "little") == 13  # media errors


@pytest.mark.parametrize(
    "how", ["write", "fua", "zeroes", "deallocating zeroes", "deallocate", "copy", "fused"]
)
def test_every_write_makes_them_readable(queue: QueuePair, how: str) -> None:
    mark(queue, 8, 24)
    queue.write(100, bytes(PAGE))
    if how in ("write", "fua"):
        queue.write(16, bytes(PAGE), fua=how == "fua")
    elif how == "deallocate":
        queue.deallocate([(16, 8)])
    elif how == "copy":
        with queue.host.alloc(PAGE) as buffer:
            buffer.put(nvme_io.copy_ranges([(100, 8)]))
            assert queue.command(buffer.point(nvme_io.copy(1, 16, 1))).ok
    elif how == "fused":  # its compare fails: nothing is written
        with queue.host.alloc(PAGE) as buffer:
            first, second = (buffer.point(sqe) for sqe in nvme_io.compare_and_write(1, 16, 8))
            cids = [queue.submit(first, doorbell=False), queue.submit(second)]
            refused(queue.wait(cids[0]), Status.UNRECOVERED_READ, dnr=None)
            refused(queue.wait(cids[1]), Status.ABORT_FAILED_FUSED, dnr=False)
        queue.write_zeroes(16, 8)
    else:
        queue.write_zeroes(16, 8, deallocate="deallocating" in how)
    assert queue.read(16, 8) == bytes(PAGE)
    assert [readable(queue, lba) for lba in (8, 15, 16, 23, 24, 31, 32)] == [
        *(False, False, True, True, False, False, True)
    ]


def test_a_model_of_marks(queue: QueuePair) -> None:
    rng = dice("test_a_model_of_marks")
    marked: set[int] = set()
    for _ in range(300):
        lba, blocks = rng.randrange(400), rng.randint(1, 8)
        span = range(lba, lba + blocks)
        if rng.random() < 0.5:
            done = queue.command(nvme_io.write_uncorrectable(1, lba, blocks))
            if done.ok:
                marked |= set(span)
            else:
                assert done.code == Status.CAPACITY_EXCEEDED
        else:
            queue.write(lba, bytes(blocks * BLOCK))
            marked -= set(span)
        at = rng.randrange(400)
        assert readable(queue, at, 8) == marked.isdisjoint(range(at, at + 8))


def test_more_ranges_than_there_is_room_for(queue: QueuePair) -> None:
    for at in range(128):
        mark(queue, 4 * at, 2)
    refused(queue.command(nvme_io.write_uncorrectable(1, 9000, 1)), Status.CAPACITY_EXCEEDED)
    assert readable(queue, 9000)
    mark(queue, 2, 2)  # what joins two of them needs none
    mark(queue, 9000, 1)
    for at in range(1, 128):
        queue.write(4 * at, bytes(BLOCK))
        assert readable(queue, 4 * at) and not readable(queue, 4 * at + 1)


@pytest.mark.parametrize("lba", [BLOCKS, BLOCKS - 3, 2**64 - 1])
def test_ranges_outside_are_refused(queue: QueuePair, lba: int) -> None:
    refused(queue.command(nvme_io.write_uncorrectable(1, lba, 4)), Status.LBA_RANGE)


def test_a_read_only_namespace(serve: Serve) -> None:
    queue = serve("mem:1M?readonly=on").connect().create_queue_pair()
    refused(queue.command(nvme_io.write_uncorrectable(1, 0, 4)), Status.WRITE_PROTECTED)


def test_a_reset_keeps_marks(host: NvmeHost) -> None:
    mark(host.create_queue_pair(), 5, 1)
    host.reset()
    host.enable()
    queue = host.create_queue_pair()
    assert not readable(queue, 5)
    assert readable(queue, 6)


def test_kill_keeps_marks_as_acknowledged(tmp_path: Path) -> None:
    """After kill -9 a block is as the last acknowledged command left it; else it is either way."""
    rng = dice("test_kill_keeps_marks_as_acknowledged")
    path = tmp_path / "d"
    path.write_bytes(bytes(1 << 20))
    marked: dict[int, bool | None] = dict.fromkeys(range(200), False)
    for _ in range(5):
        with ServerProcess([f"file:{path}"], directory=tmp_path) as server:
            with NvmeHost.connect(server.socket, memory_bytes=4 << 20) as host:
                host.enable()
                queue = host.create_queue_pair(1, depth=32)
                for lba, known in marked.items():
                    if known is not None:
                        assert readable(queue, lba) is not known, f"block {lba}"
                with host.alloc(PAGE) as buffer:
                    cids: dict[int, tuple[range, bool]] = {}
                    for lba in rng.sample(range(0, 200, 4), 25):
                        span = range(lba, lba + rng.randint(1, 4))
                        sqe: Sqe = nvme_io.write_uncorrectable(1, lba, len(span))
                        if marking := rng.random() < 0.5:
                            cid = queue.submit(sqe)
                        else:
                            sqe = nvme.write(1, lba, len(span), fua=True)
                            cid = queue.submit(buffer.point(sqe, len(span) * BLOCK))
                        cids[cid] = (span, marking)
                    done = dict(list(cids.items())[: rng.randint(0, 25)])
                    for cid in done:
                        assert queue.wait(cid).ok
                    server.process.kill()
                    server.process.wait(10)
            for cid, (span, marking) in cids.items():
                for lba in span:
                    marked[lba] = marking if cid in done else None


def test_a_broken_state_is_refused(tmp_path: Path, serve: Serve) -> None:
    path = tmp_path / "d"
    path.write_bytes(bytes(1 << 20))
    served = serve(f"file:{path}")
    queue = served.connect().create_queue_pair()
    mark(queue, 5, 1)
    served.close()
    state = tmp_path / "d.state"
    state.write_bytes(b"\xff" * state.stat().st_size)
    with pytest.raises(Exception, match="state"):
        serve(f"file:{path}")
    state.unlink()
    assert readable(serve(f"file:{path}").connect().create_queue_pair(), 5)
