"""The command line: exit codes, sentences, and a quick --help."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostnvme.cli.main import COMMANDS, run


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vn-") as name:
        yield Path(name)


def start(*arguments: str, **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "vhostnvme", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup a hang-up is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        **more,
    )


@pytest.mark.parametrize("command", [name for name, _, _ in COMMANDS])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"usage: vhostnvme {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "required: COMMAND"),
        (["sevre"], "invalid choice"),
        (["serve", "--socket", "/tmp/x"], "--namespace"),
        (["serve", "--socket", "/tmp/x", "--namespace", "mem:1X"], "is no size"),
        (["serve", "--namespace", "mem:1G"], "--tcp HOST:PORT"),
        (["serve", "--socket", "/tmp/x", "--namespace", "mem:1G", "--queues", "65"], "1 to 64"),
        (
            ["serve", "--socket", "/tmp/x", "--namespace", "mem:1G", "--ready-fd", "999999"],
            "999999",
        ),
        (["serve", "--socket", "/tmp/x", "--namespace", "mem:1G", "--serial", "x" * 21], "serial"),
        (["serve", "--socket", "/tmp/x", "--namespace", "mem:1G", "--iops", "x"], "whole number"),
        (["limit"], "SOCKET|DIR|HOST:PORT"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_a_failure_is_exit_code_1_and_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["serve", "--socket", str(folder / "s"), "--namespace", f"file:{folder}/none"]
    assert run(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("vhostnvme: ")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from vhostnvme.cli.main import run; run(['--help']);"
        "sys.exit(any(name in sys.modules for name in ('rich', 'asyncio', 'vhostnvme._native')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0


def test_serve_tells_what_it_serves_as_json(folder: Path) -> None:
    server = start(
        "serve", "--socket", f"{folder}/d/cntrl", "--namespace", "mem:1M?block=4096", "--json"
    )
    assert server.stdout is not None
    told = json.loads(server.stdout.readline())
    assert told["socket"] == f"{folder}/d/cntrl"
    assert Path(told["socket"]).is_socket()
    assert told["qemu_args"][0] == "-device"
    (namespace,) = told["namespaces"]
    assert namespace["nsid"] == 1
    assert namespace["size"] == 1 << 20
    assert namespace["block_size"] == 4096
    assert namespace["spec"] == "mem:1M?block=4096"
    server.send_signal(signal.SIGTERM)
    _, errors = server.communicate(timeout=20)
    assert server.returncode == 0, errors
    assert not (folder / "d").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_serve_with_0(folder: Path, number: signal.Signals) -> None:
    read_end, write_end = os.pipe()
    arguments = ["serve", "--socket", f"{folder}/cntrl", "--namespace", "mem:1M"]
    server = start(*arguments, "--ready-fd", str(write_end), pass_fds=[write_end])
    os.close(write_end)
    with os.fdopen(read_end) as ready:
        assert ready.readline() == "ready\n"
        assert ready.read() == ""
    server.send_signal(number)
    output, _ = server.communicate(timeout=20)
    assert server.returncode == 0
    assert f"listening on {folder}/cntrl" in output
    assert "share=on" in output
    assert not (folder / "cntrl").exists()


def test_a_signal_at_any_moment_leaves_no_socket(folder: Path) -> None:
    for delay_s in (0.05, 0.15, 0.25, 0.35):
        server = start("serve", "--socket", f"{folder}/d/cntrl", "--namespace", "mem:1M")
        time.sleep(delay_s)
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=20)
        assert not (folder / "d").exists()
