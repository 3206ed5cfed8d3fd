"""`vhostnvme serve --tcp`: what it tells, and what it refuses, in one sentence each."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from vhostnvme.cli.main import run
from vhostnvme.testing.server import ServerProcess

Capture = pytest.CaptureFixture[str]

NQN = "nqn.2026-11.org.example:a"
HOST = "nqn.2026-11.org.example:host"


def refused(capsys: Capture, *arguments: str, code: int = 2) -> str:
    assert run(["serve", *arguments]) == code
    error = capsys.readouterr().err
    if "usage:" not in error:
        assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tcp", "127.0.0.1:0"], "at least one --namespace"),
        (["--tcp", "127.0.0.1"], "lacks a port"),
        (["--tcp", "::1:4420"], "brackets"),
        (["--tcp", "127.0.0.1:65536"], "no port"),
        (["--tcp", "no-such-host.invalid:4420", "--namespace", "mem:1M"], "is not known"),
        (["--tcp", "127.0.0.1:0", "--subnqn", "disk"], "is no NQN"),
        (["--tcp", "127.0.0.1:0", "--allow-host", "me"], "is no NQN"),
        (["--socket", "/tmp/x", "--namespace", "mem:1M", "--subnqn", NQN], "without --tcp"),
        (["--socket", "/tmp/x", "--namespace", "mem:1M", "--tls"], "without --tcp"),
        (["--tcp", "127.0.0.1:0", "--namespace", "mem:1M", "--tls"], "--tls-psk-file"),
        (["--tcp", "127.0.0.1:0", "--namespace", "mem:1M", "--iops", "5"], "mem:1G?iops=1000"),
        (["--tcp", "127.0.0.1:0", "--namespace", "mem:1M", "--queues", "129"], "1 to 128"),
        (["--tcp", "127.0.0.1:0", "--namespace", "mem:1M", "--referral", "x:0"], "no port"),
        (["--config", "/nowhere/x.toml"], "cannot read /nowhere/x.toml"),
        (["--config", "x.toml", "--tcp", "[::1]:1"], "--tcp does not go with --config"),
        (["--config", "x.toml", "--allow-any-host"], "--allow-any-host does not go with --config"),
    ],
)
def test_wrong_options(arguments: list[str], sentence: str, capsys: Capture) -> None:
    assert sentence in refused(capsys, *arguments)


def test_each_mistake_of_a_file_has_its_line(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "target.toml"
    path.write_text('[target]\nlisten = ["x"]\n[[subsystem]]\nnqn = "a"\n')
    assert run(["serve", "--config", str(path)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert f"{path}:2: target.listen[1]: 'x' lacks a port" in error[0]
    assert error[1].startswith(f"{path}:4: subsystem[1].nqn: 'a' is no NQN")


def test_an_address_in_use(capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        sentence = refused(capsys, "--tcp", address, "--namespace", "mem:1M", code=1)
    assert f"cannot listen on {address}: something listens there already" in sentence


def test_an_address_of_somebody_else(capsys: Capture) -> None:
    sentence = refused(capsys, "--tcp", "203.0.113.7:4420", "--namespace", "mem:1M", code=1)
    assert "this machine has no such address" in sentence


def told(server: ServerProcess) -> dict[str, object]:
    """The JSON object that a server has printed."""
    (line,) = (line for line in server.log_text().splitlines() if line.startswith("{"))
    answer: dict[str, object] = json.loads(line)
    return answer


def test_one_set_of_namespaces_behind_both_doors(capsys: Capture) -> None:
    options = ["--tcp", "127.0.0.1:0", "--subnqn", NQN, "--allow-host", HOST, "--json"]
    with ServerProcess(["mem:1M", "null:1G"], options) as server:
        ready = told(server)
        (listener,) = ready["listeners"]  # type: ignore[misc]
        assert listener["address"] == "127.0.0.1"
        assert listener["port"] > 0
        assert ready["subnqn"] == NQN
        assert ready["socket"] == str(server.socket)
        assert [each["spec"] for each in ready["namespaces"]] == ["mem:1M", "null:1G"]  # type: ignore[attr-defined]
        with socket.create_connection(("127.0.0.1", listener["port"])):
            assert run(["status", str(server.socket), "--json"]) == 0
        status = json.loads(capsys.readouterr().out)
        assert status["state"] == "listening"
        (subsystem,) = status["target"]["subsystems"]
        assert subsystem["allowed_hosts"] == [HOST]
        assert [each["uuid"] for each in subsystem["namespaces"]] == [
            each["uuid"] for each in status["namespaces"]
        ]
        assert run(["status", str(server.socket)]) == 0
        shown = capsys.readouterr().out
        assert f"127.0.0.1:{listener['port']}: listening\n" in shown
        assert f"subsystem {NQN}: for {HOST}\n" in shown
        assert shown.count("namespace 1: 1M, mem:1M") == 1


def test_a_target_alone_is_found_by_its_address(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    options = ["--tcp", "[::]:0", "--allow-any-host"]
    with ServerProcess(["mem:1M"], options, with_socket=False) as server:
        found = re.search(r"listening on \[::\]:([0-9]+) ", server.log_text())
        assert found, server.log_text()
        assert "nobody may connect" not in server.log_text()
        for address in (f"[::]:{found[1]}", f"[::1]:{found[1]}", f"127.0.0.1:{found[1]}"):
            assert run(["status", address]) == 0
            assert "for any host" in capsys.readouterr().out
        assert run(["limit", address, "--namespace", "1", "--iops", "7"]) == 0
        assert capsys.readouterr().out == "iops=7 burst=100ms\n"
        assert run(["limit", address, "--iops", "7"]) == 2
        assert "limits for each namespace only" in capsys.readouterr().err
        assert run(["limit", address, "--namespace", "2"]) == 2
        assert "no namespace 2 on this target" in capsys.readouterr().err
        assert server.stop() == 0
    assert list((tmp_path / "vhostnvme").iterdir()) == []


def test_nobody_is_allowed_by_default(tmp_path: Path) -> None:
    options = ["--tcp", "127.0.0.1:0", "--control", str(tmp_path / "c.control")]
    with ServerProcess(["mem:1M"], options, with_socket=False) as server:
        assert "nobody may connect to nqn." in server.log_text()
        assert "--allow-any-host" in server.log_text()
        assert run(["status", str(tmp_path / "c.control")]) == 0


def test_a_whole_file(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "target.toml"
    path.write_text(
        f"""
        [target]
        listen = ["127.0.0.1:0", "[::1]:0"]
        [[subsystem]]
        nqn = "{NQN}"
        allow_any_host = true
        namespace = [{{ disk = "file:d.img?size=1M" }}, {{ nsid = 9, disk = "null:1G" }}]
        [[subsystem]]
        nqn = "{NQN}b"
        namespace = [{{ disk = "mem:1M", ana_group = 2 }}]
        host = [{{ nqn = "{HOST}", namespaces = [1] }}]
        ana = [{{ group = 2, state = "inaccessible", listen = "[::1]:0" }}]
        """
    )
    control = tmp_path / "control"
    options = ["--config", str(path), "--json", "--control", str(control)]
    with ServerProcess([], options, with_socket=False) as server:
        ready = told(server)
        assert [each["subnqn"] for each in ready["subsystems"]] == [NQN, f"{NQN}b"]  # type: ignore[attr-defined]
        assert [each["nsid"] for each in ready["namespaces"]] == [1, 9]  # type: ignore[attr-defined]
        assert (tmp_path / "d.img").stat().st_size == 1 << 20
        assert run(["limit", str(control), "--namespace", "1"]) == 2
        assert "limits for each namespace only" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--dhchap-key-file", "--tls-psk-file"])
def test_a_key_file_that_is_not_there(option: str, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["--tcp", "127.0.0.1:0", "--namespace", "mem:1M", "--allow-host", NQN]
    arguments += ["--tls"] if option == "--tls-psk-file" else []
    assert str(tmp_path / "key") in refused(capsys, *arguments, option, str(tmp_path / "key"))
