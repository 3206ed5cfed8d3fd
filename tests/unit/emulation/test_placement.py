"""Where devices are placed, and which one moves when the loads have become uneven."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vhostnvme.emulation.placement import (
    CROWDED_CORES,
    REST_S,
    DeviceLoad,
    Move,
    Placement,
    best_move,
    choose_reactor,
    device_loads,
)
from vhostnvme.errors import NativeError


def test_new_devices_fill_idle_reactors_evenly() -> None:
    homes: list[int] = []
    for _ in range(7):
        homes.append(choose_reactor([0.0, 0.04, 0.0], homes))
    assert homes == [0, 1, 2, 0, 1, 2, 0]


def test_a_new_device_goes_where_least_is_done() -> None:
    assert choose_reactor([0.9, 0.3, 0.6], [0, 1, 1, 1, 2]) == 1
    assert choose_reactor([0.31, 0.28, 0.9], [1, 1, 0, 2]) == 0  # as good as even: by number


def test_a_reactor_s_load_is_shared_out_by_commands() -> None:
    loads = device_loads([0.8, 0.5], {1: 0, 2: 0, 3: 1, 4: 1}, {1: 300, 2: 100, 3: 0})
    assert [round(load.cores, 3) for load in loads] == [0.6, 0.2, 0.0, 0.0]
    assert [load.reactor for load in loads] == [0, 0, 1, 1]


def test_the_device_moves_that_leaves_both_most_even() -> None:
    loads = [DeviceLoad(number, 0, cores) for number, cores in enumerate([0.5, 0.3, 0.2])]
    assert best_move([1.0, 0.0], loads) == Move(0, 1)
    assert best_move([1.0, 0.3], loads) == Move(1, 1)
    assert best_move([1.0, 0.7, 0.1], [*loads, DeviceLoad(9, 1, 0.7)]) == Move(0, 2)


def test_nothing_moves_for_little() -> None:
    assert best_move([1.0, 0.0], [DeviceLoad(1, 0, 1.0)]) is None  # alone, wherever it is
    assert best_move([0.6, 0.5], [DeviceLoad(1, 0, 0.3), DeviceLoad(2, 0, 0.3)]) is None
    assert best_move([1.0, 0.95], [DeviceLoad(1, 0, 0.04), DeviceLoad(2, 0, 0.96)]) is None
    assert best_move([0.9, 0.0], []) is None


@dataclass
class FakeDevice:
    id: int
    reactor: int
    commands: int = 0
    fixed: int | None = None
    stuck: bool = False
    socket: Path = Path("/run/cntrl")
    infos: int = 0

    @property
    def is_fixed(self) -> bool:
        return self.fixed is not None

    def info(self) -> Any:
        self.infos += 1
        return SimpleNamespace(commands=self.commands)

    def move(self, reactor: int) -> None:
        if self.stuck:
            raise NativeError(errno.EBUSY, "it stays")
        self.reactor = reactor


@dataclass
class Bench:
    """Devices on two reactors of a time of our own; `work` says how busy a second was."""

    devices: list[FakeDevice]
    now_s: float = 0.0
    cpu_ns: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        stats = SimpleNamespace(
            reactors=2, controllers=self.devices, targets=[], reactor_stats=self.stats
        )
        self.placement = Placement(stats)  # type: ignore[arg-type]
        self.placement.step([], 0.0)

    def stats(self, reactor: int) -> Any:
        return SimpleNamespace(cpu_ns=self.cpu_ns[reactor])

    def second(self, cores: list[float], commands: list[int]) -> Move | None:
        self.now_s += 1
        for reactor, share in enumerate(cores):
            self.cpu_ns[reactor] += round(share * 1e9)
        for device, count in zip(self.devices, commands, strict=True):
            device.commands += count
        return self.placement.step(self.devices, self.now_s)  # type: ignore[arg-type]


def test_two_busy_devices_are_parted_on_the_second_look() -> None:
    bench = Bench([FakeDevice(1, 0), FakeDevice(2, 1), FakeDevice(3, 0)])
    assert bench.second([1.0, 0.0], [500, 0, 400]) is None  # nothing to compare with
    assert bench.second([1.0, 0.0], [500, 0, 400]) == Move(1, 1)
    assert [device.reactor for device in bench.devices] == [1, 1, 0]
    assert bench.second([0.5, 0.6], [500, 0, 400]) is None
    assert bench.placement.choose() == 0


def test_who_has_moved_rests() -> None:
    bench = Bench([FakeDevice(1, 0), FakeDevice(2, 0)])
    bench.second([1.0, 0.0], [500, 500])
    moved = bench.second([1.0, 0.0], [500, 500])
    assert moved is not None
    other = 3 - moved.id
    assert bench.second([0.0, 1.0], [500, 500]) is None  # as if it were too much there
    while bench.now_s < REST_S:
        bench.devices[other - 1].reactor = 1
        move = bench.second([0.0, 1.0], [500, 500])
        assert move is None or move.id == other


def test_with_room_for_all_nobody_is_asked() -> None:
    bench = Bench([FakeDevice(1, 0), FakeDevice(2, 0)])
    for _ in range(3):
        assert bench.second([CROWDED_CORES - 0.01, 0.0], [500, 500]) is None
    assert [device.infos for device in bench.devices] == [0, 0]


def test_those_with_a_reactor_of_their_own_and_those_that_cannot_stay() -> None:
    bench = Bench([FakeDevice(1, 0, fixed=0), FakeDevice(2, 0, stuck=True)])
    bench.second([1.0, 0.0], [500, 500])
    assert bench.second([1.0, 0.0], [500, 500]) is None
    assert [device.reactor for device in bench.devices] == [0, 0]
    tried = bench.devices[1].infos
    assert bench.second([1.0, 0.0], [500, 500]) is None  # not again at once
    assert bench.devices[1].infos == tried + 1
