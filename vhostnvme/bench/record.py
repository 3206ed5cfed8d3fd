"""bench.json, a stable object that docs/cli.md describes: written, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vhostnvme.bench.samples import Case, Load, Results, Sample
from vhostnvme.errors import ConfigError

SCHEMA = "vhostnvme-bench"
# One more with each change that a reader of the file could notice, but for added keys.
SCHEMA_VERSION = 1


def to_record(results: Results, about: dict[str, Any]) -> dict[str, Any]:
    """The whole object; `about` holds what is not a result (`started`, `options`, `machine`)."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        **about,
        "results": [_row(results, case) for case in results.samples],
    }


def _row(results: Results, case: Case) -> dict[str, Any]:
    load = case.load
    best = results.best_peer(case) if case.is_ours else None
    iops = results.iops(case)
    return {
        "section": case.section,
        "backing": case.backing,
        "rw": load.rw,
        "block_size": load.block_size,
        "depth": load.depth,
        "devices": load.devices,
        "contestant": case.contestant,
        "iops": iops,
        "mb_per_s": iops * load.block_size / 1e6,
        "latency_us": {
            f"{each:g}": results.latency_us(case, each) for each in results.percentiles(case)
        },
        "cpu_s_per_10k": results.cpu(case),
        "server_cpu_s_per_10k": results.server_cpu(case),
        "ratio": results.ratio(case),
        "best_peer": best.contestant if best else None,
        "ratios": _ratios(results, case),
        "cpu_ratio": results.cpu_ratio(case),
        "samples": [
            {
                "iops": sample.iops,
                "latency_us": {f"{each:g}": us for each, us in sample.latency_us.items()},
                "cpu_s_per_10k": sample.cpu_s_per_10k,
                "server_cpu_s_per_10k": sample.server_cpu_s_per_10k,
            }
            for sample in results.samples[case]
        ],
    }


def _ratios(results: Results, case: Case) -> dict[str, float]:
    """Of a case of ours, to each peer by its name."""
    peers = results.peers(case) if case.is_ours else []
    return {
        peer.contestant: results.iops(case) / results.iops(peer)
        for peer in peers
        if results.iops(peer)
    }


def write(record: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n")


def from_record(record: dict[str, Any]) -> Results:
    """The samples of a bench.json.

    Raises:
        ConfigError: it is none, or of another version.
    """
    try:
        if record["schema"] != SCHEMA or record["schema_version"] != SCHEMA_VERSION:
            raise ConfigError(
                f"this is no bench.json of version {SCHEMA_VERSION}: run the benchmark again"
            )
        results = Results()
        for row in record["results"]:
            load = Load(row["rw"], row["block_size"], row["depth"], row["devices"])
            case = Case(row["section"], row["backing"], load, row["contestant"])
            for sample in row["samples"]:
                latency = {float(each): us for each, us in sample["latency_us"].items()}
                results.add(case, Sample(**{**sample, "latency_us": latency}))
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise ConfigError(f"this is no bench.json: {problem!r}") from None
    return results
