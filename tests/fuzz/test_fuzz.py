"""Every fuzz target for a few seconds under ASan and UBSan, from the same seed every time.

VHOSTNVME_FUZZ_SECONDS and VHOSTNVME_FUZZ_SEED change that; `./run fuzz` searches for longer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests_build import Build, fuzz_build

HERE = Path(__file__).resolve().parent
TARGETS = sorted(path.stem for path in HERE.glob("fuzz_*.c"))
SECONDS = int(os.environ.get("VHOSTNVME_FUZZ_SECONDS", "4"))


@pytest.fixture(scope="session")
def build(top: Path) -> Build:
    if shutil.which("clang") is None:
        pytest.fail("clang is not installed: the fuzz targets need it")
    return fuzz_build(top)


@pytest.mark.timeout(600 + 2 * SECONDS)
@pytest.mark.parametrize("target", TARGETS)
def test_fuzz(build: Build, target: str, tmp_path: Path) -> None:
    path = build.target(f"tests/fuzz/{target}")
    seed = int(os.environ.get("VHOSTNVME_FUZZ_SEED", "1"))
    corpus = [str(tmp_path / "new")]
    (tmp_path / "new").mkdir()
    if (HERE / "corpus" / target).is_dir():
        corpus.append(str(HERE / "corpus" / target))
    command = [
        str(path),
        f"-seed={seed}",
        f"-max_total_time={SECONDS}",
        "-timeout=30",
        "-len_control=20",
        "-max_len=2048",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={tmp_path}/",
        *corpus,
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS + 60,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}{done.stderr}"[-8000:]
