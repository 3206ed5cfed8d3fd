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

from vhostnvme.control.card import CreatedDevice, DeviceInfo
from vhostnvme.errors import PeerError, VhostNvmeError
from vhostnvme.testing.cards import CardPlan, CardProcess, Cards
from vhostnvme.testing.mortal_card import DIE_AT

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
    """A card that shall die at its step of this number; and `again` at one of its next life."""

    cards: Cards
    victim: CardProcess
    number: int
    again: int = 0
    died: bool = False
    died_again: bool = False

    def run(self, command: Callable[[], object]) -> Outcome:
        """The command, while the victim dies, and comes back."""
        self._trace.write_text("")
        self._tell(self.number, "armed")
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(command)
            while not asked.done() and self._lives(0.01):
                pass
            if not self._is_spared():
                self.died = True
                self._come_back()
            try:
                return Outcome(asked.result())
            except VhostNvmeError as error:
                return Outcome(error=error)

    def _come_back(self) -> None:
        if self.again:
            (self.victim.folder / DIE_AT).write_text(str(self.again))
            with contextlib.suppress(PeerError):
                self.victim.start()
                back = self.cards.wait
                back(lambda: not self._lives(0) or self.victim.sees("ab"), "it is back, or dead")
                self._lives(0.2)  # it goes on with what it has found
            self.died_again = not self._is_spared()
        if not self._lives(0):
            self.victim.start()

    def _is_spared(self) -> bool:
        """From now on; False: it has died."""
        return self._lives(0) and self._tell(0, "disarmed")

    def _tell(self, number: int, answer: str) -> bool:
        """Of the victim's standard input; False: it has died."""
        with contextlib.suppress(BrokenPipeError):
            self.victim.tell(f"{number}\n")
        self.cards.wait(lambda: answer in self.steps() or not self._lives(0), "it is told")
        return self._lives(0)

    def _lives(self, timeout_s: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.victim.wait_end(timeout_s)
        return self.victim.alive

    @property
    def _trace(self) -> Path:
        return self.victim.folder / "trace"

    def steps(self) -> list[str]:
        """What it has done since it was armed; the last one it did not live to do."""
        return self._trace.read_text().splitlines()

    def __str__(self) -> str:
        again = f", again at {self.again}" if self.again else ""
        return f"card {self.victim.name}, step {self.number}{again}: {self.steps()[-1]}"


def executions(cards: Cards, victim: str, step: int = 0) -> Iterator[Execution]:
    """Until one has been survived. With a `step` it dies there, and again in its next life."""
    for number in range(1, STEPS_MAX):
        each = Execution(cards, cards[victim], step or number, number if step else 0)
        yield each
        print(each)  # noqa: T201
        if not (each.died_again if step else each.died):
            return
    raise AssertionError("it never ends")


def device_of(cards: Cards, card: str, vm: str) -> str | None:
    """The VM's device, with its namespace; None: there is none. One or the other comes to be."""

    def found() -> DeviceInfo | None:
        return next((each for each in cards[card].devices() if each.vm == vm), None)

    def settled() -> bool:
        device = found()
        return device is None or works(device.socket, vm)

    cards.wait(settled, f"the device of {vm} is whole or gone")
    device = found()
    return device.device if device is not None else None


def works(socket: str, text: str) -> bool:
    """Whether the device's namespace is there, and takes and gives data."""
    block = text.encode().ljust(BLOCK, b".")
    try:
        host, queue = opened(socket)
        with host:
            queue.write(0, block)
            return queue.read(0, 1) == block
    except VhostNvmeError:
        return False


COPIES = "two copies"  # a placement, here
WAYS = pytest.mark.parametrize(
    ("placement", "victim"),
    [("local", "a"), ("remote", "a"), ("remote", "b"), (COPIES, "a"), (COPIES, "b")],
)


def create(card: CardProcess, vm: str, placement: str) -> CreatedDevice:
    if placement == COPIES:
        return card.create_device(vm, SIZE, copies=2)
    return card.create_device(vm, SIZE, placement=placement)


def creation(cards: Cards, each: Execution, placement: str) -> None:
    vm = f"vm{each.number}"
    made = each.run(lambda: create(cards["a"], vm, placement))
    cards.wait_together()
    found = device_of(cards, "a", vm)
    if made.error is None:
        assert isinstance(made.value, CreatedDevice)
        assert found == made.value.device, f"{each}: what was made has gone"
    if found is not None:
        check_accounts(cards)
        released = cards["a"].delete_vm(vm)
        assert not released.pending, str(each)
    wait_empty(cards)


def deletion(cards: Cards, each: Execution, placement: str) -> None:
    device = create(cards["a"], "vm", placement).device
    gone = each.run(lambda: cards["a"].delete_device(device))
    cards.wait_together()
    found = device_of(cards, "a", "vm")
    if gone.error is None:
        assert found is None, f"{each}: it was deleted, and is there"
    if found is not None:
        check_accounts(cards)
    again = cards["a"].delete_device(device)
    assert found is not None or again.already or not again.pending, str(each)
    wait_empty(cards)


@pytest.mark.slow
@WAYS
def test_create(cards: Cards, placement: str, victim: str) -> None:
    for each in executions(cards, victim):
        creation(cards, each, placement)


@pytest.mark.slow
@WAYS
def test_delete(cards: Cards, placement: str, victim: str) -> None:
    for each in executions(cards, victim):
        deletion(cards, each, placement)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "victim", "step"), [(creation, "a", 7), (creation, "b", 5), (deletion, "b", 2)]
)
def test_a_card_that_dies_again(
    cards: Cards, act: Callable[[Cards, Execution, str], None], victim: str, step: int
) -> None:
    """At every step of its recovery, when it was half-way with a remote namespace."""
    for each in executions(cards, victim, step):
        act(cards, each, "remote")
        assert each.died


