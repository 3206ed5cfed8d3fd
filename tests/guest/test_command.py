"""`vhostnvme boot` as people use it: a process of its own, its output, its exit code, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_guest import boot, boot_command

WRITE_FILES = """
set -e
mkfs.ext4 -q -F /dev/nvme0n1
mount /dev/nvme0n1 /mnt
mkdir -p /mnt/a/b
for i in 1 2 3 4 5; do head -c 3000017 /dev/urandom >/mnt/a/b/file$i; done
sync
cd /mnt
sha256sum a/b/* >/mnt/sums
sync
cat /mnt/sums
cat /sys/block/nvme0n1/wwid
printf 'found at block %d\\n' 4711 | dd of=/dev/nvme1n1 bs=512 seek=4711 conv=sync oflag=direct
printf 'and of %d too\\n' 4096 | dd of=/dev/nvme2n1 bs=4096 seek=4711 conv=sync oflag=direct
"""
READ_FILES = """
fsck.ext4 -f -n /dev/nvme0n1 >&2 || exit 1
mount /dev/nvme0n1 /mnt && cd /mnt && sha256sum -c sums >&2 || exit 2
cat sums
cat /sys/block/nvme0n1/wwid
exit 37
"""


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """$TMPDIR of the command: nothing may be left in it."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def test_files_survive_from_one_boot_to_the_next(tmp_path: Path, temporary: Path) -> None:
    environment = {"TMPDIR": str(temporary)}
    disks = ["--disk", "file:d.img?size=512M", "--disk", "file:raw.img?size=64M"]
    disks += ["--disk", "file:raw4k.img?size=64M&block=4096"]
    first = boot(*disks, "--exec", WRITE_FILES, cwd=tmp_path, env=environment)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("a/b/file") == 5

    # What the guest wrote is where it should be in the host's files.
    with (tmp_path / "raw.img").open("rb") as raw:
        raw.seek(4711 * 512)
        assert raw.read(512) == b"found at block 4711\n".ljust(512, b"\0")
    with (tmp_path / "raw4k.img").open("rb") as raw:
        raw.seek(4711 * 4096)
        assert raw.read(4096) == b"and of 4096 too\n".ljust(4096, b"\0")

    words = ["--disk", "file:d.img", "--json", "report.json", "--exec", READ_FILES]
    second = boot(*words, cwd=tmp_path, env=environment)
    assert second.returncode == 37, second.stderr
    assert second.stdout == first.stdout  # the checksums, and the disk's identity
    assert second.stderr.count(": OK") == 5
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["exit_code"] == 37
    assert report["command"] == READ_FILES
    assert report["error"] is None
    assert report["accel"] in ("kvm", "tcg")
    assert 0 < report["boot_seconds"] < 180
    assert 0 < report["run_seconds"] < 180
    (disk,) = report["disks"]
    (namespace,) = disk["namespaces"]
    assert (namespace["size"], namespace["block_size"]) == (512 << 20, 512)
    assert f"uuid.{namespace['uuid']}" in second.stdout


def test_a_timeout_ends_it_with_one_sentence(tmp_path: Path, temporary: Path) -> None:
    started = time.monotonic()
    words = ["--disk", "mem:16M", "--timeout", "2", "--json", "report.json", "--exec", "sleep 1000"]
    done = boot(*words, cwd=tmp_path, env={"TMPDIR": str(temporary)})
    assert done.returncode == 1
    assert time.monotonic() - started < 60
    assert "not done within 2 s" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["exit_code"] == 1
    assert "not done within 2 s" in report["error"]


def qemus_of(pid: int) -> list[int]:
    """The QEMU processes that a process has started."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            if b"-nodefaults" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


@pytest.mark.parametrize("when", ["while it boots", "while the command runs"])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, temporary: Path, when: str) -> None:
    words = boot_command("--disk", "file:d.img?size=64M", "--exec", "echo running; sleep 1000")
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if when == "while it boots":
            deadline = time.monotonic() + 60
            while not qemus_of(process.pid):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(0.5)
        else:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
        (qemu,) = qemus_of(process.pid)
        assert list(temporary.glob("*/0/cntrl"))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode in (1, 130)
    assert "Traceback" not in errors
    assert not Path(f"/proc/{qemu}").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.img", "tmp"]
