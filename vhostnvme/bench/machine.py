"""What a benchmark ran on: without it its figures say nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PROBE_TIMEOUT_S = 30


def describe(folders: dict[str, Path]) -> dict[str, object]:
    """The machine as bench.json has it; `folders` maps a backing's name to where its files lie."""
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "file_systems": {name: file_system_of(folder) for name, folder in folders.items()},
        "versions": {
            "vhostnvme": _own_version(),
            "fio": _version_of("fio"),
            "python": platform.python_version(),
        },
    }


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What others did to this machine meanwhile, in processor cores on average.

    Attributes:
        others_cores: CPU time of processes that are not ours, and of the kernel's own threads.
        stolen_cores: what the hypervisor gave to other machines.
    """

    others_cores: float
    stolen_cores: float


@contextmanager
def watch(notes: dict[str, Disturbance], section: str) -> Iterator[None]:
    """Notes the disturbance of a section whose processes have all ended when it ends."""
    began, (busy, stolen), own = time.monotonic(), _machine_cpu_s(), _own_cpu_s()
    try:
        yield
    finally:
        seconds = max(time.monotonic() - began, 1e-3)
        busy_after, stolen_after = _machine_cpu_s()
        others = (busy_after - busy) - (_own_cpu_s() - own)
        notes[section] = Disturbance(max(others, 0.0) / seconds, (stolen_after - stolen) / seconds)


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _machine_cpu_s() -> tuple[float, float]:
    """CPU seconds of all processes since the start, and those stolen from it: proc(5)."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = (int(word) for word in words[1:9])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system) / ticks, steal / ticks


def _own_version() -> str:
    try:
        return metadata.version("vhostnvme")
    except metadata.PackageNotFoundError:
        return "unknown"


def _version_of(program: str) -> str | None:
    path = shutil.which(program)
    if path is None:
        return None
    done = subprocess.run(
        [path, "--version"], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
    )
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


def _field(path: Path, name: str) -> str | None:
    """A value of a file of `name : value` lines; the first one."""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def file_system_of(folder: Path) -> str:
    """The kind of file system that a folder lies on, by the longest mount point above it."""
    resolved = folder.resolve()
    best, kind = -1, "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        words = line.split()
        point = Path(words[1].replace("\\040", " "))
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), words[2]
    return kind
