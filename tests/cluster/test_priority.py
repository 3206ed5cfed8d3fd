"""The pool is one namespace short: of two requests at the same moment the higher one gets it."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from tests_cluster import MIB, is_refused, wait_empty
from tests_protocol import dice

from vhostnvme.errors import NoSpace
from vhostnvme.testing.cards import CardPlan, CardProcess, Cards

SIZE = 4 * MIB
ROUNDS = 100
CONTENTION_S = 0.2


@contextmanager
def one_short(contention_s: float) -> Iterator[Cards]:
    """Card a has space for one namespace more, b and c for none."""
    with Cards(3, CardPlan(ssd_bytes=2 * SIZE, contention_s=contention_s)) as cards:
        for name in "abbcc":
            cards[name].create_device(f"filler-{name}", SIZE, placement="local")
        yield cards
        for name in "abc":
            cards[name].delete_vm(f"filler-{name}")
        wait_empty(cards)


@pytest.fixture(scope="module")
def cards() -> Iterator[Cards]:
    with one_short(CONTENTION_S) as running:
        yield running


def request(cards: Cards, name: str, vm: str, priority: int) -> Callable[[], bool]:
    """Asks for the last space; whether it is granted."""

    def ask() -> bool:
        try:
            cards[name].create_device(vm, SIZE, placement="a", priority=priority)
        except NoSpace as error:
            is_refused(error)
            return False
        return True

    return ask


def one_round(cards: Cards, rng: random.Random, asker_1: str, asker_2: str) -> None:
    low, high = sorted(rng.sample(range(101), 2))
    requests = [request(cards, asker_1, "low", low), request(cards, asker_2, "high", high)]
    order = [0, 1] if rng.random() < 0.5 else [1, 0]
    with ThreadPoolExecutor(2) as threads:
        begun = {index: threads.submit(requests[index]) for index in order}
    assert [begun[0].result(), begun[1].result()] == [False, True], (low, high, order)
    assert not cards[asker_2].delete_vm("high").pending


def sees_space(cards: Cards, name: str) -> bool:
    return any(each.card == "a" and each.free == SIZE for each in cards[name].cluster())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_higher_priority_gets_the_last_space(cards: Cards) -> None:
    """From two cards, or from the one that has it and another."""
    rng = dice("test_the_higher_priority_gets_the_last_space")
    ways = [("b", "c"), ("c", "b"), ("a", "b"), ("b", "a"), ("b", "b")]
    for number in range(ROUNDS):
        one_round(cards, rng, *ways[number % len(ways)])


def command(card: CardProcess, vm: str, priority: int) -> subprocess.Popen[str]:
    words = ["device", "create", "--vm", vm, "--size", "4M", "--priority", str(priority)]
    return subprocess.Popen(
        [sys.executable, "-m", "vhostnvme", "--card", str(card.control), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_of_two_command_lines_that_are_started_together() -> None:
    with one_short(1.5) as cards:
        for low, high in (("b", "c"), ("c", "a")):
            processes = [command(cards[low], "low", 49), command(cards[high], "high", 51)]
            said = [each.communicate(timeout=60) for each in processes]
            assert [each.returncode for each in processes] == [1, 0], said
            assert said[0][1].startswith("vhostnvme: no space for a namespace of 4M")
            assert not cards[high].delete_vm("high").pending
            cards.wait(lambda: sees_space(cards, "c") and sees_space(cards, "a"), "it is free")
