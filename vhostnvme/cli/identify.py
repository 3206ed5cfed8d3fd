"""`vhostnvme identify`: what a controller and its namespaces say of themselves."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from vhostnvme.cli import arguments

if TYPE_CHECKING:
    from vhostnvme.inspect.identity import ControllerIdentity, NamespaceIdentity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="a vfio-user socket, or its directory, or nvme+tcp://HOST:PORT/SUBNQN[/NSID]",
    )
    parser.add_argument(
        "--nsid", type=arguments.whole_number(1, (1 << 32) - 2), help="only this namespace (all)"
    )
    arguments.add_host(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from vhostnvme.inspect.show import show_identity

    controller, namespaces = _read(args)
    if args.json:
        found = {
            "target": args.target,
            "controller": asdict(controller),
            "namespaces": [asdict(each) for each in namespaces],
        }
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        show_identity(args.target, controller, namespaces)
    return 0


def _read(args: argparse.Namespace) -> tuple[ControllerIdentity, list[NamespaceIdentity]]:
    from dataclasses import replace

    from vhostnvme.inspect.ask import RemoteAsker, SocketAsker
    from vhostnvme.inspect.identity import read_identity
    from vhostnvme.perf.load import find_socket
    from vhostnvme.perf.targets import is_remote, parse_remote_target
    from vhostnvme.storage.disk import remote_options
    from vhostnvme.testing import NvmeHost

    if is_remote(args.target):
        spec, nsid = parse_remote_target(args.target)
        spec = replace(spec, **arguments.given_host(args))
        return read_identity(RemoteAsker(remote_options(spec)), args.nsid or nsid)
    with NvmeHost.connect(find_socket(args.target)) as host:
        host.enable()
        return read_identity(SocketAsker(host), args.nsid)
