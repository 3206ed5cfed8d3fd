"""`vhostnvme boot`: a guest with emulated SSDs, for one command or a console."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vhostnvme.cli import arguments
from vhostnvme.storage.spec import DiskSpec

MEMORY_BYTES_MIN = 256 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Without --disk and --ssd the guest gets one scratch disk of 1G, removed at the end. One"
        " controller with three namespaces: --disk mem:1G --namespace mem:1G --namespace"
        " file:d.img?size=1G"
    )
    parser.set_defaults(disks=[])
    parser.add_argument(
        "--disk",
        action=_Disk,
        type=arguments.spec,
        metavar="SPEC",
        help="one more NVMe controller, with this as its namespace 1",
    )
    parser.add_argument(
        "--namespace",
        action=_Namespace,
        type=arguments.spec,
        metavar="SPEC",
        help="one more namespace on the controller of the --disk before",
    )
    parser.add_argument(
        "--ssd",
        type=arguments.ssd,
        action="append",
        default=[],
        metavar="DIR[?capacity=10G]",
        help="a folder that is a whole SSD, whose namespaces the guest may change and which lasts"
        " (docs/nvme-ssd.md); repeatable",
    )
    parser.add_argument(
        "--persona",
        metavar="FILE|NAME",
        help="the SSDs look like that drive: see `vhostnvme persona list` and docs/nvme-ssd.md",
    )
    parser.add_argument(
        "--paths",
        type=arguments.whole_number(1, 16),
        default=1,
        metavar="N",
        help="controllers of each SSD, over which Linux does multipath (default: 1)",
    )
    parser.add_argument(
        "--block",
        type=int,
        choices=[512, 4096],
        default=512,
        help="block size of the scratch disk (a SPEC has block=4096)",
    )
    parser.add_argument(
        "--exec",
        dest="command_line",
        metavar="CMD",
        help="run this shell command as root and exit with its code; default: a console",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.seconds,
        metavar="S",
        help="fail when boot and command together take longer, in seconds",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write boot time, accelerator, disks and exit code to FILE",
    )
    parser.add_argument(
        "--memory",
        type=_memory,
        default="1G",
        metavar="SIZE",
        help="memory of the guest (default: 1G)",
    )
    parser.add_argument(
        "--cpus",
        type=arguments.whole_number(1, 64),
        default=2,
        metavar="N",
        help="processors of the guest (default: 2)",
    )
    parser.add_argument(
        "--with",
        dest="folders",
        action="append",
        default=[],
        metavar="DIR[:PATH]",
        help="put this folder into the guest, as /root/NAME or as the absolute PATH; repeatable",
    )
    parser.add_argument(
        "--with-package",
        dest="packages",
        action="append",
        default=[],
        metavar="NAME",
        help="put this Debian package and all it depends on into the guest; repeatable",
    )


def run(args: argparse.Namespace) -> int:
    from vhostnvme.emulation.boot import BootOptions, boot
    from vhostnvme.guest.extras import GuestFolder
    from vhostnvme.personas import load_persona

    options = BootOptions(
        disks=tuple(tuple(specs) for specs in args.disks),
        ssds=tuple(args.ssd),
        paths=args.paths,
        persona=load_persona(args.persona) if args.persona else None,
        memory=args.memory,
        cpus=args.cpus,
        scratch_block_size=args.block,
        folders=tuple(GuestFolder.parse(text) for text in args.folders),
        packages=tuple(args.packages),
    )
    return boot(
        options,
        command=args.command_line,
        timeout_s=args.timeout,
        report_path=args.json,
    )


class _Disk(argparse.Action):
    """Begins a controller."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        namespace.disks = [*namespace.disks, [values]]


class _Namespace(argparse.Action):
    """Adds to the controller begun last."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        disks: Sequence[list[DiskSpec]] = namespace.disks
        if not disks:
            parser.error("--namespace adds to the controller of a --disk: give the --disk first")
        namespace.disks = [*disks[:-1], [*disks[-1], values]]


def _memory(text: str) -> str:
    size = arguments.size(text)
    if size < MEMORY_BYTES_MIN or size % (1 << 20):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of MiB from 256M on")
    return f"{size >> 20}M"
