"""SGL bit buckets (Base 4.1.2): data of a read that the host does not want."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tests_protocol import BLOCK, PAGE, Serve, dice, pattern, refused

from vhostnvme.testing import NvmeHost, QueuePair, nvme
from vhostnvme.testing.nvme import Status

DATA, BUCKET, SEGMENT, LAST = 0, 1, 2, 3


def test_the_controller_says_so(host: NvmeHost) -> None:
    assert int.from_bytes(host.identify_controller()[536:540], "little") >> 16 & 1  # SGLS


@pytest.mark.parametrize("kind", ["mem", "file"])
def test_parts_of_a_read(serve: Serve, tmp_path: Path, kind: str) -> None:
    """Any mixture of data blocks and bit buckets, in one segment or in two."""
    rng = dice("test_parts_of_a_read")
    spec = "mem:16M" if kind == "mem" else f"file:{tmp_path}/d?size=16M&direct=off"
    queue = serve(spec).connect().create_queue_pair()
    host = queue.host
    data = pattern(1, 64 * BLOCK)
    queue.write(8, data)
    base = host.info.iova_base
    with host.alloc(16 * PAGE) as buffer, host.alloc(2 * PAGE) as lists:
        for _ in range(40):
            buffer.put(b"\xee" * 16 * PAGE)
            cuts = sorted({0, 64 * BLOCK, *(rng.randrange(64 * BLOCK) for _ in range(9))})
            pieces = [(start, end, rng.random() < 0.5) for start, end in pairwise(cuts)]
            entries = [
                nvme.sgl(0 if wanted is False else base + buffer.offset + start, end - start, kind)
                for start, end, wanted in pieces
                for kind in (DATA if wanted else BUCKET,)
            ]
            split = rng.randint(0, len(entries) - 1)
            first = entries[:split]
            second = b"".join(entries[split:])
            second_at = base + lists.offset + PAGE
            lists.put(second, PAGE)
            sqe = nvme.read(1, 8, 64)
            if first:
                chain = b"".join(first) + nvme.sgl(second_at, len(second), LAST)
                lists.put(chain)
                sqe = sqe.with_sgl(base + lists.offset, len(chain), SEGMENT)
            else:
                sqe = sqe.with_sgl(second_at, len(second), LAST)
            assert queue.command(sqe).ok
            got = buffer.get(64 * BLOCK)
            for start, end, wanted in pieces:
                expected = data[start:end] if wanted else b"\xee" * (end - start)
                assert got[start:end] == expected


def test_a_bit_bucket_alone(queue: QueuePair) -> None:
    assert queue.command(nvme.read(1, 0, 8).with_sgl(0, PAGE, BUCKET)).ok
    assert queue.command(nvme.read(1, 0, 2048).with_sgl(2**64 - 1, 1 << 20, BUCKET)).ok
    for length in (0, PAGE - 1, PAGE + 1):
        sqe = nvme.read(1, 0, 8).with_sgl(0, length, BUCKET)
        refused(queue.command(sqe), Status.SGL_DATA_LENGTH)
    sqe = nvme.read(1, 0, 8).with_sgl(0, PAGE, BUCKET, 1)
    refused(queue.command(sqe), Status.SGL_TYPE)


def test_a_write_passes_over_bit_buckets(queue: QueuePair) -> None:
    """It needs all of its data from elsewhere."""
    host = queue.host
    data = pattern(3, PAGE)
    with host.alloc(2 * PAGE) as buffer:
        at = host.info.iova_base + buffer.offset
        buffer.put(data)
        chain = b"".join(
            [nvme.sgl(at, 512), nvme.sgl(0, 1 << 20, BUCKET), nvme.sgl(at + 512, PAGE - 512)]
        )
        buffer.put(chain, PAGE)
        sqe = nvme.write(1, 0, 8).with_sgl(at + PAGE, len(chain), LAST)
        assert queue.command(sqe).ok
        assert queue.read(0, 8) == data
        refused(
            queue.command(nvme.write(1, 0, 8).with_sgl(0, PAGE, BUCKET)), Status.SGL_DATA_LENGTH
        )


def test_more_pieces_than_a_command_can_have(queue: QueuePair) -> None:
    host = queue.host
    with host.alloc(4 * PAGE) as lists:
        chain = nvme.sgl(0, BLOCK, BUCKET) * 512
        lists.put(chain)
        sqe = nvme.read(1, 0, 512).with_sgl(host.info.iova_base + lists.offset, len(chain), LAST)
        refused(queue.command(sqe), Status.INVALID_SGL_COUNT)
