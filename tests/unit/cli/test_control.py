"""`vhostnvme status` and `limit` against a server in a process of its own."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostnvme.cli.main import run
from vhostnvme.testing import NvmeHost
from vhostnvme.testing.server import ServerProcess

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    options = ["--iops", "5000", "--read-bandwidth", "100M", "--burst", "1s"]
    with ServerProcess(["mem:16M", "mem:1M?write-iops=7"], options) as running:
        yield running


def asked(capsys: Capture, *arguments: str) -> dict[str, object]:
    assert run([*arguments, "--json"]) == 0
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def test_status_tells_what_happens(server: ServerProcess, capsys: Capture) -> None:
    folder = str(server.socket.parent)
    assert asked(capsys, "status", folder)["state"] == "listening"
    with NvmeHost.connect(server.socket) as host:
        host.enable()
        host.create_queue_pair().write(0, bytes(4096))
        status = asked(capsys, "status", str(server.socket))
        assert status["state"] == "running"
        assert status["commands"] == 1
        assert status["limited"]["limits"] == {  # type: ignore[index]
            "iops": 5000,
            "read_iops": 0,
            "write_iops": 0,
            "bandwidth": 0,
            "read_bandwidth": 100 << 20,
            "write_bandwidth": 0,
            "burst_us": 1_000_000,
        }
        first, second = status["namespaces"]  # type: ignore[misc]
        assert (first["nsid"], first["writes"], first["write_bytes"]) == (1, 1, 4096)
        assert second["spec"] == "mem:1M?write-iops=7"
        assert second["limited"]["limits"]["write_iops"] == 7
    assert run(["status", folder]) == 0
    assert "limits: iops=5000 read-bandwidth=100M burst=1s" in capsys.readouterr().out


def test_limits_change_while_it_runs(server: ServerProcess, capsys: Capture) -> None:
    folder = str(server.socket.parent)
    changed = asked(capsys, "limit", folder, "--namespace", "1", "--iops", "10", "--burst", "2s")
    assert (changed["iops"], changed["burst_us"]) == (10, 2_000_000)
    changed = asked(capsys, "limit", folder, "--namespace", "1", "--write-bandwidth", "1M")
    assert (changed["iops"], changed["write_bandwidth"]) == (10, 1 << 20), "the others stay"
    changed = asked(capsys, "limit", folder, "--namespace", "1", "--iops", "none")
    assert (changed["iops"], changed["write_bandwidth"]) == (0, 1 << 20)
    changed = asked(capsys, "limit", folder, "--namespace", "1", "--none", "--read-iops", "5")
    assert (changed["read_iops"], changed["write_bandwidth"]) == (5, 0)
    assert run(["limit", folder, "--namespace", "1", "--none"]) == 0
    assert capsys.readouterr().out == "none\n"
    assert run(["limit", folder]) == 0
    assert capsys.readouterr().out == "iops=5000 read-bandwidth=100M burst=1s\n"


def test_the_control_socket_is_its_owners_alone(server: ServerProcess) -> None:
    control = server.socket.parent / "control"
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    assert stat.S_IMODE(control.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--namespace", "3", "--iops", "1"], 2, "no namespace 3"),
        (["--namespace", "257"], 2, "1 to 256"),
        (["--iops", "fast"], 2, "whole number of commands"),
        (["--iops", "-1"], 2, "--iops"),
        (["--iops", "100000001"], 2, "100000000 a second"),
        (["--bandwidth", "65G"], 2, "64G a second"),
        (["--bandwidth", "1X"], 2, "K, M, G or T"),
        (["--burst", "0s"], 2, "1us"),
    ],
)
def test_wrong_limits(
    server: ServerProcess, arguments: list[str], code: int, sentence: str, capsys: Capture
) -> None:
    assert run(["limit", str(server.socket.parent), *arguments]) == code
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "limit"])
def test_nobody_is_there(tmp_path: Path, command: str, capsys: Capture) -> None:
    assert run([command, str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"no server answers on control socket {tmp_path}/control" in error
    assert error.count("\n") == 1
