"""Makes a failing plan small: leaves out events and cards while it fails in the same way."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from vhostnvme.testing.simulator.plan import Plan

# What tells one failure from another of its kind: UUIDs, names of things, numbers.
_DETAILS = re.compile(
    r"[0-9a-f]{8}-[0-9a-f-]{27}|\bvm-[\w-]+|\bd\d+|\b[a-e]\b|\d+(\.\d+)?|\[.*\]|\(.*\)"
)


def kind_of(sentence: str) -> str:
    """The rule of a broken rule's sentence."""
    return _DETAILS.sub("*", sentence)


def shrink(plan: Plan, broken: str, run: Callable[[Plan], str], limit_s: float) -> tuple[Plan, int]:
    """The smallest plan that could be found in the time, and how many were tried.

    Args:
        broken: the sentence of the plan's failure.
        run: runs a plan and answers what is broken, or "".
        limit_s: of real time.
    """
    return _Shrinker(plan, broken, run, time.monotonic() + limit_s).shrink()


class _Shrinker:
    def __init__(
        self, plan: Plan, broken: str, run: Callable[[Plan], str], deadline: float
    ) -> None:
        self._plan = plan
        self._kind = kind_of(broken)
        self._run = run
        self._deadline = deadline
        self._tried = 0

    def shrink(self) -> tuple[Plan, int]:
        while self._round() and not self._late():
            pass
        return self._plan, self._tried

    def _round(self) -> bool:
        """Whether anything could be left out."""
        before = len(self._plan.events), len(self._plan.cards)
        self._events()
        for card in [each.name for each in self._plan.cards]:
            if len(self._plan.cards) > 1:
                self._try(self._plan.without(card))
        return (len(self._plan.events), len(self._plan.cards)) != before

    def _events(self) -> None:
        size = max(len(self._plan.events) // 2, 1)
        while True:
            start = 0
            while start < len(self._plan.events) and not self._late():
                idents = [event.ident for event in self._plan.events]
                if not self._try(self._plan.keep(idents[:start] + idents[start + size :])):
                    start += size
            if size == 1 or self._late():
                return
            size //= 2

    def _try(self, plan: Plan) -> bool:
        if self._late():
            return False
        self._tried += 1
        if kind_of(self._run(plan)) != self._kind:
            return False
        self._plan = plan
        return True

    def _late(self) -> bool:
        return time.monotonic() >= self._deadline


def format_idents(idents: Iterable[int]) -> str:
    """`1-3,7`: ranges, as the command line takes them."""
    words: list[str] = []
    run: list[int] = []
    for ident in [*sorted(idents), -1]:
        if run and ident != run[-1] + 1:
            words.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
            run = []
        run.append(ident)
    return ",".join(words)


def parse_idents(text: str) -> list[int]:
    """
    Raises:
        ValueError: it is no such list.
    """
    found: list[int] = []
    for word in filter(None, text.split(",")):
        first, _, last = word.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
