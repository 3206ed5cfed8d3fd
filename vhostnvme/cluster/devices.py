"""The devices of a card as they run: started, their namespaces attached and detached, stopped.

One effect is under way for a device at a time. The rows say what shall be; what runs is known here
only, and begins from nothing with each life of the card.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from vhostnvme.cluster.board import Board, Then, Unit
from vhostnvme.cluster.messages import (
    Attach,
    Detach,
    Effect,
    Failure,
    Refit,
    StartDevice,
    StopDevice,
)
from vhostnvme.cluster.mirror_messages import AttachMirror
from vhostnvme.cluster.mirrors import Mirrors
from vhostnvme.cluster.rows import DeviceRow, HoldingRow, MirrorRow, RowState

RETRY_S = 0.5
RETRY_S_MAX = 5.0


@dataclass(slots=True)
class Running:
    """What runs of a device. `attached`: UUID to the row as it was attached."""

    started: bool = False
    stopped: bool = False
    busy: bool = False
    retry_at: float = 0.0
    failures: int = 0
    failure: str = ""
    attached: dict[str, Unit] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)  # to be detached, though they are held
    again: set[str] = field(default_factory=set)  # to be detached, and attached anew


class Devices:
    """Of one card. `stopped` is called when a DELETING device runs no more."""

    def __init__(
        self, board: Board, mirrors: Mirrors, stopped: Callable[[DeviceRow], None]
    ) -> None:
        self._board = board
        self._mirrors = mirrors
        self._stopped = stopped
        self._running: dict[str, Running] = {}

    def is_complete(self, name: str) -> bool:
        """Whether all its namespaces are held, and attached."""
        run = self._running.get(name)
        return (
            run is not None
            and run.started
            and all(unit.uuid in run.attached for unit in self._board.units_of(name))
        )

    def is_attached(self, unit: Unit) -> bool:
        run = self._running.get(unit.device)
        return run is not None and unit.uuid in run.attached

    def failure(self, name: str) -> str:
        """Why it could not be started or completed last; "" when nothing is wrong."""
        run = self._running.get(name)
        return run.failure if run else ""

    def left(self) -> list[Unit]:
        """The namespaces that have been taken away, and are held still."""
        found: list[Unit] = []
        for run in self._running.values():
            for uuid in list(run.leaving):
                if uuid not in run.attached and not run.busy:
                    run.leaving.discard(uuid)
                    unit = self._board.mirrors.get(uuid) or self._board.holdings.get(uuid)
                    if unit is not None:
                        found.append(unit)
        return found

    def leave(self, unit: Unit) -> None:
        """Takes a namespace away, before it is released."""
        self._running.setdefault(unit.device, Running()).leaving.add(unit.uuid)
        self.act_on(unit.device)

    def reopen(self, unit: Unit) -> None:
        """Takes a namespace away, and gives it back as its row is then."""
        run = self._running.setdefault(unit.device, Running())
        if unit.uuid in run.attached:
            run.again.add(unit.uuid)
        self.act_on(unit.device)

    def tick(self) -> None:
        for name in list(self._board.devices):
            run = self._running.get(name)
            if run is not None and run.retry_at and run.retry_at <= self._board.now:
                run.retry_at = 0.0
                self.act_on(name)

    def act_on(self, name: str) -> None:
        """Takes the next step for one device, if there is one and nothing is under way."""
        row = self._board.devices.get(name)
        if row is None:
            self._running.pop(name, None)
            return
        run = self._running.setdefault(name, Running())
        if run.busy or run.retry_at > self._board.now:
            return
        if row.state is RowState.DELETING:
            if run.stopped:
                self._stopped(row)
            else:
                self._stop(row, run)
            return
        units = self._board.units_of(name)
        ready = [each for each in units if self._board.can_attach(each)]
        if row.state is RowState.MAKING and len(ready) < len(units):
            return
        if not run.started:
            self._begin(row, run, lambda op: StartDevice(op, row), self._noted(run))
            return
        self._fit(row, run, {each.uuid: each for each in units}, ready)

    def _fit(self, row: DeviceRow, run: Running, units: dict[str, Unit], ready: list[Unit]) -> None:
        for uuid, old in run.attached.items():
            new = units.get(uuid)
            going = uuid in run.leaving or uuid in run.again
            if new is None or going or _moved(old, new, new in ready):
                self._detach(row, run, old)
                return
            if old.size != new.size:
                self._refit(row, run, new)
                return
        for unit in ready:
            if unit.uuid not in run.attached and unit.uuid not in run.leaving:
                self._attach(row, run, unit)
                return

    def _stop(self, row: DeviceRow, run: Running) -> None:
        def stopped(_value: object, failure: Failure | None) -> None:
            if failure is None:
                run.stopped, run.started = True, False
                for uuid in run.attached:
                    self._mirrors.detached(uuid)
                run.attached.clear()

        self._begin(row, run, lambda op: StopDevice(op, row.name), stopped)

    def _attach(self, row: DeviceRow, run: Running, unit: Unit) -> None:
        def attached(_value: object, failure: Failure | None) -> None:
            if failure is None:
                run.attached[unit.uuid] = unit
            if failure is None and isinstance(unit, MirrorRow):
                self._mirrors.attached(unit.uuid)

        self._begin(row, run, lambda op: self._attachment(op, unit), attached)

    def _attachment(self, op: int, unit: Unit) -> Effect:
        if isinstance(unit, HoldingRow):
            return Attach(op, unit)
        counts = unit.in_sync()
        legs = tuple(
            self._board.holdings[leg.uuid] if number in counts else None
            for number, leg in enumerate(unit.legs)
        )
        return AttachMirror(op, unit, legs, unit.state is RowState.MAKING)

    def _detach(self, row: DeviceRow, run: Running, unit: Unit) -> None:
        def detached(_value: object, failure: Failure | None) -> None:
            if failure is None:
                run.attached.pop(unit.uuid, None)
                run.again.discard(unit.uuid)
                self._mirrors.detached(unit.uuid)
                self._board.dirty.add(unit.uuid)

        self._begin(row, run, lambda op: Detach(op, row.name, unit.uuid, unit.nsid), detached)

    def _refit(self, row: DeviceRow, run: Running, unit: Unit) -> None:
        def refitted(_value: object, failure: Failure | None) -> None:
            if failure is None:
                run.attached[unit.uuid] = unit

        self._begin(row, run, lambda op: Refit(op, unit), refitted)

    def _noted(self, run: Running) -> Then:
        def started(_value: object, failure: Failure | None) -> None:
            run.started = failure is None

        return started

    def _begin(
        self, row: DeviceRow, run: Running, make: Callable[[int], Effect], then: Then
    ) -> None:
        run.busy = True

        def done(value: object, failure: Failure | None) -> None:
            run.busy = False
            if failure is None:
                run.failures, run.failure, run.retry_at = 0, "", 0.0
            else:
                if failure.message != run.failure:
                    self._board.log(logging.WARNING, f"device {row.name}: {failure.message}")
                run.failure = failure.message
                run.failures += 1
                delay = min(RETRY_S * 2 ** min(run.failures - 1, 8), RETRY_S_MAX)
                run.retry_at = self._board.now + delay
            then(value, failure)
            self._board.dirty.add(row.name)

        self._board.begin(make, done)


def _moved(old: Unit, new: Unit, is_ready: bool) -> bool:
    """Whether it has to be opened anew: its giver has other addresses, or another epoch holds.

    What a mirror stands on changes while it runs.
    """
    if isinstance(old, HoldingRow) and isinstance(new, HoldingRow):
        was, now = (old.addresses, old.epoch), (new.addresses, new.epoch)
        return not is_ready or was != now or old.nsid != new.nsid
    return old.nsid != new.nsid
