"""Data pointers: PRPs and SGLs (Base 4.1.1, 4.1.2), right and wrong, in whole and torn memory."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from tests_protocol import BLOCK, PAGE, Serve, dice, pattern, refused

from vhostnvme.testing import Buffer, HostFlags, NvmeHost, QueuePair, nvme
from vhostnvme.testing.nvme import Sqe, Status, sgl

DATA, _, SEGMENT, LAST, KEYED, TRANSPORT = range(6)
OUTSIDE = (0x1000, 1 << 40, 2**64 - PAGE)
READABLE, WRITABLE = 1, 2


def prps(*entries: int) -> bytes:
    return struct.pack(f"<{len(entries)}Q", *entries)


def read_with(queue: QueuePair, blocks: int, prp1: int, prp2: int = 0) -> nvme.Completion:
    return queue.command(nvme.read(1, 0, blocks).with_fields(prp1=prp1, prp2=prp2))


@pytest.fixture
def filled(queue: QueuePair) -> QueuePair:
    """The namespace begins with 64 KiB of a pattern."""
    queue.write(0, pattern(1, 64 << 10))
    return queue


# --- PRPs ---


@pytest.mark.parametrize("offset", [1, 2, 3, 5, 4095])
def test_prp1_must_be_a_dword(queue: QueuePair, offset: int) -> None:
    with queue.host.alloc(2 * PAGE) as buffer:
        refused(read_with(queue, 1, buffer.iova + offset), Status.INVALID_PRP_OFFSET)


@pytest.mark.parametrize("offset", [4, 8, 512, 4092])
def test_prp2_as_a_page_must_be_aligned(queue: QueuePair, offset: int) -> None:
    with queue.host.alloc(4 * PAGE) as buffer:
        completion = read_with(queue, 16, buffer.iova, buffer.iova + PAGE + offset)
        refused(completion, Status.INVALID_PRP_OFFSET)


@pytest.mark.parametrize("offset", [1, 4, 7])
def test_prp2_as_a_list_must_be_a_qword(queue: QueuePair, offset: int) -> None:
    with queue.host.alloc(8 * PAGE) as buffer:
        completion = read_with(queue, 24, buffer.iova, buffer.iova + 4 * PAGE + offset)
        refused(completion, Status.INVALID_PRP_OFFSET)


@pytest.mark.parametrize("offset", [1, 8, 512, 4088])
def test_list_entries_must_be_pages(queue: QueuePair, offset: int) -> None:
    with queue.host.alloc(8 * PAGE) as buffer:
        buffer.put(prps(buffer.iova + PAGE, buffer.iova + 2 * PAGE + offset), 7 * PAGE)
        completion = read_with(queue, 24, buffer.iova, buffer.iova + 7 * PAGE)
        refused(completion, Status.INVALID_PRP_OFFSET)


@pytest.mark.parametrize("address", [0, *OUTSIDE])
def test_prps_outside_memory(queue: QueuePair, address: int) -> None:
    with queue.host.alloc(8 * PAGE) as buffer:
        refused(read_with(queue, 1, address), Status.DATA_TRANSFER_ERROR)
        refused(read_with(queue, 16, buffer.iova, address), Status.DATA_TRANSFER_ERROR)
        refused(read_with(queue, 24, buffer.iova, address), Status.DATA_TRANSFER_ERROR)
        buffer.put(prps(buffer.iova + PAGE, address), 7 * PAGE)
        completion = read_with(queue, 24, buffer.iova, buffer.iova + 7 * PAGE)
        refused(completion, Status.DATA_TRANSFER_ERROR)


def test_the_first_and_the_last_page_of_memory(filled: QueuePair) -> None:
    info = filled.host.info
    end = info.iova_base + info.memory_bytes
    assert read_with(filled, 8, end - PAGE).ok
    assert bytes(filled.host.memory[-PAGE:]) == pattern(1, 64 << 10)[:PAGE]
    refused(read_with(filled, 16, end - PAGE, end), Status.DATA_TRANSFER_ERROR)
    refused(read_with(filled, 8, end - 8, end), Status.DATA_TRANSFER_ERROR)
    refused(read_with(filled, 8, info.iova_base - PAGE), Status.DATA_TRANSFER_ERROR)


def test_a_refused_command_moves_no_data_to_the_disk(filled: QueuePair) -> None:
    with filled.host.alloc(PAGE) as buffer:
        buffer.put(b"\xee" * PAGE)
        sqe = nvme.write(1, 0, 16).with_fields(prp1=buffer.iova, prp2=1 << 40)
        refused(filled.command(sqe), Status.DATA_TRANSFER_ERROR)
    assert filled.read(0, 16) == pattern(1, 64 << 10)[: 2 * PAGE]


def test_a_list_may_start_inside_a_page(filled: QueuePair) -> None:
    with filled.host.alloc(8 * PAGE) as buffer:
        entries = prps(*(buffer.iova + i * PAGE for i in (3, 1, 2)))
        for at in (8, 1024, PAGE - 24):
            buffer.put(bytes(4 * PAGE))
            buffer.put(entries, 7 * PAGE + at)
            assert read_with(filled, 32, buffer.iova, buffer.iova + 7 * PAGE + at).ok
            got = b"".join(buffer.get(PAGE, i * PAGE) for i in (0, 3, 1, 2))
            assert got == pattern(1, 64 << 10)[: 4 * PAGE]


def test_the_last_entry_chains_only_if_more_remain(filled: QueuePair) -> None:
    """Two entries before the end of the list's page: for two pages both are data, for three not."""
    with filled.host.alloc(16 * PAGE) as buffer:
        at = 15 * PAGE - 16
        buffer.put(prps(buffer.iova + PAGE, buffer.iova + 2 * PAGE), at)
        assert read_with(filled, 24, buffer.iova, buffer.iova + at).ok
        assert buffer.get(3 * PAGE) == pattern(1, 64 << 10)[: 3 * PAGE]
        buffer.put(prps(buffer.iova + PAGE, buffer.iova + 15 * PAGE), at)
        buffer.put(prps(buffer.iova + 4 * PAGE, buffer.iova + 5 * PAGE), 15 * PAGE)
        assert read_with(filled, 32, buffer.iova, buffer.iova + at).ok
        got = b"".join(buffer.get(PAGE, i * PAGE) for i in (0, 1, 4, 5))
        assert got == pattern(1, 64 << 10)[: 4 * PAGE]


