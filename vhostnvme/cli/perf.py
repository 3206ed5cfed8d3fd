"""`vhostnvme perf`: puts load on NVMe servers and says how they did."""

from __future__ import annotations

import argparse
import json
import sys

from vhostnvme.cli import arguments

PATTERNS = ("read", "write", "rw", "randread", "randwrite", "randrw")
DOORBELLS = ("auto", "trapped", "sync")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vhostnvme perf`."""
    parser.epilog = "docs/perf.md explains what is measured and how, and the JSON object."
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="a vfio-user socket, or its directory, or nvme+tcp://HOST:PORT/SUBNQN[/NSID];"
        " several are driven in turn by one thread",
    )
    _add_load(parser)
    _add_range(parser)
    _add_host(parser)
    parser.add_argument("--histogram", action="store_true", help="all latencies, with --json")
    parser.add_argument("--json", action="store_true", help="one JSON object, not a table")


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("load")
    group.add_argument(
        "--rw",
        choices=PATTERNS,
        default="randread",
        help="default randread; patterns that write destroy what the namespace holds",
    )
    group.add_argument(
        "--rwmixread",
        "--mix",
        type=int,
        default=50,
        metavar="PERCENT",
        help="reads in rw and randrw (50)",
    )
    group.add_argument("--bs", type=arguments.size, default=4096, help="bytes of one I/O (4K)")
    group.add_argument("--qd", type=int, default=32, help="commands in flight per queue (32)")
    group.add_argument(
        "--queues", type=int, default=1, metavar="N", help="I/O queues of each target (1)"
    )
    group.add_argument("--time", type=float, metavar="S", help="seconds to measure (10)")
    group.add_argument(
        "--io-limit",
        "--ios",
        type=int,
        metavar="N",
        help="end after N commands; with --time after whichever comes first",
    )
    group.add_argument(
        "--warmup",
        "--ramp",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds of load before the measured ones (0)",
    )
    group.add_argument(
        "--rate",
        type=int,
        default=0,
        metavar="IOPS",
        help="start so many a second, of all targets; latency counts from when each was due",
    )
    group.add_argument("--seed", type=int, default=1, help="of the random order and the data (1)")
    group.add_argument(
        "--ceiling",
        nargs="?",
        choices=("thread", "inline"),
        const="thread",
        help="no server: a thread, or the load's own thread, completes everything at once",
    )


def _add_range(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is read and written")
    group.add_argument("--nsid", type=int, default=None, help="namespace (1)")
    group.add_argument("--offset", type=int, default=0, metavar="LBA", help="start of the range")
    group.add_argument(
        "--size", type=arguments.size, default=0, help="length of the range (to the end)"
    )
    group.add_argument("--blocks", type=int, default=0, metavar="N", help="the same in blocks")
    group.add_argument(
        "--fill",
        action="store_true",
        help="write the whole range first, so that reads find data; destroys what it holds",
    )
    group.add_argument(
        "--verify", action="store_true", help="stamp writes, check what is read back"
    )


def _add_host(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("kind of host")
    group.add_argument("--irq", action="store_true", help="sleep on interrupts instead of polling")
    group.add_argument(
        "--shadow", action="store_true", help="use shadow doorbells if there are any"
    )
    group.add_argument(
        "--doorbells",
        choices=DOORBELLS,
        default="auto",
        help="auto: mapped, as polling hosts have them, if the server offers it;"
        " trapped: by posted message; sync: with a reply",
    )
    group.add_argument(
        "--memory",
        type=arguments.size,
        default=0,
        metavar="SIZE",
        help="share at least so much memory with each server (what the load needs)",
    )
    group.add_argument(
        "--regions",
        type=arguments.size,
        default=0,
        metavar="SIZE",
        help="share it in regions of SIZE, at least 32, and spread the buffers over them; 2M is"
        " what hosts with huge pages do (one region)",
    )
    group.add_argument("--cpu", type=int, metavar="N", help="run the load on CPU N only")


def run(args: argparse.Namespace) -> int:
    """Runs the load; 0 when every command succeeded and every block was as written, else 1.

    Raises:
        ConfigError: an argument makes no sense.
        PeerError, ProtocolError, NativeError: a server is not there, misbehaves or refuses.
    """
    from vhostnvme.perf.load import run_load
    from vhostnvme.perf.report import make_report, print_table

    report = make_report(args, run_load(args))
    if args.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        print_table(report)
    bad = report["errors"] or report["stopped"] or (report["verify"] or {}).get("errors")
    return 1 if bad else 0
