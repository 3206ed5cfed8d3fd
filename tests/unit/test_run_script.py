"""The run script where it can be tried without installing anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SCRIPTS = [TOP / "run", TOP / ".ci" / "run"]


def run(*words: str, script: Path = TOP / "run", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(script), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the script needs of a checkout, and nothing that is built."""
    top = tmp_path / "checkout"
    top.mkdir()
    shutil.copy(TOP / "run", top / "run")
    shutil.copytree(TOP / "requirements", top / "requirements")
    (top / "csrc").mkdir()
    return top


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for the front of PATH; the caller puts stand-ins for programs there."""
    folder = tmp_path / "tools"
    folder.mkdir()
    return folder


def stand_in(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(TOP)))
def test_shellcheck(script: Path) -> None:
    assert shutil.which("shellcheck"), "shellcheck is not installed"
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_dash_takes_it() -> None:
    assert subprocess.run(["sh", "-n", TOP / "run"], check=False).returncode == 0


def test_help_names_every_command() -> None:
    done = run("help")
    assert done.returncode == 0
    for command in (
        "demo",
        "test",
        "check",
        "bench",
        "fuzz",
        "asan",
        "vhostnvme",
        "setup",
        "clean",
    ):
        assert f"\n  {command} " in done.stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    done = run("dmeo")
    assert done.returncode == 2
    assert "there is no command 'dmeo'" in done.stderr


def test_missing_packages_are_named_when_nobody_can_install_them(
    checkout: Path, tools: Path
) -> None:
    stand_in(tools, "dpkg-query", "printf 'gcc installed\\npatch installed\\nzstd deinstall\\n'")
    stand_in(tools, "id", "echo 1000")
    stand_in(tools, "sudo", "exit 1")
    done = run("demo", script=checkout / "run", PATH=f"{tools}:{os.environ['PATH']}")
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert "neither root nor sudo" in line
    words = line.partition("apt-get install ")[2].split()
    assert "libjson-c-dev" in words
    assert "zstd" in words
    assert not {"gcc", "patch"} & set(words)


def test_a_failed_installation_names_its_log(checkout: Path, tools: Path) -> None:
    stand_in(tools, "dpkg-query", "exit 1")
    stand_in(tools, "id", "echo 0")
    stand_in(tools, "apt-get", "echo no network; exit 100")
    done = run("demo", script=checkout / "run", PATH=f"{tools}:{os.environ['PATH']}")
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(
        "run: reading the package lists failed (exit code 100): check the network"
    )
    assert (checkout / "build/log/apt-update.log").read_text() == "no network\n"
    assert str(checkout / "build/log/apt-update.log") in line


def test_clean_keeps_the_cache_and_clean_cache_empties_it(checkout: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name in ("libvfio-user", "qemu-1", "guest-1", "packages-1", "pip", "work-1"):
        (cache / name).mkdir(parents=True)
    (cache / "lock").touch()
    for name in ("build", ".venv", "subprojects/libvfio-user", "csrc/__pycache__"):
        (checkout / name).mkdir(parents=True)
    assert run("clean", script=checkout / "run", VHOSTNVME_CACHE=str(cache)).returncode == 0
    left = sorted(str(path.relative_to(checkout)) for path in checkout.iterdir())
    assert left == ["csrc", "requirements", "run", "subprojects"]
    assert (cache / "qemu-1").is_dir()
    done = run("clean", "--cache", script=checkout / "run", VHOSTNVME_CACHE=str(cache))
    assert done.returncode == 0
    assert not cache.exists()


def test_clean_cache_leaves_what_is_not_ours(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.txt").touch()
    run("clean", "--cache", script=checkout / "run", VHOSTNVME_CACHE=str(tmp_path / "cache"))
    assert (tmp_path / "cache" / "thesis.txt").exists()


def test_clean_refuses_what_it_does_not_know(checkout: Path) -> None:
    done = run("clean", "--all", script=checkout / "run")
    assert done.returncode == 1
    assert "'--all'" in done.stderr


def test_ci_is_the_test_command() -> None:
    lines = (TOP / ".ci" / "run").read_text().strip().splitlines()
    assert lines[-1] == "exec ./run test"