def test_chains_with_bad_links(queue: QueuePair) -> None:
    with queue.host.alloc(16 * PAGE) as buffer:
        at = 15 * PAGE - 16
        for link, status in (
            (1 << 40, Status.DATA_TRANSFER_ERROR),
            (buffer.iova + 14 * PAGE + 4, Status.INVALID_PRP_OFFSET),
        ):
            buffer.put(prps(buffer.iova + PAGE, link), at)
            refused(read_with(queue, 32, buffer.iova, buffer.iova + at), status)


def test_lists_that_go_in_circles_end(queue: QueuePair) -> None:
    """A list of one entry at the end of its page, which points to itself."""
    with queue.host.alloc(2 * PAGE) as buffer:
        at = buffer.iova + 2 * PAGE - 8
        buffer.put(prps(at), 2 * PAGE - 8)
        assert not read_with(queue, 2048, buffer.iova, at).ok
        assert queue.command(nvme.flush(1)).ok


def test_every_first_offset_of_a_long_transfer(filled: QueuePair) -> None:
    with filled.host.alloc(24 * PAGE) as buffer:
        for at in range(0, PAGE, 508):
            at &= ~3
            sqe = buffer.point(nvme.read(1, 0, 128), 64 << 10, at)
            assert filled.command(sqe).ok
            assert buffer.get(64 << 10, at) == pattern(1, 64 << 10)


def test_the_longest_transfer_from_every_alignment(serve: Serve) -> None:
    host = serve("mem:4M").connect(memory_bytes=32 << 20)
    queue = host.create_queue_pair()
    data = pattern(5, 1 << 20)
    with host.alloc((1 << 20) + 2 * PAGE) as buffer:
        for at in (0, 4, 512, PAGE - 4):
            buffer.put(data, at)
            assert queue.command(buffer.point(nvme.write(1, 3, 2048), 1 << 20, at)).ok
            assert queue.read(3, 2048) == data
        sqe = buffer.point(nvme.write(1, 0, 2049), 2049 * BLOCK)
        refused(queue.command(sqe), Status.INVALID_FIELD)  # MDTS


def test_mdts_does_not_bound_commands_without_data(queue: QueuePair) -> None:
    assert queue.command(nvme.write_zeroes(1, 0, 32768)).ok  # 16 MiB
    queue.deallocate([(0, 32768)])


