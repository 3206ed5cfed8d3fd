"""Scaling over devices: more and more of them in one server process, under one load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vhostnvme.bench.load import perf
from vhostnvme.bench.samples import OURS, Case, Load, Results, rotated
from vhostnvme.testing.many import ManyDevices

SECTION = "scaling"
DEVICES = (1, 2, 4, 8, 16, 32, 64)
REACTORS = (1, 2)
DEPTH = 8
BLOCK_BYTES = 4096
SPEC = "null:1G"


async def scale(
    folder: Path,
    *,
    rounds: int,
    seconds: float,
    results: Results,
    report: Callable[[str], None],
    devices: Sequence[int] = DEVICES,
) -> None:
    """Total IOPS of so many devices, with one reactor and with two.

    One thread drives them all: a thread for each would fight for the processors with the others.

    Raises:
        PeerError: the server or the load failed.
    """
    for turn in range(rounds):
        for place, count in enumerate(devices):
            load = Load("randread", BLOCK_BYTES, DEPTH, count)
            for reactors in rotated(REACTORS, turn + place):
                words = ["--reactors", str(reactors), "--disk", SPEC]
                with ManyDevices(count, folder / "many", words) as server:
                    sample = await perf(server.sockets, load, seconds=seconds)
                name = f"{OURS}, {reactors} reactor{'s'[: reactors - 1]}"
                results.add(Case(SECTION, "null", load, name), sample)
                report(
                    f"scaling: round {turn + 1}/{rounds} {count:2} devices,"
                    f" {reactors} reactors {sample.iops:11,.0f} IOPS"
                )
