"""The table of an SSD that is a block device: what is read is what was written last, whole."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_storage import CARD, FIRST, MIB, SECOND, THIRD, file_of, opened

from vhostnvme.errors import ConfigError, NoSpace
from vhostnvme.storage import ssd_table
from vhostnvme.storage.ssd_base import Label
from vhostnvme.storage.ssd_table import (
    CHUNK_BYTES,
    ENTRIES_MAX,
    SLOT_BYTES,
    SLOT_OFFSETS,
    Damaged,
    Extent,
    Table,
    best_fit,
    decode_label,
    decode_table,
    encode_label,
    encode_table,
    free_gaps,
    read_table,
    write_table,
)

SSD = THIRD
END = 16


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened_fd = os.open(file_of(tmp_path, END * CHUNK_BYTES), os.O_RDWR)
    yield opened_fd
    os.close(opened_fd)


def extents(number: int) -> dict[str, Extent]:
    return {str(uuid.UUID(int=n + 1)): Extent(n + 1, 1) for n in range(number)}


@pytest.mark.parametrize("number", [0, 1, 126, 127, 128, ENTRIES_MAX])
def test_a_table_is_read_as_it_was_written(number: int) -> None:
    data = encode_table(SSD, 7, extents(number))
    assert len(data) <= SLOT_BYTES
    assert decode_table(SSD, data + bytes(99)) == (7, extents(number))
    assert decode_table(FIRST, data) is None
    assert decode_table(SSD, data[:-1]) is None


def test_the_newest_whole_one_counts(fd: int) -> None:
    for generation in range(5):
        write_table(fd, SSD, Table(generation % 2, generation, extents(generation * 3)))
        table = read_table(fd, SSD, END)
        assert (table.slot, table.generation) == (generation % 2, generation)
        assert table.extents == extents(generation * 3)
    os.pwrite(fd, b"x", SLOT_OFFSETS[0] + 100)
    assert read_table(fd, SSD, END).generation == 3
    os.pwrite(fd, b"x", SLOT_OFFSETS[1] + 100)
    with pytest.raises(Damaged, match="neither copy"):
        read_table(fd, SSD, END)


@given(place=st.integers(0, 8 * 64 + 63), bit=st.integers(0, 7))
def test_no_flipped_bit_is_taken(place: int, bit: int) -> None:
    data = bytearray(encode_table(SSD, 7, extents(16)))
    data[place % len(data)] ^= 1 << bit
    assert decode_table(SSD, bytes(data)) is None


@given(junk=st.binary(max_size=300), magic=st.booleans())
def test_junk_is_no_table(junk: bytes, magic: bool) -> None:
    head = encode_table(SSD, 7, {})[:8] if magic else b""
    assert decode_table(SSD, head + junk) is None


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({FIRST: Extent(0, 1)}, "contradicts itself"),
        ({FIRST: Extent(1, 0)}, "contradicts itself"),
        ({FIRST: Extent(1, 3), SECOND: Extent(3, 1)}, "contradicts itself"),
        ({FIRST: Extent(15, 2)}, "namespaces lie on its first 71303168 bytes"),
    ],
)
def test_a_table_that_cannot_be(fd: int, wrong: dict[str, Extent], why: str) -> None:
    write_table(fd, SSD, Table(0, 1, wrong))
    with pytest.raises(Damaged, match=why):
        read_table(fd, SSD, END)


def test_the_label() -> None:
    label = Label(1, SSD, CARD)
    page = encode_label(label)
    assert len(page) == 4096
    assert decode_label(page) == label
    assert decode_label(bytes(4096)) is None
    assert decode_label(b"") is None
    assert decode_label(b"\xeb\x63\x90" + page[3:]) is None
    with pytest.raises(Damaged, match="its label is damaged"):
        decode_label(page[:60] + b"x" + page[61:])


@given(
    taken=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), max_size=8),
    chunks=st.integers(1, 12),
)
def test_gaps_are_what_nobody_has(taken: list[tuple[int, int]], chunks: int) -> None:
    extents = [Extent(start, size) for start, size in taken]
    gaps = free_gaps(extents, 40)
    held = {chunk for extent in extents for chunk in range(extent.start, extent.end)}
    free = [chunk for gap in gaps for chunk in range(gap.start, gap.end)]
    assert free == [chunk for chunk in range(1, 40) if chunk not in held]
    assert all(one.end < other.start for one, other in pairwise(gaps))
    fit = best_fit(gaps, chunks)
    fitting = [gap for gap in gaps if gap.chunks >= chunks]
    if fit is None:
        assert not fitting
    else:
        [gap] = [gap for gap in fitting if gap.start == fit.start]
        assert fit.chunks == chunks
        assert gap.chunks == min(gap.chunks for gap in fitting)


@pytest.mark.parametrize(
    ("offset", "why"),
    [(40, "its label is damaged"), (SLOT_OFFSETS[0], "neither copy of its table")],
)
def test_a_damaged_ssd_is_refused(tmp_path: Path, offset: int, why: str) -> None:
    path = file_of(tmp_path, 64 * MIB)
    opened(path).close()
    with path.open("r+b") as file:
        for at in (offset, *(SLOT_OFFSETS if offset in SLOT_OFFSETS else ())):
            file.seek(at)
            file.write(b"damage")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=f"cannot be used, {why}.*: copy off it what is needed"):
        opened(path)
    assert path.read_bytes() == before


def test_a_table_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vhostnvme.storage.ssd_block.ENTRIES_MAX", 2)
    with opened(file_of(tmp_path, 64 * MIB)) as ssd:
        ssd.carve(FIRST, CHUNK_BYTES)
        ssd.carve(SECOND, CHUNK_BYTES)
        with pytest.raises(NoSpace, match="holds 2 namespaces: it cannot hold more"):
            ssd.carve(THIRD, CHUNK_BYTES)
        ssd.destroy(FIRST)
        ssd.carve(THIRD, CHUNK_BYTES)


def test_slots_lie_apart() -> None:
    places = [0, *SLOT_OFFSETS, ssd_table.CHUNK_BYTES]
    assert all(here + SLOT_BYTES <= there for here, there in pairwise(places))
