"""`vhostnvme limit`: changes the limits of a running server, for all namespaces together or one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vhostnvme.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Limits that are not named stay as they are. Without any, shows those that hold."
    )
    parser.add_argument(
        "target",
        type=Path,
        metavar="SOCKET|DIR|HOST:PORT",
        help="the server's socket, its folder, or the first address that it listens on",
    )
    parser.add_argument(
        "--namespace",
        type=arguments.whole_number(1, 256),
        metavar="N",
        help="of this namespace alone (default: of all together)",
    )
    parser.add_argument(
        "--none", action="store_true", dest="clear", help="lift all limits that are not named"
    )
    arguments.add_limits(parser)
    parser.add_argument("--json", action="store_true", help="print them as a JSON object")


def run(args: argparse.Namespace) -> int:
    import msgspec

    from vhostnvme.control.client import call
    from vhostnvme.control.device import SET_LIMITS, SetLimits
    from vhostnvme.control.paths import find_control
    from vhostnvme.limits import Limits, format_limits

    params = SetLimits(namespace=args.namespace, clear=args.clear, **arguments.given_limits(args))
    limits = call(find_control(args.target), SET_LIMITS, params, Limits)
    text = msgspec.json.encode(limits).decode() if args.json else format_limits(limits)
    sys.stdout.write(text + "\n")
    return 0
