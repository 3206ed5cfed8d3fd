"""The arguments of `boot`: which SPECs share a controller."""

from __future__ import annotations

import pytest

from vhostnvme.cli.main import make_parser, run
from vhostnvme.storage.spec import MemorySpec


def sizes(*arguments: str) -> list[list[int | None]]:
    args = make_parser("boot").parse_args(["boot", *arguments])
    assert all(isinstance(spec, MemorySpec) for specs in args.disks for spec in specs)
    return [[spec.size for spec in specs] for specs in args.disks]


def test_each_disk_is_a_controller() -> None:
    assert sizes("--disk", "mem:1K", "--disk", "mem:2K") == [[1024], [2048]]


def test_a_namespace_joins_the_disk_before_it() -> None:
    arguments = "--disk mem:1K --namespace mem:2K --disk mem:3K --namespace mem:4K".split()
    assert sizes(*arguments) == [[1024, 2048], [3072, 4096]]


def test_no_disk_is_a_scratch_disk() -> None:
    assert sizes() == []


def test_parsers_share_nothing() -> None:
    assert sizes("--disk", "mem:1K") == sizes("--disk", "mem:1K")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--namespace", "mem:1G"], "give the --disk first"),
        (["--disk", "mem:1"], "no multiple of the block"),
        (["--disk", "nvme+tcp://10.0.0.1/nqn.a/1"], "lacks a port"),
        (["--block", "1024"], "invalid choice"),
        (["--timeout", "0"], "above 0"),
        (["--timeout", "soon"], "above 0"),
        (["--timeout", "nan"], "above 0"),
        (["--memory", "1M"], "from 256M on"),
        (["--memory", "much"], "no size"),
        (["--cpus", "0"], "from 1 to 64"),
        (["--json", "/nowhere/at/all.json", "--exec", "true"], "cannot write"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["boot", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_without_qemu_boot_fails_with_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VHOSTNVME_QEMU", "/nowhere/qemu-system-x86_64")
    assert run(["boot", "--exec", "true"]) == 1
    error = capsys.readouterr().err
    assert "VHOSTNVME_QEMU" in error
    assert "Traceback" not in error
