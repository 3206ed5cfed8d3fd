"""A regular file whose reads and writes a program answers: the kernel's side of FUSE, for one file.

The mount point is itself a file, so there are no names to look up. Numbers and layouts are those of
linux/fuse.h, protocol 7.31, in the machine's byte order. Who may mount may use it: root.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vhostnvme.closable import Closable
from vhostnvme.errors import PeerError

__all__ = ["FileHandler", "FuseFile", "Reply", "Request"]

REQUEST_BYTES_MAX = 1 << 20
BACKGROUND_MAX = 1024  # requests that the kernel has under way
_MAJOR, _MINOR = 7, 31
_PAGE_BYTES = 4096

_FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS = 2, 3, 4, 14, 15, 16, 17
_RELEASE, _FSYNC, _FLUSH, _INIT, _INTERRUPT, _FALLOCATE = 18, 20, 25, 26, 36, 43
_UNANSWERED = (_FORGET, 42, _INTERRUPT)  # 42: many to forget at once

_ASYNC_READ, _BIG_WRITES, _ASYNC_DIO, _MAX_PAGES = 1 << 0, 1 << 5, 1 << 15, 1 << 22
_DIRECT_IO, _PARALLEL_WRITES = 1 << 0, 1 << 6  # of what is opened: past the page cache

_HEAD = struct.Struct("=IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, two more
_ANSWER = struct.Struct("=IiQ")  # length, -errno, unique
_INIT_ANSWER = struct.Struct("=IIIIHHIIHHI28x")
_ATTRIBUTES = struct.Struct("=QIIQQQQQQIIIIIIIIII")
_OPENED = struct.Struct("=QII")
_READ_OF = struct.Struct("=QQI")  # handle, offset, bytes
_WRITE_OF = struct.Struct("=QQIIQII")
_WRITTEN = struct.Struct("=II")
_FALLOCATE_OF = struct.Struct("=QQQII")  # handle, offset, bytes, mode
_STATFS_ANSWER = struct.Struct("=QQQQQIIII24x")


@dataclass(frozen=True, slots=True)
class Request:
    """What shall be done with the file.

    Attributes:
        kind: "read", "write", "sync" or "allocate".
        data: of a write.
        mode: of an allocation, as of fallocate(2).
    """

    kind: str
    unique: int
    offset: int = 0
    length: int = 0
    data: bytes = b""
    mode: int = 0


class Reply(Protocol):
    """Ends a request; from any thread, once."""

    def __call__(self, request: Request, data: bytes = b"", *, error: int = 0) -> None: ...


class FileHandler(Protocol):
    """Takes the requests, one after the other; each may be answered later."""

    def __call__(self, request: Request, reply: Reply) -> None: ...


class FuseFile(Closable):
    """The file at `path`, which must exist and is hidden meanwhile, with so many bytes.

    A thread of its own calls `handler`. Nothing that this process does to the file can end before
    the handler lets it. When the process is killed, all that is under way fails.

    Raises:
        PeerError: it cannot be mounted.
    """

    def __init__(self, path: Path, size: int, handler: FileHandler) -> None:
        self.path = path
        self._size = size
        self._handler = handler
        try:
            self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise PeerError(f"/dev/fuse cannot be opened: {error.strerror}") from None
        self._thread = threading.Thread(target=self._serve, name="fuse-file", daemon=True)
        options = f"fd={self._fd},rootmode={stat.S_IFREG | 0o600:o},user_id=0,group_id=0"
        words = ["mount", "-i", "-t", "fuse", "-o", options, "vhostnvme", str(path)]
        self._thread.start()
        done = subprocess.run(
            words, pass_fds=[self._fd], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            os.close(self._fd)
            raise PeerError(f"a FUSE file cannot be mounted here: {done.stderr.strip()}")

    def close(self) -> None:
        """Unmounts it, at once; what is under way fails."""
        if self._fd < 0:
            return
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)
        fd, self._fd = self._fd, -1
        os.close(fd)

    def reply(self, request: Request, data: bytes = b"", *, error: int = 0) -> None:
        """See Reply."""
        if request.kind == "write" and not error:
            data = _WRITTEN.pack(request.length, 0)
        self._answer(request.unique, b"" if error else data, error)

    def _serve(self) -> None:
        while True:
            try:
                message = os.read(self._fd, REQUEST_BYTES_MAX + _PAGE_BYTES)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue  # ENOENT: it was taken back meanwhile
                if error.errno == errno.EPERM:  # it is not mounted yet
                    threading.Event().wait(0.001)
                    continue
                return
            self._take(message)

    def _take(self, message: bytes) -> None:
        _length, opcode, unique, *_ = _HEAD.unpack_from(message)
        body = memoryview(message)[_HEAD.size :]
        if opcode in _UNANSWERED:
            return
        if (request := _request(opcode, unique, body)) is not None:
            self._handler(request, self.reply)
        elif opcode == _INIT:
            self._answer(unique, _init_answer(body))
        elif opcode in (_GETATTR, _SETATTR):
            self._answer(unique, self._attributes())
        elif opcode == _OPEN:
            self._answer(unique, _OPENED.pack(1, _DIRECT_IO | _PARALLEL_WRITES, 0))
        elif opcode == _STATFS:
            blocks = self._size // _PAGE_BYTES
            self._answer(
                unique, _STATFS_ANSWER.pack(blocks, 0, 0, 1, 0, _PAGE_BYTES, 255, _PAGE_BYTES, 0)
            )
        elif opcode in (_FLUSH, _RELEASE):
            self._answer(unique, b"")
        else:
            self._answer(unique, b"", errno.ENOSYS)

    def _attributes(self) -> bytes:
        blocks = self._size // 512
        mode = stat.S_IFREG | 0o600
        return _ATTRIBUTES.pack(
            *(3600, 0, 0),  # valid for so long
            *(1, self._size, blocks, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, _PAGE_BYTES, 0),
        )

    def _answer(self, unique: int, data: bytes, error: int = 0) -> None:
        try:
            os.writev(self._fd, [_ANSWER.pack(_ANSWER.size + len(data), -error, unique), data])
        except OSError:
            return  # whoever asked has gone


def _request(opcode: int, unique: int, body: memoryview) -> Request | None:
    if opcode == _READ:
        _handle, offset, length = _READ_OF.unpack_from(body)
        return Request("read", unique, offset, length)
    if opcode == _WRITE:
        _handle, offset, length, *_ = _WRITE_OF.unpack_from(body)
        data = bytes(body[_WRITE_OF.size :][:length])
        return Request("write", unique, offset, length, data)
    if opcode == _FSYNC:
        return Request("sync", unique)
    if opcode == _FALLOCATE:
        _handle, offset, length, mode, _ = _FALLOCATE_OF.unpack_from(body)
        return Request("allocate", unique, offset, length, mode=mode)
    return None


def _init_answer(body: memoryview) -> bytes:
    offered = int.from_bytes(body[12:16], "little")
    flags = offered & (_ASYNC_READ | _BIG_WRITES | _ASYNC_DIO | _MAX_PAGES)
    pages = REQUEST_BYTES_MAX // _PAGE_BYTES
    return _INIT_ANSWER.pack(
        *(_MAJOR, _MINOR, REQUEST_BYTES_MAX, flags, BACKGROUND_MAX, BACKGROUND_MAX),
        *(REQUEST_BYTES_MAX, 1, pages, 0, 0),
    )
