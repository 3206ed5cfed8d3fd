"""kill -9 of a card at every step of a command, its own or its giver's: the pool is right after.

Each scenario is run again and again; the victim dies at its first step, then at its second, and so
on, until the scenario ends before it is reached. The victim is started again at once. What was
answered holds; what was not is wholly there or wholly gone; then all is deleted, and nothing is
left.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests_cluster import BLOCK, MIB, check_accounts, opened, wait_empty

from vhostnvme.control.card import CreatedDevice
from vhostnvme.errors import VhostNvmeError
from vhostnvme.testing.cards import CardPlan, CardProcess, Cards

SIZE = 4 * MIB
STEPS_MAX = 60
PLAN = CardPlan(ssd_bytes=32 * MIB, ttl_s=2.0, program=("-m", "vhostnvme.testing.mortal_card"))


@pytest.fixture(scope="module")
def cards() -> Iterator[Cards]:
    with Cards(2, PLAN) as running:
        yield running


@dataclass
class Outcome:
    """Of a command while a card may have died. `error` None: it was answered."""

    value: object = None
    error: VhostNvmeError | None = None


@dataclass
class Execution:
    """A card that shall die at its step of this number."""

    cards: Cards
    victim: CardProcess
    number: int
    died: bool = False

    def run(self, command: Callable[[], object]) -> Outcome:
        """The command, while the victim dies, and comes back."""
        self._trace.write_text("")
        self._tell(self.number, "armed")
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(command)
            while not asked.done() and self._lives(0.01):
                pass
            if not self.died:
                self._tell(0, "disarmed")
            if self.died:
                self.victim.start()
            try:
                return Outcome(asked.result())
            except VhostNvmeError as error:
                return Outcome(error=error)

    def _tell(self, number: int, answer: str) -> None:
        """Of the victim's standard input; answered, or it has died."""
        with contextlib.suppress(BrokenPipeError):
            self.victim.tell(f"{number}\n")
        self.cards.wait(lambda: answer in self.steps() or not self._lives(0), "it is told")

    def _lives(self, timeout_s: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.victim.wait_end(timeout_s)
            self.died = True
        return not self.died

    @property
    def _trace(self) -> Path:
        return self.victim.folder / "trace"

    def steps(self) -> list[str]:
        """What it has done since it was armed; the last one it did not live to do."""
        return self._trace.read_text().splitlines()

    def __str__(self) -> str:
        return f"card {self.victim.name}, step {self.number}, {self.steps()[-1]}"


def executions(cards: Cards, victim: str) -> Iterator[Execution]:
    """Until one has been survived."""
    for number in range(1, STEPS_MAX):
        each = Execution(cards, cards[victim], number)
        yield each
        print(each)  # noqa: T201
        if not each.died:
            return
    raise AssertionError("it never ends")


def device_of(cards: Cards, card: str, vm: str) -> str | None:
    """The VM's device, whole; None: there is none. Waits until one or the other is the case."""

    def settled() -> bool:
        found = [each for each in cards[card].devices() if each.vm == vm]
        return not found or found[0].state == "listening"

    cards.wait(settled, f"the device of {vm} is whole or gone")
    found = [each for each in cards[card].devices() if each.vm == vm]
    if not found:
        return None
    host, queue = opened(found[0].socket)
    with host:
        queue.write(0, vm.encode().ljust(BLOCK, b"."))
        assert queue.read(0, 1) == vm.encode().ljust(BLOCK, b".")
    return found[0].device


@pytest.mark.parametrize(
    ("placement", "victim"), [("local", "a"), ("remote", "a"), ("remote", "b")]
)
def test_create(cards: Cards, placement: str, victim: str) -> None:
    for each in executions(cards, victim):
        vm = f"vm{each.number}"
        made = each.run(lambda vm=vm: cards["a"].create_device(vm, SIZE, placement=placement))
        cards.wait_together()
        found = device_of(cards, "a", vm)
        if isinstance(made.value, CreatedDevice):
            assert found == made.value.device, f"{each}: what was made has gone"
        if found is not None:
            check_accounts(cards)
            released = cards["a"].delete_vm(vm)
            assert not released.pending, str(each)
        wait_empty(cards)
