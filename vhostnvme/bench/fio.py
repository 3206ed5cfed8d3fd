"""fio's command line and its answer, for the guest and for the host."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vhostnvme.bench.samples import Load, percentiles_that_tell
from vhostnvme.errors import GuestError

# fio's own list; its last is what a curve ends with.
PERCENTILE_LIST = "1:5:10:25:50:75:90:95:99:99.5:99.9:99.95:99.99"


@dataclass(frozen=True, slots=True)
class FioAnswer:
    """What one job said: after its ramp."""

    iops: float
    latency_us: dict[float, float]
    nr_ios: int


def fio_words(path: str, load: Load, *, seconds: float, ramp_s: float) -> list[str]:
    """One job on one file or device, without the page cache, with io_uring."""
    return [
        "fio",
        "--name=load",
        f"--filename={path}",
        f"--rw={load.rw}",
        f"--bs={load.block_size}",
        f"--iodepth={load.depth}",
        "--ioengine=io_uring",
        "--direct=1",
        "--thread=1",
        "--time_based=1",
        f"--ramp_time={round(ramp_s * 1000)}ms",
        f"--runtime={round(seconds * 1000)}ms",
        "--randrepeat=1",
        "--norandommap=1",
        # From submission, as `vhostnvme perf` counts.
        "--clat_percentiles=0",
        "--lat_percentiles=1",
        f"--percentile_list={PERCENTILE_LIST}",
        "--output-format=json",
    ]


def parse_fio(output: str, load: Load) -> FioAnswer:
    """Reads the JSON of one job.

    Raises:
        GuestError: it is none, or tells of an error or of no I/O.
    """
    try:
        job: dict[str, Any] = json.loads(output[output.index("{") :])["jobs"][0]
        side = job["write" if "write" in load.rw else "read"]
        answer = FioAnswer(
            iops=float(side["iops"]),
            latency_us=percentiles_that_tell(
                {
                    float(name): ns / 1000
                    for name, ns in side["lat_ns"].get("percentile", {}).items()
                },
                side["total_ios"],
            ),
            nr_ios=side["total_ios"],
        )
        error = job["error"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
        raise GuestError(f"fio's answer could not be read ({problem!r})") from None
    if error or not answer.nr_ios:
        raise GuestError(f"fio's {load.label} ended with error {error} after {answer.nr_ios} I/Os")
    return answer
