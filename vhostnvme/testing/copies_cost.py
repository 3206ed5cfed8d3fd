"""What two copies cost, beside one: real cards on this machine, in turns, in one run.

`python -m vhostnvme.testing.copies_cost [--folder DIR] [--size 256M] [--seconds 2] [--rounds 5]`

Three devices of card a: `local` (one copy, on card a), `remote` (one copy, on card b), `two` (a
copy on each). Prints one JSON object: `iops` of each device by shape (median over the rounds),
`ratios` of `two` by shape (writes to the single remote copy, which the slower one of the two is;
reads to the single local one), and `rebuild`: the bytes a second of a copy that is brought up to
date whole, beside what a sequential write to that card and a read of the other one come to with 256
KiB at depth 4, and its share of the slower of these.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vhostnvme.control.card import CreatedDevice
from vhostnvme.testing.cards import CardPlan, Cards
from vhostnvme.units import parse_size

DEPTHS = (1, 32)
DEVICES = {"local": ("a", 1), "remote": ("b", 1), "two": ("auto", 2)}
LOOK_S = 0.01
QUIET_S = 12.0  # by then what was written is known to be the same on both


def measure(folder: Path | None, size: int, seconds: float, rounds: int) -> dict[str, Any]:
    """See the module.

    Raises:
        VhostNvmeError: a card did not start, or refused.
    """
    plan = CardPlan(ssd_bytes=4 * size, ttl_s=10.0)
    with Cards(2, plan, folder) as cards:
        devices = {
            name: cards["a"].create_device(name, size, placement=where, copies=copies)
            for name, (where, copies) in DEVICES.items()
        }
        for device in devices.values():
            perf(device.socket, "--rw", "write", "--bs", "256k", "--fill", "--io-limit", "1")
        time.sleep(QUIET_S)
        found: dict[str, list[float]] = {}
        for rw in ("randread", "randwrite"):
            for _ in range(rounds):
                for depth in DEPTHS:
                    for name, device in devices.items():
                        words = ("--rw", rw, "--qd", str(depth), "--time", str(seconds))
                        report = perf(device.socket, *words, "--warmup", "0.3")
                        found.setdefault(f"{rw} {depth} {name}", []).append(report["iops"])
        iops = {name: round(statistics.median(values)) for name, values in found.items()}
        ratios = {}
        for rw, base in (("randread", "local"), ("randwrite", "remote")):
            for depth in DEPTHS:
                shape = f"{rw} {depth}"
                pairs = zip(found[f"{shape} two"], found[f"{shape} {base}"], strict=True)
                ratios[shape] = round(statistics.median(two / one for two, one in pairs), 3)
        rebuilds = [rebuild(cards, devices, size, seconds) for _ in range(rounds)]
        shares = [each["share"] for each in rebuilds]
        best = rebuilds[shares.index(statistics.median_low(shares))]
        return {"iops": iops, "ratios": ratios, "rebuild": best}


def perf(socket: str, *words: str) -> dict[str, Any]:
    """The report of a load on a device."""
    done = subprocess.run(
        [sys.executable, "-m", "vhostnvme", "perf", socket, *words, "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def rebuild(
    cards: Cards, devices: dict[str, CreatedDevice], size: int, seconds: float
) -> dict[str, Any]:
    """A namespace moves from card a to card b and back: how fast that is, and could be."""
    words = ("--bs", "256k", "--qd", "4", "--time", str(seconds))
    write = perf(devices["remote"].socket, "--rw", "write", *words)["iops"] * (256 << 10)
    read = perf(devices["local"].socket, "--rw", "read", *words)["iops"] * (256 << 10)
    perf(devices["local"].socket, "--rw", "write", "--bs", "256k", "--fill", "--io-limit", "1")
    uuid = devices["local"].namespaces[0].uuid

    def is_on(card: str) -> bool:
        (one,) = cards["a"].show_device(devices["local"].device).namespaces
        return [copy.card for copy in one.copies] == [card]

    begun = time.monotonic()
    cards["a"].move_namespace(uuid, "b")
    while not is_on("b"):
        time.sleep(LOOK_S)
    took_s = time.monotonic() - begun
    cards["a"].move_namespace(uuid, "a")
    cards.wait(lambda: is_on("a"), "it is back", 120.0)
    could = min(write, read)
    return {
        "bytes_per_s": round(size / took_s),
        "write_bytes_per_s": round(write),
        "read_bytes_per_s": round(read),
        "share": round(size / took_s / could, 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What two copies cost, beside one.")
    parser.add_argument("--folder", type=Path, help="for the SSDs (default: a temporary one)")
    parser.add_argument("--size", type=parse_size, default=256 << 20)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    print(json.dumps(measure(args.folder, args.size, args.seconds, args.rounds), indent=2))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
