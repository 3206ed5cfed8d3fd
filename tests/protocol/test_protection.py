"""Metadata and protection information: every format, type and place, and every kind of buffer."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tests_protocol import Serve, dice, refused

from vhostnvme.testing import NvmeHost
from vhostnvme.testing.nvme import Io, Status
from vhostnvme.testing.protection import (
    APP,
    FORMATS,
    GUARD,
    PRACT,
    REF,
    Format,
    Protected,
    crc16,
    format_namespace,
)

ALL = GUARD | APP | REF
APPTAG = 0x1234
NO_MASK = 0xFFFF


def every_format() -> Iterator[Format]:
    for index, (_, ms) in enumerate(FORMATS):
        for extended in (False, True) if ms else (False,):
            yield Format(index, extended)
            for pi_type in (1, 2, 3) if ms else ():
                for first in (False, True):
                    yield Format(index, extended, pi_type, first)


def name_of(form: Format) -> str:
    place = "first" if form.first else "last"
    protection = f"-type{form.pi_type}-{place}" if form.pi_type else ""
    buffer = "-extended" if form.extended else ""
    return f"{form.block_bytes}+{form.ms}{buffer}{protection}"


FORMS = list(every_format())
METADATA = [form for form in FORMS if form.ms]
PROTECTED = [form for form in FORMS if form.pi_type]


@pytest.fixture
def disk(serve: Serve) -> NvmeHost:
    """4 MiB in memory, to be formatted."""
    return serve("mem:4M").connect()


def formatted(host: NvmeHost, form: Format, sgl: int | None = None) -> Protected:
    completion = format_namespace(host, form)
    assert completion.ok, str(completion)
    return Protected(host.create_queue_pair(), form, sgl)


def checks(form: Format) -> int:
    """What can be checked of such a format."""
    return GUARD | APP if form.pi_type == 3 else ALL


def tags(form: Format, lba: int) -> tuple[int, int, int]:
    """Reference tag, application tag and mask: any reference tag will do but for type 1."""
    return (lba if form.pi_type == 1 else lba + 77, APPTAG, NO_MASK)


def content(form: Format, rng: random.Random, lba: int, blocks: int) -> tuple[bytes, bytes]:
    """Data and metadata of blocks, protected when the format is."""
    data, meta = rng.randbytes(blocks * form.block_bytes), rng.randbytes(blocks * form.ms)
    return data, form.protect(data, meta, tags(form, lba)[0], APPTAG) if form.pi_type else meta


@pytest.mark.parametrize("sgl", [None, 1, 2], ids=["prp", "sgl", "sgl-of-metadata"])
@pytest.mark.parametrize("form", METADATA, ids=name_of)
def test_what_is_written_is_read(disk: NvmeHost, form: Format, sgl: int | None) -> None:
    rng = dice(name_of(form))
    blocks_of = formatted(disk, form, sgl)
    check = checks(form) if form.pi_type else 0
    model: dict[int, tuple[bytes, bytes]] = {}
    for _ in range(12):
        lba, nr = rng.randrange(150), rng.randrange(1, 40)
        data, meta = content(form, rng, lba, nr)
        assert blocks_of.write(lba, data, meta, check, tags(form, lba)).ok
        size = form.block_bytes
        for i in range(nr):
            of_block = data[i * size : (i + 1) * size]
            model[lba + i] = of_block, meta[i * form.ms : (i + 1) * form.ms]
    for lba, expected in model.items():
        completion, *got = blocks_of.read(lba, 1)
        assert completion.ok and tuple(got) == expected, f"block {lba}"
    lba = min(model)
    run = next(i for i in range(1, 200) if lba + i not in model)
    completion, data, meta = blocks_of.read(lba, run)
    assert completion.ok
    assert data == b"".join(model[lba + i][0] for i in range(run))
    assert meta == b"".join(model[lba + i][1] for i in range(run))


@pytest.mark.parametrize("form", METADATA, ids=name_of)
def test_fresh_blocks_are_zeros_that_no_check_refuses(disk: NvmeHost, form: Format) -> None:
    blocks_of = formatted(disk, form)
    prinfo = checks(form) if form.pi_type else 0
    completion, data, meta = blocks_of.read(3, 5, prinfo, tags(form, 3))
    assert completion.ok and data == bytes(len(data))
    one = bytearray(form.ms)
    if form.pi_type:
        one[form.place() : form.place() + 8] = b"\xff" * 8
    assert meta == bytes(one) * 5


@pytest.mark.parametrize("form", PROTECTED, ids=name_of)
def test_wrong_protection_is_not_written(disk: NvmeHost, form: Format) -> None:
    rng = dice(name_of(form))
    blocks_of = formatted(disk, form)
    lba, nr = 9, 6
    data, meta = content(form, rng, lba, nr)
    cases = [(0, GUARD, Status.GUARD_CHECK), (2, APP, Status.APPLICATION_TAG_CHECK)]
    if form.pi_type != 3:
        cases.append((7, REF, Status.REFERENCE_TAG_CHECK))
    for byte, prchk, status in cases:
        wrong = bytearray(meta)
        wrong[rng.randrange(nr) * form.ms + form.place() + byte] ^= 0x40
        refused(blocks_of.write(lba, data, bytes(wrong), prchk, tags(form, lba)), status)
    assert blocks_of.read(lba, nr)[1] == bytes(len(data))  # nothing was written
    wrong = bytearray(meta)
    wrong[form.place()] ^= 1
    assert blocks_of.write(lba, data, bytes(wrong), 0, tags(form, lba)).ok  # unchecked
    refused(blocks_of.read(lba, 1, GUARD, tags(form, lba))[0], Status.GUARD_CHECK)
    refused(blocks_of.bare(Io.VERIFY, lba, nr, GUARD, tags(form, lba)), Status.GUARD_CHECK)
    assert blocks_of.bare(Io.VERIFY, lba + 1, nr - 1, GUARD, tags(form, lba + 1)).ok
    assert blocks_of.read(lba, nr)[0].ok


@pytest.mark.parametrize("form", PROTECTED, ids=name_of)
def test_tags_are_checked_as_the_command_says(disk: NvmeHost, form: Format) -> None:
    rng = dice(name_of(form))
    blocks_of = formatted(disk, form)
    lba, nr = 30, 4
    data, meta = content(form, rng, lba, nr)
    assert blocks_of.write(lba, data, meta, checks(form), tags(form, lba)).ok
    ref, app, mask = tags(form, lba)
    other_app = (ref, app ^ 0x8001, mask)
    refused(blocks_of.read(lba, nr, APP, other_app)[0], Status.APPLICATION_TAG_CHECK)
    assert blocks_of.read(lba, nr, APP, (ref, app ^ 0x8001, 0x7FFE))[0].ok
    refused(blocks_of.bare(Io.VERIFY, lba, nr, APP, other_app), Status.APPLICATION_TAG_CHECK)
    if form.pi_type == 2:
        other_ref = (ref + 1, app, mask)
        refused(blocks_of.read(lba, nr, REF, other_ref)[0], Status.REFERENCE_TAG_CHECK)
        inside = blocks_of.read(lba + 2, 1, ALL, (ref + 2, app, mask))[0]
        assert inside.ok  # reference tags count on
    if form.pi_type == 1:
        got = blocks_of.read(lba, nr, REF, (ref + 1, app, mask))[0]
        refused(got, Status.INVALID_PROTECTION_INFORMATION)
    if form.pi_type == 3:
        refused(blocks_of.read(lba, nr, REF)[0], Status.INVALID_PROTECTION_INFORMATION)


@pytest.mark.parametrize("sgl", [None, 1, 2], ids=["prp", "sgl", "sgl-of-metadata"])
@pytest.mark.parametrize("form", PROTECTED, ids=name_of)
def test_protection_is_inserted_and_stripped(disk: NvmeHost, form: Format, sgl: int | None) -> None:
    rng = dice(name_of(form))
    blocks_of = formatted(disk, form, sgl)
    lba, nr = 17, 9
    data, meta = rng.randbytes(nr * form.block_bytes), rng.randbytes(nr * form.ms)
    assert blocks_of.write(lba, data, meta, PRACT, tags(form, lba)).ok
    base = meta if form.ms > 8 else bytes(nr * form.ms)
    expected = form.protect(data, base, tags(form, lba)[0], APPTAG)
    completion, *got = blocks_of.read(lba, nr, checks(form), tags(form, lba))
    assert completion.ok and tuple(got) == (data, expected)
    completion, *got = blocks_of.read(lba, nr, PRACT | checks(form), tags(form, lba))
    assert completion.ok and tuple(got) == (data, expected if form.ms > 8 else b"")


@pytest.mark.parametrize("form", METADATA, ids=name_of)
def test_compare_looks_at_metadata_but_not_at_protection(disk: NvmeHost, form: Format) -> None:
    rng = dice(name_of(form))
    blocks_of = formatted(disk, form)
    lba, nr = 5, 3
    data, meta = content(form, rng, lba, nr)
    assert blocks_of.write(lba, data, meta).ok

    def compare(data: bytes, meta: bytes, prinfo: int = 0) -> int:
        return blocks_of.write(lba, data, meta, prinfo, tags(form, lba), Io.COMPARE).code

    assert compare(data, meta) == 0
    assert compare(data[:-1] + bytes([data[-1] ^ 1]), meta) == Status.COMPARE_FAILURE
    for at in {0, 7, form.ms - 1, len(meta) - 1}:
        wrong = bytearray(meta)
        wrong[at] ^= 1
        inside = form.pi_type and form.place() <= at % form.ms < form.place() + 8
        assert compare(data, bytes(wrong)) == (0 if inside else Status.COMPARE_FAILURE)
    if form.pi_type:
        assert compare(data, meta, checks(form)) == 0
        assert compare(data, meta, PRACT) == Status.INVALID_PROTECTION_INFORMATION


@pytest.mark.parametrize("form", METADATA, ids=name_of)
def test_write_zeroes_and_deallocate(disk: NvmeHost, form: Format) -> None:
    rng = dice(name_of(form))
    blocks_of = formatted(disk, form)
    total = 200
    data, meta = content(form, rng, 0, total)
    assert blocks_of.write(0, data, meta, 0, tags(form, 0)).ok
    expected = [
        (data[i * form.block_bytes :][: form.block_bytes], meta[i * form.ms :][: form.ms])
        for i in range(total)
    ]
    zeros, plain = bytes(form.block_bytes), bytes(form.ms)
    for lba, nr, prinfo in ((3, 1, 0), (10, 70, 0), (90, 5, PRACT)):
        if not form.pi_type:
            prinfo = 0
        assert blocks_of.bare(Io.WRITE_ZEROES, lba, nr, prinfo, tags(form, lba)).ok
        made = plain * nr
        if prinfo:
            made = form.protect(zeros * nr, made, tags(form, lba)[0], APPTAG)
        for i in range(nr):
            expected[lba + i] = zeros, made[i * form.ms : (i + 1) * form.ms]
    blocks_of.queue.deallocate([(100, 1), (0, 0), (120, 77)])
    gone = bytearray(form.ms)
    if form.pi_type:
        gone[form.place() : form.place() + 8] = b"\xff" * 8
    for lba in (100, *range(120, 197)):
        expected[lba] = zeros, bytes(gone)
    completion, got_data, got_meta = blocks_of.read(0, total)
    assert completion.ok
    for i, (of_data, of_meta) in enumerate(expected):
        assert got_data[i * form.block_bytes :][: form.block_bytes] == of_data, f"block {i}"
        assert got_meta[i * form.ms :][: form.ms] == of_meta, f"metadata of block {i}"


def test_prinfo_without_protection(disk: NvmeHost) -> None:
    for form in (Format(0), Format(1), Format(5, extended=True)):
        blocks_of = formatted(disk, form)
        data, meta = bytes(form.block_bytes), bytes(form.ms)
        refused(blocks_of.write(0, data, meta, GUARD), Status.INVALID_FIELD)
        blocks_of.queue.delete()


def test_bounds(disk: NvmeHost) -> None:
    form = Format(2, extended=True)  # 576 bytes a block in the buffer: MDTS counts them all
    blocks_of = formatted(disk, form)
    last = disk.identify_namespace().nr_blocks - 1
    assert blocks_of.write(last, bytes(512), b"\x11" * 64).ok
    assert blocks_of.read(last, 1)[2] == b"\x11" * 64
    refused(blocks_of.read(last, 2)[0], Status.LBA_RANGE)
    refused(blocks_of.read(last + 1, 1)[0], Status.LBA_RANGE)
    nr = (1 << 20) // 576
    assert blocks_of.read(0, nr)[0].ok
    refused(blocks_of.read(0, nr + 1)[0], Status.INVALID_FIELD)


@pytest.mark.parametrize("mptr", [2, 1 << 40, 2**64 - 8])
def test_bad_metadata_pointers(disk: NvmeHost, mptr: int) -> None:
    blocks_of = formatted(disk, Format(1))
    with disk.alloc(4096) as buffer:
        sqe = buffer.point(blocks_of._sqe(Io.READ, 0, 1, 0, (0, 0, 0)), 512)
        got = blocks_of.queue.command(sqe.with_fields(mptr=mptr))
        refused(got, Status.INVALID_FIELD if mptr & 3 else Status.DATA_TRANSFER_ERROR)
        sgl = sqe.with_sgl(buffer.iova, 512).with_fields(mptr=buffer.iova + 4)
        got = blocks_of.queue.command(sgl.with_fields(flags=0x80))
        refused(got, Status.INVALID_FIELD)


def test_the_guard_of_the_catalogue() -> None:
    assert crc16(b"123456789") == 0xD0DB


@pytest.mark.parametrize("form", [Format(1, pi_type=1), Format(5), Format(4, True, 2)], ids=name_of)
def test_fused_compare_and_write(disk: NvmeHost, form: Format) -> None:
    """Both, of data and metadata; the write only when both are equal."""
    rng = dice(name_of(form))
    queue = formatted(disk, form).queue
    nr, lba = 3, 40
    old, new = content(form, rng, lba, nr), content(form, rng, lba, nr)
    blocks_of = Protected(queue, form)
    assert blocks_of.write(lba, *old, checks(form) if form.pi_type else 0, tags(form, lba)).ok

    def pair(data: bytes, meta: bytes) -> tuple[int, int]:
        prinfo = checks(form) if form.pi_type else 0
        with disk.alloc(64 << 10) as first, disk.alloc(64 << 10) as second:
            cids = []
            for buffer, opcode, (d, m) in (
                (first, Io.COMPARE, (data, meta)),
                (second, Io.WRITE, new),
            ):
                both = blocks_of._interleave(d, m) if form.extended else d
                buffer.put(both)
                buffer.put(m, 32 << 10)
                sqe = blocks_of._sqe(opcode, lba, nr, prinfo, tags(form, lba))
                sqe = buffer.point(sqe, len(both)).with_fields(mptr=buffer.iova + (32 << 10))
                sqe = sqe.with_fields(flags=1 if opcode == Io.COMPARE else 2)
                cids.append(queue.submit(sqe, doorbell=opcode == Io.WRITE))
            done = [queue.wait(cid).code for cid in cids]
            return done[0], done[1]

    wrong = old[0][:-1] + bytes([old[0][-1] ^ 1])
    assert pair(wrong, old[1]) == (Status.COMPARE_FAILURE, Status.ABORT_FAILED_FUSED)
    assert blocks_of.read(lba, nr)[1:] == old
    assert pair(*old) == (0, 0)
    assert blocks_of.read(lba, nr)[1:] == new
    if form.ms > 8:
        wrong = new[1][:20] + bytes([new[1][20] ^ 1]) + new[1][21:]
        assert pair(new[0], wrong) == (Status.COMPARE_FAILURE, Status.ABORT_FAILED_FUSED)
    assert pair(*new) == (0, 0)
    for _ in range(40):  # every slot has come back
        assert blocks_of.read(lba, nr)[1:] == new
