"""How long the first command takes after an idle time, on a server of its own.

`python -m vhostnvme.testing.idle [--doorbells mapped|trapped]... [--seconds S]`

A host that polls reads 4 KiB at depth 1, at even intervals of 1 ms to 1/3 s, and without a
pause for comparison. The intervals are no multiples of the millisecond, by whose grid the server
looks: each read meets it at another moment. Prints one JSON object a line: `doorbells`, `idle_ms`
(0: no pause), `commands`, and `min_us`, `p50_us`, `p99_us` and `max_us` of their latency. A mapped
doorbell is found by a look, half a millisecond late on average and one at worst; a trapped one
wakes us.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vhostnvme.native.perf import perf_run
from vhostnvme.testing.many import ManyDevices

RATES = (0, 997, 97, 11, 3)  # a second; 0: no pause
_LOAD = {"block_bytes": 4096, "depth": 1, "nr_queues": 1, "nsid": 1, "read_percent": 100, "seed": 1}


def measure(socket: Path, rate: int, seconds: float) -> dict[str, Any]:
    """One line of the output, but for `doorbells`."""
    options = _LOAD | {"time_ms": round(seconds * 1000), "rate_iops": rate, "shadow": 1}
    result = perf_run([socket], "randread", options)
    latency = result["all"]
    microseconds = {f"{name}_us": latency[name] / 1000 for name in ("min", "p50", "p99", "max")}
    idle_ms = round(1000 / rate, 1) if rate else 0
    return {"idle_ms": idle_ms, "commands": latency["nr"]} | microseconds


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="idle", description=main.__doc__)
    parser.add_argument("--doorbells", action="append", choices=["mapped", "trapped"])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each idle time, at least")
    options = parser.parse_args(argv)
    for doorbells in options.doorbells or ["mapped", "trapped"]:
        with (
            tempfile.TemporaryDirectory(prefix="vhostnvme-") as folder,
            ManyDevices(1, Path(folder) / "m", ["--doorbells", doorbells]) as server,
        ):
            for rate in RATES:
                line = {"doorbells": doorbells}
                line |= measure(server.sockets[0], rate, options.seconds)
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
