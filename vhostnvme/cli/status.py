"""`vhostnvme status`: what a running server does: state, counters and limits."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhostnvme.control.device import DeviceStatus, LimitStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", type=Path, metavar="SOCKET|DIR", help="the server's socket, or its folder"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    import msgspec

    from vhostnvme.control.client import call
    from vhostnvme.control.device import STATUS, DeviceStatus, NoParams
    from vhostnvme.control.paths import find_control

    status = call(find_control(args.target), STATUS, NoParams(), DeviceStatus)
    text = msgspec.json.encode(status).decode() if args.json else _for_people(status)
    sys.stdout.write(text + "\n")
    return 0


def _for_people(status: DeviceStatus) -> str:
    from vhostnvme.units import format_size

    lines = [
        f"{status.socket}: {status.state}, serial number {status.serial}",
        f"  {status.doorbells} doorbells{', shadowed' if status.shadow_doorbells else ''},"
        f" {status.submission_queues} I/O queues, {status.inflight} commands in flight",
        f"  {status.commands} I/O commands, {status.admin_commands} admin commands,"
        f" {status.errors} errors, {status.interrupts} interrupts",
        f"  limits: {_limits(status.limited)}",
    ]
    for one in status.namespaces:
        lines += [
            f"namespace {one.nsid}: {format_size(one.size)}, {one.spec}",
            f"  {one.reads} reads of {one.read_bytes} bytes, {one.writes} writes of"
            f" {one.write_bytes} bytes, {one.flushes} flushes, {one.errors} errors",
            f"  limits: {_limits(one.limited)}",
        ]
    return "\n".join(lines)


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
