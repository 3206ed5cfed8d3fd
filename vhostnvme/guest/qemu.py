"""QEMU's binary and its command line.

Pure: nothing here starts a process, but for QemuBinary.probe(), which asks a binary what it is.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vhostnvme.errors import ProvisionError

VFIO_USER_DEVICE = "vfio-user-pci"
OLDEST_VERSION = "10.1"
PROBE_TIME_LIMIT_S = 30

# What makes a guest boot quickly; see docs of each in the kernel's kernel-parameters.txt.
KERNEL_ARGUMENTS = (
    "console=ttyS0",
    "quiet",
    "panic=0",
    "nokaslr",
    "mitigations=off",
    "tsc=reliable",
    "no_timer_check",
    "random.trust_cpu=on",
    "cryptomgr.notests",
    "rcupdate.rcu_expedited=1",
    "8250.nr_uarts=1",
    # Half a second of signature checks on built-in keys that nothing here uses.
    "initcall_blacklist=load_system_certificate_list",
)


@dataclass(frozen=True)
class QemuBinary:
    """How to start one QEMU: the words before its options, and where its firmware lies."""

    command: tuple[str, ...]
    firmware: tuple[Path, ...] = ()
    version: str = ""

    def start(self) -> list[str]:
        words = list(self.command)
        for folder in self.firmware:
            words += ["-L", str(folder)]
        return words

    @classmethod
    def probe(cls, command: Sequence[str], firmware: Sequence[Path] = ()) -> QemuBinary:
        """Asks a binary for its version and whether it has the vfio-user device.

        Raises ProvisionError when it cannot be run or is too old.
        """
        name = command[-1]
        version = _ask([*command, "--version"], name)
        match = re.search(r"version (\d+(?:\.\d+)+)", version)
        number = match.group(1) if match else "unknown"
        if f'"{VFIO_USER_DEVICE}"' not in _ask([*command, "-device", "help"], name):
            raise ProvisionError(
                f"{name} is QEMU {number} and has no {VFIO_USER_DEVICE} device:"
                f" {OLDEST_VERSION} or newer is needed; unset VHOSTNVME_QEMU to have one fetched."
            )
        return cls(tuple(command), tuple(firmware), number)


def _ask(command: Sequence[str], name: str) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=PROBE_TIME_LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProvisionError(
            f"{name} cannot be run ({error}): check VHOSTNVME_QEMU or reinstall QEMU."
        ) from None
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ProvisionError(
            f"{name} cannot be run ({words[0]}): check VHOSTNVME_QEMU or reinstall QEMU."
        )
    return done.stdout


@dataclass(frozen=True)
class MachineOptions:
    """What a guest's machine is made of. Sizes as QEMU takes them: 512M, 2G."""

    memory: str = "1G"
    cpus: int = 2
    accel: str = "tcg"
    disks: tuple[Path, ...] = ()
    network: bool = True
    # -netdev user's own words, e.g. "hostfwd=tcp:127.0.0.1:5555-:4420".
    network_options: tuple[str, ...] = ()
    firmware: str = "qboot"
    kernel_arguments: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wiring:
    """File descriptors that QEMU inherits: one end each of a socket pair."""

    qmp: int
    agent: int
    console: int


@dataclass(frozen=True)
class BootFiles:
    kernel: Path
    initramfs: Path


def vfio_user_device(socket: Path | str, **properties: str | int | bool) -> list[str]:
    """The words that attach a vfio-user socket; its socket property needs -device's JSON form."""
    device = {
        "driver": VFIO_USER_DEVICE,
        "socket": {"type": "unix", "path": str(socket)},
        **properties,
    }
    return ["-device", json.dumps(device, separators=(",", ":"))]


def shared_memory(size: str) -> list[str]:
    """The words for guest memory that a vfio-user server can see."""
    return [
        "-object",
        f"memory-backend-memfd,id=mem,share=on,size={size}",
        "-m",
        size,
    ]


def attach_arguments(socket: Path | str, *, memory: str = "1G") -> list[str]:
    """What a user adds to an own QEMU command line to attach a served disk."""
    return [
        *shared_memory(memory),
        "-machine",
        "q35,memory-backend=mem",
        *vfio_user_device(socket),
    ]


def command_line(
    qemu: QemuBinary, files: BootFiles, options: MachineOptions, wiring: Wiring
) -> list[str]:
    """The whole command for a guest of ours."""
    accel = "kvm" if options.accel == "kvm" else "tcg,thread=multi"
    kernel_arguments = [*KERNEL_ARGUMENTS, *options.kernel_arguments]
    if options.network:
        kernel_arguments.append("vhostnvme.net=on")
    words = [
        *qemu.start(),
        "-name",
        "vhostnvme,debug-threads=on",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        "q35,memory-backend=mem,hpet=off,graphics=off,vmport=off",
        "-accel",
        accel,
        "-cpu",
        "host" if options.accel == "kvm" else "max",
        "-smp",
        str(options.cpus),
        *shared_memory(options.memory),
        "-kernel",
        str(files.kernel),
        "-initrd",
        str(files.initramfs),
        "-append",
        " ".join(kernel_arguments),
        "-chardev",
        f"socket,id=qmp,fd={wiring.qmp}",
        "-mon",
        "chardev=qmp,mode=control",
        "-chardev",
        f"socket,id=console,fd={wiring.console}",
        "-serial",
        "chardev:console",
        "-device",
        "virtio-serial-pci,id=agent-bus,max_ports=2",
        "-chardev",
        f"socket,id=agent,fd={wiring.agent}",
        "-device",
        "virtserialport,chardev=agent,name=org.vhostnvme.agent",
    ]
    if options.firmware == "qboot":
        words += ["-bios", "qboot.rom"]
    if options.network:
        netdev = ",".join(["user,id=net0,ipv6=off", *options.network_options])
        words += ["-netdev", netdev, "-device", "virtio-net-pci,netdev=net0,romfile="]
    for disk in options.disks:
        words += vfio_user_device(disk)
    words += options.extra
    return words
