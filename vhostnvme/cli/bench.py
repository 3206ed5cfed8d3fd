"""`vhostnvme bench`: this program beside QEMU's own devices."""

from __future__ import annotations

import argparse
from pathlib import Path

from vhostnvme.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Writes bench.json and bench.png into the output folder. Ratios of one run count;"
        " absolute figures depend on the machine."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("bench-output"),
        metavar="FOLDER",
        help="where JSON and picture go (default: bench-output)",
    )
    parser.add_argument(
        "--rounds",
        type=arguments.whole_number(1, 100),
        default=3,
        metavar="N",
        help="how often every disk has its turn (default: 3)",
    )
    parser.add_argument(
        "--time",
        type=arguments.whole_number(1, 600),
        default=3,
        metavar="S",
        help="seconds of each fio run (default: 3)",
    )
    parser.add_argument(
        "--depths",
        default="1,4,32",
        metavar="N,N",
        help="queue depths (default: 1,4,32)",
    )
    parser.add_argument(
        "--patterns",
        default="randread,randwrite",
        metavar="RW,RW",
        help="fio's names of access patterns (default: randread,randwrite)",
    )
    parser.add_argument(
        "--backings",
        default="disk,ram",
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
        metavar="NAME,NAME",
        help="only these (default: all; the first is always vhostnvme)",
    )
    parser.add_argument("--poll-us", type=arguments.whole_number(0, 1_000_000), metavar="N")


def run(args: argparse.Namespace) -> int:
    from vhostnvme.bench.run import BenchOptions, bench

    return bench(
        BenchOptions(
            output=args.output,
            rounds=args.rounds,
            seconds=args.time,
            depths=tuple(int(depth) for depth in args.depths.split(",")),
            patterns=tuple(args.patterns.split(",")),
            backings=tuple(args.backings.split(",")),
            folder=args.folder,
            contestants=tuple(args.contestants.split(",")) if args.contestants else None,
            poll_us=args.poll_us,
        )
    )
