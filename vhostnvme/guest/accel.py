"""Decides between KVM and TCG. That /dev/kvm opens proves nothing: a short trial decides."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vhostnvme.errors import ConfigError
from vhostnvme.guest.debian import cache_dir, fingerprint
from vhostnvme.guest.qemu import QemuBinary

ACCEL_VARIABLE = "VHOSTNVME_ACCEL"
TRIAL_TIME_LIMIT_S = 15
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """For a child before exec: the kernel ends it when this process ends, however that happens."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@dataclass(frozen=True)
class Accel:
    """`name` is kvm or tcg; `reason` is for people."""

    name: str
    reason: str


def choose_accel(qemu: QemuBinary, kernel: Path) -> Accel:
    """Which accelerator to use. $VHOSTNVME_ACCEL (kvm or tcg) overrides."""
    wanted = os.environ.get(ACCEL_VARIABLE, "")
    if wanted not in ("", "kvm", "tcg"):
        raise ConfigError(f"{ACCEL_VARIABLE}={wanted} is not known: set it to kvm or tcg.")
    if wanted:
        return Accel(wanted, f"{ACCEL_VARIABLE} says so")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accel("tcg", "/dev/kvm is missing or not ours to use")
    if not has_virtualisation_flag(Path("/proc/cpuinfo").read_text()):
        return Accel("tcg", "/dev/kvm exists, but the CPU has neither the vmx nor the svm flag")
    if _trial_cached(qemu, kernel):
        return Accel("kvm", "a kernel ran in a short trial")
    return Accel("tcg", "/dev/kvm opens, but a kernel did not run in a short trial")


def has_virtualisation_flag(cpuinfo: str) -> bool:
    for line in cpuinfo.splitlines():
        if line.startswith("flags"):
            return bool({"vmx", "svm"} & set(line.split()))
    return False


def _trial_cached(qemu: QemuBinary, kernel: Path) -> bool:
    """One trial per boot of the host, kernel and QEMU."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    name = fingerprint(boot, " ".join(qemu.command), qemu.version, str(kernel))
    note = cache_dir() / "kvm-trial" / name
    if note.is_file():
        return note.read_text() == "works"
    works = _trial(qemu, kernel)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text("works" if works else "fails")
    return works


def _trial(qemu: QemuBinary, kernel: Path) -> bool:
    """A kernel without a root file system panics and resets: with -no-reboot QEMU then exits."""
    command = [
        *qemu.start(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256M",
        "-kernel", str(kernel), "-append", "quiet panic=-1",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=TRIAL_TIME_LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"KVM internal error" not in done.stderr
