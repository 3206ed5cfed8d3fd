"""`vhostnvme serve --tcp`: what it refuses, in one sentence each."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhostnvme.cli.main import run

Capture = pytest.CaptureFixture[str]

NQN = "nqn.2026-11.org.example:a"


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
    assert f"{path}: target.listen[1]: 'x' lacks a port" in error[0]
    assert error[1].startswith(f"{path}: subsystem[1].nqn: 'a' is no NQN")
