"""Scaling over devices: more and more hosts, each with a device of one server process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vhostnvme.bench.samples import OURS, Case, Load, Results, Sample, median, rotated
from vhostnvme.native.perf import perf_run, perf_stop
from vhostnvme.testing.many import ManyDevices

SECTION = "scaling"
DEVICES = (1, 2, 4, 8, 16, 32, 64)
REACTORS = (1, 2)
DEPTH = 8
BLOCK_BYTES = 4096
SPEC = "null:1G"
# Every host is connected and at work before anything is counted.
RAMP_S = 0.5
RAMP_PER_DEVICE_S = 0.01


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

    The hosts sleep until their interrupt comes: 64 that poll would only fight for the processors.

    Raises:
        PeerError, NativeError: the server or a load failed.
    """
    for turn in range(rounds):
        for place, count in enumerate(devices):
            for reactors in rotated(REACTORS, turn + place):
                sample = await measure(folder, count, reactors, seconds)
                load = Load("randread", BLOCK_BYTES, DEPTH, count)
                name = f"{OURS}, {reactors} reactor{'s'[: reactors - 1]}"
                results.add(Case(SECTION, "null", load, name), sample)
                report(
                    f"scaling: round {turn + 1}/{rounds} {count:2} devices,"
                    f" {reactors} reactors {sample.iops:11,.0f} IOPS"
                )


async def measure(folder: Path, count: int, reactors: int, seconds: float) -> Sample:
    """One server with `count` devices, a thread for each host."""
    options = {
        "block_bytes": BLOCK_BYTES,
        "depth": DEPTH,
        "nr_queues": 1,
        "nsid": 1,
        "time_ms": round(seconds * 1000),
        "ramp_ms": round((RAMP_S + RAMP_PER_DEVICE_S * count) * 1000),
        "irq": 1,
    }
    arguments = ["--reactors", str(reactors), "--disk", SPEC]
    with ManyDevices(count, folder / "many", arguments) as server:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(count) as threads:
            runs = [
                loop.run_in_executor(
                    threads,
                    perf_run,
                    [socket],
                    "randread",
                    {**options, "seed": index},
                )
                for index, socket in enumerate(server.sockets, 1)
            ]
            try:
                answers = await asyncio.gather(*runs)
            finally:
                perf_stop()  # a failed or cancelled run ends the others
    return total_of(answers)


def total_of(answers: Sequence[dict[str, Any]]) -> Sample:
    """All hosts together; latencies are those of the median host."""
    iops = sum(answer["nr_reads"] / answer["elapsed_ns"] * 1e9 for answer in answers)
    names = {50.0: "p50", 99.0: "p99", 99.9: "p99_9"}
    # Each host saw the whole server over nearly the same interval.
    server = median(answer["server_cpu_ns"] / answer["elapsed_ns"] for answer in answers)
    hosts = sum(answer["host_cpu_ns"] / answer["elapsed_ns"] for answer in answers)
    return Sample(
        iops=iops,
        latency_us={
            each: median(answer["all"][name] / 1000 for answer in answers)
            for each, name in names.items()
        },
        cpu_s_per_10k=(server + hosts) / iops * 10_000,
        server_cpu_s_per_10k=server / iops * 10_000,
    )
