"""`vhostnvme status`: what a running server does: state, counters and limits."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vhostnvme.control.device import DeviceStatus, LimitStatus, NamespaceStatus
    from vhostnvme.control.target import ServerStatus, TargetStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        type=Path,
        metavar="SOCKET|DIR|HOST:PORT",
        help="the server's socket, its folder, or the first address that it listens on",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from vhostnvme.control.client import call
    from vhostnvme.control.device import NoParams
    from vhostnvme.control.paths import find_control
    from vhostnvme.control.target import SERVER_STATUS, ServerStatus

    status = call(find_control(args.target), SERVER_STATUS, NoParams(), ServerStatus)
    text = json.dumps(_as_object(status)) if args.json else "\n".join(_for_people(status))
    sys.stdout.write(text + "\n")
    return 0


def _as_object(status: ServerStatus) -> dict[str, Any]:
    """The device's keys, if there is one, and `target`."""
    import msgspec

    device = msgspec.to_builtins(status.device) if status.device else {}
    others = msgspec.to_builtins(status.others)
    return device | {"others": others, "target": msgspec.to_builtins(status.target)}


def _for_people(status: ServerStatus) -> list[str]:
    lines = _of_device(status.device) if status.device else []
    for other in status.others:
        lines += _of_device(other, with_namespaces=False)
    return lines + (_of_target(status.target, status.device is None) if status.target else [])


def _of_device(status: DeviceStatus, *, with_namespaces: bool = True) -> list[str]:
    lines = [
        f"{status.socket}: {status.state}, serial number {status.serial}",
        f"  {status.doorbells} doorbells{', shadowed' if status.shadow_doorbells else ''},"
        f" {status.submission_queues} I/O queues, {status.inflight} commands in flight",
        f"  {status.commands} I/O commands, {status.admin_commands} admin commands,"
        f" {status.errors} errors, {status.interrupts} interrupts",
        f"  limits: {_limits(status.limited)}",
    ]
    for one in status.namespaces if with_namespaces else ():
        lines += _of_namespace(one)
    return lines


def _of_target(status: TargetStatus, with_namespaces: bool) -> list[str]:
    """The namespaces only when no device has shown the same ones already."""
    lines = []
    for each in status.listeners:
        host = f"[{each.address}]" if ":" in each.address else each.address
        lines.append(f"{host}:{each.port}: listening{', TLS' if each.tls else ''}")
    lines += [
        f"  {status.connections} connections, {status.half_open} of them half open;"
        f" {status.accepted} accepted, {status.refused} refused",
        f"  {status.commands} commands, {status.errors} errors, {status.read_bytes} bytes read,"
        f" {status.write_bytes} bytes written",
    ]
    for subsystem in status.subsystems:
        allowed = "any host" if subsystem.any_host else ", ".join(subsystem.allowed_hosts)
        lines.append(f"subsystem {subsystem.subnqn}: for {allowed or 'nobody'}")
        for namespace in subsystem.namespaces if with_namespaces else ():
            lines += _of_namespace(namespace)
    for one in status.hosts:
        lines += [
            f"host {one.hostnqn} from {one.address}{', TLS' if one.tls else ''}"
            f"{', authenticated' if one.authenticated else ''}",
            f"  {one.queues} I/O queues of {one.subnqn},"
            f" {one.commands} commands in {one.seconds} s",
        ]
    return lines


def _of_namespace(one: NamespaceStatus) -> list[str]:
    from vhostnvme.units import format_size

    return [
        f"namespace {one.nsid}: {format_size(one.size)}, {one.spec}",
        f"  {one.reads} reads of {one.read_bytes} bytes, {one.writes} writes of"
        f" {one.write_bytes} bytes, {one.flushes} flushes, {one.errors} errors",
        f"  limits: {_limits(one.limited)}",
    ]


def _limits(limited: LimitStatus) -> str:
    from vhostnvme.limits import format_limits

    text = format_limits(limited.limits)
    if limited.throttled:
        seconds = limited.waited_ns / 1e9
        text += (
            f"; {limited.waiting} commands wait, {limited.throttled} had to,"
            f" for {seconds / limited.throttled * 1000:.3g} ms each"
        )
    return text
