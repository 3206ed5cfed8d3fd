"""How the world learns that a server is ready: text or JSON on stdout, and a descriptor."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vhostnvme.emulation.device import Device
from vhostnvme.emulation.drive import EmulatedDrive
from vhostnvme.errors import ConfigError
from vhostnvme.fabric.target import FabricTarget
from vhostnvme.guest.qemu import shared_memory
from vhostnvme.native import Namespace
from vhostnvme.storage.spec import DiskSpec, format_spec
from vhostnvme.units import format_size

_EXAMPLE_MEMORY = "1G"


@dataclass(frozen=True, slots=True)
class Served:
    """What a server has: controllers of a drive, a target, or both."""

    devices: tuple[Device, ...]
    target: FabricTarget | None
    drive: EmulatedDrive | None = None

    @property
    def device(self) -> Device | None:
        """The first controller."""
        return self.devices[0] if self.devices else None


@dataclass(frozen=True, slots=True)
class Announcement:
    """`ready_fd` gets a line and is closed."""

    as_json: bool = False
    ready_fd: int | None = None

    def check(self) -> None:
        """Before anything is started.

        Raises:
            ConfigError: the descriptor is none.
        """
        if self.ready_fd is not None:
            try:
                os.fstat(self.ready_fd)
            except OSError:
                raise ConfigError(f"--ready-fd: {self.ready_fd} is no open descriptor") from None

    def make(self, served: Served, control: Path) -> None:
        if self.as_json:
            text = json.dumps(description(served) | {"control": str(control)})
        else:
            text = "\n".join(_for_people(served))
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        self.tell_ready()

    def tell_ready(self) -> None:
        """To whoever waits at the descriptor, if anybody does."""
        if self.ready_fd is not None:
            os.write(self.ready_fd, b"ready\n")
            os.close(self.ready_fd)


def description(served: Served) -> dict[str, Any]:
    """What `--json` prints: the keys of a device, those of a target, or both."""
    described: dict[str, Any] = {}
    if served.target is not None:
        described |= _describe_target(served.target)
    if served.device is not None:
        described |= {
            "socket": str(served.device.socket),
            "qemu_args": served.device.qemu_arguments(),
            "qemu_memory_args": _memory_arguments(),
            "namespaces": [_describe_namespace(*disk) for disk in served.device.disks()],
            "controllers": [
                {
                    "number": device.options.number,
                    "socket": str(device.socket),
                    "qemu_args": device.qemu_arguments(),
                    "nsids": sorted(device.nsids()),
                }
                for device in served.devices
            ],
        }
    return described


def _describe_target(target: FabricTarget) -> dict[str, Any]:
    subsystems = [
        {
            "subnqn": options.nqn,
            "serial": target.serial(options),
            "any_host": options.any_host,
            "allowed_hosts": [host.nqn for host in options.hosts],
            "namespaces": [_describe_namespace(*disk) for disk in target.disks(options.nqn)],
        }
        for options in target.options.subsystems
    ]
    return {
        "listeners": [
            {"address": each.address.host, "port": each.address.port, "tls": each.tls}
            for each in target.listeners
        ],
        "subnqn": subsystems[0]["subnqn"],
        "namespaces": subsystems[0]["namespaces"],
        "subsystems": subsystems,
    }


def _describe_namespace(nsid: int, spec: DiskSpec, namespace: Namespace) -> dict[str, Any]:
    info = namespace.info()
    return {
        "nsid": nsid,
        "uuid": str(info.uuid),
        "size": info.size,
        "block_size": info.block_size,
        "spec": format_spec(spec),
    }


def _for_people(served: Served) -> list[str]:
    lines: list[str] = []
    if served.device is not None:
        lines += [f"listening on {device.socket}" for device in served.devices]
        lines += [_namespace_line(*disk) for disk in served.device.disks()]
    if served.target is not None:
        lines += _target_lines(served.target)
    if served.device is not None:
        lines += [
            f"QEMU options for it (memory of {_EXAMPLE_MEMORY} as an example; it must be shared):",
            "  " + shlex.join(_memory_arguments()),
            *("  " + shlex.join(device.qemu_arguments()) for device in served.devices),
        ]
    return lines


def _target_lines(target: FabricTarget) -> list[str]:
    lines = [
        f"listening on {each.address} (NVMe/TCP{', TLS' if each.tls else ''})"
        for each in target.listeners
    ]
    for options in target.options.subsystems:
        lines.append(f"subsystem {options.nqn}")
        lines += [_namespace_line(*disk) for disk in target.disks(options.nqn)]
    first = target.listeners[0]
    command = ["nvme", "connect", "-t", "tcp", "-a", first.address.host]
    command += ["-s", str(first.address.port), "-n", target.options.subsystems[0].nqn]
    if first.tls:
        command.append("--tls")
    return [*lines, "a Linux host that may connect does it with:", "  " + shlex.join(command)]


def _namespace_line(nsid: int, spec: DiskSpec, namespace: Namespace) -> str:
    info = namespace.info()
    return (
        f"  namespace {nsid}: {format_size(info.size)}, blocks of {info.block_size} bytes,"
        f" {format_spec(spec)}"
    )


def _memory_arguments() -> list[str]:
    return [*shared_memory(_EXAMPLE_MEMORY), "-machine", "memory-backend=mem"]
