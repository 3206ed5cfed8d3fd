"""The vfio-user NVMe host, as the C library has it.

Thin on purpose: one method a C function, integers and bytes in and out; `vhostnvme.testing.host` is
the comfortable side of it. A handle belongs to one thread at a time; calls let go of the GIL.
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vhostnvme.errors import NativeError, PeerError
from vhostnvme.native.host_errors import PeerTimeout, check
from vhostnvme.native.library import ffi, lib

__all__ = [
    "HostFlags",
    "HostHandle",
    "HostInfo",
    "HostOptions",
    "PeerTimeout",
    "RawCompletion",
    "RegionInfo",
]


class HostFlags(enum.IntFlag):
    """How the host behaves on the wire (`VN_HOST_*`)."""

    VERSION_BARE = lib.VN_HOST_VERSION_BARE
    TRAP_DOORBELLS = lib.VN_HOST_TRAP_DOORBELLS
    SYNC_DOORBELLS = lib.VN_HOST_SYNC_DOORBELLS
    MAP_WITHOUT_FD = lib.VN_HOST_MAP_WITHOUT_FD
    MSG_ID_ZERO = lib.VN_HOST_MSG_ID_ZERO
    NO_MAP = lib.VN_HOST_NO_MAP
    UNMAP_WITH_FD = lib.VN_HOST_UNMAP_WITH_FD


@dataclass(frozen=True)
class HostOptions:
    """For `HostHandle`; 0 means the library's default."""

    flags: int = 0  # HostFlags
    timeout_ms: int = 0
    memory_bytes: int = 0
    iova_base: int = 0
    map_chunk_bytes: int = 0


@dataclass(frozen=True)
class HostInfo:
    """`struct vn_host_info`."""

    memory_bytes: int
    iova_base: int
    cap: int
    doorbells_mapped: int
    shadow_doorbells: int
    nr_regions: int
    nr_irqs: int
    nr_intx: int
    nr_msix: int
    max_msg_fds: int
    max_transfer_bytes: int
    version_minor: int
    server_pid: int
    nr_doorbell_stores: int
    nr_doorbell_messages: int


@dataclass(frozen=True)
class RegionInfo:
    """`struct vn_host_region`."""

    size: int
    offset: int
    flags: int
    nr_areas: int
    area_offset: int
    area_size: int


@dataclass(frozen=True)
class RawCompletion:
    """`struct vn_host_cqe`; status is the 15-bit field without the phase."""

    result: int
    dword1: int
    sqhd: int
    sqid: int
    cid: int
    status: int


def _fields(cls: Any, struct: Any) -> Any:
    return cls(**{name: getattr(struct, name) for name in cls.__dataclass_fields__})


def _fds(fds: Sequence[int]) -> Any:
    return ffi.new("int32_t[]", list(fds)) if fds else ffi.NULL


