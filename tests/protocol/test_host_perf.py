"""The load generator against our server: it counts right, verifies, and reports failures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vhostnvme.errors import NativeError
from vhostnvme.native.perf import perf_run
from vhostnvme.testing import NvmeHost
from vhostnvme.testing.server import ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    namespaces = ["mem:64M", "mem:16M?error=20%", "mem:16M?delay=2ms"]
    with ServerProcess(namespaces) as running:
        yield running


DEFAULTS = {"block_bytes": 4096, "depth": 16, "nr_queues": 1, "nsid": 1, "read_percent": 50}


def load(server: ServerProcess, pattern: str, **options: int) -> dict[str, Any]:
    return perf_run([server.socket], pattern, DEFAULTS | {"seed": 1, "nr_ios": 2000} | options)


@pytest.mark.parametrize("pattern", ["read", "write", "rw", "randread", "randwrite", "randrw"])
@pytest.mark.parametrize("queues", [1, 3])
def test_it_does_exactly_what_was_asked(server: ServerProcess, pattern: str, queues: int) -> None:
    result = load(server, pattern, nr_queues=queues, verify=1)
    assert result["nr_reads"] + result["nr_writes"] == 2000
    assert result["bytes_read"] == result["nr_reads"] * 4096
    assert result["nr_errors"] == 0 and result["nr_verify_errors"] == 0
    if pattern.endswith("read"):
        assert result["nr_writes"] == 0
    elif pattern.endswith("write"):
        assert result["nr_reads"] == 0
    else:
        assert 800 < result["nr_reads"] < 1200
    latency = result["all"]
    order = [latency[name] for name in ("min", "p50", "p90", "p99", "p99_9", "p99_99", "max")]
    assert order == sorted(order) and latency["nr"] == 2000
    assert result["devices"][0]["server_pid"] == server.process.pid and result["server_cpu_known"]


def test_a_server_whose_io_the_kernel_submits(tmp_path: Path) -> None:
    disk = f"file:{tmp_path / 'disk'}?size=16M"
    with ServerProcess([disk], options=["--sqpoll"]) as server:
        for depth in (1, 64):
            options = {"block_bytes": 4096, "depth": depth, "verify": 1}
            result = load(server, "randrw", **options, nr_ios=500)
            assert result["nr_reads"] + result["nr_writes"] == 500
            assert result["nr_errors"] == 0 and result["nr_verify_errors"] == 0


@pytest.mark.parametrize("block_bytes", [512, 1536, 12800, 131072, 1 << 20])
def test_verification_at_every_size(server: ServerProcess, block_bytes: int) -> None:
    result = load(
        server, "randrw", block_bytes=block_bytes, depth=8, verify=1, nr_ios=600, lba_count=32768
    )
    assert result["nr_verified"] > 0 and result["nr_verify_errors"] == 0


def test_time_ramp_and_rate(server: ServerProcess) -> None:
    result = load(server, "randread", nr_ios=0, time_ms=300, ramp_ms=100, rate_iops=2000)
    assert 0.29e9 < result["elapsed_ns"] < 2e9
    assert 0 < result["nr_reads"] < result["elapsed_ns"] / 1e9 * 2000 + 100


def test_a_rate_limit_counts_the_time_in_which_a_command_could_not_be_sent(
    server: ServerProcess,
) -> None:
    # 100 commands of at least 2 ms, one at a time, each due 1 ms after the one before: the last is
    # due after 99 ms and done after 200.
    result = load(server, "read", nsid=3, depth=1, nr_ios=100, rate_iops=1000)
    assert result["all"]["nr"] == 100
    assert result["all"]["max"] >= 100e6
    assert result["all"]["p50"] >= 50e6


def test_a_rate_that_is_not_reached_is_told(server: ServerProcess) -> None:
    options = {"nsid": 3, "depth": 1, "nr_ios": 0, "time_ms": 100, "rate_iops": 10_000}
    result = load(server, "read", **options)
    assert result["nr_behind"] >= 900


def test_after_a_fill_every_read_finds_data(server: ServerProcess) -> None:
    options = {"verify": 1, "range_bytes": 8 << 20, "nr_queues": 2}
    result = load(server, "randread", fill=1, **options)
    assert result["fill_bytes"] == 8 << 20
    assert result["nr_reads"] == 2000 and result["nr_writes"] == 0
    assert result["nr_verified"] == 2000 * 8 and result["nr_verify_errors"] == 0


def test_a_fill_that_fails_ends_the_run(server: ServerProcess) -> None:
    with pytest.raises(NativeError, match=r"filling failed: .* write at block"):
        load(server, "randread", fill=1, nsid=2)


def test_memory_in_many_regions(server: ServerProcess) -> None:
    options = {"verify": 1, "region_bytes": 2 << 20, "block_bytes": 12800, "lba_count": 32768}
    result = load(server, "randrw", **options)
    assert result["nr_regions"] == 32 and result["memory_bytes"] == 64 << 20
    assert result["nr_verified"] > 0 and result["nr_verify_errors"] == 0


def test_more_regions_than_the_server_takes(server: ServerProcess) -> None:
    with pytest.raises(NativeError, match=r"the server took [0-9]+ regions of memory and refused"):
        load(server, "read", region_bytes=4096, memory_bytes=1 << 30)


def test_several_devices_in_one_run(server: ServerProcess) -> None:
    with ServerProcess(["mem:16M"]) as other:
        options = DEFAULTS | {"seed": 1, "nr_ios": 3000, "nr_queues": 2, "verify": 1}
        result = perf_run([server.socket, other.socket], "randrw", options)
        first, second = result["devices"]
        assert (first["server_pid"], second["server_pid"]) == (
            server.process.pid,
            other.process.pid,
        )
        assert first["nr_blocks"] == 64 << 11 and second["nr_blocks"] == 16 << 11
        for name in ("nr_reads", "nr_writes"):
            assert first[name] > 0 and second[name] > 0
            assert first[name] + second[name] == result[name]
        assert result["nr_reads"] + result["nr_writes"] == 3000 and result["nr_verify_errors"] == 0
        with pytest.raises(
            NativeError, match=f"{other.socket}: .*namespace 2|{other.socket}: .*06h"
        ):
            perf_run([server.socket, other.socket], "read", options | {"nsid": 2})


def test_interrupts_in_place_of_polling(server: ServerProcess) -> None:
    result = load(server, "randread", irq=1, depth=4, nr_ios=500)
    assert result["nr_reads"] == 500 and result["nr_interrupts"] > 0


def test_failed_commands_are_counted_by_status(server: ServerProcess) -> None:
    result = load(server, "randrw", nsid=2, nr_ios=1000)
    assert 50 < result["nr_errors"] < 500
    assert sum(result["statuses"].values()) == result["nr_errors"]
    assert result["nr_reads"] + result["nr_writes"] + result["nr_errors"] == 1000


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"nsid": 9}, "Identify|admin command 06h|namespace 9"),
        ({"block_bytes": 768}, "multiple"),
        ({"depth": 4096, "nr_queues": 1}, "hold"),
        ({"lba_start": 1 << 40}, "behind the end"),
        ({"nr_queues": 100}, "I/O queues"),
        ({"nr_ios": 0}, "time or a number"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    server: ServerProcess, options: dict[str, int], sentence: str
) -> None:
    with pytest.raises(NativeError, match=sentence):
        load(server, "randread", **options)


def test_the_command_writes_json(server: ServerProcess) -> None:
    commands = 200_000  # enough to be seen by a clock that counts processor time in ticks
    command = [sys.executable, "-m", "vhostnvme", "perf", str(server.socket.parent)]
    done = subprocess.run(
        [
            *command,
            "--io-limit",
            str(commands),
            "--rw",
            "randrw",
            "--verify",
            "--histogram",
            "--json",
        ],
        capture_output=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["reads"] + report["writes"] == commands
    assert report["verify"]["errors"] == 0 and report["errors"] == 0
    assert report["latency_ns"]["all"]["count"] == commands
    assert sum(count for _, count in report["histogram"]) == commands
    assert report["cpu"]["server_us_per_io"] > 0
    assert [device["target"] for device in report["devices"]] == [str(server.socket.parent)]


def test_a_fresh_host_finds_the_server_after_all_that(server: ServerProcess) -> None:
    with NvmeHost.connect(server.socket) as host:
        host.enable()
        assert host.active_namespaces() == [1, 2, 3]
