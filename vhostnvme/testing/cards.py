"""Real cards on this machine's loopback, for tests and tools; no root is needed.

::

    with Cards(3, CardPlan(ssd_bytes=256 << 20)) as cards:
        made = cards["a"].create_device("vm1", 64 << 20, placement="remote")
        with NvmeHost.connect(made.socket) as host: ...
        cards["b"].kill()
        cards["b"].start()

Each card is a process of its own (`vhostnvme card run`), with a folder for its state and its SSDs,
and an address of its own in 127.0.0.0/8. They share a store: a SQLite file, or what a URL names.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from vhostnvme.closable import Closable
from vhostnvme.cluster.store import open_store
from vhostnvme.cluster.store.base import Entry
from vhostnvme.errors import PeerError
from vhostnvme.testing.card_process import PORT, CardPlan, CardProcess

__all__ = ["PORT", "CardPlan", "CardProcess", "Cards", "card_name"]

TOGETHER_S = 30.0
_STEP_S = 0.02


class Cards(Closable):
    """Cards `a`, `b`, … that run, and see each other; a context manager that ends them.

    Args:
        folder: for all that they write; by default a temporary one, which goes with them.

    Raises:
        PeerError: one did not start, or they do not find together.
    """

    def __init__(
        self, count: int, plan: CardPlan | None = None, folder: Path | None = None
    ) -> None:
        plan = plan or CardPlan()
        self._temporary = tempfile.TemporaryDirectory(prefix="vn-")  # socket paths are short
        self.folder = folder or Path(self._temporary.name)
        self.store = plan.store or f"sqlite://{self.folder}/cluster.db"
        run_dir = Path(self._temporary.name) / "run"
        run_dir.mkdir(mode=0o700)
        plan = replace(plan, store=self.store)
        network = _free_network(count)
        self._cards: dict[str, CardProcess] = {}
        for number in range(count):
            name, address = card_name(number), f"{network}.{number + 1}"
            folder_of = self.folder / name
            self._cards[name] = CardProcess(name, folder_of, run_dir, address, plan)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> CardProcess:
        return self._cards[name]

    def __iter__(self) -> Iterator[CardProcess]:
        return iter(self._cards.values())

    def __len__(self) -> int:
        return len(self._cards)

    def start(self) -> None:
        """Starts those that do not run, and waits until all see all."""
        starting = [each for each in self if not each.alive]
        for each in starting:
            each.begin()
        for each in starting:
            each.wait_ready()
        self.wait_together()

    def wait_together(self) -> None:
        """
        Raises:
            PeerError: they do not all see each other within TOGETHER_S.
        """
        names = list(self._cards)
        for each in self:
            self.wait(lambda each=each: each.sees(names), f"card {each.name} sees {names}")  # type: ignore[misc]

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = TOGETHER_S) -> None:
        """For what comes true by itself.

        Raises:
            PeerError: not within the time.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise PeerError(f"not within {timeout_s:g} s: {what}")
            time.sleep(_STEP_S)

    def store_entries(self, *prefixes: str) -> list[Entry]:
        """What lies in the store below these."""

        async def listed() -> list[Entry]:
            async with open_store(self.store) as store:
                return list((await store.list(*prefixes)).entries)

        return asyncio.run(listed())

    def close(self) -> None:
        """Ends all, in order. A second call is free."""
        running = [each for each in self if each.alive]
        for each in running:
            each.signal(signal.SIGCONT)
            each.signal(signal.SIGTERM)
        for each in running:
            try:
                each.stop()
            except PeerError:
                continue  # it has been killed
        self._temporary.cleanup()


def card_name(number: int) -> str:
    """a, b, … z, a1, b1, …"""
    rounds, letter = divmod(number, 26)
    return chr(ord("a") + letter) + (str(rounds) if rounds else "")


def _free_network(count: int) -> str:
    """Three bytes of 127.0.0.0/8 whose first addresses nobody listens on.

    A port of the usual range would be taken by outgoing connections while its card is down.
    """
    dice = random.SystemRandom()
    for _ in range(100):
        network = f"127.{dice.randrange(1, 255)}.{dice.randrange(1, 255)}"
        if all(_is_free(f"{network}.{number + 1}") for number in range(count)):
            return network
    raise PeerError(f"no addresses of loopback are free at port {PORT}")


def _is_free(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, PORT))
        except OSError:
            return False
    return True