class HostHandle:
    """A `vn_host`.

    Raises:
        PeerError: nobody listens at the path, or the server went away.
        PeerTimeout: the server is busy with another host, or does not answer.
        ProtocolError: what answers is no sound vfio-user NVMe server.
    """

    def __init__(self, path: str | Path, options: HostOptions | None = None) -> None:
        self._handle: Any = None
        options = options or HostOptions()
        opts = ffi.new("struct vn_host_opts *")
        for name in options.__dataclass_fields__:
            setattr(opts, name, getattr(options, name))
        out = ffi.new("vn_host **")
        code = lib.vn_host_open(os.fsencode(path), opts, out)
        if code == -errno.ENOENT:
            raise PeerError(f"there is no socket at {path}; is the server running?")
        check(code)
        self._handle = out[0]
        size = ffi.new("uint64_t *")
        address = lib.vn_host_memory(self._handle, size)
        #: The shared memory, writable. Do not use it, or slices of it, after `close`.
        self.memory: memoryview = memoryview(ffi.buffer(address, size[0])).cast("B")

    @property
    def handle(self) -> Any:
        if self._handle is None:
            raise NativeError(errno.EBADF, "the host has been closed")
        return self._handle

    def close(self) -> None:
        """Drops the connection at once, as a host that dies does. A second call does nothing."""
        if self._handle is not None:
            self.memory.release()
            lib.vn_host_close(self._handle)
            self._handle = None

    @property
    def closed(self) -> bool:
        return self._handle is None

    def info(self) -> HostInfo:
        out = ffi.new("struct vn_host_info *")
        check(lib.vn_host_get_info(self.handle, out))
        info: HostInfo = _fields(HostInfo, out)
        return info

    def region(self, index: int) -> RegionInfo:
        out = ffi.new("struct vn_host_region *")
        check(lib.vn_host_get_region(self.handle, index, out))
        info: RegionInfo = _fields(RegionInfo, out)
        return info

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        buf = ffi.new("uint8_t[]", max(length, 1))
        check(lib.vn_host_region_read(self.handle, region, offset, buf, length))
        return bytes(ffi.buffer(buf, length))

    def region_write(self, region: int, offset: int, data: bytes, posted: bool = False) -> None:
        check(lib.vn_host_region_write(self.handle, region, offset, data, len(data), posted))

    def reg_read(self, offset: int, width: int) -> int:
        return self._value("uint64_t *", lib.vn_host_reg_read, offset, width)

    def reg_write(self, offset: int, width: int, value: int) -> None:
        check(lib.vn_host_reg_write(self.handle, offset, width, value))

    def doorbell_write(self, bar_offset: int, value: int) -> None:
        check(lib.vn_host_doorbell_write(self.handle, bar_offset, value))

    def device_reset(self) -> None:
        check(lib.vn_host_device_reset(self.handle))

    def dma_map(
        self, offset: int, iova: int, size: int, flags: int = 3, with_fd: bool = True
    ) -> None:
        check(lib.vn_host_dma_map(self.handle, offset, iova, size, flags, with_fd))

    def dma_unmap(self, iova: int, size: int) -> None:
        check(lib.vn_host_dma_unmap(self.handle, iova, size))

    def irqs_enable(self, kind: int, count: int) -> None:
        check(lib.vn_host_irqs_enable(self.handle, kind, count))

    def irqs_disable(self, kind: int) -> None:
        check(lib.vn_host_irqs_disable(self.handle, kind))

    def irqs_set(
        self, kind: int, flags: int, start: int, count: int, fds: Sequence[int] = ()
    ) -> None:
        check(lib.vn_host_irqs_set(self.handle, kind, flags, start, count, _fds(fds), len(fds)))

    def irq_fd(self, vector: int) -> int:
        return self._value("int32_t *", lib.vn_host_irq_fd, vector)

    def irq_wait(self, vector: int, timeout_us: int) -> int:
        return self._value("uint64_t *", lib.vn_host_irq_wait, vector, timeout_us)

    def raw_send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        check(lib.vn_host_raw_send(self.handle, data, len(data), _fds(fds), len(fds)))

    def raw_recv(self, length: int, timeout_ms: int) -> bytes:
        buf = ffi.new("uint8_t[]", length)
        received = ffi.new("uint32_t *")
        check(lib.vn_host_raw_recv(self.handle, buf, length, timeout_ms, received))
        return bytes(ffi.buffer(buf, received[0]))

    def message(
        self, command: int, payload: bytes, fds: Sequence[int] = (), reply_bytes: int = 4096
    ) -> bytes:
        buf = ffi.new("uint8_t[]", reply_bytes)
        length = ffi.new("uint32_t *")
        check(
            lib.vn_host_message(
                self.handle,
                command,
                payload,
                len(payload),
                _fds(fds),
                len(fds),
                buf,
                reply_bytes,
                length,
            )
        )
        return bytes(ffi.buffer(buf, min(length[0], reply_bytes)))

    def alloc(self, size: int) -> int:
        return self._value("uint64_t *", lib.vn_host_alloc, size)

    def free(self, offset: int, size: int) -> None:
        check(lib.vn_host_free(self.handle, offset, size))

    def build_prps(
        self, sqe: bytes, data_offset: int, length: int, list_offset: int, list_bytes: int
    ) -> bytes:
        raw = ffi.new("uint8_t[64]", sqe)
        check(
            lib.vn_host_build_prps(self.handle, raw, data_offset, length, list_offset, list_bytes)
        )
        return bytes(ffi.buffer(raw))

    def enable(
        self, asq_entries: int = 0, acq_entries: int = 0, cc: int = 0, timeout_ms: int = 0
    ) -> None:
        opts = ffi.new("struct vn_host_enable_opts *")
        opts.asq_entries, opts.acq_entries = asq_entries, acq_entries
        opts.cc, opts.timeout_ms = cc, timeout_ms
        check(lib.vn_host_enable(self.handle, opts))

    def disable(self) -> None:
        check(lib.vn_host_disable(self.handle))

    def shutdown(self, abrupt: bool = False) -> None:
        check(lib.vn_host_shutdown(self.handle, abrupt))

    def wait_csts(self, mask: int, value: int, timeout_ms: int = 0) -> int:
        return self._value("uint32_t *", lib.vn_host_wait_csts, mask, value, timeout_ms)

    def shadow_doorbells(self) -> RawCompletion:
        return self._answer(lib.vn_host_shadow_doorbells)

    def create_cq(self, qid: int, entries: int, vector: int, interrupts: bool) -> RawCompletion:
        return self._answer(lib.vn_host_create_cq, qid, entries, vector, interrupts)

    def create_sq(self, qid: int, entries: int, cqid: int, priority: int = 0) -> RawCompletion:
        return self._answer(lib.vn_host_create_sq, qid, entries, cqid, priority)

    def delete_sq(self, qid: int) -> RawCompletion:
        return self._answer(lib.vn_host_delete_sq, qid)

    def delete_cq(self, qid: int) -> RawCompletion:
        return self._answer(lib.vn_host_delete_cq, qid)

    def submit(self, sqid: int, sqe: bytes, keep_cid: bool = False, doorbell: bool = True) -> int:
        flags = (lib.VN_HOST_KEEP_CID if keep_cid else 0) | (
            0 if doorbell else lib.VN_HOST_NO_DOORBELL
        )
        return self._value("uint16_t *", lib.vn_host_submit, sqid, ffi.from_buffer(sqe), flags)

    def ring(self, sqid: int) -> None:
        check(lib.vn_host_ring(self.handle, sqid))

    def poll(self, cqid: int, most: int = 256) -> list[RawCompletion]:
        cqes = ffi.new("struct vn_host_cqe[]", most)
        nr = ffi.new("uint32_t *")
        check(lib.vn_host_poll(self.handle, cqid, cqes, most, nr))
        return [_fields(RawCompletion, cqes[i]) for i in range(nr[0])]

    def wait(self, cqid: int, timeout_us: int) -> RawCompletion:
        return self._answer(lib.vn_host_wait, cqid, timeout_us)

    def wait_cid(self, sqid: int, cid: int, timeout_us: int) -> RawCompletion:
        return self._answer(lib.vn_host_wait_cid, sqid, cid, timeout_us)

    def command(
        self, sqid: int, sqe: bytes, data_offset: int, data_len: int, timeout_ms: int
    ) -> RawCompletion:
        return self._answer(
            lib.vn_host_command, sqid, ffi.from_buffer(sqe), data_offset, data_len, timeout_ms
        )

    def inflight(self, sqid: int) -> int:
        return self._value("uint32_t *", lib.vn_host_inflight, sqid)

    def _value(self, ctype: str, function: Any, *args: Any) -> int:
        out = ffi.new(ctype)
        check(function(self.handle, *args, out))
        return int(out[0])

    def _answer(self, function: Any, *args: Any) -> RawCompletion:
        cqe = ffi.new("struct vn_host_cqe *")
        check(function(self.handle, *args, cqe))
        completion: RawCompletion = _fields(RawCompletion, cqe)
        return completion
