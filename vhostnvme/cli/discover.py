"""`vhostnvme discover`: what an NVMe/TCP discovery service has to offer."""

from __future__ import annotations

import argparse
import json
import sys

from vhostnvme.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", type=arguments.address, metavar="HOST:PORT")
    arguments.add_host(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from vhostnvme.fabric.nqn import DISCOVERY_NQN
    from vhostnvme.inspect.ask import RemoteAsker
    from vhostnvme.inspect.discovery import read_discovery_log
    from vhostnvme.inspect.show import show_discovery
    from vhostnvme.storage.disk import remote_options
    from vhostnvme.storage.remote import RemoteSpec

    spec = RemoteSpec(
        paths=(args.address,), subnqn=DISCOVERY_NQN, nsid=1, **arguments.given_host(args)
    )
    log = read_discovery_log(RemoteAsker(remote_options(spec)))
    if args.json:
        sys.stdout.write(json.dumps(asdict(log)) + "\n")
    else:
        show_discovery(str(args.address), log)
    return 0
