"""Protection information as a host makes it (NVM Command Set 5.2, 16b guard), slowly, by itself.

Nothing here is shared with the controller's code: both follow the specification, or differ.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vhostnvme.testing import nvme
from vhostnvme.testing.host import NvmeHost
from vhostnvme.testing.nvme import Completion, Io, Sqe
from vhostnvme.testing.queues import QueuePair

POLYNOMIAL = 0x8BB7
TUPLE_BYTES = 8
FORMATS = ((512, 0), (512, 8), (512, 64), (4096, 0), (4096, 8), (4096, 64))
PRACT, GUARD, APP, REF = 8, 4, 2, 1  # PRINFO


def _table() -> list[int]:
    table = []
    for value in range(256):
        crc = value << 8
        for _ in range(8):
            crc = (crc << 1 ^ (POLYNOMIAL if crc & 0x8000 else 0)) & 0xFFFF
        table.append(crc)
    return table


_TABLE = _table()


def crc16(data: bytes) -> int:
    """CRC-16 T10-DIF of these bytes."""
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ _TABLE[crc >> 8 ^ byte]
    return crc


@dataclass(frozen=True)
class Format:
    """How a namespace is formatted: what Format NVM takes."""

    index: int
    extended: bool = False
    pi_type: int = 0
    first: bool = False

    @property
    def block_bytes(self) -> int:
        return FORMATS[self.index][0]

    @property
    def ms(self) -> int:
        return FORMATS[self.index][1]

    @property
    def settings(self) -> int:
        """Bits 8:4 of CDW10."""
        return int(self.extended) << 4 | self.pi_type << 5 | int(self.first) << 8

    def place(self) -> int:
        """Where in a block's metadata the protection information is."""
        return 0 if self.first else self.ms - TUPLE_BYTES

    def protect(self, data: bytes, meta: bytes, ref: int, app: int) -> bytes:
        """`meta` with protection information for the blocks of `data`; `ref` is the first one's."""
        out = bytearray(meta)
        for block in range(len(data) // self.block_bytes):
            of_block = data[block * self.block_bytes : (block + 1) * self.block_bytes]
            at = block * self.ms
            guard = crc16(of_block + bytes(out[at : at + self.place()]))
            tag = ref if self.pi_type == 3 else (ref + block) & 0xFFFFFFFF
            struct.pack_into(">HHI", out, at + self.place(), guard, app, tag)
        return bytes(out)


def format_namespace(host: NvmeHost, form: Format, nsid: int = 1, ses: int = 0) -> Completion:
    """Formats, and forgets what the host knew of the namespace."""
    sqe = nvme.format_nvm(nsid, form.index, ses=ses, settings=form.settings)
    completion = host.admin(sqe)
    host.identify_namespace(nsid)
    return completion


@dataclass
class Protected:
    """Commands to a namespace of this format: data and metadata go where the format and `sgl` say.

    `sgl`: None for PRPs; 1 SGL and a contiguous metadata buffer; 2 SGL, metadata by an SGL too.
    """

    queue: QueuePair
    form: Format
    sgl: int | None = None

    def _transfers_meta(self, prinfo: int) -> bool:
        return self.form.ms > 0 and not (prinfo & PRACT and self.form.ms == TUPLE_BYTES)

    def _sqe(
        self, opcode: int, lba: int, blocks: int, prinfo: int, tags: tuple[int, int, int]
    ) -> Sqe:
        ref, app, mask = tags
        return Sqe(
            opcode,
            nsid=self.queue.nsid,
            cdw10=lba & 0xFFFFFFFF,
            cdw11=lba >> 32,
            cdw12=(blocks - 1) & 0xFFFF | prinfo << 26,
            cdw14=ref & 0xFFFFFFFF,
            cdw15=app | mask << 16,
        )

    def _interleave(self, data: bytes, meta: bytes) -> bytes:
        size, ms = self.form.block_bytes, self.form.ms
        pairs = zip(range(0, len(data), size), range(0, len(meta), ms), strict=True)
        return b"".join(data[at : at + size] + meta[of : of + ms] for at, of in pairs)

    def _split(self, both: bytes) -> tuple[bytes, bytes]:
        size, step = self.form.block_bytes, self.form.block_bytes + self.form.ms
        starts = range(0, len(both), step)
        data = b"".join(both[at : at + size] for at in starts)
        return data, b"".join(both[at + size : at + step] for at in starts)

    def _run(self, sqe: Sqe, data: bytes, meta: bytes) -> tuple[Completion, bytes, bytes]:
        """The command with these bytes in its buffers, and what is in them afterwards."""
        host = self.queue.host
        interleaved = self.form.extended and len(meta) > 0
        sent = self._interleave(data, meta) if interleaved else data
        with host.alloc(len(sent)) as buffer, host.alloc(max(len(meta), 1) + 4096) as other:
            buffer.put(sent)
            other.put(meta, 4096)
            if self.sgl is None:
                sqe = buffer.point(sqe, len(sent))
            else:
                sqe = sqe.with_sgl(buffer.iova, len(sent))
            if meta and not interleaved:
                sqe = sqe.with_fields(mptr=other.iova + 4096)
                if self.sgl == 2:
                    other.put(nvme.sgl(other.iova + 4096, len(meta)), 64)
                    sqe = sqe.with_fields(mptr=other.iova + 64, flags=sqe.flags & 0x3F | 0x80)
            completion = self.queue.command(sqe)
            got = buffer.get(len(sent))
            if interleaved:
                return completion, *self._split(got)
            return completion, got, other.get(len(meta), 4096)

    def write(
        self,
        lba: int,
        data: bytes,
        meta: bytes = b"",
        prinfo: int = 0,
        tags: tuple[int, int, int] = (0, 0, 0xFFFF),
        opcode: int = Io.WRITE,
    ) -> Completion:
        """Write, or Compare. `meta` is left out when PRACT makes it."""
        blocks = len(data) // self.form.block_bytes
        sqe = self._sqe(opcode, lba, blocks, prinfo, tags)
        return self._run(sqe, data, meta if self._transfers_meta(prinfo) else b"")[0]

    def read(
        self, lba: int, blocks: int, prinfo: int = 0, tags: tuple[int, int, int] = (0, 0, 0xFFFF)
    ) -> tuple[Completion, bytes, bytes]:
        """The completion, the data, the metadata."""
        meta = bytes(blocks * self.form.ms) if self._transfers_meta(prinfo) else b""
        sqe = self._sqe(Io.READ, lba, blocks, prinfo, tags)
        return self._run(sqe, b"\xee" * (blocks * self.form.block_bytes), meta)

    def bare(
        self,
        opcode: int,
        lba: int,
        blocks: int,
        prinfo: int = 0,
        tags: tuple[int, int, int] = (0, 0, 0xFFFF),
        control: int = 0,
    ) -> Completion:
        """A command of a range without data: Verify, Write Zeroes."""
        sqe = self._sqe(opcode, lba, blocks, prinfo, tags)
        return self.queue.command(sqe.with_fields(cdw12=sqe.cdw12 | control))
