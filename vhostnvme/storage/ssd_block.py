"""An SSD that is a block device, or a file that stands for one: carved in chunks of 4 MiB.

Each namespace is one extent. Extents are zeroed before the table names them, so that the table is
all there is to a change: a crash leaves the one before or the one after.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
import struct
import threading
import uuid as uuids
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vhostnvme.errors import ConfigError, NoSpace
from vhostnvme.storage.file_system import PAGE_BYTES, open_direct, pages, read_direct
from vhostnvme.storage.spec import FileSpec
from vhostnvme.storage.ssd_base import Found, Label, Missing, Ssd, SsdOptions, SsdState
from vhostnvme.storage.ssd_foreign import foreign_content
from vhostnvme.storage.ssd_label import in_use
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
    encode_label,
    free_gaps,
    read_table,
    write_durably,
    write_table,
)
from vhostnvme.units import format_size

_BLKZEROOUT = 0x127F  # linux/fs.h
_ZEROOUT_BYTES = 64 << 20
_WRITE_BYTES = 1 << 20


class BlockSsd(Ssd):
    """See the module, and Ssd."""

    kind = "block"
    granule = CHUNK_BYTES

    def __init__(self, options: SsdOptions, card_uuid: str, known: str = "") -> None:
        self._fd = -1
        self._claim_fd = -1  # has the device to itself, until the data path does
        self._place_id = (0, 0)  # of the device or file that is open
        self._size = 0
        self._end = 0  # chunks, with the first
        self._page = b""  # the label
        self._table = Table(0, 0, {})
        self._claims: dict[str, Extent] = {}  # being zeroed, and in no table yet
        self._mutex = threading.Lock()  # protects _table, _claims, and writes of the table
        super().__init__(options, card_uuid, known)

    def _attach(self) -> None:
        if self.options.thin:
            raise ConfigError(f"{self.place} is no directory, so it cannot be thin: leave that out")
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise Missing(f"{self.place} is not there: connect it") from None
        if stat.S_ISBLK(status.st_mode):
            self._claim_fd = self._open_alone()
        elif not stat.S_ISREG(status.st_mode):
            raise Missing(f"{self.place} is no block device any more: connect it again")
        try:
            self._fd = open_direct(str(self.path), os.O_RDWR)
        except OSError as error:
            raise ConfigError(f"cannot open {self.place}: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise ConfigError(in_use(self.place)) from None
        self._place_id = _id_of(os.fstat(self._fd))
        self._size = os.lseek(self._fd, 0, os.SEEK_END)
        self._end = self._size // CHUNK_BYTES
        self._take_label()

    def _detach(self) -> None:
        for fd in (self._fd, self._claim_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._claim_fd = -1

    def _check_there(self) -> None:
        try:
            there = self._fd >= 0 and _id_of(self.path.stat()) == self._place_id
        except FileNotFoundError:
            there = False
        if not there or os.lseek(self._fd, 0, os.SEEK_END) < self._size:
            raise Missing(
                f"{self.place} is not there any more, or another is in its place: connect it again"
            )

    def _measure(self) -> SsdState:
        if read_direct(self._fd, PAGE_BYTES, 0) != self._page:
            raise Missing(f"{self.place} has lost its label: something else has written to it")
        with self._mutex:
            used = sum(extent.chunks for extent in self._table.extents.values())
            claimed = sum(extent.chunks for extent in self._claims.values())
            gaps = self._gaps()
        limit = self._limit()
        free = max(0, min(sum(gap.chunks for gap in gaps), limit - used - claimed))
        largest = min(free, max((gap.chunks for gap in gaps), default=0))
        return SsdState(
            capacity=limit * CHUNK_BYTES,
            available=free * CHUNK_BYTES,
            largest=largest * CHUNK_BYTES,
            allocated=used * CHUNK_BYTES,
            promised=(used + claimed) * CHUNK_BYTES,
        )

    def _carve(self, uuid: str, size: int) -> None:
        chunks = size // CHUNK_BYTES
        with self._mutex:
            found = self._table.extents.get(uuid)
            if found is not None:
                if found.chunks == chunks:
                    return
                why = f"it is there, with {found.size} bytes, not {size}"
                raise self._error(errno.EEXIST, f"make {uuid}", why)
            self._check_limit(chunks)
            if len(self._table.extents) + len(self._claims) >= ENTRIES_MAX:
                raise NoSpace(f"{self.place} holds {ENTRIES_MAX} namespaces: it cannot hold more")
            extent = best_fit(self._gaps(), chunks)
            if extent is None:
                raise NoSpace(f"{self.place} has no room for {format_size(size)} in one piece")
            self._claims[uuid] = extent
        with self._claimed(uuid, extent):
            self._zero(extent)

    def _resize(self, uuid: str, size: int) -> None:
        with self._mutex:
            old = self._extent(uuid, "resize")
            more = Extent(old.end, size // CHUNK_BYTES - old.chunks)
            if more.chunks <= 0:
                self._store(
                    {**self._table.extents, uuid: Extent(old.start, old.chunks + more.chunks)}
                )
                return
            self._check_limit(more.chunks)
            behind = next((gap for gap in self._gaps() if gap.start == old.end), Extent(0, 0))
            if behind.chunks < more.chunks:
                raise NoSpace(
                    f"{self.place} has {format_size(behind.size) if behind.chunks else 'no room'}"
                    f" behind {uuid}, not {format_size(more.size)}, and cannot move it: make a"
                    " new namespace"
                )
            self._claims[uuid] = more
        with self._claimed(uuid, Extent(old.start, old.chunks + more.chunks)):
            self._zero(more)

    def _destroy(self, uuid: str) -> None:
        with self._mutex:
            rest = {other: at for other, at in self._table.extents.items() if other != uuid}
            if len(rest) < len(self._table.extents):
                self._store(rest)

    def _clone(self, source_uuid: str, uuid: str) -> None:
        raise self._error(
            errno.EOPNOTSUPP,
            f"clone {source_uuid}",
            "a block device cannot share space; a directory on XFS can",
        )

    def _disk(self, uuid: str, size: int, block_size: int, read_only: bool) -> FileSpec:
        with self._mutex:
            extent = self._extent(uuid, "open")
            if extent.size < size:
                why = f"it has {extent.size} bytes, not {size}"
                raise self._error(errno.EINVAL, f"open {uuid}", why)
            if self._claim_fd >= 0:  # the data path wants the device to itself
                os.close(self._claim_fd)
                self._claim_fd = -1
        return FileSpec(
            path=str(self.path),
            offset=extent.offset,
            size=size,
            block_size=block_size,
            read_only=read_only,
            uuid=uuids.UUID(uuid),
        )

    def _found(self) -> tuple[list[Found], list[str]]:
        extents = sorted(self._table.extents.items())
        return [Found(uuid, extent.size, whole=True) for uuid, extent in extents], []

    # --- Chunks; all but _zero under the mutex ---------------------------------------------------

    def _gaps(self) -> list[Extent]:
        return free_gaps([*self._table.extents.values(), *self._claims.values()], self._end)

    def _limit(self) -> int:
        """Chunks that namespaces may have."""
        capacity = self.options.capacity
        return self._end - 1 if capacity is None else capacity // CHUNK_BYTES

    def _check_limit(self, more: int) -> None:
        taken = [*self._table.extents.values(), *self._claims.values()]
        left = self._limit() - sum(extent.chunks for extent in taken)
        if more > left:
            raise NoSpace(
                f"{self.place} has no room for {format_size(more * CHUNK_BYTES)}:"
                f" {format_size(max(0, left) * CHUNK_BYTES)} of its capacity are left"
            )

    def _extent(self, uuid: str, doing: str) -> Extent:
        extent = self._table.extents.get(uuid)
        if extent is None:
            raise self._error(errno.ENOENT, f"{doing} {uuid}", "it is not there")
        return extent

    @contextmanager
    def _claimed(self, uuid: str, extent: Extent) -> Iterator[None]:
        """What is claimed becomes the namespace's, with what it had, when it has been zeroed."""
        try:
            yield
            with self._mutex:
                self._store({**self._table.extents, uuid: extent})
        finally:
            with self._mutex:
                del self._claims[uuid]

    def _store(self, extents: Mapping[str, Extent]) -> None:
        # Never over the table that counts, but over one that failed and may have got there.
        new = Table(1 - self._table.slot, self._table.generation + 1, extents)
        write_table(self._fd, self.uuid, new)
        self._table = new

    def _zero(self, extent: Extent) -> None:
        """Durable on return. What is discarded need not read as zeros; this does."""
        at, end = extent.offset, extent.offset + extent.size
        while at < end:
            size = min(_ZEROOUT_BYTES, end - at)
            try:
                fcntl.ioctl(self._fd, _BLKZEROOUT, struct.pack("=QQ", at, size))
            except OSError as error:
                if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.EBUSY):
                    raise
                self._write_zeros(at, size)
            at += size
        os.fdatasync(self._fd)

    def _write_zeros(self, at: int, size: int) -> None:
        with pages(_WRITE_BYTES) as zeros:
            end = at + size
            while at < end:
                at += os.pwritev(self._fd, [zeros], at)

    # --- Label -----------------------------------------------------------------------------------

    def _open_alone(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM):
                raise Missing(f"{self.place} is not there: connect it") from None
            if error.errno != errno.EBUSY:
                raise ConfigError(f"cannot open {self.place}: {error.strerror}") from None
            raise ConfigError(
                f"{self.place} is in use: it is mounted, a part of another device, or another"
                " program has it; end that, or name another device"
            ) from None

    def _take_label(self) -> None:
        if not self._size and self.uuid:
            raise Missing(f"{self.place} is not there: connect it")
        if self._end < 2:
            raise ConfigError(f"{self.place} is too small, {self._size} bytes: it needs 8M or more")
        try:
            self._page = read_direct(self._fd, PAGE_BYTES, 0)
            label = decode_label(self._page)
            if label is None:
                label = self._format()
                self._page = encode_label(label)
            self._check_label(label, f"wipe it with `{self._wipe()}`")
            table = read_table(self._fd, self.uuid, self._end)
        except Damaged as error:
            raise ConfigError(
                f"{self.place} cannot be used, {error}: copy off it what is needed, and wipe it"
                f" with `{self._wipe()}`"
            ) from None
        capacity = self.options.capacity
        if capacity is not None and not CHUNK_BYTES <= capacity <= self._size - CHUNK_BYTES:
            raise ConfigError(
                f"{self.place} cannot have a capacity of {format_size(capacity)}: it has room for"
                f" {format_size((self._end - 1) * CHUNK_BYTES)}, and at least 4M"
            )
        self._table = table

    def _format(self) -> Label:
        label = self._new_label()
        content = foreign_content(self.path, self._fd, self._size)
        if content is not None:
            raise ConfigError(f"{self.place} {content}")
        # The label comes last: where there is one, there is a table.
        for slot, offset in enumerate(SLOT_OFFSETS):
            write_durably(self._fd, bytes(SLOT_BYTES), offset)
            write_table(self._fd, label.uuid, Table(slot, slot, {}))
        write_durably(self._fd, encode_label(label), 0)
        return label

    def _wipe(self) -> str:
        return f"dd if=/dev/zero of={shlex.quote(str(self.path))} bs=4K count=1 conv=notrunc"


def _id_of(status: os.stat_result) -> tuple[int, int]:
    if stat.S_ISBLK(status.st_mode):
        return (status.st_rdev, 0)
    return (status.st_dev, status.st_ino)
