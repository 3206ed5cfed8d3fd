"""Whether a block device holds something of others, which must not be overwritten unasked."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from vhostnvme.storage.file_system import read_direct

_LOOK_BYTES = 1 << 20  # at either end: where file systems and partition tables have their marks
_PROBE_S_MAX = 60
_PATHS = "/usr/sbin:/sbin:/usr/bin:/bin"


def foreign_content(path: Path, fd: int, size: int) -> str | None:
    """What is on it, and how to wipe it; None when nothing is.

    Args:
        fd: of the device, open to read.
        size: of the device, in bytes.

    Raises:
        OSError: it cannot be read.
    """
    blkid = shutil.which("blkid", path=f"{os.environ.get('PATH', '')}:{_PATHS}")
    found = _probe(blkid, path) if blkid else None
    if found is None:
        starts = (0, max(0, size - _LOOK_BYTES))
        if not any(any(read_direct(fd, _LOOK_BYTES, start)) for start in starts):
            return None
        return (
            "holds data: if nothing of it is needed, fill its first and last MiB with zeros, or"
            f" all of it with `blkdiscard --zeroout {shlex.quote(str(path))}`"
        )
    if not found:
        return None
    return (
        f"holds {found}: if nothing of it is needed, wipe it with"
        f" `wipefs --all {shlex.quote(str(path))}`"
    )


def _probe(blkid: str, path: Path) -> str | None:
    """What its signatures say, "" when there are none; None when that cannot be told."""
    command = [blkid, "--probe", "--output", "export", str(path)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_S_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 2:
        return ""
    if done.returncode == 8:
        return "signatures of several kinds"
    if done.returncode != 0:
        return None
    values = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if "TYPE" in values:
        return f"a file system or other content ({values['TYPE']})"
    if "PTTYPE" in values:
        return f"a partition table ({values['PTTYPE']})"
    return "a signature"
