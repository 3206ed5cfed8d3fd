"""Who waits for whom on an SSD."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from vhostnvme.storage.turns import Turns


class Somebody:
    """A thread that has a turn until it is told to end it."""

    def __init__(self, turn: Callable[[], object]) -> None:
        self._has, self._ends = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(turn,))
        self._thread.start()

    def _run(self, turn: Callable[[], object]) -> None:
        with turn():  # type: ignore[attr-defined]
            self._has.set()
            self._ends.wait()

    def has(self) -> bool:
        """In the end; it is waited for."""
        return self._has.wait(20)

    def waits(self) -> bool:
        """Right now."""
        return not self._has.is_set()

    def end(self) -> None:
        self._ends.set()
        self._thread.join()


def test_different_namespaces_do_not_wait() -> None:
    turns = Turns()
    some = [Somebody(lambda name=name: turns.of(name)) for name in "abc"]
    some.append(Somebody(turns.of))
    assert all(one.has() for one in some)
    for one in some:
        one.end()


def test_the_same_namespace_waits() -> None:
    turns = Turns()
    first = Somebody(lambda: turns.of("a", "b"))
    assert first.has()
    second = Somebody(lambda: turns.of("b", "c"))
    third = Somebody(lambda: turns.of("c"))
    assert third.has()
    assert second.waits()
    first.end()
    assert second.waits()
    third.end()
    assert second.has()
    second.end()


def test_alone_waits_for_all_and_all_for_it() -> None:
    turns = Turns()
    first = Somebody(turns.of)
    assert first.has()
    with turns.alone(wait=False) as got:
        assert not got
    alone = Somebody(lambda: turns.alone(wait=True))
    assert alone.waits()
    first.end()
    assert alone.has()
    with turns.alone(wait=False) as got:
        assert not got
    second = Somebody(lambda: turns.of("a"))
    assert second.waits()
    alone.end()
    assert second.has()
    second.end()


def test_many_have_it_one_at_a_time() -> None:
    turns = Turns()
    inside: list[int] = []
    most: queue.SimpleQueue[int] = queue.SimpleQueue()

    def work() -> None:
        for _ in range(200):
            with turns.of("a"):
                inside.append(1)
                most.put(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [most.get() for _ in range(most.qsize())] == [1] * 1600
