"""Which reactor a device lives on: chosen when it is made, changed when loads have become uneven.

Loads are in cores: a reactor that never sleeps has 1.0, and a device has the share of its reactor's
load that its commands are of all commands there. `choose_reactor` and `best_move` are pure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostnvme.errors import NativeError
from vhostnvme.native import Runtime

if TYPE_CHECKING:
    from vhostnvme.emulation.device import Device

_log = logging.getLogger(__name__)

INTERVAL_S = 1.0
# Below that a reactor has room for all that it has: nothing is measured, nothing moved.
CROWDED_CORES = 0.3
# The busiest reactor must gain that much, else the pause of a move is not worth it.
GAIN_CORES_MIN = 0.15
# Who has moved stays for so long, so that a load that jumps about is not run after.
REST_S = 10.0


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """What a device costs."""

    id: int
    reactor: int
    cores: float


@dataclass(frozen=True, slots=True)
class Move:
    id: int
    reactor: int


def choose_reactor(cores: Sequence[float], homes: Sequence[int]) -> int:
    """The home of a new device: where least is done, in tenths of a core; then: fewest devices."""
    return min(
        range(len(cores)), key=lambda reactor: (round(cores[reactor], 1), homes.count(reactor))
    )


def best_move(cores: Sequence[float], devices: Sequence[DeviceLoad]) -> Move | None:
    """The move that relieves the busiest reactor most, or None when none is worth it."""
    busiest = max(range(len(cores)), key=lambda reactor: cores[reactor])
    idlest = min(range(len(cores)), key=lambda reactor: cores[reactor])
    best, best_peak = None, cores[busiest] - GAIN_CORES_MIN
    for device in devices:
        if device.reactor != busiest:
            continue
        peak = max(cores[busiest] - device.cores, cores[idlest] + device.cores)
        if peak < best_peak:
            best, best_peak = Move(device.id, idlest), peak
    return best


def device_loads(
    cores: Sequence[float], homes: Mapping[int, int], commands: Mapping[int, int]
) -> list[DeviceLoad]:
    """Shares out each reactor's load over the devices on it (id to home), by their commands."""
    totals = [0] * len(cores)
    for number, count in commands.items():
        totals[homes[number]] += count
    return [
        DeviceLoad(number, home, cores[home] * commands.get(number, 0) / max(totals[home], 1))
        for number, home in homes.items()
    ]


class Placement:
    """The decisions for one runtime: its measurements, and what follows from them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._cores = [0.0] * runtime.reactors
        self._cpu_ns = [0] * runtime.reactors
        self._commands: dict[int, int] = {}
        self._moved_s: dict[int, float] = {}
        self._measured_s = time.monotonic()

    def choose(self) -> int:
        """The reactor for a new controller or target."""
        homes = [each.reactor for each in self._runtime.controllers]
        homes += [each.reactor for each in self._runtime.targets]
        return choose_reactor(self._cores, homes)

    async def run(self, devices: Sequence[Device]) -> None:
        """Looks at the loads each second, until it is cancelled; `devices` may change meanwhile."""
        while self._runtime.reactors > 1:
            await asyncio.sleep(INTERVAL_S)
            self.step(devices, time.monotonic())

    def step(self, devices: Sequence[Device], now_s: float) -> Move | None:
        """One look; at most one device moves, which blocks until its commands in flight end."""
        self._measure_reactors(now_s)
        if max(self._cores) < CROWDED_CORES:
            self._commands.clear()
            return None
        by_id = {device.id: device for device in devices}
        move = best_move(self._cores, self._measure_devices(by_id, now_s))
        if move is None:
            return None
        device = by_id[move.id]
        self._moved_s[move.id] = now_s  # also when it fails: not again at once
        try:
            device.move(move.reactor)
        except NativeError as error:
            _log.debug("%s: %s", device.socket, error)
            return None
        _log.debug("%s: moved to reactor %d", device.socket, move.reactor)
        return move

    def _measure_reactors(self, now_s: float) -> None:
        elapsed_ns = max(now_s - self._measured_s, 0.001) * 1e9
        self._measured_s = now_s
        for reactor in range(self._runtime.reactors):
            cpu_ns = self._runtime.reactor_stats(reactor).cpu_ns
            self._cores[reactor] = (cpu_ns - self._cpu_ns[reactor]) / elapsed_ns
            self._cpu_ns[reactor] = cpu_ns

    def _measure_devices(self, by_id: Mapping[int, Device], now_s: float) -> list[DeviceLoad]:
        """The load of each since the last look; none when that was not just before."""
        before, self._commands = self._commands, {}
        done: dict[int, int] = {}
        for number, device in by_id.items():
            count = self._commands[number] = device.info().commands
            done[number] = count - before.get(number, count)
        homes = {number: device.reactor for number, device in by_id.items()}
        for target in self._runtime.targets:  # they stay, and what they do is no device's load
            count = self._commands[target.id] = target.info().commands
            done[target.id] = count - before.get(target.id, count)
            homes[target.id] = target.reactor
        self._moved_s = {
            number: moved for number, moved in self._moved_s.items() if now_s - moved < REST_S
        }
        fixed = {number for number, device in by_id.items() if device.is_fixed}
        fixed |= {target.id for target in self._runtime.targets}
        return [
            load
            for load in device_loads(self._cores, homes, done)
            if load.id not in fixed and load.id not in self._moved_s
        ]
