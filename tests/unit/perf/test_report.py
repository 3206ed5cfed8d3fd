"""The JSON object of `vhostnvme perf`: docs/perf.md names every key, and there are no others."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vhostnvme.cli.perf import add_arguments, run
from vhostnvme.perf.load import run_load
from vhostnvme.perf.report import make_report, print_table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "perf.md"
ARGUMENTS: dict[str, Any] = {
    "targets": ["x"],
    "rw": "read",
    "rwmixread": 50,
    "bs": 4096,
    "qd": 1,
    "queues": 1,
    "nsid": 1,
    "seed": 1,
    "ceiling": None,
    "warmup": 0.0,
    "fill": False,
    "rate": 0,
    "verify": False,
    "histogram": False,
}
LATENCY = dict.fromkeys("nr min mean p50 p90 p99 p99_9 p99_99 max".split(), 0)
DEVICE: dict[str, Any] = dict.fromkeys(
    (
        "nr_reads nr_writes nr_errors nr_blocks lba_bytes doorbells_mapped shadow_doorbells"
        " server_pid"
    ).split(),
    0,
) | {"all": LATENCY}
ZERO: dict[str, Any] = dict.fromkeys(
    (
        "elapsed_ns nr_reads nr_writes bytes_read bytes_written nr_errors nr_verified"
        " nr_verify_errors verify_error_lba host_cpu_ns server_cpu_ns nr_doorbell_stores"
        " nr_doorbell_messages nr_interrupts nr_behind fill_bytes fill_ns memory_bytes nr_regions"
        " server_cpu_known stopped"
    ).split(),
    0,
) | {
    "statuses": {},
    "buckets": [],
    "devices": [DEVICE],
    "all": LATENCY,
    "reads": LATENCY,
    "writes": LATENCY,
}


def report_of(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["--ceiling", "inline", "--io-limit", "5000", *words])
    return make_report(args, run_load(args))


def keys_of(value: object, inside: str = "") -> Iterator[str]:
    if isinstance(value, dict) and inside not in ("statuses",):
        for key, item in value.items():
            yield key
            yield from keys_of(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item, inside)


def test_every_key_is_documented() -> None:
    words = "--fill --size 16M --rate 100000000 --histogram"
    documented = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    missing = set(keys_of(report_of(*words.split()))) - documented
    assert not missing, f"docs/perf.md does not say what these keys are: {sorted(missing)}"


def test_figures_agree_with_each_other() -> None:
    report = report_of("--rw", "rw", "--rwmixread", "25", "--bs", "8K", "--histogram")
    assert report["reads"] + report["writes"] == 5000
    assert report["iops"] == pytest.approx(5000 / report["seconds"])
    assert report["mb_per_s"] == pytest.approx(report["iops"] * 8192 / 1e6)
    assert report["bytes_read"] == report["reads"] * 8192
    assert report["cpu"]["server_cores"] is None and report["cpu"]["server_us_per_io"] is None
    (device,) = report["devices"]
    assert device["latency_ns"] == report["latency_ns"]["all"] and device["server_pid"] is None
    assert report["verify"] is None and report["fill"] is None and report["rate"] is None
    assert sum(count for _, count in report["histogram"]) == 5000
    json.dumps(report)


def test_a_run_that_did_nothing_divides_by_nothing() -> None:
    zero = make_report(argparse.Namespace(**ARGUMENTS), ZERO)
    assert zero["iops"] == 0 and zero["cpu"]["host_us_per_io"] == 0
    print_table(zero)


def test_the_table_says_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of("--rw", "randrw", "--fill", "--size", "16M", "--queues", "2")
    report["rate"] = {"iops": 1000, "behind": 12}
    report["errors"], report["statuses"] = 3, {"0/80": 3}
    report["verify"] = {"blocks": 5, "errors": 1, "first_error_lba": 77}
    report["devices"] = [{**report["devices"][0], "target": name} for name in ("/a", "/b")]
    print_table(report)
    text = capsys.readouterr().out
    for words in (
        "/a ",
        "/b ",
        "randrw 4K, depth 32, 2 queues, 2 devices: ceiling of the load generator (inline)",
        "filled 16,777,216 bytes",
        "12 commands were due",
        "3 commands failed",
        "the first at LBA 77",
    ):
        assert words in text


def test_a_command_that_has_just_become_due_is_no_missed_rate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = report_of()
    report["rate"] = {"iops": 1000, "behind": 2}
    print_table(report)
    assert "were due" not in capsys.readouterr().out


def test_the_exit_code_tells_failures(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["--ceiling", "inline", "--io-limit", "100", "--json"])
    assert run(args) == 0
    assert json.loads(capsys.readouterr().out)["reads"] == 100
