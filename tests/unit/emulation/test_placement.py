"""Where devices are placed."""

from __future__ import annotations

from vhostnvme.emulation.placement import least_loaded


def test_new_devices_fill_the_reactors_evenly() -> None:
    homes: list[int] = []
    for _ in range(7):
        homes.append(least_loaded(3, homes))
    assert homes == [0, 1, 2, 0, 1, 2, 0]


def test_a_gap_is_filled_first() -> None:
    assert least_loaded(3, [0, 0, 2, 2, 1]) == 1
