"""Virtual time: a queue of calls, the clocks of cards, and the record of what happened.

Everything that a simulation does is a call of this queue, in an order that only the seed decides.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vhostnvme.errors import VhostNvmeError


class RuleBroken(VhostNvmeError):
    """The managers have broken a rule; the message says which, in one sentence."""


class Engine:
    """`now` is the true time, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Calls with the same time are made in the order in which they were noted."""
        heapq.heappush(self._queue, (self.now + delay_s, next(self._numbers), call))

    def run_until(self, end: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= end:
            self.now, _, call = heapq.heappop(queue)
            call()
        self.now = end


@dataclass(frozen=True, slots=True)
class Clock:
    """A card's monotonic clock: `rate` of its seconds go by in a true one."""

    rate: float
    offset: float

    def read(self, now: float) -> float:
        return self.offset + now * self.rate

    def true(self, seconds: float) -> float:
        """How long some of its seconds take."""
        return seconds / self.rate


Note = tuple[float, str, str, Any]


class Trace:
    """What happened: time, card, what, and the thing that it happened to."""

    def __init__(self) -> None:
        self.notes: list[Note] = []

    def note(self, now: float, card: str, what: str, thing: Any = None) -> None:
        self.notes.append((now, card, what, thing))

    def last(self, count: int) -> Sequence[Note]:
        return self.notes[-count:]

    def digest(self) -> str:
        """The same for the same history, in every process."""
        found = hashlib.sha256()
        for now, card, what, thing in self.notes:
            found.update(f"{now:.9f} {card} {what} {thing!r}\n".encode())
        return found.hexdigest()
