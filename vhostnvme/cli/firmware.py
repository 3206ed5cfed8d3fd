"""`vhostnvme firmware`: images for `nvme fw-download` to emulated SSDs."""

from __future__ import annotations

import argparse
from pathlib import Path

from vhostnvme.emulation.firmware import firmware_image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    make = verbs.add_parser("make", help="write an image with a revision", allow_abbrev=False)
    make.add_argument("--revision", required=True, help="1 to 8 characters")
    make.add_argument("file", metavar="FILE", type=Path)


def run(args: argparse.Namespace) -> int:
    args.file.write_bytes(firmware_image(args.revision))
    return 0
