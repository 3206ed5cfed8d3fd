"""The load generator against our server: it counts right, verifies, and reports failures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from vhostnvme.errors import NativeError
from vhostnvme.native.host import perf_run
from vhostnvme.testing import NvmeHost
from vhostnvme.testing.server import ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(["mem:64M", "mem:16M?error=20%"]) as running:
        yield running


DEFAULTS = {"block_bytes": 4096, "depth": 16, "nr_queues": 1, "nsid": 1, "read_percent": 50}


def load(server: ServerProcess, pattern: str, **options: int) -> dict[str, Any]:
    return perf_run(server.socket, pattern, DEFAULTS | {"seed": 1, "nr_ios": 2000} | options)


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
    assert result["server_pid"] == server.process.pid and result["server_cpu_known"]


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
    command = [sys.executable, "-m", "vhostnvme", "perf", str(server.socket.parent)]
    done = subprocess.run(
        [*command, "--ios", "500", "--rw", "randrw", "--verify", "--json"],
        capture_output=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["reads"] + report["writes"] == 500
    assert report["verify"]["errors"] == 0 and report["errors"] == 0
    assert report["latency_ns"]["all"]["count"] == 500


def test_a_fresh_host_finds_the_server_after_all_that(server: ServerProcess) -> None:
    with NvmeHost.connect(server.socket) as host:
        host.enable()
        assert host.active_namespaces() == [1, 2]
