"""The devices of a card as they run: started, their namespaces attached and detached, stopped.

One effect is under way for a device at a time. The rows say what shall be; what runs is known here
only, and begins from nothing with each life of the card.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from vhostnvme.cluster.board import Board, Then
from vhostnvme.cluster.messages import (
    Attach,
    Detach,
    Effect,
    Failure,
    Refit,
    StartDevice,
    StopDevice,
)
from vhostnvme.cluster.rows import DeviceRow, HoldingRow, HoldingState, RowState

RETRY_S = 0.5
RETRY_S_MAX = 5.0


@dataclass(slots=True)
class Running:
    """What runs of a device. `attached`: UUID to the holding as it was attached."""

    started: bool = False
    stopped: bool = False
    busy: bool = False
    retry_at: float = 0.0
    failures: int = 0
    failure: str = ""
    attached: dict[str, HoldingRow] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)  # to be detached, though they are held


class Devices:
    """Of one card. `stopped` is called when a DELETING device runs no more."""

    def __init__(self, board: Board, stopped: Callable[[DeviceRow], None]) -> None:
        self._board = board
        self._stopped = stopped
        self._running: dict[str, Running] = {}

    def is_complete(self, name: str) -> bool:
        """Whether all its namespaces are held, and attached."""
        run = self._running.get(name)
        return (
            run is not None
            and run.started
            and all(row.uuid in run.attached for row in self._board.holdings_of(name))
        )

    def is_attached(self, row: HoldingRow) -> bool:
        run = self._running.get(row.device)
        return run is not None and row.uuid in run.attached

    def failure(self, name: str) -> str:
        """Why it could not be started or completed last; "" when nothing is wrong."""
        run = self._running.get(name)
        return run.failure if run else ""

    def left(self) -> list[HoldingRow]:
        """The namespaces that have been taken away, and are held still."""
        found = []
        for run in self._running.values():
            for uuid in list(run.leaving):
                if uuid not in run.attached and not run.busy:
                    run.leaving.discard(uuid)
                    if uuid in self._board.holdings:
                        found.append(self._board.holdings[uuid])
        return found

    def leave(self, row: HoldingRow) -> None:
        """Takes a namespace away, before it is released."""
        self._running.setdefault(row.device, Running()).leaving.add(row.uuid)
        self.act_on(row.device)

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
        holdings = self._board.holdings_of(name)
        held = [each for each in holdings if each.state is HoldingState.HELD]
        if row.state is RowState.MAKING and len(held) < len(holdings):
            return
        if not run.started:
            self._begin(row, run, lambda op: StartDevice(op, row), self._noted(run))
            return
        self._fit(row, run, {each.uuid: each for each in held})

    def _fit(self, row: DeviceRow, run: Running, held: dict[str, HoldingRow]) -> None:
        for uuid, old in run.attached.items():
            new = held.get(uuid)
            if new is None or uuid in run.leaving or _moved(old, new):
                self._detach(row, run, old)
                return
            if old.size != new.size:
                self._refit(row, run, new)
                return
        for uuid, holding in held.items():
            if uuid not in run.attached and uuid not in run.leaving:
                self._attach(row, run, holding)
                return

    def _stop(self, row: DeviceRow, run: Running) -> None:
        def stopped(_value: object, failure: Failure | None) -> None:
            if failure is None:
                run.stopped, run.started = True, False
                run.attached.clear()

        self._begin(row, run, lambda op: StopDevice(op, row.name), stopped)

    def _attach(self, row: DeviceRow, run: Running, holding: HoldingRow) -> None:
        def attached(_value: object, failure: Failure | None) -> None:
            if failure is None:
                run.attached[holding.uuid] = holding

        self._begin(row, run, lambda op: Attach(op, holding), attached)

    def _detach(self, row: DeviceRow, run: Running, holding: HoldingRow) -> None:
        def detached(_value: object, failure: Failure | None) -> None:
            if failure is None:
                run.attached.pop(holding.uuid, None)
                self._board.dirty.add(holding.uuid)

        self._begin(row, run, lambda op: Detach(op, row.name, holding.uuid, holding.nsid), detached)

    def _refit(self, row: DeviceRow, run: Running, holding: HoldingRow) -> None:
        def refitted(_value: object, failure: Failure | None) -> None:
            if failure is None:
                run.attached[holding.uuid] = holding

        self._begin(row, run, lambda op: Refit(op, holding), refitted)

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


def _moved(old: HoldingRow, new: HoldingRow) -> bool:
    """Whether it has to be opened anew: its giver has other addresses, or another epoch holds."""
    return (old.addresses, old.epoch, old.nsid) != (new.addresses, new.epoch, new.nsid)
