"""Buffers in a host's shared memory, and I/O queue pairs with the usual commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import PAGE_BYTES, Completion, Sqe, succeeded

if TYPE_CHECKING:
    from vhostnvme.testing.host import NvmeHost


class Buffer:
    """A page-aligned piece of the shared memory, with a place for its PRP list."""

    def __init__(self, host: NvmeHost, size: int) -> None:
        self._host = host
        self.size = size
        self.offset = host.handle.alloc(size)
        self._list_bytes = 0
        self._list_offset = 0

    @property
    def iova(self) -> int:
        """The address that the controller knows it by."""
        return self.offset + self._host.info.iova_base

    @property
    def view(self) -> memoryview:
        """The bytes, writable; not to be used after `free` or the host's `close`."""
        return self._host.memory[self.offset : self.offset + self.size]

    def put(self, data: bytes, at: int = 0) -> None:
        self._host.memory[self.offset + at : self.offset + at + len(data)] = data

    def get(self, length: int | None = None, at: int = 0) -> bytes:
        end = self.size if length is None else at + length
        return bytes(self._host.memory[self.offset + at : self.offset + end])

    def point(self, sqe: Sqe, length: int | None = None, at: int = 0) -> Sqe:
        """`sqe` with PRPs for `length` bytes of this buffer from `at` on."""
        length = self.size - at if length is None else length
        if length > PAGE_BYTES and not self._list_bytes:
            self._list_bytes = (self.size // PAGE_BYTES // 511 + 2) * PAGE_BYTES
            self._list_offset = self._host.handle.alloc(self._list_bytes)
        raw = self._host.handle.build_prps(
            bytes(sqe), self.offset + at, length, self._list_offset, self._list_bytes
        )
        return Sqe.of(raw)

    def free(self) -> None:
        if self.size and not self._host.handle.closed:
            self._host.handle.free(self.offset, self.size)
            if self._list_bytes:
                self._host.handle.free(self._list_offset, self._list_bytes)
        self.size = self._list_bytes = 0

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.free()


class QueuePair:
    """An I/O queue pair of a host; its namespace is what commands address unless told otherwise."""

    def __init__(self, host: NvmeHost, qid: int, depth: int, nsid: int) -> None:
        self.host = host
        self.qid = qid
        self.depth = depth
        self.nsid = nsid
        self._scratch: Buffer | None = None

    @property
    def block_bytes(self) -> int:
        return self.host.block_bytes(self.nsid)

    def _buffer(self, size: int) -> Buffer:
        if self._scratch is None or self._scratch.size < size:
            if self._scratch is not None:
                self._scratch.free()
            self._scratch = self.host.alloc(max(size, 64 << 10))
        return self._scratch

    def submit(self, sqe: Sqe, data: Buffer | None = None, *, doorbell: bool = True) -> int:
        """Submits without waiting; returns the CID. `data` gets PRPs for all of it."""
        if data is not None:
            sqe = data.point(sqe)
        return self.host.submit(self.qid, sqe, doorbell=doorbell)

    def ring(self) -> None:
        """Tells the controller of what was submitted with `doorbell=False`."""
        self.host.handle.ring(self.qid)

    def poll(self) -> list[Completion]:
        return self.host.poll(self.qid)

    def wait(self, cid: int, timeout: float = 5.0) -> Completion:
        return self.host.wait(self.qid, cid, timeout)

    def command(
        self, sqe: Sqe, data: Buffer | None = None, length: int | None = None
    ) -> Completion:
        return self.host.command(self.qid, sqe, data, length)

    @property
    def inflight(self) -> int:
        return self.host.handle.inflight(self.qid)

    def read(self, lba: int, blocks: int, nsid: int | None = None) -> bytes:
        nsid = self.nsid if nsid is None else nsid
        length = blocks * self.host.block_bytes(nsid)
        buffer = self._buffer(length)
        sqe = nvme.read(nsid, lba, blocks)
        succeeded(f"reading {blocks} blocks at {lba}", self.command(sqe, buffer, length))
        return buffer.get(length)

    def write(self, lba: int, data: bytes, *, fua: bool = False, nsid: int | None = None) -> None:
        """`data` is a whole number of blocks, at least one."""
        nsid = self.nsid if nsid is None else nsid
        blocks, rest = divmod(len(data), self.host.block_bytes(nsid))
        if rest or not blocks:
            raise ValueError(f"{len(data)} bytes are not a whole number of blocks")
        buffer = self._buffer(len(data))
        buffer.put(data)
        sqe = nvme.write(nsid, lba, blocks, fua)
        succeeded(f"writing {blocks} blocks at {lba}", self.command(sqe, buffer, len(data)))

    def flush(self, nsid: int | None = None) -> None:
        succeeded("Flush", self.command(nvme.flush(self.nsid if nsid is None else nsid)))

    def write_zeroes(self, lba: int, blocks: int, deallocate: bool = False) -> None:
        sqe = nvme.write_zeroes(self.nsid, lba, blocks, deallocate)
        succeeded(f"zeroing {blocks} blocks at {lba}", self.command(sqe))

    def deallocate(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Dataset Management with (first LBA, number of blocks) each, 1 to 256 of them."""
        data = nvme.dsm_ranges(ranges)
        buffer = self._buffer(PAGE_BYTES)
        buffer.put(data)
        sqe = nvme.dataset_management(self.nsid, len(data) // 16)
        succeeded("Dataset Management", self.command(sqe, buffer, len(data)))

    def delete(self) -> None:
        """Deletes the submission queue, then the completion queue."""
        succeeded(f"deleting submission queue {self.qid}", self.host.delete_sq(self.qid))
        succeeded(f"deleting completion queue {self.qid}", self.host.delete_cq(self.qid))
