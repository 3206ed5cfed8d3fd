"""Every C test program, under ASan and UBSan, as a pytest case of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests_build import Build

HERE = Path(__file__).resolve().parent
PROGRAMS = sorted(path.stem for path in HERE.glob("test_*.c"))
TIME_LIMIT_S = 110

# A program that leaks, or does what C does not define, has failed.
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:strict_string_checks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
}


@pytest.fixture(scope="session")
def build(top: Path) -> Build:
    return Build(top, "asan", ["-Db_sanitize=address,undefined", "-Db_lundef=false"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", PROGRAMS)
def test_c(build: Build, program: str, tmp_path: Path) -> None:
    path = build.target(f"tests/c/{program}")
    done = subprocess.run(
        [path],
        cwd=tmp_path,
        env={**os.environ, **SANITIZERS},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"[-8000:]


def test_there_are_programs() -> None:
    assert PROGRAMS
