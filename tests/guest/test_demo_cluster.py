"""`vhostnvme demo-cluster` as it is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def test_a_vm_of_a_full_card_gets_its_disk_from_a_peer_and_gives_it_back() -> None:
    with tempfile.TemporaryDirectory(prefix="vn-", dir="/var/tmp") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "vhostnvme", "demo-cluster"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "TMPDIR": folder},
        )
        assert list(Path(folder).iterdir()) == []
        assert processes_of(folder) == []
    assert done.returncode == 0, done.stderr
    rows = [line.replace("│", " ").split() for line in done.stdout.splitlines()]
    assert [row[1:] for row in rows if "vm1" in row[2:3]] == [
        ["1G", "vm1", "b", "-", "a/ssd0", "(remote)", "-"]
    ]
    assert ["a", "ssd0", "1280M", "1280M", "256M", "1280M"] in rows
    assert "120M verified, 0 errors" in done.stdout


def processes_of(folder: str) -> list[bytes]:
    """The command lines of processes that were started with a file in this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue  # it has ended
        if folder.encode() in words:
            found.append(words)
    return found
