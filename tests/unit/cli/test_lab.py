"""`vhostnvme lab` on a lab whose cards are stand-ins. Needs root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_lab import standin_plan, traces

from vhostnvme.cli.main import run
from vhostnvme.lab import Lab

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("cli") / "lab"
    with Lab.up(directory, standin_plan(2)):
        yield directory


def told(capfd: Capture, folder: Path, *words: str, code: int = 0) -> tuple[str, str]:
    """What a verb says, on both ways."""
    verb, *rest = words
    assert run(["lab", verb, "--dir", str(folder), *rest]) == code
    said = capfd.readouterr()
    return said.out, said.err


def host_b(capfd: Capture, folder: Path) -> dict[str, object]:
    hosts: list[dict[str, object]] = json.loads(told(capfd, folder, "status", "--json")[0])
    return next(host for host in hosts if host["name"] == "b")


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "vhostnvme", "lab", *words]
    return subprocess.run(
        program,
        env={**os.environ, "VHOSTNVME_LAB": str(folder)},
        input="typed",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_status_is_a_table_or_json(folder: Path, capfd: Capture) -> None:
    table, _ = told(capfd, folder, "status")
    assert [line.split()[0] for line in table.splitlines()] == ["name", "a", "b"]
    assert "10.77.0.2" in table and "/b/control" in table
    host = host_b(capfd, folder)
    assert {key: host[key] for key in ("kind", "address", "state", "cut_off", "loses_to")} == {
        "kind": "card",
        "address": "10.77.0.2",
        "state": "running",
        "cut_off": False,
        "loses_to": [],
    }
    assert host["ssds"] == [f"{folder}/b/ssd0"]


def test_exec_passes_everything_through(folder: Path) -> None:
    done = command(folder, "exec", "b", "--", "sh", "-c", 'cat; echo "$VHOSTNVME_CARD" >&2; exit 7')
    assert done.returncode == 7
    assert done.stdout == "typed"
    assert done.stderr.endswith("/b/control\n")
    # Within, the lab is the default one, and -- can be left out.
    nested = command(folder, "exec", "a", "vhostnvme", "lab", "status")
    assert nested.stdout == command(folder, "status").stdout


def test_exec_of_nothing(folder: Path, capfd: Capture) -> None:
    _, error = told(capfd, folder, "exec", "a", "--", "no-such-program", code=127)
    assert error == "vhostnvme: there is no command 'no-such-program'\n"
    _, error = told(capfd, folder, "exec", "a", "--", code=2)
    assert "say what to run" in error
    _, error = told(capfd, folder, "exec", "z", "--", "true", code=2)
    assert error == "vhostnvme: there is no host 'z' in this lab: a, b\n"


def test_the_network_is_cut_and_healed(folder: Path, capfd: Capture) -> None:
    _, warning = told(capfd, folder, "partition", "b")
    assert warning == (
        "vhostnvme: the store of this lab is a file, so the card still reaches it;"
        " its NVMe/TCP is cut\n"
    )
    assert "cut off" in told(capfd, folder, "status")[0]
    told(capfd, folder, "heal")
    told(capfd, folder, "partition", "b", "--from", "a", "--one-way", "out")
    assert "loses to a" in told(capfd, folder, "status")[0]
    told(capfd, folder, "heal", "b")
    assert told(capfd, folder, "status")[0].count("whole") == 2
    _, error = told(capfd, folder, "partition", "b", "--from", "store", code=2)
    assert "the store of this lab is a file, which no network leads to" in error


def test_slow_and_fast_again(folder: Path, capfd: Capture) -> None:
    told(capfd, folder, "slow", "b", "--rate", "10mbit")
    assert "10mbit" in told(capfd, folder, "status")[0]
    told(capfd, folder, "slow", "b", "--none")
    assert host_b(capfd, folder)["rate_bits"] is None
    _, error = told(capfd, folder, "slow", "b", "--rate", "1 mile", code=2)
    assert "'1 mile' is no rate: write a whole number and kbit, mbit or gbit" in error
    told(capfd, folder, "slow", "b", code=2)


def test_processes(folder: Path, capfd: Capture) -> None:
    for verb, state in (
        ("freeze", "frozen"),
        ("thaw", "running"),
        ("kill", "ended"),
        ("restart", "running"),
        ("stop", "ended"),
        ("restart", "running"),
    ):
        told(capfd, folder, verb, "b")
        assert host_b(capfd, folder)["state"] == state
    _, error = told(capfd, folder, "kill", "store", code=2)
    assert "the store of this lab is a file" in error


def test_down_is_safe_to_repeat(tmp_path: Path, capfd: Capture) -> None:
    Lab.up(tmp_path / "lab", standin_plan(1))
    assert told(capfd, tmp_path / "lab", "down") == ("", "")
    assert traces(tmp_path / "lab") == []
    assert told(capfd, tmp_path / "lab", "down") == ("", "vhostnvme: there was no lab\n")
    _, error = told(capfd, tmp_path / "lab", "status", code=1)
    assert error.startswith("vhostnvme: no lab is up in ")


def test_down_leaves_alone_whoever_calls_it(tmp_path: Path) -> None:
    Lab.up(tmp_path / "lab", standin_plan(1))
    done = command(tmp_path / "lab", "exec", "a", "sh", "-c", "vhostnvme lab down; echo alive")
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
    assert traces(tmp_path / "lab") == []


@pytest.mark.parametrize(
    "words",
    [
        ["up", "--cards", "0"],
        ["up", "--cards", "51"],
        ["up", "--store", "paper"],
        ["up", "--ssd-size", "0"],
        ["up", "--ttl", "10"],
        ["partition", "b", "--one-way", "up"],
        ["fly"],
        [],
    ],
)
def test_wrong_words(words: list[str], tmp_path: Path, capfd: Capture) -> None:
    assert run(["lab", *words, *(["--dir", str(tmp_path / "lab")] if words else [])]) == 2
    assert capfd.readouterr().err.startswith("usage: vhostnvme lab")
    assert [*tmp_path.iterdir()] == []


def test_every_verb_has_an_example(capfd: Capture) -> None:
    verbs = "up status exec partition heal slow kill stop freeze thaw restart down".split()
    for verb in verbs:
        assert run(["lab", verb, "--help"]) == 0
        assert f"example: vhostnvme lab {verb}" in capfd.readouterr().out


# Imports before: what we are may be where others cannot read.
AS_NOBODY = """
import os
import vhostnvme.lab
from vhostnvme.cli import lab, main
os.setresuid(65534, 65534, 65534)
exit(main.run(["lab", "up"]))
"""


def test_root_is_needed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY],
        env={**os.environ, "VHOSTNVME_LAB": str(tmp_path / "lab")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "vhostnvme: the lab makes network namespaces, and this needs root: use sudo\n",
    )
