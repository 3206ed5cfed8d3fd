"""A guest with two copies of its disk, whose givers and SSDs die, hang, are cut off, and come back.

VHOSTNVME_RECOVERY_CYCLES=100 is the long test; VHOSTNVME_SEED repeats one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests_lab import traces
from tests_protocol import dice

from vhostnvme.testing.recovery.bed import BedPlan, make_bed
from vhostnvme.testing.recovery.cycles import PAUSE_S_MAX, run_cycles, summary

CYCLES = int(os.environ.get("VHOSTNVME_RECOVERY_CYCLES", "5"))


@pytest.mark.slow
@pytest.mark.timeout(300 + 90 * CYCLES)
async def test_a_guest_with_two_copies_goes_on_whatever_happens_to_one(disk_folder: Path) -> None:
    rng = dice("test_a_guest_with_two_copies_goes_on_whatever_happens_to_one")
    folder = disk_folder / "recovery"
    async with make_bed(folder, BedPlan()) as bed:
        try:
            done = await run_cycles(bed, CYCLES, rng, tell=print)
        except BaseException:
            print(bed.evidence())  # noqa: T201
            raise
    print(summary(done))  # noqa: T201
    over = [str(cycle) for cycle in done if not cycle.in_bound]
    assert not over, f"the guest waited for more than {PAUSE_S_MAX} s: {over}"
    assert all(cycle.load.checked_bytes for cycle in done)
    assert traces(folder / "lab") == []
