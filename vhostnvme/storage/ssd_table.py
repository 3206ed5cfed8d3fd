"""What is written at the beginning of an SSD that is a block device, and which chunks are free.

::

    byte 0     the label: magic, digest, length, JSON
    1 MiB      the table, slot A
    2 MiB      the table, slot B
    4 MiB      chunk 1: from here on chunks belong to namespaces

A table says of each namespace where it lies. Tables are written to the two slots in turn, with a
growing generation and a digest; the newest whole one counts. So a write that the power cuts off
leaves the table before it. Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import os
import struct
import uuid as uuids
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from vhostnvme.storage.file_system import PAGE_BYTES, pages, read_direct
from vhostnvme.storage.ssd_base import Label

CHUNK_BYTES = 4 << 20
SLOT_OFFSETS = (1 << 20, 2 << 20)
SLOT_BYTES = 1 << 20
_LABEL_MAGIC = b"vhostnvme SSD\r\n\0"
_LABEL_HEAD = struct.Struct("<16s16sI")
_TABLE_MAGIC = b"vhnvtabl"
_TABLE_HEAD = struct.Struct("<8s16s16sQI12x")  # magic, digest, the SSD's UUID, generation, entries
_DIGEST_AT = len(_TABLE_MAGIC)  # is of the whole table, with zeros in its own place
_ENTRY = struct.Struct("<16sQQ")  # the namespace's UUID, first chunk, chunks
ENTRIES_MAX = (SLOT_BYTES - _TABLE_HEAD.size) // _ENTRY.size


class Damaged(Exception):
    """What is written there is ours, and cannot be read. The text says what."""


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """Chunks that lie side by side."""

    start: int
    chunks: int

    @property
    def end(self) -> int:
        return self.start + self.chunks

    @property
    def offset(self) -> int:
        """In bytes."""
        return self.start * CHUNK_BYTES

    @property
    def size(self) -> int:
        """In bytes."""
        return self.chunks * CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Table:
    """The newest one, and the slot that it lies in."""

    slot: int
    generation: int
    extents: Mapping[str, Extent]


def free_gaps(taken: Iterable[Extent], end: int) -> list[Extent]:
    """What lies between them, from chunk 1 up to `end`, which is not part of it."""
    gaps, at = [], 1
    for extent in sorted(taken):
        if extent.start > at:
            gaps.append(Extent(at, extent.start - at))
        at = max(at, extent.end)
    if end > at:
        gaps.append(Extent(at, end - at))
    return gaps


def best_fit(gaps: Iterable[Extent], chunks: int) -> Extent | None:
    """The beginning of the smallest gap that holds so many chunks, the first of equals."""
    fitting = [gap for gap in gaps if gap.chunks >= chunks]
    if not fitting:
        return None
    return Extent(min(fitting, key=lambda gap: (gap.chunks, gap.start)).start, chunks)


def encode_label(label: Label) -> bytes:
    """A page."""
    text = msgspec.json.encode(label)
    return (_LABEL_HEAD.pack(_LABEL_MAGIC, _digest(text), len(text)) + text).ljust(
        PAGE_BYTES, b"\0"
    )


def decode_label(page: bytes) -> Label | None:
    """None: there is no label of this program.

    Raises:
        Damaged: there is, and it cannot be read.
    """
    if len(page) < _LABEL_HEAD.size or not page.startswith(_LABEL_MAGIC):
        return None
    _magic, digest, length = _LABEL_HEAD.unpack_from(page)
    text = page[_LABEL_HEAD.size :][:length]
    if _digest(text) != digest:
        raise Damaged("its label is damaged")
    try:
        return msgspec.json.decode(text, type=Label)
    except msgspec.MsgspecError as error:
        raise Damaged(f"its label cannot be read ({error})") from None


def encode_table(ssd_uuid: str, generation: int, extents: Mapping[str, Extent]) -> bytes:
    """At most SLOT_BYTES; there must be no more than ENTRIES_MAX extents."""
    assert len(extents) <= ENTRIES_MAX
    entries = b"".join(
        _ENTRY.pack(uuids.UUID(uuid).bytes, extent.start, extent.chunks)
        for uuid, extent in sorted(extents.items())
    )
    owner = uuids.UUID(ssd_uuid).bytes
    tail = _TABLE_HEAD.pack(_TABLE_MAGIC, bytes(16), owner, generation, len(extents)) + entries
    return _TABLE_HEAD.pack(_TABLE_MAGIC, _digest(tail), owner, generation, len(extents)) + entries


def table_bytes(head: bytes) -> int:
    """How long the table is that begins so; 0 when none does."""
    if len(head) < _TABLE_HEAD.size or not head.startswith(_TABLE_MAGIC):
        return 0
    count: int = _TABLE_HEAD.unpack_from(head)[4]
    return _TABLE_HEAD.size + count * _ENTRY.size if count <= ENTRIES_MAX else 0


def decode_table(ssd_uuid: str, data: bytes) -> tuple[int, dict[str, Extent]] | None:
    """Generation and extents; None when it is not whole, or another SSD's."""
    end = table_bytes(data)
    if not end or end > len(data):
        return None
    _magic, digest, owner, generation, _count = _TABLE_HEAD.unpack_from(data)
    signed = data[:_DIGEST_AT] + bytes(16) + data[_DIGEST_AT + 16 : end]
    if owner != uuids.UUID(ssd_uuid).bytes or digest != _digest(signed):
        return None
    extents = {
        str(uuids.UUID(bytes=name)): Extent(start, chunks)
        for name, start, chunks in _ENTRY.iter_unpack(data[_TABLE_HEAD.size : end])
    }
    return generation, extents


def read_table(fd: int, ssd_uuid: str, end: int) -> Table:
    """The newest of the two.

    Args:
        end: how many chunks the device has, with the first.

    Raises:
        Damaged: neither is whole, or extents overlap or lie outside.
        OSError: the device cannot be read.
    """
    tables = []
    for slot, offset in enumerate(SLOT_OFFSETS):
        length = table_bytes(read_direct(fd, PAGE_BYTES, offset))
        read = decode_table(ssd_uuid, read_direct(fd, length, offset))
        if read is not None:
            tables.append(Table(slot, *read))
    if not tables:
        raise Damaged("neither copy of its table of namespaces can be read")
    newest = max(tables, key=lambda table: table.generation)
    at = 1
    for extent in sorted(newest.extents.values()):
        if extent.start < at or not extent.chunks:
            raise Damaged("its table of namespaces contradicts itself")
        at = extent.end
    if at > end:
        raise Damaged(
            f"namespaces lie on its first {at * CHUNK_BYTES} bytes, and it has only"
            f" {end * CHUNK_BYTES}"
        )
    return newest


def write_table(fd: int, ssd_uuid: str, table: Table) -> None:
    """Durable on return. When it raises, it may be there, not be there, or be there in part.

    Raises:
        OSError: the device cannot be written.
    """
    data = encode_table(ssd_uuid, table.generation, table.extents)
    write_durably(fd, data, SLOT_OFFSETS[table.slot])


def write_durably(fd: int, data: bytes, offset: int) -> None:
    """Filled up to whole pages with zeros.

    Raises:
        OSError: it may be there in part.
    """
    with pages(len(data)) as buffer, memoryview(buffer) as view:
        view[: len(data)] = data
        done = 0
        while done < len(view):
            with view[done:] as rest:
                done += os.pwritev(fd, [rest], offset + done)
    os.fdatasync(fd)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
