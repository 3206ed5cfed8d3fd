"""Histories of simulated clusters, run in a process for each core ahead of the tests that ask."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager

import pytest

from vhostnvme.testing.simulator.bugs import BUGS
from vhostnvme.testing.simulator.history import run_plan
from vhostnvme.testing.simulator.plan import make_plan
from vhostnvme.testing.simulator.story import interesting, tell

CHUNK = 50
BUG_HISTORIES_MAX = 200


def broken_rule(first: int) -> str:
    """What CHUNK histories from this seed on have broken first; "": nothing."""
    for seed in range(first, first + CHUNK):
        outcome = run_plan(make_plan(seed))
        if outcome.broken:
            story = "\n".join(tell(interesting(outcome.notes)[-40:]))
            return f"seed {seed}: {outcome.broken}\n{story}"
    return ""


def notices_bug(name: str) -> bool:
    (bug,) = [each for each in BUGS if each.name == name]
    seeds = range(bug.seed, bug.seed + BUG_HISTORIES_MAX)
    return any(run_plan(make_plan(seed, favour=bug.favour), bug=bug).broken for seed in seeds)


class Ahead:
    """Calls that have begun already, in the order in which tests will ask for what they return."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self._begun: dict[tuple[str, object], Future[object]] = {}

    def begin(self, function: Callable[..., object], argument: object) -> None:
        key = (function.__name__, argument)
        self._begun[key] = self._pool.submit(function, argument)

    def result(self, function: Callable[..., object], argument: object) -> object:
        if (function.__name__, argument) not in self._begun:
            self.begin(function, argument)
        return self._begun.pop((function.__name__, argument)).result()

    def cancel(self) -> None:
        for future in self._begun.values():
            future.cancel()


@contextmanager
def running_ahead(request: pytest.FixtureRequest) -> Iterator[Ahead]:
    """What the tests of this file that are going to run will ask for has begun."""
    begun: dict[str, Callable[..., object]] = {
        "test_no_history_breaks_a_rule": broken_rule,
        "test_a_bug_is_noticed": notices_bug,
    }
    context = multiprocessing.get_context("spawn")  # this process may have threads
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        ahead = Ahead(pool)
        for item in request.session.items:
            if isinstance(item, pytest.Function) and item.path == request.path:
                function = begun.get(item.originalname)
                if function is not None:
                    ahead.begin(function, item.callspec.params["argument"])
        yield ahead
        ahead.cancel()
