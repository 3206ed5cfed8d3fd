"""`vhostnvme demo`: everything end to end, in about a minute."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file",
        type=Path,
        metavar="PATH",
        help="put the disk in this new file and keep it (default: a temporary one)",
    )


def run(args: argparse.Namespace) -> int:
    from vhostnvme.emulation.demo import demo

    return demo(args.file)
