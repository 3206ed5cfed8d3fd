"""Verify and Copy (NVM Command Set 3.2.2, 3.2.5) on every kind of namespace."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests_protocol import BLOCK, PAGE, Serve, dice, pattern, refused

from vhostnvme.testing import NvmeHost, QueuePair, nvme, nvme_io
from vhostnvme.testing.nvme import Completion, Status

BLOCKS = 32768  # of the default namespace, 16 MiB
LIMIT = 2048  # blocks of 512 bytes that one Copy can have


def spec_of(kind: str, folder: Path) -> str:
    return {"mem": "mem:16M", "file": f"file:{folder}/d?size=16M", "null": "null:16M"}[kind]


def copy(
    queue: QueuePair, to: int, ranges: list[tuple[int, int]], form: int = 0, control: int = 0
) -> Completion:
    data = nvme_io.copy_ranges(ranges, form=form)
    with queue.host.alloc(-(-len(data) // PAGE) * PAGE) as buffer:
        buffer.put(data)
        sqe = nvme_io.copy(1, to, len(ranges), form=form, control=control)
        return queue.command(sqe, buffer, len(data))


def test_copy_limits_are_not_zero(host: NvmeHost) -> None:
    """Linux and nvme-cli refuse to copy when MSSRL, MCL or MSRC say zero [nvme-cli#3322]."""
    page = host.identify_namespace(1).raw
    assert int.from_bytes(page[74:76], "little") == LIMIT  # MSSRL
    assert int.from_bytes(page[76:80], "little") == LIMIT  # MCL
    assert page[80] == 127  # MSRC: 128 ranges


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("kind", ["mem", "file"])
def test_copy_is_what_a_host_would_have_done(
    serve: Serve, tmp_path: Path, kind: str, form: int
) -> None:
    queue = serve(spec_of(kind, tmp_path)).connect().create_queue_pair()
    model = bytearray(pattern(1, 4 << 20))
    for at in range(0, len(model), 1 << 20):
        queue.write(at // BLOCK, bytes(model[at : at + (1 << 20)]))
    rng = dice("test_copy_is_what_a_host_would_have_done")
    for _ in range(30):
        nr = rng.choice([1, 2, 5, 128])
        ranges = []
        for _ in range(nr):
            blocks = rng.randint(1, LIMIT // nr)
            ranges.append((rng.randrange(8192 - blocks), blocks))
        data = b"".join(bytes(model[lba * BLOCK : (lba + n) * BLOCK]) for lba, n in ranges)
        to = rng.randrange(8192 - len(data) // BLOCK)
        assert copy(queue, to, ranges, form).ok
        model[to * BLOCK : to * BLOCK + len(data)] = data
    for at in range(0, len(model), 1 << 20):
        assert queue.read(at // BLOCK, LIMIT) == model[at : at + (1 << 20)]


def test_copy_with_4096_byte_blocks(serve: Serve) -> None:
    host = serve("mem:16M?block=4096").connect()
    queue = host.create_queue_pair()
    assert int.from_bytes(host.identify_namespace(1).raw[76:80], "little") == 256  # MCL
    data = pattern(3, 9 * PAGE)
    queue.write(0, data)
    assert copy(queue, 3, [(0, 9)]).ok  # it overlaps
    assert queue.read(3, 9) == data
    refused(copy(queue, 0, [(0, 257)]), Status.COMMAND_SIZE_LIMIT)


def test_copy_refuses_what_is_too_much(queue: QueuePair) -> None:
    queue.write(0, pattern(1, PAGE))
    for ranges in ([(0, LIMIT + 1)], [(0, LIMIT), (0, 1)], [(0, 65536)], [(0, 1)] * 129):
        refused(copy(queue, 8, ranges), Status.COMMAND_SIZE_LIMIT)
    assert copy(queue, 0, [(4096, LIMIT)]).ok
    assert copy(queue, 0, [(4096, 16)] * 128).ok


@pytest.mark.parametrize("lba", [BLOCKS, BLOCKS - 7, 2**64 - 1, 1 << 55])
def test_copy_refuses_ranges_outside(queue: QueuePair, lba: int) -> None:
    queue.write(0, pattern(1, PAGE))
    refused(copy(queue, lba, [(0, 8)]), Status.LBA_RANGE)
    completion = copy(queue, 100, [(0, 8), (lba, 8)])
    refused(completion, Status.LBA_RANGE)
    assert completion.result == 0  # nothing was copied
    assert queue.read(100, 8) == bytes(PAGE)


@pytest.mark.parametrize("form", [2, 3, 4, 15])
def test_copy_refuses_other_formats(queue: QueuePair, form: int) -> None:
    with queue.host.alloc(PAGE) as buffer:
        refused(queue.command(nvme_io.copy(1, 0, 1, form=form), buffer), Status.INVALID_FIELD)


def test_copy_takes_fua_and_limited_retry(queue: QueuePair) -> None:
    data = pattern(5, PAGE)
    queue.write(0, data)
    assert copy(queue, 64, [(0, 8)], control=nvme_io.FUA | nvme_io.LIMITED_RETRY).ok
    assert queue.read(64, 8) == data


def test_copy_to_a_read_only_namespace(serve: Serve) -> None:
    queue = serve("mem:16M?readonly=on").connect().create_queue_pair()
    refused(copy(queue, 64, [(0, 8)]), Status.WRITE_PROTECTED)


def test_copy_tells_what_failed(serve: Serve) -> None:
    queue = serve("mem:16M?error=100%&error-ops=read").connect().create_queue_pair()
    completion = copy(queue, 64, [(0, 8)])
    refused(completion, Status.UNRECOVERED_READ, dnr=None)
    queue = serve("mem:16M?error=100%&error-ops=write").connect().create_queue_pair()
    refused(copy(queue, 64, [(0, 8)]), Status.WRITE_FAULT, dnr=None)


def test_many_copies_and_verifies_at_once(serve: Serve) -> None:
    """More than there are buffers for, slow ones: all of them end, and rightly."""
    queue = serve("mem:16M?delay=2ms").connect().create_queue_pair(1, depth=128)
    data = pattern(7, 8 * BLOCK)
    queue.write(0, data)
    with queue.host.alloc(PAGE) as buffer:
        buffer.put(nvme_io.copy_ranges([(0, 8)]))
        cids = []
        for at in range(50):
            cids.append(queue.submit(buffer.point(nvme_io.copy(1, 16 + 8 * at, 1))))
            cids.append(queue.submit(nvme.verify(1, 0, 4096)))
        assert all(queue.wait(cid, 20).ok for cid in cids)
    assert queue.read(16, 400) == data * 50


@pytest.mark.parametrize("kind", ["mem", "file", "null"])
def test_verify_reads_without_telling(serve: Serve, tmp_path: Path, kind: str) -> None:
    host = serve(spec_of(kind, tmp_path)).connect()
    queue = host.create_queue_pair()
    queue.write(0, pattern(1, PAGE))
    assert queue.command(nvme.verify(1, 0, 8)).ok
    assert queue.command(nvme.verify(1, 0, BLOCKS)).ok
    sqe = nvme.verify(1, 0, 8)
    assert queue.command(sqe.with_fields(cdw12=sqe.cdw12 | nvme_io.FUA)).ok
    smart = host.log_page(2, 512)
    # data units read: 16 MiB and two pages, in thousands of 512 bytes; no host reads
    assert int.from_bytes(smart[32:48], "little") == -(-(BLOCKS + 16) // 1000)
    assert int.from_bytes(smart[64:80], "little") == 0


def test_verify_needs_no_data_pointer(queue: QueuePair) -> None:
    assert queue.command(nvme.verify(1, 0, 8).with_fields(prp1=1, prp2=2**64 - 1)).ok


def test_verify_finds_a_bad_medium(serve: Serve) -> None:
    host = serve("mem:16M?error=100%&error-ops=read").connect()
    queue = host.create_queue_pair()
    refused(queue.command(nvme.verify(1, 100, 8)), Status.UNRECOVERED_READ, dnr=None)
    entry = host.log_page(1, 64)
    assert int.from_bytes(entry[16:24], "little") == 100  # LBA
    assert int.from_bytes(host.log_page(2, 512)[160:176], "little") == 1  # media errors


def test_verify_refuses_ranges_outside(queue: QueuePair) -> None:
    for lba, blocks in ((BLOCKS, 1), (BLOCKS - 1, 2), (2**64 - 1, 2), (0, 65536)):
        refused(queue.command(nvme.verify(1, lba, blocks)), Status.LBA_RANGE)


def test_verify_and_copy_are_in_the_effects_log(host: NvmeHost) -> None:
    page = host.log_page(5, 4096)
    assert int.from_bytes(page[1024 + 4 * 0x0C : 1024 + 4 * 0x0D], "little") & 0x1F == 1
    assert int.from_bytes(page[1024 + 4 * 0x19 : 1024 + 4 * 0x1A], "little") & 0x1F == 3  # LBCC


def test_a_reset_ends_copies_and_verifies(serve: Serve) -> None:
    host = serve("mem:16M?delay=50ms").connect()
    queue = host.create_queue_pair()
    with host.alloc(PAGE) as buffer:
        buffer.put(nvme_io.copy_ranges([(0, 8)]))
        for at in range(10):
            queue.submit(buffer.point(nvme_io.copy(1, 64 + 8 * at, 1)))
            queue.submit(nvme.verify(1, 0, BLOCKS))
        host.disable()
        host.enable()
        queue = host.create_queue_pair()
        assert queue.command(nvme.verify(1, 0, 8)).ok
        assert queue.command(buffer.point(nvme_io.copy(1, 64, 1))).ok
