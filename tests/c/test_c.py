"""Every C test program under ASan and UBSan, a case each; those with threads under TSan too."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests_build import Build
from tests_performance import build as release_build

HERE = Path(__file__).resolve().parent
PROGRAMS = sorted(path.stem for path in HERE.glob("test_*.c"))
THREADED = (
    "test_event",
    "test_host_perf",
    "test_mailbox",
    "test_medium",
    "test_reactor",
    "test_wakeup",
)
TIME_LIMIT_S = 110
LONG = os.environ.get("VHOSTNVME_LONG", "") not in ("", "0")
LONG_TIME_LIMIT_S = 3600

# A program that leaks, or does what C does not define, has failed.
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:strict_string_checks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


@pytest.fixture(scope="session")
def build(top: Path) -> Build:
    return Build(top, "asan", ["-Db_sanitize=address,undefined", "-Db_lundef=false"])


@pytest.fixture(scope="session")
def tsan_build(top: Path) -> Build:
    # GCC warns that TSan sees no fences: what it checks here goes over by acquire and release.
    return Build(top, "tsan", ["-Db_sanitize=thread", "-Db_lundef=false", "-Dc_args=-Wno-tsan"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", PROGRAMS)
def test_c(build: Build, program: str, tmp_path: Path) -> None:
    run([str(build.target(f"tests/c/{program}"))], tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", THREADED)
def test_c_threads(tsan_build: Build, program: str, tmp_path: Path) -> None:
    path = tsan_build.target(f"tests/c/{program}")
    # TSan's memory layout does not fit every randomised address space.
    setarch = shutil.which("setarch", path="/usr/bin:/bin:/usr/sbin:/sbin")
    run([setarch, "--addr-no-randomize", str(path)] if setarch else [str(path)], tmp_path)


@pytest.mark.skipif(not LONG, reason="takes some ten minutes: VHOSTNVME_LONG=1 asks for it")
@pytest.mark.timeout(LONG_TIME_LIMIT_S + 600)
def test_no_wake_up_is_lost_in_ten_million_cycles(top: Path, tmp_path: Path) -> None:
    path = release_build(top).target("tests/c/test_wakeup")
    run([str(path)], tmp_path, {"VN_TEST_CYCLES": "10000000"}, LONG_TIME_LIMIT_S)


def run(
    command: list[str],
    tmp_path: Path,
    env: Mapping[str, str] | None = None,
    time_limit_s: int = TIME_LIMIT_S,
) -> None:
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **SANITIZERS, **(env or {})},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=time_limit_s,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"[-8000:]


def test_there_are_programs() -> None:
    assert PROGRAMS
