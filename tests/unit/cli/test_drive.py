"""`vhostnvme drive` against servers in processes of their own, and what `serve` refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests_ssd import SsdServer

from vhostnvme.cli.main import run
from vhostnvme.testing.server import ServerProcess

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def ssd(tmp_path: Path) -> Iterator[SsdServer]:
    with SsdServer(tmp_path, controllers=2, query="capacity=64M&namespaces=0") as running:
        yield running


def asked(capsys: Capture, verb: str, target: Path, *arguments: str) -> Any:
    assert run(["drive", verb, str(target), *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def failed(capsys: Capture, verb: str, target: Path, *arguments: str) -> tuple[int, str]:
    code = run(["drive", verb, str(target), *arguments])
    return code, capsys.readouterr().err


def test_a_namespace_s_life(ssd: SsdServer, capsys: Capture) -> None:
    folder = ssd.control.parent
    added = asked(capsys, "add", folder, "16M", "--block", "4096", "--group", "3")
    assert (added["nsid"], added["size"], added["block_size"]) == (1, 16 << 20, 4096)
    assert (added["shared"], added["group"], added["controllers"]) == (True, 3, [1, 2])
    assert asked(capsys, "detach", folder, "1", "--controller", "2")["controllers"] == [1]
    assert asked(capsys, "attach", folder, "1")["controllers"] == [1, 2]
    assert asked(capsys, "resize", folder, "1", "32M")["size"] == 32 << 20
    shown = asked(capsys, "show", ssd.control)
    assert (shown["capacity"], shown["unallocated"]) == (64 << 20, 32 << 20)
    assert run(["drive", "show", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "namespace 1: 32M, blocks of 4096 bytes, shared, ANA group 3, attached to 1, 2" in text
    assert "capacity 64M, 32M of it unallocated" in text
    assert asked(capsys, "ana", folder, "inaccessible", "--controller", "2", "--group", "3")
    assert asked(capsys, "remove", folder, "1")["namespaces"] == []
    assert ssd.images() == []


def test_what_cannot_be_is_one_sentence(ssd: SsdServer, capsys: Capture) -> None:
    folder = ssd.control.parent
    for arguments, code, part in [
        (("add", "mem:1M"), 2, "give a size"),
        (("add", "1G"), 1, "64M are left"),
        (("add", "1000"), 2, "no multiple"),
        (("add", "1M", "--private"), 2, "say to which"),
        (("add", "1M", "--controller", "3"), 2, "there is no controller 3"),
        (("remove", "1"), 2, "there is no namespace 1"),
        (("resize", "1", "1M"), 2, "there is no namespace 1"),
        (("attach", "1"), 2, "there is no namespace 1"),
    ]:
        verb, *others = arguments
        got, said = failed(capsys, verb, folder, *others)
        assert got == code, said
        assert part in said
        assert said.count("\n") == 1


def test_a_drive_of_specs_takes_specs(tmp_path: Path, capsys: Capture) -> None:
    with ServerProcess(["mem:1M"], directory=tmp_path) as server:
        folder = server.socket.parent
        assert asked(capsys, "add", folder, "mem:2M?block=4096")["nsid"] == 2
        assert "give a SPEC" in failed(capsys, "add", folder, "1M")[1]
        assert (
            "--block goes with a SIZE"
            in failed(capsys, "add", folder, "mem:1M", "--block", "4096")[1]
        )
        assert "is the only one" in failed(capsys, "ana", folder, "optimized")[1]
        assert asked(capsys, "remove", folder, "1")["namespaces"][0]["nsid"] == 2
        assert asked(capsys, "show", folder)["capacity"] is None


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--socket", "S", "--ssd", "D", "--namespace", "mem:1M"], "does not go with --ssd"),
        (["--socket", "S", "--ssd", "D", "--state", "F"], "does not go with --ssd"),
        (["--socket", "S", "--ssd", "D", "--tcp", "127.0.0.1:0"], "does not go with --ssd"),
        (["--socket", "S", "--socket", "S", "--namespace", "mem:1M"], "there twice"),
        (["--tcp", "127.0.0.1:0", "--state", "F", "--namespace", "mem:1M"], "goes with --socket"),
        (["--socket", "S"], "give at least one --namespace SPEC, or --ssd DIR"),
    ],
)
def test_what_serve_refuses(capsys: Capture, arguments: list[str], part: str) -> None:
    assert run(["serve", *arguments]) == 2
    assert part in capsys.readouterr().err


def test_a_kept_state_lasts(tmp_path: Path) -> None:
    options = ["--state", str(tmp_path / "drive.state")]
    with ServerProcess(["mem:1M"], options, tmp_path) as server:
        server.stop()
        assert (tmp_path / "drive.state").stat().st_size > 0
        server.restart()
