"""Stops a program at one of its steps: the calls by which it changes a file system or device."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest

# What changes something, or makes it durable.
_STEPS = (
    (fcntl, "ioctl"),
    (os, "fdatasync"),
    (os, "fsync"),
    (os, "ftruncate"),
    (os, "open"),
    (os, "posix_fallocate"),
    (os, "pwrite"),
    (os, "pwritev"),
    (os, "rename"),
    (os, "unlink"),
    (os, "write"),
)
_TORN = (0, 0.01, 0.02, 0.3, 0.9)
_RECORD_BYTES_MAX = 1 << 16  # longer writes are zeros, of which no part means anything


class Cut(BaseException):
    """The power has failed: nothing that is called after it does anything."""


class Steps:
    """Steps as they are done.

    Args:
        last: that many are done, and the next is cut off.
        torn: how much of that one is done, from 0 to 1, where it has parts.
        grain: bytes that are written whole or not at all; a disk's sector is.
        after: called when a step has been done; what it does is not counted.
    """

    def __init__(
        self,
        last: int | None = None,
        torn: float = 0,
        grain: int = 512,
        after: Callable[[], None] | None = None,
    ) -> None:
        self.names: list[str] = []
        self.cut = False
        self.has_parts = False  # the one that was cut off
        self._last = last
        self._torn = torn
        self._grain = grain
        self._after = after
        self._resting = False

    @contextmanager
    def counted(self) -> Iterator[None]:
        """In the block. It ends early, and quietly, where it is cut off."""
        with pytest.MonkeyPatch.context() as patch:
            for module, name in _STEPS:
                patch.setattr(module, name, self._counting(name, getattr(module, name)))
            try:
                yield
            except Cut:
                self.cut = True

    def _counting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            reads = name == "open" and not arguments[1] & os.O_CREAT
            if self._resting or reads:
                return real(*arguments, **named)
            if self._last is not None and len(self.names) >= self._last:
                if len(self.names) == self._last:
                    self.names.append(name)
                    self._tear(name, real, arguments)
                raise Cut
            self.names.append(name)
            answer = real(*arguments, **named)
            if self._after is not None:
                self._resting = True
                self._after()
                self._resting = False
            return answer

        return step

    def _tear(self, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if name == "pwritev":
            fd, (data,), offset = arguments
            whole = bytes(data)
            self.has_parts = len(whole) <= _RECORD_BYTES_MAX
            size = int(len(whole) * self._torn) // self._grain * self._grain
            # through the page cache, which takes sectors at any place
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            real(fd, [whole[:size]], offset)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        elif name == "posix_fallocate":
            self.has_parts = True
            fd, offset, size = arguments
            if self._torn:
                real(fd, offset, max(4096, int(size * self._torn) // 4096 * 4096))


def cuts(grain: int = 512) -> Iterator[Steps]:
    """At each step in turn, where it has parts torn in several ways; at last at none.

    What is done with one is to begin from the same state, and to take the same steps.
    """
    for last in count():
        for torn in _TORN:
            steps = Steps(last, torn, grain)
            yield steps
            if not steps.cut:
                assert last, "nothing was counted"
                return
            if not steps.has_parts:
                break
