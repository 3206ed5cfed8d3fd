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
_SECTOR = 512
_TORN = (0, 0.3, 0.9)
_WITH_PARTS = ("posix_fallocate", "pwritev")


class Cut(BaseException):
    """The power has failed: nothing that is called after it does anything."""


class Steps:
    """Steps as they are done.

    Args:
        last: that many are done, and the next is cut off.
        torn: how much of that one is done, from 0 to 1, where it has parts.
        after: called when a step has been done; what it does is not counted.
    """

    def __init__(
        self, last: int | None = None, torn: float = 0, after: Callable[[], None] | None = None
    ) -> None:
        self.names: list[str] = []
        self.cut = False
        self._last = last
        self._torn = torn
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
            size = int(len(whole) * self._torn) // _SECTOR * _SECTOR
            # through the page cache, which takes sectors at any place
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            real(fd, [whole[:size]], offset)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        elif name == "posix_fallocate" and self._torn:
            fd, offset, size = arguments
            real(fd, offset, max(4096, int(size * self._torn) // 4096 * 4096))


def cuts() -> Iterator[Steps]:
    """At each step in turn, where it has parts torn in several ways; at last at none.

    What is done with one is to begin from the same state, and to take the same steps.
    """
    for last in count():
        for torn in _TORN:
            steps = Steps(last, torn)
            yield steps
            if not steps.cut:
                assert last, "nothing was counted"
                return
            if steps.names[-1] not in _WITH_PARTS:
                break