# --- SGLs ---


def sgl_read(queue: QueuePair, blocks: int, address: int, length: int, kind: int) -> Sqe:
    return nvme.read(1, 0, blocks).with_sgl(address, length, kind)


def pieces(buffer: Buffer, lengths: Sequence[int], gap: int) -> tuple[bytes, list[int]]:
    """Data blocks of these lengths, `gap` bytes apart."""
    at, entries, places = 0, b"", []
    for length in lengths:
        entries += sgl(buffer.iova + at, length)
        places.append(at)
        at += length + gap
    return entries, places


def test_one_data_block(filled: QueuePair) -> None:
    with filled.host.alloc(16 * PAGE) as buffer:
        for at in (0, 4, 100, PAGE - 4):
            assert filled.command(sgl_read(filled, 16, buffer.iova + at, 2 * PAGE, DATA)).ok
            assert buffer.get(2 * PAGE, at) == pattern(1, 64 << 10)[: 2 * PAGE]


def test_a_last_segment_of_many_blocks(filled: QueuePair) -> None:
    with filled.host.alloc(16 * PAGE) as buffer, filled.host.alloc(PAGE) as segment:
        lengths = [4, 508, 1024, 512, 0, 2048]
        entries, places = pieces(buffer, lengths, 60)
        segment.put(entries)
        assert filled.command(sgl_read(filled, 8, segment.iova, len(entries), LAST)).ok
        got = b"".join(buffer.get(n, at) for n, at in zip(lengths, places, strict=True) if n)
        assert got == pattern(1, 64 << 10)[:PAGE]


def test_segments_in_a_chain(filled: QueuePair) -> None:
    with filled.host.alloc(16 * PAGE) as buffer, filled.host.alloc(3 * PAGE) as segments:
        first, second, third = (segments.iova + i * PAGE for i in range(3))
        data = buffer.iova
        segments.put(sgl(data, 1024) + sgl(second, 32, SEGMENT), 0)
        segments.put(sgl(data + 4096, 2048) + sgl(third, 16, LAST), PAGE)
        segments.put(sgl(data + 8192, 1024), 2 * PAGE)
        assert filled.command(sgl_read(filled, 8, first, 32, SEGMENT)).ok
        got = buffer.get(1024) + buffer.get(2048, 4096) + buffer.get(1024, 8192)
        assert got == pattern(1, 64 << 10)[:PAGE]


def test_a_segment_across_two_dma_regions(serve: Serve) -> None:
    host = serve("mem:1M").connect(memory_bytes=4 << 20, map_chunk_bytes=2 << 20)
    queue = host.create_queue_pair()
    queue.write(0, pattern(3, PAGE))
    with host.alloc(16 * PAGE) as buffer:
        at = (2 << 20) - 16
        entries = sgl(buffer.iova, 2048) + sgl(buffer.iova + PAGE, 2048)
        host.memory[at : at + 32] = entries
        sqe = sgl_read(queue, 8, host.info.iova_base + at, 32, LAST)
        assert queue.command(sqe).ok
        assert buffer.get(2048) + buffer.get(2048, PAGE) == pattern(3, PAGE)


