"""The load generator, discover and identify over NVMe/TCP, against our own target."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostnvme.cli.main import run
from vhostnvme.fabric.address import Address
from vhostnvme.native.perf import wire_run
from vhostnvme.perf.targets import server_pid
from vhostnvme.testing.server import ServerProcess

Capture = pytest.CaptureFixture[str]

NQN = "nqn.2026-11.org.example:a"
HOST = "nqn.2026-11.org.example:host"


def start(*namespaces: str) -> ServerProcess:
    options = ["--tcp", "127.0.0.1:0", "--subnqn", NQN, "--allow-any-host"]
    options += ["--referral", "10.0.0.9:8009"]
    return ServerProcess(namespaces, options)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with start("mem:16M", "mem:4M?block=4096") as running:
        yield running


def port_of(server: ServerProcess) -> int:
    found = re.search(r"listening on 127\.0\.0\.1:([0-9]+) ", server.log_text())
    assert found
    return int(found[1])


def uri(server: ServerProcess, tail: str = "") -> str:
    return f"nvme+tcp://127.0.0.1:{port_of(server)}/{NQN}{tail}"


def perf(capsys: Capture, *arguments: str, code: int = 0) -> dict[str, object]:
    assert run(["perf", *arguments, "--json"]) == code
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


def test_every_block_that_was_written_is_read_back(server: ServerProcess, capsys: Capture) -> None:
    load = ["--rw", "randrw", "--fill", "--verify", "--io-limit", "3000", "--qd", "16"]
    report = perf(capsys, uri(server), *load, "--queues", "3")
    assert report["errors"] == 0
    assert report["reads"] + report["writes"] == 3000  # type: ignore[operator]
    assert report["verify"]["blocks"] >= report["reads"] * 8  # type: ignore[index,operator]
    assert report["verify"]["errors"] == 0  # type: ignore[index]
    assert report["doorbells"] is None
    (device,) = report["devices"]  # type: ignore[misc]
    assert device["server_pid"] == server.process.pid
    assert (device["blocks"], device["doorbells_mapped"]) == (16 << 11, None)
    assert report["cpu"]["server_cores"] is not None  # type: ignore[index]


@pytest.mark.parametrize("digests", ["", "hdgst=on&ddgst=on"])
@pytest.mark.parametrize("size", ["4k", "64k", "1m", "2m"])
def test_sizes(server: ServerProcess, size: str, digests: str, capsys: Capture) -> None:
    target = uri(server, "/2" + (f"?{digests}" if digests else ""))
    load = ["--rw", "rw", "--fill", "--verify", "--io-limit", "20", "--qd", "1", "--bs", size]
    report = perf(capsys, target, *load)
    assert report["verify"]["errors"] == report["errors"] == 0  # type: ignore[index]
    assert report["nsid"] == 2


def test_several_targets_with_a_rate(server: ServerProcess, capsys: Capture) -> None:
    load = ["--rw", "randread", "--rate", "5000", "--time", "0.3", "--qd", "8", "--warmup", "0.1"]
    report = perf(capsys, uri(server, "/1"), uri(server, "/2"), *load, "--histogram")
    assert len(report["devices"]) == 2  # type: ignore[arg-type]
    assert report["iops"] <= 5600  # type: ignore[operator]
    assert report["histogram"]


def test_a_target_that_dies_under_load(capsys: Capture) -> None:
    with start("mem:4M") as server:
        target = uri(server, "?reconnect=300ms")
        timer = threading.Timer(0.5, server.kill)
        timer.start()
        began = time.monotonic()
        report = perf(capsys, target, "--rw", "randwrite", "--time", "1.5", code=1)
        timer.join()
        assert report["statuses"].keys() == {"3/70"}  # type: ignore[attr-defined]
        assert time.monotonic() - began < 30
        assert run(["perf", target, "--time", "1"]) == 1
        assert "cannot connect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tail", "arguments", "code", "sentence"),
    [
        ("", ["--irq"], 2, "--irq is for vfio-user sockets"),
        ("", ["--doorbells", "sync"], 2, "--doorbells is for vfio-user sockets"),
        ("", ["--queues", "17"], 2, "--queues is at most 16"),
        ("", ["--qd", "1024"], 2, "--qd below 1024"),
        ("/2", ["--nsid", "1"], 2, "is not the namespace of"),
        ("/2", ["--bs", "512"], 1, "no multiple of the namespace's 4096"),
        ("/9", [], 1, "namespace 9"),
        ("x", [], 1, "has no subsystem"),
        ("/0", [], 2, "they begin with 1"),
    ],
)
def test_wrong_loads(
    server: ServerProcess,
    tail: str,
    arguments: list[str],
    code: int,
    sentence: str,
    capsys: Capture,
) -> None:
    assert run(["perf", uri(server, tail), *arguments]) == code
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_sockets_and_addresses_do_not_mix(server: ServerProcess, capsys: Capture) -> None:
    assert run(["perf", uri(server), str(server.socket)]) == 2
    assert "do not mix" in capsys.readouterr().err


def test_discover(server: ServerProcess, capsys: Capture) -> None:
    address = f"127.0.0.1:{port_of(server)}"
    assert run(["discover", address, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    found = {(each["type"], each["address"], each["port"]) for each in entries}
    assert ("nvm", "127.0.0.1", str(port_of(server))) in found
    assert ("referral", "10.0.0.9", "8009") in found
    assert {each["subnqn"] for each in entries if each["type"] == "nvm"} == {NQN}
    assert run(["discover", address]) == 0
    assert NQN in capsys.readouterr().out


def test_identify_by_both_doors(server: ServerProcess, capsys: Capture) -> None:
    identities = []
    for target in (uri(server), str(server.socket)):
        assert run(["identify", target, "--json"]) == 0
        identities.append(json.loads(capsys.readouterr().out))
    over_tcp, over_socket = identities
    assert over_tcp["controller"]["subnqn"] == NQN
    assert over_tcp["controller"]["serial"] == over_socket["controller"]["serial"]
    assert [
        (each["nsid"], each["size"], each["block_size"]) for each in over_tcp["namespaces"]
    ] == [
        (1, 16 << 20, 512),
        (2, 4 << 20, 4096),
    ]
    assert [each["uuid"] for each in over_tcp["namespaces"]] == [
        each["uuid"] for each in over_socket["namespaces"]
    ]
    assert run(["identify", uri(server, "/2")]) == 0
    shown = capsys.readouterr().out
    assert over_tcp["namespaces"][1]["uuid"] in shown
    assert over_tcp["namespaces"][0]["uuid"] not in shown


@pytest.mark.parametrize(
    ("command", "target", "code", "sentence"),
    [
        ("identify", "nvme+tcp://127.0.0.1:1/" + NQN, 1, "cannot connect to 127.0.0.1:1"),
        ("identify", "nvme+tcp://127.0.0.1/" + NQN, 2, "lacks a port"),
        ("identify", "nvme+tcp://127.0.0.1:1", 2, "HOST:PORT/SUBNQN"),
        ("identify", "ftp://x", 2, "no vfio-user socket"),
        ("discover", "127.0.0.1:1", 1, "cannot connect to 127.0.0.1:1"),
        ("discover", "no-such-host.invalid:4420", 1, "no-such-host.invalid"),
    ],
)
def test_wrong_targets(
    command: str, target: str, code: int, sentence: str, capsys: Capture
) -> None:
    assert run([command, target]) == code
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_an_absent_namespace_is_told(server: ServerProcess, capsys: Capture) -> None:
    assert run(["identify", uri(server), "--nsid", "7"]) == 1
    assert "there is no namespace 7" in capsys.readouterr().err


def test_a_server_elsewhere_is_not_known() -> None:
    assert server_pid(Address("203.0.113.7", 4420)) == 0
    assert server_pid(Address("127.0.0.1", 1)) == 0


@pytest.mark.parametrize(("request_bytes", "reply_bytes"), [(72, 4120), (72 + (128 << 10), 24)])
def test_bare_tcp(request_bytes: int, reply_bytes: int) -> None:
    for depth in (1, 32):
        result = wire_run(request_bytes, reply_bytes, depth=depth, seconds=0.1, warmup=0.05)
        assert result["latency"]["nr"] == result["nr"] > 0
        assert 0 < result["latency"]["min"] <= result["latency"]["p50"] <= result["latency"]["max"]


def write_key(path: Path, head: str) -> Path:
    secret = os.urandom(32)
    checked = secret + zlib.crc32(secret).to_bytes(4, "little")
    path.write_text(f"{head}:{base64.b64encode(checked).decode()}:\n")
    path.chmod(0o600)
    return path


def test_keys_from_files_all_the_way(tmp_path: Path, capsys: Capture) -> None:
    psk = write_key(tmp_path / "psk", "NVMeTLSkey-1:01")
    mine, its, other = (write_key(tmp_path / name, "DHHC-1:01") for name in ("h", "c", "other"))
    options = ["--tcp", "127.0.0.1:0", "--subnqn", NQN, "--allow-host", HOST, "--tls"]
    options += ["--tls-psk-file", str(psk), "--dhchap-key-file", str(mine)]
    options += ["--dhchap-ctrl-key-file", str(its)]
    with ServerProcess(["mem:4M"], options) as server:
        target, who = uri(server), ["--hostnqn", HOST, "--tls-psk-file", str(psk)]
        known = [*who, "--dhchap-key-file", str(mine), "--dhchap-ctrl-key-file", str(its)]
        assert run(["identify", target, *known]) == 0
        assert NQN in capsys.readouterr().out
        for wrong, sentence in (
            (["--hostnqn", HOST], "ended the connection"),
            (who, "to authenticate: give its key"),
            ([*who, "--dhchap-key-file", str(other)], "does not accept our key"),
            ([*known[:-1], str(other)], "authentication"),
            ([*who, "--dhchap-key-file", str(psk)], "holds no key of the form DHHC-1"),
        ):
            assert run(["identify", target, *wrong]) != 0
            error = capsys.readouterr().err
            assert sentence in error
            assert error.count("\n") == 1
        query = f"?hostnqn={HOST}&tls-psk-file={psk}&dhchap-key-file={mine}"
        load = ["--rw", "randrw", "--fill", "--verify", "--io-limit", "200", "--qd", "8"]
        report = perf(capsys, target + query, *load)
        assert report["verify"]["errors"] == report["errors"] == 0  # type: ignore[index]
