"""`vhostnvme serve` and `vhostnvme perf` as processes, as a user starts them."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from vhostnvme.bench.processes import daemon, output_of
from vhostnvme.bench.samples import Load, Sample, percentiles_that_tell
from vhostnvme.errors import PeerError

PROGRAM = (sys.executable, "-m", "vhostnvme")
PERF_RAMP_S = 0.3
# perf's names of percentiles.
PERCENTILE_NAMES = {50.0: "p50", 90.0: "p90", 99.0: "p99", 99.9: "p99_9", 99.99: "p99_99"}


@asynccontextmanager
async def server(
    folder: Path, name: str, spec: str, options: Sequence[str] = ()
) -> AsyncIterator[Path]:
    """A server with one namespace, in a process of its own; gives its socket.

    Raises:
        PeerError: it did not start.
    """
    socket = folder / name / "cntrl"
    words = [*PROGRAM, "serve", "--socket", str(socket), "--namespace", spec]
    words += ["--ready-fd", "{ready_fd}", *options]
    async with daemon(words, what=f"vhostnvme serve ({spec})", log=folder / f"{name}.log"):
        yield socket


async def perf(
    targets: Sequence[Path | str], load: Load, *, seconds: float, ramp_s: float = PERF_RAMP_S
) -> Sample:
    """One run of the load generator: one thread that polls all of these devices.

    Raises:
        PeerError: a server refused or failed a command.
    """
    answer = await _perf(
        targets,
        *("--rw", load.rw, "--bs", str(load.block_size), "--qd", str(load.depth)),
        *("--time", f"{seconds:g}", "--warmup", f"{ramp_s:g}"),
        timeout_s=60 + 4 * seconds,
    )
    return sample_of(answer)


def sample_of(answer: dict[str, Any]) -> Sample:
    """A sample from perf's JSON object.

    Raises:
        PeerError: no command was sent and completed in time.
    """
    if not answer["iops"]:
        raise PeerError("vhostnvme perf completed no command: measure for more --seconds")
    latency = answer["latency_ns"]["all"]
    percentiles = {each: latency[name] / 1000 for each, name in PERCENTILE_NAMES.items()}
    server_cores = answer["cpu"]["server_cores"]
    seconds_per_10k = 10_000 / answer["iops"]
    return Sample(
        iops=answer["iops"],
        latency_us=percentiles_that_tell(percentiles, latency["count"]),
        cpu_s_per_10k=(answer["cpu"]["host_cores"] + (server_cores or 0)) * seconds_per_10k,
        server_cpu_s_per_10k=None if server_cores is None else server_cores * seconds_per_10k,
    )


async def fill(socket: Path) -> None:
    """Writes the namespace once from end to end: memory that nobody wrote is not there yet.

    Raises:
        PeerError: a write failed.
    """
    await _perf([socket], "--fill", "--io-limit", "1", timeout_s=120)


async def _perf(targets: Sequence[Path | str], *words: str, timeout_s: float) -> dict[str, Any]:
    out, _ = await output_of(
        [*PROGRAM, "perf", *map(str, targets), *words, "--json"],
        what="vhostnvme perf",
        timeout_s=timeout_s,
    )
    answer: dict[str, Any] = json.loads(out)
    if answer["errors"]:
        raise PeerError(f"vhostnvme perf met {answer['errors']} errors: {answer['statuses']}")
    return answer