def test_segment_rules(queue: QueuePair) -> None:
    with queue.host.alloc(4 * PAGE) as buffer, queue.host.alloc(4 * PAGE) as segments:
        block = sgl(buffer.iova, PAGE)
        half = sgl(buffer.iova, PAGE // 2)
        nearly = sgl(segments.iova + PAGE, 16, LAST)
        cases = {
            "no descriptors": (b"", LAST),
            "not a multiple of 16": (block + b"\0" * 8, LAST),
            "a segment that does not chain": (block, SEGMENT),
            "a last segment that chains": (half + nearly, LAST),
            "a link before the end": (half + nearly + half, SEGMENT),
        }
        for what, (entries, kind) in cases.items():
            segments.put(entries)
            segments.put(half, PAGE)
            sqe = sgl_read(queue, 8, segments.iova, len(entries), kind)
            completion = queue.command(sqe)
            assert completion.code == Status.INVALID_SGL_SEGMENT and completion.dnr, what


@pytest.mark.parametrize("kind", [KEYED, TRANSPORT, 6, 15])
def test_descriptor_types_that_are_not_offered(queue: QueuePair, kind: int) -> None:
    with queue.host.alloc(PAGE) as buffer, queue.host.alloc(PAGE) as segment:
        refused(queue.command(sgl_read(queue, 8, buffer.iova, PAGE, kind)), Status.SGL_TYPE)
        segment.put(sgl(buffer.iova, PAGE, kind))
        sqe = sgl_read(queue, 8, segment.iova, 16, LAST)
        refused(queue.command(sqe), Status.SGL_TYPE)


@pytest.mark.parametrize("subtype", [1, 10, 15])
def test_descriptor_subtypes_that_are_not_offered(queue: QueuePair, subtype: int) -> None:
    with queue.host.alloc(PAGE) as buffer:
        sqe = nvme.read(1, 0, 8).with_sgl(buffer.iova, PAGE, DATA, subtype)
        refused(queue.command(sqe), Status.SGL_TYPE)


@pytest.mark.parametrize("length", [0, 4, PAGE - 4, PAGE + 4, 2**32 - 4])
def test_an_sgl_must_be_as_long_as_the_data(queue: QueuePair, length: int) -> None:
    with queue.host.alloc(4 * PAGE) as buffer:
        sqe = sgl_read(queue, 8, buffer.iova, length, DATA)
        refused(queue.command(sqe), Status.SGL_DATA_LENGTH)


@pytest.mark.parametrize("offset", [1, 2, 3, 511])
def test_an_sgl_may_start_and_end_anywhere(filled: QueuePair, offset: int) -> None:
    """SGLS says so, and the disk under it may want more alignment than that."""
    assert filled.host.identify_controller()[536] & 3 == 1
    with filled.host.alloc(4 * PAGE) as buffer, filled.host.alloc(PAGE) as segment:
        lengths = [offset, 1000, PAGE - 1000 - offset]
        entries, places = pieces(buffer, lengths, 7)
        segment.put(entries)
        assert filled.command(sgl_read(filled, 8, segment.iova, len(entries), LAST)).ok
        got = b"".join(buffer.get(n, at) for n, at in zip(lengths, places, strict=True))
        assert got == pattern(1, 64 << 10)[:PAGE]


@pytest.mark.parametrize("address", [0, *OUTSIDE])
def test_sgls_outside_memory(queue: QueuePair, address: int) -> None:
    with queue.host.alloc(PAGE) as segment:
        for sqe in (
            sgl_read(queue, 8, address, PAGE, DATA),
            sgl_read(queue, 8, address, 32, LAST),
            sgl_read(queue, 8, address, 32, SEGMENT),
        ):
            refused(queue.command(sqe), Status.DATA_TRANSFER_ERROR)
        segment.put(sgl(address, PAGE))
        sqe = sgl_read(queue, 8, segment.iova, 16, LAST)
        refused(queue.command(sqe), Status.DATA_TRANSFER_ERROR)


def test_segments_that_go_in_circles_end(queue: QueuePair) -> None:
    with queue.host.alloc(PAGE) as segment:
        for fill in (b"", sgl(queue.host.alloc(PAGE).iova, 0)):
            entries = fill + sgl(segment.iova, len(fill) + 16, SEGMENT)
            segment.put(entries)
            sqe = sgl_read(queue, 8, segment.iova, len(entries), SEGMENT)
            assert not queue.command(sqe).ok
        assert queue.command(nvme.flush(1)).ok


def test_more_descriptors_than_a_command_may_have(queue: QueuePair) -> None:
    with queue.host.alloc(1 << 20) as buffer, queue.host.alloc(1 << 20) as segment:
        entries, _ = pieces(buffer, [4] * 1024, 60)
        segment.put(entries)
        sqe = sgl_read(queue, 8, segment.iova, len(entries), LAST)
        completion = queue.command(sqe)
        assert completion.ok or completion.code == Status.INVALID_SGL_COUNT
        segment.put(sgl(buffer.iova, 0) * 65536)
        sqe = sgl_read(queue, 8, segment.iova, 1 << 20, LAST)
        refused(queue.command(sqe), Status.INVALID_SGL_COUNT)


@pytest.mark.parametrize("flags", [3 << 6, 3 << 6 | 1])
def test_a_reserved_psdt_is_refused(queue: QueuePair, flags: int) -> None:
    with queue.host.alloc(PAGE) as buffer:
        sqe = buffer.point(nvme.read(1, 0, 8)).with_fields(flags=flags)
        refused(queue.command(sqe), Status.INVALID_FIELD)


# --- torn memory ---


def test_transfers_across_dma_regions(serve: Serve) -> None:
    """Regions of 2 MiB, mapped one by one; most of these transfers touch two."""
    host = serve("mem:16M").connect(memory_bytes=16 << 20, map_chunk_bytes=2 << 20)
    queue = host.create_queue_pair()
    rng = dice("test_transfers_across_dma_regions")
    with host.alloc(8 << 20) as buffer:
        for turn in range(30):
            length = rng.randrange(1, 2049) * BLOCK
            at = (2 << 20) * rng.randrange(1, 4) - rng.randrange(length // 4 + 1) * 4
            at -= buffer.offset % (2 << 20)
            data = pattern(turn, length)
            buffer.put(data, at)
            lba = rng.randrange(16384)
            if rng.random() < 0.5:
                sqe = buffer.point(nvme.write(1, lba, length // BLOCK), length, at)
            else:
                address = buffer.iova + at
                sqe = nvme.write(1, lba, length // BLOCK).with_sgl(address, length)
            assert queue.command(sqe).ok
            assert queue.read(lba, length // BLOCK) == data


def test_read_only_and_write_only_regions(serve: Serve) -> None:
    host = serve("mem:1M").connect(flags=HostFlags.NO_MAP, memory_bytes=8 << 20, enable=False)
    base = host.info.iova_base
    host.handle.dma_map(0, base, 4 << 20)
    host.handle.dma_map(4 << 20, base + (4 << 20), 2 << 20, READABLE)
    host.handle.dma_map(6 << 20, base + (6 << 20), 2 << 20, WRITABLE)
    host.enable()
    queue = host.create_queue_pair()
    host.memory[4 << 20 : (4 << 20) + PAGE] = pattern(1, PAGE)
    only_read, only_write = base + (4 << 20), base + (6 << 20)
    assert queue.command(nvme.write(1, 0, 8).with_fields(prp1=only_read)).ok
    refused(read_with(queue, 8, only_read), Status.DATA_TRANSFER_ERROR)
    refused(read_with(queue, 16, only_read - PAGE, only_read), Status.DATA_TRANSFER_ERROR)
    assert bytes(host.memory[4 << 20 : (4 << 20) + PAGE]) == pattern(1, PAGE)
    assert read_with(queue, 8, only_write).ok
    assert bytes(host.memory[6 << 20 : (6 << 20) + PAGE]) == pattern(1, PAGE)
    sqe = nvme.write(1, 0, 8).with_fields(prp1=only_write)
    refused(queue.command(sqe), Status.DATA_TRANSFER_ERROR)
    sqe = Sqe(nvme.Admin.CREATE_CQ, cdw10=2 | 15 << 16, cdw11=1, prp1=only_read)
    assert not host.admin(sqe).ok, "a completion queue must be writable"


def test_wrong_pointers_at_random(host: NvmeHost, queue: QueuePair) -> None:
    """Anything may be refused, nothing may break: 3000 commands of random pointers."""
    rng = dice("test_wrong_pointers_at_random")
    base, size = host.info.iova_base, host.info.memory_bytes
    data = host.alloc(1 << 20)  # the only memory that good pointers lead to

    def address() -> int:
        kind = rng.random()
        if kind < 0.6:
            return data.iova + rng.randrange(data.size // 8) * 8
        if kind < 0.8:
            return data.iova + rng.randrange(data.size)
        return rng.choice([0, base - 4, base + size - 8, base + size, 2**64 - 8, 1 << 45])

    for turn in range(3000):
        if turn % 30 == 0:
            words = [
                rng.choice([address(), rng.getrandbits(64), rng.randrange(64) << 56 | 16])
                for _ in range(512)
            ]
            data.put(prps(*words), rng.randrange(data.size // PAGE) * PAGE)
        sqe = nvme.read(1, rng.randrange(100), rng.choice([1, 8, 9, 16, 100, 2048]))
        sqe = sqe.with_fields(prp1=address(), prp2=address(), flags=rng.choice([0, 0x40, 0x80]))
        if sqe.flags:
            sqe = sqe.with_fields(prp2=rng.randrange(1 << 16) | rng.randrange(5) << 60)
        if rng.random() < 0.3:  # towards the disk
            sqe = sqe.with_fields(opcode=rng.choice([nvme.Io.WRITE, nvme.Io.DSM]))
        queue.command(sqe)
    assert host.csts & 3 == 1
    assert queue.command(nvme.flush(1)).ok