@pytest.mark.slow
@WAYS
def test_resize(cards: Cards, placement: str, victim: str) -> None:
    for each in executions(cards, victim):
        made = create(cards["a"], "vm", placement)
        uuid = made.namespaces[0].uuid
        grown = each.run(lambda uuid=uuid: cards["a"].resize_namespace(uuid, 2 * SIZE))
        cards.wait_together()
        sizes = [SIZE, 2 * SIZE] if grown.error else [2 * SIZE]
        cards.wait(lambda sizes=sizes: same_size(cards, sizes), f"{each}: one size")
        assert device_of(cards, "a", "vm") == made.device
        check_accounts(cards)
        assert not cards["a"].delete_device(made.device).pending
        wait_empty(cards)


def same_size(cards: Cards, sizes: list[int]) -> bool:
    """Whether all who know of the only namespace agree on its size, and it is one of these."""
    known = {each.size for card in cards for each in card.namespaces()}
    known |= {path.stat().st_size for card in cards for path in card.namespace_files()}
    known |= {use for card in cards for ssd in card.ssds() if (use := ssd.used)}
    host, queue = opened(cards["a"].devices()[0].socket)
    with host:
        known.add(host.identify_namespace(1).nr_blocks * queue.block_bytes)
    return len(known) == 1 and known <= set(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["a", "b"])
def test_adopt(victim: str) -> None:
    """Devices of card c, which has died, are taken over by card a; their space is card b's."""
    with Cards(3, PLAN) as cards:
        vms = [f"vm{number}" for number in range(1, 25)]
        for vm in vms:
            made = cards["c"].create_device(vm, MIB, placement="b", name=vm)
            host, queue = opened(made.socket)
            with host:
                queue.write(8, vm.encode().ljust(BLOCK))
        cards["c"].kill()
        cards.wait(lambda: is_lost(cards["a"], "c"), "card c is lost")
        for each in executions(cards, victim):
            vm = vms[each.number - 1]
            taken = each.run(lambda vm=vm: cards["a"].adopt_device(vm, "c"))
            cards.wait(lambda: cards["a"].sees(["a", "b"]) and cards["b"].sees(["a", "b"]), "both")
            found = device_of(cards, "a", vm)
            if taken.error is None:
                assert found == vm, f"{each}: what was taken over has gone"
            elif found is None:
                cards["a"].adopt_device(vm, "c")
                found = device_of(cards, "a", vm)
            assert found == vm
            host, queue = opened(cards["a"].device_socket(vm))
            with host:
                assert queue.read(8, 1) == vm.encode().ljust(BLOCK)
        cards["c"].start()
        cards.wait_together()
        left = vms[each.number :]
        cards.wait(lambda: [d.device for d in cards["c"].devices()] == sorted(left), "c loses them")
        check_accounts(cards)
        for vm in vms:
            cards["c" if vm in left else "a"].delete_vm(vm)
        wait_empty(cards)


def is_lost(card: CardProcess, name: str) -> bool:
    return any(each.card == name and each.health == "lost" for each in card.cluster())
