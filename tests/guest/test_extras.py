"""Folders and whole Debian packages of the user's, in the guest for one boot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests_guest import boot

SUITE = """#!/usr/bin/bash
set -e
here=${BASH_SOURCE[0]%/*}
[[ $(cat "$here/data/answer") == 42 ]] && echo "a suite of one test"
python3 -c 'import json, unittest; print(json.dumps(["python", 3]))'
exit 5
"""


def test_a_suite_is_dropped_in_and_run(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    (suite / "data").mkdir(parents=True)
    (suite / "data" / "answer").write_text("42\n")
    (suite / "run").write_text(SUITE)
    (suite / "run").chmod(0o755)
    done = boot(
        *("--with", str(suite), "--with", f"{suite}/data:/opt/more", "--with-package", "bash"),
        *("--with-package", "python3", "--disk", "null:64M"),
        *("--exec", "cmp suite/data/answer /opt/more/answer && suite/run"),
    )
    assert done.returncode == 5, done.stderr
    assert done.stdout.splitlines() == ["a suite of one test", '["python", 3]']


def test_a_folder_that_is_not_there_is_told_before_the_boot() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vhostnvme", "boot", "--with", "/nowhere", "--exec", "true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "/nowhere is not a folder" in done.stderr
    assert "booting" not in done.stderr
