"""Who may change an SSD now: one thread at a time for each namespace, or one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Threads wait for each other only where they would touch the same."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy: set[str] = set()  # the namespaces that somebody has
        self._running = 0
        self._alone = False

    @contextmanager
    def of(self, *uuids: str) -> Iterator[None]:
        """Has these namespaces to itself; without any, only keeps off who wants to be alone."""
        wanted = set(uuids)
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and self._busy.isdisjoint(wanted))
            self._busy |= wanted
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= wanted
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, *, wait: bool) -> Iterator[bool]:
        """While nobody else runs. Answers False when somebody does, and it was not to wait."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: not self._alone and not self._running)
            got = not self._alone and not self._running
            self._alone = self._alone or got
        try:
            yield got
        finally:
            if got:
                with self._changed:
                    self._alone = False
                    self._changed.notify_all()
