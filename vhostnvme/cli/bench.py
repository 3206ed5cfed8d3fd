"""`vhostnvme bench`: this program beside QEMU's own devices, and beside fio on the host."""

from __future__ import annotations

import argparse
from pathlib import Path

from vhostnvme.cli import arguments

QUICK_DEPTHS = (1, 32)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Writes bench.json and pictures into the output folder. Ratios of one run count;"
        " absolute figures depend on the machine."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("bench-output"),
        metavar="FOLDER",
        help="where JSON and pictures go (default: bench-output)",
    )
    parser.add_argument(
        "--sections",
        type=words,
        default=("guest", "host", "engine", "scaling", "tcp"),
        metavar="NAME,NAME",
        help="guest: beside QEMU's disks; host: beside fio; engine: mem and null;"
        " scaling: many devices; tcp: beside local access and bare TCP (default: all)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one round, depths 1 and 32: a first look"
    )
    parser.add_argument(
        "--rounds",
        type=arguments.whole_number(1, 100),
        metavar="N",
        help="how often each has its turn (default: 3)",
    )
    parser.add_argument(
        "--seconds",
        type=arguments.seconds,
        default=1.0,
        metavar="S",
        help="of each run, after its warm-up (default: 1)",
    )
    parser.add_argument(
        "--depths",
        type=numbers,
        metavar="N,N",
        help="queue depths (default: 1,32 in the guest, 1,32,128 elsewhere)",
    )
    parser.add_argument(
        "--patterns",
        type=words,
        default=("randread", "randwrite"),
        metavar="RW,RW",
        help="fio's names of access patterns in the guest (default: randread,randwrite)",
    )
    parser.add_argument(
        "--backings",
        type=words,
        default=("disk", "ram"),
        metavar="KIND,KIND",
        help="where the files lie: disk (--folder), ram (/dev/shm), or both (default)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="FOLDER",
        help="where the files on disk go (default: a temporary folder in $TMPDIR or /var/tmp)",
    )
    parser.add_argument(
        "--contestants",
        type=words,
        metavar="NAME,NAME",
        help="only these in the guest; vhostnvme always takes part (default: all but"
        " 'vhostnvme mapped')",
    )
    parser.add_argument(
        "--poll-us",
        type=arguments.whole_number(0, 1_000_000),
        metavar="N",
        help="as of serve, for our server in the guest section",
    )


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    return tuple(arguments.whole_number(1, 1024)(word) for word in words(text))


def run(args: argparse.Namespace) -> int:
    from vhostnvme.bench.run import BenchOptions, bench

    return bench(
        BenchOptions(
            output=args.output,
            sections=args.sections,
            rounds=args.rounds or (1 if args.quick else 3),
            seconds=args.seconds,
            depths=args.depths or (QUICK_DEPTHS if args.quick else None),
            patterns=args.patterns,
            backings=args.backings,
            folder=args.folder,
            contestants=args.contestants,
            poll_us=args.poll_us,
        )
    )
