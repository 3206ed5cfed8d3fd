"""Get LBA Status (NVM Command Set 4.2.1): what Write Uncorrectable has marked, and no more."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests_protocol import BLOCK, PAGE, dice, refused

from vhostnvme.testing import NvmeHost, QueuePair, nvme_io
from vhostnvme.testing.nvme import Status

BLOCKS = 32768
STOPPED, ALL = 1, 2  # CMPC
BAD_AND_MARKED = 3


def ask(
    host: NvmeHost, lba: int = 0, dwords: int = 1024, kind: int = 0x11, length: int = 0
) -> tuple[int, list[tuple[int, int, int]]]:
    sqe = nvme_io.get_lba_status(1, lba, dwords, kind=kind, length=length)
    with host.alloc(2 * PAGE) as buffer:
        buffer.put(b"\xee" * 2 * PAGE)
        assert host.admin(sqe, buffer, 2 * PAGE).ok
        data = buffer.get()
    assert data[4 * dwords :] == b"\xee" * (2 * PAGE - 4 * dwords)  # no more than that
    return nvme_io.lba_status(data)


def test_the_controller_says_so(host: NvmeHost) -> None:
    assert int.from_bytes(host.identify_controller()[256:258], "little") >> 9 & 1  # OACS


@pytest.mark.parametrize("kind", [0x10, 0x11])
def test_it_tells_what_is_marked(host: NvmeHost, queue: QueuePair, kind: int) -> None:
    assert ask(host, kind=kind) == (ALL, [])
    for lba, blocks in ((100, 10), (7, 1), (BLOCKS - 1, 1)):
        assert queue.command(nvme_io.write_uncorrectable(1, lba, blocks)).ok
    entries = [(7, 1, 3), (100, 10, 3), (BLOCKS - 1, 1, 3)]
    assert ask(host, kind=kind) == (ALL, entries)
    queue.write(103, bytes(BLOCK))
    assert ask(host, 100, kind=kind, length=10) == (ALL, [(100, 3, 3), (104, 6, 3)])


def test_it_cuts_to_the_range(host: NvmeHost, queue: QueuePair) -> None:
    assert queue.command(nvme_io.write_uncorrectable(1, 100, 10)).ok
    assert ask(host, 105) == (ALL, [(105, 5, BAD_AND_MARKED)])
    assert ask(host, 95, length=8) == (ALL, [(100, 3, BAD_AND_MARKED)])
    assert ask(host, 103, length=2) == (ALL, [(103, 2, BAD_AND_MARKED)])
    assert ask(host, 110) == (ALL, [])
    assert ask(host, 90, length=10) == (ALL, [])


def test_it_stops_where_the_host_has_no_more_room(host: NvmeHost, queue: QueuePair) -> None:
    for at in range(20):
        assert queue.command(nvme_io.write_uncorrectable(1, 10 * at, 1)).ok
    assert ask(host, dwords=2) == (STOPPED, [])
    assert ask(host, dwords=5) == (STOPPED, [])
    assert ask(host, dwords=6) == (STOPPED, [(0, 1, 3)])
    condition, entries = ask(host, dwords=2 + 4 * 19 + 3)
    assert (condition, len(entries)) == (STOPPED, 19)
    assert ask(host, entries[-1][0] + 1) == (ALL, [(190, 1, 3)])
    condition, entries = ask(host, dwords=2 + 4 * 20)
    assert (condition, len(entries)) == (ALL, 20)


def test_it_agrees_with_a_model(host: NvmeHost, queue: QueuePair) -> None:
    rng = dice("test_it_agrees_with_a_model")
    marked: set[int] = set()
    for _ in range(200):
        lba, blocks = rng.randrange(300), rng.randint(1, 8)
        span = set(range(lba, lba + blocks))
        if rng.random() < 0.5:
            if queue.command(nvme_io.write_uncorrectable(1, lba, blocks)).ok:
                marked |= span
        else:
            queue.write_zeroes(lba, blocks)
            marked -= span
        told = [range(lba, lba + blocks) for lba, blocks, _ in ask(host)[1]]
        assert {block for entry in told for block in entry} == marked
        assert all(entry.stop < following.start for entry, following in pairwise(told))


def test_refusals(host: NvmeHost) -> None:
    with host.alloc(PAGE) as buffer:
        for kind in (0, 1, 0x0F, 0x12, 0xFF):
            sqe = nvme_io.get_lba_status(1, 0, 1024, kind=kind)
            refused(host.admin(sqe, buffer), Status.INVALID_FIELD)
            entry = host.log_page(1, 64)
            assert int.from_bytes(entry[14:16], "little") == 55  # CDW13's last byte
        for lba, length in ((BLOCKS, 0), (BLOCKS - 1, 2), (2**64 - 1, 0)):
            sqe = nvme_io.get_lba_status(1, lba, 1024, length=length)
            refused(host.admin(sqe, buffer), Status.LBA_RANGE)
        for nsid in (0, 2, 0xFFFFFFFF):
            sqe = nvme_io.get_lba_status(nsid, 0, 1024)
            refused(host.admin(sqe, buffer), Status.INVALID_NAMESPACE)
        assert host.admin(nvme_io.get_lba_status(1, 0, 2), buffer).ok
