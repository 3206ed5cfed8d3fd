"""An SSD that fails and heals on command: a real block device (a loop device), without real faults.

::

    with FaultySsd(folder, 256 << 20) as ssd:
        ... ssd.device ...              # /dev/loop0: takes O_DIRECT, io_uring, flushes, discards
        ssd.fail()                      # I/O errors, also on what is open already
        ssd.hang()                      # nothing ends any more, as of a disk that has lost its head
        ssd.heal()                      # what hung is carried out now, late; the content is there

A process of its own answers the device's reads and writes, through FUSE, from the file `image`,
which holds the truth and may be read at any time. Mounts are in that process's own namespace, and
the device ends with its last user. So nothing stays when it, or whoever made it, is killed: what
hangs then fails. Needs root, /dev/fuse and the programs `unshare` and `mount`.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import os
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from vhostnvme.closable import Closable
from vhostnvme.errors import PeerError
from vhostnvme.testing.fuse_file import FuseFile, Reply, Request

__all__ = ["EVERYTHING", "FaultCounts", "FaultySsd"]

EVERYTHING = ("read", "write", "sync", "allocate")
TIMEOUT_S = 20.0
_MODES = ("heal", "fail", "hang")

# linux/loop.h
_LOOP_CONFIGURE, _LOOP_CLR_FD, _LOOP_GET_FREE = 0x4C0A, 0x4C01, 0x4C82
_AUTOCLEAR, _DIRECT_IO = 4, 16
_CONFIG_BYTES, _CONFIG_FLAGS_AT = 304, 8 + 52
_ATTEMPTS = 20

_libc = ctypes.CDLL(None, use_errno=True)


class FaultCounts(msgspec.Struct, frozen=True):
    """Requests since the start that were carried out and that failed; those that hang now."""

    served: int
    failed: int
    hanging: int


class FaultySsd(Closable):
    """The device, with `size` bytes of what `folder/image` has; it is made when it is not there.

    Raises:
        PeerError: this machine does not have what it needs.
    """

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.size = size
        self.image = folder / "image"
        with self.image.open("ab") as image:
            image.truncate(size)
        program = [sys.executable, "-m", "vhostnvme.testing.faulty_ssd", str(folder), str(size)]
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for who made it
        )
        self._mutex = threading.Lock()
        self._closed = False
        try:
            self.device = Path(self._line())
        except BaseException:
            self.close()
            raise

    def fail(self, kinds: Collection[str] = EVERYTHING) -> FaultCounts:
        """These kinds of requests fail with EIO from now on, those that hang too."""
        return self._tell("fail", *kinds)

    def hang(self, kinds: Collection[str] = EVERYTHING) -> FaultCounts:
        """These kinds do not end from now on."""
        return self._tell("hang", *kinds)

    def heal(self) -> FaultCounts:
        """All is well. Before this ends, what hung is carried out in the order in which it came."""
        return self._tell("heal")

    def counts(self) -> FaultCounts:
        return self._tell("counts")

    def kill(self) -> None:
        """SIGKILL of the process behind it: the device fails for good, and goes with its users."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """What hangs fails; the device goes, at the latest with its last user. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        try:
            self._process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _tell(self, *words: str) -> FaultCounts:
        with self._mutex:
            if self._closed:
                raise PeerError("the SSD has been closed")
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(" ".join(words).encode() + b"\n")
                self._process.stdin.flush()
            except OSError:
                raise PeerError("the process behind the SSD has ended") from None
            return msgspec.json.decode(self._line(), type=FaultCounts)

    def _line(self) -> str:
        assert self._process.stdout is not None and self._process.stderr is not None
        readable, _, _ = select.select([self._process.stdout], [], [], TIMEOUT_S)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            self._process.kill()
            said = self._process.stderr.read().decode(errors="replace").strip()
            raise PeerError(f"a faulty SSD cannot be had here: {said[-500:] or 'no answer'}")
        return line.decode().rstrip("\n")


class _Medium:
    """The image, and what becomes of requests to it. All under one mutex: they are short."""

    def __init__(self, image: Path) -> None:
        self._fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        self._mutex = threading.Lock()
        self._mode = "heal"
        self._kinds: frozenset[str] = frozenset()
        self._hanging: list[tuple[Request, Reply]] = []
        self._served = self._failed = 0

    def __call__(self, request: Request, reply: Reply) -> None:
        with self._mutex:
            self._take(request, reply)

    def set_mode(self, mode: str, kinds: Collection[str]) -> None:
        """`mode`: one of _MODES."""
        with self._mutex:
            self._mode, self._kinds = mode, frozenset(kinds)
            again, self._hanging = self._hanging, []
            for request, reply in again:
                self._take(request, reply)

    def counts(self) -> FaultCounts:
        with self._mutex:
            return FaultCounts(self._served, self._failed, len(self._hanging))

    def _take(self, request: Request, reply: Reply) -> None:
        if self._mode == "heal" or request.kind not in self._kinds:
            self._served += 1
            self._carry_out(request, reply)
        elif self._mode == "hang":
            self._hanging.append((request, reply))
        else:
            self._failed += 1
            reply(request, error=errno.EIO)

    def _carry_out(self, request: Request, reply: Reply) -> None:
        data = b""
        try:
            if request.kind == "read":
                data = os.pread(self._fd, request.length, request.offset)
            elif request.kind == "write":
                os.pwrite(self._fd, request.data, request.offset)
            elif request.kind == "allocate":
                _allocate(self._fd, request)
        except OSError as error:
            reply(request, error=error.errno or errno.EIO)
        else:
            reply(request, data)


def _allocate(fd: int, request: Request) -> None:
    offset, length = ctypes.c_int64(request.offset), ctypes.c_int64(request.length)
    if _libc.fallocate64(fd, request.mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _loop_device(path: Path) -> tuple[int, str]:
    """A new one of the file, which goes when its last user closes it; a descriptor of it is one."""
    config = bytearray(_CONFIG_BYTES)
    with path.open("r+b", buffering=0) as file, Path("/dev/loop-control").open("rb") as control:
        struct.pack_into("=II", config, 0, file.fileno(), 0)
        struct.pack_into("=I", config, _CONFIG_FLAGS_AT, _AUTOCLEAR | _DIRECT_IO)
        for attempt in range(_ATTEMPTS):
            name = f"/dev/loop{fcntl.ioctl(control, _LOOP_GET_FREE)}"
            fd = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, bytes(config))
                return fd, name
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY or attempt == _ATTEMPTS - 1:
                    raise
    raise AssertionError("unreachable")


def _serve(folder: Path, size: int) -> None:
    """Until standard input ends."""
    medium = _Medium(folder / "image")
    place = folder / "front"
    place.touch()
    with FuseFile(place, size, medium):
        loop, name = _loop_device(place)
        _say(name)
        for line in sys.stdin:
            mode, *kinds = line.split()
            if mode in _MODES:
                medium.set_mode(mode, kinds)
            _say(msgspec.json.encode(medium.counts()).decode())
        medium.set_mode("fail", EVERYTHING)
        os.close(loop)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Answers the device of a FaultySsd.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("size", type=int)
    args = parser.parse_args(arguments)
    try:
        _serve(args.folder, args.size)
    except (OSError, PeerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
