"""The simulated target of a giver, and the writes of guests on their way to it.

It does what the real one does: one host is let in at a time, and a newer one only after all
commands of the older one have ended. A write is applied when the host that sent it is let in at
the moment of its arrival.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from vhostnvme.cluster.messages import Export, Failure, FailureKind, Unexport
from vhostnvme.testing.simulator.engine import Engine
from vhostnvme.testing.simulator.medium import Medium

DRAIN_MAX_S = 0.6

Ended = Callable[[Failure | None], None]
_BUSY = Failure(FailureKind.BUSY, "commands of its host are still under way")


@dataclass(slots=True)
class SimExport:
    owner: str
    epoch: int
    open: bool = False
    under_way: int = 0
    turn: int = 0  # of the last change that was begun
    token: int = 0  # the connection of its host: commands of an earlier one are not carried out


class Target:
    """`slow`: how many faults make its SSDs slow now. All of it goes with the card's process."""

    def __init__(self, engine: Engine, medium: Medium, rng: random.Random) -> None:
        self._engine = engine
        self._medium = medium
        self._rng = rng
        self._exports: dict[str, SimExport] = {}
        self.slow = 0
        self.early = False  # a seeded bug: does not drain

    def clear(self) -> None:
        self._exports = {}

    def find(self, uuid: str) -> SimExport | None:
        return self._exports.get(uuid)

    @property
    def exports(self) -> dict[str, SimExport]:
        return self._exports

    def lets_in(self, owner: str, uuid: str, epoch: int) -> bool:
        export = self._exports.get(uuid)
        return (
            export is not None
            and export.open
            and (export.owner, export.epoch) == (owner, epoch)
            and self._medium.find(uuid) is not None
        )

    def export(self, effect: Export, ended: Ended) -> None:
        if self._medium.find(effect.uuid) is None:
            ended(Failure(FailureKind.FAILED, f"{effect.uuid} is not there"))
            return
        export = self._exports.setdefault(effect.uuid, SimExport(effect.owner, effect.epoch))
        if export.open and (export.owner, export.epoch) == (effect.owner, effect.epoch):
            ended(None)
            return

        def drained(failure: Failure | None) -> None:
            if failure is None:
                space = self._medium.find(effect.uuid)
                if space is None:
                    failure = Failure(FailureKind.FAILED, f"{effect.uuid} is not there any more")
                else:
                    space.admit(effect.owner, effect.epoch)
                    export.owner, export.epoch, export.open = effect.owner, effect.epoch, True
            ended(failure)

        self._drain(effect.uuid, export, drained)

    def unexport(self, effect: Unexport, ended: Ended) -> None:
        export = self._exports.get(effect.uuid)
        if export is None:
            ended(None)
            return

        def drained(failure: Failure | None) -> None:
            if failure is None:
                del self._exports[effect.uuid]
            ended(failure)

        self._drain(effect.uuid, export, drained)

    def _drain(self, uuid: str, export: SimExport, ended: Ended) -> None:
        """Denies at once; `ended` when nothing is under way, or BUSY."""
        export.open = False
        export.turn += 1
        turn = export.turn
        limit = self._engine.now + DRAIN_MAX_S

        def look() -> None:
            if export.turn != turn:
                ended(_BUSY)
            elif not export.under_way or self.early:
                ended(None)
            elif self._engine.now >= limit:
                ended(_BUSY)
            else:
                self._engine.after(0.02, look)

        look()

    def receive(self, owner: str, uuid: str, epoch: int, stamp: int) -> None:
        """A write has come; it is applied later, or never when the card ends before."""
        if not self.lets_in(owner, uuid, epoch):
            return
        export = self._exports[uuid]
        export.under_way += 1

        def apply() -> None:
            if self._exports.get(uuid) is not export:
                return
            export.under_way -= 1
            space = self._medium.find(uuid)
            if space is not None:
                space.write(owner, epoch, stamp)

        slow = self.slow and self._rng.random() < 0.7
        self._engine.after(self._rng.uniform(0.1, 1.5) if slow else 0.002, apply)

    # --- Commands of mirrors ---

    def connect(self, owner: str, uuid: str, epoch: int, token: int) -> bool:
        """A host's new connection; not while commands of an older one are under way."""
        if not self.lets_in(owner, uuid, epoch) or self._exports[uuid].under_way:
            return False
        self._exports[uuid].token = token
        return True

    def command(
        self,
        owner: str,
        uuid: str,
        epoch: int,
        token: int,
        region: int,
        version: int | None,
        ended: Callable[[bool, int], None],
    ) -> bool:
        """Reads, or writes a version; False: this connection has ended."""
        if not self.lets_in(owner, uuid, epoch) or self._exports[uuid].token != token:
            return False
        export = self._exports[uuid]
        export.under_way += 1

        def act() -> None:
            if self._exports.get(uuid) is not export:
                return
            fault = self._medium.fault_of(uuid)
            if fault == "hang":
                self._engine.after(0.1, act)
                return
            export.under_way -= 1
            space = self._medium.find(uuid)
            if space is None or fault:
                ended(False, 0)
            elif version is None:
                ended(True, space.content.get(region, 0))
            else:
                space.put(owner, epoch, region, version)
                ended(True, version)

        slow = self.slow and self._rng.random() < 0.3
        self._engine.after(self._rng.uniform(0.1, 0.8) if slow else 0.002, act)
        return True
