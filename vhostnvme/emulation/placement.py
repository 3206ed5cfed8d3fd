"""Which reactor a device lives on: decided when it is made."""

from __future__ import annotations

from collections.abc import Iterable

from vhostnvme.native import Runtime


def least_loaded(reactors: int, homes: Iterable[int]) -> int:
    """The reactor with the fewest of these homes; the first of several."""
    counts = [0] * reactors
    for home in homes:
        counts[home] += 1
    return counts.index(min(counts))


def choose_reactor(runtime: Runtime) -> int:
    """Where a new controller has the most room."""
    homes = [controller.options.reactor for controller in runtime.controllers]
    return least_loaded(runtime.reactors, homes)
