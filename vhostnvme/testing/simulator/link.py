"""A card's connection to the simulated store: calls that may be lost, late or unanswered; a watch.

The watch does what the runner does: it lists, tells `Synced`, and then tells the changes from that
revision on; when it breaks it tells `StoreLost` and begins anew.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from vhostnvme.cluster.messages import Changed, Failure, FailureKind, Message, StoreLost, Synced
from vhostnvme.cluster.store.base import Change
from vhostnvme.errors import LeaseLost
from vhostnvme.testing.simulator.engine import Engine
from vhostnvme.testing.simulator.events import BadCall, BadRecord
from vhostnvme.testing.simulator.store import SimStore

CALL_TIMEOUT_S = 1.0
NOTICE_S = 1.2  # until a watch finds out that nothing comes any more
RETRY_S = 0.3
WAY_S = (0.0005, 0.01)  # one way
MIRROR_TXN = "Txn of a mirror"
_NEVER = 1 << 62  # a revision

Ended = Callable[[Any, Failure | None], None]
Deliver = Callable[[int, Message], None]


class Link:
    """`deliver(life, message)` passes a message on to that life of the card.

    Attributes:
        cut: how many faults keep the card and the store apart now.
        lag_s: how much later changes come.
        calls: how many were sent.
        told: how many changes were passed on.
    """

    def __init__(
        self,
        engine: Engine,
        store: SimStore,
        card: str,
        rng: random.Random,
        deliver: Deliver,
        note: Callable[[str, Any], None],
    ) -> None:
        self._engine = engine
        self._store = store
        self._rng = rng
        self._deliver = deliver
        self._note = note
        self.cut = 0
        self.lag_s = 0.0
        self.calls = self.told = 0
        self._records = 0  # so many calls have changed records of mirrors
        self._bad: list[tuple[int, BadCall]] = []  # the number of the call, and its fate
        self._bad_records: list[tuple[int, BadCall]] = []  # the same of those
        self._prefixes = (
            "cards/", "members/", "offers/", f"space/{card}/", f"held/{card}/",
            f"mirrors/{card}/",
        )  # fmt: skip
        self._life = 0
        self._watch = 0  # counts watches: what belongs to an older one is dropped
        self._live = False
        self._from = _NEVER  # the revision that the watch has begun at
        self._waiting: deque[tuple[float, list[Change]]] = deque()
        self._recent: deque[Change] = deque(maxlen=10)
        self._pumping = False
        store.commits.append(lambda changes, _before: self._committed(changes))

    @property
    def reachable(self) -> bool:
        return not self.cut and self._store.up

    # --- Calls ---

    def spoil(self, fault: BadCall) -> None:
        if isinstance(fault, BadRecord):
            self._bad_records.append((self._records + fault.nth, fault))
        else:
            self._bad.append((self.calls + fault.nth, fault))

    def call(self, what: str, act: Callable[[], Any], ended: Ended) -> None:
        """`act` is done at the store, at most once; `ended` gets its value, or why there is none.

        `ended` may be called when the card has ended meanwhile: it looks for that itself.
        """
        self.calls += 1
        fault = next((fault for number, fault in self._bad if number == self.calls), None)
        if what == MIRROR_TXN:
            self._records += 1
            bad = [fault for number, fault in self._bad_records if number == self._records]
            fault = fault or next(iter(bad), None)
        how, late_s = (fault.how, fault.late_s) if fault else ("", 0.0)
        if fault:
            self._note(f"its call {what} is {how}", None)
        answered = False

        def answer(value: Any, failure: Failure | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                ended(value, failure)

        def arrive() -> None:
            if how == "lost" or not (self.reachable or how == "late"):
                return
            if not self._store.up:
                self._engine.after(0.5, arrive)  # late, and later still
                return
            failure = None
            value = None
            try:
                value = act()
            except LeaseLost as error:
                failure = Failure(FailureKind.LEASE_LOST, str(error))
            if how == "late":
                self._note(f"its late call {what} is done", value)
            if how != "unanswered":
                self._engine.after(self._way(), lambda: self._returned(answer, value, failure))

        self._engine.after(self._way() + late_s, arrive)
        gone = Failure(FailureKind.UNAVAILABLE, "the store does not answer")
        self._engine.after(CALL_TIMEOUT_S, lambda: answer(None, gone))

    def _returned(self, answer: Ended, value: Any, failure: Failure | None) -> None:
        if self.reachable:
            answer(value, failure)

    def _way(self) -> float:
        return self._rng.uniform(*WAY_S)

    def calm(self) -> None:
        self.cut, self.lag_s = 0, 0.0
        self._bad.clear()
        self._bad_records.clear()

    # --- The watch ---

    def start(self, life: int) -> None:
        """A new life of the card begins to watch."""
        self._life = life
        self._begin()

    def stop(self) -> None:
        self._watch += 1
        self._live = False
        self._from = _NEVER
        self._waiting.clear()

    def lose(self, reason: str) -> None:
        """The watch breaks; what was on its way is lost."""
        if self._live:
            self.stop()
            self._deliver(self._life, StoreLost(reason))
            self._retry()

    def repeat(self, count: int) -> None:
        """Tells the last changes again, after whatever is on its way."""
        recent = list(self._recent)[-count:]
        if self._live and recent:
            self._send(recent)

    def _begin(self) -> None:
        self._watch += 1
        watch = self._watch

        def listed(value: Any, failure: Failure | None) -> None:
            if watch != self._watch:
                return
            if failure is not None:
                self._retry()
                return
            self._live = True
            self._deliver(self._life, Synced(value.revision, value.entries))

        def act() -> Any:
            found = self._store.snapshot(self._prefixes)
            if watch == self._watch:
                # What is committed from here on waits until the list has come.
                self._from = found.revision
                self._waiting.clear()
                self._recent.clear()
            return found

        self._from = _NEVER
        self.call("list", act, listed)

    def _retry(self) -> None:
        watch = self._watch
        self._engine.after(
            RETRY_S * self._rng.uniform(0.5, 1.5),
            lambda: self._begin() if watch == self._watch else None,
        )

    def _committed(self, changes: Sequence[Change]) -> None:
        if changes[0].revision <= self._from:
            return
        mine = [
            each
            for each, bucket in zip(changes, self._store.buckets, strict=True)
            if bucket in self._prefixes
        ]
        if mine:
            self._recent.extend(mine)
            self._send(mine)

    def _send(self, changes: list[Change]) -> None:
        due = self._engine.now + self._way() + self.lag_s
        if self._waiting:
            due = max(due, self._waiting[-1][0])
        self._waiting.append((due, changes))
        self._pump()

    def _pump(self) -> None:
        if self._pumping or not self._waiting:
            return
        self._pumping = True
        self._engine.after(max(self._waiting[0][0] - self._engine.now, 0.0), self._pour)

    def _pour(self) -> None:
        self._pumping = False
        if not self._live or not self.reachable:
            self._engine.after(0.1, self._pump)
            return
        ready: list[Change] = []
        while self._waiting and self._waiting[0][0] <= self._engine.now + 1e-9:
            ready += self._waiting.popleft()[1]
        if ready:
            self.told += len(ready)
            self._deliver(self._life, Changed(tuple(ready)))
        self._pump()

    def separated(self) -> None:
        """The card and the store do not reach each other any more: noticed after a while."""
        watch = self._watch

        def notice() -> None:
            if watch == self._watch and not self.reachable:
                self.lose("nothing is heard of the store")

        self._engine.after(NOTICE_S, notice)
